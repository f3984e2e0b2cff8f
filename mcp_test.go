package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// rpc sends a request of a revision with a handshake, and returns the answer.
func (c *client) rpc(method string, params any, headers ...string) *answer {
	c.t.Helper()
	return c.do("POST", "/mcp", map[string]any{"jsonrpc": "2.0", "id": 7, "method": method, "params": params}, headers...)
}

// modernRPC is rpc in revision 2026-07-28. params may be nil.
func (c *client) modernRPC(method, name string, params fields) *answer {
	c.t.Helper()
	with := fields{"_meta": fields{"io.modelcontextprotocol/protocolVersion": mcpModern,
		"io.modelcontextprotocol/clientCapabilities": fields{}}}
	for key, value := range params {
		with[key] = value
	}
	return c.rpc(method, with, "Mcp-Protocol-Version", mcpModern, "Mcp-Method", method, "Mcp-Name", name)
}

// tool calls a tool and returns what it answers, or ends the test if it refuses.
func (c *client) tool(name string, arguments fields) map[string]any {
	c.t.Helper()
	a := c.rpc("tools/call", fields{"name": name, "arguments": arguments}).want(http.StatusOK)
	out, ok := a.at("result.structuredContent").(map[string]any)
	if !ok {
		c.t.Fatalf("%s: %s", name, a.body)
	}
	return out
}

// refusal calls a tool that has to refuse, and returns what it says.
func (c *client) refusal(name string, arguments fields) string {
	c.t.Helper()
	a := c.rpc("tools/call", fields{"name": name, "arguments": arguments}).want(http.StatusOK)
	if a.at("result.isError") != true {
		c.t.Fatalf("%s isn't refused: %s", name, a.body)
	}
	return a.text("result.content.0.text")
}

var namedTool = regexp.MustCompile(
	`\b(list_missions|next_spec|claim_spec|show_spec|report|complete_spec|fail_spec|ask|add_spec|search_specs)\b`)

// An agent that knows nothing but the tools' answers works a mission to its
// end: it calls the tool that each answer names next, with what answers gave it.
func TestAgentThatFollowsTheAnswersWorksAMissionToItsEnd(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	ada.post(ada.newActive("Paused")+"/pause", nil).want(http.StatusOK)
	mission := ada.newActive("Web shop")
	const two = "## Acceptance Criteria\n\n- [ ] It is found\n- [x] It was done before\n- [ ] It is fast\n"
	ada.newSpec(mission, "a", fields{"body": two})
	ada.newSpec(mission, "b", fields{"body": two, "dependencies": []string{"a"}, "review": "human"})
	ada.newSpec(mission, "c", fields{"dependencies": []string{"b"}})
	ada.newSpec(mission, "d", nil)
	agent := ada.withKey("write")

	known := fields{"agent": "togusa"}
	step, steps, claims := "list_missions", []string{}, 0
	verdicts := []fields{{"verdict": "reject", "notes": "It is slow."}, {"verdict": "approve"}}
	for len(steps) < 40 {
		steps = append(steps, step)
		arguments := fields{}
		for _, name := range argumentsOf(t, s, step) {
			if value, ok := known[name]; ok {
				arguments[name] = value
			}
		}
		out := agent.tool(step, arguments)
		learn(known, out)
		if step == "ask" && out["state"] == "open" {
			ada.post("/api/v1/questions/"+out["question_id"].(string)+"/answer", fields{"answer": "a.csv"}).want(http.StatusOK)
		}
		if step == "complete_spec" && out["status"] == "in_review" {
			ada.post("/api/v1/specs/"+known["spec_id"].(string)+"/review", verdicts[0]).want(http.StatusOK)
			verdicts = verdicts[1:]
		}
		next := out["next"].(string)
		if strings.Contains(next, "Stop") {
			break
		}
		if step = namedTool.FindString(next); step == "" {
			t.Fatalf("no tool is named in %q", next)
		}
		if out["spec"] == nil {
			continue
		}
		switch claims++; claims { // what the first spec brings an agent to by itself
		case 1:
			step, known["reason"] = "fail_spec", "The file is empty."
		case 2:
			if !strings.HasPrefix(next, "Attempt 1 failed: The file is empty. ") {
				t.Errorf("the second attempt is told %q", next)
			}
			step, known["question"] = "ask", "Which file?"
		case 4:
			if !strings.HasPrefix(next, "Attempt 1 was rejected by a person: It is slow. ") {
				t.Errorf("the attempt after a rejection is told %q", next)
			}
		case 5:
			step, known["title"], known["markdown"] = "add_spec", "Sort them", "By price.\n"
		}
	}
	if m := ada.get(mission); m.text("status") != "completed" || m.number("stats.completed") != 4 ||
		m.number("stats.proposed") != 1 {
		t.Errorf("after %v the mission is %s", steps, m.body)
	}
	want := "list_missions next_spec claim_spec fail_spec claim_spec ask ask report complete_spec " +
		"claim_spec report complete_spec claim_spec complete_spec claim_spec add_spec report complete_spec " +
		"claim_spec complete_spec"
	if got := strings.Join(steps, " "); got != want {
		t.Errorf("it took the steps %s", got)
	}
}

// learn takes from an answer what later calls may need.
func learn(known, out fields) {
	for name, value := range out {
		if strings.HasSuffix(name, "_token") {
			known[name] = value
		}
	}
	if id, ok := out["question_id"]; ok { // which takes the place of its text
		known["question_id"] = id
		delete(known, "question")
	}
	if missions, ok := out["missions"].([]any); ok {
		for _, m := range missions {
			if m := m.(map[string]any); m["status"] == "active" {
				known["mission_id"] = m["id"]
			}
		}
	}
	if spec, ok := out["spec"].(map[string]any); ok {
		known["spec_id"] = spec["id"]
		var open []any
		for _, c := range spec["criteria"].([]any) {
			if c := c.(map[string]any); c["done"] == false {
				open = append(open, c["index"])
			}
		}
		known["check"] = open
	}
}

// argumentsOf names the arguments that a tool takes.
func argumentsOf(t *testing.T, s *testServer, name string) []string {
	t.Helper()
	for _, tool := range s.tools {
		if tool.Name == name {
			var names []string
			for name := range tool.Input["properties"].(map[string]any) {
				names = append(names, name)
			}
			return names
		}
	}
	t.Fatalf("there is no tool %s", name)
	return nil
}

