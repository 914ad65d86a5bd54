package prepare_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/hook/release"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/systemd"
)

func (r *rig) bind(addresses ...string) error {
	return r.locked(func(h *hook.Host) error {
		_, err := prepare.Bind(context.Background(), h, addresses)
		return err
	})
}

func guest(name, last string, functions ...string) *domain.Needs {
	n := card(functions...)
	n.Guest = domain.Guest{Name: name, UUID: "6f0c1f5a-54c3-4c0e-9a35-2c1a8a8d1e" + last}
	return n
}

// bind of another function touches nothing that a guest has.
func TestBindUnderAGuest(t *testing.T) {
	r := busy(t, "SECOND=0000:09:00.0 class=0300 id=8086:56a0 driver=i915 group=19 nodes=drm:card2:226:2")
	if err := r.bind("0000:08:00.0", "0000:08:00.1"); err != nil {
		t.Fatal(err)
	}
	if err := r.prepare(card()); err != nil {
		t.Fatal(err)
	}
	if err := r.bind("0000:09:00.0"); err != nil {
		t.Error(err)
	}
	if d := r.driver("0000:09:00.0"); d != "vfio-pci" {
		t.Errorf("the other card is on %q", d)
	}
	if d := r.driver("0000:08:00.0"); d != "vfio-pci" {
		t.Errorf("the running guest's card is on %q", d)
	}
}

// A bind that is refused leaves what was bound before.
func TestBindRefusedKeepsOthers(t *testing.T) {
	r := busy(t)
	if err := r.bind("0000:08:00.0", "0000:08:00.1"); err != nil {
		t.Fatal(err)
	}
	if err := r.bind("0000:03:00.0"); err == nil {
		t.Error("the host's own card was bound")
	}
	if d := r.driver("0000:08:00.0"); d != "vfio-pci" {
		t.Errorf("what was bound before is on %q", d)
	}
}

// recover takes nothing that is bound by hand from under a guest, also when it is named.
func TestRecoverHandUnderGuest(t *testing.T) {
	r := busy(t)
	if err := r.bind("0000:08:00.0", "0000:08:00.1"); err != nil {
		t.Fatal(err)
	}
	if err := r.prepare(card()); err != nil {
		t.Fatal(err)
	}
	r.model.AddProcess(sysfstest.Process{PID: 4711, Comm: "qemu-system-x86", Cmdline: []string{"qemu-system-x86_64", "-uuid", card().Guest.UUID}})
	r.model.SetFile("/run/libvirt/qemu/win11.pid", "4711\n")
	if err := r.locked(func(h *hook.Host) error {
		_, err := release.Recover(context.Background(), h, hook.HandName)
		return err
	}); err != nil {
		t.Error(err)
	}
	if d := r.driver("0000:08:00.0"); d != "vfio-pci" {
		t.Errorf("the running guest's card is on %q", d)
	}
}

// A card that stays after its guest does so after its guest: a prepare that fails gives it back.
func TestStayAndRefused(t *testing.T) {
	r := busy(t)
	r.configure(`gpu.give_back."0000:08:00.0" = "stay"`)
	r.model.AddProcess(sysfstest.Process{PID: 3000, Comm: "waybar", Cgroup: "/user.slice/user-1000.slice/session-2.scope", UID: 1000})
	before := r.snapshot()
	r.model.OnChange(func(c sysfstest.Change) error {
		if c.Op == "unload" {
			_ = r.model.Opens(3000, "/dev/nvidia0")
		}
		return nil
	})
	if err := r.prepare(card()); err == nil {
		t.Fatal("prepared")
	}
	r.model.OnChange(nil)
	r.model.Closes(3000, "/dev/nvidia0")
	r.wantAsBefore(before, "after the refusal")
}

// The console comes back with its card, also while another guest runs.
func TestConsoleOfTheOtherCard(t *testing.T) {
	r := busy(t, "BOOT=1", "HOSTBOOT=0", "FB0=pci0000:00/0000:00:02.0/0000:08:00.0",
		"SECOND=0000:09:00.0 class=0300 id=8086:56a0 driver=i915 group=19 nodes=drm:card2:226:2")
	second := guest("second", "02", "0000:09:00.0")
	if err := r.prepare(card()); err != nil {
		t.Fatal(err)
	}
	if err := r.prepare(second); err != nil {
		t.Fatal(err)
	}
	if err := r.release(card()); err != nil {
		t.Fatal(err)
	}
	if got, _ := r.model.FS().Read("/sys/class/vtconsole/vtcon1/bind"); got != "1" {
		t.Error("the console's card is back, and the host has no console")
	}
}

