package main

// The page of what waits for a person, over all missions.

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/jackc/pgx/v5"
)

const askedQuestions = 50 // on the page; it shows as many specs that wait

// needsYouView is what waits for a decision.
type needsYouView struct {
	Questions []askedRow
	Items     []neededRow
	Complete  bool // there is no more than that
}

// askedRow is an open question with its spec.
type askedRow struct {
	questionView
	specName
	Mission *missionView
}

// neededRow is a spec that waits for a decision.
type neededRow struct {
	specSummary
	neededFor
	Mission   *missionView
	Decisions decisions
}

// neededFor is what a decision on a spec is made by.
type neededFor struct {
	Agent string // of the last attempt; "" where there was none
	Said  string // in it, or for proposed work its text, the beginning of it
	Left  string // why it left criteria open
	Links []link // of the last attempt that has some
}

// needsYouPage is GET /needs-you: over all missions that the account may edit, open
// questions, and then what waits longest. It follows the account's notifications, and
// is asked for again and again, since not all that it shows makes one.
func (s *Server) needsYouPage(ctx context.Context, c *call, q *query) (*pageView, error) {
	if err := q.err(); err != nil {
		return nil, err
	}
	head, err := s.readHead(ctx, c.account, c.account.userID)
	if err != nil {
		return nil, err
	}
	filter, err := s.needsOf(ctx, c.account)
	if err != nil {
		return nil, err
	}
	page, err := s.findCards(ctx, filter, map[string]string{"sort": "updated_at"})
	if err != nil {
		return nil, err
	}
	questions, err := s.findQuestions(ctx, &filter.listFilter, []string{"open"}, lastID, askedQuestions+1)
	if err != nil {
		return nil, err
	}
	view := needsYouView{Complete: page.NextCursor == nil && len(questions) <= askedQuestions}
	questions = questions[:min(len(questions), askedQuestions)]
	if err := s.fillNeeds(ctx, c.account, &view, page.Items, questions); err != nil {
		return nil, err
	}
	v := &pageView{Name: "needs", Title: "Needs you", Follow: "/stream", After: head.LastSeq, Polls: true, Data: view}
	if n := len(view.Items) + len(view.Questions); n > 0 {
		v.Title = fmt.Sprintf("(%d%s) %s", n, map[bool]string{false: "+"}[view.Complete], v.Title)
	}
	return v, nil
}

// needsOf returns the filter for what an account may decide: by the missions where it
// may, if these are few.
func (s *Server) needsOf(ctx context.Context, a account) (*specFilter, error) {
	f := newSpecFilter(a, "")
	f.byNeed()
	if err := s.seeMissions(ctx, &f.listFilter, asEditor); err != nil {
		return nil, err
	}
	if f.scope == nil {
		f.ofMission = true
		f.having(`m.status <> ALL($?)`, closedMissions)
		if !a.admin() {
			f.having(`(m.owner_id = $? OR EXISTS (SELECT FROM members
				WHERE mission_id = m.id AND user_id = $?`+asEditor+`))`, a.userID)
		}
		return f, nil
	}
	rows, err := s.db.Query(ctx, `SELECT m.id FROM unnest($1::uuid[]) AS one (id) JOIN missions m USING (id)
		WHERE m.status <> ALL($2)`, f.scope, closedMissions)
	if err != nil {
		return nil, fmt.Errorf("looking for missions to decide in: %w", err)
	}
	if f.scope, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return nil, fmt.Errorf("looking for missions to decide in: %w", err)
	}
	return f, nil
}

