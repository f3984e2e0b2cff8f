package main

// The tools with which an agent works: claim, show, report, complete, fail; and
// the prompt that tells it how.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/specfile"
)

// Many hosts cut or refuse an answer of over some 25,000 tokens. No answer has
// more than 60,000 bytes: of a spec's text it has excerptBytes, of these
// criteriaBytes of criteria, and all else is at most 10,000.
const (
	excerptBytes   = 50_000
	criteriaBytes  = 15_000
	criterionBytes = 4_000
	listBytes      = 2_500 // of a list of texts
)

// takenSpec is a spec as its holder needs it.
type takenSpec struct {
	ID      string `json:"id"`
	Key     string `json:"key"`
	Title   string `json:"title"`
	Attempt int    `json:"attempt"`
	excerpt
}

// toolClaim is a claim by an agent whose host may lose the answer.
type toolClaim struct {
	claimRequest
	Another bool `json:"another,omitempty" doc:"also if you hold one of which nothing was reported"`
}

// claimAnswer begins with what mustn't be lost if a host cuts it all the same.
type claimAnswer struct {
	LeaseToken string     `json:"lease_token,omitempty"`
	ExpiresAt  time.Time  `json:"expires_at,omitzero"`
	Next       string     `json:"next"`
	History    []any      `json:"history,omitempty" doc:"what came before, latest first"`
	Spec       *takenSpec `json:"spec,omitempty"`
	Held       heldLeases `json:"held,omitempty"`
}

// claimSpecTool is claim_spec. Like the route it waits if asked to. An agent that
// asks again since it got no answer is told of what it was given then: with
// another spec each time it would burn the attempts of all.
func (s *Server) claimSpecTool(ctx context.Context, c *call, in *toolClaim) (*claimAnswer, error) {
	in.unlessHeld = !in.Another
	given, err := s.claimPatiently(ctx, c, &in.claimRequest)
	if held, ok := errors.AsType[heldLeases](err); ok {
		return &claimAnswer{Next: held.next(), Held: held}, nil
	}
	if errors.Is(err, errNothingReady) {
		mission, err := readMission(ctx, s.db, c.account, c.target.mission)
		err = cmp.Or(err, mission.noteFull(ctx, s.db))
		next := mission.next()
		if mission.Stats.ready > 0 && (len(in.Tags) > 0 || in.Phase != "") {
			next = "Nothing of these tags and phase is ready, but other specs are: call claim_spec without them, or stop."
		}
		return &claimAnswer{Next: next}, err
	}
	if err != nil {
		return nil, err
	}
	v, past := given.Spec, given.History.objects(given.Spec.Decision)
	text, rest, err := excerptOf(v.ID, v.Body, v.Criteria, 0, excerptBytes-sizeOf(past))
	return &claimAnswer{
		LeaseToken: given.Lease.Token, ExpiresAt: given.Lease.ExpiresAt,
		Next: given.History.next(v.Decision) + rest + nextOfHolder(v.Criteria) + fmt.Sprintf(" If you can't, call "+
			"fail_spec. Your lease ends %d s from now unless you call report before.",
			int(s.leaseTime(in.LeaseSeconds).Seconds())),
		History: past, Spec: &takenSpec{v.ID, v.Key, v.Title, given.Lease.Attempt, text},
	}, err
}

// heldLease is one of which its holder has reported nothing: perhaps it never got
// the answer that gave it the lease.
type heldLease struct {
	Key        string    `json:"key"`
	SpecID     string    `json:"spec_id"`
	LeaseToken string    `json:"lease_token"`
	Since      time.Time `json:"since"`
}

// heldLeases is the error of a claim that is refused for them.
type heldLeases []heldLease

func (heldLeases) Error() string { return "the agent holds what it may not know of" }

// askUnreported queues a read of the first leases of an agent of which it has
// reported nothing.
func (t *tx) askUnreported(missionID, agent string) *heldLeases {
	var held heldLeases
	t.queue(`
		SELECT s.key, l.spec_id, l.token, l.claimed_at FROM leases l JOIN specs s ON s.id = l.spec_id
		WHERE l.mission_id = $1 AND l.user_id = $2 AND l.agent = $3 AND l.reported_at IS NULL
		      AND l.expires_at > clock_timestamp()
		ORDER BY l.claimed_at LIMIT 20`, missionID, t.account.userID, agent).Query(func(rows pgx.Rows) (err error) {
		held, err = pgx.CollectRows(rows, pgx.RowToStructByPos[heldLease])
		return err
	})
	return &held
}

