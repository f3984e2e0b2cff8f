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

	"github.com/golang-jwt/jwt/v5"
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
	brief := ada.withKey("read")
	s.runSQL("UPDATE api_keys SET expires_at = clock_timestamp() + interval '1 second'")
	// It may be remembered while it is good, but not for longer.
	brief.getUntil("/api/v1/auth/me",
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

func TestAccessTokensAreCheckedStrictly(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "admin")
	good := func() jwt.MapClaims {
		claims := jwt.MapClaims{}
		if _, _, err := jwt.NewParser().ParseUnverified(ada.token, claims); err != nil {
			t.Fatal(err)
		}
		return claims
	}
	signed := func(method jwt.SigningMethod, key any, claims jwt.Claims) string {
		token, err := jwt.NewWithClaims(method, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	with := func(name string, value any) string {
		claims := good()
		claims[name] = value
		if value == nil {
			delete(claims, name)
		}
		return signed(jwt.SigningMethodHS256, s.secret, claims)
	}
	parts := strings.Split(ada.token, ".")
	bobs := strings.Split(bob.token, ".")
	in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }

	for name, token := range map[string]string{ // they, and all that follow, differ in one thing
		"another id":                         with("jti", "another"),
		"expired for a clock 20 s ahead":     with("exp", in(-20*time.Second)),
		"not yet good for a clock 50 s late": with("nbf", in(50*time.Second)),
		"issued in the future":               with("iat", in(time.Hour)),
		"issued nobody says when":            with("iat", nil),
		"expiry with a fraction":             with("exp", float64(in(time.Hour))+0.5),
	} {
		if a := ada.withToken(token).get("/api/v1/auth/me"); a.status != http.StatusOK {
			t.Errorf("%s: got %d %s, want 200", name, a.status, a.body)
		}
	}
	for name, tt := range map[string]struct{ token, code string }{
		"expired":                  {with("exp", in(-time.Minute-time.Second)), "token_expired"},
		"no expiry":                {with("exp", nil), "invalid_token"},
		"not yet good":             {with("nbf", in(2*time.Minute)), "invalid_token"},
		"not before, as a string":  {with("nbf", fmt.Sprint(in(-time.Hour))), "invalid_token"},
		"other audience":           {with("aud", "somebody-else"), "invalid_token"},
		"no audience":              {with("aud", nil), "invalid_token"},
		"other issuer":             {with("iss", "somebody-else"), "invalid_token"},
		"no issuer":                {with("iss", nil), "invalid_token"},
		"no session":               {with("sid", nil), "invalid_token"},
		"session that isn't an id": {with("sid", "x"), "invalid_token"},
		"unknown session":          {with("sid", newID()), "invalid_token"},
		"somebody else's session":  {with("sub", bob.user.ID), "invalid_token"},
		"no subject":               {with("sub", nil), "invalid_token"},
		"expiry in words":          {with("exp", "tomorrow"), "invalid_token"},
		"expiry as a string":       {with("exp", fmt.Sprint(in(time.Hour))), "invalid_token"},
		"expiry in a list":         {with("exp", []int64{in(time.Hour)}), "invalid_token"},
		"other key": {signed(jwt.SigningMethodHS256, []byte(strings.Repeat("k",
			32)), good()), "invalid_token"},
		"other algorithm": {signed(jwt.SigningMethodHS512, s.secret, good()), "invalid_token"},
		"no algorithm": {signed(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good()),
			"invalid_token"},
		"no signature":        {parts[0] + "." + parts[1] + ".", "invalid_token"},
		"payload exchanged":   {parts[0] + "." + bobs[1] + "." + parts[2], "invalid_token"},
		"signature exchanged": {parts[0] + "." + parts[1] + "." + bobs[2], "invalid_token"},
		"padded":              {ada.token + "=", "invalid_token"},
		"more parts":          {ada.token + ".x", "invalid_token"},
		"not a token":         {"x", "invalid_token"},
		"unknown API key":     {newSecret(keyPrefix), "invalid_token"},
		"API key cut off":     {keyPrefix, "invalid_token"},
	} {
		a := ada.withToken(tt.token).get("/api/v1/auth/me")
		if a.status != http.StatusUnauthorized || a.text("code") != tt.code || a.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: got %d %v %s, want 401 %s", name, a.status, a.header, a.body, tt.code)
		}
	}
	for header, want := range map[string]int{
		"":                    http.StatusUnauthorized,
		ada.token:             http.StatusUnauthorized,
		"Bearer":              http.StatusUnauthorized,
		"Basic " + ada.token:  http.StatusUnauthorized,
		"bearer " + ada.token: http.StatusOK, // RFC 9110, 11.1: the scheme's case doesn't count
	} {
		if a := s.anonymous().do("GET", "/api/v1/auth/me", nil, "Authorization", header); a.status != want {
			t.Errorf("Authorization %q: %d, want %d", header, a.status, want)
		}
	}
	ada.get("/api/v1/auth/me").want(http.StatusOK)
}

