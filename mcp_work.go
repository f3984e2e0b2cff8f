package main

// The tools with which an agent works: claim, report, complete, fail.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tachikoma/internal/specfile"
)

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
func (s *Server) claimSpecTool(ctx context.Context, c *call, in *claimRequest) (*claimAnswer, error) {
	given, err := s.claimPatiently(ctx, c, in)
	if errors.Is(err, errNothingReady) {
		mission, err := readMission(ctx, s.db, c.account, c.target.mission)
		next := mission.next()
		if mission.Stats.Ready > 0 && (len(in.Tags) > 0 || in.Phase != "") {
			next = "Nothing of these tags and phase is ready, but other specs are: call claim_spec without them, or stop."
		}
		return &claimAnswer{Next: next}, err
	}
	if err != nil {
		return nil, err
	}
	v := given.Spec
	return &claimAnswer{
		Spec:       &takenSpec{v.ID, v.Key, v.Title, given.Lease.Attempt, v.Criteria, v.Body},
		LeaseToken: given.Lease.Token, ExpiresAt: given.Lease.ExpiresAt,
		Next: nextOfHolder(v.Criteria) + fmt.Sprintf(" If you can't, call fail_spec. Your lease ends %d s from now unless you call report before.",
			int(s.leaseTime(in.LeaseSeconds).Seconds())),
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

// reportRequest is a heartbeat with progress and log lines.
type reportRequest struct {
	progress
	Logs         []logLine `json:"logs,omitempty"`
	LeaseSeconds *int      `json:"lease_seconds,omitempty"`
}

func (in *reportRequest) validate(v *violations, config *Config) {
	in.progress.validate(v, config)
	v.leaseSeconds(in.LeaseSeconds, config)
	if len(in.Logs) > maxReportLogs {
		v.add("logs", "too_many", "must have at most %d entries", maxReportLogs)
		return
	}
	for i, line := range in.Logs {
		v.logEntry(fmt.Sprintf("logs[%d].", i), logEntry{Level: line.Level, Message: line.Message})
	}
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

// reportTool is report, all in one transaction.
func (s *Server) reportTool(ctx context.Context, t *tx, c *call, in *reportRequest) (*reportAnswer, error) {
	m, spec, agent, err := t.lockLease(ctx, c.target, lockKeyShare, alone, in.LeaseToken)
	if err != nil {
		return nil, err
	}
	kept, err := t.prolong(ctx, spec.id, in.LeaseToken, s.leaseTime(in.LeaseSeconds))
	if err != nil {
		return nil, err
	}
	if len(in.Check)+len(in.Uncheck) > 0 || in.Message != "" {
		if err := t.progress(spec, agent, &in.progress); err != nil {
			return nil, err
		}
	}
	for _, line := range in.Logs {
		t.log(m.ID, agent, logEntry{Level: line.Level, Message: line.Message, SpecID: spec.id})
	}
	now, out := t.askView(spec.id), &reportAnswer{ExpiresAt: kept.ExpiresAt, Open: []specfile.Criterion{}}
	t.then(func() error {
		out.Next = nextOfHolder(now.Criteria)
		for _, c := range now.Criteria {
			if !c.Done {
				out.Open = append(out.Open, c)
			}
		}
		return nil
	})
	return out, nil
}

// endAnswer is what an agent gets that has given a spec back, one way or the other.
type endAnswer struct {
	Status  string       `json:"status"`
	Mission briefMission `json:"mission"`
	Next    string       `json:"next"`
}

// completeSpecTool is complete_spec.
func (s *Server) completeSpecTool(ctx context.Context, t *tx, c *call, in *heldCompletion) (*endAnswer, error) {
	missionID, err := t.completeHeld(ctx, c.target, in)
	if err != nil {
		return nil, err
	}
	return t.ended(missionID, "completed")
}

// failSpecTool is fail_spec.
func (s *Server) failSpecTool(ctx context.Context, t *tx, c *call, in *failure) (*endAnswer, error) {
	missionID, status, err := t.fail(ctx, c.target, in, s.config.MaxAttempts)
	if err != nil {
		return nil, err
	}
	return t.ended(missionID, status)
}

// ended tells of a spec that its holder has given back, and of its mission then.
func (t *tx) ended(missionID, status string) (*endAnswer, error) {
	mission, err := t.askMissionView(missionID)
	if err != nil {
		return nil, err
	}
	out := &endAnswer{Status: status}
	t.then(func() error {
		out.Mission, out.Next = mission.brief(), mission.next()
		return nil
	})
	return out, nil
}
