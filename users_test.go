package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"tachikoma/internal/argon2id"
)

func TestUsersAreListedInPages(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	admin := s.signUp("m-admin", "admin")
	want := []string{"m-admin@example.com"}
	for _, name := range []string{"zoe", "ada", "Bob", "carol"} {
		a := admin.post("/api/v1/users", map[string]any{"email": name + "@example.com",
			"password": testPassword, "role": "viewer", "name": "N. " + name}).
			want(http.StatusCreated)
		if a.text("role") != "viewer" || a.text("name") != "N. "+name ||
			a.text("email") != strings.ToLower(name)+"@example.com" {
			t.Errorf("got %s", a.body)
		}
		want = append(want, a.text("email"))
	}
	slices.Sort(want)
	var got []string
	cursor := ""
	for pages := 1; ; pages++ {
		a := admin.get("/api/v1/users?limit=2" + cursor).want(http.StatusOK)
		var page list[userView]
		a.into(&page)
		for _, u := range page.Items {
			got = append(got, u.Email)
		}
		if strings.Contains(string(a.body), "argon2") {
			t.Errorf("the list has hashes: %s", a.body)
		}
		if page.NextCursor == nil {
			break
		}
		if pages == 5 || len(page.Items) != 2 {
			t.Fatalf("page %d: %s", pages, a.body)
		}
		cursor = "&cursor=" + *page.NextCursor
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	admin.get("/api/v1/users?limit=0").wantFields("limit")
	admin.get("/api/v1/users?limit=201").wantFields("limit")
	admin.get("/api/v1/users?cursor=x&limit=x").wantFields("limit", "cursor")
	admin.get("/api/v1/api-keys" + strings.Replace(cursor, "&", "?", 1)).wantFields("cursor")
}

func TestNewAccountsAreChecked(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	admin := s.signUp("admin", "admin")
	create := func(email, password, name, role string) *answer {
		return admin.post("/api/v1/users", map[string]any{"email": email, "password": password, "name": name, "role": role})
	}
	create("nobody", "short", "two\nlines", "boss").wantFields("role", "email", "password", "name")
	create("ada@example.com", testPassword, "", "").wantFields("role")
	create("ada@example.com", testPassword, "", "user").want(http.StatusCreated)
	create("Ada@Example.com", testPassword, "", "user").wantProblem(http.StatusConflict, "email_taken")
	for _, email := range []string{"", "ada", "ada@", "@example.com", "Ada <a@example.com>", "a b@example.com",
		"a@example.com ",
		"a@example.com\u0085", "a\u200b@example.com", strings.Repeat("a", 250) + "@example.com"} {
		create(email, testPassword, "", "user").wantFields("email")
	}
	for _, name := range []string{"ada", "bob"} {
		s.anonymous().post("/api/v1/auth/register",
			registration(name)).wantProblem(http.StatusForbidden, "registration_closed")
	}
}

func TestAccountsAreChangedByAdmins(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	admin, ada := s.signUp("admin", "admin"), s.signUp("ada", "user")
	path := "/api/v1/users/" + ada.user.ID
	admin.patch(path, map[string]any{"role": "boss", "name": "", "password": "short"}).wantFields("role", "name",
		"password")
	admin.patch(path, map[string]any{"email": "new@example.com"}).wantFields("email")
	if a := admin.patch(path, map[string]any{}).want(http.StatusOK); a.text("role") != "user" || a.text("name") != "ada" {
		t.Errorf("an empty change: %s", a.body)
	}
	if a := admin.patch("/api/v1/users/"+strings.ToUpper(ada.user.ID), map[string]any{"role": "viewer",
		"name": "Ada"}).want(http.StatusOK); a.text("role") != "viewer" || a.text("name") != "Ada" {
		t.Errorf("got %s", a.body)
	}
	if a := ada.get("/api/v1/auth/me").want(http.StatusOK); a.text("role") != "viewer" {
		t.Errorf("got %s", a.body)
	}
	if a := ada.patch("/api/v1/auth/me", map[string]any{"name": "A. L."}).want(http.StatusOK); a.text("name") != "A. L." {
		t.Errorf("got %s", a.body)
	}
	ada.patch("/api/v1/auth/me", map[string]any{"name": " "}).wantFields("name")
	ada.patch("/api/v1/auth/me", map[string]any{"role": "admin"}).wantFields("role")
}

func TestAdminWhoSetsTheirOwnPasswordStaysSignedIn(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	admin := s.signUp("admin", "admin")
	other := s.logIn(admin.user.Email)
	admin.patch("/api/v1/users/"+admin.user.ID,
		map[string]any{"password": "another horse, another battery"}).want(http.StatusOK)
	admin.get("/api/v1/auth/me").want(http.StatusOK)
	other.get("/api/v1/auth/me").want(http.StatusUnauthorized)
}

func TestLastAdminStays(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "admin"), s.signUp("bob", "user")
	path := "/api/v1/users/" + ada.user.ID
	for _, change := range []map[string]any{{"role": "user"}, {"role": "viewer"}, {"disabled": true}, {"role": "user",
		"disabled": true}} {
		ada.patch(path, change).wantProblem(http.StatusConflict, "last_admin")
	}
	if a := ada.get("/api/v1/auth/me").want(http.StatusOK); a.text("role") != "admin" {
		t.Errorf("a refused change left %s", a.body)
	}
	ada.patch(path, map[string]any{"name": "Ada", "disabled": false, "role": "admin"}).want(http.StatusOK)

	ada.patch("/api/v1/users/"+bob.user.ID, map[string]any{"role": "admin", "disabled": true}).want(http.StatusOK)
	ada.patch(path, map[string]any{"role": "user"}).wantProblem(http.StatusConflict,
		"last_admin") // a disabled one doesn't count
	ada.patch("/api/v1/users/"+bob.user.ID, map[string]any{"disabled": false}).want(http.StatusOK)
	ada.patch(path, map[string]any{"role": "user"}).want(http.StatusOK)
	s.logIn(bob.user.Email).get("/api/v1/users").want(http.StatusOK)
}

