//go:build !nometrics

package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// family is a metric as a scrape has it.
type family struct {
	kind    string
	samples map[string]float64 // by name and labels, as in the text
}

var (
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$`)
	labelPair  = regexp.MustCompile(`^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)`)
)

// parseMetrics reads the text format 0.0.4, more strictly than Prometheus:
// every family has HELP, TYPE and then its samples, in one place; no series is a
// duplicate; counters end in _total; histograms are cumulative.
func parseMetrics(t testing.TB, text string) map[string]family {
	t.Helper()
	families := make(map[string]family)
	if !strings.HasSuffix(text, "\n") {
		t.Fatal("the last line has no end")
	}
	name, helped := "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if rest, is := strings.CutPrefix(line, "# HELP "); is {
			help := ""
			if helped, help, _ = strings.Cut(rest, " "); help == "" {
				t.Errorf("%s has no help", helped)
			}
			continue
		}
		if rest, is := strings.CutPrefix(line, "# TYPE "); is {
			kind := ""
			name, kind, _ = strings.Cut(rest, " ")
			if _, twice := families[name]; twice || helped != name {
				t.Errorf("%q comes twice or without its HELP", line)
			}
			if (kind == "counter") != strings.HasSuffix(name, "_total") {
				t.Errorf("%s is a %s", name, kind)
			}
			families[name] = family{kind, make(map[string]float64)}
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("not a sample: %q", line)
		}
		f := families[name]
		if suffix := strings.TrimPrefix(m[1], name); m[1] != name+suffix || !slices.Contains(map[string][]string{
			"counter": {""}, "gauge": {""}, "summary": {"", "_sum", "_count"}, "histogram": {"_bucket", "_sum", "_count"},
		}[f.kind], suffix) {
			t.Errorf("%q stands among %s", line, name)
		}
		labelsOf(t, m[2])
		value, err := strconv.ParseFloat(m[3], 64)
		series, _, _ := strings.Cut(line, "} ")
		if m[2] == "" {
			series = m[1]
		} else {
			series += "}"
		}
		if _, twice := f.samples[series]; twice || err != nil || math.IsNaN(value) {
			t.Errorf("%q: %v, or a duplicate", line, err)
		}
		f.samples[series] = value
	}
	for name, f := range families {
		if f.kind == "histogram" {
			checkHistogram(t, name, f)
		}
	}
	return families
}

// labelsOf parses the text between the braces of a sample.
func labelsOf(t testing.TB, text string) map[string]string {
	t.Helper()
	labels := make(map[string]string)
	for text != "" {
		m := labelPair.FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("not labels: %q", text)
		}
		if _, twice := labels[m[1]]; twice {
			t.Errorf("the label %s is a duplicate", m[1])
		}
		labels[m[1]] = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\"`, `"`).Replace(m[2])
		text = text[len(m[0]):]
	}
	return labels
}

// checkHistogram wants buckets that grow, up to the count, and a sum that fits them.
func checkHistogram(t testing.TB, name string, f family) {
	t.Helper()
	type bucket struct{ le, n float64 }
	buckets := make(map[string][]bucket)
	for series, n := range f.samples {
		labels, is := strings.CutPrefix(series, name+"_bucket{")
		if !is {
			continue
		}
		at := strings.LastIndex(labels, `le="`)
		le, err := strconv.ParseFloat(strings.TrimSuffix(labels[at+4:], `"}`), 64)
		if err != nil {
			t.Fatalf("%s: %v", series, err)
		}
		key := ""
		if at > 0 {
			key = "{" + labels[:at-1] + "}"
		}
		buckets[key] = append(buckets[key], bucket{le, n})
	}
	for key, all := range buckets {
		slices.SortFunc(all, func(a, b bucket) int { return int(math.Copysign(1, a.le-b.le)) })
		least, below := 0., bucket{}
		for _, b := range all {
			if b.n < below.n {
				t.Errorf("%s%s isn't cumulative at %v", name, key, b.le)
			}
			least += (b.n - below.n) * below.le
			below = b
		}
		count, sum := f.samples[name+"_count"+key], f.samples[name+"_sum"+key]
		if !math.IsInf(below.le, 1) || below.n != count || sum < least {
			t.Errorf("%s%s: the last bucket is %v with %v, the count %v, the sum %v, at least %v by the buckets",
				name, key, below.le, below.n, count, sum, least)
		}
	}
}

