package prepare_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"qemu-hook/cpuset"
	"qemu-hook/sysfs"
	"qemu-hook/systemd"
)

// An opKind is what an operation does, as far as the answers go that the kernel may give.
type opKind string

const (
	opRead    opKind = "read"
	opList    opKind = "list"
	opLink    opKind = "read link"
	opLook    opKind = "look at"
	opWrite   opKind = "write"
	opRemove  opKind = "remove"
	opOpenDir opKind = "open directory"
	opCreate  opKind = "create"
	opOpen    opKind = "open"
	opSize    opKind = "truncate"
	opOwner   opKind = "chown"
	opMode    opKind = "chmod"
	opRun     opKind = "run"
	opSignal  opKind = "signal"
	opMove    opKind = "move thread"
	opUnload  opKind = "unload"
	opAsk     opKind = "ask systemd"
	opTell    opKind = "tell systemd"
)

// An operation is one of the program's on its host: the n-th of its kind on this path, from 0, in one of its calls.
type operation struct {
	kind opKind
	path string
	n    int
}

func (o operation) String() string { return fmt.Sprintf("%s %s #%d", o.kind, o.path, o.n) }

// A failing is how often and how an operation fails.
type failing string

const (
	once  failing = "once"    // and not when it is tried again
	ever  failing = "ever"    // and all others of its kind on the path, to the end of the call
	late  failing = "late"    // after it was done all the same
	short failing = "short"   // a write of a part
	hangs failing = "forever" // does not return
)

// A fault is an operation that fails.
type fault struct {
	operation
	how failing
	err error
}

func (f fault) String() string { return fmt.Sprintf("%s: %s, %v", f.operation, f.how, f.err) }

// A faulty has the operations of one call counted, and one of them fail.
type faulty struct {
	mu    sync.Mutex
	seen  map[operation]int // of operations without their number
	order []operation
	fault *fault
	hit   int
	freed chan struct{} // closed to end what hangs
}

func newFaulty(f *fault) *faulty {
	return &faulty{seen: map[operation]int{}, fault: f, freed: make(chan struct{})}
}

