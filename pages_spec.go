package main

// The page of a spec, which is also shown over the board.

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/markdown"
	"tachikoma/internal/specfile"
)

// pageFunctions are what templates call.
func pageFunctions() template.FuncMap {
	return template.FuncMap{
		"key":   newID, // of a form
		"since": func(at time.Time) template.HTML { return timeElement(at, "", span(time.Since(at))) },
		"exact": func(at time.Time) template.HTML { // which the page's script turns into local time
			return timeElement(at, ` class="exact"`, at.UTC().Format("2006-01-02 15:04:05 UTC"))
		},
		"lease":    leaseElement,
		"open":     openDependencies,
		"words":    func(status string) string { return strings.ReplaceAll(status, "_", " ") },
		"title":    func(word string) string { return strings.ToUpper(word[:1]) + word[1:] },
		"spec":     specAddress,
		"join":     strings.Join,
		"linkName": linkName,
		"text":     markdown.Text,
	}
}

// span is a length of time in few words.
func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}

// timeElement shows a time as words, which the page's script keeps true.
func timeElement(at time.Time, class, words string) template.HTML {
	return template.HTML(`<time datetime="` + at.UTC().Format(time.RFC3339) + `"` + class + `>` + words + `</time>`)
}

// nearEnd is how close to its end a lease counts as late: agents that are alive
// have prolonged it long before.
const nearEnd = 30 * time.Second

// leaseElement says how long a lease still lasts.
func leaseElement(ends time.Time) template.HTML {
	switch left := time.Until(ends); {
	case left <= 0:
		return timeElement(ends, ` class="lease late"`, "late: the lease is over")
	case left < nearEnd:
		return timeElement(ends, ` class="lease late"`, "late: "+span(left)+" left")
	default:
		return timeElement(ends, ` class="lease"`, span(left)+" left")
	}
}

// openDependencies is how many dependencies of a spec aren't completed.
func openDependencies(encoded json.RawMessage) (n int, err error) {
	related, err := relatedSpecs(encoded)
	for _, d := range related {
		if d.Status != "completed" {
			n++
		}
	}
	return n, err
}

// relatedSpecs are the specs of a list that relatedSQL makes.
func relatedSpecs(encoded []byte) (related []reasonSpec, err error) {
	if len(encoded) <= len("[]") {
		return nil, nil
	}
	if err := unmarshal(encoded, &related); err != nil {
		return nil, fmt.Errorf("reading related specs: %w", err)
	}
	return related, nil
}

func specAddress(missionID, key string) string {
	return boardOf(missionID) + "/specs/" + url.PathEscape(key)
}

// decisions are the steps by hand that a spec can take: a field of a form, what
// that does, and its buttons.
type decisions struct {
	Does, Field string
	Buttons     []decision
}

// decision is a button, and the key that presses it, "" for none.
type decision struct{ Value, Says, Key string }

// stepNames are what buttons say that take a spec from one status to another, or
// from any.
var stepNames = map[string]decision{
	"proposed planned": {"", "Accept", "a"}, "proposed deferred": {"", "Put off", "r"},
	"blocked planned":       {"", "Unblock", "a"},
	"completed in_progress": {"", "Reopen", ""}, "deferred planned": {"", "Plan again", ""},
	"planned": {"", "Back to planned", ""}, "in_progress": {"", "Start by hand", ""},
	"in_review": {"", "Send to review", ""}, "testing": {"", "Send to testing", ""}, "completed": {"", "Complete", ""},
	"blocked": {"", "Block", ""}, "deferred": {"", "Put off", ""},
}

// decisionsOn are the decisions that a spec can take.
func decisionsOn(v specSummary) decisions {
	switch {
	case slices.Contains(closedMissions, v.missionStatus):
		return decisions{}
	case v.Status == "in_review":
		return decisions{"review", "verdict", []decision{{"approve", "Approve", "a"}, {"reject", "Send back", "r"}}}
	}
	d := decisions{Does: "status", Field: "status"}
	for _, to := range statusSteps[v.Status] {
		button, ok := stepNames[v.Status+" "+to]
		if !ok {
			button = stepNames[to]
			button.Says = cmp.Or(button.Says, strings.ReplaceAll(to, "_", " "))
		}
		button.Value = to
		d.Buttons = append(d.Buttons, button)
	}
	return d
}

// specPage is what the page of a spec shows.
type specPage struct {
	specSummary
	MaxAttempts  int
	Markdown     string               // as it stands
	Text         template.HTML        // of Markdown, where it is shown
	Criteria     []specfile.Criterion // the first shownCriteria
	Depends, For []reasonSpec         // what it depends on, and what depends on it
	Reasons      []notReadyReason
	Decisions    decisions
	Tries        []attemptView     // the latest first
	Asked        []questionView    // that are open
	People       map[string]string // names of accounts, by id
	specNotes
}

