package main

// The pages, as browsers without JavaScript see them.

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// browser is somebody at a browser, or nobody without a cookie.
type browser struct {
	t      testing.TB
	base   string
	cookie string
	user   userView
}

// browse logs an account made by signUp in on the page for that.
func (s *testServer) browse(who *client) *browser {
	s.t.Helper()
	b := &browser{t: s.t, base: s.url()}
	b.submit("/login", "email", who.user.Email, "password", testPassword).want(http.StatusSeeOther)
	if b.user = who.user; b.cookie == "" {
		s.t.Fatal("the log-in gives no cookie")
	}
	return b
}

func (b *browser) get(path string, headers ...string) *answer {
	b.t.Helper()
	return b.do("GET", path, "", headers...)
}

// submit sends a form of names and values.
func (b *browser) submit(path string, fields ...string) *answer {
	b.t.Helper()
	return b.do("POST", path, formOf(fields...))
}

func formOf(fields ...string) string {
	form := make(url.Values)
	for i := 0; i+1 < len(fields); i += 2 {
		form.Add(fields[i], fields[i+1])
	}
	return form.Encode()
}

// do makes a request and keeps the cookie that it gets. headers are names and values.
func (b *browser) do(method, path, form string, headers ...string) *answer {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 2*patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, b.base+path, strings.NewReader(form))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", b.base)
	}
	if b.cookie != "" {
		r.Header.Set("Cookie", b.cookie)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	r.Host = r.Header.Get("Host") // "": that of the URL
	response, err := unredirected.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, cookie := range response.Cookies() {
		if b.cookie = cookie.Name + "=" + cookie.Value; cookie.MaxAge < 0 {
			b.cookie = ""
		}
	}
	a := &answer{b.t, method + " " + path, response.StatusCode, response.Header, body}
	a.checkPage()
	return a
}

// inlineCode finds what a page's policy forbids, once quoted values are taken out:
// scripts and styles in the page itself, and handlers of events. scripted finds
// addresses that are scripts.
var (
	inlineCode = regexp.MustCompile(`(?i)<style|<script[^>]*>[^<]|<[a-z][^>]*\s(style|on[a-z]+)\s*=`)
	quoted     = regexp.MustCompile(`"[^"]*"`)
	scripted   = regexp.MustCompile(`(?i)(href|src|action)="\s*(javascript|data|vbscript):`)
)

// checkPage holds an answer against what every page has to have.
func (a *answer) checkPage() {
	a.t.Helper()
	if !strings.HasPrefix(a.header.Get("Content-Type"), "text/html") {
		return
	}
	if a.header.Get("Content-Security-Policy") != pagePolicy || a.header.Get("Referrer-Policy") != "same-origin" ||
		a.header.Get("Cache-Control") != "no-store" || a.header.Get("X-Content-Type-Options") != "nosniff" {
		a.t.Errorf("%s: %v", a.what, a.header)
	}
	found := append(inlineCode.Find(quoted.ReplaceAll(a.body, []byte(`""`))), scripted.Find(a.body)...)
	if len(found) > 0 {
		a.t.Errorf("%s: the page has %q in it", a.what, found)
	}
}

// wantText ends the test unless the page has all of these.
func (a *answer) wantText(words ...string) *answer {
	a.t.Helper()
	for _, word := range words {
		if !strings.Contains(string(a.body), word) {
			a.t.Fatalf("%s: no %q in %s", a.what, word, a.body)
		}
	}
	return a
}

// leadsTo ends the test unless the answer leads to a path.
func (a *answer) leadsTo(path string) *answer {
	a.t.Helper()
	a.want(http.StatusSeeOther)
	if got := a.header.Get("Location"); got != path {
		a.t.Fatalf("%s: leads to %q, want %q", a.what, got, path)
	}
	return a
}

