package main

// Lists: what they are filtered by, their order, their pages and the cursors
// between these.

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// statement collects the arguments of an SQL statement while it is built.
type statement struct{ args []any }

// bind adds an argument and returns its placeholder, such as $1.
func (q *statement) bind(value any) string {
	q.args = append(q.args, value)
	return fmt.Sprintf("$%d", len(q.args))
}

// Bounds that keep a list as fast among a million rows as among ten. A filter with
// at most fewRows matches finds them by its own index, and they are sorted. With
// more matches a page is soon found along the index of the list's order; if not, it
// ends once walkedRows rows have been read, full or not, and its cursor goes on there.
// Lists of missions have no such end, nor has what pages for people show: these go by
// the filter's index after all. See docs/design.md, Lists that don't grow.
const (
	fewRows       = 1000
	walkedRows    = 1000
	walkedCards   = 4000 // of a board's column
	fewMissions   = 3000 // that a list looks up one by one
	rankedMatches = 1000 // of a search: if there are more, some are left out
)

// listFilter is what a list is filtered by.
type listFilter struct {
	account    account
	conditions []condition
	rare       []idQuery
	shape      strings.Builder
	scope      []string // ids of the only missions that matter, if they are few; else nil
}

// condition is a piece of SQL, in which $? stands for the value.
type condition struct {
	sql   string
	value any // nil: none
}

func (c condition) in(q *statement) string {
	if c.value == nil {
		return c.sql
	}
	return strings.ReplaceAll(c.sql, "$?", q.bind(c.value))
}

// idQuery finds the rows of a table that satisfy a condition, by an index of its own.
type idQuery struct {
	from, id string // the table, or a function of the value, and its alias, and the column of the ids
	condition
	mission string // SQL that adds: of the mission one.id; "" for missions themselves
	gin     bool   // the index must collect all matches before it returns the first
	whole   bool   // there may be more than fewRows in a mission
}

func newListFilter(a account) *listFilter { return &listFilter{account: a} }

// having adds a condition. A cursor holds only for the conditions it was made with.
func (f *listFilter) having(sql string, value any) {
	f.conditions = append(f.conditions, condition{sql, value})
	fmt.Fprintf(&f.shape, "%s=%q ", sql, fmt.Sprint(value))
}

// where returns the conditions as a WHERE clause.
func (f *listFilter) where(q *statement) string { return whereSQL(f.conditions, q) }

func whereSQL(conditions []condition, q *statement) string {
	sql := " WHERE true"
	for _, c := range conditions {
		sql += " AND " + c.in(q)
	}
	return sql
}

// ids returns the SQL of the ids that an idQuery finds.
func (f *listFilter) ids(of idQuery, q *statement) string { return f.columns(of.id+" AS id", of, q) }

// columns returns the SQL of an idQuery, limited to the missions of scope. Each is
// looked up by itself, since PostgreSQL expects the average number of rows for all, and
// for no more rows than tell that there are not few, unless the whole is wanted.
func (f *listFilter) columns(columns string, of idQuery, q *statement) string {
	sql := condition{`SELECT ` + columns + ` FROM ` + of.from + ` WHERE ` + of.sql, of.value}.in(q)
	switch {
	case f.scope == nil || of.mission == "":
		return sql
	case len(f.scope) == 1:
		return sql + strings.ReplaceAll(of.mission, "one.id", q.bind(f.scope[0])+"::uuid")
	}
	part := fmt.Sprintf(" LIMIT %d", fewRows+1)
	if of.whole {
		part = " OFFSET 0"
	}
	return `SELECT its.* FROM unnest(` + q.bind(f.scope) + `::uuid[]) AS one (id) CROSS JOIN LATERAL (` +
		sql + of.mission + part + `) AS its`
}

// narrow returns one of the filter's idQueries that finds at most fewRows, or nil if
// none does.
func (s *Server) narrow(ctx context.Context, f *listFilter) (*idQuery, error) {
	var others []*idQuery
	for i := range f.rare {
		of := &f.rare[i]
		if !of.gin {
			others = append(others, of)
			continue
		}
		many, err := s.expectsMany(ctx, f, of)
		if err != nil {
			return nil, err
		}
		if many {
			continue
		}
		if few, err := s.fewest(ctx, f, of); err != nil || few != nil {
			return few, err
		}
	}
	return s.fewest(ctx, f, others...)
}

