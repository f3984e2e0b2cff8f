package main

// Lists of specs, and the search in them.

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// specSorts are the sort keys of the spec list. By updated_at, or along
// a stretch of a status, a list walks the specs' states, else their texts.
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
	ofMission bool
	onlyReady bool
	full      bool        // fill a page if there are enough matches, even if that reads all of them
	inText    []condition // those of what is in specs too, so that a walk can leave a state unread
	stretches []stretch
	rareReady []idQuery // like rare, for what is ready, which has indexes of its own

	rows       int  // that a walk reads of each mission of scope
	wordsFirst bool // a search looks its words up first, and then for the missions
}

// stretch is a part of an index of specs w, or their states, in which those of a
// condition are in the order of a list: over all missions if it is wide, else of one. Of
// several conditions each has a part of its own, and a list goes along all of them.
type stretch struct {
	table, order string // order is the column that it is sorted by
	wide         bool
	conditions   []condition
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
	if status != "" {
		f.byStatuses(status)
	}
}

// byStatuses leaves the specs of some statuses.
func (f *specFilter) byStatuses(statuses ...string) {
	has := condition{`h.status = ANY($?)`, statuses}
	if len(statuses) == 1 {
		has = condition{`h.status = $?`, statuses[0]}
	}
	f.having(has.sql, has.value)
	f.byIndex("spec_states h", "h.spec_id", has.sql, has.value)
	var parts []condition
	for _, status := range statuses {
		parts = append(parts, condition{`w.status = $?`, status})
	}
	f.stretches = slices.Insert(f.stretches, 0, stretch{"spec_states", "place", false, parts})
}

// byNeed leaves what needs a person.
func (f *specFilter) byNeed() {
	f.byStatuses(neededStatuses...)
	needed := condition{`w.status IN ('` + strings.Join(neededStatuses, `', '`) + `')`, nil}
	f.stretches = append(f.stretches, stretch{"spec_states", "updated_at", true, []condition{needed}})
}

// byUnmet leaves what is planned and depends on what isn't completed.
func (f *specFilter) byUnmet() {
	f.having(`h.status = 'planned' AND h.unmet > 0`, nil)
	f.byIndex("spec_states h", "h.spec_id", `h.status = 'planned' AND h.unmet > 0`, nil)
	unmet := []condition{{`w.status = 'planned' AND w.unmet > 0`, nil}}
	f.stretches = slices.Insert(f.stretches, 0, stretch{"spec_states", "place", false, unmet})
}

// byAgent leaves the specs that an agent of that name holds.
func (f *specFilter) byAgent(agent string) {
	if agent != "" {
		f.having(`h.spec_id IN (SELECT spec_id FROM leases WHERE agent = $?)`, agent)
		f.byIndex("leases l", "l.spec_id", `l.agent = $?`, agent)
	}
}

// byIndex adds an idQuery.
func (f *specFilter) byIndex(from, id, sql string, value any) {
	f.rare = append(f.rare, rareRows(from, id, sql, value))
}

// rareRows is an idQuery of specs or what belongs to them.
func rareRows(from, id, sql string, value any) idQuery {
	alias, _, _ := strings.Cut(id, ".")
	return idQuery{from, id, condition{sql, value}, " AND " + alias + ".mission_id = one.id", false, false}
}

// byPhase takes a phase as given or in the form that imports store.
func (f *specFilter) byPhase(phase string) {
	names := phaseNames(phase)
	if phase == "" {
		return
	}
	f.havingText(`h.phase = ANY($?)`, names)
	f.byIndex("specs s", "s.id", `s.phase = ANY($?)`, names)
	if f.mission != "" { // which the index begins with
		of := rareRows("spec_states h", "h.spec_id", unblockedSQL+` AND h.phase = ANY($?)`, names)
		f.rareReady = append(f.rareReady, of)
	}
	if len(names) == 1 {
		f.stretches = append(f.stretches, stretch{"specs", "place", false, []condition{{`w.phase = $?`, names[0]}}})
	}
}

// byTag goes by indexes in which a spec's mission counts as one of its tags.
func (f *specFilter) byTag(tag string) {
	if tag == "" {
		return
	}
	tagged := func(from, alias, id, and string) idQuery {
		has := `array_prepend(` + alias + `.mission_id::text, ` + alias + `.tags) @> ARRAY[`
		return idQuery{from, id, condition{has + `$?]` + and, tag}, ` AND ` + has + `one.id::text]`, true, false}
	}
	f.havingText(`h.tags @> ARRAY[$?]`, tag)
	f.rare = append(f.rare, tagged("specs s", "s", "s.id", ""))
	f.rareReady = append(f.rareReady, tagged("spec_states h", "h", "h.spec_id", ` AND `+unblockedSQL))
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
	f.onlyReady = true
	f.having(readySQL, nil)
	f.byIndex("spec_states h", "h.spec_id", unblockedSQL, nil)
}