func TestFirstAccountIsMadeOnAPage(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	b := &browser{t: t, base: s.url()}
	b.get("/").leadsTo("/login")
	b.get("/login").leadsTo("/register")
	b.get("/register").want(http.StatusOK).wantText("Nobody has an account here yet")
	b.submit("/register", "email", "ada@example.com", "password", "short").want(http.StatusUnprocessableEntity).
		wantText("must have at least 15 characters", `value="ada@example.com"`)
	account := []string{"email", "ada@example.com", "password", testPassword, "name", "Ada"}
	rebound := &browser{t: t, base: s.url()}
	evil := []string{"Host", "evil.example.com", "Origin", "http://evil.example.com"}
	rebound.get("/register", evil...).want(http.StatusOK).wantText(`name="setup_token"`)
	rebound.do("POST", "/register", formOf(account...), evil...).want(http.StatusForbidden).wantText("setup_token")
	s.anonymous().do("POST", "/api/v1/auth/register", map[string]any{"email": "eve@example.com", "password": testPassword},
		"Host", "evil.example.com").wantProblem(http.StatusForbidden, "setup_token_required")
	rebound.do("POST", "/register", formOf(append(account, "setup_token", s.setupToken())...), evil...).leadsTo("/")

	b.get("/register").leadsTo("/login")
	b.get("/login?next=%2Fneeds-you").want(http.StatusOK).wantText(`name="back" value="/needs-you"`)
	b.submit("/login", "email", "ada@example.com", "password", "wrong", "back", "/needs-you").
		want(http.StatusUnauthorized).wantText("password is wrong", `value="/needs-you"`)
	b.submit("/login", "email", "ada@example.com", "password", testPassword, "back", "/needs-you").leadsTo("/needs-you")
	b.get("/").want(http.StatusOK)
}

func TestPagesLeadNowhereElse(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	for _, to := range []string{"//evil.example.com", "https://evil.example.com/", "/\\evil.example.com", "\\\\evil",
		"/\t/evil.example.com", "javascript:alert(1)", "evil", "/a\nb", ""} {
		b := &browser{t: t, base: s.url()}
		b.submit("/login", "email", ada.user.Email, "password", testPassword, "back", to).leadsTo("/")
	}
}

func TestCookieIsForPagesAlone(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, behindProxy)
	ada := s.signUp("ada", "admin")
	b := s.browse(ada)
	_, secret, _ := strings.Cut(b.cookie, "=")
	b.get("/").want(http.StatusOK) // and is remembered
	s.anonymous().withToken(secret).get("/api/v1/auth/me").wantProblem(http.StatusUnauthorized, "invalid_token")
	s.anonymous().do("GET", "/api/v1/auth/me", nil, "Cookie", b.cookie).
		wantProblem(http.StatusUnauthorized, "unauthenticated")
	s.anonymous().do("POST", "/mcp", "{}", "Cookie", b.cookie).wantProblem(http.StatusUnauthorized, "unauthenticated")
	name, _, _ := strings.Cut(b.cookie, "=")
	if _, port, _ := strings.Cut(strings.TrimPrefix(s.url(), "http://"), ":"); name != "tachikoma-"+port {
		t.Errorf("the cookie is %s", name)
	}
	for _, token := range []string{ada.token, ada.withKey("write").token} {
		other := &browser{t: t, base: s.url(), cookie: name + "=" + token}
		other.get("/").leadsTo("/login")
		other.get("/", "Authorization", "Bearer "+token).leadsTo("/login")
	}
	stranger := &browser{t: t, base: s.url()}
	given := stranger.do("POST", "/login", formOf("email", ada.user.Email, "password", testPassword),
		"X-Forwarded-Proto", "https").want(http.StatusSeeOther).header.Get("Set-Cookie")
	for _, word := range []string{"__Host-tachikoma=", "; Path=/", "; HttpOnly", "; Secure", "; SameSite=Lax"} {
		if !strings.Contains(given, word) || strings.Contains(given, "Domain") {
			t.Errorf("over HTTPS: no %q in %q", word, given)
		}
	}
}

func TestSessionOfPagesEnds(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	for name, end := range map[string]func(b *browser){
		"by log-out": func(b *browser) {
			cookie := b.cookie
			b.submit("/logout").leadsTo("/login")
			b.cookie = cookie
		},
		"by another password": func(*browser) {
			ada.post("/api/v1/auth/change-password", map[string]any{"current_password": testPassword,
				"new_password": testPassword}).want(http.StatusNoContent)
		},
		"by its time": func(*browser) {
			if _, err := s.db.Exec(t.Context(),
				`UPDATE sessions SET expires_at = clock_timestamp() WHERE cookie_hash IS NOT NULL`); err != nil {
				t.Fatal(err)
			}
			s.credentials.forget("")
		},
	} {
		b := s.browse(ada)
		b.get("/").want(http.StatusOK)
		end(b)
		if a := b.get("/?status=draft"); a.header.Get("Location") != "/login?next=%2F%3Fstatus%3Ddraft" {
			t.Errorf("ended %s: %d %v", name, a.status, a.header)
		}
	}
}

