package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/specfile"
)

// importReport says what an import did, or would do.
type importReport struct {
	Created   int           `json:"created"`
	Updated   int           `json:"updated"`
	Unchanged int           `json:"unchanged"`
	Renamed   []renamedFile `json:"renamed"`
	Completed []string      `json:"completed"` // paths of files that say so
	Skipped   []string      `json:"skipped"`
	warningList
	Cycles [][]string `json:"cycles"`
}

// renamedFile is a file that was found again at another path.
type renamedFile struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Each import is held in memory as a whole, so only some run at a time. One takes
// its place when it has arrived: a slow upload takes nothing but the memory that
// it fills.
const (
	maxImports       = 8
	maxImportsOfEach = 2 // account, so that one can't block the others

	uploadChunk  = 64 << 10
	leastUploads = 256 << 20 // bytes that uploads may fill together, however small an import has to be
)

// errDryRun rolls back what an import has only tried.
var errDryRun = errors.New("dry run")

// importSpecs is POST /api/v1/missions/{id}/import?dry_run=. All files are read,
// parsed and resolved before the transaction that stores them begins. The same
// files again change nothing.
func (s *Server) importSpecs(w http.ResponseWriter, r *http.Request, c *call) error {
	q := newQuery(r)
	dryRun := q.flag("dry_run")
	if err := q.err(); err != nil {
		return err
	}
	if err := admitToMission(r.Context(), s.db, c); err != nil { // before a large body is read
		return err
	}
	sources, release, err := s.receive(r, c.account.userID)
	defer release()
	if err != nil {
		return err
	}
	planned, err := s.planFor(r.Context(), c.target.mission, sources)
	if err != nil {
		return err
	}
	c.tries = dryRun != nil && *dryRun
	var report importReport
	_, err = transact(r.Context(), s, c, func(ctx context.Context, t *tx) (*nothing, error) {
		var err error
		if report, err = t.importInto(ctx, c.target, sources, planned); err != nil {
			return nil, err
		}
		if c.tries {
			return nil, errDryRun
		}
		return nil, nil
	})
	if err != nil && !errors.Is(err, errDryRun) {
		return err
	}
	return respond(w, r, c, report)
}

// receive reads the whole body of an import. The caller calls release when that
// is done, also after an error.
func (s *Server) receive(r *http.Request, userID string) (sources *archive, release func(), err error) {
	body, giveBack, err := s.upload(r, userID)
	if err != nil {
		return nil, giveBack, err
	}
	if !s.imports.Take(userID, 1, maxImports, maxImportsOfEach) {
		return nil, giveBack, errImportsBusy()
	}
	sources, err = readArchive(r.Header, body, s.config.MaxImportBytes)
	return sources, func() {
		giveBack()
		s.imports.Give(userID, 1)
	}, err
}

// planFor plans an import into a mission, as its specs are now.
func (s *Server) planFor(ctx context.Context, missionID string, sources *archive) (*importPlan, error) {
	stored, err := storedSpecs(ctx, s.db, missionID)
	if err != nil {
		return nil, err
	}
	return planImport(ctx, sources, stored)
}

// importInto brings the files of an import into a mission.
func (t *tx) importInto(ctx context.Context, at target, sources *archive, planned *importPlan) (importReport, error) {
	m, err := t.openMission(ctx, at)
	if err != nil {
		return importReport{}, err
	}
	return t.importFiles(ctx, &m, sources, planned)
}

// storedSpec is what an import has to know of a spec that is there already: what
// decides which files it belongs to and what references mean, and how it stands.
type storedSpec struct {
	specfile.Node
	id          string
	byHand      bool // its dependencies were set by hand
	hash        []byte
	documents   []string
	leased      bool
	waits       bool   // for a person: it is proposed, or reviewed by one
	refWarnings string // as JSON

	status    string
	review    string // its own; "" where the mission's counts
	untouched bool   // since it was imported
}

