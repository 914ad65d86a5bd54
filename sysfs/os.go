package sysfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// New returns the host whose tree is kept under root; "/" is the running one. It fails if root is no directory.
func New(root string) (FS, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return FS{}, fmt.Errorf("cannot use %s as root: %w", root, err)
	}
	st, err := os.Stat(root)
	if err != nil {
		return FS{}, &Error{Op: "use", Path: root + " as root", Err: err}
	}
	if !st.IsDir() {
		return FS{}, &Error{Op: "use", Path: root + " as root", Err: syscall.ENOTDIR}
	}
	return FS{osKernel{root}}, nil
}

// osKernel is a host whose files the operating system serves.
type osKernel struct{ root string }

func (k osKernel) path(name string) string { return filepath.Join(k.root, name) }

// open opens without the poller: os.File would register the descriptor with epoll, for which many attribute files
// have no answer, and a blocked write would not be seen as such.
func (k osKernel) open(name string, flags int) (int, error) {
	for {
		fd, err := unix.Open(k.path(name), flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func (k osKernel) ReadFile(name string) ([]byte, error) {
	fd, err := k.open(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	// An attribute is at most a page; /proc/meminfo and modules.alias are longer.
	buf := make([]byte, 0, 4096)
	for {
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return buf, nil
		}
		if buf = buf[:len(buf)+n]; len(buf) == cap(buf) {
			buf = slices.Grow(buf, len(buf))
		}
	}
}

// WriteFile blocks all signals of its thread for the length of the write: the kernel ends an allocation of huge
// pages early, and reports success, when a signal is pending, and Go's runtime signals its own threads.
func (k osKernel) WriteFile(name string, value []byte) error {
	fd, err := k.open(name, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return err
	}
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
	for {
		n, err := unix.Write(fd, value)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n != len(value):
			return io.ErrShortWrite
		}
		return nil
	}
}

func (k osKernel) ReadDir(name string) ([]string, error) {
	d, err := k.openDir(name)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	slices.Sort(names)
	return names, errno(err)
}

func (k osKernel) SubDirs(name string) ([]string, error) {
	d, err := k.openDir(name)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return nil, errno(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// openDir opens a directory to list it, and nothing else: a FIFO of that name would have the program wait.
func (k osKernel) openDir(name string) (*os.File, error) {
	fd, err := k.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (k osKernel) Readlink(name string) (string, error) {
	s, err := os.Readlink(k.path(name))
	return s, errno(err)
}

func (k osKernel) Stat(name string) (Stat, error) {
	var st unix.Stat_t
	err := unix.Stat(k.path(name), &st)
	return statOf(&st), err
}

func (k osKernel) Lstat(name string) (Stat, error) {
	var st unix.Stat_t
	err := unix.Lstat(k.path(name), &st)
	return statOf(&st), err
}

func (k osKernel) Remove(name string) error { return errno(os.Remove(k.path(name))) }

func (k osKernel) OpenDir(name string) (Dir, error) {
	fd, err := k.open(name, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return osDir(fd), nil
}

func (k osKernel) Run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, k.path(name), args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd.Run()
}

func (k osKernel) Local(name string) (string, error) { return k.path(name), nil }

// osDir is the descriptor of an open directory.
type osDir int

func (d osDir) Lstat(name string) (Stat, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(d), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return statOf(&st), err
}

func (d osDir) openat(name string, flags int) (File, error) {
	fd, err := unix.Openat(int(d), name, flags|unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return osFile(fd), nil
}

func (d osDir) Create(name string) (File, error) { return d.openat(name, unix.O_CREAT|unix.O_EXCL) }

func (d osDir) Open(name string) (File, error) {
	f, err := d.openat(name, unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && st.Type() != unix.S_IFREG {
		err = unix.EINVAL
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (d osDir) Remove(name string) error { return unix.Unlinkat(int(d), name, 0) }
func (d osDir) Close() error             { return unix.Close(int(d)) }

// osFile is the descriptor of an open regular file.
type osFile int

func (f osFile) Stat() (Stat, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f), &st)
	return statOf(&st), err
}

func (f osFile) Truncate(size int64) error { return unix.Ftruncate(int(f), size) }
func (f osFile) Chown(uid, gid int) error  { return unix.Fchown(int(f), uid, gid) }
func (f osFile) Chmod(mode uint32) error   { return unix.Fchmod(int(f), mode) }
func (f osFile) Close() error              { return unix.Close(int(f)) }

func statOf(st *unix.Stat_t) Stat {
	return Stat{
		Dev: st.Dev, Ino: st.Ino, Mode: st.Mode, Nlink: uint64(st.Nlink),
		UID: int(st.Uid), GID: int(st.Gid), Size: st.Size, Rdev: st.Rdev,
	}
}

// errno strips what package os wraps around the kernel's answer; the caller adds the path of the host.
func errno(err error) error {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}
