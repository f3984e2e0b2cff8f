package specfile

// YAML front matter, as much of it as specs use: scalars, plain, quoted and in
// blocks; lists in brackets and in lines; comments. Names that mean nothing here
// are passed over, whatever they hold.

import (
	"strconv"
	"strings"
	"unicode"
)

// frontMatterEnd returns the offset of the line behind the front matter, or 0
// where there is none: a block between two lines "---" at the start of a file
// whose first line is "name:".
func frontMatterEnd(body string) int {
	first, next := lineAt(body, 0)
	if strings.TrimRight(strings.TrimPrefix(first, byteOrderMark), " \t") != "---" || next >= len(body) {
		return 0
	}
	line, _ := lineAt(body, next)
	if _, _, named := cutName(line); !named {
		return 0
	}
	for next < len(body) {
		line, next = lineAt(body, next)
		if line = strings.TrimRight(line, " \t"); line == "---" || line == "..." {
			return next
		}
	}
	return 0
}

// cutName splits "name: value". A name has no indent; it is letters, digits,
// spaces, "_", "-" and ".".
func cutName(line string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(line, ":")
	odd := func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) && !strings.ContainsRune("_-. ", r)
	}
	if !ok || name == "" || startsWithAny(name, "-. ") || strings.ContainsFunc(name, odd) ||
		value != "" && !startsWithAny(value, " \t") {
		return "", "", false
	}
	return name, value, true
}

// matter is what a front matter says: the values of each field that is known
// here, one except for lists, and the lines that aren't understood.
type matter struct {
	fields map[string][]headerField
	odd    []int
}

func (m matter) first(name string) headerField {
	if values := m.fields[name]; len(values) > 0 {
		return values[0]
	}
	return headerField{}
}

// matterFields are the fields that only a front matter has, beside fieldNames.
var matterFields = map[string]string{
	"title": "title", "name": "title", "labels": "tags", "label": "tags", "tags": "tags", "needs": "dependencies",
}

// matterReader walks the lines of a front matter.
type matterReader struct {
	matter
	body          string
	next, end     int // offsets: of the next line, behind the last
	line          string
	number, start int    // of the line, and its offset
	name          string // of the field that is read, or "" if it means nothing here
	peeked        bool
}

func readMatter(body string) matter {
	r := matterReader{body: body, end: frontMatterEnd(body)}
	if r.end == 0 {
		return r.matter
	}
	r.fields = make(map[string][]headerField)
	r.scan() // the line "---"
	for r.scan() {
		name, value, ok := cutName(r.line)
		switch {
		case ok:
			r.name = matterName(name)
			r.readValue(value)
		case r.name != "" && !isMatterGap(r.line):
			r.odd = append(r.odd, r.number)
		}
	}
	return r.matter
}

// matterName is what a name is called here, or "" if it means nothing.
func matterName(name string) string {
	name = strings.NewReplacer("_", " ", "-", " ").Replace(strings.ToLower(strings.TrimSpace(name)))
	if known := matterFields[name]; known != "" {
		return known
	}
	return fieldNames[name]
}

func isMatterGap(line string) bool {
	text := strings.TrimSpace(line)
	return text == "" || text[0] == '#' || text == "---" || text == "..."
}

func (r *matterReader) scan() bool {
	if r.peeked {
		r.peeked = false
		return true
	}
	if r.next >= r.end {
		return false
	}
	r.start = r.next
	r.line, r.next = lineAt(r.body, r.start)
	r.number++
	return true
}

// unscan makes the next scan return the same line again.
func (r *matterReader) unscan() { r.peeked = true }

// readValue reads a value that begins on this line.
func (r *matterReader) readValue(value string) {
	text := strings.TrimLeft(value, " \t")
	begin := r.start + len(r.line) - len(text)
	switch {
	case text == "" || text[0] == '#':
		r.readLines()
	case text[0] == '|' || text[0] == '>':
		r.readBlock()
	case text[0] == '[' && (!strings.HasPrefix(text, "[[") || strings.HasPrefix(text, "[[[")):
		r.readFlow(text)
	case startsWithAny(text, "{&*!@%`"):
		if r.name != "" {
			r.odd = append(r.odd, r.number)
		}
		r.name = "" // and what belongs to it
	default:
		r.add(text, begin)
	}
}

