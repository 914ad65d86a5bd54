package sysfstest

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"qemu-hook/sysfs"
	"qemu-hook/systemd"
)

// unit is what the host's service manager knows of a unit's running.
type unit struct {
	state  string    // "active", "inactive", "failed", "activating"
	boot   string    // what the host file says
	parked []process // what ran in it when it was stopped

	transient *systemd.Transient // nil for one with a unit file
}

func (u *unit) runs() bool { return u.state != "inactive" && u.state != "failed" }

// units reads the section of the host file.
func (p *parser) units(lines []string) error {
	for _, l := range lines {
		f := strings.Fields(l)
		if len(f) != 2 || path.Ext(f[0]) == "" || !slices.Contains([]string{"active", "inactive", "failed", "activating"}, f[1]) {
			return fmt.Errorf("cannot read %q", l)
		}
		p.h.services[f[0]] = &unit{state: f[1], boot: f[1]}
	}
	return nil
}

// realUnit resolves an alias, which is a link to another unit file: display-manager.service.
func (h *Host) realUnit(name string) string {
	n := h.find("/etc/systemd/system/" + name)
	if n == noNode {
		return name
	}
	if to := path.Base(h.inodes[n].data); h.inodes[n].typ() == syscall.S_IFLNK && path.Ext(to) == path.Ext(name) {
		return to
	}
	return name
}

// unitOf returns a unit, nil if the manager does not know it. One that the host file does not speak of runs if processes
// are in its control group; slices run always.
func (h *Host) unitOf(name string) *unit {
	h.forget()
	if u := h.services[name]; u != nil {
		return u
	}
	state := ""
	for g := range h.cgroups {
		if inUnit(g, name) {
			state = "inactive"
		}
	}
	if state != "" && path.Ext(name) == ".slice" || len(h.pidsIn(name)) > 0 {
		state = "active"
	}
	if state == "" {
		return nil
	}
	return &unit{state: state, boot: state}
}

// inUnit reports whether a control group is a unit's, or below it. What is below a service or a scope is no unit of this
// manager: a user's own has services in user@1000.service.
func inUnit(group, unit string) bool {
	for part := range strings.SplitSeq(group, "/") {
		if part == unit {
			return true
		}
		if part != "" && path.Ext(part) != ".slice" {
			return false
		}
	}
	return false
}

// pidsIn lists the processes of a unit.
func (h *Host) pidsIn(unit string) []int {
	return slices.DeleteFunc(h.pids(), func(pid int) bool { return !inUnit(h.processes[pid].cgroup, unit) })
}

// endUnit ends the processes of a unit and returns them.
func (h *Host) endUnit(unit string) []process {
	var ended []process
	for _, pid := range h.pidsIn(unit) {
		ended = append(ended, h.processes[pid])
		h.endProcess(pid)
	}
	return ended
}

// UnitRuns reports whether a unit runs.
func (s *Systemd) UnitRuns(ctx context.Context, unit string) (bool, error) {
	if err := s.ready(ctx); err != nil {
		return false, err
	}
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	u := s.h.unitOf(s.h.realUnit(unit))
	return u != nil && u.runs(), nil
}

// StopUnit ends a unit with its processes.
func (s *Systemd) StopUnit(ctx context.Context, name string) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	if !s.knows(name) {
		return nil
	}
	return s.job("stop", name, func(real string, u *unit) error {
		if real == "init.scope" || real == "-.slice" {
			return refusal("OnlyByDependency", "Operation refused, unit "+real+" may be requested by dependency only")
		}
		if u != nil && u.runs() {
			u.state, u.parked = "inactive", s.h.endUnit(real)
		}
		return nil
	})
}

// StartUnit starts a unit: the same processes are back in it, under the same numbers. A scope does not come back.
func (s *Systemd) StartUnit(ctx context.Context, name string) error {
	if err := s.ResetFailed(ctx, name); err != nil {
		return err
	}
	return s.job("start", name, func(real string, u *unit) error {
		switch {
		case u == nil, path.Ext(real) == ".scope" && !u.runs():
			return refusal("NoSuchUnit", "Unit "+real+" not found")
		case s.ShutsDown:
			return refusal("TransactionIsDestructive", "Transaction for "+real+"/start is destructive")
		case !u.runs():
			for _, p := range u.parked {
				s.h.addProcess(p)
			}
			u.parked = nil
		}
		if u.state = "active"; u.boot == "activating" {
			u.boot = "active" // there by now without anybody's help
		}
		return nil
	})
}

