package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// targets is something for every {id} in a path.
type targets struct{ mission, spec, question, key, user string }

// newTargets makes a mission that is active, a spec, a key and an account.
func (c *client) newTargets(s *testServer) targets {
	c.t.Helper()
	mission := c.newMission("Target")
	made := targets{mission: idOf(mission), spec: idOf(c.newSpec(mission, "target", nil))}
	c.post(mission+"/start", nil).want(http.StatusOK)
	made.question = s.newQuestion(c.t, made.spec)
	made.key = c.post("/api/v1/api-keys", map[string]any{"name": "k", "scope": "read"}).want(http.StatusCreated).text("id")
	email := strings.ToLower(newID()) + "@example.com"
	made.user = c.post("/api/v1/users", map[string]any{"email": email, "password": testPassword,
		"role": "user"}).want(http.StatusCreated).text("id")
	return made
}

// path returns a route's path with the targets filled in.
func (to targets) path(pattern string) (method, path string) {
	method, path, _ = strings.Cut(pattern, " ")
	id := to.mission
	switch {
	case strings.Contains(path, "/specs/{id}"):
		id = to.spec
	case strings.Contains(path, "/questions/"):
		id = to.question
	case strings.Contains(path, "/api-keys/"):
		id = to.key
	case strings.Contains(path, "/users/"):
		id = to.user
	}
	return method, strings.NewReplacer("{$}", "", "{id}", id, "{user_id}", to.user).Replace(path)
}

func deep(n int) string {
	return `{"x":` + strings.Repeat("[", n) + strings.Repeat("]", n) + "}"
}

func TestEveryRouteRefusesBadBodies(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	admin := s.signUp("ada", "admin")
	to := admin.newTargets(s)
	const json = "application/json"
	for _, c := range []struct {
		name, body string
		headers    []string
		status     int
		code       string
	}{
		{"cut off", `{"name":`, nil, 400, "malformed_json"},
		{"trailing comma", `{"name":"x",}`, nil, 400, "malformed_json"},
		{"two documents", `{} {}`, nil, 400, "malformed_json"},
		{"single quotes", `{'name':'x'}`, nil, 400, "malformed_json"},
		{"not a number", `{"name":NaN}`, nil, 400, "malformed_json"},
		{"byte order mark", "\ufeff{}", nil, 400, "malformed_json"},
		{"blanks alone", " \n", nil, 400, "malformed_json"},
		{"field twice", `{"name":"x","name":"y"}`, nil, 400, "malformed_json"},
		{"field twice, once escaped", `{"name":"x","n\u0061me":"y"}`, nil, 400, "malformed_json"},
		{"nested deeply", deep(32), nil, 400, "malformed_json"},
		{"nested very deeply", deep(100_000), nil, 400, "malformed_json"},
		{"huge number", `{"priority":1e400}`, nil, 400, "malformed_json"},
		{"tiny number", `{"priority":-1e-400}`, nil, 400, "malformed_json"},
		{"long zero", `{"metadata":{"x":0e-20000}}`, nil, 400, "malformed_json"},
		{"lone surrogate", `{"name":"\ud83d"}`, nil, 400, "malformed_json"},
		{"lone surrogate in a name", `{"\udc00":1}`, nil, 400, "malformed_json"},
		{"NUL", `{"name":"a\u0000b"}`, nil, 400, "malformed_json"},
		{"NUL as it is", "{\"name\":\"a\x00b\"}", nil, 400, "malformed_json"},
		{"not UTF-8", "{\"name\":\"caf\xe9\"}", nil, 400, "malformed_json"},
		{"surrogates in UTF-8", "{\"name\":\"\xed\xa0\xbd\"}", nil, 400, "malformed_json"},
		{"noncharacter", `{"name":"\uffff"}`, nil, 400, "malformed_json"},
		{"too large", `{"name":"` + strings.Repeat("x", 1<<20) + `"}`, nil, 413, "body_too_large"},
		{"plain text", `{}`, []string{"Content-Type", "text/plain"}, 415, "unsupported_media_type"},
		{"a form", `name=x`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"},
		{"no type", `{}`, []string{"Content-Type", ""}, 415, "unsupported_media_type"},
		{"Latin 1", `{}`, []string{"Content-Type", json + "; charset=iso-8859-1"}, 415, "unsupported_media_type"},
		{"gzip", string(gzipped([]byte(`{}`))), []string{"Content-Encoding", "gzip"}, 415, "unsupported_media_type"},
		{"a list", `[]`, nil, 422, "validation_failed"},
		{"a list of objects", `[{"name":"x"}]`, nil, 422, "validation_failed"},
		{"a string", `"x"`, nil, 422, "validation_failed"},
		{"a number", `1`, nil, 422, "validation_failed"},
		{"null", `null`, nil, 422, "validation_failed"},
		{"unknown field", `{"no_such_field":1}`, nil, 422, "validation_failed"},
		{"field in capitals", `{"NAME":"x"}`, nil, 422, "validation_failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, route := range s.table {
				method, path := to.path(route.pattern)
				if method == "GET" || strings.HasSuffix(path, "/import") {
					continue
				}
				a := admin.in(t).do(method, path, c.body, c.headers...)
				if path == "/mcp" && (c.status == http.StatusUnprocessableEntity || c.code == "malformed_json") {
					a.want(http.StatusBadRequest) // an error of JSON-RPC
					continue
				}
				a.wantProblem(c.status, c.code)
			}
		})
	}
	admin.get("/api/v1/auth/me").want(http.StatusOK)
}

