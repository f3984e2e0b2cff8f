package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
)

// testMigrations reads migrations from pairs of name and content.
func testMigrations(t *testing.T, pairs ...string) []migration {
	t.Helper()
	files := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		files["migrations/"+pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	migrations, err := readMigrations(files)
	if err != nil {
		t.Fatal(err)
	}
	return migrations
}

// queryText runs a query that answers with one text.
func queryText(t *testing.T, url, sql string) (answer string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := conn.QueryRow(t.Context(), sql).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return answer
}

func mustExec(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

// wantError fails the test unless err says all of the words.
func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", words)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error doesn't say %q: %v", word, err)
		}
	}
}

func TestMigrateBringsAnEmptyDatabaseUpToDateOnce(t *testing.T) {
	t.Parallel()
	url, log := newEmptyDatabase(t, ""), slog.New(slog.DiscardHandler)
	migrations, err := readMigrations(migrationFiles)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{len(migrations), 0} {
		if applied, err := migrate(t.Context(), url, log); err != nil || applied != want {
			t.Fatalf("applied %d, %v; want %d", applied, err, want)
		}
	}
}

func TestConcurrentMigratorsApplyEachMigrationOnce(t *testing.T) {
	t.Parallel()
	migrations := testMigrations(t,
		"0001_a.sql", "CREATE TABLE a (); SELECT pg_sleep(0.1);",
		"0002_b.sql", "CREATE TABLE b (); SELECT pg_sleep(0.1);",
		"0003_c.sql", "CREATE TABLE c ();")
	url := newEmptyDatabase(t, "")
	var group sync.WaitGroup
	var applied [4]int
	for i := range applied {
		group.Go(func() {
			var err error
			if applied[i], err = applyMigrations(t.Context(), url, migrations, slog.New(slog.DiscardHandler)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if total := applied[0] + applied[1] + applied[2] + applied[3]; total != len(migrations) {
		t.Errorf("applied %v, want %d in all", applied, len(migrations))
	}
	if got := queryText(t, url, "SELECT string_agg(version || name, ' ' ORDER BY version) FROM schema_migrations"); got != "10001_a.sql 20002_b.sql 30003_c.sql" {
		t.Errorf("recorded %s", got)
	}
}

func TestMigrateRefusesAnotherHistory(t *testing.T) {
	t.Parallel()
	first := []string{"0001_a.sql", "CREATE TABLE a ();", "0002_b.sql", "CREATE TABLE b ();"}
	tests := []struct {
		name  string
		files []string
		words []string
	}{
		{"an edited file", []string{"0001_a.sql", "CREATE TABLE a (x int);", "0002_b.sql", "CREATE TABLE b ();"}, []string{"0001_a.sql", "never edited"}},
		{"a renamed file", []string{"0001_a.sql", "CREATE TABLE a ();", "0002_z.sql", "CREATE TABLE b ();"}, []string{"0002_b.sql", "0002_z.sql"}},
		{"an older program", first[:2], []string{"newer", "0002_b.sql", "0001"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			url, log := newEmptyDatabase(t, ""), slog.New(slog.DiscardHandler)
			if _, err := applyMigrations(t.Context(), url, testMigrations(t, first...), log); err != nil {
				t.Fatal(err)
			}
			_, err := applyMigrations(t.Context(), url, testMigrations(t, test.files...), log)
			wantError(t, err, test.words...)
		})
	}
}

func TestReadMigrationsRefusesWrongNames(t *testing.T) {
	t.Parallel()
	for _, names := range [][]string{
		{"0002_a.sql"},
		{"0001_a.sql", "0001_b.sql"},
		{"0001_a.sql", "0003_c.sql"},
		{"1_a.sql"},
		{"0001-a.sql"},
		{"0001_a.sql", "0002_b.down.sql"},
	} {
		files := fstest.MapFS{}
		for _, name := range names {
			files["migrations/"+name] = &fstest.MapFile{}
		}
		_, err := readMigrations(files)
		wantError(t, err, names[len(names)-1])
	}
}

func TestFailingMigrationLeavesNothingAndNamesItsLine(t *testing.T) {
	t.Parallel()
	url := newEmptyDatabase(t, "")
	applied, err := applyMigrations(t.Context(), url, testMigrations(t,
		"0001_a.sql", "CREATE TABLE a ();",
		"0002_b.sql", "-- ärgerlich\nCREATE TABLE b ();\nINSERT INTO nowhere VALUES (1);\n"), slog.New(slog.DiscardHandler))
	wantError(t, err, "0002_b.sql:3", "nowhere")
	if applied != 1 {
		t.Errorf("applied %d, want 1", applied)
	}
	const left = "SELECT concat(to_regclass('a'), ' ', to_regclass('b'), ' ', max(version)) FROM schema_migrations"
	if got := queryText(t, url, left); got != "a  1" {
		t.Errorf("the database has %q, want table a and version 1 alone", got)
	}
}

func TestMigrateWaitsForAnotherAsLongAsItsContext(t *testing.T) {
	t.Parallel()
	url := newEmptyDatabase(t, "")
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), fmt.Sprint("SELECT pg_advisory_lock(", migrationLock, ")")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	log := slog.New(slog.NewTextHandler(writerFunc(func([]byte) { cancel() }), nil)) // it says that it waits
	_, err = migrate(ctx, url, log)
	wantError(t, err, "waiting for another server", "context canceled")
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

func TestMigrateRefusesAnotherEncoding(t *testing.T) {
	t.Parallel()
	url := newEmptyDatabase(t, "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
	_, err := migrate(t.Context(), url, slog.New(slog.DiscardHandler))
	wantError(t, err, "LATIN1", "UTF8")
}
