package prepare

import (
	"context"
	"slices"

	"qemu-hook/domain"
	"qemu-hook/hook"
)

// interruptsStep keeps the host's interrupts off the guest's CPUs and has the guest's own go there.
type interruptsStep struct{}

func (interruptsStep) Name() string { return "interrupts" }

func (interruptsStep) Plan(ctx context.Context, h *hook.Host, n *domain.Needs) (hook.Proposal, error) {
	var p hook.Proposal
	cpus, err := guestCPUs(h, n)
	if err != nil || cpus.free().Empty() {
		return p, err
	}
	p.Claim.Interrupts = cpus.free()
	p.Line("the host's interrupts off CPUs %s, those of the guest's functions on them", cpus.free())
	if h.Config.CPUs.IRQBalance == hook.IRQBalanceIgnore {
		return p, nil
	}
	stop := h.Config.CPUs.IRQBalance == hook.IRQBalanceStop
	daemon, err := hook.FindIRQBalance(h.FS)
	runs := daemon != nil
	there := false
	if daemon == nil && err == nil {
		there, err = h.HasSystemd()
	}
	if there {
		// One that has no socket that is known here.
		ask, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		runs, _ = h.Systemd.UnitRuns(ask, hook.IRQBalanceUnit)
	}
	switch {
	case stop && (runs || slices.Contains(h.Ledger.Stopped, hook.IRQBalanceUnit)):
		p.Claim.Units = []string{hook.IRQBalanceUnit}
		p.Line("%s does not run meanwhile", hook.IRQBalanceUnit)
	case runs && daemon == nil:
		p.Warn("irqbalance runs and has no socket by which to tell it of the guest's CPUs: it moves interrupts back; set cpus.irqbalance = \"stop\"")
	case err != nil:
		p.Warn("irqbalance cannot be told to leave the guest's CPUs alone: %v", err)
	case daemon != nil && !stop:
		p.Claim.Banned = cpus.free()
		p.Line("irqbalance leaves CPUs %s alone", cpus.free())
	}
	return p, nil
}
