package specfile

// References to several specs at once, and those that only a title or a number
// tells apart.

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// inStyle narrows twins down to those of a style, if any has it.
func inStyle(twins []*indexedNode, style string) []*indexedNode {
	if len(twins) < 2 {
		return twins
	}
	var same []*indexedNode
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

// inFolder narrows twins down to those of a folder, if any is there.
func inFolder(twins []*indexedNode, folder string) []*indexedNode {
	there := func(node *indexedNode) bool { return node.folder == folder }
	if len(twins) < 2 || !slices.ContainsFunc(twins, there) {
		return twins
	}
	var same []*indexedNode
	for _, node := range twins {
		if there(node) {
			same = append(same, node)
		}
	}
	return same
}

// agreeing keeps the candidates that share the most words with a title: all of
// them where no title is given. To share none is a contradiction.
func (r *resolver) agreeing(candidates []*indexedNode, title string) ([]*indexedNode, *refProblem) {
	given := titleWords(title)
	switch {
	case len(candidates) > maxTwins:
		return nil, ambiguous(candidates)
	case len(given) == 0:
		return candidates, nil
	}
	r.steps += len(candidates) * len(given)
	var best []*indexedNode
	most := 1
	for _, node := range candidates {
		shared := 0
		for _, word := range given {
			if slices.Contains(node.about, word) {
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
func (r *resolver) phaseGroup(from *indexedNode, ref reference) ([]*indexedNode, *refProblem) {
	members := r.byPhase[ref.phase]
	if ref.previous {
		end, _ := slices.BinarySearchFunc(members, from.Number, orderOf)
		members = members[:end]
	}
	if ref.last != "" {
		return r.onePerNumber(numbersBetween(members, ref.first, ref.last), from)
	}
	return boundedGroup(members)
}

// rangeGroup is all from one number, or key, to another.
func (r *resolver) rangeGroup(from *indexedNode, ref reference) ([]*indexedNode, *refProblem) {
	first, problem := r.endOfRange(from, ref.first)
	if problem != nil {
		return nil, problem
	}
	last, problem := r.endOfRange(from, ref.last)
	if problem != nil {
		return nil, problem
	}
	return r.onePerNumber(numbersBetween(r.numbered, first, last), from)
}

// endOfRange is the number of one end. A key must be some spec's; a plain
// number needn't.
func (r *resolver) endOfRange(from *indexedNode, end string) (string, *refProblem) {
	number, slug := cutNumber(end)
	if slug == "" {
		return number, nil
	}
	nodes, problem := r.single(from, reference{key: end, number: number, title: slug})
	if problem != nil {
		return "", problem
	}
	return nodes[0].Number, nil
}

// boundedGroup refuses groups without members and those with too many.
func boundedGroup(members []*indexedNode) ([]*indexedNode, *refProblem) {
	switch {
	case len(members) == 0:
		return nil, &refProblem{"empty_group", "no spec here belongs to that group"}
	case len(members) > maxFollowed:
		return nil, errTooMany
	}
	return members, nil
}

// onePerNumber is for groups told by their numbers: of specs with the same one
// it takes those in the referrer's folder and in its style, if there are any.
func (r *resolver) onePerNumber(members []*indexedNode, from *indexedNode) ([]*indexedNode, *refProblem) {
	members, problem := boundedGroup(members)
	if problem != nil {
		return nil, problem
	}
	r.steps += len(members)
	var chosen []*indexedNode
	for len(members) > 0 {
		twins := 1
		for isNumbered(members[0].Number) && twins < len(members) && orderOf(members[twins], members[0].Number) == 0 {
			twins++
		}
		chosen = append(chosen, inStyle(inFolder(members[:twins], from.folder), from.Style)...)
		members = members[twins:]
	}
	return chosen, nil
}

// numbersBetween is the part of an ordered list from one number to another. "311-320"
// has 320a in it.
func numbersBetween(ordered []*indexedNode, first, last string) []*indexedNode {
	if _, letter := cutLetter(last); letter == "" {
		last += "~"
	}
	start, _ := slices.BinarySearchFunc(ordered, first, orderOf)
	end, _ := slices.BinarySearchFunc(ordered, last, func(node *indexedNode, last string) int {
		return cmp.Or(orderOf(node, last), -1) // behind all that are equal
	})
	return ordered[start:max(start, end)]
}

func orderOf(node *indexedNode, number string) int { return compareNumbers(node.Number, number) }
