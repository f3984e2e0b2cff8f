package main

// JSON in and out: reading a body, refusing what isn't I-JSON, decoding it
// strictly, merge patches, and encoding.

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"tachikoma/internal/ijson"
)

// maxProblems is how many problems of one request are reported; the rest would only be noise.
const maxProblems = 100

// decodeRequest reads the body of r into v, a pointer to a struct, and returns a
// hash of its method, path, query and body, which identifies the request. An empty
// body is {}: the request's own checks then find what is missing. Routes that take
// a body take no query parameters. See readBody, checkJSON and decode for the
// errors.
func decodeRequest(r *http.Request, v any) (hash []byte, err error) {
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	if err := newQuery(r).err(); err != nil {
		return nil, err
	}
	sum, h := sha256.Sum256(body), sha256.New()
	fmt.Fprintf(h, "%s %s\n%s", r.Method, r.URL.RequestURI(), sum[:])
	if body == nil {
		return h.Sum(nil), nil
	}
	if err := checkJSON(body); err != nil {
		return nil, err
	}
	return h.Sum(nil), decode(body, v)
}

// checkJSON reports what keeps body from being I-JSON that can be stored, as a
// 400 malformed_json.
func checkJSON(body []byte) error {
	if e, ok := errors.AsType[*ijson.Error](ijson.Check(body)); ok {
		return problem(http.StatusBadRequest, "malformed_json", "At byte %d of the body: %s.", e.Offset, e.Reason)
	}
	return nil
}

// decode fills v, a pointer to a struct, from a body that checkJSON accepts. It
// walks the body itself before encoding/json does, so that a client is told of all
// problems at once, each with its path; encoding/json/v2 of Go 1.27 also stops at
// the first. What doesn't fit is a 422 that names every such field by its path: an
// unknown_field (names are case-sensitive), a wrong_type, an integer out_of_range.
// As in JSON Schema 600.0 and 6e2 are integers. null fits pointers, optional,
// json.RawMessage and any. Numbers in an any are a json.Number: they keep their
// text. After an error v is unchanged.
//
// A field may be a struct, a map with string keys, a slice, a string, a bool,
// a signed integer, a float64, a time.Time, or one of those named above.
func decode(body []byte, v any) error { return decodeAs(walk{body: body}, v) }

// decodeLoosely is decode for clients that send other values as strings: "600",
// "[1, 2]" and "true" count as what they hold where that is wanted.
func decodeLoosely(body []byte, v any) error { return decodeAs(walk{body: body, loose: true}, v) }

func decodeAs(w walk, v any) error {
	w.value(reflect.TypeOf(v).Elem())
	if err := w.problems.err(); err != nil {
		return err
	}
	return unmarshal(w.rewritten(), v)
}

// unmarshal is json.Unmarshal that keeps the text of numbers.
func unmarshal(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return d.Decode(v)
}

// walk compares a document, value by value, with the type it is meant for. It
// goes over the bytes, which takes a tenth of the time of json.Decoder.Token.
type walk struct {
	body     []byte     // valid JSON
	at       int        // the next byte
	path     []pathStep // to the value there
	problems violations
	loose    bool      // see decodeLoosely
	rewrites []rewrite // in the order of their places
}

// rewrite is a value that encoding/json wouldn't take as it stands.
type rewrite struct {
	start, end int
	text       []byte
}

// rewritten is the body as encoding/json takes it.
func (w *walk) rewritten() []byte {
	if len(w.rewrites) == 0 {
		return w.body
	}
	var b bytes.Buffer
	done := 0
	for _, r := range w.rewrites {
		b.Write(w.body[done:r.start])
		b.Write(r.text)
		done = r.end
	}
	b.Write(w.body[done:])
	return b.Bytes()
}

// pathStep is a member's name as it stands in the document, or a place in a list.
type pathStep struct {
	name  []byte
	index int
}

// fail adds a problem of the value at the path, or further below.
func (w *walk) fail(code, message string, below ...string) {
	path := make([]string, len(w.path))
	for i, s := range w.path {
		if path[i] = fmt.Sprintf("[%d]", s.index); s.name != nil {
			path[i] = unquote(s.name)
		}
	}
	w.problems.add(pathText(append(path, below...)), code, message)
}

// pathText is a path of names, and of places in lists such as [0], as clients see
// it.
func pathText(path []string) string {
	var b strings.Builder
	for i, step := range path {
		if i > 0 && !strings.HasPrefix(step, "[") {
			b.WriteByte('.')
		}
		b.WriteString(clip(step))
	}
	return b.String()
}

// unquote is the text of a JSON string.
func unquote(quoted []byte) (text string) {
	_ = json.Unmarshal(quoted, &text) // the syntax is known to be right
	return text
}

