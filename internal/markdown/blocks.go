package markdown

// Blocks: what whole lines are. Each block takes the lines that belong to it; those
// of a quote or an item, without its mark, are a text of their own.

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth is how deep quotes and lists are nested at most.
const maxDepth = 12

// blocks writes the blocks that lines are. Each takes at least one of them.
func (w *writer) blocks(lines []string, depth int) {
	for len(lines) > 0 {
		lines = lines[w.block(lines, depth):]
	}
}

// block writes the first block of lines and returns how many it takes.
func (w *writer) block(lines []string, depth int) int {
	line := lines[0]
	if line == "" {
		return 1
	}
	if indentOf(line) >= 4 {
		return w.indentedCode(lines)
	}
	if f, ok := fenceOf(line); ok {
		return w.fencedCode(lines, f)
	}
	if level, title := headingOf(line); level > 0 {
		w.heading(level, title)
		return 1
	}
	if isRule(line) {
		w.tag("<hr>\n")
		return 1
	}
	if depth < maxDepth {
		if _, ok := cutQuote(line); ok {
			return w.quote(lines, depth)
		}
		if m, ok := itemOf(line); ok {
			return w.list(lines, m, depth)
		}
	}
	if isTable(lines) {
		return w.table(lines)
	}
	n, level := paragraph(lines)
	if level > 0 {
		w.heading(level, line)
		return n
	}
	w.tag("<p>")
	w.inline(strings.Join(lines[:n], "\n"))
	w.tag("</p>\n")
	return n
}

// indentedCode takes the lines that are indented by four spaces, and blank ones
// between them.
func (w *writer) indentedCode(lines []string) int {
	n := slices.IndexFunc(lines, func(line string) bool { return line != "" && indentOf(line) < 4 })
	if n < 0 {
		n = len(lines)
	}
	for lines[n-1] == "" {
		n--
	}
	inside := make([]string, n)
	for i, line := range lines[:n] {
		inside[i] = line[min(4, len(line)):]
	}
	w.pre(preTag, inside)
	return n
}

// fence opens fenced code: its mark, such as ``` or ~~~~, and its indent.
type fence struct {
	mark   string
	indent int
}

func fenceOf(line string) (f fence, ok bool) {
	text := strings.TrimLeft(line, " ")
	if text == "" || text[0] != '`' && text[0] != '~' {
		return f, false
	}
	f.indent = len(line) - len(text)
	f.mark = text[:len(text)-len(strings.TrimLeft(text, text[:1]))]
	return f, len(f.mark) >= 3 && f.indent < 4 && (text[0] == '~' || strings.IndexByte(text[len(f.mark):], '`') < 0)
}

// closes reports whether a line closes the code that f opens.
func (f fence) closes(line string) bool {
	text := strings.TrimRight(strings.TrimLeft(line, " "), " \t")
	return len(text) >= len(f.mark) && strings.Trim(text, f.mark[:1]) == ""
}

// fencedCode takes the lines up to the one that closes the code, or all.
func (w *writer) fencedCode(lines []string, f fence) int {
	n, inside := 1, []string(nil)
	for ; n < len(lines) && !f.closes(lines[n]); n++ {
		inside = append(inside, lines[n][min(f.indent, indentOf(lines[n])):])
	}
	w.pre(preTag, inside)
	return min(n+1, len(lines))
}

// headingOf reads "## Title" and "## Title ##". What is none, or has no title, has the
// level 0.
func headingOf(line string) (level int, title string) {
	text := strings.TrimLeft(line, " ")
	title = strings.TrimLeft(text, "#")
	level = len(text) - len(title)
	if len(line)-len(text) > 3 || level > 6 || title != "" && title[0] != ' ' && title[0] != '\t' {
		return 0, ""
	}
	title = strings.TrimSpace(title)
	if bare := strings.TrimRight(title, "#"); bare == "" || strings.HasSuffix(bare, " ") {
		title = strings.TrimSpace(bare)
	}
	if title == "" {
		return 0, ""
	}
	return level, title
}

