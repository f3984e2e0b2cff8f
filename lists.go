package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// listFilter gathers the conditions of a list and their arguments, of which
// the first two are the account, for readableSQL.
type listFilter struct {
	conditions []string
	args       []any
	shape      strings.Builder // what a cursor belongs to
}

func newListFilter(a account) *listFilter {
	return &listFilter{args: []any{a.userID, a.admin()}}
}

// bind adds an argument and returns its place in the statement.
func (f *listFilter) bind(value any) string {
	f.args = append(f.args, value)
	return fmt.Sprintf("$%d", len(f.args))
}

// having adds a condition on value, whose place is the %s in it, unless value
// is empty.
func (f *listFilter) having(condition, value string) {
	if value == "" {
		return
	}
	f.conditions = append(f.conditions, fmt.Sprintf(condition, f.bind(value)))
	fmt.Fprintf(&f.shape, "%s=%q ", condition, value)
}

func (f *listFilter) equal(column, value string) { f.having(column+" = %s", value) }

// phase adds a condition on a spec's phase, as given or in the form that
// imports store.
func (f *listFilter) phase(name string) {
	if name != "" {
		f.having("s.phase IN (%s, "+f.bind(canonicalPhase(name))+")", name)
	}
}

// is adds a condition that holds or doesn't, as want says; nil adds none.
func (f *listFilter) is(condition string, want *bool) {
	if want == nil {
		return
	}
	if !*want {
		condition = "NOT " + condition
	}
	f.conditions = append(f.conditions, condition)
	f.shape.WriteString(condition)
}

// search adds a full-text search of a tsvector column, unless text is empty.
func (f *listFilter) search(column, text string) {
	f.having(column+" @@ websearch_to_tsquery('english', %s)", text)
}

// sql is the conditions, to go on after a WHERE.
func (f *listFilter) sql() string {
	var b strings.Builder
	for _, c := range f.conditions {
		b.WriteString(" AND " + c)
	}
	return b.String()
}

// sortKey is something that a list of T can be sorted by: a column, its type,
// and its value in an item, for the cursor.
type sortKey[T any] struct {
	column, kind string
	value        func(T) string
}

// order is how a list is sorted and where this page of it starts.
type order[T any] struct {
	key        sortKey[T]
	name       string
	descending bool
	shape      string
	limit      int
	after      []string // the last item's key and id; nil on the first page
	text       string   // of a search, which is sorted by rank instead
}

// readOrder reads sort, limit, cursor and q. A cursor belongs to the filter
// and the order it was made under.
func readOrder[T any](q *query, keys map[string]sortKey[T], preset string, filter *listFilter) order[T] {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		names = append(names, name, "-"+name)
	}
	o := order[T]{name: q.choice("sort", preset, names...), text: q.search()}
	name, descending := strings.CutPrefix(o.name, "-")
	o.key, o.descending = keys[name], descending
	o.shape = o.name + " " + filter.shape.String()
	if o.text != "" {
		o.limit = int(q.number("limit", searchLimit, 1, searchLimit))
		for _, other := range []string{"cursor", "sort"} {
			if q.has(other) {
				q.fail(other, "not_with_q", "can't be combined with q, which gives the best %d by rank", searchLimit)
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

// sql is the rest of the statement: where the page starts, the order, and a
// limit of one row more than the page has. table names the rows' own table.
func (o order[T]) sql(table string, f *listFilter) string {
	if o.text != "" {
		return fmt.Sprintf(" ORDER BY ts_rank(%s.search, websearch_to_tsquery('english', %s)) DESC, %s.id LIMIT %s",
			table, f.bind(o.text), table, f.bind(o.limit))
	}
	var b strings.Builder
	direction, compare := "ASC", ">"
	if o.descending {
		direction, compare = "DESC", "<"
	}
	if o.after != nil {
		fmt.Fprintf(&b, " AND (%s, %s.id) %s (%s::text::%s, %s)",
			o.key.column, table, compare, f.bind(o.after[0]), o.key.kind, f.bind(o.after[1]))
	}
	fmt.Fprintf(&b, " ORDER BY %s %s, %s.id %s LIMIT %s", o.key.column, direction, table, direction, f.bind(o.limit+1))
	return b.String()
}

// cursor continues after an item.
func (o order[T]) cursor(item T, id string) string {
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
