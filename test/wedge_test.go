package test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"qemu-hook/sysfs/sysfstest"
)

// A driver that never lets go of its device: the write to unbind does not return, and its process cannot be killed.
// The hook refuses the guest once its deadline passed, ends without waiting for that process, and leaves the rest of
// the host as it was; another guest goes on.
func TestWedgedUnbind(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	x := newBox(t, loadHost(t, "fern"), b)
	before := x.snapshot()
	free := make(chan struct{})
	freed := sync.OnceFunc(func() { close(free) })
	defer freed()
	x.model.OnChange(func(c sysfstest.Change) error {
		if c.Op == "write" && c.Path == "/sys/bus/pci/drivers/snd_hda_intel/unbind" {
			<-free
		}
		return nil
	})
	win11 := loadGuest(t, "win11")
	status, stderr := x.libvirt(win11, "prepare")
	if status != 1 || !strings.Contains(stderr, "0000:08:00.1 is stuck in the kernel") {
		t.Fatalf("prepare ended with %d: %s", status, stderr)
	}
	lastLineIsShort(t, stderr)
	// The worker was sent a SIGKILL, of which its other threads may be gone by now.
	if x.model.WaitIdle(10 * time.Millisecond) {
		t.Error("the write to unbind has returned, so this tests nothing")
	}

	// Its release says so too, and does not wait.
	if status, stderr = x.libvirt(win11, "release"); status != 1 || !strings.Contains(stderr, "0000:08:00.1") {
		t.Errorf("release ended with %d: %s", status, stderr)
	}
	lastLineIsShort(t, stderr)
	if _, out, _ := x.person("status"); !strings.Contains(out, "problem: 0000:08:00.1 is stuck in the kernel: ") {
		t.Errorf("status does not tell of the stuck device: %s", out)
	}
	// Only the device itself is not as it was.
	device := "/sys/devices/pci0000:00/0000:00:1b.0/0000:08:00.1"
	if diff := sysfstest.Diff(before.Without(device), x.snapshot().Without(device)); diff != "" {
		t.Errorf("beside the stuck device the host is not as before:\n%s", diff)
	}

	// A guest that wants the same device is refused at once, any other is served.
	if status, stderr = x.libvirt(loadGuest(t, "demo"), "prepare"); status != 1 {
		t.Errorf("prepare of another guest with the stuck device ended with %d: %s", status, stderr)
	}
	lastLineIsShort(t, stderr)
	pages := loadGuest(t, "pages-only")
	x.mustDo(pages, "prepare")
	x.mustDo(pages, "release")
	if diff := sysfstest.Diff(before.Without(device), x.snapshot().Without(device)); diff != "" {
		t.Errorf("after another guest the host is not as before:\n%s", diff)
	}
	freed()
	x.wantNoProcess()
}

// lastLineIsShort fails the test if libvirt has no room for the last line.
func lastLineIsShort(t testing.TB, stderr string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
	if last := lines[len(lines)-1]; len(last) == 0 || len(last) > 200 {
		t.Errorf("the last line has %d bytes: %s", len(last), last)
	}
}

// libvirt waits for the end of the hook's pipes, whoever holds them: a hook that ends while its worker is stuck leaves
// none behind. Killed, it leaves the lock to the worker, so that nobody acts while the write is under way.
func TestKilledWhileWorkerIsStuck(t *testing.T) {
	t.Parallel()
	x := newBox(t, loadHost(t, "fern"), newBus(t))
	before := x.snapshot()
	free, reached := make(chan struct{}), make(chan struct{})
	freed := sync.OnceFunc(func() { close(free) })
	defer freed()
	stuck := sync.OnceFunc(func() { close(reached) })
	x.model.OnChange(func(c sysfstest.Change) error {
		if c.Op == "write" && strings.HasSuffix(c.Path, "/unbind") {
			stuck()
			<-free
		}
		return nil
	})
	win11 := loadGuest(t, "win11")
	hook := x.start(win11.xml, win11.event("prepare")...)
	<-reached
	if err := hook.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-hook.dead:
	case <-time.After(30 * time.Second):
		t.Fatal("the hook was killed, but its worker holds its pipes: libvirt would wait for that")
	}
	// The next one waits for the lock, which the worker has.
	release := x.start(win11.xml, win11.event("release")...)
	select {
	case <-release.dead:
		t.Errorf("release did not wait for the worker's write: %s", release.stderr.String())
	case <-time.After(300 * time.Millisecond):
	}
	freed()
	if status := x.wait(release); status != 0 {
		t.Errorf("release ended with %d: %s", status, release.stderr.String())
	}
	if diff := x.differs(before); diff != "" {
		t.Errorf("the host is not as before:\n%s", diff)
	}
	x.wantNoProcess()
}
