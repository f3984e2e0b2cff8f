package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

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
		maps.Copy(held, more)
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
		"1 failing failed: too hard", "2 releasing released", "3 robbed taken", "4 late expired",
		"5 completing completed: done", "6 overtaken taken: not now", "7 finished for taken: by me", "8 last taken: the mission was cancelled",
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
		older(`WITH ended AS (DELETE FROM leases WHERE spec_id = $1)
			UPDATE spec_states SET status = 'planned' WHERE spec_id = $1`)
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

// on is the same caller at another server.
func (c *client) on(other *testServer) *client {
	there := *c
	there.base = other.url()
	return &there
}

func TestNextAttemptKnowsTheOneBefore(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.MaxAttempts = 10 })
	ada, eve := s.signUp("ada", "user"), s.signUp("eve", "user")
	mission := ada.newActive("History")
	spec := ada.newSpec(mission, "one", fields{"body": "## Acceptance Criteria\n\n- [ ] a\n- [ ] b\n- [ ] c\n"})
	bot := ada.withKey("write")
	first := bot.post(mission+"/claim", fields{"agent": "first"}).want(http.StatusOK)
	if got := first.at("history").([]any); len(got) != 0 {
		t.Errorf("a first attempt has the history %v", got)
	}
	token := first.text("lease.token")
	branch := fields{"kind": "branch", "ref": "spec/one"}
	pull := fields{"kind": "pull_request", "ref": "https://example.com/pulls/7"}
	report := func(body fields) {
		body["lease_token"] = token
		bot.post(spec+"/progress", body).want(http.StatusOK)
	}
	report(fields{"check": []int{1, 3}, "message": "half is done", "links": []fields{branch}})
	report(fields{"check": []int{2}, "uncheck": []int{3}})
	if links := ada.get(spec).at("links").([]any); len(links) != 1 || links[0].(map[string]any)["ref"] != "spec/one" {
		t.Errorf("the spec has the links %v", links)
	}
	bot.post(spec+"/fail", fields{"lease_token": token, "reason": "the file is empty", "links": []fields{pull, branch}}).
		want(http.StatusOK)

	second := bot.tool("claim_spec", fields{"mission_id": idOf(mission), "agent": "second"})
	if next := second["next"].(string); !strings.HasPrefix(next, "Attempt 1 failed: the file is empty. ") {
		t.Errorf("next is %q", next)
	}
	past := second["history"].([]any)[0].(map[string]any)
	want := fields{"number": 1.0, "agent": "first", "outcome": "failed", "notes": "the file is empty",
		"message": "half is done", "checked": []any{1.0, 2.0}, "links": []any{branch, pull}, "ended_at": past["ended_at"]}
	if got, want := fmt.Sprint(past), fmt.Sprint(want); got != want {
		t.Errorf("the history is\n%s, want\n%s", got, want)
	}
	shown := bot.tool("show_spec", fields{"spec_id": idOf(spec)})["history"].([]any)
	if len(shown) != 2 || shown[0].(map[string]any)["agent"] != "second" {
		t.Errorf("show_spec has %v", shown)
	}
	page := ada.get(spec + "/attempts?limit=1").want(http.StatusOK)
	if page.at("items.0.outcome") != nil || page.number("items.0.number") != 2 {
		t.Errorf("got %s", page.body)
	}
	page = ada.get(spec + "/attempts?limit=1&cursor=" + page.text("next_cursor")).want(http.StatusOK)
	if page.text("items.0.notes") != "the file is empty" || page.text("items.0.user_id") != ada.user.ID ||
		page.at("next_cursor") != nil || page.text("items.0.links.0.kind") != "pull_request" {
		t.Errorf("got %s", page.body)
	}
	ada.get(spec + "/attempts?limit=51").wantFields("limit")
	ada.get(spec + "/attempts?cursor=" + encodeCursor("attempts", "x")).wantFields("cursor")
	eve.get(spec+"/attempts").wantProblem(http.StatusNotFound, "not_found")
}

