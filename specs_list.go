package main

// Lists of specs, the search in them, and the columns of boards.

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// specSorts are the sort keys of the spec list. By updated_at it walks the
// specs' states, else their texts.
var specSorts = map[string]sortKey[specSummary]{
	"number":     {"place", "text", func(v specSummary) string { return v.place }},
	"priority":   {"priority", "smallint", func(v specSummary) string { return strconv.Itoa(v.Priority) }},
	"updated_at": {"updated_at", "timestamptz", func(v specSummary) string { return timeText(v.UpdatedAt) }},
}

// specFilter is what a list of specs is filtered by. Its conditions speak of a
// spec's state h and, if ofMission says so, of its mission m.
type specFilter struct {
	listFilter
	mission   string // "" for all that the account may see
	status    string
	phase     string
	ofMission bool
	full      bool        // a page is full if there is enough, however many specs that may read
	inText    []condition // those of what is in specs too, so that a walk can leave a state unread

	rows        int      // that a walk reads of each mission of scope
	wordsFirst  bool     // a search looks its words up first, and then for the missions
	taggedReady *idQuery // like that of the tag, for what is ready, which has an index of its own
}

func newSpecFilter(a account, mission string) *specFilter {
	f := &specFilter{listFilter: *newListFilter(a), mission: mission}
	if mission != "" {
		f.scope = []string{mission}
	}
	fmt.Fprintf(&f.shape, "mission=%q ", mission)
	return f
}

// havingText adds a condition of what is in specs too.
func (f *specFilter) havingText(sql string, value any) {
	f.having(sql, value)
	f.inText = append(f.inText, condition{sql, value})
}

func (f *specFilter) byStatus(status string) {
	if f.status = status; status != "" {
		f.having(`h.status = $?`, status)
		f.byIndex(`SELECT h.spec_id AS id FROM spec_states h WHERE h.status = $?`, status,
			` AND h.mission_id = one.id`)
	}
}

// byStatuses leaves the specs of some statuses.
func (f *specFilter) byStatuses(statuses []string) {
	if len(statuses) == 1 {
		f.byStatus(statuses[0])
		return
	}
	f.having(`h.status = ANY($?)`, statuses)
	f.byIndex(`SELECT h.spec_id AS id FROM spec_states h WHERE h.status = ANY($?)`, statuses, ` AND h.mission_id = one.id`)
}

// byAgent leaves the specs that an agent of that name holds.
func (f *specFilter) byAgent(agent string) {
	if agent != "" {
		f.having(`h.spec_id IN (SELECT spec_id FROM leases WHERE agent = $?)`, agent)
		f.byIndex(`SELECT l.spec_id AS id FROM leases l WHERE l.agent = $?`, agent, ` AND l.mission_id = one.id`)
	}
}

// byIndex adds a query for the ids that a condition leaves, see idQuery.
func (f *specFilter) byIndex(sql string, value any, mission string) {
	f.rare = append(f.rare, idQuery{condition: condition{sql, value}, mission: mission})
}

// byPhase takes a phase as given or in the form that imports store.
func (f *specFilter) byPhase(phase string) {
	if f.phase = phase; phase != "" {
		f.havingText(`h.phase = ANY($?)`, phaseNames(phase))
		f.byIndex(`SELECT s.id FROM specs s WHERE s.phase = ANY($?)`, phaseNames(phase), ` AND s.mission_id = one.id`)
	}
}

// byTag goes by an index in which a spec's mission counts as one of its tags.
func (f *specFilter) byTag(tag string) {
	if tag != "" {
		f.havingText(`h.tags @> ARRAY[$?]`, tag)
		f.rare = append(f.rare, idQuery{
			condition{`SELECT s.id FROM specs s WHERE array_prepend(s.mission_id::text, s.tags) @> ARRAY[$?]`, tag},
			` AND array_prepend(s.mission_id::text, s.tags) @> ARRAY[one.id::text]`, true,
		})
		f.taggedReady = &idQuery{
			condition{`SELECT h.spec_id AS id FROM spec_states h WHERE ` + unblockedSQL + `
				AND array_prepend(h.mission_id::text, h.tags) @> ARRAY[$?]`, tag},
			` AND array_prepend(h.mission_id::text, h.tags) @> ARRAY[one.id::text]`, true,
		}
	}
}

func (f *specFilter) byReady(want *bool) {
	if want == nil {
		return
	}
	f.ofMission = true
	if !*want {
		f.having(`NOT `+readySQL, nil)
		return
	}
	f.having(readySQL, nil)
	f.byIndex(`SELECT h.spec_id AS id FROM spec_states h WHERE `+unblockedSQL, nil, ` AND h.mission_id = one.id`)
}

