package prepare

import (
	"cmp"
	"context"
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
	if !claimsCPUs(h, n) {
		return p, nil
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
	online, err := h.OnlineCPUs()
	if err != nil {
		return p, err
	}
	isolated, err := h.IsolatedCPUs()
	if err != nil {
		return p, err
	}
	if absent := wanted.Minus(online); !absent.Empty() {
		p.Warn("the guest is pinned to CPUs %s, which are not online (%s are): QEMU may fail to start", absent, online)
	}
	cpus := wanted.Intersect(online).Minus(isolated)
	if cpus.Empty() {
		return p, nil
	}
	host, err := h.HostCPUs(cpus.Union(h.Ledger.Claims(n.Guest.UUID).CPUs))
	if err != nil {
		return p, err
	}
	if enough, err := enoughForHost(h, host); err != nil {
		return p, err
	} else if !enough {
		p.Warn("the host is not kept off the guest's CPUs %s: it would keep %s; leave it a core in the domain's <vcpupin>s, "+
			"or say cpus.min_host in the configuration", cpus, cmp.Or(host.String(), "none"))
		return p, nil
	}
	if err := h.CPUControl(); err != nil {
		p.Warn("the guest's CPUs %s are not kept free of the host: %v", cpus, err)
		return p, nil
	}
	p.Claim.CPUs = cpus
	p.Line("CPUs %s for the guest; %s for the host (%s)", cpus, host, strings.Join(h.Config.CPUs.Units, ", "))
	return p, nil
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
