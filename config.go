package main

// Everything an operator can set: the table, and how it is read from the
// environment, from files that hold secrets, and from a .env file.

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"tachikoma/internal/certfile"
	"time"
)

// maxSecretFile is the size limit, in bytes, of a file that an X_FILE names.
const maxSecretFile = 64 << 10

// Config is everything an operator can set. loadConfig reads and checks it once,
// at start; after that it doesn't change. What a field means, its unit and its
// default are in settings, which -help prints. It holds secrets, so it prints
// itself without them.
type Config struct {
	Host string
	Port int // 0: the system picks a free one

	DatabaseURL      string // "": a private Postgres under DataDir
	DatabaseMaxConns int
	DataDir          string // "": see defaultDataDir

	JWTSecret       []byte // nil: made at first start and kept in the database
	AccessTokenTTL  time.Duration
	RefreshTokenTTL time.Duration
	Registration    string // first, open or closed
	AdminEmail      string // set if and only if AdminPassword is
	AdminPassword   string

	LogLevel  slog.Level
	LogFormat string // text or json

	TLSCertFile        string // set if and only if TLSKeyFile is
	TLSKeyFile         string
	InternalAddr       string         // host:port; "": /internal is on the public port
	CORSAllowedOrigins []string       // exact, as a browser writes them
	TrustedProxies     []netip.Prefix // masked; IPv4 never in its IPv6 form

	RequestTimeout time.Duration
	MaxBodyBytes   int64
	MaxImportBytes int64
	RateLimit      int // a minute; 0: off
	AuthRateLimit  int // a minute; 0: off

	LeaseDefault time.Duration // at most LeaseMax
	LeaseMax     time.Duration
	MaxAttempts  int

	EventRetention time.Duration

	WSMaxMessage       int64
	WSQueue            int
	WSPing, WSPong     time.Duration
	WSMaxSubscriptions int
	WSMaxConnections   int
	WSMaxPerAccount    int

	DrainDelay      time.Duration
	ShutdownTimeout time.Duration
}

// settings is the one table of what can be set: name, default, meaning, the
// field of c it fills, and its kind, which has the unit and the check. Parsing,
// -help, X_FILE and the error about unknown names all use it.
func (c *Config) settings() []configSetting {
	return slices.Concat(c.serviceSettings(), c.limitSettings())
}

// serviceSettings are where the server and its data are, and who may use it.
func (c *Config) serviceSettings() []configSetting {
	const day = 24 * time.Hour
	return []configSetting{
		newSetting("HOST", "127.0.0.1", "The address to listen on.", &c.Host, kindHost()),
		newSetting("PORT", "8080", "The port to listen on; 0 picks a free one.", &c.Port, kindNumber(0, math.MaxUint16)),
		newSetting("DATABASE_URL", "", "PostgreSQL 14 or later. Without it the server runs a private one.",
			&c.DatabaseURL, kindDatabase()),
		newSetting("DATABASE_MAX_CONNS", "16", "The maximum number of connections to the database.",
			&c.DatabaseMaxConns, kindNumber(2, 10_000)),
		newSetting("DATA_DIR", "", "Where the private Postgres lives. Default: the user's state folder; "+
			"/var/lib/tachikoma for root.", &c.DataDir, kindFolder()),
		newSetting("JWT_SECRET", "",
			"Signs access tokens. Without it, one is generated at the first start and kept in the database.",
			&c.JWTSecret, kindKey()),
		newSetting("ACCESS_TOKEN_TTL", "15m", "How long an access token is valid.",
			&c.AccessTokenTTL, kindDuration(time.Second, day)),
		newSetting("REFRESH_TOKEN_TTL", "720h", "How long a refresh token is valid; each use returns a new one.",
			&c.RefreshTokenTTL, kindDuration(time.Second, 3650*day)),
		newSetting("REGISTRATION", "first", "Who may register: the first account only (it becomes admin, with the "+
			"setup token from the console unless this machine calls HOST by a loopback name), anybody, or nobody.",
			&c.Registration, kindChoice("first", "open", "closed")),
		newSetting("ADMIN_EMAIL", "",
			"An admin account that is created at the start if it doesn't exist; needs ADMIN_PASSWORD.",
			&c.AdminEmail, kindEmail()),
		newSetting("ADMIN_PASSWORD", "", "The password of ADMIN_EMAIL.", &c.AdminPassword, kindPassword()),
		newSetting("LOG_LEVEL", "info", "The minimum level that is logged.", &c.LogLevel, kindLevel()),
		newSetting("LOG_FORMAT", "text", "The format of log lines.", &c.LogFormat, kindChoice("text", "json")),
		newSetting("TLS_CERT_FILE", "", "Serve HTTPS with this certificate chain; needs TLS_KEY_FILE. A renewed one is "+
			"used without a restart.", &c.TLSCertFile, kindFile()),
		newSetting("TLS_KEY_FILE", "", "The private key of TLS_CERT_FILE.", &c.TLSKeyFile, kindFile()),
		newSetting("INTERNAL_ADDR", "", "Serve all of /internal here, without a credential: keep it private.",
			&c.InternalAddr, kindAddr()),
		newSetting("CORS_ALLOWED_ORIGINS", "", "Web pages that may call the API from a browser.",
			&c.CORSAllowedOrigins, kindOrigins()),
		newSetting("TRUSTED_PROXIES", "", "Proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted.",
			&c.TrustedProxies, kindPrefixes()),
	}
}

