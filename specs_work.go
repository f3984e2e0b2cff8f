package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/specfile"
)

const maxCriteriaSet = 100 // criteria that one progress report names at most

// specLock is a spec that a transaction has locked, as it was then.
type specLock struct {
	id, missionID, status string
	version               int64
	attempts, unmet       int
	asked                 int // open questions
	done                  []bool
	review                string     // its own; "" where the mission's counts
	human                 bool       // a person reviews it; set by lockSpec and lockLease
	dependents            []specLock // nil unless they are locked too
}

func (spec specLock) tally() tally { return tallyOf(spec.status, spec.unmet, spec.done) }

// lockScope says whether a change locks what depends on the spec too, which it
// has to when the spec becomes completed, or no longer is.
type lockScope bool

const (
	alone          lockScope = false
	withDependents lockScope = true
)

// lockColumns are what scanLock reads.
const lockColumns = `h.spec_id, h.mission_id, h.status, h.version, h.attempts, h.unmet, h.asked, h.done,
	coalesce(h.review, '')`

func scanLock(row pgx.CollectableRow) (spec specLock, err error) {
	err = row.Scan(&spec.id, &spec.missionID, &spec.status, &spec.version, &spec.attempts, &spec.unmet, &spec.asked,
		&spec.done, &spec.review)
	return spec, err
}

// askSpec queues the lock of a spec, and of its dependents if scope says so,
// in the order of their ids. Every change to one spec begins with it, behind
// that of its mission.
func (t *tx) askSpec(id string, scope lockScope) *specLock {
	sql := `SELECT ` + lockColumns + ` FROM spec_states h WHERE h.spec_id = $1 FOR NO KEY UPDATE`
	if scope == withDependents {
		sql = `SELECT ` + lockColumns + ` FROM spec_states h
			WHERE h.spec_id IN (SELECT $1::uuid UNION ALL SELECT spec_id FROM dependencies WHERE depends_on = $1)
			ORDER BY h.spec_id FOR NO KEY UPDATE`
	}
	var spec specLock
	t.queue(sql, id).Query(func(rows pgx.Rows) error {
		locked, err := pgx.CollectRows(rows, scanLock)
		for _, other := range locked {
			if other.id == id {
				other.dependents = spec.dependents
				spec = other
			} else {
				spec.dependents = append(spec.dependents, other)
			}
		}
		return err
	})
	return &spec
}

// lockSpec locks the mission of a spec as lock says, and then the spec.
func (t *tx) lockSpec(ctx context.Context, at target, lock string, scope lockScope) (missionLock, specLock, error) {
	m, spec := t.askMission(at, lock), t.askSpec(at.spec, scope)
	if err := t.send(ctx); err != nil {
		return *m, *spec, fmt.Errorf("locking a spec: %w", err)
	}
	spec.human = m.asksHuman(spec.review)
	return *m, *spec, cmp.Or(m.check(accessEditor), spec.check())
}

// check refuses a spec that has just been deleted.
func (spec specLock) check() error {
	if spec.id == "" {
		return errNotFound()
	}
	return nil
}

// leaseHolder is who holds a spec, at which attempt.
type leaseHolder struct {
	agent  string
	number int // of the attempt, counted for ever
}

// lockLease locks a spec like lockSpec and checks that token holds it. A caller
// without access to the mission holds its locks for this one round trip.
func (t *tx) lockLease(ctx context.Context, at target, lock string, scope lockScope,
	token string) (missionLock, specLock, leaseHolder, error) {
	m, spec := t.askMission(at, lock), t.askSpec(at.spec, scope)
	var by leaseHolder
	held := t.ask(`SELECT agent, coalesce(number, 0) FROM leases WHERE spec_id = $1 AND token = $2 FOR UPDATE`,
		[]any{at.spec, token}, &by.agent, &by.number)
	if err := t.send(ctx); err != nil {
		return *m, *spec, by, fmt.Errorf("locking a lease: %w", err)
	}
	spec.human = m.asksHuman(spec.review)
	err := cmp.Or(m.check(accessEditor), spec.check())
	if err == nil && !*held {
		err = errLeaseLost()
	}
	if err == nil && by.number == 0 {
		t.adoptLease(spec.id)
		err = t.QueryRow(ctx, `SELECT number FROM leases WHERE spec_id = $1`, spec.id).Scan(&by.number)
	}
	return *m, *spec, by, err
}

func errLeaseLost() error {
	return problem(http.StatusConflict, "lease_lost",
		"This lease has ended: the spec was finished, released or taken over. Claim again.")
}

func isLeaseLost(err error) bool {
	e, ok := errors.AsType[*apiError](err)
	return ok && e.code == "lease_lost"
}

