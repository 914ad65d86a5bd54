// Package suggest works out what a guest's XML should say on a host: which CPUs its threads are pinned to, which node its memory
// is on, and on which pages. It looks at what other guests have, and changes nothing.
package suggest

import (
	"errors"
	"io/fs"
	"slices"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/topology"
	"qemu-hook/sysfs"
)

// An Ask is a guest's size and what it is to be near to.
type Ask struct {
	Name      string
	VCPUs     int
	Bytes     uint64 // 0 if not known: then nothing is said of memory
	IOThreads int
	PCI       []string
}

// A Supply is what a host has for the guest.
type Supply struct {
	Host *topology.Host
	// Keep are CPUs that the host keeps in any case, MinHost how many it must keep; 0 is one core.
	Keep    cpuset.Set
	MinHost int
	// Pages is what the pools of huge pages can give, with the sizes in ascending order; Default is the host's own size, in KiB.
	Pages   map[sysfs.Pool]Pages
	Sizes   []uint64
	Default uint64
	// Mounted are the sizes for which there is a hugetlbfs.
	Mounted map[uint64]bool
	// Extra is how many pages more than its memory a guest gets; Reserve is what must be left of Spare, the free and reclaimable
	// memory of all nodes, after pools have grown. All in bytes but for Extra.
	Extra, Reserve, Spare uint64
}

// Pages is what a pool can give: pages that are free in it, and those that it can grow by, after it has grown by those that it
// lacks for others.
type Pages struct{ Free, Grow, Lacking uint64 }

// For looks at a host and makes a suggestion for a guest.
func For(h *hook.Host, n *domain.Needs) (*Suggestion, error) {
	s, err := Look(h, n.Guest)
	if err != nil {
		return nil, err
	}
	return Fit(s, AskOf(n))
}

// AskOf returns the size of a guest.
func AskOf(n *domain.Needs) Ask {
	a := Ask{Name: n.Guest.Name, VCPUs: n.Size.VCPUs, Bytes: n.Size.Bytes, IOThreads: n.Size.IOThreads, PCI: slices.Clone(n.LibvirtPCI)}
	for _, f := range n.PCI {
		a.PCI = append(a.PCI, f.Address)
	}
	return a
}

// Look returns what a host has for a guest. What the guest itself has counts as free.
func Look(h *hook.Host, g domain.Guest) (*Supply, error) {
	t, err := topology.Read(h.FS, topology.Guests(h, g.UUID, g.Name))
	if err != nil {
		return nil, err
	}
	s := &Supply{
		Host: t, Keep: h.Config.CPUs.Host, MinHost: h.Config.CPUs.MinHost, Pages: map[sysfs.Pool]Pages{},
		Extra: h.Config.Hugepages.Extra, Reserve: h.Config.Hugepages.HostReserve, Mounted: map[uint64]bool{},
	}
	return s, s.readPages(h, g.UUID)
}

// readPages asks the pools as a preparation does. A host without huge pages has none to give.
func (s *Supply) readPages(h *hook.Host, uuid string) error {
	var err error
	if s.Sizes, err = h.HugePageSizes(); err != nil || len(s.Sizes) == 0 {
		return err
	}
	if s.Default, err = h.DefaultHugePageKiB(); err != nil {
		s.Default = s.Sizes[0]
	}
	if mounted, err := h.HugetlbMounts(s.Default); err == nil {
		s.Mounted = mounted
	}
	arc, _ := h.ZFSCacheBytes()
	s.Spare = arc
	for i := range s.Host.Nodes {
		node := &s.Host.Nodes[i]
		if node.Memory == nil {
			continue
		}
		s.Spare += node.Memory.Free + node.Memory.Reclaimable
		for _, kib := range s.Sizes {
			p := sysfs.Pool{KiB: kib, Node: node.ID}
			free, lacking, err := h.AvailablePages(p, uuid)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return err
			}
			room, _, err := h.PoolCapacity(p)
			if err != nil {
				return err
			}
			s.Pages[p] = Pages{free, room - min(room, lacking), lacking}
		}
	}
	return nil
}
