package sysfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Holder is a process that has device nodes open or mapped.
type Holder struct {
	Process
	Comm   string
	UID    int
	Cgroup string
	Nodes  []DeviceNode
}

// Holders returns the processes that have one of the nodes open or mapped, by /proc/PID/fd and /proc/PID/maps. Unseen
// says that there were processes that this one may not look at.
//
// An open file is known by its device number, as a container has nodes of its own. A mapping shows the file system that the
// node is in instead: it is known by the node's own file, or by its path where another mount has a node of that name.
func (h FS) Holders(ctx context.Context, nodes []DeviceNode) (holders []Holder, unseen bool, err error) {
	if len(nodes) == 0 {
		return nil, false, nil
	}
	s := h.newScan(nodes)
	names, err := h.ReadDir("/proc")
	if err != nil {
		return nil, false, &Error{Op: "list", Path: "/proc", Err: err}
	}
	// Mounted with hidepid=2 it lists only the caller's own processes.
	unseen = !slices.Contains(names, "1")
	// The kernel's own threads have no files, and are more than half of all there is on many a host.
	children := map[string]bool{}
	for _, pid := range h.kernelChildren() {
		children[pid] = true
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || children[name] && h.kernelThread(name) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, unseen, err
		}
		found, hidden, err := s.look(pid)
		if err != nil {
			return nil, unseen, err
		}
		unseen = unseen || hidden
		if len(found) == 0 {
			continue
		}
		o, err := h.holder(pid)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
			continue // it has ended
		case err != nil:
			return nil, unseen, err
		}
		o.Nodes = found
		holders = append(holders, o)
	}
	slices.SortFunc(holders, func(a, b Holder) int { return a.PID - b.PID })
	return holders, unseen, nil
}

// holder reads what is worth knowing of a process.
func (h FS) holder(pid int) (Holder, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	st, err := h.ProcessStat(pid)
	if err != nil {
		return Holder{}, err
	}
	o := Holder{Process: Process{pid, st.Start}, Comm: st.Comm, UID: -1}
	if v, err := h.Read(dir + "/status"); err == nil {
		for line := range strings.Lines(v) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "Uid:" {
				o.UID, _ = strconv.Atoi(f[1])
			}
		}
	}
	if v, err := h.Read(dir + "/cgroup"); err == nil {
		for line := range strings.Lines(v) {
			// "0::/path" is the unified hierarchy, "1:name=systemd:/path" where it is mixed.
			f := strings.SplitN(strings.TrimSpace(line), ":", 3)
			if len(f) == 3 && (f[0] == "0" || f[1] == "name=systemd") && len(f[2]) > len(o.Cgroup) {
				o.Cgroup = f[2]
			}
		}
	}
	return o, nil
}

// A scan looks for nodes in processes.
type scan struct {
	h      FS
	nodes  []DeviceNode
	byRdev map[uint64][]int // indexes of nodes
	byFile map[string]int   // "MAJOR:MINOR INODE", as maps has it
	byPath map[string]int
}

