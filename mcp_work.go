package main

// The tools with which an agent works: claim, report, complete, fail.

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"tachikoma/internal/specfile"
)

// toolWrite is write for tools. What fn returns makes the answer once all that
// it queued was sent.
func toolWrite[T any](s *Server, r *http.Request, fn func(ctx context.Context, t *tx) (func() (T, error), error)) (answer T, err error) {
	_, _, err = s.commit(r, "", func(ctx context.Context, t *tx) (reply, error) {
		made, err := fn(ctx, t)
		return reply{finish: func(*reply) error {
			answer, err = made()
			return err
		}}, err
	})
	return answer, err
}

// ofLease is a spec that the caller holds.
type ofLease struct {
	ofSpec
	LeaseToken string `json:"lease_token"`
}

type claimArguments struct {
	ofMission
	Agent        string   `json:"agent" doc:"your name, the same in every call"`
	LeaseSeconds *int     `json:"lease_seconds,omitempty" doc:"how long you may be silent"`
	WaitSeconds  int      `json:"wait_seconds,omitempty" doc:"wait so long if nothing is ready, at most 50"`
	Tags         []string `json:"tags,omitempty" doc:"only specs with all of these"`
	Phase        string   `json:"phase,omitempty" doc:"only specs of this phase"`
}

// takenSpec is a spec as its holder needs it.
type takenSpec struct {
	ID       string               `json:"id"`
	Key      string               `json:"key"`
	Title    string               `json:"title"`
	Attempt  int                  `json:"attempt"`
	Criteria []specfile.Criterion `json:"criteria"`
	Markdown string               `json:"markdown"`
}

type claimAnswer struct {
	Spec       *takenSpec `json:"spec,omitempty"`
	LeaseToken string     `json:"lease_token,omitempty"`
	ExpiresAt  time.Time  `json:"expires_at,omitzero"`
	Next       string     `json:"next"`
}

// claimSpecTool is claim_spec. Like the route it waits if asked to.
func (s *Server) claimSpecTool(r *http.Request, in claimArguments) (claimAnswer, error) {
	request := claimRequest{Agent: in.Agent, LeaseSeconds: in.LeaseSeconds, WaitSeconds: in.WaitSeconds, Tags: in.Tags, Phase: in.Phase}
	lease, err := s.validateClaim(request)
	if err != nil {
		return claimAnswer{}, err
	}
	id := callOf(r).target.mission
	var given claimed
	err = s.claimPatiently(r.Context(), id, request, func() (err error) {
		given, err = toolWrite(s, r, func(ctx context.Context, t *tx) (func() (claimed, error), error) {
			return s.claim(ctx, r, t, id, request, lease)
		})
		return err
	})
	if errors.Is(err, errNothingReady) {
		mission, err := readMission(r.Context(), s.db, callOf(r).account, id)
		next := mission.next()
		if mission.Stats.Ready > 0 && (len(in.Tags) > 0 || in.Phase != "") {
			next = "Nothing of these tags and phase is ready, but other specs are: call claim_spec without them, or stop."
		}
		return claimAnswer{Next: next}, err
	}
	if err != nil {
		return claimAnswer{}, err
	}
	v := given.Spec
	return claimAnswer{
		Spec:       &takenSpec{v.ID, v.Key, v.Title, given.Lease.Attempt, v.Criteria, v.Body},
		LeaseToken: given.Lease.Token, ExpiresAt: given.Lease.ExpiresAt,
		Next: nextOfHolder(v.Criteria) + fmt.Sprintf(" If you can't, call fail_spec. Your lease ends %d s from now unless you call report before.", int(lease.Seconds())),
	}, nil
}

// nextOfHolder says what the holder of a spec should do.
func nextOfHolder(criteria []specfile.Criterion) string {
	for _, c := range criteria {
		if !c.Done {
			return "Do what the spec asks for, and call report with the number of each criterion you have met; when all are checked, call complete_spec."
		}
	}
	if len(criteria) > 0 {
		return "All criteria are checked: when the work is done, call complete_spec."
	}
	return "Do what the spec asks for, then call complete_spec."
}

type reportArguments struct {
	ofLease
	Check        []int     `json:"check,omitempty" doc:"numbers of criteria that are met now"`
	Uncheck      []int     `json:"uncheck,omitempty"`
	Message      string    `json:"message,omitempty" doc:"what you have done, in a sentence"`
	Logs         []logLine `json:"logs,omitempty"`
	LeaseSeconds *int      `json:"lease_seconds,omitempty"`
}

type logLine struct {
	Level   string `json:"level" enum:"debug,info,warn,error"`
	Message string `json:"message"`
}