// isRule reports whether a line is a thematic break, such as "---" or "* * *".
func isRule(line string) bool {
	marks, text := 0, strings.TrimLeft(line, " ")
	if len(line)-len(text) > 3 {
		return false
	}
	for i := range len(text) {
		switch text[i] {
		case ' ', '\t':
		case '-', '*', '_':
			if text[i] != text[0] {
				return false
			}
			marks++
		default:
			return false
		}
	}
	return marks >= 3
}

// quote takes the lines of a quote.
func (w *writer) quote(lines []string, depth int) int {
	var inside textLines
	n := 0
	for ; n < len(lines); n++ {
		if text, ok := cutQuote(lines[n]); ok {
			inside.add(text)
		} else if !inside.addLazy(lines[n]) {
			break
		}
	}
	w.tag("<blockquote>\n")
	w.blocks(inside.lines, depth+1)
	w.tag("</blockquote>\n")
	return n
}

// cutQuote takes off the mark of a quote.
func cutQuote(line string) (text string, ok bool) {
	text = strings.TrimLeft(line, " ")
	if len(line)-len(text) > 3 || text == "" || text[0] != '>' {
		return "", false
	}
	return expand(strings.TrimPrefix(text[1:], " ")), true
}

// textLines are the lines within a quote or an item.
type textLines struct {
	lines []string
	fence fence // of the code that the next line is in, if its mark isn't ""
	open  bool  // the last line is text that the next one can go on
}

func (t *textLines) add(line string) {
	t.lines = append(t.lines, line)
	text := strings.TrimLeft(line, " ")
	f, fenced := fenceOf(text)
	switch {
	case t.fence.mark == "" && fenced:
		t.fence = f
	case t.fence.mark != "" && t.fence.closes(text):
		t.fence = fence{}
	default:
		level, _ := headingOf(text)
		t.open = t.fence.mark == "" && line != "" && level == 0 && !isRule(text)
		return
	}
	t.open = false
}

// addLazy adds a line that goes on with a paragraph without the mark or the indent
// of the lines before it, and reports whether it does.
func (t *textLines) addLazy(line string) bool {
	if _, isItem := itemOf(line); !t.open || line == "" || isItem || interrupts(line) {
		return false
	}
	t.lines = append(t.lines, strings.TrimLeft(line, " "))
	return true
}

// item is the mark of a list item: "-", "*", "+", "1." or "1)".
type item struct {
	kind   byte // its last character
	number string
	width  int    // columns up to the text, which the lines below are indented by
	text   string // behind the mark
}

func itemOf(line string) (m item, ok bool) {
	text := strings.TrimLeft(line, " ")
	indent, digits := len(line)-len(text), 0
	for digits < len(text) && digits < 10 && text[digits] >= '0' && text[digits] <= '9' {
		digits++
	}
	ends := "-*+"
	if digits > 0 {
		ends = ".)"
	}
	if indent > 3 || digits > 9 || digits == len(text) || strings.IndexByte(ends, text[digits]) < 0 {
		return m, false
	}
	m = item{kind: text[digits], number: text[:digits], width: indent + digits + 1}
	rest := text[digits+1:]
	if rest != "" && rest[0] != ' ' && rest[0] != '\t' {
		return m, false
	}
	m.text = expand(rest)
	if gap := indentOf(m.text); gap <= 4 && m.text != "" {
		m.width, m.text = m.width+gap, m.text[gap:]
	} else {
		m.width, m.text = m.width+1, m.text[min(1, gap):] // indented code, or nothing
	}
	return m, true
}

// list takes the items of a list, and what is in them.
func (w *writer) list(lines []string, first item, depth int) (n int) {
	end := tag("</ul>\n")
	if first.number == "" {
		w.tag("<ul>\n")
	} else {
		end = "</ol>\n"
		start, _ := strconv.Atoi(first.number) // it has at most nine digits
		w.tag(tag(`<ol start="` + strconv.Itoa(start) + `">` + "\n"))
	}
	for m, ok := first, true; ok && m.kind == first.kind; {
		inside := textLines{}
		inside.add(m.text)
		for n++; n < len(lines); n++ {
			if line := lines[n]; line == "" || indentOf(line) >= m.width {
				inside.add(line[min(m.width, len(line)):])
			} else if !inside.addLazy(line) {
				break
			}
		}
		w.item(inside.lines, depth+1)
		if ok = n < len(lines) && !isRule(lines[n]); ok {
			m, ok = itemOf(lines[n])
		}
	}
	w.tag(end)
	return n
}

