package main

import (
	"fmt"
	"net/http"
	"path"
	"slices"
	"sync"
	"testing"
)

// TestSpecWorkflow tries every step from every status.
func TestSpecWorkflow(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Workflow")
	for from, allowed := range map[string][]string{
		"planned":     {"in_progress", "blocked", "deferred"},
		"in_progress": {"planned", "in_review", "testing", "completed", "blocked"},
		"in_review":   {"in_progress", "testing", "completed"},
		"testing":     {"in_progress", "completed"},
		"blocked":     {"planned", "in_progress"},
		"deferred":    {"planned"},
		"completed":   {"in_progress"},
	} {
		for _, to := range specStatuses {
			spec := ada.newSpec(mission, from+"-"+to, fields{"status": from})
			a := ada.post(spec+"/status", fields{"status": to, "notes": "why"})
			if slices.Contains(allowed, to) {
				if a.status != http.StatusOK || a.text("status") != to {
					t.Errorf("%s to %s: %d %s", from, to, a.status, a.body)
				}
				continue
			}
			a.wantProblem(http.StatusConflict, "invalid_transition")
			if got := fmt.Sprint(a.at("allowed")); got != fmt.Sprint(allowed) || a.text("current_status") != from {
				t.Errorf("%s to %s: %s, want %v to be allowed", from, to, a.body, allowed)
			}
		}
	}
	spec := ada.newSpec(mission, "x", nil)
	ada.post(spec+"/status", fields{"status": "done"}).wantFields("status")
	ada.post(spec+"/status", fields{}).wantFields("status")
	ada.post(spec+"/status", fields{"status": "blocked", "notes": "waits for the vendor"}).want(http.StatusOK)
	last := ada.get(mission + "/events").number("last_seq")
	data := ada.get(fmt.Sprintf("%s/events?after=%d", mission, last-1)).want(http.StatusOK).at("items.0.data")
	if want := "map[from:planned notes:waits for the vendor to:blocked]"; fmt.Sprint(data) != want {
		t.Errorf("the event says %v, want %s", data, want)
	}
}

func TestCompletingWantsAllCriteriaChecked(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	for _, way := range []string{"lease", "status"} {
		mission := ada.newActive(way)
		ada.newSpec(mission, "only", fields{"body": "## Acceptance Criteria\n- [ ] one\n- [x] two\n- [ ] three\n"})
		spec, token := ada.claim(mission, "bot")
		complete := func(more fields) *answer {
			body := fields{"lease_token": token}
			action := "/complete"
			if way == "status" {
				body, action = fields{"status": "completed"}, "/status"
			}
			for name, value := range more {
				body[name] = value
			}
			return ada.post(spec+action, body)
		}
		refused := complete(fields{"notes": "done"}).wantProblem(http.StatusConflict, "criteria_unmet")
		if refused.text("criteria.0.text") != "one" || refused.number("criteria.1.index") != 3 || refused.at("criteria.2") != nil {
			t.Errorf("%s: got %s", way, refused.body)
		}
		if ada.get(spec).at("claim") == nil {
			t.Errorf("%s: a refused completion ended the lease", way)
		}
		complete(fields{"notes": "shipped", "override": "three can wait"}).want(http.StatusOK)
		data := ada.lastEvent(mission, "spec.completed")
		if data["override"] != "three can wait" || data["open_criteria"] != 2. || data["notes"] != "shipped" {
			t.Errorf("%s: the event says %v", way, data)
		}
	}
}

func TestReopenedSpecHoldsItsDependentsBack(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Reopen")
	first := ada.newSpec(mission, "first", nil)
	second := ada.newSpec(mission, "second", fields{"dependencies": []string{"first"}})
	spec, token := ada.claim(mission, "bot")
	ada.post(spec+"/complete", fields{"lease_token": token}).want(http.StatusOK)
	if ada.get(second).at("ready") != true {
		t.Error("what depends on a completed spec isn't ready")
	}
	ada.post(first+"/status", fields{"status": "in_progress"}).want(http.StatusOK)
	if ada.get(second).at("ready") != false || ada.get(mission).number("stats.ready") != 0 {
		t.Error("what depends on a reopened spec is ready")
	}
	ada.post(mission+"/claim", fields{"agent": "bot"}).want(http.StatusNoContent)

	finish(ada, mission, first)
	spec, _ = ada.claim(mission, "bot")
	finish(ada, mission, spec)
	if got := ada.get(mission).text("status"); got != "completed" {
		t.Fatalf("the mission is %s", got)
	}
	ada.post(first+"/status", fields{"status": "in_progress"}).want(http.StatusOK)
	if got := ada.get(mission).text("status"); got != "active" {
		t.Errorf("with a reopened spec the mission is %s", got)
	}
	ada.newSpec(mission, "third", fields{"status": "completed"})
	finish(ada, mission, first)
	ada.newSpec(mission, "fourth", nil)
	if got := ada.get(mission).text("status"); got != "active" {
		t.Errorf("with a new spec the mission is %s", got)
	}
}