func TestOfTwoAdminsThatDemoteEachOtherOneStays(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	one, two := startTestServer(t, database, nil), startTestServer(t, database, nil)
	ada := one.signUp("ada", "admin")
	bob := two.signUp("bob", "admin")
	both := []*client{ada, bob}
	for round := range 25 {
		answers := together(t, 2, func(i int) (*answer, error) {
			return both[i].try(t.Context(), "PATCH", "/api/v1/users/"+both[1-i].user.ID, map[string]any{"role": "user"})
		})
		stays := slices.IndexFunc(answers, func(a *answer) bool { return a.status == http.StatusOK })
		if stays < 0 || answers[1-stays].status == http.StatusOK {
			t.Fatalf("round %d: %s and %s", round, answers[0].body, answers[1].body)
		}
		switch other := answers[1-stays]; other.status {
		case http.StatusConflict:
			other.wantProblem(http.StatusConflict, "last_admin")
		default: // it came after the change
			other.wantProblem(http.StatusForbidden, "forbidden")
		}
		both[stays].patch("/api/v1/users/"+both[1-stays].user.ID, map[string]any{"role": "admin"}).want(http.StatusOK)
		both[1-stays].getUntil("/api/v1/users", http.StatusOK)
	}
}

func TestAdminOfTheConfigurationIsMadeAtStart(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	with := func(email, password string) func(*Config) {
		return func(c *Config) { c.AdminEmail, c.AdminPassword = email, password }
	}
	s := startTestServer(t, database, with("Root@Example.com", testPassword))
	root := s.logIn("root@example.com")
	if root.user.Role != "admin" || root.user.Email != "root@example.com" || root.user.Name != "root" {
		t.Errorf("got %+v", root.user)
	}
	s.anonymous().post("/api/v1/auth/register",
		registration("ada")).wantProblem(http.StatusForbidden, "registration_closed")
	root.patch("/api/v1/auth/me", map[string]any{"name": "Root"}).want(http.StatusOK)

	again := startTestServer(t, database, with("root@example.com", "another horse, another battery"))
	if root := again.logIn("root@example.com"); root.user.Name != "Root" { // with the first password
		t.Errorf("an account that is there was changed: %+v", root.user)
	}
}

