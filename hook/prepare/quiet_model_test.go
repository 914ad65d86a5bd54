package prepare_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// quietHost is a host file: CPUs of one thread each, dealt out evenly to nodes, and interrupts of every kind.
func quietHost(cpus, nodes, irqs int) string {
	var b strings.Builder
	per := cpus / nodes
	fmt.Fprintf(&b, "-- cpus --\npackage 0")
	for c := range cpus {
		fmt.Fprintf(&b, " %d", c)
	}
	fmt.Fprintf(&b, "\n-- nodes --\n")
	for n := range nodes {
		fmt.Fprintf(&b, "%d cpus=%d-%d total=8G free=6G\n", n, n*per, n*per+per-1)
	}
	b.WriteString("-- cgroups --\n/ subtree=cpuset,cpu\n/init.scope\n/machine.slice\n/system.slice\n/user.slice\n-- irqs --\n")
	for i := range irqs {
		switch node := i % nodes; i % 5 {
		case 0:
			fmt.Fprintf(&b, "%d dev%[1]d node=%d affinity=%d-%d\n", i, node, node*per, node*per+per-1)
		case 1:
			fmt.Fprintf(&b, "%d dev%[1]d affinity=%d-%d\n", i, i%cpus/2, i%cpus/2+1)
		case 2:
			fmt.Fprintf(&b, "%d dev%[1]d affinity=%d\n", i, i*7%cpus)
		case 3:
			fmt.Fprintf(&b, "%d dev%[1]d managed=yes affinity=%d\n", i, i%cpus)
		default:
			fmt.Fprintf(&b, "%d dev%[1]d\n", i)
		}
	}
	fmt.Fprintf(&b, "-- workqueues --\nwriteback 0-%d\n-- cpufreq --\n", cpus-2)
	for c := range min(cpus, 8) {
		fmt.Fprintf(&b, "policy%d %[1]d driver=amd-pstate-epp governor=powersave governors=performance,powersave epp=balance_power epps=performance,balance_power\n", c)
	}
	fmt.Fprintf(&b, "-- processes --\n2 kthreadd kthread=yes\n15 rcu_preempt kthread=yes\n16 rcuop/5 kthread=yes affinity=2-5\n17 migration/1 kthread=yes bound=yes affinity=1\n")
	b.WriteString("-- proc/sys/vm/swappiness --\n60\n")
	return b.String()
}

// expected is a model of the host's masks, written from what they are to be and not from how the program gets there.
type expected struct {
	base  map[string]cpuset.Set   // what each file had before the first claim, or what somebody else has set since
	now   map[string]cpuset.Set   // what it is to have
	seen  map[string][]cpuset.Set // all that it ever had
	left  map[string]bool         // somebody else has set it while it was moved
	still map[string]bool         // the kernel lets nobody move it
	nodes []cpuset.Set
}

// moved is where something that had these CPUs goes while guests have theirs.
func (e *expected) moved(had, guests, online cpuset.Set) cpuset.Set {
	if guests.Empty() {
		return had
	}
	host := online.Minus(guests)
	rest := had.Minus(guests)
	if !rest.Intersect(online).Empty() {
		return rest
	}
	var near cpuset.Set
	for _, n := range e.nodes {
		if !n.Intersect(had).Intersect(online).Empty() { // the kernel lists no CPUs of a node that are off line
			near = near.Union(n)
		}
	}
	if near = near.Intersect(host); !near.Empty() {
		return near
	}
	return host
}

func (e *expected) settle(guests, online cpuset.Set) {
	for f, had := range e.base {
		switch {
		case e.still[f]:
		case e.left[f] && guests.Empty():
			e.base[f], e.left[f] = e.now[f], false // theirs from now on
		case !e.left[f] && guests.Empty() && had.Intersect(online).Empty() && !e.now[f].Equal(had):
			e.set(f, online) // all that it had is off line: it waits for that
		case !e.left[f]:
			e.set(f, e.moved(had, guests, online))
		}
	}
}

func (e *expected) set(f string, cpus cpuset.Set) {
	e.now[f] = cpus
	if !slices.ContainsFunc(e.seen[f], cpus.Equal) {
		e.seen[f] = append(e.seen[f], cpus)
	}
}

// A quietMachine is a host with guests that come and go, and what its masks are to be.
type quietMachine struct {
	r       *rig
	e       expected
	guests  []*domain.Needs
	running map[int]bool
	offline int // the CPU that is off line, -1 for none
	irqs    int
	added   []int
	pick    func(n int) int // 0 to n-1
}

