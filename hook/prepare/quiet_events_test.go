package prepare_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// Two functions for guests, each with an interrupt that its own driver requests, and interrupts of the host's. 7 to 9 nobody may
// move: the kernel says so of the first, a test of the others.
const eventsHost = `-- kernel --
release 6.12.0
-- cpus --
package 0 0 1 2 3 4 5 6 7
-- nodes --
0 cpus=0-3 total=8G free=6G
1 cpus=4-7 total=8G free=6G
-- workqueues --
-- cgroups --
/ subtree=cpuset,cpu
/init.scope
/machine.slice
/system.slice
/user.slice
-- modules --
snd_hda_intel loaded driver=snd_hda_intel alias=pci:v*d*sv*sd*bc04sc03i00*
vfio loaded
vfio_iommu_type1 loaded deps=vfio
vfio_pci_core loaded deps=vfio
vfio_pci loaded driver=vfio-pci deps=vfio_pci_core alias=vfio_pci:v*d*sv*sd*bc*sc*i*
-- pci --
0000:08:00.0 class=0403 id=10de:22bc driver=snd_hda_intel group=18 irqs=40:snd
0000:09:00.0 class=0403 id=10de:22bd driver=snd_hda_intel group=19 numa=1 irqs=41:snd
-- irqs --
0 everywhere
1 node0 affinity=0-3
2 single affinity=2
3 single affinity=6
4 pair affinity=2-3
5 across affinity=3-5
6 host affinity=0,7
7 managed managed=yes affinity=3
8 refused affinity=2-3
9 refused affinity=5
`

// An eventsMachine is that host, where guests come and go and the program is killed and the machine restarted.
type eventsMachine struct {
	t      *rapid.T
	r      *rig
	fresh  *sysfstest.Host // as it is after a boot
	guests []*domain.Needs
	runs   map[int]bool
	base   map[string]cpuset.Set // where each mask would be without guests
	own    map[int]int           // of guests' interrupts: whose
	next   int                   // number of the next interrupt
	boots  int
	story  []string
}

func (m *eventsMachine) boot() {
	m.r.model = m.fresh.Clone()
	m.r.boot = fmt.Sprint(m.boots)
	m.boots++
	m.runs, m.own, m.base = map[int]bool{}, map[int]int{}, map[string]cpuset.Set{}
	for _, f := range []string{sysfs.DefaultInterruptCPUs, sysfs.WorkqueueCPUs, sysfs.WritebackCPUs, sysfs.WatchdogCPUs} {
		m.base[f] = m.read(f)
	}
	for _, irq := range append(cpuNumbers(10), 40, 41) {
		m.base[sysfs.InterruptCPUs(irq)] = m.read(sysfs.InterruptCPUs(irq))
	}
	m.at(0, nil)
}

