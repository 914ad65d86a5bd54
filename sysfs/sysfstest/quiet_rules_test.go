package sysfstest_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"qemu-hook/cpuset"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/systemd"
)

const (
	defaultIRQ = "/proc/irq/default_smp_affinity"
	workqueue  = "/sys/devices/virtual/workqueue/"
	watchdog   = "/proc/sys/kernel/watchdog_cpumask"
	vmDir      = "/proc/sys/vm/"
)

func irqFile(n int, file string) string { return "/proc/irq/" + strconv.Itoa(n) + "/" + file }

func cpuFile(n int, file string) string {
	return fmt.Sprintf("/sys/devices/system/cpu/cpu%d/%s", n, file)
}

func policyFile(n int, file string) string {
	return fmt.Sprintf("/sys/devices/system/cpu/cpufreq/policy%d/%s", n, file)
}

// somebody is a step of somebody else's.
func somebody(f func(h *sysfstest.Host)) step {
	return step{do: func(h *sysfstest.Host) error {
		f(h)
		return nil
	}}
}

func online(cpu int, on bool) step {
	return somebody(func(h *sysfstest.Host) { h.HotplugCPU(cpu, on) })
}

func irqRules() []rule {
	list := func(n int) string { return irqFile(n, "smp_affinity_list") }
	return []rule{
		{"an interrupt's affinity", "fern", []step{
			read(list(125), "0-19"),
			read(irqFile(125, "smp_affinity"), "fffff"),
			read(irqFile(125, "node"), "-1"),
			read(irqFile(125, "effective_affinity_list"), "0"),
			{there: irqFile(125, "xhci_hcd")},
			{there: irqFile(124, "ahci[0000:00:17.0]")},
			write(list(125), "3-4\n"),
			read(list(125), "3-4"),
			read(irqFile(125, "smp_affinity"), "00018"),
			read(irqFile(125, "effective_affinity_list"), "3"),
			write(irqFile(125, "smp_affinity"), "10"),
			read(list(125), "4"),
			refused(list(125), "x", syscall.EINVAL),
			refused(list(125), "", syscall.EINVAL),
			refused(list(125), "0-20", syscall.ERANGE),
			refused(irqFile(125, "smp_affinity"), "x", syscall.EINVAL),
			refused(irqFile(125, "smp_affinity"), "0x3", syscall.EINVAL),
			refused(irqFile(125, "smp_affinity"), "", syscall.EINVAL),
			refused(irqFile(125, "smp_affinity"), "0", syscall.EINVAL),
			refused(irqFile(125, "smp_affinity"), "100000", syscall.EOVERFLOW),
			refused(irqFile(125, "smp_affinity"), "00000000,00000003", syscall.EOVERFLOW),
			online(4, false), // an interrupt that can only go there is on no CPU's way
			refused(list(125), "4", syscall.EINVAL),
			write(list(125), "4-5"),
			read(list(125), "4-5"),
		}},
		{"a mask in groups", "server", []step{
			read(irqFile(1, "smp_affinity"), "ffffffff,ffffffff"),
			write(irqFile(1, "smp_affinity"), "1,00000001"),
			read(irqFile(1, "smp_affinity"), "00000001,00000001"),
			read(irqFile(1, "smp_affinity_list"), "0,32"),
			refused(irqFile(1, "smp_affinity"), "1,00000000,00000000", syscall.EOVERFLOW),
		}},
		{"managed and per-CPU interrupts stay", "fern", []step{ // Linux 6.12
			refused(list(130), "0", syscall.EPERM),
			refused(list(130), "x", syscall.EPERM),
			refused(irqFile(0, "smp_affinity"), "1", syscall.EPERM),
			read(list(130), "2"),
			{do: func(h *sysfstest.Host) error { return mode(h, list(130), 0o444) }},
			{do: func(h *sysfstest.Host) error { return mode(h, list(125), 0o644) }},
		}},
		{"and older kernels say EIO", "desktop-four", []step{
			refused(list(126), "0", syscall.EIO),
			refused(list(0), "0", syscall.EIO),
			{do: func(h *sysfstest.Host) error { return mode(h, list(126), 0o644) }},
		}},
		{"the default for new interrupts", "fern", []step{
			read(defaultIRQ, "fffff"),
			refused(defaultIRQ, "x", syscall.EINVAL),
			refused(defaultIRQ, "0", syscall.EINVAL),
			refused(defaultIRQ, "100000", syscall.EOVERFLOW),
			write(defaultIRQ, "f"),
			read(defaultIRQ, "0000f"),
			read(list(125), "0-19"), // only for new ones
			somebody(func(h *sysfstest.Host) { h.AddIRQ(200, -1, "vfio-msix[0]("+gpu+")") }),
			read(list(200), "0-3"),
			{there: irqFile(200, "vfio-msix[0]("+gpu+")")},
			{there: gpuIn + "msi_irqs/200"},
			somebody(func(h *sysfstest.Host) { h.SetIRQ(200, cpuset.Of(7)) }),
			read(list(200), "7"),
			somebody(func(h *sysfstest.Host) { h.RemoveIRQ(200) }),
			{gone: "/proc/irq/200"},
			{gone: gpuIn + "msi_irqs/200"},
			online(0, false), online(1, false), online(2, false), online(3, false),
			somebody(func(h *sysfstest.Host) { h.AddIRQ(200, -1, "late") }),
			read(list(200), "4-19"), // nobody of the default runs
			refused(defaultIRQ, "f", syscall.EINVAL),
		}},
		{"a driver's interrupts", "fern", []step{
			write(list(156), "8-9"),
			write(defaultIRQ, "10fff"),
			write(gpuIn+"driver_override", "vfio-pci"),
			write(gpuIn+"driver/unbind", gpu),
			{gone: "/proc/irq/156"},
			{gone: gpuIn + "msi_irqs"},
			write("/sys/bus/pci/drivers_probe", gpu),
			{gone: "/proc/irq/156"}, // vfio has none until a guest enables them
			write(gpuIn+"driver_override", ""),
			write(gpuIn+"driver/unbind", gpu),
			write("/sys/bus/pci/drivers_probe", gpu),
			{there: irqFile(156, "nvidia")},
			{there: gpuIn + "msi_irqs/156"},
			read(list(156), "0-11,16"),
		}},
		{"a node's interrupts", "server", []step{
			read(list(80), "16-31,48-63"),
			read(irqFile(80, "node"), "1"),
			write(defaultIRQ, "0,0000ffff"), // none of the node's
			write("/sys/bus/pci/drivers/nouveau/unbind", "0000:41:00.0"),
			write("/sys/bus/pci/drivers/nouveau/bind", "0000:41:00.0"),
			read(list(80), "0-15"),
			write(defaultIRQ, "f0000000,f000ffff"),
			write("/sys/bus/pci/drivers/nouveau/unbind", "0000:41:00.0"),
			write("/sys/bus/pci/drivers/nouveau/bind", "0000:41:00.0"),
			read(list(80), "28-31,60-63"),
		}},
		{"an interrupt leaves a CPU that goes off line", "fern", []step{
			write(list(125), "4-5"),
			online(5, false),
			read(list(125), "4-5"),
			read(list(150), "0-4,6-19"), // it had nowhere else to go
			read(list(133), "5"),        // managed: shut down meanwhile
			online(5, true),
			read(list(150), "0-4,6-19"),
			online(4, false),
			read(list(125), "4-5"),
			somebody(func(h *sysfstest.Host) { h.SetIRQ(7, cpuset.Of(6)) }),
			online(6, false),
			read(list(7), "6"), // nobody handles it
		}},
	}
}

