package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/gather"
	"tachikoma/internal/specfile"
)

// specStatus is a status that specs have, and what follows from it.
type specStatus struct {
	name   string
	counts bool // they are part of their mission: of its total and of its criteria
	open   bool // they keep their mission from completing
	waits  bool // for a person
}

// specWorkflow has every status, in the order of the work. SQL, counters, JSON and
// metrics are made from it; specs_work.go says how the statuses follow each other.
var specWorkflow = []specStatus{
	{name: "proposed", waits: true},
	{name: "planned", counts: true, open: true},
	{name: "in_progress", counts: true, open: true},
	{name: "in_review", counts: true, open: true, waits: true},
	{name: "testing", counts: true, open: true},
	{name: "completed", counts: true},
	{name: "blocked", counts: true, open: true},
	{name: "deferred", counts: true},
}

// The names of all statuses, and of some.
var (
	specStatuses    = statusesThat(func(specStatus) bool { return true })
	countedStatuses = statusesThat(func(s specStatus) bool { return s.counts })
	openStatuses    = statusesThat(func(s specStatus) bool { return s.open })
	waitingStatuses = statusesThat(func(s specStatus) bool { return s.waits })

	unfinishedStatuses = statusesThat(func(s specStatus) bool { return s.name != "completed" })
)

func statusesThat(are func(specStatus) bool) (names []string) {
	for _, status := range specWorkflow {
		if are(status) {
			names = append(names, status.name)
		}
	}
	return names
}

// waitsSinceSQL is since when a spec waits for a person that has just been given a
// status, an SQL expression: NULL where it doesn't.
func waitsSinceSQL(status string) string {
	return `CASE WHEN ` + status + ` IN ('` + strings.Join(waitingStatuses, `', '`) + `') THEN clock_timestamp() END`
}

// readySQL is what ready means: the mission m is active, the spec with the state h
// is planned, nobody holds it (holding it would make it in_progress) and all that
// it depends on is completed. The indexes spec_states_ready… repeat unblockedSQL,
// and so does the counter in tallyOf.
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
	CriteriaTotal    int             `json:"criteria_total"`
	CriteriaDone     int             `json:"criteria_done"`
	Ready            bool            `json:"ready"`
	Claim            *claimView      `json:"claim"`
	Attempts         int             `json:"attempts"`
	Review           *string         `json:"review"`
	ApprovedBy       *string         `json:"approved_by"`
	Version          int64           `json:"version"`
	CreatedAt        time.Time       `json:"created_at"`
	UpdatedAt        time.Time       `json:"updated_at"`
	Snippet          *string         `json:"snippet,omitempty"` // of a search

	ended         bool // in a list: it isn't of the page, but where the walk for it ended
	missionStatus string
	place         string
	cycle         int // how many specs depend on each other in its circle; 0 for none
	asked         int // open questions
}

func (v *specSummary) etag() string     { return etagOf(v.Version) }
func (v *specSummary) location() string { return "/api/v1/specs/" + v.ID }

// specView is a spec as it is shown alone.
type specView struct {
	specSummary
	Criteria   []specfile.Criterion `json:"criteria"`
	Body       string               `json:"body"`
	Dependents json.RawMessage      `json:"dependents"`
	specNotes

	rules specfile.Rules // of Criteria
}

// specNotes are what an import noted of a spec, and the work on it.
type specNotes struct {
	Documents []string           `json:"documents"` // paths of what belongs to it beside its file
	Warnings  []specfile.Warning `json:"warnings"`
	Links     []link             `json:"links"` // of the last attempt that has some
	Decision  *decisionView      `json:"decision"`
}

// claimView says who holds a spec.
type claimView struct {
	Agent     string    `json:"agent"`
	UserID    string    `json:"user_id"`
	ClaimedAt time.Time `json:"claimed_at"`
	ExpiresAt time.Time `json:"expires_at"`
	Attempt   int       `json:"attempt"`
}

const relatedSQL = `SELECT coalesce(json_agg(
	json_build_object('id', o.id, 'key', o.key, 'title', o.title, 'status', p.status)
	ORDER BY o.place, o.id), '[]')
	FROM %s d JOIN specs o ON o.id = d.%s JOIN spec_states p ON p.spec_id = o.id WHERE d.%s = s.id`

