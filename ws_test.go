//go:build !nows

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	for message, want := range map[string]string{
		"null": "The message must be an object.", "[]": "The message must be an object.",
		`{"type":7,"x":1}`: "type must be a string; x isn't a known field.",
		`{"type":"ping"`:   "At byte 13 of the body: unexpected end of JSON input.",
	} {
		if got := say(t, conn, message); got["code"] != "malformed_message" || got["message"] != want {
			t.Errorf("%s: got %v, want %s", message, got, want)
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
	if took := time.Since(began); took > patience { // one close waits up to 5 s for its client
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
	missions := make(map[string]int64)
	for i := range 3 {
		mission := ada.newMission(fmt.Sprint("Much ", i))
		missions[idOf(mission)] = 0
		for range 7 {
			ada.post(mission+"/logs", map[string]any{"entries": entries}).want(http.StatusCreated)
		}
	}
	conn := s.openSocket("Bearer " + ada.token)
	conn.SetReadLimit(-1)
	hearFrame(t, conn)
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

// What clients other than ours can send to /ws: frames that violate the protocol
// (RFC 6455, 5), handshakes that do (4.2.1), and nothing at all.

const (
	finText     = 0x81 // the first byte of a frame: FIN and the opcode
	finBinary   = 0x82
	firstText   = 0x01
	more        = 0x00
	last        = 0x80
	controlStop = 0x88
	controlPing = 0x89
)

// masked returns a client's frame. The mask is zero, which is as valid as any.
func masked(head byte, payload string) string {
	b := []byte{head}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return string(append(b, 0, 0, 0, 0)) + payload
}

// closing returns the payload of a close frame.
func closing(code uint16, reason string) string {
	return string(binary.BigEndian.AppendUint16(nil, code)) + reason
}

// rawSocket is a WebSocket whose frames are made by hand.
type rawSocket struct {
	t *testing.T
	*net.TCPConn
	in *bufio.Reader
}

// dialRaw does the handshake by hand and reads the welcome.
func (s *testServer) dialRaw(t *testing.T, token string) *rawSocket {
	t.Helper()
	conn, response := s.handshake(t, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nAuthorization: Bearer "+token+"\r\n\r\n")
	if response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the handshake: %s", response.Status)
	}
	if op, payload, err := conn.frame(); err != nil || op != finText || !strings.Contains(payload, `"welcome"`) {
		t.Fatalf("greeted with %x %q, %v", op, payload, err)
	}
	return conn
}

// handshake sends a request as it is and reads the head of the answer.
func (s *testServer) handshake(t *testing.T, request string) (*rawSocket, *http.Response) {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	raw := &rawSocket{t, conn.(*net.TCPConn), bufio.NewReader(conn)}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(raw.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw, response
}

// frame reads a frame of the server.
func (c *rawSocket) frame() (head byte, payload string, err error) {
	var b [2]byte
	if _, err := io.ReadFull(c.in, b[:]); err != nil {
		return 0, "", err
	}
	size := uint64(b[1])
	switch b[1] {
	case 126:
		var n uint16
		err = binary.Read(c.in, binary.BigEndian, &n)
		size = uint64(n)
	case 127:
		err = binary.Read(c.in, binary.BigEndian, &size)
	}
	if err != nil || size > 1<<20 {
		return 0, "", errors.Join(err, fmt.Errorf("a frame of %d bytes", size))
	}
	content := make([]byte, size)
	_, err = io.ReadFull(c.in, content)
	return b[0], string(content), err
}

// end answers a close frame, as a client should, and returns its code once the
// server has closed the connection: 0 if it was cut without one. said are the
// messages before that, by type, or by code for errors.
func (c *rawSocket) end() (code uint16, said []string) {
	c.t.Helper()
	for {
		head, payload, err := c.frame()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			c.t.Fatalf("the connection is still open after %q", said)
		case err != nil:
			return code, said
		case head == controlStop && len(payload) >= 2:
			code = binary.BigEndian.Uint16([]byte(payload))
			_, _ = io.WriteString(c, masked(controlStop, payload[:2])) // it may be gone already
		case head == finText:
			var m struct{ Type, Code string }
			if err := json.Unmarshal([]byte(payload), &m); err != nil {
				c.t.Errorf("%v: %q", err, payload)
			}
			if m.Type == "error" {
				m.Type = m.Code
			}
			said = append(said, m.Type)
		}
	}
}

// Not parallel, so that the goroutines it counts are its own.
func TestMalformedFramesEndTheConnectionAndNothingElse(t *testing.T) {
	const most = 1024
	database := newTestDatabase(t)
	pinging := func(every time.Duration) *testServer {
		return startTestServer(t, database, func(c *Config) { c.WSMaxMessage, c.WSPing, c.WSPong = most, every, every })
	}
	s, impatient := pinging(time.Hour), pinging(time.Second)
	token := s.signUp("ada", "user").token
	http.DefaultClient.CloseIdleConnections()
	before := runtime.NumGoroutine()

	ping, bye := `{"type":"ping"}`, masked(controlStop, closing(1000, ""))
	long := strings.Repeat("x", most/2)
	split := strings.IndexByte(`{"type":"ping","id":"é"}`, 0xa9)
	t.Run("each", func(t *testing.T) { // which ends when all of them have
		for _, test := range []struct {
			name  string
			sent  string
			code  []uint16 // any of these; 0: dropped
			said  string   // messages before the end
			close string   // what the client does then: nothing, "write", "all", or "silence", until a ping isn't answered
		}{
			{"fine", masked(finText, ping) + bye, []uint16{1000}, "pong", ""},
			{"close without a code", masked(controlStop, ""), []uint16{1005, 0}, "", ""},
			{"unmasked", "\x81\x0f" + ping, []uint16{1002, 0}, "", ""},
			{"reserved bit 1", masked(finText|0x40, ping), []uint16{1002}, "", ""},
			{"reserved bit 2", masked(finText|0x20, ping), []uint16{1002}, "", ""},
			{"reserved bit 3", masked(finText|0x10, ping), []uint16{1002}, "", ""},
			{"reserved data opcode", masked(0x83, ping), []uint16{1002}, "", ""},
			{"reserved control opcode", masked(0x8b, ping), []uint16{1002}, "", ""},
			{"fragmented ping", masked(controlPing&0x7f, "x"), []uint16{1002}, "", ""},
			{"fragmented close", masked(controlStop&0x7f, closing(1000, "")), []uint16{1002}, "", ""},
			{"ping of 126 bytes", masked(controlPing, strings.Repeat("x", 126)), []uint16{1002}, "", ""},
			{"ping of 64 KiB", masked(controlPing, strings.Repeat("x", 1<<16)), []uint16{1002, 0}, "", ""},
			{"continuation of nothing", masked(last, ping), []uint16{1002}, "", ""},
			{"text inside a fragmented text", masked(firstText, ping[:5]) + masked(finText, ping), []uint16{1002}, "", ""},
			{"fragments, a ping and a code point between them",
				masked(firstText, `{"type":"ping","id":"é"}`[:split]) + masked(controlPing, "x") +
					masked(more, "") + masked(last, `{"type":"ping","id":"é"}`[split:]) + bye, []uint16{1000}, "pong", ""},
			{"text that isn't UTF-8", masked(finText, "\"\xff\""), []uint16{1007}, "", ""},
			{"a surrogate in UTF-8", masked(finText, "\"\xed\xa0\x80\""), []uint16{1007}, "", ""},
			{"half a code point in the last fragment", masked(firstText, "\"x") + masked(last, "\xc3"), []uint16{1007}, "", ""},
			{"a close payload of one byte", masked(controlStop, "\x03"), []uint16{1002}, "", ""},
			{"close code 999", masked(controlStop, closing(999, "")), []uint16{1002}, "", ""},
			{"close code 1005", masked(controlStop, closing(1005, "")), []uint16{1002}, "", ""},
			{"close code 1006", masked(controlStop, closing(1006, "")), []uint16{1002}, "", ""},
			{"close code 2999", masked(controlStop, closing(2999, "")), []uint16{1002}, "", ""},
			{"close code 65535", masked(controlStop, closing(65535, "")), []uint16{1002}, "", ""},
			{"a message as long as may be", masked(finText, ping+strings.Repeat(" ",
				most-len(ping))) + bye, []uint16{1000}, "pong", ""},
			{"a message of a byte more", masked(finText, ping+strings.Repeat(" ", most+1-len(ping))), []uint16{1009}, "", ""},
			{"too long in fragments", masked(firstText, long) + masked(more, long) + masked(last, "x"), []uint16{1009}, "", ""},
			{"fragments without an end", masked(firstText, long) + strings.Repeat(masked(more, long), 3), []uint16{1009, 0},
				"", ""},
			{"a length of 2^63", "\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", []uint16{1002, 1009, 0}, "", ""},
			{"a length of 2^63 - 1", "\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00" + strings.Repeat("x",
				2*most), []uint16{1009, 0}, "", ""},
			{"a ping with a length of 2^63", "\x89\xff\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", []uint16{1002, 0}, "",
				""},
			{"half a header", "\x81", []uint16{0}, "", "silence"},
			{"half a frame", masked(finText, ping)[:12], []uint16{0}, "", "silence"},
			{"half a ping", masked(controlPing, "half")[:8], []uint16{0}, "", "silence"},
			{"half a message", masked(firstText, ping[:5]), []uint16{0}, "", "silence"},
			{"half a frame, then the end", masked(finText, ping)[:12], []uint16{0}, "", "all"},
			{"half a frame, then half the end", masked(finText, ping)[:12], []uint16{0}, "", "write"},
			{"half-closed", masked(finText, ping), []uint16{0}, "pong", "write"},
			{"half-closed at once", "", []uint16{0}, "", "write"},
			{"nothing", "", []uint16{0}, "", "silence"},
			{"pings without end", strings.Repeat(masked(controlPing, "x"), 1000) + masked(finText, ping) + bye, []uint16{1000},
				"pong", ""},
			{"pongs nobody asked for", strings.Repeat(masked(0x8a, "x"), 1000) + masked(finText, ping) + bye, []uint16{1000},
				"pong", ""},
			{"a binary message", masked(finBinary, "\x00\xff") + masked(finText, ping) + bye, []uint16{1000},
				"malformed_message pong", ""},
			{"an empty message", masked(finText, "") + masked(finText, ping) + bye, []uint16{1000}, "malformed_message pong",
				""},
			{"HTTP again", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", []uint16{1002, 0}, "", ""},
			{"garbage", strings.Repeat("\xde\xad\xbe\xef", 999), []uint16{1002, 0}, "", ""},
		} {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				server := s
				if test.close == "silence" {
					server = impatient
				}
				conn := server.dialRaw(t, token)
				_, _ = io.WriteString(conn, test.sent) // it may be cut before all of it is sent
				switch test.close {
				case "write":
					_ = conn.CloseWrite()
				case "all":
					_ = conn.Close()
				}
				code, said := conn.end()
				if !slices.Contains(test.code, code) || strings.Join(said, " ") != test.said {
					t.Errorf("closed with %d after %q; want %v after %q", code, said, test.code, test.said)
				}
			})
		}
	})
	eventually(t, "nothing is left of the connections", func() bool {
		return s.sockets.count()+impatient.sockets.count() == 0 && runtime.NumGoroutine() <= before
	})
	s.anonymous().get("/internal/health/ready").want(http.StatusOK)
}

// flood is more messages than a busy server lets through in a minute.
const flood = 20 * socketBurst

func TestFloodOfMessagesEndsTheConnection(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	conn := s.dialRaw(t, s.signUp("ada", "user").token)
	_, _ = io.WriteString(conn, strings.Repeat(masked(finText, `{"type":"ping"}`), flood)) // it may be cut before
	code, said := conn.end()
	if code != 4429 || len(said) < socketBurst || len(said) == flood {
		t.Errorf("closed with %d after %d answers", code, len(said))
	}
}

// Clients that don't do their part of the closing handshake, or don't read, delay
// neither their own end nor the server's.
func TestSocketsOfRudeClientsEnd(t *testing.T) {
	t.Parallel()
	half := masked(finText, strings.Repeat("x", 100))[:20]
	for _, test := range []struct{ name, sent string }{
		{"not UTF-8, then half a frame", masked(finText, "\xff") + half},
		{"a flood, then half a frame", strings.Repeat(masked(finText, "{}"), flood) + half},
		{"pongs aren't read", strings.Repeat(masked(controlPing, strings.Repeat("x", 125)), 200_000)},
		{"answers aren't read", masked(finText, "{}")},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newTestServer(t, func(c *Config) { c.WSPing, c.WSPong = time.Hour, time.Hour })
			conn := s.dialRaw(t, s.signUp("ada", "user").token)
			_, _ = io.WriteString(conn, test.sent) // it may be cut before all of it is sent
			if test.name == "answers aren't read" {
				if err := s.stop(); err != nil {
					t.Error(err)
				}
			}
			eventually(t, "the server has cut it", func() bool { return s.sockets.count() == 0 })
		})
	}
}

