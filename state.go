package main

// What all handlers share, and how much of it one mission or account may use.

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
	"tachikoma/internal/clientaddr"
	"tachikoma/internal/gather"
	"tachikoma/internal/pending"
	"tachikoma/internal/ratelimit"
)

// serverState is what all handlers share. newServer fills it in, except for what
// needs the database, which open does; after that only opened, draining and
// stopping change.
type serverState struct {
	config      Config
	timeouts    // set before open
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
	exports     *ratelimit.Slots
	uploads     *ratelimit.Slots // chunks of imports that arrive
	streams     *ratelimit.Slots // for server-sent events
	reads       ratelimit.Turns  // see beginRead
	unread      *ratelimit.Slots // bytes of responses on their way to clients
	writes      *writeGate
	seen        *seenIDs
	started     time.Time

	opened   atomic.Bool   // the database is there and migrated
	draining atomic.Bool   // no new work should be sent here
	stopping chan struct{} // closed when what waits or streams has to end
}

func newState(config Config, log *slog.Logger) serverState {
	counted := newCounters()
	return serverState{
		config:   config,
		timeouts: defaultTimeouts,
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
		exports:  ratelimit.NewSlots(),
		uploads:  ratelimit.NewSlots(),
		streams:  ratelimit.NewSlots(),
		unread:   ratelimit.NewSlots(),
		writes:   newWriteGate(config.DatabaseMaxConns),
		seen:     newSeenIDs(),
		started:  time.Now(),
		stopping: make(chan struct{}),
	}
}

// timeouts bound the waits for the database and for others that use it. On a
// machine that is busy with tests much can take longer than a server would wait.
type timeouts struct {
	acquireTimeout time.Duration // for a request to get a connection of the pool
	pollTimeout    time.Duration // for a query of the feed; a database that takes longer counts as down
	lockTimeout    time.Duration // for a write to get its turn, and then a lock
}

var defaultTimeouts = timeouts{
	acquireTimeout: 2 * time.Second, pollTimeout: time.Second, lockTimeout: 5 * time.Second,
}

// limiterKeys is how many clients a rate limit remembers.
const limiterKeys = 100_000

// forget drops what is cached about an account's credentials. For "" it drops
// everything cached from the database, which may have lost commits.
func (s *serverState) forget(userID string) {
	s.credentials.forget(userID)
	if userID == "" {
		s.contents.clear()
	}
}

// newID returns a UUIDv7 (RFC 9562): 48 bits of time in milliseconds, so that
// ids grow, and 74 random ones. When Go 1.26 is no longer supported, uuid.NewV7 of
// Go 1.27 replaces it, and uuid.Parse replaces validID.
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

// writeGate is where writes wait before they take a connection, so that those to
// a mission that is locked, for instance by a large import, leave connections for
// everybody else. One mission gets an eighth of the pool for the writes that lock
// it against each other, and another eighth for those that don't. One account gets
// half of the pool. Safe for concurrent use.
// See docs/design.md, Turns for writes.
type writeGate struct {
	turns     ratelimit.Turns
	ofAccount int // writes that may have a connection
	ofMission int // likewise, of each kind
}

func newWriteGate(conns int) *writeGate {
	return &writeGate{ofAccount: max(1, conns/2), ofMission: max(1, conns/8)}
}

// beginWrite waits for the turn of a request's write. It refuses the write if too
// much of what its account has asked for is still unread: its response would be
// too. The caller calls leave when the write has ended.
func (s *Server) beginWrite(ctx context.Context, c *call) (leave func(), err error) {
	release, err := c.holdResponse(unreadFrom)
	if err != nil {
		return nil, err
	}
	release()
	return s.takeTurn(ctx, c.account, c.target, c.permission.shared)
}

