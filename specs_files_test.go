package main

// Imports of files as people have them: at several paths, from other tools, changed
// beside the work, and broken.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"tachikoma/internal/specfile"
)

// keysAndTitles are a mission's specs, in the order of lists.
func (c *client) keysAndTitles(mission string) (specs []string) {
	c.t.Helper()
	for _, spec := range c.specs(mission) {
		specs = append(specs, spec.Key+" "+spec.Title)
	}
	return specs
}

func TestAPathIsASpec(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Paths")
	ada.newSpec(mission, "003-here", nil)
	ada.importFiles(mission, "a/001-plan.md", "# Plan A", "a/002-build.md", "# Build")
	report := ada.importFiles(mission, "b/001-plan.md", "# Plan B", "b/003-here.md", "# From here")
	if report.Created != 1 || report.Updated != 1 {
		t.Errorf("%+v", report)
	}
	want := []string{"001-plan Plan A", "b.001-plan Plan B", "002-build Build", "003-here From here"}
	if got := ada.keysAndTitles(mission); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	// A key given by hand stays, and so does the path.
	plan := ada.specByKey(mission, "b.001-plan")
	ada.patch(plan, fields{"key": "renamed"}).want(http.StatusOK)
	if report = ada.importFiles(mission, "b/001-plan.md",
		"# Plan C"); report.Updated != 1 || ada.get(plan).text("key") != "renamed" {
		t.Errorf("%+v", report)
	}
	// The same files with a folder more or less.
	for _, folder := range []string{"", "x/y/"} {
		report = ada.importFiles(mission, folder+"001-plan.md", "# Plan A", folder+"002-build.md", "# Build",
			folder+"004-new.md", "# "+folder)
		if folder == "" && (report.Created != 1 || report.Unchanged != 2 || report.Warnings[0].Code != "folder_moved") {
			t.Errorf("%q: %+v", folder, report)
		} else if folder != "" && report.Created != 3 { // neither more nor less: another folder
			t.Errorf("%q: %+v", folder, report)
		}
	}
	if report = ada.importFiles(mission, "z/a/002-build.md",
		"# Build\n\nMore"); report.Updated != 1 || report.Warnings[0].Code != "folder_moved" {
		t.Errorf("%+v", report)
	}
	if files := untar(t, ada.get(mission+"/export").body); files["a/004-new.md"] == "" ||
		!strings.Contains(files["a/002-build.md"], "More") {
		t.Errorf("exported %q", slices.Sorted(maps.Keys(files)))
	}
}

