package pgserver_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"tachikoma/internal/pgserver"
	"tachikoma/internal/pgserver/pgtest"
)

// holdPostgresIn makes the test binary a helper process that starts a cluster
// in the folder that it names, says so, and waits to be killed.
const holdPostgresIn = "PGSERVER_TEST_HOLD_POSTGRES_IN"

func TestMain(m *testing.M) {
	dir := os.Getenv(holdPostgresIn)
	if dir == "" {
		os.Exit(m.Run())
	}
	p, err := pgserver.StartThrowaway(context.Background(), slog.New(slog.DiscardHandler), dir)
	fmt.Println("started", err)
	if err == nil {
		<-p.Done()
	}
	os.Exit(1)
}

func mustExec(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

// queryText runs a query that returns one text.
func queryText(t *testing.T, url, sql string) (answer string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := conn.QueryRow(t.Context(), sql).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return answer
}

// wantError fails the test unless err contains all of the words.
func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", words)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error doesn't say %q: %v", word, err)
		}
	}
}

func TestPrivatePostgresKeepsDataAcrossRestarts(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t) + "/a name with 'quotes', no commas"
	if _, err := pgtest.TryStart(t, dir); err == nil {
		t.Fatal("a comma in the path was accepted")
	}
	dir = strings.ReplaceAll(dir, ",", "")
	p := pgtest.Start(t, dir)
	mustExec(t, p.URL(pgserver.Database), "CREATE TABLE kept AS SELECT 'still here' AS word")
	if info, err := os.Stat(filepath.Join(dir, "run")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the socket's folder: %v, %v; want mode 0700", info, err)
	}
	const settings = `
		SELECT concat_ws(' ', current_setting('listen_addresses'), current_setting('server_encoding'), datcollate,
			lower('ÄÖПΕÉ'), current_user, current_setting('jit'))
		FROM pg_database WHERE datname = current_database()`
	if got := queryText(t, p.URL(pgserver.Database), settings); got != " UTF8 C äöпεé postgres off" {
		t.Errorf("the cluster has the settings %q", got)
	}
	pgtest.Stop(t, p, dir)
	pgtest.Stop(t, p, dir) // again: nothing happens
	p = pgtest.Start(t, dir)
	if got := queryText(t, p.URL(pgserver.Database), "SELECT word FROM kept"); got != "still here" {
		t.Errorf("after a restart the data is %q", got)
	}
	psql, _, _ := strings.Cut(p.Hints()[0], " ")
	inURL := psql + " -c 'SELECT word FROM kept' '" + p.URL(pgserver.Database) + "'"
	for _, hint := range append(p.Hints(), inURL) {
		command := strings.Replace(hint, "-f tachikoma.dump", "", 1) + " </dev/null >/dev/null"
		if out, err := exec.Command("/bin/sh", "-c", command).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", hint, err, out)
		}
	}
	pgtest.Stop(t, p, dir)
}

func TestPrivatePostgresStopsUnderOpenTransactions(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	p := pgtest.Start(t, dir)
	conn, err := pgx.Connect(t.Context(), p.URL(pgserver.Database))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "BEGIN; CREATE TABLE unfinished ()"); err != nil {
		t.Fatal(err)
	}
	pgtest.Stop(t, p, dir)
	said, err := os.ReadFile(filepath.Join(dir, "postgres.log"))
	if err != nil || strings.Contains(string(said), "immediate shutdown") {
		t.Errorf("Stop used force: %v\n%s", err, said)
	}
	select {
	case <-p.Done():
	default:
		t.Error("Done isn't closed after Stop")
	}
}

