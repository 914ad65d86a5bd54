package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/sysfs/sysfstest/fusetest"
)

// What the kill tests stop at is all there is: of each system call of the program and its children, as strace sees it, it is
// known whether it can change anything outside the process, and every one that can is a change of the model's, a message to the
// bus, a word between hook and worker, or the lock.
func TestSystemCalls(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		fusetest.Lacking(t, "strace is missing: %v", err)
	}
	known, all := map[string]int{}, 0
	for _, p := range []pair{{host: "fern", domain: "win11"}, {host: "single-gpu", domain: "single-gpu"}} {
		b := newBus(t)
		for _, s := range scenes() {
			l := newLife(t, p, b)
			l.do(s.way...)
			var mu sync.Mutex
			var changes []string
			l.model.OnChange(func(c sysfstest.Change) error {
				mu.Lock()
				defer mu.Unlock()
				if c.PID != 0 && c.Op != "run" {
					changes = append(changes, c.Op+" "+c.Path)
				}
				return nil
			})
			exists := map[string]bool{}
			for _, dir := range []string{stateDir, "/dev/shm"} {
				names, _ := l.model.FS().ReadDir(dir)
				for _, name := range names {
					exists[dir+"/"+name] = true
				}
			}
			out := filepath.Join(t.TempDir(), "strace")
			l.wrap = []string{strace, "-f", "-yy", "-s", "4096", "-o", out}
			l.do(s.op)
			l.wrap = nil
			l.model.OnChange(nil)
			text, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			calls := parseStrace(t, l.root, string(text), known, exists)
			all += len(calls)
			slices.Sort(calls)
			slices.Sort(changes)
			mu.Lock()
			if len(calls) == 0 || !slices.Equal(calls, changes) {
				t.Errorf("%s of %s: strace sees\n%s\nthe model sees\n%s", s.op, p, strings.Join(only(calls, changes), "\n"), strings.Join(only(changes, calls), "\n"))
			}
			mu.Unlock()
			l.home(s.home[1], "under strace")
		}
	}
	n := 0
	for _, times := range known {
		n += times
	}
	t.Logf("%d system calls of %d kinds looked at, %d of them change a file", n, len(known), all)
}

// only lists what is in a and not in b.
func only(a, b []string) []string {
	b = slices.Clone(b)
	var out []string
	for _, s := range a {
		if i := slices.Index(b, s); i >= 0 {
			b = slices.Delete(b, i, i+1)
			continue
		}
		out = append(out, s)
	}
	return out
}

// harmlessCalls change nothing that outlives the process, or ask only.
func harmlessCalls() []string {
	return strings.Fields(`
		access faccessat faccessat2 stat fstat lstat newfstatat statx statfs fstatfs readlink readlinkat getdents64 getcwd
		read pread64 readv lseek close close_range dup dup2 dup3 fcntl pipe pipe2 poll ppoll pselect6 select
		epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2 timerfd_create timerfd_settime
		mmap mprotect munmap madvise mremap brk mincore mlock munlock membarrier
		rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack rt_sigtimedwait
		clone clone3 vfork fork execve exit exit_group wait4 waitid set_tid_address set_robust_list rseq arch_prctl prctl
		futex sched_yield nanosleep clock_nanosleep clock_gettime gettimeofday getrandom restart_syscall
		getpid getppid gettid getuid geteuid getgid getegid getgroups uname sysinfo getrlimit prlimit64 setsid setpgid getpgrp
		sched_getaffinity pidfd_open tgkill
		socket connect getsockname getpeername getsockopt setsockopt shutdown recvfrom recvmsg
		chdir umask fadvise64`)
}

