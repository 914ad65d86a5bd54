package prepare

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	functions, err := functionsOf(h, n)
	if err != nil || len(functions) == 0 {
		return p, err
	}
	aliases, err := h.VFIOAliases()
	if err != nil {
		return p, err
	}
	refuseTaken(h, n, functions, &p)
	if functions, err = inOrder(h, functions); err != nil {
		return p, err
	}
	iommuOff := false
	var power, drivers []hook.Change
	for _, f := range functions {
		if ok, err := available(h, n, f.Address, &p); err != nil || !ok {
			if err != nil {
				return p, err
			}
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
		if err := viable(h, n, functions, f.Address, group, &p); err != nil {
			return p, err
		}
		reasons, err := guard(h, n, f.Address)
		if err != nil {
			return p, err
		}
		p.Refusals = append(p.Refusals, reasons...)
		before, changes, err := planFunction(h, n, f, functions, aliases, &p)
		if err != nil {
			return p, err
		}
		power, drivers = append(power, before...), append(drivers, changes...)
		if n.Guest.UUID != hook.HandUUID {
			p.Claim.PCI = append(p.Claim.PCI, f.Address)
		}
	}
	p.Changes = append(power, drivers...)
	if iommuOff {
		p.Refuse("the IOMMU is off: the guest's PCI functions are in no IOMMU group; %s", iommuRemedy(h))
	}
	return p, nil
}

// functionsOf returns the functions that the domain names and, where the configuration says so, those that share slot and
// IOMMU group with one of them.
func functionsOf(h *hook.Host, n *domain.Needs) ([]domain.Function, error) {
	functions := slices.Clone(n.PCI)
	if h.Config.PCI.Siblings != hook.SiblingsBind {
		return functions, nil
	}
	for _, f := range n.PCI {
		group, err := h.PCIGroup(f.Address)
		if err != nil || group == "" {
			continue // the step pci says so
		}
		members, err := h.IOMMUGroup(group)
		if err != nil {
			return nil, err
		}
		for _, m := range members {
			known := func(o domain.Function) bool { return o.Address == m }
			if slot(m) != slot(f.Address) || slices.Contains(n.LibvirtPCI, m) || slices.ContainsFunc(functions, known) {
				continue
			}
			if bridge, err := h.PCIBridge(m); err != nil {
				return nil, err
			} else if !bridge {
				functions = append(functions, domain.Function{Address: m})
			}
		}
	}
	return functions, nil
}

// slot returns a PCI address without its function.
func slot(address string) string {
	s, _, _ := strings.Cut(address, ".")
	return s
}

// inOrder returns the functions in the order in which they leave the host: sound first, whose users let go when they are
// told, then whatever else the card has, the display last. They come back the other way round.
func inOrder(h *hook.Host, functions []domain.Function) ([]domain.Function, error) {
	rank := map[string]int{}
	for _, f := range functions {
		class, err := h.PCIClass(f.Address)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // one that does not exist is refused
			return nil, err
		}
		switch class >> 16 {
		case 0x04:
			rank[f.Address] = 0
		case 0x03:
			rank[f.Address] = 2
		default:
			rank[f.Address] = 1
		}
	}
	ordered := slices.Clone(functions)
	slices.SortStableFunc(ordered, func(a, b domain.Function) int { return rank[a.Address] - rank[b.Address] })
	return ordered, nil
}

// refuseTaken refuses the functions that other guests have, all of one guest in one sentence.
func refuseTaken(h *hook.Host, n *domain.Needs, functions []domain.Function, p *hook.Proposal) {
	var owners []*hook.Guest
	taken := map[*hook.Guest][]string{}
	for _, f := range functions {
		owner := h.Ledger.PCIOwner(f.Address, n.Guest.UUID)
		if owner == nil || !h.Exists(sysfs.PCIDevice(f.Address)) {
			continue
		}
		if taken[owner] == nil {
			owners = append(owners, owner)
		}
		taken[owner] = append(taken[owner], h.FormatPCI(f.Address))
	}
	for _, o := range owners {
		verb := "is"
		if len(taken[o]) > 1 {
			verb = "are"
		}
		p.Refuse("%s %s taken by guest %s; stop that guest, or if it runs no longer: qemu-hook recover %s",
			strings.Join(taken[o], ", "), verb, o.Name, hook.QuoteName(o.Name))
	}
}

