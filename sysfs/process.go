package sysfs

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Process is a process and the time it started, in clock ticks since boot: process ids are used again.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// Alive reports whether the process still runs. Where that could not be seen there is an error, and nothing is known.
func (p Process) Alive(h FS) (bool, error) {
	st, err := h.ProcessStat(p.PID)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return false, nil
	}
	return err == nil && st.Start == p.Start, err
}

// ProcessStat is what is read of /proc/PID/stat (Documentation/filesystems/proc.rst, table 1-4).
type ProcessStat struct {
	Comm   string
	Parent int
	Flags  uint64 // PF_* of include/linux/sched.h
	Start  uint64 // clock ticks since boot
}

// Flags of a process.
const (
	flagKernelThread = 0x00200000 // PF_KTHREAD
	flagBound        = 0x04000000 // PF_NO_SETAFFINITY: nobody moves it to other CPUs
)

// ProcessStat reads a process's stat.
func (h FS) ProcessStat(pid int) (ProcessStat, error) {
	name := "/proc/" + strconv.Itoa(pid) + "/stat"
	v, err := h.Read(name)
	if err != nil {
		return ProcessStat{}, err
	}
	st, err := parseProcessStat(v)
	if err != nil {
		return ProcessStat{}, &Error{Op: "read", Path: name, Err: err}
	}
	return st, nil
}

// StartTime returns when a process started, by the clock on the wall, to a second: proc(5), btime in /proc/stat.
func (h FS) StartTime(p Process) (time.Time, error) {
	const name, ticks = "/proc/stat", 100 // USER_HZ, the same on all architectures that matter
	v, err := h.Read(name)
	if err != nil {
		return time.Time{}, err
	}
	for line := range strings.Lines(v) {
		if s, ok := strings.CutPrefix(line, "btime "); ok {
			boot, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
			if err != nil {
				return time.Time{}, &Error{Op: "read", Path: name, Err: err}
			}
			return time.Unix(boot+int64(p.Start/ticks), 0), nil
		}
	}
	return time.Time{}, &Error{Op: "read", Path: name, Err: errors.New("it has no btime")}
}

func parseProcessStat(v string) (ProcessStat, error) {
	// The name stands in brackets and may hold anything, brackets too.
	open, end := strings.IndexByte(v, '('), strings.LastIndexByte(v, ')')
	if open < 0 || end < open {
		return ProcessStat{}, errors.New("it has no process name")
	}
	f := strings.Fields(v[end+1:])
	const state, ppid, flags, starttime = 3, 4, 9, 22 // numbered as in the kernel's table
	if len(f) <= starttime-state {
		return ProcessStat{}, errors.New("it is too short")
	}
	parent, err1 := strconv.Atoi(f[ppid-state])
	start, err2 := strconv.ParseUint(f[starttime-state], 10, 64)
	bits, err3 := strconv.ParseUint(f[flags-state], 10, 64)
	return ProcessStat{v[open+1 : end], parent, bits, start}, errors.Join(err1, err2, err3)
}
