package prepare

import (
	"context"
	"maps"
	"slices"

	"qemu-hook/domain"
	"qemu-hook/hook"
)

// tunablesStep sets what [tunables] of the configuration has.
type tunablesStep struct{}

func (tunablesStep) Name() string { return "tunables" }

func (tunablesStep) Plan(_ context.Context, h *hook.Host, n *domain.Needs) (hook.Proposal, error) {
	p := hook.Proposal{Claim: hook.Claim{Settings: map[string]string{}}}
	if !isQuiet(h, n) {
		return p, nil
	}
	for _, name := range slices.Sorted(maps.Keys(h.Config.Tunables)) {
		value := h.Config.Tunables[name]
		file, err := h.Tunable(name)
		if err != nil {
			p.Warn("%v", err)
			continue
		}
		now, words, err := h.ReadChoice(file)
		switch {
		case err != nil:
			p.Warn("%s cannot be set: it could not be put back afterwards: %v", name, err)
			continue
		case len(words) > 0 && !slices.Contains(words, value):
			p.Warn("%s cannot be set to %q: the kernel has %v", name, value, words)
			continue
		}
		claimSetting(h, n, file, value, &p)
		if now == value {
			p.Line("%s is %s", name, value)
		} else {
			p.Line("%s %s → %s", name, now, value)
		}
	}
	return p, nil
}
