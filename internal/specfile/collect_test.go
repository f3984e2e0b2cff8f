package specfile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// collect says what becomes of files, each a path and what is in it: a line a spec,
// with what it depends on by title.
func collect(t testing.TB, files ...string) (specs []string, c Collection) {
	t.Helper()
	var sources []Source
	var others []string
	for i := 0; i+1 < len(files); i += 2 {
		if Skips(files[i]) {
			others = append(others, files[i])
		} else {
			sources = append(sources, Source{files[i], files[i+1]})
		}
	}
	c, err := Collect(t.Context(), sources, others)
	if err != nil {
		t.Fatal(err)
	}
	keys, nodes := NewKeys(func(func(string) bool) {}), []Node{}
	titles := make(map[string]string)
	for _, f := range c.Specs {
		key := keys.Take(f.File)
		titles[key] = f.Title
		nodes = append(nodes, Node{Key: key, ID: f.ID, Number: f.Number, Title: f.Title, Phase: f.Phase, Style: f.Style,
			Path: f.Path, Rules: f.Rules, Refs: f.Refs, RefLines: f.RefLines})
	}
	resolution, err := Resolve(t.Context(), nodes)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range c.Specs {
		done := 0
		for _, criterion := range f.Criteria {
			if criterion.Done {
				done++
			}
		}
		var needs []string
		for _, key := range resolution.Edges[nodes[i].Key] {
			needs = append(needs, titles[key])
		}
		specs = append(specs, fmt.Sprintf("%s %q %s P%d %d/%d %v",
			nodes[i].Key, f.Title, f.Status, f.Priority, done, len(f.Criteria), needs))
		c.Warnings = append(c.Warnings, f.Warnings...)
		c.Warnings = append(c.Warnings, resolution.Warnings[nodes[i].Key]...)
	}
	return specs, c
}