type reportAnswer struct {
	ExpiresAt time.Time            `json:"expires_at"`
	Open      []specfile.Criterion `json:"open"`
	Next      string               `json:"next"`
}

// maxReportLogs is how many log lines one report may have.
const maxReportLogs = 100

// reportTool is report: a heartbeat, progress and log lines in one transaction.
func (s *Server) reportTool(r *http.Request, in reportArguments) (reportAnswer, error) {
	done := progress{LeaseToken: in.LeaseToken, Check: in.Check, Uncheck: in.Uncheck, Message: in.Message}
	var v violations
	v.progress(done)
	lease := s.leaseTime(&v, in.LeaseSeconds)
	if len(in.Logs) > maxReportLogs {
		v.add("logs", "too_many", "must have at most %d entries", maxReportLogs)
	} else {
		for i, line := range in.Logs {
			v.logEntry(fmt.Sprintf("logs[%d].", i), logEntry{Level: line.Level, Message: line.Message})
		}
	}
	if err := v.err(); err != nil {
		return reportAnswer{}, err
	}
	at := callOf(r).target
	return toolWrite(s, r, func(ctx context.Context, t *tx) (func() (reportAnswer, error), error) {
		m, spec, agent, err := t.lockLease(ctx, at, lockKeyShare, alone, in.LeaseToken)
		if err != nil {
			return nil, err
		}
		kept, err := t.prolong(ctx, spec.id, in.LeaseToken, lease)
		if err != nil {
			return nil, err
		}
		if len(in.Check)+len(in.Uncheck) > 0 || in.Message != "" {
			if err := t.progress(spec, agent, done); err != nil {
				return nil, err
			}
		}
		for _, line := range in.Logs {
			t.log(m.ID, agent, logEntry{Level: line.Level, Message: line.Message, SpecID: spec.id})
		}
		view := t.askView(spec.id)
		return func() (reportAnswer, error) {
			now, err := view()
			out := reportAnswer{
				ExpiresAt: kept.ExpiresAt, Open: []specfile.Criterion{}, Next: nextOfHolder(now.Criteria),
			}
			for _, c := range now.Criteria {
				if !c.Done {
					out.Open = append(out.Open, c)
				}
			}
			return out, err
		}, nil
	})
}

type completeArguments struct {
	ofLease
	Notes    string `json:"notes,omitempty" doc:"what was done, for who reads the history"`
	Override string `json:"override,omitempty" doc:"why criteria stay open"`
}

// endAnswer is what an agent gets that has given a spec back, one way or the other.
type endAnswer struct {
	Status  string       `json:"status"`
	Mission briefMission `json:"mission"`
	Next    string       `json:"next"`
}

// completeSpecTool is complete_spec.
func (s *Server) completeSpecTool(r *http.Request, in completeArguments) (endAnswer, error) {
	how := completion{in.Notes, in.Override}
	var v violations
	v.leaseToken(in.LeaseToken)
	v.completion(how)
	if err := v.err(); err != nil {
		return endAnswer{}, err
	}
	at := callOf(r).target
	return toolWrite(s, r, func(ctx context.Context, t *tx) (func() (endAnswer, error), error) {
		m, spec, agent, err := t.lockLease(ctx, at, lockNoKeyUpdate, withDependents, in.LeaseToken)
		if err != nil {
			return nil, err
		}
		if err := t.complete(ctx, &m, spec, agent, how); err != nil {
			return nil, err
		}
		return t.ended(endedSpec{m.ID, "completed"})
	})
}

type failArguments struct {
	ofLease
	Reason string `json:"reason" doc:"what stood in the way, for who tries next"`
	Retry  *bool  `json:"retry,omitempty"`
}

// failSpecTool is fail_spec.
func (s *Server) failSpecTool(r *http.Request, in failArguments) (endAnswer, error) {
	why := failure{in.LeaseToken, in.Reason, in.Retry}
	var v violations
	v.failure(why)
	if err := v.err(); err != nil {
		return endAnswer{}, err
	}
	at := callOf(r).target
	return toolWrite(s, r, func(ctx context.Context, t *tx) (func() (endAnswer, error), error) {
		ended, err := t.fail(ctx, at, why, s.config.MaxAttempts)
		if err != nil {
			return nil, err
		}
		return t.ended(ended)
	})
}

// ended tells of the mission after a spec was given back.
func (t *tx) ended(spec endedSpec) (func() (endAnswer, error), error) {
	view, err := t.askMissionView(spec.missionID)
	return func() (endAnswer, error) {
		mission, err := view()
		return endAnswer{spec.status, mission.brief(), mission.next()}, err
	}, err
}
