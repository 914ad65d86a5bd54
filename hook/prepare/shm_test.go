package prepare_test

import (
	"syscall"
	"testing"
)

// A file that somebody else has put in the place of ours while the guest ran is theirs: release leaves it.
func TestReplacedFileStays(t *testing.T) {
	r := newRig(t, "fern")
	n := loadNeeds(t, "shmem-128")
	before := r.snapshot()
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	dir, err := r.model.FS().OpenDir("/dev/shm")
	if err != nil {
		t.Fatal(err)
	}
	const name = "looking-glass"
	ours, err := dir.Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Remove(name); err != nil {
		t.Fatal(err)
	}
	f, err := dir.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Chown(1000, 1000); err != nil {
		t.Fatal(err)
	}
	theirs, err := f.Stat()
	if err != nil || theirs.Ino == ours.Ino {
		t.Fatalf("inode %d, ours was %d, error %v", theirs.Ino, ours.Ino, err)
	}
	if err := r.release(n); err != nil {
		t.Error(err)
	}
	now, err := dir.Lstat(name)
	if err != nil || now.Ino != theirs.Ino || now.UID != 1000 || now.Type() != syscall.S_IFREG {
		t.Errorf("their file is %+v, error %v", now, err)
	}
	if err := dir.Remove(name); err != nil {
		t.Fatal(err)
	}
	r.wantAsBefore(before, "after release")
}
