package specfile

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// testNodes is two phases of two series that share numbers, as real folders do.
func testNodes() []Node {
	return []Node{
		{Key: "009-old-base", Number: "009", Title: "Old Base", Phase: "Phase 1", Style: StyleBold},
		{Key: "010-base", Number: "010", Title: "Foundation", Phase: "1 - Setup", Style: StyleBold},
		{Key: "011-router", Number: "011", Title: "Request Router", Phase: "Phase 2", Style: StyleBold},
		{Key: "011-settings", Number: "011", Title: "Settings API", Phase: "Phase 2", Style: StyleSections},
		{Key: "012-cache", Number: "012", Title: "Cache", Phase: "Phase 2", Style: StyleBold},
		{Key: "012-cache-api", Number: "012", Title: "Cache API", Phase: "Phase 2", Style: StyleSections},
		{Key: "013a-panel", Number: "013a", Title: "Panel Layout", Phase: "Phase 2", Style: StyleSections},
		{Key: "013b-panel-state", Number: "013b", Title: "Panel State", Phase: "Phase 2", Style: StyleSections},
		{Key: "014-router", Number: "014", Title: "Second Router", Phase: "Phase 3", Style: StyleList},
		{Key: "notes", Number: "", Title: "Notes", Phase: "Phase 2", Style: ""},
		{Key: "20-30", Number: "20", Title: "A Key like a Range", Phase: "", Style: ""},
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	const referrer = "099-referrer"
	cases := []struct {
		ref   string
		style string
		want  string // keys, or a warning's code
	}{
		// The key, however it is dressed.
		{"012-cache", "", "012-cache"},
		{"012-Cache.md", "", "012-cache"},
		{"`012-cache`", "", "012-cache"},
		{"[x] **012-cache**", "", "012-cache"},
		{"[012-cache](./012-cache.md)", "", "012-cache"},
		{"012-cache (for speed)", "", "012-cache"},
		{"notes", "", "notes"},
		{"20-30", "", "20-30"},
		{"012-cache: a title that is another's", "", "012-cache"},
		// The slug under another number.
		{"112-cache-api", "", "012-cache-api"},
		{"base", "", "010-base"},
		{"112-router", StyleBold, "011-router"},
		{"112-router", StyleSections, "ambiguous_reference"},
		// A number of one spec.
		{"010", "", "010-base"},
		{"10", "", "010-base"},
		{"Spec 010", "", "010-base"},
		{"spec #10.", "", "010-base"},
		{"Spec 010: Foundations of it", "", "010-base"},
		{"Spec 010 (The Base)", "", "010-base"},
		{"010 - Base", "", "010-base"},
		{"010-foundation", "", "010-base"},
		{"Spec 010: Router", "", "contradicting_reference"},
		{"010-errors", "", "contradicting_reference"},
		{"Spec 077: Base", "", "dangling_reference"},
		{"077-nothing", "", "dangling_reference"},
		{"some prose", "", "dangling_reference"},
		{"99999999999999999999999", "", "dangling_reference"},
		// A number of several: by title, then by style.
		{"Spec 011: Settings", StyleBold, "011-settings"},
		{"011-request-thing", StyleSections, "011-router"},
		{"Spec 012: Cache API", StyleBold, "012-cache-api"},
		{"Spec 012: Cache", StyleBold, "012-cache"},
		{"Spec 012: Cache", StyleSections, "012-cache-api"},
		{"012", StyleSections, "012-cache-api"},
		{"012", StyleList, "ambiguous_reference"},
		{"Spec 012: Billing", StyleBold, "contradicting_reference"},
		// A number that only exists with letters.
		{"013", "", "013a-panel 013b-panel-state"},
		{"Spec 013: Panel", "", "013a-panel 013b-panel-state"},
		{"Spec 013: Billing", "", "contradicting_reference"},
		{"013a", "", "013a-panel"},
		{"013c", "", "dangling_reference"},
		// Ranges.
		{"009-010", "", "009-old-base 010-base"},
		{"9 – 10", "", "009-old-base 010-base"},
		{"Specs 010 to 011", StyleBold, "010-base 011-router"},
		{"Spec 010 through Spec 011", StyleSections, "010-base 011-settings"},
		{"010-011", StyleList, "010-base 011-router 011-settings"},
		{"012-013", StyleBold, "012-cache 013a-panel 013b-panel-state"},
		{"013b-14", "", "013b-panel-state 014-router"},
		{"009-013a", StyleBold, "009-old-base 010-base 011-router 012-cache 013a-panel"},
		{"009-old-base through 012-cache", StyleBold, "009-old-base 010-base 011-router 012-cache"},
		{"009-old-base through 012-billing", StyleBold, "contradicting_reference"},
		{"300-400", "", "empty_group"},
		{"012-009", "", "empty_group"},
		{"Spec 010: From Base to Foundation", "", "010-base"},
		// Phases: all members, but by number one of each.
		{"Phase 1 (Whatever)", "", "009-old-base 010-base"},
		{"All Phase 01 specs", "", "009-old-base 010-base"},
		{"All specs in Phase 3", "", "014-router"},
		{"All Phase 2 specs", StyleBold,
			"011-router 011-settings 012-cache 012-cache-api 013a-panel 013b-panel-state notes"},
		{"Phase 2 Specs (011-012)", StyleBold, "011-router 012-cache"},
		{"Phase 2 Specs 12-99", StyleSections, "012-cache-api 013a-panel 013b-panel-state"},
		{"Phase 7 (None here)", "", "empty_group"},
		{"Phase two", "", "dangling_reference"},
		// The referrer itself.
		{"099-referrer", "", "self_reference"},
		{"014-099", "", "014-router 20-30"},
		{"All previous Phase 1 specs", "", "009-old-base 010-base"},
	}
	for _, c := range cases {
		node := Node{Key: referrer, Number: "099", Title: "Referrer", Style: c.style, Path: "a.md",
			Refs: []string{c.ref}, RefLines: []int{7}}
		edges, warnings := Resolve(append(testNodes(), node))
		got := strings.Join(edges[referrer], " ")
		if len(warnings) == 1 && got == "" {
			got = warnings[0].Code
		} else if len(warnings) > 0 {
			t.Errorf("%q in style %q: warnings %v", c.ref, c.style, warnings)
		}
		if got != c.want {
			t.Errorf("%q in style %q: got %s, want %s", c.ref, c.style, got, c.want)
		}
	}
}

func TestResolveAllPreviousOfAPhase(t *testing.T) {
	t.Parallel()
	nodes := testNodes()
	nodes[6].Refs = []string{"All previous Phase 2 specs", "011-router", "none", "013a-panel"}
	edges, warnings := Resolve(nodes)
	want := []string{"011-router", "011-settings", "012-cache", "012-cache-api", "notes"}
	if got := edges["013a-panel"]; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := warningCodes(warnings); !slices.Equal(got, []string{"dangling_reference:0", "self_reference:0"}) {
		t.Errorf("warnings %v", warnings)
	}
}

func TestResolveBoundsTheDependenciesOfASpec(t *testing.T) {
	t.Parallel()
	nodes := []Node{{Key: "all", Path: "all.md", Refs: slices.Repeat([]string{"1-600", "1-1001", "601-1000"}, 300)}}
	for i := range 20_000 {
		nodes = append(nodes, Node{Key: fmt.Sprintf("%d-a", i+1), Number: fmt.Sprint(i + 1), Refs: []string{"1-20000"}})
	}
	edges, warnings := Resolve(nodes)
	if got := len(edges["all"]); got != maxReferences {
		t.Errorf("%d dependencies", got)
	}
	for _, w := range warnings {
		if w.Code != "too_many_dependencies" {
			t.Fatal(w)
		}
	}
}

func TestSplitReferences(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"a, b":                          {"a", "b"},
		"Spec 1 (x, y), Spec 2: z":      {"Spec 1 (x, y)", "Spec 2: z"},
		"[a, b](c), d":                  {"[a, b](c)", "d"},
		"a), b (c":                      {"a)", "b (c"},
		",a,,b, ":                       {"a", "b"},
		"None":                          nil,
		"none (first spec), N/A, —, **": nil,
		"**None**, 1-none, nonesuch":    {"1-none", "nonesuch"},
		"":                              nil,
	} {
		if got := slices.Collect(splitReferences(text)); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestCanonicalPhase(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"15 - Server": "Phase 15", "15 - Server/API Layer": "Phase 15", "phase-15-server": "Phase 15",
		"Phase 15":   "Phase 15",
		"08 - Shell": "Phase 8", "0": "Phase 0", "Phase 00": "Phase 0", "Phase: 3b (x)": "Phase 3b", "15": "Phase 15",
		"Server": "Server", "Phase": "Phase", "  two \n words ": "two words", "3rd": "3rd", "": "",
	} {
		if got := CanonicalPhase(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestCycles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ edges, want string }{
		{"", ""},
		{"a>b b>c a>c", ""},
		{"a>a", "a"},
		{"b>a a>b", "a b"},
		{"a>c c>b b>a", "a c b"},
		{"a>b b>c c>a c>d d>e e>d x>a", "a b c, d e"},
		{"a>b b>a a>c c>a", "a b c"}, // no round through all three
		{"a>b b>a a>c c>d d>a", "a c d b"},
		{"a>b a>c a>d b>a c>b d>c b>d", "a d c b"},
	} {
		edges := make(map[string][]string)
		for edge := range strings.FieldsSeq(c.edges) {
			from, to, _ := strings.Cut(edge, ">")
			edges[from] = append(edges[from], to)
		}
		var got []string
		for _, cycle := range Cycles(edges) {
			got = append(got, strings.Join(cycle, " "))
		}
		if joined := strings.Join(got, ", "); joined != c.want {
			t.Errorf("%s: got %q, want %q", c.edges, joined, c.want)
		}
	}
}

// Long chains, one ring, and a ring with a way back from everywhere: deep, but
// quick.
func TestCyclesInDeepGraphs(t *testing.T) {
	t.Parallel()
	const n = 100_000
	key := func(i int) string { return fmt.Sprintf("%06d", i%n) }
	chain, ring, shortcuts := make(map[string][]string), make(map[string][]string), make(map[string][]string)
	for i := range n {
		if i < n-1 {
			chain[key(i)] = []string{key(i + 1)}
		}
		ring[key(i)] = []string{key(i + 1)}
		shortcuts[key(i)] = []string{key(0), key(i + 1)}
	}
	start := time.Now()
	if got := Cycles(chain); len(got) != 0 {
		t.Errorf("a chain has %d cycles", len(got))
	}
	if got := Cycles(ring); len(got) != 1 || len(got[0]) != n || got[0][1] != key(1) {
		t.Errorf("a ring has %d cycles", len(got))
	}
	if got := Cycles(shortcuts); len(got) != 1 || len(got[0]) != n {
		t.Errorf("a ring with shortcuts has %d cycles", len(got))
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}

// docSection is what stands in docs/spec-files.md below a heading of level 2.
func docSection(t *testing.T, heading string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/spec-files.md")
	if err != nil {
		t.Fatal(err)
	}
	var section strings.Builder
	inside, fenced := false, false
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		if !fenced && strings.HasPrefix(line, "## ") {
			inside = strings.TrimSpace(line) == heading
		} else if inside {
			section.WriteString(line)
		}
	}
	if section.Len() == 0 {
		t.Fatalf("docs/spec-files.md has no %q", heading)
	}
	return section.String()
}

// docRows are the rows of a section's tables that begin with code, cell by cell.
func docRows(t *testing.T, heading string) (rows [][]string) {
	t.Helper()
	for line := range strings.Lines(docSection(t, heading)) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.TrimSpace(line), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells[1:len(cells)-1])
	}
	return rows
}

