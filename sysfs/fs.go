// Package sysfs reads and writes the kernel's attribute files: /sys, /proc and the device nodes and shared-memory
// files beside them. A value of type FS stands for one host: the running one, one kept under another root
// directory, or a model of one (package sysfstest).
//
// Documentation of the interface as a whole: Documentation/filesystems/sysfs.rst and
// Documentation/filesystems/proc.rst in the kernel's source.
package sysfs

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"qemu-hook/cpuset"
)

// A Kernel is the door to a host: every look at it and every change of it passes here. Paths are absolute and
// belong to the host ("/sys/bus/pci"), wherever the host's tree is kept. Errors are a [syscall.Errno] where the
// kernel gave one.
//
// [New] is the real one. Package sysfstest has a model that reacts as a kernel does.
type Kernel interface {
	// ReadFile returns all of a file. A final symbolic link is followed.
	ReadFile(name string) ([]byte, error)
	// WriteFile hands value to a file that exists, in one write(2), and never creates or truncates it.
	WriteFile(name string, value []byte) error
	// ReadDir returns the names in a directory, sorted.
	ReadDir(name string) ([]string, error)
	// SubDirs returns the names of a directory's own subdirectories, sorted: no links to others.
	SubDirs(name string) ([]string, error)
	// Readlink returns the target of a symbolic link, unresolved.
	Readlink(name string) (string, error)
	// Stat describes a file; it follows a final symbolic link, Lstat does not.
	Stat(name string) (Stat, error)
	Lstat(name string) (Stat, error)
	// Remove unlinks a file or removes an empty directory.
	Remove(name string) error
	// OpenDir opens a directory, never through a final symbolic link, for work on the entries inside it.
	OpenDir(name string) (Dir, error)
	// Run executes a program of the host and waits for it. It gets /dev/null as its standard files.
	Run(ctx context.Context, name string, args ...string) error
	// Execute runs a program of the host in a session of its own and returns what it prints, 64 KiB at most. It waits for the
	// program and not for what that leaves running. One that does not end when ctx does is killed with all of its session's
	// first process group, and left behind if it does not die.
	Execute(ctx context.Context, p Program) ([]byte, error)
	// OpenDevices calls visit with the number of each device that a process has open (/proc/PID/fd). It asks no file
	// system that could keep it waiting.
	OpenDevices(pid int, visit func(rdev uint64, block bool)) error
	// Signal sends a signal to the process that has the number and started then; ESRCH if there is none.
	Signal(pid int, start uint64, signal syscall.Signal) error
	// Affinity returns the CPUs that a thread may run on, sched_getaffinity(2): those of them that are on line.
	Affinity(pid int) (cpuset.Set, error)
	// SetAffinity has the thread that has the number and started then run on these CPUs only, sched_setaffinity(2): ESRCH if
	// it is gone, EINVAL if the kernel moves it nowhere (PF_NO_SETAFFINITY) or no CPU of them is on line.
	SetAffinity(pid int, start uint64, cpus cpuset.Set) error
	// UnloadModule removes a module, delete_module(2) without waiting: EAGAIN if it is in use.
	UnloadModule(name string) error
	// Local returns a path at which a library that opens files by itself finds the named file or directory.
	Local(name string) (string, error)
}

// A Program is a program of the host with what it is given.
type Program struct {
	Path string
	Args []string
	// Env is its whole environment; nil for that of this process.
	Env []string
	// Stderr has what it prints there returned, too.
	Stderr bool
}

// A Dir is an open directory. Names are single path elements; no method follows a symbolic link.
type Dir interface {
	Lstat(name string) (Stat, error)
	// Create makes a new regular file with mode 0 and opens it for reading and writing. It fails with EEXIST
	// when the name is taken, by whatever.
	Create(name string) (File, error)
	// Open opens a regular file for reading and writing; it never blocks, and fails with ELOOP on a link.
	Open(name string) (File, error)
	Remove(name string) error
	Close() error
}

// A File is an open regular file.
type File interface {
	Stat() (Stat, error)
	Truncate(size int64) error
	Chown(uid, gid int) error
	// Chmod sets the twelve permission bits.
	Chmod(mode uint32) error
	Close() error
}

// Stat is what stat(2) says of a file.
type Stat struct {
	Dev, Ino uint64
	Mode     uint32 // type and permission bits as in st_mode
	Nlink    uint64
	UID, GID int
	Size     int64  // bytes
	Rdev     uint64 // device number, for device nodes
}

