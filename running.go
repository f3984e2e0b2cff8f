package main

import (
	"errors"
	"os"
	"path/filepath"
)

// runningPostgres is the connection string of the private Postgres in dir, if
// a server runs it right now: for commands beside that server.
func runningPostgres(dir string) (url string, running bool) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", false
	}
	p := &privatePostgres{dir: dir}
	if _, err := os.Stat(p.path("server.lock")); err != nil {
		return "", false
	}
	lock, err := lockFile(p.path("server.lock"))
	if err == nil {
		unlock(lock)
	}
	return p.url(ownDatabase), errors.Is(err, errLocked)
}
