package specfile_test

import (
	"context"
	"fmt"

	"tachikoma/internal/specfile"
)

func Example() {
	const source = `# Spec 042: Index

**Status:** Planned
**Dependencies:** Spec 041 (Record Log), 043-snapshots

## Acceptance Criteria

- [x] The format is described
- [ ] A lookup takes one read
`
	file := specfile.Parse("phase-03-storage/042-index.md", source)
	fmt.Printf("%s: %s, %s, %s\n", file.Key, file.Title, file.Phase, file.Status)
	for _, criterion := range file.Criteria {
		fmt.Println(criterion.Index, criterion.Text, criterion.Done)
	}

	// Check the second criterion, and say that the work is in review.
	fmt.Print("\n", specfile.Render(source, file.Rules, []bool{true, true}, "in_review", file.Status), "\n")

	resolution, _ := specfile.Resolve(context.Background(), []specfile.Node{
		{Key: "041-record-log", Number: "041", Title: "Record Log"},
		{Key: file.Key, Number: file.Number, Title: file.Title, Phase: file.Phase, Style: file.Style,
			Path: file.Path, Refs: file.Refs, RefLines: file.RefLines},
	})
	fmt.Println(file.Key, "depends on", resolution.Edges[file.Key])
	for _, w := range resolution.Warnings[file.Key] {
		fmt.Printf("%s:%d: %s\n", w.File, w.Line, w.Message)
	}
	// Output:
	// 042-index: Index, Phase 3, planned
	// 1 The format is described true
	// 2 A lookup takes one read false
	//
	// # Spec 042: Index
	//
	// **Status:** In Review
	// **Dependencies:** Spec 041 (Record Log), 043-snapshots
	//
	// ## Acceptance Criteria
	//
	// - [x] The format is described
	// - [x] A lookup takes one read
	//
	// 042-index depends on [041-record-log]
	// phase-03-storage/042-index.md:4: "043-snapshots" isn't a dependency: no spec has that number.
}