// held leaves the specs that the account holds.
func (f *specFilter) held() {
	f.having(`h.spec_id IN (SELECT spec_id FROM leases WHERE user_id = $?)`, f.account.userID)
	f.byIndex("leases l", "l.spec_id", `l.user_id = $?`, f.account.userID)
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

// findSpecs reads a page of specs: their ids first, from a filter that leaves few or
// along an index, and then what is shown of them, with snippets if it is a search.
func (s *Server) findSpecs(ctx context.Context, f *specFilter, o listOrder[specSummary]) (list[specSummary], error) {
	listed := cmp.Or(f.mission, f.account.userID)
	ctx, end, err := s.beginRead(ctx, f.account, o.text, s.seen.of(listed).costly)
	if err != nil {
		return list[specSummary]{}, err
	}
	defer end()
	few, err := s.wayToSpecs(ctx, f, o)
	if err != nil {
		return list[specSummary]{}, err
	}
	specs, err := s.readSpecs(ctx, f, o, few)
	if n := len(specs); err == nil && f.full && len(f.rare) > 0 && n > 0 && specs[n-1].ended {
		if few, _, err = s.wholeOfFewest(ctx, &f.listFilter, f.rare); err == nil {
			specs, err = s.readSpecs(ctx, f, o, few)
		}
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

// wayToSpecs returns what finds the few specs that a page is among, or nil if it is
// found along an index. It also sets how f goes along that.
func (s *Server) wayToSpecs(ctx context.Context, f *specFilter, o listOrder[specSummary]) (few *idQuery, err error) {
	if f.mission == "" && f.scope == nil {
		if err := s.seeMissions(ctx, &f.listFilter, ""); err != nil {
			return nil, err
		}
	}
	if f.inOrder(o) && o.text == "" {
		return nil, nil
	}
	if f.onlyReady {
		f.rare = slices.Concat(f.rareReady, f.rare)
	}
	few, err = s.narrow(ctx, &f.listFilter)
	switch {
	case err != nil || few != nil:
	case o.text != "" && f.scope != nil:
		f.wordsFirst, err = s.expectsFewerWords(ctx, &f.listFilter, o.text)
	case o.text == "" && f.oneByOne() && f.passesOver(o):
		f.rows, err = s.walkedOfEach(ctx, f.scope, o.limit+1)
	}
	return few, err
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
// the list, such as a mission's specs of one status, or of one phase, by number.
func (f *specFilter) inOrder(o listOrder[specSummary]) bool {
	return len(f.conditions) == 1 && f.stretchOf(o) != nil
}

// stretchOf returns the stretch that a walk goes along, or nil.
func (f *specFilter) stretchOf(o listOrder[specSummary]) *stretch {
	for i, its := range f.stretches {
		if its.order == o.key.column && (its.wide || f.mission != "") {
			return &f.stretches[i]
		}
	}
	return nil
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
	switch {
	case few != nil && o.text != "":
		with = `few AS MATERIALIZED (` + f.ids(*few, q) + `), `
	case few != nil:
		with = `few AS MATERIALIZED (` + f.states(*few, q) + `), `
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
	sql := `SELECT h.spec_id AS id, ` + key + ` AS key FROM few AS h`
	if f.stranger() || f.ofMission {
		sql += f.ofMissionSQL(q)
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

// ofMissionSQL joins the mission m of each state h, read once if it is the same for all.
func (f *specFilter) ofMissionSQL(q *statement) string {
	const columns = `SELECT id, status, owner_id FROM `
	if f.mission != "" {
		return ` CROSS JOIN (WITH mission AS MATERIALIZED (` + columns + `missions WHERE id = ` + q.bind(f.mission) + `) ` +
			columns + `mission) AS m`
	}
	return ` CROSS JOIN LATERAL (` + columns + `missions WHERE id = h.mission_id OFFSET 0) AS m`
}

// states returns the SQL of the states, their stateColumns, of what an idQuery finds.
func (f *specFilter) states(of idQuery, q *statement) string {
	if of.id == "h.spec_id" {
		return f.columns(stateColumns, of, q)
	}
	return `SELECT h.* FROM (` + f.ids(of, q) + `) AS found CROSS JOIN LATERAL (` + stateSQL("found.id") + `) AS h`
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

// specWalk goes along an index of specs w, or of their states, in the order of a list.
type specWalk struct {
	table, id, key string
	parts          []string // conditions; of several, each has a part of the index in that order
	order          string
}

// walk returns the walk that a list goes, from where its page starts.
func (f *specFilter) walk(q *statement, o listOrder[specSummary]) specWalk {
	w := specWalk{table: "specs", id: "w.id", key: "w." + o.key.column, parts: []string{""}}
	if its := f.stretchOf(o); its != nil {
		w.table, w.parts = its.table, nil
		for _, part := range its.conditions {
			w.parts = append(w.parts, " AND "+part.in(q))
		}
	} else if o.key.column == "updated_at" {
		w.table = "spec_states"
	}
	if w.table == "spec_states" {
		w.id = "w.spec_id"
	}
	rest := o.compared(q, w.key, w.id)
	if f.mission != "" {
		rest += " AND w.mission_id = " + q.bind(f.mission)
	}
	for i := range w.parts {
		w.parts[i] += rest
	}
	w.order = o.sorted(w.key, w.id)
	return w
}

// rows returns the SQL of some of the rows, of one mission if there is a condition that
// says so.
func (w specWalk) rows(columns, mission string, limit, offset int) string {
	part := func(columns, having string, limit int) string {
		return fmt.Sprintf(`SELECT %s FROM %s w WHERE true%s%s%s LIMIT %d`,
			columns, w.table, having, mission, w.order, limit)
	}
	if len(w.parts) == 1 {
		return fmt.Sprintf("%s OFFSET %d", part(columns, w.parts[0], limit), offset)
	}
	var parts []string
	for _, its := range w.parts {
		parts = append(parts, "("+part(stateColumns, its, limit+offset)+")")
	}
	return fmt.Sprintf(`SELECT %s FROM (%s) AS w%s LIMIT %d OFFSET %d`,
		columns, strings.Join(parts, " UNION ALL "), w.order, limit, offset)
}

// walkedIDs is the query for the ids and sort keys of a page along an index that has
// the order of the list. It goes through a few missions one by one: those whose first
// spec comes first have all of the page. If it passesOver specs it ends after walkedRows,
// see endedIDs, and what is filtered by is read on the way: with OFFSET 0 or a LIMIT,
// whatever PostgreSQL expects of the conditions.
func (f *specFilter) walkedIDs(q *statement, o listOrder[specSummary]) string {
	w := f.walk(q, o)
	idAndKey := w.id + ` AS id, ` + w.key + ` AS key`
	switch {
	case f.passesOver(o):
	case f.oneByOne():
		return o.merged(q.bind(f.scope), func(mission string, limit int) string {
			return w.rows(idAndKey, mission, limit, 0)
		}, "")
	default:
		return w.rows(idAndKey, "", o.limit+1, 0)
	}
	rows, where := cmp.Or(f.rows, walkedRows), f.where(q)
	if f.stranger() {
		where += " AND " + readableSQL
	}
	page := func(mission string, limit int) string {
		columns := stateColumns
		if w.table == "specs" {
			columns = textColumns
		}
		from, id, key := `(`+w.rows(columns, mission, rows, 0)+`) AS h`, "h.spec_id", "h."+o.key.column
		if w.table == "specs" && len(f.inText) < len(f.conditions) { // and of the state, then
			texts := w.rows(idAndKey, mission, rows, 0)
			if len(f.inText) > 0 {
				texts = `SELECT spec_id AS id, ` + o.key.column + ` AS key FROM ` + from + whereSQL(f.inText, q)
			}
			from, id, key = `(`+texts+`) AS w CROSS JOIN LATERAL (`+stateSQL("w.id")+`) AS h`, "w.id", "w.key"
		}
		if f.stranger() || f.ofMission {
			from += f.ofMissionSQL(q)
		}
		return fmt.Sprintf(`SELECT %s AS id, %s AS key FROM %s LIMIT %d`, id, key, from+where+o.sorted(key, id), limit)
	}
	if !f.oneByOne() {
		return o.endedIDs(w.rows(idAndKey, "", 1, rows-1), page("", o.limit+1))
	}
	missions := q.bind(f.scope)
	ends := `SELECT its.id, its.key FROM unnest(` + missions + `::uuid[]) AS one (id)
		CROSS JOIN LATERAL (` + w.rows(idAndKey, ofOne, 1, rows-1) + `) AS its` + o.sorted("its.key", "its.id") + ` LIMIT 1`
	return o.endedIDs(ends, o.merged(missions, page, ` WHERE NOT EXISTS (
		SELECT FROM walked WHERE (its.key, its.id) `+o.pick(">", "<")+` (walked.key, walked.id))`))
}
