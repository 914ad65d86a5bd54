package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

type ledger struct {
	Guests map[string]int
	Note   string
}

func TestDocument(t *testing.T) {
	d, path := locked(t)
	want := ledger{map[string]int{"a": 1}, "<&>\u2028 ü"}
	for range 2 {
		if err := d.WriteDocument("ledger.json", want); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(filepath.Join(path, "ledger.json"))
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	var got ledger
	if ok, err := d.ReadDocument("ledger.json", &got); !ok || err != nil || got.Note != want.Note || got.Guests["a"] != 1 {
		t.Errorf("%v, %v, %v", got, ok, err)
	}
	for range 2 {
		if err := d.WriteDocument("ledger.json", nil); err != nil {
			t.Error(err)
		}
	}
	if ok, err := d.ReadDocument("ledger.json", &got); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	if names, _ := filepath.Glob(filepath.Join(path, ".*")); len(names) > 0 {
		t.Errorf("left behind: %q", names)
	}
}

func TestDocumentName(t *testing.T) {
	d, _ := locked(t)
	for _, name := range []string{"", "lock", ".x", "..", "a/b", "../x", uuid + ".undo", "ledger.json.other-boot", "a\x00"} {
		if err := d.WriteDocument(name, 1); err == nil {
			t.Errorf("%q was written", name)
		}
		var v int
		if _, err := d.ReadDocument(name, &v); err == nil {
			t.Errorf("%q was read", name)
		}
	}
}

// A later version may keep more in the same format. What this one would drop when it writes, it does not read.
func TestDocumentWithMore(t *testing.T) {
	type more struct {
		Note   string
		Future int
	}
	d, _ := locked(t)
	if err := d.WriteDocument("ledger.json", more{"n", 1}); err != nil {
		t.Fatal(err)
	}
	var got ledger
	ok, err := d.ReadDocument("ledger.json", &got)
	var fe *FileError
	if ok || !errors.As(err, &fe) || !fe.Newer || !strings.Contains(fe.Error(), `"Future"`) {
		t.Errorf("read: %v, %v, %v", got, ok, err)
	}
}

// Whatever is cut off or flipped anywhere: an error that names the file, and the file stays.
func TestDocumentDamaged(t *testing.T) {
	d, path := locked(t)
	file := filepath.Join(path, "ledger.json")
	if err := d.WriteDocument("ledger.json", ledger{Note: "n"}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, i int, b []byte) {
		t.Helper()
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		var got ledger
		ok, err := d.ReadDocument("ledger.json", &got)
		var fe *FileError
		if ok || !errors.As(err, &fe) || fe.Path != file || fe.Remedy == "" {
			t.Errorf("%s at byte %d: %v, %v", what, i, ok, err)
		}
		if now, _ := os.ReadFile(file); !bytes.Equal(now, b) {
			t.Fatalf("%s at byte %d: the file has changed", what, i)
		}
	}
	n := len(whole) - 2 // without its last newline a document is complete
	for i := range n {
		check("cut", i, whole[:i])
		for _, bit := range []byte{1, 2, 4, 16} {
			b := bytes.Clone(whole)
			b[i] ^= bit
			var doc document
			if json.Unmarshal(b, &doc) == nil && doc.Version == 1 && doc.Boot == "b" && string(doc.Data) == `{"Guests":null,"Note":"n"}` &&
				doc.Sum == sum("b", doc.Data) {
				continue // "Data" for "data" is the same to encoding/json
			}
			check("flipped", i, b)
		}
	}
	check("appended", n, append(bytes.Clone(whole), whole...))
}

func TestDocumentRefusals(t *testing.T) {
	d, path := locked(t)
	file := filepath.Join(path, "ledger.json")
	tests := []struct {
		name  string
		write func()
		want  string
		newer bool
	}{
		{"newer", func() {
			os.WriteFile(file, []byte(`{"version":2,"boot":7,"sum":"sha256:x","payload":{}}`), 0o600)
		}, "a newer qemu-hook wrote it (format 2, this one knows 1); install that version again", true},
		{"version 0", func() {
			os.WriteFile(file, []byte(`{"boot":"b","data":1}`), 0o600)
		}, "it has no known version (0)", false},
		{"wrong type", func() {
			b, _ := encodeDocument("b", []byte(`[1]`))
			os.WriteFile(file, b, 0o600)
		}, "it does not hold what it should", false},
		{"fifo", func() { syscall.Mkfifo(file, 0o600) }, "it is no regular file", false},
		{"directory", func() { os.Mkdir(file, 0o700) }, "it is no regular file", false},
		{"link", func() { os.Symlink("/etc/passwd", file) }, "it is no regular file; rm -r ", false},
		{"large", func() {
			os.WriteFile(file, nil, 0o600)
			os.Truncate(file, maxSize+1)
		}, "more than 16 MiB", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			os.Remove(file)
			test.write()
			var v ledger
			ok, err := d.ReadDocument("ledger.json", &v)
			var fe *FileError
			if ok || !errors.As(err, &fe) || fe.Newer != test.newer || !strings.Contains(err.Error(), test.want) ||
				!strings.HasPrefix(err.Error(), "cannot read "+file+": ") {
				t.Errorf("%v, %v", ok, err)
			}
		})
	}
	if err := d.WriteDocument("big.json", strings.Repeat("x", maxSize)); err == nil {
		t.Error("a document was written that nobody can read")
	}
}

