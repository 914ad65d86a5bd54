package hook

import (
	"context"
	"errors"
	"maps"

	"qemu-hook/cpuset"
	"qemu-hook/sysfs"
)

// SettleInterrupts keeps the host's interrupts off the CPUs that guests claim to be free of them, those that will be
// registered later included, and has guests' own interrupts go to their CPUs; when nobody claims that any more, all of
// them go back to where they were.
//
// An interrupt that was registered meanwhile has its CPUs from the narrowed default: it goes to where it would have been.
func (h *Host) SettleInterrupts(ctx context.Context) error {
	claimed := h.Ledger.Claims("").Interrupts
	if claimed.Empty() && len(h.Ledger.Interrupts) == 0 {
		return nil
	}
	s, err := h.newSettling(&h.Ledger.Interrupts, claimed)
	if err != nil {
		return err
	}
	irqs, err := h.Interrupts()
	if err != nil {
		return err
	}
	messages, lines, err := h.guestInterrupts()
	if err != nil {
		return err
	}
	s.own = map[string]cpuset.Set{}
	for irq, cpus := range lines {
		s.own[sysfs.InterruptCPUs(irq)] = cpus
	}
	before := defaults{}
	if m := s.masks[sysfs.DefaultInterruptCPUs]; m != nil {
		// What it really is: a hook that was killed may not have come to write what is on record.
		now, err := h.ReadCPUs(sysfs.DefaultInterruptCPUs)
		switch {
		case err != nil && !vanished(err):
			return err // without it nobody can tell where new interrupts would be
		case err == nil && !s.drifted(sysfs.DefaultInterruptCPUs, m, now):
			if now.Equal(m.Was) {
				now = m.Had // it is back already, and not all interrupts are
			}
			before = defaults{was: m.Was, now: now}
		}
	}
	s.look(sysfs.DefaultInterruptCPUs)
	if before.known() {
		if err := s.readNodes(); err != nil {
			return err
		}
	}
	s.inherit = func(now cpuset.Set) (cpuset.Set, bool) { return before.inherited(now, s.online, s.nodes) }
	there := map[string]bool{sysfs.DefaultInterruptCPUs: true}
	for _, irq := range irqs {
		if messages[irq].Empty() {
			key := sysfs.InterruptCPUs(irq)
			there[key] = true
			s.look(key)
		}
	}
	for key := range s.masks {
		if !there[key] {
			s.forget(key) // its device has gone, or is a guest's now
		}
	}
	moving, unseen := len(s.writes), s.errs != nil
	err = s.settle(ctx)
	if unseen && before.known() && s.masks[sysfs.DefaultInterruptCPUs] == nil {
		s.masks[sysfs.DefaultInterruptCPUs] = &Mask{Was: before.was, Now: before.was, Had: before.now}
		err = errors.Join(err, h.SaveLedger())
	}
	s.logLeft("interrupts")
	if moving > 0 {
		h.Logf(Info, "%d interrupts moved; %d stay, as the kernel moves those by itself or not at all", moving-s.refused, s.refused)
	}
	return errors.Join(err, h.keepInterrupts(ctx, own(messages, lines)), h.steer(messages))
}

// defaults is what interrupts are given when they are registered: before the first claim, and now.
type defaults struct{ was, now cpuset.Set }

func (d defaults) known() bool { return !d.now.Empty() }

// inherited returns what an interrupt with this mask would have, if the default had not been narrowed when it was
// registered. Of the default an interrupt gets the CPUs that are on line, and of those the ones of its device's NUMA node, if there
// are any among them (irq_setup_affinity in kernel/irq/manage.c).
func (d defaults) inherited(mask, online cpuset.Set, nodes []cpuset.Set) (was cpuset.Set, ok bool) {
	if d.now.Empty() || d.now.Equal(d.was) || !mask.Minus(d.now).Empty() {
		return cpuset.Set{}, false
	}
	if mask.Equal(d.now) {
		return d.was, true
	}
	for _, part := range append([]cpuset.Set{online}, nodes...) {
		if part = part.Intersect(online); mask.Equal(d.now.Intersect(part)) {
			return d.was.Intersect(part), true
		}
	}
	return cpuset.Set{}, false
}

// guestInterrupts returns the interrupts of functions that guests have, with the CPUs to which each is to go: those of
// the guest's that the host's interrupts are kept off. Message-signalled ones are gone with the guest; a line that is used by
// guests only keeps its number and its CPUs after them.
func (h *Host) guestInterrupts() (messages, lines map[int]cpuset.Set, err error) {
	messages, lines = map[int]cpuset.Set{}, map[int]cpuset.Set{}
	for _, g := range h.Ledger.Guests {
		if g.Claim.Interrupts.Empty() {
			continue
		}
		for _, address := range g.Claim.PCI {
			if vfio, err := h.IsVFIO(address); err != nil {
				return nil, nil, err
			} else if !vfio {
				continue
			}
			irqs, err := h.MSIInterrupts(address)
			if err != nil {
				return nil, nil, err
			}
			for _, irq := range irqs {
				messages[irq] = g.Claim.Interrupts
			}
			if irq, ok := h.VFIOLine(address); ok && len(irqs) == 0 {
				lines[irq] = g.Claim.Interrupts
			}
		}
	}
	return messages, lines, nil
}

// own are all interrupts of guests'.
func own(messages, lines map[int]cpuset.Set) map[int]cpuset.Set {
	all := maps.Clone(messages)
	maps.Copy(all, lines)
	return all
}

// steer has guests' message-signalled interrupts go to their CPUs. Nothing of it needs to be put back.
func (h *Host) steer(own map[int]cpuset.Set) error {
	var errs error
	for irq, cpus := range own {
		key := sysfs.InterruptCPUs(irq)
		now, err := h.ReadCPUs(key)
		if err == nil && !now.Equal(cpus) {
			err = h.WriteCPUs(key, cpus)
		}
		if err != nil && !vanished(err) && !immovable(err) {
			errs = errors.Join(errs, err)
		}
	}
	return errs
}