// kept reports whether an import leaves the spec as it is.
func (s storedSpec) kept() bool { return s.leased || s.waits }

// samePlan reports whether two reads of a spec lead to the same plan. What waits for a
// person is told by its status, since no key ends a dependency on what is in review.
func (s storedSpec) samePlan(other storedSpec) bool {
	return s.id == other.id && s.Key == other.Key && s.ID == other.ID && s.Number == other.Number &&
		s.Title == other.Title && s.Phase == other.Phase && s.Style == other.Style && s.Path == other.Path &&
		s.Rules == other.Rules &&
		slices.Equal(s.Refs, other.Refs) && s.byHand == other.byHand && s.leased == other.leased && s.waits == other.waits &&
		(!s.waits || s.status == other.status) &&
		bytes.Equal(s.hash, other.hash) && slices.Equal(s.documents, other.documents)
}

// storedSpecs reads the specs of a mission, in the order of their ids.
func storedSpecs(ctx context.Context, q querier, missionID string) ([]storedSpec, error) {
	rows, err := q.Query(ctx, `
		SELECT s.id, s.key, s.file_id, s.number, s.title, s.phase, s.style, coalesce(s.path, ''), s.rules, s.refs,
		       s.ref_lines, s.source_hash, s.documents, s.ref_warnings::text, h.status, coalesce(h.review, ''), h.version = 1,
		       l.spec_id IS NOT NULL, h.status = 'proposed' OR `+inHumanReviewSQL+`
		FROM specs s JOIN spec_states h ON h.spec_id = s.id JOIN missions m ON m.id = s.mission_id
		LEFT JOIN leases l ON l.spec_id = s.id
		WHERE s.mission_id = $1 ORDER BY s.id`, missionID)
	if err != nil {
		return nil, fmt.Errorf("reading a mission's specs: %w", err)
	}
	specs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (spec storedSpec, err error) {
		var lines []int
		err = row.Scan(&spec.id, &spec.Key, &spec.ID, &spec.Number, &spec.Title, &spec.Phase, &spec.Style, &spec.Path,
			&spec.Rules, &spec.Refs, &lines, &spec.hash, &spec.documents, &spec.refWarnings, &spec.status, &spec.review,
			&spec.untouched, &spec.leased, &spec.waits)
		spec.byHand, spec.RefLines = spec.Refs == nil, lines
		return spec, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading a mission's specs: %w", err)
	}
	return specs, nil
}

// importFiles brings a locked mission's specs to what the files say, with the
// dependencies of all its specs, and adds one event for it. What was planned
// before the mission was locked holds unless its specs have changed since.
func (t *tx) importFiles(ctx context.Context, m *missionLock, a *archive, planned *importPlan) (importReport, error) {
	t.queue(`SELECT FROM spec_states WHERE mission_id = $1 ORDER BY spec_id FOR NO KEY UPDATE`, m.ID)
	stored, err := storedSpecs(ctx, t, m.ID)
	if err != nil {
		return importReport{}, err
	}
	if slices.EqualFunc(stored, planned.stored, storedSpec.samePlan) {
		planned = planned.on(stored)
	} else if planned, err = planImport(ctx, a, stored); err != nil {
		return importReport{}, err
	}
	report := planned.report
	report.Warnings, report.known = slices.Clone(report.Warnings), maps.Clone(report.known) // this may run again
	var created []importedSpec
	for _, f := range planned.files {
		switch {
		case f.old == nil:
			created = append(created, f)
			report.Created++
		case !f.takes():
			report.Unchanged++
		default:
			if err := t.takeOver(ctx, m, f, &report); err != nil {
				return report, err
			}
			report.Updated++
		}
	}
	if err := t.copySpecs(ctx, m, created, &report); err != nil {
		return report, err
	}
	deferred := t.deferDocuments(m, planned)
	moved, err := t.storeEdges(ctx, m.ID, planned, &report)
	if err != nil || report.Created+report.Updated+deferred == 0 && !moved {
		return report, err
	}
	t.countUnmet(planned.ids())
	t.emit("mission.imported", m.ID, "", "", map[string]any{
		"created": report.Created, "updated": report.Updated, "unchanged": report.Unchanged, "warnings": report.Total})
	t.countAgain(m.ID)
	return report, t.settle(ctx, m)
}