// Completes reports whether a step completes the spec although criteria are open.
func (p *specPage) Completes() bool {
	return p.CriteriaDone < p.CriteriaTotal &&
		slices.ContainsFunc(p.Decisions.Buttons, func(d decision) bool { return d.Value == "completed" })
}

// Person is the name of an account in the spec's attempts.
func (p *specPage) Person(id string) string { return p.People[id] }

// answerView is what the forms that answer a question are made of.
type answerView struct {
	Question questionView
	Back     string
}

// Answer prepares the forms that answer a question, here.
func (v *pageView) Answer(question any) answerView {
	if row, ok := question.(askedRow); ok {
		return answerView{row.questionView, "/needs-you"}
	}
	return answerView{question.(questionView), v.Here}
}

// linkName is what is shown of a link: of an address its end, which tells it from
// others.
func linkName(l link) string {
	if l.Kind == "commit" {
		return cut(l.Ref, 10)
	}
	name := strings.TrimPrefix(l.Ref, "https://")
	if parts := strings.Split(strings.TrimSuffix(name, "/"), "/"); l.Kind == "pull_request" && len(parts) > 1 {
		return "#" + parts[len(parts)-1]
	}
	return clip(name)
}

// TagList and Needs are what fields of a form show of a spec's lists.
func (p *specPage) TagList() string { return strings.Join(p.Tags, ", ") }
func (p *specPage) Needs() string {
	keys := make([]string, 0, len(p.Depends))
	for _, d := range p.Depends {
		keys = append(keys, d.Key)
	}
	return strings.Join(keys, ", ")
}

// SpecLink is the address of another spec of the mission: over the board, if that
// is what the page shows.
func (v *pageView) SpecLink(key string) string {
	if board, ok := v.Data.(*boardView); ok {
		return board.Link("spec", key)
	}
	return specAddress(v.Mission.ID, key)
}

// shownCriteria is how many criteria the page of a spec lists. Its text has all.
const shownCriteria = 300

// CriteriaCut reports whether there are more.
func (p *specPage) CriteriaCut() bool { return len(p.Criteria) < p.CriteriaTotal }

// showSpec is readSpecPage with the text as HTML.
func (s *Server) showSpec(ctx context.Context, a account, m *missionView, id string) (*specPage, error) {
	p, err := s.readSpecPage(ctx, a, m, id)
	if err != nil {
		return nil, err
	}
	end, err := s.beginText(ctx, a, p.Markdown)
	if err != nil {
		return nil, err
	}
	defer end()
	p.Text = markdown.HTML(p.Markdown, 3)
	return p, nil
}

// readSpecPage reads what the page of a spec shows, but for its Text.
func (s *Server) readSpecPage(ctx context.Context, a account, m *missionView, id string) (*specPage, error) {
	spec, err := s.readSpec(ctx, a, id)
	if err != nil {
		return nil, err
	}
	p := &specPage{specSummary: spec.specSummary, specNotes: spec.specNotes, MaxAttempts: s.config.MaxAttempts,
		Markdown: spec.markdown, Criteria: spec.criteria[:min(len(spec.criteria), shownCriteria)],
		Decisions: decisionsOn(spec.specSummary)}
	if p.Depends, err = relatedSpecs(spec.Dependencies); err != nil {
		return nil, err
	}
	if p.For, err = relatedSpecs(spec.dependents); err != nil {
		return nil, err
	}
	if err := s.addAttempts(ctx, p); err != nil {
		return nil, err
	}
	if p.Status != "planned" && p.Status != "blocked" {
		return p, nil
	}
	p.Reasons, err = whyNotReady(spec.specSummary)
	p.Reasons = slices.DeleteFunc(p.Reasons, func(r notReadyReason) bool {
		return r.Code == "status" || r.Code == "claimed" // which the page shows anyway
	})
	if err == nil && p.Ready {
		if err = m.noteFull(ctx, s.db); m.reviewFull {
			p.Reasons = append(p.Reasons, reviewFullReason)
		}
	}
	return p, err
}

// shownAttempts is how many attempts the page of a spec shows.
const shownAttempts = 20

// addAttempts reads the last attempts at a spec, with their questions, and the names
// of the accounts in them.
func (s *Server) addAttempts(ctx context.Context, p *specPage) (err error) {
	if p.Tries, err = s.readAttempts(ctx, p.ID, afterAll, shownAttempts); err != nil {
		return err
	}
	var ids []string
	if p.Decision != nil {
		ids = append(ids, p.Decision.UserID)
	}
	for _, attempt := range p.Tries {
		ids = append(ids, attempt.UserID)
		if attempt.Verdict != nil {
			ids = append(ids, attempt.Verdict.UserID)
		}
		for _, q := range attempt.Questions {
			if ids = append(ids, orEmptyText(q.AnsweredBy)); q.State == "open" {
				p.Asked = append(p.Asked, q)
			}
		}
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return id == "" })
	rows, err := s.db.Query(ctx, `SELECT u.id, u.name FROM unnest($1::uuid[]) AS want (id)
		CROSS JOIN LATERAL (SELECT id, name FROM users WHERE id = want.id OFFSET 0) u`, ids)
	if err != nil {
		return fmt.Errorf("reading names: %w", err)
	}
	p.People = make(map[string]string)
	var id, name string
	_, err = pgx.ForEachRow(rows, []any{&id, &name}, func() error {
		p.People[id] = name
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading names: %w", err)
	}
	return nil
}

