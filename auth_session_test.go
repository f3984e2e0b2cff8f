package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// openedSession logs an account in and returns the whole session.
func (s *testServer) openedSession(email string) (session sessionView) {
	s.t.Helper()
	s.anonymous().post("/api/v1/auth/login", map[string]any{"email": email, "password": testPassword}).
		want(http.StatusOK).into(&session)
	return session
}

// refreshed spends a refresh token.
func (c *client) refreshed(token string) *answer {
	c.t.Helper()
	return c.post("/api/v1/auth/refresh", map[string]any{"refresh_token": token})
}

// spentEarlier moves the time at which a refresh token was spent into the past.
func (s *testServer) spentEarlier(token, by string) {
	s.t.Helper()
	if _, err := s.db.Exec(s.t.Context(), `UPDATE refresh_tokens SET spent_at = spent_at - $2::interval WHERE hash = $1`,
		hashToken(token), by); err != nil {
		s.t.Fatal(err)
	}
}

// logInFrom tries to log in from an address that a trusted proxy reports.
func (c *client) logInFrom(address, email, password string) *answer {
	c.t.Helper()
	return c.do("POST", "/api/v1/auth/login", map[string]any{"email": email, "password": password},
		"X-Forwarded-For", address, "X-Request-Id", "the-same")
}

// together makes n requests at once and returns their responses. It repeats those
// for which the server had no time.
func together(t *testing.T, n int, request func(i int) (*answer, error)) []*answer {
	t.Helper()
	answers, errs := make([]*answer, n), make([]error, n)
	start := make(chan struct{})
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() {
			<-start
			within(patience, func() bool {
				answers[i], errs[i] = request(i)
				return errs[i] != nil || !answers[i].overloaded()
			})
		})
	}
	close(start)
	running.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return answers
}

func registration(name string) map[string]any {
	return map[string]any{"email": name + "@example.com", "password": testPassword}
}

func TestFirstAccountBecomesAdmin(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	nobody := s.anonymous()
	nobody.post("/api/v1/auth/register", map[string]any{"email": "no", "password": "short",
		"name": strings.Repeat("x", 201)}).
		wantFields("email", "password", "name")
	a := nobody.post("/api/v1/auth/register",
		map[string]any{"email": "Ada@Example.com", "password": testPassword}).want(http.StatusCreated)
	var got sessionView
	a.into(&got)
	if u := got.User; u.Email != "ada@example.com" || u.Name != "ada" || u.Role != "admin" || u.Disabled ||
		u.CreatedAt.IsZero() || !validID(u.ID) {
		t.Errorf("got the account %+v", u)
	}
	if got.TokenType != "Bearer" || got.ExpiresIn != 900 || !strings.HasPrefix(got.RefreshToken, refreshPrefix) {
		t.Errorf("got the session %+v", got)
	}
	if strings.Contains(string(a.body), "hash") || strings.Contains(string(a.body), testPassword) {
		t.Errorf("the answer tells too much: %s", a.body)
	}
	nobody.withToken(got.AccessToken).get("/api/v1/users").want(http.StatusOK)
	nobody.post("/api/v1/auth/register", registration("bob")).wantProblem(http.StatusForbidden, "registration_closed")
	s.signUp("carol", "user") // an admin can
}

func TestRegistrationOpenAndClosed(t *testing.T) {
	t.Parallel()
	closed := newTestServer(t, func(c *Config) { c.Registration = "closed" })
	closed.anonymous().post("/api/v1/auth/register",
		registration("ada")).wantProblem(http.StatusForbidden, "registration_closed")

	open := newTestServer(t, func(c *Config) { c.Registration = "open" })
	for i, role := range []string{"admin", "user", "user"} {
		a := open.anonymous().post("/api/v1/auth/register", registration(fmt.Sprint("ada", i))).want(http.StatusCreated)
		if got := a.text("user.role"); got != role {
			t.Errorf("account %d is %s, want %s", i, got, role)
		}
	}
	open.anonymous().post("/api/v1/auth/register", registration("ADA1")).wantProblem(http.StatusConflict, "email_taken")
}

