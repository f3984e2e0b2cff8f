package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// streamClient is a client of server-sent events.
type streamClient struct {
	t      testing.TB
	lines  *bufio.Scanner
	cancel context.CancelFunc
}

// stream opens a stream of events and ends the test unless it is accepted.
func (c *client) stream(path string, headers ...string) *streamClient {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	r, err := http.NewRequestWithContext(ctx, "GET", c.base+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+c.token)
	r.Header.Set("Accept", "text/event-stream")
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		c.t.Fatalf("%s: status %d", path, response.StatusCode)
	}
	c.t.Cleanup(func() {
		cancel()
		response.Body.Close()
	})
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	return &streamClient{c.t, lines, cancel}
}

// next returns the next event, or false at the end of the stream.
func (s *streamClient) next() (e event, ok bool) {
	s.t.Helper()
	id := ""
	for s.lines.Scan() {
		line := s.lines.Text()
		if value, is := strings.CutPrefix(line, "id: "); is {
			id = value
		}
		if value, is := strings.CutPrefix(line, "data: "); is {
			checkMessage(s.t, "Event", []byte(value), true)
			if err := json.Unmarshal([]byte(value), &e); err != nil {
				s.t.Fatal(err)
			}
			if id == "" {
				s.t.Fatalf("an event without an id: %s", value)
			}
			return e, true
		}
	}
	return e, false
}

// want reads events until one of a type, and checks that none is missing.
func (s *streamClient) want(kind string, after int64) event {
	s.t.Helper()
	for {
		e, ok := s.next()
		if !ok {
			s.t.Fatalf("the stream ended before %s", kind)
		}
		if after++; e.Seq != after {
			s.t.Fatalf("got seq %d, want %d", e.Seq, after)
		}
		if e.Type == kind {
			return e
		}
	}
}

func TestStreamTellsAMissionsStoryLive(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	mission := ada.newMission("Live")
	stream := ada.stream(mission + "/events")
	stream.want("mission.created", 0)
	ada.newSpec(mission, "one", nil)
	ada.put(mission+"/members", map[string]any{"email": "bob@example.com", "role": "viewer"}).want(http.StatusOK)
	set := stream.want("member.set", 1)

	guest := bob.stream(mission+"/events", "Last-Event-ID", "1")
	guest.want("member.set", 1)
	ada.delete(mission + "/members/" + bob.user.ID).want(http.StatusNoContent)
	guest.want("member.removed", set.Seq)
	if _, ok := guest.next(); ok {
		t.Error("a removed member got another event")
	}

	ada.delete(mission).want(http.StatusNoContent)
	stream.want("mission.deleted", set.Seq)
	if _, ok := stream.next(); ok {
		t.Error("an event came after the end")
	}
}

