// Tachikoma is a server that keeps the work of AI coding agents: missions hold
// specs, agents claim the next ready spec under a lease, report and complete
// it, and people watch it live. README.md says how to run it and in which
// order to read it.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"tachikoma/internal/pgserver"
	"tachikoma/internal/sdnotify"
)

func main() {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "tachikoma:", err)
		os.Exit(1)
	}
}

const usageText = `tachikoma keeps missions and specs for AI coding agents.

  tachikoma               run the server
  tachikoma migrate       bring the database to this version, and exit
  tachikoma check         read the configuration, and say what is wrong with it
  tachikoma passwd EMAIL  set an account's password, read from standard input
  tachikoma healthcheck   ask the server with this configuration whether it is ready
  tachikoma -version      print the version
  tachikoma -help         print this

The configuration comes from environment variables, and from a file .env in
the working directory for those that aren't set:

`

// run is the whole program: it serves, or does what the first argument says,
// until it is done or ctx ends.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout,
	stderr io.Writer) error {
	command := strings.Join(args, " ")
	switch command {
	case "-help", "--help", "-h", "help":
		fmt.Fprint(stdout, usageText)
		configHelp(stdout)
		return nil
	case "-version", "--version", "version":
		fmt.Fprintln(stdout, programVersion())
		return nil
	}
	config, err := loadConfig(getenv, ".env")
	if err != nil {
		return fmt.Errorf("the configuration has problems:\n%w", err)
	}
	if config.DataDir == "" && config.DatabaseURL == "" {
		if config.DataDir, err = defaultDataDir(getenv); err != nil {
			return err
		}
	}
	switch email, passwd := strings.CutPrefix(command, "passwd "); {
	case command == "":
		return runServer(ctx, config, getenv, stdout, stderr)
	case command == "check":
		fmt.Fprintln(stdout, "The configuration is fine.")
		return nil
	case command == "healthcheck":
		return runHealthcheck(ctx, config, stdout)
	case command == "migrate":
		return runMigrate(ctx, config, stdout, stderr)
	case passwd:
		return runPasswd(ctx, config, email, stdin, stdout, stderr)
	}
	return fmt.Errorf("unknown arguments %q; see tachikoma -help", args)
}

func runServer(ctx context.Context, config Config, getenv func(string) string, stdout, stderr io.Writer) error {
	s, err := newServer(config, newLogger(config, stderr))
	if err != nil {
		return err
	}
	s.systemd = sdnotify.Notifier{Socket: getenv("NOTIFY_SOCKET"), Log: s.log}
	return s.run(ctx, func() { s.greet(ctx, stdout) })
}

// greet tells whoever started the server what to do next.
func (s *Server) greet(ctx context.Context, stdout io.Writer) {
	fmt.Fprintf(stdout, "\nTachikoma %s is at %s\n  open %[2]s\n  %[2]s/api/v1/docs describes its API\n",
		programVersion(), s.url())
	if s.postgres != nil {
		for _, line := range s.postgres.Hints() {
			fmt.Fprintln(stdout, "  "+line)
		}
	}
	first, err := firstAccount(ctx, s.db)
	if err != nil || !first || s.config.Registration == "closed" {
		return
	}
	fmt.Fprintf(stdout, "\nThere is no account yet. Make the first one on that page, or like this; it becomes admin:\n\n"+
		"  curl -X POST %s/api/v1/auth/register -H 'Content-Type: application/json' \\\n"+
		"    -d '{\"email\": \"you@example.com\", \"password\": \"at least 15 characters\", \"setup_token\": %q}'\n\n",
		s.url(), s.setupToken())
}

// runMigrate is the command "tachikoma migrate".
func runMigrate(ctx context.Context, config Config, stdout, stderr io.Writer) error {
	return onDatabase(ctx, config, stderr, func(_ *Server, url string) error {
		applied, err := migrate(ctx, url, newLogger(config, stderr))
		if err == nil {
			fmt.Fprintf(stdout, "The database is up to date; %d migrations were applied.\n", applied)
		}
		return err
	})
}

// runPasswd is the command "tachikoma passwd EMAIL", which also works while a server runs.
func runPasswd(ctx context.Context, config Config, email string, stdin io.Reader, stdout, stderr io.Writer) error {
	password, err := bufio.NewReader(io.LimitReader(stdin, 4<<10)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the password: %w", err)
	}
	return onDatabase(ctx, config, stderr, func(s *Server, url string) error {
		if err := s.openState(ctx, url); err != nil {
			return err
		}
		defer s.db.Close()
		if err := s.setPassword(ctx, email, strings.TrimRight(password, "\r\n")); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "The password of %s is set, and its sessions are ended.\n", email)
		return nil
	})
}

// onDatabase calls do with the database that the configuration names: that of a
// running server, or that of a private Postgres, which it runs until do returns.
func onDatabase(ctx context.Context, config Config, stderr io.Writer, do func(s *Server, url string) error) error {
	s := &Server{serverState: newState(config, newLogger(config, stderr))}
	if config.DatabaseURL == "" {
		if url, running := pgserver.Running(config.DataDir); running {
			return advise(do(s, url))
		}
	}
	url, err := s.databaseURL(ctx)
	if err != nil {
		return err
	}
	return errors.Join(advise(do(s, url)), s.close())
}

// newLogger returns the process's logger, with the level and format of the configuration.
func newLogger(c Config, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// programVersion returns the module's version, or else the commit it was built from.
func programVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return setting.Value
		}
	}
	return "devel"
}
