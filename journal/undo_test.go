package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func logPath(dir string) string { return filepath.Join(dir, uuid+".undo") }

func records(t *testing.T, d *Dir) string {
	t.Helper()
	rs, err := d.Records(uuid)
	if err != nil {
		t.Fatal(err)
	}
	return show(rs)
}

func show(rs []Record) string {
	var s []string
	for _, r := range rs {
		s = append(s, fmt.Sprintf("%d %s %s", r.Seq, r.Kind, r.Data))
	}
	return strings.Join(s, "\n")
}

func TestUndoLog(t *testing.T) {
	d, path := locked(t)
	add := func(kind string, data any, want int) {
		t.Helper()
		if seq, err := d.Append(uuid, kind, data); seq != want || err != nil {
			t.Fatalf("%d, %v; want %d", seq, err, want)
		}
	}
	add("pci.driver", map[string]string{"address": "0000:01:00.0"}, 1)
	add("of.the.future", []int{1}, 2)
	add("shm.file", "a\nb", 3)
	if err := d.Amend(strings.ToUpper(uuid), 2, 7); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("1 pci.driver {\"address\":\"0000:01:00.0\"}\n2 of.the.future 7\n3 shm.file \"a\\nb\"", records(t, d)); diff != "" {
		t.Error(diff)
	}
	if st, err := os.Stat(logPath(path)); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	for range 2 {
		if err := d.Strike(uuid, 3); err != nil {
			t.Fatal(err)
		}
	}
	add("k", nil, 4) // a number is not used again
	if err := d.Amend(uuid, 3, 1); err == nil {
		t.Error("a struck record was amended")
	}
	if g, err := d.Guests(); err != nil || !cmp.Equal(g, []string{uuid}) {
		t.Error(g, err)
	}
	for _, seq := range []int{1, 2, 4} {
		if err := d.Strike(uuid, seq); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(logPath(path)); err == nil {
		t.Error("the log is still there")
	}
	if err := d.Strike(uuid, 1); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(logPath(path)); err == nil {
		t.Error("striking nothing made a log")
	}
	if g, err := d.Guests(); g != nil || err != nil {
		t.Error(g, err)
	}
	if _, err := d.Append(uuid, "", 1); err == nil {
		t.Error("a record without kind was taken")
	}
	if _, err := d.Append("../x", "k", 1); err == nil {
		t.Error("a path was taken for a UUID")
	}
}

// sample makes a log of every operation and returns its bytes.
func sample(t *testing.T, d *Dir, path string) []byte {
	t.Helper()
	var err error
	do := func(e error) {
		if err == nil {
			err = e
		}
	}
	for i := range 3 {
		_, e := d.Append(uuid, "k", map[string]int{"n": i})
		do(e)
	}
	do(d.Amend(uuid, 2, "amended"))
	do(d.Strike(uuid, 1))
	_, e := d.Append(uuid, "last", nil)
	do(e)
	b, e := os.ReadFile(logPath(path))
	do(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A log that ends anywhere holds exactly what its complete lines say, and goes on from there.
func TestUndoLogTornAtEveryByte(t *testing.T) {
	d, path := locked(t)
	whole := sample(t, d, path)
	complete := func(n int) []byte { return whole[:bytes.LastIndexByte(whole[:n], '\n')+1] }
	for n := range len(whole) + 1 {
		if err := os.WriteFile(logPath(path), whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		want := show(parseLog(complete(n)).records)
		if got := records(t, d); got != want {
			t.Fatalf("cut at %d: %s\nwant %s", n, got, want)
		}
		seq, err := d.Append(uuid, "new", 1)
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		want = strings.TrimPrefix(fmt.Sprintf("%s\n%d new 1", want, seq), "\n")
		if got := records(t, d); got != want {
			t.Fatalf("cut at %d, then appended: %s\nwant %s", n, got, want)
		}
		b, _ := os.ReadFile(logPath(path))
		if c := complete(n); !bytes.HasPrefix(b, c) {
			t.Fatalf("cut at %d: complete lines were changed", n)
		}
	}
}

// A flipped bit anywhere is an error that names the line; what other lines record is there all the same.
func TestUndoLogFlippedAtEveryByte(t *testing.T) {
	d, path := locked(t)
	whole := sample(t, d, path)
	lines := bytes.SplitAfter(whole, []byte("\n"))
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 4
		if bytes.Count(b, []byte("\n")) != bytes.Count(whole, []byte("\n")) {
			continue // lines ran together, or apart: below
		}
		if bytes.EqualFold(b, whole) {
			continue // a checksum in capitals is the same
		}
		if err := os.WriteFile(logPath(path), b, 0o600); err != nil {
			t.Fatal(err)
		}
		line, at := 0, i
		for at >= len(lines[line]) {
			at -= len(lines[line])
			line++
		}
		rs, err := d.Records(uuid)
		var fe *FileError
		if !errors.As(err, &fe) || fe.Line != line+1 || fe.Path != logPath(path) {
			t.Fatalf("byte %d: error %v, want line %d", i, err, line+1)
		}
		rest := bytes.Join(append(append([][]byte{}, lines[:line]...), lines[line+1:]...), nil)
		if line == 0 {
			rest = whole // the header records nothing
		}
		if got, want := show(rs), show(parseLog(rest).records); got != want {
			t.Fatalf("byte %d: %s\nwant %s", i, got, want)
		}
	}
}

func TestUndoLogDamaged(t *testing.T) {
	d, path := locked(t)
	lines := bytes.SplitAfter(sample(t, d, path), []byte("\n"))
	lines[3] = []byte("garbage\n")
	b := bytes.Join(lines, nil)
	b = b[:len(b)-1] // runs into what is appended, were it not cut
	if err := os.WriteFile(logPath(path), b, 0o600); err != nil {
		t.Fatal(err)
	}
	rs, err := d.Records(uuid)
	want := "cannot read " + logPath(path) + ": line 4 has a wrong checksum; the other records are used; " +
		"undo that one by hand, then remove the file"
	if err == nil || err.Error() != want {
		t.Errorf("error %v\n want %s", err, want)
	}
	if show(rs) != `2 k "amended"` {
		t.Errorf("records %s", show(rs))
	}
	// A new record never gets the number of one that cannot be read.
	seq, err := d.Append(uuid, "new", 1)
	if err != nil || seq != 6 {
		t.Errorf("%d, %v", seq, err)
	}
	for _, seq := range []int{2, 6} {
		if err := d.Strike(uuid, seq); err != nil {
			t.Fatal(err)
		}
	}
	if rs, err := d.Records(uuid); len(rs) != 0 || err == nil {
		t.Errorf("%v, %v", rs, err)
	}
	if b, _ := os.ReadFile(logPath(path)); !bytes.Contains(b, []byte("garbage")) {
		t.Error("the damaged line is lost")
	}
	if g, err := d.Guests(); err != nil || len(g) != 1 {
		t.Errorf("guests %q, %v", g, err)
	}
}

func TestUndoLogRefusals(t *testing.T) {
	line := func(v any) string { b, _ := seal(v); return string(b) }
	head := line(header{1, "b"})
	tests := []struct{ name, log, want, records string }{
		{"newer", line(header{2, "b"}) + line(entry{Op: opAdd, Seq: 1, Kind: "k"}), "a newer qemu-hook wrote it (format 2", ""},
		{"newer of other shape", line(map[string]any{"version": 3, "boot": 9}), "a newer qemu-hook wrote it (format 3", ""},
		{"no header", line(entry{Op: opAdd, Seq: 1, Kind: "k"}) + line(entry{Op: opAdd, Seq: 2, Kind: "k"}), "line 1 is no header", "2 k "},
		{"unknown operation", head + line(entry{Op: "merge", Seq: 1, Kind: "k"}), `line 2 has the unknown operation "merge"`, ""},
		{"no kind", head + line(entry{Op: opAdd, Seq: 1}), `line 2 has the unknown operation`, ""},
		{"no number", head + line(entry{Op: opAdd, Kind: "k"}), "line 2 is no entry", ""},
		{"huge number", head + line(entry{Op: opAdd, Kind: "k", Seq: 1 << 62}), "line 2 is no entry", ""},
		{"no JSON", head + "00000000 \n", "line 2 is no entry", ""},
		{"empty line", head + "\n" + line(entry{Op: opAdd, Seq: 1, Kind: "k"}) + "\n", "line 2 has a wrong checksum (and 1 more)", "1 k "},
		{"twice", head + strings.Repeat(line(entry{Op: opAdd, Seq: 1, Kind: "k"}), 2), "line 3 adds record 1 a second time", "1 k \n1 k "},
		{"amended without add", head + line(entry{Op: opAmend, Seq: 1, Kind: "k", Data: json.RawMessage("1")}), "", "1 k 1"},
		{"struck without add", head + line(entry{Op: opStrike, Seq: 1}), "", ""},
		{"other boot", line(header{1, "older"}) + line(entry{Op: opAdd, Seq: 1, Kind: "k"}), "", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d, path := locked(t)
			if err := os.WriteFile(logPath(path), []byte(test.log), 0o600); err != nil {
				t.Fatal(err)
			}
			rs, err := d.Records(uuid)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %s", err, test.want)
			}
			if show(rs) != test.records {
				t.Errorf("records %q, want %q", show(rs), test.records)
			}
			_, err = d.Append(uuid, "new", 1)
			if strings.HasPrefix(test.name, "newer") {
				if b, _ := os.ReadFile(logPath(path)); err == nil || string(b) != test.log {
					t.Errorf("a newer log was appended to: %v", err)
				}
			} else if err != nil {
				t.Error(err)
			}
			if test.name == "other boot" {
				if b, _ := os.ReadFile(logPath(path) + otherBoot); string(b) != test.log {
					t.Errorf("set aside: %q", b)
				}
			}
		})
	}
}

// smallDisk is a tmpfs of that size.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	mnt := t.TempDir()
	if err := syscall.Mount("tmpfs", mnt, "tmpfs", 0, "mode=0700,size="+size); err != nil {
		t.Skipf("mount(2) is missing: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(mnt, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return mnt
}

// A full file system refuses a record, never a strike.
func TestUndoLogOnFullDisk(t *testing.T) {
	mnt := smallDisk(t, "64k")
	d := Open(filepath.Join(mnt, "state"), "b")
	l, err := d.Lock(within(t, 1e9), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Unlock()
	n := 0
	for {
		if _, err = d.Append(uuid, "k", strings.Repeat("x", 200)); err != nil {
			break
		}
		n++
	}
	if !errors.Is(err, syscall.ENOSPC) || n < 10 {
		t.Fatalf("after %d records: %v", n, err)
	}
	if rs, err := d.Records(uuid); len(rs) != n || err != nil {
		t.Errorf("%d records, %v; want %d", len(rs), err, n)
	}
	if err := d.WriteDocument("ledger.json", strings.Repeat("x", 100)); err == nil {
		// The last page may have been free: fill it.
		_ = os.WriteFile(filepath.Join(mnt, "fill"), make([]byte, 64<<10), 0o600)
	}
	for i := range n {
		if err := d.Strike(uuid, i+1); err != nil {
			t.Fatalf("record %d: %v", i+1, err)
		}
	}
	if g, err := d.Guests(); g != nil || err != nil {
		t.Error(g, err)
	}
}

func FuzzUndoLog(f *testing.F) {
	line := func(v any) string { b, _ := seal(v); return string(b) }
	whole := line(header{1, "b"}) + line(entry{Op: opAdd, Seq: 1, Kind: "k", Data: json.RawMessage("{}")}) +
		line(entry{Op: opAmend, Seq: 1, Kind: "k"}) + line(entry{Op: opStrike, Seq: 1})
	f.Add([]byte(whole))
	f.Add([]byte(whole[:len(whole)/2]))
	f.Add([]byte("\n\n00000000 \n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := parseLog(b)
		if l.size != int64(len(b)) || l.end > l.size || l.next < 1 {
			t.Fatalf("%+v", l)
		}
		for _, r := range l.records {
			if r.Seq >= l.next || r.Kind == "" {
				t.Fatalf("%+v", l)
			}
		}
		// Cutting what is torn changes nothing; a record that is appended is there, and the others are, too.
		if m := parseLog(b[:l.end]); show(m.records) != show(l.records) {
			t.Fatalf("%s\n%s", show(l.records), show(m.records))
		}
		if l.lines == 0 || l.damage != nil && l.damage.Newer {
			return
		}
		add := line(entry{Op: opAdd, Seq: l.next, Kind: "k"})
		m := parseLog(append(bytes.Clone(b[:l.end]), add...))
		if show(m.records) != show(append(l.records, Record{l.next, "k", nil})) {
			t.Fatalf("%s\n%s", show(l.records), show(m.records))
		}
	})
}
