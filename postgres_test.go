package main

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
	"time"

	"github.com/jackc/pgx/v5"
)

// holdPostgresIn makes the test binary a helper process that starts a cluster
// in the folder that it names, says so, and waits to be killed.
const holdPostgresIn = "TACHIKOMA_TEST_HOLD_POSTGRES_IN"

func holdPostgres(dir string) {
	p, err := startPostgres(context.Background(), slog.New(slog.DiscardHandler), dir, true)
	fmt.Println("started", err)
	if err == nil {
		<-p.done()
	}
	os.Exit(1)
}

// clusterFolder is where a test may have a cluster; what is left is ended and removed after it.
func clusterFolder(t *testing.T) string {
	t.Helper()
	folder, remove, err := guardedFolder()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(folder, "data")
}

func tryPostgres(t *testing.T, dir string) (*privatePostgres, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return startPostgres(ctx, slog.New(slog.NewTextHandler(t.Output(), nil)), dir, true)
}

func mustPostgres(t *testing.T, dir string) *privatePostgres {
	t.Helper()
	p, err := tryPostgres(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustStop(t *testing.T, p *privatePostgres) {
	t.Helper()
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	life, err := lockFile(p.path("postgres.lock"))
	if err != nil {
		t.Fatalf("after stop a process of the cluster is left: %v", err)
	}
	unlock(life)
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

func TestPrivatePostgresKeepsDataAcrossRestarts(t *testing.T) {
	t.Parallel()
	dir := clusterFolder(t) + "/a name with 'quotes', no commas"
	if _, err := tryPostgres(t, dir); err == nil {
		t.Fatal("a comma in the path was accepted")
	}
	dir = strings.ReplaceAll(dir, ",", "")
	p := mustPostgres(t, dir)
	mustExec(t, p.url(ownDatabase), "CREATE TABLE kept AS SELECT 'still here' AS word")
	if info, err := os.Stat(p.path("run")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the socket's folder: %v, %v; want mode 0700", info, err)
	}
	settings := "SELECT concat_ws(' ', current_setting('listen_addresses'), current_setting('server_encoding'), datcollate, current_user, current_setting('jit')) FROM pg_database WHERE datname = current_database()"
	if got := queryText(t, p.url(ownDatabase), settings); got != " UTF8 C postgres off" {
		t.Errorf("the cluster has the settings %q", got)
	}
	mustStop(t, p)
	mustStop(t, p) // again: nothing happens
	p = mustPostgres(t, dir)
	if got := queryText(t, p.url(ownDatabase), "SELECT word FROM kept"); got != "still here" {
		t.Errorf("after a restart the data is %q", got)
	}
	inURL := p.program("psql") + " -c 'SELECT word FROM kept' " + shellQuote(p.url(ownDatabase))
	for _, hint := range append(p.hints(), inURL) {
		command := strings.Replace(hint, "-f tachikoma.dump", "", 1) + " </dev/null >/dev/null"
		if out, err := exec.Command("/bin/sh", "-c", command).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", hint, err, out)
		}
	}
	mustStop(t, p)
}

func TestPrivatePostgresStopsUnderOpenTransactions(t *testing.T) {
	t.Parallel()
	p := mustPostgres(t, clusterFolder(t))
	conn, err := pgx.Connect(t.Context(), p.url(ownDatabase))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "BEGIN; CREATE TABLE unfinished ()"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	mustStop(t, p)
	if took := time.Since(began); took > shutdownSteps[0].patience {
		t.Errorf("stop took %v", took)
	}
	select {
	case <-p.done():
	default:
		t.Error("done isn't closed after stop")
	}
}

func TestPrivatePostgresTellsThatItEndedByItself(t *testing.T) {
	t.Parallel()
	p := mustPostgres(t, clusterFolder(t))
	if err := p.process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.done()
	wantError(t, p.stop(), "killed", "postgres.log")
}

func TestSecondServerOnAFolderIsRefused(t *testing.T) {
	t.Parallel()
	dir := clusterFolder(t)
	p := mustPostgres(t, dir)
	_, err := tryPostgres(t, dir)
	wantError(t, err, "another server uses", dir, "DATA_DIR")
	if got := queryText(t, p.url(ownDatabase), "SELECT 'unharmed'"); got != "unharmed" {
		t.Error(got)
	}
	mustStop(t, p)
	mustStop(t, mustPostgres(t, dir))
}

func TestPostgresOfAKilledServerIsTakenOver(t *testing.T) {
	t.Parallel()
	dir := clusterFolder(t)
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
	p := &privatePostgres{dir: dir}
	mustExec(t, p.url(ownDatabase), "CREATE TABLE kept AS SELECT 'still here' AS word")
	if err := server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = server.Wait() // it was killed
	left, _ := p.postmaster()
	if got := queryText(t, p.url(ownDatabase), "SELECT word FROM kept"); got != "still here" || left == 0 {
		t.Fatalf("the killed server's Postgres is gone already: %q", got)
	}
	p = mustPostgres(t, dir)
	if now, _ := p.postmaster(); now == left || now == 0 {
		t.Errorf("the postmaster is %d, and was %d", now, left)
	}
	if got := queryText(t, p.url(ownDatabase), "SELECT word FROM kept"); got != "still here" {
		t.Errorf("after the take-over the data is %q", got)
	}
	mustStop(t, p)
}

func TestStaleLockFilesDontKeepPostgresFromStarting(t *testing.T) {
	t.Parallel()
	dir := clusterFolder(t)
	p := mustPostgres(t, dir)
	pidFile := filepath.Join(dir, "postgres", "postmaster.pid")
	content, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	mustStop(t, p)
	// As after a power cut, with the pid given to a live process of the same account since.
	other := p.command(t.Context(), "/bin/sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(content), "\n")
	stale := fmt.Appendf(nil, "%d\n%s", other.Process.Pid, rest)
	if err := os.WriteFile(pidFile, stale, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "run", socketName+".lock"), stale, 0o600); err != nil {
		t.Fatal(err)
	}
	mustStop(t, mustPostgres(t, dir))
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the process that has the pid now was harmed: %v", err)
	}
	_ = other.Process.Kill()
	_ = other.Wait()
}

func TestHalfMadeClusterHeals(t *testing.T) {
	t.Parallel()
	dir := clusterFolder(t)
	ctx, cancel := context.WithCancel(t.Context())
	cut := slog.New(slog.NewTextHandler(writerFunc(func([]byte) {
		go func() { // it says that it begins: cut it short as soon as there is something
			for ctx.Err() == nil {
				if _, err := os.Stat(filepath.Join(dir, "postgres.new", "global")); err == nil {
					cancel()
				}
			}
		}()
	}), nil))
	_, err := startPostgres(ctx, cut, dir, true)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("a start that was cut short: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "postgres.new", "global")); err != nil {
		t.Fatalf("nothing half-made is there: %v", err)
	}
	p := mustPostgres(t, dir)
	mustExec(t, p.url(ownDatabase), "CREATE TABLE works ()")
	mustStop(t, p)
}

func TestFailedStartShowsPostgresLog(t *testing.T) {
	t.Parallel()
	dir := clusterFolder(t)
	p := mustPostgres(t, dir)
	mustStop(t, p)
	if err := os.WriteFile(p.path("postgres", "postgresql.auto.conf"), []byte("no_such_setting = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := tryPostgres(t, dir)
	wantError(t, err, "starting Postgres", "no_such_setting", p.path("postgres.log"))
	if err := os.Truncate(p.path("postgres", "postgresql.auto.conf"), 0); err != nil {
		t.Fatal(err)
	}
	mustStop(t, mustPostgres(t, dir)) // what failed has let go of the folder
}

func TestClusterOfAnotherVersionIsRefused(t *testing.T) {
	t.Parallel()
	dir := clusterFolder(t)
	if err := os.MkdirAll(filepath.Join(dir, "postgres"), 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "postgres", "PG_VERSION"), []byte("9\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if account, err := postgresAccount(); err != nil {
		t.Fatal(err)
	} else if account != nil {
		if err := os.Chown(filepath.Join(dir, "postgres"), int(account.Uid), int(account.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := tryPostgres(t, dir)
	wantError(t, err, dir, "PostgreSQL 9", "install version 9")
}

func TestUnusableFoldersAreNamed(t *testing.T) {
	t.Parallel()
	folder := filepath.Dir(clusterFolder(t))
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
			[]string{"the user postgres, who may not enter " + closed, "DATA_DIR"}})
		foreign := filepath.Join(folder, "foreign")
		if err := errors.Join(os.MkdirAll(foreign+"/postgres", 0o711), os.Chown(foreign+"/postgres", 4242, 4242)); err != nil {
			t.Fatal(err)
		}
		tests = append(tests, test{"another user's", foreign, []string{foreign, "belongs to the user 4242", "DATA_DIR"}})
	} else if err := os.Chmod(closed, 0o500); err == nil {
		tests = append(tests, test{"read only", closed, []string{closed, "permission denied", "DATA_DIR"}})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := tryPostgres(t, test.dir)
			wantError(t, err, test.words...)
		})
	}
}

func TestMissingProgramsAreToldWithTheInstallCommand(t *testing.T) {
	t.Parallel()
	p := &privatePostgres{log: slog.New(slog.DiscardHandler), dir: clusterFolder(t), folders: []string{"/nowhere", t.TempDir()}}
	wantError(t, p.start(t.Context()), "no PostgreSQL programs", installAdvice(), "DATABASE_URL")
	if _, err := os.Stat(p.dir); err == nil {
		t.Error("a folder was made for nothing")
	}
}

func TestInstallCommandFitsTheSystem(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ goos, release, want string }{
		{"darwin", "", "brew install postgresql@17"},
		{"linux", "NAME=\"Debian GNU/Linux\"\nID=debian\n", "sudo apt-get install -y postgresql"},
		{"linux", "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "sudo apt-get install -y postgresql"},
		{"linux", "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", "sudo dnf install -y postgresql-server"},
		{"linux", "ID=other\n", ""},
		{"linux", "", ""},
	} {
		if got := installCommand(test.goos, test.release); got != test.want {
			t.Errorf("%s %q: %q, want %q", test.goos, test.release, got, test.want)
		}
	}
}
