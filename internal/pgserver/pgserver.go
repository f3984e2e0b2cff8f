// Package pgserver runs a private PostgreSQL server for as long as the program
// does, so that a quick start and the tests need no set-up. It finds
// PostgreSQL's own programs on this machine, makes a cluster with them in a
// folder of the caller's choice, and starts and ends it.
//
// The folder holds everything, and is kept for the next start:
//
//	server.lock    flock of the process that owns the folder
//	postgres.lock  flock that initdb and Postgres inherit: held while one of their processes lives
//	postgres/      the cluster; postgres.new/ until initdb has finished it
//	run/           the Unix socket, open to its owner alone; there is no other way in
//	postgres.log   what Postgres logs; postgres.log.old is from the start before
//
// A folder has one owner at a time. An owner that is killed leaves its Postgres
// running; the next one ends that, clears what is stale, and has the data.
//
// Postgres refuses to run as root: see [Account].
//
// Errors are written for whoever runs the program. They say what to do, and
// call the folder DATA_DIR and the use of another database DATABASE_URL, which
// are the program's settings for them.
package pgserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// MinVersion is the oldest major version of PostgreSQL that is used.
	MinVersion = 14

	// Database is the database that a start makes unless it is there.
	Database = "tachikoma"

	// StopTimeout is how long Stop can take: all of shutdownSteps.
	StopTimeout = stopFast + stopImmediate + stopForced

	stopFast      = 20 * time.Second
	stopImmediate = 10 * time.Second
	stopForced    = 5 * time.Second
	pollInterval  = 10 * time.Millisecond
	socketName    = ".s.PGSQL.5432"
)

// shutdownSteps is how a postmaster is ended: fast (clients are cut off, all
// is written), immediate (the next start recovers), by force.
var shutdownSteps = []struct {
	signal   syscall.Signal
	patience time.Duration
}{
	{syscall.SIGINT, stopFast},
	{syscall.SIGQUIT, stopImmediate},
	{syscall.SIGKILL, stopForced},
}

// Server is a running Postgres that this process owns. Its methods may be
// called from any goroutine.
type Server struct {
	log       *slog.Logger
	dir       string
	throwaway bool                // for tests: fast, and not safe from a crash of the machine
	folders   []string            // where the programs may be, the best first
	account   *syscall.Credential // who Postgres runs as; nil: who the server runs as

	bin     string        // the folder of the programs in use
	lock    *os.File      // server.lock
	process *os.Process   // the postmaster
	exited  chan struct{} // closed when the postmaster has ended
	exitErr error         // to be read once exited is closed
	end     func() error  // Stop, once
}

// Start makes or takes over the cluster in dir, which is made if it isn't there,
// and returns when Postgres accepts connections and has the database [Database].
// ctx bounds the start alone: after a crash, recovery may take minutes.
//
// Only one process at a time can have dir; a Postgres that a killed one left
// there is ended first. The caller must call Stop. After an error nothing runs,
// and the next start clears what is half made.
func Start(ctx context.Context, log *slog.Logger, dir string) (*Server, error) {
	return start(ctx, log, dir, false)
}

// StartThrowaway is Start for data that nobody needs after a crash of the
// machine, as in tests: nothing is synced to disk.
func StartThrowaway(ctx context.Context, log *slog.Logger, dir string) (*Server, error) {
	return start(ctx, log, dir, true)
}

func start(ctx context.Context, log *slog.Logger, dir string, throwaway bool) (*Server, error) {
	p := &Server{log: log, dir: dir, throwaway: throwaway, folders: postgresFolders(os.Getenv("PATH"))}
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// URL is the connection string of a database, for pgx and psql alike. Its user
// is the superuser postgres, without a password.
func (p *Server) URL(database string) string {
	query := "host=" + url.QueryEscape(p.path("run")) + "&port=5432&user=postgres"
	return "postgres:///" + url.PathEscape(database) + "?" + strings.ReplaceAll(query, "+", "%20")
}

// Running returns the connection string of [Database] in dir, and whether a
// process has that Postgres right now: for commands beside that process, which
// can't start it again.
func Running(dir string) (url string, running bool) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", false
	}
	p := &Server{dir: dir}
	if _, err := os.Stat(p.path("server.lock")); err != nil {
		return "", false
	}
	lock, err := lockFile(p.path("server.lock"))
	if err == nil {
		unlock(lock)
	}
	return p.URL(Database), errors.Is(err, errLocked)
}

