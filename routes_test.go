package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// pass means that the caller is admitted: the status is whatever the route then returns.
const pass = 0

// callerNames are the callers that try every route. The read key is the owner's;
// the viewer account is an editor of the mission, and of nothing else.
var callerNames = []string{"nobody", "stranger", "read key", "viewer account", "mission viewer", "editor", "owner",
	"admin key", "admin"}

// whoMay is what the callers get, in the order of callerNames.
var whoMay = map[string][]int{
	"anybody":  {pass, pass, pass, pass, pass, pass, pass, pass, pass},
	"account":  {401, pass, pass, pass, pass, pass, pass, pass, pass},
	"session":  {401, pass, 403, pass, pass, pass, pass, 403, pass},
	"maker":    {401, pass, 403, 403, pass, pass, pass, pass, pass},
	"reader":   {401, 404, pass, pass, pass, pass, pass, pass, pass},
	"editor":   {401, 404, 403, 403, 403, pass, pass, pass, pass},
	"owner":    {401, 404, 403, 403, 403, 403, pass, pass, pass},
	"decider":  {401, 404, 403, 403, 403, pass, pass, 403, pass},
	"operator": {401, 403, 403, 403, 403, 403, 403, pass, pass},
	"manager":  {401, 403, 403, 403, 403, 403, 403, 403, pass},
}

// expectedRoutes says for every route who may call it. It is written by hand and
// independent of the table's permissions, so that the two check each other.
var expectedRoutes = map[string]string{
	"POST /api/v1/auth/register":        "anybody",
	"POST /api/v1/auth/login":           "anybody",
	"POST /api/v1/auth/refresh":         "anybody",
	"POST /api/v1/auth/logout":          "session",
	"GET /api/v1/auth/me":               "account",
	"PATCH /api/v1/auth/me":             "session",
	"POST /api/v1/auth/change-password": "session",

	"POST /api/v1/api-keys":        "session",
	"GET /api/v1/api-keys":         "account",
	"DELETE /api/v1/api-keys/{id}": "session",

	"GET /api/v1/users":        "operator",
	"POST /api/v1/users":       "manager",
	"PATCH /api/v1/users/{id}": "manager",

	"POST /api/v1/missions":                          "maker",
	"GET /api/v1/missions":                           "account",
	"GET /api/v1/missions/{id}":                      "reader",
	"PATCH /api/v1/missions/{id}":                    "editor",
	"DELETE /api/v1/missions/{id}":                   "owner",
	"POST /api/v1/missions/{id}/start":               "editor",
	"POST /api/v1/missions/{id}/pause":               "editor",
	"POST /api/v1/missions/{id}/resume":              "editor",
	"POST /api/v1/missions/{id}/complete":            "editor",
	"POST /api/v1/missions/{id}/cancel":              "editor",
	"POST /api/v1/missions/{id}/archive":             "editor",
	"GET /api/v1/missions/{id}/members":              "reader",
	"PUT /api/v1/missions/{id}/members":              "owner",
	"DELETE /api/v1/missions/{id}/members/{user_id}": "owner",

	"POST /api/v1/missions/{id}/import": "editor",
	"GET /api/v1/missions/{id}/export":  "reader",
	"GET /api/v1/missions/{id}/graph":   "reader",
	"GET /api/v1/missions/{id}/events":  "reader",
	"GET /api/v1/events":                "account",
	"POST /api/v1/missions/{id}/logs":   "editor",

	"POST /api/v1/missions/{id}/specs": "editor",
	"GET /api/v1/specs":                "account",
	"GET /api/v1/specs/{id}":           "reader",
	"PATCH /api/v1/specs/{id}":         "editor",
	"DELETE /api/v1/specs/{id}":        "editor",
	"GET /api/v1/specs/{id}/explain":   "reader",
	"GET /api/v1/specs/{id}/attempts":  "reader",
	"POST /api/v1/specs/{id}/status":   "editor",
	"POST /api/v1/specs/{id}/review":   "decider",

	"POST /api/v1/missions/{id}/claim":  "editor",
	"POST /api/v1/specs/{id}/heartbeat": "editor",
	"POST /api/v1/specs/{id}/progress":  "editor",
	"POST /api/v1/specs/{id}/complete":  "editor",
	"POST /api/v1/specs/{id}/fail":      "editor",
	"POST /api/v1/specs/{id}/release":   "editor",

	"POST /api/v1/specs/{id}/questions":  "editor",
	"GET /api/v1/questions":              "account",
	"GET /api/v1/questions/{id}":         "reader",
	"POST /api/v1/questions/{id}/answer": "decider",

	"POST /mcp":                "account", // each tool asks for more, see mcp_test.go
	"GET /api/v1/openapi.json": "anybody",
	"GET /api/v1/docs":         "anybody",

	"GET /internal/health":       "anybody",
	"GET /internal/health/live":  "anybody",
	"GET /internal/health/ready": "anybody",
	"GET /internal/connections":  "operator",
	"GET /internal/debug/pprof/": "operator",
	"GET /internal/metrics":      "operator",
	"GET /ws":                    "anybody", // it may sign in with its first message
}