// takeOver queues a changed file's update. What was checked before stays so
// where the text is the same. The status is the work's and stays, unless the file
// says that all is done, and nothing speaks against it.
func (t *tx) takeOver(ctx context.Context, m *missionLock, f importedSpec, report *importReport) error {
	var body string
	var rules specfile.Rules
	var before []bool
	err := t.QueryRow(ctx, `
		SELECT s.body, s.rules, h.done FROM specs s JOIN spec_states h ON h.spec_id = s.id WHERE s.id = $1`,
		f.old.id).Scan(&body, &rules, &before)
	if err != nil {
		return fmt.Errorf("reading criteria: %w", err)
	}
	done := specfile.CarryDone(specfile.Reread(body, rules, before, f.Rules), f.Criteria)
	status := f.old.status
	approvedBy, mayNot := t.approver(*m, cmp.Or(f.Review, f.old.review), f.Status)
	if mayNot == nil && f.saysDone() && countDone(done) == len(done) {
		status = "completed"
		report.Completed = append(report.Completed, f.Path)
		t.withdrawQuestions(f.old.id)
		data := map[string]any{"from": f.old.status, "imported": true}
		if approvedBy != nil {
			data["approved_by"] = *approvedBy
		}
		t.emit("spec.completed", m.ID, f.old.id, "", data)
	}
	t.queue(`
		UPDATE specs SET number = $2, title = $3, phase = $4, priority = $5, estimated_context = $6, body = $7,
		       derived_status = $8, path = $9, source_hash = $10, style = $11, refs = $12, ref_lines = $13, rules = $14,
		       file_id = $15, documents = $16, file_warnings = $17,
		       tags = CASE WHEN cardinality($18::text[]) > 0 THEN $18 ELSE tags END
		WHERE id = $1`,
		f.old.id, f.Number, f.Title, f.Phase, f.Priority, f.EstimatedContext, f.Text,
		f.Status, f.Path, f.hash, f.Style, orEmpty(f.Refs), f.RefLines, f.Rules,
		f.ID, orEmpty(f.Documents), orEmpty(f.Warnings), orEmpty(f.Tags))
	t.queue(`
		UPDATE spec_states h SET priority = s.priority, place = s.place, phase = s.phase, tags = s.tags, status = $3,
		       done = $2, review = coalesce(nullif($4, ''), review),
		       asked = CASE WHEN status = $3 THEN asked ELSE 0 END,
		       waits_since = CASE WHEN status = $3 THEN waits_since ELSE `+waitsSinceSQL("$3")+` END,
		       approved_by = CASE WHEN status = $3 THEN approved_by ELSE $5::uuid END,
		       version = version + 1, updated_at = clock_timestamp()
		FROM specs s WHERE s.id = h.spec_id AND h.spec_id = $1`, f.old.id, done, status, f.Review, approvedBy)
	return nil
}

