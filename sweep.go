package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	sweepEvery   = time.Second      // expired leases
	countEvery   = 15 * time.Second // the totals that metrics show
	tidyEvery    = time.Minute      // everything else that expires
	sweepTimeout = 30 * time.Second
	sweepLock    = 7205_0002 // key of the advisory lock of the instance that sweeps
	sweepBatch   = 1000      // rows that one statement takes at most
)

// sweep clears away what has expired, until ctx ends. Only one of several
// instances sweeps at a time; the others find the lock taken and skip their turn.
func (s *Server) sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	var counted, tidied time.Time
	recounted := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if s.trouble.get() != noTrouble {
			continue
		}
		if err := s.sweepLeases(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("taking back expired leases failed", "error", err)
		}
		if !recounted {
			err := s.recountProposed(ctx)
			if recounted = err == nil; err != nil && ctx.Err() == nil {
				s.log.Warn("recounting proposed specs failed", "error", err)
			}
		}
		if time.Since(counted) >= countEvery {
			counted = time.Now()
			if err := s.countTotals(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("counting the totals failed", "error", err)
			}
		}
		if time.Since(tidied) < tidyEvery {
			continue
		}
		tidied = time.Now()
		if err := errors.Join(s.tidy(ctx), s.prune(ctx)); err != nil && ctx.Err() == nil {
			s.log.Warn("clearing what has expired failed", "error", err)
		}
	}
}

// sweepLeases takes back the expired leases, mission by mission.
func (s *Server) sweepLeases(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	rows, err := s.db.Query(ctx, `
		SELECT DISTINCT mission_id FROM leases WHERE expires_at < statement_timestamp() LIMIT $1`, sweepBatch)
	if err != nil {
		return fmt.Errorf("looking for expired leases: %w", err)
	}
	missions, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("looking for expired leases: %w", err)
	}
	var errs []error // an error of one mission doesn't stop the others
	for _, mission := range missions {
		errs = append(errs, s.sweepOnce(ctx, func(ctx context.Context, t *tx) error {
			return t.takeBackExpired(ctx, mission, s.config.MaxAttempts)
		}))
	}
	return errors.Join(errs...)
}

// errOthersSweep rolls back because another instance is sweeping.
var errOthersSweep = errors.New("another instance sweeps")

// expiredSQL finds the leases of mission $1 whose time is over.
const expiredSQL = `SELECT spec_id FROM leases WHERE mission_id = $1 AND expires_at < statement_timestamp()`

// takeBackExpired ends the leases of a mission whose time is over. What
// somebody else has locked is left to them, or to the next sweep.
func (t *tx) takeBackExpired(ctx context.Context, missionID string, maxAttempts int) error {
	expired, err := t.lockHeld(ctx, missionID, expiredSQL, "FOR NO KEY UPDATE SKIP LOCKED")
	if err != nil || len(expired) == 0 {
		return err
	}
	for _, spec := range expired {
		if err := t.takeBack(ctx, spec, maxAttempts); err != nil {
			return err
		}
	}
	return nil
}

// takeBack ends the lease on a locked spec if its time is still over.
func (t *tx) takeBack(ctx context.Context, spec specLock, maxAttempts int) error {
	var agent string
	err := t.QueryRow(ctx, `SELECT agent FROM leases WHERE spec_id = $1 AND expires_at < clock_timestamp() FOR UPDATE`,
		spec.id).Scan(&agent)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // a heartbeat came in time
	}
	if err != nil {
		return fmt.Errorf("taking a lease back: %w", err)
	}
	t.adoptLease(spec.id)
	status := "planned"
	if spec.attempts >= maxAttempts {
		status = "blocked"
	}
	if err := t.move(spec, status, spec.attempts, ending{outcome: attemptExpired}); err != nil {
		return err
	}
	t.expired++
	t.emitAs(actor{Agent: &agent}, "spec.lease_expired",
		spec.missionID, spec.id, map[string]any{"attempt": spec.attempts, "status": status})
	if status != "blocked" {
		return nil
	}
	return t.notifyBlocked(ctx, spec, "its lease expired")
}

