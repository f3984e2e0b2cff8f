package main

// What agents can do over the Model Context Protocol: ten tools, each a
// shorter way to what the API has, whose answers say what to do next, and specs
// as resources.

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"tachikoma/internal/specfile"
)

// tool is something an agent can call. What is encoded is what tools/list says
// of it.
type tool struct {
	Name        string         `json:"name"`
	Description string         `json:"description"`
	Input       map[string]any `json:"inputSchema"`
	Output      map[string]any `json:"outputSchema"`
	Annotations map[string]any `json:"annotations"`

	call func(ctx context.Context, c *call, arguments json.RawMessage) (any, error)
}

// The argument that names what a tool is about, if it is about one thing.
const (
	ofMission = "mission_id"
	ofSpec    = "spec_id"
)

// agentTools builds the table of tools: who may call, what, and who answers.
func (s *Server) agentTools() []tool {
	return []tool{
		newTool(s, forAccounts, "", "list_missions", s.listMissionsTool,
			"The missions you may see, the latest changed first. Begin here if you don't know a mission's id."),
		newTool(s, mayRead, ofMission, "next_spec", s.nextSpecTool,
			"What is ready in a mission, who works on what, and why the rest waits. Takes nothing."),
		newTool(s, mayEdit, ofMission, "claim_spec", s.claimSpecTool,
			"Take the mission's next ready spec. Gives its Markdown, its criteria and the lease token that the other tools "+
				"ask for, or no spec if nothing is ready."),
		newTool(s, mayRead, ofSpec, "show_spec", s.showSpecTool,
			"One spec: its Markdown, in pieces if it is long, its state, and why it isn't ready."),
		newTool(s, mayWork, ofSpec, "report", inOneTx(s, s.reportTool),
			"Prolong your lease, check criteria and add log lines, all in one. Call it for each criterion met and at least "+
				"every few minutes: a lease that runs out gives the spec to others."),
		newTool(s, mayEdit, ofSpec, "complete_spec", inOneTx(s, s.completeSpecTool),
			"Finish a spec that you hold. All criteria have to be checked, or override has to say why not."),
		newTool(s, mayWork, ofSpec, "fail_spec", inOneTx(s, s.failSpecTool),
			"Give a spec up that you hold, and say why. Somebody tries again, unless retry is false or it has had its "+
				"attempts."),
		newTool(s, mayWork, ofSpec, "ask", s.askTool,
			"Ask a person what only they can decide about a spec that you hold. Prolongs your lease."),
		newTool(s, mayEdit, ofMission, "add_spec", inOneTx(s, s.addSpecTool),
			"File work that you found and that isn't part of your spec."),
		newTool(s, forAccounts, "", "search_specs", s.searchSpecsTool,
			"Full-text search in the specs you may see."),
	}
}

// newTool makes a tool of a function as serveBody makes a handler: its arguments are
// refused like a body of the API, admission is what a route of that permission
// asks, and the argument of names the target.
func newTool[T any, In checkedRequest[T], Out any](s *Server, p permission, of, name string,
	do func(ctx context.Context, c *call, in In) (*Out, error), description string) tool {
	input := schemaOf(reflect.TypeFor[T]())
	input["additionalProperties"] = false
	if of != "" {
		required, _ := input["required"].([]string)
		input["required"] = append([]string{of}, required...)
		input["properties"].(map[string]any)[of] = map[string]any{"type": "string"}
	}
	return tool{
		Name: name, Description: description, Input: input, Output: schemaOf(reflect.TypeFor[Out]()),
		Annotations: map[string]any{"readOnlyHint": p.access < accessEditor, "destructiveHint": false,
			"openWorldHint": false},
		call: func(ctx context.Context, c *call, arguments json.RawMessage) (any, error) {
			in := In(new(T))
			id, err := decodeArguments(arguments, in, of, input["required"])
			if err != nil {
				return nil, err
			}
			at := target{mission: id}
			if of == ofSpec {
				at = target{spec: id}
			}
			if err := s.admitTool(ctx, c, p, at); err != nil {
				return nil, err
			}
			if err := s.validate(in); err != nil {
				return nil, err
			}
			return do(ctx, c, in)
		},
	}
}

