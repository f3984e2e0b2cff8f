package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/specfile"
)

// specStatuses are what a spec goes through; specs_work.go says how they follow
// each other.
var specStatuses = []string{"planned", "in_progress", "in_review", "testing", "completed", "blocked", "deferred"}

// readySQL is what ready means, everywhere: the mission m is active, the spec
// s is planned, nobody holds it (holding it would make it in_progress) and all
// that it depends on is completed.
const readySQL = `(m.status = 'active' AND ` + unblockedSQL + `)`

// unblockedSQL is what a spec's state h says of it.
const unblockedSQL = `h.status = 'planned' AND h.unmet = 0`

// specSummary is a spec as lists show it.
type specSummary struct {
	ID               string          `json:"id"`
	MissionID        string          `json:"mission_id"`
	Key              string          `json:"key"`
	Number           string          `json:"number"`
	Title            string          `json:"title"`
	Phase            string          `json:"phase"`
	Status           string          `json:"status"`
	Priority         int             `json:"priority"`
	Tags             []string        `json:"tags"`
	EstimatedContext string          `json:"estimated_context"`
	Dependencies     json.RawMessage `json:"dependencies"`
	Ready            bool            `json:"ready"`
	Claim            *claimView      `json:"claim"`
	Attempts         int             `json:"attempts"`
	Version          int64           `json:"version"`
	CreatedAt        time.Time       `json:"created_at"`
	UpdatedAt        time.Time       `json:"updated_at"`
	Snippet          *string         `json:"snippet,omitempty"` // of a search

	missionStatus string
	numberOrder   string
	cycle         int // how many specs depend on each other in its circle; 0 for none
}

// specView is a spec as it is shown alone.
type specView struct {
	specSummary
	Body       string               `json:"body"`
	Criteria   []specfile.Criterion `json:"criteria"`
	Dependents json.RawMessage      `json:"dependents"`
}

// claimView says who holds a spec.
type claimView struct {
	Agent     string    `json:"agent"`
	UserID    string    `json:"user_id"`
	ClaimedAt time.Time `json:"claimed_at"`
	ExpiresAt time.Time `json:"expires_at"`
	Attempt   int       `json:"attempt"`
}

const relatedSQL = `SELECT coalesce(json_agg(json_build_object('id', o.id, 'key', o.key, 'title', o.title, 'status', p.status)
	ORDER BY o.number_order, o.id), '[]')
	FROM dependencies d JOIN specs o ON o.id = d.%s JOIN spec_states p ON p.spec_id = o.id WHERE d.%s = s.id`

// dependenciesSQL and dependentsSQL list the specs that a spec s is related to.
var (
	dependenciesSQL = fmt.Sprintf(relatedSQL, "depends_on", "spec_id")
	dependentsSQL   = fmt.Sprintf(relatedSQL, "spec_id", "depends_on")
)

var summaryColumns = `s.id, s.mission_id, s.key, s.number, s.title, s.phase, h.status, s.priority, s.tags,
	s.estimated_context, ` + readySQL + `, h.attempts, h.version, s.created_at, h.updated_at, m.status, s.number_order, h.cycle,
	l.agent, l.user_id, l.claimed_at, l.expires_at, l.attempt, (` + dependenciesSQL + `)`

// specsSQL reads specs s, each with its state h, of missions that user $1 ($2:
// an admin) may see.
const specsSQL = `
	FROM specs s JOIN spec_states h ON h.spec_id = s.id JOIN missions m ON m.id = s.mission_id
	LEFT JOIN leases l ON l.spec_id = s.id
	WHERE ` + readableSQL

// summaryFields are where a row of summaryColumns goes; claim builds Claim.
func (v *specSummary) fields(claim *nullableClaim) []any {
	return []any{&v.ID, &v.MissionID, &v.Key, &v.Number, &v.Title, &v.Phase, &v.Status, &v.Priority, &v.Tags,
		&v.EstimatedContext, &v.Ready, &v.Attempts, &v.Version, &v.CreatedAt, &v.UpdatedAt, &v.missionStatus, &v.numberOrder, &v.cycle,
		&claim.agent, &claim.userID, &claim.claimedAt, &claim.expiresAt, &claim.attempt, &v.Dependencies}
}

