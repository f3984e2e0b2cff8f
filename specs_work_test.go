package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// pauseSweep keeps servers on this database from taking leases back, but when
// they are asked for a claim, until the test ends.
func (s *testServer) pauseSweep() {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.config.DatabaseURL)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	if _, err := conn.Exec(s.t.Context(), `SELECT pg_advisory_lock($1)`, sweepLock); err != nil {
		s.t.Fatal(err)
	}
}

// expireLease puts the end of the lease on a spec into the past.
func (s *testServer) expireLease(spec string) {
	s.t.Helper()
	tag, err := s.db.Exec(s.t.Context(),
		`UPDATE leases SET expires_at = clock_timestamp() - interval '1 second' WHERE spec_id = $1`, path.Base(spec))
	if err != nil || tag.RowsAffected() != 1 {
		s.t.Fatalf("expiring a lease: %v, %v", tag, err)
	}
}

// notificationsOf are the messages on somebody's own stream.
func (s *testServer) notificationsOf(c *client) string {
	s.t.Helper()
	var messages string
	err := s.db.QueryRow(s.t.Context(), `
		SELECT coalesce(string_agg(data->>'message', E'\n' ORDER BY seq), '') FROM events
		WHERE stream = $1 AND type = 'notification'`, c.user.ID).Scan(&messages)
	if err != nil {
		s.t.Fatal(err)
	}
	return messages
}

// eventsOf are the events of the mission at a path, the oldest first, up to 200.
func (c *client) eventsOf(mission string) []event {
	c.t.Helper()
	var view eventsView
	c.get(mission + "/events?limit=200").want(http.StatusOK).into(&view)
	return view.Items
}

// lastEvent is the newest event of a type, with its data.
func (c *client) lastEvent(mission, kind string) map[string]any {
	c.t.Helper()
	for _, e := range slices.Backward(c.eventsOf(mission)) {
		if e.Type == kind {
			data, _ := e.Data.(map[string]any)
			return data
		}
	}
	c.t.Fatalf("%s has no event %s", mission, kind)
	return nil
}

// countEvents counts the events of a type.
func (c *client) countEvents(mission, kind string) int {
	c.t.Helper()
	n := 0
	for _, e := range c.eventsOf(mission) {
		if e.Type == kind {
			n++
		}
	}
	return n
}

// newActive makes a mission and starts it.
func (c *client) newActive(name string) string {
	c.t.Helper()
	mission := c.newMission(name)
	c.post(mission+"/start", nil).want(http.StatusOK)
	return mission
}

type fields = map[string]any

func TestFiftyAgentsNeverGetTheSameSpec(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Crowd")
	const specs, agents = 60, 50
	for i := range specs {
		ada.newSpec(mission, fmt.Sprintf("s%d", i), nil)
	}
	var mu sync.Mutex
	holders := make(map[string]string)
	var working sync.WaitGroup
	for i := range agents {
		working.Go(func() {
			agent := fmt.Sprintf("agent-%d", i)
			for {
				a, err := ada.try(t.Context(), "POST", mission+"/claim", fields{"agent": agent})
				if err != nil || a.status == http.StatusNoContent {
					if err != nil {
						t.Error(err)
					}
					return
				}
				if a.overloaded() {
					continue
				}
				if a.status != http.StatusOK {
					t.Errorf("status %d: %s", a.status, a.body)
					return
				}
				id := a.text("spec.id")
				mu.Lock()
				if other := holders[id]; other != "" {
					t.Errorf("%s and %s both hold %s", other, agent, a.text("spec.key"))
				}
				holders[id] = agent
				mu.Unlock()
			}
		})
	}
	working.Wait()
	if len(holders) != specs {
		t.Errorf("%d of %d specs were handed out", len(holders), specs)
	}
	for id, agent := range holders {
		v := ada.get("/api/v1/specs/" + id).want(http.StatusOK)
		if v.text("claim.agent") != agent || v.number("attempts") != 1 {
			t.Errorf("%s was told it holds %s", agent, v.body)
		}
	}
}

func TestClaimTakesHighestPriorityThenLowestNumber(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Order")
	for _, spec := range []struct {
		key, number string
		priority    int
	}{
		{"tenth-a", "10a", 5}, {"last", "1", 0}, {"hundredth", "100", 5}, {"tenth", "10", 5},
		{"urgent-two", "200", 9}, {"urgent-one", "31", 9}, {"ninth", "9", 5}, {"none", "", 5},
	} {
		ada.newSpec(mission, spec.key, fields{"number": spec.number, "priority": spec.priority})
	}
	var got []string
	for range 8 {
		got = append(got, ada.post(mission+"/claim", fields{"agent": "bot"}).want(http.StatusOK).text("spec.key"))
	}
	want := []string{"urgent-one", "urgent-two", "none", "ninth", "tenth", "tenth-a", "hundredth", "last"}
	if !slices.Equal(got, want) {
		t.Errorf("claimed in the order %q, want %q", got, want)
	}
	ada.post(mission+"/claim", fields{"agent": "bot"}).want(http.StatusNoContent)
}

