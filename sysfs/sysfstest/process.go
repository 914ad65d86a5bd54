package sysfstest

import (
	"fmt"
	"path"
	"slices"
	"syscall"
)

func (h *Host) pids() []int {
	var out []int
	for pid := range h.processes {
		out = append(out, pid)
	}
	slices.Sort(out)
	return out
}

// endProcess takes a process and all that it has open away.
func (h *Host) endProcess(pid int) {
	delete(h.processes, pid)
	h.erase(fmt.Sprintf("/proc/%d", pid))
}

// Opens has a process open another file, Closes has it close it.
func (h *Host) Opens(pid int, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.processes[pid]
	p.fds = append(slices.Clone(p.fds), name)
	h.addProcess(p)
}

// Closes has a process close a file.
func (h *Host) Closes(pid int, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closes(pid, func(f string) bool { return f == name })
}

func (h *Host) closes(pid int, which func(string) bool) {
	p := h.processes[pid]
	p.fds = slices.DeleteFunc(slices.Clone(p.fds), which)
	h.addProcess(p)
}

// users counts the open files that processes have on device nodes for which match says yes.
func (h *Host) users(match func(name string, rdev uint64) bool) int {
	n := 0
	for _, p := range h.processes {
		for _, f := range p.fds {
			var rdev uint64
			if node, err := h.walk(f, true); err == nil {
				rdev = h.inodes[node].rdev
			}
			if match(path.Clean(f), rdev) {
				n++
			}
		}
	}
	return n
}

// OpenDevices implements sysfs.Kernel.
func (k inProcess) OpenDevices(pid int, visit func(rdev uint64, block bool)) error {
	h := k.v.h
	h.mu.Lock()
	p, ok := h.processes[pid]
	var found []inode
	for _, f := range p.fds {
		if n, err := h.walk(f, true); err == nil {
			found = append(found, h.inodes[n])
		}
	}
	h.mu.Unlock()
	if !ok {
		return syscall.ENOENT
	}
	for _, i := range found {
		if t := i.typ(); t == syscall.S_IFCHR || t == syscall.S_IFBLK {
			visit(i.rdev, t == syscall.S_IFBLK)
		}
	}
	return nil
}

// Signal implements sysfs.Kernel: SIGTERM ends a process that is not stubborn, SIGKILL any.
func (k inProcess) Signal(pid int, start uint64, signal syscall.Signal) error {
	h := k.v.h
	c := Change{Op: "signal", Path: fmt.Sprintf("/proc/%d", pid), Value: signal.String()}
	return h.change(c, func() error {
		p, ok := h.processes[pid]
		switch {
		case !ok || p.started() != start:
			return syscall.ESRCH
		case signal == syscall.SIGKILL, signal == syscall.SIGTERM && !p.stubborn:
			h.endProcess(pid)
		}
		return nil
	})
}

func (p process) started() uint64 { return uint64(1000 + p.pid) }

// UnloadModule implements sysfs.Kernel: delete_module(2) with O_NONBLOCK.
func (k inProcess) UnloadModule(name string) error {
	h := k.v.h
	name = moduleName(name)
	return h.change(Change{Op: "unload", Path: moduleDir(name)}, func() error {
		m := h.modules[name]
		switch {
		case m == nil || !m.loaded:
			return syscall.ENOENT
		case h.refs(m) > 0:
			return syscall.EAGAIN
		}
		h.unloadOne(m)
		return nil
	})
}
