package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// writeAttempts is how often a write runs at most when PostgreSQL asks to try
// again (serialization_failure, deadlock_detected).
const writeAttempts = 3

// tx is one run of a write. Beside the transaction it gathers what has to
// happen with the commit: events to append, counters to change, credentials to
// forget. It belongs to the closure it is given to.
//
// Statements whose results nobody waits for are queued, and sent with the next
// one that somebody waits for: BEGIN with the first, COMMIT with the last ones, so
// that a claim takes three round trips and not ten. A queued statement reports
// its error where it is sent.
//
// Rows are locked in this order, so that no two writes wait for each other:
// idempotency key, mission, accounts by id, sessions, their tokens, specs by id,
// leases with attempts and questions, heads by stream. What notes only itself doesn't
// come through here: the last use of a key, a longer page session, a failed log-in, and
// the signing key.
// See docs/design.md, Write skew and the lock order.
type tx struct {
	conn    *pgxpool.Conn
	queued  *pgx.Batch // sent with the next statement that is waited for
	account account
	events  []event
	moved   map[string]tally    // mission id → by how much its counters move
	recount map[string]struct{} // missions whose counters are recounted instead
	revoked []string            // accounts whose credentials changed
	heads   map[string]int64    // stream → its newest seq; only streams that grew
	specs   map[string]string   // spec → its mission; only specs that the events are about
	claimed int                 // leases granted
	expired int                 // leases taken back
	thens   []func() error      // see then
}

// begin takes a connection and queues what begins a transaction on it. The caller
// always calls rollback, which after a commit only gives the connection back.
// While the database accepts no writes, begin fails without asking it.
func (s *Server) begin(ctx context.Context, a account) (*tx, error) {
	if err := s.trouble.refuseWrites(); err != nil {
		return nil, err
	}
	conn, err := s.db.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("beginning a transaction: %w", err)
	}
	t := &tx{
		conn: conn, queued: &pgx.Batch{}, account: a,
		moved: make(map[string]tally), recount: make(map[string]struct{}), heads: make(map[string]int64),
		specs: make(map[string]string),
	}
	t.queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	t.queue(settingsSQL, s.timeLimits(ctx)...)
	return t, nil
}

// settingsSQL has the settings of one transaction. Statements are large, and their
// parameters hardly change the plan: planning each one again would take half of the
// time of a claim. A plan made while a table is small is kept while the table grows,
// so sequential scans are off. They then look so expensive to the planner that it
// would compile what still needs one, such as a count, so JIT is off too.
const settingsSQL = `
	SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true),
	       set_config('idle_in_transaction_session_timeout', $1, true),
	       set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true),
	       set_config('jit', 'off', true)`

// timeLimits are the parameters of settingsSQL: its waits end before the
// request's time does, since a context that ends first costs the connection.
func (s *Server) timeLimits(ctx context.Context) []any {
	milliseconds := func(d time.Duration) string { return strconv.FormatInt(max(1, d.Milliseconds()), 10) }
	return []any{milliseconds(s.timeLeft(ctx) * 4 / 5), milliseconds(s.lockWait(ctx))}
}

// queue adds a statement that is sent with the next one that is waited for. A
// callback set on the result runs then; its error fails the whole send.
func (t *tx) queue(sql string, args ...any) *pgx.QueuedQuery { return t.queued.Queue(sql, args...) }

// ask queues a query for one row, which is scanned into dest when it is sent.
// found is set to true if there is one.
func (t *tx) ask(sql string, args []any, dest ...any) (found *bool) {
	found = new(bool)
	t.queue(sql, args...).QueryRow(func(row pgx.Row) error {
		err := row.Scan(dest...)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // an error would make pgx discard its prepared statements
		}
		*found = err == nil
		return err
	})
	return found
}

// askFor queues a query for one row of T and returns where the row will be once it
// is sent. It is for rows that the transaction has locked: if there is none, finish
// fails, which may be after the commit.
func askFor[T any](t *tx, sql string, args []any, scan pgx.RowToFunc[T]) *T {
	row, err := new(T), pgx.ErrNoRows
	t.queue(sql, args...).Query(func(rows pgx.Rows) (readErr error) {
		if *row, readErr = pgx.CollectExactlyOneRow(rows, scan); errors.Is(readErr, pgx.ErrNoRows) {
			return nil // see ask
		}
		err = readErr
		return readErr
	})
	t.then(func() error { return notFoundOr(err, "reading what was written") })
	return row
}

