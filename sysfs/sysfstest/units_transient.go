package sysfstest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"qemu-hook/systemd"
)

// StartTransient starts a service that has no unit file. It runs until it is stopped, or ends with the unit that it is bound
// to; the manager forgets it then. Its program is not run, and its time does not pass; but one that is to end runs there and then.
func (s *Systemd) StartTransient(ctx context.Context, u systemd.Transient) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	if s.knows(u.Name) {
		return nil
	}
	if s.FailJob != nil {
		if err := s.FailJob(u.Name, "start"); err != nil {
			return &systemd.JobError{Verb: "start", Unit: u.Name, Result: err.Error()}
		}
	}
	h := s.h
	c := Change{Op: "dbus", Path: u.Name, Value: "StartTransient " + strings.Join(u.Exec, " ")}
	err := asReply(h.change(c, func() error {
		switch {
		case s.ShutsDown:
			return refusal("TransactionIsDestructive", "Transaction for "+u.Name+"/start is destructive")
		case u.BindsTo != "" && h.isGone(u.BindsTo):
			return refusal("NoSuchUnit", "Unit "+u.BindsTo+" not found")
		}
		if u.Within == 0 {
			h.services[u.Name] = &unit{state: "active", transient: &u}
		}
		return nil
	}))
	if err != nil {
		return fmt.Errorf("cannot start %s: %w", u.Name, err)
	}
	if u.Within > 0 {
		if _, err := h.VFS().execute(u.Exec[0], u.Exec[1:], u.Environment, 1); err != nil {
			return &systemd.JobError{Verb: "start", Unit: u.Name, Result: "failed"}
		}
	}
	return nil
}

// Transients lists the services without a unit file that run, by name.
func (s *Systemd) Transients() []systemd.Transient {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.h.forget()
	var out []systemd.Transient
	for _, name := range slices.Sorted(maps.Keys(s.h.services)) {
		if u := s.h.services[name]; u.transient != nil {
			out = append(out, *u.transient)
		}
	}
	return out
}

// forget ends the transient units whose time has come. With a scope goes what was set for it.
func (h *Host) forget() {
	for name, u := range h.services {
		if t := u.transient; t != nil && (!u.runs() || t.BindsTo != "" && h.isGone(t.BindsTo)) {
			delete(h.services, name)
		}
	}
	for name := range h.units {
		if h.noScope(name) {
			delete(h.units, name)
			h.erase(path.Dir(dropIn(name)))
		}
	}
}

// isGone reports whether a unit has ended, or never was.
func (h *Host) isGone(name string) bool {
	u := h.services[name]
	if u != nil && !u.runs() {
		return true
	}
	if path.Ext(name) == ".scope" {
		return h.noScope(name)
	}
	return u == nil && len(h.pidsIn(name)) == 0
}

// Inhibit takes a lock of systemd-logind's.
func (s *Systemd) Inhibit(ctx context.Context, what, who, why string) (io.Closer, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	h, name := s.h, ""
	text := fmt.Sprintf("%s, by %s: %s", what, who, why)
	err := asReply(h.change(Change{Op: "dbus", Path: "inhibit", Value: text}, func() error {
		for name = "inhibit"; h.services[name] != nil; {
			name += "'"
		}
		h.services[name] = &unit{state: text} // no unit, but as one it is copied and seen
		return nil
	}))
	if err != nil {
		return nil, fmt.Errorf("cannot keep the host from %s: %w", what, err)
	}
	return &inhibitor{h: h, name: name}, nil
}

// An inhibitor is a lock of systemd-logind's.
type inhibitor struct {
	h    *Host
	name string
	once sync.Once
}

// Close gives the lock back.
func (i *inhibitor) Close() error {
	err := error(syscall.EBADF)
	i.once.Do(func() {
		i.h.mu.Lock()
		defer i.h.mu.Unlock()
		delete(i.h.services, i.name)
		err = nil
	})
	return err
}

// Inhibitors lists the locks that are held: "sleep, by WHO: WHY".
func (s *Systemd) Inhibitors() []string {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	var out []string
	for _, name := range slices.Sorted(maps.Keys(s.h.services)) {
		if path.Ext(name) == "" {
			out = append(out, s.h.services[name].state)
		}
	}
	return out
}
