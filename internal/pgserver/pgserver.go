// Package pgserver runs a private PostgreSQL server for as long as the program
// does, so that a quick start and the tests need no setup. It finds the
// PostgreSQL programs on this machine, makes a cluster with them in a folder of
// the caller's choice, and starts and stops it.
//
// The folder holds everything. Nothing in it is removed at the end:
//
//	server.lock    flock of the process that owns the folder
//	postgres.lock  flock that initdb and Postgres inherit: held while one of their processes lives
//	postgres/      the cluster; postgres.new/ until initdb has finished it
//	run/           the Unix socket, open to its owner alone; there is no other way in
//	postgres.log   what Postgres logs; postgres.log.old is from the previous start
//
// One process at a time owns a folder. If it is killed, its Postgres keeps
// running; the next owner stops that Postgres, removes stale files, and starts
// the cluster again with all its data.
//
// Postgres refuses to run as root; [Account] is the account it runs as.
//
// Errors are written for the person who runs the program, and say what to do.
// They use the names of the program's settings: DATA_DIR is the folder, and
// DATABASE_URL a database that makes the private Postgres unnecessary.
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
	// MinVersion is the oldest major version of PostgreSQL that the program works with.
	MinVersion = 14

	// Database is the name of the program's database.
	Database = "tachikoma"

	// StopTimeout is how long Stop takes for a Postgres that has to be killed.
	StopTimeout = stopFast + stopImmediate + stopForced

	stopFast      = 20 * time.Second
	stopImmediate = 10 * time.Second
	stopForced    = 5 * time.Second
	pollInterval  = 10 * time.Millisecond
	socketName    = ".s.PGSQL.5432"
)

// shutdownSteps are how a postmaster is stopped: fast (clients are disconnected,
// everything is written), immediate (the next start recovers), by force.
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
// See docs/design.md, The private Postgres.
type Server struct {
	log       *slog.Logger
	dir       string
	throwaway bool                // for tests: fast, but a crash of the machine loses data
	folders   []string            // where the programs may be, the best first
	account   *syscall.Credential // that Postgres runs as; nil: the server's own

	bin     string        // the folder of the programs in use
	lock    *os.File      // server.lock
	process *os.Process   // the postmaster
	exited  chan struct{} // closed when the postmaster has ended
	exitErr error         // to be read once exited is closed
	end     func() error  // Stop, once
}

// Start starts the cluster in the folder dir and returns when it accepts
// connections and has the database [Database]. The folder and the cluster are
// made if they don't exist. Cancelling ctx ends the start and has no effect
// afterwards; recovery from a crash can take minutes.
//
// Only one process at a time can own dir; a Postgres that a killed owner left
// running is stopped first. The caller must call Stop. After an error nothing that
// Start has started is left running, and the next start removes what is half made.
func Start(ctx context.Context, log *slog.Logger, dir string) (*Server, error) {
	return start(ctx, log, dir, false)
}

// StartThrowaway is Start for tests: nothing is synced to disk, so the data
// doesn't survive a crash of the machine.
func StartThrowaway(ctx context.Context, log *slog.Logger, dir string) (*Server, error) {
	return start(ctx, log, dir, true)
}

func start(ctx context.Context, log *slog.Logger, dir string, throwaway bool) (*Server, error) {
	s := &Server{log: log, dir: dir, throwaway: throwaway, folders: postgresFolders(os.Getenv("PATH"))}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// URL returns the connection string of a database, for pgx and psql alike. Its
// user is the superuser postgres, without a password.
func (s *Server) URL(database string) string {
	query := "host=" + url.QueryEscape(s.path("run")) + "&port=5432&user=postgres"
	return "postgres:///" + url.PathEscape(database) + "?" + strings.ReplaceAll(query, "+", "%20")
}

// Running reports whether a process owns the Postgres in dir right now, and
// returns the connection string of its [Database]. It is for commands that run
// beside that process and so can't start the Postgres themselves.
func Running(dir string) (url string, running bool) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", false
	}
	s := &Server{dir: dir}
	if _, err := os.Stat(s.path("server.lock")); err != nil {
		return "", false
	}
	lock, err := lockFile(s.path("server.lock"))
	if err == nil {
		unlock(lock)
	}
	return s.URL(Database), errors.Is(err, errLocked)
}

// Hints are two command lines, quoted for a shell: one opens psql, one writes a
// backup. They name programs of the cluster's own version.
func (s *Server) Hints() []string {
	to := " -h " + shellQuote(s.path("run")) + " -U postgres "
	return []string{
		shellQuote(s.program("psql")) + to + Database,
		shellQuote(s.program("pg_dump")) + to + "-Fc -f " + Database + ".dump " + Database,
	}
}

// Done returns a channel that is closed when the postmaster has ended, by itself or
// through Stop. Stop must be called in either case.
func (s *Server) Done() <-chan struct{} { return s.exited }

// Stop stops Postgres, with growing force until [StopTimeout], waits until it has
// ended and releases the folder. It disconnects all clients. It may be called again
// and returns the same result. If Postgres failed, now or before, the error quotes
// the end of its log.
func (s *Server) Stop() error { return s.end() }