// maxDependents is how many dependents of a spec are shown. Of its dependencies
// an edit sets no more; any number of specs may depend on one.
const maxDependents = 1000

// dependenciesSQL and dependentsSQL list the specs that a spec s is related to.
var (
	dependenciesSQL = fmt.Sprintf(relatedSQL, "dependencies", "depends_on", "spec_id")
	dependentsSQL   = fmt.Sprintf(relatedSQL, `(SELECT spec_id, depends_on FROM dependencies WHERE depends_on = s.id
		ORDER BY spec_id LIMIT `+strconv.Itoa(maxDependents)+`)`, "spec_id", "depends_on")
)

var summaryColumns = `s.id, s.mission_id, s.key, s.number, s.title, s.phase, h.status, s.priority, s.tags,
	s.estimated_context, cardinality(h.done), cardinality(array_positions(h.done, true)), ` + readySQL + `,
	h.attempts, h.review, h.approved_by, h.version, s.created_at, h.updated_at, m.status, s.place, h.cycle, h.asked,
	l.agent, l.user_id, l.claimed_at, l.expires_at, l.attempt, (` + dependenciesSQL + `)`

// specsSQL reads specs s, each with its state h, of missions that user $1 ($2:
// an admin) may see.
const specsSQL = `
	FROM specs s JOIN spec_states h ON h.spec_id = s.id JOIN missions m ON m.id = s.mission_id
	LEFT JOIN leases l ON l.spec_id = s.id
	WHERE ` + readableSQL