func TestEveryRouteRefusesUnknownParameters(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	admin := s.signUp("ada", "admin")
	to := admin.newTargets(s)
	for _, route := range s.table {
		method, path := to.path(route.pattern)
		if strings.Contains(path, "/internal/") || path == "/ws" {
			continue
		}
		for query, field := range map[string]string{"no_such=1": "no_such", "%zz=1": "%zz", "%00=1": "%00"} {
			if a := admin.do(method, path+"?"+query, nil); a.status != 422 || a.text("errors.0.field") != field {
				t.Errorf("%s: %d %s", a.what, a.status, a.body)
			}
		}
	}
}

// fieldsOf are the fields of each route's body, with a value that fits.
var fieldsOf = map[string]map[string]any{
	"POST /api/v1/auth/register": {"email": "x@example.com", "password": testPassword, "name": "x",
		"setup_token": "x"},
	"POST /api/v1/auth/login":           {"email": "x@example.com", "password": testPassword},
	"POST /api/v1/auth/refresh":         {"refresh_token": "x"},
	"POST /api/v1/auth/change-password": {"current_password": "x", "new_password": "x"},
	"PATCH /api/v1/auth/me":             {"name": "x"},
	"POST /api/v1/api-keys":             {"name": "x", "scope": "read", "expires_at": "2100-01-01T00:00:00Z"},
	"POST /api/v1/users": {"email": "x@example.com", "password": testPassword, "name": "x",
		"role": "user"},
	"PATCH /api/v1/users/{id}": {"role": "user", "disabled": false, "name": "x", "password": testPassword},
	"POST /api/v1/missions": {"name": "x", "description": "x",
		"tags": []string{"x"}, "metadata": map[string]any{}, "review": "human", "max_in_review": 1, "triage": false},
	"PATCH /api/v1/missions/{id}": {"name": "x", "description": "x",
		"tags": []string{"x"}, "metadata": map[string]any{}, "review": "none", "max_in_review": 0, "triage": true,
		"owner_id": "x"},
	"PUT /api/v1/missions/{id}/members": {"email": "x@example.com", "role": "editor"},
	"POST /api/v1/missions/{id}/logs":   {"entries": []any{map[string]any{"level": "info", "message": "x"}}},
	"POST /api/v1/missions/{id}/claim": {"agent": "x",
		"lease_seconds": 60, "wait_seconds": 0, "tags": []string{"none"}, "phase": "none"},
	"POST /api/v1/specs/{id}/status":    {"status": "blocked", "notes": "x", "override": "x"},
	"POST /api/v1/specs/{id}/review":    {"verdict": "reject", "notes": "x"},
	"POST /api/v1/specs/{id}/heartbeat": {"lease_token": "x", "lease_seconds": 60},
	"POST /api/v1/specs/{id}/progress":  {"lease_token": "x", "check": []int{1}, "uncheck": []int{2}, "message": "x"},
	"POST /api/v1/specs/{id}/complete":  {"lease_token": "x", "notes": "x", "override": "x"},
	"POST /api/v1/specs/{id}/fail":      {"lease_token": "x", "reason": "x", "retry": true},
	"POST /api/v1/specs/{id}/release":   {"lease_token": "x"},
	"POST /api/v1/missions/{id}/specs":  {"key": "x", "title": "x", "body": "x", "number": "1", "phase": "x", "status": "planned", "priority": 1, "tags": []string{"x"}, "estimated_context": "x", "review": "human", "dependencies": []string{"target"}},
	"PATCH /api/v1/specs/{id}": {"key": "x", "title": "x", "body": "x", "number": "1", "phase": "x",
		"priority": 1, "tags": []string{"x"}, "estimated_context": "x", "review": nil, "dependencies": []string{}},
	"POST /api/v1/missions/{id}/start":     {},
	"POST /api/v1/missions/{id}/no-action": {},
}

