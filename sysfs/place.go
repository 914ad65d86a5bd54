package sysfs

import (
	"slices"
	"strconv"
	"strings"

	"qemu-hook/cpuset"
)

func cpuPath(cpu int) string { return cpuDir + "/cpu" + strconv.Itoa(cpu) }

// A CPUPlace is where a CPU stands in the machine, cpuN/topology (Documentation/ABI/stable/sysfs-devices-system-cpu). Only a CPU
// that runs has one.
type CPUPlace struct {
	Package, Core int // -1 if the kernel does not say
	Threads       cpuset.Set
}

// CPUPlace reads what there is of cpuN/topology: a CPU of which nothing is said is a core of its own.
func (h FS) CPUPlace(cpu int) CPUPlace {
	dir := cpuPath(cpu) + "/topology/"
	p := CPUPlace{Package: h.number(dir + "physical_package_id"), Core: h.number(dir + "core_id")}
	for _, name := range []string{"thread_siblings", "core_cpus"} {
		if s, ok := h.listOrMask(dir+name+"_list", dir+name); ok {
			p.Threads = s
			break
		}
	}
	if cpu >= 0 {
		p.Threads = p.Threads.Union(cpuset.Of(cpu))
	}
	return p
}

// CPUCapacity returns how much a CPU can do against the fastest, cpuN/cpu_capacity; -1 where the kernel does not say, which is
// where all are alike, or on x86.
func (h FS) CPUCapacity(cpu int) int { return h.number(cpuPath(cpu) + "/cpu_capacity") }

// A Cache is one cache for data, cpuN/cache/indexM.
type Cache struct {
	Level int
	Bytes uint64 // 0 if the kernel does not say
	CPUs  cpuset.Set
}

// Caches returns the data caches that CPUs have, each once; what cannot be read is left out.
func (h FS) Caches(cpus cpuset.Set) []Cache {
	var all []Cache
	seen := map[string]cpuset.Set{} // by index
	for cpu := range cpus.All() {
		dir := cpuPath(cpu) + "/cache"
		names, err := h.SubDirs(dir)
		if err != nil {
			continue
		}
		for _, name := range names {
			if !strings.HasPrefix(name, "index") || seen[name].Contains(cpu) {
				continue
			}
			at := dir + "/" + name + "/"
			shared, ok := h.listOrMask(at+"shared_cpu_list", at+"shared_cpu_map")
			if !ok {
				continue
			}
			seen[name] = seen[name].Union(shared)
			c := Cache{Level: h.number(at + "level"), CPUs: shared}
			if kind, _ := h.Read(at + "type"); c.Level < 1 || kind == "Instruction" {
				continue
			}
			size, _ := h.Read(at + "size")
			c.Bytes = mountSizeKiB(size) << 10
			all = append(all, c)
		}
	}
	return all
}

// Nodes returns the NUMA nodes that are on line, with memory, CPUs or neither; none where the kernel knows no nodes.
func (h FS) Nodes() []int {
	if s, err := h.readList(nodeDir + "/online"); err == nil {
		return slices.Collect(s.All())
	}
	names, _ := h.ReadDir(nodeDir)
	var ids []int
	for _, name := range names {
		if id, err := strconv.Atoi(strings.TrimPrefix(name, "node")); err == nil && strings.HasPrefix(name, "node") {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// NodeDistances returns how far other nodes are from a node, in the order of [FS.Nodes], nodeN/distance; nil if not known.
func (h FS) NodeDistances(node int) []int {
	v, err := h.Read(nodePath(node) + "/distance")
	if err != nil {
		return nil
	}
	var all []int
	for f := range strings.FieldsSeq(v) {
		n, err := strconv.Atoi(f)
		if err != nil {
			return nil
		}
		all = append(all, n)
	}
	return all
}

// PCINode returns the NUMA node that a function is near, -1 if none or not known.
func (h FS) PCINode(address string) int { return h.number(PCIDevice(address) + "/numa_node") }

// number reads a number, -1 where there is none.
func (h FS) number(name string) int {
	v, err := h.Read(name)
	if err != nil {
		return -1
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		return -1
	}
	return n
}

// listOrMask reads a set of CPUs from the file that has it as a list or, on old kernels, from that which has it as a mask.
func (h FS) listOrMask(list, mask string) (cpuset.Set, bool) {
	if s, err := h.readList(list); err == nil {
		return s, true
	}
	v, err := h.Read(mask)
	if err != nil {
		return cpuset.Set{}, false
	}
	s, err := cpuset.ParseMask(v)
	return s, err == nil
}
