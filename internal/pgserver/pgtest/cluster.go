package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"tachikoma/internal/pgserver"
)

// patience is for starting a Postgres, for one statement, and for what makes the template,
// which may build a program first: none takes long where nothing else runs.
const patience = 10 * time.Minute

// Cluster is the Postgres that holds the databases of a package's tests: a
// throwaway one, or the one that TEST_DATABASE_URL names. It is started for the
// first test that wants a database. Safe for concurrent use.
type Cluster struct {
	// Migrate brings the template that the databases are cloned from up to date.
	Migrate func(ctx context.Context, databaseURL string) error

	once     sync.Once // starts it, and sets the following
	err      error
	url      func(database string) string
	template string // a migrated database, and the prefix of all others
	clone    string // options of CREATE DATABASE that make a copy cheapest
	end      func() error

	made atomic.Int64
}

// Stop ends the Postgres, if it was started, and drops what tests left behind.
func (c *Cluster) Stop() error {
	c.once.Do(func() { c.err = errors.New("the tests' Postgres is stopped") })
	if c.end == nil {
		return nil
	}
	return c.end()
}

// NewDatabase clones the migrated template for a test, drops the clone when the
// test is over, and returns its URL.
func (c *Cluster) NewDatabase(t testing.TB) string {
	t.Helper()
	return c.forTest(t, c.Clone)
}

// NewEmptyDatabase is NewDatabase without any migration, and with options of
// CREATE DATABASE.
func (c *Cluster) NewEmptyDatabase(t testing.TB, options string) string {
	t.Helper()
	return c.forTest(t, func(ctx context.Context) (string, func() error, error) { return c.create(ctx, options) })
}

func (c *Cluster) forTest(t testing.TB, create func(context.Context) (string, func() error, error)) string {
	t.Helper()
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	databaseURL, drop, err := create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := drop(); err != nil {
			t.Error(err)
		}
	})
	return databaseURL
}

// Clone clones the migrated template for callers that aren't tests. The caller calls drop.
func (c *Cluster) Clone(ctx context.Context) (databaseURL string, drop func() error, err error) {
	if err := c.start(); err != nil {
		return "", nil, err
	}
	return c.create(ctx, "TEMPLATE "+c.template+c.clone)
}

func (c *Cluster) create(ctx context.Context, options string) (databaseURL string, drop func() error, err error) {
	name := fmt.Sprintf("%s_%d", c.template, c.made.Add(1))
	if err := c.exec(ctx, "CREATE DATABASE "+name+" "+options); err != nil {
		return "", nil, fmt.Errorf("making a database: %w", err)
	}
	return c.url(name), func() error {
		if err := c.exec(context.Background(), "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			return fmt.Errorf("dropping a database: %w", err)
		}
		return nil
	}, nil
}

// exec runs a statement on the cluster, over a connection of its own. It repeats
// CREATE DATABASE and DROP DATABASE, which fail after five seconds if a session of
// the database, such as autovacuum's, gets no CPU time to end.
func (c *Cluster) exec(ctx context.Context, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.url(""))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for {
		_, err = conn.Exec(ctx, sql)
		refusal, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || refusal.Code != "55006" || ctx.Err() != nil { // object_in_use
			return err
		}
	}
}

// start starts the cluster, for the first caller.
func (c *Cluster) start() error {
	c.once.Do(func() { c.err = c.startOnce() })
	return c.err
}

func (c *Cluster) startOnce() error {
	c.template = "tachikoma_test_" + strings.ToLower(rand.Text()[:10])
	if given := os.Getenv("TEST_DATABASE_URL"); given != "" {
		c.url = func(database string) string { return withDatabase(given, database) }
		c.end = c.dropAll
	} else if err := c.startThrowaway(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.makeTemplate(ctx); err != nil {
		return fmt.Errorf("making the template database: %w", err)
	}
	if err := c.Migrate(ctx, c.url(c.template)); err != nil {
		return fmt.Errorf("migrating the template database: %w", err)
	}
	return nil
}

func (c *Cluster) makeTemplate(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, c.url(""))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var version int
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return err
	}
	if version >= 15_00_00 { // older ones know no other way
		c.clone = " STRATEGY file_copy"
	}
	return c.exec(ctx, "CREATE DATABASE "+c.template+" TEMPLATE template0 ENCODING 'UTF8'")
}

func (c *Cluster) startThrowaway() error {
	folder, remove, err := Parent()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	postgres, err := pgserver.StartThrowaway(ctx, slog.New(slog.DiscardHandler), filepath.Join(folder, "data"))
	if err != nil {
		return errors.Join(fmt.Errorf("the tests need a Postgres (or TEST_DATABASE_URL): %w", err), remove())
	}
	c.url = func(database string) string {
		if database == "" {
			database = "postgres"
		}
		return postgres.URL(database)
	}
	c.end = func() error { return errors.Join(postgres.Stop(), remove()) }
	return nil
}

// dropAll drops the template and what tests left behind.
func (c *Cluster) dropAll() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.url(""))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, "SELECT datname FROM pg_database WHERE starts_with(datname, $1)", c.template)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, name := range names {
		err = errors.Join(err, c.exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)"))
	}
	return err
}

// withDatabase is a connection string, of either form, with another database, if that isn't "".
func withDatabase(connection, database string) string {
	if database == "" {
		return connection
	}
	if u, err := url.Parse(connection); err == nil && strings.HasPrefix(u.Scheme, "postgres") {
		u.Path = "/" + database
		return u.String()
	}
	return connection + " dbname=" + database
}