// specByKey finds a spec of a mission.
func (s *Server) specByKey(ctx context.Context, a account, missionID, key string) (id string, err error) {
	if !specfile.ValidKey(key) {
		return "", errNotFound()
	}
	err = s.db.QueryRow(ctx, `SELECT s.id FROM specs s JOIN missions m ON m.id = s.mission_id
		WHERE `+readableSQL+` AND s.mission_id = $3 AND s.key = $4`, a.userID, a.admin(), missionID, key).Scan(&id)
	return id, notFoundOr(err, "looking for a spec")
}

// specPageOf is GET /missions/{id}/specs/{key}, or the page where it is edited.
func (s *Server) specPageOf(name string) pageFunc {
	read := s.showSpec
	if name == "edit" {
		read = s.readSpecPage
	}
	return func(ctx context.Context, c *call, q *query) (*pageView, error) {
		if err := q.err(); err != nil {
			return nil, err
		}
		v, err := s.missionPage(ctx, c, name, "")
		if err == nil && name == "edit" && !v.MayEdit() {
			err = errReadOnly()
		}
		if err != nil {
			return nil, err
		}
		if v.Spec, err = read(ctx, c.account, v.Mission, c.target.spec); err != nil {
			return nil, err
		}
		v.entitle(v.Spec.Title)
		return v, nil
	}
}

// whoWasFaster names the author of the last change of what a page is about, if that
// is among the mission's last events.
func (s *Server) whoWasFaster(ctx context.Context, v *pageView) string {
	if v.Mission == nil {
		return ""
	}
	spec := ""
	if v.Spec != nil {
		spec = v.Spec.ID
	}
	changed := v.Mission.UpdatedAt
	if v.Spec != nil {
		changed = v.Spec.UpdatedAt
	}
	var who string
	err := s.db.QueryRow(ctx, `
		SELECT coalesce(e.agent, u.name, '') FROM events e LEFT JOIN users u ON u.id = e.user_id
		WHERE e.stream = $1 AND e.seq > $2 - 200 AND e.spec_id IS NOT DISTINCT FROM $3 AND e.at >= $4 AND e.type <> 'log'
		ORDER BY e.seq LIMIT 1`, v.Mission.ID, v.After, orNull(spec), changed).Scan(&who)
	if err != nil || who == "" {
		return "" // it is only a courtesy
	}
	return who + " was faster. "
}

// newSpecPage is GET /missions/{id}/new.
func (s *Server) newSpecPage(ctx context.Context, c *call, q *query) (*pageView, error) {
	if err := q.err(); err != nil {
		return nil, err
	}
	v, err := s.missionPage(ctx, c, "edit", "New spec")
	if err == nil && !v.MayEdit() {
		err = errReadOnly()
	}
	if err != nil {
		return nil, err
	}
	v.Spec = &specPage{specSummary: specSummary{MissionID: v.Mission.ID, Priority: specfile.DefaultPriority}}
	return v, nil
}

// toSpec leads to the page of a spec that was written.
func toSpec(_ http.ResponseWriter, _ *http.Request, spec *specView) string {
	return specAddress(spec.MissionID, spec.Key)
}

// toBoard leads to the board of the mission in the path.
func toBoard[Out any](_ http.ResponseWriter, r *http.Request, _ *Out) string {
	return boardOf(r.PathValue("id"))
}

// importedPage is GET /missions/{id}/imported/{report}: what an import did, for
// who did it.
func (s *Server) importedPage(ctx context.Context, c *call, q *query) (*pageView, error) {
	if err := q.err(); err != nil {
		return nil, err
	}
	v, err := s.missionPage(ctx, c, "imported", "Imported")
	if err != nil {
		return nil, err
	}
	var kept []byte
	err = s.db.QueryRow(ctx, `SELECT body FROM idempotency_keys WHERE user_id = $1 AND key = $2`,
		c.account.userID, c.target.report).Scan(&kept)
	if err != nil {
		return nil, notFoundOr(err, "reading a report")
	}
	var report folderReport
	if unmarshal(kept, &report) != nil || report.Mission != v.Mission.ID {
		return nil, errNotFound()
	}
	v.Data = report
	return v, nil
}
