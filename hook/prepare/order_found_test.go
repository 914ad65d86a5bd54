package prepare_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/hook/release"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// What [TestEveryOrder] has found.

// A slice that somebody else has limited while guests run is left so, which is no failure of the release of one of them,
// nor of a refused prepare.
func TestDriftedWhileOthersRun(t *testing.T) {
	r := newRig(t, "server")
	a, b := serverGuest(1, "0000:41:00", cpuList(t, "4-7"), 100, 1), serverGuest(2, "0000:81:00", cpuList(t, "20-23"), 100, 1)
	for _, n := range []*domain.Needs{a, b} {
		if err := r.prepare(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.model.Systemd().SetAllowedCPUs(context.Background(), "user.slice", cpuset.Of(1, 2)); err != nil {
		t.Fatal(err)
	}
	c := serverGuest(3, "0000:41:00", cpuset.Set{}, 100, 1)
	before := r.snapshot()
	var refusal *hook.Refusal
	if err := r.prepare(c); !errors.As(err, &refusal) || len(refusal.Reasons) != 1 {
		t.Errorf("prepare of a third: %v", err)
	}
	if diff := sysfstest.Diff(before, r.snapshot()); diff != "" {
		t.Errorf("after a refusal:\n%s", diff)
	}
	if err := r.release(b); err != nil {
		t.Errorf("release: %v", err)
	}
	r.wantRead("/sys/fs/cgroup/user.slice/cpuset.cpus.effective", "1-2")
	r.wantRead("/sys/fs/cgroup/system.slice/cpuset.cpus.effective", "0-3,8-63")
}

// A guest has taken over the pages of one that has ended and is not released yet: they are its own from then on, and not
// taken from those of others in the meantime.
func TestPagesTakenOver(t *testing.T) {
	r := newRig(t, "server")
	a, b := serverGuest(1, "0000:41:00", cpuset.Set{}, 1000, 1), serverGuest(2, "0000:81:00", cpuset.Set{}, 1000, 1)
	before := r.snapshot()
	pool := sysfs.Pool{KiB: 2048, Node: 1}
	was := r.pool(pool)
	if err := r.prepare(a); err != nil {
		t.Fatal(err)
	}
	if err := r.started(a); err != nil {
		t.Fatal(err)
	}
	if err := r.prepare(b); err != nil { // a's QEMU has ended
		t.Fatal(err)
	}
	if err := r.release(a); err != nil {
		t.Fatal(err)
	}
	if err := r.model.UsePages(2048, 1, 1000); err != nil {
		t.Fatal(err)
	}
	// Somebody adds pages for himself.
	more := r.pool(pool).Persistent() + 12
	if err := r.model.FS().SetPool(pool, more); err != nil {
		t.Fatal(err)
	}
	if err := r.release(a); err != nil {
		t.Fatal(err)
	}
	if now := r.pool(pool).Persistent(); now != more {
		t.Errorf("of %d pages %d are left", more, now)
	}
	if err := r.model.FS().SetPool(pool, more-12); err != nil {
		t.Fatal(err)
	}
	if err := r.model.UsePages(2048, 1, -1000); err != nil {
		t.Fatal(err)
	}
	if err := r.release(b); err != nil {
		t.Fatal(err)
	}
	if now := r.pool(pool); now != was {
		t.Errorf("the pool was %+v and is %+v", was, now)
	}
	r.wantAsBefore(before, "after both")
}

func (r *rig) pool(p sysfs.Pool) sysfs.PoolState {
	r.t.Helper()
	s, err := r.model.FS().PoolState(p)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// Somebody takes away pages that were added for a guest, before they are given back: they are not owed any more, or pages that
// others add later would be taken for them.
func TestAddedPagesTakenAway(t *testing.T) {
	r := newRig(t, "server")
	a := serverGuest(1, "0000:41:00", cpuset.Set{}, 1000, 1)
	if err := r.prepare(a); err != nil {
		t.Fatal(err)
	}
	pool := sysfs.Pool{KiB: 2048, Node: 1}
	for _, to := range []uint64{0, 40} {
		if err := r.model.FS().SetPool(pool, to); err != nil {
			t.Fatal(err)
		}
		if err := r.release(a); err != nil {
			t.Fatal(err)
		}
		if !r.loaded().Ledger.Empty() {
			t.Errorf("with %d pages, on record is %+v", to, r.loaded().Ledger.Pools)
		}
	}
	if now := r.pool(pool).Persistent(); now != 40 {
		t.Errorf("of 40 pages that somebody has added %d are left", now)
	}
}

// Between libvirt's prepare and QEMU's start a person's release would take from under the guest what it is about to use.
func TestReleaseByHandWhileStarting(t *testing.T) {
	r := newRig(t, "server")
	n := serverGuest(1, "0000:41:00", cpuList(t, "4-7"), 100, 1)
	before := r.snapshot()
	r.model.AddProcess(sysfstest.Process{PID: 4000, Comm: "libvirtd", Cgroup: "/system.slice/libvirtd.service"})
	err := r.locked(func(h *hook.Host) error {
		_, err := prepare.Run(context.Background(), h, n, hook.LibvirtCaller(h.FS, 4000))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	byHand := func() error {
		return r.locked(func(h *hook.Host) error {
			return release.Run(context.Background(), h, n.Guest.UUID, n.Guest.Name, true)
		})
	}
	held := r.snapshot()
	if err := byHand(); err == nil || !strings.Contains(err.Error(), "may be starting") {
		t.Errorf("release by hand: %v", err)
	}
	if diff := sysfstest.Diff(held, r.snapshot()); diff != "" {
		t.Errorf("something was taken from the guest:\n%s", diff)
	}
	// The daemon dies: it will not start it any more.
	r.model.RemoveProcess(4000)
	if err := byHand(); err != nil {
		t.Error(err)
	}
	r.wantAsBefore(before, "after release")
}

// A card came home, and the release was killed then. Meanwhile another card is back, too: the way by which the driver lets go
// is another one than the record says.
func TestPrepareAfterHalfARelease(t *testing.T) {
	r := newRig(t, "two-cards")
	r.configure("")
	a, b := guest("a", "0a", cardFunctions(0)...), guest("b", "0b", cardFunctions(1)...)
	before := r.snapshot()
	for _, n := range []*domain.Needs{a, b} {
		if err := r.prepare(n); err != nil {
			t.Fatal(err)
		}
	}
	r.model.AfterChange(func(c sysfstest.Change) error {
		if d, _ := r.model.FS().PCIDriver(cardFunctions(1)[0]); d == "nvidia" {
			panic(errKilled)
		}
		return nil
	})
	if !killed(func() { _ = r.release(b) }) {
		t.Fatal("the release was not killed")
	}
	r.model.AfterChange(nil)
	if err := r.release(a); err != nil {
		t.Fatal(err)
	}
	if err := r.prepare(b); err != nil {
		t.Errorf("prepare: %v", err)
	}
	if err := r.release(b); err != nil {
		t.Fatal(err)
	}
	r.wantAsBefore(before, "after both")
}

// Somebody puts another file in the place of one that was made for a guest, which is then prepared again: it uses that, and
// leaves it.
func TestShmReplacedBetweenPrepares(t *testing.T) {
	r := newRig(t, "server")
	n := serverGuest(1, "0000:41:00", cpuset.Set{}, 100, 1)
	before := r.snapshot()
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	r.model.Remove(n.Shm[0].Path)
	r.model.SetFile(n.Shm[0].Path, "somebody's")
	if err := r.prepare(n); err != nil {
		t.Errorf("prepare: %v", err)
	}
	if err := r.release(n); err != nil {
		t.Fatal(err)
	}
	if st, err := r.model.FS().Lstat(n.Shm[0].Path); err != nil || st.Perm() != 0o644 {
		t.Errorf("somebody's file: %+v, %v", st, err)
	}
	r.model.Remove(n.Shm[0].Path)
	r.wantAsBefore(before, "after release")
}
