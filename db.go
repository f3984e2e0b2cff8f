package main

// The connections to the database, and what all instances share in it.

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/multitracer"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"tachikoma/internal/gather"
	"tachikoma/internal/pgserver"
)

// databaseTrouble is the current trouble with the database. open sets it while
// it waits for the database; after that the feed, which polls twice a second, and
// a write that is refused. Safe for concurrent use.
type databaseTrouble struct{ now atomic.Int32 }

func (d *databaseTrouble) get() dbTrouble { return dbTrouble(d.now.Load()) }

// set sets the trouble and returns the previous one.
func (d *databaseTrouble) set(t dbTrouble) dbTrouble { return dbTrouble(d.now.Swap(int32(t))) }

// begin sets t if nothing was wrong before, and reports whether it did.
func (d *databaseTrouble) begin(t dbTrouble) bool { return d.change(noTrouble, t) }

// change sets to if the trouble is still from, and reports whether it did.
func (d *databaseTrouble) change(from, to dbTrouble) bool {
	return d.now.CompareAndSwap(int32(from), int32(to))
}

// refuseWrites returns the error of a write while the database accepts none, or
// nil. That the database is unreachable shows when a connection is acquired.
func (d *databaseTrouble) refuseWrites() error {
	if t := d.get(); t == readOnly || t == diskFull {
		return t.problem()
	}
	return nil
}

// openState connects to a migrated database. After an error s.db is nil.
func (s *serverState) openState(ctx context.Context, databaseURL string) (err error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return errors.New("DATABASE_URL isn't a valid PostgreSQL connection string")
	}
	session, err := connect(ctx, databaseURL) // finds out what the database lets a session set
	if err != nil {
		return err
	}
	config.ConnConfig.RuntimeParams = session.Config().RuntimeParams
	if err := session.Close(ctx); err != nil {
		return fmt.Errorf("connecting to the database: %w", err)
	}
	config.MaxConns = int32(s.config.DatabaseMaxConns)
	down := func() bool { return s.opened.Load() && s.trouble.get() == unreachable }
	s.db = newPool(s.config.DatabaseMaxConns, s.timeouts, down, s.log)
	config.ConnConfig.Tracer = multitracer.New(append(s.tracers, s.db)...)
	config.ConnConfig.ConnectTimeout = s.acquireTimeout
	config.ConnConfig.OnPgError = func(conn *pgconn.PgConn, refusal *pgconn.PgError) bool {
		t := writeTrouble(refusal)
		if t != noTrouble && s.opened.Load() && s.trouble.begin(t) {
			s.log.Error("the database accepts no writes", "reason", t.code(), "error", refusal)
		}
		// A session that was refused a write stays read-only: pgx must close it.
		return t == noTrouble && keepUnlessFatal(conn, refusal)
	}
	// Behind a pooler a connection can get the notifications of another one;
	// without this pgx would keep them for ever.
	config.ConnConfig.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {}
	config.BeforeClose = s.conns.remove
	config.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		s.conns.add(conn)
		conn.TypeMap().RegisterType(&pgtype.Type{
			Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: &pgtype.TimestamptzCodec{ScanLocation: time.UTC},
		})
		return nil
	}
	if s.db.Pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		s.db = nil
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
	s.feed = newFeed(s.db, s.hub, s.trouble, s.forget, func(call string) { s.calls.Cancel(call) }, s.conns.cut, s.log)
	s.secret, err = s.sharedSecret(ctx)
	return err
}

// keepUnlessFatal is pgx's own OnPgError, but works in any language of the messages.
func keepUnlessFatal(_ *pgconn.PgConn, refusal *pgconn.PgError) bool {
	return severity(refusal) != "FATAL"
}

// severity is ERROR, FATAL or PANIC. Only poolers leave out the form that
// isn't translated.
func severity(refusal *pgconn.PgError) string {
	return cmp.Or(refusal.SeverityUnlocalized, refusal.Severity)
}

