package prepare_test

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// A policy whose CPUs are off line when the guest goes gets its governor back at the next event.
func TestFrequencyOfACPUOffLine(t *testing.T) {
	r := newRig(t, "fern")
	r.configure(`cpus.governor = "performance"` + "\n" + `cpus.resume_latency = "20"`)
	n := loadNeeds(t, "win11")
	before := r.snapshot()
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	r.wantRead("/sys/devices/system/cpu/cpu4/power/pm_qos_resume_latency_us", "20")
	r.wantRead("/sys/devices/system/cpu/cpu3/power/pm_qos_resume_latency_us", "0")
	r.model.HotplugCPU(6, false)
	if err := r.release(n); err != nil {
		t.Fatal(err)
	}
	r.model.HotplugCPU(6, true)
	r.wantRead("/sys/devices/system/cpu/cpufreq/policy6/scaling_governor", "performance")
	if err := r.locked(func(h *hook.Host) error { return h.Settle(context.Background()) }); err != nil {
		t.Fatal(err)
	}
	diff := sysfstest.Diff(before.Without("/proc/irq"), r.snapshot().Without("/proc/irq"))
	if diff != "" {
		t.Error(diff)
	}
}

// Words that the kernel does not have are a warning, and a refusal where the step is required.
func TestFrequencyWords(t *testing.T) {
	r := newRig(t, "fern")
	r.configure(`cpus.governor = "ondemand"`)
	plan, err := prepare.NewPlan(context.Background(), r.host(), loadNeeds(t, "win11"))
	if err != nil {
		t.Fatal(err)
	}
	wantReason(t, plan.Warnings, `scaling_governor "ondemand" is none of those that the kernel has for the guest's CPUs: performance, powersave`)
	r.configure(`cpus.governor = "ondemand"` + "\n" + `required = ["frequency"]`)
	if err := r.prepare(loadNeeds(t, "win11")); err == nil || !strings.Contains(err.Error(), "ondemand") {
		t.Errorf("prepare: %v", err)
	}
}

