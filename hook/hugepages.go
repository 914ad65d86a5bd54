package hook

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"qemu-hook/cpuset"
	"qemu-hook/sysfs"
)

// A PoolDebt is what is under way, and what is still owed, in one huge page pool. Pools are shared with processes
// that are in no ledger, so they are only ever changed by a difference.
type PoolDebt struct {
	// Owed is the number of pages that we added and no guest claims any more: freed as soon as they are free.
	Owed uint64 `json:"owed,omitempty"`
	// Size is the pool's persistent pages when something was last owed: what others took away since is paid.
	Size uint64 `json:"size,omitempty"`
	// From and To are the persistent pages before and after a change that is under way.
	From uint64 `json:"from,omitempty"`
	To   uint64 `json:"to,omitempty"`
}

func poolKey(p sysfs.Pool) string { return fmt.Sprintf("node%d/%dkB", p.Node, p.KiB) }

func parsePoolKey(key string) (p sysfs.Pool, err error) {
	_, err = fmt.Sscanf(key, "node%d/%dkB", &p.Node, &p.KiB)
	return p, err
}

// debt returns the pool's entry, made if need be.
func (l *Ledger) debt(p sysfs.Pool) *PoolDebt {
	if l.Pools == nil {
		l.Pools = map[string]*PoolDebt{}
	}
	d := l.Pools[poolKey(p)]
	if d == nil {
		d = new(PoolDebt)
		l.Pools[poolKey(p)] = d
	}
	return d
}

// Promised returns the pages of a pool that guests claim and have not taken into use yet, but for the guest named.
func (h *Host) Promised(p sysfs.Pool, except string) uint64 {
	var n uint64
	for id, g := range h.Ledger.Guests {
		for _, c := range g.Claim.Pages {
			if id != except && c.Pool() == p && !g.Started && !h.hasItsMemory(id, g) {
				n += c.Count
			}
		}
	}
	return n
}

// AvailablePages returns the pages of a pool that a guest can have as they are: free, less those reserved, those
// promised to other guests and those the configuration keeps. The kernel does not say on which node its
// reservations will fall, so they count on each. Lacking is what those others' share is more than is free: the pool
// must grow by that much before there is a page for the guest.
func (h *Host) AvailablePages(p sysfs.Pool, uuid string) (available, lacking uint64, err error) {
	s, err := h.PoolState(p)
	if err != nil {
		return 0, 0, err
	}
	reserved, err := h.ReservedPages(p.KiB)
	if err != nil {
		return 0, 0, err
	}
	taken := reserved + h.Promised(p, uuid) + h.Config.Hugepages.Keep
	return s.Free - min(s.Free, taken), taken - min(s.Free, taken), nil
}

// PoolCapacity returns the pages by which a node's pool can grow at most: its free memory and what the kernel and
// ZFS can give up. Doubtful is set when the sum hangs on ZFS' cache.
func (h *Host) PoolCapacity(p sysfs.Pool) (pages uint64, doubtful bool, err error) {
	m, err := h.NodeMemory(p.Node)
	if err != nil {
		return 0, false, err
	}
	arc, zfs := h.ZFSCacheBytes()
	return (m.Free + m.Reclaimable + arc) / (p.KiB << 10), zfs, nil
}

// A ShortageError is a pool that could not grow as far as a guest needs.
type ShortageError struct {
	Pool        sysfs.Pool
	Wanted, Got uint64 // pages
	Cause       error  // what ended the attempt, nil if the memory is not there
}

func (e *ShortageError) Error() string {
	missing := (e.Wanted - e.Got) * e.Pool.KiB << 10
	s := fmt.Sprintf("cannot get %d huge pages of %s: only %d are to be had, %s are missing", e.Wanted, e.Pool, e.Got, FormatBytes(missing))
	if e.Cause != nil {
		s += fmt.Sprintf(" (%v)", e.Cause)
	}
	return s + "; close programs, give the guest less <memory>, or reserve pages at boot (hugepages=)"
}

func (e *ShortageError) Unwrap() error { return e.Cause }

// SettleHugepages finishes what an interrupted process left, and gives back what is owed as far as it is free.
// What cannot be freed now stays owed; only a pool that cannot be read or written is an error.
func (h *Host) SettleHugepages() error {
	if len(h.Ledger.Pools) == 0 {
		return nil
	}
	var errs error
	for _, key := range sortedKeys(h.Ledger.Pools) {
		p, err := parsePoolKey(key)
		if err == nil {
			err = h.payDebt(p, h.Ledger.Pools[key])
		}
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("cannot give back huge pages: %w", err))
			continue
		}
		if *h.Ledger.Pools[key] == (PoolDebt{}) {
			delete(h.Ledger.Pools, key)
		}
	}
	return errors.Join(errs, h.SaveLedger())
}

