package main

// Attempts at a spec: what each lease came to, kept for whoever tries next.

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
)

// How an attempt ends.
const (
	attemptCompleted = "completed"
	attemptSubmitted = "submitted" // for a person to review
	attemptFailed    = "failed"
	attemptExpired   = "expired"
	attemptReleased  = "released"
	attemptParked    = "parked" // until a question is answered
	attemptTaken     = "taken"  // by hand, or with the mission
)

// attemptView is an attempt as clients see it.
type attemptView struct {
	ID        string         `json:"id"`
	Number    int            `json:"number"`
	Agent     string         `json:"agent"`
	UserID    string         `json:"user_id"`
	StartedAt time.Time      `json:"started_at"`
	EndedAt   *time.Time     `json:"ended_at"`
	Outcome   *string        `json:"outcome"`
	Notes     string         `json:"notes"`
	Override  string         `json:"override"` // why criteria stayed open
	Message   string         `json:"message"`  // of the last report that had one
	Checked   []int          `json:"checked"`
	Links     []link         `json:"links"`
	Verdict   *verdictView   `json:"verdict"`
	Questions []questionView `json:"questions"` // the latest of them
}

// verdictView is what a person said of what an attempt has handed in.
type verdictView struct {
	Verdict string    `json:"verdict"`
	Notes   string    `json:"notes"`
	UserID  string    `json:"user_id"`
	At      time.Time `json:"at"`
}

// shownQuestions is how many questions of an attempt are shown with it.
const shownQuestions = 10

// attemptsSQL reads attempts a of the spec $1, before the number $2, the latest
// first, at most $3.
var attemptsSQL = `
	SELECT a.id, a.number, a.agent, a.user_id, a.started_at, a.ended_at, a.outcome, a.notes, a.override, a.message,
	       a.checked, a.links, a.verdict, a.verdict_notes, a.verdict_by, a.verdict_at,
	       (SELECT coalesce(json_agg(q ORDER BY q.id), '[]') FROM (
	            SELECT ` + questionColumns + ` FROM questions q WHERE q.spec_id = a.spec_id AND q.number = a.number
	            ORDER BY q.id DESC LIMIT ` + strconv.Itoa(shownQuestions) + `) q)
	FROM attempts a WHERE a.spec_id = $1 AND a.number < $2 ORDER BY a.number DESC LIMIT $3`

// readAttempts reads attempts at a spec, before a number, the latest first.
func (s *Server) readAttempts(ctx context.Context, specID string, before, limit int) ([]attemptView, error) {
	rows, err := s.db.Query(ctx, attemptsSQL, specID, before, limit)
	if err != nil {
		return nil, fmt.Errorf("reading attempts: %w", err)
	}
	attempts, err := collectAttempts(rows)
	if err != nil {
		return nil, fmt.Errorf("reading attempts: %w", err)
	}
	return attempts, nil
}

// collectAttempts reads rows of attemptsSQL.
func collectAttempts(rows pgx.Rows) ([]attemptView, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (a attemptView, err error) {
		var judged verdictView
		var said, by *string
		var at *time.Time
		err = row.Scan(&a.ID, &a.Number, &a.Agent, &a.UserID, &a.StartedAt, &a.EndedAt, &a.Outcome, &a.Notes, &a.Override,
			&a.Message, &a.Checked, &a.Links, &said, &judged.Notes, &by, &at, &a.Questions)
		if said != nil && at != nil {
			judged.Verdict, judged.UserID, judged.At = *said, orEmptyText(by), *at
			a.Verdict = &judged
		}
		return a, err
	})
}

// afterAll is a number that no attempt reaches.
const afterAll = 1 << 30

// listAttempts is GET /api/v1/specs/{id}/attempts, the latest first.
func (s *Server) listAttempts(ctx context.Context, c *call, q *query) (none list[attemptView], err error) {
	limit := int(q.number("limit", 20, 1, 50))
	before, cursor := afterAll, q.cursor("attempts")
	if cursor != "" {
		if before, err = strconv.Atoi(cursor); err != nil || before < 0 || before > afterAll {
			q.fail("cursor", "invalid_cursor", "isn't a cursor of this list")
		}
	}
	if err := q.err(); err != nil {
		return none, err
	}
	if _, err := s.readSpec(ctx, c.account, c.target.spec); err != nil {
		return none, err
	}
	attempts, err := s.readAttempts(ctx, c.target.spec, before, limit+1)
	if err != nil {
		return none, err
	}
	return pageOf(attempts, limit, func(a attemptView) string {
		return encodeCursor("attempts", strconv.Itoa(a.Number))
	}), nil
}

