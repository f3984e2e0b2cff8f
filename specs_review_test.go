package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// statusOf is the status of the spec at a path.
func (c *client) statusOf(spec string) string {
	c.t.Helper()
	return c.get(spec).want(http.StatusOK).text("status")
}

func TestProposedSpecsWaitForAPerson(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	agent := ada.withKey("write")
	mission := ada.newActive("Triage")
	held := ada.newSpec(mission, "041-done", fields{"number": "041"})
	_, token := ada.claim(mission, "bot")
	body := "Found.\n\n## Acceptance Criteria\n\n- [ ] one\n- [x] two\n"
	file := fields{"mission_id": idOf(mission), "title": "Cut the Röses: all of them!", "markdown": body,
		"depends_on": []string{"041-done"}, "lease_token": token}
	filed := agent.tool("add_spec", file)
	if filed["key"] != "042-cut-the-röses-all-of-them" || filed["status"] != "proposed" ||
		!strings.Contains(filed["next"].(string), "call report or complete_spec") {
		t.Errorf("filed as %v", filed)
	}
	if again := agent.tool("add_spec", file); again["spec_id"] != filed["spec_id"] {
		t.Errorf("the same is filed again as %v", again)
	}
	if data := ada.lastEvent(mission, "spec.created"); data["found_in"] != idOf(held) || data["status"] != "proposed" {
		t.Errorf("the event says %v", data)
	}
	found := "/api/v1/specs/" + filed["spec_id"].(string)
	if v := ada.get(found); v.text("number") != "042" || v.text("dependencies.0.key") != "041-done" ||
		v.text("body") != body || v.at("ready") != false || v.number("criteria_total") != 2 {
		t.Errorf("it is %s", v.body)
	}
	byRoute := agent.newSpec(mission, "by-route", fields{"status": "proposed"})
	ada.post(held+"/complete", fields{"lease_token": token}).want(http.StatusOK)
	m := ada.get(mission)
	if m.text("status") != "completed" || m.number("stats.total") != 1 || m.number("stats.proposed") != 2 ||
		m.number("stats.criteria_total") != 0 || m.number("stats.completion_percentage") != 100 {
		t.Errorf("what is proposed counts: %s", m.body)
	}
	if n := len(ada.get("/api/v1/specs?status=proposed&mission_id=" + idOf(mission)).at("items").([]any)); n != 2 {
		t.Errorf("%d are listed as proposed", n)
	}
	if graph := string(ada.get(mission + "/graph?format=mermaid").body); !strings.Contains(graph, "]:::proposed") ||
		!strings.Contains(graph, "classDef proposed stroke-dasharray") {
		t.Errorf("the graph is %s", graph)
	}
	for _, to := range []string{"planned", "deferred"} {
		agent.post(found+"/status", fields{"status": to}).wantProblem(http.StatusForbidden, "forbidden")
	}
	agent.patch(mission, fields{"triage": false}).wantProblem(http.StatusForbidden, "forbidden")
	ada.post(byRoute+"/status", fields{"status": "deferred"}).want(http.StatusOK)
	if status := ada.statusOf(mission); status != "completed" {
		t.Errorf("putting a proposal off makes the mission %s", status)
	}
	ada.post(found+"/status", fields{"status": "planned"}).want(http.StatusOK)
	if m := ada.get(mission); m.text("status") != "active" || m.number("stats.ready") != 1 ||
		m.number("stats.criteria_total") != 2 {
		t.Errorf("accepted, and the mission is %s", m.body)
	}
	s.checkCounters(ada, mission)
	ada.patch(mission, fields{"triage": false}).want(http.StatusOK)
	for range 2 { // it isn't proposed, so it isn't the same
		file["lease_token"], file["depends_on"] = nil, nil
		if filed := agent.tool("add_spec", file); filed["status"] != "planned" {
			t.Errorf("without triage it is filed as %v", filed)
		}
	}
	if _, there := ada.lastEvent(mission, "spec.created")["found_in"]; there {
		t.Error("a spec that was found in no claim has one")
	}
}

func TestFiledSpecsAreBounded(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	s, other := startTestServer(t, database, nil), startTestServer(t, database, nil)
	ada := s.signUp("ada", "user")
	agent := ada.withKey("write")
	elsewhere := &client{t: t, base: other.url(), token: agent.token, user: ada.user}
	mission := ada.newActive("Flood")
	ada.newSpec(mission, "held", fields{"priority": 9})
	_, token := ada.claim(mission, "bot")
	file := func(n int, token any) fields {
		return fields{"mission_id": idOf(mission), "title": fmt.Sprint("Found ", n), "markdown": "x", "lease_token": token}
	}
	answers := together(t, 30, func(i int) (*answer, error) {
		by := []*client{agent, elsewhere}[i%2]
		return by.try(t.Context(), "POST", "/mcp",
			fields{"jsonrpc": "2.0", "id": i, "method": "tools/call", "params": fields{"name": "add_spec", "arguments": file(i, nil)}})
	})
	refused := 0
	for _, a := range answers {
		if a.want(http.StatusOK).at("result.isError") == true {
			refused++
			if text := a.text("result.content.0.text"); !strings.HasPrefix(text, "too_many_proposed:") {
				t.Errorf("refused with %s", text)
			}
		}
	}
	if n := ada.get(mission).number("stats.proposed"); n != maxProposals || refused != 30-maxProposals {
		t.Errorf("%d are proposed, %d refused", n, refused)
	}
	agent.post(mission+"/specs", fields{"key": "more", "title": "T", "status": "proposed"}).
		wantProblem(http.StatusConflict, "too_many_proposed")
	s.signUp("bob", "admin").newSpec(mission, "bobs", fields{"status": "proposed"})
	ada.patch(mission, fields{"triage": false}).want(http.StatusOK)
	for i := range maxFiled {
		agent.tool("add_spec", file(100+i, token))
	}
	if text := agent.refusal("add_spec", file(0, token)); !strings.HasPrefix(text, "too_many_proposed:") {
		t.Errorf("refused with %s", text)
	}
	for name, arguments := range map[string]fields{
		"lease_lost":   {"lease_token": "lt_of nobody"},
		"title":        {"title": strings.Repeat("x", 201)},
		"markdown":     {"markdown": strings.Repeat("x", maxSpecBody+1)},
		"depends_on[0": {"depends_on": []string{"nothing"}},
	} {
		with := file(0, nil)
		maps.Copy(with, arguments)
		if text := agent.refusal("add_spec", with); !strings.Contains(text, name) {
			t.Errorf("%s: refused with %s", name, text)
		}
	}
	s.checkCounters(ada, mission)
}

