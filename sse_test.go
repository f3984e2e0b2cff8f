package main

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

// eventStream is a client of server-sent events.
type eventStream struct {
	t      testing.TB
	lines  *bufio.Scanner
	cancel context.CancelFunc
}

// stream opens a stream of events and ends the test unless it is accepted.
func (c *client) stream(path string, headers ...string) *eventStream {
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
	return &eventStream{c.t, lines, cancel}
}

// next returns the next event, or false at the end of the stream.
func (s *eventStream) next() (e event, ok bool) {
	s.t.Helper()
	id := ""
	for s.lines.Scan() {
		line := s.lines.Text()
		if value, is := strings.CutPrefix(line, "id: "); is {
			id = value
		}
		if value, is := strings.CutPrefix(line, "data: "); is {
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
func (s *eventStream) want(kind string, after int64) event {
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
		t.Error("who was removed got another event")
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

func TestNotificationsComeOnTheOwnStream(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	stream := bob.stream("/api/v1/events")
	mission := ada.newMission("Shared")
	ada.put(mission+"/members", map[string]any{"email": "bob@example.com", "role": "viewer"}).want(http.StatusOK)
	if e := stream.want("notification", 0); e.Actor.UserID == nil || *e.Actor.UserID != ada.user.ID {
		t.Errorf("got %+v", e)
	}
}
