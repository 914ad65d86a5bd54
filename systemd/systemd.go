// Package systemd sets resource properties of slices and scopes, stops and starts units and ends sessions, over D-Bus.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"qemu-hook/cpuset"
)

// A Manager is the part of org.freedesktop.systemd1 that the program uses.
type Manager interface {
	// AllowedCPUs returns the unit's AllowedCPUs property; empty means not set. For a scope that is no more it fails with an
	// error that is [Gone].
	AllowedCPUs(ctx context.Context, unit string) (cpuset.Set, error)
	// SetAllowedCPUs sets the property at runtime (it does not outlive a reboot); the empty set clears it. For a unit that
	// systemd does not know it fails with an error that is [Gone].
	SetAllowedCPUs(ctx context.Context, unit string, cpus cpuset.Set) error
	// UnitRuns reports whether a unit is active, on its way there or away from there, or has a job queued. One that
	// systemd does not know does not run.
	UnitRuns(ctx context.Context, unit string) (bool, error)
	// StopUnit stops a unit and waits for the job's end; one that systemd does not know is stopped. StartUnit forgets the
	// unit's failures, starts it and waits. Both fail with a [JobError] if the job does not end well.
	StopUnit(ctx context.Context, unit string) error
	StartUnit(ctx context.Context, unit string) error
	// StartTransient has systemd start a service that it forgets when it ends, and waits until the program is executed, or has
	// ended; a [JobError] says that it could not be, or has failed. One of that name that is there already is left: no error, but
	// that its end is waited for.
	StartTransient(ctx context.Context, u Transient) error
	// Stopping reports whether the host shuts down.
	Stopping(ctx context.Context) (bool, error)
	// EndSession has systemd-logind end a login session with all its processes; one that is gone is no error. The end of
	// the processes is not waited for.
	EndSession(ctx context.Context, id string) error
	// Inhibit takes a lock of systemd-logind's, in mode "block", which lasts until it is closed: what is "sleep" or several
	// such words with colons between (org.freedesktop.login1(5)), who and why are for people.
	Inhibit(ctx context.Context, what, who, why string) (io.Closer, error)
	Close()
}

// New returns the manager of the host under root; it dials on first use. The environment's
// DBUS_SYSTEM_BUS_ADDRESS is honoured. Without it, root asks the running host's systemd directly, so that it works
// without a bus too; everybody else, and everybody under another root, asks the system bus.
func New(root string) Manager {
	return &manager{
		addresses: addresses(root, os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"), os.Geteuid()),
		turn:      make(chan struct{}, 1),
	}
}

// manager is the real one.
type manager struct {
	addresses []address // tried in this order

	turn chan struct{} // one call at a time; a channel, as waiting for it ends with the context
	conn *connection   // nil before the first call, and after one that broke it
}

// AllowedCPUs implements [Manager].
func (m *manager) AllowedCPUs(ctx context.Context, unit string) (cpuset.Set, error) {
	var mask []byte
	kind, err := unitType(unit)
	if err == nil {
		var p *sd.Property
		err = m.do(ctx, func(c *connection) (err error) {
			p, err = c.GetUnitTypePropertyContext(ctx, unit, kind, "AllowedCPUs")
			if err == nil && kind == "Scope" {
				err = loaded(ctx, c, unit)
			}
			return err
		})
		if err == nil {
			var ok bool
			if mask, ok = p.Value.Value().([]byte); !ok {
				err = fmt.Errorf("it has the type %s, want ay", p.Value.Signature())
			}
		}
	}
	if err != nil {
		return cpuset.Set{}, fmt.Errorf("cannot read AllowedCPUs of %s over D-Bus: %w", unit, err)
	}
	return cpuset.FromBytes(mask), nil
}

// loaded fails with a refusal if systemd does not know a unit. Asked for a property of one it makes the unit up, with nothing
// set; only LoadState tells.
func loaded(ctx context.Context, c *connection, unit string) error {
	p, err := c.GetUnitPropertyContext(ctx, unit, "LoadState")
	if err != nil {
		return err
	}
	if state, _ := p.Value.Value().(string); state == "not-found" {
		return *dbus.NewError(noSuchUnit, []any{"Unit " + unit + " not found."})
	}
	return nil
}

// SetAllowedCPUs implements [Manager].
func (m *manager) SetAllowedCPUs(ctx context.Context, unit string, cpus cpuset.Set) error {
	_, err := unitType(unit)
	if err == nil {
		mask := cpus.Bytes()
		if mask == nil {
			mask = []byte{}
		}
		err = m.do(ctx, func(c *connection) error {
			return c.SetUnitPropertiesContext(ctx, unit, true, sd.Property{Name: "AllowedCPUs", Value: dbus.MakeVariant(mask)})
		})
	}
	if err == nil {
		return nil
	}
	if cpus.Empty() {
		return fmt.Errorf("cannot clear AllowedCPUs of %s over D-Bus: %w", unit, err)
	}
	return fmt.Errorf("cannot set AllowedCPUs of %s to %s over D-Bus: %w", unit, cpus, err)
}

// Close ends the connection; a later call makes a new one.
func (m *manager) Close() {
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	m.drop()
}

func (m *manager) drop() {
	if m.conn != nil {
		m.conn.close()
		m.conn = nil
	}
}

// unitType is the type under which a unit has its AllowedCPUs property.
func unitType(unit string) (string, error) {
	switch unit[strings.LastIndexByte(unit, '.')+1:] {
	case "slice":
		return "Slice", nil
	case "scope":
		return "Scope", nil
	case "service":
		return "Service", nil
	}
	return "", errors.New("it is no slice, scope or service")
}

// do calls systemd, once more over a new connection if the first was lost on the way: all calls mean the same when they
// are made twice.
func (m *manager) do(ctx context.Context, call func(*connection) error) error {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	open := func() (err error) {
		if m.conn == nil {
			m.conn, err = dialFirst(ctx, m.addresses)
		}
		return err
	}
	return twice(ctx, open, func() error { return call(m.conn) }, m.drop)
}

// twice makes a call over a connection, once more over a new one if the first was lost on the way, be it while it began. Open connects where there is
// no connection, drop gives one up.
func twice(ctx context.Context, open, call func() error, drop func()) error {
	for again := false; ; again = true {
		err := open()
		opened := err == nil
		if opened && ctx.Err() == nil {
			err = call()
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			return nil
		case !lost(err):
			return plain(err)
		}
		drop()
		switch {
		case again && opened:
			return fmt.Errorf("the connection was lost, twice: %w", cause(plain(err)))
		case again:
			return err
		}
	}
}

// lost reports whether a call got no answer: the connection broke, which has many names, or systemd left the bus
// meanwhile.
func lost(err error) bool {
	var reply dbus.Error
	if errors.As(err, &reply) {
		switch reply.Name {
		case "org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.Disconnected":
			return true
		}
		return false
	}
	return true
}

// plain puts an answer of systemd in the form of our errors.
func plain(err error) error {
	var reply dbus.Error
	if !errors.As(err, &reply) {
		return err
	}
	return &ReplyError{Name: reply.Name, Message: strings.TrimSuffix(reply.Error(), ".")}
}

// A ReplyError is systemd's or the bus's refusal.
type ReplyError struct {
	Name    string // "org.freedesktop.systemd1.NoSuchUnit"
	Message string
}

func (e *ReplyError) Error() string { return e.Message }
