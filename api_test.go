package main

// The test harness: a cluster for the run, a whole server on a database of its
// own for a test, and a client for it. Last come benchmarks that go the same
// way: go test -run xxx -bench . (-cpu 64 for as many clients).

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tachikoma/internal/argon2id"
	"tachikoma/internal/pgserver/pgtest"
)

// cheapArgon2 has the lowest parameters that argon2 allows.
var cheapArgon2 = argon2id.Params{Memory: 8, Time: 1, Threads: 1}

// testServer is a whole server on a database of its own, served by run, that
// listens on loopback until the test ends.
type testServer struct {
	*Server
	t     testing.TB
	ended <-chan struct{}
	stop  func() error // ends the server and returns what run said; may be called again
}

// newTestServer starts a server without rate limits and with cheap password
// hashes. change adapts the configuration; nil leaves it.
func newTestServer(t testing.TB, change func(*Config)) *testServer {
	t.Helper()
	return startTestServer(t, newTestDatabase(t), change)
}

// startTestServer is newTestServer on an existing database, so that several
// servers can share one. adapt changes what no setting does.
func startTestServer(
	t testing.TB, databaseURL string, change func(*Config), adapt ...func(*Server),
) *testServer {
	t.Helper()
	s, ready := beginTestServer(t, databaseURL, t.Output(), change, adapt...)
	select {
	case <-ready:
	case <-s.ended:
		t.FailNow() // stop says why
	}
	return s
}

// patientTimeouts make the server wait as long as the tests do: only what a test
// does to its database, and no busy machine, makes that count as down or busy.
var patientTimeouts = timeouts{acquireTimeout: patience, pollTimeout: patience, lockTimeout: patience}

// beginTestServer is startTestServer without waiting until the server is ready.
// log gets the server's warnings and errors.
func beginTestServer(
	t testing.TB, databaseURL string, log io.Writer, change func(*Config), adapt ...func(*Server),
) (server *testServer, ready <-chan struct{}) {
	t.Helper()
	settings := map[string]string{
		"DATABASE_URL": databaseURL, "DATABASE_MAX_CONNS": "8", "PORT": "0", "RATE_LIMIT": "0", "AUTH_RATE_LIMIT": "0",
		"REQUEST_TIMEOUT": (2 * patience).String(),
	}
	config, err := loadConfig(func(name string) string { return settings[name] }, "")
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&config)
	}
	s, err := newServer(config, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		t.Fatal(err)
	}
	s.hasher = argon2id.New(cheapArgon2)
	s.timeouts = patientTimeouts
	s.tracers = append(s.tracers, &sentStatements)
	for _, change := range adapt {
		change(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	up, ended := make(chan struct{}), make(chan struct{})
	var runErr error
	go func() {
		defer close(ended)
		runErr = s.run(ctx, func() { close(up) })
	}()
	stop := func() error {
		cancel()
		<-ended
		return runErr
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("the server ended with: %v", err)
		}
	})
	return &testServer{Server: s, t: t, ended: ended, stop: stop}, up
}

// unredirected returns redirects as they are instead of following them.
var unredirected = &http.Client{CheckRedirect: func(*http.Request,
	[]*http.Request) error {
	return http.ErrUseLastResponse
}}

// client makes requests with a token, or anonymously without one.
type client struct {
	t     testing.TB
	base  string
	token string
	user  userView
}

func (s *testServer) anonymous() *client { return &client{t: s.t, base: s.url()} }

const testPassword = "correct horse battery staple"

// signUp makes an account with a role, directly in the database, and logs it in.
func (s *testServer) signUp(name, role string) *client {
	s.t.Helper()
	hash, err := s.hasher.Hash(s.t.Context(), testPassword)
	if err != nil {
		s.t.Fatal(err)
	}
	email := name + "@example.com"
	_, err = s.db.Exec(s.t.Context(), `INSERT INTO users (id, email, name, role, password_hash) VALUES ($1, $2, $3, $4, $5)`,
		newID(), email, name, role, hash)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.logIn(email)
}

// logIn opens a session for an account made by signUp.
func (s *testServer) logIn(email string) *client {
	s.t.Helper()
	c := s.anonymous()
	var session sessionView
	c.post("/api/v1/auth/login", map[string]any{"email": email,
		"password": testPassword}).want(http.StatusOK).into(&session)
	c.token, c.user = session.AccessToken, session.User
	return c
}

