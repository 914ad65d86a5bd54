// Package topology is a picture of a host: sockets, NUMA nodes, caches, cores and threads with who has each CPU, the nodes'
// memory and huge pages, and the IOMMU groups with their functions. [Read] looks, [Host.Text] and [Host.SVG] draw what it saw.
//
// Nothing that is missing is an error: a picture of what is known is better than none.
package topology

import (
	"slices"

	"qemu-hook/cpuset"
	"qemu-hook/sysfs"
)

// A Host is what there is to see of one machine.
type Host struct {
	Sockets []Socket `json:"sockets"`
	// Offline are CPUs that are there and do not run: the kernel does not say where in the machine they are.
	Offline cpuset.Set `json:"offline"`
	Nodes   []Node     `json:"nodes"`
	Groups  []Group    `json:"groups"`
	Guests  []string   `json:"guests"` // that have something, in order
	Unseen  bool       `json:"unseen"` // what guests have, and which there are, is only in part to be seen
}

// A Socket is a processor.
type Socket struct {
	ID    int    `json:"id"` // -1 if not known
	Parts []Part `json:"parts"`
}

// A Part is what of a socket belongs to one NUMA node.
type Part struct {
	Node   int     `json:"node"` // -1 where the kernel knows no nodes
	Caches []Cache `json:"caches"`
}

// A Cache is a last-level cache and the cores that share it.
type Cache struct {
	Level    int       `json:"level"` // 3 or 4; 0 where there is none, or none is known
	Bytes    uint64    `json:"bytes"`
	Clusters []Cluster `json:"clusters"`
}

// A Cluster is the cores that share a second-level cache, mostly one.
type Cluster struct {
	L2    uint64 `json:"l2"` // bytes, 0 if not known
	Cores []Core `json:"cores"`
}

// A Core is a core and those of its threads that run.
type Core struct {
	ID      int      `json:"id"`   // as the kernel has it, -1 if not known
	Kind    Kind     `json:"kind"` // "" where all cores are alike
	L1      uint64   `json:"l1"`   // data, in bytes
	Threads []Thread `json:"threads"`
}

// A Kind tells the cores of a processor that has several apart.
type Kind string

const (
	Fast  Kind = "P"
	Small Kind = "E"
)

// A Thread is a CPU that runs.
type Thread struct {
	CPU      int      `json:"cpu"`
	Guests   []string `json:"guests"`   // who has it; nobody: the host
	Isolated bool     `json:"isolated"` // the kernel keeps processes off it (isolcpus)
}

// A Node is a NUMA node.
type Node struct {
	ID       int        `json:"id"`
	CPUs     cpuset.Set `json:"cpus"` // that run
	Memory   *Memory    `json:"memory"`
	Pools    []Pool     `json:"pools"`
	Distance []int      `json:"distance"`
}

// Memory is a node's memory in bytes; nil stands for not known.
type Memory struct {
	Total       uint64 `json:"total"`
	Free        uint64 `json:"free"`
	Reclaimable uint64 `json:"reclaimable"`
}

// A Pool is the huge pages of one size on a node.
type Pool struct {
	KiB    uint64        `json:"kib"`
	Total  uint64        `json:"total"`
	Free   uint64        `json:"free"`
	Claims []PagesOfPool `json:"claims"`
}

// PagesOfPool is how many pages of a pool a guest claims.
type PagesOfPool struct {
	Guest string `json:"guest"`
	Count uint64 `json:"count"`
}

// A Group is an IOMMU group; its ID is "" for functions that are in none.
type Group struct {
	ID        string     `json:"group"`
	Functions []Function `json:"functions"`
}

// A Function is a PCI function. What is not known is "".
type Function struct {
	Address string `json:"address"`
	ID      string `json:"id"`
	Driver  string `json:"driver"`
	Class   string `json:"class"` // four hexadecimal digits
	Name    string `json:"name"`
	Guest   string `json:"guest"` // who has it
	Node    int    `json:"node"`  // -1 if none or not known
}

// A Guest is what a guest has, for [Read].
type Guest struct {
	Name  string
	CPUs  cpuset.Set
	PCI   []string
	Pages []Pages
}

// Pages is pages that a guest claims of one pool.
type Pages struct {
	Pool  sysfs.Pool
	Count uint64
}

// A Place is where a core is.
type Place struct {
	Socket, Node int
	Cache        *Cache
}

// Cores yields every core with its place.
func (h *Host) Cores(yield func(Place, *Core) bool) {
	for s := range h.Sockets {
		for p := range h.Sockets[s].Parts {
			part := &h.Sockets[s].Parts[p]
			for c := range part.Caches {
				at := Place{h.Sockets[s].ID, part.Node, &part.Caches[c]}
				for i := range at.Cache.Clusters {
					for k := range at.Cache.Clusters[i].Cores {
						if !yield(at, &at.Cache.Clusters[i].Cores[k]) {
							return
						}
					}
				}
			}
		}
	}
}

// Cores returns the cores that share the cache.
func (c *Cache) Cores() []Core {
	var all []Core
	for _, k := range c.Clusters {
		all = append(all, k.Cores...)
	}
	return all
}

// CPUs returns the core's threads.
func (c *Core) CPUs() cpuset.Set {
	var s cpuset.Set
	for _, t := range c.Threads {
		s = s.Union(cpuset.Of(t.CPU))
	}
	return s
}

// An Owner is who has CPUs.
type Owner struct {
	Guest    string // "" is the host
	Isolated bool
}

// owners returns who has a thread; the host, if nobody.
func (t Thread) owners() []Owner {
	if len(t.Guests) == 0 {
		return []Owner{{Isolated: t.Isolated}}
	}
	var all []Owner
	for _, g := range t.Guests {
		all = append(all, Owner{Guest: g})
	}
	return all
}

// Owned returns the CPUs by who has them.
func (h *Host) Owned() map[Owner]cpuset.Set {
	all := map[Owner]cpuset.Set{}
	for _, core := range h.Cores {
		for _, t := range core.Threads {
			for _, o := range t.owners() {
				all[o] = all[o].Union(cpuset.Of(t.CPU))
			}
		}
	}
	return all
}

// Online returns the CPUs that run.
func (h *Host) Online() cpuset.Set {
	var s cpuset.Set
	for _, core := range h.Cores {
		s = s.Union(core.CPUs())
	}
	return s
}

// node returns a node by its number, nil if there is none.
func (h *Host) node(id int) *Node {
	i := slices.IndexFunc(h.Nodes, func(n Node) bool { return n.ID == id })
	if i < 0 {
		return nil
	}
	return &h.Nodes[i]
}

// bridges reports whether a group holds nothing that can be passed through.
func (g *Group) bridges() bool {
	return !slices.ContainsFunc(g.Functions, func(f Function) bool { return !f.bridge() })
}

func (f *Function) bridge() bool { return len(f.Class) == 4 && f.Class[:2] == "06" }