func TestToolsAreFewAndShort(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	a := s.signUp("ada", "user").withKey("read").rpc("tools/list", nil).want(http.StatusOK)
	if len(s.tools) != 10 {
		t.Errorf("there are %d tools", len(s.tools))
	}
	// Measured with o200k_base: 2,778 tokens, which may be 3,100; without output schemas and annotations 1,298 of
	// at most 1,350.
	if encoded, err := json.Marshal(a.at("result.tools")); err != nil || len(encoded) > 11500 {
		t.Errorf("the tools take %d bytes (%v)", len(encoded), err)
	}
	var names []string
	for _, tool := range a.at("result.tools").([]any) {
		tool := tool.(map[string]any)
		names = append(names, tool["name"].(string))
		readOnly := tool["annotations"].(map[string]any)["readOnlyHint"]
		if want := !slices.Contains([]string{"claim_spec", "report", "complete_spec",
			"fail_spec", "ask", "add_spec"}, tool["name"].(string)); readOnly != want {
			t.Errorf("%s: readOnlyHint is %v", tool["name"], readOnly)
		}
	}
	if again := s.signUp("bob", "viewer").rpc("tools/list", nil); string(again.body) != string(a.body) {
		t.Error("the list is another one for another account")
	}
	if len(names) != 10 || names[0] != "list_missions" {
		t.Errorf("got %v", names)
	}
}

func TestHandshakeChoosesTheRevision(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	for asked, want := range map[string]string{
		"2025-03-26": "2025-03-26", "2025-06-18": "2025-06-18", "2025-11-25": "2025-11-25", "2024-11-05": "2025-11-25",
		"2026-07-28": "2025-11-25", "": "2025-11-25",
	} {
		a := ada.rpc("initialize", fields{"protocolVersion": asked, "capabilities": fields{},
			"clientInfo": fields{"name": "x", "version": "1"}}).want(http.StatusOK)
		if got := a.text("result.protocolVersion"); got != want || a.text("result.serverInfo.name") != "tachikoma" {
			t.Errorf("asked for %q: %s", asked, a.body)
		}
		if id := a.header.Get("Mcp-Session-Id"); !validID(id) || ada.rpc("ping", nil, "Mcp-Session-Id",
			id).header.Get("Mcp-Session-Id") != "" {
			t.Errorf("the session is %q", id)
		}
	}
	if a := ada.do("POST", "/mcp", `{"jsonrpc":"2.0","method":"notifications/initialized"}`); a.status != http.StatusAccepted || len(a.body) > 0 {
		t.Errorf("a notification: %d %s", a.status, a.body)
	}
	ada.rpc("ping", nil, "Mcp-Protocol-Version", "2025-06-18").want(http.StatusOK)
	a := ada.rpc("ping", nil, "Mcp-Protocol-Version", "1999-01-01").want(http.StatusBadRequest)
	if a.number("error.code") != mcpUnsupportedVersion || len(a.at("error.data.supported").([]any)) != 4 {
		t.Errorf("got %s", a.body)
	}
}

// A client of the revision 2025-03-26 sends no header of it, and reads what a tool
// answers from its text.
func TestClientOfTheOldestRevisionWorksAMission(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Web shop")
	ada.newSpec(mission, "a", fields{"body": "## Acceptance Criteria\n\n- [ ] one\n"})
	const revision = "2025-03-26"
	begun := ada.rpc("initialize", fields{"protocolVersion": revision, "capabilities": fields{},
		"clientInfo": fields{"name": "x", "version": "1"}}).want(http.StatusOK)
	if begun.text("result.protocolVersion") != revision {
		t.Fatalf("got %s", begun.body)
	}
	session := begun.header.Get("Mcp-Session-Id")
	ada.do("POST", "/mcp", `{"jsonrpc":"2.0","method":"notifications/initialized"}`, "Mcp-Session-Id",
		session).want(http.StatusAccepted)
	ada.rpc("tools/list", nil, "Mcp-Protocol-Version", revision).want(http.StatusOK)
	call := func(name string, arguments fields) (out fields) {
		t.Helper()
		a := ada.rpc("tools/call", fields{"name": name, "arguments": arguments}, "Mcp-Session-Id",
			session).want(http.StatusOK)
		if err := json.Unmarshal([]byte(a.text("result.content.0.text")), &out); err != nil {
			t.Fatalf("%s: %v: %s", name, err, a.body)
		}
		return out
	}
	held := call("claim_spec", fields{"mission_id": call("list_missions",
		nil)["missions"].([]any)[0].(map[string]any)["id"], "agent": "x"})
	mine := fields{"spec_id": held["spec"].(map[string]any)["id"], "lease_token": held["lease_token"]}
	call("report", fields{"spec_id": mine["spec_id"], "lease_token": mine["lease_token"], "check": []int{1}})
	call("complete_spec", mine)
	if m := ada.get(mission); m.text("status") != "completed" {
		t.Errorf("got %s", m.body)
	}
	batch := ada.do("POST", "/mcp", `[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"ping"}]`, "Mcp-Session-Id", session)
	if batch.status != http.StatusBadRequest || !strings.Contains(batch.text("error.message"), "Send one at a time") {
		t.Errorf("a batch: %s", batch.body)
	}
}

// Half of the people write the slash in their client's settings.
func TestMCPWithAndWithoutASlashAtTheEnd(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	for _, path := range []string{"/mcp", "/mcp/"} {
		a := ada.do("POST", path, `{"jsonrpc":"2.0","id":7,"method":"ping"}`).want(http.StatusOK)
		if a.number("id") != 7 || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("POST %s: %v %s", path, a.header, a.body)
		}
		for _, method := range []string{"GET", "DELETE"} {
			ada.do(method, path, nil, "Accept", "text/event-stream").wantProblem(http.StatusMethodNotAllowed,
				"method_not_allowed")
		}
		s.anonymous().do("POST", path, `{"jsonrpc":"2.0","id":7,"method":"ping"}`).wantProblem(http.StatusUnauthorized,
			"unauthenticated")
		ada.do("POST", path, `{}`, "Idempotency-Key", "k").wantProblem(http.StatusBadRequest, "idempotency_key_not_supported")
	}
	ada.do("POST", "/mcp//", `{"jsonrpc":"2.0","id":7,"method":"ping"}`).wantProblem(http.StatusNotFound, "not_found")
}

