package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/hook/release"
	"qemu-hook/journal"
)

// handleEvent answers a call of libvirt's. Only a prepare that cannot be done, and a release that could not undo
// something, end with a status other than 0: libvirt would kill a guest for a failure at started or reconnect.
func handleEvent(o options, ev hook.Event) (status int) {
	if !acts(ev.Op) {
		return 0
	}
	defer func() {
		if p := recover(); p != nil {
			status = eventStatus(ev, fmt.Errorf("a defect of qemu-hook, please report it: %v\n%s", p, debug.Stack()))
		}
	}()
	if os.Geteuid() != 0 && o.root == "" {
		// A user's own daemon (qemu:///session) runs the system's hook as that user.
		return 0
	}
	beThrifty()
	h, err := newHost(o)
	if err != nil {
		return eventStatus(ev, err)
	}
	// Nothing is on record: only a prepare has anything to do.
	if ev.Op != "prepare" && !onRecord(h) {
		return 0
	}
	n, err := domain.Parse(os.Stdin)
	if err != nil {
		if ev.Op == "prepare" {
			return eventStatus(ev, err)
		}
		h.Logf(hook.Warning, "%s %s: %v", ev.Op, ev.Guest, err)
		n = &domain.Needs{Guest: domain.Guest{Name: ev.Guest}}
	}
	if n.Guest.Name == "" {
		n.Guest.Name = ev.Guest
	}
	return eventStatus(ev, act(h, o, ev.Op, n, hook.LibvirtCaller(h.FS, os.Getppid())))
}

// acts reports whether an operation has anything to do with this program.
func acts(op string) bool {
	switch op {
	case "prepare", "started", "release", "reconnect":
		return true
	}
	return false
}

func eventStatus(ev hook.Event, err error) int {
	switch {
	case err == nil:
		return 0
	case ev.Op == "prepare" || ev.Op == "release":
		return failEvent(err)
	}
	journalLog(hook.Err, ev.Op+" "+ev.Guest+": "+err.Error(), hook.LogFields{Op: ev.Op, Guest: ev.Guest})
	return 0
}

// onRecord reports whether any guest has anything, or a killed hook left the beginnings of a record, which the next
// one to take the lock removes.
func onRecord(h *hook.Host) bool {
	if there, err := h.Has(stateDir + "/" + hook.LedgerDocument); err != nil || there {
		return true // and what is wrong is said when it is read
	}
	names, err := h.ReadDir(stateDir)
	if err == nil && slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, ".") }) {
		return true
	}
	logs, err := h.State.Guests()
	return err != nil || len(logs) > 0
}

// holds reports whether the guest has anything. It looks without the lock, and what it cannot read holds nothing:
// that is for those who need it to complain of.
func holds(h *hook.Host, uuid string) bool {
	logs, err := h.State.Guests()
	if err == nil && slices.Contains(logs, uuid) {
		return true
	}
	return h.LoadLedger() == nil && h.Ledger.Guests[uuid] != nil
}

// refuseUnlocked refuses a guest before the lock was taken, and keeps the reason for `status` if that is free.
func refuseUnlocked(ctx context.Context, h *hook.Host, guest domain.Guest, reason error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if lock, err := h.State.Lock(ctx, "refuse "+guest.Name); err == nil {
		h.BeginReport()
		reason = errors.Join(reason, h.Remember(guest.UUID, guest.Name, []string{reason.Error()}))
		sendReport(h, h.EndReport(&hook.Refusal{Guest: guest.Name, Reasons: reasons(reason)}))
		reason = errors.Join(reason, lock.Unlock())
	}
	return reason
}

// act carries out an operation, for libvirt and for people alike.
func act(h *hook.Host, o options, op string, n *domain.Needs, by hook.Caller) error {
	// libvirt may be gone before the hook is done: a write to its pipe must not kill half a preparation.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	name, uuid := n.Guest.Name, n.Guest.UUID
	h.Event = hook.LogFields{Op: op, Guest: name, UUID: uuid, ByHand: by.ByHand}
	if op == "prepare" && n.Empty() {
		// A guest that needs nothing is not kept from starting, whatever is wrong here. What an earlier XML of it
		// asked for is given back.
		if holds(h, uuid) {
			if err := act(h, o, "release", n, by); err != nil {
				h.Logf(hook.Err, "%s: %v", name, err)
			}
		}
		return nil
	}
	if err := checkProgram(h, o); err != nil && op == "prepare" {
		return refuseUnlocked(ctx, h, n.Guest, err)
	} else if err != nil {
		h.Logf(hook.Warning, "%s %s goes on all the same: %v", op, name, err)
	}
	cfg, err := loadConfig(h, o)
	if err == nil && op == "prepare" {
		cfg, err = cfg.ForGuest(name, n.Metadata)
	}
	switch {
	case err == nil:
		h.Config = cfg
	case op == "prepare":
		return refuseUnlocked(ctx, h, n.Guest, err)
	default:
		h.Logf(hook.Warning, "%s %s goes on without the configuration: %v", op, name, err)
	}
	err = locked(ctx, h, o, op, name, func() error {
		if op != "prepare" {
			// Half a release helps nobody: a signal ends a preparation, which then gives back, and nothing else.
			ctx = context.WithoutCancel(ctx)
		}
		switch op {
		case "prepare":
			return prepareGuest(ctx, h, n, by)
		case "release":
			return release.Run(ctx, h, uuid, name, by.ByHand)
		case "started":
			err := h.Started(ctx, uuid, name)
			if h.Config.CPUs.ConfineGuests && n.Pinned.Empty() {
				err = errors.Join(err, h.Confine(ctx, uuid, name))
			}
			return err
		case "reconnect":
			return h.Reconnect(ctx, uuid, name, by)
		}
		return nil
	})
	var held *journal.HeldError
	if op == "release" && errors.As(err, &held) {
		// libvirt sends no other.
		err = errors.Join(h.State.MarkReleased(uuid), fmt.Errorf("%w; when that is done: qemu-hook recover %s", err, hook.QuoteName(name)))
	}
	return err
}

func prepareGuest(ctx context.Context, h *hook.Host, n *domain.Needs, by hook.Caller) error {
	if !h.Config.Enabled {
		// What an earlier configuration asked for is given back.
		return release.Run(ctx, h, n.Guest.UUID, n.Guest.Name, by.ByHand)
	}
	warnings, err := prepare.Run(ctx, h, n, by)
	for _, w := range warnings {
		h.Logf(hook.Warning, "%s: %s", n.Guest.Name, w)
	}
	return err
}
