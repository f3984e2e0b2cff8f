package main

// Servers that share a database, with and without word of each other.
// TACHIKOMA_LONG=1 makes tests of live events long.

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// long reports whether tests may take minutes.
func long() bool { return os.Getenv("TACHIKOMA_LONG") != "" }

// patience is how long a test waits for what should happen soon.
const patience = time.Minute

// waitingClaim starts a claim that waits, and returns when the server waits
// for it. The channel has its answer.
func waitingClaim(t *testing.T, as *client, mission string) <-chan *answer {
	t.Helper()
	answered := make(chan *answer, 1)
	go func() {
		a, err := as.try(context.Background(), "POST", mission+"/claim", map[string]any{"agent": "bot", "wait_seconds": 50})
		if err != nil {
			a = &answer{t: t, what: err.Error()}
		}
		answered <- a
	}()
	eventually(t, "a claim waits", func() bool { // the profile of goroutines shows its handler
		profile := as.get("/internal/debug/pprof/goroutine?debug=1").want(http.StatusOK)
		return strings.Contains(string(profile.body), ".claimSpec+")
	})
	return answered
}

// mute keeps notifications from leaving a database, as a pooler does that
// can't LISTEN: servers that connect from now on find another pg_notify.
func mute(t testing.TB, databaseURL string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `
		CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE sql AS '';
		DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database()); END $$`); err != nil {
		t.Fatal(err)
	}
}

// What is done on one server holds on another one: within a second where they
// hear of each other, and within two where they only poll.
func TestServersKeepInStepWithAndWithoutListen(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]time.Duration{"listen": time.Second, "poll": 2 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			databaseURL := newTestDatabase(t)
			if name == "poll" {
				mute(t, databaseURL)
			}
			here, there := startTestServer(t, databaseURL, behindProxy), startTestServer(t, databaseURL, behindProxy)
			ada := here.signUp("ada", "admin")
			mission := ada.newMission("Shared")
			ada.post(mission+"/start", nil).want(http.StatusOK)
			// within measures until something done here shows there, with some
			// seconds more for a busy machine.
			within := func(what string, done func() bool) {
				t.Helper()
				start := time.Now()
				eventually(t, what, done)
				if took := time.Since(start); took > limit+5*time.Second {
					t.Errorf("%s after %v", what, took)
				} else {
					t.Logf("%s after %v", what, took)
				}
			}

			session := there.logIn(ada.user.Email)
			session.get(mission).want(http.StatusOK)
			(&client{t: t, base: here.url(), token: session.token}).post("/api/v1/auth/logout", nil).want(http.StatusNoContent)
			within("a session has ended", func() bool { return session.get(mission).status == http.StatusUnauthorized })

			key := ada.post("/api/v1/api-keys", map[string]any{"name": "k", "scope": "write"}).want(http.StatusCreated)
			agent := &client{t: t, base: there.url(), token: key.text("key")}
			admin := there.logIn(ada.user.Email)
			answered := waitingClaim(t, admin, mission)
			ada.newSpec(mission, "one", nil)
			within("a claim that waits gets its spec", func() bool {
				select {
				case a := <-answered:
					a.want(http.StatusOK)
					return true
				default:
					return false
				}
			})

			agent.get(mission).want(http.StatusOK)
			ada.delete("/api/v1/api-keys/" + key.text("id")).want(http.StatusNoContent)
			within("a key has ended", func() bool { return agent.get(mission).status == http.StatusUnauthorized })

			for i := range 5 { // three failures are one account's, wherever they are made
				c, want := []*client{here.anonymous(), there.anonymous()}[i%2], http.StatusUnauthorized
				if i >= 3 {
					want = http.StatusTooManyRequests
				}
				c.logInFrom(fmt.Sprint("198.51.100.", i), "nobody@example.com", "not the password at all").want(want)
			}
		})
	}
}
