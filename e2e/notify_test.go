package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"tachikoma/internal/pgserver"
	"tachikoma/internal/pgserver/pgtest"
)

// serviceManager is the service manager's end of NOTIFY_SOCKET.
type serviceManager struct {
	t    *testing.T
	conn *net.UnixConn
}

func newServiceManager(t *testing.T, socket string) *serviceManager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &serviceManager{t, conn}
}

// hears waits for the next message, and wants it to be this one.
func (m *serviceManager) hears(want ...string) {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		m.t.Fatal(err)
	}
	message := make([]byte, 4<<10)
	n, err := m.conn.Read(message)
	if got := string(message[:n]); err != nil || got != strings.Join(want, "\n") {
		m.t.Fatalf("the manager heard %q (%v), want %q", got, err, want)
	}
}

// hearsNoMore wants no further message, after the process has ended.
func (m *serviceManager) hearsNoMore() {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now()); err != nil {
		m.t.Fatal(err)
	}
	message := make([]byte, 4<<10)
	if n, err := m.conn.Read(message); !errors.Is(err, os.ErrDeadlineExceeded) {
		m.t.Errorf("the manager heard %q (%v) in the end", message[:n], err)
	}
}

// The private Postgres, which knows the same protocol, sends nothing.
func TestManagerHearsOfReadinessAndOfTheEnd(t *testing.T) {
	t.Parallel()
	folder, err := os.MkdirTemp("", "notify") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	sockets := []string{filepath.Join(folder, "socket")}
	if runtime.GOOS == "linux" {
		sockets = append(sockets, "@"+folder)
	}
	for i, socket := range sockets {
		t.Run(socket[:1], func(t *testing.T) {
			t.Parallel()
			database := "DATABASE_URL=" + newDatabase(t)
			if i == 0 {
				database = "DATA_DIR=" + pgtest.Dir(t)
			}
			m, port := newServiceManager(t, socket), freePort(t)
			p := startProgram(t, nil, []string{"NOTIFY_SOCKET=" + socket, "PORT=" + port, database,
				"DRAIN_DELAY=15s", "SHUTDOWN_TIMEOUT=3s"})
			c := &client{t: t, base: "http://127.0.0.1:" + port}

			m.hears("STATUS=Bringing up the database")
			m.hears("READY=1", "STATUS=Serving at "+c.base)
			c.get("/internal/health/ready").want(http.StatusOK)
			p.signal(syscall.SIGTERM)
			limit := 18*time.Second + 5*time.Second + pgserver.StopTimeout // the settings', then the pool's and Postgres's
			m.hears("STOPPING=1", "STATUS=Draining", fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", limit.Microseconds()))
			c.get("/internal/health/ready").want(http.StatusServiceUnavailable)
			if code := p.wait(); code != 0 {
				t.Errorf("exit code %d:\n%s", code, p.err.text())
			}
			m.hearsNoMore()
		})
	}
}

func TestServerWithoutItsManagerServes(t *testing.T) {
	t.Parallel()
	p, c := serve(t, "DATABASE_URL="+newDatabase(t), "NOTIFY_SOCKET=/nowhere/socket")
	c.get("/internal/health/ready").want(http.StatusOK)
	p.says(&p.err, `level=WARN msg="can't notify the service manager" NOTIFY_SOCKET=/nowhere/socket message=.*READY=1`)
	p.stop()
}