// held leaves the specs that the account holds.
func (f *specFilter) held() {
	f.having(`h.spec_id IN (SELECT spec_id FROM leases WHERE user_id = $?)`, f.account.userID)
	f.byIndex(`SELECT l.spec_id AS id FROM leases l WHERE l.user_id = $?`, f.account.userID, ` AND l.mission_id = one.id`)
}

// listSpecs is GET /api/v1/specs.
func (s *Server) listSpecs(ctx context.Context, c *call, q *query) (list[specSummary], error) {
	filter := newSpecFilter(c.account, q.id("mission_id"))
	if q.choice("claimed", "", "mine") == "mine" {
		filter.held()
	}
	filter.byTag(q.text("tag", 64))
	filter.byReady(q.flag("ready"))
	filter.byPhase(q.text("phase", 200))
	filter.byStatus(q.choice("status", "", specStatuses...))
	order := readOrder(q, specSorts, "number", &filter.listFilter)
	if err := q.err(); err != nil {
		return list[specSummary]{}, err
	}
	return s.findSpecs(ctx, filter, order)
}

// findSpecs reads a page of specs: their ids first, by the index that leaves
// the fewest, and then what is shown of them, with snippets if it is a search.
func (s *Server) findSpecs(ctx context.Context, f *specFilter, o listOrder[specSummary]) (list[specSummary], error) {
	listed := cmp.Or(f.mission, f.account.userID)
	ctx, end, err := s.beginRead(ctx, f.account, o.text, s.seen.of(listed).costly)
	if err != nil {
		return list[specSummary]{}, err
	}
	defer end()
	if f.mission == "" {
		if err := s.seeMissions(ctx, &f.listFilter); err != nil {
			return list[specSummary]{}, err
		}
	}
	var few *idQuery
	if !f.inOrder(o) {
		if few, err = s.narrow(ctx, &f.listFilter); err != nil {
			return list[specSummary]{}, err
		}
	}
	if o.text != "" && f.scope != nil && few == nil {
		if f.wordsFirst, err = s.expectsFewerWords(ctx, &f.listFilter, o.text); err != nil {
			return list[specSummary]{}, err
		}
	}
	if o.text == "" && few == nil && f.oneByOne() && f.passesOver(o) {
		if f.rows, err = s.walkedOfEach(ctx, f.scope, o.limit+1); err != nil {
			return list[specSummary]{}, err
		}
	}
	specs, err := s.readSpecs(ctx, f, o, few)
	if n := len(specs); err == nil && f.full && len(f.rare) > 0 && n > 0 && specs[n-1].ended {
		specs, err = s.readSpecs(ctx, f, o, &f.rare[0])
	}
	if err != nil {
		return list[specSummary]{}, err
	}
	s.seen.noteCost(listed, specs)
	if n := len(specs); n > 0 && specs[n-1].ended {
		next := o.cursor(specs[n-1], specs[n-1].ID)
		return list[specSummary]{Items: specs[:n-1], NextCursor: &next}, nil
	}
	return pageOf(specs, o.limit, func(v specSummary) string { return o.cursor(v, v.ID) }), nil
}

// readSpecs reads one spec more than a page has, if there are so many. A walk that
// ends before it has found them adds the spec that it ended at.
func (s *Server) readSpecs(ctx context.Context, f *specFilter, o listOrder[specSummary],
	few *idQuery) ([]specSummary, error) {
	q := statement{[]any{f.account.userID, f.account.admin()}}
	sql := specsPageSQL(&q, f, o, few)
	args := q.args
	if len(f.conditions) > 0 && !f.inOrder(o) || o.text != "" || f.scope != nil && f.mission == "" {
		args = plannedEachTime(args)
	}
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("listing specs: %w", err)
	}
	specs, err := collectSummaries(rows, o.limit+1)
	if err != nil {
		return nil, fmt.Errorf("listing specs: %w", err)
	}
	return specs, nil
}

// inOrder reports whether an index has what the filter leaves in the order of
// the list: a mission's specs of one status, or of one phase, by number.
func (f *specFilter) inOrder(o listOrder[specSummary]) bool {
	return len(f.conditions) == 1 && (f.byIndexOfStatus(o) || f.byIndexOfPhase(o))
}

// byIndexOfStatus reports whether there is an index of a mission's specs of one status
// in the order of the list, and byIndexOfPhase whether there is one of a phase.
func (f *specFilter) byIndexOfStatus(o listOrder[specSummary]) bool {
	return f.mission != "" && o.key.column == "place" && f.status != ""
}

func (f *specFilter) byIndexOfPhase(o listOrder[specSummary]) bool {
	return f.mission != "" && o.key.column == "place" && len(phaseNames(f.phase)) == 1
}

