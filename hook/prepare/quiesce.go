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
		p.Unseen = "the guest's functions"
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
	recorded, err := h.Recorded(n.Guest.UUID)
	if err != nil && n.Guest.UUID != "" {
		return nil, err
	}
	var moving []string
	for _, f := range functions {
		if !h.Exists(sysfs.PCIDevice(f.Address)) || h.Stuck(f.Address) != "" || h.Ledger.PCIOwner(f.Address, n.Guest.UUID) != nil {
			continue // the step pci refuses these
		}
		vfio, err := h.IsVFIO(f.Address)
		if err != nil {
			return nil, err
		}
		moved := slices.ContainsFunc(recorded, func(c hook.Change) bool {
			d, ok := c.(*hook.PCIDriver)
			return ok && d.Address == f.Address && d.From != d.To
		})
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
	if !onNVIDIA || !h.Exists("/run/systemd/system") {
		return nil
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
	recorded, err := h.Recorded(n.Guest.UUID)
	if err != nil && n.Guest.UUID != "" {
		return "", err
	}
	for _, c := range recorded {
		if d, ok := c.(*hook.PCIDriver); ok && d.Address == address {
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

// usage is who uses the functions that a guest takes, and what the configuration has to say about it.
type usage struct {
	unseen    bool
	waitFor   []hook.User     // who goes when the units stop and the sessions end
	terminate []hook.User     // who may be ended
	refused   []hook.User     // whom nothing explains
	ending    []sysfs.Session // sessions that are ended
}

// look finds the users and sorts them. units are those that will be stopped.
func look(ctx context.Context, h *hook.Host, moving, units []string) (*usage, error) {
	users, unseen, err := h.SeenUsers(ctx, moving...)
	if err != nil {
		return nil, err
	}
	u := &usage{unseen: unseen}
	policy, err := newPolicy(h, units, users)
	if err != nil {
		return nil, err
	}
	u.ending = policy.ending
	for _, user := range users {
		switch {
		case policy.goes(user):
			u.waitFor = append(u.waitFor, user)
		case policy.mayEnd(user):
			u.terminate = append(u.terminate, user)
		default:
			u.refused = append(u.refused, user)
		}
	}
	return u, nil
}

// A policy says which users of a card the configuration gets rid of.
type policy struct {
	h      *hook.Host
	units  []string        // that are stopped, under all their names
	ending []sysfs.Session // that are ended
	gone   []sysfs.Session // that end, by themselves or with their display manager's unit
	all    []sysfs.Session
}

func newPolicy(h *hook.Host, units []string, users []hook.User) (*policy, error) {
	p := &policy{h: h}
	for _, u := range units {
		p.units = append(p.units, u, realUnit(h, u))
	}
	var err error
	if p.all, err = h.Sessions(); err != nil {
		return nil, err
	}
	for _, s := range p.all {
		// A compositor that was started on a terminal has a session that says it is one; but it has the card.
		hasCard := slices.ContainsFunc(users, func(u hook.User) bool { return u.Session != nil && u.Session.ID == s.ID })
		switch {
		case h.Config.EndSession != "" && s.Seat == h.Config.EndSession && (s.Graphical() || hasCard):
			p.ending = append(p.ending, s)
			p.gone = append(p.gone, s)
		case s.Class == "greeter" && slices.ContainsFunc(p.units, func(u string) bool { return startsSession(u, s.Service) }):
			// A user's session may well outlive its display manager.
			p.gone = append(p.gone, s)
		}
	}
	return p, nil
}

// startsSession reports whether a session was begun by the display manager whose unit this is: logind notes the name of its
// PAM service, "gdm-password" for gdm.service.
func startsSession(unit, service string) bool {
	name, _ := strings.CutSuffix(unit, ".service")
	return service != "" && (service == name || strings.HasPrefix(service, name+"-") || name == "gdm3" && strings.HasPrefix(service, "gdm-"))
}

// goes reports whether the user goes by itself once the units are stopped and the sessions ended.
func (p *policy) goes(u hook.User) bool {
	if u.Session != nil {
		return p.sessionGoes(u.Session.ID)
	}
	if slices.Contains(p.units, u.SystemUnit()) {
		return true
	}
	for _, s := range p.gone {
		if s.Scope != "" && strings.Contains(u.Cgroup, "/"+s.Scope) {
			return true
		}
		// What a user's own systemd runs ends with the user's last session, unless the user lingers.
		lingers := p.h.Exists("/var/lib/systemd/linger/" + s.User)
		if strings.Contains(u.Cgroup, fmt.Sprintf("/user@%d.service", s.UID)) && p.lastOf(s.UID) && !lingers {
			return true
		}
	}
	return false
}

func (p *policy) sessionGoes(id string) bool {
	return slices.ContainsFunc(p.gone, func(s sysfs.Session) bool { return s.ID == id })
}

// lastOf reports whether all sessions of the user go.
func (p *policy) lastOf(uid int) bool {
	return !slices.ContainsFunc(p.all, func(s sysfs.Session) bool {
		return s.UID == uid && s.Class == "user" && !p.sessionGoes(s.ID)
	})
}

// mayEnd reports whether the user's process may be ended.
func (p *policy) mayEnd(u hook.User) bool {
	if p.h.ProtectedProcess(u.Holder) {
		return false
	}
	if p.h.Config.GPU.InUse == hook.InUseTerminate {
		return true
	}
	return slices.ContainsFunc([]string{u.Comm, u.Unit(), u.SystemUnit()}, func(name string) bool {
		return name != "" && slices.Contains(p.h.Config.GPU.Terminate, name)
	})
}

// refuse makes a refusal for each function that somebody uses whom nothing gets rid of.
func (u *usage) refuse(h *hook.Host, p *hook.Proposal) {
	for i, user := range u.refused {
		first := slices.IndexFunc(u.refused, func(o hook.User) bool { return o.Address == user.Address })
		if first != i {
			continue
		}
		p.Refuse("%s is in use: %s", h.FormatPCI(user.Address), describeRefused(h, user.Address, u.refused))
	}
}

// warnOfGreeter says that a session that is ended makes its display manager show a greeter, if that stays.
func (u *usage) warnOfGreeter(h *hook.Host, p *hook.Proposal) {
	for _, s := range u.ending {
		stops := slices.ContainsFunc(h.Config.Stop, func(unit string) bool { return startsSession(realUnit(h, unit), s.Service) })
		if s.Service != "" && s.Service != "login" && !stops {
			p.Note("session %s was begun by %s, which will show a greeter once it has ended; list its display manager under services.stop, too",
				s.ID, s.Service)
		}
	}
}

// describeRefused names a function's users, and the ways to get rid of them that fit.
func describeRefused(h *hook.Host, address string, users []hook.User) string {
	var own []hook.User
	var process, unit, session, never bool
	for _, u := range users {
		if u.Address != address {
			continue
		}
		own = append(own, u)
		switch {
		case u.IsSessionKeeper():
			session = true
		case h.ProtectedProcess(u.Holder):
			never = true
		case strings.HasSuffix(u.SystemUnit(), ".service") && !strings.HasPrefix(u.SystemUnit(), "user@"):
			unit = true
		default:
			process = true
		}
	}
	var ways []string
	if unit {
		ways = append(ways, "stop it, or list the unit under services.stop")
	}
	if process {
		ways = append(ways, "quit it, or list the command under gpu.terminate")
	}
	if never {
		ways = append(ways, "stop it first: it is never ended for a guest")
	}
	if session {
		ways = append(ways, `log out, or say session.end = "seat0" in the configuration`)
	}
	return hook.DescribeUsers(h.FS, own) + "; " + strings.Join(ways, "; ")
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
		if len(u.waitFor)+len(u.terminate)+len(u.refused) == 0 {
			return nil
		}
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

// stillUsed is the refusal when the time is up.
func stillUsed(h *hook.Host, u *usage) error {
	left := slices.Concat(u.refused, u.terminate, u.waitFor)
	var p hook.Proposal
	(&usage{refused: left}).refuse(h, &p)
	return &hook.Refusal{Reasons: p.Refusals}
}
