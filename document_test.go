package main

// openapi.json as tests read it: operations by their routes, with references
// followed, and its schemas ready to check.

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"tachikoma/internal/apidocs/jsonschema"
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
	schema   *jsonschema.Schema
	examples []any
	closed   bool // what it describes is the server's
}

// places are all schemas that aren't inside another one.
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
