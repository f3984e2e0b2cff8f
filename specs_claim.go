package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	leasePrefix = "lt_"
	minLease    = 10 * time.Second
	maxWait     = 50 // seconds that a claim waits at most
	// claimRetry is how often a waiting claim looks by itself.
	claimRetry = 5 * time.Second
)

// leaseView is a lease as its holder sees it. The token is its proof.
type leaseView struct {
	Token     string    `json:"token"`
	Attempt   int       `json:"attempt"`
	ExpiresAt time.Time `json:"expires_at"`

	number int // of the attempt, counted for ever; only a claim sets it
}

// claimRequest is what an agent asks for.
type claimRequest struct {
	Agent        string   `json:"agent" doc:"your name, the same in every call"`
	LeaseSeconds *int     `json:"lease_seconds,omitempty" doc:"how long you may be silent"`
	WaitSeconds  int      `json:"wait_seconds,omitempty" doc:"wait so long if nothing is ready, at most 50"`
	Tags         []string `json:"tags,omitempty" doc:"only specs with all of these"`
	Phase        string   `json:"phase,omitempty" doc:"only specs of this phase"`

	unlessHeld bool // the error is a heldLeases if the agent has leases that it may not know of
}

func (in *claimRequest) validate(v *violations, config *Config) {
	v.line("agent", in.Agent, 1, 100)
	v.line("phase", in.Phase, 0, 200)
	v.tags("tags", in.Tags)
	if in.WaitSeconds < 0 || in.WaitSeconds > maxWait {
		v.add("wait_seconds", "out_of_range", "must be between 0 and %d", maxWait)
	}
	v.leaseSeconds(in.LeaseSeconds, config)
}

// leaseSeconds checks how long a lease is asked for.
func (v *violations) leaseSeconds(seconds *int, config *Config) {
	least, most := int(minLease/time.Second), int(config.LeaseMax/time.Second)
	if seconds != nil && (*seconds < least || *seconds > most) {
		v.add("lease_seconds", "out_of_range", "must be between %d and %d", least, most)
	}
}

// leaseTime is how long a lease is asked for: LEASE_DEFAULT unless given.
func (s *Server) leaseTime(seconds *int) time.Duration {
	if seconds == nil {
		return s.config.LeaseDefault
	}
	return time.Duration(*seconds) * time.Second
}

// errNothingReady rolls a claim back that found nothing to take.
var errNothingReady = errors.New("nothing is ready")

// claimSpec is POST /api/v1/missions/{id}/claim.
func (s *Server) claimSpec(ctx context.Context, c *call, in *claimRequest) (*claimed, error) {
	given, err := s.claimPatiently(ctx, c, in)
	if errors.Is(err, errNothingReady) {
		return nil, nil
	}
	return given, err
}

// claimPatiently gives out the ready spec of the highest priority, then the
// lowest number, and waits for one if asked to: outside any transaction, woken
// by the mission's events. Its error is errNothingReady when the time is over.
func (s *Server) claimPatiently(ctx context.Context, c *call, in *claimRequest) (*claimed, error) {
	return s.tryPatiently(ctx, c, in, func() (*claimed, error) {
		return transact(ctx, s, c, func(within context.Context, t *tx) (*claimed, error) {
			given, err := s.claim(within, t, c.target.mission, in)
			if err != nil {
				return nil, err
			}
			select {
			case <-c.cancelled: // nobody would work on it
				return nil, errNothingReady
			default:
				return given, ctx.Err() // a client that has gone wouldn't know of its lease
			}
		})
	})
}

// tryPatiently tries until a claim succeeds or fails, or its wait is over or
// cancelled, which is errNothingReady.
func (s *Server) tryPatiently(ctx context.Context, c *call, in *claimRequest,
	try func() (*claimed, error)) (given *claimed, err error) {
	waitErr := s.waitFor(ctx, c, c.target.mission, in.WaitSeconds, func(first bool) (waits bool) {
		if first {
			given, err = try()
		} else {
			given, err = s.tryIfReady(ctx, c.target.mission, in, try)
		}
		return errors.Is(err, errNothingReady)
	})
	if waitErr != nil {
		return nil, waitErr
	}
	return given, err
}

