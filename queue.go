package main

import (
	"context"
	"errors"
	"sync"
)

// Why a queue has ended, as its owner tells the client.
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
type queue struct {
	maxEvents int
	ready     chan struct{} // there is something to take, or the end
	room      chan struct{} // something was taken

	mu    sync.Mutex // guards the following
	items []queued
	bytes int
	err   error // why it has ended
}

// queued is an encoded event, shared by all it waits for. topic is what the
// queue's owner knows its stream by.
type queued struct {
	topic   *topicName
	seq     int64
	effect  effect
	payload []byte
}

// effect is what an event does to those who follow its stream.
type effect int

const (
	noEffect    effect = iota
	movesAccess        // who may read the mission may have changed
	endsStream         // there is nothing after it
)

func effectOf(kind string) effect {
	switch kind {
	case "mission.deleted":
		return endsStream
	case "member.set", "member.removed", "mission.updated":
		return movesAccess
	}
	return noEffect
}

// maxFrame is how many bytes of events are sent at once, unless one event has
// more: the default limit of many clients.
const maxFrame = 32 << 10

func newQueue(maxEvents int) *queue {
	return &queue{maxEvents: maxEvents, ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// push adds events of a topic. It never waits.
func (q *queue) push(topic *topicName, items ...queued) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, item := range items {
		if q.err != nil {
			break
		}
		if len(q.items) >= q.maxEvents || q.bytes+len(item.payload) > maxQueueBytes && len(q.items) > 0 {
			q.err, q.items, q.bytes = errTooSlow, nil, 0 // what waited is read again when the client resumes
			break
		}
		item.topic = topic
		q.items = append(q.items, item)
		q.bytes += len(item.payload)
	}
	nudge(q.ready)
}

// end ends the queue. What waits in it can still be taken.
func (q *queue) end(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
	}
	nudge(q.ready)
}

// take removes what waits: events of one topic that together have at most
// maxBytes, or one event. One with an effect is the last. With nothing left it
// returns why the queue has ended, or nil if it hasn't.
func (q *queue) take(maxBytes int) (items []queued, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 || q.err == errTooSlow {
		return nil, q.err
	}
	n, bytes := 0, 0
	for n < len(q.items) && q.items[n].topic == q.items[0].topic && (n == 0 || bytes+len(q.items[n].payload) <= maxBytes) {
		bytes += len(q.items[n].payload)
		if n++; q.items[n-1].effect != noEffect {
			break
		}
	}
	items = q.items[:n:n]
	if q.items = q.items[n:]; len(q.items) == 0 {
		q.items = nil // let the array go
	} else {
		nudge(q.ready)
	}
	q.bytes -= bytes
	nudge(q.room)
	return items, nil
}

// waitForRoom returns once the queue is at most half full, for who fills it
// from the database and can wait.
func (q *queue) waitForRoom(ctx context.Context) error {
	for {
		q.mu.Lock()
		err, full := q.err, len(q.items) > q.maxEvents/2 || q.bytes > maxQueueBytes/2
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

// waiting is how many events wait.
func (q *queue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items)
}
