package hook

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"qemu-hook/cpuset"
	"qemu-hook/journal"
	"qemu-hook/sysfs"
)

// LedgerDocument is the ledger's name in the state directory.
const LedgerDocument = "ledger.json"

// A Ledger is what all guests together have taken of what they share, and the host's own values from before the
// first claim. The host's value at any time follows from these two alone.
type Ledger struct {
	Guests map[string]*Guest `json:"guests,omitempty"` // by UUID
	// Units is the baseline of the host's slices and scopes, by unit name; empty when no guest claims CPUs.
	Units map[string]*UnitBaseline `json:"units,omitempty"`
	// Pools is what is under way, and what is still owed, in the huge page pools.
	Pools map[string]*PoolDebt `json:"pools,omitempty"` // by poolKey
	// Wedged are the functions that are stuck in a write that never returned.
	Wedged map[string]*Wedge `json:"wedged,omitempty"` // by PCI address
	// Stopped are units that ran and were stopped, in that order: started again when no guest claims them.
	Stopped []string `json:"stopped,omitempty"`
	// Console is the host's console before a guest took the card that it is on; nil when none has.
	Console *ConsoleBaseline `json:"console,omitempty"`
	// Interrupts is where interrupts went, KernelWork where the kernel's own work ran, before claims moved them, by file or
	// thread.
	Interrupts map[string]*Mask `json:"interrupts,omitempty"`
	KernelWork map[string]*Mask `json:"kernel_work,omitempty"`
	// Exclusive is what the files of cgroups above guests' held that allow partitions.
	Exclusive map[string]cpuset.Set `json:"exclusive,omitempty"`
	// Banned is what irqbalance was told to leave alone before it was told of guests; nil if it was not.
	Banned *BanBaseline `json:"banned,omitempty"`
	// Settings is what the kernel's files held that claims have set.
	Settings map[string]*SettingBaseline `json:"settings,omitempty"`
	// Ports is how the power of ports was managed before a guest had them kept awake.
	Ports map[string]*sysfs.PCIPower `json:"ports,omitempty"` // by PCI address
}

// A Guest is a prepared guest.
type Guest struct {
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
	Caller
	// Started is set once QEMU has its memory: its pages count as in use, no longer as promised.
	Started bool `json:"started,omitempty"`
	// QEMU is its process, once it was seen to run.
	QEMU *Process `json:"qemu,omitempty"`
	// Released says that it was given back, but for what is still on its undo log.
	Released bool `json:"released,omitempty"`
	// Attended is set once transient units run beside it.
	Attended bool  `json:"attended,omitempty"`
	Claim    Claim `json:"claim"`
	// Copies are the records of its undo log, in case somebody empties that.
	Copies []journal.Record `json:"copies,omitempty"`
	// Seconds is how long each step of its preparation took; kept only if somebody wants to know (metrics.textfile).
	Seconds map[string]float64 `json:"seconds,omitempty"`
}

// A Caller is who had a guest prepared.
type Caller struct {
	ByHand bool `json:"by_hand,omitempty"`
	// Owner is the libvirt daemon that called the hook and owes it a release; nil if there is none to be seen.
	Owner *Process `json:"owner,omitempty"`
	// Unseen is why it cannot be told whether there is one. Such a guest is not prepared: it would look like one that nobody
	// releases, and recover could take its devices while QEMU starts.
	Unseen error `json:"-"`
}

// A Claim is what one guest takes of what guests share.
type Claim struct {
	// PCI are the functions that are this guest's: a function is shared in so far as only one can have it.
	PCI []string `json:"pci,omitempty"`
	// CPUs are kept free of the host.
	CPUs cpuset.Set `json:"cpus,omitzero"`
	// Pages are promised to the guest's memory.
	Pages []PageClaim `json:"pages,omitempty"`
	// Units must not run.
	Units []string `json:"units,omitempty"`
	// Console says that the host's console is off the card.
	Console bool `json:"console,omitempty"`
	// Framebuffer says that the firmware's frame buffer is off the card.
	Framebuffer bool `json:"framebuffer,omitempty"`
	// Ports are PCI ports that are to stay awake.
	Ports []string `json:"ports,omitempty"`
	// Interrupts are CPUs that the host's interrupts are kept off, and that the guest's own go to; KernelWork those that the
	// kernel's own work is kept off.
	Interrupts cpuset.Set `json:"interrupts,omitzero"`
	KernelWork cpuset.Set `json:"kernel_work,omitzero"`
	// Settings are values that files of the kernel's have while the guest runs, by path.
	Settings map[string]string `json:"settings,omitempty"`
	// Partition are CPUs that become isolated partitions once the guest runs.
	Partition cpuset.Set `json:"partition,omitzero"`
	// Banned are CPUs that irqbalance is told to leave alone.
	Banned cpuset.Set `json:"banned,omitzero"`
	// Inhibit is what logind keeps the host from while the guest runs: "sleep", "idle".
	Inhibit []string `json:"inhibit,omitempty"`
}

// Empty reports whether nothing is claimed.
func (c *Claim) Empty() bool {
	return len(c.PCI) == 0 && c.CPUs.Empty() && len(c.Pages) == 0 && len(c.Units) == 0 && !c.Console && !c.Framebuffer &&
		len(c.Ports) == 0 && c.Interrupts.Empty() && c.KernelWork.Empty() && c.Partition.Empty() && c.Banned.Empty() && len(c.Settings) == 0 && len(c.Inhibit) == 0
}

