package prepare

import (
	"context"
	"slices"
	"strings"

	"qemu-hook/domain"
	"qemu-hook/hook"
)

// Advice says what could be better for the guest on this host, whether or not it starts: for `check`, which has the time
// to look. What cannot be seen is left out.
func (plan *Plan) Advice(ctx context.Context, h *hook.Host) []string {
	var p hook.Proposal
	if plan.needs != nil {
		pins(h, plan.needs, &p)
	}
	if !plan.Claim.CPUs.Empty() {
		bystanders(h, &p)
	}
	if len(plan.Claim.Settings) > 0 {
		competitors(ctx, h, plan, &p)
	}
	return p.Notes
}

// pins looks at where the guest's vCPUs are pinned.
func pins(h *hook.Host, n *domain.Needs, p *hook.Proposal) {
	if n.Pinned.Empty() {
		return
	}
	fast, small, err := h.CoreKinds()
	if a, b := n.Pinned.Intersect(fast), n.Pinned.Intersect(small); err == nil && !a.Empty() && !b.Empty() {
		p.Note("the vCPUs are pinned to fast cores (CPUs %s) and to small ones (%s): the guest takes all for equal; pin it to one kind", a, b)
	}
	caches, err := h.LastLevelCaches(n.Pinned)
	if err == nil && len(caches) > 1 {
		var parts []string
		for _, c := range caches {
			parts = append(parts, c.Intersect(n.Pinned).String())
		}
		p.Note("the vCPUs are pinned to CPUs of %d third-level caches (%s): what they share goes through memory; pin them to one, if it has enough",
			len(caches), strings.Join(parts, " | "))
	}
	nodes, err := h.NodesOf(n.Pinned)
	if err != nil {
		return
	}
	if nodes.Len() > 1 {
		p.Note("the vCPUs are pinned to CPUs of NUMA nodes %s: give the guest <numa> cells that are like them, or pin it to one node", nodes)
	}
	for _, m := range n.Memory {
		if far := m.HostNodes.Minus(nodes); !far.Empty() {
			p.Note("the guest has memory on NUMA node %s, and its vCPUs are pinned to node %s: correct <numatune> or the <vcpupin>s", far, nodes)
			break
		}
	}
}

// bystanders looks for what runs on the guest's CPUs although the host's units are kept off them.
func bystanders(h *hook.Host, p *hook.Proposal) {
	groups, err := h.TopCgroups()
	if err == nil {
		groups = slices.DeleteFunc(groups, func(g string) bool {
			return g == "machine.slice" || g == "init.scope" || slices.Contains(h.Config.CPUs.Units, g)
		})
	}
	if len(groups) > 0 {
		p.Note("processes of %s are not kept off the guest's CPUs: add it to cpus.units, if it is systemd's", strings.Join(groups, ", "))
	}
	if scopes, err := h.Unpinned(); err == nil && len(scopes) > 0 && !h.Config.CPUs.ConfineGuests {
		p.Note("guests that are pinned nowhere run on the guest's CPUs too (%s): set cpus.confine_guests = true", strings.Join(scopes, ", "))
	}
	if h.KernelBefore(6, 2) {
		p.Note("this kernel forgets which CPUs a process of the host had chosen for itself (taskset) when its slice is narrowed; Linux 6.2 keeps it")
	}
}

// competitors looks for daemons that set frequencies too.
func competitors(ctx context.Context, h *hook.Host, plan *Plan, p *hook.Proposal) {
	frequency := false
	for file := range plan.Claim.Settings {
		frequency = frequency || hook.IsFrequency(file)
	}
	if !frequency || !h.Exists("/run/systemd/system") {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for _, unit := range []string{"power-profiles-daemon.service", "tuned.service", "tuned-ppd.service", "auto-cpufreq.service", "tlp.service"} {
		if runs, err := h.Systemd.UnitRuns(ctx, unit); err == nil && runs {
			p.Note("%s runs and sets the frequency of CPUs too: what it changes while the guest runs is left so; have it leave that to one of the two", unit)
		}
	}
}
