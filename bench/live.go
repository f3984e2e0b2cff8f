package main

// Events on their way to WebSockets.

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// The mark is in each event once, so that counting marks counts events. One
// byte wouldn't do: a frame's header may look like it.
const mark = "^^"

// message is an event's text.
var message = mark + strings.Repeat("x", 40)

// follower says how to follow the events of a server.
type follower struct {
	target
	frames    []string // what a client sends after the handshake
	confirmed string   // what is in the answer to the last of them
}

func (s *server) follow(mission string) follower {
	return follower{s.target,
		[]string{`{"type":"subscribe","topic":"mission","mission_id":"` + mission + `","after":"latest"}`}, `"ack"`}
}

// open opens a WebSocket and returns when its subscription is confirmed.
func (f follower) open() (net.Conn, error) {
	host := strings.TrimPrefix(f.base, "http://")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		return nil, err
	}
	handshake := "GET /ws HTTP/1.1\r\nHost: " + host + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n" +
		"Authorization: Bearer " + f.token + "\r\n\r\n"
	answer, err := exchange(conn, []byte(handshake), "\r\n\r\n")
	if err == nil {
		var frames []byte
		for _, text := range f.frames {
			frames = append(frames, textFrame(text)...)
		}
		answer, err = exchange(conn, frames, f.confirmed)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("opening a WebSocket: %w: %.300s", err, answer)
	}
	return conn, nil
}

// textFrame is a WebSocket frame with a text, masked with zeros.
func textFrame(text string) []byte {
	frame := []byte{0x81, 0x80 | byte(min(len(text), 126))}
	if len(text) >= 126 {
		frame = binary.BigEndian.AppendUint16(frame, uint16(len(text)))
	}
	return append(append(frame, 0, 0, 0, 0), text...)
}

// exchange sends something and reads until the text has come.
func exchange(conn net.Conn, send []byte, text string) ([]byte, error) {
	if _, err := conn.Write(send); err != nil {
		return nil, err
	}
	return readUntil(conn, text)
}

// readUntil reads until the text has come.
func readUntil(conn net.Conn, text string) (all []byte, err error) {
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	buffer := make([]byte, 4096)
	for err == nil && !bytes.Contains(all, []byte(text)) {
		var n int
		n, err = conn.Read(buffer)
		all = append(all, buffer[:n]...)
	}
	return all, errors.Join(err, conn.SetReadDeadline(time.Time{}))
}

// audience is many WebSockets that follow the same events.
type audience struct {
	conns   []net.Conn
	arrived atomic.Int64 // events, over all of them
	lost    atomic.Int64 // WebSockets that the server has ended
}

// gather opens n WebSockets. Close ends them.
func gather(f follower, n int) (*audience, error) {
	a := &audience{}
	for range n {
		conn, err := f.open()
		if err != nil {
			a.close()
			return nil, err
		}
		a.conns = append(a.conns, conn)
		go a.count(conn)
	}
	return a, nil
}

func (a *audience) close() {
	for _, conn := range a.conns {
		conn.Close()
	}
}

// count counts the marks that come, until the connection ends.
func (a *audience) count(conn net.Conn) {
	buffer, n := make([]byte, 32<<10), 0
	for {
		buffer[0] = buffer[n] // a mark may come in two parts
		read, err := conn.Read(buffer[1:])
		if err != nil {
			a.lost.Add(1)
			return
		}
		n = read
		if marks := bytes.Count(buffer[:n+1], []byte(mark)); marks > 0 {
			a.arrived.Add(int64(marks))
		}
	}
}

// await waits until the given number of events has arrived.
func (a *audience) await(ctx context.Context, events int64) error {
	for end := time.Now().Add(patience); a.arrived.Load() < events; time.Sleep(100 * time.Microsecond) {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case a.lost.Load() > 0 || time.Now().After(end):
			return fmt.Errorf("%d of %d events have arrived, and %d WebSockets were closed",
				a.arrived.Load(), events, a.lost.Load())
		}
	}
	return nil
}

// fanOut sends rounds of events to n WebSockets that follow f, and measures
// deliveries, and the CPU time that p spent on each. A round begins when the one
// before the last has arrived everywhere, so that the sender doesn't wait for its
// own requests. The p50 and p99 are of a round.
func fanOut(p *process, f follower, n, rounds, events int, publish func(worker) error) runner {
	return func(ctx context.Context, share float64) (sample, error) {
		a, err := gather(f, n)
		if err != nil {
			return nil, err
		}
		defer a.close()
		c, err := dial(f.base, f.token)
		if err != nil {
			return nil, err
		}
		defer c.close()
		sender := worker{c, 0}
		if err := publish(sender); err != nil {
			return nil, err
		}
		each := int64(n * events)
		if err := a.await(ctx, each); err != nil {
			return nil, err
		}
		cpuBefore, err := p.cpu()
		noCPU := err != nil // not on Linux
		var took []time.Duration
		wanted := max(1, int(float64(rounds)*share))
		start := time.Now()
		for i := range wanted {
			begin := time.Now()
			if err := publish(sender); err != nil {
				return nil, err
			}
			if err := a.await(ctx, each*int64(i+1)); err != nil {
				return nil, err
			}
			took = append(took, time.Since(begin))
		}
		if err := a.await(ctx, each*int64(wanted+1)); err != nil {
			return nil, err
		}
		elapsed := time.Since(start)
		cpuAfter, _ := p.cpu()
		deliveries := float64(each) * float64(wanted)
		s := latencies(took)
		s[perSecond] = deliveries / elapsed.Seconds()
		if !noCPU {
			s[cpu] = (cpuAfter - cpuBefore).Seconds() * 1e6 / deliveries
		}
		return s, nil
	}
}

// crossInstance measures how long an event takes from the response of one
// instance, after the commit, to a WebSocket of another one, with pauses of 25
// to 50 ms in between. An event that arrives before the response counts as 0.
func crossInstance(from, to *server, mission string, events int) runner {
	return func(ctx context.Context, share float64) (sample, error) {
		conn, err := to.follow(mission).open()
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		var took []time.Duration
		err = from.use(func(c *client) error {
			for range max(1, int(float64(events)*share)) {
				time.Sleep(25*time.Millisecond + rand.N(25*time.Millisecond))
				if err := ctx.Err(); err != nil {
					return err
				}
				arrived := make(chan time.Time, 1)
				failed := make(chan error, 1)
				go func() {
					_, err := readUntil(conn, mark)
					arrived <- time.Now()
					failed <- err
				}()
				_, err := c.post(201, "/api/v1/missions/"+mission+"/logs", logEntries(1))
				answered := time.Now()
				if err := errors.Join(err, <-failed); err != nil {
					return err
				}
				took = append(took, max(0, (<-arrived).Sub(answered)))
			}
			return nil
		})
		return latencies(took), err
	}
}

// logEntries returns the body of a request with n log entries.
func logEntries(n int) string {
	entry := `{"level":"info","message":"` + message + `"}`
	return `{"entries":[` + strings.Repeat(entry+",", n-1) + entry + `]}`
}
