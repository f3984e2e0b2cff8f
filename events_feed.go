package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	feedChannel  = "tachikoma"
	pollEvery    = time.Second / 2       // correctness depends on this
	announceEach = 25 * time.Millisecond // and speed on this: wake-ups are sent at most this often
	feedStale    = 10 * time.Second      // after this, nothing cached is trusted
	notifyBytes  = 7900                  // a payload of NOTIFY must be shorter than 8,000
)

// feed keeps this process in step with the others on the same database: it
// has the one connection that listens and polls, for all who watch a stream
// here, and it tells the others which streams have grown here. It also watches
// whether the database is reachable at all. Its run owns all its goroutines.
type feed struct {
	db      *dbPool
	hub     *hub
	trouble *databaseTrouble
	forget  func(userID string) // an account's credentials changed; "": anybody's may have
	cancel  func(call string)   // a client has cancelled a call, which may be here
	cut     func()              // the database is lost: ends the calls that wait for it
	log     *slog.Logger
	each    time.Duration // announceEach

	started  time.Time
	latency  atomic.Int64 // of the last poll, in nanoseconds
	polledAt atomic.Int64 // of the last good poll: nanoseconds since started

	mu    sync.Mutex // guards dirty
	dirty map[string]int64
	wake  chan struct{} // dirty isn't empty any more
}

func newFeed(db *dbPool, h *hub, trouble *databaseTrouble, forget, cancel func(string), cut func(),
	log *slog.Logger) *feed {
	return &feed{
		db: db, hub: h, trouble: trouble, forget: forget, cancel: cancel, cut: cut, log: log, each: announceEach,
		started: time.Now(), dirty: make(map[string]int64), wake: make(chan struct{}, 1),
	}
}

// fresh reports whether a change on another instance would be known here.
func (f *feed) fresh() bool {
	return time.Since(f.started)-time.Duration(f.polledAt.Load()) < feedStale && f.trouble.get() != unreachable
}

// run follows the database until ctx ends, then announces what is left.
func (f *feed) run(ctx context.Context) {
	var announcing sync.WaitGroup
	announcing.Go(func() { f.announceAll(ctx) })
	defer announcing.Wait()
	var spared time.Duration // the last good poll before a failure that was ignored
	for ctx.Err() == nil {
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			pause(ctx, pollEvery)
			continue
		}
		polled := time.Duration(f.polledAt.Load())
		if polled != spared && time.Since(f.started)-polled < f.db.pollTimeout {
			spared = polled
			continue // perhaps it was this connection alone
		}
		if f.trouble.set(unreachable) != unreachable {
			f.log.Error("the database can't be reached", "error", err)
			f.cut()
			f.db.Reset() // no connection is to be used again
		}
		pause(ctx, pollEvery/4)
	}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// follow listens and polls on a connection of its own until that fails. While
// the database accepts no writes, or refuses the connection, it returns nil after
// one poll: a session that is read-only stays so, and the next poll needs a new
// one.
func (f *feed) follow(ctx context.Context) error {
	connecting, cancel := context.WithTimeout(ctx, 2*f.db.pollTimeout)
	defer cancel()
	config := f.db.Config().ConnConfig
	config.OnNotification = nil // this one listens
	config.OnPgError = keepUnlessFatal
	conn, err := pgx.ConnectConfig(connecting, config)
	if tooManyConnections(err) {
		return f.pollShared(ctx, err)
	}
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.db.pollTimeout)
		defer cancel()
		_ = conn.Close(closing)
	}()
	_, err = conn.Exec(connecting, "LISTEN "+feedChannel)
	if err != nil && writeTrouble(err) == noTrouble { // a standby can't listen
		return fmt.Errorf("listening: %w", err)
	}
	// What happened before this connection may have been missed.
	f.forget("")
	server, err := f.poll(ctx, conn, -1)
	for next := time.Now().Add(pollEvery); err == nil && f.trouble.get() == noTrouble; {
		waiting, cancel := context.WithDeadline(ctx, next)
		n, waitErr := conn.WaitForNotification(waiting)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case waitErr == nil:
			heads := parseHeads(n.Payload)
			if _, ok := heads[serverStream]; ok {
				next = time.Now() // read it at once
			}
			f.hub.wake(heads)
		case time.Now().Before(next):
			return fmt.Errorf("listening: %w", waitErr)
		}
		if !time.Now().Before(next) && f.trouble.get() == noTrouble { // else a write was refused meanwhile
			next = time.Now().Add(pollEvery)
			server, err = f.poll(ctx, conn, server)
		}
	}
	if err != nil {
		return fmt.Errorf("polling: %w", err)
	}
	return nil
}

