package sysfstest_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/sysfs/sysfstest/fusetest"
)

// door is one way to a host.
type door struct {
	name string
	open func(t *testing.T, h *sysfstest.Host) sysfs.FS
}

func doors() []door {
	return []door{
		{"in process", func(_ *testing.T, h *sysfstest.Host) sysfs.FS { return h.FS() }},
		{"fuse", func(t *testing.T, h *sysfstest.Host) sysfs.FS { return fusetest.Open(t, h) }},
	}
}

const (
	gpu   = "0000:08:00.0"
	audio = "0000:08:00.1"
	usb   = "0000:09:00.0"
	pool2 = "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/"
	gpuIn = "/sys/bus/pci/devices/" + gpu + "/"
)

// step is one thing a program does or sees: a write, a read, a program that runs, or something that happens beside it.
type step struct {
	write, value string        // the file that is written and with what
	errno        syscall.Errno // what the write or the read gives
	read, want   string        // the file that is read, and its value as sysfs.FS.Read has it
	link, to     string        // the link that is read, and the last element of its target
	gone         string        // a name that must not exist
	there        string        // a name that must exist
	run          string        // arguments of modprobe
	fails        bool          // the program fails
	do           func(h *sysfstest.Host) error
}

// rule is a table of steps on a host.
type rule struct {
	name, host string
	steps      []step
}

func write(file, value string) step { return step{write: file, value: value} }
func read(file, want string) step   { return step{read: file, want: want} }
func link(file, to string) step     { return step{link: file, to: to} }
func refused(file, value string, e syscall.Errno) step {
	return step{write: file, value: value, errno: e}
}

func driverFile(driver, file string) string { return "/sys/bus/pci/drivers/" + driver + "/" + file }

