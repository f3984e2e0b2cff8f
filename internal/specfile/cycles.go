package specfile

// Cycles among dependencies. Graphs come from files and can be as deep as these
// like, so nothing here recurses.

import (
	"maps"
	"slices"
)

// Cycles returns the sets of keys that depend on each other, directly or not.
// edges is as Resolve returns it. Each set has every key once, and the sets are
// sorted by their smallest keys.
//
// A set begins with a shortest cycle through its smallest key: each key depends on
// the next, and the last of the cycle on the first. The other keys follow, sorted.
func Cycles(edges map[string][]string) [][]string {
	var cycles [][]string
	for _, members := range CyclicSets(edges) {
		slices.Sort(members)
		cycle := ShortestCycle(edges, members[0])
		placed := make(map[string]bool, len(cycle))
		for _, key := range cycle {
			placed[key] = true
		}
		for _, key := range members {
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

// ShortestCycle returns a shortest cycle through start: start, then each key that
// the one before it depends on, up to one that depends on start. It is nil if
// start doesn't depend on itself.
func ShortestCycle(edges map[string][]string, start string) []string {
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
			if _, seen := from[next]; !seen {
				from[next] = key
				queue = append(queue, next)
			}
		}
	}
	return nil
}
