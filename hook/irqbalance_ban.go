package hook

import (
	"context"
	"maps"
	"slices"
	"time"

	"qemu-hook/cpuset"
)

// IRQBalanceUnit is the unit of irqbalance, the daemon that spreads interrupts over CPUs.
const IRQBalanceUnit = "irqbalance.service"

// A BanBaseline is which CPUs irqbalance was told to leave alone.
type BanBaseline struct {
	PID int        `json:"pid"` // irqbalance's: a new one knows nothing of it
	Was cpuset.Set `json:"was,omitzero"`
	Now cpuset.Set `json:"now"` // as it was told last, or, unless Told, is being told
	// Told says that it was told Now.
	Told bool `json:"told,omitempty"`
	// IRQs are guests' interrupts that it was told to leave where they are, on top of WasIRQs.
	IRQs    []int `json:"irqs,omitempty"`
	WasIRQs []int `json:"was_irqs,omitempty"`
	// Back is when it was told what it was before; zero while guests claim CPUs. For a while its own answer is not to be
	// trusted then.
	Back time.Time `json:"back,omitzero"`
}

// banMemory is how long irqbalance may take until its answer is what it was told last: it looks every 10 seconds, unless
// its --interval says otherwise.
const banMemory = time.Minute

// SettleIRQBalance has irqbalance, if it runs, leave the CPUs alone that guests claim; when nobody does, those that it
// left alone before. One that was started meanwhile is told as well. Where a guest claims that it does not run, it is
// stopped; [Host.SettleUnits] starts it again.
func (h *Host) SettleIRQBalance(ctx context.Context) error {
	claims := h.Ledger.Claims("")
	if slices.Contains(claims.Units, IRQBalanceUnit) {
		return h.stopUnit(ctx, IRQBalanceUnit)
	}
	b := h.Ledger.Banned
	if claims.Banned.Empty() && b == nil {
		return nil
	}
	daemon, err := FindIRQBalance(h.FS)
	if err != nil {
		return err
	}
	if b != nil && (daemon == nil || daemon.pid != b.PID) {
		b = nil // what it was told has gone with it
	}
	switch {
	case daemon == nil, claims.Banned.Empty() && (b == nil || !b.Back.IsZero() && h.Now().Sub(b.Back) > banMemory):
		if h.Ledger.Banned == nil {
			return nil
		}
		h.Ledger.Banned = nil
		return h.SaveLedger()
	case claims.Banned.Empty() && !b.Back.IsZero():
		return nil
	case b == nil:
		was, err := daemon.Banned(ctx)
		if err != nil {
			return err
		}
		b = &BanBaseline{PID: daemon.pid, Was: was}
	}
	want := b.Was.Union(claims.Banned)
	if b.Told && b.Now.Equal(want) && b.Back.IsZero() && !claims.Banned.Empty() {
		return nil
	}
	b.Now, b.Told, b.Back, h.Ledger.Banned = want, false, time.Time{}, b
	if err := h.SaveLedger(); err != nil {
		return err
	}
	if claims.Banned.Empty() && len(b.IRQs) > 0 {
		if err := daemon.BanIRQs(ctx, b.WasIRQs); err != nil {
			return err
		}
		b.IRQs, b.WasIRQs = nil, nil
	}
	if err := daemon.Ban(ctx, want); err != nil {
		return err
	}
	if b.Told = true; claims.Banned.Empty() {
		b.Back = h.Now()
	}
	return h.SaveLedger()
}

// keepInterrupts has irqbalance leave guests' interrupts where they are: it would move them off the CPUs that it is to leave
// alone.
func (h *Host) keepInterrupts(ctx context.Context, own map[int]cpuset.Set) error {
	b := h.Ledger.Banned
	irqs := slices.Sorted(maps.Keys(own))
	if b == nil || !b.Told || !b.Back.IsZero() || slices.Equal(irqs, b.IRQs) {
		return nil
	}
	daemon, err := FindIRQBalance(h.FS)
	if err != nil || daemon == nil || daemon.pid != b.PID {
		return err
	}
	if len(b.IRQs) == 0 {
		if b.WasIRQs, err = daemon.BannedIRQs(ctx); err != nil {
			return err
		}
	}
	b.IRQs = irqs
	if err := h.SaveLedger(); err != nil {
		return err
	}
	return daemon.BanIRQs(ctx, append(slices.Clone(b.WasIRQs), irqs...))
}