// nullableClaim is a lease that may not be there.
type nullableClaim struct {
	agent, userID        *string
	claimedAt, expiresAt *time.Time
	attempt              *int
}

func (c nullableClaim) view() *claimView {
	if c.agent == nil {
		return nil
	}
	return &claimView{*c.agent, *c.userID, *c.claimedAt, *c.expiresAt, *c.attempt}
}

// oneSpecSQL reads the spec $3, whole, but for its text if its version is $4.
var oneSpecSQL = `SELECT ` + summaryColumns + `, CASE WHEN h.version <> $4 THEN s.body END, h.done, s.derived_status,
	(` + dependentsSQL + `)` + specsSQL + ` AND s.id = $3`

// noVersion makes oneSpecSQL read the text.
const noVersion = 0

// criteriaAsDone are a body's criteria, in the states that are stored of them.
func criteriaAsDone(body string, done []bool) []specfile.Criterion {
	criteria := specfile.Criteria(body)
	for i := range min(len(criteria), len(done)) {
		criteria[i].Done = done[i]
	}
	return criteria
}

// specRow is a row of oneSpecSQL, of which view makes what clients see.
type specRow struct {
	specSummary
	claim      nullableClaim
	body       *string
	derived    string
	done       []bool
	dependents json.RawMessage
}

// scan reads a row of oneSpecSQL, after the columns that go to before.
func (v *specRow) scan(row pgx.CollectableRow, before ...any) error {
	fields := append(before, v.fields(&v.claim)...)
	return row.Scan(append(fields, &v.body, &v.done, &v.derived, &v.dependents)...)
}

// view parses the body, if it is there, and shows its criteria and status as
// they stand.
func (v specRow) view() specView {
	view := specView{specSummary: v.specSummary, Dependents: v.dependents}
	view.Claim = v.claim.view()
	if v.body != nil {
		view.Criteria = orEmpty(criteriaAsDone(*v.body, v.done))
		view.Body = specfile.Render(*v.body, v.done, v.Status, v.derived)
	}
	return view
}

// readWholeSpec reads one spec for an account, text and all.
func readWholeSpec(ctx context.Context, q querier, a account, id string) (specView, error) {
	rows, err := q.Query(ctx, oneSpecSQL, a.userID, a.admin(), id, noVersion)
	if err != nil {
		return specView{}, fmt.Errorf("reading a spec: %w", err)
	}
	found, err := pgx.CollectExactlyOneRow(rows, scanSpec)
	return found.view(), notFoundOr(err, "reading a spec")
}

func scanSpec(row pgx.CollectableRow) (v specRow, err error) {
	err = v.scan(row)
	return v, err
}

// askView queues a read of a spec as it then is, and returns what gives it
// once it was sent.
func (t *tx) askView(id string) func() (specView, error) {
	var found specRow
	err := pgx.ErrNoRows
	t.queue(oneSpecSQL, t.account.userID, t.account.admin(), id, noVersion).Query(func(rows pgx.Rows) error {
		var read error
		if found, read = pgx.CollectExactlyOneRow(rows, scanSpec); !errors.Is(read, pgx.ErrNoRows) {
			err = read
			return read
		}
		return nil
	})
	return func() (specView, error) {
		if err != nil {
			return specView{}, notFoundOr(err, "reading a spec")
		}
		return found.view(), nil
	}
}

// specReply answers with the spec as it is in the end.
func (t *tx) specReply(id string, status int) reply {
	view := t.askView(id)
	return reply{status: status, finish: func(a *reply) error {
		v, err := view()
		a.body, a.etag = v, etagOf(v.Version)
		return err
	}}
}

// specSorts are the sort keys of the spec list. By updated_at it walks the
// specs' states, else their texts.
var specSorts = map[string]sortKey[specSummary]{
	"number":     {"number_order", "text", func(v specSummary) string { return v.numberOrder }},
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
}

