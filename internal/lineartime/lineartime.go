// Package lineartime tests that the time of work grows no faster than its size.
package lineartime

import (
	"math"
	"runtime"
	"runtime/debug"
	"syscall"
	"testing"
	"time"
)

// Work of 16 times the size takes some 16 times as long if it is linear, and 256 times
// if it goes with the square. Caches make it a little more.
const (
	factor = 16
	most   = 64
	tries  = 5
)

// Check fails the test if work of the size takes over 64 times as long as work of a
// sixteenth of it. prepare makes the work, which alone is measured, and is called
// again for each try.
//
// It counts the CPU time of the whole process, which a busy machine leaves nearly
// alone where it stretches the time on the clock, and collects no garbage meanwhile.
// So the test that calls it must not be parallel with others.
func Check(t *testing.T, size int, prepare func(size int) (work func())) {
	t.Helper()
	small, large := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
	for range tries {
		small = min(small, cpuTime(t, prepare(size/factor)))
		large = min(large, cpuTime(t, prepare(size)))
		if large <= most*small {
			return
		}
	}
	t.Errorf("size %d takes %v, size %d takes %v", size/factor, small, size, large)
}

// cpuTime is the CPU time that work takes, of this process and of the kernel for it.
func cpuTime(t *testing.T, work func()) time.Duration {
	t.Helper()
	used := func() time.Duration {
		var usage syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
			t.Fatal(err)
		}
		return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	before := used()
	work()
	return used() - before
}
