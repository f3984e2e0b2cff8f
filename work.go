package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	minLease       = 10 * time.Second
	maxWait        = 50 // seconds that a claim waits at most
	maxCriteriaSet = 100
)

// leaseView is a lease as its holder sees it. The token is its proof.
type leaseView struct {
	Token     string    `json:"token"`
	Attempt   int       `json:"attempt"`
	ExpiresAt time.Time `json:"expires_at"`
}

// claimRequest is what an agent asks for.
type claimRequest struct {
	Agent        string   `json:"agent"`
	LeaseSeconds *int     `json:"lease_seconds"`
	WaitSeconds  int      `json:"wait_seconds"`
	Tags         []string `json:"tags"`
	Phase        string   `json:"phase"`
}

// errNothingReady rolls a claim back that found nothing to take.
var errNothingReady = errors.New("nothing is ready")

// claimSpec is POST /api/v1/missions/{id}/claim. It gives out the ready spec of
// the highest priority, then the lowest number, and waits for one if asked to:
// outside any transaction, woken by the mission's events.
func (s *Server) claimSpec(w http.ResponseWriter, r *http.Request) error {
	var in claimRequest
	if err := decodeRequest(r, &in); err != nil {
		return err
	}
	lease, err := s.validateClaim(in)
	if err != nil {
		return err
	}
	missionID := callOf(r).target.mission
	grown, stop := s.hub.watch(missionID)
	defer stop()
	patience := time.NewTimer(time.Duration(in.WaitSeconds) * time.Second)
	defer patience.Stop()
	for {
		err := s.writeOnce(w, r, func(ctx context.Context, t *tx) (reply, error) {
			return s.claim(ctx, r, t, missionID, in, lease)
		})
		if !errors.Is(err, errNothingReady) {
			return err
		}
		select {
		case <-grown:
		case <-patience.C:
			w.WriteHeader(http.StatusNoContent)
			return nil
		case <-s.stopping:
			w.WriteHeader(http.StatusNoContent)
			return nil
		case <-r.Context().Done():
			return problem(http.StatusServiceUnavailable, "timeout", "The claim waited too long.").because(r.Context().Err())
		}
	}
}

func (s *Server) validateClaim(in claimRequest) (lease time.Duration, err error) {
	var v violations
	v.line("agent", in.Agent, 1, 100)
	v.line("phase", in.Phase, 0, 200)
	v.tags("tags", in.Tags)
	if in.WaitSeconds < 0 || in.WaitSeconds > maxWait {
		v.add("wait_seconds", "out_of_range", "must be between 0 and %d", maxWait)
	}
	lease = s.leaseTime(&v, in.LeaseSeconds)
	return lease, v.err()
}

// leaseTime is how long a lease is asked for: LEASE_DEFAULT unless given.
func (s *Server) leaseTime(v *violations, seconds *int) time.Duration {
	if seconds == nil {
		return s.config.LeaseDefault
	}
	least, most := int(minLease/time.Second), int(s.config.LeaseMax/time.Second)
	if *seconds < least || *seconds > most {
		v.add("lease_seconds", "out_of_range", "must be between %d and %d", least, most)
	}
	return time.Duration(*seconds) * time.Second
}

// claim takes the next ready spec, after taking back what has expired.
func (s *Server) claim(ctx context.Context, r *http.Request, t *tx, missionID string, in claimRequest, lease time.Duration) (reply, error) {
	m, err := t.mission(ctx, missionID, lockShare, accessEditor)
	if err != nil {
		return reply{}, err
	}
	if m.Status != "active" {
		return reply{}, problem(http.StatusConflict, "mission_not_active", "The mission is %s: only an active one hands out work.", m.Status).with("status", m.Status)
	}
	if err := t.takeBackExpired(ctx, missionID, s.config.MaxAttempts); err != nil {
		return reply{}, err
	}
	var id string
	err = t.QueryRow(ctx, `
		SELECT s.id FROM specs s JOIN missions m ON m.id = s.mission_id
		WHERE s.mission_id = $1 AND `+readySQL+` AND s.tags @> $2 AND ($3 = '' OR s.phase IN ($3, $4))
		ORDER BY s.priority DESC, s.number_order, s.id LIMIT 1
		FOR NO KEY UPDATE OF s SKIP LOCKED`, missionID, orEmpty(in.Tags), in.Phase, canonicalPhase(in.Phase)).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		if len(t.events) > 0 {
			return reply{}, andCommit(errNothingReady) // what was taken back stays so
		}
		return reply{}, errNothingReady
	}
	if err != nil {
		return reply{}, fmt.Errorf("looking for a ready spec: %w", err)
	}
	given, err := t.grant(ctx, missionID, id, in.Agent, lease)
	if err != nil {
		return reply{}, err
	}
	answer, err := t.specReply(ctx, id, http.StatusOK)
	if err != nil {
		return reply{}, err
	}
	answer.body = struct {
		Spec  any       `json:"spec"`
		Lease leaseView `json:"lease"`
	}{answer.body, given}
	answer.etag = ""
	return answer, r.Context().Err() // a client that has gone wouldn't know of its lease
}

