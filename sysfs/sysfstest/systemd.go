package sysfstest

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"syscall"

	"qemu-hook/cpuset"
	"qemu-hook/systemd"
)

// Systemd is the host's service manager, as far as AllowedCPUs and running go: the property of each unit, the drop-in
// that a setting at runtime leaves, the control group of the unit and the processes in it; and systemd-logind's sessions.
type Systemd struct {
	h *Host

	// Err, if not nil, is what every call fails with: the bus is gone.
	Err error
	// Refuse, if not nil, is asked before a unit's property is set.
	Refuse func(unit string, cpus cpuset.Set) error
	// FailJob, if not nil, is asked before a unit is stopped or started; the verb is "stop" or "start". An error's text
	// is how the job ends then: "failed", "timeout", "canceled", "dependency".
	FailJob func(unit, verb string) error
	// ShutsDown says that the host is going down: nothing can be started.
	ShutsDown bool
	// Stale says when clearing the property leaves the old set in the control group (systemd issue 43846).
	Stale Stale
}

// Stale says what stays behind when AllowedCPUs is cleared.
type Stale int

const (
	// StaleUnlessFull keeps the old set unless it held every CPU of the host.
	StaleUnlessFull Stale = iota
	// StaleAlways keeps the old set, whatever it was.
	StaleAlways
	// StaleNever clears the group's set with the property.
	StaleNever
)

var _ systemd.Manager = (*Systemd)(nil)

// Systemd returns a connection to the host's service manager. It fails on use if the host does not run systemd.
func (h *Host) Systemd() *Systemd { return &Systemd{h: h} }

// Close does nothing: a lock of Inhibit's stays.
func (s *Systemd) Close() {}

// AllowedCPUs returns the property of a unit.
func (s *Systemd) AllowedCPUs(ctx context.Context, unit string) (cpuset.Set, error) {
	if err := s.ready(ctx); err != nil {
		return cpuset.Set{}, err
	}
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if s.h.noScope(unit) {
		return cpuset.Set{}, fmt.Errorf("cannot read AllowedCPUs of %s: %w", unit, refusal("NoSuchUnit", "Unit "+unit+" not found"))
	}
	return s.h.units[unit], nil
}

func (s *Systemd) ready(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case s.Err != nil:
		return s.Err
	case !s.h.kernel.systemd:
		return fmt.Errorf("cannot dial the system bus: %w", syscall.ENOENT)
	}
	return nil
}

// SetAllowedCPUs sets the property at runtime.
func (s *Systemd) SetAllowedCPUs(ctx context.Context, unit string, cpus cpuset.Set) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	if s.Refuse != nil {
		if err := s.Refuse(unit, cpus); err != nil {
			return err
		}
	}
	c := Change{Op: "dbus", Path: unit, Value: "AllowedCPUs=" + cpus.String()}
	return s.h.change(c, func() error { return s.h.setAllowedCPUs(unit, cpus, s.Stale) })
}

// unitGroup is the control group of a unit: a slice's dashes are its ancestors, anything else is where it is found.
func (h *Host) unitGroup(unit string) string {
	name, ok := strings.CutSuffix(unit, ".slice")
	if !ok || name == "-" {
		if unit == "init.scope" {
			return "/" + unit
		}
		for g := range h.cgroups {
			if path.Base(g) == unit && inUnit(g, unit) {
				return g
			}
		}
		return "/system.slice/" + unit
	}
	group := ""
	for i, c := range name {
		if c == '-' {
			group += "/" + name[:i] + ".slice"
		}
	}
	return group + "/" + unit
}

// noScope reports whether a unit is a scope that has ended: its control group is gone, and nothing runs in it.
func (h *Host) noScope(unit string) bool {
	return path.Ext(unit) == ".scope" && unit != "init.scope" && h.cgroups[h.unitGroup(unit)] == nil && len(h.pidsIn(unit)) == 0
}

// dropIn is where a property that was set at runtime is kept; a scope is a transient unit.
func dropIn(unit string) string {
	dir := "/run/systemd/system.control/"
	if path.Ext(unit) == ".scope" {
		dir = "/run/systemd/transient/"
	}
	return dir + unit + ".d/50-AllowedCPUs.conf"
}

func (h *Host) setAllowedCPUs(unit string, cpus cpuset.Set, stale Stale) error {
	if h.noScope(unit) {
		return fmt.Errorf("cannot set AllowedCPUs of %s: %w", unit, refusal("NoSuchUnit", "Unit "+unit+" not found"))
	}
	group := h.unitGroup(unit)
	section := map[string]string{".slice": "Slice", ".scope": "Scope", ".service": "Service"}[path.Ext(unit)]
	if section == "" {
		return errors.New("Unit name " + unit + " is not valid.") //nolint:staticcheck // systemd's words
	}
	h.units[unit] = cpus
	h.text(dropIn(unit), 0o644,
		"# This is a drop-in unit file extension, created via \"systemctl set-property\"\n"+
			"# or an equivalent operation. Do not edit.\n"+
			"["+section+"]\nAllowedCPUs=\nAllowedCPUs="+strings.ReplaceAll(cpus.String(), ",", " ")+"\n")
	g := h.cgroups[group]
	switch {
	case g == nil || !slices.Contains(h.kernel.controllers, "cpuset"):
		return nil // not started, or the controller is not on this hierarchy: accepted, without effect
	case !cpus.Empty():
		h.handDown(path.Dir(group))
		g.cpus = cpus.Intersect(h.cpus.possible)
	case stale == StaleNever, stale == StaleUnlessFull && h.cpus.online.Minus(h.cpus.isolated).Minus(g.cpus).Empty():
		g.cpus = cpuset.Set{}
		h.takeBack()
	}
	return nil
}

// takeBack disables the controller again where systemd enabled it, once no unit needs it.
func (h *Host) takeBack() {
	for _, cpus := range h.units {
		if !cpus.Empty() {
			return
		}
	}
	for i := len(h.handed) - 1; i >= 0; i-- {
		if next, err := h.parseSubtree(h.handed[i], "-cpuset"); err == nil {
			h.setSubtree(h.handed[i], next)
		}
	}
	h.handed = nil
}

// handDown enables the cpuset controller for a group's children, from the root down.
func (h *Host) handDown(group string) {
	if group != "/" {
		h.handDown(path.Dir(group))
	}
	if slices.Contains(h.cgroups[group].subtree, "cpuset") {
		return
	}
	if next, err := h.parseSubtree(group, "+cpuset"); err == nil {
		h.setSubtree(group, next)
		h.handed = append(h.handed, group)
	}
}

// ReloadUnits reads the unit files again, as systemctl daemon-reload does: the property of a unit whose runtime
// drop-in is gone is again what its unit file says, and every property that is set is applied once more.
func (s *Systemd) ReloadUnits() {
	h := s.h
	h.mu.Lock()
	defer h.mu.Unlock()
	for unit := range h.units {
		if h.find(dropIn(unit)) == noNode {
			h.units[unit] = h.kernel.allowed[unit]
		}
		if g := h.cgroups[h.unitGroup(unit)]; g != nil && !h.units[unit].Empty() {
			g.cpus = h.units[unit]
		}
	}
}
