package ratelimit

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestTurnsAreTakenInTheOrderOfArrival(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var turns Turns
		var order []int
		for i := range 5 {
			go func() {
				giveBack, err := turns.Take(t.Context(), Share{"a", 1})
				if err != nil {
					t.Error(err)
				}
				order = append(order, i)
				time.Sleep(time.Second)
				giveBack()
			}()
			synctest.Wait()
		}
		if n := turns.Waiting("a"); n != 4 {
			t.Errorf("%d wait", n)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for i, n := range order {
			if i != n {
				t.Fatalf("the order was %v", order)
			}
		}
		if len(order) != 5 || len(turns.lines) != 0 {
			t.Errorf("%v had their turns, and %d lines are kept", order, len(turns.lines))
		}
	})
}

// A turn that waits under one name keeps nobody waiting under another.
func TestWaitingForATurnHoldsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var turns Turns
		stuck, err := turns.Take(t.Context(), Share{"mission", 1}, Share{"ada", 2})
		if err != nil {
			t.Fatal(err)
		}
		waits, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error)
		for range 3 {
			go func() {
				_, err := turns.Take(waits, Share{"mission", 1}, Share{"ada", 2})
				ended <- err
			}()
		}
		synctest.Wait()
		if n := turns.Waiting("mission"); n != 3 {
			t.Errorf("%d wait", n)
		}
		giveBack, err := turns.Take(t.Context(), Share{"other", 1}, Share{"ada", 2})
		if err != nil {
			t.Fatal(err)
		}
		giveBack()
		gone := errors.New("gone")
		cancel(gone)
		for range 3 {
			if err := <-ended; !errors.Is(err, gone) {
				t.Errorf("the error is %v", err)
			}
		}
		stuck()
		if len(turns.lines) != 0 {
			t.Errorf("%d lines are kept", len(turns.lines))
		}
	})
}

func TestTurnsAtRandom(t *testing.T) {
	t.Parallel()
	var turns Turns
	var held [5]atomic.Int32
	names := [5]string{"a", "b", "c", "d", "e"}
	var work sync.WaitGroup
	for range 32 {
		work.Go(func() {
			for range 500 {
				i, k := rand.IntN(3), 3+rand.IntN(2)
				ctx, cancel := context.WithTimeout(t.Context(), rand.N(2*time.Millisecond))
				giveBack, err := turns.Take(ctx, Share{names[i], 2}, Share{names[k], 3})
				if err == nil {
					if held[i].Add(1) > 2 || held[k].Add(1) > 3 {
						t.Error("a name has more than its places")
					}
					held[i].Add(-1)
					held[k].Add(-1)
					giveBack()
				}
				cancel()
			}
		})
	}
	work.Wait()
	if len(turns.lines) != 0 {
		t.Errorf("%d lines are kept", len(turns.lines))
	}
}
