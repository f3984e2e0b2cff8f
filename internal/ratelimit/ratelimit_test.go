package ratelimit

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
	l := New(60, 10)
	now := limitTestStart
	for i := range 60 {
		want := Verdict{Allowed: true, Limit: 60, Remaining: 59 - i, Reset: time.Duration(i+1) * time.Second}
		if got := l.Take("a", now); got != want {
			t.Fatalf("request %d: %+v, want %+v", i+1, got, want)
		}
	}
	refused := Verdict{Limit: 60, Reset: time.Minute, RetryAfter: time.Second}
	for range 3 { // a refusal costs nothing
		if got := l.Take("a", now); got != refused {
			t.Fatalf("over the limit: %+v, want %+v", got, refused)
		}
	}
	if got := l.Take("b", now); !got.Allowed {
		t.Errorf("another key: %+v", got)
	}
	for i := range 5 {
		now = now.Add(999 * time.Millisecond)
		if got := l.Take("a", now); got.Allowed || got.RetryAfter != time.Millisecond {
			t.Errorf("second %d, too early: %+v", i, got)
		}
		now = now.Add(time.Millisecond)
		if got := l.Take("a", now); !got.Allowed || got.Remaining != 0 {
			t.Errorf("second %d: %+v", i, got)
		}
	}
	now = now.Add(time.Minute)
	if got := l.Peek("a", now); !got.Allowed || got.Remaining != 60 || got.Reset != 0 {
		t.Errorf("a minute later: %+v", got)
	}
}

func TestLimiterPeekDoesNotCount(t *testing.T) {
	t.Parallel()
	l := New(2, 10)
	for range 5 {
		if got := l.Peek("a", limitTestStart); !got.Allowed || got.Remaining != 2 {
			t.Fatalf("peek: %+v", got)
		}
	}
	l.Take("a", limitTestStart)
	l.Take("a", limitTestStart)
	if got := l.Peek("a", limitTestStart); got.Allowed || got.RetryAfter != 30*time.Second {
		t.Errorf("peek at the limit: %+v", got)
	}
}

func TestLimiterOff(t *testing.T) {
	t.Parallel()
	l := New(0, 10)
	for range 100 {
		if got := l.Take("a", limitTestStart); got != (Verdict{Allowed: true}) {
			t.Fatalf("%+v", got)
		}
	}
}

func TestLimiterUsesTheMonotonicClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := New(1, 10)
		if !l.Take("a", time.Now()).Allowed || l.Take("a", time.Now()).Allowed {
			t.Error("not one a minute")
		}
		time.Sleep(time.Minute)
		if !l.Take("a", time.Now()).Allowed {
			t.Error("a minute later it is refused")
		}
	})
}

func TestLimiterLetsGoOfFullBuckets(t *testing.T) {
	t.Parallel()
	l := New(60, 1000)
	for i := range 1000 {
		l.Take(fmt.Sprint("old", i), limitTestStart)
	}
	later := limitTestStart.Add(time.Minute)
	for i := range 1000 {
		if got := l.Take(fmt.Sprint("new", i), later); !got.Allowed || got.Remaining != 59 {
			t.Fatalf("newcomer %d: %+v", i, got)
		}
	}
	if len(l.full) != 1000 {
		t.Errorf("%d keys are held, want the 1000 new ones", len(l.full))
	}
}

// With more active clients than there is room for, the flood neither gives a
// busy key its burst back nor shuts newcomers out.
func TestLimiterUnderAFloodOfAddresses(t *testing.T) {
	t.Parallel()
	const capacity = 100
	l := New(10, capacity)
	for range 10 {
		l.Take("busy", limitTestStart)
	}
	for i := range 3 * capacity {
		if got := l.Take(fmt.Sprint("flood", i), limitTestStart); !got.Allowed {
			t.Fatalf("newcomer %d: %+v", i, got)
		}
		if got := l.Peek("busy", limitTestStart); got.Allowed {
			t.Fatalf("after %d newcomers the busy key is allowed again", i+1)
		}
	}
	if len(l.full) != capacity {
		t.Errorf("%d keys are held, want %d", len(l.full), capacity)
	}
	later := limitTestStart.Add(time.Minute)
	if got := l.Take("newcomer", later); got.Remaining != 9 {
		t.Errorf("after the flood: %+v", got)
	}
}

// Whatever is evicted, no key is ever allowed what a Limiter with unbounded
// memory would have refused.
func TestLimiterNeverForgetsWhatWasSpent(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		bounded, unbounded := New(5, 12), New(5, 1<<20)
		now := limitTestStart
		for range 5000 {
			now = now.Add(time.Duration(random.Int64N(int64(3 * time.Second))))
			key := fmt.Sprint(min(random.IntN(60), random.IntN(60)))
			if !bounded.Take(key, now).Allowed {
				continue
			}
			if !unbounded.Take(key, now).Allowed {
				t.Fatalf("seed %d: key %s was allowed too much", seed, key)
			}
			if len(bounded.full) > 12 {
				t.Fatalf("seed %d: %d keys are held", seed, len(bounded.full))
			}
		}
	}
}

func TestLimiterBoundsTheLengthOfKeys(t *testing.T) {
	t.Parallel()
	l := New(1, 10)
	long := strings.Repeat("k", 1<<20)
	first, again, other := l.Take(long, limitTestStart), l.Take(long, limitTestStart), l.Take(long+"2", limitTestStart)
	if !first.Allowed || again.Allowed || !other.Allowed {
		t.Error("long keys aren't told apart")
	}
	for key := range l.full {
		if len(key) > maxLimitKey {
			t.Errorf("a key of %d bytes is held", len(key))
		}
	}
}

func TestVerdictHeaders(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		verdict Verdict
		want    [4]string // limit, remaining, reset, retry after
	}{
		"no limit": {Verdict{Allowed: true}, [4]string{}},
		"allowed": {Verdict{Allowed: true, Limit: 10, Remaining: 9, Reset: 6 * time.Second},
			[4]string{"10", "9", "6", ""}},
		"full": {Verdict{Allowed: true, Limit: 10, Remaining: 10}, [4]string{"10", "10", "0", ""}},
		"refused": {Verdict{Limit: 10, Reset: 59001 * time.Millisecond, RetryAfter: 5001 * time.Millisecond},
			[4]string{"10", "0", "60", "6"}},
		"refused now": {Verdict{Limit: 10, Reset: time.Minute}, [4]string{"10", "0", "60", "1"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := make(http.Header)
			tt.verdict.SetHeaders(h)
			got := [4]string{
				h.Get("RateLimit-Limit"), h.Get("RateLimit-Remaining"), h.Get("RateLimit-Reset"), h.Get("Retry-After")}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func BenchmarkLimiter(b *testing.B) {
	keys := make([]string, 1<<20)
	for i := range keys {
		keys[i] = netip.AddrFrom4([4]byte{1, byte(i >> 16), byte(i >> 8), byte(i)}).String()
	}
	for _, bb := range []struct {
		name string
		keys int
	}{{"one key", 1}, {"known keys", 50_000}, {"flood of keys", len(keys)}} {
		b.Run(bb.name, func(b *testing.B) {
			l := New(1200, 100_000)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := rand.IntN(bb.keys); pb.Next(); i++ {
					l.Take(keys[i%bb.keys], time.Now())
				}
			})
		})
	}
}
