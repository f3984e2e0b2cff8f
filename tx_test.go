package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// postWith posts with an Idempotency-Key.
func (c *client) postWith(key, path string, body any) *answer {
	c.t.Helper()
	return c.do("POST", path, body, "Idempotency-Key", key)
}

func TestRepeatedRequestGetsTheFirstAnswer(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	body := map[string]any{"name": "Once", "metadata": map[string]any{"b": 1, "a": 2}}
	first := ada.postWith("k1", "/api/v1/missions", body).want(http.StatusCreated)
	mission := first.header.Get("Location")
	ada.patch(mission, map[string]any{"name": "Renamed"}).want(http.StatusOK)
	again := ada.postWith("k1", "/api/v1/missions", body)
	if again.status != first.status || !bytes.Equal(again.body, first.body) {
		t.Errorf("at first %d %s\nagain    %d %s", first.status, first.body, again.status, again.body)
	}
	for _, name := range []string{"Location", "Etag", "Content-Type"} {
		if first.header.Get(name) == "" || again.header.Get(name) != first.header.Get(name) {
			t.Errorf("%s was %q and is %q", name, first.header.Get(name), again.header.Get(name))
		}
	}
	if first.header.Get("X-Request-Id") == again.header.Get("X-Request-Id") {
		t.Error("two requests have one id")
	}
	if a := ada.get("/api/v1/missions"); a.at("items.1") != nil {
		t.Errorf("there are two: %s", a.body)
	}
	// It is a different request if the body or the path differs.
	body["name"] = "Other"
	ada.postWith("k1", "/api/v1/missions", body).wantFields("Idempotency-Key")
	ada.postWith("k1", mission+"/start", nil).wantFields("Idempotency-Key")
	ada.postWith("k2", mission+"/start", nil).want(http.StatusOK)
	ada.postWith("k2", mission+"/start", nil).want(http.StatusOK)
	ada.post(mission+"/start", nil).wantProblem(http.StatusConflict, "invalid_transition")
}

func TestIdempotencyKeysAreChecked(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	body := map[string]any{"name": "x"}
	ada.postWith(strings.Repeat("k", 256), "/api/v1/missions",
		body).wantProblem(http.StatusBadRequest, "invalid_idempotency_key")
	ada.postWith(strings.Repeat("k", 255), "/api/v1/missions", body).want(http.StatusCreated)
	ada.postWith("caf\xe9 \xff", "/api/v1/missions", body).wantProblem(http.StatusBadRequest, "invalid_idempotency_key")
	ada.postWith("k", "/api/v1/api-keys", map[string]any{"name": "k",
		"scope": "read"}).wantProblem(http.StatusBadRequest, "idempotency_key_not_supported")
	ada.postWith("k", "/api/v1/auth/login", map[string]any{"email": ada.user.Email, "password": testPassword}).
		wantProblem(http.StatusBadRequest, "idempotency_key_not_supported")
}

func TestTwinsInFlightMakeOneThing(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	const rounds, twins = 20, 6
	for round := range rounds {
		answers := make(chan *answer, twins)
		for range twins {
			go func() {
				a, err := ada.try(t.Context(), "POST", "/api/v1/missions", map[string]any{"name": "Twin"}, "Idempotency-Key",
					fmt.Sprint(round))
				if err != nil {
					t.Error(err)
				}
				answers <- a
			}()
		}
		var first *answer
		for range twins {
			a := <-answers
			if a == nil {
				continue
			}
			if first == nil {
				first = a
			}
			if a.status != http.StatusCreated || !bytes.Equal(a.body, first.body) {
				t.Errorf("round %d: %d %s\nbeside %d %s", round, a.status, a.body, first.status, first.body)
			}
		}
	}
	var missions list[missionView]
	ada.get("/api/v1/missions?limit=200").into(&missions)
	if len(missions.Items) != rounds {
		t.Errorf("%d missions of %d keys", len(missions.Items), rounds)
	}
}

func TestOnlySuccessIsKept(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Kept")
	spec := ada.newSpec(mission, "taken", nil)
	body := map[string]any{"key": "taken", "title": "x"}
	ada.postWith("k", mission+"/specs", body).wantProblem(http.StatusConflict, "key_taken")
	ada.delete(spec).want(http.StatusNoContent)
	ada.postWith("k", mission+"/specs", body).want(http.StatusCreated)
	ada.postWith("bad", mission+"/specs", map[string]any{"key": "no key", "title": "x"}).wantFields("key")
	ada.postWith("bad", mission+"/specs", map[string]any{"key": "a-key", "title": "x"}).want(http.StatusCreated)
}