func TestStreamEndsWithTheCredentialAndTheServer(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Ends")
	stream := ada.stream(mission + "/events?after=latest")
	other := s.logIn("ada@example.com").stream(mission + "/events?after=latest")
	ada.post("/api/v1/auth/logout", nil).want(http.StatusNoContent)
	if _, ok := stream.next(); ok {
		t.Error("a stream outlived its session")
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if _, ok := other.next(); ok {
		t.Error("a stream outlived the server")
	}
}

// A client that catches up after it was removed is cut off at the event that gave
// it access, and a deleted mission ends the stream.
func TestCatchingUpEndsWithThePermissionAndTheMission(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	mission := ada.newMission("Long")
	ada.put(mission+"/members", map[string]any{"email": "bob@example.com", "role": "viewer"}).want(http.StatusOK)
	ada.delete(mission + "/members/" + bob.user.ID).want(http.StatusNoContent)
	ada.newSpec(mission, "secret", nil)
	check := func(who *client, want string) {
		stream := s.streamFromTheStart(who, idOf(mission))
		var got []string
		for line := range strings.Lines(stream.Body.String()) {
			var e event
			if data, is := strings.CutPrefix(line, "data: "); is && json.Unmarshal([]byte(data), &e) == nil {
				got = append(got, e.Type)
			}
		}
		if len(got) == 0 || got[len(got)-1] != want {
			t.Errorf("the last of %v isn't %s", got, want)
		}
		if !stream.deadline.IsZero() {
			t.Error("a deadline is left, at which HTTP/2 would end the stream")
		}
	}
	check(bob, "member.set")
	ada.delete(mission).want(http.StatusNoContent)
	check(ada, "mission.deleted")
}

// streamRecorder is a ResponseWriter that knows its write deadline.
type streamRecorder struct {
	*httptest.ResponseRecorder
	deadline time.Time
}

func (r *streamRecorder) SetWriteDeadline(t time.Time) error {
	r.deadline = t
	return nil
}

// streamFromTheStart follows a stream for an account that was admitted long ago.
func (s *testServer) streamFromTheStart(who *client, stream string) *streamRecorder {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	r, c := httptest.NewRequestWithContext(ctx, "GET", "/", nil), &call{account: account{userID: who.user.ID}}
	var head int64
	if err := s.db.QueryRow(ctx, `SELECT seq FROM heads WHERE stream = $1`, stream).Scan(&head); err != nil {
		s.t.Fatal(err)
	}
	w := &streamRecorder{ResponseRecorder: httptest.NewRecorder()}
	if err := s.streamEvents(w, r, c, &follower{topic: &topicName{Stream: stream}}, head); err != nil {
		s.t.Fatal(err)
	}
	return w
}

// An admin sees every mission, and stops seeing them with the role.
func TestStreamEndsWithTheRole(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	root, deputy := s.signUp("root", "admin"), s.signUp("deputy", "admin")
	stream := deputy.stream(s.signUp("ada", "user").newMission("Private") + "/events")
	stream.want("mission.created", 0)
	root.patch("/api/v1/users/"+deputy.user.ID, map[string]any{"role": "user"}).want(http.StatusOK)
	if _, ok := stream.next(); ok {
		t.Error("got another event")
	}
}

// A HEAD request ends after the header.
func TestHeadOfAStreamDoesNotFollowIt(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	a := ada.do("HEAD", ada.newMission("Head")+"/events", nil, "Accept", "text/event-stream").want(http.StatusOK)
	if got := a.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("got %s", got)
	}
}

// A follower whose head was read before events that a waiting claim already knows
// of gets them without waiting for the next one: by itself or from the pump.
func TestFollowerGetsWhatCameBeforeItsTopic(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Late")
	_, _, stop := s.hub.watch(idOf(mission))
	defer stop()
	ada.newSpec(mission, "one", nil)
	ready := make(chan struct{}, 1)
	f := &follower{topic: &topicName{Stream: idOf(mission)}, queue: newQueue(10, func() { trySend(ready) }), last: 1}
	s.hub.follow(f, 1)
	defer s.hub.unfollow(f)
	if !s.hub.caughtUp(f) {
		return // it reads the database first
	}
	select {
	case <-ready:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
	}
}

func TestNotificationsComeOnTheOwnStream(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	stream := bob.stream("/api/v1/events")
	mission := ada.newMission("Shared")
	ada.put(mission+"/members", map[string]any{"email": "bob@example.com", "role": "viewer"}).want(http.StatusOK)
	ada.get("/api/v1/missions/"+ada.user.ID+"/events").wantProblem(http.StatusNotFound, "not_found")
	if e := stream.want("notification", 0); e.Actor.UserID == nil || *e.Actor.UserID != ada.user.ID {
		t.Errorf("got %+v", e)
	}
}

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

// mute keeps notifications from leaving a database, like a pooler that can't
// LISTEN: servers that connect from now on find another pg_notify.
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

// What is done on one server takes effect on another one: within a second if they
// notify each other, and within two if they only poll.
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
