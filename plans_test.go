package main

// A check of the plans of all statements that the servers of this run have sent,
// which TestMain makes at the end: each has to look up its rows in an index, so
// that none gets slower as tables grow.

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// smallTables are those that stay small however much the others grow.
var smallTables = []string{"secrets", "totals", "schema_migrations"}

// readsAll are the statements that may read all of a table or an index: a part of
// their text, and why they may.
var readsAll = []struct {
	text, reason string
	page         bool // they have to be in the order of the index, and to stop after a page
}{
	{"INSERT INTO totals", "counts everything, every 15 seconds, so that no request has to", false},
	{"FROM (SELECT stream, proposed FROM heads", "reads the indexes of what is proposed, once at the start", false},
	{"SELECT NOT EXISTS (SELECT FROM users)", "stops at the first row", false},
	{"SELECT count(*) <= 3000 FROM (SELECT h.spec_id", "counts up to a limit", true},
	{"WITH few AS MATERIALIZED (SELECT h.spec_id AS id FROM spec_states h WHERE " + unblockedSQL + ")",
		"reads the index of what is ready, which was counted to be little", false},
	{"WITH page AS MATERIALIZED (SELECT m.id FROM ", "a page of all missions", true},
	{"FROM (SELECT m.* FROM missions m ", "likewise", true},
	{"FROM leases ORDER BY expires_at LIMIT $3) w", "the first of all leases", true},
	{" FROM specs w ", "a page of all specs", true},
	{" FROM spec_states w ", "likewise", true},
}

// statementLog gathers the different statements that servers send: as a tracer
// of their connections, it leaves out what tests send over these themselves.
// Safe for concurrent use.
type statementLog struct {
	mu   sync.Mutex // guards sent
	sent map[string]struct{}
}

var sentStatements statementLog

func (l *statementLog) note(statements ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, sql := range statements {
		if _, known := l.sent[sql]; known || sentByTest() {
			continue
		}
		if l.sent == nil {
			l.sent = make(map[string]struct{})
		}
		l.sent[sql] = struct{}{}
	}
}

// sentByTest reports whether it is a test, and not the server, that uses pgx.
func sentByTest() bool {
	calls := make([]uintptr, 64)
	frames := runtime.CallersFrames(calls[:runtime.Callers(0, calls)])
	for throughPgx := false; ; {
		frame, more := frames.Next()
		inPgx := strings.HasPrefix(frame.Function, "github.com/jackc/") ||
			strings.HasSuffix(frame.File, "/db.go") ||
			strings.HasSuffix(frame.Function, "txRow.Scan") // or in the pool around it
		if throughPgx && !inPgx || !more {
			return strings.HasSuffix(frame.File, "_test.go")
		}
		throughPgx = throughPgx || inPgx
	}
}

func (l *statementLog) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	l.note(data.SQL)
	return ctx
}

func (l *statementLog) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		l.note(q.SQL)
	}
	return ctx
}

func (*statementLog) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData)     {}
func (*statementLog) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (*statementLog) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// planNode is a node of a plan, as EXPLAIN (FORMAT JSON) has it.
type planNode struct {
	Type      string     `json:"Node Type"`
	Place     string     `json:"Parent Relationship"`
	Relation  string     `json:"Relation Name"`
	Index     string     `json:"Index Name"`
	Condition string     `json:"Index Cond"`
	Plans     []planNode `json:"Plans"`
}

// String names the node.
func (n planNode) String() string {
	return strings.TrimSpace(n.Type + " " + n.Index + " on " + n.Relation)
}

// unbounded returns the nodes of a plan that read all rows of a table that
// grows, or all entries of an index on one. With page, such an index may be
// read if what is above it takes its rows in order and stops after some.
func (n planNode) unbounded(page bool) (found []planNode) {
	return n.readsAll(page, false, "")
}

