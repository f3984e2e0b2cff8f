//go:build !nometrics

package main

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// metrics counts what the server does. Safe for concurrent use.
type metrics struct {
	inFlight atomic.Int64
	limited  atomic.Int64
	streams  atomic.Int64 // server-sent events
	events   atomic.Int64 // delivered
	mu       sync.Mutex   // guards requests
	requests map[requestLabels]int64
}

// requestLabels are bounded whatever clients send: the pattern is the route's.
type requestLabels struct {
	method, pattern string
	status          int
}

func newMetrics() *metrics { return &metrics{requests: make(map[requestLabels]int64)} }

func (m *metrics) requestStarted() { m.inFlight.Add(1) }

// requestDone counts a request. pattern is "" where no route took it.
func (m *metrics) requestDone(method, pattern string, status int, _ time.Duration) {
	m.inFlight.Add(-1)
	if !slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}, method) {
		method = "other"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests[requestLabels{method, pattern, status}]++
}

// rateLimited counts a refusal by a rate limit.
func (m *metrics) rateLimited() { m.limited.Add(1) }

func (m *metrics) streamOpened() { m.streams.Add(1) }

func (m *metrics) streamClosed() { m.streams.Add(-1) }

// eventsDelivered counts events that went into clients' queues.
func (m *metrics) eventsDelivered(n int) { m.events.Add(int64(n)) }

func (s *Server) metricsRoutes(p permission) {
	s.handle(p, "GET /internal/metrics", s.getMetrics)
}

// getMetrics is GET /internal/metrics, in Prometheus's text format.
func (s *Server) getMetrics(w http.ResponseWriter, r *http.Request) error {
	if err := newQuery(r).err(); err != nil {
		return err
	}
	var b bytes.Buffer
	s.metrics.write(&b)
	writeBytes(w, r, http.StatusOK, "text/plain; version=0.0.4; charset=utf-8", b.Bytes())
	return nil
}

func (m *metrics) write(b *bytes.Buffer) {
	m.mu.Lock()
	requests := maps.Clone(m.requests)
	m.mu.Unlock()
	labels := slices.SortedFunc(maps.Keys(requests), func(a, b requestLabels) int {
		return bytes.Compare([]byte(a.pattern+a.method+strconv.Itoa(a.status)), []byte(b.pattern+b.method+strconv.Itoa(b.status)))
	})
	fmt.Fprintf(b, "# HELP http_requests_total Requests answered.\n# TYPE http_requests_total counter\n")
	for _, l := range labels {
		fmt.Fprintf(b, "http_requests_total{method=%q,pattern=%q,status=\"%d\"} %d\n", l.method, l.pattern, l.status, requests[l])
	}
	fmt.Fprintf(b, "# HELP http_requests_in_flight Requests being answered.\n# TYPE http_requests_in_flight gauge\nhttp_requests_in_flight %d\n", m.inFlight.Load())
	fmt.Fprintf(b, "# HELP tachikoma_rate_limited_total Requests refused by a rate limit.\n# TYPE tachikoma_rate_limited_total counter\ntachikoma_rate_limited_total %d\n", m.limited.Load())
	fmt.Fprintf(b, "# HELP tachikoma_build_info The version that runs.\n# TYPE tachikoma_build_info gauge\ntachikoma_build_info{version=%q} 1\n", version())
}
