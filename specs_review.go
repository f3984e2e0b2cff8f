package main

// Review by a person: what agents have finished waits for somebody who has signed
// in. An API key is an agent's, and none approves, by any way: none gives a verdict
// (mayReview in auth.go), and the functions here that refuse the ways around one are
// called where specs and missions change, whichever request does it.
// See docs/design.md, Review by a person.

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// The reviews that a mission or a spec asks for.
const (
	reviewNone  = "none"
	reviewHuman = "human"
)

// maxInReview bounds what a mission's max_in_review can be.
const maxInReview = 10_000

// review checks what a mission or a spec is to ask for, unless that is nil.
func (v *violations) review(of *string) {
	if of != nil && !slices.Contains([]string{reviewNone, reviewHuman}, *of) {
		v.add("review", "unknown_value", "must be %s or %s", reviewNone, reviewHuman)
	}
}

// asksHuman reports whether a person reviews a spec of the mission that asks for own
// itself; "" leaves it to the mission.
func (m missionLock) asksHuman(own string) bool { return cmp.Or(own, m.review) == reviewHuman }

func errReviewRequired(what string) *apiError {
	return problem(http.StatusForbidden, "review_required", "%s needs a person: log in, and use the access token.", what)
}

// mayMove refuses an API key's changes of a stored spec's status that need a person.
func (t *tx) mayMove(spec specLock, status string) error {
	switch {
	case !t.account.byKey():
	case spec.status == "proposed":
		return errForbidden("API keys can't decide on proposals: log in, and use the access token.")
	case spec.human && status == "completed":
		return errReviewRequired("Completing this spec")
	}
	return t.mayChange(spec)
}

// mayChange refuses an API key's change of a spec that a person is reviewing.
func (t *tx) mayChange(spec specLock) error {
	if t.account.byKey() && spec.human && spec.status == "in_review" {
		return errReviewRequired("Changing a spec that is in review")
	}
	return nil
}

// mayAsk keeps an API key from making a spec ask for less review than before; ""
// leaves it to the mission.
func (t *tx) mayAsk(before, after string) error {
	if t.account.byKey() && before != after && (after == reviewNone || before == reviewHuman) {
		return errReviewRequired("Taking a spec's review away")
	}
	return nil
}

// approver is who approves a spec that is completed by being created or imported. It
// is nil where nobody has to, and the error is for an API key where a person has to.
func (t *tx) approver(m missionLock, own, status string) (*string, error) {
	switch {
	case status != "completed" || !m.asksHuman(own):
		return nil, nil
	case t.account.byKey():
		return nil, errReviewRequired("Completing this spec")
	}
	return &t.account.userID, nil
}

// mayDrop keeps an API key from removing dependencies of a spec, all but those in keep,
// on what a person is reviewing: what depends on that would begin before it is approved. A
// spec that is deleted loses all of its own, and can be made again without them.
func (t *tx) mayDrop(ctx context.Context, spec specLock, keep []string) error {
	if !t.account.byKey() {
		return nil
	}
	var reviewed bool
	err := t.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM dependencies d JOIN spec_states h ON h.spec_id = d.depends_on
		JOIN missions m ON m.id = h.mission_id
		WHERE d.spec_id = $1 AND d.depends_on <> ALL($2) AND `+inHumanReviewSQL+`)`,
		spec.id, orEmpty(keep)).Scan(&reviewed)
	if err != nil {
		return fmt.Errorf("looking for what is in review: %w", err)
	}
	if reviewed {
		return errReviewRequired("Removing a dependency on a spec that is in review")
	}
	return nil
}

// mayDelete keeps an API key from deleting a mission together with specs that it may
// not delete one by one.
func (t *tx) mayDelete(ctx context.Context, m missionLock) error {
	if !t.account.byKey() {
		return nil
	}
	var guarded bool
	err := t.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM spec_states WHERE mission_id = $1 AND review = 'human')
		       OR $2 AND EXISTS (SELECT FROM spec_states WHERE mission_id = $1 AND status = 'in_review' AND review IS NULL)`,
		m.ID, m.review == reviewHuman).Scan(&guarded)
	if err != nil {
		return fmt.Errorf("looking for reviews: %w", err)
	}
	if guarded {
		return errReviewRequired("Deleting a mission with specs that a person reviews")
	}
	return nil
}

// inHumanReviewSQL holds for the states h of specs of a mission m that a person
// reviews right now.
const inHumanReviewSQL = `h.status = 'in_review' AND coalesce(h.review, m.review) = 'human'`

// mayShare keeps an API key from changing the members or the owner of a mission that
// asks for a person's review, itself or by one of its specs.
func (t *tx) mayShare(ctx context.Context, m missionLock) error {
	if !t.account.byKey() {
		return nil
	}
	human := m.review == reviewHuman
	if !human {
		err := t.QueryRow(ctx, `SELECT EXISTS (SELECT FROM spec_states WHERE mission_id = $1 AND review = 'human')`,
			m.ID).Scan(&human)
		if err != nil {
			return fmt.Errorf("looking for reviews: %w", err)
		}
	}
	if human {
		return errReviewRequired("Changing the members or the owner of a mission with reviews")
	}
	return nil
}

// reviewFullSQL holds for missions m that hand out nothing: max_in_review specs are in
// review, or are held and will be.
const reviewFullSQL = `
	(m.max_in_review > 0 AND m.max_in_review <= coalesce((SELECT in_review FROM heads WHERE stream = m.id), 0) + (
		SELECT count(*) FROM (SELECT FROM leases l JOIN spec_states p ON p.spec_id = l.spec_id
			WHERE l.mission_id = m.id AND coalesce(p.review, m.review) = 'human' LIMIT m.max_in_review) AS held))`