// What belongs to a card that stays, stays with it: the firmware's frame buffer off its memory.
func TestStayAndConsole(t *testing.T) {
	r := busy(t, "FB0=platform/efi-framebuffer.0", "IOMEM=    4000000000-40007e8fff : BOOTFB",
		"FRAMEBUFFERS=-- framebuffers --\nefi-framebuffer.0 driver=efi-framebuffer name=BOOTFB\n")
	r.configure(`gpu.give_back."0000:08:00.0" = "stay"`)
	for i := range 2 {
		if err := r.prepare(card()); err != nil {
			t.Fatal(err)
		}
		if v, _ := r.model.FS().Read("/proc/iomem"); strings.Contains(v, "BOOTFB") {
			t.Errorf("start %d: the firmware's frame buffer has the card's memory", i+1)
		}
		if err := r.release(card()); err != nil {
			t.Fatal(err)
		}
	}
}

// Pitfall 4: whoever opens the card after the plan is seen before the unbind, with every driver.
func TestProveAgain(t *testing.T) {
	r := busy(t, "NVIDIA=", "NOUVEAU=loaded", "DRIVER=nouveau")
	r.model.OnChange(func(c sysfstest.Change) error {
		if strings.HasSuffix(c.Path, "/driver_override") && c.Value != "" {
			r.model.AddProcess(sysfstest.Process{PID: 3000, Comm: "kwin_wayland", UID: 1000, Cgroup: "/user.slice", Open: []string{"/dev/dri/card1"}})
		}
		return nil
	})
	err := r.prepare(card())
	r.model.OnChange(nil)
	if err == nil || !strings.Contains(err.Error(), "0000:08:00.0 [10de:2782] (nouveau) is in use again and again: kwin_wayland (pid 3000") {
		t.Errorf("the card is on %s, error %v", r.driver("0000:08:00.0"), err)
	}
}

type leaving struct {
	systemd.Manager
	state *string
}

func (l leaving) StopUnit(ctx context.Context, unit string) error {
	*l.state = "deactivating"
	return errors.New("cannot stop " + unit + ": its job has not ended in time")
}

func (l leaving) UnitRuns(ctx context.Context, unit string) (bool, error) {
	return *l.state == "deactivating" || *l.state == "active", nil
}

func (l leaving) StartUnit(ctx context.Context, unit string) error { *l.state = "active"; return nil }

// A unit that is on its way down when it is to run again is started all the same.
func TestUnitStillStopping(t *testing.T) {
	r := busy(t)
	r.configure(`services.stop = ["ollama.service"]`)
	state := "active"
	with := func(f func(h *hook.Host) error) error {
		return r.locked(func(h *hook.Host) error { h.Systemd = leaving{h.Systemd, &state}; return f(h) })
	}
	err := with(func(h *hook.Host) error {
		_, err := prepare.Run(context.Background(), h, card(), hook.Caller{})
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "its job has not ended in time") {
		t.Errorf("prepare: %v", err)
	}
	if state == "deactivating" {
		state = "inactive" // now it has ended
	}
	if err := with(func(h *hook.Host) error {
		return release.Run(context.Background(), h, card().Guest.UUID, "win11", false)
	}); err != nil {
		t.Errorf("release: %v", err)
	}
	if state != "active" {
		t.Errorf("the unit that was stopped is %s and forgotten", state)
	}
}

type hung struct {
	systemd.Manager
	asked *int
}

func (m hung) UnitRuns(ctx context.Context, _ string) (bool, error) {
	*m.asked++
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-time.After(3 * time.Second):
		if _, ok := ctx.Deadline(); !ok {
			panic("no deadline")
		}
		return false, nil
	}
}