// parseStrace lists the changes of files below the root that a trace shows, as the model would. known counts the calls, exists has
// the files that an open may make, and does not if they are there.
func parseStrace(t *testing.T, root, text string, known map[string]int, exists map[string]bool) (changes []string) {
	t.Helper()
	harmless := harmlessCalls()
	call := regexp.MustCompile(`^(\d+) +(\w+)\((.*)\) += (-?\d+|\?|0x[0-9a-f]+)(.*)$`)
	unfinished := regexp.MustCompile(`^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$`)
	resumed := regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>(.*)$`)
	begun := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if m := unfinished.FindStringSubmatch(line); m != nil {
			begun[m[1]] = m[3]
			continue
		}
		if m := resumed.FindStringSubmatch(line); m != nil {
			line = m[1] + " " + m[2] + "(" + begun[m[1]] + m[3]
		}
		m := call.FindStringSubmatch(line)
		if m == nil {
			// ??? is a call of a thread that was gone before strace could look at it, with its whole process.
			if !strings.Contains(line, "+++") && !strings.Contains(line, "---") && !strings.Contains(line, "???") {
				t.Errorf("a line of strace's that is not understood: %s", line)
			}
			continue
		}
		name, args, result := m[2], m[3], m[4]
		known[name]++
		if slices.Contains(harmless, name) {
			continue
		}
		c := straceCall{name: name, args: args, failed: strings.HasPrefix(result, "-"), error: m[5], root: root}
		change, ok := c.change(exists)
		if !ok {
			t.Errorf("nobody knows what this call does: %s", line)
		}
		if change != "" {
			changes = append(changes, change)
		}
	}
	return changes
}

type straceCall struct {
	name, args  string
	failed      bool
	error, root string
}

// below returns a path as the host under the root has it, "" if it is not there.
func (c straceCall) below(path string) string {
	path, ok := strings.CutPrefix(filepath.Clean(strings.TrimSuffix(path, "(deleted)")), c.root)
	if !ok || strings.HasPrefix(path, "/.model/") { // the model's programs call it by files there
		return ""
	}
	return path
}

// file is what the call is about. Its arguments are a descriptor with its path, a path, or a path below a descriptor's.
func (c straceCall) file() string {
	args := c.args
	if strings.HasPrefix(c.name, "symlink") || strings.HasPrefix(c.name, "link") {
		_, args, _ = strings.Cut(args, ", ") // the new name comes second
	}
	m := regexp.MustCompile(`^(?:(?:AT_FDCWD|\d+)<([^>]*)>)?(?:, )?(?:"([^"]*)")?`).FindStringSubmatch(args)
	ofDescriptor := slices.Contains(strings.Fields("write pwrite64 writev ftruncate fchmod fchown sendmsg"), c.name)
	if ofDescriptor {
		return c.below(m[1])
	}
	if filepath.IsAbs(m[2]) {
		return c.below(m[2])
	}
	return c.below(filepath.Join(m[1], m[2]))
}

// change is the call as the model sees it, "" if it changes no file below the root. ok says that what the call does is known.
func (c straceCall) change(exists map[string]bool) (change string, ok bool) {
	file := c.file()
	op := map[string]string{
		"write": "write", "pwrite64": "write", "unlink": "unlink", "rmdir": "rmdir", "rename": "rename", "renameat": "rename",
		"mkdir": "mkdir", "mkdirat": "mkdir", "symlink": "symlink", "symlinkat": "symlink", "link": "link", "linkat": "link",
		"chmod": "chmod", "fchmod": "chmod", "fchmodat": "chmod", "chown": "chown", "fchown": "chown", "fchownat": "chown", "lchown": "chown",
		"truncate": "truncate", "ftruncate": "truncate",
	}[c.name]
	switch c.name {
	case "unlinkat":
		op = "unlink"
		if strings.Contains(c.args, "AT_REMOVEDIR") {
			op = "rmdir"
		}
	case "open", "openat":
		switch {
		case !strings.Contains(c.args, "O_CREAT") && !strings.Contains(c.args, "O_TRUNC"), file == "":
			return "", true
		case strings.Contains(c.args, "O_TRUNC"):
			return "", false // no call of the program's
		case exists[file]:
			return "", true
		}
		op = "create"
	case "sendmsg", "sendto":
		return "", regexp.MustCompile(`^\d+<(UNIX|socket)`).MatchString(c.args)
	case "fsync", "fdatasync", "flock":
		return "", true // the lock is in its holders' hands, and ends with them
	case "fallocate":
		return "", c.failed // it reserves memory of a tmpfs, which journal's tests see; the model has none to reserve
	case "ioctl":
		return "", c.failed || strings.Contains(c.args, "TCGETS")
	case "kill", "pidfd_send_signal":
		return "", strings.Contains(c.args, ", 0") // asks whether there is such a process
	}
	if op == "" {
		return "", false
	}
	if file == "" {
		to := regexp.MustCompile(`^\d+<(pipe|UNIX|anon_inode|socket|/dev/null|` + regexp.QuoteMeta(c.root) + `/\.model/)`)
		return "", op == "write" && to.MatchString(c.args)
	}
	if op != "write" && regexp.MustCompile(`ENOENT|EEXIST|EISDIR|ENOTDIR|ENOTEMPTY`).MatchString(c.error) {
		return "", true // nothing is there to be changed
	}
	if !c.failed {
		exists[file] = op != "unlink" && op != "rmdir" && op != "rename"
		if op == "rename" {
			all := regexp.MustCompile(`"([^"]*)"`).FindAllStringSubmatch(c.args, -1)
			exists[filepath.Join(filepath.Dir(file), filepath.Base(all[1][1]))] = true
		}
	}
	return op + " " + file, true
}