// decodeArguments fills v as decodeLoosely does, and names what is required and
// isn't there. The argument of isn't one of v's: it is the id that is returned.
// What is null counts as left out, since some models send that.
func decodeArguments(arguments json.RawMessage, v any, of string, required any) (id string, err error) {
	given := make(map[string]json.RawMessage)
	if !absent(arguments) {
		if err := decodeLoosely(fmt.Appendf(nil, `{"arguments":%s}`, arguments), &struct {
			Arguments *map[string]json.RawMessage `json:"arguments"`
		}{&given}); err != nil {
			return "", err
		}
	}
	maps.DeleteFunc(given, func(_ string, value json.RawMessage) bool { return absent(value) })
	var missing violations
	names, _ := required.([]string)
	for _, name := range names {
		if _, ok := given[name]; !ok {
			missing.add(name, "required", "is required")
		}
	}
	var named map[string]string
	if value, ok := given[of]; ok && of != "" {
		delete(given, of)
		if err := decode(fmt.Appendf(nil, `{%q:%s}`, of, value), &named); err != nil {
			return "", err
		}
	}
	encoded, err := encode(given)
	if err != nil {
		return "", fmt.Errorf("encoding arguments again: %w", err)
	}
	return strings.ToLower(named[of]), cmp.Or(decodeLoosely(encoded, v), missing.err())
}

// absent says whether a member is left out or null.
func absent(member json.RawMessage) bool { return len(member) == 0 || string(member) == "null" }

// admitTool checks whether the caller may use a tool on what it names, as admit
// does for a route.
func (s *Server) admitTool(ctx context.Context, c *call, p permission, at target) error {
	c.permission, c.target = p, at
	if p.access != accessNone && !validID(at.mission+at.spec) {
		c.target = target{}
		return errNotFound()
	}
	err := permit(c.account, p, p.access > accessReader)
	if err != nil && p.access != accessNone {
		err = cmp.Or(admitToMission(ctx, s.db, c), err)
	}
	return err
}

// callTool runs a tool. What it refuses is a result too, which agents see and
// can act on; only what concerns the credential or the server is an error.
func (s *Server) callTool(ctx context.Context, c *call, q rpcRequest) (map[string]any, error) {
	for _, t := range s.tools {
		if t.Name != q.Params.Name {
			continue
		}
		c.pattern += " " + t.Name // so that logs and metrics tell tools apart
		cancelled, end := s.calls.Begin(q.callName(c, q.ID))
		defer end()
		c.cancelled = cancelled
		var out any
		err := q.oddArguments()
		if err == nil {
			out, err = t.call(ctx, c, q.Params.Arguments)
		}
		if err != nil {
			refusal := s.hideFrom(ctx, c, asProblem(err))
			if refusal.status == http.StatusUnauthorized || refusal.status >= http.StatusInternalServerError {
				return nil, err
			}
			return map[string]any{"content": []any{textContent(refusalText(refusal))}, "isError": true}, nil
		}
		encoded, err := encode(out)
		if err != nil {
			return nil, fmt.Errorf("encoding a tool's answer: %w", err)
		}
		return map[string]any{"structuredContent": toolAnswer(encoded)}, nil
	}
	return nil, newRPCError(http.StatusOK, rpcInvalidParams, "There is no tool %q; tools/list names them all.",
		clip(q.Params.Name))
}

// oddArguments is a 422 for arguments that aren't I-JSON.
func (q rpcRequest) oddArguments() error {
	if q.odd == nil {
		return nil
	}
	return invalidField(cmp.Or(pathText(q.odd.Path[2:]), "arguments"), "malformed",
		"can't be taken: %s (byte %d of the message)", q.odd.Reason, q.odd.Offset)
}

