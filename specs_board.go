package main

// The columns of boards, and what reads their cards.

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	columnCards = 50 // that a column shows; more are on pages of its own
	ownRows     = 4  // of a column are read as fast as one that a filter finds, whose state is elsewhere
)

// columnKind is a kind of columns of a board: the specs of some statuses, and if
// ready isn't nil those of them that are ready, or aren't.
type columnKind struct {
	ID, Name string
	statuses []string
	ready    *bool
	sort     string
}

// neededStatuses are those of what needs a person: to be taken into the mission, accepted,
// or helped. Migration 0015 has an index of them.
var neededStatuses = []string{"proposed", "in_review", "blocked"}

// boardColumns are the columns of a board. Every status has one.
var boardColumns = func() []columnKind {
	columns := []columnKind{
		{"needs-you", "Needs you", neededStatuses, nil, "number"},
		{"waiting", "Waiting", []string{"planned"}, new(false), "number"},
		{"ready", "Ready", []string{"planned"}, new(true), "number"},
		{"working", "Working", []string{"in_progress", "testing"}, nil, "number"},
		{"done", "Done", []string{"completed", "deferred"}, nil, "-updated_at"},
	}
	var known []string
	for _, column := range columns {
		known = append(known, column.statuses...)
	}
	others := statusesThat(func(s specStatus) bool { return !slices.Contains(known, s.name) })
	if len(others) > 0 {
		columns = append(columns, columnKind{"other", "Other", others, nil, "number"})
	}
	return columns
}()

// has reports whether a spec belongs in a column of this kind.
func (k columnKind) has(v specSummary) bool {
	return slices.Contains(k.statuses, v.Status) && (k.ready == nil || *k.ready == v.Ready)
}

// isReady reports whether these are the specs that are ready.
func (k columnKind) isReady() bool { return k.ready != nil && *k.ready }

// of returns those of the specs that belong in a column of this kind.
func (k columnKind) of(specs []specSummary) (its []specSummary) {
	for _, spec := range specs {
		if k.has(spec) {
			its = append(its, spec)
		}
	}
	return its
}

// count returns how many specs of a mission with these stats belong in one.
func (k columnKind) count(stats missionStats) (n int) {
	if k.isReady() {
		return stats.ready
	}
	for _, status := range k.statuses {
		n += stats.of(status)
	}
	if k.ready != nil {
		n -= stats.ready
	}
	return n
}

// asRead returns the kinds as they are read: unless its mission is active nothing is
// ready, and all that is planned waits.
func asRead(kinds []columnKind, missionStatus string) []columnKind {
	if missionStatus == "active" {
		return kinds
	}
	kinds = slices.DeleteFunc(slices.Clone(kinds), columnKind.isReady)
	for i := range kinds {
		kinds[i].ready = nil
	}
	return kinds
}

// findCards reads the cards of a list of specs with these parameters. It fills the page
// if there are enough: people look at one page, where programs follow the cursor.
func (s *Server) findCards(ctx context.Context, filter *specFilter,
	params map[string]string) (list[specSummary], error) {
	q := queryOf(params)
	order := readOrder(q, specSorts, "number", &filter.listFilter)
	if err := q.err(); err != nil {
		return list[specSummary]{}, err
	}
	filter.full = true
	return s.findSpecs(ctx, filter, order)
}

// findColumn reads a page of a column's cards.
func (s *Server) findColumn(ctx context.Context, filter *specFilter, kind columnKind,
	cursor string) (list[specSummary], error) {
	switch {
	case kind.ready == nil:
		filter.byStatuses(kind.statuses...)
	case *kind.ready:
		filter.byReady(kind.ready)
	default:
		filter.byUnmet()
	}
	return s.findCards(ctx, filter,
		map[string]string{"sort": kind.sort, "limit": strconv.Itoa(columnCards), "cursor": cursor})
}

