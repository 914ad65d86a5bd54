package sysfstest

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A Snapshot is a host's whole tree at one moment: of each file type, mode, owner, link target, content, device
// number, and in /dev/shm the inode. Values that change by themselves (the amounts of memory) are left out.
type Snapshot struct{ files map[string]fileState }

// fileState is what a snapshot holds of a file.
type fileState struct {
	mode     uint32
	uid, gid int
	rdev     uint64
	nlink    uint32
	ino      Node // in /dev/shm, else 0
	size     int64
	content  string
}

// maxDiffs is the number of differences Diff lists.
const maxDiffs = 40

// Snapshot returns the host's tree as it stands.
func (h *Host) Snapshot() *Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget()
	s := &Snapshot{make(map[string]fileState, len(h.inodes))}
	h.snap(s, "/", rootNode)
	for _, d := range h.drivers { // what sysfs does not show
		if len(d.ids) > 0 {
			s.files[pciBus+"/drivers/"+d.name+" (ids)"] = fileState{content: strings.Join(d.ids, " ")}
		}
	}
	for name, u := range h.services {
		if u.state != u.boot {
			s.files[name+" (state)"] = fileState{content: u.state}
		}
	}
	for addr, d := range h.pci {
		if d.persistence {
			s.files[d.path+" (persistence of "+addr+")"] = fileState{content: "on"}
		}
	}
	for u, c := range h.units {
		if !c.Empty() {
			s.files[u+" (AllowedCPUs)"] = fileState{content: c.String()}
		}
	}
	return s
}

func (h *Host) snap(s *Snapshot, name string, n Node) {
	i := &h.inodes[n]
	if i.hidden {
		return
	}
	f := fileState{mode: i.mode, uid: i.uid, gid: i.gid, rdev: i.rdev, content: i.data, size: i.length()}
	if !i.isDir() {
		f.nlink = i.nlink
	}
	if under(name, "/dev/shm/") {
		f.ino = n
	}
	if i.attr != nil {
		f.content = ""
		if !i.attr.noise && i.attr.show != nil {
			f.content, _ = i.attr.show(h)
		}
	}
	s.files[name] = f
	for _, e := range i.kids {
		h.snap(s, path.Join(name, e.name), e.node)
	}
}

// Without returns the snapshot less the files at and below the given paths.
func (s *Snapshot) Without(prefixes ...string) *Snapshot {
	out := &Snapshot{make(map[string]fileState, len(s.files))}
	for name, f := range s.files {
		if !slices.ContainsFunc(prefixes, func(p string) bool { return under(name, p) }) {
			out.files[name] = f
		}
	}
	return out
}

// Diff says how b differs from a, a line for each file; "" if it does not.
func Diff(a, b *Snapshot) string {
	var lines []string
	for name, x := range a.files {
		y, ok := b.files[name]
		switch {
		case !ok:
			lines = append(lines, "- "+name+": "+x.String())
		case x != y:
			lines = append(lines, "! "+name+": "+x.changes(y))
		}
	}
	for name, y := range b.files {
		if _, ok := a.files[name]; !ok {
			lines = append(lines, "+ "+name+": "+y.String())
		}
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[2:], b[2:]) })
	if more := len(lines) - maxDiffs; more > 0 {
		lines = append(lines[:maxDiffs], fmt.Sprintf("… and %d more", more))
	}
	return strings.Join(lines, "\n")
}

func (f fileState) String() string {
	switch f.mode & syscall.S_IFMT {
	case syscall.S_IFLNK:
		return "-> " + f.content
	case syscall.S_IFDIR:
		return fmt.Sprintf("directory %04o %d:%d", f.mode&0o7777, f.uid, f.gid)
	}
	return fmt.Sprintf("%04o %d:%d %s", f.mode&0o7777, f.uid, f.gid, short(f.content))
}

// changes says what differs between two states of one file.
func (f fileState) changes(g fileState) string {
	var out []string
	say := func(what, a, b string) {
		if a != b {
			out = append(out, fmt.Sprintf("%s %s → %s", what, a, b))
		}
	}
	say("type", fmt.Sprintf("%o", f.mode>>12), fmt.Sprintf("%o", g.mode>>12))
	say("mode", fmt.Sprintf("%04o", f.mode&0o7777), fmt.Sprintf("%04o", g.mode&0o7777))
	say("owner", fmt.Sprintf("%d:%d", f.uid, f.gid), fmt.Sprintf("%d:%d", g.uid, g.gid))
	say("device", strconv.FormatUint(f.rdev, 16), strconv.FormatUint(g.rdev, 16))
	say("links", strconv.Itoa(int(f.nlink)), strconv.Itoa(int(g.nlink)))
	say("inode", strconv.Itoa(int(f.ino)), strconv.Itoa(int(g.ino)))
	say("size", strconv.FormatInt(f.size, 10), strconv.FormatInt(g.size, 10))
	say("content", short(f.content), short(g.content))
	return strings.Join(out, ", ")
}

// short quotes a content, cut off if it is long.
func short(s string) string {
	if len(s) > 120 {
		return strconv.Quote(s[:120]) + "…"
	}
	return strconv.Quote(s)
}
