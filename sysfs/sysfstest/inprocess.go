package sysfstest

import (
	"os"
	"path"
	"path/filepath"
	"syscall"

	"qemu-hook/sysfs"
)

// FS returns the host through the in-process door. It needs neither root nor FUSE; the caller counts as root.
func (h *Host) FS() sysfs.FS { return sysfs.FS{Kernel: inProcess{h.VFS()}} }

// inProcess implements sysfs.Kernel on the model.
type inProcess struct{ v VFS }

var _ sysfs.Kernel = inProcess{}

func (k inProcess) ReadFile(name string) ([]byte, error) {
	n, err := k.v.Walk(name, true)
	if err == nil {
		err = k.v.Open(n, true, false)
	}
	if err != nil {
		return nil, err
	}
	s, err := k.v.Read(n)
	return []byte(s), err
}

func (k inProcess) WriteFile(name string, value []byte) error {
	n, err := k.v.Walk(name, true)
	if err == nil {
		err = k.v.Open(n, false, true)
	}
	if err != nil {
		return err
	}
	return k.v.Write(n, path.Clean(name), 0, value, 0)
}

func (k inProcess) ReadDir(name string) ([]string, error) {
	n, err := k.v.Walk(name, true)
	if err != nil {
		return nil, err
	}
	entries, err := k.v.ReadDir(n)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name)
	}
	return names, err
}

func (k inProcess) SubDirs(name string) ([]string, error) {
	n, err := k.v.Walk(name, true)
	if err != nil {
		return nil, err
	}
	entries, err := k.v.ReadDir(n)
	var names []string
	for _, e := range entries {
		if e.Type == syscall.S_IFDIR {
			names = append(names, e.Name)
		}
	}
	return names, err
}

func (k inProcess) Readlink(name string) (string, error) {
	n, err := k.v.Walk(name, false)
	if err != nil {
		return "", err
	}
	return k.v.Readlink(n)
}

func (k inProcess) stat(name string, follow bool) (sysfs.Stat, error) {
	n, err := k.v.Walk(name, follow)
	if err != nil {
		return sysfs.Stat{}, err
	}
	return k.v.Stat(n), nil
}

func (k inProcess) Stat(name string) (sysfs.Stat, error)  { return k.stat(name, true) }
func (k inProcess) Lstat(name string) (sysfs.Stat, error) { return k.stat(name, false) }

func (k inProcess) Remove(name string) error {
	name = path.Clean(name)
	dir, err := k.v.Walk(path.Dir(name), true)
	if err != nil {
		return err
	}
	err = k.v.Unlink(dir, name, 0)
	if err == syscall.EISDIR {
		err = k.v.Rmdir(dir, name, 0)
	}
	return err
}

func (k inProcess) OpenDir(name string) (sysfs.Dir, error) {
	name = path.Clean(name)
	n, err := k.v.Walk(name, false)
	switch {
	case err != nil:
		return nil, err
	case k.v.Stat(n).Type() != syscall.S_IFDIR:
		return nil, syscall.ENOTDIR
	}
	return openDir{k.v, n, name}, nil
}

// Local copies a file, or a directory with all below it, to the real file system, as it stands now. The copy stays
// until Close or the next call for the same name.
func (k inProcess) Local(name string) (string, error) {
	h := k.v.h
	h.mu.Lock()
	defer h.mu.Unlock()
	n, err := h.walk(name, true)
	if err != nil {
		return "", err
	}
	if h.local == "" {
		if h.local, err = os.MkdirTemp("", "sysfstest"); err != nil {
			return "", err
		}
	}
	to := filepath.Join(h.local, filepath.FromSlash(name))
	if err := os.RemoveAll(to); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return "", err
	}
	return to, h.copyOut(n, to)
}

func (h *Host) copyOut(n Node, to string) error {
	switch i := &h.inodes[n]; i.typ() {
	case syscall.S_IFDIR:
		if err := os.MkdirAll(to, 0o700); err != nil {
			return err
		}
		for _, e := range i.kids {
			if err := h.copyOut(e.node, filepath.Join(to, e.name)); err != nil {
				return err
			}
		}
		return nil
	case syscall.S_IFLNK:
		return os.Symlink(i.data, to)
	case syscall.S_IFREG:
		s, err := h.content(n)
		if err != nil {
			return nil //nolint:nilerr // what cannot be read is not there in the copy
		}
		return os.WriteFile(to, []byte(s), 0o600)
	}
	return nil
}

// Close removes the copies that Local made, and ends all waiting for a driver that is still busy.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ends++
	h.stir()
	if h.local == "" {
		return nil
	}
	err := os.RemoveAll(h.local)
	h.local = ""
	return err
}

// openDir is an open directory.
type openDir struct {
	v    VFS
	node Node
	name string
}

func (d openDir) Lstat(name string) (sysfs.Stat, error) {
	n, err := d.v.Lookup(d.node, name)
	if err != nil {
		return sysfs.Stat{}, err
	}
	return d.v.Stat(n), nil
}

func (d openDir) Create(name string) (sysfs.File, error) {
	n, err := d.v.Create(d.node, path.Join(d.name, name), 0, 0, 0, 0)
	if err != nil {
		return nil, err
	}
	return openFile{d.v, n, path.Join(d.name, name)}, nil
}

func (d openDir) Open(name string) (sysfs.File, error) {
	n, err := d.v.Lookup(d.node, name)
	if err != nil {
		return nil, err
	}
	switch d.v.Stat(n).Type() {
	case syscall.S_IFLNK:
		return nil, syscall.ELOOP
	case syscall.S_IFREG:
	case syscall.S_IFDIR:
		return nil, syscall.EISDIR
	case syscall.S_IFIFO:
		return nil, syscall.EINVAL
	default:
		return nil, syscall.ENXIO
	}
	if err := d.v.Open(n, true, true); err != nil {
		return nil, err
	}
	return openFile{d.v, n, path.Join(d.name, name)}, nil
}

func (d openDir) Remove(name string) error { return d.v.Unlink(d.node, path.Join(d.name, name), 0) }
func (d openDir) Close() error             { return nil }

// openFile is an open regular file.
type openFile struct {
	v    VFS
	node Node
	name string
}

func (f openFile) Stat() (sysfs.Stat, error) { return f.v.Stat(f.node), nil }
func (f openFile) Truncate(size int64) error { return f.v.Truncate(f.node, f.name, size, 0) }
func (f openFile) Chown(uid, gid int) error  { return f.v.Chown(f.node, f.name, uid, gid, 0) }
func (f openFile) Chmod(mode uint32) error   { return f.v.Chmod(f.node, f.name, mode, 0) }
func (f openFile) Close() error              { return nil }
