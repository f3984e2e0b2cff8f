package main

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/ratelimit"
)

func TestNewSpec(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("New")
	ada.newSpec(mission, "base", nil)
	body := "# 031a - Title\n\n## Acceptance Criteria\n\n- [x] one\n- [ ] two\n\n```\n- [ ] code\n```\n"
	a := ada.post(mission+"/specs", fields{
		"key": "031a-title", "title": "Title", "number": "031a", "phase": "Phase 1", "priority": 7, "tags": []string{"t"},
		"estimated_context": "10k", "body": body, "dependencies": []string{"base"},
	}).want(http.StatusCreated)
	if a.header.Get("Location") != "/api/v1/specs/"+a.text("id") || a.header.Get("ETag") != `"1"` {
		t.Errorf("the headers are %v", a.header)
	}
	for path, want := range map[string]any{
		"mission_id": path.Base(mission), "key": "031a-title", "number": "031a", "title": "Title", "phase": "Phase 1",
		"status": "planned", "priority": 7., "tags.0": "t", "estimated_context": "10k", "body": body, "ready": false,
		"claim": nil, "attempts": 0., "version": 1., "criteria.0.index": 1., "criteria.0.text": "one",
		"criteria.0.done": true,
		"criteria.1.done": false, "criteria.2": nil, "dependencies.0.key": "base", "dependencies.0.status": "planned",
	} {
		if got := a.at(path); got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	if read := ada.get(a.header.Get("Location")).want(http.StatusOK); string(read.body) != string(a.body) {
		t.Errorf("read as %s, made as %s", read.body, a.body)
	}
	listed := ada.get("/api/v1/specs?sort=-number").at("items.0").(map[string]any)
	for _, name := range []string{"body", "criteria", "dependents"} {
		if _, there := listed[name]; there || listed["key"] != "031a-title" || listed["dependencies"] == nil {
			t.Errorf("%s: the list has %v", name, listed)
		}
	}
	ada.post(mission+"/specs", fields{"key": "base", "title": "Again"}).wantProblem(http.StatusConflict, "key_taken")
	ada.patch(a.header.Get("Location"), fields{"key": "base"}).wantProblem(http.StatusConflict, "key_taken")
	ada.newSpec(ada.newMission("Other"), "base", nil)
}

func TestSpecLimits(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Limits")
	spec := ada.newSpec(mission, "patched", nil)
	long := func(n int) string { return strings.Repeat("é", n) }
	for i, test := range []struct {
		field string
		value any
		fails string // the field named, or "" where it is accepted
	}{
		{"key", "", "key"}, {"key", strings.Repeat("k", 128), ""}, {"key", strings.Repeat("k", 129), "key"},
		{"key", "az09._-", ""}, {"key", "A", "key"}, {"key", "a b", "key"}, {"key", "設計é", ""}, {"key", "É", "key"},
		{"key", long(128), ""}, {"key", long(129), "key"}, {"key", "..", "key"}, {"key", "a/b", "key"},
		{"title", "", "title"}, {"title", long(200), ""}, {"title", long(201), "title"}, {"title", "a\nb", "title"},
		{"number", long(16), ""}, {"number", long(17), "number"},
		{"phase", long(200), ""}, {"phase", long(201), "phase"},
		{"priority", 0, ""}, {"priority", 9, ""}, {"priority", 10, "priority"}, {"priority", -1, "priority"}, {"priority",
			1.5, "priority"},
		{"tags", slices.Repeat([]string{"t"}, 33), "tags"}, {"tags", []string{long(64)}, ""}, {"tags",
			[]string{long(65)}, "tags[0]"},
		{"body", strings.Repeat("b", 256<<10), ""}, {"body", strings.Repeat("b", 256<<10+1), "body"},
		{"dependencies", []string{"nobody"}, "dependencies[0]"}, {"dependencies", "patched", "dependencies"},
		{"surprise", true, "surprise"},
	} {
		body := fields{"key": fmt.Sprint("k", i), "title": "T", test.field: test.value}
		created, patched := ada.post(mission+"/specs", body), ada.patch(spec, fields{test.field: test.value})
		if test.fails == "" {
			created.want(http.StatusCreated)
			if test.field != "key" { // taken by the one just made
				patched.want(http.StatusOK)
			}
			continue
		}
		created.wantFields(test.fails)
		patched.wantFields(test.fails)
	}
	ada.post(mission+"/specs", fields{"key": "", "title": "", "priority": 10, "status": "done"}).
		wantFields("key", "title", "priority", "status")
	ada.post(spec+"/status", fields{"status": "done", "notes": long(2001), "override": long(2001)}).wantFields("status",
		"notes", "override")
}

func TestWorkLimits(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Limits")
	ada.newSpec(mission, "held", nil)
	spec, token := ada.claim(mission, strings.Repeat("é", 100))
	long := strings.Repeat("é", 2001)
	for _, test := range []struct {
		path   string
		body   fields
		fields []string
	}{
		{mission + "/claim", fields{}, []string{"agent"}},
		{mission + "/claim", fields{"agent": long[:202], "wait_seconds": 51, "phase": long[:402], "tags": []string{""}},
			[]string{"agent", "phase", "tags[0]", "wait_seconds"}},
		{mission + "/claim", fields{"agent": "a", "wait_seconds": -1}, []string{"wait_seconds"}},
		{spec + "/heartbeat", fields{}, []string{"lease_token"}},
		{spec + "/progress", fields{"lease_token": "", "message": long}, []string{"lease_token", "message"}},
		{spec + "/complete", fields{"lease_token": token, "notes": long, "override": long}, []string{"notes", "override"}},
		{spec + "/fail", fields{"lease_token": token}, []string{"reason"}},
		{spec + "/fail", fields{"lease_token": token, "reason": long}, []string{"reason"}},
		{spec + "/status", fields{"status": "completed", "notes": long}, []string{"notes"}},
		{mission + "/logs", fields{"entries": []any{}}, []string{"entries"}},
		{mission + "/logs", fields{"entries": slices.Repeat([]any{fields{"level": "info",
			"message": "m"}}, 1001)}, []string{"entries"}},
		{mission + "/logs", fields{"entries": []any{fields{"level": "loud", "message": ""},
			fields{"level": "info", "message": strings.Repeat("m", 8<<10+1), "spec_id": "x"},
			fields{"level": "info", "message": "m", "fields": fields{"k": strings.Repeat("f", 16<<10)}}}},
			[]string{"entries[0].level", "entries[0].message", "entries[1].message", "entries[1].spec_id", "entries[2].fields"}},
	} {
		ada.post(test.path, test.body).wantFields(test.fields...)
	}
	entries := slices.Repeat([]any{fields{"level": "info",
		"message": strings.Repeat("m", 800), "spec_id": path.Base(spec)}}, 1000)
	before := ada.get(mission + "/events").number("last_seq")
	if got := ada.post(mission+"/logs", fields{"entries": entries}).want(http.StatusCreated).number("last_seq"); got != before+1000 {
		t.Errorf("after %d and 1,000 more the last is %d", before, got)
	}
}

func TestSpecPatch(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Patch")
	spec := ada.newSpec(mission, "before", fields{
		"number": "1", "phase": "P", "priority": 9, "tags": []string{"t"}, "estimated_context": "e", "body": "B",
	})
	version := 1
	for _, test := range []struct{ patch, changed string }{
		{`{}`, ""},
		{`{"key":"before","number":"1","phase":"P","priority":9,"tags":["t"],"estimated_context":"e","body":"B","dependencies":[]}`, ""},
		{`{"title":"New","key":"after"}`, "[key title]"},
		{`{"body":"## Acceptance Criteria\n- [x] one\n"}`, "[body]"},
		{`{"number":null,"phase":null,"priority":null,"tags":null,"estimated_context":null,"body":null}`,
			"[body number phase priority tags estimated_context]"},
	} {
		a := ada.patch(spec, test.patch).want(http.StatusOK)
		if test.changed != "" {
			version++
			if data := ada.lastEvent(mission, "spec.updated"); fmt.Sprint(data["changed"]) != test.changed {
				t.Errorf("%s changed %v, want %s", test.patch, data["changed"], test.changed)
			}
		}
		if a.number("version") != version || ada.countEvents(mission, "spec.updated") != version-1 {
			t.Errorf("%s left version %d, want %d", test.patch, a.number("version"), version)
		}
	}
	a := ada.get(spec)
	if a.text("key") != "after" || a.text("body") != "" || a.number("priority") != 5 || a.at("tags.0") != nil ||
		a.at("criteria.0") != nil {
		t.Errorf("got %s", a.body)
	}
	if stats := ada.get(mission); stats.number("stats.criteria_total") != 0 {
		t.Errorf("got %s", stats.body)
	}
	ada.patch(spec, fields{"title": nil}).wantFields("title")

	status := "**Status:** Planned\n"
	full := ada.newSpec(mission, "full", fields{"body": status + strings.Repeat("b", 256<<10-len(status))})
	ada.post(full+"/status", fields{"status": "in_progress"}).want(http.StatusOK)
	if body := ada.patch(full, fields{"title": "New"}).want(http.StatusOK).text("body"); len(body) <= 256<<10 {
		t.Error("the status line isn't longer than it was")
	}
	ada.patch(spec, fields{"status": "completed"}).wantFields("status")
}

func TestBodyIsNotEditedUnderALease(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Leased")
	ada.newSpec(mission, "held", fields{"body": "old"})
	spec, token := ada.claim(mission, "bot")
	ada.patch(spec, fields{"body": "new"}).wantProblem(http.StatusConflict, "leased")
	ada.patch(spec, fields{"body": "old", "title": "New"}).want(http.StatusOK)
	ada.post(spec+"/release", fields{"lease_token": token}).want(http.StatusOK)
	if got := ada.patch(spec, fields{"body": "new"}).want(http.StatusOK).text("body"); got != "new" {
		t.Errorf("the body is %q", got)
	}
}

// TestFileShowsTheWorkAsItStands: the status line only where it says something else.
func TestFileShowsTheWorkAsItStands(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("File")
	body := "# 1 - Title\n\n**Status:** Planned\n\n## Acceptance Criteria\n\n- [ ] one\n"
	spec := ada.newSpec(mission, "1-title", fields{"body": body})
	file := func() string {
		a := ada.do("GET", spec, nil, "Accept", "text/markdown").want(http.StatusOK)
		if a.header.Get("ETag") != ada.get(spec).header.Get("ETag") ||
			!strings.Contains(strings.Join(a.header.Values("Vary"), " "), "Accept") {
			t.Errorf("the headers are %v", a.header)
		}
		return string(a.body)
	}
	if got := file(); got != body {
		t.Errorf("what nobody worked on is %q", got)
	}
	ada.post(spec+"/status", fields{"status": "in_progress"}).want(http.StatusOK)
	ada.post(spec+"/status", fields{"status": "completed", "override": "o"}).want(http.StatusOK)
	if got := file(); got != strings.Replace(body, "Planned", "Completed", 1) {
		t.Errorf("what is completed is %q", got)
	}
}

func TestSpecListIsFilteredSortedAndPaged(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, eve := s.signUp("ada", "user"), s.signUp("eve", "user")
	eve.newSpec(eve.newActive("Hidden"), "hidden", nil)
	mission, other := ada.newActive("List"), ada.newMission("Other")
	ada.put(mission+"/members", fields{"email": eve.user.Email, "role": "editor"}).want(http.StatusOK)
	for _, spec := range []struct {
		key, number, phase, status string
		priority                   int
		tags, on                   []string
	}{
		{"e", "10", "Phase 1", "planned", 5, []string{"go"}, nil},
		{"a", "9", "Phase 1", "planned", 9, []string{"go", "sql"}, nil},
		{"c", "10a", "Phase 2", "planned", 5, nil, []string{"a"}},
		{"b", "031", "Phase 2", "completed", 0, []string{"sql"}, nil},
		{"d", "100", "15 - Server", "blocked", 5, nil, nil},
	} {
		ada.newSpec(mission, spec.key, fields{"number": spec.number, "phase": spec.phase, "status": spec.status,
			"priority": spec.priority, "tags": orEmpty(spec.tags), "dependencies": orEmpty(spec.on)})
	}
	ada.newSpec(other, "x", fields{"number": "11"})
	eve.claim(mission, "bot") // a
	in := "&mission_id=" + path.Base(mission)
	for query, want := range map[string]string{
		"":                            "a e c x b d",
		in:                            "a e c b d",
		in + "&sort=number":           "a e c b d",
		in + "&sort=-number":          "d b c e a",
		in + "&sort=updated_at":       "e c b d a",
		in + "&sort=-updated_at":      "a d b c e",
		in + "&status=planned":        "e c",
		in + "&phase=Phase+2":         "c b",
		in + "&phase=15":              "",
		in + "&phase=15+-+Server":     "d",
		in + "&tag=sql":               "a b",
		in + "&tag=go&status=planned": "e",
		in + "&ready=true":            "e",
		in + "&ready=false":           "a c b d",
		"&ready=true":                 "e",
		"&claimed=mine":               "",
		"&mission_id=" + newID():      "",
	} {
		if got := strings.Join(ada.pageThrough("/api/v1/specs?limit=2"+query, "key"), " "); got != want {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}
	if got := eve.pageThrough("/api/v1/specs?limit=1&claimed=mine", "key"); !slices.Equal(got, []string{"a"}) {
		t.Errorf("the holder's are %q", got)
	}
	priorities := ada.pageThrough("/api/v1/specs?limit=1&sort=priority"+in, "priority")
	if !slices.Equal(priorities, []string{"0", "5", "5", "5", "9"}) {
		t.Errorf("by priority: %q", priorities)
	}
	back := ada.pageThrough("/api/v1/specs?limit=2&sort=-priority"+in, "key")
	if slices.Reverse(back); !slices.Equal(back, ada.pageThrough("/api/v1/specs?limit=3&sort=priority"+in, "key")) {
		t.Errorf("both ways differ: %q", back)
	}
	for query, field := range map[string]string{
		"mission_id=x": "mission_id", "status=open": "status", "ready=1": "ready", "claimed=all": "claimed",
		"sort=key":     "sort",
		"q=a&cursor=x": "cursor", "limit=201": "limit", "phase=" + strings.Repeat("p", 201): "phase", "agent=bot": "agent",
	} {
		ada.get("/api/v1/specs?" + query).wantFields(field)
	}
}

// In a database with the locale C, as older servers made them, too.
func TestSearchKnowsLettersFlagsAndNamesOfFiles(t *testing.T) {
	t.Parallel()
	for name, database := range map[string]string{
		"usual": newTestDatabase(t), "locale C": newEmptyDatabase(t, "LOCALE 'C' TEMPLATE template0"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ada := startTestServer(t, database, nil).signUp("ada", "user")
			mission := ada.newMission("Ärzte-PORTAL")
			ada.newSpec(mission, "letters", fields{"title": "Übersicht der ÄNDERUNGEN",
				"body": "Привет МИР, ÉCOLE, Ελλάδα. Ein „Größer“—Zeichen."})
			ada.newSpec(mission, "flags", fields{"title": "Add --force to src/cmd/main.go",
				"body": "Run `tool --dry-run -x -a` with --no-verify; see Vec<String>, C:\\temp\\a.txt and 127.0.0.1:8080."})
			ada.newSpec(mission, "plain", fields{"title": "Go on with the Main parts",
				"body": "A tool of force, all of it, no run."})
			for q, want := range map[string]string{
				"übersicht": "letters", "ÜBERSICHT": "letters", "änderungen": "letters", "привет": "letters", "мир": "letters",
				"МИР":   "letters",
				"école": "letters", "ελλάδα": "letters", "ΕΛΛΆΔΑ": "letters", "größer": "letters", "zeichen": "letters",
				"„ÜBERSICHT“": "letters",
				"--force":     "flags plain", "-force": "flags plain", "tool -force": "", "tool --force": "flags plain",
				`"add --force"`: "flags",
				"--dry-run":     "flags", "-x": "flags", "tool -x": "plain", "tool --x": "flags", "-a": "flags plain",
				"--no-verify": "flags", "no-verify": "flags",
				"main.go": "flags", "main": "flags plain", "cmd": "flags", "src/cmd": "flags", "cmd/main.go": "flags",
				"MAIN.GO": "flags", "./src/cmd/": "flags",
				"String": "flags", "Vec<String>": "flags", "temp": "flags", "a.txt": "flags", "8080": "flags", "127.0.0.1": "flags",
				"what of the main parts": "plain", "main or übersicht": "flags letters plain", "the": "", "--": "",
				"or main or":      "flags plain",
				`tool -"dry run"`: "plain", "tool -dry-run": "plain",
			} {
				a := ada.get("/api/v1/specs?q=" + url.QueryEscape(q)).want(http.StatusOK)
				var got []string
				for i := 0; a.at(fmt.Sprintf("items.%d", i)) != nil; i++ {
					got = append(got, a.text(fmt.Sprintf("items.%d.key", i)))
				}
				if slices.Sort(got); strings.Join(got, " ") != want {
					t.Errorf("%s finds %q, want %q", q, got, want)
				}
			}
			for _, q := range []string{"ärzte", "ÄRZTE", "portal", "ärzte-portal"} {
				if a := ada.get("/api/v1/missions?q=" + url.QueryEscape(q)); a.text("items.0.name") != "Ärzte-PORTAL" {
					t.Errorf("%s finds %s", q, a.body)
				}
			}
		})
	}
}

func TestSpecsAreFoundByTheirWords(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Search")
	ada.newSpec(mission, "body", fields{"title": "Other",
		"body": "A long text in which the turbine is mentioned only once, by <b>name</b>."})
	ada.newSpec(mission, "title", fields{"title": "Turbine"})
	ada.newSpec(ada.newMission("Elsewhere"), "elsewhere", fields{"title": "Turbines", "number": "7"})
	a := ada.get("/api/v1/specs?q=turbines&mission_id=" + path.Base(mission)).want(http.StatusOK)
	if a.text("items.0.key") != "title" || a.text("items.1.key") != "body" || a.at("items.2") != nil ||
		a.at("next_cursor") != nil {
		t.Errorf("got %s", a.body)
	}
	if got := a.text("items.1.snippet"); !strings.Contains(got, "**turbine**") {
		t.Errorf("the snippet is %q", got)
	}
	if got := ada.get("/api/v1/specs?limit=1&q=" + url.QueryEscape("turbine -mentioned -zzz")).want(http.StatusOK); got.at("items.0") == nil || got.at("items.1") != nil {
		t.Errorf("got %s", got.body)
	}
	if _, there := ada.get("/api/v1/specs").at("items.0").(map[string]any)["snippet"]; there {
		t.Error("a list without a search has snippets")
	}
}

// What is kept of a spec's text must not outlive its version: each read shows
// the same as the answer to the change before it.
func TestReadsFollowEveryChangeOfASpec(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, eve := s.signUp("ada", "user"), s.signUp("eve", "user")
	mission := ada.newActive("Reads")
	spec := ada.newSpec(mission, "one", fields{"body": "**Status:** Planned\n\n## Acceptance Criteria\n- [ ] one <&> \"two\"\n"})
	same := func(changed *answer) {
		t.Helper()
		for range 2 { // the second time it is kept
			if read := ada.get(spec).want(http.StatusOK); string(read.body) != string(changed.body) {
				t.Fatalf("%s\nis answered %s\nand then read %s", changed.what, changed.body, read.body)
			}
		}
		file := ada.do("GET", spec, nil, "Accept", "text/markdown").want(http.StatusOK)
		if string(file.body) != changed.text("body") || file.header.Get("ETag") != ada.get(spec).header.Get("ETag") {
			t.Fatalf("%s: the file is %q", changed.what, file.body)
		}
		shown := ada.tool("show_spec", fields{"spec_id": path.Base(spec)})
		if shown["markdown"] != changed.text("body") || shown["status"] != changed.text("status") {
			t.Fatalf("%s: the tool shows %v", changed.what, shown)
		}
	}
	same(ada.get(spec))
	_, token := ada.claim(mission, "bot")
	same(ada.post(spec+"/progress", fields{"lease_token": token, "check": []int{1}}).want(http.StatusOK))
	same(ada.post(spec+"/complete", fields{"lease_token": token}).want(http.StatusOK))
	same(ada.post(spec+"/status", fields{"status": "in_progress"}).want(http.StatusOK))
	same(ada.patch(spec, fields{"body": "# New\n", "title": "New"}).want(http.StatusOK))
	ada.newSpec(mission, "two", fields{"dependencies": []string{"one"}}) // another dependent, the same version
	if dependents := ada.get(spec).at("dependents.0.key"); dependents != "two" {
		t.Errorf("the dependent is %v", dependents)
	}
	eve.get(spec).wantProblem(http.StatusNotFound, "not_found")
}

// TestSpecWorkflow tries every step from every status.
func TestSpecWorkflow(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Workflow")
	for from, allowed := range map[string][]string{
		"proposed":    {"planned", "deferred"},
		"planned":     {"in_progress", "blocked", "deferred"},
		"in_progress": {"planned", "in_review", "testing", "completed", "blocked"},
		"in_review":   {"in_progress", "testing", "completed"},
		"testing":     {"in_progress", "completed"},
		"blocked":     {"planned", "in_progress"},
		"deferred":    {"planned"},
		"completed":   {"in_progress"},
	} {
		for _, to := range specStatuses {
			spec := ada.newSpec(mission, from+"-"+to, fields{"status": from})
			a := ada.post(spec+"/status", fields{"status": to, "notes": "why"})
			if slices.Contains(allowed, to) {
				if a.status != http.StatusOK || a.text("status") != to {
					t.Errorf("%s to %s: %d %s", from, to, a.status, a.body)
				}
				continue
			}
			a.wantProblem(http.StatusConflict, "invalid_transition")
			if got := fmt.Sprint(a.at("allowed")); got != fmt.Sprint(allowed) || a.text("current_status") != from {
				t.Errorf("%s to %s: %s, want %v to be allowed", from, to, a.body, allowed)
			}
		}
	}
	spec := ada.newSpec(mission, "x", nil)
	ada.post(spec+"/status", fields{"status": "done"}).wantFields("status")
	ada.post(spec+"/status", fields{}).wantFields("status")
	ada.post(spec+"/status", fields{"status": "blocked", "notes": "waits for the vendor"}).want(http.StatusOK)
	last := ada.get(mission + "/events").number("last_seq")
	data := ada.get(fmt.Sprintf("%s/events?after=%d", mission, last-1)).want(http.StatusOK).at("items.0.data")
	if want := "map[from:planned notes:waits for the vendor to:blocked]"; fmt.Sprint(data) != want {
		t.Errorf("the event says %v, want %s", data, want)
	}
}

func TestCompletingWantsAllCriteriaChecked(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	for _, way := range []string{"lease", "status"} {
		mission := ada.newActive(way)
		ada.newSpec(mission, "only", fields{"body": "## Acceptance Criteria\n- [ ] one\n- [x] two\n- [ ] three\n"})
		spec, token := ada.claim(mission, "bot")
		complete := func(more fields) *answer {
			body := fields{"lease_token": token}
			action := "/complete"
			if way == "status" {
				body, action = fields{"status": "completed"}, "/status"
			}
			for name, value := range more {
				body[name] = value
			}
			return ada.post(spec+action, body)
		}
		refused := complete(fields{"notes": "done"}).wantProblem(http.StatusConflict, "criteria_unmet")
		if refused.text("criteria.0.text") != "one" || refused.number("criteria.1.index") != 3 ||
			refused.at("criteria.2") != nil {
			t.Errorf("%s: got %s", way, refused.body)
		}
		if ada.get(spec).at("claim") == nil {
			t.Errorf("%s: a refused completion ended the lease", way)
		}
		complete(fields{"notes": "shipped", "override": "three can wait"}).want(http.StatusOK)
		data := ada.lastEvent(mission, "spec.completed")
		if data["override"] != "three can wait" || data["open_criteria"] != 2. || data["notes"] != "shipped" {
			t.Errorf("%s: the event says %v", way, data)
		}
	}
}

func TestReopenedSpecHoldsItsDependentsBack(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Reopen")
	first := ada.newSpec(mission, "first", nil)
	second := ada.newSpec(mission, "second", fields{"dependencies": []string{"first"}})
	spec, token := ada.claim(mission, "bot")
	ada.post(spec+"/complete", fields{"lease_token": token}).want(http.StatusOK)
	if ada.get(second).at("ready") != true {
		t.Error("what depends on a completed spec isn't ready")
	}
	ada.post(first+"/status", fields{"status": "in_progress"}).want(http.StatusOK)
	if ada.get(second).at("ready") != false || ada.get(mission).number("stats.ready") != 0 {
		t.Error("what depends on a reopened spec is ready")
	}
	ada.post(mission+"/claim", fields{"agent": "bot"}).want(http.StatusNoContent)

	finish(ada, mission, first)
	spec, _ = ada.claim(mission, "bot")
	finish(ada, mission, spec)
	if got := ada.get(mission).text("status"); got != "completed" {
		t.Fatalf("the mission is %s", got)
	}
	ada.post(first+"/status", fields{"status": "in_progress"}).want(http.StatusOK)
	if got := ada.get(mission).text("status"); got != "active" {
		t.Errorf("with a reopened spec the mission is %s", got)
	}
	ada.newSpec(mission, "third", fields{"status": "completed"})
	finish(ada, mission, first)
	ada.newSpec(mission, "fourth", nil)
	if got := ada.get(mission).text("status"); got != "active" {
		t.Errorf("with a new spec the mission is %s", got)
	}
}

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
	eventually(t, "another account's read to run", func() bool { return s.blocked() == 2 })
	release()
	reads.work.Wait()
	other.work.Wait()
	delete(reads.statuses, "503 busy 1")
	if len(reads.statuses) != 1 || reads.statuses["done"] == 0 || other.statuses["done"] != 1 {
		t.Errorf("hers: %v, his: %v", reads.statuses, other.statuses)
	}
}

