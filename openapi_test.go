package main

// openapi.json is sound, and has the routes, permissions, error codes and
// tools that the server and docs/api.md have. The docs page is made from it.

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tachikoma/internal/apidocs"
	"tachikoma/internal/apidocs/jsonschema"
)

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
			for _, problem := range p.schema.Problems(example, p.closed) {
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

// checkParameters compares the parameters in a path's template with those described.
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
			t.Errorf("%s: the parameter %s is a duplicate, has no schema, or is wrong about being required", o.pattern(), p.Name)
		}
		seen[p.In+p.Name] = true
	}
	slices.Sort(templated)
	slices.Sort(described)
	if !slices.Equal(templated, described) {
		t.Errorf("%s has the parameters %q in its path, and describes %q", o.pattern(), templated, described)
	}
}

// wantExamples wants an example of everything but bytes.
func wantExamples(t *testing.T, at string, content map[string]apiMedia) {
	t.Helper()
	for name, media := range content {
		if strings.HasSuffix(name, "json") && (media.Schema == nil || media.Example == nil && len(media.Examples) == 0) {
			t.Errorf("%s: %s has no schema or no example", at, name)
		}
	}
}

// checkOwnExamples checks the examples and the default in a schema against it, and
// those in all schemas inside it.
func checkOwnExamples(t *testing.T, path string, s *jsonschema.Schema) {
	t.Helper()
	examples := s.Examples
	if s.Default != nil {
		examples = append(slices.Clone(examples), s.Default)
	}
	for _, example := range examples {
		for _, problem := range s.Problems(example, true) {
			t.Errorf("%s: in the example or default %s", path, problem)
		}
	}
	for path, inner := range s.Inside(path) {
		checkOwnExamples(t, path, inner)
	}
}

// unknownMappings returns the schemas that discriminators name and that don't exist.
func unknownMappings(s *jsonschema.Schema, named map[string]*jsonschema.Schema) (unknown []string) {
	if s.Discriminator != nil {
		for _, ref := range s.Discriminator.Mapping {
			name, local := strings.CutPrefix(ref, "#/components/schemas/")
			if named[name] == nil || !local {
				unknown = append(unknown, ref)
			}
		}
	}
	for _, inner := range s.Inside("") {
		unknown = append(unknown, unknownMappings(inner, named)...)
	}
	return unknown
}

// codesOf are the error codes that a schema allows: of all the enums of its
// code, what is in each.
func codesOf(s *jsonschema.Schema) []string {
	s = s.Target()
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

// docCodes are the codes of the table in docs/api.md: those of HTTP by status,
// and those that only WebSockets have.
func docCodes(t *testing.T) (byStatus map[string][]string, socket []string) {
	t.Helper()
	byStatus = make(map[string][]string)
	name := regexp.MustCompile("`(\\w+)`")
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \| (.*) \|$`).FindAllStringSubmatch(docSection(t, "docs/api.md",
		"## Errors"), -1) {
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

func TestDocumentHasTheErrorCodesOfTheDocs(t *testing.T) {
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
	want, ofSockets := docCodes(t)
	for _, status := range slices.Sorted(maps.Keys(want)) {
		if got := slices.Sorted(maps.Keys(documented[status])); !slices.Equal(got,
			slices.Sorted(slices.Values(want[status]))) {
			t.Errorf("%s: openapi.json has the codes %q, and docs/api.md %q", status, got, want[status])
		}
	}
	for status := range documented {
		if want[status] == nil {
			t.Errorf("openapi.json has problems of status %s, and docs/api.md hasn't", status)
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
			t.Errorf("openapi.json has the code %s of WebSockets, and docs/api.md hasn't", code)
		}
	}
}

func TestDocumentAndDocsNameTheTools(t *testing.T) {
	t.Parallel()
	var want []string
	for _, tool := range new(Server).agentTools() {
		want = append(want, tool.Name)
	}
	slices.Sort(want)
	tags := documentOf(t).Tags
	agents := slices.IndexFunc(tags, func(tag struct{ Name, Description string }) bool { return tag.Name == "Agents" })
	if agents < 0 {
		t.Fatal("openapi.json has no tag Agents")
	}
	table := strings.Join(regexp.MustCompile(`(?m)^\| .* \|`).FindAllString(docSection(t, "docs/api.md",
		"## Agents"), -1), "\n")
	for name, text := range map[string]string{"openapi.json": tags[agents].Description, "docs/api.md": table} {
		var got []string
		for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(text, -1) {
			got = append(got, m[1])
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s names the tools %q, and the server has %q", name, got, want)
		}
	}
}

// callers are the words of the page, and of the README, for the permissions.
var callers = apidocs.Callers

// docsPage is the page and the header it came with.
func docsPage(t *testing.T) (string, http.Header) {
	t.Helper()
	a := newTestServer(t, nil).anonymous().get("/api/v1/docs").want(http.StatusOK)
	return string(a.body), a.header
}

// attributes are the values that an attribute has in the page's tags.
func attributes(page, name string) []string {
	var values []string
	for _, m := range regexp.MustCompile(`<[^>]*\s`+name+`=("[^"]*"|[^\s>]*)`).FindAllStringSubmatch(page, -1) {
		values = append(values, strings.Trim(m[1], `"`))
	}
	return values
}