// sessionSettings are set in every session of the server, whatever the defaults
// of its role and of the database are. Those defaults hold for all other settings,
// such as search_path and default_transaction_read_only.
var sessionSettings = []sessionSetting{
	{name: "client_encoding", value: "UTF8", pooled: true},
	{name: "DateStyle", value: "ISO, MDY", pooled: true,
		fits: func(has string) bool { return strings.HasPrefix(has, "ISO") }},
	{name: "TimeZone", value: "UTC", pooled: true,
		fits: func(has string) bool { return has == "Etc/UTC" || has == "GMT" }},
	{name: "standard_conforming_strings", value: "on", pooled: true},
	{name: "IntervalStyle", value: "postgres"},
	{name: "bytea_output", value: "hex"},
	{name: "array_nulls", value: "on"},
	{name: "extra_float_digits", value: "1", fits: func(has string) bool { return has == "2" || has == "3" }},
	{name: "default_transaction_isolation", value: "read committed"},
	{name: "exit_on_error", value: "off"},
	{name: "statement_timeout", value: "0", fits: longTimeout},
	{name: "transaction_timeout", value: "0", fits: longTimeout, since: 17},
	{name: "lock_timeout", value: "0", optional: true},
	{name: "idle_in_transaction_session_timeout", value: "0", optional: true},
	{name: "idle_session_timeout", value: "0", optional: true},
	// Compiling a query, or starting a process to help with it, takes longer than most queries.
	{name: "jit", value: "off", optional: true},
	{name: "max_parallel_workers_per_gather", value: "0", optional: true},
}

type sessionSetting struct {
	name, value string
	fits        func(has string) bool // whether another value serves as well; nil: none does
	pooled      bool                  // poolers pass it on
	optional    bool                  // not needed: transactions set it too, a pooler sees to it, or it is for speed
	since       int                   // the first version of PostgreSQL that has it
}

// longTimeout reports whether a timeout in milliseconds is longer than any
// single statement that reads takes.
func longTimeout(has string) bool {
	ms, err := strconv.Atoi(has)
	return err == nil && ms >= 60_000
}

// connect opens a connection outside the pool, with sessionSettings. Poolers
// refuse some of them, and an older PostgreSQL those that it doesn't know: then
// they are left out, and the session's own values have to do. The connection
// uses the simple protocol, in which a migration can be sent as it is. The caller
// closes it.
func connect(ctx context.Context, databaseURL string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return nil, errors.New("DATABASE_URL isn't a valid PostgreSQL connection string")
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	config.ConnectTimeout = connectTimeout
	given := config.RuntimeParams
	for _, leaveOut := range []func(sessionSetting) bool{
		func(sessionSetting) bool { return false },
		func(s sessionSetting) bool { return s.since > 0 },
		func(s sessionSetting) bool { return !s.pooled },
	} {
		config.RuntimeParams = map[string]string{"application_name": "tachikoma"}
		for name, value := range given {
			if !slices.ContainsFunc(sessionSettings, func(s sessionSetting) bool { return strings.EqualFold(s.name, name) }) {
				config.RuntimeParams[name] = value
			}
		}
		for _, s := range sessionSettings {
			if !leaveOut(s) {
				config.RuntimeParams[s.name] = s.value
			}
		}
		var conn *pgx.Conn
		if conn, err = pgx.ConnectConfig(ctx, config); err == nil {
			if err = checkDatabase(ctx, conn); err != nil {
				_ = conn.Close(ctx) // err already says what is wrong
				return nil, err
			}
			return conn, nil
		}
		switch sqlState(err) {
		case "42704", "08P01", "0A000": // undefined_object, protocol_violation, feature_not_supported
		default:
			return nil, refusedConnection(err, config)
		}
	}
	return nil, refusedConnection(err, config)
}

// refusedConnection is the error of a connection that couldn't be made, with
// what an operator can do about it, unless waiting may help.
func refusedConnection(err error, config *pgx.ConnConfig) error {
	if passing(err) != noTrouble {
		return fmt.Errorf("connecting to the database: %w", err)
	}
	role, database := identifier(config.User), identifier(config.Database)
	advice := "can't connect to the database: check DATABASE_URL, including its sslmode"
	switch sqlState(err) {
	case "28P01": // invalid_password
		advice = "the database refuses the password of the role " + role + ": correct DATABASE_URL, or run ALTER ROLE " +
			role + " PASSWORD '…'"
	case "28000": // invalid_authorization_specification
		advice = "the database refuses the role " + role + ": run CREATE ROLE " + role +
			" LOGIN PASSWORD '…', or allow it in pg_hba.conf"
	case "3D000": // invalid_catalog_name
		advice = "there is no database " + database + ": run CREATE DATABASE " + database + " OWNER " + role +
			", or correct DATABASE_URL"
	case "42501": // insufficient_privilege
		advice = "the role " + role + " may not use the database: run GRANT CONNECT ON DATABASE " + database + " TO " + role
	}
	if refusal, ok := errors.AsType[*pgconn.PgError](err); ok {
		err = refusal // the rest repeats it in more lines
	}
	if _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); untrusted {
		advice = "the database's TLS certificate isn't trusted: set sslrootcert in DATABASE_URL to its CA certificate"
	}
	return fmt.Errorf("%s (%w)", advice, err)
}