func TestHistoryIsShort(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.MaxAttempts = 10 })
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Long")
	spec := ada.newSpec(mission, "one", nil)
	for _, reason := range []string{
		"forgotten", "short", strings.Repeat("タチコマ", 500), strings.Repeat("\"\n", 1000),
	} {
		_, token := ada.claim(mission, "bot")
		links := []fields{}
		for i := range maxLinks {
			links = append(links, fields{"kind": "url", "ref": fmt.Sprint("https://example.com/", strings.Repeat("x", 200), i)})
		}
		ada.post(spec+"/progress", fields{"lease_token": token, "message": strings.Repeat("é", 2000), "links": links}).
			want(http.StatusOK)
		ada.post(spec+"/fail", fields{"lease_token": token, "reason": reason}).want(http.StatusOK)
	}
	a := ada.post(mission+"/claim", fields{"agent": "bot"}).want(http.StatusOK)
	encoded, err := json.Marshal(a.at("history"))
	if err != nil || utf8.RuneCount(encoded) > 2000 || !utf8.Valid(encoded) ||
		strings.Contains(string(encoded), "\uFFFD") {
		t.Errorf("it has %d characters (%v): %s", utf8.RuneCount(encoded), err, encoded)
	}
	if past := a.at("history").([]any); len(past) != 3 || a.text("history.2.notes") != "short" ||
		!strings.HasPrefix(a.text("history.1.notes"), "タチコマ") || !strings.HasSuffix(a.text("history.1.notes"), "…") {
		t.Errorf("got %s", encoded)
	}
	if n := len(ada.get(spec).at("links").([]any)); n != maxLinks {
		t.Errorf("the spec has %d links", n)
	}
}

func TestLinksAreChecked(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Links")
	ada.newSpec(mission, "one", nil)
	spec, token := ada.claim(mission, "bot")
	for _, test := range []struct{ kind, ref, field string }{
		{"branch", "main", ""}, {"commit", "0123abc", ""}, {"url", "https://example.com/a?b#c", ""},
		{"file", "x", "links[0].kind"}, {"branch", "", "links[0].ref"}, {"branch", "a b", "links[0].ref"},
		{"branch", "-f", "links[0].ref"}, {"commit", strings.Repeat("a", 201), "links[0].ref"},
		{"url", "http://example.com", "links[0].ref"}, {"url", "javascript:alert(1)", "links[0].ref"},
		{"url", "https://", "links[0].ref"}, {"url", "https://me:secret@example.com", "links[0].ref"},
		{"pull_request", "7", "links[0].ref"}, {"url", "https://example.com/" + strings.Repeat("a", 1000), "links[0].ref"},
	} {
		a := ada.post(spec+"/progress", fields{"lease_token": token, "links": []fields{{"kind": test.kind, "ref": test.ref}}})
		if test.field == "" {
			a.want(http.StatusOK)
		} else {
			a.wantFields(test.field)
		}
	}
	many := slices.Repeat([]fields{{"kind": "branch", "ref": "main"}}, maxLinks+1)
	ada.post(spec+"/complete", fields{"lease_token": token, "links": many}).wantFields("links")
}

// question asks something for the holder of a spec, and returns its path.
func (c *client) question(spec, token, question string, park bool) string {
	c.t.Helper()
	return c.post(spec+"/questions", fields{"lease_token": token, "question": question, "park": park}).
		want(http.StatusCreated).header.Get("Location")
}