func TestDocsPageIsMadeFromTheDocument(t *testing.T) {
	t.Parallel()
	page, err := apidocs.Page(openAPI)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(page, docsHTML) {
		t.Error("docs/api.html isn't the page that docs/openapi.json makes: run go generate")
	}
}

func TestDocsPageIsSmallAndNeedsNothingElse(t *testing.T) {
	t.Parallel()
	page, header := docsPage(t)
	if len(page) > 120<<10 { // some 2 KiB an operation
		t.Errorf("the page has %d bytes, want at most 120 KiB", len(page))
	}
	if found := regexp.MustCompile(`(?i)<(script|img|iframe|object|embed|form|base)\b|<[^>]*\s(src|srcset|style|on\w+)=|@import|url\(`).FindString(page); found != "" {
		t.Errorf("the page has %q", found)
	}
	for _, href := range attributes(page, "href") {
		if !strings.HasPrefix(href, "#") && !slices.Contains([]string{"/", "openapi.json", "data:,"}, href) {
			t.Errorf("the page leads to %q", href)
		}
	}
	styles := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindAllStringSubmatch(page, -1)
	if len(styles) != 1 {
		t.Fatalf("the page has %d styles, want 1", len(styles))
	}
	sum := sha256.Sum256([]byte(styles[0][1]))
	policy := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy,
		"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
	} {
		if got := header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestDocsPageHasEveryOperationAndSchema(t *testing.T) {
	t.Parallel()
	page, _ := docsPage(t)
	var document struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Summary     string
			Responses   map[string]any
		}
		Components struct{ Schemas map[string]any }
	}
	content, err := os.ReadFile("docs/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &document); err != nil {
		t.Fatal(err)
	}
	ids := attributes(page, "id")
	for path, operations := range document.Paths {
		for method, o := range operations {
			_, article, _ := strings.Cut(page, "<article id="+o.OperationID+">")
			article, _, _ = strings.Cut(article, "</article>")
			// The path is in the command with ids from the examples.
			literal := regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllString(regexp.QuoteMeta(path), `[\w-]+`)
			command := regexp.MustCompile(`<pre tabindex=0>curl (-X ` + strings.ToUpper(method) + ` )?"\$TACHIKOMA` + literal + `[?"]`)
			_, socket := o.Responses["101"] // curl can't talk with it
			if command.MatchString(article) == socket || !strings.Contains(article, html.EscapeString(o.Summary)) {
				t.Errorf("%s: the page has no section with its summary and a command: %s", o.OperationID, article)
			}
		}
	}
	for name := range document.Components.Schemas {
		if !slices.Contains(ids, "schema-"+name) {
			t.Errorf("the page has no schema %s", name)
		}
	}
	if len(document.Paths) == 0 || len(document.Components.Schemas) == 0 {
		t.Error("openapi.json has no paths or no schemas")
	}
	for _, href := range attributes(page, "href") {
		if id, internal := strings.CutPrefix(href, "#"); internal && !slices.Contains(ids, id) {
			t.Errorf("a link leads to %s, which isn't there", href)
		}
	}
	slices.Sort(ids)
	if once := slices.Compact(slices.Clone(ids)); len(once) != len(ids) {
		t.Errorf("an id is a duplicate: %q", ids)
	}
}

