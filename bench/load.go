package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// runner runs a share of one side's round; 1 is the whole round.
type runner func(ctx context.Context, share float64) (sample, error)

// target is an HTTP server and the token to call it with, if it wants one.
type target struct{ base, token string }

// worker is one of the clients of a load; number counts from 0.
type worker struct {
	*client
	number int
}

// until runs call over and over by n workers, for the time of a round.
func (b *bench) until(to target, n int, call func(worker) error) runner {
	return func(ctx context.Context, share float64) (sample, error) {
		end := time.Now().Add(time.Duration(float64(b.size.length) * share))
		return load(ctx, to, n, func(int) bool { return time.Now().Before(end) }, call)
	}
}

// times runs call a number of times by each of n workers, or less often if that
// takes over twice the time of a round: a slow server mustn't make the run
// endless.
func (b *bench) times(to target, n, calls int, call func(worker) error) runner {
	return func(ctx context.Context, share float64) (sample, error) {
		wanted, end := max(1, int(float64(calls)*share)), time.Now().Add(2*b.size.length)
		return load(ctx, to, n, func(done int) bool { return done < wanted && time.Now().Before(end) }, call)
	}
}

// load runs call by n workers, each over a connection of its own, while more
// returns true for the number of the worker's calls so far. The first error ends
// all workers.
func load(ctx context.Context, to target, n int, more func(done int) bool, call func(worker) error) (sample, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	workers := make([]worker, n)
	for i := range workers {
		c, err := dial(to.base, to.token)
		if err != nil {
			return nil, err
		}
		defer c.close()
		workers[i] = worker{c, i}
	}
	took := make([][]time.Duration, n)
	var running sync.WaitGroup
	start := time.Now()
	for i, w := range workers {
		running.Go(func() {
			for begin := time.Now(); more(len(took[i])) && ctx.Err() == nil; {
				if err := call(w); err != nil {
					cancel(err)
					return
				}
				end := time.Now()
				took[i] = append(took[i], end.Sub(begin))
				begin = end
			}
		})
	}
	running.Wait()
	elapsed := time.Since(start)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	calls := 0
	for _, t := range took {
		calls += len(t)
	}
	s := latencies(took...)
	s[perSecond] = float64(calls) / elapsed.Seconds()
	return s, nil
}

// getting returns a call that sends a GET to another random path each time.
func getting(path func() string) func(worker) error {
	return func(w worker) error {
		_, err := w.get(path())
		return err
	}
}

// posting returns a call that sends a POST with a JSON body.
func posting(want int, body string, path func() string) func(worker) error {
	return func(w worker) error {
		_, err := w.post(want, path(), body)
		return err
	}
}

// showing returns a call of the MCP tool show_spec for one of the specs.
func showing(ids []string) func(worker) error {
	return func(w worker) error {
		body, err := w.post(200, "/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call",`+
			`"params":{"name":"show_spec","arguments":{"spec_id":"`+ids[rand.IntN(len(ids))]+`"}}}`)
		if err == nil && !bytes.Contains(body, []byte(`"structuredContent"`)) { // a refusal has none
			err = fmt.Errorf("show_spec: %.300s", body)
		}
		return err
	}
}

// claimAndComplete claims a spec of some mission and completes it.
func (b *bench) claimAndComplete(w worker) error {
	mission := b.data.worked[rand.IntN(len(b.data.worked))]
	body, err := w.post(200, "/api/v1/missions/"+mission+"/claim", fmt.Sprintf(`{"agent":"agent-%d"}`, w.number))
	if err != nil {
		return err
	}
	id, lease := between(body, `"spec":{`, `"id":"`), between(body, `"lease":{`, `"token":"`)
	_, err = w.post(200, "/api/v1/specs/"+id+"/complete", `{"lease_token":"`+lease+`","override":"load test"}`)
	return err
}

// logPath returns the path for the log entries of one of some missions.
func (b *bench) logPath() string {
	return "/api/v1/missions/" + b.data.missions[rand.IntN(logMissions)] + "/logs"
}

func always(path string) func() string { return func() string { return path } }

// drawn returns a function that returns the prefix with a random id.
func drawn(prefix string, ids []string) func() string {
	return func() string { return prefix + ids[rand.IntN(len(ids))] }
}
