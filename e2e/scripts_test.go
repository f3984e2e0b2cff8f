package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// sectionOf returns the text under a heading, up to the end of the block that shows
// what is printed.
func sectionOf(document, heading string) string {
	pattern := "(?ms)^" + regexp.QuoteMeta(heading) + "\n(.*?^```text\n.*?^```\n)"
	if m := regexp.MustCompile(pattern).FindStringSubmatch(document); m != nil {
		return m[1]
	}
	return ""
}

// blocks returns the fenced blocks of a language in a section of a document.
func blocks(section, language string) []string {
	var found []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(section, -1) {
		found = append(found, m[1])
	}
	return found
}

// The scripts of docs/api.md run as they are, except for the port, and print what
// it shows: for the walk-through the claims in the order of the
// dependencies, by two agents, the stats and events that result, and why the rest
// waits; for an agent's part what it is told next. Each section begins with the
// line that runs its first script from the document, and ends with what is printed.
func TestScriptsOfTheDocs(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "curl", "jq", "tar", "sed"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("the scripts need %s", tool)
			}
			t.Skipf("the scripts are for people, and need %s; .ci/run installs it and runs this", tool)
		}
	}
	for _, heading := range []string{"## Walk-through", "## An agent's part by hand"} {
		t.Run(heading, func(t *testing.T) {
			t.Parallel()
			section := sectionOf(projectFile(t, "docs/api.md"), heading)
			bash := blocks(section, "bash")
			if len(bash) < 2 {
				t.Fatalf("it has %d bash blocks, want the line that runs the script, and the script", len(bash))
			}
			extract, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(bash[0]), `eval "$(`), " | bash")
			extracting := exec.Command("bash", "-c", extract)
			extracting.Dir = ".."
			script, err := extracting.Output()
			if err != nil || string(script) != bash[1] {
				t.Fatalf("%s doesn't print the script (%v):\n%s", extract, err, script)
			}
			run := bash[1]
			if len(bash) == 3 {
				run = "eval \"$(bash <<'END'\n" + bash[1] + "END\n)\"\n" + bash[2]
			}
			_, c := serve(t, "DATABASE_URL="+newDatabase(t))
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, "bash")
			cmd.Dir = ".."
			cmd.Stdin = strings.NewReader(strings.ReplaceAll(run, "http://127.0.0.1:8080", c.base))
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir()}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			printed, err := cmd.Output()
			if err != nil || stderr.Len() > 0 {
				t.Fatalf("%v\n%s%s", err, stderr.Bytes(), printed)
			}
			if want := blocks(section, "text"); len(want) != 1 || string(printed) != want[0] {
				t.Errorf("it printed\n%s\nand the document says\n%s", printed, want)
			}
		})
	}
}