// A history has at most historyBytes of JSON, and so no more characters. Texts are
// cut to fit; of what can't be cut it has only so many.
const (
	historyLength    = 3
	historyBytes     = 2000
	historyQuestions = 3  // of an attempt
	historyChecked   = 20 // likewise
	historyLinkBytes = 400
)

// pastAttempt is an attempt in a history: what of it helps whoever tries next.
type pastAttempt struct {
	Number    int            `json:"number"`
	Agent     string         `json:"agent"`
	EndedAt   *time.Time     `json:"ended_at,omitempty"`
	Outcome   string         `json:"outcome,omitempty"`
	Verdict   *pastVerdict   `json:"verdict,omitempty"`
	Notes     string         `json:"notes,omitempty"`
	Override  string         `json:"override,omitempty"`
	Questions []pastQuestion `json:"questions,omitempty"` // those that were answered
	Message   string         `json:"message,omitempty"`
	Checked   []int          `json:"checked,omitempty"`
	Links     []link         `json:"links,omitempty"`
}

type pastVerdict struct {
	Verdict string `json:"verdict"`
	Notes   string `json:"notes,omitempty"`
}

type pastQuestion struct {
	Question string `json:"question"`
	Answer   string `json:"answer"`
}

// history is what came of the last attempts at a spec, the latest first.
type history []pastAttempt

// askHistory queues a read of the history of a spec before an attempt.
func (t *tx) askHistory(specID string, number int) *history {
	past := history{}
	if number == 1 {
		return &past
	}
	t.queue(attemptsSQL, specID, number, historyLength).Query(func(rows pgx.Rows) error {
		attempts, err := collectAttempts(rows)
		past = historyOf(attempts)
		return err
	})
	return &past
}

// readHistory reads the history of a spec, with the attempt that is under way.
func (s *Server) readHistory(ctx context.Context, specID string) (history, error) {
	attempts, err := s.readAttempts(ctx, specID, afterAll, historyLength)
	return historyOf(attempts), err
}

// historyOf shortens attempts to what a history has room for.
func historyOf(attempts []attemptView) history {
	past, linkRoom := make(history, len(attempts)), historyLinkBytes
	for i, a := range attempts {
		p := &past[i]
		*p = pastAttempt{Number: a.Number, Agent: a.Agent, EndedAt: a.EndedAt, Outcome: orEmptyText(a.Outcome),
			Notes: a.Notes, Override: a.Override, Message: a.Message,
			Checked: a.Checked[:min(len(a.Checked), historyChecked)]}
		if a.Verdict != nil {
			p.Verdict = &pastVerdict{a.Verdict.Verdict, a.Verdict.Notes}
		}
		for _, l := range slices.Backward(a.Links) { // the latest, each whole
			if size := jsonBytes(l.Ref) + len(`{"kind":"pull_request","ref":""},`); size <= linkRoom {
				p.Links, linkRoom = append(p.Links, l), linkRoom-size
			}
		}
		for _, q := range slices.Backward(a.Questions) {
			if q.Answer != nil && len(p.Questions) < historyQuestions {
				p.Questions = append(p.Questions, pastQuestion{q.Question, *q.Answer})
			}
		}
	}
	cutToFit(past, past.texts())
	return past
}

// texts are those of a history that may be cut.
func (h history) texts() (texts []*string) {
	for i := range h {
		p := &h[i]
		texts = append(texts, &p.Agent, &p.Notes, &p.Override, &p.Message)
		if p.Verdict != nil {
			texts = append(texts, &p.Verdict.Notes)
		}
		for j := range p.Questions {
			texts = append(texts, &p.Questions[j].Question, &p.Questions[j].Answer)
		}
	}
	return texts
}

// cutToFit cuts the texts of what a history has to historyBytes in all.
func cutToFit(past any, texts []*string) {
	room := historyBytes - sizeOf(past)
	for _, text := range texts {
		room += jsonBytes(*text)
	}
	cutAlike(texts, room)
}

// sizeOf is how many bytes of JSON a history or its objects take.
func sizeOf(past any) int {
	encoded, err := encode(past)
	if err != nil {
		panic(err) // it has nothing that can't be encoded
	}
	return len(encoded)
}

// cutAlike cuts texts to as many bytes of JSON in all, the longest first, so that
// short ones stay whole.
func cutAlike(texts []*string, room int) {
	slices.SortStableFunc(texts, func(a, b *string) int { return jsonBytes(*a) - jsonBytes(*b) })
	for i, text := range texts {
		share := max(0, room) / (len(texts) - i)
		if jsonBytes(*text) > share {
			*text = cut(*text, max(0, share-len("…")))
			if *text != "" {
				*text += "…"
			}
		}
		room -= jsonBytes(*text)
	}
}

