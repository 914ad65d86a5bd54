package prepare_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"qemu-hook/cpuset"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/sysfs/sysfstest"
)

// Pitfall 24: the governor is written before the energy preference, there and back, with either driver; under "performance" the
// kernel takes no preference, and amd-pstate-epp does not take back the one it has made.
func TestGovernorBeforeEnergyPreference(t *testing.T) {
	text, err := os.ReadFile("../../testdata/hosts/fern.txtar")
	if err != nil {
		t.Fatal(err)
	}
	const policy = "/sys/devices/system/cpu/cpufreq/policy4/"
	for _, driver := range []string{"intel_pstate", "amd-pstate-epp"} {
		for config, want := range map[string][2]string{
			`cpus.governor = "performance"`:                       {"performance", "performance"},
			`cpus.epp = "power"`:                                  {"powersave", "power"},
			"cpus.governor = \"powersave\"\ncpus.epp = \"power\"": {"powersave", "power"},
		} {
			for _, was := range []string{"powersave", "performance"} {
				if was == "performance" && !strings.Contains(config, "governor") {
					continue // the preference cannot be written then
				}
				host := strings.NewReplacer("driver=intel_pstate governor=powersave", "driver="+driver+" governor="+was).Replace(string(text))
				model, err := sysfstest.Parse("fern", []byte(host))
				if err != nil {
					t.Fatal(err)
				}
				r := newRig(t, "fern")
				r.model = model
				t.Cleanup(func() { model.Close() })
				r.configure(config)
				if driver == "amd-pstate-epp" && was == "performance" {
					r.configure(`cpus.governor = "powersave"`) // it lists no other preference now
					want = [2]string{"powersave", "performance"}
				}
				before := r.snapshot()
				if err := r.prepare(loadNeeds(t, "win11")); err != nil {
					t.Fatal(err)
				}
				r.wantRead(policy+"scaling_governor", want[0])
				r.wantRead(policy+"energy_performance_preference", want[1])
				if err := r.release(loadNeeds(t, "win11")); err != nil {
					t.Fatal(err)
				}
				r.wantAsBefore(before, driver+" "+was+" "+config)
			}
		}
	}
}

// A limit that the host has as a share comes back as that, when a guest has it in bytes.
func TestTunableInTheOtherUnit(t *testing.T) {
	r := newRig(t, "fern")
	before := r.snapshot()
	r.configure("[tunables]\nvm.dirty_bytes = 100000000\n\"/sys/kernel/mm/transparent_hugepage/enabled\" = \"never\"\n")
	if err := r.prepare(loadNeeds(t, "win11")); err != nil {
		t.Fatal(err)
	}
	r.wantRead("/proc/sys/vm/dirty_bytes", "100000000")
	r.wantRead("/proc/sys/vm/dirty_ratio", "0")
	r.wantRead("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]")
	if err := r.release(loadNeeds(t, "win11")); err != nil {
		t.Fatal(err)
	}
	r.wantAsBefore(before, "after release")
}

// Where somebody else sends an interrupt meanwhile is left, said by status, and theirs at the end.
func TestInterruptThatSomebodyElseMoves(t *testing.T) {
	r := newRig(t, "fern")
	n := loadNeeds(t, "win11")
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	r.model.SetIRQ(9, cpuset.Of(1))
	wantReason(t, r.loaded().Drifted(), "/proc/irq/9/smp_affinity_list: 1 instead of 0-3,16-19")
	if err := r.started(n); err != nil {
		t.Fatal(err)
	}
	r.wantRead("/proc/irq/9/smp_affinity_list", "1")
	if err := r.release(n); err != nil {
		t.Fatal(err)
	}
	r.wantRead("/proc/irq/9/smp_affinity_list", "1")
	r.wantRead("/proc/irq/14/smp_affinity_list", "0-19")
}

// Pitfall 23: an irqbalance that does not answer costs a warning; the guest starts, and is released when irqbalance has gone.
func TestIRQBalanceThatDoesNotAnswer(t *testing.T) {
	r := newRig(t, "fern")
	n := loadNeeds(t, "win11")
	r.model.SetFile("/run/irqbalance/irqbalance900.sock", "")
	r.model.AddProcess(sysfstest.Process{PID: 900, Comm: "irqbalance", Cgroup: "/system.slice/irqbalance.service"})
	var warnings []string
	if err := r.locked(func(h *hook.Host) (err error) {
		warnings, err = prepare.Run(context.Background(), h, n, hook.Caller{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	wantReason(t, warnings, "irqbalance (pid 900)")
	r.wantRead("/proc/irq/9/smp_affinity_list", "0-3,16-19")
	r.model.RemoveProcess(900)
	if err := r.release(n); err != nil {
		t.Fatal(err)
	}
	r.wantRead("/proc/irq/9/smp_affinity_list", "0-19")
}

// With steps.inhibit = false nothing keeps the host awake.
func TestInhibitSwitchedOff(t *testing.T) {
	for config, want := range map[string]int{"": 1, "steps.inhibit = false": 0, "inhibit = []": 0} {
		r := newRig(t, "fern")
		r.configure(config)
		plan, err := prepare.NewPlan(context.Background(), r.host(), loadNeeds(t, "win11"))
		if err != nil || len(plan.Claim.Inhibit) != want {
			t.Errorf("%q: %v, error %v", config, plan.Claim.Inhibit, err)
		}
	}
}

// `check` says which memory lies far from the vCPUs, which guests are pinned nowhere, and what old kernels forget.
func TestAdviceOnMemoryGuestsAndKernel(t *testing.T) {
	r := newRig(t, "server")
	n := serverGuest(1, "0000:41:00", cpuList(t, "4-7"), 100, 1)
	plan, err := prepare.NewPlan(context.Background(), r.host(), n)
	if err != nil {
		t.Fatal(err)
	}
	wantReason(t, plan.Advice(context.Background(), r.host()), "the guest has memory on NUMA node 1, and its vCPUs are pinned to node 0")

	text, err := os.ReadFile("../../testdata/hosts/fern.txtar")
	if err != nil {
		t.Fatal(err)
	}
	old := newRig(t, "fern")
	if old.model, err = sysfstest.Parse("fern", []byte(strings.ReplaceAll(string(text), "6.12.60", "6.1.0"))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { old.model.Close() })
	scope := runGuest(old, pinnedGuest(t, 5, "").Guest, "", "")
	if plan, err = prepare.NewPlan(context.Background(), old.host(), loadNeeds(t, "win11")); err != nil {
		t.Fatal(err)
	}
	advice := plan.Advice(context.Background(), old.host())
	wantReason(t, advice, "this kernel forgets which CPUs a process of the host had chosen for itself")
	wantReason(t, advice, "guests that are pinned nowhere run on the guest's CPUs too ("+scope[strings.LastIndex(scope, "/")+1:]+")")
}
