package main

import (
	"context"
	"crypto/sha256"
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
	Created   int                `json:"created"`
	Updated   int                `json:"updated"`
	Unchanged int                `json:"unchanged"`
	Skipped   []string           `json:"skipped"`
	Warnings  []specfile.Warning `json:"warnings"`
	Cycles    [][]string         `json:"cycles"`
}

// Each import is held in memory as a whole, so only some run at a time.
const (
	maxImports       = 8
	maxImportsOfEach = 2 // account, so that one can't block the others
)

// errDryRun rolls back what an import has only tried.
var errDryRun = errors.New("dry run")

// importSpecs is POST /api/v1/missions/{id}/import?dry_run=. All files are read
// and parsed before the transaction that stores them begins. The same files
// again change nothing.
func (s *Server) importSpecs(w http.ResponseWriter, r *http.Request, c *call) error {
	q := newQuery(r)
	dryRun := q.flag("dry_run")
	if err := q.err(); err != nil {
		return err
	}
	if err := admitToMission(r.Context(), s.db, c); err != nil { // before a large body is read
		return err
	}
	userID := c.account.userID
	if !s.imports.Take(userID, maxImports, maxImportsOfEach) {
		return problem(http.StatusServiceUnavailable, "busy", "Too many imports are running. Try again soon.").withHeader("Retry-After", "5")
	}
	defer s.imports.Give(userID)
	sources, err := readArchive(r, s.config.MaxImportBytes)
	if err != nil {
		return err
	}
	files, err := parseSources(sources.files)
	if err != nil {
		return err
	}
	var report importReport
	_, err = transact(r.Context(), s, c, func(ctx context.Context, t *tx) (*nothing, error) {
		m, err := t.mission(ctx, c.target, lockNoKeyUpdate, accessEditor)
		if err != nil {
			return nil, err
		}
		if err := m.open(); err != nil {
			return nil, err
		}
		if report, err = t.importFiles(ctx, &m, files); err != nil {
			return nil, err
		}
		report.Skipped = orEmpty(sources.skipped)
		if dryRun != nil && *dryRun {
			return nil, errDryRun
		}
		return nil, nil
	})
	if err != nil && !errors.Is(err, errDryRun) {
		return err
	}
	return respond(w, r, c, report)
}

// importedSpec is a file of an import, parsed.
type importedSpec struct {
	specfile.File
	source string
	hash   []byte
}

// parseSources parses all files and refuses two with the same key.
func parseSources(sources []specSource) ([]importedSpec, error) {
	var v violations
	files := make([]importedSpec, 0, len(sources))
	paths := make(map[string]string, len(sources))
	for _, source := range sources {
		f := specfile.Parse(source.path, source.text)
		if other, twice := paths[f.Key]; twice {
			v.add(source.path, "duplicate_key", "has the same key %q as %s", f.Key, other)
		}
		paths[f.Key] = source.path
		hash := sha256.Sum256([]byte(source.text))
		files = append(files, importedSpec{f, source.text, hash[:]})
	}
	return files, v.err()
}

// storedSpec is what an import has to know of a spec that is there already.
type storedSpec struct {
	id, key, number, title, phase, style string
	status                               string
	refs                                 []string
	byHand                               bool // its dependencies were set by hand
	hash                                 []byte
	leased                               bool
}

// importFiles brings a locked mission's specs to what the files say, with the
// dependencies of all its specs, and adds one event for it.
func (t *tx) importFiles(ctx context.Context, m *missionLock, files []importedSpec) (importReport, error) {
	stored, err := t.storedSpecs(ctx, m.ID)
	if err != nil {
		return importReport{}, err
	}
	report := importReport{Warnings: []specfile.Warning{}}
	var created []importedSpec
	for _, f := range files {
		report.Warnings = append(report.Warnings, f.Warnings...)
		old, there := stored[f.Key]
		switch {
		case !there:
			created = append(created, f)
			report.Created++
		case slices.Equal(old.hash, f.hash):
			report.Unchanged++
		case old.leased:
			report.Unchanged++
			report.Warnings = append(report.Warnings, specfile.Warning{File: f.Path, Code: "leased",
				Message: "An agent works on this spec, so it was left as it is. Import the file again when the lease has ended."})
		default:
			if err := t.takeOver(ctx, old, f); err != nil {
				return report, err
			}
			stored[f.Key] = f.stored(old.id)
			report.Updated++
		}
	}
	for _, f := range created {
		stored[f.Key] = f.stored(newID())
	}
	if err := t.copySpecs(ctx, m, created, stored); err != nil {
		return report, err
	}
	moved, err := t.resolveAll(ctx, m.ID, files, stored, &report)
	if err != nil || report.Created+report.Updated == 0 && !moved {
		return report, err
	}
	t.emit("mission.imported", m.ID, "", "", map[string]any{
		"created": report.Created, "updated": report.Updated, "unchanged": report.Unchanged, "warnings": len(report.Warnings)})
	t.countAnew(m.ID)
	return report, t.settle(ctx, m)
}

