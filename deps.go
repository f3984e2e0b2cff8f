package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

const maxDependencies = 1000 // of one spec

// setDependencies gives a new spec its dependencies, named by id or key.
func (t *tx) setDependencies(ctx context.Context, m missionLock, specID string, names []string) error {
	if len(names) == 0 {
		return nil
	}
	_, err := t.replaceDependencies(ctx, m, specID, names)
	return err
}

// replaceDependencies makes names, ids or keys, the dependencies of a spec and
// reports whether they changed. The mission is locked, so that no two edits
// can close a cycle together.
func (t *tx) replaceDependencies(ctx context.Context, m missionLock, specID string, names []string) (changed bool, err error) {
	wanted, err := t.resolveSpecs(ctx, m.ID, names)
	if err != nil {
		return false, err
	}
	rows, err := t.Query(ctx, `SELECT depends_on FROM dependencies WHERE spec_id = $1 ORDER BY depends_on`, specID)
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
	if err := t.refuseCycle(ctx, m.ID, specID, added); err != nil {
		return false, err
	}
	batch := &pgx.Batch{}
	batch.Queue(`DELETE FROM dependencies WHERE spec_id = $1 AND NOT depends_on = ANY($2)`, specID, wanted)
	batch.Queue(`INSERT INTO dependencies (spec_id, depends_on) SELECT $1, unnest($2::uuid[])`, specID, added)
	batch.Queue(`UPDATE specs SET refs = NULL WHERE id = $1 AND refs IS NOT NULL`, specID)
	if err := t.SendBatch(ctx, batch).Close(); err != nil {
		return false, fmt.Errorf("storing dependencies: %w", err)
	}
	return true, t.countUnmet(ctx, []string{specID})
}