func TestSessionOfPagesLastsWhileItIsUsed(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	b := s.browse(s.signUp("ada", "user"))
	_, err := s.db.Exec(t.Context(), `UPDATE sessions SET expires_at = clock_timestamp() + interval '1 hour'`)
	if err != nil {
		t.Fatal(err)
	}
	s.credentials.forget("")
	b.get("/").want(http.StatusOK)
	var days int
	err = s.db.QueryRow(t.Context(), `SELECT extract(day FROM expires_at - clock_timestamp())::int FROM sessions
		WHERE cookie_hash IS NOT NULL`).Scan(&days)
	if err != nil || days != 29 {
		t.Errorf("it lasts %d more days, %v", days, err)
	}
}

func TestUnknownPagesArePages(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	b := s.browse(s.signUp("ada", "user"))
	b.get("/nothing").want(http.StatusNotFound).wantText("Not found")
	b.get("/api/v1/nothing").wantProblem(http.StatusNotFound, "not_found")
	b.get("/assets/nothing.css").want(http.StatusNotFound)
}

func TestAssetsAreKeptForEver(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	nobody := &browser{t: t, base: s.url()}
	page := string(nobody.get("/nothing").body)
	paths := regexp.MustCompile(`/assets/[^"]+`).FindAllString(page, -1)
	slices.Sort(paths)
	if paths = slices.Compact(paths); len(paths) != 3 {
		t.Fatalf("the page has %q", paths)
	}
	for _, path := range paths {
		a := nobody.get(path, "Accept-Encoding", "gzip").want(http.StatusOK)
		if a.header.Get("Cache-Control") != "public, max-age=31536000, immutable" {
			t.Errorf("%s: %v", path, a.header)
		}
		if limit := 12 << 10; strings.Contains(path, "app.") && len(a.body) > limit {
			t.Errorf("%s has %d bytes over the wire, more than %d", path, len(a.body), limit)
		}
	}
}

// Every form refuses what another site sends, before it does anything.
func TestFormsRefuseOtherSites(t *testing.T) {
	t.Parallel()
	c := newCast(t)
	b := c.browse(c.callers["admin"])
	for _, route := range c.pages {
		method, path := c.pageAt(route.pattern, c.mission)
		if method != http.MethodPost {
			continue
		}
		for _, headers := range [][]string{
			{"Origin", "https://evil.example.com"}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"},
			{"Sec-Fetch-Site", "same-site"}, {"Origin", "http://127.0.0.1:1"},
		} {
			b.do("POST", path, "", headers...).want(http.StatusForbidden).wantText("another site")
		}
	}
	b.get("/").want(http.StatusOK)
}

// pageCallers are those who try every page, in the order of whoMaySee.
var pageCallers = []string{"nobody", "stranger", "viewer account", "mission viewer", "editor", "owner", "admin"}

// whoMaySee is what they get; pass is whatever the page then says.
var whoMaySee = map[string][]int{
	"anybody":  {pass, pass, pass, pass, pass, pass, pass},
	"session":  {303, pass, pass, pass, pass, pass, pass},
	"maker":    {303, pass, 403, pass, pass, pass, pass},
	"reader":   {303, 404, pass, pass, pass, pass, pass},
	"editor":   {303, 404, 403, 403, pass, pass, pass},
	"owner":    {303, 404, 403, 403, 403, pass, pass},
	"operator": {303, 403, 403, 403, 403, 403, pass},
}

