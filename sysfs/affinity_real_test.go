package sysfs_test

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"qemu-hook/cpuset"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest/fusetest"
)

// twoCPUs is the running kernel for root with two CPUs or more; else the test ends. one is the last of its CPUs.
func twoCPUs(t *testing.T) (host sysfs.FS, one cpuset.Set) {
	t.Helper()
	if os.Geteuid() != 0 {
		fusetest.Lacking(t, "root is missing: uid %d may not say where the kernel works", os.Geteuid())
	}
	host = realHost(t)
	online, err := host.OnlineCPUs()
	if err != nil {
		t.Fatal(err)
	}
	if online.Len() < 2 {
		fusetest.Lacking(t, "a second CPU is missing: only %s is on line", online)
	}
	alone(t)
	return host, last(online)
}

// alone has the test be the only one on this machine that moves the running kernel's masks: tests of other packages run at the
// same time, and would take what is moved for what was.
func alone(t *testing.T) {
	t.Helper()
	lock, err := os.Open("/proc/irq")
	if err != nil {
		fusetest.Lacking(t, "interrupts are missing: %v", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
}

// keepReal puts a file of the running kernel back at the end of the test, whatever happens.
func keepReal(t *testing.T, name string) {
	t.Helper()
	before, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		now, err := os.ReadFile(name)
		if err == nil && string(now) == string(before) {
			return
		}
		t.Errorf("%s is %q at the end of the test, error %v; it was %q", name, now, err, before)
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		_, err = f.Write(before)
		if err = errors.Join(err, f.Close()); err != nil {
			t.Error(err)
		}
	})
}

// wantMoved moves a mask to some CPUs and back, and compares what the kernel makes of both.
func wantMoved(t *testing.T, host sysfs.FS, name string, to cpuset.Set) {
	t.Helper()
	was, err := host.ReadCPUs(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, cpus := range []cpuset.Set{to, was} {
		if err := host.WriteCPUs(name, cpus); err != nil {
			t.Fatal(err)
		}
		if now, err := host.ReadCPUs(name); err != nil || !now.Equal(cpus) {
			t.Errorf("%s is %s after %s was written, error %v", name, now, cpus, err)
		}
	}
}

// The running kernel's own masks are narrowed to one CPU and put back.
func TestMasksOfThisKernel(t *testing.T) {
	for _, name := range []string{sysfs.DefaultInterruptCPUs, sysfs.WorkqueueCPUs, sysfs.WritebackCPUs, sysfs.WatchdogCPUs} {
		t.Run(name[1:], func(t *testing.T) {
			host, one := twoCPUs(t)
			if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
				t.Skipf("this kernel has no %s", name)
			}
			keepReal(t, name)
			wantMoved(t, host, name, one)
		})
	}
}

// An interrupt of this machine's is moved to one CPU and back. Those that the kernel lets nobody move say so by the errors
// that count as that.
func TestInterruptOfThisMachine(t *testing.T) {
	host, one := twoCPUs(t)
	irqs, err := host.Interrupts()
	if err != nil {
		t.Fatal(err)
	}
	if len(irqs) == 0 {
		fusetest.Lacking(t, "interrupts are missing: this kernel has none below /proc/irq")
	}
	still := 0
	for _, irq := range irqs {
		name := sysfs.InterruptCPUs(irq)
		was, err := host.ReadCPUs(name)
		if err != nil {
			t.Fatal(err)
		}
		// What it has is no move, but tells whether it can be moved.
		if err := host.WriteCPUs(name, was); err != nil {
			if !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.EPERM) {
				t.Errorf("an interrupt that cannot be moved: %v", err)
			}
			still++
			continue
		}
		if was.Equal(one) {
			continue
		}
		keepReal(t, name)
		wantMoved(t, host, name, one)
		t.Logf("interrupt %d was moved from CPUs %s to %s and back; %d before it cannot be moved", irq, was, one, still)
		return
	}
	fusetest.Lacking(t, "an interrupt that can be moved is missing: %d of %d cannot", still, len(irqs))
}
