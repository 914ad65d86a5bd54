package sysfstest

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"syscall"

	"qemu-hook/sysfs"
)

// A VFS is what both doors stand on: the operations on files that Linux has, with the model's answers. Paths are
// those under which the caller reached the node, for the Change; pid is the caller's process or 0.
type VFS struct{ h *Host }

// VFS returns the host's file operations.
func (h *Host) VFS() VFS { return VFS{h} }

// Root returns the node of "/".
func (v VFS) Root() Node { return rootNode }

// Walk finds a node by its absolute path.
func (v VFS) Walk(name string, follow bool) (Node, error) {
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	return v.h.walk(name, follow)
}

// Lookup returns the node of a name in a directory.
func (v VFS) Lookup(dir Node, name string) (Node, error) {
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	if !v.h.inodes[dir].isDir() {
		return noNode, syscall.ENOTDIR
	}
	n := v.h.child(dir, name)
	if n == noNode {
		return noNode, syscall.ENOENT
	}
	return n, nil
}

// A DirEntry is a name in a directory with the file's type and node.
type DirEntry struct {
	Name string
	Node Node
	Type uint32 // S_IFREG, …
}

// ReadDir returns the entries of a directory, sorted by name.
func (v VFS) ReadDir(dir Node) ([]DirEntry, error) {
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	if !v.h.inodes[dir].isDir() {
		return nil, syscall.ENOTDIR
	}
	var out []DirEntry
	for _, e := range v.h.inodes[dir].kids {
		if i := &v.h.inodes[e.node]; !i.hidden {
			out = append(out, DirEntry{e.name, e.node, i.typ()})
		}
	}
	return out, nil
}

// Stat describes a node.
func (v VFS) Stat(n Node) sysfs.Stat {
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	return v.h.stat(n)
}

func (h *Host) stat(n Node) sysfs.Stat {
	i := &h.inodes[n]
	st := sysfs.Stat{
		Dev: 1 + uint64(i.realm), Ino: uint64(n), Mode: i.mode, Nlink: uint64(i.nlink),
		UID: i.uid, GID: i.gid, Rdev: i.rdev, Size: i.length(),
	}
	switch {
	case i.isDir():
		st.Size = 0
		st.Nlink = 2
	case i.typ() == syscall.S_IFREG && i.realm == sysfs_:
		st.Size = 4096
	case i.typ() == syscall.S_IFREG && i.realm != tmpfs:
		st.Size = 0
	}
	return st
}

// Readlink returns the target of a symbolic link.
func (v VFS) Readlink(n Node) (string, error) {
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	if v.h.inodes[n].typ() != syscall.S_IFLNK {
		return "", syscall.EINVAL
	}
	return v.h.inodes[n].data, nil
}

// IsAttr reports whether the file is an attribute of the kernel's, for which one write is one value.
func (v VFS) IsAttr(n Node) bool {
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	return v.h.inodes[n].isAttr()
}

// length is the size of a file: what lies beyond data is a hole.
func (i *inode) length() int64 { return max(i.size, int64(len(i.data))) }

func (i *inode) isAttr() bool { return i.attr != nil || i.realm != tmpfs }

// Open says whether root may open a file for reading or writing. The mode is no obstacle to root on an ordinary file;
// sysfs and /proc/sys heed it even so.
func (v VFS) Open(n Node, read, write bool) error {
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	i := &v.h.inodes[n]
	switch i.typ() {
	case syscall.S_IFDIR:
		if write {
			return syscall.EISDIR
		}
	case syscall.S_IFCHR, syscall.S_IFBLK:
		return syscall.ENXIO // nobody drives the model's devices
	case syscall.S_IFREG:
		if i.realm != sysfs_ && i.realm != procSys {
			return nil
		}
		if write && i.mode&0o222 == 0 || read && i.mode&0o444 == 0 {
			return syscall.EACCES
		}
	}
	return nil
}

