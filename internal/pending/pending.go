// Package pending keeps track of running calls, so that they can be cancelled.
package pending

import "sync"

// Calls are the running calls, by name; several can have the same name. The zero
// value is ready to use. Safe for concurrent use.
type Calls struct {
	mu      sync.Mutex // guards running
	running map[string]map[chan struct{}]struct{}
}

// Begin adds a call. cancelled is closed if it is cancelled. The caller calls end
// when done.
func (c *Calls) Begin(name string) (cancelled <-chan struct{}, end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running == nil {
		c.running = make(map[string]map[chan struct{}]struct{})
	}
	if c.running[name] == nil {
		c.running[name] = make(map[chan struct{}]struct{})
	}
	call := make(chan struct{})
	c.running[name][call] = struct{}{}
	return call, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if delete(c.running[name], call); len(c.running[name]) == 0 {
			delete(c.running, name)
		}
	}
}

// Cancel cancels every call with a name, and reports whether there was one.
func (c *Calls) Cancel(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := c.running[name]
	for call := range calls {
		close(call)
	}
	delete(c.running, name)
	return len(calls) > 0
}