// pollShared polls once on a connection of the pool, since the database has
// refused one of its own. As long as the pool has any, the database isn't lost.
func (f *feed) pollShared(ctx context.Context, refused error) error {
	f.db.noteRefused(refused)
	shared, err := f.db.Acquire(ctx)
	if err != nil {
		if f.db.Stat().TotalConns() > 0 {
			return nil // all of them are in use
		}
		return fmt.Errorf("connecting: %w", refused)
	}
	defer shared.Release()
	_, err = f.poll(ctx, shared.Conn(), -1)
	return err
}

// poll reads the head of every stream that somebody watches here, and of the
// server's own. server is the seq up to which the latter is known, -1 if it isn't
// yet; poll returns the new one. It estimates how far the database's clock is
// ahead as if that was read in the middle of the poll.
func (f *feed) poll(ctx context.Context, conn *pgx.Conn, server int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, f.db.pollTimeout)
	defer cancel()
	start, positions := time.Now(), f.hub.positions()
	rows, err := conn.Query(ctx, `
		SELECT clock_timestamp(), current_setting('transaction_read_only') = 'on', stream, seq
		FROM (SELECT) one LEFT JOIN heads ON stream = ANY($1)`, append(f.hub.watched(), serverStream))
	if err != nil {
		return server, err
	}
	heads := make(map[string]int64)
	var clock time.Time
	var reads bool
	var stream *string
	var seq *int64
	if _, err = pgx.ForEachRow(rows, []any{&clock, &reads, &stream, &seq}, func() error {
		if stream != nil {
			heads[*stream] = *seq
		}
		return nil
	}); err != nil {
		return server, err
	}
	latency := time.Since(start)
	f.latency.Store(int64(latency))
	ahead := clock.Sub(start.Add(latency / 2))
	f.hub.ahead.Store(&ahead)
	if newest := heads[serverStream]; newest != server {
		if err := f.readServerStream(ctx, conn, server, newest); err != nil {
			return server, err
		}
		server = newest
	}
	if err := f.judge(ctx, conn, reads); err != nil {
		return server, err
	}
	f.polledAt.Store(int64(time.Since(f.started)))
	for stream, seq := range heads {
		if seq < positions[stream] {
			f.log.Error("a stream is shorter than it was: the database has lost commits",
				"stream", stream, "was", positions[stream], "is", seq)
			f.hub.lost(stream)
		}
	}
	f.hub.wake(heads)
	return server, nil
}

// judge records what a good poll has shown: whether the database is read-only.
// Whether a full disk has space again it finds out by writing.
func (f *feed) judge(ctx context.Context, conn *pgx.Conn, reads bool) error {
	before, now := f.trouble.get(), noTrouble
	if reads {
		now = readOnly
	} else if before == diskFull {
		err := tryWrite(ctx, conn)
		if now = writeTrouble(err); err != nil && now == noTrouble {
			return err
		}
	}
	if !f.trouble.change(before, now) {
		return nil // a write has found other trouble meanwhile; the next poll decides
	}
	switch {
	case now == before:
	case now == noTrouble:
		f.db.Reset() // sessions that began while it was read-only still are
		f.log.Info("the database is back", "was", before.code())
	default:
		f.log.Error("the database accepts no writes", "reason", now.code())
	}
	return nil
}