// withKey returns a client of the same account that uses a new API key.
func (c *client) withKey(scope string) *client {
	c.t.Helper()
	key := c.post("/api/v1/api-keys", map[string]any{"name": "test", "scope": scope}).want(http.StatusCreated).text("key")
	return &client{t: c.t, base: c.base, token: key, user: c.user}
}

// answer is a response, read to its end.
type answer struct {
	t      testing.TB
	what   string
	status int
	header http.Header
	body   []byte
}

func (c *client) get(path string) *answer             { c.t.Helper(); return c.do("GET", path, nil) }
func (c *client) post(path string, body any) *answer  { c.t.Helper(); return c.do("POST", path, body) }
func (c *client) patch(path string, body any) *answer { c.t.Helper(); return c.do("PATCH", path, body) }
func (c *client) put(path string, body any) *answer   { c.t.Helper(); return c.do("PUT", path, body) }
func (c *client) delete(path string) *answer          { c.t.Helper(); return c.do("DELETE", path, nil) }

// do makes a request. body is sent as it is if it is a string or bytes, as
// JSON otherwise, and not at all if it is nil. headers are names and values.
func (c *client) do(method, path string, body any, headers ...string) *answer {
	c.t.Helper()
	a, err := c.try(c.t.Context(), method, path, body, headers...)
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

// try is do for requests that may fail, and for goroutines of a test. An answer
// that isn't as openapi.json describes it fails the test.
func (c *client) try(ctx context.Context, method, path string, body any, headers ...string) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	var sent []byte
	switch body := body.(type) {
	case nil:
	case string:
		sent = []byte(body)
	case []byte:
		sent = body
	default:
		var err error
		if sent, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(sent))
	if err != nil {
		return nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	r.Host = r.Header.Get("Host") // "": that of the URL
	response, err := unredirected.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	a := &answer{c.t, method + " " + path, response.StatusCode, response.Header, content}
	checkContract(c.t, r, sent, a)
	return a, nil
}

// overloaded reports whether the server had no time for the request, of which it
// then did nothing.
func (a *answer) overloaded() bool {
	a.t.Helper()
	return a.status == http.StatusServiceUnavailable && (a.text("code") == "busy" || a.text("code") == "timeout")
}

// want ends the test unless the answer has the status.
func (a *answer) want(status int) *answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s: status %d, want %d: %s", a.what, a.status, status, a.body)
	}
	return a
}

// wantProblem ends the test unless the answer is a problem of that status and code.
func (a *answer) wantProblem(status int, code string) *answer {
	a.t.Helper()
	a.want(status)
	if got := a.text("code"); got != code || a.header.Get("Content-Type") != "application/problem+json" {
		a.t.Fatalf("%s: problem %q (%s), want %q: %s", a.what, got, a.header.Get("Content-Type"), code, a.body)
	}
	return a
}

// wantFields ends the test unless the answer is a 422 that names just these fields.
func (a *answer) wantFields(fields ...string) *answer {
	a.t.Helper()
	a.want(http.StatusUnprocessableEntity)
	var problem struct{ Errors []fieldError }
	a.into(&problem)
	var got []string
	for _, e := range problem.Errors {
		got = append(got, e.Field)
	}
	if strings.Join(got, " ") != strings.Join(fields, " ") {
		a.t.Fatalf("%s: problems with %q, want %q: %s", a.what, got, fields, a.body)
	}
	return a
}

// decoded is the body as encoding/json has it in an any.
func (a *answer) decoded() (v any) {
	a.t.Helper()
	a.into(&v)
	return v
}

// into decodes the body.
func (a *answer) into(v any) {
	a.t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		a.t.Fatalf("%s: %v: %s", a.what, err, a.body)
	}
}

// at returns what stands at a path such as "stats.ready" or "items.0.key", or
// nil. Numbers are float64, as encoding/json has them.
func (a *answer) at(path string) any {
	a.t.Helper()
	v := a.decoded()
	for name := range strings.SplitSeq(path, ".") {
		switch in := v.(type) {
		case map[string]any:
			v = in[name]
		case []any:
			var i int
			if _, err := fmt.Sscan(name, &i); err != nil || i >= len(in) {
				return nil
			}
			v = in[i]
		default:
			return nil
		}
	}
	return v
}

// text is at for a value that must be a string.
func (a *answer) text(path string) string {
	a.t.Helper()
	text, ok := a.at(path).(string)
	if !ok {
		a.t.Fatalf("%s: no text at %s: %s", a.what, path, a.body)
	}
	return text
}

