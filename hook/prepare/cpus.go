package prepare

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
	"qemu-hook/hook"
)

// cpusStep keeps the host off the guest's CPUs.
type cpusStep struct{}

func (cpusStep) Name() string { return "cpus" }

func (cpusStep) Plan(_ context.Context, h *hook.Host, n *domain.Needs) (hook.Proposal, error) {
	var p hook.Proposal
	cpus, err := guestCPUs(h, n)
	if err != nil || cpus.wanted.Empty() {
		return p, err
	}
	if !cpus.absent.Empty() {
		p.Warn("the guest is pinned to CPUs %s, which are not online (%s are): QEMU may fail to start", cpus.absent, cpus.online)
	}
	if both := h.Config.CPUs.Host.Intersect(cpus.wanted); !both.Empty() {
		p.Note("CPUs %s are the guest's and also in cpus.host: the host's processes stay on them", both)
	}
	overlaps(h, n, cpus.wanted, &p)
	if err := splitCores(h, cpus, &p); err != nil {
		return p, err
	}
	claim := cpus.wanted.Minus(cpus.isolated)
	if claim.Empty() {
		return p, nil
	}
	if !cpus.enough {
		p.Warn("the host is not kept off the guest's CPUs %s: it would keep %s; leave it a core in the domain's <vcpupin>s, "+
			"or say cpus.min_host in the configuration", claim, cmp.Or(cpus.host.String(), "none"))
		return p, nil
	}
	if err := h.CPUControl(); err != nil {
		p.Warn("the guest's CPUs %s are not kept free of the host: %v", claim, err)
		return p, nil
	}
	p.Claim.CPUs = claim
	p.Line("CPUs %s for the guest; %s for the host (%s)", claim, cpus.host, strings.Join(h.Config.CPUs.Units, ", "))
	if h.Config.CPUs.Partition {
		planPartition(h, n, cpus.wanted, &p)
	}
	return p, nil
}

// planPartition claims that the guest's CPUs become isolated partitions.
func planPartition(h *hook.Host, n *domain.Needs, wanted cpuset.Set, p *hook.Proposal) {
	why := h.PartitionObstacle()
	if why == "" && n.SharedPins {
		why = "vCPUs of the guest share CPUs; pin each to its own"
	}
	if why != "" {
		p.Warn("cpus.partition cannot be had for the guest's CPUs %s: %s", wanted, why)
		return
	}
	p.Claim.Partition = n.Pinned.Intersect(wanted)
	p.Line("CPUs %s are isolated partitions once the guest runs", p.Claim.Partition)
}

// cpuPlan is how the CPUs are to be shared out while the guest runs.
type cpuPlan struct {
	wanted   cpuset.Set // what the guest is to have to itself, of those on line
	absent   cpuset.Set // what is not on line
	isolated cpuset.Set // what the kernel keeps free of processes by itself
	online   cpuset.Set
	host     cpuset.Set // what the host keeps
	enough   bool       // the host can do with that: without it nothing is taken from it
}

// free returns the CPUs that the host's interrupts and the like can be kept off, isolated by the kernel or not.
func (c cpuPlan) free() cpuset.Set {
	if !c.enough {
		return cpuset.Set{}
	}
	return c.wanted
}

// guestCPUs works out which CPUs the guest is to have to itself; none if the configuration does not name it.
func guestCPUs(h *hook.Host, n *domain.Needs) (cpuPlan, error) {
	var c cpuPlan
	if !claimsCPUs(h, n) {
		return c, nil
	}
	wanted := n.Pinned
	for _, threads := range h.Config.CPUs.Exclusive {
		switch threads {
		case hook.ExclusiveEmulator:
			wanted = wanted.Union(n.Emulator)
		case hook.ExclusiveIOThreads:
			wanted = wanted.Union(n.IOThreads)
		}
	}
	var err error
	if c.online, err = h.OnlineCPUs(); err != nil {
		return c, err
	}
	if c.isolated, err = h.IsolatedCPUs(); err != nil {
		return c, err
	}
	c.wanted, c.absent = wanted.Intersect(c.online), wanted.Minus(c.online)
	others := h.Ledger.Claims(n.Guest.UUID)
	if c.host, err = h.HostCPUs(c.wanted.Minus(c.isolated).Union(others.CPUs)); err != nil {
		return c, err
	}
	c.enough, err = enoughForHost(h, c.host)
	return c, err
}

// overlaps tells of other guests that have some of the CPUs to themselves.
func overlaps(h *hook.Host, n *domain.Needs, wanted cpuset.Set, p *hook.Proposal) {
	for uuid, g := range h.Ledger.Guests {
		both := wanted.Intersect(g.Claim.CPUs.Union(g.Claim.Interrupts))
		if uuid == n.Guest.UUID || both.Empty() {
			continue
		}
		if h.Config.CPUs.Overlap == hook.OverlapRefuse {
			p.Refuse("CPUs %s are also those of guest %s; correct the <vcpupin>s of one of them, or set cpus.overlap = \"warn\"", both, g.Name)
		} else {
			p.Note("CPUs %s are also those of guest %s: the two slow each other down", both, g.Name)
		}
	}
	slices.Sort(p.Refusals)
	slices.Sort(p.Notes)
}

// splitCores tells of cores whose threads are the guest's in part, and the host's.
func splitCores(h *hook.Host, cpus cpuPlan, p *hook.Proposal) error {
	if h.Config.CPUs.SplitCore == hook.SplitCoreIgnore {
		return nil
	}
	var ours, theirs cpuset.Set
	for cpu := range cpus.wanted.All() {
		core, err := h.CoreCPUs(cpu)
		if err != nil {
			return err
		}
		if shared := core.Intersect(cpus.host); !shared.Empty() {
			ours, theirs = ours.Union(cpuset.Of(cpu)), theirs.Union(shared)
		}
	}
	switch {
	case ours.Empty():
	case h.Config.CPUs.SplitCore == hook.SplitCoreRefuse:
		p.Refuse("the guest's CPUs %s share cores with the host's %s; pin the guest to whole cores, or set cpus.split_core = \"warn\"", ours, theirs)
	default:
		p.Note("the guest's CPUs %s share cores with the host's %s: each slows the other down; pin the guest to whole cores", ours, theirs)
	}
	return nil
}

// claimsCPUs reports whether the configuration has this guest's CPUs kept free.
func claimsCPUs(h *hook.Host, n *domain.Needs) bool {
	switch h.Config.CPUs.Isolate {
	case hook.IsolatePinned:
		return true
	case hook.IsolatePassthrough:
		return len(n.PCI) > 0
	}
	return false
}

// isQuiet reports whether the host is to be quiet while this guest runs: those that have CPUs to themselves, and in any
// case those with a PCI function.
func isQuiet(h *hook.Host, n *domain.Needs) bool { return claimsCPUs(h, n) || len(n.PCI) > 0 }

// enoughForHost reports whether the host would keep `cpus.min_host` CPUs; by default as many as a core of its own has.
func enoughForHost(h *hook.Host, host cpuset.Set) (bool, error) {
	if n := h.Config.CPUs.MinHost; n > 0 {
		return host.Len() >= n, nil
	}
	for cpu := range host.All() {
		core, err := h.CoreCPUs(cpu)
		return host.Len() >= core.Len(), err
	}
	return false, nil
}
