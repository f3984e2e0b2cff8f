package main

// The Markdown spec format, parsed and written. Nothing here does I/O: a file
// comes in as text, and what it says comes out. The source is never normalised:
// rendering changes the bytes of checkboxes and of the status, and no others.

import (
	"cmp"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxSpecKey    = 128
	maxSpecNumber = 16
	maxSpecText   = 200  // characters of a title, a phase, an estimated context
	maxReferences = 1000 // of one spec

	defaultPriority = 5 // of a spec that gives none: between P1 (6) and P2 (3)
)

// Header styles. Two series of files can use the same numbers; the style tells
// them apart where a reference doesn't.
const (
	styleBold     = "bold"     // **Status:** Planned
	styleList     = "list"     // - **Status**: Planned
	styleSections = "sections" // ## Status, and the value below
)

// specFile is what one Markdown file says. Status is one of the seven; a file
// whose criteria are all checked is completed, whatever its status line says.
type specFile struct {
	Path, Key, Number, Title, Phase, Status, EstimatedContext string

	Priority int // 0 to 9, 9 first
	Criteria []criterion
	Refs     []string // dependencies as written; a range or a group is one
	RefLines []int    // the line of each
	Style    string   // styleBold, styleList, styleSections, or "" without a header
	Warnings []importWarning
}

// criterion is one checkbox under "Acceptance Criteria".
type criterion struct {
	Index int    `json:"index"` // from 1
	Text  string `json:"text"`
	Done  bool   `json:"done"`
}

// importWarning says what an import couldn't take as it stands. Line counts
// from 1 and is 0 where no single line is meant; clients branch on Code.
type importWarning struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

// skippedSpecPath reports whether an import passes over a path because of its
// name: README and LICENSE files, superseded ones, macOS's "._" doubles, and
// all that isn't Markdown.
func skippedSpecPath(name string) bool {
	base := path.Base(name)
	stem, isMarkdown := cutMarkdown(base)
	if !isMarkdown || stem == "" || strings.EqualFold(stem, "readme") || strings.EqualFold(stem, "license") {
		return true
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "__MACOSX" || strings.HasPrefix(part, "._") {
			return true
		}
	}
	return strings.HasPrefix(base, "README") || strings.HasPrefix(base, "LICENSE")
}

func cutMarkdown(base string) (stem string, ok bool) {
	if len(base) >= 3 && strings.EqualFold(base[len(base)-3:], ".md") {
		return base[:len(base)-3], true
	}
	return base, false
}

// parseSpecFile reads one file. It takes every text: what it can't make sense
// of becomes a warning and a default. The source must be valid UTF-8.
func parseSpecFile(name, source string) specFile {
	f := specFile{Path: name, Criteria: parseCriteria(source), Priority: defaultPriority}
	stem, _ := cutMarkdown(path.Base(name))
	f.Key = specKey(stem)
	if utf8.RuneCountInString(stem) > maxSpecKey {
		f.warn(0, "text_cut", "The file's name is longer than the %d characters of a key.", maxSpecKey)
	}
	h := readHeader(source)
	f.Style = h.style
	f.takeNumberAndTitle(h)
	f.takeStatus(h)
	f.takePriority(h)
	f.takeReferences(h)
	phase := h.fields["phase"]
	f.Phase = f.cut(phase.line, "phase", cmp.Or(canonicalPhase(phase.value), folderPhase(name)))
	ctx := h.fields["estimated context"]
	f.EstimatedContext = f.cut(ctx.line, "estimated context", oneLine(ctx.value))
	if h.openFence > 0 {
		f.warn(h.openFence, "unclosed_fence", "A code fence is opened here and never closed: the rest of the file is code.")
	}
	return f
}

func (f *specFile) warn(line int, code, format string, args ...any) {
	f.Warnings = append(f.Warnings, importWarning{f.Path, line, code, fmt.Sprintf(format, args...)})
}

// cut shortens a field to maxSpecText, with a warning.
func (f *specFile) cut(line int, field, text string) string {
	short := firstRunes(text, maxSpecText)
	if short != text {
		f.warn(line, "text_cut", "The %s is cut to %d characters.", field, maxSpecText)
	}
	return short
}

