package main

// Order and completeness of the events, whatever breaks. TACHIKOMA_LONG=1 makes
// these tests long.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/pgserver"
	"tachikoma/internal/pgserver/pgtest"
	"tachikoma/internal/witness"
)

// long reports whether tests may take minutes.
func long() bool { return os.Getenv("TACHIKOMA_LONG") != "" }

// place is a server that may be started anew somewhere else.
type place struct {
	token string
	base  atomic.Pointer[string]
}

func (p *place) moveTo(base string) { p.base.Store(&base) }

// writer makes changes of all kinds until ctx ends; a part of them is refused
// inside a transaction. Nothing it gets may be a 500.
func (p *place) write(ctx context.Context, t testing.TB, name string, missions []string) {
	c := &client{t: t, base: *p.base.Load(), token: p.token}
	for i := 0; ctx.Err() == nil; i++ {
		c.base = *p.base.Load()
		mission := missions[rand.IntN(len(missions))]
		key := fmt.Sprintf("%s-%d", name, i)
		method, path, body := "POST", mission+"/specs", any(map[string]any{"key": key, "title": key})
		limit := 10 * time.Second
		switch rand.IntN(8) {
		case 0, 1, 2:
			entries := make([]map[string]any, 1+rand.IntN(5))
			for j := range entries {
				entries[j] = map[string]any{"level": "info", "message": key}
			}
			path, body = mission+"/logs", map[string]any{"entries": entries}
		case 3:
			body = map[string]any{"key": "taken", "title": key} // 409
		case 4:
			body = map[string]any{"key": key, "title": key, "dependencies": []string{"no-such"}} // 422
		case 5: // a client that gives up
			limit = rand.N(20 * time.Millisecond)
		case 6:
			c.work(ctx, mission, key)
			continue
		}
		a, err := c.within(ctx, limit, method, path, body)
		if err == nil && !slices.Contains([]int{200, 201, 409, 422, 503}, a.status) {
			t.Errorf("%s: %d %s", a.what, a.status, a.body)
		}
	}
}

