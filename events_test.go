package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// events reads a mission's stream from its oldest event on, page by page.
func (c *client) events(mission string, limit int) []event {
	c.t.Helper()
	var all []event
	for path := fmt.Sprintf("%s/events?limit=%d", mission, limit); ; {
		var view eventsView
		c.get(path).want(http.StatusOK).into(&view)
		if len(view.Items) > limit {
			c.t.Fatalf("%d events on a page of %d", len(view.Items), limit)
		}
		if all = append(all, view.Items...); len(view.Items) == 0 {
			return all
		}
		path = fmt.Sprintf("%s/events?limit=%d&after=%d", mission, limit, all[len(all)-1].Seq)
	}
}

func idOf(path string) string { return path[strings.LastIndex(path, "/")+1:] }

// runSQL runs statements on the server's own database.
func (s *testServer) runSQL(statements ...string) {
	s.t.Helper()
	for _, sql := range statements {
		if _, err := s.db.Exec(s.t.Context(), sql); err != nil {
			s.t.Fatalf("%s: %v", sql, err)
		}
	}
}

// Writers of every kind at once, some of which are refused and some give up in
// the middle, leave no gap, and the counters stay right.
func TestEventNumbersHaveNoGaps(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Busy")
	ada.newSpec(mission, "taken", nil)
	ada.post(mission+"/start", nil).want(http.StatusOK)
	var writers sync.WaitGroup
	var logs, created atomic.Int32
	for writer := range 16 {
		writers.Go(func() {
			for i := range 12 {
				// On a busy machine some get a 503, which changes nothing either.
				post := func(path string, body any, done *atomic.Int32) {
					a, err := ada.try(t.Context(), "POST", mission+path, body)
					if err != nil {
						t.Error(err)
					} else if a.status == http.StatusCreated {
						done.Add(1)
					}
				}
				switch key := fmt.Sprintf("%d-%d", writer, i); (writer + i) % 4 {
				case 0:
					entry := map[string]any{"level": "info", "message": key}
					post("/logs", map[string]any{"entries": []any{entry, entry, entry}}, &logs)
				case 1:
					post("/specs", map[string]any{"key": key, "title": key}, &created)
				case 2:
					post("/specs", map[string]any{"key": "taken", "title": key}, &created)
				case 3: // a claim whose client goes away is rolled back
					ctx, cancel := context.WithTimeout(t.Context(), rand.N(20*time.Millisecond))
					_, _ = ada.try(ctx, "POST", mission+"/claim", map[string]any{"agent": key})
					cancel()
				}
			}
		})
	}
	writers.Wait()
	if err := s.stop(); err != nil { // what was given up may still go on until here
		t.Fatal(err)
	}

	ada.base = startTestServer(t, s.config.DatabaseURL, nil).url()
	events := ada.events(mission, 50)
	kinds := make(map[string]int)
	for i, e := range events {
		if e.Seq != int64(i+1) || e.Stream != idOf(mission) {
			t.Fatalf("event %d has the number %d of the stream %s", i+1, e.Seq, e.Stream)
		}
		kinds[e.Type]++
	}
	if last := ada.lastSeq(mission); last != len(events) {
		t.Errorf("last_seq is %d of %d events", last, len(events))
	}
	specs := 1 + int(created.Load())
	if kinds["log"] != 3*int(logs.Load()) || kinds["spec.created"] != specs {
		t.Errorf("got %v from %d logs and %d specs", kinds, logs.Load(), specs)
	}
	m := ada.get(mission)
	if m.number("stats.in_progress") != kinds["spec.claimed"] || m.number("stats.total") != specs ||
		m.number("stats.ready") != specs-kinds["spec.claimed"] {
		t.Errorf("of %v the stats say %s", kinds, m.body)
	}
}