func TestClaimRetriedWithItsKeyGetsTheSameLease(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Claims")
	ada.post(mission+"/start", nil).want(http.StatusOK)
	body := map[string]any{"agent": "bot"}
	ada.postWith("k", mission+"/claim", body).want(http.StatusNoContent) // which isn't kept
	ada.newSpec(mission, "one", nil)
	ada.newSpec(mission, "two", nil)
	first := ada.postWith("k", mission+"/claim", body).want(http.StatusOK)
	again := ada.postWith("k", mission+"/claim", body).want(http.StatusOK)
	if !bytes.Equal(first.body, again.body) || first.text("lease.token") == "" {
		t.Errorf("at first %s\nagain    %s", first.body, again.body)
	}
	spec, token := "/api/v1/specs/"+first.text("spec.id"), first.text("lease.token")
	done := map[string]any{"lease_token": token}
	if a, b := ada.postWith("c", spec+"/complete", done).want(http.StatusOK), ada.postWith("c", spec+"/complete",
		done).want(http.StatusOK); !bytes.Equal(a.body, b.body) {
		t.Errorf("at first %s\nagain    %s", a.body, b.body)
	}
	if n := ada.get(mission).number("stats.completed"); n != 1 {
		t.Errorf("%d completed", n)
	}
}

func TestIdempotencyKeysBelongToAnAccountForADay(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	body := map[string]any{"name": "Mine"}
	first := ada.postWith("k", "/api/v1/missions", body).want(http.StatusCreated).text("id")
	if other := bob.postWith("k", "/api/v1/missions", body).want(http.StatusCreated).text("id"); other == first {
		t.Error("bob got ada's mission")
	}
	if same := ada.withKey("write").postWith("k", "/api/v1/missions",
		body).want(http.StatusCreated).text("id"); same != first {
		t.Error("an API key isn't its account")
	}
	// Whoever has lost access gets no replay either.
	shared := "/api/v1/missions/" + first
	ada.put(shared+"/members", map[string]any{"email": bob.user.Email, "role": "editor"}).want(http.StatusOK)
	spec := map[string]any{"key": "one", "title": "One"}
	bob.postWith("s", shared+"/specs", spec).want(http.StatusCreated)
	ada.delete(shared + "/members/" + bob.user.ID).want(http.StatusNoContent)
	bob.postWith("s", shared+"/specs", spec).wantProblem(http.StatusNotFound, "not_found")

	s.runSQL("UPDATE idempotency_keys SET created_at = created_at - interval '23 hours 59 minutes'")
	if same := ada.postWith("k", "/api/v1/missions", body).want(http.StatusCreated).text("id"); same != first {
		t.Error("the key was forgotten within the day")
	}
	s.runSQL("UPDATE idempotency_keys SET created_at = created_at - interval '2 minutes'")
	body["name"] = "Another"
	if later := ada.postWith("k", "/api/v1/missions",
		body).want(http.StatusCreated); later.text("id") == first || later.text("name") != "Another" {
		t.Errorf("after a day: %s", later.body)
	}
}

// preparedCommit is in each message that runs COMMIT: the name under which pgx
// prepares it, after the empty name of the portal.
var preparedCommit = func() []byte {
	sum := sha256.Sum256([]byte("COMMIT"))
	return fmt.Appendf(nil, "\x00stmtcache_%x\x00", sum[:24])
}()

// tunnel is a proxy between a server and its database, which a test can block.
type tunnel struct {
	listener net.Listener
	dial     func() (net.Conn, error)
	mode     atomic.Int32
	commits  atomic.Int32 // what to do to the next COMMIT
	work     sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns map[net.Conn]bool
}

const (
	tunnelOpen   int32 = iota
	tunnelClosed       // connections are refused
	tunnelFrozen       // connections stay, but nothing comes through

	commitPasses int32 = iota - 3
	commitLost         // it doesn't arrive, and the connection is cut
	replyLost          // it arrives, and the connection is cut before its reply
)

// newTunnel leads to a database and returns the URL of its other end.
func newTunnel(t *testing.T, databaseURL string) (*tunnel, string) {
	t.Helper()
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	network, address := pgconn.NetworkAddress(config.Host, config.Port)
	p := &tunnel{conns: make(map[net.Conn]bool), dial: func() (net.Conn, error) { return net.Dial(network, address) }}
	if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	p.work.Go(p.accept)
	t.Cleanup(func() {
		_ = p.listener.Close()
		p.set(tunnelClosed)
		p.work.Wait()
	})
	u := url.URL{Scheme: "postgres", User: url.UserPassword(config.User, config.Password),
		Host: p.listener.Addr().String(),
		Path: "/" + config.Database, RawQuery: "sslmode=disable"}
	return p, u.String()
}