func TestModernRequestsSpeakForThemselves(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	a := ada.modernRPC("server/discover", "", nil).want(http.StatusOK)
	if a.text("result.resultType") != "complete" || a.at("result.supportedVersions").([]any)[0] != mcpModern ||
		a.at("result._meta").(map[string]any)["io.modelcontextprotocol/serverInfo"] == nil {
		t.Errorf("got %s", a.body)
	}
	a = ada.modernRPC("tools/list", "", nil).want(http.StatusOK)
	if a.number("result.ttlMs") != 3_600_000 || a.text("result.cacheScope") != "public" {
		t.Errorf("got %s", a.body[len(a.body)-200:])
	}
	a = ada.modernRPC("tools/call", "list_missions", fields{"name": "list_missions"}).want(http.StatusOK)
	if a.text("result.resultType") != "complete" || a.at("result.structuredContent.missions") == nil {
		t.Errorf("got %s", a.body)
	}
	ada.modernRPC("tools/call", "=?base64?"+base64.StdEncoding.EncodeToString([]byte("list_missions"))+"?=",
		fields{"name": "list_missions"}).want(http.StatusOK)

	meta := func(version string) fields {
		return fields{"_meta": fields{"io.modelcontextprotocol/protocolVersion": version,
			"io.modelcontextprotocol/clientCapabilities": fields{}}}
	}
	for _, test := range []struct {
		name    string
		method  string
		params  fields
		headers []string
		status  int
		code    int
	}{
		{"an unknown method", "tasks/list", meta(mcpModern), []string{"Mcp-Protocol-Version", mcpModern, "Mcp-Method",
			"tasks/list"}, 404, rpcMethodNotFound},
		{"a handshake", "initialize", meta(mcpModern), []string{"Mcp-Protocol-Version", mcpModern, "Mcp-Method",
			"initialize"}, 404, rpcMethodNotFound},
		{"no metadata", "tools/list", nil, []string{"Mcp-Protocol-Version", mcpModern, "Mcp-Method",
			"tools/list"}, 400, rpcInvalidParams},
		{"no capabilities", "tools/list", fields{"_meta": fields{"io.modelcontextprotocol/protocolVersion": mcpModern}},
			[]string{"Mcp-Protocol-Version", mcpModern, "Mcp-Method", "tools/list"}, 400, rpcInvalidParams},
		{"capabilities of another type", "tools/list", fields{"_meta": fields{"io.modelcontextprotocol/protocolVersion": mcpModern, "io.modelcontextprotocol/clientCapabilities": nil}},
			[]string{"Mcp-Protocol-Version", mcpModern, "Mcp-Method", "tools/list"}, 400, rpcInvalidParams},
		{"no headers", "tools/list", meta(mcpModern), nil, 400, mcpHeaderMismatch},
		{"an encoded method", "tools/list", meta(mcpModern), []string{"Mcp-Protocol-Version", mcpModern, "Mcp-Method",
			"=?base64?dG9vbHMvbGlzdA==?="}, 400, mcpHeaderMismatch},
		{"another method", "tools/list", meta(mcpModern), []string{"Mcp-Protocol-Version", mcpModern, "Mcp-Method",
			"tools/call"}, 400, mcpHeaderMismatch},
		{"another version", "tools/list", meta(mcpModern), []string{"Mcp-Protocol-Version", "2025-11-25", "Mcp-Method",
			"tools/list"}, 400, mcpHeaderMismatch},
		{"another name", "tools/call", fields{"name": "list_missions", "_meta": meta(mcpModern)["_meta"]},
			[]string{"Mcp-Protocol-Version", mcpModern, "Mcp-Method", "tools/call", "Mcp-Name",
				"claim_spec"}, 400, mcpHeaderMismatch},
		{"a version to come", "tools/list", meta("2099-01-01"), []string{"Mcp-Protocol-Version", "2099-01-01", "Mcp-Method",
			"tools/list"}, 400, mcpUnsupportedVersion},
	} {
		a := ada.rpc(test.method, test.params, test.headers...)
		if a.status != test.status || int(a.number("error.code")) != test.code || a.number("id") != 7 {
			t.Errorf("%s: %d %s", test.name, a.status, a.body)
		}
	}
}

