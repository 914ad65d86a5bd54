// Package prepare plans what a guest needs of its host and brings the host there. There is one file for each step.
package prepare

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"qemu-hook/domain"
	"qemu-hook/hook"
)

// Steps returns the steps in the order in which they act. Own commands come first of all, even of the plan. What is stopped gives its memory back, so that comes first; then
// the memory, which is what most likely falls short.
func Steps() []hook.Step {
	return []hook.Step{
		runStep{},
		quiesceStep{},
		hugepagesStep{},
		cpusStep{},
		interruptsStep{},
		kernelStep{},
		frequencyStep{},
		tunablesStep{},
		pciStep{},
		shmStep{},
		inhibitStep{},
	}
}

// A Plan is what preparing a guest would do.
type Plan struct {
	Guest    domain.Guest
	Steps    []StepPlan
	Claim    hook.Claim
	Changes  []hook.Change
	Warnings []string
	Refusals []string
	// Compact, Brief, Frees and Unseen are as in a proposal.
	Compact       []int
	Brief         []string
	Frees, Unseen bool

	quiet bool // what is to be stopped is stopped
	needs *domain.Needs
}

// stops reports whether the plan stops anything that has memory.
func (p *Plan) stops() bool {
	large := func(unit string) bool {
		return !slices.Contains(hook.NVIDIAServices(), unit) && unit != hook.IRQBalanceUnit
	}
	return !p.quiet && (p.Frees || slices.ContainsFunc(p.Claim.Units, large))
}

// A StepPlan is one step's part of a plan.
type StepPlan struct {
	Name  string
	Lines []string
}

// NewPlan asks every step that is switched on. It writes nothing and collects all refusals. An error means that the
// host could not be read.
func NewPlan(ctx context.Context, h *hook.Host, n *domain.Needs) (*Plan, error) {
	return newPlan(ctx, h, n, false)
}

// newPlan plans; quiet says that what is to be stopped is stopped.
func newPlan(ctx context.Context, h *hook.Host, n *domain.Needs, quiet bool) (*Plan, error) {
	p := &Plan{Guest: n.Guest, quiet: quiet, needs: n}
	if by := h.SwitchedOff(); by != "" {
		p.Refusals = []string{"qemu-hook is switched off by " + by + "; guests that need nothing of it start"}
		return p, nil
	}
	if n.Guest.UUID == "" {
		p.Refusals = append(p.Refusals, "the domain XML has no <uuid>, by which the guest is known again; take it from: virsh dumpxml")
	}
	if err := n.Guest.CheckName(); err != nil {
		p.Refusals = append(p.Refusals, err.Error())
	}
	if h.Ledger.Guests[n.Guest.UUID] != nil {
		if runs, err := h.QEMURuns(n.Guest.UUID, n.Guest.Name); runs {
			p.Refusals = append(p.Refusals, errRunning(n.Guest.Name, err).Error())
		}
	}
	recorded, err := h.Recorded(n.Guest.UUID)
	if err != nil {
		return nil, err
	}
	for _, s := range Steps() {
		if !h.Config.StepEnabled(s.Name()) {
			continue
		}
		stop := h.Time(s.Name())
		proposal, err := s.Plan(ctx, h, n)
		stop()
		if err != nil {
			return nil, fmt.Errorf("cannot plan %s: %w", s.Name(), err)
		}
		p.add(s.Name(), proposal, recorded, slices.Contains(h.Config.Required, s.Name()))
	}
	return p, nil
}

// add takes a step's proposal into the plan. A change that an earlier prepare made already is shown as the record
// has it.
func (p *Plan) add(name string, proposal hook.Proposal, recorded []hook.Change, required bool) {
	step := StepPlan{Name: name, Lines: proposal.Lines}
	for _, c := range proposal.Changes {
		line := c.String()
		if i := slices.IndexFunc(recorded, func(r hook.Change) bool { return hook.SameChange(r, c) }); i >= 0 {
			line = recorded[i].String() + " (done before)"
		}
		step.Lines = append(step.Lines, line)
	}
	p.Steps = append(p.Steps, step)
	p.Claim.Add(proposal.Claim)
	p.Compact = append(p.Compact, proposal.Compact...)
	p.Brief = append(p.Brief, proposal.Brief...)
	p.Frees, p.Unseen = p.Frees || proposal.Frees, p.Unseen || proposal.Unseen
	p.Changes = append(p.Changes, proposal.Changes...)
	p.Refusals = append(p.Refusals, proposal.Refusals...)
	if p.stops() {
		for _, s := range proposal.Shortages {
			p.Warnings = append(p.Warnings, s+" (looked at again when what is to be stopped has given back its memory)")
		}
	} else {
		p.Refusals = append(p.Refusals, proposal.Shortages...)
	}
	p.Warnings = append(p.Warnings, proposal.Notes...)
	if required {
		p.Refusals = append(p.Refusals, proposal.Warnings...)
	} else {
		p.Warnings = append(p.Warnings, proposal.Warnings...)
	}
}