// waitFor calls try, and again whenever the mission's events may have changed what
// it finds, for as long as it reports that it waits and the time isn't over. Of
// many that wait for a mission, one at a time tries again. The error is that of ctx.
func (s *Server) waitFor(ctx context.Context, c *call, missionID string, seconds int,
	try func(first bool) (waits bool)) error {
	grown, turns, stop := s.hub.watch(missionID)
	defer stop()
	patience := time.NewTimer(time.Duration(seconds) * time.Second)
	defer patience.Stop()
	inTurn := func() bool {
		defer func() { turns <- struct{}{} }()
		return try(false)
	}
	for waits := try(true); waits; waits = inTurn() {
		retry := time.After(claimRetry) // a claim that was rolled back makes no event
		more, err := s.await(ctx, c, grown, retry, patience.C)
		if more {
			more, err = s.await(ctx, c, turns, nil, patience.C)
		}
		if !more {
			return err
		}
	}
	return nil
}

// await waits for a signal, or until it is time to retry without one. It
// reports false once the call has waited as long as it may, or is cancelled.
func (s *Server) await(ctx context.Context, c *call, signal <-chan struct{},
	retry, patience <-chan time.Time) (more bool, err error) {
	select {
	case <-signal:
	case <-retry:
	case <-patience:
		return false, nil
	case <-c.cancelled:
		return false, nil
	case <-s.stopping:
		return false, nil
	case <-ctx.Done():
		return false, fmt.Errorf("waiting for work: %w", context.Cause(ctx))
	}
	return true, nil
}

// tryIfReady tries to claim if that may give something else than errNothingReady.
func (s *Server) tryIfReady(ctx context.Context, missionID string, in *claimRequest,
	try func() (*claimed, error)) (*claimed, error) {
	var q statement
	var may bool
	sql := `SELECT EXISTS (SELECT ` + q.claimable(missionID, phaseNames(in.Phase), in.Tags) + `)
		AND NOT ` + inFullSQL + `
		OR NOT EXISTS (SELECT FROM missions WHERE id = $1 AND status = 'active')`
	if err := s.db.QueryRow(ctx, sql, q.args...).Scan(&may); err != nil {
		return nil, fmt.Errorf("looking for a ready spec: %w", err)
	}
	if !may {
		return nil, errNothingReady
	}
	return try()
}

// claimable finds the ready specs of a mission, its parameter $1, that a claim
// may take: those of the phases, unless there are none, with all of the tags.
// It goes by the tags' own index where there are some, and by no other: that a
// mission has many specs PostgreSQL doesn't expect.
func (q *statement) claimable(missionID string, phases, tags []string) string {
	mission := q.bind(missionID)
	sql := `FROM spec_states h WHERE ` + unblockedSQL
	if len(tags) > 0 {
		sql += ` AND h.mission_id IS NOT DISTINCT FROM ` + mission +
			` AND array_prepend(h.mission_id::text, h.tags) @> ` + q.bind(append([]string{missionID}, tags...)) + `::text[]`
	} else {
		sql += ` AND h.mission_id = ` + mission
	}
	switch len(phases) {
	case 0:
	case 1:
		sql += ` AND h.phase = ` + q.bind(phases[0])
	default:
		sql += ` AND h.phase = ANY(` + q.bind(phases) + `)`
	}
	return sql
}

// handedOut is the order in which specs are handed out: that of the indexes
// spec_states_ready and, of one phase, spec_states_ready_phase.
const handedOut = ` ORDER BY h.priority DESC, h.ahead DESC, h.place, h.spec_id`

// takeFirst locks the first that nobody is taking right now.
const takeFirst = handedOut + ` LIMIT 1 FOR NO KEY UPDATE OF h SKIP LOCKED`

