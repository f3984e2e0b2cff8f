package main

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
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