// firstCards reads the first cards of columns, in their order, and one more of each
// that has more.
func (s *Server) firstCards(ctx context.Context, filter *specFilter, kinds []columnKind,
	stats missionStats) ([]specSummary, error) {
	kinds = slices.DeleteFunc(slices.Clone(kinds), func(k columnKind) bool { return k.count(stats) == 0 })
	if len(kinds) == 0 {
		return nil, nil
	}
	if len(filter.rare) == 0 {
		return s.readCards(ctx, filter, kinds, nil)
	}
	ctx, end, err := s.beginRead(ctx, filter.account, "", s.seen.of(filter.mission).costly)
	if err != nil {
		return nil, err
	}
	defer end()
	few, err := s.narrow(ctx, &filter.listFilter)
	if err != nil {
		return nil, err
	}
	cards, err := s.readCards(ctx, filter, kinds, few)
	if err != nil || few != nil {
		return cards, err
	}
	kinds = slices.DeleteFunc(kinds, func(k columnKind) bool { return !k.short(cards, stats) })
	if len(kinds) == 0 {
		return cards, nil
	}
	whole, rows, err := s.wholeOfFewest(ctx, &filter.listFilter, filter.rare)
	if err != nil {
		return nil, err
	}
	short := make(map[*idQuery][]columnKind) // by the way to all of their cards
	for _, kind := range kinds {
		cards = slices.DeleteFunc(cards, kind.has)
		way := whole
		switch {
		case kind.isReady() && len(filter.rareReady) > 0:
			way = &filter.rareReady[0]
		case kind.ready == nil && float64(kind.count(stats)) < ownRows*rows:
			own := rareRows("spec_states h", "h.spec_id", `h.status = ANY($?)`, kind.statuses)
			way = &own
		}
		short[way] = append(short[way], kind)
	}
	for way, kinds := range short {
		more, err := s.readCards(ctx, filter, kinds, way)
		if err != nil {
			return nil, err
		}
		cards = append(cards, more...)
	}
	return cards, nil
}

// short reports whether a column may have more first cards than these, of which each
// status was gone through by itself.
func (k columnKind) short(cards []specSummary, stats missionStats) bool {
	return slices.ContainsFunc(k.statuses, func(status string) bool {
		k.statuses = []string{status}
		return k.count(stats) > walkedCards && len(k.of(cards)) <= columnCards
	})
}

// readCards reads the first cards of columns, of those that few finds if it isn't nil.
func (s *Server) readCards(ctx context.Context, filter *specFilter, kinds []columnKind,
	few *idQuery) ([]specSummary, error) {
	q := statement{[]any{filter.account.userID, filter.account.admin(), filter.mission}}
	sql := cardsSQL(&q, filter, kinds, few)
	args := q.args
	if len(filter.conditions) > 0 {
		args = plannedEachTime(args)
	}
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("reading a board: %w", err)
	}
	cards, err := collectSummaries(rows, (columnCards+1)*len(specStatuses))
	if err != nil {
		return nil, fmt.Errorf("reading a board: %w", err)
	}
	return cards, nil
}

// cardsSQL is the statement of readCards, for the mission $3. It is one for all columns.
// Each status is looked up by an index that has the order of its column; where there
// are conditions, up to walkedCards rows of it. Of a column that is sorted by the last
// change some of the last changes come first.
func cardsSQL(q *statement, filter *specFilter, kinds []columnKind, few *idQuery) string {
	with, from, where := "", ` FROM spec_states h WHERE mission_id = $3`, ""
	switch {
	case few != nil:
		with = `few AS MATERIALIZED (` + filter.states(*few, q) + `), matched AS MATERIALIZED (
			SELECT h.* FROM few AS h` + filter.where(q) + ` AND h.mission_id = $3), `
		from = ` FROM matched h WHERE true`
	case len(filter.conditions) > 0:
		where = filter.where(q)
	}
	var parts []string
	add := func(n, having, after, order string) {
		rows := from + having
		if after+where != "" {
			rows = fmt.Sprintf(` FROM (SELECT %s%s%s LIMIT %d) AS h%s`,
				stateColumns, rows, order, walkedCards, cmp.Or(where, " WHERE true")+after)
		}
		parts = append(parts,
			fmt.Sprintf(`(SELECT spec_id AS id, %s AS n%s%s LIMIT %d)`, n, rows, order, columnCards+1))
	}
	const byPlace, latest = ` ORDER BY h.place, h.spec_id`, ` ORDER BY h.updated_at DESC, h.spec_id DESC`
	for _, kind := range kinds {
		for _, status := range kind.statuses {
			switch is := ` AND status = '` + status + `'`; {
			case kind.ready == nil:
				add("0", is, "", byPlace)
			case kind.isReady():
				add("-priority - ahead::int * 0.5", ` AND `+unblockedSQL, "", handedOut)
			default:
				add("0", is+` AND unmet > 0`, "", byPlace)
			}
		}
		if strings.HasPrefix(kind.sort, "-") {
			add("-extract(epoch FROM updated_at)", "", ` AND status IN ('`+strings.Join(kind.statuses, "', '")+`')`, latest)
		}
	}
	return `WITH ` + with + `page AS MATERIALIZED (
			SELECT id, min(n) AS n FROM (` + strings.Join(parts, " UNION ALL ") + `) AS parts GROUP BY id)
		SELECT ` + summaryColumns + `, NULL, false
		FROM page JOIN specs s USING (id) JOIN spec_states h ON h.spec_id = s.id JOIN missions m ON m.id = s.mission_id
		LEFT JOIN leases l ON l.spec_id = s.id WHERE ` + readableSQL + `
		ORDER BY n, s.place, s.id`
}
