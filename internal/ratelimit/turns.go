package ratelimit

import (
	"context"
	"slices"
	"sync"
)

// Turns are a limited number of places under each of several names. A caller that
// finds none free waits in line, and holds nothing under its other names
// meanwhile: it gets all of its places at once. The zero value is ready to use.
// Safe for concurrent use.
type Turns struct {
	mu    sync.Mutex       // guards the following
	lines map[string]*line // name → its places; only names in use
}

// line is the places of one name. Turns wait in it only if all are held.
type line struct {
	held    int
	waiting []*turn // in the order of arrival, more or less
}

// turn is a caller that holds a place under each of its names, or waits in one line.
type turn struct {
	shares []Share
	in     *line         // where it waits; nil once it has its places
	given  chan struct{} // closed when it has; nil if it never waited
}

// Share is a name and the number of places under it, which must be the same in all
// calls.
type Share struct {
	Name string
	Most int
}

// Take takes a place under each name, and waits for its turn until ctx ends; then
// the error is the cause of that. The caller calls giveBack when done.
func (t *Turns) Take(ctx context.Context, shares ...Share) (giveBack func(), err error) {
	one := &turn{shares: shares}
	t.mu.Lock()
	t.place(one)
	waits := one.in != nil
	t.mu.Unlock()
	if waits {
		select {
		case <-one.given:
		case <-ctx.Done():
			if t.withdraw(one) {
				return nil, context.Cause(ctx)
			}
		}
	}
	return func() { t.giveBack(one) }, nil
}

// Waiting returns how many wait for a place under a name.
func (t *Turns) Waiting(name string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.lines[name]; l != nil {
		return len(l.waiting)
	}
	return 0
}

// place gives a turn its places, or puts it in the line of a name that has none
// left. The caller holds mu.
func (t *Turns) place(one *turn) {
	for _, s := range one.shares {
		if l := t.lines[s.Name]; l != nil && l.held >= s.Most {
			if one.given == nil {
				one.given = make(chan struct{})
			}
			one.in, l.waiting = l, append(l.waiting, one)
			return
		}
	}
	for _, s := range one.shares {
		l := t.lines[s.Name]
		if l == nil {
			if t.lines == nil {
				t.lines = make(map[string]*line)
			}
			l = new(line)
			t.lines[s.Name] = l
		}
		l.held++
	}
	if one.in = nil; one.given != nil {
		close(one.given)
	}
}

// withdraw takes a turn out of its line, and reports whether it could: not if it has its places.
func (t *Turns) withdraw(one *turn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if one.in == nil {
		return false
	}
	i := slices.Index(one.in.waiting, one)
	one.in.waiting = slices.Delete(one.in.waiting, i, i+1)
	return true
}

// giveBack frees the places of a turn, for those that wait for them.
func (t *Turns) giveBack(one *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range one.shares {
		t.lines[s.Name].held--
	}
	for _, s := range one.shares {
		l := t.lines[s.Name]
		for l.held < s.Most && len(l.waiting) > 0 {
			first := l.waiting[0]
			l.waiting = slices.Delete(l.waiting, 0, 1)
			t.place(first)
		}
		if l.held == 0 {
			delete(t.lines, s.Name)
		}
	}
}
