package hook

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// What is bound by hand, and stays bound without a guest, stands on record as if a guest of this name had it. It claims no
// function: a guest may use one that is bound by hand, and leaves it so.
const (
	HandUUID = "00000000-0000-0000-0000-000000000000"
	HandName = "qemu-hook bind"
)

// HandBound returns the functions that are bound by hand.
func (h *Host) HandBound() ([]string, error) {
	changes, err := h.Recorded(HandUUID)
	var bound []string
	for _, c := range changes {
		if d, ok := c.(*PCIDriver); ok {
			bound = append(bound, d.Address)
		}
	}
	return bound, err
}

// Unbind gives functions back that were bound by hand, or stayed when their guest was gone.
func (h *Host) Unbind(ctx context.Context, addresses []string) error {
	bound, err := h.HandBound()
	if err != nil {
		return err
	}
	for _, a := range addresses {
		if owner := h.Ledger.PCIOwner(a, HandUUID); owner != nil {
			return fmt.Errorf("%s is taken by guest %s; stop that guest first", h.FormatPCI(a), owner.Name)
		}
		if !slices.Contains(bound, a) {
			return fmt.Errorf("%s was not bound by qemu-hook bind: nothing is on record; qemu-hook status shows what is", h.FormatPCI(a))
		}
	}
	if !slices.ContainsFunc(bound, func(a string) bool { return !slices.Contains(addresses, a) }) {
		return h.GiveBack(ctx, HandUUID)
	}
	_, err = h.UndoAll(ctx, HandUUID, func(c Change) bool { return !slices.Contains(addresses, c.Subject()) })
	return err
}

// keepByHand moves the guest's changes to functions that stay on vfio to those that are bound by hand.
func (h *Host) keepByHand(uuid string) error {
	records, err := h.State.Records(uuid)
	if err != nil || uuid == HandUUID {
		return err
	}
	var stay []string
	for _, r := range records {
		if c, err := decode(r); err == nil {
			if d, ok := c.(*PCIDriver); ok && d.Stay {
				stay = append(stay, d.Address)
			}
		}
	}
	if len(stay) == 0 {
		return nil
	}
	kept, err := h.Recorded(HandUUID)
	if err != nil {
		return err
	}
	for _, r := range records {
		c, err := decode(r)
		if err != nil || !slices.Contains(stay, c.Subject()) {
			continue
		}
		if !slices.ContainsFunc(kept, func(k Change) bool { return sameSubject(k, c) }) {
			if _, err := h.State.Append(HandUUID, c.Kind(), c); err != nil {
				return err
			}
		}
		if err := h.State.Strike(uuid, r.Seq); err != nil {
			return err
		}
	}
	if h.Ledger.Guests[HandUUID] == nil {
		h.Ledger.Guests[HandUUID] = &Guest{Name: HandName, Since: h.Now(), Caller: Caller{ByHand: true}}
	}
	h.Logf(Info, "%s: stays on vfio until qemu-hook unbind, as gpu.give_back says", strings.Join(stay, ", "))
	return h.SaveLedger()
}
