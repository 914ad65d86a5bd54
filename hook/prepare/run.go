package prepare

import (
	"context"

	"qemu-hook/domain"
	"qemu-hook/hook"
)

// runStep runs the administrator's own commands: ahead of all other steps, which may depend on what they do, and after all is
// given back.
type runStep struct{}

func (runStep) Name() string { return "run" }

func (runStep) Plan(_ context.Context, h *hook.Host, n *domain.Needs) (hook.Proposal, error) {
	var p hook.Proposal
	if n.Guest.UUID == hook.HandUUID {
		return p, nil // what is bound by hand is no guest
	}
	for _, c := range h.Config.Run {
		for _, command := range [][]string{c.Before, c.After} {
			if len(command) == 0 {
				continue
			}
			if why := h.UntrustedProgram(command[0]); why != "" {
				p.Refuse("cannot run %s for %s: %s", command[0], n.Guest.Name, why)
			}
		}
		p.Changes = append(p.Changes, &hook.OwnCommand{
			Before: c.Before, After: c.After, Deadline: c.Deadline, Guest: n.Guest.Name, UUID: n.Guest.UUID,
		})
	}
	return p, nil
}

// runBefore runs what is to run ahead of the plan. The commands are on the guest's record from before the first of them, so that
// what is to run after them does, whatever comes.
func runBefore(ctx context.Context, h *hook.Host, n *domain.Needs, by hook.Caller) error {
	if n.Guest.UUID == "" || !h.Config.StepEnabled(runStep{}.Name()) || h.SwitchedOff() != "" {
		return nil
	}
	p, err := runStep{}.Plan(ctx, h, n)
	if err != nil || len(p.Changes) == 0 {
		return err
	}
	if len(p.Refusals) > 0 {
		return &hook.Refusal{Guest: n.Guest.Name, Reasons: p.Refusals}
	}
	if h.Ledger.Guests[n.Guest.UUID] == nil {
		h.Ledger.Guests[n.Guest.UUID] = &hook.Guest{Name: n.Guest.Name, Since: h.Now(), Caller: by}
	}
	if err := h.SaveLedger(); err != nil {
		return err
	}
	return h.Make(ctx, n.Guest.UUID, p.Changes)
}