// scrape reads the metrics as an admin, with the work as it is now.
func (c *client) scrape(s *testServer) map[string]family {
	c.t.Helper()
	if _, err := s.db.Exec(c.t.Context(), totalsSQL); err != nil {
		c.t.Fatal(err)
	}
	a := c.get("/internal/metrics").want(http.StatusOK)
	if got := a.header.Get("Content-Type"); got != "text/plain; version=0.0.4; charset=utf-8" {
		c.t.Errorf("Content-Type: %s", got)
	}
	return parseMetrics(c.t, string(a.body))
}

// value returns a sample of a scrape; if it is absent, the test ends.
func value(t testing.TB, scraped map[string]family, series string) float64 {
	t.Helper()
	for _, f := range scraped {
		if n, there := f.samples[series]; there {
			return n
		}
	}
	t.Fatalf("the scrape has no %s", series)
	return 0
}

func TestMetricsHaveEveryFamily(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	scraped := s.signUp("root", "admin").scrape(s)
	for kind, names := range map[string]string{
		"counter": `http_requests_total tachikoma_rate_limited_total tachikoma_events_delivered_total tachikoma_slow_closes_total
			tachikoma_claims_total tachikoma_leases_expired_total tachikoma_pool_acquires_total tachikoma_pool_wait_seconds_total tachikoma_pool_connections_refused_total
			go_memstats_mallocs_total go_memstats_frees_total process_cpu_seconds_total`,
		"gauge": `http_requests_in_flight tachikoma_websocket_connections tachikoma_sse_streams tachikoma_argon2_running tachikoma_argon2_queued
			tachikoma_build_info tachikoma_ready tachikoma_database_up tachikoma_database_writable tachikoma_feed_poll_age_seconds tachikoma_pool_connections
			tachikoma_specs tachikoma_missions tachikoma_specs_ready tachikoma_leases tachikoma_oldest_lease_age_seconds
			tachikoma_oldest_question_age_seconds
			go_goroutines go_threads go_info go_memstats_alloc_bytes go_memstats_heap_inuse_bytes go_memstats_sys_bytes
			process_start_time_seconds process_max_fds`,
		"histogram": `http_request_duration_seconds tachikoma_delivery_lag_seconds`,
		"summary":   `go_gc_duration_seconds`,
	} {
		for name := range strings.FieldsSeq(names) {
			if f := scraped[name]; f.kind != kind || len(f.samples) == 0 {
				t.Errorf("%s is a %q with %d samples, want a %s", name, f.kind, len(f.samples), kind)
			}
		}
	}
	for series, want := range map[string]float64{"tachikoma_ready": 1, "tachikoma_database_up": 1,
		"tachikoma_database_writable": 1, "http_requests_in_flight": 1, "tachikoma_oldest_lease_age_seconds": 0} {
		if got := value(t, scraped, series); got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
	if _, linux := os.Stat("/proc/self/statm"); linux == nil &&
		value(t, scraped, "process_resident_memory_bytes") < 1<<20 {
		t.Error("the process has no memory")
	}
}

func TestMetricsAreForAdmins(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	s.anonymous().get("/internal/metrics").wantProblem(http.StatusUnauthorized, "unauthenticated")
	s.signUp("ada", "user").get("/internal/metrics").wantProblem(http.StatusForbidden, "forbidden")
	s.signUp("root", "admin").withKey("read").get("/internal/metrics").want(http.StatusOK)
}

func TestMetricsCountRequests(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.RateLimit = 20 })
	root, ada := s.signUp("root", "admin"), s.signUp("ada", "user")
	mission := ada.newMission("Counted")
	for range 3 {
		ada.get(mission).want(http.StatusOK)
	}
	ada.get("/api/v1/missions/" + newID()).want(http.StatusNotFound)
	for ada.get(mission).status != http.StatusTooManyRequests {
	}
	scraped := root.scrape(s)
	const labels = `{method="GET",pattern="/api/v1/missions/{id}",status="`
	ok, refused := value(t, scraped, `http_requests_total`+labels+`200"}`),
		value(t, scraped, `http_requests_total`+labels+`429"}`)
	timed := value(t, scraped, `http_request_duration_seconds_count{method="GET",pattern="/api/v1/missions/{id}"}`)
	if ok < 3 || refused != 1 || timed != ok+refused+1 {
		t.Errorf("%v answers of 200, %v of 429, %v durations", ok, refused, timed)
	}
	if got := value(t, scraped, `http_requests_total`+labels+`404"}`); got != 1 {
		t.Errorf("%v answers of 404", got)
	}
	if got := value(t, scraped, "tachikoma_rate_limited_total"); got != 1 {
		t.Errorf("%v requests were refused", got)
	}
}

