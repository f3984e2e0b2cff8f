package main

// A check of the plans of all statements that the servers of this run have sent,
// which TestMain makes at the end: each has to look up its rows in an index, so
// that none gets slower as tables grow.

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"regexp"
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
	{"FROM spec_states h WHERE " + unblockedSQL + " LIMIT 1001) few)", "counts up to a limit", true},
	{"WITH few AS MATERIALIZED (SELECT " + stateColumns + " FROM spec_states h WHERE " + unblockedSQL + ")",
		"reads the index of what is ready, which was counted to be little", false},
	{"WITH page AS MATERIALIZED (SELECT m.id FROM (", "a page of all missions", true},
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

// TestListsAndBoardsAgreeWithPlainQueries compares pages of lists, which are found in
// several ways by what there is and who asks, and boards, with what plain queries find
// in a database that has enough for all of these.
func TestListsAndBoardsAgreeWithPlainQueries(t *testing.T) {
	t.Parallel()
	s := newGrownServer(t, filling{specs: 3 * walkedCards, beside: fewMissions + 100})
	specs := []listed{
		{"", "true"}, {"ready=true", readySQL}, {"ready=false", "NOT " + readySQL},
		{"status=planned", "h.status = 'planned'"},
		{"status=completed", "h.status = 'completed'"},
		{"status=deferred", "h.status = 'deferred'"}, {"status=blocked", "h.status = 'blocked'"},
		{"tag=all", "'all' = ANY(s.tags)"}, {"tag=tenth", "'tenth' = ANY(s.tags)"}, {"tag=few", "'few' = ANY(s.tags)"},
		{"phase=P1", "s.phase = 'P1'"}, {"phase=Last", "s.phase = 'Last'"}, {"claimed=mine", "l.user_id = $1"},
		{"status=completed&tag=tenth", "h.status = 'completed' AND 'tenth' = ANY(s.tags)"},
		{"status=planned&phase=P1", "h.status = 'planned' AND s.phase = 'P1'"},
		{"ready=true&phase=P2", readySQL + " AND s.phase = 'P2'"},
		{"ready=true&tag=tenth", readySQL + " AND 'tenth' = ANY(s.tags)"},
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
			if a := c.get("/api/v1/missions?q=mission").want(http.StatusOK); a.at("items.0") == nil {
				t.Errorf("found no mission: %s", a.body)
			}
			for _, filter := range missions {
				for _, sort := range []string{"name", "created_at", "updated_at"} {
					s.compare(c, "/api/v1/missions", "m.id", sort, "m."+sort, filter)
				}
			}
		})
	}
	t.Run("boards", s.compareBoards)
	t.Run("pages that aren't full", s.comparePagesThatArentFull)
	t.Run("pages for people", s.comparePagesForPeople)
}

// lateSpecs is how many specs of a mission come before those that compareBoards tags as
// late: more than fewRows, none of them among the first walkedRows or walkedCards.
const lateSpecs = 2 * walkedCards

// comparePagesThatArentFull goes through a list whose first match comes after several
// times the specs that a page is sought among.
func (s *grownServer) comparePagesThatArentFull(t *testing.T) {
	c := s.by["owner"].in(t)
	query := "/api/v1/specs?mission_id=" + idOf(s.wide) + "&tag=late" // see compareBoards
	var found []int
	for at := query; len(found) < lateSpecs/walkedRows+2; {
		var page list[struct{ Number string }]
		c.get(at).want(http.StatusOK).into(&page)
		if found = append(found, len(page.Items)); page.NextCursor == nil {
			break
		}
		at = query + "&cursor=" + url.QueryEscape(*page.NextCursor)
	}
	if want := append(make([]int, lateSpecs/walkedRows), 50, 50); !slices.Equal(found, want) {
		t.Errorf("the first pages have %v specs, want %v", found, want)
	}
	other := s.by["some"].in(t).get(query).want(http.StatusOK)
	if other.at("items.0") != nil || other.at("next_cursor") != nil {
		t.Errorf("somebody who may not see a mission gets %s", other.body)
	}
}

