package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/hook/release"
)

// handleEvent answers a call of libvirt's. Only a prepare that cannot be done, and a release that could not undo
// something, end with a status other than 0: libvirt would kill a guest for a failure at started or reconnect.
func handleEvent(o options, ev hook.Event) int {
	if !acts(ev.Op) {
		return 0
	}
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
	by := hook.Caller{Owner: hook.LibvirtAncestor(h.FS, os.Getppid())}
	return eventStatus(ev, act(h, o, ev.Op, n, by))
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
	journalLog(hook.Err, ev.Op+" "+ev.Guest+": "+err.Error())
	return 0
}

// onRecord reports whether any guest has anything, or a killed hook left the beginnings of a record, which the next
// one to take the lock removes.
func onRecord(h *hook.Host) bool {
	if h.Exists(stateDir + "/" + hook.LedgerDocument) {
		return true
	}
	names, err := h.ReadDir(stateDir)
	if err == nil && slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, ".") }) {
		return true
	}
	logs, err := h.State.Guests()
	return err != nil || len(logs) > 0
}

// act carries out an operation, for libvirt and for people alike.
func act(h *hook.Host, o options, op string, n *domain.Needs, by hook.Caller) error {
	// libvirt may be gone before the hook is done: a write to its pipe must not kill half a preparation.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	name, uuid := n.Guest.Name, n.Guest.UUID
	if op == "prepare" {
		if n.Empty() && !onRecord(h) {
			return nil
		}
		// Only a guest that needs something may fail for a mistake in the configuration.
		cfg, err := loadConfig(h, o)
		if err == nil {
			cfg, err = cfg.ForGuest(name, n.Metadata)
		}
		if err != nil && !n.Empty() {
			return err
		}
		if err == nil {
			h.Config = cfg
		}
	} else if cfg, err := loadConfig(h, o); err == nil {
		h.Config = cfg
	} else {
		h.Logf(hook.Warning, "%s %s goes on without the configuration: %v", op, name, err)
	}
	if op != "prepare" {
		// Half a release helps nobody: a signal ends a preparation, which then gives back, and nothing else.
		ctx = context.WithoutCancel(ctx)
	}
	return h.Locked(ctx, op+" "+name, newWorker(o), func() error {
		switch op {
		case "prepare":
			return prepareGuest(ctx, h, n, by)
		case "release":
			return release.Run(ctx, h, uuid, name)
		case "started":
			return h.MarkStarted(uuid, name)
		case "reconnect":
			return h.Reconnect(ctx, uuid, name)
		}
		return nil
	})
}

func prepareGuest(ctx context.Context, h *hook.Host, n *domain.Needs, by hook.Caller) error {
	if n.Empty() || !h.Config.Enabled {
		// What an earlier XML or configuration asked for is given back.
		return release.Run(ctx, h, n.Guest.UUID, n.Guest.Name)
	}
	warnings, err := prepare.Run(ctx, h, n, by)
	for _, w := range warnings {
		h.Logf(hook.Warning, "%s: %s", n.Guest.Name, w)
	}
	return err
}
