package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var limitTestStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestLimiterAllowsABurstAndThenAnEvenRate(t *testing.T) {
	t.Parallel()
	l := newLimiter(60, 10)
	now := limitTestStart
	for i := range 60 {
		want := verdict{allowed: true, limit: 60, remaining: 59 - i, reset: time.Duration(i+1) * time.Second}
		if got := l.take("a", now); got != want {
			t.Fatalf("request %d: %+v, want %+v", i+1, got, want)
		}
	}
	refused := verdict{limit: 60, reset: time.Minute, retryAfter: time.Second}
	for range 3 { // a refusal costs nothing
		if got := l.take("a", now); got != refused {
			t.Fatalf("over the limit: %+v, want %+v", got, refused)
		}
	}
	if got := l.take("b", now); !got.allowed {
		t.Errorf("another key: %+v", got)
	}
	for i := range 5 {
		now = now.Add(999 * time.Millisecond)
		if got := l.take("a", now); got.allowed || got.retryAfter != time.Millisecond {
			t.Errorf("second %d, too early: %+v", i, got)
		}
		now = now.Add(time.Millisecond)
		if got := l.take("a", now); !got.allowed || got.remaining != 0 {
			t.Errorf("second %d: %+v", i, got)
		}
	}
	now = now.Add(time.Minute)
	if got := l.peek("a", now); !got.allowed || got.remaining != 60 || got.reset != 0 {
		t.Errorf("a minute later: %+v", got)
	}
}

func TestLimiterPeekDoesNotCount(t *testing.T) {
	t.Parallel()
	l := newLimiter(2, 10)
	for range 5 {
		if got := l.peek("a", limitTestStart); !got.allowed || got.remaining != 2 {
			t.Fatalf("peek: %+v", got)
		}
	}
	l.take("a", limitTestStart)
	l.take("a", limitTestStart)
	if got := l.peek("a", limitTestStart); got.allowed || got.retryAfter != 30*time.Second {
		t.Errorf("peek at the limit: %+v", got)
	}
}

func TestLimiterOff(t *testing.T) {
	t.Parallel()
	l := newLimiter(0, 10)
	for range 100 {
		if got := l.take("a", limitTestStart); got != (verdict{allowed: true}) {
			t.Fatalf("%+v", got)
		}
	}
}

func TestLimiterUsesTheMonotonicClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(1, 10)
		if !l.take("a", time.Now()).allowed || l.take("a", time.Now()).allowed {
			t.Error("not one a minute")
		}
		time.Sleep(time.Minute)
		if !l.take("a", time.Now()).allowed {
			t.Error("a minute later it is refused")
		}
	})
}

func TestLimiterLetsGoOfFullBuckets(t *testing.T) {
	t.Parallel()
	l := newLimiter(60, 1000)
	for i := range 1000 {
		l.take(fmt.Sprint("old", i), limitTestStart)
	}
	later := limitTestStart.Add(time.Minute)
	for i := range 1000 {
		if got := l.take(fmt.Sprint("new", i), later); !got.allowed || got.remaining != 59 {
			t.Fatalf("newcomer %d: %+v", i, got)
		}
	}
	if len(l.keys) != 1000 || len(l.heap) != 1000 {
		t.Errorf("%d keys are held, want the 1000 new ones", len(l.keys))
	}
}

// With more active clients than there is room for, the flood neither gives a
// busy key its burst back nor shuts newcomers out.
func TestLimiterUnderAFloodOfAddresses(t *testing.T) {
	t.Parallel()
	const capacity = 100
	l := newLimiter(10, capacity)
	for range 10 {
		l.take("busy", limitTestStart)
	}
	for i := range 3 * capacity {
		if got := l.take(fmt.Sprint("flood", i), limitTestStart); !got.allowed {
			t.Fatalf("newcomer %d: %+v", i, got)
		}
		if got := l.peek("busy", limitTestStart); got.allowed {
			t.Fatalf("after %d newcomers the busy key is allowed again", i+1)
		}
	}
	if len(l.keys) != capacity || len(l.heap) != capacity {
		t.Errorf("%d keys are held, want %d", len(l.keys), capacity)
	}
	later := limitTestStart.Add(time.Minute)
	if got := l.take("newcomer", later); got.remaining != 9 {
		t.Errorf("after the flood: %+v", got)
	}
}

