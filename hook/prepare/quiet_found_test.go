package prepare_test

import (
	"context"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

func foundRig(t *testing.T, host, config string) *rig {
	t.Helper()
	model, err := sysfstest.Parse("review", []byte(host))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { model.Close() })
	r := &rig{t: t, model: model, state: filepath.Join(t.TempDir(), "state"), config: hook.DefaultConfig()}
	r.configure(config)
	return r
}

type noNUMA struct{ sysfs.Kernel }

func hiddenNode(name string) bool { return strings.HasPrefix(name, "/sys/devices/system/node") }
func (k noNUMA) ReadFile(name string) ([]byte, error) {
	if hiddenNode(name) {
		return nil, fs.ErrNotExist
	}
	return k.Kernel.ReadFile(name)
}

// A kernel without CONFIG_NUMA has no /sys/devices/system/node.
func TestQuietNoNUMA(t *testing.T) {
	r := foundRig(t, quietHost(8, 2, 30), `cpus.isolate = "pinned"`)
	r.door = func(k sysfs.Kernel) sysfs.Kernel { return noNUMA{k} }
	before := r.snapshot()
	n := pinnedGuests("4-7")[0]
	err := r.locked(func(h *hook.Host) error {
		w, err := prepare.Run(context.Background(), h, n, hook.Caller{})
		t.Logf("prepare warnings: %d, first %.300q", len(w), w)
		return err
	})
	t.Log("prepare", err)
	t.Logf("started %.300v", r.locked(func(h *hook.Host) error { return h.Started(context.Background(), n.Guest.UUID, n.Guest.Name) }))
	t.Logf("release %.300v", r.release(n))
	r.wantAsBefore(before, "after release without NUMA")
}

// Writes to kernel.nmi_watchdog do not show while kernel.watchdog is 0 (lockup_detector_update_enable, kernel/watchdog.c).
type watchdog struct {
	sysfs.Kernel
	user, nmi *string
}

func (k watchdog) ReadFile(name string) ([]byte, error) {
	switch name {
	case "/proc/sys/kernel/watchdog":
		return []byte(*k.user + "\n"), nil
	case "/proc/sys/kernel/nmi_watchdog":
		if *k.user == "0" {
			return []byte("0\n"), nil
		}
		return []byte(*k.nmi + "\n"), nil
	}
	return k.Kernel.ReadFile(name)
}

func (k watchdog) WriteFile(name string, v []byte) error {
	switch name {
	case "/proc/sys/kernel/watchdog":
		*k.user = strings.TrimSpace(string(v))
		return nil
	case "/proc/sys/kernel/nmi_watchdog":
		*k.nmi = strings.TrimSpace(string(v))
		return nil
	}
	return k.Kernel.WriteFile(name, v)
}

func TestQuietWatchdogs(t *testing.T) {
	r := foundRig(t, quietHost(8, 2, 5)+"-- proc/sys/kernel/watchdog --\n1\n-- proc/sys/kernel/nmi_watchdog --\n1\n",
		"cpus.isolate = \"pinned\"\ntunables.kernel.watchdog = 0\ntunables.kernel.nmi_watchdog = 0\n")
	user, nmi := "1", "1"
	r.door = func(k sysfs.Kernel) sysfs.Kernel { return watchdog{k, &user, &nmi} }
	before := r.snapshot()
	n := pinnedGuests("4-7")[0]
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	if err := r.release(n); err != nil {
		t.Errorf("release: %v", err)
	}
	r.wantAsBefore(before, "after release")
}

type fullVectors struct{ sysfs.Kernel }

func (k fullVectors) WriteFile(name string, v []byte) error {
	if strings.HasSuffix(name, "/smp_affinity_list") {
		return syscall.ENOSPC
	}
	return k.Kernel.WriteFile(name, v)
}

// x86's vectors of the host's CPUs are used up (irq_matrix_alloc): ENOSPC.
func TestQuietNoVectors(t *testing.T) {
	r := foundRig(t, quietHost(8, 2, 500), "cpus.isolate = \"pinned\"\nrequired = [\"interrupts\"]\n")
	r.door = func(k sysfs.Kernel) sysfs.Kernel { return fullVectors{k} }
	err := r.prepare(pinnedGuests("4-7")[0])
	if err != nil {
		t.Errorf("%d bytes of error: %.200s", len(err.Error()), err)
	}
}

