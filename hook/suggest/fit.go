package suggest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"qemu-hook/cpuset"
	"qemu-hook/hook"
	"qemu-hook/hook/topology"
)

// A Suggestion is what a guest's XML should say.
type Suggestion struct {
	Ask
	Pins     []cpuset.Set // by vCPU
	Host     cpuset.Set   // where QEMU's other threads run
	Memory   cpuset.Set   // the nodes that the guest's memory is to be on; empty where the kernel knows no nodes, or no size is known
	PageKiB  uint64       // 0: no huge pages
	Memfd    bool         // no hugetlbfs is mounted for these pages
	Topology Topology

	// Why each is as it is, a sentence without a full stop.
	WhyCPUs, WhyHost, WhyMemory, WhyPages, WhyTopology string
}

// A Topology is what the guest is to see of its vCPUs, as <topology> has it.
type Topology struct{ Dies, Cores, Threads int }

// A NoFit says why a guest has no place on the host, and what would have.
type NoFit struct {
	Reasons []string
	VCPUs   int    // the most that fit, and …
	Bytes   uint64 // … the most memory
}

func (e *NoFit) Error() string { return strings.Join(e.Reasons, "\n") }

// A spot is a core with its place.
type spot struct {
	topology.Core
	node  int
	cache *topology.Cache
}

// Fit makes a suggestion. The error is a *[NoFit] if the guest is too large for what is free.
func Fit(s *Supply, a Ask) (*Suggestion, error) {
	if s.Host.Online().Empty() {
		return nil, errors.New("the host does not say which CPUs it has; nothing can be suggested")
	}
	free, kept := s.freeCores()
	near := s.near(a)
	chosen, fits := s.choose(a, free, near)
	needed := s.neededNodes(chosen)
	memory, ok := s.chooseMemory(a, needed, near)
	if !fits || !ok {
		return nil, s.noFit(a, free, kept)
	}
	g := &Suggestion{Ask: a, Memory: memory.nodes, PageKiB: memory.kib, WhyMemory: memory.why, WhyPages: memory.whyPages}
	g.IOThreads = max(1, a.IOThreads)
	g.Memfd = g.PageKiB > 0 && !s.Mounted[g.PageKiB]
	g.pin(chosen)
	g.WhyCPUs = s.whyCPUs(a, chosen, near)
	s.placeHost(g, chosen, needed)
	g.shape(chosen)
	return g, nil
}

// freeCores returns the cores that are wholly free for a guest, and the CPUs that are kept for the host: CPU 0 with its core, where
// much of the kernel's own work is, what the configuration says, and no less than the host must have.
func (s *Supply) freeCores() (free []spot, kept cpuset.Set) {
	var all []spot
	var open cpuset.Set // of those that are nobody's, where the host's processes can run
	for at, core := range s.Host.Cores {
		all = append(all, spot{*core, at.Node, at.Cache})
		for _, t := range core.Threads {
			if len(t.Guests) == 0 && !t.Isolated {
				open = open.Union(cpuset.Of(t.CPU))
			}
		}
	}
	slices.SortStableFunc(all, func(a, b spot) int { return cmp.Compare(a.Threads[0].CPU, b.Threads[0].CPU) })
	first := all[0].CPUs()
	kept = first.Union(s.Keep)
	want := s.MinHost
	if want == 0 {
		want = first.Len()
	}
	// CPU 0 may be isolated, or a guest's.
	for _, c := range all {
		if kept.Intersect(open).Len() < want && !c.CPUs().Intersect(open).Empty() {
			kept = kept.Union(c.CPUs())
		}
	}
	for _, c := range all {
		if c.Free().Equal(c.CPUs()) && c.CPUs().Intersect(kept).Empty() {
			free = append(free, c)
		}
	}
	return free, kept
}

