package specfile

// What references mean. One that means nothing, or several things, or contradicts
// itself, is a warning and not a dependency.

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Limits on the cost of resolving, whatever the files contain.
const (
	maxFollowed = 4 * maxReferences // members of a spec's groups, those named twice included
	maxEdges    = 100_000           // of all specs that are resolved together
	maxTwins    = 50                // specs with one number or slug that a reference is compared with
	maxSteps    = 2_000_000         // of all, for specs looked at and the words they are compared by
	stepsEach   = 10                // and for each different reference, with one more for 10 bytes of it
	maxProblems = 1000              // warnings that are made; more are counted
)

// Node is a spec for Resolve: what others call it, and what it refers to. The
// fields are those of the same name in a File, except that the key is unique.
type Node struct {
	Key, ID, Number, Title, Phase, Style string

	Path     string // may be ""
	Rules    Rules  // of its body, which say whether the path is that of a folder
	Refs     []string
	RefLines []int // for warnings; may be nil
}

// Resolution is what Resolve finds out.
type Resolution struct {
	// Edges[key] lists the keys that key depends on: sorted, without duplicates,
	// without key itself, and at most 1,000. Nodes that depend on none have no entry.
	// All together there are at most 100,000 edges. Cycles are left in; see Cycles.
	Edges map[string][]string

	// Warnings[key] has a warning for each reference of key without an edge, in the
	// order of the references. After too_many_dependencies the others of that
	// node aren't looked at.
	Warnings map[string][]Warning

	MoreWarnings int // beyond 1,000
}

// Resolve finds out which nodes the references of each node mean. Keys must be
// unique. What it costs is bounded for all nodes together: each different
// reference is resolved once in each folder. The error is the context's.
func Resolve(ctx context.Context, nodes []Node) (Resolution, error) {
	r := resolver{index: newIndex(nodes), known: make(map[askedReference]resolved)}
	r.Edges, r.Warnings = make(map[string][]string), make(map[string][]Warning)
	warned := 0
	for i := range nodes {
		if err := ctx.Err(); err != nil {
			return Resolution{}, err
		}
		node := &nodes[i]
		from := indexedNode{Node: node, folder: path.Dir(homeOf(node.Path, node.Rules))}
		targets := make(map[string]bool)
		followed := 0
		for ref, item := range node.Refs {
			found, problem := r.resolve(&from, item)
			if problem == nil {
				problem = r.follow(node, found, targets, &followed)
			}
			if problem == nil {
				continue
			}
			if warned++; warned > maxProblems {
				r.MoreWarnings++
			} else {
				r.Warnings[node.Key] = append(r.Warnings[node.Key], problem.warning(node, ref))
			}
			if problem.code == tooMany {
				break
			}
		}
		if len(targets) > 0 {
			r.Edges[node.Key] = slices.Sorted(maps.Keys(targets))
		}
	}
	return r.Resolution, nil
}

// resolver resolves references, and counts what it costs: before the work, and
// whatever comes of it.
type resolver struct {
	*index
	Resolution
	known map[askedReference]resolved
	steps int
	edges int
}

// askedReference is what decides what a reference means, except for those to "all
// previous" ones, which depend on the referrer's number.
type askedReference struct{ item, folder, style string }

type resolved struct {
	found   []*indexedNode
	problem *refProblem
}

// follow adds what a reference means to a node's targets, unless there are too
// many.
func (r *resolver) follow(node *Node, found []*indexedNode, targets map[string]bool, followed *int) *refProblem {
	*followed += len(found)
	r.steps += len(found)
	if *followed > maxFollowed || r.steps > maxSteps {
		return errTooMany
	}
	more := 0
	for _, target := range found {
		if target.Key != node.Key && !targets[target.Key] {
			more++
		}
	}
	if len(targets)+more > maxReferences || r.edges+more > maxEdges {
		return errTooMany
	}
	others := false
	for _, target := range found {
		if target.Key != node.Key {
			targets[target.Key], others = true, true
		}
	}
	r.edges += more
	if !others {
		return &refProblem{"self_reference", "it names nothing but the spec itself"}
	}
	return nil
}

