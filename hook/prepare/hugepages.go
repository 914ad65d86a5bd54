package prepare

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/sysfs"
)

// hugepagesStep has as many free huge pages as the guest's memory takes, on the nodes it takes them from.
type hugepagesStep struct{}

func (hugepagesStep) Name() string { return "hugepages" }

func (hugepagesStep) Plan(_ context.Context, h *hook.Host, n *domain.Needs) (hook.Proposal, error) {
	var p hook.Proposal
	if len(n.Memory) == 0 {
		return p, planCompaction(h, n, &p)
	}
	requests, err := pageRequests(h, n, &p)
	if err != nil || len(p.Refusals) > 0 {
		return p, err
	}
	b := budget{h: h, uuid: n.Guest.UUID, pools: map[sysfs.Pool]*poolBudget{}}
	for _, r := range requests {
		if err := b.place(r, &p); err != nil {
			return p, err
		}
	}
	if err := b.checkReserve(&p); err != nil {
		return p, err
	}
	b.describe(&p)
	return p, warnUnmounted(h, requests, &p)
}

// planCompaction compacts memory for a guest that has none in huge pages of its own, where the configuration says so.
func planCompaction(h *hook.Host, n *domain.Needs, p *hook.Proposal) error {
	if h.Config.Compact != hook.Always || !isQuiet(h, n) {
		return nil
	}
	if zfs, err := h.ModuleLoaded("zfs"); err != nil {
		return err
	} else if zfs {
		p.Note("memory is not compacted: ZFS is loaded, which has made kernels crash then (openzfs/zfs issue 15140)")
		return nil
	}
	nodes, err := h.NodesOf(n.Pinned)
	if err == nil && nodes.Empty() {
		nodes, err = h.MemoryNodes()
	}
	if err != nil {
		return err
	}
	p.Compact = slices.Collect(nodes.All())
	p.Line("memory of node %s is compacted, for transparent huge pages", nodes)
	return nil
}

// A pageRequest is a number of pages of one size and where they may be.
type pageRequest struct {
	kib   uint64
	count uint64
	nodes []int // in order of preference
	// bound says that no other node will do.
	bound bool
	// spread says that the pages are dealt out evenly to the nodes.
	spread bool
}

// pageRequests turns the guest's memory backends into pages: exactly backend size / page size.
func pageRequests(h *hook.Host, n *domain.Needs, p *hook.Proposal) ([]pageRequest, error) {
	sizes, err := h.HugePageSizes()
	if err != nil {
		return nil, err
	}
	nodes, err := h.MemoryNodes()
	if err != nil {
		return nil, err
	}
	preferred, err := preferredNodes(h, n, nodes)
	if err != nil {
		return nil, err
	}
	var requests []pageRequest
	for _, m := range n.Memory {
		kib := m.PageKiB
		if kib == 0 {
			if kib, err = h.DefaultHugePageKiB(); err != nil {
				return nil, err
			}
		}
		if !slices.Contains(sizes, kib) {
			p.Refuse("the host has no huge pages of %d KiB, only of %s; correct <page size=…> in the domain's <memoryBacking>", kib, sizeList(sizes))
			continue
		}
		if m.Bytes%(kib<<10) != 0 {
			p.Refuse("the guest's memory of %d KiB on node %d is no multiple of its %d KiB pages: %d KiB too many; correct <memory> or the <cell>",
				m.Bytes>>10, m.GuestNode, kib, m.Bytes>>10%kib)
			continue
		}
		if absent := m.HostNodes.Minus(nodes); !absent.Empty() {
			p.Refuse("the domain wants memory on node %s, and the host has some on %s only; correct <numatune>", absent, nodes)
			continue
		}
		r := pageRequest{kib: kib, count: m.Bytes / (kib << 10), nodes: preferred}
		if !m.HostNodes.Empty() {
			r.nodes = slices.Collect(m.HostNodes.All())
			// "restrictive" leaves the choice to the cgroup, which holds QEMU to the same nodes.
			r.bound = m.Mode == "strict" || m.Mode == "restrictive"
			r.spread = m.Mode == "interleave"
		}
		requests = append(requests, r)
	}
	if len(requests) > 0 {
		requests[0].count += h.Config.Hugepages.Extra
	}
	return requests, nil
}