func TestClaimTakesOnlyWhatItAskedFor(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Filters")
	ada.newSpec(mission, "go", fields{"number": "1", "tags": []string{"go"}})
	ada.newSpec(mission, "go-sql", fields{"number": "2", "tags": []string{"go", "sql"}, "phase": "Phase 2"})
	ada.newSpec(mission, "sql", fields{"number": "3", "tags": []string{"sql"}, "phase": "Phase 2"})
	for _, test := range []struct {
		ask  fields
		want string
	}{
		{fields{}, "go"},
		{fields{"tags": []string{}}, "go"},
		{fields{"tags": []string{"sql"}}, "go-sql"},
		{fields{"tags": []string{"sql", "go"}}, "go-sql"},
		{fields{"tags": []string{"sql", "rust"}}, ""},
		{fields{"phase": "Phase 2"}, "go-sql"},
		{fields{"phase": "Phase 3"}, ""},
		{fields{"phase": "Phase 2", "tags": []string{"sql"}}, "go-sql"},
	} {
		test.ask["agent"] = "bot"
		a := ada.post(mission+"/claim", test.ask)
		if test.want == "" {
			a.want(http.StatusNoContent)
			continue
		}
		if got := a.want(http.StatusOK).text("spec.key"); got != test.want {
			t.Errorf("%v got %s, want %s", test.ask, got, test.want)
		}
		ada.post("/api/v1/specs/"+a.text("spec.id")+"/release", nil).want(http.StatusOK)
	}
	start := time.Now()
	ada.post(mission+"/claim", fields{"agent": "bot", "phase": "Phase 3", "wait_seconds": 1}).want(http.StatusNoContent)
	if waited := time.Since(start); waited < time.Second {
		t.Errorf("a claim that may wait a second waited %v", waited)
	}
}

// waitForClaim starts a claim that waits, and returns when it does. The answer
// comes on the channel; nil is a request that failed.
func (s *testServer) waitForClaim(ctx context.Context, c *client, mission string) <-chan *answer {
	s.t.Helper()
	answers := make(chan *answer, 1)
	go func() {
		a, _ := c.try(ctx, "POST", mission+"/claim", fields{"agent": "patient", "wait_seconds": 50})
		answers <- a
	}()
	eventually(s.t, "the claim to wait", func() bool { return s.waits(mission) })
	return answers
}

func (s *testServer) waits(mission string) bool {
	return slices.Contains(s.hub.watched(), path.Base(mission))
}

func TestWaitingClaimIsWoken(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	s, other := startTestServer(t, database, nil), startTestServer(t, database, nil)
	ada := s.signUp("ada", "user")
	elsewhere := &client{t: t, base: other.url(), token: ada.token, user: ada.user}
	var waits []float64 // s
	tests := []struct {
		name   string
		by     *client
		wake   func(c *client, mission, spec string)
		status int
	}{
		{"a dependency completed", ada, finish, http.StatusOK},
		{"a dependency completed on another server", elsewhere, finish, http.StatusOK},
		{"a new spec", ada, func(c *client, mission, _ string) { c.newSpec(mission, "new", nil) }, http.StatusOK},
		{"a new spec on another server", elsewhere, func(c *client, mission, _ string) {
			c.newSpec(mission, "new",
				nil)
		}, http.StatusOK},
		{"a release", ada, func(c *client, _, spec string) {
			c.post(spec+"/release",
				nil).want(http.StatusOK)
		}, http.StatusOK},
		{"an expired lease", ada, func(_ *client, _, spec string) { s.expireLease(spec) }, http.StatusOK},
		{"a pause", ada, func(c *client, mission, _ string) {
			c.post(mission+"/pause",
				nil).want(http.StatusOK)
		}, http.StatusConflict},
		{"the mission's end", elsewhere, func(c *client, mission, _ string) {
			c.post(mission+"/cancel",
				nil).want(http.StatusOK)
		}, http.StatusConflict},
	}
	for _, test := range tests {
		mission := ada.newActive(test.name)
		ada.newSpec(mission, "first", nil)
		ada.newSpec(mission, "second", fields{"dependencies": []string{"first"}})
		spec, _ := ada.claim(mission, "bot")
		answers := s.waitForClaim(t.Context(), ada, mission)
		test.wake(test.by, mission, spec)
		start := time.Now()
		select {
		case a := <-answers:
			if a == nil || a.status != test.status {
				t.Errorf("%s: the waiting claim got %+v, want %d", test.name, a, test.status)
			}
		case <-time.After(patience):
			t.Errorf("%s didn't wake the claim", test.name)
		}
		waits = append(waits, time.Since(start).Seconds())
	}
	if median(waits) > claimRetry.Seconds()*3/4 {
		t.Errorf("the claims waited %v s, as if they had only looked by themselves now and then", waits)
	}
}

