package main

// JSON in and out: reading a body, refusing what isn't I-JSON, decoding it
// strictly, merge patches, and encoding.

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxDepth     = 32   // levels of nesting in a body
	maxProblems  = 100  // problems told of one request; the rest would only be noise
	maxNumberLen = 1000 // bytes of one number; PostgreSQL's numeric ends at 16,383 decimals
)

// decodeRequest reads the body of r into v, a pointer to a struct, and notes
// its hash in the call. An empty body is {}: what is required is then found
// missing by the handler's own checks. Routes that take a body take no query
// parameters. See readBody, checkJSON and decode for the errors.
func decodeRequest(r *http.Request, v any) error {
	body, err := readBody(r)
	if err != nil {
		return err
	}
	if err := newQuery(r).err(); err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	callOf(r).bodyHash = sum[:]
	if body == nil {
		return nil
	}
	if err := checkJSON(body); err != nil {
		return err
	}
	return decode(body, v)
}

// readBody reads the whole body of r, up to the limit that the middleware has
// set with http.MaxBytesReader; an empty one is nil and needs no Content-Type.
// Its errors: 413 body_too_large, 415 unsupported_media_type, 408
// request_timeout, and 400 incomplete_body for one that breaks off.
func readBody(r *http.Request) ([]byte, error) {
	mediaErr := checkMediaType(r)
	if mediaErr != nil && r.ContentLength > 0 {
		return nil, mediaErr // spares the client the upload
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, bodyProblem(err)
	}
	if len(body) == 0 {
		return nil, nil
	}
	return body, mediaErr
}

// checkMediaType accepts JSON in UTF-8 without a content coding, and for a
// PATCH also the name that RFC 7396 gave it.
func checkMediaType(r *http.Request) error {
	refuse := func(detail string) error {
		return problem(http.StatusUnsupportedMediaType, "unsupported_media_type", detail)
	}
	for _, coding := range r.Header.Values("Content-Encoding") {
		if coding != "" && !strings.EqualFold(coding, "identity") {
			return refuse("Send the body without a Content-Encoding.")
		}
	}
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || len(r.Header.Values("Content-Type")) > 1 ||
		mediaType != "application/json" &&
			(mediaType != "application/merge-patch+json" || r.Method != http.MethodPatch) {
		return refuse("Send the body as application/json.")
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return refuse("Send the body in UTF-8.")
	}
	return nil
}

// bodyProblem says why a body couldn't be read: whatever it was, it happened
// between the client and here, and not in the database.
func bodyProblem(err error) error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return problem(http.StatusRequestEntityTooLarge, "body_too_large",
			"The body may have at most %d bytes.", tooLarge.Limit).because(err)
	}
	if network, ok := errors.AsType[net.Error](err); ok && network.Timeout() {
		return problem(http.StatusRequestTimeout, "request_timeout",
			"The body took too long to arrive.").withHeader("Connection", "close").because(err)
	}
	return problem(http.StatusBadRequest, "incomplete_body",
		"The body broke off before its end.").because(err)
}

// decode fills v, a pointer to a struct, from a body that checkJSON accepts.
// What doesn't fit is a 422 that names every such field by its path: an
// unknown_field (names are told apart by case), a wrong_type, an integer
// out_of_range. null fits pointers, optional, json.RawMessage and any. Numbers
// in an any are a json.Number: they keep their text. After an error v is as it was.
//
// A field may be a struct, a map with string keys, a slice, a string, a bool,
// a signed integer, a float64, a time.Time, or one of those named above.
func decode(body []byte, v any) error {
	w := walk{Decoder: json.NewDecoder(bytes.NewReader(body))}
	w.UseNumber()
	w.value("", reflect.TypeOf(v).Elem())
	if err := w.problems.err(); err != nil {
		return err
	}
	return unmarshal(body, v)
}

// unmarshal is json.Unmarshal that keeps the text of numbers.
func unmarshal(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return d.Decode(v)
}

// walk compares a document, token by token, with the type it is meant for.
type walk struct {
	*json.Decoder
	problems violations
}

// value compares the next value with t.
func (w *walk) value(path string, t reflect.Type) {
	token, err := w.Token()
	if err != nil {
		return // can't be: the document is valid
	}
	t, nullable := unwrap(t)
	switch {
	case nullable && token == nil:
	case t.Kind() == reflect.Interface || t == reflect.TypeFor[json.RawMessage]():
		w.skip(token)
	case t == reflect.TypeFor[time.Time]():
		w.time(path, token)
	case t.Kind() == reflect.Struct && token == json.Delim('{'):
		fields := fieldTypes(t)
		w.members(path, func(name string) (reflect.Type, bool) { f, ok := fields[name]; return f, ok })
	case t.Kind() == reflect.Map && token == json.Delim('{'):
		w.members(path, func(string) (reflect.Type, bool) { return t.Elem(), true })
	case t.Kind() == reflect.Slice && token == json.Delim('['):
		for i := 0; w.More() && len(w.problems.fields) < maxProblems; i++ {
			w.value(fmt.Sprintf("%s[%d]", path, i), t.Elem())
		}
		_, _ = w.Token() // the closing bracket
	default:
		w.scalar(path, token, t)
	}
}

