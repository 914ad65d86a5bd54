package sysfstest

import (
	"path"
	"slices"
	"strings"
	"syscall"
)

// A Node is a file of the model, of whatever type: its inode. Numbers are never used twice.
type Node int32

// rootNode is the directory "/".
const rootNode Node = 1

// noNode stands for a file that does not exist.
const noNode Node = 0

// realm says by which of the kernel's file systems a file is served, and so which errors it gives.
type realm uint8

const (
	tmpfs realm = iota
	sysfs_
	procfs
	procSys
	cgroupfs
)

// realmOf returns the realm of a path.
func realmOf(name string) realm {
	switch {
	case under(name, "/sys/fs/cgroup"):
		return cgroupfs
	case under(name, "/sys"):
		return sysfs_
	case under(name, "/proc/sys"):
		return procSys
	case under(name, "/proc"):
		return procfs
	}
	return tmpfs
}

// under reports whether name is dir or lies below it.
func under(name, dir string) bool {
	rest, ok := strings.CutPrefix(name, dir)
	return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(dir, "/"))
}

// inode is what the model keeps of a file. The values it points to are never changed in place: clones share them.
type inode struct {
	mode     uint32 // type and permission bits
	nlink    uint32
	uid, gid int
	rdev     uint64
	data     string  // content of a plain file, target of a symbolic link
	size     int64   // of a plain file that is longer than data: the rest is a hole
	kids     []entry // of a directory, sorted by name
	attr     *attr   // the rule of an attribute file
	to       Node    // of a link in /proc/PID/fd: the open file, whatever its name leads to now
	realm    realm
	hidden   bool // not listed: the model's own control files
}

// entry is a name in a directory.
type entry struct {
	name string
	node Node
}

// attr is the rule of an attribute file. Both functions find what they speak of through the host they are given, so
// that a clone's files speak of the clone.
type attr struct {
	// show returns the content; nil if the file cannot be read.
	show func(h *Host) (string, error)
	// store takes what one write(2) brought; nil if the file cannot be written.
	store func(h *Host, value string) error
	// noise marks a value that changes by itself or with everything else: snapshots leave it out.
	noise bool
	// control marks the file through which a program of the tree reaches the model.
	control bool
	// wait, if there is one, holds up a program that reads the file.
	wait func(h *Host) error
}

// flag is an attribute that holds 0 or 1.
func flag(get func(*Host) bool, set func(h *Host, on bool)) *attr {
	return &attr{
		show: func(h *Host) (string, error) {
			if get(h) {
				return "1\n", nil
			}
			return "0\n", nil
		},
		store: func(h *Host, v string) error {
			n, err := parseUint(v)
			if err != nil || n > 1 {
				return syscall.EINVAL
			}
			set(h, n == 1)
			return nil
		},
	}
}

func (i *inode) typ() uint32 { return i.mode & syscall.S_IFMT }
func (i *inode) isDir() bool { return i.typ() == syscall.S_IFDIR }

// child returns the node of a name in a directory.
func (h *Host) child(dir Node, name string) Node {
	kids := h.inodes[dir].kids
	if i, ok := slices.BinarySearchFunc(kids, name, compareEntry); ok {
		return kids[i].node
	}
	return noNode
}

func compareEntry(e entry, name string) int { return strings.Compare(e.name, name) }

// enter puts a name into a directory, replacing what has that name.
func (h *Host) enter(dir Node, name string, n Node) {
	kids := h.inodes[dir].kids
	i, ok := slices.BinarySearchFunc(kids, name, compareEntry)
	next := make([]entry, 0, len(kids)+1)
	next = append(next, kids[:i]...)
	next = append(next, entry{name, n})
	if ok {
		h.drop(kids[i].node)
		i++
	}
	h.inodes[dir].kids = append(next, kids[i:]...)
}

// leave takes a name out of a directory.
func (h *Host) leave(dir Node, name string) {
	kids := h.inodes[dir].kids
	i, ok := slices.BinarySearchFunc(kids, name, compareEntry)
	if !ok {
		return
	}
	h.drop(kids[i].node)
	next := make([]entry, 0, len(kids))
	next = append(next, kids[:i]...)
	h.inodes[dir].kids = append(next, kids[i+1:]...)
}

// drop counts one name of a file less.
func (h *Host) drop(n Node) {
	if i := &h.inodes[n]; i.nlink > 0 {
		i.nlink--
	}
}

// newNode adds a file that has no name yet.
func (h *Host) newNode(i inode) Node {
	i.nlink = 1
	h.inodes = append(h.inodes, i)
	return Node(len(h.inodes) - 1)
}