func newSpecFilter(a account, mission string) *specFilter {
	f := &specFilter{listFilter: *newListFilter(a), mission: mission}
	if mission != "" {
		f.scope = []string{mission}
	}
	fmt.Fprintf(&f.shape, "mission=%q ", mission)
	return f
}

func (f *specFilter) byStatus(status string) {
	if f.status = status; status != "" {
		f.having(`h.status = $?`, status)
		f.byIndex(`SELECT h.spec_id AS id FROM spec_states h WHERE h.status = $?`, status,
			` AND h.mission_id = one.id`)
	}
}

// byIndex adds a query for the ids that a condition leaves, see idQuery.
func (f *specFilter) byIndex(sql string, value any, mission string) {
	f.rare = append(f.rare, idQuery{condition: condition{sql, value}, mission: mission})
}

// phaseNames are a phase as given and, where that differs, in the form that
// imports store.
func phaseNames(phase string) []string {
	if phase == "" {
		return nil
	}
	return slices.Compact([]string{phase, specfile.CanonicalPhase(phase)})
}

// byPhase takes a phase as given or in the form that imports store.
func (f *specFilter) byPhase(phase string) {
	if f.phase = phase; phase != "" {
		f.having(`h.phase = ANY($?)`, phaseNames(phase))
		f.byIndex(`SELECT s.id FROM specs s WHERE s.phase = ANY($?)`, phaseNames(phase), ` AND s.mission_id = one.id`)
	}
}