// Of what makes no spec ready, such as log lines, waiting claims hear nothing.
func TestWaitingClaimsSleepThroughLogLines(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	s, other := startTestServer(t, database, nil), startTestServer(t, database, nil)
	ada := s.signUp("ada", "user")
	elsewhere := &client{t: t, base: other.url(), token: ada.token, user: ada.user}
	mission := ada.newActive("Chatty")
	ada.newSpec(mission, "held", fields{"body": "## Acceptance Criteria\n- [ ] one\n"})
	grown, _, stop := s.hub.watch(idOf(mission))
	defer stop()
	woken := func(what string, by *client, want bool) {
		t.Helper()
		seq := int64(by.get(mission + "/events?after=latest").number("last_seq"))
		read := func() bool {
			s.hub.mu.Lock()
			defer s.hub.mu.Unlock()
			return s.hub.topics[idOf(mission)].delivered >= seq
		}
		eventually(t, "the events to be read", read)
		select {
		case <-grown:
			if !want {
				t.Errorf("%s woke those who wait for work", what)
			}
		default:
			if want {
				t.Errorf("%s didn't wake those who wait for work", what)
			}
		}
	}
	ada.newSpec(mission, "first", nil)
	woken("a spec, before anything else is known,", ada, true)
	for _, c := range []*client{ada, elsewhere} {
		c.post(mission+"/logs", fields{"entries": []fields{{"level": "info", "message": "hello"}}}).want(http.StatusCreated)
		woken("a log line", c, false)
		spec, token := c.claim(mission, "bot")
		woken("a claim", c, false)
		c.post(spec+"/progress", fields{"lease_token": token, "message": "half of it"}).want(http.StatusOK)
		woken("progress", c, false)
		c.post(mission+"/logs", fields{"entries": []fields{{"level": "info", "message": "before"}}}).want(http.StatusCreated)
		c.post(spec+"/release", nil).want(http.StatusOK)
		c.post(mission+"/logs", fields{"entries": []fields{{"level": "info", "message": "after"}}}).want(http.StatusCreated)
		woken("a release between log lines", c, true)
	}
	ada.stream(mission + "/events?after=latest")
	ada.newSpec(mission, "second", nil)
	woken("a spec, while somebody follows too,", ada, true)
}

func TestWaitingClaimsLookInTurn(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Crowded")
	ada.newSpec(mission, "ready", nil)
	const waiting = 30
	var once, ended sync.WaitGroup
	var running, most atomic.Int64
	once.Add(waiting)
	for range waiting {
		first := true
		ended.Go(func() {
			_, err := s.tryPatiently(t.Context(), &call{target: target{mission: idOf(mission)}},
				&claimRequest{WaitSeconds: maxWait}, func() (*claimed, error) {
					if first {
						first = false
						once.Done()
						return nil, errNothingReady
					}
					if n := running.Add(1); n > most.Load() {
						most.Store(n)
					}
					defer running.Add(-1)
					_, err := s.db.Exec(t.Context(), `SELECT`)
					return nil, err
				})
			if err != nil {
				t.Error(err)
			}
		})
	}
	once.Wait()
	ada.newSpec(mission, "another", nil)
	ended.Wait()
	if n := most.Load(); n < 1 || n > 2 {
		t.Errorf("%d claims tried at a time, want at most 2", n)
	}
}

func finish(c *client, _, spec string) {
	c.t.Helper()
	c.post(spec+"/status", fields{"status": "completed"}).want(http.StatusOK)
}

func TestClaimIsNotMadeForAClientThatHasGone(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Gone")
	ctx, hangUp := context.WithCancel(t.Context())
	answers := s.waitForClaim(ctx, ada, mission)
	hangUp()
	if a := <-answers; a != nil {
		t.Fatalf("got %d %s", a.status, a.body)
	}
	eventually(t, "the server to notice", func() bool { return !s.waits(mission) })
	spec := ada.newSpec(mission, "free", nil)
	if v := ada.get(spec); v.at("claim") != nil || v.at("ready") != true {
		t.Errorf("somebody holds %s", v.body)
	}
}

func TestStoppingServerEndsWaitingClaims(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	answers := s.waitForClaim(t.Context(), ada, ada.newActive("Stop"))
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if a := <-answers; a == nil || a.status != http.StatusNoContent {
		t.Errorf("the waiting claim got %+v, want 204", a)
	}
}

func TestPausedMissionHandsOutNothingAndLetsHoldersFinish(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Pause")
	ada.newSpec(mission, "held", fields{"body": "## Acceptance Criteria\n- [ ] one\n", "number": "1"})
	waiting := ada.newSpec(mission, "waiting", fields{"number": "2"})
	spec, token := ada.claim(mission, "bot")
	ada.post(mission+"/pause", nil).want(http.StatusOK)

	ada.post(mission+"/claim", fields{"agent": "other"}).wantProblem(http.StatusConflict, "mission_not_active")
	if ada.get(waiting).at("ready") != false || ada.get(mission).number("stats.ready") != 0 {
		t.Error("a spec of a paused mission is ready")
	}
	ada.post(spec+"/heartbeat", fields{"lease_token": token}).want(http.StatusOK)
	ada.post(spec+"/progress", fields{"lease_token": token, "check": []int{1}}).want(http.StatusOK)
	ada.post(spec+"/complete", fields{"lease_token": token}).want(http.StatusOK)
	ada.post(mission+"/resume", nil).want(http.StatusOK)
	if spec, _ := ada.claim(mission, "other"); spec != waiting {
		t.Errorf("claimed %s, want %s", spec, waiting)
	}
}

