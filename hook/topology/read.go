package topology

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"qemu-hook/cpuset"
	"qemu-hook/sysfs"
)

// Read looks at a host. The guests are those that have something of it.
func Read(h sysfs.FS, guests []Guest) (*Host, error) {
	t := &Host{Sockets: []Socket{}, Nodes: []Node{}, Guests: []string{}}
	for _, g := range guests {
		if !slices.Contains(t.Guests, g.Name) {
			t.Guests = append(t.Guests, g.Name)
		}
	}
	online := readOnline(h)
	if present, err := h.PresentCPUs(); err == nil {
		t.Offline = present.Minus(online)
	}
	for _, id := range h.Nodes() {
		t.Nodes = append(t.Nodes, readNode(h, id, online, guests))
	}
	t.Sockets = readSockets(h, t.Nodes, online, guests)
	var err error
	t.Groups, err = ReadGroups(h, func(address string) string {
		for _, g := range guests {
			if slices.Contains(g.PCI, address) {
				return g.Name
			}
		}
		return ""
	})
	return t, err
}

// readOnline returns the CPUs that run; where no list of them is kept, those that have a place in the machine.
func readOnline(h sysfs.FS) cpuset.Set {
	online, err := h.OnlineCPUs()
	if err == nil {
		return online
	}
	const dir = "/sys/devices/system/cpu"
	names, _ := h.ReadDir(dir)
	for _, name := range names {
		number, ok := strings.CutPrefix(name, "cpu")
		if id, err := strconv.Atoi(number); ok && err == nil && id >= 0 && id < cpuset.Max && h.Exists(dir+"/"+name+"/topology") {
			online = online.Union(cpuset.Of(id))
		}
	}
	return online
}

func readNode(h sysfs.FS, id int, online cpuset.Set, guests []Guest) Node {
	n := Node{ID: id, Pools: []Pool{}, Distance: h.NodeDistances(id)}
	if cpus, err := h.NodeCPUs(id); err == nil {
		n.CPUs = cpus.Intersect(online)
	}
	if m, err := h.NodeMemory(id); err == nil && m.Total > 0 {
		n.Memory = &Memory{m.Total, m.Free, m.Reclaimable}
	}
	sizes, _ := h.HugePageSizes()
	for _, kib := range sizes {
		at := sysfs.Pool{KiB: kib, Node: id}
		s, err := h.PoolState(at)
		if err != nil {
			continue
		}
		p := Pool{KiB: kib, Total: s.Total, Free: s.Free, Claims: []PagesOfPool{}}
		for _, g := range guests {
			var count uint64
			for _, c := range g.Pages {
				if c.Pool == at {
					count += c.Count
				}
			}
			if count > 0 {
				p.Claims = append(p.Claims, PagesOfPool{g.Name, count})
			}
		}
		n.Pools = append(n.Pools, p)
	}
	return n
}

// readSockets places every CPU: first come the cores, then what they are in.
func readSockets(h sysfs.FS, nodes []Node, online cpuset.Set, guests []Guest) []Socket {
	isolated, _ := h.IsolatedCPUs()
	kind := coreKinds(h, online)
	caches := h.Caches(online)
	sockets := []Socket{}
	done := cpuset.Set{}
	for cpu := range online.All() {
		if done.Contains(cpu) {
			continue
		}
		place := h.CPUPlace(cpu)
		threads := place.Threads.Intersect(online)
		done = done.Union(threads)
		core := Core{ID: place.Core, Kind: kind(cpu)}
		for t := range threads.All() {
			thread := Thread{CPU: t, Guests: []string{}, Isolated: isolated.Contains(t)}
			for _, g := range guests {
				if g.CPUs.Contains(t) {
					thread.Guests = append(thread.Guests, g.Name)
				}
			}
			core.Threads = append(core.Threads, thread)
		}
		node := -1
		for _, n := range nodes {
			if n.CPUs.Contains(cpu) {
				node = n.ID
			}
		}
		var l1, l2, last sysfs.Cache
		for _, c := range caches {
			switch {
			case !c.CPUs.Contains(cpu):
			case c.Level == 1:
				l1 = c
			case c.Level == 2:
				l2 = c
			case c.Level > last.Level:
				last = c
			}
		}
		core.L1 = l1.Bytes
		s := in(&sockets, func(s *Socket) bool { return s.ID == place.Package }, Socket{ID: place.Package})
		p := in(&s.Parts, func(p *Part) bool { return p.Node == node }, Part{Node: node})
		// Cores belong together if a core that is placed already is in the same cache.
		c := in(&p.Caches, func(c *Cache) bool { return c.Level == last.Level && (last.Level == 0 || c.has(last.CPUs)) },
			Cache{Level: last.Level, Bytes: last.Bytes})
		k := in(&c.Clusters, func(k *Cluster) bool { return l2.Level > 0 && k.has(l2.CPUs) }, Cluster{L2: l2.Bytes})
		k.Cores = append(k.Cores, core)
	}
	slices.SortStableFunc(sockets, func(a, b Socket) int { return cmp.Compare(a.ID, b.ID) })
	return sockets
}

