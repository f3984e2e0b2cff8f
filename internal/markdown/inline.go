package markdown

// What is within a paragraph: emphasis, code, links, breaks.
//
// The text becomes a list of pieces in one pass. A mark that may open something is
// also put on a stack, whose depth has a bound. What closes it takes everything above
// it off the stack, which so stays text; that is why elements never overlap.

import (
	"slices"
	"strings"
	"unicode"
)

// maxOpen is how many marks can be open at once. The oldest give way.
const maxOpen = 32

// kind is what a piece is.
type kind int

const (
	plain   kind = iota
	code         // text is the code
	newline      // a hard one
	auto         // text is a link to href
	opening      // a link to href begins
	closing      // it ends
	run          // text is a run of *, _ or ~
)

// piece is a part of a paragraph. Of a run, text is what is left of it as text once
// the others have become tags: those that it closes stand before it, those that it
// opens behind, the last one first.
type piece struct {
	kind          kind
	text          string
	href          string
	closes, opens []emphasis
}

// visible reports whether there is something of the piece to see.
func (p piece) visible() bool { return strings.TrimSpace(p.text) != "" || len(p.closes) > 0 }

// emphasis is an element that marks make.
type emphasis string

const (
	weak   emphasis = "em>"
	strong emphasis = "strong>"
	struck emphasis = "del>"
)

// opener is a mark on the stack.
type opener struct {
	mark  byte // *, _, ~ or [
	piece int
	both  bool // it could close something, too
	size  int  // of the run, as it is written
}

// inlineParser splits a paragraph into pieces.
type inlineParser struct {
	text   string
	at     int // offset of the next character
	done   int // offset up to which text is in pieces
	pieces []piece
	stack  []opener

	ticks    map[int]int // length of a run of backticks → offset of the last one seen
	allTicks bool        // all of the text has been looked through for them
}

// inline writes a paragraph's text.
func (w *writer) inline(text string) {
	p := inlineParser{text: strings.TrimSpace(text)}
	for p.at < len(p.text) {
		p.step()
	}
	w.pieces(&p)
}

// pieces writes what a parser has read to the end.
func (w *writer) pieces(p *inlineParser) {
	p.flush(len(p.text))
	for _, part := range p.pieces {
		w.piece(part)
	}
}

func (w *writer) piece(p piece) {
	switch p.kind {
	case plain:
		w.text(p.text)
	case code:
		w.tag("<code>")
		w.text(p.text)
		w.tag("</code>")
	case newline:
		w.tag("<br>\n")
	case auto:
		w.link(p.href)
		w.text(p.text)
		w.tag("</a>")
	case opening:
		w.link(p.href)
	case closing:
		w.tag("</a>")
	case run:
		for _, e := range p.closes {
			w.tag("</" + tag(e))
		}
		w.text(p.text)
		for _, e := range slices.Backward(p.opens) {
			w.tag("<" + tag(e))
		}
	}
}

// step reads on, by a character or by what it begins.
func (p *inlineParser) step() {
	switch p.text[p.at] {
	case '\\':
		p.escape()
	case '`':
		p.codeSpan()
	case '*', '_', '~':
		p.run()
	case '[':
		start := p.at
		if start > p.done && p.text[start-1] == '!' {
			start-- // an image becomes a link
		}
		p.flush(start)
		p.open(opener{mark: '[', piece: len(p.pieces)})
		p.add(piece{text: p.text[start : p.at+1]}, p.at+1)
	case ']':
		p.closeLink()
	case '<':
		p.angle()
	case ':':
		p.bareLink()
	case '\n':
		p.lineEnd()
	default:
		p.at++
	}
}

// flush makes a piece of what is read up to an offset.
func (p *inlineParser) flush(end int) {
	if end > p.done {
		p.pieces = append(p.pieces, piece{text: p.text[p.done:end]})
	}
	p.done = end
}

// add adds a piece, which reaches up to an offset.
func (p *inlineParser) add(next piece, end int) {
	p.pieces = append(p.pieces, next)
	p.done, p.at = end, end
}

func (p *inlineParser) open(o opener) {
	if len(p.stack) == maxOpen {
		p.stack = slices.Delete(p.stack, 0, maxOpen/2)
	}
	p.stack = append(p.stack, o)
}

// escape takes the backslash off a punctuation mark, which so stays text. One at the
// end of a line is a hard break.
func (p *inlineParser) escape() {
	if p.at+1 == len(p.text) {
		p.at++
		return
	}
	switch next := p.text[p.at+1]; {
	case next == '\n':
		p.flush(p.at)
		p.add(piece{kind: newline}, p.at+2)
		p.skipSpaces()
	case next < 0x80 && (unicode.IsPunct(rune(next)) || unicode.IsSymbol(rune(next))):
		p.flush(p.at)
		p.done, p.at = p.at+1, p.at+2
	default:
		p.at++
	}
}