// Of two headers a proxy may look at the other one.
func TestRepeatedHeadersAreRefused(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	r, err := http.NewRequestWithContext(t.Context(), "POST", s.url()+"/mcp",
		strings.NewReader(`{"jsonrpc":"2.0","id":7,"method":"ping"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"Authorization": {"Bearer " + ada.token}, "Content-Type": {"application/json"},
		"Mcp-Protocol-Version": {"2025-11-25", mcpModern}}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if said, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusBadRequest ||
		!strings.Contains(string(said), fmt.Sprint(mcpHeaderMismatch)) {
		t.Errorf("%d %s (%v)", response.StatusCode, said, err)
	}
}

func TestMessagesThatAreNoRequestsAreRefused(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	for _, body := range []string{`[]`, `[{"jsonrpc":"2.0","id":1,"method":"ping"}]`, `7`, `null`, `{}`,
		`{"jsonrpc":"2.0","id":null,"method":"ping"}`,
		`{"jsonrpc":"2.0","id":{},"method":"ping"}`, `{"jsonrpc":"2.0","id":true,"method":"ping"}`,
		`{"jsonrpc":"2.0","ID":1,"METHOD":"ping"}`} {
		a := ada.do("POST", "/mcp", body)
		if a.status != http.StatusBadRequest || a.number("error.code") != rpcInvalidRequest || a.at("id") != nil {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
	for message, code := range map[string]int{
		`"id":7`: rpcInvalidRequest, `"id":7,"method":7`: rpcInvalidRequest, `"id":7,"Method":"ping"`: rpcInvalidRequest,
		`"id":7,"method":"ping","params":[]`:               rpcInvalidParams,
		`"id":7,"method":"ping","params":{"_meta":1}`:      rpcInvalidParams,
		`"id":7,"method":"tools/call","params":{"name":7}`: rpcInvalidParams,
	} {
		a := ada.do("POST", "/mcp", `{"jsonrpc":"2.0",`+message+`}`)
		if a.status != http.StatusBadRequest || a.number("error.code") != code || a.number("id") != 7 {
			t.Errorf("%s: %d %s", message, a.status, a.body)
		}
	}
	if a := ada.do("POST", "/mcp", `{"jsonrpc":"1.0","id":7,"method":"ping"}`); a.number("error.code") != rpcInvalidRequest || a.number("id") != 7 {
		t.Errorf("got %s", a.body)
	}
	if a := ada.rpc("tools/call", fields{"name": "list_missions", "NAME": "rm"}); a.at("result.structuredContent") == nil {
		t.Errorf("a name in other case counted: %s", a.body)
	}
	ada.do("POST", "/mcp", `{}`, "Content-Type",
		"text/plain").wantProblem(http.StatusUnsupportedMediaType, "unsupported_media_type")
	ada.do("POST", "/mcp", `{}`, "Idempotency-Key",
		"k").wantProblem(http.StatusBadRequest, "idempotency_key_not_supported")
	ada.rpc("ping", nil, "Origin", "https://evil.example").wantProblem(http.StatusForbidden, "forbidden")
	s.anonymous().rpc("ping", nil).wantProblem(http.StatusUnauthorized, "unauthenticated")
	for _, id := range []string{`"x"`, `-1`, `1e3`} {
		if a := ada.do("POST", "/mcp", `{"jsonrpc":"2.0","id":`+id+`,"method":"ping"}`).want(http.StatusOK); string(a.body) != `{"jsonrpc":"2.0","id":`+id+`,"result":{}}` {
			t.Errorf("got %s", a.body)
		}
	}
	for name, params := range map[string]fields{"tools/call": {"name": "rm"}, "prompts/get": {"name": "rest"},
		"resources/list": {"cursor": "bogus"}} {
		if a := ada.rpc(name, params).want(http.StatusOK); a.number("error.code") != rpcInvalidParams {
			t.Errorf("%s: %s", name, a.body)
		}
	}
}

// One odd character must not lose a report: whoever waits for the answer gets
// one that says where it is, and nothing is done.
func TestOddCharactersAreToldToTheAgent(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Web shop")
	ada.newSpec(mission, "a", fields{"body": "## Acceptance Criteria\n\n- [ ] one\n"})
	held := ada.tool("claim_spec", fields{"mission_id": idOf(mission), "agent": "togusa"})
	report := func(more string) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":"r","method":"tools/call","params":{"name":"report","arguments":{"spec_id":%q,"lease_token":%q,"check":[1]%s}}}`,
			held["spec"].(map[string]any)["id"], held["lease_token"], more)
	}
	for more, field := range map[string]string{
		`,"message":"a\u0000"`: "message", `,"logs":[{"level":"info","message":"x"},{"level":"info","message":"\ud800"}]`: "logs[1].message",
		",\"message\":\"\xff\"": "message", `,"message":"\uffff"`: "message", `,"message":"a","message":"b"`: "message",
		`,"lease_seconds":1e999`:                                   "lease_seconds",
		`,"logs":"[{\"level\":\"info\",\"message\":\"\\u0000\"}]"`: "logs[0].message can't be taken: NUL",
		`,"logs":["{\"level\":\"info\",\"message\":\"\\ud800\"}"]`: "logs[0].message can't be taken: this is half",
		`,"logs":"[{\"level\":\"info\",\"level\":\"info\"}]"`:      "logs[0].level can't be taken: this name is a duplicate",
		`,"logs":"` + strings.Repeat("[", 20_000) + `"`:            "logs can't be taken", `,"links":"{1"`: "links must be a list",
		`,"links":"[1 2]"`: "links can't be taken: invalid character '2'",
		`,"x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40): "x[0][0]", `,"\u0000":1`: "arguments",
	} {
		a := ada.do("POST", "/mcp", report(more)).want(http.StatusOK)
		said := a.text("result.content.0.text")
		if a.text("id") != "r" || a.at("result.isError") != true || !strings.Contains(said, "- "+field) ||
			!strings.Contains(said, "Next: Correct") {
			t.Errorf("%s: %s", more, a.body)
		}
	}
	for body, want := range map[string]string{
		report("")[:90]: "-32700 r", ``: "-32700 <nil>", `{"jsonrpc":"2.0","method":"ping","id":7,`: "-32700 7",
		"{\"id\":7,\"x\":\"\x01\"}":        "-32700 7",
		`{"jsonrpc":"2.0","method":"ping"`: "-32700 <nil>", `[7`: "-32700 <nil>", `{"id":{},"x"`: "-32700 <nil>",
		"{\"id\":\"\xff\",": "-32700 <nil>",
		`{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}`:                                           "-32600 <nil>",
		`{"jsonrpc":"2.0","id":7,"method":"ping","x":"\u0000"}`:                                     "-32600 7",
		"{\"jsonrpc\":\"2.0\",\"id\":\"\xff\",\"method\":\"ping\"}":                                 "-32600 <nil>",
		`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"\u0000"}}`:                 "-32602 7",
		`{"jsonrpc":"2.0","id":7,"method":"resources/read","params":{"uri":"\udc00"}}`:              "-32602 7",
		`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"report","name":"x"}}`:      "-32602 7",
		`{"jsonrpc":"2.0","id":7,"method":"prompts/get","params":{"arguments":{"a":"\u0000"}}}`:     "-32602 7",
		`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"rm","arguments":[1e999]}}`: "-32602 7",
	} {
		a := ada.do("POST", "/mcp", body)
		if got := fmt.Sprint(a.at("error.code"), " ", a.at("id")); got != want {
			t.Errorf("%s: got %s, want %s: %s", body, got, want, a.body)
		}
	}
	for _, message := range []string{`"method":"notifications/x","params":{"reason":"\u0000"}`, `"result":{},"id":3`,
		`"result":{"roots":["\u0000"]},"id":"x"`, `"error":{"code":-32601,"message":"no such method"}`} {
		if a := ada.do("POST", "/mcp", `{"jsonrpc":"2.0",`+message+`}`); a.status != http.StatusAccepted || len(a.body) > 0 {
			t.Errorf("%s, which nobody waits for: %d %s", message, a.status, a.body)
		}
	}
	if out := ada.tool("report", fields{"spec_id": held["spec"].(map[string]any)["id"],
		"lease_token": held["lease_token"]}); len(out["open"].([]any)) != 1 {
		t.Errorf("something was done: %v", out)
	}
}

// What has one meaning is taken, as hosts and models write it.
func TestToolsTakeArgumentsAsClientsSendThem(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Web shop")
	ada.newSpec(mission, "a", fields{"body": "## Acceptance Criteria\n\n- [ ] one\n- [ ] two\n"})
	out := ada.rpc("tools/call", fields{"name": "claim_spec", "arguments": fmt.Sprintf(
		`{"mission_id":%q,"agent":"togusa","lease_seconds":"600.0","wait_seconds":" 0 ","tags":"[]"}`,
		idOf(mission))}).want(http.StatusOK)
	token, id := out.text("result.structuredContent.lease_token"), out.text("result.structuredContent.spec.id")
	report := func(name string, value any) fields { return fields{"spec_id": id, "lease_token": token, name: value} }
	for _, arguments := range []fields{
		report("check", []float64{1}), report("check", json.RawMessage(`[1.0, 2e0]`)), report("check",
			"[1, 2.0]"), report("check", []string{"1", "2"}),
		report("check", `["1"]`), report("lease_seconds", json.RawMessage(`6e2`)), report("lease_seconds",
			"600"), report("lease_seconds", "null"),
		report("logs", `[{"level":"info","message":"[1]"}]`), report("logs", []string{`{"level":"info","message":"true"}`}),
	} {
		ada.tool("report", arguments)
	}
	for field, values := range map[string][]any{
		"check": {[]float64{1.5}, "one", "[1,", fields{"a": 1}, 1, "1", "1, 2", `"[1]"`, []string{"1.5"}, "[1.5]",
			`["one"]`, []string{""}, `[{"a":1,"a":1}]`},
		"lease_seconds": {1.5, "one", "", "600s", "0600", "+600", `"600"`, "[600]",
			true, json.RawMessage(`600.00000000000000000001`),
			json.RawMessage(`1e30`), "1e400"},
		"logs": {"{}", "[1]", `[{"level":"info","message":1}]`}, "message": {1, true, []string{"x"}},
	} {
		for _, value := range values {
			if said := ada.refusal("report", report(field, value)); !strings.Contains(said, "- "+field) {
				t.Errorf("%s %v: %s", field, value, said)
			}
		}
	}
	for _, arguments := range []any{"x", "[]", `"{}"`, 7, []string{}} {
		if a := ada.rpc("tools/call", fields{"name": "list_missions",
			"arguments": arguments}); !strings.Contains(a.text("result.content.0.text"), "arguments") {
			t.Errorf("arguments %v: %s", arguments, a.body)
		}
	}
	if out := ada.tool("fail_spec", fields{"spec_id": id, "lease_token": token, "reason": "x",
		"retry": "False"}); out["status"] != "blocked" {
		t.Errorf("got %v", out)
	}
}

// Refusals are results that say what is wrong and what to do; what a tool may
// do is what the API lets its caller do.
func TestToolsRefuseWithAdvice(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada, bob, eve := s.signUp("ada", "user"), s.signUp("bob", "user"), s.signUp("eve", "viewer")
	mission := ada.newActive("Web shop")
	id := idOf(mission)
	for email, role := range map[string]string{bob.user.Email: "viewer", eve.user.Email: "editor"} {
		ada.put(mission+"/members", fields{"email": email, "role": role}).want(http.StatusOK)
	}
	spec := ada.newSpec(mission, "a", fields{"body": "## Acceptance Criteria\n\n- [ ] It is found\n"})
	specID := spec[len("/api/v1/specs/"):]
	claim := fields{"mission_id": id, "agent": "x"}
	for _, test := range []struct {
		by        *client
		tool      string
		arguments fields
		want      string // all of these words
	}{
		{ada, "claim_spec", fields{"mission_id": id}, "validation_failed agent required Next: Correct"},
		{ada, "report", nil, "validation_failed spec_id lease_token required"},
		{ada, "next_spec", fields{"mission_id": nil}, "validation_failed mission_id required"},
		{ada, "claim_spec", fields{"mission_id": id, "agent": "x", "wait": 3}, "validation_failed wait field"},
		{ada, "claim_spec", fields{"mission_id": 7, "agent": "x"}, "validation_failed mission_id string"},
		{ada, "claim_spec", fields{"mission_id": "web-shop", "agent": "x"}, "not_found Next: list_missions"},
		{ada, "show_spec", fields{"spec_id": newID()}, "not_found search_specs"},
		{ada, "list_missions", fields{"status": "busy"}, "validation_failed status active"},
		{ada, "search_specs", fields{"q": " "}, "validation_failed q"},
		{s.signUp("mallory", "user"), "next_spec", fields{"mission_id": id}, "not_found"},
		{bob, "claim_spec", claim, "forbidden Next: editor"},
		{eve, "claim_spec", claim, "forbidden"},
		{ada.withKey("read"), "claim_spec", claim, "forbidden scope write"},
		{ada, "complete_spec", fields{"spec_id": specID, "lease_token": "lt_x"}, "lease_lost claim_spec"},
		{ada, "report", fields{"spec_id": specID, "lease_token": "",
			"logs": []fields{{"level": "loud", "message": ""}}}, "lease_token claim logs[0].level logs[0].message"},
		{ada, "fail_spec", fields{"spec_id": specID, "lease_token": "x"}, "reason required"},
	} {
		said := test.by.refusal(test.tool, test.arguments)
		for word := range strings.FieldsSeq(test.want) {
			if !strings.Contains(said, word) {
				t.Errorf("%s %v: %q isn't in:\n%s", test.tool, test.arguments, word, said)
			}
		}
	}
	for _, reads := range []*client{bob, eve, ada.withKey("read")} {
		reads.tool("next_spec", fields{"mission_id": id})
		reads.tool("show_spec", fields{"spec_id": specID})
	}
	held := ada.tool("claim_spec", claim)
	said := ada.refusal("complete_spec", fields{"spec_id": specID, "lease_token": held["lease_token"]})
	if !strings.Contains(said, "criteria_unmet") || !strings.Contains(said, "1. It is found") ||
		!strings.Contains(said, "override") {
		t.Errorf("got %s", said)
	}
	ada.post(mission+"/pause", nil).want(http.StatusOK)
	if said := ada.refusal("claim_spec", claim); !strings.Contains(said, "mission_not_active") ||
		!strings.Contains(said, "Stop") {
		t.Errorf("got %s", said)
	}
}

// One report prolongs, checks and logs in one transaction, or does nothing.
func TestReportIsAllOrNothing(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Web shop")
	ada.newSpec(mission, "a", fields{"body": "## Acceptance Criteria\n\n- [ ] one\n- [ ] two\n"})
	held := ada.tool("claim_spec", fields{"mission_id": idOf(mission), "agent": "togusa", "lease_seconds": 60})
	spec := held["spec"].(map[string]any)
	report := fields{"spec_id": spec["id"], "lease_token": held["lease_token"], "check": []int{2}, "message": "half",
		"lease_seconds": 3600,
		"logs":          []fields{{"level": "info", "message": "one"}, {"level": "warn", "message": "two"}}}
	out := ada.tool("report", report)
	if open := out["open"].([]any); len(open) != 1 || open[0].(map[string]any)["index"] != 1.0 {
		t.Errorf("got %v", out)
	}
	before, _ := time.Parse(time.RFC3339, held["expires_at"].(string))
	if after, err := time.Parse(time.RFC3339, out["expires_at"].(string)); err != nil ||
		after.Sub(before) < 50*time.Minute {
		t.Errorf("the lease ended %v and ends %v", before, after)
	}
	report["check"] = []int{1, 3}
	if said := ada.refusal("report", report); !strings.Contains(said, "check[1]") {
		t.Errorf("got %s", said)
	}
	var events eventsView
	ada.get(mission + "/events?after=3").into(&events)
	var got []string
	for _, e := range events.Items {
		got = append(got, fmt.Sprint(e.Type, " ", *e.Actor.Agent))
	}
	if want := "spec.claimed togusa, spec.progressed togusa, log togusa, log togusa"; strings.Join(got, ", ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// Who sends half a request, and the rest after the session has ended, learns nothing.
func TestSlowBodyIsNoWayToReadAfterLogOut(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	const body = `{"jsonrpc":"2.0","id":7,"method":"resources/list"}`
	send := func(token string, meanwhile func()) int {
		conn := s.dial(t)
		from := bufio.NewReader(conn)
		fmt.Fprintf(conn, "POST /mcp HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"+
			"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n", token, len(body))
		if line, err := from.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") { // it is admitted
			t.Fatalf("%q (%v)", line, err)
		}
		admitted := time.Now()
		meanwhile()
		eventually(t, "the admission to be a second old", func() bool { return time.Since(admitted) > time.Second })
		fmt.Fprint(conn, body)
		if _, err := from.Discard(len("\r\n")); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(from, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		return response.StatusCode
	}
	if status := send(ada.withKey("read").token, func() {}); status != http.StatusOK {
		t.Errorf("a key that may read got %d", status)
	}
	leave := func() { ada.post("/api/v1/auth/logout", nil).want(http.StatusNoContent) }
	if status := send(ada.token, leave); status != http.StatusUnauthorized {
		t.Errorf("an ended session got %d", status)
	}
}

// Hosts cut or refuse what is longer: no answer is, and what is left can be had.
func TestAnswersFitTheClient(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Web shop")
	text := func(name string, arguments fields) string {
		a := ada.rpc("tools/call", fields{"name": name, "arguments": arguments}).want(http.StatusOK)
		text := a.text("result.content.0.text")
		if n := len([]rune(text)); n > 60_000 {
			t.Errorf("%s: %d characters", name, n)
		}
		return text
	}
	const criterion = "## Acceptance Criteria\n\n- [ ] one\n\n"
	long := strings.Repeat("it \"jumps\" over\tthe lazy \u2028 dog ", 3000)
	for i, body := range []string{
		criterion + strings.Repeat("The quick brown fox jumps over the lazy dog, again.\n", 2400),
		criterion + strings.Repeat("犬\"\t\u2028\n", 15_000) + "the end",
		criterion + long + "\n" + "after it\n" + long,
		"## Acceptance Criteria\n\n" + strings.Repeat("- [ ] it is found, and has a text that isn't short\n", 3000),
		"## Acceptance Criteria\n\n- [ ] " + long + "\n- [ ] two\n",
	} {
		key := fmt.Sprint("s", i)
		spec := ada.newSpec(mission, key, fields{"body": body})
		id := path.Base(spec)
		claimed := text("claim_spec", fields{"mission_id": idOf(mission), "agent": key})
		if at := strings.Index(claimed, "lease_token"); at > 200 || strings.Index(claimed, `"next"`) > 500 ||
			strings.Index(claimed, `"criteria"`) > strings.Index(claimed, `"markdown"`) {
			t.Errorf("%s begins with %.600s", key, claimed)
		}
		var held struct {
			LeaseToken string `json:"lease_token"`
			Next       string
			Spec       map[string]any
		}
		if err := json.Unmarshal([]byte(claimed), &held); err != nil {
			t.Fatal(err)
		}
		whole := ada.rpc("resources/read", fields{"uri": resourcePrefix + id}).text("result.contents.0.text")
		got, cuts, part := "", 0, held.Spec
		for part["next_offset"] != nil {
			next, _ := part["next"].(string)
			if part["criteria"] != nil && got == "" {
				next = held.Next
			}
			if want := fmt.Sprintf("call show_spec with offset %v ", part["next_offset"]); !strings.Contains(next, want) {
				t.Fatalf("%s: %q isn't in %q", key, want, next)
			}
			got += part["markdown"].(string)
			if !strings.HasSuffix(got, "\n") {
				cuts++
			}
			shown := text("show_spec", fields{"spec_id": id, "offset": part["next_offset"]})
			part = nil
			if err := json.Unmarshal([]byte(shown), &part); err != nil || part["criteria"] != nil {
				t.Fatalf("%s: %v %.300s", key, err, shown)
			}
		}
		if got += part["markdown"].(string); cuts == 0 && i < 2 && got != whole || len(got) < 40_000 || cuts == 0 && i == 2 {
			t.Errorf("%s: %d bytes of %d, %d lines cut", key, len(got), len(whole), cuts)
		}
		for _, name := range []string{"show_spec", "complete_spec", "report"} {
			arguments := fields{"spec_id": id, "lease_token": held.LeaseToken}
			if name == "show_spec" {
				delete(arguments, "lease_token")
			}
			said := text(name, arguments)
			if i == 3 && !regexp.MustCompile(`(criteria|open)_left":2\d\d\d|and 2\d\d\d more`).MatchString(said) {
				t.Errorf("%s: %s doesn't say how many criteria are left: %.300s", key, name, said)
			}
		}
		for _, offset := range []int{-1, 1 + strings.Count(whole, "\n") + 1} {
			if said := ada.refusal("show_spec", fields{"spec_id": id, "offset": offset}); !strings.Contains(said,
				"- offset must be") {
				t.Errorf("offset %d: %s", offset, said)
			}
		}
	}
	keys := make([]string, 50)
	for i := range keys {
		keys[i] = fmt.Sprintf("%s%02d", strings.Repeat("k", 126), i)
		ada.newSpec(mission, keys[i], fields{"title": strings.Repeat(`"`, 200), "status": "deferred",
			"body": "cloves " + strings.Repeat("\u2028", 2000)})
	}
	for i := range 50 {
		ada.newSpec(mission, fmt.Sprintf("%s%02d",
			strings.Repeat("l", 126), i), fields{"title": strings.Repeat(`"`, 200), "dependencies": keys, "priority": 9})
	}
	if open := text("next_spec", fields{"mission_id": idOf(mission)}); !strings.Contains(open, "It depends on 48 more") {
		t.Errorf("got %.3000s", open)
	}
	text("search_specs", fields{"q": "cloves"})
	some := []string{}
	for i := range 40 {
		some = append(some, fmt.Sprintf("%02d/%s.md", i, strings.Repeat("\u2028", 20)))
	}
	some[0] = strings.Repeat("x", 100_000)
	if first := firstTexts(some); len(first) != 16 || len(first[0]) != listBytes/4 || first[15] != "and 25 more" {
		t.Errorf("%d of 40 texts, the last %q", len(first), first[len(first)-1])
	}
}

