package journal

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// poll is how often a taken lock is tried again: flock(2) has no deadline of its own.
const poll = 10 * time.Millisecond

// A Lock is the exclusive right to act on the host. It is a flock(2) on the file "lock", so it ends with the last
// process that has the descriptor: a hook that is killed leaves it to its child until that has finished its write.
type Lock struct {
	dir *Dir
	f   *os.File
}

// holding is what the lock file says about whoever has the lock.
type holding struct {
	PID    int    `json:"pid"`
	Since  int64  `json:"since"` // nanoseconds of CLOCK_BOOTTIME
	Holder string `json:"holder"`
}

// Lock makes the directory if need be (0700; refused when it is a link, another user's or writable by others) and
// takes the lock, trying until ctx ends. holder says who it is for: whoever waits in vain is told.
func (d *Dir) Lock(ctx context.Context, holder string) (*Lock, error) {
	for {
		if err := d.make(); err != nil {
			return nil, err
		}
		dir, err := d.open()
		if err != nil {
			return nil, err
		}
		f, err := d.take(ctx, dir)
		if err == nil && !same(dir, f, d.path) {
			// Removed while we waited: somebody else may have made and taken another one.
			f.Close()
			f = nil
		}
		if f != nil {
			inscribe(f, holder)
			d.mu.Lock()
			d.locked = true
			d.sweep(dir)
			d.mu.Unlock()
		}
		dir.Close()
		switch {
		case err != nil:
			return nil, err
		case f != nil:
			return &Lock{d, f}, nil
		}
	}
}

// take opens the lock file and locks it.
func (d *Dir) take(ctx context.Context, dir *os.File) (*os.File, error) {
	fd, err := openat(int(dir.Fd()), lockName, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err == unix.EROFS {
		// What is recorded can be given back even so.
		fd, err = openat(int(dir.Fd()), lockName, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
		if err == unix.ENOENT {
			err = unix.EROFS
		}
	}
	if err != nil {
		e := &FileError{Op: "lock", Path: d.file(lockName), Err: err}
		if err == unix.ELOOP || err == unix.EISDIR || err == unix.ENXIO {
			e.Problem, e.Remedy = "it is no regular file", "rm -r "+e.Path
		}
		return nil, e
	}
	f := os.NewFile(uintptr(fd), d.file(lockName))
	timer := time.NewTimer(poll)
	defer timer.Stop()
	for {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		switch err {
		case nil:
			return f, nil
		case unix.EINTR:
			continue
		case unix.EWOULDBLOCK:
		default:
			f.Close()
			return nil, &FileError{Op: "lock", Path: d.file(lockName), Err: err}
		}
		timer.Reset(poll)
		select {
		case <-timer.C:
		case <-ctx.Done():
			held := d.heldBy(f)
			held.Err = ctx.Err()
			f.Close()
			return nil, held
		}
	}
}

// heldBy reads from the lock file who has it. Whoever just took it may not have said so yet.
func (d *Dir) heldBy(f *os.File) *HeldError {
	e := &HeldError{Path: d.path}
	var h holding
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 64<<10))
	if err != nil || json.Unmarshal(b, &h) != nil || h.PID <= 0 {
		return e
	}
	e.PID, e.Holder = h.PID, h.Holder
	e.For = time.Duration(boottime() - h.Since)
	e.Gone = unix.Kill(h.PID, 0) == unix.ESRCH
	return e
}

// inscribe writes down who has the lock. It is for the reader only: on a full disk the lock is as good without.
func inscribe(f *os.File, holder string) {
	if len(holder) > 4096 {
		holder = holder[:4096]
	}
	b, err := json.Marshal(holding{os.Getpid(), boottime(), holder})
	if err != nil {
		return
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt(append(b, '\n'), 0)
}

// same reports whether the lock file and its directory are still what their names mean.
func same(dir, f *os.File, path string) bool {
	var a, b unix.Stat_t
	if unix.Fstat(int(f.Fd()), &a) != nil || unix.Fstatat(int(dir.Fd()), lockName, &b, unix.AT_SYMLINK_NOFOLLOW) != nil ||
		a.Dev != b.Dev || a.Ino != b.Ino {
		return false
	}
	return unix.Fstat(int(dir.Fd()), &a) == nil && unix.Lstat(path, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino
}

// boottime is a clock that does not jump when the wall clock is set.
func boottime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return ts.Nano()
}

// File is the lock's descriptor, for a child that must hold the lock too.
func (l *Lock) File() *os.File { return l.f }

// Unlock gives the lock up, also where a child still has its descriptor. A second call does nothing.
func (l *Lock) Unlock() error {
	l.dir.mu.Lock()
	defer l.dir.mu.Unlock()
	if l.f == nil {
		return nil
	}
	l.dir.locked = false
	_ = l.f.Truncate(0)
	err := unix.Flock(int(l.f.Fd()), unix.LOCK_UN)
	l.f.Close()
	l.f = nil
	if err != nil {
		return &FileError{Op: "unlock", Path: l.dir.file(lockName), Err: err}
	}
	return nil
}