// takeTurn waits for the turn of an account's write, for as long as that would
// wait for a lock; then the error is 503 busy. at names the mission, or one of its
// specs, if there is one. shared says that the write doesn't lock the mission
// against others. The caller calls leave when the write has ended.
func (s *Server) takeTurn(ctx context.Context, a account, at target, shared bool) (leave func(), err error) {
	names := make([]ratelimit.Share, 0, 2)
	if mission := s.missionOf(at); mission != "" {
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

// timeLeft returns how long a write may still take.
func (s *Server) timeLeft(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return time.Until(deadline)
	}
	return s.config.RequestTimeout
}

// lockWait returns how long a write waits for its turn, and then for a lock.
func (s *Server) lockWait(ctx context.Context) time.Duration {
	return min(s.timeLeft(ctx)/2, s.lockTimeout)
}

// missionOf is the mission that at names. For a spec or question that isn't known
// yet it is the id of that, which then has a queue of its own.
func (s *Server) missionOf(at target) string {
	id := cmp.Or(at.spec, at.question)
	if id == "" {
		return at.mission
	}
	return cmp.Or(s.seen.of(id).mission, id)
}

// seenIDs caches what the gates need to know about specs and missions before they
// look them up, of those that were read or changed here lately: an agent mostly
// writes to a spec that it has claimed here. When young is full, it replaces old.
// Safe for concurrent use.
type seenIDs struct {
	mu         sync.Mutex // guards the following
	young, old map[string]seenID
}

type seenID struct {
	mission string // of a spec or question; it never changes
	costly  bool   // the last read of it, or of a list of its specs, had many dependencies
}

const (
	maxSeenIDs  = 10_000    // of each generation
	costlySpec  = 32 << 10  // bytes about the related specs, from which reading a spec is costly,
	costlySpecs = 256 << 10 // and from which a list is
)

func newSeenIDs() *seenIDs { return &seenIDs{young: make(map[string]seenID)} }

// of returns what is known of an id.
func (k *seenIDs) of(id string) seenID {
	k.mu.Lock()
	defer k.mu.Unlock()
	if v, ok := k.young[id]; ok {
		return v
	}
	return k.old[id]
}

// note remembers an id.
func (k *seenIDs) note(id string, v seenID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.young[id]; !ok && len(k.young) == maxSeenIDs {
		k.old, k.young = k.young, make(map[string]seenID)
	}
	k.young[id] = v
}

// learn remembers the missions of specs whose missions aren't known yet.
func (k *seenIDs) learn(missions map[string]string) {
	for spec, mission := range missions {
		if k.of(spec).mission == "" {
			k.note(spec, seenID{mission: mission})
		}
	}
}

// noteCost remembers that a list of specs was costly, if it was. id is that of the
// mission, or of the account if the list is of all that it sees.
func (k *seenIDs) noteCost(id string, specs []specSummary) {
	size := 0
	for i := range specs {
		size += len(specs[i].Dependencies)
	}
	if size > costlySpecs {
		k.note(id, seenID{costly: true})
	}
}

// beginRead waits for the turn of a read that may cost as much as many others. One
// account gets half of the pool for these. Those known to be costly, and searches,
// which give their text, get a quarter of the pool, and one account half of that.
// The read runs under bounded, which for a search limits its time. The error is 503
// busy if the turn takes too long. The caller calls end when it has read.
// See docs/design.md, Costly reads and unread responses.
func (s *Server) beginRead(
	ctx context.Context, a account, text string, costly bool,
) (bounded context.Context, end func(), err error) {
	conns := s.config.DatabaseMaxConns
	names := []ratelimit.Share{{Name: a.userID, Most: max(1, conns/2)}}
	if costly || text != "" {
		names = append(names, ratelimit.Share{Name: "costly " + a.userID, Most: max(1, conns/8)},
			ratelimit.Share{Name: "costly", Most: max(1, conns/4)})
	}
	waiting, cancel := context.WithTimeout(ctx, s.acquireTimeout)
	defer cancel()
	leave, err := s.reads.Take(waiting, names...)
	if err != nil && ctx.Err() == nil {
		err = problem(http.StatusServiceUnavailable, "busy", "Too many large reads are running. Try again in a moment.").
			withHeader("Retry-After", "1")
	}
	if err != nil || text == "" {
		return ctx, leave, err
	}
	bounded, cancel = context.WithTimeout(ctx, searchTime)
	return bounded, func() {
		cancel()
		leave()
	}, nil
}

// Bounds of the responses that wait for their clients to read them, in bytes.
const (
	unreadFrom   = 16 << 10 // smaller ones don't count: the kernel takes them
	unreadBytes  = 64 << 20
	unreadOfEach = 16 << 20 // account, or address where nobody is signed in
)

// holdResponse counts a response of n bytes among those that wait to be read. If
// too much waits already it refuses the response (503 busy), unless it reports a
// change or an error. The caller calls release when the response is sent.
func (c *call) holdResponse(n int) (release func(), err error) {
	if n < unreadFrom || c.unread == nil {
		return func() {}, nil
	}
	n = min(n, unreadOfEach)
	who := cmp.Or(c.account.userID, clientaddr.Key(c.addr))
	if c.mustSend {
		c.unread.Add(who, n)
	} else if !c.unread.Take(who, n, unreadBytes, unreadOfEach) {
		return nil, problem(http.StatusServiceUnavailable, "busy",
			"Too much of what you asked for is still unread. Read it, then try again.").withHeader("Retry-After", "1")
	}
	return func() { c.unread.Give(who, n) }, nil
}