// optionalRoutes are left out by a build tag.
var optionalRoutes = []string{"GET /ws", "GET /internal/metrics"}

// cast is a server with a mission, a spec in it, and all who try the routes.
type cast struct {
	*testServer
	callers                         map[string]*client
	mission, spec, question, userID string // ids
}

func newCast(t *testing.T) cast {
	s := newTestServer(t, nil)
	owner, stranger, admin := s.signUp("owner", "user"), s.signUp("stranger", "user"), s.signUp("admin", "admin")
	mission := owner.newMission("Routes")
	spec := owner.newSpec(mission, "first", nil)
	question := s.newQuestion(t, spec)
	callers := map[string]*client{
		"nobody": s.anonymous(), "stranger": stranger, "owner": owner, "admin": admin,
		"read key": owner.withKey("read"), "admin key": admin.withKey("write"),
	}
	for name, member := range map[string]struct{ email, role, membership string }{
		"viewer account": {"watcher", "viewer", "editor"},
		"mission viewer": {"viewer", "user", "viewer"},
		"editor":         {"editor", "user", "editor"},
	} {
		callers[name] = s.signUp(member.email, member.role)
		owner.put(mission+"/members", map[string]any{"email": callers[name].user.Email,
			"role": member.membership}).want(http.StatusOK)
	}
	return cast{s, callers, idOf(mission), idOf(spec), question, stranger.user.ID}
}

