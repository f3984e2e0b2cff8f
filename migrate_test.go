package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/argon2id"
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

// queryText runs a query that returns one text.
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

// wantError fails the test unless err contains all of the words.
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
		{"an edited file", []string{"0001_a.sql", "CREATE TABLE a (x int);", "0002_b.sql",
			"CREATE TABLE b ();"}, []string{"history isn't this program's", "0001_a.sql", "never edited"}},
		{"a renamed file", []string{"0001_a.sql", "CREATE TABLE a ();", "0002_z.sql",
			"CREATE TABLE b ();"}, []string{"0002_b.sql", "0002_z.sql"}},
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

// The error for a database that can't be migrated says how to fix it, in one
// sentence, and that does fix it.
func TestMigrateSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ begin, words, mend string }{
		"no right to make tables": {"REVOKE ALL ON SCHEMA public FROM PUBLIC, app; GRANT USAGE ON SCHEMA public TO app",
			"GRANT CREATE ON SCHEMA public TO app; ALTER DATABASE db OWNER TO app", "GRANT CREATE ON SCHEMA public TO app"},
		"no right to the schema": {"REVOKE ALL ON SCHEMA public FROM PUBLIC, app",
			"search_path; public; GRANT USAGE, CREATE ON SCHEMA … TO app", "GRANT USAGE, CREATE ON SCHEMA public TO app"},
		"a path to nowhere": {"ALTER DATABASE db SET search_path = 'nowhere'; CREATE SCHEMA theirs AUTHORIZATION app",
			"search_path (nowhere); ALTER ROLE app IN DATABASE db SET search_path",
			"ALTER ROLE app IN DATABASE db SET search_path = 'theirs'"},
		"another's tables": {"CREATE TABLE schema_migrations (version int, name text, checksum text, applied_at timestamptz)",
			"belong to the role; the role app may not; connect as; REASSIGN OWNED",
			"ALTER TABLE schema_migrations OWNER TO app"},
		"no way in": {"REVOKE CONNECT ON DATABASE db FROM PUBLIC",
			"GRANT CONNECT ON DATABASE db TO app", "GRANT CONNECT ON DATABASE db TO app"},
		"read only": {"ALTER DATABASE db SET default_transaction_read_only = on",
			"read-only; primary; RESET default_transaction_read_only", "ALTER DATABASE db RESET default_transaction_read_only"},
		"Rails's history": {"CREATE TABLE schema_migrations (version varchar PRIMARY KEY)",
			"another program's; schema_migrations; CREATE DATABASE; DATABASE_URL", "DROP TABLE schema_migrations"},
		"golang-migrate's history": {"CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean)",
			"another program's; schema_migrations; CREATE DATABASE; DATABASE_URL", "DROP TABLE schema_migrations"},
		"another history, of other types": {
			"CREATE TABLE schema_migrations (version text, name text, checksum bytea, applied_at date)",
			"another program's; schema_migrations; CREATE DATABASE; DATABASE_URL", "DROP TABLE schema_migrations"},
		"another's table users": {"CREATE TABLE users (id int)",
			"another program's; users; CREATE DATABASE; DATABASE_URL", "DROP TABLE users"},
		"another's index": {"CREATE TABLE theirs (id int); CREATE INDEX sessions_user ON theirs (id)",
			"another program's; sessions_user; CREATE DATABASE; DATABASE_URL", "DROP TABLE theirs"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := newDatabaseOfRole(t)
			database.exec(test.begin)
			_, err := migrate(t.Context(), database.url, slog.New(slog.DiscardHandler))
			err = advise(err)
			for words := range strings.SplitSeq(test.words, "; ") {
				wantError(t, err, database.named(words))
			}
			if strings.Contains(fmt.Sprint(err), "\n") {
				t.Errorf("it is more than a line: %v", err)
			}
			database.exec(test.mend)
			if _, err := migrate(t.Context(), database.url, slog.New(slog.DiscardHandler)); err != nil {
				t.Errorf("after %s: %v", database.named(test.mend), err)
			}
		})
	}
}

// roleDatabase is an empty database, and a role that may log in and owns nothing.
type roleDatabase struct {
	t        *testing.T
	owner    *pgx.Conn
	role, db string
	url      string // as the role
}