func pciRules() []rule {
	return []rule{
		{"driver_override", "fern", []step{
			read(gpuIn+"driver_override", ""), // "(null)"
			write(gpuIn+"driver_override", "vfio-pci"),
			read(gpuIn+"driver_override", "vfio-pci"),
			write(gpuIn+"driver_override", "x\ny"),
			read(gpuIn+"driver_override", "x"),
			write(gpuIn+"driver_override", ""), // sysfs.FS writes a newline
			read(gpuIn+"driver_override", ""),
			refused(gpuIn+"driver_override", strings.Repeat("x", 4095), syscall.EINVAL),
			link(gpuIn+"driver", "nvidia"), // nothing moves by itself
		}},
		{"from nvidia to vfio-pci and back", "fern", []step{
			write(gpuIn+"driver_override", "vfio-pci"),
			write(gpuIn+"driver/unbind", gpu),
			{gone: gpuIn + "driver"},
			{gone: driverFile("nvidia", gpu)},
			write("/sys/bus/pci/drivers_probe", gpu+"\n"),
			link(gpuIn+"driver", "vfio-pci"),
			{there: driverFile("vfio-pci", gpu)},
			{there: "/dev/vfio/18"},
			{there: gpuIn + "vfio-dev/vfio0"},
			write(gpuIn+"driver_override", ""),
			write(gpuIn+"driver/unbind", gpu),
			{gone: "/dev/vfio/18"},
			{gone: gpuIn + "vfio-dev"},
			write("/sys/bus/pci/drivers_probe", gpu),
			link(gpuIn+"driver", "nvidia"),
		}},
		{"a group's node stays as long as one function needs it", "fern", []step{
			write(gpuIn+"driver_override", "vfio-pci"),
			write("/sys/bus/pci/devices/"+audio+"/driver_override", "vfio-pci"),
			write(driverFile("nvidia", "unbind"), gpu),
			write(driverFile("snd_hda_intel", "unbind"), audio),
			write(driverFile("vfio-pci", "bind"), gpu),
			write(driverFile("vfio-pci", "bind"), audio),
			{there: "/sys/bus/pci/devices/" + audio + "/vfio-dev/vfio1"},
			write(driverFile("vfio-pci", "unbind"), gpu),
			{there: "/dev/vfio/18"},
			write(driverFile("vfio-pci", "unbind"), audio),
			{gone: "/dev/vfio/18"},
		}},
		{"bind and unbind refuse", "fern", []step{
			refused(driverFile("vfio-pci", "unbind"), gpu, syscall.ENODEV), // bound to another
			refused(driverFile("nvidia", "unbind"), "0000:77:00.0", syscall.ENODEV),
			refused(driverFile("vfio-pci", "bind"), gpu, syscall.ENODEV), // does not match
			write(gpuIn+"driver_override", "vfio-pci"),
			refused(driverFile("vfio-pci", "bind"), gpu, syscall.EBUSY), // still bound
			write(driverFile("nvidia", "unbind"), gpu),
			refused(driverFile("nvidia", "bind"), gpu, syscall.ENODEV), // the override says no
			refused("/sys/bus/pci/drivers_probe", "0000:77:00.0", syscall.ENODEV),
			{read: driverFile("nvidia", "bind"), errno: syscall.EACCES},
			refused(gpuIn+"class", "0x030000", syscall.EACCES),
			refused(gpuIn+"driver_overide", "vfio-pci", syscall.ENOENT),
			refused(gpuIn, "x", syscall.EISDIR),
			refused(gpuIn+"class/x", "x", syscall.ENOTDIR),
		}},
		{"drivers_probe succeeds though nothing binds", "fern", []step{
			write(gpuIn+"driver_override", "none"),
			write(driverFile("nvidia", "unbind"), gpu),
			write("/sys/bus/pci/drivers_probe", gpu),
			{gone: gpuIn + "driver"},
			write("/sys/bus/pci/drivers_probe", usb), // bound already
			link("/sys/bus/pci/devices/"+usb+"/driver", "xhci_hcd"),
		}},
		{"a probe that fails", "fern", []step{
			{do: func(h *sysfstest.Host) error { h.FailProbe(gpu, "vfio-pci", syscall.ENOTTY); return nil }},
			write(gpuIn+"driver_override", "vfio-pci"),
			write(driverFile("nvidia", "unbind"), gpu),
			write("/sys/bus/pci/drivers_probe", gpu),
			{gone: gpuIn + "driver"},
			refused(driverFile("vfio-pci", "bind"), gpu, syscall.ENOTTY),
		}},
		{"new_id takes every function of that id", "server", []step{
			write(driverFile("nouveau", "unbind"), "0000:81:00.0"),
			write(driverFile("nouveau", "unbind"), "0000:41:00.0"),
			write(driverFile("vfio-pci", "new_id"), "10de 1b06"),
			link("/sys/bus/pci/devices/0000:41:00.0/driver", "vfio-pci"),
			link("/sys/bus/pci/devices/0000:81:00.0/driver", "vfio-pci"),
			refused(driverFile("vfio-pci", "new_id"), "10de 1b06", syscall.EEXIST),
			refused(driverFile("vfio-pci", "new_id"), "10de", syscall.EINVAL),
			write(driverFile("vfio-pci", "remove_id"), "10de 1b06"),
			refused(driverFile("vfio-pci", "remove_id"), "10de 1b06", syscall.ENODEV),
		}},
		{"vfio-pci takes no bridge and nothing without a group", "no-iommu", []step{
			write("/sys/bus/pci/devices/0000:01:00.0/driver_override", "vfio-pci"),
			write(driverFile("nvidia", "unbind"), "0000:01:00.0"),
			refused(driverFile("vfio-pci", "bind"), "0000:01:00.0", syscall.EINVAL),
			write("/sys/bus/pci/drivers_probe", "0000:01:00.0"),
			{gone: "/sys/bus/pci/devices/0000:01:00.0/driver"},
			{gone: "/sys/bus/pci/devices/0000:01:00.0/iommu_group"},
		}},
		{"power", "fern", []step{
			read("/sys/bus/pci/devices/"+audio+"/power/runtime_status", "suspended"),
			write("/sys/bus/pci/devices/"+audio+"/power/control", "on"),
			read("/sys/bus/pci/devices/"+audio+"/power/runtime_status", "active"),
			refused("/sys/bus/pci/devices/"+audio+"/power/control", "off", syscall.EINVAL),
			write(gpuIn+"d3cold_allowed", "0"),
			read(gpuIn+"d3cold_allowed", "0"),
			refused(gpuIn+"reset", "0", syscall.EINVAL),
			write(gpuIn+"reset", "1"),
		}},
	}
}

