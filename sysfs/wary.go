package sysfs

import (
	"errors"
	"io/fs"
	"sync"
	"syscall"
)

// Wary returns the same host through a door that remembers the first look at it that failed. What is asked of it may well
// go on without what could not be seen; whoever concludes from the answer that a device is free asks afterwards whether
// all of it was. That a file is not there, or is no link, is an answer like any other.
func (h FS) Wary() (watched FS, unseen func() error) {
	w := &wary{Kernel: h.Kernel}
	return FS{w}, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.first
	}
}

type wary struct {
	Kernel

	mu    sync.Mutex
	first error
}

// note keeps an error that leaves open what is there.
func (w *wary) note(op, name string, err error) {
	if err == nil {
		return
	}
	for _, answer := range []error{fs.ErrNotExist, syscall.ENOTDIR, syscall.ENODEV, syscall.ESRCH} {
		if errors.Is(err, answer) {
			return
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.first == nil {
		w.first = &Error{Op: op, Path: name, Err: err}
	}
}

func (w *wary) ReadFile(name string) ([]byte, error) {
	b, err := w.Kernel.ReadFile(name)
	w.note("read", name, err)
	return b, err
}

func (w *wary) ReadDir(name string) ([]string, error) {
	names, err := w.Kernel.ReadDir(name)
	w.note("list", name, err)
	return names, err
}

func (w *wary) SubDirs(name string) ([]string, error) {
	names, err := w.Kernel.SubDirs(name)
	w.note("list", name, err)
	return names, err
}

func (w *wary) Readlink(name string) (string, error) {
	target, err := w.Kernel.Readlink(name)
	if !errors.Is(err, syscall.EINVAL) {
		w.note("read link", name, err)
	}
	return target, err
}

func (w *wary) Stat(name string) (Stat, error) {
	st, err := w.Kernel.Stat(name)
	w.note("look at", name, err)
	return st, err
}

func (w *wary) Lstat(name string) (Stat, error) {
	st, err := w.Kernel.Lstat(name)
	w.note("look at", name, err)
	return st, err
}
