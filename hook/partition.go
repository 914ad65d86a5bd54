package hook

import (
	"errors"
	"fmt"
	"path"

	"qemu-hook/cpuset"
	"qemu-hook/sysfs"
)

// PartitionObstacle says why no guest of this host can have its CPUs in isolated partitions of cpusets, "" if nothing is known to be in
// the way: a partition anywhere in the hierarchy takes cpuset.cpus.exclusive, which Linux 6.7 brought.
func (h *Host) PartitionObstacle() string {
	if err := h.CPUControl(); err != nil {
		return err.Error()
	}
	if h.KernelBefore(6, 7) {
		return "it takes Linux 6.7 or newer"
	}
	return ""
}

// startPartition makes the cgroup of each of the guest's vCPUs an isolated partition of its own CPUs: the kernel's scheduler
// spreads no load there any more. libvirt makes the cgroups, so this is for a guest that runs; they are gone with it. Of the
// cgroups above the guest's, which guests share, [Host.SettlePartitions] takes care.
func (h *Host) startPartition(uuid string, g *Guest) error {
	if g.Claim.Partition.Empty() {
		return nil
	}
	fail := func(err error) error {
		return fmt.Errorf("cannot put the CPUs of %s into partitions: %w", g.Name, err)
	}
	scope, err := h.guestCgroup(uuid, g.Name)
	if err == nil && scope == "" {
		err = errors.New("it is in no scope")
	}
	if err != nil {
		return fail(err)
	}
	vcpus, err := h.VCPUCgroups(scope)
	if err != nil {
		return fail(err)
	}
	var all cpuset.Set
	for _, v := range vcpus {
		if v.CPUs.Empty() || !v.CPUs.Intersect(all).Empty() {
			return fail(fmt.Errorf("its vCPUs share CPUs, or are not pinned: %s has %q", v.Dir, v.CPUs))
		}
		all = all.Union(v.CPUs)
	}
	if len(vcpus) == 0 {
		return fail(errors.New("libvirt has made no cgroups for its vCPUs"))
	}
	for above := path.Dir(scope); above != "/"; above = path.Dir(above) {
		file := sysfs.ExclusiveCPUs(above)
		if _, known := h.Ledger.Exclusive[file]; known {
			continue
		}
		was, err := h.ReadCPUs(file)
		if err != nil {
			return fail(err)
		}
		if h.Ledger.Exclusive == nil {
			h.Ledger.Exclusive = map[string]cpuset.Set{}
		}
		h.Ledger.Exclusive[file] = was
	}
	if err := h.SaveLedger(); err != nil {
		return fail(err)
	}
	if err := h.SettlePartitions(); err != nil {
		return fail(err)
	}
	for _, dir := range []string{scope, scope + "/libvirt"} {
		if err := h.WriteCPUs(sysfs.ExclusiveCPUs(dir), all); err != nil {
			return fail(err)
		}
	}
	for _, v := range vcpus {
		if err := h.isolate(v.Dir + "/cpuset.cpus.partition"); err != nil {
			return fail(err)
		}
	}
	h.Logf(Info, "%s: CPUs %s are isolated partitions", g.Name, all)
	return nil
}

// isolate makes a cgroup an isolated partition, or leaves it as it was: the kernel takes the write for done and says in the
// file why it is none.
func (h *Host) isolate(file string) error {
	if err := h.Write(file, "isolated"); err != nil {
		return err
	}
	now, err := h.Read(file)
	if err == nil && now != "isolated" {
		err = fmt.Errorf("%s is %q", file, now)
	}
	if err != nil {
		return errors.Join(err, h.Write(file, "member"))
	}
	return nil
}

// SettlePartitions has the cgroups above the guests' allow partitions of the CPUs that guests claim for that, beside those that they
// allowed before.
func (h *Host) SettlePartitions() error {
	if len(h.Ledger.Exclusive) == 0 {
		return nil
	}
	claimed := h.Ledger.Claims("").Partition
	var errs error
	changed := false
	for _, file := range sortedKeys(h.Ledger.Exclusive) {
		want := h.Ledger.Exclusive[file].Union(claimed)
		now, err := h.ReadCPUs(file)
		if err == nil && !now.Equal(want) {
			err = h.WriteCPUs(file, want)
		}
		switch {
		case vanished(err): // with the controller
		case err != nil:
			errs = errors.Join(errs, err)
			continue
		case !claimed.Empty():
			continue
		}
		delete(h.Ledger.Exclusive, file)
		changed = true
	}
	if changed {
		errs = errors.Join(errs, h.SaveLedger())
	}
	return errs
}
