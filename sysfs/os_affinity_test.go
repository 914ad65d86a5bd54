package sysfs_test

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"qemu-hook/cpuset"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest/fusetest"
)

// sleeper starts a program that does nothing until the test ends, as another user if uid is not 0.
func sleeper(t *testing.T, fs sysfs.FS, uid uint32) (p sysfs.Process, end func()) {
	t.Helper()
	cmd := exec.Command("/bin/sleep", "60")
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(end)
	st, err := fs.ProcessStat(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return sysfs.Process{PID: cmd.Process.Pid, Start: st.Start}, end
}

// wantCPUs checks where a thread may run, by both of the kernel's answers.
func wantCPUs(t *testing.T, fs sysfs.FS, p sysfs.Process, want cpuset.Set) {
	t.Helper()
	if s, err := fs.Affinity(p.PID); err != nil || !s.Equal(want) {
		t.Errorf("it runs on %s, error %v; want %s", s, err, want)
	}
	if s, err := fs.ThreadCPUs(p); err != nil || !s.Equal(want) {
		t.Errorf("by its status it runs on %s, error %v; want %s", s, err, want)
	}
}

// last is the last CPU of a set.
func last(s cpuset.Set) (one cpuset.Set) {
	for cpu := range s.All() {
		one = cpuset.Of(cpu)
	}
	return one
}

// TestAffinity: the running host's processes and threads, as whoever runs the test.
func TestAffinity(t *testing.T) {
	fs := realHost(t)
	all, err := fs.Affinity(os.Getpid())
	if err != nil || all.Empty() {
		t.Fatalf("this process runs on %s, error %v", all, err)
	}
	if all.Len() < 2 {
		fusetest.Lacking(t, "one CPU alone to run on")
	}
	p, end := sleeper(t, fs, 0)
	wantCPUs(t, fs, p, all)
	if err := fs.SetAffinity(p.PID, p.Start, last(all)); err != nil {
		t.Fatal(err)
	}
	wantCPUs(t, fs, p, last(all))
	if err := fs.SetAffinity(p.PID, p.Start, all); err != nil {
		t.Fatal(err)
	}
	wantCPUs(t, fs, p, all)

	const noSuchCPU = 8191
	for what, c := range map[string]struct {
		p    sysfs.Process
		cpus cpuset.Set
		want error
	}{
		"another that had the number": {sysfs.Process{PID: p.PID, Start: p.Start - 1}, last(all), syscall.ESRCH},
		"nowhere":                     {p, cpuset.Set{}, syscall.EINVAL},
		"a CPU that does not exist":   {p, cpuset.Of(noSuchCPU), syscall.EINVAL},
	} {
		if err := fs.SetAffinity(c.p.PID, c.p.Start, c.cpus); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", what, err, c.want)
		}
	}
	wantCPUs(t, fs, p, all)
	if err := fs.SetAffinity(p.PID, p.Start, last(all).Union(cpuset.Of(noSuchCPU))); err != nil {
		t.Errorf("with a CPU more that does not exist: %v", err)
	}
	wantCPUs(t, fs, p, last(all))
	end()
	if err := fs.SetAffinity(p.PID, p.Start, all); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("one that has ended: error %v", err)
	}
	if _, err := fs.Affinity(p.PID); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the CPUs of one that has ended: error %v", err)
	}
}

// apart runs a function in a thread of its own, which ends with it. The first thread is no such.
func apart(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			apart(f)
			return
		}
		f()
	}()
	<-done
}

// TestAffinityOfThread: a thread is moved without the others of its process.
func TestAffinityOfThread(t *testing.T) {
	fs := realHost(t)
	apart(func() {
		tid := unix.Gettid()
		st, err := fs.ProcessStat(tid)
		if err != nil {
			t.Error(err)
			return
		}
		all, err := fs.Affinity(tid)
		if err != nil {
			t.Error(err)
			return
		}
		if err := fs.SetAffinity(tid, st.Start, last(all)); err != nil {
			t.Error(err)
		}
		wantCPUs(t, fs, sysfs.Process{PID: tid, Start: st.Start}, last(all))
		if s, err := fs.Affinity(os.Getpid()); err != nil || !s.Equal(all) {
			t.Errorf("the process runs on %s then, error %v", s, err)
		}
	})
}

// TestAffinityOfOthers: an ordinary user moves what is the user's and nothing else; nobody moves what the kernel has bound.
func TestAffinityOfOthers(t *testing.T) {
	fs := realHost(t)
	if threads, err := fs.List("/proc"); err == nil {
		for _, name := range threads {
			pid, ok := boundThread(fs, name)
			if !ok {
				continue
			}
			st, _ := fs.ProcessStat(pid)
			all, err := fs.Affinity(pid)
			if err != nil {
				t.Fatal(err)
			}
			if err := fs.SetAffinity(pid, st.Start, all); !errors.Is(err, syscall.EINVAL) {
				t.Errorf("%s (%d) is bound: error %v", st.Comm, pid, err)
			}
			break
		}
	}
	if os.Getuid() != 0 {
		st, err := fs.ProcessStat(1)
		if err != nil {
			t.Fatal(err)
		}
		if err := fs.SetAffinity(1, st.Start, cpuset.Of(0)); !errors.Is(err, syscall.EPERM) {
			t.Errorf("init: error %v", err)
		}
		return
	}
	const nobody = 65534
	theirs, _ := sleeper(t, fs, nobody)
	ours, _ := sleeper(t, fs, 0)
	all, err := fs.Affinity(ours.PID)
	if err != nil {
		t.Fatal(err)
	}
	apart(func() {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			t.Errorf("cannot become another user: %v", errno)
			return
		}
		if err := fs.SetAffinity(theirs.PID, theirs.Start, last(all)); err != nil {
			t.Errorf("the user's own: %v", err)
		}
		if err := fs.SetAffinity(ours.PID, ours.Start, last(all)); !errors.Is(err, syscall.EPERM) {
			t.Errorf("another's: error %v", err)
		}
	})
	wantCPUs(t, fs, theirs, last(all))
	wantCPUs(t, fs, ours, all)
}

// boundThread reports whether a name in /proc is a kernel thread that is bound to its CPUs.
func boundThread(fs sysfs.FS, name string) (pid int, ok bool) {
	const bound = 0x04000000 // PF_NO_SETAFFINITY
	for _, c := range name {
		if c < '0' || c > '9' {
			return 0, false
		}
		pid = pid*10 + int(c-'0')
	}
	st, err := fs.ProcessStat(pid)
	return pid, err == nil && st.Flags&bound != 0 && !strings.HasPrefix(st.Comm, "kworker")
}

// TestAffinityElsewhere: under another root there are no threads.
func TestAffinityElsewhere(t *testing.T) {
	fs, err := sysfs.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Affinity(1); !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Errorf("error %v", err)
	}
	if err := fs.SetAffinity(os.Getpid(), 0, cpuset.Of(0)); !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Errorf("error %v", err)
	}
}
