package specfile

// The fields of a file: what it says about itself in its front matter, before its
// first section, and in sections of their own.

import (
	"slices"
	"strings"
)

// header is what a file says about itself.
type header struct {
	title        string
	titleLine    int
	style        string                 // of the first field
	fields       map[string]headerField // by canonical name; the first of each
	dependencies []headerField          // one for each line that lists some
	tags         []string
	passed       []passedLine // what looks like a field but isn't used
	oddMatter    []int        // lines of the front matter that aren't understood

	openFence, openComment int // the line of one that is never closed, or 0
}

// headerField is a field's value and where it stands.
type headerField struct {
	value      string
	more       []string // the lines that it goes on in, of which there can be many
	line       int
	start, end int // of the value, in the body; both 0 if it can't be rewritten
}

// whole is the value with the lines that it goes on in.
func (f headerField) whole() string {
	return strings.Join(append([]string{f.value}, f.more...), " ")
}

func (f headerField) lastLine() string {
	if n := len(f.more); n > 0 {
		return f.more[n-1]
	}
	return f.value
}

// passedLine is a line that names a field where none is read.
type passedLine struct {
	name string
	line int
}

// readHeader finds the fields: in the front matter; as lines, list items and
// table rows before the first section or under "## Metadata" and "## Header"; and
// as sections of their own wherever they stand. In the front matter dependencies
// are complete: sections of that name are passed over then.
func readHeader(body string) header {
	h := newHeaderReader(body)
	s := newScanner(body)
	for s.scan() {
		h.read(s)
	}
	return h.header
}

// readWhole reads the fields and the criteria in one pass.
func readWhole(body string, rules Rules) (h header, found []*foundCriterion, odd []int) {
	fields, criteria := newHeaderReader(body), criteriaReader{scanner: newScanner(body)}
	for criteria.scan() {
		fields.read(criteria.scanner)
		criteria.readLine()
	}
	fields.openFence, fields.openComment = criteria.openFence, criteria.openComment
	found, odd = criteria.criteria(rules)
	return fields.header, found, odd
}

const zoneHeader = "header"

// headerReader gathers a header. zone says what lines are now: zoneHeader, the
// name of the field whose section this is, or "" for text.
type headerReader struct {
	header
	zone       string
	zoneLevel  int  // of the heading of a section
	acceptance int  // the level of the heading whose lines are criteria, or 0
	complete   bool // the front matter has the dependencies

	listing   bool     // what follows can be part of the dependencies above
	empty     string   // the field above, while it has no value
	indent    int      // of the dependencies above
	mute      bool     // what follows in a section lists other things
	columns   []string // of a table whose first row has the names of fields
	tableLine int      // the last one of a table of dependencies
}

func newHeaderReader(body string) *headerReader {
	h := &headerReader{header: header{fields: make(map[string]headerField)}, zone: zoneHeader}
	h.readMatter(readMatter(body))
	return h
}

// read takes a line.
func (h *headerReader) read(s *scanner) {
	switch {
	case s.hidden:
		h.endList()
	case s.level > 0 && s.level < boldLevel:
		h.readHeading(s)
	case h.acceptance > 0:
		h.endList()
	case h.zone == zoneHeader:
		h.readLine(s)
	case h.zone != "":
		h.readSection(s)
	default:
		h.passOver(s)
	}
}

func (h *headerReader) endList() { h.listing, h.empty, h.columns = false, "", nil }

func (h *headerReader) readMatter(m matter) {
	h.oddMatter = m.odd
	for _, name := range []string{"title", "status", "review", "priority", "phase", "spec id", "estimated context"} {
		if field := m.first(name); field.value != "" {
			h.fields[name] = field
			h.style = StyleMatter
		}
	}
	_, h.complete = m.fields["dependencies"]
	for _, field := range m.fields["dependencies"] {
		h.dependencies = append(h.dependencies, field)
		h.style = StyleMatter
	}
	for _, field := range m.fields["tags"] {
		h.tags = append(h.tags, field.value)
	}
}

func (h *headerReader) readHeading(s *scanner) {
	h.endList()
	was := h.zone
	if h.zone == "dependencies" && s.level > h.zoneLevel {
		h.mute = isDependent(s.heading)
		return
	}
	h.zone, h.mute = "", false
	if h.acceptance > 0 && s.level > h.acceptance {
		return
	}
	if h.acceptance = 0; s.section == acceptance {
		h.acceptance = s.level
	}
	name, value := cutFieldHeading(s.heading)
	switch {
	case s.level == 1 && h.titleLine == 0:
		h.title, h.titleLine, h.zone = s.heading, s.number, zoneHeader
	case name == "":
		if words := strings.Join(headingWords(s.heading), " "); words == "metadata" || words == "header" {
			h.zone = zoneHeader
		}
	case name == "dependencies" && h.complete:
	case name == "dependencies" || !h.has(name) && (s.level == 2 || was == zoneHeader):
		h.zone, h.zoneLevel = name, s.level
		if value != "" {
			h.add(s, name, value, StyleSections)
			if name != "dependencies" {
				h.zone = ""
			}
		}
	case !h.has(name):
		h.passed = append(h.passed, passedLine{name, s.number})
	}
}