func (s *Server) start(ctx context.Context) (err error) {
	if s.folders = withPrograms(s.folders); len(s.folders) == 0 {
		return fmt.Errorf("there are no PostgreSQL programs on this machine: %s, or name a database in DATABASE_URL",
			installAdvice())
	}
	if s.account, err = Account(); err != nil {
		return err
	}
	if err := s.takeFolder(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			unlock(s.lock)
		}
	}()
	life, err := s.endLeftover(ctx)
	if err != nil {
		return err
	}
	defer life.Close()
	out, err := s.openLog()
	if err != nil {
		return err
	}
	defer out.Close()
	if err := s.choosePrograms(); err != nil {
		return err
	}
	if _, err := os.Stat(s.path("postgres")); errors.Is(err, fs.ErrNotExist) {
		if err := s.initCluster(ctx, life, out); err != nil {
			return err
		}
	}
	if err := s.launch(life, out); err != nil {
		return err
	}
	if err := s.awaitReady(ctx); err != nil {
		_ = s.Stop() // returns the same error again
		return err
	}
	return nil
}

// takeFolder makes dir if it doesn't exist, and locks it for this process.
func (s *Server) takeFolder() (err error) {
	if s.dir, err = filepath.Abs(s.dir); err != nil {
		return s.unusable(err)
	}
	socket, limit := filepath.Join(s.path("run"), socketName), len(syscall.RawSockaddrUnix{}.Path)-1
	if len(socket) > limit {
		return fmt.Errorf("the path of Postgres's socket, %s, has %d bytes and this system allows %d: choose a shorter "+
			"DATA_DIR",
			socket, len(socket), limit)
	}
	if strings.Contains(s.dir, ",") {
		return fmt.Errorf("the folder %s has a comma in its path, which Postgres's clients treat as the end of a host: "+
			"choose another DATA_DIR", s.dir)
	}
	mode := fs.FileMode(0o700)
	if s.account != nil {
		mode = 0o711 // root owns it, and Postgres's account must be able to enter
	}
	if err := makeFolders(s.dir, mode); err != nil {
		return s.unusable(err)
	}
	if err := s.checkOwner(); err != nil {
		return err
	}
	// A killed server's lock can last a moment longer, in a child that hasn't reached its exec.
	for deadline := time.Now().Add(time.Second); ; time.Sleep(pollInterval) {
		if s.lock, err = lockFile(s.path("server.lock")); !errors.Is(err, errLocked) || time.Now().After(deadline) {
			break
		}
	}
	if errors.Is(err, errLocked) {
		return fmt.Errorf("another server uses the folder %s: stop it, or give this one another DATA_DIR or a DATABASE_URL",
			s.dir)
	}
	if err != nil {
		return s.unusable(err)
	}
	return nil
}

// makeFolders is os.MkdirAll, whatever the umask is.
func makeFolders(dir string, mode fs.FileMode) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeFolders(filepath.Dir(dir), mode); err != nil {
		return err
	}
	if err := os.Mkdir(dir, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Chmod(dir, mode)
}

func (s *Server) unusable(err error) error {
	return fmt.Errorf("the folder %s can't be used: %w: choose another DATA_DIR, or name a database in DATABASE_URL",
		s.dir, err)
}

