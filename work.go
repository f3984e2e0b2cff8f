package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

const maxCriteriaSet = 100 // criteria that one progress report names at most

// specLock is a spec that a transaction has locked, with its dependents.
type specLock struct {
	id, missionID, key, title, status string
	version                           int64
	attempts                          int
	dependents                        []string
}

// lockSpec locks the mission as lock says, then the spec and what depends on
// it, in the order of their ids. Every change to one spec begins with it.
func (t *tx) lockSpec(ctx context.Context, at target, lock string) (missionLock, specLock, error) {
	spec := specLock{id: at.spec, missionID: at.mission}
	m, err := t.mission(ctx, at.mission, lock, accessEditor)
	if err != nil {
		return m, spec, err
	}
	rows, err := t.Query(ctx, `
		SELECT id FROM specs WHERE id = $1 OR id IN (SELECT spec_id FROM dependencies WHERE depends_on = $1)
		ORDER BY id FOR NO KEY UPDATE`, spec.id)
	if err != nil {
		return m, spec, fmt.Errorf("locking specs: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return m, spec, fmt.Errorf("locking specs: %w", err)
	}
	if err := t.tally(ctx, m.ID, ids...); err != nil {
		return m, spec, err
	}
	spec.dependents = slices.DeleteFunc(ids, func(id string) bool { return id == spec.id })
	err = t.QueryRow(ctx, `SELECT key, title, status, version, attempts FROM specs WHERE id = $1`, spec.id).
		Scan(&spec.key, &spec.title, &spec.status, &spec.version, &spec.attempts)
	return m, spec, notFoundOr(err, "reading a spec")
}

// lockLease locks a spec like lockSpec and checks that token holds it.
func (t *tx) lockLease(ctx context.Context, at target, lock, token string) (m missionLock, spec specLock, agent string, err error) {
	if m, spec, err = t.lockSpec(ctx, at, lock); err != nil {
		return m, spec, "", err
	}
	err = t.QueryRow(ctx, `SELECT agent FROM leases WHERE spec_id = $1 AND token = $2 FOR UPDATE`, spec.id, token).Scan(&agent)
	if errors.Is(err, pgx.ErrNoRows) {
		return m, spec, "", errLeaseLost()
	}
	if err != nil {
		return m, spec, "", fmt.Errorf("reading a lease: %w", err)
	}
	return m, spec, agent, nil
}

// move puts a locked spec into a status, ends the lease on it if there is one,
// and tells its dependents. attempts is what is counted from now on.
func (t *tx) move(ctx context.Context, spec specLock, status string, attempts int) error {
	batch := &pgx.Batch{}
	batch.Queue(`UPDATE specs SET status = $2, attempts = $3, version = version + 1, updated_at = clock_timestamp() WHERE id = $1`,
		spec.id, status, attempts)
	batch.Queue(`DELETE FROM leases WHERE spec_id = $1`, spec.id)
	if err := t.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("changing a spec's status: %w", err)
	}
	if (spec.status == "completed") == (status == "completed") || len(spec.dependents) == 0 {
		return nil
	}
	return t.countUnmet(ctx, spec.dependents)
}

// progress is what an agent reports of a spec that it holds.
type progress struct {
	LeaseToken string `json:"lease_token"`
	Check      []int  `json:"check"`
	Uncheck    []int  `json:"uncheck"`
	Message    string `json:"message"`
}

func (v *violations) progress(p progress) {
	v.leaseToken(p.LeaseToken)
	v.text("message", p.Message, 0, 2000)
	if len(p.Check)+len(p.Uncheck) > maxCriteriaSet {
		v.add("check", "too_many", "names more than %d criteria, with uncheck", maxCriteriaSet)
	}
}

// progressSpec is POST /api/v1/specs/{id}/progress.
func (s *Server) progressSpec(w http.ResponseWriter, r *http.Request) error {
	var in progress
	if err := decodeRequest(r, &in); err != nil {
		return err
	}
	var v violations
	v.progress(in)
	if err := v.err(); err != nil {
		return err
	}
	at := callOf(r).target
	return s.writeOnce(w, r, func(ctx context.Context, t *tx) (reply, error) {
		_, spec, agent, err := t.lockLease(ctx, at, lockKeyShare, in.LeaseToken)
		if err != nil {
			return reply{}, err
		}
		if err := t.progress(ctx, spec, agent, in); err != nil {
			return reply{}, err
		}
		return t.specReply(ctx, spec.id, http.StatusOK)
	})
}