// preferredNodes returns all nodes with memory: first those of the vCPUs' pins, then those with the most memory free.
func preferredNodes(h *hook.Host, n *domain.Needs, nodes cpuset.Set) ([]int, error) {
	near, err := h.NodesOf(n.Pinned)
	if err != nil {
		return nil, err
	}
	free := map[int]uint64{}
	for node := range nodes.All() {
		m, err := h.NodeMemory(node)
		if err != nil {
			return nil, err
		}
		free[node] = m.Free
	}
	order := slices.Collect(nodes.All())
	slices.SortStableFunc(order, func(a, b int) int {
		if near.Contains(a) != near.Contains(b) {
			if near.Contains(a) {
				return -1
			}
			return 1
		}
		return cmp.Compare(free[b], free[a])
	})
	return order, nil
}

func sizeList(sizes []uint64) string {
	if len(sizes) == 0 {
		return "no size at all"
	}
	var s []string
	for _, kib := range sizes {
		s = append(s, fmt.Sprintf("%d KiB", kib))
	}
	return strings.Join(s, ", ")
}

// A budget deals the pools' pages out to the guest's requests.
type budget struct {
	h     *hook.Host
	uuid  string
	pools map[sysfs.Pool]*poolBudget
	order []sysfs.Pool
}

// A poolBudget counts one pool's pages.
type poolBudget struct {
	free     uint64 // to be had as they are
	lacking  uint64 // to be added first, for what others have coming
	room     uint64 // by which the pool can grow
	doubtful bool   // the room hangs on ZFS' cache
	claimed  uint64
	missing  uint64 // of claimed, to be added
	bound    bool   // no other node will do for some of claimed
}

func (b *budget) pool(p sysfs.Pool) (*poolBudget, error) {
	if pb := b.pools[p]; pb != nil {
		return pb, nil
	}
	pb := new(poolBudget)
	there, err := b.h.HasPool(p)
	if err != nil {
		return nil, err
	}
	if there {
		if pb.free, pb.lacking, err = b.h.AvailablePages(p, b.uuid); err != nil {
			return nil, err
		}
		if pb.room, pb.doubtful, err = b.h.PoolCapacity(p); err != nil {
			return nil, err
		}
		// Pools of another size on this node draw on the same memory.
		for other, ob := range b.pools {
			if other.Node == p.Node {
				pb.room -= min(pb.room, ob.missing*other.KiB/p.KiB)
			}
		}
	}
	b.pools[p] = pb
	b.order = append(b.order, p)
	return pb, nil
}

// place finds pages for a request: on its nodes in order what is free, then what can be added; then, if the guest
// does not mind, on others.
func (b *budget) place(r pageRequest, p *hook.Proposal) error {
	nodes := r.nodes
	if !r.bound {
		all, err := b.h.MemoryNodes()
		if err != nil {
			return err
		}
		rest := all.Minus(cpuset.Of(r.nodes...))
		nodes = append(slices.Clone(nodes), slices.Collect(rest.All())...)
	}
	left := r.count
	if r.spread {
		for i, node := range r.nodes {
			share := left / uint64(len(r.nodes)-i)
			got, err := b.take(sysfs.Pool{KiB: r.kib, Node: node}, share, true)
			if err != nil {
				return err
			}
			left -= got
		}
	}
	for _, grow := range []bool{false, true} {
		for _, node := range nodes {
			// Free pages far away are worth less than new ones where the guest wants its memory.
			if !grow && !slices.Contains(r.nodes, node) {
				continue
			}
			got, err := b.take(sysfs.Pool{KiB: r.kib, Node: node}, left, grow)
			if err != nil {
				return err
			}
			left -= got
		}
	}
	for _, node := range nodes {
		pb := b.pools[sysfs.Pool{KiB: r.kib, Node: node}]
		pb.bound = pb.bound || r.bound
	}
	if left > 0 {
		b.refuse(r, left, nodes, p)
	}
	return nil
}

// take claims up to n pages of a pool: the free ones, and with grow those it can grow by. Room that hangs on ZFS'
// cache counts as boundless here; whether it is there only the kernel can tell.
func (b *budget) take(p sysfs.Pool, n uint64, grow bool) (uint64, error) {
	pb, err := b.pool(p)
	if err != nil {
		return 0, err
	}
	free := min(pb.free, n)
	pb.free -= free
	added := uint64(0)
	if grow {
		added = min(n-free, pb.room-min(pb.room, pb.lacking))
		if pb.doubtful {
			added = n - free
		}
		if added > 0 {
			pb.missing += added + pb.lacking
			pb.room -= min(pb.room, added+pb.lacking)
			pb.lacking = 0
		}
	}
	pb.claimed += free + added
	return free + added, nil
}