// nextAfter says what an agent can do about a refusal, by its code.
var nextAfter = map[string]string{
	"lease_lost": "Leave this spec: it isn't yours any more, unless an earlier call has ended it for you. " +
		"Call claim_spec.",
	"criteria_unmet": "Meet them and call report with their numbers in check, or call complete_spec with the " +
		"reason in override.",
	"too_many_questions": "Go on with other criteria and call report, or call ask with the question_id of one of them.",
	"mission_not_active": "Stop, and tell the user.",
	"too_many_proposed":  "File no more for now: go on with the spec that you hold, or call claim_spec.",
	"not_found":          "Call list_missions or search_specs for ids that you may use.",
	"forbidden": "Stop, and tell the user: you need an API key of scope write, and the role of editor in " +
		"the mission.",
	"validation_failed": "Correct that and call again.",
}

// refusalText tells an agent what was wrong, in full, and what to do next.
func refusalText(e *apiError) string {
	var b strings.Builder
	b.WriteString(e.code + ":")
	if len(e.fields) == 0 {
		b.WriteString(" " + e.detail)
	}
	for _, f := range e.fields {
		b.WriteString("\n- " + strings.TrimSpace(f.Field+" "+f.Message)) // the arguments themselves have no name
	}
	if open, ok := e.extra["criteria"].([]specfile.Criterion); ok {
		some, _, left := firstCriteria(open)
		for _, c := range some {
			fmt.Fprintf(&b, "\n- %d. %s", c.Index, c.Text)
		}
		if left > 0 {
			fmt.Fprintf(&b, "\n- and %d more", left)
		}
	}
	if next := nextAfter[e.code]; next != "" {
		b.WriteString("\nNext: " + next)
	}
	return b.String()
}

type listMissionsArguments struct {
	Status string `json:"status,omitempty" enum:"draft,active,paused,completed,cancelled,archived"`
	Query  string `json:"q,omitempty" doc:"words of the name or description"`
}

func (*listMissionsArguments) validate(*violations, *Config) {} // the query does it

type missionsAnswer struct {
	Missions []briefMission `json:"missions"`
	Next     string         `json:"next"`
}

// listMissionsTool is list_missions.
func (s *Server) listMissionsTool(ctx context.Context, c *call, in *listMissionsArguments) (*missionsAnswer, error) {
	q := queryOf(map[string]string{"status": in.Status, "q": in.Query})
	filter := newListFilter(c.account)
	filter.missionStatus(q.choice("status", "", missionStatuses...))
	order := readOrder(q, missionSorts, "-updated_at", filter)
	if err := q.err(); err != nil {
		return nil, err
	}
	found, err := s.findMissions(ctx, filter, order)
	if err != nil {
		return nil, err
	}
	out := &missionsAnswer{Missions: []briefMission{}, Next: "No mission here hands out work. Stop, and tell the user."}
	if found.NextCursor != nil || in.Query != "" || in.Status != "" && in.Status != "active" {
		out.Next = "None of these hands out work, but others may: call list_missions with status active, and nothing else."
	}
	for _, m := range found.Items {
		if out.Missions = append(out.Missions, m.brief()); m.Status == "active" {
			out.Next = "Call next_spec or claim_spec with the id of an active mission."
		}
	}
	return out, nil
}

// specLine is a spec in a list.
type specLine struct {
	ID        string   `json:"id"`
	Key       string   `json:"key"`
	Title     string   `json:"title"`
	Status    string   `json:"status"`
	Ready     bool     `json:"ready"`
	MissionID string   `json:"mission_id,omitempty"`
	HeldBy    string   `json:"held_by,omitempty"`
	WaitsFor  []string `json:"waits_for,omitempty"`
	Snippet   string   `json:"snippet,omitempty"`
}

func lineOf(v specSummary) specLine {
	return specLine{ID: v.ID, Key: v.Key, Title: v.Title, Status: v.Status, Ready: v.Ready}
}

type nextSpecAnswer struct {
	Mission briefMission `json:"mission"`
	Open    []specLine   `json:"open"` // ready ones first, as they are handed out, then those that are held
	Next    string       `json:"next"`
}

