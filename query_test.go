package main

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func requestWithQuery(raw string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.URL.RawQuery = raw
	return r
}

func TestQueryReadsEveryKind(t *testing.T) {
	t.Parallel()
	const id = "0198C0DE-0000-7000-8000-00000000000A"
	q := newQuery(requestWithQuery("q=a+b%20%C3%A9&limit=7&ready=false&sort=-name&mission_id=" + id + "&&tag="))
	if got := q.text("q", 5); got != "a b é" {
		t.Errorf("q: %q", got)
	}
	if got := q.text("tag", 5); got != "" {
		t.Errorf("tag: %q", got)
	}
	if limit, after := q.number("limit", 50, 1, 200), q.number("after", -1, 0, 9); limit != 7 || after != -1 {
		t.Errorf("limit %d, after %d", limit, after)
	}
	if ready, claimed := q.flag("ready"), q.flag("claimed"); ready == nil || *ready || claimed != nil {
		t.Errorf("ready %v, claimed %v", ready, claimed)
	}
	if sort, status := q.choice("sort", "name", "name", "-name"), q.choice("status", "any", "x"); sort != "-name" || status != "any" {
		t.Errorf("sort %q, status %q", sort, status)
	}
	if mission, spec := q.id("mission_id"), q.id("spec_id"); mission != strings.ToLower(id) || spec != "" {
		t.Errorf("mission %q, spec %q", mission, spec)
	}
	if err := q.err(); err != nil {
		t.Error(err)
	}
}

func TestQueryGathersEveryProblem(t *testing.T) {
	t.Parallel()
	q := newQuery(requestWithQuery("a=%zz&%zz=1&b=%ff&c=%00&d=1;2&e=1&e=2&nope=1&limit=201&after=&ready=1&sort=size&id=7&text=abcd&E=1"))
	q.has("e")
	if limit := q.number("limit", 50, 1, 200); limit != 50 {
		t.Errorf("limit: %d", limit)
	}
	q.number("after", 0, 0, 9)
	q.flag("ready")
	q.choice("sort", "", "name")
	q.id("id")
	q.text("text", 3)
	q.fail("claimed", "not_allowed", "must be %s", "mine")
	wantFields(t, q.err(), "a malformed_query", "%zz malformed_query", "b malformed_query", "c malformed_query",
		"d malformed_query", "e repeated_parameter",
		"limit out_of_range", "after out_of_range", "ready not_allowed", "sort not_allowed", "id invalid_id",
		"text too_long", "claimed not_allowed", "nope unknown_parameter", "E unknown_parameter")
}

func TestQueryTellsABoundedNumberOfProblems(t *testing.T) {
	t.Parallel()
	err := newQuery(requestWithQuery(strings.Repeat("x=1&", 10_000))).err()
	if e, _ := errors.AsType[*apiError](err); e == nil || len(e.fields) != maxProblems {
		t.Errorf("got %v", err)
	}
}

func TestCursorBelongsToItsShape(t *testing.T) {
	t.Parallel()
	values := []string{"", "é <\"\\> \n", strings.Repeat("😀", 200), "2026-01-31T12:00:00Z"}
	cursor := encodeCursor("missions status=active sort=name", values...)
	got, err := decodeCursor(cursor, "missions status=active sort=name", len(values))
	if err != nil || !reflect.DeepEqual(got, values) {
		t.Fatalf("got %q, %v; want %q", got, err, values)
	}
	if got, err := decodeCursor(encodeCursor("s"), "s", 0); err != nil || len(got) != 0 {
		t.Errorf("a cursor of no values: %q, %v", got, err)
	}

	forged := func(list string) string { return base64.RawURLEncoding.EncodeToString([]byte(list)) }
	tag := shapeTag("s")
	for _, test := range []struct {
		cursor, shape string
		n             int
	}{
		{cursor, "missions status=active sort=-name", len(values)},
		{cursor, "missions status=active sort=name", len(values) + 1},
		{cursor[1:], "missions status=active sort=name", len(values)},
		{"", "s", 1},
		{"%%", "s", 1},
		{forged(`{}`), "s", 1},
		{forged(`[]`), "s", 1},
		{forged(`["` + tag + `",1]`), "s", 1},
		{forged(`["` + tag + `",null]`), "s", 1},
		{forged(`["` + tag + `","\u0000"]`), "s", 1},
		{forged(`["` + tag + `","` + "\xff" + `"]`), "s", 1},
		{forged(`["` + tag + `","` + strings.Repeat("x", maxCursor) + `"]`), "s", 1},
	} {
		_, err := decodeCursor(test.cursor, test.shape, test.n)
		wantFields(t, err, "cursor invalid_cursor")
	}
}

