package main

// The examples in openapi.json work: each is sent, with the story's ids and
// secrets replaced by real ones, and gets the success that is described. The
// limits of bodies are the server's: it doesn't refuse values just inside them,
// and refuses those just outside.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"tachikoma/internal/apidocs/jsonschema"
)

// storyNeeds are the operations whose examples come before an operation's own.
// Those that aren't here need what storySoFar has.
var storyNeeds = map[string][]string{
	"register":        {},
	"createUser":      {"register"},
	"createApiKey":    {"register"},
	"createMission":   {"register"},
	firstSpec:         {"createMission"},
	"createSpec":      {firstSpec},
	"pauseMission":    {"startMission"},
	"resumeMission":   {"pauseMission"},
	"archiveMission":  {"cancelMission"},
	"removeMember":    {"setMember"},
	"claimSpec":       {"startMission"},
	"explainSpec":     {"startMission"},
	"heartbeat":       {"claimSpec"},
	"reportProgress":  {"claimSpec"},
	"completeSpec":    {"reportProgress"},
	"completeMission": {"startMission"},
	"failSpec":        {"claimSpec"},
	"releaseSpec":     {"claimSpec"},
	"listAttempts":    {"failSpec"},
	"askQuestion":     {"claimSpec"},
	"listQuestions":   {"askQuestion"},
	"getQuestion":     {"askQuestion"},
	"answerQuestion":  {"askQuestion"},
	"reviewSpec":      {"createApiKey", submission},
	submission:        {firstSpec},
}

// storySoFar: ada and bob have accounts, and ada a key and a draft with two specs.
var storySoFar = []string{"createUser", "createApiKey", "createSpec"}

// firstSpec makes 001-catalogue; the example of createSpec is about 002-search.
const firstSpec = "the first spec"

// submission puts it into review.
const submission = "a submission"

// withoutStory are operations whose example can't be sent as a request.
var withoutStory = []string{
	"openWebSocket", // its example is a message; ws_test.go
}

// story is what has happened on a server so far, according to the examples.
type story struct {
	t    *testing.T
	d    *apiDocument
	base string
	told map[string]bool   // by operationId
	real map[string]string // for what stands in the examples
}

func TestEveryExampleWorks(t *testing.T) {
	t.Parallel()
	d, s := documentOf(t), newTestServer(t, nil)
	for _, pattern := range slices.Sorted(maps.Keys(d.routes)) {
		id := d.routes[pattern].OperationID
		if slices.Contains(withoutStory, id) {
			continue
		}
		t.Run(id, func(t *testing.T) {
			newStory(t, d, s).tell(id)
		})
	}
}

// newStory begins a story on a server, and deletes everything on it first.
func newStory(t *testing.T, d *apiDocument, s *testServer) *story {
	t.Helper()
	for _, table := range []string{"dependencies", "missions", "users"} {
		if _, err := s.db.Exec(t.Context(), "DELETE FROM "+table); err != nil {
			t.Fatal(err)
		}
	}
	return &story{t, d, s.url(), make(map[string]bool), make(map[string]string)}
}

// tellUpTo sends the examples that come before an operation's own.
func (st *story) tellUpTo(id string) {
	st.t.Helper()
	needs, ok := storyNeeds[id]
	if !ok {
		needs = storySoFar
	}
	for _, need := range needs {
		if !st.told[need] {
			st.tell(need)
		}
	}
}

// tell sends an operation's example, after those that it needs.
func (st *story) tell(id string) {
	st.t.Helper()
	st.tellUpTo(id)
	st.told[id] = true
	switch id {
	case firstSpec:
		st.makeFirstSpec()
		return
	case submission:
		st.submitFirstSpec()
		return
	}
	o := st.operation(id)
	status, response := o.success()
	path, contentType, body := st.request(o)
	a := st.as(o).do(o.method, path, body, "Content-Type", contentType)
	if fmt.Sprint(a.status) != status {
		st.t.Fatalf("the example of %s: status %d, want %s: %s", id, a.status, status, a.body)
	}
	if media := response.Content["application/json"]; media.Example != nil {
		if media.Schema.AdditionalProperties == nil { // it may be an excerpt of what is open
			st.compare(id, media.Example, a.decoded())
		}
		st.learn(media.Example, a.decoded())
	}
}

func (st *story) operation(id string) *apiOperation {
	st.t.Helper()
	i := slices.IndexFunc(st.d.operations, func(o *apiOperation) bool { return o.OperationID == id })
	if i < 0 {
		st.t.Fatalf("openapi.json has no operation %s", id)
	}
	return st.d.operations[i]
}

// makeFirstSpec makes the spec that is the example of getSpec.
func (st *story) makeFirstSpec() {
	st.t.Helper()
	_, response := st.operation("getSpec").success()
	shown := response.Content["application/json"].Example.(map[string]any)
	body := make(map[string]any)
	for _, name := range []string{"key", "number", "title", "phase", "body"} {
		body[name] = shown[name]
	}
	o := st.operation("createSpec")
	path, _, _ := st.request(o)
	st.learn(shown, st.as(o).post(path, body).want(201).decoded())
}

