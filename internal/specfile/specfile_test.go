package specfile

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// readSpecFolder parses every spec file below a folder. A folder that isn't
// there has none.
func readSpecFolder(t *testing.T, folder string) (files map[string]File, sources map[string]string, skipped []string) {
	t.Helper()
	files, sources = make(map[string]File), make(map[string]string)
	root := os.DirFS(folder)
	if _, err := fs.Stat(root, "."); err != nil {
		t.Logf("%s isn't here: nothing to read", folder)
		return files, sources, nil
	}
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if Skips(name) {
			skipped = append(skipped, name)
			return nil
		}
		source, err := fs.ReadFile(root, name)
		f := Parse(name, string(source))
		files[f.Key], sources[f.Key] = f, string(source)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files, sources, skipped
}

func warningCodes(warnings []Warning) []string {
	codes := []string{}
	for _, w := range warnings {
		codes = append(codes, fmt.Sprintf("%s:%d", w.Code, w.Line))
	}
	return codes
}

func TestParseReadsEveryHeaderStyle(t *testing.T) {
	t.Parallel()
	files, _, _ := readSpecFolder(t, "testdata/specs")
	const folder = "phase-03-storage/"
	want := []File{{
		Path: folder + "041-record-log.md", Key: "041-record-log", ID: "041", Number: "041", Title: "Record Log",
		Phase:  "Phase 3",
		Status: "in_progress", EstimatedContext: "~7% of a window", Priority: 6, Style: StyleBold,
		Criteria: []Criterion{{1, "Records are appended", true}, {2, "A torn write is found", false},
			{3, "by its length", true}, {4, "by its checksum", false}, {5, "Old segments are removed", false}},
	}, {
		Path: folder + "042-index.md", Key: "042-index", ID: "042", Number: "042", Title: "Index", Phase: "Phase 3",
		Status: "in_review", Priority: 0, Style: StyleList,
		Criteria: []Criterion{{1, "Lookups take one read", false}},
		Refs:     []string{"041-record-log", "Spec 043: Snapshot Files", "Spec 044 (Compaction, in the background)"},
		RefLines: []int{8, 9, 9},
	}, {
		Path: folder + "043-snapshots.md", Key: "043-snapshots", ID: "043", Number: "043", Title: "Snapshot Files",
		Phase: "Phase 3", Status: "completed", EstimatedContext: "~9%", Priority: DefaultPriority, Style: StyleSections,
		Criteria: []Criterion{{1, "Snapshots are atomic", true}, {2, "Snapshots are pruned", true}},
		Refs:     []string{"Spec 041: Record Log", "`042-index`"},
		RefLines: []int{13, 14},
	}, {
		Path: folder + "044-compaction.md", Key: "044-compaction", Number: "044", Title: "Compaction", Phase: "Phase 3",
		Status: "planned", Priority: DefaultPriority,
		Criteria: []Criterion{{1, "Space is given back", false}},
	}}
	for _, w := range want {
		got := files[w.Key]
		got.Warnings, w.Rules = nil, RulesSections
		if !reflect.DeepEqual(got, w) {
			t.Errorf("%s:\n got %+v\nwant %+v", w.Path, got, w)
		}
	}
	codes := []string{"number_mismatch:1", "unclosed_fence:10"}
	if got := warningCodes(files["044-compaction"].Warnings); !slices.Equal(got, codes) {
		t.Errorf("warnings of 044-compaction: %v, want %v", got, codes)
	}
}