// then registers fn to be called by finish, once all that is queued was sent: it
// completes a response with what is known only then.
func (t *tx) then(fn func() error) { t.thens = append(t.thens, fn) }

// finish calls the functions registered with then, in order.
func (t *tx) finish() error {
	for _, fn := range t.thens {
		if err := fn(); err != nil {
			return err
		}
	}
	t.thens = nil
	return nil
}

// send sends what is queued, in one round trip, and waits for all of it.
func (t *tx) send(ctx context.Context) error {
	sending := t.queued
	t.queued = &pgx.Batch{}
	return t.conn.SendBatch(ctx, sending).Close()
}

// Exec runs a statement, after what is queued.
func (t *tx) Exec(ctx context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	t.queue(sql, args...).Exec(func(done pgconn.CommandTag) error {
		tag = done
		return nil
	})
	return tag, t.send(ctx)
}

// QueryRow runs a query for one row, after what is queued.
func (t *tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return txRow(func(dest ...any) error {
		found := t.ask(sql, args, dest...)
		if err := t.send(ctx); err != nil {
			return err
		}
		if !*found {
			return pgx.ErrNoRows
		}
		return nil
	})
}

// txRow is a query that runs when its row is scanned.
type txRow func(dest ...any) error

func (r txRow) Scan(dest ...any) error { return r(dest...) }

// Query runs a query, after what is queued.
func (t *tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := t.send(ctx); err != nil {
		return nil, err
	}
	return t.conn.Query(ctx, sql, args...)
}

// CopyFrom copies rows into a table, after what is queued.
func (t *tx) CopyFrom(ctx context.Context, table string, columns []string, rows pgx.CopyFromSource) error {
	if err := t.send(ctx); err != nil {
		return err
	}
	_, err := t.conn.CopyFrom(ctx, pgx.Identifier{table}, columns, rows)
	return err
}

// commit appends the events and ends the transaction, together with what is
// still queued.
func (t *tx) commit(ctx context.Context) error {
	if err := t.flush(); err != nil {
		return err
	}
	var ended pgconn.CommandTag
	t.queue("COMMIT").Exec(func(tag pgconn.CommandTag) error {
		ended = tag
		return nil
	})
	err := t.send(ctx)
	switch {
	case err == nil && ended.String() != "ROLLBACK":
		return nil
	case err == nil:
		return fmt.Errorf("committing: %w", pgx.ErrTxCommitRollback)
	case neverCommitted(err):
		return err
	}
	return problem(http.StatusServiceUnavailable, "outcome_unknown",
		"The connection to the database was lost while this was being saved: it may or may not have been saved. Retry "+
			"with the same Idempotency-Key, or check.").
		withHeader("Retry-After", "1").because(err)
}

// neverCommitted reports whether an error means that nothing was committed: the
// database refused a statement, or it was never sent. A FATAL error, such as a
// shutdown, leaves that open: it may come after the commit.
func neverCommitted(err error) bool {
	if refusal, ok := errors.AsType[*pgconn.PgError](err); ok {
		return severity(refusal) == "ERROR"
	}
	_, unsent := errors.AsType[pgx.ErrPreprocessingBatch](err)
	return unsent || pgconn.SafeToRetry(err)
}

// rollback undoes what wasn't committed and gives the connection back.
func (t *tx) rollback(ctx context.Context) {
	defer t.conn.Release() // which closes one that is still in a transaction
	if conn := t.conn.Conn(); !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		_, _ = conn.Exec(ctx, "ROLLBACK")
	}
}

// inTx is the one way to change anything that has events. It runs fn in a
// transaction for an account, appends its events, commits, and wakes those who
// wait for them. An error from fn rolls everything back, unless it is wrapped by
// andCommit. fn may run several times, so it must have no effect except on t and
// on what it sets again each time.
// See docs/design.md, One transaction for every write.
func (s *Server) inTx(ctx context.Context, a account, fn func(ctx context.Context, t *tx) error) error {
	for attempt := 1; ; attempt++ {
		err := s.tryTx(ctx, a, fn)
		if state := sqlState(err); attempt == writeAttempts || state != "40001" && state != "40P01" {
			return err
		}
		select {
		case <-time.After(rand.N(time.Duration(attempt) * 20 * time.Millisecond)):
		case <-ctx.Done():
			return err
		}
	}
}