func TestQuestionIsAnsweredWhileItsAgentWaits(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	s, other := startTestServer(t, database, nil), startTestServer(t, database, nil)
	ada, eve, bob := s.signUp("ada", "user"), s.signUp("eve", "user"), s.signUp("bob", "user")
	mission := ada.newActive("Ask")
	ada.put(mission+"/members", fields{"email": eve.user.Email, "role": "editor"}).want(http.StatusOK)
	ada.newSpec(mission, "one", nil)
	bot := ada.withKey("write")
	spec, token := bot.claim(mission, "bot")
	if _, err := s.db.Exec(t.Context(), `UPDATE leases SET expires_at = clock_timestamp() + interval '20 s'`); err != nil {
		t.Fatal(err)
	}
	asked := fields{"lease_token": token, "question": "Which database?", "options": []string{"PostgreSQL", "SQLite"}}
	a := bot.do("POST", spec+"/questions", asked, "Idempotency-Key", "once").want(http.StatusCreated)
	question := a.header.Get("Location")
	if again := bot.post(spec+"/questions", asked).want(http.StatusCreated); again.text("id") != a.text("id") {
		t.Errorf("the same question is another: %s", again.body)
	}
	if again := bot.do("POST", spec+"/questions", asked, "Idempotency-Key", "once"); string(again.body) != string(a.body) {
		t.Errorf("the same key got %s", again.body)
	}
	var v specView
	if ada.get(spec).into(&v); time.Until(v.Claim.ExpiresAt) < time.Minute {
		t.Errorf("asking has left the lease to end at %s", v.Claim.ExpiresAt)
	}
	for _, told := range []*client{ada, eve} {
		if got := s.notificationsOf(told); strings.Count(got, "Which database?") != 1 {
			t.Errorf("%s was told %q", told.user.Name, got)
		}
	}
	if open := eve.get("/api/v1/questions?open=true"); open.text("items.0.id") != a.text("id") {
		t.Errorf("open are %s", open.body)
	}
	if foreign := bob.get("/api/v1/questions"); len(foreign.at("items").([]any)) != 0 {
		t.Errorf("a stranger reads %s", foreign.body)
	}
	waits := make(chan *answer, 1)
	go func() {
		got, err := bot.try(context.WithoutCancel(t.Context()), "GET", question+"?wait_seconds=50", nil)
		if err != nil {
			got = &answer{t: t, what: err.Error()}
		}
		waits <- got
	}()
	pollUntil(t, "the agent to wait", func() bool { return s.waits(mission) })
	bot.post(question+"/answer", fields{"answer": "mine"}).wantProblem(http.StatusForbidden, "forbidden")
	bob.post(question+"/answer", fields{"answer": "his"}).wantProblem(http.StatusNotFound, "not_found")
	answer := func(c *client) *answer {
		return c.do("POST", question+"/answer", fields{"answer": "PostgreSQL"}, "Idempotency-Key", "k").want(http.StatusOK)
	}
	given := answer(eve.on(other))
	if got := (<-waits).want(http.StatusOK); got.text("answer") != "PostgreSQL" ||
		got.text("answered_by") != eve.user.ID || got.text("state") != "answered" {
		t.Errorf("the agent got %s", got.body)
	}
	if again := answer(eve); string(again.body) != string(given.body) {
		t.Errorf("the same key got %s", again.body)
	}
	late := ada.post(question+"/answer", fields{"answer": "SQLite"}).wantProblem(http.StatusConflict, "question_closed")
	if late.text("question.answer") != "PostgreSQL" {
		t.Errorf("got %s", late.body)
	}
	if v := ada.get(spec); v.text("status") != "in_progress" || v.number("attempts") != 1 {
		t.Errorf("the answer has moved the spec: %s", v.body)
	}
	if got := ada.get(spec + "/attempts"); got.text("items.0.questions.0.answer") != "PostgreSQL" {
		t.Errorf("the attempt has %s", got.body)
	}
	if n, m := ada.countEvents(mission, "spec.asked"), ada.countEvents(mission, "spec.answered"); n != 1 || m != 1 {
		t.Errorf("%d times asked and %d times answered", n, m)
	}
}

func TestParkedSpecIsPlannedOnceAllIsAnswered(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Park")
	ada.newSpec(mission, "one", nil)
	spec, token := ada.claim(mission, "bot")
	first := ada.question(spec, token, "Which one?", false)
	second := ada.question(spec, token, "And how?", true)
	if v := ada.get(spec); v.text("status") != "blocked" || v.number("attempts") != 0 || v.at("claim") != nil {
		t.Errorf("parked: %s", v.body)
	}
	ada.post(spec+"/heartbeat", fields{"lease_token": token}).wantProblem(http.StatusConflict, "lease_lost")
	ada.post(mission+"/claim", fields{"agent": "bot"}).want(http.StatusNoContent)
	ada.post(second+"/answer", fields{"answer": "so"}).want(http.StatusOK)
	if v := ada.get(spec); v.text("status") != "blocked" {
		t.Errorf("with one question open: %s", v.body)
	}
	ada.post(first+"/answer", fields{"answer": "this"}).want(http.StatusOK)
	if data := ada.lastEvent(mission, "spec.answered"); data["status"] != "planned" || data["answer"] != "this" {
		t.Errorf("the event says %v", data)
	}
	a := ada.post(mission+"/claim", fields{"agent": "bot"}).want(http.StatusOK)
	if a.number("lease.attempt") != 1 || a.text("history.0.outcome") != "parked" ||
		a.text("history.0.questions.0.answer") != "so" || a.text("history.0.questions.1.answer") != "this" {
		t.Errorf("claimed again: %s", a.body)
	}
	s.checkCounters(ada, mission)
}

