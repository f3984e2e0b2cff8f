package specfile

// Dependencies between files: what a reference means. One that means nothing, or
// several things, or contradicts itself, is a warning and not a dependency.

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Bounds on what files can make resolving cost.
const (
	maxFollowed = 4 * maxReferences // members of a spec's groups, those named twice included
	maxEdges    = 100_000           // of all specs that are resolved together
	maxTwins    = 50                // specs with one number or slug that a reference is compared with
)

// Node is a spec for Resolve: what others call it, and what it refers to. The
// fields are those of the same name of a File.
type Node struct {
	Key, Number, Title, Phase, Style string

	Path     string // for warnings; may be ""
	Refs     []string
	RefLines []int // for warnings; may be nil
}

// Resolve finds out which nodes the references of each node mean. Keys must be
// unique.
//
// edges[key] lists the keys that key depends on: sorted, without duplicates,
// without key itself, and at most 1,000. Nodes that depend on none have no entry.
// All together there are at most 100,000 edges. Each reference without an edge
// has a warning. Cycles are left in; see Cycles.
func Resolve(nodes []Node) (edges map[string][]string, warnings []Warning) {
	x := newIndex(nodes)
	edges = make(map[string][]string)
	all := 0
	for _, node := range nodes {
		targets := make(map[string]bool)
		followed := 0
		for i, item := range node.Refs {
			found, problem := x.resolve(node, parseReference(item))
			followed += len(found)
			more := countNew(targets, found)
			if problem == nil && (followed > maxFollowed || len(targets)+more > maxReferences || all+more > maxEdges) {
				problem = tooMany()
			}
			if problem != nil {
				warnings = append(warnings, problem.warning(node, i))
				continue
			}
			for _, target := range found {
				targets[target.Key] = true
			}
			all += more
		}
		if len(targets) > 0 {
			edges[node.Key] = slices.Sorted(maps.Keys(targets))
		}
	}
	return edges, warnings
}

func countNew(known map[string]bool, found []*Node) (n int) {
	for _, node := range found {
		if !known[node.Key] {
			n++
		}
	}
	return n
}

// reference is one item of a dependency list, read but not resolved: a single
// spec, or a group of them if phase or last is set.
type reference struct {
	key    string // the first word, as a key
	number string // "316", "031a"
	title  string // what the spec is said to be about

	first, last string // a range: numbers or keys
	phase       string // a phase, in the canonical form
	previous    bool   // of the phase, only those before the referrer
}

// parseReference reads one item in any of the forms
//
//	316-server-crate   575   Spec 311: Title   Spec 161 (Title)
//	311-320   A through B   Phase 15 Specs (311-334)
//	Phase 10 (Title)   All Phase 15 specs   All previous Phase 4 specs
func parseReference(item string) reference {
	text := cleanReference(item)
	if ref, ok := parsePhaseReference(text); ok {
		return ref
	}
	if first, last, ok := cutRange(text); ok {
		return reference{key: strings.ToLower(text), first: first, last: last}
	}
	text, _ = cutFold(text, "specs ")
	text, _ = cutFold(text, "spec ")
	text = strings.TrimLeft(text, "# ")
	word := text
	if i := strings.IndexAny(text, " \t:("); i >= 0 {
		word = text[:i]
	}
	ref := reference{key: strings.ToLower(word)}
	if stem, ok := cutMarkdown(ref.key); ok {
		ref.key = stem
	}
	ref.number, ref.title = cutNumber(ref.key)
	if ref.number != "" && ref.title == "" {
		ref.title = text[len(word):]
	}
	return ref
}

// cleanReference takes off a task's box, a link's target, and emphasis.
func cleanReference(item string) string {
	text := strings.TrimSpace(item)
	if len(text) > 3 && text[0] == '[' && text[2] == ']' {
		text = strings.TrimSpace(text[3:])
	}
	if label, isLink := strings.CutPrefix(text, "["); isLink {
		if before, after, ok := strings.Cut(label, "]("); ok && strings.Contains(after, ")") {
			text = before
		}
	}
	return strings.Trim(text, "*_`. \t")
}