// Run prepares the host for the guest, whole or not at all; it is called with the lock held. Warnings are what did not keep
// the guest from starting; a guest that may not start gets a *[hook.Refusal].
func Run(ctx context.Context, h *hook.Host, n *domain.Needs, by hook.Caller) (warnings []string, err error) {
	uuid := n.Guest.UUID
	if err := clearOldRun(ctx, h, n.Guest); err != nil {
		return nil, err
	}
	var plan *Plan
	if by.Unseen != nil {
		err = fmt.Errorf("cannot tell which libvirt daemon starts %s, and so who will release it: %w; start it again", n.Guest.Name, by.Unseen)
	} else if err = runBefore(ctx, h, n, by); err == nil {
		plan, err = planAfresh(ctx, h, n)
	}
	if err == nil {
		if reasons := plan.reasons(); len(reasons) > 0 {
			err = &hook.Refusal{Guest: n.Guest.Name, Reasons: reasons}
		}
	}
	if err == nil {
		warnings = plan.Warnings
		var more []string
		more, err = take(ctx, h, plan, n, by)
		warnings = append(warnings, more...)
	}
	if err == nil {
		if err := h.NoteSeconds(uuid); err != nil {
			warnings = append(warnings, err.Error())
		}
		// The host is prepared, whatever is the matter with the list of those that were refused.
		if rerr := h.Remember(uuid, n.Guest.Name, nil); rerr != nil {
			warnings = append(warnings, rerr.Error())
		}
		return warnings, nil
	}
	reasons := []string{err.Error()}
	var refusal *hook.Refusal
	if errors.As(err, &refusal) {
		reasons = refusal.Reasons
	}
	if uuid != "" {
		// The caller's time may be up; giving back has its own.
		back := context.WithoutCancel(ctx)
		if berr := h.GiveBack(back, uuid); berr != nil && (!hook.OnlyStuck(berr) || !strings.Contains(reasons[0], "is stuck in the kernel")) {
			reasons = append(reasons, "and the host could not be brought back wholly: "+berr.Error())
		}
		if rerr := h.Remember(uuid, n.Guest.Name, reasons); rerr != nil {
			h.Logf(hook.Warning, "%v", rerr)
		}
	}
	return warnings, &hook.Refusal{Guest: n.Guest.Name, Reasons: reasons}
}

// Bind has functions on their vfio driver without a guest, beside those that are bound so already, by the same steps and
// with the same refusals as for a guest. If it fails, those that were bound before stay.
func Bind(ctx context.Context, h *hook.Host, addresses []string) (warnings []string, err error) {
	if !h.Config.Enabled {
		return nil, errors.New("the configuration says enabled = false: nothing is bound")
	}
	bound, err := h.HandBound()
	if err != nil {
		return nil, err
	}
	n := &domain.Needs{Guest: domain.Guest{Name: hook.HandName, UUID: hook.HandUUID}}
	for _, a := range addresses {
		if !slices.Contains(bound, a) {
			n.PCI = append(n.PCI, domain.Function{Address: a})
		}
	}
	if len(n.PCI) == 0 {
		return nil, nil
	}
	// Files that the configuration has for guests are not for these.
	config := *h.Config
	config.Steps = maps.Clone(config.Steps)
	config.Steps[shmStep{}.Name()] = false
	h.Config = &config
	plan, err := NewPlan(ctx, h, n)
	if err != nil {
		return nil, err
	}
	if reasons := plan.reasons(); len(reasons) > 0 {
		return nil, &hook.Refusal{Guest: hook.HandName, Reasons: reasons}
	}
	var before *hook.Guest
	if g := h.Ledger.Guests[hook.HandUUID]; g != nil {
		copied := *g
		before = &copied
	}
	more, err := take(ctx, h, plan, n, hook.Caller{ByHand: true})
	if err == nil {
		return append(plan.Warnings, more...), nil
	}
	back := context.WithoutCancel(ctx)
	_, uerr := h.UndoAll(back, hook.HandUUID, func(c hook.Change) bool { return slices.Contains(bound, c.Subject()) })
	if delete(h.Ledger.Guests, hook.HandUUID); before != nil {
		h.Ledger.Guests[hook.HandUUID] = before
	}
	return nil, errors.Join(err, uerr, h.SaveLedger(), h.Settle(back))
}