// number is at for a value that must be a number.
func (a *answer) number(path string) int {
	a.t.Helper()
	n, ok := a.at(path).(float64)
	if !ok {
		a.t.Fatalf("%s: no number at %s: %s", a.what, path, a.body)
	}
	return int(n)
}

// newMission makes a mission and returns its path, "/api/v1/missions/…".
func (c *client) newMission(name string) string {
	c.t.Helper()
	return "/api/v1/missions/" + c.post("/api/v1/missions",
		map[string]any{"name": name}).want(http.StatusCreated).text("id")
}

// newSpec makes a spec in the mission at a path and returns its own path,
// "/api/v1/specs/…". fields go on top of the key and a title.
func (c *client) newSpec(mission, key string, fields map[string]any) string {
	c.t.Helper()
	body := map[string]any{"key": key, "title": "Spec " + key}
	for name, value := range fields {
		body[name] = value
	}
	return "/api/v1/specs/" + c.post(mission+"/specs", body).want(http.StatusCreated).text("id")
}

// claim takes the next ready spec of the mission at a path, and returns the
// spec's path and the lease token.
func (c *client) claim(mission, agent string) (spec, token string) {
	c.t.Helper()
	a := c.post(mission+"/claim", map[string]any{"agent": agent}).want(http.StatusOK)
	return "/api/v1/specs/" + a.text("spec.id"), a.text("lease.token")
}

