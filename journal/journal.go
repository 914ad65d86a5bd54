// Package journal keeps what must outlive the process: a lock, whole documents and one undo log for each guest, in a
// directory of root's own below /run.
//
// Nothing in it is ever dropped in silence: a file that cannot be trusted is an error that names it and says what to
// do, and stays where it is. What the kernel can tear, by a kill in the middle of a write, is put right without a word:
// documents are replaced by rename, and the last line of a log counts only once it ends in a newline.
package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"qemu-hook/text"
)

const (
	format     = 1        // version of both file formats
	maxSize    = 16 << 20 // bytes of a file that are read at most
	lockName   = "lock"
	undoSuffix = ".undo"
	otherBoot  = ".other-boot"
)

// A Dir is the state directory. Everything in it belongs to one boot. Its methods may be called from several
// goroutines; those that write want the lock held.
type Dir struct {
	path string
	boot string

	mu     sync.Mutex
	locked bool // by this process; only then files of another boot are moved
}

// Open returns the state directory, without making it. bootID is /proc/sys/kernel/random/boot_id: files written in
// another boot are set aside (renamed to NAME.other-boot) and count as absent. A reader without the lock leaves them
// where they are, as their name may be in use again by the time it renames.
func Open(path, bootID string) *Dir {
	return &Dir{path: filepath.Clean(path), boot: strings.TrimSpace(bootID)}
}

// Guests returns the UUIDs that have an undo log, sorted.
func (d *Dir) Guests() (guests []string, err error) {
	err = d.look(func(dir *os.File) error {
		names, err := dir.Readdirnames(-1)
		if err != nil {
			return &FileError{Op: "list", Path: d.path, Err: cause(err)}
		}
		for _, name := range names {
			uuid, ok := strings.CutSuffix(name, undoSuffix)
			if !ok {
				continue
			}
			if canonical, err := logName(uuid); err != nil || canonical != name {
				continue
			}
			// A log that cannot be read is a guest's all the same.
			log, err := d.load(dir, name)
			if err != nil || log != nil && (len(log.records) > 0 || log.damage != nil) {
				guests = append(guests, uuid)
			}
		}
		return nil
	})
	slices.Sort(guests)
	return guests, err
}

// make makes the directory if it is not there.
func (d *Dir) make() error {
	err := os.Mkdir(d.path, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(d.path), 0o755); err == nil {
			err = os.Mkdir(d.path, 0o700)
		}
	}
	if err == nil || errors.Is(err, fs.ErrExist) {
		return nil
	}
	e := &DirError{Path: d.path, Err: cause(err)}
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		e.Remedy = "only root may make it: use sudo"
	}
	return e
}

// look calls f with the state directory; not at all if there is none.
func (d *Dir) look(f func(dir *os.File) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, err := d.open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	return f(dir)
}

// open opens the directory, having made sure that nobody but the caller can write in it.
func (d *Dir) open() (*os.File, error) {
	fd, err := openat(unix.AT_FDCWD, d.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return nil, d.unopened(err)
	}
	dir := os.NewFile(uintptr(fd), d.path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		dir.Close()
		return nil, &DirError{Path: d.path, Err: err}
	}
	if err := d.trust(&st); err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

// unopened explains why the directory could not be opened.
func (d *Dir) unopened(err error) error {
	e := &DirError{Path: d.path, Err: err}
	var st unix.Stat_t
	switch {
	case err == unix.EACCES && os.Geteuid() != 0:
		e.Remedy = "only root may read it: use sudo"
	case err != unix.ENOTDIR && err != unix.ELOOP, unix.Lstat(d.path, &st) != nil:
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		e.Problem, e.Remedy = "it is a symbolic link", "rm "+d.path
	default:
		e.Problem, e.Remedy = "it is no directory", "rm "+d.path
	}
	return e
}

// trust refuses a directory in which others can write.
func (d *Dir) trust(st *unix.Stat_t) error {
	euid := os.Geteuid()
	switch {
	case int(st.Uid) != euid && st.Uid == 0:
		return &DirError{Path: d.path, Err: syscall.EACCES, Remedy: "it is root's: use sudo"}
	case int(st.Uid) != euid:
		return &DirError{
			Path:    d.path,
			Problem: fmt.Sprintf("it belongs to uid %d, not to uid %d", st.Uid, euid),
			Remedy:  fmt.Sprintf("chown %d %s", euid, d.path),
		}
	case st.Mode&0o022 != 0:
		return &DirError{
			Path:    d.path,
			Problem: fmt.Sprintf("others can write to it (mode %04o)", st.Mode&0o7777),
			Remedy:  "chmod 0700 " + d.path,
		}
	}
	return nil
}

// setAside renames a file of another boot, if the lock is held; a failure leaves it, and it still counts as absent.
func (d *Dir) setAside(dir *os.File, name string) {
	if d.locked {
		_ = renameat(dir, name, name+otherBoot)
	}
}

// sweep removes what a killed process left behind: temporary files of documents, and logs without a first record.
// The lock is held.
func (d *Dir) sweep(dir *os.File) {
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		if strings.HasPrefix(name, ".") {
			_ = unlinkat(dir, name)
			continue
		}
		uuid, ok := strings.CutSuffix(name, undoSuffix)
		if !ok {
			continue
		}
		if canonical, err := logName(uuid); err != nil || canonical != name {
			continue
		}
		if log, err := d.load(dir, name); err == nil && log != nil && log.blank() {
			_ = unlinkat(dir, name)
		}
	}
}

