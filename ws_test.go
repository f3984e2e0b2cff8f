//go:build !nows

package main

import (
	"context"
	"encoding/json"
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

// dialSocket opens a WebSocket with an Authorization and an Origin, either of which
// may be "", and also returns the handshake's response.
func (s *testServer) dialSocket(authorization, origin string,
	protocols ...string) (*websocket.Conn, *http.Response, error) {
	s.t.Helper()
	header := make(http.Header)
	for name, value := range map[string]string{"Authorization": authorization, "Origin": origin} {
		if value != "" {
			header.Set(name, value)
		}
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	conn, response, err := websocket.Dial(ctx, s.url()+"/ws",
		&websocket.DialOptions{HTTPHeader: header, Subprotocols: protocols})
	if err == nil {
		s.t.Cleanup(func() { _ = conn.CloseNow() })
	}
	return conn, response, err
}

// openSocket is dialSocket for a handshake that must succeed.
func (s *testServer) openSocket(authorization string, protocols ...string) *websocket.Conn {
	s.t.Helper()
	conn, _, err := s.dialSocket(authorization, "", protocols...)
	if err != nil {
		s.t.Fatal(err)
	}
	return conn
}

// say sends a message and returns the answer. An accepted message that isn't as
// openapi.json describes it fails the test.
func say(t *testing.T, conn *websocket.Conn, message string) map[string]any {
	t.Helper()
	if err := conn.Write(t.Context(), websocket.MessageText, []byte(message)); err != nil {
		t.Fatal(err)
	}
	answer := hear(t, conn)
	if answer["type"] != "error" {
		checkMessage(t, "WebSocketClientMessage", []byte(message), false)
	}
	return answer
}

// hear returns the next message.
func hear(t *testing.T, conn *websocket.Conn) map[string]any {
	t.Helper()
	raw := hearRaw(t, conn)
	var message map[string]any
	if err := json.Unmarshal(raw, &message); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return message
}

// hearRaw reads the next message. One that isn't as openapi.json describes it fails
// the test.
func hearRaw(t *testing.T, conn *websocket.Conn) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, raw, err := conn.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	checkMessage(t, "WebSocketServerMessage", raw, true)
	return raw
}

func wantClose(t *testing.T, conn *websocket.Conn, code websocket.StatusCode) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, _, err := conn.Read(ctx); websocket.CloseStatus(err) != code {
		t.Errorf("closed with %v, want %d", err, code)
	}
}

func TestSocketGreetsAndAnswersPings(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "admin")
	conn := s.openSocket("Bearer " + ada.withKey("read").token)
	welcome := hear(t, conn)
	if welcome["type"] != "welcome" || welcome["connection_id"] == "" || welcome["limits"] == nil {
		t.Errorf("got %v", welcome)
	}
	for _, test := range []struct{ message, kind, replyTo string }{
		{`{"type":"ping"}`, "pong", ""},
		{`{"type":"ping","id":"7"}`, "pong", "7"},
		{`{"type":"dance","id":"8"}`, "error", "8"},
		{`[]`, "error", ""},
		{`{"type":"ping","type":"ping"}`, "error", ""},
		{`no JSON`, "error", ""},
		{`{"type":"ping"}`, "pong", ""},
	} {
		got := say(t, conn, test.message)
		if replyTo, _ := got["reply_to"].(string); got["type"] != test.kind || replyTo != test.replyTo {
			t.Errorf("%s: got %v", test.message, got)
		}
	}
	listed := ada.get("/internal/connections").want(http.StatusOK)
	if listed.text("items.0.id") != welcome["connection_id"] || listed.text("items.0.account") != ada.user.ID {
		t.Errorf("got %s", listed.body)
	}
	if err := conn.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	eventually(t, "the connection is off the list", func() bool {
		return len(ada.get("/internal/connections").at("items").([]any)) == 0
	})
}