// Read returns the whole content of a regular file.
func (v VFS) Read(n Node) (string, error) {
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	if a := v.h.inodes[n].attr; a != nil && a.wait != nil {
		if err := a.wait(v.h); err != nil {
			return "", err
		}
	}
	return v.h.content(n)
}

// ReadAt copies a part of a plain file.
func (v VFS) ReadAt(n Node, buf []byte, off int64) (int, error) {
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	i := &v.h.inodes[n]
	if i.typ() != syscall.S_IFREG || i.attr != nil {
		return 0, syscall.EINVAL
	}
	buf = buf[:max(0, min(int64(len(buf)), i.length()-off))]
	clear(buf)
	if off < int64(len(i.data)) {
		copy(buf, i.data[off:])
	}
	return len(buf), nil
}

func (h *Host) content(n Node) (string, error) {
	i := &h.inodes[n]
	switch {
	case i.isDir():
		return "", syscall.EISDIR
	case i.typ() != syscall.S_IFREG:
		return "", syscall.EINVAL
	case i.attr == nil:
		return i.data + strings.Repeat("\x00", int(i.length())-len(i.data)), nil
	case i.attr.show == nil && i.realm == cgroupfs:
		return "", syscall.EINVAL
	case i.attr.show == nil:
		return "", syscall.EIO
	}
	return i.attr.show(h)
}

// Write is one write(2) at an offset. To an attribute the offset means nothing.
func (v VFS) Write(n Node, name string, off int64, data []byte, pid int) error {
	v.h.mu.Lock()
	i := v.h.inodes[n]
	v.h.mu.Unlock()
	if len(data) == 0 {
		return nil // reaches nothing: no attribute sees it, no file changes
	}
	if i.attr != nil && i.attr.control {
		return v.control(string(data), pid)
	}
	return v.h.change(Change{Op: "write", Path: name, Value: string(data), PID: pid}, func() error {
		return v.h.store(n, off, string(data))
	})
}

// control runs the program that a script of the tree stands for, and leaves what it prints for the script.
func (v VFS) control(call string, pid int) error {
	prog, args, _ := strings.Cut(strings.TrimSuffix(call, "\n"), "\n")
	out, err := v.Output(prog, strings.Split(args, "\n"), pid)
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	name := outputDir + strconv.Itoa(pid)
	v.h.erase(name)
	if out != "" {
		v.h.text(name, 0o644, out)
	}
	return err
}

func (h *Host) store(n Node, off int64, data string) error {
	i := &h.inodes[n]
	switch {
	case i.typ() != syscall.S_IFREG:
		return syscall.EINVAL
	case i.attr != nil && i.attr.store != nil:
		return i.attr.store(h, data)
	case i.isAttr() && i.mode&0o222 == 0 && i.realm == cgroupfs:
		return syscall.EINVAL
	case i.isAttr() && i.mode&0o222 == 0, i.attr != nil:
		return syscall.EIO
	case i.isAttr():
		i.data = strings.TrimSuffix(data, "\n") + "\n"
		return nil
	}
	old := i.data
	if gap := int(off) - len(old); gap > 0 {
		old += strings.Repeat("\x00", gap)
	}
	head, tail := old[:off], ""
	if end := int(off) + len(data); end < len(old) {
		tail = old[end:]
	}
	i.data, i.size = head+data+tail, i.length()
	return nil
}

// growable says why a name cannot be added to or taken from a directory, if so.
func (h *Host) growable(dir Node, create bool) error {
	i := &h.inodes[dir]
	switch {
	case !i.isDir():
		return syscall.ENOTDIR
	case i.realm != tmpfs && create:
		return syscall.EACCES
	case i.realm != tmpfs:
		return syscall.EPERM
	case i.nlink == 0:
		return syscall.ENOENT
	}
	return nil
}

