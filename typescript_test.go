package main

// What others make of openapi.json: a linter finds nothing in it, and a
// TypeScript program compiles against it and works.

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// npmFolder is a folder with a copy of testdata/clients/api.ts and with the npm
// packages that tests use. The test is skipped where they aren't installed.
func npmFolder(t *testing.T, packages ...string) string {
	t.Helper()
	const recent = `const [major, minor] = process.versions.node.split('.'); process.exit(major > 20 || major == 20 && minor >= 19 ? 0 : 1)`
	if err := exec.Command("node", "-e", recent).Run(); err != nil {
		t.Skipf("Node isn't installed, or is older than 20.19: %v", err)
	}
	installed, err := filepath.Abs("testdata/clients/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range packages {
		if _, err := os.Stat(filepath.Join(installed, name)); err != nil {
			t.Skipf("the npm package %s isn't installed: npm install --no-package-lock --prefix testdata/clients", name)
		}
	}
	dir := t.TempDir()
	if err := os.Symlink(installed, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]string{"api.ts": "testdata/clients/api.ts", "openapi.json": "openapi.json"} {
		content, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// runNode runs a script in a folder and returns what it prints. It ends the
// test if the script fails.
func runNode(t *testing.T, dir string, env []string, script string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", append([]string{script}, args...)...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, env...)
	var said bytes.Buffer
	cmd.Stderr = &said
	printed, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", script, err, printed, said.Bytes())
	}
	return printed
}

func TestLinterFindsNothingInTheDocument(t *testing.T) {
	t.Parallel()
	dir := npmFolder(t, "@redocly/cli")
	printed := runNode(t, dir, []string{"REDOCLY_TELEMETRY=off", "REDOCLY_SUPPRESS_NOTIFICATIONS=true"},
		"node_modules/@redocly/cli/bin/cli.js", "lint", "--extends=recommended", "--format=json", "openapi.json")
	var found struct {
		Totals struct{ Errors, Warnings, Ignored int }
	}
	if err := json.Unmarshal(printed, &found); err != nil || found.Totals.Errors+found.Totals.Warnings+found.Totals.Ignored > 0 {
		t.Errorf("%v: %s", err, printed)
	}
}

func TestTypeScriptClientWorksAMission(t *testing.T) {
	t.Parallel()
	dir := npmFolder(t, "openapi-typescript", "openapi-fetch", "typescript")
	if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte(`{"type": "module"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	runNode(t, dir, nil, "node_modules/openapi-typescript/bin/cli.js", "openapi.json", "-o", "openapi.ts")
	runNode(t, dir, nil, "node_modules/typescript/bin/tsc", "--strict", "--target", "es2022", "--lib", "es2022,dom,dom.iterable",
		"--module", "nodenext", "--skipLibCheck", "api.ts") // the libraries' own declarations; openapi.ts is none
	s := newTestServer(t, nil)
	ada := s.signUp("ada", "user")
	printed := runNode(t, dir, []string{"BASE=" + s.url(), "EMAIL=" + ada.user.Email, "PASSWORD=" + testPassword}, "api.js")
	const want = `{"user":"ada@example.com","status":"completed","code":"lease_lost","events":["mission.created","spec.created",` +
		`"mission.started","spec.claimed","spec.progressed","spec.completed","mission.completed"]}` + "\n"
	if string(printed) != want {
		t.Errorf("it printed %s", printed)
	}
}
