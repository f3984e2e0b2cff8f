package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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
// Rows are locked in this order, so that no two writes wait for each other:
// idempotency key, mission, accounts by id, specs by id, leases, heads by
// stream. What notes only itself doesn't come through here: the last use of a
// key, a failed log-in, and what the sweep clears away.
type tx struct {
	pgx.Tx
	account account
	events  []event
	tallied map[string][]string // mission id → specs whose counters may move
	before  map[string]tally    // mission id → what those counted at first
	revoked []string            // accounts whose credentials changed
	heads   map[string]int64    // stream → its newest seq, of those that grew
	claimed int                 // leases granted
	expired int                 // leases taken back
}

func newTx(begun pgx.Tx, a account) *tx {
	return &tx{
		Tx: begun, account: a,
		tallied: make(map[string][]string), before: make(map[string]tally), heads: make(map[string]int64),
	}
}

// writeFunc is the work of one write. It may run several times, so it has no
// effect but on t.
type writeFunc func(ctx context.Context, t *tx) (reply, error)

// write is the one door for every change. It runs fn in a transaction, appends
// its events, commits, wakes who waits for them, and only then answers. An
// error from fn rolls everything back, unless it is wrapped by andCommit.
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

// commit runs fn until it commits and returns the answer with its encoded body.
func (s *Server) commit(r *http.Request, key string, fn writeFunc) (reply, []byte, error) {
	if err := s.readmit(r); err != nil {
		return reply{}, nil, err
	}
	ctx, cancel := context.WithoutCancel(r.Context()), context.CancelFunc(func() {})
	if deadline, ok := r.Context().Deadline(); ok {
		ctx, cancel = context.WithDeadline(ctx, deadline)
	}
	defer cancel()
	for attempt := 1; ; attempt++ {
		answer, encoded, err := s.tryCommit(ctx, r, key, fn)
		if state := sqlState(err); attempt == writeAttempts || state != "40001" && state != "40P01" {
			return answer, encoded, err
		}
		select {
		case <-time.After(rand.N(time.Duration(attempt) * 20 * time.Millisecond)):
		case <-ctx.Done():
			return reply{}, nil, err
		}
	}
}

func (s *Server) tryCommit(ctx context.Context, r *http.Request, key string, fn writeFunc) (reply, []byte, error) {
	begun, err := s.db.BeginTx(ctx, pgx.TxOptions{BeginQuery: s.beginSQL(ctx)})
	if err != nil {
		return reply{}, nil, fmt.Errorf("beginning a transaction: %w", err)
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), acquireTimeout)
		defer cancel()
		_ = begun.Rollback(ending) // after a commit this does nothing
	}()
	t := newTx(begun, callOf(r).account)

	answer, encoded, replayed, err := t.once(ctx, r, key, fn)
	if err != nil && !isCommitted(err) || replayed {
		return answer, encoded, err
	}
	if flushErr := t.flush(ctx); flushErr != nil {
		return reply{}, nil, flushErr
	}
	if commitErr := begun.Commit(ctx); commitErr != nil {
		// A FATAL error, such as a shutdown, may come after the commit.
		refusal, refused := errors.AsType[*pgconn.PgError](commitErr)
		if refused && refusal.Severity == "ERROR" || errors.Is(commitErr, pgx.ErrTxCommitRollback) {
			return reply{}, nil, fmt.Errorf("committing: %w", commitErr)
		}
		return reply{}, nil, problem(http.StatusServiceUnavailable, "outcome_unknown",
			"The connection to the database was lost while this was being saved: it may be done or not. Try again with the same Idempotency-Key, or look.").
			withHeader("Retry-After", "1").because(commitErr)
	}
	s.published(t)
	return answer, encoded, err
}

// beginSQL begins a transaction whose waits end before the request's time does,
// since a context that ends first costs the connection.
func (s *Server) beginSQL(ctx context.Context) string {
	left := s.config.RequestTimeout
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	return fmt.Sprintf("BEGIN; SET LOCAL statement_timeout = %d; SET LOCAL lock_timeout = %d; SET LOCAL idle_in_transaction_session_timeout = %d",
		max(1, (left*4/5).Milliseconds()), max(1, min(left/2, 5*time.Second).Milliseconds()), max(1, (left*4/5).Milliseconds()))
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

// once runs fn, or finds the answer that an earlier request with this key got.
func (t *tx) once(ctx context.Context, r *http.Request, key string, fn writeFunc) (answer reply, encoded []byte, replayed bool, err error) {
	if key != "" {
		if answer, encoded, replayed, err = t.replay(ctx, r, key); replayed || err != nil {
			return answer, encoded, replayed, err
		}
	}
	if answer, err = fn(ctx, t); err != nil {
		if key != "" && isCommitted(err) { // only answers that are kept take the key
			if _, err := t.Exec(ctx, `DELETE FROM idempotency_keys WHERE user_id = $1 AND key = $2`, t.account.userID, key); err != nil {
				return answer, nil, false, fmt.Errorf("giving an idempotency key back: %w", err)
			}
		}
		return answer, nil, false, err
	}
	if encoded, err = answer.encode(); err != nil {
		return answer, nil, false, err
	}
	if key != "" {
		_, err = t.Exec(ctx, `UPDATE idempotency_keys SET status = $3, body = $4, location = $5, etag = $6 WHERE user_id = $1 AND key = $2`,
			t.account.userID, key, answer.status, encoded, answer.location, answer.etag)
		if err != nil {
			return answer, nil, false, fmt.Errorf("keeping an answer: %w", err)
		}
	}
	return answer, encoded, false, nil
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

// andCommit makes the write door commit before it answers with err: a theft
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

// mission locks a mission that the caller needs access to, and returns what
// writes have to know of it. Admission has checked the access before the body
// was read; this is the check that counts.
func (t *tx) mission(ctx context.Context, id, lock string, need access) (missionLock, error) {
	var m missionLock
	var have access
	err := t.QueryRow(ctx, `SELECT m.status, m.owner_id, m.name, m.version, `+accessSQL+` FROM missions m WHERE m.id = $3 `+lock+` OF m`,
		t.account.userID, t.account.admin(), id).Scan(&m.Status, &m.OwnerID, &m.Name, &m.Version, &have)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && have < accessReader {
		return m, errNotFound()
	}
	if err != nil {
		return m, fmt.Errorf("locking a mission: %w", err)
	}
	if have < need {
		return m, errForbidden("You may read this mission, but not do this with it.")
	}
	m.ID, m.access = id, have
	return m, nil
}

// missionLock is a mission that a transaction has locked.
type missionLock struct {
	ID, Status, OwnerID, Name string
	Version                   int64
	access                    access
}

// orNull is NULL for "" and the text for any other.
func orNull(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