// Create makes a regular file; the name must be free.
func (v VFS) Create(dir Node, name string, mode uint32, uid, gid, pid int) (Node, error) {
	return v.make("create", dir, name, inode{mode: syscall.S_IFREG | mode&0o7777, uid: uid, gid: gid}, "", pid)
}

// Mkdir makes a directory. In the tree of control groups that makes a group.
func (v VFS) Mkdir(dir Node, name string, mode uint32, uid, gid, pid int) (Node, error) {
	return v.make("mkdir", dir, name, inode{mode: syscall.S_IFDIR | mode&0o7777, uid: uid, gid: gid}, "", pid)
}

// Symlink makes a symbolic link.
func (v VFS) Symlink(dir Node, name, target string, uid, gid, pid int) (Node, error) {
	i := inode{mode: syscall.S_IFLNK | 0o777, data: target, uid: uid, gid: gid}
	return v.make("symlink", dir, name, i, target, pid)
}

// Mknod makes a FIFO or a device node.
func (v VFS) Mknod(dir Node, name string, mode uint32, rdev uint64, uid, gid, pid int) (Node, error) {
	return v.make("create", dir, name, inode{mode: mode, rdev: rdev, uid: uid, gid: gid}, "", pid)
}

func (v VFS) make(op string, dir Node, name string, i inode, value string, pid int) (Node, error) {
	full := path.Clean(name)
	base := path.Base(full)
	if value == "" {
		value = fmt.Sprintf("%04o", i.mode&0o7777)
	}
	v.h.mu.Lock()
	err := v.h.makeable(dir, base, op)
	v.h.mu.Unlock()
	if err != nil {
		return noNode, err
	}
	n := noNode
	err = v.h.change(Change{Op: op, Path: full, Value: value, PID: pid}, func() error {
		if err := v.h.makeable(dir, base, op); err != nil {
			return err
		}
		if v.h.inodes[dir].realm == cgroupfs {
			n = v.h.addCgroup(strings.TrimPrefix(full, cgroupRoot))
			return nil
		}
		n = v.h.newNode(i)
		v.h.enter(dir, base, n)
		return nil
	})
	return n, err
}

func (h *Host) makeable(dir Node, base, op string) error {
	if h.inodes[dir].isDir() && h.child(dir, base) != noNode {
		return syscall.EEXIST
	}
	if op == "mkdir" && h.inodes[dir].realm == cgroupfs {
		return nil
	}
	return h.growable(dir, op == "create")
}

// Link gives a file a second name.
func (v VFS) Link(n, dir Node, name string, pid int) error {
	return v.h.change(Change{Op: "link", Path: name, PID: pid}, func() error {
		base := path.Base(name)
		if err := v.h.makeable(dir, base, "link"); err != nil {
			return err
		}
		if v.h.inodes[n].isDir() {
			return syscall.EPERM
		}
		v.h.enter(dir, base, n)
		v.h.inodes[n].nlink++
		return nil
	})
}

// Unlink takes a name of a file away, Rmdir an empty directory.
func (v VFS) Unlink(dir Node, name string, pid int) error { return v.remove("unlink", dir, name, pid) }

func (v VFS) Rmdir(dir Node, name string, pid int) error { return v.remove("rmdir", dir, name, pid) }

func (v VFS) remove(op string, dir Node, name string, pid int) error {
	full, base := path.Clean(name), path.Base(name)
	v.h.mu.Lock()
	err := v.h.removable(op, dir, base)
	v.h.mu.Unlock()
	if err != nil {
		return err
	}
	return v.h.change(Change{Op: op, Path: full, PID: pid}, func() error {
		if err := v.h.removable(op, dir, base); err != nil {
			return err
		}
		if v.h.inodes[dir].realm == cgroupfs {
			v.h.removeCgroup(strings.TrimPrefix(full, cgroupRoot))
			return nil
		}
		v.h.leave(dir, base)
		return nil
	})
}

