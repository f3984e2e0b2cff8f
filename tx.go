package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// writeAttempts is how often a write runs at most when PostgreSQL asks to try
// again (serialization_failure, deadlock_detected).
const writeAttempts = 3

// querier is what a read runs on: the pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// tx is one run of a write. Beside the transaction it gathers what has to
// happen with the commit: events to append, counters to move, credentials to
// forget. It belongs to the closure it is given to.
//
// Statements whose results nobody waits for are queued, and travel with the
// next one that somebody waits for: BEGIN with the first, COMMIT with the last
// ones, so that a claim takes three round trips and not ten. What is queued
// reports its error where it is sent.
//
// Rows are locked in this order, so that no two writes wait for each other:
// idempotency key, mission, accounts by id, specs by id, leases, heads by
// stream. What notes only itself doesn't come through here: the last use of a
// key, a failed log-in, and what the sweep clears away.
// See docs/design.md, Write skew and the lock order.
type tx struct {
	conn    *pgxpool.Conn
	queued  *pgx.Batch // on their way with the next statement that is waited for
	account account
	events  []event
	moved   map[string]tally    // mission id → by how much its counters move
	recount map[string]struct{} // missions whose counters are counted anew instead
	revoked []string            // accounts whose credentials changed
	heads   map[string]int64    // stream → its newest seq, of those that grew
	claimed int                 // leases granted
	expired int                 // leases taken back
}

// begin takes a connection and queues what begins a transaction on it. The
// caller ends it with commit, or else with rollback, which after a commit does
// nothing but give the connection back.
func (s *Server) begin(ctx context.Context, a account) (*tx, error) {
	conn, err := s.db.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("beginning a transaction: %w", err)
	}
	t := &tx{
		conn: conn, queued: &pgx.Batch{}, account: a,
		moved: make(map[string]tally), recount: make(map[string]struct{}), heads: make(map[string]int64),
	}
	t.queue("BEGIN ISOLATION LEVEL READ COMMITTED")
	t.queue(settingsSQL, s.timeLimits(ctx)...)
	return t, nil
}

// settingsSQL sets what holds for one transaction. Its statements are large
// and its parameters tell the planner little: planning each anew would take
// half of the time of a claim.
const settingsSQL = `
	SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true),
	       set_config('idle_in_transaction_session_timeout', $1, true), set_config('plan_cache_mode', 'force_generic_plan', true)`

// timeLimits are the parameters of settingsSQL: its waits end before the
// request's time does, since a context that ends first costs the connection.
func (s *Server) timeLimits(ctx context.Context) []any {
	left := s.config.RequestTimeout
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	milliseconds := func(d time.Duration) string { return strconv.FormatInt(max(1, d.Milliseconds()), 10) }
	return []any{milliseconds(left * 4 / 5), milliseconds(min(left/2, 5*time.Second))}
}

// queue adds a statement that is sent with the next one that is waited for.
// What is set on the result runs then; an error of it fails what is sent.
func (t *tx) queue(sql string, args ...any) *pgx.QueuedQuery { return t.queued.Queue(sql, args...) }

// ask queues a query for one row, which goes to dest. What it returns is false
// until the row has come.
func (t *tx) ask(sql string, args []any, dest ...any) (found *bool) {
	found = new(bool)
	t.queue(sql, args...).QueryRow(func(row pgx.Row) error {
		err := row.Scan(dest...)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // an error would make pgx forget what it has prepared
		}
		*found = err == nil
		return err
	})
	return found
}

// askOne queues a query for one row of T. What it returns gives the row once it
// was sent, or pgx.ErrNoRows.
func askOne[T any](t *tx, sql string, args []any, scan pgx.RowToFunc[T]) func() (T, error) {
	var row T
	err := pgx.ErrNoRows
	t.queue(sql, args...).Query(func(rows pgx.Rows) (readErr error) {
		if row, readErr = pgx.CollectExactlyOneRow(rows, scan); errors.Is(readErr, pgx.ErrNoRows) {
			return nil // see ask
		}
		err = readErr
		return readErr
	})
	return func() (T, error) { return row, err }
}

// send sends what is queued, in one round trip, and waits for all of it.
func (t *tx) send(ctx context.Context) error {
	batch := t.queued
	t.queued = &pgx.Batch{}
	return t.conn.SendBatch(ctx, batch).Close()
}

// Exec runs a statement, behind what is queued.
func (t *tx) Exec(ctx context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	t.queue(sql, args...).Exec(func(done pgconn.CommandTag) error {
		tag = done
		return nil
	})
	return tag, t.send(ctx)
}

// QueryRow runs a query for one row, behind what is queued.
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
		"The connection to the database was lost while this was being saved: it may be done or not. Try again with the same Idempotency-Key, or look.").
		withHeader("Retry-After", "1").because(err)
}

