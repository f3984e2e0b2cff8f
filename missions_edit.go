package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// newMission is a mission to be made.
type newMission struct {
	Name        string          `json:"name"`
	Description string          `json:"description"`
	Tags        []string        `json:"tags"`
	Metadata    json.RawMessage `json:"metadata"`
	Review      *string         `json:"review"`
	MaxInReview *int            `json:"max_in_review"`
	Triage      *bool           `json:"triage"`
}

func (in *newMission) validate(v *violations, _ *Config) {
	v.mission(in.fields(), missionFields{})
	in.Tags = orEmpty(in.Tags)
	if in.Metadata == nil || string(in.Metadata) == "null" {
		in.Metadata = json.RawMessage("{}")
	}
}

func (in *newMission) fields() missionFields {
	f := missionFields{Name: in.Name, Description: in.Description, Tags: in.Tags, Metadata: in.Metadata,
		Review: reviewNone, Triage: true}
	if in.Review != nil {
		f.Review = *in.Review
	}
	if in.MaxInReview != nil {
		f.MaxInReview = *in.MaxInReview
	}
	if in.Triage != nil {
		f.Triage = *in.Triage
	}
	return f
}

// createMission is POST /api/v1/missions.
func (s *Server) createMission(_ context.Context, t *tx, _ *call, in *newMission) (*missionView, error) {
	f := in.fields()
	m := &missionView{
		ID: newID(), Name: f.Name, Description: f.Description, Status: "draft", Tags: f.Tags, Metadata: f.Metadata,
		Review: f.Review, MaxInReview: f.MaxInReview, Triage: f.Triage,
		OwnerID: t.account.userID, MyRole: accessOwner.String(), Version: 1,
		Stats: missionStats{byStatus: make([]int, len(specStatuses))},
	}
	t.ask(`
		INSERT INTO missions (id, owner_id, name, description, tags, metadata, review, max_in_review, triage)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING created_at, updated_at`,
		[]any{m.ID, m.OwnerID, m.Name, m.Description, m.Tags, m.Metadata, m.Review, m.MaxInReview, m.Triage},
		&m.CreatedAt, &m.UpdatedAt)
	t.emit("mission.created", m.ID, "", "", map[string]any{"name": m.Name})
	return m, nil
}

// missionFields are what may be written of a mission.
type missionFields struct {
	Name        string
	Description string
	Tags        []string
	Metadata    json.RawMessage
	Review      string
	MaxInReview int
	Triage      bool
	OwnerID     string
}

// mission checks fields that are to replace the stored ones. Metadata that stays
// is left alone: PostgreSQL writes it longer than it came.
func (v *violations) mission(f, stored missionFields) {
	v.line("name", f.Name, 1, 200)
	v.text("description", f.Description, 0, 2000)
	v.tags("tags", f.Tags)
	if !sameJSON(f.Metadata, stored.Metadata) {
		v.object("metadata", f.Metadata)
	}
	v.review(&f.Review)
	if f.MaxInReview < 0 || f.MaxInReview > maxInReview {
		v.add("max_in_review", "out_of_range", "must be between 0, which is no bound, and %d", maxInReview)
	}
}

// tags checks a list of at most 32 different tags of 1 to 64 characters.
func (v *violations) tags(field string, tags []string) {
	if len(tags) > 32 {
		v.add(field, "too_many", "must have at most 32 entries")
		return
	}
	for i, tag := range tags {
		v.line(fmt.Sprintf("%s[%d]", field, i), tag, 1, 64)
		if slices.Contains(tags[:i], tag) {
			v.add(fmt.Sprintf("%s[%d]", field, i), "duplicate", "is a duplicate")
		}
	}
}

// missionPatch is a merge patch (RFC 7396) of a mission. What it makes of the
// mission is checked once that is read.
type missionPatch struct {
	Name        optional[string]         `json:"name"`
	Description optional[string]         `json:"description"`
	Tags        optional[[]string]       `json:"tags"`
	Metadata    optional[map[string]any] `json:"metadata"`
	Review      optional[string]         `json:"review"`
	MaxInReview optional[int]            `json:"max_in_review"`
	Triage      optional[bool]           `json:"triage"`
	OwnerID     optional[string]         `json:"owner_id"`
}

func (*missionPatch) validate(*violations, *Config) {}

// updateMission is PATCH /api/v1/missions/{id}.
func (s *Server) updateMission(ctx context.Context, t *tx, c *call, in *missionPatch) (*missionView, error) {
	m, err := t.mission(ctx, c.target, lockNoKeyUpdate, accessEditor)
	if err != nil {
		return nil, err
	}
	now, err := readMission(ctx, t, t.account, m.ID)
	if err != nil {
		return nil, err
	}
	before := missionFields{now.Name, now.Description, now.Tags, now.Metadata, now.Review, now.MaxInReview, now.Triage,
		now.OwnerID}
	after, err := in.applied(before)
	if err != nil {
		return nil, err
	}
	if err := c.checkVersion(m.Version); err != nil {
		return nil, err
	}
	if err := t.storeMission(ctx, m, before, after); err != nil {
		return nil, err
	}
	return t.askMissionView(m.ID)
}