func TestFirstAccountOfAReachableServerNeedsTheSetupToken(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.Host = "0.0.0.0" })
	var console strings.Builder
	s.greet(t.Context(), &console)
	_, rest, _ := strings.Cut(console.String(), `"setup_token": "`)
	token, _, _ := strings.Cut(rest, `"`)
	with := func(name, token string) *answer {
		body := registration(name)
		body["setup_token"] = token
		return s.anonymous().post("/api/v1/auth/register", body)
	}
	with("ada", "").wantProblem(http.StatusForbidden, "setup_token_required")
	with("ada", "wrong").wantProblem(http.StatusForbidden, "setup_token_required")
	with("ada", token).want(http.StatusCreated)
	with("bob", token).wantProblem(http.StatusForbidden, "registration_closed")
	console.Reset()
	if s.greet(t.Context(), &console); strings.Contains(console.String(), token) {
		t.Error("the console still shows the token")
	}
}

// A proxy on this machine may send its own address as the Host.
func TestFirstAccountThroughAProxyNeedsTheSetupToken(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	from := func(addr string) *answer {
		return s.anonymous().do("POST", "/api/v1/auth/register", registration("ada"), "X-Forwarded-For", addr)
	}
	from("203.0.113.5").wantProblem(http.StatusForbidden, "setup_token_required")
	from("127.0.0.1").want(http.StatusCreated)
}

func TestOfFirstAccountsAtOnceExactlyOneWins(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	servers := []*testServer{startTestServer(t, database, nil), startTestServer(t, database, nil)}
	for round := range 10 {
		if _, err := servers[0].db.Exec(t.Context(), `DELETE FROM users`); err != nil {
			t.Fatal(err)
		}
		won := 0
		for _, a := range together(t, 4, func(i int) (*answer, error) {
			return servers[i%2].anonymous().try(t.Context(), "POST", "/api/v1/auth/register",
				registration(fmt.Sprint("first", i)))
		}) {
			if a.status == http.StatusCreated {
				won++
				continue
			}
			a.wantProblem(http.StatusForbidden, "registration_closed")
		}
		if won != 1 {
			t.Fatalf("round %d: %d first accounts", round, won)
		}
	}
}

func TestLogInTellsNothingAboutAccounts(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	admin, ada := s.signUp("admin", "admin"), s.signUp("ada", "user")
	wrong := s.anonymous().logInFrom("", ada.user.Email, "not the password at all").wantProblem(http.StatusUnauthorized,
		"invalid_credentials")
	admin.patch("/api/v1/users/"+admin.post("/api/v1/users", map[string]any{
		"email": "gone@example.com", "password": testPassword, "role": "user"}).text("id"),
		map[string]any{"disabled": true}).want(http.StatusOK)
	for name, email := range map[string]string{
		"unknown":       "nobody@example.com",
		"not an e-mail": "nobody",
		"empty":         "",
		"disabled":      "gone@example.com",
	} {
		if a := s.anonymous().logInFrom("", email, "not the password at all"); !sameAnswer(a, wrong) {
			t.Errorf("%s: %d %s, want the answer to a wrong password", name, a.status, a.body)
		}
	}
	s.anonymous().logInFrom("", "gone@example.com", testPassword).wantProblem(http.StatusForbidden, "account_disabled")
	s.anonymous().logInFrom("", "ADA@Example.Com", testPassword).want(http.StatusOK)
}

