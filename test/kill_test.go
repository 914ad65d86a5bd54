package test

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"qemu-hook/hook"
	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/test/mode"
)

// killPairs are hosts with a domain that can be prepared there. Every host of testdata is among them.
func killPairs() []pair {
	card := func(host string, functions ...string) pair { return pair{host: host, functions: functions} }
	full := card("single-gpu-full", "0000:01:00.0", "0000:01:00.1")
	full.config = "services.stop = [\"gdm.service\"]\nsession.end = \"seat0\"\ngpu.grace = \"5s\"\n"
	// What ended with the session stays away.
	full.gone = []string{"/proc", "/run/systemd/sessions", "/run/systemd/users", "/run/systemd/seats"}
	scripts := pair{host: "fern", domain: "win11", name: "win11 with all that is off by default", config: `cpus.governor = "performance"
cpus.partition = true
cpus.irqbalance = "stop"
memory.compact = "always"
services.stop = ["sunshine.service"]
[tunables]
vm.stat_interval = 120
kernel.watchdog = 0
"/sys/kernel/mm/transparent_hugepage/enabled" = "never"
`}
	return []pair{
		{host: "fern", domain: "win11", whole: true},
		scripts,
		{host: "fern", domain: "demo", long: true},
		{host: "fern", domain: "spaces"},
		{host: "fern", domain: "dash", long: true},
		{host: "fern", domain: "nopins", long: true},
		{host: "fern", domain: "allpins", long: true},
		{host: "fern", domain: "shmem-sizes", long: true},
		{host: "fern", domain: "shmem-128", long: true},
		{host: "fern", domain: "cmdline"},
		{host: "fern", domain: "pages-only", whole: true},
		{host: "fern-vfio", domain: "win11", long: true},
		{host: "fern-vfio", domain: "demo", whole: true},
		{host: "desktop-four", domain: "desktop-four"},
		{host: "desktop-four", domain: "pages-only", long: true},
		{host: "single-gpu", domain: "single-gpu", whole: true},
		{host: "server", domain: "pages-only"},
		{host: "sparse", domain: "sparse"},
		{host: "zfs", domain: "pages-only"},
		{host: "no-iommu", domain: "pages-only"},
		card("two-nvidia", "0000:06:00.0", "0000:06:00.1"),
		card("hybrid-laptop", "0000:01:00.0", "0000:01:00.1"),
		card("nouveau", "0000:01:00.0", "0000:01:00.1"),
		card("amd-two", "0000:0b:00.0", "0000:0b:00.1"),
		card("intel-arc", "0000:03:00.0", "0000:04:00.0"),
		card("driverless", "0000:01:00.0", "0000:01:00.1"),
		card("two-cards", "0000:06:00.0", "0000:06:00.1"),
		full,
	}
}

type pair struct {
	host, domain string
	name         string // if it is not the domain's
	// functions are what the guest gets, if it is none of testdata's.
	functions []string
	config    string
	gone      []string // what the host does not get back
	// whole says that no file is left out, and that a short run has it. The other pairs leave out what is the same
	// everywhere: the lock, and the beginnings of a record before it gets its name. A long run leaves out no change, and goes
	// every way home from the whole ones; long says that only that has the pair.
	whole, long bool
}

func (p pair) String() string { return p.host + "/" + cmp.Or(p.name, p.domain, "card") }

func (p pair) skipped() bool { return !mode.Long() && (p.long || testing.Short() && !p.whole) }

// guest is the pair's domain.
func (p pair) guest(t testing.TB) guest {
	t.Helper()
	if p.domain != "" {
		return loadGuest(t, p.domain)
	}
	var devices strings.Builder
	for _, f := range p.functions {
		fmt.Fprintf(&devices, `<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x%s' bus='0x%s' slot='0x%s' function='0x%s'/></source></hostdev>`,
			f[:4], f[5:7], f[8:10], f[11:])
	}
	g := guest{name: "card", uuid: "c0a1d000-54c3-4c0e-9a35-2c1a8a8d1e01"}
	g.xml = fmt.Appendf(nil, `<domain type='kvm'><name>%s</name><uuid>%s</uuid><memory unit='MiB'>1024</memory>
<vcpu>2</vcpu><cputune><vcpupin vcpu='0' cpuset='2'/><vcpupin vcpu='1' cpuset='3'/></cputune>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices>%s<shmem name='looking-glass'><model type='ivshmem-plain'/><size unit='M'>32</size></shmem></devices></domain>`, g.name, g.uuid, &devices)
	return g
}

// box is the pair's host before anything happens.
func (p pair) box(t testing.TB, b *bus) *box {
	t.Helper()
	x := newBox(t, loadHost(t, p.host), b)
	if p.host == "single-gpu" {
		// The desktop is logged out.
		x.model.RemoveProcess(1866)
		x.model.Closes(611, "/dev/dri/card1")
		x.model.Remove("/run/systemd/sessions/3")
	}
	if p.config != "" {
		x.writeConfig(p.config)
	}
	return x
}

