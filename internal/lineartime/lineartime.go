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

const (
	factor = 16
	tries  = 5
)

// How many times as long work of factor times the size may take. If it is linear it takes
// some 16 times as long, or a little more, as less of it fits into caches; if it is
// quadratic, 256 times. So what is quadratic in part is found when that part takes a
// quarter of the time of the small work.
const (
	Linear   = 64
	Constant = 6 // it must not grow with the size
)

// Check fails the test if work of the size takes over most times as long as work of
// 1/factor of it. prepare makes the work, which alone is measured, and is called again for
// each try.
//
// It counts the CPU time of the whole process, which a busy machine leaves nearly
// alone where it stretches the time on the clock, and collects no garbage meanwhile.
// So the test that calls it must not be parallel with others.
func Check(t *testing.T, most, size int, prepare func(size int) (work func())) {
	t.Helper()
	prepare(size / factor)() // fills caches
	small, large := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
	for range tries {
		small = min(small, cpuTime(t, prepare(size/factor)))
		large = min(large, cpuTime(t, prepare(size)))
		limit := time.Duration(most) * small
		if large <= limit {
			return
		}
		if large > 3*limit {
			break
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
