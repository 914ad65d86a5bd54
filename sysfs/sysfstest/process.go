package sysfstest

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// An heldFile is a file that a process has open or mapped. The node stays what it was when the name is gone.
type heldFile struct {
	name string
	node Node
	fd   int // 0 for a mapping alone
}

// firstFD is the descriptor of the first file that a host file has a process open.
const firstFD = 3

// heldFiles gives names descriptors; mappings has none.
func heldFiles(names []string) []heldFile {
	var out []heldFile
	for i, n := range names {
		out = append(out, heldFile{name: n, fd: firstFD + i})
	}
	return out
}

func mappings(names []string) []heldFile {
	var out []heldFile
	for _, n := range names {
		out = append(out, heldFile{name: n})
	}
	return out
}

func (h *Host) pids() []int {
	var out []int
	for pid := range h.processes {
		out = append(out, pid)
	}
	slices.Sort(out)
	return out
}

func (p process) started() uint64 { return cmp.Or(p.start, uint64(1000+p.pid)) }

// endProcess takes a process and all that it has open away.
func (h *Host) endProcess(pid int) {
	delete(h.processes, pid)
	h.erase("/proc/" + strconv.Itoa(pid))
	h.erase(kfdDir + "/proc/" + strconv.Itoa(pid))
	h.stir()
}

// showFiles makes what /proc/PID says of a process's open files.
func (h *Host) showFiles(p process) {
	dir := fmt.Sprintf("/proc/%d/fd", p.pid)
	h.erase(dir)
	h.inodes[h.mkdir(dir)].mode = syscall.S_IFDIR | 0o500
	for _, f := range p.fds {
		if f.fd > 0 {
			h.put(dir+"/"+strconv.Itoa(f.fd), inode{mode: syscall.S_IFLNK | 0o700, data: h.nameOf(f), to: f.node})
		}
	}
}

// nameOf is the name of an open file as /proc has it.
func (h *Host) nameOf(f heldFile) string {
	if f.node != noNode && h.inodes[f.node].nlink == 0 {
		return f.name + " (deleted)"
	}
	return f.name
}

// mapsText is /proc/PID/maps of a process that has device nodes mapped.
func (h *Host) mapsText(pid int) string {
	p := h.processes[pid]
	var b strings.Builder
	b.WriteString("00400000-00401000 r-xp 00000000 08:01 1 /bin/" + p.comm + "\n")
	for _, f := range p.fds {
		if f.fd == 0 {
			st := h.stat(f.node)
			fmt.Fprintf(&b, "7f0000000000-7f0000001000 rw-s 00000000 %02x:%02x %d %s\n", st.Dev>>8, st.Dev&0xff, st.Ino, h.nameOf(f))
		}
	}
	return b.String()
}

// resolve finds the files of a process that starts. A name that never led to anything stays a name; a node that is gone
// by now is opened when it comes back.
func (h *Host) resolve(p *process) {
	var fds []heldFile
	for _, f := range p.fds {
		n, err := h.walk(f.name, true)
		if f.node == noNode || err == nil {
			f.node = n
		}
		if f.node != noNode && err != nil {
			p.left = append(slices.Clone(p.left), f)
			continue
		}
		fds = append(fds, f)
	}
	p.fds = fds
}

// setFiles gives a process other open files.
func (h *Host) setFiles(pid int, files []heldFile) {
	p := h.processes[pid]
	p.fds = files
	h.processes[pid] = p
	h.showFiles(p)
	kfd := func(f heldFile) bool { return f.name == kfdNode }
	if !slices.ContainsFunc(files, kfd) {
		h.erase(kfdDir + "/proc/" + strconv.Itoa(pid))
	}
	h.stir()
}

// Opens has a process open a file. It fails with ENOENT if there is no such file, with ESRCH if there is no such process.
func (h *Host) Opens(pid int, name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.processes[pid]
	if !ok {
		return syscall.ESRCH
	}
	n, err := h.walk(name, true)
	if err != nil {
		return err
	}
	fd := firstFD
	for slices.ContainsFunc(p.fds, func(f heldFile) bool { return f.fd == fd }) {
		fd++
	}
	h.setFiles(pid, append(slices.Clone(p.fds), heldFile{path.Clean(name), n, fd}))
	return nil
}