func TestExpiredLeaseIsTakenOver(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	s.pauseSweep()
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Expiry")
	ada.newSpec(mission, "only", fields{"body": "## Acceptance Criteria\n- [ ] one\n"})
	spec, old := ada.claim(mission, "dead")

	s.expireLease(spec) // its time is over, but nobody has taken it back
	ada.post(spec+"/progress", fields{"lease_token": old, "check": []int{1}}).want(http.StatusOK)
	ada.post(spec+"/heartbeat", fields{"lease_token": old}).want(http.StatusOK)
	ada.post(mission+"/claim", fields{"agent": "heir"}).want(http.StatusNoContent)

	s.expireLease(spec)
	a := ada.post(mission+"/claim", fields{"agent": "heir"}).want(http.StatusOK)
	if a.number("lease.attempt") != 2 || a.number("spec.attempts") != 2 || a.text("spec.claim.agent") != "heir" {
		t.Errorf("got %s", a.body)
	}
	for action, more := range map[string]fields{
		"heartbeat": {}, "progress": {"uncheck": []int{1}}, "complete": {"notes": "mine"}, "fail": {"reason": "no"},
		"release": {},
	} {
		body := fields{"lease_token": old}
		for name, value := range more {
			body[name] = value
		}
		ada.post(spec+"/"+action, body).wantProblem(http.StatusConflict, "lease_lost")
	}
	if data := ada.lastEvent(mission, "spec.lease_expired"); data["attempt"] != 1. || data["status"] != "planned" {
		t.Errorf("the event says %v", data)
	}
	ada.post(spec+"/complete", fields{"lease_token": a.text("lease.token")}).want(http.StatusOK)
	ada.post(spec+"/complete", fields{"lease_token": a.text("lease.token")}).wantProblem(http.StatusConflict, "lease_lost")
}

func TestSweepTakesBackExpiredLeases(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Sweep")
	ada.newSpec(mission, "only", nil)
	spec, _ := ada.claim(mission, "dead")
	s.expireLease(spec)
	eventually(t, "the sweep", func() bool { return ada.get(spec).at("ready") == true })
	if v := ada.get(spec); v.at("claim") != nil || v.number("attempts") != 1 ||
		ada.get(mission).number("stats.ready") != 1 {
		t.Errorf("got %s", v.body)
	}
	ada.lastEvent(mission, "spec.lease_expired")
}

func TestSpecIsBlockedWhenItsAttemptsAreUsedUp(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.MaxAttempts = 2 })
	s.pauseSweep()
	for _, test := range []struct {
		name string
		end  func(c *client, mission, spec, token string)
	}{
		{"failure", func(c *client, _, spec, token string) {
			c.post(spec+"/fail", fields{"lease_token": token, "reason": "too hard"}).want(http.StatusOK)
		}},
		{"expiry", func(c *client, mission, spec, _ string) {
			s.expireLease(spec)
			c.post(mission+"/claim", fields{"agent": "other", "tags": []string{"none"}}).want(http.StatusNoContent)
		}},
	} {
		owner := s.signUp(test.name, "user")
		mission := owner.newActive(test.name)
		owner.newSpec(mission, "hard", nil)
		for attempt, want := range []string{"planned", "blocked"} {
			spec, token := owner.claim(mission, "bot")
			test.end(owner, mission, spec, token)
			v := owner.get(spec)
			if v.text("status") != want || v.number("attempts") != attempt+1 || v.at("claim") != nil {
				t.Errorf("%s %d: got %s, want %s", test.name, attempt+1, v.body, want)
			}
			if told := strings.Contains(s.notificationsOf(owner), "hard"); told != (want == "blocked") {
				t.Errorf("%s %d: the owner was told: %v", test.name, attempt+1, told)
			}
		}
		owner.post(mission+"/claim", fields{"agent": "bot"}).want(http.StatusNoContent)
		spec := "/api/v1/specs/" + owner.get("/api/v1/specs?mission_id="+path.Base(mission)).text("items.0.id")
		owner.post(spec+"/status", fields{"status": "planned"}).want(http.StatusOK)
		if a := owner.post(mission+"/claim", fields{"agent": "bot"}).want(http.StatusOK); a.number("lease.attempt") != 1 {
			t.Errorf("%s: unblocked, it starts at attempt %d", test.name, a.number("lease.attempt"))
		}
	}
}

func TestFailWithoutRetryBlocks(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, eve := s.signUp("ada", "user"), s.signUp("eve", "user")
	mission := ada.newActive("Fail")
	ada.put(mission+"/members", fields{"email": eve.user.Email, "role": "editor"}).want(http.StatusOK)
	ada.newSpec(mission, "hopeless", nil)
	for _, test := range []struct {
		retry any
		want  string
	}{{true, "planned"}, {nil, "planned"}, {false, "blocked"}} {
		spec, token := eve.claim(mission, "bot")
		body := fields{"lease_token": token, "reason": "no way"}
		if test.retry != nil {
			body["retry"] = test.retry
		}
		if test.want == "planned" {
			if _, err := s.db.Exec(t.Context(), `UPDATE spec_states SET attempts = 1`); err != nil {
				t.Fatal(err)
			}
		}
		if got := eve.post(spec+"/fail", body).want(http.StatusOK).text("status"); got != test.want {
			t.Errorf("retry %v: %s, want %s", test.retry, got, test.want)
		}
	}
	if data := ada.lastEvent(mission, "spec.failed"); data["reason"] != "no way" || data["status"] != "blocked" {
		t.Errorf("the event says %v", data)
	}
	if got := s.notificationsOf(ada); !strings.Contains(got, "no way") ||
		s.notificationsOf(eve) != "You are now a member of the mission \"Fail\", with the role editor." {
		t.Errorf("the owner was told %q", got)
	}
}

