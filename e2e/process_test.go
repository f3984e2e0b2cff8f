package e2e

// The program as its users run it: a process with arguments, an environment,
// output, signals and an exit code.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tachikoma/internal/certfile/certtest"
	"tachikoma/internal/pgserver/pgtest"
)

// program is a process of the program, until the test ends.
type program struct {
	t        *testing.T
	process  *os.Process
	out, err output
	ended    chan struct{}
	state    *os.ProcessState // to be read once ended is closed
}

// startProgram starts the program in an empty folder, with an environment of only
// PATH, HOME and env, which has the form NAME=value.
func startProgram(t *testing.T, stdin io.Reader, env []string, args ...string) *program {
	t.Helper()
	path, err := theProgram()
	if err != nil {
		t.Fatal(err)
	}
	return startCommand(t, exec.Command(path, args...), stdin, env)
}

// startCommand is startProgram for any command line.
func startCommand(t *testing.T, cmd *exec.Cmd, stdin io.Reader, env []string) *program {
	t.Helper()
	home := t.TempDir()
	cmd.Dir, cmd.Stdin = home, stdin
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home}, env...)
	p := &program{t: t, ended: make(chan struct{})}
	p.out.changed, p.err.changed = make(chan struct{}), make(chan struct{})
	cmd.Stdout, cmd.Stderr = &p.out, &p.err
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.process = cmd.Process
	go func() {
		_ = cmd.Wait() // the state says it too
		p.state = cmd.ProcessState
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.process.Kill() // one that has ended can't be
		<-p.ended
		if strings.Contains(p.err.text(), "WARNING: DATA RACE") { // one that is killed has no exit code for it
			t.Errorf("the program has a race:\n%s", p.err.text())
		}
	})
	return p
}

// runToEnd runs the program until it ends by itself, and returns its exit code.
func runToEnd(t *testing.T, stdin string, env []string, args ...string) (p *program, code int) {
	t.Helper()
	p = startProgram(t, strings.NewReader(stdin), env, args...)
	return p, p.wait()
}

// serve starts a server on a port that the system picks, and returns it with a
// client once it has printed its address.
func serve(t *testing.T, env ...string) (*program, *client) {
	t.Helper()
	p := startProgram(t, nil, append([]string{"PORT=0"}, env...))
	return p, &client{t: t, base: p.says(&p.out, `is at (http\S+)`)}
}

// withAdmin is the environment of a server without rate limits that has an admin.
func withAdmin(databaseURL string) []string {
	return []string{"DATABASE_URL=" + databaseURL, "DATABASE_MAX_CONNS=8", "RATE_LIMIT=0", "AUTH_RATE_LIMIT=0",
		"LOG_LEVEL=warn", "ADMIN_EMAIL=" + adminEmail, "ADMIN_PASSWORD=" + testPassword}
}

// newServer starts a server with an admin on a database of its own, and returns
// it with a client of the admin. env is added to its environment. It must exit with
// 0 at the end of the test.
func newServer(t *testing.T, env ...string) (*program, *client) {
	t.Helper()
	return serveWell(t, append(withAdmin(newDatabase(t)), env...)...)
}

// serveWell is newServer with the whole environment given.
func serveWell(t *testing.T, env ...string) (*program, *client) {
	t.Helper()
	p, c := serve(t, env...)
	t.Cleanup(p.stop)
	return p, c.logIn(adminEmail)
}

// says waits until an output has what a pattern matches, and returns the
// pattern's first group.
func (p *program) says(o *output, pattern string) string {
	p.t.Helper()
	re, deadline := regexp.MustCompile(pattern), time.After(patience)
	for {
		text, changed := o.read()
		if found := re.FindStringSubmatch(text); found != nil {
			return found[min(1, len(found)-1)]
		}
		select {
		case <-changed:
		case <-p.ended:
			if text, _ = o.read(); !re.MatchString(text) {
				p.t.Fatalf("the program ended (%v) and never said %q:\n%s%s", p.state, pattern, p.out.text(), p.err.text())
			}
		case <-deadline:
			p.t.Fatalf("the program never said %q:\n%s%s", pattern, p.out.text(), p.err.text())
		}
	}
}

func (p *program) signal(signal syscall.Signal) {
	p.t.Helper()
	if err := p.process.Signal(signal); err != nil {
		p.t.Fatal(err)
	}
}