func newDatabaseOfRole(t *testing.T) *roleDatabase {
	t.Helper()
	ownerURL := newEmptyDatabase(t, "TEMPLATE template0 ENCODING 'UTF8'")
	owner, err := pgx.Connect(t.Context(), ownerURL)
	if err != nil {
		t.Fatal(err)
	}
	d := &roleDatabase{t: t, owner: owner, db: owner.Config().Database, role: owner.Config().Database + "_app"}
	d.exec("CREATE ROLE app LOGIN PASSWORD 'secret'; GRANT CREATE ON SCHEMA public TO app")
	t.Cleanup(func() {
		defer owner.Close(context.Background())
		drop := d.named("REASSIGN OWNED BY app TO current_user; DROP OWNED BY app; DROP ROLE app")
		if _, err := owner.PgConn().Exec(context.Background(), drop).ReadAll(); err != nil {
			t.Error(err)
		}
	})
	d.url = withUser(t, ownerURL, d.role, "secret")
	return d
}

// named replaces the words app and db by the names of the role and the database.
func (d *roleDatabase) named(sql string) string {
	sql = regexp.MustCompile(`\bapp\b`).ReplaceAllString(sql, d.role)
	return regexp.MustCompile(`\bdb\b`).ReplaceAllString(sql, d.db)
}

// exec runs statements as the cluster's owner.
func (d *roleDatabase) exec(sql string) {
	d.t.Helper()
	if _, err := d.owner.PgConn().Exec(d.t.Context(), d.named(sql)).ReadAll(); err != nil {
		d.t.Fatalf("%s: %v", d.named(sql), err)
	}
}

// withUser is a connection string with another role.
func withUser(t *testing.T, databaseURL, role, password string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	if query := u.Query(); query.Has("user") {
		query.Set("user", role)
		query.Set("password", password)
		u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	} else {
		u.User = url.UserPassword(role, password)
	}
	return u.String()
}