func TestReleaseGivesTheAttemptBack(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, eve, root := s.signUp("ada", "user"), s.signUp("eve", "user"), s.signUp("root", "admin")
	mission := ada.newActive("Release")
	ada.put(mission+"/members", fields{"email": eve.user.Email, "role": "editor"}).want(http.StatusOK)
	ada.newSpec(mission, "only", nil)
	for _, who := range []*client{eve, ada, root} {
		a := eve.post(mission+"/claim", fields{"agent": "bot"}).want(http.StatusOK)
		if got := a.number("lease.attempt"); got != 1 {
			t.Errorf("attempt %d, want 1", got)
		}
		spec, body := "/api/v1/specs/"+a.text("spec.id"), any(nil)
		eve.post(spec+"/release", nil).wantFields("lease_token")
		ada.post(spec+"/release", fields{"lease_token": "lt_wrong"}).wantProblem(http.StatusConflict, "lease_lost")
		if who == eve {
			body = fields{"lease_token": a.text("lease.token")}
		}
		v := who.post(spec+"/release", body).want(http.StatusOK)
		if v.text("status") != "planned" || v.number("attempts") != 0 || v.at("claim") != nil || v.at("ready") != true {
			t.Errorf("released: %s", v.body)
		}
		ada.post(spec+"/release", nil).wantProblem(http.StatusConflict, "lease_lost")
	}
}

func TestHeartbeatProlongsTheLeaseAndNothingElse(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Heartbeat")
	ada.newSpec(mission, "only", nil)
	a := ada.post(mission+"/claim", fields{"agent": "bot", "lease_seconds": 60}).want(http.StatusOK)
	spec, token := "/api/v1/specs/"+a.text("spec.id"), a.text("lease.token")
	before, events := ada.get(spec), len(ada.eventsOf(mission))
	for _, lease := range []struct {
		seconds any
		want    time.Duration
	}{{3600, time.Hour}, {60, time.Minute}, {nil, 5 * time.Minute}} {
		body := fields{"lease_token": token}
		if lease.seconds != nil {
			body["lease_seconds"] = lease.seconds
		}
		var kept leaseView
		ada.post(spec+"/heartbeat", body).want(http.StatusOK).into(&kept)
		if off := time.Until(kept.ExpiresAt) - lease.want; off.Abs() > patience/2 || kept.Token != token ||
			kept.Attempt != 1 {
			t.Errorf("lease_seconds %v: got %+v", lease.seconds, kept)
		}
	}
	after := ada.get(spec)
	if after.number("version") != before.number("version") || len(ada.eventsOf(mission)) != events {
		t.Error("a heartbeat changed the spec's version, or made an event")
	}
	for _, seconds := range []int{-1, 0, 9, int(s.config.LeaseMax/time.Second) + 1} {
		ada.post(spec+"/heartbeat", fields{"lease_token": token, "lease_seconds": seconds}).wantFields("lease_seconds")
		ada.post(mission+"/claim", fields{"agent": "bot", "lease_seconds": seconds}).wantFields("lease_seconds")
	}
}

func TestLeaseEndsWhenOthersDecide(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	for _, test := range []struct {
		name         string
		end          func(mission, spec string)
		status       string
		attemptsLeft int
	}{
		{"by a status", func(_, spec string) {
			ada.post(spec+"/status", fields{"status": "in_review"}).want(http.StatusOK)
		}, "in_review", 1},
		{"by completion", func(mission, spec string) { finish(ada, mission, spec) }, "completed", 1},
		{"by cancelling", func(mission, _ string) { ada.post(mission+"/cancel", nil).want(http.StatusOK) }, "planned", 0},
		{"by archiving", func(mission, spec string) {
			ada.post(mission+"/complete", nil).want(http.StatusOK)
			if ada.get(spec).at("claim") == nil {
				t.Error("completing a mission by hand took the lease of a holder")
			}
			ada.post(mission+"/archive", nil).want(http.StatusOK)
		}, "planned", 0},
	} {
		mission := ada.newActive(test.name)
		ada.newSpec(mission, "held", nil)
		ada.newSpec(mission, "other", nil)
		spec, token := ada.claim(mission, "bot")
		test.end(mission, spec)
		v := ada.get(spec)
		if v.text("status") != test.status || v.at("claim") != nil || v.number("attempts") != test.attemptsLeft {
			t.Errorf("%s: got %s", test.name, v.body)
		}
		ada.post(spec+"/heartbeat", fields{"lease_token": token}).wantProblem(http.StatusConflict, "lease_lost")
		ada.post(spec+"/complete", fields{"lease_token": token}).wantProblem(http.StatusConflict, "lease_lost")
	}
}

