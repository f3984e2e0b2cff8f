package specfile

// As much of Markdown as the format needs: lines, front matter, comments, fenced
// code, headings, list items and checkboxes. One pass, no backtracking.

import (
	"strings"
	"unicode/utf8"
)

// scanner walks a body line by line, like bufio.Scanner. After each scan
// the fields describe the line; when scan returns false, openFence and
// openComment are the lines of what is never closed, or 0.
type scanner struct {
	body string
	next int // offset of the next line

	number  int    // of the line, from 1
	start   int    // offset of text in the body
	text    string // without the line's end, and without a byte order mark
	hidden  bool   // the line is front matter, a comment, fenced code, or a fence
	level   int    // 1 to 6 for a heading, boldLevel for a line in bold that stands for one
	heading string // its text
	section string // what boxes below it are; see sectionKind
	blank   bool
	item    string // the text without its indent and, if isItem, without its list marker
	isItem  bool

	language    string // of the fenced code that the line is in, if it is inside
	openFence   int
	openComment int

	matterEnd   int    // offset of the line behind the front matter
	fence, info string // the characters that opened the fence, and the word behind them
	deepFence   bool   // it stands in a list item
	listed      bool   // the paragraph or list above is a list
	paragraph   bool   // the line above is text that this one can go on
	commentEnd  int    // offset of the line behind the comment that is open
	noMoreEnds  bool   // no comment ends behind this line
	nextIsRuled bool   // the line is an underline
}

// boldLevel is the level of "**Acceptance Criteria:**" on a line of its own.
const boldLevel = 7

func newScanner(body string) *scanner {
	return &scanner{body: body, matterEnd: frontMatterEnd(body)}
}

func (s *scanner) scan() bool {
	if s.next >= len(s.body) {
		s.language = ""
		return false
	}
	s.start = s.next
	s.text, s.next = lineAt(s.body, s.start)
	s.number++
	if s.number == 1 && strings.HasPrefix(s.text, byteOrderMark) {
		s.start += len(byteOrderMark)
		s.text = s.text[len(byteOrderMark):]
	}
	s.level, s.heading = 0, ""
	s.item, s.isItem = cutListMarker(s.text)
	s.blank = !s.isItem && strings.TrimSpace(s.item) == ""
	underline := s.nextIsRuled
	s.nextIsRuled = false
	switch {
	case s.start < s.matterEnd || s.scanFence() || s.scanComment() || underline:
		s.hidden, s.paragraph = true, false
	default:
		s.hidden = false
		if s.scanHeading(); s.level > 0 {
			s.section = sectionKind(s.heading)
		}
		indented := strings.HasPrefix(s.text, "  ") || strings.HasPrefix(s.text, "\t")
		s.listed = s.isItem || s.listed && (s.blank || indented || s.paragraph && s.level%boldLevel == 0)
		s.paragraph = !s.blank && s.level%boldLevel == 0
	}
	return true
}

const byteOrderMark = "\ufeff"

// lineAt returns the line that starts at an offset, without its end, and where
// the next one starts.
func lineAt(body string, start int) (text string, next int) {
	next = len(body)
	if end := strings.IndexByte(body[start:], '\n'); end >= 0 {
		next = start + end + 1
	}
	end := next
	for end > start && (body[end-1] == '\n' || body[end-1] == '\r') {
		end--
	}
	return body[start:end], next
}

// scanFence follows CommonMark: a fence is at least three backticks or tildes,
// indented by at most three spaces or part of a list item; it ends at one of the
// same character that is at least as long and has nothing behind it, or at the
// end of the file.
func (s *scanner) scanFence() (code bool) {
	text, shallow := cutIndent(s.text)
	text = trimIndent(text)
	run := fenceRun(text)
	if s.openFence == 0 {
		s.language = ""
		if !shallow && !s.listed || run < 3 || text[0] == '`' && strings.Contains(text[run:], "`") {
			return false
		}
		s.openFence, s.fence, s.deepFence = s.number, text[:run], !shallow
		s.info, _, _ = strings.Cut(strings.ToLower(strings.TrimSpace(text[run:])), " ")
		return true
	}
	s.language = s.info
	closes := run >= len(s.fence) && text[0] == s.fence[0] && strings.Trim(text[run:], " \t") == ""
	if closes && (shallow || s.deepFence) {
		s.openFence, s.language = 0, ""
	}
	return true
}

func fenceRun(text string) int {
	if text == "" || text[0] != '`' && text[0] != '~' {
		return 0
	}
	return len(text) - len(strings.TrimLeft(text, text[:1]))
}

// scanComment reports whether the line is part of a comment. One that begins
// within a line hides the lines behind it; one that begins a line hides that too.
// A comment that begins a line and isn't closed hides the rest of the file.
func (s *scanner) scanComment() (hidden bool) {
	if s.start < s.commentEnd {
		return true
	}
	s.openComment = 0
	at := strings.Index(s.text, "<!--")
	if at < 0 || strings.Count(s.text[:at], "`")%2 > 0 {
		return false
	}
	lead := trimIndent(s.text[:at]) == ""
	end := -1
	if !s.noMoreEnds {
		end = strings.Index(s.body[s.start+at:], "-->")
		s.noMoreEnds = end < 0
	}
	switch {
	case end >= 0:
		_, s.commentEnd = lineAt(s.body, s.start+at+end)
	case lead:
		s.commentEnd, s.openComment = len(s.body), s.number
	}
	return lead
}

