package main

// The contract: what tests send and what the server answers is checked against
// openapi.json, in every test that goes through client.try, reads a stream or
// uses a WebSocket. The second half reads openapi.json for tests: operations by
// their routes, with references followed.

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"tachikoma/internal/apidocs/jsonschema"
)

// checkContract reports where an exchange isn't as openapi.json describes it. It
// does nothing in benchmarks, since it would be measured with the server.
func checkContract(t testing.TB, r *http.Request, sent []byte, a *answer) {
	t.Helper()
	if _, measured := t.(*testing.B); measured {
		return
	}
	d, err := theDocument()
	if err != nil {
		t.Error(err)
		return
	}
	for _, problem := range d.judge(r, sent, a) {
		t.Errorf("%s %s: %d: openapi.json: %s", r.Method, r.URL.Path, a.status, problem)
	}
}

// judge returns what in an exchange isn't as the document describes it.
func (d *apiDocument) judge(r *http.Request, sent []byte, a *answer) []string {
	if a.status >= 400 && a.header.Get("X-Request-Id") == "" {
		return nil // net/http or a proxy speaks; the request got to no route
	}
	o := d.find(r)
	switch {
	case o == nil && r.Method == http.MethodOptions && a.status == http.StatusNoContent:
		return nil // to a browser that asks before it calls
	case o == nil, a.status == http.StatusNotFound && strings.HasPrefix(o.path, "/internal/"): // INTERNAL_ADDR has these
		return d.judgeProblem(r, a)
	}
	response, ok := o.Responses[strconv.Itoa(a.status)]
	if !ok {
		return []string{fmt.Sprintf("the status isn't described: %s", a.body)}
	}
	problems := append(response.judgeHeaders(a), response.judgeBody(r, a)...)
	switch {
	case a.status >= 200 && a.status < 300:
		problems = append(problems, o.judgeAccepted(r, sent)...)
	case a.status == http.StatusUnprocessableEntity:
		problems = append(problems, o.judgeRefused(sent, a)...)
	}
	return problems
}

// judgeProblem checks an answer without an operation against the schema of all problems.
func (d *apiDocument) judgeProblem(r *http.Request, a *answer) []string {
	return apiResponse{Content: map[string]apiMedia{
		"application/problem+json": {Schema: d.Components.Schemas["Problem"]},
	}}.judgeBody(r, a)
}

// judgeHeaders checks the headers of an answer against those described.
func (response apiResponse) judgeHeaders(a *answer) (problems []string) {
	for name, header := range response.Headers {
		if value := a.header.Get(name); value == "" && header.Required {
			problems = append(problems, "the header "+name+" is missing")
		} else if value != "" && header.Schema != nil {
			problems = append(problems, prefixed("the header "+name+": ", textProblems(header.Schema, value))...)
		}
	}
	for _, name := range []string{"ETag", "Location", "Retry-After", "WWW-Authenticate"} {
		if _, ok := response.Headers[name]; !ok && a.header.Get(name) != "" {
			problems = append(problems, "the header "+name+" isn't described")
		}
	}
	return problems
}

// judgeBody checks the body of an answer against the response that is described
// for its status.
func (response apiResponse) judgeBody(r *http.Request, a *answer) (problems []string) {
	contentType := a.header.Get("Content-Type")
	if contentType == "" && len(a.body) == 0 {
		if len(response.Content) > 0 && r.Method != http.MethodHead {
			problems = append(problems, "there is no body")
		}
		return problems
	}
	media, ok := mediaFor(response.Content, contentType)
	switch {
	case !ok:
		problems = append(problems, fmt.Sprintf("the content type %q isn't described", contentType))
	case r.Method == http.MethodHead, a.header.Get("Content-Encoding") != "": // the same bodies are read elsewhere
	case isJSON(contentType):
		problems = append(problems, media.fits(a.body, true)...)
	}
	return problems
}

// mediaFor returns what is described for a media type, ignoring its parameters.
func mediaFor(content map[string]apiMedia, contentType string) (apiMedia, bool) {
	wanted, _, _ := mime.ParseMediaType(contentType)
	for name, media := range content {
		if described, _, err := mime.ParseMediaType(name); err == nil && described == wanted {
			return media, true
		}
	}
	return apiMedia{}, false
}