// Add takes another claim into this one: what either wants.
func (c *Claim) Add(o Claim) {
	c.PCI = union(c.PCI, o.PCI)
	c.CPUs = c.CPUs.Union(o.CPUs)
	c.Pages = append(c.Pages, o.Pages...)
	c.Units = union(c.Units, o.Units)
	c.Console, c.Framebuffer = c.Console || o.Console, c.Framebuffer || o.Framebuffer
	c.Ports = union(c.Ports, o.Ports)
	c.Interrupts, c.KernelWork = c.Interrupts.Union(o.Interrupts), c.KernelWork.Union(o.KernelWork)
	c.Partition, c.Banned = c.Partition.Union(o.Partition), c.Banned.Union(o.Banned)
	for file, value := range o.Settings {
		if _, ok := c.Settings[file]; !ok {
			if c.Settings == nil {
				c.Settings = map[string]string{}
			}
			c.Settings[file] = value
		}
	}
	c.Inhibit = union(c.Inhibit, o.Inhibit)
}

func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

// A PageClaim is a number of pages of one pool.
type PageClaim struct {
	KiB   uint64 `json:"kib"`
	Node  int    `json:"node"`
	Count uint64 `json:"count"`
	// Added is how many the pool has grown by for this claim; the others were free in it.
	Added uint64 `json:"added"`
	// Elsewhere says that the guest does not mind the node: what this node lacks may come from others.
	Elsewhere bool `json:"elsewhere,omitempty"`
}

// Pool returns the pool that the claim is on.
func (p PageClaim) Pool() sysfs.Pool { return sysfs.Pool{KiB: p.KiB, Node: p.Node} }

// Empty reports whether the ledger says nothing, so that it need not be kept.
func (l *Ledger) Empty() bool {
	return len(l.Guests) == 0 && len(l.Units) == 0 && len(l.Pools) == 0 && len(l.Wedged) == 0 &&
		len(l.Stopped) == 0 && l.Console == nil && len(l.Ports) == 0 &&
		len(l.Interrupts) == 0 && len(l.KernelWork) == 0 && len(l.Exclusive) == 0 && l.Banned == nil && len(l.Settings) == 0
}

// Find returns the guest with the UUID; with none given, the one guest of that name.
func (l *Ledger) Find(uuid, name string) (string, *Guest) {
	if uuid != "" {
		return uuid, l.Guests[uuid]
	}
	for uuid, g := range l.Guests {
		if g.Name == name {
			return uuid, g
		}
	}
	return "", nil
}

// PCIOwner returns the guest, other than the one named, whose function it is; nil if nobody's.
func (l *Ledger) PCIOwner(address, uuid string) *Guest {
	for id, g := range l.Guests {
		if id == uuid {
			continue
		}
		for _, a := range g.Claim.PCI {
			if a == address {
				return g
			}
		}
	}
	return nil
}

// Claims returns all that guests claim, but for the guest named.
func (l *Ledger) Claims(except string) Claim {
	var all Claim
	for id, g := range l.Guests {
		if id != except {
			all.Add(g.Claim)
		}
	}
	return all
}

// LoadLedger reads the ledger into the host.
func (h *Host) LoadLedger() error {
	h.Ledger = new(Ledger)
	if _, err := h.State.ReadDocument(LedgerDocument, h.Ledger); err != nil {
		return err
	}
	if h.Ledger.Guests == nil {
		h.Ledger.Guests = map[string]*Guest{}
	}
	// JSON's null is an entry that says nothing.
	maps.DeleteFunc(h.Ledger.Guests, func(_ string, g *Guest) bool { return g == nil })
	maps.DeleteFunc(h.Ledger.Units, func(_ string, b *UnitBaseline) bool { return b == nil })
	maps.DeleteFunc(h.Ledger.Wedged, func(_ string, w *Wedge) bool { return w == nil })
	maps.DeleteFunc(h.Ledger.Ports, func(_ string, p *sysfs.PCIPower) bool { return p == nil })
	maps.DeleteFunc(h.Ledger.Interrupts, func(_ string, m *Mask) bool { return m == nil })
	maps.DeleteFunc(h.Ledger.KernelWork, func(_ string, m *Mask) bool { return m == nil })
	maps.DeleteFunc(h.Ledger.Settings, func(_ string, b *SettingBaseline) bool { return b == nil })
	maps.DeleteFunc(h.Ledger.Pools, func(_ string, d *PoolDebt) bool { return d == nil })
	return nil
}

// SaveLedger writes the ledger, or removes it when it says nothing.
func (h *Host) SaveLedger() error {
	var doc any
	if !h.Ledger.Empty() {
		doc = h.Ledger
	}
	if err := h.State.WriteDocument(LedgerDocument, doc); err != nil {
		return fmt.Errorf("cannot keep the ledger: %w", err)
	}
	return nil
}

// Release drops the guest's claim: what it had the pools grown by is owed back to the host from now on.
func (l *Ledger) Release(uuid string) {
	g := l.Guests[uuid]
	if g == nil {
		return
	}
	for _, p := range g.Claim.Pages {
		if p.Added > 0 {
			l.debt(p.Pool()).Owed += p.Added
		}
	}
	delete(l.Guests, uuid)
}