func TestParseFallsBackWithAWarning(t *testing.T) {
	t.Parallel()
	long, runes := strings.Repeat("ä", 250), utf8.RuneCountInString
	many := ""
	for i := range maxReferences + 5 {
		many += fmt.Sprint(i, ",")
	}
	cases := []struct {
		name, path, source string
		check              func(File) any
		want               any
		warnings           []string
	}{
		{"empty", "Some Spec.md", "", func(f File) any { return []string{f.Key, f.Title, f.Status, f.Phase, f.Style} },
			[]string{"some-spec", "some spec", "planned", "", ""}, []string{"title_missing:0"}},
		{"unknown status", "a.md", "# A\n**Status:** on fire", func(f File) any { return f.Status },
			"planned", []string{"unknown_status:2"}},
		{"unknown priority", "a.md", "# A\n**Priority:** P9", func(f File) any { return f.Priority },
			DefaultPriority, []string{"unknown_priority:2"}},
		{"priority as a digit", "a.md", "# A\n**Priority:** 8", func(f File) any { return f.Priority }, 8, []string{}},
		{"long fields", "a.md", "# " + long + "\n**Phase:** " + long + "\n**Estimated Context:** " + long,
			func(f File) any {
				return []int{runes(f.Title), runes(f.Phase), runes(f.EstimatedContext)}
			}, []int{200, 200, 200}, []string{"text_cut:1", "text_cut:2", "text_cut:3"}},
		{"long name", strings.Repeat("1", 150) + ".md", "# A",
			func(f File) any { return []int{len(f.Key), len(f.Number)} },
			[]int{128, 16}, []string{"text_cut:0", "text_cut:1"}},
		{"number from the title", "server.md", "# Spec 12b: Server",
			func(f File) any { return f.Number + f.Title }, "12bServer", []string{}},
		{"number from the id", "server.md", "# Server\n**Spec ID:** 077",
			func(f File) any { return f.Number }, "077", []string{}},
		{"title with digits", "server.md", "# 3 Servers",
			func(f File) any { return f.Number + f.Title }, "3 Servers", []string{}},
		{"same number without zeros", "007-x.md", "# 7 - X", func(f File) any { return f.Number }, "007", []string{}},
		{"phase from the folder", "a/phase-08-ui/sub/1-x.md", "# X",
			func(f File) any { return f.Phase }, "Phase 8", []string{}},
		{"phase without a number", "1-x.md", "# X\n**Phase:** Later  on",
			func(f File) any { return f.Phase }, "Later on", []string{}},
		{"title in a fence", "1-x.md", "```\n# no\n```\n# Yes", func(f File) any { return f.Title }, "Yes", []string{}},
		{"byte order mark", "1-x.md", "\ufeff# X\n**Status:** done",
			func(f File) any { return f.Title + f.Status }, "Xcompleted", []string{}},
		{"first field wins", "1-x.md", "# X\n**Status:** Blocked\n## Status\nDone",
			func(f File) any { return f.Status }, "blocked", []string{}},
		{"dependencies of crates", "1-x.md", "# X\n### Cargo Dependencies\n- axum\n## Dependencies (Cargo.toml)\n- tokio",
			func(f File) any { return len(f.Refs) }, 0, []string{}},
		{"too many dependencies", "1-x.md", "# X\n**Dependencies:** " + many,
			func(f File) any { return len(f.Refs) }, maxReferences, []string{"too_many_references:2"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := Parse(c.path, c.source)
			if got := c.check(f); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if got := warningCodes(f.Warnings); !slices.Equal(got, c.warnings) {
				t.Errorf("warnings %v, want %v", got, c.warnings)
			}
		})
	}
}

func TestStatusFromWords(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Planned": "planned", "Draft": "planned", "not started": "planned", "": "planned",
		"CRITICAL - broken": "planned",
		"In Progress":       "in_progress", "in-progress": "in_progress", "WIP": "in_progress",
		"🚧 Started":    "in_progress",
		"Under review": "in_review", "Ready for review": "in_review", "QA": "testing", "Testing (nightly)": "testing",
		"Done": "completed", "Complete": "completed", "Completed ✅": "completed", "✅": "completed",
		"**Done**":      "completed",
		"Blocked by 12": "blocked", "On hold": "deferred", "Deferred": "deferred",
	} {
		if got, _ := statusFromWords(text); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
	for status, text := range statusWords {
		if got, known := statusFromWords(text); got != status || !known {
			t.Errorf("%q is written for %s and read as %s", text, status, got)
		}
	}
}