func wantSpecs(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A repository of spec-kit with the folder of an agent, contracts and a feature
// that isn't planned yet.
func TestSpecKitRepository(t *testing.T) {
	t.Parallel()
	got, c := collect(t,
		".specify/memory/constitution.md", "# Constitution\n\n- [ ] Simple",
		".specify/templates/tasks-template.md", "# Tasks: [FEATURE NAME]\n\n- [ ] T001 Create",
		".specify/specs/003-user-auth/spec.md", "# Feature Specification: User Authentication\n\n**Status**: Draft\n",
		".specify/specs/003-user-auth/plan.md", "# Implementation Plan: User Authentication\n\n- [ ] Gate",
		".specify/specs/003-user-auth/quickstart.md", "# Quickstart",
		".specify/specs/003-user-auth/contracts/auth.yaml", "openapi: 3.1.0",
		".specify/specs/003-user-auth/tasks.md",
		"# Tasks: User Authentication\n\n**Prerequisites**: plan.md, research.md\n\n"+
			"## Phase 3.1: Setup\n- [x] T001 Create project\n- [X] T002 [P] Lint\n\n## Phase 3.2: Tests First ⚠️ MUST COMPLETE BEFORE 3.3\n"+
			"- [ ] T003 [P] Contract test\n\n## Dependencies\n- Tests (T003) before implementation\n\n## Success Criteria\n- [ ] T004 Done\n",
		"CLAUDE.md", "# Claude", ".claude/commands/plan.md", "# Plan\n- [ ] x")
	wantSpecs(t, got, `003-user-auth "User Authentication" planned P5 2/4 []`)
	documents := []string{"contracts/auth.yaml", "plan.md", "quickstart.md", "spec.md"}
	for i := range documents {
		documents[i] = ".specify/specs/003-user-auth/" + documents[i]
	}
	if len(c.Warnings) > 0 || !slices.Equal(c.Specs[0].Documents, documents) || c.Specs[0].Number != "003" {
		t.Errorf("%+v", c)
	}
}

// A project of Backlog.md as its documents show it, with a hidden folder,
// subtasks, milestones and implementation notes.
func TestBacklogRepository(t *testing.T) {
	t.Parallel()
	task := func(id, title, status, more, body string) string {
		return fmt.Sprintf("---\nid: %s\ntitle: %s\nstatus: %s\nassignee:\n  - '@ada'\ncreated_date: '2025-06-19 21:00'\nlabels:\n  - cli\n"+
			"milestone: m-1\n%s---\n\n## Description\n\nWhy.\n\n%s", id, title, status, more, body)
	}
	got, c := collect(t,
		".backlog/config.yml", "project_name: x",
		".backlog/tasks/task-7 - Export-board.md", task("task-7", "Export board", "In Progress",
			"dependencies: [task-3, task-6]\npriority: high\n",
			"## Acceptance Criteria\n<!-- AC:BEGIN -->\n- [x] #1 A file is written\n- [ ] #2 It can be read\n<!-- AC:END -->\n\n"+
				"## Implementation Plan\n\n1. Write\n- [ ] step\n\n## Implementation Notes\n\nNone."),
		".backlog/tasks/task-3 - Draw-board.md", task("task-3", "'Draw board: columns'", "Done",
			"dependencies: []\nordinal: 1000\n", ""),
		".backlog/tasks/task-6 - Themes.md", task("task-6", "Themes", "To Do", "dependencies:\n  - TASK-3\npriority: low\n",
			"## Acceptance Criteria\n- [ ] Dark\n\n## Definition of Done\n- [x] Documented\n"),
		".backlog/docs/doc-1 - Notes.md", "# Notes", ".backlog/decisions/decision-1.md", "# D")
	wantSpecs(t, got,
		`task-7---export-board "Export board" in_progress P6 1/2 [Draw board: columns Themes]`,
		`task-3---draw-board "Draw board: columns" completed P5 0/0 []`,
		`task-6---themes "Themes" planned P0 1/2 [Draw board: columns]`)
	if len(c.Warnings) > 0 || !slices.Equal(c.Specs[0].Tags, []string{"cli"}) {
		t.Errorf("%+v", c.Warnings)
	}
}

// Task Master with lists by tag, which use the same ids, and references to subtasks.
func TestTaskMasterTags(t *testing.T) {
	t.Parallel()
	got, c := collect(t, ".taskmaster/tasks/tasks.json", `{
		"master": {"tasks": [{"id": 1, "title": "Core", "status": "done", "priority": "medium", "dependencies": [],
			"subtasks": [{"id": 1, "title": "A", "status": "pending"}, {"id": 2, "title": "B", "status": "cancelled"}]},
			{"id": "2", "title": "API", "status": "review", "dependencies": ["1.2", 1], "details": "# Heading\n- [ ] no\n"}]},
		"ui": {"tasks": [{"id": 1, "title": "Pages", "status": "pending", "priority": "high", "dependencies": [], "subtasks": null},
			{"id": 2, "title": "Forms", "status": "pending", "dependencies": [1], "subtasks": [{"id": 1, "title": "C\nwrapped", "status": "done"}]}],
			"metadata": {"description": "x"}}}`)
	wantSpecs(t, got, `1 "Core" completed P5 0/1 []`, `2 "API" in_review P5 0/1 [Core]`,
		`ui.1 "Pages" planned P6 0/0 []`, `ui.2 "Forms" completed P5 1/1 [Pages]`)
	if len(c.Warnings) > 0 || c.Specs[2].Path != ".taskmaster/tasks/tasks.json/ui/1.md" {
		t.Errorf("%+v", c)
	}
	for source, warnings := range map[string]int{"{": 1, "[]": 1, `{"a": 1}`: 1, `{"tasks": [{"title": "no id"}]}`: 1,
		"{}": 0} {
		if _, c := collect(t, "tasks.json", source); len(c.Warnings) != warnings ||
			!slices.Equal(c.Skipped, []string{"tasks.json"}) {
			t.Errorf("%s: %+v", source, c)
		}
	}
}

func TestBeads(t *testing.T) {
	t.Parallel()
	got, c := collect(t, ".beads/issues.jsonl", `{"id":"x-1","title":"Epic","status":"open","issue_type":"epic","priority":1}
{"id":"x-2","title":"One","status":"closed","priority":0,"acceptance_criteria":"- done\n"}

not json
{"id":"x-3","title":"Two","status":"open","priority":2,"description":"d","dependencies":[{"depends_on_id":"x-2","type":"blocks"},{"depends_on_id":"x-1","type":"parent-child"}]}
{"id":"x-3","title":"Twice","status":"open"}
{"id":"x-4","title":"Gone","status":"tombstone"}`)
	wantSpecs(t, got, `x-2 "One" completed P9 1/1 []`, `x-3 "Two" planned P3 0/0 [One]`)
	if codes := warningCodes(c.Warnings); !slices.Equal(codes, []string{"odd_tracker:4", "odd_tracker:6"}) ||
		!slices.Equal(c.Skipped, []string{".beads/issues.jsonl/x-1.md", ".beads/issues.jsonl/x-4.md"}) {
		t.Errorf("%v, %v", codes, c.Skipped)
	}
}

func TestFoldersThatAreOneSpec(t *testing.T) {
	t.Parallel()
	got, c := collect(t,
		"changes/add-list/tasks.md", "## 1. Store\n- [x] 1.1 a\n", "changes/add-list/proposal.md", "## Why\n",
		"changes/add-list/specs/loans/spec.md", "# x", "changes/add-list/specs/loans/tasks.md", "- [ ] x",
		"kiro/plan/tasks.md", "# Implementation Plan\n\n- [-] 1. a\n", "kiro/plan/requirements.md",
		"# Requirements Document\n",
		"other/tasks.md", "# Tasks of no folder\n\n- [ ] a\n", "other/notes.md",
		"# Notes\n\n**Dependencies:** [list](../changes/add-list/proposal.md)\n")
	wantSpecs(t, got, `add-list "add list" completed P5 1/1 []`, `plan "plan" planned P5 0/1 []`,
		`tasks "Tasks of no folder" planned P5 0/1 []`, `notes "Notes" planned P5 0/0 [add list]`)
	if len(c.Skipped) != 4 || len(c.Warnings) > 0 {
		t.Errorf("%+v", c)
	}
	// In the root of an import, if no other folder is one.
	got, _ = collect(t, "tasks.md", "- [ ] a\n", "spec.md", "# Feature Specification: Shed\n", "plan.md", "# Plan")
	wantSpecs(t, got, `tasks "Shed" planned P5 0/1 []`)
}

func TestSkipsWhatIsNoWork(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"AGENTS.md": true, "docs/CLAUDE.md": true, "security.md": true, "1-security.md": false, "docs/index.md": true,
		"042-index.md":    false,
		"epics/a/epic.md": true, "templates/a.md": true, "x/node_modules/y/a.md": true, "openspec/specs/a/spec.md": true,
		"specs/a/spec.md": false,
		".github/a.md":    true, ".kiro/specs/a/tasks.md": false, ".kiro/steering/a.md": true, "x/.claude/epics/a/1.md": false,
		".claude/epics/.old/1.md": true, ".backlog/drafts/a.md": false, ".beads/issues.jsonl": false, "tasks.json": false,
		"x.json":     true,
		"a.markdown": false, "./a.md": false,
	} {
		if got := Skips(name); got != want {
			t.Errorf("Skips(%q) = %v, want %v", name, got, want)
		}
	}
}

