package prepare_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/sysfs/sysfstest"
)

// runGuest has libvirt start a guest: QEMU in a scope of its own, and a control group for each vCPU with its pin.
func runGuest(r *rig, guest domain.Guest, pins ...string) (scope string) {
	r.t.Helper()
	pid := 7000 + len(guest.Name)
	unit := `machine-qemu\x2d` + fmt.Sprint(pid) + `\x2d` + guest.Name + `.scope`
	scope = "/machine.slice/" + unit
	for i := range pins {
		r.model.AddCgroup(fmt.Sprintf("%s/libvirt/vcpu%d", scope, i))
	}
	write := func(group, file, value string) {
		if err := r.model.FS().Write("/sys/fs/cgroup"+group+"/"+file, value); err != nil {
			r.t.Fatal(err)
		}
	}
	for _, group := range []string{"/machine.slice", scope, scope + "/libvirt"} {
		write(group, "cgroup.subtree_control", "+cpuset")
	}
	for i, p := range pins {
		if p != "" {
			write(fmt.Sprintf("%s/libvirt/vcpu%d", scope, i), "cpuset.cpus", p)
		}
	}
	r.model.AddProcess(sysfstest.Process{
		PID: pid, Comm: "qemu-system-x86", Cmdline: []string{"qemu-system-x86_64", "-uuid", guest.UUID}, Cgroup: scope + "/libvirt/emulator",
	})
	r.model.SetFile("/run/libvirt/qemu/"+guest.Name+".pid", fmt.Sprintf("%d\n", pid))
	return scope
}

func endGuest(r *rig, guest domain.Guest, scope string) {
	r.model.RemoveCgroup(scope)
	r.model.Remove("/run/libvirt/qemu/" + guest.Name + ".pid")
	r.model.Remove("/run/libvirt")
}

func (r *rig) started(n *domain.Needs) error {
	return r.locked(func(h *hook.Host) error { return h.Started(context.Background(), n.Guest.UUID, n.Guest.Name) })
}

// The rules are those of Linux 6.12, on which the same files were written by hand.
func TestPartition(t *testing.T) {
	r := newRig(t, "fern")
	r.configure("cpus.partition = true")
	n := loadNeeds(t, "win11")
	before := r.snapshot()
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	var pins []string
	for cpu := 4; cpu <= 15; cpu++ {
		pins = append(pins, fmt.Sprint(cpu))
	}
	scope := runGuest(r, n.Guest, pins...)
	if err := r.started(n); err != nil {
		t.Error(err)
	}
	for file, want := range map[string]string{
		"/machine.slice/cpuset.cpus.exclusive":          "4-15",
		scope + "/libvirt/vcpu0/cpuset.cpus.partition":  "isolated",
		scope + "/libvirt/vcpu11/cpuset.cpus.effective": "15",
		"/cpuset.cpus.effective":                        "0-3,16-19",
	} {
		if got, err := r.model.FS().Read("/sys/fs/cgroup" + file); err != nil || got != want {
			t.Errorf("%s is %q, error %v, want %q", file, got, err, want)
		}
	}
	endGuest(r, n.Guest, scope)
	if err := r.release(n); err != nil {
		t.Error(err)
	}
	if v, err := r.model.FS().Read("/sys/fs/cgroup/machine.slice/cpuset.cpus.exclusive"); err != nil || v != "" {
		t.Errorf("machine.slice still allows partitions of %q, error %v", v, err)
	}
	if err := r.model.FS().Write("/sys/fs/cgroup/machine.slice/cgroup.subtree_control", "-cpuset"); err != nil {
		t.Fatal(err)
	}
	r.wantAsBefore(before, "after release")
}

// What the kernel does not take is told, and the guest's cgroups are left as they were.
func TestPartitionThatTheKernelRefuses(t *testing.T) {
	r := newRig(t, "fern")
	r.configure("cpus.partition = true")
	n := loadNeeds(t, "win11")
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	scope := runGuest(r, n.Guest, "4-5", "4-5")
	if err := r.started(n); err == nil || !strings.Contains(err.Error(), "its vCPUs share CPUs") {
		t.Errorf("vCPUs that share CPUs: %v", err)
	}
	file := "/sys/fs/cgroup" + scope + "/libvirt/vcpu0/cpuset.cpus.partition"
	if v, err := r.model.FS().Read(file); err != nil || v != "member" {
		t.Errorf("%s is %q, error %v", file, v, err)
	}
}

// Where partitions cannot be had the plan says why.
func TestNoPartition(t *testing.T) {
	for host, why := range map[string]string{"single-gpu": "", "no-iommu": "it takes Linux 6.7 or newer"} {
		r := newRig(t, host)
		r.configure("cpus.partition = true")
		n := loadNeeds(t, "single-gpu")
		plan, err := prepare.NewPlan(context.Background(), r.host(), n)
		if err != nil {
			t.Fatal(err)
		}
		said := strings.Contains(strings.Join(plan.Warnings, "\n"), "cpus.partition cannot be had")
		if said != (why != "") || !strings.Contains(strings.Join(plan.Warnings, "\n"), why) {
			t.Errorf("%s: %v", host, plan.Warnings)
		}
	}
}