// newReviewed makes and starts a mission in which people review, with some specs.
func (c *client) newReviewed(name string, keys ...string) (mission string, specs []string) {
	c.t.Helper()
	mission = c.newActive(name)
	c.patch(mission, fields{"review": "human"}).want(http.StatusOK)
	for _, key := range keys {
		specs = append(specs, c.newSpec(mission, key, nil))
	}
	return mission, specs
}

// submit claims the next spec of a mission and completes it.
func (c *client) submit(mission string) (spec string) {
	c.t.Helper()
	spec, token := c.claim(mission, "bot")
	a := c.post(spec+"/complete", fields{"lease_token": token, "notes": "did it"}).want(http.StatusOK)
	if a.text("status") != "in_review" {
		c.t.Fatalf("completed as %s", a.body)
	}
	return spec
}

// TestThreeAttemptsWithAQuestionAndAReview is what agents and people need of each
// other, over HTTP: a failure that the next attempt knows of, a question that is
// answered while its agent waits, a rejection, and an approval.
func TestThreeAttemptsWithAQuestionAndAReview(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	agent := ada.withKey("write")
	mission, specs := ada.newReviewed("Together", "a")
	ada.put(mission+"/members", fields{"email": "bob@example.com", "role": "editor"}).want(http.StatusOK)
	spec, dependent := specs[0], ada.newSpec(mission, "b", fields{"dependencies": []string{"a"}})
	began := len(ada.eventsOf(mission))
	claim := func() (history any, token string) {
		a := agent.post(mission+"/claim", fields{"agent": "bot"}).want(http.StatusOK)
		if a.text("spec.id") != idOf(spec) {
			t.Fatalf("claimed %s", a.body)
		}
		return a.at("history"), a.text("lease.token")
	}
	knows := func(history any, what ...string) {
		t.Helper()
		said := fmt.Sprint(history)
		for _, text := range what {
			if !strings.Contains(said, text) {
				t.Errorf("the history %s doesn't have %q", said, text)
			}
		}
	}

	_, token := claim()
	agent.post(spec+"/fail", fields{"lease_token": token, "reason": "Which file?"}).want(http.StatusOK)

	history, token := claim()
	knows(history, "failed", "Which file?")
	question := agent.question(spec, token, "a.csv or b.csv?", false)
	answered := make(chan *answer, 1)
	go func() {
		a, err := agent.try(context.WithoutCancel(t.Context()), "GET", question+"?wait_seconds=50", nil)
		if err != nil {
			a = &answer{t: t, what: err.Error()}
		}
		answered <- a
	}()
	eventually(t, "the agent to wait", func() bool { return s.waits(mission) })
	bob.post(question+"/answer", fields{"answer": "b.csv"}).want(http.StatusOK)
	if a := (<-answered).want(http.StatusOK); a.text("answer") != "b.csv" {
		t.Errorf("the agent got %s", a.body)
	}
	agent.post(spec+"/complete", fields{"lease_token": token, "notes": "read b.csv"}).want(http.StatusOK)
	bob.post(spec+"/review", fields{"verdict": "reject", "notes": "It has no test."}).want(http.StatusOK)

	history, token = claim()
	knows(history, "Which file?", "a.csv or b.csv?", "read b.csv", "It has no test.")
	agent.post(spec+"/complete", fields{"lease_token": token}).want(http.StatusOK)
	if ada.get(dependent).at("ready") != false {
		t.Error("the dependent is ready before the approval")
	}
	ada.post(spec+"/review", fields{"verdict": "approve"}).want(http.StatusOK)
	if ada.get(dependent).at("ready") != true {
		t.Error("the dependent isn't ready after the approval")
	}
	var kinds []string
	for _, e := range ada.eventsOf(mission)[began:] {
		kinds = append(kinds, strings.TrimPrefix(e.Type, "spec."))
	}
	want := "claimed failed claimed asked answered submitted rejected claimed submitted completed"
	if got := strings.Join(kinds, " "); got != want {
		t.Errorf("the events are %s, want %s", got, want)
	}
}