// next locks the first of what claimable finds, as specs are handed out.
func (q *statement) next(missionID string, phases, tags []string) string {
	claimable := q.claimable(missionID, phases, tags)
	if len(tags) == 0 {
		return `SELECT h.spec_id ` + claimable + takeFirst
	}
	return fmt.Sprintf(`
		WITH tagged AS MATERIALIZED (SELECT h.spec_id %s%s LIMIT %d)
		SELECT h.spec_id FROM tagged JOIN spec_states h USING (spec_id) WHERE %s%s`,
		claimable, handedOut, walkedClaims, unblockedSQL, takeFirst)
}

// walkedClaims is how many ready specs a claim with tags looks at in the order
// in which they are handed out, before it goes by the index of tags: many of
// what has a tag that is common need not be sorted then.
const walkedClaims = 1000

// nextOfFirst is next for a claim with tags, among the first walkedClaims. Those
// that have the tags are few before they are looked up to be locked, so that
// PostgreSQL doesn't walk all that is ready for the order of these few.
func (q *statement) nextOfFirst(missionID string, phases, tags []string) string {
	return fmt.Sprintf(`
		WITH first AS MATERIALIZED (SELECT h.spec_id, h.tags %s%s LIMIT %d),
		tagged AS MATERIALIZED (SELECT spec_id FROM first WHERE tags @> %s LIMIT 100)
		SELECT h.spec_id FROM tagged JOIN spec_states h USING (spec_id) WHERE %s%s`,
		q.claimable(missionID, phases, nil), handedOut, walkedClaims, q.bind(tags), unblockedSQL, takeFirst)
}

// claimed is a spec with the lease that its holder was given.
type claimed struct {
	Spec    *specView `json:"spec"`
	Lease   leaseView `json:"lease"`
	History *history  `json:"history"` // before this attempt
}

// claim takes the next ready spec, after taking back what has expired.
func (s *Server) claim(ctx context.Context, t *tx, missionID string, in *claimRequest) (*claimed, error) {
	m := t.askMission(target{mission: missionID}, lockNoKeyUpdate)
	var expired bool
	t.ask(`SELECT EXISTS (`+expiredSQL+`)`, []any{missionID}, &expired)
	held := new(heldLeases)
	if in.unlessHeld {
		held = t.askUnreported(missionID, in.Agent)
	}
	if err := t.send(ctx); err != nil {
		return nil, fmt.Errorf("locking a mission: %w", err)
	}
	if err := m.check(accessEditor); err != nil {
		return nil, err
	}
	if m.Status != "active" {
		return nil, problem(http.StatusConflict, "mission_not_active",
			"The mission is %s: only an active one hands out work.", m.Status).with("current_status", m.Status)
	}
	if expired {
		if err := t.takeBackExpired(ctx, missionID, s.config.MaxAttempts); err != nil {
			return nil, err
		}
	}
	if len(*held) > 0 {
		return nil, t.keepingEvents(*held)
	}
	specID, lease, err := t.grant(ctx, m, in, s.leaseTime(in.LeaseSeconds))
	if errors.Is(err, errNothingReady) {
		err = t.keepingEvents(err)
	}
	if err != nil {
		return nil, err
	}
	return &claimed{t.askView(specID), lease, t.askHistory(specID, lease.number)}, nil
}

// keepingEvents is why a claim gives nothing, so that what it has taken back stays
// so.
func (t *tx) keepingEvents(err error) error {
	if len(t.events) == 0 {
		return err
	}
	return andCommit(err)
}

