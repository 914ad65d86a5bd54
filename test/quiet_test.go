package test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qemu-hook/cpuset"
	"qemu-hook/hook"
	"qemu-hook/journal"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest/fusetest"
)

// masks is where this machine's interrupts go and its kernel works.
type masks struct {
	files   map[string]cpuset.Set
	threads map[sysfs.Process]cpuset.Set
}

func realMasks(t *testing.T, host sysfs.FS) masks {
	t.Helper()
	m := masks{map[string]cpuset.Set{}, map[sysfs.Process]cpuset.Set{}}
	irqs, err := host.Interrupts()
	if err != nil {
		t.Fatal(err)
	}
	files := []string{sysfs.DefaultInterruptCPUs, sysfs.WorkqueueCPUs, sysfs.WritebackCPUs, sysfs.WatchdogCPUs}
	for _, irq := range irqs {
		files = append(files, sysfs.InterruptCPUs(irq))
	}
	for _, f := range files {
		if cpus, err := host.ReadCPUs(f); err == nil {
			m.files[f] = cpus
		} else if !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	threads, err := host.KernelThreads()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range threads {
		if alive, _ := p.Alive(host); !alive {
			continue
		}
		if cpus, err := host.ThreadCPUs(p); err == nil {
			m.threads[p] = cpus
		}
	}
	return m
}

// restore puts back what is not as it was, and fails the test for it.
func (m masks) restore(t *testing.T, host sysfs.FS) {
	now := realMasks(t, host)
	for f, was := range m.files {
		if cpus, ok := now.files[f]; ok && !cpus.Equal(was) {
			t.Errorf("%s is %s at the end, and was %s", f, cpus, was)
			if err := host.WriteCPUs(f, was); err != nil {
				t.Error(err)
			}
		}
	}
	for p, was := range m.threads {
		if cpus, ok := now.threads[p]; ok && !cpus.Equal(was) {
			t.Errorf("the kernel's thread %d may run on %s at the end, and on %s before", p.PID, cpus, was)
			if err := host.SetAffinity(p.PID, p.Start, was); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Error(err)
			}
		}
	}
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

// On the running kernel: interrupts and the kernel's work go off a CPU that a guest claims, as far as the kernel lets them, and come back.
func TestQuietOnThisKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		fusetest.Lacking(t, "root is missing: uid %d may not say where the kernel works", os.Geteuid())
	}
	host, err := sysfs.New("/")
	if err != nil {
		t.Fatal(err)
	}
	online, err := host.OnlineCPUs()
	if err != nil {
		t.Fatal(err)
	}
	isolated, err := host.IsolatedCPUs()
	if err != nil {
		t.Fatal(err)
	}
	if online.Minus(isolated).Len() < 2 {
		fusetest.Lacking(t, "a second CPU is missing: only %s is the kernel's", online.Minus(isolated))
	}
	var one cpuset.Set
	for cpu := range online.Minus(isolated).All() {
		one = cpuset.Of(cpu)
	}
	alone(t)
	before := realMasks(t, host)
	t.Cleanup(func() { before.restore(t, host) })

	state := filepath.Join(t.TempDir(), "state")
	settle := func(claim hook.Claim) {
		t.Helper()
		h := &hook.Host{
			FS: host, State: journal.Open(state, "boot"), Config: hook.DefaultConfig(), Now: time.Now,
			Log: func(_ hook.Severity, s string) { t.Log(s) },
		}
		if err := h.Locked(t.Context(), "test", func(*os.File) hook.SlowRunner { return hook.Inline{FS: host} }, func() error {
			h.Ledger.Guests = map[string]*hook.Guest{}
			if !claim.Empty() {
				h.Ledger.Guests["a"] = &hook.Guest{Name: "test", Claim: claim}
			}
			return errors.Join(h.SettleInterrupts(t.Context()), h.SettleKernelWork(t.Context()), h.SaveLedger())
		}); err != nil {
			t.Error(err)
		}
	}
	settle(hook.Claim{Interrupts: one, KernelWork: one})
	during := realMasks(t, host)
	moved, still := 0, 0
	for f, cpus := range during.files {
		was, ok := before.files[f]
		switch on := !cpus.Intersect(one).Empty(); {
		case !ok: // it has come since
		case on && strings.HasSuffix(f, "/smp_affinity_list"):
			still++
			if err := host.WriteCPUs(f, cpus); err == nil {
				t.Errorf("%s is %s still, and can be moved", f, cpus)
			}
		case on:
			t.Errorf("%s is %s still", f, cpus)
		case !was.Equal(cpus):
			moved++
		}
	}
	threads := 0
	for p, cpus := range during.threads {
		if _, ok := before.threads[p]; !ok {
			continue
		}
		if threads++; !cpus.Intersect(one).Empty() {
			t.Errorf("the kernel's thread %d may run on CPUs %s still", p.PID, cpus)
		}
	}
	if moved == 0 || threads == 0 {
		t.Errorf("%d files and %d threads are off CPU %s", moved, threads, one)
	}
	t.Logf("%d files and %d threads are off CPU %s, %d interrupts cannot be moved", moved, threads, one, still)
	settle(hook.Claim{})
	if left, err := os.ReadFile(filepath.Join(state, hook.LedgerDocument)); err == nil {
		t.Errorf("still on record: %s", left)
	}
}
