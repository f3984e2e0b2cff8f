//go:build !nows

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"

	"tachikoma/internal/witness"
)

// steadyClients make up to 100 requests a second until stop is closed, each on a
// connection of its own that it keeps for as long as it may. Half of them move to
// the other instance once readiness is 503, as a load balancer makes them; the
// others move only when a response says Connection: close.
type steadyClients struct {
	one, other string // where the instances are
	path       string
	token      string
	stop       chan struct{}
	moved      atomic.Bool // readiness has said 503
	served     atomic.Int64
	wg         sync.WaitGroup
}

func (l *steadyClients) start(t *testing.T, balanced bool) {
	l.wg.Go(func() {
		kept := &keptConnection{}
		defer kept.close()
		at := l.one
		for {
			select {
			case <-l.stop:
				return
			case <-time.After(10 * time.Millisecond): // leaves something of the machine to others
			}
			if balanced && l.moved.Load() && at == l.one {
				kept.close()
				at = l.other
			}
			closes, err := kept.get(at, l.path, l.token)
			if err != nil {
				t.Errorf("a request to %s: %v", at, err)
				return
			}
			l.served.Add(1)
			if closes {
				kept.close()
				if !balanced {
					at = l.other
				}
			}
		}
	})
}

// keptConnection is an HTTP client that doesn't retry, as net/http's does when a
// persistent connection is closed.
type keptConnection struct {
	conn net.Conn
	in   *bufio.Reader
}

func (k *keptConnection) close() {
	if k.conn != nil {
		k.conn.Close()
		k.conn = nil
	}
}

// get makes a request and reports whether the answer asks to close.
func (k *keptConnection) get(base, path, token string) (closes bool, err error) {
	if k.conn == nil {
		if k.conn, err = net.Dial("tcp", strings.TrimPrefix(base, "http://")); err != nil {
			return false, err
		}
		k.in = bufio.NewReader(k.conn)
	}
	if err := k.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return false, err
	}
	const request = "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n"
	if _, err := fmt.Fprintf(k.conn, request, path, token); err != nil {
		return false, err
	}
	response, err := http.ReadResponse(k.in, nil)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return false, err
	}
	if response.StatusCode != http.StatusOK {
		return false, errors.New(response.Status)
	}
	return response.Close, nil
}

// A server that gets SIGTERM under load hands over to another one: it becomes
// unready first, no request fails, and streams and sockets are closed properly.
func TestDrainUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	const delay = 15 * time.Second
	env := append(withAdmin(newDatabase(t)), "SHUTDOWN_TIMEOUT=10s")
	_, other := serveWell(t, env...)
	p, c := serveWell(t, append(env, "DRAIN_DELAY="+delay.String())...)
	mission := c.newMission("Handed over")

	load := &steadyClients{one: c.base, other: other.base, path: mission, token: c.token, stop: make(chan struct{})}
	for i := range 16 {
		load.start(t, i%2 == 0)
	}
	var streams []*stream
	var sockets []*socket
	for range 10 {
		streams = append(streams, c.stream(mission))
		sockets = append(sockets, c.socket(mission))
	}
	eventually(t, "there is load", func() bool { return load.served.Load() > 200 })

	began := time.Now()
	p.signal(syscall.SIGTERM)
	eventually(t, "readiness says 503", func() bool {
		return c.get("/internal/health/ready").status == http.StatusServiceUnavailable
	})
	if took := time.Since(began); took >= delay {
		t.Errorf("readiness took %v of the delay of %v", took, delay)
	}
	load.moved.Store(true)
	before := load.served.Load()
	c.newSpec(mission, "late", nil) // while it drains it still serves, and streams
	for _, socket := range sockets {
		heard := socket.hear()
		if len(heard.Events) != 1 || heard.Events[0].Seq != 2 || heard.Events[0].Type != "spec.created" {
			t.Errorf("a socket got %+v", heard)
		}
	}
	for _, stream := range streams {
		if got := stream.rest(); !strings.Contains(got, `"type":"spec.created"`) {
			t.Errorf("a stream ended without spec.created: %s", got)
		}
	}
	for _, socket := range sockets {
		socket.wantGoingAway()
	}
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.err.text())
	}
	if took := time.Since(began); took < delay || took > patience {
		t.Errorf("it took %v to stop", took)
	}
	if conn, err := net.Dial("tcp", strings.TrimPrefix(c.base, "http://")); err == nil {
		conn.Close()
		t.Error("somebody still listens")
	}
	eventually(t, "the other server has the load", func() bool { return load.served.Load() > before+200 })
	close(load.stop)
	load.wg.Wait()
}

// socket is a WebSocket that is subscribed to the new events of a mission.
type socket struct {
	t    *testing.T
	conn *websocket.Conn
}

// message is the part of a server's message that the test looks at.
type message struct {
	Type   string
	Events []witness.Event
}

// socket opens a socket, until the test ends.
func (c *client) socket(mission string) *socket {
	c.t.Helper()
	authorized := &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + c.token}}}
	conn, _, err := websocket.Dial(c.t.Context(), c.base+"/ws", authorized)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.CloseNow() })
	s := &socket{c.t, conn}
	welcome := s.hear()
	subscribe := `{"type":"subscribe","topic":"mission","after":"latest","mission_id":"` + idOf(mission) + `"}`
	if err := conn.Write(c.t.Context(), websocket.MessageText, []byte(subscribe)); err != nil {
		c.t.Fatal(err)
	}
	if ack := s.hear(); welcome.Type != "welcome" || ack.Type != "ack" {
		c.t.Fatalf("a socket got %+v and %+v", welcome, ack)
	}
	return s
}

// hear returns the next message.
func (s *socket) hear() (m message) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if err := wsjson.Read(ctx, s.conn, &m); err != nil {
		s.t.Fatal(err)
	}
	return m
}

// wantGoingAway wants the server to close the socket because it stops.
func (s *socket) wantGoingAway() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if _, _, err := s.conn.Read(ctx); websocket.CloseStatus(err) != websocket.StatusGoingAway {
		s.t.Errorf("closed with %v, want %d", err, websocket.StatusGoingAway)
	}
}
