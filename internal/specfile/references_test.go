package specfile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
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

// resolveCases are references from the spec 099-referrer, beside testNodes.
var resolveCases = []struct {
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

func TestResolve(t *testing.T) {
	t.Parallel()
	const referrer = "099-referrer"
	for _, c := range resolveCases {
		node := Node{Key: referrer, Number: "099", Title: "Referrer", Style: c.style, Path: "a.md",
			Refs: []string{c.ref}, RefLines: []int{7}}
		resolution, _ := Resolve(t.Context(), append(testNodes(), node))
		warnings := resolution.Warnings[referrer]
		got := strings.Join(resolution.Edges[referrer], " ")
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
	resolution, _ := Resolve(t.Context(), nodes)
	edges, warnings := resolution.Edges, resolution.Warnings["013a-panel"]
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
	resolution, _ := Resolve(t.Context(), nodes)
	if got := len(resolution.Edges["all"]); got != 600 {
		t.Errorf("%d dependencies, want those before the group that is too large", got)
	}
	for _, w := range resolution.Warnings["all"] {
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