// set puts the tunnel into a mode. Closing it cuts its connections.
func (p *tunnel) set(mode int32) {
	p.mode.Store(mode)
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		if mode != tunnelFrozen {
			_ = conn.Close()
		}
	}
}

func (p *tunnel) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.work.Go(func() { p.carry(client) })
	}
}

// carry forwards one connection to the database until either end closes.
func (p *tunnel) carry(client net.Conn) {
	defer client.Close()
	database, err := p.dial()
	if err != nil || p.mode.Load() == tunnelClosed {
		return
	}
	defer database.Close()
	p.mu.Lock()
	p.conns[client] = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, client)
	}()
	var back sync.WaitGroup
	var mute atomic.Bool
	back.Go(func() {
		defer client.Close()
		p.copy(client, database, func(content []byte) bool { return mute.Load() })
	})
	p.copy(database, client, func(content []byte) bool {
		if !bytes.Contains(content, preparedCommit) {
			return false
		}
		switch p.commits.Swap(commitPasses) {
		case replyLost:
			mute.Store(true)
		case commitLost:
			return true
		}
		return false
	})
	_ = database.Close()
	back.Wait()
}

// copy forwards until an end closes, or until cut returns true for what comes
// next. While the tunnel is frozen it waits.
func (p *tunnel) copy(to io.Writer, from io.Reader, cut func(content []byte) bool) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		for p.mode.Load() == tunnelFrozen {
			time.Sleep(10 * time.Millisecond)
		}
		if n > 0 {
			if cut(buffer[:n]) {
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func TestServerOutlivesItsDatabase(t *testing.T) {
	t.Parallel()
	const soon = patience // and not when the time of a request is over
	for name, mode := range map[string]int32{"refused": tunnelClosed, "frozen": tunnelFrozen} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := newTestDatabase(t)
			patient := startTestServer(t, database, nil)
			way, databaseURL := newTunnel(t, database)
			s := startTestServer(t, databaseURL, nil, func(s *Server) {
				s.acquireTimeout, s.pollTimeout = 3*time.Second, 3*time.Second
			})
			ada := patient.signUp("ada", "user")
			mission := ada.newMission("Lost")
			ada = ada.on(s)
			ready := func() int { return s.anonymous().get("/internal/health/ready").status }
			eventually(t, "it is ready at first", func() bool { return ready() == http.StatusOK })
			way.set(mode)
			var failed sync.WaitGroup
			for i := range 20 { // some before the watcher knows, on connections that it has
				failed.Go(func() {
					path, method, start := mission, "GET", time.Now()
					var body any
					if i%2 == 0 {
						path, method, body = "/api/v1/missions", "POST", map[string]any{"name": "x"}
					}
					a, err := ada.try(t.Context(), method, path, body)
					if took := time.Since(start); err != nil || a.status != http.StatusServiceUnavailable ||
						took > soon {
						t.Errorf("%s %s after %v: %v %+v", method, path, took, err, a)
					}
				})
			}
			eventually(t, "readiness says 503", func() bool { return ready() == http.StatusServiceUnavailable })
			s.anonymous().get("/internal/health/live").want(http.StatusOK)
			if a := s.anonymous().get("/internal/health").want(http.StatusServiceUnavailable); a.text("checks.database.status") != "failing" {
				t.Errorf("health says %s", a.body)
			}
			start := time.Now()
			a := ada.get(mission).wantProblem(http.StatusServiceUnavailable, "database_unavailable")
			if took := time.Since(start); took > soon || a.header.Get("Retry-After") == "" {
				t.Errorf("refused after %v with Retry-After %q", took, a.header.Get("Retry-After"))
			}
			failed.Wait()
			way.set(tunnelOpen)
			eventually(t, "readiness says 200", func() bool { return ready() == http.StatusOK })
			eventually(t, "the mission can be read", func() bool { return ada.get(mission).status == http.StatusOK })
			eventually(t, "a mission can be made", func() bool {
				return ada.post("/api/v1/missions", fields{"name": "After"}).status == http.StatusCreated
			})
		})
	}
}