// file is the path of a file in the directory, for messages.
func (d *Dir) file(name string) string { return filepath.Join(d.path, name) }

// readFile returns a regular file of the directory, nil if there is none.
func (d *Dir) readFile(dir *os.File, name string) ([]byte, error) {
	fd, err := openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err == unix.ENOENT {
		return nil, nil
	}
	irregular := &FileError{Op: "read", Path: d.file(name), Problem: "it is no regular file", Remedy: "rm -r " + d.file(name)}
	if err == unix.ELOOP {
		return nil, irregular // a link
	}
	if err != nil {
		return nil, d.unread(name, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, d.unread(name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, irregular
	}
	if st.Size > maxSize {
		return nil, &FileError{
			Op: "read", Path: d.file(name), Problem: fmt.Sprintf("it has %d bytes, more than 16 MiB", st.Size),
			Remedy: d.awayHint(name),
		}
	}
	b := make([]byte, 0, st.Size+512)
	for {
		n, err := unix.Read(fd, b[len(b):cap(b)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, d.unread(name, err)
		case n == 0:
			return b, nil
		}
		if b = b[:len(b)+n]; len(b) == cap(b) {
			if len(b) > maxSize {
				return nil, d.unread(name, unix.EFBIG)
			}
			b = slices.Grow(b, len(b))
		}
	}
}

func (d *Dir) unread(name string, err error) error {
	return &FileError{Op: "read", Path: d.file(name), Err: err}
}

// awayHint says how a document that cannot be used is got out of the way.
func (d *Dir) awayHint(name string) string {
	return fmt.Sprintf("shut down the guests and reboot, or with no guest running: mv %[1]s %[1]s.bad", d.file(name))
}

// logName returns the file name of a guest's undo log. The UUID becomes a file name, so nothing but one will do;
// dashes and case do not matter, as libvirt takes them as they come.
func logName(uuid string) (string, error) {
	hex := make([]byte, 0, 32)
	for _, c := range []byte(uuid) {
		switch {
		case c == '-':
		case len(hex) == 32:
			return "", badUUID(uuid)
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f':
			hex = append(hex, c)
		case c >= 'A' && c <= 'F':
			hex = append(hex, c|0x20)
		default:
			return "", badUUID(uuid)
		}
	}
	if len(hex) != 32 {
		return "", badUUID(uuid)
	}
	h := string(hex)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:] + undoSuffix, nil
}

func badUUID(uuid string) error {
	return fmt.Errorf("cannot use %q as the UUID of a guest: want 32 hexadecimal digits and dashes", text.Short(uuid, 64))
}

// openat opens without following a final link where flags say so, and never leaks the descriptor to a child.
func openat(dirfd int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, name, flags|unix.O_CLOEXEC, 0o600)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func unlinkat(dir *os.File, name string) error { return unix.Unlinkat(int(dir.Fd()), name, 0) }

func renameat(dir *os.File, from, to string) error {
	return unix.Renameat(int(dir.Fd()), from, int(dir.Fd()), to)
}
