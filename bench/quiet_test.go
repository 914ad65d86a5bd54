package bench

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/hook/release"
	"qemu-hook/journal"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

var quietFlag = flag.Int("quiets", 0, "how often a guest's CPUs are made quiet; 0 for not at all")

const (
	quietLimit = 150 * time.Millisecond // prepare's CPU part, and release's, of a host with most of either
	quietCPUs  = 1024
	quietNodes = 16
	quietMost  = 8192 // interrupts
)

// BenchmarkQuiet prints what it costs to keep a large host off a guest's CPUs, and to undo it, and how that grows with the
// number of interrupts.
func BenchmarkQuiet(b *testing.B) {
	if *quietFlag == 0 {
		b.Skip("no number of runs is given: run it by bench/run")
	}
	fmt.Printf("\nA guest with 512 of %d CPUs on %d NUMA nodes, the kernel's own threads for each of them; %d times:\n"+
		"the fastest | the median CPU time in ms, the model's own left out\n\n", quietCPUs, quietNodes, *quietFlag)
	row := func(irqs, prepare, release, each, limit string) {
		fmt.Printf("| %-10s | %-18s | %-18s | %-25s | %s |\n", irqs, prepare, release, each, limit)
	}
	row("interrupts", "prepare", "release", "both, µs each further one", "limit of each")
	fmt.Printf("|---|---|---|---|---|\n")
	var least time.Duration
	first := 0
	for _, irqs := range []int{64, 512, 4096, quietMost} {
		there, back := quietTrips(b, irqs)
		both := fastest(there, cpu) + fastest(back, cpu)
		each, limit := "", ""
		if first == 0 {
			first, least = irqs, both
		} else {
			each = fmt.Sprintf("%.1f", float64(both-least)/float64(time.Microsecond)/float64(irqs-first))
		}
		if irqs == quietMost {
			limit = over(ms(quietLimit), max(fastest(there, cpu), fastest(back, cpu)) > quietLimit)
		}
		show := func(c costs) string { return ms(fastest(c, cpu)) + ` \| ` + ms(median(c, cpu)) }
		row(fmt.Sprint(irqs), show(there), show(back), each, limit)
	}
}

// quietTrips prepares and releases a guest on hosts that are the same each time.
func quietTrips(b *testing.B, irqs int) (there, back costs) {
	b.Helper()
	model, err := sysfstest.Parse("quiet", []byte(quietText(irqs)))
	if err != nil {
		b.Fatal(err)
	}
	defer model.Close()
	config, err := hook.ParseConfig("bench", []byte(`cpus.isolate = "pinned"`))
	if err != nil {
		b.Fatal(err)
	}
	pins, err := cpuset.ParseList(fmt.Sprintf("%d-%d", quietCPUs/4, quietCPUs*3/4-1))
	if err != nil {
		b.Fatal(err)
	}
	n := &domain.Needs{Guest: domain.Guest{Name: "quiet", UUID: "00000000-0000-4000-8000-000000000001"}, Pinned: pins, VCPUs: pins}
	before := model.Snapshot()
	for i := range *quietFlag {
		run := model.Clone()
		state := filepath.Join(b.TempDir(), "state")
		there = append(there, quietEvent(b, run, state, config, func(h *hook.Host) error {
			_, err := prepare.Run(context.Background(), h, n, hook.Caller{ByHand: true})
			return err
		}))
		if v, err := run.FS().ReadCPUs(sysfs.WritebackCPUs); err != nil || !v.Intersect(pins).Empty() {
			b.Fatalf("prepare left %s at %s, error %v", sysfs.WritebackCPUs, v, err)
		}
		back = append(back, quietEvent(b, run, state, config, func(h *hook.Host) error {
			return release.Run(context.Background(), h, n.Guest.UUID, n.Guest.Name, false)
		}))
		if i == 0 { // the others are like it
			if diff := sysfstest.Diff(before, run.Snapshot()); diff != "" {
				b.Fatalf("the host is not as before: %.500s", diff)
			}
		}
		if err := run.Close(); err != nil {
			b.Fatal(err)
		}
	}
	return there, back
}

