package prepare_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/hook/release"
	"qemu-hook/journal"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// What others have coming from a pool is added first, where free memory allows; it refuses nobody.
func TestPoolLackingWhatOthersHaveComing(t *testing.T) {
	for name, set := range map[string]func(t *testing.T, r *rig){
		"hugepages.keep": func(_ *testing.T, r *rig) { r.config.Hugepages.Keep = 700 },
		"reserved by another process": func(t *testing.T, r *rig) {
			if err := r.model.Reserve(2048, 100); err != nil {
				t.Fatal(err)
			}
			if err := r.model.UsePages(2048, 1, 128); err != nil {
				t.Fatal(err)
			}
		},
		"QEMU of another guest has its pages, its started event is to come": func(t *testing.T, r *rig) {
			if err := r.prepare(serverGuest(2, "0000:81:00", cpuset.Set{}, 1000, 1)); err != nil {
				t.Fatal(err)
			}
			if err := r.model.UsePages(2048, 1, 1000); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "server")
			set(t, r)
			if err := r.prepare(serverGuest(1, "0000:41:00", cpuset.Set{}, 1000, 1)); err != nil {
				t.Error(err)
			}
		})
	}
}

// A QEMU that is seen to hold its pages is promised none, whether or not its started event came.
func TestPagesSeenInQEMU(t *testing.T) {
	r := newRig(t, "server")
	a := serverGuest(1, "0000:41:00", cpuset.Set{}, 1000, 1)
	if err := r.prepare(a); err != nil {
		t.Fatal(err)
	}
	p := sysfs.Pool{KiB: 2048, Node: 1}
	promised := func() uint64 {
		h := r.host()
		if err := h.LoadLedger(); err != nil {
			t.Fatal(err)
		}
		return h.Promised(p, "")
	}
	r.model.AddProcess(sysfstest.Process{PID: 4711, Comm: "qemu-system-x86", Cmdline: []string{"qemu-system-x86_64", "-uuid", a.Guest.UUID}})
	r.model.SetFile("/run/libvirt/qemu/guest1.pid", "4711\n")
	if n := promised(); n != 1000 {
		t.Errorf("before QEMU has its pages %d are promised", n)
	}
	r.model.SetFile("/proc/4711/status", "Name:\tqemu\nHugetlbPages:\t 2048000 kB\n")
	if n := promised(); n != 0 {
		t.Errorf("QEMU has its pages and %d are still promised", n)
	}
}

