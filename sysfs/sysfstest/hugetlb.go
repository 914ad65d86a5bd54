package sysfstest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// numaNode is a NUMA node with its memory, in KiB.
//
// Free memory is counted in two parts: what lies in blocks of 2 MiB and more, from which huge pages are made, and the
// rest, which compaction can join up to a share that the host file gives.
type numaNode struct {
	id       int
	cpus     string // CPU list of those that belong to it
	distance string
	total    int64
	free     int64 // MemFree
	whole    int64 // of it, in blocks of 2 MiB
	movable  int64 // percent of free memory that compaction can make whole
	cache    int64 // page cache
	slab     int64 // reclaimable slab
	giant    int64 // blocks of 1 GiB that can still be made
}

// reserve is what the kernel keeps for itself (the watermarks of the zones).
func (n *numaNode) reserve() int64 { return n.total / 256 }

// compact joins free memory as far as the pages in use can be moved.
func (n *numaNode) compact() { n.whole = max(n.whole, n.free*n.movable/100) }

// dropCaches frees the page cache, the reclaimable slab, or both.
func (n *numaNode) dropCaches(what uint64) {
	give := func(from *int64) {
		got := *from * 99 / 100
		*from -= got
		n.free += got
	}
	if what&1 != 0 {
		give(&n.cache)
	}
	if what&2 != 0 {
		give(&n.slab)
	}
}

// hstate is the pool of huge pages of one size, as in mm/hugetlb.c.
type hstate struct {
	kib        uint64
	isDefault  bool
	resv       int64 // reserved and not yet touched
	overcommit int64
	node       []poolNode // in the order of Host.nodes
	nextAlloc  int        // node from which the next page comes
	nextFree   int        // node from which the next page goes
}

// poolNode is a pool's part on one node, in pages.
type poolNode struct{ nr, free, surplus int64 }

func (p *hstate) sum(f func(poolNode) int64) (s int64) {
	for _, n := range p.node {
		s += f(n)
	}
	return s
}

func (p *hstate) nr() int64         { return p.sum(func(n poolNode) int64 { return n.nr }) }
func (p *hstate) free() int64       { return p.sum(func(n poolNode) int64 { return n.free }) }
func (p *hstate) surplus() int64    { return p.sum(func(n poolNode) int64 { return n.surplus }) }
func (p *hstate) persistent() int64 { return p.nr() - p.surplus() }

// allNodes stands for a write that names no node.
const allNodes = -1

// allowed returns the indices of the nodes a write may use, starting at from.
func (h *Host) allowed(node, from int) []int {
	if node != allNodes {
		return []int{node}
	}
	var out []int
	for i := range h.nodes {
		if at := (from + i) % len(h.nodes); h.nodes[at].total > 0 {
			out = append(out, at)
		}
	}
	return out
}

// setPool is set_max_huge_pages: it asks for count persistent pages, on one node (an index into Host.nodes) or on all.
func (h *Host) setPool(p *hstate, count int64, node int) {
	if node != allNodes {
		n := p.node[node]
		count += p.persistent() - (n.nr - n.surplus)
	}
	// Grow: pages that are surplus become persistent, then new ones are allocated.
	for p.surplus() > 0 && count > p.persistent() && h.adjustSurplus(p, node, -1) {
	}
	asked := count - p.persistent()
	stop := int64(0)
	if h.oneShort && asked > 0 {
		h.oneShort, stop = false, asked/2
	}
	squeezed := false
	for count > p.persistent() {
		if h.allocPage(p, node) {
			if stop > 0 && count-p.persistent() <= stop {
				return // a signal is pending: the allocation ends here, with success
			}
			continue
		}
		if squeezed || p.kib > 2048 {
			return
		}
		squeezed = true
		h.squeeze(node)
	}
	// Shrink: free pages go back, as far as nothing is promised; the others become surplus.
	least := max(count, p.resv+p.nr()-p.free())
	for least < p.persistent() && h.freePage(p, node) {
	}
	for count < p.persistent() && h.adjustSurplus(p, node, 1) {
	}
}

