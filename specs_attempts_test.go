package main

import (
	"net/http"
	"path"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
)

// attemptsOf are the outcomes of a spec's attempts as they are stored, in order.
func (s *testServer) attemptsOf(spec string) []string {
	s.t.Helper()
	rows, err := s.db.Query(s.t.Context(), `
		SELECT number || ' ' || agent || ' ' || coalesce(outcome, 'open') || CASE notes WHEN '' THEN '' ELSE ': ' || notes END
		FROM attempts WHERE spec_id = $1 ORDER BY number`, path.Base(spec))
	if err != nil {
		s.t.Fatal(err)
	}
	outcomes, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		s.t.Fatal(err)
	}
	return outcomes
}

func TestEveryEndOfALeaseClosesItsAttempt(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.MaxAttempts = 100 })
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Ends")
	spec := ada.newSpec(mission, "often", nil)
	claim := func(agent string) (held fields) {
		_, token := ada.claim(mission, agent)
		return fields{"lease_token": token}
	}
	end := func(held fields, action string, more fields) {
		for name, value := range more {
			held[name] = value
		}
		ada.post(spec+"/"+action, held).want(http.StatusOK)
	}
	end(claim("failing"), "fail", fields{"reason": "too hard"})
	end(claim("releasing"), "release", nil)
	claim("robbed")
	end(fields{}, "release", nil)
	claim("late")
	s.expireLease(spec) // and whoever comes first takes it back: the sweep or the claim
	end(claim("completing"), "complete", fields{"notes": "done"})
	end(fields{}, "status", fields{"status": "in_progress"})
	end(fields{}, "status", fields{"status": "planned"})
	claim("overtaken")
	end(fields{}, "status", fields{"status": "blocked", "notes": "not now"})
	end(fields{}, "status", fields{"status": "planned"})
	claim("finished for")
	end(fields{}, "status", fields{"status": "completed", "notes": "by me"})
	end(fields{}, "status", fields{"status": "in_progress"})
	end(fields{}, "status", fields{"status": "planned"})
	claim("last")
	ada.post(mission+"/cancel", nil).want(http.StatusOK)
	want := []string{
		"1 failing failed: too hard", "2 releasing released", "3 robbed taken", "4 late expired", "5 completing completed: done",
		"6 overtaken taken: not now", "7 finished for taken: by me", "8 last taken: the mission was cancelled",
	}
	if got := s.attemptsOf(spec); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	ada.delete(mission).want(http.StatusNoContent)
	if left := s.attemptsOf(spec); len(left) > 0 {
		t.Errorf("a deleted spec has left %q", left)
	}
}

// TestAttemptsBesideAnOlderServer has the database as servers without attempts
// leave it: leases without a number, and attempts open whose leases have ended.
func TestAttemptsBesideAnOlderServer(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.MaxAttempts = 100 })
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Beside")
	spec := ada.newSpec(mission, "shared", nil)
	older := func(sql string) {
		if _, err := s.db.Exec(t.Context(), sql, path.Base(spec)); err != nil {
			t.Fatal(err)
		}
	}
	forget := func() { // as if an older server had given the lease
		older(`DELETE FROM attempts WHERE spec_id = $1 AND ended_at IS NULL`)
		older(`UPDATE leases SET number = NULL WHERE spec_id = $1`)
	}
	giveBack := func() { // as an older server does
		older(`WITH ended AS (DELETE FROM leases WHERE spec_id = $1) UPDATE spec_states SET status = 'planned' WHERE spec_id = $1`)
	}
	fail := func(token string) {
		ada.post(spec+"/fail", fields{"lease_token": token, "reason": "no way"}).want(http.StatusOK)
	}
	_, token := ada.claim(mission, "old")
	forget()
	fail(token)
	ada.claim(mission, "dropped")
	giveBack()
	_, token = ada.claim(mission, "next")
	fail(token)
	ada.claim(mission, "dropped too")
	giveBack()
	older(`UPDATE spec_states SET status = 'in_progress' WHERE spec_id = $1`)
	older(`INSERT INTO leases (spec_id, mission_id, user_id, agent, token, attempt, expires_at)
		SELECT spec_id, mission_id, user_id, 'old again', 'lt_old', 1, now() + interval '1 hour'
		FROM spec_states CROSS JOIN (SELECT user_id FROM attempts LIMIT 1) u WHERE spec_id = $1`)
	fail("lt_old")
	want := []string{"1 old failed: no way", "2 dropped expired", "3 next failed: no way", "4 dropped too expired",
		"5 old again failed: no way"}
	if got := s.attemptsOf(spec); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
