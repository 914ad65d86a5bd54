package test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"qemu-hook/hook"
	"qemu-hook/sysfs/sysfstest/fusetest"
)

// What the tests on the running kernel touch.
const (
	kernelPool  = "/sys/kernel/mm/hugepages/hugepages-2048kB/"
	kernelShm   = "/dev/shm/qemu-hook-test"
	kernelPages = 64
)

// A kernel is the running one.
type kernel struct {
	t     *testing.T
	guest guest
	pages int64    // in the pool, before
	shm   []string // in /dev/shm, before
}

// onKernel ends the test if it may not have huge pages of the running kernel, and sees that whatever happens they are
// given back.
func onKernel(t *testing.T) *kernel {
	t.Helper()
	if os.Geteuid() != 0 {
		fusetest.Lacking(t, "root is missing: uid %d may not have huge pages", os.Geteuid())
	}
	if _, err := os.Stat(configDir); !errors.Is(err, fs.ErrNotExist) {
		fusetest.Lacking(t, "a host without a configuration is missing: %s is there, and the test expects the defaults", configDir)
	}
	entries, err := os.ReadDir(stateDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "lock" && e.Name() != hook.ReportsRing {
			fusetest.Lacking(t, "a host without guests is missing: %s has %s", stateDir, e.Name())
		}
	}
	if _, err := os.Lstat(kernelShm); !errors.Is(err, fs.ErrNotExist) {
		fusetest.Lacking(t, "a free name is missing: %s is there (%v)", kernelShm, err)
	}
	if _, err := os.Stat("/dev/shm"); err != nil {
		fusetest.Lacking(t, "/dev/shm is missing: %v", err)
	}
	if _, err := os.Stat(kernelPool); err != nil {
		fusetest.Lacking(t, "huge pages of 2 MiB are missing: %v", err)
	}
	k := &kernel{t: t, guest: loadGuest(t, "pages-only"), pages: poolNumber(t, "nr_hugepages"), shm: inShm(t)}
	// Writing what is there changes nothing, but tells whether it can be written.
	if err := writePool(k.pages); err != nil {
		fusetest.Lacking(t, "a writable pool is missing: %v", err)
	}
	if err := writePool(k.pages + kernelPages); err != nil {
		t.Fatal(err)
	}
	got := poolNumber(t, "nr_hugepages")
	if err := writePool(k.pages); err != nil {
		t.Fatal(err)
	}
	if got < k.pages+kernelPages {
		fusetest.Lacking(t, "memory is missing: the kernel has only %d of %d more huge pages", got-k.pages, kernelPages)
	}
	t.Cleanup(k.restore)
	if log := stateDir + "/" + hook.ReportsRing; !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == hook.ReportsRing }) {
		t.Cleanup(func() { _ = os.Remove(log) })
	}
	return k
}

// restore brings the host back, if the program has not.
func (k *kernel) restore() {
	if k.recorded() {
		k.t.Errorf("still on record at the end of the test")
		k.run("release")
	}
	if now := poolNumber(k.t, "nr_hugepages"); now != k.pages {
		k.t.Errorf("%d huge pages at the end of the test, %d before", now, k.pages)
		if err := writePool(k.pages); err != nil {
			k.t.Error(err)
		}
	}
	if err := os.Remove(kernelShm); err == nil {
		k.t.Errorf("%s is left at the end of the test", kernelShm)
	}
}

