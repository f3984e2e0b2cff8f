package specfile

import (
	"fmt"
	"strings"
	"testing"

	"tachikoma/internal/lineartime"
)

func TestCycles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ edges, want string }{
		{"", ""},
		{"a>b b>c a>c", ""},
		{"a>a", "a"},
		{"b>a a>b", "a b"},
		{"a>c c>b b>a", "a c b"},
		{"a>b b>c c>a c>d d>e e>d x>a", "a b c, d e"},
		{"a>b b>a a>c c>a", "a b c"}, // no round through all three
		{"a>b b>a a>c c>d d>a", "a b c d"},
		{"a>b a>c a>d b>a c>b d>c b>d", "a b c d"},
	} {
		edges := make(map[string][]string)
		for edge := range strings.FieldsSeq(c.edges) {
			from, to, _ := strings.Cut(edge, ">")
			edges[from] = append(edges[from], to)
		}
		var got []string
		for _, cycle := range Cycles(edges) {
			got = append(got, strings.Join(cycle, " "))
		}
		if joined := strings.Join(got, ", "); joined != c.want {
			t.Errorf("%s: got %q, want %q", c.edges, joined, c.want)
		}
	}
}

// Long chains, one ring, and a ring with a way back from everywhere.
func TestCyclesInDeepGraphs(t *testing.T) {
	lineartime.Check(t, lineartime.Linear, 20_000, func(n int) func() {
		key := func(i int) string { return fmt.Sprintf("%06d", i%n) }
		chain, ring, shortcuts := make(map[string][]string), make(map[string][]string), make(map[string][]string)
		for i := range n {
			if i < n-1 {
				chain[key(i)] = []string{key(i + 1)}
			}
			ring[key(i)] = []string{key(i + 1)}
			shortcuts[key(i)] = []string{key(0), key(i + 1)}
		}
		return func() {
			if got := Cycles(chain); len(got) != 0 {
				t.Errorf("a chain has %d cycles", len(got))
			}
			if got := Cycles(ring); len(got) != 1 || len(got[0]) != n || got[0][1] != key(1) {
				t.Errorf("a ring has %d cycles", len(got))
			}
			if got := Cycles(shortcuts); len(got) != 1 || len(got[0]) != n {
				t.Errorf("a ring with shortcuts has %d cycles", len(got))
			}
		}
	})
}
