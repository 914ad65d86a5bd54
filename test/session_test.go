package test

import (
	"context"
	"strings"
	"testing"

	"qemu-hook/sysfs/sysfstest"
)

// The only card of a desktop that is logged in: refused by name, and with the configuration of the README's page its display
// manager is stopped and its session ended, by the real program over a real bus; afterwards the display manager runs again.
func TestSingleGPU(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	x := newBox(t, loadHost(t, "single-gpu"), b)
	g := loadGuest(t, "single-gpu")
	before := x.snapshot()
	status, stderr := x.libvirt(g, "prepare")
	if status != 1 || !strings.Contains(stderr, `session 3 of sam on seat0 (leader 1790, by systemd-logind) has /dev/dri/card1 open`) {
		t.Fatalf("prepare of a card in use ended with %d: %s", status, stderr)
	}
	lastLineIsShort(t, stderr)
	if diff := x.differs(before); diff != "" {
		t.Errorf("after the refusal the host is not as before:\n%s", diff)
	}

	x.model.SetFile(configDir+"/config.toml", "services.stop = [\"gdm.service\"]\nsession.end = \"seat0\"\ngpu.grace = \"5s\"\n")
	x.mustDo(g, "prepare")
	fs := x.model.FS()
	if driver, err := fs.PCIDriver("0000:01:00.0"); driver != "vfio-pci" || err != nil {
		t.Errorf("the card is on %q, %v", driver, err)
	}
	if fs.Exists("/proc/1866") || fs.Exists("/proc/1101") || fs.Exists("/run/systemd/sessions/3") {
		t.Error("the desktop is still there")
	}
	if v, err := fs.Read("/sys/class/vtconsole/vtcon1/bind"); v != "0" || err != nil {
		t.Errorf("the console is still on the card: %q, %v", v, err)
	}
	_, out, _ := x.person("status")
	for _, want := range []string{"stopped, to be started again: gdm.service", "the host's console is taken: vtcon1"} {
		if !strings.Contains(out, want) {
			t.Errorf("status does not say %q:\n%s", want, out)
		}
	}
	x.mustDo(g, "started")
	x.mustDo(g, "release")
	if runs, err := x.model.Systemd().UnitRuns(context.Background(), "gdm.service"); !runs || err != nil {
		t.Errorf("the display manager runs: %v, %v", runs, err)
	}
	// What ended with the session stays away.
	gone := []string{"/proc/1866", "/proc/611", "/run/systemd/sessions/3"}
	if diff := sysfstest.Diff(before.Without(gone...), x.snapshot().Without(gone...)); diff != "" {
		t.Errorf("after release the host is not as before:\n%s", diff)
	}
	x.wantNoProcess()
}