// fields are where a row of summaryColumns goes; claim builds Claim.
func (v *specSummary) fields(claim *nullableClaim) []any {
	return []any{&v.ID, &v.MissionID, &v.Key, &v.Number, &v.Title, &v.Phase, &v.Status, &v.Priority, &v.Tags,
		&v.EstimatedContext, &v.CriteriaTotal, &v.CriteriaDone, &v.Ready, &v.Attempts, &v.Review, &v.ApprovedBy,
		&v.Version, &v.CreatedAt, &v.UpdatedAt, &v.missionStatus, &v.place, &v.cycle, &v.asked,
		&claim.agent, &claim.userID, &claim.claimedAt, &claim.expiresAt, &claim.attempt, (*[]byte)(&v.Dependencies)}
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
var oneSpecSQL = `SELECT ` + summaryColumns + `,
	CASE WHEN h.version <> $4 THEN s.body END, s.rules, h.done, s.derived_status,
	s.documents, s.file_warnings, s.ref_warnings, s.links, s.decision,
	(` + dependentsSQL + `)` + specsSQL + ` AND s.id = $3`

// noVersion makes oneSpecSQL read the text.
const noVersion = 0

// criteriaAsDone are a body's criteria, by the rules that it was stored with, in the
// states that are stored of them.
func criteriaAsDone(body string, rules specfile.Rules, done []bool) []specfile.Criterion {
	return specfile.Reread(body, rules, done, rules)
}

// specRow is a row of oneSpecSQL, of which view makes what clients see.
type specRow struct {
	specSummary
	specNotes
	claim      nullableClaim
	body       *string
	rules      specfile.Rules
	derived    string
	done       []bool
	dependents json.RawMessage
}

// scan reads a row of oneSpecSQL, after the columns that go to before.
func (v *specRow) scan(row pgx.CollectableRow, before ...any) error {
	fields := append(before, v.fields(&v.claim)...)
	var ofReferences []specfile.Warning
	err := row.Scan(append(fields, &v.body, &v.rules, &v.done, &v.derived, &v.Documents, &v.Warnings, &ofReferences,
		&v.Links, &v.Decision, (*[]byte)(&v.dependents))...)
	v.Warnings = append(v.Warnings, ofReferences...)
	return err
}

// view parses the body, if it is there, and shows its criteria and status as
// they stand.
func (v specRow) view() specView {
	view := specView{specSummary: v.specSummary, Dependents: v.dependents, specNotes: v.specNotes, rules: v.rules}
	view.Claim = v.claim.view()
	if v.body != nil {
		view.Criteria = orEmpty(criteriaAsDone(*v.body, v.rules, v.done))
		view.Body = specfile.Render(*v.body, v.rules, v.done, v.Status, v.derived)
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

// askView queues a read of a spec as it then is.
func (t *tx) askView(id string) *specView {
	return askFor(t, oneSpecSQL, []any{t.account.userID, true, id, noVersion}, // its mission is locked for who may see it
		func(row pgx.CollectableRow) (specView, error) {
			v, err := scanSpec(row)
			return v.view(), err
		})
}

// getSpec is GET /api/v1/specs/{id}: the object, or with Accept: text/markdown
// the file.
func (s *Server) getSpec(w http.ResponseWriter, r *http.Request, c *call) error {
	v, err := s.readSpec(r.Context(), c.account, c.target.spec)
	if err != nil {
		return err
	}
	w.Header().Add("Vary", "Accept")
	w.Header().Set("ETag", v.etag())
	if strings.Contains(r.Header.Get("Accept"), "text/markdown") {
		return writeBytes(w, r, c, http.StatusOK, "text/markdown; charset=utf-8", []byte(v.markdown))
	}
	encoded, err := v.encode()
	if err != nil {
		return err
	}
	return writeBytes(w, r, c, http.StatusOK, "application/json", encoded)
}

// specContent is what a version of a spec says: its Markdown and criteria, which
// change with the version alone. It is never changed. Most reads find it kept,
// as rendered and encoded for the one before.
type specContent struct {
	version  int64
	markdown string
	criteria []specfile.Criterion
	encoded  struct{ markdown, criteria []byte } // as JSON
}

func newSpecContent(v specView) (*specContent, error) {
	c := &specContent{version: v.Version, markdown: v.Body, criteria: v.Criteria}
	var err error
	if c.encoded.markdown, err = encode(c.markdown); err != nil {
		return nil, fmt.Errorf("encoding a spec's body: %w", err)
	}
	if c.encoded.criteria, err = encode(c.criteria); err != nil {
		return nil, fmt.Errorf("encoding a spec's criteria: %w", err)
	}
	return c, nil
}

// size is roughly how many bytes the content takes.
func (c *specContent) size() int {
	return len(c.markdown) + len(c.encoded.markdown) + 2*len(c.encoded.criteria) + 512
}

// addTo is an encoded object with two more members, the criteria and, under a
// name, the Markdown, and room for so many more bytes.
func (c *specContent) addTo(object []byte, name string, room int) *bytes.Buffer {
	size := len(object) + len(c.encoded.markdown) + len(c.encoded.criteria) + room + 64
	b := bytes.NewBuffer(make([]byte, 0, size))
	b.Write(bytes.TrimSuffix(object, []byte("}")))
	fmt.Fprintf(b, `,"criteria":%s,"%s":%s`, c.encoded.criteria, name, c.encoded.markdown)
	return b
}

// contentBytes bounds what is kept of the contents.
const contentBytes = 8 << 20

// specContents keeps the contents of specs that were read lately, by id. The
// older half goes when a new one has filled up. What it is asked to keep must
// have been committed: a transaction that rolls back gives its version to
// another. Safe for concurrent use.
// See docs/design.md, The text of specs in memory.
type specContents struct {
	mu         sync.Mutex // guards the following
	young, old map[string]*specContent
	bytes      int // of young
}

func newSpecContents() *specContents {
	return &specContents{young: make(map[string]*specContent)}
}

// of returns what is kept of a spec, or nil.
func (k *specContents) of(id string) *specContent {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, ok := k.young[id]
	if !ok {
		if c, ok = k.old[id]; ok {
			k.add(id, c)
		}
	}
	return c
}

// keep keeps what a spec says, unless a newer version is kept already.
func (k *specContents) keep(id string, c *specContent) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if kept := k.young[id]; kept == nil || kept.version < c.version {
		k.add(id, c)
	}
}

// add puts a content among the young ones. The caller holds mu.
func (k *specContents) add(id string, c *specContent) {
	if k.bytes+c.size() > contentBytes/2 {
		k.old, k.young, k.bytes = k.young, make(map[string]*specContent), 0
	}
	if before := k.young[id]; before != nil {
		k.bytes -= before.size()
	}
	k.young[id] = c
	k.bytes += c.size()
}

// clear forgets all, for a database that may have lost commits.
func (k *specContents) clear() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.young, k.old, k.bytes = make(map[string]*specContent), nil, 0
}

// specRead is a spec as it is read alone: its state, and what it says.
type specRead struct {
	specSummary
	specNotes
	dependents json.RawMessage
	*specContent
}

// readSpec reads one spec for an account, without its text where that is kept.
func (s *Server) readSpec(ctx context.Context, a account, id string) (specRead, error) {
	content := s.contents.of(id)
	row, err := s.readSpecRow(ctx, a, id, content)
	if err != nil {
		return specRead{}, err
	}
	if row.body != nil {
		if content, err = s.contentOf(ctx, a, row); err != nil {
			return specRead{}, err
		}
		row.body = nil
	}
	v := row.view()
	return specRead{v.specSummary, v.specNotes, v.Dependents, content}, nil
}

// readSpecRow reads a spec in one query with others that are read right now, and
// without its text if kept, which may be nil, is still what it says.
func (s *Server) readSpecRow(ctx context.Context, a account, id string, kept *specContent) (specRow, error) {
	key := gather.Lookup{UserID: a.userID, Admin: a.admin(), ID: id}
	if kept != nil {
		key.Known = kept.version
	}
	read := s.specs.Get
	if s.seen.of(id).costly {
		_, end, err := s.beginRead(ctx, a, "", true)
		if err != nil {
			return specRow{}, err
		}
		defer end()
		read = s.specs.GetAlone // others don't wait for it
	}
	row, err := read(ctx, key)
	if err != nil {
		return specRow{}, notFoundOr(err, "reading a spec")
	}
	s.seen.note(id, seenID{row.MissionID, len(row.Dependencies)+len(row.dependents) > costlySpec})
	return row, nil
}

// contentOf is what a row with a text says. Of those that wait for the turn of a
// large one, the first makes it and the others find it kept.
func (s *Server) contentOf(ctx context.Context, a account, row specRow) (*specContent, error) {
	end, err := s.beginText(ctx, a, *row.body)
	if err != nil {
		return nil, err
	}
	defer end()
	if kept := s.contents.of(row.ID); kept != nil && kept.version == row.Version {
		return kept, nil
	}
	content, err := newSpecContent(row.view())
	if err != nil {
		return nil, err
	}
	s.contents.keep(row.ID, content)
	return content, nil
}

// largeText is from how many bytes on it is costly to parse, encode or show a text.
const largeText = 32 << 10

// beginText waits for the turn of work on a spec's text, if that is large: it takes
// many times its memory. The caller calls end when it is done.
func (s *Server) beginText(ctx context.Context, a account, text string) (end func(), err error) {
	if len(text) < largeText {
		return func() {}, nil
	}
	_, end, err = s.beginRead(ctx, a, "", true)
	return end, err
}

// encode is the spec as a specView is encoded.
func (v specRead) encode() ([]byte, error) {
	summary, err := encode(v.specSummary)
	if err != nil {
		return nil, fmt.Errorf("encoding a spec: %w", err)
	}
	b := v.addTo(summary, "body", len(v.dependents)+64)
	b.WriteString(`,"dependents":`)
	if err := json.Compact(b, v.dependents); err != nil {
		return nil, fmt.Errorf("encoding dependents: %w", err)
	}
	notes, err := encode(v.specNotes)
	if err != nil {
		return nil, fmt.Errorf("encoding a spec's notes: %w", err)
	}
	b.WriteByte(',')
	b.Write(notes[1:])
	return b.Bytes(), nil
}

// phaseNames are a phase as given and, where that differs, in the form that
// imports store.
func phaseNames(phase string) []string {
	if phase == "" {
		return nil
	}
	return slices.Compact([]string{phase, specfile.CanonicalPhase(phase)})
}

// collectSummaries reads all rows of summaryColumns, a snippet and whether it is the
// end of a walk, of which there are at most so many.
func collectSummaries(rows pgx.Rows, most int) ([]specSummary, error) {
	summaries := make([]specSummary, 0, most)
	var v specSummary
	var claim nullableClaim
	_, err := pgx.ForEachRow(rows, append(v.fields(&claim), &v.Snippet, &v.ended), func() error {
		v.Claim = claim.view()
		summaries = append(summaries, v)
		return nil
	})
	return summaries, err
}
