// Package specfile reads and writes specs in Markdown: a piece of work with a
// title, a status, acceptance criteria as checkboxes, and the specs that it
// depends on. docs/spec-files.md describes the format.
//
// [Parse] reads a file, [Resolve] finds out which other files its dependencies
// mean, and [Cycles] finds those that depend on each other. [Render] writes the
// progress back: it changes the bytes of checkboxes and of the status line, and
// no others, so what people wrote stays as they wrote it.
//
// Parsing can't fail. What a file leaves out has a default; what it says but
// can't be understood has a default and a [Warning]. A dependency is never
// guessed: in doubt there is a warning and no dependency.
//
// Files may be hostile: parsing takes time in proportion to the text, resolving is
// bounded, and nothing recurses. All functions are pure: they do no I/O, keep no
// state, leave their arguments alone, and are safe for concurrent use.
package specfile

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
	maxKey        = 128
	maxNumber     = 16
	maxText       = 200  // characters of a title, a phase, an estimated context
	maxReferences = 1000 // of one spec
)

// DefaultPriority is the priority of a spec that gives none. It is between P1,
// which is 6, and P2, which is 3.
const DefaultPriority = 5

// The styles of a header. Two series of files can use the same numbers; the
// style tells them apart where a reference doesn't.
const (
	StyleBold     = "bold"     // **Status:** Planned
	StyleList     = "list"     // - **Status**: Planned
	StyleSections = "sections" // ## Status, and the value below
)

// File is what one Markdown file says.
type File struct {
	Path string // as given to Parse

	// Key identifies the spec: the file's name without ".md", in lower case,
	// and with "-" for each character other than a-z, 0-9, ".", "_" and "-". It
	// has at most 128 characters.
	Key string

	// Number is "316" or "031a", with its leading zeros, or "". It has at most
	// 16 characters.
	Number string

	// Title, Phase and EstimatedContext are single lines of at most 200
	// characters. Title is empty only if Key is. Phase is in the form of
	// CanonicalPhase.
	Title, Phase, EstimatedContext string

	// Status is "planned", "in_progress", "in_review", "testing", "completed",
	// "blocked" or "deferred". A file whose criteria are all checked is
	// completed, whatever its status line says.
	Status string

	Priority int // 0 to 9, 9 first
	Criteria []Criterion

	// Refs are the dependencies as they are written, at most 1,000; a range or
	// a group is one. RefLines has the line of each, from 1. Resolve says what
	// they mean.
	Refs     []string
	RefLines []int

	Style    string // StyleBold, StyleList or StyleSections, or "" without a header
	Warnings []Warning
}

// Criterion is one checkbox below an "Acceptance Criteria" heading.
type Criterion struct {
	Index int    `json:"index"` // from 1, throughout the file
	Text  string `json:"text"`
	Done  bool   `json:"done"`
}

// Warning says what couldn't be taken as it stands in a file, and what was made
// of it.
type Warning struct {
	File    string `json:"file"` // its path
	Line    int    `json:"line"` // from 1; 0 where no single line is meant
	Code    string `json:"code"` // such as unknown_status, for programs; see docs/spec-files.md
	Message string `json:"message"`
}