// cutFieldHeading reads "Status" and "Status: Done". What stands in parentheses
// doesn't matter, unless it names a file, as in "Dependencies (Cargo.toml)". A
// section "Review" says something else.
func cutFieldHeading(heading string) (name, value string) {
	if label, inside, ok := strings.Cut(strings.TrimSuffix(heading, ")"), "("); ok && !strings.Contains(label, ":") {
		if strings.Contains(inside, ".") {
			return "", ""
		}
		heading = label
	}
	label, value, _ := cutColon(heading)
	if name = fieldNames[strings.Join(headingWords(label), " ")]; name == "review" {
		return "", ""
	}
	return name, strings.TrimSpace(value)
}

// cutColon splits a text at the first colon, of either width.
func cutColon(text string) (before, after string, ok bool) {
	at := strings.Index(text, ":")
	if wide := strings.Index(text, "："); wide >= 0 && (at < 0 || wide < at) {
		return text[:wide], text[wide+len("："):], true
	}
	if at < 0 {
		return text, "", false
	}
	return text[:at], text[at+1:], true
}

// cutField splits "**Status:** Planned", "**Status**: Planned" and "Status: Planned".
// The name is in lower case, without emphasis; bold says that the text begins with
// such a name in bold.
func cutField(text string) (name, value string, ok bool) {
	text = strings.TrimLeft(text, "> \t")
	label, value, ok := cutColon(text)
	if !ok || len(label) > maxLabel {
		return "", "", false
	}
	for _, mark := range []string{"**", "__", "*", "_", "`"} {
		inner, marked := strings.CutPrefix(strings.TrimSpace(label), mark)
		if !marked {
			continue
		}
		if closed, ok := strings.CutSuffix(inner, mark); ok {
			label = closed
		} else if rest, ok := strings.CutPrefix(value, mark); ok {
			label, value = inner, rest
		}
		break
	}
	return strings.Join(wordsOf(label), " "), value, true
}

const maxLabel = 80 // bytes of a field's name, with what marks it

// readLine reads a line of the header: a field, or what continues the one above.
func (h *headerReader) readLine(s *scanner) {
	text := strings.TrimLeft(s.text, "> \t")
	if strings.HasPrefix(text, "|") {
		h.readRow(s, text)
		return
	}
	item, listed := cutListMarker(text)
	name, _, ok := cutField(item)
	switch {
	case ok && fieldNames[name] != "" || strings.Contains(item, " | **"):
		h.endList()
		h.readFields(s, item, listed)
	case s.blank:
		h.listing = h.listing && h.empty != ""
	case sentence(item) != "":
		h.endList()
		h.add(s, "dependencies", sentence(item), StylePlain)
	case ok && (strings.HasPrefix(item, "**") || slices.Contains(dependentNames, name)):
		h.endList() // a field that means nothing here
	case h.listing:
		h.goOn(s, item, listed)
	case h.empty != "" && !listed:
		h.add(s, h.empty, item, "")
		h.endList()
	default:
		h.endList()
	}
}

// sentence is what follows "Depends on" or "Blocked by" without a colon, if that is
// a reference: "Depends on #12".
func sentence(item string) string {
	for _, words := range []string{"depends on ", "blocked by "} {
		if rest, ok := cutFold(item, words); ok && startsReference(rest) {
			return rest
		}
	}
	return ""
}

// withoutLabel takes a label off an item that has a reference behind it, as in
// "Internal: 001-soil".
func withoutLabel(item string) string {
	name, value, ok := cutField(item)
	if ok && !strings.ContainsFunc(name, isDigit) && startsReference(value) {
		return value
	}
	return item
}

// readFields reads the field of a line, or several with " | " between them.
func (h *headerReader) readFields(s *scanner, item string, listed bool) {
	style := StylePlain
	if listed {
		style = StyleList
	} else if strings.HasPrefix(item, "**") {
		style = StyleBold
	}
	end := s.start + len(s.text)
	for part := range strings.SplitSeq(item, " | ") {
		name, value, ok := cutField(part)
		start := end - len(item) + len(part) - len(value)
		item = strings.TrimPrefix(item[len(part):], " | ")
		if name = fieldNames[name]; !ok || name == "" || name != "dependencies" && h.has(name) {
			continue
		}
		h.addAt(s, name, value, start, style)
		if h.empty = ""; strings.TrimSpace(value) == "" {
			h.empty = name
		}
		h.listing = name == "dependencies" && !saysNone(value) || name == "dependencies" && h.empty != ""
		h.indent = indentOf(s.text)
	}
}