func TestSubmittedSpecWaitsForItsReview(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob, eve := s.signUp("ada", "user"), s.signUp("bob", "user"), s.signUp("eve", "user")
	agent := ada.withKey("write")
	mission, specs := ada.newReviewed("Reviewed", "a", "m")
	ada.put(mission+"/members", fields{"email": "bob@example.com", "role": "editor"}).want(http.StatusOK)
	ada.put(mission+"/members", fields{"email": "eve@example.com", "role": "viewer"}).want(http.StatusOK)
	dependent := ada.newSpec(mission, "z", fields{"dependencies": []string{"a"}})
	spec := agent.submit(mission)
	if spec != specs[0] || ada.get(dependent).at("ready") != false || ada.get(spec).at("claim") != nil {
		t.Errorf("submitted, it is %s", ada.get(spec).body)
	}
	if data := ada.lastEvent(mission, "spec.submitted"); data["number"] != 1. || data["notes"] != "did it" ||
		data["links"] == nil || ada.countEvents(mission, "spec.completed") != 0 {
		t.Errorf("the event says %v", data)
	}
	for who, told := range map[*client]bool{ada: true, bob: true, eve: false} {
		if got := strings.Contains(s.notificationsOf(who), "waits for your review"); got != told {
			t.Errorf("%s was told: %v", who.user.Email, got)
		}
	}
	review := func(c *client, verdict, notes string, headers ...string) *answer {
		return c.do("POST", spec+"/review", fields{"verdict": verdict, "notes": notes}, headers...)
	}
	ada.post(spec+"/review", fields{"verdict": "maybe"}).wantFields("verdict")
	ada.post(spec+"/review", fields{"verdict": "reject", "notes": " "}).wantFields("notes")
	ada.post(spec+"/review", fields{"verdict": "reject", "notes": strings.Repeat("x", 2001)}).wantFields("notes")
	review(ada, "approve", "", "If-Match", `"1"`).wantProblem(http.StatusPreconditionFailed, "version_mismatch")
	review(eve, "approve", "").wantProblem(http.StatusForbidden, "forbidden")
	review(s.signUp("mal", "user"), "approve", "").wantProblem(http.StatusNotFound, "not_found")
	first := review(bob, "reject", "No tests.", "Idempotency-Key", "k").want(http.StatusOK)
	again := review(bob, "reject", "No tests.", "Idempotency-Key", "k").want(http.StatusOK)
	if !bytes.Equal(again.body, first.body) || first.text("status") != "planned" || first.number("attempts") != 0 {
		t.Errorf("rejected as %s", first.body)
	}
	review(ada, "approve", "", "If-Match", `"1"`).wantProblem(http.StatusConflict, "not_in_review")
	if data := ada.lastEvent(mission, "spec.rejected"); len(data) != 1 || data["notes"] != "No tests." ||
		ada.countEvents(mission, "spec.status_changed") != 0 {
		t.Errorf("the event says %v", data)
	}
	ada.patch(specs[1], fields{"number": "1"}).want(http.StatusOK) // which puts it first, but for what was rejected
	if got := agent.submit(mission); got != spec {
		t.Errorf("the next to be claimed is %s", got)
	}
	approved := review(bob, "approve", "Nice.", "If-Match", ada.get(spec).header.Get("ETag")).want(http.StatusOK)
	if approved.text("status") != "completed" || approved.text("approved_by") != bob.user.ID ||
		ada.get(dependent).at("ready") != true {
		t.Errorf("approved as %s", approved.body)
	}
	if data := ada.lastEvent(mission, "spec.completed"); fmt.Sprint(data) !=
		fmt.Sprintf("map[approved_by:%s from:in_review notes:Nice.]", bob.user.ID) {
		t.Errorf("the event says %v", data)
	}
	want := []string{"1 bot submitted: did it", "2 bot submitted: did it"}
	var verdicts string
	for _, a := range ada.get(spec + "/attempts").want(http.StatusOK).at("items").([]any) {
		verdicts += fmt.Sprint(a.(map[string]any)["verdict"])
	}
	if got := s.attemptsOf(spec); !slices.Equal(got, want) || strings.Count(verdicts, bob.user.ID) != 2 ||
		!strings.Contains(verdicts, "notes:No tests. ") || !strings.Contains(verdicts, "verdict:approve]") {
		t.Errorf("the attempts are %q, their verdicts %s", got, verdicts)
	}
	s.checkCounters(ada, mission)
}

func TestVerdictAndTheEndOfTheMission(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission, _ := ada.newReviewed("Ends", "a", "b")
	first, second := ada.submit(mission), ada.submit(mission)
	if status := ada.statusOf(mission); status != "active" {
		t.Errorf("with all in review the mission is %s", status)
	}
	ada.post(mission+"/complete", nil).want(http.StatusOK)
	ada.post(first+"/review", fields{"verdict": "approve"}).want(http.StatusOK)
	if status := ada.statusOf(mission); status != "completed" {
		t.Errorf("after an approval the mission is %s", status)
	}
	ada.post(second+"/review", fields{"verdict": "reject", "notes": "again"}).want(http.StatusOK)
	if m := ada.get(mission); m.text("status") != "active" || m.number("stats.ready") != 1 {
		t.Errorf("after a rejection the mission is %s", m.body)
	}
	second = ada.submit(mission)
	ada.post(mission+"/cancel", nil).want(http.StatusOK)
	ada.post(second+"/review", fields{"verdict": "approve"}).wantProblem(http.StatusConflict, "mission_closed")
}

// A person's word counts without a verdict too, and is kept.
func TestPersonCompletesByHand(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission, specs := ada.newReviewed("By hand", "a", "b")
	submitted := ada.submit(mission)
	ada.post(specs[1]+"/status", fields{"status": "in_progress"}).want(http.StatusOK)
	ada.post(submitted+"/status", fields{"status": "completed"}).want(http.StatusOK)
	ada.post(specs[1]+"/status", fields{"status": "completed"}).want(http.StatusOK)
	ada.newSpec(mission, "c", fields{"status": "completed"})
	ada.importFiles(mission, "d.md", "# D\n\n- Status: Done\n")
	var listed struct{ Items []specSummary }
	ada.get("/api/v1/specs?status=completed&mission_id=" + idOf(mission)).into(&listed)
	for _, v := range listed.Items {
		if v.ApprovedBy == nil || *v.ApprovedBy != ada.user.ID {
			t.Errorf("%s was approved by %v", v.Key, v.ApprovedBy)
		}
	}
	if len(listed.Items) != 4 || s.attemptsOf(submitted)[0] != "1 bot submitted: did it" {
		t.Errorf("completed are %+v", listed.Items)
	}
	ada.post(submitted+"/status", fields{"status": "in_progress"}).want(http.StatusOK)
	if v := ada.get(submitted); v.at("approved_by") != nil {
		t.Errorf("reopened, it is %s", v.body)
	}
}

