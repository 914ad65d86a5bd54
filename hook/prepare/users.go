package prepare

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"qemu-hook/hook"
	"qemu-hook/sysfs"
)

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
	units  []string        // that are stopped
	ending []sysfs.Session // that are ended
	gone   []sysfs.Session // that end, by themselves or with their display manager's unit
	all    []sysfs.Session
}

func newPolicy(h *hook.Host, units []string, users []hook.User) (*policy, error) {
	p := &policy{h: h, units: units}
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

// stillUsed is the refusal when the time is up.
func stillUsed(h *hook.Host, u *usage) error {
	left := slices.Concat(u.refused, u.terminate, u.waitFor)
	var p hook.Proposal
	(&usage{refused: left}).refuse(h, &p)
	return &hook.Refusal{Reasons: p.Refusals}
}
