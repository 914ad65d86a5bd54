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

// A SlowWriter writes attributes whose write may never return: unbind, bind, drivers_probe.
type SlowWriter interface {
	// Write is [sysfs.FS.Write] with a deadline; when that passes the error is a *WedgedError.
	Write(ctx context.Context, path, value string) error
	Close()
}

// A WedgedError is a write that the kernel has not finished. The process that waits in it cannot be killed.
type WedgedError struct {
	Path, Value string
	After       time.Duration
}

func (e *WedgedError) Error() string {
	return fmt.Sprintf("writing %q to %s has not returned for %s; only a reboot helps", e.Value, e.Path, e.After.Round(time.Second))
}

// Inline writes in this process. It is for a model of a host, where nothing can be left behind in the kernel.
type Inline struct{ FS sysfs.FS }

func (w Inline) Write(ctx context.Context, path, value string) error {
	start := time.Now()
	done := make(chan error, 1)
	go func() { done <- w.FS.Write(path, value) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return &WedgedError{path, value, time.Since(start)}
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

type workerRequest struct{ Path, Value string }

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
	if w.cmd == nil {
		if err := w.start(); err != nil {
			return err
		}
	}
	start := time.Now()
	if deadline, ok := ctx.Deadline(); ok {
		_ = w.pipe.SetReadDeadline(deadline)
	}
	err := json.NewEncoder(w.requests).Encode(workerRequest{path, value})
	var reply workerReply
	if err == nil {
		err = w.replies.Decode(&reply)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.abandon()
		return &WedgedError{path, value, time.Since(start)}
	case err != nil:
		w.abandon()
		return &sysfs.Error{Op: "write", Path: path, Value: value, Err: fmt.Errorf("the worker ended: %w", err)}
	case reply.Errno != 0:
		return &sysfs.Error{Op: "write", Path: path, Value: value, Err: reply.Errno}
	case reply.Err != "":
		return &sysfs.Error{Op: "write", Path: path, Value: value, Err: errors.New(reply.Err)}
	}
	return nil
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
		if err := host.Write(r.Path, r.Value); err != nil && !errors.As(err, &reply.Errno) {
			reply.Err = errors.Unwrap(err).Error()
		}
		if err := replies.Encode(reply); err != nil {
			return nil
		}
	}
}