// mode reports a file whose permission bits are others.
func mode(h *sysfstest.Host, name string, want uint32) error {
	if st, err := h.FS().Stat(name); err != nil || st.Perm() != want {
		return fmt.Errorf("%s has mode %o, error %w", name, st.Perm(), err)
	}
	return nil
}

func workRules() []rule {
	const writeback = workqueue + "writeback/cpumask"
	return []rule{
		{"workqueues", "fern", []step{
			read(workqueue+"cpumask", "fffff"),
			write(workqueue+"cpumask", "f"),
			read(workqueue+"cpumask", "0000f"),
			refused(workqueue+"cpumask", "0", syscall.EINVAL),
			refused(workqueue+"cpumask", "x", syscall.EINVAL),
			refused(workqueue+"cpumask", "", syscall.EINVAL),
			refused(workqueue+"cpumask", "100000", syscall.EOVERFLOW),
			online(3, false),
			write(workqueue+"cpumask", "8"), // off line or not
			read(workqueue+"cpumask", "00008"),
			link("/sys/bus/workqueue/devices/writeback", "writeback"),
			read(writeback, "fffff"),
			write("/sys/bus/workqueue/devices/writeback/cpumask", "1000f"),
			read(writeback, "1000f"),
			refused(writeback, "x", syscall.EINVAL),
			refused(writeback, "1fffff", syscall.EOVERFLOW),
			write(writeback, "0"), // as the other file says
			read(writeback, "00000"),
		}},
		{"lockup detector", "fern", []step{
			read(watchdog, "0-19"),
			write(watchdog, "0-3,16"),
			read(watchdog, "0-3,16"),
			refused(watchdog, "x", syscall.EINVAL),
			write(watchdog, "2-70"),
			read(watchdog, "2-19"),
			write(watchdog, ""),
			read(watchdog, ""),
		}},
		{"threads go where they still can", "fern", []step{
			status(54, "PPid", "2"), status(54, "Cpus_allowed_list", "5"), status(2, "PPid", "0"), status(812, "PPid", "1"),
			moves(59, "5-6", 0),
			moves(54, "0", syscall.EINVAL),  // bound
			moves(59, "", syscall.EINVAL),   // nowhere
			moves(59, "20", syscall.EINVAL), // no such CPU
			moves(4711, "0", syscall.ESRCH), // no such thread
			moves(1490, "3-4,19", 0),        // a program's
			runs(59, "5-6"), runs(54, "5"),
			online(6, false),
			runs(59, "5"), status(59, "Cpus_allowed_list", "5-6"),
			moves(59, "6", syscall.EINVAL),
			online(5, false),
			status(59, "Cpus_allowed_list", "0-19"), runs(59, "0-4,7-19"),
			status(54, "Cpus_allowed_list", "5"), // it waits
			online(5, true),
			status(59, "Cpus_allowed_list", "0-19"),
		}},
		{"a program stays in its control group's CPUs", "desktop-four", []step{
			somebody(func(h *sysfstest.Host) {
				h.AddProcess(sysfstest.Process{PID: 77, Comm: "job", Cgroup: "/system.slice/job.service", Affinity: cpuset.Of(1, 9)})
			}),
			write("/sys/fs/cgroup/system.slice/cpuset.cpus", "0-3"),
			status(77, "Cpus_allowed_list", "1"), runs(77, "1"),
			moves(77, "8-9", syscall.EINVAL), moves(77, "2-9", 0),
			runs(77, "2-3"),
			write("/sys/fs/cgroup/system.slice/cpuset.cpus", "0-1"),
			runs(77, "0-1"), // nothing of what it asked for
			write("/sys/fs/cgroup/system.slice/cpuset.cpus", ""),
			runs(77, "2-9"),
		}},
	}
}

