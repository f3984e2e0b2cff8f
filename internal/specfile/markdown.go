package specfile

// As much of Markdown as the format needs: lines, fenced code, headings,
// checkboxes, and the fields of a header. One pass, no backtracking.

import "strings"

// scanner walks a body line by line, like bufio.Scanner. After each scan
// the fields describe the line; when scan returns false, openFence is the line
// of a fence that is never closed, or 0.
type scanner struct {
	body string
	next int // offset of the next line

	number    int    // of the line, from 1
	start     int    // offset of text in the body
	text      string // without the line's end, and without a byte order mark
	code      bool   // the line is fenced code, or a fence
	level     int    // 1 to 6 for a heading
	heading   string // its text
	criteria  bool   // the line is under an "Acceptance Criteria" heading
	openFence int    // line of the fence that is open

	fence         string // the characters that opened the fence
	criteriaLevel int    // level of the "Acceptance Criteria" heading, or 0
}

func newScanner(body string) *scanner { return &scanner{body: body} }

func (s *scanner) scan() bool {
	if s.next >= len(s.body) {
		return false
	}
	s.start = s.next
	if end := strings.IndexByte(s.body[s.start:], '\n'); end >= 0 {
		s.next += end + 1
	} else {
		s.next = len(s.body)
	}
	s.number++
	s.text = strings.TrimRight(s.body[s.start:s.next], "\r\n")
	if s.number == 1 && strings.HasPrefix(s.text, "\ufeff") {
		s.start += len("\ufeff")
		s.text = s.text[len("\ufeff"):]
	}
	s.level, s.heading = 0, ""
	if s.code = s.scanFence(); !s.code {
		s.scanHeading()
	}
	s.criteria = s.criteriaLevel > 0
	return true
}

// scanFence follows CommonMark: a fence is at least three backticks or tildes,
// indented by at most three spaces; it ends at one of the same character that
// is at least as long and has nothing behind it, or at the end of the file.
func (s *scanner) scanFence() (code bool) {
	text, ok := cutIndent(s.text)
	run := fenceRun(text)
	if s.openFence == 0 {
		if !ok || run < 3 || text[0] == '`' && strings.Contains(text[run:], "`") {
			return false
		}
		s.openFence, s.fence = s.number, text[:run]
		return true
	}
	if ok && run >= len(s.fence) && text[0] == s.fence[0] && strings.Trim(text[run:], " \t") == "" {
		s.openFence = 0
	}
	return true
}

func fenceRun(text string) int {
	if text == "" || text[0] != '`' && text[0] != '~' {
		return 0
	}
	return len(text) - len(strings.TrimLeft(text, text[:1]))
}

// scanHeading takes "## Title" and "## Title ##".
func (s *scanner) scanHeading() {
	text, ok := cutIndent(s.text)
	title := strings.TrimLeft(text, "#")
	level := len(text) - len(title)
	if !ok || level == 0 || level > 6 || title != "" && title[0] != ' ' && title[0] != '\t' {
		return
	}
	title = strings.TrimSpace(title)
	bare := strings.TrimRight(title, "#")
	if bare == "" || strings.HasSuffix(bare, " ") || strings.HasSuffix(bare, "\t") {
		title = strings.TrimSpace(bare)
	}
	s.level, s.heading = level, title
	switch {
	case strings.EqualFold(strings.Trim(title, "*_: "), "acceptance criteria"):
		if s.criteriaLevel == 0 || level < s.criteriaLevel {
			s.criteriaLevel = level
		}
	case level <= s.criteriaLevel:
		s.criteriaLevel = 0
	}
}

// cutIndent takes off up to three spaces. With more, a line is neither a fence
// nor a heading.
func cutIndent(line string) (text string, ok bool) {
	text = strings.TrimLeft(line, " ")
	return text, len(line)-len(text) <= 3
}

// checkbox is an item of a task list.
type checkbox struct {
	mark int // offset in the body of the character between the brackets
	done bool
	text string
}

// criterion returns the line's checkbox if it is an acceptance criterion.
func (s *scanner) criterion() (checkbox, bool) {
	if !s.criteria || s.code || s.level > 0 {
		return checkbox{}, false
	}
	return s.checkbox()
}

// checkbox reads "- [ ] text": any list marker, any indent, and a text, without
// which it is no task.
func (s *scanner) checkbox() (checkbox, bool) {
	item, ok := cutListMarker(s.text)
	if s.code || !ok || len(item) < 4 || item[0] != '[' || item[2] != ']' || item[3] != ' ' && item[3] != '\t' {
		return checkbox{}, false
	}
	text := strings.TrimSpace(item[3:])
	if text == "" || !strings.Contains(" xX", item[1:2]) {
		return checkbox{}, false
	}
	// item is a suffix of the line, which ends where text does.
	mark := s.start + len(s.text) - len(item) + 1
	return checkbox{mark, item[1] != ' ', text}, true
}

