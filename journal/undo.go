package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"qemu-hook/text"
)

// A Record is one entry of a guest's undo log.
type Record struct {
	Seq  int             `json:"seq"`
	Kind string          `json:"kind"`
	Data json.RawMessage `json:"data"`
}

// An undo log is lines of "crc32hex json\n". The first is the header, the others are entries in the order of writing.
type (
	header struct {
		Version int    `json:"version"`
		Boot    string `json:"boot"`
	}
	entry struct {
		Op   string          `json:"op"` // add, amend, strike
		Seq  int             `json:"seq"`
		Kind string          `json:"kind,omitempty"`
		Data json.RawMessage `json:"data,omitempty"`
	}
)

const (
	opAdd    = "add"
	opAmend  = "amend" // has the kind too, so that it stands for itself where the add is damaged
	opStrike = "strike"

	// maxLog leaves strikes room below maxSize when no more records fit.
	maxLog = maxSize / 2
	// strikeSize is more than the length of a line that strikes a record.
	strikeSize = 64
)

// undoLog is a log as read.
type undoLog struct {
	boot    string
	known   bool     // the header was read
	records []Record // not struck, by number
	next    int      // number of the next record
	lines   int      // complete ones, with the header
	end     int64    // of the last complete line; what follows is torn
	size    int64
	damage  *FileError // the first line that could not be read, without path
	more    int        // further such lines
}

// blank reports whether nothing was ever recorded.
func (l *undoLog) blank() bool { return l.damage == nil && l.lines <= 1 }

// parseLog reads a log. Bytes after the last newline are a line whose write was cut short: it never counted, because
// nobody acts on a record before its write has returned. Any other bad line is damage, and the lines around it stand.
func parseLog(b []byte) *undoLog {
	l := &undoLog{size: int64(len(b))}
	for {
		line, rest, ok := bytes.Cut(b, []byte{'\n'})
		if !ok {
			break
		}
		l.lines++
		l.end += int64(len(line)) + 1
		b = rest
		if e := l.line(line); e != nil {
			if e.Newer {
				l.damage = e
				return l
			}
			if l.damage == nil {
				e.Line = l.lines
				l.damage = e
			} else {
				l.more++
			}
		}
	}
	if l.damage != nil {
		// The line may have had any number, but never more than there were lines.
		l.next = max(l.next, l.lines-1)
	}
	l.next++
	// One that was put back stands behind its place.
	slices.SortStableFunc(l.records, func(a, b Record) int { return a.Seq - b.Seq })
	return l
}

// line takes in one complete line.
func (l *undoLog) line(line []byte) *FileError {
	data, ok := unseal(line)
	if !ok {
		return &FileError{Problem: "has a wrong checksum"}
	}
	if l.lines == 1 {
		var h header
		switch err := json.Unmarshal(data, &h); {
		case h.Version > format:
			return newer(newerFormat(h.Version))
		case err != nil || h.Version != format:
			return &FileError{Problem: "is no header"}
		}
		l.known, l.boot = true, h.Boot
		return nil
	}
	var e entry
	if err := json.Unmarshal(data, &e); err != nil || e.Seq < 1 || e.Seq > maxSize {
		return &FileError{Problem: "is no entry"}
	}
	l.next = max(l.next, e.Seq)
	at := slices.IndexFunc(l.records, func(r Record) bool { return r.Seq == e.Seq })
	switch {
	case e.Op == opStrike:
		if at >= 0 {
			l.records = slices.Delete(l.records, at, at+1)
		}
	case e.Op != opAdd && e.Op != opAmend || e.Kind == "":
		return &FileError{Problem: fmt.Sprintf("has the unknown operation %q", text.Short(e.Op, maxTold))}
	case e.Op == opAmend && at >= 0:
		l.records[at] = Record(e.record())
	default:
		l.records = append(l.records, e.record())
		if at >= 0 {
			return &FileError{Problem: fmt.Sprintf("adds record %d a second time", e.Seq)}
		}
	}
	return nil
}

func (e entry) record() Record { return Record{e.Seq, e.Kind, e.Data} }

// seal returns v as a line.
func seal(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	line := fmt.Appendf(nil, "%08x ", crc32.ChecksumIEEE(text))
	return append(append(line, text...), '\n'), nil
}

