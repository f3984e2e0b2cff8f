//go:build !nometrics

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// totalsLimit is how long the database has to answer the query of a scrape.
const totalsLimit = time.Second

// requestBounds and lagBounds are the upper bounds of the histograms' buckets.
var (
	requestBounds = []time.Duration{
		5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
		250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second,
		10 * time.Second,
	}
	lagBounds = []time.Duration{
		time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
		50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second,
		2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second,
	}
)

// counters count what this process has done since its start. Safe for concurrent
// use; counting never waits, except for the first request of a kind.
type counters struct {
	inFlight atomic.Int64
	limited  atomic.Int64
	streams  atomic.Int64 // server-sent events
	sockets  atomic.Int64 // WebSockets
	events   atomic.Int64 // delivered
	slow     atomic.Int64 // clients closed because they read too slowly
	claims   atomic.Int64 // granted
	expired  atomic.Int64 // leases taken back
	lag      *histogram

	// requests is replaced, never changed: counting only reads it. The route table
	// bounds its size, whatever clients send.
	requests atomic.Pointer[map[requestLabels]*requestSeries]
	adding   sync.Mutex // held to replace requests
}

// requestLabels are the labels of a request. pattern is the route's, "" for none.
type requestLabels struct {
	method, pattern string
	status          int
}

// requestSeries counts the requests with the same labels. Series that differ only
// in their status share the histogram.
type requestSeries struct {
	count    atomic.Int64
	duration *histogram
}

func newCounters() *counters {
	m := &counters{lag: newHistogram(lagBounds)}
	m.requests.Store(&map[requestLabels]*requestSeries{})
	return m
}

func (m *counters) requestStarted() { m.inFlight.Add(1) }

// requestDone counts a request. pattern is as the route was registered, with
// its method; "" where no route took the request.
func (m *counters) requestDone(method, pattern string, status int, took time.Duration) {
	m.inFlight.Add(-1)
	_, path, _ := strings.Cut(pattern, " ")
	series := m.seriesOf(requestLabels{knownMethod(method), path, status})
	series.count.Add(1)
	series.duration.observe(took)
}

func knownMethod(method string) string {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
		return method
	}
	return "other"
}

// seriesOf returns the series of these labels, creating it if need be.
func (m *counters) seriesOf(labels requestLabels) *requestSeries {
	if series := (*m.requests.Load())[labels]; series != nil {
		return series
	}
	m.adding.Lock()
	defer m.adding.Unlock()
	grown := maps.Clone(*m.requests.Load())
	if series := grown[labels]; series != nil {
		return series
	}
	series := &requestSeries{}
	for other, its := range grown {
		if other.method == labels.method && other.pattern == labels.pattern {
			series.duration = its.duration
		}
	}
	if series.duration == nil {
		series.duration = newHistogram(requestBounds)
	}
	labels.method = strings.Clone(labels.method) // so that it doesn't keep the whole request line
	grown[labels] = series
	m.requests.Store(&grown)
	return series
}

// rateLimited counts a refusal by a rate limit.
func (m *counters) rateLimited() { m.limited.Add(1) }

func (m *counters) streamOpened() { m.streams.Add(1) }

func (m *counters) streamClosed() { m.streams.Add(-1) }

func (m *counters) socketOpened() { m.sockets.Add(1) }

func (m *counters) socketClosed() { m.sockets.Add(-1) }

// slowClosed counts a client that was closed because it read too slowly.
func (m *counters) slowClosed() { m.slow.Add(1) }

// eventsDelivered counts events that went into clients' queues.
func (m *counters) eventsDelivered(n int) { m.events.Add(int64(n)) }

// deliveryLag records how long after its commit an event was delivered.
func (m *counters) deliveryLag(d time.Duration) { m.lag.observe(d) }

// claimGranted counts a claim, after its commit.
func (m *counters) claimGranted() { m.claims.Add(1) }

// leaseExpired counts leases taken back, after the commit.
func (m *counters) leaseExpired(n int) { m.expired.Add(int64(n)) }

// histogram counts durations by size. Safe for concurrent use; never waits.
type histogram struct {
	bounds []time.Duration
	counts []atomic.Int64 // one more than bounds; not cumulative
	sum    atomic.Int64   // nanoseconds
}