// comparePagesForPeople looks for what comes after all that a list for programs reads
// for a page.
func (s *grownServer) comparePagesForPeople(t *testing.T) {
	b := s.browse(s.by["owner"])
	for _, column := range []string{"waiting", "done"} {
		_, cards := b.get("/missions/" + idOf(s.wide) + "?tag=late&column=" + column).want(http.StatusOK).columnOf(column)
		if n := len(strings.Fields(cards)); n != columnCards {
			t.Errorf("a page of the column %s has %d cards", column, n)
		}
	}
	// The last ones by number have waited longest.
	s.runSQL(fmt.Sprintf(`
		UPDATE spec_states h SET status = 'blocked', updated_at = clock_timestamp() - s.n * interval '1 ms'
		FROM (SELECT id, row_number() OVER (ORDER BY place) AS n FROM specs
			WHERE mission_id = '%s' AND 'late' = ANY(tags) ORDER BY place LIMIT %d) AS s
		WHERE h.spec_id = s.id`, idOf(s.wide), 2*fewRows))
	s.runSQL(`UPDATE missions SET status = 'cancelled' WHERE name IN ('Mission 14', 'Mission 18')`)
	for by, who := range s.by {
		want := s.value(fmt.Sprintf(`
			SELECT string_agg(spec_id::text, ' ') FROM (
				SELECT spec_id FROM spec_states h JOIN missions m ON m.id = mission_id
				WHERE h.status = ANY('{proposed,in_review,blocked}') AND m.status NOT IN ('cancelled', 'archived')
				  AND ('%[1]s' = 'admin' OR owner_id = '%[2]s' OR EXISTS (
					SELECT FROM members WHERE mission_id = m.id AND user_id = '%[2]s' AND role = 'editor'))
				ORDER BY h.updated_at, spec_id LIMIT 50) AS longest`, by, who.user.ID))
		page := s.browse(who).get("/needs-you").want(http.StatusOK).body
		var got []string
		boxes := regexp.MustCompile(`<li id="n-(\S+)" class="box (?:blocked|in_review)"`)
		for _, box := range boxes.FindAllSubmatch(page, -1) {
			got = append(got, string(box[1]))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s sees %d specs: %.100q, want %.100s", by, len(got), got, want)
		}
	}
	late := listed{"", "'late' = ANY(s.tags) AND m.id = '" + idOf(s.wide) + "'"}
	for query, filter := range map[string]listed{"tag=late&": late, "": {"", "m.id = '" + idOf(s.wide) + "'"}} {
		for _, kind := range boardColumns {
			if kind.ready == nil {
				page := b.get("/missions/" + idOf(s.wide) + "?" + query + "column=" + kind.ID).want(http.StatusOK)
				if _, got := page.columnOf(kind.ID); got != s.cards(t, kind, filter) {
					t.Errorf("%scolumn=%s has %.100s, want %.100s", query, kind.ID, got, s.cards(t, kind, filter))
				}
			}
		}
	}
	// One status of a column has its first card after walkedCards, another enough before.
	s.runSQL(fmt.Sprintf(`
		UPDATE spec_states h SET status = CASE WHEN number::int > %d THEN 'in_review' ELSE 'blocked' END
		FROM specs s WHERE s.id = h.spec_id AND s.mission_id = '%s'`, lateSpecs+1, idOf(s.wide)))
	if _, err := s.db.Exec(t.Context(), recountSQL, idOf(s.wide)); err != nil {
		t.Fatal(err)
	}
	_, got := b.get("/missions/" + idOf(s.wide) + "?tag=late").want(http.StatusOK).columnOf("needs-you")
	if want := s.cards(t, boardColumns[0], late); got != want {
		t.Errorf("a column of several statuses has %.100s, want %.100s", got, want)
	}
}

// compareBoards compares the columns of boards, which are read in several ways by how
// much their filter leaves, with what plain queries find.
func (s *grownServer) compareBoards(t *testing.T) {
	filters := []listed{
		{"", "true"}, {"status=planned", "h.status = 'planned'"}, {"hide=planned", "h.status <> 'planned'"},
		{"tag=all", "'all' = ANY(s.tags)"}, {"tag=tenth", "'tenth' = ANY(s.tags)"}, {"tag=few", "'few' = ANY(s.tags)"},
		{"phase=P1", "s.phase = 'P1'"}, {"phase=Last", "s.phase = 'Last'"},
		{"tag=tenth&phase=P1", "'tenth' = ANY(s.tags) AND s.phase = 'P1'"},
		{"hide=completed&tag=tenth", "h.status <> 'completed' AND 'tenth' = ANY(s.tags)"},
		{"tag=late", "'late' = ANY(s.tags)"},
	}
	s.runSQL(fmt.Sprintf("UPDATE specs SET tags = tags || '{late}' WHERE number::int > %d", lateSpecs),
		"UPDATE spec_states h SET tags = s.tags FROM specs s WHERE s.id = h.spec_id AND 'late' = ANY(s.tags)")
	b := s.browse(s.by["owner"])
	compare := func(mission, status string) {
		for _, filter := range filters {
			filter.sql += " AND m.id = '" + idOf(mission) + "'"
			a := b.get("/missions/" + idOf(mission) + "?" + filter.query).want(http.StatusOK)
			for _, kind := range boardColumns {
				_, got := a.columnOf(kind.ID)
				if want := s.cards(t, kind, filter); got != want {
					t.Errorf("%s: %s has in %s %.100s, want %.100s", status, filter.query, kind.ID, got, want)
				}
			}
		}
	}
	compare(s.wide, "active")
	compare(s.chain, "active")
	s.by["owner"].post(s.wide+"/pause", nil).want(http.StatusOK)
	compare(s.wide, "paused") // nothing is ready then
}

// cards are the keys of the first cards of a column, by a plain query.
func (s *grownServer) cards(t *testing.T, kind columnKind, filter listed) string {
	t.Helper()
	order := "s.place, s.id"
	having := "h.status = ANY($3)"
	if kind.ready != nil {
		having += fmt.Sprintf(" AND %s = %t", readySQL, *kind.ready)
		if kind.isReady() {
			order = "h.priority DESC, h.ahead DESC, " + order
		}
	}
	if kind.sort == "-updated_at" {
		order = "h.updated_at DESC, " + order
	}
	rows, err := s.db.Query(t.Context(), `SELECT s.key FROM missions m JOIN specs s ON s.mission_id = m.id
		JOIN spec_states h ON h.spec_id = s.id WHERE `+readableSQL+` AND `+having+` AND `+filter.sql+`
		ORDER BY `+order+` LIMIT $4`, s.by["owner"].user.ID, false, kind.statuses, columnCards)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(keys, " ")
}