func TestPrivatePostgresTellsThatItEndedByItself(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	p := pgtest.Start(t, dir)
	if err := syscall.Kill(pgtest.Postmaster(t, dir), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	wantError(t, p.Stop(), "killed", "postgres.log")
}

func TestSecondServerOnAFolderIsRefused(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	p := pgtest.Start(t, dir)
	_, err := pgtest.TryStart(t, dir)
	wantError(t, err, "another server uses", dir, "DATA_DIR")
	if got := queryText(t, p.URL(pgserver.Database), "SELECT 'unharmed'"); got != "unharmed" {
		t.Error(got)
	}
	pgtest.Stop(t, p, dir)
	pgtest.Stop(t, pgtest.Start(t, dir), dir)
}

func TestPostgresOfAKilledServerIsTakenOver(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	server := exec.Command(os.Args[0])
	server.Env = append(os.Environ(), holdPostgresIn+"="+dir)
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "started <nil>\n" {
		t.Fatalf("the server to be killed said %q", line)
	}
	url, running := pgserver.Running(dir)
	if !running {
		t.Error("nothing runs there")
	}
	mustExec(t, url, "CREATE TABLE kept AS SELECT 'still here' AS word")
	if err := server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = server.Wait() // it was killed
	left := pgtest.Postmaster(t, dir)
	if got := queryText(t, url, "SELECT word FROM kept"); got != "still here" {
		t.Fatalf("the killed server's Postgres is gone already: %q", got)
	}
	p := pgtest.Start(t, dir)
	if now := pgtest.Postmaster(t, dir); now == left {
		t.Errorf("the postmaster is still %d", now)
	}
	if got := queryText(t, p.URL(pgserver.Database), "SELECT word FROM kept"); got != "still here" {
		t.Errorf("after the take-over the data is %q", got)
	}
	pgtest.Stop(t, p, dir)
}

func TestStaleLockFilesDontKeepPostgresFromStarting(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	p := pgtest.Start(t, dir)
	pidFile := filepath.Join(dir, "postgres", "postmaster.pid")
	content, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Stop(t, p, dir)
	// As after a power cut, with the pid given to a live process of the same account since.
	account, err := pgserver.Account()
	if err != nil {
		t.Fatal(err)
	}
	other := exec.Command("/bin/sleep", "1000")
	other.SysProcAttr = &syscall.SysProcAttr{Credential: account}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(content), "\n")
	stale := fmt.Appendf(nil, "%d\n%s", other.Process.Pid, rest)
	if err := os.WriteFile(pidFile, stale, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "run", ".s.PGSQL.5432.lock"), stale, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Stop(t, pgtest.Start(t, dir), dir)
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the process that has the pid now was harmed: %v", err)
	}
	_ = other.Process.Kill()
	_ = other.Wait()
}