func isJSON(contentType string) bool {
	mediaType, _, _ := mime.ParseMediaType(contentType)
	return mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
}

// fits returns what keeps a body from matching.
func (m apiMedia) fits(body []byte, closed bool) []string {
	var v any
	if err := jsonschema.Decode(body, &v); err != nil {
		return []string{err.Error()}
	}
	if m.Schema == nil {
		return nil
	}
	return prefixed("the body: ", m.Schema.Problems(v, closed))
}

// textProblems returns what keeps a header's or a parameter's value from matching:
// it can be a string, or the value that it is in JSON.
func textProblems(s *jsonschema.Schema, text string) []string {
	problems := s.Problems(text, false)
	var v any
	if len(problems) > 0 && jsonschema.Decode([]byte(text), &v) == nil && len(s.Problems(v, false)) == 0 {
		return nil
	}
	return problems
}

func prefixed(prefix string, problems []string) []string {
	for i := range problems {
		problems[i] = prefix + problems[i]
	}
	return problems
}

// judgeAccepted checks what the server has accepted against what the document allows.
func (o *apiOperation) judgeAccepted(r *http.Request, sent []byte) (problems []string) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil && o.Permission != forProbes.name {
		return []string{err.Error()}
	}
	for name, values := range query {
		if p := o.parameter("query", name); p == nil && o.Permission == forProbes.name {
			continue // load balancers append what they like
		} else if p == nil {
			problems = append(problems, "the parameter "+name+" was accepted, and isn't described")
		} else {
			problems = append(problems, prefixed("the parameter "+name+" was accepted: ", textProblems(p.Schema, values[0]))...)
		}
	}
	for _, name := range []string{"Idempotency-Key", "If-Match", "Last-Event-ID"} {
		if r.Header.Get(name) != "" && o.parameter("header", name) == nil {
			problems = append(problems, "the header "+name+" was accepted, and isn't described")
		}
	}
	switch {
	case o.method == http.MethodGet: // its body isn't read
	case len(sent) == 0 && o.RequestBody != nil && o.RequestBody.Required:
		problems = append(problems, "it was accepted without a body")
	case len(sent) == 0:
	case o.RequestBody == nil && string(sent) != "{}":
		problems = append(problems, fmt.Sprintf("the body was accepted, and isn't described: %s", sent))
	case o.RequestBody != nil && o.takesJSON():
		media, ok := mediaFor(o.RequestBody.Content, r.Header.Get("Content-Type"))
		if !ok {
			problems = append(problems, "a body of this type was accepted, and isn't described")
		} else {
			problems = append(problems, prefixed("accepted, although ", media.fits(sent, false))...)
		}
	}
	return problems
}

func (o *apiOperation) parameter(in, name string) *apiParameter {
	for i, p := range o.Parameters {
		if p.In == in && strings.EqualFold(p.Name, name) {
			return &o.Parameters[i]
		}
	}
	return nil
}

func (o *apiOperation) takesJSON() bool {
	return o.RequestBody != nil && o.RequestBody.Content["application/json"].Schema != nil
}

// judgeRefused checks that a body that was refused for its form doesn't match:
// otherwise openapi.json promises too much.
func (o *apiOperation) judgeRefused(sent []byte, a *answer) []string {
	var problem struct{ Errors []fieldError }
	if !o.takesJSON() || json.Unmarshal(a.body, &problem) != nil {
		return nil
	}
	ofForm := slices.IndexFunc(problem.Errors,
		func(e fieldError) bool { return e.Code == "unknown_field" || e.Code == "wrong_type" })
	if ofForm < 0 || len(o.RequestBody.Content["application/json"].fits(sent, false)) > 0 {
		return nil
	}
	return []string{fmt.Sprintf("the body fits, and was refused: %s %s",
		problem.Errors[ofForm].Field, problem.Errors[ofForm].Message)}
}

