package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// specStatuses are the stations of a spec's life; work.go says how they follow
// each other.
var specStatuses = []string{"planned", "in_progress", "in_review", "testing", "completed", "blocked", "deferred"}

// readySQL is what ready means, everywhere: the mission m is active, the spec
// s is planned, nobody holds it (holding it would make it in_progress) and all
// that it depends on is completed.
const readySQL = `(m.status = 'active' AND s.status = 'planned' AND s.unmet = 0)`

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

	numberOrder string
}

// specView is a spec as it is shown alone.
type specView struct {
	specSummary
	Body       string          `json:"body"`
	Criteria   []criterion     `json:"criteria"`
	Dependents json.RawMessage `json:"dependents"`
}

// claimView says who holds a spec.
type claimView struct {
	Agent     string    `json:"agent"`
	UserID    string    `json:"user_id"`
	ClaimedAt time.Time `json:"claimed_at"`
	ExpiresAt time.Time `json:"expires_at"`
	Attempt   int       `json:"attempt"`
}

const (
	summaryColumns = `s.id, s.mission_id, s.key, s.number, s.title, s.phase, s.status, s.priority, s.tags,
		s.estimated_context, ` + readySQL + `, s.attempts, s.version, s.created_at, s.updated_at, s.number_order,
		l.agent, l.user_id, l.claimed_at, l.expires_at, l.attempt,
		(` + relatedSQL + `ON o.id = d.depends_on WHERE d.spec_id = s.id)`

	// specsSQL reads specs s of missions that user $1 ($2: an admin) may see.
	specsSQL = `
		FROM specs s JOIN missions m ON m.id = s.mission_id LEFT JOIN leases l ON l.spec_id = s.id
		WHERE ` + readableSQL

	relatedSQL = `SELECT coalesce(json_agg(json_build_object('id', o.id, 'key', o.key, 'title', o.title, 'status', o.status)
		ORDER BY o.number_order, o.id), '[]') FROM dependencies d JOIN specs o `
)