// oddValues are JSON values that some field somewhere might choke on, by the
// kind of field that takes them; "" is for all.
var oddValues = map[string][]string{
	"": {`null`, `true`, `1.5`, `{}`, `[null]`, `""`},
	"string": {`" "`, `"\n"`, `"x\u202ey"`, `"😀😀"`, `"שלום عليكم"`, `"e\u0301\u0301\u0301"`, `"\ufeff"`, `"\u0001"`,
		`"%00"`, `"' OR 1=1 --"`,
		`"` + strings.Repeat("x", 300) + `"`, `"` + strings.Repeat("😀", 2100) + `"`, `"` + strings.Repeat("x", 9_000) + `"`,
		`"0000-01-01T00:00:00Z"`, `"9999-12-31T23:59:59.999999999Z"`, `"0001-01-01T00:00:00+12:00"`, `"infinity"`},
	"int": {`-1`, `1e300`, `9223372036854775808`, `9223372036854775807`, `-9223372036854775808`, `2147483648`, `32768`},
	"list": {`[]`, `[""]`, `["x","x"]`, `["😀","\u202e","` + strings.Repeat("x", 200) + `"]`, `[[]]`, `[1e300]`, `[-1]`,
		`[0]`, `[2147483648]`, `["00000000-0000-0000-0000-000000000000"]`},
	"object": {`{"":""}`, `{"a":{"b":null}}`, `{"😀":"\u0001"}`,
		`{"n":1e308,"m":-0.0,"d":0.1000000000000000055511151231257827021181583404541015625}`},
}

func kindOf(value any) string {
	switch value.(type) {
	case string:
		return "string"
	case int:
		return "int"
	case map[string]any:
		return "object"
	case []string, []int, []any:
		return "list"
	}
	return ""
}

func TestOddValuesAreNeverAServerError(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.Registration = "open" })
	admin := s.signUp("ada", "admin")
	to := admin.newTargets(s)
	var routes sync.WaitGroup
	defer routes.Wait()
	for pattern, fields := range fieldsOf {
		routes.Go(func() {
			method, path := to.path(pattern)
			for field, fits := range fields {
				for _, odd := range slices.Concat(oddValues[""], oddValues[kindOf(fits)]) {
					body := make(map[string]any, len(fields))
					for name, value := range fields {
						body[name] = value
					}
					body[field] = json.RawMessage(odd)
					a, err := admin.try(t.Context(), method, path, body)
					if err != nil || a.status >= 500 && !a.overloaded() {
						t.Errorf("%s with %s %.60s: %v %+v", pattern, field, odd, err, a)
					}
				}
			}
		})
	}
}

