// Package pgtest makes throwaway Postgres clusters for tests. They leave neither
// processes nor files behind, in whatever way the test binary ends.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"tachikoma/internal/pgserver"
)

// Dir is a folder, not yet made, for a cluster of this test. When the test is
// over, a Postgres that still runs there is ended and all files are removed.
func Dir(t testing.TB) string {
	t.Helper()
	parent, remove, err := Parent()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(parent, "data")
}

// Parent makes a temporary folder with a short path, for clusters in its
// subfolders. A shell waits for remove, or for the death of this process in
// whatever way, then ends a Postgres that is left there and removes it all.
func Parent() (parent string, remove func() error, err error) {
	parent, err = os.MkdirTemp("", "tachi")
	if err != nil {
		return "", nil, err
	}
	if err := os.Chmod(parent, 0o711); err != nil { // root's Postgres has another account
		return "", nil, err
	}
	guard := exec.Command("/bin/sh", "-c", `
		cat
		stop() { for f in "$1"/*/postgres/postmaster.pid; do read -r pid <"$f" && kill -INT "$pid" && return; done; }
		for i in $(seq 300); do
			if ! stop "$1"; then rm -rf "$1" && break; fi
			sleep 0.1
		done 2>/dev/null`, "sh", parent)
	guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is not for it
	alive, err := guard.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	if err := guard.Start(); err != nil {
		return "", nil, err
	}
	return parent, sync.OnceValue(func() error {
		if err := errors.Join(alive.Close(), guard.Wait()); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			return fmt.Errorf("removing %s: %w", parent, err)
		}
		return nil
	}), nil
}

// TryStart starts a throwaway Postgres in dir, with its log in the test's.
func TryStart(t testing.TB, dir string) (*pgserver.Server, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return pgserver.StartThrowaway(ctx, slog.New(slog.NewTextHandler(t.Output(), nil)), dir)
}

// Start is TryStart for a start that has to succeed.
func Start(t testing.TB, dir string) *pgserver.Server {
	t.Helper()
	p, err := TryStart(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Stop stops the Postgres in dir and fails the test if any of it is left.
func Stop(t testing.TB, p *pgserver.Server, dir string) {
	t.Helper()
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	WantEnded(t, dir)
}

// WantEnded fails the test if a process of the cluster in dir is left. Each of
// them holds the lock of postgres.lock.
func WantEnded(t testing.TB, dir string) {
	t.Helper()
	lock, err := os.Open(filepath.Join(dir, "postgres.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Fatalf("a process of the Postgres in %s is left: %v", dir, err)
	}
	// Closing it doesn't unlock it while a child is between fork and exec.
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
}

// Postmaster is the pid of the Postgres that runs in dir.
func Postmaster(t testing.TB, dir string) int {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "postgres", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil || pid < 2 {
		t.Fatalf("postmaster.pid begins with %q", first)
	}
	return pid
}
