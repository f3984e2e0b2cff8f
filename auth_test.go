package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// withToken returns a client of the same server that uses another token.
func (c *client) withToken(token string) *client {
	return &client{t: c.t, base: c.base, token: token, user: c.user}
}

// in is the server for a subtest.
func (s *testServer) in(t *testing.T) *testServer { return &testServer{s.Server, t, s.ended, s.stop} }

// within looks until what it waits for is there, for at most as long as limit.
func within(limit time.Duration, look func() bool) bool {
	tick, end := time.NewTicker(5*time.Millisecond), time.After(limit)
	defer tick.Stop()
	for !look() {
		select {
		case <-tick.C:
		case <-end:
			return false
		}
	}
	return true
}

// getUntil asks until the answer has the status, for at most five seconds:
// longer than a change needs to reach every server, and much shorter than a
// credential is remembered.
func (c *client) getUntil(path string, status int) (a *answer) {
	c.t.Helper()
	if !within(5*time.Second, func() bool { a = c.get(path); return a.status == status }) {
		c.t.Fatalf("%s: still %d, want %d: %s", a.what, a.status, status, a.body)
	}
	return a
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
		"expired for a clock 50 s ahead":     with("exp", in(-50*time.Second)),
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

// What takes rights away holds at once on the server that does it, and soon on
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
