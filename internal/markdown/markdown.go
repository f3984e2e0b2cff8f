// Package markdown shows Markdown that agents and files say, which is hostile
// text, in a small safe subset of HTML.
//
// [HTML] knows headings, lists, task boxes, quotes, fenced and indented code,
// emphasis, code spans, and links to http, https and mailto. Tables and front
// matter stay text as they are written, in a <pre>. Everything else is text:
// HTML, images (which become links), references, and links that lead elsewhere.
//
// Nothing is filtered. The package writes elements of a fixed list, whose tags are
// constants, and puts all that comes from the source through the escaping of
// html/template. An address is parsed, and rebuilt from its parts.
//
// The elements, with all the attributes that they can have:
//
//	p h1 … h6 ul li blockquote code em strong del br hr label
//	ol start="3"
//	li class="task"
//	input type="checkbox" disabled checked
//	pre tabindex="0", pre class="table" tabindex="0"
//	a href="…" rel="noopener nofollow"
//
// Any source takes time in proportion to its length; nesting has a bound, and what
// is nested deeper is text. The functions are pure and safe for concurrent use.
package markdown

import (
	"html/template"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// maxAddress is how many bytes a link's address has at most. A longer one is text.
const maxAddress = 2048

// HTML renders source. Its headings begin at the level top, from 1 to 6, and skip
// none, whatever the source does, so that they fit below those of the page.
func HTML(source string, top int) template.HTML {
	w := writer{top: top}
	lines := splitLines(source)
	if n := frontMatter(lines); n > 0 {
		w.pre(preTag, lines[1:n-1])
		lines = lines[n:]
	}
	w.blocks(lines, 0)
	return template.HTML(w.out.String())
}

// Text renders text that is no Markdown, such as a line of a log: all of it stays as
// it is, and addresses that begin with http:// or https:// are links.
func Text(source string) template.HTML {
	var w writer
	p := inlineParser{text: strings.ToValidUTF8(source, "\ufffd")}
	for p.at < len(p.text) {
		if p.text[p.at] == ':' {
			p.bareLink()
		} else {
			p.at++
		}
	}
	w.pieces(&p)
	return template.HTML(w.out.String())
}

// tag is a tag as it is written. There are no others than these constants, but for
// those of headings, numbered lists and links.
type tag string

const (
	preTag     tag = `<pre tabindex="0">` // it scrolls sideways, which the keyboard must be able to
	tableTag   tag = `<pre class="table" tabindex="0">`
	boxTag     tag = `<input type="checkbox" disabled> `
	checkedTag tag = `<input type="checkbox" disabled checked> `
)

// writer writes HTML, element by element.
type writer struct {
	out    strings.Builder
	top    int
	levels []int // of the headings, in the source, that the next one may be below
}

func (w *writer) tag(t tag) { w.out.WriteString(string(t)) }

// text writes what comes from the source.
func (w *writer) text(s string) { w.out.WriteString(template.HTMLEscapeString(s)) }

// pre writes lines as they are.
func (w *writer) pre(open tag, lines []string) {
	w.tag(open)
	w.tag("<code>")
	for _, line := range lines {
		w.text(line)
		w.tag("\n")
	}
	w.tag("</code></pre>\n")
}

// heading writes a heading that has a level in the source.
func (w *writer) heading(level int, text string) {
	for len(w.levels) > 0 && w.levels[len(w.levels)-1] >= level {
		w.levels = w.levels[:len(w.levels)-1]
	}
	w.levels = append(w.levels, level)
	name := "h" + strconv.Itoa(min(w.top+len(w.levels)-1, 6)) + ">"
	w.tag(tag("<" + name))
	w.inline(text)
	w.tag(tag("</" + name + "\n"))
}

// link opens a link to an address, which address has returned.
func (w *writer) link(href string) {
	w.tag(`<a href="`)
	w.text(href)
	w.tag(`" rel="noopener nofollow">`)
}

// address returns a link's address in its canonical form, if it is one that links
// may have. Names and passwords in it only serve to make it look like another.
func address(raw string) (href string, ok bool) {
	if len(raw) > maxAddress || strings.ContainsFunc(raw, notInAddress) {
		return "", false
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", false
	}
	switch u.Scheme {
	case "http", "https":
		ok = u.Hostname() != "" && u.User == nil
	case "mailto":
		ok = strings.Contains(u.Opaque, "@")
	}
	return u.String(), ok
}

func notInAddress(c rune) bool {
	return c == '\\' || c == '<' || c == '>' || c == '"' || c == '`' || !unicode.IsGraphic(c) || unicode.IsSpace(c)
}

// splitLines returns the lines of a text in valid UTF-8. Their indents are of
// spaces, and blank ones are empty.
func splitLines(text string) []string {
	text = strings.TrimPrefix(strings.ToValidUTF8(text, "\ufffd"), "\ufeff")
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n")
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = expand(line)
	}
	return lines
}

// expand makes the tabs of a line's indent spaces, and a blank line empty.
func expand(line string) string {
	column := 0
	for i := range len(line) {
		switch line[i] {
		case ' ':
			column++
		case '\t':
			column += 4 - column%4
		default:
			if column == i {
				return line
			}
			return strings.Repeat(" ", column) + line[i:]
		}
	}
	return ""
}

// frontMatter is how many lines the front matter has, with its fences.
func frontMatter(lines []string) int {
	if lines[0] != "---" || len(lines) < 3 || lines[1] == "" {
		return 0
	}
	end := slices.IndexFunc(lines[1:], func(line string) bool { return line == "---" || line == "..." })
	if end < 0 {
		return 0
	}
	return end + 2
}
