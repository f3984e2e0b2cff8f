//go:build !nows

package main

// How fast events reach those who watch, and what watching costs. If there is
// something to compare with, it is measured in the same run. TACHIKOMA_LONG=1 uses
// as many WebSockets as the targets are for.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"tachikoma/internal/witness"
)

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