// Hints are the command lines, quoted for a shell, that open a psql and write a
// backup, with programs of this cluster's own version.
func (p *Server) Hints() []string {
	to := " -h " + shellQuote(p.path("run")) + " -U postgres "
	return []string{
		shellQuote(p.program("psql")) + to + Database,
		shellQuote(p.program("pg_dump")) + to + "-Fc -f " + Database + ".dump " + Database,
	}
}

// Done is closed when the postmaster has ended, by itself or by Stop. Stop is to
// be called in either case.
func (p *Server) Done() <-chan struct{} { return p.exited }

// Stop ends Postgres and gives the folder free. It cuts off whoever is still
// connected, waits for the end, and may be called again: the answer is the
// same. If Postgres didn't end well, or had ended by itself with an error, the
// error has the end of its log.
func (p *Server) Stop() error { return p.end() }

func (p *Server) start(ctx context.Context) (err error) {
	if p.folders = withPrograms(p.folders); len(p.folders) == 0 {
		return fmt.Errorf("there are no PostgreSQL programs on this machine: %s, or name a database in DATABASE_URL",
			installAdvice())
	}
	if p.account, err = Account(); err != nil {
		return err
	}
	if err := p.takeFolder(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			unlock(p.lock)
		}
	}()
	life, err := p.endLeftover(ctx)
	if err != nil {
		return err
	}
	defer life.Close()
	out, err := p.openLog()
	if err != nil {
		return err
	}
	defer out.Close()
	if err := p.choosePrograms(); err != nil {
		return err
	}
	if _, err := os.Stat(p.path("postgres")); errors.Is(err, fs.ErrNotExist) {
		if err := p.initCluster(ctx, life, out); err != nil {
			return err
		}
	}
	if err := p.launch(life, out); err != nil {
		return err
	}
	if err := p.awaitReady(ctx); err != nil {
		_ = p.Stop() // says the same again
		return err
	}
	return nil
}

// takeFolder makes dir if it isn't there and locks it for this process.
func (p *Server) takeFolder() (err error) {
	if p.dir, err = filepath.Abs(p.dir); err != nil {
		return p.unusable(err)
	}
	socket, limit := filepath.Join(p.path("run"), socketName), len(syscall.RawSockaddrUnix{}.Path)-1
	if len(socket) > limit {
		return fmt.Errorf("the path of Postgres's socket, %s, has %d bytes and this system allows %d: choose a shorter DATA_DIR",
			socket, len(socket), limit)
	}
	if strings.Contains(p.dir, ",") {
		return fmt.Errorf("the folder %s has a comma in its path, which Postgres's clients take for the end of a host: "+
			"choose another DATA_DIR", p.dir)
	}
	if _, err := os.Stat(p.dir); errors.Is(err, fs.ErrNotExist) {
		mode := fs.FileMode(0o700)
		if p.account != nil {
			mode = 0o711 // root owns it, and Postgres's account must get through
		}
		if err := errors.Join(os.MkdirAll(p.dir, mode), os.Chmod(p.dir, mode)); err != nil {
			return p.unusable(err)
		}
	}
	if err := p.checkOwner(); err != nil {
		return err
	}
	// A killed server's lock can last a moment longer, in a child that hadn't got to its exec.
	for deadline := time.Now().Add(time.Second); ; time.Sleep(pollInterval) {
		if p.lock, err = lockFile(p.path("server.lock")); !errors.Is(err, errLocked) || time.Now().After(deadline) {
			break
		}
	}
	if errors.Is(err, errLocked) {
		return fmt.Errorf("another server uses the folder %s: stop it, or give this one another DATA_DIR or a DATABASE_URL", p.dir)
	}
	if err != nil {
		return p.unusable(err)
	}
	return nil
}

func (p *Server) unusable(err error) error {
	return fmt.Errorf("the folder %s can't be used: %w: choose another DATA_DIR, or name a database in DATABASE_URL", p.dir, err)
}