// TestNoKeyApproves tries every way in which the API key of an owner could complete,
// or begin the work behind, what a person is to review.
func TestNoKeyApproves(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	key := ada.withKey("write")
	mission, specs := ada.newReviewed("Guarded", "a-submitted", "b-planned")
	submitted := ada.submit(mission)
	dependent := ada.newSpec(mission, "dependent", fields{"dependencies": []string{"a-submitted"}})
	loose := ada.newSpec(mission, "loose", fields{"review": "none"})
	proposed := ada.newSpec(mission, "proposed", fields{"status": "proposed"})
	inTest := ada.newSpec(mission, "testing", fields{"status": "testing"})
	single := ada.newActive("One guarded spec")
	own := ada.newSpec(single, "own", fields{"review": "human"})
	ada.put(single+"/members", fields{"email": "bob@example.com", "role": "viewer"}).want(http.StatusOK)
	const required, forbidden = "review_required", "forbidden"
	editor := fields{"email": "bob@example.com", "role": "editor"}
	tries := []struct { // each refused as code says
		what, method, path string
		body               any
		code               string
	}{
		{"a verdict", "POST", submitted + "/review", fields{"verdict": "approve"}, forbidden},
		{"a status", "POST", submitted + "/status", fields{"status": "completed"}, required},
		{"a way round by testing", "POST", submitted + "/status", fields{"status": "testing"}, required},
		{"a way back", "POST", submitted + "/status", fields{"status": "in_progress"}, required},
		{"a status from testing", "POST", inTest + "/status", fields{"status": "completed", "override": "x"}, required},
		{"a new spec", "POST", mission + "/specs", fields{"key": "n", "title": "T", "status": "completed"}, required},
		{"a new spec without review", "POST", mission + "/specs", fields{"key": "n", "title": "T", "review": "none"}, required},
		{"a new guarded spec", "POST", single + "/specs", fields{"key": "n", "title": "T", "review": "human",
			"status": "completed"}, required},
		{"another text", "PATCH", submitted, fields{"body": "Nothing to do."}, required},
		{"no review", "PATCH", specs[1], fields{"review": "none"}, required},
		{"the mission's review", "PATCH", own, fields{"review": nil}, required},
		{"no review of its own", "PATCH", own, fields{"review": "none"}, required},
		{"no dependency", "PATCH", dependent, fields{"dependencies": []string{}}, required},
		{"no spec in review", "DELETE", submitted, nil, required},
		{"no guarded spec", "DELETE", own, nil, required},
		{"no dependent, to make it again without", "DELETE", dependent, nil, required},
		{"no mission with a spec in review", "DELETE", mission, nil, required},
		{"no mission with a guarded spec", "DELETE", single, nil, required},
		{"no review in the mission", "PATCH", mission, fields{"review": "none"}, forbidden},
		{"review in another mission", "PATCH", single, fields{"review": "human"}, forbidden},
		{"more in review", "PATCH", mission, fields{"max_in_review": 5}, forbidden},
		{"no triage", "PATCH", mission, fields{"triage": false}, forbidden},
		{"another owner", "PATCH", mission, fields{"owner_id": bob.user.ID}, required},
		{"another member", "PUT", mission + "/members", editor, required},
		{"another role", "PUT", single + "/members", editor, required},
		{"one member less", "DELETE", single + "/members/" + bob.user.ID, nil, required},
		{"triage", "POST", proposed + "/status", fields{"status": "planned"}, forbidden},
		{"triage away", "POST", proposed + "/status", fields{"status": "deferred"}, forbidden},
	}
	before := s.stateOf(mission) + s.stateOf(single)
	together(t, 2*len(tries), func(i int) (*answer, error) { // at once, and twice
		try := tries[i%len(tries)]
		a, err := key.try(t.Context(), try.method, try.path, try.body)
		if err == nil && (a.status != http.StatusForbidden || a.text("code") != try.code) {
			t.Errorf("a key tries %s: %d %s", try.what, a.status, a.body)
		}
		return a, err
	})
	if after := s.stateOf(mission) + s.stateOf(single); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	mallory := s.signUp("mallory", "user").withKey("write")
	for _, try := range tries {
		if a := mallory.do(try.method, try.path, try.body); a.status != http.StatusNotFound {
			t.Errorf("a stranger tries %s: %d %s", try.what, a.status, a.body)
		}
	}
	held := key.tool("claim_spec", fields{"mission_id": idOf(mission), "agent": "bot", "another": true})
	spec := held["spec"].(map[string]any)["id"]
	out := key.tool("complete_spec", fields{"spec_id": spec, "lease_token": held["lease_token"], "override": "I approve"})
	if out["status"] != "in_review" || !strings.HasPrefix(out["next"].(string), "It waits for a person's review") {
		t.Errorf("the tool says %v", out)
	}
	key.patch(loose, fields{"review": "human"}).want(http.StatusOK) // to ask for more it may
	key.patch(loose, fields{"review": nil}).wantProblem(http.StatusForbidden, "review_required")
	asks := key.tool("add_spec", fields{"mission_id": idOf(single), "title": "T", "markdown": "# T\n\nReview: human\n"})
	if v := ada.get("/api/v1/specs/" + asks["spec_id"].(string)); v.text("review") != "human" {
		t.Errorf("filed as %s", v.body)
	}
	ada.post(submitted+"/review", fields{"verdict": "approve"}).want(http.StatusOK)
	key.patch(dependent, fields{"dependencies": []string{}}).want(http.StatusOK)
}

