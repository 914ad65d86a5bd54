package prepare

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/sysfs"
)

// pciStep has every PCI function that the guest asks for on its vfio driver.
type pciStep struct{}

func (pciStep) Name() string { return "pci" }

func (pciStep) Plan(_ context.Context, h *hook.Host, n *domain.Needs) (hook.Proposal, error) {
	var p hook.Proposal
	if len(n.PCI) == 0 {
		return p, nil
	}
	aliases, err := h.VFIOAliases()
	if err != nil {
		return p, err
	}
	iommuOff := false
	for _, f := range n.PCI {
		if !h.Exists(sysfs.PCIDevice(f.Address)) {
			p.Refuse("PCI function %s does not exist; see lspci -D for those that do, and correct the domain's <hostdev>", f.Address)
			continue
		}
		if why, wedged := h.Ledger.Wedged[f.Address]; wedged {
			// Its other files wait for the same lock in the kernel as the write that never returned.
			p.Refuse("%s is stuck in the kernel: %s", f.Address, why)
			continue
		}
		if bridge, err := h.PCIBridge(f.Address); err != nil {
			return p, err
		} else if bridge {
			p.Refuse("%s is a bridge, and only endpoints can be passed through; correct the domain's <hostdev>", h.FormatPCI(f.Address))
			continue
		}
		if owner := h.Ledger.PCIOwner(f.Address, n.Guest.UUID); owner != nil {
			p.Refuse("%s is taken by guest %s; stop that guest, or if it runs no longer: qemu-hook recover %s", h.FormatPCI(f.Address), owner.Name, hook.QuoteName(owner.Name))
			continue
		}
		group, err := h.PCIGroup(f.Address)
		if err != nil {
			return p, err
		}
		if group == "" {
			iommuOff = true
			continue
		}
		if err := viable(h, n, f.Address, group, &p); err != nil {
			return p, err
		}
		change, err := planDriver(h, f, aliases, &p)
		if err != nil {
			return p, err
		}
		p.Changes = append(p.Changes, change)
		p.Claim.PCI = append(p.Claim.PCI, f.Address)
	}
	if iommuOff {
		p.Refuse("the IOMMU is off: the guest's PCI functions are in no IOMMU group; " +
			"turn on VT-d or AMD-Vi in the firmware, and on Intel boot with intel_iommu=on")
	}
	return p, nil
}

// planDriver plans the function's way from its driver to the vfio driver that libvirt would choose.
func planDriver(h *hook.Host, f domain.Function, aliases []sysfs.VFIOAlias, p *hook.Proposal) (*hook.PCIDriver, error) {
	vfio, err := h.VFIODriver(f.Address, f.Driver, aliases)
	if err != nil {
		return nil, err
	}
	if vfio.Module != "" {
		if err := h.ModuleAvailable(vfio.Module); err != nil {
			p.Refuse("cannot bind %s to %s: %v", f.Address, vfio.Name, err)
		}
	}
	c := &hook.PCIDriver{Address: f.Address, To: vfio.Name, Module: vfio.Module}
	if c.ID, err = h.PCIID(f.Address); err != nil {
		return nil, err
	}
	if c.From, err = h.PCIDriver(f.Address); err != nil {
		return nil, err
	}
	c.FromOverride, err = h.PCIOverride(f.Address)
	return c, err
}

// viable refuses a function whose IOMMU group holds another that a host driver keeps: the kernel gives a group to a
// guest as a whole or not at all (Documentation/driver-api/vfio.rst).
func viable(h *hook.Host, n *domain.Needs, address, group string, p *hook.Proposal) error {
	siblings, err := h.IOMMUGroup(group)
	if err != nil {
		return err
	}
	var blocking []string
	for _, s := range siblings {
		if asks(n, s) {
			continue
		}
		if owner := h.Ledger.PCIOwner(s, n.Guest.UUID); owner != nil {
			p.Refuse("%s shares IOMMU group %s with %s, which guest %s has; stop that guest, or if it runs no longer: qemu-hook recover %s",
				address, group, s, owner.Name, hook.QuoteName(owner.Name))
			continue
		}
		inWay, err := inTheWay(h, s)
		if err != nil {
			return err
		}
		if inWay {
			blocking = append(blocking, h.FormatPCI(s))
		}
	}
	if len(blocking) == 0 {
		return nil
	}
	reason := fmt.Sprintf("IOMMU group %s of %s is not viable: %s stays on a host driver; "+
		"add it to the domain as <hostdev>, with <address type='unassigned'/> if the guest shall not see it",
		group, address, strings.Join(blocking, ", "))
	// Each function of the group meets the same siblings: one sentence for the group does.
	if !slices.ContainsFunc(p.Refusals, func(r string) bool { return strings.HasPrefix(r, "IOMMU group "+group+" of ") }) {
		p.Refuse("%s", reason)
	}
	return nil
}

// asks reports whether the domain takes the function too, through the hook or through libvirt.
func asks(n *domain.Needs, address string) bool {
	return slices.Contains(n.LibvirtPCI, address) ||
		slices.ContainsFunc(n.PCI, func(f domain.Function) bool { return f.Address == address })
}

// inTheWay reports whether the function, left as it is, keeps its group from a guest.
func inTheWay(h *hook.Host, address string) (bool, error) {
	driver, err := h.PCIDriver(address)
	if err != nil || driver == "" || driver == "pci-stub" {
		return false, err
	}
	if vfio, err := h.IsVFIO(address); err != nil || vfio {
		return false, err
	}
	bridge, err := h.PCIBridge(address)
	return !bridge, err
}
