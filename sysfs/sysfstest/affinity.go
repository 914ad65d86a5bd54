package sysfstest

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"syscall"

	"qemu-hook/cpuset"
)

// Affinity implements sysfs.Kernel.
func (k inProcess) Affinity(pid int) (cpuset.Set, error) {
	h := k.v.h
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.processes[pid]
	if !ok {
		return cpuset.Set{}, syscall.ESRCH
	}
	return h.mayRun(p).Intersect(h.cpus.online), nil
}

// SetAffinity implements sysfs.Kernel: __sched_setaffinity in kernel/sched/syscalls.c.
func (k inProcess) SetAffinity(pid int, start uint64, cpus cpuset.Set) error {
	h := k.v.h
	h.mu.Lock()
	err := h.movable(pid, start, cpus)
	h.mu.Unlock()
	if err != nil {
		return err
	}
	return h.change(Change{Op: "affinity", Path: "/proc/" + strconv.Itoa(pid), Value: cpus.String()}, func() error {
		if err := h.movable(pid, start, cpus); err != nil {
			return err
		}
		p := h.processes[pid]
		p.affinity = cpus.Intersect(h.cpus.possible)
		if !h.kernel.atLeast(6, 2) {
			p.affinity = cpus.Intersect(h.cpus.online) // cpuset_cpus_allowed in kernel/cgroup/cpuset.c, seen in 6.1
		}
		h.processes[pid] = p
		return nil
	})
}

// movable says why a thread cannot be moved to some CPUs, if so.
func (h *Host) movable(pid int, start uint64, cpus cpuset.Set) error {
	p, ok := h.processes[pid]
	switch {
	case !ok || p.started() != start:
		return syscall.ESRCH
	case p.bound || cpus.Intersect(h.runnable(p)).Intersect(h.cpus.online).Empty():
		return syscall.EINVAL
	}
	return nil
}

// runnable is where a process could run at all: the CPUs of its control group, and in the root all that could ever be.
func (h *Host) runnable(p process) cpuset.Set {
	group := path.Clean("/" + p.cgroup)
	for h.cgroups[group] == nil && group != "/" {
		group = path.Dir(group)
	}
	if group == "/" {
		return h.cpus.possible
	}
	return h.effective(group)
}

// mayRun is where a process runs: where it asked to, as far as its control group lets it (set_cpus_allowed_ptr, with
// user_cpus_ptr of Linux 6.2).
func (h *Host) mayRun(p process) cpuset.Set {
	could := h.runnable(p)
	if s := p.affinity.Intersect(could); !s.Empty() {
		return s
	}
	return could
}

// migrateThreads has threads leave the CPUs that do not run any more: select_fallback_rq in kernel/sched/core.c. Only one
// that has nowhere left to run forgets where it was to. One that is bound to its CPU waits for it.
func (h *Host) migrateThreads() {
	for pid, p := range h.processes {
		if !p.bound && h.mayRun(p).Intersect(h.cpus.online).Empty() {
			p.affinity = h.cpus.possible
			h.processes[pid] = p
		}
	}
}

// kthreadd is the process id of the kernel's thread that starts all others.
const kthreadd = 2

// Flags of a process, include/linux/sched.h.
const (
	flagsOfPrograms = 0x00400100 // PF_RANDOMIZE, PF_SUPERPRIV
	flagsOfKernel   = 0x00208040 // PF_KTHREAD, PF_NOFREEZE, PF_FORKNOEXEC
	flagBound       = 0x04000000 // PF_NO_SETAFFINITY
)

func (p process) parent() int {
	switch {
	case p.pid == 1 || p.pid == kthreadd && p.kthread:
		return 0
	case p.kthread:
		return kthreadd
	}
	return 1
}

// stat is /proc/PID/stat.
func (p process) stat() string {
	flags, group := flagsOfPrograms, p.pid
	if p.kthread {
		flags, group = flagsOfKernel, 0
	}
	if p.bound {
		flags |= flagBound
	}
	return fmt.Sprintf("%d (%s) S %d %d %[4]d 0 -1 %[5]d 0 0 0 0 0 0 0 0 20 0 1 0 %[6]d"+strings.Repeat(" 0", 30)+"\n",
		p.pid, p.comm, p.parent(), group, flags, p.started())
}

// status is /proc/PID/status.
func (h *Host) status(p process) string {
	allowed := h.mayRun(p)
	return fmt.Sprintf("Name:\t%s\nState:\tS (sleeping)\nTgid:\t%d\nPid:\t%[2]d\nPPid:\t%[3]d\n"+
		"Uid:\t%[4]d\t%[4]d\t%[4]d\t%[4]d\nCpus_allowed:\t%[5]s\nCpus_allowed_list:\t%[6]s\n",
		p.comm, p.pid, p.parent(), p.uid, h.mask(allowed), allowed)
}

// kernelThreads is /proc/2/task/2/children.
func (h *Host) kernelThreads() (string, error) {
	var out strings.Builder
	for _, pid := range h.pids() {
		if p := h.processes[pid]; p.kthread && pid != kthreadd {
			fmt.Fprintf(&out, "%d ", pid)
		}
	}
	return out.String(), nil
}