// stored is what the spec is once it is stored.
func (f importedSpec) stored(id string) storedSpec {
	return storedSpec{id: id, key: f.Key, number: f.Number, title: f.Title, phase: f.Phase, style: f.Style,
		status: f.Status, refs: f.Refs, hash: f.hash}
}

// storedSpecs locks and reads the specs of a mission, by key.
func (t *tx) storedSpecs(ctx context.Context, missionID string) (map[string]storedSpec, error) {
	t.queue(`SELECT FROM spec_states WHERE mission_id = $1 ORDER BY spec_id FOR NO KEY UPDATE`, missionID)
	rows, err := t.Query(ctx, `
		SELECT s.id, s.key, s.number, s.title, s.phase, s.style, h.status, s.refs, s.source_hash, l.spec_id IS NOT NULL
		FROM specs s JOIN spec_states h ON h.spec_id = s.id LEFT JOIN leases l ON l.spec_id = s.id WHERE s.mission_id = $1`, missionID)
	if err != nil {
		return nil, fmt.Errorf("reading a mission's specs: %w", err)
	}
	stored := make(map[string]storedSpec)
	var spec storedSpec
	_, err = pgx.ForEachRow(rows, []any{&spec.id, &spec.key, &spec.number, &spec.title, &spec.phase, &spec.style,
		&spec.status, &spec.refs, &spec.hash, &spec.leased}, func() error {
		spec.byHand = spec.refs == nil
		stored[spec.key] = spec
		spec = storedSpec{}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading a mission's specs: %w", err)
	}
	return stored, nil
}

// takeOver queues a changed file's update. What was checked before stays so
// where the text is the same; the status is the work's and stays.
func (t *tx) takeOver(ctx context.Context, old storedSpec, f importedSpec) error {
	var body string
	var done []bool
	err := t.QueryRow(ctx, `SELECT s.body, h.done FROM specs s JOIN spec_states h ON h.spec_id = s.id WHERE s.id = $1`, old.id).Scan(&body, &done)
	if err != nil {
		return fmt.Errorf("reading criteria: %w", err)
	}
	t.queue(`
		UPDATE specs SET number = $2, title = $3, phase = $4, priority = $5, estimated_context = $6, body = $7,
		       derived_status = $8, path = $9, source_hash = $10, style = $11, refs = $12
		WHERE id = $1`,
		old.id, f.Number, f.Title, f.Phase, f.Priority, f.EstimatedContext, f.source,
		f.Status, f.Path, f.hash, f.Style, orEmpty(f.Refs))
	t.queue(`
		UPDATE spec_states h SET priority = s.priority, number_order = s.number_order, phase = s.phase,
		       done = $2, version = version + 1, updated_at = clock_timestamp()
		FROM specs s WHERE s.id = h.spec_id AND h.spec_id = $1`,
		old.id, specfile.CarryDone(criteriaAsDone(body, done), f.Criteria))
	return nil
}

// copySpecs stores the new specs.
func (t *tx) copySpecs(ctx context.Context, m *missionLock, created []importedSpec, stored map[string]storedSpec) error {
	var ids, statuses, done []string
	for _, f := range created {
		ids, statuses, done = append(ids, stored[f.Key].id), append(statuses, f.Status), append(done, booleanArray(doneFlags(f.Criteria)))
	}
	err := t.CopyFrom(ctx, "specs", []string{"id", "mission_id", "key", "number", "title", "phase",
		"priority", "tags", "estimated_context", "body", "derived_status", "path", "source_hash", "style", "refs"},
		pgx.CopyFromSlice(len(created), func(i int) ([]any, error) {
			f := created[i]
			return []any{ids[i], m.ID, f.Key, f.Number, f.Title, f.Phase, f.Priority, []string{}, f.EstimatedContext,
				f.source, f.Status, f.Path, f.hash, f.Style, orEmpty(f.Refs)}, nil
		}))
	if err != nil {
		return fmt.Errorf("storing specs: %w", err)
	}
	t.queue(`
		INSERT INTO spec_states (spec_id, mission_id, status, done, priority, number_order, phase, tags)
		SELECT s.id, s.mission_id, its.status, its.done::boolean[], s.priority, s.number_order, s.phase, s.tags
		FROM unnest($1::uuid[], $2::text[], $3::text[]) AS its (id, status, done) JOIN specs s USING (id)`, ids, statuses, done)
	return nil
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

// resolveAll resolves the references of every spec of the mission anew, since
// new files may be what others pointed at, and stores the edges that differ.
// It reports whether any did, and adds warnings and cycles to the report.
func (t *tx) resolveAll(ctx context.Context, missionID string, files []importedSpec, stored map[string]storedSpec, report *importReport) (moved bool, err error) {
	byID, err := missionEdges(ctx, t, missionID)
	if err != nil {
		return false, err
	}
	wanted, warnings := specfile.Resolve(specNodes(files, stored))
	for _, w := range warnings {
		if w.File != "" {
			report.Warnings = append(report.Warnings, w)
		}
	}
	keys := make(map[string]string, len(stored)) // by id
	for key, spec := range stored {
		keys[spec.id] = key
	}
	all := make(map[string][]string, len(stored)) // what there is in the end, by key
	var from, to, dropped, ids []string
	for _, key := range slices.Sorted(maps.Keys(stored)) {
		spec := stored[key]
		ids = append(ids, spec.id)
		var have []string
		for _, id := range byID[spec.id] {
			have = append(have, keys[id])
		}
		slices.Sort(have)
		all[key] = have
		if spec.byHand || slices.Equal(have, wanted[key]) {
			continue
		}
		all[key], dropped = wanted[key], append(dropped, spec.id)
		for _, other := range wanted[key] {
			from, to = append(from, spec.id), append(to, stored[other].id)
		}
	}
	report.Cycles = orEmpty(specfile.Cycles(all))
	if len(dropped) == 0 {
		return false, nil
	}
	t.queue(`DELETE FROM dependencies WHERE spec_id = ANY($1)`, dropped)
	t.queue(`INSERT INTO dependencies (spec_id, depends_on) SELECT * FROM unnest($1::uuid[], $2::uuid[])`, from, to)
	t.countUnmet(ids)
	t.storeCycles(missionID, cycleIDs(report.Cycles, stored))
	return true, nil
}

// cycleIDs names the specs of cycles by id.
func cycleIDs(cycles [][]string, stored map[string]storedSpec) [][]string {
	byID := make([][]string, 0, len(cycles))
	for _, cycle := range cycles {
		var ids []string
		for _, key := range cycle {
			ids = append(ids, stored[key].id)
		}
		byID = append(byID, ids)
	}
	return byID
}

// specNodes are the mission's specs as specfile.Resolve wants them: those of the
// import with their path and lines, so that it warns about these alone.
func specNodes(files []importedSpec, stored map[string]storedSpec) []specfile.Node {
	nodes := make([]specfile.Node, 0, len(stored))
	imported := make(map[string]importedSpec, len(files))
	for _, f := range files {
		imported[f.Key] = f
	}
	for _, key := range slices.Sorted(maps.Keys(stored)) {
		spec := stored[key]
		node := specfile.Node{Key: key, Number: spec.number, Title: spec.title, Phase: spec.phase, Style: spec.style,
			Refs: spec.refs}
		if f, ok := imported[key]; ok && slices.Equal(f.hash, spec.hash) && !spec.byHand {
			node.Path, node.RefLines = f.Path, f.RefLines
		}
		nodes = append(nodes, node)
	}
	return nodes
}

// settle gives the mission the status that its specs ask for after an import.
func (t *tx) settle(ctx context.Context, m *missionLock) error {
	err := t.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE status NOT IN ('completed', 'deferred')), count(*) FILTER (WHERE status = 'completed')
		FROM spec_states WHERE mission_id = $1`, m.ID).Scan(&m.openSpecs, &m.completedSpecs)
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
