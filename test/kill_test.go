package test

import (
	"fmt"
	"os"
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
)

// killPairs are the hosts and domains of hook/prepare's tests that can be prepared.
func killPairs() []pair {
	return []pair{
		{"fern", "win11", true},
		{"fern", "demo", false},
		{"fern", "spaces", false},
		{"fern", "dash", false},
		{"fern", "nopins", false},
		{"fern", "allpins", false},
		{"fern", "shmem-sizes", false},
		{"fern", "shmem-128", false},
		{"fern", "cmdline", false},
		{"fern", "pages-only", true},
		{"fern-vfio", "win11", false},
		{"fern-vfio", "demo", true},
		{"desktop-four", "desktop-four", false},
		{"desktop-four", "pages-only", false},
		{"single-gpu", "single-gpu", true},
		{"server", "pages-only", false},
		{"sparse", "sparse", false},
		{"zfs", "pages-only", false},
	}
}

type pair struct {
	host, domain string
	// whole says that no change is left out, and that a short run has it. The other pairs leave out what is the same
	// everywhere: the lock, and the beginnings of a record before it gets its name.
	whole bool
}

func (p pair) String() string { return p.host + "/" + p.domain }

// A killPoint is a moment at which the program is killed.
type killPoint struct {
	change sysfstest.Change // as an undisturbed run made it
	op     string           // of libvirt's, during which
	// after says that the change is made first.
	after bool
	// alone says that only the hook is killed, and its worker or the program it runs, which makes this change, goes on.
	alone bool
}

func (k killPoint) String() string {
	s := fmt.Sprintf("%s-%03d-before", k.op, k.change.N)
	if k.after {
		s = fmt.Sprintf("%s-%03d-after", k.op, k.change.N)
	}
	if k.alone {
		s += "-hook-alone"
	}
	return s
}

// The program is killed at every change it makes while it prepares a guest and while it releases one. The release
// that comes next finds its way home.
func TestKilled(t *testing.T) {
	var points atomic.Int64
	t.Run("pairs", func(t *testing.T) {
		for _, p := range killPairs() {
			if testing.Short() && !p.whole {
				continue
			}
			t.Run(p.String(), func(t *testing.T) {
				t.Parallel()
				b, base, g := newBus(t), loadHost(t, p.host), loadGuest(t, p.domain)
				if p.host == "single-gpu" {
					// The desktop is logged out.
					base.RemoveProcess(1866)
					base.Closes(611, "/dev/dri/card1")
					base.Remove("/run/systemd/sessions/3")
				}
				for _, k := range killPoints(t, p, b, base, g) {
					points.Add(1)
					t.Run(k.String(), func(t *testing.T) { killAt(t, newBox(t, base.Clone(), b), g, k) })
				}
			})
		}
	})
	t.Logf("%d kill points", points.Load())
}

// killPoints runs the program undisturbed, from prepare to release, and lists its changes.
func killPoints(t *testing.T, p pair, b *bus, base *sysfstest.Host, g guest) []killPoint {
	t.Helper()
	x := newBox(t, base.Clone(), b)
	before := x.snapshot()
	var points []killPoint
	op := "prepare"
	// The order that processes bring is not seen by the race detector.
	var mu sync.Mutex
	during := func(next string) {
		mu.Lock()
		defer mu.Unlock()
		op = next
	}
	x.model.OnChange(func(c sysfstest.Change) error {
		mu.Lock()
		defer mu.Unlock()
		beginnings := strings.HasPrefix(c.Path, stateDir+"/.") && c.Op != "rename"
		if c.Path == stateDir+"/"+hook.ReportsRing || !p.whole && (beginnings || c.Path == stateDir+"/lock") {
			return nil
		}
		// Of systemd's changes it cannot be told who asked, but it is no child.
		child := c.PID != 0 && c.PID != x.running().cmd.Process.Pid
		points = append(points, killPoint{c, op, false, false})
		if child {
			points = append(points, killPoint{c, op, false, true}, killPoint{c, op, true, true})
		}
		// What the hook leaves after a change of its records it leaves before the next change, too.
		if !strings.HasPrefix(c.Path, stateDir+"/") {
			points = append(points, killPoint{c, op, true, false})
		}
		return nil
	})
	made := map[int]bool{} // the others the kernel refused
	x.model.AfterChange(func(c sysfstest.Change) error {
		mu.Lock()
		defer mu.Unlock()
		made[c.N] = true
		return nil
	})
	x.mustDo(g, "prepare")
	during("status")
	if status, out, stderr := x.person("status"); status != 0 || stderr != "" {
		t.Errorf("status ended with %d and says %s%s", status, out, stderr)
	} else if strings.Contains(out, "drifted") || strings.Contains(out, "problem") {
		t.Errorf("status of a guest that was just prepared: %s", out)
	}
	during("release")
	x.mustDo(g, "release")
	if diff := x.differs(before); diff != "" {
		t.Fatalf("prepare and release leave the host different:\n%s", diff)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, k := range points {
		if k.op == "status" {
			t.Errorf("status changes something: %s %s", k.change.Op, k.change.Path)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	return slices.DeleteFunc(distinct(points), func(k killPoint) bool { return k.after && !made[k.change.N] })
}

// distinct leaves out of a row of changes that are the same for one interrupt after the other all but the first two and the
// last.
func distinct(points []killPoint) []killPoint {
	row := func(i int) string {
		if i < 0 || i >= len(points) || !strings.HasPrefix(points[i].change.Path, "/proc/irq/") {
			return ""
		}
		return points[i].op
	}
	var some []killPoint
	from := 0
	for i, k := range points {
		if row(i) == "" || row(i) != row(i-1) {
			from = k.change.N
		}
		last := row(i) != row(i+1) || row(i) != row(i+2)
		if row(i) == "" || k.change.N < from+2 || last {
			some = append(some, k)
		}
	}
	return some
}

func killAt(t *testing.T, x *box, g guest, k killPoint) {
	before := x.snapshot()
	var killed atomic.Bool
	kill := func(c sysfstest.Change) error {
		if c.N != k.change.N {
			return nil
		}
		killed.Store(true)
		call := x.running()
		hook := call.cmd.Process.Pid
		if !k.alone {
			for _, child := range children(t, hook) {
				_ = syscall.Kill(child, syscall.SIGKILL)
			}
			_ = syscall.Kill(hook, syscall.SIGKILL)
			// Nobody waits for the answer any more.
			return syscall.EIO
		}
		_ = syscall.Kill(hook, syscall.SIGKILL)
		select {
		case <-call.dead:
		case <-time.After(20 * time.Second):
			t.Error("the hook is dead, but a child of it holds its pipes: libvirt would wait for that")
		}
		return nil
	}
	if k.after {
		x.model.AfterChange(kill)
	} else {
		x.model.OnChange(kill)
	}
	if k.op == "release" {
		x.mustDo(g, "prepare")
	}
	status, stderr := x.libvirt(g, k.op)
	if !killed.Load() || status != -1 {
		t.Fatalf("the program was not killed at %s %s: it ended with %d: %s", k.change.Op, k.change.Path, status, stderr)
	}
	if !x.model.WaitIdle(callTimeout) {
		t.Fatal("a change is still under way")
	}
	x.model.OnChange(nil)
	x.model.AfterChange(nil)
	x.mustDo(g, "release")
	if diff := x.differs(before); diff != "" {
		t.Errorf("killed at %s %s %q: the release after it leaves the host different:\n%s",
			k.change.Op, k.change.Path, k.change.Value, diff)
	}
	x.wantNoProcess()
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
