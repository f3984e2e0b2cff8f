package main

// What pages show of missions, and of who works on them.

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

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
		page := b.get(path + "?around=" + around).want(http.StatusOK).wantText("A picture has at most 150.")
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
		"spec=gone": 0, "at=2": 2, "at=4611686018427387904": 9,
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
	s.browse(ada).get("/agents").want(http.StatusOK).wantText("No agent works on anything")
	spec, token := ada.claim(mission, "robin")
	ada.post(spec+"/progress", fields{"lease_token": token, "message": "Half of it works"}).want(http.StatusOK)
	for _, who := range []*client{ada, root} {
		s.browse(who).get("/agents").want(http.StatusOK).wantText("robin", "The first", "Busy", "Half of it works",
			"/specs/first", "by ada", "left")
	}
	s.browse(eve).get("/agents").want(http.StatusOK).wantText("No agent works on anything")
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
	page := b.get("/account").want(http.StatusOK).wantText("Ada &lt;b&gt;", "ada@example.com", "this one", "A program")
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
		want(http.StatusUnprocessableEntity).wantText("current password")
	b.submit("/account/password", "current_password", testPassword, "new_password", password).leadsTo("/account")
	if b.cookie == old {
		t.Error("the cookie isn't renewed")
	}
	b.get("/account").want(http.StatusOK)
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
	upload := func(path, key string, files ...string) *answer {
		var body bytes.Buffer
		form := multipart.NewWriter(&body)
		form.WriteField("idempotency_key", key)
		form.WriteField("name", "")
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
	report := upload("/missions/import", key, files...).want(http.StatusSeeOther).header.Get("Location")
	upload("/missions/import", key, files...).leadsTo(report)
	upload("/missions/import", key, files[:2]...).want(http.StatusUnprocessableEntity).wantText("already used")
	b.get(report).want(http.StatusOK).wantText("2 new", "passed over", "logo.png", "002-two.md", "Start it", "Delete it")
	missions := ada.get("/api/v1/missions")
	if missions.text("items.0.name") != "shop" || missions.text("items.0.status") != "draft" ||
		missions.at("items.1") != nil || missions.number("items.0.stats.total") != 2 {
		t.Errorf("made: %s", missions.body)
	}
	upload("/missions/import", newID(), "logo.png", "x").want(http.StatusUnprocessableEntity).wantText("no Markdown file")
	at := "/missions/" + missions.text("items.0.id")
	again := upload(at+"/import", newID(), "shop/003-three.md", "# Three\n").want(http.StatusSeeOther)
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
		if _, err := s.db.Exec(t.Context(), `UPDATE spec_states SET status = `+step+` WHERE spec_id IN (
			SELECT spec_id FROM spec_states WHERE status = 'planned' ORDER BY unmet DESC, place LIMIT 50)`); err != nil {
			t.Fatal(err)
		}
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

func TestPageFollowsItsStreamWithTheCookie(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Live")
	b := s.browse(ada)
	page := b.get("/missions/" + idOf(mission)).want(http.StatusOK)
	found := regexp.MustCompile(`data-follow="([^"]+)" data-after="(\d+)"`).FindSubmatch(page.body)
	if found == nil {
		t.Fatalf("the page follows nothing: %s", page.body)
	}
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.url()+string(found[1])+"?after="+string(found[2]), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	r.Header.Set("Cookie", b.cookie)
	response, err := unredirected.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	ada.newSpec(mission, "new", nil)
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() && !strings.Contains(lines.Text(), "spec.created") {
	}
	b.submit("/logout").leadsTo("/login")
	for lines.Scan() {
	} // until the session's end ends the stream
	if lines.Err() != nil {
		t.Error(lines.Err())
	}
}

// BenchmarkBoard reads boards of missions of two sizes, as a person first sees them
// and filtered by a tag.
func BenchmarkBoard(b *testing.B) {
	for _, specs := range []int{1000, 100_000} {
		s := newGrownServer(b, filling{specs: specs, beside: 100})
		page := s.browse(s.by["owner"])
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
	at := "/missions/" + idOf(mission)
	b := s.browse(ada)
	for _, path := range []string{"/", at, at + "?spec=spec", at + "?tag=" + url.QueryEscape(evil[:60]),
		at + "/specs/spec", at + "/specs/spec/edit", at + "/settings", "/needs-you", "/login?next=/%22%3E%3Cscript%3E"} {
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
	b.get(at).want(http.StatusOK).wantText("There is no spec yet", `action="`+at+`/import"`)
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
	b.get(at+"?tag=all").wantText(`<a href="?"`, "tag: all")
	b.get(at + "?status=nothing").want(http.StatusUnprocessableEntity)
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
	b.get(at).wantText("1 asked")
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
	b.submit(at+"/specs/one/review", "verdict", "approve", "if_match", "1").want(http.StatusPreconditionFailed).
		wantText("bot was faster")
	b.submit(at+"/specs/one/review", "verdict", "approve", "notes", "Good.", "if_match", version).
		leadsTo(at + "/specs/one")
	b.get(at+"/specs/one").wantText("Approved", "by ada", "Good.")
	b.submit(at+"/specs/found/status", "status", "planned", "if_match", "1", "back", "/needs-you").leadsTo("/needs-you")
	b.get("/needs-you").wantText("Nothing waits for you.")
}
