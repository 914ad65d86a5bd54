package sysfstest

import (
	"strconv"
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
	return p.affinity.Intersect(h.cpus.online), nil
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
		p.affinity = cpus.Intersect(h.runnable(p))
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
	if h.cgroups[p.cgroup] == nil || p.cgroup == "/" {
		return h.cpus.possible
	}
	return h.effective(p.cgroup)
}
