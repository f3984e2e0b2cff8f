package main

import (
	"bytes"
	"errors"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
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