// summaryFields are where a row of summaryColumns goes; claim builds Claim.
func (v *specSummary) fields(claim *nullableClaim) []any {
	return []any{&v.ID, &v.MissionID, &v.Key, &v.Number, &v.Title, &v.Phase, &v.Status, &v.Priority, &v.Tags,
		&v.EstimatedContext, &v.Ready, &v.Attempts, &v.Version, &v.CreatedAt, &v.UpdatedAt, &v.numberOrder,
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

// oneSpecSQL reads the spec $3, whole.
const oneSpecSQL = `SELECT ` + summaryColumns + `, s.body, s.done, s.derived_status,
		(` + relatedSQL + `ON o.id = d.spec_id WHERE d.depends_on = s.id)` + specsSQL + ` AND s.id = $3`

// criteriaAsDone are a body's criteria, in the states that are stored of them.
func criteriaAsDone(body string, done []bool) []criterion {
	criteria := parseCriteria(body)
	for i := range min(len(criteria), len(done)) {
		criteria[i].Done = done[i]
	}
	return criteria
}

// specRow is a row of oneSpecSQL, of which view makes what clients see.
type specRow struct {
	specSummary
	claim         nullableClaim
	body, derived string
	done          []bool
	dependents    json.RawMessage
}

// scan reads a row of oneSpecSQL, after the columns that go to before.
func (v *specRow) scan(row pgx.CollectableRow, before ...any) error {
	fields := append(before, v.fields(&v.claim)...)
	return row.Scan(append(fields, &v.body, &v.done, &v.derived, &v.dependents)...)
}

// view parses the body and shows its criteria and status as they stand.
func (v specRow) view() specView {
	view := specView{specSummary: v.specSummary, Criteria: orEmpty(criteriaAsDone(v.body, v.done)), Dependents: v.dependents}
	view.Claim = v.claim.view()
	view.Body = renderSpec(v.body, v.done, v.Status, v.derived)
	return view
}

// readSpec reads one spec for an account.
func readSpec(ctx context.Context, q querier, a account, id string) (specView, error) {
	rows, err := q.Query(ctx, oneSpecSQL, a.userID, a.admin(), id)
	if err != nil {
		return specView{}, fmt.Errorf("reading a spec: %w", err)
	}
	found, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (v specRow, err error) {
		err = v.scan(row)
		return v, err
	})
	if err != nil {
		return specView{}, notFoundOr(err, "reading a spec")
	}
	return found.view(), nil
}

// specReply flushes the events and answers with the spec as it then is.
func (t *tx) specReply(ctx context.Context, id string, status int) (reply, error) {
	if err := t.flush(ctx); err != nil {
		return reply{}, err
	}
	v, err := readSpec(ctx, t, t.account, id)
	return reply{status: status, body: v, etag: etagOf(v.Version)}, err
}

// specSorts are the sort keys of the spec list.
var specSorts = map[string]sortKey[specSummary]{
	"number":     {"s.number_order", "text", func(v specSummary) string { return v.numberOrder }},
	"priority":   {"s.priority", "smallint", func(v specSummary) string { return strconv.Itoa(v.Priority) }},
	"updated_at": {"s.updated_at", "timestamptz", func(v specSummary) string { return timeText(v.UpdatedAt) }},
}

// listSpecs is GET /api/v1/specs.
func (s *Server) listSpecs(w http.ResponseWriter, r *http.Request) error {
	q := newQuery(r, "mission_id", "status", "phase", "tag", "ready", "claimed", "q", "sort", "limit", "cursor")
	filter := newListFilter(callOf(r).account)
	filter.equal("s.mission_id", q.id("mission_id"))
	filter.equal("s.status", q.choice("status", "", specStatuses...))
	filter.phase(q.text("phase", 200))
	filter.having("s.tags @> ARRAY[%s]", q.text("tag", 64))
	filter.is(readySQL, q.flag("ready"))
	if q.choice("claimed", "", "mine") == "mine" {
		filter.is("l.user_id = $1", new(true))
	}
	order := readOrder(q, specSorts, "number", filter)
	if err := q.err(); err != nil {
		return err
	}
	specs, err := s.findSpecs(r.Context(), filter, order)
	if err != nil {
		return err
	}
	return respondOK(w, r, specs)
}

// findSpecs reads a page of specs, with snippets if it is a search.
func (s *Server) findSpecs(ctx context.Context, filter *listFilter, order order[specSummary]) (list[specSummary], error) {
	ctx, end, err := s.beginSearch(ctx, order.text)
	if err != nil {
		return list[specSummary]{}, err
	}
	defer end()
	filter.search("s.search", order.text)
	snippet := "NULL"
	if order.text != "" {
		snippet = fmt.Sprintf(`ts_headline('english', left(s.body, 4096), websearch_to_tsquery('english', %s),
			'StartSel=**, StopSel=**, MaxFragments=1, MaxWords=30, MinWords=10')`, filter.bind(order.text))
	}
	sql := `SELECT ` + summaryColumns + `, ` + snippet + specsSQL + filter.sql() + order.sql("s", filter)
	rows, err := s.db.Query(ctx, sql, filter.args...)
	if err != nil {
		return list[specSummary]{}, fmt.Errorf("listing specs: %w", err)
	}
	specs, err := pgx.CollectRows(rows, scanSummary)
	if err != nil {
		return list[specSummary]{}, fmt.Errorf("listing specs: %w", err)
	}
	return page(specs, order.limit, func(v specSummary) string { return order.cursor(v, v.ID) }), nil
}

// scanSummary reads a row of summaryColumns and a snippet.
func scanSummary(row pgx.CollectableRow) (v specSummary, err error) {
	var claim nullableClaim
	err = row.Scan(append(v.fields(&claim), &v.Snippet)...)
	v.Claim = claim.view()
	return v, err
}

// getSpec is GET /api/v1/specs/{id}: the object, or with Accept: text/markdown
// the file.
func (s *Server) getSpec(w http.ResponseWriter, r *http.Request) error {
	if err := newQuery(r).err(); err != nil {
		return err
	}
	a := callOf(r).account
	found, err := s.specs.get(r.Context(), lookup{a.userID, a.admin(), callOf(r).target.spec})
	if err != nil {
		return notFoundOr(err, "reading a spec")
	}
	v := found.view()
	w.Header().Add("Vary", "Accept")
	if strings.Contains(r.Header.Get("Accept"), "text/markdown") {
		w.Header().Set("ETag", etagOf(v.Version))
		writeBytes(w, r, http.StatusOK, "text/markdown; charset=utf-8", []byte(v.Body))
		return nil
	}
	return respond(w, r, reply{status: http.StatusOK, body: v, etag: etagOf(v.Version)})
}
