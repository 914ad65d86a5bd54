package prepare_test

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/hook/release"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// The processes of the tests: libvirt's daemon, and the guest's QEMU.
const (
	daemonPID = 900
	qemuPID   = 4711
)

// recovered runs recover, for the guest named or for all, and returns what became of each.
func (r *rig) recovered(name string) []release.Recovery {
	r.t.Helper()
	var all []release.Recovery
	if err := r.locked(func(h *hook.Host) (err error) {
		all, err = release.Recover(context.Background(), h, name)
		return err
	}); err != nil {
		r.t.Fatal(err)
	}
	return all
}

// prepareFor prepares a guest as the libvirt daemon of the host has it done, and returns the daemon.
func (r *rig) prepareFor(n *domain.Needs) *hook.Process {
	r.t.Helper()
	r.model.AddProcess(sysfstest.Process{PID: daemonPID, Comm: "libvirtd", Cmdline: []string{"/usr/sbin/libvirtd"}})
	var by hook.Caller
	err := r.locked(func(h *hook.Host) error {
		by = hook.LibvirtCaller(h.FS, daemonPID)
		_, err := prepare.Run(context.Background(), h, n, by)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return by.Owner
}

func (r *rig) standing(n *domain.Needs) hook.Standing {
	r.t.Helper()
	h := r.loaded()
	g := h.Ledger.Guests[n.Guest.UUID]
	if g == nil {
		r.t.Fatalf("%s is not on record", n.Guest.Name)
	}
	s, err := h.Standing(n.Guest.UUID, g)
	if (err != nil) != (s == hook.Undecided) {
		r.t.Errorf("standing %s, error %v", s, err)
	}
	return s
}

// Recover tells by itself which guests run: by the daemon that owes a release, by the process that was noted, by libvirt's pid
// file, by the guest's scope. What cannot be told counts as running.
func TestWhoRuns(t *testing.T) {
	const (
		scope   = `/machine.slice/machine-qemu\x2d1\x2dguest1.scope`
		inOther = `/machine.slice/machine-games.slice/machine-qemu\x2d1\x2dguest1.scope`
		pidFile = "/run/libvirt/qemu/guest1.pid"
	)
	g := serverGuest(1, "0000:41:00", cpuList(t, "4-7"), 100, 1)
	qemu := sysfstest.Process{PID: qemuPID, Comm: "qemu-system-x86", Cmdline: []string{"qemu-system-x86_64", "-uuid", g.Guest.UUID}}
	other := sysfstest.Process{PID: qemuPID, Comm: "qemu-system-x86", Cmdline: []string{"qemu-system-x86_64", "-uuid", "11111111-2222-3333-4444-555555555555"}}
	runsIn := func(r *rig, group string) {
		r.model.AddCgroup(group)
		p := qemu
		p.Cgroup = group
		r.model.AddProcess(p)
	}
	for _, c := range []struct {
		name  string
		after func(r *rig)
		want  hook.Standing
		kept  string // "" if it is given back
	}{
		{"the daemon lives", func(*rig) {}, hook.Owed, "still owes it a release"},
		{"the daemon is gone", func(r *rig) { r.model.RemoveProcess(daemonPID) }, hook.Left, ""},
		{"another process has the daemon's number", func(r *rig) {
			r.model.RemoveProcess(daemonPID)
			r.model.AddProcess(sysfstest.Process{PID: daemonPID, Start: 123456, Comm: "libvirtd", Cmdline: []string{"/usr/sbin/libvirtd"}})
		}, hook.Left, ""},
		{"a pid file and QEMU", func(r *rig) {
			r.model.RemoveProcess(daemonPID)
			r.model.AddProcess(qemu)
			r.model.SetFile(pidFile, "4711\n")
		}, hook.Runs, "it runs"},
		{"a pid file that is left", func(r *rig) {
			r.model.RemoveProcess(daemonPID)
			r.model.SetFile(pidFile, "4711\n")
		}, hook.Left, ""},
		{"a pid file whose process is another guest's", func(r *rig) {
			r.model.RemoveProcess(daemonPID)
			r.model.AddProcess(other)
			r.model.SetFile(pidFile, "4711\n")
		}, hook.Left, ""},
		{"a pid file that holds nonsense", func(r *rig) {
			r.model.RemoveProcess(daemonPID)
			r.model.SetFile(pidFile, "soon\n")
		}, hook.Undecided, "cannot be told"},
		{"no pid file, but a process in the guest's scope", func(r *rig) {
			r.model.RemoveProcess(daemonPID)
			runsIn(r, scope)
		}, hook.Runs, "it runs"},
		{"no pid file, but a process in a part of the guest's scope", func(r *rig) {
			r.model.RemoveProcess(daemonPID)
			runsIn(r, scope+"/libvirt/emulator")
		}, hook.Runs, "it runs"},
		{"no pid file, but a process in a scope of another slice", func(r *rig) {
			r.model.RemoveProcess(daemonPID)
			runsIn(r, inOther+"/libvirt")
		}, hook.Runs, "it runs"},
		{"a scope of another guest's", func(r *rig) {
			r.model.RemoveProcess(daemonPID)
			r.model.AddCgroup(scope)
			p := other
			p.Cgroup = scope
			r.model.AddProcess(p)
		}, hook.Left, ""},
		{"an empty scope", func(r *rig) {
			r.model.RemoveProcess(daemonPID)
			r.model.AddCgroup(scope)
		}, hook.Left, ""},
		{"neither pid file nor scope, but the process that was noted", func(r *rig) {
			r.model.AddProcess(qemu)
			r.model.SetFile(pidFile, "4711\n")
			if err := r.started(g); err != nil {
				r.t.Fatal(err)
			}
			r.model.RemoveProcess(daemonPID)
			r.model.Remove(pidFile)
		}, hook.Runs, "it runs"},
		{"the number of the process that was noted is another's", func(r *rig) {
			r.model.AddProcess(qemu)
			r.model.SetFile(pidFile, "4711\n")
			if err := r.started(g); err != nil {
				r.t.Fatal(err)
			}
			r.model.RemoveProcess(daemonPID)
			r.model.Remove(pidFile)
			r.model.RemoveProcess(qemuPID)
			r.model.AddProcess(other)
		}, hook.Left, ""},
		{"it ran, and the daemon lives", func(r *rig) {
			r.model.AddProcess(qemu)
			r.model.SetFile(pidFile, "4711\n")
			if err := r.started(g); err != nil {
				r.t.Fatal(err)
			}
			r.model.RemoveProcess(qemuPID)
		}, hook.Owed, "still owes it a release"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			r := newRig(t, "server")
			before := r.snapshot()
			r.prepareFor(g)
			c.after(r)
			if s := r.standing(g); s != c.want {
				t.Errorf("it is taken for %q, want %q", s, c.want)
			}
			held := r.snapshot()
			var all []release.Recovery
			err := r.locked(func(h *hook.Host) (err error) {
				all, err = release.Recover(context.Background(), h, "")
				return err
			})
			if err != nil || len(all) != 1 {
				t.Fatalf("recover: %+v, error %v", all, err)
			}
			if c.kept != "" {
				if !strings.Contains(all[0].Kept, c.kept) {
					t.Errorf("kept %q, want %q", all[0].Kept, c.kept)
				}
				if diff := sysfstest.Diff(held, r.snapshot()); diff != "" {
					t.Errorf("a guest that is kept was disturbed:\n%s", diff)
				}
				return
			}
			if all[0].Kept != "" || all[0].Err != nil {
				t.Errorf("%+v", all[0])
			}
			// What the case itself has changed is no change of ours.
			for _, pid := range []int{daemonPID, qemuPID} {
				r.model.RemoveProcess(pid)
			}
			r.model.Remove(pidFile)
			if diff := sysfstest.Diff(before.Without("/sys/fs/cgroup/machine.slice", "/run/libvirt"), r.snapshot().Without("/sys/fs/cgroup/machine.slice", "/run/libvirt")); diff != "" {
				t.Errorf("the host is not as before:\n%s", diff)
			}
		})
	}
}

// A release that could not give everything back leaves a guest of which status says so, and which the next recover takes,
// whoever lives.
func TestGivenBackInPart(t *testing.T) {
	r := newRig(t, "server")
	g := serverGuest(1, "0000:41:00", cpuset.Set{}, 100, 1)
	before := r.snapshot()
	r.prepareFor(g)
	r.model.OnChange(func(c sysfstest.Change) error {
		if strings.HasSuffix(c.Path, "0000:41:00.1/driver_override") {
			return syscall.EIO
		}
		return nil
	})
	if err := r.release(g); err == nil {
		t.Error("release says nothing of what it could not do")
	}
	r.model.OnChange(nil)
	if s := r.standing(g); s != hook.InPart {
		t.Errorf("it is taken for %q", s)
	}
	if all := r.recovered(""); len(all) != 1 || all[0].Kept != "" || all[0].Err != nil {
		t.Errorf("recover: %+v", all)
	}
	r.model.RemoveProcess(daemonPID)
	r.wantAsBefore(before, "after recover")
}

// Reconnect mends what can be mended while the guest runs.
func TestReconnectMends(t *testing.T) {
	r := newRig(t, "fern")
	n := loadNeeds(t, "demo")
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	whole := r.snapshot()
	fs := r.model.FS()
	dir, err := fs.OpenDir("/dev/shm")
	if err != nil {
		t.Fatal(err)
	}
	f, err := dir.Open("looking-glass")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	if err := r.model.Systemd().SetAllowedCPUs(context.Background(), "user.slice", cpuset.Set{}); err != nil {
		t.Fatal(err)
	}
	if sysfstest.Diff(whole, r.snapshot()) == "" {
		t.Fatal("nothing drifted")
	}
	if err := r.locked(func(h *hook.Host) error {
		return h.Reconnect(context.Background(), n.Guest.UUID, n.Guest.Name, hook.Caller{})
	}); err != nil {
		t.Error(err)
	}
	if diff := sysfstest.Diff(whole, r.snapshot()); diff != "" {
		t.Errorf("reconnect leaves it drifted:\n%s", diff)
	}
	// What is another file now is said, and left.
	if err := dir.Remove("looking-glass"); err != nil {
		t.Fatal(err)
	}
	err = r.locked(func(h *hook.Host) error {
		return h.Reconnect(context.Background(), n.Guest.UUID, n.Guest.Name, hook.Caller{})
	})
	if err == nil || !strings.Contains(err.Error(), "/dev/shm/looking-glass") {
		t.Errorf("the file is gone, and reconnect says %v", err)
	}
	if err := r.release(n); err != nil {
		t.Error(err)
	}
}

// A daemon that runs is no guest, though libvirt notes its process where it notes those of guests.
func TestSomeGuest(t *testing.T) {
	r := newRig(t, "server")
	r.model.AddProcess(sysfstest.Process{PID: daemonPID, Comm: "libvirtd", Cmdline: []string{"/usr/sbin/libvirtd", "--timeout", "120"}})
	r.model.SetFile("/run/libvirt/qemu/driver.pid", "900\n")
	if pid, err := r.loaded().SomeGuest(); pid != 0 || err != nil {
		t.Errorf("process %d is a guest, error %v", pid, err)
	}
	r.model.AddProcess(sysfstest.Process{PID: qemuPID, Comm: "qemu-system-x86", Cmdline: []string{"qemu-system-x86_64", "-name", "guest=a", "-uuid", "x"}})
	r.model.SetFile("/run/libvirt/qemu/a.pid", "4711\n")
	if pid, err := r.loaded().SomeGuest(); pid != qemuPID || err != nil {
		t.Errorf("process %d is a guest, error %v", pid, err)
	}
}

// A release that came in vain, as others had the lock too long, is remembered: recover takes the guest although the daemon lives,
// and the next prepare forgets it.
func TestReleasedInVain(t *testing.T) {
	r := newRig(t, "server")
	g := serverGuest(1, "0000:41:00", cpuset.Set{}, 100, 1)
	before := r.snapshot()
	r.prepareFor(g)
	if err := r.journal().MarkReleased(g.Guest.UUID); err != nil {
		t.Fatal(err)
	}
	if s := r.standing(g); s != hook.Left {
		t.Errorf("it is taken for %q", s)
	}
	r.prepareFor(g)
	if s := r.standing(g); s != hook.Owed {
		t.Errorf("prepared again it is taken for %q", s)
	}
	if err := r.journal().MarkReleased(g.Guest.UUID); err != nil {
		t.Fatal(err)
	}
	if all := r.recovered(""); len(all) != 1 || all[0].Kept != "" || all[0].Err != nil {
		t.Errorf("recover: %+v", all)
	}
	r.model.RemoveProcess(daemonPID)
	r.wantAsBefore(before, "after recover")
}

// Whatever look for the daemon that calls the hook fails: a guest for which nobody would be seen to owe a release is not prepared, as
// recover could take its devices before QEMU has started. That a process is gone is no failure.
func TestUnseenDaemon(t *testing.T) {
	const shell, hookPID = 901, 902 // between the daemon and the hook
	faults := 0
	for _, pid := range []int{daemonPID, shell, hookPID} {
		for _, errno := range answers(opRead) {
			faults++
			t.Run(fmt.Sprintf("%d/%v", pid, errno), func(t *testing.T) {
				r := newRig(t, "server")
				for p, comm := range map[int]string{daemonPID: "libvirtd", shell: "sh", hookPID: "qemu-hook"} {
					r.model.AddProcess(sysfstest.Process{PID: p, Comm: comm, Cmdline: []string{comm}})
					r.model.SetFile(fmt.Sprintf("/proc/%d/stat", p), fmt.Sprintf("%d (%s) S %d%s\n", p, comm, p-1, strings.Repeat(" 0", 48)))
				}
				before := r.snapshot()
				g := serverGuest(1, "0000:41:00", cpuList(t, "4-7"), 100, 1)
				f := newFaulty(&fault{operation{kind: opRead, path: fmt.Sprintf("/proc/%d/stat", pid)}, ever, errno})
				r.door = func(k sysfs.Kernel) sysfs.Kernel { return faultyKernel{k, f} }
				err := r.locked(func(h *hook.Host) error {
					_, err := prepare.Run(context.Background(), h, g, hook.LibvirtCaller(h.FS, hookPID))
					return err
				})
				r.door = nil
				if f.hit == 0 {
					t.Fatal("nobody looks")
				}
				if err == nil || !strings.Contains(err.Error(), f.fault.path) || !strings.Contains(err.Error(), "start it again") {
					t.Errorf("prepare says %v", err)
				}
				r.wantAsBefore(before, "refused")
			})
		}
	}
	t.Run("gone", func(t *testing.T) {
		if by := hook.LibvirtCaller(newRig(t, "server").model.FS(), hookPID); by.Unseen != nil || by.Owner != nil {
			t.Errorf("the caller is %+v", by)
		}
	})
	t.Logf("%d faults", faults)
}
