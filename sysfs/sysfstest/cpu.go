package sysfstest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"qemu-hook/cpuset"
)

const (
	cpuDir  = "/sys/devices/system/cpu"
	nodeDir = "/sys/devices/system/node"
)

// cpus is the processors of the host. Its values are never changed in place.
type cpus struct {
	possible, present, online, isolated cpuset.Set
	ids                                 int    // nr_cpu_ids: how many bits a mask has
	cores                               []core // in order
	caches                              []cache
}

// cache is the caches of one level and size, each with the CPUs that share it.
type cache struct {
	level  int
	size   string // as the kernel prints it, "32768K"
	shared []cpuset.Set
}

// core is a core with its threads.
type core struct {
	pkg, id int
	threads cpuset.Set
}

// core returns the core a CPU belongs to.
func (c *cpus) core(cpu int) core {
	for _, k := range c.cores {
		if k.threads.Contains(cpu) {
			return k
		}
	}
	return core{threads: cpuset.Of(cpu)}
}

// pkg returns all CPUs of a package.
func (c *cpus) pkg(n int) (s cpuset.Set) {
	for _, k := range c.cores {
		if k.pkg == n {
			s = s.Union(k.threads)
		}
	}
	return s
}

// addCPUs makes /sys/devices/system/cpu.
func (h *Host) addCPUs() {
	list := func(name string, f func(c *cpus) cpuset.Set) {
		h.rule(cpuDir+"/"+name, &attr{show: func(h *Host) (string, error) { return f(&h.cpus).String() + "\n", nil }})
	}
	list("online", func(c *cpus) cpuset.Set { return c.online })
	list("present", func(c *cpus) cpuset.Set { return c.present })
	list("possible", func(c *cpus) cpuset.Set { return c.possible })
	list("isolated", func(c *cpus) cpuset.Set { return c.isolated })
	list("offline", func(c *cpus) cpuset.Set { return c.possible.Minus(c.online) })
	h.value(cpuDir+"/kernel_max", "8191")
	for cpu := range h.cpus.possible.All() {
		h.cpus.ids = cpu + 1
	}
	for cpu := range h.cpus.present.All() {
		dir := cpuDir + "/cpu" + strconv.Itoa(cpu)
		h.mkdir(dir)
		if cpu != 0 { // x86 cannot take the first one off line
			h.rule(dir+"/online", flag(
				func(h *Host) bool { return h.cpus.online.Contains(cpu) },
				func(h *Host, on bool) { h.setOnline(cpu, on) },
			))
		}
		h.addTopology(cpu)
		h.addLatency(cpu)
	}
}

// addTopology makes cpuN/topology, which only a CPU that runs has.
func (h *Host) addTopology(cpu int) {
	if !h.cpus.online.Contains(cpu) {
		return
	}
	dir := fmt.Sprintf("%s/cpu%d/topology/", cpuDir, cpu)
	k := h.cpus.core(cpu)
	h.value(dir+"physical_package_id", strconv.Itoa(k.pkg))
	h.value(dir+"die_id", "0")
	h.value(dir+"core_id", strconv.Itoa(k.id))
	siblings := func(h *Host) (string, error) {
		return h.cpus.core(cpu).threads.Intersect(h.cpus.online).String() + "\n", nil
	}
	pkg := func(h *Host) (string, error) {
		return h.cpus.pkg(h.cpus.core(cpu).pkg).Intersect(h.cpus.online).String() + "\n", nil
	}
	h.rule(dir+"thread_siblings_list", &attr{show: siblings})
	h.rule(dir+"core_cpus_list", &attr{show: siblings})
	h.rule(dir+"core_siblings_list", &attr{show: pkg})
	h.rule(dir+"package_cpus_list", &attr{show: pkg})
	h.rule(dir+"thread_siblings", &attr{show: func(h *Host) (string, error) {
		return h.cpus.core(cpu).threads.Intersect(h.cpus.online).Mask() + "\n", nil
	}})
	h.addCaches(cpu)
}