func (b *budget) refuse(r pageRequest, left uint64, nodes []int, p *hook.Proposal) {
	var where []string
	for _, node := range nodes {
		m, err := b.h.NodeMemory(node)
		if err != nil {
			continue
		}
		where = append(where, fmt.Sprintf("node %d has %s free and %s reclaimable",
			node, hook.FormatBytes(m.Free), hook.FormatBytes(m.Reclaimable)))
	}
	say := p.Short
	if all, err := b.total(nodes); err == nil && r.count*r.kib<<10 > all {
		say = p.Refuse // whatever is stopped
	}
	say("cannot get %d huge pages of %d KiB: %d (%s) are missing; %s; close programs, lower the guest's <memory>, or reserve pages at boot",
		r.count, r.kib, left, hook.FormatBytes(left*r.kib<<10), strings.Join(where, ", "))
}

// total is all the memory of nodes.
func (b *budget) total(nodes []int) (uint64, error) {
	var all uint64
	for _, node := range nodes {
		m, err := b.h.NodeMemory(node)
		if err != nil {
			return 0, err
		}
		all += m.Total
	}
	return all, nil
}

// checkReserve refuses what would leave the host less memory than `hugepages.host_reserve`.
func (b *budget) checkReserve(p *hook.Proposal) error {
	if len(p.Refusals)+len(p.Shortages) > 0 {
		return nil
	}
	var missing uint64
	for pool, pb := range b.pools {
		missing += pb.missing * pool.KiB << 10
	}
	if missing == 0 {
		return nil
	}
	nodes, err := b.h.MemoryNodes()
	if err != nil {
		return err
	}
	var have uint64
	for node := range nodes.All() {
		m, err := b.h.NodeMemory(node)
		if err != nil {
			return err
		}
		have += m.Free + m.Reclaimable
	}
	arc, zfs := b.h.ZFSCacheBytes()
	have += arc
	reserve := b.h.Config.Hugepages.HostReserve
	if have >= missing+reserve {
		return nil
	}
	say := p.Short
	if all, err := b.total(slices.Collect(nodes.All())); err == nil && missing+reserve > all {
		say = p.Refuse
	}
	if zfs {
		// What ZFS gives up under pressure is a guess.
		say = p.Warn
	}
	say("huge pages would take %s of the host's %s that are free or reclaimable and leave less than hugepages.host_reserve = %s; "+
		"close programs, or lower the guest's <memory>",
		hook.FormatBytes(missing), hook.FormatBytes(have), hook.FormatBytes(reserve))
	return nil
}

// describe writes the claim and its lines.
func (b *budget) describe(p *hook.Proposal) {
	for _, pool := range b.order {
		pb := b.pools[pool]
		if pb.claimed == 0 {
			continue
		}
		p.Claim.Pages = append(p.Claim.Pages, hook.PageClaim{KiB: pool.KiB, Node: pool.Node, Count: pb.claimed, Elsewhere: !pb.bound})
		p.Line("%d of %s, %s: %d are free, %d are added", pb.claimed, pool, hook.FormatBytes(pb.claimed*pool.KiB<<10), pb.claimed-min(pb.claimed, pb.missing), pb.missing)
	}
}

// mountOption renders a page size as people give it to mount(8): "2M", "1G".
func mountOption(kib uint64) string {
	units := "KMG"
	for ; len(units) > 1 && kib%1024 == 0; units = units[1:] {
		kib /= 1024
	}
	return fmt.Sprintf("%d%c", kib, units[0])
}

// warnUnmounted warns where libvirt will find no hugetlbfs for a page size; memory from memfd needs none.
func warnUnmounted(h *hook.Host, requests []pageRequest, p *hook.Proposal) error {
	def, err := h.DefaultHugePageKiB()
	if err != nil {
		return err
	}
	mounted, err := h.HugetlbMounts(def)
	if err != nil {
		return err
	}
	for _, r := range requests {
		if !mounted[r.kib] {
			mounted[r.kib] = true
			p.Note("no hugetlbfs is mounted for pages of %d KiB: unless the domain uses <source type='memfd'/>, libvirt will refuse; "+
				"mount one with pagesize=%s and restart libvirtd", r.kib, mountOption(r.kib))
		}
	}
	return nil
}