// endLeftover stops what a killed server left running and returns postgres.lock,
// locked. That lock is the proof: Postgres inherits it, so while it is held the pid
// in postmaster.pid is a Postgres of this folder, and when it is free that pid
// belongs to some other process by now.
func (s *Server) endLeftover(ctx context.Context) (life *os.File, err error) {
	free := func(patience time.Duration) bool {
		for deadline := time.Now().Add(patience); ; time.Sleep(pollInterval) {
			life, err = lockFile(s.path("postgres.lock"))
			if !errors.Is(err, errLocked) || time.Now().After(deadline) {
				return err == nil
			}
		}
	}
	if !free(0) && errors.Is(err, errLocked) {
		s.log.WarnContext(ctx, "stopping the Postgres that a killed server left running", "dir", s.dir)
		// One that has only just started, and initdb, have no postmaster.pid: they get some time.
		for start := time.Now(); time.Since(start) < 30*time.Second && ctx.Err() == nil; {
			if pid, _ := s.postmaster(); pid > 0 {
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
		return nil, fmt.Errorf("a Postgres that a killed server left in %s doesn't end: %w", s.dir, cmp.Or(ctx.Err(), err))
	}
	if err != nil {
		return nil, s.unusable(err)
	}
	if err := s.clearLeftover(); err != nil {
		return nil, errors.Join(err, life.Close())
	}
	return life, nil
}

// clearLeftover removes what a killed Postgres has left: lock files whose pids may
// belong to another process by now, or that a power cut has emptied; the socket; a
// half-made cluster.
func (s *Server) clearLeftover() error {
	if pid, socket := s.postmaster(); pid > 0 {
		if conn, err := net.DialTimeout("unix", socket, time.Second); err == nil {
			return errors.Join(fmt.Errorf("a Postgres that no server started (pid %d) uses %s: stop it with kill -INT %d",
				pid, s.path("postgres"), pid), conn.Close())
		}
	}
	if err := os.Remove(s.path("postgres", "postmaster.pid")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s.unusable(err)
	}
	if err := errors.Join(os.RemoveAll(s.path("postgres.new")), os.RemoveAll(s.path("run")),
		s.makeOwned("run")); err != nil {
		return s.unusable(err)
	}
	return nil
}

// postmaster returns the pid and the socket that the cluster's postmaster.pid
// names, or 0. https://www.postgresql.org/docs/current/storage-file-layout.html
func (s *Server) postmaster() (pid int, socket string) {
	content, err := os.ReadFile(s.path("postgres", "postmaster.pid"))
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
func (s *Server) makeOwned(name string) error {
	if err := makeFolders(s.path(name), 0o700); err != nil {
		return err
	}
	if s.account == nil {
		return nil
	}
	return os.Chown(s.path(name), int(s.account.Uid), int(s.account.Gid))
}

func (s *Server) openLog() (*os.File, error) {
	name := s.path("postgres.log")
	if err := os.Rename(name, name+".old"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, s.unusable(err)
	}
	out, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, s.unusable(err)
	}
	return out, nil
}

// launch starts the postmaster. Its settings are given here and not in
// postgresql.conf, so that a cluster made by an older server gets them too; the
// operator can change all others with ALTER SYSTEM.
func (s *Server) launch(life, out *os.File) error {
	settings := []string{
		"listen_addresses=",
		"port=5432",
		`unix_socket_directories="` + strings.ReplaceAll(s.path("run"), `"`, `""`) + `"`,
		"max_connections=200", // ten servers with the default pool
		"jit=off",             // it needs executable memory, which a hardened unit forbids: the query would fail
		"logging_collector=off",
		"log_destination=stderr",
	}
	if s.throwaway {
		settings = append(settings, "fsync=off", "synchronous_commit=off", "full_page_writes=off",
			"wal_level=minimal", "max_wal_senders=0", "max_connections=500")
	}
	args := []string{"-D", s.path("postgres")}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	cmd := s.command(context.Background(), s.program("postgres"), args...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out, out, []*os.File{life}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting Postgres: %w", err)
	}
	s.process, s.exited, s.end = cmd.Process, make(chan struct{}), sync.OnceValue(s.shutDown)
	go func() {
		s.exitErr = cmd.Wait()
		close(s.exited)
	}()
	return nil
}

// awaitReady returns when Postgres accepts connections and has the server's
// database. A recovery after a crash may take minutes: ctx alone bounds it.
func (s *Server) awaitReady(ctx context.Context) error {
	poll, remind := time.NewTicker(pollInterval), time.NewTicker(10*time.Second)
	defer poll.Stop()
	defer remind.Stop()
	for {
		err := s.makeDatabase(ctx)
		if err == nil {
			return nil
		}
		if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code != "57P03" { // cannot_connect_now
			return s.failure("preparing Postgres", err)
		}
		select {
		case <-s.exited:
			return s.failure("starting Postgres", cmp.Or(s.exitErr, errors.New("it ended at once")))
		case <-ctx.Done():
			return fmt.Errorf("waiting for Postgres: %w", ctx.Err())
		case <-remind.C:
			s.log.InfoContext(ctx, "still waiting for Postgres", "log", s.path("postgres.log"), "last_answer", err)
		case <-poll.C:
		}
	}
}

// makeDatabase creates the server's database unless it exists.
func (s *Server) makeDatabase(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
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

func (s *Server) shutDown() error {
	endPostmaster(s.process, func(patience time.Duration) bool {
		select {
		case <-s.exited:
			return true
		case <-time.After(patience):
			return false
		}
	})
	<-s.exited
	unlock(s.lock)
	if s.exitErr != nil {
		return s.failure("ending Postgres", s.exitErr)
	}
	return nil
}

// endPostmaster stops a postmaster with growing force. ended waits for up to
// patience and reports whether the postmaster has ended.
func endPostmaster(process *os.Process, ended func(patience time.Duration) bool) {
	for _, step := range shutdownSteps {
		// One that has ended can't be signalled; ended will report it.
		_ = process.Signal(step.signal)
		if ended(step.patience) {
			return
		}
	}
}

// failure returns err with the end of Postgres's log.
func (s *Server) failure(doing string, err error) error {
	content, readErr := os.ReadFile(s.path("postgres.log"))
	if readErr != nil {
		return fmt.Errorf("%s: %w (and its log: %w)", doing, err, readErr)
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	lines = lines[max(0, len(lines)-15):]
	return fmt.Errorf("%s: %w; %s ends with:\n    %s", doing, err, s.path("postgres.log"), strings.Join(lines, "\n    "))
}

func (s *Server) path(names ...string) string {
	return filepath.Join(append([]string{s.dir}, names...)...)
}
