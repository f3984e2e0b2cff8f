package main

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

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

// atOnce makes a request in the background, and notes the status that it gets.
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

// Of the writes that wait for a mission that something has locked, few have a
// connection: whatever they are, whoever's they are and however they name it.
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
	pollUntil(t, "the writes to wait", func() bool { return s.writes.turns.Waiting(idOf(mission)) == 4*each-s.writes.ofMission })
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
	if len(writes.statuses) == 0 {
		t.Error("nothing was written")
	}
	for what, n := range writes.statuses {
		if what != "done" && what != "409 invalid_transition " && what != "409 mission_not_active " {
			t.Errorf("%d got %s", n, what)
		}
	}
}

// Nor has an account more than half of them, however many missions it waits for.
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
	pollUntil(t, "the writes to wait", func() bool { return s.writes.turns.Waiting(ada.user.ID) == s.writes.ofAccount })
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
	s := newTestServer(t, func(c *Config) { c.RequestTimeout = 2 * time.Second })
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
