package main

// Questions that agents ask people about a spec that they hold.

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	maxOpenQuestions = 10 // of a spec
	maxOptions       = 6
)

// questionStates are the states of a question. It is open until it is answered, or
// withdrawn by the next step of its spec.
var questionStates = []string{"open", "answered", "withdrawn"}

// questionView is a question as clients see it.
type questionView struct {
	ID         string     `json:"id"`
	MissionID  string     `json:"mission_id"`
	SpecID     string     `json:"spec_id"`
	Number     int        `json:"number"` // of the attempt that asked
	Question   string     `json:"question"`
	Options    []string   `json:"options"`
	Parked     bool       `json:"parked"` // the spec was given back for it
	State      string     `json:"state"`
	Answer     *string    `json:"answer"`
	AnsweredBy *string    `json:"answered_by"`
	CreatedAt  time.Time  `json:"created_at"`
	AnsweredAt *time.Time `json:"answered_at"`
}

func (v *questionView) location() string { return "/api/v1/questions/" + v.ID }

// questionColumns are the columns of questions q that a questionView is read from.
const questionColumns = `q.id, q.mission_id, q.spec_id, q.number, q.question, q.options, q.parked, q.state, q.answer,
	q.answered_by, q.created_at, q.answered_at`

// questionRequest asks a person something, for the holder of a lease.
type questionRequest struct {
	LeaseToken string   `json:"lease_token"`
	Question   string   `json:"question,omitempty" doc:"with all they need to know"`
	Options    []string `json:"options,omitempty"`
	Park       bool     `json:"park,omitempty" doc:"give the spec back until it is answered"`
}

func (in *questionRequest) validate(v *violations, _ *Config) {
	v.leaseToken(in.LeaseToken)
	v.text("question", in.Question, 1, 2000)
	if len(in.Options) > maxOptions {
		v.add("options", "too_many", "must have at most %d entries", maxOptions)
		return
	}
	for i, option := range in.Options {
		field := fmt.Sprintf("options[%d]", i)
		v.text(field, option, 1, 200)
		if slices.Contains(in.Options[:i], option) {
			v.add(field, "duplicate", "is a duplicate")
		}
	}
}

// askQuestion is POST /api/v1/specs/{id}/questions.
func (s *Server) askQuestion(ctx context.Context, t *tx, c *call, in *questionRequest) (*questionView, error) {
	q, _, err := t.askPerson(ctx, c.target, in, "", s.config.LeaseDefault)
	return q, err
}

// askPerson asks what a request says or, if id is given, goes on with that question
// of the spec. While a question is open, the same text of the same attempt is the
// same question. The lease is prolonged to the time returned, or the spec given
// back if the request says so and the question is open.
func (t *tx) askPerson(ctx context.Context, at target, in *questionRequest, id string,
	lease time.Duration) (*questionView, time.Time, error) {
	_, spec, held, err := t.lockLease(ctx, at, lockKeyShare, alone, in.LeaseToken)
	if err != nil {
		return nil, time.Time{}, err
	}
	var found *[]questionView
	if id != "" {
		found = t.askQuestions(`WHERE q.id = $1 AND q.spec_id = $2`, id, spec.id)
	} else {
		found = t.askQuestions(`WHERE q.spec_id = $1 AND q.state = 'open' AND q.number = $2 AND q.question = $3`,
			spec.id, held.number, in.Question)
	}
	kept, err := t.prolong(ctx, spec.id, in.LeaseToken, lease)
	if err != nil {
		return nil, time.Time{}, err
	}
	var q *questionView
	asks := len(*found) == 0
	switch {
	case !asks:
		q = &(*found)[0]
	case id != "":
		return nil, time.Time{}, errNotFound()
	default:
		if q, err = t.newQuestion(ctx, spec, held, in); err != nil {
			return nil, time.Time{}, err
		}
		spec.asked++
	}
	parks := in.Park && q.State == "open"
	if q.Parked = q.Parked || parks; parks {
		t.queue(`UPDATE questions SET parked = true WHERE id = $1`, q.ID)
		if err := t.move(spec, "blocked", max(0, spec.attempts-1), ending{outcome: attemptParked}); err != nil {
			return nil, time.Time{}, err
		}
	}
	if asks || parks {
		t.emit("spec.asked", spec.missionID, spec.id, held.agent,
			map[string]any{"question_id": q.ID, "question": q.Question, "options": q.Options, "parked": q.Parked})
	}
	return q, kept.ExpiresAt, nil
}