// in returns the element that fits, after appending one if there is none.
func in[T any](all *[]T, fits func(*T) bool, fresh T) *T {
	for i := range *all {
		if fits(&(*all)[i]) {
			return &(*all)[i]
		}
	}
	*all = append(*all, fresh)
	return &(*all)[len(*all)-1]
}

func (c *Cache) has(cpus cpuset.Set) bool {
	return slices.ContainsFunc(c.Clusters, func(k Cluster) bool { return k.has(cpus) })
}

func (k *Cluster) has(cpus cpuset.Set) bool { return cpus.Contains(k.Cores[0].Threads[0].CPU) }

// coreKinds returns what tells fast cores from small ones: the processor's two performance monitoring units, else what the
// kernel says that its CPUs can do.
func coreKinds(h sysfs.FS, online cpuset.Set) func(cpu int) Kind {
	fast, small, err := h.CoreKinds()
	if err != nil || fast.Empty() || small.Empty() {
		most := 0
		capacity := map[int]int{}
		for cpu := range online.All() {
			capacity[cpu] = h.CPUCapacity(cpu)
			most = max(most, capacity[cpu])
		}
		fast, small = cpuset.Set{}, cpuset.Set{}
		for cpu, c := range capacity {
			if c == most {
				fast = fast.Union(cpuset.Of(cpu))
			} else if c > 0 {
				small = small.Union(cpuset.Of(cpu))
			}
		}
	}
	return func(cpu int) Kind {
		switch {
		case fast.Empty() || small.Empty():
			return ""
		case fast.Contains(cpu):
			return Fast
		case small.Contains(cpu):
			return Small
		}
		return ""
	}
}

// ReadGroups returns the IOMMU groups with their functions, and last the functions that are in none; owner names the guest
// that has a function.
func ReadGroups(h sysfs.FS, owner func(address string) string) ([]Group, error) {
	const dir = "/sys/kernel/iommu_groups"
	names, err := h.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &sysfs.Error{Op: "list", Path: dir, Err: err}
	}
	number := func(s string) int { n, _ := strconv.Atoi(s); return n }
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(number(a), number(b)) })
	groups := []Group{}
	grouped := map[string]bool{}
	for _, name := range names {
		g := Group{ID: name, Functions: []Function{}}
		members, err := h.IOMMUGroup(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, a := range members {
			grouped[a] = true
			g.Functions = append(g.Functions, readFunction(h, a, owner))
		}
		groups = append(groups, g)
	}
	rest, err := h.ListIfAny(sysfs.PCIBus + "/devices")
	if err != nil {
		return nil, err
	}
	none := Group{Functions: []Function{}}
	for _, a := range rest {
		if !grouped[a] {
			none.Functions = append(none.Functions, readFunction(h, a, owner))
		}
	}
	if len(none.Functions) > 0 {
		groups = append(groups, none)
	}
	var ids []string
	for _, g := range groups {
		for _, f := range g.Functions {
			if f.ID != "" {
				ids = append(ids, f.ID)
			}
		}
	}
	known := h.PCINames(ids)
	for _, g := range groups {
		for i := range g.Functions {
			g.Functions[i].Name = known[g.Functions[i].ID]
		}
	}
	return groups, nil
}

func readFunction(h sysfs.FS, address string, owner func(string) string) Function {
	f := Function{Address: address, Guest: owner(address), Node: h.PCINode(address)}
	f.ID, _ = h.PCIID(address)
	f.Driver, _ = h.PCIDriver(address)
	if class, err := h.PCIClass(address); err == nil {
		f.Class = fmt.Sprintf("%04x", class>>8)
	}
	return f
}