// lineEnd reads the end of a line. It is a hard break behind two spaces, and before a
// line that begins in bold, since that is how headers of specs are written.
func (p *inlineParser) lineEnd() {
	line := strings.TrimRight(p.text[p.done:p.at], " ")
	spaces := p.at - p.done - len(line)
	p.flush(p.at - spaces)
	p.done = p.at
	next := strings.TrimLeft(p.text[p.at+1:], " ")
	if spaces >= 2 || strings.HasPrefix(next, "**") {
		p.add(piece{kind: newline}, p.at+1)
	} else {
		p.at++
		p.flush(p.at)
	}
	p.skipSpaces()
}

// skipSpaces drops the indent of a line.
func (p *inlineParser) skipSpaces() {
	for p.at < len(p.text) && p.text[p.at] == ' ' {
		p.at++
	}
	p.done = p.at
}

// codeSpan reads `code`, which ends at as many backticks as it begins with.
func (p *inlineParser) codeSpan() {
	size := runLength(p.text, p.at)
	start := p.at + size
	end := p.findTicks(start, size)
	if end < 0 {
		p.at = start
		return
	}
	text := strings.ReplaceAll(p.text[start:end], "\n", " ")
	if len(text) > 2 && text[0] == ' ' && text[len(text)-1] == ' ' && strings.Trim(text, " ") != "" {
		text = text[1 : len(text)-1] // which lets the code begin or end with a backtick
	}
	p.flush(p.at)
	p.add(piece{kind: code, text: text}, end+size)
}

// findTicks finds the next run of so many backticks, or returns -1. Once it hasn't
// found one it knows where the last run of each length is, and never looks in vain.
func (p *inlineParser) findTicks(from, size int) int {
	if p.allTicks && p.ticks[size] < from {
		return -1
	}
	if p.ticks == nil {
		p.ticks = make(map[int]int)
	}
	for at := from; ; {
		next := strings.IndexByte(p.text[at:], '`')
		if next < 0 {
			p.allTicks = true
			return -1
		}
		at += next
		n := runLength(p.text, at)
		if p.ticks[n] = at; n == size {
			return at
		}
		at += n
	}
}

// runLength is how often the character at an offset is repeated.
func runLength(text string, at int) (n int) {
	for n = 1; at+n < len(text) && text[at+n] == text[at]; n++ {
	}
	return n
}

// run reads a run of up to three marks of emphasis, by the rules of CommonMark.
func (p *inlineParser) run() {
	size, mark := runLength(p.text, p.at), p.text[p.at]
	end := p.at + size
	if size > 3 || mark == '~' && size != 2 {
		p.at = end
		return
	}
	opens, closes := flanks(p.text, p.at, end)
	p.flush(p.at)
	this := piece{kind: run, text: p.text[p.at:end]}
	for closes && this.text != "" {
		e, found := p.closeEmphasis(mark, len(this.text), size, opens)
		if !found {
			break
		}
		this.closes, this.text = append(this.closes, e), this.text[marksOf(e):]
	}
	if opens && this.text != "" {
		p.open(opener{mark: mark, piece: len(p.pieces), both: closes, size: size})
	}
	p.add(this, end)
}

// marksOf is how many marks an element takes.
func marksOf(e emphasis) int {
	if e == weak {
		return 1
	}
	return 2
}

// flanks reports whether a run can open and close emphasis.
func flanks(text string, start, end int) (opens, closes bool) {
	before, behind := runesAround(text, start, end)
	left := !unicode.IsSpace(behind) && (!isPunct(behind) || unicode.IsSpace(before) || isPunct(before))
	right := !unicode.IsSpace(before) && (!isPunct(before) || unicode.IsSpace(behind) || isPunct(behind))
	if text[start] == '_' { // snake_case is no emphasis
		return left && (!right || isPunct(before)), right && (!left || isPunct(behind))
	}
	return left, right
}

func isPunct(c rune) bool { return unicode.IsPunct(c) || unicode.IsSymbol(c) }

// closeEmphasis finds what a run of marks closes, of which so many are left.
func (p *inlineParser) closeEmphasis(mark byte, left, size int, both bool) (e emphasis, found bool) {
	for i, o := range slices.Backward(p.stack) {
		if o.mark != mark || (both || o.both) && (size+o.size)%3 == 0 && (size%3 != 0 || o.size%3 != 0) {
			continue
		}
		begins := &p.pieces[o.piece]
		switch {
		case mark == '~':
			e = struck
		case left >= 2 && len(begins.text) >= 2:
			e = strong
		default:
			e = weak
		}
		begins.opens, begins.text = append(begins.opens, e), begins.text[marksOf(e):]
		p.stack = p.stack[:i+1]
		if begins.text == "" {
			p.stack = p.stack[:i]
		}
		return e, true
	}
	return "", false
}