// limitSettings are how much there may be of everything, and how long it may take.
func (c *Config) limitSettings() []configSetting {
	return []configSetting{
		newSetting("REQUEST_TIMEOUT", "30s", "How long one request may take; streams and waiting claims can take longer.",
			&c.RequestTimeout, kindDuration(time.Second, time.Hour)),
		newSetting("MAX_BODY_BYTES", "1MiB", "The largest request body, except for imports.",
			&c.MaxBodyBytes, kindSize(1<<10, 1<<30)),
		newSetting("MAX_IMPORT_BYTES", "64MiB", "The largest import, counted after decompression.",
			&c.MaxImportBytes, kindSize(1<<10, 16<<30)),
		newSetting("RATE_LIMIT", "1200", "Requests a minute for each credential, or address without one; as many can "+
			"come at once. 0: off.", &c.RateLimit, kindNumber(0, 10_000_000)),
		newSetting("AUTH_RATE_LIMIT", "10", "Requests a minute on the public auth routes for each address, and failed "+
			"logins for each account. 0: off.", &c.AuthRateLimit, kindNumber(0, 10_000_000)),
		newSetting("LEASE_DEFAULT", "5m", "How long a claim holds a spec, if the agent doesn't say.",
			&c.LeaseDefault, kindDuration(time.Second, 720*time.Hour)),
		newSetting("LEASE_MAX", "4h", "The longest time that a claim can hold a spec.",
			&c.LeaseMax, kindDuration(10*time.Second, 720*time.Hour)),
		newSetting("EVENT_RETENTION", "720h", "How long events are kept.",
			&c.EventRetention, kindDuration(time.Hour, 100*365*24*time.Hour)),
		newSetting("WS_MAX_MESSAGE", "64KiB", "The largest message that a WebSocket client can send.",
			&c.WSMaxMessage, kindSize(1<<10, 16<<20)),
		newSetting("WS_QUEUE", "1000", "How many events can wait for one client, by WebSocket or server-sent events.",
			&c.WSQueue, kindNumber(10, 1_000_000)),
		newSetting("WS_PING", "30s", "Time between pings.", &c.WSPing, kindDuration(time.Second, time.Hour)),
		newSetting("WS_PONG_TIMEOUT", "10s", "Time a client has to answer a ping.",
			&c.WSPong, kindDuration(time.Second, time.Hour)),
		newSetting("WS_MAX_SUBSCRIPTIONS", "100", "The maximum number of subscriptions of one WebSocket.",
			&c.WSMaxSubscriptions, kindNumber(1, 100_000)),
		newSetting("WS_MAX_CONNECTIONS", "10000",
			"The maximum number of WebSockets of this server, and separately of server-sent streams.",
			&c.WSMaxConnections, kindNumber(1, 10_000_000)),
		newSetting("WS_MAX_PER_ACCOUNT", "1000",
			"The maximum number of WebSockets of one account on this server, and separately of server-sent streams.",
			&c.WSMaxPerAccount, kindNumber(1, 10_000_000)),
		newSetting("MAX_ATTEMPTS", "3", "The number of attempts before a spec is blocked.",
			&c.MaxAttempts, kindNumber(1, 1000)),
		newSetting("DRAIN_DELAY", "0s",
			"How long to keep serving after SIGTERM, not ready, so that load balancers notice.",
			&c.DrainDelay, kindDuration(0, time.Hour)),
		newSetting("SHUTDOWN_TIMEOUT", "30s", "How long requests in flight may take to finish after that.",
			&c.ShutdownTimeout, kindDuration(time.Second, time.Hour)),
	}
}