// After a power cut a file can be there without its content.
func TestDamagedPidFileDoesntKeepPostgresFromStarting(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	p := pgtest.Start(t, dir)
	pidFile := filepath.Join(dir, "postgres", "postmaster.pid")
	whole, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, p.URL(pgserver.Database), "CREATE TABLE kept AS SELECT 'still here' AS word")
	pgtest.Stop(t, p, dir)
	first, _, _ := strings.Cut(string(whole), "\n")
	for name, content := range map[string]string{
		"empty": "", "zeroed": strings.Repeat("\x00", len(whole)), "a line": "\n", "noise": "\xff\xfe postgres\n",
		"cut in the pid": first[:1], "cut after the pid": first + "\n", "cut later": string(whole[:len(whole)/2]),
	} {
		if err := os.WriteFile(pidFile, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := pgtest.TryStart(t, dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := queryText(t, p.URL(pgserver.Database), "SELECT word FROM kept"); got != "still here" {
			t.Errorf("%s: the data is %q", name, got)
		}
		pgtest.Stop(t, p, dir)
	}
}

// What a server makes under the umask of a hardened host is still passable for
// the account of its Postgres.
func TestUmaskDoesntKeepPostgresFromItsFolders(t *testing.T) {
	t.Parallel()
	for _, umask := range []string{"027", "077"} {
		dir := filepath.Join(pgtest.Dir(t), "made", "below")
		server := exec.Command("/bin/sh", "-c", `umask "$1" && exec "$0"`, os.Args[0], umask)
		server.Env = append(os.Environ(), holdPostgresIn+"="+dir)
		out, err := server.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		if line, _ := bufio.NewReader(out).ReadString('\n'); line != "started <nil>\n" {
			t.Errorf("umask %s: the server said %q", umask, line)
		}
		_ = server.Process.Kill()
		_ = server.Wait() // it was killed
		if !t.Failed() {
			pgtest.Stop(t, pgtest.Start(t, dir), dir) // takes over what it left
		}
	}
}

// writerFunc is an io.Writer that calls itself.
type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

func TestHalfMadeClusterHeals(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	ctx, cancel := context.WithCancel(t.Context())
	cut := slog.New(slog.NewTextHandler(writerFunc(func([]byte) { cancel() }), nil)) // it says that it begins
	if _, err := pgserver.StartThrowaway(ctx, cut, dir); !errors.Is(err, context.Canceled) {
		t.Fatalf("a start that was cut short: %v", err)
	}
	pgtest.Stop(t, pgtest.Start(t, dir), dir)
	half := filepath.Join(dir, "postgres.new")
	if err := errors.Join(os.Rename(filepath.Join(dir, "postgres"), half),
		os.RemoveAll(filepath.Join(half, "base"))); err != nil {
		t.Fatal(err)
	}
	p := pgtest.Start(t, dir)
	mustExec(t, p.URL(pgserver.Database), "CREATE TABLE works ()")
	pgtest.Stop(t, p, dir)
}

func TestFailedStartShowsPostgresLog(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	p := pgtest.Start(t, dir)
	pgtest.Stop(t, p, dir)
	settings := filepath.Join(dir, "postgres", "postgresql.auto.conf")
	if err := os.WriteFile(settings, []byte("no_such_setting = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := pgtest.TryStart(t, dir)
	wantError(t, err, "starting Postgres", "no_such_setting", filepath.Join(dir, "postgres.log"))
	if err := os.Truncate(settings, 0); err != nil {
		t.Fatal(err)
	}
	pgtest.Stop(t, pgtest.Start(t, dir), dir) // what failed has let go of the folder
}

func TestClusterOfAnotherVersionIsRefused(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	if err := os.MkdirAll(filepath.Join(dir, "postgres"), 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "postgres", "PG_VERSION"), []byte("9\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if account, err := pgserver.Account(); err != nil {
		t.Fatal(err)
	} else if account != nil {
		if err := os.Chown(filepath.Join(dir, "postgres"), int(account.Uid), int(account.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := pgtest.TryStart(t, dir)
	wantError(t, err, dir, "PostgreSQL 9", "install version 9", "pg_dump -h "+dir+"/run", "rename "+dir+"/postgres",
		"restore")
}

func TestUnusableFoldersAreNamed(t *testing.T) {
	t.Parallel()
	folder := filepath.Dir(pgtest.Dir(t))
	file, closed := filepath.Join(folder, "file"), filepath.Join(folder, "closed")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	type test struct {
		name, dir string
		words     []string
	}
	tests := []test{
		{"a file", file, []string{file, "DATA_DIR", "DATABASE_URL"}},
		{"below a file", file + "/data", []string{file, "DATA_DIR", "DATABASE_URL"}},
		{"a long path", filepath.Join(folder, strings.Repeat("long/", 30)), []string{"socket", "shorter DATA_DIR"}},
	}
	if os.Geteuid() == 0 { // may enter every folder, but its Postgres may not
		tests = append(tests, test{"closed to Postgres's account", closed + "/data",
			[]string{"the user postgres, which may not enter " + closed, "DATA_DIR"}})
		foreign := filepath.Join(folder, "foreign")
		if err := errors.Join(os.MkdirAll(foreign+"/postgres", 0o711), os.Chown(foreign+"/postgres",
			4242, 4242)); err != nil {
			t.Fatal(err)
		}
		tests = append(tests, test{"another user's", foreign, []string{foreign, "belongs to the user 4242", "DATA_DIR"}})
	} else if err := os.Chmod(closed, 0o500); err == nil {
		tests = append(tests, test{"read only", closed, []string{closed, "permission denied", "DATA_DIR"}})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := pgtest.TryStart(t, test.dir)
			wantError(t, err, test.words...)
		})
	}
}