// stateOf is how a mission and its specs are stored, but for events.
func (s *testServer) stateOf(mission string) (state string) {
	s.t.Helper()
	err := s.db.QueryRow(s.t.Context(), `
		SELECT m::text || (SELECT string_agg(s.body || h::text, E'\n' ORDER BY s.key)
		                   FROM specs s JOIN spec_states h ON h.spec_id = s.id WHERE s.mission_id = m.id)
		       || coalesce((SELECT string_agg(b::text, E'\n') FROM members b WHERE b.mission_id = m.id), '')
		FROM missions m WHERE m.id = $1`, idOf(mission)).Scan(&state)
	if err != nil {
		s.t.Fatal(err)
	}
	return state
}

func TestImportLeavesReviewToPeople(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	key := ada.withKey("write")
	mission := ada.newActive("Files")
	file := func(number, dependencies, header string) string {
		return strings.Replace(specText(number, "T"+number, dependencies, "one"), "**Status:** Planned", header, 1)
	}
	const human, done = "**Status:** Planned\n**Review:** Human, please", "**Status:** Done"
	checked := func(text string) string { return strings.Replace(text, "[ ]", "[x]", 1) }
	report := key.importFiles(mission, "1-new.md", checked(file("1", "None", done+"\n**Review:** human")),
		"2-stored.md", file("2", "None", human), "3-free.md", file("3", "None", done),
		"4-odd.md", file("4", "None", "**Review:** none"), "5-behind.md", file("5", "1-new", "**Status:** Planned"))
	specs := make(map[string]string)
	for _, name := range []string{"1-new", "2-stored", "3-free", "4-odd", "5-behind"} {
		specs[name] = ada.specByKey(mission, name)
	}
	want := func(when, codes string, report importReport, statuses ...string) {
		t.Helper()
		var got, have []string
		for _, w := range report.Warnings {
			got = append(got, w.Code)
		}
		if slices.Sort(got); strings.Join(got, " ") != codes {
			t.Errorf("%s: the warnings are %q, want %s", when, got, codes)
		}
		for _, name := range slices.Sorted(maps.Keys(specs)) {
			have = append(have, ada.statusOf(specs[name]))
		}
		if !slices.Equal(have, statuses) {
			t.Errorf("%s: the specs are %q, want %q", when, have, statuses)
		}
	}
	want("first", "review_required unknown_review", report, "in_review", "planned", "completed", "planned", "planned")
	exported := string(ada.get(mission + "/export").want(http.StatusOK).body)
	if !strings.Contains(exported, "**Status:** In Review\n**Review:** human\n") {
		t.Errorf("exported is %s", exported)
	}
	if v := ada.get(specs["2-stored"]); v.text("review") != "human" || ada.get(specs["4-odd"]).at("review") != nil {
		t.Errorf("the review is %s", v.body)
	}
	again := []string{"1-new.md", file("1", "None", done), "2-stored.md", checked(file("2", "None", done)),
		"5-behind.md", file("5", "None", "**Status:** Planned")}
	want("again", "dependency_kept done_in_file waits_for_person", key.importFiles(mission, again...),
		"in_review", "planned", "completed", "planned", "planned")
	if v := ada.get(specs["1-new"]); v.number("version") != 1 || ada.get(specs["2-stored"]).text("review") != "human" ||
		ada.get(specs["5-behind"]).at("ready") != false {
		t.Errorf("left alone is %s", v.body)
	}
	proposed := ada.newSpec(mission, "6-found", fields{"status": "proposed"})
	specs["6-found"] = proposed
	want("a proposal", "dependency_kept waits_for_person", key.importFiles(mission, "6-found.md", file("6", "None", done)),
		"in_review", "planned", "completed", "planned", "planned", "proposed")
	ada.post(specs["1-new"]+"/review", fields{"verdict": "approve"}).want(http.StatusOK)
	ada.patch(specs["2-stored"], fields{"phase": "Phase 9"}).want(http.StatusOK)
	again[3] += "\nMore.\n"
	want("by a person", "done_in_file", ada.importFiles(mission, again...),
		"completed", "completed", "completed", "planned", "planned", "proposed")
	if data := ada.lastEvent(mission, "spec.completed"); data["imported"] != true || data["approved_by"] != ada.user.ID {
		t.Errorf("the event says %v", data)
	}
	s.checkCounters(ada, mission)
}