func newHistogram(bounds []time.Duration) *histogram {
	return &histogram{bounds: bounds, counts: make([]atomic.Int64, len(bounds)+1)}
}

// observe counts a duration. A negative one, as clocks that differ can give, counts as 0.
func (h *histogram) observe(d time.Duration) {
	d = max(d, 0)
	i := 0
	for i < len(h.bounds) && d > h.bounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

func (s *Server) operatorRoutes(mux *http.ServeMux, p permission) {
	s.register(mux, route{pattern: "GET /internal/metrics", permission: p, answer: withoutQuery(s.getMetrics)})
}

// getMetrics is GET /internal/metrics, in Prometheus's text format 0.0.4.
// Without a database the series that come from there are left out.
func (s *Server) getMetrics(w http.ResponseWriter, r *http.Request, c *call) error {
	var x exposition
	s.counters.writeRequests(&x)
	s.counters.writeLive(&x)
	s.writeServer(&x)
	if s.opened.Load() {
		s.writePool(&x)
		s.writeWork(r.Context(), &x)
	}
	writeGo(&x)
	writeProcess(&x, s.started)
	return writeBytes(w, r, c, http.StatusOK, "text/plain; version=0.0.4; charset=utf-8", x.Bytes())
}

func (m *counters) writeRequests(x *exposition) {
	requests := *m.requests.Load()
	sorted := slices.SortedFunc(maps.Keys(requests), func(a, b requestLabels) int {
		return cmp.Or(strings.Compare(a.pattern, b.pattern), strings.Compare(a.method, b.method), a.status-b.status)
	})
	x.family("http_requests_total", "counter", "Requests answered, by the pattern of their route.")
	for _, l := range sorted {
		x.sample("http_requests_total", float64(requests[l].count.Load()),
			"method", l.method, "pattern", l.pattern, "status", strconv.Itoa(l.status))
	}
	x.family("http_request_duration_seconds", "histogram",
		"Time from a request's header to the end of its response; streams, WebSockets and waiting claims last long.")
	var last requestLabels
	for i, l := range sorted {
		if i == 0 || l.method != last.method || l.pattern != last.pattern {
			x.histogram("http_request_duration_seconds", requests[l].duration, "method", l.method, "pattern", l.pattern)
		}
		last = l
	}
	x.gauge("http_requests_in_flight", "Requests being answered, with streams and WebSockets.", float64(m.inFlight.Load()))
	x.counter("tachikoma_rate_limited_total", "Requests refused by a rate limit.", float64(m.limited.Load()))
}

func (m *counters) writeLive(x *exposition) {
	x.gauge("tachikoma_websocket_connections", "Open WebSockets.", float64(m.sockets.Load()))
	x.gauge("tachikoma_sse_streams", "Open streams of server-sent events.", float64(m.streams.Load()))
	x.counter("tachikoma_events_delivered_total", "Events handed to clients; one counts for each client.",
		float64(m.events.Load()))
	x.counter("tachikoma_slow_closes_total", "Clients closed because they read too slowly.", float64(m.slow.Load()))
	x.family("tachikoma_delivery_lag_seconds", "histogram",
		"Time from an event's commit to the queues of its live followers, by an estimate of the database's clock.")
	x.histogram("tachikoma_delivery_lag_seconds", m.lag)
	x.counter("tachikoma_claims_total", "Claims that this process granted.", float64(m.claims.Load()))
	x.counter("tachikoma_leases_expired_total", "Expired leases that this process took back.", float64(m.expired.Load()))
}

// writeServer writes the state of the process as a whole.
func (s *Server) writeServer(x *exposition) {
	x.family("tachikoma_build_info", "gauge", "The version that runs; always 1.")
	x.sample("tachikoma_build_info", 1, "version", programVersion(), "goversion", runtime.Version())
	x.gauge("tachikoma_ready", "Whether requests should be sent here, as GET /internal/health/ready says.",
		oneIf(s.status().Status == "ok"))
	running, queued := s.hasher.InUse()
	x.gauge("tachikoma_argon2_running", "Password hashes being computed.", float64(running))
	x.gauge("tachikoma_argon2_queued", "Password hashes that wait to be computed.", float64(queued))
	trouble := s.trouble.get()
	x.gauge("tachikoma_database_up", "Whether the database answers.", oneIf(s.opened.Load() && trouble != unreachable))
	x.gauge("tachikoma_database_writable", "Whether the database accepts writes.",
		oneIf(s.opened.Load() && trouble == noTrouble))
	if s.opened.Load() {
		x.gauge("tachikoma_database_latency_seconds", "Time the database took for the last poll.",
			time.Duration(s.feed.latency.Load()).Seconds())
		age := time.Since(s.feed.started) - time.Duration(s.feed.polledAt.Load())
		x.gauge("tachikoma_feed_poll_age_seconds", "Time since the last good poll for what other instances did.",
			age.Seconds())
	}
}

// writePool writes the statistics of the connections to the database.
func (s *Server) writePool(x *exposition) {
	stat, waited := s.db.Stat(), time.Duration(s.db.waited.Load()) // for a place, before pgxpool sees it
	x.family("tachikoma_pool_connections", "gauge", "Connections of the pool by their state.")
	x.sample("tachikoma_pool_connections", float64(stat.AcquiredConns()), "state", "acquired")
	x.sample("tachikoma_pool_connections", float64(stat.ConstructingConns()), "state", "constructing")
	x.sample("tachikoma_pool_connections", float64(stat.IdleConns()), "state", "idle")
	x.gauge("tachikoma_pool_max_connections", "Connections that the pool may have, DATABASE_MAX_CONNS.",
		float64(stat.MaxConns()))
	x.counter("tachikoma_pool_acquires_total", "Connections taken from the pool.", float64(stat.AcquireCount()))
	x.counter("tachikoma_pool_acquire_seconds_total", "Time spent on taking connections from the pool.",
		(stat.AcquireDuration() + waited).Seconds())
	x.counter("tachikoma_pool_waits_total", "Connections that were waited for, because none was idle.",
		float64(stat.EmptyAcquireCount()+s.db.waits.Load()))
	x.counter("tachikoma_pool_wait_seconds_total", "Time waited for connections, because none was idle.",
		(stat.EmptyAcquireWaitTime() + waited).Seconds())
	x.counter("tachikoma_pool_canceled_acquires_total", "Waits for a connection that ended without one.",
		float64(stat.CanceledAcquireCount()))
	x.counter("tachikoma_pool_connections_opened_total", "Connections made.", float64(stat.NewConnsCount()))
	x.counter("tachikoma_pool_connections_refused_total",
		"Connections that the database refused because it had too many.",
		float64(s.db.refused.Load()))
	x.family("tachikoma_pool_connections_retired_total", "counter",
		"Connections closed by the pool because they were too old or idle for too long.")
	x.sample("tachikoma_pool_connections_retired_total", float64(stat.MaxIdleDestroyCount()), "reason", "idle")
	x.sample("tachikoma_pool_connections_retired_total", float64(stat.MaxLifetimeDestroyCount()), "reason", "old")
}

// writeWork writes the totals of all missions, as the sweep of some instance has
// last counted them. They are the same on every instance.
func (s *Server) writeWork(ctx context.Context, x *exposition) {
	ctx, cancel := context.WithTimeout(ctx, totalsLimit)
	defer cancel()
	n, err := s.readTotals(ctx)
	if errors.Is(err, pgx.ErrNoRows) {
		return
	}
	if err != nil {
		s.log.WarnContext(ctx, "the totals are missing from the metrics", "error", err)
		return
	}
	x.family("tachikoma_missions", "gauge", "Missions by status.")
	for i, status := range missionStatuses {
		x.sample("tachikoma_missions", float64(n.missions[i]), "status", status)
	}
	x.family("tachikoma_specs", "gauge", "Specs by status.")
	for _, status := range specStatuses {
		x.sample("tachikoma_specs", float64(n.specs[status]), "status", status)
	}
	x.gauge("tachikoma_specs_ready", "Specs that a claim may take.", float64(n.ready))
	x.gauge("tachikoma_leases", "Specs that somebody holds.", float64(n.leases))
	x.gauge("tachikoma_oldest_lease_age_seconds",
		"Time since the claim of the spec held for longest; 0 where none is held.", n.oldest)
	x.gauge("tachikoma_oldest_question_age_seconds",
		"Age of the oldest open question; 0 if there is none.", n.unanswered)
	x.gauge("tachikoma_oldest_waiting_age_seconds",
		"Longest time that a spec has been waiting for a person; 0 if none is.", n.waiting)
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// exposition is metrics in Prometheus's text format 0.0.4:
// https://prometheus.io/docs/instrumenting/exposition_formats/
type exposition struct{ bytes.Buffer }

var (
	helpEscapes  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	labelEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// family begins a metric. All its samples come right after it.
func (x *exposition) family(name, kind, help string) {
	fmt.Fprintf(x, "# HELP %s %s\n# TYPE %s %s\n", name, helpEscapes.Replace(help), name, kind)
}

func (x *exposition) counter(name, help string, value float64) {
	x.family(name, "counter", help)
	x.sample(name, value)
}

func (x *exposition) gauge(name, help string, value float64) {
	x.family(name, "gauge", help)
	x.sample(name, value)
}

// sample writes one value. labels are names and values.
func (x *exposition) sample(name string, value float64, labels ...string) {
	x.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		x.WriteByte("{,"[min(i, 1)])
		x.WriteString(labels[i] + `="` + labelEscapes.Replace(labels[i+1]) + `"`)
	}
	if len(labels) > 0 {
		x.WriteByte('}')
	}
	x.WriteString(" " + formatFloat(value) + "\n")
}

// histogram writes the samples of a histogram: cumulative buckets, their sum
// and their count.
func (x *exposition) histogram(name string, h *histogram, labels ...string) {
	total := int64(0)
	for i := range h.counts {
		total += h.counts[i].Load()
		le := "+Inf"
		if i < len(h.bounds) {
			le = formatFloat(h.bounds[i].Seconds())
		}
		x.sample(name+"_bucket", float64(total), append(slices.Clip(labels), "le", le)...)
	}
	x.sample(name+"_sum", time.Duration(h.sum.Load()).Seconds(), labels...)
	x.sample(name+"_count", float64(total), labels...)
}

func formatFloat(value float64) string { return strconv.FormatFloat(value, 'g', -1, 64) }

// writeGo writes go_*, with the names of Prometheus's client_golang, so that its
// dashboards fit. That would be a fifth module, of 62 packages; all others have 56.
func writeGo(x *exposition) {
	gc := debug.GCStats{PauseQuantiles: make([]time.Duration, 5)}
	debug.ReadGCStats(&gc)
	x.family("go_gc_duration_seconds", "summary", "Pauses of garbage collections.")
	for i, pause := range gc.PauseQuantiles {
		x.sample("go_gc_duration_seconds", pause.Seconds(), "quantile", formatFloat(float64(i)/4))
	}
	x.sample("go_gc_duration_seconds_sum", gc.PauseTotal.Seconds())
	x.sample("go_gc_duration_seconds_count", float64(gc.NumGC))

	settings := []runtimemetrics.Sample{{Name: "/gc/gogc:percent"}, {Name: "/gc/gomemlimit:bytes"}}
	runtimemetrics.Read(settings)
	x.gauge("go_gc_gogc_percent", "How much the heap may grow between garbage collections, GOGC.",
		float64(settings[0].Value.Uint64()))
	x.gauge("go_gc_gomemlimit_bytes", "Limit of the runtime's memory, GOMEMLIMIT.", float64(settings[1].Value.Uint64()))

	threads, _ := runtime.ThreadCreateProfile(nil)
	x.gauge("go_goroutines", "Goroutines that exist.", float64(runtime.NumGoroutine()))
	x.gauge("go_threads", "Threads of the operating system that were created.", float64(threads))
	x.gauge("go_sched_gomaxprocs_threads", "Threads that run Go code at once, GOMAXPROCS.", float64(runtime.GOMAXPROCS(0)))
	x.family("go_info", "gauge", "The version of Go; always 1.")
	x.sample("go_info", 1, "version", runtime.Version())

	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	x.gauge("go_memstats_alloc_bytes", "Bytes of allocated objects on the heap.", float64(m.Alloc))
	x.counter("go_memstats_alloc_bytes_total", "Bytes ever allocated on the heap.", float64(m.TotalAlloc))
	x.gauge("go_memstats_buck_hash_sys_bytes", "Bytes of the profiler's hash table.", float64(m.BuckHashSys))
	x.counter("go_memstats_frees_total", "Objects freed.", float64(m.Frees))
	x.gauge("go_memstats_gc_sys_bytes", "Bytes of the garbage collector's metadata.", float64(m.GCSys))
	x.gauge("go_memstats_heap_alloc_bytes", "Bytes of allocated objects on the heap, as alloc_bytes.",
		float64(m.HeapAlloc))
	x.gauge("go_memstats_heap_idle_bytes", "Bytes of the heap that aren't used.", float64(m.HeapIdle))
	x.gauge("go_memstats_heap_inuse_bytes", "Bytes of the heap that are used.", float64(m.HeapInuse))
	x.gauge("go_memstats_heap_objects", "Objects on the heap.", float64(m.HeapObjects))
	x.gauge("go_memstats_heap_released_bytes", "Bytes of the heap given back to the operating system.",
		float64(m.HeapReleased))
	x.gauge("go_memstats_heap_sys_bytes", "Bytes of the heap obtained from the operating system.", float64(m.HeapSys))
	x.gauge("go_memstats_last_gc_time_seconds", "When the last garbage collection ended, since 1970.",
		float64(m.LastGC)/1e9)
	x.counter("go_memstats_mallocs_total", "Objects allocated.", float64(m.Mallocs))
	x.gauge("go_memstats_mcache_inuse_bytes", "Bytes of the allocator's caches that are used.", float64(m.MCacheInuse))
	x.gauge("go_memstats_mcache_sys_bytes", "Bytes of the allocator's caches.", float64(m.MCacheSys))
	x.gauge("go_memstats_mspan_inuse_bytes", "Bytes of the allocator's spans that are used.", float64(m.MSpanInuse))
	x.gauge("go_memstats_mspan_sys_bytes", "Bytes of the allocator's spans.", float64(m.MSpanSys))
	x.gauge("go_memstats_next_gc_bytes", "Size of the heap at which the next garbage collection begins.",
		float64(m.NextGC))
	x.gauge("go_memstats_other_sys_bytes", "Bytes of other parts of the runtime.", float64(m.OtherSys))
	x.gauge("go_memstats_stack_inuse_bytes", "Bytes of goroutines' stacks.", float64(m.StackInuse))
	x.gauge("go_memstats_stack_sys_bytes", "Bytes of stacks obtained from the operating system.", float64(m.StackSys))
	x.gauge("go_memstats_sys_bytes", "Bytes obtained from the operating system.", float64(m.Sys))
}

// writeProcess writes process_*. Those that come from Linux's /proc are left out
// elsewhere. started is when the server was made, milliseconds after the process
// started.
func writeProcess(x *exposition, started time.Time) {
	x.gauge("process_start_time_seconds", "When the process started, since 1970.", float64(started.UnixMilli())/1e3)
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) == nil {
		cpu := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
		x.counter("process_cpu_seconds_total", "Time on processors, the kernel's included.", cpu.Seconds())
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		x.gauge("process_max_fds", "File descriptors that may be open.", float64(limit.Cur))
	}
	if syscall.Getrlimit(syscall.RLIMIT_AS, &limit) == nil {
		x.gauge("process_virtual_memory_max_bytes", "Virtual memory that may be used.", float64(limit.Cur))
	}
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		x.gauge("process_open_fds", "File descriptors that are open.", float64(len(open)-1)) // one is for reading this
	}
	var virtual, resident uint64 // pages
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil {
		if _, err := fmt.Fscan(bytes.NewReader(statm), &virtual, &resident); err == nil {
			page := float64(os.Getpagesize())
			x.gauge("process_virtual_memory_bytes", "Virtual memory that is used.", float64(virtual)*page)
			x.gauge("process_resident_memory_bytes", "Memory that is used.", float64(resident)*page)
		}
	}
}