// No question to systemd goes without a deadline.
func TestHungSystemd(t *testing.T) {
	defer func() {
		if p := recover(); p != nil {
			t.Error(p)
		}
	}()
	r, asked := busy(t), 0
	if err := r.locked(func(h *hook.Host) error {
		h.Systemd = hung{h.Systemd, &asked}
		_, err := prepare.NewPlan(context.Background(), h, card())
		return err
	}); err != nil {
		t.Error(err)
	}
	if asked == 0 {
		t.Error("systemd was not asked")
	}
}

// A user who lingers keeps programs when the session ends: known before the session is ended.
func TestLinger(t *testing.T) {
	r := busy(t, "PROCESSES=2000 uid=1000 cgroup=/user.slice/user-1000.slice/user@1000.service/app.slice/ollama.service open=/dev/nvidia0 ollama ollama")
	r.model.SetFile("/var/lib/systemd/linger/fern", "")
	r.configure(`session.end = "seat0"`)
	plan, err := prepare.NewPlan(context.Background(), r.host(), card())
	if err != nil {
		t.Fatal(err)
	}
	wantReason(t, plan.Refusals, "ollama (pid 2000")
	if err := r.prepare(card()); err == nil {
		t.Error("prepared")
	}
	if !r.model.FS().Exists("/run/systemd/sessions/2") {
		t.Error("the session was ended for a refusal that was known")
	}
}

// Pitfall 19: a frame buffer in a secondary card's memory is taken away, and the host's console stays.
func TestBootFBInSecondaryCard(t *testing.T) {
	r := busy(t, "IOMEM=    4000000000-40007e8fff : BOOTFB",
		"FRAMEBUFFERS=-- framebuffers --\nefi-framebuffer.0 driver=efi-framebuffer name=BOOTFB\n")
	if err := r.prepare(card()); err != nil {
		t.Fatal(err)
	}
	if v, _ := r.model.FS().Read("/proc/iomem"); strings.Contains(v, "BOOTFB") {
		t.Error("still there")
	}
	if got, _ := r.model.FS().Read("/sys/class/vtconsole/vtcon1/bind"); got != "1" {
		t.Error("the console, which is on the host's own card, was taken off")
	}
}

type confined struct{ sysfs.Kernel }

func (k confined) OpenDevices(pid int, visit func(uint64, bool)) error {
	if pid == 2000 {
		return syscall.EACCES
	}
	return k.Kernel.OpenDevices(pid, visit)
}