// add keeps a scalar that stands at an offset, or the line as one that isn't
// understood. A plain one may go on in indented lines.
func (r *matterReader) add(text string, begin int) {
	value, inner, ok := cutScalar(text)
	field := headerField{value: value, line: r.number, start: begin + inner, end: begin + inner + len(value)}
	if ok && !startsWithAny(text, `"'`) {
		lines := []string{value}
		for r.scan() {
			if !startsWithAny(r.line, " \t") || isMatterGap(r.line) || startsWithAny(strings.TrimSpace(r.line), "-") {
				r.unscan()
				break
			}
			more, _, _ := cutScalar(strings.TrimSpace(r.line))
			lines = append(lines, more)
		}
		if len(lines) > 1 {
			field.value, field.start, field.end = strings.Join(lines, " "), 0, 0
		}
	}
	switch {
	case r.name == "":
	case !ok:
		r.odd = append(r.odd, field.line)
	default:
		if field.end > 0 && r.body[field.start:field.end] != field.value { // it has escapes
			field.start, field.end = 0, 0
		}
		r.fields[r.name] = append(r.fields[r.name], field)
	}
}

// readLines reads the lines below a name: a list, or a value that stands there.
func (r *matterReader) readLines() {
	if r.name != "" && r.fields[r.name] == nil {
		r.fields[r.name] = []headerField{}
	}
	for r.scan() {
		text := strings.TrimLeft(r.line, " \t")
		item, listed := cutListMarker(r.line)
		switch {
		case isMatterGap(r.line) || strings.TrimRight(text, " \t") == "-":
		case listed && text[0] == '-':
			r.add(item, r.start+len(r.line)-len(item))
		case len(text) < len(r.line):
			if _, _, nested := cutName(text); nested && r.name != "" {
				r.odd = append(r.odd, r.number)
				r.name = ""
			} else if !nested {
				r.add(text, r.start+len(r.line)-len(text))
			}
		default:
			r.unscan()
			return
		}
	}
}

// readBlock reads the lines below "|" or ">", as one line.
func (r *matterReader) readBlock() {
	field := headerField{line: r.number + 1}
	var words []string
	for r.scan() {
		if r.line != "" && !startsWithAny(r.line, " \t") {
			r.unscan()
			break
		}
		words = append(words, strings.TrimSpace(r.line))
	}
	if field.value = strings.TrimSpace(strings.Join(words, " ")); r.name != "" {
		r.fields[r.name] = append(r.fields[r.name], field)
	}
}

// readFlow reads a list in brackets, which may go on over several lines.
func (r *matterReader) readFlow(text string) {
	name, first := r.name, r.number
	values := []headerField{}
	text = text[1:]
	for {
		if text = strings.TrimLeft(text, " \t,"); text == "" || text[0] == '#' {
			if !r.scan() || r.start >= r.end-len("---") {
				r.unscan()
				break
			}
			text = r.line
			continue
		}
		if text[0] == ']' {
			if name != "" {
				r.fields[name] = append(r.fields[name], values...)
			}
			if name != "" && r.fields[name] == nil {
				r.fields[name] = values
			}
			return
		}
		value, size, ok := cutFlowScalar(text)
		if !ok {
			break
		}
		values = append(values, headerField{value: value, line: r.number})
		text = text[size:]
	}
	if r.name = ""; name != "" {
		r.odd = append(r.odd, first)
	}
}

// cutFlowScalar takes one entry off a list in brackets. Wikilinks are entries,
// though YAML has them for lists of lists.
func cutFlowScalar(text string) (value string, size int, ok bool) {
	switch {
	case text[0] == '"' || text[0] == '\'':
		value, size, ok = cutQuoted(text)
		return value, size, ok
	case strings.HasPrefix(text, "[["):
		size = strings.Index(text, "]]") + 2
		return text[:max(size, 0)], size, size > 1
	case startsWithAny(text, "[{&*!|>"):
		return "", 0, false
	}
	if size = strings.IndexAny(text, ",]"); size < 0 {
		size = len(text)
	}
	return strings.TrimSpace(text[:size]), size, true
}

// cutScalar reads a scalar that fills a line except for a comment. inner is where
// in the text its value begins.
func cutScalar(text string) (value string, inner int, ok bool) {
	if startsWithAny(text, `"'`) {
		value, size, ok := cutQuoted(text)
		rest := strings.TrimLeft(text[size:], " \t")
		return value, 1, ok && (rest == "" || rest[0] == '#')
	}
	if at := strings.Index(text, " #"); at >= 0 {
		text = text[:at]
	}
	return strings.TrimSpace(text), 0, true
}

// cutQuoted reads a scalar in quotes, and returns how many bytes it takes with them.
func cutQuoted(text string) (value string, size int, ok bool) {
	quote := text[0]
	for size = 1; size < len(text); size++ {
		switch {
		case quote == '"' && text[size] == '\\':
			size++
		case text[size] != quote:
		case quote == '\'' && strings.HasPrefix(text[size+1:], "'"):
			size++
		case quote == '\'':
			return strings.ReplaceAll(text[1:size], "''", "'"), size + 1, true
		default:
			value, err := strconv.Unquote(strings.ReplaceAll(text[:size+1], `\/`, "/"))
			if err != nil { // an escape that only YAML has
				value = text[1:size]
			}
			return storable(value), size + 1, true
		}
	}
	return "", len(text), false
}