func TestSocketEndsWithGoingAwayAtShutdown(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	var conns []*websocket.Conn
	for range 20 {
		conn := s.openSocket("Bearer " + ada.token)
		hear(t, conn)
		conns = append(conns, conn)
	}
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- s.stop() }()
	for _, conn := range conns {
		wantClose(t, conn, websocket.StatusGoingAway)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 4*time.Second { // one close waits up to 5 s for its client
		t.Errorf("20 sockets took %v to close", took)
	}
}

func TestSocketEchoesOnlyItsOwnSubprotocol(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	token := s.signUp("ada", "user").token
	for _, test := range []struct {
		offered []string
		echoed  string
	}{
		{[]string{"tachikoma.v1", "bearer." + token}, "tachikoma.v1"},
		{[]string{"bearer." + token, "tachikoma.v1"}, "tachikoma.v1"},
		{[]string{"bearer." + token}, ""},
	} {
		conn := s.openSocket("", test.offered...)
		if got := conn.Subprotocol(); got != test.echoed {
			t.Errorf("echoed %q, want %q", got, test.echoed)
		}
		if got := hear(t, conn)["type"]; got != "welcome" {
			t.Errorf("greeted with %v", got)
		}
	}
}

func TestSocketSignsInWithTheFirstMessage(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	token := s.signUp("ada", "user").token
	conn := s.openSocket("")
	if got := say(t, conn, `{"type":"authenticate","token":"`+token+`"}`); got["type"] != "welcome" {
		t.Errorf("got %v", got)
	}
	for _, first := range []string{`{"type":"authenticate","token":"tk_none"}`, `{"type":"ping"}`, `hello`} {
		conn := s.openSocket("")
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(first)); err != nil {
			t.Fatal(err)
		}
		wantClose(t, conn, 4401)
	}
}

func TestSocketHandshakesThatAreRefused(t *testing.T) {
	t.Parallel()
	const friend = "https://app.example.com"
	s := newTestServer(t, func(c *Config) { c.CORSAllowedOrigins = []string{friend} })
	bearer := "Bearer " + s.signUp("ada", "user").token
	for _, test := range []struct {
		name, origin, credential string
		status                   int
	}{
		{"the server's own origin", s.url(), bearer, http.StatusSwitchingProtocols},
		{"an allowed origin", friend, bearer, http.StatusSwitchingProtocols},
		{"another scheme", strings.Replace(s.url(), "http:", "https:", 1), bearer, http.StatusForbidden},
		{"another port", "http://127.0.0.1:1", bearer, http.StatusForbidden},
		{"another host", "http://evil.example.com", bearer, http.StatusForbidden},
		{"a page without an origin", "null", bearer, http.StatusForbidden},
		{"another host, nobody", "http://evil.example.com", "", http.StatusForbidden},
		{"a wrong token", "", "Bearer nonsense", http.StatusUnauthorized},
		{"a wrong key", "", "Bearer tk_nonsense", http.StatusUnauthorized},
	} {
		_, response, err := s.dialSocket(test.credential, test.origin)
		if response == nil || response.StatusCode != test.status {
			t.Errorf("%s: %v, %v; want %d", test.name, response, err, test.status)
		}
	}
	// Without an upgrade it is an ordinary request.
	if a := s.anonymous().get("/ws"); a.status != http.StatusUpgradeRequired {
		t.Errorf("a plain GET: %d %s", a.status, a.body)
	}
}

// frame is a message of the server with events.
type frame struct {
	Type      string          `json:"type"`
	Topic     string          `json:"topic"`
	MissionID string          `json:"mission_id"`
	Seq       int64           `json:"seq"`
	Code      string          `json:"code"`
	ReplyTo   json.RawMessage `json:"reply_to"`
	Events    []event         `json:"events"`
}

// hearFrame is hear for messages with events.
func hearFrame(t *testing.T, conn *websocket.Conn) frame {
	t.Helper()
	raw := hearRaw(t, conn)
	var f frame
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return f
}

// wantEvents reads events until one of a type, and checks that none is missing.
func wantEvents(t *testing.T, conn *websocket.Conn, after int64, kind string) event {
	t.Helper()
	for {
		f := hearFrame(t, conn)
		if f.Type != "events" {
			t.Fatalf("got %+v", f)
		}
		for _, e := range f.Events {
			if after++; e.Seq != after {
				t.Fatalf("got seq %d, want %d", e.Seq, after)
			}
			if e.Type == kind {
				return e
			}
		}
	}
}

