package prepare

import (
	"fmt"
	"maps"
	"slices"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/sysfs"
)

// guard says why the host cannot do without a function; nothing if the configuration forces it.
func guard(h *hook.Host, n *domain.Needs, address string) ([]string, error) {
	if slices.Contains(h.Config.PCI.Force, address) {
		return nil, nil
	}
	var reasons []string
	refuse := func(what string) {
		reasons = append(reasons, fmt.Sprintf("%s is needed by the host: %s; take another device, or say pci.force = [%q] in the configuration",
			h.FormatPCI(address), what, address))
	}
	vfio, err := h.IsVFIO(address)
	if err != nil {
		return nil, err
	}
	if !vfio { // else nothing of the host's is left below it
		watched, unseen := h.Wary()
		disks, interfaces, err := watched.Inhabitants(address)
		if err != nil {
			return nil, err
		}
		uses, err := diskUses(watched, disks)
		if err != nil {
			return nil, err
		}
		if len(uses) > 0 {
			refuse(someOf(uses))
		}
		for _, i := range interfaces {
			for _, use := range watched.NetUse(i) {
				refuse(i + " " + use)
			}
		}
		if err := unseen(); err != nil && len(reasons) == 0 {
			return nil, fmt.Errorf("cannot tell whether the host needs %s: %w", h.FormatPCI(address), err)
		}
	}
	vfs, err := h.VFs(address)
	if err != nil {
		return nil, err
	}
	for _, vf := range vfs {
		driver, err := h.PCIDriver(vf)
		if err != nil {
			return nil, err
		}
		if owner := h.Ledger.PCIOwner(vf, n.Guest.UUID); owner != nil {
			refuse(fmt.Sprintf("its virtual function %s is guest %s's", vf, owner.Name))
		} else if driver != "" {
			refuse(fmt.Sprintf("its virtual function %s is in use by %s", vf, driver))
		}
	}
	if display, err := displayCard(h, address); err != nil || !display {
		return reasons, err
	}
	for _, uuid := range slices.Sorted(maps.Keys(h.Ledger.Guests)) {
		g := h.Ledger.Guests[uuid]
		other := func(a string) bool { return a != address && slot(a) == slot(address) }
		if i := slices.IndexFunc(g.Claim.PCI, other); uuid != n.Guest.UUID && i >= 0 {
			refuse(fmt.Sprintf("guest %s has another function of the card, %s", g.Name, g.Claim.PCI[i]))
		}
	}
	return reasons, nil
}

// displayCard reports whether one of the functions of the slot is a display: a card is of one piece, where the ports of a
// network adapter are not.
func displayCard(h *hook.Host, address string) (bool, error) {
	all, err := h.List(sysfs.PCIBus + "/devices")
	if err != nil {
		return false, err
	}
	for _, a := range all {
		if slot(a) != slot(address) {
			continue
		}
		if display, err := h.PCIDisplay(a); err == nil && display {
			return true, nil
		}
	}
	return false, nil
}

// diskUses says what disks are used for.
func diskUses(h sysfs.FS, disks []string) ([]string, error) {
	if len(disks) == 0 {
		return nil, nil
	}
	usage, err := h.DiskUsage()
	if err != nil {
		return nil, err
	}
	var uses []string
	for _, d := range disks {
		for _, use := range usage.Of(d) {
			uses = append(uses, d+" "+use)
		}
	}
	return uses, nil
}

// someOf joins as many of the uses as a sentence can hold, and says how many more there are.
func someOf(uses []string) string {
	const enough = 120 // bytes; function and advice stand around it
	text := uses[0]
	for i, use := range uses[1:] {
		if len(text)+len(use) > enough {
			return fmt.Sprintf("%s, and %d more", text, len(uses)-1-i)
		}
		text += ", " + use
	}
	return text
}
