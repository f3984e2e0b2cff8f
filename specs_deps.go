package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/specfile"
)

const maxDependencies = 1000 // of one spec

// addDependencies queues edges from a spec.
func (t *tx) addDependencies(specID string, to []string) {
	if len(to) > 0 {
		t.queue(`INSERT INTO dependencies (spec_id, depends_on) SELECT $1, unnest($2::uuid[])`, specID, to)
	}
}

// replaceDependencies makes names, ids or keys, the dependencies of a locked
// spec and reports whether they changed. Its mission is locked, so that no two
// edits can close a cycle together. inCycle says whether the spec is part of
// one, which an import has brought in, and which this may break.
func (t *tx) replaceDependencies(ctx context.Context, spec *specLock, inCycle bool,
	names []string) (changed bool, err error) {
	wanted, unmet, err := t.resolveSpecs(ctx, spec.missionID, names, "dependencies")
	if err != nil {
		return false, err
	}
	rows, err := t.Query(ctx, `SELECT depends_on FROM dependencies WHERE spec_id = $1 ORDER BY depends_on`, spec.id)
	if err != nil {
		return false, fmt.Errorf("reading dependencies: %w", err)
	}
	have, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return false, fmt.Errorf("reading dependencies: %w", err)
	}
	if slices.Equal(have, wanted) {
		return false, nil
	}
	added := slices.DeleteFunc(slices.Clone(wanted), func(id string) bool { return slices.Contains(have, id) })
	if err := t.refuseCycle(ctx, spec, added); err != nil {
		return false, err
	}
	removed := slices.DeleteFunc(have, func(id string) bool { return slices.Contains(wanted, id) })
	if err := t.mayDrop(ctx, *spec, wanted); err != nil {
		return false, err
	}
	t.queue(`DELETE FROM dependencies WHERE spec_id = $1 AND depends_on = ANY($2)`, spec.id, removed)
	t.addDependencies(spec.id, added)
	t.queue(`UPDATE specs SET refs = NULL WHERE id = $1 AND refs IS NOT NULL`, spec.id)
	t.queue(`UPDATE spec_states SET unmet = $2 WHERE spec_id = $1`, spec.id, unmet)
	t.count(spec.missionID, spec.tally(), tallyOf(spec.status, unmet, spec.done))
	spec.unmet = unmet
	if inCycle {
		return true, t.markCycles(ctx, spec.missionID)
	}
	return true, nil
}

// resolveSpecs finds the specs that names, ids or keys, mean in a mission, and
// how many of them aren't completed. The ids come sorted and without duplicates. field
// is what the client calls them.
func (t *tx) resolveSpecs(ctx context.Context, missionID string, names []string, field string) (
	ids []string, unmet int, err error) {
	if len(names) > maxDependencies {
		return nil, 0, invalidField(field, "too_many", "must have at most %d entries", maxDependencies)
	}
	if len(names) == 0 {
		return []string{}, 0, nil
	}
	var byID, byKey []string
	for _, name := range names {
		if validID(name) {
			byID = append(byID, strings.ToLower(name))
		} else {
			byKey = append(byKey, name)
		}
	}
	// One by one: told to look for several at once, PostgreSQL, which knows only
	// how many specs a mission has on average, might read all that this one has.
	rows, err := t.Query(ctx, `
		SELECT s.id, s.key, h.status FROM (
			SELECT s.id, s.key FROM unnest($2::uuid[]) AS want (id)
			CROSS JOIN LATERAL (SELECT id, key, mission_id FROM specs WHERE id = want.id LIMIT 1) s WHERE s.mission_id = $1
			UNION
			SELECT s.id, s.key FROM unnest($3::text[]) AS want (key)
			CROSS JOIN LATERAL (SELECT id, key FROM specs WHERE mission_id = $1 AND key = want.key LIMIT 1) s
		) s JOIN spec_states h ON h.spec_id = s.id ORDER BY s.id`, missionID, byID, byKey)
	if err != nil {
		return nil, 0, fmt.Errorf("looking for dependencies: %w", err)
	}
	ids = []string{}
	var known []string
	var id, key, status string
	if _, err := pgx.ForEachRow(rows, []any{&id, &key, &status}, func() error {
		ids, known = append(ids, id), append(known, id, key)
		if status != "completed" {
			unmet++
		}
		return nil
	}); err != nil {
		return nil, 0, fmt.Errorf("looking for dependencies: %w", err)
	}
	var v violations
	for i, name := range names {
		if !slices.Contains(known, name) && !slices.Contains(known, strings.ToLower(name)) {
			v.add(fmt.Sprintf("%s[%d]", field, i), "unknown_spec", "isn't the id or key of a spec in this mission")
		}
	}
	return ids, unmet, v.err()
}