func TestLookingForAMoveEnds(t *testing.T) {
	t.Parallel()
	specs := []specfile.Spec{{File: specfile.File{Path: "1-a.md", Title: "A"}}}
	stored := []storedSpec{{Node: specfile.Node{Path: "x/1-a.md", Title: "A"}}}
	if move, err := findMove(t.Context(), specs, stored); err != nil || move != (folderMove{add: "x"}) {
		t.Errorf("got %+v, %v", move, err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := findMove(ended, specs, stored); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	// Deep folders by the thousand take no longer than shallow ones.
	deep := strings.Repeat("d/", 500) + "1-a.md"
	stored = slices.Repeat([]storedSpec{{Node: specfile.Node{Path: deep, Title: "A"}}}, 20_000)
	short, start := time.Second, time.Now()
	if _, err := findMove(t.Context(), specs, stored); err != nil || time.Since(start) > short {
		t.Errorf("took %v: %v", time.Since(start), err)
	}
}

func TestARenamedFileKeepsItsState(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Renamed")
	text := specText("1", "One", "None", "a", "b")
	ada.importFiles(mission, "s/1-one.md", text, "s/2-two.md", "# Two\n", "other/3-three.md", "# Three\n")
	ada.post(mission+"/start", nil).want(http.StatusOK)
	spec, token := ada.claim(mission, "bot")
	ada.post(spec+"/progress", fields{"lease_token": token, "check": []int{2}}).want(http.StatusOK)
	ada.post(spec+"/release", fields{"lease_token": token}).want(http.StatusOK)
	files := []string{"s/9-one.md", text, "s/2-two.md", "# Two\n", "s/4-three.md", "# Three\n"}
	report := ada.importFiles(mission, files...)
	if !slices.Equal(report.Renamed, []renamedFile{{"s/1-one.md",
		"s/9-one.md"}}) || report.Created != 1 || report.Unchanged != 1 {
		t.Errorf("%+v", report)
	}
	got := ada.get(spec)
	if got.text("key") != "1-one" || got.text("number") != "9" || got.at("criteria.0.done") != false ||
		got.at("criteria.1.done") != true {
		t.Errorf("got %s", got.body)
	}
	if report = ada.importFiles(mission, files...); report.Unchanged != 3 || len(report.Renamed) != 0 {
		t.Errorf("%+v", report)
	}
}

func TestNumbersAndPathsGiveTheOrder(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Order")
	var files []string
	want := []string{"task-2", "task-10", "1.1.a", "1-2-b", "1.10.c", "2-d", "010-a", "010-b"}
	for _, key := range slices.Backward(want) {
		files = append(files, key+".md", "# "+strings.ToUpper(key))
	}
	ada.importFiles(mission, files...)
	var got []string
	for _, spec := range ada.specs(mission) {
		got = append(got, spec.Key)
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed %q", got)
	}
	ada.post(mission+"/start", nil).want(http.StatusOK)
	for _, key := range want {
		if spec, _ := ada.claim(mission, "bot"); ada.get(spec).text("key") != key {
			t.Errorf("claimed %s, want %s", ada.get(spec).text("key"), key)
		}
	}
}

func TestImportCompletesWhatFilesSayIsDone(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Done")
	open := func(n, status, box string) string {
		return fmt.Sprintf("# %s - N\n\n**Status:** %s\n\n## Acceptance Criteria\n\n- [%s] a\n", n, status, box)
	}
	ada.importFiles(mission, "1-a.md", open("1", "Planned", " "), "2-b.md", open("2", "Planned", " "), "3-c.md",
		open("3", "Planned", " "),
		"4-d.md", "# 4 - D\n\n**Status:** Planned\n**Dependencies:** 2\n")
	ada.post(mission+"/start", nil).want(http.StatusOK)
	ada.claim(mission, "bot") // 1-a
	seq := ada.lastSeq(mission)
	changed := []string{"1-a.md", open("1", "Done", "x"), "2-b.md", open("2", "Planned", "x"), "3-c.md",
		open("3", "Done", " ")}
	report := ada.importFiles(mission, changed...)
	if !slices.Equal(report.Completed, []string{"2-b.md"}) || report.Updated != 2 {
		t.Errorf("%+v", report)
	}
	for _, w := range report.Warnings {
		if w.Code == "done_in_file" && w.Count != 3 {
			t.Errorf("%+v", w)
		}
	}
	var got []string
	for _, spec := range ada.specs(mission) {
		got = append(got, spec.Status)
	}
	if !slices.Equal(got, []string{"in_progress", "completed", "planned",
		"planned"}) || ada.get(ada.specByKey(mission, "4-d")).at("ready") != true {
		t.Errorf("the specs are %q", got)
	}
	events := ada.get(fmt.Sprintf("%s/events?after=%d", mission, seq))
	if events.text("items.0.type") != "spec.completed" || events.at("items.0.data.imported") != true {
		t.Errorf("events %s", events.body)
	}
	if m := ada.get(mission); m.number("stats.completed") != 1 || m.number("stats.ready") != 2 {
		t.Errorf("stats %s", m.body)
	}
}

func TestWhatIsADocumentNowIsDeferred(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Documents")
	ada.importFiles(mission, "specs/001-shed/spec.md", "# Feature Specification: Tool shed", "specs/001-shed/plan.md",
		"# Plan")
	ada.patch(ada.specByKey(mission, "plan"), fields{"priority": 9}).want(http.StatusOK)
	report := ada.importFiles(mission, "specs/001-shed/spec.md", "# Feature Specification: Tool shed",
		"specs/001-shed/plan.md", "# Plan",
		"specs/001-shed/contracts/api.yaml", "x: y", "specs/001-shed/tasks.md",
		"# Tasks\n\n**Prerequisites**: plan.md\n\n- [x] T001 a\n- [ ] T002 b\n")
	if report.Created != 1 || len(report.Skipped) != 3 || len(report.Warnings) != 1 ||
		report.Warnings[0].Code != "no_work" || report.Warnings[0].Count != 2 {
		t.Errorf("%+v", report)
	}
	want := []string{"plan Plan planned", "spec Feature Specification: Tool shed deferred", "001-shed Tool shed planned"}
	var got []string
	for _, spec := range ada.specs(mission) {
		got = append(got, spec.Key+" "+spec.Title+" "+spec.Status)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	shed := ada.get(ada.specByKey(mission, "001-shed"))
	if shed.number("criteria_total") != 2 || shed.number("criteria_done") != 1 ||
		shed.text("documents.0") != "specs/001-shed/contracts/api.yaml" ||
		shed.text("number") != "001" {
		t.Errorf("got %s", shed.body)
	}
	shown := ada.tool("show_spec", fields{"spec_id": shed.text("id")})
	if documents := fmt.Sprint(shown["documents"]); documents != "[specs/001-shed/contracts/api.yaml specs/001-shed/plan.md specs/001-shed/spec.md]" {
		t.Errorf("show_spec says %v", shown)
	}
}

func TestNothingIsLostInSilence(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Silence")
	files := map[string]string{
		"1-huge.md": "# 1\n" + strings.Repeat("x",
			maxSpecBody), "2-latin.md": "# R\xe9sum\xe9", "3-nul.md": "# a\x00", "4-empty.md": " \n",
		"5-wide.md": "\xff\xfe#\x00 \x00", "6-good.md": "# Good\n\n**Status:** on fire\n**Depends on:** Redis, Redis\n\n## More\n\n**Priority:** P1\n",
		"7-good.md": "# Good too\n\n**Status:** on fire\n",
	}
	report := ada.importFiles(mission, pairs(files)...)
	codes := make(map[string]string)
	for _, w := range report.Warnings {
		codes[w.Code] += fmt.Sprintf("%d×%v", w.Count, w.Places)
	}
	want := map[string]string{"file_too_large": "1×[1-huge.md]", "not_utf8": "1×[2-latin.md]1×[5-wide.md]",
		"contains_nul": "1×[3-nul.md]",
		"empty_file":   "1×[4-empty.md]", "unknown_status": "2×[6-good.md:3 7-good.md:3]",
		"dangling_reference": "1×[6-good.md:4]",
		"field_passed_over":  "1×[6-good.md:8]"}
	if !maps.Equal(codes, want) || report.Total != 9 || report.Created != 2 || len(report.Skipped) != 5 {
		t.Errorf("got %v in %+v", codes, report)
	}
	good := ada.specByKey(mission, "6-good")
	if got := ada.get(good + "/explain"); !strings.Contains(got.text("warnings.2.message"), "Redis") {
		t.Errorf("explain says %s", got.body)
	}
	// A reference that a later file answers is no warning any more.
	ada.importFiles(mission, "8-redis.md", "# Redis\n")
	if got := ada.get(good); strings.Contains(fmt.Sprint(got.at("warnings")), "Redis") ||
		len(ada.dependencyKeys(good)) != 1 {
		t.Errorf("got %s", got.body)
	}
	nothing := ada.importFiles(mission, "README.md", "# R", "x.txt", "x")
	if len(nothing.Warnings) != 1 || nothing.Warnings[0].Code != "nothing_imported" ||
		len(nothing.Warnings[0].Places) != 0 {
		t.Errorf("%+v", nothing)
	}
}

func TestWarningsOfAnImportAreBounded(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Bounded")
	var files []string
	folder := strings.Repeat(strings.Repeat("p", 100)+"/", 9)
	for i := range 300 {
		dependencies := strings.Repeat("a,", 1000)
		for n := range 20 {
			dependencies += fmt.Sprintf("nowhere-%d-%d,", i, n)
		}
		files = append(files, fmt.Sprintf("%s%05d-x.md", folder, i), "# x\n\n**Dependencies:** "+dependencies+"\n")
	}
	a := ada.do("POST", mission+"/import?dry_run=true", gzipped(tarOf(t, files...))).want(http.StatusOK)
	if total := a.number("warnings_total"); total != 300*21 || len(a.body) > 3<<20 {
		t.Errorf("%d warnings in %d bytes", total, len(a.body))
	}
	var report importReport
	if a.into(&report); len(report.Warnings) > maxImportWarnings {
		t.Errorf("%d warnings are shown", len(report.Warnings))
	}
}

// The padding behind a tar's end is read before the answer, so that closing the
// connection doesn't cut it off.
func TestALargeAnswerToAnImportIsWhole(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	var files []string
	for i := range 900 {
		files = append(files, fmt.Sprintf("%d.md", i), fmt.Sprintf("**Dependencies:** nowhere-%d-%080d\n", i, i))
	}
	body := append(tarOf(t, files...), make([]byte, 64<<10)...)
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s/import?dry_run=true HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n",
		ada.newMission("Padding"), ada.token, len(body))
	if _, err := conn.Write(body); err != nil {
		t.Fatal(err)
	}
	a, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if answer, err := io.ReadAll(a.Body); err != nil || a.StatusCode != http.StatusOK ||
		!strings.HasSuffix(string(answer), "}\n") && !strings.HasSuffix(string(answer), "}") {
		t.Errorf("status %d, %d bytes: %v", a.StatusCode, len(answer), err)
	}
}

// slowUpload begins an import and returns its connection.
func (c *client) slowUpload(mission string, sent []byte, length int) net.Conn {
	c.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.base, "http://"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "POST %s/import HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n",
		mission, c.token, length)
	if _, err := conn.Write(sent); err != nil {
		c.t.Fatal(err)
	}
	return conn
}

func TestSlowUploadsShutNobodyOut(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Slow")
	content := tarOf(t, "1-one.md", "# One")
	var slow []net.Conn
	for range 3 * maxImports {
		slow = append(slow, ada.slowUpload(mission, content[:1], len(content)))
	}
	if report := ada.importTar(mission, content); report.Created != 1 {
		t.Errorf("%+v", report)
	}
	for _, conn := range slow[:2] { // one after the other
		if _, err := conn.Write(content[1:]); err != nil {
			t.Fatal(err)
		}
		if a, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || a.StatusCode != http.StatusOK {
			t.Errorf("got %v, %v", a, err)
		}
	}
}

// The memory that uploads fill is bounded, and comes back.
func TestUploadsHaveABound(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.MaxImportBytes = 128 << 20 })
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	chunks := 256 << 20 / uploadChunk // all that one account gets
	for range chunks {
		if !s.uploads.Take(ada.user.ID, 1, 4*chunks, chunks) {
			t.Fatal("there is no place")
		}
	}
	mission, content := ada.newMission("Full"), tarOf(t, "1-one.md", "# One")
	ada.do("POST", mission+"/import", content).wantProblem(http.StatusServiceUnavailable, "busy")
	bob.importTar(bob.newMission("Free"), content)
	s.uploads.Give(ada.user.ID, 1)
	for range 3 {
		ada.importTar(mission, content)
	}
}