// TestDatabaseOfTheFirstSchemaComesAlong fills a database as it was before specs
// had their states in a separate table, and checks it through the API.
func TestDatabaseOfTheFirstSchemaComesAlong(t *testing.T) {
	t.Parallel()
	url := newEmptyDatabase(t, "TEMPLATE template0 ENCODING 'UTF8'")
	migrations, err := readMigrations(migrationFiles)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := applyMigrations(t.Context(), url, migrations[:3], slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	fillFirstSchema(t, url)
	s := startTestServer(t, url, nil)
	ada := s.logIn("ada@example.com")

	mission := "/api/v1/missions/" + ada.get("/api/v1/missions").want(http.StatusOK).text("items.0.id")
	if m := ada.get(mission); fmt.Sprint(m.at("stats.completed"), m.at("stats.in_progress"), m.at("stats.planned"),
		m.at("stats.ready"), m.at("stats.criteria_total"), m.at("stats.criteria_done")) != "1 1 4 1 3 2" {
		t.Errorf("the mission is %s", m.body)
	}
	var got []string
	for _, spec := range ada.specs(mission) {
		v := ada.get("/api/v1/specs/" + spec.ID)
		got = append(got, fmt.Sprint(v.at("key"), " ", v.at("status"), " ready ", v.at("ready"), " by ", v.at("claim.agent"),
			", attempt ", v.at("attempts"), ", version ", v.at("version"), ", ", v.at("updated_at"),
			", first ", v.at("criteria.0.done"), ", second ", v.at("criteria.1.done")))
	}
	want := []string{
		"a completed ready false by <nil>, attempt 1, version 4, 2026-01-01T00:00:00Z, first true, second <nil>",
		"b in_progress ready false by bot, attempt 2, version 3, 2026-01-02T00:00:00Z, first true, second false",
		"c planned ready false by <nil>, attempt 0, version 1, 2026-01-03T00:00:00Z, first <nil>, second <nil>",
		"d planned ready false by <nil>, attempt 0, version 1, 2026-01-03T00:00:00Z, first <nil>, second <nil>",
		"e planned ready false by <nil>, attempt 0, version 1, 2026-01-03T00:00:00Z, first <nil>, second <nil>",
		"f planned ready true by <nil>, attempt 0, version 1, 2026-01-03T00:00:00Z, first <nil>, second <nil>",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the specs are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if cycles := ada.get(mission + "/graph").at("cycles"); fmt.Sprint(cycles) != "[[d e]]" {
		t.Errorf("the cycles are %v", cycles)
	}
	if why := ada.get(ada.specByKey(mission, "d") + "/explain"); why.text("reasons.1.code") != "dependency_cycle" {
		t.Errorf("d waits for %s", why.body)
	}
	if events := ada.get(mission + "/events"); events.number("last_seq") != 2 ||
		events.text("items.1.type") != "spec.claimed" {
		t.Errorf("the events are %s", events.body)
	}
	if report := ada.importFiles(mission, "f.md", "# F\n"); report.Unchanged != 1 {
		t.Errorf("importing f again gives %+v", report)
	}
	if out := ada.tool("claim_spec", fields{"mission_id": idOf(mission), "agent": "bot"}); out["held"] != nil {
		t.Errorf("the holder of an old lease can't go on: %v", out)
	}
	held := ada.specByKey(mission, "b")
	ada.post(held+"/complete", fields{"lease_token": "lt_kept", "override": "enough"}).want(http.StatusOK)
	if spec, _ := ada.claim(mission, "bot"); spec != ada.specByKey(mission, "c") {
		t.Errorf("claimed %s", spec)
	}
}

func TestDatabaseFromBeforeDecisionsComesAlong(t *testing.T) {
	t.Parallel()
	url := newEmptyDatabase(t, "TEMPLATE template0 ENCODING 'UTF8'")
	migrations, err := readMigrations(migrationFiles)
	if err != nil {
		t.Fatal(err)
	}
	migrateTo := func(version int) {
		if _, err := applyMigrations(t.Context(), url, migrations[:version], slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	migrateTo(3)
	fillFirstSchema(t, url)
	migrateTo(13)
	ended := queryText(t, url, `INSERT INTO attempts (spec_id, number, agent, user_id, started_at, ended_at, outcome, notes)
		SELECT s.id, 1, 'bot', m.owner_id, now(), now(), 'completed', 'done' FROM specs s JOIN missions m ON m.id = s.mission_id
		WHERE s.key = 'a' RETURNING spec_id::text`)
	ada := startTestServer(t, url, nil).logIn("ada@example.com")
	spec := "/api/v1/specs/" + ended
	if v := ada.get(spec).want(http.StatusOK); v.at("decision") != nil {
		t.Errorf("the spec is %s", v.body)
	}
	if a := ada.get(spec + "/attempts").want(http.StatusOK); a.text("items.0.notes") != "done" || a.text("items.0.override") != "" {
		t.Errorf("the attempts are %s", a.body)
	}
	v := ada.post(spec+"/status", fields{"status": "in_progress", "notes": "It is red."}).want(http.StatusOK)
	if v.text("decision.notes") != "It is red." || v.text("decision.from") != "completed" {
		t.Errorf("reopened: %s", v.body)
	}
}

// fillFirstSchema makes a mission with a spec a that is completed, b that is
// half done and held, c that waits for b, d and e that wait for each other, and f
// that was imported and is ready.
func fillFirstSchema(t *testing.T, url string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	hash, err := argon2id.New(cheapArgon2).Hash(t.Context(), testPassword)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), strings.ReplaceAll(firstSchemaSQL, ":hash", hash)); err != nil {
		t.Fatal(err)
	}
}

const firstSchemaSQL = `
	CREATE FUNCTION pg_temp.id(short text) RETURNS uuid LANGUAGE sql AS $$
		SELECT ('00000000-0000-7000-8000-00000000000' || short)::uuid $$;
	INSERT INTO users (id, email, name, role, password_hash)
	VALUES (pg_temp.id('1'), 'ada@example.com', 'Ada', 'user', ':hash');
	INSERT INTO missions (id, owner_id, name, description, status, tags, metadata)
	VALUES (pg_temp.id('2'), pg_temp.id('1'), 'Old', '', 'active', '{}', '{}');
	INSERT INTO specs (id, mission_id, key, number, title, phase, status, priority, tags, estimated_context, body,
		derived_status, done, criteria_total, criteria_done, unmet, attempts, version, updated_at, path, source_hash, refs)
	SELECT pg_temp.id(key), pg_temp.id('2'), key, '', upper(key), '', status, 5, '{}', '', body,
		'planned', done, cardinality(done), cardinality(array_positions(done, true)), unmet, attempts, version, at,
		path, sha256(body::bytea), CASE WHEN path IS NOT NULL THEN '{}'::text[] END
	FROM (VALUES
		('a', 'completed', E'## Acceptance Criteria\n\n- [ ] one\n', '{t}'::boolean[], 0, 1, 4, '2026-01-01Z'::timestamptz, NULL),
		('b', 'in_progress', E'## Acceptance Criteria\n\n- [ ] one\n- [ ] two\n', '{t,f}', 0, 2, 3, '2026-01-02Z', NULL),
		('c', 'planned', 'C', '{}', 1, 0, 1, '2026-01-03Z', NULL),
		('d', 'planned', 'D', '{}', 1, 0, 1, '2026-01-03Z', NULL),
		('e', 'planned', 'E', '{}', 1, 0, 1, '2026-01-03Z', NULL),
		('f', 'planned', E'# F\n', '{}', 0, 0, 1, '2026-01-03Z', 'f.md')
	) AS old (key, status, body, done, unmet, attempts, version, at, path);
	INSERT INTO dependencies (spec_id, depends_on)
	SELECT pg_temp.id(left(edge, 1)), pg_temp.id(right(edge, 1)) FROM unnest('{ba,cb,de,ed}'::text[]) AS edge;
	INSERT INTO leases (spec_id, mission_id, user_id, agent, token, attempt, expires_at)
	VALUES (pg_temp.id('b'), pg_temp.id('2'), pg_temp.id('1'), 'bot', 'lt_kept', 2, now() + interval '1 hour');
	INSERT INTO events (stream, seq, type, mission_id, at, data)
	SELECT pg_temp.id('2'), n, (ARRAY['spec.created', 'spec.claimed'])[n], pg_temp.id('2'), now(), '{}'
	FROM generate_series(1, 2) AS n;
	INSERT INTO heads (stream, seq, planned, in_progress, completed, unblocked, criteria_total, criteria_done)
	VALUES (pg_temp.id('2'), 2, 4, 1, 1, 1, 3, 2)`

// setDefaults gives all new sessions of a database settings that may have been
// chosen for another program.
func setDefaults(t *testing.T, databaseURL string, settings ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, setting := range settings {
		if _, err := conn.Exec(t.Context(), "ALTER DATABASE "+conn.Config().Database+" SET "+setting); err != nil {
			t.Fatal(err)
		}
	}
}

// To start a process takes longer than what the server asks for.
func TestQueriesAreDoneByOneProcess(t *testing.T) {
	t.Parallel()
	databaseURL := newTestDatabase(t)
	setDefaults(t, databaseURL, "parallel_setup_cost = 0", "parallel_tuple_cost = 0", "min_parallel_table_scan_size = 0",
		"max_parallel_workers_per_gather = 2")
	s := startTestServer(t, databaseURL, nil)
	rows, err := s.db.Query(t.Context(), "EXPLAIN SELECT count(*) FROM specs")
	if err != nil {
		t.Fatal(err)
	}
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(plan, "\n"); strings.Contains(text, "Gather") {
		t.Errorf("the plan of a count is\n%s", text)
	}
}

func TestDefaultsOfTheDatabaseDontMatter(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			databaseURL := newEmptyDatabase(t, "TEMPLATE template0 ENCODING 'UTF8'")
			setDefaults(t, databaseURL, "default_transaction_isolation = 'serializable'", "DateStyle = 'SQL, DMY'",
				"IntervalStyle = 'iso_8601'", "TimeZone = 'Asia/Kolkata'", "bytea_output = 'escape'", "array_nulls = off",
				"standard_conforming_strings = off", "extra_float_digits = -15", "client_encoding = 'LATIN1'",
				"statement_timeout = '20ms'", "lock_timeout = '1ms'", "idle_in_transaction_session_timeout = '1ms'",
				"idle_session_timeout = '300ms'", "exit_on_error = on")
			databaseURL = withParameter(t, databaseURL, "default_query_exec_mode", mode)
			if _, err := migrate(t.Context(), databaseURL, slog.New(slog.DiscardHandler)); err != nil {
				t.Fatal(err)
			}
			ada := startTestServer(t, databaseURL, nil).signUp("ada", "user")
			mission := ada.newMission("Grüße \\ 'und' Küsse")
			if name := ada.get(mission).text("name"); name != "Grüße \\ 'und' Küsse" {
				t.Errorf("the name is %q", name)
			}
			ada.importFiles(mission, "a.md", "# A\n\n- [ ] it works\n", "b.md", "# B\n")
			ada.post(mission+"/start", nil).want(http.StatusOK)
			agents := sync.WaitGroup{}
			for i := range 8 {
				agents.Go(func() {
					entries := map[string]any{"entries": []map[string]any{{"level": "info", "message": "x"}}}
					for range 5 {
						a, err := ada.try(t.Context(), "POST", mission+"/logs", entries)
						if err != nil || a.status != http.StatusCreated {
							t.Errorf("a log entry: %v %+v", err, a)
						}
					}
					a, err := ada.try(t.Context(), "POST", mission+"/claim", map[string]any{"agent": fmt.Sprint("bot ", i)})
					if err != nil || a.status != http.StatusOK && a.status != http.StatusNoContent {
						t.Errorf("a claim: %v %+v", err, a)
					}
				})
			}
			agents.Wait()
			if m := ada.get(mission); m.number("stats.in_progress") != 2 {
				t.Errorf("of 8 agents and 2 specs: %s", m.body)
			}
			ada.withKey("read").get(mission + "/events?limit=200").want(http.StatusOK)
		})
	}
}
