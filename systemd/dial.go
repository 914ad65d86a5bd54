package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// An address is a way to reach systemd.
type address struct {
	bus    string // in D-Bus' own format
	direct bool   // systemd itself listens, so there is no bus to be greeted
}

// addresses are the ways to reach the systemd of the host under root.
func addresses(root, env string, euid int) []address {
	if env != "" {
		return []address{{bus: env}}
	}
	root = filepath.Clean(root)
	bus := address{bus: "unix:path=" + dbus.EscapeBusAddressValue(filepath.Join(root, "run/dbus/system_bus_socket"))}
	if root == "/" && euid == 0 {
		return []address{{bus: "unix:path=/run/systemd/private", direct: true}, bus}
	}
	return []address{bus}
}

// connection is one to systemd, with what ends it.
type connection struct {
	*sd.Conn
	gone   <-chan struct{} // closed when it broke
	cancel context.CancelFunc
}

func (c *connection) close() {
	c.Conn.Close()
	c.cancel()
}

// dialFirst connects to the first address that answers.
func dialFirst(ctx context.Context, list []address) (*connection, error) {
	var errs []error
	for _, a := range list {
		c, err := dial(ctx, a)
		if err == nil {
			return c, nil
		}
		errs = append(errs, fmt.Errorf("cannot reach systemd at %s: %w", a.bus, err))
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 1 {
		return nil, errs[0]
	}
	return nil, errors.Join(errs...)
}

// dial connects to systemd within ctx. The library has one connection for calls and one for signals; when either breaks
// the other is closed too, as nobody else would tell that no signal comes any more.
func dial(ctx context.Context, a address) (*connection, error) {
	conn, own, cancel, err := within(ctx, func(own context.Context, cancel context.CancelFunc) (*sd.Conn, error) {
		return sd.NewConnection(func() (*dbus.Conn, error) {
			c, err := connect(own, a)
			if err == nil {
				context.AfterFunc(c.Context(), cancel)
			}
			return c, err
		})
	})
	if err != nil {
		return nil, err
	}
	return &connection{conn, own.Done(), cancel}, nil
}

// within connects within ctx. The connection outlives ctx: the library ties it to the context it is made with, so that
// is one of its own. Connecting itself can block where no context is asked, hence the goroutine.
func within[C any](
	ctx context.Context, connect func(context.Context, context.CancelFunc) (C, error),
) (conn C, own context.Context, cancel context.CancelFunc, err error) {
	// Not the results: who connects still may look at these when they are returned.
	tied, end := context.WithCancel(context.Background())
	type result struct {
		conn C
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := connect(tied, end)
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			end()
			return conn, nil, nil, cause(r.err)
		}
		return r.conn, tied, end, nil
	case <-ctx.Done():
		// What is connected later than this ends with its context.
		end()
		return conn, nil, nil, ctx.Err()
	}
}

// connect opens one connection and says who we are.
func connect(ctx context.Context, a address) (*dbus.Conn, error) {
	conn, err := dbus.Dial(a.bus, dbus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	// The number, not the name: looking that up may take a directory service.
	err = conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))})
	if err == nil && !a.direct {
		err = conn.Hello()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// cause drops the operation and path that package net repeats.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	return err
}