// A step that is switched off touches nothing of its own.
func TestQuietStepsSwitchedOff(t *testing.T) {
	const all = `cpus.governor = "performance"` + "\n[tunables]\nvm.swappiness = 1\n[steps]\n"
	for step, files := range map[string][]string{
		"interrupts": {"/proc/irq/default_smp_affinity", "/proc/irq/1/smp_affinity_list"},
		"kernel":     {"/sys/devices/virtual/workqueue/cpumask", "/proc/sys/kernel/watchdog_cpumask"},
		"frequency":  {"/sys/devices/system/cpu/cpufreq/policy4/scaling_governor"},
		"tunables":   {"/proc/sys/vm/swappiness"},
	} {
		for _, off := range []bool{false, true} {
			r := newRig(t, "fern")
			r.configure(all + step + fmt.Sprintf(" = %v\n", !off))
			read := func(f string) string {
				v, err := r.model.FS().Read(f)
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
			var before []string
			for _, f := range files {
				before = append(before, read(f))
			}
			if err := r.prepare(loadNeeds(t, "win11")); err != nil {
				t.Fatal(err)
			}
			for i, f := range files {
				if (read(f) == before[i]) != off {
					t.Errorf("steps.%s = %v: %s is %q, before %q", step, !off, f, read(f), before[i])
				}
			}
		}
	}
}

// A required step that fails keeps the guest from starting, and everything is given back.
func TestRequiredInterrupts(t *testing.T) {
	r := newRig(t, "fern")
	r.configure(`required = ["interrupts"]`)
	before := r.snapshot()
	r.model.OnChange(func(c sysfstest.Change) error {
		if c.Path == sysfs.DefaultInterruptCPUs {
			return syscall.EINVAL
		}
		return nil
	})
	if err := r.prepare(loadNeeds(t, "win11")); err == nil || !strings.Contains(err.Error(), "default_smp_affinity") {
		t.Errorf("prepare: %v", err)
	}
	r.model.OnChange(nil)
	r.wantAsBefore(before, "after the refusal")
}

// Two guests that want different values: who came first decides, the other is warned and has its own once that is gone. What
// somebody else sets is left and told; limits that come in two units come back as they were.
func TestTunables(t *testing.T) {
	r := newRig(t, "fern")
	r.model.SomebodyWrites("/proc/sys/vm/dirty_bytes", "100000000")
	before := r.snapshot()
	r.configure("cpus.isolate = \"pinned\"\n[tunables]\nvm.swappiness = 1\nvm.dirty_ratio = 5\nvm.stat_interval = 120\n[guest.guest1.tunables]\nvm.swappiness = 10\n")
	guests := pinnedGuests("4-5", "6-7")
	prepareOne := func(n *domain.Needs) []string {
		var warnings []string
		if err := r.locked(func(h *hook.Host) (err error) {
			if h.Config, err = h.Config.ForGuest(n.Guest.Name, nil); err != nil {
				return err
			}
			warnings, err = prepare.Run(context.Background(), h, n, hook.Caller{})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return warnings
	}
	prepareOne(guests[0])
	wantReason(t, prepareOne(guests[1]), `/proc/sys/vm/swappiness stays "1", as guest guest0 came first; this guest has it "10" once that is gone`)
	r.wantRead("/proc/sys/vm/swappiness", "1")
	r.wantRead("/proc/sys/vm/dirty_ratio", "5")
	r.wantRead("/proc/sys/vm/dirty_bytes", "0")
	if err := r.release(guests[0]); err != nil {
		t.Fatal(err)
	}
	r.wantRead("/proc/sys/vm/swappiness", "10")
	r.model.SomebodyWrites("/proc/sys/vm/stat_interval", "7")
	wantReason(t, r.loaded().Drifted(), `/proc/sys/vm/stat_interval: "7" instead of "120"`)
	if err := r.release(guests[1]); err != nil {
		t.Fatal(err)
	}
	r.wantRead("/proc/sys/vm/stat_interval", "7")
	r.model.SomebodyWrites("/proc/sys/vm/stat_interval", "1")
	r.wantAsBefore(before, "after both")
}

// A tunable must lie in the two trees when links are followed, and must be there and readable.
func TestTunablesThatCannotBeHad(t *testing.T) {
	r := newRig(t, "fern")
	r.model.SetLink("/sys/kernel/mm/out", "../../../../etc/passwd")
	r.model.SetFile("/etc/passwd", "root:x:0:0::/root:/bin/sh\n")
	r.configure("[tunables]\nvm.no_such = 1\n\"/sys/kernel/mm/out\" = \"x\"\n\"/sys/kernel/mm/transparent_hugepage/enabled\" = \"sometimes\"\n")
	plan, err := prepare.NewPlan(context.Background(), r.host(), loadNeeds(t, "win11"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"/proc/sys/vm/no_such cannot be set: cannot look at /proc/sys/vm/no_such",
		"/sys/kernel/mm/out cannot be set: it leads out of /proc/sys and /sys, to /etc/passwd",
		`/sys/kernel/mm/transparent_hugepage/enabled cannot be set to "sometimes": the kernel has [always madvise never]`,
	} {
		wantReason(t, plan.Warnings, want)
	}
	if len(plan.Claim.Settings) > 0 {
		t.Errorf("claimed: %v", plan.Claim.Settings)
	}
}

// Overlapping guests and split cores are told, or refused where the configuration says so.
func TestOverlapAndSplitCores(t *testing.T) {
	r := newRig(t, "fern")
	r.configure(`cpus.isolate = "pinned"`)
	guests := pinnedGuests("4-7", "6-9", "10")
	if err := r.prepare(guests[0]); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ config, refused, warned string }{
		{"", "", "CPUs 6-7 are also those of guest guest0: the two slow each other down"},
		{`cpus.overlap = "refuse"`, "CPUs 6-7 are also those of guest guest0; correct the <vcpupin>s of one of them", ""},
	} {
		r.configure(`cpus.isolate = "pinned"` + "\n" + c.config)
		plan, err := prepare.NewPlan(context.Background(), r.loaded(), guests[1])
		if err != nil {
			t.Fatal(err)
		}
		if c.refused != "" {
			wantReason(t, plan.Refusals, c.refused)
		} else {
			wantReason(t, plan.Warnings, c.warned)
		}
	}
	for _, c := range []struct{ config, refused, warned string }{
		{"", "", "the guest's CPUs 10 share cores with the host's 11"},
		{`cpus.split_core = "refuse"`, "the guest's CPUs 10 share cores with the host's 11; pin the guest to whole cores", ""},
		{`cpus.split_core = "ignore"`, "", ""},
	} {
		r.configure(`cpus.isolate = "pinned"` + "\n" + c.config)
		plan, err := prepare.NewPlan(context.Background(), r.host(), guests[2])
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case c.refused != "":
			wantReason(t, plan.Refusals, c.refused)
		case c.warned != "":
			wantReason(t, plan.Warnings, c.warned)
		case len(plan.Warnings)+len(plan.Refusals) > 0:
			t.Errorf("%s: %v %v", c.config, plan.Warnings, plan.Refusals)
		}
	}
}

// A guest that is pinned nowhere keeps off the CPUs of one that is, whichever starts first, and has all of them back.
func TestConfinedGuests(t *testing.T) {
	plain := domain.Guest{Name: "plain", UUID: "00000000-0000-4000-8000-000000000099"}
	for _, first := range []bool{true, false} {
		r := newRig(t, "fern")
		r.configure("cpus.confine_guests = true")
		n := loadNeeds(t, "win11")
		scope := ""
		effective := func() string {
			v, err := r.model.FS().Read("/sys/fs/cgroup" + scope + "/cpuset.cpus.effective")
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		if first {
			scope = runGuest(r, plain, "", "")
		}
		if err := r.prepare(n); err != nil {
			t.Fatal(err)
		}
		if !first {
			scope = runGuest(r, plain, "", "")
			if err := r.locked(func(h *hook.Host) error { return h.Confine(context.Background(), plain.UUID, plain.Name) }); err != nil {
				t.Fatal(err)
			}
		}
		if got := effective(); got != "0-3,16-19" {
			t.Errorf("plain first: %v: it may run on %s", first, got)
		}
		if err := r.release(n); err != nil {
			t.Fatal(err)
		}
		if got := effective(); got != "0-19" {
			t.Errorf("plain first: %v: after release it may run on %s", first, got)
		}
		// One that goes first takes its scope with it.
		if err := r.prepare(n); err != nil {
			t.Fatal(err)
		}
		endGuest(r, plain, scope)
		if err := r.release(n); err != nil {
			t.Errorf("release: %v", err)
		}
	}
}

// What runs beside a guest is started with it, bound to its scope, and stopped at release.
func TestAttendants(t *testing.T) {
	r := newRig(t, "fern")
	n := loadNeeds(t, "win11")
	before := r.snapshot()
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	scope := runGuest(r, n.Guest, "4")
	var calls []string
	r.model.OnChange(func(c sysfstest.Change) error {
		if c.Op == "dbus" && strings.HasPrefix(c.Path, "qemu-hook-") {
			calls = append(calls, c.Path+" "+c.Value)
		}
		return nil
	})
	if err := r.started(n); err != nil {
		t.Fatal(err)
	}
	if len(calls) != 2 || !strings.HasPrefix(calls[0], "qemu-hook-attend-"+n.Guest.UUID) || !strings.Contains(calls[1], "inhibit sleep win11") {
		t.Errorf("started: %q", calls)
	}
	endGuest(r, n.Guest, scope)
	if err := r.release(n); err != nil {
		t.Fatal(err)
	}
	if err := r.model.FS().Write("/sys/fs/cgroup/machine.slice/cgroup.subtree_control", "-cpuset"); err != nil {
		t.Fatal(err)
	}
	r.wantAsBefore(before, "after release")
}

// A hook that is killed at `started`, with the daemon, leaves a guest with nothing beside it: `reconnect` makes up for that.
func TestReconnectWithoutStarted(t *testing.T) {
	r := newRig(t, "fern")
	n := loadNeeds(t, "win11")
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	runGuest(r, n.Guest, "4")
	for range 2 {
		if err := r.locked(func(h *hook.Host) error {
			return h.Reconnect(context.Background(), n.Guest.UUID, n.Guest.Name, hook.Caller{})
		}); err != nil {
			t.Error(err)
		}
		if beside := r.model.Systemd().Transients(); len(beside) != 2 {
			t.Errorf("beside the guest run %v", beside)
		}
	}
}

// The interrupts of the guest's card go to the guest's CPUs when it has enabled them.
func TestGuestInterrupts(t *testing.T) {
	r := newRig(t, "fern")
	n := loadNeeds(t, "win11")
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	r.model.AddIRQ(300, -1, "vfio-msix[0](0000:08:00.0)")
	r.wantRead("/proc/irq/300/smp_affinity_list", "0-3,16-19")
	if err := r.started(n); err != nil {
		t.Fatal(err)
	}
	r.wantRead("/proc/irq/300/smp_affinity_list", "4-15")
}

// irqbalance.service does not run while guests have their CPUs, and runs again after the last of them.
func TestIRQBalanceStopped(t *testing.T) {
	r := newRig(t, "fern")
	r.configure("cpus.isolate = \"pinned\"\ncpus.irqbalance = \"stop\"")
	r.model.SetFile("/run/irqbalance/irqbalance900.sock", "")
	r.model.AddProcess(sysfstest.Process{PID: 900, Comm: "irqbalance", Cgroup: "/system.slice/irqbalance.service"})
	runs := func(want bool, when string) {
		t.Helper()
		if got, err := r.model.Systemd().UnitRuns(context.Background(), hook.IRQBalanceUnit); err != nil || got != want {
			t.Errorf("%s: runs %v, error %v", when, got, err)
		}
	}
	guests := pinnedGuests("4-5", "6-7")
	runs(true, "before")
	for _, n := range guests {
		if err := r.prepare(n); err != nil {
			t.Fatal(err)
		}
		runs(false, n.Guest.Name)
	}
	for i, n := range guests {
		if err := r.release(n); err != nil {
			t.Fatal(err)
		}
		runs(i == 1, "after "+n.Guest.Name)
	}
}

// Memory is compacted for a guest on transparent huge pages where the configuration says so, and not for others.
func TestCompactForTransparentHugePages(t *testing.T) {
	r := newRig(t, "fern")
	r.configure(`memory.compact = "always"`)
	n := loadNeeds(t, "win11")
	n.Memory = nil
	compacted := 0
	r.model.OnChange(func(c sysfstest.Change) error {
		if strings.HasSuffix(c.Path, "/node0/compact") {
			compacted++
		}
		return nil
	})
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	if compacted != 1 {
		t.Errorf("compacted %d times", compacted)
	}
}

// What `check` says of pins, and of what gets in the way.
func TestAdvice(t *testing.T) {
	r := newRig(t, "server")
	r.model.SetFile("/sys/devices/cpu_core/cpus", "0-15\n")
	r.model.SetFile("/sys/devices/cpu_atom/cpus", "16-31\n")
	for cpu := range 64 {
		r.model.SetFile(fmt.Sprintf("/sys/devices/system/cpu/cpu%d/cache/index3/shared_cpu_list", cpu), fmt.Sprintf("%d-%d\n", cpu/8*8, cpu/8*8+7))
	}
	r.model.AddCgroup("/kubepods.slice")
	r.model.AddProcess(sysfstest.Process{PID: 901, Comm: "power-profiles-", Cgroup: "/system.slice/power-profiles-daemon.service"})
	n := serverGuest(1, "0000:41:00", cpuList(t, "14-17"), 100, 1)
	r.config.CPUs.ResumeLatency = "20"
	plan, err := prepare.NewPlan(context.Background(), r.host(), n)
	if err != nil {
		t.Fatal(err)
	}
	advice := plan.Advice(context.Background(), r.host())
	for _, want := range []string{
		"the vCPUs are pinned to fast cores (CPUs 14-15) and to small ones (16-17)",
		"the vCPUs are pinned to CPUs of 2 third-level caches (14-15 | 16-17)",
		"processes of kubepods.slice are not kept off the guest's CPUs",
		"power-profiles-daemon.service runs and sets the frequency of CPUs too",
	} {
		wantReason(t, advice, want)
	}
}