func TestImportsThatBreakOffAreNoMalformedArchives(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.RequestTimeout = time.Second })
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Broken")
	content := tarOf(t, "1-one.md", "# One")
	for _, test := range []struct {
		name   string
		leaves bool
		status int
		code   string
	}{
		{"stalled", false, http.StatusRequestTimeout, "request_timeout"},
		{"broken off", true, http.StatusBadRequest, "incomplete_body"},
	} {
		conn := ada.slowUpload(mission, content[:700], len(content))
		if tcp, ok := conn.(*net.TCPConn); ok && test.leaves {
			_ = tcp.CloseWrite()
		}
		a, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(a.Body)
		if a.StatusCode != test.status || !strings.Contains(string(answer), test.code) {
			t.Errorf("%s: got %d %s", test.name, a.StatusCode, answer)
		}
	}
}

func TestTrackersComeInAndGoOutAsMarkdown(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Tracker")
	const tracker = ".taskmaster/tasks/tasks.json"
	source := `{"tasks": [{"id": 1, "title": "Dig", "status": "done", "subtasks": []},
		{"id": 2, "title": "Fill: \"all\"", "status": "pending", "priority": "high", "dependencies": [1], "subtasks": [{"id": 1, "title": "Buy", "status": "done"}]}]}`
	if report := ada.importFiles(mission, tracker, source); report.Created != 2 || len(report.Warnings) != 0 {
		t.Fatalf("%+v", report)
	}
	if got := ada.keysAndTitles(mission); !slices.Equal(got, []string{"1 Dig", `2 Fill: "all"`}) {
		t.Errorf("got %q", got)
	}
	if got := ada.dependencyKeys(ada.specByKey(mission, "2")); !slices.Equal(got, []string{"1"}) {
		t.Errorf("depends on %q", got)
	}
	files := untar(t, ada.get(mission+"/export").want(http.StatusOK).body)
	if !strings.Contains(files[tracker+"/2.md"], "- [x] Buy") {
		t.Errorf("exported %q", files)
	}
	for _, again := range [][]string{{tracker, source}, pairs(files)} {
		if report := ada.importFiles(mission, again...); report.Unchanged != 2 {
			t.Errorf("%+v", report)
		}
	}
}

