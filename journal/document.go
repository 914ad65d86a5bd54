package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// documentGrowth is room for a document to grow, and to be written again after that.
const documentGrowth = 64 << 10

// document is how a document is stored.
type document struct {
	Version int             `json:"version"`
	Boot    string          `json:"boot"`
	Sum     string          `json:"sum"`
	Data    json.RawMessage `json:"data"`
}

// sum is the checksum of a document. It covers the boot as well: a flipped bit there would make the document another
// boot's, and so absent.
func sum(boot string, data []byte) string {
	c := crc32.ChecksumIEEE([]byte(boot + "\n"))
	return fmt.Sprintf("crc32:%08x", crc32.Update(c, crc32.IEEETable, data))
}

// encodeDocument returns the bytes of a document; data is compact JSON.
func encodeDocument(boot string, data []byte) ([]byte, error) {
	b, err := json.Marshal(document{format, boot, sum(boot, data), data})
	return append(b, '\n'), err
}

// decodeDocument takes a document apart and checks it. The error has no path yet.
func decodeDocument(b []byte) (*document, *FileError) {
	var doc document
	if err := json.Unmarshal(b, &doc); err != nil {
		// What a later version changes, its version field will still tell.
		var v struct{ Version int }
		if json.Unmarshal(b, &v) != nil || v.Version <= format {
			return nil, &FileError{Problem: "it is cut off or garbled"}
		}
		doc.Version = v.Version
	}
	switch {
	case doc.Version > format:
		return nil, newer(newerFormat(doc.Version))
	case doc.Version != format:
		return nil, &FileError{Problem: fmt.Sprintf("it has no known version (%d)", doc.Version)}
	case doc.Sum != sum(doc.Boot, doc.Data):
		return nil, &FileError{Problem: "its checksum is wrong"}
	}
	return &doc, nil
}

// DecodeKnown decodes JSON into v, and fails on a key that v has no place for: written again without it, something would be
// lost that a later version has put there.
func DecodeKnown(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// newer is a file that a later version of the program wrote.
func newer(how string) *FileError {
	return &FileError{
		Newer:   true,
		Problem: "a newer qemu-hook wrote it (" + how + ")",
		Remedy:  "install that version again, or shut down the guests and reboot",
	}
}

func newerFormat(version int) string {
	return fmt.Sprintf("format %d, this one knows %d", version, format)
}

// ReadDocument decodes the document name ("ledger.json") into v and reports whether there is one.
func (d *Dir) ReadDocument(name string, v any) (there bool, err error) {
	if err := checkName(name); err != nil {
		return false, err
	}
	err = d.look(func(dir *os.File) error {
		b, err := d.readFile(dir, name)
		if b == nil || err != nil {
			return err
		}
		doc, bad := decodeDocument(b)
		if bad != nil {
			return d.untrusted(name, bad)
		}
		if doc.Boot != d.boot {
			d.setAside(dir, name)
			return nil
		}
		if err := DecodeKnown(doc.Data, v); err != nil {
			bad := &FileError{Problem: "it does not hold what it should: " + err.Error()}
			if key, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); unknown {
				bad = newer("it has " + key + ", which this one does not know")
			}
			return d.untrusted(name, bad)
		}
		there = true
		return nil
	})
	return there, err
}

// untrusted completes the error of a document.
func (d *Dir) untrusted(name string, e *FileError) error {
	e.Op, e.Path = "read", d.file(name)
	if e.Remedy == "" {
		e.Remedy = d.awayHint(name)
	}
	return e
}

// WriteDocument replaces the document atomically; a nil v removes it. The lock is to be held.
func (d *Dir) WriteDocument(name string, v any) error {
	if err := checkName(name); err != nil {
		return err
	}
	var b []byte
	if v != nil {
		data, err := json.Marshal(v)
		if err == nil {
			b, err = encodeDocument(d.boot, data)
		}
		if err == nil && len(b) > maxSize {
			err = errors.New("it would have more than 16 MiB")
		}
		if err != nil {
			return &FileError{Op: "write", Path: d.file(name), Err: err}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, err := d.open()
	if v == nil && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	if v == nil {
		if err := unlinkat(dir, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &FileError{Op: "remove", Path: d.file(name), Err: err}
		}
		return nil
	}
	err = d.replace(name, b, int64(len(b))+documentGrowth)
	if errors.Is(err, unix.ENOSPC) && d.giveUp(dir, name) {
		err = d.replace(name, b, 0)
	}
	if err != nil {
		return &FileError{Op: "write", Path: d.file(name), Err: cause(err)}
	}
	return nil
}

// replace writes a document under another name and renames it. Beyond its end it keeps room, so that the next one can be written
// even if /run is full by then: whoever cannot have that learns it before he changes anything.
func (d *Dir) replace(name string, b []byte, room int64) error {
	f, err := renameio.NewPendingFile(d.file(name), renameio.WithTempDir(d.path), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if room > 0 {
		if err := allocate(int(f.Fd()), int64(len(b))+room); err != nil {
			return err
		}
	}
	return f.CloseAtomicallyReplace()
}

// giveUp makes the room free that a document has reserved, and reports whether there is such a document.
func (d *Dir) giveUp(dir *os.File, name string) bool {
	fd, err := openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && unix.Ftruncate(fd, st.Size) == nil
}

// checkName refuses names that would leave the directory or be taken for something else in it.
func checkName(name string) error {
	if name == "" || name == lockName || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "/\x00") ||
		strings.HasSuffix(name, undoSuffix) || strings.HasSuffix(name, otherBoot) {
		return fmt.Errorf("cannot use %q as the name of a document", name)
	}
	return nil
}