func TestNewMissionHasOneEvent(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("New")
	events := ada.events(mission, 200)
	if len(events) != 1 {
		t.Fatalf("there are %d", len(events))
	}
	e := events[0]
	if e.Seq != 1 || e.Type != "mission.created" || *e.MissionID != idOf(mission) || e.SpecID != nil ||
		*e.Actor.UserID != ada.user.ID || e.Actor.Agent != nil {
		t.Errorf("got %+v", e)
	}
	if a := ada.get(mission + "/events"); a.number("first_seq") != 1 || a.number("last_seq") != 1 {
		t.Errorf("got %s", a.body)
	}
}

func TestEventsArePaged(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Pages")
	for i := range 6 {
		ada.newSpec(mission, fmt.Sprintf("spec-%d", i), nil)
	}
	for _, limit := range []int{1, 3, 7, 200} {
		if events := ada.events(mission, limit); len(events) != 7 {
			t.Errorf("%d events in pages of %d", len(events), limit)
		}
	}
	for query, want := range map[string]string{"?after=0&limit=2": "1 2", "?after=5": "6 7", "?after=7": "",
		"?limit=1": "1"} {
		var view eventsView
		ada.get(mission + "/events" + query).want(http.StatusOK).into(&view)
		var got []string
		for _, e := range view.Items {
			got = append(got, fmt.Sprint(e.Seq))
		}
		if strings.Join(got, " ") != want || view.FirstSeq != 1 || view.LastSeq != 7 || view.Items == nil {
			t.Errorf("%s: %v from %d to %d, want %s", query, got, view.FirstSeq, view.LastSeq, want)
		}
	}
	for _, query := range []string{"after=-1", "after=x", "after=9223372036854775808"} {
		ada.get(mission + "/events?" + query).wantFields("after")
	}
	ada.get(mission + "/events?limit=201").wantFields("limit")
	ahead := ada.get(mission+"/events?after=8").wantProblem(http.StatusConflict, "cursor_ahead")
	own := ada.get("/api/v1/events?after=8").wantProblem(http.StatusConflict, "cursor_ahead") // it is about no one mission
	if !strings.HasSuffix(ahead.text("detail"), "go on after 7.") || !strings.HasSuffix(own.text("detail"), "go on after 0.") ||
		strings.Contains(own.text("detail"), "mission") {
		t.Errorf("got %s\n%s", ahead.body, own.body)
	}
}

func TestEventsThatAreGoneAreSaidToBe(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Gone")
	for i := range 5 {
		ada.newSpec(mission, fmt.Sprintf("spec-%d", i), nil)
	}
	s.runSQL("UPDATE heads SET first_seq = 4 WHERE stream = '"+idOf(mission)+"'",
		"DELETE FROM events WHERE seq < 4 AND stream = '"+idOf(mission)+"'")
	for after, status := range map[int]int{0: http.StatusGone, 2: http.StatusGone, 3: http.StatusOK, 6: http.StatusOK,
		7: http.StatusConflict} {
		a := ada.get(fmt.Sprintf("%s/events?after=%d", mission, after)).want(status)
		switch {
		case status == http.StatusGone:
			if a.wantProblem(status, "cursor_gone"); a.number("first_seq") != 4 {
				t.Errorf("got %s", a.body)
			}
		case status == http.StatusConflict && a.number("last_seq") != 6, after == 3 && a.number("items.0.seq") != 4:
			t.Errorf("got %s", a.body)
		}
	}
	if events := ada.events(mission, 2); len(events) != 3 || events[0].Seq != 4 {
		t.Errorf("without a cursor: %+v", events)
	}
}

