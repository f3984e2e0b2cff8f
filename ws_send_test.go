//go:build !nows

package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// logs adds log events with messages of so many bytes each.
func (c *client) logs(mission string, n, bytes int) {
	c.t.Helper()
	entries := make([]any, n)
	for i := range entries {
		entries[i] = map[string]any{"level": "info", "message": strings.Repeat("x", bytes)}
	}
	c.post(mission+"/logs", map[string]any{"entries": entries}).want(http.StatusCreated)
}

// What two sockets have to get at once is encoded once.
func TestFollowersShareTheFramesOfTheirEvents(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Shared")
	var followers []*follower
	woken := make(chan struct{}, 2)
	for range 2 {
		f := &follower{topic: &topicName{Topic: "mission", MissionID: idOf(mission), Stream: idOf(mission)}, last: 1,
			queue: newQueue(100, func() { woken <- struct{}{} })}
		s.hub.follow(f, 1)
		defer s.hub.unfollow(f)
		followers = append(followers, f)
	}
	ada.logs(mission, 3, 100)
	var frames [][]byte
	for _, f := range followers {
		<-woken
		batches, err := f.queue.take()
		if err != nil || len(batches) != 1 || len(batches[0].events) != 3 {
			t.Fatalf("got %v, %v", batches, err)
		}
		frames = append(frames, eventsFrame(batches))
	}
	if &frames[0][0] != &frames[1][0] {
		t.Error("each has a frame of its own")
	}
}

// A client with the default limit of many libraries can read all but events that
// are larger by themselves.
func TestMessagesOfEventsHaveAtMost32KiB(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	conn := s.openSocket("Bearer " + ada.token)
	conn.SetReadLimit(32 << 10)
	hearFrame(t, conn)
	mission := ada.newMission("Large")
	subscribe := `{"type":"subscribe","topic":"mission","mission_id":"` + idOf(mission) + `","after":1}`
	if got := say(t, conn, subscribe); got["type"] != "ack" {
		t.Fatalf("got %v", got)
	}
	seq := int64(1)
	for _, bytes := range []int{1, 700, 777, 1500, 4000, 7900} { // which fill frames in different ways
		ada.logs(mission, 100, bytes)
		for want := seq + 100; seq < want; {
			for _, e := range hearFrame(t, conn).Events {
				if seq++; e.Seq != seq {
					t.Fatalf("got seq %d, want %d", e.Seq, seq)
				}
			}
		}
	}
}

// A client that pings while it doesn't read gets whole frames all the same, with
// the pongs between them, and every event.
func TestPongsStandBetweenTheFramesOfASlowClient(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user").withKey("write")
	mission := ada.newMission("Pinged")
	conn := s.dialRaw(t, ada.token)
	if err := conn.SetReadBuffer(16 << 10); err != nil {
		t.Fatal(err)
	}
	s.sockets.mu.Lock()
	for c := range s.sockets.open {
		_ = c.wire.Conn.(*net.TCPConn).SetWriteBuffer(16 << 10)
	}
	s.sockets.mu.Unlock()
	subscribe := `{"type":"subscribe","topic":"mission","mission_id":"` + idOf(mission) + `"}`
	_, _ = io.WriteString(conn, masked(finText, subscribe))
	const batches, events = 8, 50
	for range batches {
		ada.logs(mission, events, 2000) // in all more than the buffers take
		_, _ = io.WriteString(conn, masked(controlPing, "between"))
	}
	seq, pongs := int64(0), 0
	for seq < 1+batches*events || pongs < batches {
		head, payload, err := conn.frame()
		switch {
		case err != nil:
			t.Fatalf("after event %d and %d pongs: %v", seq, pongs, err)
		case head == controlPing+1 && payload == "between":
			pongs++
		case head == finText:
			var f frame
			if err := json.Unmarshal([]byte(payload), &f); err != nil {
				t.Fatalf("after event %d: %v", seq, err)
			}
			for _, e := range f.Events {
				if seq++; e.Seq != seq {
					t.Fatalf("got seq %d, want %d", e.Seq, seq)
				}
			}
		default:
			t.Fatalf("a frame %x %.40q", head, payload)
		}
	}
}