func FuzzFrontMatter(f *testing.F) {
	f.Add("id: a\ntitle: \"b\\\"\ndepends_on: [a, 'b', [[c]]\n  , d]\nstatus: >-\n x\n\n- y\n")
	f.Add("a:\n- ")
	f.Add("a:\n  b: c\nlabels:\n- [x\n---\nstatus: 'it''s'")
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) {
			return
		}
		source := "---\n" + text + "\n---\n# A\n"
		file := Parse("a.md", source)
		checkFile(t, file)
		for _, fields := range readMatter(source).fields {
			for _, field := range fields {
				if field.end > 0 && source[field.start:field.end] != field.value {
					t.Errorf("%q isn't where it should be", field.value)
				}
			}
		}
	})
}

func FuzzReferences(f *testing.F) {
	f.Add("001-soil and [[b|c]] [d](e.md), Specs 1-2 (all; of them)、#3 #4")
	f.Add("[x] Phase 1 (2-3), a/b.md#c, [[[")
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) {
			return
		}
		node := Node{Key: "1-a", Number: "1", Title: "A", Path: "x/1-a.md", Refs: slices.Collect(splitReferences(text))}
		others := []Node{{Key: "2-b", Number: "2", Path: "x/2-b.md"}, {Key: "3", ID: "b", Number: "1.2", Title: "All of it",
			Phase: "1"}}
		resolution, err := Resolve(t.Context(), append(others, node))
		if err != nil || slices.Contains(resolution.Edges[node.Key], node.Key) {
			t.Errorf("%q: %v, %v", text, resolution, err)
		}
		for _, ref := range node.Refs {
			if strings.TrimSpace(ref) == "" || utf8.RuneCountInString(ref) > maxReference {
				t.Errorf("the reference %q", ref)
			}
		}
	})
}

// 750 files of 15 KB.
func BenchmarkCollect(b *testing.B) {
	filler := strings.Repeat("Some text of a spec, with `code`, a [link](x.md) and **bold** words.\n\n", 190)
	var sources []Source
	size := 0
	for i := range 750 {
		text := fmt.Sprintf("# Spec %03d: Part %d\n\n- **Status**: Planned\n- **Dependencies**: Spec %03d: Part, %03d-part-%d\n\n## Overview\n\n%s"+
			"## Acceptance Criteria\n\n%s", i, i, max(i-1, 0), max(i-2, 0), max(i-2, 0), filler,
			strings.Repeat("- [ ] It holds\n", 8))
		sources = append(sources, Source{fmt.Sprintf("phase-%02d/%03d-part-%d.md", i/50, i, i), text})
		size += len(text)
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		c, _ := Collect(b.Context(), sources, nil)
		var nodes []Node
		for _, f := range c.Specs {
			nodes = append(nodes, Node{Key: f.Key, Number: f.Number, Title: f.Title, Path: f.Path, Rules: f.Rules, Refs: f.Refs})
		}
		if _, err := Resolve(b.Context(), nodes); err != nil {
			b.Fatal(err)
		}
	}
}
