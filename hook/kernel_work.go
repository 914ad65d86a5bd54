package hook

import (
	"context"
	"errors"

	"qemu-hook/sysfs"
)

// SettleKernelWork keeps the kernel's own work off the CPUs that guests claim to be free of it: workqueues that are bound
// to no CPU, the lockup detector, and those of its threads that can be moved; when nobody claims that any more, all goes
// back to where it was. Threads that have ended meanwhile are forgotten.
func (h *Host) SettleKernelWork(ctx context.Context) error {
	claimed := h.Ledger.Claims("").KernelWork
	if claimed.Empty() && len(h.Ledger.KernelWork) == 0 {
		return nil
	}
	s, err := h.newSettling(&h.Ledger.KernelWork, claimed)
	if err != nil {
		return err
	}
	for _, file := range []string{sysfs.WorkqueueCPUs, sysfs.WritebackCPUs, sysfs.WatchdogCPUs} {
		s.look(file)
	}
	threads := map[string]bool{}
	if !claimed.Empty() {
		all, err := h.KernelThreads()
		s.errs = errors.Join(s.errs, err)
		for _, t := range all {
			threads[threadKey(t)] = true
		}
	}
	for key := range s.masks {
		if isThread(key) {
			threads[key] = true
		}
	}
	for _, key := range sortedKeys(threads) {
		s.look(key)
	}
	err = s.settle(ctx)
	s.logLeft("of the kernel's masks and threads")
	return err
}