// Whatever is evicted, no key is ever allowed what a limiter with unbounded
// memory would have refused.
func TestLimiterNeverForgetsWhatWasSpent(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		bounded, unbounded := newLimiter(5, 12), newLimiter(5, 1<<20)
		now := limitTestStart
		for range 5000 {
			now = now.Add(time.Duration(random.Int64N(int64(3 * time.Second))))
			key := fmt.Sprint(min(random.IntN(60), random.IntN(60)))
			if !bounded.take(key, now).allowed {
				continue
			}
			if !unbounded.take(key, now).allowed {
				t.Fatalf("seed %d: key %s was allowed too much", seed, key)
			}
			for i, state := range bounded.heap {
				if state.place.at != i || bounded.keys[state.place.key] != state.place || bounded.heap[(i-1)/4].full > state.full {
					t.Fatalf("seed %d: the heap is broken at %d", seed, i)
				}
			}
			if len(bounded.heap) > 12 || len(bounded.keys) != len(bounded.heap) {
				t.Fatalf("seed %d: %d keys, %d in the heap", seed, len(bounded.keys), len(bounded.heap))
			}
		}
	}
}

func TestLimiterBoundsTheLengthOfKeys(t *testing.T) {
	t.Parallel()
	l := newLimiter(1, 10)
	long := strings.Repeat("k", 1<<20)
	if !l.take(long, limitTestStart).allowed || l.take(long, limitTestStart).allowed || !l.take(long+"2", limitTestStart).allowed {
		t.Error("long keys aren't told apart")
	}
	for key := range l.keys {
		if len(key) > maxLimitKey {
			t.Errorf("a key of %d bytes is held", len(key))
		}
	}
}