// Pitfall 18: processes that may not be looked at prove nothing, and NVIDIA's unbind is not written on a guess.
func TestUnseen(t *testing.T) {
	r := busy(t, "SECOND=0000:09:00.0 class=0300 id=10de:2504 driver=nvidia group=19 minor=1 nodes=drm:card2:226:2",
		"PROCESSES=2000 cgroup=/system.slice/ollama.service open=/dev/nvidia0 ollama ollama")
	r.inline = true
	unbound := false
	r.model.OnChange(func(c sysfstest.Change) error {
		if strings.HasSuffix(c.Path, "drivers/nvidia/unbind") {
			unbound = true
			return syscall.EIO
		}
		return nil
	})
	err := r.locked(func(h *hook.Host) error {
		h.FS = sysfs.FS{Kernel: confined{h.FS.Kernel}}
		_, err := prepare.Run(context.Background(), h, card(), hook.Caller{})
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "cannot tell who uses the guest's functions") {
		t.Errorf("prepare: %v", err)
	}
	if unbound {
		t.Error("unbind was written on nvidia with processes unseen")
	}
}

// A session may outlive its display manager: that is not stopped for a refusal that was known.
func TestSurvivesDisplayManager(t *testing.T) {
	r := busy(t, "SHELL=/dev/dri/card1", "LOGIND=", "DEVICES=")
	r.configure(`services.stop = ["gdm.service"]`)
	plan, err := prepare.NewPlan(context.Background(), r.host(), card())
	if err != nil {
		t.Fatal(err)
	}
	stops := 0
	r.model.OnChange(func(c sysfstest.Change) error {
		if c.Op == "dbus" && c.Value == "stop" {
			stops++
		}
		return nil
	})
	wantReason(t, plan.Refusals, "is in use: ")
	if err := r.prepare(card()); err == nil {
		t.Error("prepared")
	}
	if stops > 0 {
		t.Error("the display manager was stopped for a refusal that was known")
	}
}

// The host's way out over a bridge over a VLAN over the card.
func TestBridgeOverVLAN(t *testing.T) {
	r := guarded(t, "", "ROUTE=br0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0",
		"LINKS=/sys/devices/pci0000:06/0000:06:00.0/net/enp6s0/upper_vlan7 -> /sys/devices/virtual/net/vlan7\n"+
			"/sys/class/net/vlan7 -> /sys/devices/virtual/net/vlan7\n/sys/devices/virtual/net/vlan7/upper_br0 -> /sys/devices/virtual/net/br0")
	plan, err := prepare.NewPlan(context.Background(), r.host(), card("0000:06:00.0"))
	if err != nil {
		t.Fatal(err)
	}
	wantReason(t, plan.Refusals, "0000:06:00.0 [8086:1521] (igb) is needed by the host: enp6s0 ")
}

// A daemon of NVIDIA's that is stopped is no desktop that is.
func TestLastScreenWithPersistenced(t *testing.T) {
	r := busy(t, "LIT=enabled", "HOSTLIT=disabled", "PERSISTENCED=active")
	plan, err := prepare.NewPlan(context.Background(), r.host(), card())
	if err != nil {
		t.Fatal(err)
	}
	wantReason(t, plan.Refusals, "the guest's functions drive the host's last lit screen (card1-HDMI-A-1)")
}

// A compositor on a terminal has a session that says tty, and the card.
func TestHyprlandOnATerminal(t *testing.T) {
	r := busy(t, "LOGIND=/dev/dri/card1", "DEVICES=226:1", "SHELL=/dev/dri/card0")
	v, err := r.model.FS().ReadFile("/run/systemd/sessions/2")
	if err != nil {
		t.Fatal(err)
	}
	r.model.SetFile("/run/systemd/sessions/2", strings.NewReplacer("TYPE=wayland", "TYPE=tty", "gdm-password", "login").Replace(string(v)))
	r.configure(`session.end = "seat0"`)
	if err := r.prepare(card()); err != nil {
		t.Errorf("session.end does not end a session that has the card: %v", err)
	}
}

// Pitfall 17: a card that reads all ones is refused before anything is touched.
func TestFallenOffBefore(t *testing.T) {
	r := busy(t)
	r.model.SetFile("/sys/bus/pci/devices/0000:08:00.0/config", strings.Repeat("\xff", 64))
	r.model.SetFile("/sys/bus/pci/devices/0000:08:00.0/power/control", "on\n")
	r.model.SetFile("/sys/bus/pci/devices/0000:08:00.0/d3cold_allowed", "0\n")
	if err := r.prepare(card()); err == nil || !strings.Contains(err.Error(), "0000:08:00.0 does not answer: its configuration space reads all ones") {
		t.Errorf("a card that does not answer: %v", err)
	}
}

// NVIDIA's daemons run again as soon as the host has a card, though another guest has one.
func TestPersistencedOfTheOtherCard(t *testing.T) {
	r := busy(t, "SECOND=0000:09:00.0 class=0300 id=10de:2504 driver=nvidia group=19 minor=1 nodes=drm:card2:226:2", "PERSISTENCED=active")
	second := guest("second", "02", "0000:09:00.0")
	for _, n := range []*domain.Needs{card(), second} {
		if err := r.prepare(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.release(card()); err != nil {
		t.Fatal(err)
	}
	if runs, _ := r.model.Systemd().UnitRuns(context.Background(), "nvidia-persistenced.service"); !runs {
		t.Error("the host has a card again, and its daemon does not run")
	}
}

// NVIDIA's daemons are not started for a card that stays with vfio.
func TestStayAndUnits(t *testing.T) {
	r := busy(t, "PERSISTENCED=active")
	r.configure(`gpu.give_back."0000:08:00.0" = "stay"` + "\n" + `gpu.give_back."0000:08:00.1" = "stay"`)
	if err := r.prepare(card()); err != nil {
		t.Fatal(err)
	}
	started := false
	r.model.OnChange(func(c sysfstest.Change) error {
		if c.Op == "dbus" && c.Value == "start" {
			started = true
			return syscall.EIO
		}
		return nil
	})
	if err := r.release(card()); err != nil {
		t.Errorf("release: %v", err)
	}
	if started && !r.model.FS().Exists("/sys/module/nvidia") {
		t.Error("nvidia-persistenced is started with no card and no driver")
	}
}

// What is bound by hand is that, also if the claim is lost.
func TestKilledInKeepByHand(t *testing.T) {
	r := busy(t)
	r.configure(`gpu.give_back."0000:08:00.0" = "stay"`)
	if err := r.prepare(card()); err != nil {
		t.Fatal(err)
	}
	if err := r.release(card()); err != nil {
		t.Fatal(err)
	}
	if err := r.locked(func(h *hook.Host) error { delete(h.Ledger.Guests, hook.HandUUID); return h.SaveLedger() }); err != nil {
		t.Fatal(err)
	}
	if err := r.locked(func(h *hook.Host) error { _, err := release.Recover(context.Background(), h, ""); return err }); err != nil {
		t.Error(err)
	}
	if d := r.driver("0000:08:00.0"); d != "vfio-pci" {
		t.Errorf("recover took the card that stays to %q", d)
	}
}

// bind says so when it does nothing.
func TestBindDisabled(t *testing.T) {
	r := busy(t)
	r.configure(`enabled = false`)
	if err := r.bind("0000:08:00.0", "0000:08:00.1"); err == nil {
		t.Errorf("bind says that it is done, and the card is on %q", r.driver("0000:08:00.0"))
	}
}

// Pitfall 19: a frame buffer that has no driver to be taken from is told of: newer kernels take it away themselves.
func TestBootFramebufferWithoutDriver(t *testing.T) {
	r := busy(t, "FB0=platform/efi-framebuffer.0", "IOMEM=    4000000000-40007e8fff : BOOTFB")
	plan, err := prepare.NewPlan(context.Background(), r.host(), card())
	if err != nil || !strings.Contains(strings.Join(plan.Warnings, "\n"), "the firmware's frame buffer (BOOTFB) lies in 0000:08:00.0") {
		t.Errorf("it warns of %q, %v", plan.Warnings, err)
	}
}

type wedgedRemove struct{ hook.SlowRunner }

func (w wedgedRemove) Run(ctx context.Context, t hook.SlowTask) error {
	if strings.HasSuffix(t.Path, "/remove") {
		return &hook.WedgedError{Task: t, After: time.Minute}
	}
	return w.SlowRunner.Run(ctx, t)
}

// A removal from the bus that does not return is on record.
func TestRescanWedged(t *testing.T) {
	r := busy(t, "NVIDIA=", "NOUVEAU=loaded", "DRIVER=nouveau")
	r.configure("gpu.rescan = true")
	if err := r.prepare(card()); err != nil {
		t.Fatal(err)
	}
	r.model.FailProbe("0000:08:00.0", "nouveau", syscall.EIO)
	_ = r.locked(func(h *hook.Host) error {
		h.Slow = wedgedRemove{h.Slow}
		_ = h.GiveBack(context.Background(), card().Guest.UUID)
		if h.Ledger.Wedged["0000:08:00.0"] == nil {
			t.Error("the function is not on record as stuck")
		}
		return nil
	})
}

// Nobody is told to have ended what is never ended.
func TestAdviceForQEMU(t *testing.T) {
	r := busy(t, "PROCESSES=2000 cgroup=/machine.slice/machine-qemu\\x2d1\\x2da.scope open=/dev/dri/renderD129 qemu-system-x86 x")
	r.configure(`gpu.terminate = ["qemu-system-x86"]`)
	plan, err := prepare.NewPlan(context.Background(), r.host(), card())
	if err != nil {
		t.Fatal(err)
	}
	wantReason(t, plan.Refusals, "qemu-system-x86 (pid 2000")
	if strings.Contains(strings.Join(plan.Refusals, ""), "gpu.terminate") {
		t.Error(plan.Refusals)
	}
}

// unbind puts no host driver into a group of which a guest has a part.
func TestUnbindInGroupOfGuest(t *testing.T) {
	r := busy(t)
	if err := r.bind("0000:08:00.0", "0000:08:00.1"); err != nil {
		t.Fatal(err)
	}
	if err := r.prepare(card("0000:08:00.0")); err != nil {
		t.Fatal(err)
	}
	err := r.locked(func(h *hook.Host) error { return h.Unbind(context.Background(), []string{"0000:08:00.1"}) })
	if err == nil || !strings.Contains(err.Error(), "is taken by guest win11") {
		t.Errorf("0000:08:00.1 is on %q in the group of a running guest, error %v", r.driver("0000:08:00.1"), err)
	}
}

// Memory that the host does not have at all is refused before a session ends.
func TestImpossibleMemory(t *testing.T) {
	r := busy(t)
	r.configure(`services.stop = ["gdm.service"]` + "\n" + `session.end = "seat0"`)
	n := card()
	n.Memory = []domain.Backend{{Bytes: 64 << 30}} // of 31G
	if err := r.prepare(n); err == nil {
		t.Fatal("prepared")
	}
	if !r.model.FS().Exists("/run/systemd/sessions/2") {
		t.Error("the session was ended for memory that the host never had")
	}
}

// A daemon that is stopped gives no memory back.
func TestImpossibleMemoryPersistenced(t *testing.T) {
	r := busy(t, "PERSISTENCED=active")
	n := card()
	n.Memory = []domain.Backend{{Bytes: 64 << 30}}
	plan, err := prepare.NewPlan(context.Background(), r.host(), n)
	if err != nil {
		t.Fatal(err)
	}
	wantReason(t, plan.Refusals, "cannot get 32768 huge pages of 2048 KiB")
}

// Seen in the lab: a release that is killed midway is the one that the daemon owed. It lives on and calls no other, so recover
// finishes it, unnamed.
func TestReleaseKilledUnderADaemon(t *testing.T) {
	base := newRig(t, "fern")
	n := loadNeeds(t, "win11")
	before := base.snapshot()
	owner := &hook.Process{PID: 812, Start: 1812} // the host file's libvirtd
	prepared := func() *rig {
		r := base.clone()
		if err := r.locked(func(h *hook.Host) error {
			_, err := prepare.Run(context.Background(), h, n, hook.Caller{Owner: owner})
			return errors.Join(err, h.Started(context.Background(), n.Guest.UUID, n.Guest.Name))
		}); err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := prepared()
	from := r.model.Changes()
	if err := r.release(n); err != nil {
		t.Fatal(err)
	}
	for i := from + 1; i <= r.model.Changes(); i++ {
		k := prepared()
		k.model.OnChange(func(c sysfstest.Change) error {
			if c.N == i {
				panic(errKilled)
			}
			return nil
		})
		if !killed(func() { _ = k.release(n) }) {
			t.Fatalf("change %d was not reached", i)
		}
		k.model.OnChange(nil)
		if err := k.locked(func(h *hook.Host) error { _, err := release.Recover(context.Background(), h, ""); return err }); err != nil {
			t.Error(err)
		}
		k.wantAsBefore(before, "killed in release, recovered")
	}
}

// A guest that has nothing of the host, as one that is only pinned for and has no function, leaves no record: it owes no
// release, and a guest of its UUID that runs is not in its way.
func TestNothingToDoNoRecord(t *testing.T) {
	r := busy(t)
	n := pinnedGuest(t, 1, "2-3")
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	r.wantNothingOnRecord("a guest that has nothing was prepared")
	r.model.AddProcess(sysfstest.Process{PID: 4711, Comm: "qemu-system-x86", Cmdline: []string{"qemu-system-x86_64", "-uuid", n.Guest.UUID}})
	r.model.SetFile("/run/libvirt/qemu/"+n.Guest.Name+".pid", "4711\n")
	if err := r.prepare(n); err != nil {
		t.Error(err)
	}
	// What an earlier definition of it had is in the way.
	had := guest("before", "11")
	if err := r.prepare(had); err != nil {
		t.Fatal(err)
	}
	has := pinnedGuest(t, 1, "2-3")
	has.Guest = had.Guest
	if err := r.prepare(has); err != nil {
		t.Fatal(err)
	}
	if d := r.driver("0000:08:00.0"); d == "vfio-pci" {
		t.Error("a function that the guest asks for no longer stayed bound")
	}
}