// openSpecs is how many specs next_spec speaks of at most.
const openSpecs = 50

// nextSpecTool is next_spec: a mission's open specs, of which the first openSpecs.
func (s *Server) nextSpecTool(ctx context.Context, c *call, _ *nothing) (*nextSpecAnswer, error) {
	a, id := c.account, c.target.mission
	mission, err := readMission(ctx, s.db, a, id)
	if err != nil {
		return nil, err
	}
	ctx, end, err := s.beginRead(ctx, a, "", s.seen.of(id).costly)
	if err != nil {
		return nil, err
	}
	defer end()
	var open []specSummary
	for _, stretch := range openStretches {
		if len(open) == openSpecs {
			break
		}
		rows, err := s.db.Query(ctx, `SELECT `+summaryColumns+`, NULL, false `+stretch, a.userID, a.admin(), id)
		if err != nil {
			return nil, fmt.Errorf("reading open specs: %w", err)
		}
		more, err := collectSummaries(rows, openSpecs)
		if err != nil {
			return nil, fmt.Errorf("reading open specs: %w", err)
		}
		open = append(open, more[:min(len(more), openSpecs-len(open))]...)
	}
	s.seen.noteCost(id, open)
	if err := mission.noteFull(ctx, s.db); err != nil {
		return nil, err
	}
	out := &nextSpecAnswer{mission.brief(), make([]specLine, len(open)), mission.next()}
	for i, v := range open {
		if out.Open[i], err = openLine(v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// openStretches read the open specs of mission $3, of which openSpecs at most: what
// is ready, as it is handed out; what is held; and of the rest the first of each
// status, by priority. Each follows an index of its own, however many specs
// there are: each LIMIT is written out, see listOrder.first, and stands where
// PostgreSQL can't prefer another order. The rest is among twice openSpecs of its
// status, since it is only asked for if fewer than openSpecs are ready or held.
var openStretches = []string{
	specsSQL + ` AND h.mission_id = $3 AND ` + readySQL +
		` ORDER BY h.priority DESC, h.ahead DESC, h.place, h.spec_id ` + firstOpen,
	specsSQL + ` AND l.mission_id = $3 ORDER BY h.priority DESC, h.ahead DESC, h.place, h.spec_id ` + firstOpen,
	`FROM unnest('{` + strings.Join(unfinishedStatuses, ",") + `}'::text[]) AS open (status)
	CROSS JOIN LATERAL (
		SELECT h.spec_id FROM (
			SELECT * FROM spec_states WHERE mission_id = $3 AND status = open.status
			ORDER BY place, spec_id LIMIT ` + strconv.Itoa(2*openSpecs) + `
		) AS h JOIN missions m ON m.id = h.mission_id
		WHERE NOT ` + readySQL + `
		  AND (SELECT true FROM leases WHERE spec_id = h.spec_id) IS NULL
		ORDER BY h.place, h.spec_id ` + firstOpen + `
	) AS rest
	CROSS JOIN LATERAL (SELECT * FROM spec_states WHERE spec_id = rest.spec_id OFFSET 0) AS h
	JOIN specs s ON s.id = rest.spec_id JOIN missions m ON m.id = s.mission_id LEFT JOIN leases l ON l.spec_id = s.id
	WHERE ` + readableSQL + ` ORDER BY h.priority DESC, h.ahead DESC, h.place, h.spec_id ` + firstOpen,
}

// firstOpen is the LIMIT of openStretches.
var firstOpen = fmt.Sprintf("LIMIT %d", openSpecs)

// openLine says of an open spec who holds it, or else what it waits for.
func openLine(v specSummary) (specLine, error) {
	line := lineOf(v)
	if v.Claim != nil {
		line.HeldBy = fmt.Sprintf("%s until %s", v.Claim.Agent, v.Claim.ExpiresAt.Format(time.RFC3339))
		return line, nil
	}
	if v.Ready {
		return line, nil
	}
	reasons, err := whyNotReady(v)
	line.WaitsFor = sentences(reasons, 2)
	return line, err
}

type searchArguments struct {
	Query     string `json:"q"`
	MissionID string `json:"mission_id,omitempty"`
}

func (*searchArguments) validate(*violations, *Config) {} // the query does it

type searchAnswer struct {
	Specs []specLine `json:"specs"`
	Next  string     `json:"next"`
}

// searchResults is how many specs search_specs finds at most.
const searchResults = "20"

// snippetBytes bounds a snippet: words may be long.
const snippetBytes = 1000

// searchSpecsTool is search_specs.
func (s *Server) searchSpecsTool(ctx context.Context, c *call, in *searchArguments) (*searchAnswer, error) {
	q := queryOf(map[string]string{"q": in.Query, "mission_id": in.MissionID, "limit": searchResults})
	filter := newSpecFilter(c.account, q.id("mission_id"))
	order := readOrder(q, specSorts, "number", &filter.listFilter)
	if strings.TrimSpace(in.Query) == "" {
		q.fail("q", "required", "must have a word to search for")
	}
	if err := q.err(); err != nil {
		return nil, err
	}
	found, err := s.findSpecs(ctx, filter, order)
	if err != nil {
		return nil, err
	}
	out := &searchAnswer{Specs: []specLine{}, Next: "Nothing was found: call search_specs with other or fewer words."}
	for _, v := range found.Items {
		line := lineOf(v)
		line.MissionID = v.MissionID
		if v.Snippet != nil {
			line.Snippet = cut(*v.Snippet, snippetBytes)
		}
		out.Specs = append(out.Specs, line)
		out.Next = "Call show_spec with the id of the one you want."
	}
	return out, nil
}

// resourcePrefix is what the URI of a spec begins with; its id follows.
const resourcePrefix = "tachikoma://specs/"

// listResources lists the specs that an account may see, in pages.
func (s *Server) listResources(ctx context.Context, a account, cursor string) (map[string]any, error) {
	filter, q := newSpecFilter(a, ""), queryOf(map[string]string{"cursor": cursor})
	order := readOrder(q, specSorts, "number", &filter.listFilter)
	if q.err() != nil {
		return nil, newRPCError(http.StatusOK, rpcInvalidParams,
			"This cursor isn't one of this list: leave it out to start again.")
	}
	specs, err := s.findSpecs(ctx, filter, order)
	if err != nil {
		return nil, err
	}
	resources := make([]any, 0, len(specs.Items))
	for _, v := range specs.Items {
		resources = append(resources, map[string]any{
			"uri": resourcePrefix + v.ID, "name": v.Key, "title": v.Title, "mimeType": "text/markdown",
			"description": "A spec that is " + strings.ReplaceAll(v.Status, "_", " ") + ".",
			"annotations": map[string]any{"lastModified": v.UpdatedAt},
		})
	}
	result := map[string]any{"resources": resources}
	if specs.NextCursor != nil {
		result["nextCursor"] = *specs.NextCursor
	}
	return cacheable(result, 0), nil
}

// readResource returns a spec's Markdown.
func (s *Server) readResource(ctx context.Context, a account, q rpcRequest) (map[string]any, error) {
	id, ok := strings.CutPrefix(q.Params.URI, resourcePrefix)
	err := error(errNotFound())
	var spec specRead
	if ok && validID(id) {
		spec, err = s.readSpec(ctx, a, strings.ToLower(id))
	}
	if asProblem(err).status == http.StatusNotFound {
		code := rpcInvalidParams
		if !q.modern {
			code = mcpResourceNotFound
		}
		return nil, newRPCError(http.StatusOK, code, "There is no resource %q, or it isn't yours to see.", clip(q.Params.URI))
	}
	if err != nil {
		return nil, err
	}
	return cacheable(map[string]any{"contents": []any{
		map[string]any{"uri": q.Params.URI, "mimeType": "text/markdown", "text": spec.markdown},
	}}, 0), nil
}