// unwrap is what a pointer or an optional holds, and whether t accepts null.
func unwrap(t reflect.Type) (inner reflect.Type, nullable bool) {
	switch {
	case t.Kind() == reflect.Pointer:
		return t.Elem(), true
	case t.Implements(reflect.TypeFor[holder]()):
		return reflect.Zero(t).Interface().(holder).held(), true
	}
	return t, false
}

// members compares the members of the object that was just opened; typeOf
// knows the type for a name, or that there is no such member.
func (w *walk) members(path string, typeOf func(name string) (reflect.Type, bool)) {
	for w.More() && len(w.problems.fields) < maxProblems {
		token, _ := w.Token()
		name, _ := token.(string)
		member := clip(name)
		if path != "" {
			member = path + "." + member
		}
		if t, ok := typeOf(name); ok {
			w.value(member, t)
			continue
		}
		w.problems.add(member, "unknown_field", "isn't a field here")
		if token, err := w.Token(); err == nil {
			w.skip(token)
		}
	}
	_, _ = w.Token() // the closing brace
}

// scalar compares a token with a type that isn't made of others. The token of
// a list or an object that shouldn't be there ends here too.
func (w *walk) scalar(path string, token json.Token, t reflect.Type) {
	wanted, fits := "a value of another type", false
	switch t.Kind() {
	case reflect.String:
		wanted = "a string"
		_, fits = token.(string)
	case reflect.Bool:
		wanted = "true or false"
		_, fits = token.(bool)
	case reflect.Float64:
		wanted = "a number"
		_, fits = token.(json.Number)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		wanted = "a whole number"
		if number, ok := token.(json.Number); ok {
			_, err := strconv.ParseInt(number.String(), 10, t.Bits())
			if errors.Is(err, strconv.ErrRange) {
				w.problems.add(path, "out_of_range", "is too far from zero")
				return
			}
			fits = err == nil
		}
	case reflect.Slice:
		wanted = "a list"
	case reflect.Struct, reflect.Map:
		wanted = "an object"
	}
	if !fits {
		w.problems.add(path, "wrong_type", "must be "+wanted)
		w.skip(token)
	}
}

// time accepts RFC 3339 in years that can be written the same way in UTC.
func (w *walk) time(path string, token json.Token) {
	text, ok := token.(string)
	var at time.Time
	if !ok || at.UnmarshalText([]byte(text)) != nil || at.UTC().Year() < 1 || at.UTC().Year() > 9999 {
		w.problems.add(path, "wrong_type", "must be a time such as 2026-01-31T12:00:00Z")
		w.skip(token)
	}
}

// skip reads to the end of the value that token begins.
func (w *walk) skip(token json.Token) {
	for depth := 0; ; {
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return
		}
		var err error
		if token, err = w.Token(); err != nil {
			return // can't be: the document is valid
		}
	}
}

// knownFields keeps what fieldTypes found: reflection costs more than decoding.
var knownFields sync.Map // reflect.Type to map[string]reflect.Type

// fieldTypes is the types of the fields of struct t by their names in JSON.
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

// clip shortens a client's own words so that they can be told back to it.
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

// UnmarshalJSON is called only for a member that is there.
func (o *optional[T]) UnmarshalJSON(data []byte) error {
	*o = optional[T]{Set: true, Null: string(data) == "null"}
	if o.Null {
		return nil
	}
	return unmarshal(data, &o.Value)
}

// apply takes the member over into field, if it is there; null means preset.
func (o optional[T]) apply(field *T, preset T) {
	switch {
	case o.Null:
		*field = preset
	case o.Set:
		*field = o.Value
	}
}

// mergePatch applies patch to target as RFC 7396 says and returns target,
// changed in place (or made, if it was nil): null removes a member, an object
// is merged into the one there, anything else replaces.
func mergePatch(target, patch map[string]any) map[string]any {
	if target == nil {
		target = make(map[string]any, len(patch))
	}
	for name, value := range patch {
		switch value := value.(type) {
		case nil:
			delete(target, name)
		case map[string]any:
			inner, _ := target[name].(map[string]any)
			target[name] = mergePatch(inner, value)
		default:
			target[name] = value
		}
	}
	return target
}

// encode is v as JSON, without HTML escaping and without a newline at the end.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