// A client that goes on sending while the server stops, and ends with half a
// frame, doesn't hold it up.
func TestShutdownDoesNotWaitForRudeClients(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.ShutdownTimeout = 2 * time.Second })
	token := s.signUp("ada", "user").token
	half := masked(finText, strings.Repeat("x", 100))[:20]
	for range 20 {
		conn := s.dialRaw(t, token)
		go func() { // until the server closes it
			for range 50 {
				if _, err := io.WriteString(conn, masked(finText, `{"type":"ping"}`)); err != nil {
					return
				}
				if head, _, err := conn.frame(); err != nil || head == controlStop {
					break
				}
			}
			_, _ = io.WriteString(conn, masked(finText, "{}")+half)
		}()
	}
	began := time.Now()
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > patience {
		t.Errorf("it took %v", took)
	}
}

func TestOddHandshakes(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	bearer := "Authorization: Bearer " + s.signUp("ada", "user").token
	const upgrade, connection, version, key = "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
		"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="
	for _, test := range []struct {
		name, line string
		header     []string
		status     int
	}{
		{"fine", "GET /ws HTTP/1.1", []string{upgrade, connection, version, key}, 101},
		{"in other letters", "GET /ws HTTP/1.1",
			[]string{"upgrade: WebSocket", "connection: keep-alive, upgrade", version, key}, 101},
		{"without a version", "GET /ws HTTP/1.1", []string{upgrade, connection, key}, 400},
		{"version 8", "GET /ws HTTP/1.1", []string{upgrade, connection, "Sec-WebSocket-Version: 8", key}, 400},
		{"without a key", "GET /ws HTTP/1.1", []string{upgrade, connection, version}, 400},
		{"a short key", "GET /ws HTTP/1.1", []string{upgrade, connection, version, "Sec-WebSocket-Key: MDEy"}, 400},
		{"a key that isn't base64", "GET /ws HTTP/1.1",
			[]string{upgrade, connection, version, "Sec-WebSocket-Key: ????????????????????????"}, 400},
		{"two keys", "GET /ws HTTP/1.1", []string{upgrade, connection, version, key, key}, 400},
		{"without Upgrade", "GET /ws HTTP/1.1", []string{connection, version, key}, 426},
		{"without Connection", "GET /ws HTTP/1.1", []string{upgrade, version, key}, 400},
		{"another protocol", "GET /ws HTTP/1.1", []string{"Upgrade: h2c", connection, version, key}, 426},
		{"HTTP/1.0", "GET /ws HTTP/1.0", []string{upgrade, connection, version, key}, 400},
		{"POST", "POST /ws HTTP/1.1", []string{upgrade, connection, version, key}, 405},
		{"HEAD", "HEAD /ws HTTP/1.1", []string{upgrade, connection, version, key}, 400},
		{"a body", "GET /ws HTTP/1.1", []string{upgrade, connection, version, key, "Content-Length: 4\r\n\r\nbody"}, 400},
		{"a chunked body", "GET /ws HTTP/1.1", []string{upgrade, connection, version, key,
			"Transfer-Encoding: chunked\r\n\r\n0"}, 400},
		{"a parameter", "GET /ws?token=x HTTP/1.1", []string{upgrade, connection, version, key}, 422},
	} {
		header := append([]string{test.line, "Host: x", bearer}, test.header...)
		_, response := s.handshake(t, strings.Join(header, "\r\n")+"\r\n\r\n")
		if response.StatusCode != test.status {
			t.Errorf("%s: %s, want %d", test.name, response.Status, test.status)
		}
		if test.status >= 400 && response.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: the answer is %s", test.name, response.Header.Get("Content-Type"))
		}
	}
	eventually(t, "nothing is left of the connections",
		func() bool { return s.sockets.count() <= 2 }) // those that are fine
}