// Whatever clients send, labels are existing methods, patterns of routes and
// statuses.
func TestMetricsLabelsAreBounded(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	root := s.signUp("root", "admin")
	for _, method := range []string{"BREW", "get", "PROPFIND", "X\"Y", "GET"} {
		for _, path := range []string{"/", "/api/v1/missions", "/api/v1/missions/a%22b%0a", "/nobody/home",
			"/internal/debug/pprof/x"} {
			r := httptest.NewRequest("GET", path, nil)
			r.Method = method
			s.router().ServeHTTP(httptest.NewRecorder(), r)
		}
	}
	patterns := []string{""}
	for _, route := range slices.Concat(s.table, s.pages) {
		_, path, _ := strings.Cut(route.pattern, " ")
		patterns = append(patterns, path)
	}
	for series := range root.scrape(s)["http_requests_total"].samples {
		labels := labelsOf(t, strings.TrimSuffix(strings.TrimPrefix(series, "http_requests_total{"), "}"))
		if !slices.Contains([]string{"GET", "POST",
			"other"}, labels["method"]) || !slices.Contains(patterns, labels["pattern"]) || len(labels["status"]) != 3 {
			t.Errorf("got %v", labels)
		}
	}
}

func TestMetricsCountWork(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	s.pauseSweep()
	root := s.signUp("root", "admin")
	mission := root.newMission("Work")
	for _, key := range []string{"one", "two", "three"} {
		root.newSpec(mission, key, nil)
	}
	root.post(mission+"/start", nil).want(http.StatusOK)
	spec, _ := root.claim(mission, "bot")
	if _, err := s.db.Exec(t.Context(), `UPDATE leases SET claimed_at = claimed_at - interval '1 hour'`); err != nil {
		t.Fatal(err)
	}
	want := func(values map[string]float64) {
		t.Helper()
		scraped := root.scrape(s)
		for series, want := range values {
			if got := value(t, scraped, series); got != want {
				t.Errorf("%s is %v, want %v", series, got, want)
			}
		}
	}
	if age := value(t, root.scrape(s), "tachikoma_oldest_lease_age_seconds"); age < 3600 || age > 3600+patience.Seconds() {
		t.Errorf("the oldest lease is %v s old", age)
	}
	want(map[string]float64{
		`tachikoma_missions{status="active"}`: 1, `tachikoma_missions{status="draft"}`: 0,
		`tachikoma_specs{status="planned"}`: 2, `tachikoma_specs{status="in_progress"}`: 1,
		`tachikoma_specs{status="blocked"}`: 0,
		"tachikoma_specs_ready":             2, "tachikoma_leases": 1, "tachikoma_claims_total": 1,
		"tachikoma_leases_expired_total": 0,
	})
	s.expireLease(spec)
	root.claim(mission, "bot") // takes back first
	want(map[string]float64{"tachikoma_leases": 1, "tachikoma_claims_total": 2, "tachikoma_leases_expired_total": 1})
	root.post(mission+"/pause", nil).want(http.StatusOK)
	want(map[string]float64{`tachikoma_missions{status="paused"}`: 1, "tachikoma_specs_ready": 0})
}

