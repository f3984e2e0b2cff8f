package main

// What all handlers share, and how much of it one mission or account may take.

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/argon2id"
	"tachikoma/internal/gather"
	"tachikoma/internal/pending"
	"tachikoma/internal/ratelimit"
)

// serverState is what all handlers share. It is filled in by newServer, what needs
// the database by open; after that only the fields that say so change.
type serverState struct {
	config      Config
	log         *slog.Logger
	db          *dbPool
	trouble     *databaseTrouble
	tracers     []pgx.QueryTracer // of db, beside itself; set before open
	conns       *connections      // of db
	secret      []byte            // signs access tokens; all else is derived from it
	hasher      *argon2id.Hasher
	hub         *hub
	feed        *feed
	credentials *credentials
	rate        *ratelimit.Limiter // of credentials and addresses
	authRate    *ratelimit.Limiter // of addresses on the public auth routes
	counters    *counters
	sockets     *sockets
	missions    *gather.Gatherer[missionView]
	specs       *gather.Gatherer[specRow]
	contents    *specContents
	logs        *logWriter
	calls       pending.Calls // of tools
	imports     *ratelimit.Slots
	uploads     *ratelimit.Slots // chunks of imports that arrive
	streams     *ratelimit.Slots // for server-sent events
	searches    chan struct{}    // holds as many as run
	writes      *writeGate
	started     time.Time

	opened   atomic.Bool   // the database is there and migrated
	draining atomic.Bool   // no new work should be sent here
	stopping chan struct{} // closed when what waits or streams has to end
}

func newState(config Config, log *slog.Logger) serverState {
	counted := newCounters()
	return serverState{
		config:   config,
		log:      log,
		hasher:   argon2id.New(argon2id.Recommended),
		trouble:  new(databaseTrouble),
		conns:    &connections{open: make(map[*pgx.Conn]struct{})},
		hub:      newHub(log, counted, config.WSQueue),
		rate:     ratelimit.New(config.RateLimit, limiterKeys),
		authRate: ratelimit.New(config.AuthRateLimit, limiterKeys),
		counters: counted,
		sockets:  newSockets(),
		contents: newSpecContents(),
		imports:  ratelimit.NewSlots(),
		uploads:  ratelimit.NewSlots(),
		streams:  ratelimit.NewSlots(),
		searches: make(chan struct{}, max(1, config.DatabaseMaxConns/4)),
		writes:   newWriteGate(config.DatabaseMaxConns),
		started:  time.Now(),
		stopping: make(chan struct{}),
	}
}

// limiterKeys is how many clients a rate limit remembers.
const limiterKeys = 100_000

// forget drops what is remembered of an account's credentials. For "" it is all
// that is remembered of the database, which may have lost commits.
func (s *serverState) forget(userID string) {
	s.credentials.forget(userID)
	if userID == "" {
		s.contents.clear()
	}
}

// newID returns a UUIDv7 (RFC 9562): 48 bits of time in milliseconds, so that
// ids grow, and 74 random ones. Go 1.27 has uuid.NewV7, which takes its place, and
// uuid.Parse that of validID, when Go 1.26 isn't supported any more.
func newID() string {
	var id [16]byte
	_, _ = rand.Read(id[6:]) // never fails
	ms := uint64(time.Now().UnixMilli())
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

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
