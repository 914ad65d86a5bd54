package prepare

import (
	"context"
	"slices"
	"strings"

	"qemu-hook/domain"
	"qemu-hook/hook"
)

// inhibitStep keeps the host from going to sleep under the guest: a card does not live through that in a guest's hands.
type inhibitStep struct{}

func (inhibitStep) Name() string { return "inhibit" }

func (inhibitStep) Plan(_ context.Context, h *hook.Host, n *domain.Needs) (hook.Proposal, error) {
	var p hook.Proposal
	var what []string
	switch list := h.Config.Inhibit; {
	case list != nil:
		what = *list
	case len(n.PCI) > 0:
		what = []string{"sleep"}
	}
	if len(what) == 0 {
		return p, nil
	}
	if there, err := h.HasSystemd(); err != nil {
		return p, err
	} else if !there {
		if h.Config.Inhibit != nil || slices.Contains(h.Config.Required, inhibitStep{}.Name()) {
			p.Warn("the host is not kept from %s: that takes systemd", strings.Join(what, " and "))
		}
		return p, nil
	}
	p.Claim.Inhibit = what
	p.Line("the host is kept from %s once the guest runs", strings.Join(what, " and "))
	return p, nil
}
