package journal

import (
	"bytes"
	"os"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// ringSize is how much of the past a ring keeps: at least half of it, at most all and one event more.
const ringSize = 256 << 10

// A Ring is a file of lines to which new ones are added while the oldest are dropped. It is worth no event: what cannot be
// written is lost, and a line that a kill has torn counts as none.
type Ring struct{ f *os.File }

// OpenRing opens the ring of that name to write to it. The lock is to be held.
func (d *Dir) OpenRing(name string) (*Ring, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, err := d.open()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	failed := func(err error) (*Ring, error) {
		return nil, &FileError{Op: "write", Path: d.file(name), Err: cause(err)}
	}
	fd, err := openat(int(dir.Fd()), name, unix.O_RDWR|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return failed(err)
	}
	r := &Ring{os.NewFile(uintptr(fd), d.file(name))}
	st, err := r.f.Stat()
	if err == nil && st.Size() > ringSize {
		r.Close()
		if err := d.halve(dir, name); err != nil {
			return failed(err)
		}
		if fd, err = openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_APPEND|unix.O_NOFOLLOW); err != nil {
			return failed(err)
		}
		return &Ring{os.NewFile(uintptr(fd), d.file(name))}, nil
	}
	last := []byte{'\n'}
	if err == nil && st.Size() > 0 {
		_, err = unix.Pread(fd, last, st.Size()-1)
	}
	if err == nil && last[0] != '\n' {
		err = r.Append(nil) // what was torn must not spoil the next line
	}
	if err != nil {
		r.Close()
		return failed(err)
	}
	return r, nil
}

// halve drops the older half of a ring.
func (d *Dir) halve(dir *os.File, name string) error {
	b, err := d.readFile(dir, name)
	if err != nil {
		return err
	}
	b = b[len(b)-min(len(b), ringSize/2):]
	b = b[bytes.IndexByte(b, '\n')+1:]
	if n := len(b); n > 0 && b[n-1] != '\n' {
		b = append(b, '\n')
	}
	return renameio.WriteFile(d.file(name), b, 0o600, renameio.WithTempDir(d.path), renameio.WithStaticPermissions(0o600))
}

// Append adds a line.
func (r *Ring) Append(line []byte) error {
	fd := int(r.f.Fd())
	st, err := r.f.Stat()
	if err == nil {
		if err = writeOnce(fd, append(line, '\n')); err != nil {
			_ = unix.Ftruncate(fd, st.Size()) // the beginning of a line would only take room
		}
	}
	if err != nil {
		return &FileError{Op: "write", Path: r.f.Name(), Err: err}
	}
	return nil
}

// Close closes the file.
func (r *Ring) Close() { r.f.Close() }

// RingLines returns the whole lines of a ring, the oldest first; none if there is no ring. It needs no lock.
func (d *Dir) RingLines(name string) (lines [][]byte, err error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	err = d.look(func(dir *os.File) error {
		b, err := d.readFile(dir, name)
		for line := range bytes.Lines(b) {
			if bytes.HasSuffix(line, []byte("\n")) {
				lines = append(lines, bytes.TrimSuffix(line, []byte("\n")))
			}
		}
		return err
	})
	return lines, err
}
