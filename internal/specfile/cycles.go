package specfile

// Cycles among dependencies. Graphs come from files and can be as deep as these
// like, so nothing here recurses.

import (
	"maps"
	"slices"
)

// Cycles returns the sets of keys that depend on each other, directly or not.
// edges is as Resolve returns it. Each set has every key once, the smallest first,
// and the sets are sorted.
//
// If possible a set is in the order of a cycle: each key depends on the next, and
// the last on the first. Not every set has a cycle through all its keys (a and b
// depend on each other, and so do a and c), and the search for one is bounded; then
// a cycle through some of the keys comes first, and the others follow, sorted.
func Cycles(edges map[string][]string) [][]string {
	var cycles [][]string
	for _, members := range CyclicSets(edges) {
		cycle := longestRound(edges, members)
		placed := make(map[string]bool, len(members))
		for _, key := range cycle {
			placed[key] = true
		}
		for _, key := range slices.Sorted(slices.Values(members)) {
			if !placed[key] {
				cycle = append(cycle, key)
			}
		}
		cycles = append(cycles, cycle)
	}
	slices.SortFunc(cycles, slices.Compare)
	return cycles
}

// CyclicSets returns the same sets as Cycles, but in no order, which costs less.
func CyclicSets(edges map[string][]string) [][]string {
	return slices.DeleteFunc(stronglyConnected(edges), func(members []string) bool {
		return len(members) == 1 && !slices.Contains(edges[members[0]], members[0])
	})
}

// graphStep is a key on the way through a graph, and how many of its edges are used.
type graphStep struct {
	key  string
	used int
}

// stronglyConnected splits a graph into its strongly connected components, by
// Tarjan's algorithm.
func stronglyConnected(edges map[string][]string) [][]string {
	var (
		components [][]string
		path       []graphStep
		open       []string               // keys whose component isn't complete
		order      = make(map[string]int) // when a key was first seen, from 1
		oldest     = make(map[string]int) // the first seen open key that it leads to
		closed     = make(map[string]bool)
	)
	enter := func(key string) {
		order[key] = len(order) + 1
		oldest[key] = order[key]
		open = append(open, key)
		path = append(path, graphStep{key: key})
	}
	for _, root := range slices.Sorted(maps.Keys(edges)) {
		if order[root] == 0 {
			enter(root)
		}
		for len(path) > 0 {
			at := &path[len(path)-1]
			if at.used < len(edges[at.key]) {
				next := edges[at.key][at.used]
				at.used++
				if order[next] == 0 {
					enter(next)
				} else if !closed[next] {
					oldest[at.key] = min(oldest[at.key], order[next])
				}
				continue
			}
			key := at.key
			if path = path[:len(path)-1]; len(path) > 0 {
				parent := path[len(path)-1].key
				oldest[parent] = min(oldest[parent], oldest[key])
			}
			if oldest[key] == order[key] {
				start := len(open) - 1
				for open[start] != key {
					start--
				}
				components = append(components, slices.Clone(open[start:]))
				for _, member := range open[start:] {
					closed[member] = true
				}
				open = open[:start]
			}
		}
	}
	return components
}

// longestRound looks for a round through all members of a component, from the
// smallest on. It starts with a shortest one and gives up after a number of
// steps in proportion to the component's edges.
func longestRound(edges map[string][]string, component []string) []string {
	start := slices.Min(component)
	free := make(map[string]bool, len(component)) // members that aren't on the path
	budget := 10_000
	for _, key := range component {
		free[key] = true
		budget += 8 * len(edges[key])
	}
	best := shortestRound(edges, start, func(key string) bool { return free[key] })
	longest := len(best) // of the rounds seen; it is copied when its path is left
	path := []graphStep{{key: start}}
	free[start] = false
	for ; len(path) > 0 && len(best) < len(component) && budget > 0; budget-- {
		at := &path[len(path)-1]
		if at.used == len(edges[at.key]) {
			if len(path) == longest && longest > len(best) {
				best = keysOf(path)
				budget -= len(best)
			}
			free[at.key] = true
			path = path[:len(path)-1]
			continue
		}
		next := edges[at.key][at.used]
		at.used++
		if next == start {
			longest = max(longest, len(path))
		} else if free[next] {
			free[next] = false
			path = append(path, graphStep{key: next})
		}
	}
	if longest > len(best) {
		best = keysOf(path[:longest])
	}
	return best
}

func keysOf(path []graphStep) []string {
	keys := make([]string, len(path))
	for i, s := range path {
		keys[i] = s.key
	}
	return keys
}

// ShortestCycle returns a shortest cycle through start: start, then each key that
// the one before it depends on, up to one that depends on start. It is nil if
// start doesn't depend on itself.
func ShortestCycle(edges map[string][]string, start string) []string {
	return shortestRound(edges, start, func(string) bool { return true })
}

// shortestRound is a shortest cycle through start that only passes keys the
// caller allows, or nil if there is none.
func shortestRound(edges map[string][]string, start string, allowed func(key string) bool) []string {
	from := make(map[string]string)
	queue := []string{start}
	for len(queue) > 0 {
		key := queue[0]
		queue = queue[1:]
		for _, next := range edges[key] {
			if next == start {
				round := []string{key}
				for key != start {
					key = from[key]
					round = append(round, key)
				}
				slices.Reverse(round)
				return round
			}
			if _, seen := from[next]; !seen && allowed(next) {
				from[next] = key
				queue = append(queue, next)
			}
		}
	}
	return nil
}