// next says what an agent that takes up a spec again should know first: what was
// decided since the attempt before, and what ended that.
func (h history) next(d *decisionView) string {
	if len(h) == 0 && d == nil {
		return ""
	}
	said := ""
	if d != nil && (len(h) == 0 || h[0].EndedAt != nil && d.At.After(*h[0].EndedAt)) {
		said = fmt.Sprintf("It was %s by hand%s. ", d.Step(), startOf(d.Notes))
	}
	if len(h) > 0 {
		said += fmt.Sprintf("Attempt %d %s. ", h[0].Number, h[0].end())
	}
	return said + "Begin with what history says. "
}

// end says what ended the attempt.
func (p pastAttempt) end() string {
	if p.Verdict != nil && p.Verdict.Verdict == "reject" {
		return "was rejected by a person" + startOf(p.Verdict.Notes)
	}
	return map[string]string{
		attemptCompleted: "completed the spec, which was then reopened",
		attemptSubmitted: "handed its work in for review",
		attemptFailed:    "failed",
		attemptExpired:   "ended when its lease expired",
		attemptReleased:  "gave the spec back",
		attemptParked:    "gave the spec back to wait for an answer",
		attemptTaken:     "was ended by someone else",
	}[p.Outcome] + startOf(p.Notes)
}

// historyNoteBytes is how much of the notes next repeats.
const historyNoteBytes = 300

// startOf is how notes begin, as the end of a sentence without its full stop.
func startOf(notes string) string {
	if notes == "" {
		return ""
	}
	return ": " + strings.TrimRight(cut(notes, historyNoteBytes), ". \n")
}

// objects is the history as a type whose schema is short: a list of anything. Agents
// read it without one. The decision stands in it by its time, unless one of the
// attempts has its notes; then all is cut to fit once more.
func (h history) objects(d *decisionView) []any {
	at := 0
	for at < len(h) && (d == nil || h[at].EndedAt == nil || !d.At.After(*h[at].EndedAt)) {
		at++
	}
	objects := make([]any, len(h))
	for i := range h {
		objects[i] = &h[i]
	}
	if d == nil || slices.ContainsFunc(h, func(p pastAttempt) bool { return p.Number == d.Number }) {
		return objects
	}
	decided := *d
	objects = slices.Insert(objects, at, any(map[string]any{"decision": &decided}))
	cutToFit(objects, append(h.texts(), &decided.Notes, &decided.Override))
	return objects
}

// decisionView is the last step of a spec by hand of which something was said. It
// stays until the next one; what has happened since is told by its time.
type decisionView struct {
	From     string    `json:"from"`
	Status   string    `json:"status"`
	Notes    string    `json:"notes"`
	Override string    `json:"override,omitempty"` // why criteria stayed open
	UserID   string    `json:"user_id"`
	At       time.Time `json:"at"`
	Number   int       `json:"number,omitempty"` // of the attempt that it ended, which has its notes too
}

// decide keeps what is said of a step by hand that a locked spec is about to take.
// It comes before the end of the lease that the step ends.
func (t *tx) decide(spec specLock, status string, said completion) {
	if said.Notes == "" && said.Override == "" {
		return
	}
	t.queue(`
		UPDATE specs SET decision = jsonb_strip_nulls(jsonb_build_object('from', $2::text, 'status', $3::text,
			'notes', $4::text, 'override', $5::text, 'user_id', $6::text, 'at', clock_timestamp(),
			'number', (SELECT number FROM leases WHERE spec_id = $1)))
		WHERE id = $1`, spec.id, spec.status, status, said.Notes, said.Override, t.account.userID)
}

// stepsTaken are what was done to a spec that a step has taken from one status to
// another, or from any; a status that isn't here says it itself.
var stepsTaken = map[string]string{
	"proposed planned": "accepted", "blocked planned": "unblocked", "completed in_progress": "reopened",
	"in_progress": "started", "in_review": "sent to review", "testing": "sent to testing", "deferred": "put off",
}

// Step is what was done to the spec.
func (d *decisionView) Step() string {
	return cmp.Or(stepsTaken[d.From+" "+d.Status], stepsTaken[d.Status], d.Status)
}

// ending is the outcome of the attempt that a change to its spec ends, with notes
// and with why criteria stay open; zero where the change ends none.
type ending struct{ outcome, notes, override string }

