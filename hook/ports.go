package hook

import (
	"errors"
	"slices"

	"qemu-hook/sysfs"
)

// TakePorts keeps the ports above the guest's functions awake: a card behind a port that sleeps cannot be reached. Two
// cards may share a port, so this is a claim.
func (h *Host) TakePorts(uuid string) error {
	g := h.Ledger.Guests[uuid]
	if g == nil {
		return nil
	}
	for _, port := range g.Claim.Ports {
		if h.Ledger.Ports[port] == nil {
			before, err := h.PCIPower(port)
			if err != nil {
				return err
			}
			if before.Awake() {
				continue
			}
			if h.Ledger.Ports == nil {
				h.Ledger.Ports = map[string]*sysfs.PCIPower{}
			}
			h.Ledger.Ports[port] = &before
			if err := h.SaveLedger(); err != nil {
				return err
			}
		}
		if err := h.KeepPCIAwake(port); err != nil {
			return err
		}
	}
	return nil
}

// SettlePorts gives ports that no guest claims any more their power management back, where it still is as it was set.
func (h *Host) SettlePorts() error {
	var errs error
	changed := false
	claimed := h.Ledger.Claims("").Ports
	for _, port := range sortedKeys(h.Ledger.Ports) {
		if slices.Contains(claimed, port) {
			continue
		}
		if err := h.RestorePCIPower(port, *h.Ledger.Ports[port]); err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		delete(h.Ledger.Ports, port)
		changed = true
	}
	if changed {
		errs = errors.Join(errs, h.SaveLedger())
	}
	return errs
}