// fillNeeds adds the rows of what the account may decide.
func (s *Server) fillNeeds(ctx context.Context, a account, view *needsYouView, specs []specSummary,
	questions []questionView) error {
	var missions, asking, waiting []string
	for _, spec := range specs {
		missions, waiting = append(missions, spec.MissionID), append(waiting, spec.ID)
	}
	for _, question := range questions {
		missions, asking = append(missions, question.MissionID), append(asking, question.SpecID)
	}
	known, err := s.missionsOf(ctx, a, missions)
	if err != nil {
		return err
	}
	names, err := s.namesOf(ctx, asking)
	if err != nil {
		return err
	}
	said, err := s.neededFor(ctx, waiting)
	if err != nil {
		return err
	}
	edits := func(m *missionView) bool { return (&pageView{Account: a, Mission: m}).MayEdit() }
	for _, question := range questions {
		if m, name := known[question.MissionID], names[question.SpecID]; edits(m) && name.Key != "" {
			view.Questions = append(view.Questions, askedRow{question, name, m})
		}
	}
	for _, spec := range specs {
		m := known[spec.MissionID]
		if _, asks := names[spec.ID]; edits(m) && !asks { // else its question is shown already
			view.Items = append(view.Items, neededRow{spec, said[spec.ID], m, decisionsOn(spec)})
		}
	}
	return nil
}

// saidBytes is how much of a text a row shows.
const saidBytes = 600

// neededFor reads what decisions on specs are made by, by their ids.
func (s *Server) neededFor(ctx context.Context, ids []string) (map[string]neededFor, error) {
	rows, err := s.db.Query(ctx, `
		SELECT want.id, s.links, coalesce(a.agent, ''),
		       CASE WHEN h.status = 'proposed' THEN s.text ELSE coalesce(nullif(a.notes, ''), a.message, '') END,
		       coalesce(a.override, '')
		FROM unnest($1::uuid[]) AS want (id)
		CROSS JOIN LATERAL (SELECT status FROM spec_states WHERE spec_id = want.id OFFSET 0) h
		CROSS JOIN LATERAL (SELECT links, left(body, $2) AS text FROM specs WHERE id = want.id OFFSET 0) s
		LEFT JOIN LATERAL (
			SELECT agent, notes, message, override FROM attempts WHERE spec_id = want.id ORDER BY number DESC LIMIT 1
		) a ON true`,
		ids, saidBytes+1)
	if err != nil {
		return nil, fmt.Errorf("reading what decisions are made by: %w", err)
	}
	known := make(map[string]neededFor)
	var id string
	var one neededFor
	_, err = pgx.ForEachRow(rows, []any{&id, &one.Links, &one.Agent, &one.Said, &one.Left}, func() error {
		for _, text := range []*string{&one.Said, &one.Left} {
			if len(*text) > saidBytes {
				*text = cut(*text, saidBytes) + "…"
			}
		}
		known[id] = one
		one.Links = nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading what decisions are made by: %w", err)
	}
	return known, nil
}

// missionsOf reads missions by their ids, those that the account may see.
func (s *Server) missionsOf(ctx context.Context, a account, ids []string) (map[string]*missionView, error) {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	rows, err := s.db.Query(ctx, missionColumns+` FROM unnest($3::uuid[]) AS want (id)
		JOIN missions m ON m.id = want.id`+withHeadSQL+` WHERE `+readableSQL, a.userID, a.admin(), ids)
	if err != nil {
		return nil, fmt.Errorf("reading missions: %w", err)
	}
	missions, err := pgx.CollectRows(rows, scanMission)
	if err != nil {
		return nil, fmt.Errorf("reading missions: %w", err)
	}
	known := make(map[string]*missionView)
	for i := range missions {
		known[missions[i].ID] = &missions[i]
	}
	return known, nil
}

// specName is what a spec is called.
type specName struct{ Key, Title string }

// namesOf reads the names of specs, by their ids.
func (s *Server) namesOf(ctx context.Context, ids []string) (map[string]specName, error) {
	rows, err := s.db.Query(ctx, `SELECT s.id, s.key, s.title FROM unnest($1::uuid[]) AS want (id)
		CROSS JOIN LATERAL (SELECT id, key, title FROM specs WHERE id = want.id OFFSET 0) s`, ids)
	if err != nil {
		return nil, fmt.Errorf("reading names of specs: %w", err)
	}
	names := make(map[string]specName)
	var id string
	var name specName
	_, err = pgx.ForEachRow(rows, []any{&id, &name.Key, &name.Title}, func() error {
		names[id] = name
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading names of specs: %w", err)
	}
	return names, nil
}

// toNeedsYou leads to what waits for people.
func toNeedsYou(http.ResponseWriter, *http.Request, *questionView) string { return "/needs-you" }