// adjustSurplus makes one persistent page surplus (+1) or the reverse (-1).
func (h *Host) adjustSurplus(p *hstate, node int, delta int64) bool {
	for _, i := range h.allowed(node, p.nextFree) {
		n := &p.node[i]
		if delta < 0 && n.surplus > 0 || delta > 0 && n.surplus < n.nr {
			n.surplus += delta
			if node == allNodes {
				p.nextFree = (i + 1) % len(h.nodes)
			}
			return true
		}
	}
	return false
}

// allocPage takes one page from a node's free memory into the pool.
func (h *Host) allocPage(p *hstate, node int) bool {
	for _, i := range h.allowed(node, p.nextAlloc) {
		if h.takePage(p, i) {
			p.node[i].nr++
			p.node[i].free++
			if node == allNodes {
				p.nextAlloc = (i + 1) % len(h.nodes)
			}
			return true
		}
	}
	return false
}

// takePage takes the memory of one page.
func (h *Host) takePage(p *hstate, i int) bool {
	m, kib := h.nodes[i], int64(p.kib)
	giant := kib > 2048
	if m.whole < kib || m.free-kib < m.reserve() || giant && m.giant == 0 {
		return false
	}
	m.free -= kib
	m.whole -= kib
	if giant {
		m.giant--
	}
	m.giant = min(m.giant, m.whole>>20)
	return true
}

// freePage gives one free page of the pool back.
func (h *Host) freePage(p *hstate, node int) bool {
	for _, i := range h.allowed(node, p.nextFree) {
		if p.node[i].free > 0 {
			p.node[i].nr--
			p.node[i].free--
			h.givePage(p, i)
			if node == allNodes {
				p.nextFree = (i + 1) % len(h.nodes)
			}
			return true
		}
	}
	return false
}

func (h *Host) givePage(p *hstate, i int) {
	m := h.nodes[i]
	m.free += int64(p.kib)
	m.whole += int64(p.kib)
	if p.kib > 2048 {
		m.giant++
	}
}

// squeeze is what an allocation that falls short does by itself: it joins some of the free memory and reclaims a
// little of the cache.
func (h *Host) squeeze(node int) {
	for _, i := range h.allowed(node, 0) {
		m := h.nodes[i]
		got := min(m.cache, m.total/256)
		m.cache -= got
		m.free += got
		if gap := m.free*m.movable/100 - m.whole; gap > 0 {
			m.whole += gap / 8
		}
	}
}

// pool returns the pool of a page size, nil if the host has none.
func (h *Host) pool(kib uint64) *hstate {
	for _, p := range h.pools {
		if p.kib == kib {
			return p
		}
	}
	return nil
}

// nodeIndex returns the place of a NUMA node in Host.nodes, -1 if there is no such node.
func (h *Host) nodeIndex(id int) int {
	return slices.IndexFunc(h.nodes, func(n *numaNode) bool { return n.id == id })
}

// UsePages lets another process, such as a QEMU, take n huge pages of the given size on a node; a negative n gives
// them back. Beyond the free pages it takes surplus pages, as far as nr_overcommit_hugepages allows.
func (h *Host) UsePages(kib uint64, node int, n int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, i := h.pool(kib), h.nodeIndex(node)
	if p == nil || i < 0 {
		return fmt.Errorf("cannot use pages of %d KiB on node %d: %w", kib, node, syscall.EINVAL)
	}
	pn := &p.node[i]
	for ; n > 0; n-- {
		switch {
		case pn.free > 0 && p.free() > p.resv:
			pn.free--
		case p.surplus() < p.overcommit && h.takePage(p, i):
			pn.nr++
			pn.surplus++
		default:
			return syscall.ENOMEM
		}
	}
	for ; n < 0; n++ {
		switch {
		case pn.nr-pn.free == 0:
			return errors.New("cannot give back pages that nobody uses")
		case pn.surplus > 0:
			pn.nr--
			pn.surplus--
			h.givePage(p, i)
		default:
			pn.free++
		}
	}
	return nil
}