// progress notes what the holder of a locked spec reports.
func (t *tx) progress(ctx context.Context, spec specLock, agent string, p progress) error {
	checked, total, err := t.check(ctx, spec.id, p.Check, p.Uncheck)
	if err != nil {
		return err
	}
	data := map[string]any{"check": orEmpty(p.Check), "uncheck": orEmpty(p.Uncheck), "criteria_done": checked, "criteria_total": total}
	if p.Message != "" {
		data["message"] = p.Message
	}
	t.emit("spec.progressed", spec.missionID, spec.id, agent, data)
	return nil
}

// check sets and clears criteria by their numbers, and returns how many are
// done then, of how many.
func (t *tx) check(ctx context.Context, specID string, check, uncheck []int) (checked, total int, err error) {
	var done []bool
	if err := t.QueryRow(ctx, `SELECT done FROM specs WHERE id = $1`, specID).Scan(&done); err != nil {
		return 0, 0, fmt.Errorf("reading criteria: %w", err)
	}
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
			v.add(fmt.Sprintf("uncheck[%d]", i), "contradiction", "is checked and unchecked at once")
		}
	}
	if err := v.err(); err != nil {
		return 0, 0, err
	}
	checked = countDone(done)
	_, err = t.Exec(ctx, `
		UPDATE specs SET done = $2, criteria_done = $3, version = version + 1, updated_at = clock_timestamp()
		WHERE id = $1 AND done <> $2`, specID, done, checked)
	if err != nil {
		return 0, 0, fmt.Errorf("storing criteria: %w", err)
	}
	return checked, len(done), nil
}

// completion is what ends a spec well: notes, and if criteria are still open
// the reason to pass over them.
type completion struct {
	Notes    string `json:"notes"`
	Override string `json:"override"`
}

func (v *violations) completion(c completion) {
	v.text("notes", c.Notes, 0, 2000)
	v.text("override", c.Override, 0, 2000)
	if c.Override != "" && strings.TrimSpace(c.Override) == "" {
		v.add("override", "required", "must give the reason, or be left out")
	}
}

// completeSpec is POST /api/v1/specs/{id}/complete.
func (s *Server) completeSpec(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		LeaseToken string `json:"lease_token"`
		completion
	}
	if err := decodeRequest(r, &in); err != nil {
		return err
	}
	var v violations
	v.leaseToken(in.LeaseToken)
	v.completion(in.completion)
	if err := v.err(); err != nil {
		return err
	}
	at := callOf(r).target
	return s.writeOnce(w, r, func(ctx context.Context, t *tx) (reply, error) {
		m, spec, agent, err := t.lockLease(ctx, at, lockNoKeyUpdate, in.LeaseToken)
		if err != nil {
			return reply{}, err
		}
		if err := t.complete(ctx, &m, spec, agent, in.completion); err != nil {
			return reply{}, err
		}
		return t.specReply(ctx, spec.id, http.StatusOK)
	})
}

// complete finishes a locked spec, and its mission if it was the last.
func (t *tx) complete(ctx context.Context, m *missionLock, spec specLock, agent string, c completion) error {
	var body string
	var done []bool
	if err := t.QueryRow(ctx, `SELECT body, done FROM specs WHERE id = $1`, spec.id).Scan(&body, &done); err != nil {
		return fmt.Errorf("reading criteria: %w", err)
	}
	open := slices.DeleteFunc(criteriaAsDone(body, done), func(c criterion) bool { return c.Done })
	if len(open) > 0 && c.Override == "" {
		return problem(http.StatusConflict, "criteria_unmet",
			"Its acceptance criteria aren't all checked; open: %d. Check them, or give the reason in override.", len(open)).with("criteria", open)
	}
	if err := t.move(ctx, spec, "completed", spec.attempts); err != nil {
		return err
	}
	data := map[string]any{"from": spec.status}
	if c.Notes != "" {
		data["notes"] = c.Notes
	}
	if len(open) > 0 {
		data["override"], data["open_criteria"] = c.Override, len(open)
	}
	t.emit("spec.completed", spec.missionID, spec.id, agent, data)
	return t.completeIfDone(ctx, m)
}

// failure is what ends an attempt at a spec: why, and whether another may be
// made, as it may unless that is said.
type failure struct {
	LeaseToken string `json:"lease_token"`
	Reason     string `json:"reason"`
	Retry      *bool  `json:"retry"`
}