// next says what an agent should do that claims although it holds specs.
func (h heldLeases) next() string {
	keys := make([]string, 0, len(h))
	for _, lease := range h {
		keys = append(keys, lease.Key)
	}
	return fmt.Sprintf("You hold %s, of which nothing was reported. If the answer that gave you that was lost, call "+
		"show_spec and go on with this lease_token. "+
		"If another agent goes by your name, call claim_spec with a name of your own, or with another: true.",
		strings.Join(keys, ", "))
}

// nextOfHolder says what the holder of a spec should do.
func nextOfHolder(criteria []specfile.Criterion) string {
	for _, c := range criteria {
		if !c.Done {
			return "Do what the spec asks for, and call report with the number of each criterion you have met; when all " +
				"are checked, call complete_spec."
		}
	}
	if len(criteria) > 0 {
		return "All criteria are checked: when the work is done, call complete_spec."
	}
	return "Do what the spec asks for, then call complete_spec."
}

// excerpt is as much of a spec's text as one answer has: its criteria, unless it
// goes on from a line, and its Markdown.
type excerpt struct {
	Criteria     []specfile.Criterion `json:"criteria,omitzero"`
	CriteriaLeft int                  `json:"criteria_left,omitempty"`
	NextOffset   int                  `json:"next_offset,omitempty"`
	Markdown     string               `json:"markdown"`
}

// excerptOf is what fits into so many bytes of a spec's text from a line on, and
// what to say of the rest, if there is one.
func excerptOf(id, markdown string, criteria []specfile.Criterion, offset, room int) (
	text excerpt, rest string, err error) {
	lines, end := slices.Collect(strings.Lines(markdown)), offset
	if offset > 0 && offset >= len(lines) {
		return text, "", invalidField("offset", "out_of_range", "must be less than %d, the number of lines", len(lines))
	}
	if offset == 0 {
		var used int
		if text.Criteria, used, text.CriteriaLeft = firstCriteria(criteria); text.CriteriaLeft > 0 {
			rest = fmt.Sprintf("The Markdown has %d more criteria. ", text.CriteriaLeft)
		}
		room -= used
	}
	for ; end < len(lines) && jsonBytes(lines[end]) <= room; end++ {
		room -= jsonBytes(lines[end])
	}
	text.Markdown = strings.Join(lines[offset:end], "")
	if end == offset && end < len(lines) {
		text.Markdown = cut(lines[end], room)
		end++
		rest += fmt.Sprintf("Line %d is cut: resources/read of %s%s has all of it. ", end, resourcePrefix, id)
	}
	if end < len(lines) {
		text.NextOffset = end
		rest += fmt.Sprintf("The Markdown goes on: call show_spec with offset %d for what follows. ", end)
	}
	return text, rest, nil
}

// firstCriteria are as many criteria as an answer has of them, how many bytes of
// JSON they take, and how many are left.
func firstCriteria(criteria []specfile.Criterion) (first []specfile.Criterion, used, left int) {
	first = []specfile.Criterion{}
	for i, c := range criteria {
		if text := cut(c.Text, criterionBytes); text != c.Text {
			c.Text = text + "…"
		}
		size := jsonBytes(c.Text) + len(`{"index":12345,"text":"…","done":false},`)
		if used+size > criteriaBytes {
			return first, used, len(criteria) - i
		}
		first, used = append(first, c), used+size
	}
	return first, used, 0
}

// cut is the longest start of a text that takes at most so many bytes of JSON.
func cut(text string, room int) string {
	for i, r := range text {
		if room -= jsonBytes(string(r)); room < 0 {
			return text[:i]
		}
	}
	return text
}

// jsonBytes is how many bytes a text takes in a JSON string.
func jsonBytes(text string) (n int) {
	for _, r := range text {
		switch {
		case strings.ContainsRune("\"\\\n\r\t", r):
			n += 2
		case r < ' ', r == '\u2028', r == '\u2029':
			n += 6
		default:
			n += utf8.RuneLen(r)
		}
	}
	return n
}

type showArguments struct {
	Offset int `json:"offset,omitempty" doc:"the line to go on from: next_offset of the answer before"`
}