// ResetFailed forgets that a unit failed; StartUnit does it too.
func (s *Systemd) ResetFailed(ctx context.Context, name string) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	s.h.mu.Lock()
	u := s.h.unitOf(s.h.realUnit(name))
	failed := u != nil && u.state == "failed"
	s.h.mu.Unlock()
	if !failed {
		return nil
	}
	return s.change("reset-failed", name, func(_ string, u *unit) error {
		u.state = "inactive"
		return nil
	})
}

func (s *Systemd) knows(name string) bool {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	return s.h.unitOf(s.h.realUnit(name)) != nil
}

// job makes a change of a unit unless the job is to fail.
func (s *Systemd) job(verb, name string, do func(real string, u *unit) error) error {
	if s.FailJob != nil {
		if err := s.FailJob(name, verb); err != nil {
			return &systemd.JobError{Verb: verb, Unit: name, Result: err.Error()}
		}
	}
	if err := s.change(verb, name, do); err != nil {
		return fmt.Errorf("cannot %s %s: %w", verb, name, err)
	}
	return nil
}

// change makes a change of a unit, which is nil if the manager does not know it. All errors are refusals: nothing else
// comes through a bus.
func (s *Systemd) change(verb, name string, do func(real string, u *unit) error) error {
	h := s.h
	return asReply(h.change(Change{Op: "dbus", Path: name, Value: verb}, func() error {
		real := h.realUnit(name)
		u := h.unitOf(real)
		err := do(real, u)
		if err == nil && u != nil {
			h.services[real] = u
		}
		h.forget()
		return err
	}))
}

func asReply(err error) error {
	var refused *systemd.ReplyError
	if err == nil || errors.As(err, &refused) {
		return err
	}
	return &systemd.ReplyError{Name: "org.freedesktop.DBus.Error.Failed", Message: err.Error()}
}

func refusal(name, message string) error {
	return &systemd.ReplyError{Name: "org.freedesktop.systemd1." + name, Message: message}
}

// Stopping reports whether the host shuts down.
func (s *Systemd) Stopping(ctx context.Context) (bool, error) {
	return s.ShutsDown, s.ready(ctx)
}

// EndSession ends a login session with the processes in its scope, as systemd-logind does, which then closes what it has
// open for the session. With a user's last session goes what the user's own manager runs, here at once (UserStopDelaySec
// says 10 s), unless the user lingers. Nothing of it comes back.
func (s *Systemd) EndSession(ctx context.Context, id string) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	h := s.h
	sessions, err := h.FS().Sessions()
	if err != nil {
		return err
	}
	session := sysfs.Session{ID: id, UID: -1}
	i := slices.IndexFunc(sessions, func(o sysfs.Session) bool { return o.ID == id })
	if i >= 0 {
		session = sessions[i]
	}
	if session.Scope == "" {
		session.Scope = "session-" + id + ".scope"
	}
	if i < 0 && !s.knows(session.Scope) {
		return nil
	}
	last := i >= 0 && !slices.ContainsFunc(sessions, func(o sysfs.Session) bool {
		return o.ID != id && o.UID == session.UID && o.Class != "greeter"
	})
	err = h.change(Change{Op: "dbus", Path: id, Value: "terminate"}, func() error {
		h.erase("/run/systemd/sessions/" + id)
		h.erase("/run/systemd/sessions/" + id + ".ref")
		h.endUnit(session.Scope)
		if u := h.services[session.Scope]; u != nil {
			u.state = "inactive"
		}
		if last && h.find("/var/lib/systemd/linger/"+session.User) == noNode {
			h.endUnit("user@" + strconv.Itoa(session.UID) + ".service")
		}
		h.logindCloses(session)
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot end session %s: %w", id, &systemd.ReplyError{
			Name: "org.freedesktop.DBus.Error.Failed", Message: err.Error(),
		})
	}
	return nil
}

// logindCloses has systemd-logind close the device nodes that its file of the session lists; where it lists none, all.
func (h *Host) logindCloses(s sysfs.Session) {
	for _, pid := range h.pids() {
		if h.processes[pid].comm != "systemd-logind" {
			continue
		}
		h.closes(pid, func(name string) bool {
			n, err := h.walk(name, true)
			return err == nil && h.inodes[n].rdev != 0 && (len(s.Devices) == 0 || slices.Contains(s.Devices, h.inodes[n].rdev))
		})
	}
}
