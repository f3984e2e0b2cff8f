package main

// What the README and docs/ say is true: the tables name every route and code,
// links lead somewhere, and what is named exists. The files in deploy/ fit the
// code too: they name its settings, and wait for as long as it may take. e2e/
// runs the scripts.

import (
	"go/ast"
	"go/parser"
	"go/token"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tachikoma/internal/pgserver"
)

// docText is a document: README.md, or one of docs/.
func docText(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// docNames are README.md, SECURITY.md and all of docs/.
func docNames(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("docs/*.md")
	if err != nil || len(names) == 0 {
		t.Fatalf("there are no documents (%v)", err)
	}
	return append(names, "README.md", "SECURITY.md")
}

// docSection returns the text between a heading and the next one of the same or a
// higher level.
func docSection(t *testing.T, name, heading string) string {
	t.Helper()
	level, fenced, inside := strings.Index(heading, " "), false, false
	var section strings.Builder
	for line := range strings.Lines(docText(t, name)) {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		hashes := len(line) - len(strings.TrimLeft(line, "#"))
		if !fenced && hashes > 0 && hashes <= level {
			inside = strings.TrimSpace(line) == heading
		} else if inside {
			section.WriteString(line)
		}
	}
	if section.Len() == 0 {
		t.Fatalf("%s has no %q", name, heading)
	}
	return section.String()
}

// blocks returns the fenced blocks of a language in a section.
func blocks(section, language string) []string {
	var found []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(section, -1) {
		found = append(found, m[1])
	}
	return found
}

func TestDocsHaveEveryRoute(t *testing.T) {
	t.Parallel()
	s := &Server{serverState: newState(Config{}, nil)}
	s.routes()
	routes := make(map[string]string)
	for _, route := range s.table {
		method, path, _ := strings.Cut(route.pattern, " ")
		routes[method+" "+strings.TrimSuffix(strings.TrimPrefix(path, "/api/v1"), "{$}")] = callers[route.permission.name]
	}
	documented := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\| ([^|]+) \\| `([A-Z]+ /[^`]*)` \\|").FindAllStringSubmatch(docSection(t, "docs/api.md", "## Routes"), -1) {
		documented[m[2]] = m[1]
	}
	for route, who := range routes {
		if documented[route] != who {
			t.Errorf("%s is for %q, and docs/api.md says %q", route, who, documented[route])
		}
	}
	absent := []string{"GET /ws", "GET /internal/metrics"} // in builds with nows, nometrics
	for route := range documented {
		if _, there := routes[route]; !there && !slices.Contains(absent, route) {
			t.Errorf("docs/api.md has %s, which isn't a route", route)
		}
	}
}

// goFiles are the names of the files of the program, without its tests.
func goFiles(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
}

func TestDocsHaveEveryErrorCode(t *testing.T) {
	t.Parallel()
	errors := docSection(t, "docs/api.md", "## Errors")
	for _, name := range goFiles(t) {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`problem\(http\.Status\w+,\s*"(\w+)"`).FindAllSubmatch(content, -1) {
			if !strings.Contains(errors, "`"+string(m[1])+"`") {
				t.Errorf("%s has the code %s, and docs/api.md doesn't", name, m[1])
			}
		}
	}
}

// The README stays short, and what the documents name exists: Go files, the names
// written with them, tests, and benchmarks, also those that a command runs.
func TestDocsNameOnlyWhatExists(t *testing.T) {
	t.Parallel()
	if lines := strings.Count(docText(t, "README.md"), "\n"); lines > 250 {
		t.Errorf("README.md has %d lines, want at most 250", lines)
	}
	var all, flat, tests []string
	for _, name := range programFiles(t) {
		if all = append(all, filepath.Base(name)); filepath.Base(name) == name {
			flat = append(flat, name)
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`).FindAllStringSubmatch(docText(t,
			name), -1) {
			tests = append(tests, m[1])
		}
	}
	file, test := regexp.MustCompile("`(\\w+\\.go)`"), regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z]\\w+)`")
	command := regexp.MustCompile(`-(?:run|bench|fuzz) '?\^?([A-Z][\w|]+)`)
	for _, name := range docNames(t) {
		text := docText(t, name)
		for _, m := range file.FindAllStringSubmatch(text, -1) {
			if !slices.Contains(all, m[1]) {
				t.Errorf("%s names the file %s, which doesn't exist", name, m[1])
			}
		}
		for _, named := range namedDeclarations(text) {
			if slices.Contains(flat, named[0]) && !declares(t, named[0], named[1]) {
				t.Errorf("%s says that %s has %s, and it doesn't declare it", name, named[0], named[1])
			}
		}
		for _, m := range test.FindAllStringSubmatch(text, -1) {
			if !slices.Contains(tests, m[1]) {
				t.Errorf("%s names %s, which doesn't exist", name, m[1])
			}
		}
		for _, m := range command.FindAllStringSubmatch(text, -1) {
			for pattern := range strings.SplitSeq(m[1], "|") {
				if !slices.ContainsFunc(tests, func(test string) bool { return strings.Contains(test, pattern) }) {
					t.Errorf("%s runs %s, and nothing has that name", name, pattern)
				}
			}
		}
	}
}

// namedDeclarations returns pairs of a file and a name that a document writes with
// it: after it in parentheses or after a colon, or before it with "in".
func namedDeclarations(text string) (found [][2]string) {
	code := regexp.MustCompile("`(\\w+)`")
	for _, m := range regexp.MustCompile("`(\\w+\\.go)`(?: \\(([^)]*)\\)|: (`\\w+`))").FindAllStringSubmatch(text, -1) {
		for _, name := range code.FindAllStringSubmatch(m[2]+m[3], -1) {
			found = append(found, [2]string{m[1], name[1]})
		}
	}
	for _, m := range regexp.MustCompile("`(\\w+)` in `(\\w+\\.go)`").FindAllStringSubmatch(text, -1) {
		found = append(found, [2]string{m[2], m[1]})
	}
	return found
}

