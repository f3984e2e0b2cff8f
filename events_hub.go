package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	maxPumpPage = 500 // events of one stream that the pump reads at a time
	pumpStreams = 200 // streams it reads in one query
	pumpTimeout = 10 * time.Second
	watchTurns  = 2 // watchers of one stream that may query the database at a time
)

// hub delivers the events of streams to their followers in this process, and
// wakes their watchers. The one pump reads a stream once for all, and each event
// is encoded once. What wakes the pump is only a hint: the events come from the
// database, in the order of their numbers. Safe for concurrent use; no call waits
// for a follower.
type hub struct {
	db       *dbPool
	log      *slog.Logger
	counters *counters
	page     int                           // events of one stream that are read at a time
	grown    chan struct{}                 // some topic has events to read
	ahead    atomic.Pointer[time.Duration] // the database's clock minus ours; nil until known; only for metrics

	mu     sync.Mutex           // guards the following and the contents of topics
	topics map[string]*hubTopic // by stream; only those that somebody watches or follows
	handed int64                // events that went into followers' queues
}

// hubTopic is a stream that somebody in this process watches or follows.
type hubTopic struct {
	stream    string
	known     int64 // the newest seq heard of
	delivered int64 // the newest seq handed to the followers
	watchers  map[chan struct{}]struct{}
	turns     chan struct{} // a token for each watcher that may query the database now
	followers map[*follower]struct{}
}

// follower gets the events of one stream into a queue, each once and in order.
// While it catches up it reads the database itself, and its goroutine owns last;
// once it has reached the topic it is live, and the hub's mu guards last. live is
// always guarded by mu.
type follower struct {
	topic *topicName
	queue *queue
	last  int64 // the newest seq that went into the queue
	live  bool
	ended atomic.Bool // what waits in the queue is no longer wanted
}

// topicName is what a client knows a stream by.
type topicName struct {
	Topic     string `json:"topic"` // mission, user or metrics
	MissionID string `json:"mission_id,omitempty"`
	Stream    string `json:"-"`
}

// newHub returns a hub for followers whose queues hold queueEvents events: an
// empty queue has room for two pages.
func newHub(log *slog.Logger, c *counters, queueEvents int) *hub {
	return &hub{log: log, counters: c, page: max(1, min(maxPumpPage, queueEvents/2)), grown: make(chan struct{}, 1),
		topics: make(map[string]*hubTopic)}
}

// topicOf returns the topic of a stream, creating it if need be. The caller holds mu.
func (h *hub) topicOf(stream string) *hubTopic {
	t := h.topics[stream]
	if t == nil {
		t = &hubTopic{
			stream: stream, turns: make(chan struct{}, watchTurns),
			watchers: make(map[chan struct{}]struct{}), followers: make(map[*follower]struct{}),
		}
		for range watchTurns {
			t.turns <- struct{}{}
		}
		h.topics[stream] = t
	}
	return t
}

// dropIfIdle drops a topic that nobody watches or follows. The caller holds mu.
func (h *hub) dropIfIdle(t *hubTopic) {
	if len(t.watchers)+len(t.followers) == 0 && h.topics[t.stream] == t {
		delete(h.topics, t.stream)
	}
}

// watch subscribes to wake-ups: the channel grown gets a value when, since the
// last one was received, the stream has grown by something that may make a spec
// ready. Many can watch one stream: each takes a turn before it queries the
// database, and puts it back afterwards. The caller calls stop when done.
func (h *hub) watch(stream string) (grown <-chan struct{}, turns chan struct{}, stop func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, c := h.topicOf(stream), make(chan struct{}, 1)
	t.watchers[c] = struct{}{}
	return c, t.turns, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(t.watchers, c)
		h.dropIfIdle(t)
	}
}

// follow adds a follower that has all events up to last. head is the stream's
// newest seq, just read: a topic that is new here begins there.
func (h *hub) follow(f *follower, head int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topicOf(f.topic.Stream)
	if len(t.followers) == 0 && head > t.delivered {
		t.delivered = head
		t.wakeWatchers() // the pump won't read for them what came before
	}
	t.followers[f] = struct{}{}
	f.live = f.last >= t.delivered
	if t.delivered < t.known { // head was read before the last wake
		trySend(h.grown)
	}
}

// unfollow removes a follower. It gets nothing after that.
func (h *hub) unfollow(f *follower) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.topics[f.topic.Stream]; t != nil {
		delete(t.followers, f)
		h.dropIfIdle(t)
	}
}

// caughtUp makes a follower live if it has reached its topic, and reports
// whether it has.
func (h *hub) caughtUp(f *follower) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[f.topic.Stream]
	f.live = t != nil && f.last >= t.delivered
	return f.live
}

// wake notes the newest seqs of streams, and wakes the pump if it has events to read.
func (h *hub) wake(heads map[string]int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for stream, seq := range heads {
		t := h.topics[stream]
		if t == nil || seq <= t.known {
			continue
		}
		t.known = seq
		if len(t.followers) == 0 && t.delivered == 0 { // it has been watched since before its end was known
			t.delivered = seq
			t.wakeWatchers()
		}
		if t.delivered < seq {
			trySend(h.grown)
		}
	}
}

// wakeWatchers wakes a topic's watchers. The caller holds the hub's mu.
func (t *hubTopic) wakeWatchers() {
	for c := range t.watchers {
		trySend(c)
	}
}

// trySend puts a token into a channel of capacity 1, unless it holds one.
func trySend(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// watched returns the streams that somebody watches or follows.
func (h *hub) watched() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	streams := make([]string, 0, len(h.topics)+1)
	for stream := range h.topics {
		streams = append(streams, stream)
	}
	return streams
}