// addCaches makes cpuN/cache of a CPU that runs, where the host file speaks of caches.
func (h *Host) addCaches(cpu int) {
	for _, c := range h.cpus.caches {
		for _, shared := range c.shared {
			if !shared.Contains(cpu) {
				continue
			}
			dir := fmt.Sprintf("%s/cpu%d/cache/index%d/", cpuDir, cpu, c.level)
			h.value(dir+"level", strconv.Itoa(c.level))
			h.value(dir+"type", map[bool]string{true: "Data", false: "Unified"}[c.level == 1])
			h.value(dir+"size", c.size)
			h.rule(dir+"shared_cpu_list", &attr{show: func(h *Host) (string, error) { return shared.Intersect(h.cpus.online).String() + "\n", nil }})
		}
	}
}

func (h *Host) setOnline(cpu int, online bool) {
	one := cpuset.Of(cpu)
	if online {
		h.cpus.online = h.cpus.online.Union(one)
		h.addTopology(cpu)
	} else {
		h.cpus.online = h.cpus.online.Minus(one)
		h.erase(fmt.Sprintf("%s/cpu%d/topology", cpuDir, cpu))
		h.erase(fmt.Sprintf("%s/cpu%d/cache", cpuDir, cpu))
		h.migrateIRQs()
		h.migrateThreads()
	}
}

// HotplugCPU takes a present CPU on or off line, as a write to cpuN/online does.
func (h *Host) HotplugCPU(cpu int, online bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.setOnline(cpu, online)
}

// nodeCPUs returns the CPUs of a NUMA node that run; those of node -1 are all.
func (h *Host) nodeCPUs(id int) cpuset.Set {
	i := h.nodeIndex(id)
	if i < 0 {
		return h.cpus.online
	}
	s, _ := cpuset.ParseList(h.nodes[i].cpus) // checked by Parse
	return s.Intersect(h.cpus.online)
}

// addNodes makes /sys/devices/system/node.
func (h *Host) addNodes() {
	var all, memory, cpu []int
	for i, n := range h.nodes {
		id := n.id
		all = append(all, id)
		if n.total > 0 {
			memory = append(memory, id)
		}
		if n.cpus != "" {
			cpu = append(cpu, id)
		}
		dir := fmt.Sprintf("%s/node%d/", nodeDir, id)
		h.rule(dir+"cpulist", &attr{show: func(h *Host) (string, error) { return h.nodeCPUs(id).String() + "\n", nil }})
		h.rule(dir+"cpumap", &attr{show: func(h *Host) (string, error) { return h.nodeCPUs(id).Mask() + "\n", nil }})
		h.value(dir+"distance", n.distance)
		h.rule(dir+"meminfo", &attr{noise: true, show: func(h *Host) (string, error) { return h.nodeMeminfo(i), nil }})
		h.rule(dir+"compact", &attr{store: func(h *Host, _ string) error {
			h.nodes[i].compact()
			return nil
		}})
		for c := range h.nodeCPUs(id).All() {
			h.link(fmt.Sprintf("%scpu%d", dir, c), fmt.Sprintf("%s/cpu%d", cpuDir, c))
		}
	}
	h.value(nodeDir+"/online", cpuset.Of(all...).String())
	h.value(nodeDir+"/possible", cpuset.Of(all...).String())
	h.value(nodeDir+"/has_memory", cpuset.Of(memory...).String())
	h.value(nodeDir+"/has_normal_memory", cpuset.Of(memory...).String())
	h.value(nodeDir+"/has_cpu", cpuset.Of(cpu...).String())
}

// memory is the amounts that both meminfo files speak of, in KiB.
type memory struct{ total, free, cache, slab, huge int64 }

func (h *Host) memoryOf(i int) memory {
	n := h.nodes[i]
	m := memory{total: n.total, free: n.free, cache: n.cache, slab: n.slab}
	for _, p := range h.pools {
		m.huge += p.node[i].nr * int64(p.kib)
	}
	return m
}

