package hook

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"syscall"

	"qemu-hook/sysfs"
)

// Process is a process that is known again.
type Process = sysfs.Process

// LibvirtCaller is the libvirt daemon that runs a process of this program.
func LibvirtCaller(h sysfs.FS, pid int) Caller {
	owner, err := LibvirtAncestor(h, pid)
	return Caller{Owner: owner, Unseen: err}
}

// LibvirtAncestor returns the nearest ancestor of a process that is a libvirt daemon; nil if there is none, which
// means that a person runs the hook.
func LibvirtAncestor(h sysfs.FS, pid int) (*Process, error) {
	const deepest = 64
	for range deepest {
		st, err := h.ProcessStat(pid)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESRCH):
			return nil, nil
		case err != nil:
			return nil, err
		}
		// NixOS wraps the daemon, and the name is cut at 15 characters: ".libvirtd-wrapp".
		name := strings.TrimPrefix(st.Comm, ".")
		if strings.HasPrefix(name, "libvirtd") || strings.HasPrefix(name, "virtqemud") {
			return &Process{PID: pid, Start: st.Start}, nil
		}
		if pid = st.Parent; pid <= 1 {
			break
		}
	}
	return nil, nil
}

// pidFiles is where libvirt notes the process of each running guest, NAME.pid.
const pidFiles = "/run/libvirt/qemu"

// qemu returns the process of the guest's QEMU, 0 if there is none: the one that was noted when it started, the one that
// libvirt's pid file names, or one in a guest's scope. Process ids are used again, so a process counts only if its command
// line has the guest's UUID. Without a name all pid files are looked through.
func (h *Host) qemu(uuid, name string) (pid int, err error) {
	// Files and settings of other guests may have the UUID in their names.
	argument := "-uuid\x00" + uuid
	if g := h.Ledger.Guests[uuid]; g != nil && g.QEMU != nil {
		is, err := g.QEMU.Alive(h.FS)
		if is {
			is, err = h.isQEMU(g.QEMU.PID, argument)
		}
		if is || err != nil {
			return g.QEMU.PID, err
		}
	}
	for _, witness := range []func() ([]int, error){
		func() ([]int, error) { return h.pidFiles(name) },
		h.GuestProcesses,
	} {
		pids, err := witness()
		if err != nil {
			return 0, err
		}
		for _, pid := range pids {
			if is, err := h.isQEMU(pid, argument); is || err != nil {
				return pid, err
			}
		}
		if uuid == "" {
			break // any process would do
		}
	}
	return 0, nil
}

// pidFiles returns the processes that libvirt's pid file of a guest names; of all guests without a name.
func (h *Host) pidFiles(name string) (pids []int, err error) {
	files := []string{name + ".pid"}
	if name == "" {
		if files, err = h.ReadDir(pidFiles); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, &sysfs.Error{Op: "list", Path: pidFiles, Err: err}
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
			return nil, err
		}
		pid, err := strconv.Atoi(v)
		if err != nil {
			return nil, fmt.Errorf("cannot tell whether %s runs: %s/%s holds %q instead of a process id", name, pidFiles, f, v)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// isQEMU reports whether a process runs that has this on its command line.
func (h *Host) isQEMU(pid int, argument string) (bool, error) {
	file := fmt.Sprintf("/proc/%d/cmdline", pid)
	cmdline, err := h.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESRCH):
		return false, nil
	case err != nil:
		return false, &sysfs.Error{Op: "read", Path: file, Err: err}
	}
	return strings.Contains(string(cmdline), argument), nil
}

// QEMURuns reports whether QEMU runs for the guest. Where that cannot be told the error says why, and the guest counts
// as running: undecided must not cost it its device.
func (h *Host) QEMURuns(uuid, name string) (bool, error) {
	pid, err := h.qemu(uuid, name)
	return pid != 0 || err != nil, err
}

