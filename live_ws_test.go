//go:build !nows

package main

import (
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"tachikoma/internal/witness"
)

// A tenth of many WebSockets on one mission doesn't read. The others get
// everything all the same, memory stays bounded, and the slow ones are cut off
// and resume without loss.
func TestSlowSocketsCostTheOthersNothing(t *testing.T) { // not beside others: it measures memory
	sockets := 200
	if long() {
		sockets = 1000
	}
	const batches, perBatch, perSocket = 6, 50, 64 << 10 // the last: bytes by which the heap may grow
	s := newTestServer(t, func(c *Config) { c.WSQueue, c.WSMaxPerAccount = 2*perBatch, 2*sockets })
	ada := s.signUp("ada", "user").withKey("write")
	bob := s.signUp("bob", "user") // who doesn't read
	mission := ada.newMission("Crowded")
	ada.put(mission+"/members", map[string]any{"email": bob.user.Email, "role": "viewer"}).want(http.StatusOK)
	narrow := &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 16<<10) })
	}}).DialContext}}
	release := make(chan struct{})
	as := func(c *client) func() (base, token string) {
		return func() (base, token string) { return c.base, c.token }
	}
	var fast, slow []*witness.Witness
	for i := range sockets {
		r := &witness.Witness{T: t, Name: fmt.Sprint("socket ", i), Mission: mission, Server: as(ada), Follow: witness.BySocket}
		if i%10 == 0 {
			r.Server, r.Follow = as(bob), witness.OverSocket(narrow, release)
			slow = append(slow, r)
		} else {
			fast = append(fast, r)
		}
		r.Start(t.Context())
	}
	all := func(readers []*witness.Witness, seq int64) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d sockets have event %d", len(readers), seq), func() bool {
			for _, r := range readers {
				if r.Seen() < seq && !t.Failed() {
					return false
				}
			}
			return true
		})
	}
	eventually(t, "all have subscribed", func() bool {
		s.hub.mu.Lock()
		defer s.hub.mu.Unlock()
		topic := s.hub.topics[idOf(mission)]
		return topic != nil && len(topic.followers) == sockets
	})
	last := int64(2)
	all(fast, last)
	s.sockets.mu.Lock()
	for c := range s.sockets.open {
		if c.account.userID == bob.user.ID { // or else the kernel takes megabytes off its queue
			_ = c.wire.Conn.(*net.TCPConn).SetWriteBuffer(16 << 10)
		}
	}
	s.sockets.mu.Unlock()
	before := heapInUse()
	began := time.Now()
	entries := make([]any, perBatch)
	for i := range entries {
		entries[i] = map[string]any{"level": "info", "message": strings.Repeat("x", 1000)}
	}
	for range batches {
		ada.post(mission+"/logs", map[string]any{"entries": entries}).want(http.StatusCreated)
		last += perBatch
		all(fast, last)
	}
	if grown := int64(heapInUse()) - int64(before); grown > int64(sockets)*perSocket {
		t.Errorf("with %d sockets, of which %d don't read, the heap has grown by %d KiB", sockets, len(slow), grown>>10)
	}
	if long() {
		eventually(t, "who doesn't read is cut off", func() bool { return s.sockets.count() == len(fast) })
	}
	blocked := time.Since(began)
	close(release)
	all(slow, last)
	closed := 0
	for _, r := range append(fast, slow...) {
		r.Stop()
		closed += r.Slow
	}
	for _, r := range fast {
		if r.Connections != 1 {
			t.Errorf("%s needed %d connections, although it reads", r.Name, r.Connections)
		}
	}
	for _, r := range slow {
		if r.Connections < 2 {
			t.Errorf("%s wasn't cut off, although it didn't read", r.Name)
		}
	}
	if closed == 0 && blocked < socketWrite/2 { // after all of that they are cut off without a word
		t.Error("nobody was told 4408")
	}
	t.Logf("%d of %d slow sockets were told 4408", closed, len(slow))
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A socket that follows much from the beginning gets it as fast as it reads,
// however much of it there is: what the database has doesn't overrun it.
func TestSocketCatchesUpWithMuchAtOnce(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.WSQueue = 100 })
	ada := s.signUp("ada", "user")
	entries := make([]any, 30) // about 700 KiB a request
	for i := range entries {
		entries[i] = map[string]any{"level": "info", "message": strings.Repeat("x", 8<<10), "fields": map[string]any{"f": strings.Repeat("y", 15<<10)}}
	}
	conn := s.openSocket("Bearer " + ada.token)
	conn.SetReadLimit(-1)
	hearFrame(t, conn)
	missions := make(map[string]int64)
	for i := range 3 {
		mission := ada.newMission(fmt.Sprint("Much ", i))
		missions[idOf(mission)] = 0
		for range 7 {
			ada.post(mission+"/logs", map[string]any{"entries": entries}).want(http.StatusCreated)
		}
	}
	for id := range missions {
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(`{"type":"subscribe","topic":"mission","mission_id":"`+id+`"}`)); err != nil {
			t.Fatal(err)
		}
	}
	for left := 3 * (1 + 7*len(entries)); left > 0; {
		f := hearFrame(t, conn)
		for _, e := range f.Events {
			if missions[f.MissionID]++; e.Seq != missions[f.MissionID] {
				t.Fatalf("got seq %d, want %d", e.Seq, missions[f.MissionID])
			}
			left--
		}
	}
}