// loadConfig reads every setting from the environment or, where that has
// neither X nor X_FILE, from the .env file at envFile ("" or a missing file:
// none). An empty value counts as not set. The error joins all problems, each
// naming its variable, and never holds a secret; with it, Config is empty.
func loadConfig(getenv func(string) string, envFile string) (Config, error) {
	var c Config
	settings := c.settings()
	file, problems := readEnvFile(envFile, settings)
	good := make(map[string]bool, len(settings)) // what checkTogether may look at
	for _, s := range settings {
		name, text, err := s.lookup(getenv, file)
		if err == nil && text != "" {
			err = s.set(text)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", name, err))
			continue
		}
		good[s.name] = true
	}
	problems = append(problems, c.checkTogether(good)...)
	if len(problems) > 0 {
		return Config{}, errors.Join(problems...)
	}
	return c, nil
}

// checkTogether returns the problems of values that are fine one by one but not
// together. It skips those that need a value that is not in good.
func (c *Config) checkTogether(good map[string]bool) []error {
	var problems []error
	complain := func(text string, args ...any) { problems = append(problems, fmt.Errorf(text, args...)) }
	both := func(a, b string) bool { return good[a] && good[b] }

	if both("ACCESS_TOKEN_TTL", "REFRESH_TOKEN_TTL") && c.AccessTokenTTL > c.RefreshTokenTTL {
		complain("ACCESS_TOKEN_TTL: is longer than REFRESH_TOKEN_TTL (%s): make it shorter", c.RefreshTokenTTL)
	}
	if both("LEASE_DEFAULT", "LEASE_MAX") && c.LeaseDefault > c.LeaseMax {
		complain("LEASE_DEFAULT: is longer than LEASE_MAX (%s): make it shorter, or raise LEASE_MAX", c.LeaseMax)
	}
	if both("ADMIN_EMAIL", "ADMIN_PASSWORD") {
		switch {
		case c.AdminEmail != "" && c.AdminPassword == "":
			complain("ADMIN_PASSWORD: is missing, but ADMIN_EMAIL is set: set both or neither")
		case c.AdminEmail == "" && c.AdminPassword != "":
			complain("ADMIN_EMAIL: is missing, but ADMIN_PASSWORD is set: set both or neither")
		case c.AdminEmail != "":
			var rule violations
			rule.password("ADMIN_PASSWORD", c.AdminEmail, c.AdminPassword)
			for _, broken := range rule.fields {
				complain("%s: %s", broken.Field, broken.Message)
			}
		}
	}
	if both("TLS_CERT_FILE", "TLS_KEY_FILE") {
		switch {
		case c.TLSCertFile != "" && c.TLSKeyFile == "":
			complain("TLS_KEY_FILE: is missing, but TLS_CERT_FILE is set: set both or neither")
		case c.TLSCertFile == "" && c.TLSKeyFile != "":
			complain("TLS_CERT_FILE: is missing, but TLS_KEY_FILE is set: set both or neither")
		case c.TLSCertFile != "":
			if _, err := certfile.LoadPair(c.TLSCertFile, c.TLSKeyFile); err != nil {
				complain("TLS_CERT_FILE and TLS_KEY_FILE: %w", err)
			}
		}
	}
	return problems
}