// takeNumberAndTitle reads "# 316 - Server Crate" and "# Spec 316: Server
// Crate". The file's name has the last word on the number.
func (f *specFile) takeNumberAndTitle(h specHeader) {
	number, slug := cutNumber(f.Key)
	titleNumber, title := cutTitleNumber(oneLine(h.title))
	if number != "" && titleNumber != "" && trimZeros(number) != trimZeros(titleNumber) {
		f.warn(h.titleLine, "number_mismatch", "The title says %s and the file's name %s; the name counts.",
			firstRunes(titleNumber, maxSpecNumber), number)
	}
	idNumber, _ := cutNumber(strings.ToLower(h.fields["spec id"].value))
	f.Number = cmp.Or(number, titleNumber, idNumber)
	if len(f.Number) > maxSpecNumber {
		f.Number = f.Number[:maxSpecNumber]
		f.warn(h.titleLine, "text_cut", "The number is cut to %d characters.", maxSpecNumber)
	}
	if title == "" {
		title = cmp.Or(oneLine(strings.ReplaceAll(slug, "-", " ")), f.Key)
		f.warn(h.titleLine, "title_missing", "There is no title; the file's name stands in.")
	}
	f.Title = f.cut(h.titleLine, "title", title)
}

func (f *specFile) takeStatus(h specHeader) {
	field := h.fields["status"]
	status, known := statusFromWords(field.value)
	if !known && field.value != "" {
		f.warn(field.line, "unknown_status", "%q is no status that is known here; the spec is planned.", firstRunes(field.value, 60))
	}
	f.Status = status
	open := func(c criterion) bool { return !c.Done }
	if len(f.Criteria) > 0 && !slices.ContainsFunc(f.Criteria, open) {
		f.Status = "completed"
	}
}

// takePriority reads P0 to P3, a digit, or a word.
func (f *specFile) takePriority(h specHeader) {
	field := h.fields["priority"]
	said := wordsOf(firstRunes(field.value, maxSpecText))
	if len(said) == 0 {
		return
	}
	switch word := said[0]; word {
	case "p0", "critical", "urgent":
		f.Priority = 9
	case "p1", "high":
		f.Priority = 6
	case "p2":
		f.Priority = 3
	case "p3", "p4", "low":
		f.Priority = 0
	case "medium", "normal":
	default:
		if len(word) != 1 || word < "0" || word > "9" {
			f.warn(field.line, "unknown_priority", "%q is no priority that is known here; it is %d.", firstRunes(field.value, 60), f.Priority)
			return
		}
		f.Priority = int(word[0] - '0')
	}
}

func (f *specFile) takeReferences(h specHeader) {
	for _, field := range h.dependencies {
		for item := range splitReferences(field.value) {
			if len(f.Refs) == maxReferences {
				f.warn(field.line, "too_many_references", "Only the first %d dependencies are read.", maxReferences)
				return
			}
			f.Refs = append(f.Refs, item)
			f.RefLines = append(f.RefLines, field.line)
		}
	}
}

// splitReferences splits a field at its commas outside parentheses. "None", in
// whatever words, is no reference.
func splitReferences(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		start, depth := 0, 0
		for i := range len(text) + 1 {
			switch {
			case i == len(text) || text[i] == ',' && depth == 0:
				item := strings.TrimSpace(text[start:i])
				if start = i + 1; !saysNone(item) && !yield(item) {
					return
				}
			case text[i] == '(', text[i] == '[':
				depth++
			case text[i] == ')', text[i] == ']':
				depth = max(depth-1, 0)
			}
		}
	}
}

func saysNone(item string) bool {
	first, _, _ := strings.Cut(strings.ToLower(strings.Trim(item, "*_`-–— ")), " ")
	return slices.Contains([]string{"", "none", "n/a", "nothing"}, strings.Trim(first, ".:;"))
}

// parseCriteria lists the checkboxes under every "Acceptance Criteria" heading,
// outside fenced code. A section ends at the next heading of its own level or
// a higher one.
func parseCriteria(body string) []criterion {
	var criteria []criterion
	for s := newSpecScanner(body); s.scan(); {
		if box, ok := s.criterion(); ok {
			criteria = append(criteria, criterion{len(criteria) + 1, box.text, box.done})
		}
	}
	return criteria
}

