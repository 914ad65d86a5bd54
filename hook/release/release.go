// Package release gives back what guests had of the host, by what is recorded and not by the domain XML.
package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"qemu-hook/hook"
)

// Run gives back all that the guest has; it is called with the lock held. A guest that has nothing is a quiet
// success: libvirt's release follows a failed prepare, too. Every part is tried, whatever fails. A guest whose QEMU
// runs keeps what it has: libvirt calls when that is gone, so this is a person's mistake.
func Run(ctx context.Context, h *hook.Host, uuid, name string, byHand bool) error {
	uuid, err := find(h, uuid, name)
	if err != nil {
		return err
	}
	logs, err := h.State.Guests()
	if err != nil {
		return err
	}
	if h.Ledger.Guests[uuid] == nil && !slices.Contains(logs, uuid) {
		// What others' claims still want done is tried, but is not this guest's trouble.
		if err := h.Settle(ctx); err != nil {
			h.Logf(hook.Warning, "%v", err)
		}
		return nil
	}
	g := h.Ledger.Guests[uuid]
	runs, err := h.QEMURuns(uuid, name)
	switch {
	case runs && byHand:
		return errors.Join(fmt.Errorf("%s is running; shut it down, libvirt will then release it", name), err)
	case byHand && g != nil && mayStart(h, g) && !h.State.Released(uuid):
		return fmt.Errorf("%s may be starting: the libvirt daemon that prepared it (pid %d) still owes it a release; "+
			"if that never comes, restart the daemon and release it again", name, g.Owner.PID)
	}
	if g != nil && g.Owner != nil && !byHand {
		// This is the release that the daemon owed: if it is killed midway, or comes while QEMU does not die, there comes no other, and
		// recover may finish it.
		g.Owner = nil
		if err := h.SaveLedger(); err != nil {
			h.Logf(hook.Warning, "%v", err)
		}
	}
	if runs && err == nil {
		return fmt.Errorf("%s is running still, and keeps what it has; when it is gone: qemu-hook recover %s", name, hook.QuoteName(name))
	}
	return h.GiveBackAfterRun(ctx, uuid)
}

// mayStart reports whether a guest that has not started is in the hands of a daemon that lives: between prepare and QEMU's
// start there is nothing else to be seen of it.
func mayStart(h *hook.Host, g *hook.Guest) bool {
	if g.Started || g.Owner == nil {
		return false
	}
	alive, err := g.Owner.Alive(h.FS)
	return alive || err != nil
}

// find returns the UUID of a guest on record: the one given, else by the name.
func find(h *hook.Host, uuid, name string) (string, error) {
	if uuid != "" {
		return uuid, nil
	}
	uuid, _ = h.Ledger.Find("", name)
	return uuid, nil
}

// A Recovery says what became of one guest on record.
type Recovery struct {
	UUID, Name string
	// Kept says why the guest kept what it has; "" when it was given back.
	Kept string
	Err  error
}

// Recover gives back what guests have that run no longer: all of them, or the one named. A guest that was prepared by
// hand keeps what it has unless it is named: it may be about to start.
func Recover(ctx context.Context, h *hook.Host, name string) ([]Recovery, error) {
	uuids, err := h.State.Guests()
	if err != nil {
		return nil, err
	}
	for uuid := range h.Ledger.Guests {
		if !slices.Contains(uuids, uuid) {
			uuids = append(uuids, uuid)
		}
	}
	slices.Sort(uuids)
	var all []Recovery
	for _, uuid := range uuids {
		g := h.Ledger.Guests[uuid]
		if g == nil {
			// An undo log without a claim: the state was tampered with, or the claim lost.
			g = &hook.Guest{}
		}
		if uuid == hook.HandUUID {
			// Bound by hand, whatever became of the claim.
			g = &hook.Guest{Name: hook.HandName, Caller: hook.Caller{ByHand: true}}
		}
		if name != "" && g.Name != name && uuid != name {
			continue
		}
		r := Recovery{UUID: uuid, Name: cmp.Or(g.Name, uuid)}
		standing, err := h.Standing(uuid, g)
		switch {
		case standing == hook.Undecided:
			r.Kept, r.Err = "it cannot be told whether it runs", err
		case standing == hook.Runs:
			r.Kept = "it runs"
		case standing == hook.Owed && (name == "" || !g.Started):
			r.Kept = fmt.Sprintf("it may be starting or stopping: the libvirt daemon that prepared it (pid %d) still owes it a release", g.Owner.PID)
		case standing == hook.ByHand && name == "":
			r.Kept = fmt.Sprintf("it was prepared by hand; qemu-hook recover %s gives it back", hook.QuoteName(g.Name))
		default:
			r.Err = h.GiveBackAfterRun(ctx, uuid)
		}
		all = append(all, r)
	}
	if name != "" && len(all) == 0 {
		return nil, errors.Join(fmt.Errorf("no guest %q is on record; see qemu-hook status", name), h.Settle(ctx))
	}
	return all, h.Settle(ctx)
}