func (in *showArguments) validate(v *violations, _ *Config) {
	if in.Offset < 0 {
		v.add("offset", "out_of_range", "must be at least 0")
	}
}

// showAnswer is how a spec stands, and what it says.
type showAnswer struct {
	showState
	excerpt

	whole *specContent // has the excerpt encoded already, if that is all
}

type showState struct {
	ID        string   `json:"id"`
	MissionID string   `json:"mission_id"`
	Key       string   `json:"key"`
	Title     string   `json:"title"`
	Status    string   `json:"status"`
	Ready     bool     `json:"ready"`
	WaitsFor  []string `json:"waits_for"`
	Documents []string `json:"documents"`
	Warnings  []string `json:"warnings"`
	History   []any    `json:"history"`
	Next      string   `json:"next"`
}

func (a *showAnswer) encode() ([]byte, error) {
	if a.whole == nil {
		return encode(struct {
			showState
			excerpt
		}{a.showState, a.excerpt})
	}
	state, err := encode(a.showState)
	if err != nil {
		return nil, err
	}
	b := a.whole.addTo(state, "markdown", 1)
	b.WriteByte('}')
	return b.Bytes(), nil
}

// next says what an agent should do that looked at a spec.
func (v specSummary) next() string {
	switch {
	case v.Status == "completed":
		return "It is completed. Call next_spec for what is left of its mission."
	case v.Ready:
		return "Call claim_spec, which gives the next ready spec of its mission: this one, or another that comes first."
	case v.Claim != nil:
		return "If it is you who holds it, go on and call report. Otherwise call next_spec for what else there is."
	}
	return "It can't be claimed now. Call next_spec for what else there is."
}

// warningTexts are warnings as agents read them.
func warningTexts(warnings []specfile.Warning) []string {
	texts := make([]string, len(warnings))
	for i, w := range warnings {
		texts[i] = placeOf(w) + ": " + w.Message
	}
	return texts
}

// firstTexts are as many of some texts as an answer has room for, and how many
// are left.
func firstTexts(texts []string) []string {
	first, room := []string{}, listBytes
	for i, text := range texts {
		text = cut(text, listBytes/4)
		if room -= jsonBytes(text) + len(`"",`); room < 0 {
			return append(first, fmt.Sprintf("and %d more", len(texts)-i))
		}
		first = append(first, text)
	}
	return first
}

// showSpecTool is show_spec.
func (s *Server) showSpecTool(ctx context.Context, c *call, in *showArguments) (*showAnswer, error) {
	v, err := s.readSpec(ctx, c.account, c.target.spec)
	if err != nil {
		return nil, err
	}
	h := history{}
	if v.Version > 1 { // it was claimed, perhaps
		if h, err = s.readHistory(ctx, v.ID); err != nil {
			return nil, err
		}
	}
	past := h.objects(v.Decision)
	out := &showAnswer{showState: showState{v.ID, v.MissionID, v.Key, v.Title, v.Status, v.Ready, []string{},
		firstTexts(v.Documents), firstTexts(warningTexts(v.Warnings)), past, v.next()}}
	room := excerptBytes - sizeOf(past)
	if in.Offset == 0 && len(v.encoded.markdown)+len(v.encoded.criteria) <= room {
		out.whole = v.specContent
	} else {
		var rest string
		if out.excerpt, rest, err = excerptOf(v.ID, v.markdown, v.criteria, in.Offset, room); err != nil {
			return nil, err
		}
		out.Next = rest + out.Next
	}
	if v.Status != "completed" {
		reasons, err := whyNotReady(v.specSummary)
		out.WaitsFor = sentences(reasons, 20)
		return out, err
	}
	return out, nil
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
	Next      string               `json:"next"`
	Open      []specfile.Criterion `json:"open"`
	OpenLeft  int                  `json:"open_left,omitempty"`
}

// maxReportLogs is how many log lines one report may have.
const maxReportLogs = 100

