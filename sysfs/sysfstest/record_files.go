package sysfstest

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/tools/txtar"
)

// dirFile is a directory, as a host file has it.
func dirFile(name string) txtar.File { return txtar.File{Name: strings.Trim(name, "/") + "/"} }

func (r *recorder) consoles() []string {
	names, _ := r.ListIfAny("/sys/class/vtconsole")
	var lines []string
	for _, n := range names {
		dir := "/sys/class/vtconsole/" + n
		if name := r.value(dir + "/name"); name != "" {
			lines = append(lines, fmt.Sprintf("%s bind=%s %s", n, r.value(dir+"/bind"), name))
		}
	}
	return lines
}

// framebuffers writes what the firmware left, with the function in whose memory it lies.
func (r *recorder) framebuffers() []string {
	all, _ := r.PlatformFramebuffers()
	var lines []string
	for _, f := range all {
		if f.Driver == "" {
			continue
		}
		dir, err := r.ResolveLinks(platformBus + "/devices/" + f.Device)
		if err != nil {
			continue
		}
		line := f.Device + " driver=" + f.Driver
		for _, a := range r.members {
			labels, err := r.BootFramebuffers(a)
			if err != nil || len(labels) == 0 {
				continue
			}
			line += " in=" + a
			for l := range strings.Lines(r.value("/proc/iomem")) {
				if at, label, ok := strings.Cut(strings.TrimSpace(l), " : "); ok && label == labels[0] && !strings.ContainsAny(label, " ") {
					line += " at=" + at + " name=" + label
					break
				}
			}
			break
		}
		if !strings.HasPrefix(dir, "/sys/devices/platform/") {
			line += " below=card"
		}
		if nodes, _ := r.nodesOf(dir); len(nodes) > 0 {
			line += " nodes=" + strings.Join(nodes, ",")
		}
		lines = append(lines, line)
	}
	return lines
}

const (
	blockClass = "/sys/class/block"
	netClass   = "/sys/class/net"
)

// links writes links of the tree that lead elsewhere: merged directories, the display manager's alias, disks and interfaces that
// are no function's own node.
func (r *recorder) links() []string {
	var lines []string
	add := func(name, to string) {
		if name != to {
			lines = append(lines, r.scrub.text(name)+" -> "+r.scrub.text(to))
		}
	}
	for _, name := range []string{"/bin", "/sbin", "/lib", "/lib64", "/usr/sbin", "/etc/systemd/system/display-manager.service"} {
		if to, err := r.Readlink(name); err == nil {
			if !path.IsAbs(to) {
				to = path.Join(path.Dir(name), to)
			}
			add(name, to)
		}
	}
	disks, _ := r.ListIfAny(blockClass)
	for _, n := range disks {
		real, err := r.ResolveLinks(blockClass + "/" + n)
		if err != nil || strings.HasPrefix(n, "loop") || strings.HasPrefix(n, "ram") || strings.HasPrefix(n, "zram") {
			continue
		}
		if !r.disks[n] {
			r.disks[n] = true
			add(blockClass+"/"+n, real)
			r.keep(real+"/dev", r.value(real+"/dev"))
		}
		if id := r.value(real + "/dm/uuid"); id != "" {
			kind, _, _ := strings.Cut(id, "-")
			r.keep(real+"/dm/uuid", kind+"-0")
			r.keep(real+"/dm/name", "volume-"+n)
		}
		if r.Exists(real + "/md") {
			r.raw = append(r.raw, dirFile(real+"/md"))
		}
		for _, sub := range []string{"holders", "slaves"} {
			others, _ := r.ListIfAny(real + "/" + sub)
			for _, o := range others {
				add(real+"/"+sub+"/"+o, blockClass+"/"+o)
			}
		}
	}
	interfaces, _ := r.ListIfAny(netClass)
	for _, n := range interfaces {
		real, err := r.ResolveLinks(netClass + "/" + n)
		if err != nil {
			continue
		}
		to := path.Join(path.Dir(real), r.iface(path.Base(real)))
		add(netClass+"/"+r.iface(n), to)
		r.raw = append(r.raw, dirFile(to))
		names, _ := r.ReadDir(netClass + "/" + n)
		for _, l := range names {
			other, err := r.LinkBase(netClass + "/" + n + "/" + l)
			if err != nil || other == "" {
				continue
			}
			switch {
			case l == "master":
				add(to+"/"+l, netClass+"/"+r.iface(other))
			case strings.HasPrefix(l, "upper_"), strings.HasPrefix(l, "lower_"):
				add(to+"/"+l[:len("upper_")]+r.iface(other), netClass+"/"+r.iface(other))
			}
		}
	}
	return lines
}

