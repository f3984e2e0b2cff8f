package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestPeopleAndAgents runs a script of curl: the first attempt at a spec fails, the
// second knows of that, asks, is answered while it waits, and is rejected, the third
// knows of all that and is approved. The agent does it by the routes and by the tools.
func TestPeopleAndAgents(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "curl", "jq"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("the script needs %s", tool)
			}
			t.Skipf("the script needs %s; .ci/run installs it and runs this", tool)
		}
	}
	_, c := newServer(t)
	ada, bob := c.signUp("ada"), c.signUp("bob")
	want := strings.Join([]string{
		`[]`, `"planned"`,
		`[{"number":1,"outcome":"failed","notes":"The file is empty.","answers":[],"verdict":null}]`,
		`"a.csv"`, `"in_review"`, `{"key":"b","ready":false}`, `"planned"`,
		`[{"number":2,"outcome":"submitted","notes":"It reads a.csv.","answers":["a.csv"],"verdict":"It has no test."},` +
			`{"number":1,"outcome":"failed","notes":"The file is empty.","answers":[],"verdict":null}]`,
		`"in_review"`, `forbidden`, `"completed"`, `{"key":"b","ready":true}`,
		`spec.created spec.claimed spec.failed spec.claimed spec.asked spec.answered spec.submitted spec.rejected ` +
			`spec.claimed spec.submitted spec.completed`,
	}, "\n") + "\n"
	for _, way := range []string{"api", "mcp"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, "bash", "testdata/people.sh", way)
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "API=" + c.base, "ADA=" + ada.token, "BOB=" + bob.token,
				"KEY=" + ada.withKey("write").token}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			printed, err := cmd.Output()
			if err != nil || string(printed) != want {
				t.Errorf("%v\n%s\nit printed\n%s\nwant\n%s", err, stderr.Bytes(), printed, want)
			}
		})
	}
}
