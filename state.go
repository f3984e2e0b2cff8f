package main

import (
	"crypto/rand"
	"fmt"
	"log/slog"
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