// pump reads the new events of topics and hands them to their followers, until
// ctx ends.
func (h *hub) pump(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.grown:
		}
		for behind := h.behind(); len(behind) > 0 && ctx.Err() == nil; behind = h.behind() {
			if err := h.read(ctx, behind); err != nil {
				if ctx.Err() == nil {
					h.log.Warn("reading events failed; the next poll tries again", "error", err)
				}
				h.forgetKnown(behind)
				break
			}
		}
	}
}

// behind returns the topics with events to read, and the last seq each has delivered.
func (h *hub) behind() map[string]int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	behind := make(map[string]int64)
	for stream, t := range h.topics {
		if t.delivered < t.known {
			behind[stream] = t.delivered
			if len(behind) == pumpStreams {
				break
			}
		}
	}
	return behind
}

// forgetKnown makes the next poll wake the topics that couldn't be read.
func (h *hub) forgetKnown(behind map[string]int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for stream := range behind {
		if t := h.topics[stream]; t != nil {
			t.known = t.delivered
		}
	}
}

// read reads the next events of topics in one query and delivers them.
func (h *hub) read(ctx context.Context, behind map[string]int64) error {
	ctx, cancel := context.WithTimeout(ctx, pumpTimeout)
	defer cancel()
	streams, after := make([]string, 0, len(behind)), make([]int64, 0, len(behind))
	for stream, seq := range behind {
		streams, after = append(streams, stream), append(after, seq)
	}
	rows, err := h.db.Query(ctx, `
		SELECT e.stream, e.seq, e.type, e.mission_id, e.spec_id, e.user_id, e.agent, e.at, e.data
		FROM unnest($1::uuid[], $2::bigint[]) AS t (stream, seq)
		CROSS JOIN LATERAL (SELECT `+eventColumns+` FROM events
			WHERE stream = t.stream AND seq > t.seq ORDER BY seq LIMIT $3) AS e
		ORDER BY e.stream, e.seq`, streams, after, h.page)
	if err != nil {
		return fmt.Errorf("reading events: %w", err)
	}
	events, err := pgx.CollectRows(rows, scanEvent)
	if err != nil {
		return fmt.Errorf("reading events: %w", err)
	}
	h.deliver(behind, events)
	return nil
}

// deliver hands events, sorted by stream and seq, to the followers of their
// topics. behind has the topics that were read.
func (h *hub) deliver(behind map[string]int64, events []event) {
	items := make([]queuedEvent, len(events))
	for i, e := range events {
		payload, err := encode(e)
		if err != nil {
			h.log.Error("an event can't be encoded", "stream", e.Stream, "seq", e.Seq, "error", err)
		}
		items[i] = queuedEvent{seq: e.Seq, effect: effectOf(e.Type), payload: payload}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	found := make(map[string]bool, len(behind))
	for start, end := 0, 0; start < len(events); start = end {
		stream := events[start].Stream
		for end < len(events) && events[end].Stream == stream {
			end++
		}
		found[stream] = true
		if t := h.topics[stream]; t != nil {
			h.deliverTo(t, items[start:end], events[start:end])
		}
	}
	for stream := range behind {
		if t := h.topics[stream]; t != nil && !found[stream] {
			t.known = t.delivered // there is nothing to read; a poll will tell if that changes
			t.wakeWatchers()
		}
	}
}

// deliverTo hands a topic's next events to its followers, all at once to each, so
// that they are sent in one frame. The caller holds mu.
func (h *hub) deliverTo(t *hubTopic, items []queuedEvent, events []event) {
	for len(items) > 0 && items[0].seq <= t.delivered {
		items, events = items[1:], events[1:]
	}
	if len(items) == 0 {
		return
	}
	first, last := items[0].seq, items[len(items)-1].seq
	whole := first == t.delivered+1 && last-first == int64(len(items)-1)
	if !whole || slices.ContainsFunc(events, func(e event) bool { return mayReady(e.Type) }) {
		t.wakeWatchers()
	}
	all, delivered := newBatches(items...), 0
	for f := range t.followers {
		switch {
		case !f.live || f.last >= last:
		case !whole:
			f.queue.end(errCursorGone)
		case f.last < first:
			f.queue.push(f, all...)
			f.last = last
			delivered += len(items)
		default: // it has read some of them itself
			news := items[f.last+1-first:]
			f.queue.push(f, newBatches(news...)...)
			f.last = last
			delivered += len(news)
		}
	}
	t.delivered = last
	h.handed += int64(delivered)
	h.counters.eventsDelivered(delivered)
	if ahead := h.ahead.Load(); delivered > 0 && ahead != nil {
		for _, e := range events {
			h.counters.deliveryLag(time.Since(e.At.Add(-*ahead)))
		}
	}
}

// followed reports whether anybody follows a stream.
func (h *hub) followed(stream string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[stream]
	return t != nil && len(t.followers) > 0
}

// broadcast hands a payload that isn't stored to the followers of a stream.
func (h *hub) broadcast(stream string, payload []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.topics[stream]; t != nil {
		message := newBatches(queuedEvent{payload: payload})
		for f := range t.followers {
			f.queue.push(f, message...)
		}
	}
}

// count is how many events have gone into followers' queues so far.
func (h *hub) count() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.handed
}

// positions returns the last seq that each topic has delivered, for a poll to
// compare with: a lower head means that the database has lost commits.
func (h *hub) positions() map[string]int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	positions := make(map[string]int64, len(h.topics))
	for stream, t := range h.topics {
		positions[stream] = t.delivered
	}
	return positions
}

// lost ends the followers of a stream whose head has gone back, as after a
// failover to a replica that didn't have the last commits.
func (h *hub) lost(stream string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.topics[stream]; t != nil {
		t.known, t.delivered = 0, 0
		for f := range t.followers {
			f.queue.end(errCursorAhead)
		}
	}
}
