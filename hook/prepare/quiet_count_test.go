package prepare_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// crowdedHost has a model with CPUs of one thread each, dealt out evenly to nodes, and interrupts of which each goes to a
// few CPUs of its node; every eighth nobody may move, and every eighth has no CPU but one.
func crowdedHost(t *testing.T, cpus, nodes, irqs int) *rig {
	t.Helper()
	var b strings.Builder
	b.WriteString("-- cpus --\npackage 0")
	for cpu := range cpus {
		fmt.Fprintf(&b, " %d", cpu)
	}
	b.WriteString("\n-- nodes --\n")
	per := cpus / nodes
	for n := range nodes {
		fmt.Fprintf(&b, "%d cpus=%d-%d total=8G free=6G\n", n, n*per, n*per+per-1)
	}
	b.WriteString("-- cgroups --\n/ subtree=cpuset,cpu\n/init.scope\n/machine.slice\n/system.slice\n/user.slice\n-- workqueues --\n-- irqs --\n")
	for irq := range irqs {
		first := irq * 3 % (cpus - 3)
		switch irq % 8 {
		case 0:
			fmt.Fprintf(&b, "%d managed%[1]d managed=yes affinity=%d\n", irq, first)
		case 1:
			fmt.Fprintf(&b, "%d single%[1]d affinity=%d\n", irq, first)
		case 2:
			fmt.Fprintf(&b, "%d everywhere%[1]d\n", irq)
		default:
			fmt.Fprintf(&b, "%d queue%[1]d affinity=%d-%d\n", irq, first, first+3)
		}
	}
	model, err := sysfstest.Parse("crowded", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { model.Close() })
	r := &rig{t: t, model: model, state: filepath.Join(t.TempDir(), "state"), config: hook.DefaultConfig()}
	r.configure(`cpus.isolate = "pinned"`)
	return r
}

// pinnedGuest is a guest with nothing but pins.
func pinnedGuest(t *testing.T, i int, pins string) *domain.Needs {
	cpus := cpuList(t, pins)
	return &domain.Needs{
		Guest:  domain.Guest{Name: fmt.Sprintf("guest%d", i), UUID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i)},
		Pinned: cpus, VCPUs: cpus,
	}
}

// A teller counts what is read of interrupts' CPUs and what is written to them.
type teller struct {
	sysfs.Kernel
	t                   *testing.T
	reads, writes, vain map[string]int
}

func (c *teller) reset() {
	c.reads, c.writes, c.vain = map[string]int{}, map[string]int{}, map[string]int{}
}

func ofInterrupt(name string) bool {
	return strings.HasPrefix(name, "/proc/irq/") && strings.Contains(name, "affinity") && name != sysfs.DefaultInterruptCPUs
}

func (c *teller) ReadFile(name string) ([]byte, error) {
	if ofInterrupt(name) {
		c.reads[name]++
	}
	return c.Kernel.ReadFile(name)
}

func (c *teller) WriteFile(name string, value []byte) error {
	if ofInterrupt(name) {
		c.writes[name]++
		now, err := sysfs.FS{Kernel: c.Kernel}.ReadCPUs(name)
		if err != nil {
			c.t.Error(err)
		}
		if next, err := cpuset.ParseList(strings.TrimSpace(string(value))); err == nil && next.Equal(now) {
			c.vain[name]++
		}
	}
	return c.Kernel.WriteFile(name, value)
}

// Each event reads every interrupt once, writes it once at most, and never what it has already. What needs no move is not
// written at all.
func TestEachInterruptIsReadOnceAndWrittenOnceAtMost(t *testing.T) {
	const cpus, nodes, irqs = 64, 4, 512
	r := crowdedHost(t, cpus, nodes, irqs)
	count := &teller{t: t}
	r.door = func(k sysfs.Kernel) sysfs.Kernel {
		count.Kernel = k
		return count
	}
	a, b := pinnedGuest(t, 1, "8-23"), pinnedGuest(t, 2, "20-40")
	before := r.snapshot()
	for _, event := range []struct {
		name   string
		do     func(*domain.Needs) error
		n      *domain.Needs
		writes bool // beside those of what nobody may move
	}{
		{"prepare of the first", r.prepare, a, true},
		{"started of the first", r.started, a, false},
		{"prepare of the second", r.prepare, b, true},
		{"started of the second", r.started, b, false},
		{"release of the first", r.release, a, true},
		{"release of the second", r.release, b, true},
	} {
		count.reset()
		if err := event.do(event.n); err != nil {
			t.Fatalf("%s: %v", event.name, err)
		}
		moved := 0
		for irq := range irqs {
			name := sysfs.InterruptCPUs(irq)
			if n := count.reads[name]; n != 1 {
				t.Errorf("%s: interrupt %d is read %d times", event.name, irq, n)
			}
			if n := count.writes[name]; n > 1 || count.vain[name] > 0 {
				t.Errorf("%s: interrupt %d is written %d times, %d of them what it had", event.name, irq, n, count.vain[name])
			}
			if irq%8 != 0 {
				moved += count.writes[name]
			}
		}
		if len(count.reads) != irqs {
			t.Errorf("%s: %d files of interrupts are read, and there are %d interrupts", event.name, len(count.reads), irqs)
		}
		if (moved > 0) != event.writes {
			t.Errorf("%s: %d interrupts are written that can be moved", event.name, moved)
		}
	}
	r.wantAsBefore(before, "after both")
}
