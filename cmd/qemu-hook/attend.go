package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"qemu-hook/hook"
)

// runAttend looks after a guest's interrupts for a while: its driver may enable some long after QEMU has started. It is
// run in a transient unit.
func runAttend(o options, args []string) int {
	beThrifty()
	if len(args) != 1 {
		return fail(usageError("attend is started by the hook itself, it is no command for people"))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	for _, pause := range hook.Looks() {
		select {
		case <-ctx.Done():
			return 0
		case <-time.After(pause):
		}
		if there, err := attend(o, args[0]); err != nil {
			return fail(err)
		} else if !there {
			return 0
		}
	}
	return 0
}

// attend looks once; there is false when the guest has gone.
func attend(o options, uuid string) (there bool, err error) {
	h, err := newHost(o)
	if err != nil || !onRecord(h) {
		return false, err
	}
	if cfg, err := loadConfig(h, o); err == nil {
		h.Config = cfg
	}
	ctx := context.Background()
	err = h.Locked(ctx, "attend "+uuid, newWorker(o), func() error {
		if there = h.Ledger.Guests[uuid] != nil; !there {
			return nil
		}
		return h.SettleInterrupts(ctx)
	})
	return there, err
}

// runInhibit keeps the host from sleeping, or what else it is told, until it is ended. It is run in a transient unit.
func runInhibit(o options, args []string) int {
	beThrifty()
	if len(args) != 2 {
		return fail(usageError("inhibit is started by the hook itself, it is no command for people"))
	}
	h, err := newHost(o)
	if err != nil {
		return fail(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	lock, err := h.Systemd.Inhibit(ctx, args[0], "qemu-hook", fmt.Sprintf("guest %s runs", args[1]))
	if err != nil {
		return fail(err)
	}
	defer lock.Close()
	<-ctx.Done()
	return 0
}