// payDebt shrinks the pool by what is owed, never below what is in use, reserved or promised.
func (h *Host) payDebt(p sysfs.Pool, d *PoolDebt) error {
	s, err := h.PoolState(p)
	if err != nil {
		return err
	}
	d.finish(s.Persistent())
	d.forgive(s.Persistent())
	if d.Owed == 0 {
		return nil
	}
	reserved, err := h.ReservedPages(p.KiB)
	if err != nil {
		return err
	}
	floor := s.InUse() + reserved + h.Promised(p, "")
	if persistent := s.Persistent(); persistent > floor {
		pay := min(d.Owed, persistent-floor)
		d.From, d.To = persistent, persistent-pay
		if err := h.SaveLedger(); err != nil {
			return err
		}
		err = h.SetPool(p, d.To)
		s, rerr := h.PoolState(p)
		if rerr != nil {
			return errors.Join(err, rerr) // what came of it the next look tells
		}
		d.finish(s.Persistent())
		d.forgive(s.Persistent())
	}
	if d.From == d.To {
		h.Ledger.handOver(p, d)
	}
	if d.Owed > 0 {
		h.Logf(Warning, "%d huge pages of %s are still owed to the host: somebody uses them", d.Owed, p)
	}
	return err
}

// handOver makes what cannot be given back of a pool because guests use it theirs to give back: or it would be taken from pages
// that others add meanwhile.
func (l *Ledger) handOver(p sysfs.Pool, d *PoolDebt) {
	for _, uuid := range sortedKeys(l.Guests) {
		claims := l.Guests[uuid].Claim.Pages
		for i := range claims {
			if c := &claims[i]; c.Pool() == p {
				n := min(d.Owed, c.Count-min(c.Added, c.Count))
				c.Added += n
				d.Owed -= n
			}
		}
	}
	if d.Owed == 0 {
		d.Size = 0
	}
}

// forgive takes what others have shrunk the pool by since pages were first owed off the debt.
func (d *PoolDebt) forgive(persistent uint64) {
	if d.Size > persistent {
		d.Owed -= min(d.Owed, d.Size-persistent)
	}
	d.Owed = min(d.Owed, persistent)
	if d.Size = persistent; d.Owed == 0 {
		d.Size = 0
	}
}

// finish turns a change that was under way into what came of it: what the pool grew by is owed, what it shrank by
// is paid.
func (d *PoolDebt) finish(persistent uint64) {
	from, to := d.From, d.To
	if from == to {
		return
	}
	d.Size = 0 // what it was before says nothing any more
	switch {
	case to > from:
		d.Owed += min(max(persistent, from), to) - from
	case to < from:
		d.Owed -= min(d.Owed, from-max(min(persistent, from), to))
	}
	d.From, d.To = 0, 0
}

