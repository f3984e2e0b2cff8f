package main

// Query strings, read as strictly as bodies, the checks of single values that
// handlers share, and the words of a search.

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// query is the query string of one request. Its methods return a parameter's
// value, or the default if it is absent or wrong; err then reports everything that
// is wrong, including unknown parameters. So a handler reads all parameters first
// and checks err once.
type query struct {
	values   map[string]string
	names    []string            // in the order in which they came
	known    map[string]struct{} // those that the handler has read
	problems violations
}

// newQuery parses the query string of r, in which each parameter may occur once,
// in valid percent-encoded UTF-8 without NUL. err reports what is malformed.
func newQuery(r *http.Request) *query {
	q := queryOf(nil)
	for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
		if pair == "" {
			continue
		}
		if len(q.problems.fields) == maxProblems {
			break
		}
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, ok := unescapeParameter(rawName)
		if !ok {
			q.fail(clip(strings.ToValidUTF8(rawName, "\uFFFD")), "malformed_query", "isn't a percent-encoded name")
			continue
		}
		value, ok := unescapeParameter(rawValue)
		_, twice := q.values[name]
		switch {
		case !ok:
			q.fail(clip(name), "malformed_query", "isn't percent-encoded UTF-8 text")
		case twice:
			q.fail(clip(name), "repeated_parameter", "may be given only once")
		default:
			q.values[name], q.names = value, append(q.names, name)
		}
	}
	return q
}

// queryOf is a query that doesn't come from a query string. Empty values count
// as absent.
func queryOf(values map[string]string) *query {
	q := &query{values: make(map[string]string), known: make(map[string]struct{})}
	for name, value := range values {
		if value != "" {
			q.values[name] = value
		}
	}
	return q
}

// unescapeParameter decodes half of a name=value pair. Like net/url it refuses
// semicolons, which some programs treat as ampersands.
func unescapeParameter(raw string) (string, bool) {
	text, err := url.QueryUnescape(raw)
	return text, err == nil && utf8.ValidString(text) && !strings.ContainsRune(text, 0) && !strings.ContainsRune(raw, ';')
}

// err is nil, or a 422 with every problem found so far.
func (q *query) err() error {
	for _, name := range q.names {
		if _, ok := q.known[name]; !ok && len(q.problems.fields) < maxProblems {
			q.fail(clip(name), "unknown_parameter", "isn't a known parameter")
		}
	}
	q.names = nil
	return q.problems.err()
}

// fail adds a problem, formatted like fmt.Sprintf.
func (q *query) fail(field, code, message string, args ...any) {
	q.problems.add(field, code, message, args...)
}

// get returns the text of a parameter, and whether it is present.
func (q *query) get(name string) (value string, ok bool) {
	q.known[name] = struct{}{}
	value, ok = q.values[name]
	return value, ok
}

func (q *query) has(name string) bool {
	_, ok := q.get(name)
	return ok
}

// text is a text of at most maxLen characters, or "".
func (q *query) text(name string, maxLen int) string {
	value, _ := q.get(name)
	if utf8.RuneCountInString(value) > maxLen {
		q.fail(name, "too_long", "may have at most %d characters", maxLen)
		return ""
	}
	return value
}

// number is a whole number from lo to hi.
func (q *query) number(name string, def, lo, hi int64) int64 {
	if !q.has(name) {
		return def
	}
	n, err := strconv.ParseInt(q.values[name], 10, 64)
	if err != nil || n < lo || n > hi {
		q.fail(name, "out_of_range", "must be a whole number from %d to %d", lo, hi)
		return def
	}
	return n
}

// flag is true, false, or nil when it is absent.
func (q *query) flag(name string) *bool {
	value, ok := q.get(name)
	if !ok {
		return nil
	}
	if value != "true" && value != "false" {
		q.fail(name, "not_allowed", "must be true or false")
		return nil
	}
	return new(value == "true")
}

// choice is one of the allowed values.
func (q *query) choice(name, def string, allowed ...string) string {
	if !q.has(name) {
		return def
	}
	if !slices.Contains(allowed, q.values[name]) {
		q.fail(name, "not_allowed", "must be one of: %s", strings.Join(allowed, ", "))
		return def
	}
	return q.values[name]
}

