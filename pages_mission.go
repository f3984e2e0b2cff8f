package main

// Missions seen otherwise than as a board: what depends on what in one, what has
// happened in it, and the list of all.

import (
	"cmp"
	"context"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/markdown"
	"tachikoma/internal/specgraph"
)

const (
	maxDrawn = 150 // specs in a picture
	maxHops  = 8   // from the spec that a picture is about
)

// graphPageView is what the page of a graph shows.
type graphPageView struct {
	Picture template.HTML
	Around  string // the key of the spec that it is about; "" for all of the mission
	Shown   int    // specs in the picture
	Total   int    // specs of the mission
	Cycles  [][]string
	States  []stateLook // those in the picture
}

// Fits reports whether a picture takes the whole mission.
func (v *graphPageView) Fits() bool { return v.Total <= maxDrawn }

// stateLook is how a spec's state looks and what it is called.
type stateLook struct{ State, Mark, Says string }

// stateLooks tell states apart by their marks, for those who can't tell colours, in the
// order of a legend.
var stateLooks = []stateLook{{"proposed", "+", "proposed"}, {"planned", "◌", "planned"}, {"ready", "○", "ready"},
	{"in_progress", "▶", "in progress"}, {"testing", "▷", "testing"}, {"in_review", "◈", "in review"},
	{"blocked", "✕", "blocked"}, {"completed", "✓", "completed"}, {"deferred", "–", "deferred"}}

// lookOf is how a spec looks. A status that is new here has a mark too.
func lookOf(n graphNode) stateLook {
	if n.Ready {
		n.Status = "ready"
	}
	for _, look := range stateLooks {
		if look.State == n.Status {
			return look
		}
	}
	return stateLook{n.Status, "?", strings.ReplaceAll(n.Status, "_", " ")}
}

// graphPage is GET /missions/{id}/graph?around=KEY. Of a mission with more specs than
// a picture takes it shows those around one.
func (s *Server) graphPage(ctx context.Context, c *call, q *query) (*pageView, error) {
	around := q.text("around", 128)
	if err := q.err(); err != nil {
		return nil, err
	}
	v, err := s.missionPage(ctx, c, "graph", "Graph")
	if err != nil {
		return nil, err
	}
	mission := v.Mission
	graph, err := s.readGraph(ctx, c.account, mission.ID, make([]string, 2), maxDrawn)
	if err != nil {
		return nil, err
	}
	if around == "" && graph.NextCursor != nil {
		around = middleOf(graph.Nodes)
	}
	view := &graphPageView{Around: around, Total: mission.Stats.total, Cycles: graph.Cycles}
	if around != "" {
		if err := s.readAround(ctx, c.account, mission.ID, around, &graph); err != nil {
			return nil, err
		}
	}
	view.Shown = len(graph.Nodes)
	view.draw(mission, graph)
	v.Data = view
	return v, nil
}

// middleOf is the spec around which a picture begins: the first that somebody works
// on, or that is ready, or any.
func middleOf(nodes []graphNode) string {
	for _, fits := range []func(graphNode) bool{
		func(n graphNode) bool { return n.Status == "in_progress" },
		func(n graphNode) bool { return n.Ready },
	} {
		if i := slices.IndexFunc(nodes, fits); i >= 0 {
			return nodes[i].Key
		}
	}
	return nodes[0].Key
}