// logs adds log events with messages of so many bytes each.
func (c *client) logs(mission string, n, bytes int) {
	c.t.Helper()
	entries := make([]any, n)
	for i := range entries {
		entries[i] = map[string]any{"level": "info", "message": strings.Repeat("x", bytes)}
	}
	c.post(mission+"/logs", map[string]any{"entries": entries}).want(http.StatusCreated)
}

// A frame that goes to two sockets is encoded once.
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
	<-woken // in any order
	<-woken
	var frames [][]byte
	for _, f := range followers {
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

// A client that sends pings while it doesn't read still gets whole frames, with the
// pongs between them, and every event.
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
	const batches, events = 3, 50 // a machine that is busy writes them within socketWrite
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

// How fast events reach those who watch, and what watching costs. If there is
// something to compare with, it is measured in the same run. TACHIKOMA_LONG=1 uses
// as many WebSockets as the targets are for.

var oneLog = map[string]any{"entries": []any{map[string]any{"level": "info", "message": "x"}}}

// From a commit on one server to a subscriber of another one. The time of an
// event is the database's, a little before the commit. Idle means that nothing was
// announced lately, so the event is announced at once.
func BenchmarkDelivery(b *testing.B) {
	for _, way := range []struct {
		name  string
		pause time.Duration // before each event,
		more  time.Duration // and at most this, so as not to keep step with the other side
	}{{"idle", announceEach, announceEach}, {"busy", 0, announceEach}, {"poll", 0, pollEvery}} {
		b.Run(way.name, func(b *testing.B) {
			databaseURL := newTestDatabase(b)
			if way.name == "poll" {
				mute(b, databaseURL)
			}
			here, there := startTestServer(b, databaseURL, nil), startTestServer(b, databaseURL, nil)
			ada := here.signUp("ada", "user")
			mission := ada.newMission("Bench")
			var took []time.Duration
			arrived := make(chan struct{}, 1)
			watch := &witness.Witness{T: b, Mission: mission, Follow: witness.BySocket, Heard: func(e witness.Event) {
				took = append(took, time.Since(e.At))
				arrived <- struct{}{}
			}}
			watch.Server = func() (base, token string) { return there.url(), ada.token }
			watch.Start(b.Context())
			defer watch.Stop()
			<-arrived
			took = nil
			for b.Loop() {
				time.Sleep(way.pause + rand.N(way.more))
				if _, err := ada.ask("POST", mission+"/logs", oneLog); err != nil {
					b.Fatal(err)
				}
				<-arrived
			}
			slices.Sort(took)
			b.ReportMetric(took[len(took)/2].Seconds()*1000, "p50-ms")
			b.ReportMetric(took[len(took)*99/100].Seconds()*1000, "p99-ms")
		})
	}
}

// What listening servers cost writers: 64 clients write to a server alone, whose
// notifications nobody gets, and to one of three that listen.
func BenchmarkWritesWithListeners(b *testing.B) {
	const clients = 64
	transport := http.DefaultTransport.(*http.Transport)
	defer func(before int) { transport.MaxIdleConnsPerHost = before }(transport.MaxIdleConnsPerHost)
	transport.MaxIdleConnsPerHost = clients
	alone, shared := newTestDatabase(b), newTestDatabase(b)
	mute(b, alone)
	for range 2 {
		startTestServer(b, shared, nil)
	}
	// round has them write for a second, and returns how often they did.
	round := func(databaseURL string) func() float64 {
		ada := startTestServer(b, databaseURL, nil).signUp("ada", "user").withKey("write")
		missions := make([]string, clients)
		for i := range missions {
			missions[i] = ada.newMission(fmt.Sprint("Bench ", i))
		}
		return func() float64 {
			var done atomic.Int64
			var writers sync.WaitGroup
			start := time.Now()
			for _, mission := range missions {
				writers.Go(func() {
					for time.Since(start) < time.Second {
						if _, err := ada.ask("POST", mission+"/logs", oneLog); err != nil {
							b.Error(err)
							return
						}
						done.Add(1)
					}
				})
			}
			writers.Wait()
			return float64(done.Load()) / time.Since(start).Seconds()
		}
	}
	quiet, heard := round(alone), round(shared)
	quiet()
	heard()
	var without, with float64
	for b.Loop() {
		without += quiet()
		with += heard()
		with += heard() // in the order A B B A, for what drifts
		without += quiet()
	}
	b.ReportMetric(without/float64(2*b.N), "alone/s")
	b.ReportMetric(with/float64(2*b.N), "listening/s")
	b.ReportMetric(with/without, "ratio")
}

// rawDial opens a WebSocket by hand. It costs a file descriptor and little else.
func rawDial(b *testing.B, base, token string) net.Conn {
	b.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nAuthorization: Bearer %s\r\n\r\n", token)
	head := make([]byte, 0, 512)
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		if _, err := io.ReadFull(conn, head[len(head):len(head)+1]); err != nil {
			b.Fatal(err)
		}
		head = head[:len(head)+1]
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
		b.Fatalf("the handshake: %s", head)
	}
	return conn
}

