package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
)

// missionStatuses are the stations of a mission's life.
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

// actMission is POST /api/v1/missions/{id}/{start,pause,resume,complete,cancel,archive}.
func (s *Server) actMission(action string) handler {
	step := missionActions[action]
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := decodeRequest(r, &struct{}{}); err != nil {
			return err
		}
		id := callOf(r).target.mission
		return s.writeOnce(w, r, func(ctx context.Context, t *tx) (reply, error) {
			m, err := t.mission(ctx, target{mission: id}, lockNoKeyUpdate, accessEditor)
			if err != nil {
				return reply{}, err
			}
			if !slices.Contains(step.from, m.Status) {
				return reply{}, errInvalidTransition("mission", m.Status, allowedActions(m.Status))
			}
			if action == "cancel" || action == "archive" {
				if err := t.endLeases(ctx, m, "the mission was "+step.to); err != nil {
					return reply{}, err
				}
			}
			t.moveMission(&m, step.to, step.event)
			t.completeIfDone(&m)
			return t.missionReply(id, http.StatusOK)
		})
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
	return problem(http.StatusConflict, "invalid_transition", "The %s is %s, from where this isn't possible.", what, status).
		with("current_status", status).with("allowed", allowed)
}

// moveMission puts a locked mission into a status, with the event for it.
func (t *tx) moveMission(m *missionLock, status, kind string) {
	t.queue(`UPDATE missions SET status = $2, version = version + 1, updated_at = clock_timestamp() WHERE id = $1`, m.ID, status)
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

// open refuses changes to the specs of a mission that has ended for good.
func (m missionLock) open() error {
	if m.Status == "cancelled" || m.Status == "archived" {
		return problem(http.StatusConflict, "mission_closed", "The mission is %s: its specs can't be changed any more.", m.Status)
	}
	return nil
}