// applied is what the patch makes of a mission, or why it can't be.
func (in *missionPatch) applied(before missionFields) (missionFields, error) {
	after := before
	in.Name.apply(&after.Name, "")
	in.Description.apply(&after.Description, "")
	in.Tags.apply(&after.Tags, []string{})
	in.Review.apply(&after.Review, reviewNone)
	in.MaxInReview.apply(&after.MaxInReview, 0)
	in.Triage.apply(&after.Triage, true)
	in.OwnerID.apply(&after.OwnerID, "")
	after.OwnerID = strings.ToLower(after.OwnerID)
	if err := after.mergeMetadata(in.Metadata); err != nil {
		return after, err
	}
	var v violations
	v.mission(after, before)
	return after, v.err()
}

// mergeMetadata applies a merge patch to the metadata; null empties it.
func (f *missionFields) mergeMetadata(patch optional[map[string]any]) error {
	if !patch.Set {
		return nil
	}
	merged := map[string]any{}
	if !patch.Null {
		if err := unmarshal(f.Metadata, &merged); err != nil {
			return fmt.Errorf("reading stored metadata: %w", err)
		}
	}
	var err error
	f.Metadata, err = encode(mergePatch(merged, patch.Value))
	return err
}

// storeMission writes what differs, if anything does, with its event.
func (t *tx) storeMission(ctx context.Context, m missionLock, before, after missionFields) error {
	var changed []string
	for _, field := range []struct {
		name string
		same bool
	}{
		{"name", before.Name == after.Name},
		{"description", before.Description == after.Description},
		{"tags", slices.Equal(before.Tags, after.Tags)},
		{"metadata", sameJSON(before.Metadata, after.Metadata)},
		{"review", before.Review == after.Review},
		{"max_in_review", before.MaxInReview == after.MaxInReview},
		{"triage", before.Triage == after.Triage},
		{"owner_id", before.OwnerID == after.OwnerID},
	} {
		if !field.same {
			changed = append(changed, field.name)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	for _, field := range []string{"review", "max_in_review", "triage"} {
		if slices.Contains(changed, field) && t.account.byKey() {
			return errForbidden("API keys can't change " + field + ": log in, and use the access token.")
		}
	}
	if before.OwnerID != after.OwnerID {
		if err := t.handOver(ctx, m, after.OwnerID); err != nil {
			return err
		}
	}
	t.queue(`
		UPDATE missions SET name = $2, description = $3, tags = $4, metadata = $5, owner_id = $6, review = $7,
		       max_in_review = $8, triage = $9, version = version + 1, updated_at = clock_timestamp() WHERE id = $1`,
		m.ID, after.Name, after.Description, after.Tags, after.Metadata, after.OwnerID, after.Review, after.MaxInReview,
		after.Triage)
	t.emit("mission.updated", m.ID, "", "", map[string]any{"changed": changed, "version": m.Version + 1})
	return nil
}

// sameJSON compares two JSON values by what they mean.
func sameJSON(a, b json.RawMessage) bool {
	var x, y any
	return unmarshal(a, &x) == nil && unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// handOver prepares the mission for another owner. Who had it stays an editor.
func (t *tx) handOver(ctx context.Context, m missionLock, to string) error {
	if m.access < accessOwner {
		return errForbidden("Only the owner can transfer a mission.")
	}
	if err := t.mayShare(ctx, m); err != nil {
		return err
	}
	var able bool
	err := t.QueryRow(ctx, `SELECT role <> 'viewer' AND NOT disabled FROM users WHERE id = $1 FOR SHARE`,
		validOrNil(to)).Scan(&able)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && !able {
		return invalidField("owner_id", "unknown_account", "must be the id of an account that may own missions")
	}
	if err != nil {
		return fmt.Errorf("looking for the new owner: %w", err)
	}
	t.queue(`DELETE FROM members WHERE mission_id = $1 AND user_id = $2`, m.ID, to)
	t.queue(`
		INSERT INTO members (mission_id, user_id, role, email)
		SELECT $1, id, 'editor', email FROM users WHERE id = $2`, m.ID, m.OwnerID)
	t.notify(to, m.ID, "", fmt.Sprintf("You now own the mission %q.", m.Name))
	return nil
}

// validOrNil is id if it is one, and else an id that nothing has.
func validOrNil(id string) string {
	if validID(id) {
		return id
	}
	return serverStream
}

// deleteMission is DELETE /api/v1/missions/{id}.
func (s *Server) deleteMission(ctx context.Context, t *tx, c *call, _ *nothing) (*nothing, error) {
	m, err := t.mission(ctx, c.target, lockUpdate, accessOwner)
	if err != nil {
		return nil, err
	}
	if err := cmp.Or(t.mayDelete(ctx, m), c.checkVersion(m.Version)); err != nil {
		return nil, err
	}
	if m.Status == "active" {
		return nil, problem(http.StatusConflict, "mission_active",
			"An active mission can't be deleted. Pause or cancel it first.")
	}
	t.queue(`SELECT FROM spec_states WHERE mission_id = $1 ORDER BY spec_id FOR UPDATE`, m.ID)
	// The edges first: a cascade would find specs that others depend on.
	t.queue(`DELETE FROM dependencies WHERE spec_id IN (SELECT id FROM specs WHERE mission_id = $1)`, m.ID)
	t.queue(`DELETE FROM missions WHERE id = $1`, m.ID)
	t.emit("mission.deleted", m.ID, "", "", map[string]any{"name": m.Name})
	return nil, nil
}

// missionStatuses are what a mission goes through, as the API names it.
var missionStatuses = []string{"draft", "active", "paused", "completed", "cancelled", "archived"}

// missionActions are the steps between them: from where an action is allowed,
// where it leads, and the event it makes.
var missionActions = map[string]struct {
	from  []string
	to    string
	event string
}{
	"start":    {[]string{"draft"}, "active", "mission.started"},
	"pause":    {[]string{"active"}, "paused", "mission.paused"},
	"resume":   {[]string{"paused"}, "active", "mission.resumed"},
	"complete": {[]string{"active", "paused"}, "completed", "mission.completed"},
	"cancel":   {[]string{"draft", "active", "paused"}, "cancelled", "mission.cancelled"},
	"archive":  {[]string{"completed", "cancelled"}, "archived", "mission.archived"},
}

// stepMission is POST /api/v1/missions/{id}/{start,pause,resume,complete,cancel,archive}.
func stepMission(action string) func(context.Context, *tx, *call, *nothing) (*missionView, error) {
	step := missionActions[action]
	return func(ctx context.Context, t *tx, c *call, _ *nothing) (*missionView, error) {
		m, err := t.mission(ctx, c.target, lockNoKeyUpdate, accessEditor)
		if err != nil {
			return nil, err
		}
		if err := c.checkVersion(m.Version); err != nil {
			return nil, err
		}
		if !slices.Contains(step.from, m.Status) {
			return nil, errInvalidTransition("mission", m.Status, allowedActions(m.Status))
		}
		if action == "cancel" || action == "archive" {
			if err := t.endLeases(ctx, m, "the mission was "+step.to); err != nil {
				return nil, err
			}
			if err := t.withdrawAll(ctx, m); err != nil {
				return nil, err
			}
		}
		t.moveMission(&m, step.to, step.event)
		t.completeIfDone(&m)
		return t.askMissionView(m.ID)
	}
}

// allowedActions are the actions that a mission in this status takes.
func allowedActions(status string) []string {
	allowed := []string{}
	for _, action := range slices.Sorted(maps.Keys(missionActions)) {
		if slices.Contains(missionActions[action].from, status) {
			allowed = append(allowed, action)
		}
	}
	return allowed
}

func errInvalidTransition(what, status string, allowed []string) error {
	return problem(http.StatusConflict, "invalid_transition", "The %s is %s: this step isn't allowed from there.",
		what, status).
		with("current_status", status).with("allowed", allowed)
}

// moveMission puts a locked mission into a status, with the event for it.
func (t *tx) moveMission(m *missionLock, status, kind string) {
	t.queue(`UPDATE missions SET status = $2, version = version + 1, updated_at = clock_timestamp() WHERE id = $1`,
		m.ID, status)
	t.emit(kind, m.ID, "", "", map[string]any{"from": m.Status, "to": status})
	m.Status, m.Version = status, m.Version+1
	if kind == "mission.completed" {
		t.notify(m.OwnerID, m.ID, "", fmt.Sprintf("The mission %q is completed.", m.Name))
	}
}

// completeIfDone completes a mission whose specs are all completed or
// deferred, at least one of them completed. The mission is locked against all
// that changes how many are, so of two specs that are finished at once the
// later one sees both.
func (t *tx) completeIfDone(m *missionLock) {
	moved := t.moved[m.ID]
	if (m.Status == "active" || m.Status == "paused") &&
		m.openSpecs+moved.openSpecs() == 0 && m.completedSpecs+moved.completedSpecs() > 0 {
		t.moveMission(m, "completed", "mission.completed")
	}
}

// reopen makes a completed mission active again, since it has an open spec.
func (t *tx) reopen(m *missionLock) {
	if m.Status == "completed" {
		t.moveMission(m, "active", "mission.resumed")
	}
}

// closedMissions are the statuses of missions that have ended for good.
var closedMissions = []string{"cancelled", "archived"}

// open refuses changes to the specs of a mission that has ended for good.
func (m missionLock) open() error {
	if slices.Contains(closedMissions, m.Status) {
		return problem(http.StatusConflict, "mission_closed", "The mission is %s: its specs can't be changed any more.",
			m.Status)
	}
	return nil
}
