package main

// How the server starts, ends, and gets along with its database.

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tachikoma/internal/pgserver/pgtest"
)

// lineCount counts the lines of a log that contain a text.
type lineCount struct {
	text  string
	count atomic.Int32
}

func (l *lineCount) Write(p []byte) (int, error) {
	l.count.Add(int32(strings.Count(string(p), l.text)))
	return len(p), nil
}

// A database that isn't there yet, goes away while the server starts, or takes
// no writes is waited for; what it waits for is said once.
func TestServerWaitsForItsDatabase(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		reason     string
		begin, end func(way *tunnel, database *roleDatabase)
	}{
		"not there yet": {"database_unavailable",
			func(way *tunnel, _ *roleDatabase) { way.set(tunnelClosed) },
			func(way *tunnel, _ *roleDatabase) { way.set(tunnelOpen) }},
		"silent": {"database_unavailable",
			func(way *tunnel, _ *roleDatabase) { way.set(tunnelFrozen) },
			func(way *tunnel, _ *roleDatabase) { way.set(tunnelOpen) }},
		"no connection left": {"database_unavailable",
			func(_ *tunnel, database *roleDatabase) { database.exec("ALTER ROLE app CONNECTION LIMIT 0") },
			func(_ *tunnel, database *roleDatabase) { database.exec("ALTER ROLE app CONNECTION LIMIT -1") }},
		"read only": {"database_read_only",
			func(_ *tunnel, database *roleDatabase) {
				database.exec("ALTER DATABASE db SET default_transaction_read_only = on")
			},
			func(_ *tunnel, database *roleDatabase) {
				database.exec("ALTER DATABASE db RESET default_transaction_read_only")
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := newDatabaseOfRole(t)
			way, databaseURL := newTunnel(t, database.url)
			test.begin(way, database)
			said := &lineCount{text: "waiting for the database"}
			s, ready := beginTestServer(t, databaseURL, said, nil)
			anybody := s.anonymous()
			eventually(t, "readiness says what is waited for", func() bool {
				a := anybody.get("/internal/health/ready").want(http.StatusServiceUnavailable)
				return a.text("status") == "starting" && a.at("reason") == test.reason
			})
			anybody.get("/internal/health/live").want(http.StatusOK)
			anybody.get("/internal/health").want(http.StatusServiceUnavailable)
			anybody.get("/internal/metrics")
			anybody.get("/api/v1/missions").wantProblem(http.StatusServiceUnavailable, "starting")
			test.end(way, database)
			select {
			case <-ready:
			case <-s.ended:
				t.Fatal("it has ended")
			case <-time.After(patience):
				t.Fatal("it never gets ready")
			}
			anybody.get("/internal/health/ready").want(http.StatusOK)
			s.signUp("ada", "user").newMission("Late")
			if n := said.count.Load(); n != 1 {
				t.Errorf("what it waits for was said %d times", n)
			}
		})
	}
}

// What no waiting mends ends the start at once, with what to do.
func TestServerDoesntWaitForWhatNoWaitingMends(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ begin, role, name, words string }{
		"no such database":  {"", "app", "missing", "there is no database missing; CREATE DATABASE missing OWNER app"},
		"no such role":      {"", "nobody", "", "CREATE ROLE nobody LOGIN"},
		"no right to it":    {"REVOKE CONNECT ON DATABASE db FROM PUBLIC", "app", "", "GRANT CONNECT ON DATABASE db TO app"},
		"no right in it":    {"REVOKE CREATE ON SCHEMA public FROM PUBLIC, app", "app", "", "GRANT CREATE ON SCHEMA public TO app"},
		"another program's": {"CREATE TABLE users ()", "app", "", "another program's"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := newDatabaseOfRole(t)
			database.exec(test.begin)
			env := map[string]string{"PORT": "0", "DATABASE_URL": withUser(t, database.url, database.named(test.role), "secret")}
			if test.name != "" {
				env["DATABASE_URL"] = strings.Replace(env["DATABASE_URL"], "/"+database.db, "/"+test.name, 1)
			}
			err := run(t.Context(), nil, func(name string) string { return env[name] }, nil, io.Discard, io.Discard)
			for words := range strings.SplitSeq(test.words, "; ") {
				wantError(t, err, database.named(words))
			}
		})
	}
}