// grant makes an agent the holder of a ready spec, which is locked.
func (t *tx) grant(ctx context.Context, missionID, specID, agent string, lease time.Duration) (leaseView, error) {
	given := leaseView{Token: newSecret("lt_")}
	if err := t.tally(ctx, missionID, specID); err != nil {
		return given, err
	}
	err := t.QueryRow(ctx, `
		WITH spec AS (
			UPDATE specs SET status = 'in_progress', attempts = attempts + 1, version = version + 1, updated_at = clock_timestamp()
			WHERE id = $1 RETURNING id, mission_id, attempts
		)
		INSERT INTO leases (spec_id, mission_id, user_id, agent, token, attempt, expires_at)
		SELECT id, mission_id, $2, $3, $4, attempts, clock_timestamp() + $5 FROM spec
		RETURNING attempt, expires_at`, specID, t.account.userID, agent, given.Token, lease).Scan(&given.Attempt, &given.ExpiresAt)
	if err != nil {
		return given, fmt.Errorf("granting a lease: %w", err)
	}
	t.emit("spec.claimed", missionID, specID, agent, map[string]any{"attempt": given.Attempt, "expires_at": given.ExpiresAt})
	return given, nil
}

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

func errLeaseLost() error {
	return problem(http.StatusConflict, "lease_lost", "This lease has ended: the spec was finished, released or taken over. Claim again.")
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

// heartbeat is POST /api/v1/specs/{id}/heartbeat.
func (s *Server) heartbeat(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		LeaseToken   string `json:"lease_token"`
		LeaseSeconds *int   `json:"lease_seconds"`
	}
	if err := decodeRequest(r, &in); err != nil {
		return err
	}
	var v violations
	v.leaseToken(in.LeaseToken)
	lease := s.leaseTime(&v, in.LeaseSeconds)
	if err := v.err(); err != nil {
		return err
	}
	at := callOf(r).target
	return s.writeOnce(w, r, func(ctx context.Context, t *tx) (reply, error) {
		if _, err := t.mission(ctx, at.mission, lockKeyShare, accessEditor); err != nil {
			return reply{}, err
		}
		kept := leaseView{Token: in.LeaseToken}
		err := t.QueryRow(ctx, `
			UPDATE leases SET expires_at = clock_timestamp() + $3 WHERE spec_id = $1 AND token = $2
			RETURNING attempt, expires_at`, at.spec, in.LeaseToken, lease).Scan(&kept.Attempt, &kept.ExpiresAt)
		if errors.Is(err, pgx.ErrNoRows) {
			return reply{}, errLeaseLost()
		}
		if err != nil {
			return reply{}, fmt.Errorf("prolonging a lease: %w", err)
		}
		return reply{status: http.StatusOK, body: kept}, nil
	})
}

func (v *violations) leaseToken(token string) {
	if token == "" {
		v.add("lease_token", "required", "must be the token that the claim gave")
	}
}

