package sysfs

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// blockClass is the host's disks and partitions (Documentation/ABI/stable/sysfs-block).
const blockClass = "/sys/class/block"

// Inhabitants returns the names of the disks and partitions below a PCI function, "nvme0n1", "nvme0n1p2", and of its network
// interfaces. The links in /sys/class lead through all that a device hangs on, be it a hub or another controller's bus of
// its own. The disks of NVMe's native multipath hang on their subsystem instead, and that on its controllers.
func (h FS) Inhabitants(address string) (disks, interfaces []string, err error) {
	const subsystems = "/sys/class/nvme-subsystem"
	above := []string{address}
	names, err := h.ListIfAny(subsystems)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range names {
		controllers, err := h.below(path.Join(subsystems, s), []string{address})
		if err != nil {
			return nil, nil, err
		}
		if len(controllers) > 0 {
			above = append(above, s)
		}
	}
	if disks, err = h.below(blockClass, above); err != nil {
		return nil, nil, err
	}
	interfaces, err = h.below(netClass, []string{address})
	return disks, interfaces, err
}

// below returns those links in a directory that lead through a directory of one of the names.
func (h FS) below(dir string, above []string) ([]string, error) {
	names, err := h.ListIfAny(dir)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(names, func(name string) bool {
		target, err := h.Readlink(path.Join(dir, name))
		// One that cannot be read is no link, or goes at this moment.
		return err != nil || !slices.ContainsFunc(above, func(a string) bool { return strings.Contains(target, "/"+a+"/") })
	}), nil
}

// A Usage is what the host does with its disks: it is read once for all of them.
type Usage struct {
	h      FS
	mounts []mount
	swaps  [][]string // by the disk, as devices has it
}

type mount struct {
	dev, point, kind string
	disks            []string // as devices has them
}

// DiskUsage reads the mount table, /proc/self/mountinfo, and /proc/swaps.
func (h FS) DiskUsage() (*Usage, error) {
	u := &Usage{h: h}
	v, err := h.Read("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(v) {
		before, after, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 5 || len(g) < 2 {
			continue
		}
		m := mount{dev: f[2], point: unescapeMount(f[4]), kind: g[0]}
		if source := unescapeMount(g[1]); strings.HasPrefix(source, "/dev/") {
			m.disks = h.devices(source, m.anonymous())
			if m.kind == "bcachefs" { // names all of its disks
				for s := range strings.SplitSeq(source, ":") {
					m.disks = append(m.disks, h.devices(s, true)...)
				}
			}
		}
		u.mounts = append(u.mounts, m)
	}
	if v, err = h.Read("/proc/swaps"); err == nil {
		for line := range strings.Lines(v) {
			if f := strings.Fields(line); len(f) > 0 {
				u.swaps = append(u.swaps, h.devices(unescapeMount(f[0]), true))
			}
		}
	}
	return u, nil
}

// anonymous reports whether the mount's number is that of no disk: a file system on several has one of its own.
func (m mount) anonymous() bool { return strings.HasPrefix(m.dev, "0:") }