func TestAnyOtherStepWithdrawsQuestions(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	for name, test := range map[string]struct {
		park bool
		step func(mission, spec string, held fields)
	}{
		"completion": {false, func(_, spec string, held fields) { ada.post(spec+"/complete", held).want(http.StatusOK) }},
		"failure": {false, func(_, spec string, held fields) {
			held["reason"] = "no answer"
			ada.post(spec+"/fail", held).want(http.StatusOK)
		}},
		"release": {false, func(_, spec string, held fields) { ada.post(spec+"/release", held).want(http.StatusOK) }},
		"expiry": {false, func(mission, spec string, _ fields) {
			s.expireLease(spec)
			pollUntil(t, "the sweep", func() bool { return ada.get(spec).text("status") == "planned" })
		}},
		"by hand": {true, func(_, spec string, _ fields) {
			ada.post(spec+"/status", fields{"status": "planned"}).want(http.StatusOK)
			ada.post(spec+"/status", fields{"status": "blocked"}).want(http.StatusOK)
		}},
		"cancelling": {false, func(mission, _ string, _ fields) { ada.post(mission+"/cancel", nil).want(http.StatusOK) }},
		"cancelling what is parked": {true, func(mission, _ string, _ fields) {
			ada.post(mission+"/cancel", nil).want(http.StatusOK)
		}},
	} {
		mission := ada.newActive(name)
		ada.newSpec(mission, "one", nil)
		ada.newSpec(mission, "keeps-it-open", fields{"status": "blocked"})
		spec, token := ada.claim(mission, "bot")
		question := ada.question(spec, token, "Which one?", test.park)
		test.step(mission, spec, fields{"lease_token": token})
		before := ada.get(spec)
		if got := ada.get(question); got.text("state") != "withdrawn" {
			t.Errorf("%s: %s", name, got.body)
		}
		ada.post(question+"/answer", fields{"answer": "late"}).wantProblem(http.StatusConflict, "question_closed")
		if after := ada.get(spec); string(after.body) != string(before.body) {
			t.Errorf("%s: a late answer has moved %s to %s", name, before.body, after.body)
		}
	}
}

func TestQuestionsAreBounded(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Bounds")
	ada.newSpec(mission, "one", nil)
	spec, token := ada.claim(mission, "bot")
	for i := range maxOpenQuestions {
		ada.question(spec, token, fmt.Sprint("Question ", i), false)
	}
	body := fields{"lease_token": token, "question": "One more"}
	ada.post(spec+"/questions", body).wantProblem(http.StatusConflict, "too_many_questions")
	ada.question(spec, token, "Question 3", false)
	body["options"] = []string{"a", "a"}
	ada.post(spec+"/questions", body).wantFields("options[1]")
	ada.post(spec+"/questions", fields{"lease_token": "lt_other", "question": "Who?"}).
		wantProblem(http.StatusConflict, "lease_lost")
	var seen []string
	for at := "/api/v1/questions?state=open&limit=4"; at != ""; {
		page := ada.get(at).want(http.StatusOK)
		for _, q := range page.at("items").([]any) {
			seen = append(seen, q.(map[string]any)["question"].(string))
		}
		next, _ := page.at("next_cursor").(string)
		if at = ""; next != "" {
			at = "/api/v1/questions?state=open&limit=4&cursor=" + next
		}
	}
	if len(seen) != maxOpenQuestions || seen[0] != "Question 9" || seen[9] != "Question 0" {
		t.Errorf("got %q", seen)
	}
	ada.get("/api/v1/questions?open=true&state=answered").wantFields("open")
	ada.get("/api/v1/questions?open=false").wantFields("open")
	ada.get(ada.question(spec, token, "Question 3", false) + "?wait_seconds=51").wantFields("wait_seconds")
}

