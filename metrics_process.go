//go:build !nometrics

package main

// The metrics that every Go program has, by the names that client_golang gives
// them, so that stock dashboards work.

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"syscall"
	"time"
)

// writeGo writes go_*.
func writeGo(x *exposition) {
	gc := debug.GCStats{PauseQuantiles: make([]time.Duration, 5)}
	debug.ReadGCStats(&gc)
	x.family("go_gc_duration_seconds", "summary", "Pauses of garbage collections.")
	for i, pause := range gc.PauseQuantiles {
		x.sample("go_gc_duration_seconds", pause.Seconds(), "quantile", formatFloat(float64(i)/4))
	}
	x.sample("go_gc_duration_seconds_sum", gc.PauseTotal.Seconds())
	x.sample("go_gc_duration_seconds_count", float64(gc.NumGC))

	settings := []runtimemetrics.Sample{{Name: "/gc/gogc:percent"}, {Name: "/gc/gomemlimit:bytes"}}
	runtimemetrics.Read(settings)
	x.gauge("go_gc_gogc_percent", "How much the heap grows between garbage collections, GOGC.", float64(settings[0].Value.Uint64()))
	x.gauge("go_gc_gomemlimit_bytes", "Limit of the runtime's memory, GOMEMLIMIT.", float64(settings[1].Value.Uint64()))

	threads, _ := runtime.ThreadCreateProfile(nil)
	x.gauge("go_goroutines", "Goroutines that exist.", float64(runtime.NumGoroutine()))
	x.gauge("go_threads", "Threads of the operating system that were created.", float64(threads))
	x.gauge("go_sched_gomaxprocs_threads", "Threads that run Go code at once, GOMAXPROCS.", float64(runtime.GOMAXPROCS(0)))
	x.family("go_info", "gauge", "The version of Go; always 1.")
	x.sample("go_info", 1, "version", runtime.Version())

	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	x.gauge("go_memstats_alloc_bytes", "Bytes of allocated objects on the heap.", float64(m.Alloc))
	x.counter("go_memstats_alloc_bytes_total", "Bytes ever allocated on the heap.", float64(m.TotalAlloc))
	x.gauge("go_memstats_buck_hash_sys_bytes", "Bytes of the profiler's hash table.", float64(m.BuckHashSys))
	x.counter("go_memstats_frees_total", "Objects freed.", float64(m.Frees))
	x.gauge("go_memstats_gc_sys_bytes", "Bytes of the garbage collector's metadata.", float64(m.GCSys))
	x.gauge("go_memstats_heap_alloc_bytes", "Bytes of allocated objects on the heap, as alloc_bytes.", float64(m.HeapAlloc))
	x.gauge("go_memstats_heap_idle_bytes", "Bytes of the heap that aren't used.", float64(m.HeapIdle))
	x.gauge("go_memstats_heap_inuse_bytes", "Bytes of the heap that are used.", float64(m.HeapInuse))
	x.gauge("go_memstats_heap_objects", "Objects on the heap.", float64(m.HeapObjects))
	x.gauge("go_memstats_heap_released_bytes", "Bytes of the heap given back to the operating system.", float64(m.HeapReleased))
	x.gauge("go_memstats_heap_sys_bytes", "Bytes of the heap obtained from the operating system.", float64(m.HeapSys))
	x.gauge("go_memstats_last_gc_time_seconds", "When the last garbage collection ended, since 1970.", float64(m.LastGC)/1e9)
	x.counter("go_memstats_mallocs_total", "Objects allocated.", float64(m.Mallocs))
	x.gauge("go_memstats_mcache_inuse_bytes", "Bytes of the allocator's caches that are used.", float64(m.MCacheInuse))
	x.gauge("go_memstats_mcache_sys_bytes", "Bytes of the allocator's caches.", float64(m.MCacheSys))
	x.gauge("go_memstats_mspan_inuse_bytes", "Bytes of the allocator's spans that are used.", float64(m.MSpanInuse))
	x.gauge("go_memstats_mspan_sys_bytes", "Bytes of the allocator's spans.", float64(m.MSpanSys))
	x.gauge("go_memstats_next_gc_bytes", "Size of the heap at which the next garbage collection begins.", float64(m.NextGC))
	x.gauge("go_memstats_other_sys_bytes", "Bytes of other parts of the runtime.", float64(m.OtherSys))
	x.gauge("go_memstats_stack_inuse_bytes", "Bytes of goroutines' stacks.", float64(m.StackInuse))
	x.gauge("go_memstats_stack_sys_bytes", "Bytes of stacks obtained from the operating system.", float64(m.StackSys))
	x.gauge("go_memstats_sys_bytes", "Bytes obtained from the operating system.", float64(m.Sys))
}

// writeProcess writes process_*. What only /proc knows, as Linux has it, is
// left out elsewhere. started is when the server was made, milliseconds after
// its process.
func writeProcess(x *exposition, started time.Time) {
	x.gauge("process_start_time_seconds", "When the process started, since 1970.", float64(started.UnixMilli())/1e3)
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) == nil {
		cpu := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
		x.counter("process_cpu_seconds_total", "Time on processors, the kernel's included.", cpu.Seconds())
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		x.gauge("process_max_fds", "File descriptors that may be open.", float64(limit.Cur))
	}
	if syscall.Getrlimit(syscall.RLIMIT_AS, &limit) == nil {
		x.gauge("process_virtual_memory_max_bytes", "Virtual memory that may be used.", float64(limit.Cur))
	}
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		x.gauge("process_open_fds", "File descriptors that are open.", float64(len(open)-1)) // one is for reading this
	}
	var virtual, resident uint64 // pages
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil {
		if _, err := fmt.Fscan(bytes.NewReader(statm), &virtual, &resident); err == nil {
			page := float64(os.Getpagesize())
			x.gauge("process_virtual_memory_bytes", "Virtual memory that is used.", float64(virtual)*page)
			x.gauge("process_resident_memory_bytes", "Memory that is used.", float64(resident)*page)
		}
	}
}
