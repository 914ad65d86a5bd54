package sysfs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Pool is the huge pages of one size on one NUMA node
// (/sys/devices/system/node/nodeN/hugepages/hugepages-<kB>kB, Documentation/admin-guide/mm/hugetlbpage.rst).
type Pool struct {
	KiB  uint64
	Node int
}

// String names the pool after "pages of": "2048 KiB on node 0".
func (p Pool) String() string { return fmt.Sprintf("%d KiB on node %d", p.KiB, p.Node) }

func (p Pool) path() string {
	return fmt.Sprintf("%s/hugepages/hugepages-%dkB/", nodePath(p.Node), p.KiB)
}

// PoolState is what the kernel counts in a pool, in pages.
type PoolState struct {
	Total   uint64 // nr_hugepages, surplus included
	Free    uint64
	Surplus uint64 // above what was asked for: freed by the kernel when their user goes
}

// Persistent is the number of pages that were asked for: what a write of nr_hugepages sets.
func (s PoolState) Persistent() uint64 { return s.Total - min(s.Surplus, s.Total) }

// InUse is the number of pages that somebody holds.
func (s PoolState) InUse() uint64 { return s.Total - min(s.Free, s.Total) }

// PoolState reads the pool's counters.
func (h FS) PoolState(p Pool) (PoolState, error) {
	var s PoolState
	for _, f := range []struct {
		name string
		to   *uint64
	}{{"nr_hugepages", &s.Total}, {"free_hugepages", &s.Free}, {"surplus_hugepages", &s.Surplus}} {
		n, err := h.readUint(p.path() + f.name)
		if err != nil {
			return PoolState{}, err
		}
		*f.to = n
	}
	return s, nil
}

// SetPool asks the kernel for that many persistent pages in all. A write that succeeds may have been granted in part
// only: read the state again.
func (h FS) SetPool(p Pool, pages uint64) error {
	return h.Write(p.path()+"nr_hugepages", strconv.FormatUint(pages, 10))
}

// HasPool reports whether the node has pages of that size at all.
func (h FS) HasPool(p Pool) (bool, error) { return h.Has(p.path() + "nr_hugepages") }

// HugePageSizes returns the page sizes of the host in KiB, ascending (/sys/kernel/mm/hugepages).
func (h FS) HugePageSizes() ([]uint64, error) {
	names, err := h.ListIfAny(hugepagesDir)
	if err != nil {
		return nil, err
	}
	var sizes []uint64
	for _, n := range names {
		v, _ := strings.CutPrefix(n, "hugepages-")
		if kib, err := strconv.ParseUint(strings.TrimSuffix(v, "kB"), 10, 64); err == nil {
			sizes = append(sizes, kib)
		}
	}
	slices.Sort(sizes)
	return sizes, nil
}

const hugepagesDir = "/sys/kernel/mm/hugepages"

// ReservedPages returns the pages of a size that somebody has reserved and not yet touched, on whichever node
// (resv_hugepages: the kernel does not count them by node).
func (h FS) ReservedPages(kib uint64) (uint64, error) {
	return h.readUint(fmt.Sprintf("%s/hugepages-%dkB/resv_hugepages", hugepagesDir, kib))
}

func (h FS) readUint(name string) (uint64, error) {
	v, err := h.Read(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, &Error{Op: "read", Path: name, Err: fmt.Errorf("%q is no number", v)}
	}
	return n, nil
}