func TestOddDates(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	for at, status := range map[string]int{
		`"9999-12-31T23:59:59.999999Z"`: 201, `"2100-01-01T00:00:00+14:00"`: 201, `null`: 201,
		`"2000-01-01T00:00:00Z"`: 422, `"0000-01-01T00:00:00Z"`: 422, `"0001-01-01T00:00:00Z"`: 422,
		`"9999-12-31T23:59:59-12:00"`: 422,
		`"2100-02-29T00:00:00Z"`:      422, `"2100-01-01 00:00:00Z"`: 422, `"2100-01-01T24:00:00Z"`: 422, `"tomorrow"`: 422,
		`4102444800`: 422, `""`: 422,
	} {
		a := ada.post("/api/v1/api-keys", `{"name":"x","scope":"read","expires_at":`+at+`}`)
		if a.status != status || status == 422 && a.text("errors.0.field") != "expires_at" {
			t.Errorf("%s: %d %s", at, a.status, a.body)
		}
	}
}

// letters is n different words of two 4-byte letters, joined by sep.
func letters(n int, sep string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%c%c%s", 0x20000+i%4096, 0x21000+i/4096, sep)
	}
	return b.String()
}

func TestTextThatIsHardToIndexIsStored(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	mission, imported := ada.newMission("Hard"), ada.newMission("Imported")
	var numbers, paths strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&numbers, "%d.%d-%x ", i, i, i*7919)
		fmt.Fprintf(&paths, "h%d.ex/%d ", i, i)
	}
	var files []string
	for i, text := range []string{
		strings.Repeat("x", maxSpecBody),
		strings.Repeat("𠀀", maxSpecBody/4),
		strings.Repeat("x-", maxSpecBody/2),
		strings.Repeat("𠀀-", maxSpecBody/5),
		letters(maxSpecBody/9, "-"),
		letters(maxSpecBody/9, " "),
		strings.ReplaceAll(letters(maxSpecBody/10, "-"), "-𠀀", "- 𠀀"),
		numbers.String()[:maxSpecBody],
		paths.String()[:maxSpecBody],
		"http://" + strings.Repeat("a.", 1000) + "b/" + strings.Repeat("c/", 10_000) + "?" + strings.Repeat("d=e&", 10_000),
		strings.Repeat("a@b.example ", 20_000),
		strings.Repeat("<a href='x'>", 20_000),
		strings.Repeat("&amp;\\'\"", 20_000),
		strings.Repeat("\u0301", 100_000),
		"\u202e" + strings.Repeat("\u200d👩‍👩‍👧", 10_000),
		strings.Repeat("- [ ] \n", 30_000),
	} {
		text = strings.ToValidUTF8(text, "")
		key := fmt.Sprintf("%d-hard", i)
		spec := ada.newSpec(mission, key, map[string]any{"body": text, "title": "to search"})
		if got := ada.get(spec).text("body"); got != text {
			t.Errorf("text %d comes back changed", i)
		}
		files = append(files, key+".md", text)
	}
	if report := ada.importFiles(imported, files...); report.Created != len(files)/2 {
		t.Errorf("imported %+v", report)
	}
	ada.get("/api/v1/specs?q=search").want(http.StatusOK)
	ada.get("/api/v1/specs?q=x").want(http.StatusOK)
	ada.get("/api/v1/specs?q=" + url.QueryEscape("𠀀")).want(http.StatusOK)
	ada.post("/api/v1/missions", map[string]any{"name": strings.Repeat("𠀀-",
		100), "description": letters(500, "-")}).want(http.StatusCreated)
}