// Pages that one node lacks and another has are on record where they are.
func TestMovedClaimIsOnRecord(t *testing.T) {
	r := newRig(t, "server")
	a := serverGuest(1, "0000:41:00", cpuset.Set{}, 200, 1)
	a.PCI, a.Shm = nil, nil
	a.Memory[0].Mode = "preferred"
	r.model.OnChange(func(c sysfstest.Change) error {
		if strings.Contains(c.Path, "node1/hugepages") {
			return syscall.ENOMEM
		}
		return nil
	})
	err := r.prepare(a)
	r.model.OnChange(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.prepare(serverGuest(2, "0000:81:00", cpuset.Set{}, 128, 0)); err != nil {
		t.Fatal(err)
	}
	if s, err := r.model.FS().PoolState(sysfs.Pool{KiB: 2048, Node: 0}); err != nil || s.Free < 72+128 {
		t.Errorf("node 0 has %d pages free (%v); 72 and 128 are promised", s.Free, err)
	}
}

// A process that is killed while it lifts the CPUs' limit leaves nothing that looks like another's.
func TestKilledWhileLiftingTheLimit(t *testing.T) {
	for at := 1; ; at++ {
		r := newRig(t, "server")
		a := serverGuest(1, "0000:41:00", cpuList(t, "4-7,36-39"), 10, 1)
		b := serverGuest(2, "0000:81:00", cpuList(t, "20-23,52-55"), 10, 1)
		if err := r.prepare(a); err != nil {
			t.Fatal(err)
		}
		n := 0
		r.model.OnChange(func(sysfstest.Change) error {
			if n++; n == at {
				panic(errKilled)
			}
			return nil
		})
		died := killed(func() { _ = r.release(a) })
		r.model.OnChange(nil)
		if !died {
			if at < 10 {
				t.Fatalf("a release makes only %d changes", at-1)
			}
			return
		}
		var warnings []string
		if err := r.locked(func(h *hook.Host) (err error) {
			warnings, err = prepare.Run(context.Background(), h, b, hook.Caller{})
			return err
		}); err != nil || len(warnings) > 0 {
			t.Errorf("killed at change %d: the next guest gets %q, %v", at, warnings, err)
		}
	}
}

// Two guests with one file: it goes with the last.
func TestSharedFile(t *testing.T) {
	r := newRig(t, "server")
	file := []domain.File{{Path: "/dev/shm/looking-glass", Bytes: 32 * mib}}
	a := serverGuest(1, "0000:41:00", cpuset.Set{}, 10, 1)
	b := serverGuest(2, "0000:81:00", cpuset.Set{}, 10, 1)
	a.Shm, b.Shm = file, file
	before := r.snapshot()
	for _, f := range []func() error{
		func() error { return r.prepare(a) }, func() error { return r.prepare(b) }, func() error { return r.release(a) },
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	if !r.model.FS().Exists(file[0].Path) {
		t.Error("the first guest's release removed the file under the second")
	}
	if err := r.release(b); err != nil {
		t.Fatal(err)
	}
	r.wantAsBefore(before, "after both")
}

// A wedged write is one too many: the function is not touched again.
func TestStuckFunctionIsRefused(t *testing.T) {
	r := newRig(t, "server")
	g := serverGuest(1, "0000:41:00", cpuset.Set{}, 100, 1)
	writes := 0
	run := func() error {
		h := r.host()
		return h.Locked(context.Background(), "test", func(*os.File) hook.SlowRunner { return stuck{&writes} }, func() error {
			_, err := prepare.Run(context.Background(), h, g, hook.Caller{})
			return err
		})
	}
	if err := run(); err == nil || !strings.Contains(err.Error(), "is stuck in the kernel") {
		t.Errorf("the first prepare: %v", err)
	}
	first := writes
	if err := run(); err == nil || !strings.Contains(err.Error(), "is stuck in the kernel") {
		t.Errorf("the second prepare: %v", err)
	}
	if writes != first {
		t.Errorf("the stuck function was written to %d times more", writes-first)
	}
	if err := r.prepare(serverGuest(2, "0000:81:00", cpuset.Set{}, 100, 1)); err != nil {
		t.Errorf("another guest: %v", err)
	}
}

// stuck is a kernel whose slow writes never return.
type stuck struct{ n *int }

func (s stuck) Run(_ context.Context, t hook.SlowTask) error {
	*s.n++
	return &hook.WedgedError{Task: t}
}

func (stuck) Close() {}

// A function that is gone from the bus cannot be given back, and keeps its guest from nothing.
func TestFunctionGone(t *testing.T) {
	r := newRig(t, "server")
	g := serverGuest(1, "0000:41:00", cpuset.Set{}, 100, 1)
	if err := r.prepare(g); err != nil {
		t.Fatal(err)
	}
	r.model.Remove(sysfs.PCIDevice("0000:41:00.1"))
	if err := r.release(g); err != nil {
		t.Errorf("release: %v", err)
	}
	g.PCI = g.PCI[:1]
	if err := r.prepare(g); err != nil {
		t.Errorf("prepare without it: %v", err)
	}
}

// A guest that runs keeps its card, whatever a person calls.
func TestRunningGuestKeepsItsCard(t *testing.T) {
	r := newRig(t, "server")
	g := serverGuest(1, "0000:41:00", cpuset.Set{}, 100, 1)
	if err := r.prepare(g); err != nil {
		t.Fatal(err)
	}
	r.model.AddProcess(sysfstest.Process{PID: 4711, Comm: "qemu-system-x86", Cmdline: []string{"qemu-system-x86_64", "-uuid", g.Guest.UUID}})
	r.model.SetFile("/run/libvirt/qemu/guest1.pid", "4711\n")
	recoverAll := func(h *hook.Host) error {
		_, err := release.Recover(context.Background(), h, "")
		return err
	}
	run := func(byHand bool) func(*hook.Host) error {
		return func(h *hook.Host) error {
			return release.Run(context.Background(), h, g.Guest.UUID, g.Guest.Name, byHand)
		}
	}
	held := r.snapshot()
	for name, f := range map[string]func(*hook.Host) error{"release by hand": run(true), "release": run(false), "recover": recoverAll} {
		if err := r.locked(f); (err == nil) != (name == "recover") {
			t.Errorf("%s: %v", name, err)
		}
		if diff := sysfstest.Diff(held, r.snapshot()); diff != "" {
			t.Errorf("%s took something from the running guest:\n%s", name, diff)
		}
	}
	r.model.SetFile("/run/libvirt/qemu/guest1.pid", "nonsense\n")
	if err := r.locked(run(true)); err == nil {
		t.Error("release by hand of a guest of which it cannot be told whether it runs")
	}
	// The claim is lost, the undo log is there: the pid files are looked through.
	r.model.SetFile("/run/libvirt/qemu/guest1.pid", "4711\n")
	if err := os.Remove(r.state + "/" + hook.LedgerDocument); err != nil {
		t.Fatal(err)
	}
	if err := r.locked(recoverAll); err != nil {
		t.Error(err)
	}
	if diff := sysfstest.Diff(held, r.snapshot()); diff != "" {
		t.Errorf("recover without a ledger took something from the running guest:\n%s", diff)
	}
}

// The daemon that called the hook is known by its name, wrapped or not; while it lives, a guest that is being started
// keeps what it has.
func TestDaemonOwesARelease(t *testing.T) {
	r := newRig(t, "fern")
	n := loadNeeds(t, "win11")
	r.model.AddProcess(sysfstest.Process{PID: 900, Comm: ".libvirtd-wrapp", Cmdline: []string{"libvirtd"}})
	owner := hook.LibvirtCaller(r.model.FS(), 900).Owner
	if owner == nil || owner.PID != 900 {
		t.Fatalf("the wrapped daemon is %v", owner)
	}
	if err := r.locked(func(h *hook.Host) error {
		_, err := prepare.Run(context.Background(), h, n, hook.Caller{Owner: owner})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	recoverNamed := func() (all []release.Recovery) {
		if err := r.locked(func(h *hook.Host) (err error) {
			all, err = release.Recover(context.Background(), h, "win11")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return all
	}
	if all := recoverNamed(); len(all) != 1 || !strings.Contains(all[0].Kept, "still owes it a release") {
		t.Errorf("while the guest may be starting: %+v", all)
	}
	if err := r.locked(func(h *hook.Host) error { return h.Started(context.Background(), n.Guest.UUID, "") }); err != nil {
		t.Fatal(err)
	}
	if all := recoverNamed(); len(all) != 1 || all[0].Kept != "" || all[0].Err != nil {
		t.Errorf("when it had started and QEMU is gone: %+v", all)
	}
}

// Memory under "restrictive" is held to its nodes by the cgroup.
func TestRestrictiveBinds(t *testing.T) {
	r := newRig(t, "server")
	g := serverGuest(1, "0000:41:00", cpuset.Set{}, 1000, 1)
	g.Memory[0].Mode = "restrictive"
	if err := r.prepare(g); err != nil {
		t.Fatal(err)
	}
	if s, err := r.model.FS().PoolState(sysfs.Pool{KiB: 2048, Node: 1}); err != nil || s.Free < 1000 {
		t.Errorf("node 1 has %d pages free, %v", s.Free, err)
	}
}

// A release that finds the configuration broken narrows no unit that was not narrowed before.
func TestUnitsOfABrokenConfiguration(t *testing.T) {
	r := newRig(t, "server")
	r.config.CPUs.Units = []string{"user.slice"}
	a := serverGuest(1, "0000:41:00", cpuList(t, "4-7,36-39"), 10, 1)
	b := serverGuest(2, "0000:81:00", cpuList(t, "20-23,52-55"), 10, 1)
	for _, g := range []*domain.Needs{a, b} {
		if err := r.prepare(g); err != nil {
			t.Fatal(err)
		}
	}
	r.config = hook.DefaultConfig()
	if err := r.release(a); err != nil {
		t.Fatal(err)
	}
	r.wantRead("/sys/fs/cgroup/system.slice/cpuset.cpus.effective", "0-63")
	r.wantRead("/sys/fs/cgroup/user.slice/cpuset.cpus.effective", "0-19,24-51,56-63")
}

// The list of guests that were refused is for people to read: damaged, it refuses nobody.
func TestDamagedRefusals(t *testing.T) {
	r := newRig(t, "fern")
	n := loadNeeds(t, "pages-only")
	before := r.snapshot()
	file := filepath.Join(r.state, hook.RefusalsDocument)
	for _, err := range []error{os.Mkdir(r.state, 0o700), os.WriteFile(file, []byte("garbage"), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := r.locked(func(h *hook.Host) error {
		warnings, err := prepare.Run(context.Background(), h, n, hook.Caller{ByHand: true})
		wantReason(t, warnings, file)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); string(b) != "garbage" {
		t.Errorf("it became %q, %v", b, err)
	}
	if err := r.release(n); err != nil {
		t.Error(err)
	}
	r.wantAsBefore(before, "after release")
}

// A ledger that ends anywhere too early stops everything, by name, and nothing is done on a guess: no call changes the host or the
// file. Put right, the release finds its way.
func TestLedgerCutAtEveryByte(t *testing.T) {
	r := newRig(t, "fern")
	n := loadNeeds(t, "win11")
	before := r.snapshot()
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(r.state, hook.LedgerDocument)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changes := r.model.Changes()
	length := len(whole) - 1 // without its last newline it is complete
	for cut := range length {
		if err := os.WriteFile(file, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		for call, err := range map[string]error{
			"prepare": r.prepare(n),
			"started": r.started(n),
			"release": r.release(n),
			"recover": r.locked(func(h *hook.Host) error { _, err := release.Recover(context.Background(), h, ""); return err }),
			"status":  r.host().LoadLedger(),
		} {
			var bad *journal.FileError
			if !errors.As(err, &bad) || bad.Path != file || bad.Remedy == "" {
				t.Fatalf("cut at byte %d: %s: %v", cut, call, err)
			}
		}
		if b, err := os.ReadFile(file); !bytes.Equal(b, whole[:cut]) || r.model.Changes() != changes {
			t.Fatalf("cut at byte %d: the file has %d bytes (%v), %d changes", cut, len(b), err, r.model.Changes()-changes)
		}
	}
	t.Logf("%d lengths, 5 calls each", length)
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.release(n); err != nil {
		t.Error(err)
	}
	r.wantAsBefore(before, "put right")
}
