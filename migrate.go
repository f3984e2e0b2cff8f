package main

// Embedded migrations: migrations/NNNN_name.sql, numbered from 0001 without a
// gap. Each is applied in one transaction with its record.

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"tachikoma/internal/specfile"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

const (
	// migrationLock is the key of the advisory lock held while migrating, "tachi"
	// in ASCII. Each database has its own, so it need only be unique in this program.
	migrationLock     = 0x7461636869
	migrationLockPoll = 50 * time.Millisecond
)

// migration is one file. Its version is its place in the list, counted from 1.
type migration struct {
	version  int
	name     string // of the file
	sql      string
	checksum string // SHA-256 of the file
}

// migrate brings the database to this binary's version and returns how many
// migrations it applied. While another process migrates, it waits, for as long as
// ctx allows. It refuses a history that was edited or is newer than this binary,
// and a PostgreSQL older than 14 or not in UTF-8. It uses one connection of its
// own and keeps no state in the session, so it works behind a pooler in
// transaction mode.
func migrate(ctx context.Context, databaseURL string, log *slog.Logger) (applied int, err error) {
	migrations, err := readMigrations(migrationFiles)
	if err != nil {
		return 0, err
	}
	return applyMigrations(ctx, databaseURL, migrations, log)
}

// readMigrations reads the folder migrations and checks the names in it.
func readMigrations(files fs.FS) ([]migration, error) {
	entries, err := fs.ReadDir(files, "migrations") // sorted by name
	if err != nil {
		return nil, fmt.Errorf("reading the migrations: %w", err)
	}
	var migrations []migration
	for _, entry := range entries {
		match := migrationName.FindStringSubmatch(entry.Name())
		if match == nil {
			return nil, fmt.Errorf("migration %s: the name isn't NNNN_name.sql", entry.Name())
		}
		if version, _ := strconv.Atoi(match[1]); version != len(migrations)+1 {
			return nil, fmt.Errorf("migration %s: the number should be %04d", entry.Name(), len(migrations)+1)
		}
		content, err := fs.ReadFile(files, "migrations/"+entry.Name())
		if err != nil {
			return nil, fmt.Errorf("reading the migrations: %w", err)
		}
		sum := sha256.Sum256(content)
		migrations = append(migrations, migration{
			version: len(migrations) + 1, name: entry.Name(),
			sql: string(content), checksum: hex.EncodeToString(sum[:]),
		})
	}
	return migrations, nil
}

var migrationName = regexp.MustCompile(`^([0-9]{4})_[a-z0-9_]+\.sql$`)

func applyMigrations(ctx context.Context, databaseURL string, migrations []migration, log *slog.Logger) (applied int,
	err error) {
	conn, err := connect(ctx, databaseURL)
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx)
	for {
		began := time.Now()
		done, err := applyNext(ctx, conn, migrations, log)
		if err != nil {
			return applied, explainMigration(ctx, conn, err)
		}
		if done == nil {
			return applied, nil
		}
		applied++
		log.InfoContext(ctx, "migrated", "migration", done.name, "took", time.Since(began))
	}
}

// migrationSteps are what migrations do after their file, in the same transaction,
// where SQL can't do it or would be slow.
var migrationSteps = map[string]func(ctx context.Context, tx pgx.Tx) error{
	"0004_states.sql": markAllCycles,
}

// markAllCycles records which specs are part of a cycle.
func markAllCycles(ctx context.Context, tx pgx.Tx) error {
	edges, err := readEdges(ctx, tx, `SELECT spec_id::text, depends_on::text FROM dependencies`)
	if err != nil {
		return err
	}
	for _, members := range specfile.CyclicSets(edges) {
		if _, err := tx.Exec(ctx, `UPDATE spec_states SET cycle = $2 WHERE spec_id = ANY($1::uuid[])`,
			members, len(members)); err != nil {
			return fmt.Errorf("marking a cycle: %w", err)
		}
	}
	return nil
}