func cpuNumbers(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

func (m *eventsMachine) read(name string) cpuset.Set {
	cpus, err := m.r.model.FS().ReadCPUs(name)
	if err != nil {
		m.t.Fatalf("%s: %v", strings.Join(m.story, "\n"), err)
	}
	return cpus
}

// at has f called at the n-th change from now, and the interrupts refused that always are.
func (m *eventsMachine) at(n int, f func()) {
	last := m.r.model.Changes() + n
	m.r.model.OnChange(func(c sysfstest.Change) error {
		if f != nil && c.N == last {
			f()
		}
		switch c.Path {
		case sysfs.InterruptCPUs(8):
			return syscall.EIO
		case sysfs.InterruptCPUs(9):
			return syscall.EPERM
		}
		return nil
	})
}

func (m *eventsMachine) pick(n int) int { return rapid.IntRange(0, n-1).Draw(m.t, "pick") }

func (m *eventsMachine) must(what string, err error) {
	m.story = append(m.story, what)
	if err != nil {
		m.t.Fatalf("%s: %v", strings.Join(m.story, "\n"), err)
	}
}

// step is one event. Only after those at which the program acts is anything compared.
func (m *eventsMachine) step() {
	g := m.pick(len(m.guests))
	n := m.guests[g]
	switch event := m.pick(12); {
	case event < 3:
		m.stop(g)
		m.must(fmt.Sprintf("prepare %d", g), m.r.prepare(n))
		m.runs[g] = true
	case event < 5:
		m.stop(g)
		m.must(fmt.Sprintf("release %d", g), m.r.release(n))
		delete(m.runs, g)
	case event < 7: // killed, and then whichever
		m.stop(g)
		do, what := m.r.prepare, "prepare"
		if m.pick(2) == 0 {
			do, what = m.r.release, "release"
		}
		at := 1 + m.pick(60)
		m.at(at, func() { panic(errKilled) })
		died := killed(func() { _ = do(n) })
		m.at(0, nil)
		m.story = append(m.story, fmt.Sprintf("%s of %d, killed at change %d: %v", what, g, at, died))
		if m.pick(2) == 0 {
			m.must("and prepare", m.r.prepare(n))
			m.runs[g] = true
		} else {
			m.must("and release", m.r.release(n))
			delete(m.runs, g)
		}
	case event == 7 && m.runs[g]:
		if len(n.PCI) > 0 && m.pick(2) == 0 {
			m.own[m.next] = g
			m.request(-1, "vfio-msix[0]("+n.PCI[0].Address+")")
		}
		m.must(fmt.Sprintf("started %d", g), m.r.started(n))
	case event == 8 && m.runs[g] && len(n.PCI) > 0: // the unit that looks again
		m.own[m.next] = g
		m.request(-1, "vfio-msix[0]("+n.PCI[0].Address+")")
		m.must("a look", m.r.locked(func(h *hook.Host) error { return h.SettleInterrupts(context.Background()) }))
	case event == 9:
		node := m.pick(3) - 1
		m.base[sysfs.InterruptCPUs(m.next)] = cpuset.Of(cpuNumbers(8)...)
		if node >= 0 {
			m.base[sysfs.InterruptCPUs(m.next)] = cpuset.Of(node*4, node*4+1, node*4+2, node*4+3)
		}
		m.request(node, "late")
		return
	case event == 10:
		irq := m.pick(7)
		if _, ok := m.base[sysfs.InterruptCPUs(irq)]; ok {
			m.story = append(m.story, fmt.Sprintf("interrupt %d goes", irq))
			delete(m.base, sysfs.InterruptCPUs(irq))
			m.r.model.RemoveIRQ(irq)
		}
		return
	case event == 11 && m.pick(3) == 0:
		m.story = append(m.story, "reboot")
		old := m.r.model
		m.boot()
		old.Close()
		m.must("release after it", m.r.release(n))
	default:
		m.must("an event", m.r.locked(func(h *hook.Host) error { return h.Settle(context.Background()) }))
	}
	m.compare()
}

// request has an interrupt requested, and notes it.
func (m *eventsMachine) request(node int, action string) {
	m.story = append(m.story, fmt.Sprintf("interrupt %d, %s, of node %d", m.next, action, node))
	m.r.model.AddIRQ(m.next, node, action)
	m.next++
}

// stop is the end of a guest's QEMU: its interrupts are gone.
func (m *eventsMachine) stop(g int) {
	for irq, of := range m.own {
		if of == g {
			m.r.model.RemoveIRQ(irq)
			delete(m.own, irq)
		}
	}
}

func (m *eventsMachine) compare() {
	all := cpuset.Of(cpuNumbers(8)...)
	var guests cpuset.Set
	for g := range m.runs {
		guests = guests.Union(m.guests[g].Pinned)
	}
	wrong := ""
	for f, was := range m.base {
		if !m.r.model.FS().Exists(f) {
			continue // of a driver that the guest's function has left
		}
		want := was.Minus(guests)
		switch {
		case slices.Contains([]string{sysfs.InterruptCPUs(7), sysfs.InterruptCPUs(8), sysfs.InterruptCPUs(9)}, f):
			want = was
		case want.Empty():
			for _, node := range []cpuset.Set{cpuset.Of(0, 1, 2, 3), cpuset.Of(4, 5, 6, 7)} {
				if !node.Intersect(was).Empty() {
					want = want.Union(node.Minus(guests))
				}
			}
			if want.Empty() {
				want = all.Minus(guests)
			}
		}
		if got := m.read(f); !got.Equal(want) {
			wrong += fmt.Sprintf("\n%s is %s, want %s", f, got, want)
		}
	}
	for irq, g := range m.own {
		if got := m.read(sysfs.InterruptCPUs(irq)); !got.Equal(m.guests[g].Pinned) {
			wrong += fmt.Sprintf("\nguest %d's interrupt %d goes to %s", g, irq, got)
		}
	}
	if left, err := os.ReadFile(m.r.state + "/" + hook.LedgerDocument); err == nil && len(m.runs) == 0 {
		wrong += "\nno guest runs, and on record is " + string(left)
	}
	if wrong != "" {
		m.t.Fatalf("%s\nguests on %s:%s", strings.Join(m.story, "\n"), guests, wrong)
	}
}

// Pitfalls 22 and 23: guests with functions and without, whose drivers' and own interrupts come and go; the program is killed
// anywhere, writes are refused, the machine restarts with an old state. In the end it is as after a boot.
func TestQuietThroughKillsAndBoots(t *testing.T) {
	fresh, err := sysfstest.Parse("events", []byte(eventsHost))
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		state, err := os.MkdirTemp(dir, "")
		if err != nil {
			rt.Fatal(err)
		}
		m := &eventsMachine{t: rt, fresh: fresh, next: 1000, r: &rig{t: t, state: filepath.Join(state, "state")}}
		m.r.configure("cpus.isolate = \"pinned\"\ninhibit = []\n")
		for i, pins := range []string{"2-3", "3,5", "6"} {
			n := pinnedGuest(t, i, pins)
			if i < 2 {
				n.PCI = []domain.Function{{Address: fmt.Sprintf("0000:0%d:00.0", 8+i)}}
			}
			m.guests = append(m.guests, n)
		}
		m.boot()
		defer func() { m.r.model.Close() }()
		for range rapid.IntRange(1, 20).Draw(rt, "steps") {
			m.step()
		}
		for g, n := range m.guests {
			m.stop(g)
			m.must(fmt.Sprintf("release %d at the end", g), m.r.release(n))
		}
		m.runs = map[int]bool{}
		m.compare()
		if diff := sysfstest.Diff(fresh.Snapshot().Without("/proc/irq", "/dev/vfio"), m.r.model.Snapshot().Without("/proc/irq", "/dev/vfio")); diff != "" {
			rt.Fatalf("%s\nthe host is not as after a boot:\n%s", strings.Join(m.story, "\n"), diff)
		}
	})
}