var plainName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// identifier returns name as an SQL identifier, quoted if need be.
func identifier(name string) string {
	if plainName.MatchString(name) {
		return name
	}
	return pgx.Identifier{name}.Sanitize()
}

// checkDatabase returns an error for a server that can't hold this program's data,
// or sessions in which the program wouldn't work as it should.
func checkDatabase(ctx context.Context, conn *pgx.Conn) error {
	var number, version, encoding string
	err := conn.QueryRow(ctx, `
		SELECT current_setting('server_version_num'), current_setting('server_version'), current_setting('server_encoding')
		`).Scan(&number, &version, &encoding)
	if err != nil {
		return fmt.Errorf("asking the database for its version: %w", err)
	}
	if n, err := strconv.Atoi(number); err != nil || n < pgserver.MinVersion*10_000 {
		return fmt.Errorf("the database is PostgreSQL %s: %d or later is needed", version, pgserver.MinVersion)
	}
	if encoding != "UTF8" {
		return fmt.Errorf("the database's encoding is %s: create one with CREATE DATABASE … "+
			"ENCODING 'UTF8' TEMPLATE template0", encoding)
	}
	return checkSession(ctx, conn)
}

// checkSession checks the settings that connect had to leave out.
func checkSession(ctx context.Context, conn *pgx.Conn) error {
	has := make(map[string]string)
	rows, err := conn.Query(ctx, `SELECT name, setting FROM pg_settings`)
	if err != nil {
		return fmt.Errorf("asking the database for its settings: %w", err)
	}
	var name, setting string
	if _, err := pgx.ForEachRow(rows, []any{&name, &setting}, func() error {
		has[name] = setting
		return nil
	}); err != nil {
		return fmt.Errorf("asking the database for its settings: %w", err)
	}
	c, wrong, mend := conn.Config(), []string(nil), []string(nil)
	for _, s := range sessionSettings {
		value, known := has[s.name]
		if !known || s.optional || value == s.value || s.fits != nil && s.fits(value) {
			continue
		}
		wrong = append(wrong, s.name+" = "+value)
		mend = append(mend, fmt.Sprintf("ALTER ROLE %s IN DATABASE %s SET %s = '%s'",
			identifier(c.User), identifier(c.Database), s.name, s.value))
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("the sessions behind this pooler have %s, with which the server doesn't work: "+
		"run %s, and restart the pooler", strings.Join(wrong, ", "), strings.Join(mend, "; "))
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

// cut closes them all, although some wait for an answer: a database that has gone
// silent would let them wait for as long as their requests may take.
func (c *connections) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		_ = conn.PgConn().Conn().Close()
	}
}

const (
	connectTimeout  = 5 * time.Second // for a connection outside the pool to be made
	rollbackTimeout = 2 * time.Second // for a ROLLBACK, before its connection is closed instead
)

// dbPool is the connections that requests share. It bounds the wait for one. It
// does so as a tracer, since the context that TraceAcquireStart returns is used
// for the wait and for nothing else. While the database is down there is no wait.
//
// If the database allows fewer connections than the pool may have, requests share
// those that exist, and wait while all are in use. For that, each acquire takes a
// place first. A place whose connection was refused is kept back for a while, the
// longer the more there are, so that about one new connection is tried a second.
// Safe for concurrent use.
type dbPool struct {
	*pgxpool.Pool
	timeouts
	down   func() bool
	log    *slog.Logger
	places chan struct{} // free ones

	keptBack atomic.Int32
	refused  atomic.Int64 // connections, in all
	saidAt   atomic.Int64 // when it was last logged, in Unix seconds
	waits    atomic.Int64 // for a place,
	waited   atomic.Int64 // and their nanoseconds
}

// newPool returns a pool without its pgxpool.Pool, which is made with it as a tracer.
func newPool(size int, limits timeouts, down func() bool, log *slog.Logger) *dbPool {
	p := &dbPool{timeouts: limits, down: down, log: log, places: make(chan struct{}, size)}
	for range size {
		p.places <- struct{}{}
	}
	return p
}