func newQuietMachine(t *testing.T, model *sysfstest.Host, irqs int, guests []*domain.Needs, state string) *quietMachine {
	config, err := hook.ParseConfig("test", []byte("cpus.isolate = \"pinned\"\ncpus.governor = \"performance\"\ntunables.vm.swappiness = 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	m := &quietMachine{
		r: &rig{t: t, model: model, state: state, config: config}, guests: guests, running: map[int]bool{}, offline: -1, irqs: irqs,
		e: expected{map[string]cpuset.Set{}, map[string]cpuset.Set{}, map[string][]cpuset.Set{}, map[string]bool{}, map[string]bool{}, nil},
	}
	fs := model.FS()
	if m.e.nodes, err = fs.CPUNodes(); err != nil {
		t.Fatal(err)
	}
	for _, f := range m.files() {
		cpus := m.read(f)
		m.e.base[f] = cpus
		m.e.set(f, cpus)
	}
	for i := range irqs {
		m.e.still[sysfs.InterruptCPUs(i)] = i%5 == 3
	}
	return m
}

const threadFile = "thread "

func (m *quietMachine) files() []string {
	files := []string{sysfs.DefaultInterruptCPUs, sysfs.WorkqueueCPUs, sysfs.WritebackCPUs, sysfs.WatchdogCPUs, threadFile + "2", threadFile + "15", threadFile + "16"}
	for i := range m.irqs {
		files = append(files, sysfs.InterruptCPUs(i))
	}
	for _, i := range m.added {
		files = append(files, sysfs.InterruptCPUs(i))
	}
	return files
}

func (m *quietMachine) read(file string) cpuset.Set {
	m.r.t.Helper()
	fs := m.r.model.FS()
	if pid, ok := strings.CutPrefix(file, threadFile); ok {
		n := 0
		_, _ = fmt.Sscan(pid, &n)
		s, err := fs.ThreadCPUs(sysfs.Process{PID: n})
		if err != nil {
			m.r.t.Fatal(err)
		}
		return s
	}
	s, err := fs.ReadCPUs(file)
	if err != nil {
		m.r.t.Fatal(err)
	}
	return s
}

func (m *quietMachine) online() cpuset.Set {
	s, err := m.r.model.FS().OnlineCPUs()
	if err != nil {
		m.r.t.Fatal(err)
	}
	return s
}

func (m *quietMachine) claimed() (all cpuset.Set) {
	for i := range m.running {
		all = all.Union(m.guests[i].Pinned)
	}
	return all.Intersect(m.online())
}

// step does one thing that happens to a host, has the program act if it would, and compares.
func (m *quietMachine) step() string {
	what := ""
	g := m.pick(len(m.guests))
	switch n := m.pick(12); {
	case n < 4 && !m.running[g]:
		what = fmt.Sprintf("prepare %d", g)
		if err := m.r.prepare(m.guests[g]); err != nil {
			m.r.t.Fatalf("%s: %v", what, err)
		}
		m.running[g] = true
	case n < 7 && m.running[g]:
		what = fmt.Sprintf("release %d", g)
		delete(m.running, g)
		if err := m.r.release(m.guests[g]); err != nil {
			m.r.t.Fatalf("%s: %v", what, err)
		}
	case n == 7 && !m.running[g]:
		at := m.r.model.Changes() + 1 + m.pick(40)
		what = fmt.Sprintf("prepare of %d killed at change %d, release", g, at)
		m.r.model.OnChange(func(c sysfstest.Change) error {
			if c.N == at {
				panic(errKilled)
			}
			return nil
		})
		killed(func() { _ = m.r.prepare(m.guests[g]) })
		m.r.model.OnChange(nil)
		if err := m.r.release(m.guests[g]); err != nil {
			m.r.t.Fatalf("%s: %v", what, err)
		}
	case n == 8:
		what = m.foreign()
	case n == 9:
		what = m.hotplug()
	case n == 10 && m.offline < 0 && len(m.added) < 5:
		irq := 10000 + len(m.added)
		what = fmt.Sprintf("interrupt %d is requested", irq)
		m.r.model.AddIRQ(irq, -1, "late")
		m.added = append(m.added, irq)
		// Without guests it would have had the default's own CPUs.
		file := sysfs.InterruptCPUs(irq)
		m.e.base[file] = m.e.base[sysfs.DefaultInterruptCPUs]
		if m.e.left[sysfs.DefaultInterruptCPUs] {
			m.e.base[file] = m.read(file)
		}
	default:
		what = "an event"
	}
	if err := m.r.locked(func(h *hook.Host) error { return h.Settle(context.Background()) }); err != nil {
		m.r.t.Fatalf("%s: %v", what, err)
	}
	m.e.settle(m.claimed(), m.online())
	m.compare(what)
	return what
}

// foreign has somebody else set a mask to what it never was: one that is moved now, or any as long as no guest runs.
func (m *quietMachine) foreign() string {
	files := m.files()
	f := files[m.pick(len(files))]
	value := cpuset.Of(m.pick(8))
	moved := !m.e.now[f].Equal(m.e.base[f])
	if strings.HasPrefix(f, threadFile) || m.e.still[f] || m.e.left[f] || !value.Intersect(m.online()).Equal(value) ||
		len(m.running) > 0 && !moved || slices.ContainsFunc(m.e.seen[f], value.Equal) || f == sysfs.DefaultInterruptCPUs {
		return "an event"
	}
	if err := m.r.model.FS().WriteCPUs(f, value); err != nil {
		return "an event"
	}
	m.e.set(f, value)
	if len(m.running) == 0 {
		m.e.base[f] = value
	} else {
		m.e.left[f] = true
	}
	return fmt.Sprintf("somebody sets %s to %s", f, value)
}

// hotplug takes a CPU off line that no guest is pinned to, or brings it back.
func (m *quietMachine) hotplug() string {
	if m.offline >= 0 {
		cpu := m.offline
		m.r.model.HotplugCPU(cpu, true)
		m.offline = -1
		return fmt.Sprintf("CPU %d comes on line", cpu)
	}
	const cpu = 1
	m.offline = cpu
	m.r.model.HotplugCPU(cpu, false)
	// An interrupt that has nowhere left to go the kernel sends everywhere: that is what it has from then on, unless it is
	// somewhere else for a guest's sake.
	for _, f := range m.files() {
		if strings.HasSuffix(f, "/smp_affinity_list") && !m.e.still[f] && m.e.now[f].Intersect(m.online()).Empty() && (m.e.left[f] || len(m.running) == 0) {
			m.e.set(f, m.online())
			if !m.e.left[f] {
				m.e.base[f] = m.online()
			}
		}
	}
	return fmt.Sprintf("CPU %d goes off line", cpu)
}

func (m *quietMachine) compare(when string) {
	m.r.t.Helper()
	online := m.online()
	for _, f := range m.files() {
		want, got := m.e.now[f], m.read(f)
		if strings.HasPrefix(f, threadFile) {
			want, got = want.Intersect(online), got.Intersect(online)
		}
		if !got.Equal(want) {
			m.r.t.Fatalf("%s, guests %v on CPUs %s: %s is %s, want %s", when, slices.Sorted(maps.Keys(m.running)), m.claimed(), f, got, want)
		}
	}
	swappiness := "60"
	if len(m.running) > 0 {
		swappiness = "1"
	}
	m.r.wantRead("/proc/sys/vm/swappiness", swappiness)
	for cpu := range min(8, online.Len()) {
		if !online.Contains(cpu) {
			continue
		}
		governor, epp := "powersave", "balance_power"
		if m.claimed().Contains(cpu) {
			governor, epp = "performance", "performance"
		}
		policy := fmt.Sprintf("/sys/devices/system/cpu/cpufreq/policy%d/", cpu)
		m.r.wantRead(policy+"scaling_governor", governor)
		m.r.wantRead(policy+"energy_performance_preference", epp)
	}
	if len(m.running) == 0 && m.offline < 0 {
		if b, err := os.ReadFile(m.r.state + "/ledger.json"); err == nil {
			m.r.t.Fatalf("%s: no guest runs, and on record is %s", when, b)
		} else if !errors.Is(err, os.ErrNotExist) {
			m.r.t.Fatal(err)
		}
	}
}

// end stops all guests and brings the CPU back: the host has what it had.
func (m *quietMachine) end() {
	for i := range m.guests {
		if m.running[i] {
			delete(m.running, i)
			if err := m.r.release(m.guests[i]); err != nil {
				m.r.t.Fatal(err)
			}
		}
	}
	if m.offline >= 0 {
		m.hotplug()
	}
	if err := m.r.locked(func(h *hook.Host) error { return h.Settle(context.Background()) }); err != nil {
		m.r.t.Fatal(err)
	}
	m.e.settle(cpuset.Set{}, m.online())
	m.compare("at the end")
}

func pinnedGuests(pins ...string) []*domain.Needs {
	var all []*domain.Needs
	for i, p := range pins {
		cpus, _ := cpuset.ParseList(p)
		all = append(all, &domain.Needs{
			Guest:  domain.Guest{Name: fmt.Sprintf("guest%d", i), UUID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i)},
			Pinned: cpus, VCPUs: cpus,
		})
	}
	return all
}