// scanHeading takes "## Title", "## Title ##", a line that the next one underlines,
// and a line in bold between blank ones.
func (s *scanner) scanHeading() {
	text, ok := cutIndent(s.text)
	if s.level, s.heading = atxHeading(s.text); s.level > 0 || !ok || s.blank {
		return
	}
	if s.isItem || startsWithAny(text, ">|<") {
		return
	}
	if strings.HasPrefix(text, "**") {
		s.scanBold(text)
	} else if strings.HasSuffix(text, ":") && sectionKind(text) != "" {
		s.level, s.heading = boldLevel, text
	}
	if s.paragraph || s.next >= len(s.body) || !strings.ContainsRune(" =-", rune(s.body[s.next])) {
		return
	}
	below, _ := lineAt(s.body, s.next)
	rule, shallow := cutIndent(strings.TrimRight(below, " \t"))
	if !shallow || rule == "" {
		return
	}
	_, _, isField := cutField(text)
	switch {
	case strings.Trim(rule, "=") == "":
		s.level, s.heading, s.nextIsRuled = 1, strings.TrimSpace(text), true
	case strings.Trim(rule, "-") == "" && !isField && len(rule) > 1 && strings.Trim(text, "-*_ ") != "":
		s.level, s.heading, s.nextIsRuled = 2, strings.TrimSpace(text), true
	}
}

// scanBold takes a line that is in bold as a whole, except perhaps for a colon.
func (s *scanner) scanBold(text string) {
	if name, value, isField := cutField(text); isField && strings.TrimSpace(value) == "" {
		s.level, s.heading = boldLevel, name
	} else if inner, bold := cutBold(text); bold {
		s.level, s.heading = boldLevel, inner
	}
}

// atxHeading reads "## Title" and "## Title ##". For other lines the level is 0.
func atxHeading(line string) (level int, title string) {
	text, ok := cutIndent(line)
	if text == "" || text[0] != '#' {
		return 0, ""
	}
	title = strings.TrimLeft(text, "#")
	level = len(text) - len(title)
	if !ok || level == 0 || level > 6 || title != "" && title[0] != ' ' && title[0] != '\t' {
		return 0, ""
	}
	title = strings.TrimSpace(title)
	bare := strings.TrimRight(title, "#")
	if bare == "" || strings.HasSuffix(bare, " ") || strings.HasSuffix(bare, "\t") {
		title = strings.TrimSpace(bare)
	}
	return level, title
}

// cutBold takes the asterisks off a line that is in bold as a whole.
func cutBold(text string) (inner string, ok bool) {
	inner, opened := strings.CutPrefix(strings.TrimRight(text, ": \t"), "**")
	inner, closed := strings.CutSuffix(inner, "**")
	return strings.Trim(inner, ": "), opened && closed && inner != "" && !strings.Contains(inner, "**")
}

// cutIndent takes off up to three spaces. With more, a line is neither a fence
// nor a heading.
func cutIndent(line string) (text string, ok bool) {
	for text = line; text != "" && text[0] == ' '; {
		text = text[1:]
	}
	return text, len(line)-len(text) <= 3
}

// indentOf is how far a line is indented, a tab counting as four spaces.
func indentOf(line string) (columns int) {
	for _, c := range []byte(line) {
		switch c {
		case ' ':
			columns++
		case '\t':
			columns += 4
		default:
			return columns
		}
	}
	return columns
}

// trimIndent takes off spaces and tabs. It is called for every line, more than once.
func trimIndent(line string) string {
	for len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
		line = line[1:]
	}
	return line
}

// checkbox is an item of a task list.
type checkbox struct {
	mark, markEnd int // offsets in the body of what stands between the brackets
	done          bool
	text          string
}

// checkbox reads "- [ ] text": any list marker, any indent, at most one character
// in the brackets, of which x and X mean done, perhaps an asterisk for an optional
// task, and a text, without which it is no task.
func (s *scanner) checkbox() (checkbox, bool) {
	item := s.item
	if s.hidden || !s.isItem || !strings.HasPrefix(item, "[") {
		return checkbox{}, false
	}
	inside, size := item[1:], 0
	if inside != "" && inside[0] != ']' {
		_, size = utf8.DecodeRuneInString(inside)
	}
	rest, closed := strings.CutPrefix(inside[size:], "]")
	rest = strings.TrimPrefix(rest, "*")
	text := strings.TrimSpace(rest)
	if !closed || text == "" || rest[0] != ' ' && rest[0] != '\t' {
		return checkbox{}, false
	}
	// item is a suffix of the line, which ends where text does.
	mark := s.start + len(s.text) - len(item) + 1
	return checkbox{mark, mark + size, strings.EqualFold(inside[:size], "x"), text}, true
}

// cutListMarker takes off an indent and "-", "*", "+", "1." or "1)" with the
// spaces behind it. The item is a suffix of the line.
func cutListMarker(line string) (item string, ok bool) {
	text, digits := trimIndent(line), 0
	for digits < len(text) && isDigit(rune(text[digits])) {
		digits++
	}
	ends := "-*+"
	if digits > 0 {
		ends = ".)"
	}
	rest := text[digits:]
	if digits > 9 || !startsWithAny(rest, ends) {
		return text, false
	}
	if item = trimIndent(rest[1:]); len(item) == len(rest)-1 {
		return text, false
	}
	return item, true
}

func startsWithAny(text, chars string) bool {
	return text != "" && strings.IndexByte(chars, text[0]) >= 0
}