func TestOldEventsArePruned(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	kept, pruned := ada.newMission("Kept"), ada.newMission("Pruned")
	entries := slices.Repeat([]map[string]any{{"level": "info", "message": "x"}}, 900)
	for range 3 { // more than one batch
		ada.post(pruned+"/logs", map[string]any{"entries": entries}).want(http.StatusCreated)
	}
	s.runSQL("UPDATE events SET at = at - interval '1 year' WHERE seq <= 2600 AND stream = '"+idOf(pruned)+"'",
		"UPDATE heads SET oldest_at = oldest_at - interval '1 year' WHERE stream = '"+idOf(pruned)+"'")
	eventually(t, "what is old is gone", func() bool { // not while the server itself sweeps
		if err := s.prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		return ada.get(pruned+"/events?limit=1").number("first_seq") == 2601
	})
	if a := ada.get(pruned + "/events?limit=1"); a.number("items.0.seq") != 2601 || a.number("last_seq") != 2701 {
		t.Errorf("got %s", a.body)
	}
	ada.get(pruned+"/events?after=2599").wantProblem(http.StatusGone, "cursor_gone")
	if a := ada.get(kept + "/events"); a.number("first_seq") != 1 || a.number("items.0.seq") != 1 {
		t.Errorf("got %s", a.body)
	}
}

func TestLogsJoinTheStream(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission, other := ada.newMission("Logs"), ada.newMission("Other")
	spec, foreign := idOf(ada.newSpec(mission, "here", nil)), idOf(ada.newSpec(other, "there", nil))
	entry := func(fields map[string]any) map[string]any {
		e := map[string]any{"level": "info", "message": "hello"}
		for name, value := range fields {
			if e[name] = value; value == nil {
				delete(e, name)
			}
		}
		return e
	}
	many := slices.Repeat([]any{entry(nil)}, 1001)
	if a := ada.post(mission+"/logs", map[string]any{"entries": many[:1000]}).want(http.StatusCreated); a.number("last_seq") != 1002 {
		t.Errorf("got %s", a.body)
	}
	full := entry(map[string]any{"level": "error",
		"fields": map[string]any{"n": 1.5, "deep": []any{nil, "é"}}, "spec_id": spec})
	ada.post(mission+"/logs", map[string]any{"entries": []any{full, entry(nil)}}).want(http.StatusCreated)
	got := ada.get(mission + "/events?after=1002")
	if got.text("items.0.data.level") != "error" || got.text("items.0.data.fields.deep.1") != "é" ||
		got.text("items.0.spec_id") != spec ||
		got.text("items.0.type") != "log" || got.at("items.1.spec_id") != nil {
		t.Errorf("got %s", got.body)
	}
	for _, c := range []struct {
		name    string
		entries []any
		field   string
	}{
		{"none", []any{}, "entries"},
		{"too many", many, "entries"},
		{"no level", []any{entry(map[string]any{"level": nil})}, "entries[0].level"},
		{"unknown level", []any{entry(nil), entry(map[string]any{"level": "INFO"})}, "entries[1].level"},
		{"no message", []any{entry(map[string]any{"message": ""})}, "entries[0].message"},
		{"long message", []any{entry(map[string]any{"message": strings.Repeat("x", 8193)})}, "entries[0].message"},
		{"large fields", []any{entry(map[string]any{"fields": map[string]any{"x": strings.Repeat("x",
			16<<10)}})}, "entries[0].fields"},
		{"fields a list", []any{entry(map[string]any{"fields": []any{}})}, "entries[0].fields"},
		{"no id", []any{entry(map[string]any{"spec_id": "here"})}, "entries[0].spec_id"},
		{"another mission's spec", []any{entry(map[string]any{"spec_id": spec}), entry(map[string]any{"spec_id": foreign})},
			"entries"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ada.in(t).post(mission+"/logs", map[string]any{"entries": c.entries}).wantFields(c.field)
		})
	}
	if last := ada.lastSeq(mission); last != 1004 {
		t.Errorf("what was refused made events: %d", last)
	}
}

