// Package fusetest mounts a model host as a file system, so that a real program with its children can run on it and be
// killed at any moment.
package fusetest

import (
	"context"
	"errors"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/test/mode"
)

// Mount serves the host's tree in a new directory until the test ends. The caller must be root and have /dev/fuse;
// if not, the test is skipped, or fails where QEMU_HOOK_CI is 1.
//
// A change that blocks in OnChange, or waits for a driver of the model, blocks its process, which then dies of no signal
// if the change is a driver's (bind, unbind, drivers_probe, or a module's) or needs a device's lock, as with a real kernel;
// from any other it can be killed. The end of the test frees both.
//
// The test's own process must not execute a file of the mount, nor start a program in one of its directories: between
// fork and exec the Go runtime cannot stop the thread that waits, while the answer may wait for the collector, which
// wants all threads stopped. Start a program from elsewhere that does (a shell, the program under test), or use [Open].
func Mount(t testing.TB, h *sysfstest.Host) (dir string) {
	t.Helper()
	return mount(t, newServer(h), h.Name())
}

// MountForgetful is Mount, but the kernel remembers no directory and asks for every part of every path. A program does
// the same on both mounts, at another number of requests: that tells what a request costs it.
func MountForgetful(t testing.TB, h *sysfstest.Host) (dir string) {
	t.Helper()
	s := newServer(h)
	s.forgetful = true
	return mount(t, s, h.Name())
}

// Lacking is [mode.Lacking].
func Lacking(t testing.TB, format string, args ...any) {
	t.Helper()
	mode.Lacking(t, format, args...)
}

func mount(t testing.TB, s *server, name string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		Lacking(t, "cannot use /dev/fuse: %v", err)
	} else {
		f.Close()
	}
	server, err := fuse.NewServer(s, dir, &fuse.MountOptions{
		DirectMountStrict: true, FsName: name, Name: "sysfstest", DisableXAttrs: true, DisableReadDirPlus: true,
		MaxWrite: 64 << 10,                   // a buffer of this size is made for every request under way
		Logger:   log.New(io.Discard, "", 0), // answers to those who were killed meanwhile
	})
	if err != nil {
		Lacking(t, "cannot mount on /dev/fuse as uid %d: %v", os.Geteuid(), err)
	}
	done := make(chan struct{})
	go func() {
		server.Serve()
		close(done)
	}()
	if err := server.WaitMount(); err != nil {
		t.Fatalf("cannot mount: %v", err)
	}
	t.Cleanup(func() {
		// Forced, so that requests which still wait for an answer are ended; lazily, so that a process that has a file
		// open does not keep the mount.
		_ = unix.Unmount(dir, unix.MNT_FORCE)
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Errorf("cannot unmount %s: %v", dir, err)
		}
	})
	return dir
}

// Open mounts the host and returns it through the FUSE door, as the operating system sees it. Programs are started by a
// shell.
func Open(t testing.TB, h *sysfstest.Host) sysfs.FS {
	t.Helper()
	dir := Mount(t, h)
	fs, err := sysfs.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	return sysfs.FS{Kernel: kernel{fs.Kernel, dir}}
}

// kernel is the mounted host, less the danger in starting its programs.
type kernel struct {
	sysfs.Kernel
	dir string
}

func (k kernel) command(ctx context.Context, name string, args []string) *exec.Cmd {
	args = append([]string{"-c", `exec "$0" "$@"`, filepath.Join(k.dir, name)}, args...)
	return exec.CommandContext(ctx, "/bin/sh", args...)
}

func (k kernel) Run(ctx context.Context, name string, args ...string) error {
	return k.command(ctx, name, args).Run()
}

func (k kernel) Execute(ctx context.Context, p sysfs.Program) ([]byte, error) {
	cmd := k.command(ctx, p.Path, p.Args)
	cmd.Env = p.Env
	return cmd.Output()
}

// UnloadModule does as the real one under a root that is not "/", but by these programs.
func (k kernel) UnloadModule(name string) error {
	return sysfs.FS{Kernel: k}.UnloadByModprobe(name)
}