// newQuestion adds a question to those of a spec that is held.
func (t *tx) newQuestion(ctx context.Context, spec specLock, held leaseHolder,
	in *questionRequest) (*questionView, error) {
	if spec.asked >= maxOpenQuestions {
		return nil, problem(http.StatusConflict, "too_many_questions",
			"The spec has %d open questions, the maximum. Wait until some are answered.", spec.asked)
	}
	q := &questionView{
		ID: newID(), MissionID: spec.missionID, SpecID: spec.id, Number: held.number,
		Question: in.Question, Options: orEmpty(in.Options), State: "open",
	}
	t.ask(`INSERT INTO questions (id, mission_id, spec_id, number, question, options) VALUES ($1, $2, $3, $4, $5, $6)
		RETURNING created_at`, []any{q.ID, q.MissionID, q.SpecID, q.Number, q.Question, q.Options}, &q.CreatedAt)
	t.queue(`UPDATE spec_states SET asked = asked + 1 WHERE spec_id = $1`, spec.id)
	return q, t.notifyPeople(ctx, spec, maxDeciders, "waits for an answer: "+cut(q.Question, 500))
}

// askQuestions queues a read of questions q.
func (t *tx) askQuestions(where string, args ...any) *[]questionView {
	var found []questionView
	t.queue(`SELECT `+questionColumns+` FROM questions q `+where, args...).Query(func(rows pgx.Rows) (err error) {
		found, err = pgx.CollectRows(rows, pgx.RowToStructByPos[questionView])
		return err
	})
	return &found
}

// withdrawQuestions withdraws the open questions of a locked spec.
func (t *tx) withdrawQuestions(specID string) {
	t.queue(`UPDATE questions SET state = 'withdrawn' WHERE spec_id = $1 AND state = 'open'`, specID)
}

// withdrawAll withdraws the open questions of a mission that has ended.
func (t *tx) withdrawAll(ctx context.Context, m missionLock) error {
	asking, err := t.lockHeld(ctx, m.ID, `SELECT spec_id FROM questions WHERE mission_id = $1 AND state = 'open'`,
		"FOR NO KEY UPDATE")
	for _, spec := range asking {
		t.withdrawQuestions(spec.id)
		t.queue(`UPDATE spec_states SET asked = 0 WHERE spec_id = $1`, spec.id)
	}
	return err
}

// listQuestions is GET /api/v1/questions, the latest first.
func (s *Server) listQuestions(ctx context.Context, c *call, q *query) (none list[questionView], err error) {
	mission, state := q.id("mission_id"), q.choice("state", "", questionStates...)
	if open := q.flag("open"); open != nil && (!*open || state != "" && state != "open") {
		q.fail("open", "unknown_value", "must be true, which is short for state=open")
	} else if open != nil {
		state = "open"
	}
	shape := "questions " + mission + " " + state
	limit, before := int(q.number("limit", 50, 1, 200)), q.cursor(shape)
	if before != "" && !validID(before) {
		q.fail("cursor", "invalid_cursor", "isn't a cursor of this list")
	}
	if err := q.err(); err != nil {
		return none, err
	}
	filter := newListFilter(c.account)
	if mission != "" {
		filter.scope = []string{mission}
	} else if err := s.seeMissions(ctx, filter, ""); err != nil {
		return none, err
	}
	states := questionStates
	if state != "" {
		states = []string{state}
	}
	questions, err := s.findQuestions(ctx, filter, states, cmp.Or(before, lastID), limit+1)
	if err != nil {
		return none, err
	}
	return pageOf(questions, limit, func(v questionView) string { return encodeCursor(shape, v.ID) }), nil
}