// TestScope: a guest's control group comes with its scope and goes with it, whatever AllowedCPUs it was given.
func TestScope(t *testing.T) {
	const scope = `machine-qemu\x2d1\x2dwin11.scope`
	h := load(t, "fern").Clone()
	before := h.Snapshot()
	h.AddCgroup("/machine.slice/" + scope + "/libvirt/emulator")
	h.AddProcess(sysfstest.Process{PID: 5000, Comm: "qemu", Cgroup: "/machine.slice/" + scope + "/libvirt/emulator"})
	if err := h.Systemd().SetAllowedCPUs(t.Context(), scope, cpuset.Of(0, 1, 16)); err != nil {
		t.Fatal(err)
	}
	if v, err := h.FS().Read("/sys/fs/cgroup/machine.slice/" + scope + "/cpuset.cpus"); err != nil || v != "0-1,16" {
		t.Errorf("the scope has CPUs %q, error %v", v, err)
	}
	for i, s := range []step{status(5000, "Cpus_allowed_list", "0-1,16"), runs(5000, "0-1,16"), moves(5000, "4", syscall.EINVAL)} {
		s.check(t, i+1, h, h.FS())
	}
	h.RemoveCgroup("/machine.slice/" + scope)
	var refused *systemd.ReplyError
	if err := h.Systemd().SetAllowedCPUs(t.Context(), scope, cpuset.Set{}); !errors.As(err, &refused) {
		t.Errorf("a scope that has ended: error %v", err)
	}
	if h.FS().Exists("/proc/5000") {
		t.Error("its process runs on")
	}
	without := []string{"/sys/fs/cgroup/machine.slice", "/sys/fs/cgroup/cgroup.subtree_control", "/run/systemd/transient"}
	if d := sysfstest.Diff(before.Without(without...), h.Snapshot().Without(without...)); d != "" {
		t.Errorf("it leaves:\n%s", d)
	}
}