// checkMessage reports where a message isn't as a schema of openapi.json describes it.
func checkMessage(t testing.TB, schema string, raw []byte, closed bool) {
	t.Helper()
	d, err := theDocument()
	if err != nil {
		t.Error(err)
		return
	}
	s := d.Components.Schemas[schema]
	if s == nil {
		t.Errorf("openapi.json has no schema %s", schema)
		return
	}
	for _, problem := range (apiMedia{Schema: s}).fits(raw, closed) {
		t.Errorf("%s: openapi.json: %s", schema, problem)
	}
}

// apiDocument is openapi.json. References to anything but schemas are replaced
// by what they name.
type apiDocument struct {
	OpenAPI    string
	Info       map[string]any
	Servers    []struct{ URL, Description string }
	Tags       []struct{ Name, Description string }
	Paths      map[string]apiPath
	Components struct {
		SecuritySchemes map[string]any
		Schemas         map[string]*jsonschema.Schema
		Responses       map[string]apiResponse
		Parameters      map[string]apiParameter
		Headers         map[string]apiParameter
		Examples        map[string]apiExample
		RequestBodies   map[string]apiBody
	}

	operations []*apiOperation          // by path and method
	routes     map[string]*apiOperation // those that this build has, by their pattern in the route table
	mux        *http.ServeMux           // finds the pattern of a request
}

type apiPath struct {
	Parameters                    []apiParameter
	Get, Put, Post, Patch, Delete *apiOperation
}

// apiOperation is what a route does.
type apiOperation struct {
	OperationID, Summary, Description string
	Tags                              []string
	Permission                        string `json:"x-permission"`
	Security                          []map[string][]string
	Parameters                        []apiParameter // with those of its path
	RequestBody                       *apiBody
	Responses                         map[string]apiResponse // by status

	method, path string
}

type apiParameter struct { // or a header
	Name, In, Description string
	Required              bool
	Schema                *jsonschema.Schema
	Example               any
}

type apiBody struct {
	Description string
	Required    bool
	Content     map[string]apiMedia // by media type
}

type apiResponse struct {
	Description string
	Headers     map[string]apiParameter
	Content     map[string]apiMedia
}

type apiMedia struct {
	Schema   *jsonschema.Schema
	Example  any
	Examples map[string]apiExample
}

type apiExample struct {
	Summary, Description string
	Value                any
}

// theDocument reads the document once. The error is the first that makes it unusable.
var theDocument = sync.OnceValues(func() (*apiDocument, error) {
	d, err := readDocument(openAPI)
	if err != nil {
		return nil, fmt.Errorf("openapi.json: %w", err)
	}
	return d, nil
})

func documentOf(t testing.TB) *apiDocument {
	t.Helper()
	d, err := theDocument()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func readDocument(content []byte) (*apiDocument, error) {
	var raw any
	if err := jsonschema.Decode(content, &raw); err != nil {
		return nil, err
	}
	raw, err := inlined(raw, raw)
	if err != nil {
		return nil, err
	}
	if content, err = encode(raw); err != nil {
		return nil, err
	}
	var d apiDocument
	if err := jsonschema.Decode(content, &d); err != nil {
		return nil, err
	}
	d.gather()
	for _, p := range d.places() {
		if err := p.schema.Link(p.path, d.Components.Schemas); err != nil {
			return nil, err
		}
	}
	return &d, nil
}

// inlined replaces every reference in v to anything but a schema.
func inlined(v, root any) (any, error) {
	var problems []error
	switch v := v.(type) {
	case []any:
		for i := range v {
			var err error
			v[i], err = inlined(v[i], root)
			problems = append(problems, err)
		}
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok && !strings.HasPrefix(ref, "#/components/schemas/") {
			var target any = root
			for name := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
				object, _ := target.(map[string]any)
				target = object[name]
			}
			if target == nil || len(v) > 1 {
				return nil, fmt.Errorf("%s names nothing, or isn't alone", ref)
			}
			return inlined(target, root)
		}
		for name := range v {
			var err error
			v[name], err = inlined(v[name], root)
			problems = append(problems, err)
		}
	}
	return v, errors.Join(problems...)
}