// reachedSQL walks from some specs along their edges, level by level, and looks
// whether that leads to one of others, after at most so many specs. With OFFSET
// 0 each level looks its edges up, instead of reading all there are.
const (
	reachedSQL = `
		WITH RECURSIVE reached (id) AS (
			SELECT unnest($1::uuid[])
			UNION SELECT d.%[2]s FROM reached r CROSS JOIN LATERAL (SELECT %[2]s FROM dependencies WHERE %[1]s = r.id OFFSET 0) d
		), seen AS (SELECT id FROM reached LIMIT $3)
		SELECT coalesce(bool_or(id = ANY($2)), false), count(*) < $3 FROM seen`
	reachedFirst = 1000
	reachedAll   = 1 << 31
)

// refuseCycle refuses new edges from a spec that lead back to it. It walks from
// the spec to its dependents and from the new dependencies to theirs, as far as
// the shorter way goes. Cycles that an import has brought in are left alone.
func (t *tx) refuseCycle(ctx context.Context, spec *specLock, added []string) error {
	if len(added) == 0 {
		return nil
	}
	up, down := fmt.Sprintf(reachedSQL, "depends_on", "spec_id"), fmt.Sprintf(reachedSQL, "spec_id", "depends_on")
	own := []string{spec.id}
	for _, way := range []struct {
		sql      string
		from, to []string
		most     int
	}{{up, own, added, reachedFirst}, {down, added, own, reachedFirst}, {down, added, own, reachedAll}} {
		var closed, whole bool
		if err := t.QueryRow(ctx, way.sql, way.from, way.to, way.most).Scan(&closed, &whole); err != nil {
			return fmt.Errorf("looking for a cycle: %w", err)
		}
		if closed {
			return t.errClosed(ctx, spec, added)
		}
		if whole {
			return nil
		}
	}
	return nil
}

// errClosed names the specs of the shortest cycle that new edges would close.
func (t *tx) errClosed(ctx context.Context, spec *specLock, added []string) error {
	edges, err := missionEdges(ctx, t, spec.missionID)
	if err != nil {
		return err
	}
	edges[spec.id] = added
	cycle := specfile.ShortestCycle(edges, spec.id)
	keys, err := t.keysOf(ctx, cycle)
	if err != nil {
		return err
	}
	return errCycle(keys)
}

// errCycle refuses what would make specs depend on each other.
func errCycle(keys []string) error {
	return problem(http.StatusConflict, "dependency_cycle", "This closes a cycle: %s.",
		strings.Join(append(keys, keys[0]), " → ")).with("cycle", keys)
}

// markCycles updates which specs of a mission are part of a cycle. Only
// those that were can still be: an edit adds no edge that closes one.
func (t *tx) markCycles(ctx context.Context, missionID string) error {
	edges, err := readEdges(ctx, t, `
		SELECT d.spec_id, d.depends_on FROM spec_states h JOIN dependencies d ON d.spec_id = h.spec_id
		WHERE h.mission_id = $1 AND h.cycle > 0`, missionID)
	if err != nil {
		return err
	}
	t.storeCycles(missionID, specfile.CyclicSets(edges))
	return nil
}

// storeCycles queues what each spec of a mission knows of its cycle.
func (t *tx) storeCycles(missionID string, cycles [][]string) {
	ids, sizes := []string{}, []int{}
	for _, members := range cycles {
		for _, id := range members {
			ids, sizes = append(ids, id), append(sizes, len(members))
		}
	}
	t.queue(`UPDATE spec_states SET cycle = 0 WHERE mission_id = $1 AND cycle > 0 AND NOT spec_id = ANY($2)`,
		missionID, ids)
	if len(ids) > 0 {
		t.queue(`UPDATE spec_states h SET cycle = its.size FROM unnest($1::uuid[], $2::int[]) AS its (id, size)
			WHERE h.spec_id = its.id AND h.cycle <> its.size`, ids, sizes)
	}
}