// An agent that lost the answer to claim_spec asks again. It must not burn the
// attempts of one spec after the other.
func TestLostAnswerToAClaimBurnsNoAttempt(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	s.pauseSweep() // which would take back what expires here
	ada, bob := s.signUp("ada", "user"), s.signUp("bob", "user")
	mission := ada.newActive("Web shop")
	ada.put(mission+"/members", fields{"email": bob.user.Email, "role": "editor"}).want(http.StatusOK)
	for i := range 9 {
		ada.newSpec(mission, fmt.Sprint("s", i),
			fields{"number": fmt.Sprint(i), "body": "## Acceptance Criteria\n\n- [ ] one\n"})
	}
	claim := func(by *client, agent string, more fields) (key string, out map[string]any) {
		t.Helper()
		arguments := fields{"mission_id": idOf(mission), "agent": agent, "wait_seconds": 0}
		maps.Copy(arguments, more)
		out = by.tool("claim_spec", arguments)
		if spec, ok := out["spec"].(map[string]any); ok {
			return spec["key"].(string), out
		}
		for _, held := range out["held"].([]any) {
			held := held.(map[string]any)
			key += fmt.Sprint(" held ", held["key"])
			if spec := ada.get("/api/v1/specs/" + held["spec_id"].(string)); spec.number("attempts") != 1 ||
				spec.text("claim.claimed_at") != held["since"] {
				t.Errorf("got %v of %s", held, spec.body)
			}
		}
		return key, out
	}
	want := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	key, first := claim(ada, "togusa", nil)
	want(key, "s0")
	for range 4 {
		key, again := claim(ada, "togusa", fields{"tags": []string{"other"}})
		want(key, " held s0")
		held := again["held"].([]any)[0].(map[string]any)
		if next := again["next"].(string); held["lease_token"] != first["lease_token"] || !strings.Contains(next, "s0") ||
			namedTool.FindString(next) != "show_spec" {
			t.Errorf("got %v", again)
		}
	}
	key, _ = claim(bob, "togusa", nil)
	want(key, "s1")
	key, _ = claim(ada, "batou", nil)
	want(key, "s2")
	key, second := claim(ada, "togusa", fields{"another": true})
	want(key, "s3")
	key, _ = claim(ada, "togusa", nil)
	want(key, " held s0 held s3")

	ada.tool("report", fields{"spec_id": first["spec"].(map[string]any)["id"], "lease_token": first["lease_token"]})
	key, _ = claim(ada, "togusa", nil)
	want(key, " held s3")
	ada.tool("complete_spec", fields{"spec_id": second["spec"].(map[string]any)["id"],
		"lease_token": second["lease_token"], "override": "x"})
	key, third := claim(ada, "togusa", nil)
	want(key, "s4")

	path := "/api/v1/specs/" + third["spec"].(map[string]any)["id"].(string)
	ada.post(path+"/progress", fields{"lease_token": third["lease_token"], "check": []int{1}}).want(http.StatusOK)
	spec, lease := ada.claim(mission, "togusa") // by the route, which has the Idempotency-Key
	want(ada.get(spec).text("key"), "s5")
	key, _ = claim(ada, "togusa", nil)
	want(key, " held s5")
	ada.post(spec+"/heartbeat", fields{"lease_token": lease}).want(http.StatusOK)
	key, _ = claim(ada, "togusa", nil)
	want(key, "s6")

	if _, err := s.db.Exec(t.Context(), `UPDATE leases SET expires_at = clock_timestamp() - interval '1 second' WHERE mission_id = $1`, idOf(mission)); err != nil {
		t.Fatal(err)
	}
	key, _ = claim(ada, "togusa", nil) // what had expired isn't held any more
	want(key, "s0")
}