// declares reports whether a Go file declares a function, method, type, constant
// or variable of a name, outside of functions.
func declares(t *testing.T, file, name string) bool {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	isIt := func(id *ast.Ident) bool { return id.Name == name }
	return slices.ContainsFunc(parsed.Decls, func(d ast.Decl) bool {
		if fn, ok := d.(*ast.FuncDecl); ok {
			return isIt(fn.Name)
		}
		return slices.ContainsFunc(d.(*ast.GenDecl).Specs, func(spec ast.Spec) bool {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				return isIt(spec.Name)
			case *ast.ValueSpec:
				return slices.ContainsFunc(spec.Names, isIt)
			}
			return false
		})
	})
}

// programFiles returns all Go files, including tests, by their paths.
func programFiles(t *testing.T) (names []string) {
	t.Helper()
	for _, pattern := range []string{"*.go", "internal/*/*.go", "internal/*/*/*.go", "bench/*.go", "e2e/*.go"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found...)
	}
	return names
}

// CI tests what the README tells others to run.
func TestCIRunsTheTestCommandOfTheReadme(t *testing.T) {
	t.Parallel()
	ci, err := os.ReadFile(".ci/run")
	if err != nil {
		t.Fatal(err)
	}
	command := blocks(docSection(t, "README.md", "## Test"), "bash")
	if len(command) != 1 || !strings.HasPrefix(command[0], "go test ") {
		t.Fatalf("the README's test command is %q", command)
	}
	if !strings.Contains(string(ci), "sed -n '/^## Test$/,/^## /p' README.md") {
		t.Error(".ci/run doesn't read the test command from README.md")
	}
}

// Every link between the documents leads somewhere: to a file that exists and,
// behind a #, to one of its headings.
func TestDocsLinksResolve(t *testing.T) {
	t.Parallel()
	code, link := regexp.MustCompile("`[^`]*`"), regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, name := range docNames(t) {
		for line := range proseLines(docText(t, name)) {
			for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(line, "code"), -1) {
				target, anchor, _ := strings.Cut(m[1], "#")
				if strings.Contains(target, "://") {
					continue
				}
				path := filepath.Join(filepath.Dir(name), target)
				if target == "" {
					path = name
				}
				if _, err := os.Stat(path); err != nil {
					t.Errorf("%s links to %s, which doesn't exist", name, m[1])
				} else if anchor != "" && !slices.Contains(anchorsOf(t, path), anchor) {
					t.Errorf("%s links to %s, and %s has no such heading", name, m[1], path)
				}
			}
		}
	}
}

// proseLines returns the lines of a document outside fenced code.
func proseLines(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		fenced := false
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "```") {
				fenced = !fenced
			} else if !fenced && !yield(line) {
				return
			}
		}
	}
}

// anchorsOf returns the anchors of a document's headings, as GitHub makes them.
func anchorsOf(t *testing.T, name string) (anchors []string) {
	t.Helper()
	dropped := regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
	for line := range proseLines(docText(t, name)) {
		if heading := strings.TrimLeft(line, "#"); heading != line && strings.HasPrefix(heading, " ") {
			anchor := dropped.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
			anchors = append(anchors, strings.ReplaceAll(anchor, " ", "-"))
		}
	}
	return anchors
}

func TestDocsHaveTheSpecWorkflow(t *testing.T) {
	t.Parallel()
	documented := make(map[string][]string)
	words := regexp.MustCompile("`(\\w+)`")
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (.*) \\|$").FindAllStringSubmatch(docSection(t,
		"docs/api.md", "## How a spec moves"), -1) {
		for _, to := range words.FindAllStringSubmatch(m[2], -1) {
			documented[m[1]] = append(documented[m[1]], to[1])
		}
	}
	if !reflect.DeepEqual(documented, statusSteps) {
		t.Errorf("docs/api.md has the steps\n%v\nand the server\n%v", documented, statusSteps)
	}
}

// Comments in the code that refer to docs/design.md name its headings.
func TestDocsHaveTheDesignThatTheCodeNames(t *testing.T) {
	t.Parallel()
	headings := regexp.MustCompile("(?m)^## (.+)$").FindAllStringSubmatch(docText(t, "docs/design.md"), -1)
	named := 0
	for _, name := range goFiles(t) {
		for _, m := range regexp.MustCompile(`// See docs/design\.md, (.+)\.\n`).FindAllStringSubmatch(docText(t, name), -1) {
			if named++; !slices.ContainsFunc(headings, func(heading []string) bool { return heading[1] == m[1] }) {
				t.Errorf("%s refers to %q, which docs/design.md doesn't have", name, m[1])
			}
		}
	}
	if named == 0 {
		t.Error("nothing refers to docs/design.md")
	}
}

func deployFile(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// valueIn returns what a pattern's one group matches; it must match exactly once.
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
	if got, want := durationIn(t, unit, `^TimeoutStopSec=(.*)$`),
		config.DrainDelay+config.ShutdownTimeout+closeTime; got < want {
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
	if longest := defaultTimeouts.acquireTimeout + pgserver.StopTimeout; closeTime < longest {
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
	if got := durationIn(t, deployFile(t, "Dockerfile"),
		`^HEALTHCHECK .*--timeout=(\S+) CMD \["/tachikoma", "healthcheck"\]$`); got <= healthcheckTimeout {
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
