package main

// The files in deploy/ and the documents fit the code: they name its settings,
// and wait for as long as it may take.

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tachikoma/internal/pgserver"
)

func deployFile(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// valueIn is what a pattern's one group matches; it has to be there once.
func valueIn(t *testing.T, text, pattern string) string {
	t.Helper()
	found := regexp.MustCompile("(?m)"+pattern).FindAllStringSubmatch(text, -1)
	if len(found) != 1 {
		t.Fatalf("%s is there %d times", pattern, len(found))
	}
	return found[0][1]
}

func durationIn(t *testing.T, text, pattern string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(valueIn(t, text, pattern))
	if err != nil {
		t.Fatalf("%s: %v", pattern, err)
	}
	return d
}

func TestVariablesInDeployAndDocsAreSettings(t *testing.T) {
	t.Parallel()
	known := make(map[string]bool)
	for _, s := range new(Config).settings() {
		known[s.name] = true
		known[s.name+"_FILE"] = s.secret
	}
	foreign := regexp.MustCompile(`^(AF|CAP|CGO|XDG|TEST|TACHIKOMA)_`) // names of systemd, Linux, Go, XDG, of the tests and of shells
	texts := make(map[string]string)
	for _, name := range docNames(t) {
		texts[name] = docText(t, name)
	}
	for _, name := range []string{"tachikoma.service", "nginx.conf", "Caddyfile", "Dockerfile"} {
		texts["deploy/"+name] = deployFile(t, name)
	}
	for name, text := range texts {
		found := 0
		for _, variable := range regexp.MustCompile(`\b[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]\b`).FindAllString(text, -1) {
			if found++; !known[variable] && !foreign.MatchString(variable) {
				t.Errorf("%s has %s, which isn't a setting", name, variable)
			}
		}
		if found == 0 && (strings.HasPrefix(name, "deploy/") || name == "docs/operations.md" || name == "docs/scaling.md") {
			t.Errorf("%s has no variable", name)
		}
	}
}

func TestDocsHaveEverySettingWithItsDefault(t *testing.T) {
	t.Parallel()
	documented := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\|.*\\| ([^|]*) \\|$").FindAllStringSubmatch(docSection(t, "docs/operations.md", "## Configuration"), -1) {
		documented[m[1]] = m[2]
	}
	wanted := make(map[string]string)
	for _, s := range new(Config).settings() {
		wanted[s.name] = "`" + s.preset + "`"
		if s.preset == "" {
			wanted[s.name] = "none"
		}
	}
	wanted["DATA_DIR"] = "see below"
	if !maps.Equal(documented, wanted) {
		t.Errorf("docs/operations.md has the defaults\n%v\nand the server\n%v", documented, wanted)
	}
}

func TestUnitGivesTheServerWhatItNeeds(t *testing.T) {
	t.Parallel()
	config, err := load(t, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	unit := deployFile(t, "tachikoma.service")
	if got, want := durationIn(t, unit, `^TimeoutStopSec=(.*)$`), config.DrainDelay+config.ShutdownTimeout+closeTime; got < want {
		t.Errorf("TimeoutStopSec is %s, and the end may take %s", got, want)
	}
	files, err := strconv.Atoi(valueIn(t, unit, `^LimitNOFILE=(.*)$`))
	if want := 2*config.WSMaxConnections + 1000; err != nil || files < want {
		t.Errorf("LimitNOFILE is %d (%v), and full the server has %d files and connections", files, err, want)
	}
	var loaded, secrets []string
	for _, m := range regexp.MustCompile(`(?m)^LoadCredential=(\w+):tachikoma\.(\w+)$`).FindAllStringSubmatch(unit, -1) {
		if loaded = append(loaded, strings.ToUpper(m[1])); m[1] != m[2] {
			t.Errorf("the credential %s comes from %s", m[1], m[2])
		}
	}
	for _, s := range new(Config).settings() {
		if s.secret {
			secrets = append(secrets, s.name)
		}
	}
	slices.Sort(loaded)
	slices.Sort(secrets)
	if !slices.Equal(loaded, secrets) {
		t.Errorf("the unit loads %v, and secrets are %v", loaded, secrets)
	}
}

func TestStoppingTellsTheManagerHowLongItMayTake(t *testing.T) {
	t.Parallel()
	if longest := acquireTimeout + pgserver.StopTimeout; closeTime < longest {
		t.Errorf("the manager is told %s, and the end may take %s", closeTime, longest)
	}
}

// A proxy waits longer than the server, and gives up kept connections before
// it: one that is used while the server closes it costs a request.
func TestProxiesWaitForTheServer(t *testing.T) {
	t.Parallel()
	config, err := load(t, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	nginx, caddy := deployFile(t, "nginx.conf"), deployFile(t, "Caddyfile")
	longest := max(bulkTime, config.RequestTimeout+maxWait*time.Second, sseKeepAlive, config.WSPing)
	if got := durationIn(t, nginx, `proxy_read_timeout (.*);`); got <= longest {
		t.Errorf("nginx waits for %s, and the server may be silent for %s", got, longest)
	}
	for name, kept := range map[string]time.Duration{
		"nginx": durationIn(t, nginx, `keepalive_timeout (.*);`),
		"Caddy": durationIn(t, caddy, `\tkeepalive (.*)$`),
	} {
		if kept >= idleTimeout {
			t.Errorf("%s keeps idle connections for %s, and the server for %s", name, kept, idleTimeout)
		}
	}
	for name, to := range map[string]string{
		"nginx": valueIn(t, nginx, `^\tserver (.*);$`),
		"Caddy": valueIn(t, caddy, `reverse_proxy (\S+) `),
	} {
		if to != config.addr() {
			t.Errorf("%s asks %s, and the server is at %s", name, to, config.addr())
		}
	}
}

func TestDockerWaitsForTheHealthcheck(t *testing.T) {
	t.Parallel()
	if got := durationIn(t, deployFile(t, "Dockerfile"), `^HEALTHCHECK .*--timeout=(\S+) CMD \["/tachikoma", "healthcheck"\]$`); got <= healthcheckTimeout {
		t.Errorf("Docker waits for %s, and healthcheck for %s", got, healthcheckTimeout)
	}
}

func TestDocsHaveEveryAlert(t *testing.T) {
	t.Parallel()
	names := func(text, pattern string) (found []string) {
		for _, m := range regexp.MustCompile("(?m)"+pattern).FindAllStringSubmatch(text, -1) {
			found = append(found, m[1])
		}
		slices.Sort(found)
		return found
	}
	documented := names(docSection(t, "docs/operations.md", "## Alerts"), "^\\| `(\\w+)` \\|")
	if alerts := names(deployFile(t, "prometheus-rules.yml"), `^ +- alert: (\w+)$`); !slices.Equal(documented, alerts) {
		t.Errorf("docs/operations.md has the alerts %q, and deploy/prometheus-rules.yml %q", documented, alerts)
	}
}
