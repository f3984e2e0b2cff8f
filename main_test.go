package main

// The test harness's base: one throwaway cluster a run, made for the first
// test that wants a database, and a database of its own for each test.

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"tachikoma/internal/pgserver/pgtest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := checkPlans(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if err := testCluster.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "ending the tests' Postgres:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// testCluster is the Postgres that holds the tests' databases.
var testCluster = pgtest.Cluster{Migrate: func(ctx context.Context, databaseURL string) error {
	_, err := migrate(ctx, databaseURL, slog.New(slog.DiscardHandler))
	return err
}}

// newTestDatabase is a migrated database for this test alone.
func newTestDatabase(t testing.TB) string {
	t.Helper()
	return testCluster.NewDatabase(t)
}

// newEmptyDatabase is newTestDatabase without any migration.
func newEmptyDatabase(t testing.TB, options string) string {
	t.Helper()
	return testCluster.NewEmptyDatabase(t, options)
}
