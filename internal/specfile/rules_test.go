package specfile

// What files of other tools say, rule by rule.

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// texts are criteria as a text, those that are done in capitals.
func texts(criteria []Criterion) (said []string) {
	for _, c := range criteria {
		if c.Done {
			c.Text = strings.ToUpper(c.Text)
		}
		said = append(said, c.Text)
	}
	return said
}

func TestFrontMatter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, source string
		want         string // title, status, priority, id, tags, refs
		warnings     []string
	}{
		{"scalars", "---\nid: SPEC-9 # a comment\ntitle: \"A: \\\"b\\\"\"\nstatus: 'in-progress'\npriority: high\nphase: 2\n---\n",
			`A: "b"|in_progress|6|spec-9|[]|[]`, nil},
		{"CRLF and a byte order mark", "\ufeff---\r\nname: A\r\nstatus: done\r\n---\r\n# B\r\n", "A|completed|5||[]|[]", nil},
		{"lists", "---\ntitle: A\nlabels: [x, 'y z', \"w\"]\ndepends_on:\n  # why\n  - \"[[b]]\"\n\n  - 3\nblocked-by: c\n---\n",
			"A|planned|5||[x y z w]|[[[b]] 3 c]", nil},
		{"a list over several lines", "---\ntitle: A\nneeds: [b, # one\n  c,\n  d]\n---\n", "A|planned|5||[]|[b c d]", nil},
		{"a list without indent", "---\ntitle: A\nrequires:\n- b\n- c d\n---\n", "A|planned|5||[]|[b c d]", nil},
		{"blocks", "---\ntitle: >-\n  A\n  b\nstatus: |\n  todo\n---\n", "A b|planned|5||[]|[]", nil},
		{"a plain scalar over two lines", "---\ntitle: A\n  b\n---\n", "A b|planned|5||[]|[]", nil},
		{"wikilinks", "---\ntitle: A\ndependencies: [[b]]\n---\n", "A|planned|5||[]|[[[b]]]", nil},
		{"names that mean nothing", "---\ntitle: A\nmeta:\n  status: done\n  x: {y: z}\nz: &a b\n---\n",
			"A|planned|5||[]|[]", nil},
		{"what isn't understood", "---\ntitle: A\nstatus: {x: y}\npriority: &p high\n? x\ndependencies: [b, [c]]\n---\n",
			"A|planned|5||[]|[]", []string{"odd_front_matter:3", "odd_front_matter:4", "odd_front_matter:6"}},
		{"no front matter", "---\nA rule, no front matter.\n---\n# B\n", "B|planned|5||[]|[]", nil},
		{"never closed", "---\ntitle: A\n# B\n", "B|planned|5||[]|[]", nil},
		{"its dependencies are complete", "---\ntitle: A\ndepends_on: []\n---\n## Dependencies\n- PostgreSQL 15\n",
			"A|planned|5||[]|[]", nil},
		{"its boxes aren't any", "---\ntitle: A\nsteps:\n  - [ ] a\n---\n- [ ] b\n", "A|planned|5||[]|[]", nil},
	} {
		f := Parse("a.md", c.source)
		got := fmt.Sprintf("%s|%s|%d|%s|%v|%v", f.Title, f.Status, f.Priority, f.ID, f.Tags, f.Refs)
		if codes := warningCodes(f.Warnings); got != c.want || !slices.Equal(codes, c.warnings) &&
			len(codes)+len(c.warnings) > 0 {
			t.Errorf("%s: got %s with %v, want %s with %v", c.name, got, codes, c.want, c.warnings)
		}
	}
}

func TestFieldsInEveryForm(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"**Status:** Done", "**Status**: `Done`", "__Status__: done", "- **Status**: ✅ Done", "Status: Done",
		"* Status: done",
		"> **Status**: Done", "| Status | Done |\n|---|---|", "| Status | Priority |\n|---|---|\n| Done | P1 |",
		"## Status\n\nDone",
		"## Status: Done", "## 📊 Status\n**Status**: `Completed`", "### Status\nDone", "**Owner:** me | **Status:** done",
		"**Status:**\nDone", "状态：已完成", "**Estado:** Terminado",
	} {
		if f := Parse("a.md", "# A\n\n"+line+"\n\n## More\n\n**Priority:** none here\n"); f.Status != "completed" {
			t.Errorf("%q is %s with %v", line, f.Status, f.Warnings)
		} else if codes := warningCodes(f.Warnings); len(codes) != 1 || !strings.HasPrefix(codes[0], "field_passed_over") {
			t.Errorf("%q has the warnings %v, not one for the priority below", line, f.Warnings)
		}
	}
}