// move puts a locked spec into a status, ends the lease on it if there is one,
// with its attempt, and tells its dependents. Its open questions are withdrawn,
// unless it is parked for them: an answer moves nothing that somebody has moved
// since. attempts is what is counted from now on. What takes a person it refuses to
// an API key.
func (t *tx) move(spec specLock, status string, attempts int, how ending) error {
	if err := t.mayMove(spec, status); err != nil {
		return err
	}
	asked := 0
	if how.outcome == attemptParked {
		asked = spec.asked
	} else if spec.asked > 0 {
		t.withdrawQuestions(spec.id)
	}
	var approvedBy *string
	if spec.human && status == "completed" {
		approvedBy = &t.account.userID
	}
	t.queue(`
		UPDATE spec_states SET status = $2, attempts = $3, asked = $4, waits_since = `+waitsSinceSQL("$2")+`,
		       approved_by = $5, version = version + 1, updated_at = clock_timestamp()
		WHERE spec_id = $1`, spec.id, status, attempts, asked, approvedBy)
	if spec.status == "in_progress" {
		t.endLease(spec.id, how)
	}
	t.count(spec.missionID, spec.tally(), tallyOf(status, spec.unmet, spec.done))
	if (spec.status == "completed") == (status == "completed") || len(spec.dependents) == 0 {
		return nil
	}
	more := 1
	if status == "completed" {
		more = -1
	}
	ids := make([]string, 0, len(spec.dependents))
	for _, d := range spec.dependents {
		ids = append(ids, d.id)
		t.count(spec.missionID, d.tally(), tallyOf(d.status, d.unmet+more, d.done))
	}
	t.queue(`UPDATE spec_states SET unmet = unmet + $2 WHERE spec_id = ANY($1)`, ids, more)
	return nil
}

// progress is what an agent reports of a spec that it holds.
type progress struct {
	LeaseToken string `json:"lease_token"`
	Check      []int  `json:"check,omitempty" doc:"numbers of criteria that are met now"`
	Uncheck    []int  `json:"uncheck,omitempty"`
	Message    string `json:"message,omitempty" doc:"what you have done, in a sentence"`
	Links      []link `json:"links,omitempty"`
}

func (in *progress) validate(v *violations, _ *Config) {
	v.leaseToken(in.LeaseToken)
	v.text("message", in.Message, 0, 2000)
	v.links(in.Links)
	if len(in.Check)+len(in.Uncheck) > maxCriteriaSet {
		v.add("check", "too_many", "must name at most %d criteria, together with uncheck", maxCriteriaSet)
	}
}

// progressSpec is POST /api/v1/specs/{id}/progress.
func (s *Server) progressSpec(ctx context.Context, t *tx, c *call, in *progress) (*specView, error) {
	_, spec, held, err := t.lockLease(ctx, c.target, lockKeyShare, alone, in.LeaseToken)
	if err != nil {
		return nil, err
	}
	t.queue(`UPDATE leases SET reported_at = coalesce(reported_at, clock_timestamp()) WHERE spec_id = $1`, spec.id)
	if err := t.progress(spec, held, in); err != nil {
		return nil, err
	}
	return t.askView(spec.id), nil
}

// progress notes what the holder of a locked spec reports.
func (t *tx) progress(spec specLock, held leaseHolder, p *progress) error {
	done, err := checkCriteria(spec.done, p.Check, p.Uncheck)
	if err != nil {
		return err
	}
	if !slices.Equal(done, spec.done) {
		t.queue(`UPDATE spec_states SET done = $2, version = version + 1, updated_at = clock_timestamp() WHERE spec_id = $1`,
			spec.id, done)
		t.count(spec.missionID, spec.tally(), tallyOf(spec.status, spec.unmet, done))
	}
	data := map[string]any{"check": orEmpty(p.Check), "uncheck": orEmpty(p.Uncheck), "criteria_done": countDone(done),
		"criteria_total": len(done)}
	if p.Message != "" {
		data["message"] = p.Message
	}
	if len(p.Links) > 0 {
		data["links"] = p.Links
	}
	t.noteReport(spec.id, held, p)
	t.emit("spec.progressed", spec.missionID, spec.id, held.agent, data)
	return nil
}

// checkCriteria sets and clears criteria by their numbers, and returns their
// states then.
func checkCriteria(done []bool, check, uncheck []int) ([]bool, error) {
	done = slices.Clone(done)
	var v violations
	mark := func(field string, numbers []int, state bool) {
		for i, n := range numbers {
			if n < 1 || n > len(done) {
				v.add(fmt.Sprintf("%s[%d]", field, i), "no_such_criterion", "must be between 1 and %d", len(done))
				continue
			}
			done[n-1] = state
		}
	}
	mark("check", check, true)
	mark("uncheck", uncheck, false)
	for i, n := range uncheck {
		if slices.Contains(check, n) {
			v.add(fmt.Sprintf("uncheck[%d]", i), "contradiction", "is both checked and unchecked")
		}
	}
	return done, v.err()
}