// readsAll is unbounded below nodes that are a bitmap scan of table or none. limited
// says whether they take the rows of this one in order, once, and stop early.
func (n planNode) readsAll(page, limited bool, table string) (found []planNode) {
	if n.Relation == "" {
		n.Relation = table
	}
	switch n.Type {
	case "Limit":
		limited = true
	case "Sort", "Aggregate", "Hash", "Materialize", "WindowAgg", "Bitmap Heap Scan", "BitmapAnd", "BitmapOr":
		limited = false // it reads all that is below before it gives its first row
	}
	all := n.Type == "Seq Scan" || strings.Contains(n.Type, "Index") && n.Condition == "" && !(page && limited)
	if all && !slices.Contains(smallTables, n.Relation) {
		found = append(found, n)
	}
	for _, below := range n.Plans {
		once := slices.Contains([]string{"Outer", "Member", "Subquery"}, below.Place)
		found = append(found, below.readsAll(page, limited && once, n.Relation)...)
	}
	return found
}

// planChecker explains statements on one connection.
type planChecker struct{ conn *pgx.Conn }

// checkPlans explains what servers have sent in this run, in a database with
// some thousand rows, and returns an error that names each statement that
// reads all rows of a table, with that part of its plan.
func checkPlans() error {
	if len(sentStatements.sent) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	databaseURL, drop, err := testCluster.Clone(ctx)
	if err != nil {
		return fmt.Errorf("making a database to plan in: %w", err)
	}
	var c planChecker
	if c.conn, err = openFilled(ctx, databaseURL); err != nil {
		return errors.Join(err, drop())
	}
	var errs []error
	for _, sql := range slices.Sorted(maps.Keys(sentStatements.sent)) {
		errs = append(errs, c.check(ctx, sql))
	}
	errs = append(errs, c.conn.Close(ctx), drop())
	return errors.Join(errs...)
}

// avoidScans are settings under which a plan reads a whole table or index only
// if it can't look up rows, whatever the parameters and sizes are.
const avoidScans = `SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
	SET enable_material = off; SET plan_cache_mode = force_generic_plan`

// openFilled fills a database and returns a connection on which plans avoid
// what reads whole tables.
func openFilled(ctx context.Context, databaseURL string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return nil, err
	}
	const owner = "11111111-1111-7111-8111-111111111111"
	_, err = conn.Exec(ctx, `INSERT INTO users (id, email, name, role, password_hash)
		VALUES ($1, 'owner@example.com', 'Owner', 'admin', '')`, owner)
	if err == nil {
		err = filling{specs: 1000, beside: 1000}.fill(ctx, databaseURL, owner)
	}
	if err == nil {
		_, err = conn.Exec(ctx, avoidScans)
	}
	return conn, err
}

// check explains a statement and judges its plan.
func (c *planChecker) check(ctx context.Context, sql string) error {
	word, _, _ := strings.Cut(strings.TrimLeft(sql, " \t\n("), " ")
	if !slices.Contains([]string{"SELECT", "WITH", "INSERT", "UPDATE", "DELETE"}, strings.TrimSpace(word)) {
		return nil // it has no plan
	}
	page := false
	for _, may := range readsAll {
		if strings.Contains(sql, may.text) {
			if page = may.page; !page {
				return nil
			}
		}
	}
	// A bitmap has no order. Versions before 15 use one if all existing rows would fit a page.
	if _, err := c.conn.Exec(ctx, "SELECT set_config('enable_bitmapscan', ($1::boolean)::text, false)",
		!page); err != nil {
		return err
	}
	plan, err := c.explain(ctx, sql)
	if err != nil {
		return fmt.Errorf("a statement can't be explained: %w: %s", err, sql)
	}
	if found := plan.unbounded(page); len(found) > 0 {
		return fmt.Errorf("a statement reads all of a table that grows, by %v: %s", found, sql)
	}
	return nil
}

