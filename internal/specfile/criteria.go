package specfile

// Criteria in a body: which lines they are, and what belongs to each.

import (
	"slices"
	"strings"
)

// Rules say which lines of a body are its criteria. They are part of what is
// stored with a body, since criteria are known by their positions.
type Rules int

const (
	// RulesFirst are those of the first version: the boxes below the headings
	// "Acceptance Criteria", where brackets hold a space or an x.
	RulesFirst Rules = 1

	// RulesSections take the boxes, or else the items or scenarios, of sections
	// that mean acceptance; without any, the boxes of sections of tasks; without
	// these, all boxes.
	RulesSections Rules = 2

	// RulesBoxes take all boxes, whatever they stand under.
	RulesBoxes Rules = 3
)

// Criterion is something that must hold before the work counts as done.
type Criterion struct {
	Index int    `json:"index"` // from 1, throughout the file
	Text  string `json:"text"`
	Done  bool   `json:"done"`
}

// Criteria returns the criteria of a body, in their order, or nil if there are none.
func Criteria(body string, rules Rules) []Criterion {
	found, _ := findCriteria(body, rules)
	return plainCriteria(found)
}

func plainCriteria(found []*foundCriterion) (criteria []Criterion) {
	for i, c := range found {
		criteria = append(criteria, Criterion{i + 1, oneLine(strings.Join(c.parts, " ")), c.done})
	}
	return criteria
}

// foundCriterion is a criterion and where its box stands.
type foundCriterion struct {
	checkbox
	boxed   bool     // it has a box
	section int      // of those that mean acceptance, from 1, or 0
	task    bool     // it is in a section of tasks
	parts   []string // its text, line by line
}

// findCriteria also returns the lines that look like criteria and aren't.
func findCriteria(body string, rules Rules) (found []*foundCriterion, odd []int) {
	if rules == RulesFirst {
		return firstCriteria(body), nil
	}
	r := criteriaReader{scanner: newScanner(body)}
	for r.scan() {
		r.readLine()
	}
	return r.criteria(rules)
}

// criteria are what has been read, by one of the rules, and the lines that look like
// criteria and aren't.
func (r *criteriaReader) criteria(rules Rules) (found []*foundCriterion, odd []int) {
	if rules == RulesBoxes {
		return r.boxes, r.odd
	}
	var byBoxes, byTasks []*foundCriterion
	boxed := make(map[int]bool)
	for _, box := range r.boxes {
		if boxed[box.section] = true; box.section > 0 {
			byBoxes = append(byBoxes, box)
		} else if box.task {
			byTasks = append(byTasks, box)
		}
	}
	for _, item := range r.items {
		if !boxed[item.section] {
			byBoxes = append(byBoxes, item)
		}
	}
	slices.SortStableFunc(byBoxes, func(a, b *foundCriterion) int { return a.section - b.section })
	switch {
	case len(byBoxes) > 0:
		return byBoxes, r.oddAccepted
	case len(byTasks) > 0:
		return byTasks, r.odd
	}
	return r.boxes, r.odd
}

// criteriaReader gathers all boxes, and the items of sections that mean
// acceptance: only at the end of a section is it clear which of them count.
type criteriaReader struct {
	*scanner
	boxes, items     []*foundCriterion
	odd, oddAccepted []int

	kind         string // of the section: acceptance, tasks, or ""
	sectionLevel int    // of its heading
	sections     int
	open         []openItem // the list items that the next line can be a part of
	afterBlank   bool

	scenario    *foundCriterion // the last of items, if steps can follow it
	given, when bool            // the steps that it has
}

// openItem is a list item: how far it is indented, and the criterion that it is,
// or is a part of, if any.
type openItem struct {
	indent    int
	criterion *foundCriterion
}

func (r *criteriaReader) readLine() {
	switch {
	case r.hidden:
		if r.kind == acceptance && (r.language == "gherkin" || r.language == "feature" || r.language == "cucumber") {
			r.readStep(r.text)
		}
	case r.level > 0:
		r.open = nil
		r.readHeading()
	case r.blank:
	default:
		if r.isItem {
			r.readItem(r.item)
		} else {
			r.readText(r.item)
		}
	}
	r.afterBlank = r.blank || r.hidden
}

func (r *criteriaReader) readHeading() {
	kind := r.section
	if r.kind != "" && r.level <= r.sectionLevel {
		r.kind, r.scenario = "", nil
	}
	switch {
	case r.kind == acceptance:
		r.scenario = nil
		r.readStep(r.heading)
	case kind == acceptance:
		r.sections++
		r.kind, r.sectionLevel, r.scenario = kind, r.level, nil
	case kind == tasks && r.kind == "":
		r.kind, r.sectionLevel = kind, r.level
	}
}

