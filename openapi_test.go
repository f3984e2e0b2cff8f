package main

// openapi.json as tests see it: that it is sound, and that it has the routes,
// permissions and error codes that the server and the README have.

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

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
		Schemas         map[string]*jsonSchema
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
	Schema                *jsonSchema
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
	Schema   *jsonSchema
	Example  any
	Examples map[string]apiExample
}

type apiExample struct {
	Summary, Description string
	Value                any
}

// theDocument is read once. Its error is the first that makes it unusable.
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
	if err := decodeStrictly(content, &raw); err != nil {
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
	if err := decodeStrictly(content, &d); err != nil {
		return nil, err
	}
	d.gather()
	for _, p := range d.places() {
		if err := p.schema.link(p.path, d.Components.Schemas); err != nil {
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
	s := &Server{state: newState(Config{}, nil)}
	s.routes()
	return s.table
}

// pattern is what the route table calls the operation. In a document no path
// stands for all below it: there its last part is a parameter.
func (o *apiOperation) pattern() string {
	switch o.path {
	case "/":
		return o.method + " /{$}"
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
	schema   *jsonSchema
	examples []any
	closed   bool // what it describes is the server's
}

// places are all schemas that aren't inside another one.
func (d *apiDocument) places() []described {
	var found []described
	add := func(path string, s *jsonSchema, closed bool, examples ...any) {
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

func TestDocumentHasEveryRoute(t *testing.T) {
	t.Parallel()
	d := documentOf(t)
	routes := make(map[string]permission)
	for _, route := range builtRoutes() {
		routes[route.pattern] = route.permission
		if d.routes[route.pattern] == nil {
			t.Errorf("openapi.json lacks %s", route.pattern)
		}
	}
	for _, o := range d.operations {
		p, there := routes[o.pattern()]
		if !there {
			if !slices.Contains(optionalRoutes, o.pattern()) {
				t.Errorf("openapi.json has %s, which isn't a route", o.pattern())
			}
			continue
		}
		if o.Permission != p.name {
			t.Errorf("%s is for %q, and openapi.json says %q", o.pattern(), p.name, o.Permission)
		}
		accessToken, apiKey := map[string][]string{"accessToken": {}}, map[string][]string{"apiKey": {}}
		want := []map[string][]string{accessToken, apiKey}
		if p.role == roleNone {
			want = []map[string][]string{}
		} else if p.session {
			want = want[:1]
		}
		if !reflect.DeepEqual(o.Security, want) {
			t.Errorf("%s has the security %v, want %v", o.pattern(), o.Security, want)
		}
	}
}

// References that lead nowhere and keywords that aren't known end this test
// before it begins: the document can't be read then.
func TestDocumentIsSound(t *testing.T) {
	t.Parallel()
	d := documentOf(t)
	tags, ids := make(map[string]bool), make(map[string]bool)
	for _, tag := range d.Tags {
		tags[tag.Name] = false
	}
	for _, o := range d.operations {
		if ids[o.OperationID] || o.OperationID == "" || o.Summary == "" {
			t.Errorf("%s has the operationId %q, which is taken or empty, or no summary", o.pattern(), o.OperationID)
		}
		ids[o.OperationID] = true
		if len(o.Tags) != 1 {
			t.Errorf("%s has the tags %q, want one", o.pattern(), o.Tags)
		}
		for _, tag := range o.Tags {
			if _, known := tags[tag]; !known {
				t.Errorf("%s has the tag %s, which isn't on the list", o.pattern(), tag)
			}
			tags[tag] = true
		}
		checkParameters(t, o)
		status, response := o.success()
		if _, open := o.Responses["default"]; status == "" || open && status[0] == '2' {
			t.Errorf("%s has no success, or a default", o.pattern())
		}
		wantExamples(t, o.pattern()+" "+status, response.Content)
		if o.RequestBody != nil {
			wantExamples(t, o.pattern()+" request", o.RequestBody.Content)
		}
	}
	for tag, used := range tags {
		if !used {
			t.Errorf("nothing has the tag %s", tag)
		}
	}
	for _, p := range d.places() {
		for _, example := range p.examples {
			for _, problem := range p.schema.problemsOf(example, p.closed) {
				t.Errorf("%s: in the example %s", p.path, problem)
			}
		}
		checkOwnExamples(t, p.path, p.schema)
	}
	for name, s := range d.Components.Schemas {
		for _, refused := range unknownMappings(s, d.Components.Schemas) {
			t.Errorf("components.schemas.%s: a discriminator names %s, which isn't there", name, refused)
		}
	}
}

// checkParameters holds the parameters in a path's template against those described.
func checkParameters(t *testing.T, o *apiOperation) {
	t.Helper()
	var templated, described []string
	for _, m := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(o.path, -1) {
		templated = append(templated, m[1])
	}
	seen := make(map[string]bool)
	for _, p := range o.Parameters {
		if p.In == "path" {
			described = append(described, p.Name)
		}
		if seen[p.In+p.Name] || p.Schema == nil || p.Required != (p.In == "path") {
			t.Errorf("%s: the parameter %s is there twice, has no schema, or is wrong about being required", o.pattern(), p.Name)
		}
		seen[p.In+p.Name] = true
	}
	slices.Sort(templated)
	slices.Sort(described)
	if !slices.Equal(templated, described) {
		t.Errorf("%s has the parameters %q in its path, and describes %q", o.pattern(), templated, described)
	}
}

// wantExamples looks for an example of everything but bytes.
func wantExamples(t *testing.T, at string, content map[string]apiMedia) {
	t.Helper()
	for name, media := range content {
		if strings.HasSuffix(name, "json") && (media.Schema == nil || media.Example == nil && len(media.Examples) == 0) {
			t.Errorf("%s: %s has no schema or no example", at, name)
		}
	}
}

// checkOwnExamples holds the examples and the default that stand in a schema,
// and in all inside it, against it.
func checkOwnExamples(t *testing.T, path string, s *jsonSchema) {
	t.Helper()
	examples := s.Examples
	if s.Default != nil {
		examples = append(slices.Clone(examples), s.Default)
	}
	for _, example := range examples {
		for _, problem := range s.problemsOf(example, true) {
			t.Errorf("%s: in the example or default %s", path, problem)
		}
	}
	for path, inner := range s.inside(path) {
		checkOwnExamples(t, path, inner)
	}
}

// unknownMappings are the schemas that discriminators name and that aren't there.
func unknownMappings(s *jsonSchema, named map[string]*jsonSchema) (unknown []string) {
	if s.Discriminator != nil {
		for _, ref := range s.Discriminator.Mapping {
			name, local := strings.CutPrefix(ref, "#/components/schemas/")
			if named[name] == nil || !local {
				unknown = append(unknown, ref)
			}
		}
	}
	for _, inner := range s.inside("") {
		unknown = append(unknown, unknownMappings(inner, named)...)
	}
	return unknown
}

// codesOf are the error codes that a schema allows: of all the enums of its
// code, what is in each.
func codesOf(s *jsonSchema) []string {
	for s.target != nil {
		s = s.target
	}
	var codes []string
	narrow := func(by []string) {
		if codes == nil {
			codes = by
		} else if by != nil {
			codes = slices.DeleteFunc(slices.Clone(codes), func(code string) bool { return !slices.Contains(by, code) })
		}
	}
	if code := s.Properties["code"]; code != nil {
		var own []string
		for _, v := range code.Enum {
			own = append(own, v.(string))
		}
		if text, ok := code.Const.(string); ok {
			own = []string{text}
		}
		narrow(own)
	}
	for _, part := range s.AllOf {
		narrow(codesOf(part))
	}
	return codes
}

// readmeCodes are the codes of the README's table: those of HTTP by status,
// and those that only WebSockets have.
func readmeCodes(t *testing.T) (byStatus map[string][]string, socket []string) {
	t.Helper()
	byStatus = make(map[string][]string)
	name := regexp.MustCompile("`(\\w+)`")
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \| (.*) \|$`).FindAllStringSubmatch(readmeSection(t, "### Errors"), -1) {
		http, bySocket, _ := strings.Cut(m[2], "by WebSocket")
		for _, code := range name.FindAllStringSubmatch(http, -1) {
			byStatus[m[1]] = append(byStatus[m[1]], code[1])
		}
		for _, code := range name.FindAllStringSubmatch(bySocket, -1) {
			socket = append(socket, code[1])
		}
	}
	return byStatus, socket
}

func TestDocumentHasTheErrorCodesOfTheReadme(t *testing.T) {
	t.Parallel()
	d := documentOf(t)
	documented := make(map[string]map[string]bool) // by status
	add := func(at, status string, response apiResponse) {
		media, ok := response.Content["application/problem+json"]
		if !ok {
			return
		}
		codes := codesOf(media.Schema)
		if len(codes) == 0 {
			t.Errorf("%s: a %s may have any code", at, status)
		}
		if documented[status] == nil {
			documented[status] = make(map[string]bool)
		}
		for _, code := range codes {
			documented[status][code] = true
		}
	}
	for _, o := range d.operations {
		for status, response := range o.Responses {
			if status != "default" {
				add(o.pattern(), status, response)
			}
		}
	}
	want, ofSockets := readmeCodes(t)
	for _, status := range slices.Sorted(maps.Keys(want)) {
		if got := slices.Sorted(maps.Keys(documented[status])); !slices.Equal(got, slices.Sorted(slices.Values(want[status]))) {
			t.Errorf("%s: openapi.json has the codes %q, and README.md %q", status, got, want[status])
		}
	}
	for status := range documented {
		if want[status] == nil {
			t.Errorf("openapi.json has problems of status %s, and README.md hasn't", status)
		}
	}
	sockets, all := codesOf(d.Components.Schemas["WebSocketError"]), slices.Concat(slices.Collect(maps.Values(want))...)
	for _, code := range ofSockets {
		if !slices.Contains(sockets, code) {
			t.Errorf("openapi.json lacks the code %s of WebSockets", code)
		}
	}
	for _, code := range sockets {
		if !slices.Contains(ofSockets, code) && !slices.Contains(all, code) {
			t.Errorf("openapi.json has the code %s of WebSockets, and README.md hasn't", code)
		}
	}
}