// findQuestions reads the latest questions before one, in some states and the missions of
// the filter's scope.
func (s *Server) findQuestions(ctx context.Context, f *listFilter, states []string, before string,
	limit int) ([]questionView, error) {
	ctx, end, err := s.beginRead(ctx, f.account, "", false)
	if err != nil {
		return nil, err
	}
	defer end()
	// Ranges, though they are equalities, since only one index has the order of these.
	from, first, key := `FROM unnest($3::text[]) AS of (state)`, `of.state`, `q.state`
	args := []any{f.account.userID, f.account.admin(), states, before, limit}
	if f.scope != nil {
		from += ` CROSS JOIN unnest($6::uuid[]) AS one (id)`
		first, key = `one.id, of.state`, `q.mission_id, q.state`
		args = append(args, f.scope)
	}
	descending := strings.ReplaceAll(key, `,`, ` DESC,`) + ` DESC, q.id DESC`
	rows, err := s.db.Query(ctx, `SELECT its.* `+from+` CROSS JOIN LATERAL (
			SELECT `+questionColumns+` FROM questions q JOIN missions m ON m.id = q.mission_id
			WHERE (`+key+`) >= (`+first+`) AND (`+key+`, q.id) < (`+first+`, $4::uuid) AND `+readableSQL+`
			ORDER BY `+descending+` LIMIT $5) its
		ORDER BY its.id DESC LIMIT $5`, args...)
	if err != nil {
		return nil, fmt.Errorf("listing questions: %w", err)
	}
	questions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[questionView])
	if err != nil {
		return nil, fmt.Errorf("listing questions: %w", err)
	}
	return questions, nil
}

// lastID comes after all ids.
const lastID = "ffffffff-ffff-ffff-ffff-ffffffffffff"

// getQuestion is GET /api/v1/questions/{id}. It waits for the answer if asked to.
func (s *Server) getQuestion(ctx context.Context, c *call, q *query) (*questionView, error) {
	seconds := int(q.number("wait_seconds", 0, 0, maxWait))
	if err := q.err(); err != nil {
		return nil, err
	}
	return s.awaitAnswer(ctx, c, c.target.question, seconds)
}

// awaitAnswer reads a question, once it isn't open any more or after so many
// seconds. Like a claim it waits outside any transaction, woken by the mission's
// events.
func (s *Server) awaitAnswer(ctx context.Context, c *call, id string, seconds int) (*questionView, error) {
	v, err := s.readQuestion(ctx, c.account, id)
	if err != nil || seconds == 0 || v.State != "open" {
		return v, err
	}
	waitErr := s.waitFor(ctx, c, v.MissionID, seconds, func(first bool) (waits bool) {
		if !first {
			err = s.signIn(ctx, c) // the credential may have ended meanwhile
		}
		if err == nil {
			v, err = s.readQuestion(ctx, c.account, id)
		}
		return err == nil && v.State == "open"
	})
	return v, cmp.Or(err, waitErr)
}