// Acquire and the methods after it are those of pgxpool.Pool, but a refused
// connection is no error as long as there is time to wait for another one.
func (p *dbPool) Acquire(ctx context.Context) (conn *pgxpool.Conn, err error) {
	err = p.unlessRefused(ctx, func() error { conn, err = p.Pool.Acquire(ctx); return err })
	return conn, err
}

func (p *dbPool) Exec(ctx context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	err = p.unlessRefused(ctx, func() error { tag, err = p.Pool.Exec(ctx, sql, args...); return err })
	return tag, err
}

func (p *dbPool) Query(ctx context.Context, sql string, args ...any) (rows pgx.Rows, err error) {
	err = p.unlessRefused(ctx, func() error { rows, err = p.Pool.Query(ctx, sql, args...); return err })
	return rows, err
}

func (p *dbPool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return txRow(func(dest ...any) error {
		return p.unlessRefused(ctx, func() error { return p.Pool.QueryRow(ctx, sql, args...).Scan(dest...) })
	})
}

// querier is what a read runs on: the pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// errNoConnection means that no connection of the pool was free in time.
var errNoConnection = errors.New("no connection was free in time")

// unlessRefused calls do again while it fails because the database refuses a
// connection, for at most acquireTimeout. A wait for the pool that takes too long
// is errNoConnection.
func (p *dbPool) unlessRefused(ctx context.Context, do func() error) error {
	for began := time.Now(); ; {
		err := do()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			return fmt.Errorf("%w: %w", errNoConnection, err)
		}
		if !tooManyConnections(err) || time.Since(began) > p.acquireTimeout {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// tooManyConnections reports whether the database has refused a connection because it has too many.
func tooManyConnections(err error) bool {
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	return connecting && sqlState(err) == "53300" // too_many_connections
}

// acquiring is the state of an acquire, in its context.
type acquiring struct {
	cancel context.CancelFunc
	place  bool // it has taken one
}

type acquiringKey struct{}

// TraceAcquireStart waits for a place, for at most acquireTimeout.
func (p *dbPool) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool,
	_ pgxpool.TraceAcquireStartData) context.Context {
	limit := p.acquireTimeout
	if p.down() {
		limit = 0
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	a := acquiring{cancel: cancel}
	select {
	case <-p.places:
		a.place = true
	default:
		began := time.Now()
		select {
		case <-p.places:
			a.place = true
		case <-limited.Done():
		}
		p.waits.Add(1)
		p.waited.Add(int64(time.Since(began)))
	}
	return context.WithValue(limited, acquiringKey{}, a)
}

// TraceAcquireEnd gives the place back, unless the acquire got a connection.
func (p *dbPool) TraceAcquireEnd(ctx context.Context, _ *pgxpool.Pool, done pgxpool.TraceAcquireEndData) {
	a, _ := ctx.Value(acquiringKey{}).(acquiring)
	a.cancel()
	if tooManyConnections(done.Err) {
		p.noteRefused(done.Err)
		// Connections that exist keep their places: another acquire may have made one meanwhile.
		if size := cap(p.places) - int(p.keptBack.Load()); a.place && size > int(p.Stat().TotalConns()) {
			wait := min(time.Duration(p.keptBack.Add(1))*time.Second, time.Minute)
			time.AfterFunc(wait, func() {
				p.keptBack.Add(-1)
				p.places <- struct{}{}
			})
			return
		}
	}
	if a.place && done.Err != nil {
		p.places <- struct{}{}
	}
}

// TraceRelease gives the place of a connection back.
func (p *dbPool) TraceRelease(*pgxpool.Pool, pgxpool.TraceReleaseData) { p.places <- struct{}{} }

// noteRefused counts a refused connection, and logs it once a minute.
func (p *dbPool) noteRefused(err error) {
	p.refused.Add(1)
	now, last := time.Now().Unix(), p.saidAt.Load()
	if now-last >= 60 && p.saidAt.CompareAndSwap(last, now) {
		p.log.Warn("the database allows fewer connections than DATABASE_MAX_CONNS: requests wait for those that exist",
			"connections", p.Stat().TotalConns(), "error", err)
	}
}

// TraceQueryStart and TraceQueryEnd make dbPool a pgx.QueryTracer, which is where
// pgxpool looks for it.
func (*dbPool) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (*dbPool) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