// copySpecs stores the new specs. What is done by its file, and takes a person to be
// so, is in review.
func (t *tx) copySpecs(ctx context.Context, m *missionLock, created []importedSpec, report *importReport) error {
	var ids, statuses, done, reviews []string
	var approvers []*string
	for _, f := range created {
		status := f.Status
		approvedBy, mayNot := t.approver(*m, f.Review, status)
		if mayNot != nil {
			status = "in_review"
			report.add(specfile.Warning{File: f.Path, Code: "review_required", Message: "The file says that it is done, and " +
				"a person has to say so: its spec is in review."})
		}
		ids, statuses, reviews = append(ids, f.id), append(statuses, status), append(reviews, f.Review)
		done, approvers = append(done, booleanArray(doneFlags(f.Criteria))), append(approvers, approvedBy)
	}
	err := t.CopyFrom(ctx, "specs", []string{"id", "mission_id", "key", "number", "title", "phase", "priority", "tags",
		"estimated_context", "body", "derived_status", "path", "source_hash", "style", "refs", "ref_lines", "rules",
		"file_id", "documents", "file_warnings"},
		pgx.CopyFromSlice(len(created), func(i int) ([]any, error) {
			f := created[i]
			warnings, err := encode(orEmpty(f.Warnings))
			return []any{f.id, m.ID, f.key, f.Number, f.Title, f.Phase, f.Priority, orEmpty(f.Tags),
				f.EstimatedContext, f.Text, f.Status, f.Path, f.hash, f.Style, orEmpty(f.Refs), f.RefLines, int16(f.Rules),
				f.ID, orEmpty(f.Documents), warnings}, err
		}))
	if err != nil {
		return fmt.Errorf("storing specs: %w", err)
	}
	if err := t.analyze(ctx, "specs (id)", len(created)); err != nil {
		return err
	}
	t.queue(`
		INSERT INTO spec_states (spec_id, mission_id, status, done, priority, place, phase, tags, waits_since, review,
		                         approved_by)
		SELECT s.id, s.mission_id, its.status, its.done::boolean[], s.priority, s.place, s.phase, s.tags,
		       `+waitsSinceSQL("its.status")+`, nullif(its.review, ''), its.approved_by
		FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::uuid[])
		     AS its (id, status, done, review, approved_by) JOIN specs s USING (id)`,
		ids, statuses, done, reviews, approvers)
	return t.analyze(ctx, "spec_states (spec_id)", len(created))
}

// booleanArray writes flags as PostgreSQL's text for a boolean[], of which
// there is no array.
func booleanArray(flags []bool) string {
	words := make([]string, len(flags))
	for i, flag := range flags {
		words[i] = strconv.FormatBool(flag)
	}
	return "{" + strings.Join(words, ",") + "}"
}

// deferDocuments puts off the specs of files that are none any more, where nobody
// has touched them, and returns how many.
func (t *tx) deferDocuments(m *missionLock, p *importPlan) (deferred int) {
	for _, spec := range p.documents {
		if !spec.untouched || spec.leased || spec.status != "planned" {
			continue
		}
		deferred++
		t.queue(`
			UPDATE spec_states SET status = 'deferred', version = version + 1, updated_at = clock_timestamp()
			WHERE spec_id = $1`, spec.id)
		t.emit("spec.status_changed", m.ID, spec.id, "",
			map[string]any{"from": spec.status, "to": "deferred", "imported": true})
	}
	return deferred
}