func TestValidID(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]bool{
		"0198c0de-0000-7000-8000-00000000000a":   true,
		"0198C0DE-0000-7000-8000-00000000000A":   true,
		"":                                       false,
		"0198c0de00007000800000000000000a":       false,
		"{0198c0de-0000-7000-8000-00000000000a}": false,
		"0198c0de-0000-7000-8000-00000000000g":   false,
		"0198c0de-00007000--8000-00000000000a":   false,
		"0198c0de-0000-7000-8000-0000000000é":    false,
	} {
		if got := validID(id); got != want {
			t.Errorf("validID(%q) is %v", id, got)
		}
	}
}

func TestViolationsCheckTexts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		value string
		line  bool
		want  []string
	}{
		{"é\n\x1b[31m", false, nil},
		{"ééééé", true, nil},
		{"", true, []string{"f required"}},
		{" \n", false, []string{"f required"}},
		{"a", true, []string{"f too_short"}},
		{"éééééé...", true, []string{"f too_long"}},
		{"a\nb", true, []string{"f not_one_line"}},
		{"a\u2028b", true, []string{"f not_one_line"}},
		{"a\x7fbcdefghijkl", true, []string{"f too_long", "f not_one_line"}},
	} {
		var v violations
		if test.line {
			v.line("f", test.value, 2, 8)
		} else {
			v.text("f", test.value, 2, 8)
		}
		wantFields(t, v.err(), test.want...)
	}
	var v violations
	v.text("f", "", 0, 8)
	wantFields(t, v.err())
}

func FuzzQuery(f *testing.F) {
	for _, raw := range []string{"q=a+b", "q=%", "q=%ff", "q=%00", "q=1&q=2", ";", "&&=", "=", "%zz", "\xff=\xff", "limit=-1"} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q := newQuery(requestWithQuery(raw))
		text, limit := q.text("q", 10), q.number("limit", 50, 1, 200)
		if !utf8.ValidString(text) || strings.Contains(text, "\x00") || utf8.RuneCountInString(text) > 10 || limit < 1 || limit > 200 {
			t.Fatalf("accepted %q, %d", text, limit)
		}
		standard, err := url.ParseQuery(raw)
		if q.err() != nil {
			wantProblem(t, q.err(), http.StatusUnprocessableEntity, "validation_failed")
		} else if err != nil || standard.Get("q") != text {
			t.Fatalf("got %q, net/url %v, %v", text, standard, err)
		}
	})
}

func FuzzDecodeCursor(f *testing.F) {
	f.Add(encodeCursor("s", "a", "b"))
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`["` + shapeTag("s") + `",null,"\u0000"]`)))
	f.Fuzz(func(t *testing.T, cursor string) {
		values, err := decodeCursor(cursor, "s", 2)
		if err != nil {
			wantFields(t, err, "cursor invalid_cursor")
			return
		}
		if text := strings.Join(values, ""); len(values) != 2 || !utf8.ValidString(text) || strings.Contains(text, "\x00") {
			t.Fatalf("accepted %q", values)
		}
	})
}