func TestPasswordRules(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	admin := s.signUp("admin", "admin")
	for name, tt := range map[string]struct {
		password string
		status   int
	}{
		"14 characters":            {strings.Repeat("é", 14), http.StatusUnprocessableEntity},
		"15 characters":            {strings.Repeat("é", 15), http.StatusCreated},
		"1024 bytes":               {strings.Repeat("x", 1024), http.StatusCreated},
		"1025 bytes":               {strings.Repeat("x", 1025), http.StatusUnprocessableEntity},
		"spaces count":             {"               ", http.StatusCreated},
		"the e-mail":               {"the-e-mail@example.com", http.StatusUnprocessableEntity},
		"the e-mail in upper case": {"THE-E-MAIL-IN-UPPER-CASE@EXAMPLE.COM", http.StatusUnprocessableEntity},
		"the part before the at":   {"the-part-before-the-at", http.StatusUnprocessableEntity},
	} {
		email := strings.ReplaceAll(name, " ", "-") + "@example.com"
		a := admin.post("/api/v1/users", map[string]any{"email": email, "password": tt.password, "role": "user"})
		if a.status != tt.status {
			t.Errorf("%s: %d, want %d: %s", name, a.status, tt.status, a.body)
		}
		if a.status == http.StatusUnprocessableEntity {
			a.wantFields("password")
		}
	}
}

func TestRefreshRotatesTheToken(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	session := s.openedSession(ada.user.Email)
	token := session.RefreshToken
	seen := map[string]bool{token: true}
	for range 3 {
		a := s.anonymous().refreshed(token).want(http.StatusOK)
		if token = a.text("refresh_token"); seen[token] {
			t.Fatal("a refresh token came twice")
		}
		seen[token] = true
		ada.withToken(a.text("access_token")).get("/api/v1/auth/me").want(http.StatusOK)
	}
	ada.withToken(session.AccessToken).get("/api/v1/auth/me").want(http.StatusOK) // the same session
	for _, wrong := range []string{"", "x", newSecret(refreshPrefix), session.AccessToken} {
		s.anonymous().refreshed(wrong).wantProblem(http.StatusUnauthorized, "invalid_token")
	}
}

func TestLostAnswerToARefreshIsNoTheft(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	token := s.openedSession(ada.user.Email).RefreshToken
	for round := range 8 {
		var next string
		for _, a := range together(t, 6, func(int) (*answer, error) {
			return s.anonymous().try(t.Context(), "POST", "/api/v1/auth/refresh", map[string]any{"refresh_token": token})
		}) {
			got := a.want(http.StatusOK).text("refresh_token")
			if next == "" {
				next = got
			}
			if got != next || got == token {
				t.Fatalf("round %d: repeats got different successors", round)
			}
		}
		token = next
	}
}

// A client that timed out after 30 s, or whose database failed over, asks again.
func TestRefreshGetsTheSameSuccessorForAMinute(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	token := s.openedSession(ada.user.Email).RefreshToken
	first := s.anonymous().refreshed(token).want(http.StatusOK).text("refresh_token")
	for _, later := range []string{"30 s", "5 s"} {
		s.spentEarlier(token, later)
		if again := s.anonymous().refreshed(token).want(http.StatusOK).text("refresh_token"); again != first {
			t.Errorf("%s later the successor is another one", later)
		}
	}
	s.anonymous().refreshed(first).want(http.StatusOK)
	s.anonymous().refreshed(token).wantProblem(http.StatusUnauthorized, "token_reused") // it has been used
}

func TestReusedRefreshTokenEndsTheSession(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	for name, spend := range map[string]func(token string) (newest string){
		"its successor was used": func(token string) string {
			second := s.anonymous().refreshed(token).want(http.StatusOK).text("refresh_token")
			return s.anonymous().refreshed(second).want(http.StatusOK).text("refresh_token")
		},
		"it was spent over a minute ago": func(token string) string {
			second := s.anonymous().refreshed(token).want(http.StatusOK).text("refresh_token")
			s.spentEarlier(token, "61 s")
			return second
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			session := s.openedSession(ada.user.Email)
			newest := spend(session.RefreshToken)
			s.anonymous().refreshed(session.RefreshToken).wantProblem(http.StatusUnauthorized, "token_reused")
			ada.withToken(session.AccessToken).get("/api/v1/auth/me").wantProblem(http.StatusUnauthorized, "invalid_token")
			for _, token := range []string{newest, session.RefreshToken} {
				s.anonymous().refreshed(token).wantProblem(http.StatusUnauthorized, "invalid_token")
			}
			ada.get("/api/v1/auth/me").want(http.StatusOK) // the other session goes on
		})
	}
}

