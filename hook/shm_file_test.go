package hook

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"qemu-hook/sysfs"
)

// A file system may give a new file the inode of one that is gone: a file of another user's is another file, whatever its
// number, and stays as it is.
func TestShmFileOfAnother(t *testing.T) {
	root := t.TempDir()
	name := filepath.Join(root, "dev/shm/lg")
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	fs, err := sysfs.New(root)
	if err != nil {
		t.Fatal(err)
	}
	h := recordHost(t, loadModel(t))
	h.FS = fs
	before, err := fs.Lstat("/dev/shm/lg")
	if err != nil {
		t.Fatal(err)
	}
	mode := uint32(0o666)
	back := uint32(0o600)
	other := os.Geteuid() + 1
	for what, c := range map[string]*ShmFile{
		"found":          {Path: "/dev/shm/lg", Size: 4096, Mode: &mode, Found: &FoundFile{Ino: before.Ino, UID: other, Mode: 0o644}},
		"found, to give": {Path: "/dev/shm/lg", Size: 4096, UID: &other, Mode: &back, Found: &FoundFile{Ino: before.Ino, UID: other, Mode: 0o666}},
	} {
		if err := c.Do(t.Context(), h); err == nil {
			t.Errorf("%s: the file was used", what)
		}
		if err := c.Undo(t.Context(), h); !errors.Is(err, ErrDrifted) {
			t.Errorf("%s: undone: %v", what, err)
		}
		if after, err := fs.Lstat("/dev/shm/lg"); err != nil || after != before {
			t.Errorf("%s: %+v instead of %+v, %v", what, after, before, err)
		}
	}
	// One that is as it was found is used, and comes back.
	c := &ShmFile{Path: "/dev/shm/lg", Size: 4096, Mode: &mode, Found: &FoundFile{Ino: before.Ino, UID: before.UID, GID: before.GID, Mode: 0o600}}
	if err := errors.Join(c.Do(t.Context(), h), c.Do(t.Context(), h), c.Undo(t.Context(), h)); err != nil {
		t.Error(err)
	}
	if st, err := fs.Lstat("/dev/shm/lg"); err != nil || st.Size != 4096 || st.Mode != syscall.S_IFREG|0o600 {
		t.Errorf("%+v, %v", st, err)
	}
}
