package journal

import (
	"encoding/json"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// write appends one entry, and the header before the first.
func (d *Dir) write(dir *os.File, name string, l *undoLog, op string, r Record, data any) error {
	failed := func(err error) error { return &FileError{Op: "write", Path: d.file(name), Err: err} }
	e := entry{Op: op, Seq: r.Seq, Kind: r.Kind}
	if op != opStrike {
		b, err := json.Marshal(data)
		if err != nil {
			return failed(err)
		}
		e.Data = b
	}
	line, err := seal(e)
	if err != nil {
		return failed(err)
	}
	if l.lines == 0 {
		// In one write, so that a header is never alone.
		h, err := seal(header{format, d.boot})
		if err != nil {
			return failed(err)
		}
		line = append(h, line...)
	}
	if op != opStrike && l.end+int64(len(line)) > maxLog {
		return failed(unix.EFBIG)
	}

	fd, err := openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return failed(err)
	}
	defer unix.Close(fd)
	err = cut(fd, l)
	if err == nil && (op != opStrike || l.size != l.end) {
		if err = reserve(fd, l, int64(len(line))); op == opStrike {
			err = nil
		}
	}
	if err == nil {
		if err = writeOnce(fd, line); err != nil {
			// The line never counted; without its beginning the log is as it was.
			_ = unix.Ftruncate(fd, l.end)
			_ = reserve(fd, l, 0)
		}
	}
	if err != nil {
		if l.end == 0 {
			_ = unlinkat(dir, name)
		}
		return failed(err)
	}
	return nil
}

// cut removes a torn last line, which would spoil the one that is appended.
func cut(fd int, l *undoLog) error {
	if l.size == l.end {
		return nil
	}
	for {
		if err := unix.Ftruncate(fd, l.end); err != unix.EINTR {
			return err
		}
	}
}

// reserve makes sure that everything recorded can be struck even if /run is full by then: whoever cannot have that
// learns it before the change. Truncating gives the reserve up. Where the file system reserves nothing, that is that.
func reserve(fd int, l *undoLog, n int64) error {
	return allocate(fd, l.end+n+int64(len(l.records)+1)*strikeSize)
}

// allocate has the file system keep room for a file to grow to a size. Truncating gives up what is beyond its end.
func allocate(fd int, want int64) error {
	for {
		switch err := unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, want); err {
		case unix.EINTR:
		case unix.ENOSPC, unix.EDQUOT, unix.EFBIG, unix.EIO, unix.EROFS:
			return err
		default:
			return nil
		}
	}
}

// writeOnce hands a line to one write(2); a line in two could be torn in its middle by another's.
func writeOnce(fd int, line []byte) error {
	for {
		n, err := unix.Write(fd, line)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n != len(line):
			return io.ErrShortWrite
		}
		return nil
	}
}