func (h *Host) removable(op string, dir Node, base string) error {
	n := h.child(dir, base)
	if n == noNode {
		return syscall.ENOENT
	}
	i := &h.inodes[n]
	switch {
	case op == "unlink" && i.isDir():
		return syscall.EISDIR
	case op == "rmdir" && !i.isDir():
		return syscall.ENOTDIR
	case op == "rmdir" && i.realm == cgroupfs:
		for _, e := range i.kids {
			if h.inodes[e.node].isDir() {
				return syscall.EBUSY
			}
		}
		return nil
	}
	if err := h.growable(dir, false); err != nil {
		return err
	}
	if i.isDir() && len(i.kids) > 0 {
		return syscall.ENOTEMPTY
	}
	return nil
}

// Rename moves a file, over another if noReplace is not set.
func (v VFS) Rename(dir Node, name string, toDir Node, toName string, noReplace bool, pid int) error {
	return v.h.change(Change{Op: "rename", Path: name, Value: toName, PID: pid}, func() error {
		h, base, toBase := v.h, path.Base(name), path.Base(toName)
		n := h.child(dir, base)
		if n == noNode {
			return syscall.ENOENT
		}
		if err := h.growable(dir, false); err != nil {
			return err
		}
		if err := h.growable(toDir, false); err != nil {
			return err
		}
		if over := h.child(toDir, toBase); over != noNode {
			o, i := &h.inodes[over], &h.inodes[n]
			switch {
			case noReplace:
				return syscall.EEXIST
			case over == n:
				return nil
			case o.isDir() && !i.isDir():
				return syscall.EISDIR
			case !o.isDir() && i.isDir():
				return syscall.ENOTDIR
			case len(o.kids) > 0:
				return syscall.ENOTEMPTY
			}
		}
		h.inodes[n].nlink++ // leave counts one name less
		h.leave(dir, base)
		h.enter(toDir, toBase, n)
		return nil
	})
}

// Chmod sets the permission bits.
func (v VFS) Chmod(n Node, name string, mode uint32, pid int) error {
	c := Change{Op: "chmod", Path: name, Value: fmt.Sprintf("%04o", mode&0o7777), PID: pid}
	return v.h.change(c, func() error {
		i := &v.h.inodes[n]
		if i.realm == procfs || i.realm == procSys {
			return syscall.EPERM
		}
		i.mode = i.typ() | mode&0o7777
		return nil
	})
}

// Chown sets owner and group; -1 leaves one as it is. As on Linux the set-id bits of a file go.
func (v VFS) Chown(n Node, name string, uid, gid, pid int) error {
	c := Change{Op: "chown", Path: name, Value: strconv.Itoa(uid) + ":" + strconv.Itoa(gid), PID: pid}
	return v.h.change(c, func() error {
		i := &v.h.inodes[n]
		if i.realm == procfs || i.realm == procSys {
			return syscall.EPERM
		}
		if uid >= 0 {
			i.uid = uid
		}
		if gid >= 0 {
			i.gid = gid
		}
		if i.typ() == syscall.S_IFREG {
			i.mode &^= syscall.S_ISUID
			if i.mode&0o010 != 0 {
				i.mode &^= syscall.S_ISGID
			}
		}
		return nil
	})
}

// Truncate sets the size of a plain file; an attribute has none to set.
func (v VFS) Truncate(n Node, name string, size int64, pid int) error {
	if v.IsAttr(n) {
		return nil
	}
	c := Change{Op: "truncate", Path: name, Value: strconv.FormatInt(size, 10), PID: pid}
	return v.h.change(c, func() error { return v.h.truncate(n, size) })
}

func (h *Host) truncate(n Node, size int64) error {
	i := &h.inodes[n]
	switch {
	case i.typ() != syscall.S_IFREG:
		return syscall.EINVAL
	case size < 0:
		return syscall.EINVAL
	case size < int64(len(i.data)):
		i.data = i.data[:size]
	}
	i.size = size
	return nil
}