// completion is what ends a spec well: notes, and if criteria are still open
// the reason to pass over them.
type completion struct {
	Notes    string `json:"notes,omitempty" doc:"what was done, for readers of the history"`
	Override string `json:"override,omitempty" doc:"why criteria stay open"`
}

func (in *completion) validate(v *violations, _ *Config) {
	v.text("notes", in.Notes, 0, 2000)
	v.text("override", in.Override, 0, 2000)
	if in.Override != "" && strings.TrimSpace(in.Override) == "" {
		v.add("override", "required", "must give the reason, or be left out")
	}
}

// heldCompletion is a completion by the holder of a lease.
type heldCompletion struct {
	LeaseToken string `json:"lease_token"`
	completion
	Links []link `json:"links,omitempty"`
}

func (in *heldCompletion) validate(v *violations, config *Config) {
	v.leaseToken(in.LeaseToken)
	in.completion.validate(v, config)
	v.links(in.Links)
}

// completeSpec is POST /api/v1/specs/{id}/complete.
func (s *Server) completeSpec(ctx context.Context, t *tx, c *call, in *heldCompletion) (*specView, error) {
	if _, _, err := t.completeHeld(ctx, c.target, in); err != nil {
		return nil, err
	}
	return t.askView(c.target.spec), nil
}

// completeHeld finishes a spec for its holder, and returns its mission and its status
// then.
func (t *tx) completeHeld(ctx context.Context, at target, in *heldCompletion) (
	m missionLock, status string, err error) {
	m, spec, held, err := t.lockLease(ctx, at, lockNoKeyUpdate, withDependents, in.LeaseToken)
	if err != nil {
		return m, "", err
	}
	t.keepLinks(spec.id, held, in.Links)
	status, err = t.complete(ctx, &m, spec, held, in.completion, in.Links)
	return m, status, err
}

// complete finishes a locked spec, and its mission if it was the last: for the agent
// that holds it, or by hand, which is nobody. Under review what an agent has finished
// waits for a person. It returns the status then.
func (t *tx) complete(ctx context.Context, m *missionLock, spec specLock, by leaseHolder, c completion, links []link) (
	status string, err error) {
	open := len(spec.done) - countDone(spec.done)
	if open == 0 {
		c.Override = ""
	}
	status, how := "completed", ending{attemptCompleted, c.Notes, c.Override}
	switch {
	case by.agent == "":
		how.outcome = attemptTaken
		t.decide(spec, status, c)
	case spec.human:
		status, how.outcome = "in_review", attemptSubmitted
	}
	if err := t.move(spec, status, spec.attempts, how); err != nil {
		return "", err
	}
	if open > 0 && c.Override == "" {
		return "", t.errCriteriaUnmet(ctx, spec)
	}
	data := map[string]any{}
	if c.Notes != "" {
		data["notes"] = c.Notes
	}
	if open > 0 {
		data["override"], data["open_criteria"] = c.Override, open
	}
	if status == "in_review" {
		data["number"], data["links"] = by.number, orEmpty(links)
		t.emit("spec.submitted", spec.missionID, spec.id, by.agent, data)
		return status, t.notifyPeople(ctx, spec, maxDeciders, "waits for your review.")
	}
	if spec.human && spec.status == "in_review" {
		t.judge(spec.id, verdict{"approve", c.Notes})
	}
	t.completed(m, spec, by.agent, data)
	return status, nil
}

// completed tells that a spec is, once it was moved, and finishes its mission if it
// was the last.
func (t *tx) completed(m *missionLock, spec specLock, agent string, data map[string]any) {
	data["from"] = spec.status
	if spec.human {
		data["approved_by"] = t.account.userID
	}
	t.emit("spec.completed", spec.missionID, spec.id, agent, data)
	t.completeIfDone(m)
}

// errCriteriaUnmet names the open criteria of a spec that can't be completed.
func (t *tx) errCriteriaUnmet(ctx context.Context, spec specLock) error {
	var body string
	var rules specfile.Rules
	if err := t.QueryRow(ctx, `SELECT body, rules FROM specs WHERE id = $1`, spec.id).Scan(&body, &rules); err != nil {
		return fmt.Errorf("reading criteria: %w", err)
	}
	open := slices.DeleteFunc(criteriaAsDone(body, rules, spec.done), func(c specfile.Criterion) bool { return c.Done })
	return problem(http.StatusConflict, "criteria_unmet",
		"Its acceptance criteria aren't all checked; open: %d. Check them, or give the reason in override.",
		len(open)).with("criteria", open)
}

