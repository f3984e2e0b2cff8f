// Package ratelimit bounds how often a client may ask, and how much of something
// it may have at a time.
package ratelimit

import (
	"crypto/sha256"
	"maps"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxLimitKey is the length, in bytes, over which a Limiter keeps a key's hash
// instead, so that a number of keys is a bound on memory.
const maxLimitKey = 64

// sample is how many keys are compared to find one that makes way.
const sample = 16

// Limiter gives each key so many requests a minute, evenly, and a burst of as
// many: the generic cell rate algorithm (GCRA). A key's state is one number,
// the moment at which its bucket will be full again; a request moves it one
// interval ahead, and is refused if that would be more than a minute from now.
//
// It holds at most capacity keys. When there is no room for a new one, all whose
// buckets are full are let go, and nothing is lost. If none is, so many clients
// are active that some can't be told apart: of some keys the one that has spent
// least makes way, and whoever isn't held counts as having spent as much as any
// that made way, until that is refilled (floor). Then nobody gains by being pushed
// out, so a flood of addresses resets no bucket; and a newcomer is charged what
// one of the least active clients has spent, most often one request.
//
// Measured in turns with a heap that always finds the least active one, and takes
// 60 lines more: a known key took half the time, and a new one in the place of
// another as much. It is safe for concurrent use.
type Limiter struct {
	perMinute int
	capacity  int
	interval  time.Duration // one request's share of a minute
	start     time.Time     // moments are counted from here, on the monotonic clock

	mu    sync.Mutex               // guards what follows
	full  map[string]time.Duration // key → the moment at which its bucket is full again
	floor time.Duration            // no key that isn't held is full before this moment
	sweep time.Duration            // no earlier are full buckets let go again
}

// Verdict is the state of a key's bucket after a request, or as it stands.
type Verdict struct {
	Allowed    bool
	Limit      int           // requests a minute; 0: no limit
	Remaining  int           // requests that would pass now
	Reset      time.Duration // until the bucket is full
	RetryAfter time.Duration // until a request passes; 0 if Allowed
}

// New allows perMinute requests a minute for each of up to capacity
// keys, which is at least 1. With perMinute 0 it allows everything.
func New(perMinute, capacity int) *Limiter {
	l := &Limiter{perMinute: perMinute, capacity: capacity, start: time.Now(),
		full: make(map[string]time.Duration), floor: math.MinInt64, sweep: math.MinInt64}
	if perMinute > 0 {
		l.interval = time.Minute / time.Duration(perMinute)
	}
	return l
}

// Take counts one request of key against its limit, unless it is refused.
func (l *Limiter) Take(key string, now time.Time) Verdict {
	return l.judge(key, now, true)
}

// Peek is what Take would say, without counting.
func (l *Limiter) Peek(key string, now time.Time) Verdict {
	return l.judge(key, now, false)
}

func (l *Limiter) judge(key string, now time.Time, count bool) Verdict {
	if l.perMinute <= 0 {
		return Verdict{Allowed: true}
	}
	if len(key) > maxLimitKey {
		sum := sha256.Sum256([]byte(key))
		key = string(sum[:])
	}
	at := now.Sub(l.start)

	l.mu.Lock()
	defer l.mu.Unlock()
	full, held := l.full[key]
	if !held {
		full = l.floor
	}
	full = max(at, full)
	burst := l.interval * time.Duration(l.perMinute)
	v := Verdict{Limit: l.perMinute, Allowed: full+l.interval <= at+burst}
	if !v.Allowed {
		v.RetryAfter = full + l.interval - at - burst
	} else if count {
		full += l.interval
		if !held {
			key = strings.Clone(key) // it may be a small piece of a large string, which must not stay
			l.makeRoom(at)
		}
		l.full[key] = full
	}
	v.Remaining = max(0, int((at+burst-full)/l.interval)) // 0 also if now is older than another caller's
	v.Reset = full - at
	return v
}

// makeRoom sees to it that one more key can be held. The caller holds mu.
func (l *Limiter) makeRoom(now time.Duration) {
	if len(l.full) >= l.capacity && now >= l.sweep {
		maps.DeleteFunc(l.full, func(_ string, full time.Duration) bool { return full <= now })
		l.sweep = now + time.Second // letting 100,000 go takes some 10 ms
	}
	if len(l.full) < l.capacity {
		return
	}
	var least string
	first, looked := time.Duration(math.MaxInt64), 0
	for key, full := range l.full { // which begins anywhere
		if full < first {
			least, first = key, full
		}
		if looked++; looked == sample {
			break
		}
	}
	delete(l.full, least)
	l.floor = max(l.floor, first)
}

// SetHeaders tells the client where it stands, in whole seconds, rounded up.
// Where there is no limit it sets nothing.
func (v Verdict) SetHeaders(h http.Header) {
	if v.Limit == 0 {
		return
	}
	h.Set("RateLimit-Limit", strconv.Itoa(v.Limit))
	h.Set("RateLimit-Remaining", strconv.Itoa(v.Remaining))
	h.Set("RateLimit-Reset", Seconds(v.Reset))
	if !v.Allowed {
		h.Set("Retry-After", Seconds(max(v.RetryAfter, 1)))
	}
}

// Seconds is d in whole seconds, no fewer than d.
func Seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

// Slots are places of which some can be taken at a time, and fewer by one
// account, so that it can't keep the others out. Safe for concurrent use.
type Slots struct {
	mu    sync.Mutex // guards the following
	taken int
	by    map[string]int // account → places it has
}

func NewSlots() *Slots { return &Slots{by: make(map[string]int)} }

// Take takes n places for an account, if there are so many: of all most, and of
// these each for one account.
func (s *Slots) Take(account string, n, most, each int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken+n > most || s.by[account]+n > each {
		return false
	}
	s.add(account, n)
	return true
}

// Add takes n places for an account, whether there are so many or not.
func (s *Slots) Add(account string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(account, n)
}

// Give gives n places back.
func (s *Slots) Give(account string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(account, -n)
}

// add changes how many places are taken. The caller holds mu.
func (s *Slots) add(account string, n int) {
	s.taken += n
	if s.by[account] += n; s.by[account] == 0 {
		delete(s.by, account)
	}
}
