package sysfstest

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"syscall"

	"qemu-hook/cpuset"
)

// kernel is what does not fit elsewhere: the running kernel and how the machine was set up. Never changed after Parse.
type kernel struct {
	release   string
	modules   string   // directory of its modules
	modprobe  string   // path of modprobe, for /proc/sys/kernel/modprobe
	programs  []string // what of the tree can be executed
	nvidiaSMI string   // path of nvidia-smi, "" if there is none
	vfioPM    bool     // vfio-pci has what it holds sleep when it is idle
	// dropsModeset are versions of NVIDIA's driver that have nvidia_drm let go of a single card; nil for what is known.
	dropsModeset []string
	cmdline      string
	bootID       string
	systemd      bool
	keepsCPUs    bool                  // cpuset.cpus cannot be emptied
	controllers  []string              // of the unified hierarchy; none if the host has only the old one
	allowed      map[string]cpuset.Set // AllowedCPUs of unit files
}

// atLeast compares the kernel's release.
func (k *kernel) atLeast(major, minor int) bool {
	var a, b int
	_, err := fmt.Sscanf(k.release, "%d.%d", &a, &b)
	return err == nil && (a > major || a == major && b >= minor)
}

// addKernel makes /proc and what else every host has.
func (h *Host) addKernel() {
	for _, d := range []string{"/dev/vfio", "/etc", "/lib", "/sys", "/tmp", "/run", "/var/lib", "/root"} {
		h.mkdir(d)
	}
	for _, d := range []string{"/tmp", "/dev/shm", "/var/tmp"} {
		h.inodes[h.mkdir(d)].mode = syscall.S_IFDIR | 0o1777
	}
	h.device("/dev/null", syscall.S_IFCHR, 1, 3, 0o666)
	if h.kernel.systemd {
		h.mkdir("/run/systemd/system")
	}
	k := &h.kernel
	h.value("/proc/cmdline", k.cmdline)
	h.value("/proc/sys/kernel/osrelease", k.release)
	h.value("/proc/sys/kernel/random/boot_id", k.bootID)
	h.text("/proc/sys/kernel/modprobe", 0o644, k.modprobe+"\n")
	// In the order of loading, which a module that was away changes; which there are stands in /sys/module.
	h.rule("/proc/modules", &attr{noise: true, show: (*Host).procModules})
	h.rule("/proc/devices", &attr{show: (*Host).procDevices})
	h.rule("/proc/meminfo", &attr{noise: true, show: func(h *Host) (string, error) { return h.meminfo(), nil }})
	h.rule("/proc/sys/vm/drop_caches", &attr{store: func(h *Host, v string) error {
		n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
		if err != nil || n < 1 || n > 4 {
			return syscall.EINVAL
		}
		for _, m := range h.nodes {
			m.dropCaches(n)
		}
		return nil
	}})
	h.rule("/proc/sys/vm/compact_memory", &attr{store: func(h *Host, v string) error {
		if strings.TrimSpace(v) != "1" {
			return syscall.EINVAL
		}
		for _, m := range h.nodes {
			m.compact()
		}
		return nil
	}})
}

// addMounts makes the mount tables; extra are lines as in /proc/mounts, from the host file.
func (h *Host) addMounts(extra []string) {
	lines := []string{
		"proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0",
		"sysfs /sys sysfs rw,nosuid,nodev,noexec,relatime 0 0",
		"devtmpfs /dev devtmpfs rw,nosuid,size=4096k,mode=755 0 0",
		"tmpfs /dev/shm tmpfs rw,nosuid,nodev 0 0",
		"tmpfs /run tmpfs rw,nosuid,nodev,mode=755 0 0",
	}
	if h.kernel.controllers != nil {
		lines = append(lines, "cgroup2 "+cgroupRoot+" cgroup2 rw,nosuid,nodev,noexec,relatime 0 0")
	}
	lines = append(lines, extra...)
	all := strings.Join(lines, "\n")
	var info strings.Builder
	info.WriteString("1 0 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n")
	for i, l := range lines {
		f := strings.Fields(l)
		fmt.Fprintf(&info, "%d 1 0:%d / %s %s shared:%d - %s %s rw\n", 22+i, 21+i, f[1], f[3], 2+i, f[2], f[0])
	}
	h.addProcess(process{pid: 1, comm: "systemd", cmdline: []string{"/sbin/init"}, cgroup: "/init.scope"})
	h.link("/proc/self", "/proc/1")
	h.link("/proc/mounts", "/proc/1/mounts")
	h.value("/proc/1/mounts", all)
	h.value("/proc/1/mountinfo", strings.TrimSuffix(info.String(), "\n"))
}

// process is what the model knows of a process.
type process struct {
	pid, uid int
	start    uint64 // clock ticks since boot; 0 goes by pid
	comm     string
	cmdline  []string
	cgroup   string
	fds      []heldFile
	left     []heldFile // what it opens when it is there again
	letsGo   bool       // closes sound nodes when their card goes
	stubborn bool       // does not end by SIGTERM
	affinity cpuset.Set // where it may run; off line or not
	kthread  bool       // a thread of the kernel's
	bound    bool       // PF_NO_SETAFFINITY
}