// parsePhaseReference reads "[All] [previous] Phase 15 …", with a range of
// numbers in parentheses or without.
func parsePhaseReference(text string) (reference, bool) {
	ref := reference{}
	rest := text
	for {
		word, after, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
		switch strings.ToLower(word) {
		case "all", "of", "the", "specs", "in", "from":
		case "previous", "prior", "earlier":
			ref.previous = true
		case "phase":
			number, behind := leadingNumber(strings.TrimLeft(after, " "))
			ref.phase = CanonicalPhase("phase " + number)
			if _, inside, ok := strings.Cut(behind, "("); ok {
				behind, _, _ = strings.Cut(inside, ")")
			}
			ref.first, ref.last, _ = cutRange(strings.TrimSpace(behind))
			return ref, number != ""
		default:
			return reference{}, false
		}
		rest = after
	}
}

// cutRange splits "311-320", "311 to 320" and "a-key through b-key". Both ends
// are single words: "Spec 3: From A to B" is no range.
func cutRange(text string) (first, last string, ok bool) {
	text, _ = cutFold(text, "specs ")
	text, _ = cutFold(text, "spec ")
	parts := strings.Fields(strings.ToLower(text))
	if len(parts) == 4 && parts[2] == "spec" {
		parts = slices.Delete(parts, 2, 3)
	}
	if len(parts) == 3 && slices.Contains([]string{"-", "–", "—", "to", "through", "thru"}, parts[1]) {
		if isNumbered(parts[0]) && isNumbered(parts[2]) {
			return parts[0], parts[2], true
		}
		return "", "", false
	}
	if len(parts) != 1 {
		return "", "", false
	}
	first, rest := leadingNumber(parts[0])
	last, tail := leadingNumber(strings.TrimLeft(rest, "-–—"))
	if first == "" || last == "" || rest == last || tail != "" {
		return "", "", false
	}
	return first, last, true
}

func isNumbered(key string) bool {
	number, _ := cutNumber(key)
	return number != ""
}

// index finds nodes by all that a reference can say. Its lists are ordered
// by number.
type index struct {
	byKey    map[string]*Node
	bySlug   map[string][]*Node
	byNumber map[string][]*Node // "31a", without leading zeros
	byDigits map[string][]*Node // those with a letter, by the number without it
	byPhase  map[string][]*Node
	numbered []*Node
	about    map[*Node][]string // the words of title and slug
}

func newIndex(nodes []Node) *index {
	x := &index{
		byKey:    make(map[string]*Node, len(nodes)),
		bySlug:   make(map[string][]*Node, len(nodes)),
		byNumber: make(map[string][]*Node, len(nodes)),
		byDigits: make(map[string][]*Node),
		byPhase:  make(map[string][]*Node),
		about:    make(map[*Node][]string, len(nodes)),
	}
	ordered := make([]*Node, len(nodes))
	for i := range nodes {
		ordered[i] = &nodes[i]
	}
	slices.SortFunc(ordered, func(a, b *Node) int {
		return cmp.Or(compareNumbers(a.Number, b.Number), cmp.Compare(a.Key, b.Key))
	})
	for _, node := range ordered {
		_, slug := cutNumber(node.Key)
		phase := CanonicalPhase(node.Phase)
		x.byKey[node.Key] = node
		x.bySlug[slug] = append(x.bySlug[slug], node)
		x.byPhase[phase] = append(x.byPhase[phase], node)
		x.about[node] = titleWords(node.Title + " " + slug)
		if !isNumbered(node.Number) {
			continue
		}
		number := trimZeros(node.Number)
		x.numbered = append(x.numbered, node)
		x.byNumber[number] = append(x.byNumber[number], node)
		if digits, letter := cutLetter(number); letter != "" {
			x.byDigits[digits] = append(x.byDigits[digits], node)
		}
	}
	return x
}

// refProblem is why a reference has no edge: a warning's code, and a clause
// for people.
type refProblem struct{ code, reason string }

func dangling(format string, args ...any) *refProblem {
	return &refProblem{"dangling_reference", fmt.Sprintf(format, args...)}
}

func ambiguous(candidates []*Node) *refProblem {
	return &refProblem{"ambiguous_reference", fmt.Sprintf("%s and %s both fit", candidates[0].Key, candidates[1].Key)}
}