func TestProgressChecksCriteria(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Progress")
	body := "# Title\n\n- [ ] no criterion\n\n## Acceptance Criteria\n\n- [ ] one\n- [x] two\n* [ ] three\n"
	spec := ada.newSpec(mission, "only", fields{"body": body})
	if stats := ada.get(mission); stats.number("stats.criteria_total") != 3 || stats.number("stats.criteria_done") != 1 {
		t.Errorf("got %s", stats.body)
	}
	_, token := ada.claim(mission, "bot")
	for _, test := range []struct {
		body   fields
		fields []string
	}{
		{fields{"check": []int{0}}, []string{"check[0]"}},
		{fields{"check": []int{1, 4}, "uncheck": []int{-1}}, []string{"check[1]", "uncheck[0]"}},
		{fields{"check": []int{1, 2}, "uncheck": []int{2}}, []string{"uncheck[0]"}},
		{fields{"check": slices.Repeat([]int{1}, 101)}, []string{"check"}},
		{fields{"message": strings.Repeat("m", 2001)}, []string{"message"}},
	} {
		test.body["lease_token"] = token
		ada.post(spec+"/progress", test.body).wantFields(test.fields...)
	}
	v := ada.post(spec+"/progress", fields{"lease_token": token, "check": []int{3, 1}, "uncheck": []int{2},
		"message": "half"}).want(http.StatusOK)
	want := strings.NewReplacer("[ ] one", "[x] one", "[x] two", "[ ] two", "[ ] three", "[x] three").Replace(body)
	if v.text("body") != want || v.at("criteria.0.done") != true || v.at("criteria.1.done") != false {
		t.Errorf("got %s", v.body)
	}
	if file := ada.do("GET", spec, nil, "Accept", "text/markdown").want(http.StatusOK); string(file.body) != want ||
		file.header.Get("Content-Type") != "text/markdown; charset=utf-8" {
		t.Errorf("the file is %q", file.body)
	}
	data := ada.lastEvent(mission, "spec.progressed")
	if data["message"] != "half" || data["criteria_done"] != 2. || data["criteria_total"] != 3. {
		t.Errorf("the event says %v", data)
	}
	if got := ada.get(mission).number("stats.criteria_done"); got != 2 {
		t.Errorf("%d criteria are done", got)
	}
}

// TestCostOfAClaimDoesNotGrowWithTheMission reads the buffers that finding the
// next spec touches.
func TestCostOfAClaimDoesNotGrowWithTheMission(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	grow := func(mission string, specs int) {
		_, err := s.db.Exec(t.Context(), `
			WITH texts AS (
				INSERT INTO specs (id, mission_id, key, number, title, phase, priority, tags, estimated_context, body, derived_status)
				SELECT gen_random_uuid(), $1, 'k' || n, n::text, 'T', '', n % 10, '{}', '', 'body', 'planned'
				FROM generate_series(1, $2) AS n
				RETURNING id, mission_id, number::int AS n, priority, place, phase, tags
			)
			INSERT INTO spec_states (spec_id, mission_id, status, done, unmet, priority, place, phase, tags)
			SELECT id, mission_id, CASE WHEN n % 4 = 0 THEN 'completed' ELSE 'planned' END, '{}', n % 2, priority, place, phase, tags
			FROM texts`, path.Base(mission), specs)
		if err != nil {
			t.Fatal(err)
		}
	}
	small, large := ada.newActive("Small"), ada.newActive("Large")
	grow(small, 50)
	grow(large, 20_000)
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			if _, err := s.db.Exec(t.Context(), `ANALYZE`); err != nil {
				t.Fatal(err)
			}
		}
		few, _ := s.explainClaim(small)
		many, plan := s.explainClaim(large)
		if !strings.Contains(plan, "spec_states_ready") || strings.Contains(plan, `"Sort"`) {
			t.Errorf("analyzed %v: the claim doesn't walk spec_states_ready: %s", analyzed, plan)
		}
		if many > few+15 { // an index has a few levels more
			t.Errorf("analyzed %v: a claim touches %d buffers of 50 specs, %d of 20,000", analyzed, few, many)
		}
	}
	if got := ada.post(large+"/claim", fields{"agent": "bot"}).want(http.StatusOK).text("spec.number"); got != "18" {
		t.Errorf("claimed number %s, want 18, the lowest ready one of priority 8", got)
	}
}