// passesOver reports whether a walk along the order's index may pass over specs that
// aren't of the list, so that it has to end after walkedRows.
func (f *specFilter) passesOver(o listOrder[specSummary]) bool {
	return len(f.conditions) > 0 && !f.inOrder(o) || f.stranger()
}

// oneByOne reports whether a walk goes through the missions of scope, each by itself.
func (f *specFilter) oneByOne() bool { return f.mission == "" && f.scope != nil }

// specsPageSQL is the statement of readSpecs.
func specsPageSQL(q *statement, f *specFilter, o listOrder[specSummary], few *idQuery) string {
	with, ids := "", ""
	if few != nil {
		with = `few AS MATERIALIZED (` + f.ids(*few, q) + `), `
	}
	snippet, ended, readable, last := "NULL", "false", readableSQL, o.sorted("page.key", "s.id")
	switch {
	case o.text != "":
		words := `websearch_to_tsquery('tachikoma', folded(` + q.bind(o.text) + `))`
		ids = f.foundIDs(q, words, few)
		snippet = `ts_headline('tachikoma', left(s.body, 4096), ` + words + `,
			'StartSel=**, StopSel=**, MaxFragments=1, MaxWords=30, MinWords=10')`
		last = ` ORDER BY ts_rank(s.words, ` + words + `) DESC, s.id LIMIT ` + q.bind(o.limit)
	case few != nil:
		ids = f.fewIDs(q, o)
	case f.passesOver(o):
		ids, ended, last = f.walkedIDs(q, o), "page.ended", last+", page.ended"
		if f.stranger() {
			readable = "(page.ended OR " + readableSQL + ")"
		}
	default:
		ids = f.walkedIDs(q, o)
	}
	mission := "s.mission_id"
	if f.mission != "" {
		mission = q.bind(f.mission) // which is then looked up once
	}
	return `WITH ` + with + `page AS MATERIALIZED (` + ids + `)
		SELECT ` + summaryColumns + `, ` + snippet + `, ` + ended + `
		FROM page JOIN specs s USING (id) JOIN spec_states h ON h.spec_id = s.id JOIN missions m ON m.id = ` + mission + `
		LEFT JOIN leases l ON l.spec_id = s.id WHERE ` + readable + last
}

// foundIDs is the query for the ids of what a search finds, among few if
// that isn't nil.
func (f *specFilter) foundIDs(q *statement, words string, few *idQuery) string {
	from := "specs s"
	if few != nil {
		from = "few JOIN specs s USING (id)"
	}
	sql := `SELECT s.id FROM ` + from + ` JOIN spec_states h ON h.spec_id = s.id JOIN missions m ON m.id = s.mission_id` +
		f.where(q) + ` AND s.words @@ ` + words
	switch {
	case f.wordsFirst: // coalesce keeps the missions' indexes, which have more, out of it
		sql += " AND coalesce(s.mission_id = ANY(" + q.bind(f.scope) + "), false)"
	case f.scope != nil:
		sql += " AND s.mission_id = ANY(" + q.bind(f.scope) + ")"
	default:
		sql += " AND " + readableSQL
	}
	return fmt.Sprintf("%s LIMIT %d", sql, rankedMatches)
}

// fewIDs is the query for the ids and sort keys of a page of what few leaves,
// all of which is read (OFFSET 0 sees to that) and sorted.
func (f *specFilter) fewIDs(q *statement, o listOrder[specSummary]) string {
	key := "h." + o.key.column
	sql := `SELECT h.spec_id AS id, ` + key + ` AS key FROM few CROSS JOIN LATERAL (` + stateSQL("few.id") + `) AS h`
	if f.stranger() || f.ofMission {
		sql += ` CROSS JOIN LATERAL (SELECT id, status, owner_id FROM missions WHERE id = h.mission_id OFFSET 0) AS m`
	}
	sql += f.where(q) + o.compared(q, key, "h.spec_id")
	switch {
	case f.scope != nil:
		sql += " AND h.mission_id = ANY(" + q.bind(f.scope) + ")"
	case f.stranger():
		sql += " AND " + readableSQL
	}
	return `SELECT id, key FROM (` + sql + ` OFFSET 0) AS narrowed` +
		o.sorted("key", "id") + o.first()
}

// stateSQL looks the state of a spec up that a query has found: by its index, however
// many PostgreSQL expects there to be, since reading all states grows with their number.
func stateSQL(id string) string {
	return `SELECT ` + stateColumns + ` FROM spec_states WHERE spec_id = ` + id + ` OFFSET 0`
}

// stateColumns are what specs are filtered and sorted by, and textColumns what specs
// has of it.
const (
	stateColumns = `spec_id, mission_id, status, unmet, priority, ahead, place, phase, tags, updated_at`
	textColumns  = `id AS spec_id, mission_id, priority, place, phase, tags`
)