// available refuses a function that is not there, cannot be passed through or is stuck; ok is false for those that other
// guests have, too.
func available(h *hook.Host, n *domain.Needs, address string, p *hook.Proposal) (ok bool, err error) {
	there, err := h.Has(sysfs.PCIDevice(address))
	if err != nil || there && h.Ledger.PCIOwner(address, n.Guest.UUID) != nil {
		return false, err
	}
	if !there {
		p.Refuse("PCI function %s does not exist; see lspci -D for those that do, and correct the domain's <hostdev>", address)
		return false, nil
	}
	if why := h.Stuck(address); why != "" {
		// Its other files wait for the same lock in the kernel as the write that never returned.
		p.Refuse("%v", &hook.StuckError{Address: address, Why: why})
		return false, nil
	}
	bridge, err := h.PCIBridge(address)
	if bridge {
		p.Refuse("%s is a bridge, and only endpoints can be passed through; correct the domain's <hostdev>", h.FormatPCI(address))
	}
	return !bridge, err
}

// planFunction plans the function's way from its driver to the vfio driver that libvirt would choose: what is done before
// all functions, and the way itself.
func planFunction(h *hook.Host, n *domain.Needs, f domain.Function, functions []domain.Function, aliases []sysfs.VFIOAlias, p *hook.Proposal) (before, way []hook.Change, err error) {
	vfio, err := h.VFIODriver(f.Address, f.Driver, aliases)
	if err != nil {
		return nil, nil, err
	}
	if vfio.Module != "" {
		if err := h.ModuleAvailable(vfio.Module); err != nil {
			p.Refuse("cannot bind %s to %s: %v", f.Address, vfio.Name, err)
		}
	}
	recorded, err := h.Recorded(n.Guest.UUID)
	if err != nil {
		return nil, nil, err
	}
	now, err := h.PCIDriver(f.Address)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range recorded {
		switch d, ok := r.(*hook.PCIDriver); {
		case r.Subject() != f.Address:
		case !ok:
			before = append(before, r)
		case d.To == vfio.Name && d.From != d.To && d.From != now:
			way = []hook.Change{d}
		}
	}
	if way != nil {
		// An earlier prepare has moved it: this one completes that.
		return before, way, claimPort(h, f.Address, p)
	}
	before = nil
	c := &hook.PCIDriver{
		Address: f.Address, To: vfio.Name, Module: vfio.Module, From: now,
		Stay: h.Config.GPU.GiveBack[f.Address] == hook.GiveBackStay, Rescan: h.Config.GPU.Rescan,
	}
	if c.ID, err = h.PCIID(f.Address); err != nil {
		return nil, nil, err
	}
	if c.FromOverride, err = h.PCIOverride(f.Address); err != nil {
		return nil, nil, err
	}
	if c.From == c.To {
		// It stays where it is, asleep if it sleeps.
		c.Stay = false
		if len(h.Config.GPU.ResizeBAR[f.Address]) > 0 || h.Config.GPU.ResetMethod[f.Address] != "" {
			p.Note("%s is on %s already: gpu.resize_bar and gpu.reset_method leave it as it is", f.Address, c.To)
		}
		return nil, []hook.Change{c}, nil
	}
	power, err := h.PCIPower(f.Address)
	if err != nil {
		return nil, nil, err
	}
	if power.Awake() {
		if answers, err := h.PCIAnswers(f.Address); err == nil && !answers {
			p.Refuse("%s does not answer: its configuration space reads all ones; the card is off the bus, and as a rule only a reboot helps", f.Address)
		}
	} else {
		before = append(before, &hook.PCIPower{Address: f.Address, ID: c.ID, PCIPower: power})
	}
	if err := claimPort(h, f.Address, p); err != nil {
		return nil, nil, err
	}
	if err := planBARs(h, c, p); err != nil {
		return nil, nil, err
	}
	persistence, err := planHostDriver(h, c, functions, p)
	if err != nil {
		return nil, nil, err
	}
	if persistence != nil {
		before = append(before, persistence)
	}
	return before, []hook.Change{c}, nil
}

// claimPort claims that the port above a function stays awake, unless it does so anyway.
func claimPort(h *hook.Host, address string, p *hook.Proposal) error {
	port, err := h.PCIPort(address)
	if err != nil || port == "" || slices.Contains(p.Claim.Ports, port) {
		return err
	}
	power, err := h.PCIPower(port)
	if err == nil && (!power.Awake() || h.Ledger.Ports[port] != nil) {
		p.Claim.Ports = append(p.Claim.Ports, port)
	}
	return err
}

