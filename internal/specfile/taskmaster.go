package specfile

// Task Master keeps its tasks in tasks.json: a list, or one for each tag.

import (
	"bytes"
	"context"
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

// readTaskMaster makes a file of each task. Its subtasks are its criteria, except
// those that are cancelled.
func readTaskMaster(ctx context.Context, t *tracked, text string) error {
	whole := []byte(text)
	if err := json.Unmarshal(whole, &struct{}{}); err != nil {
		t.warn(0, "The file isn't a list of tasks in JSON: %s.", err)
		return nil
	}
	type written struct{ id, text string }
	lists := make(map[string][]written)
	read := func(tag string, list []byte) error {
		isList, err := eachValue(list, '[', func(_ string, value []byte) error {
			var task masterTask
			ok, err := t.decode(ctx, 0, value, &task)
			if ok {
				lists[tag] = append(lists[tag], written{string(task.ID), task.markdown()})
			}
			return err
		})
		if !isList && string(list) != "null" {
			t.warn(0, "The tasks of %q aren't a list.", firstRunes(tag, 60))
		}
		return err
	}
	_, err := eachValue(whole, '{', func(tag string, value []byte) error {
		if tag == "tasks" {
			return read("", value)
		}
		if err := t.next(ctx); err != nil {
			return err
		}
		isTag, err := eachValue(value, '{', func(name string, value []byte) error {
			if name != "tasks" {
				return nil
			}
			return read(tag, value)
		})
		if !isTag {
			t.warn(0, "The tasks of %q can't be read.", firstRunes(tag, 60))
		}
		return err
	})
	for _, tag := range slices.Sorted(maps.Keys(lists)) {
		folder := tag
		if len(lists) == 1 || tag == "master" {
			folder = ""
		}
		for _, task := range lists[tag] {
			t.add(0, folder, task.id, task.text)
		}
	}
	return err
}

// eachValue goes over the values in a list or an object, whose first character is
// open, one at a time: all of them decoded would take many times the memory of the
// text, which is known to be JSON. ok reports whether text is a list or an object.
func eachValue(text []byte, open json.Delim, each func(name string, value []byte) error) (ok bool, err error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if first, _ := decoder.Token(); first != open {
		return false, nil
	}
	for decoder.More() {
		name := ""
		if open == '{' {
			token, _ := decoder.Token()
			name, _ = token.(string)
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return true, err
		}
		if err := each(name, value); err != nil {
			return true, err
		}
	}
	return true, nil
}

func (task masterTask) markdown() string {
	var m item
	var needed []string
	known := map[string]bool{string(task.ID): true}
	for _, ref := range task.Dependencies {
		id, _, _ := strings.Cut(string(ref), ".") // of a subtask: its task
		if known[id] {
			continue
		}
		known[id] = true
		if needed = append(needed, id); len(needed) > maxReferences {
			break // Parse warns of them
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