func TestCriteriaOfEverySection(t *testing.T) {
	t.Parallel()
	for _, heading := range []string{
		"## Acceptance Criteria", "## 3. Acceptance Criteria", "### ✅ Definition of Done (DoD)", "**Acceptance Criteria:**",
		"Success Criteria\n---", "Acceptance criteria:", "## *Acceptance Criteria* (all must hold)", "## 验收标准", "## 受け入れ基準",
		"## Critères d'acceptation", "## Criterios de aceptación", "## Critérios de aceitação", "## Akzeptanzkriterien",
		"## Критерии приёмки", "## معايير القبول", "## स्वीकृति मानदंड", "## গ্রহণযোগ্যতার মানদণ্ড", "## 인수 기준",
		"## Kriteria Penerimaan", "## قبولیت کے معیار",
	} {
		source := "# A\n\n## Steps\n\n- [ ] no\n\n" + heading + "\n\n- [x] one\n- [ ] two\n\n## Notes\n\n- [ ] no\n"
		if got := texts(Criteria(source, RulesSections)); !slices.Equal(got, []string{"ONE", "two"}) {
			t.Errorf("%s has %q", heading, got)
		}
	}
}

func TestCriteriaAndWhatBelongsToThem(t *testing.T) {
	t.Parallel()
	const heading = "## Acceptance Criteria\n\n"
	for _, c := range []struct {
		name, source string
		want         []string
	}{
		{"wrapped", heading + "- [ ] to the cent\n  in every\ncurrency\n\n  more of it\n\nNot of it.\n- [ ] b",
			[]string{"to the cent in every currency more of it", "b"}},
		{"details and nested boxes", heading + "- [ ] a\n  - detail\n  - [x] b\n    detail\n  - of a\n- [ ] c",
			[]string{"a - detail - of a", "B DETAIL", "c"}},
		{"comments", "<!--\n- [ ] no\n-->\n" + heading + "- [ ] a <!-- - [ ]\n- [ ] no --> x\n- [ ] b\n<!-- - [ ] no -->\n",
			[]string{"a <!-- - [ ]", "b"}},
		{"items", heading + "1. a\n   more\n2. b\n   - detail\n\ntext\n", []string{"a more", "b - detail"}},
		{"items beside boxes are none", heading + "- [ ] a\n- note\n", []string{"a"}},
		{"sections with items and with boxes", heading + "- a\n\n## Definition of Done\n- [x] b\n- note\n",
			[]string{"a", "B"}},
		{"gherkin", heading + "```gherkin\nScenario: Open\n  Given a door\n  When it opens\n  Then it is open\n\nScenario: Shut\n```\n",
			[]string{"Scenario: Open Given a door When it opens Then it is open", "Scenario: Shut"}},
		{"scenarios as items", heading + "- **Given** a\n- **When** b\n- **Then** c\n- **And** d\n- **Given** e\n- **Then** f\n",
			[]string{"Given** a When** b Then** c And** d", "Given** e Then** f"}},
		{"sentences with when", heading + "1. WHEN a THEN b\n2. WHEN c THEN d\n", []string{"WHEN a THEN b", "WHEN c THEN d"}},
		{"tasks", "## Tasks / Subtasks\n- [ ] a\n## Checklist\n- [ ] no", []string{"a"}},
		{"tasks beside criteria", "## Tasks\n- [ ] no\n" + heading + "1. a\n", []string{"a"}},
		{"all boxes", "- [ ] a\n## X\n* [x] b\n\n```\n- [ ] no\n```\n", []string{"a", "B"}},
		{"none", "# A\n\n- a\n", nil},
	} {
		if got := texts(Criteria(c.source, RulesSections)); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestCriteriaWithoutABoxAreDoneInACompletedFile(t *testing.T) {
	t.Parallel()
	const criteria = "\n## Acceptance Criteria\n1. a\n2. b\n"
	if f := Parse("a.md", "# A\n**Status:** Done\n"+criteria); f.Status != "completed" || !f.Criteria[0].Done ||
		!f.Criteria[1].Done {
		t.Errorf("got %+v", f)
	}
	if f := Parse("a.md", "# A\n**Status:** Review\n"+criteria); f.Status != "in_review" || f.Criteria[0].Done {
		t.Errorf("got %+v", f)
	}
	if f := Parse("a.md", "# A\n"+criteria+"## Definition of Done\n- [ ] c\n## Acceptance Criteria\n- [x] d\n"); f.Status != "planned" {
		t.Errorf("got %+v", f)
	}
}

// What a text was stored with stays: the boxes below "Acceptance Criteria", and no
// others.
func TestTheFirstRulesStay(t *testing.T) {
	t.Parallel()
	const body = "\ufeff# A\n- [ ] no\n## Acceptance Criteria\n- [ ] a\n  wrapped\n- [-] no\n- [x]* no\n<!--\n- [X] b\n-->\n1. no\n" +
		"```\n- [ ] no\n```\n### Part\n- [ ] c\n## Definition of Done\n- [ ] no\n"
	if got := texts(Criteria(body, RulesFirst)); !slices.Equal(got, []string{"a", "B", "c"}) {
		t.Errorf("got %q", got)
	}
	want := strings.Replace(strings.Replace(body, "[ ] a", "[x] a", 1), "[X] b", "[ ] b", 1)
	if got := Render(body, RulesFirst, []bool{true, false}, "planned", "planned"); got != want {
		t.Errorf("got %q", got)
	}
}

func TestDependenciesInEveryForm(t *testing.T) {
	t.Parallel()
	both := []string{"001-soil", "002-seed"}
	for source, want := range map[string][]string{
		"**Dependencies:** 001-soil and 002-seed": both, "**Depends on:** 001-soil; 002-seed": both,
		"**Blocked by:** #1, #2": both, "Requires: 1 & 2": both, "**依赖**：001-soil、002-seed": both,
		"- **Dependencies**: 001-soil,\n  002-seed": both, "**Dependencies:** 001-soil,\n002-seed": both,
		"- **Dependencies**:\n  001-soil, 002-seed": both, "- **Dependencies**: 001-soil\n  - 002-seed": both,
		"**Depends on:**\n\n- 001-soil (for the bed)\n- [ ] Spec 2": both, "### Dependencies\n\n- 001-soil\n- 002-seed": both,
		"## Prerequisites\n001-soil\n002-seed": both, "## Dependencies\n### Inner\n* 001-soil\n### Outer\n* 002-seed": both,
		"## Dependencies\n| Spec | Why |\n|---|---|\n| 001-soil | bed |\n| 002-seed | all |": both,
		"## Dependencies\n- **Depends on**: 001-soil, 002-seed\n- **Blocks**: 003-water":     both,
		"## Dependencies\n- 001-soil\n- 002-seed\n### Blocks\n- 003-water":                   both,
		"**Dependencies:** [[001-soil]] [[002-seed|the seeds]]":                              both,
		"**Dependencies:** [soil](./001-soil.md), [x](../garden/002-seed.md#top)":            both,
		"**Dependencies:** garden/001-soil.md, GARDEN-2":                                     both,
		"**Dependencies:** Specs 1-2 (the first ones)":                                       both,
		"**Dependencies:** All garden specs (001-002)":                                       both,
		"Depends on #1 and #2": both,
		"## Dependencies\n- **Inner**: 001-soil\n- Outer: 002-seed":       both,
		"**Dependencies:** Rich Seed, soil":                               both,
		"**Dependencies:** Water must be on tap":                          nil,
		"**Dependencies:** Water: from the tap":                           nil,
		"**Dependencies:** PostgreSQL 15 or later":                        nil,
		"**Dependencies:** 3 buckets":                                     nil,
		"**Dependencies:** [PostgreSQL](https://example.org/001-soil.md)": nil,
	} {
		f := Parse("010-probe.md", "# Probe\n\n"+source+"\n")
		resolution, err := Resolve(t.Context(), []Node{
			{Key: "001-soil", Number: "001", Title: "Soil", Path: "001-soil.md", Rules: RulesSections},
			{Key: "002-seed", ID: "garden-2", Number: "002", Title: "Rich Seed", Path: "002-seed.md", Rules: RulesSections},
			{Key: "003-water", Number: "003", Title: "Water it", Path: "003-water.md", Rules: RulesSections},
			{Key: f.Key, Number: f.Number, Title: f.Title, Path: f.Path, Rules: f.Rules, Refs: f.Refs, RefLines: f.RefLines},
		})
		if got := resolution.Edges[f.Key]; err != nil || !slices.Equal(got, want) {
			t.Errorf("%q depends on %q, want %q: %q, %v", source, got, want, f.Refs, resolution.Warnings)
		} else if n := len(resolution.Warnings[f.Key]); (n == 0) == (want == nil) {
			t.Errorf("%q has %d warnings", source, n)
		}
	}
	for _, none := range []string{"None", "[]", "Keine", "无", "n/a", "—", "No dependencies.", "none (first)"} {
		if f := Parse("a.md", "# A\n**Dependencies:** "+none+"\n"); len(f.Refs) > 0 {
			t.Errorf("%q is %q", none, f.Refs)
		}
	}
}

func TestReferencesLookInTheirOwnFolderFirst(t *testing.T) {
	t.Parallel()
	var nodes []Node
	for _, folder := range []string{"a", "b"} {
		for _, name := range []string{"1-plan", "2-build"} {
			node := Node{Key: folder + "." + name, Number: name[:1], Title: name[2:], Path: folder + "/" + name + ".md",
				Rules: RulesSections}
			if name == "2-build" {
				node.Refs = []string{"1"}
			}
			nodes = append(nodes, node)
		}
	}
	nodes = append(nodes,
		Node{Key: "c", Path: "c/c.md", Refs: []string{"1-plan"}},
		Node{Key: "d", Path: "c/d.md", Refs: []string{"b/1-plan"}},
		Node{Key: "e", Path: "b/e.md", Refs: []string{"1-2"}})
	resolution, _ := Resolve(t.Context(), nodes)
	want := map[string][]string{"a.2-build": {"a.1-plan"}, "b.2-build": {"b.1-plan"}, "d": {"b.1-plan"},
		"e": {"b.1-plan", "b.2-build"}}
	if !reflect.DeepEqual(resolution.Edges, want) {
		t.Errorf("got %v", resolution.Edges)
	}
	if got := resolution.Warnings["c"]; len(got) != 1 || got[0].Code != "ambiguous_reference" {
		t.Errorf("got %v", got)
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"316-server": "316", "031a-panel": "031a", "1.2.cook": "1.2", "1-2-cook": "1-2", "2.10": "2.10", "031-2-x": "031",
		"1-02-x": "1", "2026-01-09-mail": "", "20260109-mail": "", "1999-parties": "1999", "3rd-try": "", "task-2": "",
		"10.1---broom": "10.1", "1.2.3.4-x": "1.2.3.4",
	} {
		if got, _ := cutNumber(key); got != want {
			t.Errorf("%s has the number %q, want %q", key, got, want)
		}
	}
	ordered := []string{"", "1", "1.1", "1-2", "1.10", "2", "2a", "10", "010b", "11"}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := compareNumbers(a, b); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%q and %q compare as %d", a, b, got)
			}
		}
	}
	if canonicalNumber("01-2") != "1.2" || canonicalNumber("031A") != "31a" {
		t.Error("numbers that are equal look different")
	}
}

