package prepare

import (
	"context"

	"qemu-hook/domain"
	"qemu-hook/hook"
)

// kernelStep keeps the kernel's own work off the guest's CPUs.
type kernelStep struct{}

func (kernelStep) Name() string { return "kernel" }

func (kernelStep) Plan(_ context.Context, h *hook.Host, n *domain.Needs) (hook.Proposal, error) {
	var p hook.Proposal
	cpus, err := guestCPUs(h, n)
	if err != nil || cpus.free().Empty() {
		return p, err
	}
	p.Claim.KernelWork = cpus.free()
	p.Line("workqueues, the lockup detector and the kernel's movable threads off CPUs %s", cpus.free())
	return p, nil
}
