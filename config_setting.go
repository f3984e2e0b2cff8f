package main

// One setting, and the kinds of value a setting can have: the words for -help
// beside the check.

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// minSecretBytes is the least size of JWT_SECRET: the output size of HMAC-SHA256.
const minSecretBytes = 32

// configSetting is one row of the table, bound to its field of one Config.
type configSetting struct {
	name, preset  string // preset: the default, as an operator writes it; "": none
	meaning, unit string
	secret        bool                    // may come from X_FILE
	path          bool                    // ~ at its beginning is the home folder
	set           func(text string) error // checks text and fills the field
}

// settingKind is what a value may look like, in words and in code. The error of
// parse follows the variable's name and a colon, and says what to write; that
// of a secret never quotes it.
type settingKind[T any] struct {
	unit   string
	secret bool
	path   bool
	parse  func(text string) (T, error)
}

func newSetting[T any](name, preset, meaning string, field *T, k settingKind[T]) configSetting {
	return configSetting{
		name: name, preset: preset, meaning: meaning, unit: k.unit, secret: k.secret, path: k.path,
		set: func(text string) error {
			value, err := k.parse(text)
			if err == nil {
				*field = value
			}
			return err
		},
	}
}

func kindText(unit string) settingKind[string] {
	return settingKind[string]{unit: unit, parse: func(text string) (string, error) { return text, nil }}
}

func kindNumber(least, most int) settingKind[int] {
	return settingKind[int]{
		unit: fmt.Sprintf("number, %d to %d", least, most),
		parse: func(text string) (int, error) {
			n, err := strconv.Atoi(text)
			if err != nil || n < least || n > most {
				return 0, fmt.Errorf("want a whole number from %d to %d, not %q", least, most, text)
			}
			return n, nil
		},
	}
}

func kindDuration(least, most time.Duration) settingKind[time.Duration] {
	between := fmt.Sprintf("%s to %s", durationText(least), durationText(most))
	return settingKind[time.Duration]{
		unit: "duration, " + between,
		parse: func(text string) (time.Duration, error) {
			d, err := time.ParseDuration(text)
			if err != nil || d < least || d > most {
				return 0, fmt.Errorf("want a duration such as 90s, 15m or 12h, from %s, not %q", between, text)
			}
			return d, nil
		},
	}
}

// durationText is d without the "0m0s" that String leaves at the end.
func durationText(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

func kindSize(least, most int64) settingKind[int64] {
	between := sizeText(least) + " to " + sizeText(most)
	return settingKind[int64]{
		unit: "bytes, " + between,
		parse: func(text string) (int64, error) {
			number, factor := text, int64(1)
			for _, u := range sizeUnits {
				if cut, ok := strings.CutSuffix(text, u.suffix); ok {
					number, factor = strings.TrimSpace(cut), u.bytes
				}
			}
			n, err := strconv.ParseInt(number, 10, 64)
			if err != nil || n < 0 || n > most/factor || n*factor < least {
				return 0, fmt.Errorf("want bytes such as 1048576, 512KiB or 1MiB, from %s, not %q", between, text)
			}
			return n * factor, nil
		},
	}
}

func sizeText(bytes int64) string {
	for _, u := range sizeUnits {
		if bytes >= u.bytes && bytes%u.bytes == 0 {
			return fmt.Sprintf("%d%s", bytes/u.bytes, u.suffix)
		}
	}
	return fmt.Sprintf("%d bytes", bytes)
}

func kindChoice(words ...string) settingKind[string] {
	return settingKind[string]{
		unit: strings.Join(words, " | "),
		parse: func(text string) (string, error) {
			if !slices.Contains(words, text) {
				return "", fmt.Errorf("want one of %s, not %q", strings.Join(words, ", "), text)
			}
			return text, nil
		},
	}
}

func kindLevel() settingKind[slog.Level] {
	return settingKind[slog.Level]{
		unit: "debug | info | warn | error",
		parse: func(text string) (slog.Level, error) {
			var level slog.Level
			if err := level.UnmarshalText([]byte(text)); err != nil {
				return 0, fmt.Errorf("want debug, info, warn or error, not %q", text)
			}
			return level, nil
		},
	}
}

func kindFolder() settingKind[string] {
	k := kindText("folder")
	k.path = true
	return k
}

// homePath expands a ~ at the beginning of path to the home folder, as shells do.
// What else they would expand is refused, since it would name something else
// here. The error leaves out the path, which may be a secret in the wrong place.
func homePath(path, home string) (string, error) {
	rest, inHome := strings.CutPrefix(path, "~")
	switch {
	case inHome && rest != "" && rest[0] != '/':
		return "", errors.New("~name isn't expanded here: write the whole path")
	case inHome && !filepath.IsAbs(home):
		return "", errors.New("begins with ~, but HOME isn't an absolute path: write the whole path")
	case inHome:
		return filepath.Join(home, rest), nil
	case strings.HasPrefix(path, "$"), strings.HasPrefix(path, "%"):
		return "", errors.New("$HOME, %h and the like aren't expanded here: write the whole path, or ~/ for the home folder")
	}
	return path, nil
}

// kindFile is a file that can be opened.
func kindFile() settingKind[string] {
	return settingKind[string]{
		unit: "PEM file", path: true,
		parse: func(text string) (string, error) {
			f, err := os.Open(text)
			if err != nil {
				return "", err
			}
			return text, f.Close()
		},
	}
}

func kindKey() settingKind[[]byte] {
	return settingKind[[]byte]{
		unit: fmt.Sprintf("secret, at least %d bytes", minSecretBytes), secret: true,
		parse: func(text string) ([]byte, error) {
			if len(text) < minSecretBytes {
				return nil, fmt.Errorf("has %d bytes, but at least %d are needed: use the output of openssl rand -base64 48",
					len(text), minSecretBytes)
			}
			return []byte(text), nil
		},
	}
}

// kindPassword takes any text: the rules depend on the e-mail, so checkTogether applies them.
func kindPassword() settingKind[string] {
	k := kindText("secret, at least 15 characters")
	k.secret = true
	return k
}

// kindEmail has the rules of every account's e-mail, and its normal form.
func kindEmail() settingKind[string] {
	return settingKind[string]{
		unit: "e-mail address",
		parse: func(text string) (string, error) {
			email, ok := normalizeEmail(text)
			if !ok {
				return "", fmt.Errorf("want an e-mail address such as admin@example.com, not %q", text)
			}
			return email, nil
		},
	}
}

var homeInURL = regexp.MustCompile(`\b(host|passfile|servicefile|sslcert|sslkey|sslrootcert)\s*=\s*'?~`)

// kindDatabase hides the driver's reason: its text can hold the password.
func kindDatabase() settingKind[string] {
	return settingKind[string]{
		unit: "postgres://user:password@host:5432/database", secret: true,
		parse: func(text string) (string, error) {
			if !strings.HasPrefix(text, "postgres://") && !strings.HasPrefix(text, "postgresql://") {
				before, _, isPairs := strings.Cut(text, "=")
				if !isPairs || strings.Contains(before, "://") {
					return "", errors.New("want postgres://user:password@host:5432/database")
				}
			}
			if found := homeInURL.FindStringSubmatch(text); found != nil {
				return "", fmt.Errorf("~ isn't expanded in its option %s: write the whole path", found[1])
			}
			if _, err := pgxpool.ParseConfig(text); err != nil {
				return "", errors.New("can't be parsed; want postgres://user:password@host:5432/database: " +
					"percent-encode special characters in the password, and check the options (such as sslmode) and the files " +
					"they name")
			}
			return text, nil
		},
	}
}

func kindHost() settingKind[string] {
	return settingKind[string]{
		unit: "IP address or host name",
		parse: func(text string) (string, error) {
			if !validHost(text) {
				return "", fmt.Errorf("want an IP address or a host name, without port or brackets, not %q", text)
			}
			return text, nil
		},
	}
}

// kindAddr is host:port; an empty host means all interfaces.
func kindAddr() settingKind[string] {
	return settingKind[string]{
		unit: "host:port",
		parse: func(text string) (string, error) {
			host, port, err := net.SplitHostPort(text)
			if err != nil || host != "" && !validHost(host) || !validPort(port) {
				return "", fmt.Errorf("want host:port such as 127.0.0.1:9090, not %q", text)
			}
			return text, nil
		},
	}
}

func validPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && strconv.FormatUint(n, 10) == text
}

