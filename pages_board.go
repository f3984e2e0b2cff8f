package main

// The pages of missions: their list, and the board of each.

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	columnCards = 50  // that a column shows; more are on pages of its own
	foundCards  = 200 // that a search shows in all columns
)

// columnKind is a kind of columns of a board: the specs of some statuses, and if
// ready isn't nil those of them that are ready, or aren't.
type columnKind struct {
	ID, Name string
	statuses []string
	ready    *bool
	sort     string
}

// boardColumns are the columns of a board. Every status has one.
var boardColumns = func() []columnKind {
	columns := []columnKind{
		{"needs-you", "Needs you", []string{"proposed", "in_review", "blocked"}, nil, "number"},
		{"waiting", "Waiting", []string{"planned"}, new(false), "number"},
		{"ready", "Ready", []string{"planned"}, new(true), "number"},
		{"working", "Working", []string{"in_progress", "testing"}, nil, "number"},
		{"done", "Done", []string{"completed", "deferred"}, nil, "-updated_at"},
	}
	var known []string
	for _, column := range columns {
		known = append(known, column.statuses...)
	}
	others := statusesThat(func(s specStatus) bool { return !slices.Contains(known, s.name) })
	if len(others) > 0 {
		columns = append(columns, columnKind{"other", "Other", others, nil, "number"})
	}
	return columns
}()

// waitsForPeople are the statuses of specs that somebody has to decide about.
var waitsForPeople = boardColumns[0].statuses

// has reports whether a spec belongs into a column of this kind.
func (k columnKind) has(v specSummary) bool {
	return slices.Contains(k.statuses, v.Status) && (k.ready == nil || *k.ready == v.Ready)
}

// count is how many of a mission's specs do, of which stats speaks.
func (k columnKind) count(stats missionStats) (n int) {
	if k.ready != nil && *k.ready {
		return stats.ready
	}
	for _, status := range k.statuses {
		n += stats.of(status)
	}
	if k.ready != nil {
		n -= stats.ready
	}
	return n
}

// Count and the others are what templates show of a mission's counters.
func (m missionView) Count(status string) int { return m.Stats.of(status) }
func (m missionView) Total() int              { return m.Stats.total }
func (m missionView) Empty() bool             { return m.Stats.total+m.Stats.of("proposed") == 0 }
func (m missionView) Ready() int              { return m.Stats.ready }
func (m missionView) NeedsYou() int           { return boardColumns[0].count(m.Stats) }

// boardFilter is what a board is filtered by, as its address has it.
type boardFilter struct{ Text, Tag, Phase, Agent, Status, Hide, Column string }

func readBoardFilter(q *query) boardFilter {
	var columns []string
	for _, kind := range boardColumns {
		columns = append(columns, kind.ID)
	}
	return boardFilter{q.text("q", 500), q.text("tag", 64), q.text("phase", 200), q.text("agent", 100),
		q.choice("status", "", specStatuses...), q.choice("hide", "", specStatuses...), q.choice("column", "", columns...)}
}

// values are the parameters of an address.
func (f boardFilter) values() url.Values {
	values := make(url.Values)
	for name, value := range map[string]string{"q": f.Text, "tag": f.Tag, "phase": f.Phase, "agent": f.Agent,
		"status": f.Status, "hide": f.Hide, "column": f.Column} {
		if value != "" {
			values.Set(name, value)
		}
	}
	return values
}

// boardView is the board of a mission.
type boardView struct {
	Columns     []boardColumn
	Filter      boardFilter
	Chips       []boardChip
	Actions     []string // steps that the mission can take
	MaxAttempts int
	Nothing     string // why nothing is ready; "" where something is
	Marks       map[string]cardMarks
}

// boardColumn is a column with its cards.
type boardColumn struct {
	columnKind
	Count int // of a filtered board that of the cards
	Cards []specSummary
	More  string // the address of more of them; "" where that is all
}

// Marks reports whether a card of the column says its status: the first one, which
// most have, goes without saying where the column doesn't hold what needs people.
func (b boardColumn) Marks(status string) bool {
	return b.ID == boardColumns[0].ID || status != b.statuses[0]
}