// newQuestion stores an open question about a spec, given by its path or id, that
// nobody holds.
func (s *testServer) newQuestion(t testing.TB, spec string) (id string) {
	t.Helper()
	id = newID()
	_, err := s.db.Exec(t.Context(), `
		INSERT INTO questions (id, mission_id, spec_id, number, question, options)
		SELECT $1, mission_id, spec_id, 1, 'Which one?', '{}' FROM spec_states WHERE spec_id = $2`, id, idOf(spec))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// at fills in a pattern's path: with this cast's ids, or with id where one is given.
func (c cast) at(pattern, id string) (method, path string) {
	method, path, _ = strings.Cut(pattern, " ")
	object := id
	if object == "" {
		object = c.mission
		if strings.Contains(path, "/specs/{") {
			object = c.spec
		} else if strings.Contains(path, "/questions/{") {
			object = c.question
		} else if !strings.Contains(path, "/missions/{") {
			object = c.userID
		}
	}
	return method, strings.NewReplacer("{$}", "", "{id}", object, "{user_id}", c.userID).Replace(path)
}

// as calls a route in a way that changes nothing if it is let through: with a
// body that is no JSON, and always with the same request id.
func (c cast) as(caller, pattern, id string) *answer {
	c.t.Helper()
	method, path := c.at(pattern, id)
	var body any
	if method != http.MethodGet {
		body = "{"
	}
	return c.callers[caller].do(method, path, body, "X-Request-Id", "the-same")
}

func TestEveryRouteIsForWhomItIsMeant(t *testing.T) {
	t.Parallel()
	c := newCast(t)
	known := maps.Clone(expectedRoutes)
	for _, route := range c.table {
		class, ok := expectedRoutes[route.pattern]
		if !ok {
			t.Errorf("nobody has said who may %s: add it to expectedRoutes", route.pattern)
			continue
		}
		delete(known, route.pattern)
		for i, caller := range callerNames {
			a := c.as(caller, route.pattern, "")
			if want := whoMay[class][i]; want != pass {
				code := map[int]string{401: "unauthenticated", 403: "forbidden", 404: "not_found"}[want]
				if a.status != want || a.text("code") != code {
					t.Errorf("%s as %s: got %d %s, want %d", route.pattern, caller, a.status, a.body, want)
				}
				continue
			}
			wantPassed(t, caller, route.pattern, a)
		}
	}
	for pattern := range known {
		if !slices.Contains(optionalRoutes, pattern) {
			t.Errorf("%s is gone", pattern)
		}
		method, path := c.at(pattern, "")
		c.callers["admin"].do(method, path, nil).wantProblem(http.StatusNotFound, "not_found")
	}
}

// wantPassed checks that a call reached its route's handler.
func wantPassed(t *testing.T, caller, pattern string, a *answer) {
	t.Helper()
	switch {
	case pattern == "GET /ws":
		if a.status != http.StatusUpgradeRequired {
			t.Errorf("%s as %s: %d %s", pattern, caller, a.status, a.body)
		}
	case strings.HasPrefix(pattern, "GET "):
		if a.status != http.StatusOK {
			t.Errorf("%s as %s: %d %s", pattern, caller, a.status, a.body)
		}
	case pattern == "POST /mcp":
		if a.status != http.StatusBadRequest || a.number("error.code") != rpcParseError {
			t.Errorf("%s as %s: %d %s", pattern, caller, a.status, a.body)
		}
	case a.status != http.StatusBadRequest || a.text("code") != "malformed_json" && a.text("code") != "malformed_archive":
		t.Errorf("%s as %s: got %d %s, want it to mind the body", pattern, caller, a.status, a.body)
	}
}

func TestWhatCannotBeReadDoesNotExist(t *testing.T) {
	t.Parallel()
	c := newCast(t)
	lurker := c.signUp("lurker", "viewer") // of no mission
	c.callers["lurker"], c.callers["stranger's read key"] = lurker, c.callers["stranger"].withKey("read")
	for _, route := range c.table {
		if !slices.Contains([]string{"reader", "editor", "owner", "decider"}, expectedRoutes[route.pattern]) {
			continue
		}
		missing := c.as("admin", route.pattern, newID())
		missing.wantProblem(http.StatusNotFound, "not_found")
		for name, other := range map[string]*answer{
			"not an id":                         c.as("admin", route.pattern, "nothing"),
			"missing, as stranger":              c.as("stranger", route.pattern, newID()),
			"there, as stranger":                c.as("stranger", route.pattern, ""),
			"there, as stranger's read key":     c.as("stranger's read key", route.pattern, ""),
			"there, as an account of a viewer":  c.as("lurker", route.pattern, ""),
			"missing, as the owner's read key":  c.as("read key", route.pattern, newID()),
			"missing, as a viewer of a mission": c.as("mission viewer", route.pattern, newID()),
		} {
			if !sameAnswer(missing, other) {
				t.Errorf("%s: %s: %d %v %s, want it like what is missing: %v %s",
					route.pattern, name, other.status, other.header, other.body, missing.header, missing.body)
			}
		}
		if a := c.as("nobody", route.pattern, newID()); a.status != http.StatusUnauthorized {
			t.Errorf("%s: missing, as nobody: %d", route.pattern, a.status)
		}
	}
	for _, id := range []string{newID(), "nothing"} {
		c.callers["admin"].do("PATCH", "/api/v1/users/"+id, map[string]any{}).wantProblem(http.StatusNotFound, "not_found")
	}
}

// sameAnswer compares all that a client sees of two answers but the time.
func sameAnswer(a, b *answer) bool {
	plain := func(h http.Header) http.Header {
		h = h.Clone()
		h.Del("Date")
		return h
	}
	return a.status == b.status && bytes.Equal(a.body, b.body) &&
		maps.EqualFunc(plain(a.header), plain(b.header), func(x, y []string) bool { return slices.Equal(x, y) })
}

func TestEveryRouteRefusesMistakesInTheQuery(t *testing.T) {
	t.Parallel()
	c := newCast(t)
	admin := c.callers["admin"]
	for _, route := range c.table {
		method, path := c.at(route.pattern, "")
		if strings.Contains(path, "/pprof/") {
			continue // its parameters are Go's
		}
		for query, field := range map[string]string{
			"bogus=1":       "bogus",
			"bogus":         "bogus",
			"limit=%zz":     "limit",
			"%zz=1":         "%zz",
			"a=1&bogus=2":   "a bogus",
			"limit=1;bogus": "limit",
		} {
			a := admin.do(method, path+"?"+query, nil)
			if route.permission.name == forProbes.name { // load balancers append what they like
				a.want(http.StatusOK)
				continue
			}
			if a.status != http.StatusUnprocessableEntity {
				t.Errorf("%s?%s: %d %s", route.pattern, query, a.status, a.body)
				continue
			}
			a.wantFields(strings.Fields(field)...)
		}
	}
	admin.get("/api/v1/users?limit=1&limit=1").wantFields("limit")
}

func TestUnknownPathsAndMethodsAreProblems(t *testing.T) {
	t.Parallel()
	c := newCast(t)
	nobody := c.callers["nobody"]
	for _, path := range []string{"/api", "/api/v1", "/api/v1/", "/api/v1/missions/", "/api/v2/missions", "/internal",
		"/api/v1/missions/" + c.mission + "/nothing", "/favicon.ico", "/API/v1/missions", "/api/v1//missions/x/y"} {
		nobody.get(path).wantProblem(http.StatusNotFound, "not_found")
	}
	allowed := make(map[string][]string) // path → methods
	for _, route := range c.table {
		method, path := c.at(route.pattern, "")
		allowed[path] = append(allowed[path], method)
		if method == http.MethodGet {
			allowed[path] = append(allowed[path], http.MethodHead)
		}
	}
	for path, methods := range allowed {
		slices.Sort(methods)
		for _, method := range []string{"PROPFIND", "OPTIONS"} {
			a := nobody.do(method, path, nil).wantProblem(http.StatusMethodNotAllowed, "method_not_allowed")
			if got := a.header.Get("Allow"); got != strings.Join(methods, ", ") {
				t.Errorf("%s takes %q, want %q", path, got, methods)
			}
		}
	}
}

func TestHeadIsRefusedLikeGet(t *testing.T) {
	t.Parallel()
	c := newCast(t)
	for _, caller := range []string{"nobody", "stranger", "read key"} {
		for _, pattern := range []string{"GET /api/v1/missions/{id}", "GET /api/v1/users", "GET /api/v1/auth/me"} {
			_, path := c.at(pattern, "")
			get, head := c.callers[caller].get(path), c.callers[caller].do("HEAD", path, nil)
			if get.status != head.status || len(head.body) > 0 {
				t.Errorf("%s as %s: %d for GET, %d for HEAD", path, caller, get.status, head.status)
			}
		}
	}
}

func TestRoutesThatHandOutSecretsTakeNoIdempotencyKey(t *testing.T) {
	t.Parallel()
	c := newCast(t)
	for _, route := range c.table {
		method, path := c.at(route.pattern, "")
		secret := false
		for _, prefix := range []string{"/api/v1/auth/", "/api/v1/api-keys", "/api/v1/users"} {
			secret = secret || strings.HasPrefix(path, prefix)
		}
		if method != http.MethodPost || !secret {
			continue
		}
		c.callers["admin"].do(method, path, map[string]any{}, "Idempotency-Key", "once").
			wantProblem(http.StatusBadRequest, "idempotency_key_not_supported")
	}
}

func TestChecksRunInOrder(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.RateLimit = 2 }) // one more in 30 s
	spender := s.signUp("spender", "user")
	missing := "/api/v1/missions/" + newID()
	for range 2 {
		spender.post(missing+"/start", "{").wantProblem(http.StatusNotFound, "not_found")
	}
	a := spender.post(missing+"/start", "{").wantProblem(http.StatusTooManyRequests, "rate_limited")
	if a.header.Get("RateLimit-Limit") != "2" || a.header.Get("RateLimit-Remaining") != "0" ||
		a.header.Get("Retry-After") == "" {
		t.Errorf("got %v", a.header)
	}
	spender.get("/api/v1/users").wantProblem(http.StatusTooManyRequests, "rate_limited")
	spender.withToken("wrong").post(missing+"/start", "{").wantProblem(http.StatusUnauthorized, "invalid_token")
	s.signUp("other", "user").get("/api/v1/users").wantProblem(http.StatusForbidden, "forbidden")
	s.anonymous().get("/internal/health/live").want(http.StatusOK) // probes are never limited
}

