package main

// The reference river: a job queue on Postgres, with jobs as large as specs
// that are worked by doing nothing.

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// riverQueue is a database with river's tables.
type riverQueue struct{ db *pgxpool.Pool }

type riverArgs struct {
	Body string `json:"body"`
}

func (riverArgs) Kind() string { return "spec" }

type riverWorker struct {
	river.WorkerDefaults[riverArgs]
}

func (riverWorker) Work(context.Context, *river.Job[riverArgs]) error { return nil }

var riverLog = slog.New(slog.NewTextHandler(io.Discard, nil))

func newRiverQueue(ctx context.Context, url string) (*riverQueue, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = poolSize
	db, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	q := &riverQueue{db}
	migrator, err := rivermigrate.New(riverpgxv5.New(db), &rivermigrate.Config{Logger: riverLog})
	if err == nil {
		_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	}
	return q, err
}

// work returns a runner that works the given number of jobs, inserted beforehand,
// with the given number of workers; a job counts when it is stored as completed.
func (q *riverQueue) work(jobs, workers int) runner {
	return func(ctx context.Context, share float64) (sample, error) {
		many := make([]river.InsertManyParams, max(1, int(float64(jobs)*share)))
		for i := range many {
			many[i].Args = riverArgs{strings.Repeat("spec ", 400)}
		}
		kinds := river.NewWorkers()
		river.AddWorker(kinds, riverWorker{})
		client, err := river.NewClient(riverpgxv5.New(q.db), &river.Config{
			Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}},
			Workers: kinds, Logger: riverLog,
			FetchCooldown: river.FetchCooldownMin, // its default allows 10 fetches a second
		})
		if err != nil {
			return nil, err
		}
		if _, err := client.InsertMany(ctx, many); err != nil {
			return nil, err
		}
		completed, cancel := client.SubscribeConfig(&river.SubscribeConfig{
			ChanSize: len(many), Kinds: []river.EventKind{river.EventKindJobCompleted}})
		defer cancel()
		start := time.Now()
		if err := client.Start(ctx); err != nil {
			return nil, err
		}
		for range many {
			select {
			case <-completed:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		took := time.Since(start)
		return sample{perSecond: float64(len(many)) / took.Seconds()}, client.Stop(ctx)
	}
}
