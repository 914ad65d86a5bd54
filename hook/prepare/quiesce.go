package prepare

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/sysfs"
)

// quiesceStep has nobody use the guest's functions any more: it looks who does, and has the configuration's units, sessions
// and processes out of the way before anything else is taken.
type quiesceStep struct{}

func (quiesceStep) Name() string { return "quiesce" }

func (quiesceStep) Plan(ctx context.Context, h *hook.Host, n *domain.Needs) (hook.Proposal, error) {
	var p hook.Proposal
	moving, err := movingFunctions(h, n)
	if err != nil || len(moving) == 0 {
		return p, err
	}
	if err := planUnits(ctx, h, n, moving, &p); err != nil {
		return p, err
	}
	u, err := look(ctx, h, moving, p.Claim.Units)
	if err != nil {
		return p, err
	}
	u.refuse(h, &p)
	u.warnOfGreeter(h, &p)
	p.Frees = len(u.waitFor)+len(u.terminate)+len(u.ending) > 0
	for _, s := range u.ending {
		p.Line("session %s of %s on %s: ended", s.ID, s.User, s.Seat)
	}
	for _, user := range u.terminate {
		p.Line("%s: ended", hook.DescribeUsers(h.FS, []hook.User{user}))
	}
	if u.unseen {
		p.Note("who uses the guest's functions was not seen whole: that needs root")
		p.Unseen = true
	}
	if err := planScreens(h, moving, u, &p); err != nil {
		return p, err
	}
	return p, planConsole(h, n, moving, &p)
}

// movingFunctions returns the addresses of the guest's functions that a host driver has, or had before this guest was
// prepared; those that exist and are in an IOMMU group.
func movingFunctions(h *hook.Host, n *domain.Needs) ([]string, error) {
	functions, err := functionsOf(h, n)
	if err != nil {
		return nil, err
	}
	recorded, err := h.RecordedDrivers(n.Guest.UUID)
	if err != nil {
		return nil, err
	}
	var moving []string
	for _, f := range functions {
		if there, err := h.Has(sysfs.PCIDevice(f.Address)); err != nil {
			return nil, err
		} else if !there || h.Stuck(f.Address) != "" || h.Ledger.PCIOwner(f.Address, n.Guest.UUID) != nil {
			continue // the step pci refuses these
		}
		vfio, err := h.IsVFIO(f.Address)
		if err != nil {
			return nil, err
		}
		moved := slices.ContainsFunc(recorded, func(d *hook.PCIDriver) bool { return d.Address == f.Address && d.From != d.To })
		if !vfio || moved {
			moving = append(moving, f.Address)
		}
	}
	return moving, nil
}

// planUnits claims the units that run now and are not to, or that an earlier prepare of this guest has stopped.
func planUnits(ctx context.Context, h *hook.Host, n *domain.Needs, moving []string, p *hook.Proposal) error {
	claim := func(unit string, required bool) {
		runs := slices.Contains(h.Ledger.Stopped, unit)
		if !runs {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			var err error
			runs, err = h.Systemd.UnitRuns(ctx, unit)
			if err != nil && required {
				p.Refuse("cannot tell whether %s of services.stop runs: %v", unit, err)
			}
		}
		if runs {
			p.Claim.Add(hook.Claim{Units: []string{unit}})
		}
	}
	for _, unit := range h.Config.Stop {
		unit = realUnit(h, unit)
		claim(unit, true)
		if slices.Contains(p.Claim.Units, unit) {
			p.Line("%s: stopped, and started again after the guest", unit)
		}
	}
	onNVIDIA := false
	for _, a := range moving {
		driver, err := hostDriver(h, n, a)
		if err != nil {
			return err
		}
		onNVIDIA = onNVIDIA || driver == "nvidia"
	}
	if !onNVIDIA {
		return nil
	}
	if there, err := h.HasSystemd(); err != nil || !there {
		return err
	}
	stays, err := othersOn(h, "nvidia", moving)
	if err != nil {
		return err
	}
	for _, unit := range hook.NVIDIAServices() {
		if slices.Contains(p.Claim.Units, unit) {
			continue
		}
		claim(unit, false)
		if !slices.Contains(p.Claim.Units, unit) {
			continue
		}
		if len(stays) > 0 {
			p.Brief = append(p.Brief, unit)
			p.Line("%s: stopped while the card leaves its driver", unit)
		} else {
			p.Line("%s: stopped, and started again after the guest", unit)
		}
	}
	return nil
}

// askTimeout bounds a question to systemd or logind.
const askTimeout = 10 * time.Second

// realUnit returns a unit's own name: display-manager.service is another name of whichever there is.
func realUnit(h *hook.Host, unit string) string {
	if real, err := h.LinkBase("/etc/systemd/system/" + unit); err == nil && strings.Contains(real, ".") {
		return real
	}
	return unit
}

// hostDriver returns the function's driver, or that from which this guest's earlier prepare has taken it.
func hostDriver(h *hook.Host, n *domain.Needs, address string) (string, error) {
	recorded, err := h.RecordedDrivers(n.Guest.UUID)
	if err != nil {
		return "", err
	}
	for _, d := range recorded {
		if d.Address == address {
			return d.From, nil
		}
	}
	return h.PCIDriver(address)
}

// othersOn returns the functions on a driver that are not among those that move.
func othersOn(h *hook.Host, driver string, moving []string) ([]string, error) {
	all, err := h.DriverDevices(driver)
	return slices.DeleteFunc(all, func(a string) bool { return slices.Contains(moving, a) }), err
}