// gather collects the operations of all paths.
func (d *apiDocument) gather() {
	d.routes, d.mux = make(map[string]*apiOperation), http.NewServeMux()
	built := make(map[string]bool)
	for _, route := range builtRoutes() {
		built[route.pattern] = true
	}
	for _, p := range slices.Sorted(maps.Keys(d.Paths)) {
		item := d.Paths[p]
		for _, of := range []struct {
			method    string
			operation *apiOperation
		}{{"GET", item.Get}, {"PUT", item.Put}, {"POST", item.Post}, {"PATCH", item.Patch}, {"DELETE", item.Delete}} {
			o := of.operation
			if o == nil {
				continue
			}
			o.method, o.path = of.method, p
			o.Parameters = append(o.Parameters, item.Parameters...)
			d.operations = append(d.operations, o)
			if built[o.pattern()] {
				d.routes[o.pattern()] = o
				d.mux.Handle(o.pattern(), http.NotFoundHandler())
			}
		}
	}
}

// builtRoutes is the route table of this build.
func builtRoutes() []route {
	s := &Server{serverState: newState(Config{}, nil)}
	s.routes()
	return s.table
}

// pattern is the operation's pattern in the route table. A document has no paths
// that match everything below them: their last part is a parameter there.
func (o *apiOperation) pattern() string {
	switch o.path {
	case "/internal/debug/pprof/{profile}":
		return o.method + " /internal/debug/pprof/"
	}
	return o.method + " " + o.path
}

// find is the operation that a request is meant for, or nil.
func (d *apiDocument) find(r *http.Request) *apiOperation {
	if clean := path.Clean(r.URL.Path); clean != r.URL.Path && clean+"/" != r.URL.Path {
		return nil // http.ServeMux would redirect
	}
	if r.URL.Path == "/mcp/" { // works like /mcp
		r = httptest.NewRequest(r.Method, "/mcp", nil)
	}
	_, pattern := d.mux.Handler(r)
	return d.routes[pattern]
}

// success is the status that a good request gets, the first if there are
// several, and its response.
func (o *apiOperation) success() (status string, response apiResponse) {
	for _, status := range slices.Sorted(maps.Keys(o.Responses)) {
		if status < "400" {
			return status, o.Responses[status]
		}
	}
	return "", response
}

// described is a schema in the document with the examples that stand beside it.
type described struct {
	path     string
	schema   *jsonschema.Schema
	examples []any
	closed   bool // what it describes is the server's
}

// places returns all schemas that aren't inside another one.
func (d *apiDocument) places() []described {
	var found []described
	add := func(path string, s *jsonschema.Schema, closed bool, examples ...any) {
		examples = slices.DeleteFunc(examples, func(v any) bool { return v == nil })
		if s != nil {
			found = append(found, described{path, s, examples, closed})
		}
	}
	parameter := func(path string, p apiParameter) { add(path+"."+p.Name, p.Schema, false, p.Example) }
	content := func(path string, content map[string]apiMedia, closed bool) {
		for name, media := range content {
			examples := []any{media.Example}
			for _, e := range media.Examples {
				examples = append(examples, e.Value)
			}
			add(path+"."+name, media.Schema, closed, examples...)
		}
	}
	for name, s := range d.Components.Schemas {
		add("components.schemas."+name, s, false)
	}
	for _, o := range d.operations {
		at := o.method + " " + o.path
		for _, p := range o.Parameters {
			parameter(at, p)
		}
		if o.RequestBody != nil {
			content(at+" request", o.RequestBody.Content, false)
		}
		for status, response := range o.Responses {
			content(at+" "+status, response.Content, true)
			for name, header := range response.Headers {
				parameter(at+" "+status+"."+name, header)
			}
		}
	}
	for name, response := range d.Components.Responses {
		content("components.responses."+name, response.Content, true)
	}
	for name, p := range d.Components.Parameters {
		parameter("components.parameters."+name, p)
	}
	for name, p := range d.Components.Headers {
		parameter("components.headers."+name, p)
	}
	for name, body := range d.Components.RequestBodies {
		content("components.requestBodies."+name, body.Content, false)
	}
	return found
}