// What computes on and on, with a connection of the pool, keeps neither the
// server from its end nor the private Postgres from its.
func TestServerEndsUnderWhatStillComputes(t *testing.T) {
	t.Parallel()
	folder := pgtest.Dir(t)
	config, err := loadConfig(func(name string) string {
		return map[string]string{"DATA_DIR": folder, "PORT": "0", "SHUTDOWN_TIMEOUT": "1s"}[name]
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	s, err := newServer(config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	computes, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(done) })
	s.mux.HandleFunc("GET /computes", func(http.ResponseWriter, *http.Request) {
		conn, err := s.db.Acquire(context.Background())
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Release()
		close(computes)
		<-done
	})
	ctx, stop := context.WithCancel(t.Context())
	var stopped time.Time
	ended := s.run(ctx, func() {
		go func() {
			if response, err := http.Get(s.url() + "/computes"); err == nil {
				response.Body.Close()
			}
		}()
		<-computes
		stopped = time.Now()
		stop()
	})
	wantError(t, ended, "outlasted SHUTDOWN_TIMEOUT")
	if took := time.Since(stopped); took > config.ShutdownTimeout+poolTime+10*time.Second {
		t.Errorf("it ended after %v", took)
	}
	pgtest.WantEnded(t, folder)
}

// Where the database gives fewer connections than the pool may have, requests
// wait for those that exist.
func TestFewConnectionsServeAll(t *testing.T) {
	t.Parallel()
	database := newDatabaseOfRole(t)
	said := &lineCount{text: "fewer connections"}
	s, ready := beginTestServer(t, database.url, said, nil)
	<-ready
	ada := s.signUp("ada", "user")
	mission := ada.newMission("Crowded")
	const limit = 4
	database.exec(fmt.Sprintf("ALTER ROLE app CONNECTION LIMIT %d", limit))
	database.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
	eventually(t, "it has noticed", func() bool { return ada.get(mission).status == http.StatusOK && s.status().Status == "ok" })

	load := func() {
		t.Helper()
		var writes sync.WaitGroup
		for range 60 {
			writes.Go(func() {
				entries := map[string]any{"entries": []map[string]any{{"level": "info", "message": "x"}}}
				if a, err := ada.try(t.Context(), "POST", mission+"/logs", entries); err != nil || a.status != http.StatusCreated {
					t.Errorf("a log entry: %v %s", err, a.body)
				}
			})
		}
		writes.Wait()
	}
	load()
	if s.db.refused.Load() == 0 {
		t.Fatal("no connection was refused")
	}
	for before, began := s.db.refused.Load(), time.Now(); ; load() {
		if took := time.Since(began); took > 3*time.Second {
			if refused := s.db.refused.Load() - before; refused > 10*int64(took/time.Second) {
				t.Errorf("%d more connections were refused in %v", refused, took)
			}
			break
		}
	}
	if n := said.count.Load(); n != 1 {
		t.Errorf("the log tells it %d times", n)
	}

	// The feed can do without one of its own.
	database.exec(fmt.Sprintf("ALTER ROLE app CONNECTION LIMIT %d", limit-1))
	database.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' AND query ILIKE '%transaction_read_only%'")
	refused := s.db.refused.Load()
	eventually(t, "the feed polls over the pool", func() bool { return s.db.refused.Load() > refused+2 })
	if is := s.status(); is.Status != "ok" {
		t.Errorf("the server is %v", is)
	}
	load()

	database.exec("ALTER ROLE app CONNECTION LIMIT -1")
	eventually(t, "the pool grows again", func() bool {
		load()
		return s.db.Stat().TotalConns() > limit
	})
}
