package main

// The pages of graphs, activity, agents and accounts.

import (
	"fmt"
	"net/http"
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
