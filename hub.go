package main

import (
	"maps"
	"slices"
	"sync"
)

// hub tells those who watch a stream, in this process, that it has grown. A
// wake-up is a hint and carries nothing: who is woken reads the stream. Safe
// for concurrent use; no call blocks.
type hub struct {
	mu     sync.Mutex        // guards topics and what they hold
	topics map[string]*topic // by stream; one for each that somebody watches
}

// topic is a stream that somebody watches.
type topic struct {
	seq      int64 // the newest known
	watchers map[chan struct{}]struct{}
}

func newHub() *hub { return &hub{topics: make(map[string]*topic)} }

// watch subscribes to a stream. The channel gets a value whenever the stream
// has grown since the last one was taken. The caller calls stop when done.
func (h *hub) watch(stream string) (grown <-chan struct{}, stop func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[stream]
	if t == nil {
		t = &topic{watchers: make(map[chan struct{}]struct{})}
		h.topics[stream] = t
	}
	c := make(chan struct{}, 1)
	t.watchers[c] = struct{}{}
	return c, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if delete(t.watchers, c); len(t.watchers) == 0 && h.topics[stream] == t {
			delete(h.topics, stream)
		}
	}
}

// wake tells the watchers of streams whose newest seq is past the one known.
func (h *hub) wake(heads map[string]int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for stream, seq := range heads {
		t := h.topics[stream]
		if t == nil || seq <= t.seq {
			continue
		}
		t.seq = seq
		for c := range t.watchers {
			select {
			case c <- struct{}{}:
			default: // it has one to take already
			}
		}
	}
}

// watched returns the streams that somebody watches.
func (h *hub) watched() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.topics))
}