// readQuestion reads one question for an account.
func (s *Server) readQuestion(ctx context.Context, a account, id string) (*questionView, error) {
	rows, err := s.db.Query(ctx, `
		SELECT `+questionColumns+` FROM questions q JOIN missions m ON m.id = q.mission_id
		WHERE q.id = $3 AND `+readableSQL, a.userID, a.admin(), id)
	if err != nil {
		return nil, fmt.Errorf("reading a question: %w", err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByPos[questionView])
	if err != nil {
		return nil, notFoundOr(err, "reading a question")
	}
	s.seen.note(id, seenID{mission: v.MissionID})
	return v, nil
}

// answerRequest answers a question.
type answerRequest struct {
	Answer string `json:"answer"`
}

func (in *answerRequest) validate(v *violations, _ *Config) { v.text("answer", in.Answer, 1, 2000) }

// answerQuestion is POST /api/v1/questions/{id}/answer. A spec that is parked is
// planned once none of its questions is open.
func (s *Server) answerQuestion(ctx context.Context, t *tx, c *call, in *answerRequest) (*questionView, error) {
	id := c.target.question
	var specID string
	m := t.askMission(c.target, lockKeyShare)
	t.ask(`SELECT spec_id FROM questions WHERE id = $1`, []any{id}, &specID)
	if err := t.send(ctx); err != nil {
		return nil, fmt.Errorf("locking a mission: %w", err)
	}
	if err := m.check(accessEditor); err != nil {
		return nil, err
	}
	if specID == "" {
		return nil, errNotFound() // it was deleted with its spec
	}
	spec, found := t.askSpec(specID, alone), t.askQuestions(`WHERE q.id = $1`, id)
	if err := t.send(ctx); err != nil {
		return nil, fmt.Errorf("locking a spec: %w", err)
	}
	if err := spec.check(); err != nil {
		return nil, err
	}
	q := (*found)[0]
	if q.State != "open" {
		return nil, problem(http.StatusConflict, "question_closed", "The question is %s: it takes no answer.", q.State).
			with("question", q)
	}
	t.queue(`UPDATE questions SET state = 'answered', answer = $2, answered_by = $3, answered_at = clock_timestamp()
		WHERE id = $1`, id, in.Answer, t.account.userID)
	data := map[string]any{"question_id": id, "answer": in.Answer}
	if spec.asked--; spec.asked <= 0 && spec.status == "blocked" {
		spec.asked = 0
		if err := t.move(*spec, "planned", spec.attempts, ending{}); err != nil {
			return nil, err
		}
		data["status"] = "planned"
	} else {
		t.queue(`UPDATE spec_states SET asked = greatest(0, asked - 1) WHERE spec_id = $1`, spec.id)
	}
	t.emit("spec.answered", spec.missionID, spec.id, "", data)
	return askFor(t, `SELECT `+questionColumns+` FROM questions q WHERE q.id = $1`, []any{id},
		pgx.RowToStructByPos[questionView]), nil
}

// askArguments ask something, or wait on for the answer to what was asked before.
type askArguments struct {
	questionRequest
	QuestionID  string `json:"question_id,omitempty" doc:"of an earlier one, to wait or park"`
	WaitSeconds int    `json:"wait_seconds,omitempty" doc:"at most 50"`
}

func (in *askArguments) validate(v *violations, config *Config) {
	if in.WaitSeconds < 0 || in.WaitSeconds > maxWait {
		v.add("wait_seconds", "out_of_range", "must be between 0 and %d", maxWait)
	}
	if in.QuestionID == "" {
		in.questionRequest.validate(v, config)
		return
	}
	v.leaseToken(in.LeaseToken)
	if in.QuestionID = strings.ToLower(in.QuestionID); !validID(in.QuestionID) {
		v.add("question_id", "invalid_id", "must be a UUID")
	}
	if in.Question != "" || len(in.Options) > 0 {
		v.add("question", "not_with_question_id", "can't be given together with question_id")
	}
}

type askAnswer struct {
	QuestionID string    `json:"question_id"`
	State      string    `json:"state"`
	Answer     string    `json:"answer,omitempty"`
	ExpiresAt  time.Time `json:"expires_at,omitzero"`
	Next       string    `json:"next"`
}

// askTool is ask. It waits once the question is there for people to see.
func (s *Server) askTool(ctx context.Context, c *call, in *askArguments) (*askAnswer, error) {
	var ends time.Time
	q, err := transact(ctx, s, c, func(ctx context.Context, t *tx) (q *questionView, err error) {
		q, ends, err = t.askPerson(ctx, c.target, &in.questionRequest, in.QuestionID, s.config.LeaseDefault)
		return q, err
	})
	if err == nil && q.State == "open" && !q.Parked {
		q, err = s.awaitAnswer(ctx, c, q.ID, in.WaitSeconds)
	}
	if err != nil {
		return nil, err
	}
	out := &askAnswer{q.ID, q.State, orEmptyText(q.Answer), ends, ""}
	switch {
	case q.State == "answered":
		out.Next = "Go on with this answer, and call report."
	case q.State == "withdrawn":
		out.Next = "Nobody will answer: the spec has been moved since. Call claim_spec."
	case q.Parked:
		out.ExpiresAt = time.Time{}
		out.Next = "You have given the spec back. Once there is an answer, it is handed out again. Call claim_spec."
	default:
		out.Next = "Not answered yet. Call ask with this question_id and wait_seconds to wait on; or go on with other " +
			"criteria and call report; or call ask with this question_id and park: true, to give the spec back until " +
			"there is an answer."
	}
	return out, nil
}
