// Package specfile reads and writes specs in Markdown: a piece of work with a
// title, a status, acceptance criteria as checkboxes, and the specs that it
// depends on. docs/spec-files.md describes the format.
//
// [Parse] reads a file, and [Collect] the files of an import, where several files
// can be one spec, and one file several specs. [Resolve] finds out which other
// files dependencies mean, and [Cycles] finds those that depend on each other.
// [Render] writes the progress back: it changes the bytes of checkboxes and of the
// status line, and no others, so what people wrote stays as they wrote it.
//
// Parsing can't fail. What a file leaves out has a default; what it says but
// can't be understood has a default and a [Warning]. A dependency is never
// guessed: in doubt there is a warning and no dependency.
//
// Files may be hostile: parsing takes time in proportion to the text, resolving is
// bounded, and nothing recurses. All functions are pure: they do no I/O, keep no
// state, don't change their arguments, and are safe for concurrent use. Only [Keys]
// has state.
package specfile

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	maxText       = 200  // characters of a title, a phase, an estimated context
	maxReferences = 1000 // of one spec
	maxWarnings   = 100  // of one file
	maxTags       = 32
	maxTag        = 64 // characters
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
	StylePlain    = "plain"    // Status: Planned
	StyleTable    = "table"    // | Status | Planned |
	StyleMatter   = "matter"   // front matter
)

// File is what one Markdown file says.
type File struct {
	Path string // as given to Parse

	// Key is made from the file's name: without ".md", in lower case, and with "-"
	// for each character other than letters, digits, ".", "_" and "-".
	// It has at most 128 characters. Files in several folders can share it; see Keys.
	Key string

	// ID is what others can call the spec beside its key, or "". It is in lower
	// case and has at most 128 characters.
	ID string

	// Number is "316", "031a", "1.2" or "1-2", with its leading zeros, or "". It
	// has at most 16 characters.
	Number string

	// Title, Phase and EstimatedContext are single lines of at most 200
	// characters. Title is empty only if Key is. Phase is in the form of
	// CanonicalPhase.
	Title, Phase, EstimatedContext string

	// Status is "planned", "in_progress", "in_review", "testing", "completed",
	// "blocked" or "deferred". A file whose criteria are all checked is
	// completed, whatever its status line says.
	Status string

	// Review is "human" where the file asks for a person's review, or "". It can't
	// ask for none.
	Review string

	Priority int      // 0 to 9, 9 first
	Tags     []string // at most 32, each of at most 64 characters

	Rules    Rules // by which Criteria are found
	Criteria []Criterion

	// Refs are the dependencies as they are written, each once and at most 1,000; a
	// range or a group is one. RefLines has the line of each, from 1. Resolve says
	// what they mean.
	Refs     []string
	RefLines []int

	Style     string   // StyleBold, StyleList and so on, or "" without a header
	Documents []string // the paths of what belongs to the spec beside this file

	Warnings     []Warning // at most 100
	MoreWarnings int       // how many there would be beyond these
}

// home is the path that the spec's name comes from: the file's without ".md", or
// the folder's if the folder is the spec.
func (f File) home() string { return homeOf(f.Path, f.Rules) }

func homeOf(name string, rules Rules) string {
	if dir := path.Dir(name); rules == RulesBoxes && dir != "." {
		return dir
	}
	home, _ := cutMarkdown(name)
	return home
}

// Warning says what in a file couldn't be used as it is written, and what was done
// instead.
type Warning struct {
	File    string `json:"file"` // its path
	Line    int    `json:"line"` // from 1; 0 where no single line is meant
	Code    string `json:"code"` // such as unknown_status, for programs; see docs/spec-files.md
	Message string `json:"message"`
}

// Parse reads the file at a slash-separated path. The path gives the key, usually
// the number, and sometimes the phase and the title. Both arguments must be valid
// UTF-8; apart from that, any text will do.
func Parse(name, source string) File {
	f := File{Path: name, Rules: RulesSections, Priority: DefaultPriority}
	f.takeName()
	h, found, odd := readWhole(source, f.Rules)
	f.Style = h.style
	f.ID = firstRunes(strings.ToLower(oneLine(h.fields["spec id"].value)), maxKey)
	f.takeNumberAndTitle(h)
	f.takeCriteria(found, odd)
	f.takeStatus(h, found)
	f.takeReview(h)
	f.takePriority(h)
	f.takeReferences(h)
	f.takeTags(h)
	phase := h.fields["phase"]
	f.Phase = f.cut(phase.line, "phase", cmp.Or(CanonicalPhase(phase.value), folderPhase(name)))
	ctx := h.fields["estimated context"]
	f.EstimatedContext = f.cut(ctx.line, "estimated context", oneLine(ctx.value))
	f.warnOfHeader(h)
	return f
}

// takeName makes the key from the path.
func (f *File) takeName() {
	stem := path.Base(f.home())
	f.Key = keyFromStem(stem)
	if utf8.RuneCountInString(stem) > maxKey {
		f.warn(0, "text_cut", "The file's name is longer than the %d characters of a key.", maxKey)
	}
}

