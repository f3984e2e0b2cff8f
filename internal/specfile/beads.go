package specfile

// Beads keeps its issues in issues.jsonl, one a line.

import (
	"context"
	"strings"
)

type bead struct {
	ID                 string `json:"id"`
	Title              string `json:"title"`
	Description        string `json:"description"`
	Design             string `json:"design"`
	AcceptanceCriteria string `json:"acceptance_criteria"`
	Notes              string `json:"notes"`
	Status             string `json:"status"`
	Priority           *word  `json:"priority"`
	IssueType          string `json:"issue_type"`
	Dependencies       []struct {
		DependsOnID string `json:"depends_on_id"`
		Type        string `json:"type"`
	} `json:"dependencies"`
}

// readBeads makes a file of each issue. Epics only group other issues, and
// tombstones are deleted ones: neither is work.
func readBeads(ctx context.Context, t *tracked, text string) error {
	line := 0
	for text := range strings.Lines(text) {
		if line++; strings.TrimSpace(text) == "" {
			continue
		}
		var issue bead
		ok, err := t.decode(ctx, line, []byte(text), &issue)
		switch {
		case err != nil:
			return err
		case !ok:
		case issue.IssueType == "epic" || issue.Status == "tombstone":
			t.skipped = append(t.skipped, t.path+"/"+fileName(firstRunes(issue.ID, maxKey))+".md")
		default:
			t.add(line, "", issue.ID, issue.markdown())
		}
	}
	return nil
}

func (b bead) markdown() string {
	var needed []string
	for _, d := range b.Dependencies {
		if d.Type == "blocks" || d.Type == "" {
			needed = append(needed, d.DependsOnID)
		}
	}
	priority := ""
	if b.Priority != nil && *b.Priority != "" {
		priority = "P" + strings.TrimLeft(string(*b.Priority), "Pp")
	}
	var m item
	m.begin(b.ID, b.Title, b.Status, priority, needed)
	m.section("Description", b.Description)
	m.section("Design", b.Design)
	m.section("Acceptance Criteria", b.AcceptanceCriteria)
	m.section("Notes", b.Notes)
	return m.String()
}