// near returns the node that most of the guest's functions are near to, display controllers before others; -1 if none is known.
func (s *Supply) near(a Ask) int {
	votes := map[int]int{}
	for _, g := range s.Host.Groups {
		for _, f := range g.Functions {
			if !slices.Contains(a.PCI, f.Address) || f.Node < 0 {
				continue
			}
			votes[f.Node]++
			if strings.HasPrefix(f.Class, "03") {
				votes[f.Node] += 1000
			}
		}
	}
	best := -1
	for _, node := range slices.Sorted(maps.Keys(votes)) {
		if best < 0 || votes[node] > votes[best] {
			best = node
		}
	}
	return best
}

// threads counts the CPUs of cores.
func threads(cores []spot) int {
	n := 0
	for _, c := range cores {
		n += len(c.Threads)
	}
	return n
}

// pick takes whole cores for a number of vCPUs: of one kind if one suffices, fast ones first; those that the kernel isolates
// before others, and the last before the first, which are left to the host.
func pick(cores []spot, vcpus int) (chosen []spot, ok bool) {
	for _, kinds := range [][]topology.Kind{{topology.Fast, ""}, {topology.Small}, {topology.Fast, "", topology.Small}} {
		var some []spot
		for _, c := range cores {
			if slices.Contains(kinds, c.Kind) {
				some = append(some, c)
			}
		}
		if threads(some) < vcpus {
			continue
		}
		rank := func(c spot) int { return slices.Index(kinds, c.Kind) }
		slices.SortStableFunc(some, func(a, b spot) int {
			return cmp.Or(
				cmp.Compare(rank(a), rank(b)),
				cmp.Compare(isolated(b), isolated(a)),
				cmp.Compare(len(b.Threads), len(a.Threads)),
				cmp.Compare(b.Threads[0].CPU, a.Threads[0].CPU),
			)
		})
		for threads(chosen) < vcpus {
			chosen = append(chosen, some[len(chosen)])
		}
		slices.SortStableFunc(chosen, func(a, b spot) int {
			return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Threads[0].CPU, b.Threads[0].CPU))
		})
		return chosen, true
	}
	return nil, false
}

// isolated counts the threads that the kernel keeps free.
func isolated(c spot) int {
	n := 0
	for _, t := range c.Threads {
		if t.Isolated {
			n++
		}
	}
	return n
}

// choose finds the place for the vCPUs: a node that has the memory too and is the card's; on it one cache; else the whole node;
// else several nodes.
func (s *Supply) choose(a Ask, free []spot, near int) ([]spot, bool) {
	type candidate struct {
		cores []spot
		rank  []int // the lower the better, the first first
	}
	var all []candidate
	add := func(cores []spot, whole int) {
		chosen, ok := pick(cores, a.VCPUs)
		if !ok {
			return
		}
		node := chosen[0].node
		_, memory := s.memoryOn(a, cpuset.Of(max(node, 0)))
		kinds := 0
		for _, c := range chosen {
			if c.Kind == topology.Small {
				kinds = 1
			}
		}
		all = append(all, candidate{chosen, []int{
			btoi(node >= 0 && a.Bytes > 0 && !memory), btoi(near >= 0 && node != near), whole, kinds,
			// What is left over should not be larger than need be, and where the host is it stays by itself.
			btoi(s.withFirst(chosen[0], whole == 1)), threads(cores) - a.VCPUs, node, chosen[0].Threads[0].CPU,
		}})
	}
	byNode, byCache := map[int][]spot{}, map[*topology.Cache][]spot{}
	for _, c := range free {
		byNode[c.node] = append(byNode[c.node], c)
		if c.cache.Level > 0 {
			byCache[c.cache] = append(byCache[c.cache], c)
		}
	}
	for _, cores := range byCache {
		add(cores, 0)
	}
	for _, cores := range byNode {
		add(cores, 1)
	}
	if len(all) > 0 {
		best := slices.MinFunc(all, func(x, y candidate) int { return slices.Compare(x.rank, y.rank) })
		return best.cores, true
	}
	// No node is large enough: as few as can be, the card's first.
	order := slices.Collect(maps.Keys(byNode))
	slices.SortFunc(order, func(x, y int) int {
		return cmp.Or(cmp.Compare(btoi(x != near), btoi(y != near)), cmp.Compare(threads(byNode[y]), threads(byNode[x])), cmp.Compare(x, y))
	})
	var some []spot
	for _, node := range order {
		some = append(some, byNode[node]...)
		if chosen, ok := pick(some, a.VCPUs); ok {
			return chosen, true
		}
	}
	return nil, false
}