// resolve finds what a reference points at, or says why not.
func (r *resolver) resolve(from *indexedNode, item string) ([]*indexedNode, *refProblem) {
	asked := askedReference{item, from.folder, from.Style}
	if known, ok := r.known[asked]; ok {
		r.steps++
		return known.found, known.problem
	}
	if r.steps += stepsEach + len(item)/10; r.steps > maxSteps {
		return nil, errTooMany
	}
	ref := parseReference(item)
	found, problem := r.parsed(from, ref)
	if !ref.previous {
		r.known[asked] = resolved{found, problem}
	}
	return found, problem
}

func (r *resolver) parsed(from *indexedNode, ref reference) ([]*indexedNode, *refProblem) {
	switch {
	case ref.phase != "":
		return r.phaseGroup(from, ref)
	case ref.last != "" && r.lookup(byKey, from, ref.key) == nil &&
		r.lookup(byNumber, from, canonicalNumber(ref.key)) == nil:
		return r.rangeGroup(from, ref)
	}
	return r.single(from, ref)
}

// nameKind is a way to call a spec.
type nameKind int

const (
	byKey    nameKind = iota // its key, or what its file's name makes
	byID                     // what it calls itself
	bySlug                   // the key without its number
	byNumber                 // in the canonical form
	byDigits                 // of those with a letter, the number without it
	byTitle                  // as a key
	byPath                   // of the file, without ".md", or of the folder; in lower case
	byTail                   // the last two parts of that
)

// nodeName is a name in a folder, or anywhere.
type nodeName struct {
	kind   nameKind
	folder string
	name   string
}

const anywhere = "\x00"

// indexedNode is a node with what is compared of it.
type indexedNode struct {
	*Node
	folder, home string
	about        []string // the words of title and slug
}

// index finds nodes by all that a reference can say. Its lists are ordered
// by number.
type index struct {
	names    map[nodeName][]*indexedNode
	byPhase  map[string][]*indexedNode
	numbered []*indexedNode
}

func newIndex(nodes []Node) *index {
	x := &index{names: make(map[nodeName][]*indexedNode, 8*len(nodes)), byPhase: make(map[string][]*indexedNode)}
	ordered := make([]*indexedNode, len(nodes))
	for i := range nodes {
		home := homeOf(nodes[i].Path, nodes[i].Rules)
		ordered[i] = &indexedNode{Node: &nodes[i], home: strings.ToLower(home), folder: path.Dir(home)}
	}
	slices.SortFunc(ordered, func(a, b *indexedNode) int {
		return cmp.Or(compareNumbers(a.Number, b.Number), cmp.Compare(a.Key, b.Key))
	})
	for _, node := range ordered {
		name := node.Key
		if node.Path != "" {
			name = keyFromStem(path.Base(node.home))
		}
		_, slug := cutNumber(name)
		x.add(byKey, node, node.Key)
		if name != node.Key {
			x.add(byKey, node, name)
		}
		x.add(byID, node, node.ID)
		x.add(bySlug, node, slug)
		x.add(byTitle, node, keyFromStem(node.Title))
		if node.Path != "" {
			x.add(byPath, node, node.home)
			x.add(byTail, node, tailOf(node.home))
		}
		phase := CanonicalPhase(node.Phase)
		x.byPhase[phase] = append(x.byPhase[phase], node)
		node.about = titleWords(node.Title + " " + slug)
		if !isNumbered(node.Number) {
			continue
		}
		number := canonicalNumber(node.Number)
		x.numbered = append(x.numbered, node)
		x.add(byNumber, node, number)
		if digits, letter := cutLetter(number); letter != "" && letterless(digits) {
			x.add(byDigits, node, digits)
		}
	}
	return x
}

func (x *index) add(kind nameKind, node *indexedNode, name string) {
	if name == "" {
		return
	}
	for _, folder := range []string{node.folder, anywhere} {
		at := nodeName{kind, folder, name}
		x.names[at] = append(x.names[at], node)
	}
}

// lookup finds what has a name: in the referrer's folder or, if nothing has it
// there, anywhere.
func (x *index) lookup(kind nameKind, from *indexedNode, name string) []*indexedNode {
	if near := x.names[nodeName{kind, from.folder, name}]; len(near) > 0 || name == "" {
		return near
	}
	return x.names[nodeName{kind, anywhere, name}]
}

func tailOf(home string) string {
	return path.Join(path.Base(path.Dir(home)), path.Base(home))
}