// readAround replaces a graph's nodes and edges by those around the spec with a key,
// the nearest ones, as many as a picture takes.
func (s *Server) readAround(ctx context.Context, a account, missionID, key string, graph *graphView) error {
	ctx, end, err := s.beginRead(ctx, a, "", true)
	if err != nil {
		return err
	}
	defer end()
	first, err := s.specByKey(ctx, a, missionID, key)
	if err != nil {
		return err
	}
	near, ids := []string{first}, []string{first}
	for hop := 0; hop < maxHops && len(near) > 0 && len(ids) < maxDrawn; hop++ {
		rows, err := s.db.Query(ctx, `
			SELECT o.id FROM unnest($1::uuid[]) WITH ORDINALITY AS near (id, n)
			CROSS JOIN LATERAL (
				(SELECT depends_on AS id FROM dependencies WHERE spec_id = near.id ORDER BY depends_on LIMIT $2)
				UNION ALL (SELECT spec_id FROM dependencies WHERE depends_on = near.id ORDER BY spec_id LIMIT $2)) o
			ORDER BY n, o.id`, near, maxDrawn)
		if err != nil {
			return fmt.Errorf("reading the graph: %w", err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("reading the graph: %w", err)
		}
		near = nil
		for _, id := range found {
			if len(ids) < maxDrawn && !slices.Contains(ids, id) {
				near, ids = append(near, id), append(ids, id)
			}
		}
	}
	rows, err := s.db.Query(ctx, `SELECT `+graphColumns+specsSQL+` AND s.id = ANY($3) ORDER BY s.place, s.id`,
		a.userID, a.admin(), ids)
	if err != nil {
		return fmt.Errorf("reading the graph: %w", err)
	}
	if graph.Nodes, err = pgx.CollectRows(rows, pgx.RowToStructByPos[graphNode]); err != nil {
		return fmt.Errorf("reading the graph: %w", err)
	}
	rows, err = s.db.Query(ctx, `
		SELECT s.key, o.key FROM unnest($1::uuid[]) AS its (id) JOIN dependencies d ON d.spec_id = its.id
		JOIN specs s ON s.id = d.spec_id JOIN specs o ON o.id = d.depends_on WHERE d.depends_on = ANY($1)`, ids)
	if err != nil {
		return fmt.Errorf("reading the graph: %w", err)
	}
	if graph.Edges, err = pgx.CollectRows(rows, pgx.RowToStructByPos[graphEdge]); err != nil {
		return fmt.Errorf("reading the graph: %w", err)
	}
	return nil
}

// draw makes the picture and its legend.
func (v *graphPageView) draw(mission *missionView, graph graphView) {
	nodes, edges := make([]specgraph.Node, len(graph.Nodes)), make([]specgraph.Edge, len(graph.Edges))
	for i, n := range graph.Nodes {
		look := lookOf(n)
		nodes[i] = specgraph.Node{Key: n.Key, Title: n.Title, Href: specAddress(mission.ID, n.Key), State: look.State,
			Mark: look.Mark, Says: look.Says, Here: n.Key == v.Around}
		if !slices.Contains(v.States, look) {
			v.States = append(v.States, look)
		}
	}
	for i, e := range graph.Edges {
		edges[i] = specgraph.Edge{From: e.From, To: e.To}
	}
	slices.SortFunc(v.States, func(a, b stateLook) int {
		return cmp.Compare(slices.Index(stateLooks, a), slices.Index(stateLooks, b))
	})
	v.Picture = specgraph.SVG(nodes, edges, "What depends on what in "+mission.Name)
}

const (
	activityLimit = 50 // events of a page

	// activityReach is how many events a page looks through for those that fit its
	// filter.
	activityReach = 20_000
)

// activityFilter is what events a page of a mission's activity shows. The zero value
// is all.
type activityFilter struct {
	Kind   string // what their types begin with
	Agent  string
	Spec   string // by key
	Errors bool
}

// activityView is a stretch of a mission's events, the newest first.
type activityView struct {
	activityFilter
	Events []activityEvent
	At     int64    // the event that was asked for; 0 for the newest
	Gone   int64    // the number of the newest event that isn't kept any more
	Older  string   // the page that goes on; "" for none
	Kinds  []string // that can be asked for
	path   string
}

// activityEvent is an event as people see it.
type activityEvent struct {
	Seq   int64
	Type  string
	Agent *string
	At    time.Time
	Bad   bool    // "errors only" leaves it
	Key   *string // of its spec, if that is there
	Title *string
	Name  *string // of the account that caused it
	Whom  *string // the member that it made or removed

	missionID string
	data      map[string]any
}

// activityPage is GET /missions/{id}/activity. With at=N it begins with that event, so
// that each has an address.
func (s *Server) activityPage(ctx context.Context, c *call, q *query) (*pageView, error) {
	view := &activityView{Kinds: []string{"log", "spec", "mission", "member"},
		path: boardOf(c.target.mission) + "/activity", At: q.number("at", 0, 0, 1<<62)}
	view.Kind = q.choice("kind", "", view.Kinds...)
	view.Agent, view.Spec = q.text("agent", 200), q.text("spec", 128)
	view.Errors = q.choice("errors", "", "1") != ""
	if err := q.err(); err != nil {
		return nil, err
	}
	v, err := s.missionPage(ctx, c, "activity", "Activity")
	if err != nil {
		return nil, err
	}
	if v.Data = view; view.At > 0 {
		v.Follow = "" // what has happened stays as it is
	}
	return v, s.readActivity(ctx, v.Mission.ID, v.head, view)
}

// badEventSQL holds for the events that "errors only" leaves.
const badEventSQL = `(type IN ('spec.failed', 'spec.lease_expired') OR type = 'log' AND data->>'level' = 'error'
	OR type = 'spec.status_changed' AND data->>'to' = 'blocked')`

// readActivity reads the events of a page. Numbers have no gap, so it is known how many
// events are looked through, whatever the filter leaves.
func (s *Server) readActivity(ctx context.Context, missionID string, head eventsView, v *activityView) error {
	from := head.LastSeq
	if v.At > 0 {
		from = min(from, v.At)
	}
	floor := max(head.FirstSeq-1, from-activityReach)
	rows, err := s.db.Query(ctx, `
		SELECT e.seq, e.type, e.agent, e.at, e.data, e.bad, s.key, s.title, u.name,
		       (SELECT name FROM users WHERE id = CASE WHEN e.type IN ('member.set', 'member.removed')
		        THEN (e.data->>'user_id')::uuid END)
		FROM (SELECT seq, type, spec_id, user_id, agent, at, data, coalesce(`+badEventSQL+`, false) AS bad
		      FROM events
		      WHERE stream = $1 AND seq <= $2 AND seq > $3 AND ($4 = '' OR split_part(type, '.', 1) = $4)
		      AND ($5 = '' OR agent = $5)
		      AND ($6 = '' OR spec_id = (SELECT id FROM specs WHERE mission_id = $1 AND key = $6))
		      AND (NOT $7 OR `+badEventSQL+`)
		      ORDER BY seq DESC LIMIT $8) e
		LEFT JOIN specs s ON s.id = e.spec_id LEFT JOIN users u ON u.id = e.user_id ORDER BY e.seq DESC`,
		missionID, from, floor, v.Kind, v.Agent, v.Spec, v.Errors, activityLimit+1)
	if err != nil {
		return fmt.Errorf("reading events: %w", err)
	}
	v.Events, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (activityEvent, error) {
		e := activityEvent{missionID: missionID}
		var data []byte
		if err := row.Scan(&e.Seq, &e.Type, &e.Agent, &e.At, &data, &e.Bad, &e.Key, &e.Title, &e.Name,
			&e.Whom); err != nil {
			return e, err
		}
		if unmarshal(data, &e.data) != nil {
			e.data = nil // an event of a version to come, which says something else
		}
		return e, nil
	})
	if err != nil {
		return fmt.Errorf("reading events: %w", err)
	}
	switch {
	case len(v.Events) > activityLimit:
		v.Older = v.link(v.Events[activityLimit].Seq)
		v.Events = v.Events[:activityLimit]
	case floor > head.FirstSeq-1:
		v.Older = v.link(floor)
	default:
		v.Gone = head.FirstSeq - 1
	}
	return nil
}

