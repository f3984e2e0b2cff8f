package main

// How the server starts, ends, and gets along with its database, and what every
// request gets from the middleware.

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tachikoma/internal/pgserver/pgtest"

	"github.com/jackc/pgx/v5"
)

// lineCount counts the lines of a log that contain a text.
type lineCount struct {
	text  string
	count atomic.Int32
}

func (l *lineCount) Write(p []byte) (int, error) {
	l.count.Add(int32(strings.Count(string(p), l.text)))
	return len(p), nil
}

// The server waits for a database that can't be reached yet, goes away while the
// server starts, or accepts no writes; it logs once what it waits for.
func TestServerWaitsForItsDatabase(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		reason     string
		begin, end func(way *tunnel, database *roleDatabase)
	}{
		"not there yet": {"database_unavailable",
			func(way *tunnel, _ *roleDatabase) { way.set(tunnelClosed) },
			func(way *tunnel, _ *roleDatabase) { way.set(tunnelOpen) }},
		"silent": {"database_unavailable",
			func(way *tunnel, _ *roleDatabase) { way.set(tunnelFrozen) },
			func(way *tunnel, _ *roleDatabase) { way.set(tunnelOpen) }},
		"no connection left": {"database_unavailable",
			func(_ *tunnel, database *roleDatabase) { database.exec("ALTER ROLE app CONNECTION LIMIT 0") },
			func(_ *tunnel, database *roleDatabase) { database.exec("ALTER ROLE app CONNECTION LIMIT -1") }},
		"read only": {"database_read_only",
			func(_ *tunnel, database *roleDatabase) {
				database.exec("ALTER DATABASE db SET default_transaction_read_only = on")
			},
			func(_ *tunnel, database *roleDatabase) {
				database.exec("ALTER DATABASE db RESET default_transaction_read_only")
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := newDatabaseOfRole(t)
			way, databaseURL := newTunnel(t, database.url)
			test.begin(way, database)
			said := &lineCount{text: "waiting for the database"}
			s, ready := beginTestServer(t, databaseURL, said, nil)
			anybody := s.anonymous()
			eventually(t, "readiness says what is waited for", func() bool {
				a := anybody.get("/internal/health/ready").want(http.StatusServiceUnavailable)
				return a.text("status") == "starting" && a.at("reason") == test.reason
			})
			anybody.get("/internal/health/live").want(http.StatusOK)
			anybody.get("/internal/health").want(http.StatusServiceUnavailable)
			anybody.get("/internal/metrics")
			anybody.get("/api/v1/missions").wantProblem(http.StatusServiceUnavailable, "starting")
			test.end(way, database)
			select {
			case <-ready:
			case <-s.ended:
				t.Fatal("it has ended")
			case <-time.After(patience):
				t.Fatal("it never gets ready")
			}
			anybody.get("/internal/health/ready").want(http.StatusOK)
			s.signUp("ada", "user").newMission("Late")
			if n := said.count.Load(); n != 1 {
				t.Errorf("what it waits for was said %d times", n)
			}
		})
	}
}

// An error that waiting can't fix ends the start at once, and says what to do.
func TestServerDoesntWaitForWhatNoWaitingMends(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ begin, role, name, words string }{
		"no such database": {"", "app", "missing", "there is no database missing; CREATE DATABASE missing OWNER app"},
		"no such role":     {"", "nobody", "", "CREATE ROLE nobody LOGIN"},
		"no right to it":   {"REVOKE CONNECT ON DATABASE db FROM PUBLIC", "app", "", "GRANT CONNECT ON DATABASE db TO app"},
		"no right in it": {"REVOKE CREATE ON SCHEMA public FROM PUBLIC, app", "app", "",
			"GRANT CREATE ON SCHEMA public TO app"},
		"another program's": {"CREATE TABLE users ()", "app", "", "another program's"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := newDatabaseOfRole(t)
			database.exec(test.begin)
			env := map[string]string{"PORT": "0", "DATABASE_URL": withUser(t, database.url, database.named(test.role), "secret")}
			if test.name != "" {
				env["DATABASE_URL"] = strings.Replace(env["DATABASE_URL"], "/"+database.db, "/"+test.name, 1)
			}
			err := run(t.Context(), nil, func(name string) string { return env[name] }, nil, io.Discard, io.Discard)
			for words := range strings.SplitSeq(test.words, "; ") {
				wantError(t, err, database.named(words))
			}
		})
	}
}