// reportTool is report, all in one transaction.
func (s *Server) reportTool(ctx context.Context, t *tx, c *call, in *reportRequest) (*reportAnswer, error) {
	m, spec, held, err := t.lockLease(ctx, c.target, lockKeyShare, alone, in.LeaseToken)
	if err != nil {
		return nil, err
	}
	kept, err := t.prolong(ctx, spec.id, in.LeaseToken, s.leaseTime(in.LeaseSeconds))
	if err != nil {
		return nil, err
	}
	if len(in.Check)+len(in.Uncheck)+len(in.Links) > 0 || in.Message != "" {
		if err := t.progress(spec, held, &in.progress); err != nil {
			return nil, err
		}
	}
	for _, line := range in.Logs {
		t.log(m.ID, held.agent, logEntry{Level: line.Level, Message: line.Message, SpecID: spec.id})
	}
	now, out := t.askView(spec.id), &reportAnswer{ExpiresAt: kept.ExpiresAt}
	t.then(func() error {
		out.Next = nextOfHolder(now.Criteria)
		open := slices.DeleteFunc(now.Criteria, func(c specfile.Criterion) bool { return c.Done })
		out.Open, _, out.OpenLeft = firstCriteria(open)
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
	m, status, err := t.completeHeld(ctx, c.target, in)
	if err != nil {
		return nil, err
	}
	return t.ended(m, status)
}

// failSpecTool is fail_spec.
func (s *Server) failSpecTool(ctx context.Context, t *tx, c *call, in *failure) (*endAnswer, error) {
	m, status, err := t.fail(ctx, c.target, in, s.config.MaxAttempts)
	if err != nil {
		return nil, err
	}
	return t.ended(m, status)
}

// ended tells of a spec that its holder has given back, and of its mission then.
func (t *tx) ended(m missionLock, status string) (*endAnswer, error) {
	mission, err := t.askMissionView(m.ID)
	if err != nil {
		return nil, err
	}
	if m.maxInReview > 0 {
		t.ask(`SELECT `+inFullSQL, []any{m.ID}, &mission.reviewFull)
	}
	out := &endAnswer{Status: status}
	t.then(func() error {
		out.Mission, out.Next = mission.brief(), mission.next()
		if status == "in_review" {
			out.Next = "It waits for a person's review; don't wait for that. " + out.Next
		}
		return nil
	})
	return out, nil
}

// workPrompt is the one prompt there is.
var workPrompt = map[string]any{
	"name": "work", "title": "Work on a mission",
	"description": "Work through a mission, spec by spec, until nothing is left to do.",
	"arguments": []any{
		map[string]any{"name": "mission_id", "description": "the mission; without it, the first active one",
			"required": false},
		map[string]any{"name": "agent", "description": "your name in the mission's log", "required": false},
	},
}

// getPrompt fills in the prompt.
func getPrompt(p mcpParams) (map[string]any, error) {
	var in struct {
		MissionID string `json:"mission_id"`
		Agent     string `json:"agent"`
	}
	if p.Name != "work" {
		return nil, newRPCError(http.StatusOK, rpcInvalidParams, "There is no prompt %q; there is work.", clip(p.Name))
	}
	if _, err := decodeArguments(p.Arguments, &in, "", nil); err != nil {
		return nil, newRPCError(http.StatusOK, rpcInvalidParams, "The arguments are mission_id and agent, both strings.")
	}
	return map[string]any{
		"description": workPrompt["description"],
		"messages":    []any{map[string]any{"role": "user", "content": textContent(workInstructions(in.MissionID, in.Agent))}},
	}, nil
}

// workInstructions tell an agent how to work on a mission. Both may be "".
func workInstructions(missionID, name string) string {
	mission, agent := "Call list_missions and take the first mission that is active.",
		"a name of your own, the same in every call"
	if missionID != "" {
		mission = fmt.Sprintf("The mission is %q.", clip(missionID))
	}
	if name != "" {
		agent = fmt.Sprintf("%q", clip(name))
	}
	return fmt.Sprintf(workText, mission, agent)
}

const workText = `Work through a Tachikoma mission, one spec after the other. %s

1. Call claim_spec; agent is %s. If it gives no spec, do what next says.
2. Read the spec's markdown and do what it asks for, here, in this workspace. Each acceptance criterion has a number.
3. Whenever a criterion is met, and at least every few minutes, call report with its number in check. Tell in message or logs what others should know. Report only what you have verified.
4. When all criteria are checked, call complete_spec. If only a person can decide something, call ask. If you can't go on, call fail_spec with a reason that helps whoever tries next. File other work that you find with add_spec, and don't begin it.
5. Do what next says in the answer: usually claim the next spec, also where a person has yet to review the one before. Stop when it says so, and tell the user what was done and what is left.

An error names its code and what to do. After lease_lost the spec is no longer yours: leave it and claim again.`