// withFirst reports whether a core is where the host's first one is: in its cache, or on its node.
func (s *Supply) withFirst(c spot, node bool) bool {
	for at, core := range s.Host.Cores {
		if core.CPUs().Contains(s.first()) {
			return node && at.Node == c.node || !node && at.Cache == c.cache
		}
	}
	return false
}

// first is the lowest CPU.
func (s *Supply) first() int {
	for cpu := range s.Host.Online().All() {
		return cpu
	}
	return 0
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// neededNodes are the nodes of cores.
func (s *Supply) neededNodes(cores []spot) cpuset.Set {
	var nodes cpuset.Set
	for _, c := range cores {
		if c.node >= 0 {
			nodes = nodes.Union(cpuset.Of(c.node))
		}
	}
	return nodes
}

// pin gives each vCPU a thread; the last one has what is left of its core, so that no other is on it.
func (g *Suggestion) pin(cores []spot) {
	for _, c := range cores {
		for _, t := range c.Threads {
			one := cpuset.Of(t.CPU)
			if len(g.Pins) == g.VCPUs {
				g.Pins[g.VCPUs-1] = g.Pins[g.VCPUs-1].Union(one)
				continue
			}
			g.Pins = append(g.Pins, one)
		}
	}
}

// placeHost has QEMU's other threads run where the host does, near the guest if the host has CPUs there.
func (s *Supply) placeHost(g *Suggestion, cores []spot, nodes cpuset.Set) {
	var taken, near cpuset.Set
	for _, c := range cores {
		taken = taken.Union(c.CPUs())
	}
	var host cpuset.Set
	for at, core := range s.Host.Cores {
		for _, t := range core.Threads {
			one := cpuset.Of(t.CPU)
			if len(t.Guests) > 0 || t.Isolated || taken.Contains(t.CPU) || !s.Keep.Empty() && !s.Keep.Contains(t.CPU) {
				continue
			}
			host = host.Union(one)
			if nodes.Contains(at.Node) {
				near = near.Union(one)
			}
		}
	}
	g.Host, g.WhyHost = host, "QEMU's own threads and I/O threads share the CPUs that the host keeps"
	if !near.Empty() && !near.Equal(host) {
		g.Host, g.WhyHost = near, "QEMU's own threads and I/O threads share the CPUs that the host keeps on the guest's node"
	}
}

// shape works out what the guest should be told of its cores, so that its scheduler knows what shares what.
func (g *Suggestion) shape(cores []spot) {
	per := len(cores[0].Threads)
	even := g.VCPUs%per == 0 && !slices.ContainsFunc(cores, func(c spot) bool { return len(c.Threads) != per })
	if !even || per == 1 {
		g.Topology = Topology{1, g.VCPUs, 1}
		g.WhyTopology = "a vCPU is a core"
		if !even {
			g.WhyTopology = "the vCPUs do not fill cores of one kind, so the guest is not told of threads"
		}
		return
	}
	byCache := map[*topology.Cache]int{}
	for _, c := range cores {
		byCache[c.cache]++
	}
	dies := len(byCache)
	for _, n := range byCache {
		if n*dies != len(cores) {
			dies = 1
		}
	}
	g.Topology = Topology{dies, len(cores) / dies, per}
	g.WhyTopology = fmt.Sprintf("vCPUs that share a core here (%d each) are told so", per)
	if dies > 1 {
		g.WhyTopology += ", and which share a cache"
	}
}

// whyCPUs says in a line why these cores.
func (s *Supply) whyCPUs(a Ask, cores []spot, near int) string {
	kinds, caches, nodes := map[topology.Kind]int{}, map[*topology.Cache]bool{}, s.neededNodes(cores)
	quiet := 0
	for _, c := range cores {
		kinds[c.Kind]++
		caches[c.cache] = true
		quiet += isolated(c)
	}
	var what []string
	for _, k := range []topology.Kind{topology.Fast, "", topology.Small} {
		name := "whole core"
		if k != "" {
			name = "whole " + string(k) + "-core"
		}
		if n := kinds[k]; n == 1 {
			what = append(what, "1 "+name)
		} else if n > 1 {
			what = append(what, fmt.Sprintf("%d %ss", n, name))
		}
	}
	parts := []string{strings.Join(what, " and ")}
	if kinds[topology.Fast] > 0 && kinds[topology.Small] > 0 {
		parts[0] += ", as the P-cores alone do not suffice"
	} else if kinds[topology.Small] > 0 {
		parts[0] += ", as not enough P-cores are free"
	}
	if c := cores[0].cache; c.Level > 0 {
		if len(caches) == 1 {
			parts = append(parts, fmt.Sprintf("in one L%d cache", c.Level))
		} else {
			parts = append(parts, fmt.Sprintf("in %d L%d caches, as no single one has room", len(caches), c.Level))
		}
	}
	switch {
	case nodes.Len() > 1:
		parts = append(parts, fmt.Sprintf("on nodes %s, as no single one has room: fewer vCPUs, or <numa> cells like the nodes, would be faster", nodes))
	case nodes.Len() == 1 && near >= 0 && nodes.Contains(near):
		parts = append(parts, fmt.Sprintf("on node %s, where its PCI functions are", nodes))
	case nodes.Len() == 1 && near >= 0:
		parts = append(parts, fmt.Sprintf("on node %s, as node %d, where its PCI functions are, has no room", nodes, near))
	case nodes.Len() == 1 && len(s.Host.Nodes) > 1:
		parts = append(parts, fmt.Sprintf("on node %s", nodes))
	}
	if quiet > 0 {
		parts = append(parts, fmt.Sprintf("%d CPUs of them isolated by the kernel", quiet))
	}
	parts = []string{strings.Join(parts, ", ")}
	parts = append(parts, fmt.Sprintf("CPU %d and its core are left to the host", s.first()))
	if threads(cores) > a.VCPUs {
		parts = append(parts, "the last vCPU has the rest of its core, so that nobody else is on it")
	}
	return strings.Join(parts, "; ")
}

// noFit says what is in the way, with numbers, and what would fit.
func (s *Supply) noFit(a Ask, free []spot, kept cpuset.Set) error {
	e := &NoFit{VCPUs: min(a.VCPUs, threads(free)), Bytes: a.Bytes}
	if n := threads(free); n < a.VCPUs {
		text := fmt.Sprintf("%s has %d vCPUs, and whole cores for %d are free: the host keeps CPUs %s", a.Name, a.VCPUs, n, kept.Intersect(s.Host.Online()))
		owned := s.Host.Owned()
		for _, g := range s.Host.Guests {
			if cpus := owned[topology.Owner{Guest: g}]; !cpus.Empty() {
				text += fmt.Sprintf(", guest %s has %s", g, cpus)
			}
		}
		e.Reasons = append(e.Reasons, text)
	}
	if most := s.mostMemory(); a.Bytes > most {
		e.Bytes = most
		e.Reasons = append(e.Reasons, fmt.Sprintf("%s has %s of memory, and the host has %s to give: %s, of which %s are left to it", a.Name,
			hook.FormatBytes(a.Bytes), hook.FormatBytes(most), s.whereMemory(), hook.FormatBytes(s.Reserve)))
	}
	if len(e.Reasons) == 0 {
		e.Reasons = append(e.Reasons, fmt.Sprintf("%s has %s of memory, which no nodes together have on pages of one size: %s", a.Name, hook.FormatBytes(a.Bytes), s.whereMemory()))
	}
	return e
}