// Type returns the file type bits of Mode: syscall.S_IFREG and so on.
func (s Stat) Type() uint32 { return s.Mode & syscall.S_IFMT }

// Perm returns the twelve permission bits of Mode.
func (s Stat) Perm() uint32 { return s.Mode &^ syscall.S_IFMT }

// FS is one host.
type FS struct{ Kernel }

// Output runs a program of the host and returns what it prints on standard output, as [Kernel.Execute] does.
func (h FS) Output(ctx context.Context, name string, args ...string) ([]byte, error) {
	return h.Execute(ctx, Program{Path: name, Args: args})
}

// Error is a failed operation on a file of the host.
type Error struct {
	Op    string // "read", "write", "list", …
	Path  string
	Value string // what a write would have written
	Err   error
}

func (e *Error) Error() string {
	if e.Op == "write" {
		return "cannot write " + quote(e.Value) + " to " + e.Path + ": " + cause(e.Err)
	}
	return "cannot " + e.Op + " " + e.Path + ": " + cause(e.Err)
}

// Unwrap returns the cause, so that errors.Is(err, syscall.EBUSY) works.
func (e *Error) Unwrap() error { return e.Err }

// quote renders a value for a message: the newline that clears an attribute reads as "".
func quote(v string) string {
	return `"` + strings.TrimSuffix(v, "\n") + `"`
}

// cause drops the operation and path that [fs.PathError] repeats.
func cause(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return err.Error()
}

// Read returns the value of an attribute without surrounding white space. "(null)", by which the kernel prints a
// missing string, is the empty value.
func (h FS) Read(name string) (string, error) {
	b, err := h.ReadFile(name)
	if err != nil {
		return "", h.Failed("read", name, err)
	}
	v := strings.TrimSpace(string(b))
	if v == "(null)" {
		return "", nil
	}
	return v, nil
}

// Write gives an attribute a value in one write(2). The empty value clears it: that is a newline, because a write
// of no bytes reaches no attribute.
func (h FS) Write(name, value string) error {
	if value == "" {
		value = "\n"
	}
	if err := h.WriteFile(name, []byte(value)); err != nil {
		return &Error{Op: "write", Path: name, Value: value, Err: h.Explain(err)}
	}
	return nil
}

// List returns the sorted names in a directory.
func (h FS) List(name string) ([]string, error) {
	names, err := h.ReadDir(name)
	if err != nil {
		return nil, h.Failed("list", name, err)
	}
	return names, nil
}

// ListIfAny is List of a directory that only exists where there is something to be in it: without it there is nothing.
func (h FS) ListIfAny(name string) ([]string, error) {
	names, err := h.List(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}

// LinkBase returns the last element of a symbolic link's target, which is how sysfs names a device's driver, group
// or subsystem; "" if there is no such link.
func (h FS) LinkBase(name string) (string, error) {
	target, err := h.Readlink(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", &Error{Op: "read link", Path: name, Err: err}
	}
	return path.Base(target), nil
}

// ResolveLinks returns the path that a path leads to when every symbolic link in it is followed; what does not exist at the end
// stays as it is named.
func (h FS) ResolveLinks(name string) (string, error) {
	const most = 40 // MAXSYMLINKS in the kernel
	rest := strings.Split(strings.TrimPrefix(path.Clean(name), "/"), "/")
	at := "/"
	for links := 0; len(rest) > 0; {
		at, rest = path.Join(at, rest[0]), rest[1:]
		target, err := h.Readlink(at)
		switch {
		case err != nil:
			continue // no link
		case links == most:
			return "", &Error{Op: "follow", Path: name, Err: syscall.ELOOP}
		}
		links++
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(at), target)
		}
		rest = append(strings.Split(strings.TrimPrefix(path.Clean(target), "/"), "/"), rest...)
		at = "/"
	}
	return at, nil
}

// ReadIfAny is Read of an attribute that not every device has: "" without it.
func (h FS) ReadIfAny(name string) (string, error) {
	v, err := h.Read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return v, err
}

// Has reports whether the name exists. Only the kernel's word that it does not is a no: of what could not be looked at
// nothing is known, and nothing must be concluded.
func (h FS) Has(name string) (bool, error) {
	_, err := h.Lstat(name)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return false, nil
	}
	return false, &Error{Op: "look at", Path: name, Err: err}
}

// Exists is [FS.Has] for where an absent file and one that could not be looked at come to the same.
func (h FS) Exists(name string) bool {
	_, err := h.Lstat(name)
	return err == nil
}
