package main

// The board of a mission, its settings, and the import that makes one of a folder.

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Count and the others are what templates show of a mission's counters.
func (m missionView) Count(status string) int { return m.Stats.of(status) }
func (m missionView) Total() int              { return m.Stats.total }
func (m missionView) Empty() bool             { return m.Stats.total+m.Stats.of("proposed") == 0 }
func (m missionView) Ready() int              { return m.Stats.ready }
func (m missionView) NeedsYou() int {
	if slices.Contains(closedMissions, m.Status) || m.MyRole == accessReader.String() {
		return 0
	}
	return m.In("needs-you")
}
func (m missionView) In(column string) int {
	i := slices.IndexFunc(boardColumns, func(k columnKind) bool { return k.ID == column })
	return boardColumns[i].count(m.Stats)
}

// boardFilter is what a board is filtered by, as its address has it.
type boardFilter struct{ Text, Tag, Phase, Agent, Status, Hide, Column string }

func readBoardFilter(q *query) boardFilter {
	columns := make([]string, 0, len(boardColumns))
	for _, kind := range boardColumns {
		columns = append(columns, kind.ID)
	}
	return boardFilter{q.text("q", 500), q.text("tag", 64), q.text("phase", 200), q.text("agent", 100),
		q.choice("status", "", specStatuses...), q.choice("hide", "", specStatuses...), q.choice("column", "", columns...)}
}

// values are the parameters of an address.
func (f boardFilter) values() url.Values {
	return paramsOf(map[string]string{"q": f.Text, "tag": f.Tag, "phase": f.Phase, "agent": f.Agent,
		"status": f.Status, "hide": f.Hide, "column": f.Column})
}

// boardView is the board of a mission.
type boardView struct {
	Columns     []boardColumn
	Filter      boardFilter
	Chips       []boardChip
	Actions     []string // steps that the mission can take
	MaxAttempts int
	Nothing     string // why nothing is handed out; "" where something is
	Idle        bool   // something is handed out, and nobody is at work
	Marks       map[string]cardMarks
}

// boardColumn is a column with its cards.
type boardColumn struct {
	columnKind
	Count  int
	Beyond bool // there are more than Count
	Cards  []specSummary
	More   string // the address of more of them; "" where that is all
}

// Marks reports whether a card of the column shows its status. Outside of the first
// column, cards of its main status don't need to.
func (b boardColumn) Marks(status string) bool {
	return b.ID == boardColumns[0].ID || status != b.statuses[0]
}

// Fits reports whether the board has cards, or a column that may have some further on.
func (b *boardView) Fits() bool {
	return slices.ContainsFunc(b.Columns, func(column boardColumn) bool {
		return len(column.Cards) > 0 || column.More != ""
	})
}