// progressSpec is POST /api/v1/specs/{id}/progress.
func (s *Server) progressSpec(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		LeaseToken string `json:"lease_token"`
		Check      []int  `json:"check"`
		Uncheck    []int  `json:"uncheck"`
		Message    string `json:"message"`
	}
	if err := decodeRequest(r, &in); err != nil {
		return err
	}
	var v violations
	v.leaseToken(in.LeaseToken)
	v.text("message", in.Message, 0, 2000)
	if len(in.Check)+len(in.Uncheck) > maxCriteriaSet {
		v.add("check", "too_many", "names more than %d criteria, with uncheck", maxCriteriaSet)
	}
	if err := v.err(); err != nil {
		return err
	}
	at := callOf(r).target
	return s.writeOnce(w, r, func(ctx context.Context, t *tx) (reply, error) {
		_, spec, agent, err := t.lockLease(ctx, at, lockKeyShare, in.LeaseToken)
		if err != nil {
			return reply{}, err
		}
		checked, total, err := t.check(ctx, spec.id, in.Check, in.Uncheck)
		if err != nil {
			return reply{}, err
		}
		data := map[string]any{"check": orEmpty(in.Check), "uncheck": orEmpty(in.Uncheck), "criteria_done": checked, "criteria_total": total}
		if in.Message != "" {
			data["message"] = in.Message
		}
		t.emit("spec.progressed", spec.missionID, spec.id, agent, data)
		return t.specReply(ctx, spec.id, http.StatusOK)
	})
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
	for _, d := range done {
		if d {
			checked++
		}
	}
	_, err = t.Exec(ctx, `UPDATE specs SET done = $2, criteria_done = $3, version = version + 1, updated_at = clock_timestamp() WHERE id = $1`,
		specID, done, checked)
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
	v, err := readSpec(ctx, t, t.account, spec.id)
	if err != nil {
		return err
	}
	open := slices.DeleteFunc(v.Criteria, func(c criterion) bool { return c.Done })
	if len(open) > 0 && c.Override == "" {
		return problem(http.StatusConflict, "criteria_unmet",
			"%d of its acceptance criteria aren't checked. Check them, or give the reason in override.", len(open)).with("criteria", open)
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

// failSpec is POST /api/v1/specs/{id}/fail.
func (s *Server) failSpec(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		LeaseToken string `json:"lease_token"`
		Reason     string `json:"reason"`
		Retry      *bool  `json:"retry"`
	}
	if err := decodeRequest(r, &in); err != nil {
		return err
	}
	var v violations
	v.leaseToken(in.LeaseToken)
	v.text("reason", in.Reason, 1, 2000)
	if err := v.err(); err != nil {
		return err
	}
	at := callOf(r).target
	return s.writeOnce(w, r, func(ctx context.Context, t *tx) (reply, error) {
		m, spec, agent, err := t.lockLease(ctx, at, lockKeyShare, in.LeaseToken)
		if err != nil {
			return reply{}, err
		}
		status := "planned"
		if spec.attempts >= s.config.MaxAttempts || in.Retry != nil && !*in.Retry {
			status = "blocked"
		}
		if err := t.move(ctx, spec, status, spec.attempts); err != nil {
			return reply{}, err
		}
		t.emit("spec.failed", m.ID, spec.id, agent, map[string]any{"reason": in.Reason, "attempt": spec.attempts, "status": status})
		if status == "blocked" {
			t.notifyBlocked(m, spec, in.Reason)
		}
		return t.specReply(ctx, spec.id, http.StatusOK)
	})
}

// notifyBlocked tells the mission's owner of a spec that failed for good.
func (t *tx) notifyBlocked(m missionLock, spec specLock, why string) {
	t.notify(m.OwnerID, m.ID, spec.id, fmt.Sprintf("The spec %s of the mission %q is blocked after %d attempts: %s", spec.key, m.Name, spec.attempts, why))
}

// releaseSpec is POST /api/v1/specs/{id}/release. The attempt is given back.
// The mission's owner and admins need no token.
func (s *Server) releaseSpec(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		LeaseToken string `json:"lease_token"`
	}
	if err := decodeRequest(r, &in); err != nil {
		return err
	}
	at := callOf(r).target
	return s.writeOnce(w, r, func(ctx context.Context, t *tx) (reply, error) {
		m, spec, err := t.lockSpec(ctx, at, lockKeyShare)
		if err != nil {
			return reply{}, err
		}
		if in.LeaseToken == "" && m.access < accessOwner {
			var v violations
			v.leaseToken("")
			return reply{}, v.err()
		}
		if err := t.release(ctx, spec, in.LeaseToken, ""); err != nil {
			return reply{}, err
		}
		return t.specReply(ctx, spec.id, http.StatusOK)
	})
}

// release gives a locked spec back: token is the lease's, or "" for whichever
// there is. reason may be "".
func (t *tx) release(ctx context.Context, spec specLock, token, reason string) error {
	var agent string
	err := t.QueryRow(ctx, `SELECT agent FROM leases WHERE spec_id = $1 AND ($2 = '' OR token = $2) FOR UPDATE`, spec.id, token).Scan(&agent)
	if errors.Is(err, pgx.ErrNoRows) {
		return errLeaseLost()
	}
	if err != nil {
		return fmt.Errorf("reading a lease: %w", err)
	}
	if err := t.move(ctx, spec, "planned", max(0, spec.attempts-1)); err != nil {
		return err
	}
	data := map[string]any{}
	if reason != "" {
		data["reason"] = reason
	}
	t.emit("spec.released", spec.missionID, spec.id, agent, data)
	return nil
}

