package prepare_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/release"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

const mib = 1 << 20

// serverGuest is a guest of the two-socket server: a card, eight CPUs and memory on one node.
func serverGuest(i int, pci string, cpus cpuset.Set, pages uint64, node int) *domain.Needs {
	return &domain.Needs{
		Guest:  domain.Guest{Name: fmt.Sprintf("guest%d", i), UUID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i)},
		PCI:    []domain.Function{{Address: pci + ".0"}, {Address: pci + ".1"}},
		Pinned: cpus, VCPUs: cpus,
		Memory: []domain.Backend{{Bytes: pages * 2 * mib, PageKiB: 2048, HostNodes: cpuset.Of(node), Mode: "strict"}},
		Shm:    []domain.File{{Path: fmt.Sprintf("/dev/shm/frames%d", i), Bytes: 32 * mib}},
	}
}

func cpuList(t *testing.T, s string) cpuset.Set {
	t.Helper()
	set, err := cpuset.ParseList(s)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func (r *rig) wantRead(name, want string) {
	r.t.Helper()
	if got, err := r.model.FS().Read(name); err != nil || got != want {
		r.t.Errorf("%s is %q (%v), want %q", name, got, err, want)
	}
}

func pool2M(node int) string {
	return fmt.Sprintf("/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/", node)
}

// Two guests, started and stopped in every order: the host's CPUs and pages are right at each stage and in the end
// as before.
func TestTwoGuests(t *testing.T) {
	for _, order := range []string{"AaBb", "ABab", "ABba", "BAab", "BAba"} {
		t.Run(order, func(t *testing.T) {
			r := newRig(t, "server")
			a := serverGuest(1, "0000:41:00", cpuList(t, "4-7,36-39"), 1000, 1)
			b := serverGuest(2, "0000:81:00", cpuList(t, "20-23,52-55"), 500, 1)
			guests := map[rune]*domain.Needs{'A': a, 'B': b}
			up := map[rune]bool{}
			free, err := r.model.FS().Read(pool2M(1) + "free_hugepages")
			if err != nil {
				t.Fatal(err)
			}
			before := r.snapshot()
			for _, c := range order {
				if g := guests[c]; g != nil {
					if err := r.prepare(g); err != nil {
						t.Fatal(err)
					}
					up[c] = true
				} else {
					c -= 'a' - 'A'
					if err := r.release(guests[c]); err != nil {
						t.Fatal(err)
					}
					delete(up, c)
				}
				host := cpuList(t, "0-63")
				promised := uint64(0)
				for c := range up {
					host = host.Minus(guests[c].Pinned)
					promised += guests[c].Memory[0].Bytes / (2 * mib)
				}
				for _, unit := range []string{"system.slice", "user.slice", "init.scope"} {
					r.wantRead("/sys/fs/cgroup/"+unit+"/cpuset.cpus.effective", host.String())
				}
				if s, err := r.model.FS().PoolState(sysfs.Pool{KiB: 2048, Node: 1}); err != nil || s.Free < promised {
					t.Errorf("after %c: %d pages are free, %d are promised (%v)", c, s.Free, promised, err)
				}
			}
			r.wantRead(pool2M(1)+"free_hugepages", free)
			r.wantAsBefore(before, order)
		})
	}
}

// A guest takes pages into use, the pool's other pages go to others; what is given back is what was added.
func TestPagesInUse(t *testing.T) {
	r := newRig(t, "server")
	a := serverGuest(1, "0000:41:00", cpuset.Set{}, 1000, 1)
	b := serverGuest(2, "0000:81:00", cpuset.Set{}, 500, 1)
	before := r.snapshot()
	for _, g := range []*domain.Needs{a, b} {
		if err := r.prepare(g); err != nil {
			t.Fatal(err)
		}
		pages := int64(g.Memory[0].Bytes / (2 * mib))
		if err := r.model.UsePages(2048, 1, pages); err != nil {
			t.Fatalf("QEMU of %s finds no pages: %v", g.Guest.Name, err)
		}
		if err := r.locked(func(h *hook.Host) error { return h.Started(context.Background(), g.Guest.UUID, g.Guest.Name) }); err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range []*domain.Needs{a, b} {
		if err := r.model.UsePages(2048, 1, -int64(g.Memory[0].Bytes/(2*mib))); err != nil {
			t.Fatal(err)
		}
		if err := r.release(g); err != nil {
			t.Fatal(err)
		}
	}
	r.wantAsBefore(before, "after both")
}

// Somebody else takes pages that were added for a guest: they are not taken from under him, and come back when he
// is done.
func TestPagesTakenByOthers(t *testing.T) {
	r := newRig(t, "server")
	g := serverGuest(1, "0000:41:00", cpuset.Set{}, 1000, 1)
	before := r.snapshot()
	if err := r.prepare(g); err != nil {
		t.Fatal(err)
	}
	if err := r.model.UsePages(2048, 1, 300); err != nil {
		t.Fatal(err)
	}
	if err := r.release(g); err != nil {
		t.Fatal(err)
	}
	s, err := r.model.FS().PoolState(sysfs.Pool{KiB: 2048, Node: 1})
	if err != nil || s.InUse() != 300 || s.Surplus != 0 {
		t.Errorf("the other's pages: %+v, %v; want 300 in use and none surplus", s, err)
	}
	if err := r.model.UsePages(2048, 1, -300); err != nil {
		t.Fatal(err)
	}
	// The next event, whosever it is, gives back the rest.
	if err := r.release(serverGuest(2, "0000:81:00", cpuset.Set{}, 1, 1)); err != nil {
		t.Fatal(err)
	}
	r.wantAsBefore(before, "when the other is done")
}

// A function belongs to one guest. The second guest's refusal, and libvirt's release after it, leave the first alone.
func TestFunctionTaken(t *testing.T) {
	r := newRig(t, "server")
	a := serverGuest(1, "0000:41:00", cpuset.Set{}, 100, 1)
	b := serverGuest(2, "0000:41:00", cpuset.Set{}, 100, 1)
	before := r.snapshot()
	if err := r.prepare(a); err != nil {
		t.Fatal(err)
	}
	held := r.snapshot()
	err := r.prepare(b)
	var refusal *hook.Refusal
	if !errors.As(err, &refusal) || !strings.Contains(err.Error(), "taken by guest guest1") {
		t.Errorf("the second guest got %v", err)
	}
	if err := r.release(b); err != nil {
		t.Error(err)
	}
	if diff := sysfstest.Diff(held, r.snapshot()); diff != "" {
		t.Errorf("the first guest was disturbed:\n%s", diff)
	}
	if err := r.release(a); err != nil {
		t.Error(err)
	}
	r.wantAsBefore(before, "after both")
}

// Prepared by hand and then by libvirt: the second prepare completes the first, and gives back what a changed XML
// does not ask for any more.
func TestPrepareTwice(t *testing.T) {
	r := newRig(t, "server")
	g := serverGuest(1, "0000:41:00", cpuList(t, "4-7"), 1000, 1)
	before := r.snapshot()
	if err := r.prepare(g); err != nil {
		t.Fatal(err)
	}
	once := r.snapshot()
	if err := r.prepare(g); err != nil {
		t.Fatal(err)
	}
	if diff := sysfstest.Diff(once, r.snapshot()); diff != "" {
		t.Errorf("the second prepare changed the host:\n%s", diff)
	}
	less := serverGuest(1, "0000:41:00", cpuList(t, "4-5"), 600, 1)
	less.PCI, less.Shm = less.PCI[:1], nil
	less.LibvirtPCI = []string{"0000:41:00.1"}
	if err := r.prepare(less); err != nil {
		t.Fatal(err)
	}
	if d, err := r.model.FS().PCIDriver("0000:41:00.1"); err != nil || d != "snd_hda_intel" {
		t.Errorf("the function that is no longer asked for has driver %q, %v", d, err)
	}
	if r.model.FS().Exists("/dev/shm/frames1") {
		t.Error("the file that is no longer asked for is still there")
	}
	other := r.model.Clone()
	defer other.Close()
	if err := r.release(g); err != nil {
		t.Fatal(err)
	}
	r.wantAsBefore(before, "after release")
}

// A guest that ran and ended without a release, as when the daemon was killed, is given back before it is prepared.
func TestPrepareAfterLostRelease(t *testing.T) {
	r := newRig(t, "server")
	g := serverGuest(1, "0000:41:00", cpuList(t, "4-7"), 1000, 1)
	before := r.snapshot()
	if err := r.prepare(g); err != nil {
		t.Fatal(err)
	}
	if err := r.locked(func(h *hook.Host) error { return h.Started(context.Background(), g.Guest.UUID, "") }); err != nil {
		t.Fatal(err)
	}
	if err := r.prepare(g); err != nil {
		t.Fatal(err)
	}
	if err := r.release(g); err != nil {
		t.Fatal(err)
	}
	r.wantAsBefore(before, "after release")
}

// A guest that runs is not prepared again, whoever asks, and keeps what it has.
func TestPrepareWhileRunning(t *testing.T) {
	r := newRig(t, "server")
	g := serverGuest(1, "0000:41:00", cpuList(t, "4-7"), 1000, 1)
	if err := r.prepare(g); err != nil {
		t.Fatal(err)
	}
	r.model.AddProcess(sysfstest.Process{PID: 4711, Comm: "qemu-system-x86", Cmdline: []string{"qemu-system-x86_64", "-uuid", g.Guest.UUID}})
	r.model.SetFile("/run/libvirt/qemu/guest1.pid", "4711\n")
	held := r.snapshot()
	if err := r.prepare(g); err == nil || !strings.Contains(err.Error(), "is running") {
		t.Errorf("prepare of a running guest: %v", err)
	}
	if diff := sysfstest.Diff(held, r.snapshot()); diff != "" {
		t.Errorf("the running guest was disturbed:\n%s", diff)
	}
	recoverAll := func(name string) []release.Recovery {
		var all []release.Recovery
		if err := r.locked(func(h *hook.Host) (err error) {
			all, err = release.Recover(context.Background(), h, name)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return all
	}
	if all := recoverAll("guest1"); len(all) != 1 || all[0].Kept != "it runs" {
		t.Errorf("recover of a running guest: %+v", all)
	}
	r.model.Remove("/run/libvirt/qemu/guest1.pid")
	if all := recoverAll(""); len(all) != 1 || !strings.Contains(all[0].Kept, "by hand") {
		t.Errorf("recover without a name, of a guest prepared by hand: %+v", all)
	}
	if all := recoverAll("guest1"); len(all) != 1 || all[0].Kept != "" || all[0].Err != nil {
		t.Errorf("recover by name: %+v", all)
	}
	if all := recoverAll(""); len(all) != 0 {
		t.Errorf("recover with nothing on record: %+v", all)
	}
}

// libvirt's managed='yes' has taken the function home before release, and cleared the override.
func TestLibvirtWasHomeFirst(t *testing.T) {
	r := newRig(t, "server")
	g := serverGuest(1, "0000:41:00", cpuset.Set{}, 100, 1)
	before := r.snapshot()
	if err := r.prepare(g); err != nil {
		t.Fatal(err)
	}
	fs := r.model.FS()
	for _, f := range g.PCI {
		for _, w := range [][2]string{
			{sysfs.PCIDevice(f.Address) + "/driver_override", ""},
			{sysfs.PCIDriverAttr("vfio-pci", "unbind"), f.Address},
			{sysfs.PCIBus + "/drivers_probe", f.Address},
		} {
			if err := fs.Write(w[0], w[1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.release(g); err != nil {
		t.Fatal(err)
	}
	r.wantAsBefore(before, "after libvirt's reattach and release")
}

// A driver that somebody else has bound meanwhile is theirs.
func TestDrifted(t *testing.T) {
	r := newRig(t, "server")
	g := serverGuest(1, "0000:41:00", cpuList(t, "4-7"), 100, 1)
	if err := r.prepare(g); err != nil {
		t.Fatal(err)
	}
	if err := r.model.Systemd().SetAllowedCPUs(context.Background(), "user.slice", cpuset.Of(1, 2)); err != nil {
		t.Fatal(err)
	}
	if err := r.release(g); err != nil {
		t.Fatal(err)
	}
	r.wantRead("/sys/fs/cgroup/user.slice/cpuset.cpus.effective", "1-2")
	r.wantRead("/sys/fs/cgroup/system.slice/cpuset.cpus.effective", "0-63")
}

// The kernel's own refusal to bind ends in a refusal that names the function, and the host is as before.
func TestProbeFails(t *testing.T) {
	r := newRig(t, "server")
	g := serverGuest(1, "0000:41:00", cpuset.Set{}, 100, 1)
	r.model.FailProbe("0000:41:00.1", "vfio-pci", syscall.EINVAL)
	before := r.snapshot()
	err := r.prepare(g)
	if err == nil || !strings.Contains(err.Error(), "cannot bind 0000:41:00.1 to vfio-pci") {
		t.Errorf("got %v", err)
	}
	r.wantAsBefore(before, "after the refusal")
}

// Clearing AllowedCPUs does not always reach the cgroup (pitfall of systemd 43846); what tasks can run on is read
// back and mended.
func TestLimitLiftedOnPaperOnly(t *testing.T) {
	r := newRig(t, "server")
	r.stale = sysfstest.StaleAlways
	g := serverGuest(1, "0000:41:00", cpuList(t, "4-7"), 100, 1)
	before := r.snapshot()
	if err := r.prepare(g); err != nil {
		t.Fatal(err)
	}
	if err := r.release(g); err != nil {
		t.Fatal(err)
	}
	r.wantAsBefore(before, "after release")
}

// A kernel that does not empty the CPUs of a cgroup with tasks is left with all of them, which is no limit.
func TestCPUsCannotBeEmptied(t *testing.T) {
	r := newRig(t, "server")
	r.stale = sysfstest.StaleAlways
	r.model.KeepCPUs()
	g := serverGuest(1, "0000:41:00", cpuList(t, "4-7"), 100, 1)
	if err := r.prepare(g); err != nil {
		t.Fatal(err)
	}
	if err := r.release(g); err != nil {
		t.Fatal(err)
	}
	for _, unit := range []string{"system.slice", "user.slice", "init.scope"} {
		r.wantRead("/sys/fs/cgroup/"+unit+"/cpuset.cpus.effective", "0-63")
	}
}

// systemd takes the cpuset controller away while its file is open: the write finds nothing behind it any more.
func TestCgroupFileGoesWhileOpen(t *testing.T) {
	r := newRig(t, "server")
	r.stale = sysfstest.StaleAlways
	g := serverGuest(1, "0000:41:00", cpuList(t, "4-7"), 100, 1)
	if err := r.prepare(g); err != nil {
		t.Fatal(err)
	}
	r.model.OnChange(func(c sysfstest.Change) error {
		if strings.HasSuffix(c.Path, "/cpuset.cpus") {
			return syscall.ENODEV
		}
		return nil
	})
	if err := r.release(g); err != nil {
		t.Error(err)
	}
}