// readItem reads a list item: a box, a part of the item above, or what can be a
// criterion without a box.
func (r *criteriaReader) readItem(item string) {
	indent := indentOf(r.text)
	r.closeItems(indent)
	var c *foundCriterion
	if n := len(r.open); n > 0 {
		c = r.open[n-1].criterion
	}
	if box, ok := r.checkbox(); ok {
		c = r.newCriterion(box)
		r.boxes = append(r.boxes, c)
	} else if looksLikeBox(item) {
		r.noteOdd()
	} else if c != nil {
		c.parts = append(c.parts, "- "+item)
	} else if len(r.open) == 0 && r.kind == acceptance && strings.Trim(item, "-*_ ") != "" {
		if !r.readStep(item) {
			r.scenario = nil
			r.addItem(item)
		}
		c = r.items[len(r.items)-1]
	}
	r.open = append(r.open, openItem{indent, c})
}

// readText reads a line that is no list item: it goes on the item above, unless
// a blank line and too little indent tell them apart.
func (r *criteriaReader) readText(text string) {
	if r.afterBlank || startsWithAny(text, ">|<") {
		r.closeItems(indentOf(r.text))
	}
	if n := len(r.open); n > 0 {
		if c := r.open[n-1].criterion; c != nil {
			c.parts = append(c.parts, strings.TrimSpace(text))
		}
		return
	}
	if startsWithAny(text, "-*+[") && looksLikeBox(strings.TrimLeft(text, "-*+")) {
		r.noteOdd()
	} else if r.kind == acceptance {
		r.readStep(text)
	}
}

func (r *criteriaReader) closeItems(indent int) {
	for n := len(r.open); n > 0 && r.open[n-1].indent >= indent; n-- {
		r.open = r.open[:n-1]
	}
}

func (r *criteriaReader) newCriterion(box checkbox) *foundCriterion {
	c := &foundCriterion{checkbox: box, boxed: true, task: r.kind == tasks, parts: []string{box.text}}
	if r.kind == acceptance {
		c.section = r.sections
	}
	return c
}

func (r *criteriaReader) addItem(text string) {
	r.items = append(r.items, &foundCriterion{section: r.sections, parts: []string{strings.TrimSpace(text)}})
}

// readStep reads a line of a scenario: one begins with its name or with what is
// given, and what follows is a part of it. It reports whether the line was one.
func (r *criteriaReader) readStep(line string) bool {
	text := strings.TrimLeft(line, " \t*_`")
	word, _, _ := strings.Cut(text, " ")
	starts, repeated := false, r.scenario == nil
	switch strings.ToLower(strings.Trim(word, ":,*_`")) {
	case "scenario", "example":
		r.given, r.when, starts = false, false, true
	case "given":
		starts = repeated || r.given || r.when
		r.given, r.when = true, r.when && !starts
	case "when":
		starts = repeated || r.when
		r.given, r.when = r.given && !starts, true
	case "then", "and", "but":
		if repeated {
			return false
		}
	default:
		return false
	}
	if starts {
		r.addItem(text)
		r.scenario = r.items[len(r.items)-1]
		return true
	}
	r.scenario.parts = append(r.scenario.parts, strings.TrimSpace(text))
	return true
}

func (r *criteriaReader) noteOdd() {
	r.odd = append(r.odd, r.number)
	if r.kind == acceptance {
		r.oddAccepted = append(r.oddAccepted, r.number)
	}
}

// looksLikeBox reports whether a text was meant to be a checkbox, but lacks the
// spaces or the text.
func looksLikeBox(text string) bool {
	for _, box := range []string{"[ ]", "[x]", "[X]"} {
		if rest, ok := strings.CutPrefix(text, box); ok {
			return !strings.HasPrefix(rest, "(")
		}
	}
	return false
}

// Reread returns the criteria of a body by other rules than those that it is stored
// with, in the states that done says of these. What they share are boxes.
func Reread(body string, stored Rules, done []bool, rules Rules) []Criterion {
	found, _ := findCriteria(body, rules)
	criteria := plainCriteria(found)
	if stored == rules {
		for i := range min(len(criteria), len(done)) {
			criteria[i].Done = done[i]
		}
		return criteria
	}
	earlier, _ := findCriteria(body, stored)
	states := make(map[int]bool, len(earlier)) // by the place of the box
	for i, c := range earlier[:min(len(earlier), len(done))] {
		if c.boxed {
			states[c.mark] = done[i]
		}
	}
	for i, c := range found {
		if state, known := states[c.mark]; known && c.boxed {
			criteria[i].Done = state
		}
	}
	return criteria
}

// CarryUnboxed returns which criteria of an edited body are done: those that it says
// are, and of those without a box the ones that were done before.
func CarryUnboxed(before []Criterion, body string, rules Rules) []bool {
	found, _ := findCriteria(body, rules)
	done := CarryDone(before, plainCriteria(found))
	for i, c := range found {
		if c.boxed {
			done[i] = c.done
		}
	}
	return done
}

// CarryDone returns which criteria are done when a file has changed, one flag for
// each of after: those that after says are, and those that were done before under
// the same text, whatever their index. If several have the same text, the first
// takes over from the first, the second from the second.
func CarryDone(before, after []Criterion) []bool {
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