// fewest returns which of some idQueries finds the fewest, or nil if that is more than
// fewRows or there are none.
func (s *Server) fewest(ctx context.Context, f *listFilter, some ...*idQuery) (*idQuery, error) {
	if len(some) == 0 {
		return nil, nil
	}
	var q statement
	var counts []string
	for _, of := range some {
		counts = append(counts, fmt.Sprintf(`(SELECT count(*) FROM (%s LIMIT %d) few)`, f.ids(*of, &q), fewRows+1))
	}
	var found []int
	sql := `SELECT ARRAY[` + strings.Join(counts, ", ") + `]`
	if err := s.db.QueryRow(ctx, sql, plannedEachTime(q.args)...).Scan(&found); err != nil {
		return nil, fmt.Errorf("looking for what a list is filtered by: %w", err)
	}
	n := slices.Min(found)
	if n > fewRows {
		return nil, nil
	}
	return some[slices.Index(found, n)], nil
}

// expectsMany reports whether PostgreSQL expects an idQuery to find so many rows that
// it isn't worth counting them.
func (s *Server) expectsMany(ctx context.Context, f *listFilter, of *idQuery) (bool, error) {
	rows, err := s.expectedOf(ctx, f, of)
	return rows > 2*fewRows, err // if that is wrong, pages may not be full
}

// wholeOfFewest returns that of some idQueries which PostgreSQL expects to find the
// fewest rows, so that all of it can be read, and how many that is.
func (s *Server) wholeOfFewest(ctx context.Context, f *listFilter, some []idQuery) (
	fewest *idQuery, rows float64, err error) {
	rows = math.Inf(1)
	for _, of := range some {
		expected, err := s.expectedOf(ctx, f, &of)
		if err != nil {
			return nil, 0, err
		}
		if expected < rows {
			fewest, rows = &of, expected
		}
	}
	fewest.whole = true
	return fewest, rows, nil
}

// expectedOf returns how many rows PostgreSQL expects an idQuery to find.
func (s *Server) expectedOf(ctx context.Context, f *listFilter, of *idQuery) (float64, error) {
	var q statement
	sql := `SELECT FROM ` + of.from + ` WHERE ` + of.in(&q)
	if f.scope != nil { // all at once, unlike ids
		missions := q.bind(f.scope)
		sql += strings.NewReplacer("@> ARRAY[one.id::text]", "&& "+missions+"::text[]",
			"= one.id", "= ANY("+missions+"::uuid[])").Replace(of.mission)
	}
	return s.expected(ctx, sql, q.args...)
}

// expected returns how many rows PostgreSQL, by its statistics, expects of a query.
func (s *Server) expected(ctx context.Context, sql string, args ...any) (rows float64, err error) {
	var explained []struct {
		Plan struct {
			Rows float64 `json:"Plan Rows"`
		}
	}
	if err := s.db.QueryRow(ctx, "EXPLAIN (FORMAT JSON) "+sql, plannedEachTime(args)...).Scan(&explained); err != nil {
		return 0, fmt.Errorf("asking what a filter leaves: %w", err)
	}
	return explained[0].Plan.Rows, nil
}

// plannedEachTime returns the arguments of a query whose plan depends on their values,
// so that pgx prepares it without a name and PostgreSQL plans it each time.
func plannedEachTime(args []any) []any {
	return append([]any{pgx.QueryExecModeCacheDescribe}, args...)
}

// asEditor is a condition of members.
const asEditor = ` AND role = 'editor'`