// TestMissionActions tries every action in every status.
func TestMissionActions(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	leads := map[string]string{
		"start": "active", "pause": "paused", "resume": "active", "complete": "completed", "cancel": "cancelled", "archive": "archived",
	}
	for status, allowed := range map[string][]string{
		"draft":     {"cancel", "start"},
		"active":    {"cancel", "complete", "pause"},
		"paused":    {"cancel", "complete", "resume"},
		"completed": {"archive"},
		"cancelled": {"archive"},
		"archived":  {},
	} {
		for action, to := range leads {
			mission := ada.newMission(status + " " + action)
			if _, err := s.db.Exec(t.Context(), `UPDATE missions SET status = $2 WHERE id = $1`, path.Base(mission), status); err != nil {
				t.Fatal(err)
			}
			a := ada.post(mission+"/"+action, nil)
			if !slices.Contains(allowed, action) {
				a.wantProblem(http.StatusConflict, "invalid_transition")
				if got := fmt.Sprint(a.at("allowed")); got != fmt.Sprint(allowed) || a.text("current_status") != status {
					t.Errorf("%s %s: %s, want %v to be allowed", action, status, a.body, allowed)
				}
				continue
			}
			a.want(http.StatusOK)
			if a.text("status") != to || a.header.Get("ETag") != `"2"` || len(ada.eventsOf(mission)) != 2 {
				t.Errorf("%s %s: %s", action, status, a.body)
			}
		}
	}
}

func TestMissionThatHasEndedKeepsItsSpecs(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Over")
	spec := ada.newSpec(mission, "kept", nil)
	ada.post(mission+"/cancel", nil).want(http.StatusOK)
	for _, status := range []string{"cancelled", "archived"} {
		ada.post(mission+"/specs", fields{"key": "new", "title": "New"}).wantProblem(http.StatusConflict, "mission_closed")
		ada.patch(spec, fields{"title": "New"}).wantProblem(http.StatusConflict, "mission_closed")
		ada.delete(spec).wantProblem(http.StatusConflict, "mission_closed")
		ada.post(spec+"/status", fields{"status": "blocked"}).wantProblem(http.StatusConflict, "mission_closed")
		ada.post(mission+"/claim", fields{"agent": "bot"}).wantProblem(http.StatusConflict, "mission_not_active")
		if status == "cancelled" {
			ada.post(mission+"/archive", nil).want(http.StatusOK)
		}
	}
}

func TestMissionCompletesByItself(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	for _, test := range []struct {
		name  string
		specs []string // their statuses when the mission starts
		then  func(mission string, specs []string)
		want  string
	}{
		{"nothing to do", nil, nil, "active"},
		{"all done at the start", []string{"completed", "deferred"}, nil, "completed"},
		{"all deferred", []string{"deferred", "deferred"}, nil, "active"},
		{"the last deferred", []string{"completed", "planned"}, func(_ string, specs []string) {
			ada.post(specs[1]+"/status", fields{"status": "deferred"}).want(http.StatusOK)
		}, "completed"},
		{"the last deleted", []string{"completed", "planned"}, func(_ string, specs []string) {
			ada.delete(specs[1]).want(http.StatusNoContent)
		}, "completed"},
		{"a deferred one taken up", []string{"completed", "deferred"}, func(_ string, specs []string) {
			ada.post(specs[1]+"/status", fields{"status": "planned"}).want(http.StatusOK)
		}, "active"},
		{"one blocked", []string{"in_progress", "blocked"}, func(m string, specs []string) { finish(ada, m, specs[0]) }, "active"},
		{"while paused", []string{"in_progress"}, func(m string, specs []string) {
			ada.post(m+"/pause", nil).want(http.StatusOK)
			finish(ada, m, specs[0])
		}, "completed"},
	} {
		mission := ada.newMission(test.name)
		var specs []string
		for i, status := range test.specs {
			specs = append(specs, ada.newSpec(mission, fmt.Sprintf("s%d", i), fields{"status": status}))
		}
		ada.post(mission+"/start", nil).want(http.StatusOK)
		if test.then != nil {
			test.then(mission, specs)
		}
		if got := ada.get(mission).text("status"); got != test.want {
			t.Errorf("%s: the mission is %s, want %s", test.name, got, test.want)
		}
	}
}

func TestLastTwoSpecsFinishedAtOnceCompleteTheMissionOnce(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	for round := range 25 {
		mission := ada.newActive(fmt.Sprintf("Round %d", round))
		ada.newSpec(mission, "left", nil)
		ada.newSpec(mission, "right", nil)
		var finishing sync.WaitGroup
		for range 2 {
			spec, token := ada.claim(mission, "bot")
			finishing.Go(func() {
				a, err := ada.try(t.Context(), "POST", spec+"/complete", fields{"lease_token": token})
				if err != nil || a.status != http.StatusOK {
					t.Errorf("%v %+v", err, a)
				}
			})
		}
		finishing.Wait()
		if got, n := ada.get(mission).text("status"), ada.countEvents(mission, "mission.completed"); got != "completed" || n != 1 {
			t.Fatalf("round %d: the mission is %s, with %d events of its completion", round, got, n)
		}
	}
}
