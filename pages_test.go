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

// inlineCode finds what a page's policy forbids: scripts and styles in the page
// itself, handlers of events, and addresses that are scripts.
var inlineCode = regexp.MustCompile(`(?i)<style|<script[^>]*>[^<]|\s(style|on[a-z]+)\s*=|javascript:`)

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
	if found := inlineCode.Find(a.body); found != nil {
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
	given := (&browser{t: t, base: s.url()}).do("POST", "/login", formOf("email", ada.user.Email, "password", testPassword),
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
			if _, err := s.db.Exec(t.Context(), `UPDATE sessions SET expires_at = clock_timestamp()`); err != nil {
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
	if a := b.get("/api/v1/nothing").want(http.StatusNotFound); a.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("a browser gets %v from the API", a.header)
	}
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
		method, path := c.at(route.pattern, c.mission)
		if method != http.MethodPost {
			continue
		}
		path = strings.ReplaceAll(path, "{key}", "first")
		for _, headers := range [][]string{
			{"Origin", "https://evil.example.com"}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"},
			{"Sec-Fetch-Site", "same-site"}, {"Origin", "http://127.0.0.1:1"},
		} {
			b.do("POST", path, "", headers...).want(http.StatusForbidden).wantText("another site")
		}
	}
	b.get("/").want(http.StatusOK)
}

func TestTry(t *testing.T) {
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	m := ada.newMission("Board")
	ada.newSpec(m, "first", fields{"body": "## Acceptance Criteria\n\n- [ ] one\n- [x] two\n"})
	ada.newSpec(m, "second", fields{"dependencies": []string{"first"}})
	b := s.browse(ada)
	id := idOf(m)
	for _, p := range []string{"/", "/missions/" + id, "/missions/" + id + "?spec=first&tag=x", "/missions/" + id + "/specs/second", "/missions/" + id + "/specs/second/edit", "/missions/" + id + "/new", "/missions/" + id + "/settings", "/needs-you"} {
		t.Logf("%s", b.get(p).want(200).body)
	}
}