func TestKeysAreUnique(t *testing.T) {
	t.Parallel()
	keys := NewKeys(slices.Values([]string{"one"}))
	var got []string
	for _, name := range []string{"two.md", "a/one.md", "b/a/one.md", "one.md", "ONE.markdown", "x/tasks.md",
		strings.Repeat("é", 200) + ".md"} {
		got = append(got, keys.Take(Parse(name, "# A")))
	}
	want := []string{"two", "a.one", "b.a.one", "one-2", "one-3", "tasks", strings.Repeat("é", 128)}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	for key, valid := range map[string]bool{"a.b_c-1": true, "設計": true, "größe": true, "A": false, "": false,
		".": false, "..": false,
		"a b": false, "a/b": false, strings.Repeat("é", 129): false, "\xff": false} {
		if ValidKey(key) != valid {
			t.Errorf("ValidKey(%q) isn't %v", key, valid)
		}
	}
}

// What files can cost is bounded for all of them together.
func TestResolvingIsBounded(t *testing.T) {
	t.Parallel()
	var nodes []Node
	for i := range 800 {
		node := Node{Key: fmt.Sprint(i, "-x"), Number: fmt.Sprint(i), Path: fmt.Sprintf("%d-x.md", i)}
		for n := range maxReferences {
			node.Refs = append(node.Refs, fmt.Sprintf("%d-%d", n+i%7, 700+i%100), fmt.Sprint("nothing-", n*i))
		}
		nodes = append(nodes, node)
	}
	resolution, err := Resolve(t.Context(), nodes)
	warned, edges := 0, 0
	for _, w := range resolution.Warnings {
		warned += len(w)
	}
	for _, e := range resolution.Edges {
		edges += len(e)
	}
	if err != nil || warned > maxProblems || edges > maxEdges || resolution.MoreWarnings == 0 {
		t.Errorf("%d warnings and %d more, %d edges: %v", warned, resolution.MoreWarnings, edges, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Resolve(ended, nodes); err != context.Canceled {
		t.Errorf("resolving goes on: %v", err)
	}
}