func TestDocumentOfOtherBoot(t *testing.T) {
	path := stateDir(t)
	old := Open(path, "older")
	l, err := old.Lock(within(t, 1e9), "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := old.WriteDocument("ledger.json", ledger{Note: "old"}); err != nil {
		t.Fatal(err)
	}
	l.Unlock()

	var v ledger
	d := Open(path, "b")
	file := filepath.Join(path, "ledger.json")
	if ok, err := d.ReadDocument("ledger.json", &v); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error("moved by a reader without the lock")
	}
	if l, err = d.Lock(within(t, 1e9), "x"); err != nil {
		t.Fatal(err)
	}
	defer l.Unlock()
	if ok, err := d.ReadDocument("ledger.json", &v); ok || err != nil || v.Note != "" {
		t.Errorf("%v, %v, %v", v, ok, err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("not moved")
	}
	if _, err := os.Stat(file + ".other-boot"); err != nil {
		t.Error(err)
	}
}

// On a full file system there is no first document, but one that is there can be replaced and removed.
func TestDocumentOnFullDisk(t *testing.T) {
	mnt := smallDisk(t, "512k")
	d := Open(filepath.Join(mnt, "state"), "b")
	l, err := d.Lock(within(t, 1e9), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Unlock()
	fill := func() {
		f, err := os.Create(filepath.Join(mnt, "fill"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
	}
	fill()
	if err := d.WriteDocument("ledger.json", ledger{Note: "n"}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the first document: %v", err)
	}
	if err := os.Remove(filepath.Join(mnt, "fill")); err != nil {
		t.Fatal(err)
	}
	if err := d.WriteDocument("ledger.json", ledger{Note: "n"}); err != nil {
		t.Fatal(err)
	}
	fill()
	for _, note := range []string{strings.Repeat("x", 30<<10), strings.Repeat("y", 30<<10), "z"} {
		if err := d.WriteDocument("ledger.json", ledger{Note: note}); err != nil {
			t.Errorf("%d bytes: %v", len(note), err)
		}
		var got ledger
		if ok, err := d.ReadDocument("ledger.json", &got); !ok || err != nil || got.Note != note {
			t.Errorf("%d bytes came back as %d: %v, %v", len(note), len(got.Note), ok, err)
		}
	}
	if err := d.WriteDocument("ledger.json", nil); err != nil {
		t.Error(err)
	}
	if names, _ := filepath.Glob(filepath.Join(d.path, ".*")); len(names) > 0 {
		t.Errorf("left behind: %q", names)
	}
}

// Where nothing can be written, the lock can be had all the same, and what is recorded be read.
func TestReadOnlyDisk(t *testing.T) {
	mnt := smallDisk(t, "64k")
	d := Open(filepath.Join(mnt, "state"), "b")
	l, err := d.Lock(within(t, 1e9), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Append(uuid, "k", 1); err != nil {
		t.Fatal(err)
	}
	l.Unlock()
	if err := syscall.Mount("tmpfs", mnt, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if l, err = d.Lock(within(t, 1e9), "x"); err != nil {
		t.Fatal(err)
	}
	defer l.Unlock()
	if _, err := Open(d.path, "b").Lock(within(t, 1e8), "y"); err == nil {
		t.Error("two have the lock")
	}
	if rs, err := d.Records(uuid); len(rs) != 1 || err != nil {
		t.Errorf("%v, %v", rs, err)
	}
	if err := d.Strike(uuid, 1); !errors.Is(err, syscall.EROFS) {
		t.Errorf("struck: %v", err)
	}
	if err := d.WriteDocument("ledger.json", 1); !errors.Is(err, syscall.EROFS) {
		t.Errorf("written: %v", err)
	}
}

func FuzzDocument(f *testing.F) {
	b, _ := encodeDocument("b", []byte(`{"a":[1,2]}`))
	f.Add(b)
	f.Add(b[:20])
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		doc, bad := decodeDocument(b)
		if (doc == nil) == (bad == nil) {
			t.Fatal(doc, bad)
		}
		if doc == nil {
			return
		}
		// What is taken can be written and is the same again.
		var data bytes.Buffer
		if len(doc.Data) == 0 || json.Compact(&data, doc.Data) != nil {
			return
		}
		b, err := encodeDocument(doc.Boot, data.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if _, bad := decodeDocument(b); bad != nil && json.Valid(doc.Data) && !bytes.ContainsAny(doc.Data, "<>&\xe2") {
			t.Fatalf("%s: %v", b, bad)
		}
	})
}
