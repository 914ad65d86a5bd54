package test

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/test/mode"
)

// Whatever the real program cannot change at started and at reconnect: it ends with 0, as libvirt would kill the guest else,
// and the release brings the host home.
func TestFaultsOfARunningGuest(t *testing.T) {
	t.Parallel()
	var faults atomic.Int64
	t.Run("events", func(t *testing.T) {
		b, base, win11 := newBus(t), loadHost(t, "fern"), loadGuest(t, "win11")
		errnos := []syscall.Errno{syscall.EIO}
		if mode.Long() {
			errnos = append(errnos, syscall.ENOSPC, syscall.EROFS, syscall.EBUSY)
		}
		for _, event := range []string{"started", "reconnect"} {
			for _, errno := range errnos {
				for n := 1; ; n++ {
					var failed atomic.Bool
					t.Run(fmt.Sprintf("%s/%v at change %d", event, errno, n), func(t *testing.T) {
						x := newBox(t, base.Clone(), b)
						before := x.snapshot()
						x.mustDo(win11, "prepare")
						var changes atomic.Int64
						x.model.OnChange(func(c sysfstest.Change) error {
							if changes.Add(1) < int64(n) || c.Path == stateDir+"/lock" {
								return nil
							}
							failed.Store(true)
							return errno
						})
						if status, stderr := x.libvirt(win11, event); status != 0 || stderr != "" {
							t.Errorf("%s ended with %d: %s", event, status, stderr)
						}
						x.model.OnChange(nil)
						if driver, err := x.model.FS().PCIDriver("0000:08:00.0"); err != nil || !strings.HasPrefix(driver, "vfio") {
							t.Errorf("the guest's card is on driver %q, error %v", driver, err)
						}
						x.mustDo(win11, "release")
						if diff := x.differs(before); diff != "" {
							t.Errorf("the host is not as before:\n%s", diff)
						}
					})
					if !failed.Load() {
						break
					}
					faults.Add(1)
				}
			}
		}
	})
	t.Logf("%d faults", faults.Load())
}

// A daemon that cannot be seen gets no guest prepared, which nobody would be known to release; its other events are as ever.
func TestUnseenDaemon(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	l := newLife(t, pair{host: "fern", domain: "win11"}, b)
	stat := fmt.Sprintf("/proc/%d/stat", os.Getpid())
	whole, err := l.model.FS().ReadFile(stat)
	if err != nil {
		t.Fatal(err)
	}
	hide := func() {
		l.model.Remove(stat)
		l.model.SetFile(stat+"/x", "")
	}
	show := func() {
		l.model.Remove(stat)
		l.model.SetFile(stat, string(whole))
		l.model.SetOwner(stat, 0, 0, 0o444)
	}
	before := l.snapshot()
	hide()
	status, stderr := l.call("prepare")
	lastLineIsShort(t, stderr)
	if status != 1 || !strings.Contains(stderr, stat) {
		t.Errorf("prepare ended with %d: %s", status, stderr)
	}
	show()
	if diff := l.differs(before); diff != "" {
		t.Errorf("the host is not as before:\n%s", diff)
	}
	l.do("prepare", "begins")
	hide()
	l.do("started", "reconnect", "ends", "release")
	show()
	if diff := l.differs(before); diff != "" {
		t.Errorf("the host is not as before:\n%s", diff)
	}
}