// submitFirstSpec takes that spec to where a person reviews it.
func (st *story) submitFirstSpec() {
	st.t.Helper()
	o := st.operation("reviewSpec")
	path, _, _ := st.request(o)
	for _, status := range []string{"in_progress", "in_review"} {
		st.as(o).post(strings.TrimSuffix(path, "/review")+"/status", map[string]any{"status": status}).want(200)
	}
}

// as is who may call an operation: ada, with the key of her agent where it may be a key.
func (st *story) as(o *apiOperation) *client {
	token := ""
	for _, accepted := range o.Security {
		for _, response := range []struct{ scheme, id, field string }{
			{"accessToken", "register", "access_token"}, {"apiKey", "createApiKey", "key"},
		} {
			if _, ok := accepted[response.scheme]; ok && st.told[response.id] {
				_, shown := st.operation(response.id).success()
				token = st.real[shown.Content["application/json"].Example.(map[string]any)[response.field].(string)]
			}
		}
	}
	return &client{t: st.t, base: st.base, token: token}
}

// request makes an operation's example into a request, as things are called here.
func (st *story) request(o *apiOperation) (path, contentType string, body any) {
	st.t.Helper()
	path = o.path
	query := make(url.Values)
	for _, p := range o.Parameters {
		switch {
		case p.In == "path" && p.Example == nil:
			st.t.Fatalf("%s: the parameter %s has no example", o.pattern(), p.Name)
		case p.In == "path":
			path = strings.ReplaceAll(path, "{"+p.Name+"}", fmt.Sprint(p.Example))
		case p.In == "query" && p.Example != nil:
			query.Set(p.Name, fmt.Sprint(p.Example))
		}
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	path = st.really(path)
	if o.RequestBody == nil {
		return path, "", nil
	}
	if example := o.RequestBody.Content["application/json"].Example; example != nil {
		encoded, err := encode(example)
		if err != nil {
			st.t.Fatal(err)
		}
		return path, "application/json", st.really(string(encoded))
	}
	contentType, body = st.form(o.RequestBody.Content["multipart/form-data"].Example)
	return path, contentType, body
}

// form makes a form of an example that has files by the names of their fields.
func (st *story) form(example any) (contentType string, body []byte) {
	st.t.Helper()
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	fields, _ := example.(map[string]any)
	for name, files := range fields {
		for i, content := range files.([]any) {
			part, err := form.CreateFormFile(name, fmt.Sprintf("%03d-example.md", i+1))
			if err != nil {
				st.t.Fatal(err)
			}
			_, _ = part.Write([]byte(content.(string))) // into a buffer
		}
	}
	_ = form.Close()
	return form.FormDataContentType(), b.Bytes()
}

// really replaces the values of examples by the real ones.
func (st *story) really(text string) string {
	names := slices.SortedFunc(maps.Keys(st.real),
		func(a, b string) int { return len(b) - len(a) }) // one may begin another
	var pairs []string
	for _, name := range names {
		pairs = append(pairs, name, st.real[name])
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// compare checks that an answer has the members that its example has.
func (st *story) compare(path string, example, real any) {
	st.t.Helper()
	switch example := example.(type) {
	case map[string]any:
		object, ok := real.(map[string]any)
		if names := slices.Sorted(maps.Keys(object)); ok && !slices.Equal(names, slices.Sorted(maps.Keys(example))) {
			st.t.Errorf("%s: the answer has %q, its example %q", path, names, slices.Sorted(maps.Keys(example)))
		}
		for name, v := range example {
			if name != "data" { // of an event: each type has its own
				st.compare(path+"."+name, v, object[name])
			}
		}
	case []any:
		list, _ := real.([]any)
		for i := range min(len(example), len(list)) {
			st.compare(fmt.Sprintf("%s[%d]", path, i), example[i], list[i])
		}
	}
}

// learn finds the real values of an example's ids and secrets in the answer that
// it is an example of.
func (st *story) learn(example, real any) {
	switch example := example.(type) {
	case map[string]any:
		object, _ := real.(map[string]any)
		for name, v := range example {
			st.learn(v, object[name])
		}
	case []any:
		list, _ := real.([]any)
		for i := range min(len(example), len(list)) {
			st.learn(example[i], list[i])
		}
	case string:
		secret := slices.ContainsFunc([]string{refreshPrefix, keyPrefix, "lt_",
			"eyJ"}, func(prefix string) bool { return strings.HasPrefix(example, prefix) })
		if text, ok := real.(string); ok && (secret || validID(example)) {
			st.real[example] = text
		}
	}
}

// edge is a value at a limit of a field.
type edge struct {
	field   string // as errors name it
	value   any    // for the whole body
	refused bool
}

func TestLimitsOfBodiesAreTheServers(t *testing.T) {
	t.Parallel()
	d, s := documentOf(t), newTestServer(t, nil)
	for _, pattern := range slices.Sorted(maps.Keys(d.routes)) {
		o := d.routes[pattern]
		if !o.takesJSON() || !strings.HasPrefix(o.path, "/api/") {
			continue
		}
		media := o.RequestBody.Content["application/json"]
		edges := edgesOf(media.Schema, "", media.Example, func(v any) any { return v })
		if len(edges) == 0 {
			continue
		}
		// Claims that would wait come first, while there is a spec for them.
		slices.SortStableFunc(edges, func(a, b edge) int { return strings.Compare(b.field, a.field) })
		t.Run(o.OperationID, func(t *testing.T) {
			st := newStory(t, d, s)
			st.tellUpTo(o.OperationID)
			path, _, _ := st.request(o)
			for _, outside := range []bool{true, false} { // what is inside may be done
				for _, e := range edges {
					if e.refused == outside {
						st.try(o, path, e)
					}
				}
			}
		})
	}
}

// try sends a body that is at a limit. Malformed credentials are refused like
// wrong ones.
func (st *story) try(o *apiOperation, path string, e edge) {
	st.t.Helper()
	body, err := encode(e.value)
	if err != nil {
		st.t.Fatal(err)
	}
	a := st.as(o).do(o.method, path, st.really(string(body)))
	var problem struct{ Errors []fieldError }
	refused := a.status == http.StatusUnprocessableEntity && json.Unmarshal(a.body, &problem) == nil &&
		slices.ContainsFunc(problem.Errors, func(p fieldError) bool { return p.Field == e.field })
	refused = refused || e.refused && a.status == http.StatusUnauthorized
	if refused != e.refused {
		st.t.Errorf("%s: %s: refused is %t, and openapi.json says %t: %.200s: %d %s",
			o.pattern(), e.field, refused, e.refused, body, a.status, a.body)
	}
}

// edgesOf returns values at the limits of a schema. example is one that matches;
// put makes a body of a value for this schema.
func edgesOf(s *jsonschema.Schema, field string, example any, put func(v any) any) (found []edge) {
	nullable := slices.Contains(s.Type, "null")
	for _, one := range s.AnyOf {
		if slices.Contains(one.Type, "null") {
			nullable = true
		} else {
			s = one
		}
	}
	s = s.Target()
	add := func(refused bool, values ...any) {
		for _, v := range values {
			found = append(found, edge{field, put(v), refused})
		}
	}
	if field != "" && !s.IsOpen() {
		add(!nullable, nil)
	}
	switch {
	case slices.Contains(s.Type, "object") && s.AdditionalProperties != nil && s.AdditionalProperties.IsFalse():
		found = append(found, edgesOfMembers(s, field, example, put)...)
	case slices.Contains(s.Type, "object"):
		add(true, "text", []any{})
	case slices.Contains(s.Type, "array"):
		add(true, "text")
		add(s.MinItems > 0, []any{})
		of, _ := example.([]any)
		if len(of) > 0 {
			found = append(found, edgesOf(s.Items, field+"[0]", of[0], func(v any) any { return put([]any{v}) })...)
		}
		if s.MaxItems != nil && takesAnyText(s.Items) {
			add(false, several(*s.MaxItems))
			add(true, several(*s.MaxItems+1))
		}
	case slices.Contains(s.Type, "integer"):
		add(true, "1", 1.5)
		if s.Maximum != nil {
			add(false, *s.Maximum)
			add(true, *s.Maximum+1)
		}
		if s.Minimum != nil {
			add(false, *s.Minimum)
			add(true, *s.Minimum-1)
		}
	case slices.Contains(s.Type, "boolean"):
		add(true, "true", 1)
	case slices.Contains(s.Type, "string"):
		add(true, 1, false)
		if !takesAnyText(s) {
			add(true, "nonsense")
			break
		}
		if s.MinLength > 0 {
			add(true, strings.Repeat("ä", s.MinLength-1))
		}
		if s.MaxLength != nil {
			add(false, strings.Repeat("a", *s.MaxLength))
			add(true, strings.Repeat("a", *s.MaxLength+1))
		}
	}
	return found
}

// takesAnyText reports whether any text of the right length matches.
func takesAnyText(s *jsonschema.Schema) bool {
	return slices.Contains(s.Type, "string") && s.Enum == nil && s.Format == ""
}

// several are n different texts.
func several(n int) []any {
	texts := make([]any, n)
	for i := range texts {
		texts[i] = fmt.Sprint(i)
	}
	return texts
}

// edgesOfMembers returns the edges of an object's members, each with the other
// members of the example, and objects with a member too many or too few.
func edgesOfMembers(s *jsonschema.Schema, field string, example any, put func(v any) any) (found []edge) {
	object, _ := example.(map[string]any)
	within := func(name string) string { return strings.TrimPrefix(field+"."+name, ".") }
	with := func(name string, v any) map[string]any {
		changed := maps.Clone(object)
		if changed == nil {
			changed = make(map[string]any)
		}
		changed[name] = v
		return changed
	}
	found = append(found, edge{within("nonsense"), put(with("nonsense", 1)), true})
	for _, name := range s.Required {
		less := maps.Clone(object)
		delete(less, name)
		found = append(found, edge{within(name), put(less), true})
	}
	for name, inner := range s.Properties {
		found = append(found, edgesOf(inner, within(name), object[name], func(v any) any { return put(with(name, v)) })...)
	}
	return found
}