// SomeGuest returns the process of a guest of libvirt's that runs, whoever prepared it; 0 if none does.
func (h *Host) SomeGuest() (pid int, err error) {
	noted, err := h.pidFiles("")
	if err != nil {
		return 0, err
	}
	inScopes, err := h.GuestProcesses()
	for _, pid := range append(noted, inScopes...) {
		// Among the files is driver.pid, of the daemon itself.
		if is, err := h.isQEMU(pid, "-uuid"); is || err != nil {
			return pid, err
		}
	}
	return 0, err
}

// A Standing is how a guest on record stands.
type Standing string

// What libvirt is not asked for is seen from the guest's process and from who had it prepared.
const (
	Runs      Standing = "started"
	Undecided Standing = "undecided" // whether it runs
	// Owed says that the libvirt daemon that had the guest prepared is there, and will have it released.
	Owed Standing = "prepared"
	// ByHand says that a person had it prepared, and will start it or have it released.
	ByHand Standing = "prepared by hand"
	// Left says that the guest runs no longer and nobody will have it released.
	Left Standing = "not running"
	// InPart is Left, after a release that could not give everything back.
	InPart Standing = "given back in part"
)

// Standing returns how a guest on record stands. With an error it is Undecided.
func (h *Host) Standing(uuid string, g *Guest) (Standing, error) {
	runs, err := h.QEMURuns(uuid, g.Name)
	owed := false
	if g.Owner != nil && err == nil && !h.State.Released(uuid) {
		owed, err = g.Owner.Alive(h.FS)
	}
	switch {
	case err != nil:
		return Undecided, err
	case runs:
		return Runs, nil
	case owed:
		// Between prepare and QEMU's start, and between its end and release, there is nothing else to be seen.
		return Owed, nil
	case g.Released:
		return InPart, nil
	case g.ByHand && !g.Started:
		return ByHand, nil
	}
	return Left, nil
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
	errs := h.noteRuns(uuid, g)
	if err := h.SaveLedger(); err != nil {
		return errors.Join(errs, err)
	}
	return errors.Join(errs, h.SettleInterrupts(ctx), h.SettleKernelWork(ctx), h.accompany(ctx, uuid, g))
}

// accompany gives a guest that runs what there can be only then.
func (h *Host) accompany(ctx context.Context, uuid string, g *Guest) error {
	return errors.Join(h.startPartition(uuid, g), h.startAttendants(ctx, uuid, g))
}

// Reconnect checks, for a guest that a restarted daemon found running, that the host is still as it was prepared, mends
// what can be mended while QEMU runs, and settles what is shared again. Where the daemon died before the guest had started
// wholly, it does what [Host.Started] would have done. What stays drifted is in the error.
func (h *Host) Reconnect(ctx context.Context, uuid, name string, by Caller) error {
	if uuid == "" {
		uuid, _ = h.Ledger.Find("", name)
	}
	g := h.Ledger.Guests[uuid]
	if g == nil {
		return nil
	}
	// The daemon that owes the release is this one now.
	if by.Owner != nil {
		g.Owner = by.Owner
	}
	errs := errors.Join(by.Unseen, h.noteRuns(uuid, g), h.SaveLedger())
	changes, err := h.Recorded(uuid)
	errs = errors.Join(errs, err)
	for _, c := range changes {
		drifted := c.Verify(h)
		if m, ok := c.(mender); ok && drifted != nil {
			h.Logf(Warning, "%s: %v", g.Name, drifted)
			drifted = m.Mend(h)
		}
		errs = errors.Join(errs, drifted)
	}
	return errors.Join(errs, h.Settle(ctx), h.accompany(ctx, uuid, g))
}

// noteRuns notes that the guest runs, and as which process.
func (h *Host) noteRuns(uuid string, g *Guest) error {
	g.Started = true
	pid, err := h.qemu(uuid, g.Name)
	if err != nil || pid == 0 {
		return err
	}
	st, err := h.ProcessStat(pid)
	if err == nil {
		g.QEMU = &Process{PID: pid, Start: st.Start}
	}
	return err
}

// A mender is a change that can be made good while its guest runs.
type mender interface {
	// Mend is called where Verify has found something, and reports what it could not mend.
	Mend(h *Host) error
}
