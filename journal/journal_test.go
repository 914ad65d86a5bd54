package journal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const uuid = "8431eb34-7e9f-4d6c-9a53-0e2f2c9b1a77"

// open returns a state directory with the lock held.
func locked(t *testing.T) (*Dir, string) {
	t.Helper()
	path := stateDir(t)
	d := Open(path, "b")
	l, err := d.Lock(within(t, time.Second), t.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Unlock() })
	return d, path
}

func TestDirRefused(t *testing.T) {
	tests := []struct {
		name   string
		make   func(t *testing.T, path string)
		want   string
		remedy string
	}{
		{"link", func(t *testing.T, path string) { os.Symlink(t.TempDir(), path) }, "it is a symbolic link", "rm PATH"},
		{"dangling link", func(t *testing.T, path string) { os.Symlink("nowhere", path) }, "it is a symbolic link", "rm PATH"},
		{"file", func(t *testing.T, path string) { os.WriteFile(path, nil, 0o600) }, "it is no directory", "rm PATH"},
		{"group", func(t *testing.T, path string) { os.Mkdir(path, 0o700); os.Chmod(path, 0o770) }, "others can write to it (mode 0770)", "chmod 0700 PATH"},
		{"world", func(t *testing.T, path string) { os.Mkdir(path, 0o700); os.Chmod(path, 0o777) }, "others can write to it (mode 0777)", "chmod 0700 PATH"},
		{"owner", func(t *testing.T, path string) {
			if os.Geteuid() != 0 {
				t.Skip("root is missing: only root can give a directory to another user")
			}
			os.Mkdir(path, 0o700)
			os.Chown(path, 1000, 1000)
		}, "it belongs to uid 1000, not to uid 0", "chown 0 PATH"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state")
			test.make(t, path)
			want := "cannot use " + path + ": " + test.want + "; " + strings.ReplaceAll(test.remedy, "PATH", path)
			d := Open(path, "b")
			var v any
			_, errs := d.Lock(within(t, time.Second), "x")
			all := []error{errs}
			_, err := d.ReadDocument("ledger.json", &v)
			all = append(all, err, d.WriteDocument("ledger.json", 1), d.WriteDocument("ledger.json", nil))
			_, err = d.Records(uuid)
			all = append(all, err)
			_, err = d.Append(uuid, "k", 1)
			all = append(all, err, d.Amend(uuid, 1, 1), d.Strike(uuid, 1))
			_, err = d.Guests()
			all = append(all, err)
			for i, err := range all {
				var de *DirError
				if !errors.As(err, &de) || err.Error() != want {
					t.Errorf("call %d: error %q\n want %q", i, err, want)
				}
			}
		})
	}
}

func TestDirAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("an ordinary user is missing: root may read everything")
	}
	// Any directory of root's will do.
	for _, path := range []string{"/root", "/etc"} {
		_, err := Open(path, "b").Guests()
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "sudo") {
			t.Errorf("%s: error %v", path, err)
		}
	}
	if _, err := Open("/etc/no-such-thing", "b").Lock(within(t, time.Second), "x"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("error %v", err)
	}
}

func TestReadOnlyUseMakesNothing(t *testing.T) {
	path := stateDir(t)
	d := Open(path, "b")
	var v int
	if ok, err := d.ReadDocument("ledger.json", &v); ok || err != nil {
		t.Error(ok, err)
	}
	if r, err := d.Records(uuid); r != nil || err != nil {
		t.Error(r, err)
	}
	if g, err := d.Guests(); g != nil || err != nil {
		t.Error(g, err)
	}
	if err := d.WriteDocument("ledger.json", nil); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("something was made")
	}
}

func TestLogName(t *testing.T) {
	for _, s := range []string{uuid, strings.ToUpper(uuid), strings.ReplaceAll(uuid, "-", "")} {
		if got, err := logName(s); got != uuid+".undo" || err != nil {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
	for _, s := range []string{
		"", "-", ".", "..", "../../etc", "lock", uuid + "0", uuid[1:], uuid + "\n", " " + uuid, uuid + "/x",
		strings.Repeat("-", 36), strings.Repeat("a", 1<<20), uuid[:35] + "\x00", uuid[:35] + "ß",
	} {
		if got, err := logName(s); err == nil {
			t.Errorf("%.80q is taken as %q", s, got)
		}
	}
}

func TestSweep(t *testing.T) {
	path := stateDir(t)
	os.MkdirAll(path, 0o700)
	head, _ := seal(header{1, "b"})
	old, _ := seal(header{1, "older"})
	rec, _ := seal(entry{Op: opAdd, Seq: 1, Kind: "k"})
	files := map[string]string{
		".ledger.json123": "half", // a killed WriteDocument
		"00000000-0000-0000-0000-000000000001.undo": "",
		"00000000-0000-0000-0000-000000000002.undo": string(head[:7]),
		"00000000-0000-0000-0000-000000000003.undo": string(head) + string(rec[:9]),
		"00000000-0000-0000-0000-000000000004.undo": string(head) + string(rec),
		"00000000-0000-0000-0000-000000000005.undo": string(head) + "damage\n",
		"00000000-0000-0000-0000-000000000006.undo": string(old) + string(rec),
		"note.undo": "an admin's",
		"note":      "an admin's",
	}
	for name, s := range files {
		os.WriteFile(filepath.Join(path, name), []byte(s), 0o600)
	}
	d := Open(path, "b")
	l, err := d.Lock(within(t, time.Second), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Unlock()
	entries, _ := os.ReadDir(path)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	want := []string{
		"00000000-0000-0000-0000-000000000004.undo",
		"00000000-0000-0000-0000-000000000005.undo",
		"00000000-0000-0000-0000-000000000006.undo.other-boot",
		"lock", "note", "note.undo",
	}
	if !slices.Equal(got, want) {
		t.Errorf("left %q\nwant %q", got, want)
	}
	guests, err := d.Guests()
	if err != nil || len(guests) != 2 {
		t.Errorf("guests %q, %v", guests, err)
	}
}