func TestClaimToolWaitsForWork(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Web shop")
	ada.newSpec(mission, "a", nil)
	ada.newSpec(mission, "b", fields{"dependencies": []string{"a"}})
	arguments := fields{"mission_id": idOf(mission), "agent": "first"}
	held := ada.tool("claim_spec", arguments)
	if next := ada.tool("claim_spec", fields{"mission_id": arguments["mission_id"],
		"agent": "x"})["next"].(string); !strings.Contains(next, "wait_seconds 50") {
		t.Errorf("got %s", next)
	}
	if next := ada.tool("claim_spec", fields{"mission_id": arguments["mission_id"], "agent": "x",
		"tags": []string{"db"}})["next"].(string); !strings.Contains(next, "claim_spec") {
		t.Errorf("got %s", next)
	}
	waits := make(chan *answer, 1)
	go func() {
		a, err := ada.try(context.WithoutCancel(t.Context()), "POST", "/mcp",
			fields{"jsonrpc": "2.0", "id": 1, "method": "tools/call",
				"params": fields{"name": "claim_spec",
					"arguments": fields{"mission_id": arguments["mission_id"], "agent": "second", "wait_seconds": 50}}})
		if err != nil {
			a = &answer{t: t, what: err.Error()}
		}
		waits <- a
	}()
	eventually(t, "the claim to wait", func() bool { return s.waits(mission) })
	out := ada.tool("complete_spec", fields{"spec_id": held["spec"].(map[string]any)["id"],
		"lease_token": held["lease_token"], "notes": "done"})
	if out["status"] != "completed" || out["mission"].(map[string]any)["completed"] != 1.0 {
		t.Errorf("got %v", out)
	}
	if a := (<-waits).want(http.StatusOK); a.text("result.structuredContent.spec.key") != "b" {
		t.Errorf("got %s", a.body)
	}
}