// filterNames are what the parameters of an address are called on its page.
var filterNames = map[string]string{"q": "Text", "tag": "Tag", "phase": "Phase", "agent": "Agent", "status": "State",
	"hide": "Hidden", "column": "Column"}

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
	filter := b.Filter.values()
	for _, name := range slices.Sorted(maps.Keys(filter)) {
		without := maps.Clone(filter)
		without.Del(name)
		b.Chips = append(b.Chips, boardChip{filterNames[name], filter.Get(name), "?" + without.Encode()})
	}
	if open != "" {
		id, err := s.specByKey(ctx, c.account, v.Mission.ID, open)
		if err != nil {
			return nil, err
		}
		if v.Spec, err = s.showSpec(ctx, c.account, v.Mission, id); err != nil {
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
	v := &pageView{Name: name, Mission: &m, Account: c.account, Follow: boardOf(id) + "/stream", After: head.LastSeq,
		head: head}
	v.entitle(title)
	return v, nil
}

// entitle sets the title of a page about a mission; "" is for its board.
func (v *pageView) entitle(title string) {
	v.Title = v.Mission.Name
	if title != "" {
		v.Title = title + " · " + v.Title
	}
	if n := v.Mission.NeedsYou(); n > 0 {
		v.Title = fmt.Sprintf("(%d) %s", n, v.Title)
	}
}

// fillBoard reads the cards: those that a text is found in, a page of one column, or
// the first ones of each.
func (s *Server) fillBoard(ctx context.Context, a account, m *missionView, b *boardView, cursor string) error {
	f := b.Filter
	kinds, filter := f.columns(), f.specs(a, m.ID)
	counted := f.Text == "" && len(filter.conditions) == 0 // by the mission
	var found list[specSummary]
	var err error
	switch {
	case len(kinds) == 0: // the filter leaves none of the columns
	case f.Text != "":
		if f.Status != "" || f.Hide != "" {
			filter.byStatuses(statusesThat(func(s specStatus) bool { return f.shows(s.name) })...)
		}
		found, err = s.findCards(ctx, filter, map[string]string{"q": f.Text, "limit": strconv.Itoa(searchLimit)})
	case f.Column != "":
		for _, kind := range asRead(kinds, m.Status) { // one, or none
			found, err = s.findColumn(ctx, filter, kind, cursor)
		}
	default:
		found.Items, err = s.firstCards(ctx, filter, asRead(kinds, m.Status), m.Stats)
	}
	if err != nil {
		return err
	}
	for _, kind := range kinds {
		column := boardColumn{columnKind: kind, Cards: kind.of(found.Items)}
		switch {
		case found.NextCursor != nil:
			column.More = b.Link("cursor", *found.NextCursor)
		case f.Text == "" && len(column.Cards) > columnCards:
			column.Cards, column.More = column.Cards[:columnCards], b.Link("column", kind.ID)
		}
		column.Count, column.Beyond = len(column.Cards), !counted && column.More != ""
		if counted {
			column.Count = kind.count(m.Stats)
		}
		b.Columns = append(b.Columns, column)
	}
	if b.Nothing, err = s.whyNothing(ctx, m, b.Columns); err != nil {
		return err
	}
	b.Idle = b.Nothing == "" && m.Stats.ready > 0 && m.In("working") == 0
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

// shows reports whether the filter leaves a status. To ask for one is to see it,
// whatever is hidden.
func (f boardFilter) shows(status string) bool {
	return status == f.Status || f.Status == "" && status != f.Hide
}

// columns are the kinds of columns that the filter leaves, with the statuses that it
// leaves of each.
func (f boardFilter) columns() (kinds []columnKind) {
	for _, kind := range boardColumns {
		kind.statuses = slices.DeleteFunc(slices.Clone(kind.statuses), func(name string) bool { return !f.shows(name) })
		if len(kind.statuses) > 0 && kind.ID == cmp.Or(f.Column, kind.ID) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// specs are the specs of a mission by what else a board is filtered by, but the text.
func (f boardFilter) specs(a account, missionID string) *specFilter {
	filter := newSpecFilter(a, missionID)
	filter.byTag(f.Tag)
	filter.byPhase(f.Phase)
	filter.byAgent(f.Agent)
	return filter
}

// whyNothing says why no spec is handed out, in the words of explain, or "". columns
// are those of its board.
func (s *Server) whyNothing(ctx context.Context, m *missionView, columns []boardColumn) (string, error) {
	switch {
	case m.Stats.of("planned") == 0:
		return "", nil
	case m.Status != "active":
		return "The mission is " + m.Status + ": nothing is handed out.", nil
	}
	if err := m.noteFull(ctx, s.db); m.reviewFull || err != nil {
		return reviewFullReason.Message, err
	}
	for _, column := range columns {
		if m.Stats.ready > 0 || column.ID != "waiting" || len(column.Cards) == 0 {
			continue
		}
		reasons, err := whyNotReady(column.Cards[0])
		if err == nil && len(reasons) > 0 {
			return column.Cards[0].Key + ": " + reasons[0].Message, nil
		}
	}
	return "", nil
}

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
	v.Data = map[string]any{"Members": members, "Actions": allowedActions(v.Mission.Status),
		"Owner": v.Mission.MyRole == accessOwner.String() && c.account.role >= roleUser}
	return v, nil
}

// folderReport is what an import on a page did. It is kept under the key of its
// form, by which it can be read for a day.
type folderReport struct {
	Mission string `json:"mission"`
	Passed  int    `json:"passed_over"` // files, of which skipped names the first
	importReport
}

const maxPassedOver = 100 // files that a folderReport names

// importFolder is POST /missions/import, which makes a mission of the files of a
// folder, and POST /missions/{id}/import. A new mission is a draft, so that people
// can look at it before anything is handed out.
func (s *Server) importFolder(w http.ResponseWriter, r *http.Request, c *call) error {
	again := s.missionsPage
	if c.target.mission != "" {
		again = s.settingsPage
		if err := admitToMission(r.Context(), s.db, c); err != nil { // before a large body is read
			return err
		}
	}
	sources, release, err := s.receive(r, c.account.userID)
	defer release()
	if err != nil {
		return s.showAgain(w, r, c, again, url.Values{}, err)
	}
	report, err := s.importSources(r.Context(), c, sources)
	if kept, ok := errors.AsType[*keptResponse](err); ok {
		report = new(folderReport)
		err = unmarshal(kept.body, report)
	}
	if err != nil {
		return s.showAgain(w, r, c, again, url.Values{"name": {sources.fields["name"]}}, err)
	}
	to := boardOf(report.Mission)
	if c.key != "" {
		to += "/imported/" + c.key
	}
	seeOther(w, to)
	return nil
}

// importSources does what importFolder is asked for.
func (s *Server) importSources(ctx context.Context, c *call, sources *archive) (*folderReport, error) {
	form := make(url.Values)
	for name, value := range sources.fields {
		form.Set(name, value)
	}
	in := newMission{Name: form.Get("name")}
	h := sha256.New()
	fmt.Fprintf(h, "%s %s %q", c.pattern, c.target.mission, in.Name)
	for _, file := range sources.files {
		fmt.Fprintf(h, "%q %q", file.Path, file.Text)
	}
	if in.Name == "" && len(sources.files) > 0 {
		in.Name, _, _ = strings.Cut(sources.files[0].Path, "/")
	}
	if err := c.takeOnce(form, h.Sum(nil)); err != nil {
		return nil, err
	}
	if len(sources.files) == 0 {
		return nil, sources.whyEmpty()
	}
	if err := s.validate(&in); err != nil && c.target.mission == "" {
		return nil, err
	}
	planned, err := s.planFor(ctx, cmp.Or(c.target.mission, serverStream), sources)
	if err != nil {
		return nil, err
	}
	return transact(ctx, s, c, func(ctx context.Context, t *tx) (*folderReport, error) {
		at := c.target
		if at.mission == "" {
			made, err := s.createMission(ctx, t, c, &in)
			if err != nil {
				return nil, err
			}
			at.mission = made.ID
		}
		report, err := t.importInto(ctx, at, sources, planned)
		passed := len(report.Skipped)
		report.Skipped = report.Skipped[:min(passed, maxPassedOver)]
		return &folderReport{at.mission, passed, report}, err
	})
}