func (f *File) warn(line int, code, format string, args ...any) {
	if len(f.Warnings) == maxWarnings {
		f.MoreWarnings++
		return
	}
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
// Crate". The file's name takes precedence for the number, and the front matter for
// the title.
func (f *File) takeNumberAndTitle(h header) {
	number, slug := cutNumber(f.Key)
	heading, line := h.title, h.titleLine
	if field := h.fields["title"]; field.value != "" {
		heading, line = field.value, field.line
	}
	titleNumber, title := cutTitleNumber(oneLine(heading))
	if number != "" && titleNumber != "" && canonicalNumber(number) != canonicalNumber(titleNumber) {
		f.warn(line, "number_mismatch", "The title says %s and the file's name %s; the name counts.",
			firstRunes(titleNumber, maxNumber), number)
	}
	idNumber, _ := cutNumber(f.ID)
	f.Number = cmp.Or(number, titleNumber, idNumber)
	if len(f.Number) > maxNumber {
		f.Number = f.Number[:maxNumber]
		f.warn(line, "text_cut", "The number is cut to %d characters.", maxNumber)
	}
	if title == "" {
		title = cmp.Or(oneLine(strings.ReplaceAll(slug, "-", " ")), f.Key)
		if f.Rules != RulesBoxes {
			f.warn(line, "title_missing", "There is no title; the file's name is used instead.")
		}
	}
	f.Title = f.cut(line, "title", title)
}

func (f *File) takeCriteria(found []*foundCriterion, odd []int) {
	f.Criteria = plainCriteria(found)
	for _, line := range odd {
		f.warn(line, "odd_checkbox",
			"This looks like a checkbox but isn't one: it needs a list marker, spaces and a text.")
	}
}

// takeStatus reads the status line. In a file that is completed, criteria without
// a box are done.
func (f *File) takeStatus(h header, found []*foundCriterion) {
	field := h.fields["status"]
	status, known := statusFromWords(field.value)
	if !known && field.value != "" {
		f.warn(field.line, "unknown_status", "%q isn't a known status; the spec is planned.",
			firstRunes(field.value, 60))
	}
	f.Status = status
	for i, c := range found {
		f.Criteria[i].Done = c.done || !c.boxed && status == "completed"
	}
	open := func(c Criterion) bool { return !c.Done }
	if len(f.Criteria) > 0 && !slices.ContainsFunc(f.Criteria, open) {
		f.Status = "completed"
	}
}

// Review is the review that a body asks for: see File.
func Review(body string) string {
	return reviewFromWords(readHeader(body).fields["review"].value)
}

// takeReview reads whether a person is to review the work.
func (f *File) takeReview(h header) {
	field := h.fields["review"]
	if f.Review = reviewFromWords(field.value); f.Review == "" && field.value != "" {
		f.warn(field.line, "unknown_review", "%q isn't a review that a file can ask for: only human is. It is left out.",
			firstRunes(field.value, 60))
	}
}

// takePriority reads P0 to P3, a digit, or a word.
func (f *File) takePriority(h header) {
	field := h.fields["priority"]
	priority, known := priorityFromWords(field.value)
	if !known {
		f.warn(field.line, "unknown_priority", "%q isn't a known priority; it is %d.",
			firstRunes(field.value, 60), priority)
	}
	f.Priority = priority
}

func (f *File) takeReferences(h header) {
	seen := make(map[string]bool)
	for _, field := range h.dependencies {
		for item := range splitReferences(field.whole()) {
			if seen[item] {
				continue
			}
			if len(f.Refs) == maxReferences {
				f.warn(field.line, "too_many_references", "Only the first %d dependencies are read.", maxReferences)
				return
			}
			seen[item] = true
			f.Refs = append(f.Refs, item)
			f.RefLines = append(f.RefLines, field.line)
		}
	}
}

func (f *File) takeTags(h header) {
	for _, tag := range h.tags {
		for tag := range strings.SplitSeq(tag, ",") {
			tag = firstRunes(strings.TrimPrefix(oneLine(tag), "#"), maxTag)
			if tag != "" && !slices.Contains(f.Tags, tag) && len(f.Tags) < maxTags {
				f.Tags = append(f.Tags, tag)
			}
		}
	}
}

// warnOfHeader adds warnings for what looks like a field but isn't used.
func (f *File) warnOfHeader(h header) {
	for _, line := range h.oddMatter {
		f.warn(line, "odd_front_matter", "This line of the front matter isn't understood; it is left out.")
	}
	for _, passed := range h.passed {
		f.warn(passed.line, "field_passed_over",
			"This field (%s) isn't read here: fields belong before the first section, or in one of their own.", passed.name)
	}
	if h.openFence > 0 {
		f.warn(h.openFence, "unclosed_fence",
			"A code fence is opened here and never closed: the rest of the file is code.")
	}
	if h.openComment > 0 {
		f.warn(h.openComment, "unclosed_comment",
			"A comment is opened here and never closed: the rest of the file is left out.")
	}
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

// titleLabels are what a title can call its number.
var titleLabels = []string{"spec ", "story ", "task ", "feature ", "issue ", "epic ", "ticket ", "adr ", "rfc "}

// cutTitleNumber splits "316 - Server Crate", "1. Server Crate" and "Spec 316:
// Server Crate". A title that only happens to start with digits has no number.
func cutTitleNumber(title string) (number, rest string) {
	text, isSpec := title, false
	for _, label := range titleLabels {
		if after, ok := cutFold(title, label); ok {
			text, isSpec = after, label == titleLabels[0]
			break
		}
	}
	word, rest, _ := strings.Cut(strings.TrimLeft(text, " #"), " ")
	number = strings.TrimRight(word, ":.)")
	trimmed := strings.TrimLeft(rest, " :-–—")
	separated := number != word || rest == "" || len(trimmed) < len(strings.TrimLeft(rest, " "))
	if !isNumber(strings.ToLower(number)) || !isSpec && !separated {
		return "", title
	}
	return strings.ToLower(number), trimmed
}