// cutListMarker takes off an indent and "-", "*", "+", "1." or "1)" with the
// spaces behind it. The item is a suffix of the line.
func cutListMarker(line string) (item string, ok bool) {
	text := strings.TrimLeft(line, " \t")
	rest := strings.TrimLeft(text, "0123456789")
	digits, ends := len(text)-len(rest), "-*+"
	if digits > 0 {
		ends = ".)"
	}
	if digits > 9 || !startsWithAny(rest, ends) {
		return text, false
	}
	if item = strings.TrimLeft(rest[1:], " \t"); len(item) == len(rest)-1 {
		return text, false
	}
	return item, true
}

func startsWithAny(text, chars string) bool {
	return text != "" && strings.IndexByte(chars, text[0]) >= 0
}

// header is what a file says about itself before it comes to the point.
type header struct {
	title        string
	titleLine    int
	style        string                 // of the first field
	fields       map[string]headerField // by canonical name; the first of each
	dependencies []headerField          // one for each line that lists some
	openFence    int
}

// headerField is a field's value and where it stands.
type headerField struct {
	value      string
	line       int
	start, end int // of the value, in the body
}

// fieldNames are the fields that are read, and what each is called here.
var fieldNames = map[string]string{
	"phase":             "phase",
	"spec id":           "spec id",
	"id":                "spec id",
	"status":            "status",
	"priority":          "priority",
	"dependencies":      "dependencies",
	"dependency":        "dependencies",
	"depends on":        "dependencies",
	"estimated context": "estimated context",
}

// readHeader finds the fields: as bold lines or bold list items between the
// title and the first section or under "## Metadata" and "## Header", and as
// "##" sections of their own wherever they stand.
func readHeader(body string) header {
	h := headerReader{header: header{fields: make(map[string]headerField)}, zone: zoneHeader}
	s := newScanner(body)
	for s.scan() {
		switch {
		case s.code || s.criteria && s.level == 0:
			h.listing = false
		case s.level > 0:
			h.readHeading(s)
		case h.zone == zoneHeader:
			h.readLine(s)
		case h.zone != "":
			h.readSection(s)
		}
	}
	h.openFence = s.openFence
	return h.header
}

const zoneHeader = "header"

// headerReader gathers a header. zone says what lines are now: zoneHeader, the
// name of the field whose section this is, or "" for text.
type headerReader struct {
	header
	zone    string
	listing bool // the list items that follow are dependencies
}

func (h *headerReader) readHeading(s *scanner) {
	h.zone, h.listing = "", false
	switch {
	case s.level == 1:
		if h.titleLine == 0 {
			h.title, h.titleLine, h.zone = s.heading, s.number, zoneHeader
		}
	case s.level == 2:
		name := strings.ToLower(strings.Trim(s.heading, "*_: "))
		if name == "metadata" || name == "header" {
			h.zone = zoneHeader
		} else if !h.has(fieldNames[name]) {
			h.zone = fieldNames[name]
		}
	}
}

// readLine reads "**Status:** Planned" or "- **Status**: Planned", or an item
// of the list below "**Dependencies:**".
func (h *headerReader) readLine(s *scanner) {
	item, listed := cutListMarker(s.text)
	name, value, ok := cutBoldKey(item)
	if !ok {
		h.listing = h.listing && (listed || strings.TrimSpace(item) == "")
		if h.listing && listed {
			h.add(s, "dependencies", item, "")
		}
		return
	}
	style := StyleBold
	if listed {
		style = StyleList
	}
	h.listing = false
	if name = fieldNames[name]; name != "" && !h.has(name) {
		h.add(s, name, value, style)
		h.listing = name == "dependencies" && strings.TrimSpace(value) == ""
	}
}

// readSection reads a line below "## Status": the first is the value, and each
// is one of the dependencies.
func (h *headerReader) readSection(s *scanner) {
	value, _ := cutListMarker(s.text)
	if rule := strings.Trim(value, "-*_ \t"); rule == "" {
		return
	}
	h.add(s, h.zone, value, StyleSections)
	if h.zone != "dependencies" {
		h.zone = ""
	}
}

func (h *headerReader) has(name string) bool {
	_, ok := h.fields[name]
	return ok
}

// add keeps a field. The value is a suffix of the line.
func (h *headerReader) add(s *scanner, name, value, style string) {
	end := s.start + len(s.text)
	field := headerField{value: strings.TrimSpace(value), line: s.number, start: end - len(value)}
	if field.value != "" {
		field.start += strings.Index(value, field.value)
	}
	field.end = field.start + len(field.value)
	if !h.has(name) {
		h.fields[name] = field
	}
	if name == "dependencies" {
		h.dependencies = append(h.dependencies, field)
	}
	if h.style == "" {
		h.style = style
	}
}

// cutBoldKey splits "**Status:** Planned" and "**Status**: Planned".
func cutBoldKey(text string) (key, value string, ok bool) {
	rest, bold := strings.CutPrefix(text, "**")
	key, value, closed := strings.Cut(rest, "**")
	if !bold || !closed {
		return "", "", false
	}
	bare, inside := strings.CutSuffix(key, ":")
	if !inside {
		value, inside = strings.CutPrefix(value, ":")
	}
	return strings.ToLower(strings.TrimSpace(bare)), value, inside
}
