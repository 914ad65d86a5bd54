package fusetest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// server answers the kernel's requests from the model. Node numbers are the model's own.
type server struct {
	fuse.RawFileSystem
	v sysfstest.VFS
	// forgetful has the kernel ask for every part of every path.
	forgetful bool

	mu      sync.Mutex
	names   map[uint64]string // path by which a node was last reached
	handles map[uint64]*handle
	next    uint64
}

// handle is an open file or directory: what it says is taken down when it is read from the start, as the kernel's
// seq_file does.
type handle struct {
	mu      sync.Mutex
	content string
	entries []sysfstest.DirEntry
}

func newServer(h *sysfstest.Host) *server {
	return &server{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), v: h.VFS(),
		names: map[uint64]string{fuse.FUSE_ROOT_ID: "/"}, handles: map[uint64]*handle{},
	}
}

func (s *server) String() string { return "sysfstest" }

func (s *server) name(id uint64) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names[id]
}

func (s *server) join(dir uint64, name string) string { return path.Join(s.name(dir), name) }

// status turns a model's error into what the kernel passes on.
func status(err error) fuse.Status {
	var e syscall.Errno
	switch {
	case err == nil:
		return fuse.OK
	case errors.As(err, &e):
		return fuse.Status(e)
	}
	return fuse.EIO
}

func fill(st sysfs.Stat, a *fuse.Attr) {
	*a = fuse.Attr{
		Ino: st.Ino, Mode: st.Mode, Nlink: uint32(st.Nlink), Size: uint64(st.Size), Blocks: uint64(st.Size+511) / 512,
		Rdev: uint32(st.Rdev), Blksize: 4096, Owner: fuse.Owner{Uid: uint32(st.UID), Gid: uint32(st.GID)},
	}
}

// lasting reports whether a directory is one that no rule of the model ever removes, or a PCI function's: that is reached by
// links, which go with it and lead to the same directory when it comes back. The kernel may remember it, as it does with a
// real host's: it would ask for each part of each path anew otherwise, at the expense of the program that is measured.
// Nothing else is cached.
func lasting(name string) bool {
	for _, dir := range [...]string{"/sys/devices/system", "/sys/kernel", "/proc/sys"} {
		if name == dir || strings.HasPrefix(name, dir+"/") {
			return true
		}
	}
	if strings.HasPrefix(name, "/sys/devices/pci") {
		base := path.Base(name)
		function := strings.Count(base, ":") == 2 && base[len(base)-2] == '.'
		return function || strings.HasPrefix(base, "pci") || base == "power" && strings.Count(path.Base(path.Dir(name)), ":") == 2
	}
	switch name {
	case "/sys", "/sys/bus", "/sys/bus/pci", "/sys/bus/pci/devices", "/sys/bus/pci/drivers", "/sys/devices", "/sys/fs",
		"/sys/fs/cgroup", "/sys/module", "/proc", "/dev", "/dev/shm", "/dev/vfio", "/run", "/etc", "/lib":
		return true
	}
	return false
}

// entry tells the kernel of a node reached by a path.
func (s *server) entry(n sysfstest.Node, name string, out *fuse.EntryOut) {
	s.mu.Lock()
	s.names[uint64(n)] = name
	s.mu.Unlock()
	out.NodeId, out.Generation = uint64(n), 1
	st := s.v.Stat(n)
	fill(st, &out.Attr)
	if st.Type() == syscall.S_IFDIR && !s.forgetful && lasting(name) {
		out.SetEntryTimeout(time.Hour)
	}
}

func (s *server) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	n, err := s.v.Lookup(sysfstest.Node(in.NodeId), name)
	if err == nil {
		s.entry(n, s.join(in.NodeId, name), out)
	}
	return status(err)
}

func (s *server) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	fill(s.v.Stat(sysfstest.Node(in.NodeId)), &out.Attr)
	return fuse.OK
}

func (s *server) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, name := sysfstest.Node(in.NodeId), s.name(in.NodeId)
	asked := *in // the request is not ours once we have answered
	err := s.do(cancel, in.Pid, name, func(pid int) error {
		if size, ok := asked.GetSize(); ok {
			if err := s.v.Truncate(n, name, int64(size), pid); err != nil {
				return err
			}
		}
		uid, setUID := asked.GetUID()
		gid, setGID := asked.GetGID()
		if setUID || setGID {
			u, g := -1, -1
			if setUID {
				u = int(uid)
			}
			if setGID {
				g = int(gid)
			}
			if err := s.v.Chown(n, name, u, g, pid); err != nil {
				return err
			}
			// With the owner the kernel sends the mode less its set-id bits; the model clears those itself.
			return nil
		}
		if mode, ok := asked.GetMode(); ok {
			return s.v.Chmod(n, name, mode, pid)
		}
		return nil
	})
	if err == nil {
		fill(s.v.Stat(n), &out.Attr)
	}
	return status(err)
}

