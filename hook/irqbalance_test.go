package hook_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qemu-hook/cpuset"
	"qemu-hook/hook"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// irqbalanced is an irqbalance of version 1.9.2, as strict as that: one command in one message with credentials, nothing for
// anybody else, and a mask that is true from the next look on.
type irqbalanced struct {
	t *testing.T

	mu     sync.Mutex
	own    cpuset.Set // what it bans by itself
	told   string     // the list that it was told last
	banned cpuset.Set // as of its last look
	irqs   []string
	log    []string
	silent bool // it takes connections and does no more
}

// irqbalanceAt starts one with this process' number below root.
func irqbalanceAt(t *testing.T, root string, own cpuset.Set) *irqbalanced {
	t.Helper()
	b := &irqbalanced{t: t, own: own, banned: own}
	dir := filepath.Join(root, "run/irqbalance")
	procAt(t, root, os.Getpid(), "irqbalance")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// The socket's own path may be too long to bind it there.
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/irqbalance%d.sock", fd, os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	var served sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		served.Wait()
	})
	served.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer conn.Close()
				b.serve(conn.(*net.UnixConn))
			})
		}
	})
	return b
}

// procAt makes what /proc says of a process.
func procAt(t *testing.T, root string, pid int, comm string) {
	t.Helper()
	dir := filepath.Join(root, "proc", fmt.Sprint(pid))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "comm"), []byte(comm+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (b *irqbalanced) serve(conn *net.UnixConn) {
	buff, oob := make([]byte, 500), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	// With this set from the beginning, as irqbalance has it, the kernel says who a sender is that does not say it.
	raw, err := conn.SyscallConn()
	if err == nil {
		var failed error
		err = raw.Read(func(fd uintptr) bool {
			if _, _, failed = unix.Recvfrom(int(fd), buff, unix.MSG_PEEK); errors.Is(failed, unix.EAGAIN) {
				return false
			}
			failed = errors.Join(failed, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1))
			return true
		})
		err = errors.Join(err, failed)
	}
	if err != nil {
		b.t.Error(err)
		return
	}
	n, oobn, _, _, err := conn.ReadMsgUnix(buff, oob)
	if err != nil {
		b.t.Error(err)
		return
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		b.t.Errorf("%d control messages, %v", len(messages), err)
		return
	}
	who, err := unix.ParseUnixCredentials(&messages[0])
	if err != nil || int(who.Uid) != os.Geteuid() || int(who.Pid) != os.Getpid() {
		b.t.Errorf("credentials %+v, %v", who, err)
		return
	}
	command := string(buff[:n])
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log = append(b.log, command)
	list, isList := strings.CutPrefix(command, "settings cpus ")
	switch {
	case b.silent:
		_, _ = conn.Read(buff) // until the client gives up
	case command == "setup":
		fmt.Fprint(conn, "SLEEP 10 ")
		for _, n := range b.irqs {
			fmt.Fprintf(conn, "IRQ %s LOAD 0 DIFF 0 CLASS 0 ", n)
		}
		fmt.Fprintf(conn, "BANNED %s", b.banned.Mask())
	case command == "settings ban irqs NONE ":
		b.irqs = nil
	case strings.HasPrefix(command, "settings ban irqs "):
		list, ends := strings.CutSuffix(strings.TrimPrefix(command, "settings ban irqs "), " 0 ")
		if !ends {
			b.t.Errorf("%q makes old versions read beyond it", command)
		}
		b.irqs = strings.Split(list, " ")
	case isList:
		list, _, ok := strings.Cut(list, " ")
		if !ok || list == "" {
			b.t.Errorf("%q makes old versions read beyond it", command)
		}
		b.told = list
	default:
		b.t.Errorf("unknown command %q", command)
	}
}

// look is irqbalance's next look at the host.
func (b *irqbalanced) look() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.banned = b.own
	if b.told != "" && b.told != "NULL" {
		var err error
		if b.banned, err = cpuset.ParseList(b.told); err != nil {
			b.t.Error(err)
		}
	}
}

func hostAt(t *testing.T, root string) sysfs.FS {
	t.Helper()
	host, err := sysfs.New(root)
	if err != nil {
		t.Fatal(err)
	}
	return host
}

func find(t *testing.T, root string) *hook.IRQBalance {
	t.Helper()
	b, err := hook.FindIRQBalance(hostAt(t, root))
	if err != nil || b == nil {
		t.Fatalf("irqbalance %v, %v", b, err)
	}
	return b
}

func TestIRQBalance(t *testing.T) {
	for name, root := range map[string]string{"short": "", "long": strings.Repeat("long/", 30)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := filepath.Join(t.TempDir(), root)
			own := cpuset.Of(0, 33)
			daemon := irqbalanceAt(t, root, own)
			b, ctx := find(t, root), t.Context()
			for _, step := range []struct{ ban, want cpuset.Set }{
				{cpuset.Of(1, 2, 3, 100), cpuset.Of(1, 2, 3, 100)},
				{cpuset.Of(4), cpuset.Of(4)},
				{cpuset.Set{}, own},
				{cpuset.Set{}, own},
			} {
				before, err := b.Banned(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if err := b.Ban(ctx, step.ban); err != nil {
					t.Fatal(err)
				}
				if got, err := b.Banned(ctx); err != nil || !got.Equal(before) {
					t.Errorf("before it looks: %q, %v; want %q", got, err, before)
				}
				daemon.look()
				if got, err := b.Banned(ctx); err != nil || !got.Equal(step.want) {
					t.Errorf("banned: %q, %v; want %q", got, err, step.want)
				}
			}
			daemon.mu.Lock()
			defer daemon.mu.Unlock()
			if got := daemon.log[1]; got != "settings cpus 1-3,100 " {
				t.Errorf("it was told %q", got)
			}
		})
	}
}