// explain returns the plan that a statement has whatever its parameters are.
func (c *planChecker) explain(ctx context.Context, sql string) (planNode, error) {
	prepared, err := c.conn.Prepare(ctx, "explained", sql)
	if err != nil {
		return planNode{}, err
	}
	parameters := ""
	if n := len(prepared.ParamOIDs); n > 0 {
		parameters = "(NULL" + strings.Repeat(", NULL", n-1) + ")"
	}
	var encoded []byte
	explain := "EXPLAIN (FORMAT JSON) EXECUTE explained" + parameters
	if err := c.conn.QueryRow(ctx, explain, pgx.QueryExecModeSimpleProtocol).Scan(&encoded); err != nil {
		return planNode{}, err
	}
	var explained []struct{ Plan planNode }
	if err := json.Unmarshal(encoded, &explained); err != nil || len(explained) != 1 {
		return planNode{}, fmt.Errorf("reading a plan: %w: %s", err, encoded)
	}
	return explained[0].Plan, c.conn.Deallocate(ctx, "explained")
}

func TestPlansThatReadAllRowsAreFound(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), newTestDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), avoidScans); err != nil {
		t.Fatal(err)
	}
	c := planChecker{conn: conn}
	for _, test := range []struct {
		sql        string
		page, want bool
	}{
		{`SELECT body FROM specs WHERE title = $1`, false, true},
		{`SELECT name FROM users WHERE email = $1`, false, false},
		{`UPDATE spec_states SET unmet = 0 WHERE unmet > $1`, false, true},
		{`SELECT count(*) FROM users`, false, true},
		{`SELECT id FROM specs ORDER BY place, id`, true, true},
		{`SELECT id FROM specs ORDER BY place, id LIMIT 10`, true, false},
		{`SELECT id FROM specs ORDER BY place, id LIMIT 10`, false, true},
		{`SELECT id FROM specs ORDER BY title LIMIT 10`, true, true},
		{`SELECT s.id FROM specs s, users u WHERE u.name <> s.title ORDER BY s.place, s.id LIMIT 10`, true, true},
		{`SELECT mission_id FROM spec_states WHERE status = 'planned' AND unmet = 0 ORDER BY phase`, true, true},
		{`SELECT value FROM secrets WHERE value = $1`, false, false},
	} {
		plan, err := c.explain(t.Context(), test.sql)
		if err != nil {
			t.Fatal(err)
		}
		if found := plan.unbounded(test.page); (len(found) > 0) != test.want {
			t.Errorf("%s: %v", test.sql, found)
		}
	}
}

//go:embed migrations/testdata/fill.sql
var fillSQL string

// filling is how much there is in a database that migrations/testdata/fill.sql fills.
type filling struct {
	specs  int // in each of its two large missions
	beside int // of everything beside these
}

// fill fills a migrated database for an account, and has PostgreSQL look at it.
func (f filling) fill(ctx context.Context, databaseURL, owner string) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	variables := strings.NewReplacer(
		":'owner'", "'"+owner+"'", ":specs", strconv.Itoa(f.specs), ":beside", strconv.Itoa(f.beside))
	sql := variables.Replace(fillSQL)
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("filling a database: %w", err)
	}
	if _, err := conn.Exec(ctx, "VACUUM ANALYZE"); err != nil {
		return fmt.Errorf("analyzing a database: %w", err)
	}
	return nil
}