// An address is charged for credentials that are refused, not for an outage.
func TestOutageIsNotChargedToTheAddress(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.RateLimit = 2 })
	down, addr := errors.New("the database is away"), netip.MustParseAddr("192.0.2.1")
	look := func(err error) error {
		_, _, err = s.lookUpFor(addr, func() (account, time.Duration, error) { return account{}, 0, err })
		return err
	}
	for range 5 {
		if err := look(down); !errors.Is(err, down) {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := look(errInvalidToken()); statusOf(err) != http.StatusUnauthorized {
			t.Fatal(err)
		}
	}
	if err := look(errInvalidToken()); statusOf(err) != http.StatusTooManyRequests {
		t.Fatal(err)
	}
}

// statusOf is the status that an error of the server's answers with; 0 for another.
func statusOf(err error) int {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e.status
	}
	return 0
}

func TestInternalAddressTakesOperatorsRoutesOffThePublicPort(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.InternalAddr = "127.0.0.1:0" })
	admin := s.signUp("admin", "admin")
	for path, status := range map[string]int{
		"/internal/health/live":  http.StatusOK,
		"/internal/health/ready": http.StatusOK,
		"/internal/health":       http.StatusNotFound,
		"/internal/connections":  http.StatusNotFound,
		"/internal/metrics":      http.StatusNotFound,
		"/internal/debug/pprof/": http.StatusNotFound,
	} {
		admin.get(path).want(status)
	}
}

func TestRouteNeedsAPermission(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("a route without a permission was registered")
		}
	}()
	(&Server{}).handle(permission{}, "GET /", nil)
}

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
