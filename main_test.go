package main

// The test harness's base: one throwaway cluster a run, made for the first
// test that wants a database, and a database of its own for each test.

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

	"tachikoma/internal/pgserver"
	"tachikoma/internal/pgserver/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(runProgram) != "" {
		main() // this is the program itself, see process_test.go
		os.Exit(0)
	}
	code := m.Run()
	if err := checkPlans(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if err := endTestCluster(); err != nil {
		fmt.Fprintln(os.Stderr, "ending the tests' Postgres:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// testCluster is the Postgres that holds the tests' databases.
type testCluster struct {
	url      func(database string) string
	template string // a migrated database, and the prefix of all others
	clone    string // options of CREATE DATABASE that make a copy cheapest
	clones   atomic.Int64
}

var (
	theCluster = sync.OnceValues(startTestCluster)
	// endTestCluster is replaced when there is a cluster to end.
	endTestCluster = func() error { return nil }
)

// newTestDatabase clones the migrated template for this test, drops the clone
// when the test is over, and returns its URL.
func newTestDatabase(t testing.TB) string {
	t.Helper()
	cluster, err := theCluster()
	if err != nil {
		t.Fatal(err)
	}
	return cluster.newDatabase(t, "TEMPLATE "+cluster.template+cluster.clone)
}

// newEmptyDatabase is newTestDatabase without any migration.
func newEmptyDatabase(t testing.TB, options string) string {
	t.Helper()
	cluster, err := theCluster()
	if err != nil {
		t.Fatal(err)
	}
	return cluster.newDatabase(t, options)
}

func (c *testCluster) newDatabase(t testing.TB, options string) string {
	t.Helper()
	name := fmt.Sprintf("%s_%d", c.template, c.clones.Add(1))
	if err := c.exec(t.Context(), "CREATE DATABASE "+name+" "+options); err != nil {
		t.Fatalf("making a database: %v", err)
	}
	t.Cleanup(func() {
		if err := c.exec(context.Background(), "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("dropping a database: %v", err)
		}
	})
	return c.url(name)
}

// exec runs a statement on the cluster, over a connection of its own.
func (c *testCluster) exec(ctx context.Context, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.url(""))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

func startTestCluster() (*testCluster, error) {
	c := &testCluster{template: "tachikoma_test_" + strings.ToLower(rand.Text()[:10])}
	if given := os.Getenv("TEST_DATABASE_URL"); given != "" {
		c.url = func(database string) string { return withDatabase(given, database) }
		endTestCluster = c.dropAll
	} else if err := c.startThrowaway(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.makeTemplate(ctx); err != nil {
		return nil, fmt.Errorf("making the template database: %w", err)
	}
	if _, err := migrate(ctx, c.url(c.template), slog.New(slog.DiscardHandler)); err != nil {
		return nil, fmt.Errorf("migrating the template database: %w", err)
	}
	return c, nil
}

func (c *testCluster) makeTemplate(ctx context.Context) error {
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
	_, err = conn.Exec(ctx, "CREATE DATABASE "+c.template+" TEMPLATE template0 ENCODING 'UTF8'")
	return err
}

func (c *testCluster) startThrowaway() error {
	folder, remove, err := pgtest.Parent()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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
	endTestCluster = func() error { return errors.Join(postgres.Stop(), remove()) }
	return nil
}

// dropAll drops the template and what tests left behind.
func (c *testCluster) dropAll() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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
		_, dropErr := conn.Exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)")
		err = errors.Join(err, dropErr)
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