// failure is what ends an attempt at a spec: why, and whether another may be
// made, as it may unless that is said.
type failure struct {
	LeaseToken string `json:"lease_token"`
	Reason     string `json:"reason" doc:"what stood in the way, for the next attempt"`
	Retry      *bool  `json:"retry,omitempty"`
	Links      []link `json:"links,omitempty"`
}

func (in *failure) validate(v *violations, _ *Config) {
	v.leaseToken(in.LeaseToken)
	v.text("reason", in.Reason, 1, 2000)
	v.links(in.Links)
}

// failSpec is POST /api/v1/specs/{id}/fail.
func (s *Server) failSpec(ctx context.Context, t *tx, c *call, in *failure) (*specView, error) {
	if _, _, err := t.fail(ctx, c.target, in, s.config.MaxAttempts); err != nil {
		return nil, err
	}
	return t.askView(c.target.spec), nil
}

// fail ends the attempt of a lease's holder, and returns the mission and the spec's
// status then.
func (t *tx) fail(ctx context.Context, at target, in *failure, maxAttempts int) (
	m missionLock, status string, err error) {
	m, spec, held, err := t.lockLease(ctx, at, lockKeyShare, alone, in.LeaseToken)
	if err != nil {
		return m, "", err
	}
	t.keepLinks(spec.id, held, in.Links)
	status = "planned"
	if spec.attempts >= maxAttempts || in.Retry != nil && !*in.Retry {
		status = "blocked"
	}
	if err := t.move(spec, status, spec.attempts, ending{outcome: attemptFailed, notes: in.Reason}); err != nil {
		return m, "", err
	}
	t.emit("spec.failed", m.ID, spec.id, held.agent,
		map[string]any{"reason": in.Reason, "attempt": spec.attempts, "status": status})
	if status == "blocked" {
		err = t.notifyBlocked(ctx, spec, in.Reason)
	}
	return m, status, err
}

// notifyBlocked tells the mission's owner of a spec that failed for good.
func (t *tx) notifyBlocked(ctx context.Context, spec specLock, why string) error {
	return t.notifyPeople(ctx, spec, 0, fmt.Sprintf("is blocked after %d attempts: %s", spec.attempts, why))
}

// statusSteps is the workflow that POST status follows.
var statusSteps = map[string][]string{
	"proposed":    {"planned", "deferred"},
	"planned":     {"in_progress", "blocked", "deferred"},
	"in_progress": {"planned", "in_review", "testing", "completed", "blocked"},
	"in_review":   {"in_progress", "testing", "completed"},
	"testing":     {"in_progress", "completed"},
	"blocked":     {"planned", "in_progress"},
	"deferred":    {"planned"},
	"completed":   {"in_progress"},
}

// statusStep is a step of the workflow, by hand.
type statusStep struct {
	Status string `json:"status"`
	completion
}

func (in *statusStep) validate(v *violations, config *Config) {
	v.specStatus(in.Status)
	in.completion.validate(v, config)
}

// setStatus is POST /api/v1/specs/{id}/status. It ends the lease that somebody
// has on the spec.
func (s *Server) setStatus(ctx context.Context, t *tx, c *call, in *statusStep) (*specView, error) {
	m, spec, err := t.lockSpec(ctx, c.target, lockNoKeyUpdate, withDependents)
	if err = cmp.Or(err, m.open()); err != nil {
		return nil, err
	}
	if err := c.checkVersion(spec.version); err != nil {
		return nil, err
	}
	if steps := statusSteps[spec.status]; !slices.Contains(steps, in.Status) {
		return nil, errInvalidTransition("spec", spec.status, steps)
	}
	t.adoptLease(spec.id)
	in.Notes = strings.TrimSpace(in.Notes)
	if in.Status == "completed" {
		_, err = t.complete(ctx, &m, spec, leaseHolder{}, in.completion, nil)
	} else {
		err = t.step(&m, spec, in.Status, in.Notes)
	}
	if err != nil {
		return nil, err
	}
	return t.askView(spec.id), nil
}

// step takes a locked spec to any status but completed. Whoever unblocks one
// gives it all its attempts again; who reopens one, or takes up what was put
// off or proposed, reopens its mission too.
func (t *tx) step(m *missionLock, spec specLock, status, notes string) error {
	attempts := spec.attempts
	if spec.status == "blocked" {
		attempts = 0
	}
	t.decide(spec, status, completion{Notes: notes})
	if err := t.move(spec, status, attempts, ending{outcome: attemptTaken, notes: notes}); err != nil {
		return err
	}
	data := map[string]any{"from": spec.status, "to": status}
	if notes != "" {
		data["notes"] = notes
	}
	t.emit("spec.status_changed", spec.missionID, spec.id, "", data)
	if slices.Contains(openStatuses, status) && !slices.Contains(openStatuses, spec.status) {
		t.reopen(m)
		return nil
	}
	t.completeIfDone(m)
	return nil
}
