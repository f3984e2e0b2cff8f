package e2e

// Programs in Node, with the npm packages of testdata/clients.

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// nodeIsThere returns an error if Node isn't installed, or is too old for some package.
var nodeIsThere = sync.OnceValue(func() error {
	return exec.Command("node", "-e", `
		const [major, minor] = process.versions.node.split('.')
		process.exit(major > 20 || major == 20 && minor >= 19 ? 0 : 1)`).Run()
})

// newNodeProgram prepares a program in testdata/clients, given by its arguments,
// with a minimal environment and a time limit that starts now. If Node or one of
// the packages isn't installed, the test is skipped.
func newNodeProgram(t *testing.T, packages []string, args ...string) *exec.Cmd {
	t.Helper()
	if err := nodeIsThere(); err != nil {
		t.Skipf("Node isn't installed, or is older than 20.19: %v", err)
	}
	for _, name := range packages {
		if _, err := os.Stat(filepath.Join("testdata/clients/node_modules", name)); err != nil {
			t.Skipf("the npm package %s isn't installed: npm install --no-package-lock --prefix e2e/testdata/clients", name)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "node", args...)
	cmd.Dir, cmd.Env = "testdata/clients", []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	cmd.WaitDelay = time.Second // for children that keep its output open
	return cmd
}