// reasons returns why the guest is refused, when it comes to it.
func (p *Plan) reasons() []string {
	reasons := slices.Clone(p.Refusals)
	if p.Unseen {
		reasons = append(reasons, hook.Unseen("the guest's functions"))
	}
	return reasons
}

// errRunning says that a guest runs, or that this cannot be told.
func errRunning(name string, err error) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("%s is running; what it has was left alone", name)
}

// clearOldRun gives back what a run of the guest left that ended without a release, as when the daemon died. A guest
// that was prepared and never started keeps what it has: this prepare completes it.
func clearOldRun(ctx context.Context, h *hook.Host, guest domain.Guest) error {
	if guest.UUID == "" {
		return nil
	}
	g := h.Ledger.Guests[guest.UUID]
	if changes, err := h.Recorded(guest.UUID); g == nil && len(changes) == 0 {
		return err
	}
	if runs, err := h.QEMURuns(guest.UUID, guest.Name); runs {
		return &hook.Refusal{Guest: guest.Name, Reasons: []string{errRunning(guest.Name, err).Error()}}
	}
	if g == nil || !g.Started {
		return nil
	}
	h.Logf(hook.Warning, "%s ended without a release; giving back what it had", guest.Name)
	return h.GiveBackAfterRun(ctx, guest.UUID)
}

// planAfresh plans, and plans again after giving back what an earlier prepare made and this XML does not ask for.
func planAfresh(ctx context.Context, h *hook.Host, n *domain.Needs) (*Plan, error) {
	plan, err := NewPlan(ctx, h, n)
	if err != nil || len(plan.Refusals) > 0 {
		return plan, err
	}
	kept := true
	_, err = h.UndoAll(ctx, n.Guest.UUID, func(c hook.Change) bool {
		keep := slices.ContainsFunc(plan.Changes, func(p hook.Change) bool { return hook.SameChange(p, c) })
		kept = kept && keep
		return keep
	})
	if err != nil || kept {
		return plan, err
	}
	return NewPlan(ctx, h, n)
}

// take claims, settles and makes the changes, in the order of the steps.
func take(ctx context.Context, h *hook.Host, plan *Plan, n *domain.Needs, by hook.Caller) (warnings []string, err error) {
	uuid := plan.Guest.UUID
	guest := &hook.Guest{Name: plan.Guest.Name, Since: h.Now(), Caller: by, Claim: plan.Claim}
	if old := h.Ledger.Guests[uuid]; old != nil && uuid == hook.HandUUID {
		kept := old.Claim // of what is bound already
		kept.PCI = nil    // what is bound by hand is there for guests
		guest.Claim.Add(kept)
	} else if old != nil {
		guest.Claim.Pages = h.Ledger.Transfer(old.Claim.Pages, guest.Claim.Pages)
	} else if plan.Claim.Empty() && len(plan.Changes) == 0 && len(plan.Compact) == 0 {
		// What has nothing of the host, a guest that is only pinned for one, needs no record and owes no release.
		if recorded, err := h.Recorded(uuid); err != nil || len(recorded) == 0 {
			return nil, errors.Join(err, h.State.ClearReleased(uuid))
		}
	}
	h.Ledger.Guests[uuid] = guest
	if err := errors.Join(h.State.ClearReleased(uuid), h.SaveLedger()); err != nil {
		return nil, err
	}
	end := h.Begin(quiesceStep{}.Name())
	err = quiesce(ctx, h, plan, n)
	if end(err); err != nil {
		return nil, err
	}
	if err := h.TakePorts(uuid); err != nil {
		return nil, err
	}
	if plan.stops() && len(n.Memory) > 0 {
		if err := claimPages(ctx, h, n, guest); err != nil {
			return nil, err
		}
	}
	end = h.Begin(hugepagesStep{}.Name())
	if err = h.SettleHugepages(); err == nil {
		err = h.GrowPools(ctx, uuid)
	}
	if end(err); err != nil {
		return nil, err
	}
	if err := compact(ctx, h, plan.Compact); err != nil {
		warnings = append(warnings, err.Error())
	}
	// Once the guest's functions have left their drivers, those have no interrupts to move.
	if err := h.Make(ctx, uuid, plan.Changes); err != nil {
		return warnings, err
	}
	if err := h.CopyRecords(uuid); err != nil {
		return warnings, err
	}
	if err := verifyGroups(h, n); err != nil {
		return warnings, err
	}
	more, err := quieten(ctx, h)
	if warnings = append(warnings, more...); err != nil {
		return warnings, err
	}
	return warnings, letRun(ctx, h, guest, plan.Brief)
}