// expectedPages says for every page who may see it. It is written by hand, like
// expectedRoutes.
var expectedPages = map[string]string{
	"GET /agents":                     "session",
	"GET /keys":                       "session",
	"POST /keys":                      "session",
	"POST /keys/{id}/delete":          "session",
	"GET /account":                    "session",
	"POST /account":                   "session",
	"POST /account/password":          "session",
	"POST /account/sessions/end":      "session",
	"POST /account/sessions/{id}/end": "session",
	"GET /users":                      "operator",
	"POST /users":                     "operator",
	"POST /users/{id}":                "operator",
	"GET /missions/{id}/graph":        "reader",
	"GET /missions/{id}/activity":     "reader",
	"POST /questions/{id}/answer":     "editor",

	"GET /assets/{name}": "anybody",
	"GET /login":         "anybody",
	"POST /login":        "anybody",
	"GET /register":      "anybody",
	"POST /register":     "anybody",
	"POST /logout":       "session",

	"GET /{$}":                                     "session",
	"GET /needs-you":                               "session",
	"POST /missions":                               "maker",
	"POST /missions/import":                        "maker",
	"POST /missions/{id}/import":                   "editor",
	"GET /missions/{id}/imported/{report}":         "reader",
	"GET /missions/{id}":                           "reader",
	"GET /missions/{id}/stream":                    "reader",
	"POST /missions/{id}/start":                    "editor",
	"POST /missions/{id}/pause":                    "editor",
	"POST /missions/{id}/resume":                   "editor",
	"POST /missions/{id}/complete":                 "editor",
	"POST /missions/{id}/cancel":                   "editor",
	"POST /missions/{id}/archive":                  "editor",
	"GET /missions/{id}/settings":                  "reader",
	"POST /missions/{id}/settings":                 "editor",
	"POST /missions/{id}/delete":                   "owner",
	"POST /missions/{id}/members":                  "owner",
	"POST /missions/{id}/members/{user_id}/remove": "owner",
	"GET /missions/{id}/specs/{key}":               "reader",
	"GET /missions/{id}/specs/{key}/edit":          "editor",
	"POST /missions/{id}/specs/{key}/edit":         "editor",
	"POST /missions/{id}/specs/{key}/review":       "editor",
	"POST /missions/{id}/specs/{key}/status":       "editor",
	"POST /missions/{id}/specs/{key}/delete":       "editor",
	"GET /missions/{id}/new":                       "editor",
	"POST /missions/{id}/specs":                    "editor",
}

// pageAt fills in the path of a page: with the cast's mission, or with another.
func (c cast) pageAt(pattern, mission string) (method, path string) {
	method, path, _ = strings.Cut(pattern, " ")
	if strings.HasPrefix(path, "/questions/") {
		mission = c.question
	}
	return method, strings.NewReplacer("{$}", "", "{id}", mission, "{user_id}", c.userID, "{key}", "first",
		"{report}", newID(), "{name}", "nothing").Replace(path)
}

func TestPagesAreForWhomTheyAreMeant(t *testing.T) {
	t.Parallel()
	c := newCast(t)
	people := map[string]*browser{"nobody": {t: t, base: c.url()}}
	for _, name := range pageCallers[1:] {
		people[name] = c.browse(c.callers[name])
	}
	seen := make(map[string]bool)
	for _, route := range c.pages {
		class, ok := expectedPages[route.pattern]
		if !ok {
			t.Errorf("nobody has said who may see %s: add it to expectedPages", route.pattern)
			continue
		}
		seen[route.pattern] = true
		method, path := c.pageAt(route.pattern, c.mission)
		for i, name := range pageCallers {
			// A form that is none changes nothing where it is let through.
			a := people[name].do(method, path, "", "Content-Type", "text/plain")
			want, missing := whoMaySee[class][i], strings.Contains(path, "/imported/") || strings.Contains(path, "/assets/")
			passed := missing || a.status == http.StatusOK || a.status == http.StatusSeeOther
			if method == http.MethodPost {
				passed = a.status == http.StatusUnsupportedMediaType || a.status == http.StatusBadRequest
			}
			switch {
			case want == pass && !passed, want != pass && a.status != want,
				want == http.StatusSeeOther && !strings.HasPrefix(a.header.Get("Location"), "/login"):
				t.Errorf("%s as %s: %d, want %d: %s", route.pattern, name, a.status, want, a.body)
			}
		}
	}
	for pattern := range expectedPages {
		if !seen[pattern] {
			t.Errorf("%s is gone", pattern)
		}
	}
}

// What somebody may not see is the same page as what isn't there.
func TestPagesOfOthersDontExist(t *testing.T) {
	t.Parallel()
	c := newCast(t)
	stranger := c.browse(c.callers["stranger"])
	for _, route := range c.pages {
		if !strings.Contains(route.pattern, "/missions/{id}") {
			continue
		}
		var answers []*answer
		for _, mission := range []string{c.mission, newID(), "nothing"} {
			method, path := c.pageAt(route.pattern, mission)
			answers = append(answers, stranger.do(method, path, "", "X-Request-Id", "the-same").want(http.StatusNotFound))
		}
		if !sameAnswer(answers[0], answers[1]) || !sameAnswer(answers[1], answers[2]) {
			t.Errorf("%s: what is there and what isn't differ: %s", route.pattern, answers[0].body)
		}
	}
}