// validHost accepts an IP address, or a name that isn't a mistyped IPv4 address.
func validHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return host != "" && len(host) <= 253 && strings.Trim(host, "0123456789.") != "" &&
		!strings.ContainsFunc(host, func(r rune) bool {
			return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(".-_", r))
		})
}

func kindOrigins() settingKind[[]string] {
	return settingKind[[]string]{
		unit: "list such as https://app.example.com,http://localhost:3000",
		parse: func(text string) ([]string, error) {
			var origins []string
			for i, item := range listItems(text) {
				if err := checkOrigin(item); err != nil {
					return nil, fmt.Errorf("entry %d: %w", i+1, err) // not quoted: a URL can hold a password
				}
				origins = append(origins, item)
			}
			return origins, nil
		},
	}
}

// checkOrigin accepts what a browser sends as Origin, byte for byte, since that
// is how it will be compared.
func checkOrigin(text string) error {
	if strings.Contains(text, "*") {
		return errors.New("wildcards aren't supported: list each origin")
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || !strings.EqualFold(u.Scheme+"://"+u.Host, text) {
		return errors.New("want scheme://host or scheme://host:port and nothing after it, such as https://app.example.com")
	}
	host, port := u.Hostname(), u.Port()
	switch {
	case text != strings.ToLower(text):
		return errors.New("write it in lower case, as browsers do")
	case !validHost(host) || strings.HasSuffix(u.Host, ":") || port != "" && !validPort(port):
		return errors.New("has no valid host and port (write an international name in its xn-- form)")
	case u.Scheme == "https" && port == "443", u.Scheme == "http" && port == "80":
		return errors.New("leave out the default port, as browsers do")
	}
	return nil
}

func kindPrefixes() settingKind[[]netip.Prefix] {
	return settingKind[[]netip.Prefix]{
		unit: "list such as 10.0.0.0/8,192.0.2.7,fd00::/8",
		parse: func(text string) ([]netip.Prefix, error) {
			var prefixes []netip.Prefix
			for _, item := range listItems(text) {
				prefix, err := parsePrefix(item)
				if err != nil {
					return nil, err
				}
				prefixes = append(prefixes, prefix)
			}
			return prefixes, nil
		},
	}
}

// parsePrefix reads a CIDR, or an address as the CIDR of it alone.
func parsePrefix(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		addr, addrErr := netip.ParseAddr(text)
		if addrErr != nil || addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("want an address or a CIDR such as 10.0.0.0/8, without a zone, not %q", text)
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	if addr := prefix.Addr(); addr.Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
	}
	return prefix.Masked(), nil
}

// listItems splits at commas and drops white space and empty items.
func listItems(text string) []string {
	var items []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}
