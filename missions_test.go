package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestNewMission(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	a := ada.post("/api/v1/missions", fields{"name": "Launch",
		"tags": []string{"b", "a"}, "metadata": fields{"n": 1.5}}).want(http.StatusCreated)
	if a.header.Get("Location") != "/api/v1/missions/"+a.text("id") || a.header.Get("ETag") != `"1"` {
		t.Errorf("the headers are %v", a.header)
	}
	for path, want := range map[string]any{
		"name": "Launch", "description": "", "status": "draft", "tags.0": "b", "metadata.n": 1.5, "owner_id": ada.user.ID,
		"my_role": "owner", "version": 1., "stats.total": 0., "stats.completion_percentage": 0.,
	} {
		if got := a.at(path); got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	read := ada.get(a.header.Get("Location")).want(http.StatusOK)
	if string(read.body) != string(a.body) || read.header.Get("ETag") != `"1"` {
		t.Errorf("read as %s, made as %s", read.body, a.body)
	}
	if events := ada.eventsOf(a.header.Get("Location")); len(events) != 1 || events[0].Seq != 1 ||
		events[0].Type != "mission.created" {
		t.Errorf("its events are %v", events)
	}
}

func TestMissionLimits(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Limits")
	tags := make([]string, 33)
	for i := range tags {
		tags[i] = fmt.Sprint("t", i)
	}
	for _, test := range []struct {
		field string
		value any
		fails string // the field named, or "" where it is accepted
	}{
		{"name", "", "name"}, {"name", " ", "name"}, {"name", strings.Repeat("é", 200), ""}, {"name",
			strings.Repeat("é", 201), "name"},
		{"name", "two\nlines", "name"}, {"name", 1, "name"},
		{"description", strings.Repeat("é", 2000), ""}, {"description", strings.Repeat("d", 2001), "description"},
		{"tags", tags[:32], ""}, {"tags", tags, "tags"}, {"tags", []string{strings.Repeat("é", 64)}, ""},
		{"tags", []string{"a", strings.Repeat("t", 65)}, "tags[1]"}, {"tags", []string{""}, "tags[0]"}, {"tags",
			[]string{"a", "a"}, "tags[1]"},
		{"metadata", fields{"k": strings.Repeat("m", 16<<10-8)}, ""}, {"metadata",
			fields{"k": strings.Repeat("m", 16<<10-7)}, "metadata"},
		{"metadata", []string{}, "metadata"}, {"metadata", "text", "metadata"},
		{"surprise", 1, "surprise"},
	} {
		body := fields{"name": "N", test.field: test.value}
		created, patched := ada.post("/api/v1/missions", body), ada.patch(mission, fields{test.field: test.value})
		if test.fails == "" {
			created.want(http.StatusCreated)
			patched.want(http.StatusOK)
			ada.patch(mission, fields{"metadata": nil}).want(http.StatusOK)
			continue
		}
		created.wantFields(test.fails)
		patched.wantFields(test.fails)
	}
	ada.post("/api/v1/missions", fields{"name": "", "description": strings.Repeat("d", 2001), "tags": []string{""}}).
		wantFields("name", "description", "tags[0]")
}

func TestMissionPatchMerges(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := "/api/v1/missions/" + ada.post("/api/v1/missions", fields{
		"name": "Before", "description": "D", "tags": []string{"t"}, "metadata": fields{"a": fields{"b": 1, "c": 2}, "d": 3},
	}).want(http.StatusCreated).text("id")
	version := 1
	for _, test := range []struct {
		patch    string
		changed  string // as the event says; "" for nothing
		metadata string
	}{
		{`{}`, "", `{"a":{"b":1,"c":2},"d":3}`},
		{`{"name":"Before","tags":["t"],"metadata":{}}`, "", `{"a":{"b":1,"c":2},"d":3}`},
		{`{"metadata":{"a":{"b":null,"e":[1,null]},"d":3}}`, "[metadata]", `{"a":{"c":2,"e":[1,null]},"d":3}`},
		{`{"metadata":{"a":null,"never":null}}`, "[metadata]", `{"d":3}`},
		{`{"metadata":{"d":{"deep":{"gone":null}}}}`, "[metadata]", `{"d":{"deep":{}}}`},
		{`{"name":"After","description":null,"tags":null,"metadata":null}`, "[name description tags metadata]", `{}`},
	} {
		a := ada.patch(mission, test.patch).want(http.StatusOK)
		if test.changed != "" {
			version++
			if data := ada.lastEvent(mission, "mission.updated"); fmt.Sprint(data["changed"]) != test.changed {
				t.Errorf("%s changed %v, want %s", test.patch, data["changed"], test.changed)
			}
		}
		var got missionView
		a.into(&got)
		if !sameJSON(got.Metadata, json.RawMessage(test.metadata)) || int(got.Version) != version ||
			len(ada.eventsOf(mission)) != version {
			t.Errorf("%s: version %d, metadata %s; want %d, %s", test.patch, got.Version, got.Metadata, version, test.metadata)
		}
	}
	if a := ada.get(mission); a.text("name") != "After" || a.text("description") != "" || a.at("tags.0") != nil {
		t.Errorf("got %s", a.body)
	}
	ada.patch(mission, fields{"name": nil}).wantFields("name")
	ada.patch(mission, fields{"status": "active"}).wantFields("status")
}

// TestMissionWithFullMetadataCanBeEdited: what PostgreSQL makes of metadata is
// longer than what was sent.
func TestMissionWithFullMetadataCanBeEdited(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	for _, numbers := range []string{strings.Repeat("1,", 8000), strings.Repeat("1e300,", 2000)} {
		body := `{"name":"Full","metadata":{"a":[` + numbers + `1]}}`
		mission := "/api/v1/missions/" + ada.post("/api/v1/missions", body).want(http.StatusCreated).text("id")
		if a := ada.patch(mission, fields{"name": "Renamed"}).want(http.StatusOK); a.text("name") != "Renamed" ||
			a.number("version") != 2 {
			t.Errorf("got %s", a.body)
		}
	}
}

func TestChangesHoldIfMatch(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Match")
	spec := ada.newSpec(mission, "spec", nil)
	for path, field := range map[string]string{mission: "name", spec: "title"} {
		for i, tag := range []string{`"1"`, `W/"2"`, `"9", "3"`, `*`} {
			ada.do("PATCH", path, fields{field: fmt.Sprint("N", i)}, "If-Match", tag).want(http.StatusOK)
		}
		if got := ada.get(path).header.Get("ETag"); got != `"5"` {
			t.Errorf("after four edits the ETag is %s", got)
		}
		for _, tag := range []string{`"4"`, `W/"4"`, `"nonsense"`, `5`, `"1", "2"`} {
			ada.do("PATCH", path, fields{field: "N"}, "If-Match",
				tag).wantProblem(http.StatusPreconditionFailed, "version_mismatch")
			ada.do("DELETE", path, nil, "If-Match", tag).wantProblem(http.StatusPreconditionFailed, "version_mismatch")
		}
		ada.do("PATCH", path, fields{field: ""}, "If-Match", `"4"`).wantFields(field)
	}
	ada.do("POST", spec+"/status", fields{"status": "deferred"}, "If-Match", `"4"`).
		wantProblem(http.StatusPreconditionFailed, "version_mismatch")
	ada.do("POST", spec+"/status", fields{"status": "deferred"}, "If-Match", `"5"`).want(http.StatusOK)
	ada.do("DELETE", spec, nil, "If-Match", `W/"6"`).want(http.StatusNoContent)
	for i, step := range []string{"/start", "/pause", "/resume", "/cancel"} {
		ada.do("POST", mission+step, nil, "If-Match", etagOf(4+int64(i))).
			wantProblem(http.StatusPreconditionFailed, "version_mismatch")
		ada.do("POST", mission+step, nil, "If-Match", etagOf(5+int64(i))).want(http.StatusOK)
	}
	ada.do("DELETE", mission, nil, "If-Match", `"9"`).want(http.StatusNoContent)
	ada.get(mission).wantProblem(http.StatusNotFound, "not_found")
}

func TestMissionIsHandedOver(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, eve, idle := s.signUp("ada", "user"), s.signUp("eve", "user"), s.signUp("idle", "viewer")
	mission := ada.newMission("Gift")
	ada.put(mission+"/members", fields{"email": eve.user.Email, "role": "editor"}).want(http.StatusOK)
	eve.patch(mission, fields{"owner_id": eve.user.ID}).wantProblem(http.StatusForbidden, "forbidden")
	for _, id := range []any{"nobody", idle.user.ID, path.Base(mission), nil} {
		ada.patch(mission, fields{"owner_id": id}).wantFields("owner_id")
	}
	if a := ada.patch(mission, fields{"owner_id": eve.user.ID}).want(http.StatusOK); a.text("my_role") != "editor" ||
		a.number("version") != 2 {
		t.Errorf("the giver got %s", a.body)
	}
	if a := eve.get(mission); a.text("my_role") != "owner" || a.text("owner_id") != eve.user.ID {
		t.Errorf("the new owner got %s", a.body)
	}
	if got := s.notificationsOf(eve); !strings.Contains(got, `You now own the mission "Gift".`) {
		t.Errorf("the new owner was told %q", got)
	}
	ada.delete(mission).wantProblem(http.StatusForbidden, "forbidden")
	eve.delete(mission).want(http.StatusNoContent)
}

func TestActiveMissionIsNotDeleted(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Delete")
	spec := ada.newSpec(mission, "a", nil)
	ada.newSpec(mission, "b", fields{"dependencies": []string{"a"}})
	ada.claim(mission, "bot")
	ada.delete(mission).wantProblem(http.StatusConflict, "mission_active")
	ada.post(mission+"/pause", nil).want(http.StatusOK)
	ada.delete(mission).want(http.StatusNoContent)
	ada.get(mission).want(http.StatusNotFound)
	ada.get(spec).want(http.StatusNotFound)
	var last string
	err := s.db.QueryRow(t.Context(), `SELECT type FROM events WHERE stream = $1 ORDER BY seq DESC LIMIT 1`,
		path.Base(mission)).Scan(&last)
	if err != nil || last != "mission.deleted" {
		t.Errorf("the last event is %q, %v", last, err)
	}
}

func TestMembers(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, eve, bob := s.signUp("ada", "user"), s.signUp("eve", "user"), s.signUp("bob", "user")
	mission := ada.newMission("Shared")
	eve.get(mission).want(http.StatusNotFound)
	put := func(email, role string) *answer {
		return ada.put(mission+"/members", fields{"email": email, "role": role})
	}

	if a := put("EVE@example.com", "viewer").want(http.StatusOK); a.text("role") != "viewer" ||
		a.text("user_id") != eve.user.ID {
		t.Errorf("got %s", a.body)
	}
	events := len(ada.eventsOf(mission))
	put(eve.user.Email, "viewer").want(http.StatusOK)
	if len(ada.eventsOf(mission)) != events {
		t.Error("the same role again made an event")
	}
	eve.patch(mission, fields{"name": "N"}).wantProblem(http.StatusForbidden, "forbidden")
	put(eve.user.Email, "editor").want(http.StatusOK)
	eve.patch(mission, fields{"name": "Renamed"}).want(http.StatusOK)
	if got := s.notificationsOf(eve); got != `You are now a member of the mission "Shared", with the role viewer.` {
		t.Errorf("she was told %q", got)
	}
	put("nobody@example.com", "editor").wantFields("email")
	put(ada.user.Email, "editor").wantFields("email")
	put("not an address", "owner").wantFields("email", "role")
	eve.put(mission+"/members", fields{"email": bob.user.Email, "role": "viewer"}).want(http.StatusForbidden)

	put(bob.user.Email, "viewer").want(http.StatusOK)
	var got []string
	for next := ""; ; {
		var page list[memberView]
		bob.get(mission + "/members?limit=2" + next).want(http.StatusOK).into(&page)
		for _, m := range page.Items {
			got = append(got, m.Name+" "+m.Role)
		}
		if page.NextCursor == nil {
			break
		}
		next = "&cursor=" + url.QueryEscape(*page.NextCursor)
	}
	if want := []string{"ada owner", "bob viewer", "eve editor"}; !slices.Equal(got, want) {
		t.Errorf("the members are %q, want %q", got, want)
	}
	bob.delete(mission + "/members/" + bob.user.ID).want(http.StatusForbidden)
	ada.delete(mission + "/members/" + bob.user.ID).want(http.StatusNoContent)
	ada.delete(mission + "/members/" + bob.user.ID).want(http.StatusNotFound)
	ada.delete(mission + "/members/" + ada.user.ID).want(http.StatusNotFound)
	ada.delete(mission + "/members/nobody").want(http.StatusNotFound)
	bob.get(mission).want(http.StatusNotFound)
	if ada.countEvents(mission, "member.set") != 3 || ada.countEvents(mission, "member.removed") != 1 {
		t.Error("members changed without the right events")
	}
}

// pageThrough reads a whole list, page by page, and returns what stands at a
// path of each item.
func (c *client) pageThrough(list, path string) []string {
	c.t.Helper()
	var got []string
	for next := ""; ; {
		a := c.get(list + next).want(http.StatusOK)
		i := 0
		for ; a.at(fmt.Sprintf("items.%d", i)) != nil; i++ {
			got = append(got, fmt.Sprint(a.at(fmt.Sprintf("items.%d.%s", i, path))))
		}
		cursor, ok := a.at("next_cursor").(string)
		if !ok {
			return got
		}
		if i == 0 || len(got) > 1000 {
			c.t.Fatalf("%s goes on for ever", list)
		}
		next = "&cursor=" + url.QueryEscape(cursor)
	}
}

func TestMissionListIsFilteredSortedAndPaged(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, eve := s.signUp("ada", "user"), s.signUp("eve", "user")
	eve.newMission("Hidden")
	created := []string{"b", "<&>", "a", "b", "Z", "é", "a"} // names that sort by bytes, some of them twice
	for i, name := range created {
		mission := ada.post("/api/v1/missions",
			fields{"name": name, "tags": []string{fmt.Sprint("mod", i%2), "all"}}).want(http.StatusCreated)
		if i < 3 {
			ada.post("/api/v1/missions/"+mission.text("id")+"/start", nil).want(http.StatusOK)
		}
	}
	sorted := slices.Sorted(slices.Values(created))
	backwards := func(names []string) []string { names = slices.Clone(names); slices.Reverse(names); return names }
	for query, want := range map[string][]string{
		"":                       backwards(created),
		"&sort=created_at":       created,
		"&sort=-created_at":      backwards(created),
		"&sort=name":             sorted,
		"&sort=-name":            backwards(sorted),
		"&sort=updated_at":       created, // those started were so right after they were made
		"&status=active":         {"a", "<&>", "b"},
		"&status=paused":         nil,
		"&tag=mod1&sort=name":    {"<&>", "b", "é"},
		"&tag=all&status=active": {"a", "<&>", "b"},
		"&tag=none":              nil,
	} {
		got := ada.pageThrough("/api/v1/missions?limit=2"+query, "name")
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
		ids := ada.pageThrough("/api/v1/missions?limit=2"+query, "id")
		if slices.Sort(ids); len(slices.Compact(ids)) != len(want) {
			t.Errorf("%s: some mission came twice", query)
		}
	}
	for query, field := range map[string]string{
		"limit=0": "limit", "limit=201": "limit", "limit=x": "limit", "sort=size": "sort", "status=open": "status",
		"cursor=x": "cursor", "page=2": "page", "tag=a&tag=b": "tag", "tag=%zz": "tag", "q=a&sort=name": "sort",
	} {
		ada.get("/api/v1/missions?" + query).wantFields(field)
	}
}

func TestCursorBelongsToItsFilterAndSort(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newMission("One")
	ada.newMission("Two")
	for _, key := range []string{"a", "b"} {
		ada.newSpec(mission, key, nil)
	}
	for _, test := range []struct{ list, made, used string }{
		{"/api/v1/missions", "", "&sort=name"},
		{"/api/v1/missions", "&sort=name", "&sort=-name"},
		{"/api/v1/missions", "", "&status=draft"},
		{"/api/v1/missions", "", "&tag=t"},
		{"/api/v1/missions", "", "&q=one"},
		{"/api/v1/specs", "", "&sort=priority"},
		{"/api/v1/specs", "", "&ready=false"},
		{"/api/v1/specs", "&ready=false", "&ready=true"},
		{"/api/v1/specs", "", "&mission_id=" + path.Base(mission)},
		{"/api/v1/specs", "", "&claimed=mine"},
		{"/api/v1/specs", "&mission_id=" + path.Base(mission), "&phase=1"},
	} {
		cursor := "&cursor=" + url.QueryEscape(ada.get(test.list+"?limit=1"+test.made).want(http.StatusOK).text("next_cursor"))
		ada.get(test.list + "?limit=1" + test.made + cursor).want(http.StatusOK)
		ada.get(test.list + "?limit=1" + test.used + cursor).wantFields("cursor")
	}
}

func TestMissionsAreFoundByTheirWords(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, eve := s.signUp("ada", "user"), s.signUp("eve", "user")
	eve.post("/api/v1/missions", fields{"name": "Another rocket"}).want(http.StatusCreated)
	ada.post("/api/v1/missions", fields{"name": "Garden",
		"description": "No rockets here, but a mention"}).want(http.StatusCreated)
	ada.post("/api/v1/missions", fields{"name": "Rocket", "description": "To the moon"}).want(http.StatusCreated)
	for q, want := range map[string][]string{
		"rocket": {"Rocket", "Garden"}, "rocket -moon": {"Garden"}, `"the moon"`: {"Rocket"}, "cheese": nil, "!!(": nil,
		"moon or mention": {"Rocket", "Garden"},
	} {
		a := ada.get("/api/v1/missions?q=" + url.QueryEscape(q)).want(http.StatusOK)
		var got []string
		for i := 0; a.at(fmt.Sprintf("items.%d", i)) != nil; i++ {
			got = append(got, a.text(fmt.Sprintf("items.%d.name", i)))
		}
		if q == "moon or mention" {
			slices.Sort(got)
			slices.Sort(want)
		}
		if !slices.Equal(got, want) || a.at("next_cursor") != nil {
			t.Errorf("%s: got %s, want %q", q, a.body, want)
		}
	}
}

// TestMissionActions tries every action in every status.
func TestMissionActions(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	leads := map[string]string{
		"start": "active", "pause": "paused", "resume": "active", "complete": "completed", "cancel": "cancelled",
		"archive": "archived",
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
			if _, err := s.db.Exec(t.Context(), `UPDATE missions SET status = $2 WHERE id = $1`,
				path.Base(mission), status); err != nil {
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
		{"one blocked", []string{"in_progress",
			"blocked"}, func(m string, specs []string) { finish(ada, m, specs[0]) }, "active"},
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
		if got, n := ada.get(mission).text("status"), ada.countEvents(mission, "mission.completed"); got != "completed" ||
			n != 1 {
			t.Fatalf("round %d: the mission is %s, with %d events of its completion", round, got, n)
		}
	}
}