// adoptLease opens an attempt for the lease on a locked spec if an older server has
// given it. It comes before the end of any lease; lockLease calls it.
func (t *tx) adoptLease(specID string) {
	t.queue(`
		WITH newest AS (
			SELECT number FROM attempts WHERE spec_id = $1 ORDER BY number DESC LIMIT 1
		), closed AS (
			UPDATE attempts SET ended_at = clock_timestamp(), outcome = 'expired'
			WHERE spec_id = $1 AND number = (SELECT number FROM newest) AND ended_at IS NULL
			  AND EXISTS (SELECT FROM leases WHERE spec_id = $1 AND number IS NULL)
		), lease AS (
			UPDATE leases SET number = 1 + coalesce((SELECT number FROM newest), 0) WHERE spec_id = $1 AND number IS NULL
			RETURNING spec_id, number, agent, user_id, claimed_at
		)
		INSERT INTO attempts (spec_id, number, agent, user_id, started_at)
		SELECT spec_id, number, agent, user_id, claimed_at FROM lease`, specID)
}

// endLease ends the lease on a locked spec, if there is one, and its attempt.
func (t *tx) endLease(specID string, how ending) {
	t.queue(`
		WITH lease AS (DELETE FROM leases WHERE spec_id = $1 RETURNING number)
		UPDATE attempts SET ended_at = clock_timestamp(), outcome = $2, notes = $3, override = $4
		WHERE spec_id = $1 AND number = (SELECT number FROM lease)`, specID, how.outcome, how.notes, how.override)
}

// noteReport keeps with an attempt what its holder reports.
func (t *tx) noteReport(specID string, held leaseHolder, p *progress) {
	if p.Message != "" || len(p.Check)+len(p.Uncheck) > 0 {
		t.queue(`
			UPDATE attempts SET message = CASE WHEN $3 = '' THEN message ELSE $3 END,
			       checked = ARRAY(SELECT n FROM unnest(checked || $4::int[]) AS n WHERE n <> ALL($5::int[])
			                       GROUP BY n ORDER BY n)
			WHERE spec_id = $1 AND number = $2`, specID, held.number, p.Message, orEmpty(p.Check), orEmpty(p.Uncheck))
	}
	t.keepLinks(specID, held, p.Links)
}

// link says where the work on a spec can be seen.
type link struct {
	Kind string `json:"kind" enum:"branch,commit,pull_request,url"`
	Ref  string `json:"ref"`
}

const (
	maxLinks   = 20
	maxLinkRef = 200  // characters of a branch or commit
	maxLinkURL = 1000 // likewise, of the others
)

// links checks links: web pages by https, and names as Git has them.
func (v *violations) links(links []link) {
	if len(links) > maxLinks {
		v.add("links", "too_many", "must have at most %d entries", maxLinks)
		return
	}
	for i, l := range links {
		kind, ref := fmt.Sprintf("links[%d].kind", i), fmt.Sprintf("links[%d].ref", i)
		switch l.Kind {
		case "branch", "commit":
			v.line(ref, l.Ref, 1, maxLinkRef)
			if strings.ContainsFunc(l.Ref, notInRef) || strings.HasPrefix(l.Ref, "-") {
				v.add(ref, "invalid_ref", "must be a name without spaces that doesn't begin with a dash")
			}
		case "pull_request", "url":
			v.line(ref, l.Ref, 1, maxLinkURL)
			at, err := url.Parse(l.Ref)
			if err != nil || at.Scheme != "https" || at.Hostname() == "" || at.User != nil ||
				strings.ContainsFunc(l.Ref, notInRef) {
				v.add(ref, "invalid_url", "must be a URL with https, without a user name")
			}
		default:
			v.add(kind, "unknown_value", "must be branch, commit, pull_request or url")
		}
	}
}

// notInRef reports what no link holds: spaces, and what isn't seen, such as the marks by
// which a text runs backwards and an address looks like another.
func notInRef(c rune) bool { return unicode.IsSpace(c) || !unicode.IsGraphic(c) }

// keepLinks adds links to those of an attempt, of which the latest are kept, and
// shows them with the spec.
func (t *tx) keepLinks(specID string, held leaseHolder, links []link) {
	if len(links) == 0 {
		return
	}
	t.queue(`
		WITH kept AS (
			UPDATE attempts SET links = (
				SELECT jsonb_agg(link ORDER BY place) FROM (
					SELECT link, max(place) AS place FROM jsonb_array_elements(links || $3::jsonb) WITH ORDINALITY AS l (link, place)
					GROUP BY link ORDER BY place DESC LIMIT $4) latest)
			WHERE spec_id = $1 AND number = $2 RETURNING links
		)
		UPDATE specs SET links = (SELECT links FROM kept) WHERE id = $1`,
		specID, held.number, links, maxLinks)
}