func TestDeletedMissionKeepsItsLastEvent(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Deleted")
	ada.newSpec(mission, "spec", nil)
	ada.delete(mission).want(http.StatusNoContent)
	ada.get(mission+"/events").wantProblem(http.StatusNotFound, "not_found")
	rows, err := s.db.Query(t.Context(), `SELECT seq || ' ' || type FROM events WHERE stream = $1 ORDER BY seq`,
		idOf(mission))
	if err != nil {
		t.Fatal(err)
	}
	events, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if want := []string{"1 mission.created", "2 spec.created",
		"3 mission.deleted"}; err != nil || !slices.Equal(events, want) {
		t.Errorf("got %q (%v), want %q", events, err, want)
	}
}

// Growth is announced at once if nothing was announced lately, and otherwise
// together with what follows.
func TestFirstWakeUpIsSentAtOnceAndTheNextAreGathered(t *testing.T) {
	t.Parallel()
	databaseURL := newTestDatabase(t)
	connections, err := pgxpool.New(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer connections.Close()
	listener, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close(context.Background())
	if _, err := listener.Exec(t.Context(), "LISTEN "+feedChannel); err != nil {
		t.Fatal(err)
	}
	hear := func() map[string]int64 {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		n, err := listener.WaitForNotification(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return parseHeads(n.Payload)
	}

	f := newFeed(&dbPool{Pool: connections, timeouts: patientTimeouts}, nil, new(databaseTrouble), nil, nil, nil, slog.New(slog.DiscardHandler))
	f.each = time.Hour
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.announceAll(ctx)
	}()
	a, b := newID(), newID()
	f.announce(map[string]int64{a: 1})
	if got := hear(); !maps.Equal(got, map[string]int64{a: 1}) {
		t.Errorf("at once: got %v", got)
	}
	f.announce(map[string]int64{a: 2})
	f.announce(map[string]int64{b: 7})
	f.announce(map[string]int64{a: 3})
	stop() // or else they would come in an hour
	if got := hear(); !maps.Equal(got, map[string]int64{a: 3, b: 7}) {
		t.Errorf("gathered: got %v", got)
	}
	<-ended
}

// Log entries of many requests are written together, but each request gets its own
// answer, with the number of its own last entry.
func TestLogsWrittenTogetherAreAnsweredApart(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, eve := s.signUp("ada", "user"), s.signUp("eve", "user")
	missions := []string{ada.newMission("One"), ada.newMission("Two"), ada.newMission("Three")}
	theirs := ada.newSpec(missions[0], "theirs", nil)
	var mu sync.Mutex
	last := make(map[string]map[int64]string) // mission → last_seq → message of that entry
	var writing sync.WaitGroup
	for n := range 60 {
		writing.Go(func() {
			mission, as, want := missions[n%3], ada, http.StatusCreated
			entry := func(i int) fields { return fields{"level": "info", "message": fmt.Sprint(n, " ", i)} }
			entries := []any{entry(0), entry(1)}
			switch n % 10 {
			case 7:
				as, want = eve, http.StatusNotFound
			case 8: // a spec of another mission
				mission, want = missions[1], http.StatusUnprocessableEntity
				entries[1].(fields)["spec_id"] = path.Base(theirs)
			case 9:
				entries[1].(fields)["fields"] = fields{"n": 1}
			}
			a, err := as.try(t.Context(), "POST", mission+"/logs", fields{"entries": entries})
			if err != nil || a.status != want {
				t.Errorf("%d: %v %v, want %d", n, err, a, want)
				return
			}
			if want != http.StatusCreated {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if last[mission] == nil {
				last[mission] = make(map[int64]string)
			}
			last[mission][int64(a.number("last_seq"))] = fmt.Sprint(n, " 1")
		})
	}
	writing.Wait()
	for _, mission := range missions {
		var events eventsView
		ada.get(mission + "/events?limit=200").want(http.StatusOK).into(&events)
		for i, e := range events.Items {
			data, _ := e.Data.(map[string]any)
			if e.Seq != int64(i)+1 {
				t.Fatalf("event %d has number %d", i+1, e.Seq)
			}
			if want, ok := last[mission][e.Seq]; ok && data["message"] != want {
				t.Errorf("event %d says %v, and its request was told it is %q", e.Seq, data["message"], want)
			}
			delete(last[mission], e.Seq)
		}
		if len(last[mission]) > 0 {
			t.Errorf("answered and not there: %v", last[mission])
		}
	}
}

// A mission that is locked for its deletion keeps nobody else's entries waiting.
func TestLogsOfALockedMissionHoldUpNoOthers(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	locked, free := ada.newMission("Locked"), ada.newMission("Free")
	held, err := s.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Rollback(t.Context()) //nolint:errcheck // there is nothing to keep
	if _, err := held.Exec(t.Context(), `SELECT FROM missions WHERE id = $1 FOR UPDATE`, idOf(locked)); err != nil {
		t.Fatal(err)
	}
	waits := make(chan *answer)
	go func() {
		a, err := ada.try(t.Context(), "POST", locked+"/logs",
			fields{"entries": []any{fields{"level": "info", "message": "x"}}})
		if err != nil {
			t.Error(err)
		}
		waits <- a
	}()
	for range 5 {
		ada.post(free+"/logs", fields{"entries": []any{fields{"level": "info", "message": "x"}}}).want(http.StatusCreated)
	}
	select {
	case a := <-waits:
		t.Fatalf("the locked mission's entries were answered with %+v", a)
	default:
	}
	if err := held.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := <-waits; a == nil || a.status != http.StatusCreated {
		t.Errorf("once it is free its entries get %+v", a)
	}
}

// Servers that don't know of proposals leave their counters behind.
func TestStartCountsProposalsAnew(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	s := startTestServer(t, database, nil)
	ada := s.signUp("ada", "user")
	missions := []string{ada.newActive("Lost"), ada.newActive("Left behind"), ada.newActive("Right")}
	for _, mission := range missions {
		ada.newSpec(mission, "found", fields{"status": "proposed"})
	}
	s.runSQL(`UPDATE heads SET proposed = 0 WHERE stream = '`+idOf(missions[0])+`'`,
		`UPDATE spec_states SET status = 'planned' WHERE mission_id = '`+idOf(missions[1])+`'`,
		`UPDATE heads SET planned = 1, unblocked = 1 WHERE stream = '`+idOf(missions[1])+`'`)
	startTestServer(t, database, nil)
	for i, want := range []int{1, 0, 1} {
		eventually(t, "the counters", func() bool { return ada.get(missions[i]).number("stats.proposed") == want })
		s.checkCounters(ada, missions[i])
	}
}

// streamClient is a client of server-sent events.
type streamClient struct {
	t      testing.TB
	lines  *bufio.Scanner
	cancel context.CancelFunc
}

// stream opens a stream of events and ends the test unless it is accepted.
func (c *client) stream(path string, headers ...string) *streamClient {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*patience)
	r, err := http.NewRequestWithContext(ctx, "GET", c.base+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+c.token)
	r.Header.Set("Accept", "text/event-stream")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		c.t.Fatalf("%s: status %d", path, response.StatusCode)
	}
	c.t.Cleanup(func() {
		cancel()
		response.Body.Close()
	})
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	return &streamClient{c.t, lines, cancel}
}

