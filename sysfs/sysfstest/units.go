package sysfstest

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
)

// unit is a unit of the host's service manager, as far as running goes.
type unit struct {
	state  string    // "active", "inactive", "failed", "activating"
	boot   string    // what the host file says
	parked []process // what ran in it when it was stopped
}

func (u *unit) runs() bool { return u.state != "inactive" && u.state != "failed" }

// UnitRuns reports whether a unit runs.
func (s *Systemd) UnitRuns(ctx context.Context, name string) (bool, error) {
	if err := s.ready(ctx); err != nil {
		return false, err
	}
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	u := s.h.services[s.h.realUnit(name)]
	return u != nil && u.runs(), nil
}

// realUnit resolves an alias, as a link below /etc/systemd/system makes one.
func (h *Host) realUnit(name string) string {
	if n := h.find("/etc/systemd/system/" + name); n != noNode && h.inodes[n].data != "" && strings.Contains(h.inodes[n].data, ".") {
		return path.Base(h.inodes[n].data)
	}
	return name
}

// StopUnit ends a unit with its processes; StartUnit brings the same processes back.
func (s *Systemd) StopUnit(ctx context.Context, name string) error {
	return s.job(ctx, name, "stop", func(u *unit) {
		if !u.runs() {
			return
		}
		u.state, u.parked = "inactive", s.h.endGroup(name)
	})
}

// StartUnit starts a unit.
func (s *Systemd) StartUnit(ctx context.Context, name string) error {
	return s.job(ctx, name, "start", func(u *unit) {
		if u.runs() {
			return
		}
		u.state = "active"
		for _, p := range u.parked {
			s.h.addProcess(p)
		}
		u.parked = nil
	})
}

func (s *Systemd) job(ctx context.Context, name, verb string, do func(*unit)) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	if s.FailJob != nil {
		if err := s.FailJob(name, verb); err != nil {
			return fmt.Errorf("cannot %s %s: %w", verb, name, err)
		}
	}
	return s.h.change(Change{Op: "dbus", Path: name, Value: verb}, func() error {
		real := s.h.realUnit(name)
		u := s.h.services[real]
		switch {
		case u == nil && verb == "stop":
			return nil
		case u == nil:
			return fmt.Errorf("cannot start %s: Unit %[1]s not found", name)
		}
		name = real
		do(u)
		return nil
	})
}

// endGroup ends the processes in a unit's control group and returns them.
func (h *Host) endGroup(unit string) []process {
	var ended []process
	for _, pid := range h.pids() {
		p := h.processes[pid]
		if slices.Contains(strings.Split(p.cgroup, "/"), unit) {
			ended = append(ended, p)
			h.endProcess(pid)
		}
	}
	return ended
}

// Stopping is the state that the host's service manager reports.
func (s *Systemd) Stopping(ctx context.Context) (bool, error) {
	return s.ShutsDown, s.ready(ctx)
}

// EndSession ends a login session with all its processes. It does not come back.
func (s *Systemd) EndSession(ctx context.Context, id string) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	return s.h.change(Change{Op: "dbus", Path: "session " + id, Value: "terminate"}, func() error {
		h := s.h
		file := "/run/systemd/sessions/" + id
		n := h.find(file)
		if n == noNode {
			return nil
		}
		uid := ""
		for line := range strings.Lines(h.inodes[n].data) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "UID="); ok {
				uid = v
			}
		}
		h.erase(file)
		h.endGroup("session-" + id + ".scope")
		h.endGroup("user@" + uid + ".service")
		h.letGo(id)
		return nil
	})
}

// letGo closes what logind keeps open for a session: all device nodes.
func (h *Host) letGo(string) {
	for _, pid := range h.pids() {
		if p := h.processes[pid]; p.comm == "systemd-logind" {
			p.fds = nil
			h.addProcess(p)
		}
	}
}

// units reads the section of the host file.
func (p *parser) units(lines []string) error {
	for _, l := range lines {
		f := strings.Fields(l)
		if len(f) != 2 || !slices.Contains([]string{"active", "inactive", "failed", "activating"}, f[1]) {
			return fmt.Errorf("cannot read %q", l)
		}
		p.h.services[f[0]] = &unit{state: f[1], boot: f[1]}
	}
	return nil
}