func TestMetricsSayHowLateEventsAre(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	root := s.signUp("root", "admin")
	mission := root.newMission("Live")
	stream := root.stream(mission + "/events")
	stream.want("mission.created", 0)
	eventually(t, "the database's clock is known", func() bool { return s.hub.ahead.Load() != nil })
	root.newSpec(mission, "one", nil)
	stream.want("spec.created", 1)
	scraped := root.scrape(s)
	for series, want := range map[string]float64{"tachikoma_sse_streams": 1, "tachikoma_events_delivered_total": 2,
		"tachikoma_delivery_lag_seconds_count": 1} {
		if got := value(t, scraped, series); got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
	if lag := value(t, scraped, "tachikoma_delivery_lag_seconds_sum"); lag > patience.Seconds() {
		t.Errorf("an event was %v s late", lag)
	}
	stream.cancel()
	eventually(t, "the stream is closed", func() bool { return value(t, root.scrape(s), "tachikoma_sse_streams") == 0 })
}

// If the database can't answer, a scrape takes a second and lacks the series that
// come from there.
func TestMetricsAreServedWithoutTheDatabase(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	root := s.signUp("root", "admin")
	root.scrape(s)
	held, err := s.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Rollback(t.Context()) //nolint:errcheck // there is nothing to keep
	if _, err := held.Exec(t.Context(), `LOCK TABLE totals IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	scraped := parseMetrics(t, string(root.get("/internal/metrics").want(http.StatusOK).body))
	if _, there := scraped["tachikoma_specs"]; there || len(scraped["http_requests_total"].samples) == 0 {
		t.Error("want the requests and not the specs")
	}
	if err := held.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	value(t, root.scrape(s), "tachikoma_leases")
}

func TestHistogramCountsAndSums(t *testing.T) {
	t.Parallel()
	h := newHistogram(requestBounds)
	for _, d := range []time.Duration{-time.Second, 0, 5 * time.Millisecond, 6 * time.Millisecond, time.Second,
		10 * time.Second, time.Hour} {
		h.observe(d)
	}
	var x exposition
	x.family("h", "histogram", "A histogram.")
	x.histogram("h", h, "a", "b")
	parsed := parseMetrics(t, x.String())
	for series, want := range map[string]float64{
		`h_bucket{a="b",le="0.005"}`: 3, `h_bucket{a="b",le="0.01"}`: 4, `h_bucket{a="b",le="0.5"}`: 4,
		`h_bucket{a="b",le="1"}`:  5,
		`h_bucket{a="b",le="10"}`: 6, `h_bucket{a="b",le="+Inf"}`: 7, `h_count{a="b"}`: 7, `h_sum{a="b"}`: 3611.011,
	} {
		if got := value(t, parsed, series); got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
}

func TestExpositionEscapes(t *testing.T) {
	t.Parallel()
	const odd = "a\\b\"c\nd\té"
	var x exposition
	x.family("odd", "gauge", odd)
	x.sample("odd", 1, "label", odd)
	if got, want := x.String(), "# HELP odd a\\\\b\"c\\nd\té\n# TYPE odd gauge\nodd{label=\"a\\\\b\\\"c\\nd\té\"} 1\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for series := range parseMetrics(t, x.String())["odd"].samples {
		if got := labelsOf(t, strings.TrimSuffix(strings.TrimPrefix(series, "odd{"), "}"))["label"]; got != odd {
			t.Errorf("got %q back", got)
		}
	}
}

func TestDeployNamesOnlyMetricsThatExist(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	root := s.signUp("root", "admin")
	// Of a target, and what only Linux tells.
	known := map[string]bool{"up": true, "process_open_fds": true, "process_resident_memory_bytes": true}
	for _, f := range root.scrape(s) {
		for series := range f.samples {
			name, _, _ := strings.Cut(series, "{")
			known[name] = true
		}
	}
	named := make(map[string]int)
	for _, file := range []string{"grafana-dashboard.json", "prometheus-rules.yml", "prometheus-rules-test.yml"} {
		content, err := os.ReadFile("deploy/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, ".json") && !json.Valid(content) {
			t.Errorf("%s isn't JSON", file)
		}
		for _, name := range regexp.MustCompile(`\b(?:http|go|process|tachikoma)_\w+|\bup\b`).FindAllString(string(content),
			-1) {
			if named[file]++; !known[name] {
				t.Errorf("%s has %s, and the server doesn't", file, name)
			}
		}
	}
	if len(named) != 3 {
		t.Errorf("found metrics in %v", named)
	}
}

// Not parallel: it counts all allocations of the process.
func TestCountingARequestAllocatesNothing(t *testing.T) {
	m := newCounters()
	count := func() {
		m.requestStarted()
		m.requestDone("GET", "GET /api/v1/missions/{id}", http.StatusOK, time.Millisecond)
	}
	count()
	if n := testing.AllocsPerRun(1000, count); n >= 1 {
		t.Errorf("counting a request takes %v allocations", n)
	}
}

func BenchmarkCountRequest(b *testing.B) {
	m := newCounters()
	var patterns []string
	for i := range 60 {
		patterns = append(patterns, fmt.Sprintf("GET /api/v1/route%d/{id}", i))
		for _, status := range []int{200, 201, 404, 422} {
			m.requestStarted()
			m.requestDone("GET", patterns[i], status, 0)
		}
	}
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for i := 0; p.Next(); i++ {
			m.requestStarted()
			m.requestDone("GET", patterns[i%len(patterns)], 200, 3*time.Millisecond)
		}
	})
}
