package journal

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary stands in for other processes when this is set.
const roleEnv = "QEMU_HOOK_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleEnv); role {
	case "":
		os.Exit(m.Run())
	case "hold": // takes the lock, says so, keeps it until stdin ends
		roleHold(false)
	case "hold-child": // the same, and leaves a child that has the descriptor
		roleHold(true)
	case "sleep": // the child: has the descriptor as number 3
		time.Sleep(time.Minute)
	case "count":
		roleCount()
	default:
		panic(role)
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func roleHold(child bool) {
	l, err := Open(os.Getenv("DIR"), "b").Lock(context.Background(), "prepare win11")
	must(err)
	if child {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleEnv+"=sleep")
		cmd.ExtraFiles = []*os.File{l.File()}
		must(cmd.Start())
		fmt.Println(cmd.Process.Pid)
	}
	fmt.Println("held")
	// "unlock" on stdin gives the lock up; the end of stdin is waited for in any case.
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		must(l.Unlock())
		fmt.Println("unlocked")
	}
}

// roleCount adds one to a counter, read and written with the lock held, as often as it is told.
func roleCount() {
	n, err := strconv.Atoi(os.Getenv("N"))
	must(err)
	d := Open(os.Getenv("DIR"), "b")
	for range n {
		l, err := d.Lock(context.Background(), "count")
		must(err)
		var c int
		_, err = d.ReadDocument("counter.json", &c)
		must(err)
		must(d.WriteDocument("counter.json", c+1))
		must(l.Unlock())
	}
}

// actor starts the test binary in a role.
func actor(t *testing.T, role, dir string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+role, "DIR="+dir)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stderr = os.Stderr
	return cmd
}

// holder starts a process that takes the lock, and returns it with its input and output once it has.
func holder(t *testing.T, role, dir string) (cmd *exec.Cmd, lines *bufio.Scanner, say func(string)) {
	t.Helper()
	cmd = actor(t, role, dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	lines = bufio.NewScanner(out)
	return cmd, lines, func(s string) { fmt.Fprintln(in, s) }
}

func expect(t *testing.T, lines *bufio.Scanner, want string) string {
	t.Helper()
	if !lines.Scan() {
		t.Fatalf("the other process ended, want %q", want)
	}
	if got := lines.Text(); want != "" && got != want {
		t.Fatalf("the other process says %q, want %q", got, want)
	}
	return lines.Text()
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func stateDir(t *testing.T) string { return filepath.Join(t.TempDir(), "run", "qemu-hook") }

func TestLockMakesDirectory(t *testing.T) {
	dir := stateDir(t)
	l, err := Open(dir, "b").Lock(within(t, time.Second), "prepare win11")
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Lstat(dir)
	if err != nil || st.Mode() != os.ModeDir|0o700 {
		t.Errorf("mode %v, %v; want 0700", st.Mode(), err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "lock"))
	var h holding
	if err != nil || json.Unmarshal(b, &h) != nil || h.PID != os.Getpid() || h.Holder != "prepare win11" {
		t.Errorf("the lock file holds %s, %v", b, err)
	}
	for range 2 {
		if err := l.Unlock(); err != nil {
			t.Error(err)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "lock")); len(b) > 0 {
		t.Errorf("the lock file still holds %s", b)
	}
}

func TestLockHeld(t *testing.T) {
	dir := stateDir(t)
	cmd, lines, say := holder(t, "hold", dir)
	expect(t, lines, "held")
	_, err := Open(dir, "b").Lock(within(t, 50*time.Millisecond), "release win11")
	var held *HeldError
	if !errors.As(err, &held) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v", err)
	}
	if held.PID != cmd.Process.Pid || held.Gone || held.Holder != "prepare win11" || held.For <= 0 || held.For > time.Minute {
		t.Errorf("%+v", held)
	}
	held.For = 12*time.Second + 345*time.Millisecond
	want := fmt.Sprintf("cannot lock %s: held for 12 s by pid %d (prepare win11)", dir, cmd.Process.Pid)
	if err.Error() != want {
		t.Errorf("error %q\n want %q", err, want)
	}
	say("unlock")
	l, err := Open(dir, "b").Lock(within(t, 5*time.Second), "release win11")
	if err != nil {
		t.Fatal(err)
	}
	l.Unlock()
}

func TestLockWithInheritedDescriptor(t *testing.T) {
	t.Run("unlocked", func(t *testing.T) {
		dir := stateDir(t)
		_, lines, say := holder(t, "hold-child", dir)
		child := childOf(t, lines)
		say("unlock")
		expect(t, lines, "unlocked")
		l, err := Open(dir, "b").Lock(within(t, 50*time.Millisecond), "x")
		if err != nil {
			t.Fatalf("the child kept the lock: %v", err)
		}
		l.Unlock()
		if child.Signal(syscall.Signal(0)) != nil {
			t.Error("the child has ended, so nothing was tested")
		}
	})
	t.Run("killed", func(t *testing.T) {
		dir := stateDir(t)
		cmd, lines, _ := holder(t, "hold-child", dir)
		child := childOf(t, lines)
		cmd.Process.Kill()
		cmd.Wait()
		_, err := Open(dir, "b").Lock(within(t, 50*time.Millisecond), "x")
		var held *HeldError
		if !errors.As(err, &held) || !held.Gone || !strings.Contains(err.Error(), "a child of pid") {
			t.Fatalf("error %v, want one about the child", err)
		}
		child.Kill()
		l, err := Open(dir, "b").Lock(within(t, 5*time.Second), "x")
		if err != nil {
			t.Fatal(err)
		}
		l.Unlock()
	})
}

// childOf reads the child's pid and waits until the lock is held.
func childOf(t *testing.T, lines *bufio.Scanner) *os.Process {
	t.Helper()
	pid, err := strconv.Atoi(expect(t, lines, ""))
	if err != nil {
		t.Fatal(err)
	}
	child, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { child.Kill() })
	expect(t, lines, "held")
	return child
}

