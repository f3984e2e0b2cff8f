package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/pgserver"
)

// pooled returns a database's connection string through a PgBouncer in transaction
// mode, which runs until the test ends. If it isn't installed the test is skipped.
func pooled(t *testing.T, databaseURL string) string {
	t.Helper()
	bouncer, err := exec.LookPath("pgbouncer")
	if err != nil {
		if bouncer, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			t.Skip("pgbouncer isn't installed")
		}
	}
	behind, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	password := ""
	if behind.Password != "" {
		password = " password='" + strings.ReplaceAll(behind.Password, "'", "''") + "'"
	}
	dir, err := os.MkdirTemp("", "tachi") // not t.TempDir, which another account can't read
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	port, file := freePort(t), filepath.Join(dir, "pgbouncer.ini")
	writeFile(t, file, fmt.Sprintf(`[databases]
* = host='%s' port=%d user='%s'%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = any
pool_mode = transaction
server_reset_query =
default_pool_size = 8
max_client_conn = 100
`, behind.Host, behind.Port, behind.User, password, port))
	account, err := pgserver.Account() // it refuses to run as root, and the socket is closed to other accounts
	if err != nil {
		t.Skip(err)
	}
	if account != nil {
		for _, name := range []string{dir, file} {
			if err := os.Chown(name, int(account.Uid), int(account.Gid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	var said bytes.Buffer
	cmd := exec.Command(bouncer, file)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: account}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("pgbouncer said:\n%s", said.Bytes())
		}
	})
	eventually(t, "pgbouncer listens", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return "postgres://" + behind.User + "@127.0.0.1:" + port + "/" + behind.Database +
		"?sslmode=disable&default_query_exec_mode=exec"
}

// Behind a pooler that can't LISTEN, polling is enough: two instances keep in step,
// long before one forgets a credential by itself.
func TestEverythingWorksBehindPgBouncer(t *testing.T) {
	t.Parallel()
	env := withAdmin(pooled(t, testCluster.NewEmptyDatabase(t, "ENCODING 'UTF8' TEMPLATE template0")))
	_, ada := serveWell(t, env...)
	_, there := serveWell(t, env...)
	there.token = ada.token
	mission := ada.newMission("Pooled")
	stream := there.stream(mission)
	stream.want("mission.created", 0)

	began := time.Now()
	ada.importFiles(mission,
		"phase-01-shop/001-first.md", "# Spec 001: First\n\n- **Status**: Planned\n- **Dependencies**: None\n\n"+
			"## Acceptance Criteria\n\n- [ ] It works\n",
		"phase-01-shop/002-second.md", "# Spec 002: Second\n\n- **Status**: Planned\n- **Dependencies**: 001-first\n")
	imported := stream.want("mission.imported", 1)
	ada.post(mission+"/start", nil).want(http.StatusOK)
	stream.want("mission.started", imported.Seq)
	t.Logf("two events took %v to the other instance", time.Since(began))

	claimed := there.post(mission+"/claim", map[string]any{"agent": "bot"}).want(http.StatusOK)
	first := "/api/v1/specs/" + claimed.text("spec.id")
	waits := make(chan *answer, 1)
	go func() {
		a, err := there.try(t.Context(), "POST", mission+"/claim", map[string]any{"agent": "second", "wait_seconds": 50})
		if err != nil {
			a = &answer{t: t, what: err.Error()}
		}
		waits <- a
	}()
	report := map[string]any{"lease_token": claimed.text("lease.token"), "check": []int{1}}
	ada.post(first+"/progress", report).want(http.StatusOK)
	ada.complete(claimed)
	began = time.Now()
	second := (<-waits).want(http.StatusOK)
	t.Logf("a waiting claim took %v", time.Since(began))
	ada.complete(second)
	stream.want("mission.completed", imported.Seq+1)
	if m := there.get(mission).want(http.StatusOK); m.text("status") != "completed" || m.at("stats.completed") != 2.0 {
		t.Errorf("got %s", m.body)
	}
	for _, path := range []string{"/api/v1/missions?q=pooled", "/api/v1/specs?mission_id=" + idOf(mission),
		"/api/v1/specs?tag=shop&status=completed&sort=-priority", "/api/v1/specs?ready=true&claimed=mine",
		"/api/v1/missions?tag=shop", mission + "/members", mission + "/graph",
		mission + "/events", mission + "/export", first + "/explain",
		"/api/v1/users", "/api/v1/api-keys", "/internal/health"} {
		there.get(path).want(http.StatusOK)
	}

	there.get("/api/v1/auth/me").want(http.StatusOK)
	ada.post("/api/v1/auth/logout", nil).want(http.StatusNoContent)
	began = time.Now()
	eventually(t, "the other instance knows of the logout", func() bool {
		return there.get("/api/v1/auth/me").status == http.StatusUnauthorized
	})
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("a revocation took %v", took)
	}
	stream.rest()
}

// Through a pooler the server can't set up its sessions. If they don't fit it says
// what to run, and that is enough.
func TestServerRefusesSessionsOfAPoolerThatDontFit(t *testing.T) {
	t.Parallel()
	databaseURL := testCluster.NewEmptyDatabase(t, "ENCODING 'UTF8' TEMPLATE template0")
	owner, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close(t.Context())
	run := func(sql string) {
		t.Helper()
		if _, err := owner.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	alter := "ALTER DATABASE " + owner.Config().Database + " SET "
	run(alter + "default_transaction_isolation = 'serializable'")
	run(alter + "bytea_output = 'escape'")
	run(alter + "statement_timeout = '5s'")
	run(alter + "DateStyle = 'SQL, DMY'") // which the pooler passes on
	run(alter + "lock_timeout = '1ms'")   // which transactions set

	refused, code := runToEnd(t, "", withAdmin(pooled(t, databaseURL)))
	said := regexp.MustCompile(`: run (ALTER ROLE .*), and restart the pooler\n`).FindStringSubmatch(refused.err.text())
	if code != 1 || said == nil || strings.Contains(said[1], "DateStyle") || strings.Contains(said[1], "lock_timeout") {
		t.Fatalf("code %d:\n%s", code, refused.err.text())
	}
	run(said[1])
	_, ada := serveWell(t, withAdmin(pooled(t, databaseURL))...)
	ada.newMission("Pooled")
}