// sweepOnce runs fn in a transaction of the server's own, unless another
// instance is sweeping: then it returns nil without calling fn.
func (s *Server) sweepOnce(ctx context.Context, fn func(ctx context.Context, t *tx) error) error {
	err := s.inTx(ctx, account{}, func(ctx context.Context, t *tx) error {
		var mine bool
		if err := t.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, sweepLock).Scan(&mine); err != nil {
			return err
		}
		if !mine {
			return errOthersSweep
		}
		return fn(ctx, t)
	})
	if errors.Is(err, errOthersSweep) {
		return nil
	}
	return err
}

// recountProposed corrects the counters of what is proposed, since servers before
// migration 10 don't move them.
func (s *Server) recountProposed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	rows, err := s.db.Query(ctx, `
		SELECT coalesce(h.stream, n.mission_id)
		FROM (SELECT stream, proposed FROM heads WHERE proposed <> 0) h
		FULL JOIN (SELECT mission_id, count(*) AS proposed FROM spec_states WHERE status = 'proposed' GROUP BY mission_id) n
		     ON n.mission_id = h.stream
		WHERE h.proposed IS DISTINCT FROM n.proposed`)
	if err != nil {
		return fmt.Errorf("looking for wrong counters: %w", err)
	}
	missions, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("looking for wrong counters: %w", err)
	}
	for _, mission := range missions {
		err := s.inTx(ctx, account{}, func(_ context.Context, t *tx) error {
			t.queue(`SELECT FROM missions WHERE id = $1 FOR NO KEY UPDATE`, mission)
			t.queue(`
				UPDATE heads SET proposed = (SELECT count(*) FROM spec_states WHERE mission_id = $1 AND status = 'proposed')
				WHERE stream = $1`, mission)
			return nil
		})
		if err != nil {
			return fmt.Errorf("counting what is proposed: %w", err)
		}
	}
	return nil
}

// countTotals counts everything for the metrics, on the heads of the missions.
func (s *Server) countTotals(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	return s.sweepOnce(ctx, func(ctx context.Context, t *tx) error {
		_, err := t.Exec(ctx, totalsSQL)
		return err
	})
}

// totalledStatuses is the order of totals.specs. What doesn't count comes last: a
// server that doesn't know it reads what is before.
var totalledStatuses = slices.Concat(countedStatuses, statusesThat(func(s specStatus) bool { return !s.counts }))

var totalsSQL = `
	INSERT INTO totals (counted_at, missions, specs, ready, leases, oldest_claim, oldest_question, oldest_waiting)
	SELECT clock_timestamp(),
	       ARRAY[count(*) FILTER (WHERE status = '` +
	strings.Join(missionStatuses, `'), count(*) FILTER (WHERE status = '`) + `')],
	       ARRAY[coalesce(sum(` + strings.Join(totalledStatuses, `), 0), coalesce(sum(`) + `), 0)]::bigint[],
	       coalesce(sum(unblocked) FILTER (WHERE status = 'active'), 0)::bigint,
	       (SELECT count(*) FROM leases), (SELECT min(claimed_at) FROM leases),
	       (SELECT created_at FROM questions WHERE state = 'open' ORDER BY id LIMIT 1),
	       (SELECT h.waits_since FROM spec_states h JOIN missions m ON m.id = h.mission_id
	        WHERE h.status IN ('` + strings.Join(waitingStatuses, `', '`) + `')
	          AND m.status NOT IN ('` + strings.Join(closedMissions, `', '`) + `') ORDER BY h.waits_since LIMIT 1)
	FROM missions LEFT JOIN heads ON stream = id
	ON CONFLICT (only_row) DO UPDATE SET counted_at = excluded.counted_at, missions = excluded.missions,
	       specs = excluded.specs, ready = excluded.ready, leases = excluded.leases, oldest_claim = excluded.oldest_claim,
	       oldest_question = excluded.oldest_question, oldest_waiting = excluded.oldest_waiting`

// totals are the newest that any instance has counted.
type totals struct {
	missions   []int64 // as missionStatuses
	specs      map[string]int64
	ready      int64
	leases     int64
	oldest     float64 // seconds since the claim of the spec held for longest; 0 where none is
	unanswered float64 // seconds since the oldest open question was asked; 0 where none is
	waiting    float64 // seconds that a spec has waited for a person; 0 where none does
}