func TestIRQBalanceIRQs(t *testing.T) {
	root := t.TempDir()
	daemon := irqbalanceAt(t, root, cpuset.Of(0))
	told := func(irqs ...string) {
		daemon.mu.Lock()
		defer daemon.mu.Unlock()
		daemon.irqs = irqs
	}
	told("9")
	b, ctx := find(t, root), t.Context()
	for _, step := range []struct{ ban, before []int }{{[]int{120, 7}, []int{9}}, {nil, []int{120, 7}}, {[]int{9}, nil}} {
		if got, err := b.BannedIRQs(ctx); err != nil || !slices.Equal(got, step.before) {
			t.Errorf("%v, %v; want %v", got, err, step.before)
		}
		if err := b.BanIRQs(ctx, step.ban); err != nil {
			t.Error(err)
		}
	}
	if got, err := b.Banned(ctx); err != nil || !got.Equal(cpuset.Of(0)) {
		t.Errorf("CPUs %q, %v", got, err)
	}
	err := b.BanIRQs(ctx, slices.Repeat([]int{1000}, 100))
	if err == nil || !strings.Contains(err.Error(), " leave 100 interrupts alone: it reads 500 bytes of a command, and this has ") {
		t.Errorf("a list too long: error %v", err)
	}
	told("x")
	if _, err := b.BannedIRQs(ctx); err == nil || !strings.Contains(err.Error(), "for the interrupts that it leaves alone: ") {
		t.Errorf("error %v", err)
	}
}

func TestNoIRQBalance(t *testing.T) {
	none := func(host sysfs.FS) {
		t.Helper()
		if b, err := hook.FindIRQBalance(host); b != nil || err != nil {
			t.Errorf("found %v, %v", b, err)
		}
	}
	root := t.TempDir()
	none(hostAt(t, root))
	dir := filepath.Join(root, "run/irqbalance")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	none(hostAt(t, root))
	procAt(t, root, 7, "bash") // the number was given to somebody else
	procAt(t, root, 9, "irqbalance")
	for _, name := range []string{"irqbalance7.sock", "irqbalance8.sock", "irqbalance.sock", "irqbalance9.pid", "9.sock", "irqbalance-x.sock"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	none(hostAt(t, root))
	h, err := sysfstest.Parse("x", []byte("a host\n-- cpus --\npackage 0 0-1\n-- nodes --\n0 cpus=0-1 total=1G free=512M\n"))
	if err != nil {
		t.Fatal(err)
	}
	none(h.FS())
}

func TestIRQBalanceTrouble(t *testing.T) {
	root := t.TempDir()
	daemon := irqbalanceAt(t, root, cpuset.Set{})
	b, ctx := find(t, root), t.Context()
	pid := fmt.Sprintf("irqbalance (pid %d)", os.Getpid())

	// Every second CPU of 600.
	var many []int
	for i := range 300 {
		many = append(many, 2*i)
	}
	err := b.Ban(ctx, cpuset.Of(many...))
	if err == nil || !strings.Contains(err.Error(), "it reads 500 bytes of a command, and this has ") {
		t.Errorf("a list too long: error %v", err)
	}
	daemon.mu.Lock()
	if daemon.log != nil {
		t.Errorf("it was told %q", daemon.log)
	}
	daemon.silent = true
	daemon.mu.Unlock()
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	want := "cannot have " + pid + " leave CPUs 3 alone: context deadline exceeded"
	if err := b.Ban(short, cpuset.Of(3)); !errors.Is(err, context.DeadlineExceeded) || err.Error() != want {
		t.Errorf("error %v\n want %s", err, want)
	}
	if _, err := b.Banned(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took < 2*time.Second || took > 30*time.Second {
		t.Errorf("it took %v", took)
	}

	// It ended between the two.
	if err := os.Remove(filepath.Join(root, fmt.Sprintf("run/irqbalance/irqbalance%d.sock", os.Getpid()))); err != nil {
		t.Fatal(err)
	}
	want = "cannot ask " + pid + " for the CPUs that it leaves alone: connect: no such file or directory"
	if _, err := b.Banned(ctx); err == nil || err.Error() != want {
		t.Errorf("error %v\n want %s", err, want)
	}
}

// Answers that say nothing of CPUs.
func TestIRQBalanceAnswers(t *testing.T) {
	for answer, want := range map[string]string{
		"":                    "it gives no answer, as to anybody who is not root",
		"SLEEP 10 ":           `its answer "SLEEP 10 " has no BANNED`,
		"SLEEP 10 BANNED wow": "wow",
	} {
		root := t.TempDir()
		dir := filepath.Join(root, "run/irqbalance")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		procAt(t, root, 9, "irqbalance")
		l, err := net.Listen("unix", filepath.Join(dir, "irqbalance9.sock"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			if conn, err := l.Accept(); err == nil {
				defer conn.Close()
				_, _ = conn.Read(make([]byte, 500))
				fmt.Fprint(conn, answer)
			}
		}()
		_, err = find(t, root).Banned(t.Context())
		if err == nil || !strings.HasPrefix(err.Error(), "cannot ask irqbalance (pid 9)") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v", answer, err)
		}
	}
}
