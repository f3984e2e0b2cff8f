// Bench measures the server against common alternatives for its work:
// the same statements by pgbench, net/http with pgx and nothing else,
// PocketBase, river and centrifuge. It builds and starts all of them, fills
// their databases, runs them in turn and prints a table:
//
//	go run -C bench .          # some 12 minutes
//	go run -C bench . -short   # less data, shorter rounds
//
// ../docs/performance.md explains the rows. Memory and CPU time are read from
// /proc, so those rows need Linux.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	short  bool
	run    *regexp.Regexp // the names of the rows to run
	rounds int
	logs   string // a folder that keeps the programs' logs, or ""
}

// references are the programs to compare with that are part of this one. Bench
// starts itself with one of these names as its first argument.
var references = map[string]func(args []string) error{
	"bare":       serveBare,
	"pocketbase": servePocketBase,
	"centrifuge": serveCentrifuge,
}

func main() {
	if len(os.Args) > 1 && references[os.Args[1]] != nil {
		exitOn(references[os.Args[1]](os.Args[2:]))
		return
	}
	var o options
	pattern := flag.String("run", "", "run only the rows whose name matches this `regexp`")
	flag.BoolVar(&o.short, "short", false, "less data, 3 rounds of 1 s instead of 5 of 2 s")
	flag.IntVar(&o.rounds, "rounds", 0, "how many `rounds` to run instead")
	flag.StringVar(&o.logs, "logs", "", "keep the programs' logs in this `folder`")
	flag.Parse()
	var err error
	if o.run, err = regexp.Compile(*pattern); err == nil && flag.NArg() > 0 {
		err = fmt.Errorf("unknown argument %q", flag.Arg(0))
	}
	exitOn(err)

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	exitOn(run(ctx, o))
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run: its options, its folder and what it has started.
type bench struct {
	options
	size      size
	dir       string // removed at the end
	processes []*process

	postgres *postgres
	server   *server // the one measured
	second   *server // another instance on the same database
	data     data    // what fillServer has stored

	bare       reference
	pocketbase reference
	centrifuge reference
	river      *riverQueue
}

// run measures and prints. It returns an error when something failed to run,
// never because of a figure.
func run(ctx context.Context, o options) (err error) {
	b := &bench{options: o, size: fullSize}
	if o.short {
		b.size = shortSize
	}
	if b.rounds == 0 {
		b.rounds = b.size.rounds
	}
	b.size.enoughToClaim(b.rounds)
	if b.dir, err = os.MkdirTemp("", "tachikoma-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := os.Chmod(b.dir, 0o711); err != nil { // Postgres may run as another user
		return err
	}
	start := time.Now()
	if err := b.setUp(ctx); err != nil {
		return err
	}
	progress("ready after %s", time.Since(start).Round(time.Second))
	lines, failed := b.measure(ctx)
	if len(lines) > 0 {
		machine, err := b.machine(context.WithoutCancel(ctx))
		failed = errors.Join(failed, err)
		printTable(os.Stdout, machine, lines)
	}
	progress("done after %s", time.Since(start).Round(time.Second))
	return failed
}

// setUp builds and starts all programs and fills their databases.
func (b *bench) setUp(ctx context.Context) (err error) {
	progress("building the server")
	if err := b.buildServer(ctx); err != nil {
		return err
	}
	progress("starting Postgres, the server and the references")
	if b.postgres, err = b.startPostgres(ctx); err != nil {
		return err
	}
	if b.server, err = b.startServer(ctx, "server"); err != nil {
		return err
	}
	if err := b.server.register(); err != nil {
		return err
	}
	if b.second, err = b.startServer(ctx, "second"); err != nil {
		return err
	}
	b.second.token = b.server.token
	if err := b.startReferences(ctx); err != nil {
		return err
	}
	progress("filling both databases")
	reference := make(chan error, 1)
	go func() { reference <- b.fillReference(ctx) }()
	if err := errors.Join(b.fillServer(ctx), <-reference); err != nil {
		return fmt.Errorf("filling the databases: %w", err)
	}
	return b.postgres.settle(ctx, "tachikoma", "reference")
}

// startReferences starts the programs to compare with.
func (b *bench) startReferences(ctx context.Context) (err error) {
	if b.bare, err = b.startReference(ctx, "bare", b.postgres.url("reference")); err != nil {
		return err
	}
	folder, missions := filepath.Join(b.dir, "pocketbase"), fmt.Sprint(b.size.missions)
	if b.pocketbase, err = b.startReference(ctx, "pocketbase", folder, missions); err != nil {
		return err
	}
	if b.centrifuge, err = b.startReference(ctx, "centrifuge"); err != nil {
		return err
	}
	b.river, err = newRiverQueue(ctx, b.postgres.url("river"))
	return err
}

// close stops what was started, the last first, and removes the folder.
func (b *bench) close() error {
	if b.river != nil {
		b.river.db.Close()
	}
	var errs []error
	for len(b.processes) > 0 {
		errs = append(errs, b.stop(b.processes[len(b.processes)-1]))
	}
	return errors.Join(append(errs, os.RemoveAll(b.dir))...)
}

// progress prints on standard error how far the run is.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
