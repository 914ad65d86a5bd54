package hook

import (
	"context"
	"errors"
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
	return errors.Join(err, h.narrowHandClaim(left), h.Settle(ctx))
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

// narrowHandClaim drops what is claimed for none of the functions that are left.
func (h *Host) narrowHandClaim(left []string) error {
	g := h.Ledger.Guests[HandUUID]
	changes, err := h.Recorded(HandUUID)
	if g == nil || err != nil {
		return err
	}
	display, nvidia := false, false
	var ports []string
	for _, a := range left {
		class, _ := h.PCIClass(a)
		display = display || class>>16 == 3
		if port, err := h.PCIPort(a); err == nil {
			ports = append(ports, port)
		}
	}
	for _, c := range changes {
		if d, ok := c.(*PCIDriver); ok {
			nvidia = nvidia || d.From == "nvidia"
		}
	}
	g.Claim.Console, g.Claim.Framebuffer = g.Claim.Console && display, g.Claim.Framebuffer && display
	g.Claim.Ports = slices.DeleteFunc(g.Claim.Ports, func(p string) bool { return !slices.Contains(ports, p) })
	g.Claim.Units = slices.DeleteFunc(g.Claim.Units, func(u string) bool { return slices.Contains(NVIDIAServices(), u) && !nvidia })
	return h.SaveLedger()
}

// keepByHand moves the guest's changes to functions that stay on vfio to those that are bound by hand, with what is claimed
// for these.
func (h *Host) keepByHand(uuid string) error {
	records, err := h.State.Records(uuid)
	if err != nil || uuid == HandUUID {
		return err
	}
	var stay []string
	var claim Claim
	had := Claim{}
	if g := h.Ledger.Guests[uuid]; g != nil {
		had = g.Claim
	}
	for _, r := range records {
		c, err := decode(r)
		if err != nil {
			continue
		}
		d, ok := c.(*PCIDriver)
		if !ok || !d.Stay {
			continue
		}
		if driver, err := h.PCIDriver(d.Address); err != nil || driver != d.To {
			continue // it never went there
		}
		stay = append(stay, d.Address)
		if class, err := h.PCIClass(d.Address); err == nil && class>>16 == 3 {
			claim.Console, claim.Framebuffer = had.Console, had.Framebuffer
		}
		if port, err := h.PCIPort(d.Address); err == nil && slices.Contains(had.Ports, port) {
			claim.Add(Claim{Ports: []string{port}})
		}
		for _, u := range had.Units {
			if d.From == "nvidia" && slices.Contains(NVIDIAServices(), u) {
				claim.Add(Claim{Units: []string{u}})
			}
		}
	}
	if len(stay) == 0 {
		return nil
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
	h.Logf(Info, "%s: stays on vfio until qemu-hook unbind, as gpu.give_back says", strings.Join(stay, ", "))
	return nil
}