func TestSocketFollowsMissions(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	mission := ada.newMission("Live")
	id := strings.TrimPrefix(mission, "/api/v1/missions/")
	conn := s.openSocket("Bearer " + ada.token)
	hearFrame(t, conn)
	ask := func(conn *websocket.Conn, message string) frame {
		t.Helper()
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(message)); err != nil {
			t.Fatal(err)
		}
		f := hearFrame(t, conn)
		if f.Type != "error" {
			checkMessage(t, "WebSocketClientMessage", []byte(message), false)
		}
		return f
	}
	subscribe := `{"type":"subscribe","id":7,"topic":"mission","mission_id":"` + id + `"`
	if f := ask(conn, subscribe+`,"after":5}`); f.Type != "error" || f.Code != "cursor_ahead" || string(f.ReplyTo) != "7" {
		t.Errorf("got %+v", f)
	}
	if f := ask(conn, subscribe+`}`); f.Type != "ack" || f.Seq != 0 || string(f.ReplyTo) != "7" {
		t.Errorf("got %+v", f)
	}
	wantEvents(t, conn, 0, "mission.created")
	if f := ask(conn, subscribe+`}`); f.Code != "already_subscribed" {
		t.Errorf("got %+v", f)
	}

	stranger := s.openSocket("Bearer " + bob.token)
	hearFrame(t, stranger)
	if f := ask(stranger, subscribe+`}`); f.Code != "not_found" {
		t.Errorf("a stranger got %+v", f)
	}
	ada.put(mission+"/members", map[string]any{"email": "bob@example.com", "role": "viewer"}).want(http.StatusOK)
	set := wantEvents(t, conn, 1, "member.set")
	if f := ask(stranger, subscribe+`,"after":"latest"}`); f.Type != "ack" || f.Seq != set.Seq {
		t.Errorf("got %+v", f)
	}
	ada.delete(mission + "/members/" + bob.user.ID).want(http.StatusNoContent)
	wantEvents(t, stranger, set.Seq, "member.removed")
	wantClose(t, stranger, 4403)

	wantEvents(t, conn, set.Seq, "member.removed")
	ada.delete(mission).want(http.StatusNoContent)
	wantEvents(t, conn, set.Seq+1, "mission.deleted")
	ada.post("/api/v1/auth/logout", nil).want(http.StatusNoContent)
	wantClose(t, conn, 4401)
}

func TestSocketKnowsNoMissionByAnotherTopicsID(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob := s.signUp("ada", "admin"), s.signUp("bob", "user")
	conn := s.openSocket("Bearer " + ada.token)
	hear(t, conn)
	ask := func(message string) (answer map[string]any) {
		for answer = say(t, conn, message); answer["type"] == "metrics_update"; {
			answer = hear(t, conn)
		}
		return answer
	}
	for _, after := range []string{"with nothing followed", "with the other topics followed"} {
		for _, id := range []string{ada.user.ID, strings.ToUpper(ada.user.ID), bob.user.ID, figuresStream, serverStream} {
			if got := ask(`{"type":"subscribe","topic":"mission","mission_id":"` + id + `"}`); got["code"] != "not_found" {
				t.Errorf("%s, %s: %v", after, id, got)
			}
		}
		ask(`{"type":"subscribe","topic":"user"}`)
		ask(`{"type":"subscribe","topic":"metrics"}`)
	}
	// Nor does it end them by that name.
	for topic, id := range map[string]string{"user": ada.user.ID, "metrics": figuresStream} {
		ask(`{"type":"unsubscribe","topic":"mission","mission_id":"` + id + `"}`)
		if got := ask(`{"type":"subscribe","topic":"` + topic + `"}`); got["code"] != "already_subscribed" {
			t.Errorf("%s is no longer followed: %v", topic, got)
		}
	}
}