// renderSpec returns body with its criteria checked as done says: done[i] is
// criterion i+1, and criteria past its end stay as they are. If status isn't
// the derived one, a status line that says something else is rewritten in its
// own style; a body without one gets none.
func renderSpec(body string, done []bool, status, derived string) string {
	var out strings.Builder
	copied := 0
	replace := func(start, end int, text string) {
		out.WriteString(body[copied:start])
		out.WriteString(text)
		copied = end
	}
	var statusLine headerField
	if status != derived {
		statusLine = statusField(body, status)
	}
	n := 0
	for s := newSpecScanner(body); s.scan(); {
		if box, ok := s.criterion(); ok {
			if n < len(done) && done[n] != box.done {
				mark := " "
				if done[n] {
					mark = "x"
				}
				replace(box.mark, box.mark+1, mark)
			}
			n++
		} else if statusLine.line == s.number {
			text := statusWords[status]
			if statusLine.value == "" {
				text = " " + text
			}
			replace(statusLine.start, statusLine.end, text)
		}
	}
	if copied == 0 {
		return body
	}
	out.WriteString(body[copied:])
	return out.String()
}

// statusField finds the status line that has to change to say status. Its line
// is 0 where there is none.
func statusField(body, status string) headerField {
	field := readHeader(body).fields["status"]
	if said, _ := statusFromWords(field.value); said == status || statusWords[status] == "" {
		return headerField{}
	}
	return field
}

// carryCriteria returns the done flags for a file's new criteria: what the new
// text checks, and what was checked before under the same text. Where a text
// comes more than once, the first stands for the first, the second for the
// second.
func carryCriteria(before, after []criterion) []bool {
	earlier := make(map[string][]bool)
	for _, c := range before {
		text := oneLine(c.Text)
		earlier[text] = append(earlier[text], c.Done)
	}
	done := make([]bool, len(after))
	for i, c := range after {
		done[i] = c.Done
		text := oneLine(c.Text)
		if was := earlier[text]; len(was) > 0 {
			done[i] = done[i] || was[0]
			earlier[text] = was[1:]
		}
	}
	return done
}

// statusWords is how a status is written into a file.
var statusWords = map[string]string{
	"planned":     "Planned",
	"in_progress": "In Progress",
	"in_review":   "In Review",
	"testing":     "Testing",
	"completed":   "Completed",
	"blocked":     "Blocked",
	"deferred":    "Deferred",
}

// statusPhrases is how people write the seven statuses: the first words of a
// status line, the longest phrase that is known.
var statusPhrases = invert(map[string][]string{
	"planned": {"planned", "plan", "planning", "draft", "todo", "to do", "open", "new", "proposed", "ready", "pending",
		"backlog", "queued", "approved", "accepted", "not", "unstarted", "incomplete"},
	"in_progress": {"in progress", "inprogress", "wip", "work in progress", "in development", "in work", "started",
		"ongoing", "active", "doing", "implementing", "underway", "under way", "partial", "partially", "reopened"},
	"in_review": {"in review", "inreview", "review", "reviewing", "under review", "code review", "needs review",
		"ready for review", "awaiting review", "pending review"},
	"testing": {"testing", "test", "in test", "in testing", "under test", "qa", "in qa", "ready for testing", "verifying",
		"in verification", "validating", "in validation"},
	"completed": {"completed", "complete", "done", "finished", "implemented", "shipped", "merged", "released", "closed",
		"resolved", "verified", "fully implemented"},
	"blocked": {"blocked", "stuck", "waiting", "blocker", "failed"},
	"deferred": {"deferred", "postponed", "later", "on hold", "hold", "parked", "paused", "cancelled", "canceled",
		"deprecated", "superseded", "obsolete", "rejected", "abandoned", "wontfix", "won t fix"},
})

func invert(groups map[string][]string) map[string]string {
	flat := make(map[string]string)
	for name, members := range groups {
		for _, member := range members {
			flat[member] = name
		}
	}
	return flat
}