// defaultDataDir is DATA_DIR when it isn't set: a system folder for root, else
// the user's folder for state.
func defaultDataDir(getenv func(string) string) (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/tachikoma", nil
	}
	if state := getenv("XDG_STATE_HOME"); filepath.IsAbs(state) && runtime.GOOS != "darwin" {
		return filepath.Join(state, "tachikoma"), nil
	}
	home := getenv("HOME")
	if !filepath.IsAbs(home) {
		return "", errors.New("HOME isn't an absolute path, so DATA_DIR has no default: set it, or DATABASE_URL")
	}
	if runtime.GOOS == "darwin" {
		return filepath.Join(home, "Library", "Application Support", "tachikoma"), nil
	}
	return filepath.Join(home, ".local", "state", "tachikoma"), nil
}

// configHelp writes every setting with its default, unit and meaning.
func configHelp(w io.Writer) {
	var b strings.Builder
	b.WriteString("Settings are environment variables or, where those aren't set, lines of a .env file in the\n" +
		"working directory. A duration is written like 90s, 15m or 12h; bytes like 1048576, 512KiB\n" +
		"or 1MiB; the items of a list are separated by commas; a path may begin with ~/.\n")
	for _, s := range new(Config).settings() {
		fmt.Fprintf(&b, "\n  %-32s %s\n", s.name+"="+s.preset, s.unit)
		fmt.Fprintf(&b, "        %s\n", s.meaning)
		if s.secret {
			fmt.Fprintf(&b, "        %s_FILE=<file> reads it from a file instead.\n", s.name)
		}
	}
	io.WriteString(w, b.String())
}

// addr is the public listening address, host:port.
func (c Config) addr() string { return net.JoinHostPort(c.Host, strconv.Itoa(c.Port)) }

// loopback reports whether HOST can only be reached from this machine.
func (c Config) loopback() bool { return loopbackHost(c.Host) }

// loopbackHost reports whether host, a name or an address, is loopback. An
// empty host means all interfaces, so it isn't.
func loopbackHost(host string) bool {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return strings.EqualFold(host, "localhost")
	}
	return addr.Unmap().IsLoopback()
}

// Format and LogValue keep secrets out of whatever prints a Config.
func (Config) Format(f fmt.State, _ rune) { io.WriteString(f, "Config") }
func (Config) LogValue() slog.Value       { return slog.StringValue("Config") }

// lookup returns the text of a setting, or its default, and the name of the
// variable that has it: X or X_FILE. The environment, in either form, overrides
// the .env file.
func (s configSetting) lookup(getenv func(string) string, file envLines) (name, text string, err error) {
	fileName := s.name + "_FILE"
	direct, path := getenv(s.name), ""
	if s.secret {
		path = getenv(fileName)
	}
	if direct == "" && path == "" {
		if direct, err = file.value(s.name); err != nil {
			return s.name, "", err
		}
		if s.secret {
			if path, err = file.value(fileName); err != nil {
				return fileName, "", err
			}
		}
	}
	switch {
	case direct != "" && path != "":
		return s.name, "", fmt.Errorf("is set, and so is %s: keep one", fileName)
	case path != "":
		if path, err = homePath(path, getenv("HOME")); err == nil {
			text, err = readSecretFile(path)
		}
		return fileName, text, err
	case direct != "" && s.path:
		text, err = homePath(direct, getenv("HOME"))
		return s.name, text, err
	case direct != "":
		return s.name, direct, nil
	}
	return s.name, s.preset, nil
}

// readSecretFile reads a secret and drops one newline at its end. The error
// leaves out the path: someone who mixed up X and X_FILE has put the secret there.
func readSecretFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("the file can't be opened: %w", withoutPath(err))
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return "", fmt.Errorf("the file can't be read: %w", withoutPath(err))
	}
	if len(content) > maxSecretFile {
		return "", fmt.Errorf("the file is larger than %s: is it the right one?", sizeText(maxSecretFile))
	}
	text, found := strings.CutSuffix(string(content), "\n")
	if found {
		text = strings.TrimSuffix(text, "\r")
	}
	if text == "" {
		return "", errors.New("the file is empty: write the secret into it")
	}
	return text, nil
}

