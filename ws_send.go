//go:build !nows

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

// The first byte of a frame (RFC 6455, 5.2): its last fragment, and the opcode.
const (
	frameText  = 0x81
	frameClose = 0x88
)

// socketControl is how long a control frame can be with its header (RFC 6455,
// 5.5), plus one byte, so that the library's buffer of that size never splits it.
const socketControl = 2 + 125 + 1

// socketWire is the connection of a WebSocket. All that is sent passes through it, a
// whole frame at a time, so that frames are never interleaved. The library sends
// only control frames, by Write: pings, pongs and closes. Messages are sent by send
// and try, since the library can't share a frame between sockets, can't send
// without waiting, and needs a context with a timer and three locks made of
// channels for each frame. In one interleaved run of single events to 1,000
// sockets, a delivery took 6.3 us of CPU this way and 16.9 with the library. Safe
// for concurrent use.
type socketWire struct {
	net.Conn
	raw     syscall.RawConn       // nil if the bytes that are sent aren't those of the frame, as with TLS
	attempt func(fd uintptr) bool // for raw: writes what it can of rest

	mu     sync.Mutex // held while a frame is sent; guards the following
	rest   []byte     // of a frame that was sent in part: it goes first
	failed error      // of attempt
	ended  bool       // by a close frame or an error: nothing may be sent after it
}

func newWire(conn net.Conn) *socketWire {
	w := &socketWire{Conn: conn}
	if tcp, ok := conn.(*net.TCPConn); ok {
		w.raw, _ = tcp.SyscallConn() // without it all is sent by send
	}
	w.attempt = w.writeRest
	return w
}

// writeRest writes what the kernel has room for, and reports that it is done.
func (w *socketWire) writeRest(fd uintptr) bool {
	n, err := syscall.Write(int(fd), w.rest)
	for errors.Is(err, syscall.EINTR) {
		n, err = syscall.Write(int(fd), w.rest)
	}
	if err == nil {
		w.rest = w.rest[n:]
	} else if !errors.Is(err, syscall.EAGAIN) {
		w.failed = err
	}
	return true
}

// try sends a frame as far as it can without waiting. If sent is false, the caller
// must pass unsent to send; it is nil if the wire keeps the rest of the frame. After
// an error nothing more can be sent.
func (w *socketWire) try(frame []byte) (unsent []byte, sent bool, err error) {
	if w.raw == nil || !w.mu.TryLock() {
		return frame, false, nil
	}
	defer w.mu.Unlock()
	switch {
	case w.ended:
		return nil, false, net.ErrClosed
	case len(w.rest) > 0:
		return frame, false, nil
	}
	w.rest = frame
	if err = w.raw.Write(w.attempt); err == nil {
		err = w.failed
	}
	if err != nil {
		w.fail()
	}
	return nil, len(w.rest) == 0, err
}

// send sends a frame, after the rest of the last one. After an error nothing more
// can be sent.
func (w *socketWire) send(frame []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return net.ErrClosed
	}
	err := w.SetWriteDeadline(time.Now().Add(socketWrite))
	for _, part := range [...][]byte{w.rest, frame} {
		if err == nil && len(part) > 0 {
			_, err = w.Conn.Write(part)
		}
	}
	w.rest = nil
	if err == nil {
		err = w.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		w.fail()
		return err
	}
	w.ended = len(frame) > 0 && frame[0] == frameClose
	return nil
}

// fail closes the connection, which the reader notices. The caller holds mu.
func (w *socketWire) fail() {
	w.ended = true
	_ = w.Close()
}

// Write sends a control frame for the library, which flushes each in one call.
func (w *socketWire) Write(control []byte) (int, error) {
	if err := w.send(control); err != nil {
		return 0, err
	}
	return len(control), nil
}

// senders send what waits in the queues of sockets: a few goroutines, which
// run while there is something to send, and never wait for a client. With a
// goroutine for each socket that has something to send, a thousand of them would
// run before a request that arrives meanwhile.
type senders struct {
	most int // that may run

	mu      sync.Mutex // guards the following
	ready   []func()   // each sends for one socket
	running int
}

func newSenders() *senders { return &senders{most: max(1, runtime.GOMAXPROCS(0)-1)} }

// add has a sender call send, which mustn't block.
func (s *senders) add(send func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = append(s.ready, send)
	if s.running < s.most {
		s.running++
		go s.run()
	}
}

// run sends until nothing is left.
func (s *senders) run() {
	for {
		s.mu.Lock()
		if len(s.ready) == 0 {
			s.ready = nil
			s.running--
			s.mu.Unlock()
			return
		}
		send := s.ready[0]
		s.ready = s.ready[1:]
		s.mu.Unlock()
		send()
	}
}

// sendWaiting sends what waits for a socket if that is one frame that can be sent
// without waiting, and leaves anything else to a goroutine of the socket's own. It
// is called each time the queue wakes, which has added one to c.working.
func (s *Server) sendWaiting(ctx context.Context, c *socket) {
	batches, err := c.queue.take()
	var unsent []byte
	if err == nil && len(batches) > 0 {
		var sent bool
		if unsent, sent, err = c.wire.try(eventsFrame(batches)); err != nil {
			c.working.Done()
			return
		}
		if sent && batches[len(batches)-1].effect() == noEffect {
			c.count(batches)
			batches = nil
		}
	}
	if len(batches) == 0 && c.queue.settle() {
		c.working.Done()
		return
	}
	go s.sendSlowly(ctx, c, batches, unsent)
}