func TestSkips(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"a.md": false, "x/316-server.MD": false, "x/readme-writing.md": false, "x/1-licensing.md": false,
		"README.md": true, "x/README": true, "x/README-old.md": true, "readme.md": true, "LICENSE": true,
		"x/LICENSE.md":        true,
		"x/1-a.md.superseded": true, "x/._1-a.md": true, "._x/1-a.md": true, "__MACOSX/1-a.md": true,
		"x/a.txt": true, "x/.md": true, "x/md": true, "": true,
	} {
		if got := Skips(name); got != want {
			t.Errorf("Skips(%q) = %v, want %v", name, got, want)
		}
	}
}

func TestCriteriaFollowCommonMark(t *testing.T) {
	t.Parallel()
	const heading = "## Acceptance Criteria\n"
	cases := []struct {
		name, body string
		want       []string
	}{
		{"every marker", heading + "- [ ] a\n* [x] b\n+ [X] c\n1. [ ] d\n2) [ ] e\n\t- [ ] f",
			[]string{"a", "b", "c", "d", "e", "f"}},
		{"any mark, optional ones", heading + "- [] a\n- [y] b\n- [-] c\n- [ ]* d\n- [✓] e",
			[]string{"a", "b", "c", "d", "e"}},
		{"no task", heading + "- [x]a\n\n-[ ] b\n- [ ]\n\n[ ] c\n1234567890. [ ] d\n> - [ ] e\n- [f](g)", []string{"[f](g)"}},
		{"other sections", "- [ ] a\n## Verification\n- [ ] b\n" + heading + "- [ ] c\n# Next\n- [ ] d\n",
			[]string{"c"}},
		{"deeper headings stay", heading + "### Part\n- [ ] a\n" +
			"### Acceptance Criteria\n- [ ] b\n### C\n- [ ] c\n## D\n- [ ] d",
			[]string{"a", "b", "c"}},
		{"two sections", heading + "- [ ] a\n## X\n- [ ] b\n#### acceptance criteria: ####\n- [ ] c",
			[]string{"a", "c"}},
		{"fence", heading + "```md\n- [ ] a\n```\n- [ ] b", []string{"b"}},
		{"tildes", heading + "~~~ a`b\n- [ ] a\n```\n~~~\n- [ ] b", []string{"b"}},
		{"longer fence", heading + "````\n```\n- [ ] a\n````` \n- [ ] b", []string{"b"}},
		{"closing fence with text", heading + "```\n``` x\n- [ ] a\n```\n- [ ] b", []string{"b"}},
		{"backtick in the info string", heading + "``` a`b\n- [ ] a", []string{"a"}},
		{"indented by four", heading + "    ```\n- [ ] a", []string{"a"}},
		{"fence in an item", heading + "- [ ] a\n\n    ```\n- [ ] b\n    ```\n- [ ] c", []string{"a", "c"}},
		{"indented by three", heading + "   ```\n- [ ] a\n   ```\n- [ ] b", []string{"b"}},
		{"closing indented by four", heading + "```\n    ```\n- [ ] a", nil},
		{"heading in a fence", "```\n" + heading + "```\n- [ ] a\n## Definition of Done\n- [ ] b", []string{"b"}},
		{"no heading", "## Success Criteria\n- [ ] z\n## X\n##Acceptance Criteria\n- [ ] a\n    ## Acceptance Criteria\n- [ ] b\n" +
			"####### Acceptance Criteria\n- [ ] c",
			[]string{"z"}},
		{"windows", "## Acceptance Criteria\r\n- [ ] a\r\n```\r\n- [ ] b\r\n```\r\n- [x] c", []string{"a", "c"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for i, criterion := range Criteria(c.body, RulesSections) {
				got = append(got, criterion.Text)
				if criterion.Index != i+1 {
					t.Errorf("criterion %d has index %d", i+1, criterion.Index)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestRenderChangesNothingElse(t *testing.T) {
	t.Parallel()
	const body = "\ufeff# 1 - A\r\n\r\n**Status:** Planned ok  \r\n" +
		"## Acceptance Criteria\r\n- [ ] a\r\n- [X] b\r\n\t* [ ] c"
	cases := []struct {
		name, body      string
		done            []bool
		status, derived string
		want            string
	}{
		{"as it stands", body, []bool{false, true, false}, "planned", "planned", body},
		{"no flags", body, nil, "planned", "planned", body},
		{"checked", body, []bool{true, true, true}, "planned", "planned", strings.ReplaceAll(body, "[ ]", "[x]")},
		{"other marks", "- [-] a\n- [] b\n- [~] c\n", []bool{true, true, false}, "planned", "planned",
			"- [x] a\n- [x] b\n- [~] c\n"},
		{"in the front matter", "---\nstatus: in-progress # now\n---\n# A", nil, "in_review", "planned",
			"---\nstatus: in-review # now\n---\n# A"},
		{"in quotes", "---\nstatus: \"To Do\"\n---\n", nil, "completed", "planned", "---\nstatus: \"Completed\"\n---\n"},
		{"as code in a table", "# A\n| Status | `todo` |\n", nil, "in_progress", "planned",
			"# A\n| Status | `in progress` |\n"},
		{"beside another field", "# A\n**Status:** Draft | **Priority:** P1\n", nil, "testing", "planned",
			"# A\n**Status:** Testing | **Priority:** P1\n"},
		{"items without boxes", "## Acceptance Criteria\n1. a\n", []bool{true}, "planned", "planned",
			"## Acceptance Criteria\n1. a\n"},
		{"unchecked", body, []bool{false, false, false, true}, "planned", "planned",
			strings.ReplaceAll(body, "[X]", "[ ]")},
		{"status", body, nil, "in_progress", "planned", strings.Replace(body, "Planned ok", "In Progress", 1)},
		{"status said already", body, nil, "planned", "completed", body},
		{"both", body, []bool{true}, "blocked", "planned",
			strings.Replace(strings.Replace(body, "Planned ok", "Blocked", 1), "[ ]", "[x]", 1)},
		{"list", "# A\n## Metadata\n- **Status**: Draft\n", nil, "testing", "planned",
			"# A\n## Metadata\n- **Status**: Testing\n"},
		{"section", "# A\n## Status\n\nDraft\n\n## B", nil, "deferred", "planned",
			"# A\n## Status\n\nDeferred\n\n## B"},
		{"section below the criteria", "## Acceptance Criteria\n- [ ] a\n## Status\n- Draft", []bool{true},
			"in_review", "planned",
			"## Acceptance Criteria\n- [x] a\n## Status\n- In Review"},
		{"empty status", "# A\n**Status:**\r\n", nil, "completed", "planned", "# A\n**Status:** Completed\r\n"},
		{"no status line", "# A\n", nil, "completed", "planned", "# A\n"},
		{"no such status", body, nil, "odd", "planned", body},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := Render(c.body, RulesSections, c.done, c.status, c.derived); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestCarryDoneGoesByText(t *testing.T) {
	t.Parallel()
	list := func(marks string) (criteria []Criterion) {
		for i, r := range marks { // a capital is done
			text := strings.ToLower(string(r))
			criteria = append(criteria, Criterion{i + 1, text, text != string(r)})
		}
		return criteria
	}
	for _, c := range []struct{ before, after, want string }{
		{"Ab", "ab", "Ab"},
		{"Ab", "ba", "bA"},
		{"Ab", "xab", "xAb"},
		{"ab", "aB", "aB"},
		{"", "aB", "aB"},
		{"A", "", ""},
		{"A", "aa", "Aa"},
		{"aA", "aa", "aA"},
		{"AA", "aba", "AbA"},
	} {
		want := []bool{}
		for _, w := range list(c.want) {
			want = append(want, w.Done)
		}
		if got := CarryDone(list(c.before), list(c.after)); !slices.Equal(got, want) {
			t.Errorf("%q to %q: got %v, want %q", c.before, c.after, got, c.want)
		}
	}
}

// Parsing takes time in proportion to the input, however it is made up.
// What is quadratic in any of these runs into the test binary's own time limit.
func TestParseTakesAMegabyteOfAnything(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	for _, piece := range []string{
		"`", "~", "#", " ", "*", "**", "**:", "- ", "\n", "```\n", "- [ ] a\n", "## Acceptance Criteria\n- [ ] a\n",
		"# x #", "# A\n**Dependencies:** (", "# A\n**Dependencies:** a,", "1. ", "[](", "\r", "ä", "1",
	} {
		source := "# A\n**Dependencies:** 1\n## Acceptance Criteria\n" + strings.Repeat(piece, size/len(piece))
		f := Parse("1-a.md", source)
		rendered := Render(source, RulesSections, make([]bool, len(f.Criteria)), "blocked", f.Status)
		if len(rendered) < len(source)-16 {
			t.Errorf("%q over and over: %d bytes became %d", piece, len(source), len(rendered))
		}
		Resolve(t.Context(), []Node{{Key: f.Key, Refs: f.Refs}})
	}
}

// The counts are independent ones, of a real corpus that isn't part of this
// repository.
func TestCorpus(t *testing.T) {
	t.Parallel()
	files, sources, skipped := readSpecFolder(t, filepath.FromSlash("../../../shared/specs"))
	if len(files) == 0 {
		return
	}
	got := make(map[string]int)
	var nodes []Node
	for key, f := range files {
		nodes = append(nodes, Node{Key: f.Key, ID: f.ID, Number: f.Number, Title: f.Title, Phase: f.Phase, Style: f.Style,
			Path: f.Path, Rules: f.Rules, Refs: f.Refs, RefLines: f.RefLines})
		got["specs"]++
		got["criteria"] += len(f.Criteria)
		got["references"] += len(f.Refs)
		got[f.Status]++
		for s := newScanner(sources[key]); s.scan(); {
			if _, ok := s.checkbox(); ok {
				got["checkboxes"]++
			}
		}
		if Render(sources[key], RulesSections, nil, f.Status, f.Status) != sources[key] {
			t.Errorf("%s doesn't come out as it went in", f.Path)
		}
	}
	resolution, _ := Resolve(t.Context(), nodes)
	edges := resolution.Edges
	for _, warnings := range resolution.Warnings {
		for _, w := range warnings {
			got[w.Code]++
		}
	}
	for key, f := range files {
		got["edges"] += len(edges[key])
		waits := func(k string) bool { return files[k].Status != "completed" }
		if f.Status == "planned" && slices.ContainsFunc(edges[key], waits) {
			got["waiting"]++
		} else if f.Status == "planned" {
			got["ready"]++
		}
	}
	for _, cycle := range Cycles(edges) {
		got["cycles"]++
		got["in cycles"] += len(cycle)
	}
	// A phase that has no specs here is a group without members: it resolves,
	// to none.
	got["resolved"] = got["references"] -
		got["dangling_reference"] - got["contradicting_reference"] - got["ambiguous_reference"]
	want := map[string]int{
		"specs": 167, "checkboxes": 1064, "criteria": 993, "references": 232, "resolved": 222,
		"dangling_reference": 6, "contradicting_reference": 4, "empty_group": 1, "edges": 345,
		"cycles": 3, "in cycles": 9, "completed": 141, "planned": 26, "ready": 2, "waiting": 24,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if !slices.Equal(skipped, []string{"LICENSE"}) {
		t.Errorf("skipped %v", skipped)
	}
}

func FuzzParse(f *testing.F) {
	paths, err := filepath.Glob("testdata/specs/*/*.md")
	if err != nil || len(paths) == 0 {
		f.Fatal("no fixtures", err)
	}
	for _, path := range paths {
		source, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(path, string(source), uint(len(source)))
	}
	f.Add("a.md", "## Status\r\n- [ ] x\r\n# Acceptance Criteria\r\n- [ ] a\r\n## Status\r\n- [ ] b", uint(1))
	f.Add("a.md", "\ufeff**Status:**\n**Depends on:**\n- 1-3, (a,b), 4 to 5\n\n1) none", uint(2))
	statuses := []string{"planned", "in_progress", "in_review", "testing", "completed", "blocked", "deferred"}
	f.Fuzz(func(t *testing.T, path, source string, pick uint) {
		if !utf8.ValidString(source) || !utf8.ValidString(path) {
			return
		}
		file := Parse(path, source)
		checkFile(t, file)
		resolution, _ := Resolve(t.Context(), []Node{
			{Key: file.Key, Number: file.Number, Title: file.Title, Refs: file.Refs},
			{Key: "2-b", Number: "2"},
		})
		Cycles(resolution.Edges)

		same := make([]bool, len(file.Criteria))
		for i, c := range file.Criteria {
			same[i] = c.Done
		}
		if Render(source, RulesSections, same, file.Status, file.Status) != source {
			t.Fatal("an unchanged file comes out changed")
		}
		all := slices.Repeat([]bool{true}, len(same))
		checked := Render(source, file.Rules, all, file.Status, file.Status)
		again, _ := findCriteria(checked, file.Rules)
		for i, c := range again {
			if c.boxed && !c.done || i >= len(same) {
				t.Fatalf("criterion %d is %+v after checking all of %+v", i+1, c, file.Criteria)
			}
		}
		if back := Render(checked, file.Rules, same, "", ""); len(Criteria(back, file.Rules)) != len(same) {
			t.Fatal("checking and unchecking leaves other criteria")
		}

		status := statuses[pick%uint(len(statuses))]
		after := Parse(path, Render(source, RulesSections, same, status, file.Status))
		if len(after.Criteria) != len(same) {
			t.Fatalf("%d criteria of %d after a new status", len(after.Criteria), len(same))
		}
		complete := len(same) > 0 && (!slices.Contains(same, false) || after.Status == "completed")
		if _, hasLine := readHeader(source).fields["status"]; hasLine && !complete && after.Status != status {
			t.Fatalf("%s is read back as %s", status, after.Status)
		}
	})
}

// checkFile checks what File promises.
func checkFile(t *testing.T, f File) {
	t.Helper()
	if f.Key != "" && !ValidKey(f.Key) {
		t.Errorf("key %q", f.Key)
	}
	if len(f.Number) > maxNumber || f.Priority < 0 || f.Priority > 9 || statusWords[f.Status] == "" {
		t.Errorf("number %q, priority %d, status %q", f.Number, f.Priority, f.Status)
	}
	for _, text := range []string{f.Title, f.Phase, f.EstimatedContext} {
		if utf8.RuneCountInString(text) > maxText || !utf8.ValidString(text) || oneLine(text) != text {
			t.Errorf("text %q", text)
		}
	}
	if len(f.Refs) != len(f.RefLines) || len(f.Refs) > maxReferences {
		t.Errorf("%d references, %d lines", len(f.Refs), len(f.RefLines))
	}
}

func TestFilesAskForAPersonsReview(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Review: human": "human", "- **Review**: Human, please": "human", "**Review:** `human`": "human",
		"| Review | human |\n|---|---|": "human", "Review: none": "warned", "Review: by the security team": "warned",
		"## Review\n\nhuman": "", "## Review: human": "", "## Notes\n\nReview: human": "", "### Review\n\nIt went well.": "",
	} {
		f := Parse("a.md", "# A\n\n"+text+"\n")
		if got := f.Review; len(f.Warnings) > 0 && f.Warnings[0].Code != "unknown_review" ||
			len(f.Warnings) > 0 != (want == "warned") || got != strings.TrimPrefix(want, "warned") {
			t.Errorf("%q asks for %q, with the warnings %v", text, got, f.Warnings)
		}
	}
	matter := "---\ntitle: A\nreview: human\n---\n"
	if f := Parse("a.md", matter); f.Review != "human" || Review(matter) != "human" {
		t.Errorf("the front matter asks for %q", f.Review)
	}
	if got := KeyOf("", "…") + NextNumber("9999999999999999"); got != "spec" {
		t.Errorf("without a name or a number the key is %q", got)
	}
	for last, want := range map[string]string{"": "001", "042b": "043", "1.2": "2", "99": "100"} {
		if got := NextNumber(last); got != want {
			t.Errorf("behind %q comes %q, want %q", last, got, want)
		}
	}
}