// status is a step that looks at one line of /proc/PID/status.
func status(pid int, key, want string) step {
	return step{do: func(h *sysfstest.Host) error {
		v, err := h.FS().Read("/proc/" + strconv.Itoa(pid) + "/status")
		if err == nil && !slices.Contains(strings.Split(v, "\n"), key+":\t"+want) {
			err = fmt.Errorf("no %s: %s in the status of %d: %s", key, want, pid, v)
		}
		return err
	}}
}

// moves has a thread's affinity set, runs looks at it.
func moves(pid int, cpus string, want syscall.Errno) step {
	return step{do: func(h *sysfstest.Host) error {
		set, err := cpuset.ParseList(cpus)
		if err != nil {
			return err
		}
		st, _ := h.FS().ProcessStat(pid)
		if err := h.FS().SetAffinity(pid, st.Start, set); !is(err, want) {
			return fmt.Errorf("%d to %s: error %w, want %v", pid, cpus, err, want)
		}
		return nil
	}}
}

func runs(pid int, want string) step {
	return step{do: func(h *sysfstest.Host) error {
		if s, err := h.FS().Affinity(pid); err != nil || s.String() != want {
			return fmt.Errorf("%d runs on %s, error %w; want %s", pid, s, err, want)
		}
		return nil
	}}
}