// listed is a filter of a list, and the same in SQL.
type listed struct{ query, sql string }

func (f listed) within(mission string) listed {
	return listed{f.query + "&mission_id=" + mission, f.sql + " AND m.id = '" + mission + "'"}
}

// compare fails the test unless the first pages of a list, sorted up and down, have
// the ids that a plain query finds: two of them, or more that aren't full.
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
		for at, pages := query, 0; at != "" && len(got) < len(want) && pages < 50; pages++ {
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
		got = got[:min(len(got), 50)]
		if !slices.Equal(got, want) {
			c.t.Errorf("%s has %d items, want %d: %.200s, want %.200s",
				query, len(got), len(want), fmt.Sprint(got), fmt.Sprint(want))
		}
	}
}

// mayGrow are the cases that may take longer beside more, up to so many ms, and why.
var mayGrow = []struct {
	name   string
	most   float64
	reason string
}{
	{`specs\?.*(&phase=P1|status=completed&tag=tenth|status=planned few|status=blocked)`, 30,
		"walks 1,000 specs, where the small mission has 50 to 500 to sort"},
	{`claim .*"tags":\["tenth"\]`, 50, "sorts all that is ready and has the tag, since its priority is the lowest"},
	{`missions/{wide}\?(column=ready&)?tag=tenth owner, a page`, 150, "likewise, to fill a page for people"},
	{`missions/{.*}\?(phase=P1|hide=completed) owner, a page`, 120,
		"looks at 4,000 specs of a column, or at all of it, where the small mission has 50 to 500"},
	{`sweep: the totals`, 1500, "counts everything, every 15 seconds, so that no request has to"},
}

// BenchmarkGrowth shows how much slower requests get as missions and servers grow:
// it makes the same ones of two servers, one with little and one with much in its
// database, for each route, page and tool but what moves or deletes whole missions and
// those that unserved names, as one client. With TACHIKOMA_LONG=1 it has 100,000 specs in a mission, beside
// 200,000 others, which takes some six minutes, and fails if a case's median has grown
// to over 1.3 times, and by 2 ms, in three measurements, unless it mayGrow. GROWTH is a
// regular expression for the names of what to measure.
func BenchmarkGrowth(b *testing.B) {
	sizes, rounds, judges := []filling{{1000, 1000}, {10_000, 10_000}}, 3, false
	if os.Getenv("TACHIKOMA_LONG") == "1" {
		sizes, rounds, judges = []filling{{1000, 1000}, {100_000, 200_000}}, 5, true
	}
	only, err := regexp.Compile(os.Getenv("GROWTH"))
	if err != nil {
		b.Fatal(err)
	}
	small, big := newGrownServer(b, sizes[0]), newGrownServer(b, sizes[1])
	// Not to the benchmark's log, of which go test shows only the first lines.
	fmt.Printf("%-90s %9s %9s %6s\n", fmt.Sprintf("ms with %d and %d specs in a mission, %d and %d beside",
		sizes[0].specs, sizes[1].specs, sizes[0].beside, sizes[1].beside), "small", "big", "ratio")
	for _, c := range growthCases() {
		if !only.MatchString(c.name) {
			continue
		}
		var before, after float64
		grows := true
		for times := 1; grows && times <= 4; times *= 2 { // again, since something else may have taken the time
			before, after = c.measure(b, small, big, times*rounds)
			grows = after > 1.3*before && after > before+2
		}
		if after == 0 {
			continue
		}
		mark := ""
		if grows {
			mark = c.mayGrow(after)
			if mark == "" && judges {
				b.Errorf("%s grows from %.1f to %.1f ms", c.name, before, after)
			}
			mark = strings.TrimSuffix(" grows: "+mark, ": ")
		}
		fmt.Printf("%-90s %9.1f %9.1f %6.2f%s\n", c.name, before, after, after/before, mark)
	}
	if missing := big.unserved(); only.String() == "" && len(missing) > 0 {
		b.Errorf("no case asks for %q", missing)
	}
}

// measure returns the medians, in ms, of a case in so many rounds on two servers, or
// zeros if there is nothing to measure.
func (c growthCase) measure(b *testing.B, small, big *grownServer, rounds int) (before, after float64) {
	times := make(map[*grownServer][]float64)
	for n := range rounds + 1 {
		for _, s := range []*grownServer{small, big} {
			measured := c.prepare(s, n)
			if measured == nil {
				return 0, 0
			}
			began := time.Now()
			err := measured()
			took := float64(time.Since(began).Microseconds()) / 1000
			if err != nil {
				b.Errorf("%s with %d specs: %v", c.name, s.size.specs, err)
			}
			if n > 0 { // after the first, which fills caches
				times[s] = append(times[s], took)
			}
		}
	}
	return median(times[small]), median(times[big])
}

// mayGrow returns why the case may grow to so many ms, or "".
func (c growthCase) mayGrow(after float64) string {
	for _, may := range mayGrow {
		if after <= may.most && regexp.MustCompile(may.name).MatchString(c.name) {
			return may.reason
		}
	}
	return ""
}

func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

