package specfile

// Task Master keeps its tasks in tasks.json: a list, or one for each tag.

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

type masterTask struct {
	ID           word         `json:"id"`
	Title        string       `json:"title"`
	Description  string       `json:"description"`
	Details      string       `json:"details"`
	TestStrategy string       `json:"testStrategy"`
	Priority     string       `json:"priority"`
	Status       string       `json:"status"`
	Dependencies []word       `json:"dependencies"`
	Subtasks     []masterTask `json:"subtasks"`
}

// readTaskMaster makes a file of each task. Its subtasks are its criteria, but for
// those that are cancelled.
func readTaskMaster(t *tracked, source Source) {
	text := []byte(strings.TrimPrefix(source.Text, byteOrderMark))
	var whole map[string]json.RawMessage
	if err := json.Unmarshal(text, &whole); err != nil {
		t.warn(0, "The file isn't JSON: %s.", err)
		return
	}
	lists := make(map[string][]masterTask)
	for tag, value := range whole {
		if tag == "tasks" {
			tag, value = "", text
		}
		var list struct {
			Tasks []masterTask `json:"tasks"`
		}
		if err := json.Unmarshal(value, &list); err != nil {
			t.warn(0, "The tasks of %q can't be read: %s.", firstRunes(tag, 60), err)
		} else if len(list.Tasks) > 0 {
			lists[tag] = list.Tasks
		}
	}
	for _, tag := range slices.Sorted(maps.Keys(lists)) {
		folder := tag
		if len(lists) == 1 || tag == "master" {
			folder = ""
		}
		for _, task := range lists[tag] {
			t.add(0, folder, string(task.ID), task.markdown())
		}
	}
}

func (task masterTask) markdown() string {
	var m item
	var needed []string
	for _, ref := range task.Dependencies {
		id, _, _ := strings.Cut(string(ref), ".") // of a subtask: its task
		if id != string(task.ID) && !slices.Contains(needed, id) {
			needed = append(needed, id)
		}
	}
	m.begin(string(task.ID), task.Title, task.Status, task.Priority, needed)
	m.section("Description", task.Description)
	m.section("Details", task.Details)
	m.section("Test Strategy", task.TestStrategy)
	var boxes strings.Builder
	for _, sub := range task.Subtasks {
		status, _ := statusFromWords(sub.Status)
		if status == "deferred" {
			continue
		}
		mark := " "
		if status == "completed" {
			mark = "x"
		}
		boxes.WriteString("- [" + mark + "] " + oneLine(sub.Title) + "\n")
		for _, more := range []string{sub.Description, sub.Details} {
			if more = oneLine(more); more != "" && more != oneLine(sub.Title) {
				boxes.WriteString("  " + more + "\n")
			}
		}
	}
	m.section("Acceptance Criteria", boxes.String())
	return m.String()
}