// byTag goes by an index in which a spec's mission counts as one of its tags.
func (f *specFilter) byTag(tag string) {
	if tag != "" {
		f.having(`h.tags @> ARRAY[$?]`, tag)
		f.rare = append(f.rare, idQuery{
			condition{`SELECT s.id FROM specs s WHERE array_prepend(s.mission_id::text, s.tags) @> ARRAY[$?]`, tag},
			` AND array_prepend(s.mission_id::text, s.tags) @> ARRAY[one.id::text]`, true,
		})
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
func (s *Server) listSpecs(w http.ResponseWriter, r *http.Request) error {
	q := newQuery(r, "mission_id", "status", "phase", "tag", "ready", "claimed", "q", "sort", "limit", "cursor")
	filter := newSpecFilter(callOf(r).account, q.id("mission_id"))
	if q.choice("claimed", "", "mine") == "mine" {
		filter.held()
	}
	filter.byTag(q.text("tag", 64))
	filter.byReady(q.flag("ready"))
	filter.byPhase(q.text("phase", 200))
	filter.byStatus(q.choice("status", "", specStatuses...))
	order := readOrder(q, specSorts, "number", &filter.listFilter)
	if err := q.err(); err != nil {
		return err
	}
	specs, err := s.findSpecs(r.Context(), filter, order)
	if err != nil {
		return err
	}
	return respondOK(w, r, specs)
}

// findSpecs reads a page of specs: their ids first, by the index that leaves
// the fewest, and then what is shown of them, with snippets if it is a search.
func (s *Server) findSpecs(ctx context.Context, f *specFilter, o order[specSummary]) (list[specSummary], error) {
	ctx, end, err := s.beginSearch(ctx, o.text)
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
	specs, err := s.readSpecs(ctx, f, o, few)
	if err == nil && few == nil && f.bounded(o) && len(specs) <= o.limit {
		specs, err = s.readSpecs(ctx, f, o, &f.rare[0])
	}
	if err != nil {
		return list[specSummary]{}, err
	}
	return page(specs, o.limit, func(v specSummary) string { return o.cursor(v, v.ID) }), nil
}

// readSpecs reads one spec more than a page has, if there are so many.
func (s *Server) readSpecs(ctx context.Context, f *specFilter, o order[specSummary], few *idQuery) ([]specSummary, error) {
	q := statement{[]any{f.account.userID, f.account.admin()}}
	sql := specsPageSQL(&q, f, o, few)
	args := q.args
	if len(f.conditions) > 0 && !f.inOrder(o) || o.text != "" || f.scope != nil && f.mission == "" {
		args = plannedAnew(args)
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
func (f *specFilter) inOrder(o order[specSummary]) bool {
	return f.mission != "" && o.key.column == "number_order" && len(f.conditions) == 1 &&
		(f.status != "" || f.phase != "" && len(phaseNames(f.phase)) == 1)
}

// bounded reports whether the walk along the order's index ends after
// walkedRows, since there is another way to what the filter leaves.
func (f *specFilter) bounded(o order[specSummary]) bool {
	return o.text == "" && !f.inOrder(o) && len(f.rare) > 0 && (f.mission != "" || f.scope == nil)
}

// specsPageSQL is the statement of readSpecs.
func specsPageSQL(q *statement, f *specFilter, o order[specSummary], few *idQuery) string {
	with, ids := "", ""
	if few != nil {
		with = `few AS MATERIALIZED (` + f.ids(*few, q) + `), `
	}
	snippet, last := "NULL", o.sorted("page.key", "s.id")
	switch {
	case o.text != "":
		query := `websearch_to_tsquery('english', ` + q.bind(o.text) + `)`
		ids = f.foundIDs(q, query, few)
		snippet = `ts_headline('english', left(s.body, 4096), ` + query + `,
			'StartSel=**, StopSel=**, MaxFragments=1, MaxWords=30, MinWords=10')`
		last = ` ORDER BY ts_rank(s.search, ` + query + `) DESC, s.id LIMIT ` + q.bind(o.limit)
	case few != nil:
		ids = f.fewIDs(q, o)
	default:
		ids = f.walkedIDs(q, o)
	}
	mission := "s.mission_id"
	if f.mission != "" {
		mission = q.bind(f.mission) // which is then looked up once
	}
	return `WITH ` + with + `page AS MATERIALIZED (` + ids + `)
		SELECT ` + summaryColumns + `, ` + snippet + `
		FROM page JOIN specs s USING (id) JOIN spec_states h ON h.spec_id = s.id JOIN missions m ON m.id = ` + mission + `
		LEFT JOIN leases l ON l.spec_id = s.id WHERE ` + readableSQL + last
}

// foundIDs is the query for the ids of what a search finds, among few if
// that isn't nil.
func (f *specFilter) foundIDs(q *statement, query string, few *idQuery) string {
	from := "specs s"
	if few != nil {
		from = "few JOIN specs s USING (id)"
	}
	sql := `SELECT s.id FROM ` + from + ` JOIN spec_states h ON h.spec_id = s.id JOIN missions m ON m.id = s.mission_id` +
		f.where(q) + ` AND s.search @@ ` + query
	if f.scope != nil {
		sql += " AND s.mission_id = ANY(" + q.bind(f.scope) + ")"
	} else {
		sql += " AND " + readableSQL
	}
	return fmt.Sprintf("%s LIMIT %d", sql, rankedMatches)
}

// fewIDs is the query for the ids and sort keys of a page of what few leaves,
// all of which is read (OFFSET 0 sees to that) and sorted.
func (f *specFilter) fewIDs(q *statement, o order[specSummary]) string {
	key := "h." + o.key.column
	sql := `SELECT h.spec_id AS id, ` + key + ` AS key FROM few JOIN spec_states h ON h.spec_id = few.id
		JOIN missions m ON m.id = h.mission_id` + f.where(q) + o.compared(q, key, "h.spec_id")
	if f.scope != nil {
		sql += " AND h.mission_id = ANY(" + q.bind(f.scope) + ")"
	} else {
		sql += " AND " + readableSQL
	}
	return `SELECT id, key FROM (` + sql + ` OFFSET 0) AS narrowed` +
		o.sorted("key", "id") + ` LIMIT ` + q.bind(o.limit+1)
}

// walkedIDs is the query for the ids and sort keys of a page along an index w
// that has the order of the list. Everything else is looked up on the way: with
// OFFSET 0, whatever PostgreSQL expects of the conditions. It goes through a few
// missions one by one: those whose first spec comes first have all of the page.
func (f *specFilter) walkedIDs(q *statement, o order[specSummary]) string {
	from, id, where, along := "specs w", "w.id", " WHERE true", ""
	if o.key.column == "updated_at" || f.inOrder(o) && f.status != "" {
		from, id = "spec_states w", "w.spec_id"
	}
	switch {
	case !f.inOrder(o):
		where = f.where(q)
	case f.status != "":
		along = " AND w.status = " + q.bind(f.status)
	default:
		along = " AND w.phase = " + q.bind(f.phase)
	}
	if f.mission != "" {
		along += " AND w.mission_id = " + q.bind(f.mission)
	}
	key := "w." + o.key.column
	along += o.compared(q, key, id)
	if f.bounded(o) {
		from = fmt.Sprintf("(SELECT %s, %s FROM %s WHERE true%s%s LIMIT %d) AS w",
			id, key, from, along, o.sorted(key, id), walkedRows)
		along = ""
	}
	stranger := f.scope == nil && !f.account.admin()
	if stranger || len(f.conditions) > 0 && !f.inOrder(o) {
		from += ` CROSS JOIN LATERAL (
			SELECT spec_id, mission_id, status, unmet, phase, tags FROM spec_states WHERE spec_id = ` + id + ` OFFSET 0) AS h`
	}
	if stranger || f.ofMission {
		from += ` CROSS JOIN LATERAL (
			SELECT id, status, owner_id FROM missions WHERE id = h.mission_id OFFSET 0) AS m`
	}
	if stranger {
		where += " AND " + readableSQL
	}
	page := func(mission, limit string) string {
		return `SELECT ` + id + ` AS id, ` + key + ` AS key FROM ` + from + where + along + mission +
			o.sorted(key, id) + ` LIMIT ` + limit
	}
	limit := q.bind(o.limit + 1)
	if f.mission != "" || f.scope == nil {
		return page("", limit)
	}
	const ofOne = " AND w.mission_id = one.id"
	return `SELECT its.id, its.key FROM (
			SELECT one.id FROM unnest(` + q.bind(f.scope) + `::uuid[]) AS one (id)
			CROSS JOIN LATERAL (` + page(ofOne, "1") + `) AS first` +
		o.sorted("first.key", "first.id") + ` LIMIT ` + limit + `
		) AS one CROSS JOIN LATERAL (` + page(ofOne, limit) + `) AS its` +
		o.sorted("its.key", "its.id") + ` LIMIT ` + limit
}

// collectSummaries reads all rows of summaryColumns and a snippet, of which
// there are at most so many.
func collectSummaries(rows pgx.Rows, most int) ([]specSummary, error) {
	summaries := make([]specSummary, 0, most)
	var v specSummary
	var claim nullableClaim
	_, err := pgx.ForEachRow(rows, append(v.fields(&claim), &v.Snippet), func() error {
		v.Claim = claim.view()
		summaries = append(summaries, v)
		return nil
	})
	return summaries, err
}

// getSpec is GET /api/v1/specs/{id}: the object, or with Accept: text/markdown
// the file.
func (s *Server) getSpec(w http.ResponseWriter, r *http.Request) error {
	if err := newQuery(r).err(); err != nil {
		return err
	}
	v, err := s.readSpec(r.Context(), callOf(r).account, callOf(r).target.spec)
	if err != nil {
		return err
	}
	w.Header().Add("Vary", "Accept")
	w.Header().Set("ETag", etagOf(v.Version))
	if strings.Contains(r.Header.Get("Accept"), "text/markdown") {
		writeBytes(w, r, http.StatusOK, "text/markdown; charset=utf-8", []byte(v.markdown))
		return nil
	}
	encoded, err := v.encode()
	if err != nil {
		return err
	}
	writeBytes(w, r, http.StatusOK, "application/json", encoded)
	return nil
}
