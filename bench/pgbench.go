package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// pgbench runs a script of sql/ on the reference database with n clients: for
// the time of a round, or, if transactions isn't 0, that many times by each
// client. Variables are given as name=value.
func (b *bench) pgbench(script string, n, transactions int, variables ...string) runner {
	return func(ctx context.Context, share float64) (sample, error) {
		folder, err := os.MkdirTemp(b.dir, "pgbench-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(folder)
		file := filepath.Join(folder, script)
		text, err := scripts.ReadFile("sql/" + script)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, text, 0o644); err != nil {
			return nil, err
		}
		args := []string{"-h", b.postgres.socket, "-U", "postgres", "-n", "-M", "prepared", "-f", file,
			"-c", strconv.Itoa(n), "-j", strconv.Itoa(min(n, runtime.NumCPU())),
			"-l", "--log-prefix", filepath.Join(folder, "log"), "-D", "owner=" + referenceOwner}
		switch {
		case share < 1:
			args = append(args, "-t", "2")
		case transactions > 0:
			args = append(args, "-t", strconv.Itoa(transactions))
		default:
			args = append(args, "-T", strconv.Itoa(max(2, int(b.size.length/time.Second))))
		}
		for _, v := range variables {
			args = append(args, "-D", v)
		}
		for try := 1; ; try++ {
			cmd := exec.CommandContext(ctx, filepath.Join(b.postgres.bin, "pgbench"), append(args, "reference")...)
			ownGroup(cmd)
			out, err := cmd.CombinedOutput()
			if err != nil {
				return nil, fmt.Errorf("pgbench %s: %w: %s", script, err, out)
			}
			s, err := pgbenchSample(string(out), filepath.Join(folder, "log.*"))
			if err == nil || try == pgbenchTries {
				return s, err
			}
		}
	}
}

// pgbenchTries is how often pgbench is run until it prints a rate: on a busy
// machine its time may be over before all its clients have connected.
const pgbenchTries = 3

var pgbenchRate = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)

// pgbenchSample reads what pgbench printed, and its logs, in which the third
// word of a line is the duration of a transaction in microseconds.
func pgbenchSample(printed, logs string) (sample, error) {
	found := pgbenchRate.FindStringSubmatch(printed)
	if found == nil {
		return nil, fmt.Errorf("pgbench printed no rate: %s", printed)
	}
	files, _ := filepath.Glob(logs) // its one error is a bad pattern
	var took []time.Duration
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			if words := strings.Fields(lines.Text()); len(words) > 2 {
				us, _ := strconv.Atoi(words[2])
				took = append(took, time.Duration(us)*time.Microsecond)
			}
		}
		if err := lines.Err(); err != nil {
			return nil, err
		}
	}
	s := latencies(took)
	var err error
	s[perSecond], err = strconv.ParseFloat(found[1], 64)
	return s, err
}