// wait returns the exit code, -1 for a process that a signal has ended.
func (p *program) wait() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("the program didn't end:\n%s%s", p.out.text(), p.err.text())
	}
	return p.state.ExitCode()
}

// stop sends SIGTERM, if the program hasn't ended yet, and wants the exit code 0.
func (p *program) stop() {
	p.t.Helper()
	_ = p.process.Signal(syscall.SIGTERM) // one that has ended has an exit code all the same
	if code := p.wait(); code != 0 {
		p.t.Errorf("exit code %d:\n%s", code, p.err.text())
	}
}

// output collects what a process prints, and wakes those that wait for more.
type output struct {
	mu      sync.Mutex // guards the following
	content bytes.Buffer
	changed chan struct{} // closed at the next write
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.content.Write(b)
}

func (o *output) read() (text string, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.content.String(), o.changed
}

func (o *output) text() string {
	text, _ := o.read()
	return text
}

// freePort returns a port of 127.0.0.1 that nobody listened on a moment ago, of
// those that systems don't give to connections.
func freePort(t *testing.T) string {
	t.Helper()
	port := ""
	eventually(t, "a port is free", func() bool {
		port = strconv.Itoa(10_000 + rand.N(20_000))
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil {
			l.Close()
		}
		return err == nil
	})
	return port
}

// waitingClaim starts a claim that waits, and returns when the server waits
// for it. The channel has its answer.
func waitingClaim(t *testing.T, as *client, mission string) <-chan *answer {
	t.Helper()
	answered := make(chan *answer, 1)
	go func() {
		a, err := as.try(context.Background(), "POST", mission+"/claim", map[string]any{"agent": "bot", "wait_seconds": 50})
		if err != nil {
			a = &answer{t: t, what: err.Error()}
		}
		answered <- a
	}()
	eventually(t, "a claim waits", func() bool { // the profile of goroutines shows its handler
		profile := as.get("/internal/debug/pprof/goroutine?debug=1").want(http.StatusOK)
		return strings.Contains(string(profile.body), ".claimSpec+")
	})
	return answered
}

// firstAccount runs the curl line that a first start prints, as it stands, and
// returns an access token of the account that it makes.
func (p *program) firstAccount() (token string) {
	p.t.Helper()
	line := p.says(&p.out, `(?s)becomes admin:\n\n(  curl .*?)\n\n`)
	printed, err := exec.Command("sh", "-c", line).Output()
	var session struct {
		AccessToken string `json:"access_token"`
		User        struct{ Email, Role string }
	}
	if err != nil || json.Unmarshal(printed, &session) != nil || session.AccessToken == "" ||
		session.User.Email != "you@example.com" || session.User.Role != "admin" {
		p.t.Fatalf("%s\n%v\n%s", line, err, printed)
	}
	return session.AccessToken
}