// A database that accepts no writes for a while is still read, and soon written
// again once it can be.
func TestServerOutlivesADatabaseThatTakesNoWrites(t *testing.T) {
	t.Parallel()
	const cutOff = `; SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid()`
	for name, test := range map[string]struct{ mode, code, begin, end string }{
		"read only in new sessions": {"", "database_read_only",
			"ALTER DATABASE :name SET default_transaction_read_only = on" + cutOff,
			"ALTER DATABASE :name RESET default_transaction_read_only"},
		"read only, in the simple protocol": {"simple_protocol", "database_read_only",
			"ALTER DATABASE :name SET default_transaction_read_only = on" + cutOff,
			"ALTER DATABASE :name RESET default_transaction_read_only"},
		"full": {"", "database_full", `
			CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
			CREATE TRIGGER full_disk BEFORE INSERT ON events EXECUTE FUNCTION full_disk()`,
			"DROP TRIGGER full_disk ON events"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			databaseURL := newTestDatabase(t)
			owner, err := pgx.Connect(t.Context(), databaseURL)
			if err != nil {
				t.Fatal(err)
			}
			defer owner.Close(t.Context())
			exec := func(sql string) {
				t.Helper()
				named := strings.ReplaceAll(sql, ":name", owner.Config().Database)
				if _, err := owner.PgConn().Exec(t.Context(), named).ReadAll(); err != nil {
					t.Fatalf("%s: %v", named, err)
				}
			}
			s := startTestServer(t, withParameter(t, databaseURL, "default_query_exec_mode", test.mode), nil)
			ada := s.signUp("ada", "user")
			key, mission := ada.withKey("read"), ada.newMission("Kept")
			write := func() *answer { return ada.patch(mission, map[string]any{"description": "x"}) }
			ready := func() *answer { return s.anonymous().get("/internal/health/ready") }

			exec(test.begin)
			s.db.Reset() // what has just been in use isn't checked before it is used again
			eventually(t, "a write is refused, and readiness says why", func() bool {
				code, _ := write().at("code").(string)
				reason, _ := ready().at("reason").(string)
				return code == test.code && reason == test.code
			})
			for range 20 { // it stays so, however often it is looked at
				ada.get(mission).want(http.StatusOK)
				key.get(mission).want(http.StatusOK)
				if a := write().wantProblem(http.StatusServiceUnavailable, test.code); a.header.Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
				s.credentials.forget("")
			}
			s.anonymous().post("/api/v1/auth/login", map[string]any{"email": ada.user.Email, "password": testPassword}).
				wantProblem(http.StatusServiceUnavailable, test.code)
			s.anonymous().get("/internal/health/live").want(http.StatusOK)
			if a := s.anonymous().get("/internal/health").want(http.StatusServiceUnavailable); a.text("checks.database.status") != "failing" {
				t.Errorf("health says %s", a.body)
			}

			exec(test.end)
			eventually(t, "writes work again", func() bool { return write().status == http.StatusOK })
			for range 20 { // on every connection
				write().want(http.StatusOK)
			}
			ready().want(http.StatusOK)
		})
	}
}

// withParameter is a connection string with a parameter, or as it is for a value of "".
func withParameter(t *testing.T, databaseURL, name, value string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	if value != "" {
		query := u.Query()
		query.Set(name, value)
		u.RawQuery = query.Encode()
	}
	return strings.ReplaceAll(u.String(), "+", "%20")
}

func TestLostReplyToCommitIsAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	way, databaseURL := newTunnel(t, newTestDatabase(t))
	s := startTestServer(t, databaseURL, nil)
	ada := s.signUp("ada", "user")
	keys := 0
	for _, fate := range []int32{replyLost, commitLost} {
		var key string
		var name map[string]any
		// The lost commit may be another one, such as a sweep's. Then this key has its
		// answer, and the next try needs a new one.
		eventually(t, "a request loses its commit", func() bool {
			keys++
			key, name = fmt.Sprint("k", keys), map[string]any{"name": fmt.Sprint("Mission ", keys)}
			way.commits.Store(fate)
			a := ada.postWith(key, "/api/v1/missions", name)
			if a.status == http.StatusServiceUnavailable {
				a.wantProblem(http.StatusServiceUnavailable, "outcome_unknown")
				if a.header.Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
				return true
			}
			a.want(http.StatusCreated)
			return false
		})
		way.commits.Store(commitPasses)
		id := ada.postWith(key, "/api/v1/missions", name).want(http.StatusCreated).text("id")
		ada.get("/api/v1/missions/" + id).want(http.StatusOK)
	}
	var missions list[missionView]
	if ada.get("/api/v1/missions").into(&missions); len(missions.Items) != keys {
		t.Errorf("there are %d missions of %d keys", len(missions.Items), keys)
	}
}

// A write goes on when its client has gone, and the retry finds its answer.
func TestRetryAfterALostReplyFindsTheAnswer(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Gone")
	for i := range 30 {
		key, body := fmt.Sprint("k", i), map[string]any{"key": fmt.Sprint("s", i), "title": "x"}
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*300*time.Microsecond)
		_, _ = ada.try(ctx, "POST", mission+"/specs", body, "Idempotency-Key", key)
		cancel()
		ada.postWith(key, mission+"/specs", body).want(http.StatusCreated)
	}
	if n := ada.get(mission).number("stats.total"); n != 30 {
		t.Errorf("%d specs of 30 keys", n)
	}
}
