package hook

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"syscall"

	"qemu-hook/sysfs"
)

const shmFileKind = "shm.file"

// ShmFile provides a shared-memory file for QEMU and a client outside of it: makes it, or opens and grows the one
// that is there.
type ShmFile struct {
	Path string `json:"path"`
	Size uint64 `json:"size"` // bytes; a file that is there is only ever grown
	// UID, GID and Mode are set; nil leaves them.
	UID  *int    `json:"uid,omitempty"`
	GID  *int    `json:"gid,omitempty"`
	Mode *uint32 `json:"mode,omitempty"`

	// Found is the file that was there; nil if it is made.
	Found *FoundFile `json:"found,omitempty"`
	// Made is the inode of the file that was made; 0 while it is not known.
	Made uint64 `json:"made,omitempty"`
}

// FoundFile is a file as it was before.
type FoundFile struct {
	Ino  uint64 `json:"ino"`
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
	Mode uint32 `json:"mode"`
	Size int64  `json:"size"`
}

func (c *ShmFile) Kind() string    { return shmFileKind }
func (c *ShmFile) Subject() string { return c.Path }

// Target leaves the owner out: whose file it becomes can depend on who sits at the seat, which is no reason to
// make it anew. Another file of that name is one.
func (c *ShmFile) Target() string { return fmt.Sprintf("inode %d, %s", c.inode(), FormatBytes(c.Size)) }

func (c *ShmFile) String() string {
	var s string
	if c.Found == nil {
		s = fmt.Sprintf("%s: new, %s", c.Path, FormatBytes(c.Size))
	} else if uint64(c.Found.Size) < c.Size {
		s = fmt.Sprintf("%s: there, grown from %s to %s", c.Path, FormatBytes(uint64(c.Found.Size)), FormatBytes(c.Size))
	} else {
		s = fmt.Sprintf("%s: there, %s", c.Path, FormatBytes(uint64(c.Found.Size)))
	}
	if c.UID != nil {
		s += fmt.Sprintf(", owner %d", *c.UID)
	}
	if c.GID != nil {
		s += fmt.Sprintf(", group %d", *c.GID)
	}
	if c.Mode != nil {
		s += fmt.Sprintf(", mode %04o", *c.Mode)
	}
	return s
}

