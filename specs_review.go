package main

// Review by a person: who may say that a spec is done, and how that is said.

import "slices"

// The reviews that a mission or a spec can ask for.
const (
	reviewNone  = "none"
	reviewHuman = "human"
)

// maxInReview bounds the bound of what a mission has in review.
const maxInReview = 10_000

// review checks what a mission or a spec asks for, unless that is nil.
func (v *violations) review(of *string) {
	if of != nil && !slices.Contains([]string{reviewNone, reviewHuman}, *of) {
		v.add("review", "unknown_value", "must be %s or %s", reviewNone, reviewHuman)
	}
}