// A plan is made once, and kept while its tables grow.
func TestWorkReadsAttemptsByTheirIndexHoweverFewThereAre(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	s := startTestServer(t, database, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Young")
	for i := range 4 {
		ada.newSpec(mission, fmt.Sprintf("spec-%d", i), nil)
		s.runSQL("ANALYZE attempts", "ANALYZE leases") // as a young database has them
		spec, token := ada.claim(mission, "bot")
		ada.post(spec+"/progress", fields{"lease_token": token, "message": "Begun"}).want(http.StatusOK)
		ada.post(spec+"/complete", fields{"lease_token": token}).want(http.StatusOK)
	}
	if err := s.stop(); err != nil { // a connection reports what it has read at its end
		t.Fatal(err)
	}

	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var whole, found int
	eventually(t, "the reads are counted", func() bool {
		err := conn.QueryRow(t.Context(), `
			SELECT seq_scan, coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = 'attempts'`).
			Scan(&whole, &found)
		return err == nil && whole+found > 0
	})
	if whole > 0 {
		t.Errorf("attempts were read %d times from end to end, and %d times by an index", whole, found)
	}
}

// explainClaim runs the claim's own query, rolled back, and returns the
// buffers it touched, and its plan.
func (s *testServer) explainClaim(mission string) (buffers int, plan string) {
	s.t.Helper()
	tx, err := s.db.Begin(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(s.t.Context()) }()
	var q statement
	err = tx.QueryRow(s.t.Context(), `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) `+q.next(path.Base(mission), nil, nil),
		q.args...).Scan(&plan)
	if err != nil {
		s.t.Fatal(err)
	}
	var explained []struct {
		Plan struct {
			Hit  int `json:"Shared Hit Blocks"`
			Read int `json:"Shared Read Blocks"`
		}
	}
	if err := json.Unmarshal([]byte(plan), &explained); err != nil || len(explained) != 1 {
		s.t.Fatalf("%v: %s", err, plan)
	}
	return explained[0].Plan.Hit + explained[0].Plan.Read, plan
}

// TestCountersAgreeWithPlainCounts lets several actors do what comes to their
// minds at once, and then counts everything again the plain way.
func TestCountersAgreeWithPlainCounts(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.MaxAttempts = 2 })
	ada := s.signUp("ada", "user")
	missions := []string{ada.newActive("One"), ada.newActive("Two")}
	seed := rand.Uint64()
	t.Logf("the seed is %d", seed)
	var acting sync.WaitGroup
	var mu sync.Mutex
	acknowledged := make(map[change]int)
	for n := range uint64(6) {
		acting.Go(func() {
			a := actorOf{client: ada, s: s, r: rand.New(rand.NewPCG(seed, n)), changes: make(map[change]int)}
			for range 60 {
				a.act(missions[a.r.IntN(len(missions))])
			}
			mu.Lock()
			defer mu.Unlock()
			for what, n := range a.changes {
				acknowledged[what] += n
			}
		})
	}
	acting.Wait()
	s.pauseSweep()
	for _, mission := range missions {
		s.checkCounters(ada, mission)
	}
	for what, n := range acknowledged {
		var events int
		err := s.db.QueryRow(t.Context(), `SELECT count(*) FROM events WHERE stream = $1 AND type = ANY($2)`,
			path.Base(what.mission), strings.Fields(what.events)).Scan(&events)
		byItself := what.events == "mission.completed" || what.events == "mission.resumed"
		if err != nil || events < n || events > n && !byItself {
			t.Errorf("%d times a change was acknowledged that makes %s, and there are %d of it (%v)",
				n, what.events, events, err)
		}
	}
}

// change is something that was done to a mission: the types of events, any one
// of them, that it makes.
type change struct{ mission, events string }

// actorOf is somebody who does random things to a mission.
type actorOf struct {
	*client
	s       *testServer
	r       *rand.Rand
	changes map[change]int // answered with success
	held    []heldSpec
}

type heldSpec struct{ mission, spec, token string }

// act does one random thing. Conflicts are part of life, and a busy server is; a 500 isn't.
func (c *actorOf) act(mission string) {
	var specs []string
	err := c.s.db.QueryRow(c.t.Context(), `SELECT array_agg(id::text) FROM specs WHERE mission_id = $1`,
		path.Base(mission)).Scan(&specs)
	if err != nil {
		c.t.Error(err)
		return
	}
	some := func() string {
		if len(specs) == 0 {
			return serverStream // which is no spec
		}
		return specs[c.r.IntN(len(specs))]
	}
	spec := "/api/v1/specs/" + some()
	switch c.r.IntN(15) {
	case 0, 1:
		c.change(change{mission, "spec.created"}, "POST", mission+"/specs", fields{
			"key": "k" + c.word(), "title": "T", "priority": c.r.IntN(10), "dependencies": []string{some()},
			"body": "## Acceptance Criteria\n- [ ] one\n- [x] two\n", "status": []string{"planned",
				specStatuses[c.r.IntN(len(specStatuses))]}[c.r.IntN(2)],
		})
	case 2:
		c.change(change{mission, "spec.created"}, "POST", mission+"/specs", fields{"key": "k" + c.word(), "title": "T"})
	case 3:
		c.change(change{mission, "spec.updated"}, "PATCH",
			spec, fields{"title": c.word(), "dependencies": []string{some(), some()}})
	case 4:
		c.change(change{mission, "spec.updated"}, "PATCH",
			spec, fields{"title": c.word(), "body": "## Acceptance Criteria\n- [x] new\n"})
	case 5:
		c.change(change{mission, "spec.deleted"}, "DELETE", spec, nil)
	case 6, 7:
		c.change(change{mission, "spec.status_changed spec.completed"}, "POST", spec+"/status",
			fields{"status": specStatuses[c.r.IntN(len(specStatuses))], "override": "random"})
	case 8, 9, 10:
		if a := c.change(change{mission, "spec.claimed"}, "POST", mission+"/claim",
			fields{"agent": "bot"}); a != nil && a.status == http.StatusOK {
			c.held = append(c.held, heldSpec{mission, "/api/v1/specs/" + a.text("spec.id"), a.text("lease.token")})
		}
	case 11:
		_, err := c.s.db.Exec(c.t.Context(), `UPDATE leases SET expires_at = clock_timestamp() WHERE spec_id = $1`,
			path.Base(spec))
		if err != nil {
			c.t.Error(err)
		}
	case 12:
		action := []string{"pause", "complete", "resume", "resume", "resume"}[c.r.IntN(5)]
		c.change(change{mission, missionActions[action].event}, "POST", mission+"/"+action, nil)
	default:
		if len(c.held) == 0 {
			return
		}
		h := c.held[0]
		c.held = c.held[1:]
		body := fields{"lease_token": h.token}
		switch c.r.IntN(4) {
		case 0:
			body["override"] = "random"
			c.change(change{h.mission, "spec.status_changed spec.completed"}, "POST", h.spec+"/complete", body)
		case 1:
			body["reason"] = "random"
			c.change(change{h.mission, "spec.failed"}, "POST", h.spec+"/fail", body)
		case 2:
			body["check"] = []int{1}
			c.change(change{h.mission, "spec.progressed"}, "POST", h.spec+"/progress", body)
		case 3:
			c.change(change{h.mission, "spec.released"}, "POST", h.spec+"/release", body)
		}
	}
}