// storeEdges stores the dependencies and the warnings of references that differ
// from what is stored, for every spec of the mission: new files may be what others
// pointed at. It reports whether any dependency did, and adds cycles to the report.
func (t *tx) storeEdges(ctx context.Context, missionID string, p *importPlan, report *importReport) (
	moved bool, err error) {
	byID, err := missionEdges(ctx, t, missionID)
	if err != nil {
		return false, err
	}
	keys, ids := make(map[string]string, len(p.specs)), make(map[string]string, len(p.specs))
	reviewed := make(map[string]bool) // by key: on what a person reviews no key ends a dependency
	for _, spec := range p.specs {
		keys[spec.id], ids[spec.Key] = spec.Key, spec.id
		reviewed[spec.Key] = spec.waits && spec.status == "in_review"
	}
	all := make(map[string][]string, len(p.specs)) // what there is in the end, by key
	var from, to, dropped, warned, warnings []string
	for _, spec := range p.specs {
		have := make([]string, 0, len(byID[spec.id]))
		for _, id := range byID[spec.id] {
			have = append(have, keys[id])
		}
		slices.Sort(have)
		all[spec.Key] = have
		if spec.byHand {
			continue
		}
		said, err := encode(orEmpty(p.resolved.Warnings[spec.Key]))
		if err != nil {
			return false, fmt.Errorf("encoding warnings: %w", err)
		}
		if cmp.Or(spec.refWarnings, "[]") != string(said) {
			warned, warnings = append(warned, spec.id), append(warnings, string(said))
		}
		wanted := p.resolved.Edges[spec.Key]
		if t.account.byKey() {
			wanted = withHeld(wanted, have, reviewed, spec.Path, report)
		}
		if slices.Equal(have, wanted) {
			continue
		}
		all[spec.Key], dropped = wanted, append(dropped, spec.id)
		for _, other := range all[spec.Key] {
			from, to = append(from, spec.id), append(to, ids[other])
		}
	}
	report.Cycles = orEmpty(specfile.Cycles(all))
	if len(warned) > 0 {
		t.queue(`
			UPDATE specs SET ref_warnings = its.said::json
			FROM unnest($1::uuid[], $2::text[]) AS its (id, said) WHERE specs.id = its.id`, warned, warnings)
	}
	if len(dropped) == 0 {
		return false, nil
	}
	t.queue(`DELETE FROM dependencies WHERE spec_id = ANY($1)`, dropped)
	t.queue(`INSERT INTO dependencies (spec_id, depends_on) SELECT * FROM unnest($1::uuid[], $2::uuid[])`, from, to)
	t.storeCycles(missionID, cycleIDs(report.Cycles, ids))
	return true, t.analyze(ctx, "dependencies (spec_id)", len(from))
}

// analyze has PostgreSQL count the rows of a table, named with a column of it, to
// which so many have just been added, if it knows of fewer: it then may look at all
// of an index for each row.
// See docs/design.md, Imports and statistics.
func (t *tx) analyze(ctx context.Context, column string, added int) error {
	if added < 1000 {
		return nil
	}
	var known float64
	table, _, _ := strings.Cut(column, " ")
	err := t.QueryRow(ctx, `SELECT reltuples FROM pg_class WHERE oid = $1::text::regclass`, table).Scan(&known)
	if err != nil {
		return fmt.Errorf("asking how many rows %s has: %w", table, err)
	}
	if known < float64(added) {
		t.queue(`ANALYZE (SKIP_LOCKED) ` + column)
	}
	return nil
}

// withHeld are the dependencies wanted, and those of have that stay since a person is
// reviewing them; both are sorted.
func withHeld(wanted, have []string, reviewed map[string]bool, path string, report *importReport) []string {
	for _, key := range have {
		if reviewed[key] && !slices.Contains(wanted, key) {
			wanted = append(slices.Clone(wanted), key)
			report.add(specfile.Warning{File: path, Code: "dependency_kept", Message: "The file no longer depends on a " +
				"spec that a person is reviewing; until that is decided it does. Import it again then."})
		}
	}
	slices.Sort(wanted)
	return wanted
}

// cycleIDs names the specs of cycles by id.
func cycleIDs(cycles [][]string, ids map[string]string) [][]string {
	byID := make([][]string, 0, len(cycles))
	for _, cycle := range cycles {
		var members []string
		for _, key := range cycle {
			members = append(members, ids[key])
		}
		byID = append(byID, members)
	}
	return byID
}

// settle gives the mission the status that its specs ask for after an import.
func (t *tx) settle(ctx context.Context, m *missionLock) error {
	err := t.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE status = ANY($2)), count(*) FILTER (WHERE status = 'completed')
		FROM spec_states WHERE mission_id = $1`, m.ID, openStatuses).Scan(&m.openSpecs, &m.completedSpecs)
	if err != nil {
		return fmt.Errorf("counting specs: %w", err)
	}
	if m.openSpecs > 0 {
		t.reopen(m)
	}
	t.completeIfDone(m)
	return nil
}

func countDone(done []bool) (n int) {
	for _, d := range done {
		if d {
			n++
		}
	}
	return n
}