// applyNext applies, in one transaction, the first migration that the database
// lacks, and returns it, or nil if there is none.
func applyNext(ctx context.Context, conn *pgx.Conn, migrations []migration, log *slog.Logger) (next *migration,
	err error) {
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, migrationLimitsSQL); err != nil {
			return fmt.Errorf("beginning to migrate: %w", err)
		}
		if err := lockMigrations(ctx, tx, log); err != nil {
			return err
		}
		count, err := checkHistory(ctx, tx, migrations)
		if err != nil || count == len(migrations) {
			return err
		}
		next = &migrations[count]
		if _, err := tx.Exec(ctx, next.sql); err != nil {
			return fmt.Errorf("migration %s: %w", next.at(err), err)
		}
		if step := migrationSteps[next.name]; step != nil {
			if err := step(ctx, tx); err != nil {
				return fmt.Errorf("migration %s: %w", next.name, err)
			}
		}
		_, err = tx.Exec(ctx, "INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES ($1, $2, $3, "+
			"now())",
			next.version, next.name, next.checksum)
		if err != nil {
			return fmt.Errorf("recording migration %s: %w", next.name, err)
		}
		return nil
	})
	return next, err
}

// migrationLimitsSQL lifts the timeouts that a pooler's sessions may have from the
// role or the database: a migration takes as long as it takes.
const migrationLimitsSQL = `
	SET LOCAL statement_timeout = 0;
	SET LOCAL lock_timeout = 0;
	SET LOCAL idle_in_transaction_session_timeout = 0`

// lockMigrations waits until nobody else migrates. It polls rather than block in a
// statement, since a blocked statement holds a snapshot, and a CREATE INDEX
// CONCURRENTLY elsewhere would wait for it.
func lockMigrations(ctx context.Context, tx pgx.Tx, log *slog.Logger) error {
	tick := time.NewTicker(migrationLockPoll)
	defer tick.Stop()
	for waited := false; ; waited = true {
		var locked bool
		if err := tx.QueryRow(ctx, "SELECT pg_try_advisory_xact_lock($1)", int64(migrationLock)).Scan(&locked); err != nil {
			return fmt.Errorf("waiting to migrate: %w", err)
		}
		if locked {
			return nil
		}
		if !waited {
			log.InfoContext(ctx, "waiting for another server to migrate the database")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for another server to migrate the database: %w", ctx.Err())
		}
	}
}

// checkHistory returns how many migrations the database has, after checking that
// they are the first of ours. It creates the table that records them if need be.
func checkHistory(ctx context.Context, tx pgx.Tx, migrations []migration) (count int, err error) {
	// Asked first, because CREATE … IF NOT EXISTS needs the privilege to create even if the table exists.
	var there, ours bool
	err = tx.QueryRow(ctx, `
		SELECT count(*) > 0, count(*) FILTER (WHERE (attname, format_type(atttypid, NULL)) IN
			(('version', 'integer'), ('name', 'text'), ('checksum', 'text'), ('applied_at', 'timestamp with time zone'))) = 4
		FROM pg_attribute WHERE attrelid = to_regclass('schema_migrations') AND attnum > 0 AND NOT attisdropped
		`).Scan(&there, &ours)
	if err != nil {
		return 0, fmt.Errorf("looking for schema_migrations: %w", err)
	}
	if there && !ours {
		return 0, foreignDatabase("its table schema_migrations has other columns")
	}
	if !there {
		_, err := tx.Exec(ctx, `
			CREATE TABLE schema_migrations (
				version    int PRIMARY KEY,
				name       text NOT NULL,
				checksum   text NOT NULL,
				applied_at timestamptz NOT NULL
			)`)
		if err != nil {
			return 0, fmt.Errorf("making schema_migrations: %w", err)
		}
		return 0, nil
	}
	rows, err := tx.Query(ctx, "SELECT version, name, checksum FROM schema_migrations ORDER BY version")
	if err != nil {
		return 0, fmt.Errorf("reading schema_migrations: %w", err)
	}
	applied, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m migration, err error) {
		err = row.Scan(&m.version, &m.name, &m.checksum)
		return m, err
	})
	if err != nil {
		return 0, fmt.Errorf("reading schema_migrations: %w", err)
	}
	for i, record := range applied {
		if i >= len(migrations) {
			return 0, fmt.Errorf("the database is newer than this program: it has %s, and this program ends at %04d: run "+
				"the newer program",
				record.name, len(migrations))
		}
		if ours := migrations[i]; record.version != ours.version || record.name != ours.name ||
			record.checksum != ours.checksum {
			return 0, fmt.Errorf("the database's history isn't this program's: it has migration %s (%.8s…) where this "+
				"program has %s (%.8s…), and a migration is never edited once it was applied: run the program that made it, "+
				"or name another database in DATABASE_URL",
				record.name, record.checksum, ours.name, ours.checksum)
		}
	}
	return len(applied), nil
}