func frequencyRules() []rule {
	const governor, epp, epps = "scaling_governor", "energy_performance_preference", "energy_performance_available_preferences"
	const latency = "power/pm_qos_resume_latency_us"
	return []rule{
		{"governor and preference of intel_pstate", "fern", []step{
			read(policyFile(4, "scaling_driver"), "intel_pstate"),
			read(policyFile(4, "scaling_available_governors"), "performance powersave"),
			read(policyFile(4, "affected_cpus"), "4"),
			read(policyFile(4, governor), "powersave"),
			link(cpuFile(4, "cpufreq"), "policy4"),
			refused(policyFile(4, governor), "schedutil", syscall.EINVAL),
			refused(policyFile(4, governor), "", syscall.EINVAL),
			refused(policyFile(4, epp), "nosuch", syscall.EINVAL),
			write(policyFile(4, epp), "power\n"),
			read(policyFile(4, epp), "power"),
			write(policyFile(4, epp), "default"),
			read(policyFile(4, epp), "balance_performance"),
			write(policyFile(4, epp), "balance_power"),
			write(policyFile(4, governor), "performance"),
			read(policyFile(4, epp), "performance"),
			read(policyFile(4, epps), "default performance balance_performance balance_power power"),
			refused(policyFile(4, epp), "power", syscall.EBUSY),
			refused(policyFile(4, epp), "default", syscall.EBUSY),
			write(policyFile(4, epp), "performance"),
			write(policyFile(4, governor), "performance"), // once more
			write(cpuFile(4, "cpufreq/"+governor), "powersave"),
			read(policyFile(4, epp), "balance_power"),
			read(policyFile(5, governor), "powersave"),
		}},
		{"a policy without CPUs", "fern", []step{
			write(policyFile(4, governor), "performance"),
			online(4, false),
			{read: policyFile(4, governor), errno: syscall.EBUSY},
			refused(policyFile(4, governor), "powersave", syscall.EBUSY),
			online(4, true),
			read(policyFile(4, governor), "performance"),
		}},
		{"how fast a CPU wakes", "fern", []step{
			read(cpuFile(3, latency), "0"),
			write(cpuFile(3, latency), "20\n"),
			read(cpuFile(3, latency), "20"),
			write(cpuFile(3, latency), "0x10"),
			read(cpuFile(3, latency), "16"),
			write(cpuFile(3, latency), "n/a"),
			read(cpuFile(3, latency), "n/a"),
			refused(cpuFile(3, latency), "-1", syscall.EINVAL),
			refused(cpuFile(3, latency), "2147483647", syscall.EINVAL),
			refused(cpuFile(3, latency), "x", syscall.EINVAL),
			read(cpuFile(3, latency), "n/a"),
			read(cpuFile(2, latency), "0"),
		}},
	}
}

func tunableRules() []rule {
	const thp = "/sys/kernel/mm/transparent_hugepage/"
	return []rule{
		{"choices", "fern", []step{
			read(thp+"enabled", "always [madvise] never"),
			write(thp+"enabled", "never"),
			read(thp+"enabled", "always madvise [never]"),
			write(thp+"enabled", "always\n"),
			read(thp+"enabled", "[always] madvise never"),
			refused(thp+"enabled", "x", syscall.EINVAL),
			refused(thp+"enabled", "[never]", syscall.EINVAL),
			write(thp+"defrag", "defer+madvise"),
			read(thp+"defrag", "always defer [defer+madvise] madvise never"),
			{do: func(h *sysfstest.Host) error { return h.SomebodyWrites(thp+"enabled", "madvise") }},
			read(thp+"enabled", "always [madvise] never"),
		}},
		{"limits", "fern", []step{
			write(vmDir+"swappiness", "1"),
			read(vmDir+"swappiness", "1"),
			refused(vmDir+"swappiness", "201", syscall.EINVAL),
			refused(vmDir+"swappiness", "x", syscall.EINVAL),
			refused(vmDir+"overcommit_memory", "3", syscall.EINVAL),
			write(vmDir+"stat_interval", "120\n"),
			read(vmDir+"stat_interval", "120"),
			refused("/proc/sys/kernel/watchdog", "2", syscall.EINVAL),
			refused("/sys/kernel/mm/ksm/run", "3", syscall.EINVAL),
			write("/sys/kernel/mm/ksm/run", "2"),
			read("/sys/kernel/mm/ksm/run", "2"),
		}},
		{"one limit in two units", "fern", []step{
			refused(vmDir+"dirty_bytes", "0", syscall.EINVAL), // the other file takes it back
			refused(vmDir+"dirty_bytes", "4096", syscall.EINVAL),
			write(vmDir+"dirty_bytes", "1000000000"),
			read(vmDir+"dirty_ratio", "0"),
			write(vmDir+"dirty_ratio", "0"), // no news
			read(vmDir+"dirty_bytes", "1000000000"),
			write(vmDir+"dirty_ratio", "20"),
			read(vmDir+"dirty_bytes", "0"),
			write(vmDir+"dirty_background_bytes", "1000000"),
			read(vmDir+"dirty_background_ratio", "0"),
			write(vmDir+"dirty_background_ratio", "0"), // no news, and yet
			read(vmDir+"dirty_background_bytes", "0"),
			write(vmDir+"overcommit_kbytes", "0"),
			read(vmDir+"overcommit_ratio", "0"),
		}},
	}
}

