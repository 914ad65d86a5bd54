package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// unitExists is what systemd answers when a unit that is to be made is there.
const unitExists = "org.freedesktop.systemd1.UnitExists"

// stopTimeout is how long a program whose time is up has to end by itself.
const stopTimeout = 2 * time.Second

// A Transient is a service that has no unit file.
type Transient struct {
	Name, Description string        // "qemu-hook-attend-UUID.service"
	Exec              []string      // absolute program and arguments
	BindsTo           string        // a unit with which it ends; "" for none
	RuntimeMax        time.Duration // after which it is ended; 0 for no bound
	Environment       []string      // "KEY=value"
	// Within is how long the program may take to end, where that is waited for; 0 where it is to run on.
	Within time.Duration
}

// StartTransient implements [Manager].
func (m *manager) StartTransient(ctx context.Context, u Transient) error {
	if err := u.check(); err != nil {
		return fmt.Errorf("cannot start %s: %w", u.Name, err)
	}
	// After a connection that broke, the unit that the first call made is there.
	err := m.job(ctx, "start", u.Name, func(c *connection, done chan<- string) error {
		_, err := c.StartTransientUnitContext(ctx, u.Name, "fail", u.properties(), done)
		return err
	}, "done")
	switch {
	case !answers(err, unitExists):
		return err
	case u.Within == 0:
		return nil
	}
	// It is at work: systemd makes one job of the two.
	return m.job(ctx, "start", u.Name, func(c *connection, done chan<- string) error {
		_, err := c.StartUnitContext(ctx, u.Name, "replace", done)
		return err
	}, "done")
}

func (u Transient) check() error {
	switch {
	case path.Ext(u.Name) != ".service" || u.Name == ".service":
		return errors.New("the name of a service ends in .service")
	case len(u.Exec) == 0 || !path.IsAbs(u.Exec[0]):
		return fmt.Errorf("%q does not begin with a program's absolute path", u.Exec)
	case u.RuntimeMax < 0 || u.Within < 0:
		return fmt.Errorf("it would have to end after %v", min(u.RuntimeMax, u.Within))
	}
	return nil
}

// properties are the unit as systemd's StartTransientUnit takes it (org.freedesktop.systemd1(5)). It is below system.slice, so
// that it runs on the host's own CPUs.
func (u Transient) properties() []sd.Property {
	set := func(name string, value any) sd.Property {
		return sd.Property{Name: name, Value: dbus.MakeVariant(value)}
	}
	kind := "exec" // so that a program that cannot be executed fails the start
	if u.Within > 0 {
		kind = "oneshot" // the start is done when the program is
	}
	p := []sd.Property{
		set("Description", u.Description),
		set("Slice", "system.slice"),
		set("Type", kind),
		sd.PropExecStart(literal(u.Exec), false),
		set("CollectMode", "inactive-or-failed"),
		set("StandardOutput", "journal"),
		set("StandardError", "journal"),
	}
	if u.BindsTo != "" {
		p = append(p, set("BindsTo", []string{u.BindsTo}), set("After", []string{u.BindsTo}))
	}
	if u.RuntimeMax > 0 {
		p = append(p, set("RuntimeMaxUSec", uint64(u.RuntimeMax.Microseconds())))
	}
	if u.Within > 0 {
		p = append(p, set("TimeoutStartUSec", uint64(u.Within.Microseconds())), set("TimeoutStopUSec", uint64(stopTimeout.Microseconds())),
			set("KillMode", "mixed")) // what it leaves running is ended with it
	}
	if len(u.Environment) > 0 {
		p = append(p, set("Environment", u.Environment))
	}
	return p
}

// literal returns a command of which systemd takes no argument for a variable of the environment: a guest may be called $HOME.
func literal(command []string) []string {
	command = slices.Clone(command)
	for i := 1; i < len(command); i++ {
		command[i] = strings.ReplaceAll(command[i], "$", "$$")
	}
	return command
}

// Inhibit implements [Manager].
func (m *manager) Inhibit(ctx context.Context, what, who, why string) (io.Closer, error) {
	var fd dbus.UnixFD
	err := m.logind(ctx, func(logind dbus.BusObject) error {
		return logind.CallWithContext(ctx, "org.freedesktop.login1.Manager.Inhibit", 0, what, who, why, "block").Store(&fd)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot keep the host from %s: %w", what, err)
	}
	return os.NewFile(uintptr(fd), "logind's lock on "+what), nil
}

// logind makes a call of systemd-logind. It is on the bus only, never behind systemd's private socket.
func (m *manager) logind(ctx context.Context, call func(dbus.BusObject) error) error {
	bus := m.addresses[slices.IndexFunc(m.addresses, func(a address) bool { return !a.direct })]
	var conn *dbus.Conn
	end := func() {} // ends the connection
	open := func() (err error) {
		var cancel context.CancelFunc
		conn, _, cancel, err = within(ctx, func(own context.Context, _ context.CancelFunc) (*dbus.Conn, error) {
			return connect(own, bus)
		})
		if err != nil {
			return fmt.Errorf("cannot reach logind at %s: %w", bus.bus, err)
		}
		end = cancel
		return nil
	}
	defer func() { end() }()
	return twice(ctx, open, func() error {
		return call(conn.Object("org.freedesktop.login1", "/org/freedesktop/login1"))
	}, func() { end() })
}

// Gone reports whether an error is systemd's answer that it does not know the unit.
func Gone(err error) bool { return answers(err, noSuchUnit) }