func TestOddSearchesAndParameters(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	ada.newSpec(ada.newMission("A mission to search"), "spec", map[string]any{"body": "some words to search for"})
	for _, q := range []string{
		`"`, `"some words`, `""`, `-`, `- -`, `--`, `-some`, `or`, `OR OR or`, `some or`, `or some`, `:*`, `some:*`,
		`some:A`, `'`, `''`, `\`, `\\'`,
		`(((`, `)`, `!`, `!!`, `&`, `|`, `<->`, `<1000000>`, `a:b:c`, `😀`, `שלום`, "\u202e", "\u0001", "\t\n", ` `, `%`,
		`_`, `$1`, `;--`, `the`,
		strings.Repeat(`"`, 500), strings.Repeat(`-"a" or `, 8), strings.Repeat("-", 500), strings.Repeat("x",
			500), strings.Repeat("😀", 500), strings.Repeat("a-", 250),
	} {
		for _, path := range []string{"/api/v1/specs", "/api/v1/missions"} {
			if a := ada.get(path + "?q=" + url.QueryEscape(q)); a.status != http.StatusOK {
				t.Errorf("%s?q=%q: %d %s", path, q, a.status, a.body)
			}
		}
	}
	for query, field := range map[string]string{
		"q=" + strings.Repeat("x", 501): "q", "q=" + strings.Repeat("a+",
			17): "q", "q=%00": "q", "q=%ff": "q", "q=%ed%a0%80": "q", "q=%zz": "q", "q=a;b": "q", "q=a&q=b": "q",
		"tag=%00": "tag", "tag=" + strings.Repeat("x",
			65): "tag", "limit=0": "limit", "limit=201": "limit", "limit=-1": "limit", "limit=1e2": "limit",
		"limit=99999999999999999999": "limit", "sort=id": "sort", "sort=--name": "sort", "status=Planned": "status",
		"q=a&cursor=x": "cursor",
	} {
		for _, path := range []string{"/api/v1/specs", "/api/v1/missions"} {
			ada.get(path + "?" + query).wantFields(field)
		}
	}
	for query, field := range map[string]string{"mission_id=x": "mission_id", "ready=yes": "ready",
		"claimed=theirs": "claimed", "phase=%00": "phase"} {
		ada.get("/api/v1/specs?" + query).wantFields(field)
	}
}

func TestMadeUpCursorsAreRefused(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "admin")
	s.signUp("bob", "user")
	for range 2 {
		ada.newSpec(ada.newMission("Mission"), "spec", nil)
		ada.withKey("read")
	}
	for _, path := range []string{
		"/api/v1/specs?sort=number", "/api/v1/specs?sort=-priority", "/api/v1/specs?sort=updated_at",
		"/api/v1/missions?sort=name", "/api/v1/missions?sort=-created_at", "/api/v1/api-keys?", "/api/v1/users?",
	} {
		cursor := ada.get(path + "&limit=1").want(http.StatusOK).text("next_cursor")
		ada.get(path + "&cursor=" + cursor).want(http.StatusOK)
		ada.get(path + "&tag=x&cursor=" + cursor).want(http.StatusUnprocessableEntity)
		decoded, err := base64.RawURLEncoding.DecodeString(cursor)
		if err != nil {
			t.Fatal(err)
		}
		var values []any
		if err := json.Unmarshal(decoded, &values); err != nil {
			t.Fatal(err)
		}
		made := []string{"x", "%00", "%ff", strings.Repeat("A", 5000), cursor + "A",
			cursor[1:], base64.RawURLEncoding.EncodeToString([]byte("[]"))}
		for at := range values {
			for _, odd := range []any{"", "x", nil, 1, []any{}, "99999999999", "1.5", " 1", "0000-01-01T00:00:00Z",
				"2026-01-01T00:00:00+23:59",
				"9999-12-31T23:59:59.9999999999Z", "infinity", "a\x00b", "\ufffe", strings.Repeat("x", 900)} {
				other := append([]any{}, values...)
				other[at] = odd
				encoded, err := json.Marshal(other)
				if err != nil {
					t.Fatal(err)
				}
				made = append(made, base64.RawURLEncoding.EncodeToString(encoded))
			}
		}
		for _, cursor := range made {
			// One that could be real may pass: it starts where nothing is.
			if a := ada.get(path + "&cursor=" + cursor); a.status != http.StatusOK &&
				a.status != http.StatusUnprocessableEntity {
				t.Errorf("%s&cursor=%s: %d %s", path, cursor, a.status, a.body)
			}
		}
	}
}