// A core is split also where the kernel isolates the guest's half of it (isolcpus).
func TestQuietSplitCoreIsolated(t *testing.T) {
	host := strings.Replace(quietHost(8, 2, 5), "package 0 0 1 2 3 4 5 6 7", "siblings 0 0-3 4-7", 1)
	r := foundRig(t, host, "cpus.isolate = \"pinned\"\ncpus.split_core = \"refuse\"\n")
	for _, isolated := range []string{"", "4"} {
		n := pinnedGuests("4")[0]
		r.door = func(k sysfs.Kernel) sysfs.Kernel { return isolates{k, isolated} }
		err := r.prepare(n)
		t.Logf("isolated %q: %v", isolated, err)
		if err == nil {
			t.Errorf("isolated %q: not refused", isolated)
		}
	}
}

type isolates struct {
	sysfs.Kernel
	cpus string
}

func (k isolates) ReadFile(name string) ([]byte, error) {
	if name == "/sys/devices/system/cpu/isolated" {
		return []byte(k.cpus + "\n"), nil
	}
	return k.Kernel.ReadFile(name)
}

// A cpus.host that overlaps the guest's pins brings no interrupt onto the guest's CPUs.
func TestQuietHostOverlapsPins(t *testing.T) {
	r := foundRig(t, quietHost(8, 1, 30), "cpus.isolate = \"pinned\"\ncpus.host = \"0-3\"\n")
	n := pinnedGuests("3-5")[0]
	err := r.locked(func(h *hook.Host) error {
		w, err := prepare.Run(context.Background(), h, n, hook.Caller{})
		t.Logf("warnings %q", w)
		return err
	})
	t.Log(err)
	fs := r.model.FS()
	irqs, _ := fs.Interrupts()
	for _, i := range irqs {
		s, _ := fs.ReadCPUs(sysfs.InterruptCPUs(i))
		if i%5 != 3 && !s.Intersect(n.Pinned).Empty() {
			t.Errorf("interrupt %d is on %s", i, s)
		}
	}
}

// Two spellings of one tunable are refused.
func TestQuietDuplicateTunables(t *testing.T) {
	seen := map[string]bool{}
	for range 60 {
		c, err := hook.ParseConfig("test", []byte("[tunables]\nvm.swappiness = 1\n\"vm/swappiness\" = 2\n\"/proc/sys/vm/swappiness\" = 3\n"))
		if err != nil {
			t.Log("refused:", err)
			return
		}
		seen[c.Tunables["/proc/sys/vm/swappiness"]] = true
	}
	t.Errorf("accepted, the value is one of %v", seen)
}

// A choice in round brackets comes back (/sys/kernel/debug/sched/preempt).
func TestQuietRoundChoice(t *testing.T) {
	const f = "/sys/kernel/debug/sched/preempt"
	r := foundRig(t, quietHost(8, 2, 5)+"-- sys/kernel/debug/sched/preempt --\nnone voluntary (full)\n", "cpus.isolate = \"pinned\"\ntunables.\""+f+"\" = \"voluntary\"\n")
	now := "full"
	r.door = func(k sysfs.Kernel) sysfs.Kernel { return preempt{k, f, &now} }
	n := pinnedGuests("4-7")[0]
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	if err := r.release(n); err != nil || now != "full" {
		t.Errorf("release: %v; preempt is %s", err, now)
	}
}

type preempt struct {
	sysfs.Kernel
	file string
	now  *string
}

func (k preempt) ReadFile(name string) ([]byte, error) {
	if name == k.file {
		return []byte(strings.Replace("none voluntary full\n", *k.now, "("+*k.now+")", 1)), nil
	}
	return k.Kernel.ReadFile(name)
}

func (k preempt) WriteFile(name string, v []byte) error {
	if name == k.file {
		if w := strings.TrimSpace(string(v)); strings.Contains(w, " ") {
			return syscall.EINVAL
		} else {
			*k.now = w
			return nil
		}
	}
	return k.Kernel.WriteFile(name, v)
}

