package e2e

// What other programs do with openapi.json: a linter finds no problem in it, and a
// TypeScript program compiles against it and works.

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// apiFolder returns a folder with copies of openapi.json and
// testdata/clients/api.ts, and with the npm packages.
func apiFolder(t *testing.T) string {
	t.Helper()
	installed, err := filepath.Abs("testdata/clients/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(installed, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"docs/openapi.json", "e2e/testdata/clients/api.ts"} {
		writeFile(t, filepath.Join(dir, filepath.Base(from)), projectFile(t, from))
	}
	return dir
}

// printed runs a program and returns what it prints. It ends the test if the
// program fails.
func printed(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s%s", cmd.Args, err, out, said.Bytes())
	}
	return string(out)
}

func TestLinterFindsNothingInTheDocument(t *testing.T) {
	t.Parallel()
	cmd := newNodeProgram(t, []string{"@redocly/cli"},
		"node_modules/@redocly/cli/bin/cli.js", "lint", "--extends=recommended", "--format=json", "openapi.json")
	cmd.Dir = apiFolder(t)
	cmd.Env = append(cmd.Env, "REDOCLY_TELEMETRY=off", "REDOCLY_SUPPRESS_NOTIFICATIONS=true")
	var found struct {
		Totals struct{ Errors, Warnings, Ignored int }
	}
	out := printed(t, cmd)
	err := json.Unmarshal([]byte(out), &found)
	if totals := found.Totals; err != nil || totals.Errors+totals.Warnings+totals.Ignored > 0 {
		t.Errorf("it found %s", out)
	}
}

func TestTypeScriptClientWorksAMission(t *testing.T) {
	t.Parallel()
	dir := apiFolder(t)
	writeFile(t, filepath.Join(dir, "package.json"), `{"type": "module"}`)
	run := func(env []string, args ...string) string {
		t.Helper()
		cmd := newNodeProgram(t, []string{"openapi-typescript", "openapi-fetch", "typescript"}, args...)
		cmd.Dir, cmd.Env = dir, append(cmd.Env, env...)
		return printed(t, cmd)
	}
	run(nil, "node_modules/openapi-typescript/bin/cli.js", "openapi.json", "-o", "openapi.ts")
	run(nil, "node_modules/typescript/bin/tsc", "--strict", "--target", "es2022", "--lib", "es2022,dom,dom.iterable",
		"--module", "nodenext", "--skipLibCheck", "api.ts") // the libraries' own declarations; openapi.ts is none
	_, root := newServer(t)
	root.signUp("ada")
	const want = `{"user":"ada@example.com","status":"completed","code":"lease_lost",` +
		`"events":["mission.created","spec.created","mission.started",` +
		`"spec.claimed","spec.progressed","spec.completed","mission.completed"]}` + "\n"
	env := []string{"BASE=" + root.base, "EMAIL=ada@example.com", "PASSWORD=" + testPassword}
	if out := run(env, "api.js"); out != want {
		t.Errorf("it printed %s", out)
	}
}