// neverCommitted reports whether an error says that nothing was committed: the
// database refused a statement, or it was never sent. Of a FATAL error, such
// as a shutdown, one can't know: it may come after the commit.
func neverCommitted(err error) bool {
	if refusal, ok := errors.AsType[*pgconn.PgError](err); ok {
		return refusal.Severity == "ERROR"
	}
	_, unsent := errors.AsType[pgx.ErrPreprocessingBatch](err)
	_, app := errors.AsType[*apiError](err)
	return unsent || app || pgconn.SafeToRetry(err)
}

// rollback undoes what wasn't committed and gives the connection back.
func (t *tx) rollback(ctx context.Context) {
	defer t.conn.Release() // which closes one that is still in a transaction
	if conn := t.conn.Conn(); !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), acquireTimeout)
		defer cancel()
		_, _ = conn.Exec(ending, "ROLLBACK")
	}
}

// inTx is the one way to change anything. It runs fn in a transaction for an
// account, appends its events, commits, and wakes who waits for them. An error
// from fn rolls everything back, unless it is wrapped by andCommit. fn may run
// several times, so it has no effect but on t and on what it sets anew.
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
	return err
}

// published wakes, after the commit, whoever waits for what t changed.
func (s *Server) published(t *tx) {
	for _, userID := range t.revoked {
		s.credentials.forget(userID)
	}
	s.hub.wake(t.heads)
	s.feed.announce(t.heads)
	for range t.claimed {
		s.metrics.claimGranted()
	}
	s.metrics.leaseExpired(t.expired)
}

// writeFunc is the work of one request's write, as of inTx.
type writeFunc func(ctx context.Context, t *tx) (reply, error)

// write runs fn as inTx does, and answers once that is committed.
//
// The transaction doesn't end with the client's connection: what has begun is
// finished, within the request's time.
func (s *Server) write(w http.ResponseWriter, r *http.Request, fn writeFunc) error {
	return s.writeUnder("", w, r, fn)
}

// writeOnce is write for routes that take an Idempotency-Key (POST of
// missions, specs, logs and leases): within 24 hours the same request with the
// same key gets the first one's answer. An error isn't kept, nor the answer
// that there is nothing to claim.
func (s *Server) writeOnce(w http.ResponseWriter, r *http.Request, fn writeFunc) error {
	given := r.Header.Values("Idempotency-Key")
	if len(given) == 0 {
		return s.write(w, r, fn)
	}
	key := given[0]
	invisible := func(c rune) bool { return c <= ' ' || c >= 0x7f }
	if len(given) > 1 || key == "" || len(key) > 255 || strings.ContainsFunc(key, invisible) {
		return problem(http.StatusBadRequest, "invalid_idempotency_key", "Send one Idempotency-Key of 1 to 255 visible ASCII characters.")
	}
	return s.writeUnder(key, w, r, fn)
}

func (s *Server) writeUnder(key string, w http.ResponseWriter, r *http.Request, fn writeFunc) error {
	answer, encoded, err := s.commit(r, key, fn)
	if err != nil {
		return err
	}
	return answer.write(w, r, encoded)
}

// commit runs fn until it commits and returns the answer with its encoded
// body. With a key it keeps the answer, in the same transaction.
func (s *Server) commit(r *http.Request, key string, fn writeFunc) (answer reply, encoded []byte, err error) {
	if err := s.readmit(r); err != nil {
		return reply{}, nil, err
	}
	ctx, cancel := context.WithoutCancel(r.Context()), context.CancelFunc(func() {})
	if deadline, ok := r.Context().Deadline(); ok {
		ctx, cancel = context.WithDeadline(ctx, deadline)
	}
	defer cancel()
	if key != "" {
		err = s.inTx(ctx, callOf(r).account, func(ctx context.Context, t *tx) (err error) {
			answer, encoded, err = t.once(ctx, r, key, fn)
			return err
		})
		return answer, encoded, err
	}
	err = s.inTx(ctx, callOf(r).account, func(ctx context.Context, t *tx) (err error) {
		answer, err = fn(ctx, t)
		return err
	})
	if err != nil {
		return reply{}, nil, err
	}
	encoded, err = answer.encode()
	return answer, encoded, err
}

// once runs fn and keeps its answer under the key, or finds the answer that an
// earlier request with this key got.
func (t *tx) once(ctx context.Context, r *http.Request, key string, fn writeFunc) (answer reply, encoded []byte, err error) {
	answer, encoded, replayed, err := t.replay(ctx, r, key)
	if c := callOf(r); replayed && c.permission.access != accessNone {
		err = admitToMission(ctx, t, c, c.permission) // who has lost access gets no kept answer either
	}
	if replayed || err != nil {
		return answer, encoded, err
	}
	if answer, err = fn(ctx, t); err != nil {
		if isCommitted(err) { // only answers that are kept take the key
			t.queue(`DELETE FROM idempotency_keys WHERE user_id = $1 AND key = $2`, t.account.userID, key)
		}
		return answer, nil, err
	}
	if err := t.flush(); err != nil {
		return answer, nil, err
	}
	if err := t.send(ctx); err != nil { // what the answer is made of
		return answer, nil, err
	}
	if encoded, err = answer.encode(); err != nil {
		return answer, nil, err
	}
	t.queue(`UPDATE idempotency_keys SET status = $3, body = $4, location = $5, etag = $6 WHERE user_id = $1 AND key = $2`,
		t.account.userID, key, answer.status, encoded, answer.location, answer.etag)
	return answer, encoded, nil
}

