package main

// Processes: starting them, waiting until they are ready, reading /proc, and stopping them.

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a program that the bench has started. It has a process group of
// its own, so that Ctrl-C reaches the bench alone, which then ends the others
// in order.
type process struct {
	name  string
	cmd   *exec.Cmd
	end   syscall.Signal // what makes it stop
	log   string         // the file with its output
	ended chan struct{}  // closed once it has been waited for
}

// start starts a program whose output goes to a log file.
func (b *bench) start(name string, cmd *exec.Cmd) (*process, error) {
	folder := b.dir
	if b.logs != "" {
		folder = b.logs
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(folder, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own
	cmd.Stdout, cmd.Stderr = log, log
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, end: syscall.SIGTERM, log: log.Name(), ended: make(chan struct{})}
	b.processes = append(b.processes, p)
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(p.ended)
	}()
	return p, nil
}

// ownGroup puts a command into a process group of its own.
func ownGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
}

// reference is a running program to compare with, which wants no token.
type reference struct {
	*process
	target
}

// startReference starts this program once more, as one of the references.
func (b *bench) startReference(ctx context.Context, name string, args ...string) (r reference, err error) {
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	address, err := freeAddress()
	if err != nil {
		return r, err
	}
	p, err := b.start(name, exec.Command(self, append([]string{name, address}, args...)...))
	if err != nil {
		return r, err
	}
	return reference{p, target{base: "http://" + address}}, p.ready(ctx, func() error {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// ready waits until try succeeds.
func (p *process) ready(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
			continue
		case <-p.ended:
		case <-ctx.Done():
		}
		log, _ := os.ReadFile(p.log)
		return fmt.Errorf("%s isn't ready: %w; the end of its log: %s", p.name, err, log[max(0, len(log)-1000):])
	}
}

// stop ends a process and waits for it; one that takes too long is killed.
func (b *bench) stop(p *process) error {
	b.processes = slices.DeleteFunc(b.processes, func(other *process) bool { return other == p })
	_ = p.cmd.Process.Signal(p.end) // an error means that it has ended
	select {
	case <-p.ended:
		return nil
	case <-time.After(patience):
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.ended
	return fmt.Errorf("%s didn't stop and was killed", p.name)
}

// freeAddress returns a loopback address that nobody listens on right now.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// cpu returns the CPU time the process has used, in steps of 10 ms.
func (p *process) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11]) // the kernel's format: fields 14 and 15 in proc(5)
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, nil
}

// resident returns the resident memory of the process, in KiB.
func (p *process) resident() (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	number, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	return strconv.ParseFloat(number, 64)
}
