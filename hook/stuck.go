package hook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"qemu-hook/sysfs"
)

// slow does what the kernel may never return from, in the worker.
func (h *Host) slow(ctx context.Context, timeout time.Duration, t SlowTask) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return h.Slow.Run(ctx, t)
}

// stuckAt notes a function for which the kernel does not return, and says who has one of its nodes open.
func (h *Host) stuckAt(ctx context.Context, address string, nodes []sysfs.DeviceNode, err error) error {
	var wedged *WedgedError
	if !errors.As(err, &wedged) {
		return err
	}
	w := &Wedge{Why: wedged.Error(), Worker: wedged.Worker}
	// Its time is up, but the question who is in the way is worth another moment.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), driverTimeout)
	defer cancel()
	if users := h.usersOfNodes(ctx, address, nodes); len(users) > 0 {
		w.Why = fmt.Sprintf("%s; close that, and it comes free by itself; %s", DescribeUsers(h.FS, users), wedged.what())
	}
	if h.Ledger.Wedged == nil {
		h.Ledger.Wedged = map[string]*Wedge{}
	}
	h.Ledger.Wedged[address] = w
	return errors.Join(&StuckError{address, w.Why}, h.SaveLedger())
}

// A StuckError is a function that cannot be touched until a write to it returns.
type StuckError struct{ Address, Why string }

func (e *StuckError) Error() string { return e.Address + " is stuck in the kernel: " + e.Why }

// OnlyStuck reports whether all that an error says is of functions that are stuck.
func OnlyStuck(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return !slices.ContainsFunc(joined.Unwrap(), func(e error) bool { return !OnlyStuck(e) })
	}
	var stuck *StuckError
	return errors.As(err, &stuck)
}

// A Wedge is a function that is stuck in a write that never returned.
type Wedge struct {
	Why string `json:"why"`
	// Worker is the process that waits in the kernel: when it is gone, the write has returned.
	Worker sysfs.Process `json:"worker"`
}

// Stuck says why a function cannot be touched, "" if it can: its files wait for the same lock in the kernel as the
// write that never returned. One whose write returned after all is stuck no longer.
func (h *Host) Stuck(address string) string {
	w := h.Ledger.Wedged[address]
	if w == nil {
		return ""
	}
	if w.Worker.PID > 0 && !here(w.Worker) {
		delete(h.Ledger.Wedged, address)
		h.Logf(Info, "%s is stuck no longer", address)
		return ""
	}
	return w.Why
}

// here reports whether a process of this program still runs, or may: on the running host, whatever root the program works on.
func here(p Process) bool {
	host, err := sysfs.New("/")
	if err != nil {
		return true
	}
	alive, err := p.Alive(host)
	return alive || err != nil
}
