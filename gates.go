package main

// Gates: how much of what all requests share one mission or account may take.

import (
	"cmp"
	"context"
	"net/http"
	"sync"
	"time"

	"tachikoma/internal/ratelimit"
)

// writeGate is where writes wait before they take a connection, so that those of
// a mission that is locked, by a large import say, leave the connections to
// everybody else. Of the pool an eighth is for those writes of one mission that
// lock it against each other, and an eighth for the others, which pass them by.
// Half of it is for one account. Safe for concurrent use.
// See docs/design.md, Turns for writes.
type writeGate struct {
	turns     ratelimit.Turns
	ofAccount int // writes that may have a connection
	ofMission int // likewise, of each kind

	mu         sync.Mutex        // guards the following
	young, old map[string]string // spec → its mission, which never changes; see learn
}

func newWriteGate(connections int) *writeGate {
	return &writeGate{ofAccount: max(1, connections/2), ofMission: max(1, connections/8), young: make(map[string]string)}
}

// takeTurn waits for the turn of a write by an account, to the mission that at
// names itself or by a spec, if it does: as long as it would wait for a lock.
// shared says that it doesn't lock the mission against others. The caller calls
// leave when the write has ended.
func (s *Server) takeTurn(ctx context.Context, a account, at target, shared bool) (leave func(), err error) {
	names := make([]ratelimit.Share, 0, 2)
	if mission := s.writes.missionOf(at); mission != "" {
		if shared {
			mission = "shared " + mission
		}
		names = append(names, ratelimit.Share{Name: mission, Most: s.writes.ofMission})
	}
	if a.userID != "" {
		names = append(names, ratelimit.Share{Name: a.userID, Most: s.writes.ofAccount})
	}
	waiting, cancel := context.WithTimeout(ctx, s.lockWait(ctx))
	defer cancel()
	if leave, err = s.writes.turns.Take(waiting, names...); err != nil && ctx.Err() == nil {
		return nil, problem(http.StatusServiceUnavailable, "busy",
			"Too many changes to this mission, or by your account, are waiting. Try again in a moment.").
			withHeader("Retry-After", "1")
	}
	return leave, err
}

// timeLeft is how long a write may still take.
func (s *Server) timeLeft(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return time.Until(deadline)
	}
	return s.config.RequestTimeout
}

// lockWait is how long a write waits for its turn, and then for a lock.
func (s *Server) lockWait(ctx context.Context) time.Duration {
	return min(s.timeLeft(ctx)/2, 5*time.Second)
}

// missionOf is the mission that at names. For a spec that nothing is known of it
// is the spec itself, which then has a queue of its own.
func (g *writeGate) missionOf(at target) string {
	if at.spec == "" {
		return at.mission
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if mission, ok := g.young[at.spec]; ok {
		return mission
	}
	return cmp.Or(g.old[at.spec], at.spec)
}

// learnedSpecs is how many specs' missions each generation remembers.
const learnedSpecs = 10_000

// learn notes the mission of a spec that was read or changed: an agent writes to
// a spec that it has claimed here, most often. When the young ones are as many as
// they may be, the old ones go.
func (g *writeGate) learn(spec, mission string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.young[spec] != "" {
		return
	}
	if len(g.young) == learnedSpecs {
		g.old, g.young = g.young, make(map[string]string)
	}
	g.young[spec] = mission
}