// link is the address of the page that begins with an event, under the same filter.
func (v *activityView) link(at int64) string {
	params := map[string]string{"kind": v.Kind, "agent": v.Agent, "spec": v.Spec}
	if v.Errors {
		params["errors"] = "1"
	}
	if at > 0 {
		params["at"] = strconv.FormatInt(at, 10)
	}
	return strings.TrimSuffix(v.path+"?"+paramsOf(params).Encode(), "?")
}

// Newest is the page of the newest events, under the same filter.
func (v *activityView) Newest() string { return v.link(0) }

// Filtered reports whether some events aren't shown.
func (v *activityView) Filtered() bool { return v.activityFilter != activityFilter{} }

// Link is the event's own address.
func (e activityEvent) Link() string {
	return fmt.Sprintf("%s/activity?at=%d#e%[2]d", boardOf(e.missionID), e.Seq)
}

// SpecLink is the path of the event's spec.
func (e activityEvent) SpecLink() string { return specAddress(e.missionID, *e.Key) }

// Who names the agent or account that caused the event.
func (e activityEvent) Who() string {
	switch {
	case orEmptyText(e.Agent) != "":
		return *e.Agent
	case e.Name != nil:
		return *e.Name
	}
	return "the server"
}

// What says what has happened, in a few words.
func (e activityEvent) What() string {
	data := e.data
	say := func(name string) string { return strings.ReplaceAll(plainText(data[name]), "_", " ") }
	switch kind, step, _ := strings.Cut(e.Type, "."); {
	case kind == "log":
		return say("level")
	case e.Type == "mission.imported":
		return fmt.Sprintf("imported files: %s new, %s changed, %s unchanged, %s warnings", say("created"), say("updated"),
			say("unchanged"), say("warnings"))
	case e.Type == "mission.updated", e.Type == "spec.updated":
		labels := strings.Split(plainText(data["changed"]), ", ")
		for i, field := range labels {
			labels[i] = labelOf(field)
		}
		return "changed: " + strings.Join(labels, ", ")
	case e.Type == "member.set":
		return "made " + orEmptyText(e.Whom) + " " + say("role") + " of the mission"
	case e.Type == "member.removed":
		return "removed " + orEmptyText(e.Whom) + " from the mission"
	case e.Type == "spec.asked" && data["parked"] == true: // maybe what was asked before
		return "parked it until there is an answer"
	case e.Type == "spec.created", e.Type == "spec.deleted":
		return step + " " + plainText(data["key"])
	case e.Type == "spec.claimed":
		return "claimed it, attempt " + say("attempt")
	case e.Type == "spec.progressed":
		return fmt.Sprintf("reported: %s of %s criteria", say("criteria_done"), say("criteria_total"))
	case e.Type == "spec.failed":
		return fmt.Sprintf("failed at attempt %s, now %s", say("attempt"), say("status"))
	case e.Type == "spec.lease_expired":
		return fmt.Sprintf("lost the lease of attempt %s, now %s", say("attempt"), say("status"))
	case e.Type == "spec.status_changed":
		return say("from") + " → " + say("to")
	case e.Type == "spec.submitted":
		return "handed it in for review"
	case e.Type == "spec.rejected":
		return "sent it back"
	case kind == "mission":
		return step + " the mission"
	case kind == "spec":
		return strings.ReplaceAll(step, "_", " ")
	}
	return e.Type
}

