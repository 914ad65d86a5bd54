package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"qemu-hook/hook"
)

// victimText is in the files that are not the guest's.
const victimText = "the victim's"

// inTheWay makes each thing that may stand in /dev/shm in place of a guest's file. Outside is a directory with a victim.
func inTheWay() map[string]func(name, outside string) error {
	give := func(name string) error {
		return errors.Join(os.WriteFile(name, []byte(victimText), 0o600), os.Chown(name, stranger, stranger))
	}
	return map[string]func(name, outside string) error{
		"symbolic link":   func(name, outside string) error { return os.Symlink(outside+"/victim", name) },
		"link to nothing": func(name, outside string) error { return os.Symlink(outside+"/none", name) },
		"hard link":       func(name, outside string) error { return os.Link(outside+"/victim", name) },
		"FIFO":            func(name, _ string) error { return syscall.Mkfifo(name, 0o666) },
		"socket": func(name, _ string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
			if err != nil {
				return err
			}
			l.SetUnlinkOnClose(false)
			return l.Close()
		},
		"directory":      func(name, _ string) error { return os.Mkdir(name, 0o777) },
		"another user's": func(name, _ string) error { return give(name) },
	}
}

// Whatever stands in the guest's way in /dev/shm is refused by name, and neither it nor what it leads to is touched.
func TestHostileShm(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	for kind, stand := range inTheWay() {
		t.Run(kind, func(t *testing.T) {
			root := bareRoot(t)
			outside := t.TempDir()
			writeFile(t, outside+"/victim", victimText, 0o600)
			must(t, os.Chown(outside+"/victim", stranger, stranger))
			short, err := os.MkdirTemp("", "qh") // a socket's path has a limit
			must(t, err)
			t.Cleanup(func() { os.RemoveAll(short) })
			must(t, stand(short+"/lg", outside), os.Rename(short+"/lg", filepath.Join(root, "dev/shm/lg")))
			before := treeOf(t, filepath.Join(root, "dev/shm")) + treeOf(t, outside)
			for _, op := range []string{"prepare", "release"} {
				got := onBareRoot(t, root, op)
				if op == "prepare" && (got.status != 1 || !strings.Contains(got.stderr, "/dev/shm/lg ")) {
					t.Errorf("%s: status %d: %s", op, got.status, got.stderr)
				}
				if op == "prepare" {
					lastLineIsShort(t, got.stderr)
					t.Log(strings.TrimSpace(got.stderr))
				}
				if after := treeOf(t, filepath.Join(root, "dev/shm")) + treeOf(t, outside); after != before {
					t.Errorf("%s: not as before:\n%s\nit was:\n%s", op, after, before)
				}
			}
		})
	}
	t.Run("the directory is a link", func(t *testing.T) {
		root, outside := bareRoot(t), t.TempDir()
		must(t, os.Remove(root+"/dev/shm"), os.Symlink(outside, root+"/dev/shm"))
		if got := onBareRoot(t, root, "prepare"); got.status != 1 || !strings.Contains(got.stderr, "/dev/shm") {
			t.Errorf("status %d: %s", got.status, got.stderr)
		}
		if after := treeOf(t, outside); strings.Count(after, "\n") != 1 {
			t.Errorf("something was made:\n%s", after)
		}
	})
}