func moduleRules() []rule {
	const dev = "/sys/bus/pci/devices/0000:03:00.0/"
	return []rule{
		{"modprobe brings the driver and what it needs", "sparse", []step{
			{gone: driverFile("vfio-pci", "bind")},
			write(dev+"driver_override", "vfio-pci"),
			{run: "vfio-pci"},
			{there: driverFile("vfio-pci", "module")},
			{there: "/sys/module/vfio_pci_core/holders/vfio_pci"},
			{there: "/sys/module/vfio_pci/drivers/pci:vfio-pci"},
			read("/sys/module/vfio/refcnt", "1"),
			link(dev+"driver", "vfio-pci"), // the new driver is offered what is free
			{there: "/dev/vfio/30"},
			{run: "-r vfio_pci"},
			{gone: dev + "driver"},
			{gone: "/dev/vfio/30"},
			{gone: "/sys/module/vfio"},
		}},
		{"drivers_autoprobe off", "sparse", []step{
			write("/sys/bus/pci/drivers_autoprobe", "0"),
			write(dev+"driver_override", "vfio-pci"),
			{run: "vfio_pci"},
			{gone: dev + "driver"},
			write("/sys/bus/pci/drivers_probe", "0000:03:00.0"),
			link(dev+"driver", "vfio-pci"),
		}},
		{"modprobe fails", "fern", []step{
			{run: "nosuch", fails: true},
			{run: "-r nvidia", fails: true}, // held by nvidia_modeset
			{do: func(h *sysfstest.Host) error { h.UseModule("nvidia_drm", 1); return nil }},
			{run: "-r nvidia_drm", fails: true},
			{do: func(h *sysfstest.Host) error { h.UseModule("nvidia_drm", -1); return nil }},
			{run: "-r nvidia_drm"},
			{gone: "/sys/module/nvidia"}, // nobody else needed it
			{gone: gpuIn + "driver"},
			{run: "-a nvidia"},
			link(gpuIn+"driver", "nvidia"),
		}},
		{"the kernel was upgraded", "sparse", []step{
			{do: func(h *sysfstest.Host) error { h.Remove("/usr/lib/modules/6.8.0-45-generic"); return nil }},
			{run: "vfio-pci", fails: true},
			{run: "snd-hda-intel"}, // loaded already
		}},
		{"modules by alias", "fern", []step{
			{run: "-r nvidia_drm"},
			{run: "pci:v000010DEd00002782sv00001462sd00005136bc03sc00i00"},
			{there: "/sys/module/nvidia/refcnt"},
		}},
	}
}