// boardChip is a part of the filter, with the address of the board without it.
type boardChip struct{ Name, Value, Without string }

// Link is the address of the board, filtered as it is, with one more parameter.
func (b *boardView) Link(name, value string) string {
	values := b.Filter.values()
	values.Set(name, value)
	return "?" + values.Encode()
}

// Statuses are those to filter by.
func (b *boardView) Statuses() []string { return specStatuses }

// Close is the address of the board with no spec open over it.
func (b *boardView) Close() string { return "?" + b.Filter.values().Encode() }

// boardPage is GET /missions/{id}.
func (s *Server) boardPage(ctx context.Context, c *call, q *query) (*pageView, error) {
	b := &boardView{Filter: readBoardFilter(q), MaxAttempts: s.config.MaxAttempts}
	cursor, open := q.text("cursor", maxCursor), q.text("spec", 128)
	if err := q.err(); err != nil {
		return nil, err
	}
	v, err := s.missionPage(ctx, c, "board", "")
	if err != nil {
		return nil, err
	}
	v.Data, b.Actions = b, allowedActions(v.Mission.Status)
	if err := s.fillBoard(ctx, c.account, v.Mission, b, cursor); err != nil {
		return nil, err
	}
	for name, values := range b.Filter.values() {
		without := b.Filter.values()
		without.Del(name)
		b.Chips = append(b.Chips, boardChip{name, values[0], "?" + without.Encode()})
	}
	slices.SortFunc(b.Chips, func(x, y boardChip) int { return slices.Compare([]string{x.Name}, []string{y.Name}) })
	if open != "" {
		if v.Spec, err = s.readSpecPage(ctx, c.account, v.Mission, open); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// missionPage begins a page about the mission of a call, which follows the
// mission's stream. The place in that is read before what the page shows.
func (s *Server) missionPage(ctx context.Context, c *call, name, title string) (*pageView, error) {
	id := c.target.mission
	head, err := s.readHead(ctx, c.account, id)
	if err != nil {
		return nil, err
	}
	m, err := readMission(ctx, s.db, c.account, id)
	if err != nil {
		return nil, err
	}
	v := &pageView{Name: name, Title: m.Name, Mission: &m, Account: c.account, Follow: boardOf(id) + "/stream",
		After: head.LastSeq}
	if title != "" {
		v.Title = title + " · " + m.Name
	}
	if n := m.NeedsYou(); n > 0 {
		v.Title = fmt.Sprintf("(%d) %s", n, v.Title)
	}
	return v, nil
}

// fillBoard reads the cards.
func (s *Server) fillBoard(ctx context.Context, a account, m *missionView, b *boardView, cursor string) error {
	f := b.Filter
	filtered := f != boardFilter{} && f != boardFilter{Column: f.Column}
	var found []specSummary // of all columns
	var err error
	switch {
	case f.Text != "":
		var page list[specSummary]
		page, err = s.findCards(ctx, a, m.ID, f, columnKind{}, "")
		found = page.Items
	case f == boardFilter{}:
		found, err = s.firstCards(ctx, a, m)
	}
	if err != nil {
		return err
	}
	for _, kind := range boardColumns {
		if f.Column != "" && f.Column != kind.ID || f.Status != "" && !slices.Contains(kind.statuses, f.Status) {
			continue
		}
		column := boardColumn{columnKind: kind}
		if f.Text != "" || f == (boardFilter{}) {
			column.Cards = slices.DeleteFunc(slices.Clone(found), func(v specSummary) bool { return !kind.has(v) })
			if f.Text == "" {
				column.Cards = column.Cards[:min(len(column.Cards), columnCards)]
			}
		} else {
			page, err := s.findCards(ctx, a, m.ID, f, kind, cursor)
			if err != nil {
				return err
			}
			column.Cards, column.More = page.Items, b.more(kind, page.NextCursor)
		}
		if column.Count = len(column.Cards); !filtered {
			column.Count = kind.count(m.Stats)
		}
		if f == (boardFilter{}) && column.Count > len(column.Cards) {
			column.More = b.Link("column", kind.ID)
		}
		b.Columns = append(b.Columns, column)
	}
	if !filtered {
		b.Nothing = whyNothing(m, b.Columns)
	}
	b.Marks, err = s.cardMarks(ctx, b.Columns)
	return err
}

// cardMarks is what a card says beside its summary.
type cardMarks struct {
	Asked int    // open questions
	Links []link // of the last attempt that has some
}

// cardMarks reads the marks of those cards that have some, by the ids of specs.
func (s *Server) cardMarks(ctx context.Context, columns []boardColumn) (map[string]cardMarks, error) {
	var ids []string
	for _, column := range columns {
		for _, spec := range column.Cards {
			ids = append(ids, spec.ID)
		}
	}
	rows, err := s.db.Query(ctx, `
		SELECT want.id, h.asked, s.links FROM unnest($1::uuid[]) AS want (id)
		CROSS JOIN LATERAL (SELECT asked FROM spec_states WHERE spec_id = want.id OFFSET 0) h
		CROSS JOIN LATERAL (SELECT links FROM specs WHERE id = want.id OFFSET 0) s
		WHERE h.asked > 0 OR s.links <> '[]'`, ids)
	if err != nil {
		return nil, fmt.Errorf("reading the marks of cards: %w", err)
	}
	marks := make(map[string]cardMarks)
	var id string
	var asked int
	var links []link
	_, err = pgx.ForEachRow(rows, []any{&id, &asked, &links}, func() error {
		marks[id] = cardMarks{asked, links}
		links = nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the marks of cards: %w", err)
	}
	return marks, nil
}

// more is the address of the next cards of a column: of its first ones by itself,
// and then behind those.
func (b *boardView) more(kind columnKind, cursor *string) string {
	switch {
	case cursor == nil:
		return ""
	case b.Filter.Column == "":
		return b.Link("column", kind.ID)
	}
	return b.Link("cursor", *cursor)
}

// firstCardsSQL reads the first cards of every column of the mission $3, and more,
// in one statement: a board is seen far more often than it is filtered. Each status
// is looked up by an index that has the order of its column. Of what is sorted by
// its last change some of the last changes come first.
var firstCardsSQL = func() string {
	const of = ` FROM spec_states h WHERE mission_id = $3`
	var parts []string
	add := func(n, from, where, order string) {
		parts = append(parts,
			fmt.Sprintf(`(SELECT spec_id AS id, %s AS n%s AND %s%s LIMIT %d)`, n, from, where, order, columnCards+1))
	}
	for _, kind := range boardColumns {
		for _, status := range kind.statuses {
			where := "status = '" + status + "'"
			switch {
			case kind.ready == nil:
				add("0", of, where, " ORDER BY place, spec_id")
			case *kind.ready:
				add("-priority", of, unblockedSQL, " ORDER BY priority DESC, place, spec_id")
			default:
				add("0", of, where+" AND unmet > 0", " ORDER BY place, spec_id")
			}
		}
		if strings.HasPrefix(kind.sort, "-") {
			last := fmt.Sprintf(` FROM (SELECT spec_id, status, updated_at%s
				ORDER BY updated_at DESC, spec_id DESC LIMIT %d) AS last WHERE true`, of, walkedRows)
			add("-extract(epoch FROM updated_at)", last, "status IN ('"+strings.Join(kind.statuses, "', '")+"')", "")
		}
	}
	return `WITH page AS MATERIALIZED (
			SELECT id, min(n) AS n FROM (` + strings.Join(parts, " UNION ALL ") + `) AS parts GROUP BY id)
		SELECT ` + summaryColumns + `, NULL
		FROM page JOIN specs s USING (id) JOIN spec_states h ON h.spec_id = s.id JOIN missions m ON m.id = s.mission_id
		LEFT JOIN leases l ON l.spec_id = s.id WHERE ` + readableSQL + `
		ORDER BY CASE WHEN m.status = 'active' THEN n END, s.place, s.id`
}()

// firstCards reads the first cards of every column.
func (s *Server) firstCards(ctx context.Context, a account, m *missionView) ([]specSummary, error) {
	rows, err := s.db.Query(ctx, firstCardsSQL, a.userID, a.admin(), m.ID)
	if err != nil {
		return nil, fmt.Errorf("reading a board: %w", err)
	}
	cards, err := collectSummaries(rows, (columnCards+1)*len(specStatuses))
	if err != nil {
		return nil, fmt.Errorf("reading a board: %w", err)
	}
	return cards, nil
}

// findCards reads the first specs of a column, or those after a cursor, or of all
// columns where there is a text to look for.
func (s *Server) findCards(ctx context.Context, a account, missionID string, f boardFilter, kind columnKind,
	cursor string) (none list[specSummary], err error) {
	filter := newSpecFilter(a, missionID)
	filter.byReady(kind.ready)
	filter.byTag(f.Tag)
	filter.byPhase(f.Phase)
	filter.byAgent(f.Agent)
	switch {
	case f.Status != "":
		filter.byStatus(f.Status)
	case len(kind.statuses) == 1:
		filter.byStatus(kind.statuses[0])
	case len(kind.statuses) > 1:
		filter.byStatuses(kind.statuses)
	}
	if f.Hide != "" {
		filter.having(`h.status <> $?`, f.Hide)
	}
	q := queryOf(map[string]string{"q": f.Text, "limit": fmt.Sprint(foundCards)})
	if f.Text == "" {
		q = queryOf(map[string]string{"sort": kind.sort, "limit": fmt.Sprint(columnCards), "cursor": cursor})
	}
	order := readOrder(q, specSorts, "number", &filter.listFilter)
	if err := q.err(); err != nil {
		return none, err
	}
	return s.findSpecs(ctx, filter, order)
}

// whyNothing says why no spec is ready, in the words of explain, or "".
func whyNothing(m *missionView, columns []boardColumn) string {
	switch {
	case m.Stats.ready > 0 || m.Stats.of("planned") == 0:
		return ""
	case m.Status != "active":
		return "The mission is " + m.Status + ": nothing is handed out."
	}
	for _, column := range columns {
		if column.ID != "waiting" || len(column.Cards) == 0 {
			continue
		}
		if reasons, err := whyNotReady(column.Cards[0]); err == nil && len(reasons) > 0 {
			return column.Cards[0].Key + ": " + reasons[0].Message
		}
	}
	return ""
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
		view.More = "?" + queryString(next)
	}
	v := &pageView{Name: "missions", Title: "Missions", Polls: true, Data: view}
	if needed > 0 {
		v.Title = fmt.Sprintf("(%d) %s", needed, v.Title)
	}
	return v, nil
}

func queryString(values map[string]string) string {
	form := make(url.Values, len(values))
	for name, value := range values {
		form.Set(name, value)
	}
	return form.Encode()
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

// boardOf is the address of a mission's board.
func boardOf(missionID string) string { return "/missions/" + missionID }

// madeMission leads to the board of a mission that was made.
func madeMission(_ http.ResponseWriter, _ *http.Request, m *missionView) string { return boardOf(m.ID) }

// toMissions leads to the list of missions.
func toMissions(http.ResponseWriter, *http.Request, *nothing) string { return "/" }

// settingsPage is GET /missions/{id}/settings.
func (s *Server) settingsPage(ctx context.Context, c *call, q *query) (*pageView, error) {
	v, err := s.missionPage(ctx, c, "settings", "Settings")
	if err != nil {
		return nil, err
	}
	members, err := s.listMembers(ctx, c, q)
	if err != nil {
		return nil, err
	}
	more := ""
	if members.NextCursor != nil {
		more = "?" + queryString(map[string]string{"cursor": *members.NextCursor})
	}
	v.Data = map[string]any{"Members": members.Items, "More": more, "Actions": allowedActions(v.Mission.Status),
		"Owner": v.Mission.MyRole == accessOwner.String() && c.account.role >= roleUser}
	return v, nil
}

// toSettings leads back to the settings of the mission in the path.
func toSettings[Out any](_ http.ResponseWriter, r *http.Request, _ *Out) string {
	return boardOf(r.PathValue("id")) + "/settings"
}