// foreignDatabase is the error of a database that another program uses.
func foreignDatabase(sign string) error {
	return fmt.Errorf("the database is another program's (%s): give Tachikoma a database of its own, "+
		"with CREATE DATABASE tachikoma and that name in DATABASE_URL", sign)
}

// explainMigration adds to an error what an operator can do about it, where
// that is known.
func explainMigration(ctx context.Context, conn *pgx.Conn, err error) error {
	refusal, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || conn.IsClosed() {
		return err
	}
	var role, database, schema, path, owner string
	var create bool
	askErr := conn.QueryRow(ctx, `
		SELECT quote_ident(current_user), quote_ident(current_database()), coalesce(quote_ident(current_schema()), ''),
		       current_setting('search_path'), coalesce(has_schema_privilege(current_schema(), 'CREATE'), false),
		       coalesce((SELECT quote_ident(pg_get_userbyid(relowner))
		                 FROM pg_class WHERE oid = to_regclass('schema_migrations')), '')
		`).Scan(&role, &database, &schema, &path, &create, &owner)
	if askErr != nil {
		return err
	}
	const (
		noCreate = "the role %[1]s may not create tables in schema %[2]s: run GRANT CREATE ON SCHEMA %[2]s TO %[1]s, " +
			"or ALTER DATABASE %[3]s OWNER TO %[1]s (%[4]w)"
		notOwner = "the tables belong to the role %[2]s, so the role %[1]s may not change them: connect as %[2]s, " +
			"or run REASSIGN OWNED BY %[2]s TO %[1]s (%[3]w)"
		noSchema = "the search_path (%[1]s) names no schema that the role %[2]s may use: run CREATE SCHEMA … " +
			"AUTHORIZATION %[2]s, " +
			"or GRANT USAGE, CREATE ON SCHEMA … TO %[2]s, or ALTER ROLE %[2]s IN DATABASE %[3]s SET search_path = … (%[4]w)"
	)
	switch code := refusal.Code; {
	case code == "42501" && !create: // insufficient_privilege
		return fmt.Errorf(noCreate, role, schema, database, err)
	case code == "42501" && owner != "" && owner != role:
		return fmt.Errorf(notOwner, role, owner, err)
	case code == "3F000": // invalid_schema_name
		return fmt.Errorf(noSchema, path, role, database, err)
	case owner == "" && (code == "42P07" || code == "42710" || code == "42723"): // duplicate_table, _object, _function
		return foreignDatabase(refusal.Message)
	}
	return err
}

// at is the file of an error, and its line if the database reported one.
func (m *migration) at(err error) string {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || e.Position < 1 {
		return m.name
	}
	runes := []rune(m.sql)
	before := string(runes[:min(int(e.Position)-1, len(runes))])
	return m.name + ":" + strconv.Itoa(strings.Count(before, "\n")+1)
}