// next returns the next event, or false at the end of the stream.
func (s *streamClient) next() (e event, ok bool) {
	s.t.Helper()
	id := ""
	for s.lines.Scan() {
		line := s.lines.Text()
		if value, is := strings.CutPrefix(line, "id: "); is {
			id = value
		}
		if value, is := strings.CutPrefix(line, "data: "); is {
			checkMessage(s.t, "Event", []byte(value), true)
			if err := json.Unmarshal([]byte(value), &e); err != nil {
				s.t.Fatal(err)
			}
			if id == "" {
				s.t.Fatalf("an event without an id: %s", value)
			}
			return e, true
		}
	}
	return e, false
}

// want reads events until one of a type, and checks that none is missing.
func (s *streamClient) want(kind string, after int64) event {
	s.t.Helper()
	for {
		e, ok := s.next()
		if !ok {
			s.t.Fatalf("the stream ended before %s", kind)
		}
		if after++; e.Seq != after {
			s.t.Fatalf("got seq %d, want %d", e.Seq, after)
		}
		if e.Type == kind {
			return e
		}
	}
}

func TestStreamTellsAMissionsStoryLive(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	mission := ada.newMission("Live")
	stream := ada.stream(mission + "/events")
	stream.want("mission.created", 0)
	ada.newSpec(mission, "one", nil)
	ada.put(mission+"/members", map[string]any{"email": "bob@example.com", "role": "viewer"}).want(http.StatusOK)
	set := stream.want("member.set", 1)

	guest := bob.stream(mission+"/events", "Last-Event-ID", "1")
	guest.want("member.set", 1)
	ada.delete(mission + "/members/" + bob.user.ID).want(http.StatusNoContent)
	guest.want("member.removed", set.Seq)
	if _, ok := guest.next(); ok {
		t.Error("a removed member got another event")
	}

	ada.delete(mission).want(http.StatusNoContent)
	stream.want("mission.deleted", set.Seq)
	if _, ok := stream.next(); ok {
		t.Error("an event came after the end")
	}
}