// sendSlowly sends the rest of batches and whatever else waits for a socket, and
// gives the client the time it may take. It closes the connection when the queue
// has ended, or when an event has ended the client's permission. It takes one off
// c.working.
func (s *Server) sendSlowly(ctx context.Context, c *socket, batches []waitingBatch, unsent []byte) {
	defer c.working.Done()
	for {
		if len(batches) > 0 {
			if c.wire.send(unsent) != nil {
				return
			}
			c.count(batches)
			last := batches[len(batches)-1]
			if code, reason := s.applyEffect(ctx, c, last.effect(), last.to.topic.Stream); code != 0 {
				c.close(code, reason)
				return
			}
		}
		var err error
		batches, err = c.queue.take()
		switch {
		case errors.Is(err, errTooSlow):
			s.counters.slowClosed()
			c.close(closeTooSlow, "too slow: resume after the last seq you saw")
			return
		case err != nil:
			c.close(closeCursorGone, err.Error())
			return
		case len(batches) == 0:
			return
		}
		unsent = eventsFrame(batches)
	}
}

// count counts events that were sent.
func (c *socket) count(batches []waitingBatch) {
	for _, b := range batches {
		c.sent.Add(int64(len(b.events)))
	}
}

// applyEffect does what the event just sent asks for: a deleted mission ends
// its subscription, and a client that may no longer read is closed. A code of 0
// means that it may.
func (s *Server) applyEffect(ctx context.Context, c *socket, e streamEffect,
	stream string) (websocket.StatusCode, string) {
	switch e {
	case endsStream:
		s.unsubscribe(c, stream)
	case movesAccess:
		return s.checkMission(ctx, c.currentAccount(), stream)
	}
	return 0, ""
}

// socketFrame is a frame that many sockets send. The first one makes it.
type socketFrame struct {
	once  sync.Once
	bytes []byte
}

// eventsFrame is the frame that carries batches for a follower.
func eventsFrame(batches []waitingBatch) []byte {
	if len(batches) > 1 {
		return encodeEvents(batches...)
	}
	b := batches[0]
	b.frame.once.Do(func() { b.frame.bytes = encodeEvents(b) })
	return b.frame.bytes
}

// encodeEvents makes a frame with the events of batches, which are already encoded.
func encodeEvents(batches ...waitingBatch) []byte {
	size := frameExtra
	for _, b := range batches {
		size += b.bytes
	}
	frame := append(make([]byte, frameHead, frameHead+size), `{"type":"events","topic":"`...)
	topic := batches[0].to.topic
	frame = append(append(frame, topic.Topic...), '"')
	if topic.MissionID != "" {
		frame = append(append(append(frame, `,"mission_id":"`...), topic.MissionID...), '"')
	}
	frame = append(frame, `,"events":[`...)
	for _, b := range batches {
		for _, e := range b.events {
			frame = append(append(frame, e.payload...), ',')
		}
	}
	frame = append(frame[:len(frame)-1], "]}"...) // there is at least one event
	return withHead(frame)
}

// frameHead is how long the header of a server's frame can be.
const frameHead = 10

// withHead writes the header of a frame whose message starts after frameHead bytes.
func withHead(frame []byte) []byte {
	var head []byte
	switch n := len(frame) - frameHead; {
	case n < 126:
		head = []byte{frameText, byte(n)}
	case n < 1<<16:
		head = binary.BigEndian.AppendUint16([]byte{frameText, 126}, uint16(n))
	default:
		head = binary.BigEndian.AppendUint64([]byte{frameText, 127}, uint64(n))
	}
	start := frameHead - len(head)
	copy(frame[start:], head)
	return frame[start:]
}

// handshake is the ResponseWriter for websocket.Accept. It keeps the connection,
// and discards refusals, which writeProblem writes instead.
type handshake struct {
	http.ResponseWriter
	wire *socketWire
}

func (h *handshake) WriteHeader(status int) {
	if status == http.StatusSwitchingProtocols {
		h.ResponseWriter.WriteHeader(status)
	}
}

func (h *handshake) Write(refusal []byte) (int, error) { return len(refusal), nil }

// Hijack gives the library small buffers instead of net/http's, and the wire
// instead of the connection. With net/http's buffers an idle WebSocket takes
// 30.2 KiB instead of 22.3.
func (h *handshake) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.wire = newWire(conn)
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered()) // what came with the handshake
	in := bufio.NewReaderSize(bytes.NewReader(early), max(socketBuffer, len(early)))
	_, err = in.Peek(len(early)) // where the library looks for it
	return h.wire, bufio.NewReadWriter(in, bufio.NewWriterSize(h.wire, socketControl)), err
}

func malformedHandshake() *apiError {
	return problem(http.StatusBadRequest, "malformed_handshake",
		"This isn't the handshake of a WebSocket (RFC 6455, 4.2.1).")
}

// socketCredential returns the token of a handshake, or "": it is in the header or,
// for browsers, which can't set one, in a subprotocol.
func socketCredential(r *http.Request) string {
	if token, err := bearerToken(r); err == nil {
		return token
	}
	for _, header := range r.Header.Values("Sec-Websocket-Protocol") {
		for protocol := range strings.SplitSeq(header, ",") {
			if token, ok := strings.CutPrefix(strings.TrimSpace(protocol), socketToken); ok {
				return token
			}
		}
	}
	return ""
}