// id is a UUID in lower case, or "" when it is absent.
func (q *query) id(name string) string {
	if !q.has(name) {
		return ""
	}
	if !validID(q.values[name]) {
		q.fail(name, "invalid_id", "must be a UUID")
		return ""
	}
	return strings.ToLower(q.values[name])
}

// validID reports whether s is a UUID in the form 8-4-4-4-12 of RFC 9562, in
// lower or upper case.
func validID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if s[i] != '-' {
				return false
			}
		} else if strings.IndexByte("0123456789abcdefABCDEF", s[i]) < 0 {
			return false
		}
	}
	return true
}

// text checks a text of any number of lines: minLen to maxLen characters, and
// not blank if minLen is over 0.
func (v *violations) text(field, value string, minLen, maxLen int) {
	n := utf8.RuneCountInString(value)
	switch {
	case minLen > 0 && strings.TrimSpace(value) == "":
		v.add(field, "required", "is required")
	case n < minLen:
		v.add(field, "too_short", "must have at least %d characters", minLen)
	case n > maxLen:
		v.add(field, "too_long", "may have at most %d characters", maxLen)
	}
}

// line checks a text of one line, such as a name or a title: as text does, and
// without control characters and line separators.
func (v *violations) line(field, value string, minLen, maxLen int) {
	v.text(field, value, minLen, maxLen)
	if strings.ContainsFunc(value, func(r rune) bool {
		return unicode.IsControl(r) || r == '\u2028' || r == '\u2029'
	}) {
		v.add(field, "not_one_line", "must be one line without control characters")
	}
}

const (
	searchLimit = 200 // results of a full-text search
	searchTerms = 16  // words of one search: each costs time in every snippet
	searchTime  = 5 * time.Second
)

// wordBreaks separate the words of a search, beside ASCII characters that are
// neither letters nor digits: the same as migration 0006 divides texts at.
const wordBreaks = "–—…„“”«»‘’\u00a0"

// stopWords are the English words that a search leaves out: PostgreSQL's list. The
// indexed texts keep them.
var stopWords = strings.Fields(`i me my myself we our ours ourselves you your yours yourself yourselves he him his
	himself she her hers herself it its itself they them their theirs themselves what which who whom this that these
	those am is are was were be been being have has had having do does did doing a an the and but if or because as
	until while of at by for with about against between into through during before after above below to from up down
	in out on off over under again further then once here there when where why how all any both each few more most
	other some such no nor not only own same so than too very s t can will just don should now`)

// search returns the text of a full-text search, as websearch_to_tsquery takes it,
// or "" without one.
func (q *query) search() string {
	text := q.text("q", 500)
	if len(strings.Fields(text)) > searchTerms {
		q.fail("q", "too_many_terms", "may have at most %d words", searchTerms)
	}
	if text == "" {
		return ""
	}
	return searchQuery(text)
}

// searchQuery puts each term of a search in quotation marks, so that a word of
// several parts, such as a file name, becomes a phrase. It keeps "or", and the
// minus of an excluded term: a single one, and not before the first term, since
// flags begin with one or two.
func searchQuery(text string) string {
	var terms []string
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		term := strings.TrimLeft(text, "-")
		dashes := len(text) - len(term)
		sign := ""
		if dashes == 1 && len(terms) > 0 {
			sign = "-"
		}
		quoted := false
		if inside, ok := strings.CutPrefix(term, `"`); ok {
			if inside, rest, closed := strings.Cut(inside, `"`); closed {
				term, text, quoted = inside, rest, true
			}
		}
		if !quoted {
			end := strings.IndexFunc(term+" ", unicode.IsSpace)
			term, text = term[:end], term[end:]
		}
		parts := strings.FieldsFunc(term, separatesWords)
		bare := !quoted && dashes == 0 && len(parts) == 1 && parts[0] == term
		switch word := strings.ToLower(term); {
		case bare && word == "or":
			if len(terms) > 0 && terms[len(terms)-1] != word {
				terms = append(terms, word)
			}
		case len(parts) > 0 && !(bare && slices.Contains(stopWords, word)):
			terms = append(terms, sign+`"`+strings.Join(parts, " ")+`"`)
		}
	}
	if len(terms) == 0 {
		return `""` // which finds nothing
	}
	return strings.TrimSuffix(strings.Join(terms, " "), " or")
}

func separatesWords(c rune) bool {
	return c < utf8.RuneSelf && !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') ||
		unicode.IsSpace(c) || strings.ContainsRune(wordBreaks, c)
}