// planBARs plans what the configuration says of the function's BARs and of its reset, as far as the kernel offers it.
func planBARs(h *hook.Host, c *hook.PCIDriver, p *hook.Proposal) error {
	for _, b := range h.Config.GPU.ResizeBAR[c.Address] {
		sizes, err := h.BARSizes(c.Address, b.BAR)
		if err != nil {
			return err
		}
		now, err := h.BARBytes(c.Address, b.BAR)
		if err != nil {
			return err
		}
		if now == b.Bytes {
			continue
		}
		if !slices.Contains(sizes, b.Bytes) {
			p.Refuse("BAR %d of %s cannot have %s, only %s; correct gpu.resize_bar in the configuration",
				b.BAR, c.Address, hook.FormatBytes(b.Bytes), formatSizes(sizes, now))
			continue
		}
		c.BARs = append(c.BARs, b)
		c.FromBARs = append(c.FromBARs, hook.BARSize{BAR: b.BAR, Bytes: now})
	}
	reset := h.Config.GPU.ResetMethod[c.Address]
	if reset == "" {
		return nil
	}
	now, err := h.ResetMethod(c.Address)
	if err != nil || now == reset {
		return err
	}
	offered, err := h.OffersReset(c.Address, reset)
	if err != nil {
		return err
	}
	if !offered {
		p.Refuse("%s cannot be reset by %q, only by %q; correct gpu.reset_method in the configuration", c.Address, reset, now)
		return nil
	}
	c.Reset, c.FromReset = reset, now
	return nil
}

func formatSizes(sizes []uint64, now uint64) string {
	if len(sizes) == 0 {
		return hook.FormatBytes(now) + " as it has"
	}
	var all []string
	for _, s := range sizes {
		all = append(all, hook.FormatBytes(s))
	}
	return strings.Join(all, ", ")
}

// planHostDriver notes the modules of the function's driver, and finds a way by which the driver lets go. NVIDIA's waits in
// its unbind, for ever, for the last user to go. Where no other card needs it, its modules are unloaded instead, which the
// kernel refuses as long as anybody uses them. Where the host keeps another card, the persistence mode of this one has to
// be off, and the version one that does not count itself as a user.
func planHostDriver(h *hook.Host, c *hook.PCIDriver, functions []domain.Function, p *hook.Proposal) (persistence hook.Change, err error) {
	module, err := h.DriverModule(c.From)
	if c.From == "" || module == "" || err != nil {
		return nil, err
	}
	if c.From != "nvidia" {
		c.HostModules = []string{module}
		return nil, nil
	}
	if c.HostModules, err = h.ModuleStack(module); err != nil {
		return nil, err
	}
	var moving []string
	for _, f := range functions {
		moving = append(moving, f.Address)
	}
	stays, err := othersOn(h, c.From, moving)
	if err != nil {
		return nil, err
	}
	if len(stays) == 0 {
		c.Unload = true
		return nil, nil
	}
	if holds, why, err := h.NVIDIAHoldsItself(); err != nil {
		return nil, err
	} else if holds {
		p.Refuse("%s cannot leave its driver while the host keeps %s: %s; use a newer driver, or boot with nvidia_drm.modeset=0, "+
			"or with vfio-pci.ids=%s", h.FormatPCI(c.Address), stays[0], why, c.ID)
	}
	program, err := nvidiaSMI(h)
	if err != nil {
		p.Refuse("cannot tell whether %s is in persistence mode, and so in use: %v; say gpu.nvidia_smi in the configuration", h.FormatPCI(c.Address), err)
		return nil, nil
	}
	return &hook.Persistence{Address: c.Address, Program: program}, nil
}

// nvidiaSMI returns the path of nvidia-smi.
func nvidiaSMI(h *hook.Host) (string, error) {
	places := []string{h.Config.GPU.NvidiaSMI}
	if places[0] == "" {
		places = []string{"/usr/bin/nvidia-smi", "/run/current-system/sw/bin/nvidia-smi", "/opt/bin/nvidia-smi"}
	}
	for _, p := range places {
		if h.Exists(p) {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s does not exist", places[0])
}

// viable refuses a function whose IOMMU group holds another that a host driver keeps: the kernel gives a group to a
// guest as a whole or not at all (Documentation/driver-api/vfio.rst).
func viable(h *hook.Host, n *domain.Needs, functions []domain.Function, address, group string, p *hook.Proposal) error {
	siblings, err := h.IOMMUGroup(group)
	if err != nil {
		return err
	}
	var blocking []string
	for _, s := range siblings {
		if asks(n, functions, s) {
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

// verifyGroups looks once more whether the groups can be given to the guest: another driver may have taken a function of
// theirs meanwhile.
func verifyGroups(h *hook.Host, n *domain.Needs) error {
	functions, err := functionsOf(h, n)
	if err != nil {
		return err
	}
	var p hook.Proposal
	for _, f := range functions {
		group, err := h.PCIGroup(f.Address)
		if err != nil {
			return err
		}
		if err := viable(h, n, functions, f.Address, group, &p); err != nil {
			return err
		}
	}
	if len(p.Refusals) > 0 {
		return &hook.Refusal{Guest: n.Guest.Name, Reasons: p.Refusals}
	}
	return nil
}

// asks reports whether the domain takes the function too, through the hook or through libvirt.
func asks(n *domain.Needs, functions []domain.Function, address string) bool {
	return slices.Contains(n.LibvirtPCI, address) ||
		slices.ContainsFunc(functions, func(f domain.Function) bool { return f.Address == address })
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