func TestVerdictHeaders(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		verdict verdict
		want    [4]string // limit, remaining, reset, retry after
	}{
		"no limit":    {verdict{allowed: true}, [4]string{}},
		"allowed":     {verdict{allowed: true, limit: 10, remaining: 9, reset: 6 * time.Second}, [4]string{"10", "9", "6", ""}},
		"full":        {verdict{allowed: true, limit: 10, remaining: 10}, [4]string{"10", "10", "0", ""}},
		"refused":     {verdict{limit: 10, reset: 59001 * time.Millisecond, retryAfter: 5001 * time.Millisecond}, [4]string{"10", "0", "60", "6"}},
		"refused now": {verdict{limit: 10, reset: time.Minute}, [4]string{"10", "0", "60", "1"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := make(http.Header)
			tt.verdict.setHeaders(h)
			got := [4]string{h.Get("RateLimit-Limit"), h.Get("RateLimit-Remaining"), h.Get("RateLimit-Reset"), h.Get("Retry-After")}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

var testProxies = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("fd00::/8"),
}

func TestClientAddr(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		peer      string
		forwarded []string
		want      string // "" for none
	}{
		"peer":                             {"203.0.113.5:1234", nil, "203.0.113.5"},
		"IPv6 peer":                        {"[2001:db8::1]:1234", nil, "2001:db8::1"},
		"IPv4 as IPv6":                     {"[::ffff:203.0.113.5]:1234", nil, "203.0.113.5"},
		"zone":                             {"[fe80::1%eth0]:1234", nil, "fe80::1"},
		"Unix socket":                      {"@", []string{"1.1.1.1"}, ""},
		"unnamed Unix socket":              {"", []string{"1.1.1.1"}, ""},
		"untrusted peer":                   {"203.0.113.5:1234", []string{"1.1.1.1"}, "203.0.113.5"},
		"trusted peer":                     {"10.0.0.1:1234", []string{"1.1.1.1"}, "1.1.1.1"},
		"trusted peer as IPv6":             {"[::ffff:10.0.0.1]:1234", []string{"1.1.1.1"}, "1.1.1.1"},
		"trusted IPv6 peer with zone":      {"[fd00::1%eth0]:1234", []string{"1.1.1.1"}, "1.1.1.1"},
		"trusted peer, no header":          {"10.0.0.1:1234", nil, "10.0.0.1"},
		"trusted peer, empty header":       {"10.0.0.1:1234", []string{""}, "10.0.0.1"},
		"forged left part":                 {"10.0.0.1:1234", []string{"9.9.9.9, 1.1.1.1"}, "1.1.1.1"},
		"two proxies":                      {"10.0.0.1:1234", []string{"9.9.9.9, 1.1.1.1, 10.2.3.4 ,192.0.2.1"}, "1.1.1.1"},
		"two headers":                      {"10.0.0.1:1234", []string{"9.9.9.9, 1.1.1.1", "10.2.3.4"}, "1.1.1.1"},
		"two headers, forged first":        {"10.0.0.1:1234", []string{"10.9.9.9", "1.1.1.1"}, "1.1.1.1"},
		"all trusted":                      {"10.0.0.1:1234", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		"port":                             {"10.0.0.1:1234", []string{"1.2.3.4:567"}, "1.2.3.4"},
		"IPv6 in brackets with port":       {"10.0.0.1:1234", []string{"[2001:db8::1]:80"}, "2001:db8::1"},
		"IPv6 in brackets":                 {"10.0.0.1:1234", []string{"[2001:db8::1]"}, "2001:db8::1"},
		"IPv4 as IPv6 in a hop":            {"10.0.0.1:1234", []string{"1.1.1.1, ::ffff:10.0.0.2"}, "1.1.1.1"},
		"zone in a hop":                    {"10.0.0.1:1234", []string{"fe80::1%eth0"}, "fe80::1"},
		"empty elements":                   {"10.0.0.1:1234", []string{"1.1.1.1,, ,\t10.0.0.2,"}, "1.1.1.1"},
		"garbage to the left":              {"10.0.0.1:1234", []string{"<script>, 1.1.1.1"}, "1.1.1.1"},
		"garbage ends at its proxy":        {"10.0.0.1:1234", []string{"1.1.1.1, unknown, 10.0.0.2"}, "10.0.0.2"},
		"only garbage":                     {"10.0.0.1:1234", []string{"unknown"}, "10.0.0.1"},
		"half an address":                  {"10.0.0.1:1234", []string{"1.1.1"}, "10.0.0.1"},
		"IPv4 in brackets":                 {"10.0.0.1:1234", []string{"[1.1.1.1]"}, "10.0.0.1"},
		"trusted only as part of its name": {"110.0.0.1:1234", []string{"1.1.1.1"}, "110.0.0.1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &http.Request{RemoteAddr: tt.peer, Header: http.Header{"X-Forwarded-For": tt.forwarded}}
			var want netip.Addr
			if tt.want != "" {
				want = netip.MustParseAddr(tt.want)
			}
			if got := clientAddr(r, testProxies); got != want {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
	r := &http.Request{RemoteAddr: "10.0.0.1:1", Header: http.Header{"X-Forwarded-For": {"1.1.1.1"}}}
	if got := clientAddr(r, nil); got != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("with no trusted proxy: %v", got)
	}
}

func TestLimitKey(t *testing.T) {
	t.Parallel()
	same := [][]string{
		{"203.0.113.5", "::ffff:203.0.113.5"},
		{"203.0.113.6"},
		{"2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::"},
		{"2001:db8:0:1::1"},
		{"fe80::1", "fe80::1%eth0"},
	}
	seen := map[string]int{limitKey(netip.Addr{}): -1}
	for group, addrs := range same {
		for _, addr := range addrs {
			key := limitKey(netip.MustParseAddr(addr))
			if before, ok := seen[key]; ok && before != group {
				t.Errorf("%s has the key %s of another client", addr, key)
			}
			seen[key] = group
		}
	}
	if len(seen) != len(same)+1 {
		t.Errorf("%d keys for %d clients: %v", len(seen), len(same)+1, seen)
	}
}

func FuzzClientAddr(f *testing.F) {
	f.Add("10.0.0.1:80", "1.2.3.4:567, [::1]:80", "10.0.0.2")
	f.Add("[fd00::1%x]:1", "::ffff:10.0.0.1,,", "")
	f.Fuzz(func(t *testing.T, peer, first, second string) {
		r := &http.Request{RemoteAddr: peer, Header: http.Header{"X-Forwarded-For": {first, second}}}
		got := clientAddr(r, testProxies)
		if got.Is4In6() || got.Zone() != "" {
			t.Errorf("%v isn't in its plain form", got)
		}
		limitKey(got)
		if direct := parseHop(peer); !trusts(testProxies, direct) && got != direct {
			t.Errorf("an untrusted peer %v became %v", direct, got)
		}
		r.Header.Add("X-Forwarded-For", "198.51.100.9") // what a trusted proxy adds can't be forged
		if trusts(testProxies, parseHop(peer)) && clientAddr(r, testProxies) != netip.MustParseAddr("198.51.100.9") {
			t.Errorf("%q, %q hide the last hop", first, second)
		}
	})
}

func BenchmarkLimiter(b *testing.B) {
	keys := make([]string, 1<<20)
	for i := range keys {
		keys[i] = limitKey(netip.AddrFrom4([4]byte{1, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	for _, bb := range []struct {
		name string
		keys int
	}{{"one key", 1}, {"known keys", 50_000}, {"flood of keys", len(keys)}} {
		b.Run(bb.name, func(b *testing.B) {
			l := newLimiter(1200, 100_000)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := rand.IntN(bb.keys); pb.Next(); i++ {
					l.take(keys[i%bb.keys], time.Now())
				}
			})
		})
	}
}
