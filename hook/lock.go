package hook

import (
	"context"
	"errors"
	"os"
	"time"
)

// lockTimeout bounds the wait for another hook to finish.
const lockTimeout = 3 * time.Minute

// Locked runs f with the exclusive right to act on the host and with the ledger as it stands. holder tells others who they wait for.
func (h *Host) Locked(ctx context.Context, holder string, newSlow func(lock *os.File) SlowRunner, f func() error) (err error) {
	wait, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	lock, err := h.State.Lock(wait, holder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if err := h.LoadLedger(); err != nil {
		return err
	}
	h.Slow = newSlow(lock.File())
	defer h.Slow.Close()
	return f()
}
