package journal

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// ringDir returns a state directory that is there.
func ringDir(t *testing.T) *Dir {
	t.Helper()
	d := Open(filepath.Join(t.TempDir(), "state"), "boot")
	if err := d.make(); err != nil {
		t.Fatal(err)
	}
	return d
}

func appendLines(t *testing.T, d *Dir, lines ...string) {
	t.Helper()
	r, err := d.OpenRing("log")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, line := range lines {
		if err := r.Append([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
}

func wantLines(t *testing.T, d *Dir, want ...string) {
	t.Helper()
	got, err := d.RingLines("log")
	if err != nil {
		t.Fatal(err)
	}
	if g, w := fmt.Sprintf("%q", got), fmt.Sprintf("%q", want); g != w {
		t.Errorf("the lines are %s, want %s", g, w)
	}
}

func TestRing(t *testing.T) {
	d := ringDir(t)
	wantLines(t, d)
	appendLines(t, d, "a", "b")
	appendLines(t, d, "c")
	wantLines(t, d, "a", "b", "c")
	st, err := os.Stat(d.file("log"))
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("the file's mode is %v, %v", st.Mode(), err)
	}
	if lines, err := Open(filepath.Join(t.TempDir(), "none"), "boot").RingLines("log"); len(lines) > 0 || err != nil {
		t.Errorf("where there is no directory there are the lines %q, %v", lines, err)
	}
}

// A line that a kill has torn counts for nothing, and spoils no other.
func TestRingTorn(t *testing.T) {
	d := ringDir(t)
	appendLines(t, d, "whole")
	whole, err := os.ReadFile(d.file("log"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for cut := range len("torn") {
		if err := os.WriteFile(d.file("log"), append(bytes.Clone(whole), "torn"[:cut]...), 0o600); err != nil {
			t.Fatal(err)
		}
		wantLines(t, d, "whole")
		appendLines(t, d, "next")
		if cut == 0 {
			wantLines(t, d, "whole", "next")
		} else {
			wantLines(t, d, "whole", "torn"[:cut], "next") // its reader sees that it is no whole one
		}
		n++
	}
	t.Logf("%d places of a tear", n)
}

// The ring is bounded, and keeps the newest lines whole.
func TestRingSize(t *testing.T) {
	d := ringDir(t)
	const lines = 500
	for i := range lines {
		appendLines(t, d, fmt.Sprintf("%06d %s", i, bytes.Repeat([]byte("x"), 1993)))
		if i%20 != 0 && i != lines-1 {
			continue
		}
		got, err := d.RingLines("log")
		if err != nil || len(got) == 0 {
			t.Fatalf("no lines: %v", err)
		}
		size := 0
		first := i - len(got) + 1
		for j, line := range got {
			size += len(line) + 1
			if len(line) != 2000 || string(line[:6]) != fmt.Sprintf("%06d", first+j) {
				t.Fatalf("line %d of %d is %.20q", j, len(got), line)
			}
		}
		if size > ringSize+2001 || first > 0 && size < ringSize/2-2001 {
			t.Fatalf("after %d lines the ring has %d bytes", i+1, size)
		}
	}
	if left, err := filepath.Glob(d.file(".*")); len(left) > 0 || err != nil {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestRingNames(t *testing.T) {
	d := ringDir(t)
	for _, name := range []string{"lock", "../log", ".log", "x.undo", ""} {
		if _, err := d.OpenRing(name); err == nil {
			t.Errorf("%q was taken for a name", name)
		}
		if _, err := d.RingLines(name); err == nil {
			t.Errorf("%q was taken for a name", name)
		}
	}
	if err := os.Symlink("/dev/null", d.file("link")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.OpenRing("link"); err == nil {
		t.Error("a link was followed")
	}
}

// Of a line that there is no room for, nothing stays.
func TestRingFull(t *testing.T) {
	d := ringDir(t)
	appendLines(t, d, "whole")
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	r, err := d.OpenRing("log")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 10, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	err = r.Append([]byte("too long a line"))
	if back := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); back != nil {
		t.Fatal(back)
	}
	b, readErr := os.ReadFile(d.file("log"))
	if err == nil || readErr != nil || string(b) != "whole\n" {
		t.Errorf("the append says %v, and the file is %q, %v", err, b, readErr)
	}
}