// A computation that doesn't end, with a connection of the pool, keeps neither the
// server nor the private Postgres from stopping.
func TestServerEndsUnderWhatStillComputes(t *testing.T) {
	t.Parallel()
	folder := pgtest.Dir(t)
	config, err := loadConfig(func(name string) string {
		return map[string]string{"DATA_DIR": folder, "PORT": "0", "SHUTDOWN_TIMEOUT": "1s"}[name]
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	s, err := newServer(config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.timeouts = patientTimeouts
	computes, done := make(chan struct{}), make(chan struct{})
	begun := sync.OnceFunc(func() { close(computes) })
	t.Cleanup(func() { close(done) })
	s.mux.HandleFunc("GET /computes", func(http.ResponseWriter, *http.Request) {
		conn, err := s.db.Acquire(context.Background())
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Release()
		begun()
		<-done
	})
	ctx, stop := context.WithCancel(t.Context())
	var stopped time.Time
	ended := s.run(ctx, func() {
		go func() {
			defer begun() // even if it failed
			if response, err := http.Get(s.url() + "/computes"); err == nil {
				response.Body.Close()
			}
		}()
		<-computes
		stopped = time.Now()
		stop()
	})
	wantError(t, ended, "outlasted SHUTDOWN_TIMEOUT")
	if took := time.Since(stopped); took > patience {
		t.Errorf("it ended after %v", took)
	}
	pgtest.WantEnded(t, folder)
}

// If the database allows fewer connections than the pool may have, requests wait
// for those that exist.
func TestFewConnectionsServeAll(t *testing.T) {
	t.Parallel()
	database := newDatabaseOfRole(t)
	said := &lineCount{text: "fewer connections"}
	s, ready := beginTestServer(t, database.url, said, nil)
	<-ready
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Crowded")
	const limit = 4
	database.exec(fmt.Sprintf("ALTER ROLE app CONNECTION LIMIT %d", limit))
	database.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
	s.db.Reset() // what has just been in use isn't checked before it is used again
	eventually(t, "it has noticed", func() bool {
		return ada.get(mission).status == http.StatusOK &&
			s.status().Status == "ok"
	})

	load := func() {
		t.Helper()
		var requests sync.WaitGroup
		for range 24 {
			requests.Go(func() {
				entries := map[string]any{"entries": []map[string]any{{"level": "info", "message": "x"}}}
				if a, err := ada.try(t.Context(), "POST", mission+"/logs", entries); err != nil || a.status != http.StatusCreated {
					t.Errorf("a log entry: %v %+v", err, a)
				}
			})
			requests.Go(func() {
				if a, err := ada.try(t.Context(), "GET", mission, nil); err != nil || a.status != http.StatusOK {
					t.Errorf("the mission: %v %+v", err, a)
				}
			})
		}
		requests.Wait()
	}
	eventually(t, "a connection is refused", func() bool {
		load()
		return s.db.refused.Load() > 0
	})
	for before, began := s.db.refused.Load(), time.Now(); ; load() {
		if took := time.Since(began); took > 3*time.Second {
			if refused := s.db.refused.Load() - before; refused > 10*int64(took/time.Second) {
				t.Errorf("%d more connections were refused in %v", refused, took)
			}
			break
		}
	}
	if n := said.count.Load(); n != 1 {
		t.Errorf("the log tells it %d times", n)
	}

	// The feed works without a connection of its own.
	database.exec(fmt.Sprintf("ALTER ROLE app CONNECTION LIMIT %d", limit-1))
	database.exec(fmt.Sprintf("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "+
		"WHERE usename = 'app' AND pid <> ALL('{%s}')", strings.Join(s.conns.processes(), ",")))
	refused := s.db.refused.Load()
	eventually(t, "the feed polls over the pool", func() bool { return s.db.refused.Load() > refused+2 })
	if is := s.status(); is.Status != "ok" {
		t.Errorf("the server is %v", is)
	}
	load()

	database.exec("ALTER ROLE app CONNECTION LIMIT -1")
	eventually(t, "the pool grows again", func() bool {
		load()
		return s.db.Stat().TotalConns() > limit
	})
}

// processes returns the process ids of the pool's sessions in the database.
func (c *connections) processes() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for conn := range c.open {
		ids = append(ids, strconv.Itoa(int(conn.PgConn().PID())))
	}
	return ids
}

// logBook is a log that tests can read. Safe for concurrent use.
type logBook struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// line waits for the line with that message and request id.
func (b *logBook) line(t *testing.T, message, requestID string) (entry map[string]any) {
	t.Helper()
	if !within(patience, func() bool {
		for line := range strings.Lines(b.String()) {
			entry = nil
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			if entry["msg"] == message && entry["request_id"] == requestID {
				return true
			}
		}
		return false
	}) {
		t.Fatalf("no line %q of the request %s in:\n%s", message, requestID, b.String())
	}
	return entry
}

// newLoggedServer is newTestServer with a log that can be read.
func newLoggedServer(t *testing.T) (*testServer, *logBook) {
	t.Helper()
	book := &logBook{}
	s := newTestServer(t, func(c *Config) { c.LogFormat = "json" })
	s.log = newLogger(s.config, book)
	return s, book
}

func TestRequestIDIsKeptIfItIsSane(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	for id, kept := range map[string]bool{
		"a-sane_id.42":           true,
		strings.Repeat("x", 64):  true,
		strings.Repeat("x", 65):  false,
		"":                       false,
		"with space":             false,
		"with\ttab":              false,
		`"quoted"`:               false,
		"ümlaut":                 false,
		"<script>alert</script>": false,
		newSecret(keyPrefix):     false,
		newSecret(refreshPrefix): false,
		newSecret(leasePrefix):   false,
		"tk_":                    false,
		"tkt_42":                 true,
		"part_tk_42":             true,
	} {
		a := s.anonymous().do("GET", "/api/v1/auth/me", nil, "X-Request-Id", id).want(http.StatusUnauthorized)
		got := a.header.Get("X-Request-Id")
		if (got == id) != kept || !kept && !validID(got) || a.text("request_id") != got {
			t.Errorf("%q: got %q and %s", id, got, a.body)
		}
	}
}

func TestHeadersOfEveryResponse(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	for _, a := range []*answer{
		ada.get("/api/v1/auth/me"), ada.get("/api/v1/users"), ada.get("/api/v1/nothing"), ada.put("/api/v1/missions", nil),
		ada.post("/api/v1/auth/logout", nil), ada.get("/internal/health/live"),
	} {
		h := a.header
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("X-Request-Id") == "" ||
			h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %v", a.what, h)
		}
		if got := h.Get("Cache-Control"); got != "no-store" {
			t.Errorf("%s: Cache-Control %q", a.what, got)
		}
	}
}

func TestLargeAnswersAreCompressedButNotAuth(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp(strings.Repeat("a", 240), "admin")
	ada.patch("/api/v1/auth/me", map[string]any{"name": strings.Repeat("𝄞", 200)}).want(http.StatusOK)
	ask := func(path, coding string) *answer { return ada.do("GET", path, nil, "Accept-Encoding", coding) }

	plain := ask("/api/v1/users", "identity").want(http.StatusOK)
	for coding, zipped := range map[string]bool{
		"gzip": true, "br, GZIP;q=0.5": true, "*": true, "*;q=0, gzip": true, "gzip;q=0, *": false, "*, gzip;q=0": false,
		"identity": false, "gzip;q=0": false, "gzip; q=0.0": false, "br": false,
	} {
		a := ask("/api/v1/users", coding).want(http.StatusOK)
		if (a.header.Get("Content-Encoding") == "gzip") != zipped ||
			!strings.Contains(a.header.Get("Vary"), "Accept-Encoding") {
			t.Errorf("%q: %v", coding, a.header)
			continue
		}
		body := a.body
		if zipped {
			z, err := gzip.NewReader(bytes.NewReader(a.body))
			if err != nil {
				t.Fatal(err)
			}
			if body, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(body, plain.body) {
			t.Errorf("%q: got %s", coding, body)
		}
	}
	me := ask("/api/v1/auth/me", "gzip").want(http.StatusOK)
	if len(me.body) <= gzipFrom || me.header.Get("Content-Encoding") != "" {
		t.Errorf("%d bytes under /auth: %v", len(me.body), me.header)
	}
	if small := ask("/api/v1/missions", "gzip").want(http.StatusOK); small.header.Get("Content-Encoding") != "" {
		t.Errorf("%d bytes: %v", len(small.body), small.header)
	}
}

func TestOwnOriginBehindAProxy(t *testing.T) {
	t.Parallel()
	trusting := newTestServer(t, behindProxy)
	ada := trusting.signUp("ada", "user")
	bob := newTestServer(t, nil).signUp("bob", "user")
	for _, tt := range []struct {
		proto, host, origin string
		status              int
	}{
		{"https", "tk.example.com", "https://tk.example.com", http.StatusOK},
		{"HTTPS", "tk.example.com", "https://tk.example.com", http.StatusOK},
		{"wss", "tk.example.com", "https://tk.example.com", http.StatusOK},
		{"https,http", "tk.example.com", "https://tk.example.com", http.StatusOK},
		{" WSS , http", "tk.example.com", "https://tk.example.com", http.StatusOK},
		{", https", "tk.example.com", "https://tk.example.com", http.StatusOK},
		{"https", "tk.example.com:443", "https://tk.example.com", http.StatusOK},
		{"https", "tk.example.com:8443", "https://tk.example.com:8443", http.StatusOK},
		{"ws", "tk.example.com", "http://tk.example.com", http.StatusOK},
		{"http, https", "tk.example.com", "http://tk.example.com", http.StatusOK},
		{"", "tk.example.com", "http://tk.example.com", http.StatusOK},
		{"ws", "tk.example.com", "https://tk.example.com", http.StatusForbidden},
		{"http,https", "tk.example.com", "https://tk.example.com", http.StatusForbidden},
		{"httpsx", "tk.example.com", "https://tk.example.com", http.StatusForbidden},
		{"https", "tk.example.com", "http://tk.example.com", http.StatusForbidden},
		{"https", "tk.example.com:80", "https://tk.example.com", http.StatusForbidden},
		{"wss", "tk.example.com", "https://evil.example.com", http.StatusForbidden},
	} {
		ask := func(c *client) int {
			headers := []string{"Host", tt.host, "Origin", tt.origin, "X-Forwarded-Proto", tt.proto}
			return c.rpc("ping", nil, headers...).status
		}
		if got := ask(ada); got != tt.status {
			t.Errorf("X-Forwarded-Proto %q, Host %s, Origin %s: %d, want %d", tt.proto, tt.host, tt.origin, got, tt.status)
		}
		if got := ask(bob); got == http.StatusOK && strings.HasPrefix(tt.origin, "https:") {
			t.Errorf("X-Forwarded-Proto %q of a client that isn't a trusted proxy is believed", tt.proto)
		}
	}
}

func TestCrossOriginRequests(t *testing.T) {
	t.Parallel()
	const friend = "https://app.example.com"
	s := newTestServer(t, func(c *Config) { c.CORSAllowedOrigins = []string{friend} })
	ada := s.signUp("ada", "user")
	preflight := func(origin string) *answer {
		return s.anonymous().do("OPTIONS", "/api/v1/missions", nil, "Origin", origin,
			"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type")
	}
	allowed := preflight(friend).want(http.StatusNoContent)
	for name, want := range map[string]string{
		"Access-Control-Allow-Origin": friend, "Access-Control-Allow-Methods": "PATCH",
		"Access-Control-Allow-Headers": "Authorization",
		"Access-Control-Max-Age":       "", "Vary": "Origin",
	} {
		if got := allowed.header.Get(name); got == "" || !strings.Contains(got, want) {
			t.Errorf("preflight: %s is %q, want %q in it", name, got, want)
		}
	}
	answers := []*answer{allowed}
	for _, a := range []*answer{
		ada.do("GET", "/api/v1/missions", nil, "Origin", friend).want(http.StatusOK),
		s.anonymous().do("GET", "/api/v1/missions", nil, "Origin", friend).want(http.StatusUnauthorized),
		s.anonymous().do("GET", "/nothing", nil, "Origin", friend).want(http.StatusNotFound),
	} {
		if a.header.Get("Access-Control-Allow-Origin") != friend ||
			!strings.Contains(a.header.Get("Access-Control-Expose-Headers"), "ETag") {
			t.Errorf("%s: %v", a.what, a.header)
		}
		answers = append(answers, a)
	}
	for _, origin := range []string{"https://evil.example.com", "http://app.example.com", friend + ":444",
		friend + ".evil.com", "null", ""} {
		a := preflight(origin).want(http.StatusMethodNotAllowed)
		b := ada.do("GET", "/api/v1/missions", nil, "Origin", origin).want(http.StatusOK)
		for _, a := range []*answer{a, b} {
			if a.header.Get("Access-Control-Allow-Origin") != "" || a.header.Get("Vary") == "" {
				t.Errorf("%s from %q: %v", a.what, origin, a.header)
			}
			answers = append(answers, a)
		}
	}
	for _, a := range answers {
		if got := a.header.Values("Access-Control-Allow-Credentials"); got != nil {
			t.Errorf("%s: credentials are allowed: %q", a.what, got)
		}
	}
}

func TestPanicIsAnAnswerAndALogLine(t *testing.T) {
	t.Parallel()
	s, book := newLoggedServer(t)
	s.handle(forAnyone, "GET /test/panic", func(http.ResponseWriter, *http.Request,
		*call) error {
		panic("the secret reason")
	})
	s.handle(forAnyone, "GET /test/late", func(w http.ResponseWriter, _ *http.Request, _ *call) error {
		_, _ = w.Write(bytes.Repeat([]byte("half an answer"), 1000))
		panic("too late")
	})
	a := s.anonymous().do("GET", "/test/panic", nil, "X-Request-Id",
		"panicked").wantProblem(http.StatusInternalServerError, "internal_error")
	if strings.Contains(string(a.body), "secret") {
		t.Errorf("the client is told why: %s", a.body)
	}
	if line := book.line(t, "panic", "panicked"); line["panic"] != "the secret reason" ||
		!strings.Contains(line["stack"].(string), "server_test.go") {
		t.Errorf("got %v", line)
	}
	if line := book.line(t, "request", "panicked"); line["level"] != "ERROR" || line["status"] != 500.0 {
		t.Errorf("got %v", line)
	}
	if a, err := s.anonymous().try(t.Context(), "GET", "/test/late", nil, "X-Request-Id", "late"); err == nil {
		t.Errorf("half an answer looks whole: %d, %d bytes", a.status, len(a.body))
	}
	book.line(t, "panic", "late")
	s.anonymous().get("/internal/health/live").want(http.StatusOK)
}

func TestAccessLogSaysWhatHappenedAndNoSecrets(t *testing.T) {
	t.Parallel()
	s, book := newLoggedServer(t)
	ada := s.signUp("ada", "user")
	session := s.openedSession(ada.user.Email)
	mission := ada.newMission("Logged")
	key := ada.withKey("write")
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	a := key.do("GET", mission+"?token="+key.token, nil, "X-Request-Id", "logged", "Traceparent",
		trace).want(http.StatusUnprocessableEntity)
	line := book.line(t, "request", "logged")
	for name, want := range map[string]any{
		"level": "INFO", "method": "GET", "route": "GET /api/v1/missions/{id}", "status": 422.0,
		"bytes":   float64(len(a.body)),
		"account": ada.user.ID, "addr": "127.0.0.1", "traceparent": trace,
	} {
		if line[name] != want {
			t.Errorf("%s is %v, want %v", name, line[name], want)
		}
	}
	if duration, ok := line["duration"].(float64); !ok || duration <= 0 {
		t.Errorf("duration is %v", line["duration"])
	}
	s.anonymous().refreshed(session.RefreshToken).want(http.StatusOK)
	s.anonymous().refreshed("rt_wrong").want(http.StatusUnauthorized)
	ada.withToken(session.AccessToken + "x").get("/api/v1/auth/me").want(http.StatusUnauthorized)
	s.anonymous().do("GET", "/nothing/"+key.token, nil, "X-Request-Id", "last", "Traceparent",
		strings.Repeat("t", 129)).want(http.StatusNotFound)
	s.anonymous().do("GET", "/nothing", nil, "X-Request-Id", key.token, "Traceparent", key.token).want(http.StatusNotFound)
	last := book.line(t, "request", "last")
	if last["route"] != "" || last["account"] != nil || last["traceparent"] != nil {
		t.Errorf("got %v", last)
	}
	for name, secret := range map[string]string{
		"access token": ada.token, "key": key.token, "password": testPassword, "refresh token": session.RefreshToken,
		"refused token": "rt_wrong", "signature": session.AccessToken[strings.LastIndex(session.AccessToken, "."):],
	} {
		if strings.Contains(book.String(), secret) {
			t.Errorf("the log has the %s", name)
		}
	}
}

// holdMission locks a mission as lock says, like a long import or a deletion,
// until the returned function is called. It does so on a connection of its own.
func (s *testServer) holdMission(mission, lock string) (release func()) {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.config.DatabaseURL)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, sql := range []string{"BEGIN", `SELECT FROM missions WHERE id = '` + idOf(mission) + `' ` + lock} {
		if _, err := conn.Exec(s.t.Context(), sql); err != nil {
			s.t.Fatal(err)
		}
	}
	release = sync.OnceFunc(func() { _ = conn.Close(s.t.Context()) })
	s.t.Cleanup(release)
	return release
}

// blocked is how many of this server's connections wait for a lock.
func (s *testServer) blocked() (n int) {
	s.t.Helper()
	err := s.db.QueryRow(s.t.Context(), `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0`).Scan(&n)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// atOnce makes a request in the background, and records the status that it gets.
type atOnce struct {
	work     sync.WaitGroup
	mu       sync.Mutex
	statuses map[string]int // status and code → how often
}

func (o *atOnce) try(c *client, method, path string, body any, headers ...string) {
	o.work.Go(func() {
		a, err := c.try(c.t.Context(), method, path, body, headers...)
		if err != nil {
			c.t.Error(err)
			return
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.statuses == nil {
			o.statuses = make(map[string]int)
		}
		what := "done"
		if a.status >= 300 {
			what = fmt.Sprint(a.status, " ", a.text("code"), " ", a.header.Get("Retry-After"))
		}
		o.statuses[what]++
	})
}

// Only a few of the writes that wait for a locked mission hold a connection,
// whatever they are, whoever makes them and however they name the mission.
func TestWritesOfALockedMissionLeaveConnectionsToOthers(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	mission, other, bobs := ada.newActive("Locked"), ada.newMission("Other"), bob.newMission("Bob's")
	ada.put(mission+"/members", fields{"email": bob.user.Email, "role": "editor"}).want(http.StatusOK)
	spec, held := ada.newSpec(mission, "spec", nil), ada.newSpec(mission, "held", fields{"priority": 9})
	_, token := ada.claim(mission, "bot")

	release := s.holdMission(mission, "FOR NO KEY UPDATE")
	var writes atOnce
	const each = 10 // as many as the pool has connections, and more
	for i := range each {
		writes.try(ada, "POST", mission+"/specs", fields{"key": fmt.Sprint("a", i), "title": "x"})
		writes.try(bob, "PATCH", spec, fields{"title": fmt.Sprint("b", i)})
		writes.try(bob, "POST", mission+"/claim", fields{"agent": fmt.Sprint("c", i)}, "Idempotency-Key", fmt.Sprint("c", i))
		writes.try(ada, "POST", mission+"/pause", nil, "Idempotency-Key", fmt.Sprint("p", i))
	}
	eventually(t, "the writes to wait", func() bool { return s.writes.turns.Waiting(idOf(mission)) == 4*each-s.writes.ofMission })
	s.waitForALock()
	for i := range each {
		ada.newSpec(other, fmt.Sprint("k", i), nil)
		bob.newSpec(bobs, fmt.Sprint("k", i), nil)
		ada.post(held+"/heartbeat", fields{"lease_token": token}).want(http.StatusOK)
		ada.post(held+"/progress", fields{"lease_token": token, "message": "on"}).want(http.StatusOK)
		ada.post(mission+"/logs", fields{"entries": []any{fields{"level": "info", "message": "x"}}}).want(http.StatusCreated)
		if n := s.blocked(); n > s.writes.ofMission {
			t.Errorf("%d connections wait for the mission", n)
		}
	}
	release()
	writes.work.Wait()
	delete(writes.statuses, "503 busy 1") // the above took so long
	ada.newSpec(mission, "after", nil)
	for what, n := range writes.statuses {
		if what != "done" && what != "409 invalid_transition " && what != "409 mission_not_active " {
			t.Errorf("%d got %s", n, what)
		}
	}
}

// Nor does an account hold more than half of them, however many missions it waits for.
func TestAccountLeavesConnectionsToOthers(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	bobs := bob.newMission("Bob's")
	var writes atOnce
	defer writes.work.Wait()
	locked := make([]string, 2*s.writes.ofAccount)
	for i := range locked {
		locked[i] = ada.newMission("Locked")
		defer s.holdMission(locked[i], "FOR UPDATE")()
	}
	for _, mission := range locked {
		writes.try(ada, "POST", mission+"/start", nil)
	}
	eventually(t, "the writes to wait", func() bool { return s.writes.turns.Waiting(ada.user.ID) == s.writes.ofAccount })
	for i := range 10 {
		bob.newSpec(bobs, fmt.Sprint("k", i), nil)
		ada.get(bobs).wantProblem(http.StatusNotFound, "not_found")
		if n := s.blocked(); n > s.writes.ofAccount {
			t.Errorf("%d connections wait for one account", n)
		}
	}
}

func TestWriteThatWaitsTooLongIsToldSo(t *testing.T) {
	t.Parallel()
	s := startTestServer(t, newTestDatabase(t), nil, func(s *Server) { s.lockTimeout = time.Second })
	ada := s.signUp("ada", "user")
	mission, other := ada.newMission("Locked"), ada.newMission("Other")
	s.holdMission(mission, "FOR UPDATE")
	entries := fields{"entries": []any{fields{"level": "info", "message": "x"}}}
	var writes atOnce
	for range 5 {
		writes.try(ada, "POST", mission+"/start", nil)
		writes.try(ada, "POST", mission+"/logs", entries)
	}
	writes.work.Wait()
	if n := writes.statuses["503 busy 1"]; n != 10 {
		t.Errorf("of 10 writes: %v", writes.statuses)
	}
	ada.post(other+"/start", nil).want(http.StatusOK)
}

// allIsRead reports whether no response waits for its client, as far as it counts.
func (s *testServer) allIsRead() bool {
	all := s.unread.Take("", unreadBytes, unreadBytes, unreadBytes)
	if all {
		s.unread.Give("", unreadBytes)
	}
	return all
}

func TestResponsesThatNobodyReadsHaveABound(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	mission, bobs := ada.newActive("Wide"), bob.newMission("Bob's")
	body := strings.Repeat("0123456789abcde\n", maxSpecBody/16)
	spec, other := ada.newSpec(mission, "large", fields{"body": body}), bob.newSpec(bobs, "large", fields{"body": body})
	s.widen(mission, 200)

	// 12 MB, more than the kernel buffers for a reader.
	conn := s.dial(t)
	fmt.Fprintf(conn, "GET /api/v1/specs?mission_id=%s&limit=200 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n",
		idOf(mission), ada.token)
	eventually(t, "the response to wait", func() bool { return !s.allIsRead() })
	_ = conn.Close()
	eventually(t, "the response to go with its connection", s.allIsRead)

	s.unread.Add(ada.user.ID, unreadOfEach-unreadFrom) // as if so much of hers waited
	if a := ada.get(spec).wantProblem(http.StatusServiceUnavailable, "busy"); a.header.Get("Etag") != "" {
		t.Error("the problem has the version of what it isn't")
	}
	if text := ada.rpc("tools/call", fields{"name": "show_spec", "arguments": fields{"spec_id": idOf(spec)}}).
		want(http.StatusServiceUnavailable).text("code"); text != "busy" {
		t.Errorf("the tool got %s", text)
	}
	ada.patch(spec, fields{"title": "Changed"}).want(http.StatusOK) // it is too late to refuse its response
	s.unread.Add(ada.user.ID, unreadFrom)
	ada.patch(spec, fields{"title": "Again"}).wantProblem(http.StatusServiceUnavailable, "busy")
	ada.get(mission).want(http.StatusOK)
	bob.get(other).want(http.StatusOK)
	s.unread.Give(ada.user.ID, unreadOfEach)
	if title := ada.get(spec).want(http.StatusOK).text("title"); title != "Changed" {
		t.Errorf("it is %q", title)
	}
	eventually(t, "all to be read", s.allIsRead)
}

func TestOneAccountsExportsLeavePlacesToOthers(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	hers, his := ada.newMission("Hers"), bob.newMission("His")
	s.exports.Add(ada.user.ID, maxExportsOfEach) // as if so many ran
	ada.get(hers+"/export").wantProblem(http.StatusServiceUnavailable, "busy")
	bob.get(his + "/export").want(http.StatusOK)
	s.exports.Give(ada.user.ID, maxExportsOfEach)
	for range 2 * maxExports {
		ada.get(hers + "/export").want(http.StatusOK)
	}
}
