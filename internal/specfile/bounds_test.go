package specfile

// What hostile files cost: bytes and references looked at where they can be counted,
// and else far less time than what grows faster than the files would take.

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
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
	t.Parallel()
	folders := workFolders{"x/y": "x/y/tasks.md"}
	start := time.Now()
	for i := range 40_000 {
		if folder := folders.of(fmt.Sprintf("%d/%sa.md", i, strings.Repeat("d/", 500))); folder != "" {
			t.Fatal(folder)
		}
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

// A reference that is named over and over costs no more than the text it takes.
func TestTrackersNameDependenciesAgain(t *testing.T) {
	t.Parallel()
	task := masterTask{ID: "1", Title: "T"}
	for n := range 900 {
		task.Dependencies = append(task.Dependencies, word(fmt.Sprint(n+100)))
	}
	task.Dependencies = append(task.Dependencies, slices.Repeat([]word{"999"}, 1_000_000)...)
	start := time.Now()
	for range 10 {
		if refs := Parse("1.md", task.markdown()).Refs; len(refs) != 900 {
			t.Fatalf("%d dependencies", len(refs))
		}
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}