func hugetlbRules() []rule {
	const global = "/sys/kernel/mm/hugepages/hugepages-2048kB/"
	use := func(n int64) step {
		return step{do: func(h *sysfstest.Host) error { return h.UsePages(2048, 0, n) }}
	}
	return []rule{
		{"grow and shrink", "fern", []step{
			write(pool2+"nr_hugepages", "100"),
			read(pool2+"free_hugepages", "100"),
			read(global+"nr_hugepages", "100"),
			read("/proc/sys/vm/nr_hugepages", "100"),
			write(global+"nr_hugepages", "0\n"),
			read(pool2+"nr_hugepages", "0"),
			refused(pool2+"nr_hugepages", "x", syscall.EINVAL),
			refused(pool2+"nr_hugepages", "-1", syscall.EINVAL),
			refused(pool2+"nr_hugepages", "1 2", syscall.EINVAL),
			refused(pool2+"nr_hugepages", "99999999999999999999", syscall.ERANGE),
			refused(pool2+"free_hugepages", "1", syscall.EACCES),
		}},
		{"pages in use become surplus and go when they are given back", "fern", []step{
			write(pool2+"nr_hugepages", "100"),
			use(60),
			write(pool2+"nr_hugepages", "50"),
			read(pool2+"nr_hugepages", "60"),
			read(pool2+"surplus_hugepages", "10"),
			read(pool2+"free_hugepages", "0"),
			use(-60),
			read(pool2+"nr_hugepages", "50"),
			read(pool2+"surplus_hugepages", "0"),
			read(pool2+"free_hugepages", "50"),
		}},
		{"surplus pages become persistent first", "fern", []step{
			write(pool2+"nr_hugepages", "20"),
			use(20),
			write(pool2+"nr_hugepages", "0"),
			read(pool2+"surplus_hugepages", "20"),
			write(pool2+"nr_hugepages", "25"),
			read(pool2+"surplus_hugepages", "0"),
			read(pool2+"nr_hugepages", "25"),
			read(pool2+"free_hugepages", "5"),
		}},
		{"reserved pages are not freed", "fern", []step{
			write(pool2+"nr_hugepages", "10"),
			{do: func(h *sysfstest.Host) error { return h.Reserve(2048, 4) }},
			read(global+"resv_hugepages", "4"),
			write(pool2+"nr_hugepages", "0"),
			read(pool2+"nr_hugepages", "4"),
			read(pool2+"surplus_hugepages", "4"),
		}},
		{"overcommit", "fern", []step{
			write(global+"nr_overcommit_hugepages", "3"),
			use(3),
			read(pool2+"surplus_hugepages", "3"),
			use(-3),
			read(pool2+"nr_hugepages", "0"),
		}},
		{"a signal ends an allocation early", "fern", []step{
			{do: func(h *sysfstest.Host) error { h.InterruptAllocation(); return nil }},
			write(pool2+"nr_hugepages", "1000"),
			read(pool2+"nr_hugepages", "500"),
			write(pool2+"nr_hugepages", "1000"),
			read(pool2+"nr_hugepages", "1000"),
		}},
		{"the global file spreads over the nodes", "server", []step{
			write(global+"nr_hugepages", "356"),
			read(pool2+"nr_hugepages", "178"),
			read("/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages", "178"),
		}},
		{"1 GiB pages are scarce", "server", []step{
			write("/sys/devices/system/node/node0/hugepages/hugepages-1048576kB/nr_hugepages", "40"),
			read("/sys/devices/system/node/node0/hugepages/hugepages-1048576kB/nr_hugepages", "26"),
			write("/sys/devices/system/node/node0/hugepages/hugepages-1048576kB/nr_hugepages", "24"),
			read("/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "48"),
		}},
		{"a node without memory for it has no pool", "sparse", []step{
			{there: "/sys/devices/system/node/node5/hugepages/hugepages-2048kB"},
			{gone: "/sys/devices/system/node/node1"},
			write("/sys/devices/system/node/node2/compact", "1"),
			refused("/proc/sys/vm/compact_memory", "2", syscall.EINVAL),
			refused("/proc/sys/vm/drop_caches", "0", syscall.EINVAL),
			{read: "/proc/sys/vm/drop_caches", errno: syscall.EACCES},
			{read: "/sys/devices/system/node/node2/compact", errno: syscall.EACCES},
		}},
	}
}

func cpuRules() []rule {
	const slice = "/sys/fs/cgroup/system.slice/"
	return []rule{
		{"cpuset.cpus", "desktop-four", []step{
			read(slice+"cpuset.cpus", ""),
			read(slice+"cpuset.cpus.effective", "0-15"),
			write(slice+"cpuset.cpus", "0-3,8-11\n"),
			read(slice+"cpuset.cpus", "0-3,8-11"),
			read(slice+"cpuset.cpus.effective", "0-3,8-11"),
			refused(slice+"cpuset.cpus", "x", syscall.EINVAL),
			refused(slice+"cpuset.cpus", "0-99", syscall.ERANGE),
			refused(slice+"cpuset.cpus.effective", "0", syscall.EINVAL),
			write(slice+"cpuset.cpus", ""),
			read(slice+"cpuset.cpus.effective", "0-15"),
		}},
		{"off line", "sparse", []step{
			{gone: slice + "cpuset.cpus"},
			write("/sys/fs/cgroup/cgroup.subtree_control", "+cpuset"),
			write(slice+"cpuset.cpus", "4-7"),
			read(slice+"cpuset.cpus", "4-7"),
			read(slice+"cpuset.cpus.effective", "4-5"),
			{gone: "/sys/devices/system/cpu/cpu7/topology"},
			write("/sys/devices/system/cpu/cpu7/online", "1"),
			read(slice+"cpuset.cpus.effective", "4-5,7"),
			read("/sys/devices/system/cpu/cpu7/topology/thread_siblings_list", "3,7"),
			read("/sys/devices/system/node/node0/cpulist", "0-5,7"),
			read("/sys/devices/system/cpu/offline", "6,8-15,24-31"),
			{gone: "/sys/devices/system/cpu/cpu0/online"},
			refused("/sys/devices/system/cpu/cpu7/online", "2", syscall.EINVAL),
			write(slice+"cpuset.cpus", "6"), // none of them runs: all of the parent's
			read(slice+"cpuset.cpus.effective", "0-5,7,16-23"),
			refused("/sys/fs/cgroup/cgroup.subtree_control", "+nosuch", syscall.EINVAL),
			write("/sys/fs/cgroup/cgroup.subtree_control", "-cpuset"),
			{gone: slice + "cpuset.cpus"},
		}},
		{"a child gets of its parent's what it asks for", "fern", []step{
			write("/sys/fs/cgroup/system.slice/cgroup.subtree_control", "+cpuset"),
			write(slice+"cpuset.cpus", "0-7"),
			write(slice+"libvirtd.service/cpuset.cpus", "6-9"),
			read(slice+"libvirtd.service/cpuset.cpus.effective", "6-7"),
			refused("/sys/fs/cgroup/cgroup.subtree_control", "-cpuset", syscall.EBUSY),
		}},
	}
}

// TestRules goes through every rule by both doors.
func TestRules(t *testing.T) {
	var all []rule
	for _, r := range [][]rule{
		pciRules(), moduleRules(), hugetlbRules(), cpuRules(), nodeRules(), useRules(), powerRules(), consoleRules(),
		irqRules(), workRules(), frequencyRules(), tunableRules(),
	} {
		all = append(all, r...)
	}
	hosts := map[string]*sysfstest.Host{}
	for _, r := range all {
		if hosts[r.host] == nil {
			hosts[r.host] = load(t, r.host)
		}
	}
	for _, d := range doors() {
		for _, r := range all {
			t.Run(d.name+"/"+r.name, func(t *testing.T) {
				h := hosts[r.host].Clone()
				fs := d.open(t, h)
				for i, s := range r.steps {
					s.check(t, i+1, h, fs)
				}
			})
		}
	}
}

func (s *step) check(t *testing.T, i int, h *sysfstest.Host, fs sysfs.FS) {
	t.Helper()
	switch {
	case s.write != "":
		if err := fs.Write(s.write, s.value); !is(err, s.errno) {
			t.Errorf("step %d: write %q to %s: error %v, want %v", i, s.value, s.write, err, s.errno)
		}
	case s.read != "":
		v, err := fs.Read(s.read)
		if !is(err, s.errno) || v != s.want {
			t.Errorf("step %d: %s is %q, error %v; want %q, %v", i, s.read, v, err, s.want, s.errno)
		}
	case s.link != "":
		v, err := fs.LinkBase(s.link)
		if err != nil || v != s.to {
			t.Errorf("step %d: %s leads to %q, error %v; want %q", i, s.link, v, err, s.to)
		}
	case s.gone != "":
		if fs.Exists(s.gone) {
			t.Errorf("step %d: %s exists", i, s.gone)
		}
	case s.there != "":
		if !fs.Exists(s.there) {
			t.Errorf("step %d: %s does not exist", i, s.there)
		}
	case s.run != "":
		modprobe, err := fs.Read("/proc/sys/kernel/modprobe")
		if err != nil {
			t.Fatal(err)
		}
		if err := fs.Run(t.Context(), modprobe, strings.Fields(s.run)...); (err != nil) != s.fails {
			t.Errorf("step %d: modprobe %s: error %v, want one: %t", i, s.run, err, s.fails)
		}
	default:
		if err := s.do(h); err != nil {
			t.Errorf("step %d: %v", i, err)
		}
	}
}

// is reports whether the error is the one that is wanted, 0 meaning none.
func is(err error, want syscall.Errno) bool {
	if want == 0 {
		return err == nil
	}
	return errors.Is(err, want)
}