// A killPoint is a moment at which the program is killed.
type killPoint struct {
	change sysfstest.Change // as an undisturbed run made it
	// after says that the change is made first.
	after bool
	// alone says that only the hook is killed, and its worker or the program it runs, which makes this change, goes on.
	alone bool
}

func (k killPoint) String() string {
	s := fmt.Sprintf("%03d-before", k.change.N)
	if k.after {
		s = fmt.Sprintf("%03d-after", k.change.N)
	}
	if k.alone {
		s += "-hook-alone"
	}
	return s
}

// A scene is a call that is killed: what happens before it, and what may come next, each of which leads home.
type scene struct {
	op   string
	way  []string
	home [][]string
}

// scenes are the calls that change something. The steps are those of [life.do].
func scenes() []scene {
	running := [][]string{
		{"recover", "reconnect", "same", "ends", "release"}, // the daemon was restarted
		{"ends", "release"},            // libvirt takes a hook that was killed for a failure
		{"ends", "prepare", "release"}, // the daemon died with the guest
		{"ends", "orphaned", "recover"},
	}
	return []scene{
		{"prepare", nil, [][]string{{"release"}, {"prepare", "release"}, {"orphaned", "recover"}}},
		{"started", []string{"prepare", "begins"}, running},
		{"reconnect", []string{"prepare", "begins", "started", "drifts"}, running},
		{
			"release",
			[]string{"prepare", "begins", "started", "ends"},
			[][]string{{"release"}, {"prepare", "release"}, {"orphaned", "recover"}, {"recover NAME"}},
		},
		{
			"recover",
			[]string{"prepare", "begins", "started", "ends", "orphaned"},
			[][]string{{"recover"}, {"release"}, {"prepare", "release"}},
		},
	}
}

// The program is killed at every change it makes, in every call that makes any. Whatever may come next leads home, and a
// guest that runs keeps what it has.
func TestKilled(t *testing.T) {
	var mu sync.Mutex
	points := map[string]int{}
	t.Run("pairs", func(t *testing.T) {
		for _, p := range killPairs() {
			if p.skipped() {
				continue
			}
			t.Run(p.String(), func(t *testing.T) {
				t.Parallel()
				b := newBus(t)
				for _, s := range scenes() {
					t.Run(s.op, func(t *testing.T) {
						n := killScene(t, p, b, s)
						mu.Lock()
						defer mu.Unlock()
						points[s.op] += n
					})
				}
			})
		}
	})
	t.Logf("kills: %v", points)
}

// Every host is killed on.
func TestKilledOnEveryHost(t *testing.T) {
	files, err := filepath.Glob("../testdata/hosts/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".txtar")
		if !slices.ContainsFunc(killPairs(), func(p pair) bool { return p.host == name && !p.long }) {
			t.Errorf("no domain is killed on %s", name)
		}
	}
}

// killScene kills the scene's call at each point, and returns how many runs that took.
func killScene(t *testing.T, p pair, b *bus, s scene) (n int) {
	a := reach(t, p, b, s)
	for i, k := range a.points {
		homes := s.home[i%len(s.home):][:1]
		switch {
		case mode.Long() && p.whole:
			homes = s.home
		case mode.Long() || p.whole:
		case s.op == "release" && i%2 > 0, s.op == "recover" && i%4 > 0: // the way back is the same after either
			continue
		}
		for _, home := range homes {
			n++
			t.Run(k.String()+"-"+strings.ReplaceAll(strings.Join(home, "-"), " ", "-"), func(t *testing.T) {
				l := a.again(t, b)
				l.killAt(s.op, k)
				l.home(home, fmt.Sprintf("killed in %s at %s %s %q", s.op, k.change.Op, k.change.Path, k.change.Value))
			})
		}
	}
	return n
}

// An act is a scene's beginning, and its call as it goes undisturbed.
type act struct {
	life
	model  *sysfstest.Host // as it stands when the call comes
	points []killPoint
}

// again is a new copy of the host as the call finds it.
func (a *act) again(t testing.TB, b *bus) *life {
	l := a.life
	l.box = newBox(t, a.model.Clone(), b)
	return &l
}

