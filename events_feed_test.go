package main

import (
	"context"
	"log/slog"
	"maps"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// What has grown is announced at once where nothing was lately, and else
// together with what follows.
func TestFirstWakeUpIsSentAtOnceAndTheNextAreGathered(t *testing.T) {
	t.Parallel()
	databaseURL := newTestDatabase(t)
	pool, err := pgxpool.New(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	listener, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close(context.Background())
	if _, err := listener.Exec(t.Context(), "LISTEN "+feedChannel); err != nil {
		t.Fatal(err)
	}
	hear := func() map[string]int64 {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		n, err := listener.WaitForNotification(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return parseHeads(n.Payload)
	}

	f := newFeed(pool, nil, nil, nil, slog.New(slog.DiscardHandler))
	f.each = time.Hour
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.announceAll(ctx)
	}()
	a, b := newID(), newID()
	f.announce(map[string]int64{a: 1})
	if got := hear(); !maps.Equal(got, map[string]int64{a: 1}) {
		t.Errorf("at once: got %v", got)
	}
	f.announce(map[string]int64{a: 2})
	f.announce(map[string]int64{b: 7})
	f.announce(map[string]int64{a: 3})
	stop() // or else they would come in an hour
	if got := hear(); !maps.Equal(got, map[string]int64{a: 3, b: 7}) {
		t.Errorf("gathered: got %v", got)
	}
	<-ended
}
