package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// metric is something that a round measures.
type metric int

const (
	perSecond metric = iota
	p50              // of a request, or of what else the row does over and over
	p99
	cpu // time for each delivery
	served
	idle
)

// units are those of the metrics.
var units = [...]string{perSecond: "/s", p50: " ms", p99: " ms", cpu: " µs", served: " MiB", idle: " KiB"}

// sample is what one round of one side has measured.
type sample map[metric]float64

// latencies makes a sample with the p50 and p99 of the durations.
func latencies(took ...[]time.Duration) sample {
	all := slices.Concat(took...)
	slices.Sort(all)
	return sample{p50: percentile(all, 50), p99: percentile(all, 99)}
}

// percentile returns the smallest of the sorted durations that at least p percent
// of them don't exceed, in milliseconds; 0 if there are none.
func percentile(sorted []time.Duration, p int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[(len(sorted)*p+99)/100-1]) / float64(time.Millisecond)
}

// median returns the middle value, or the mean of the two in the middle; 0 if there are none.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[n/2] + sorted[(n-1)/2]) / 2
}

// goal is the figure to reach: a bound on a ratio, or, if a row has only one
// side, on the value. The zero value is no goal.
type goal struct {
	bound string // ">=" or "<="
	value float64
}

func atLeast(v float64) goal { return goal{">=", v} }
func atMost(v float64) goal  { return goal{"<=", v} }

// text returns the bound, and whether the figure meets it.
func (g goal) text(figure float64) string {
	if g.bound == "" {
		return "-"
	}
	met := "yes"
	if g.bound == ">=" && figure < g.value || g.bound == "<=" && figure > g.value {
		met = "no"
	}
	return fmt.Sprintf("%s %.4g: %s", g.bound, g.value, met)
}

// line is a line of the table, cell by cell.
type line [8]string

var header = line{"row", "against", "ours", "theirs", "ratio", "to reach", "p50 ms", "p99 ms"}

// compare returns a line for two sides' rounds: the medians of a metric, and the
// median of the ratios of the rounds that ran one after the other. Without theirs
// the goal is for the value itself.
func compare(row string, m metric, g goal, ours []sample, against string, theirs []sample) line {
	mine := median(values(ours, m))
	if len(theirs) == 0 {
		return line{row, "-", figure(mine, m), "-", "-", g.text(mine), "-", "-"}
	}
	var ratios []float64
	for i := range min(len(ours), len(theirs)) {
		ratios = append(ratios, ours[i][m]/theirs[i][m])
	}
	ratio := median(ratios)
	l := line{row, against, figure(mine, m), figure(median(values(theirs, m)), m),
		fmt.Sprintf("%.2f", ratio), g.text(ratio), "-", "-"}
	if m == perSecond {
		l[6], l[7] = pair(ours, theirs, p50), pair(ours, theirs, p99)
	}
	return l
}

// pair is "ours / theirs" of a latency.
func pair(ours, theirs []sample, m metric) string {
	text := func(samples []sample) string {
		if v := median(values(samples, m)); v > 0 {
			return digits(v)
		}
		return "-"
	}
	return text(ours) + " / " + text(theirs)
}

// figure is a value with its unit; rates have no decimals.
func figure(v float64, m metric) string {
	if m == perSecond {
		return fmt.Sprintf("%.0f%s", v, units[m])
	}
	return digits(v) + units[m]
}

// digits formats a value with three digits, or with all those before the point if there are more.
func digits(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

func values(samples []sample, m metric) (all []float64) {
	for _, s := range samples {
		all = append(all, s[m])
	}
	return all
}

// printTable writes the table, and below it what it was measured on.
func printTable(w io.Writer, machine string, lines []line) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(header[:], "\t"))
	before := ""
	for _, l := range lines {
		name := l[0]
		if name == before {
			l[0] = "" // it stands above
		}
		before = name
		fmt.Fprintln(t, strings.Join(l[:], "\t"))
	}
	_ = t.Flush() // standard output
	fmt.Fprintln(w, "\n"+machine)
}