// TestAnswersRace has a question answered at the moment at which something else
// happens to its spec, which somebody else does on another server. Whatever comes
// first counts, and a late answer moves nothing.
func TestAnswersRace(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	s, other := startTestServer(t, database, nil), startTestServer(t, database, nil)
	s.pauseSweep() // which would move what is compared
	ada := s.signUp("ada", "user")
	for name, against := range map[string]func(c *client, mission, spec string, held fields) *answer{
		"park": func(c *client, _, spec string, held fields) *answer {
			held["question"], held["park"] = "Which one?", true
			a, _ := c.try(t.Context(), "POST", spec+"/questions", held)
			return a
		},
		"expiry": func(c *client, mission, spec string, _ fields) *answer {
			s.expireLease(spec)
			a, _ := c.try(t.Context(), "POST", mission+"/claim", fields{"agent": "next", "tags": []string{"none"}})
			return a
		},
		"end of the mission": func(c *client, mission, _ string, _ fields) *answer {
			a, _ := c.try(t.Context(), "POST", mission+"/cancel", nil)
			return a
		},
	} {
		for range 10 {
			mission := ada.newActive(name)
			ada.newSpec(mission, "one", nil)
			spec, token := ada.claim(mission, "bot")
			question := ada.question(spec, token, "Which one?", false)
			var answered, step *answer
			var both sync.WaitGroup
			both.Go(func() { answered, _ = ada.try(t.Context(), "POST", question+"/answer", fields{"answer": "this"}) })
			both.Go(func() {
				step = against(ada.on(other), mission, spec, fields{"lease_token": token})
			})
			both.Wait()
			if answered == nil || step == nil || answered.status >= 500 || step.status >= 500 {
				t.Fatalf("%s: %v, %v", name, answered, step)
			}
			v, q := ada.get(spec), ada.get(question)
			counted := answered.status == http.StatusOK
			if (q.text("state") == "answered") != counted || !counted && answered.status != http.StatusConflict {
				t.Errorf("%s: answered with %d, and it is %s", name, answered.status, q.body)
			}
			if n := ada.countEvents(mission, "spec.answered"); (n == 1) != counted {
				t.Errorf("%s: %d events for an answer with %d", name, n, answered.status)
			}
			if v.text("status") == "blocked" && q.text("state") != "open" && name != "park" {
				t.Errorf("%s: %s stays blocked", name, v.body)
			}
			if open := ada.get("/api/v1/questions?open=true&mission_id=" + idOf(mission)); (v.text("status") == "blocked") !=
				(len(open.at("items").([]any)) > 0) {
				t.Errorf("%s: %s with the open questions %s", name, v.text("status"), open.body)
			}
			s.checkCounters(ada, mission)
		}
	}
}

func TestAskTool(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Tool")
	ada.newSpec(mission, "one", nil)
	other := idOf(ada.newSpec(mission, "two", nil))
	bot := ada.withKey("write")
	held := bot.tool("claim_spec", fields{"mission_id": idOf(mission), "agent": "bot"})
	lease := fields{"spec_id": held["spec"].(map[string]any)["id"], "lease_token": held["lease_token"]}
	ask := func(more fields) map[string]any {
		maps.Copy(more, lease)
		return bot.tool("ask", more)
	}
	out := ask(fields{"question": "Which one?"})
	id := out["question_id"].(string)
	if out["state"] != "open" || !strings.Contains(out["next"].(string), "Call ask with this question_id") {
		t.Errorf("got %v", out)
	}
	waits := make(chan map[string]any, 1)
	go func() { waits <- ask(fields{"question_id": id, "wait_seconds": 50}) }()
	pollUntil(t, "the agent to wait", func() bool { return s.waits(mission) })
	ada.post("/api/v1/questions/"+id+"/answer", fields{"answer": "the first"}).want(http.StatusOK)
	if out := <-waits; out["answer"] != "the first" || !strings.Contains(out["next"].(string), "Go on with this answer") {
		t.Errorf("got %v", out)
	}
	if out := ask(fields{"question_id": id, "park": true}); out["answer"] != "the first" || out["expires_at"] == nil {
		t.Errorf("what is answered already was parked: %v", out)
	}
	out = ask(fields{"question": "And then?"})
	out = ask(fields{"question_id": out["question_id"], "park": true})
	if out["state"] != "open" || !strings.Contains(out["next"].(string), "Call claim_spec") || out["expires_at"] != nil {
		t.Errorf("parked: %v", out)
	}
	if data := ada.lastEvent(mission, "spec.asked"); data["parked"] != true || data["question"] != "And then?" {
		t.Errorf("the event says %v", data)
	}
	next := bot.tool("claim_spec", fields{"mission_id": idOf(mission), "agent": "bot"})
	for name, test := range map[string]struct {
		more fields
		want string
	}{
		"nothing":      {fields{}, "question is required"},
		"both":         {fields{"question": "x", "question_id": id}, "question can't be given together with question_id"},
		"no id":        {fields{"question_id": "x"}, "question_id must be a UUID"},
		"of another":   {fields{"question_id": id}, "not_found"},
		"waits longer": {fields{"question": "x", "wait_seconds": 51}, "wait_seconds must be between 0 and 50"},
	} {
		arguments := fields{"spec_id": other, "lease_token": next["lease_token"]}
		maps.Copy(arguments, test.more)
		if got := bot.refusal("ask", arguments); !strings.Contains(got, test.want) {
			t.Errorf("%s: %s", name, got)
		}
	}
}
