package hook

import (
	"context"
	"errors"
	"slices"
)

// Settle brings everything shared to where the claims want it, units last: they find the host as it was. All of it is
// tried, whatever fails.
func (h *Host) Settle(ctx context.Context) error {
	var errs error
	for _, part := range []struct {
		step   string
		settle func(context.Context) error
	}{
		{"cpus", func(context.Context) error { return h.SettlePartitions() }},
		{"cpus", func(ctx context.Context) error { return h.SettleCPUs(ctx) }},
		{"interrupts", h.SettleInterrupts},
		{"interrupts", h.SettleIRQBalance},
		{"kernel", h.SettleKernelWork},
		{"frequency", h.SettleFrequency},
		{"tunables", h.SettleTunables},
		{"hugepages", func(context.Context) error { return h.SettleHugepages() }},
		{"pci", func(context.Context) error { return h.SettlePorts() }},
		{"quiesce", h.SettleConsole},
		{"quiesce", h.SettleUnits},
	} {
		end := h.Begin(part.step)
		err := part.settle(ctx)
		end(err)
		errs = errors.Join(errs, err)
	}
	return errs
}

// GiveBack undoes the guest's changes, drops its claim and settles what was shared, in the reverse order of
// preparation. Every part is tried, whatever fails. What could not be undone stays on record and stays the guest's,
// for the next release or recover.
//
// What is bound by hand is given back only where no guest uses it.
func (h *Host) GiveBack(ctx context.Context, uuid string) error {
	if uuid == HandUUID {
		return h.UnbindAll(ctx)
	}
	return h.giveBack(ctx, uuid)
}

// GiveBackAfterRun is [Host.GiveBack] for a guest that was prepared: functions that are to stay on vfio after it do.
func (h *Host) GiveBackAfterRun(ctx context.Context, uuid string) error {
	return errors.Join(h.keepByHand(uuid), h.GiveBack(ctx, uuid))
}

func (h *Host) giveBack(ctx context.Context, uuid string) error {
	guest := h.Ledger.Guests[uuid]
	end := h.Begin("inhibit")
	defer func() {
		if h.Ledger.Guests[uuid] == nil {
			_ = h.State.ClearReleased(uuid)
		}
	}()
	err := h.stopAttendants(ctx, uuid, guest)
	end(err)
	h.dropCopies(uuid)
	_, uerr := h.UndoAll(ctx, uuid, isOwnCommand)
	err = errors.Join(err, uerr)
	h.Ledger.Release(uuid)
	rest, rerr := h.Recorded(uuid)
	if len(rest) > 0 || rerr != nil {
		kept := &Guest{}
		if guest != nil {
			*kept = *guest
		}
		// Its release is through: nobody owes it another, so recover may take what is left.
		kept.Claim, kept.Caller, kept.Released = Claim{}, Caller{}, true
		for _, c := range rest {
			if c.Kind() == pciDriverKind {
				kept.Claim.PCI = append(kept.Claim.PCI, c.Subject())
			}
		}
		if rerr != nil && guest != nil {
			// What cannot be read may be about any of them.
			kept.Claim.PCI = union(kept.Claim.PCI, guest.Claim.PCI)
		}
		h.Ledger.Guests[uuid] = kept
		err = errors.Join(err, rerr)
	}
	err = errors.Join(err, h.SaveLedger(), h.Settle(ctx))
	if !slices.ContainsFunc(rest, isOwnCommand) {
		return err
	}
	// Last of all, when the host is as it was before the guest.
	_, uerr = h.UndoAll(ctx, uuid, func(c Change) bool { return !isOwnCommand(c) })
	err = errors.Join(err, uerr)
	if rest, rerr := h.Recorded(uuid); len(rest) == 0 && rerr == nil {
		delete(h.Ledger.Guests, uuid)
		err = errors.Join(err, h.SaveLedger())
	}
	return err
}

func isOwnCommand(c Change) bool { return c.Kind() == ownCommandKind }