func (h *Host) addProcess(p process) {
	h.resolve(&p)
	if p.affinity.Empty() {
		p.affinity = h.cpus.possible
	}
	h.processes[p.pid] = p
	if p.kthread && h.processes[kthreadd].pid == 0 {
		h.addProcess(process{pid: kthreadd, comm: "kthreadd", cgroup: "/", kthread: true})
	}
	dir := fmt.Sprintf("/proc/%d/", p.pid)
	h.value(dir+"comm", p.comm)
	cmdline := strings.Join(p.cmdline, "\x00") + "\x00"
	if p.kthread {
		cmdline = ""
	}
	h.text(dir+"cmdline", 0o444, cmdline)
	h.value(dir+"cgroup", "0::"+p.cgroup)
	h.text(dir+"stat", 0o444, p.stat())
	pid := p.pid
	h.rule(dir+"status", &attr{show: func(h *Host) (string, error) { return h.status(h.processes[pid]), nil }})
	if pid == kthreadd {
		h.rule(dir+"task/2/children", &attr{show: (*Host).kernelThreads})
	}
	h.rule(dir+"maps", &attr{noise: true, show: func(h *Host) (string, error) { return h.mapsText(pid), nil }})
	h.showFiles(p)
	h.reopen()
	h.stir()
}

// A Process is a process of the host, for [Host.AddProcess].
type Process struct {
	PID, UID int
	Start    uint64 // clock ticks since boot; 0 goes by PID
	Comm     string
	Cmdline  []string
	Cgroup   string   // "/system.slice/x.service"
	Open     []string // paths it holds open
	Maps     []string // device nodes it has mapped
	LetsGo   bool     // closes sound nodes when their card goes, opens them again when it comes
	Stubborn bool     // does not end by SIGTERM
	KThread  bool     // a thread of the kernel's
	Bound    bool     // to its CPUs, PF_NO_SETAFFINITY
	Affinity cpuset.Set
}

// AddProcess makes a minimal /proc/PID.
func (h *Host) AddProcess(p Process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.addProcess(process{
		pid: p.PID, uid: p.UID, start: p.Start, comm: p.Comm, cmdline: p.Cmdline, cgroup: p.Cgroup,
		fds: append(heldFiles(p.Open), mappings(p.Maps)...), letsGo: p.LetsGo, stubborn: p.Stubborn,
		kthread: p.KThread, bound: p.Bound, affinity: p.Affinity,
	})
}

// RemoveProcess ends a process: its /proc/PID goes, and what it has open is closed.
func (h *Host) RemoveProcess(pid int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.endProcess(pid)
}

// SetFile gives a file a content, whatever stood there; a name that does not exist is made, with mode 0644.
func (h *Host) SetFile(name, content string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, err := h.walk(name, true)
	if err != nil {
		h.text(name, 0o644, content)
		return
	}
	i := &h.inodes[n]
	i.data, i.size, i.attr = content, 0, nil
}

// SetOwner sets owner, group and the permission bits of a file.
func (h *Host) SetOwner(name string, uid, gid int, mode uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := &h.inodes[h.find(name)]
	i.uid, i.gid, i.mode = uid, gid, i.typ()|mode
}

// SetSize makes a plain file that long.
func (h *Host) SetSize(name string, size int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = h.truncate(h.find(name), size)
}

// SetLink makes a symbolic link with exactly that target.
func (h *Host) SetLink(name, target string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.put(name, inode{mode: syscall.S_IFLNK | 0o777, data: target})
}

// SetNode makes a file of any type: mode holds type and permission bits as in st_mode.
func (h *Host) SetNode(name string, mode, major, minor uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.put(name, inode{mode: mode, rdev: mkdev(major, minor)})
}

// HardLink gives a file a second name.
func (h *Host) HardLink(old, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.find(old)
	h.enter(h.mkdir(path.Dir(name)), path.Base(name), n)
	h.inodes[n].nlink++
}

// Remove takes a file out of the tree, with all below it.
func (h *Host) Remove(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if pid, err := strconv.Atoi(strings.TrimPrefix(name, "/proc/")); err == nil {
		h.endProcess(pid)
		return
	}
	h.erase(name)
}

// FailProbe makes every attempt of a driver to take a function fail with the error; 0 ends that.
func (h *Host) FailProbe(addr, driver string, err syscall.Errno) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == 0 {
		delete(h.probeErr, addr+" "+driver)
		return
	}
	h.probeErr[addr+" "+driver] = err
}

// KeepCPUs makes the kernel one of those that refuse to empty cpuset.cpus of a cgroup that has tasks, as 6.1 does.
func (h *Host) KeepCPUs() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kernel.keepsCPUs = true
}

// LoadModule loads a module with all it needs, as another program's modprobe does; UnloadModule is modprobe -r.
func (h *Host) LoadModule(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.load(moduleName(name))
}

// UnloadModule unloads a module and what only it needed.
func (h *Host) UnloadModule(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.unload(moduleName(name))
}

// UseModule adds to the references that a module has from other than modules, such as open devices.
func (h *Host) UseModule(name string, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.modules[moduleName(name)].used += n
}