// seeMissions sets the filter's scope if the account owns, or is a member of, at most
// fewMissions missions; as says what kind of member, if not any.
func (s *Server) seeMissions(ctx context.Context, f *listFilter, as string) error {
	if f.account.admin() {
		return nil
	}
	rows, err := s.db.Query(ctx, `
		(SELECT id FROM missions WHERE owner_id = $1 LIMIT $2)
		UNION ALL (SELECT mission_id FROM members WHERE user_id = $1`+as+` LIMIT $2)`, f.account.userID, fewMissions+1)
	if err != nil {
		return fmt.Errorf("looking for an account's missions: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("looking for an account's missions: %w", err)
	}
	if len(ids) <= fewMissions {
		f.scope = orEmpty(ids)
	}
	return nil
}

// stranger reports whether there are specs that the account may not see, and too
// many missions that it may see to go through these alone.
func (f *listFilter) stranger() bool { return f.scope == nil && !f.account.admin() }

// expectsFewerWords reports whether fewer specs are expected to have the words of a
// search than to be in the filter's missions.
func (s *Server) expectsFewerWords(ctx context.Context, f *listFilter, text string) (bool, error) {
	found, err := s.expected(ctx, `SELECT FROM specs WHERE words @@ websearch_to_tsquery('tachikoma', folded($1))`, text)
	if err != nil {
		return false, err
	}
	within, err := s.expected(ctx, `SELECT FROM specs WHERE mission_id = ANY($1)`, f.scope)
	return found < within, err
}

// walkedOfEach returns how many rows a walk reads of each of some missions: walkedRows
// divided by the number of those with more specs than a page, and at least a page.
func (s *Server) walkedOfEach(ctx context.Context, missions []string, page int) (rows int, err error) {
	var large int
	err = s.db.QueryRow(ctx, `SELECT count(*) FROM unnest($1::uuid[]) AS one (id) CROSS JOIN LATERAL (
			SELECT `+strings.Join(specStatuses, " + ")+` AS specs FROM heads WHERE stream = one.id OFFSET 0) AS h
		WHERE specs > $2`, missions, page).Scan(&large)
	if err != nil {
		return 0, fmt.Errorf("looking for large missions: %w", err)
	}
	return max(walkedRows/max(large, 1), page), nil
}

// sortKey is something that a list of T can be sorted by: a column, its type,
// and its value in an item, for the cursor.
type sortKey[T any] struct {
	column, kind string // the column's name, without its table, and its type
	value        func(T) string
}

// listOrder is how a list is sorted and where this page of it starts.
type listOrder[T any] struct {
	key        sortKey[T]
	name       string
	descending bool
	shape      string
	limit      int
	after      []string // the last item's key and id; nil on the first page
	text       string   // of a search, which is sorted by rank instead
}

// readOrder reads sort, limit, cursor and q. A cursor is good only for the filter
// and the order that it was made with.
func readOrder[T any](q *query, keys map[string]sortKey[T], preset string, filter *listFilter) listOrder[T] {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		names = append(names, name, "-"+name)
	}
	o := listOrder[T]{name: q.choice("sort", preset, names...), text: q.search()}
	name, descending := strings.CutPrefix(o.name, "-")
	o.key, o.descending = keys[name], descending
	o.shape = o.name + " " + filter.shape.String()
	if o.text != "" {
		o.limit = int(q.number("limit", searchLimit, 1, searchLimit))
		for _, other := range []string{"cursor", "sort"} {
			if q.has(other) {
				q.fail(other, "not_with_q", "can't be combined with q, which returns the best %d matches by rank", searchLimit)
			}
		}
		return o
	}
	o.limit = int(q.number("limit", 50, 1, 200))
	if cursor := q.text("cursor", 2000); cursor != "" {
		after, err := decodeCursor(cursor, o.shape, 2)
		if err == nil && (!validID(after[1]) || !o.key.accepts(after[0])) {
			err = errInvalidCursor()
		}
		if err != nil {
			q.fail("cursor", "invalid_cursor", "isn't a cursor of this list: leave it out to start again")
		}
		o.after = after
	}
	return o
}

// compared returns the condition that a page starts after its cursor, or "".
func (o listOrder[T]) compared(q *statement, column, id string) string {
	if o.after == nil {
		return ""
	}
	return fmt.Sprintf(" AND (%s, %s) %s (%s::text::%s, %s)",
		column, id, o.pick(">", "<"), q.bind(o.after[0]), o.key.kind, q.bind(o.after[1]))
}

// sorted returns the ORDER BY clause of a page.
func (o listOrder[T]) sorted(column, id string) string {
	return fmt.Sprintf(" ORDER BY %s %s, %s %[2]s", column, o.pick("ASC", "DESC"), id)
}

func (o listOrder[T]) pick(up, down string) string {
	if o.descending {
		return down
	}
	return up
}

// first is a page's LIMIT, one row more than it shows. It is written out: of a
// parameter PostgreSQL expects a tenth of all rows, takes no plan that serves
// every page for as good as one of its own, and plans each request again: a list
// of 50 specs among 170,000 then took 1.7 to 2.6 times as long.
func (o listOrder[T]) first() string { return fmt.Sprintf(" LIMIT %d", o.limit+1) }

// ofOne is a condition of what is read of each mission of a list.
const ofOne = " AND w.mission_id = one.id"

// merged is the query for the ids and sort keys of a page over several missions: page
// is that of one. It is read of those missions whose first spec comes first, and
// within is what else holds for its rows.
func (o listOrder[T]) merged(missions string, page func(mission string, limit int) string, within string) string {
	return `SELECT its.id, its.key FROM (
			SELECT one.id FROM unnest(` + missions + `::uuid[]) AS one (id)
			CROSS JOIN LATERAL (` + page(ofOne, 1) + `) AS first` +
		o.sorted("first.key", "first.id") + o.first() + `
		) AS one CROSS JOIN LATERAL (` + page(ofOne, o.limit+1) + `) AS its` + within +
		o.sorted("its.key", "its.id") + o.first()
}