func TestQuickStartLivesOnItsOwnPostgres(t *testing.T) {
	t.Parallel()
	dir := "DATA_DIR=" + pgtest.Dir(t)
	_, folder, _ := strings.Cut(dir, "=")

	p, user := serve(t, dir, "DRAIN_DELAY=15s")
	user.token = p.firstAccount()
	p.says(&p.out, `/psql -h `+regexp.QuoteMeta(folder)+`/run -U postgres tachikoma\n`)
	p.says(&p.out, `/pg_dump -h `+regexp.QuoteMeta(folder)+`/run -U postgres -Fc -f tachikoma.dump tachikoma\n`)
	mission := user.newMission("Kept")
	user.post(mission+"/start", nil).want(http.StatusOK)

	second, code := runToEnd(t, "", []string{"PORT=0", dir})
	if code != 1 || !strings.Contains(second.err.text(), "another server uses the folder "+folder) {
		t.Errorf("a second server on the folder: code %d\n%s", code, second.err.text())
	}
	beside, code := runToEnd(t, "a new pass phrase of mine\n", []string{dir}, "passwd", "you@example.com")
	if code != 0 || beside.out.text() != "The password of you@example.com is set, and its sessions are ended.\n" {
		t.Errorf("passwd: code %d\n%s%s", code, beside.out.text(), beside.err.text())
	}
	eventually(t, "the session is ended", func() bool {
		return user.get("/api/v1/auth/me").status == http.StatusUnauthorized
	})
	logIn := map[string]any{"email": "you@example.com", "password": "a new pass phrase of mine"}
	user.token = user.post("/api/v1/auth/login", logIn).want(http.StatusOK).text("access_token")

	answered := waitingClaim(t, user, mission)
	p.signal(syscall.SIGTERM)
	eventually(t, "readiness says 503 while requests are served", func() bool {
		a := user.get("/internal/health/ready")
		return a.status == http.StatusServiceUnavailable && a.text("status") == "draining"
	})
	user.get(mission).want(http.StatusOK)
	(<-answered).want(http.StatusNoContent)
	if code := p.wait(); code != 0 {
		t.Errorf("after SIGTERM the exit code is %d:\n%s", code, p.err.text())
	}
	pgtest.WantEnded(t, folder)

	migrated, code := runToEnd(t, "", []string{dir}, "migrate")
	if code != 0 || migrated.out.text() != "The database is up to date; 0 migrations were applied.\n" {
		t.Errorf("migrate: code %d\n%s%s", code, migrated.out.text(), migrated.err.text())
	}
	p, again := serve(t, dir)
	if again.token = user.token; again.get(mission).text("name") != "Kept" {
		t.Error("the data is lost")
	}
	if strings.Contains(p.out.text(), "no account yet") {
		t.Errorf("there is an account:\n%s", p.out.text())
	}
	if err := syscall.Kill(pgtest.Postmaster(t, folder), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(); code != 1 || !strings.Contains(p.err.text(), "the private Postgres has ended") {
		t.Errorf("without its Postgres: code %d\n%s", code, p.err.text())
	}
}

// A server that was started with nohup outlives its terminal.
func TestHangupCountsOnlyWhereItIsntIgnored(t *testing.T) {
	t.Parallel()
	path, err := theProgram()
	if err != nil {
		t.Fatal(err)
	}
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP) // so that children don't inherit that it is ignored
	env := []string{"PORT=0", "DATABASE_URL=" + newDatabase(t)}
	kept := startCommand(t, exec.Command("nohup", path), nil, env)
	c := &client{t: t, base: kept.says(&kept.out, `is at (http\S+)`)}
	kept.signal(syscall.SIGHUP)
	other, _ := serve(t, env...)
	other.signal(syscall.SIGHUP)
	if code := other.wait(); code != 0 {
		t.Errorf("after a hangup the exit code is %d", code)
	}
	c.get("/internal/health/ready").want(http.StatusOK)
	if strings.Contains(kept.err.text(), "msg=stopping") {
		t.Error("the hangup counts under nohup")
	}
	kept.stop()
}

func TestStopWhileStartingIsNoFailure(t *testing.T) {
	t.Parallel()
	folder := pgtest.Dir(t)
	p := startProgram(t, nil, []string{"PORT=0", "DATA_DIR=" + folder})
	p.says(&p.err, "making a Postgres cluster")
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != 0 || strings.Contains(p.err.text(), "tachikoma:") {
		t.Errorf("code %d:\n%s", code, p.err.text())
	}
	pgtest.Stop(t, pgtest.Start(t, folder), folder) // nothing that is left is in the way
}