// unseal returns the JSON of a line whose checksum is right.
func unseal(line []byte) ([]byte, bool) {
	if len(line) < 9 || line[8] != ' ' {
		return nil, false
	}
	want, err := strconv.ParseUint(string(line[:8]), 16, 32)
	return line[9:], err == nil && uint32(want) == crc32.ChecksumIEEE(line[9:])
}

// load reads a log; nil if there is none of this boot. The error is one that leaves nothing to go on with.
func (d *Dir) load(dir *os.File, name string) (*undoLog, error) {
	b, err := d.readFile(dir, name)
	if b == nil || err != nil {
		return nil, err
	}
	l := parseLog(b)
	if e := l.damage; e != nil {
		e.Op, e.Path = "read", d.file(name)
		if e.Newer {
			return nil, e
		}
		if l.more > 0 {
			e.Problem += fmt.Sprintf(" (and %d more)", l.more)
		}
		e.Remedy = "the other records are used; undo that one by hand, then remove the file"
	}
	if l.known && l.boot != d.boot {
		d.setAside(dir, name)
		return nil, nil
	}
	return l, nil
}

// LogFile returns the path of the guest's undo log.
func (d *Dir) LogFile(uuid string) string {
	name, err := logName(uuid)
	if err != nil {
		return d.path
	}
	return d.file(name)
}

// Records returns the guest's records that are not struck, oldest first. Kinds are the caller's business. With a
// damaged log it returns an error and what is readable all the same.
func (d *Dir) Records(uuid string) (records []Record, err error) {
	name, err := logName(uuid)
	if err != nil {
		return nil, err
	}
	err = d.look(func(dir *os.File) error {
		l, err := d.load(dir, name)
		if l == nil || err != nil {
			return err
		}
		records = l.records
		if l.damage != nil {
			return l.damage
		}
		return nil
	})
	return records, err
}

// Append adds a record and returns its number. The lock is to be held, and what the record is about is to be done
// only once Append has returned.
func (d *Dir) Append(uuid, kind string, data any) (int, error) {
	if kind == "" {
		return 0, errors.New("cannot record a change without a kind")
	}
	var seq int
	err := d.edit(uuid, func(dir *os.File, name string, l *undoLog) error {
		seq = l.next
		return d.write(dir, name, l, opAdd, Record{Seq: seq, Kind: kind}, data)
	})
	return seq, err
}

// Restore adds a record that the log had before, in its old place. The lock is to be held.
func (d *Dir) Restore(uuid string, r Record) error {
	return d.edit(uuid, func(dir *os.File, name string, l *undoLog) error {
		if slices.ContainsFunc(l.records, func(o Record) bool { return o.Seq == r.Seq }) {
			r.Seq = l.next
		}
		return d.write(dir, name, l, opAdd, r, r.Data)
	})
}

// Amend replaces the data of a record. The lock is to be held.
func (d *Dir) Amend(uuid string, seq int, data any) error {
	return d.edit(uuid, func(dir *os.File, name string, l *undoLog) error {
		at := slices.IndexFunc(l.records, func(r Record) bool { return r.Seq == seq })
		if at < 0 {
			return &FileError{Op: "write", Path: d.file(name), Problem: fmt.Sprintf("there is no record %d to amend", seq)}
		}
		return d.write(dir, name, l, opAmend, l.records[at], data)
	})
}

// Strike removes a record; with the last one the log goes. A record that is not there is struck already. The lock is
// to be held.
func (d *Dir) Strike(uuid string, seq int) error {
	return d.edit(uuid, func(dir *os.File, name string, l *undoLog) error {
		if !slices.ContainsFunc(l.records, func(r Record) bool { return r.Seq == seq }) {
			return nil
		}
		if len(l.records) > 1 || l.damage != nil {
			return d.write(dir, name, l, opStrike, Record{Seq: seq}, nil)
		}
		if err := unlinkat(dir, name); err != nil && err != unix.ENOENT {
			return &FileError{Op: "remove", Path: d.file(name), Err: err}
		}
		return nil
	})
}

// edit hands a guest's log to f; an empty one if there is none.
func (d *Dir) edit(uuid string, f func(dir *os.File, name string, l *undoLog) error) error {
	name, err := logName(uuid)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, err := d.open()
	if err != nil {
		return err
	}
	defer dir.Close()
	l, err := d.load(dir, name)
	if err != nil {
		return err
	}
	if l == nil {
		l = parseLog(nil)
	}
	return f(dir, name, l)
}