// value compares the next value with whole, a type.
func (w *walk) value(whole reflect.Type) {
	t, nullable := unwrap(whole)
	switch first := w.peek(); {
	case nullable && first == 'n', t.Kind() == reflect.Interface, t == reflect.TypeFor[json.RawMessage]():
		w.next()
	case t == reflect.TypeFor[time.Time]():
		w.time(w.next())
	case w.loose && first == '"' && t.Kind() != reflect.String:
		w.inString(w.next(), whole)
	case t.Kind() == reflect.Struct && first == '{':
		fields := fieldTypes(t)
		w.members(func(name []byte) (reflect.Type, bool) { f, ok := fields[string(name)]; return f, ok })
	case t.Kind() == reflect.Map && first == '{':
		w.members(func([]byte) (reflect.Type, bool) { return t.Elem(), true })
	case t.Kind() == reflect.Slice && first == '[':
		w.elements(t.Elem())
	default:
		w.scalar(w.next(), t)
	}
}

// unwrap is what a pointer or an optional holds, and whether t accepts null.
func unwrap(t reflect.Type) (inner reflect.Type, nullable bool) {
	switch {
	case t.Kind() == reflect.Pointer:
		return t.Elem(), true
	case t.Kind() == reflect.Struct && t.Implements(reflect.TypeFor[holder]()):
		return reflect.Zero(t).Interface().(holder).held(), true
	}
	return t, false
}

// peek goes to the next value, or the end of what it is in, and returns its
// first byte.
func (w *walk) peek() byte {
	for strings.IndexByte(" \t\r\n,:", w.body[w.at]) >= 0 {
		w.at++
	}
	return w.body[w.at]
}

// next goes past the next value and returns it.
func (w *walk) next() []byte {
	first := w.peek()
	start, depth := w.at, 0
	for {
		switch c := w.body[w.at]; {
		case c == '"':
			w.at = endOfString(w.body, w.at)
		case c == '{' || c == '[':
			depth++
			w.at++
		case c == '}' || c == ']':
			depth--
			w.at++
		default:
			w.at++
		}
		scalar := first != '{' && first != '[' && first != '"'
		if depth == 0 && (!scalar || w.at == len(w.body) || strings.IndexByte(" \t\r\n,]}", w.body[w.at]) >= 0) {
			return w.body[start:w.at]
		}
	}
}

