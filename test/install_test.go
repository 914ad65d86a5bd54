package test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"qemu-hook/sysfs/sysfstest"
)

// installHost is a host with hooks of its owner's: a script, a link among others, and one that is no hook as it is not
// executable.
func installHost(t testing.TB) *sysfstest.Host {
	t.Helper()
	h := loadHost(t, "fern")
	v := h.VFS()
	dir := func(path string) {
		t.Helper()
		if err := mkdirAll(v, path); err != nil {
			t.Fatal(err)
		}
	}
	dir("/usr/bin")
	dir("/var/lib")
	dir("/etc/libvirt/hooks/qemu.d")
	dir("/etc/systemd/system")
	file := func(dirName, name, text string, mode uint32, uid int) {
		t.Helper()
		d, err := v.Walk(dirName, true)
		if err != nil {
			t.Fatal(err)
		}
		path := dirName + "/" + name
		n, err := v.Create(d, path, mode, uid, uid, 0)
		if err == nil {
			err = v.Write(n, path, 0, []byte(text), 0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	file("/etc/libvirt/hooks", "qemu", "#!/bin/sh\nvirsh nodedev-detach pci_0000_08_00_0\n", 0o750, 0)
	file("/etc/libvirt/hooks/qemu.d", "10-old", "#!/bin/sh\necho 100 >/proc/sys/vm/nr_hugepages\n", 0o755, 1000)
	file("/etc/libvirt/hooks/qemu.d", "notes", "not a hook\n", 0o644, 0)
	d, err := v.Walk("/etc/libvirt/hooks/qemu.d", true)
	if err == nil {
		_, err = v.Symlink(d, "/etc/libvirt/hooks/qemu.d/90-also", "10-old", 0, 0, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// mkdirAll makes a folder on the model, and those above it.
func mkdirAll(v sysfstest.VFS, path string) error {
	at, err := v.Walk("/", true)
	for i := 1; i <= len(path) && err == nil; i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		if n, werr := v.Walk(path[:i], true); werr == nil {
			at = n
		} else {
			at, err = v.Mkdir(at, path[:i], 0o755, 0, 0, 0)
		}
	}
	return err
}

// installTree is the host's tree without the records of hooks, which end with the boot.
func (x *box) installTree() *sysfstest.Snapshot { return x.model.Snapshot().Without(stateDir) }

// The program is killed at every change it makes while it is installed and uninstalled. Wherever that is, uninstall puts
// everything back, and install, done again, completes it.
func TestInstallKilled(t *testing.T) {
	base := installHost(t)
	var points atomic.Int64
	t.Run("points", func(t *testing.T) {
		for _, c := range installChanges(t, base) {
			for _, what := range c.then {
				points.Add(1)
				t.Run(fmt.Sprintf("%s-%03d-%s", c.during, c.change.N, what), func(t *testing.T) {
					t.Parallel()
					killInstall(t, newBox(t, base.Clone(), nil), c.during, c.change, what)
				})
			}
		}
	})
	t.Logf("%d kill points", points.Load())
}

// An installChange is a change that a command makes, and what is done after it was killed there.
type installChange struct {
	during string
	change sysfstest.Change
	then   []string
}

// installChanges installs and uninstalls undisturbed. Of a file that is written in many pieces it has the first and the last.
func installChanges(t *testing.T, base *sysfstest.Host) (all []installChange) {
	t.Helper()
	x := newBox(t, base.Clone(), nil)
	before := x.installTree()
	var mu sync.Mutex
	for _, during := range []string{"install", "uninstall"} {
		var seen []sysfstest.Change
		x.model.OnChange(func(c sysfstest.Change) error {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, c)
			return nil
		})
		x.mustMove(during)
		x.model.OnChange(nil)
		mu.Lock()
		same := func(i, j int) bool {
			return j >= 0 && j < len(seen) && seen[i].Op == "write" && seen[j].Op == "write" && seen[i].Path == seen[j].Path
		}
		for i, c := range seen {
			if same(i, i-1) && same(i, i+1) {
				continue
			}
			then := []string{"uninstall"}
			if during == "install" && !testing.Short() {
				then = append(then, "install")
			}
			all = append(all, installChange{during, c, then})
		}
		mu.Unlock()
	}
	if diff := sysfstest.Diff(before, x.installTree()); diff != "" {
		t.Fatalf("install and uninstall leave the host different:\n%s", diff)
	}
	if !slices.ContainsFunc(all, func(c installChange) bool {
		return c.change.Op == "rename" && c.change.Path == "/etc/libvirt/hooks/qemu"
	}) {
		t.Fatalf("the old hook was not moved: %v", all)
	}
	return all
}

func (x *box) mustMove(command string) {
	x.t.Helper()
	args := []string{command}
	if command == "install" {
		args = append(args, "--replace")
	}
	if status, _, stderr := x.person(args...); status != 0 || stderr != "" {
		x.t.Fatalf("%s ended with %d: %s", command, status, stderr)
	}
}

func killInstall(t *testing.T, x *box, during string, at sysfstest.Change, then string) {
	before := x.installTree()
	var killed atomic.Bool
	x.model.OnChange(func(c sysfstest.Change) error {
		if c.N != at.N {
			return nil
		}
		killed.Store(true)
		_ = syscall.Kill(x.running().cmd.Process.Pid, syscall.SIGKILL)
		return syscall.EIO
	})
	if during == "uninstall" {
		x.mustMove("install")
	}
	args := []string{during}
	if during == "install" {
		args = append(args, "--replace")
	}
	if status, _, stderr := x.person(args...); status != -1 || !killed.Load() {
		t.Fatalf("the program was not killed at %s %s: it ended with %d: %s", at.Op, at.Path, status, stderr)
	}
	if !x.model.WaitIdle(callTimeout) {
		t.Fatal("a change is still under way")
	}
	x.model.OnChange(nil)
	if then == "install" {
		x.mustMove("install")
		x.wantHook()
	}
	x.mustMove("uninstall")
	if diff := sysfstest.Diff(before, x.installTree()); diff != "" {
		t.Errorf("killed at %s %s, then %s: uninstall leaves the host different:\n%s", at.Op, at.Path, then, diff)
	}
}

// wantHook fails the test if the program and its link are not what libvirt would call, alone.
func (x *box) wantHook() {
	x.t.Helper()
	v := x.model.VFS()
	if n, err := v.Walk("/usr/bin/qemu-hook", true); err != nil || v.Stat(n).Mode&0o7777 != 0o755 {
		x.t.Errorf("the program is not in place: %v", err)
	}
	n, err := v.Walk("/etc/libvirt/hooks/qemu.d/50-qemu-hook", false)
	if err != nil {
		x.t.Fatalf("the hook is not in place: %v", err)
	}
	if to, err := v.Readlink(n); err != nil || to != "/usr/bin/qemu-hook" {
		x.t.Errorf("the hook is %q, %v", to, err)
	}
	for _, old := range []string{"/etc/libvirt/hooks/qemu", "/etc/libvirt/hooks/qemu.d/10-old", "/etc/libvirt/hooks/qemu.d/90-also"} {
		if _, err := v.Walk(old, true); err == nil {
			x.t.Errorf("%s is still there", old)
		}
	}
}