// endLeftover ends what a killed server left running and returns
// postgres.lock, locked. That lock is the proof: Postgres inherits it, so while
// it is held the pid in postmaster.pid is a Postgres of this folder, and when
// it is free that pid is somebody else's by now.
func (p *Server) endLeftover(ctx context.Context) (life *os.File, err error) {
	free := func(patience time.Duration) bool {
		for deadline := time.Now().Add(patience); ; time.Sleep(pollInterval) {
			life, err = lockFile(p.path("postgres.lock"))
			if !errors.Is(err, errLocked) || time.Now().After(deadline) {
				return err == nil
			}
		}
	}
	if !free(0) && errors.Is(err, errLocked) {
		p.log.WarnContext(ctx, "ending the Postgres that a killed server left running", "dir", p.dir)
		// One that has only just begun, and initdb, have no postmaster.pid: they get a while.
		for start := time.Now(); time.Since(start) < 30*time.Second && ctx.Err() == nil; {
			if pid, _ := p.postmaster(); pid > 0 {
				process, _ := os.FindProcess(pid) // never an error on Unix
				endPostmaster(process, free)
				break
			}
			if free(pollInterval) {
				break
			}
		}
	}
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("a Postgres that a killed server left in %s doesn't end: %w", p.dir, cmp.Or(ctx.Err(), err))
	}
	if err != nil {
		return nil, p.unusable(err)
	}
	if err := p.clearLeftover(); err != nil {
		return nil, errors.Join(err, life.Close())
	}
	return life, nil
}

// clearLeftover removes what a Postgres leaves that was killed: lock files
// whose pids may since belong to anybody, the socket, a half-made cluster.
func (p *Server) clearLeftover() error {
	if pid, socket := p.postmaster(); pid > 0 {
		if conn, err := net.DialTimeout("unix", socket, time.Second); err == nil {
			return errors.Join(fmt.Errorf("a Postgres that no server started (pid %d) uses %s: stop it with kill -INT %d",
				pid, p.path("postgres"), pid), conn.Close())
		}
		if err := os.Remove(p.path("postgres", "postmaster.pid")); err != nil {
			return p.unusable(err)
		}
	}
	if err := errors.Join(os.RemoveAll(p.path("postgres.new")), os.RemoveAll(p.path("run")), p.makeOwned("run")); err != nil {
		return p.unusable(err)
	}
	return nil
}

// postmaster returns the pid and the socket that the cluster's postmaster.pid
// names, or 0. https://www.postgresql.org/docs/current/storage-file-layout.html
func (p *Server) postmaster() (pid int, socket string) {
	content, err := os.ReadFile(p.path("postgres", "postmaster.pid"))
	if err != nil {
		return 0, ""
	}
	lines := append(strings.Split(string(content), "\n"), make([]string, 5)...)
	pid, err = strconv.Atoi(lines[0])
	if err != nil || pid < 2 {
		return 0, ""
	}
	return pid, filepath.Join(lines[4], ".s.PGSQL."+lines[3])
}

// makeOwned makes an empty folder in dir that is Postgres's own.
func (p *Server) makeOwned(name string) error {
	if err := os.Mkdir(p.path(name), 0o700); err != nil {
		return err
	}
	if p.account == nil {
		return nil
	}
	return os.Chown(p.path(name), int(p.account.Uid), int(p.account.Gid))
}

func (p *Server) openLog() (*os.File, error) {
	name := p.path("postgres.log")
	if err := os.Rename(name, name+".old"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, p.unusable(err)
	}
	out, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, p.unusable(err)
	}
	return out, nil
}