func FuzzAPI(f *testing.F) {
	s := newTestServer(f, nil)
	admin := s.signUp("ada", "admin")
	to := admin.newTargets(s)
	var patterns []string
	for _, route := range s.table {
		switch path := route.pattern; {
		case strings.Contains(path, "pprof"), strings.HasSuffix(path, "/ws"), strings.HasSuffix(path, "logout"):
		default:
			patterns = append(patterns, path)
		}
	}
	for i, pattern := range patterns {
		body, err := json.Marshal(fieldsOf[pattern])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), "", "application/json", "", body)
	}
	f.Add(byte(1), "limit=1&cursor=x&q=%22a", "application/json; charset=utf-8", "k",
		[]byte(`{"name":"x","metadata":{"a":[1e5,null,{"b":"\ud83d\ude00"}]}}`))
	f.Add(byte(2), "%zz&;&=&==", "text/plain", "\xff", []byte("\x1f\x8b"))
	f.Add(byte(28), "dry_run=true", "", "", tarOf(f, "1-one.md", specText("1", "One", "1 through 3", "a")))
	f.Fuzz(func(t *testing.T, route byte, query, contentType, key string, body []byte) {
		pattern := patterns[int(route)%len(patterns)]
		method, path := to.path(pattern)
		headers := []string{"Content-Type", contentType}
		if key != "" && method == "POST" && !strings.HasSuffix(path, "/import") { // the others have no use for one
			headers = append(headers, "Idempotency-Key", key)
		}
		a, err := admin.in(t).try(t.Context(), method, path+"?"+query, body, headers...)
		if err != nil {
			t.Skip(err) // no request at all
		}
		if a.status >= 500 && !a.overloaded() {
			t.Errorf("%s?%s with %q: %d %s", pattern, query, body, a.status, a.body)
		}
		if method == "DELETE" || strings.HasSuffix(path, "/cancel") || strings.HasSuffix(path, "/archive") ||
			a.status == http.StatusNotFound {
			if _, err := s.db.Exec(t.Context(), `DELETE FROM api_keys`); err != nil { // there is a limit to them
				t.Fatal(err)
			}
			to = admin.in(t).newTargets(s)
		}
	})
}

// dial opens a connection to the server that is closed when the test ends, and
// whose reads and writes have a deadline.
func (s *testServer) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

func TestSlowClientsAreCut(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	ada := startTestServer(t, database, nil).signUp("ada", "user")
	mission := ada.newMission("Big")
	var files []string
	for i := range 32 { // 8 MB, more than the kernel keeps for a reader
		files = append(files, fmt.Sprintf("%d.md", i), strings.Repeat("0123456789abcde\n", maxSpecBody/16))
	}
	ada.importTar(mission, gzipped(tarOf(t, files...)))
	s := startTestServer(t, database, func(c *Config) { c.RequestTimeout = 5 * time.Second })
	idle := func() bool { return s.db.Stat().AcquiredConns() == 0 }

	t.Run("headers", func(t *testing.T) {
		t.Parallel()
		conn, start := s.dial(t), time.Now()
		fmt.Fprint(conn, "GET /api/v1/missions HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		_, err := io.ReadAll(conn)
		if took := time.Since(start); took > patience {
			t.Errorf("the connection was there for %v (%v)", took, err)
		}
	})
	t.Run("bodies", func(t *testing.T) {
		t.Parallel()
		var conns []net.Conn
		for range 12 { // more than there are connections to the database
			conn := s.dial(t)
			fmt.Fprintf(conn, "POST /api/v1/missions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"+
				"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"name\":", ada.token)
			conns = append(conns, conn)
		}
		eventually(t, "they hold no connection to the database", idle)
		for _, conn := range conns {
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if errors.Is(err, os.ErrDeadlineExceeded) || err == nil &&
				(response.StatusCode != http.StatusRequestTimeout || !response.Close) {
				t.Errorf("%v %+v", err, response)
			}
		}
	})
	t.Run("readers", func(t *testing.T) {
		t.Parallel()
		conn := s.dial(t)
		if err := conn.SetReadBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %s/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", mission, ada.token)
		eventually(t, "it holds no connection to the database", idle)
		eventually(t, "the connection is reset", func() bool {
			_, err := fmt.Fprint(conn, "\r\n")
			return err != nil
		})
	})
}
