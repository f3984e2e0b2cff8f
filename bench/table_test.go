package main

import (
	"strings"
	"testing"
	"time"
)

func TestPercentileAndMedian(t *testing.T) {
	var took []time.Duration
	for i := range 100 {
		took = append(took, time.Duration(i+1)*time.Millisecond)
	}
	if s := latencies(took[50:], took[:50]); s[p50] != 50 || s[p99] != 99 {
		t.Errorf("p50 %v and p99 %v of 1 to 100 ms", s[p50], s[p99])
	}
	if one := latencies(took[:1]); one[p50] != 1 || one[p99] != 1 {
		t.Errorf("of one value: %v", one)
	}
	if none := latencies(); none[p50] != 0 {
		t.Errorf("of none: %v", none)
	}
	for want, of := range map[float64][]float64{0: nil, 2: {3, 1, 2}, 2.5: {4, 1, 3, 2}} {
		if got := median(of); got != want {
			t.Errorf("median of %v is %v, not %v", of, got, want)
		}
	}
}

// The ratio is the median of the rounds' ratios, not the ratio of the medians.
func TestTable(t *testing.T) {
	ours := []sample{{perSecond: 100, p50: 1}, {perSecond: 300, p50: 2}, {perSecond: 200, p50: 3}}
	theirs := []sample{{perSecond: 200}, {perSecond: 300}, {perSecond: 100}}
	var b strings.Builder
	printTable(&b, "A machine", []line{
		compare("reads", perSecond, atLeast(0.9), ours, "bare", theirs),
		compare("reads", perSecond, goal{}, ours, "other", theirs),
		compare("memory", served, atMost(32), []sample{{served: 33}}, "", nil),
	})
	want := `row     against  ours    theirs  ratio  to reach     p50 ms  p99 ms
reads   bare     200/s   200/s   1.00   >= 0.9: yes  2 / -   - / -
        other    200/s   200/s   1.00   -            2 / -   - / -
memory  -        33 MiB  -       -      <= 32: no    -       -

A machine
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s", got)
	}
}