// replay takes the key for this transaction, or finds the answer kept under
// it. A twin that is still in flight makes the INSERT wait for its end.
func (t *tx) replay(ctx context.Context, r *http.Request, key string) (answer reply, encoded []byte, replayed bool, err error) {
	request := requestHash(r)
	tag, err := t.Exec(ctx, `
		INSERT INTO idempotency_keys AS k (user_id, key, request) VALUES ($1, $2, $3)
		ON CONFLICT (user_id, key) DO UPDATE SET request = excluded.request, created_at = clock_timestamp()
		WHERE k.created_at < clock_timestamp() - interval '24 hours'`, t.account.userID, key, request)
	if sqlState(err) == "55P03" {
		return reply{}, nil, false, problem(http.StatusConflict, "idempotency_conflict",
			"A request with this Idempotency-Key is still running. Try again in a moment.").withHeader("Retry-After", "1")
	}
	if err != nil {
		return reply{}, nil, false, fmt.Errorf("taking an idempotency key: %w", err)
	}
	if tag.RowsAffected() == 1 {
		return reply{}, nil, false, nil
	}
	var first []byte
	err = t.QueryRow(ctx, `SELECT request, status, body, location, etag FROM idempotency_keys WHERE user_id = $1 AND key = $2`,
		t.account.userID, key).Scan(&first, &answer.status, &encoded, &answer.location, &answer.etag)
	if err != nil {
		return reply{}, nil, false, fmt.Errorf("reading a kept answer: %w", err)
	}
	if !bytes.Equal(first, request) {
		return reply{}, nil, false, invalidField("Idempotency-Key", "reused", "was used for another request; make a new one")
	}
	return answer, encoded, true, nil
}

// requestHash says whether two requests are the same one.
func requestHash(r *http.Request) []byte {
	h := sha256.New()
	fmt.Fprintf(h, "%s %s\n", r.Method, r.URL.RequestURI())
	h.Write(callOf(r).bodyHash)
	return h.Sum(nil)
}

// committed wraps an error that is answered although what was done stays done.
type committed struct{ error }

func (c committed) Unwrap() error { return c.error }

// andCommit makes inTx commit before it returns err: a theft
// that was found must keep its revocation.
func andCommit(err error) error { return committed{err} }

func isCommitted(err error) bool {
	_, ok := errors.AsType[committed](err)
	return ok
}

// revoke makes every instance forget what it remembers of an account's
// credentials.
func (t *tx) revoke(userID string) {
	t.revoked = append(t.revoked, userID)
	t.events = append(t.events, event{Stream: serverStream, Type: "account.changed", Actor: actor{UserID: &userID}})
}

// Lock modes for tx.mission, weakest first. Claims take turns, like whoever
// changes the mission's status or the graph of its specs: were they to share
// it, a stream of claims could keep the others waiting for ever.
const (
	lockKeyShare    = "FOR KEY SHARE"     // it can't be deleted
	lockNoKeyUpdate = "FOR NO KEY UPDATE" // by us alone
	lockUpdate      = "FOR UPDATE"        // and it can be deleted
)

// missionLock is a mission that a transaction has locked. All but the access
// is known once the statement that locks it was sent.
type missionLock struct {
	ID, Status, OwnerID, Name string
	Version                   int64
	access                    access
	found                     *bool

	// How many specs are open, and how many completed: known under a lock that
	// keeps others from changing it.
	openSpecs, completedSpecs int
}

// mission locks a mission that the caller needs access to, and returns what
// writes have to know of it. This is the check that counts: admission has only
// looked at the account.
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
		SELECT m.id, m.status, m.owner_id, m.name, m.version, `+accessSQL+` FROM missions m
		WHERE m.id = coalesce($3, (SELECT mission_id FROM specs WHERE id = $4)) `+lock+` OF m`,
		[]any{t.account.userID, t.account.admin(), orNull(at.mission), orNull(at.spec)},
		&m.ID, &m.Status, &m.OwnerID, &m.Name, &m.Version, &m.access)
	if lock == lockNoKeyUpdate {
		t.ask(`SELECT `+openSpecsSQL+`, completed FROM heads WHERE stream = coalesce($1, (SELECT mission_id FROM specs WHERE id = $2))`,
			[]any{orNull(at.mission), orNull(at.spec)}, &m.openSpecs, &m.completedSpecs)
	}
	return &m
}

// check refuses who lacks the access that is needed.
func (m *missionLock) check(need access) error {
	switch {
	case !*m.found || m.access < accessReader:
		return errNotFound()
	case m.access < need:
		return errForbidden("You may read this mission, but not do this with it.")
	}
	return nil
}

// orNull is NULL for "" and the text for any other.
func orNull(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
