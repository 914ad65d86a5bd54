package sysfstest

import (
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"qemu-hook/cpuset"
)

// A Host is the model of one machine: its tree of files, and the state behind those files that react. Its methods may
// be called from several goroutines.
type Host struct {
	name    string
	comment string // what the host file says it is

	mu     sync.Mutex
	inodes []inode // by Node

	kernel   kernel
	cpus     cpus
	nodes    []*numaNode
	pools    []*hstate
	oneShort bool // the next growth of a pool is cut short by a signal

	pci       map[string]*pciDevice
	drivers   []*pciDriver // in order of registration
	autoprobe bool
	probeErr  map[string]syscall.Errno // by address and driver
	modules   map[string]*module
	loadOrder []string

	irqs       map[int]*irq
	irqDefault cpuset.Set // default_smp_affinity
	policies   []*policy  // of CPU frequencies

	processes map[int]process
	services  map[string]*unit // by name
	consoles  map[string]*vtconsole
	platform  []*framebuffer

	cgroups map[string]*cgroup // by path, "/" is the root
	units   map[string]cpuset.Set
	handed  []string // groups whose children systemd gave the cpuset controller

	cond    *sync.Cond // what somebody may wait for has changed
	ends    int        // calls of Close: each ends all waiting
	under   int        // changes under way
	changes int
	before  func(Change) error
	after   func(Change) error
	local   string             // directory of the copies that Local hands out
	added   map[string]Program // programs that a test has added, by path
}

// Name returns the name the host was parsed under.
func (h *Host) Name() string { return h.name }

// Comment returns what the host file says of the machine.
func (h *Host) Comment() string { return h.comment }

// Clone returns an independent copy of the host as it stands, without the functions set by OnChange and AfterChange.
func (h *Host) Clone() *Host {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &Host{
		name: h.name, comment: h.comment, inodes: slices.Clone(h.inodes),
		kernel: h.kernel, cpus: h.cpus, oneShort: h.oneShort,
		autoprobe: h.autoprobe, probeErr: maps.Clone(h.probeErr),
		loadOrder: slices.Clone(h.loadOrder),
		units:     maps.Clone(h.units), handed: slices.Clone(h.handed),
		irqDefault: h.irqDefault, added: maps.Clone(h.added),
	}
	c.cond = sync.NewCond(&c.mu)
	c.processes = maps.Clone(h.processes)
	c.services, c.consoles = copyMap(h.services), copyMap(h.consoles)
	c.platform, c.nodes = copySlice(h.platform), copySlice(h.nodes)
	c.pci, c.modules = copyMap(h.pci), copyMap(h.modules)
	c.irqs, c.policies = copyMap(h.irqs), copySlice(h.policies)
	c.pools, c.drivers, c.cgroups = copySlice(h.pools), copySlice(h.drivers), copyMap(h.cgroups)
	for _, p := range c.pools {
		p.node = slices.Clone(p.node)
	}
	for _, d := range c.drivers {
		d.ids = slices.Clone(d.ids)
	}
	for _, g := range c.cgroups {
		g.subtree = slices.Clone(g.subtree)
	}
	return c
}

// copyMap returns a map to copies of what another one leads to.
func copyMap[K comparable, V any](m map[K]*V) map[K]*V {
	c := make(map[K]*V, len(m))
	for k, v := range m {
		d := *v
		c[k] = &d
	}
	return c
}

// copySlice returns copies of what a slice leads to.
func copySlice[V any](s []*V) []*V {
	c := make([]*V, len(s))
	for i, v := range s {
		d := *v
		c[i] = &d
	}
	return c
}

// A Change is one mutation of the host: what a program did to it, not what followed from that by itself.
type Change struct {
	N     int    // running number on this host, from 1
	Op    string // write create unlink rename chmod chown truncate mkdir rmdir symlink link run dbus
	Path  string
	Value string // what was written, the new mode, owner, size or name; a program's arguments
	PID   int    // the process that does it, through the FUSE door; else 0
}

// OnChange sets a function that is asked before each change. An error refuses the change: a [syscall.Errno] is what
// the program gets to see. The function may take its time, block, kill the process, or change the host by the Host's
// own methods; it must be able to run in several goroutines if the program is. nil removes it.
func (h *Host) OnChange(f func(Change) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.before = f
}

// AfterChange sets a function that is told of each change that was made. Its error is what the program gets to see
// although the change stands. nil removes it.
func (h *Host) AfterChange(f func(Change) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.after = f
}

// Changes returns how many changes were made or refused so far.
func (h *Host) Changes() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changes
}

// WaitIdle waits until no change is under way, for at most d, and reports whether that came.
func (h *Host) WaitIdle(d time.Duration) bool {
	for end := time.Now().Add(d); ; time.Sleep(time.Millisecond) {
		h.mu.Lock()
		n := h.under
		h.mu.Unlock()
		if n == 0 {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// change makes one change: number it, ask, make it, tell.
func (h *Host) change(c Change, do func() error) error {
	h.mu.Lock()
	h.changes++
	h.under++
	c.N = h.changes
	before := h.before
	h.mu.Unlock()

	var err error
	if before != nil {
		err = before(c)
	}
	h.mu.Lock()
	if err == nil {
		err = do() // may wait, for what await says, and gives the lock back meanwhile
	}
	h.under--
	after := h.after
	h.mu.Unlock()
	if err == nil && after != nil {
		err = after(c)
	}
	return err
}