// endOfString is the index just after the string that starts at body[start].
func endOfString(body []byte, start int) int {
	for i := start + 1; ; i++ {
		switch body[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
}

// members compares the members of the next object; typeOf knows the type for a
// name, or that there is no such member.
func (w *walk) members(typeOf func(name []byte) (reflect.Type, bool)) {
	w.at++ // the brace
	for w.peek() != '}' {
		if len(w.problems.fields) == maxProblems {
			return
		}
		quoted := w.next()
		name := quoted[1 : len(quoted)-1]
		if bytes.IndexByte(name, '\\') >= 0 {
			name = []byte(unquote(quoted))
		}
		w.path = append(w.path, pathStep{name: quoted})
		if t, ok := typeOf(name); ok {
			w.value(t)
		} else {
			w.fail("unknown_field", "isn't a known field")
			w.next()
		}
		w.path = w.path[:len(w.path)-1]
	}
	w.at++
}

// elements compares the elements of the next list with t.
func (w *walk) elements(t reflect.Type) {
	w.at++ // the bracket
	w.path = append(w.path, pathStep{})
	for i := 0; w.peek() != ']'; i++ {
		if len(w.problems.fields) == maxProblems {
			return
		}
		w.path[len(w.path)-1].index = i
		w.value(t)
	}
	w.path = w.path[:len(w.path)-1]
	w.at++
}

// inString compares what a string holds with t. If that isn't I-JSON, or is a
// string again, it compares the string itself, unless it begins as t does: then it
// says what is wrong in there.
func (w *walk) inString(quoted []byte, t reflect.Type) {
	inner := []byte(strings.TrimSpace(unquote(quoted)))
	if title := string(inner); title == "True" || title == "False" { // as Python writes them
		inner = bytes.ToLower(inner)
	}
	wrong, _ := errors.AsType[*ijson.Error](ijson.Check(inner))
	if wrong == nil && inner[0] != '"' {
		within := walk{body: inner, path: w.path, problems: w.problems, loose: true}
		within.value(t)
		w.problems = within.problems
		w.rewrites = append(w.rewrites, rewrite{w.at - len(quoted), w.at, within.rewritten()})
		return
	}
	t, _ = unwrap(t)
	if wrong != nil && len(inner) > 0 && inner[0] == openings[t.Kind()] {
		w.fail("malformed", fmt.Sprintf("can't be taken: %s (byte %d of the string)", wrong.Reason, wrong.Offset),
			wrong.Path...)
		return
	}
	w.scalar(quoted, t)
}

// openings are what lists and objects begin with, by the types that hold them.
var openings = map[reflect.Kind]byte{reflect.Slice: '[', reflect.Map: '{', reflect.Struct: '{'}

// scalar compares a value with a scalar type. If t is a list or an object, the
// value is something else, and doesn't fit.
func (w *walk) scalar(value []byte, t reflect.Type) {
	wanted, fits := "a value of another type", false
	switch first := value[0]; t.Kind() {
	case reflect.String:
		wanted, fits = "a string", first == '"'
	case reflect.Bool:
		wanted, fits = "true or false", first == 't' || first == 'f'
	case reflect.Float64:
		wanted, fits = "a number", isNumber(value)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		wanted = "a whole number"
		if isNumber(value) {
			digits := wholeNumber(string(value))
			_, err := strconv.ParseInt(digits, 10, t.Bits())
			if errors.Is(err, strconv.ErrRange) {
				w.fail("out_of_range", "is too far from zero")
				return
			}
			if fits = err == nil; fits && digits != string(value) {
				w.rewrites = append(w.rewrites, rewrite{w.at - len(value), w.at, []byte(digits)})
			}
		}
	case reflect.Slice:
		wanted = "a list"
	case reflect.Struct, reflect.Map:
		wanted = "an object"
	}
	if !fits {
		w.fail("wrong_type", "must be "+wanted)
	}
}

// wholeNumber is an integer without point and exponent, or "" for a number that
// isn't one. It is exact only for what may fit into 64 bits.
func wholeNumber(literal string) (digits string) {
	if !strings.ContainsAny(literal, ".eE") {
		return literal
	}
	f, _ := strconv.ParseFloat(literal, 64) // ijson has checked that it fits
	switch {
	case f != math.Trunc(f):
		return ""
	case f == 0 || math.Abs(f) > 1<<63:
		return strconv.FormatFloat(math.Abs(f), 'f', 0, 64)
	}
	if exact, ok := new(big.Rat).SetString(literal); ok && exact.IsInt() {
		return exact.Num().String()
	}
	return ""
}

func isNumber(value []byte) bool { return value[0] == '-' || '0' <= value[0] && value[0] <= '9' }

// time accepts RFC 3339 in years that can be written the same way in UTC.
func (w *walk) time(value []byte) {
	var at time.Time
	if value[0] != '"' || at.UnmarshalText([]byte(unquote(value))) != nil || at.UTC().Year() < 1 ||
		at.UTC().Year() > 9999 {
		w.fail("wrong_type", "must be a time such as 2026-01-31T12:00:00Z")
	}
}

// knownFields caches the results of fieldTypes: reflection costs more than decoding.
var knownFields sync.Map // reflect.Type to map[string]reflect.Type

// fieldTypes returns the types of the fields of struct t by their names in JSON.
func fieldTypes(t reflect.Type) map[string]reflect.Type {
	if known, ok := knownFields.Load(t); ok {
		return known.(map[string]reflect.Type)
	}
	types := make(map[string]reflect.Type)
	for _, field := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "-" || !field.IsExported() || field.Anonymous && name == "" {
			continue
		}
		if name == "" {
			name = field.Name
		}
		types[name] = field.Type
	}
	knownFields.Store(t, types)
	return types
}

// clip shortens a client's own text so that it can be quoted back.
func clip(s string) string {
	const longest = 64
	if runes := []rune(s); len(runes) > longest {
		return string(runes[:longest]) + "…"
	}
	return s
}

// optional is a member of a merge patch (RFC 7396): absent (the zero value),
// null (Set and Null) or a value (Set).
type optional[T any] struct {
	Set, Null bool
	Value     T
}

// holder is what decode needs to know of any optional: the type of its value.
type holder interface{ held() reflect.Type }

func (optional[T]) held() reflect.Type { return reflect.TypeFor[T]() }

// UnmarshalJSON is called only for a member that is present.
func (o *optional[T]) UnmarshalJSON(data []byte) error {
	*o = optional[T]{Set: true, Null: string(data) == "null"}
	if o.Null {
		return nil
	}
	return unmarshal(data, &o.Value)
}

// apply sets field to the member's value, if it is present; null means preset.
func (o optional[T]) apply(field *T, preset T) {
	switch {
	case o.Null:
		*field = preset
	case o.Set:
		*field = o.Value
	}
}

// mergePatch applies patch to into as RFC 7396 says and returns into,
// changed in place (or made, if it was nil): null removes a member, an object
// is merged into the one there, anything else replaces.
func mergePatch(into, patch map[string]any) map[string]any {
	if into == nil {
		into = make(map[string]any, len(patch))
	}
	for name, value := range patch {
		switch value := value.(type) {
		case nil:
			delete(into, name)
		case map[string]any:
			inner, _ := into[name].(map[string]any)
			into[name] = mergePatch(inner, value)
		default:
			into[name] = value
		}
	}
	return into
}

// encode returns v as JSON, without HTML escaping and without a newline at the
// end. A v that keeps a part of itself encoded has an encode method.
func encode(v any) ([]byte, error) {
	if own, ok := v.(interface{ encode() ([]byte, error) }); ok {
		return own.encode()
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
