package suggest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"qemu-hook/cpuset"
	"qemu-hook/hook"
	"qemu-hook/hook/topology"
	"qemu-hook/sysfs"
)

// A memoryChoice is where the guest's memory is to be, and on which pages.
type memoryChoice struct {
	nodes         cpuset.Set
	kib           uint64
	why, whyPages string
}

// spare is what of a node's memory can be had for huge pages, or without them.
func spare(n *topology.Node) uint64 {
	if n.Memory == nil {
		return 0
	}
	return n.Memory.Free + n.Memory.Reclaimable
}

// memoryOn returns the page size for memory that is all on some nodes, 0 if it is to be on none; ok is false if it has no room there.
func (s *Supply) memoryOn(a Ask, nodes cpuset.Set) (kib uint64, ok bool) {
	if a.Bytes == 0 {
		return 0, true
	}
	if s.huge(a) {
		for _, kib := range slices.Backward(s.Sizes) {
			if a.Bytes%(kib<<10) != 0 {
				continue
			}
			have := s.pagesOn(kib, nodes)
			want := a.Bytes/(kib<<10) + s.Extra
			// Pages that are larger than usual are seldom to be had once the host runs: only those that are there count.
			if have.Free >= want {
				return kib, true
			}
			if missing := want - have.Free; kib == s.Default && have.Grow >= missing && s.Spare >= (missing+have.Lacking)*kib<<10+s.Reserve {
				return kib, true
			}
		}
		return 0, false
	}
	var sum uint64
	for i := range s.Host.Nodes {
		if n := &s.Host.Nodes[i]; nodes.Contains(n.ID) {
			sum += spare(n)
		}
	}
	return 0, sum >= a.Bytes
}

// huge reports whether the guest's memory can be on huge pages at all.
func (s *Supply) huge(a Ask) bool {
	return slices.ContainsFunc(s.Sizes, func(kib uint64) bool { return a.Bytes%(kib<<10) == 0 && kib <= s.Default })
}

func (s *Supply) pagesOn(kib uint64, nodes cpuset.Set) Pages {
	var sum Pages
	for node := range nodes.All() {
		p := s.Pages[sysfs.Pool{KiB: kib, Node: node}]
		sum.Free += p.Free
		sum.Grow += p.Grow
		sum.Lacking += p.Lacking
	}
	return sum
}

// chooseMemory puts the memory on the nodes of the CPUs, and on those that are nearest to them as far as it has no room there.
func (s *Supply) chooseMemory(a Ask, cpus cpuset.Set, near int) (memoryChoice, bool) {
	c := memoryChoice{nodes: cpus}
	if a.Bytes == 0 {
		return memoryChoice{}, true
	}
	ask := cpus
	if ask.Empty() {
		ask = cpuset.Of(0) // without nodes the kernel counts all as node 0
	}
	var ok bool
	if c.kib, ok = s.memoryOn(a, ask); !ok {
		for _, node := range s.byDistance(cpus) {
			ask = ask.Union(cpuset.Of(node))
			if c.kib, ok = s.memoryOn(a, ask); ok {
				break
			}
		}
		c.nodes = ask
	}
	if !ok {
		return c, false
	}
	switch {
	case c.nodes.Len() == 1 && c.nodes.Contains(near):
		c.why = "where the vCPUs and the PCI functions are"
	case c.nodes.Minus(cpus).Empty():
		c.why = "where the vCPUs are"
	default:
		c.why = fmt.Sprintf("%s do not fit on node %s alone (%s)", hook.FormatBytes(a.Bytes), cpus, s.whereMemory())
	}
	s.explainPages(a, &c, ask)
	return c, true
}

func (s *Supply) explainPages(a Ask, c *memoryChoice, nodes cpuset.Set) {
	if c.kib == 0 {
		switch {
		case len(s.Sizes) == 0:
			c.whyPages = "the host has no huge pages"
		default:
			size := s.Default << 10
			c.whyPages = fmt.Sprintf("no huge pages: %d KiB are no multiple of %s; the nearest is %d KiB", a.Bytes>>10, hook.FormatBytes(size), (a.Bytes+size/2)/size*size>>10)
		}
		return
	}
	have, want := s.pagesOn(c.kib, nodes), a.Bytes/(c.kib<<10)+s.Extra
	c.whyPages = fmt.Sprintf("%d pages of %s", want, hook.FormatBytes(c.kib<<10))
	switch {
	case have.Free >= want && c.kib > s.Default:
		c.whyPages += fmt.Sprintf(": the pool has %d free", have.Free)
	case have.Free >= want:
		c.whyPages += ", which are free"
	default:
		c.whyPages += fmt.Sprintf(": %d are free, the rest is made of free memory when the guest starts", have.Free)
	}
}

// byDistance returns the other nodes with memory, the nearest first.
func (s *Supply) byDistance(from cpuset.Set) []int {
	index := map[int]int{}
	var others []int
	for i, n := range s.Host.Nodes {
		index[n.ID] = i
		if n.Memory != nil && !from.Contains(n.ID) {
			others = append(others, n.ID)
		}
	}
	distance := func(to int) int {
		best := 1 << 30
		for node := range from.All() {
			i, ok := index[node]
			if ok && index[to] < len(s.Host.Nodes[i].Distance) {
				best = min(best, s.Host.Nodes[i].Distance[index[to]])
			}
		}
		return best
	}
	slices.SortStableFunc(others, func(a, b int) int { return cmp.Or(cmp.Compare(distance(a), distance(b)), cmp.Compare(a, b)) })
	return others
}

// mostMemory is the most that a guest can have of the host, on pages of the default size if there are such.
func (s *Supply) mostMemory() uint64 {
	var all cpuset.Set
	var sum uint64
	for i := range s.Host.Nodes {
		all = all.Union(cpuset.Of(s.Host.Nodes[i].ID))
		sum += spare(&s.Host.Nodes[i])
	}
	if all.Empty() {
		all = cpuset.Of(0)
	}
	if len(s.Sizes) == 0 {
		return sum
	}
	have := s.pagesOn(s.Default, all)
	page := s.Default << 10
	kept := s.Reserve + have.Lacking*page
	grow := min(have.Grow, (s.Spare-min(s.Spare, kept))/page)
	pages := have.Free + grow
	return (pages - min(pages, s.Extra)) * page
}

// whereMemory says what each node has.
func (s *Supply) whereMemory() string {
	var parts []string
	for i := range s.Host.Nodes {
		n := &s.Host.Nodes[i]
		if n.Memory == nil {
			continue
		}
		text := fmt.Sprintf("node %d has %s free and reclaimable", n.ID, hook.FormatBytes(spare(n)))
		for _, kib := range s.Sizes {
			if free := s.Pages[sysfs.Pool{KiB: kib, Node: n.ID}].Free; free > 0 {
				text += fmt.Sprintf(" and %d free pages of %s", free, hook.FormatBytes(kib<<10))
			}
		}
		parts = append(parts, text)
	}
	if len(parts) == 0 {
		return "what the nodes have is not known"
	}
	return strings.Join(parts, ", ")
}