// Until 2025-11-25 a client that cancels keeps its connection open: what gets
// ready after that must go to somebody who still waits.
func TestCancelledClaimTakesNothing(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	here, there := startTestServer(t, database, nil), startTestServer(t, database, nil)
	ada := here.signUp("ada", "user")
	mission := ada.newActive("Web shop")
	agent := ada.withKey("write")
	ended := make(chan *answer, 10)
	wait := func(by *client, id any, headers ...string) {
		go func() {
			a, err := by.try(context.WithoutCancel(t.Context()), "POST", "/mcp",
				fields{"jsonrpc": "2.0", "id": id, "method": "tools/call",
					"params": fields{"name": "claim_spec",
						"arguments": fields{"mission_id": idOf(mission), "agent": "ghost", "wait_seconds": 50}}}, headers...)
			if err != nil {
				a = &answer{t: t, what: err.Error()}
			}
			ended <- a
		}()
		eventually(t, "the claim to wait", func() bool { return here.waits(mission) })
	}
	cancel := func(by *client, id any, headers ...string) {
		t.Helper()
		by.do("POST", "/mcp", fields{"jsonrpc": "2.0", "method": "notifications/cancelled",
			"params": fields{"requestId": id, "reason": "Esc \u0001"}}, headers...).want(http.StatusAccepted)
	}
	session := []string{"Mcp-Session-Id", agent.rpc("initialize",
		fields{"protocolVersion": "2025-11-25"}).header.Get("Mcp-Session-Id")}
	elsewhere := &client{t: t, base: there.url(), token: agent.token, user: agent.user}
	for _, test := range []struct {
		name string
		id   any
		twin any // which isn't the same
		do   func()
	}{
		{"a number", 77, "77", func() { cancel(agent, json.RawMessage(`77.0`), session...) }},
		{"a string", "78", 78, func() { cancel(agent, "78", session...) }},
		{"on the other instance", 79, "79", func() { cancel(elsewhere, 79, session...) }},
	} {
		wait(agent, test.id, session...)
		for _, other := range []any{test.twin, 99, nil, 7.5, []any{test.id}} {
			cancel(agent, other, session...)
		}
		cancel(agent, test.id)
		cancel(agent, test.id, "Mcp-Session-Id", newID())
		cancel(ada, test.id, session...)
		select {
		case a := <-ended:
			t.Fatalf("%s: what is cancelled is another call: %s", test.name, a.body)
		default:
		}
		test.do()
		select {
		case a := <-ended:
			if a.want(http.StatusOK); a.at("result.structuredContent.spec") != nil ||
				a.text("result.structuredContent.next") == "" {
				t.Errorf("%s: %s", test.name, a.body)
			}
		case <-time.After(patience):
			t.Fatalf("%s: it still waits", test.name)
		}
	}
	spec := ada.newSpec(mission, "late", nil)
	if v := ada.get(spec); v.text("status") != "planned" || v.number("attempts") != 0 {
		t.Errorf("a cancelled claim took it: %s", v.body)
	}
	if out := agent.tool("claim_spec", fields{"mission_id": idOf(mission), "agent": "ghost"}); out["spec"] == nil {
		t.Errorf("got %v", out)
	}
}