// quieten keeps the host off the guest's CPUs, in every way that is claimed. A guest runs without that, only less smoothly:
// what fails is a warning, unless the configuration requires the step.
func quieten(ctx context.Context, h *hook.Host) (warnings []string, err error) {
	for _, part := range []struct {
		step   hook.Step
		settle func(context.Context) error
	}{
		{cpusStep{}, func(ctx context.Context) error { return settleCPUs(ctx, h) }},
		{interruptsStep{}, h.SettleIRQBalance},
		{interruptsStep{}, h.SettleInterrupts},
		{kernelStep{}, h.SettleKernelWork},
		{frequencyStep{}, h.SettleFrequency},
		{tunablesStep{}, h.SettleTunables},
	} {
		end := h.Begin(part.step.Name())
		err := part.settle(ctx)
		end(err)
		switch {
		case err == nil:
		case context.Cause(ctx) != nil || slices.Contains(h.Config.Required, part.step.Name()):
			return warnings, err
		default:
			warnings = append(warnings, err.Error())
		}
	}
	return warnings, nil
}

// settleCPUs keeps the host's slices off the guest's CPUs, and guests that are pinned nowhere if the configuration says so.
func settleCPUs(ctx context.Context, h *hook.Host) error {
	units := slices.Clone(h.Config.CPUs.Units)
	if h.Config.CPUs.ConfineGuests {
		scopes, err := h.Unpinned()
		if err != nil {
			return err
		}
		units = append(units, scopes...)
	}
	return h.SettleCPUs(ctx, units...)
}

// compact makes the free memory of nodes contiguous, for the kernel to find transparent huge pages in.
func compact(ctx context.Context, h *hook.Host, nodes []int) error {
	var errs error
	for _, node := range nodes {
		if err := context.Cause(ctx); err != nil {
			return errors.Join(errs, err)
		}
		errs = errors.Join(errs, h.CompactNode(node))
	}
	return errs
}

// claimPages claims the guest's memory anew, now that what was stopped has given back its own.
func claimPages(ctx context.Context, h *hook.Host, n *domain.Needs, guest *hook.Guest) error {
	plan, err := newPlan(ctx, h, n, true)
	if err != nil {
		return err
	}
	if len(plan.Refusals) > 0 {
		return &hook.Refusal{Guest: n.Guest.Name, Reasons: plan.Refusals}
	}
	guest.Claim.Pages = h.Ledger.Transfer(guest.Claim.Pages, plan.Claim.Pages)
	return h.SaveLedger()
}

// letRun starts those units again that were stopped only for the way.
func letRun(ctx context.Context, h *hook.Host, guest *hook.Guest, units []string) error {
	if len(units) == 0 {
		return nil
	}
	guest.Claim.Units = slices.DeleteFunc(guest.Claim.Units, func(u string) bool { return slices.Contains(units, u) })
	if err := h.SaveLedger(); err != nil {
		return err
	}
	if err := h.SettleUnits(ctx); err != nil {
		// The guest has its card all the same; the next event tries again.
		h.Logf(hook.Warning, "%v", err)
	}
	return nil
}
