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

// A SlowTask is what the kernel may never return from.
type SlowTask struct {
	Op    SlowOp
	Path  string // of the attribute, or the module's name
	Value string // what is written
}

// SlowOp is what a task does, in the words of a [sysfs.Error].
type SlowOp string

// The slow operations.
const (
	SlowWrite  SlowOp = "write"         // of unbind, bind, drivers_probe: [sysfs.FS.Write]
	SlowUnload SlowOp = "unload module" // [sysfs.FS.UnloadModule]
	SlowLoad   SlowOp = "load module"   // [sysfs.FS.LoadModule]: a driver probes its devices when it is loaded
)

// Do does the task in this process.
func (t SlowTask) Do(ctx context.Context, fs sysfs.FS) error {
	switch t.Op {
	case SlowUnload:
		if err := fs.UnloadModule(t.Path); err != nil {
			return &sysfs.Error{Op: string(t.Op), Path: t.Path, Err: err}
		}
		return nil
	case SlowLoad:
		return fs.LoadModule(ctx, t.Path)
	default:
		return fs.Write(t.Path, t.Value)
	}
}

func (t SlowTask) String() string {
	switch t.Op {
	case SlowUnload:
		return "unloading the module " + t.Path
	case SlowLoad:
		return "loading the module " + t.Path
	default:
		return fmt.Sprintf("writing %q to %s", t.Value, t.Path)
	}
}

// A SlowRunner does slow tasks. When the context's deadline passes the error is a *WedgedError.
type SlowRunner interface {
	Run(ctx context.Context, t SlowTask) error
	Close()
}

// A WedgedError is a task that the kernel has not finished. The process that waits in it cannot be killed.
type WedgedError struct {
	Task   SlowTask
	After  time.Duration
	Worker sysfs.Process // who waits; zero if it cannot be told
}

func (e *WedgedError) Error() string { return e.what() + "; only a reboot helps" }

func (e *WedgedError) what() string {
	return fmt.Sprintf("%s has not returned for %s", e.Task, e.After.Round(time.Second))
}

// Inline does tasks in this process. It is for a model of a host, where nothing can be left behind in the kernel.
type Inline struct{ FS sysfs.FS }

// Run implements [SlowRunner].
func (w Inline) Run(ctx context.Context, t SlowTask) error {
	start := time.Now()
	done := make(chan error, 1)
	go func() { done <- t.Do(context.WithoutCancel(ctx), w.FS) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return &WedgedError{Task: t, After: time.Since(start)}
	}
}

// Close implements [SlowRunner].
func (Inline) Close() {}

// WorkerCommand is the argument with which the program runs itself to be a worker.
const WorkerCommand = "worker"

// A Worker is the program run a second time, to stand in for it in what may block for ever. It has a session
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

// workerReply is how a task ended: well, with a number of the kernel's, or with another text.
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
	// Go's runtime starts threads for as many processors as it finds before the program has a say.
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
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

// Run implements [SlowRunner].
func (w *Worker) Run(ctx context.Context, t SlowTask) error {
	if w.cmd == nil {
		if err := w.start(); err != nil {
			return err
		}
	}
	start := time.Now()
	if deadline, ok := ctx.Deadline(); ok {
		_ = w.pipe.SetReadDeadline(deadline)
	}
	err := json.NewEncoder(w.requests).Encode(t)
	var reply workerReply
	if err == nil {
		err = w.replies.Decode(&reply)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		wedged := &WedgedError{Task: t, After: time.Since(start), Worker: w.process()}
		w.abandon()
		return wedged
	case err != nil:
		w.abandon()
		err = fmt.Errorf("the worker ended: %w", err)
	case reply.Errno != 0:
		err = reply.Errno
	case reply.Err != "" && t.Op == SlowLoad:
		return errors.New(reply.Err) // which says all
	case reply.Err != "":
		err = errors.New(reply.Err)
	default:
		return nil
	}
	if host, herr := sysfs.New(w.Root); herr == nil {
		err = host.Explain(err)
	}
	return &sysfs.Error{Op: string(t.Op), Path: t.Path, Value: t.Value, Err: err}
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
		var t SlowTask
		if err := requests.Decode(&t); err != nil {
			return nil
		}
		var reply workerReply
		switch err := t.Do(context.Background(), host); {
		case err == nil:
		case t.Op == SlowLoad:
			reply.Err = err.Error()
		case !errors.As(err, &reply.Errno):
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