// A database of the version before keeps the criteria of its specs, their numbers
// and their checks, until a text is written anew.
func TestStoredSpecsKeepTheirCriteria(t *testing.T) {
	t.Parallel()
	url := newEmptyDatabase(t, "TEMPLATE template0 ENCODING 'UTF8'")
	migrations, err := readMigrations(migrationFiles)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := applyMigrations(t.Context(), url, migrations[:3], slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	fillFirstSchema(t, url)
	const body = "# B\n\n- [ ] no\n\n## Acceptance Criteria\n\n- [ ] one\n  wrapped\n- [-] no\n- [ ] two\n\n## Definition of Done\n\n- [ ] three\n"
	queryText(t, url, "UPDATE specs SET path = 'b.md', body = $body$"+body+"$body$ WHERE key = 'b' RETURNING key")
	ada := startTestServer(t, url, nil).logIn("ada@example.com")
	mission := "/api/v1/missions/" + ada.get("/api/v1/missions").want(http.StatusOK).text("items.0.id")
	b := ada.specByKey(mission, "b")
	got := ada.get(b)
	if got.number("criteria_total") != 2 || got.text("criteria.0.text") != "one" || got.at("criteria.0.done") != true ||
		got.text("criteria.1.text") != "two" {
		t.Errorf("got %s", got.body)
	}
	ada.post(b+"/progress", fields{"lease_token": "lt_kept", "check": []int{2}}).want(http.StatusOK)
	exported := untar(t, ada.get(mission+"/export").body)["b.md"]
	if want := strings.NewReplacer("[ ] one", "[x] one", "[ ] two", "[x] two").Replace(body); exported != want {
		t.Errorf("exported %q", exported)
	}
	ada.post(b+"/release", fields{"lease_token": "lt_kept"}).want(http.StatusOK)
	if report := ada.importFiles(mission, "b.md", strings.Replace(body, "three", "3", 1)); report.Updated != 1 {
		t.Errorf("%+v", report)
	}
	got = ada.get(b)
	var states []string
	for _, c := range got.at("criteria").([]any) {
		c := c.(map[string]any)
		states = append(states, fmt.Sprint(c["text"], " ", c["done"]))
	}
	if want := []string{"one wrapped true", "no false", "two true", "3 false"}; !slices.Equal(states, want) {
		t.Errorf("got %q", states)
	}
}