// closeLink reads the end of a link's text and its address: ](address "title").
func (p *inlineParser) closeLink() {
	i := len(p.stack) - 1
	for i >= 0 && p.stack[i].mark != '[' {
		i--
	}
	if i < 0 {
		p.at++
		return
	}
	href, end := linkTarget(p.text, p.at+1)
	first := p.stack[i].piece
	p.flush(p.at)
	label := p.pieces[first+1:]
	if end < 0 || !slices.ContainsFunc(label, piece.visible) {
		p.stack = slices.Delete(p.stack, i, i+1)
		p.at++
		return
	}
	for j := range label {
		if label[j].kind == auto { // links aren't nested
			label[j].kind = plain
		}
	}
	p.pieces[first] = piece{kind: opening, href: href}
	p.stack = slices.DeleteFunc(p.stack[:i], func(o opener) bool { return o.mark == '[' })
	p.add(piece{kind: closing}, end)
}

// linkTarget reads "(address)", perhaps with a title, which is dropped. If there is
// none that a link may have, end is -1.
func linkTarget(text string, at int) (href string, end int) {
	text = text[at:min(len(text), at+2*maxAddress)]
	rest, found := strings.CutPrefix(text, "(")
	if !found {
		return "", -1
	}
	rest = strings.TrimLeft(rest, " \n")
	size := addressLength(rest)
	raw := rest[:size]
	if rest = rest[size:]; strings.HasPrefix(rest, "<") && raw == "" {
		raw, rest, _ = strings.Cut(rest[1:], ">")
	}
	tail := strings.TrimLeft(rest, " \n")
	if tail != rest && tail != "" && (tail[0] == '"' || tail[0] == '\'') {
		_, tail, _ = strings.Cut(tail[1:], tail[:1])
		tail = strings.TrimLeft(tail, " \n")
	}
	href, ok := address(raw)
	if !ok || !strings.HasPrefix(tail, ")") {
		return "", -1
	}
	return href, at + len(text) - len(tail) + 1
}

// addressLength is how much of a text may be an address: up to a space, or a
// parenthesis that it doesn't open itself.
func addressLength(text string) int {
	depth := 0
	for i, c := range text {
		switch {
		case c == '(' && depth < 8:
			depth++
		case c == ')' && depth > 0:
			depth--
		case c == '(' || c == ')' || notInAddress(c):
			return i
		}
	}
	return len(text)
}

// angle reads <https://…>.
func (p *inlineParser) angle() {
	rest := p.text[p.at+1 : min(len(p.text), p.at+1+maxAddress)]
	end := strings.IndexFunc(rest, notInAddress)
	if end < 0 || rest[end] != '>' {
		p.at++
		return
	}
	p.link(p.at, p.at+1, p.at+1+end, p.at+end+2)
}

// bareLink reads https://… at its colon, up to a space, but for punctuation at its
// end and a parenthesis that it doesn't open.
func (p *inlineParser) bareLink() {
	scheme := p.text[max(p.done, p.at-len("https")):p.at]
	start := p.at - len("http")
	if strings.HasSuffix(scheme, "https") {
		start--
	} else if !strings.HasSuffix(scheme, "http") {
		p.at++
		return
	}
	before, _ := runesAround(p.text, start, p.at)
	rest := p.text[p.at:]
	if !strings.HasPrefix(rest, "://") || unicode.IsLetter(before) || unicode.IsDigit(before) {
		p.at++
		return
	}
	size := strings.IndexFunc(rest, func(c rune) bool { return c == '[' || c == ']' || notInAddress(c) })
	if size < 0 {
		size = len(rest)
	}
	end := p.at + len(trimAddress(rest[:size]))
	p.link(start, start, end, end)
}

// trimAddress takes off what stands behind an address in a sentence.
func trimAddress(raw string) string {
	unopened := strings.Count(raw, ")") - strings.Count(raw, "(")
	for raw != "" {
		last := raw[len(raw)-1]
		if last == ')' && unopened > 0 {
			unopened--
		} else if strings.IndexByte("?!.,:;*_~'", last) < 0 {
			break
		}
		raw = raw[:len(raw)-1]
	}
	return raw
}

// link makes a link of an address in the text, if it is one, for what reaches from
// start to next. Otherwise that is text.
func (p *inlineParser) link(start, from, to, next int) {
	if href, ok := address(p.text[from:to]); ok {
		p.flush(start)
		p.add(piece{kind: auto, text: p.text[from:to], href: href}, next)
		return
	}
	p.at = max(next, p.at+1)
}
