package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"mime/multipart"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tachikoma/internal/lineartime"
	"tachikoma/internal/specfile"
)

// specFolder has spec files in every style.
const specFolder = "internal/specfile/testdata/specs"

// tarOf packs files, each a path and what is in it.
func tarOf(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i+1 < len(files); i += 2 {
		header := &tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1])), Typeflag: tar.TypeReg}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(content []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(content) // a bytes.Buffer takes everything
	_ = z.Close()
	return b.Bytes()
}

// untar reads a tar's files by their paths.
func untar(t testing.TB, content []byte) map[string]string {
	t.Helper()
	files := make(map[string]string)
	for r := tar.NewReader(bytes.NewReader(content)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := files[header.Name]; twice {
			t.Errorf("%s is twice in the tar", header.Name)
		}
		files[header.Name] = string(text)
	}
}

// form packs files as a browser or curl -F does, and returns the body with its
// Content-Type. A name goes into the header as it is.
func form(t testing.TB, files ...string) (body []byte, contentType string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i+1 < len(files); i += 2 {
		part, err := w.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="files"; ` + files[i]}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(part, files[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), w.FormDataContentType()
}

// in is the client in a subtest.
func (c *client) in(t testing.TB) *client {
	return &client{t: t, base: c.base, token: c.token, user: c.user}
}

// importFiles imports files, each a path and what is in it, into the mission
// at a path.
func (c *client) importFiles(mission string, files ...string) importReport {
	c.t.Helper()
	return c.importTar(mission, tarOf(c.t, files...))
}

func (c *client) importTar(mission string, content []byte) (report importReport) {
	c.t.Helper()
	c.do("POST", mission+"/import", content, "Content-Type", "application/x-tar").want(http.StatusOK).into(&report)
	return report
}

// specByKey returns the path of a mission's spec.
func (c *client) specByKey(mission, key string) string {
	c.t.Helper()
	for _, spec := range c.specs(mission) {
		if spec.Key == key {
			return "/api/v1/specs/" + spec.ID
		}
	}
	c.t.Fatalf("the mission has no spec %s", key)
	return ""
}

// specs lists a mission's specs, at most 200.
func (c *client) specs(mission string) []specSummary {
	c.t.Helper()
	var specs list[specSummary]
	c.get("/api/v1/specs?limit=200&mission_id=" + mission[strings.LastIndex(mission,
		"/")+1:]).want(http.StatusOK).into(&specs)
	return specs.Items
}

// dependencyKeys are the keys of what the spec at a path depends on.
func (c *client) dependencyKeys(spec string) []string {
	c.t.Helper()
	var view struct{ Dependencies []struct{ Key string } }
	c.get(spec).want(http.StatusOK).into(&view)
	var keys []string
	for _, d := range view.Dependencies {
		keys = append(keys, d.Key)
	}
	slices.Sort(keys)
	return keys
}

// lastSeq is the number of the mission's newest event.
func (c *client) lastSeq(mission string) int {
	c.t.Helper()
	return c.get(mission + "/events?limit=1").want(http.StatusOK).number("last_seq")
}

// readFiles reads the files below a folder; where there is none, it says so
// and returns nil.
func readFiles(t testing.TB, folder string) map[string]string {
	t.Helper()
	root := os.DirFS(folder)
	if _, err := fs.Stat(root, "."); err != nil {
		t.Logf("%s isn't here, so only the small fixtures are checked", folder)
		return nil
	}
	files := make(map[string]string)
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(root, name)
		files[name] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// pairs lists files as tarOf takes them, by path.
func pairs(files map[string]string) []string {
	var flat []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		flat = append(flat, name, files[name])
	}
	return flat
}

// specText is a spec file with a header in bold, and open criteria.
func specText(number, title, dependencies string, criteria ...string) string {
	text := fmt.Sprintf("# %s - %s\n\n**Status:** Planned\n**Dependencies:** %s\n\n## Acceptance Criteria\n\n",
		number, title, dependencies)
	for _, c := range criteria {
		text += "- [ ] " + c + "\n"
	}
	return text
}

func TestImportTellsTheFormatByItsFirstBytes(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	fixtures := pairs(readFiles(t, specFolder))
	packed := tarOf(t, fixtures...)
	var named []string
	for i := 0; i < len(fixtures); i += 2 {
		named = append(named, fmt.Sprintf("filename=%q", fixtures[i]), fixtures[i+1])
	}
	files, multipartType := form(t, named...)
	for _, c := range []struct {
		name        string
		body        []byte
		contentType string
	}{
		{"tar", packed, "application/x-tar"},
		{"tar.gz", gzipped(packed), "application/gzip"},
		{"tar.gz said to be something else", gzipped(packed), "application/x-www-form-urlencoded"},
		{"multipart", files, multipartType},
	} {
		t.Run(c.name, func(t *testing.T) {
			ada := ada.in(t)
			mission := ada.newMission(c.name)
			a := ada.do("POST", mission+"/import", c.body, "Content-Type", c.contentType).want(http.StatusOK)
			if a.number("created") != 4 {
				t.Errorf("got %s", a.body)
			}
			if got := ada.get(ada.specByKey(mission, "042-index")).text("phase"); got != "Phase 3" {
				t.Errorf("phase %q", got)
			}
			if got := untar(t, ada.get(mission+"/export").want(http.StatusOK).body); !maps.Equal(got, readFiles(t, specFolder)) {
				t.Errorf("exported %q", slices.Sorted(maps.Keys(got)))
			}
		})
	}
}

func TestImportOfTheSameFilesChangesNothing(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Twice")
	fixtures := pairs(readFiles(t, specFolder))
	first := ada.importFiles(mission, fixtures...)
	if seq := ada.lastSeq(mission); first.Created != 4 || seq != 2 {
		t.Errorf("created %d with %d events, want 4 with mission.created and one more", first.Created, seq)
	}
	before := ada.get("/api/v1/specs").want(http.StatusOK).body
	second := ada.importFiles(mission, fixtures...)
	if second.Created != 0 || second.Updated != 0 || second.Unchanged != 4 || len(second.Warnings) != len(first.Warnings) {
		t.Errorf("got %+v, at first %+v", second, first)
	}
	if seq := ada.lastSeq(mission); seq != 2 {
		t.Errorf("there are %d events", seq)
	}
	if after := ada.get("/api/v1/specs").want(http.StatusOK).body; !bytes.Equal(before, after) {
		t.Errorf("before %s\nafter  %s", before, after)
	}
}

func TestImportOfAChangedFileKeepsTheWork(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Changed")
	ada.importFiles(mission, "a/1-one.md", specText("1", "One", "None", "stays", "goes", "stays"))
	ada.post(mission+"/start", nil).want(http.StatusOK)
	spec, token := ada.claim(mission, "bot")
	ada.post(spec+"/progress", map[string]any{"lease_token": token, "check": []int{2, 3}}).want(http.StatusOK)
	ada.post(spec+"/status", map[string]any{"status": "in_review"}).want(http.StatusOK)
	seq := ada.lastSeq(mission)

	report := ada.importFiles(mission, "a/1-one.md", specText("1", "Uno", "None", "new", "stays", "stays"))
	got := ada.get(spec)
	if report.Updated != 1 || got.text("title") != "Uno" || got.text("status") != "in_review" {
		t.Errorf("%+v: %s", report, got.body)
	}
	// The first "stays" was open and the second checked, and so it still is.
	for i, done := range []bool{false, false, true} {
		if got.at(fmt.Sprintf("criteria.%d.done", i)) != done {
			t.Errorf("criterion %d: %s", i+1, got.body)
		}
	}
	m := ada.get(mission)
	if m.number("stats.criteria_total") != 3 || m.number("stats.criteria_done") != 1 || m.number("stats.in_review") != 1 {
		t.Errorf("stats: %s", m.body)
	}
	if now := ada.lastSeq(mission); now != seq+1 {
		t.Errorf("the import made %d events", now-seq)
	}
	if files := untar(t, ada.get(mission+"/export").body); len(files) != 1 || files["a/1-one.md"] == "" {
		t.Errorf("exported %q", files)
	}
}

func TestNamesNeverRefuseAnImport(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Names")
	files := map[string]string{
		"b/1-one.md": "# A", "a/1-One.MD": "# B", "a/1-one.md": "# C", "x/a/1-one.md": "# D", "設計.md": "# E", "実装.md": "# F",
		"größe.md": "# G", "grüße.md": "# H", "..md": "# I", "a!.md": "# J", "a?.md": "# K",
	}
	if report := ada.importFiles(mission, pairs(files)...); report.Created != len(files) {
		t.Fatalf("%+v", report)
	}
	keys := make(map[string]string)
	for _, spec := range ada.specs(mission) {
		keys[spec.Title] = spec.Key
	}
	want := map[string]string{"B": "1-one", "C": "a.1-one", "A": "b.1-one", "D": "x.a.1-one", "E": "設計", "F": "実装",
		"G": "größe", "H": "grüße", "I": "-", "J": "a-", "K": "a--2"}
	if !maps.Equal(keys, want) {
		t.Errorf("got  %q\nwant %q", keys, want)
	}
	if got := untar(t, ada.get(mission+"/export").want(http.StatusOK).body); !maps.Equal(got, files) {
		t.Errorf("exported %q", got)
	}
	if again := ada.importFiles(mission, pairs(files)...); again.Unchanged != len(files) {
		t.Errorf("%+v", again)
	}
	// The same name in another folder is another spec.
	if other := ada.importFiles(mission, "c/1-one.md", "# Other"); other.Created != 1 {
		t.Errorf("%+v", other)
	}
}

func TestImportNamesWhatItSkips(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	skipped := map[string]string{
		"README.md": "# R", "deep/readme.md": "# r", "LICENSE": "x", "LICENSE.md": "x", "1-old.md.superseded": "# 1",
		"._1-one.md": "\x00\x05\x16\x07", "__MACOSX/1-one.md": "x", "notes.txt": "x", "2-latin.md": "caf\xe9",
		"3-nul.md": "a\x00b",
	}
	content := append(pairs(skipped), "1-one.md", "# 1 - One\n")
	report := ada.importFiles(ada.newMission("Skipped"), content...)
	want := slices.Sorted(maps.Keys(skipped))
	if slices.Sort(report.Skipped); report.Created != 1 || !slices.Equal(report.Skipped, want) {
		t.Errorf("skipped %q\nwant    %q", report.Skipped, want)
	}
}

func TestImportNamesLinks(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, header := range []*tar.Header{
		{Name: "specs/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "specs/1-passwd.md", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
		{Name: "specs/2-hard.md", Typeflag: tar.TypeLink, Linkname: "specs/1-passwd.md"},
		{Name: "specs/3-pipe.md", Typeflag: tar.TypeFifo},
	} {
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	report := ada.importTar(ada.newMission("Links"), b.Bytes())
	want := []string{"specs/1-passwd.md", "specs/2-hard.md", "specs/3-pipe.md"}
	if report.Created != 0 || !slices.Equal(report.Skipped, want) {
		t.Errorf("got %+v", report)
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Dry")
	ada.importFiles(mission, "1-one.md", specText("1", "One", "None", "a"))
	before := ada.get(mission).body
	content := tarOf(t, "1-one.md", specText("1", "Uno", "2", "a"), "2-two.md",
		specText("2", "Two", "1, 9-nothing"), "x.txt", "x")
	dry := ada.do("POST", mission+"/import?dry_run=true", content).want(http.StatusOK)
	if after := ada.get(mission).body; !bytes.Equal(before, after) || ada.lastSeq(mission) != 2 ||
		len(ada.specs(mission)) != 1 {
		t.Errorf("before %s\nafter  %s", before, after)
	}
	wet := ada.do("POST", mission+"/import?dry_run=false", content).want(http.StatusOK)
	if !bytes.Equal(dry.body, wet.body) || wet.number("updated") != 1 || wet.number("created") != 1 ||
		wet.text("cycles.0.1") != "2-two" {
		t.Errorf("dry %s\nwet %s", dry.body, wet.body)
	}
	ada.do("POST", mission+"/import?dry_run=maybe", content).wantFields("dry_run")
}

// What a dry run leaves is vacuumed away, but its pages may stay. Statistics then say
// that a table is empty, and plans that go by them look at all rows for each.
func TestImportAfterADryRunLooksUpWhatItNeeds(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Many")
	const specs, each = 1500, 20
	var files []string
	for i := range specs {
		var needs []string
		for n := range each {
			needs = append(needs, fmt.Sprintf("%d-x", (i+n+1)%specs)) // all of which are in one cycle
		}
		files = append(files, fmt.Sprintf("%d-x.md", i), "# X\n\n**Dependencies:** "+strings.Join(needs, ", ")+"\n")
	}
	content := gzipped(tarOf(t, files...))
	ada.do("POST", mission+"/import?dry_run=true", content).want(http.StatusOK)
	s.runSQL(`VACUUM (TRUNCATE false) specs, spec_states, dependencies`)
	if report := ada.importTar(mission, content); report.Created != specs || len(report.Cycles) != 1 {
		t.Fatalf("%d specs, %d cycles", report.Created, len(report.Cycles))
	}
	eventually(t, "PostgreSQL to have counted both", func() (counted bool) {
		err := s.db.QueryRow(t.Context(), `SELECT n_tup_ins >= $1 FROM pg_stat_user_tables WHERE relname = 'dependencies'`,
			2*specs*each).Scan(&counted)
		return counted || err != nil
	})
	var blocks, counted int
	err := s.db.QueryRow(t.Context(), `SELECT sum(idx_blks_hit + idx_blks_read)::bigint FROM pg_statio_user_tables`).
		Scan(&blocks)
	if err != nil || blocks > 40*specs*each {
		t.Errorf("%d blocks of indexes were looked at for %d dependencies: %v", blocks, specs*each, err)
	}
	err = s.db.QueryRow(t.Context(), `SELECT count(*) FROM spec_states WHERE unmet = $1 AND cycle = $2`, each, specs).
		Scan(&counted)
	if err != nil || counted != specs {
		t.Errorf("%d specs know what they wait for: %v", counted, err)
	}
}

// A dry run changes nothing, so it needn't go on for nobody.
func TestDryRunEndsWithItsClient(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Tried")
	s.holdMission(mission, "FOR NO KEY UPDATE")
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	var client sync.WaitGroup
	defer client.Wait()
	client.Go(func() {
		_, _ = ada.try(ctx, "POST", mission+"/import?dry_run=true", tarOf(t, "1-a.md", "# A"))
	})
	s.waitForALock()
	var pid int
	if err := s.db.QueryRow(t.Context(), `SELECT pid FROM pg_stat_activity
		WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0`).Scan(&pid); err != nil {
		t.Fatal(err)
	}
	leave()
	eventually(t, "its session to end", func() (ended bool) {
		err := s.db.QueryRow(t.Context(), `SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)`, pid).
			Scan(&ended)
		return ended || err != nil
	})
}

func TestLaterFilesResolveEarlierReferences(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Later")
	report := ada.importFiles(mission, "1-one.md", specText("1", "One", "None"), "2-two.md",
		specText("2", "Two", "1-one, 3-three"))
	if len(report.Warnings) != 1 || report.Warnings[0].Code != "dangling_reference" || report.Warnings[0].Line != 4 ||
		report.Warnings[0].File != "2-two.md" {
		t.Fatalf("warnings %+v", report.Warnings)
	}
	two := ada.specByKey(mission, "2-two")
	if got := ada.dependencyKeys(two); !slices.Equal(got, []string{"1-one"}) {
		t.Errorf("depends on %q", got)
	}
	if report = ada.importFiles(mission, "3-three.md", specText("3", "Three", "None")); len(report.Warnings) != 0 {
		t.Errorf("warnings %+v", report.Warnings)
	}
	if got := ada.dependencyKeys(two); !slices.Equal(got, []string{"1-one", "3-three"}) {
		t.Errorf("depends on %q", got)
	}
	ada.post(mission+"/start", nil).want(http.StatusOK)
	if n := ada.get(mission).number("stats.ready"); n != 2 {
		t.Errorf("%d ready, want 1-one and 3-three", n)
	}
}

func TestDependenciesSetByHandSurviveAnImport(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("By hand")
	files := []string{"1-one.md", specText("1", "One", "None"), "2-two.md", specText("2", "Two", "1-one"), "3-three.md",
		specText("3", "Three", "None")}
	ada.importFiles(mission, files...)
	two := ada.specByKey(mission, "2-two")
	ada.patch(two, map[string]any{"dependencies": []string{"3-three"}}).want(http.StatusOK)
	if report := ada.importFiles(mission, append(files, "4-four.md",
		specText("4", "Four", "2"))...); report.Unchanged != 3 {
		t.Errorf("got %+v", report)
	}
	if got := ada.dependencyKeys(two); !slices.Equal(got, []string{"3-three"}) {
		t.Errorf("depends on %q", got)
	}
	hand := ada.newSpec(mission, "hand", map[string]any{"dependencies": []string{"4-four"}})
	ada.importFiles(mission, "5-five.md", specText("5", "Five", "hand"))
	if got := ada.dependencyKeys(hand); !slices.Equal(got, []string{"4-four"}) {
		t.Errorf("a spec without a file depends on %q", got)
	}
}

func TestImportLeavesLeasedSpecsAlone(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Leased")
	ada.importFiles(mission, "1-one.md", specText("1", "One", "None", "a"))
	ada.post(mission+"/start", nil).want(http.StatusOK)
	spec, token := ada.claim(mission, "bot")
	changed := []string{"1-one.md", specText("1", "Uno", "None", "a", "b"), "2-two.md", specText("2", "Two", "None")}
	report := ada.importFiles(mission, changed...)
	if report.Created != 1 || report.Updated != 0 || report.Unchanged != 1 || len(report.Warnings) != 1 ||
		report.Warnings[0].Code != "leased" {
		t.Errorf("got %+v", report)
	}
	if got := ada.get(spec); got.text("title") != "One" || got.number("version") != 2 {
		t.Errorf("got %s", got.body)
	}
	ada.post(spec+"/release", map[string]any{"lease_token": token}).want(http.StatusOK)
	if report = ada.importFiles(mission, changed...); report.Updated != 1 || len(report.Warnings) != 0 {
		t.Errorf("after the lease: %+v", report)
	}
}

func TestImportKeepsCycles(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Cycles")
	report := ada.importFiles(mission, "1-one.md", specText("1", "One", "2"), "2-two.md", specText("2", "Two", "3"),
		"3-three.md", specText("3", "Three", "1"), "4-four.md", specText("4", "Four", "None"))
	if len(report.Cycles) != 1 || !slices.Equal(report.Cycles[0], []string{"1-one", "2-two", "3-three"}) {
		t.Fatalf("cycles %q", report.Cycles)
	}
	ada.post(mission+"/start", nil).want(http.StatusOK)
	one := ada.specByKey(mission, "1-one")
	if got := ada.get(one + "/explain"); got.at("ready") != false ||
		!strings.Contains(string(got.body), "dependency_cycle") {
		t.Errorf("explain says %s", got.body)
	}
	if got := ada.get(mission + "/graph"); got.text("cycles.0.2") != "3-three" {
		t.Errorf("graph says %s", got.body)
	}
	ada.patch(one, map[string]any{"title": "Edited"}).want(http.StatusOK)
	ada.newSpec(mission, "5-five", map[string]any{"dependencies": []string{"1-one"}})
	ada.patch(one, map[string]any{"dependencies": []string{"2-two", "4-four"}}).want(http.StatusOK)
	ada.patch(one, map[string]any{"dependencies": []string{"2-two",
		"5-five"}}).wantProblem(http.StatusConflict, "dependency_cycle")
	ada.importFiles(mission, "6-six.md", specText("6", "Six", "None"))
	ada.patch(one, map[string]any{"dependencies": []string{"4-four"}}).want(http.StatusOK)
	if got := ada.get(mission + "/graph"); got.at("cycles.0") != nil {
		t.Errorf("the cycle is still there: %s", got.body)
	}
}

func TestExportIsByteForByteWhatNobodyTouched(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	files := map[string]string{
		"odd/1-crlf.md":                          "# 1 - One\r\n\r\n**Status:** Planned  \r\n\r\n## Acceptance Criteria\r\n- [ ] a\r\n* [X] b",
		"odd/2-bom.md":                           "\ufeff# 2 - Two\n\n\n\n",
		"odd/4-worked.md":                        "# 4 - Four\n\n- **Status**: Planned <!-- soon -->\n\n## Acceptance Criteria\n- [ ] a\n- [ ] b\n\n```\n- [ ] c\n```\n",
		"odd/5-" + "日本語" + ".md":                 "# 5 - 五\n",
		strings.Repeat("long/", 40) + "6-six.md": "# 6 - Six\n\n**Status:** Done\n",
	}
	mission := ada.newMission("Bytes")
	ada.importFiles(mission, pairs(files)...)
	if got := untar(t, ada.get(mission+"/export").want(http.StatusOK).body); !maps.Equal(got, files) {
		t.Errorf("got  %q\nwant %q", got, files)
	}
	spec := ada.specByKey(mission, "4-worked")
	ada.post(spec+"/status", map[string]any{"status": "in_progress"}).want(http.StatusOK)
	files["odd/4-worked.md"] = strings.Replace(files["odd/4-worked.md"], "Planned <!-- soon -->", "In Progress", 1)
	got := untar(t, ada.get(mission+"/export").body)
	if !strings.Contains(got["odd/4-worked.md"], "- **Status**: In Progress") {
		t.Errorf("got %q", got["odd/4-worked.md"])
	}
	shown := ada.do("GET", spec, nil, "Accept", "text/markdown").want(http.StatusOK)
	if string(shown.body) != got["odd/4-worked.md"] || shown.header.Get("Content-Type") != "text/markdown; charset=utf-8" {
		t.Errorf("shown %q, exported %q", shown.body, got["odd/4-worked.md"])
	}
	delete(files, "odd/4-worked.md")
	delete(got, "odd/4-worked.md")
	if !maps.Equal(got, files) {
		t.Errorf("got  %q\nwant %q", got, files)
	}
}

func TestExportImportedElsewhereIsTheSameMission(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	from, to := ada.newMission("From"), ada.newMission("To")
	ada.importFiles(from, pairs(readFiles(t, specFolder))...)
	ada.post(from+"/start", nil).want(http.StatusOK)
	for _, status := range []string{"testing", "completed"} {
		ada.post(ada.specByKey(from, "042-index")+"/status",
			map[string]any{"status": status, "override": "by hand"}).want(http.StatusOK)
	}
	for _, status := range []string{"blocked"} {
		ada.post(ada.specByKey(from, "041-record-log")+"/status", map[string]any{"status": status}).want(http.StatusOK)
	}
	ada.newSpec(from, "made-here", map[string]any{"body": "# Made here\n\n**Status:** Planned\n"})
	exported := ada.get(from + "/export").want(http.StatusOK).body
	if report := ada.importTar(to, exported); report.Created != 5 {
		t.Fatalf("got %+v", report)
	}
	was, is := ada.specs(from), ada.specs(to)
	for i, spec := range was {
		if i >= len(is) || is[i].Key != spec.Key || is[i].Status != spec.Status || is[i].Title != spec.Title &&
			spec.Key != "made-here" {
			t.Errorf("was %+v\nis  %+v", spec, is)
		}
	}
	if again := ada.get(to + "/export").want(http.StatusOK).body; !maps.Equal(untar(t, again), untar(t, exported)) {
		t.Error("a second export differs from the first")
	}
}

func TestImportPathsAreHarmless(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Paths")
	long := strings.Repeat("d/", 600) + "7-long.md"
	body, contentType := form(t,
		`filename="../../etc/1-passwd.md"`, "# 1",
		`filename="/etc/2-absolute.md"`, "# 2",
		`filename="..\\..\\windows\\3-back.md"`, "# 3",
		`filename="a/../../4-up.md"`, "# 4",
		`filename*=UTF-8''5-nul%00.md`, "# 5",
		`filename="`+long+`"`, "# 7",
		`filename="8-caf\xe9.md"`, "# 8",
		`filename="../.."`, "# 9",
	)
	var report importReport
	ada.do("POST", mission+"/import", body, "Content-Type", contentType).want(http.StatusOK).into(&report)
	files := untar(t, ada.get(mission+"/export").want(http.StatusOK).body)
	for name := range files {
		if strings.Contains(name, "..") || strings.HasPrefix(name, "/") || strings.ContainsAny(name, "\\\x00") {
			t.Errorf("exported %q", name)
		}
	}
	for _, name := range []string{"etc/1-passwd.md", "etc/2-absolute.md", "4-up.md"} {
		if files[name] == "" {
			t.Errorf("%s isn't there: %q", name, files)
		}
	}
	if report.Created+len(report.Skipped) != 8 {
		t.Errorf("a file went missing: %+v, %q", report, files)
	}

	// Beside a spec, inside of trackers, and as escapes of front matter.
	body, contentType = form(t, `filename="x/tasks.md"`, "- [ ] a", `filename="x/spec.md"`, "# X",
		`filename*=UTF-8''x%2Fa%00b.md`, "# A", `filename*=UTF-8''x%2Fc%1B%FF.png`, "c",
		`filename="tasks.json"`, `{"a\u0000\ud800": {"tasks": [{"id": "1\u0000", "title": "\u0000", "dependencies": ["\u0000", "\ud800"]}]}, "b": {"tasks": [{"id": 1}]}}`,
		`filename="issues.jsonl"`, `{"id": "b\u0000"}`+"\n"+`{"id": "\u0000", "issue_type": "epic"}`,
		`filename="2-matter.md"`, `---
id: "a\x00\xff"
title: "b\x00\xff"
phase: "c\x00\xff"
status: "d\x00\xff"
priority: "e\x00\xff"
tags: ["f\x00\xff"]
estimated_context: "g\x00\xff"
dependencies: ["h\x00\xff", "1 - i\x00\xff"]
---
`)
	ada.do("POST", mission+"/import", body, "Content-Type", contentType).want(http.StatusOK)
	if x := ada.get(ada.specByKey(mission, "x")); x.text("documents.0") != "x/a\ufffdb.md" ||
		x.text("documents.1") != "x/c\ufffd\ufffd.png" {
		t.Errorf("got %s", x.body)
	}

	// A name that nobody can read is no reason to drop a file silently.
	body, contentType = form(t, `filename="1-one.md"; filename="2-two.md"`, "# 1")
	ada.do("POST", mission+"/import", body, "Content-Type",
		contentType).wantProblem(http.StatusBadRequest, "malformed_archive")
}

func TestBadArchivesAreRefused(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.MaxImportBytes = 1 << 20 })
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Bad")
	good := tarOf(t, "1-one.md", specText("1", "One", "None"), "2-two.md", strings.Repeat("text ", 1000))
	many := make([]string, 0, 2*specfile.MaxFiles+2)
	for i := range specfile.MaxFiles + 1 {
		many = append(many, fmt.Sprintf("%d.txt", i), "")
	}
	files, multipartType := form(t, `filename="1-one.md"`, "# 1")
	const tarType = "application/x-tar"
	for _, c := range []struct {
		name, contentType string
		body              []byte
		status            int
		code              string
	}{
		{"empty", tarType, nil, http.StatusBadRequest, "malformed_archive"},
		{"garbage", tarType, []byte(strings.Repeat("garbage ", 500)), http.StatusBadRequest, "malformed_archive"},
		{"a spec file itself", "text/markdown",
			[]byte(specText("1", "One", "None")), http.StatusBadRequest, "malformed_archive"},
		{"truncated tar", tarType, good[:1000], http.StatusBadRequest, "malformed_archive"},
		{"truncated gzip", tarType, gzipped(good)[:80], http.StatusBadRequest, "malformed_archive"},
		{"gzip of garbage", tarType, gzipped([]byte(strings.Repeat("x", 2000))), http.StatusBadRequest, "malformed_archive"},
		{"gzip header alone", tarType, []byte{0x1f, 0x8b}, http.StatusBadRequest, "malformed_archive"},
		{"truncated multipart", multipartType, files[:len(files)-10], http.StatusBadRequest, "malformed_archive"},
		{"multipart without boundary", "multipart/form-data", files, http.StatusBadRequest, "malformed_archive"},
		{"multipart said, tar sent", multipartType, good, http.StatusBadRequest, "malformed_archive"},
		{"gzip bomb", tarType, gzipped(tarOf(t, "1-one.txt",
			strings.Repeat("x", 4<<20))), http.StatusRequestEntityTooLarge, "body_too_large"},
		{"too large", tarType, tarOf(t, "1.txt",
			strings.Repeat("x", 2<<20)), http.StatusRequestEntityTooLarge, "body_too_large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ada.in(t).do("POST", mission+"/import", c.body, "Content-Type", c.contentType).wantProblem(c.status, c.code)
		})
	}
	ada.do("POST", mission+"/import", good, "Content-Encoding",
		"gzip").wantProblem(http.StatusUnsupportedMediaType, "unsupported_media_type")
	if seq := ada.lastSeq(mission); seq != 1 {
		t.Errorf("%d events", seq)
	}

	const part = "--b\r\nContent-Disposition: form-data; name=a; filename=one.md\r\n\r\n#\r\n" // the same file again and again
	roomy := startTestServer(t, s.config.DatabaseURL, nil)
	ada.base = roomy.url()
	lines := strings.Repeat("{\"id\":\"x\"}\n", specfile.MaxFiles) // and the file itself
	for _, files := range [][]string{
		many,
		{".beads/issues.jsonl", lines},
		{".beads/issues.jsonl", strings.ReplaceAll(lines, "}", `,"issue_type":"epic"}`)},
		{"tasks.json", `{"tasks": [` + strings.Repeat("{},", specfile.MaxFiles) + "{}]}"},
		{"a/tasks.json", `{"tasks": [` + strings.Repeat("{},", specfile.MaxFiles/2) + "{}]}",
			"b/tasks.json", "{" + strings.Repeat(`"tag": {},`, specfile.MaxFiles/2) + `"tasks": []}`},
	} {
		ada.do("POST", mission+"/import", gzipped(tarOf(t, files...))).
			wantProblem(http.StatusRequestEntityTooLarge, "too_many_files")
	}
	ada.do("POST", mission+"/import", []byte(strings.Repeat(part, specfile.MaxFiles+maxFormFields+2)+"--b--\r\n"),
		"Content-Type", "multipart/form-data; boundary=b").wantProblem(http.StatusRequestEntityTooLarge, "too_many_files")
	// Paths made of what a tracker says are as long as others.
	report := ada.importFiles(mission, "tasks.json",
		`{"`+strings.Repeat("tag ", 300)+`": {"tasks": [{"id": 1}]}, "b": {"tasks": [{"id": 1}]}}`)
	if report.Created != 1 || len(report.Warnings) == 0 || report.Warnings[0].Code != "odd_tracker" {
		t.Errorf("%+v", report)
	}
}

func TestDocsHaveEveryImportWarning(t *testing.T) {
	t.Parallel()
	var documented, known []string
	words := regexp.MustCompile("`(\\w+)`")
	rows := regexp.MustCompile("(?m)^\\| (`[^|]+) \\|")
	for _, row := range rows.FindAllStringSubmatch(docSection(t, "docs/spec-files.md", "## Warnings"), -1) {
		for _, code := range words.FindAllStringSubmatch(row[1], -1) {
			documented = append(documented, code[1])
		}
	}
	for _, code := range documentOf(t).Components.Schemas["ImportWarning"].Properties["code"].Enum {
		known = append(known, code.(string))
	}
	if slices.Sort(documented); !slices.Equal(documented, known) {
		t.Errorf("docs/spec-files.md has the warnings %q, and openapi.json %q", documented, known)
	}
}

// The counts are independent ones, of a real corpus that isn't part of this
// repository.
func TestImportOfTheCorpus(t *testing.T) {
	t.Parallel()
	files := readFiles(t, filepath.FromSlash("../shared/specs"))
	if files == nil {
		return
	}
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Corpus")
	content := gzipped(tarOf(t, pairs(files)...))
	report := ada.importTar(mission, content)
	inCycles := 0
	for _, cycle := range report.Cycles {
		inCycles += len(cycle)
	}
	if report.Created != 167 || len(report.Cycles) != 3 || inCycles != 9 || !slices.Equal(report.Skipped, []string{"LICENSE"}) {
		t.Errorf("created %d, skipped %q, cycles %q", report.Created, report.Skipped, report.Cycles)
	}
	var graph struct{ Edges []graphEdge }
	ada.get(mission + "/graph").want(http.StatusOK).into(&graph)
	m := ada.post(mission+"/start", nil).want(http.StatusOK)
	if len(graph.Edges) != 345 || m.number("stats.criteria_total") != 993 || m.number("stats.completed") != 141 ||
		m.number("stats.ready") != 2 || m.number("stats.planned") != 26 {
		t.Errorf("%d edges, the mission is %s", len(graph.Edges), m.body)
	}
	if again := ada.importTar(mission, content); again.Unchanged != 167 || len(again.Warnings) != len(report.Warnings) {
		t.Errorf("again: %+v", again)
	}
	delete(files, "LICENSE")
	if got := untar(t, ada.get(mission+"/export").want(http.StatusOK).body); !maps.Equal(got, files) {
		t.Errorf("the export of %d files isn't what came in", len(got))
	}
}

// corpusLike makes n spec files of about size bytes, with references to
// earlier ones.
func corpusLike(n, size int) []string {
	random := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("the server keeps each record in order and answers when it is asked for by its key or a range of keys")
	files := make([]string, 0, 2*n)
	for i := 1; i <= n; i++ {
		dependencies := "None"
		if i > 3 {
			dependencies = fmt.Sprintf("%03d-spec, Spec %03d: Title %d", 1+random.IntN(i-1), 1+random.IntN(i-1), i)
		}
		var b strings.Builder
		b.WriteString(specText(fmt.Sprintf("%03d", i), fmt.Sprintf("Title %d", i), dependencies, "one", "two", "three", "four", "five", "six"))
		paragraph := "\n"
		for range 100 {
			paragraph += words[random.IntN(len(words))] + " "
		}
		for b.Len() < size {
			b.WriteString(paragraph)
		}
		files = append(files, fmt.Sprintf("phase-%02d/%03d-spec.md", i/50, i), b.String())
	}
	return files
}

func TestImportOfALargeCorpusTakesSeconds(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission := ada.newMission("Large")
	content := tarOf(t, corpusLike(750, 15_000)...)
	start := time.Now()
	if report := ada.importTar(mission, content); report.Created != 750 {
		t.Errorf("created %d", report.Created)
	}
	t.Logf("750 files of 11 MB in %v", time.Since(start).Round(time.Millisecond))
	if n := ada.get(mission).number("stats.total"); n != 750 {
		t.Errorf("the mission has %d specs", n)
	}
}

// Imports of files as people have them: at several paths, from other tools, changed
// beside the work, and broken.

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
	lineartime.Check(t, lineartime.Constant, 500, func(depth int) func() {
		deep := storedSpec{Node: specfile.Node{Path: strings.Repeat("d/", depth) + "1-a.md", Title: "A"}}
		stored := slices.Repeat([]storedSpec{deep}, 20_000)
		return func() {
			if _, err := findMove(t.Context(), specs, stored); err != nil {
				t.Error(err)
			}
		}
	})
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
	database := newTestDatabase(t)
	ada := startTestServer(t, database, nil).signUp("ada", "user")
	impatient := ada.on(startTestServer(t, database, func(c *Config) { c.RequestTimeout = 5 * time.Second }))
	mission := ada.newMission("Broken")
	content := tarOf(t, "1-one.md", "# One")
	for _, test := range []struct {
		name   string
		client *client
		leaves bool
		status int
		code   string
	}{
		{"stalled", impatient, false, http.StatusRequestTimeout, "request_timeout"},
		{"broken off", ada, true, http.StatusBadRequest, "incomplete_body"},
	} {
		conn := test.client.slowUpload(mission, content[:700], len(content))
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
