package main

// The connections to the database, and what all instances share in it.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/multitracer"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"tachikoma/internal/gather"
)

// openState connects to a database that is migrated.
func (s *serverState) openState(ctx context.Context, databaseURL string) error {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return errors.New("DATABASE_URL can't be read as a PostgreSQL connection string")
	}
	config.MaxConns = int32(s.config.DatabaseMaxConns)
	limit := acquireLimit{down: func() bool { return s.feed.down.Load() }}
	config.ConnConfig.Tracer = multitracer.New(append(s.tracers, limit)...)
	config.ConnConfig.RuntimeParams["application_name"] = "tachikoma"
	config.ConnConfig.ConnectTimeout = acquireTimeout
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
	s.hub.db = s.db
	s.missions = gather.New(s.db, oneMissionSQL, (*missionView).scan)
	s.specs = gather.New(s.db, oneSpecSQL, (*specRow).scan)
	s.credentials = newCredentials(func() bool { return s.feed.fresh() })
	s.feed = newFeed(s.db, s.hub, s.forget, s.conns.cut, s.log)
	if s.secret, err = s.sharedSecret(ctx); err != nil {
		return err
	}
	return nil
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