// rawText sends a short text message.
func rawText(b *testing.B, conn net.Conn, text string) {
	b.Helper()
	if _, err := conn.Write(append([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...)); err != nil {
		b.Fatal(err)
	}
}

// bareServer serves only the WebSocket library: handle gets each connection.
func bareServer(b *testing.B, handle func(*websocket.Conn)) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.CloseNow()
		handle(conn)
	}))
	b.Cleanup(s.Close)
	return s.URL
}

// Deliveries a second to many WebSockets: events of a mission, many or one at a
// time, from the request that adds them on, against a loop for each socket that
// writes the same, one frame an event. Nobody but the kernel looks at what arrives.
func BenchmarkFanOut(b *testing.B) {
	for _, batch := range []int{500, 1} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			sockets := 100
			if long() || batch == 1 { // with fewer, one event costs more than its deliveries
				sockets = 1000
			}
			ours, payload := fanOut(b, sockets, batch)
			bare := bareFanOut(b, sockets, batch, payload)
			rounds := max(2000/sockets, 50_000/sockets/batch)
			ours(1)
			bare(1)
			var took, tookBare time.Duration
			for b.Loop() {
				took += ours(rounds)
				tookBare += bare(rounds)
			}
			deliveries := float64(b.N * rounds * batch * sockets)
			b.ReportMetric(float64(len(payload)), "B/event")
			b.ReportMetric(deliveries/took.Seconds(), "events/s")
			b.ReportMetric(deliveries/tookBare.Seconds(), "bare/s")
			b.ReportMetric(tookBare.Seconds()/took.Seconds(), "ratio")
		})
	}
}

