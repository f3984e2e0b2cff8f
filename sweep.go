package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	sweepEvery   = time.Second // expired leases
	tidyEvery    = time.Minute // everything else that has had its time
	sweepTimeout = 30 * time.Second
	sweepLock    = 7205_0002 // key of the advisory lock that one instance at a time holds
	sweepBatch   = 1000      // rows that one statement takes at most
)

// sweep clears away what has had its time, until ctx ends. Of several
// instances one sweeps at a time; the others find the lock taken and pass.
func (s *Server) sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	var tidied time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if s.feed.down.Load() {
			continue
		}
		if err := s.sweepLeases(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("expired leases weren't taken back", "error", err)
		}
		if time.Since(tidied) < tidyEvery {
			continue
		}
		tidied = time.Now()
		if err := errors.Join(s.tidy(ctx), s.prune(ctx)); err != nil && ctx.Err() == nil {
			s.log.Warn("what has expired wasn't cleared", "error", err)
		}
	}
}

// sweepLeases takes back the leases whose time is over, mission by mission.
func (s *Server) sweepLeases(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	rows, err := s.db.Query(ctx, `SELECT DISTINCT mission_id FROM leases WHERE expires_at < clock_timestamp() LIMIT $1`, sweepBatch)
	if err != nil {
		return fmt.Errorf("looking for expired leases: %w", err)
	}
	missions, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("looking for expired leases: %w", err)
	}
	var errs []error // of one mission; the others go on
	for _, mission := range missions {
		errs = append(errs, s.sweepOnce(ctx, func(t *tx) error {
			return t.takeBackExpired(ctx, mission, s.config.MaxAttempts)
		}))
	}
	return errors.Join(errs...)
}

// sweepOnce runs fn in a transaction of the server's own, unless another
// instance sweeps right now.
func (s *Server) sweepOnce(ctx context.Context, fn func(t *tx) error) error {
	var t *tx
	err := pgx.BeginTxFunc(ctx, s.db, pgx.TxOptions{BeginQuery: s.beginSQL(ctx)}, func(begun pgx.Tx) error {
		var mine bool
		if err := begun.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, sweepLock).Scan(&mine); err != nil || !mine {
			return err
		}
		t = newTx(begun, account{})
		if err := fn(t); err != nil {
			return err
		}
		return t.flush(ctx)
	})
	if err == nil && t != nil {
		s.published(t)
	}
	return err
}

// prune deletes the events older than EVENT_RETENTION, a batch of a stream at a
// time. Times rise with the numbers of a stream, so what goes is its beginning.
func (s *Server) prune(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	for more := true; more; {
		more = false
		err := s.sweepOnce(ctx, func(t *tx) error {
			tag, err := t.Exec(ctx, `
				WITH old AS (
					SELECT stream, max(seq) AS seq FROM (
						SELECT stream, seq FROM events
						WHERE at < clock_timestamp() - $1::interval AND stream <> $2 LIMIT $3) AS batch
					GROUP BY stream LIMIT 1
				), head AS (
					UPDATE heads SET first_seq = least(old.seq + 1, first_seq + $3) FROM old
					WHERE heads.stream = old.stream RETURNING heads.stream, first_seq
				)
				DELETE FROM events USING head WHERE events.stream = head.stream AND events.seq < head.first_seq`,
				s.config.EventRetention, serverStream, sweepBatch)
			more = tag.RowsAffected() > 0
			return err
		})
		if err != nil {
			return fmt.Errorf("pruning events: %w", err)
		}
	}
	return nil
}

// tidySQL deletes what has expired, in batches.
var tidySQL = []string{
	`DELETE FROM idempotency_keys WHERE (user_id, key) IN
		(SELECT user_id, key FROM idempotency_keys WHERE created_at < clock_timestamp() - interval '24 hours' LIMIT $1)`,
	`DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at < clock_timestamp() LIMIT $1)`,
	`DELETE FROM refresh_tokens WHERE hash IN
		(SELECT hash FROM refresh_tokens WHERE spent_at < clock_timestamp() - interval '30 days' LIMIT $1)`,
	`DELETE FROM login_failures WHERE account IN
		(SELECT account FROM login_failures WHERE since < clock_timestamp() - interval '1 hour' LIMIT $1)`,
	`DELETE FROM known_addresses WHERE (user_id, address) IN
		(SELECT user_id, address FROM known_addresses WHERE seen_at < clock_timestamp() - interval '30 days' LIMIT $1)`,
	`DELETE FROM events WHERE stream = '` + serverStream + `' AND seq IN
		(SELECT seq FROM events WHERE stream = '` + serverStream + `' AND at < clock_timestamp() - interval '1 hour' ORDER BY seq LIMIT $1)`,
}

// tidy deletes what has expired, a batch of each kind at a time.
func (s *Server) tidy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	for _, statement := range tidySQL {
		for full := true; full; {
			full = false
			err := s.sweepOnce(ctx, func(t *tx) error {
				tag, err := t.Exec(ctx, statement, sweepBatch)
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