func TestToolsShowWhyTheRestWaits(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Web shop")
	id := idOf(mission)
	ada.newSpec(mission, "held", fields{"number": "1", "priority": 9})
	ada.newSpec(mission, "late", fields{"number": "2", "status": "deferred"})
	ada.newSpec(mission, "waits", fields{"number": "3", "dependencies": []string{"held", "late"}})
	ada.newSpec(mission, "free", fields{"number": "4", "body": "Zanzibar cloves"})
	held := ada.tool("claim_spec", fields{"mission_id": id, "agent": "togusa"})
	out := ada.tool("next_spec", fields{"mission_id": id})
	var got []string
	for _, line := range out["open"].([]any) {
		line := line.(map[string]any)
		heldBy, _ := line["held_by"].(string)
		got = append(got, fmt.Sprint(line["key"], " ", line["ready"], " ",
			strings.Split(heldBy, " until ")[0], line["waits_for"]))
	}
	want := []string{"free true <nil>", "held false togusa<nil>",
		"late false [Its status is deferred; only planned specs are handed out.]",
		"waits false [It depends on held, which is in_progress. It depends on late, which is deferred.]"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	found := ada.tool("search_specs", fields{"q": "zanzibar", "mission_id": id})["specs"].([]any)
	if len(found) != 1 || !strings.Contains(found[0].(map[string]any)["snippet"].(string), "**Zanzibar**") {
		t.Errorf("got %v", found)
	}
	failed := ada.tool("fail_spec", fields{"spec_id": held["spec"].(map[string]any)["id"],
		"lease_token": held["lease_token"], "reason": "no power", "retry": false})
	if failed["status"] != "blocked" || !strings.Contains(failed["next"].(string), "claim_spec") {
		t.Errorf("got %v", failed)
	}
	shown := ada.tool("show_spec", fields{"spec_id": found[0].(map[string]any)["id"]})
	if shown["markdown"] != "Zanzibar cloves" || shown["ready"] != true ||
		!strings.Contains(shown["next"].(string), "claim_spec") {
		t.Errorf("got %v", shown)
	}
}

// An agent isn't sent home while there is work that its list didn't show.
func TestListOfMissionsSaysWhereElseToLook(t *testing.T) {
	t.Parallel()
	ada := newTestServer(t, nil).signUp("ada", "user")
	if next := ada.tool("list_missions", nil)["next"].(string); !strings.Contains(next, "Stop") {
		t.Errorf("without a mission: %s", next)
	}
	ada.newActive("Web shop")
	for i := range 50 {
		ada.newMission(fmt.Sprint("Draft ", i))
	}
	for _, arguments := range []fields{nil, {"status": "draft"}, {"q": "nothing"}} {
		if next := ada.tool("list_missions", arguments)["next"].(string); !strings.Contains(next,
			"list_missions with status active") {
			t.Errorf("%v: %s", arguments, next)
		}
	}
	if next := ada.tool("list_missions", fields{"status": "active"})["next"].(string); !strings.Contains(next,
		"claim_spec") {
		t.Errorf("active ones: %s", next)
	}
}

func TestSpecsAreResources(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	mission := ada.newActive("Web shop")
	for i := range 51 {
		ada.newSpec(mission, fmt.Sprintf("s%02d", i), fields{"number": fmt.Sprintf("%03d", i), "body": fmt.Sprint("# ", i)})
	}
	first := ada.rpc("resources/list", nil).want(http.StatusOK)
	second := ada.rpc("resources/list", fields{"cursor": first.text("result.nextCursor")}).want(http.StatusOK)
	if n := len(first.at("result.resources").([]any)); n != 50 || len(second.at("result.resources").([]any)) != 1 ||
		second.at("result.nextCursor") != nil {
		t.Errorf("%d and then %s", n, second.body)
	}
	uri := second.text("result.resources.0.uri")
	read := ada.rpc("resources/read", fields{"uri": uri}).want(http.StatusOK)
	if read.text("result.contents.0.text") != "# 50" || read.text("result.contents.0.mimeType") != "text/markdown" ||
		read.text("result.contents.0.uri") != uri {
		t.Errorf("got %s", read.body)
	}
	for _, gone := range []string{resourcePrefix + newID(), resourcePrefix + "x", "file:///etc/passwd", ""} {
		if a := ada.rpc("resources/read", fields{"uri": gone}).want(http.StatusOK); a.number("error.code") != mcpResourceNotFound {
			t.Errorf("%q: %s", gone, a.body)
		}
		if a := ada.modernRPC("resources/read",
			gone, fields{"uri": gone}).want(http.StatusOK); a.number("error.code") != rpcInvalidParams {
			t.Errorf("%q: %s", gone, a.body)
		}
	}
	if a := s.signUp("bob", "user").rpc("resources/read",
		fields{"uri": uri}).want(http.StatusOK); a.number("error.code") != mcpResourceNotFound {
		t.Errorf("a stranger got %s", a.body)
	}
	if a := ada.rpc("resources/templates/list",
		nil); a.text("result.resourceTemplates.0.uriTemplate") != "tachikoma://specs/{id}" {
		t.Errorf("got %s", a.body)
	}
}

func TestPromptTellsHowToWork(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	if a := ada.rpc("prompts/list", nil); a.text("result.prompts.0.name") != "work" ||
		len(a.at("result.prompts").([]any)) != 1 {
		t.Errorf("got %s", a.body)
	}
	text := ada.rpc("prompts/get", fields{"name": "work",
		"arguments": fields{"mission_id": "M1", "agent": "batou"}}).text("result.messages.0.content.text")
	for _, word := range []string{`"M1"`, `"batou"`, "claim_spec", "report", "complete_spec", "fail_spec", "lease_lost"} {
		if !strings.Contains(text, word) {
			t.Errorf("%s isn't in:\n%s", word, text)
		}
	}
	if text := ada.rpc("prompts/get", fields{"name": "work"}).text("result.messages.0.content.text"); !strings.Contains(text, "list_missions") {
		t.Errorf("got %s", text)
	}
	if a := ada.rpc("prompts/get", fields{"name": "work",
		"arguments": fields{"mission": 1}}); a.number("error.code") != rpcInvalidParams {
		t.Errorf("got %s", a.body)
	}
}

func TestLogsAndMetricsTellToolsApart(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, func(c *Config) { c.RateLimit = 3 }) // one more in 20 s
	ada := s.signUp("ada", "admin")
	ada.tool("list_missions", nil)
	a := ada.rpc("tools/call", fields{"name": "no\" such}"}).want(http.StatusOK)
	if a.header.Get("RateLimit-Remaining") != "1" {
		t.Errorf("remaining: %s", a.header.Get("RateLimit-Remaining"))
	}
	metrics := ada.get("/internal/metrics")
	if metrics.status == http.StatusNotFound {
		return // the tag nometrics
	}
	for _, series := range []string{`http_requests_total{method="POST",pattern="/mcp list_missions",status="200"} 1`,
		`http_requests_total{method="POST",pattern="/mcp",status="200"} 1`} {
		if !strings.Contains(string(metrics.body), series) {
			t.Errorf("%s isn't in the metrics", series)
		}
	}
}
