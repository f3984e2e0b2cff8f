package specfile

// JSON trackers: their items become Markdown files, which are read like all others.

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"
)

const (
	maxTrackerFile = 256 << 10 // bytes of the Markdown of one item
	maxTrackerItem = 1 << 20   // bytes of its JSON, which takes many times as much in memory
)

// trackers are the names of files that hold items, and what reads them.
var trackers = map[string]func(ctx context.Context, t *tracked, text string) error{
	"tasks.json":   readTaskMaster,
	"issues.jsonl": readBeads,
	"beads.jsonl":  readBeads,
}

// IsTracker reports whether the file at a path holds the items of a tracker. Such
// a file may be longer than a spec.
func IsTracker(name string) bool { return trackers[path.Base(name)] != nil }

// tracked is what a tracker holds.
type tracked struct {
	path     string
	left     int // how many items there may be
	count    int // how many there were so far
	files    []Source
	skipped  []string
	warnings []Warning
	seen     map[string]bool
}

// readTracker reads a tracker of at most left items.
func readTracker(ctx context.Context, source Source, left int) (*tracked, error) {
	t := &tracked{path: source.Path, left: left, seen: make(map[string]bool)}
	read := trackers[path.Base(source.Path)]
	if err := read(ctx, t, strings.TrimPrefix(source.Text, byteOrderMark)); err != nil {
		return nil, err
	}
	if len(t.files) == 0 {
		t.skipped = append(t.skipped, source.Path)
	}
	return t, nil
}

// next counts an item, or a list of them.
func (t *tracked) next(ctx context.Context) error {
	if t.count++; t.count > t.left {
		return ErrTooManyFiles
	}
	return ctx.Err()
}

// decode reads the JSON of the next item into v, a pointer. It reports whether the
// item can be used; the error is for the tracker as a whole.
func (t *tracked) decode(ctx context.Context, line int, item []byte, v any) (ok bool, err error) {
	if err := t.next(ctx); err != nil {
		return false, err
	}
	if len(item) > maxTrackerItem {
		t.warn(line, "An item is longer than %d KiB; it is left out.", maxTrackerItem>>10)
		return false, nil
	}
	if json.Unmarshal(item, v) != nil {
		t.warn(line, "This isn't an item in JSON; it is left out.")
		return false, nil
	}
	return true, nil
}

func (t *tracked) warn(line int, format string, args ...any) {
	if len(t.warnings) < maxWarnings {
		t.warnings = append(t.warnings, Warning{t.path, line, "odd_tracker", fmt.Sprintf(format, args...)})
	}
}

// add keeps an item as a file below the tracker's own path, in a folder of its list
// if that has a name.
func (t *tracked) add(line int, list, id, text string) {
	name := path.Join(t.path, fileName(list), fileName(id)+".md")
	switch {
	case oneLine(id) == "" || len(id) > maxKey || t.seen[name]:
		t.warn(line, "An item has no id of its own; it is left out.")
	case len(name) > MaxPath:
		t.warn(line, "The path of the item %s is longer than %d bytes; it is left out.", oneLine(id), MaxPath)
	case len(text) > maxTrackerFile:
		t.warn(line, "The item %s is longer than %d KiB; it is left out.", oneLine(id), maxTrackerFile>>10)
	default:
		t.seen[name] = true
		t.files = append(t.files, Source{name, storable(text)})
	}
}

// fileName makes a part of a path from a text.
func fileName(text string) string {
	text = strings.ReplaceAll(oneLine(text), "/", "-")
	if strings.Trim(text, ".") == "" {
		return strings.ReplaceAll(text, ".", "-")
	}
	return text
}

// item writes an item's Markdown.
type item struct{ strings.Builder }

// begin writes the front matter and the title.
func (m *item) begin(id, title, status, priority string, dependencies []string) {
	refs := make([]string, len(dependencies))
	for i, ref := range dependencies {
		refs[i] = quoted(ref)
	}
	fmt.Fprintf(m, "---\nid: %s\ntitle: %s\nstatus: %s\n", quoted(id), quoted(title), quoted(status))
	if priority != "" {
		fmt.Fprintf(m, "priority: %s\n", quoted(priority))
	}
	fmt.Fprintf(m, "dependencies: [%s]\n---\n\n# %s\n", strings.Join(refs, ", "), oneLine(title))
}

// section writes a heading with a text, if there is one.
func (m *item) section(heading, text string) {
	if text = strings.TrimSpace(strings.ReplaceAll(text, "\r\n", "\n")); text != "" {
		fmt.Fprintf(m, "\n## %s\n\n%s\n", heading, text)
	}
}

// quoted is a text as JSON and YAML write it, on one line.
func quoted(text string) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(oneLine(text)) // a string can be encoded
	return strings.TrimSuffix(b.String(), "\n")
}

// word is a JSON value that some write as a string and some as a number.
type word string

func (w *word) UnmarshalJSON(data []byte) error {
	var text string
	if len(data) > 0 && data[0] == '"' {
		err := json.Unmarshal(data, &text)
		*w = word(text)
		return err
	}
	if string(data) != "null" {
		*w = word(data)
	}
	return nil
}