// maxLinks is the number of symbolic links the kernel follows in one path (MAXSYMLINKS).
const maxLinks = 40

// walk finds a file by its absolute path.
func (h *Host) walk(name string, follow bool) (Node, error) {
	at := []Node{rootNode}
	rest := strings.Split(name, "/")
	slices.Reverse(rest)
	for links := 0; len(rest) > 0; {
		elem := rest[len(rest)-1]
		rest = rest[:len(rest)-1]
		dir := at[len(at)-1]
		if !h.inodes[dir].isDir() {
			return noNode, syscall.ENOTDIR
		}
		switch elem {
		case "", ".":
			continue
		case "..":
			if len(at) > 1 {
				at = at[:len(at)-1]
			}
			continue
		}
		n := h.child(dir, elem)
		if n == noNode {
			return noNode, syscall.ENOENT
		}
		if h.inodes[n].typ() == syscall.S_IFLNK && (follow || len(rest) > 0) {
			if links++; links > maxLinks {
				return noNode, syscall.ELOOP
			}
			if to := h.inodes[n].to; to != noNode {
				at = append(at, to)
				continue
			}
			target := h.inodes[n].data
			if strings.HasPrefix(target, "/") {
				at = at[:1]
			}
			elems := strings.Split(target, "/")
			slices.Reverse(elems)
			rest = append(rest, elems...)
			continue
		}
		at = append(at, n)
	}
	return at[len(at)-1], nil
}

// find returns the node at a path without following a final link, noNode if there is none.
func (h *Host) find(name string) Node {
	n, err := h.walk(name, false)
	if err != nil {
		return noNode
	}
	return n
}

// The builders below put a file at a path, making the directories above it. They are no changes: nobody is asked.

func (h *Host) mkdir(name string) Node {
	if n := h.find(name); n != noNode {
		if i := &h.inodes[n]; i.typ() == syscall.S_IFLNK {
			return h.mkdir(path.Join(path.Dir(name), i.data))
		}
		return n
	}
	dir := h.mkdir(path.Dir(name))
	n := h.newNode(inode{mode: syscall.S_IFDIR | 0o755, realm: realmOf(name)})
	h.enter(dir, path.Base(name), n)
	return n
}

func (h *Host) put(name string, i inode) Node {
	i.realm = realmOf(name)
	n := h.newNode(i)
	h.enter(h.mkdir(path.Dir(name)), path.Base(name), n)
	return n
}

// text puts a plain file, or, in sysfs and procfs, an attribute that keeps what is written to it.
func (h *Host) text(name string, mode uint32, content string) Node {
	return h.put(name, inode{mode: syscall.S_IFREG | mode, data: content})
}

// value puts an attribute that only says something.
func (h *Host) value(name, content string) Node { return h.text(name, 0o444, content+"\n") }

// rule puts an attribute with a rule; its mode follows from what the rule can do.
func (h *Host) rule(name string, a *attr) Node {
	mode := uint32(syscall.S_IFREG)
	if a.show != nil {
		mode |= 0o444
	}
	if a.store != nil {
		mode |= 0o200
	}
	return h.put(name, inode{mode: mode, attr: a})
}

// link puts a symbolic link to an absolute path, as sysfs does: relative to the link's own directory.
func (h *Host) link(name, target string) Node {
	if strings.HasPrefix(target, "/") {
		target = relative(path.Dir(name), target)
	}
	return h.put(name, inode{mode: syscall.S_IFLNK | 0o777, data: target})
}

// device puts a device node.
func (h *Host) device(name string, typ uint32, major, minor uint32, mode uint32) Node {
	return h.put(name, inode{mode: typ | mode, rdev: mkdev(major, minor)})
}

// erase takes a file out of its directory, with all below it.
func (h *Host) erase(name string) {
	if dir := h.find(path.Dir(name)); dir != noNode {
		h.leave(dir, path.Base(name))
	}
}

// relative returns target as seen from dir; both are absolute.
func relative(dir, target string) string {
	from := strings.Split(strings.Trim(dir, "/"), "/")
	to := strings.Split(strings.Trim(target, "/"), "/")
	for len(from) > 0 && len(to) > 1 && from[0] == to[0] {
		from, to = from[1:], to[1:]
	}
	if len(from) == 1 && from[0] == "" {
		from = nil
	}
	return strings.Repeat("../", len(from)) + strings.Join(to, "/")
}

// mkdev makes a device number as glibc and the kernel's 64-bit stat have it.
func mkdev(major, minor uint32) uint64 {
	return uint64(minor)&0xff | uint64(major)&0xfff<<8 | uint64(minor)>>8<<20 | uint64(major)>>12<<44
}