func TestStreamEndsWithTheCredentialAndTheServer(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Ends")
	stream := ada.stream(mission + "/events?after=latest")
	other := s.logIn("ada@example.com").stream(mission + "/events?after=latest")
	ada.post("/api/v1/auth/logout", nil).want(http.StatusNoContent)
	if _, ok := stream.next(); ok {
		t.Error("a stream outlived its session")
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if _, ok := other.next(); ok {
		t.Error("a stream outlived the server")
	}
}

// A client that catches up after it was removed is cut off at the event that gave
// it access, and a deleted mission ends the stream.
func TestCatchingUpEndsWithThePermissionAndTheMission(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	mission := ada.newMission("Long")
	ada.put(mission+"/members", map[string]any{"email": "bob@example.com", "role": "viewer"}).want(http.StatusOK)
	ada.delete(mission + "/members/" + bob.user.ID).want(http.StatusNoContent)
	ada.newSpec(mission, "secret", nil)
	check := func(who *client, want string) {
		stream := s.streamFromTheStart(who, idOf(mission))
		var got []string
		for line := range strings.Lines(stream.Body.String()) {
			var e event
			if data, is := strings.CutPrefix(line, "data: "); is && json.Unmarshal([]byte(data), &e) == nil {
				got = append(got, e.Type)
			}
		}
		if len(got) == 0 || got[len(got)-1] != want {
			t.Errorf("the last of %v isn't %s", got, want)
		}
		if !stream.deadline.IsZero() {
			t.Error("a deadline is left, at which HTTP/2 would end the stream")
		}
	}
	check(bob, "member.set")
	ada.delete(mission).want(http.StatusNoContent)
	check(ada, "mission.deleted")
}

// streamRecorder is a ResponseWriter that knows its write deadline.
type streamRecorder struct {
	*httptest.ResponseRecorder
	deadline time.Time
}

func (r *streamRecorder) SetWriteDeadline(t time.Time) error {
	r.deadline = t
	return nil
}

// streamFromTheStart follows a stream for an account that was admitted long ago.
func (s *testServer) streamFromTheStart(who *client, stream string) *streamRecorder {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	r, c := httptest.NewRequestWithContext(ctx, "GET", "/", nil), &call{account: account{userID: who.user.ID}}
	var head int64
	if err := s.db.QueryRow(ctx, `SELECT seq FROM heads WHERE stream = $1`, stream).Scan(&head); err != nil {
		s.t.Fatal(err)
	}
	w := &streamRecorder{ResponseRecorder: httptest.NewRecorder()}
	if err := s.streamEvents(w, r, c, &follower{topic: &topicName{Stream: stream}}, head); err != nil {
		s.t.Fatal(err)
	}
	return w
}

// An admin sees every mission, and stops seeing them with the role.
func TestStreamEndsWithTheRole(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	root, deputy := s.signUp("root", "admin"), s.signUp("deputy", "admin")
	stream := deputy.stream(s.signUp("ada", "user").newMission("Private") + "/events")
	stream.want("mission.created", 0)
	root.patch("/api/v1/users/"+deputy.user.ID, map[string]any{"role": "user"}).want(http.StatusOK)
	if _, ok := stream.next(); ok {
		t.Error("got another event")
	}
}

// A HEAD request ends after the header.
func TestHeadOfAStreamDoesNotFollowIt(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	a := ada.do("HEAD", ada.newMission("Head")+"/events", nil, "Accept", "text/event-stream").want(http.StatusOK)
	if got := a.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("got %s", got)
	}
}