// within is try with a limit, after a random pause.
func (c *client) within(ctx context.Context, limit time.Duration, method, path string, body any) (*answer, error) {
	select {
	case <-ctx.Done():
	case <-time.After(rand.N(20 * time.Millisecond)):
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return c.try(ctx, method, path, body)
}

// work claims a spec and gets as far with it as it may.
func (c *client) work(ctx context.Context, mission, agent string) {
	a, err := c.within(ctx, 10*time.Second, "POST", mission+"/claim", map[string]any{"agent": agent})
	if err != nil || a.status != http.StatusOK {
		return
	}
	spec, token := "/api/v1/specs/"+a.text("spec.id"), a.text("lease.token")
	_, _ = c.within(ctx, 10*time.Second, "POST", spec+"/progress", map[string]any{"lease_token": token, "message": agent})
	_, _ = c.within(ctx, 10*time.Second, "POST", spec+"/"+[]string{"complete", "fail", "release"}[rand.IntN(3)], map[string]any{"lease_token": token, "error": agent})
}

// unsteady makes commits that append events pause, fail and have to be run
// again, each with some probability, while they hold the stream's head.
const unsteady = `
	CREATE FUNCTION unsteady() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF random() < 0.03 THEN RAISE EXCEPTION 'once more' USING ERRCODE = '40001'; END IF;
		IF random() < 0.2 THEN PERFORM pg_sleep(random() * 0.01); END IF;
		RETURN NULL;
	END $$;
	CREATE CONSTRAINT TRIGGER unsteady AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION unsteady()`

// cutListeners ends the connections on which servers listen, and returns how
// many there were.
func cutListeners(t testing.TB, databaseURL string) int {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	tag, err := conn.Exec(t.Context(), `
		SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE application_name = 'tachikoma' AND datname = current_database() AND (query LIKE 'LISTEN%' OR query LIKE 'SELECT stream, seq, (%')`)
	if err != nil {
		t.Fatal(err)
	}
	return int(tag.RowsAffected())
}

// Three servers on one database, of which one is killed and started anew, the
// connections on which they listen are cut, and Postgres is restarted. All the
// while writers on each write, and whoever reads misses nothing.
func TestWhateverBreaksEveryReaderGetsEveryEvent(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	postgres := pgtest.Start(t, dir)
	t.Cleanup(func() { pgtest.Stop(t, postgres, dir) })
	databaseURL := postgres.URL(pgserver.Database)
	first, second := startTestServer(t, databaseURL, nil), startTestServer(t, databaseURL, nil)
	env := []string{"DATABASE_URL=" + databaseURL, "RATE_LIMIT=0", "DATABASE_MAX_CONNS=8"}
	process, third := serve(t, env...)

	ada := first.signUp("ada", "user").withKey("write")
	missions := []string{ada.newMission("One"), ada.newMission("Two")}
	for _, mission := range missions {
		ada.newSpec(mission, "taken", nil)
		ada.post(mission+"/start", nil).want(http.StatusOK)
	}
	mustExec(t, databaseURL, unsteady)

	var places []*place
	for _, base := range []string{first.url(), second.url(), third.base} {
		p := &place{token: ada.token}
		p.moveTo(base)
		places = append(places, p)
	}
	var readers []*witness.Witness
	got := make(map[*witness.Witness]*[]witness.Event)
	protocols := map[string]witness.Follow{"REST": witness.ByPolling, "SSE": witness.BySSE}
	if witness.BySocket != nil {
		protocols["WebSocket"] = witness.BySocket
	}
	for i, p := range places {
		for protocol, follow := range protocols {
			for j, mission := range missions {
				r := &witness.Witness{T: t, Name: fmt.Sprintf("%s of server %d, mission %d", protocol, i+1, j+1), Mission: mission, Follow: follow}
				r.Server = func() (base, token string) { return *p.base.Load(), p.token }
				var heard []witness.Event
				r.Heard = func(e witness.Event) { heard = append(heard, e) }
				got[r] = &heard
				r.Start(t.Context())
				readers = append(readers, r)
			}
		}
	}
	writing, stopWriting := context.WithCancel(t.Context())
	defer stopWriting()
	var writers sync.WaitGroup
	for i, p := range places {
		for j := range 8 {
			writers.Go(func() { p.write(writing, t, fmt.Sprintf("%d-%d", i, j), missions) })
		}
	}
	goOn := func(events int64) { // until every reader has got so many more
		t.Helper()
		starts := make([]int64, len(readers))
		for i, r := range readers {
			starts[i] = r.Seen()
		}
		eventually(t, "every reader gets on", func() bool {
			for i, r := range readers {
				if r.Seen() < starts[i]+events && !t.Failed() {
					return false
				}
			}
			return true
		})
	}
	rounds := 1
	if long() {
		rounds = 20
	}
	for range rounds {
		goOn(50)
		eventually(t, "there are three that listen", func() bool { return cutListeners(t, databaseURL) > 0 })
		goOn(50)
		_ = process.process.Kill()
		process.wait()
		eventually(t, "the others get on", func() bool { return readers[0].Seen() > 100 })
		process, third = serve(t, env...)
		places[2].moveTo(third.base)
		goOn(50)
		pgtest.Stop(t, postgres, dir)
		eventually(t, "the servers know", func() bool {
			return first.anonymous().get("/internal/health/ready").status == http.StatusServiceUnavailable
		})
		postgres = pgtest.Start(t, dir)
		goOn(50)
	}
	stopWriting()
	writers.Wait()

	written := make(map[string]int)
	var total, connections int
	for _, mission := range missions {
		written[mission] = len(first.stored(mission))
		total += written[mission]
	}
	for _, r := range readers {
		eventually(t, r.Name+" has got all", func() bool { return int(r.Seen()) >= written[r.Mission] || t.Failed() })
		r.Stop()
		connections += r.Connections
		same := func(a witness.Event, b event) bool {
			return a.Seq == b.Seq && a.Type == b.Type && a.At.Equal(b.At) && a.Stream == b.Stream
		}
		// Writes whose clients had given up may have been on their way.
		table, n := first.stored(r.Mission), len(*got[r])
		if n > len(table) || !slices.EqualFunc(*got[r], table[:n], same) {
			t.Errorf("%s: its %d events aren't those of the table, which has %d", r.Name, n, len(table))
		}
	}
	t.Logf("%d readers got %d events, over %d connections", len(readers), total, connections)
}

// stored is a mission's stream as the table has it: without a gap, and as long
// as its head says.
func (s *testServer) stored(mission string) (events []event) {
	s.t.Helper()
	var head int
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead}
	err := pgx.BeginTxFunc(s.t.Context(), s.db, snapshot, func(t pgx.Tx) (err error) {
		if events, err = readEvents(s.t.Context(), t, idOf(mission), 0, 1<<40); err != nil {
			return err
		}
		return t.QueryRow(s.t.Context(), `SELECT seq FROM heads WHERE stream = $1`, idOf(mission)).Scan(&head)
	})
	if err != nil {
		s.t.Fatal(err)
	}
	for i, e := range events {
		if e.Seq != int64(i+1) {
			s.t.Fatalf("event %d of the table has the number %d", i+1, e.Seq)
		}
	}
	if len(events) != head {
		s.t.Errorf("the table has %d events, and the head says %d", len(events), head)
	}
	return events
}