// Text is what somebody wrote, line by line, with its addresses as links.
func (e activityEvent) Text() template.HTML {
	var parts []string
	for _, name := range []string{"message", "reason", "question", "answer", "notes", "override", "fields"} {
		if text := plainText(e.data[name]); text != "" {
			parts = append(parts, text)
		}
	}
	for _, name := range []string{"options", "links"} {
		items, _ := e.data[name].([]any)
		for _, item := range items {
			if where, ok := item.(map[string]any); ok { // a link
				item = strings.ReplaceAll(plainText(where["kind"]), "_", " ") + " " + plainText(where["ref"])
			}
			parts = append(parts, "- "+plainText(item))
		}
	}
	return markdown.Text(strings.Join(parts, "\n"))
}

// plainText is a value of an event's data as text.
func plainText(value any) string {
	switch value := value.(type) {
	case nil:
		return ""
	case string:
		return value
	case []any:
		texts := make([]string, len(value))
		for i := range value {
			texts[i] = plainText(value[i])
		}
		return strings.Join(texts, ", ")
	case map[string]any:
		text, err := encode(value)
		if err != nil {
			return ""
		}
		return string(text)
	}
	return fmt.Sprint(value)
}

// missionRow is a mission in the list of them.
type missionRow struct {
	missionView
	Oldest *time.Time // since when the oldest lease is held
}

// missionsView is the list of missions, and what begins one.
type missionsView struct {
	Items  []missionRow
	More   string
	Status string
	All    []string // the statuses to choose from
}

// missionsPage is GET /.
func (s *Server) missionsPage(ctx context.Context, c *call, q *query) (*pageView, error) {
	missions, err := s.listMissions(ctx, c, q)
	if err != nil {
		return nil, err
	}
	status, _ := q.get("status")
	view := missionsView{Status: status, All: missionStatuses}
	var ids []string
	for _, m := range missions.Items {
		ids = append(ids, m.ID)
	}
	oldest, err := s.oldestLeases(ctx, ids)
	if err != nil {
		return nil, err
	}
	needed := 0
	for _, m := range missions.Items {
		row := missionRow{missionView: m}
		if at, ok := oldest[m.ID]; ok {
			row.Oldest = &at
		}
		needed += row.NeedsYou()
		view.Items = append(view.Items, row)
	}
	if missions.NextCursor != nil {
		next := maps.Clone(q.values)
		next["cursor"] = *missions.NextCursor
		view.More = "?" + paramsOf(next).Encode()
	}
	v := &pageView{Name: "missions", Title: "Missions", Polls: true, Data: view}
	if needed > 0 {
		v.Title = fmt.Sprintf("(%d) %s", needed, v.Title)
	}
	return v, nil
}

// oldestLeases is since when each of some missions has its oldest lease.
func (s *Server) oldestLeases(ctx context.Context, missions []string) (map[string]time.Time, error) {
	rows, err := s.db.Query(ctx, `
		SELECT want.id, min(l.claimed_at) FROM unnest($1::uuid[]) AS want (id) JOIN leases l ON l.mission_id = want.id
		GROUP BY want.id`, missions)
	if err != nil {
		return nil, fmt.Errorf("reading leases: %w", err)
	}
	oldest := make(map[string]time.Time)
	var id string
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&id, &at}, func() error {
		oldest[id] = at
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading leases: %w", err)
	}
	return oldest, nil
}
