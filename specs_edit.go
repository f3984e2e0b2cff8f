package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"tachikoma/internal/specfile"
)

// specFields are what may be written of a spec.
type specFields struct {
	Key, Number, Title, Phase string
	Priority                  int
	Tags                      []string
	EstimatedContext, Body    string
	Review                    string // "" leaves it to the mission
}

// spec checks fields that are to replace the stored ones. A body that stays is
// left alone: with another status line it may be longer than it came.
func (v *violations) spec(f, stored specFields) {
	if !specfile.ValidKey(f.Key) {
		v.add("key", "invalid_key", "must have 1 to 128 letters in lower case, digits, dots, underscores and dashes")
	}
	v.line("title", f.Title, 1, 200)
	v.line("number", f.Number, 0, 16)
	v.line("phase", f.Phase, 0, 200)
	v.line("estimated_context", f.EstimatedContext, 0, 200)
	if f.Priority < 0 || f.Priority > 9 {
		v.add("priority", "out_of_range", "must be between 0 and 9")
	}
	v.tags("tags", f.Tags)
	if f.Body != stored.Body && len(f.Body) > maxSpecBody {
		v.add("body", "too_long", "must have at most 256 KiB")
	}
}

func (v *violations) specStatus(status string) {
	if !slices.Contains(specStatuses, status) {
		v.add("status", "unknown_value", "must be one of %s", strings.Join(specStatuses, ", "))
	}
}

const maxSpecBody = 256 << 10 // bytes

// doneFlags are the criteria's states, as they are stored.
func doneFlags(criteria []specfile.Criterion) []bool {
	done := make([]bool, len(criteria))
	for i, c := range criteria {
		done[i] = c.Done
	}
	return done
}

// specPatch is a merge patch (RFC 7396) of a spec. The status has a route of its
// own, since it follows a workflow. What the patch makes of the spec is checked
// once that is read.
type specPatch struct {
	Key              optional[string]   `json:"key"`
	Title            optional[string]   `json:"title"`
	Body             optional[string]   `json:"body"`
	Number           optional[string]   `json:"number"`
	Phase            optional[string]   `json:"phase"`
	Priority         optional[int]      `json:"priority"`
	Tags             optional[[]string] `json:"tags"`
	EstimatedContext optional[string]   `json:"estimated_context"`
	Review           optional[string]   `json:"review"`
	Dependencies     optional[[]string] `json:"dependencies"`
}

func (*specPatch) validate(*violations, *Config) {}

// applied is what the patch makes of a spec, or why it can't be.
func (in *specPatch) applied(before specFields) (specFields, error) {
	after := before
	in.Key.apply(&after.Key, "")
	in.Title.apply(&after.Title, "")
	in.Body.apply(&after.Body, "")
	in.Number.apply(&after.Number, "")
	in.Phase.apply(&after.Phase, "")
	in.Priority.apply(&after.Priority, specfile.DefaultPriority)
	in.Tags.apply(&after.Tags, []string{})
	in.EstimatedContext.apply(&after.EstimatedContext, "")
	in.Review.apply(&after.Review, "")
	var v violations
	v.spec(after, before)
	if in.Review.Set && !in.Review.Null {
		v.review(&in.Review.Value)
	}
	return after, v.err()
}

// updateSpec is PATCH /api/v1/specs/{id}.
func (s *Server) updateSpec(ctx context.Context, t *tx, c *call, in *specPatch) (*specView, error) {
	m, spec, err := t.lockSpec(ctx, c.target, lockNoKeyUpdate, alone)
	if err != nil {
		return nil, err
	}
	now, err := readWholeSpec(ctx, t, t.account, spec.id)
	if err != nil {
		return nil, err
	}
	before := specFields{now.Key, now.Number, now.Title, now.Phase, now.Priority, now.Tags, now.EstimatedContext, now.Body,
		spec.review}
	after, err := in.applied(before)
	if err = cmp.Or(err, t.mayChange(spec), t.mayAsk(before.Review, after.Review), m.open()); err != nil {
		return nil, err
	}
	if err := c.checkVersion(spec.version); err != nil {
		return nil, err
	}
	if before.Body != after.Body && now.Claim != nil {
		return nil, problem(http.StatusConflict, "leased",
			"%s is working on this spec: its body can't be edited until the lease ends.", now.Claim.Agent)
	}
	changed := before.differences(after)
	if in.Dependencies.Set {
		moved, err := t.replaceDependencies(ctx, &spec, now.cycle > 0, in.Dependencies.Value)
		if err != nil {
			return nil, err
		}
		if moved {
			changed = append(changed, "dependencies")
		}
	}
	if err := t.storeSpec(ctx, spec, now, after, changed); err != nil {
		return nil, err
	}
	return t.askView(spec.id), nil
}