// iface is an interface's name, which may be made of its hardware address: enx0050b6123456.
func (r *recorder) iface(n string) string {
	const address = 12
	if len(n) == len("enx")+address && n[2] == 'x' && strings.Trim(n[3:], "0123456789abcdef") == "" {
		return n[:3] + strings.Repeat("0", address)
	}
	return r.scrub.text(n)
}

// commonMountPoint reports whether a mount point is one that many have.
func commonMountPoint(s string) bool {
	return slices.Contains([]string{
		"/", "/boot", "/boot/efi", "/efi", "/home", "/var", "/var/log", "/var/lib", "/var/lib/libvirt", "/usr", "/opt", "/srv", "/tmp", "/nix", "/nix/store", "/root",
	}, s) || strings.HasPrefix(s, "/dev/hugepages") || strings.HasPrefix(s, "/sys") || strings.HasPrefix(s, "/proc")
}

// mountTables writes what is mounted from disks, and where huge pages are. Mount points that others have not are numbered: people name
// them after themselves.
func (r *recorder) mountTables() {
	point := map[string]string{}
	at := func(p string) string {
		if commonMountPoint(p) {
			return p
		}
		if point[p] == "" {
			point[p] = fmt.Sprintf("/mnt/%d", len(point)+1)
		}
		return point[p]
	}
	var mounts, info []string
	for l := range strings.Lines(r.value("/proc/self/mounts")) {
		f := strings.Fields(l)
		if len(f) < 4 || !strings.HasPrefix(f[0], "/dev/") && !slices.Contains([]string{"hugetlbfs", "zfs", "btrfs", "cgroup2", "cgroup", "sysfs", "proc"}, f[2]) {
			continue
		}
		options := f[3]
		if f[2] != "hugetlbfs" {
			options, _, _ = strings.Cut(options, ",")
		}
		mounts = append(mounts, strings.Join([]string{r.source(f[0], f[2]), at(f[1]), f[2], options, "0 0"}, " "))
	}
	for l := range strings.Lines(r.value("/proc/self/mountinfo")) {
		before, after, ok := strings.Cut(strings.TrimSpace(l), " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(g) < 2 || !strings.HasPrefix(g[1], "/dev/") && !slices.Contains([]string{"hugetlbfs", "zfs", "btrfs", "cgroup2"}, g[0]) {
			continue
		}
		options, _, _ := strings.Cut(f[5], ",")
		info = append(info, fmt.Sprintf("%s %s %s / %s %s - %s %s %s", f[0], f[1], f[2], at(f[4]), options, g[0], r.source(g[1], g[0]), options))
	}
	r.keep("/proc/1/mounts", strings.Join(mounts, "\n"))
	r.keep("/proc/1/mountinfo", strings.Join(info, "\n"))
	var swaps []string
	for l := range strings.Lines(r.value("/proc/swaps")) {
		if f := strings.Fields(l); len(f) > 2 {
			if strings.HasPrefix(f[0], "/") && !strings.HasPrefix(f[0], "/dev/") {
				f[0] = "/swapfile"
			} else if strings.HasPrefix(f[0], "/") {
				f[0] = r.source(f[0], "")
			}
			swaps = append(swaps, strings.Join(f, "\t"))
		}
	}
	r.keep("/proc/swaps", strings.Join(swaps, "\n"))
}

// source is what is mounted: volumes and pools are people's to name, so the node with the kernel's own name takes their place.
func (r *recorder) source(s, kind string) string {
	switch {
	case kind == "zfs":
		return "pool"
	case !strings.HasPrefix(s, "/dev/"):
		return kind
	case strings.Count(s, "/") == 2:
		return r.scrub.text(s)
	}
	if real, err := r.ResolveLinks(s); err == nil && path.Dir(real) == "/dev" {
		return real
	}
	if st, err := r.Stat(s); err == nil {
		for n := range r.disks {
			if r.value(blockClass+"/"+n+"/dev") == devNumber(st.Rdev) {
				return "/dev/" + n
			}
		}
	}
	return "/dev/unknown"
}

