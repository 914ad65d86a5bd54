package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"qemu-hook/sysfs"
)

// lockTimeout bounds the wait for another hook to finish.
const lockTimeout = 3 * time.Minute

// Locked runs f with the exclusive right to act on the host and with the ledger as it stands. holder tells others who they wait for.
func (h *Host) Locked(ctx context.Context, holder string, newSlow func(lock *os.File) SlowRunner, f func() error) (err error) {
	wait, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	lock, err := h.State.Lock(wait, holder)
	if err != nil {
		return h.explained(err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if err := h.LoadLedger(); err != nil {
		return err
	}
	h.Slow = newSlow(lock.File())
	defer h.Slow.Close()
	h.restoreLost()
	return f()
}

// explained adds to an error which security module it is from, if it is from one.
func (h *Host) explained(err error) error {
	var denied *sysfs.DeniedError
	if errors.As(h.Explain(err), &denied) {
		return fmt.Errorf("%w: %w", err, denied)
	}
	return err
}