// resolveSpecs finds the specs that names, ids or keys, mean in a mission. The
// ids come sorted and without duplicates.
func (t *tx) resolveSpecs(ctx context.Context, missionID string, names []string) ([]string, error) {
	if len(names) > maxDependencies {
		return nil, invalidField("dependencies", "too_many", "must have at most %d entries", maxDependencies)
	}
	var ids, keys []string
	for _, name := range names {
		if validID(name) {
			ids = append(ids, strings.ToLower(name))
		} else {
			keys = append(keys, name)
		}
	}
	rows, err := t.Query(ctx, `SELECT id, key FROM specs WHERE mission_id = $1 AND (id = ANY($2) OR key = ANY($3)) ORDER BY id`, missionID, ids, keys)
	if err != nil {
		return nil, fmt.Errorf("looking for dependencies: %w", err)
	}
	found := []string{}
	var known []string
	var id, key string
	if _, err := pgx.ForEachRow(rows, []any{&id, &key}, func() error {
		found, known = append(found, id), append(known, id, key)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("looking for dependencies: %w", err)
	}
	var v violations
	for i, name := range names {
		if !slices.Contains(known, name) && !slices.Contains(known, strings.ToLower(name)) {
			v.add(fmt.Sprintf("dependencies[%d]", i), "unknown_spec", "isn't the id or key of a spec of this mission")
		}
	}
	return found, v.err()
}

// refuseCycle refuses new edges from a spec that lead back to it. Cycles that
// an import has brought in are left alone.
func (t *tx) refuseCycle(ctx context.Context, missionID, specID string, added []string) error {
	if len(added) == 0 {
		return nil
	}
	edges, err := missionEdges(ctx, t, missionID)
	if err != nil {
		return err
	}
	edges[specID] = added
	cycle := shortestRound(edges, specID, func(string) bool { return true })
	if cycle == nil {
		return nil
	}
	keys, err := t.keysOf(ctx, cycle)
	if err != nil {
		return err
	}
	return problem(http.StatusConflict, "dependency_cycle", "This closes a cycle: %s.",
		strings.Join(append(keys, keys[0]), " → ")).with("cycle", keys)
}

// missionEdges reads what every spec of a mission depends on, by id.
func missionEdges(ctx context.Context, q querier, missionID string) (map[string][]string, error) {
	rows, err := q.Query(ctx, `
		SELECT d.spec_id, d.depends_on FROM dependencies d JOIN specs s ON s.id = d.spec_id WHERE s.mission_id = $1`, missionID)
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

// countUnmet counts anew how many dependencies of some specs aren't completed.
// The specs are locked.
func (t *tx) countUnmet(ctx context.Context, specIDs []string) error {
	_, err := t.Exec(ctx, `
		UPDATE specs SET unmet = n.unmet
		FROM (SELECT s.id, count(o.id) AS unmet FROM specs s
		      LEFT JOIN dependencies d ON d.spec_id = s.id
		      LEFT JOIN specs o ON o.id = d.depends_on AND o.status <> 'completed'
		      WHERE s.id = ANY($1) GROUP BY s.id) n
		WHERE specs.id = n.id AND specs.unmet <> n.unmet`, specIDs)
	if err != nil {
		return fmt.Errorf("counting unmet dependencies: %w", err)
	}
	return nil
}

// graphNode is a spec in a mission's graph.
type graphNode struct {
	ID     string `json:"id"`
	Key    string `json:"key"`
	Number string `json:"number"`
	Title  string `json:"title"`
	Status string `json:"status"`
	Ready  bool   `json:"ready"`
}

// graphEdge says that one spec depends on another; both by key.
type graphEdge struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// getGraph is GET /api/v1/missions/{id}/graph?format=json|mermaid.
func (s *Server) getGraph(w http.ResponseWriter, r *http.Request) error {
	q := newQuery(r, "format")
	format := q.choice("format", "json", "json", "mermaid")
	if err := q.err(); err != nil {
		return err
	}
	a, id := callOf(r).account, callOf(r).target.mission
	if _, err := readMission(r.Context(), s.db, a, id); err != nil {
		return err
	}
	rows, err := s.db.Query(r.Context(), `SELECT s.id, s.key, s.number, s.title, s.status, `+readySQL+specsSQL+`
		AND s.mission_id = $3 ORDER BY s.number_order, s.id`, a.userID, a.admin(), id)
	if err != nil {
		return fmt.Errorf("reading the graph: %w", err)
	}
	nodes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[graphNode])
	if err != nil {
		return fmt.Errorf("reading the graph: %w", err)
	}
	byID, err := missionEdges(r.Context(), s.db, id)
	if err != nil {
		return err
	}
	edges, cycles := edgesByKey(nodes, byID)
	if format == "mermaid" {
		writeBytes(w, r, http.StatusOK, "text/vnd.mermaid; charset=utf-8", []byte(mermaid(nodes, edges)))
		return nil
	}
	return respondOK(w, r, struct {
		Nodes  []graphNode `json:"nodes"`
		Edges  []graphEdge `json:"edges"`
		Cycles [][]string  `json:"cycles"`
	}{orEmpty(nodes), orEmpty(edges), orEmpty(cycles)})
}

// edgesByKey names the ends of the edges by key, in the order of the nodes.
func edgesByKey(nodes []graphNode, byID map[string][]string) (edges []graphEdge, cycles [][]string) {
	keys := make(map[string]string, len(nodes))
	for _, n := range nodes {
		keys[n.ID] = n.Key
	}
	byKey := make(map[string][]string, len(byID))
	for _, n := range nodes {
		for _, to := range byID[n.ID] {
			byKey[n.Key] = append(byKey[n.Key], keys[to])
		}
		slices.Sort(byKey[n.Key])
		for _, to := range byKey[n.Key] {
			edges = append(edges, graphEdge{n.Key, to})
		}
	}
	return edges, findCycles(byKey)
}

// mermaid draws the graph as a Mermaid flowchart, from what is done first to
// what depends on it.
func mermaid(nodes []graphNode, edges []graphEdge) string {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	name := make(map[string]string, len(nodes))
	quote := strings.NewReplacer(`"`, "#quot;", "<", "#lt;", ">", "#gt;", "`", "#96;", "#", "#35;", "\n", " ")
	for i, n := range nodes {
		name[n.Key] = fmt.Sprintf("s%d", i)
		class := n.Status
		if n.Ready {
			class = "ready"
		}
		fmt.Fprintf(&b, "  s%d[\"%s\"]:::%s\n", i, quote.Replace(strings.TrimSpace(n.Number+" "+n.Title)), class)
	}
	for _, e := range edges {
		fmt.Fprintf(&b, "  %s --> %s\n", name[e.To], name[e.From])
	}
	b.WriteString("  classDef completed fill:#9d9,stroke:#393\n  classDef ready fill:#ff9,stroke:#990\n" +
		"  classDef in_progress fill:#9cf,stroke:#369\n  classDef blocked fill:#f99,stroke:#933\n")
	return b.String()
}

// orEmpty makes JSON say [] where there is nothing.
func orEmpty[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

// reason is why a spec isn't ready.
type reason struct {
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

// explainSpec is GET /api/v1/specs/{id}/explain.
func (s *Server) explainSpec(w http.ResponseWriter, r *http.Request) error {
	if err := newQuery(r).err(); err != nil {
		return err
	}
	ctx, a := r.Context(), callOf(r).account
	spec, err := readSpec(ctx, s.db, a, callOf(r).target.spec)
	if err != nil {
		return err
	}
	var reasons []reason
	if !spec.Ready {
		if reasons, err = s.explain(ctx, a, spec.specSummary); err != nil {
			return err
		}
	}
	return respondOK(w, r, struct {
		Ready   bool     `json:"ready"`
		Reasons []reason `json:"reasons"`
	}{spec.Ready, orEmpty(reasons)})
}

// explain reads what whyNotReady has to know of a spec that isn't ready.
func (s *Server) explain(ctx context.Context, a account, spec specSummary) ([]reason, error) {
	mission, err := readMission(ctx, s.db, a, spec.MissionID)
	if err != nil {
		return nil, err
	}
	edges, err := missionEdges(ctx, s.db, spec.MissionID)
	if err != nil {
		return nil, err
	}
	return whyNotReady(mission.Status, spec, findCycles(edges))
}

// whyNotReady gives every reason that keeps a spec, which isn't ready, from
// being claimed. cycles are those of its mission, by id.
func whyNotReady(missionStatus string, spec specSummary, cycles [][]string) ([]reason, error) {
	var reasons []reason
	if missionStatus != "active" {
		reasons = append(reasons, reason{Code: "mission_not_active", Message: fmt.Sprintf("The mission is %s.", missionStatus)})
	}
	if spec.Claim != nil {
		reasons = append(reasons, reason{Code: "claimed", Message: fmt.Sprintf("%s works on it, at attempt %d.", spec.Claim.Agent, spec.Claim.Attempt)})
	}
	if spec.Status != "planned" {
		reasons = append(reasons, reason{Code: "status", Message: fmt.Sprintf("It is %s, and only what is planned is handed out.", spec.Status)})
	}
	var related []reasonSpec
	if err := unmarshal(spec.Dependencies, &related); err != nil {
		return nil, fmt.Errorf("reading dependencies: %w", err)
	}
	open := slices.DeleteFunc(related, func(d reasonSpec) bool { return d.Status == "completed" })
	for _, d := range open {
		reasons = append(reasons, reason{"dependency_open", fmt.Sprintf("It depends on %s, which is %s.", d.Key, d.Status), &d})
	}
	for _, cycle := range cycles {
		if len(open) > 0 && slices.Contains(cycle, spec.ID) {
			reasons = append(reasons, reason{Code: "dependency_cycle",
				Message: fmt.Sprintf("It is one of %d specs that depend on each other in a circle; none of them can ever be ready.", len(cycle))})
		}
	}
	return reasons, nil
}
