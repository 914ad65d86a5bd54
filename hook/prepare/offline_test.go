package prepare_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"qemu-hook/hook"
	"qemu-hook/hook/release"
	"qemu-hook/sysfs/sysfstest"
)

// Seen in the lab, Linux 6.1: a guest is released while a CPU is off line, which the kernel then gives to no thread. The next
// look after it is back gives each thread all it had.
func TestReleaseWithACPUOffLine(t *testing.T) {
	text, err := os.ReadFile("../../testdata/hosts/fern.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, release61 := range []bool{false, true} {
		r := newRig(t, "fern")
		if release61 {
			if r.model, err = sysfstest.Parse("fern", []byte(strings.ReplaceAll(string(text), "6.12.60", "6.1.0"))); err != nil {
				t.Fatal(err)
			}
		}
		n := loadNeeds(t, "win11")
		before := r.snapshot()
		if err := r.prepare(n); err != nil {
			t.Fatal(err)
		}
		r.model.HotplugCPU(2, false)
		if err := r.release(n); err != nil {
			t.Fatal(err)
		}
		r.model.HotplugCPU(2, true)
		if err := r.locked(func(h *hook.Host) error {
			_, err := release.Recover(context.Background(), h, "")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadFile(r.state + "/ledger.json"); err == nil {
			t.Errorf("still on record: %s", left)
		}
		// What the host's drivers requested while the CPU was off line does not have it.
		after := r.snapshot()
		diff := sysfstest.Diff(before.Without("/proc/irq/126", "/proc/irq/156", "/proc/irq/157"), after.Without("/proc/irq/126", "/proc/irq/156", "/proc/irq/157"))
		if diff != "" {
			t.Errorf("Linux 6.1: %v: %s", release61, diff)
		}
		for _, irq := range []string{"126", "156", "157"} {
			if v, err := r.model.FS().Read("/proc/irq/" + irq + "/smp_affinity_list"); err != nil || v != "0-1,3-19" {
				t.Errorf("interrupt %s is on CPUs %s, error %v", irq, v, err)
			}
		}
	}
}
