package journal

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const releasedSuffix = ".released"

// MarkReleased notes, without the lock, that a guest's release came and could not be done because others had the lock: there comes
// no other. ClearReleased takes the note away.
func (d *Dir) MarkReleased(uuid string) error {
	return d.onReleased(uuid, func(dir int, name string) error {
		fd, err := openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK)
		if err != nil {
			return &FileError{Op: "make", Path: d.file(name), Err: err}
		}
		return unix.Close(fd)
	})
}

// Released reports whether a guest is so marked. What cannot be seen is not.
func (d *Dir) Released(uuid string) (marked bool) {
	_ = d.onReleased(uuid, func(dir int, name string) error {
		var st unix.Stat_t
		marked = unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
		return nil
	})
	return marked
}

// ClearReleased takes the mark away; that there is none is no error.
func (d *Dir) ClearReleased(uuid string) error {
	return d.onReleased(uuid, func(dir int, name string) error {
		if err := unix.Unlinkat(dir, name, 0); err != nil && err != unix.ENOENT {
			return &FileError{Op: "remove", Path: d.file(name), Err: err}
		}
		return nil
	})
}

func (d *Dir) onReleased(uuid string, f func(dir int, name string) error) error {
	log, err := logName(uuid)
	if err != nil {
		return err
	}
	return d.look(func(dir *os.File) error {
		return f(int(dir.Fd()), strings.TrimSuffix(log, undoSuffix)+releasedSuffix)
	})
}
