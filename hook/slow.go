package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"qemu-hook/sysfs"
)

// A SlowWriter does what may never return: it writes attributes such as unbind, bind and drivers_probe, and unloads
// modules. When the deadline passes the error is a *WedgedError.
type SlowWriter interface {
	// Write is [sysfs.FS.Write].
	Write(ctx context.Context, path, value string) error
	// Unload is [sysfs.FS.UnloadModule].
	Unload(ctx context.Context, module string) error
	// Load is [sysfs.FS.LoadModule]: a driver's module that is loaded probes the driver's devices.
	Load(ctx context.Context, module string) error
	Close()
}

// A WedgedError is a write that the kernel has not finished. The process that waits in it cannot be killed.
type WedgedError struct {
	Path, Value string // the value is "" for a module
	Loads       bool   // it is loaded, else unloaded
	After       time.Duration
	Worker      sysfs.Process // who waits; zero if it cannot be told
}

func (e *WedgedError) Error() string { return e.what() + "; only a reboot helps" }

func (e *WedgedError) what() string {
	after := e.After.Round(time.Second)
	if e.Loads {
		return fmt.Sprintf("loading the module %s has not returned for %s", e.Path, after)
	}
	if e.Value == "" {
		return fmt.Sprintf("unloading the module %s has not returned for %s", e.Path, after)
	}
	return fmt.Sprintf("writing %q to %s has not returned for %s", e.Value, e.Path, after)
}

// Inline writes in this process. It is for a model of a host, where nothing can be left behind in the kernel.
type Inline struct{ FS sysfs.FS }

func (w Inline) Write(ctx context.Context, path, value string) error {
	return inline(ctx, func() error { return w.FS.Write(path, value) }, WedgedError{Path: path, Value: value})
}

func (w Inline) Unload(ctx context.Context, module string) error {
	return inline(ctx, func() error { return w.FS.UnloadModule(module) }, WedgedError{Path: module})
}

func (w Inline) Load(ctx context.Context, module string) error {
	return inline(ctx, func() error { return w.FS.LoadModule(context.WithoutCancel(ctx), module) }, WedgedError{Path: module, Loads: true})
}

func inline(ctx context.Context, f func() error, wedged WedgedError) error {
	start := time.Now()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		wedged.After = time.Since(start)
		return &wedged
	}
}

func (Inline) Close() {}

// WorkerCommand is the argument with which the program runs itself to be a worker.
const WorkerCommand = "worker"

// A Worker is the program run a second time, to stand in for it in writes that may block for ever. It has a session
// of its own, /dev/null as its standard files, so that libvirt does not wait for it, and the lock's descriptor, so
// that nobody else acts while its write is under way even if the hook is killed.
type Worker struct {
	Root string
	Lock *os.File

	cmd      *exec.Cmd
	requests *os.File
	replies  *json.Decoder
	pipe     *os.File
}

// workerRequest is a write, or a module to be unloaded or loaded.
type workerRequest struct{ Path, Value, Unload, Load string }

type workerReply struct {
	Errno syscall.Errno
	Err   string
}

func (w *Worker) start() error {
	theirs, requests, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot start a worker: %w", err)
	}
	defer theirs.Close()
	pipe, replies, err := os.Pipe()
	if err != nil {
		requests.Close()
		return fmt.Errorf("cannot start a worker: %w", err)
	}
	defer replies.Close()
	// The program as it runs, also when an upgrade has replaced its file meanwhile.
	cmd := exec.Command("/proc/self/exe", WorkerCommand, w.Root)
	cmd.Args[0] = "qemu-hook"
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.ExtraFiles = []*os.File{theirs, replies}
	if w.Lock != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, w.Lock)
	}
	if err := cmd.Start(); err != nil {
		requests.Close()
		pipe.Close()
		return fmt.Errorf("cannot start a worker: %w", err)
	}
	w.cmd, w.requests, w.pipe, w.replies = cmd, requests, pipe, json.NewDecoder(pipe)
	return nil
}

