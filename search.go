package main

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"time"
)

const (
	searchLimit = 200 // results of a full-text search
	searchTerms = 16  // words that one asks for: each costs time in every snippet
	searchTime  = 5 * time.Second
)

// dashes are runs of minus signs, which websearch_to_tsquery nests until it
// fails.
var dashes = regexp.MustCompile("-+")

// search reads the text of a full-text search, "" for none.
func (q *query) search() string {
	text := dashes.ReplaceAllString(q.text("q", 500), "-")
	if len(strings.Fields(text)) > searchTerms {
		q.fail("q", "too_many_terms", "may have at most %d words", searchTerms)
	}
	return text
}

// beginSearch takes one of the places for searches, of which there are few,
// since one costs as much as many reads. The caller calls end when done.
func (s *Server) beginSearch(ctx context.Context, text string) (bounded context.Context, end func(), err error) {
	if text == "" {
		return ctx, func() {}, nil
	}
	waiting, cancel := context.WithTimeout(ctx, acquireTimeout)
	defer cancel()
	select {
	case s.searches <- struct{}{}:
	case <-waiting.Done():
		return nil, nil, problem(http.StatusServiceUnavailable, "busy", "Too many searches are running. Try again in a moment.").withHeader("Retry-After", "1")
	}
	bounded, cancel = context.WithTimeout(ctx, searchTime)
	return bounded, func() {
		cancel()
		<-s.searches
	}, nil
}