func TestSecondInterruptEndsAtOnce(t *testing.T) {
	t.Parallel()
	if signal.Ignored(os.Interrupt) {
		t.Skip("interrupts are ignored, as in the background of a script; children inherit that")
	}
	p, _ := serve(t, "DATABASE_URL="+newDatabase(t), "DRAIN_DELAY=1h")
	p.signal(syscall.SIGINT)
	p.says(&p.err, `msg=stopping drain_delay=1h`)
	eventually(t, "it ends", func() bool { // the first signal's handler is taken off a moment later
		_ = p.process.Signal(syscall.SIGINT)
		select {
		case <-p.ended:
			return true
		default:
			return false
		}
	})
	if status := p.state.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGINT {
		t.Errorf("it ended with %v", p.state)
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	empty := testCluster.NewEmptyDatabase(t, "")
	for _, test := range []struct {
		name     string
		env      []string
		args     string
		code     int
		out, err string // patterns of all that is printed
	}{
		{"help", nil, "-help", 0, `(?s)^tachikoma keeps .*\n  PORT=8080 +number, 0 to 65535\n.*`, ``},
		{"help with two dashes", nil, "--help", 0, `(?s)^tachikoma keeps .*`, ``},
		{"version", nil, "-version", 0, `\S+\n`, ``},
		{"check", nil, "check", 0, `The configuration is fine.\n`, ``},
		{"healthcheck of nobody", []string{"PORT=1"}, "healthcheck", 1,
			``, `tachikoma: the server at http://127.0.0.1:1 doesn't answer: .*connection refused\n`},
		{"healthcheck of nobody in particular", []string{"PORT=0"}, "healthcheck", 1, ``, `tachikoma: with PORT=0 .*\n`},
		{"unknown", nil, "serve", 1, ``, `tachikoma: unknown arguments \["serve"\]; see tachikoma -help\n`},
		{"check tells all problems", []string{"PORT=web", "LEASE_MAX=1s", "JWT_SECRET=too short",
			"ADMIN_EMAIL=root@example.com", "DATABASE_URL=mysql://root:word@db"}, "check", 1,
			``, `(?s)tachikoma: the configuration has problems:\nPORT: want .*\nDATABASE_URL: want .*\n` +
				`JWT_SECRET: has 9 bytes.*\nLEASE_MAX: want .*\nADMIN_PASSWORD: is missing.*\n`},
		{"a server with problems", []string{"PORT=web", "LEASE_MAX=1s"}, "", 1, ``, `(?s).*\nPORT: .*\nLEASE_MAX: .*`},
		{"migrate", []string{"DATABASE_URL=" + empty}, "migrate", 0,
			`The database is up to date; [1-9]\d* migrations were applied.\n`, `(?s).*`},
		{"passwd of nobody", []string{"DATABASE_URL=" + newDatabase(t)}, "passwd nobody@example.com", 1,
			``, `(?s)tachikoma: .*nobody@example.com.*`},
		{"passwd too short", []string{"DATABASE_URL=" + newDatabase(t)}, "passwd", 1, ``, `(?s)tachikoma: .*`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p, code := runToEnd(t, "a pass phrase from standard input", test.env, strings.Fields(test.args)...)
			if code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			for _, printed := range []struct{ what, text, pattern string }{
				{"stdout", p.out.text(), test.out}, {"stderr", p.err.text(), test.err},
			} {
				if !regexp.MustCompile(`^(` + printed.pattern + `)$`).MatchString(printed.text) {
					t.Errorf("%s doesn't match %s:\n%s", printed.what, printed.pattern, printed.text)
				}
			}
		})
	}
}

// Healthcheck finds the server that its own configuration describes, wherever that
// listens, and accepts any certificate.
func TestHealthcheckAsksTheServerOfItsConfiguration(t *testing.T) {
	t.Parallel()
	database := "DATABASE_URL=" + newDatabase(t)
	certFile, keyFile := certtest.WritePair(t, t.TempDir(), "tachikoma.example")
	for name, test := range map[string]struct {
		at  string
		env []string
	}{
		"plain":         {"http://127.0.0.1", nil},
		"a name":        {"http://localhost", []string{"HOST=localhost"}},
		"all addresses": {"http://127.0.0.1", []string{"HOST=0.0.0.0"}},
		"IPv6":          {"http://[::1]", []string{"HOST=::"}},
		"TLS":           {"https://127.0.0.1", []string{"TLS_CERT_FILE=" + certFile, "TLS_KEY_FILE=" + keyFile}},
		"internal":      {"http://127.0.0.1", []string{"INTERNAL_ADDR=127.0.0.1:0"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port := freePort(t)
			env := append(test.env, database, "PORT="+port, "DRAIN_DELAY=1h")
			server := startProgram(t, nil, env)
			server.says(&server.out, "is at http")
			asked, code := runToEnd(t, "", env, "healthcheck")
			want := "The server at " + test.at + ":" + port + " is ready.\n"
			if code != 0 || asked.out.text() != want || asked.err.text() != "" {
				t.Errorf("code %d, %q, %q", code, asked.out.text(), asked.err.text())
			}
			server.signal(syscall.SIGTERM)
			server.says(&server.err, "msg=stopping")
			asked, code = runToEnd(t, "", env, "healthcheck")
			want = "tachikoma: the server at " + test.at + ":" + port + " isn't ready: draining\n"
			if code != 1 || asked.out.text() != "" || asked.err.text() != want {
				t.Errorf("draining: code %d, %q, %q", code, asked.out.text(), asked.err.text())
			}
		})
	}
}

func TestHealthcheckKnowsAnotherServer(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // it takes connections, and no more
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	for addr, complaint := range map[string]string{
		other.Listener.Addr().String(): "something else does, with HTTP status 404\n",
		silent.Addr().String():         "i/o timeout\n",
	} {
		_, port, _ := net.SplitHostPort(addr)
		asked, code := runToEnd(t, "", []string{"PORT=" + port}, "healthcheck")
		text, begin := asked.err.text(), "tachikoma: the server at http://"+addr+" doesn't answer: "
		if code != 1 || !strings.HasPrefix(text, begin) || !strings.HasSuffix(text, complaint) {
			t.Errorf("code %d, %q, want %q", code, text, complaint)
		}
	}
}