// TestImportSeesWhatHasJustBeenHandedIn imports while a spec, which was proposed when the
// import was planned, goes into review.
func TestImportSeesWhatHasJustBeenHandedIn(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	key := ada.withKey("write")
	mission, _ := ada.newReviewed("Late", "1-other")
	found := ada.newSpec(mission, "2-found", fields{"status": "proposed"})
	behind := specText("3", "Behind", "2-found", "one")
	key.importFiles(mission, "3-behind.md", behind)
	tx, err := s.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := tx.Exec(t.Context(), `SELECT FROM missions WHERE id = $1 FOR UPDATE`, idOf(mission)); err != nil {
		t.Fatal(err)
	}
	imported := make(chan *answer, 1)
	go func() {
		defer close(imported)
		text := tarOf(t, "3-behind.md", strings.Replace(behind, "2-found", "None", 1))
		a, err := key.try(t.Context(), "POST", mission+"/import", text, "Content-Type", "application/x-tar")
		if err == nil {
			imported <- a
		}
	}()
	s.waitForALock()
	_, err = tx.Exec(t.Context(), `UPDATE spec_states SET status = 'in_review' WHERE spec_id = $1`, idOf(found))
	if err == nil {
		err = tx.Commit(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	a, ok := <-imported
	if !ok {
		t.Fatal("no answer")
	}
	if a.want(http.StatusOK).text("warnings.0.code") != "dependency_kept" {
		t.Errorf("the import says %s", a.body)
	}
	if kept := ada.get(ada.specByKey(mission, "3-behind")); kept.text("dependencies.0.key") != "2-found" {
		t.Errorf("it depends on %s", kept.body)
	}
}

func TestFullReviewHandsNothingOut(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	s, other := startTestServer(t, database, nil), startTestServer(t, database, nil)
	s.pauseSweep() // which would take back what expires here
	ada := s.signUp("ada", "user")
	elsewhere := &client{t: t, base: other.url(), token: ada.token, user: ada.user}
	mission, _ := ada.newReviewed("Full", "a", "b", "c", "d")
	free := ada.newSpec(mission, "free", fields{"review": "none", "priority": 9})
	ada.patch(mission, fields{"max_in_review": 10_001}).wantFields("max_in_review")
	ada.patch(mission, fields{"max_in_review": 1}).want(http.StatusOK)
	if spec, _ := ada.claim(mission, "bot"); spec != free { // it won't be in review, and so doesn't count
		t.Errorf("claimed %s", spec)
	}
	var held []string
	for _, a := range together(t, 50, func(i int) (*answer, error) {
		by := []*client{ada, elsewhere}[i%2]
		return by.try(t.Context(), "POST", mission+"/claim", fields{"agent": fmt.Sprint("bot-", i)})
	}) {
		if a.status == http.StatusOK {
			held = append(held, "/api/v1/specs/"+a.text("spec.id"), a.text("lease.token"))
		} else if a.status != http.StatusNoContent {
			t.Errorf("a claim got %d %s", a.status, a.body)
		}
	}
	if len(held) != 2 {
		t.Fatalf("%d specs are held", len(held)/2)
	}
	full := func(when string) {
		t.Helper()
		ada.post(mission+"/claim", fields{"agent": "late"}).want(http.StatusNoContent)
		next := ada.tool("next_spec", fields{"mission_id": idOf(mission)})["next"].(string)
		why := ada.get(ada.specByKey(mission, "d") + "/explain").want(http.StatusOK)
		if !strings.HasPrefix(next, "review_full") || why.at("ready") != true || why.text("reasons.0.code") != "review_full" {
			t.Errorf("%s: next_spec says %q, explain %s", when, next, why.body)
		}
	}
	full("held")
	ada.post(held[0]+"/complete", fields{"lease_token": held[1]}).want(http.StatusOK)
	full("in review")
	answers := s.waitForClaim(t.Context(), ada, mission)
	elsewhere.post(held[0]+"/review", fields{"verdict": "approve"}).want(http.StatusOK)
	if a := <-answers; a == nil || a.status != http.StatusOK {
		t.Fatalf("after the verdict the waiting claim got %+v", a)
	}
	s.expireLease(ada.get("/api/v1/specs?claimed=mine&sort=-updated_at").text("items.0.id"))
	ada.claim(mission, "after one that expired")
	full("held again")
	ada.patch(mission, fields{"max_in_review": 2}).want(http.StatusOK)
	ada.claim(mission, "more")
}

func TestRacesOfVerdicts(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	s, other := startTestServer(t, database, nil), startTestServer(t, database, nil)
	ada := s.signUp("ada", "user")
	by := []*client{ada, {t: t, base: other.url(), token: ada.token, user: ada.user}}
	mission := ada.newMission("Races")
	done := "# 1 - One\n\n**Status:** Done\n**Review:** human\n"
	ada.importFiles(mission, "1.md", "# 1 - One\n\n**Status:** Planned\n**Review:** human\n", "2.md", "# 2 - Two\n")
	ada.post(mission+"/start", nil).want(http.StatusOK)
	for round := range 6 {
		spec := ada.submit(mission) // 1.md comes first, also as rejected
		counted := 0
		for i, a := range together(t, 21, func(i int) (*answer, error) {
			if i == 20 && round > 2 {
				return by[round%2].try(t.Context(), "POST", mission+"/import",
					tarOf(t, "1.md", done+strings.Repeat("\nMore.\n", round)), "Content-Type", "application/x-tar")
			}
			return by[i%2].try(t.Context(), "POST", spec+"/review",
				fields{"verdict": []string{"reject", "reject", "approve"}[(i+round)%3], "notes": "n"})
		}) {
			switch {
			case i == 20 && round > 2:
				a.want(http.StatusOK)
			case a.status == http.StatusOK:
				counted++
			default:
				a.wantProblem(http.StatusConflict, "not_in_review")
			}
		}
		if counted != 1 {
			t.Errorf("%d verdicts counted", counted)
		}
		if ada.statusOf(spec) == "completed" {
			ada.post(spec+"/status", fields{"status": "in_progress"}).want(http.StatusOK)
			ada.post(spec+"/status", fields{"status": "planned"}).want(http.StatusOK)
		}
		s.checkCounters(ada, mission)
	}
	for range 5 { // the last is approved while the last but one is completed
		mission, specs := ada.newReviewed("Last two", "a")
		ada.newSpec(mission, "b", fields{"review": "none"})
		ada.submit(mission)
		last, token := ada.claim(mission, "bot")
		together(t, 2, func(i int) (*answer, error) {
			path := []string{specs[0] + "/review", last + "/complete"}[i]
			return by[i].try(t.Context(), "POST", path, []fields{{"verdict": "approve"}, {"lease_token": token}}[i])
		})
		if n := ada.countEvents(mission, "mission.completed"); n != 1 || ada.statusOf(mission) != "completed" {
			t.Errorf("the mission was completed %d times", n)
		}
	}
}

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

// What somebody says of a step by hand reaches whoever works on the spec next, first
// of all, and those who read it.
func TestNextAgentKnowsWhatWasDecided(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.MaxAttempts = 1 })
	ada := s.signUp("ada", "user")
	bot, b := ada.withKey("write"), s.browse(ada)
	mission := ada.newActive("Decided")
	spec := ada.newSpec(mission, "one", nil)
	page := "/missions/" + idOf(mission) + "/specs/one"
	step := func(status, notes string) *answer {
		t.Helper()
		return ada.post(spec+"/status", fields{"status": status, "notes": notes}).want(http.StatusOK)
	}
	fail := func() { // which blocks it
		_, token := bot.claim(mission, "bot")
		bot.post(spec+"/fail", fields{"lease_token": token, "reason": "no way"}).want(http.StatusOK)
	}
	long, odd := strings.Repeat("ü", 2000), "!"+strings.Repeat("\u2028", 1998)+"!"
	short := regexp.MustCompile(`ü+…|!?\x{2028}+…`)
	claims := func(next, past string) {
		t.Helper()
		a := bot.tool("claim_spec", fields{"mission_id": idOf(mission), "agent": "bot", "another": true})
		shown := bot.tool("show_spec", fields{"spec_id": idOf(spec)}) // which has the one under way, and room for fewer
		for i, history := range []any{a["history"], shown["history"]} {
			var got []string
			if encoded, err := encode(history); err != nil || len(encoded) > 2000 {
				t.Errorf("the history has %d bytes, %v", len(encoded), err)
			}
			for _, entry := range history.([]any) {
				if entry := entry.(map[string]any); entry["decision"] != nil {
					got = append(got, fmt.Sprint("decided: ", entry["decision"].(map[string]any)["notes"]))
				} else if entry["outcome"] != nil { // it isn't the one under way
					got = append(got, fmt.Sprint(entry["number"], " ", entry["outcome"], ": ", entry["notes"]))
				}
			}
			said := short.ReplaceAllString(strings.Join(got, ", "), "cut")
			if said != past && (i == 0 || said == "" || !strings.HasPrefix(past, said)) {
				t.Errorf("the history is %q, want %q", said, past)
			}
		}
		if got := fmt.Sprint(a["next"]); len(got) > 1000 || !strings.HasPrefix(got, next) {
			t.Errorf("next is %.1000q, want it to begin with %q", got, next)
		}
	}

	if v := ada.get(spec); v.at("decision") != nil {
		t.Errorf("a new spec has %s", v.body)
	}
	fail()
	if got := step("planned", " Use the new API. ").at("decision").(map[string]any); got["from"] != "blocked" ||
		got["status"] != "planned" || got["notes"] != "Use the new API." || got["user_id"] != ada.user.ID ||
		got["at"] == nil || len(got) != 5 {
		t.Errorf("the decision is %v", got)
	}
	b.get(page).wantText("<b>Unblocked</b> by ada <time", " ago: Use the new API.</p>")
	claims("It was unblocked by hand: Use the new API. Attempt 1 failed: no way. Begin with what history says. ",
		"decided: Use the new API., 1 failed: no way")

	step("planned", "Wait for Bob.") // of what the agent holds
	if n := ada.get(spec).number("decision.number"); n != 2 {
		t.Errorf("the decision has ended attempt %d", n)
	}
	if n := strings.Count(string(b.get(page).wantText("<b>Planned</b> by ada").body), "Wait for Bob."); n != 1 {
		t.Errorf("the page says it %d times", n)
	}
	claims("Attempt 2 was ended by someone else: Wait for Bob. Begin", "2 taken: Wait for Bob., 1 failed: no way")
	step("planned", "")
	step("deferred", long)
	step("planned", "")
	claims("It was put off by hand: "+strings.Repeat("ü", 150)+". Attempt 3 was ended by someone else. Begin",
		"decided: cut, 3 taken: <nil>, 2 taken: Wait for Bob., 1 failed: no way")
	step("planned", "")
	a := bot.post(mission+"/claim", fields{"agent": "bot"}).want(http.StatusOK)
	if a.text("spec.decision.status") != "deferred" || a.number("history.0.number") != 4 {
		t.Errorf("claimed %s", a.body)
	}
	step("planned", "")
	claims("Attempt 5 was ended by someone else. Begin", "5 taken: <nil>, 4 taken: <nil>, decided: cut, 3 taken: <nil>")

	spec = ada.newSpec(mission, "found", fields{"status": "proposed",
		"body": strings.Repeat("The quick brown fox jumps over the lazy dog, again.\n", 2400)})
	step("planned", odd)
	claims("It was accepted by hand: !\u2028", "decided: cut")
	shown := bot.rpc("tools/call", fields{"name": "show_spec", "arguments": fields{"spec_id": idOf(spec)}})
	if n := utf8.RuneCountInString(shown.text("result.content.0.text")); n > 60_000 || n < 40_000 {
		t.Errorf("show_spec has %d characters", n)
	}
}

