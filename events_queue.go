package main

import (
	"context"
	"errors"
	"sync"
)

// Why a queue has ended. The owner of the queue tells the client.
var (
	errTooSlow     = errors.New("the client reads too slowly")
	errCursorGone  = errors.New("events before the next one are no longer kept")
	errCursorAhead = errors.New("the stream is shorter than it was")
	errStreamEnded = errors.New("the stream has ended")
)

const maxQueueBytes = 4 << 20 // of events that wait for one client

// queue holds the events that wait for one client. Publishing never waits: a
// queue that would grow past its bounds ends, and the client resumes from what
// it has seen. One goroutine takes; any may push.
// See docs/design.md, Bounded subscribers.
type queue struct {
	maxEvents int
	wake      func()        // called when there is something to take
	room      chan struct{} // something was taken

	mu      sync.Mutex // guards the following
	waiting []waitingBatch
	events  int   // that wait,
	bytes   int   // and what they take
	err     error // why it has ended
	awake   bool  // wake was called, and take hasn't found the queue empty since
	full    bool  // somebody waits for room
}

// waitingBatch is a batch in the queue of one of its followers.
type waitingBatch struct {
	*batch
	to *follower
}

// batch is one or more events of a stream that are sent together, shared by all
// the queues it is in. Only the last event may have an effect.
type batch struct {
	events []queuedEvent
	bytes  int         // of events, as they count towards maxFrame
	frame  socketFrame // that carries them
}

// queuedEvent is an encoded event.
type queuedEvent struct {
	seq     int64
	effect  streamEffect
	payload []byte
}

// streamEffect is what an event does to the followers of its stream.
type streamEffect int

const (
	noEffect    streamEffect = iota
	movesAccess              // who may read the mission may have changed
	endsStream               // there is nothing after it
)

func effectOf(kind string) streamEffect {
	switch kind {
	case "mission.deleted":
		return endsStream
	case "member.set", "member.removed", "mission.updated":
		return movesAccess
	}
	return noEffect
}

// mayReady reports whether an event may make a spec ready, or end the wait for
// one since the mission is no longer active. It is what wakes waiting claims.
func mayReady(kind string) bool {
	switch kind {
	case "log", "spec.claimed", "spec.progressed", "spec.asked", "spec.submitted":
		return false
	}
	return true
}

// A message of events has at most maxFrame bytes, the default limit of many
// clients, unless a single event is larger. frameExtra of them are for the rest
// of the message.
const (
	maxFrame   = 32 << 10
	frameExtra = 128
)

// newBatches divides events of a stream into batches, each as large as fits a frame.
func newBatches(events ...queuedEvent) []*batch {
	var batches []*batch
	for len(events) > 0 {
		n, bytes := 0, 0
		for n < len(events) {
			size := len(events[n].payload) + 1 // for a comma
			if n > 0 && (bytes+size > maxFrame-frameExtra || events[n-1].effect != noEffect) {
				break
			}
			n, bytes = n+1, bytes+size
		}
		batches = append(batches, &batch{events: events[:n:n], bytes: bytes})
		events = events[n:]
	}
	return batches
}

// effect is the effect of the last event.
func (b *batch) effect() streamEffect { return b.events[len(b.events)-1].effect }

// newQueue returns a queue that calls wake when there is something to take, or
// it ends, and not again before take has found it empty. wake is called with the
// queue locked: it mustn't block or use the queue.
func newQueue(maxEvents int, wake func()) *queue {
	return &queue{maxEvents: maxEvents, wake: wake, room: make(chan struct{}, 1)}
}

// push adds batches for a follower. It never waits: if they don't fit, the queue
// ends with errTooSlow.
func (q *queue) push(to *follower, batches ...*batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, b := range batches {
		if q.err != nil {
			break
		}
		if q.events+len(b.events) > q.maxEvents || q.bytes+b.bytes > maxQueueBytes && q.events > 0 {
			q.err, q.waiting, q.events, q.bytes = errTooSlow, nil, 0, 0 // what waited is read again when the client resumes
			break
		}
		q.waiting = append(q.waiting, waitingBatch{b, to})
		q.events += len(b.events)
		q.bytes += b.bytes
	}
	q.wakeUp()
}

// wakeUp calls wake if need be. The caller holds mu.
func (q *queue) wakeUp() {
	if !q.awake {
		q.awake = true
		q.wake()
	}
}

// end ends the queue. What waits in it can still be taken.
func (q *queue) end(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
	}
	q.wakeUp()
}

// take removes and returns what waits: batches of one follower that together fit
// a frame, or one batch. One with an effect is the last. With nothing left it
// returns why the queue has ended, or nil if it hasn't.
func (q *queue) take() (batches []waitingBatch, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) > 0 && q.waiting[0].to.ended.Load() {
		q.remove(1)
	}
	if len(q.waiting) == 0 {
		q.awake = false
		return nil, q.err
	}
	n, bytes := 0, 0
	for _, b := range q.waiting {
		if n > 0 && (b.to != q.waiting[0].to || bytes+b.bytes > maxFrame-frameExtra || q.waiting[n-1].effect() != noEffect) {
			break
		}
		n, bytes = n+1, bytes+b.bytes
	}
	return q.remove(n), nil
}

// settle reports whether there is nothing to take, as take would.
func (q *queue) settle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.awake = len(q.waiting) > 0 || q.err != nil
	return !q.awake
}

// remove removes the first n batches. The caller holds mu.
func (q *queue) remove(n int) []waitingBatch {
	batches := q.waiting[:n:n]
	if q.waiting = q.waiting[n:]; len(q.waiting) == 0 {
		q.waiting = nil // let the array go
	}
	for _, b := range batches {
		q.events -= len(b.events)
		q.bytes -= b.bytes
	}
	if q.full {
		q.full = false
		trySend(q.room)
	}
	return batches
}

// waitForRoom returns nil once the queue is at most half full, for a goroutine
// that fills it from the database and can wait, or why the queue or ctx has ended.
func (q *queue) waitForRoom(ctx context.Context) error {
	for {
		q.mu.Lock()
		err, full := q.err, q.events > q.maxEvents/2 || q.bytes > maxQueueBytes/2
		q.full = full
		q.mu.Unlock()
		if err != nil || !full {
			return err
		}
		select {
		case <-q.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// length is how many events wait.
func (q *queue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.events
}
