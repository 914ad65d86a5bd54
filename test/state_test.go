package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"qemu-hook/hook"
	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/test/mode"
)

// needsSpace reports whether a change fails where /run is full. Strikes have their room reserved, which the model's /run cannot.
func needsSpace(c sysfstest.Change) bool {
	switch c.Op {
	case "create", "mkdir":
		return true
	case "write":
		return !strings.Contains(c.Value, `"op":"strike"`)
	}
	return false
}

// /run is full from some moment on: prepare is refused and gives back what it had taken. Once there is room again a release leaves
// nothing on record.
func TestFullRun(t *testing.T) {
	t.Parallel()
	points := 0
	for _, p := range []pair{{host: "fern", domain: "win11"}, {host: "fern", domain: "pages-only"}} {
		b := newBus(t)
		for _, op := range []string{"prepare", "release"} {
			s := scenes()[0]
			if op == "release" {
				s = scenes()[3]
			}
			t.Run(p.String()+"/"+op, func(t *testing.T) { points += fullFromEach(t, p, b, s) })
		}
	}
	t.Logf("%d moments", points)
}

// fullFromEach fills /run at the moments of a scene's call, and returns how many there were.
func fullFromEach(t *testing.T, p pair, b *bus, s scene) (points int) {
	a := reach(t, p, b, s)
	l := a.again(t, b)
	var mu sync.Mutex
	n := 0
	l.model.OnChange(func(c sysfstest.Change) error {
		mu.Lock()
		defer mu.Unlock()
		if strings.HasPrefix(c.Path, stateDir) && needsSpace(c) {
			n++
		}
		return nil
	})
	l.do(s.op)
	mu.Lock()
	all := n
	mu.Unlock()
	for from := range all {
		if !mode.Long() && from > 6 && from%4 > 0 {
			continue
		}
		points++
		t.Run(fmt.Sprintf("%03d", from), func(t *testing.T) { fullFrom(t, a.again(t, b), s.op, from) })
	}
	return points
}

func fullFrom(t *testing.T, l *life, op string, from int) {
	var n atomic.Int32
	var first atomic.Pointer[sysfstest.Change]
	l.model.OnChange(func(c sysfstest.Change) error {
		if !strings.HasPrefix(c.Path, stateDir) || !needsSpace(c) {
			return nil
		}
		if int(n.Add(1)) <= from {
			return nil
		}
		first.CompareAndSwap(nil, &c)
		return syscall.ENOSPC
	})
	status, stderr := l.call(op)
	l.model.OnChange(nil)
	at := first.Load()
	if at == nil {
		t.Fatalf("the moment %d did not come", from)
	}
	when := fmt.Sprintf("%s with /run full from %s %s on", op, at.Op, at.Path)
	if status > 0 {
		lastLineIsShort(t, stderr)
		if !strings.Contains(stderr, "no space left on device") {
			t.Errorf("%s says %q", when, stderr)
		}
	}
	// The hugepages are given back by their number, which must be on record before.
	if status > 0 && op == "prepare" {
		l.wantHost(when, "/proc/sys/vm/nr_hugepages", "/sys/devices/system/node", "/sys/kernel/mm/hugepages")
	}
	l.home([]string{"release"}, when)
}

// wantHost fails the test unless the host is as before, but for these paths and libvirt's daemon.
func (l *life) wantHost(when string, but ...string) {
	l.t.Helper()
	but = append(but, fmt.Sprint("/proc/", os.Getpid()))
	if diff := sysfstest.Diff(l.before.Without(but...), l.snapshot().Without(but...)); diff != "" {
		l.t.Errorf("%s: the host is different:\n%s", when, diff)
	}
}

// tmpfs puts the program's records on a real one, and returns its directory.
func (l *life) tmpfs(t *testing.T) (dir string) {
	t.Helper()
	run, err := l.model.VFS().Walk("/run", true)
	if err == nil {
		_, err = l.model.VFS().Mkdir(run, stateDir, 0o700, 0, 0, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(l.root, stateDir)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// wantNoRecord fails the test if anything is on record in a tmpfs.
func wantNoRecord(t *testing.T, dir string) {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, n := range names {
		if n.Name() != "lock" && n.Name() != hook.RefusalsDocument && n.Name() != hook.ReportsRing {
			t.Errorf("still on record: %s", n.Name())
		}
	}
}

// A real tmpfs is full, or read-only, from some change of the host's on, or from before the first. A prepare that is refused leaves
// nothing; a release gives back what can be given back without a note, and says what it could not write down.
func TestRunOfTmpfs(t *testing.T) {
	t.Parallel()
	const moments = 9
	p := pair{host: "fern", domain: "win11"}
	b := newBus(t)
	for _, how := range []string{"full", "read-only"} {
		for _, op := range []string{"prepare", "release"} {
			l := newLife(t, p, b)
			l.tmpfs(t)
			if op == "release" {
				l.do("prepare", "begins", "started", "ends")
			}
			before := l.model.Changes()
			l.do(op)
			changes := l.model.Changes() - before
			for moment := range moments {
				if how == "read-only" && moment > 0 {
					break // the kernel does not let it become that under an open lock
				}
				at := moment * changes / moments
				t.Run(fmt.Sprintf("%s/%s-%d", how, op, at), func(t *testing.T) { spoilAt(t, newLife(t, p, b), how, op, at) })
			}
		}
	}
}

func spoilAt(t *testing.T, l *life, how, op string, at int) {
	dir := l.tmpfs(t)
	l.writeConfig("[tunables]\n\"/proc/sys/vm/stat_interval\" = \"120\"\n")
	word, spoil, mend := "no space left on device", fill, empty
	if how == "read-only" {
		word, spoil, mend = "read-only file system", remount(unix.MS_RDONLY), remount(0)
	}
	if op == "release" {
		l.do("prepare", "begins", "started", "ends")
	}
	var n atomic.Int32
	once := sync.OnceFunc(func() { spoil(t, dir) })
	if at == 0 {
		once()
	}
	l.model.OnChange(func(sysfstest.Change) error {
		if int(n.Add(1)) == at {
			once()
		}
		return nil
	})
	status, stderr := l.call(op)
	l.model.OnChange(nil)
	if int(n.Load()) < at {
		t.Fatalf("%s makes %d changes, and should make %d", op, n.Load(), at)
	}
	if status != 0 && status != 1 {
		t.Errorf("%s ended with %d: %s", op, status, stderr)
	}
	if status == 1 {
		lastLineIsShort(t, stderr)
		if !strings.Contains(stderr, word) {
			t.Errorf("%s says %s", op, stderr)
		}
	}
	switch {
	case how == "full" && (status == 1 || op == "release"):
		l.wantHost(op)
	case status == 1:
		// Pages go by a note that must be on record first, and stay until that can be written.
		l.wantHost(op, "/proc/sys/vm/nr_hugepages", "/sys/devices/system/node", "/sys/kernel/mm/hugepages")
	case at == 0:
		t.Errorf("%s where %s is %s says nothing", op, stateDir, how)
	}
	mend(t, dir)
	l.do("release")
	wantNoRecord(t, dir)
	l.wantHost("at the end")
}

// fill leaves no page free, empty frees them.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
}

func empty(t *testing.T, dir string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, "fill")); err != nil {
		t.Fatal(err)
	}
}

// remount makes the tmpfs read-only, or writable again.
func remount(flags uintptr) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT|flags, "size=128k,mode=0700"); err != nil {
			t.Error(err)
		}
	}
}