// endedIDs is the query for the ids and sort keys of found, the page of a walk. If
// the page isn't full and there is an end, where the walk hasn't read further, that
// comes behind it: the next page begins there.
func (o listOrder[T]) endedIDs(end, found string) string {
	return fmt.Sprintf(`WITH walked AS MATERIALIZED (%s), found AS MATERIALIZED (%s)
		SELECT id, key, false AS ended FROM found
		UNION ALL SELECT id, key, true FROM walked WHERE (SELECT count(*) FROM found) <= %d`, end, found, o.limit)
}

// cursor returns the cursor that continues after an item.
func (o listOrder[T]) cursor(item T, id string) string {
	return encodeCursor(o.shape, o.key.value(item), id)
}

// timeText writes a time for a cursor, to the microsecond that PostgreSQL keeps.
func timeText(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// accepts reports whether PostgreSQL can read text, from a cursor that a client
// may have made up, as a value of the column.
func (k sortKey[T]) accepts(text string) bool {
	switch k.kind {
	case "smallint":
		_, err := strconv.ParseInt(text, 10, 16)
		return err == nil
	case "timestamptz":
		at, err := time.Parse(time.RFC3339Nano, text)
		return err == nil && at.Year() > 0 && timeText(at) == text
	}
	return true
}

// list is the answer of every route that lists things.
type list[T any] struct {
	Items      []T     `json:"items"`
	NextCursor *string `json:"next_cursor"`
}

// pageOf makes a list of at most limit rows from rows, of which one more than
// limit was asked for: the extra row says that there is a next page. cursor
// makes the cursor that continues after a row.
func pageOf[T any](rows []T, limit int, cursor func(last T) string) list[T] {
	if rows == nil {
		rows = []T{}
	}
	if len(rows) <= limit {
		return list[T]{Items: rows}
	}
	next := cursor(rows[limit-1])
	return list[T]{Items: rows[:limit], NextCursor: &next}
}

// orEmpty makes JSON say [] where there is nothing.
func orEmpty[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

// maxCursor is in bytes. The longest real cursor, for a name of 200 characters,
// has less than half of that.
const maxCursor = 4096

// cursor is the value of a cursor made by encodeCursor(shape, value), or "" when
// it is absent.
func (q *query) cursor(shape string) string { return q.cursors(shape, 1)[0] }

// cursors are the n values of a cursor, or n times "" when it is absent.
func (q *query) cursors(shape string, n int) []string {
	if !q.has("cursor") {
		return make([]string, n)
	}
	values, err := decodeCursor(q.values["cursor"], shape, n)
	if err != nil {
		q.fail("cursor", "invalid_cursor", "isn't a cursor of this list: leave it out to start again")
		return make([]string, n)
	}
	return values
}

// encodeCursor returns the token with which the list of that shape (its filter and
// sort) continues after values. It is opaque to clients but not secret.
func encodeCursor(shape string, values ...string) string {
	data, err := json.Marshal(append([]string{shapeTag(shape)}, values...))
	if err != nil {
		panic(err) // strings can always be encoded
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

// decodeCursor returns the n values of a cursor that encodeCursor made for the
// same shape, or a 422 invalid_cursor. A client can make up a cursor, so the
// values are only known to be text that can be stored: the caller checks them, and
// returns errInvalidCursor if they are wrong.
func decodeCursor(cursor, shape string, n int) ([]string, error) {
	if len(cursor) > maxCursor {
		return nil, errInvalidCursor()
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || checkJSON(data) != nil {
		return nil, errInvalidCursor()
	}
	var values []*string
	if json.Unmarshal(data, &values) != nil || len(values) != n+1 || slices.Contains(values, nil) {
		return nil, errInvalidCursor()
	}
	texts := make([]string, 0, n+1)
	for _, value := range values {
		texts = append(texts, *value)
	}
	if texts[0] != shapeTag(shape) {
		return nil, errInvalidCursor()
	}
	return texts[1:], nil
}

func errInvalidCursor() error {
	return invalidField("cursor", "invalid_cursor", "isn't a next_cursor of this list with this filter and sort")
}

func shapeTag(shape string) string {
	sum := sha256.Sum256([]byte(shape))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}