// devices returns what a node of a disk is known by: its name in sysfs if that is the node's, and where the node is to be
// looked at the disk's number. /dev/mapper has other names than sysfs.
func (h FS) devices(node string, look bool) []string {
	var known []string
	if path.Dir(node) == "/dev" {
		known = append(known, path.Base(node))
	}
	if !look || !strings.HasPrefix(node, "/dev/") {
		return known
	}
	if st, err := h.Stat(node); err == nil && st.Type() == syscall.S_IFBLK {
		known = append(known, fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	}
	return known
}

// unescapeMount decodes the octal escapes of the mount table: "\040" is a space.
func unescapeMount(s string) string {
	const digits = 3
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(s, `\`)
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		if len(after) >= digits {
			if c, err := strconv.ParseUint(after[:digits], 8, 8); err == nil {
				b.WriteByte(byte(c))
				s = after[digits:]
				continue
			}
		}
		b.WriteByte('\\')
		s = after
	}
}

// Of says what a disk or partition is used for: where it is mounted, that it is swapped on, what lies on top of it.
func (u *Usage) Of(name string) []string { return u.of(name, 0) }

func (u *Usage) of(name string, depth int) []string {
	const deepest = 8
	if depth > deepest {
		return nil
	}
	dir := path.Join(blockClass, name)
	dev, _ := u.h.Read(dir + "/dev")
	is := func(disks []string) bool {
		return slices.Contains(disks, name) || dev != "" && slices.Contains(disks, dev)
	}
	var uses []string
	if mounted := u.mounted(name, dev, is); mounted != "" {
		uses = append(uses, mounted)
	}
	if slices.ContainsFunc(u.swaps, is) {
		uses = append(uses, "is swapped on")
	}
	holders, _ := u.h.ReadDir(dir + "/holders")
	for _, o := range holders {
		what := "carries " + u.describe(o)
		above := u.of(o, depth+1)
		for i, more := range above {
			above[i] = ", which " + more
		}
		for _, p := range u.partitions(o) {
			for _, more := range u.of(p, depth+1) {
				above = append(above, ", whose "+p+" "+more)
			}
		}
		if len(above) == 0 {
			uses = append(uses, what)
		}
		for _, more := range above {
			uses = append(uses, what+more)
		}
	}
	switch {
	case len(uses) > 0:
	case u.zfs(dev):
		uses = append(uses, "belongs to a ZFS pool")
	case u.h.Exists(dir+"/bcache") && !strings.HasPrefix(name, "bcache"):
		uses = append(uses, "belongs to bcache") // a cache has no holder, and bcache0 links back to its disk
	}
	return uses
}

// partitions returns the partitions of what lies on a disk.
func (u *Usage) partitions(name string) []string {
	names, _ := u.h.ReadDir(path.Join(blockClass, name))
	return slices.DeleteFunc(names, func(n string) bool {
		return !strings.HasPrefix(n, name) || !u.h.Exists(path.Join(blockClass, name, n, "partition"))
	})
}

// mounted says where a disk is mounted; "" if nowhere. The file systems themselves say that they are mounted, in whatever
// namespace, where the table of this process has nothing of it (Documentation/ABI/testing/sysfs-fs-ext4).
func (u *Usage) mounted(name, dev string, is func(disks []string) bool) string {
	var points []string
	add := func(m mount) {
		if !slices.Contains(points, m.point) {
			points = append(points, m.point)
		}
	}
	for _, m := range u.mounts {
		if dev != "" && m.dev == dev || is(m.disks) {
			add(m)
		}
	}
	members := u.btrfsMembers(name)
	for _, m := range u.mounts {
		if m.kind == "btrfs" && slices.ContainsFunc(m.disks, func(d string) bool { return slices.Contains(members, d) }) {
			add(m)
		}
	}
	switch len(points) {
	case 0:
	case 1:
		return "is mounted on " + points[0]
	default:
		return fmt.Sprintf("is mounted on %s and %d more", points[0], len(points)-1)
	}
	elsewhere := len(members) > 0
	for _, kind := range []string{"ext4", "xfs", "f2fs"} {
		elsewhere = elsewhere || u.h.Exists(path.Join("/sys/fs", kind, name))
	}
	if elsewhere {
		return "is mounted in another mount namespace"
	}
	return ""
}

// btrfsMembers returns names and numbers of the disks of a mounted file system that the disk is part of: the mount table has
// no number for such a one, and names one of the disks.
func (u *Usage) btrfsMembers(name string) []string {
	const dir = "/sys/fs/btrfs"
	systems, _ := u.h.ReadDir(dir)
	for _, id := range systems {
		disks, _ := u.h.ReadDir(path.Join(dir, id, "devices"))
		if !slices.Contains(disks, name) {
			continue
		}
		members := disks
		for _, d := range disks {
			if dev, err := u.h.Read(path.Join(blockClass, d, "dev")); err == nil {
				members = append(members, dev)
			}
		}
		return members
	}
	return nil
}

// describe names what lies on a disk: LVM's volumes, encryption and RAID.
func (u *Usage) describe(name string) string {
	dir := path.Join(blockClass, name)
	if id, err := u.h.Read(dir + "/dm/uuid"); err == nil {
		kind, _, _ := strings.Cut(id, "-")
		mapped, _ := u.h.Read(dir + "/dm/name")
		return strings.TrimSpace(kind + " " + mapped)
	}
	if u.h.Exists(dir + "/md") {
		return "RAID " + name
	}
	return name
}

// zfs reports whether udev knows the partition as ZFS's while a pool is imported: the pool's disks stand in no table.
func (u *Usage) zfs(dev string) bool {
	v, err := u.h.Read("/run/udev/data/b" + dev)
	if err != nil || !strings.Contains(v, "ID_FS_TYPE=zfs_member") {
		return false
	}
	pools, _ := u.h.ReadDir("/proc/spl/kstat/zfs")
	return slices.ContainsFunc(pools, func(p string) bool {
		st, err := u.h.Stat("/proc/spl/kstat/zfs/" + p)
		return err == nil && st.Type() == syscall.S_IFDIR
	})
}
