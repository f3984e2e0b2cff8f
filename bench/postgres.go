package main

// A throwaway Postgres cluster, for the server and for the references.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// postgres is a running cluster, reached by a Unix socket alone.
type postgres struct {
	bin    string // the folder of its programs
	socket string // the folder of its socket
}

// url names a database of the cluster.
func (p *postgres) url(database string) string {
	return "postgres://postgres@/" + database + "?host=" + p.socket
}

// startPostgres makes a cluster with the three databases and starts it. As
// root it runs as the user postgres, since Postgres refuses to run as root.
func (b *bench) startPostgres(ctx context.Context) (*postgres, error) {
	bin, err := postgresPrograms()
	if err != nil {
		return nil, err
	}
	p := &postgres{bin: bin, socket: filepath.Join(b.dir, "postgres")}
	if err := os.Mkdir(p.socket, 0o755); err != nil {
		return nil, err
	}
	attributes, err := postgresAccount(p.socket)
	if err != nil {
		return nil, err
	}
	cluster := filepath.Join(p.socket, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", cluster, "--encoding=UTF8", "--locale=C",
		"--username=postgres", "--auth=trust", "--no-sync")
	initdb.SysProcAttr, initdb.Dir = attributes, p.socket
	ownGroup(initdb)
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	serve := exec.Command(filepath.Join(bin, "postgres"), "-D", cluster, "-k", p.socket,
		"-c", "listen_addresses=", "-c", "jit=off", "-c", "max_connections=300")
	serve.SysProcAttr, serve.Dir = attributes, p.socket
	running, err := b.start("postgres", serve)
	if err != nil {
		return nil, err
	}
	running.end = syscall.SIGQUIT // its data isn't needed again
	create := func() error { return p.exec(ctx, "postgres", "CREATE DATABASE tachikoma") }
	if err := running.ready(ctx, create); err != nil {
		return nil, err
	}
	return p, p.exec(ctx, "postgres", "CREATE DATABASE reference", "CREATE DATABASE river")
}

// postgresPrograms finds the folder of a Postgres' programs: in PATH, or where
// Debian's packages put them, the newest version first.
func postgresPrograms() (string, error) {
	var folders []string
	if program, err := exec.LookPath("postgres"); err == nil {
		folders = append(folders, filepath.Dir(program))
	}
	packages, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // its one error is a bad pattern
	version := func(folder string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(folder)))
		return n
	}
	slices.SortFunc(packages, func(a, b string) int { return cmp.Compare(version(b), version(a)) })
	for _, folder := range append(folders, packages...) {
		_, noInitdb := os.Stat(filepath.Join(folder, "initdb"))
		_, noPgbench := os.Stat(filepath.Join(folder, "pgbench"))
		if noInitdb == nil && noPgbench == nil {
			return folder, nil
		}
	}
	return "", errors.New("PostgreSQL with pgbench is needed: apt-get install postgresql, or brew install postgresql@17")
}

// postgresAccount hands the folder to the user postgres if the bench runs as
// root, and returns what makes a command run as that user.
func postgresAccount(folder string) (*syscall.SysProcAttr, error) {
	if os.Geteuid() != 0 {
		return &syscall.SysProcAttr{}, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, _ := strconv.Atoi(account.Uid) // always numbers on Unix
	gid, _ := strconv.Atoi(account.Gid)
	if err := os.Chown(folder, uid, gid); err != nil {
		return nil, err
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
}

// connect opens a connection to a database of the cluster.
func (p *postgres) connect(ctx context.Context, database string) (*pgx.Conn, error) {
	return pgx.Connect(ctx, p.url(database))
}

// exec runs statements one by one, each outside of a transaction.
func (p *postgres) exec(ctx context.Context, database string, statements ...string) error {
	conn, err := p.connect(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// settle brings filled databases to the state that autovacuum would bring them
// to, so that it has nothing to do while a round runs.
func (p *postgres) settle(ctx context.Context, databases ...string) error {
	for _, database := range databases {
		if err := p.exec(ctx, database, "VACUUM (ANALYZE)", "CHECKPOINT"); err != nil {
			return err
		}
	}
	return nil
}
