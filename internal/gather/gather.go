// Package gather reads single rows by id with few queries.
package gather

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Lookup is a read of one thing by its id, for an account.
type Lookup struct {
	UserID string
	Admin  bool
	ID     string
	Known  int64 // the version that the caller already has; 0 for none
}

// Querier is the connections to the database.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Scan reads a row, after the columns that go to before.
type Scan[T any] func(into *T, row pgx.CollectableRow, before ...any) error

// Gatherer reads single rows by id with few queries: the lookups that wait right
// now share one. There is no timer and no delay: a lookup that comes while maxRounds
// queries are running joins the next one. Safe for concurrent use.
// See docs/design.md, Gathered reads.
type Gatherer[T any] struct {
	db   Querier
	sql  string
	scan Scan[T]

	mu      sync.Mutex // guards the following
	next    *round[T]  // gathers lookups; nil when none waits
	running int        // rounds in progress
}

// round is one query and the lookups that wait for it.
type round[T any] struct {
	keys  map[Lookup]struct{}
	done  chan struct{} // closed when the following can be read
	found map[Lookup]T
	err   error
}

// maxRounds is how many rounds of a Gatherer are in progress at most: more would
// only make each smaller.
var maxRounds = max(2, runtime.GOMAXPROCS(0))

// roundTimeout bounds a round, which isn't cancelled with the requests that it serves.
const roundTimeout = 4 * time.Second

// New returns a Gatherer for single, a query for one row whose parameters are a
// Lookup's: $1 the account, $2 whether it is an admin's, $3 the id, $4 the known
// version.
func New[T any](db Querier, single string, scan Scan[T]) *Gatherer[T] {
	wanted := strings.NewReplacer(
		"$1", "want.user_id", "$2", "want.admin", "$3", "want.id", "$4", "want.known").Replace(single)
	return &Gatherer[T]{db: db, scan: scan, sql: `
		SELECT want.user_id, want.admin, want.id, want.known, found.*
		FROM unnest($1::uuid[], $2::boolean[], $3::uuid[], $4::bigint[]) AS want (user_id, admin, id, known)
		CROSS JOIN LATERAL (` + wanted + `) AS found`}
}

// Get returns what a lookup finds, or pgx.ErrNoRows.
func (g *Gatherer[T]) Get(ctx context.Context, key Lookup) (found T, err error) {
	g.mu.Lock()
	r := g.next
	if r == nil {
		r = &round[T]{keys: make(map[Lookup]struct{}), done: make(chan struct{})}
		g.next = r
	}
	r.keys[key] = struct{}{}
	if g.running < maxRounds {
		g.running++
		g.next = nil
		go g.run(context.Background(), r)
	}
	g.mu.Unlock()
	select {
	case <-r.done:
	case <-ctx.Done():
		return found, context.Cause(ctx)
	}
	if r.err != nil {
		return found, r.err
	}
	found, ok := r.found[key]
	if !ok {
		return found, pgx.ErrNoRows
	}
	return found, nil
}

// GetAlone is Get with a query of its own, for what is known to take long.
func (g *Gatherer[T]) GetAlone(ctx context.Context, key Lookup) (found T, err error) {
	all, err := g.read(ctx, map[Lookup]struct{}{key: {}})
	if err != nil {
		return found, err
	}
	found, ok := all[key]
	if !ok {
		return found, pgx.ErrNoRows
	}
	return found, nil
}

// run runs a round, and then those that have gathered meanwhile.
func (g *Gatherer[T]) run(ctx context.Context, r *round[T]) {
	for r != nil {
		r.found, r.err = g.read(ctx, r.keys)
		close(r.done)
		g.mu.Lock()
		if r, g.next = g.next, nil; r == nil {
			g.running--
		}
		g.mu.Unlock()
	}
}

func (g *Gatherer[T]) read(ctx context.Context, keys map[Lookup]struct{}) (map[Lookup]T, error) {
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	users, admins, ids := make([]string, 0, len(keys)), make([]bool, 0, len(keys)), make([]string, 0, len(keys))
	known := make([]int64, 0, len(keys))
	for k := range keys {
		users, admins = append(users, k.UserID), append(admins, k.Admin)
		ids, known = append(ids, k.ID), append(known, k.Known)
	}
	rows, err := g.db.Query(ctx, g.sql, users, admins, ids, known)
	if err != nil {
		return nil, fmt.Errorf("reading by id: %w", err)
	}
	defer rows.Close()
	found := make(map[Lookup]T, len(keys))
	for rows.Next() {
		var k Lookup
		var v T
		if err := g.scan(&v, rows, &k.UserID, &k.Admin, &k.ID, &k.Known); err != nil {
			return nil, fmt.Errorf("reading by id: %w", err)
		}
		found[k] = v
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading by id: %w", err)
	}
	return found, nil
}