func TestKeysAreShownOnce(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	made := ada.post("/api/v1/api-keys", map[string]any{"name": "ci", "scope": "write"}).want(http.StatusCreated)
	key := made.text("key")
	if !strings.HasPrefix(key, "tk_") || len(key) < 40 || !strings.HasPrefix(key, made.text("prefix")) ||
		len(made.text("prefix")) > 12 ||
		made.at("expires_at") != nil || made.at("last_used_at") != nil || made.text("scope") != "write" ||
		made.text("name") != "ci" {
		t.Errorf("got %s", made.body)
	}
	ada.withToken(key).get("/api/v1/auth/me").want(http.StatusOK)
	listed := ada.get("/api/v1/api-keys").want(http.StatusOK)
	if strings.Contains(string(listed.body), key) || listed.at("items.0.key") != nil ||
		listed.text("items.0.prefix") != made.text("prefix") {
		t.Errorf("got %s", listed.body)
	}
	listed.text("items.0.last_used_at") // is known by now
	var stored bool
	if err := s.db.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM api_keys k WHERE k::text LIKE '%' || $1 || '%')`,
		key).Scan(&stored); err != nil || stored {
		t.Errorf("the database has the key itself (%v)", err)
	}
}

func TestKeysAreChecked(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	create := func(name, scope string, expires any) *answer {
		return ada.post("/api/v1/api-keys", map[string]any{"name": name, "scope": scope, "expires_at": expires})
	}
	create("", "admin", nil).wantFields("name", "scope")
	create("ci", "read", "tomorrow").wantFields("expires_at")
	create("ci", "read", time.Now().Add(-time.Minute)).wantFields("expires_at")
	create("ci", "read", "9999-12-31T23:59:59Z").want(http.StatusCreated)
	if _, err := s.db.Exec(t.Context(), `INSERT INTO api_keys (id, user_id, name, scope, hash, prefix)
		SELECT gen_random_uuid(), $1, 'many', 'read', sha256(n::text::bytea), 'tk_' FROM generate_series(2, 100) n`, ada.user.ID); err != nil {
		t.Fatal(err)
	}
	create("ci", "read", nil).wantProblem(http.StatusConflict, "too_many_keys")
	seen := 0
	for path := "/api/v1/api-keys?limit=40"; path != ""; {
		a := ada.get(path).want(http.StatusOK)
		seen += len(a.at("items").([]any))
		path = ""
		if next := a.at("next_cursor"); next != nil {
			path = "/api/v1/api-keys?limit=40&cursor=" + next.(string)
		}
	}
	if seen != 100 {
		t.Errorf("%d keys are listed, want 100", seen)
	}
}

func TestExpiredKeysAreRefused(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	key := ada.post("/api/v1/api-keys", map[string]any{"name": "brief", "scope": "read",
		"expires_at": time.Now().Add(time.Second)}).
		want(http.StatusCreated).text("key")
	// It may be remembered while it is good, but not for longer.
	ada.withToken(key).getUntil("/api/v1/auth/me",
		http.StatusUnauthorized).wantProblem(http.StatusUnauthorized, "invalid_token")
}

func TestKeysOfOthersDoNotExist(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, admin := s.signUp("ada", "user"), s.signUp("admin", "admin")
	key := ada.withKey("read")
	id := ada.get("/api/v1/api-keys").text("items.0.id")
	remove := func(id string) *answer {
		return admin.do("DELETE", "/api/v1/api-keys/"+id, nil, "X-Request-Id", "the-same")
	}
	if theirs, missing := remove(id), remove(newID()); theirs.status != http.StatusNotFound ||
		!sameAnswer(theirs, missing) || !sameAnswer(theirs, remove("nothing")) {
		t.Errorf("got %d %s, and for none %d %s", theirs.status, theirs.body, missing.status, missing.body)
	}
	if n := len(admin.get("/api/v1/api-keys").at("items").([]any)); n != 0 {
		t.Errorf("%d keys of others are listed", n)
	}
	key.get("/api/v1/auth/me").want(http.StatusOK)
}

func TestNoKeyManagesKeysPasswordsOrUsers(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	admin := s.signUp("admin", "admin")
	key := admin.withKey("write")
	id := admin.get("/api/v1/api-keys").text("items.0.id")
	for _, refused := range []*answer{
		key.post("/api/v1/api-keys", map[string]any{"name": "more", "scope": "write"}),
		key.delete("/api/v1/api-keys/" + id),
		key.post("/api/v1/auth/change-password",
			map[string]any{"current_password": testPassword, "new_password": "another horse, another battery"}),
		key.patch("/api/v1/auth/me", map[string]any{"name": "Key"}),
		key.post("/api/v1/auth/logout", nil),
		key.post("/api/v1/users", map[string]any{"email": "x@example.com", "password": testPassword, "role": "admin"}),
		key.patch("/api/v1/users/"+admin.user.ID, map[string]any{"password": "another horse, another battery"}),
	} {
		refused.wantProblem(http.StatusForbidden, "forbidden")
	}
	key.get("/api/v1/users").want(http.StatusOK)
	key.newMission(fmt.Sprint("by key ", id))
}

func TestReadKeysOnlyRead(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Mine")
	key := ada.withKey("read")
	key.get(mission).want(http.StatusOK)
	key.do("HEAD", mission, nil).want(http.StatusOK)
	key.get("/api/v1/specs").want(http.StatusOK)
	key.patch(mission, map[string]any{"name": "Not mine"}).wantProblem(http.StatusForbidden, "forbidden")
	key.post(mission+"/start", nil).wantProblem(http.StatusForbidden, "forbidden")
	key.post("/api/v1/missions", map[string]any{"name": "Another"}).wantProblem(http.StatusForbidden, "forbidden")
	key.delete(mission).wantProblem(http.StatusForbidden, "forbidden")
	if a := ada.get(mission); a.text("name") != "Mine" || a.text("status") != "draft" {
		t.Errorf("got %s", a.body)
	}
}

func TestCheckPassword(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		email, password string
		want            []string
	}{
		{"ada@example.com", "correct horse battery", nil},
		{"ada@example.com", "aaaaaaaaaaaaaaa", nil},
		{"ada@example.com", "ééééééééééééééé", nil},
		{"ada@example.com", "éééééééééééééé", []string{"password too_short"}},
		{"ada@example.com", "", []string{"password too_short"}},
		{"ada@example.com", strings.Repeat("a", 1024), nil},
		{"ada@example.com", strings.Repeat("é", 513), []string{"password too_long"}},
		{"ada@example.com", "Ada@Example.COM", []string{"password same_as_email"}},
		{"ada.lovelace.1815@example.com", "ADA.lovelace.1815", []string{"password same_as_email"}},
		{"ada.lovelace.1815@example.com", "ada.lovelace.1816", nil},
	} {
		wantFields(t, checkPassword(test.email, test.password), test.want...)
	}
}

func TestWhoeverCannotWaitForAHashIsToldToComeBack(t *testing.T) {
	t.Parallel()
	e := wantProblem(t, asProblem(fmt.Errorf("signing in: %w: %w",
		argon2id.ErrBusy, context.Canceled)), http.StatusServiceUnavailable, "busy")
	if e.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}