// refProblem is why a reference has no edge: a warning's code, and a clause
// for people.
type refProblem struct{ code, reason string }

const tooMany = "too_many_dependencies"

var errTooMany = &refProblem{tooMany,
	fmt.Sprintf("a spec has at most %d dependencies, and a mission %d; what follows isn't read", maxReferences, maxEdges)}

func dangling(format string, args ...any) *refProblem {
	return &refProblem{"dangling_reference", fmt.Sprintf(format, args...)}
}

func ambiguous(candidates []*indexedNode) *refProblem {
	return &refProblem{"ambiguous_reference", fmt.Sprintf("%s and %s both match", candidates[0].Key, candidates[1].Key)}
}

// warning is what people are told about node.Refs[i].
func (p *refProblem) warning(node *Node, i int) Warning {
	line := 0
	if i < len(node.RefLines) {
		line = node.RefLines[i]
	}
	item := firstRunes(oneLine(node.Refs[i]), 100)
	return Warning{node.Path, line, p.code, fmt.Sprintf("%q isn't a dependency: %s.", item, p.reason)}
}

// single resolves a reference to one spec. The order of the rules counts: the
// path; the key; what a spec calls itself; the slug under another number; the title;
// the number, if the title agrees.
func (r *resolver) single(from *indexedNode, ref reference) ([]*indexedNode, *refProblem) {
	if ref.path != "" {
		if found := r.atPath(from, strings.ToLower(withoutMarkdown(ref.path))); len(found) > 0 {
			return pickOne(found, from.Style)
		}
	}
	_, slug := cutNumber(ref.key)
	number := canonicalNumber(ref.number)
	for _, found := range [][]*indexedNode{
		r.lookup(byKey, from, ref.key), r.lookup(byKey, from, ref.whole), r.lookup(byID, from, ref.key),
		r.lookup(bySlug, from, slug), r.lookup(byTitle, from, ref.whole),
	} {
		if len(found) > 0 {
			return pickOne(found, from.Style)
		}
	}
	if ref.number == "" {
		return nil, dangling("nothing in the mission is called that")
	}
	named := r.lookup(byNumber, from, number)
	lettered := len(named) == 0
	if lettered {
		named = r.lookup(byDigits, from, number)
	}
	if len(named) == 0 {
		return nil, dangling("no spec has that number")
	}
	agreed, problem := r.agreeing(named, ref.title)
	switch {
	case problem != nil:
		return nil, problem
	case lettered:
		return named, nil
	}
	return pickOne(agreed, from.Style)
}

// atPath finds the spec at a path: from the referrer's folder, from the root, in
// any folder, or by its file's name alone. A document of a folder that is a spec
// is that spec.
func (r *resolver) atPath(from *indexedNode, name string) []*indexedNode {
	name = strings.TrimPrefix(path.Clean(name), "/")
	full := strings.ToLower(path.Join(from.folder, name))
	if from.Rules == RulesBoxes {
		full = strings.ToLower(path.Join(from.folder, path.Base(from.home), name))
	}
	for _, at := range []string{full, name} {
		for range 3 {
			found := r.names[nodeName{byPath, anywhere, at}]
			if len(found) > 0 && (at == full || at == name || found[0].Rules == RulesBoxes) {
				return found
			}
			at = path.Dir(at)
		}
	}
	for strings.HasPrefix(name, "../") {
		name = name[3:]
	}
	var inside []*indexedNode
	ending := r.names[nodeName{byTail, anywhere, tailOf(name)}]
	ending = ending[:min(len(ending), 4*maxTwins)]
	r.steps += len(ending)
	below := "/" + name
	for _, node := range ending {
		if node.home == name || strings.HasSuffix(node.home, below) {
			inside = append(inside, node)
		}
	}
	if len(inside) > 0 {
		return inside
	}
	return r.lookup(byKey, from, keyFromStem(path.Base(name)))
}

// pickOne picks the only candidate, or the only one in the referrer's style.
func pickOne(candidates []*indexedNode, style string) ([]*indexedNode, *refProblem) {
	if len(candidates) > maxTwins {
		return nil, ambiguous(candidates)
	}
	if candidates = inStyle(candidates, style); len(candidates) > 1 {
		return nil, ambiguous(candidates)
	}
	return candidates, nil
}