// goOn reads what follows a field of dependencies: its items, if they come at
// once or are the only value, and the rest of a wrapped line.
func (h *headerReader) goOn(s *scanner, item string, listed bool) {
	last := ""
	if n := len(h.dependencies); n > 0 {
		last = h.dependencies[n-1].lastLine()
	}
	switch {
	case listed || startsReference(item):
		h.add(s, "dependencies", withoutLabel(item), "")
	case h.empty != "" && last == "":
		h.add(s, "dependencies", item, "")
	case indentOf(s.text) > h.indent || strings.HasSuffix(last, ",") || strings.HasSuffix(last, ";"):
		h.joinLast(item)
	default:
		h.endList()
	}
}

func (h *headerReader) joinLast(text string) {
	last := &h.dependencies[len(h.dependencies)-1]
	last.more = append(last.more, strings.TrimSpace(text))
}

// readRow reads "| Status | Done |", or a table with the names in its first row.
func (h *headerReader) readRow(s *scanner, text string) {
	h.listing, h.empty = false, ""
	if strings.Trim(text, "|-: \t") == "" {
		return
	}
	cells := strings.Split(strings.TrimRight(text, " \t"), "|")
	at := s.start + len(s.text) - len(text)
	names := h.columns
	for i, cell := range cells {
		name := fieldNames[strings.Join(wordsOf(cell), " ")]
		if h.columns == nil {
			names = append(names, name)
		} else if i < len(names) && names[i] != "" && !h.has(names[i]) {
			h.addAt(s, names[i], cell, at, StyleTable)
		}
		at += len(cell) + 1
	}
	if h.columns != nil || len(names) < 3 || names[1] == "" {
		h.columns = nil
		return
	}
	if h.columns = names; names[2] != "" {
		return
	}
	h.columns = nil
	if name := names[1]; name == "dependencies" || !h.has(name) {
		h.addAt(s, name, cells[2], s.start+len(s.text)-len(text)+len(cells[0])+len(cells[1])+2, StyleTable)
	}
}

// readSection reads a line below "## Status": the first is the value, and each
// is one of the dependencies.
func (h *headerReader) readSection(s *scanner) {
	item, listed := cutListMarker(strings.TrimLeft(s.text, "> "))
	if rule := strings.Trim(item, "-*_ \t"); rule == "" {
		h.listing = false
		return
	}
	name, value, ok := cutField(item)
	if h.zone != "dependencies" {
		if ok && fieldNames[name] == h.zone {
			item = value
		}
		h.add(s, h.zone, item, StyleSections)
		h.zone = ""
		return
	}
	if ok && (fieldNames[name] == "dependencies" || isDependent(name)) {
		h.mute = isDependent(name)
		if item = value; strings.TrimSpace(value) == "" {
			return
		}
		listed = true
	}
	switch {
	case h.mute:
		h.mute = !ok || strings.TrimSpace(value) == ""
	case strings.HasPrefix(item, "|"):
		h.readReferenceRow(s, item)
	case listed || !h.listing || startsReference(item):
		h.add(s, "dependencies", withoutLabel(item), StyleSections)
		h.listing = true
	default:
		h.joinLast(item)
	}
}

// readReferenceRow takes the first cell of each row of a table but its first.
func (h *headerReader) readReferenceRow(s *scanner, text string) {
	first := h.tableLine != s.number-1
	h.tableLine, h.listing = s.number, false
	if first || strings.Trim(text, "|-: \t") == "" {
		return
	}
	cell, _, _ := strings.Cut(text[1:], "|")
	h.add(s, "dependencies", cell, StyleSections)
}

// passOver notes a line of the text that names a field in bold.
func (h *headerReader) passOver(s *scanner) {
	if !strings.HasPrefix(s.item, "**") {
		return
	}
	name, value, ok := cutField(s.item)
	counts := []string{"status", "priority", "dependencies"}
	if name = fieldNames[name]; ok && strings.TrimSpace(value) != "" && slices.Contains(counts, name) {
		h.passed = append(h.passed, passedLine{name, s.number})
	}
}

func isDependent(heading string) bool {
	return slices.Contains(dependentNames, strings.Join(headingWords(heading), " "))
}

func (h *headerReader) has(name string) bool {
	_, ok := h.fields[name]
	return ok
}

// add keeps a field whose value is a suffix of the line.
func (h *headerReader) add(s *scanner, name, value, style string) {
	h.addAt(s, name, value, s.start+len(s.text)-len(value), style)
}

// addAt keeps a field whose value stands at an offset. Spaces and what marks a
// word as code aren't part of it.
func (h *headerReader) addAt(s *scanner, name, value string, start int, style string) {
	marks := " \t`"
	if name == "dependencies" {
		marks = " \t"
	}
	trimmed := strings.TrimLeft(value, marks)
	if trimmed != "" {
		start += len(value) - len(trimmed)
		trimmed = strings.TrimRight(trimmed, marks)
	}
	field := headerField{value: trimmed, line: s.number, start: start, end: start + len(trimmed)}
	if old, ok := h.fields[name]; !ok || old.value == "" {
		h.fields[name] = field
	}
	if name == "dependencies" {
		h.dependencies = append(h.dependencies, field)
	}
	if h.style == "" {
		h.style = style
	}
}
