// Package e2e tests the server from outside: the built program as a process, and
// the clients, proxies and poolers that it is used with. Tests that need a program
// that isn't installed are skipped.
package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tachikoma/internal/pgserver/pgtest"
)

func TestMain(m *testing.M) {
	if flag.Parse(); testing.Short() {
		fmt.Println("skipped: the tests from outside take long")
		return
	}
	code := m.Run()
	if err := errors.Join(testCluster.Stop(), removeProgram()); err != nil {
		fmt.Fprintln(os.Stderr, "cleaning up after the tests:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// testCluster is the Postgres that holds the tests' databases.
var testCluster = pgtest.Cluster{Migrate: func(ctx context.Context, databaseURL string) error {
	path, err := theProgram()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, "migrate")
	cmd.Env = []string{"DATABASE_URL=" + databaseURL}
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, said)
	}
	return nil
}}

// newDatabase returns a migrated database for this test alone.
func newDatabase(t *testing.T) string {
	t.Helper()
	return testCluster.NewDatabase(t)
}

var (
	// theProgram is the path of the program, which is built for its first user.
	theProgram = sync.OnceValues(buildProgram)
	// removeProgram is replaced when there is something to remove.
	removeProgram = func() error { return nil }
)

// buildProgram builds the program with testdata/patient.go, the tags of the tests, and the
// race detector if they have it.
func buildProgram() (path string, err error) {
	folder, remove, err := pgtest.Parent()
	if err != nil {
		return "", err
	}
	removeProgram, path = remove, filepath.Join(folder, "tachikoma")
	if err := openSources(); err != nil {
		return "", err
	}
	overlay := filepath.Join(folder, "overlay.json")
	if err := os.WriteFile(overlay, []byte(`{"Replace": {"../patient.go": "testdata/patient.go"}}`), 0o600); err != nil {
		return "", err
	}
	args := []string{"build", "-buildvcs=false", "-overlay", overlay, "-o", path}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "", errors.New("the tests don't know how they were built")
	}
	for _, s := range info.Settings {
		if s.Key == "-tags" || s.Key == "-race" {
			args = append(args, s.Key+"="+s.Value)
		}
	}
	if said, err := exec.Command("go", append(args, "..")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the program: %w\n%s", err, said)
	}
	return path, nil
}

// openSources opens all folders of the project, so that go test knows that a cached
// result is out of date when a file in one of them has changed.
func openSources() error {
	return filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		skipped := []string{".git", "node_modules"}
		if err == nil && entry.IsDir() && slices.Contains(skipped, entry.Name()) {
			return fs.SkipDir
		}
		return err
	})
}

// patience is how long a test waits for something that should happen soon.
const patience = 3 * time.Minute

// eventually polls until done, for as long as something slow may take.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// projectFile returns the content of a file, by its path in the project.
func projectFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// idOf returns the id at the end of a path.
func idOf(path string) string { return path[strings.LastIndex(path, "/")+1:] }