// statusFromWords maps what a status line says to one of the seven. What isn't
// known is planned, and so is nothing at all.
func statusFromWords(text string) (status string, known bool) {
	said := wordsOf(firstRunes(text, maxSpecText))
	for n := min(3, len(said)); n > 0; n-- {
		if status, known := statusPhrases[strings.Join(said[:n], " ")]; known {
			return status, true
		}
	}
	if len(said) == 0 && strings.ContainsAny(text, "✅✔☑") {
		return "completed", true
	}
	return "planned", false
}

// specKey makes a key of a file's stem: lower case, and "-" for every
// character that a key can't have.
func specKey(stem string) string {
	key := strings.Map(func(r rune) rune {
		switch r = unicode.ToLower(r); {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '-'
	}, stem)
	return key[:min(len(key), maxSpecKey)]
}

// canonicalPhase gives the phases of one number one form, since two files
// seldom agree on more than the number: "15 - Server", "15 - Server/API Layer",
// "phase-15-server" and "15" are all "Phase 15". A phase without a number stays
// as it is. A filter on the phase should go through it too.
func canonicalPhase(text string) string {
	text = oneLine(text)
	rest, _ := cutFold(text, "phase")
	if number, _ := leadingNumber(strings.TrimLeft(rest, " -_:")); number != "" {
		return "Phase " + trimZeros(number)
	}
	return text
}

// folderPhase is the phase that the nearest folder like "phase-15-server" names.
func folderPhase(name string) string {
	folders := strings.Split(path.Dir(name), "/")
	for _, folder := range slices.Backward(folders) {
		if _, ok := cutFold(folder, "phase"); ok && canonicalPhase(folder) != oneLine(folder) {
			return canonicalPhase(folder)
		}
	}
	return ""
}

// cutTitleNumber splits "316 - Server Crate" and "Spec 316: Server Crate". A
// title that only happens to start with digits has no number.
func cutTitleNumber(title string) (number, rest string) {
	text, isSpec := cutFold(title, "spec ")
	number, rest = leadingNumber(strings.TrimLeft(text, " #"))
	trimmed := strings.TrimLeft(rest, " :-–—")
	separated := rest == "" || strings.HasPrefix(rest, ":") || strings.HasPrefix(rest, " -") ||
		strings.HasPrefix(rest, " –") || strings.HasPrefix(rest, " —")
	if number == "" || !isSpec && !separated {
		return "", title
	}
	return strings.ToLower(number), trimmed
}

// cutNumber splits a key like "031a-mission-panel" into number and slug. A key
// without a number is all slug.
func cutNumber(key string) (number, slug string) {
	number, rest := leadingNumber(key)
	if number == "" || rest != "" && !strings.ContainsAny(rest[:1], "-_") {
		return "", key
	}
	return number, strings.TrimLeft(rest, "-_")
}

// leadingNumber splits off digits, with one letter after them, that no other
// letter or digit follows.
func leadingNumber(text string) (number, rest string) {
	end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	switch {
	case end < 0:
		return text, ""
	case end == 0:
		return "", text
	}
	if c := text[end] | 0x20; c >= 'a' && c <= 'z' {
		end++
	}
	next, _ := utf8.DecodeRuneInString(text[end:])
	if end < len(text) && (unicode.IsLetter(next) || unicode.IsDigit(next)) {
		return "", text
	}
	return text[:end], text[end:]
}

// trimZeros takes off leading zeros: "031a" and "31a" are the same number.
func trimZeros(number string) string {
	trimmed := strings.TrimLeft(number, "0")
	if trimmed == "" || trimmed[0] < '0' || trimmed[0] > '9' {
		return "0" + trimmed
	}
	return trimmed
}

// cutFold is strings.CutPrefix without regard to ASCII case.
func cutFold(text, prefix string) (rest string, found bool) {
	if len(text) >= len(prefix) && strings.EqualFold(text[:len(prefix)], prefix) {
		return text[len(prefix):], true
	}
	return text, false
}

// wordsOf are the letters and digits of a text, in lower case.
func wordsOf(text string) []string {
	return strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
}

// oneLine makes a text fit for a line: no control characters, single spaces.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r)
	}), " ")
}

// firstRunes cuts a text to its first n characters.
func firstRunes(text string, n int) string {
	for i := range text {
		if n--; n < 0 {
			return text[:i]
		}
	}
	return text
}