// Who reviews, and who tries next, learns why criteria were left open.
func TestReasonForOpenCriteriaIsKept(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	bot, b := ada.withKey("write"), s.browse(ada)
	mission, _ := ada.newReviewed("Left open")
	body := fields{"body": "## Acceptance Criteria\n\n- [ ] a\n- [ ] b\n"}
	ada.newSpec(mission, "one", body)
	page := "/missions/" + idOf(mission) + "/specs/one"
	spec, token := bot.claim(mission, "bot")
	bot.post(spec+"/complete", fields{"lease_token": token, "override": "There is no printer."}).want(http.StatusOK)
	b.get(page).wantText("<b>Criteria left open:</b> There is no printer.</p>")
	ada.post(spec+"/review", fields{"verdict": "reject", "notes": "There is."}).want(http.StatusOK)
	a := bot.post(mission+"/claim", fields{"agent": "bot"}).want(http.StatusOK)
	if a.text("history.0.override") != "There is no printer." {
		t.Errorf("claimed %s", a.body)
	}
	last := func() (attempt, decided any) {
		return ada.get(spec + "/attempts").want(http.StatusOK).at("items.0.override"), ada.get(spec).at("decision.override")
	}
	if attempt, decided := last(); attempt != "" || decided != nil {
		t.Errorf("under way: %q and %v", attempt, decided)
	}
	ada.post(spec+"/status", fields{"status": "completed", "override": "It is old."}).want(http.StatusOK)
	if attempt, decided := last(); attempt != "It is old." || decided != "It is old." {
		t.Errorf("by hand: %q and %v", attempt, decided)
	}
	if n := strings.Count(string(b.get(page).wantText("<b>Completed</b> by ada").body), "It is old."); n != 1 {
		t.Errorf("the page says it %d times", n)
	}
	ada.post(spec+"/status", fields{"status": "in_progress", "override": "no reason"}).want(http.StatusOK)
	ada.post(spec+"/status", fields{"status": "completed", "override": "It is older."}).want(http.StatusOK)
	if attempt, decided := last(); attempt != "It is old." || decided != "It is older." {
		t.Errorf("by hand, without a lease: %q and %v", attempt, decided)
	}
	b.get(page).wantText("<b>Criteria left open:</b> It is older.</p>", "<b>Criteria left open:</b> It is old.</p>")

	ada.newSpec(mission, "two", fields{"review": "none", "body": "## Acceptance Criteria\n\n- [x] a\n"})
	spec, token = bot.claim(mission, "bot")
	done := bot.tool("complete_spec", fields{"spec_id": idOf(spec), "lease_token": token, "override": "none is open"})
	if attempt, _ := last(); attempt != "" || done["status"] != "completed" {
		t.Errorf("with all met: %q", attempt)
	}
	ada.newSpec(mission, "three", fields{"review": "none", "body": body["body"]})
	spec, token = bot.claim(mission, "bot")
	bot.tool("complete_spec", fields{"spec_id": idOf(spec), "lease_token": token, "override": strings.Repeat("é", 2000)})
	shown := fmt.Sprint(bot.tool("show_spec", fields{"spec_id": idOf(spec)})["history"])
	if n := strings.Count(shown, "é"); n < 500 || n > 1000 || !strings.Contains(shown, "override:é") {
		t.Errorf("the history of a long reason is %s", shown)
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
		{"url", "https://:443/", "links[0].ref"}, {"url", "https://example.com/\u202egro.live", "links[0].ref"},
		{"branch", "ma\u200bin", "links[0].ref"}, {"branch", "größer", ""},
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
	eventually(t, "the agent to wait", func() bool { return s.waits(mission) })
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
	b, mission := s.browse(ada), ada.newActive("Park")
	ada.newSpec(mission, "one", nil)
	spec, token := ada.claim(mission, "bot")
	first := ada.question(spec, token, "Which one?", false)
	second := ada.question(spec, token, "And how?", true)
	if v := ada.get(spec); v.text("status") != "blocked" || v.number("attempts") != 0 || v.at("claim") != nil {
		t.Errorf("parked: %s", v.body)
	}
	waitsFor := func(open int) { // on the page, to agents, and by the route
		t.Helper()
		why := fmt.Sprintf("It waits for a person's answer (open questions: %d). Once all are answered, it is planned again.", open)
		if a := ada.get(spec + "/explain"); a.text("reasons.0.code") != "status" ||
			a.text("reasons.1.code") != "question_open" || a.text("reasons.1.message") != why || a.at("reasons.2") != nil {
			t.Errorf("explained by %s", a.body)
		}
		next := ada.tool("next_spec", fields{"mission_id": idOf(mission)})
		shown := ada.tool("show_spec", fields{"spec_id": idOf(spec)})
		if !strings.Contains(fmt.Sprint(next["open"]), why) || !strings.Contains(fmt.Sprint(shown["waits_for"]), why) {
			t.Errorf("agents are told %v and %v", next, shown)
		}
		b.get("/missions/"+idOf(mission)+"/specs/one").wantText("Why it isn’t ready", template.HTMLEscapeString(why))
	}
	waitsFor(2)
	ada.post(spec+"/heartbeat", fields{"lease_token": token}).wantProblem(http.StatusConflict, "lease_lost")
	ada.post(mission+"/claim", fields{"agent": "bot"}).want(http.StatusNoContent)
	ada.post(second+"/answer", fields{"answer": "so"}).want(http.StatusOK)
	if v := ada.get(spec); v.text("status") != "blocked" {
		t.Errorf("with one question open: %s", v.body)
	}
	waitsFor(1)
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
			eventually(t, "the sweep", func() bool { return ada.get(spec).text("status") == "planned" })
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
		t.Helper()
		maps.Copy(more, lease)
		return bot.tool("ask", more)
	}
	out := ask(fields{"question": "Which one?"})
	id := out["question_id"].(string)
	if out["state"] != "open" || !strings.Contains(out["next"].(string), "Call ask with this question_id") {
		t.Errorf("got %v", out)
	}
	waits := make(chan *answer, 1)
	go func() {
		arguments := fields{"question_id": id, "wait_seconds": 50}
		maps.Copy(arguments, lease)
		a, err := bot.try(t.Context(), "POST", "/mcp", fields{"jsonrpc": "2.0", "id": 1, "method": "tools/call",
			"params": fields{"name": "ask", "arguments": arguments}})
		if err != nil {
			a = &answer{t: t, what: err.Error()}
		}
		waits <- a
	}()
	eventually(t, "the agent to wait", func() bool { return s.waits(mission) })
	ada.post("/api/v1/questions/"+id+"/answer", fields{"answer": "the first"}).want(http.StatusOK)
	if a := (<-waits).want(http.StatusOK); a.text("result.structuredContent.answer") != "the first" ||
		!strings.Contains(a.text("result.structuredContent.next"), "Go on with this answer") {
		t.Errorf("got %s", a.body)
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
