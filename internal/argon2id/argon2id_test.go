package argon2id

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
)

// cheapest is the least that argon2 can be asked for.
var cheapest = Params{Memory: 8, Time: 1, Threads: 1}

func TestVerifyKnowsThePassword(t *testing.T) {
	t.Parallel()
	h := New(cheapest)
	phc, err := h.Hash(t.Context(), "correct horse battery")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := h.Hash(t.Context(), "correct horse battery"); err != nil || again == phc {
		t.Errorf("a second hash is %q, %v; the first %q", again, err, phc)
	}
	for _, test := range []struct {
		hasher              *Hasher
		phc, password       string
		wantOK, wantsRehash bool
	}{
		{h, phc, "correct horse battery", true, false},
		{h, phc, "correct horse batterz", false, false},
		{h, phc, "", false, false},
		{h, "", "correct horse battery", false, false},
		{New(Params{Memory: 16, Time: 1, Threads: 1}), phc, "correct horse battery", true, true},
		{New(Params{Memory: 16, Time: 1, Threads: 1}), phc, "wrong", false, false},
		// A vector of the reference implementation, phc-winner-argon2/src/test.c.
		{h, "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc", "password", true, true},
	} {
		ok, needsRehash, err := test.hasher.Verify(t.Context(), test.phc, test.password)
		if err != nil || ok != test.wantOK || needsRehash != test.wantsRehash {
			t.Errorf("%q against %q: %v, %v, %v", test.password, test.phc, ok, needsRehash, err)
		}
	}
}

func TestVerifyRefusesBrokenHashes(t *testing.T) {
	t.Parallel()
	const salt, key = "c29tZXNhbHQ", "bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc"
	for _, phc := range []string{
		"x",
		"$argon2i$v=19$m=256,t=2,p=1$" + salt + "$" + key,
		"$argon2id$v=16$m=256,t=2,p=1$" + salt + "$" + key,
		"$argon2id$v=19$m=262145,t=2,p=1$" + salt + "$" + key,
		"$argon2id$v=19$m=7,t=2,p=1$" + salt + "$" + key,
		"$argon2id$v=19$m=256,t=0,p=1$" + salt + "$" + key,
		"$argon2id$v=19$m=256,t=17,p=1$" + salt + "$" + key,
		"$argon2id$v=19$m=256,t=2,p=0$" + salt + "$" + key,
		"$argon2id$v=19$m=256,t=2,p=17$" + salt + "$" + key,
		"$argon2id$v=19$m=256,t=2,p=257$" + salt + "$" + key,
		"$argon2id$v=19$m=+256,t=2,p=1$" + salt + "$" + key,
		"$argon2id$v=19$m=256,t=2,p=1,x=1$" + salt + "$" + key,
		"$argon2id$v=19$m=256,t=2,p=1$" + salt + "=$" + key,
		"$argon2id$v=19$m=256,t=2,p=1$c2hvcnQ$" + key,
		"$argon2id$v=19$m=256,t=2,p=1$" + salt + "$",
		"$argon2id$v=19$m=256,t=2,p=1$" + salt + "$" + strings.Repeat("QUFB", 22),
	} {
		ok, _, err := New(cheapest).Verify(t.Context(), phc, "password")
		if ok || err == nil {
			t.Errorf("%q: %v, %v", phc, ok, err)
		}
	}
}

// fillGate starts as many computations as run at once and as many callers as
// may wait behind them, none of which ends before release is closed.
func fillGate(ctx context.Context, h *Hasher, release chan struct{}) {
	for range cap(h.permits) + cap(h.waiting) {
		go func() {
			_, _ = h.run(ctx, func() []byte { <-release; return nil })
		}()
	}
	synctest.Wait()
}

func TestGateRefusesWhenTheQueueIsFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := New(cheapest)
		release := make(chan struct{})
		fillGate(t.Context(), h, release)
		running, queued := h.InUse()
		if cores := runtime.GOMAXPROCS(0); running < 1 || cores > 1 && running >= cores || queued != cap(h.waiting) {
			t.Errorf("%d run on %d cores, and %d wait", running, cores, queued)
		}
		_, err := h.Hash(t.Context(), "correct horse battery")
		if !errors.Is(err, ErrBusy) {
			t.Errorf("a new hash: %v", err)
		}
		if _, _, err = h.Verify(t.Context(), "", "correct horse battery"); !errors.Is(err, ErrBusy) {
			t.Errorf("a check: %v", err)
		}

		close(release)
		synctest.Wait()
		if running, queued := h.InUse(); running != 0 || queued != 0 {
			t.Errorf("in the end %d run and %d wait", running, queued)
		}
		if _, err := h.Hash(t.Context(), "correct horse battery"); err != nil {
			t.Error(err)
		}
	})
}

func TestGatePermitBelongsToTheComputation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := New(cheapest)
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		fillGate(ctx, h, release)
		cancel()
		synctest.Wait()
		if running, queued := h.InUse(); running != cap(h.permits) || queued != 0 {
			t.Errorf("once the callers have left, %d run and %d wait", running, queued)
		}
		_, err := h.run(ctx, func() []byte { t.Error("computed for a caller who has left"); return nil })
		if !errors.Is(err, ErrBusy) || !errors.Is(err, context.Canceled) {
			t.Errorf("for a caller who has left: %v", err)
		}
		close(release)
		synctest.Wait()
		if running, _ := h.InUse(); running != 0 {
			t.Errorf("in the end %d run", running)
		}
	})
}

func FuzzParsePHC(f *testing.F) {
	f.Add("$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc")
	f.Add("$argon2id$v=19$m=0,t=0,p=0$$")
	f.Fuzz(func(t *testing.T, phc string) {
		h, err := parsePHC(phc)
		if err != nil {
			return
		}
		p := h.params
		if p.Memory > 256<<10 || p.Time > 16 || p.Threads > 16 || p.Memory*p.Time*uint32(p.Threads) == 0 {
			t.Fatalf("accepted %+v", p)
		}
		if h.String() != phc {
			t.Fatalf("%q is written as %q", phc, h.String())
		}
	})
}
