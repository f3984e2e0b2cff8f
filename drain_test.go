//go:build !nows

package main

import (
	"bufio"
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
)

// steadyClients make requests one after the other until stop is closed, each
// on a connection of its own that it keeps while it may. Half of them are sent
// to the other instance once readiness says 503, as a load balancer does; the
// others only handleMessage Connection: close, and go there with their next one.
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
			default:
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

// keptConnection is an HTTP client without second tries, which net/http's
// makes when a connection that it kept is closed.
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
	if _, err := fmt.Fprintf(k.conn, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", path, token); err != nil {
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

// A server that gets SIGTERM under load hands over to another one: readiness
// flips first, no request fails, streams and sockets are told.
func TestDrainUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	env := []string{"DATABASE_URL=" + newTestDatabase(t), "DRAIN_DELAY=1s", "SHUTDOWN_TIMEOUT=10s", "RATE_LIMIT=0", "LOG_LEVEL=warn",
		"ADMIN_EMAIL=root@example.com", "ADMIN_PASSWORD=" + testPassword}
	p, c := serve(t, env...)
	_, other := serve(t, env...)
	c.token = c.post("/api/v1/auth/login", map[string]any{"email": "root@example.com", "password": testPassword}).want(http.StatusOK).text("access_token")
	mission := c.newMission("Handed over")

	load := &steadyClients{one: c.base, other: other.base, path: mission, token: c.token, stop: make(chan struct{})}
	for i := range 16 {
		load.start(t, i%2 == 0)
	}
	var streams []*rawStream
	for range 10 {
		streams = append(streams, openRawStream(t, c, mission+"/events"))
	}
	var sockets []*websocket.Conn
	for range 10 {
		conn, _, err := websocket.Dial(t.Context(), c.base+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + c.token}}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseNow()
		hear(t, conn)
		say(t, conn, `{"type":"subscribe","topic":"mission","after":"latest","mission_id":"`+strings.TrimPrefix(mission, "/api/v1/missions/")+`"}`)
		sockets = append(sockets, conn)
	}
	eventually(t, "there is load", func() bool { return load.served.Load() > 200 })

	began := time.Now()
	p.signal(syscall.SIGTERM)
	eventually(t, "readiness says 503", func() bool {
		return c.get("/internal/health/ready").status == http.StatusServiceUnavailable
	})
	if took := time.Since(began); took > 900*time.Millisecond {
		t.Errorf("readiness took %v of the delay of 1 s", took)
	}
	load.moved.Store(true)
	before := load.served.Load()
	c.newSpec(mission, "late", nil) // while it drains it still serves, and streams
	for _, conn := range sockets {
		wantEvents(t, conn, 1, "spec.created")
	}
	for _, stream := range streams {
		stream.end("spec.created")
	}
	for _, conn := range sockets {
		wantClose(t, conn, websocket.StatusGoingAway)
	}
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.err.text())
	}
	if took := time.Since(began); took < time.Second || took > 8*time.Second {
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

// rawStream is a stream of server-sent events whose end is looked at closely.
type rawStream struct {
	t    *testing.T
	body io.ReadCloser
}

func openRawStream(t *testing.T, c *client, path string) *rawStream {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", c.base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+c.token)
	r.Header.Set("Accept", "text/event-stream")
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || response.StatusCode != http.StatusOK || len(response.TransferEncoding) != 1 {
		t.Fatalf("%v, %v", response, err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return &rawStream{t, response.Body}
}

// end reads to the last chunk, which a connection that is cut hasn't, and
// wants an event of a type to be in what came.
func (s *rawStream) end(kind string) {
	s.t.Helper()
	content, err := io.ReadAll(s.body)
	if err != nil {
		s.t.Errorf("a stream ended with: %v", err)
	}
	if !strings.Contains(string(content), `"type":"`+kind+`"`) {
		s.t.Errorf("a stream ended without %s: %s", kind, content)
	}
}