// Closes has a process close a file, however often it has it open.
func (h *Host) Closes(pid int, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closes(pid, func(f string) bool { return f == path.Clean(name) })
}

func (h *Host) closes(pid int, which func(name string) bool) {
	if p, ok := h.processes[pid]; ok {
		h.setFiles(pid, slices.DeleteFunc(slices.Clone(p.fds), func(f heldFile) bool { return which(f.name) }))
	}
}

// closeSound has the processes that listen close nodes of a sound card that goes; reopen has processes open again what they left.
func (h *Host) closeSound(nodes []Node) {
	for _, pid := range h.pids() {
		p := h.processes[pid]
		goes := func(f heldFile) bool { return slices.Contains(nodes, f.node) }
		if p.letsGo && slices.ContainsFunc(p.fds, goes) {
			kept := slices.Clone(p.left)
			for _, f := range p.fds {
				if goes(f) {
					kept = append(kept, f)
				}
			}
			p.left = kept
			h.processes[pid] = p
			h.setFiles(pid, slices.DeleteFunc(slices.Clone(p.fds), goes))
		}
	}
}

func (h *Host) reopen() {
	for _, pid := range h.pids() {
		p := h.processes[pid]
		files, left := slices.Clone(p.fds), []heldFile(nil)
		for _, f := range p.left {
			n, err := h.walk(f.name, true)
			if err != nil {
				left = append(left, f)
				continue
			}
			f.node = n
			files = append(files, f)
		}
		if len(left) < len(p.left) {
			p.left = left
			h.processes[pid] = p
			h.setFiles(pid, files)
		}
	}
}

// openers counts the files on device nodes that processes have open or mapped and for which match says yes.
func (h *Host) openers(match func(rdev uint64) bool) int {
	n := 0
	for _, p := range h.processes {
		for _, f := range p.fds {
			if i := &h.inodes[f.node]; f.node != noNode && i.typ() == syscall.S_IFCHR && match(i.rdev) {
				n++
			}
		}
	}
	return n
}

// renameFiles brings the names of open files up to date, after some have lost or got back theirs.
func (h *Host) renameFiles() {
	for _, pid := range h.pids() {
		h.showFiles(h.processes[pid])
	}
}

// OpenDevices implements sysfs.Kernel.
func (k inProcess) OpenDevices(pid int, visit func(rdev uint64, block bool)) error {
	h := k.v.h
	h.mu.Lock()
	p, ok := h.processes[pid]
	var found []inode
	for _, f := range p.fds {
		if f.fd > 0 && f.node != noNode {
			found = append(found, h.inodes[f.node])
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

// Signal implements sysfs.Kernel: SIGTERM ends a process that is not stubborn, SIGKILL any but the first and
// the kernel's threads.
func (k inProcess) Signal(pid int, start uint64, signal syscall.Signal) error {
	h := k.v.h
	there := func() error {
		if p, ok := h.processes[pid]; !ok || p.started() != start {
			return syscall.ESRCH
		}
		return nil
	}
	h.mu.Lock()
	err := there()
	h.mu.Unlock()
	if err != nil {
		return err
	}
	return h.change(Change{Op: "signal", Path: "/proc/" + strconv.Itoa(pid), Value: signalName(signal)}, func() error {
		if err := there(); err != nil {
			return err
		}
		if pid != 1 && !h.processes[pid].kthread && (signal == syscall.SIGKILL || signal == syscall.SIGTERM && !h.processes[pid].stubborn) {
			h.endProcess(pid)
		}
		return nil
	})
}

func signalName(s syscall.Signal) string {
	switch s {
	case syscall.SIGTERM:
		return "SIGTERM"
	case syscall.SIGKILL:
		return "SIGKILL"
	}
	return "SIG" + strconv.Itoa(int(s))
}