func (c *actorOf) word() string { return fmt.Sprint(c.r.Uint64()) }

// change makes a request and notes it if it changed something.
func (c *actorOf) change(what change, method, path string, body any) *answer {
	a, err := c.try(c.t.Context(), method, path, body)
	switch {
	case err != nil:
		c.t.Error(err)
	case a.status >= 500 && !a.overloaded():
		c.t.Errorf("%s: %d %s", a.what, a.status, a.body)
	case a.status == http.StatusNoContent && method == "POST": // nothing to claim
	case a.status < 300:
		c.changes[what]++
	}
	return a
}

// checkCounters holds all that is counted or derived against the plain way.
func (s *testServer) checkCounters(c *client, mission string) {
	s.t.Helper()
	id := path.Base(mission)
	query := func(sql string, into ...any) {
		s.t.Helper()
		if err := s.db.QueryRow(s.t.Context(), sql, id).Scan(into...); err != nil {
			s.t.Fatal(err)
		}
	}
	var plain []byte
	query(`SELECT json_build_object('total', count(*) FILTER (WHERE status <> 'proposed'),
			'proposed', count(*) FILTER (WHERE status = 'proposed'), 'planned', count(*) FILTER (WHERE status = 'planned'),
			'in_progress', count(*) FILTER (WHERE status = 'in_progress'),
			'in_review', count(*) FILTER (WHERE status = 'in_review'),
			'testing', count(*) FILTER (WHERE status = 'testing'), 'completed', count(*) FILTER (WHERE status = 'completed'),
			'blocked', count(*) FILTER (WHERE status = 'blocked'), 'deferred', count(*) FILTER (WHERE status = 'deferred'),
			'criteria_total', coalesce(sum(cardinality(done)) FILTER (WHERE status <> 'proposed'), 0),
			'criteria_done', coalesce(sum(cardinality(array_positions(done, true))) FILTER (WHERE status <> 'proposed'), 0))
		FROM spec_states WHERE mission_id = $1`, &plain)
	var want map[string]float64
	if err := json.Unmarshal(plain, &want); err != nil {
		s.t.Fatal(err)
	}
	var readySpecs int
	query(`SELECT count(*) FROM spec_states s JOIN missions m ON m.id = s.mission_id
		WHERE m.id = $1 AND m.status = 'active' AND s.status = 'planned' AND NOT EXISTS (SELECT FROM leases l WHERE l.spec_id = s.spec_id)
		  AND NOT EXISTS (SELECT FROM dependencies d JOIN spec_states o ON o.spec_id = d.depends_on
		                  WHERE d.spec_id = s.spec_id AND o.status <> 'completed')`, &readySpecs)
	want["ready"] = float64(readySpecs)
	var got struct{ Stats map[string]float64 }
	c.get(mission).want(http.StatusOK).into(&got)
	delete(got.Stats, "completion_percentage")
	if !maps.Equal(got.Stats, want) {
		s.t.Errorf("the stats are\n%+v, plainly counted\n%+v", got.Stats, want)
	}
	var ready struct{ Items []specSummary }
	c.get("/api/v1/specs?limit=200&ready=true&mission_id=" + id).into(&ready)
	if len(ready.Items) != min(readySpecs, 200) {
		s.t.Errorf("%d specs are listed as ready, plainly %d", len(ready.Items), readySpecs)
	}
	var wrong int
	query(`SELECT count(*) FROM spec_states s WHERE mission_id = $1 AND unmet <> (SELECT count(*) FROM dependencies d
		JOIN spec_states o ON o.spec_id = d.depends_on WHERE d.spec_id = s.spec_id AND o.status <> 'completed')`, &wrong)
	if wrong != 0 {
		s.t.Errorf("%d specs have a wrong count of unmet dependencies", wrong)
	}
	query(`SELECT count(*) FROM leases l JOIN spec_states s ON s.spec_id = l.spec_id WHERE l.mission_id = $1 AND s.status <> 'in_progress'`, &wrong)
	if wrong != 0 {
		s.t.Errorf("%d specs are held and not in progress", wrong)
	}
	query(`SELECT count(*) FROM (SELECT spec_id, number FROM leases WHERE mission_id = $1) l
		FULL JOIN (SELECT spec_id, number FROM attempts JOIN spec_states USING (spec_id)
		           WHERE mission_id = $1 AND ended_at IS NULL) a USING (spec_id, number) WHERE l IS NULL OR a IS NULL`, &wrong)
	if wrong != 0 {
		s.t.Errorf("%d leases have no open attempt, or open attempts no lease", wrong)
	}
	var events, last, head int
	query(`SELECT count(*), max(seq), (SELECT seq FROM heads WHERE stream = $1) FROM events WHERE stream = $1`,
		&events, &last, &head)
	if events != last || last != head {
		s.t.Errorf("%d events, the last has number %d, the head %d", events, last, head)
	}
}