// GrowPools adds to the pools what the guest's claim on pages lacks. On a shortage what this call added is owed
// back, and the error is a *ShortageError; the caller releases the claim.
func (h *Host) GrowPools(ctx context.Context, uuid string) error {
	ctx, cancel := context.WithTimeout(ctx, h.Config.Hugepages.Deadline)
	defer cancel()
	claim := &h.Ledger.Guests[uuid].Claim
	for i := 0; i < len(claim.Pages); i++ {
		c := &claim.Pages[i]
		err := h.growClaim(ctx, uuid, c)
		var short *ShortageError
		if errors.As(err, &short) && c.Elsewhere {
			if err = h.moveClaim(claim, i, short); err == nil {
				err = h.SaveLedger()
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// growClaim brings the pool of one claim to where the claim can be met.
func (h *Host) growClaim(ctx context.Context, uuid string, c *PageClaim) error {
	available, lacking, err := h.AvailablePages(c.Pool(), uuid)
	if err != nil || available >= c.Count {
		return err
	}
	missing := c.Count - available + lacking
	s, err := h.PoolState(c.Pool())
	if err != nil {
		return err
	}
	d := h.Ledger.debt(c.Pool())
	// Surplus pages become persistent first; asking for them on top of the total leaves what is free growing.
	d.From, d.To = s.Persistent(), s.Total+missing
	if err := h.SaveLedger(); err != nil {
		return err
	}
	g := grower{h: h, pool: c.Pool(), from: s.Total, to: d.To}
	growErr := g.grow(ctx)
	s, err = h.PoolState(c.Pool())
	if err != nil {
		return err
	}
	owed := d.Owed
	d.finish(s.Persistent())
	// The growth belongs to the claim, not to the debt.
	c.Added += d.Owed - owed
	d.Owed = owed
	if *d == (PoolDebt{}) {
		delete(h.Ledger.Pools, poolKey(c.Pool()))
	}
	if err := h.SaveLedger(); err != nil {
		return err
	}
	if available, _, err = h.AvailablePages(c.Pool(), uuid); err != nil {
		return err
	}
	if available < c.Count {
		var denied *sysfs.DeniedError
		if errors.As(growErr, &denied) {
			return growErr // the memory is not short
		}
		return &ShortageError{Pool: c.Pool(), Wanted: c.Count, Got: available, Cause: growErr}
	}
	return nil
}

// moveClaim has what one node lacks come from another, for a guest that does not mind.
func (h *Host) moveClaim(claim *Claim, i int, short *ShortageError) error {
	nodes, err := h.MemoryNodes()
	if err != nil {
		return err
	}
	for _, c := range claim.Pages {
		if c.KiB == short.Pool.KiB {
			nodes = nodes.Minus(cpuset.Of(c.Node))
		}
	}
	left := short.Wanted - short.Got
	for n := range nodes.All() {
		p := sysfs.Pool{KiB: short.Pool.KiB, Node: n}
		if there, err := h.HasPool(p); err != nil || !there {
			continue
		}
		if room, _, err := h.PoolCapacity(p); err == nil && room > 0 {
			claim.Pages[i].Count -= left
			claim.Pages = append(claim.Pages, PageClaim{KiB: p.KiB, Node: n, Count: left, Elsewhere: true})
			return nil
		}
	}
	return short
}

// A grower brings one pool to a number of pages.
type grower struct {
	h        *Host
	pool     sysfs.Pool
	from, to uint64 // pages in all
}

// The steps in which a pool grows when memory is short: each a write that the kernel may take seconds for, so small
// enough that a deadline can stop between two of them.
const (
	growSteps   = 8
	minGrowStep = 256 << 10 // KiB
)

// grow does in turn what costs the host more each time: one write if the memory is free; compaction of the node and
// writes in steps; at last the page cache.
func (g *grower) grow(ctx context.Context) error {
	cfg := &g.h.Config.Hugepages
	_, zfs := g.h.ZFSCacheBytes()
	drop := cfg.DropCaches != Never && !zfs
	if drop && cfg.DropCaches == Always {
		if err := g.h.DropCaches(); err != nil {
			return err
		}
	}
	if cfg.Compact == Always {
		if err := g.h.CompactNode(g.pool.Node); err != nil {
			return err
		}
	}
	m, err := g.h.NodeMemory(g.pool.Node)
	if err != nil {
		return err
	}
	if left, err := g.left(); err != nil {
		return err
	} else if m.Free >= left*g.pool.KiB<<10 {
		if err := g.write(ctx, g.to); err != nil {
			return err
		}
	}
	if done, err := g.steps(ctx); done || err != nil {
		return err
	}
	if !drop {
		return nil
	}
	if err := g.h.DropCaches(); err != nil {
		return err
	}
	_, err = g.steps(ctx)
	return err
}

func (g *grower) left() (uint64, error) {
	s, err := g.h.PoolState(g.pool)
	return g.to - min(s.Total, g.to), err
}

// write asks for pages until the pool has no more to give: a pending signal ends an allocation early and the
// kernel reports success, so a short count counts only when it stays.
func (g *grower) write(ctx context.Context, to uint64) error {
	for last := int64(-1); ; {
		s, err := g.h.PoolState(g.pool)
		if err != nil || s.Total >= to || int64(s.Total) == last {
			return err
		}
		if err := ctx.Err(); err != nil {
			return g.late()
		}
		last = int64(s.Total)
		g.h.Doing("%d of %d pages", s.Total-min(g.from, s.Total), g.to-g.from)
		if err := g.h.SetPool(g.pool, to); err != nil {
			return err
		}
	}
}

// steps compacts and asks for a part of what is missing, again and again while that brings something.
func (g *grower) steps(ctx context.Context) (done bool, err error) {
	for {
		left, err := g.left()
		if err != nil || left == 0 {
			return left == 0, err
		}
		if ctx.Err() != nil {
			return false, g.late()
		}
		if g.h.Config.Hugepages.Compact != Never {
			if err := g.h.CompactNode(g.pool.Node); err != nil {
				return false, err
			}
		}
		step := min(left, max((g.to-g.from)/growSteps, minGrowStep/g.pool.KiB, 1))
		if err := g.write(ctx, g.to-left+step); err != nil {
			return false, err
		}
		if now, err := g.left(); err != nil || now == left {
			return false, err
		}
	}
}

func (g *grower) late() error {
	return fmt.Errorf("not done within hugepages.deadline = %s", g.h.Config.Hugepages.Deadline)
}

// Transfer takes what an earlier claim of the same guest had the pools grown by over into its new claim; what the new
// one does not need is owed back.
func (l *Ledger) Transfer(from, to []PageClaim) []PageClaim {
	for _, old := range from {
		spare := old.Added
		for i := range to {
			if to[i].Pool() == old.Pool() {
				keep := min(old.Added, to[i].Count)
				to[i].Added += keep
				spare -= keep
			}
		}
		if spare > 0 {
			l.debt(old.Pool()).Owed += spare
		}
	}
	return to
}

// DescribePages renders claims on pages for people.
func DescribePages(pages []PageClaim) string {
	var parts []string
	for _, p := range pages {
		parts = append(parts, fmt.Sprintf("%d of %s", p.Count, p.Pool()))
	}
	return strings.Join(parts, ", ")
}