func TestPortInUseIsAClearError(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	for _, env := range []string{"PORT=" + port, "PORT=0 INTERNAL_ADDR=127.0.0.1:" + port} {
		p, code := runToEnd(t, "", append(strings.Fields(env), "DATABASE_URL=postgres://nobody@127.0.0.1:1/none"))
		if text := p.err.text(); code != 1 || !strings.Contains(text, "tachikoma: listening on 127.0.0.1:"+port) ||
			!strings.Contains(text, "address already in use") {
			t.Errorf("%s: code %d\n%s", env, code, text)
		}
	}
}

func TestFirstAccountOfAnOpenAddressNeedsTheConsole(t *testing.T) {
	t.Parallel()
	p, nobody := serve(t, "DATABASE_URL="+newDatabase(t), "HOST=0.0.0.0")
	account := map[string]any{"email": "thief@example.com", "password": testPassword}
	nobody.post("/api/v1/auth/register", account).wantProblem(http.StatusForbidden, "setup_token_required")
	p.firstAccount()
	nobody.post("/api/v1/auth/register", account).wantProblem(http.StatusForbidden, "registration_closed")
}

func TestOperatorsReachInternalAddressWithoutACredential(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	_, public := newServer(t, "INTERNAL_ADDR=127.0.0.1:"+port)
	private := &client{t: t, base: "http://127.0.0.1:" + port}

	for _, path := range []string{"/internal/health/live", "/internal/health/ready"} {
		public.get(path).want(http.StatusOK)
		private.get(path).want(http.StatusOK)
	}
	for _, path := range []string{"/internal/health", "/internal/connections",
		"/internal/debug/pprof/", "/internal/debug/pprof/heap", "/internal/metrics"} {
		public.get(path).wantProblem(http.StatusNotFound, "not_found")
		if a := private.get(path); a.status != http.StatusOK && path != "/internal/metrics" { // nometrics has none
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	private.get("/api/v1/missions").want(http.StatusNotFound) // it is another port's
}

func TestTLSTakesARenewedCertificateWhileItServes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certFile, keyFile := certtest.WritePair(t, dir, "old.example")
	_, at := serve(t, "DATABASE_URL="+newDatabase(t), "TLS_CERT_FILE="+certFile, "TLS_KEY_FILE="+keyFile)
	roots := x509.NewCertPool()
	trust := func(file string) {
		t.Helper()
		content, err := os.ReadFile(file)
		if err != nil || !roots.AppendCertsFromPEM(content) {
			t.Fatalf("%v: %q", err, content)
		}
	}
	trust(certFile)
	get := func(name string) (*http.Response, error) {
		transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: name}}
		defer transport.CloseIdleConnections()
		response, err := (&http.Client{Transport: transport}).Get(at.base + "/internal/health/live")
		if err == nil {
			defer response.Body.Close()
			_, err = io.Copy(io.Discard, response.Body)
		}
		return response, err
	}
	response, err := get("old.example")
	if err != nil {
		t.Fatal(err)
	}
	secure := strings.HasPrefix(at.base, "https://") && response.TLS.Version == tls.VersionTLS13
	if !secure || response.Proto != "HTTP/2.0" {
		t.Errorf("%s speaks %s over TLS %x", at.base, response.Proto, response.TLS.Version)
	}
	newCert, newKey := certtest.WritePair(t, t.TempDir(), "new.example")
	trust(newCert)
	for from, to := range map[string]string{newCert: certFile, newKey: keyFile} { // as a renewal does
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the new certificate is in use", func() bool {
		_, err := get("new.example")
		return err == nil
	})
	old := strings.Replace(at.base, "https://", "http://", 1)
	if response, err := http.Get(old); err == nil && response.StatusCode < 400 {
		t.Errorf("plain HTTP: %v", response.Status)
	}
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	t.Parallel()
	const signing, database = "a signing key of 32 bytes or more", "database-password"
	url := newDatabase(t)
	if strings.Contains(url, "?") {
		url += "&password=" + database
	}
	env := []string{"DATABASE_URL=" + url, "JWT_SECRET=" + signing, "ADMIN_EMAIL=root@example.com",
		"ADMIN_PASSWORD=" + testPassword, "LOG_LEVEL=debug"}
	p, c := serve(t, env...)
	secrets := []string{signing, testPassword, "another pass phrase"}
	if strings.Contains(url, database) {
		secrets = append(secrets, database)
	}
	secret := func(a *answer, path string) string {
		secrets = append(secrets, a.text(path))
		return a.text(path)
	}
	logIn := map[string]any{"email": adminEmail, "password": testPassword}
	session := c.post("/api/v1/auth/login", logIn).want(http.StatusOK)
	c.token = secret(session, "access_token")
	refresh := map[string]any{"refresh_token": secret(session, "refresh_token")}
	session = c.post("/api/v1/auth/refresh", refresh).want(http.StatusOK)
	secret(session, "refresh_token")
	secret(session, "access_token")
	change := map[string]any{"current_password": "another pass phrase", "new_password": testPassword}
	refused := c.post("/api/v1/auth/change-password", change).want(http.StatusUnprocessableEntity)
	if !strings.Contains(string(refused.body), `"field":"current_password"`) {
		t.Errorf("a wrong password is refused with %s", refused.body)
	}
	mission := c.newMission("Secret")
	c.newSpec(mission, "spec", nil)
	c.post(mission+"/start", nil).want(http.StatusOK)
	claimed := c.post(mission+"/claim", map[string]any{"agent": "bot"}).want(http.StatusOK)
	secret(claimed, "lease.token")
	c.complete(claimed)
	key := c.post("/api/v1/api-keys", map[string]any{"name": "key", "scope": "read"}).want(http.StatusCreated)
	c.token = secret(key, "key")
	c.get("/api/v1/missions?cursor=" + c.token).want(http.StatusUnprocessableEntity)
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	texts := map[string]string{"the server": p.out.text() + p.err.text()}

	unreachable := append(env[1:], "DATABASE_URL=postgres://me:"+database+"@127.0.0.1:1/none", "PORT=0")
	secrets = append(secrets, database)
	for _, args := range []string{"-help", "check", "migrate"} {
		p, _ := runToEnd(t, "", unreachable, args)
		texts[args] = p.out.text() + p.err.text()
	}
	p = startProgram(t, nil, unreachable)
	p.says(&p.err, "waiting for the database")
	p.stop()
	texts["one that waits for its database"] = p.out.text() + p.err.text()
	wrong := []string{"JWT_SECRET_FILE=" + signing, "JWT_SECRET=" + signing, "ADMIN_PASSWORD=" + testPassword,
		"DATABASE_URL=postgres://me:" + database + "@[/none"}
	p, _ = runToEnd(t, "", wrong, "check")
	texts["a wrong configuration"] = p.out.text() + p.err.text()
	for what, text := range texts {
		if text == "" {
			t.Errorf("%s printed nothing", what)
		}
		for _, s := range secrets {
			if strings.Contains(text, s) {
				t.Errorf("%s printed the secret %q:\n%s", what, s, text)
			}
		}
	}
}

func TestProgramReadsTheEnvFileOfItsFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, ".env"), "PORT=web\nUNKNOWN=1\n")
	path, err := theProgram()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "check")
	cmd.Dir, cmd.Env = dir, []string{"HOME=" + dir}
	said, err := cmd.CombinedOutput()
	if err == nil {
		t.Error("a wrong .env file is fine")
	}
	for line := range strings.SplitSeq("line 2: UNKNOWN is not a setting\nPORT: want", "\n") {
		if !strings.Contains(string(said), line) {
			t.Errorf("it doesn't say %q:\n%s", line, said)
		}
	}
}

// A request whose body comes in while the server drains is still answered, and
// told that the connection ends.
func TestDrainAnswersWhatIsInFlight(t *testing.T) {
	t.Parallel()
	p, c := serve(t, "DATABASE_URL="+newDatabase(t))
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := `{"email": "ada@example.com", "password": "` + testPassword + `"}`
	fmt.Fprintf(conn, "POST /api/v1/auth/register HTTP/1.1\r\nHost: localhost\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:10])
	c.get("/internal/health/live").want(http.StatusOK) // so the connection before this one is accepted
	p.signal(syscall.SIGTERM)
	p.says(&p.err, "msg=stopping")
	io.WriteString(conn, body[10:])
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || response.StatusCode != http.StatusCreated || !response.Close {
		t.Errorf("%v, %v", response, err)
	}
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.err.text())
	}
}
