package main

// New work: specs that somebody adds to a mission. What an agent has found is
// proposed, unless its mission says otherwise, until a person takes it or puts it
// off.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/specfile"
)

const (
	maxProposals = 20 // open ones of an account in a mission
	maxFiled     = 20 // specs that the holder of a lease files
	maxNames     = 20 // keys that a filed spec is tried with
)

// newSpec is a spec to be made.
type newSpec struct {
	Key              string   `json:"key"`
	Title            string   `json:"title"`
	Body             string   `json:"body"`
	Number           string   `json:"number"`
	Phase            string   `json:"phase"`
	Status           *string  `json:"status"`
	Priority         *int     `json:"priority"`
	Tags             []string `json:"tags"`
	EstimatedContext string   `json:"estimated_context"`
	Review           *string  `json:"review"`
	Dependencies     []string `json:"dependencies"`
}

func (in *newSpec) validate(v *violations, _ *Config) {
	v.spec(in.fields(), specFields{})
	v.review(in.Review)
	v.specStatus(in.status())
}

func (in *newSpec) fields() specFields {
	f := specFields{in.Key, in.Number, in.Title, in.Phase, specfile.DefaultPriority, orEmpty(in.Tags),
		in.EstimatedContext, in.Body, orEmptyText(in.Review)}
	if in.Priority != nil {
		f.Priority = *in.Priority
	}
	return f
}

func (in *newSpec) status() string {
	if in.Status != nil {
		return *in.Status
	}
	return "planned"
}

// createSpec is POST /api/v1/missions/{id}/specs.
func (s *Server) createSpec(ctx context.Context, t *tx, c *call, in *newSpec) (*specView, error) {
	m, err := t.openMission(ctx, c.target)
	if err != nil {
		return nil, err
	}
	id, err := t.addSpec(ctx, &m, in, finding{})
	if err != nil {
		return nil, err
	}
	return t.askView(id), nil
}

// openMission locks a mission for a change of its specs.
func (t *tx) openMission(ctx context.Context, at target) (missionLock, error) {
	m, err := t.mission(ctx, at, lockNoKeyUpdate, accessEditor)
	return m, cmp.Or(err, m.open())
}

// finding is the claim in which a new spec was found; zero for none.
type finding struct{ specID, agent string }

// addSpec makes a spec of a locked mission.
func (t *tx) addSpec(ctx context.Context, m *missionLock, in *newSpec, found finding) (id string, err error) {
	others := slices.DeleteFunc(slices.Clone(in.Dependencies), func(name string) bool { return name == in.Key })
	dependencies, unmet, err := t.resolveSpecs(ctx, m.ID, others, "dependencies")
	if err != nil {
		return "", err
	}
	if len(others) < len(in.Dependencies) {
		return "", errCycle([]string{in.Key})
	}
	id, status, fields := newID(), in.status(), in.fields()
	approvedBy, err := t.approver(*m, fields.Review, status)
	if err = cmp.Or(err, t.mayAsk("", fields.Review)); err != nil {
		return "", err
	}
	if status == "proposed" {
		if err := t.boundProposals(ctx, m.ID); err != nil {
			return "", err
		}
	}
	if err := t.insertSpec(ctx, *m, id, fields, status, unmet, approvedBy); err != nil {
		return "", err
	}
	t.addDependencies(id, dependencies) // nothing depends on a new spec: they can't close a cycle
	data := map[string]any{"key": in.Key, "title": in.Title, "status": status}
	if found.specID != "" {
		data["found_in"] = found.specID
	}
	if approvedBy != nil {
		data["approved_by"] = *approvedBy
	}
	t.emit("spec.created", m.ID, id, found.agent, data)
	if slices.Contains(openStatuses, status) {
		t.reopen(m)
	} else {
		t.completeIfDone(m)
	}
	return id, nil
}

// boundProposals refuses one more proposal of an account that has many open ones
// in a locked mission.
func (t *tx) boundProposals(ctx context.Context, missionID string) error {
	var n int
	err := t.QueryRow(ctx, `
		SELECT count(*) FROM spec_states WHERE mission_id = $1 AND status = 'proposed' AND proposed_by = $2`,
		missionID, t.account.userID).Scan(&n)
	if err != nil {
		return fmt.Errorf("counting proposals: %w", err)
	}
	if n >= maxProposals {
		return problem(http.StatusConflict, "too_many_proposed",
			"%d of your proposed specs are still undecided. Propose more once a person has decided on some of them.", n)
	}
	return nil
}

// insertSpec stores a new spec, without its dependencies, of which unmet
// aren't completed. approvedBy may be nil.
func (t *tx) insertSpec(ctx context.Context, m missionLock, id string, f specFields, status string, unmet int,
	approvedBy *string) error {
	done := doneFlags(specfile.Criteria(f.Body, specfile.RulesSections))
	t.queue(`
		INSERT INTO specs (id, mission_id, key, number, title, phase, priority, tags, estimated_context, body,
		                   derived_status, rules)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`,
		id, m.ID, f.Key, f.Number, f.Title, f.Phase, f.Priority, f.Tags, f.EstimatedContext, f.Body, status,
		specfile.RulesSections)
	t.queue(`
		INSERT INTO spec_states (spec_id, mission_id, status, done, unmet, priority, place, phase, tags, proposed_by,
		                         waits_since, review, approved_by)
		SELECT id, mission_id, $2, $3, $4, priority, place, phase, tags, CASE WHEN $2 = 'proposed' THEN $5::uuid END,
		       `+waitsSinceSQL("$2")+`, nullif($6, ''), $7::uuid FROM specs WHERE id = $1`,
		id, status, done, unmet, t.account.userID, f.Review, approvedBy)
	if err := t.send(ctx); err != nil {
		return specStoreError(err)
	}
	t.count(m.ID, nil, tallyOf(status, unmet, done))
	return nil
}

