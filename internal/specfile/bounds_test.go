package specfile

// What hostile files cost: bytes and references looked at where they can be counted,
// and else time that grows no faster than the files.

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"tachikoma/internal/lineartime"
)

// allocated is how many bytes a function allocates, while no other test runs.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestWrappedValuesAreJoinedOnce(t *testing.T) {
	const size = 64 << 10
	for name, source := range map[string]string{
		"field":        "# A\n**Dependencies:** 1,\n" + strings.Repeat(" a\n", size/3),
		"section":      "# A\n## Dependencies\n\n1\n" + strings.Repeat("a\n", size/2),
		"front matter": "---\nid: 1\ndependencies: a\n" + strings.Repeat(" a\n", size/3) + "---\n# A\n",
		"block":        "---\nid: 1\ndependencies: |\n" + strings.Repeat(" a\n", size/3) + "---\n# A\n",
	} {
		if took := allocated(func() { Parse("1-a.md", source) }); took > 50*size {
			t.Errorf("%s: %d bytes for one of %d bytes", name, took, len(source))
		}
	}
}

func TestKeysOfDeepFoldersEnd(t *testing.T) {
	const files = 2000
	keys := NewKeys(func(func(string) bool) {})
	took := allocated(func() {
		for i := range files {
			keys.Take(File{Key: "a", Path: fmt.Sprintf("%d/%sa.md", i, strings.Repeat("d/", 500))})
		}
	})
	if took > files*30_000 {
		t.Errorf("%d bytes a key", took/files)
	}
}

func TestFoldersOfDeepFilesAreFoundAtOnce(t *testing.T) {
	folders := workFolders{"x/y": "x/y/tasks.md"}
	lineartime.Check(t, lineartime.Linear, 500, func(depth int) func() {
		name := strings.Repeat("d/", depth) + "a.md"
		return func() {
			for i := range 10_000 {
				if folder := folders.of(fmt.Sprintf("%d/%s", i, name)); folder != "" {
					t.Fatal(folder)
				}
			}
		}
	})
}

// A reference that is named over and over costs no more than the text it takes.
func TestTrackersNameDependenciesAgain(t *testing.T) {
	lineartime.Check(t, lineartime.Linear, 900, func(references int) func() {
		task := masterTask{ID: "1", Title: "T"}
		for n := range references {
			task.Dependencies = append(task.Dependencies, word(fmt.Sprint(n+100)))
		}
		task.Dependencies = append(task.Dependencies, slices.Repeat([]word{"999"}, 1000*references)...)
		return func() {
			if refs := Parse("1.md", task.markdown()).Refs; len(refs) != min(references+1, 900) { // the 900th is 999
				t.Errorf("%d dependencies", len(refs))
			}
		}
	})
}

// What a reference costs counts before it is looked at: if there are many that cost
// much, the later ones aren't. Each of these is one that gives a warning.
func TestResolvingEndsWhereReferencesCostMuch(t *testing.T) {
	t.Parallel()
	title := func(from rune) string {
		var words []string
		for c := range rune(95) {
			words = append(words, string(from+c))
		}
		return strings.Join(words, " ")
	}
	for _, test := range []struct {
		name      string
		nodes     int
		node      func(i int) Node
		reference func(i, n int) string
	}{
		{"titles of twins", 50,
			func(i int) Node { return Node{Number: "1", Title: title('一')} },
			func(i, n int) string { return fmt.Sprintf("1 %s q%dz%d", title('丐'), i, n) }},
		{"ranges of one number", 3990,
			func(i int) Node { return Node{Number: "1", Path: fmt.Sprintf("%d/1-x.md", i)} },
			func(i, n int) string { return fmt.Sprintf("1-%d", i*1000+n+2) }},
		{"paths with one end", 300,
			func(i int) Node { return Node{Path: fmt.Sprintf("%d/d/a.md", i)} },
			func(i, n int) string { return fmt.Sprintf("%d-%d/b/d/a.md", i, n) }},
		{"long texts", 100,
			func(int) Node { return Node{} },
			func(i, n int) string { return fmt.Sprint(strings.Repeat("a b ", 120), i, n) }},
	} {
		var nodes []Node
		references := 0
		for i := range test.nodes {
			node := test.node(i)
			for n := range 1000 {
				if references < 50_000 {
					node.Refs = append(node.Refs, test.reference(i, n))
					references++
				}
			}
			node.Key = fmt.Sprint("key-", i)
			nodes = append(nodes, node)
		}
		resolution, err := Resolve(t.Context(), nodes)
		looked := resolution.MoreWarnings
		for _, warnings := range resolution.Warnings {
			looked += len(warnings)
		}
		if err != nil || looked == 0 || looked > references*4/5 {
			t.Errorf("%s: %d of %d references are looked at: %v", test.name, looked, references, err)
		}
	}
}

// Specs that share a number with a letter aren't gone over for each range.
func TestRangesToALetterAreCutAtOnce(t *testing.T) {
	lineartime.Check(t, lineartime.Constant, MaxFiles, func(files int) func() {
		var nodes []Node
		for i := range files {
			nodes = append(nodes, Node{Key: fmt.Sprint("1a-", i), Number: "1a", Path: fmt.Sprintf("%d/1a.md", i),
				Refs: []string{"1a-1a"}})
		}
		return func() {
			if resolution, err := Resolve(t.Context(), nodes); err != nil || len(resolution.Edges) > 0 {
				t.Errorf("%d have dependencies: %v", len(resolution.Edges), err)
			}
		}
	})
}