func TestAgentWorksAMissionToItsEnd(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Walk")
	ada.newSpec(mission, "first", map[string]any{"body": "## Acceptance Criteria\n\n- [ ] it works\n", "number": "1"})
	ada.newSpec(mission, "second", map[string]any{"dependencies": []string{"first"}, "number": "2"})
	ada.post(mission+"/claim", map[string]any{"agent": "bot"}).wantProblem(http.StatusConflict, "mission_not_active")
	ada.post(mission+"/start", nil).want(http.StatusOK)

	bot := ada.withKey("write")
	for _, key := range []string{"first", "second"} {
		spec, token := bot.claim(mission, "bot")
		if got := bot.get(spec).text("key"); got != key {
			t.Fatalf("claimed %s, want %s", got, key)
		}
		if key == "first" {
			bot.post(spec+"/complete", map[string]any{"lease_token": token}).wantProblem(http.StatusConflict, "criteria_unmet")
			bot.post(spec+"/progress", map[string]any{"lease_token": token, "check": []int{1}}).want(http.StatusOK)
		}
		bot.post(spec+"/complete", map[string]any{"lease_token": token}).want(http.StatusOK)
	}
	m := ada.get(mission).want(http.StatusOK)
	if m.text("status") != "completed" || m.number("stats.completed") != 2 || m.number("stats.criteria_done") != 1 {
		t.Errorf("got %s", m.body)
	}
}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := checkPlans(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if err := testCluster.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "ending the tests' Postgres:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// testCluster is the Postgres that holds the tests' databases.
var testCluster = pgtest.Cluster{Migrate: func(ctx context.Context, databaseURL string) error {
	_, err := migrate(ctx, databaseURL, slog.New(slog.DiscardHandler))
	return err
}}

// newTestDatabase is a migrated database for this test alone.
func newTestDatabase(t testing.TB) string {
	t.Helper()
	return testCluster.NewDatabase(t)
}

// newEmptyDatabase is newTestDatabase without any migration.
func newEmptyDatabase(t testing.TB, options string) string {
	t.Helper()
	return testCluster.NewEmptyDatabase(t, options)
}

// requests runs one request after another, in parallel, and reports how many a
// second that makes. n counts them.
func requests(b *testing.B, one func(n int) error) {
	b.Helper()
	var n atomic.Int64
	b.ResetTimer()
	b.RunParallel(func(loop *testing.PB) {
		for loop.Next() {
			if err := one(int(n.Add(1)) - 1); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
}

// ask makes a request that must succeed.
func (c *client) ask(method, path string, body any) (*answer, error) {
	a, err := c.try(c.t.Context(), method, path, body)
	if err == nil && a.status >= 300 {
		err = fmt.Errorf("%s: %d %s", a.what, a.status, a.body)
	}
	return a, err
}

func BenchmarkLogIn(b *testing.B) {
	for _, c := range []struct {
		name   string
		params argon2id.Params
	}{{"cheap", cheapArgon2}, {"real", argon2id.Recommended}} {
		b.Run(c.name, func(b *testing.B) {
			s := newTestServer(b, nil)
			s.hasher = argon2id.New(c.params)
			ada := s.signUp("ada", "user")
			body := map[string]any{"email": ada.user.Email, "password": testPassword}
			for b.Loop() { // more at a time than cores would only queue
				s.anonymous().post("/api/v1/auth/login", body).want(http.StatusOK)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
		})
	}
}

// benchMission is a mission with n specs like real ones.
func benchMission(b *testing.B, n int) (ada *client, mission string) {
	b.Helper()
	ada = newTestServer(b, nil).signUp("ada", "user")
	mission = ada.newMission("Bench")
	ada.importTar(mission, gzipped(tarOf(b, corpusLike(n, 15_000)...)))
	return ada, mission
}

func BenchmarkReadMission(b *testing.B) {
	ada, mission := benchMission(b, 100)
	requests(b, func(int) error {
		_, err := ada.ask("GET", mission, nil)
		return err
	})
}

func BenchmarkReadSpec(b *testing.B) {
	ada, mission := benchMission(b, 100)
	spec := ada.specByKey(mission, "050-spec")
	requests(b, func(int) error {
		_, err := ada.ask("GET", spec, nil)
		return err
	})
}

func BenchmarkListSpecs(b *testing.B) {
	ada, mission := benchMission(b, 750)
	path := "/api/v1/specs?mission_id=" + idOf(mission)
	requests(b, func(int) error {
		_, err := ada.ask("GET", path, nil)
		return err
	})
}

func BenchmarkCreateSpec(b *testing.B) {
	ada, mission := benchMission(b, 1)
	body := corpusLike(1, 15_000)[1]
	requests(b, func(n int) error {
		_, err := ada.ask("POST", mission+"/specs",
			map[string]any{"key": fmt.Sprintf("spec-%d", n), "title": "A spec", "body": body})
		return err
	})
}

func BenchmarkClaimAndComplete(b *testing.B) {
	ada, mission := benchMission(b, 1)
	for at := 0; at < b.N; at += 10_000 {
		var files []string
		for i := at; i < min(b.N, at+10_000); i++ {
			files = append(files, fmt.Sprintf("ready-%d.md", i), "# Ready\n")
		}
		ada.importTar(mission, tarOf(b, files...))
	}
	ada.post(mission+"/start", nil).want(http.StatusOK)
	requests(b, func(int) error {
		claimed, err := ada.ask("POST", mission+"/claim", map[string]any{"agent": "bench"})
		if err != nil {
			return err
		}
		_, err = ada.ask("POST", "/api/v1/specs/"+claimed.text("spec.id")+"/complete",
			map[string]any{"lease_token": claimed.text("lease.token"), "override": "a benchmark"})
		return err
	})
}

func BenchmarkImport(b *testing.B) {
	ada := newTestServer(b, nil).signUp("ada", "user")
	content := gzipped(tarOf(b, corpusLike(20, 15_000)...))
	for b.Loop() {
		ada.importTar(ada.newMission("Import"), content)
	}
	b.ReportMetric(20*float64(b.N)/b.Elapsed().Seconds(), "files/s")
}

// withToken returns a client of the same server that uses another token.
func (c *client) withToken(token string) *client {
	return &client{t: c.t, base: c.base, token: token, user: c.user}
}

// in returns the server for a subtest.
func (s *testServer) in(t *testing.T) *testServer { return &testServer{s.Server, t, s.ended, s.stop} }

// within calls look until it returns true, for at most limit, and reports whether it did.
func within(limit time.Duration, look func() bool) bool {
	tick, end := time.NewTicker(5*time.Millisecond), time.After(limit)
	defer tick.Stop()
	for !look() {
		select {
		case <-tick.C:
		case <-end:
			return false
		}
	}
	return true
}

// eventually polls until done, for as long as something slow may take.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	if !within(patience, done) {
		t.Fatalf("not within %v: %s", patience, what)
	}
}

// getUntil asks until the answer has the status, for at most half a
// minute: longer than a change needs to reach every server, and half as long as a
// credential is remembered.
func (c *client) getUntil(path string, status int) (a *answer) {
	c.t.Helper()
	if !within(patience/2, func() bool { a = c.get(path); return a.status == status }) {
		c.t.Fatalf("%s: still %d, want %d: %s", a.what, a.status, status, a.body)
	}
	return a
}