// grownServer is a server with a filled database, and accounts that see
// all, own all, are editors of some or few of its missions, or look on at most.
type grownServer struct {
	*testServer
	size        filling
	by          map[string]*client // admin, owner, some, few
	wide, chain string             // paths of the large missions
	agent       *client            // the owner's, with an API key
	people      map[string]*browser
}

func newGrownServer(b testing.TB, size filling) *grownServer {
	database := newTestDatabase(b)
	s := &grownServer{size: size, by: make(map[string]*client), people: make(map[string]*browser)}
	s.testServer = startTestServer(b, database, func(c *Config) {
		c.AccessTokenTTL = 24 * time.Hour
		c.LeaseDefault, c.Registration = time.Hour, "open"
	})
	for _, name := range []string{"admin", "owner", "some", "few", "onlooker"} {
		role := "user"
		if name == "admin" {
			role = name
		}
		s.by[name] = s.signUp(name, role)
		s.people[name] = s.browse(s.by[name])
		s.people[name].hasty = true
	}
	s.agent = s.by["owner"].withKey("write")
	if err := size.fill(b.Context(), database, s.by["owner"].user.ID); err != nil {
		b.Fatal(err)
	}
	s.wide = "/api/v1/missions/" + s.value(`SELECT id::text FROM missions WHERE name = 'Wide'`)
	s.chain = "/api/v1/missions/" + s.value(`SELECT id::text FROM missions WHERE name = 'Chain'`)
	for name, joins := range map[string]struct{ edits, sees int }{
		"some": {200, 0}, "few": {5, 0}, "onlooker": {50, 10_000},
	} {
		s.value(`WITH joined AS (INSERT INTO members (mission_id, user_id, email, role)
			SELECT id, $1, $2, CASE WHEN row_number() OVER (ORDER BY md5(name)) <= $3 THEN 'editor' ELSE 'viewer' END
			FROM missions WHERE name LIKE 'Mission %' ORDER BY md5(name) LIMIT $3 + $4 RETURNING 1)
			SELECT count(*)::text FROM joined`,
			s.by[name].user.ID, s.by[name].user.Email, joins.edits, joins.sees)
	}
	s.by["owner"].put(s.wide+"/members", fields{"email": s.by["few"].user.Email, "role": "editor"}).want(http.StatusOK)
	return s
}

// value returns the one text that a query returns.
func (s *grownServer) value(sql string, args ...any) (text string) {
	s.t.Helper()
	if err := s.db.QueryRow(s.t.Context(), sql, args...).Scan(&text); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// spec is the path of a spec of a mission, another one for each n.
func (s *grownServer) spec(mission string, n int) string {
	return "/api/v1/specs/" + s.value(`SELECT id::text FROM specs WHERE mission_id = $1 AND key = 'k' || $2::int`,
		idOf(mission), 30+n*997%(s.size.specs-30))
}

// claimed is the path of a spec that the agent has just claimed, and the token.
func (s *grownServer) claimed() (spec, token string) { return s.agent.claim(s.wide, "bot") }

// send makes a request that must succeed, and reads the answer to its end.
func (c *client) send(method, path string, body any) func() error {
	encoded := []byte(nil)
	if body != nil {
		var err error
		if encoded, err = json.Marshal(body); err != nil {
			c.t.Fatal(err)
		}
	}
	return func() error {
		r, err := http.NewRequestWithContext(c.t.Context(), method, c.base+path, strings.NewReader(string(encoded)))
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+c.token)
		if body != nil {
			r.Header.Set("Content-Type", "application/json")
		}
		response, err := unredirected.Do(r)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err == nil && (response.StatusCode >= 300 || strings.Contains(string(text), `"isError":true`)) {
			err = fmt.Errorf("%s %s: %d %.300s", method, path, response.StatusCode, text)
		}
		return err
	}
}

// sendTool calls a tool.
func (c *client) sendTool(name string, arguments fields) func() error {
	return c.send("POST", "/mcp", fields{"jsonrpc": "2.0", "id": 1, "method": "tools/call",
		"params": fields{"name": name, "arguments": arguments}})
}

// growthCase is something to measure. prepare isn't, and returns nil if there is
// nothing to measure; n counts the rounds.
type growthCase struct {
	name    string
	prepare func(s *grownServer, n int) (measured func() error)
}

func growthCases() []growthCase {
	return slices.Concat(growthOfReads(), growthOfPages(), growthOfSpecLists(), growthOfMissionLists(),
		growthOfMissionEdits(), growthOfSpecEdits(), growthOfAccounts(), growthOfWork(), growthOfTools(), growthOfSweeps(),
		growthOfSteps())
}

// get is the case of a GET as somebody. In path, {wide} and {chain} are the
// missions, {spec} and {waiting} specs of these.
func get(by, path string) growthCase {
	return growthCase{"GET " + path + " " + by, func(s *grownServer, n int) func() error {
		return s.by[by].send("GET", s.path(path, n), nil)
	}}
}

func (s *grownServer) path(path string, n int) string {
	for name, value := range map[string]func() string{
		"{wide}":    func() string { return idOf(s.wide) },
		"{chain}":   func() string { return idOf(s.chain) },
		"{spec}":    func() string { return idOf(s.spec(s.wide, n)) },
		"{waiting}": func() string { return idOf(s.spec(s.chain, n)) },
		"{question}": func() string {
			return s.value(`SELECT id::text FROM questions WHERE mission_id = $1 ORDER BY id LIMIT 1`, idOf(s.wide))
		},
	} {
		if strings.Contains(path, name) {
			path = strings.ReplaceAll(path, name, value())
		}
	}
	return path
}

