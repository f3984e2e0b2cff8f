// Package ratelimit bounds how often a client may call, and how much of something
// it may use at a time.
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

// maxLimitKey is the length, in bytes, above which a Limiter stores a key's hash
// instead, so that the number of keys bounds the memory.
const maxLimitKey = 64

// sample is how many keys are compared to find one to evict.
const sample = 16

// Limiter allows each key a number of requests a minute, evenly, and a burst of as
// many: the generic cell rate algorithm (GCRA). A key's state is one number,
// the time at which its bucket will be full again; a request moves it one
// interval ahead, and is refused if that would be more than a minute from now.
//
// It holds at most capacity keys. When there is no room for a new one, it drops all
// whose buckets are full, which loses nothing. If there are none, so many clients
// are active that some can't be told apart: it evicts the key that has spent least
// among a few, and a key that isn't held counts as having spent as much as any that
// was evicted, until that is refilled (floor). So nobody gains by being evicted: a
// flood of addresses resets no bucket, and a new client is charged what one of the
// least active clients has spent, most often one request.
//
// Compared in alternating runs with a heap that always finds the least active key,
// and takes 60 lines more: a known key took half the time, and a new one that
// evicts another the same. It is safe for concurrent use.
type Limiter struct {
	perMinute int
	capacity  int
	interval  time.Duration // one request's share of a minute
	start     time.Time     // the following times count from here, on the monotonic clock

	mu    sync.Mutex               // guards what follows
	full  map[string]time.Duration // key → the time at which its bucket is full again
	floor time.Duration            // no key that isn't held is full before this time
	sweep time.Duration            // full buckets aren't dropped again before this time
}

// Verdict is the state of a key's bucket after a request, or without one.
type Verdict struct {
	Allowed    bool
	Limit      int           // requests a minute; 0: no limit
	Remaining  int           // requests that would pass now
	Reset      time.Duration // until the bucket is full
	RetryAfter time.Duration // until a request passes; 0 if Allowed
}

// New returns a Limiter that allows perMinute requests a minute for each of up to
// capacity keys, which must be at least 1. With perMinute 0 it allows everything.
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

// Peek returns what Take would, without counting a request.
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
			key = strings.Clone(key) // it may be part of a large string, which must not stay in memory
			l.makeRoom(at)
		}
		l.full[key] = full
	}
	v.Remaining = max(0, int((at+burst-full)/l.interval)) // 0 also if now is older than another caller's
	v.Reset = full - at
	return v
}

// makeRoom makes room for one more key. The caller holds mu.
func (l *Limiter) makeRoom(now time.Duration) {
	if len(l.full) >= l.capacity && now >= l.sweep {
		maps.DeleteFunc(l.full, func(_ string, full time.Duration) bool { return full <= now })
		l.sweep = now + time.Second // dropping 100,000 takes some 10 ms
	}
	if len(l.full) < l.capacity {
		return
	}
	var least string
	first, looked := time.Duration(math.MaxInt64), 0
	for key, full := range l.full { // the order is random
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

// SetHeaders sets the RateLimit headers, with times in whole seconds, rounded up.
// Without a limit it sets none.
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

// Seconds returns d in whole seconds, rounded up.
func Seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

// Slots are a limited number of places, of which one account can take only some, so
// that it can't keep the others out. Safe for concurrent use.
type Slots struct {
	mu    sync.Mutex // guards the following
	taken int
	by    map[string]int // account → places it has
}

func NewSlots() *Slots { return &Slots{by: make(map[string]int)} }

// Take takes n places for an account and reports whether it could: at most most
// places are taken in all, and at most each by one account.
func (s *Slots) Take(account string, n, most, each int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken+n > most || s.by[account]+n > each {
		return false
	}
	s.add(account, n)
	return true
}

// Add takes n places for an account even if there aren't as many.
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