// reviewFullReason says of what is ready in such a mission why it isn't handed out.
var reviewFullReason = notReadyReason{Code: "review_full", Message: "As many specs of the mission wait for a " +
	"person's review, or will, as it may have: nothing is handed out until some are reviewed."}

// inFullSQL says whether the mission $1 hands out nothing for that reason.
const inFullSQL = `EXISTS (SELECT FROM missions m WHERE m.id = $1 AND ` + reviewFullSQL + `)`

// unlessFull is a condition for what is handed out in a mission whose id is $1. Most
// have no bound, and pay nothing for it.
func (m missionLock) unlessFull() string {
	if m.maxInReview == 0 {
		return ""
	}
	return ` AND NOT ` + inFullSQL
}

// noteFull finds out whether the mission hands out nothing for that reason.
func (m *missionView) noteFull(ctx context.Context, q querier) error {
	if m.MaxInReview == 0 {
		return nil
	}
	if err := q.QueryRow(ctx, `SELECT `+inFullSQL, m.ID).Scan(&m.reviewFull); err != nil {
		return fmt.Errorf("looking at what is in review: %w", err)
	}
	return nil
}

// maxDeciders is how many editors are told that something waits for one of them.
const maxDeciders = 20

// notifyPeople tells the mission's owner, and at most so many of its editors, what
// a spec does: the rest of a sentence about it.
func (t *tx) notifyPeople(ctx context.Context, spec specLock, editors int, what string) error {
	rows, err := t.Query(ctx, `
		SELECT m.name, s.key, d.user_id::text FROM specs s JOIN missions m ON m.id = s.mission_id CROSS JOIN LATERAL (
			SELECT m.owner_id AS user_id
			UNION ALL
			(SELECT b.user_id FROM members b JOIN users u ON u.id = b.user_id
			 WHERE b.mission_id = m.id AND b.role = 'editor' AND u.role <> 'viewer' AND NOT u.disabled
			 ORDER BY b.email LIMIT $2)) d
		WHERE s.id = $1`, spec.id, editors)
	if err != nil {
		return fmt.Errorf("reading whom to notify: %w", err)
	}
	var mission, key, user string
	_, err = pgx.ForEachRow(rows, []any{&mission, &key, &user}, func() error {
		t.notify(user, spec.missionID, spec.id, fmt.Sprintf("The spec %s of the mission %q %s", key, mission, what))
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading whom to notify: %w", err)
	}
	return nil
}

// verdict is what a person says of a spec in review.
type verdict struct {
	Verdict string `json:"verdict"`
	Notes   string `json:"notes"`
}

func (in *verdict) validate(v *violations, _ *Config) {
	v.text("notes", in.Notes, 0, 2000)
	switch in.Verdict {
	case "approve":
	case "reject":
		if strings.TrimSpace(in.Notes) == "" {
			v.add("notes", "required", "must say what is missing, for the next attempt")
		}
	default:
		v.add("verdict", "unknown_value", "must be approve or reject")
	}
}

// reviewSpec is POST /api/v1/specs/{id}/review. Of several verdicts the first counts.
func (s *Server) reviewSpec(ctx context.Context, t *tx, c *call, in *verdict) (*specView, error) {
	m, spec, err := t.lockSpec(ctx, c.target, lockNoKeyUpdate, withDependents)
	if err = cmp.Or(err, m.open()); err != nil {
		return nil, err
	}
	if spec.status != "in_review" {
		return nil, problem(http.StatusConflict, "not_in_review", "The spec is %s: there is nothing to review.", spec.status).
			with("current_status", spec.status)
	}
	if err := c.checkVersion(spec.version); err != nil {
		return nil, err
	}
	spec.human = true // whatever it asks for
	t.judge(spec.id, *in)
	if in.Verdict == "approve" {
		err = t.approve(&m, spec, in.Notes)
	} else {
		err = t.reject(&m, spec, in.Notes)
	}
	if err != nil {
		return nil, err
	}
	return t.askView(spec.id), nil
}

// judge notes a verdict with the attempt that it is about, if there is one.
func (t *tx) judge(specID string, in verdict) {
	t.queue(`
		UPDATE attempts SET verdict = $2, verdict_notes = $3, verdict_by = $4, verdict_at = clock_timestamp()
		WHERE spec_id = $1 AND number = (SELECT max(number) FROM attempts WHERE spec_id = $1)
		      AND outcome = 'submitted' AND verdict IS NULL`, specID, in.Verdict, in.Notes, t.account.userID)
}

func (t *tx) approve(m *missionLock, spec specLock, notes string) error {
	if err := t.move(spec, "completed", spec.attempts, ending{}); err != nil {
		return err
	}
	data := map[string]any{}
	if notes != "" {
		data["notes"] = notes
	}
	t.completed(m, spec, "", data)
	return nil
}

// reject makes a spec planned again, before others of its priority. The attempt is
// given back.
func (t *tx) reject(m *missionLock, spec specLock, notes string) error {
	if err := t.move(spec, "planned", max(0, spec.attempts-1), ending{}); err != nil {
		return err
	}
	t.queue(`UPDATE spec_states SET ahead = true WHERE spec_id = $1`, spec.id)
	t.emit("spec.rejected", spec.missionID, spec.id, "", map[string]any{"notes": notes})
	t.reopen(m)
	return nil
}