// A socket whose queue would overflow is told so, and gets the rest when it reconnects.
func TestSocketThatFallsBehindResumesWithoutLoss(t *testing.T) {
	t.Parallel()
	const queueSize = 10
	s := newTestServer(t, func(c *Config) { c.WSQueue = queueSize })
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Busy")
	seen := int64(0)
	follow := func() *websocket.Conn {
		conn := s.openSocket("Bearer " + ada.token)
		hearFrame(t, conn)
		subscribe := fmt.Appendf(nil, `{"type":"subscribe","topic":"mission","mission_id":"%s","after":%d}`,
			idOf(mission), seen)
		if err := conn.Write(t.Context(), websocket.MessageText, subscribe); err != nil {
			t.Fatal(err)
		}
		hearFrame(t, conn)
		return conn
	}
	readTo := func(conn *websocket.Conn, last int64) {
		t.Helper()
		for seen < last {
			for _, e := range hearFrame(t, conn).Events {
				if seen++; e.Seq != seen {
					t.Fatalf("got seq %d, want %d", e.Seq, seen)
				}
			}
		}
	}
	entries := make([]map[string]any, 1000)
	for i := range entries {
		entries[i] = map[string]any{"level": "info", "message": strings.Repeat("x", 500)}
	}
	conn := follow()
	readTo(conn, 1)
	s.sockets.mu.Lock()
	for c := range s.sockets.open { // more at once than may wait, however fast it reads
		c.queue.push(&follower{topic: &topicName{Topic: "mission"}}, newBatches(make([]queuedEvent, queueSize+1)...)...)
	}
	s.sockets.mu.Unlock()
	wantClose(t, conn, 4408)
	ada.post(mission+"/logs", map[string]any{"entries": entries}).want(http.StatusCreated)
	readTo(follow(), 1001)
}

func TestSocketEndsWithTheRoleThatItNeeds(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, eve, root := s.signUp("ada", "user"), s.signUp("eve", "admin"), s.signUp("root", "admin")
	id := strings.TrimPrefix(ada.newMission("Not eve's"), "/api/v1/missions/")
	for _, topic := range []string{`"topic":"mission","mission_id":"` + id + `","after":"latest"`, `"topic":"metrics"`} {
		conn := s.openSocket("Bearer " + eve.token)
		hearFrame(t, conn)
		if got := say(t, conn, `{"type":"subscribe",`+topic+`}`); got["type"] != "ack" {
			t.Fatalf("got %v", got)
		}
		root.patch("/api/v1/users/"+eve.user.ID, map[string]any{"role": "user"}).want(http.StatusOK)
		wantClose(t, conn, 4403)
		root.patch("/api/v1/users/"+eve.user.ID, map[string]any{"role": "admin"}).want(http.StatusOK)
	}
}

// A tenth of many WebSockets on one mission doesn't read. The others still get
// everything, memory stays bounded, and the slow ones are cut off and resume
// without loss.
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
	narrow := &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{Control: func(_, _ string,
		c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF,
				16<<10)
		})
	}}).DialContext}}
	release := make(chan struct{})
	as := func(c *client) func() (base, token string) {
		return func() (base, token string) { return c.base, c.token }
	}
	var fast, slow []*witness.Witness
	for i := range sockets {
		r := &witness.Witness{T: t, Name: fmt.Sprint("socket ",
			i), Mission: mission, Server: as(ada), Follow: witness.BySocket}
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

// A socket that follows a long stream from the beginning gets it as fast as it
// reads, however long it is: what the database has doesn't overflow its queue.
func TestSocketCatchesUpWithMuchAtOnce(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.WSQueue = 100 })
	ada := s.signUp("ada", "user")
	entries := make([]any, 30) // about 700 KiB a request
	for i := range entries {
		entries[i] = map[string]any{"level": "info",
			"message": strings.Repeat("x", 8<<10), "fields": map[string]any{"f": strings.Repeat("y", 15<<10)}}
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
		if err := conn.Write(t.Context(), websocket.MessageText,
			[]byte(`{"type":"subscribe","topic":"mission","mission_id":"`+id+`"}`)); err != nil {
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