func withoutPath(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// quotedValue is a value in quotes, with nothing after it but a comment.
var quotedValue = regexp.MustCompile(`^(?:'([^']*)'|"((?:[^"\\]|\\[\\"n])*)")[ \t]*(?:#.*)?$`)

// errBadQuote stops the reading of a .env file: what follows may be the rest of
// a secret, and must not be quoted as something unknown.
var errBadQuote = errors.New(
	`want 'a value as it stands' or "one with \\, \" and \n", and nothing after it but a # comment`)

// envLines maps the names in a .env file to a value or what is wrong with it.
type envLines map[string]envLine

type envLine struct {
	number int
	text   string
	err    error
}

func (lines envLines) value(name string) (string, error) {
	return lines[name].text, lines[name].err
}

// readEnvFile reads the .env file at path; it needn't exist. A problem with the
// value of a setting is kept under its name. A line that belongs to no setting is
// a problem that is returned, since the file is for this server alone.
func readEnvFile(path string, settings []configSetting) (envLines, []error) {
	if path == "" {
		return nil, nil
	}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, []error{fmt.Errorf("%s: can't be read: %w", path, withoutPath(err))}
	}
	known := make(map[string]bool)
	for _, s := range settings {
		known[s.name] = true
		if s.secret {
			known[s.name+"_FILE"] = true
		}
	}
	lines, problems := parseEnv(string(content), known)
	for i, wrong := range problems {
		problems[i] = fmt.Errorf("%s: %w", path, wrong)
	}
	return lines, problems
}

// parseEnv reads lines of the form NAME=value, with an optional export before
// them. Blank lines and those that begin with # are skipped; see envValue for
// the value. A $ has no meaning. A name may occur once.
func parseEnv(content string, known map[string]bool) (envLines, []error) {
	lines := make(envLines)
	var problems []error
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(content, "\ufeff")) {
		number++
		name, text, err := parseEnvLine(line)
		before, twice := lines[name]
		switch {
		case name == "" && err == nil:
			continue
		case name == "":
			problems = append(problems, fmt.Errorf("line %d: %w", number, err))
		case !known[name]:
			problems = append(problems, fmt.Errorf("line %d: %s is not a setting: see tachikoma -help", number, name))
		case twice:
			before.err = fmt.Errorf("set on lines %d and %d of the .env file: keep one", before.number, number)
			lines[name] = before
		case err != nil:
			lines[name] = envLine{number: number, err: fmt.Errorf("line %d of the .env file: %w", number, err)}
		default:
			lines[name] = envLine{number: number, text: text}
		}
		if errors.Is(err, errBadQuote) {
			break
		}
	}
	return lines, problems
}

// parseEnvLine returns an empty name for a line without one. Errors never quote
// the line, which may hold a secret.
func parseEnvLine(line string) (name, text string, err error) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", "", nil
	}
	if rest, ok := strings.CutPrefix(line, "export"); ok && rest != strings.TrimLeft(rest, " \t") {
		line = strings.TrimLeft(rest, " \t")
	}
	name, text, ok := strings.Cut(line, "=")
	name = strings.TrimRight(name, " \t")
	if !ok || !envName(name) {
		return "", "", errors.New("want NAME=value, with the name in capitals")
	}
	text, err = envValue(text)
	return name, text, err
}

// envName reports whether name looks like a variable rather than like a piece
// of a secret.
func envName(name string) bool {
	return name != "" && len(name) <= 64 && 'A' <= name[0] && name[0] <= 'Z' &&
		strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == ""
}

// envValue reads what follows the equals sign: text up to white space and a #,
// or 'literal text', or "text with \\, \" and \n".
func envValue(raw string) (string, error) {
	trimmed := strings.Trim(raw, " \t")
	if trimmed != "" && strings.Contains(`'"`, trimmed[:1]) {
		found := quotedValue.FindStringSubmatch(trimmed)
		if found == nil {
			return "", errBadQuote
		}
		return found[1] + strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n").Replace(found[2]), nil
	}
	if comment := strings.Index(strings.ReplaceAll(raw, "\t#", " #"), " #"); comment >= 0 {
		raw = raw[:comment]
	}
	return strings.Trim(raw, " \t"), nil
}