func (s *server) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	target, err := s.v.Readlink(sysfstest.Node(in.NodeId))
	return []byte(target), status(err)
}

func (s *server) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.OK }

// made runs a function that makes a file and tells the kernel of it.
func (s *server) made(
	cancel <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut,
	f func(dir sysfstest.Node, full string, uid, gid, pid int) (sysfstest.Node, error),
) fuse.Status {
	full := s.join(in.NodeId, name)
	var n sysfstest.Node
	dir, uid, gid := sysfstest.Node(in.NodeId), int(in.Uid), int(in.Gid)
	err := s.do(cancel, in.Pid, full, func(pid int) (err error) {
		made, err := f(dir, full, uid, gid, pid)
		n = made
		return err
	})
	if err == nil {
		s.entry(n, full, out)
	}
	return status(err)
}

func (s *server) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	mode, rdev := in.Mode, uint64(in.Rdev)
	return s.made(cancel, &in.InHeader, name, out,
		func(dir sysfstest.Node, full string, uid, gid, pid int) (sysfstest.Node, error) {
			return s.v.Mknod(dir, full, mode, rdev, uid, gid, pid)
		})
}

func (s *server) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	mode := in.Mode
	return s.made(cancel, &in.InHeader, name, out,
		func(dir sysfstest.Node, full string, uid, gid, pid int) (sysfstest.Node, error) {
			return s.v.Mkdir(dir, full, mode, uid, gid, pid)
		})
}

func (s *server) Symlink(
	cancel <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut,
) fuse.Status {
	return s.made(cancel, in, name, out,
		func(dir sysfstest.Node, full string, uid, gid, pid int) (sysfstest.Node, error) {
			return s.v.Symlink(dir, full, target, uid, gid, pid)
		})
}

func (s *server) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	n := sysfstest.Node(in.Oldnodeid)
	return s.made(cancel, &in.InHeader, name, out,
		func(dir sysfstest.Node, full string, _, _, pid int) (sysfstest.Node, error) {
			return n, s.v.Link(n, dir, full, pid)
		})
}

func (s *server) Unlink(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	dir, full := sysfstest.Node(in.NodeId), s.join(in.NodeId, name)
	return status(s.do(cancel, in.Pid, full, func(pid int) error { return s.v.Unlink(dir, full, pid) }))
}

func (s *server) Rmdir(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	dir, full := sysfstest.Node(in.NodeId), s.join(in.NodeId, name)
	return status(s.do(cancel, in.Pid, full, func(pid int) error { return s.v.Rmdir(dir, full, pid) }))
}

// renameNoReplace is RENAME_NOREPLACE.
const renameNoReplace = 1

func (s *server) Rename(cancel <-chan struct{}, in *fuse.RenameIn, name, newName string) fuse.Status {
	if in.Flags&^renameNoReplace != 0 {
		return fuse.EINVAL
	}
	dir, to := sysfstest.Node(in.NodeId), sysfstest.Node(in.Newdir)
	full, newFull := s.join(in.NodeId, name), s.join(in.Newdir, newName)
	noReplace := in.Flags != 0
	return status(s.do(cancel, in.Pid, full, func(pid int) error {
		return s.v.Rename(dir, full, to, newFull, noReplace, pid)
	}))
}

// open makes a handle.
func (s *server) open(out *fuse.OpenOut, h *handle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	s.handles[s.next] = h
	out.Fh = s.next
}

func (s *server) handle(fh uint64) *handle {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handles[fh]
}

func (s *server) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	mode := in.Mode
	st := s.made(cancel, &in.InHeader, name, &out.EntryOut,
		func(dir sysfstest.Node, full string, uid, gid, pid int) (sysfstest.Node, error) {
			return s.v.Create(dir, full, mode, uid, gid, pid)
		})
	if st.Ok() {
		s.open(&out.OpenOut, &handle{})
		out.OpenFlags = fuse.FOPEN_DIRECT_IO
	}
	return st
}

func (s *server) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := sysfstest.Node(in.NodeId)
	acc := in.Flags & syscall.O_ACCMODE
	if err := s.v.Open(n, acc != syscall.O_WRONLY, acc != syscall.O_RDONLY); err != nil {
		return status(err)
	}
	st := s.v.Stat(n)
	if in.Flags&syscall.O_TRUNC != 0 && st.Size > 0 && !s.v.IsAttr(n) {
		name := s.name(in.NodeId)
		err := s.do(cancel, in.Pid, name, func(pid int) error { return s.v.Truncate(n, name, 0, pid) })
		if err != nil {
			return status(err)
		}
	}
	s.open(out, &handle{})
	if st.Mode&0o111 == 0 { // what the kernel executes it reads through its cache
		out.OpenFlags = fuse.FOPEN_DIRECT_IO
	}
	return fuse.OK
}