func (v *violations) failure(f failure) {
	v.leaseToken(f.LeaseToken)
	v.text("reason", f.Reason, 1, 2000)
}

// failSpec is POST /api/v1/specs/{id}/fail.
func (s *Server) failSpec(w http.ResponseWriter, r *http.Request) error {
	var in failure
	if err := decodeRequest(r, &in); err != nil {
		return err
	}
	var v violations
	v.failure(in)
	if err := v.err(); err != nil {
		return err
	}
	at := callOf(r).target
	return s.writeOnce(w, r, func(ctx context.Context, t *tx) (reply, error) {
		if _, err := t.fail(ctx, at, in, s.config.MaxAttempts); err != nil {
			return reply{}, err
		}
		return t.specReply(ctx, at.spec, http.StatusOK)
	})
}

// fail ends the attempt of a lease's holder, and returns the spec's status then.
func (t *tx) fail(ctx context.Context, at target, f failure, maxAttempts int) (status string, err error) {
	m, spec, agent, err := t.lockLease(ctx, at, lockKeyShare, f.LeaseToken)
	if err != nil {
		return "", err
	}
	status = "planned"
	if spec.attempts >= maxAttempts || f.Retry != nil && !*f.Retry {
		status = "blocked"
	}
	if err := t.move(ctx, spec, status, spec.attempts); err != nil {
		return "", err
	}
	t.emit("spec.failed", m.ID, spec.id, agent, map[string]any{"reason": f.Reason, "attempt": spec.attempts, "status": status})
	if status == "blocked" {
		t.notifyBlocked(m, spec, f.Reason)
	}
	return status, nil
}

// notifyBlocked tells the mission's owner of a spec that failed for good.
func (t *tx) notifyBlocked(m missionLock, spec specLock, why string) {
	t.notify(m.OwnerID, m.ID, spec.id, fmt.Sprintf("The spec %s of the mission %q is blocked after %d attempts: %s", spec.key, m.Name, spec.attempts, why))
}

// statusSteps is the workflow that POST status follows.
var statusSteps = map[string][]string{
	"planned":     {"in_progress", "blocked", "deferred"},
	"in_progress": {"planned", "in_review", "testing", "completed", "blocked"},
	"in_review":   {"in_progress", "testing", "completed"},
	"testing":     {"in_progress", "completed"},
	"blocked":     {"planned", "in_progress"},
	"deferred":    {"planned"},
	"completed":   {"in_progress"},
}

// setStatus is POST /api/v1/specs/{id}/status. It ends the lease that somebody
// has on the spec.
func (s *Server) setStatus(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Status string `json:"status"`
		completion
	}
	if err := decodeRequest(r, &in); err != nil {
		return err
	}
	var v violations
	v.specStatus(in.Status)
	v.completion(in.completion)
	if err := v.err(); err != nil {
		return err
	}
	at := callOf(r).target
	return s.writeOnce(w, r, func(ctx context.Context, t *tx) (reply, error) {
		m, spec, err := t.lockSpec(ctx, at, lockNoKeyUpdate)
		if err != nil {
			return reply{}, err
		}
		if err := m.open(); err != nil {
			return reply{}, err
		}
		if steps := statusSteps[spec.status]; !slices.Contains(steps, in.Status) {
			return reply{}, errInvalidTransition("spec", spec.status, steps)
		}
		if in.Status == "completed" {
			err = t.complete(ctx, &m, spec, "", in.completion)
		} else {
			err = t.step(ctx, &m, spec, in.Status, in.Notes)
		}
		if err != nil {
			return reply{}, err
		}
		return t.specReply(ctx, spec.id, http.StatusOK)
	})
}

// step takes a locked spec to any status but completed. Whoever unblocks one
// gives it all its attempts again; who reopens one, or takes up what was put
// off, reopens its mission too.
func (t *tx) step(ctx context.Context, m *missionLock, spec specLock, status, notes string) error {
	attempts := spec.attempts
	if spec.status == "blocked" {
		attempts = 0
	}
	if err := t.move(ctx, spec, status, attempts); err != nil {
		return err
	}
	data := map[string]any{"from": spec.status, "to": status}
	if notes = strings.TrimSpace(notes); notes != "" {
		data["notes"] = notes
	}
	t.emit("spec.status_changed", spec.missionID, spec.id, "", data)
	if spec.status == "completed" || spec.status == "deferred" {
		return t.reopen(ctx, m)
	}
	return t.completeIfDone(ctx, m)
}
