package main

import (
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"
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
		!strings.Contains(filed["next"].(string), "go on with the spec that you hold") {
		t.Errorf("filed as %v", filed)
	}
	if again := agent.tool("add_spec", file); again["spec_id"] != filed["spec_id"] {
		t.Errorf("the same is filed again as %v", again)
	}
	if data := ada.lastEvent(mission, "spec.created"); data["found_in"] != path.Base(held) || data["status"] != "proposed" {
		t.Errorf("the event says %v", data)
	}
	found := "/api/v1/specs/" + filed["spec_id"].(string)
	if v := ada.get(found); v.text("number") != "042" || v.text("dependencies.0.key") != "041-done" || v.text("body") != body ||
		v.at("ready") != false || v.number("criteria_total") != 2 {
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
	if m := ada.get(mission); m.text("status") != "active" || m.number("stats.ready") != 1 || m.number("stats.criteria_total") != 2 {
		t.Errorf("accepted, and the mission is %s", m.body)
	}
	s.checkCounters(ada, mission)
	ada.patch(mission, fields{"triage": false}).want(http.StatusOK)
	for range 2 { // it isn't proposed, so it isn't the same
		file["lease_token"], file["depends_on"] = nil, nil
		if filed := agent.tool("add_spec", file); filed["status"] != "planned" || !strings.HasPrefix(filed["key"].(string), "04") {
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
		return fields{"name": "add_spec", "arguments": fields{"mission_id": idOf(mission), "title": fmt.Sprint("Found ", n),
			"markdown": "x", "lease_token": token}}
	}
	answers := together(t, 30, func(i int) (*answer, error) {
		by := []*client{agent, elsewhere}[i%2]
		return by.try(t.Context(), "POST", "/mcp", fields{"jsonrpc": "2.0", "id": i, "method": "tools/call", "params": file(i, nil)})
	})
	refused := 0
	for _, a := range answers {
		if a.want(http.StatusOK).at("result.isError") == true {
			refused++
			if text := a.text("result.content.0.text"); !strings.HasPrefix(text, "too_many_proposed:") || !strings.Contains(text, "Next:") {
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
		agent.tool("add_spec", file(100+i, token)["arguments"].(fields))
	}
	if text := agent.refusal("add_spec", file(0, token)["arguments"].(fields)); !strings.HasPrefix(text, "too_many_proposed:") {
		t.Errorf("refused with %s", text)
	}
	for name, arguments := range map[string]fields{
		"lease_lost":   {"lease_token": "lt_of nobody"},
		"title":        {"title": strings.Repeat("x", 201)},
		"markdown":     {"markdown": strings.Repeat("x", maxSpecBody+1)},
		"depends_on[0": {"depends_on": []string{"nothing"}},
	} {
		with := file(0, nil)["arguments"].(fields)
		for field, value := range arguments {
			with[field] = value
		}
		if text := agent.refusal("add_spec", with); !strings.Contains(text, name) {
			t.Errorf("%s: refused with %s", name, text)
		}
	}
	s.checkCounters(ada, mission)
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
		pollUntil(t, "the counters", func() bool { return ada.get(missions[i]).number("stats.proposed") == want })
		s.checkCounters(ada, missions[i])
	}
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
	if a := c.post(spec+"/complete", fields{"lease_token": token, "notes": "did it"}).want(http.StatusOK); a.text("status") != "in_review" {
		c.t.Fatalf("completed as %s", a.body)
	}
	return spec
}

func TestSubmittedSpecWaitsForItsReview(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob, eve := s.signUp("ada", "user"), s.signUp("bob", "user"), s.signUp("eve", "user")
	agent := ada.withKey("write")
	mission, specs := ada.newReviewed("Reviewed", "a", "m")
	for _, member := range []fields{{"email": "bob@example.com", "role": "editor"}, {"email": "eve@example.com", "role": "viewer"}} {
		ada.put(mission+"/members", member).want(http.StatusOK)
	}
	dependent := ada.newSpec(mission, "z", fields{"dependencies": []string{"a"}})
	spec := agent.submit(mission)
	if spec != specs[0] || ada.get(dependent).at("ready") != false || ada.get(spec).at("claim") != nil {
		t.Errorf("submitted, it is %s", ada.get(spec).body)
	}
	if data := ada.lastEvent(mission, "spec.submitted"); data["number"] != 1. || data["notes"] != "did it" || data["links"] == nil ||
		ada.countEvents(mission, "spec.completed") != 0 {
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
	if again := review(bob, "reject", "No tests.", "Idempotency-Key", "k").want(http.StatusOK); string(again.body) != string(first.body) ||
		first.text("status") != "planned" || first.number("attempts") != 0 {
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
	if approved.text("status") != "completed" || approved.text("approved_by") != bob.user.ID || ada.get(dependent).at("ready") != true {
		t.Errorf("approved as %s", approved.body)
	}
	if data := ada.lastEvent(mission, "spec.completed"); fmt.Sprint(data) !=
		fmt.Sprintf("map[approved_by:%s from:in_review notes:Nice.]", bob.user.ID) {
		t.Errorf("the event says %v", data)
	}
	want := []string{"1 bot submitted: did it", "2 bot submitted: did it"}
	var verdicts string
	err := s.db.QueryRow(t.Context(), `SELECT string_agg(verdict || ': ' || verdict_notes, ', ' ORDER BY number) FROM attempts
		WHERE spec_id = $1 AND verdict_by = $2`, path.Base(spec), bob.user.ID).Scan(&verdicts)
	if got := s.attemptsOf(spec); !slices.Equal(got, want) || err != nil || verdicts != "reject: No tests., approve: Nice." {
		t.Errorf("the attempts are %q, their verdicts %q, %v", got, verdicts, err)
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
	done := []*answer{
		ada.post(submitted+"/status", fields{"status": "completed"}).want(http.StatusOK),
		ada.post(specs[1]+"/status", fields{"status": "completed"}).want(http.StatusOK),
		ada.get(ada.newSpec(mission, "c", fields{"status": "completed"})),
	}
	ada.importFiles(mission, "d.md", "# D\n\n- Status: Done\n")
	var listed struct{ Items []specSummary }
	ada.get("/api/v1/specs?status=completed&mission_id=" + idOf(mission)).into(&listed)
	for _, v := range listed.Items {
		if v.ApprovedBy == nil || *v.ApprovedBy != ada.user.ID {
			t.Errorf("%s was approved by %v", v.Key, v.ApprovedBy)
		}
	}
	if len(listed.Items) != len(done)+1 || s.attemptsOf(submitted)[0] != "1 bot submitted: did it" {
		t.Errorf("completed are %+v", listed.Items)
	}
	ada.post(submitted+"/status", fields{"status": "in_progress"}).want(http.StatusOK)
	if v := ada.get(submitted); v.at("approved_by") != nil {
		t.Errorf("reopened, it is %s", v.body)
	}
}