// specStoreError names what a constraint found.
func specStoreError(err error) error {
	switch {
	case err == nil:
		return nil
	case violated(err) == "specs_key_unique":
		return problem(http.StatusConflict, "key_taken", "The mission already has a spec with this key.")
	}
	return fmt.Errorf("storing a spec: %w", err)
}

// foundWork is a spec that an agent files.
type foundWork struct {
	Title      string   `json:"title"`
	Markdown   string   `json:"markdown" doc:"what to do, and acceptance criteria as checkboxes"`
	DependsOn  []string `json:"depends_on,omitempty" doc:"ids or keys"`
	LeaseToken string   `json:"lease_token,omitempty" doc:"of the spec that you found it in"`
}

func (in *foundWork) validate(v *violations, _ *Config) {
	v.line("title", in.Title, 1, 200)
	if len(in.Markdown) > maxSpecBody {
		v.add("markdown", "too_long", "must have at most 256 KiB")
	}
}

// filedAnswer is what add_spec returns.
type filedAnswer struct {
	SpecID string `json:"spec_id"`
	Key    string `json:"key"`
	Status string `json:"status"`
	Next   string `json:"next"`
}

// addSpecTool is add_spec. An agent that files the same again, while that is
// proposed, gets what there is.
func (s *Server) addSpecTool(ctx context.Context, t *tx, c *call, in *foundWork) (*filedAnswer, error) {
	m, err := t.openMission(ctx, c.target)
	if err != nil {
		return nil, err
	}
	out := &filedAnswer{Status: "planned", Next: "It is part of the mission now. Call claim_spec for what comes first."}
	if m.triage {
		out.Status, out.Next = "proposed", "A person will decide on it. Call claim_spec for other work."
		err := t.QueryRow(ctx, `
			SELECT s.id, s.key FROM spec_states h JOIN specs s ON s.id = h.spec_id
			WHERE h.mission_id = $1 AND h.status = 'proposed' AND h.proposed_by = $2 AND s.title = $3 AND s.body = $4 LIMIT 1`,
			m.ID, t.account.userID, in.Title, in.Markdown).Scan(&out.SpecID, &out.Key)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return nil, fmt.Errorf("looking for the same proposal: %w", err)
		}
	}
	if in.LeaseToken != "" {
		out.Next = "Don't begin it now: go on with the spec that you hold, and call report or complete_spec for that."
	}
	if out.SpecID != "" {
		return out, nil
	}
	found, err := t.countFiled(ctx, m.ID, in.LeaseToken)
	if err != nil {
		return nil, err
	}
	spec := &newSpec{Title: in.Title, Body: in.Markdown, Status: &out.Status, Review: orNull(specfile.Review(in.Markdown))}
	if spec.Dependencies, _, err = t.resolveSpecs(ctx, m.ID, in.DependsOn, "depends_on"); err != nil {
		return nil, err
	}
	if spec.Number, spec.Key, err = t.nextName(ctx, m.ID, in.Title); err != nil {
		return nil, err
	}
	out.Key = spec.Key
	out.SpecID, err = t.addSpec(ctx, &m, spec, found)
	return out, err
}

// countFiled counts a spec that the holder of a lease files; without a token it is
// found in no claim.
func (t *tx) countFiled(ctx context.Context, missionID, token string) (found finding, err error) {
	if token == "" {
		return found, nil
	}
	var filed int
	err = t.QueryRow(ctx, `
		UPDATE leases SET filed = filed + 1, reported_at = coalesce(reported_at, clock_timestamp())
		WHERE mission_id = $1 AND token = $2 RETURNING spec_id, agent, filed`,
		missionID, token).Scan(&found.specID, &found.agent, &filed)
	if errors.Is(err, pgx.ErrNoRows) {
		return found, errLeaseLost()
	}
	if err != nil {
		return found, fmt.Errorf("looking for a lease: %w", err)
	}
	if filed > maxFiled {
		return found, problem(http.StatusConflict, "too_many_proposed",
			"You have filed %d specs in this claim, which is the maximum. File more in another claim.", maxFiled)
	}
	return found, nil
}

// nextName gives a new spec the number behind the last one of its locked mission,
// with as many digits, and the key that this and the title make.
func (t *tx) nextName(ctx context.Context, missionID, title string) (number, key string, err error) {
	err = t.QueryRow(ctx, `
		SELECT number FROM specs WHERE mission_id = $1 AND place >= '0' AND place < ':'
		ORDER BY place DESC LIMIT 1`, missionID).Scan(&number)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", "", fmt.Errorf("looking for the last number: %w", err)
	}
	number = specfile.NextNumber(number)
	key = specfile.KeyOf(number, title)
	names := []string{key}
	for i := 2; i <= maxNames; i++ {
		names = append(names, key+"-"+strconv.Itoa(i))
	}
	err = t.QueryRow(ctx, `
		SELECT its.key FROM unnest($2::text[]) WITH ORDINALITY AS its (key, n)
		WHERE NOT EXISTS (SELECT FROM specs WHERE mission_id = $1 AND key = its.key) ORDER BY n LIMIT 1`,
		missionID, names).Scan(&key)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) { // without a free one the constraint refuses the first
		return "", "", fmt.Errorf("looking for a free key: %w", err)
	}
	return number, key, nil
}