func TestEndedSessionsCannotBeRefreshed(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	admin := s.signUp("admin", "admin")
	for name, end := range map[string]func(user *client, session sessionView){
		"logout": func(user *client, session sessionView) {
			user.withToken(session.AccessToken).post("/api/v1/auth/logout", nil).want(http.StatusNoContent)
		},
		"disabled": func(user *client, _ sessionView) {
			admin.patch("/api/v1/users/"+user.user.ID, map[string]any{"disabled": true}).want(http.StatusOK)
		},
		"disabled and enabled": func(user *client, _ sessionView) {
			for _, disabled := range []bool{true, false} {
				admin.patch("/api/v1/users/"+user.user.ID, map[string]any{"disabled": disabled}).want(http.StatusOK)
			}
		},
		"expired": func(user *client, _ sessionView) {
			if _, err := s.db.Exec(t.Context(), `UPDATE sessions SET expires_at = clock_timestamp() WHERE user_id = $1`,
				user.user.ID); err != nil {
				t.Error(err)
			}
		},
	} {
		user := s.signUp(strings.ReplaceAll(name, " ", "-"), "user")
		session := s.openedSession(user.user.Email)
		end(user, session)
		if a := s.anonymous().refreshed(session.RefreshToken); a.status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}

func TestLogoutEndsOneSession(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	one := s.signUp("ada", "user")
	two := s.logIn(one.user.Email)
	one.post("/api/v1/auth/logout", map[string]any{}).want(http.StatusNoContent)
	one.get("/api/v1/auth/me").want(http.StatusUnauthorized)
	two.get("/api/v1/auth/me").want(http.StatusOK)
}

func TestChangingThePasswordEndsAllOtherSessions(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	own, other := s.openedSession(ada.user.Email), s.openedSession(ada.user.Email)
	key := ada.withKey("write")
	c := ada.withToken(own.AccessToken)
	change := func(current, wanted string) *answer {
		return c.post("/api/v1/auth/change-password", map[string]any{"current_password": current, "new_password": wanted})
	}
	const next = "another horse, another battery"
	change("not my password", next).wantFields("current_password")
	change(testPassword, "short").wantFields("new_password")
	change(testPassword, ada.user.Email).wantFields("new_password")
	change(testPassword, next).want(http.StatusNoContent)

	c.get("/api/v1/auth/me").want(http.StatusOK)
	s.anonymous().refreshed(own.RefreshToken).want(http.StatusOK)
	ada.get("/api/v1/auth/me").wantProblem(http.StatusUnauthorized, "invalid_token")
	s.anonymous().refreshed(other.RefreshToken).wantProblem(http.StatusUnauthorized, "invalid_token")
	key.get("/api/v1/auth/me").want(http.StatusOK)
	bob.get("/api/v1/auth/me").want(http.StatusOK)
	s.anonymous().logInFrom("", ada.user.Email, testPassword).wantProblem(http.StatusUnauthorized, "invalid_credentials")
	s.anonymous().logInFrom("", ada.user.Email, next).want(http.StatusOK)
}

// A login that was checked against the old password must neither bring it
// back nor open a session that outlives the change.
func TestLogInLosesAgainstAPasswordChangeInBetween(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"password": `UPDATE users SET password_hash = $2 WHERE id = $1`,
		"disabled": `UPDATE users SET disabled = true WHERE id = $1 AND $2 <> ''`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTestServer(t, nil)
			ada := s.signUp("ada", "user")
			hash, err := s.hasher.Hash(t.Context(), "another horse, another battery")
			if err != nil {
				t.Fatal(err)
			}
			tx, err := s.db.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
			if _, err := tx.Exec(t.Context(), change, ada.user.ID, hash); err != nil {
				t.Fatal(err)
			}
			answers := make(chan *answer, 1)
			go func() {
				defer close(answers)
				if a, err := s.anonymous().try(t.Context(), "POST", "/api/v1/auth/login",
					map[string]any{"email": ada.user.Email, "password": testPassword}); err == nil {
					answers <- a
				}
			}()
			s.waitForALock()
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			a, ok := <-answers
			if !ok {
				t.Fatal("no answer")
			}
			a.wantProblem(http.StatusUnauthorized, "invalid_credentials")
			var stored string
			if err := s.db.QueryRow(t.Context(), `SELECT password_hash FROM users WHERE id = $1`,
				ada.user.ID).Scan(&stored); err != nil {
				t.Fatal(err)
			}
			if name == "password" && stored != hash {
				t.Error("the old password is back")
			}
		})
	}
}

