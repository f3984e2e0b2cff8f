package e2e

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

// place is a server that may be started again somewhere else.
type place struct {
	token string
	base  atomic.Pointer[string]
}

func (p *place) moveTo(base string) { p.base.Store(&base) }

// write makes changes of all kinds until ctx ends; some of them are refused
// inside their transaction. No answer may be a 500.
func (p *place) write(ctx context.Context, t *testing.T, name string, missions []string) {
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
	end := []string{"/complete", "/fail", "/release"}[rand.IntN(3)]
	_, _ = c.within(ctx, 10*time.Second, "POST", spec+end, map[string]any{"lease_token": token, "error": agent})
}

// unsteady makes commits that append events pause, fail or need a retry, each with
// some probability, while they hold the stream's head.
const unsteady = `
	CREATE FUNCTION unsteady() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF random() < 0.03 THEN RAISE EXCEPTION 'once more' USING ERRCODE = '40001'; END IF;
		IF random() < 0.2 THEN PERFORM pg_sleep(random() * 0.01); END IF;
		RETURN NULL;
	END $$;
	CREATE CONSTRAINT TRIGGER unsteady AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION unsteady()`

// cutListeners ends the connections on which servers listen, and returns how
// many there were.
func cutListeners(t *testing.T, databaseURL string) int {
	t.Helper()
	return execute(t, databaseURL, `
		SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE application_name = 'tachikoma' AND datname = current_database()
			AND (query LIKE 'LISTEN%' OR query LIKE '%transaction_read_only%LEFT JOIN heads%')`)
}

// execute runs SQL, and returns how many rows it affected or returned.
func execute(t *testing.T, databaseURL, sql string) int {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	tag, err := conn.Exec(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	return int(tag.RowsAffected())
}

// reader is a witness that keeps the events it gets.
type reader struct {
	witness.Witness
	got []witness.Event
}

// readAll follows each mission at each place, over every protocol.
func readAll(t *testing.T, places []*place, missions []string) (readers []*reader) {
	protocols := map[string]witness.Follow{"REST": witness.ByPolling, "SSE": witness.BySSE}
	if witness.BySocket != nil {
		protocols["WebSocket"] = witness.BySocket
	}
	for i, p := range places {
		for protocol, follow := range protocols {
			for j, mission := range missions {
				r := &reader{Witness: witness.Witness{T: t, Mission: mission, Follow: follow}}
				r.Name = fmt.Sprintf("%s of server %d, mission %d", protocol, i+1, j+1)
				r.Server = func() (base, token string) { return *p.base.Load(), p.token }
				r.Heard = func(e witness.Event) { r.got = append(r.got, e) }
				r.Start(t.Context())
				readers = append(readers, r)
			}
		}
	}
	return readers
}

// goOn returns when every reader has got the given number of further events.
func goOn(t *testing.T, readers []*reader, events int64) {
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

// Of three servers on one database one is killed and started again, the
// connections on which they listen are cut, and Postgres is restarted. Meanwhile
// writers on each server go on, and no reader misses an event.
func TestWhateverBreaksEveryReaderGetsEveryEvent(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	postgres := pgtest.Start(t, dir)
	t.Cleanup(func() { pgtest.Stop(t, postgres, dir) })
	databaseURL := postgres.URL(pgserver.Database)
	env := withAdmin(databaseURL)
	_, first := serveWell(t, env...)
	_, second := serveWell(t, env...)
	process, third := serve(t, env...)

	ada := first.signUp("ada").withKey("write")
	missions := []string{ada.newActive("One"), ada.newActive("Two")}
	for _, mission := range missions {
		ada.newSpec(mission, "taken", nil)
	}
	execute(t, databaseURL, unsteady)
	var places []*place
	for _, base := range []string{first.base, second.base, third.base} {
		p := &place{token: ada.token}
		p.moveTo(base)
		places = append(places, p)
	}
	readers := readAll(t, places, missions)
	writing, stopWriting := context.WithCancel(t.Context())
	defer stopWriting()
	var writers sync.WaitGroup
	for i, p := range places {
		for j := range 8 {
			writers.Go(func() { p.write(writing, t, fmt.Sprintf("%d-%d", i, j), missions) })
		}
	}
	rounds := 1
	if long() {
		rounds = 20
	}
	for range rounds {
		goOn(t, readers, 50)
		eventually(t, "there are some that listen", func() bool { return cutListeners(t, databaseURL) > 0 })
		goOn(t, readers, 50)
		_ = process.process.Kill()
		process.wait()
		eventually(t, "the others get on", func() bool { return readers[0].Seen() > 100 })
		process, third = serve(t, env...)
		places[2].moveTo(third.base)
		goOn(t, readers, 50)
		pgtest.Stop(t, postgres, dir)
		eventually(t, "the servers know", func() bool {
			return first.get("/internal/health/ready").status == http.StatusServiceUnavailable
		})
		postgres = pgtest.Start(t, dir)
		goOn(t, readers, 50)
	}
	stopWriting()
	writers.Wait()
	wantStored(t, databaseURL, readers)
}

// wantStored stops the readers when they have everything that was written, and
// checks that it is what the table has.
func wantStored(t *testing.T, databaseURL string, readers []*reader) {
	t.Helper()
	written := make(map[string]int)
	for _, r := range readers {
		written[r.Mission] = len(stored(t, databaseURL, r.Mission))
	}
	events, connections := 0, 0
	for _, r := range readers {
		eventually(t, r.Name+" has got all", func() bool { return int(r.Seen()) >= written[r.Mission] || t.Failed() })
		r.Stop()
		events += len(r.got)
		connections += r.Connections
		same := func(a, b witness.Event) bool {
			return a.Seq == b.Seq && a.Type == b.Type && a.At.Equal(b.At) && a.Stream == b.Stream
		}
		// Writes whose clients had given up may still have been running.
		table, n := stored(t, databaseURL, r.Mission), len(r.got)
		if n > len(table) || !slices.EqualFunc(r.got, table[:n], same) {
			t.Errorf("%s: its %d events aren't those of the table, which has %d", r.Name, n, len(table))
		}
	}
	t.Logf("%d readers got %d events, over %d connections", len(readers), events, connections)
}

// stored is a mission's stream as the table has it: without a gap, and as long
// as its head says.
func stored(t *testing.T, databaseURL, mission string) []witness.Event {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), `
		SELECT h.seq, e.stream::text, e.seq, e.type, e.at
		FROM heads h JOIN events e ON e.stream = h.stream WHERE h.stream = $1 ORDER BY e.seq`, idOf(mission))
	if err != nil {
		t.Fatal(err)
	}
	var events []witness.Event
	var head int64
	var e witness.Event
	_, err = pgx.ForEachRow(rows, []any{&head, &e.Stream, &e.Seq, &e.Type, &e.At}, func() error {
		events = append(events, e)
		if e.Seq != int64(len(events)) {
			return fmt.Errorf("event %d of the table has the number %d", len(events), e.Seq)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(events)) != head {
		t.Errorf("the table has %d events, and the head says %d", len(events), head)
	}
	return events
}