// fanOut opens WebSockets that follow a mission. ours adds so many batches of
// events to it, the next one when each socket has sent the one before the last,
// and returns how long it took. payload is such an event.
func fanOut(b *testing.B, sockets, batch int) (ours func(batches int) time.Duration, payload []byte) {
	s := newTestServer(b, func(c *Config) { c.WSMaxPerAccount = sockets })
	ada := s.signUp("ada", "user").withKey("write")
	mission := ada.newMission("Bench")
	for range sockets {
		conn := drain(rawDial(b, s.url(), ada.token))
		rawText(b, conn, `{"type":"subscribe","topic":"mission","mission_id":"`+idOf(mission)+`"}`)
	}
	var all []*socket
	s.sockets.mu.Lock()
	for c := range s.sockets.open {
		all = append(all, c)
	}
	s.sockets.mu.Unlock()
	await := func(seq int64) { // until each socket has sent so many
		for _, c := range all {
			for c.sent.Load() < seq {
				if s.sockets.count() < sockets {
					b.Fatal("a socket has gone")
				}
				time.Sleep(100 * time.Microsecond)
			}
		}
	}
	await(1)
	entries := make([]any, batch)
	for i := range entries {
		entries[i] = oneLog["entries"].([]any)[0]
	}
	last := int64(1)
	ours = func(batches int) time.Duration {
		start := time.Now()
		for range batches {
			if _, err := ada.ask("POST", mission+"/logs", map[string]any{"entries": entries}); err != nil {
				b.Fatal(err)
			}
			await(last)
			last += int64(batch)
		}
		await(last)
		return time.Since(start)
	}
	ours(1)
	payload, err := json.Marshal(ada.get(mission + "/events?after=1").at("items.0"))
	if err != nil {
		b.Fatal(err)
	}
	return ours, payload
}