// waitForALock returns once a statement in this server's database waits for a
// lock that another one holds.
func (s *testServer) waitForALock() {
	s.t.Helper()
	var err error
	if !within(patience, func() (waiting bool) {
		err = s.db.QueryRow(s.t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0)`).Scan(&waiting)
		return waiting || err != nil
	}) || err != nil {
		s.t.Fatal("nothing waits for a lock:", err)
	}
}

func behindProxy(c *Config) {
	c.AuthRateLimit = 3
	c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
}

func TestAccountAllowsOnlySoManyFailedLogIns(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, behindProxy)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	nobody, address := s.anonymous(), 0
	attempt := func(email, password string) *answer { // each from an address of its own
		t.Helper()
		address++
		return nobody.logInFrom(fmt.Sprint("198.51.100.", address), email, password)
	}
	for range 8 { // successful logins don't count
		attempt(bob.user.Email, testPassword).want(http.StatusOK)
	}
	var refusals []*answer
	for _, email := range []string{ada.user.Email, "nobody@example.com"} {
		for range 3 {
			attempt(email, "not the password at all").wantProblem(http.StatusUnauthorized, "invalid_credentials")
		}
		refused := attempt(email, "not the password at all").wantProblem(http.StatusTooManyRequests, "rate_limited")
		if seconds, err := strconv.Atoi(refused.header.Get("Retry-After")); err != nil || seconds < 1 || seconds > 20 {
			t.Errorf("Retry-After: %q", refused.header.Get("Retry-After"))
		}
		refusals = append(refusals, refused)
	}
	if !sameAnswer(refusals[0], refusals[1]) {
		t.Errorf("an account and no account can be told apart: %v %s, %v %s",
			refusals[0].header, refusals[0].body, refusals[1].header, refusals[1].body)
	}
	attempt(ada.user.Email, testPassword).wantProblem(http.StatusTooManyRequests,
		"rate_limited") // guessed right, too late
	attempt(bob.user.Email, testPassword).want(http.StatusOK)
	s.logIn(ada.user.Email) // from an address that ada has logged in from
}

func TestGuessesOfTheCurrentPasswordCountAsFailedLogIns(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, behindProxy)
	ada := s.signUp("ada", "user")
	guess := map[string]any{"current_password": "not my password", "new_password": "another horse, another battery"}
	for range 3 {
		ada.post("/api/v1/auth/change-password", guess).wantFields("current_password")
	}
	ada.post("/api/v1/auth/change-password", guess).wantProblem(http.StatusTooManyRequests, "rate_limited")
	s.anonymous().logInFrom("198.51.100.1", ada.user.Email, testPassword).wantProblem(http.StatusTooManyRequests,
		"rate_limited")
}

func TestFailedLogInsAtOnceCannotOutrunTheLimit(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, behindProxy)
	failed := 0
	for _, a := range together(t, 12, func(i int) (*answer, error) {
		return s.anonymous().try(t.Context(), "POST", "/api/v1/auth/login",
			map[string]any{"email": "ada@example.com",
				"password": "not the password at all"}, "X-Forwarded-For", fmt.Sprint("198.51.100.", i))
	}) {
		if a.status == http.StatusUnauthorized {
			failed++
			continue
		}
		a.wantProblem(http.StatusTooManyRequests, "rate_limited")
	}
	if failed != 3 {
		t.Errorf("%d attempts were looked at, want 3", failed)
	}
}

func TestAddressMayAskPublicAuthRoutesOnlySoOften(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, behindProxy)
	ada := s.signUp("ada", "user") // from 127.0.0.1
	from := func(address, route string) *answer {
		return s.anonymous().do("POST", "/api/v1/auth/"+route, "{", "X-Forwarded-For", address)
	}
	for i, route := range []string{"login", "refresh", "register"} { // they share the limit
		a := from("198.51.100.1", route).wantProblem(http.StatusBadRequest, "malformed_json")
		if a.header.Get("RateLimit-Limit") != "3" || a.header.Get("RateLimit-Remaining") != strconv.Itoa(2-i) {
			t.Errorf("request %d: %v", i, a.header)
		}
	}
	a := from("198.51.100.1", "login").wantProblem(http.StatusTooManyRequests, "rate_limited")
	for name, most := range map[string]int{"RateLimit-Remaining": 0, "RateLimit-Reset": 60, "Retry-After": 20} {
		if n, err := strconv.Atoi(a.header.Get(name)); err != nil || n < 0 || n > most {
			t.Errorf("%s: %q, want at most %d", name, a.header.Get(name), most)
		}
	}
	from("203.0.113.9, 198.51.100.1", "login").want(http.StatusTooManyRequests) // what the client adds doesn't help
	from("198.51.100.2", "login").want(http.StatusBadRequest)
	ada.do("GET", "/api/v1/auth/me", nil, "X-Forwarded-For", "198.51.100.1").want(http.StatusOK)
}

func TestPasswdSetsAPasswordBesideRunningServers(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	s := startTestServer(t, database, nil)
	ada := s.signUp("ada", "user")
	session := s.openedSession(ada.user.Email)
	ada.get("/api/v1/auth/me").want(http.StatusOK)
	getenv := func(name string) string {
		return map[string]string{"DATABASE_URL": database, "LOG_LEVEL": "error"}[name]
	}
	passwd := func(email, password string) error {
		return run(t.Context(), []string{"passwd", email}, getenv, strings.NewReader(password), io.Discard, t.Output())
	}
	const next = "another horse, another battery"
	if err := passwd("nobody@example.com", next); err == nil || !strings.Contains(err.Error(), "nobody@example.com") {
		t.Errorf("unknown account: %v", err)
	}
	if err := passwd(ada.user.Email, "short\n"); err == nil || strings.Contains(err.Error(), "short\n") {
		t.Errorf("short password: %v", err)
	}
	ada.get("/api/v1/auth/me").want(http.StatusOK)
	if err := passwd("ADA@example.com", next+"\r\n"); err != nil {
		t.Fatal(err)
	}
	ada.getUntil("/api/v1/auth/me", http.StatusUnauthorized)
	s.anonymous().refreshed(session.RefreshToken).wantProblem(http.StatusUnauthorized, "invalid_token")
	s.anonymous().logInFrom("", ada.user.Email, testPassword).wantProblem(http.StatusUnauthorized, "invalid_credentials")
	s.anonymous().logInFrom("", ada.user.Email, next).want(http.StatusOK) // hashed at this server's cost
	s.anonymous().logInFrom("", ada.user.Email, next).want(http.StatusOK)
}