// readTotals reads what countTotals has stored, or returns an error that wraps
// pgx.ErrNoRows if nothing has been counted yet.
func (s *Server) readTotals(ctx context.Context) (n totals, err error) {
	var specs []int64
	err = s.db.QueryRow(ctx, `
		SELECT missions, specs, ready, leases, coalesce(extract(epoch FROM clock_timestamp() - oldest_claim), 0)::float8,
		       coalesce(extract(epoch FROM clock_timestamp() - oldest_question), 0)::float8,
		       coalesce(extract(epoch FROM clock_timestamp() - oldest_waiting), 0)::float8
		FROM totals`).Scan(&n.missions, &specs, &n.ready, &n.leases, &n.oldest, &n.unanswered, &n.waiting)
	if err != nil {
		return n, fmt.Errorf("reading the totals: %w", err)
	}
	n.specs = make(map[string]int64, len(specs))
	for i, status := range totalledStatuses {
		if n.specs[status] = 0; i < len(specs) { // an older server counts fewer
			n.specs[status] = specs[i]
		}
	}
	return n, nil
}

// prune deletes the events older than EVENT_RETENTION, and after an hour those
// that instances send each other.
func (s *Server) prune(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	for _, old := range []struct {
		streams   string
		retention time.Duration
	}{{`stream <> $2`, s.config.EventRetention}, {`stream = $2`, time.Hour}} {
		for more := true; more; {
			more = false // also where another instance sweeps
			err := s.sweepOnce(ctx, func(ctx context.Context, t *tx) (err error) {
				more, err = t.pruneSome(ctx, old.streams, old.retention)
				return err
			})
			if err != nil {
				return fmt.Errorf("pruning events: %w", err)
			}
		}
	}
	return nil
}

// pruneSome deletes a batch of old events from the stream that has the oldest one,
// among the streams that satisfy the condition streams, in which $2 is the
// server's stream. It reports whether there was one. Within a stream times rise
// with the numbers, so what is deleted is its beginning; the index heads_oldest
// finds it, however many events there are.
func (t *tx) pruneSome(ctx context.Context, streams string, retention time.Duration) (more bool, err error) {
	var stream string
	var first int64
	var until time.Time
	err = t.QueryRow(ctx, `
		SELECT stream, first_seq, statement_timestamp() - $1::interval FROM heads
		WHERE oldest_at < statement_timestamp() - $1::interval AND `+streams+`
		ORDER BY oldest_at LIMIT 1 FOR NO KEY UPDATE`, retention, serverStream).Scan(&stream, &first, &until)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// Up to the first event that stays, or as many as a batch may have.
	t.queue(`
		DELETE FROM events WHERE stream = $1 AND seq >= $2 AND seq < coalesce(
			(SELECT seq FROM events WHERE stream = $1 AND seq >= $2 AND seq < $2::bigint + $3 AND at >= $4 ORDER BY seq LIMIT 1),
			$2::bigint + $3)`, stream, first, sweepBatch, until)
	_, err = t.Exec(ctx, `
		UPDATE heads SET first_seq = coalesce(kept.seq, heads.seq + 1), oldest_at = kept.at
		FROM (SELECT) one LEFT JOIN LATERAL (
			SELECT seq, at FROM events WHERE stream = $1 AND seq >= $2 ORDER BY seq LIMIT 1) kept ON true
		WHERE heads.stream = $1`, stream, first)
	return true, err
}

// tidySQL deletes what has expired, in batches.
var tidySQL = []string{
	`DELETE FROM idempotency_keys WHERE (user_id, key) IN
		(SELECT user_id, key FROM idempotency_keys WHERE created_at < statement_timestamp() - interval '24 hours' LIMIT $1)`,
	`DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at < statement_timestamp() LIMIT $1)`,
	`DELETE FROM refresh_tokens WHERE hash IN
		(SELECT hash FROM refresh_tokens WHERE spent_at < statement_timestamp() - interval '30 days' LIMIT $1)`,
	`DELETE FROM login_failures WHERE account IN
		(SELECT account FROM login_failures WHERE since < statement_timestamp() - interval '1 hour' LIMIT $1)`,
	`DELETE FROM known_addresses WHERE (user_id, address) IN
		(SELECT user_id, address FROM known_addresses WHERE seen_at < statement_timestamp() - interval '30 days' LIMIT $1)`,
}

// tidy deletes what has expired, a batch of each kind at a time.
func (s *Server) tidy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	for _, sql := range tidySQL {
		for full := true; full; {
			full = false
			err := s.sweepOnce(ctx, func(ctx context.Context, t *tx) error {
				tag, err := t.Exec(ctx, sql, sweepBatch)
				full = tag.RowsAffected() == sweepBatch
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