// inCode is what a cell has in backquotes.
func inCode(cell string) (found []string) {
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
		found = append(found, m[1])
	}
	return found
}

func TestDocsSayWhatSpecFilesSay(t *testing.T) {
	t.Parallel()
	_, example, _ := strings.Cut(docSection(t, "## A whole file"), "```markdown\n")
	example, _, _ = strings.Cut(example, "```\n")
	const path = "phase-03-storage/042-index.md"
	want := File{
		Path: path, Key: "042-index", Number: "042", Title: "Index", Phase: "Phase 3",
		EstimatedContext: "~7% of a window",
		Status:           "planned", Priority: 6, Style: StyleList,
		Criteria: []Criterion{{1, "A lookup takes one read", false}, {2, "The format is described", true}},
		Refs:     []string{"041-record-log", "Spec 040 (Disk Layout)"}, RefLines: []int{5, 5},
	}
	if got := Parse(path, example); !reflect.DeepEqual(got, want) {
		t.Errorf("the whole file says\n%+v, want\n%+v", got, want)
	}
	for _, row := range docRows(t, "## Key, number, title") {
		f := Parse(inCode(row[0])[0], strings.Trim(row[1], "`"))
		if want := strings.Trim(row[2], "`"); f.Number != want || f.Title != row[3] {
			t.Errorf("%v is read as %q and %q", row, f.Number, f.Title)
		}
	}
	for _, row := range docRows(t, "## Priority") {
		for _, value := range inCode(row[0]) {
			if f := Parse("a.md", "# A\n**Priority:** "+value); fmt.Sprint(f.Priority) != row[1] {
				t.Errorf("%s is read as %d, and docs/spec-files.md says %s", value, f.Priority, row[1])
			}
		}
	}
	phrases := make(map[string]string)
	for _, row := range docRows(t, "## Status") {
		for phrase := range strings.SplitSeq(row[1], ", ") {
			phrases[phrase] = inCode(row[0])[0]
		}
	}
	if !maps.Equal(phrases, statusPhrases) {
		t.Errorf("docs/spec-files.md has the phrases\n%v\nand Parse has\n%v", phrases, statusPhrases)
	}
}

func TestDocsSayWhatReferencesMean(t *testing.T) {
	t.Parallel()
	var nodes []Node
	for _, row := range docRows(t, "## Dependencies") {
		if len(row) == 3 {
			key := inCode(row[0])[0]
			number, _ := cutNumber(key)
			nodes = append(nodes, Node{Key: key, Number: number, Title: row[1], Phase: row[2]})
			continue
		}
		release := Node{Key: "099-release", Number: "099", Refs: []string{strings.Trim(row[0], "`")}}
		edges, _ := Resolve(append(slices.Clone(nodes), release))
		if got, want := edges[release.Key], inCode(row[1]); !slices.Equal(got, want) {
			t.Errorf("%s depends on %q, and docs/spec-files.md says %q", row[0], got, want)
		}
	}
}