// routes keeps which interfaces have a default route, and no address.
func (r *recorder) routes() {
	const none4, none6 = "00000000", "00000000000000000000000000000000"
	var four, six []string
	for l := range strings.Lines(r.value("/proc/net/route")) {
		f := strings.Fields(l)
		if len(f) > 7 && (f[0] == "Iface" || f[1] == none4 && f[7] == none4) {
			if f[0] != "Iface" {
				f[0], f[2] = r.iface(f[0]), none4
			}
			four = append(four, strings.Join(f, "\t"))
		}
	}
	for l := range strings.Lines(r.value("/proc/net/ipv6_route")) {
		f := strings.Fields(l)
		if len(f) > 9 && f[0] == none6 && f[1] == "00" && f[2] == none6 {
			f[4], f[9] = none6, r.iface(f[9])
			six = append(six, strings.Join(f, " "))
		}
	}
	r.keep("/proc/net/route", strings.Join(four, "\n"))
	r.keep("/proc/net/ipv6_route", strings.Join(six, "\n"))
}

// files adds what the program reads as it is.
func (r *recorder) files() {
	r.mountTables()
	r.routes()
	for _, name := range []string{
		"/proc/iomem", "/proc/driver/nvidia/params", "/proc/spl/kstat/zfs/arcstats",
		"/proc/sys/vm/swappiness", "/proc/sys/vm/dirty_ratio", "/proc/sys/vm/dirty_bytes", "/proc/sys/vm/dirty_background_ratio",
		"/proc/sys/vm/dirty_background_bytes", "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/overcommit_ratio", "/proc/sys/vm/overcommit_kbytes",
		"/proc/sys/vm/stat_interval", "/proc/sys/kernel/watchdog", "/sys/kernel/mm/transparent_hugepage/enabled",
		"/sys/kernel/mm/transparent_hugepage/defrag", "/sys/kernel/mm/ksm/run",
	} {
		r.file(name)
	}
	units, _ := r.ListIfAny("/sys/class/iommu")
	for _, name := range units {
		r.raw = append(r.raw, dirFile("/sys/class/iommu/"+name))
	}
	if len(units) == 0 && r.Exists("/sys/class/iommu") {
		r.raw = append(r.raw, dirFile("/sys/class/iommu"))
	}
	if v := r.value("/etc/passwd"); v != "" {
		r.add("/etc/passwd", r.scrub.passwd(v))
	}
	if v := r.value("/etc/group"); v != "" {
		r.add("/etc/group", r.scrub.group(v))
	}
	r.state("/run/systemd/seats/seat0", "ACTIVE", "ACTIVE_UID", "SESSIONS", "UIDS", "IS_SEAT0", "CAN_GRAPHICAL", "CAN_TTY")
	sessions, _ := r.Sessions()
	for _, s := range sessions {
		r.state("/run/systemd/sessions/"+s.ID, "UID", "USER", "ACTIVE", "STATE", "SEAT", "TYPE", "CLASS", "SCOPE", "SERVICE", "LEADER", "DEVICES", "VTNR", "DISPLAY", "DESKTOP")
		if r.Exists("/var/lib/systemd/linger/" + s.User) {
			r.keep("/var/lib/systemd/linger/"+r.scrub.text(s.User), "\n")
		}
	}
	// A display manager is known by its alias, and by the file that this leads to.
	if to, err := r.Readlink("/etc/systemd/system/display-manager.service"); err == nil && path.IsAbs(to) && r.Exists(to) {
		r.keep(to, "[Unit]")
	}
	for _, name := range []string{"/usr/lib/systemd/system", "/lib/systemd/system"} {
		for _, unit := range []string{"gdm.service", "sddm.service", "lightdm.service"} {
			if r.Exists(name + "/" + unit) {
				r.keep(name+"/"+unit, "[Unit]")
			}
		}
	}
}

// state keeps the named keys of one of systemd-logind's files.
func (r *recorder) state(name string, keys ...string) {
	var kept []string
	for l := range strings.Lines(r.value(name)) {
		key, _, _ := strings.Cut(strings.TrimSpace(l), "=")
		if slices.Contains(keys, key) {
			kept = append(kept, r.scrub.text(strings.TrimSpace(l)))
		}
	}
	if len(kept) > 0 {
		r.add(name, strings.Join(kept, "\n"))
	}
}