// Skips reports whether the file at a slash-separated path isn't a spec,
// because of its name: README and LICENSE files, the "._" files and __MACOSX
// folders that macOS adds, and all that doesn't end in ".md".
func Skips(name string) bool {
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

// Parse reads the file at a slash-separated path. The path gives the key, usually
// the number, and sometimes the phase and the title. Both arguments must be valid
// UTF-8; apart from that, any text will do.
func Parse(name, source string) File {
	f := File{Path: name, Criteria: Criteria(source), Priority: DefaultPriority}
	stem, _ := cutMarkdown(path.Base(name))
	f.Key = keyFromStem(stem)
	if utf8.RuneCountInString(stem) > maxKey {
		f.warn(0, "text_cut", "The file's name is longer than the %d characters of a key.", maxKey)
	}
	h := readHeader(source)
	f.Style = h.style
	f.takeNumberAndTitle(h)
	f.takeStatus(h)
	f.takePriority(h)
	f.takeReferences(h)
	phase := h.fields["phase"]
	f.Phase = f.cut(phase.line, "phase", cmp.Or(CanonicalPhase(phase.value), folderPhase(name)))
	ctx := h.fields["estimated context"]
	f.EstimatedContext = f.cut(ctx.line, "estimated context", oneLine(ctx.value))
	if h.openFence > 0 {
		f.warn(h.openFence, "unclosed_fence",
			"A code fence is opened here and never closed: the rest of the file is code.")
	}
	return f
}

func cutMarkdown(base string) (stem string, ok bool) {
	if len(base) >= 3 && strings.EqualFold(base[len(base)-3:], ".md") {
		return base[:len(base)-3], true
	}
	return base, false
}

func (f *File) warn(line int, code, format string, args ...any) {
	f.Warnings = append(f.Warnings, Warning{f.Path, line, code, fmt.Sprintf(format, args...)})
}

// cut shortens a field to maxText, with a warning.
func (f *File) cut(line int, field, text string) string {
	short := firstRunes(text, maxText)
	if short != text {
		f.warn(line, "text_cut", "The %s is cut to %d characters.", field, maxText)
	}
	return short
}

// takeNumberAndTitle reads "# 316 - Server Crate" and "# Spec 316: Server
// Crate". The file's name has the last word on the number.
func (f *File) takeNumberAndTitle(h header) {
	number, slug := cutNumber(f.Key)
	titleNumber, title := cutTitleNumber(oneLine(h.title))
	if number != "" && titleNumber != "" && trimZeros(number) != trimZeros(titleNumber) {
		f.warn(h.titleLine, "number_mismatch", "The title says %s and the file's name %s; the name counts.",
			firstRunes(titleNumber, maxNumber), number)
	}
	idNumber, _ := cutNumber(strings.ToLower(h.fields["spec id"].value))
	f.Number = cmp.Or(number, titleNumber, idNumber)
	if len(f.Number) > maxNumber {
		f.Number = f.Number[:maxNumber]
		f.warn(h.titleLine, "text_cut", "The number is cut to %d characters.", maxNumber)
	}
	if title == "" {
		title = cmp.Or(oneLine(strings.ReplaceAll(slug, "-", " ")), f.Key)
		f.warn(h.titleLine, "title_missing", "There is no title; the file's name stands in.")
	}
	f.Title = f.cut(h.titleLine, "title", title)
}

func (f *File) takeStatus(h header) {
	field := h.fields["status"]
	status, known := statusFromWords(field.value)
	if !known && field.value != "" {
		f.warn(field.line, "unknown_status", "%q is no status that is known here; the spec is planned.",
			firstRunes(field.value, 60))
	}
	f.Status = status
	open := func(c Criterion) bool { return !c.Done }
	if len(f.Criteria) > 0 && !slices.ContainsFunc(f.Criteria, open) {
		f.Status = "completed"
	}
}

// takePriority reads P0 to P3, a digit, or a word.
func (f *File) takePriority(h header) {
	field := h.fields["priority"]
	said := wordsOf(firstRunes(field.value, maxText))
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
			f.warn(field.line, "unknown_priority", "%q is no priority that is known here; it is %d.",
				firstRunes(field.value, 60), f.Priority)
			return
		}
		f.Priority = int(word[0] - '0')
	}
}

func (f *File) takeReferences(h header) {
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

// splitReferences splits a field at the commas outside parentheses and brackets.
// "None", in whatever words, is no reference.
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

// keyFromStem makes a key of a file's name without ".md": lower case, and "-" for
// each character that a key can't have.
func keyFromStem(stem string) string {
	key := strings.Map(func(r rune) rune {
		switch r = unicode.ToLower(r); {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '-'
	}, stem)
	return key[:min(len(key), maxKey)]
}

// CanonicalPhase returns the one form of all phases with the same number, since
// files seldom agree on more than that: "15 - Server", "15 - Server/API Layer",
// "phase-15-server" and "15" are all "Phase 15". Of a phase without a number it
// returns the text as a single line. To look for a phase that Parse returned, put
// it into this form first.
func CanonicalPhase(text string) string {
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
		if _, ok := cutFold(folder, "phase"); ok && CanonicalPhase(folder) != oneLine(folder) {
			return CanonicalPhase(folder)
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
