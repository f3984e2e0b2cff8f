// Package ratelimit bounds how often a client may ask, and how much of something
// it may have at a time.
package ratelimit

import (
	"crypto/sha256"
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

// Limiter gives each key so many requests a minute, evenly, and a burst of as
// many: the generic cell rate algorithm (GCRA). A key's state is one number,
// the moment at which its bucket will be full again; a request moves it one
// interval ahead, and is refused if that would be more than a minute from now.
//
// It holds at most capacity keys. When there is no room for a new one, the key
// whose bucket is nearest to full makes way: normally it is full, and nothing is
// lost. If not, so many clients are active that some can't be told apart:
// whoever isn't held counts as having spent as much as any evicted one had,
// until that is refilled (floor). Then nobody gains by being pushed out, so a
// flood of addresses resets no bucket; and a newcomer is charged no more than the
// least active of capacity clients has spent, most often one request. It is
// refused only if they are all at their limit, which takes more than capacity
// times perMinute requests a minute. (The idea is Space-Saving: Metwally,
// Agrawal, El Abbadi, 2005.)
//
// Cost: O(1) for a known key on average, O(log capacity) for a new one when
// full. Measured on one core: one key 9 million requests a second, 50,000 keys
// 2 million, a flood of new ones 1 million; so one mutex will do. It is safe for
// concurrent use.
type Limiter struct {
	perMinute int
	capacity  int
	interval  time.Duration // one request's share of a minute
	start     time.Time     // moments are counted from here, on the monotonic clock

	mu    sync.Mutex // guards what follows
	keys  map[string]*limitPlace
	heap  []limitState  // heap[0] is full, or will be first; i has children 4i+1 … 4i+4
	floor time.Duration // no key that isn't held is full before this moment
}

// limitState is one key's bucket. It lies in the heap itself, so that a step
// through the heap costs no more than a cache line.
type limitState struct {
	full  time.Duration // the moment at which the bucket is full again, since start
	place *limitPlace
}

// limitPlace says where in the heap the bucket of a key is.
type limitPlace struct {
	key string
	at  int
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
		keys: make(map[string]*limitPlace), floor: math.MinInt64}
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
	place := l.keys[key]
	full := max(at, l.floor)
	if place != nil {
		full = max(at, l.heap[place.at].full)
	}
	burst := l.interval * time.Duration(l.perMinute)
	v := Verdict{Limit: l.perMinute, Allowed: full+l.interval <= at+burst}
	if !v.Allowed {
		v.RetryAfter = full + l.interval - at - burst
	} else if count {
		full += l.interval
		if place != nil {
			l.sink(place.at, limitState{full, place})
		} else {
			l.add(key, full, at)
		}
	}
	v.Remaining = max(0, int((at+burst-full)/l.interval)) // 0 also if now is older than another caller's
	v.Reset = full - at
	return v
}

// add holds a new key, if need be in the place of the first. It also lets go of
// up to two full buckets, so that memory follows the number of active clients
// down.
func (l *Limiter) add(key string, full, now time.Duration) {
	key = strings.Clone(key) // it may be a small piece of a large string, which must not stay
	if len(l.heap) < l.capacity {
		state := limitState{full, &limitPlace{key: key}}
		l.keys[key] = state.place
		l.heap = append(l.heap, state)
		l.rise(len(l.heap)-1, state)
	} else {
		first := l.heap[0]
		l.floor = max(l.floor, first.full)
		delete(l.keys, first.place.key)
		first.place.key = key
		l.keys[key] = first.place
		l.sink(0, limitState{full, first.place})
	}
	for range 2 {
		if first := l.heap[0]; first.full <= now { // so it isn't the one just added
			delete(l.keys, first.place.key)
			last := len(l.heap) - 1
			moved := l.heap[last]
			l.heap[last] = limitState{}
			l.heap = l.heap[:last]
			l.sink(0, moved)
		}
	}
}

// sink puts state where i is free, or below it. A bucket in use is near the
// bottom already, so for it this takes few steps.
func (l *Limiter) sink(i int, state limitState) {
	for {
		least := 4*i + 1
		if least >= len(l.heap) {
			break
		}
		for child := least + 1; child < min(4*i+5, len(l.heap)); child++ {
			if l.heap[child].full < l.heap[least].full {
				least = child
			}
		}
		if state.full <= l.heap[least].full {
			break
		}
		l.put(i, l.heap[least])
		i = least
	}
	l.put(i, state)
}

// rise puts state where i is free, or above it.
func (l *Limiter) rise(i int, state limitState) {
	for i > 0 {
		parent := (i - 1) / 4
		if l.heap[parent].full <= state.full {
			break
		}
		l.put(i, l.heap[parent])
		i = parent
	}
	l.put(i, state)
}

func (l *Limiter) put(i int, state limitState) {
	l.heap[i] = state
	state.place.at = i
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

// Take takes a place for an account, if there is one.
func (s *Slots) Take(account string, most, each int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken >= most || s.by[account] >= each {
		return false
	}
	s.taken++
	s.by[account]++
	return true
}

// Give gives a place back.
func (s *Slots) Give(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	if s.by[account]--; s.by[account] == 0 {
		delete(s.by, account)
	}
}