// differences names the fields in which two versions of a spec differ.
func (f specFields) differences(other specFields) []string {
	var changed []string
	for _, field := range []struct {
		name string
		same bool
	}{
		{"key", f.Key == other.Key},
		{"title", f.Title == other.Title},
		{"body", f.Body == other.Body},
		{"number", f.Number == other.Number},
		{"phase", f.Phase == other.Phase},
		{"priority", f.Priority == other.Priority},
		{"tags", slices.Equal(f.Tags, other.Tags)},
		{"estimated_context", f.EstimatedContext == other.EstimatedContext},
		{"review", f.Review == other.Review},
	} {
		if !field.same {
			changed = append(changed, field.name)
		}
	}
	return changed
}

// storeSpec writes the fields that changed, if any did, with the event. A new
// body speaks for its criteria, and of the status as it is now.
func (t *tx) storeSpec(ctx context.Context, spec specLock, now specView, after specFields, changed []string) error {
	if len(changed) == 0 {
		return nil
	}
	if !slices.Equal(changed, []string{"dependencies"}) {
		t.queue(`
			UPDATE specs SET key = $2, number = $3, title = $4, phase = $5, priority = $6, tags = $7,
			       estimated_context = $8 WHERE id = $1`,
			spec.id, after.Key, after.Number, after.Title, after.Phase, after.Priority, after.Tags, after.EstimatedContext)
	}
	done := spec.done
	if now.Body != after.Body {
		rules := max(now.rules, specfile.RulesSections) // a folder's list of tasks stays one
		done = specfile.CarryUnboxed(now.Criteria, after.Body, rules)
		t.queue(`UPDATE specs SET body = $2, derived_status = $3, rules = $4, file_warnings = '[]' WHERE id = $1`,
			spec.id, after.Body, spec.status, rules)
		t.count(spec.missionID, spec.tally(), tallyOf(spec.status, spec.unmet, done))
	}
	t.queue(`
		UPDATE spec_states h SET priority = s.priority, place = s.place, phase = s.phase, tags = s.tags,
		       done = $2, review = nullif($3, ''), version = version + 1, updated_at = clock_timestamp()
		FROM specs s WHERE s.id = h.spec_id AND h.spec_id = $1`, spec.id, done, after.Review)
	if err := t.send(ctx); err != nil {
		return specStoreError(err)
	}
	t.emit("spec.updated", spec.missionID, spec.id, "",
		map[string]any{"key": after.Key, "changed": changed, "version": spec.version + 1})
	return nil
}

// deleteSpec is DELETE /api/v1/specs/{id}.
func (s *Server) deleteSpec(ctx context.Context, t *tx, c *call, _ *nothing) (*nothing, error) {
	m, spec, err := t.lockSpec(ctx, c.target, lockNoKeyUpdate, alone)
	if err = cmp.Or(err, t.mayChange(spec), t.mayAsk(spec.review, ""), m.open()); err != nil {
		return nil, err
	}
	if err := cmp.Or(c.checkVersion(spec.version), t.mayDrop(ctx, spec, nil)); err != nil {
		return nil, err
	}
	var key string
	err = t.QueryRow(ctx, `DELETE FROM specs WHERE id = $1 RETURNING key`, spec.id).Scan(&key)
	if violated(err) == "dependencies_dependents" {
		return nil, problem(http.StatusConflict, "has_dependents",
			"Other specs depend on this one. Remove it from their dependencies first.")
	}
	if err != nil {
		return nil, fmt.Errorf("deleting a spec: %w", err)
	}
	t.count(m.ID, spec.tally(), nil)
	t.emit("spec.deleted", m.ID, spec.id, "", map[string]any{"key": key})
	t.completeIfDone(&m)
	return nil, nil
}