// grant makes an agent the holder of the next ready spec.
func (t *tx) grant(ctx context.Context, m *missionLock, in *claimRequest,
	lasts time.Duration) (specID string, lease leaseView, err error) {
	tries := [][]string{nil}
	if in.Phase != "" {
		tries = slices.Collect(slices.Chunk(phaseNames(in.Phase), 1)) // each by its own stretch of the index
	}
	for _, phases := range tries {
		if len(in.Tags) > 0 {
			var q statement
			next := q.nextOfFirst(m.ID, phases, in.Tags)
			specID, lease, err = t.grantFound(ctx, m, in.Agent, lasts, next, q)
			if !errors.Is(err, errNothingReady) {
				return specID, lease, err
			}
		}
		var q statement
		next := q.next(m.ID, phases, in.Tags)
		specID, lease, err = t.grantFound(ctx, m, in.Agent, lasts, next, q)
		if !errors.Is(err, errNothingReady) {
			return specID, lease, err
		}
	}
	return "", leaseView{}, errNothingReady
}

// grantFound makes an agent the holder of the spec that next locks, whose
// arguments q has, and opens an attempt, unless the mission has as much in review
// as it may.
func (t *tx) grantFound(ctx context.Context, m *missionLock, agent string, lasts time.Duration, next string,
	q statement) (specID string, lease leaseView, err error) {
	lease.Token = newSecret(leasePrefix)
	sql := `
		WITH next AS MATERIALIZED (` + next + `), spec AS (
			UPDATE spec_states s SET status = 'in_progress', attempts = attempts + 1, version = version + 1,
			       updated_at = clock_timestamp()
			FROM next WHERE s.spec_id = next.spec_id` + m.unlessFull() + ` RETURNING s.spec_id, s.attempts
		), newest AS (
			SELECT spec.spec_id, spec.attempts, coalesce(a.number, 0) AS number,
			       a.number IS NOT NULL AND a.ended_at IS NULL AS open
			FROM spec LEFT JOIN LATERAL (
				SELECT number, ended_at FROM attempts WHERE spec_id = spec.spec_id ORDER BY number DESC LIMIT 1) a ON true
		), lease AS (
			INSERT INTO leases (spec_id, mission_id, user_id, agent, token, attempt, number, expires_at, reported_at)
			SELECT spec_id, $1, ` + q.bind(t.account.userID) + `, ` + q.bind(agent) + `, ` + q.bind(lease.Token) + `,
			       attempts, number + 1, clock_timestamp() + ` + q.bind(lasts) + `::interval, NULL
			FROM newest RETURNING spec_id, user_id, agent, attempt, number, claimed_at, expires_at
		), opened AS (
			INSERT INTO attempts (spec_id, number, agent, user_id, started_at)
			SELECT spec_id, number, agent, user_id, claimed_at FROM lease
		)
		SELECT spec_id, attempt, lease.number, newest.open, expires_at FROM lease JOIN newest USING (spec_id)`
	var leftOpen bool
	err = t.QueryRow(ctx, sql, q.args...).Scan(&specID, &lease.Attempt, &lease.number, &leftOpen, &lease.ExpiresAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", lease, errNothingReady
	}
	if err != nil {
		return "", lease, fmt.Errorf("granting a lease: %w", err)
	}
	if leftOpen { // by an older server, when it ended the lease
		t.queue(`UPDATE attempts SET ended_at = clock_timestamp(), outcome = 'expired'
			WHERE spec_id = $1 AND number = $2 AND ended_at IS NULL`, specID, lease.number-1)
	}
	t.claimed++
	t.count(m.ID, tallyOf("planned", 0, nil), tallyOf("in_progress", 0, nil))
	t.emit("spec.claimed", m.ID, specID, agent,
		map[string]any{"attempt": lease.Attempt, "expires_at": lease.ExpiresAt})
	return specID, lease, nil
}

// leaseExtension is a heartbeat: a lease, and how long it is to last from now on.
type leaseExtension struct {
	LeaseToken   string `json:"lease_token"`
	LeaseSeconds *int   `json:"lease_seconds"`
}

func (in *leaseExtension) validate(v *violations, config *Config) {
	v.leaseToken(in.LeaseToken)
	v.leaseSeconds(in.LeaseSeconds, config)
}