func TestServersShareTheSigningKey(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	one, two := startTestServer(t, database, nil), startTestServer(t, database, nil)
	other := startTestServer(t, database, func(c *Config) { c.JWTSecret = []byte(strings.Repeat("s", 32)) })
	ada := one.signUp("ada", "user")
	two.anonymous().withToken(ada.token).get("/api/v1/auth/me").want(http.StatusOK)
	other.anonymous().withToken(ada.token).get("/api/v1/auth/me").wantProblem(http.StatusUnauthorized, "invalid_token")
	key := ada.withKey("read") // isn't signed
	other.anonymous().withToken(key.token).get("/api/v1/auth/me").want(http.StatusOK)
}

// Taking rights away takes effect at once on the server that does it, and soon on
// every other.
func TestRevocationHoldsOnEveryServer(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	here, there := startTestServer(t, database, nil), startTestServer(t, database, nil)
	admin := here.signUp("admin", "admin")
	const newPassword = "another horse, another battery"
	setUser := func(user *client, field string, value any) {
		user.withToken(admin.token).patch("/api/v1/users/"+user.user.ID, map[string]any{field: value}).want(http.StatusOK)
	}
	// Each revokes what the victim uses; user is the same account, signed in another time.
	tests := map[string]struct {
		scope  string // of the key that the victim uses; "": a session
		revoke func(user, victim *client, refreshToken string)
	}{
		"logout": {revoke: func(_, victim *client, _ string) {
			victim.post("/api/v1/auth/logout", nil).want(http.StatusNoContent)
		}},
		"password changed elsewhere": {revoke: func(user, _ *client, _ string) {
			user.post("/api/v1/auth/change-password",
				map[string]any{"current_password": testPassword, "new_password": newPassword}).want(http.StatusNoContent)
		}},
		"password set by an admin": {revoke: func(user, _ *client, _ string) { setUser(user, "password", newPassword) }},
		"account disabled":         {revoke: func(user, _ *client, _ string) { setUser(user, "disabled", true) }},
		"key of a disabled account": {scope: "write", revoke: func(user, _ *client, _ string) {
			setUser(user, "disabled", true)
		}},
		"key deleted": {scope: "read", revoke: func(user, _ *client, _ string) {
			user.delete("/api/v1/api-keys/" + user.get("/api/v1/api-keys").text("items.0.id")).want(http.StatusNoContent)
		}},
		"refresh token stolen": {revoke: func(_, victim *client, first string) {
			second := victim.refreshed(first).want(http.StatusOK).text("refresh_token")
			victim.refreshed(second).want(http.StatusOK)
			victim.refreshed(first).wantProblem(http.StatusUnauthorized, "token_reused")
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			here, there := here.in(t), there.in(t)
			user := here.signUp(strings.ReplaceAll(name, " ", "-"), "user")
			session := here.openedSession(user.user.Email)
			victim := user.withToken(session.AccessToken)
			if tt.scope != "" {
				victim = user.withKey(tt.scope)
			}
			far := there.anonymous().withToken(victim.token)
			victim.get("/api/v1/auth/me").want(http.StatusOK)
			far.get("/api/v1/auth/me").want(http.StatusOK)
			tt.revoke(user, victim, session.RefreshToken)
			victim.get("/api/v1/auth/me").wantProblem(http.StatusUnauthorized, "invalid_token")
			far.getUntil("/api/v1/auth/me", http.StatusUnauthorized)
		})
	}
	t.Run("role changed", func(t *testing.T) {
		t.Parallel()
		here, there := here.in(t), there.in(t)
		user := here.signUp("climber", "user")
		far := there.anonymous().withToken(user.token)
		for _, role := range []string{"user", "admin", "viewer"} {
			setUser(user, "role", role)
			status := http.StatusForbidden
			if role == "admin" {
				status = http.StatusOK
			}
			user.get("/api/v1/users").want(status)
			far.getUntil("/api/v1/users", status)
		}
	})
}

func TestRoleChangeKeepsTheSession(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	admin, user := s.signUp("admin", "admin"), s.signUp("user", "user")
	user.newMission("Mine")
	admin.patch("/api/v1/users/"+user.user.ID, map[string]any{"role": "viewer"}).want(http.StatusOK)
	user.post("/api/v1/missions", map[string]any{"name": "Another"}).wantProblem(http.StatusForbidden, "forbidden")
	user.get("/api/v1/missions").want(http.StatusOK)
}