// TestListsAgreeWithPlainQueries compares pages of lists, which are found in
// several ways by what there is and who asks, with what plain queries find in a
// database that has enough for all of these.
func TestListsAgreeWithPlainQueries(t *testing.T) {
	t.Parallel()
	s := newGrownServer(t, filling{specs: 3 * walkedRows, beside: fewMissions + 100})
	specs := []listed{
		{"", "true"}, {"ready=true", readySQL}, {"ready=false", "NOT " + readySQL},
		{"status=planned", "h.status = 'planned'"},
		{"status=completed", "h.status = 'completed'"},
		{"status=deferred", "h.status = 'deferred'"}, {"status=blocked", "false"},
		{"tag=all", "'all' = ANY(s.tags)"}, {"tag=tenth", "'tenth' = ANY(s.tags)"}, {"tag=few", "'few' = ANY(s.tags)"},
		{"phase=P1", "s.phase = 'P1'"}, {"phase=Last", "s.phase = 'Last'"}, {"claimed=mine", "l.user_id = $1"},
		{"status=completed&tag=tenth", "h.status = 'completed' AND 'tenth' = ANY(s.tags)"},
		{"status=planned&phase=P1", "h.status = 'planned' AND s.phase = 'P1'"},
	}
	missions := []listed{
		{"", "true"}, {"status=active", "m.status = 'active'"}, {"status=archived", "m.status = 'archived'"},
		{"status=completed&tag=tenth", "m.status = 'completed' AND 'tenth' = ANY(m.tags)"},
		{"tag=all", "'all' = ANY(m.tags)"}, {"tag=tenth", "'tenth' = ANY(m.tags)"}, {"tag=few", "'few' = ANY(m.tags)"},
	}
	keys := map[string]string{"number": "s.place", "priority": "s.priority", "updated_at": "h.updated_at"}
	for _, by := range []string{"admin", "owner", "few"} {
		t.Run(by, func(t *testing.T) {
			c := s.by[by].in(t)
			for _, filter := range specs {
				for sort, key := range keys {
					s.compare(c, "/api/v1/specs", "s.id", sort, key, filter)
					if by == "owner" {
						s.compare(c, "/api/v1/specs", "s.id", sort, key, filter.within(idOf(s.wide)))
						s.compare(c, "/api/v1/specs", "s.id", sort, key, filter.within(idOf(s.chain)))
					}
				}
			}
			for _, filter := range missions {
				for _, sort := range []string{"name", "created_at", "updated_at"} {
					s.compare(c, "/api/v1/missions", "m.id", sort, "m."+sort, filter)
				}
			}
		})
	}
}

// listed is a filter of a list, and the same in SQL.
type listed struct{ query, sql string }

func (f listed) within(mission string) listed {
	return listed{f.query + "&mission_id=" + mission, f.sql + " AND m.id = '" + mission + "'"}
}

// compare fails the test unless the first two pages of a list, sorted up and
// down, have the ids that a plain query finds.
func (s *grownServer) compare(c *client, path, id, sort, column string, filter listed) {
	c.t.Helper()
	from := "missions m"
	if id == "s.id" {
		from = `missions m JOIN specs s ON s.mission_id = m.id JOIN spec_states h ON h.spec_id = s.id
			LEFT JOIN leases l ON l.spec_id = s.id`
	}
	for sign, direction := range map[string]string{"": "ASC", "-": "DESC"} {
		plain := fmt.Sprintf(`SELECT %s::text FROM %s WHERE %s AND %s ORDER BY %s %s, %[1]s %[6]s LIMIT 50`,
			id, from, readableSQL, filter.sql, column, direction)
		rows, err := s.db.Query(c.t.Context(), plain, c.user.ID, c.user.Role == "admin")
		if err != nil {
			c.t.Fatal(err)
		}
		want, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			c.t.Fatal(err)
		}
		query := strings.TrimSuffix(path+"?limit=25&sort="+sign+sort+"&"+filter.query, "&")
		var got []string
		for at, pages := query, 0; at != "" && pages < 2; pages++ {
			a := c.get(at).want(http.StatusOK)
			var page list[struct{ ID string }]
			a.into(&page)
			for _, item := range page.Items {
				got = append(got, item.ID)
			}
			if at = ""; page.NextCursor != nil {
				at = query + "&cursor=" + url.QueryEscape(*page.NextCursor)
			}
		}
		if !slices.Equal(got, want) {
			c.t.Errorf("%s has %d items, want %d: %.200s, want %.200s",
				query, len(got), len(want), fmt.Sprint(got), fmt.Sprint(want))
		}
	}
}