func TestDocsAreSentOnceToEachClient(t *testing.T) {
	t.Parallel()
	nobody := newTestServer(t, nil).anonymous()
	document, err := os.ReadFile("docs/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if a := nobody.get("/api/v1/openapi.json").want(http.StatusOK); !bytes.Equal(a.body, document) ||
		a.header.Get("Content-Type") != "application/json" {
		t.Errorf("the document isn't sent as it is, but as %s: %.100s", a.header.Get("Content-Type"), a.body)
	}
	for _, path := range []string{"/api/v1/openapi.json", "/api/v1/docs"} {
		whole := nobody.get(path).want(http.StatusOK)
		etag := whole.header.Get("ETag")
		if !strings.HasPrefix(etag, `W/"`) || whole.header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: ETag %s, Cache-Control %q", path, etag, whole.header.Get("Cache-Control"))
		}
		for _, known := range []string{etag, strings.TrimPrefix(etag, "W/"), `"other", ` + etag, "*"} {
			a := nobody.do("GET", path, nil, "If-None-Match", known).want(http.StatusNotModified)
			for _, name := range []string{"ETag", "Cache-Control", "Vary", "Content-Security-Policy"} {
				if got, want := a.header.Get(name), whole.header.Get(name); got != want {
					t.Errorf("%s: %s of the 304 is %q, want %q", path, name, got, want)
				}
			}
		}
		nobody.do("GET", path, nil, "If-None-Match", `W/"other"`).want(http.StatusOK)

		packed := nobody.do("GET", path, nil, "Accept-Encoding", "gzip").want(http.StatusOK)
		z, err := gzip.NewReader(bytes.NewReader(packed.body))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if content, err := io.ReadAll(z); err != nil || !bytes.Equal(content, whole.body) ||
			packed.header.Get("ETag") != etag {
			t.Errorf("%s: compressed it is another answer (%v)", path, err)
		}
		if head := nobody.do("HEAD", path, nil).want(http.StatusOK); len(head.body) > 0 || head.header.Get("ETag") != etag {
			t.Errorf("%s: HEAD has %d bytes and the ETag %s", path, len(head.body), head.header.Get("ETag"))
		}
	}
}

// The commands on the page are for the server that it comes from, whatever the Host says.
func TestDocsPageNamesItsServer(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	b := &browser{t: t, base: s.url(), hasty: true} // it has a policy of its own
	etags := make(map[string]bool)
	for host, want := range map[string]string{
		"":                            s.url(),
		"tachikoma.example.com":       "http://tachikoma.example.com",
		"localhost:9000":              "http://localhost:9000",
		"[::1]:9000":                  "http://[::1]:9000",
		"x;reboot":                    s.url(),
		"$(reboot)":                   s.url(),
		"[::1]:9000.evil.example.com": s.url(),
	} {
		a := b.get("/api/v1/docs", "Host", host).want(http.StatusOK).
			wantText("TACHIKOMA="+want+"\n", `<a href="/">The board</a>`)
		if etags[a.header.Get("ETag")] = true; want != s.url() && strings.Contains(string(a.body), s.url()) {
			t.Errorf("%q: another address is on the page, too", host)
		}
	}
	if len(etags) != 4 {
		t.Errorf("pages with 4 addresses have %d tags", len(etags))
	}
	if n := bytes.Count(docsHTML, []byte(docsAddress)); n != 1 {
		t.Errorf("docs/api.html has its address %d times", n)
	}
}

func TestConsoleNamesThePagesAndTheDocs(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	var console strings.Builder
	s.greet(t.Context(), &console)
	for _, words := range []string{"open " + s.url() + "\n", s.url() + "/api/v1/docs "} {
		if !strings.Contains(console.String(), words) {
			t.Errorf("the console doesn't say %q: %s", words, console.String())
		}
	}
}

// The examples in openapi.json work: each is sent, with the story's ids and
// secrets replaced by real ones, and gets the success that is described. The
// limits of bodies are the server's: it doesn't refuse values just inside them,
// and refuses those just outside.

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