// initCluster makes the cluster under another name and renames it when it is
// whole: one that was cut short is never taken for a cluster.
func (p *Server) initCluster(ctx context.Context, life, out *os.File) error {
	p.log.InfoContext(ctx, "making a Postgres cluster, which takes a few seconds", "dir", p.dir, "programs", p.bin)
	if err := p.makeOwned("postgres.new"); err != nil {
		return p.unusable(err)
	}
	args := []string{"-D", p.path("postgres.new"), "--encoding=UTF8", "--locale=C", "--username=postgres",
		"--auth-local=trust", "--auth-host=reject", "--no-instructions"}
	if p.throwaway {
		args = append(args, "--no-sync")
	}
	cmd := p.command(ctx, p.program("initdb"), args...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out, out, []*os.File{life}
	if err := cmd.Run(); err != nil {
		return p.failure("making a Postgres cluster", cmp.Or(ctx.Err(), err))
	}
	if err := os.Rename(p.path("postgres.new"), p.path("postgres")); err != nil {
		return p.unusable(err)
	}
	if p.throwaway {
		return nil
	}
	return syncFolder(p.dir) // or a power cut could undo the rename, and the next start make a new cluster
}

// launch starts the postmaster. Its settings are given here and not in
// postgresql.conf, so that a cluster made by an older server gets them too;
// all others are the owner's to change with ALTER SYSTEM.
func (p *Server) launch(life, out *os.File) error {
	settings := []string{
		"listen_addresses=",
		"port=5432",
		`unix_socket_directories="` + strings.ReplaceAll(p.path("run"), `"`, `""`) + `"`,
		"max_connections=200", // ten servers with the default pool
		"jit=off",             // it writes code, which a hardened unit forbids, and then the query fails
		"logging_collector=off",
		"log_destination=stderr",
	}
	if p.throwaway {
		settings = append(settings, "fsync=off", "synchronous_commit=off", "full_page_writes=off",
			"wal_level=minimal", "max_wal_senders=0", "max_connections=500")
	}
	args := []string{"-D", p.path("postgres")}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	cmd := p.command(context.Background(), p.program("postgres"), args...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out, out, []*os.File{life}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting Postgres: %w", err)
	}
	p.process, p.exited, p.end = cmd.Process, make(chan struct{}), sync.OnceValue(p.shutDown)
	go func() {
		p.exitErr = cmd.Wait()
		close(p.exited)
	}()
	return nil
}

// awaitReady returns when Postgres accepts connections and has the server's
// database. A recovery after a crash may take minutes: ctx alone bounds it.
func (p *Server) awaitReady(ctx context.Context) error {
	poll, remind := time.NewTicker(pollInterval), time.NewTicker(10*time.Second)
	defer poll.Stop()
	defer remind.Stop()
	for {
		err := p.makeDatabase(ctx)
		if err == nil {
			return nil
		}
		if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code != "57P03" { // cannot_connect_now
			return p.failure("preparing Postgres", err)
		}
		select {
		case <-p.exited:
			return p.failure("starting Postgres", cmp.Or(p.exitErr, errors.New("it ended at once")))
		case <-ctx.Done():
			return fmt.Errorf("waiting for Postgres: %w", ctx.Err())
		case <-remind.C:
			p.log.InfoContext(ctx, "still waiting for Postgres", "log", p.path("postgres.log"), "last_answer", err)
		case <-poll.C:
		}
	}
}

// makeDatabase makes the server's database unless it is there.
func (p *Server) makeDatabase(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var there bool
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", Database).Scan(&there)
	if err == nil && !there {
		_, err = conn.Exec(ctx, "CREATE DATABASE "+Database)
	}
	return err
}

func (p *Server) shutDown() error {
	endPostmaster(p.process, func(patience time.Duration) bool {
		select {
		case <-p.exited:
			return true
		case <-time.After(patience):
			return false
		}
	})
	<-p.exited
	unlock(p.lock)
	if p.exitErr != nil {
		return p.failure("ending Postgres", p.exitErr)
	}
	return nil
}

// endPostmaster ends a postmaster with growing force. ended waits so long and
// reports whether it has ended.
func endPostmaster(process *os.Process, ended func(patience time.Duration) bool) {
	for _, step := range shutdownSteps {
		// One that has ended can't be signalled; ended tells.
		_ = process.Signal(step.signal)
		if ended(step.patience) {
			return
		}
	}
}

// failure is err with the end of Postgres's log.
func (p *Server) failure(doing string, err error) error {
	content, readErr := os.ReadFile(p.path("postgres.log"))
	if readErr != nil {
		return fmt.Errorf("%s: %w (and its log: %w)", doing, err, readErr)
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	lines = lines[max(0, len(lines)-15):]
	return fmt.Errorf("%s: %w; %s ends with:\n    %s", doing, err, p.path("postgres.log"), strings.Join(lines, "\n    "))
}

func (p *Server) path(names ...string) string {
	return filepath.Join(append([]string{p.dir}, names...)...)
}