func (s *server) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { s.close(in.Fh) }

func (s *server) close(fh uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.handles, fh)
}

func (s *server) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, h := sysfstest.Node(in.NodeId), s.handle(in.Fh)
	h.mu.Lock()
	defer h.mu.Unlock()
	if !s.v.IsAttr(n) {
		got, err := s.v.ReadAt(n, buf, int64(in.Offset))
		return fuse.ReadResultData(buf[:got]), status(err)
	}
	if in.Offset == 0 {
		c, err := s.v.Read(n)
		if err != nil {
			return nil, status(err)
		}
		h.content = c
	}
	off := min(in.Offset, uint64(len(h.content)))
	return fuse.ReadResultData(buf[:copy(buf, h.content[off:])]), fuse.OK
}

func (s *server) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	n, name, off := sysfstest.Node(in.NodeId), s.name(in.NodeId), int64(in.Offset)
	if in.Flags&syscall.O_APPEND != 0 {
		off = s.v.Stat(n).Size
	}
	data = bytes.Clone(data) // the buffer is not ours once we have answered
	err := s.do(cancel, in.Pid, name, func(pid int) error { return s.v.Write(n, name, off, data, pid) })
	if err != nil {
		return 0, status(err)
	}
	return uint32(len(data)), fuse.OK
}

// The kernel takes these answers for success, once and for all, and does not ask again.
func (s *server) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status    { return fuse.ENOSYS }
func (s *server) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status    { return fuse.ENOSYS }
func (s *server) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return fuse.ENOSYS }

func (s *server) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.NameLen = 4096, 255
	return fuse.OK
}

func (s *server) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if _, err := s.v.ReadDir(sysfstest.Node(in.NodeId)); err != nil {
		return status(err)
	}
	s.open(out, &handle{})
	return fuse.OK
}

func (s *server) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	h := s.handle(in.Fh)
	h.mu.Lock()
	defer h.mu.Unlock()
	if in.Offset == 0 {
		entries, err := s.v.ReadDir(sysfstest.Node(in.NodeId))
		if err != nil {
			return status(err)
		}
		h.entries = entries
	}
	for i := in.Offset; i < uint64(len(h.entries)); i++ {
		e := h.entries[i]
		if !out.AddDirEntry(fuse.DirEntry{Name: e.Name, Mode: e.Type, Ino: uint64(e.Node), Off: i + 1}) {
			break
		}
	}
	return fuse.OK
}

func (s *server) ReleaseDir(in *fuse.ReleaseIn) { s.close(in.Fh) }

// killPoll is how often a process that waits for an answer is looked at once it has got some signal.
const killPoll = 2 * time.Millisecond

// do makes a change for the calling thread. If the change takes its time, signals are left pending, as the kernel
// does; but a process that is being killed gets its answer at once, unless a driver is at work. What the model does
// goes on by itself then.
func (s *server) do(cancel <-chan struct{}, tid uint32, name string, f func(pid int) error) error {
	pid, _ := process(tid)
	done := make(chan error, 1)
	go func() { done <- f(pid) }()
	select {
	case err := <-done:
		return err
	case <-cancel:
	}
	tick := time.NewTicker(killPoll)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			if _, killed := process(tid); killed && !uninterruptible(name) {
				return syscall.EINTR
			}
		}
	}
}

// uninterruptible reports whether a write to the file waits for a driver, or for a device's lock, which no signal ends.
func uninterruptible(name string) bool {
	switch path.Base(name) {
	case "bind", "unbind", "drivers_probe", "new_id", "run", "driver_override", "control", "reset", "remove", "rescan", "sriov_numvfs":
		return true
	}
	return strings.HasSuffix(name, "_resize") // of a BAR
}

// process returns the process a thread belongs to, and whether SIGKILL is on its way to it.
func process(tid uint32) (pid int, killed bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return int(tid), err != nil && tid != 0
	}
	pid = int(tid)
	for l := range strings.Lines(string(b)) {
		key, v, _ := strings.Cut(strings.TrimSpace(l), ":\t")
		switch key {
		case "Tgid":
			pid, _ = strconv.Atoi(v)
		case "SigPnd", "ShdPnd":
			n, _ := strconv.ParseUint(v, 16, 64)
			killed = killed || n&(1<<(uint(syscall.SIGKILL)-1)) != 0
		}
	}
	return pid, killed
}