func TestEveryStatusHasAColumn(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	var check string
	err := s.db.QueryRow(t.Context(), `SELECT pg_get_constraintdef(oid) FROM pg_constraint
		WHERE conrelid = 'spec_states'::regclass AND contype = 'c' AND pg_get_constraintdef(oid) LIKE '%planned%'
		`).Scan(&check)
	if err != nil {
		t.Fatal(err)
	}
	statuses := regexp.MustCompile(`'(\w+)'`).FindAllStringSubmatch(check, -1)
	if len(statuses) < 7 {
		t.Fatalf("the database takes %q", check)
	}
	for _, status := range statuses {
		for _, ready := range []bool{false, true} {
			spec, columns := specSummary{Status: status[1], Ready: ready && status[1] == "planned"}, 0
			for _, kind := range boardColumns {
				if kind.has(spec) {
					columns++
				}
			}
			if columns != 1 {
				t.Errorf("%s is in %d columns", status[1], columns)
			}
		}
	}
}

func TestFormsOfPagesAreDoneOnceAndOnWhatWasSeen(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	b := s.browse(ada)
	form := []string{"name", "Once", "idempotency_key", newID()}
	first := b.submit("/missions", form...).want(http.StatusSeeOther).header.Get("Location")
	b.submit("/missions", form...).leadsTo(first)
	if n := len(ada.get("/api/v1/missions").at("items").([]any)); n != 1 {
		t.Errorf("a double click makes %d missions", n)
	}
	b.submit("/missions", "name", "").want(http.StatusUnprocessableEntity).wantText("is required")
	b.submit("/missions", "name", "x", "nonsense", "y").want(http.StatusUnprocessableEntity).wantText("nonsense")
	b.do("POST", "/missions", "name=%zz").want(http.StatusUnprocessableEntity)
	b.do("POST", "/missions", "name=%ff").want(http.StatusUnprocessableEntity)

	at := first + "/specs/one"
	b.submit(first+"/specs", "key", "one", "title", "One", "tags", "a, b,,", "body", "# One\r\n\r\ntext\r\n",
		"priority", "7", "dependencies", "").leadsTo(at)
	spec := ada.specByKey("/api/v1"+first, "one")
	is := ada.get(spec)
	if is.text("body") != "# One\n\ntext\n" || is.number("priority") != 7 || is.text("tags.1") != "b" {
		t.Errorf("stored: %s", is.body)
	}
	b.submit(at+"/edit", "title", "Two", "body", "# Two\n", "if_match", "1").leadsTo(at)
	b.submit(at+"/edit", "title", "Three", "body", "# Mine\n", "if_match", "1").want(http.StatusPreconditionFailed).
		wantText("ada was faster. It has changed since you read it", "# Mine", `value="Three"`, "# Two",
			`name="if_match" value="2"`)
	b.submit(at+"/status", "status", "deferred", "notes", "later", "if_match", "1").want(http.StatusPreconditionFailed).
		wantText(">later</textarea>", `name="if_match" value="2"`)
	b.submit(at+"/status", "status", "deferred", "if_match", "2", "back", first+"?spec=one").leadsTo(first + "?spec=one")
	b.submit(at+"/status", "status", "completed", "if_match", "3").want(http.StatusConflict).
		wantText("isn&#39;t allowed from there")
	b.submit(first+"/start", "if_match", "9").want(http.StatusPreconditionFailed)
	b.submit(first+"/start", "if_match", "1").leadsTo(first)
	b.submit(first+"/settings", "name", "Renamed", "description", "", "tags", "x", "triage", "true", "review", "human",
		"max_in_review", "3", "if_match", "2").leadsTo(first + "/settings")
	eve := s.signUp("eve", "user")
	b.submit(first+"/members", "email", eve.user.Email, "role", "viewer").leadsTo(first + "/settings")

	reader := s.browse(eve)
	for _, path := range []string{first, first + "?spec=one", at, first + "/settings", "/needs-you"} {
		page := reader.get(path).want(http.StatusOK)
		if n := strings.Count(string(page.body), "<form method=\"post\""); n != 1 { // to log out
			t.Errorf("%s offers %d forms to somebody who may only read", path, n)
		}
	}
	b.submit(first + "/members/" + eve.user.ID + "/remove").leadsTo(first + "/settings")
	reader.get(first).want(http.StatusNotFound)
	b.submit(at+"/delete", "if_match", "2").want(http.StatusPreconditionFailed)
	b.submit(at+"/delete", "if_match", "3").leadsTo(first)
}