// A follower whose head was read before events that a waiting claim already knows
// of gets them without waiting for the next one: by itself or from the pump.
func TestFollowerGetsWhatCameBeforeItsTopic(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Late")
	_, _, stop := s.hub.watch(idOf(mission))
	defer stop()
	ada.newSpec(mission, "one", nil)
	ready := make(chan struct{}, 1)
	f := &follower{topic: &topicName{Stream: idOf(mission)}, queue: newQueue(10, func() { trySend(ready) }), last: 1}
	s.hub.follow(f, 1)
	defer s.hub.unfollow(f)
	if !s.hub.caughtUp(f) {
		return // it reads the database first
	}
	select {
	case <-ready:
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
}

func TestNotificationsComeOnTheOwnStream(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	stream := bob.stream("/api/v1/events")
	mission := ada.newMission("Shared")
	ada.put(mission+"/members", map[string]any{"email": "bob@example.com", "role": "viewer"}).want(http.StatusOK)
	ada.get("/api/v1/missions/"+ada.user.ID+"/events").wantProblem(http.StatusNotFound, "not_found")
	if e := stream.want("notification", 0); e.Actor.UserID == nil || *e.Actor.UserID != ada.user.ID {
		t.Errorf("got %+v", e)
	}
}

// long reports whether tests may take minutes.
func long() bool { return os.Getenv("TACHIKOMA_LONG") != "" }

// patience is how long a test waits for what should happen soon.
const patience = time.Minute

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

// mute keeps notifications from leaving a database, like a pooler that can't
// LISTEN: servers that connect from now on find another pg_notify.
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

// What is done on one server takes effect on another one, long before that forgets
// a credential by itself, also if they can't notify each other and only poll.
func TestServersKeepInStepWithAndWithoutListen(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"listen", "poll"} {
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
			// soon measures until something done here shows there.
			soon := func(what string, done func() bool) {
				t.Helper()
				start := time.Now()
				if !within(patience/2, done) {
					t.Fatalf("not within %v: %s", patience/2, what)
				}
				t.Logf("%s after %v", what, time.Since(start))
			}

			session := there.logIn(ada.user.Email)
			session.get(mission).want(http.StatusOK)
			(&client{t: t, base: here.url(), token: session.token}).post("/api/v1/auth/logout", nil).want(http.StatusNoContent)
			soon("a session has ended", func() bool { return session.get(mission).status == http.StatusUnauthorized })

			key := ada.post("/api/v1/api-keys", map[string]any{"name": "k", "scope": "write"}).want(http.StatusCreated)
			agent := &client{t: t, base: there.url(), token: key.text("key")}
			admin := there.logIn(ada.user.Email)
			answered := waitingClaim(t, admin, mission)
			ada.newSpec(mission, "one", nil)
			soon("a claim that waits gets its spec", func() bool {
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
			soon("a key has ended", func() bool { return agent.get(mission).status == http.StatusUnauthorized })

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