// Pitfalls 22 and 23: whatever happens to a host with guests that come and go, its masks are what they are to be.
func TestQuietInAnyOrder(t *testing.T) {
	base, err := sysfstest.Parse("quiet", []byte(quietHost(8, 2, 30)))
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		model := base.Clone()
		defer model.Close()
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		m := newQuietMachine(t, model, 30, pinnedGuests("2-3", "4-5", "5-6", "2,6"), dir+"/state")
		m.pick = func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "pick") }
		var story []string
		defer func() {
			if t.Failed() {
				t.Log(strings.Join(story, "\n"))
			}
		}()
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			story = append(story, m.step())
		}
		m.end()
	})
}

// The same on large hosts, a few steps of each.
func TestQuietOnLargeHosts(t *testing.T) {
	for _, size := range []struct{ cpus, nodes, irqs int }{{128, 4, 512}, {1024, 16, 8192}} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			model, err := sysfstest.Parse("large", []byte(quietHost(size.cpus, size.nodes, size.irqs)))
			if err != nil {
				t.Fatal(err)
			}
			defer model.Close()
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, 0))
			m := newQuietMachine(t, model, size.irqs, pinnedGuests("2-50", fmt.Sprintf("60-%d", size.cpus-10), "40-70"), t.TempDir()+"/state")
			m.pick = random.IntN
			var story []string
			defer func() {
				if t.Failed() {
					t.Log(strings.Join(story, "\n"))
				}
			}()
			for range 15 {
				story = append(story, m.step())
			}
			m.end()
		})
	}
}