// heartbeat is POST /api/v1/specs/{id}/heartbeat.
func (s *Server) heartbeat(ctx context.Context, t *tx, c *call, in *leaseExtension) (*leaseView, error) {
	if _, err := t.mission(ctx, c.target, lockKeyShare, accessEditor); err != nil {
		return nil, err
	}
	kept, err := t.prolong(ctx, c.target.spec, in.LeaseToken, s.leaseTime(in.LeaseSeconds))
	return &kept, err
}

// prolong makes a lease last from now on for so long.
func (t *tx) prolong(ctx context.Context, specID, token string, lease time.Duration) (leaseView, error) {
	kept := leaseView{Token: token}
	err := t.QueryRow(ctx, `
		UPDATE leases SET expires_at = clock_timestamp() + $3, reported_at = coalesce(reported_at, clock_timestamp())
		WHERE spec_id = $1 AND token = $2
		RETURNING attempt, expires_at`, specID, token, lease).Scan(&kept.Attempt, &kept.ExpiresAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return kept, errLeaseLost()
	}
	if err != nil {
		return kept, fmt.Errorf("prolonging a lease: %w", err)
	}
	return kept, nil
}

func (v *violations) leaseToken(token string) {
	if token == "" {
		v.add("lease_token", "required", "must be the token that the claim gave")
	}
}

// leaseRelease gives a spec back. The mission's owner and admins need no token.
type leaseRelease struct {
	LeaseToken string `json:"lease_token"`
}

func (*leaseRelease) validate(*violations, *Config) {}

// releaseSpec is POST /api/v1/specs/{id}/release. The attempt is given back.
func (s *Server) releaseSpec(ctx context.Context, t *tx, c *call, in *leaseRelease) (*specView, error) {
	m, spec, err := t.lockSpec(ctx, c.target, lockKeyShare, alone)
	if err != nil {
		return nil, err
	}
	if in.LeaseToken == "" && m.access < accessOwner {
		var v violations
		v.leaseToken("")
		return nil, v.err()
	}
	if err := t.release(ctx, spec, in.LeaseToken, ""); err != nil {
		return nil, err
	}
	return t.askView(spec.id), nil
}

// release gives a locked spec back: token is the lease's, or "" for whichever
// there is. reason may be "".
func (t *tx) release(ctx context.Context, spec specLock, token, reason string) error {
	var agent string
	err := t.QueryRow(ctx, `SELECT agent FROM leases WHERE spec_id = $1 AND ($2 = '' OR token = $2) FOR UPDATE`,
		spec.id, token).Scan(&agent)
	if errors.Is(err, pgx.ErrNoRows) {
		return errLeaseLost()
	}
	if err != nil {
		return fmt.Errorf("reading a lease: %w", err)
	}
	t.adoptLease(spec.id)
	by, how := agent, ending{outcome: attemptReleased, notes: reason}
	if token == "" {
		by, how.outcome = "", attemptTaken
	}
	if err := t.move(spec, "planned", max(0, spec.attempts-1), how); err != nil {
		return err
	}
	data := map[string]any{"agent": agent}
	if reason != "" {
		data["reason"] = reason
	}
	t.emit("spec.released", spec.missionID, spec.id, by, data)
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

// lockHeld locks, in the order of their ids, the specs whose ids a query finds for
// a mission, its parameter $1.
func (t *tx) lockHeld(ctx context.Context, missionID, ids, lock string) ([]specLock, error) {
	rows, err := t.Query(ctx, `SELECT `+lockColumns+` FROM spec_states h
		WHERE h.spec_id IN (`+ids+`) ORDER BY h.spec_id `+lock, missionID)
	if err != nil {
		return nil, fmt.Errorf("locking held specs: %w", err)
	}
	held, err := pgx.CollectRows(rows, scanLock)
	if err != nil {
		return nil, fmt.Errorf("locking held specs: %w", err)
	}
	return held, nil
}