// missionEdges reads what every spec of a mission depends on, by id.
func missionEdges(ctx context.Context, q querier, missionID string) (map[string][]string, error) {
	return readEdges(ctx, q, `
		SELECT d.spec_id, d.depends_on FROM dependencies d JOIN specs s ON s.id = d.spec_id
		WHERE s.mission_id = $1`, missionID)
}

// readEdges reads edges of a query for pairs of ids, which are text or UUIDs.
func readEdges(ctx context.Context, q querier, sql string, args ...any) (map[string][]string, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("reading the graph: %w", err)
	}
	edges := make(map[string][]string)
	var from, to string
	if _, err := pgx.ForEachRow(rows, []any{&from, &to}, func() error {
		edges[from] = append(edges[from], to)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("reading the graph: %w", err)
	}
	return edges, nil
}

// keysOf returns the keys of specs, in the order of their ids given.
func (t *tx) keysOf(ctx context.Context, ids []string) ([]string, error) {
	rows, err := t.Query(ctx, `
		SELECT s.key FROM unnest($1::uuid[]) WITH ORDINALITY AS want (id, n) JOIN specs s ON s.id = want.id ORDER BY n`, ids)
	if err != nil {
		return nil, fmt.Errorf("reading keys: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// countUnmet recounts how many dependencies of some specs aren't completed.
// The specs are locked.
func (t *tx) countUnmet(specIDs []string) {
	t.queue(`
		UPDATE spec_states SET unmet = n.unmet
		FROM (SELECT s.spec_id, count(o.spec_id) AS unmet FROM spec_states s
		      LEFT JOIN dependencies d ON d.spec_id = s.spec_id
		      LEFT JOIN spec_states o ON o.spec_id = d.depends_on AND o.status <> 'completed'
		      WHERE s.spec_id = ANY($1) GROUP BY s.spec_id) n
		WHERE spec_states.spec_id = n.spec_id AND spec_states.unmet <> n.unmet`, specIDs)
}

// graphNode is a spec in a mission's graph.
type graphNode struct {
	ID     string `json:"id"`
	Key    string `json:"key"`
	Number string `json:"number"`
	Title  string `json:"title"`
	Status string `json:"status"`
	Ready  bool   `json:"ready"`

	Place string `json:"-"`
	Edges int    `json:"-"` // from it
}

// graphEdge says that one spec depends on another; both by key.
type graphEdge struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// graphPage is how many specs of a mission's graph one answer has at most, and
// graphEdges how many edges, unless one spec has more.
const (
	graphPage  = 1000
	graphEdges = 10_000
)

// graphView is a mission's graph, in pages of its specs: each page has the
// edges from its own, and the first one the cycles.
type graphView struct {
	Nodes      []graphNode `json:"nodes"`
	Edges      []graphEdge `json:"edges"`
	Cycles     [][]string  `json:"cycles"`
	NextCursor *string     `json:"next_cursor"`
}

// getGraph is GET /api/v1/missions/{id}/graph?format=json|mermaid&cursor=.
func (s *Server) getGraph(w http.ResponseWriter, r *http.Request, c *call) error {
	q := newQuery(r)
	format := q.choice("format", "json", "json", "mermaid")
	limit := int(q.number("limit", graphPage, 1, graphPage))
	after := q.cursors("graph", 2)
	if after[1] != "" && !validID(after[1]) {
		q.fail("cursor", "invalid_cursor", "isn't a cursor of this graph")
	}
	if err := q.err(); err != nil {
		return err
	}
	graph, err := s.readGraph(r.Context(), c.account, c.target.mission, after, limit)
	if err != nil {
		return err
	}
	if format == "mermaid" {
		return writeBytes(w, r, c, http.StatusOK, "text/vnd.mermaid; charset=utf-8", []byte(mermaid(graph)))
	}
	return respond(w, r, c, graph)
}

// graphColumns are a graphNode of a spec s.
const graphColumns = `s.id, s.key, s.number, s.title, h.status, ` + readySQL + `, s.place,
	(SELECT count(*) FROM dependencies WHERE spec_id = s.id)`

// readGraph reads the page behind a spec's number and id, which are "" for the
// first one.
func (s *Server) readGraph(ctx context.Context, a account, missionID string, after []string,
	limit int) (graphView, error) {
	ctx, end, err := s.beginRead(ctx, a, "", true)
	if err != nil {
		return graphView{}, err
	}
	defer end()
	if _, err := readMission(ctx, s.db, a, missionID); err != nil {
		return graphView{}, err
	}
	rows, err := s.db.Query(ctx, `SELECT `+graphColumns+specsSQL+`
		AND s.mission_id = $3 AND (s.place, s.id) > ($4, coalesce($5, '00000000-0000-0000-0000-000000000000'::uuid))
		ORDER BY s.place, s.id LIMIT $6`, a.userID, a.admin(), missionID, after[0], orNull(after[1]), limit+1)
	if err != nil {
		return graphView{}, fmt.Errorf("reading the graph: %w", err)
	}
	nodes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[graphNode])
	if err != nil {
		return graphView{}, fmt.Errorf("reading the graph: %w", err)
	}
	for i, edges := 0, 0; i < min(limit, len(nodes)); i++ {
		if edges += nodes[i].Edges; edges > graphEdges && i > 0 {
			limit = i
		}
	}
	shown := pageOf(nodes, limit, func(n graphNode) string { return encodeCursor("graph", n.Place, n.ID) })
	graph := graphView{Nodes: shown.Items, Edges: []graphEdge{}, Cycles: [][]string{}, NextCursor: shown.NextCursor}
	if err := s.readGraphEdges(ctx, &graph); err != nil {
		return graph, err
	}
	if after[1] != "" {
		return graph, nil
	}
	circles, err := readEdges(ctx, s.db, `
		SELECT s.key, o.key FROM spec_states h JOIN dependencies d ON d.spec_id = h.spec_id
		JOIN specs s ON s.id = d.spec_id JOIN specs o ON o.id = d.depends_on
		WHERE h.mission_id = $1 AND h.cycle > 0 ORDER BY o.key`, missionID)
	graph.Cycles = orEmpty(specfile.Cycles(circles))
	return graph, err
}

// readGraphEdges reads the edges from the nodes, by key, in the order of these.
func (s *Server) readGraphEdges(ctx context.Context, graph *graphView) error {
	ids := make([]string, 0, len(graph.Nodes))
	for _, n := range graph.Nodes {
		ids = append(ids, n.ID)
	}
	rows, err := s.db.Query(ctx, `
		SELECT s.key, o.key FROM unnest($1::uuid[]) WITH ORDINALITY AS its (id, n) JOIN specs s ON s.id = its.id
		JOIN dependencies d ON d.spec_id = s.id JOIN specs o ON o.id = d.depends_on ORDER BY n, o.key`, ids)
	if err != nil {
		return fmt.Errorf("reading the graph: %w", err)
	}
	edges, err := pgx.CollectRows(rows, pgx.RowToStructByPos[graphEdge])
	if err != nil {
		return fmt.Errorf("reading the graph: %w", err)
	}
	graph.Edges = orEmpty(edges)
	return nil
}

// mermaid draws the graph as a Mermaid flowchart, from what is done first to
// what depends on it. Specs of other pages are drawn by their key alone.
func mermaid(graph graphView) string {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	name := make(map[string]string, len(graph.Nodes))
	quote := strings.NewReplacer(`"`, "#quot;", "<", "#lt;", ">", "#gt;", "`", "#96;", "#", "#35;", "\n", " ")
	for i, n := range graph.Nodes {
		name[n.Key] = fmt.Sprintf("s%d", i)
		class := n.Status
		if n.Ready {
			class = "ready"
		}
		fmt.Fprintf(&b, "  s%d[\"%s\"]:::%s\n", i, quote.Replace(strings.TrimSpace(n.Number+" "+n.Title)), class)
	}
	for _, e := range graph.Edges {
		if name[e.To] == "" {
			name[e.To] = fmt.Sprintf("s%d", len(name))
			fmt.Fprintf(&b, "  %s[\"%s\"]\n", name[e.To], e.To)
		}
		fmt.Fprintf(&b, "  %s --> %s\n", name[e.To], name[e.From])
	}
	b.WriteString("  classDef completed fill:#9d9,stroke:#393\n  classDef ready fill:#ff9,stroke:#990\n" +
		"  classDef in_progress fill:#9cf,stroke:#369\n  classDef blocked fill:#f99,stroke:#933\n" +
		"  classDef proposed stroke-dasharray:5 5\n")
	return b.String()
}

// notReadyReason is why a spec isn't ready.
type notReadyReason struct {
	Code    string      `json:"code"`
	Message string      `json:"message"`
	Spec    *reasonSpec `json:"spec,omitempty"`
}

// reasonSpec is the spec that a reason speaks of.
type reasonSpec struct {
	ID     string `json:"id"`
	Key    string `json:"key"`
	Title  string `json:"title"`
	Status string `json:"status"`
}

// explanation says whether a spec is ready, and if not why.
type explanation struct {
	Ready    bool               `json:"ready"`
	Reasons  []notReadyReason   `json:"reasons"`
	Warnings []specfile.Warning `json:"warnings"` // such as a dependency that names nothing
}

// explainSpec is GET /api/v1/specs/{id}/explain.
func (s *Server) explainSpec(ctx context.Context, c *call) (explanation, error) {
	spec, err := s.readSpec(ctx, c.account, c.target.spec)
	if err != nil {
		return explanation{}, err
	}
	reasons, err := whyNotReady(spec.specSummary)
	if err != nil || !spec.Ready {
		return explanation{spec.Ready, orEmpty(reasons), spec.Warnings}, err
	}
	mission, err := readMission(ctx, s.db, c.account, spec.MissionID)
	if err = cmp.Or(err, mission.noteFull(ctx, s.db)); mission.reviewFull {
		reasons = append(reasons, reviewFullReason)
	}
	return explanation{spec.Ready, orEmpty(reasons), spec.Warnings}, err
}

// whyNotReady gives every reason that keeps a spec from being claimed, none if
// it is ready.
func whyNotReady(spec specSummary) ([]notReadyReason, error) {
	var reasons []notReadyReason
	if spec.missionStatus != "active" {
		reasons = append(reasons, notReadyReason{Code: "mission_not_active",
			Message: fmt.Sprintf("The mission is %s.", spec.missionStatus)})
	}
	if spec.Claim != nil {
		reasons = append(reasons, notReadyReason{Code: "claimed",
			Message: fmt.Sprintf("%s is working on it (attempt %d).", spec.Claim.Agent, spec.Claim.Attempt)})
	}
	if spec.Status != "planned" {
		reasons = append(reasons, notReadyReason{Code: "status", Message: fmt.Sprintf("Its status is %s; only planned "+
			"specs are handed out.", spec.Status)})
	}
	if spec.Status == "blocked" && spec.asked > 0 {
		reasons = append(reasons, notReadyReason{Code: "question_open", Message: fmt.Sprintf("It waits for a person's "+
			"answer (open questions: %d). Once all are answered, it is planned again.", spec.asked)})
	}
	var related []reasonSpec
	if err := unmarshal(spec.Dependencies, &related); err != nil {
		return nil, fmt.Errorf("reading dependencies: %w", err)
	}
	open := slices.DeleteFunc(related, func(d reasonSpec) bool { return d.Status == "completed" })
	for _, d := range open {
		reasons = append(reasons, notReadyReason{"dependency_open",
			fmt.Sprintf("It depends on %s, which is %s.", d.Key, d.Status), &d})
	}
	if len(open) > 0 && spec.cycle > 0 {
		reasons = append(reasons, notReadyReason{Code: "dependency_cycle",
			Message: fmt.Sprintf("It is one of %d specs in a dependency cycle; none of them can become ready.", spec.cycle)})
	}
	return reasons, nil
}

// sentences are what reasons say, of dependencies only so many.
func sentences(reasons []notReadyReason, dependencies int) []string {
	said := make([]string, 0, len(reasons))
	for _, why := range reasons {
		if why.Code == "dependency_open" {
			dependencies--
		}
		if why.Code != "dependency_open" || dependencies >= 0 {
			said = append(said, why.Message)
		}
	}
	if dependencies < 0 {
		said = append(said, fmt.Sprintf("It depends on %d more that aren't completed.", -dependencies))
	}
	return said
}