func (m *memory) add(o memory) {
	m.total += o.total
	m.free += o.free
	m.cache += o.cache
	m.slab += o.slab
	m.huge += o.huge
}

// anon is what programs hold: all that is nothing else.
func (m *memory) anon() int64 { return max(0, m.total-m.free-m.cache-m.slab-m.huge) }

func (h *Host) defaultPool() *hstate {
	i := max(0, slices.IndexFunc(h.pools, func(p *hstate) bool { return p.isDefault }))
	return h.pools[i]
}

func (h *Host) nodeMeminfo(i int) string {
	m := h.memoryOf(i)
	p := h.defaultPool().node[i]
	var b strings.Builder
	row := func(name string, kib int64) {
		fmt.Fprintf(&b, "Node %d %-15s %8d kB\n", h.nodes[i].id, name+":", kib)
	}
	row("MemTotal", m.total)
	row("MemFree", m.free)
	row("MemUsed", m.total-m.free)
	row("Active", m.anon()/2+m.cache/3)
	row("Inactive", m.anon()-m.anon()/2+m.cache-m.cache/3)
	row("Active(anon)", m.anon()/2)
	row("Inactive(anon)", m.anon()-m.anon()/2)
	row("Active(file)", m.cache/3)
	row("Inactive(file)", m.cache-m.cache/3)
	row("Unevictable", 0)
	row("Dirty", 0)
	row("FilePages", m.cache)
	row("Mapped", m.cache/16)
	row("AnonPages", m.anon())
	row("Shmem", 0)
	row("KReclaimable", m.slab)
	row("Slab", m.slab*2)
	row("SReclaimable", m.slab)
	row("SUnreclaim", m.slab)
	for _, c := range []struct {
		name string
		n    int64
	}{{"Total", p.nr}, {"Free", p.free}, {"Surp", p.surplus}} {
		fmt.Fprintf(&b, "Node %d HugePages_%s: %5d\n", h.nodes[i].id, c.name, c.n)
	}
	return b.String()
}

func (h *Host) meminfo() string {
	var m memory
	var reserve int64
	for i := range h.nodes {
		m.add(h.memoryOf(i))
		reserve += h.nodes[i].reserve()
	}
	p := h.defaultPool()
	var b strings.Builder
	row := func(name string, kib int64) { fmt.Fprintf(&b, "%-15s %8d kB\n", name+":", kib) }
	row("MemTotal", m.total)
	row("MemFree", m.free)
	row("MemAvailable", max(0, m.free-reserve+m.cache*7/8+m.slab/2))
	row("Buffers", 0)
	row("Cached", m.cache)
	row("SwapCached", 0)
	row("Active", m.anon()/2+m.cache/3)
	row("Inactive", m.anon()-m.anon()/2+m.cache-m.cache/3)
	row("Active(anon)", m.anon()/2)
	row("Inactive(anon)", m.anon()-m.anon()/2)
	row("Active(file)", m.cache/3)
	row("Inactive(file)", m.cache-m.cache/3)
	row("Unevictable", 0)
	row("SwapTotal", 0)
	row("SwapFree", 0)
	row("Dirty", 0)
	row("AnonPages", m.anon())
	row("Mapped", m.cache/16)
	row("Shmem", 0)
	row("KReclaimable", m.slab)
	row("Slab", m.slab*2)
	row("SReclaimable", m.slab)
	row("SUnreclaim", m.slab)
	fmt.Fprintf(&b, "HugePages_Total:   %5d\nHugePages_Free:    %5d\nHugePages_Rsvd:    %5d\nHugePages_Surp:    %5d\n",
		p.nr(), p.free(), p.resv, p.surplus())
	row("Hugepagesize", int64(p.kib))
	row("Hugetlb", m.huge)
	return b.String()
}