func TestLockConcurrent(t *testing.T) {
	const processes, each = 8, 15
	dir := stateDir(t)
	var cmds []*exec.Cmd
	for range processes {
		cmd := actor(t, "count", dir, "N="+strconv.Itoa(each))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	var n int
	if ok, err := Open(dir, "b").ReadDocument("counter.json", &n); !ok || err != nil || n != processes*each {
		t.Errorf("counted %d (%v, %v), want %d", n, ok, err, processes*each)
	}
}

func TestLockFileReplaced(t *testing.T) {
	dir := stateDir(t)
	d := Open(dir, "b")
	l, err := d.Lock(within(t, time.Second), "x")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error)
	go func() {
		l, err := Open(dir, "b").Lock(within(t, 5*time.Second), "y")
		if err == nil {
			var st, now os.FileInfo
			st, _ = l.File().Stat()
			if now, err = os.Stat(filepath.Join(dir, "lock")); err == nil && !os.SameFile(st, now) {
				err = errors.New("locked a file that is no longer there")
			}
			l.Unlock()
		}
		got <- err
	}()
	time.Sleep(30 * time.Millisecond)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	l.Unlock()
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestLockFileIsLink(t *testing.T) {
	dir := t.TempDir()
	os.Chmod(dir, 0o700)
	target := filepath.Join(t.TempDir(), "target")
	if err := os.Symlink(target, filepath.Join(dir, "lock")); err != nil {
		t.Fatal(err)
	}
	_, err := Open(dir, "b").Lock(within(t, time.Second), "x")
	if err == nil || !strings.Contains(err.Error(), "rm -r "+dir+"/lock") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Lstat(target); err == nil {
		t.Error("the link was followed")
	}
}

func TestHolderIsPrintable(t *testing.T) {
	e := &HeldError{Path: "/run/qemu-hook", PID: 1, Holder: "prepare a\nb\x1b" + strings.Repeat("ü", 1000)}
	if s := e.Error(); strings.ContainsAny(s, "\n\x1b") || len([]rune(s)) > 200 {
		t.Errorf("%q", s)
	}
}
