package sysfs

import (
	"path"
	"slices"
	"strings"
	"syscall"
)

const blockClass = "/sys/class/block"

// Inhabitants returns the names of the disks below a PCI function with their partitions, "nvme0n1", "nvme0n1p2", and of its
// network interfaces: what lies in folders "block" and "net", wherever they are, and NVMe's disks that native multipath
// keeps elsewhere.
func (h FS) Inhabitants(address string) (disks, interfaces []string, err error) {
	var whole []string
	err = h.walkDevices(PCIDevice(address), 0, func(dir string) {
		switch path.Base(path.Dir(dir)) {
		case "block":
			whole = append(whole, path.Base(dir))
		case "net":
			interfaces = append(interfaces, path.Base(dir))
		case "nvme":
			whole = append(whole, h.multipathDisks(path.Base(dir))...)
		}
	})
	for _, d := range whole {
		if slices.Contains(disks, d) {
			continue
		}
		disks = append(disks, d)
		names, err := h.ReadDir(path.Join(blockClass, d))
		if err != nil {
			continue // it goes at this moment, or is one of multipath's hidden paths
		}
		for _, n := range names {
			if h.Exists(path.Join(blockClass, d, n, "partition")) {
				disks = append(disks, n)
			}
		}
	}
	return disks, interfaces, err
}

// multipathDisks returns the disks of an NVMe controller's subsystem.
func (h FS) multipathDisks(controller string) []string {
	const dir = "/sys/class/nvme-subsystem"
	subsystems, err := h.ReadDir(dir)
	if err != nil {
		return nil
	}
	var disks []string
	for _, s := range subsystems {
		if !h.Exists(path.Join(dir, s, controller)) {
			continue
		}
		names, _ := h.ReadDir(path.Join(dir, s))
		for _, n := range names {
			if h.Exists(path.Join(blockClass, n)) {
				disks = append(disks, n)
			}
		}
	}
	return disks
}

// A Usage is what the host does with its disks: it is read once for all of them.
type Usage struct {
	h      FS
	mounts []mount
	swaps  []string // paths
}

type mount struct{ dev, point, kind, source string }

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
		if ok && len(f) > 4 && len(g) > 1 {
			u.mounts = append(u.mounts, mount{f[2], unescapeMount(f[4]), g[0], unescapeMount(g[1])})
		}
	}
	if v, err = h.Read("/proc/swaps"); err == nil {
		for line := range strings.Lines(v) {
			if f := strings.Fields(line); len(f) > 0 && strings.HasPrefix(f[0], "/") {
				u.swaps = append(u.swaps, unescapeMount(f[0]))
			}
		}
	}
	return u, nil
}

// unescapeMount decodes the octal escapes of the mount table.
func unescapeMount(s string) string {
	for _, e := range [][2]string{{`\040`, " "}, {`\011`, "\t"}, {`\012`, "\n"}, {`\134`, `\`}} {
		s = strings.ReplaceAll(s, e[0], e[1])
	}
	return s
}

// Of says what a disk or partition is used for: where it is mounted, that it is swapped on, what lies on top of it.
func (u *Usage) Of(name string) []string { return u.of(name, 0) }

func (u *Usage) of(name string, depth int) []string {
	const deepest = 8
	if depth > deepest {
		return nil
	}
	dev, _ := u.h.Read(path.Join(blockClass, name, "dev"))
	var uses []string
	for _, m := range u.mounts {
		if dev != "" && m.dev == dev || m.source == "/dev/"+name {
			uses = append(uses, "is mounted on "+m.point)
		}
	}
	uses = append(uses, u.btrfs(name)...)
	for _, s := range u.swaps {
		if s == "/dev/"+name {
			uses = append(uses, "is swapped on")
		}
	}
	holders, _ := u.h.ReadDir(path.Join(blockClass, name, "holders"))
	for _, o := range holders {
		what := "carries " + u.describe(o)
		above := u.of(o, depth+1)
		if len(above) == 0 {
			uses = append(uses, what)
		}
		for _, more := range above {
			uses = append(uses, what+", which "+more)
		}
	}
	if len(uses) == 0 && u.zfs(dev) {
		uses = append(uses, "belongs to a ZFS pool")
	}
	return slices.Compact(uses)
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

// btrfs finds mounts of file systems that lie on several disks: the mount table has no number for them, and names one disk.
func (u *Usage) btrfs(name string) []string {
	const dir = "/sys/fs/btrfs"
	systems, err := u.h.ReadDir(dir)
	if err != nil {
		return nil
	}
	var uses []string
	for _, id := range systems {
		disks, err := u.h.ReadDir(path.Join(dir, id, "devices"))
		if err != nil || !slices.Contains(disks, name) {
			continue
		}
		for _, m := range u.mounts {
			if m.kind == "btrfs" && m.source != "/dev/"+name && slices.Contains(disks, path.Base(m.source)) {
				uses = append(uses, "is mounted on "+m.point)
			}
		}
	}
	return uses
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