// swap is the process that puts one thing after the other at a name, until its stdin ends. It looks at each victim when it
// takes it away again, through a descriptor from before it was put there, and says when one was touched.
func swap(name, outside string) int {
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(done)
	}()
	victim, err := os.Open(outside + "/victim")
	if err != nil {
		fmt.Println("TOUCHED: ", err)
		return 1
	}
	ways := inTheWay()
	kinds := []string{"nothing", "root's own"}
	for kind := range ways {
		kinds = append(kinds, kind)
	}
	swaps, looks := 0, 0
	for {
		select {
		case <-done:
			fmt.Printf("%d swaps, %d looks\n", swaps, looks)
			return 0
		default:
		}
		swaps++
		kind := kinds[rand.IntN(len(kinds))]
		fresh := outside + "/fresh"
		_ = os.RemoveAll(name)
		_ = os.RemoveAll(fresh)
		held := victim
		switch kind {
		case "nothing":
		case "root's own":
			err = errors.Join(os.WriteFile(fresh, []byte("x"), 0o600), os.Rename(fresh, name))
		default:
			if err = ways[kind](fresh, outside); err == nil && kind == "another user's" {
				held, err = os.Open(fresh)
			}
			err = errors.Join(err, os.Rename(fresh, name))
		}
		// The program may have made its own there: a directory cannot take its place.
		if err != nil && !errors.Is(err, syscall.ENOTDIR) && !errors.Is(err, syscall.EEXIST) && !errors.Is(err, syscall.ENOENT) {
			fmt.Println("cannot swap:", kind, err)
			return 1
		}
		err = nil
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
		for _, f := range []*os.File{victim, held} {
			looks++
			if what := touched(f); what != "" {
				fmt.Printf("TOUCHED, %s: %s\n", kind, what)
				return 1
			}
		}
		if held != victim {
			held.Close()
		}
	}
}

// touched says what of a victim is not as it was.
func touched(f *os.File) string {
	st, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	sys := st.Sys().(*syscall.Stat_t)
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	if err != nil || string(text) != victimText || st.Mode() != 0o600 || sys.Uid != stranger || sys.Gid != stranger {
		return fmt.Sprintf("%v %d:%d %.50q %v", st.Mode(), sys.Uid, sys.Gid, text, err)
	}
	return ""
}

// While the program prepares again and again, a process beside it swaps what stands at the file's name: links, FIFOs, sockets,
// directories, files of others. No victim is ever touched, and afterwards nothing is left.
func TestShmRace(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	rounds := 150
	if testing.Short() {
		rounds = 30
	}
	root := bareRoot(t)
	outside := filepath.Join(root, "o") // on the same file system, as hard links need it
	must(t, os.Mkdir(outside, 0o700))
	writeFile(t, outside+"/victim", victimText, 0o600)
	must(t, os.Chown(outside+"/victim", stranger, stranger))
	name := filepath.Join(root, "dev/shm/lg")

	self, err := os.Executable()
	must(t, err)
	racer := exec.Command(self, name, outside)
	racer.Env = []string{roleEnv + "=swap"}
	var said bytes.Buffer
	racer.Stdout, racer.Stderr = &said, &said
	stop, err := racer.StdinPipe()
	must(t, err)
	must(t, racer.Start())

	outcomes := map[string]int{}
	for range rounds {
		got := onBareRoot(t, root, "prepare")
		switch {
		case got.status == 0:
			outcomes["prepared"]++
		case strings.Contains(got.stderr, "is there already"), strings.Contains(got.stderr, "is not to be trusted"):
			outcomes["refused as it stood there"]++
		default:
			outcomes["refused as it was swapped"]++
			if outcomes["refused as it was swapped"] <= 3 {
				t.Log(strings.TrimSpace(got.stderr))
			}
		}
		got = onBareRoot(t, root, "release")
		if got.status != 0 {
			outcomes["left at release"]++
			if outcomes["left at release"] <= 3 {
				t.Log("release: ", strings.TrimSpace(got.stderr))
			}
		}
	}
	must(t, stop.Close())
	if err := racer.Wait(); err != nil {
		t.Errorf("%v: %s", err, said.String())
	}
	t.Logf("%d rounds, %v; beside them %s", rounds, outcomes, strings.TrimSpace(said.String()))
	if outcomes["prepared"] == 0 || outcomes["prepared"] == rounds {
		t.Error("nothing raced")
	}

	// In peace again all is as ever, and nothing is left of before.
	must(t, os.RemoveAll(name))
	for _, op := range []string{"release", "prepare", "release"} {
		if got := onBareRoot(t, root, op); got.status != 0 {
			t.Errorf("%s ended with %d: %s", op, got.status, got.stderr)
		}
	}
	entries, err := os.ReadDir(filepath.Join(root, stateDir))
	must(t, err)
	for _, e := range entries {
		if e.Name() != "lock" && e.Name() != hook.RefusalsDocument && e.Name() != hook.ReportsRing {
			t.Errorf("%s is left", e.Name())
		}
	}
	if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is left: %v", err)
	}
}
