package main

import (
	"fmt"
	"net/http"
	"path"
	"sync"
	"testing"
)

// Log entries of many requests go together; each of these gets an answer of its
// own all the same, and numbers that are its own entries'.
func TestLogsWrittenTogetherAreAnsweredApart(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, eve := s.signUp("ada", "user"), s.signUp("eve", "user")
	missions := []string{ada.newMission("One"), ada.newMission("Two"), ada.newMission("Three")}
	theirs := ada.newSpec(missions[0], "theirs", nil)
	var mu sync.Mutex
	last := make(map[string]map[int64]string) // mission → last_seq → message of that entry
	var writing sync.WaitGroup
	for n := range 60 {
		writing.Go(func() {
			mission, as, want := missions[n%3], ada, http.StatusCreated
			entry := func(i int) fields { return fields{"level": "info", "message": fmt.Sprint(n, " ", i)} }
			entries := []any{entry(0), entry(1)}
			switch n % 10 {
			case 7:
				as, want = eve, http.StatusNotFound
			case 8: // a spec of another mission
				mission, want = missions[1], http.StatusUnprocessableEntity
				entries[1].(fields)["spec_id"] = path.Base(theirs)
			case 9:
				entries[1].(fields)["fields"] = fields{"n": 1}
			}
			a, err := as.try(t.Context(), "POST", mission+"/logs", fields{"entries": entries})
			if err != nil || a.status != want {
				t.Errorf("%d: %v %v, want %d", n, err, a, want)
				return
			}
			if want != http.StatusCreated {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if last[mission] == nil {
				last[mission] = make(map[int64]string)
			}
			last[mission][int64(a.number("last_seq"))] = fmt.Sprint(n, " 1")
		})
	}
	writing.Wait()
	for _, mission := range missions {
		var events eventsView
		ada.get(mission + "/events?limit=200").want(http.StatusOK).into(&events)
		for i, e := range events.Items {
			data, _ := e.Data.(map[string]any)
			if e.Seq != int64(i)+1 {
				t.Fatalf("event %d has number %d", i+1, e.Seq)
			}
			if want, ok := last[mission][e.Seq]; ok && data["message"] != want {
				t.Errorf("event %d says %v, and its request was told it is %q", e.Seq, data["message"], want)
			}
			delete(last[mission], e.Seq)
		}
		if len(last[mission]) > 0 {
			t.Errorf("answered and not there: %v", last[mission])
		}
	}
}

// A mission that is locked for its deletion keeps nobody else's entries waiting.
func TestLogsOfALockedMissionHoldUpNoOthers(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	locked, free := ada.newMission("Locked"), ada.newMission("Free")
	held, err := s.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Rollback(t.Context()) //nolint:errcheck // there is nothing to keep
	if _, err := held.Exec(t.Context(), `SELECT FROM missions WHERE id = $1 FOR UPDATE`, idOf(locked)); err != nil {
		t.Fatal(err)
	}
	waits := make(chan int)
	go func() {
		a, err := ada.try(t.Context(), "POST", locked+"/logs", fields{"entries": []any{fields{"level": "info", "message": "x"}}})
		if err != nil {
			t.Error(err)
		}
		waits <- a.status
	}()
	for range 20 {
		ada.post(free+"/logs", fields{"entries": []any{fields{"level": "info", "message": "x"}}}).want(http.StatusCreated)
	}
	select {
	case status := <-waits:
		t.Fatalf("the locked mission's entries were answered with %d", status)
	default:
	}
	if err := held.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status := <-waits; status != http.StatusCreated {
		t.Errorf("once it is free its entries get %d", status)
	}
}
