package main

import (
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestDependencyThatClosesACycleIsRefused(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Cycle")
	a := ada.newSpec(mission, "a", nil)
	b := ada.newSpec(mission, "b", fields{"dependencies": []string{"a"}})
	ada.newSpec(mission, "c", fields{"dependencies": []string{"b"}})
	for _, test := range []struct {
		spec, on, cycle string
	}{
		{a, "a", "[a]"},
		{a, "b", "[a b]"},
		{a, "c", "[a c b]"},
		{b, "c", "[b c]"},
	} {
		refused := ada.patch(test.spec, fields{"dependencies": []string{test.on}}).wantProblem(http.StatusConflict,
			"dependency_cycle")
		if got := fmt.Sprint(refused.at("cycle")); got != test.cycle {
			t.Errorf("on %s: the cycle is %s, want %s", test.on, got, test.cycle)
		}
	}
	refused := ada.post(mission+"/specs", fields{"key": "self", "title": "S", "dependencies": []string{"self"}})
	if detail := refused.wantProblem(http.StatusConflict, "dependency_cycle").text("detail"); !strings.Contains(detail,
		"self → self") {
		t.Errorf("the detail is %q", detail)
	}
	if got := ada.get(a); fmt.Sprint(got.at("dependencies")) != "[]" || got.number("version") != 1 {
		t.Errorf("a refused edit left %s", got.body)
	}
}

func TestTwoEditsAtOnceCannotCloseACycle(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Race")
	for round := range 25 {
		keys := []string{fmt.Sprintf("left%d", round), fmt.Sprintf("right%d", round)}
		specs := []string{ada.newSpec(mission, keys[0], nil), ada.newSpec(mission, keys[1], nil)}
		statuses := make([]int, 2)
		var editing sync.WaitGroup
		for i := range 2 {
			editing.Go(func() {
				a, err := ada.try(t.Context(), "PATCH", specs[i], fields{"dependencies": []string{keys[1-i]}})
				if err != nil {
					t.Error(err)
					return
				}
				statuses[i] = a.status
			})
		}
		editing.Wait()
		if slices.Sort(statuses); !slices.Equal(statuses, []int{http.StatusOK, http.StatusConflict}) {
			t.Fatalf("round %d: got %v", round, statuses)
		}
	}
	if cycles := ada.get(mission + "/graph").at("cycles"); fmt.Sprint(cycles) != "[]" {
		t.Errorf("cycles: %v", cycles)
	}
}

func TestDependenciesAreNamedByKeyOrID(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission, elsewhere := ada.newMission("Names"), ada.newMission("Elsewhere")
	first := path.Base(ada.newSpec(mission, "first", fields{"number": "1"}))
	ada.newSpec(mission, "second", fields{"number": "2"})
	foreign := path.Base(ada.newSpec(elsewhere, "foreign", nil))
	spec := ada.newSpec(mission, "third", fields{"dependencies": []string{strings.ToUpper(first), "second", "first"}})

	got := ada.get(spec)
	if got.text("dependencies.0.key") != "first" || got.text("dependencies.1.key") != "second" ||
		got.at("dependencies.2") != nil {
		t.Errorf("got %s", got.body)
	}
	if got := ada.get("/api/v1/specs/" + first); got.text("dependents.0.key") != "third" {
		t.Errorf("got %s", got.body)
	}
	ada.patch(spec, fields{"dependencies": []string{"first", "nobody", foreign, "foreign", ""}}).
		wantFields("dependencies[1]", "dependencies[2]", "dependencies[3]", "dependencies[4]")
	ada.patch(spec, fields{"dependencies": slices.Repeat([]string{"first"}, 1001)}).wantFields("dependencies")

	if v := ada.patch(spec, fields{"dependencies": []string{"second",
		first}}).want(http.StatusOK); v.number("version") != 1 {
		t.Error("the same dependencies in another order are a change")
	}
	ada.delete("/api/v1/specs/"+first).wantProblem(http.StatusConflict, "has_dependents")
	if v := ada.patch(spec, fields{"dependencies": nil}).want(http.StatusOK); v.number("version") != 2 ||
		v.at("dependencies.0") != nil {
		t.Errorf("null left %s", v.body)
	}
	if data := ada.lastEvent(mission, "spec.updated"); fmt.Sprint(data["changed"]) != "[dependencies]" {
		t.Errorf("the event says %v", data)
	}
	ada.delete("/api/v1/specs/" + first).want(http.StatusNoContent)
}

func TestExplainNamesEveryReason(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Why")
	specs := make(map[string]string)
	for _, spec := range []struct {
		key, status string
		on          []string
	}{
		{"free", "planned", nil}, {"held", "planned", nil}, {"late", "deferred", nil}, {"done", "completed", nil},
		{"after-free", "planned", []string{"free"}}, {"after-late", "planned", []string{"late"}},
		{"after-done", "planned", []string{"done"}}, {"after-all", "blocked", []string{"free", "late", "done"}},
		{"round", "planned", nil}, {"about", "planned", []string{"round"}},
	} {
		priority := 5
		if spec.key == "held" {
			priority = 9
		}
		specs[spec.key] = ada.newSpec(mission, spec.key,
			fields{"status": spec.status, "priority": priority, "dependencies": orEmpty(spec.on)})
	}
	_, err := s.db.Exec(t.Context(), `WITH closing AS (INSERT INTO dependencies (spec_id, depends_on) VALUES ($1, $2))
		UPDATE spec_states SET unmet = 1, cycle = 2 WHERE spec_id IN ($1, $2)`, path.Base(specs["round"]), path.Base(specs["about"])) // as an import brings it
	if err != nil {
		t.Fatal(err)
	}
	check := func(key string, want ...string) {
		t.Helper()
		var got struct {
			Ready   bool
			Reasons []notReadyReason
		}
		ada.get(specs[key] + "/explain").want(http.StatusOK).into(&got)
		codes := []string{}
		for _, r := range got.Reasons {
			code := r.Code
			if r.Spec != nil {
				code += " " + r.Spec.Key
			}
			if codes = append(codes, code); r.Message == "" {
				t.Errorf("%s: %s has no message", key, code)
			}
		}
		if slices.Sort(codes); !slices.Equal(codes, want) || got.Ready != (len(want) == 0) {
			t.Errorf("%s: ready %v because of %q, want %q", key, got.Ready, codes, want)
		}
	}
	check("free", "mission_not_active")
	ada.post(mission+"/start", nil).want(http.StatusOK)
	if spec, _ := ada.claim(mission, "bot"); spec != specs["held"] {
		t.Fatalf("claimed %s", spec)
	}
	check("free")
	check("held", "claimed", "status")
	check("late", "status")
	check("done", "status")
	check("after-free", "dependency_open free")
	check("after-late", "dependency_open late")
	check("after-done")
	check("after-all", "dependency_open free", "dependency_open late", "status")
	check("round", "dependency_cycle", "dependency_open about")
	check("about", "dependency_cycle", "dependency_open round")

	ada.patch(specs["free"], fields{"title": "edits go on beside a cycle"}).want(http.StatusOK)
	ada.newSpec(mission, "newcomer", fields{"dependencies": []string{"about"}})
	graph := ada.get(mission + "/graph").want(http.StatusOK)
	if got := fmt.Sprint(graph.at("cycles")); got != "[[about round]]" {
		t.Errorf("the cycles are %s", got)
	}
}

func TestGraph(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Graph")
	empty := ada.get(mission + "/graph").want(http.StatusOK)
	if string(empty.body) != `{"nodes":[],"edges":[],"cycles":[],"next_cursor":null}` {
		t.Errorf("an empty mission's graph is %s", empty.body)
	}
	ada.newSpec(mission, "one", fields{"number": "1", "title": `Say "hi" <b>#1`, "status": "completed"})
	ada.newSpec(mission, "two", fields{"number": "2", "title": "Two", "dependencies": []string{"one"}})
	ada.newSpec(mission, "ten", fields{"number": "10", "title": "Ten", "dependencies": []string{"two", "one"}})
	graph := ada.get(mission + "/graph?format=json").want(http.StatusOK)
	for path, want := range map[string]any{
		"nodes.0.key": "one", "nodes.0.status": "completed", "nodes.0.ready": false,
		"nodes.1.key": "two", "nodes.1.ready": true, "nodes.2.key": "ten", "nodes.2.ready": false, "nodes.3": nil,
		"edges.0.from": "two", "edges.0.to": "one", "edges.1.from": "ten", "edges.1.to": "one", "edges.2.to": "two",
		"edges.3": nil,
	} {
		if got := graph.at(path); got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	drawn := ada.get(mission + "/graph?format=mermaid").want(http.StatusOK)
	if got := drawn.header.Get("Content-Type"); got != "text/vnd.mermaid; charset=utf-8" {
		t.Errorf("the content type is %s", got)
	}
	for _, line := range []string{
		"flowchart LR", `s0["1 Say #quot;hi#quot; #lt;b#gt;#35;1"]:::completed`, `s1["2 Two"]:::ready`,
		`s2["10 Ten"]:::planned`,
		"s0 --> s1", "s0 --> s2", "s1 --> s2",
	} {
		if !strings.Contains(string(drawn.body), line+"\n") {
			t.Errorf("%q isn't in %s", line, drawn.body)
		}
	}
	ada.get(mission + "/graph?format=dot").wantFields("format")
}

func TestDeferredDependencyDoesNotCountAsCompleted(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Deferred")
	first := ada.newSpec(mission, "first", nil)
	second := ada.newSpec(mission, "second", fields{"dependencies": []string{"first"}})
	for _, step := range []struct {
		status string
		ready  bool
	}{{"deferred", false}, {"planned", false}, {"in_progress", false}, {"completed", true}, {"in_progress", false}} {
		ada.post(first+"/status", fields{"status": step.status}).want(http.StatusOK)
		if got := ada.get(second).at("ready"); got != step.ready {
			t.Errorf("with the dependency %s, ready is %v", step.status, got)
		}
	}
}

// Of the reads that may cost much, few run for one account, and some for others.
func TestCostlyReadsOfOneAccountLeavePlacesToOthers(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	hers, his := ada.newActive("Hers"), bob.newMission("His")
	conn, err := pgx.Connect(t.Context(), s.config.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	release := sync.OnceFunc(func() { _ = conn.Close(t.Context()) })
	defer release()
	if _, err := conn.Exec(t.Context(), "BEGIN; LOCK TABLE dependencies IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	s.seen.note(idOf(hers), seenID{costly: true})
	var reads, other atOnce
	for range 8 {
		reads.try(ada, "GET", hers+"/graph", nil)
		reads.try(ada, "GET", "/api/v1/specs?mission_id="+idOf(hers), nil)
		reads.try(ada, "POST", "/mcp", fields{"jsonrpc": "2.0", "id": 1, "method": "tools/call",
			"params": fields{"name": "next_spec", "arguments": fields{"mission_id": idOf(hers)}}})
	}
	s.waitForALock()
	if n := s.blocked(); n != 1 {
		t.Errorf("%d reads of one account run", n)
	}
	ada.get(hers).want(http.StatusOK) // which isn't one of them
	other.try(bob, "GET", his+"/graph", nil)
	pollUntil(t, "another account's read to run", func() bool { return s.blocked() == 2 })
	release()
	reads.work.Wait()
	other.work.Wait()
	delete(reads.statuses, "503 busy 1")
	if len(reads.statuses) != 1 || reads.statuses["done"] == 0 || other.statuses["done"] != 1 {
		t.Errorf("hers: %v, his: %v", reads.statuses, other.statuses)
	}
}

// widen gives a mission 2n specs with long titles, of which the first n depend on
// all others.
func (s *testServer) widen(mission string, n int) {
	s.t.Helper()
	s.runSQL(fmt.Sprintf(`
		INSERT INTO specs (id, mission_id, key, number, title, phase, priority, tags, estimated_context, body, derived_status)
		SELECT gen_random_uuid(), '%s', 'k' || n, n::text, repeat('0123456789', 20), '', 5, '{}', '', '', ''
		FROM generate_series(1, %d) n`, idOf(mission), 2*n),
		`INSERT INTO spec_states (spec_id, mission_id, status, done, priority, place, phase, tags)
		SELECT id, mission_id, 'deferred', '{}', priority, place, phase, tags FROM specs WHERE key LIKE 'k%'`,
		fmt.Sprintf(`INSERT INTO dependencies (spec_id, depends_on) SELECT a.id, b.id FROM specs a, specs b
		WHERE a.key LIKE 'k%%' AND b.key LIKE 'k%%' AND a.number::int <= %[1]d AND b.number::int > %[1]d`, n))
}

// However many specs depend on one, reading it costs and says only so much.
func TestDependentsAreShownUpToABound(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Hub")
	hub := ada.newSpec(mission, "hub", nil)
	s.runSQL(`
		INSERT INTO specs (id, mission_id, key, number, title, phase, priority, tags, estimated_context, body, derived_status)
		SELECT gen_random_uuid(), '`+idOf(mission)+`', 'k' || n, n::text, 'x', '', 5, '{}', '', '', ''
		FROM generate_series(1, 1500) n`,
		`INSERT INTO spec_states (spec_id, mission_id, status, done, unmet, priority, place, phase, tags)
			SELECT id, mission_id, 'planned', '{}', 1, priority, place, phase, tags FROM specs WHERE key LIKE 'k%'`,
		`INSERT INTO dependencies (spec_id, depends_on) SELECT id, '`+idOf(hub)+`' FROM specs WHERE key LIKE 'k%'`,
		`UPDATE heads SET planned = planned + 1500 WHERE stream = '`+idOf(mission)+`'`)
	for range 2 { // the second one knows that it is costly
		if n := len(ada.get(hub).at("dependents").([]any)); n != maxDependents {
			t.Errorf("%d dependents", n)
		}
	}
	if !s.seen.of(idOf(hub)).costly {
		t.Error("others wait for it in their rounds")
	}
	s.anonymous().withToken(s.signUp("eve", "user").token).get(hub).wantProblem(http.StatusNotFound, "not_found")
	_, token := ada.claim(mission, "bot")
	ada.post(hub+"/complete", fields{"lease_token": token}).want(http.StatusOK)
	if n := ada.get(mission).number("stats.ready"); n != 1500 {
		t.Errorf("%d got ready", n)
	}
}

func TestPagesOfTheGraphHaveSoManyEdges(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Wide")
	s.widen(mission, 150)
	nodes, edges, path := 0, 0, mission+"/graph"
	for next := "?limit=1000"; next != ""; {
		var page graphView
		ada.get(path + next).want(http.StatusOK).into(&page)
		if len(page.Edges) > graphEdges || len(page.Nodes) == 0 {
			t.Fatalf("a page has %d specs and %d edges", len(page.Nodes), len(page.Edges))
		}
		nodes, edges, next = nodes+len(page.Nodes), edges+len(page.Edges), ""
		if page.NextCursor != nil {
			next = "?cursor=" + *page.NextCursor
		}
	}
	if nodes != 300 || edges != 150*150 {
		t.Errorf("all pages have %d specs and %d edges", nodes, edges)
	}
}

// A mission whose specs depend on many others is known to be costly then, and
// stays so, whatever is read of it next.
func TestCostlyListsAreKnown(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	wide, small := ada.newMission("Wide"), ada.newMission("Small")
	ada.newSpec(small, "one", nil)
	s.widen(wide, 100)
	for _, mission := range []string{wide, small} {
		ada.get("/api/v1/specs?limit=200&mission_id=" + idOf(mission)).want(http.StatusOK)
		ada.get("/api/v1/specs?limit=1&mission_id=" + idOf(mission)).want(http.StatusOK)
	}
	if !s.seen.of(idOf(wide)).costly || s.seen.of(idOf(small)).costly {
		t.Errorf("%+v, %+v", s.seen.of(idOf(wide)), s.seen.of(idOf(small)))
	}
}
