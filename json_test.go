package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// wantProblem fails the test unless err is the apiError with that status and
// code, and returns it.
func wantProblem(t *testing.T, err error, status int, code string) *apiError {
	t.Helper()
	e, ok := errors.AsType[*apiError](err)
	if !ok || e.status != status || e.code != code {
		t.Fatalf("got error %v, want a %d %s", err, status, code)
	}
	return e
}

// wantFields fails the test unless err is a 422 with exactly these problems,
// each given as "field code".
func wantFields(t *testing.T, err error, want ...string) {
	t.Helper()
	var got []string
	if err != nil {
		for _, f := range wantProblem(t, err, http.StatusUnprocessableEntity, "validation_failed").fields {
			got = append(got, f.Field+" "+f.Code)
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("problems:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestReadBodyChecksTheMediaType(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		method, contentType, coding, body string
		refused                           bool
	}{
		{method: "POST", contentType: "application/json", body: "{}"},
		{method: "POST", contentType: "Application/JSON; charset=UTF-8", body: "{}"},
		{method: "POST", contentType: "application/json", coding: "identity", body: "{}"},
		{method: "POST"},
		{method: "POST", contentType: "text/plain"},
		{method: "PATCH", contentType: "application/merge-patch+json", body: "{}"},
		{method: "POST", contentType: "application/merge-patch+json", body: "{}", refused: true},
		{method: "POST", body: "{}", refused: true},
		{method: "POST", contentType: "text/plain", body: "{}", refused: true},
		{method: "POST", contentType: "application/json; charset=latin1", body: "{}", refused: true},
		{method: "POST", contentType: "application/json;;", body: "{}", refused: true},
		{method: "POST", contentType: "application/jsonx", body: "{}", refused: true},
		{method: "POST", contentType: "application/json", coding: "gzip", body: "{}", refused: true},
	} {
		r := httptest.NewRequest(test.method, "/", strings.NewReader(test.body))
		if test.contentType != "" {
			r.Header.Set("Content-Type", test.contentType)
		}
		if test.coding != "" {
			r.Header.Set("Content-Encoding", test.coding)
		}
		for _, length := range []int64{int64(len(test.body)), -1} { // told beforehand, or chunked
			r.ContentLength = length
			r.Body = io.NopCloser(strings.NewReader(test.body))
			body, err := readBody(r)
			if test.refused {
				wantProblem(t, err, http.StatusUnsupportedMediaType, "unsupported_media_type")
			} else if err != nil || string(body) != test.body || (test.body == "") != (body == nil) {
				t.Errorf("%+v: got %q, %v", test, body, err)
			}
		}
	}
}

func TestReadBodySaysWhyItCouldNot(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		body   io.Reader
		status int
		code   string
	}{
		{"over the limit", strings.NewReader(`{"a":"123456"}`), http.StatusRequestEntityTooLarge, "body_too_large"},
		{"a read deadline", failingReader{os.ErrDeadlineExceeded}, http.StatusRequestTimeout, "request_timeout"},
		{"a client that left", failingReader{io.ErrUnexpectedEOF}, http.StatusBadRequest, "incomplete_body"},
	} {
		r := httptest.NewRequest("POST", "/", test.body)
		r.Header.Set("Content-Type", "application/json")
		r.Body = http.MaxBytesReader(httptest.NewRecorder(), r.Body, 8)
		_, err := readBody(r)
		if e, _ := errors.AsType[*apiError](err); e == nil || e.status != test.status || e.code != test.code {
			t.Errorf("%s: got %v", test.name, err)
		}
	}
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

// example has a field of every kind that decode knows.
type example struct {
	Name     string                   `json:"name"`
	Done     bool                     `json:"done"`
	Count    int                      `json:"count"`
	Small    int8                     `json:"small"`
	Ratio    float64                  `json:"ratio"`
	At       time.Time                `json:"at"`
	Tags     []string                 `json:"tags"`
	Labels   map[string]string        `json:"labels"`
	Metadata map[string]any           `json:"metadata"`
	Anything any                      `json:"anything"`
	Raw      json.RawMessage          `json:"raw"`
	Note     *string                  `json:"note"`
	Entries  []exampleEntry           `json:"entries"`
	Patch    optional[string]         `json:"patch"`
	Merge    optional[map[string]any] `json:"merge"`
	Until    optional[time.Time]      `json:"until"`
	Inner    *exampleEntry            `json:"inner"`
	exampleBase
	Untagged string
	Hidden   string `json:"-"`
}

type exampleEntry struct {
	Level string `json:"level"`
	Line  int    `json:"line"`
}

type exampleBase struct {
	Agent string `json:"agent"`
}

func TestDecodeFillsEveryKind(t *testing.T) {
	t.Parallel()
	body := `{"name":"n","done":true,"count":-3,"small":127,"ratio":1e2,"at":"2026-01-31T12:00:00.5+02:00",
		"tags":["a","b"],"labels":{"k":"v"},"metadata":{"big":12345678901234567890,"x":[null]},
		"anything":[1.50],"raw":{ "a" : 1 },"note":"","entries":[{"level":"info","line":1},{}],
		"patch":null,"merge":{"n":1.0},"inner":{"line":7},"agent":"me","Untagged":"u"}`
	var got example
	if err := decode([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	want := example{
		Name: "n", Done: true, Count: -3, Small: 127, Ratio: 100,
		At:   time.Date(2026, 1, 31, 12, 0, 0, 5e8, time.FixedZone("", 7200)),
		Tags: []string{"a", "b"}, Labels: map[string]string{"k": "v"},
		Metadata: map[string]any{"big": json.Number("12345678901234567890"), "x": []any{nil}},
		Anything: []any{json.Number("1.50")}, Raw: json.RawMessage(`{ "a" : 1 }`), Note: new(""),
		Entries: []exampleEntry{{Level: "info", Line: 1}, {}},
		Patch:   optional[string]{Set: true, Null: true},
		Merge:   optional[map[string]any]{Set: true, Value: map[string]any{"n": json.Number("1.0")}},
		Inner:   &exampleEntry{Line: 7}, exampleBase: exampleBase{Agent: "me"}, Untagged: "u",
	}
	if !got.At.Equal(want.At) {
		t.Errorf("at: got %v, want %v", got.At, want.At)
	}
	got.At = want.At
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestDecodeNamesEveryProblem(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		body string
		want []string
	}{
		{`[]`, []string{" wrong_type"}},
		{`null`, []string{" wrong_type"}},
		{`"name"`, []string{" wrong_type"}},
		{`{"Name":"n","nAme":"n","hidden":1,"Hidden":"","-":""}`, []string{"Name unknown_field",
			"nAme unknown_field", "hidden unknown_field", "Hidden unknown_field", "- unknown_field"}},
		{`{"name":null,"done":null,"count":null,"at":null,"tags":null,"labels":null,"metadata":null}`, []string{
			"name wrong_type", "done wrong_type", "count wrong_type", "at wrong_type", "tags wrong_type",
			"labels wrong_type", "metadata wrong_type"}},
		{`{"note":null,"anything":null,"raw":null,"patch":null,"merge":null,"until":null,"inner":null}`, nil},
		{`{"extra":{"name":[1,{"x":2}]},"name":{"a":[{}]},"count":[[1]],"done":"true"}`, []string{
			"extra unknown_field", "name wrong_type", "count wrong_type", "done wrong_type"}},
		{`{"count":1.5,"small":128,"ratio":"1","tags":["a",1,null],"labels":{"a":"b","c":2}}`, []string{
			"count wrong_type", "small out_of_range", "ratio wrong_type", "tags[1] wrong_type", "tags[2] wrong_type",
			"labels.c wrong_type"}},
		{`{"entries":[{"level":1},[],{"level":"x","more":{}},null],"inner":{"line":"1"}}`, []string{
			"entries[0].level wrong_type", "entries[1] wrong_type", "entries[2].more unknown_field",
			"entries[3] wrong_type", "inner.line wrong_type"}},
		{`{"patch":1,"merge":[],"until":"tomorrow"}`, []string{"patch wrong_type", "merge wrong_type", "until wrong_type"}},
		{`{"at":"9999-12-31T23:00:00-02:00","until":"2026-01-31 12:00:00Z"}`, []string{"at wrong_type", "until wrong_type"}},
		{`{"` + strings.Repeat("é", 100) + `":1}`, []string{strings.Repeat("é", 64) + "… unknown_field"}},
	} {
		var got example
		wantFields(t, decode([]byte(test.body), &got), test.want...)
	}
}

// In JSON Schema a number is an integer by its value.
func TestDecodeTakesIntegersHoweverTheyAreWritten(t *testing.T) {
	t.Parallel()
	for literal, want := range map[string]any{
		"600.0": 600, "6e2": 600, "-6.00E+2": -600, "1500e-1": 150, "0.0": 0, "-0.0": 0, "0e-300": 0, "0.5e1": 5,
		"9007199254740993.0":    9007199254740993,
		"9223372036854775807.0": math.MaxInt64, "-9223372036854775808.0": math.MinInt64, "0." + strings.Repeat("0",
			300) + "1e301": 1,
		"1.5": "wrong_type", "1e-3": "wrong_type", "1.00000000000000000000001": "wrong_type", "1e-300": "wrong_type",
		"9223372036854775808.0": "out_of_range", "-1e19": "out_of_range", "1e300": "out_of_range",
	} {
		var got example
		err := decode([]byte(`{"entries":[{"line": `+literal+` },{"line":2.0}],"count":`+literal+`}`), &got)
		if code, refused := want.(string); refused {
			wantFields(t, err, "entries[0].line "+code, "count "+code)
		} else if err != nil || got.Count != want || got.Entries[0].Line != want || got.Entries[1].Line != 2 {
			t.Errorf("%s: %+v, %v", literal, got, err)
		}
	}
}

func TestDecodeTellsABoundedNumberOfProblems(t *testing.T) {
	t.Parallel()
	var body strings.Builder
	body.WriteString(`{"entries":[`)
	for i := range 10_000 {
		fmt.Fprintf(&body, `{"x%d":1},`, i)
	}
	body.WriteString(`{}]}`)
	var v example
	e := wantProblem(t, decode([]byte(body.String()), &v), http.StatusUnprocessableEntity, "validation_failed")
	if len(e.fields) != maxProblems {
		t.Errorf("got %d problems, want %d", len(e.fields), maxProblems)
	}
}

func TestDecodeRequestTakesNoBodyForAnEmptyObject(t *testing.T) {
	t.Parallel()
	var v example
	request := func(body string) *http.Request {
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		return r
	}
	none, err := decodeRequest(request(""), &v)
	if err != nil {
		t.Error(err)
	}
	some, err := decodeRequest(request(`{"name":"n"}`), &v)
	if err != nil || v.Name != "n" || len(none) == 0 || bytes.Equal(some, none) {
		t.Errorf("got %+v, %v, and the hashes %x and %x", v, err, none, some)
	}
	_, err = decodeRequest(request(" "), &v)
	wantProblem(t, err, http.StatusBadRequest, "malformed_json")
}

// The examples of RFC 7396, appendix A, whose target and patch are objects.
func TestMergePatch(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ target, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{`null`, `{"a":12345678901234567890}`, `{"a":12345678901234567890}`},
	} {
		var target, patch map[string]any
		if err := errors.Join(unmarshal([]byte(test.target), &target), unmarshal([]byte(test.patch), &patch)); err != nil {
			t.Fatal(err)
		}
		got, err := encode(mergePatch(target, patch))
		if err != nil || string(got) != test.want {
			t.Errorf("%s with %s: got %s, %v; want %s", test.target, test.patch, got, err, test.want)
		}
	}
}

func TestEncodeKeepsTextReadable(t *testing.T) {
	t.Parallel()
	got, err := encode(map[string]any{"a": "<&> é", "n": json.Number("1.50")})
	if want := `{"a":"<&> é","n":1.50}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	if _, err := encode(math.Inf(1)); err == nil {
		t.Error("infinity was encoded")
	}
}

// seedJSON gives a fuzzer bodies on both sides of each rule.
func seedJSON(f *testing.F) {
	for _, body := range []string{
		`{}`, `[]`, `null`, ``, ` `, `{"a":1,"a":2}`, `"\ud83d\ude00"`, `"\ud800"`, `"\u0000"`, "\"\xff\"", `"\uFFFD"`,
		`[1e999,1e-999,-0,0e-20000]`, `{"name":"n","count":1.5,"tags":["a",null],"entries":[{"level":"x"}]}`,
		`{"patch":null,"merge":{"a":{"b":1}},"until":"2026-01-31T12:00:00Z","at":"0000-01-01T00:00:00+23:59"}`,
		`{"Name":1,"metadata":{"x":[[[]]]},"raw":{},"anything":"","inner":{"line":9223372036854775808},"labels":{"a":"b"}}`,
	} {
		f.Add([]byte(body))
	}
}

func FuzzDecode(f *testing.F) {
	seedJSON(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequest("POST", "/", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		var v example
		if _, err := decodeRequest(r, &v); err != nil {
			e, ok := errors.AsType[*apiError](err)
			if !ok || e.status != http.StatusBadRequest && e.status != http.StatusUnprocessableEntity {
				t.Fatalf("not the client's mistake: %v", err)
			}
			if !reflect.DeepEqual(v, example{}) {
				t.Fatalf("decoded something beside %v", err)
			}
			return
		}
		// What was accepted can be encoded again for a client.
		if _, err := encode(struct {
			At, Until time.Time
			Metadata  map[string]any
			Raw       json.RawMessage
		}{v.At.UTC(), v.Until.Value.UTC(), v.Metadata, v.Raw}); err != nil {
			t.Fatalf("accepted what can't be encoded: %v", err)
		}
	})
}

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
	if sort, status := q.choice("sort", "name", "name", "-name"), q.choice("status", "any",
		"x"); sort != "-name" || status != "any" {
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
	for _, raw := range []string{"q=a+b", "q=%", "q=%ff", "q=%00", "q=1&q=2", ";", "&&=", "=", "%zz", "\xff=\xff",
		"limit=-1"} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q := newQuery(requestWithQuery(raw))
		text, limit := q.text("q", 10), q.number("limit", 50, 1, 200)
		if !utf8.ValidString(text) || strings.Contains(text, "\x00") || utf8.RuneCountInString(text) > 10 || limit < 1 ||
			limit > 200 {
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