// Reserve lets another process reserve n huge pages without touching them (resv_hugepages); a negative n ends that.
func (h *Host) Reserve(kib uint64, n int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.pool(kib)
	if p == nil || p.resv+n < 0 {
		return syscall.EINVAL
	}
	if p.resv+n > p.free() {
		return syscall.ENOMEM
	}
	p.resv += n
	return nil
}

// InterruptAllocation lets the next write that makes a pool grow end half-way, with success: a signal is pending.
func (h *Host) InterruptAllocation() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.oneShort = true
}

// UseMemory lets other processes take n KiB of a node's free memory; a negative n gives it back, in small pieces.
func (h *Host) UseMemory(node int, n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.nodes[h.nodeIndex(node)]
	m.free -= n
	m.whole = min(m.whole, m.free)
}

// Memory returns what of a node's memory is free and what is page cache, in KiB.
func (h *Host) Memory(node int) (free, cache int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.nodes[h.nodeIndex(node)]
	return m.free, m.cache
}

// parseUint reads a number as kstrtoul does: one sign, one final newline, nothing else.
func parseUint(s string) (uint64, error) {
	s = strings.TrimPrefix(strings.TrimSuffix(s, "\n"), "+")
	n, err := strconv.ParseUint(s, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, syscall.ERANGE
	case err != nil:
		return 0, syscall.EINVAL
	}
	return n, nil
}

// addPool makes the files of a pool, the host's and each node's.
func (h *Host) addPool(p *hstate) {
	h.pools = append(h.pools, p)
	p.node = make([]poolNode, len(h.nodes))
	kib := p.kib
	name := fmt.Sprintf("hugepages-%dkB", kib)
	dir := "/sys/kernel/mm/hugepages/" + name + "/"
	count := func(f func(p *hstate) int64) *attr {
		return &attr{show: func(h *Host) (string, error) { return fmt.Sprintf("%d\n", f(h.pool(kib))), nil }}
	}
	nr := h.poolAttr(kib, allNodes)
	h.rule(dir+"nr_hugepages", nr)
	h.rule(dir+"nr_hugepages_mempolicy", nr)
	h.rule(dir+"free_hugepages", count((*hstate).free))
	h.rule(dir+"surplus_hugepages", count((*hstate).surplus))
	h.rule(dir+"resv_hugepages", count(func(p *hstate) int64 { return p.resv }))
	over := count(func(p *hstate) int64 { return p.overcommit })
	over.store = func(h *Host, v string) error {
		n, err := parseUint(v)
		if err == nil && kib > 2048 {
			err = syscall.EINVAL // never for gigantic pages
		}
		if err == nil {
			h.pool(kib).overcommit = int64(n)
		}
		return err
	}
	h.rule(dir+"nr_overcommit_hugepages", over)
	if p.isDefault {
		h.rule("/proc/sys/vm/nr_hugepages", nr)
		h.rule("/proc/sys/vm/nr_overcommit_hugepages", over)
	}
	for i, n := range h.nodes {
		if n.total == 0 {
			continue
		}
		at := func(f func(n poolNode) int64) *attr {
			return count(func(p *hstate) int64 { return f(p.node[i]) })
		}
		dir := fmt.Sprintf("%s/node%d/hugepages/%s/", nodeDir, n.id, name)
		h.rule(dir+"nr_hugepages", h.poolAttr(kib, i))
		h.rule(dir+"free_hugepages", at(func(n poolNode) int64 { return n.free }))
		h.rule(dir+"surplus_hugepages", at(func(n poolNode) int64 { return n.surplus }))
	}
}

// poolAttr is nr_hugepages of a node or of the host.
func (h *Host) poolAttr(kib uint64, node int) *attr {
	return &attr{
		show: func(h *Host) (string, error) {
			p := h.pool(kib)
			if node == allNodes {
				return fmt.Sprintf("%d\n", p.nr()), nil
			}
			return fmt.Sprintf("%d\n", p.node[node].nr), nil
		},
		store: func(h *Host, v string) error {
			n, err := parseUint(v)
			if err == nil {
				h.setPool(h.pool(kib), int64(min(n, 1<<50)), node)
			}
			return err
		},
	}
}