// TestPreferencesOfAMD: its driver leaves "performance" behind, and lists nothing else meanwhile.
func TestPreferencesOfAMD(t *testing.T) {
	h, err := sysfstest.Parse("amd", []byte("x\n-- cpus --\npackage 0 0-1 2-3\n-- nodes --\n0 cpus=0-3 total=1G free=512M\n-- cpufreq --\n"+
		"policy0 0-1 driver=amd-pstate-epp governor=powersave governors=performance,powersave epp=balance_power epps=default,performance,balance_power\n"+
		"policy2 2-3 driver=acpi-cpufreq governor=ondemand governors=ondemand,performance\n"))
	if err != nil {
		t.Fatal(err)
	}
	const epp, epps = "energy_performance_preference", "energy_performance_available_preferences"
	fs := h.FS()
	for i, s := range []step{
		read(policyFile(0, "related_cpus"), "0 1"),
		online(1, false),
		read(policyFile(0, "affected_cpus"), "0"),
		write(policyFile(0, "scaling_governor"), "performance"),
		read(policyFile(0, epps), "performance"),
		refused(policyFile(0, epp), "balance_power", syscall.EBUSY),
		write(policyFile(0, "scaling_governor"), "powersave"),
		read(policyFile(0, epp), "performance"),
		read(policyFile(0, epps), "default performance balance_power"),
		write(policyFile(0, epp), "default"),
		read(policyFile(0, epp), "balance_power"),
		{gone: policyFile(2, epp)},
		write(policyFile(2, "scaling_governor"), "performance"),
	} {
		s.check(t, i+1, h, fs)
	}
}

// TestProcessFlags: what /proc says of kernel threads and programs, and that no signal ends the former.
func TestProcessFlags(t *testing.T) {
	h := load(t, "desktop-four").Clone()
	h.AddProcess(sysfstest.Process{PID: 30, Comm: "ksoftirqd/3", KThread: true, Bound: true, Affinity: cpuset.Of(3)})
	h.AddProcess(sysfstest.Process{PID: 31, Comm: "rcuop/3", KThread: true})
	fs := h.FS()
	for pid, want := range map[int]sysfs.ProcessStat{
		1:   {Comm: "systemd", Flags: 0x00400100, Start: 1001},
		2:   {Comm: "kthreadd", Flags: 0x00208040, Start: 1002},
		30:  {Comm: "ksoftirqd/3", Parent: 2, Flags: 0x04208040, Start: 1030},
		31:  {Comm: "rcuop/3", Parent: 2, Flags: 0x00208040, Start: 1031},
		733: {Comm: "libvirtd", Parent: 1, Flags: 0x00400100, Start: 1733},
	} {
		if st, err := fs.ProcessStat(pid); err != nil || st != want {
			t.Errorf("%d: %+v, error %v; want %+v", pid, st, err, want)
		}
	}
	if v, err := fs.Read("/proc/2/task/2/children"); err != nil || v != "30 31" {
		t.Errorf("children of kthreadd %q, error %v", v, err)
	}
	if v, err := fs.ReadFile("/proc/31/cmdline"); err != nil || len(v) > 0 {
		t.Errorf("cmdline %q, error %v", v, err)
	}
	if err := fs.Signal(31, 1031, syscall.SIGKILL); err != nil || !fs.Exists("/proc/31") {
		t.Errorf("a kernel thread was killed, error %v", err)
	}
	if err := fs.SetAffinity(31, 1030, cpuset.Of(0)); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("another thread's number: error %v", err)
	}
	movable, err := fs.KernelThreads()
	want := []sysfs.Process{{PID: 31, Start: 1031}, {PID: 2, Start: 1002}}
	if err != nil || !slices.Equal(movable, want) {
		t.Errorf("movable threads %v, error %v; want %v", movable, err, want)
	}
}

