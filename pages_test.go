package main

// The pages, as browsers without JavaScript see them.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"tachikoma/internal/ratelimit"
)

// browser is somebody at a browser, or nobody without a cookie.
type browser struct {
	t      testing.TB
	base   string
	cookie string
	saved  string // another cookie, that a page says "Saved." for
	user   userView
	hasty  bool // it doesn't check what every page has to be, which takes as long as to make one
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
		r.Header.Set("Cookie", b.cookie+b.saved)
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
		kept, value := &b.cookie, cookie.Name+"="+cookie.Value
		if strings.HasSuffix(cookie.Name, savedSuffix) {
			kept, value = &b.saved, "; "+value
		}
		if *kept = value; cookie.MaxAge < 0 {
			*kept = ""
		}
	}
	a := &answer{b.t, method + " " + path, response.StatusCode, response.Header, body}
	if !b.hasty {
		a.checkPage()
	}
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

// wantNoText ends the test if the page has one of these.
func (a *answer) wantNoText(words ...string) *answer {
	a.t.Helper()
	for _, word := range words {
		if strings.Contains(string(a.body), word) {
			a.t.Fatalf("%s: %q is in %s", a.what, word, a.body)
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
	b.get("/register").want(http.StatusOK).wantText("There are no accounts yet")
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
	// A path that is too long for a header is no reason to refuse the log-in.
	b, long := &browser{t: t, base: s.url()}, "/"+strings.Repeat("a", maxLocalPath-1)
	b.get(long[:len(long)-1]).want(http.StatusNotFound)
	b.get("/?q=" + long).leadsTo("/login")
	b.get("/login?next=" + long + "a").want(http.StatusOK)
	b.submit("/login", "email", ada.user.Email, "password", testPassword, "back", long+"a").leadsTo("/")
	b.submit("/login", "email", ada.user.Email, "password", testPassword, "back", long).leadsTo(long)
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
	b.get("/needs-you/").leadsTo("/needs-you")
	b.get("/missions/x%2f%3Fy/?q=a%2Fb").leadsTo("/missions/x/%3Fy?q=a%2Fb")
	for _, path := range []string{"//evil.example.com/", "/%5cevil.example.com//", "/api/v1/missions/"} {
		b.get(path).want(http.StatusNotFound)
	}
	b.get("/%5Cevil.example.com/").leadsTo("/%5Cevil.example.com")
	b.submit("/needs-you/").want(http.StatusNotFound)
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
	"GET /stream":                                  "session",
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

// What the list of missions calls working is what the board's column holds.
func TestMissionsCountAsTheirBoardsDo(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Counted")
	for _, status := range []string{"testing", "in_progress"} {
		ada.newSpec(mission, status, map[string]any{"status": status})
	}
	s.browse(ada).get("/").want(http.StatusOK).wantText("<dt>Working</dt><dd>2</dd>")
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
	b.get(first+"/settings").wantText(">Saved.<", "Renamed")
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

// What pages show of missions, and of who works on them.

// nodeOf finds the nodes of a picture, and to where they lead.
var nodeOf = regexp.MustCompile(`<a class="node ([a-z_]+)(?: here)?" href="[^"]*/specs/([^"]+)"`)

func TestGraphIsDrawn(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, eve := s.signUp("ada", "user"), s.signUp("eve", "user")
	mission := ada.newActive("Graph")
	path := "/missions/" + idOf(mission) + "/graph"
	b := s.browse(ada)
	b.get(path).want(http.StatusOK).wantText("There are no specs yet")
	ada.newSpec(mission, "first", fields{"title": `"><script>alert(1)</script>`})
	ada.newSpec(mission, "second", fields{"dependencies": []string{"first"}})
	ada.newSpec(mission, "third", fields{"dependencies": []string{"first", "second"}})
	page := b.get(path).want(http.StatusOK).wantText("3 specs.", "&gt;&lt;script&gt;", "What depends on what in Graph")
	var nodes []string
	for _, found := range nodeOf.FindAllStringSubmatch(string(page.body), -1) {
		nodes = append(nodes, found[1]+" "+found[2])
	}
	if want := []string{"ready first", "planned second", "planned third"}; !slices.Equal(nodes, want) {
		t.Errorf("the nodes are %q, want %q", nodes, want)
	}
	if n := strings.Count(string(page.body), `class="edge"`); n != 2 {
		t.Errorf("%d edges are drawn, want 2: that from the third to the first follows", n)
	}
	b.get(path+"?around=second").want(http.StatusOK).wantText(`class="node planned here"`, "All specs")
	b.get(path + "?around=nothing").want(http.StatusNotFound)
	b.get(path + "?around=a/b").want(http.StatusNotFound)
	b.get(path + "?bogus=1").want(http.StatusUnprocessableEntity)
	stranger := s.browse(eve)
	for _, page := range []string{"/graph", "/activity"} {
		there := stranger.get("/missions/" + idOf(mission) + page).want(http.StatusNotFound)
		missing := stranger.get("/missions/" + newID() + page).want(http.StatusNotFound)
		if string(there.body) != string(missing.body) {
			t.Errorf("%s: what is there and what isn't are told apart:\n%s\n%s", page, there.body, missing.body)
		}
	}
}

func TestLargeGraphIsDrawnInParts(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Large")
	var files []string
	for i := range 400 {
		dependency := ""
		if i > 0 {
			dependency = fmt.Sprintf("\n**Dependencies:** %03d-spec\n", i-1)
		}
		files = append(files, fmt.Sprintf("%03d-spec.md", i), fmt.Sprintf("# %03d: Spec\n%s", i, dependency))
	}
	ada.importFiles(mission, files...)
	b := s.browse(ada)
	path := "/missions/" + idOf(mission) + "/graph"
	for around, n := range map[string]int{"": 9, "200-spec": 17, "399-spec": 9} {
		page := b.get(path + "?around=" + around).want(http.StatusOK).wantText(" specs: those around")
		if shown := len(nodeOf.FindAll(page.body, -1)); shown < n || shown > maxDrawn {
			t.Errorf("around %q: %d specs are drawn, want %d or more", around, shown, n)
		}
	}
	dense := ada.newActive("Dense")
	s.widen(dense, 300)
	page := b.get("/missions/" + idOf(dense) + "/graph?around=k1").want(http.StatusOK)
	if shown := len(nodeOf.FindAll(page.body, -1)); shown != maxDrawn {
		t.Errorf("of 600 specs %d are drawn", shown)
	}
	b.get("/missions/" + idOf(dense) + "/graph").want(http.StatusOK)
}

func TestActivityIsALog(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Log")
	first, second := ada.newSpec(mission, "first", nil), ada.newSpec(mission, "second", nil)
	_, token := ada.claim(mission, "robin")
	ada.post(mission+"/logs", fields{"entries": []any{
		fields{"level": "info", "message": "one\n  two <b>\nsee https://ci.example.com/1?a=b&c=d.",
			"spec_id": idOf(first)},
		fields{"level": "error", "message": "it broke", "fields": fields{"code": 7}},
	}}).want(http.StatusCreated)
	ada.post(first+"/fail", fields{"lease_token": token, "reason": "no compiler"}).want(http.StatusOK)
	ada.post(second+"/status", fields{"status": "blocked", "notes": "who decides?"}).want(http.StatusOK)
	b := s.browse(ada)
	path := "/missions/" + idOf(mission) + "/activity"
	stream := fmt.Sprintf(`data-follow="/missions/%s/stream" data-after="%d"`, idOf(mission), ada.lastSeq(mission))
	b.get(path).want(http.StatusOK).wantText("created the mission", "started the mission", "claimed it, attempt 1",
		"one\n  two &lt;b&gt;\nsee ", `<a href="https://ci.example.com/1?a=b&amp;c=d" rel="noopener nofollow">`,
		"{&#34;code&#34;:7}",
		"failed at attempt 1, now planned", "no compiler", "planned → blocked", "who decides?", ">robin<", stream)

	events := regexp.MustCompile(`id="e(\d+)"`)
	for query, want := range map[string]int{
		"kind=log": 2, "agent=robin": 2, "spec=first": 4, "errors=1": 3, "errors=1&kind=spec&agent=robin": 1,
		"spec=gone": 0, "at=2": 2, "kind=&agent=&spec=": 9, "at=4611686018427387904": 9,
	} {
		if got := len(events.FindAll(b.get(path+"?"+query).want(http.StatusOK).body, -1)); got != want {
			t.Errorf("%s: %d events, want %d", query, got, want)
		}
	}
	one := b.get(path+"?at=3").want(http.StatusOK).wantText(`id="e3"`, "at=3#e3", "To the newest events")
	if strings.Contains(string(one.body), "data-follow") {
		t.Error("a page of the past follows the stream")
	}
	b.get(path + "?kind=nothing").want(http.StatusUnprocessableEntity)
	b.get(path + "?at=x").want(http.StatusUnprocessableEntity)
}

func TestActivitySaysWhoAndWhat(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, eve := s.signUp("ada", "user"), s.signUp("eve", "user")
	mission := ada.newActive("Log")
	path := "/missions/" + idOf(mission) + "/activity"
	ada.put(mission+"/members", fields{"email": eve.user.Email, "role": "editor"}).want(http.StatusOK)
	ada.delete(mission + "/members/" + eve.user.ID).want(http.StatusNoContent)
	ada.patch(mission, fields{"max_in_review": 3, "triage": false}).want(http.StatusOK)
	ada.patch(ada.newSpec(mission, "first", nil), fields{"body": "# B", "estimated_context": "7k"}).want(http.StatusOK)
	spec, token := ada.claim(mission, "robin")
	ada.post(spec+"/progress", fields{"lease_token": token, "links": []fields{
		{"kind": "pull_request", "ref": "https://example.com/pull/7"}}}).want(http.StatusOK)
	question := fields{"lease_token": token, "question": "Which of them?"}
	ada.post(spec+"/questions", question).want(http.StatusCreated)
	question["park"] = true
	ada.post(spec+"/questions", question).want(http.StatusCreated)
	a := s.browse(ada).get(path).want(http.StatusOK).wantText("made eve editor of the mission",
		"removed eve from the mission", "changed: Limit of specs in review, New work that agents find<",
		"changed: Text, estimated context<", "- pull request <a href", "parked it until there is an answer<")
	a.wantText(" UTC</time></a>")
	if n := strings.Count(string(a.body), ">asked<"); n != 1 {
		t.Errorf("one question is asked %d times: %s", n, a.body)
	}
}

func TestActivityHasPages(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Long")
	s.runSQL(fmt.Sprintf(`INSERT INTO events (stream, seq, type, mission_id, at, data)
		SELECT stream, seq + n, 'log', stream, clock_timestamp(), json_build_object('level', 'info', 'message', 'm' || n)
		FROM heads, generate_series(1, 25000) n WHERE stream = '%s'`, idOf(mission)),
		fmt.Sprintf(`UPDATE heads SET seq = seq + 25000 WHERE stream = '%s'`, idOf(mission)))
	b := s.browse(ada)
	older := regexp.MustCompile(`rel="next" href="([^"]+)"`)
	path := "/missions/" + idOf(mission) + "/activity"
	seen := make(map[string]bool)
	for range 3 {
		page := b.get(path).want(http.StatusOK)
		for _, event := range regexp.MustCompile(`id="e\d+"`).FindAllString(string(page.body), -1) {
			if seen[event] {
				t.Errorf("%s is shown twice", event)
			}
			seen[event] = true
		}
		path = strings.ReplaceAll(older.FindStringSubmatch(string(page.body))[1], "&amp;", "&")
	}
	if len(seen) != 3*activityLimit {
		t.Errorf("%d events on three pages", len(seen))
	}
	// What fits the filter is further back than a page looks.
	page := b.get("/missions/" + idOf(mission) + "/activity?kind=mission").want(http.StatusOK).
		wantText("among those looked through")
	next := strings.ReplaceAll(older.FindStringSubmatch(string(page.body))[1], "&amp;", "&")
	b.get(next).want(http.StatusOK).wantText("created the mission")
	s.runSQL(fmt.Sprintf(`DELETE FROM events WHERE stream = '%s' AND seq < 24990`, idOf(mission)),
		fmt.Sprintf(`UPDATE heads SET first_seq = 24990 WHERE stream = '%s'`, idOf(mission)))
	b.get("/missions/" + idOf(mission) + "/activity").want(http.StatusOK).
		wantText("Events up to 24989 are no longer kept.")
	b.get("/missions/" + idOf(mission) + "/activity?at=5").want(http.StatusOK).wantText("no longer kept")
}

func TestAgentsPageShowsWhoWorks(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, eve, root := s.signUp("ada", "user"), s.signUp("eve", "user"), s.signUp("root", "admin")
	mission := ada.newActive("Busy")
	ada.newSpec(mission, "first", fields{"title": "The first"})
	s.browse(ada).get("/agents").want(http.StatusOK).wantText("No agent is working on anything")
	spec, token := ada.claim(mission, "robin")
	s.browse(ada).get("/agents").want(http.StatusOK).wantText("robin", "<span>nothing reported yet</span>")
	ada.post(spec+"/progress", fields{"lease_token": token, "message": "Half of it works"}).want(http.StatusOK)
	for _, who := range []*client{ada, root} {
		s.browse(who).get("/agents").want(http.StatusOK).wantText("robin", "The first", "Busy", "Half of it works",
			"last report", "/specs/first", "by ada", "left")
	}
	s.browse(eve).get("/agents").want(http.StatusOK).wantText("No agent is working on anything")
}

func TestKeyIsShownOnce(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	b := s.browse(ada)
	b.get("/keys").want(http.StatusOK).wantText("You have no API key")
	page := b.submit("/keys", "name", "Robin's", "scope", "write").want(http.StatusOK).
		wantText("claude mcp add", "codex mcp add", "gemini mcp add", "code --add-mcp", ".cursor/mcp.json",
			b.base+"/mcp", "claim_spec")
	key := regexp.MustCompile(`tk_[\w-]{43}`).FindString(string(page.body))
	agent := s.anonymous().withToken(key)
	agent.get("/api/v1/auth/me").want(http.StatusOK)
	all := b.get("/keys").want(http.StatusOK).wantText("Robin&#39;s", key[:keyShown])
	if strings.Contains(string(all.body), key) {
		t.Error("the key is shown again")
	}
	ends := regexp.MustCompile(`<option value="([^"]+)">30 days`).FindStringSubmatch(string(all.body))[1]
	b.submit("/keys", "name", "Short", "scope", "read", "expires_at", ends).want(http.StatusOK)
	b.submit("/keys", "name", "", "scope", "all").want(http.StatusUnprocessableEntity).wantText("scope", "name")
	var keys list[keyView]
	ada.get("/api/v1/api-keys").want(http.StatusOK).into(&keys)
	if len(keys.Items) != 2 || keys.Items[1].ExpiresAt == nil || keys.Items[1].Scope != "read" {
		t.Fatalf("the keys are %+v", keys.Items)
	}
	eve := s.browse(s.signUp("eve", "user"))
	eve.submit("/keys/" + keys.Items[0].ID + "/delete").want(http.StatusNotFound)
	agent.get("/api/v1/auth/me").want(http.StatusOK)
	b.submit("/keys/" + keys.Items[0].ID + "/delete").leadsTo("/keys")
	agent.get("/api/v1/auth/me").wantProblem(http.StatusUnauthorized, "invalid_token")
}

func TestAccountPage(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	b, other := s.browse(ada), s.browse(ada)
	b.submit("/account", "name", "Ada <b>").leadsTo("/account")
	page := b.get("/account").want(http.StatusOK).wantText(">Saved.<", "Ada &lt;b&gt;", "ada@example.com", "this one",
		"A program", " UTC</time>")
	sessions := regexp.MustCompile(`/account/sessions/([^/]+)/end`).FindAllStringSubmatch(string(page.body), -1)
	if len(sessions) != 2 {
		t.Fatalf("%d other sessions are shown, want that of the other browser and that of the API", len(sessions))
	}
	eve := s.browse(s.signUp("eve", "user"))
	eve.submit("/account/sessions/" + sessions[0][1] + "/end").want(http.StatusNotFound)
	other.get("/account").want(http.StatusOK)
	b.submit("/account/sessions/" + sessions[0][1] + "/end").leadsTo("/account")
	other.get("/account").leadsTo("/login?next=%2Faccount")

	third := s.browse(ada)
	b.submit("/account/sessions/end").leadsTo("/account")
	third.get("/account").leadsTo("/login?next=%2Faccount")
	ada.get("/api/v1/auth/me").wantProblem(http.StatusUnauthorized, "invalid_token")

	old := b.cookie
	const password = "another correct horse battery"
	b.submit("/account/password", "current_password", "wrong", "new_password", password).
		want(http.StatusUnprocessableEntity).wantText("Current password")
	b.submit("/account/password", "current_password", testPassword, "new_password", password).leadsTo("/account")
	if b.cookie == old {
		t.Error("the cookie isn't renewed")
	}
	b.get("/account").want(http.StatusOK).wantText(">Saved.<")
	if again := b.get("/account").want(http.StatusOK); strings.Contains(string(again.body), "Saved.") {
		t.Error("what was saved once is said twice")
	}
	(&browser{t: t, base: b.base, cookie: old}).get("/account").leadsTo("/login?next=%2Faccount")
}

func TestUsersPageIsForAdmins(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	root, ada := s.signUp("root", "admin"), s.signUp("ada", "user")
	b, user := s.browse(root), s.browse(ada)
	user.get("/users").want(http.StatusForbidden)
	user.submit("/users", "email", "x@example.com", "password", testPassword, "role", "admin").
		want(http.StatusForbidden)
	if home := user.get("/").want(http.StatusOK); strings.Contains(string(home.body), `href="/users"`) {
		t.Error("who isn't an admin is led to the accounts")
	}
	b.get("/").want(http.StatusOK).wantText(`href="/users"`)
	b.get("/users").want(http.StatusOK).wantText("ada@example.com", "root@example.com")
	b.submit("/users", "email", "bob@example.com", "password", "short", "role", "user").
		want(http.StatusUnprocessableEntity).wantText("at least 15 characters", `value="bob@example.com"`)
	b.submit("/users", "email", "bob@example.com", "password", testPassword, "role", "viewer").leadsTo("/users")
	s.logIn("bob@example.com")
	path := "/users/" + ada.user.ID
	b.submit(path, "role", "viewer", "disabled", "true").leadsTo("/users")
	user.get("/").leadsTo("/login")
	b.submit(path, "disabled", "false").leadsTo("/users")
	b.submit(path, "password", "yet another horse battery").leadsTo("/users")
	b.get("/users").wantText(">Saved.<")
	b.submit("/users/"+root.user.ID, "role", "user").want(http.StatusConflict).wantText("the last admin")
	b.submit("/users/"+newID(), "role", "user").want(http.StatusNotFound)
}

func TestPagesShowWhatLeasesHaveLeft(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	s.pauseSweep()
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Late")
	spec := ada.newSpec(mission, "first", nil)
	ada.claim(mission, "robin")
	s.expireLease(spec)
	s.browse(ada).get("/agents").want(http.StatusOK).wantText("late: the lease is over")
}

func TestMissionIsMadeOfAFolder(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	b := s.browse(ada)
	name := ""
	upload := func(path, key string, files ...string) *answer {
		var body bytes.Buffer
		form := multipart.NewWriter(&body)
		form.WriteField("idempotency_key", key)
		form.WriteField("name", name)
		for i := 0; i+1 < len(files); i += 2 {
			part, err := form.CreatePart(textproto.MIMEHeader{"Content-Disposition": {
				`form-data; name="files"; filename="` + files[i] + `"`}})
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(part, files[i+1])
		}
		form.Close()
		return b.do("POST", path, body.String(), "Content-Type", form.FormDataContentType())
	}
	key := newID()
	files := []string{"shop/phase-1/001-one.md", "# One\n\n- [ ] it works\n",
		"shop/002-two.md", "# Two\n\n**Status:** Whatever\n", "shop/logo.png", "x"}
	report := upload("/missions/import", strings.ToUpper(key), files...).want(http.StatusSeeOther).header.Get("Location")
	upload("/missions/import", key, files...).leadsTo(report)
	upload("/missions/import", key, files[:2]...).want(http.StatusUnprocessableEntity).wantText("already sent")
	b.get(report).want(http.StatusOK).wantText("2 new", "skipped files: ", "logo.png", "002-two.md",
		"Start the mission", "Delete the mission")
	missions := ada.get("/api/v1/missions")
	if missions.text("items.0.name") != "shop" || missions.text("items.0.status") != "draft" ||
		missions.at("items.1") != nil || missions.number("items.0.stats.total") != 2 {
		t.Errorf("made: %s", missions.body)
	}
	name = strings.Repeat("long ", 1000)
	upload("/missions/import", newID(), files...).want(http.StatusUnprocessableEntity).wantText("at most 200 characters")
	name = ""
	upload("/missions/import", newID()).want(http.StatusUnprocessableEntity).wantText("no Markdown file")
	upload("/missions/import", newID(), "README.md", "x", "logo.png", "x").want(http.StatusUnprocessableEntity).
		wantText("passed over for their names: 2, such as README.md, logo.png")
	upload("/missions/import", newID(), "logo.png", "x", "1.md", "\xff\xfe#\x00", "2.md", "\x00", "a/3.md",
		strings.Repeat("long ", 60_000)).want(http.StatusUnprocessableEntity).wantText("1.md</strong>", "UTF-16",
		"2.md</strong>", "NUL", "a/3.md</strong>", "256 KiB")
	for _, bad := range []string{"--b\r\nContent-Disposition: form-data; name=files; filename=1.md\r\n\r\n# On",
		"--b\r\nContent-Disposition: form-data; name=files; filename=\"1\x00.md\"\r\n\r\n# One\r\n--b--\r\n",
		"--b\r\n" + strings.Repeat("X-A: b\r\n", 20_000) + "\r\n# One\r\n--b--\r\n"} {
		a := b.do("POST", "/missions/import", bad, "Content-Type", "multipart/form-data; boundary=b")
		if a.want(http.StatusBadRequest).wantText("Send the files again"); strings.Contains(string(a.body), "curl") {
			t.Errorf("%.80q: %s", bad, a.body)
		}
	}
	at := "/missions/" + missions.text("items.0.id")
	key = newID()
	again := upload(at+"/import", key, "shop/003-three.md", "# Three\n").want(http.StatusSeeOther)
	upload("/missions/"+idOf(ada.newMission("Other"))+"/import", key, "shop/003-three.md", "# Three\n").
		want(http.StatusUnprocessableEntity).wantText("already sent")
	report = again.header.Get("Location")
	b.get(report).want(http.StatusOK).wantText("1 new")
	s.browse(s.signUp("eve", "admin")).get(report).want(http.StatusNotFound)
}

func TestBoardIsLight(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Light")
	ada.importTar(mission, gzipped(tarOf(t, corpusLike(260, 1000)...)))
	ada.post(mission+"/start", nil).want(http.StatusOK)
	at := "/missions/" + idOf(mission)
	for _, step := range []string{"'blocked'", "'in_progress'", "'completed'"} {
		s.runSQL(`UPDATE spec_states SET status = ` + step + ` WHERE spec_id IN (
			SELECT spec_id FROM spec_states WHERE status = 'planned' ORDER BY unmet DESC, place LIMIT 50)`)
	}
	if _, err := s.db.Exec(t.Context(), recountSQL, idOf(mission)); err != nil {
		t.Fatal(err)
	}
	b := s.browse(ada)
	page := b.get(at).want(http.StatusOK)
	cards := strings.Count(string(page.body), `class="card `)
	if cards < 200 {
		t.Fatalf("the board has %d cards", cards)
	}
	size := 0
	for _, path := range append(regexp.MustCompile(`/assets/[^"]+`).FindAllString(string(page.body), -1), at) {
		size += len(b.get(path, "Accept-Encoding", "gzip").want(http.StatusOK).body)
	}
	if size > 60<<10 {
		t.Errorf("a board of %d cards takes %d bytes", cards, size)
	}
	t.Logf("a board of %d cards takes %d bytes", cards, size)
	more := regexp.MustCompile(`class="more" href="([^"]+)"`).FindSubmatch(page.body)
	if more == nil {
		t.Fatalf("there is no way to more cards: %s", page.body)
	}
	b.get(at + strings.ReplaceAll(string(more[1]), "&amp;", "&")).want(http.StatusOK).wantText(`<section id="waiting"`)
}

func TestPageOfALargeSpecIsBounded(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Large")
	const criteria = 20_000
	ada.newSpec(mission, "one", fields{"body": strings.Repeat("- [ ] a\n", criteria)})
	b := s.browse(ada)
	at := "/missions/" + idOf(mission)
	for _, path := range []string{at + "/specs/one", at + "?spec=one"} {
		page := b.get(path).want(http.StatusOK).wantText(fmt.Sprint("The text has all ", criteria))
		if n := bytes.Count(page.body, []byte(`<span class="box"`)); n != shownCriteria || len(page.body) > 80*criteria {
			t.Errorf("%s lists %d criteria in %d bytes", path, n, len(page.body))
		}
	}
	impatient := startTestServer(t, s.config.DatabaseURL, nil, func(s *Server) { s.acquireTimeout = 5 * time.Second })
	eventually(t, "the feed to begin, which forgets what is kept", func() bool {
		return impatient.feed.polledAt.Load() > 0
	})
	b = impatient.browse(ada)
	b.get(at + "/specs/one").want(http.StatusOK) // its text is kept from here on
	most := max(1, s.config.DatabaseMaxConns/4)
	for range most {
		if _, err := impatient.reads.Take(t.Context(), ratelimit.Share{Name: "costly", Most: most}); err != nil {
			t.Fatal(err)
		}
	}
	b.get(at + "/specs/one").want(http.StatusServiceUnavailable) // to show it waits for a turn
	b.get(at + "/specs/one/edit").want(http.StatusOK)            // where it is shown as it is
}

func TestPagesFollowTheirStreamsWithTheCookie(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Live")
	ada.patch(mission, fields{"review": "human"}).want(http.StatusOK)
	ada.newSpec(mission, "one", nil)
	spec, token := ada.claim(mission, "bot")
	b := s.browse(ada)
	follow := func(path string) *bufio.Scanner {
		page := b.get(path).want(http.StatusOK)
		found := regexp.MustCompile(`data-follow="([^"]+)" data-after="(\d+)"`).FindSubmatch(page.body)
		if found == nil {
			t.Fatalf("the page follows nothing: %s", page.body)
		}
		address := s.url() + string(found[1]) + "?after=" + string(found[2])
		r, err := http.NewRequestWithContext(t.Context(), "GET", address, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", "text/event-stream")
		r.Header.Set("Cookie", b.cookie)
		response, err := unredirected.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { response.Body.Close() })
		return bufio.NewScanner(response.Body)
	}
	board, needs := follow("/missions/"+idOf(mission)), follow("/needs-you")
	ada.post(spec+"/complete", fields{"lease_token": token}).want(http.StatusOK)
	for board.Scan() && !strings.Contains(board.Text(), "spec.submitted") {
	}
	for needs.Scan() && !strings.Contains(needs.Text(), "waits for your review") {
	}
	b.submit("/logout").leadsTo("/login")
	for _, lines := range []*bufio.Scanner{board, needs} {
		for lines.Scan() {
		} // until the session's end ends the stream
		if lines.Err() != nil {
			t.Error(lines.Err())
		}
	}
}

// BenchmarkBoard reads boards of missions of two sizes, as a person first sees them
// and filtered by a tag.
func BenchmarkBoard(b *testing.B) {
	for _, specs := range []int{1000, 100_000} {
		s := newGrownServer(b, filling{specs: specs, beside: 100})
		page := s.browse(s.by["owner"])
		page.hasty = true
		for _, mission := range []string{s.wide, s.chain} {
			for _, query := range []string{"", "?tag=tenth"} {
				name := fmt.Sprintf("%d specs/%s%s", specs, map[bool]string{true: "wide", false: "chain"}[mission == s.wide], query)
				b.Run(name, func(b *testing.B) {
					for b.Loop() {
						page.get("/missions/" + idOf(mission) + query).want(http.StatusOK)
					}
				})
			}
		}
	}
}

// A page gives reasons where somebody waits for the spec to be ready, and nowhere else.
func TestPageSaysWhyASpecIsntReady(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	b, mission := s.browse(ada), ada.newMission("Draft")
	for _, status := range specStatuses {
		ada.newSpec(mission, "is-"+status, fields{"status": status})
		page := b.get("/missions/" + idOf(mission) + "/specs/is-" + status).want(http.StatusOK)
		why := strings.Contains(string(page.body), "Why it isn’t ready")
		if why != strings.Contains(string(page.body), "<li>The mission is draft.</li>") ||
			why != (status == "planned" || status == "blocked") {
			t.Errorf("of one that is %s it says why: %v", status, why)
		}
	}
}

func TestHostileTextStaysText(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "admin")
	const evil = `"><script>alert(1)</script><img src=x onerror="alert(1)">' javascript:alert(1) {{.}}`
	mission := ada.newMission(evil)
	ada.newSpec(mission, "spec", fields{"title": evil, "phase": evil, "tags": []string{`"><img src=x onerror=y>`},
		"body": evil + "\n\n[a](javascript:alert(1)) ![b](data:text/html,x)\n\n- [ ] " + evil + "\n"})
	ada.post(mission+"/start", nil).want(http.StatusOK)
	ada.claim(mission, `<script>alert(1)</script>`)
	decided := ada.newSpec(mission, "decided", fields{"status": "testing", "body": "- [ ] " + evil})
	ada.post(decided+"/status", fields{"status": "completed", "notes": evil, "override": evil}).want(http.StatusOK)
	at := "/missions/" + idOf(mission)
	b := s.browse(ada)
	for _, path := range []string{"/", at, at + "?spec=spec", at + "?tag=" + url.QueryEscape(evil[:60]),
		at + "/specs/spec", at + "/specs/decided", at + "/specs/spec/edit", at + "/settings", "/needs-you", "/login?next=/%22%3E%3Cscript%3E"} {
		page := string(b.get(path).want(http.StatusOK).body)
		for _, tag := range []string{"<script>", "<img src=x", "href=\"javascript:", "href=\"data:text"} {
			if strings.Contains(page, tag) {
				t.Errorf("%s has %s in it", path, tag)
			}
		}
	}
}

// columnOf is the heading and the keys of the cards of a column.
func (a *answer) columnOf(id string) (heading, keys string) {
	a.t.Helper()
	_, section, found := strings.Cut(string(a.body), `<section id="`+id+`"`)
	if !found {
		return "", ""
	}
	section, _, _ = strings.Cut(section, "</section>")
	heading = regexp.MustCompile(`<h2[^>]*>(.*?)</h2>`).FindStringSubmatch(section)[1]
	for _, key := range regexp.MustCompile(`<li id="c-([^"]+)"`).FindAllStringSubmatch(section, -1) {
		keys += " " + key[1]
	}
	return regexp.MustCompile(`<[^>]*>`).ReplaceAllString(heading, ""), strings.TrimSpace(keys)
}

func TestBoardShowsEverySpecInItsColumn(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Board")
	at := "/missions/" + idOf(mission)
	b := s.browse(ada)
	b.get(at).want(http.StatusOK).wantText("There are no specs yet", `action="`+at+`/import"`)
	for _, status := range specStatuses {
		ada.newSpec(mission, strings.ReplaceAll(status, "_", "-"), fields{"status": status, "tags": []string{"all"}})
	}
	ada.newSpec(mission, "held", fields{"priority": 9, "phase": "Phase 1"})
	ada.newSpec(mission, "open", fields{"dependencies": []string{"held"}, "tags": []string{"all"}})
	b.get(at).want(http.StatusOK).wantText("The mission is draft: nothing is handed out.")
	ada.post(mission+"/start", nil).want(http.StatusOK)
	ada.claim(mission, "bot-1")
	for query, want := range map[string][]string{
		"": {"Needs you 3", "blocked in-review proposed", "Waiting 1", "open", "Ready 1", "planned",
			"Working 3", "held in-progress testing", "Done 2", "completed deferred"},
		"?tag=all&status=planned": {"", "", "Waiting 1", "open", "Ready 1", "planned", "", "", "", ""},
		"?agent=bot-1":            {"Needs you 0", "", "Waiting 0", "", "Ready 0", "", "Working 1", "held", "Done 0", ""},
		"?q=held":                 {"Needs you 0", "", "Waiting 0", "", "Ready 0", "", "Working 1", "held", "Done 0", ""},
		"?phase=Phase+1&tag=none": {"Needs you 0", "", "Waiting 0", "", "Ready 0", "", "Working 0", "", "Done 0", ""},
		"?column=done":            {"", "", "", "", "", "", "", "", "Done 2", "completed deferred"},
	} {
		a := b.get(at + query).want(http.StatusOK)
		var got []string
		for _, kind := range boardColumns {
			heading, keys := a.columnOf(kind.ID)
			sorted := strings.Fields(keys)
			slices.Sort(sorted)
			got = append(got, heading, strings.Join(sorted, " "))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", query, got, want)
		}
	}
	b.get(at+"?tag=all").wantText(`<a href="?"`, "Tag: all")
	b.get(at + "?phase=Phase+2").wantText("No spec fits this filter.").wantNoText("Nobody is at work")
	b.get(at + "?status=nothing").want(http.StatusUnprocessableEntity)
	b.get(at + "?q=&tag=&phase=&agent=&status=").want(http.StatusOK) // a form sends what is left empty
	b.get("/?status=").want(http.StatusOK)
	b.get(at+"?spec=open&tag=all").want(http.StatusOK).
		wantText("It depends on held, which is in_progress.", `href="?spec=held&amp;tag=all"`, `name="back"`)
	b.get(at + "?spec=nothing").want(http.StatusNotFound)
	b.get("/needs-you").want(http.StatusOK).
		wantText("<title>(3) Needs you", "in-review", "blocked", "Approve", "Unblock", "Accept")
}

func TestPeopleDecideOnPages(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	b, bot := s.browse(ada), ada.withKey("write")
	mission := ada.newMission("Decide")
	at := "/missions/" + idOf(mission)
	ada.patch(mission, fields{"review": "human"}).want(http.StatusOK)
	ada.newSpec(mission, "one", nil)
	ada.newSpec(mission, "found", fields{"status": "proposed"})
	ada.post(mission+"/start", nil).want(http.StatusOK)
	claimed := bot.post(mission+"/claim", fields{"agent": "bot"}).want(http.StatusOK)
	spec, token := "/api/v1/specs/"+claimed.text("spec.id"), claimed.text("lease.token")
	question := bot.post(spec+"/questions", fields{"lease_token": token, "question": "Red or https://example.com/blue?",
		"options": []string{"red", "blue"}}).want(http.StatusCreated).text("id")
	b.get(at).wantText("1 question")
	b.get("/needs-you").wantText("Red or", `href="https://example.com/blue"`, `value="blue"`)
	b.submit("/questions/"+question+"/answer", "answer", "", "answer", "blue", "back", at+"?spec=one").
		leadsTo(at + "?spec=one")
	b.submit("/questions/"+question+"/answer", "answer", "red").want(http.StatusConflict).wantText("takes no answer")
	bot.post(spec+"/complete", fields{"lease_token": token, "notes": "It is blue.", "links": []fields{
		{"kind": "pull_request", "ref": "https://example.com/shop/pull/7"}}}).want(http.StatusOK)
	version := fmt.Sprint(ada.get(spec).number("version"))
	b.get(at).wantText(`href="https://example.com/shop/pull/7"`, ">#7</a>")
	b.get(at+"/specs/one").wantText("It is blue.", "blue</p>", "Approve", "Send back", `value="`+version+`"`)
	b.submit(at+"/specs/one/review", "verdict", "reject", "if_match", version).want(http.StatusUnprocessableEntity).
		wantText("must say what is missing")
	ada.post(mission+"/logs", fields{"entries": []fields{{"level": "info", "message": "x", "spec_id": idOf(spec)}}}).
		want(http.StatusCreated) // which changes no spec
	b.submit(at+"/specs/one/review", "verdict", "approve", "if_match", "1").want(http.StatusPreconditionFailed).
		wantText("bot was faster")
	b.submit(at+"/specs/one/review", "verdict", "approve", "notes", "Good.", "if_match", version).
		leadsTo(at + "/specs/one")
	b.get(at+"/specs/one").wantText("Approved", "by ada", "Good.")
	b.submit(at+"/specs/found/status", "status", "planned", "if_match", "1", "back", "/needs-you").leadsTo("/needs-you")
	b.get("/needs-you").wantText("Nothing is waiting for you.")
}

// What nobody can decide any more, and what is asked for in two ways.
func TestNeedsYouShowsWhatCanBeDecidedOnce(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	b := s.browse(ada)
	over, mission := ada.newActive("Over"), ada.newActive("Parked")
	ada.newSpec(over, "left", fields{"status": "proposed"})
	b.get("/needs-you").wantText("left", "<title>(1) ")
	ada.post(over+"/cancel", nil).want(http.StatusOK)
	b.get("/needs-you").wantText("Nothing is waiting for you.")
	b.get("/").wantText("<title>Missions")

	ada.newSpec(mission, "one", nil)
	spec, token := ada.claim(mission, "bot")
	ada.post(spec+"/questions", fields{"lease_token": token, "question": "Which?", "park": true}).want(http.StatusCreated)
	b.get("/needs-you").wantText("Which?", "<title>(1) ")
}

// What others decide doesn't hide what one can: it is looked for where one may.
func TestNeedsYouLooksWhereOneMayDecide(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, eve := s.signUp("ada", "user"), s.signUp("eve", "user")
	theirs, hers := ada.newActive("Theirs"), eve.newActive("Hers")
	ada.put(theirs+"/members", fields{"email": eve.user.Email, "role": "viewer"}).want(http.StatusOK)
	for _, who := range []struct {
		decides *client
		mission string
		each    int
	}{{eve, hers, 1}, {ada, theirs, 51}} {
		for i := range who.each {
			name := who.decides.user.Name
			who.decides.newSpec(who.mission, fmt.Sprint("asked-", i), nil)
			spec, token := who.decides.claim(who.mission, "bot")
			who.decides.post(spec+"/questions", fields{"lease_token": token, "question": "Which, " + name + "?", "park": true}).
				want(http.StatusCreated)
			blocked := who.decides.newSpec(who.mission, fmt.Sprint(name, "-blocked-", i), nil)
			who.decides.post(blocked+"/status", fields{"status": "blocked"}).want(http.StatusOK)
		}
	}
	s.browse(eve).get("/needs-you").wantText("<title>(2) ", "eve-blocked-0", "Which, eve?").wantNoText("ada")
}

// A row has what its decision is made by, for those who may decide.
func TestNeedsYouShowsWhatADecisionIsMadeBy(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, eve := s.signUp("ada", "user"), s.signUp("eve", "user")
	mission := ada.newActive("Decide")
	ada.put(mission+"/members", fields{"email": eve.user.Email, "role": "viewer"}).want(http.StatusOK)
	ada.patch(mission, fields{"review": "human"}).want(http.StatusOK)
	ada.newSpec(mission, "found", fields{"status": "proposed",
		"body": "Nobody has " + strings.Repeat("thought ", 100) + "of it."})
	ada.newSpec(mission, "one", fields{"priority": 9, "body": "## Acceptance Criteria\n\n- [ ] a\n"})
	spec, token := ada.claim(mission, "bot-1")
	ada.post(spec+"/complete", fields{"lease_token": token, "notes": "It is blue.", "override": "No printer.",
		"links": []fields{{"kind": "pull_request", "ref": "https://example.com/shop/pull/7"}}}).want(http.StatusOK)
	ada.newSpec(mission, "two", nil)
	spec, token = ada.claim(mission, "bot-2")
	ada.post(spec+"/fail", fields{"lease_token": token, "reason": "No compiler.", "retry": false}).want(http.StatusOK)
	at := "/missions/" + idOf(mission)
	s.browse(ada).get("/needs-you").wantText("<title>(3) ", "Nobody has thought", "…</p>",
		"bot-1:</span> It is blue.", "open:</b> No printer.", ">#7</a>", "bot-2:</span> No compiler.").wantNoText("of it.")
	b := s.browse(eve)
	b.get("/needs-you").wantText("Nothing is waiting for you.", "<title>Needs you")
	b.get(at).wantText("<title>Decide", "Needs you <span class=\"count\">3")
}

// A board says why nothing is handed out although there is something ready.
func TestBoardSaysThatReviewIsFull(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Full")
	ada.patch(mission, fields{"review": "human", "max_in_review": 1}).want(http.StatusOK)
	ada.newSpec(mission, "one", nil)
	ada.newSpec(mission, "two", nil)
	at, b := "/missions/"+idOf(mission), s.browse(ada)
	b.get(at).wantText("Nobody is at work").wantNoText("nothing is handed out")
	b.get(at + "?spec=one").wantNoText("handed out")
	spec, token := ada.claim(mission, "bot")
	ada.post(spec+"/complete", fields{"lease_token": token}).want(http.StatusOK)
	b.get(at).wantText("nothing is handed out until some are reviewed").wantNoText("Nobody is at work")
	b.get(at+"?spec=two").wantText("Why it isn’t handed out", "nothing is handed out until some are reviewed")
}

func TestFilterMayLeaveNoColumn(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	at := "/missions/" + idOf(ada.newActive("Board"))
	b := s.browse(ada)
	for _, query := range []string{"?column=done&status=planned", "?column=ready&hide=planned",
		"?column=done&status=planned&q=x"} {
		if a := b.get(at + query).want(http.StatusOK); strings.Contains(string(a.body), `class="column"`) {
			t.Errorf("%s has a column", query)
		}
	}
}

// What a form is refused for is said in the words of the page.
func TestProblemsSpeakOfWhatThePageShows(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	b := s.browse(ada)
	mission := ada.newMission("Words")
	at := "/missions/" + idOf(mission)
	ada.newSpec(mission, "open", fields{"status": "in_progress", "body": "# Open\n\n## Acceptance Criteria\n\n- [ ] a\n"})
	ada.newSpec(mission, "review", fields{"status": "in_review"})
	key := newID()
	b.submit("/missions", "name", "One", keyField, key).want(http.StatusSeeOther)
	for _, test := range []struct {
		path   string
		fields []string
		says   []string
	}{
		{"/missions", []string{"name", ""}, []string{"accepted.<", "<strong>Name</strong> is required"}},
		{"/missions", []string{"name", "Two", keyField, key}, []string{"<strong>This form</strong> was already sent"}},
		{at + "/specs", []string{"key", "new", "title", "New", "priority", "5", "dependencies", "open, nope"},
			[]string{"<strong>Depends on, entry 2</strong> isn&#39;t the id or key of a spec"}},
		{at + "/specs/review/review", []string{"verdict", "reject"},
			[]string{"<strong>Note</strong> must say what is missing"}},
		{at + "/specs/open/status", []string{"status", "completed"},
			[]string{"say why they stay open", "Why criteria stay open"}},
		{at + "/settings", []string{"max_in_review", "-1"}, []string{"<strong>Limit of specs in review</strong> must be"}},
		{at + "/members", []string{"email", "ada@example.com", "role", "editor"},
			[]string{"<strong>E-mail</strong> belongs to the owner<"}},
		{"/account/password", []string{"current_password", "wrong", "new_password", testPassword},
			[]string{"<strong>Current password</strong> is wrong"}},
	} {
		a := b.submit(test.path, test.fields...).wantText(append(test.says, `role="alert"`)...)
		_, alert, _ := strings.Cut(string(a.body), `role="alert"`)
		alert, _, _ = strings.Cut(alert, "</div>")
		if found := regexp.MustCompile(`see errors|override|[a-z]+_[a-z]|PATCH|Idempotency`).FindString(alert); found != "" {
			t.Errorf("%s says %q: %s", a.what, found, alert)
		}
	}
	ada.post("/api/v1/missions", fields{"name": ""}).wantProblem(http.StatusUnprocessableEntity, "validation_failed")
}

// templates are the texts of the pages, by their files.
func templates(t *testing.T) map[string]string {
	t.Helper()
	found := make(map[string]string)
	for _, pattern := range []string{"web/*.html", "web/shared/*.html"} {
		files, err := fs.Glob(webFiles, pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, file := range files {
			content, err := webFiles.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			found[file] = string(content)
		}
	}
	return found
}

// formElement finds a form: its attributes, and what is in it.
var formElement = regexp.MustCompile(`(?s)<form([^>]*)>(.*?)</form>`)

// Problems name the fields of forms by their labels.
func TestLabelsAreThoseOfTheForms(t *testing.T) {
	t.Parallel()
	label, name := regexp.MustCompile(`(?s)<label[^>]*>(.*?)</label>`), regexp.MustCompile(`\bname="(\w+)"`)
	seen := 0
	for file, content := range templates(t) {
		content = formElement.ReplaceAllStringFunc(content, func(form string) string {
			if strings.Contains(form, `method="post"`) {
				return form
			}
			return "" // a filter
		})
		for _, found := range label.FindAllStringSubmatch(content, -1) {
			field := name.FindStringSubmatch(found[1])
			if field == nil {
				t.Errorf("%s: the label %q has no field", file, found[1])
				continue
			}
			seen++
			text, _, _ := strings.Cut(found[1], "<")
			if says := pageLabels[field[1]]; says == "" || !strings.Contains(strings.ToLower(text), strings.ToLower(says)) {
				t.Errorf("%s: %s has the label %q, and problems call it %q", file, field[1], text, says)
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d labels are found", seen)
	}
}

// onceElsewhere are the forms whose responses aren't kept: those of the first four set a
// cookie, and the last shows a key, once.
var onceElsewhere = []string{"/login", "/register", "/logout", "/account/password", "/keys"}

// A double click is one step, whichever form it is.
func TestEveryFormIsDoneOnce(t *testing.T) {
	t.Parallel()
	for _, route := range newTestServer(t, nil).pages {
		path, isForm := strings.CutPrefix(route.pattern, "POST ")
		if isForm && slices.Contains(onceElsewhere, path) == (route.traits&takesKey != 0) {
			t.Errorf("%s: that it takes a key is %t", route.pattern, route.traits&takesKey != 0)
		}
	}
	seen := 0
	for file, content := range templates(t) {
		for _, form := range formElement.FindAllStringSubmatch(content, -1) {
			action := regexp.MustCompile(`method="post" action="([^"]*)"`).FindStringSubmatch(form[1])
			if action == nil {
				continue
			}
			seen++
			keyed := strings.Contains(form[2], `{{template "once"}}`)
			if slices.Contains(onceElsewhere, action[1]) == keyed {
				t.Errorf("%s: that the form of %s has a key is %t", file, action[1], keyed)
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d forms are found", seen)
	}
}

func TestAccountIsMadeOnce(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	b := s.browse(s.signUp("root", "admin"))
	const password = "the one password of bob"
	page := string(b.get("/users").want(http.StatusOK).body)
	_, page, _ = strings.Cut(page, `action="/users" `)
	key := regexp.MustCompile(`name="idempotency_key" value="([^"]+)"`).FindStringSubmatch(page)
	if key == nil {
		t.Fatalf("the form has no key: %s", page)
	}
	form := []string{"email", "bob@example.com", "password", password, "role", "user", keyField, key[1]}
	b.submit("/users", form...).leadsTo("/users")
	b.submit("/users", form...).leadsTo("/users")
	form[3] = "another password of bob"
	b.submit("/users", form...).want(http.StatusUnprocessableEntity).wantText("was already sent, with other values")
	b.submit("/login", "email", "bob@example.com", "password", password).leadsTo("/")

	b = s.browse(s.signUp("ann", "admin"))
	path, change := "/users/"+b.user.ID, []string{"password", password, keyField, newID()}
	b.submit(path, change...).leadsTo("/users")
	b.submit(path, change...).leadsTo("/users")
	var kept string
	err := s.db.QueryRow(t.Context(), `SELECT string_agg(encode(request, 'escape') || encode(body, 'escape'), ' ')
		FROM idempotency_keys`).Scan(&kept)
	asked := sha256.Sum256([]byte("POST " + path + "\n\n" + formOf("password", password)))
	if err != nil || !strings.Contains(kept, "ann@example.com") || strings.Contains(kept, "password") ||
		strings.Contains(kept, url.QueryEscape(password)) {
		t.Errorf("kept is %q (%v)", kept, err)
	}
	var guessable bool
	err = s.db.QueryRow(t.Context(), `SELECT bool_or(request = $1) FROM idempotency_keys`, asked[:]).Scan(&guessable)
	if err != nil || guessable {
		t.Errorf("passwords can be tried on what is kept of a form (%v)", err)
	}
}