// quietEvent returns what one event took of this process' CPU time, the collector's included, less what the model took.
func quietEvent(b *testing.B, model *sysfstest.Host, state string, config *hook.Config, do func(*hook.Host) error) cost {
	b.Helper()
	runtime.GC()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	door := &clocked{Kernel: model.FS().Kernel}
	h := &hook.Host{
		FS: sysfs.FS{Kernel: door}, Systemd: model.Systemd(), State: journal.Open(state, "boot"), Config: config,
		Ledger: new(hook.Ledger), Now: time.Now,
	}
	start, at := clock(unix.CLOCK_PROCESS_CPUTIME_ID), time.Now()
	err := h.Locked(context.Background(), "bench", func(*os.File) hook.SlowRunner { return hook.Inline{FS: h.FS} }, func() error { return do(h) })
	c := cost{time.Since(at), clock(unix.CLOCK_PROCESS_CPUTIME_ID) - start - door.took}
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// clock returns the CPU time of the process or the thread.
func clock(id int32) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

// clocked adds up the CPU time of what is asked for most: the rest of the model's counts as the hook's.
type clocked struct {
	sysfs.Kernel
	took time.Duration
}

func (c *clocked) since(start time.Duration) { c.took += clock(unix.CLOCK_THREAD_CPUTIME_ID) - start }

func (c *clocked) ReadFile(name string) ([]byte, error) {
	defer c.since(clock(unix.CLOCK_THREAD_CPUTIME_ID))
	return c.Kernel.ReadFile(name)
}

func (c *clocked) WriteFile(name string, value []byte) error {
	defer c.since(clock(unix.CLOCK_THREAD_CPUTIME_ID))
	return c.Kernel.WriteFile(name, value)
}

func (c *clocked) ReadDir(name string) ([]string, error) {
	defer c.since(clock(unix.CLOCK_THREAD_CPUTIME_ID))
	return c.Kernel.ReadDir(name)
}

func (c *clocked) SetAffinity(pid int, start uint64, cpus cpuset.Set) error {
	defer c.since(clock(unix.CLOCK_THREAD_CPUTIME_ID))
	return c.Kernel.SetAffinity(pid, start, cpus)
}

// quietText is a host file: interrupts of which each goes to a few CPUs, and some that nobody may move; four threads of the
// kernel's for each CPU that are bound to it, and one that can be moved for every sixteen.
func quietText(irqs int) string {
	var b strings.Builder
	b.WriteString("-- cpus --\npackage 0")
	for cpu := range quietCPUs {
		fmt.Fprintf(&b, " %d", cpu)
	}
	b.WriteString("\n-- nodes --\n")
	const per = quietCPUs / quietNodes
	for n := range quietNodes {
		fmt.Fprintf(&b, "%d cpus=%d-%d total=8G free=6G\n", n, n*per, n*per+per-1)
	}
	b.WriteString("-- cgroups --\n/ subtree=cpuset,cpu\n/init.scope\n/machine.slice\n/system.slice\n/user.slice\n-- workqueues --\n-- irqs --\n")
	for irq := range irqs {
		first := irq * 7 % (quietCPUs - 8)
		switch irq % 8 {
		case 0:
			fmt.Fprintf(&b, "%d managed%[1]d managed=yes affinity=%d\n", irq, first)
		case 1:
			fmt.Fprintf(&b, "%d everywhere%[1]d\n", irq)
		default:
			fmt.Fprintf(&b, "%d queue%[1]d affinity=%d-%d\n", irq, first, first+7)
		}
	}
	b.WriteString("-- processes --\n2 kthreadd kthread=yes\n")
	for cpu := range quietCPUs {
		for i := range 4 {
			fmt.Fprintf(&b, "%d bound/%d kthread=yes bound=yes affinity=%[2]d\n", 10+cpu*5+i, cpu)
		}
		if cpu%16 == 0 {
			fmt.Fprintf(&b, "%d rcuop/%d kthread=yes\n", 10+cpu*5+4, cpu)
		}
	}
	return b.String()
}
