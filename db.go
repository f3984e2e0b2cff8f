package main

// The connections to the database, and what all instances share in it.

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/multitracer"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"tachikoma/internal/gather"
)

// dbTrouble is what keeps the database from its work.
type dbTrouble int32

const (
	noTrouble   dbTrouble = iota
	unreachable           // or it doesn't answer
	readOnly              // a standby after a failover, or its owner wants it so: only writes are refused
	diskFull              // likewise
)

// code is what clients are told, and "" for noTrouble.
func (t dbTrouble) code() string {
	return [...]string{"", "database_unavailable", "database_read_only", "database_full"}[t]
}

// problem is the answer to a request that this trouble keeps from being served.
func (t dbTrouble) problem() *apiError {
	detail := [...]string{unreachable: "The database can't serve this right now. Try again in a moment.",
		readOnly: "The database takes no changes right now, but can be read. Try again in a moment.",
		diskFull: "The database has no room for changes right now, but can be read. Try again later."}[t]
	return problem(http.StatusServiceUnavailable, t.code(), "%s", detail).withHeader("Retry-After", "1")
}

// writeTrouble is what a database's refusal of a statement says about all
// writes.
func writeTrouble(err error) dbTrouble {
	switch sqlState(err) {
	case "25006": // read_only_sql_transaction
		return readOnly
	case "53100": // disk_full
		return diskFull
	}
	return noTrouble
}

// databaseTrouble is the trouble as of now: open sets it while it waits for
// the database, then the feed, which looks twice a second, and a write that is
// refused. Safe for concurrent use.
type databaseTrouble struct{ now atomic.Int32 }

func (d *databaseTrouble) get() dbTrouble { return dbTrouble(d.now.Load()) }

// set returns what it was before.
func (d *databaseTrouble) set(t dbTrouble) dbTrouble { return dbTrouble(d.now.Swap(int32(t))) }

// begin reports whether t is news: nothing was wrong before.
func (d *databaseTrouble) begin(t dbTrouble) bool {
	return d.now.CompareAndSwap(int32(noTrouble), int32(t))
}

// refuseWrites is the answer to a write while none can work, or nil. That the
// database is unreachable shows when a connection is asked for.
func (d *databaseTrouble) refuseWrites() error {
	if t := d.get(); t == readOnly || t == diskFull {
		return t.problem()
	}
	return nil
}

// openState connects to a database that is migrated.
func (s *serverState) openState(ctx context.Context, databaseURL string) (err error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return errors.New("DATABASE_URL can't be read as a PostgreSQL connection string")
	}
	config.MaxConns = int32(s.config.DatabaseMaxConns)
	limit := acquireLimit{down: func() bool { return s.trouble.get() == unreachable }}
	config.ConnConfig.Tracer = multitracer.New(append(s.tracers, limit)...)
	config.ConnConfig.RuntimeParams["application_name"] = "tachikoma"
	config.ConnConfig.ConnectTimeout = acquireTimeout
	config.ConnConfig.OnPgError = func(conn *pgconn.PgConn, refusal *pgconn.PgError) bool {
		t := writeTrouble(refusal)
		if t != noTrouble && s.trouble.begin(t) {
			s.log.Error("the database takes no writes", "reason", t.code(), "error", refusal)
		}
		// A session that was refused a write keeps what made it read only.
		return t == noTrouble && keepUnlessFatal(conn, refusal)
	}
	// Behind a pooler a connection can get what another one listens for; without
	// this pgx would keep it for ever.
	config.ConnConfig.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {}
	config.BeforeClose = s.conns.remove
	config.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		s.conns.add(conn)
		conn.TypeMap().RegisterType(&pgtype.Type{
			Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: &pgtype.TimestamptzCodec{ScanLocation: time.UTC},
		})
		return nil
	}
	if s.db, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return fmt.Errorf("connecting to the database: %w", err)
	}
	defer func() {
		if err != nil {
			s.db.Close()
			s.db = nil
		}
	}()
	s.hub.db = s.db
	s.missions = gather.New(s.db, oneMissionSQL, (*missionView).scan)
	s.specs = gather.New(s.db, oneSpecSQL, (*specRow).scan)
	s.credentials = newCredentials(func() bool { return s.feed.fresh() })
	s.feed = newFeed(s.db, s.hub, s.trouble, s.forget, s.conns.cut, s.log)
	s.secret, err = s.sharedSecret(ctx)
	return err
}

// keepUnlessFatal is pgx's own OnPgError, whatever the language of the message.
func keepUnlessFatal(_ *pgconn.PgConn, refusal *pgconn.PgError) bool {
	return severity(refusal) != "FATAL"
}

// severity is ERROR, FATAL or PANIC. Only poolers leave out the form that
// isn't translated.
func severity(refusal *pgconn.PgError) string {
	return cmp.Or(refusal.SeverityUnlocalized, refusal.Severity)
}

// connections are the open ones of the pool. Safe for concurrent use.
type connections struct {
	mu   sync.Mutex // guards open
	open map[*pgx.Conn]struct{}
}

func (c *connections) add(conn *pgx.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[conn] = struct{}{}
}

func (c *connections) remove(conn *pgx.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, conn)
}

// cut closes them under the feet of who waits for an answer: a database that
// has gone silent would let them wait for as long as their requests may take.
func (c *connections) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		_ = conn.PgConn().Conn().Close()
	}
}

// sharedSecret is JWT_SECRET, or else one that the first instance made and all
// read from the database.
func (s *serverState) sharedSecret(ctx context.Context) ([]byte, error) {
	if s.config.JWTSecret != nil {
		return s.config.JWTSecret, nil
	}
	made := make([]byte, 32)
	_, _ = rand.Read(made) // never fails
	if _, err := s.db.Exec(ctx, `INSERT INTO secrets (name, value) VALUES ('jwt', $1) ON CONFLICT (name) DO NOTHING`, made); err != nil {
		return nil, fmt.Errorf("storing the signing key: %w", err)
	}
	var secret []byte
	if err := s.db.QueryRow(ctx, `SELECT value FROM secrets WHERE name = 'jwt'`).Scan(&secret); err != nil {
		return nil, fmt.Errorf("reading the signing key: %w", err)
	}
	return secret, nil
}

// acquireTimeout is how long a request waits for a connection of the pool.
const acquireTimeout = 2 * time.Second

// acquireLimit bounds the wait for a connection, for every use of the pool: it
// is a tracer, since what TraceAcquireStart returns is the context of the wait
// and of nothing else; pgxpool has no setting for it, and a limit around each use
// would be one for the query too. While the database is down nobody waits at all.
type acquireLimit struct{ down func() bool }

type acquireCancel struct{}

func (l acquireLimit) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	limit := acquireTimeout
	if l.down() {
		limit = 0
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	return context.WithValue(limited, acquireCancel{}, cancel)
}

func (acquireLimit) TraceAcquireEnd(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireEndData) {
	if cancel, ok := ctx.Value(acquireCancel{}).(context.CancelFunc); ok {
		cancel()
	}
}

// TraceQueryStart and TraceQueryEnd make acquireLimit a pgx.QueryTracer, which
// is where pgxpool looks for it.
func (acquireLimit) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (acquireLimit) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