// tryWrite writes an event, as every write does, large enough to need new blocks,
// and deletes it again.
func tryWrite(ctx context.Context, conn *pgx.Conn) error {
	noise := make([]byte, 32<<10) // which doesn't compress
	_, _ = rand.Read(noise)       // never fails
	stream := newID()
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO events (stream, seq, type, at, data)
			VALUES ($1, 0, 'trial', clock_timestamp(), to_json($2::text))`, stream, hex.EncodeToString(noise))
		if err == nil {
			_, err = tx.Exec(ctx, `DELETE FROM events WHERE stream = $1`, stream)
		}
		return err
	})
}

// readServerStream makes this process forget the accounts that changed, and cancel
// the calls that were cancelled. If events between the two seqs are missing, it
// forgets all accounts.
func (f *feed) readServerStream(ctx context.Context, conn *pgx.Conn, after, upTo int64) error {
	rows, err := conn.Query(ctx, `
		SELECT user_id, data->>'call' FROM events WHERE stream = $1 AND seq > $2 AND seq <= $3 LIMIT 1000`,
		serverStream, after, upTo)
	if err != nil {
		return err
	}
	type notice struct {
		userID string
		call   *string // that the account has cancelled; nil: its credentials changed
	}
	told, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (n notice, err error) {
		err = row.Scan(&n.userID, &n.call)
		return n, err
	})
	if err != nil {
		return err
	}
	if int64(len(told)) != upTo-after {
		told = []notice{{}}
	}
	for _, n := range told {
		if n.call != nil {
			f.cancel(*n.call)
		} else {
			f.forget(n.userID)
		}
	}
	return nil
}

// announce marks streams as grown, so that the other instances are told soon. It
// doesn't block.
func (f *feed) announce(heads map[string]int64) {
	if len(heads) == 0 {
		return
	}
	f.mu.Lock()
	for stream, seq := range heads {
		f.dirty[stream] = max(seq, f.dirty[stream])
	}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// announceAll sends what announce has gathered, in transactions of its own:
// NOTIFY in a writing transaction would serialize the commits of the whole
// cluster. It sends at once, unless it has sent within announceEach: then it
// waits until that has passed.
// See docs/design.md, Wake-ups.
func (f *feed) announceAll(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-f.wake:
			f.sendDirty(context.WithoutCancel(ctx))
		case <-ctx.Done():
		}
		select {
		case <-time.After(f.each):
		case <-ctx.Done():
		}
	}
	f.sendDirty(context.WithoutCancel(ctx))
}

// sendDirty sends one round of wake-ups. The other instances' polls make up for
// one that is lost.
func (f *feed) sendDirty(ctx context.Context) {
	f.mu.Lock()
	dirty := f.dirty
	f.dirty = make(map[string]int64)
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, f.db.pollTimeout)
	defer cancel()
	for _, payload := range formatHeads(dirty) {
		if _, err := f.db.Exec(ctx, `SELECT pg_notify($1, $2)`, feedChannel, payload); err != nil {
			f.log.Debug("a wake-up wasn't sent", "error", err)
			return
		}
	}
}

// formatHeads writes streams with their newest seq, in as many payloads as
// needed.
func formatHeads(heads map[string]int64) []string {
	var payloads []string
	var b strings.Builder
	for stream, seq := range heads {
		if b.Len() > notifyBytes-60 {
			payloads = append(payloads, b.String())
			b.Reset()
		}
		fmt.Fprintf(&b, "%s %d\n", stream, seq)
	}
	if b.Len() > 0 {
		payloads = append(payloads, b.String())
	}
	return payloads
}

// parseHeads reads what formatHeads wrote, passing over what it can't read.
func parseHeads(payload string) map[string]int64 {
	heads := make(map[string]int64)
	for line := range strings.Lines(payload) {
		stream, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		if seq, err := strconv.ParseInt(number, 10, 64); err == nil {
			heads[stream] = seq
		}
	}
	return heads
}