// walkedIDs is the query for the ids and sort keys of a page along an index w
// that has the order of the list. It goes through a few missions one by one: those
// whose first spec comes first have all of the page. If it passesOver specs it ends
// after walkedRows, see endedIDs, and what is filtered by is read on the way: with
// OFFSET 0 or a LIMIT, whatever PostgreSQL expects of the conditions.
func (f *specFilter) walkedIDs(q *statement, o listOrder[specSummary]) string {
	table, id, along := "specs", "w.id", f.along(q, o)
	if o.key.column == "updated_at" || f.byIndexOfStatus(o) {
		table, id = "spec_states", "w.spec_id"
	}
	key := "w." + o.key.column
	along += o.compared(q, key, id)
	walk := func(columns, mission, part string) string {
		return `SELECT ` + columns + ` FROM ` + table + ` w WHERE true` + along + mission + o.sorted(key, id) + part
	}
	idAndKey := id + ` AS id, ` + key + ` AS key`
	switch {
	case f.passesOver(o):
	case f.oneByOne():
		return o.merged(q.bind(f.scope), func(mission, part string) string { return walk(idAndKey, mission, part) }, "")
	default:
		return walk(idAndKey, "", o.first())
	}
	rows, where := cmp.Or(f.rows, walkedRows), f.where(q)
	if f.stranger() {
		where += " AND " + readableSQL
	}
	page := func(mission, limit string) string {
		part := fmt.Sprintf(" LIMIT %d", rows)
		from, id, key := `(`+walk(stateColumns, mission, part)+`) AS h`, "h.spec_id", "h."+o.key.column
		if table == "specs" {
			from = `(` + walk(textColumns, mission, part) + `) AS h`
		}
		if table == "specs" && len(f.inText) < len(f.conditions) { // and of the state, then
			texts := walk(idAndKey, mission, part)
			if len(f.inText) > 0 {
				texts = `SELECT spec_id AS id, ` + o.key.column + ` AS key FROM ` + from + whereSQL(f.inText, q)
			}
			from, id, key = `(`+texts+`) AS w CROSS JOIN LATERAL (`+stateSQL("w.id")+`) AS h`, "w.id", "w.key"
		}
		if f.stranger() || f.ofMission {
			from += ` CROSS JOIN LATERAL (SELECT id, status, owner_id FROM missions WHERE id = h.mission_id OFFSET 0) AS m`
		}
		return `SELECT ` + id + ` AS id, ` + key + ` AS key FROM ` + from + where + o.sorted(key, id) + limit
	}
	end := fmt.Sprintf(" LIMIT 1 OFFSET %d", rows-1)
	if !f.oneByOne() {
		return o.endedIDs(walk(idAndKey, "", end), page("", o.first()))
	}
	missions := q.bind(f.scope)
	ends := `SELECT its.id, its.key FROM unnest(` + missions + `::uuid[]) AS one (id)
		CROSS JOIN LATERAL (` + walk(idAndKey, ofOne, end) + `) AS its` + o.sorted("its.key", "its.id") + ` LIMIT 1`
	return o.endedIDs(ends, o.merged(missions, page, ` WHERE NOT EXISTS (
		SELECT FROM walked WHERE (its.key, its.id) `+o.pick(">", "<")+` (walked.key, walked.id))`))
}

// along is the condition of the stretch of its index that a walk goes along.
func (f *specFilter) along(q *statement, o listOrder[specSummary]) (sql string) {
	switch {
	case f.byIndexOfStatus(o):
		sql = " AND w.status = " + q.bind(f.status)
	case f.byIndexOfPhase(o):
		sql = " AND w.phase = " + q.bind(phaseNames(f.phase)[0])
	}
	if f.mission != "" {
		sql += " AND w.mission_id = " + q.bind(f.mission)
	}
	return sql
}

// firstCards reads the first cards of columns, in their order, and one more of each
// that has more.
func (s *Server) firstCards(ctx context.Context, filter *specFilter, kinds []columnKind,
	stats missionStats) ([]specSummary, error) {
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
	short := make(map[*idQuery][]columnKind) // what may have more than was gone through, by another way to it
	for _, kind := range kinds {
		if len(kind.of(cards)) > columnCards || kind.count(stats) <= walkedCards {
			continue
		}
		cards = slices.DeleteFunc(cards, kind.has)
		way := &filter.rare[0]
		if kind.isReady() {
			way = cmp.Or(filter.taggedReady, way)
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
		with = `few AS MATERIALIZED (` + filter.ids(*few, q) + `), matched AS MATERIALIZED (
			SELECT h.* FROM few CROSS JOIN LATERAL (` + stateSQL("few.id") + `) AS h` +
			filter.where(q) + ` AND h.mission_id = $3), `
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
