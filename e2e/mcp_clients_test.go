package e2e

import (
	"encoding/json"
	"strings"
	"testing"
)

// The official TypeScript clients, for the protocol's two generations, each work a
// mission to its end.
func TestOfficialClientsWorkMissions(t *testing.T) {
	t.Parallel()
	cmd := newNodeProgram(t, []string{"@modelcontextprotocol/sdk", "@modelcontextprotocol/client"}, "mcp.mjs")
	_, root := newServer(t)
	ada := root.signUp("ada")
	var missions []string
	for _, name := range []string{"One", "Two", "Three"} {
		mission := ada.newActive(name)
		body := "## Acceptance Criteria\n\n- [ ] It is found\n"
		ada.newSpec(mission, "first", map[string]any{"body": body})
		ada.newSpec(mission, "second", map[string]any{"body": body, "dependencies": []string{"first"}})
		missions = append(missions, idOf(mission))
	}
	cmd.Env = append(cmd.Env, "BASE="+ada.base, "KEY="+ada.withKey("write").token,
		"MISSIONS="+strings.Join(missions, ","))
	if said, err := cmd.CombinedOutput(); err != nil || string(said) != "done\n" {
		t.Errorf("%v\n%s", err, said)
	}
}

// The protocol's inspector finds nothing wrong with the tools' schemas, and can
// call them.
func TestInspectorFindsNothing(t *testing.T) {
	t.Parallel()
	_, root := newServer(t)
	ada := root.signUp("ada")
	ada.newActive("Web shop")
	inspect := func(args ...string) []byte {
		t.Helper()
		const launcher = "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"
		args = append([]string{launcher, "--cli", ada.base + "/mcp",
			"--header", "Authorization: Bearer " + ada.token, "--method"}, args...)
		cmd := newNodeProgram(t, []string{"@modelcontextprotocol/inspector"}, args...)
		var said strings.Builder
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil || said.Len() > 0 {
			t.Fatalf("%v: %v\n%s", args, err, said.String())
		}
		return out
	}
	inspect("tools/list", "--strict")
	inspect("prompts/list")
	inspect("resources/list")
	var result struct {
		StructuredContent struct{ Missions []any } `json:"structuredContent"`
	}
	err := json.Unmarshal(inspect("tools/call", "--tool-name", "list_missions"), &result)
	if err != nil || len(result.StructuredContent.Missions) != 1 {
		t.Errorf("%v %+v", err, result)
	}
}