// secondPage is the case of the page that follows a GET's.
func secondPage(by, path string) growthCase {
	return growthCase{"GET " + path + " " + by + ", second page", func(s *grownServer, n int) func() error {
		path := s.path(path, n)
		first, err := s.by[by].ask("GET", path, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		cursor, ok := first.at("next_cursor").(string)
		if !ok {
			return nil // there is none
		}
		sign := "?"
		if strings.Contains(path, "?") {
			sign = "&"
		}
		return s.by[by].send("GET", path+sign+"cursor="+url.QueryEscape(cursor), nil)
	}}
}

func growthOfReads() (cases []growthCase) {
	for _, path := range []string{
		"/api/v1/auth/me", "/api/v1/api-keys", "/api/v1/users", "/api/v1/events",
		"/internal/metrics", "/internal/health", "/internal/connections",
		"/api/v1/missions/{wide}", "/api/v1/missions/{wide}/members",
		"/api/v1/missions/{wide}/graph", "/api/v1/missions/{chain}/graph", "/api/v1/missions/{wide}/graph?format=mermaid",
		"/api/v1/missions/{wide}/events", "/api/v1/missions/{wide}/events?after=150",
		"/api/v1/specs/{spec}", "/api/v1/specs/{spec}/explain", "/api/v1/specs/{waiting}", "/api/v1/specs/{waiting}/explain",
		"/api/v1/specs/{spec}/attempts", "/api/v1/questions/{question}",
	} {
		cases = append(cases, get("admin", path))
	}
	for _, filter := range []string{"", "state=answered&", "open=true&"} {
		path := strings.TrimRight("/api/v1/questions?"+filter, "?&")
		for _, by := range []string{"admin", "owner", "some", "few"} {
			cases = append(cases, get(by, path))
		}
		cases = append(cases, secondPage("owner", path), get("owner", "/api/v1/questions?"+filter+"mission_id={wide}"))
	}
	for _, path := range []string{"/api/v1/users", "/api/v1/missions/{wide}/members", "/api/v1/missions/{wide}/graph"} {
		cases = append(cases, secondPage("admin", path))
	}
	return append(cases, get("few", "/api/v1/missions/{wide}"), get("few", "/api/v1/specs/{spec}"))
}

// page is the case of a page for somebody. In path, {key} is that of a spec.
func page(by, path string) growthCase {
	return growthCase{"GET " + path + " " + by + ", a page", func(s *grownServer, n int) func() error {
		path := strings.ReplaceAll(s.path(path, n), "{key}", fmt.Sprint("k", 30+n))
		return func() error {
			if a := s.people[by].get(path); a.status != http.StatusOK {
				return fmt.Errorf("GET %s: %d %.300s", path, a.status, a.body)
			}
			return nil
		}
	}}
}

func growthOfPages() (cases []growthCase) {
	for _, path := range []string{"/", "/?status=archived", "/?q=uncommon", "/needs-you", "/agents", "/keys", "/account"} {
		cases = append(cases, page("owner", path))
	}
	cases = append(cases, page("admin", "/users"))
	for _, by := range []string{"admin", "some", "few", "onlooker"} {
		cases = append(cases, page(by, "/needs-you"))
	}
	for _, mission := range []string{"/missions/{wide}", "/missions/{chain}"} {
		for _, rest := range []string{
			"", "?tag=tenth", "?tag=few", "?phase=P1", "?hide=completed", "?q=seldom", "?column=done", "?column=waiting",
			"?column=ready", "?column=ready&tag=tenth", "?column=needs-you", "?column=needs-you&tag=few", "?column=working",
			"/graph", "/activity", "/settings", "/new", "/specs/{key}",
			"/specs/{key}/edit",
		} {
			cases = append(cases, page("owner", mission+rest))
		}
	}
	return cases
}

func growthOfSpecLists() (cases []growthCase) {
	filters := []string{
		"", "ready=true", "ready=false", "status=planned", "status=completed", "status=deferred", "status=blocked",
		"tag=all", "tag=tenth", "tag=few", "tag=none", "phase=P1", "phase=Last", "phase=none", "claimed=mine",
		"status=completed&tag=tenth", "status=planned&phase=P1",
	}
	paged := []string{"", "tag=tenth", "status=planned", "ready=true", "ready=false"}
	for _, sort := range []string{"number", "-number", "priority", "-priority", "updated_at", "-updated_at"} {
		for _, filter := range filters {
			path := strings.TrimSuffix("/api/v1/specs?sort="+sort+"&"+filter, "&")
			for _, mission := range []string{"{wide}", "{chain}"} {
				cases = append(cases, get("owner", path+"&mission_id="+mission))
			}
			for _, by := range []string{"admin", "owner", "some", "few"} {
				cases = append(cases, get(by, path))
			}
			if slices.Contains(paged, filter) {
				cases = append(cases, secondPage("owner", path+"&mission_id={wide}"))
				for _, by := range []string{"admin", "owner", "some", "few"} {
					cases = append(cases, secondPage(by, path))
				}
			}
		}
	}
	for _, filter := range []string{"q=common", "q=seldom", "q=nowhere", "q=common&status=deferred", "q=common&tag=few"} {
		for _, by := range []string{"admin", "owner", "some", "few"} {
			cases = append(cases, get(by, "/api/v1/specs?"+filter))
		}
		cases = append(cases, get("owner", "/api/v1/specs?"+filter+"&mission_id={wide}"))
	}
	return cases
}

func growthOfMissionLists() (cases []growthCase) {
	filters := []string{"", "status=active", "status=archived", "status=paused",
		"tag=all", "tag=tenth", "tag=few", "tag=none"}
	for _, by := range []string{"admin", "owner", "some", "few"} {
		for _, sort := range []string{"name", "-name", "created_at", "-created_at", "updated_at", "-updated_at"} {
			for _, filter := range filters {
				path := strings.TrimSuffix("/api/v1/missions?sort="+sort+"&"+filter, "&")
				cases = append(cases, get(by, path))
				if filter == "" || filter == "tag=tenth" {
					cases = append(cases, secondPage(by, path))
				}
			}
		}
		for _, text := range []string{"mission", "uncommon", "nowhere", "mission&status=archived"} {
			cases = append(cases, get(by, "/api/v1/missions?q="+text))
		}
	}
	return cases
}

// as is the case of a request of the owner's whose body is another one for each n.
func as(name, method, path string, body func(s *grownServer, n int) any) growthCase {
	return growthCase{method + " " + path + " " + name, func(s *grownServer, n int) func() error {
		return s.by["owner"].send(method, s.path(path, n), body(s, n))
	}}
}

// unique returns a name that nothing has yet.
func unique(n int) string { return fmt.Sprintf("new-%d-%d", n, time.Now().UnixNano()) }

func growthOfMissionEdits() []growthCase {
	return []growthCase{
		as("", "POST", "/api/v1/missions", func(_ *grownServer, n int) any { return fields{"name": unique(n)} }),
		as("", "PATCH", "/api/v1/missions/{wide}", func(_ *grownServer, n int) any {
			return fields{"description": unique(n)}
		}),
		as("", "PUT", "/api/v1/missions/{chain}/members", func(_ *grownServer, n int) any {
			return fields{"email": fmt.Sprintf("user%d@example.com", n+1), "role": "viewer"}
		}),
		{"DELETE /api/v1/missions/{chain}/members/{user}", func(s *grownServer, n int) func() error {
			email := fmt.Sprintf("user%d@example.com", n+1)
			s.by["owner"].put(s.chain+"/members", fields{"email": email, "role": "viewer"}).want(http.StatusOK)
			user := s.value(`SELECT id::text FROM users WHERE email = $1`, email)
			return s.by["owner"].send("DELETE", s.chain+"/members/"+user, nil)
		}},
		{"POST /api/v1/missions/{wide}/pause and resume", func(s *grownServer, n int) func() error {
			pause, resume := s.by["owner"].send("POST", s.wide+"/pause", nil), s.by["owner"].send("POST", s.wide+"/resume", nil)
			return func() error { return cmp.Or(pause(), resume()) }
		}},
		as("", "POST", "/api/v1/missions/{wide}/logs", func(s *grownServer, n int) any {
			return fields{"entries": []fields{{"level": "info", "message": "m", "spec_id": idOf(s.spec(s.wide, n))}}}
		}),
	}
}

func growthOfSpecEdits() []growthCase {
	create := func(name, mission string, with fields) growthCase {
		return as(name, "POST", "/api/v1/missions/"+mission+"/specs", func(_ *grownServer, n int) any {
			with["key"], with["title"] = unique(n), "New"
			return with
		})
	}
	change := func(name string, with func(n int) any) growthCase {
		return as(name, "PATCH", "/api/v1/specs/{spec}", func(_ *grownServer, n int) any { return fields{name: with(n)} })
	}
	return []growthCase{
		create("ready", "{wide}", fields{"priority": 9}),
		create("with dependencies", "{wide}", fields{"dependencies": []string{"k40", "k50", "k60"}}),
		create("with a dependency", "{chain}", fields{"dependencies": []string{"k200"}}),
		change("title", func(n int) any { return unique(n) }),
		change("body", func(n int) any { return unique(n) }),
		change("dependencies", func(n int) any { return []string{"k40", "k50"} }),
		{"PATCH /api/v1/specs/{leaf} to depend on the chain's middle", func(s *grownServer, n int) func() error {
			leaf := s.by["owner"].newSpec(s.chain, unique(n), nil)
			return s.by["owner"].send("PATCH", leaf, fields{"dependencies": []string{fmt.Sprint("k", s.size.specs/2)}})
		}},
		{"PATCH /api/v1/specs/{k2} to depend on a new spec too", func(s *grownServer, n int) func() error {
			key := unique(n)
			s.by["owner"].newSpec(s.chain, key, nil)
			second := s.value(`SELECT id::text FROM specs WHERE mission_id = $1 AND key = 'k2'`, idOf(s.chain))
			return s.by["owner"].send("PATCH", "/api/v1/specs/"+second, fields{"dependencies": []string{"k1", key}})
		}},
		{"DELETE /api/v1/specs/{leaf}", func(s *grownServer, n int) func() error {
			return s.by["owner"].send("DELETE", s.by["owner"].newSpec(s.wide, unique(n), nil), nil)
		}},
		{"POST /api/v1/specs/{spec}/review", func(s *grownServer, n int) func() error {
			spec := s.spec(s.wide, n)
			s.runSQL(`UPDATE spec_states SET status = 'in_review', waits_since = now() WHERE spec_id = '` + idOf(spec) + `'`)
			if _, err := s.db.Exec(s.t.Context(), recountSQL, idOf(s.wide)); err != nil {
				s.t.Fatal(err)
			}
			return s.by["owner"].send("POST", spec+"/review", fields{"verdict": "reject", "notes": "n"})
		}},
		{"POST /api/v1/specs/{spec}/status, seven steps", func(s *grownServer, n int) func() error {
			spec := s.by["owner"].newSpec(s.wide, unique(n), nil)
			steps := []string{"blocked", "planned", "deferred", "planned", "in_progress", "completed", "in_progress"}
			return func() (err error) {
				for _, status := range steps {
					err = cmp.Or(err, s.by["owner"].send("POST", spec+"/status", fields{"status": status})())
				}
				return err
			}
		}},
	}
}

func growthOfAccounts() []growthCase {
	signIn := fields{"email": "few@example.com", "password": testPassword}
	return []growthCase{
		as("", "PATCH", "/api/v1/auth/me", func(*grownServer, int) any { return fields{"name": "Owner"} }),
		as("", "POST", "/api/v1/auth/login", func(*grownServer, int) any { return signIn }),
		as("", "POST", "/api/v1/auth/register", func(_ *grownServer, n int) any {
			return fields{"email": unique(n) + "@example.com", "password": testPassword}
		}),
		{"POST /api/v1/auth/refresh", func(s *grownServer, n int) func() error {
			token := s.anonymous().post("/api/v1/auth/login", signIn).text("refresh_token")
			return s.anonymous().send("POST", "/api/v1/auth/refresh", fields{"refresh_token": token})
		}},
		{"POST /api/v1/auth/logout", func(s *grownServer, n int) func() error {
			return s.signUp(unique(n), "user").send("POST", "/api/v1/auth/logout", nil)
		}},
		{"POST /api/v1/auth/change-password", func(s *grownServer, n int) func() error {
			return s.signUp(unique(n), "user").send("POST", "/api/v1/auth/change-password",
				fields{"current_password": testPassword, "new_password": testPassword + testPassword})
		}},
		as("", "POST", "/api/v1/api-keys", func(_ *grownServer, n int) any {
			return fields{"name": unique(n), "scope": "read"}
		}),
		{"DELETE /api/v1/api-keys/{id}", func(s *grownServer, n int) func() error {
			key := s.by["few"].post("/api/v1/api-keys", fields{"name": "k", "scope": "read"}).text("id")
			return s.by["few"].send("DELETE", "/api/v1/api-keys/"+key, nil)
		}},
		{"POST /api/v1/users", func(s *grownServer, n int) func() error {
			return s.by["admin"].send("POST", "/api/v1/users",
				fields{"email": unique(n) + "@example.com", "password": testPassword, "role": "user"})
		}},
		{"PATCH /api/v1/users/{id}", func(s *grownServer, n int) func() error {
			return s.by["admin"].send("PATCH", "/api/v1/users/"+s.by["some"].user.ID, fields{"name": unique(n)})
		}},
	}
}

// held is the case of an action on a spec that was claimed.
func held(action string, body fields) growthCase {
	return growthCase{"POST /api/v1/specs/{spec}/" + action, func(s *grownServer, n int) func() error {
		spec, token := s.claimed()
		with := fields{"lease_token": token}
		for name, value := range body {
			with[name] = value
		}
		return s.agent.send("POST", spec+"/"+action, with)
	}}
}

func growthOfWork() (cases []growthCase) {
	for _, claim := range []fields{
		{}, {"tags": []string{"all"}}, {"tags": []string{"tenth"}}, {"tags": []string{"few"}}, {"tags": []string{"none"}},
		{"phase": "P3"}, {"phase": "none"}, {"phase": "P3", "tags": []string{"few"}},
	} {
		claim["agent"] = "bot"
		name, _ := json.Marshal(claim)
		cases = append(cases, growthCase{"POST /api/v1/missions/{wide}/claim " + string(name),
			func(s *grownServer, n int) func() error { return s.agent.send("POST", s.wide+"/claim", claim) }})
	}
	return append(cases, held("heartbeat", nil), held("progress", fields{"check": []int{1}, "message": "m"}),
		held("complete", fields{"override": "o"}), held("fail", fields{"reason": "r"}), held("release", nil),
		held("questions", fields{"question": "q"}), held("questions", fields{"question": "q", "park": true}),
		growthCase{"POST /api/v1/questions/{question}/answer", func(s *grownServer, n int) func() error {
			spec, token := s.claimed()
			a := s.agent.post(spec+"/questions", fields{"lease_token": token, "question": "q", "park": true})
			return s.by["owner"].send("POST", a.header.Get("Location")+"/answer", fields{"answer": "a"})
		}})
}

func growthOfTools() (cases []growthCase) {
	for _, call := range []struct {
		name      string
		arguments fields
	}{
		{"list_missions", fields{}}, {"list_missions", fields{"status": "archived"}},
		{"list_missions", fields{"q": "uncommon"}},
		{"next_spec", fields{"mission_id": "{wide}"}}, {"next_spec", fields{"mission_id": "{chain}"}},
		{"claim_spec", fields{"mission_id": "{wide}", "agent": "bot", "another": true}},
		{"show_spec", fields{"spec_id": "{spec}"}}, {"show_spec", fields{"spec_id": "{waiting}"}},
		{"search_specs", fields{"q": "common"}}, {"search_specs", fields{"q": "seldom"}},
		{"search_specs", fields{"q": "common", "mission_id": "{wide}"}},
		{"add_spec", fields{"mission_id": "{wide}", "markdown": "By price.", "title": "New"}},
	} {
		name, _ := json.Marshal(call.arguments)
		cases = append(cases, growthCase{"MCP " + call.name + " " + string(name), func(s *grownServer, n int) func() error {
			arguments := fields{}
			for name, value := range call.arguments {
				if arguments[name] = value; name != "another" {
					arguments[name] = s.path(value.(string), n)
				}
			}
			return s.agent.sendTool(call.name, arguments)
		}})
	}
	for name, arguments := range map[string]fields{
		"report": {"check": []int{1}, "message": "m"}, "complete_spec": {"override": "o"}, "fail_spec": {"reason": "r"},
		"ask": {"question": "q"},
	} {
		cases = append(cases, growthCase{"MCP " + name, func(s *grownServer, n int) func() error {
			spec, token := s.claimed()
			with := fields{"spec_id": idOf(spec), "lease_token": token}
			for name, value := range arguments {
				with[name] = value
			}
			return s.agent.sendTool(name, with)
		}})
	}
	return slices.SortedFunc(slices.Values(cases), func(a, b growthCase) int { return cmp.Compare(a.name, b.name) })
}

func growthOfSweeps() (cases []growthCase) {
	sweep := func(name, prepare string, measured func(s *grownServer, ctx context.Context) error) growthCase {
		return growthCase{name, func(s *grownServer, n int) func() error {
			if prepare != "" {
				s.runSQL(prepare)
			}
			return func() error { return measured(s, s.t.Context()) }
		}}
	}
	return []growthCase{
		sweep("sweep: one expired lease", `
			UPDATE leases SET expires_at = clock_timestamp()
			WHERE spec_id = (SELECT spec_id FROM leases ORDER BY spec_id DESC LIMIT 1)`,
			func(s *grownServer, ctx context.Context) error { return s.sweepLeases(ctx) }),
		sweep("sweep: nothing to tidy", ``, func(s *grownServer, ctx context.Context) error { return s.tidy(ctx) }),
		sweep("sweep: nothing to prune", ``, func(s *grownServer, ctx context.Context) error { return s.prune(ctx) }),
		sweep("sweep: events of one mission to prune", `
			WITH old AS (SELECT id FROM missions WHERE name = 'Mission 1'),
			     events AS (UPDATE events SET at = at - interval '1 year' WHERE stream = (SELECT id FROM old))
			UPDATE heads SET oldest_at = now() - interval '1 year' WHERE stream = (SELECT id FROM old)`,
			func(s *grownServer, ctx context.Context) error { return s.prune(ctx) }),
		sweep("sweep: the totals, which may grow", ``,
			func(s *grownServer, ctx context.Context) error { return s.countTotals(ctx) }),
	}
}

// growthOfSteps are the steps of a mission. They change Chain's status, so they come last.
func growthOfSteps() (cases []growthCase) {
	for _, action := range slices.Sorted(maps.Keys(missionActions)) {
		path := "/api/v1/missions/{chain}/" + action
		cases = append(cases, growthCase{"POST " + path, func(s *grownServer, n int) func() error {
			s.runSQL(fmt.Sprintf(`UPDATE missions SET status = '%s' WHERE id = '%s'`,
				missionActions[action].from[0], idOf(s.chain)))
			return s.by["owner"].send("POST", s.path(path, n), nil)
		}})
	}
	return cases
}

// unserved returns the routes and tools that a server hasn't served, be it for a case or
// to prepare one, but for those that the benchmark leaves out: of the forms, each does what
// a route of the API does.
func (s *grownServer) unserved() (missing []string) {
	leftOut := regexp.MustCompile(
		`(import|export|openapi\.json|docs|stream|/ws)$|^DELETE /api/v1/missions/{id}$|/health/|/debug/|^POST /mcp$|` +
			`^GET /(login|register)$|/assets/|/imported/`)
	var patterns []string
	for _, route := range slices.Concat(s.table, s.pages) {
		if !leftOut.MatchString(route.pattern) && (route.traits&isPage == 0 || strings.HasPrefix(route.pattern, "GET ")) {
			patterns = append(patterns, route.pattern)
		}
	}
	for _, tool := range s.tools {
		patterns = append(patterns, "POST /mcp "+tool.Name)
	}
	served := string(s.by["admin"].get("/internal/metrics").want(http.StatusOK).body)
	for _, pattern := range patterns {
		method, path, _ := strings.Cut(pattern, " ")
		if !strings.Contains(served, fmt.Sprintf("{method=%q,pattern=%q,", method, path)) {
			missing = append(missing, pattern)
		}
	}
	return missing
}