func (h FS) newScan(nodes []DeviceNode) *scan {
	s := &scan{h: h, nodes: nodes, byRdev: map[uint64][]int{}, byFile: map[string]int{}, byPath: map[string]int{}}
	for i, n := range nodes {
		s.byRdev[n.Rdev] = append(s.byRdev[n.Rdev], i)
		s.byPath[n.Path] = i
		if st, err := h.Stat(n.Path); err == nil && st.Rdev == n.Rdev {
			s.byFile[fmt.Sprintf("%02x:%02x %d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)] = i
		}
	}
	return s
}

// look returns those of the nodes that a process has; hidden says that it may not be looked at.
func (s *scan) look(pid int) (found []DeviceNode, hidden bool, err error) {
	var has []int
	add := func(i int) {
		if !slices.Contains(has, i) {
			has = append(has, i)
		}
	}
	err = s.h.OpenDevices(pid, func(rdev uint64, block bool) {
		for _, i := range s.byRdev[rdev] {
			if s.nodes[i].Block == block {
				add(i)
			}
		}
	})
	if err == nil {
		var maps []byte
		maps, err = s.h.ReadFile("/proc/" + strconv.Itoa(pid) + "/maps")
		s.mapped(maps, add)
	}
	slices.Sort(has)
	for _, i := range has {
		found = append(found, s.nodes[i])
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
		return found, false, nil // it ended meanwhile
	case errors.Is(err, fs.ErrPermission):
		return found, true, nil
	case err != nil:
		return nil, false, &Error{Op: "look at the open files of process", Path: strconv.Itoa(pid), Err: err}
	}
	return found, false, nil
}

// mapped goes through a process's maps: ADDRESS PERMISSIONS OFFSET DEVICE INODE PATH.
func (s *scan) mapped(maps []byte, add func(int)) {
	for len(maps) > 0 {
		var line []byte
		line, maps, _ = bytes.Cut(maps, []byte("\n"))
		_, line, _ = bytes.Cut(line, []byte(" "))
		_, line, _ = bytes.Cut(line, []byte(" "))
		_, line, ok := bytes.Cut(line, []byte(" "))
		if !ok {
			continue
		}
		dev := bytes.IndexByte(line, ' ')
		end := bytes.IndexByte(line[dev+1:], ' ')
		if dev < 0 || end < 0 {
			continue // memory without a file
		}
		end += dev + 1
		if i, ok := s.byFile[string(line[:end])]; ok {
			add(i)
		}
		// The node of a driver that was loaded again is another one, and the old one is gone.
		name := bytes.TrimSuffix(bytes.TrimLeft(line[end:], " "), []byte(" (deleted)"))
		if i, ok := s.byPath[string(name)]; ok {
			add(i)
		}
	}
}

// Unit returns the innermost unit that the process belongs to, which may be one of a user's own systemd; "" if none.
func (o Holder) Unit() string {
	units := unitsIn(o.Cgroup)
	if len(units) == 0 {
		return ""
	}
	return units[len(units)-1]
}

// SystemUnit returns the unit of the host's systemd that the process belongs to: a service, a session's scope, a user's
// manager; "" if none.
func (o Holder) SystemUnit() string {
	units := unitsIn(o.Cgroup)
	if len(units) == 0 {
		return ""
	}
	return units[0]
}

// unitsIn returns the units in a cgroup's path, the outermost first.
func unitsIn(cgroup string) (units []string) {
	for part := range strings.SplitSeq(cgroup, "/") {
		if strings.HasSuffix(part, ".service") || strings.HasSuffix(part, ".scope") {
			units = append(units, part)
		}
	}
	return units
}

// Container names the container that the process runs in, "" if none that is known by its cgroup: docker-ID.scope,
// libpod-ID.scope, lxc.payload.NAME, machine-NAME.scope, or a folder with nothing but an id for its name. Guests of QEMU,
// which are machines too, are none.
func (o Holder) Container() string {
	for part := range strings.SplitSeq(o.Cgroup, "/") {
		name, scope := strings.CutSuffix(part, ".scope")
		if id := name[strings.LastIndexByte(name, '-')+1:]; isContainerID(id) && !strings.Contains(name, "-conmon-") {
			const short = 12 // as container tools print an id
			return id[:short]
		}
		if v, ok := strings.CutPrefix(part, "lxc.payload."); ok {
			return v
		}
		if v, ok := strings.CutPrefix(name, "machine-"); ok && scope {
			if v = strings.ReplaceAll(v, `\x2d`, "-"); !strings.HasPrefix(v, "qemu-") {
				return v
			}
		}
	}
	return ""
}

// isContainerID reports whether the name is the sum by which docker, podman and Kubernetes know a container.
func isContainerID(s string) bool {
	const digits = 64
	return len(s) == digits && strings.Trim(s, "0123456789abcdef") == ""
}

// program returns the command without the wrapping that NixOS gives programs: ".libvirtd-wrapp" is libvirtd. The kernel
// cuts commands at 15 characters.
func (o Holder) program() string {
	name, wrapped := strings.CutPrefix(o.Comm, ".")
	if i := strings.LastIndex(name, "-w"); wrapped && i > 0 && strings.HasPrefix("-wrapped", name[i:]) {
		name = name[:i]
	}
	return name
}

// IsSessionKeeper reports whether the process has devices open for others: the session's own daemon, or PID 1, which keeps
// that daemon's files while it restarts.
func (o Holder) IsSessionKeeper() bool {
	return o.PID == 1 || slices.Contains([]string{"systemd-logind", "elogind", "elogind-daemon", "seatd"}, o.program())
}

// ProtectedProcess reports whether nobody may end the process: session keepers, the bus, systemd and a user's own, libvirt,
// guests, and whoever this program runs for.
func (h FS) ProtectedProcess(o Holder) bool {
	if o.IsSessionKeeper() || o.isGuest() || o.isLibvirt() {
		return true
	}
	name := o.program()
	for _, p := range []string{"dbus-daemon", "dbus-broker", "systemd", "qemu-hook"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	const deepest = 64
	pid := os.Getpid()
	for range deepest {
		st, err := h.ProcessStat(pid)
		if err != nil {
			return false
		}
		if (Process{pid, st.Start}) == o.Process {
			return true
		}
		if pid = st.Parent; pid <= 1 {
			return false
		}
	}
	return false
}

// isGuest knows QEMU by its command, and by the scope that libvirt gives each guest: -name process= gives another command.
func (o Holder) isGuest() bool {
	name := o.program()
	return name == "kvm" || strings.HasPrefix(name, "qemu-system") || strings.HasPrefix(name, "qemu-kvm") ||
		strings.Contains(o.Cgroup, `/machine-qemu`)
}

// isLibvirt knows libvirtd and the daemons it was split into, virtqemud to virtlogd; virt-manager is none.
func (o Holder) isLibvirt() bool {
	name := o.program()
	return strings.HasPrefix(name, "libvirt") ||
		strings.HasPrefix(name, "virt") && strings.HasSuffix(name, "d") && !strings.Contains(name, "-")
}