// irqbalance runs as a unit, but has no socket in /run (1.2.0 to 1.4.0, RHEL 8): "stop" stops it all the same.
func TestQuietStopIRQBalanceWithoutSocket(t *testing.T) {
	r := newRig(t, "fern")
	r.configure("cpus.isolate = \"pinned\"\ncpus.irqbalance = \"stop\"")
	r.model.AddProcess(sysfstest.Process{PID: 900, Comm: "irqbalance", Cgroup: "/system.slice/irqbalance.service"})
	n := pinnedGuests("4-7")[0]
	if err := r.locked(func(h *hook.Host) error {
		p, err := prepare.NewPlan(context.Background(), h, n)
		if err == nil && len(p.Claim.Units) == 0 && len(p.Warnings) == 0 {
			t.Errorf("irqbalance is not stopped, and nothing is said")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// With required = ["inhibit"] a host without systemd refuses the guest.
func TestQuietRequiredInhibit(t *testing.T) {
	r := newRig(t, "desktop-four")
	r.configure("required = [\"inhibit\"]")
	n := loadNeeds(t, "desktop-four")
	if err := r.prepare(n); err == nil {
		t.Error("the guest starts, though nothing can keep the host from sleep")
	}
}

// A value that the kernel rounds is written once, not at every event.
func TestQuietRounded(t *testing.T) {
	const f = "/sys/module/x/parameters/rounded"
	r := foundRig(t, quietHost(8, 2, 5)+"-- sys/module/x/parameters/rounded --\n64\n", "cpus.isolate = \"pinned\"\ntunables.\""+f+"\" = 100\n")
	now := "64"
	writes := 0
	r.door = func(k sysfs.Kernel) sysfs.Kernel { return rounds{k, f, &now, &writes} }
	g := pinnedGuests("4-5", "6-7")
	for _, n := range g {
		if err := r.prepare(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.release(g[1]); err != nil {
		t.Fatal(err)
	}
	if writes != 1 {
		t.Errorf("%d writes of the same value", writes)
	}
}

type rounds struct {
	sysfs.Kernel
	file   string
	now    *string
	writes *int
}

func (k rounds) ReadFile(name string) ([]byte, error) {
	if name == k.file {
		return []byte(*k.now + "\n"), nil
	}
	return k.Kernel.ReadFile(name)
}

func (k rounds) WriteFile(name string, v []byte) error {
	if name == k.file {
		*k.writes++
		*k.now = strings.TrimSpace(string(v))
		if *k.now == "100" {
			*k.now = "96"
		}
		return nil
	}
	return k.Kernel.WriteFile(name, v)
}

// A guest whose scope cannot be seen (no pid file, cgroup v1): no lock is taken that would outlive it.
func TestQuietInhibitorUnbound(t *testing.T) {
	r := newRig(t, "fern")
	n := loadNeeds(t, "win11")
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	if err := r.locked(func(h *hook.Host) error { return h.Started(context.Background(), n.Guest.UUID, n.Guest.Name) }); err != nil {
		t.Log(err)
	}
	for _, u := range r.model.Systemd().Transients() {
		if u.BindsTo == "" && u.RuntimeMax == 0 {
			t.Errorf("%s never ends by itself", u.Name)
		}
	}
}

// What an administrator allows partitions of stays allowed, with a guest and after it.
func TestQuietExclusiveBaseline(t *testing.T) {
	r := newRig(t, "fern")
	r.configure("cpus.partition = true")
	n := loadNeeds(t, "win11")
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	var pins []string
	for cpu := range n.Pinned.All() {
		pins = append(pins, strconv.Itoa(cpu))
	}
	scope := runGuest(r, n.Guest, pins...)
	const file = "/sys/fs/cgroup/machine.slice/cpuset.cpus.exclusive"
	if err := r.model.FS().Write(file, "18-19"); err != nil {
		t.Fatal(err)
	}
	if err := r.started(n); err != nil {
		t.Fatal(err)
	}
	r.wantRead(file, "4-15,18-19")
	endGuest(r, n.Guest, scope)
	if err := r.release(n); err != nil {
		t.Fatal(err)
	}
	r.wantRead(file, "18-19")
}
