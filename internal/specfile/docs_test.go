package specfile

// What docs/spec-files.md says of the format is what Parse and Resolve do.

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

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
		Rules: RulesSections, Criteria: []Criterion{{1, "A lookup takes one read", false}, {2, "The format is described", true}},
		Refs: []string{"041-record-log", "Spec 040 (Disk Layout)"}, RefLines: []int{5, 5},
	}
	if got := Parse(path, example); !reflect.DeepEqual(got, want) {
		t.Errorf("the whole file says\n%+v, want\n%+v", got, want)
	}
	for _, row := range docRows(t, "## Path, key, number, title") {
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
		resolution, _ := Resolve(t.Context(), append(slices.Clone(nodes), release))
		if got, want := resolution.Edges[release.Key], inCode(row[1]); !slices.Equal(got, want) {
			t.Errorf("%s depends on %q, and docs/spec-files.md says %q", row[0], got, want)
		}
	}
}