// Work on a large text waits for its turn, and what was made of it meanwhile isn't
// made again.
func TestLargeTextsAreReadInTurns(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Large")
	large := ada.newSpec(mission, "large", fields{"body": strings.Repeat("- [ ] a\n", largeText/8)})
	small := ada.newSpec(mission, "small", fields{"body": "- [ ] a\n"})
	ofEach, most := max(1, s.config.DatabaseMaxConns/8), max(1, s.config.DatabaseMaxConns/4)
	var turns []func()
	for range most {
		end, err := s.reads.Take(t.Context(), ratelimit.Share{Name: "costly", Most: most})
		if err != nil {
			t.Fatal(err)
		}
		turns = append(turns, end)
	}
	const readers = 20
	made, busy := make(map[*specContent]int), 0
	var mu sync.Mutex
	var work sync.WaitGroup
	for range readers {
		work.Go(func() {
			read, err := s.readSpec(t.Context(), account{userID: ada.user.ID, role: roleUser}, idOf(large))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				busy++
			} else {
				made[read.specContent]++
			}
		})
	}
	eventually(t, "all to wait", func() bool { return s.reads.Waiting("costly") == readers })
	ada.get(small).want(http.StatusOK) // which isn't large
	for _, end := range turns {
		end()
	}
	work.Wait()
	if len(made) == 0 || len(made) > ofEach {
		t.Errorf("it was made %d times for %d readers; %d had to wait too long", len(made), readers, busy)
	}
	if n := ada.get(large).want(http.StatusOK).number("criteria_total"); n != largeText/8 {
		t.Errorf("%d criteria", n)
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