// bareFanOut opens WebSockets of a server that has nothing but them. bare writes
// so many batches to each, one batch after the other, and returns how long it took.
func bareFanOut(b *testing.B, sockets, batch int, payload []byte) (bare func(batches int) time.Duration) {
	turns, done := make(chan chan struct{}), make(chan error, sockets)
	base := bareServer(b, func(conn *websocket.Conn) {
		ctx := conn.CloseRead(b.Context())
		turn := make(chan struct{})
		turns <- turn
		for range turn {
			var err error
			for i := 0; i < batch && err == nil; i++ {
				err = conn.Write(ctx, websocket.MessageText, payload)
			}
			done <- err
		}
	})
	all := make([]chan struct{}, sockets)
	for i := range all {
		drain(rawDial(b, base, ""))
		all[i] = <-turns
		b.Cleanup(func() { close(all[i]) })
	}
	return func(batches int) time.Duration {
		start := time.Now()
		for range batches {
			for _, turn := range all {
				turn <- struct{}{}
			}
			for range all {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
		}
		return time.Since(start)
	}
}

// drain reads what comes, and discards it.
func drain(conn net.Conn) net.Conn {
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	return conn
}

// Memory for each idle WebSocket, heap and stacks, with next to nothing for its
// other end, which is in this process too.
func BenchmarkIdleSockets(b *testing.B) {
	sockets := 1000
	if long() {
		sockets = 5000
	}
	inUse := func() uint64 {
		for range 4 { // stacks shrink by half at each
			runtime.GC()
		}
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	// each opens the sockets, each of which answers a ping, and measures.
	each := func(base, token string) float64 {
		conns := make([]net.Conn, 0, sockets)
		before := inUse()
		for range sockets {
			conn := rawDial(b, base, token)
			rawText(b, conn, `{"type":"ping"}`)
			conns = append(conns, conn)
		}
		answer := make([]byte, 4096)
		for _, conn := range conns {
			for got := ""; !strings.Contains(got, "pong"); {
				n, err := conn.Read(answer)
				if err != nil {
					b.Fatal(err)
				}
				got += string(answer[:n])
			}
		}
		after := inUse()
		for _, conn := range conns {
			_ = conn.Close()
		}
		return float64(after-before) / float64(sockets) / 1024
	}
	s := newTestServer(b, func(c *Config) { c.WSMaxPerAccount = sockets })
	token := s.signUp("ada", "user").withKey("read").token
	base := bareServer(b, func(conn *websocket.Conn) {
		for {
			kind, _, err := conn.Read(b.Context())
			if err != nil || conn.Write(b.Context(), kind, []byte("pong")) != nil {
				return
			}
		}
	})
	for b.Loop() {
		ours := each(s.url(), token)
		eventually(b, "they are gone", func() bool { return s.sockets.count() == 0 })
		bare := each(base, "")
		b.ReportMetric(ours, "KiB")
		b.ReportMetric(bare, "bare-KiB")
	}
}