func poolNumber(t testing.TB, file string) int64 {
	t.Helper()
	b, err := os.ReadFile(kernelPool + file)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func writePool(n int64) error {
	f, err := os.OpenFile(kernelPool+"nr_hugepages", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.FormatInt(n, 10))
	return errors.Join(err, f.Close())
}

// inShm lists what the program may have to do with; others come and go.
func inShm(t testing.TB) []string {
	t.Helper()
	names, err := filepath.Glob(kernelShm + "*")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func (k *kernel) recorded() bool {
	entries, _ := os.ReadDir(stateDir)
	for _, e := range entries {
		if e.Name() != "lock" && e.Name() != "refusals.json" && e.Name() != "log" {
			return true
		}
	}
	return false
}

func (k *kernel) command(args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command(program(k.t), args...)
	out := new(bytes.Buffer)
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(k.guest.xml), out, out
	return cmd, out
}

// run calls the program as libvirt does; it must succeed and say nothing.
func (k *kernel) run(op string) {
	k.t.Helper()
	cmd, out := k.command(k.guest.event(op)...)
	if err := cmd.Run(); err != nil || out.Len() > 0 {
		k.t.Errorf("%s: %v: %s", op, err, out)
	}
}

func (k *kernel) wantAsBefore() {
	k.t.Helper()
	if now := poolNumber(k.t, "nr_hugepages"); now != k.pages {
		k.t.Errorf("%d huge pages, %d before", now, k.pages)
	}
	if now := inShm(k.t); len(now) != len(k.shm) {
		k.t.Errorf("%v in /dev/shm, %v before", now, k.shm)
	}
	if k.recorded() {
		k.t.Error("the guest is still on record")
	}
}

// The guest's huge pages and its shared-memory file, on the running kernel, from prepare to release.
func TestKernel(t *testing.T) {
	k := onKernel(t)
	free := poolNumber(t, "free_hugepages")
	k.run("prepare")
	if now := poolNumber(t, "free_hugepages"); now < kernelPages {
		t.Errorf("%d huge pages are free, %d before; the guest wants %d", now, free, kernelPages)
	}
	if now := poolNumber(t, "nr_hugepages"); free == 0 && now != k.pages+kernelPages {
		t.Errorf("%d huge pages, want %d more than %d", now, kernelPages, k.pages)
	}
	st, err := os.Lstat(kernelShm)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode() != 0o660 || st.Size() != 1<<20 {
		t.Errorf("%s has mode %v and %d bytes, want -rw-rw---- and 1 MiB", kernelShm, st.Mode(), st.Size())
	}
	if owner := st.Sys().(*syscall.Stat_t); int(owner.Gid) != kvmGroup(t) || int(owner.Uid) != seatUser(t) {
		t.Errorf("%s belongs to %d:%d, want %d:%d", kernelShm, owner.Uid, owner.Gid, seatUser(t), kvmGroup(t))
	}
	k.run("prepare") // again, as after a prepare by hand
	k.run("release")
	k.wantAsBefore()
	k.run("release")
	k.wantAsBefore()
}

// kvmGroup is the group of a file that nobody configured.
func kvmGroup(t testing.TB) int {
	g, err := user.LookupGroup("kvm")
	if err != nil {
		return 0
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		t.Fatal(err)
	}
	return gid
}

// seatUser is the user of the active session on seat0, root if there is none.
func seatUser(t testing.TB) int {
	b, err := os.ReadFile("/run/systemd/seats/seat0")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "ACTIVE_UID="); ok {
			uid, err := strconv.Atoi(v)
			if err != nil {
				t.Fatal(err)
			}
			return uid
		}
	}
	return 0
}

// The program is killed as soon as a trace of its work can be seen; recover gives all of it back.
func TestKernelKilled(t *testing.T) {
	for name, seen := range map[string]func(k *kernel) bool{
		"recorded": func(*kernel) bool { _, err := os.Stat(stateDir + "/ledger.json"); return err == nil },
		"pages":    func(k *kernel) bool { return poolNumber(k.t, "nr_hugepages") > k.pages },
		"shm":      func(k *kernel) bool { return len(inShm(k.t)) > len(k.shm) },
	} {
		t.Run(name, func(t *testing.T) {
			k := onKernel(t)
			if name == "pages" && poolNumber(t, "free_hugepages") > 0 {
				fusetest.Lacking(t, "a pool in use is missing: %d huge pages are free, so that none may be added", poolNumber(t, "free_hugepages"))
			}
			cmd, out := k.command(k.guest.event("prepare")...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(time.Minute); !seen(k) && time.Now().Before(end); {
			}
			_ = cmd.Process.Kill()
			err := cmd.Wait()
			t.Logf("prepare: %v %s", err, out)

			cmd, out = k.command("recover", k.guest.name)
			if err := cmd.Run(); err != nil {
				t.Errorf("recover: %v: %s", err, out)
			}
			k.wantAsBefore()
		})
	}
}