func (w *Worker) Write(ctx context.Context, path, value string) error {
	err := w.do(ctx, workerRequest{Path: path, Value: value}, WedgedError{Path: path, Value: value})
	var failed *workerError
	if errors.As(err, &failed) {
		return &sysfs.Error{Op: "write", Path: path, Value: value, Err: failed.cause}
	}
	return err
}

func (w *Worker) Unload(ctx context.Context, module string) error {
	err := w.do(ctx, workerRequest{Unload: module}, WedgedError{Path: module})
	var failed *workerError
	if errors.As(err, &failed) {
		return &sysfs.Error{Op: "unload module", Path: module, Err: failed.cause}
	}
	return err
}

func (w *Worker) Load(ctx context.Context, module string) error {
	err := w.do(ctx, workerRequest{Load: module}, WedgedError{Path: module, Loads: true})
	var failed *workerError
	if errors.As(err, &failed) {
		return failed.cause // which says all
	}
	return err
}

// A workerError is what went wrong on the worker's side.
type workerError struct{ cause error }

func (e *workerError) Error() string { return e.cause.Error() }

func (w *Worker) do(ctx context.Context, request workerRequest, wedged WedgedError) error {
	if w.cmd == nil {
		if err := w.start(); err != nil {
			return err
		}
	}
	start := time.Now()
	if deadline, ok := ctx.Deadline(); ok {
		_ = w.pipe.SetReadDeadline(deadline)
	}
	err := json.NewEncoder(w.requests).Encode(request)
	var reply workerReply
	if err == nil {
		err = w.replies.Decode(&reply)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		wedged.After, wedged.Worker = time.Since(start), w.process()
		w.abandon()
		return &wedged
	case err != nil:
		w.abandon()
		return &workerError{fmt.Errorf("the worker ended: %w", err)}
	case reply.Errno != 0:
		return &workerError{reply.Errno}
	case reply.Err != "":
		return &workerError{errors.New(reply.Err)}
	}
	return nil
}

// process is the worker as others can tell it from a later process with its number.
func (w *Worker) process() sysfs.Process {
	host, err := sysfs.New("/")
	if err != nil {
		return sysfs.Process{}
	}
	st, err := host.ProcessStat(w.cmd.Process.Pid)
	if err != nil {
		return sysfs.Process{}
	}
	return sysfs.Process{PID: w.cmd.Process.Pid, Start: st.Start}
}

// abandon leaves the worker to the kernel; the next write gets a new one.
func (w *Worker) abandon() {
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Process.Release()
	w.requests.Close()
	w.pipe.Close()
	w.cmd = nil
}

// Close ends the worker.
func (w *Worker) Close() {
	if w.cmd == nil {
		return
	}
	w.requests.Close()
	_ = w.cmd.Wait()
	w.pipe.Close()
	w.cmd = nil
}

// RunWorker is the worker's side: descriptor 3 brings requests, 4 takes replies, 5 is the lock. It returns when the
// hook closes its end, or dies.
func RunWorker(root string) error {
	host, err := sysfs.New(root)
	if err != nil {
		return err
	}
	in, out := os.NewFile(3, "requests"), os.NewFile(4, "replies")
	if in == nil || out == nil {
		return fmt.Errorf("%s is started by the hook itself, it is no command for people", strconv.Quote(WorkerCommand))
	}
	for fd := 3; fd <= 5; fd++ {
		syscall.CloseOnExec(fd)
	}
	requests, replies := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var r workerRequest
		if err := requests.Decode(&r); err != nil {
			return nil
		}
		var reply workerReply
		var err error
		switch {
		case r.Unload != "":
			err = host.UnloadModule(r.Unload)
		case r.Load != "":
			if err = host.LoadModule(context.Background(), r.Load); err != nil {
				err = errors.New(err.Error())
			}
		default:
			err = host.Write(r.Path, r.Value)
		}
		if err != nil && !errors.As(err, &reply.Errno) {
			reply.Err = cause(err)
		}
		if err := replies.Encode(reply); err != nil {
			return nil
		}
	}
}

// cause is what an error says below its path and operation, which the hook's side adds.
func cause(err error) string {
	var e *sysfs.Error
	if errors.As(err, &e) {
		err = e.Err
	}
	return err.Error()
}