func tooMany() *refProblem {
	return &refProblem{"too_many_dependencies", fmt.Sprintf("a spec has at most %d dependencies", maxReferences)}
}

// warning is what people are told about node.Refs[i].
func (p *refProblem) warning(node Node, i int) Warning {
	line := 0
	if i < len(node.RefLines) {
		line = node.RefLines[i]
	}
	item := firstRunes(node.Refs[i], 100)
	return Warning{node.Path, line, p.code, fmt.Sprintf("%q is no dependency: %s.", item, p.reason)}
}

// resolve finds what a reference of node from points at, or says why not.
func (x *index) resolve(from Node, ref reference) ([]*Node, *refProblem) {
	var found []*Node
	var problem *refProblem
	switch {
	case ref.phase != "":
		found, problem = x.phaseGroup(from, ref)
	case ref.last != "" && x.byKey[ref.key] == nil:
		found, problem = x.rangeGroup(from, ref)
	default:
		found, problem = x.single(from, ref)
	}
	if problem != nil {
		return nil, problem
	}
	others := make([]*Node, 0, len(found))
	for _, node := range found {
		if node.Key != from.Key {
			others = append(others, node)
		}
	}
	if len(others) == 0 {
		return nil, &refProblem{"self_reference", "it names nothing but the spec itself"}
	}
	return others, nil
}

// single resolves a reference to one spec. The order of the rules counts: the
// key; the slug under another number; the number, if the title agrees.
func (x *index) single(from Node, ref reference) ([]*Node, *refProblem) {
	if node := x.byKey[ref.key]; node != nil {
		return []*Node{node}, nil
	}
	_, slug := cutNumber(ref.key)
	if moved := x.bySlug[slug]; slug != "" && len(moved) > 0 {
		return pickOne(moved, from.Style)
	}
	if ref.number == "" {
		return nil, dangling("no spec has that key")
	}
	number := trimZeros(ref.number)
	named := x.byNumber[number]
	lettered := len(named) == 0
	if lettered {
		named = x.byDigits[number]
	}
	if len(named) == 0 {
		return nil, dangling("no spec has that number")
	}
	agreeing, problem := x.agreeing(named, ref.title)
	switch {
	case problem != nil:
		return nil, problem
	case lettered:
		return named, nil
	}
	return pickOne(agreeing, from.Style)
}

// pickOne picks the only candidate, or the only one in the referrer's style.
func pickOne(candidates []*Node, style string) ([]*Node, *refProblem) {
	if len(candidates) > maxTwins {
		return nil, ambiguous(candidates)
	}
	if candidates = inStyle(candidates, style); len(candidates) > 1 {
		return nil, ambiguous(candidates)
	}
	return candidates, nil
}

// inStyle narrows twins down to those of a style, if any has it.
func inStyle(twins []*Node, style string) []*Node {
	if len(twins) < 2 {
		return twins
	}
	var same []*Node
	for _, node := range twins {
		if node.Style == style {
			same = append(same, node)
		}
	}
	if len(same) == 0 {
		return twins
	}
	return same
}

// agreeing keeps the candidates that share the most words with a title: all of
// them where no title is given. To share none is a contradiction.
func (x *index) agreeing(candidates []*Node, title string) ([]*Node, *refProblem) {
	given := titleWords(title)
	switch {
	case len(candidates) > maxTwins:
		return nil, ambiguous(candidates)
	case len(given) == 0:
		return candidates, nil
	}
	var best []*Node
	most := 1
	for _, node := range candidates {
		shared := 0
		for _, word := range given {
			if slices.Contains(x.about[node], word) {
				shared++
			}
		}
		if shared > most {
			best, most = nil, shared
		}
		if shared == most {
			best = append(best, node)
		}
	}
	if len(best) == 0 {
		node := candidates[0]
		reason := fmt.Sprintf("%s is %q", node.Key, firstRunes(node.Title, 100))
		return nil, &refProblem{"contradicting_reference", reason}
	}
	return best, nil
}