// planScreens says which screens go dark, and refuses the host's last one if nothing that shows something on it is to end.
func planScreens(h *hook.Host, moving []string, u *usage, p *hook.Proposal) error {
	lit, elsewhere, err := h.LitConnectors(moving)
	if err != nil || len(lit) == 0 {
		return err
	}
	sessions, err := h.Sessions()
	if err != nil {
		return err
	}
	shown := slices.ContainsFunc(sessions, sysfs.Session.Graphical)
	listed := slices.ContainsFunc(h.Config.Stop, func(unit string) bool { return slices.Contains(p.Claim.Units, realUnit(h, unit)) })
	if shown && len(elsewhere) == 0 && !listed && len(u.ending) == 0 && len(u.refused) == 0 {
		p.Refuse("the guest's functions drive the host's last lit screen (%s); list what shows the desktop under services.stop, "+
			"or say session.end in the configuration", strings.Join(lit, ", "))
		return nil
	}
	p.Line("screens that go dark: %s", strings.Join(lit, ", "))
	return nil
}

// planConsole claims the host's console, and the firmware's frame buffer, if they are on a function that moves.
func planConsole(h *hook.Host, n *domain.Needs, moving []string, p *hook.Proposal) error {
	var had hook.Claim // by an earlier prepare of this guest
	if g := h.Ledger.Guests[n.Guest.UUID]; g != nil {
		had = g.Claim
	}
	for _, a := range moving {
		owns, err := h.OwnsConsole(a)
		if err != nil {
			return err
		}
		if (owns || had.Console) && !p.Claim.Console {
			p.Claim.Console = true
			p.Line("the host's console is taken off %s", a)
		}
		left, err := h.BootFramebuffers(a)
		if err != nil {
			return err
		}
		if len(left) == 0 && !had.Framebuffer || p.Claim.Framebuffer {
			continue
		}
		framebuffers, err := h.PlatformFramebuffers()
		if err != nil {
			return err
		}
		driven := slices.ContainsFunc(framebuffers, func(f sysfs.PlatformFramebuffer) bool { return f.Driver != "" })
		switch {
		case driven || had.Framebuffer:
			p.Claim.Framebuffer = true
			p.Line("the firmware's frame buffer is taken off %s", a)
		default:
			// From Linux 6.0 on vfio-pci takes it away itself (aperture_remove_conflicting_pci_devices).
			p.Note("the firmware's frame buffer (%s) lies in %s and has no driver that could let go of it; if QEMU cannot reserve the memory, "+
				"boot with initcall_blacklist=sysfb_init", left[0], a)
		}
	}
	return nil
}

// quiesce carries the plan out: it stops units, ends sessions and processes, and waits until nobody uses the functions any
// more, at most for gpu.grace and a moment after it.
func quiesce(ctx context.Context, h *hook.Host, plan *Plan, n *domain.Needs) error {
	if !h.Config.StepEnabled(quiesceStep{}.Name()) {
		return nil
	}
	if err := h.StopUnits(ctx, plan.Guest.UUID); err != nil {
		return err
	}
	moving, err := movingFunctions(h, n)
	if err != nil {
		return err
	}
	if plan.Frees {
		if err := freeFunctions(ctx, h, moving, plan.Claim.Units); err != nil {
			return err
		}
	}
	return h.TakeConsole(ctx, plan.Guest.UUID)
}

// Pauses in the wait for users to go: each look goes through all processes.
const (
	lookPause = 100 * time.Millisecond
	killWait  = 3 * time.Second // for a killed process to be gone
)

// freeFunctions waits until nobody uses the functions any more, ending those whom the configuration allows to be ended.
func freeFunctions(ctx context.Context, h *hook.Host, moving, units []string) error {
	end := h.Now().Add(h.Config.GPU.Grace)
	told, killed, ended := map[sysfs.Process]bool{}, false, map[string]bool{}
	for {
		u, err := look(ctx, h, moving, units)
		if err != nil {
			return err
		}
		for _, s := range u.ending {
			if ended[s.ID] {
				continue
			}
			ended[s.ID] = true
			if err := endSession(ctx, h, s.ID); err != nil {
				return err
			}
			h.Logf(hook.Info, "session %s of %s on %s: ended", s.ID, s.User, s.Seat)
		}
		holders := slices.Concat(u.waitFor, u.terminate, u.refused)
		if len(holders) == 0 {
			return nil
		}
		h.Doing("%d processes have the guest's functions open, such as %s", len(holders), holders[0].Describe(h.FS))
		late := !h.Now().Before(end)
		switch {
		case !late:
			signalUsers(h, u.terminate, syscall.SIGTERM, told)
		case !killed && len(u.terminate) > 0:
			signalUsers(h, u.terminate, syscall.SIGKILL, nil)
			killed, end = true, h.Now().Add(killWait)
		default:
			return stillUsed(h, u)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("interrupted while waiting for the users of the guest's functions: %w", context.Cause(ctx))
		case <-time.After(lookPause):
		}
	}
}

func endSession(ctx context.Context, h *hook.Host, id string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return h.Systemd.EndSession(ctx, id)
}

// signalUsers sends a signal to each process, at most once where told keeps count.
func signalUsers(h *hook.Host, users []hook.User, signal syscall.Signal, told map[sysfs.Process]bool) {
	for _, u := range users {
		p := sysfs.Process{PID: u.PID, Start: u.Start}
		if told[p] {
			continue
		}
		if told != nil {
			told[p] = true
		}
		err := h.Signal(u.PID, u.Start, signal)
		switch {
		case errors.Is(err, syscall.ESRCH):
		case err != nil:
			h.Logf(hook.Warning, "cannot end %s: %v", u.Describe(h.FS), err)
		default:
			h.Logf(hook.Info, "%s: sent %s", u.Describe(h.FS), signalName(signal))
		}
	}
}

func signalName(s syscall.Signal) string {
	if s == syscall.SIGKILL {
		return "SIGKILL"
	}
	return "SIGTERM"
}