// reach goes to the scene's call and lists what it changes.
func reach(t testing.TB, p pair, b *bus, s scene) *act {
	t.Helper()
	l := newLife(t, p, b)
	l.do(s.way...)
	if t.Failed() {
		t.FailNow()
	}
	a := &act{life: *l, model: l.model.Clone()}
	l = a.again(t, b)
	var mu sync.Mutex // the order that processes bring is not seen by the race detector
	var points []killPoint
	l.model.OnChange(func(c sysfstest.Change) error {
		mu.Lock()
		defer mu.Unlock()
		beginnings := strings.HasPrefix(c.Path, stateDir+"/.") && c.Op != "rename"
		if c.Path == stateDir+"/"+hook.ReportsRing || !mode.Long() && !p.whole && (beginnings || c.Path == stateDir+"/lock") {
			return nil
		}
		// Of systemd's changes it cannot be told who asked, but it is no child.
		child := c.PID != 0 && c.PID != l.running().cmd.Process.Pid
		points = append(points, killPoint{c, false, false})
		if child {
			points = append(points, killPoint{c, false, true}, killPoint{c, true, true})
		}
		points = append(points, killPoint{c, true, false})
		return nil
	})
	made := map[int]bool{} // the others the kernel refused
	l.model.AfterChange(func(c sysfstest.Change) error {
		mu.Lock()
		defer mu.Unlock()
		made[c.N] = true
		return nil
	})
	l.do(s.op)
	l.model.OnChange(nil)
	l.model.AfterChange(nil)
	if s.op == "prepare" {
		l.wantGoodStatus()
	}
	if slices.ContainsFunc(s.home, func(home []string) bool { return slices.Contains(home, "same") }) {
		l.do("reconnect")
		l.same = l.snapshot()
		a.same = l.same
	}
	l.home(s.home[0], "undisturbed")
	if t.Failed() {
		t.FailNow()
	}
	mu.Lock()
	defer mu.Unlock()
	points = slices.DeleteFunc(points, func(k killPoint) bool { return k.after && !made[k.change.N] })
	if !mode.Long() {
		// What the hook leaves after a change it leaves before the next one, too.
		i := 0
		points = slices.DeleteFunc(distinct(points), func(k killPoint) bool {
			i++
			return k.after && !k.alone && i < len(points)
		})
	}
	a.points = points
	return a
}

// distinct leaves out of a row of changes that are the same for one interrupt after the other all but the first two and the
// last.
func distinct(points []killPoint) []killPoint {
	row := func(i int) bool {
		return i >= 0 && i < len(points) && strings.HasPrefix(points[i].change.Path, "/proc/irq/")
	}
	var some []killPoint
	from := 0
	for i, k := range points {
		if !row(i) || !row(i-1) {
			from = k.change.N
		}
		last := !row(i+1) || !row(i+2)
		if !row(i) || k.change.N < from+2 || last {
			some = append(some, k)
		}
	}
	return some
}

// killAt has the program killed in a call.
func (l *life) killAt(op string, k killPoint) {
	l.t.Helper()
	var killed atomic.Bool
	kill := func(c sysfstest.Change) error {
		if c.N != k.change.N {
			return nil
		}
		killed.Store(true)
		call := l.box.running()
		if !k.alone {
			call.kill(l.t)
			// Nobody waits for the answer any more.
			return syscall.EIO
		}
		_ = call.cmd.Process.Kill()
		select {
		case <-call.dead:
		case <-time.After(20 * time.Second):
			l.t.Error("the hook is dead, but a child of it holds its pipes: libvirt would wait for that")
		}
		return nil
	}
	if k.after {
		l.model.AfterChange(kill)
	} else {
		l.model.OnChange(kill)
	}
	status, stderr := l.call(op)
	if !killed.Load() || status != -1 {
		l.t.Fatalf("the program was not killed at %s %s: it ended with %d: %s", k.change.Op, k.change.Path, status, stderr)
	}
	if !l.model.WaitIdle(callTimeout) {
		l.t.Fatal("a change is still under way")
	}
	l.model.OnChange(nil)
	l.model.AfterChange(nil)
}

// kill ends the program with its children, as a kill of its control group does.
func (c *call) kill(t testing.TB) {
	hook := c.cmd.Process.Pid
	for _, child := range children(t, hook) {
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
	_ = syscall.Kill(hook, syscall.SIGKILL)
}

// children returns the processes whose parent is pid.
func children(t testing.TB, pid int) []int {
	var all []int
	for child, stat := range eachProcess(t, "stat") {
		// What follows the name, which may hold anything: state, parent, …
		f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
		if len(f) > 1 && f[1] == strconv.Itoa(pid) {
			all = append(all, child)
		}
	}
	return all
}

// wantNoProcess waits until no process of the program is left on this host.
func (x *box) wantNoProcess() {
	x.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left := 0
		for pid, cmdline := range eachProcess(x.t, "cmdline") {
			if strings.Contains(cmdline, x.root+"\x00") {
				left = pid
			}
		}
		if left == 0 {
			return
		}
		if time.Now().After(end) {
			x.t.Errorf("process %d of the program is left", left)
			return
		}
	}
}

// eachProcess yields a file of /proc/PID for every process.
func eachProcess(t testing.TB, file string) map[int]string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	all := map[int]string{}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if b, err := os.ReadFile("/proc/" + e.Name() + "/" + file); err == nil {
				all[pid] = string(b)
			}
		}
	}
	return all
}
