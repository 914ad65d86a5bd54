package hook

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// What is bound by hand, and stays bound without a guest, stands on record as if a guest of this name had it. It claims no
// function: a guest may use one that is bound by hand, and leaves it so.
const (
	HandUUID = "00000000-0000-0000-0000-000000000000"
	HandName = "qemu-hook bind"
)

// HandBound returns the functions that are bound by hand.
func (h *Host) HandBound() ([]string, error) {
	drivers, err := h.RecordedDrivers(HandUUID)
	var bound []string
	for _, d := range drivers {
		bound = append(bound, d.Address)
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
		if !slices.Contains(bound, a) {
			return fmt.Errorf("%s was not bound by qemu-hook bind: nothing is on record; qemu-hook status shows what is", h.FormatPCI(a))
		}
		if err := h.usedByGuest(a); err != nil {
			return err
		}
	}
	left := slices.DeleteFunc(bound, func(a string) bool { return slices.Contains(addresses, a) })
	if len(left) == 0 {
		return h.giveBack(ctx, HandUUID)
	}
	_, err = h.UndoAll(ctx, HandUUID, func(c Change) bool { return !slices.Contains(addresses, c.Subject()) })
	return errors.Join(err, h.narrowHandClaim(), h.Settle(ctx))
}

// UnbindAll gives back everything that is bound by hand.
func (h *Host) UnbindAll(ctx context.Context) error {
	bound, err := h.HandBound()
	if err != nil {
		return err
	}
	if len(bound) == 0 {
		return h.giveBack(ctx, HandUUID)
	}
	return h.Unbind(ctx, bound)
}

// usedByGuest refuses a function that a guest has, or whose IOMMU group it has a part of: a host driver in that would take
// the group from it.
func (h *Host) usedByGuest(address string) error {
	members := []string{address}
	group, err := h.PCIGroup(address)
	if err == nil && group != "" {
		if members, err = h.IOMMUGroup(group); err != nil {
			return err
		}
	}
	for _, m := range members {
		if owner := h.Ledger.PCIOwner(m, HandUUID); owner != nil {
			return fmt.Errorf("%s is taken by guest %s; stop that guest first", h.FormatPCI(m), owner.Name)
		}
	}
	return nil
}

// claimFor returns the part of a claim that is for the functions of these changes: the console if one is a display, the ports
// above them, and that NVIDIA's services do not run if one was NVIDIA's.
func (h *Host) claimFor(all Claim, functions []*PCIDriver) (part Claim) {
	for _, d := range functions {
		if display, err := h.PCIDisplay(d.Address); err == nil && display {
			part.Console, part.Framebuffer = all.Console, all.Framebuffer
		}
		if port, err := h.PCIPort(d.Address); err == nil && slices.Contains(all.Ports, port) {
			part.Add(Claim{Ports: []string{port}})
		}
		for _, u := range NVIDIAServices() {
			if d.From == "nvidia" && slices.Contains(all.Units, u) {
				part.Add(Claim{Units: []string{u}})
			}
		}
	}
	return part
}

// narrowHandClaim drops what is claimed for none of the functions that are left.
func (h *Host) narrowHandClaim() error {
	g := h.Ledger.Guests[HandUUID]
	left, err := h.RecordedDrivers(HandUUID)
	if g == nil || err != nil {
		return err
	}
	part := h.claimFor(g.Claim, left)
	g.Claim.Console, g.Claim.Framebuffer, g.Claim.Ports = part.Console, part.Framebuffer, part.Ports
	g.Claim.Units = slices.DeleteFunc(g.Claim.Units, func(u string) bool {
		return slices.Contains(NVIDIAServices(), u) && !slices.Contains(part.Units, u)
	})
	return h.CopyRecords(HandUUID)
}

// keepByHand moves the guest's changes to functions that stay on vfio to those that are bound by hand, with what is claimed
// for these.
func (h *Host) keepByHand(uuid string) error {
	records, err := h.State.Records(uuid)
	if err != nil || uuid == HandUUID {
		return err
	}
	// Records that cannot be read are left to the undo, which says so.
	drivers, _ := h.RecordedDrivers(uuid)
	stay := slices.DeleteFunc(drivers, func(d *PCIDriver) bool {
		driver, err := h.PCIDriver(d.Address)
		return !d.Stay || err != nil || driver != d.To // it never went there
	})
	if len(stay) == 0 {
		return nil
	}
	var claim Claim
	if g := h.Ledger.Guests[uuid]; g != nil {
		claim = h.claimFor(g.Claim, stay)
	}
	// First who it belongs to from now on, so that nobody takes it for left over.
	if h.Ledger.Guests[HandUUID] == nil {
		h.Ledger.Guests[HandUUID] = &Guest{Name: HandName, Since: h.Now(), Caller: Caller{ByHand: true}}
	}
	h.Ledger.Guests[HandUUID].Claim.Add(claim)
	if err := h.SaveLedger(); err != nil {
		return err
	}
	kept, err := h.Recorded(HandUUID)
	if err != nil {
		return err
	}
	for _, r := range records {
		c, err := decode(r)
		if err != nil || !slices.ContainsFunc(stay, func(d *PCIDriver) bool { return d.Address == c.Subject() }) {
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
	for _, d := range stay {
		h.Logf(Info, "%s: stays on vfio until qemu-hook unbind, as gpu.give_back says", d.Address)
	}
	return h.CopyRecords(HandUUID)
}
