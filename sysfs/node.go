package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"

	"qemu-hook/cpuset"
)

// nodeDir is the host's NUMA nodes (Documentation/ABI/stable/sysfs-devices-node).
const nodeDir = "/sys/devices/system/node"

func nodePath(node int) string { return nodeDir + "/node" + strconv.Itoa(node) }

// MemoryNodes returns the NUMA nodes that have memory, nodeN with has_memory.
func (h FS) MemoryNodes() (cpuset.Set, error) { return h.readList(nodeDir + "/has_memory") }

// NodeCPUs returns the CPUs of a node, nodeN/cpulist.
func (h FS) NodeCPUs(node int) (cpuset.Set, error) { return h.readList(nodePath(node) + "/cpulist") }

// CPUNodes returns the CPUs of each node that has some, nodeN of has_cpu; none where the kernel knows no nodes.
func (h FS) CPUNodes() ([]cpuset.Set, error) {
	ids, err := h.readList(nodeDir + "/has_cpu")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var nodes []cpuset.Set
	for id := range ids.All() {
		cpus, err := h.NodeCPUs(id)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, cpus)
	}
	return nodes, nil
}

// NodeMemory is what nodeN/meminfo says, in bytes.
type NodeMemory struct {
	Total, Free uint64
	// Reclaimable is page cache and slab that the kernel can give up.
	Reclaimable uint64
}

// NodeMemory reads nodeN/meminfo.
func (h FS) NodeMemory(node int) (NodeMemory, error) {
	name := nodePath(node) + "/meminfo"
	v, err := h.Read(name)
	if err != nil {
		return NodeMemory{}, err
	}
	var m NodeMemory
	for line := range strings.Lines(v) {
		// Node 0 Active(file):   123456 kB
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		n, err := strconv.ParseUint(f[3], 10, 54)
		if err != nil {
			return NodeMemory{}, &Error{Op: "read", Path: name, Err: fmt.Errorf("unexpected line %q", strings.TrimSpace(line))}
		}
		n *= 1024
		switch strings.TrimSuffix(f[2], ":") {
		case "MemTotal":
			m.Total = n
		case "MemFree":
			m.Free = n
		case "Active(file)", "Inactive(file)", "SReclaimable":
			m.Reclaimable += n
		}
	}
	return m, nil
}

// DefaultHugePageKiB returns the size that huge pages have when none is named, Hugepagesize in /proc/meminfo.
func (h FS) DefaultHugePageKiB() (uint64, error) {
	dir, err := h.Local("/proc")
	if err != nil {
		return 0, &Error{Op: "read", Path: "/proc/meminfo", Err: err}
	}
	proc, err := procfs.NewFS(dir)
	if err != nil {
		return 0, &Error{Op: "read", Path: "/proc", Err: err}
	}
	info, err := proc.Meminfo()
	if err != nil {
		return 0, &Error{Op: "read", Path: "/proc/meminfo", Err: err}
	}
	if info.Hugepagesize == nil || *info.Hugepagesize == 0 {
		return 0, fmt.Errorf("the kernel has no huge pages: /proc/meminfo names no Hugepagesize")
	}
	return *info.Hugepagesize, nil
}

// HugetlbMounts returns the page sizes, in KiB, for which a hugetlbfs is mounted (/proc/self/mounts).
func (h FS) HugetlbMounts(defaultKiB uint64) (map[uint64]bool, error) {
	v, err := h.Read("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	sizes := map[uint64]bool{}
	for line := range strings.Lines(v) {
		f := strings.Fields(line)
		if len(f) < 4 || f[2] != "hugetlbfs" {
			continue
		}
		size := defaultKiB
		for opt := range strings.SplitSeq(f[3], ",") {
			if s, ok := strings.CutPrefix(opt, "pagesize="); ok {
				size = mountSizeKiB(s)
			}
		}
		sizes[size] = true
	}
	return sizes, nil
}

// mountSizeKiB reads a size as the kernel prints it in mount options: "2M", "1024M", "1G"; 0 if it is none.
func mountSizeKiB(s string) uint64 {
	if s == "" {
		return 0
	}
	unit := map[byte]uint64{'K': 1, 'M': 1 << 10, 'G': 1 << 20}[s[len(s)-1]]
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	if err != nil {
		return 0
	}
	return n * unit
}

// CompactNode asks the kernel to make free memory of a node contiguous, nodeN/compact.
func (h FS) CompactNode(node int) error { return h.Write(nodePath(node)+"/compact", "1") }

// DropCaches frees page cache and reclaimable slab of the whole host
// (/proc/sys/vm/drop_caches, Documentation/admin-guide/sysctl/vm.rst).
func (h FS) DropCaches() error { return h.Write("/proc/sys/vm/drop_caches", "3") }

// ZFSCacheBytes returns what ZFS' own cache could give up, and whether ZFS is loaded
// (/proc/spl/kstat/zfs/arcstats: size less c_min). Where that cannot be told it counts as loaded.
func (h FS) ZFSCacheBytes() (bytes uint64, loaded bool) {
	if loaded, err := h.ModuleLoaded("zfs"); err == nil && !loaded {
		return 0, false
	}
	v, err := h.Read("/proc/spl/kstat/zfs/arcstats")
	if err != nil {
		return 0, true
	}
	stat := map[string]uint64{}
	for line := range strings.Lines(v) {
		if f := strings.Fields(line); len(f) == 3 {
			stat[f[0]], _ = strconv.ParseUint(f[2], 10, 64)
		}
	}
	if stat["size"] > stat["c_min"] {
		return stat["size"] - stat["c_min"], true
	}
	return 0, true
}

// NodesOf returns the nodes that hold the given CPUs.
func (h FS) NodesOf(cpus cpuset.Set) (cpuset.Set, error) {
	nodes, err := h.MemoryNodes()
	if err != nil {
		return cpuset.Set{}, err
	}
	var found cpuset.Set
	for n := range nodes.All() {
		local, err := h.NodeCPUs(n)
		if err != nil {
			return cpuset.Set{}, err
		}
		if !local.Intersect(cpus).Empty() {
			found = found.Union(cpuset.Of(n))
		}
	}
	return found, nil
}