// do does an operation, or has it fail.
func (f *faulty) do(ctx context.Context, kind opKind, name string, do func() error) error {
	f.mu.Lock()
	o := operation{kind: kind, path: name}
	f.seen[o]++
	o.n = f.seen[o] - 1
	f.order = append(f.order, o)
	b := f.fault
	bad := b != nil && b.kind == o.kind && b.path == o.path && (b.n == o.n || b.n < o.n && b.how == ever)
	if bad {
		f.hit++
	}
	f.mu.Unlock()
	if !bad {
		return do()
	}
	switch b.how {
	case late:
		if err := do(); err != nil {
			return err
		}
	case hangs:
		select {
		case <-f.freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return b.err
}

// value is do for an operation that returns something.
func value[T any](f *faulty, kind opKind, name string, do func() (T, error)) (v T, err error) {
	err = f.do(context.Background(), kind, name, func() (err error) {
		v, err = do()
		return err
	})
	return v, err
}

// A faultyKernel is a host of which operations are counted and fail.
type faultyKernel struct {
	k sysfs.Kernel
	f *faulty
}

var _ sysfs.Kernel = faultyKernel{}

func (d faultyKernel) ReadFile(name string) ([]byte, error) {
	return value(d.f, opRead, name, func() ([]byte, error) { return d.k.ReadFile(name) })
}

func (d faultyKernel) WriteFile(name string, v []byte) error {
	return d.f.do(context.Background(), opWrite, name, func() error { return d.k.WriteFile(name, v) })
}

func (d faultyKernel) ReadDir(name string) ([]string, error) {
	return value(d.f, opList, name, func() ([]string, error) { return d.k.ReadDir(name) })
}

func (d faultyKernel) SubDirs(name string) ([]string, error) {
	return value(d.f, opList, name, func() ([]string, error) { return d.k.SubDirs(name) })
}

func (d faultyKernel) Readlink(name string) (string, error) {
	return value(d.f, opLink, name, func() (string, error) { return d.k.Readlink(name) })
}

func (d faultyKernel) Stat(name string) (sysfs.Stat, error) {
	return value(d.f, opLook, name, func() (sysfs.Stat, error) { return d.k.Stat(name) })
}

func (d faultyKernel) Lstat(name string) (sysfs.Stat, error) {
	return value(d.f, opLook, name, func() (sysfs.Stat, error) { return d.k.Lstat(name) })
}

func (d faultyKernel) Remove(name string) error {
	return d.f.do(context.Background(), opRemove, name, func() error { return d.k.Remove(name) })
}

func (d faultyKernel) OpenDir(name string) (sysfs.Dir, error) {
	dir, err := value(d.f, opOpenDir, name, func() (sysfs.Dir, error) { return d.k.OpenDir(name) })
	if err != nil {
		return nil, err
	}
	return faultyDir{dir, d.f, name}, nil
}

// command names a run of a program; a module's name is in it.
func command(name string, args []string) string {
	return strings.Join(append([]string{name}, args...), " ")
}

func (d faultyKernel) Run(ctx context.Context, name string, args ...string) error {
	return d.f.do(ctx, opRun, command(name, args), func() error { return d.k.Run(ctx, name, args...) })
}

func (d faultyKernel) Execute(ctx context.Context, p sysfs.Program) (out []byte, err error) {
	err = d.f.do(ctx, opRun, command(p.Path, p.Args), func() (err error) {
		out, err = d.k.Execute(ctx, p)
		return err
	})
	return out, err
}

func (d faultyKernel) OpenDevices(pid int, visit func(rdev uint64, block bool)) error {
	return d.f.do(context.Background(), opList, "/proc/"+strconv.Itoa(pid)+"/fd", func() error { return d.k.OpenDevices(pid, visit) })
}

func (d faultyKernel) Signal(pid int, start uint64, signal syscall.Signal) error {
	return d.f.do(context.Background(), opSignal, strconv.Itoa(pid), func() error { return d.k.Signal(pid, start, signal) })
}

func (d faultyKernel) Affinity(pid int) (cpuset.Set, error) {
	return value(d.f, opRead, "thread "+strconv.Itoa(pid), func() (cpuset.Set, error) { return d.k.Affinity(pid) })
}

func (d faultyKernel) SetAffinity(pid int, start uint64, cpus cpuset.Set) error {
	return d.f.do(context.Background(), opMove, "thread "+strconv.Itoa(pid), func() error { return d.k.SetAffinity(pid, start, cpus) })
}

func (d faultyKernel) UnloadModule(name string) error {
	return d.f.do(context.Background(), opUnload, name, func() error { return d.k.UnloadModule(name) })
}

func (d faultyKernel) Local(name string) (string, error) {
	return value(d.f, opOpenDir, name, func() (string, error) { return d.k.Local(name) })
}

type faultyDir struct {
	d    sysfs.Dir
	f    *faulty
	name string
}

func (d faultyDir) at(name string) string { return path.Join(d.name, name) }

func (d faultyDir) Lstat(name string) (sysfs.Stat, error) {
	return value(d.f, opLook, d.at(name), func() (sysfs.Stat, error) { return d.d.Lstat(name) })
}

func (d faultyDir) file(kind opKind, name string, open func(string) (sysfs.File, error)) (sysfs.File, error) {
	file, err := value(d.f, kind, d.at(name), func() (sysfs.File, error) { return open(name) })
	if err != nil {
		return nil, err
	}
	return faultyFile{file, d.f, d.at(name)}, nil
}

func (d faultyDir) Create(name string) (sysfs.File, error) { return d.file(opCreate, name, d.d.Create) }
func (d faultyDir) Open(name string) (sysfs.File, error)   { return d.file(opOpen, name, d.d.Open) }

func (d faultyDir) Remove(name string) error {
	return d.f.do(context.Background(), opRemove, d.at(name), func() error { return d.d.Remove(name) })
}

func (d faultyDir) Close() error { return d.d.Close() }

type faultyFile struct {
	file sysfs.File
	f    *faulty
	name string
}

func (d faultyFile) Stat() (sysfs.Stat, error) {
	return value(d.f, opLook, d.name, func() (sysfs.Stat, error) { return d.file.Stat() })
}

func (d faultyFile) change(kind opKind, do func() error) error {
	return d.f.do(context.Background(), kind, d.name, do)
}

func (d faultyFile) Truncate(size int64) error {
	return d.change(opSize, func() error { return d.file.Truncate(size) })
}

func (d faultyFile) Chown(uid, gid int) error {
	return d.change(opOwner, func() error { return d.file.Chown(uid, gid) })
}

func (d faultyFile) Chmod(mode uint32) error {
	return d.change(opMode, func() error { return d.file.Chmod(mode) })
}

func (d faultyFile) Close() error { return d.file.Close() }

// A faultySystemd is a service manager of which calls are counted and fail.
type faultySystemd struct {
	m systemd.Manager
	f *faulty
}

var _ systemd.Manager = faultySystemd{}

func (d faultySystemd) AllowedCPUs(ctx context.Context, unit string) (cpus cpuset.Set, err error) {
	err = d.f.do(ctx, opAsk, unit, func() (err error) {
		cpus, err = d.m.AllowedCPUs(ctx, unit)
		return err
	})
	return cpus, about(err, unit)
}

// about says of which unit a failure is, as the real manager does.
func about(err error, unit string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", unit, err)
}

func (d faultySystemd) SetAllowedCPUs(ctx context.Context, unit string, cpus cpuset.Set) error {
	return about(d.f.do(ctx, opTell, unit, func() error { return d.m.SetAllowedCPUs(ctx, unit, cpus) }), unit)
}

func (d faultySystemd) UnitRuns(ctx context.Context, unit string) (runs bool, err error) {
	err = d.f.do(ctx, opAsk, unit, func() (err error) {
		runs, err = d.m.UnitRuns(ctx, unit)
		return err
	})
	return runs, about(err, unit)
}

func (d faultySystemd) StopUnit(ctx context.Context, unit string) error {
	return about(d.f.do(ctx, opTell, unit, func() error { return d.m.StopUnit(ctx, unit) }), unit)
}

func (d faultySystemd) StartUnit(ctx context.Context, unit string) error {
	return about(d.f.do(ctx, opTell, unit, func() error { return d.m.StartUnit(ctx, unit) }), unit)
}

func (d faultySystemd) StartTransient(ctx context.Context, u systemd.Transient) error {
	return about(d.f.do(ctx, opTell, u.Name, func() error { return d.m.StartTransient(ctx, u) }), u.Name)
}

func (d faultySystemd) Stopping(ctx context.Context) (stopping bool, err error) {
	err = d.f.do(ctx, opAsk, "SystemState", func() (err error) {
		stopping, err = d.m.Stopping(ctx)
		return err
	})
	return stopping, err
}

func (d faultySystemd) EndSession(ctx context.Context, id string) error {
	return about(d.f.do(ctx, opTell, "session "+id, func() error { return d.m.EndSession(ctx, id) }), "session "+id)
}

func (d faultySystemd) Inhibit(ctx context.Context, what, who, why string) (io.Closer, error) {
	return d.m.Inhibit(ctx, what, who, why)
}

func (d faultySystemd) Close() { d.m.Close() }

// answers are what the kernel or systemd may answer to an operation, by its documentation: for files of sysfs
// Documentation/filesystems/sysfs.rst and whoever serves the attribute, else the manual page of the call.
func answers(kind opKind) []error {
	switch kind {
	case opRead:
		return []error{syscall.EIO, syscall.EACCES, syscall.EPERM, syscall.EAGAIN, syscall.ENOMEM}
	case opList, opLink, opLook, opOpenDir:
		return []error{syscall.EIO, syscall.EACCES, syscall.ENOMEM}
	case opWrite:
		return []error{
			syscall.EBUSY, syscall.EIO, syscall.EINVAL, syscall.ENODEV, syscall.EPERM, syscall.EACCES, syscall.ENOENT, syscall.ENOSPC,
			syscall.EAGAIN, syscall.ENOMEM,
		}
	case opRemove:
		return []error{syscall.EACCES, syscall.EBUSY, syscall.EPERM, syscall.EROFS, syscall.EIO}
	case opCreate:
		return []error{syscall.ENOSPC, syscall.EACCES, syscall.EPERM, syscall.EEXIST, syscall.EROFS, syscall.ENOMEM}
	case opOpen:
		return []error{syscall.EACCES, syscall.EIO, syscall.EPERM, syscall.EMFILE}
	case opSize:
		return []error{syscall.ENOSPC, syscall.EIO, syscall.EPERM, syscall.EFBIG}
	case opOwner, opMode:
		return []error{syscall.EPERM, syscall.EIO, syscall.EROFS, syscall.ENOSPC}
	case opRun:
		return []error{errors.New("exit status 1"), syscall.ENOENT, syscall.EACCES, syscall.ENOMEM, syscall.EAGAIN}
	case opSignal:
		return []error{syscall.EPERM, syscall.EINVAL}
	case opMove:
		return []error{syscall.EPERM, syscall.EINVAL}
	case opUnload:
		return []error{syscall.EAGAIN, syscall.EBUSY, syscall.EPERM}
	case opAsk, opTell:
		return []error{
			&systemd.ReplyError{Name: "org.freedesktop.DBus.Error.AccessDenied", Message: "Access denied"},
			errors.New("the connection was lost, twice: EOF"),
		}
	}
	return nil
}

// ways are how an operation may fail.
func ways(kind opKind) []failing {
	switch kind {
	case opWrite:
		return []failing{once, ever, late, short}
	case opMove:
		return []failing{once, ever}
	case opRemove, opSize, opOwner, opMode, opUnload, opCreate:
		return []failing{once, ever, late}
	case opRun:
		return []failing{once, ever, late, hangs}
	case opAsk, opTell:
		return []failing{once, ever, hangs}
	}
	return []failing{once, ever}
}

// slowPath reports whether the write is one that the kernel may never return from, so that the worker does it.
func slowPath(name string) bool {
	switch path.Base(name) {
	case "unbind", "bind", "drivers_probe", "remove", "rescan":
		return true
	}
	return false
}

// faultsOf are all faults of an operation.
func faultsOf(o operation) []fault {
	var all []fault
	for _, how := range ways(o.kind) {
		switch how {
		case short:
			all = append(all, fault{o, how, io.ErrShortWrite})
		case hangs:
			all = append(all, fault{o, how, syscall.EINTR})
		default:
			for _, err := range answers(o.kind) {
				if how == late && (err == syscall.ENOENT || err == syscall.ENODEV) {
					continue // what is not there was not written
				}
				all = append(all, fault{o, how, err})
			}
		}
	}
	if o.kind == opUnload || o.kind == opWrite && slowPath(o.path) {
		all = append(all, fault{o, hangs, syscall.EINTR})
	}
	return all
}