func (s *Server) tryTx(ctx context.Context, a account, fn func(ctx context.Context, t *tx) error) error {
	t, err := s.begin(ctx, a)
	if err != nil {
		return err
	}
	defer t.rollback(ctx)
	err = fn(ctx, t)
	if err != nil && !isCommitted(err) {
		return err
	}
	if commitErr := t.commit(ctx); commitErr != nil {
		return commitErr
	}
	s.published(t)
	if err != nil {
		return err
	}
	return t.finish()
}

// published wakes, after the commit, whoever waits for what t changed.
func (s *Server) published(t *tx) {
	for _, userID := range t.revoked {
		s.credentials.forget(userID)
	}
	s.seen.learn(t.specs)
	s.hub.wake(t.heads)
	s.feed.announce(t.heads)
	for range t.claimed {
		s.counters.claimGranted()
	}
	s.counters.leaseExpired(t.expired)
}

// transact runs fn in inTx, for the caller of a request. What fn returns is
// complete after the commit. With an Idempotency-Key it is kept: for 24 hours the
// same request with the same key gets it as a keptResponse. An error isn't kept.
//
// The transaction doesn't end with the client's connection, unless the call only
// tries: what has begun is finished, within the request's time.
func transact[Out any](ctx context.Context, s *Server, c *call,
	fn func(ctx context.Context, t *tx) (*Out, error)) (out *Out, err error) {
	leave, err := s.beginWrite(ctx, c)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := s.readmit(ctx, c); err != nil {
		return nil, err
	}
	within, cancel := context.WithoutCancel(ctx), context.CancelFunc(func() {})
	if deadline, ok := ctx.Deadline(); c.tries {
		within = ctx
	} else if ok {
		within, cancel = context.WithDeadline(within, deadline)
	}
	defer cancel()
	err = s.inTx(within, c.account, func(ctx context.Context, t *tx) (err error) {
		if c.key != "" {
			out, err = transactOnce(ctx, t, c, fn)
		} else {
			out, err = fn(ctx, t)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	c.mustSend = true
	return out, nil
}

// transactOnce runs fn and keeps its response under the key, unless an earlier
// request with this key got one.
func transactOnce[Out any](ctx context.Context, t *tx, c *call,
	fn func(ctx context.Context, t *tx) (*Out, error)) (*Out, error) {
	if err := t.takeKey(ctx, c); err != nil {
		return nil, err
	}
	out, err := fn(ctx, t)
	if err != nil {
		if isCommitted(err) { // no response is kept, so neither is the key
			t.queue(`DELETE FROM idempotency_keys WHERE user_id = $1 AND key = $2`, t.account.userID, c.key)
		}
		return nil, err
	}
	if err := t.flush(); err != nil {
		return nil, err
	}
	if err := t.send(ctx); err != nil { // the response is built from it
		return nil, err
	}
	if err := t.finish(); err != nil {
		return nil, err
	}
	made, err := responseOf(c, out)
	if err != nil {
		return nil, err
	}
	t.queue(`UPDATE idempotency_keys SET status = $3, body = $4, location = $5, etag = $6 WHERE user_id = $1 AND key = $2`,
		t.account.userID, c.key, made.status, made.body, made.location, made.etag)
	return out, nil
}

// keptResponse is what an earlier request with the same Idempotency-Key got. It
// is an error, so that it skips the rest of the handler.
type keptResponse struct{ jsonResponse }

func (*keptResponse) Error() string { return "a request with this Idempotency-Key was answered before" }

// takeKey takes the call's key for this transaction, or returns the keptResponse.
// If a request with the same key is in flight, the INSERT waits for its end.
func (t *tx) takeKey(ctx context.Context, c *call) error {
	if c.hash == nil {
		return errors.New("a route that takes keys has not read its body")
	}
	tag, err := t.Exec(ctx, `
		INSERT INTO idempotency_keys AS k (user_id, key, request) VALUES ($1, $2, $3)
		ON CONFLICT (user_id, key) DO UPDATE SET request = excluded.request, created_at = clock_timestamp()
		WHERE k.created_at < clock_timestamp() - interval '24 hours'`, t.account.userID, c.key, c.hash)
	if sqlState(err) == "55P03" {
		return problem(http.StatusConflict, "idempotency_conflict",
			"A request with this Idempotency-Key is still running. Try again in a moment.").withHeader("Retry-After", "1")
	}
	if err != nil {
		return fmt.Errorf("taking an idempotency key: %w", err)
	}
	if tag.RowsAffected() == 1 {
		return nil
	}
	var first []byte
	var kept keptResponse
	err = t.QueryRow(ctx, `
		SELECT request, status, body, location, etag FROM idempotency_keys WHERE user_id = $1 AND key = $2`,
		t.account.userID, c.key).Scan(&first, &kept.status, &kept.body, &kept.location, &kept.etag)
	if err != nil {
		return fmt.Errorf("reading a kept response: %w", err)
	}
	if c.permission.access != accessNone {
		if err := admitToMission(ctx, t, c); err != nil { // without access there is no kept response either
			return err
		}
	}
	if !bytes.Equal(first, c.hash) {
		return invalidField("Idempotency-Key", "reused", "was already used for a different request; generate a new one")
	}
	return &kept
}

// committed wraps an error that the client gets although the transaction is committed.
type committed struct{ error }

func (c committed) Unwrap() error { return c.error }

// andCommit makes inTx commit before it returns err: when a token theft is
// detected, the revocation must stay.
func andCommit(err error) error { return committed{err} }

func isCommitted(err error) bool {
	_, ok := errors.AsType[committed](err)
	return ok
}

// revoke makes every instance drop what it has cached about an account's
// credentials.
func (t *tx) revoke(userID string) {
	t.revoked = append(t.revoked, userID)
	t.events = append(t.events, event{Stream: serverStream, Type: "account.changed", Actor: actor{UserID: &userID}})
}

// cancelElsewhere makes the other instances cancel the calls with a name.
func (t *tx) cancelElsewhere(name string) {
	t.events = append(t.events, event{
		Stream: serverStream, Type: "call.cancelled", Actor: actor{UserID: &t.account.userID},
		Data: map[string]any{"call": name},
	})
}

// Lock modes for tx.mission, weakest first. Claims exclude each other, as changes
// of the mission's status or of the graph of its specs do: if they shared the
// lock, a stream of claims could keep the others waiting for ever.
const (
	lockKeyShare    = "FOR KEY SHARE"     // keeps it from being deleted
	lockNoKeyUpdate = "FOR NO KEY UPDATE" // also excludes others that take this lock
	lockUpdate      = "FOR UPDATE"        // excludes all other locks; for deleting it
)

// missionLock is a mission that a transaction has locked. Its fields are set once
// the statement that locks it is sent.
type missionLock struct {
	ID, Status, OwnerID, Name, review string
	Version                           int64
	maxInReview                       int
	triage                            bool
	access                            access
	found                             *bool

	// How many specs are open, and how many completed: set only with
	// lockNoKeyUpdate, which keeps others from changing them.
	openSpecs, completedSpecs int
}

// mission locks a mission that the caller needs access to, and returns what
// writes need to know about it, or a 404 or 403. This is the check that counts:
// admission has only checked the account.
func (t *tx) mission(ctx context.Context, at target, lock string, need access) (missionLock, error) {
	m := t.askMission(at, lock)
	if err := t.send(ctx); err != nil {
		return *m, fmt.Errorf("locking a mission: %w", err)
	}
	return *m, m.check(need)
}

// askMission queues the lock of a mission, named by itself or by one of its
// specs. The caller sends it and then looks at check.
func (t *tx) askMission(at target, lock string) *missionLock {
	var m missionLock
	m.found = t.ask(`
		SELECT m.id, m.status, m.owner_id, m.name, m.version, m.review, m.max_in_review, m.triage, `+accessSQL+`
		FROM missions m
		WHERE m.id = `+targetSQL+` `+lock+` OF m`, at.in(t.account),
		&m.ID, &m.Status, &m.OwnerID, &m.Name, &m.Version, &m.review, &m.maxInReview, &m.triage, &m.access)
	if lock == lockNoKeyUpdate {
		t.ask(`SELECT `+openSpecsSQL+`, completed FROM heads
			WHERE stream = coalesce($1, (SELECT mission_id FROM specs WHERE id = $2))`,
			[]any{orNull(at.mission), orNull(at.spec)}, &m.openSpecs, &m.completedSpecs)
	}
	return &m
}

// check returns an error for a caller without the access that is needed.
func (m *missionLock) check(need access) error {
	switch {
	case !*m.found || m.access < accessReader:
		return errNotFound()
	case m.access < need:
		return errReadOnly()
	}
	return nil
}