func (c *ShmFile) Do(_ context.Context, h *Host) error {
	dir, err := h.OpenDir(path.Dir(c.Path))
	if err != nil {
		return h.Failed("open", path.Dir(c.Path), err)
	}
	defer dir.Close()
	f, st, err := c.open(h, dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if st.Size < int64(c.Size) {
		if err := f.Truncate(int64(c.Size)); err != nil {
			return h.Failed(fmt.Sprintf("grow to %d bytes", c.Size), c.Path, err)
		}
	}
	return c.set(h, f, st, c.UID, c.GID, c.Mode)
}

// open opens the file that was found, or makes the one that was not.
func (c *ShmFile) open(h *Host, dir sysfs.Dir) (sysfs.File, sysfs.Stat, error) {
	name := path.Base(c.Path)
	f, err := dir.Open(name)
	made := false
	if c.Found == nil && errors.Is(err, fs.ErrNotExist) {
		// With mode 0 it is nobody else's yet, and if this process dies before the inode is on record, the
		// file still says what it is.
		f, err = dir.Create(name)
		made = true
	}
	if err != nil {
		return nil, sysfs.Stat{}, h.Failed("open", c.Path, err)
	}
	st, err := f.Stat()
	switch {
	case err != nil:
		err = h.Failed("look at", c.Path, err)
	case made, c.Found == nil && c.Made == 0 && unfinished(st):
		c.Made = st.Ino
		err = h.amend(c)
	case st.Type() != syscall.S_IFREG || st.Nlink != 1 || st.Ino != c.inode():
		err = fmt.Errorf("cannot use %s: it was replaced while the guest was being prepared", c.Path)
	}
	if err != nil {
		f.Close()
		return nil, sysfs.Stat{}, err
	}
	return f, st, nil
}

// inode is the file this change is about.
func (c *ShmFile) inode() uint64 {
	if c.Found != nil {
		return c.Found.Ino
	}
	return c.Made
}

// unfinished recognises a file between its creation and its inode's being recorded: nobody else makes one like it.
func unfinished(st sysfs.Stat) bool {
	return st.Type() == syscall.S_IFREG && st.Perm() == 0 && st.Size == 0 && st.UID == 0 && st.Nlink == 1
}

// set sets owner, group and mode where they are named and differ; the mode last, as it lets others in.
func (c *ShmFile) set(h *Host, f sysfs.File, st sysfs.Stat, uid, gid *int, mode *uint32) error {
	u, g := st.UID, st.GID
	if uid != nil {
		u = *uid
	}
	if gid != nil {
		g = *gid
	}
	if u != st.UID || g != st.GID {
		if err := f.Chown(u, g); err != nil {
			return h.Failed(fmt.Sprintf("give to owner %d, group %d", u, g), c.Path, err)
		}
	}
	if mode != nil && *mode != st.Perm() {
		if err := f.Chmod(*mode); err != nil {
			return h.Failed(fmt.Sprintf("set mode %04o of", *mode), c.Path, err)
		}
	}
	return nil
}

func (c *ShmFile) Verify(h *Host) error {
	st, err := h.Lstat(c.Path)
	switch {
	case err != nil:
		return h.Failed("look at", c.Path, err)
	case st.Ino != c.inode():
		return fmt.Errorf("%s: it is another file now", c.Path)
	case st.Size < int64(c.Size):
		return fmt.Errorf("%s: it has %d bytes instead of %d", c.Path, st.Size, c.Size)
	}
	return nil
}

// Mend gives the file its size again, which QEMU has mapped. Another file in its place cannot take over: it is left, and
// reported.
func (c *ShmFile) Mend(h *Host) error {
	dir, err := h.OpenDir(path.Dir(c.Path))
	if err != nil {
		return &sysfs.Error{Op: "open", Path: path.Dir(c.Path), Err: err}
	}
	defer dir.Close()
	f, err := dir.Open(path.Base(c.Path))
	if err != nil {
		return &sysfs.Error{Op: "open", Path: c.Path, Err: err}
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Ino == c.inode() && st.Size < int64(c.Size) {
		if err := f.Truncate(int64(c.Size)); err != nil {
			return &sysfs.Error{Op: fmt.Sprintf("grow to %d bytes", c.Size), Path: c.Path, Err: err}
		}
	}
	return c.Verify(h)
}

// Undo removes the file that was made, known by its inode. A file that was found stays and keeps its size, which a
// client may have mapped; what was set comes back where it is still what was set.
func (c *ShmFile) Undo(_ context.Context, h *Host) error {
	dir, err := h.OpenDir(path.Dir(c.Path))
	if err != nil {
		return h.Failed("open", path.Dir(c.Path), err)
	}
	defer dir.Close()
	name := path.Base(c.Path)
	st, err := dir.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return h.Failed("look at", c.Path, err)
	case c.Found == nil && (st.Ino == c.Made || c.Made == 0 && unfinished(st)):
		if heir, err := c.bequeath(h, st.Ino); heir || err != nil {
			return err
		}
		if err := dir.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return h.Failed("remove", c.Path, err)
		}
		return nil
	case c.Found == nil && c.Made == 0:
		// It was never made: what is here came from elsewhere.
		return nil
	case st.Ino != c.inode():
		return fmt.Errorf("%w: it is another file now", ErrDrifted)
	}
	f, err := dir.Open(name)
	if err != nil {
		return h.Failed("open", c.Path, err)
	}
	defer f.Close()
	if st, err = f.Stat(); err != nil || st.Ino != c.inode() {
		return fmt.Errorf("%w: it is another file now", ErrDrifted)
	}
	uid, gid, mode := c.Found.UID, c.Found.GID, c.Found.Mode
	return c.set(h, f, st, backIf(c.UID, st.UID, uid), backIf(c.GID, st.GID, gid), backIf(c.Mode, st.Perm(), mode))
}

// bequeath leaves the file to another guest that found it and uses it still: it is that one's to remove from now on.
func (c *ShmFile) bequeath(h *Host, ino uint64) (bool, error) {
	uuids, err := h.State.Guests()
	if err != nil {
		return false, err
	}
	for _, uuid := range uuids {
		if uuid == h.undoing {
			continue
		}
		records, err := h.State.Records(uuid)
		if err != nil {
			return false, err
		}
		for _, r := range records {
			other, err := decode(r)
			if err != nil {
				continue
			}
			if o, ok := other.(*ShmFile); ok && o.Path == c.Path && o.Found != nil && o.Found.Ino == ino {
				o.Found, o.Made = nil, ino
				return true, h.State.Amend(uuid, r.Seq, o)
			}
		}
	}
	return false, nil
}

// backIf returns the old value if the value is still the one that was set.
func backIf[T comparable](set *T, now, old T) *T {
	if set == nil || *set != now {
		return nil
	}
	return &old
}