// mute keeps notifications from leaving a database, as a pooler does that
// can't LISTEN: servers that connect from now on find another pg_notify.
func mute(t testing.TB, databaseURL string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `
		CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE sql AS '';
		DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database()); END $$`); err != nil {
		t.Fatal(err)
	}
}

// What is done on one server holds on another one: within a second where they
// hear of each other, and within two where they only poll.
func TestServersKeepInStepWithAndWithoutListen(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]time.Duration{"listen": time.Second, "poll": 2 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			databaseURL := newTestDatabase(t)
			if name == "poll" {
				mute(t, databaseURL)
			}
			here, there := startTestServer(t, databaseURL, behindProxy), startTestServer(t, databaseURL, behindProxy)
			ada := here.signUp("ada", "admin")
			mission := ada.newMission("Shared")
			ada.post(mission+"/start", nil).want(http.StatusOK)
			// within measures until something done here shows there, with some
			// seconds more for a busy machine.
			within := func(what string, done func() bool) {
				t.Helper()
				start := time.Now()
				eventually(t, what, done)
				if took := time.Since(start); took > limit+5*time.Second {
					t.Errorf("%s after %v", what, took)
				} else {
					t.Logf("%s after %v", what, took)
				}
			}

			session := there.logIn(ada.user.Email)
			session.get(mission).want(http.StatusOK)
			(&client{t: t, base: here.url(), token: session.token}).post("/api/v1/auth/logout", nil).want(http.StatusNoContent)
			within("a session has ended", func() bool { return session.get(mission).status == http.StatusUnauthorized })

			key := ada.post("/api/v1/api-keys", map[string]any{"name": "k", "scope": "write"}).want(http.StatusCreated)
			agent := &client{t: t, base: there.url(), token: key.text("key")}
			admin := there.logIn(ada.user.Email)
			answered := waitingClaim(t, admin, mission)
			ada.newSpec(mission, "one", nil)
			within("a claim that waits gets its spec", func() bool {
				select {
				case a := <-answered:
					a.want(http.StatusOK)
					return true
				default:
					return false
				}
			})

			agent.get(mission).want(http.StatusOK)
			ada.delete("/api/v1/api-keys/" + key.text("id")).want(http.StatusNoContent)
			within("a key has ended", func() bool { return agent.get(mission).status == http.StatusUnauthorized })

			for i := range 5 { // three failures are one account's, wherever they are made
				c, want := []*client{here.anonymous(), there.anonymous()}[i%2], http.StatusUnauthorized
				if i >= 3 {
					want = http.StatusTooManyRequests
				}
				c.logInFrom(fmt.Sprint("198.51.100.", i), "nobody@example.com", "not the password at all").want(want)
			}
		})
	}
}