// titleWords are the words that tell one title from another, in the singular.
func titleWords(title string) []string {
	var telling []string
	for _, word := range wordsOf(firstRunes(title, maxText)) {
		switch word {
		case "a", "an", "and", "the", "of", "for", "to", "in", "on", "with", "from", "by", "or", "spec", "specs":
			continue
		}
		if singular, ok := strings.CutSuffix(word, "s"); ok && len(singular) > 2 && !strings.HasSuffix(singular, "s") {
			word = singular
		}
		if !slices.Contains(telling, word) {
			telling = append(telling, word)
		}
	}
	return telling
}

// phaseGroup is all members of a phase: before the referrer if only the
// previous ones are meant, and within the range if one is given.
func (x *index) phaseGroup(from Node, ref reference) ([]*Node, *refProblem) {
	members := x.byPhase[ref.phase]
	if ref.previous {
		end, _ := slices.BinarySearchFunc(members, from.Number, orderOf)
		members = members[:end]
	}
	if ref.last != "" {
		return onePerNumber(numbersBetween(members, ref.first, ref.last), from.Style)
	}
	return boundedGroup(members)
}

// rangeGroup is all from one number, or key, to another.
func (x *index) rangeGroup(from Node, ref reference) ([]*Node, *refProblem) {
	first, problem := x.endOfRange(from, ref.first)
	if problem != nil {
		return nil, problem
	}
	last, problem := x.endOfRange(from, ref.last)
	if problem != nil {
		return nil, problem
	}
	return onePerNumber(numbersBetween(x.numbered, first, last), from.Style)
}

// endOfRange is the number of one end. A key must be some spec's; a plain
// number needn't.
func (x *index) endOfRange(from Node, end string) (string, *refProblem) {
	number, slug := cutNumber(end)
	if slug == "" {
		return number, nil
	}
	nodes, problem := x.single(from, reference{key: end, number: number, title: slug})
	if problem != nil {
		return "", problem
	}
	return nodes[0].Number, nil
}

// boundedGroup refuses groups without members and those with too many.
func boundedGroup(members []*Node) ([]*Node, *refProblem) {
	switch {
	case len(members) == 0:
		return nil, &refProblem{"empty_group", "no spec here belongs to that group"}
	case len(members) > maxFollowed:
		return nil, tooMany()
	}
	return members, nil
}

// onePerNumber is for groups told by their numbers: of specs with the same one
// it takes those in the referrer's style, if there are any.
func onePerNumber(members []*Node, style string) ([]*Node, *refProblem) {
	members, problem := boundedGroup(members)
	if problem != nil {
		return nil, problem
	}
	var chosen []*Node
	for len(members) > 0 {
		twins := 1
		for isNumbered(members[0].Number) && twins < len(members) && orderOf(members[twins], members[0].Number) == 0 {
			twins++
		}
		chosen = append(chosen, inStyle(members[:twins], style)...)
		members = members[twins:]
	}
	return chosen, nil
}

// numbersBetween is the part of an ordered list from one number to another. "311-320"
// has 320a in it.
func numbersBetween(ordered []*Node, first, last string) []*Node {
	if _, letter := cutLetter(last); letter == "" {
		last += "~"
	}
	start, _ := slices.BinarySearchFunc(ordered, first, orderOf)
	end, _ := slices.BinarySearchFunc(ordered, last, orderOf)
	if _, letter := cutLetter(last); letter != "~" {
		for end < len(ordered) && orderOf(ordered[end], last) == 0 {
			end++
		}
	}
	return ordered[start:max(start, end)]
}

func orderOf(node *Node, number string) int { return compareNumbers(node.Number, number) }

// compareNumbers orders "9", "31", "31a", "031b"; what has no number is first.
func compareNumbers(a, b string) int {
	digitsA, letterA := cutLetter(a)
	digitsB, letterB := cutLetter(b)
	digitsA, digitsB = strings.TrimLeft(digitsA, "0"), strings.TrimLeft(digitsB, "0")
	return cmp.Or(cmp.Compare(len(digitsA), len(digitsB)), cmp.Compare(digitsA, digitsB), cmp.Compare(letterA, letterB))
}

// cutLetter splits "031a" into its digits and what follows them.
func cutLetter(number string) (digits, letter string) {
	letter = strings.TrimLeft(number, "0123456789")
	return number[:len(number)-len(letter)], letter
}
