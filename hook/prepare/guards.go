package prepare

import (
	"fmt"
	"slices"
	"strings"

	"qemu-hook/domain"
	"qemu-hook/hook"
)

// guard says why the host cannot do without a function; nothing if the configuration forces it.
func guard(h *hook.Host, n *domain.Needs, address string) ([]string, error) {
	if vfio, err := h.IsVFIO(address); err != nil || vfio || slices.Contains(h.Config.PCI.Force, address) {
		return nil, err
	}
	var reasons []string
	refuse := func(what string) {
		reasons = append(reasons, fmt.Sprintf("%s is needed by the host: %s; take another device, or say pci.force = [%q] in the configuration",
			h.FormatPCI(address), what, address))
	}
	disks, interfaces, err := h.Inhabitants(address)
	if err != nil {
		return nil, err
	}
	uses, err := diskUses(h, disks)
	if err != nil {
		return nil, err
	}
	if len(uses) > 0 {
		refuse(strings.Join(uses, ", "))
	}
	for _, i := range interfaces {
		for _, use := range h.NetUse(i) {
			refuse(i + " " + use)
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
	for uuid, g := range h.Ledger.Guests {
		other := func(a string) bool { return a != address && slot(a) == slot(address) }
		if i := slices.IndexFunc(g.Claim.PCI, other); uuid != n.Guest.UUID && i >= 0 {
			refuse(fmt.Sprintf("guest %s has another function of the card, %s", g.Name, g.Claim.PCI[i]))
		}
	}
	return reasons, nil
}

// diskUses says what disks are used for.
func diskUses(h *hook.Host, disks []string) ([]string, error) {
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
