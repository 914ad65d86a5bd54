package hook

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"qemu-hook/sysfs"
)

// Process is a process that is known again.
type Process = sysfs.Process

// LibvirtAncestor returns the nearest ancestor of a process that is a libvirt daemon; nil if there is none, which
// means that a person runs the hook.
func LibvirtAncestor(h sysfs.FS, pid int) *Process {
	const deepest = 64
	for range deepest {
		st, err := h.ProcessStat(pid)
		if err != nil {
			return nil
		}
		// NixOS wraps the daemon, and the name is cut at 15 characters: ".libvirtd-wrapp".
		name := strings.TrimPrefix(st.Comm, ".")
		if strings.HasPrefix(name, "libvirtd") || strings.HasPrefix(name, "virtqemud") {
			return &Process{PID: pid, Start: st.Start}
		}
		if pid = st.Parent; pid <= 1 {
			return nil
		}
	}
	return nil
}

// pidFiles is where libvirt notes the process of each running guest, NAME.pid.
const pidFiles = "/run/libvirt/qemu"

// qemu returns the process of the guest's QEMU: the one that libvirt's pid file names, if its command line has the
// guest's UUID; 0 if there is none. Without a name all pid files are looked through.
func (h *Host) qemu(uuid, name string) (pid int, err error) {
	files := []string{name + ".pid"}
	if name == "" {
		if files, err = h.ReadDir(pidFiles); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, &sysfs.Error{Op: "list", Path: pidFiles, Err: err}
		}
	}
	for _, f := range files {
		if !strings.HasSuffix(f, ".pid") || strings.Contains(f, "/") {
			continue
		}
		v, err := h.Read(pidFiles + "/" + f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return 0, err
		}
		pid, err := strconv.Atoi(v)
		if err != nil {
			return 0, fmt.Errorf("cannot tell whether %s runs: %s/%s holds %q instead of a process id", name, pidFiles, f, v)
		}
		cmdline, err := h.ReadFile("/proc/" + v + "/cmdline")
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return 0, &sysfs.Error{Op: "read", Path: fmt.Sprintf("/proc/%d/cmdline", pid), Err: err}
		case strings.Contains(string(cmdline), uuid):
			return pid, nil
		}
	}
	return 0, nil
}

// QEMURuns reports whether QEMU runs for the guest. Where that cannot be told the error says why, and the guest counts
// as running: undecided must not cost it its device.
func (h *Host) QEMURuns(uuid, name string) (bool, error) {
	pid, err := h.qemu(uuid, name)
	return pid != 0 || err != nil, err
}

// hasItsMemory reports whether the guest's QEMU holds its huge pages already: the `started` event, which says so too,
// comes later and can be lost.
func (h *Host) hasItsMemory(uuid string, g *Guest) bool {
	pid, err := h.qemu(uuid, g.Name)
	if pid == 0 || err != nil {
		return false
	}
	status, err := h.Read("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false
	}
	var claimed, has uint64
	for _, p := range g.Claim.Pages {
		claimed += p.Count * p.KiB
	}
	for line := range strings.Lines(status) {
		if v, ok := strings.CutPrefix(line, "HugetlbPages:"); ok {
			has, _ = strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 64)
		}
	}
	return has >= claimed
}

// Started notes that QEMU has its memory: the guest's pages count as in use from now on. What exists only now is settled:
// the guest's own interrupts, and what of the host's has appeared since prepare. What fails is in the error, and the rest
// is done all the same.
func (h *Host) Started(ctx context.Context, uuid, name string) error {
	if uuid == "" {
		uuid, _ = h.Ledger.Find("", name)
	}
	g := h.Ledger.Guests[uuid]
	if g == nil {
		return nil
	}
	if !g.Started {
		g.Started = true
		if err := h.SaveLedger(); err != nil {
			return err
		}
	}
	return errors.Join(h.SettleInterrupts(ctx), h.SettleKernelWork(ctx), h.accompany(ctx, uuid, g))
}

// accompany gives a guest that runs what there can be only then.
func (h *Host) accompany(ctx context.Context, uuid string, g *Guest) error {
	return errors.Join(h.startPartition(uuid, g), h.startAttendants(ctx, uuid, g))
}

// Reconnect checks, for a guest that a restarted daemon found running, that the host is still as it was prepared,
// and settles what is shared again. Where the daemon died before the guest had started wholly, it does what [Host.Started] would
// have done. What drifted is in the error.
func (h *Host) Reconnect(ctx context.Context, uuid, name string) error {
	if uuid == "" {
		uuid, _ = h.Ledger.Find("", name)
	}
	g := h.Ledger.Guests[uuid]
	if g == nil {
		return nil
	}
	// The daemon that owes the release is this one now.
	if owner := LibvirtAncestor(h.FS, os.Getppid()); owner != nil {
		g.Owner = owner
	}
	g.Started = true
	errs := h.SaveLedger()
	changes, err := h.Recorded(uuid)
	errs = errors.Join(errs, err)
	for _, c := range changes {
		errs = errors.Join(errs, c.Verify(h))
	}
	return errors.Join(errs, h.Settle(ctx), h.accompany(ctx, uuid, g))
}