// item writes an item. Its first paragraph stands in it as it is; if it has a box,
// it is the box's label.
func (w *writer) item(lines []string, depth int) {
	box, text := cutBox(lines[0])
	if box == "" {
		w.tag("<li>")
	} else {
		w.tag(`<li class="task"><label>`)
		w.tag(box)
		lines[0] = text
	}
	for len(lines) > 1 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	if n, level := paragraph(lines); box != "" || level == 0 && lines[0] != "" && !interrupts(lines[0]) &&
		indentOf(lines[0]) < 4 && !isTable(lines) {
		n = max(1, n-min(level, 1)) // what underlines a task is no part of it
		w.inline(strings.Join(lines[:n], "\n"))
		lines = lines[n:]
	}
	if box != "" {
		w.tag("</label>")
	}
	if len(lines) > 0 {
		w.tag("\n")
		w.blocks(lines, depth)
	}
	w.tag("</li>\n")
}

// cutBox takes the box off a task: "[ ] text" or "[x] text", perhaps with an asterisk
// behind the box. Boxes with other marks are text, since it isn't clear what they say.
func cutBox(line string) (box tag, text string) {
	rest, found := strings.CutPrefix(line, "[")
	if !found {
		return "", line
	}
	mark, rest, _ := strings.Cut(rest, "]")
	text = strings.TrimLeft(strings.TrimPrefix(rest, "*"), " \t")
	if text == "" || text == rest {
		return "", line
	}
	switch strings.ToLower(mark) {
	case "", " ":
		return boxTag, text
	case "x":
		return checkedTag, text
	}
	return "", line
}

// isTable reports whether lines begin with a table: a row, and a row of dashes.
func isTable(lines []string) bool {
	return len(lines) > 1 && strings.IndexByte(lines[0], '|') >= 0 && strings.IndexByte(lines[1], '|') >= 0 &&
		strings.Contains(lines[1], "-") && strings.Trim(lines[1], "|-: \t") == ""
}

// table takes the rows of a table.
func (w *writer) table(lines []string) int {
	n := 2
	for n < len(lines) && lines[n] != "" && !interrupts(lines[n]) {
		n++
	}
	w.pre(tableTag, lines[:n])
	return n
}

// paragraph returns how many lines a paragraph at the start of lines takes, of which
// there is at least one. If its only line is underlined, which makes a heading of it,
// level isn't 0.
func paragraph(lines []string) (n, level int) {
	for n = 1; n < len(lines) && lines[n] != ""; n++ {
		if level = underline(lines[n]); level > 0 && n == 1 {
			return 2, level
		}
		if interrupts(lines[n]) || isTable(lines[n:]) {
			break
		}
	}
	return n, 0
}

// underline is the level of the heading that a line makes of the one above, or 0.
func underline(line string) int {
	text := strings.TrimRight(strings.TrimLeft(line, " "), " \t")
	switch {
	case len(line) == 0 || indentOf(line) > 3 || len(text) < 2 && text != "=":
		return 0
	case strings.Trim(text, "=") == "":
		return 1
	case strings.Trim(text, "-") == "":
		return 2
	}
	return 0
}

// interrupts reports whether a line begins a block even right below a paragraph: a
// list does if it has a text and begins with 1.
func interrupts(line string) bool {
	if _, ok := fenceOf(line); ok || isRule(line) {
		return true
	}
	if level, _ := headingOf(line); level > 0 {
		return true
	}
	if _, ok := cutQuote(line); ok {
		return true
	}
	m, ok := itemOf(line)
	return ok && m.text != "" && (m.number == "" || m.number == "1")
}

func indentOf(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// runesAround are the characters before and behind a stretch of a text, or spaces at
// its ends.
func runesAround(text string, start, end int) (before, behind rune) {
	before, behind = ' ', ' '
	if start > 0 {
		before, _ = utf8.DecodeLastRuneInString(text[:start])
	}
	if end < len(text) {
		behind, _ = utf8.DecodeRuneInString(text[end:])
	}
	return before, behind
}