// endLeases gives back every spec of a mission that somebody holds.
func (t *tx) endLeases(ctx context.Context, m missionLock, reason string) error {
	held, err := t.lockHeld(ctx, m.ID, `SELECT spec_id FROM leases WHERE mission_id = $1`, "FOR NO KEY UPDATE")
	if err != nil {
		return err
	}
	for _, spec := range held {
		if err := t.release(ctx, spec, "", reason); err != nil && !isLeaseLost(err) {
			return err
		}
	}
	return nil
}

func isLeaseLost(err error) bool {
	e, ok := errors.AsType[*apiError](err)
	return ok && e.code == "lease_lost"
}

// lockHeld locks, in the order of their ids, the specs of a mission that a
// query on leases finds.
func (t *tx) lockHeld(ctx context.Context, missionID, leases, lock string) ([]specLock, error) {
	rows, err := t.Query(ctx, `
		SELECT id, mission_id, key, title, status, version, attempts FROM specs
		WHERE id IN (`+leases+`) ORDER BY id `+lock, missionID)
	if err != nil {
		return nil, fmt.Errorf("locking held specs: %w", err)
	}
	held, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (spec specLock, err error) {
		err = row.Scan(&spec.id, &spec.missionID, &spec.key, &spec.title, &spec.status, &spec.version, &spec.attempts)
		return spec, err
	})
	if err != nil {
		return nil, fmt.Errorf("locking held specs: %w", err)
	}
	var ids []string
	for _, spec := range held {
		ids = append(ids, spec.id)
	}
	return held, t.tally(ctx, missionID, ids...)
}

// expiredSQL finds the leases of mission $1 whose time is over.
const expiredSQL = `SELECT spec_id FROM leases WHERE mission_id = $1 AND expires_at < clock_timestamp()`

// takeBackExpired ends the leases of a mission whose time is over. What
// somebody else has locked is left to them, or to the next sweep.
func (t *tx) takeBackExpired(ctx context.Context, missionID string, maxAttempts int) error {
	expired, err := t.lockHeld(ctx, missionID, expiredSQL, "FOR NO KEY UPDATE SKIP LOCKED")
	if err != nil || len(expired) == 0 {
		return err
	}
	for _, spec := range expired {
		if err := t.takeBack(ctx, spec, maxAttempts); err != nil {
			return err
		}
	}
	return nil
}

// takeBack ends the lease on a locked spec if its time is still over.
func (t *tx) takeBack(ctx context.Context, spec specLock, maxAttempts int) error {
	var agent string
	err := t.QueryRow(ctx, `DELETE FROM leases WHERE spec_id = $1 AND expires_at < clock_timestamp() RETURNING agent`, spec.id).Scan(&agent)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // a heartbeat came in time
	}
	if err != nil {
		return fmt.Errorf("taking a lease back: %w", err)
	}
	status := "planned"
	if spec.attempts >= maxAttempts {
		status = "blocked"
	}
	if err := t.move(ctx, spec, status, spec.attempts); err != nil {
		return err
	}
	t.emitAs(actor{Agent: &agent}, "spec.lease_expired", spec.missionID, spec.id, map[string]any{"attempt": spec.attempts, "status": status})
	if status != "blocked" {
		return nil
	}
	m, err := t.missionUnasked(ctx, spec.missionID)
	if err != nil {
		return err
	}
	t.notifyBlocked(m, spec, "its lease expired")
	return nil
}

// missionUnasked reads what a notification has to know of a mission.
func (t *tx) missionUnasked(ctx context.Context, id string) (missionLock, error) {
	m := missionLock{ID: id}
	err := t.QueryRow(ctx, `SELECT owner_id, name FROM missions WHERE id = $1`, id).Scan(&m.OwnerID, &m.Name)
	return m, notFoundOr(err, "reading a mission")
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
	if !slices.Contains(specStatuses, in.Status) {
		return errUnknownStatus()
	}
	var v violations
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
// gives it all its attempts again; an open one makes its mission active again.
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
	if status == "deferred" {
		return t.completeIfDone(ctx, m)
	}
	return t.reopen(ctx, m)
}