// TestAffinityIsAChange: somebody can refuse it, and is told what it is.
func TestAffinityIsAChange(t *testing.T) {
	h := load(t, "fern").Clone()
	fs := h.FS()
	var seen []sysfstest.Change
	h.OnChange(func(c sysfstest.Change) error {
		seen = append(seen, c)
		return syscall.EPERM
	})
	if err := fs.SetAffinity(59, 1059, cpuset.Of(0, 1, 2, 16)); !errors.Is(err, syscall.EPERM) {
		t.Errorf("error %v", err)
	}
	if err := fs.SetAffinity(54, 1054, cpuset.Of(0)); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a bound thread: error %v", err)
	}
	want := sysfstest.Change{N: 1, Op: "affinity", Path: "/proc/59", Value: "0-2,16"}
	if len(seen) != 1 || seen[0] != want {
		t.Errorf("changes %+v, want %+v", seen, want)
	}
	if s, err := fs.Affinity(59); err != nil || s.String() != "0-19" {
		t.Errorf("refused, and it runs on %s, error %v", s, err)
	}
	h.OnChange(func(sysfstest.Change) error { // it ends right before
		h.RemoveProcess(59)
		return nil
	})
	if err := fs.SetAffinity(59, 1059, cpuset.Of(0)); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("a thread that has just ended: error %v", err)
	}
	if _, err := fs.Affinity(59); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("a thread that has ended: error %v", err)
	}
}

// TestQuietSnapshot: each of these settings is in a snapshot, and in a clone of its own.
func TestQuietSnapshot(t *testing.T) {
	h := load(t, "fern")
	before := h.Snapshot()
	move := func(pid int) func(fs sysfs.FS) error {
		return func(fs sysfs.FS) error { return fs.SetAffinity(pid, uint64(1000+pid), cpuset.Of(0)) }
	}
	set := func(file, value string) func(fs sysfs.FS) error {
		return func(fs sysfs.FS) error { return fs.Write(file, value) }
	}
	for what, do := range map[string]func(fs sysfs.FS) error{
		"interrupt":     set(irqFile(125, "smp_affinity_list"), "0"),
		"default":       set(defaultIRQ, "1"),
		"workqueues":    set(workqueue+"cpumask", "1"),
		"writeback":     set(workqueue+"writeback/cpumask", "1"),
		"watchdog":      set(watchdog, "0"),
		"governor":      set(policyFile(7, "scaling_governor"), "performance"),
		"preference":    set(policyFile(7, "energy_performance_preference"), "power"),
		"latency":       set(cpuFile(7, "power/pm_qos_resume_latency_us"), "1"),
		"tunable":       set(vmDir+"swappiness", "1"),
		"choice":        set("/sys/kernel/mm/transparent_hugepage/enabled", "never"),
		"kernel thread": move(59),
		"program":       move(812),
	} {
		c := h.Clone()
		if err := do(c.FS()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if sysfstest.Diff(before, c.Snapshot()) == "" {
			t.Errorf("%s: a snapshot does not show it", what)
		}
		if d := sysfstest.Diff(before, h.Snapshot()); d != "" {
			t.Errorf("%s: it was changed in another host:\n%s", what, d)
		}
	}
	c := h.Clone()
	c.AddIRQ(300, -1, "new")
	if d := sysfstest.Diff(before, h.Snapshot()); d != "" || h.FS().Exists("/proc/irq/300") {
		t.Errorf("an interrupt came in another host:\n%s", d)
	}
}
