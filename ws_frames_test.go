//go:build !nows

package main

// What clients other than ours can send to /ws: frames that violate the protocol
// (RFC 6455, 5), handshakes that do (4.2.1), and nothing at all.

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

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
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
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
	s := newTestServer(t, func(c *Config) { c.WSMaxMessage, c.WSPing, c.WSPong = most, time.Second, time.Second })
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
			close string   // what the client does then: nothing, "write" or "all"
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
			{"half a header, then silence", "\x81", []uint16{0}, "", ""},
			{"half a frame, then silence", masked(finText, ping)[:12], []uint16{0}, "", ""},
			{"half a ping, then silence", masked(controlPing, "half")[:8], []uint16{0}, "", ""},
			{"half a message, then silence", masked(firstText, ping[:5]), []uint16{0}, "", ""},
			{"half a frame, then the end", masked(finText, ping)[:12], []uint16{0}, "", "all"},
			{"half a frame, then half the end", masked(finText, ping)[:12], []uint16{0}, "", "write"},
			{"half-closed", masked(finText, ping), []uint16{0}, "pong", "write"},
			{"half-closed at once", "", []uint16{0}, "", "write"},
			{"silence", "", []uint16{0}, "", ""}, // nobody answers the pings
			{"pings without end", strings.Repeat(masked(controlPing, "x"), 5000) + masked(finText, ping) + bye, []uint16{1000},
				"pong", ""},
			{"pongs nobody asked for", strings.Repeat(masked(0x8a, "x"), 5000) + masked(finText, ping) + bye, []uint16{1000},
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
				conn := s.dialRaw(t, token)
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
		return s.sockets.count() == 0 && runtime.NumGoroutine() <= before
	})
	s.anonymous().get("/internal/health/ready").want(http.StatusOK)
}

func TestFloodOfMessagesEndsTheConnection(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	conn := s.dialRaw(t, s.signUp("ada", "user").token)
	_, _ = io.WriteString(conn, strings.Repeat(masked(finText, `{"type":"ping"}`), 2*socketBurst)) // it may be cut before
	code, said := conn.end()
	if code != 4429 || len(said) < socketBurst || len(said) > socketBurst+2*socketRate {
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
		{"a flood, then half a frame", strings.Repeat(masked(finText, "{}"), 2*socketBurst) + half},
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
	if took := time.Since(began); took > 10*time.Second {
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
