package systemd_test

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"qemu-hook/cpuset"
	"qemu-hook/systemd"
	"qemu-hook/systemd/systemdtest"
)

// fake is a manager of three units with CPUs, and of those that a test gives it.
type fake struct {
	mu    sync.Mutex
	units map[string]cpuset.Set
	calls int
	hook  func(ctx context.Context, call int) error // before each call

	unitsFake
	transientFake
}

func newFake() *fake {
	return &fake{units: map[string]cpuset.Set{"system.slice": {}, "init.scope": {}, "9-odd@a\\x2d.service": {}}}
}

func (f *fake) begin(ctx context.Context) error {
	f.mu.Lock()
	f.calls++
	n, hook := f.calls, f.hook
	f.mu.Unlock()
	if hook != nil {
		return hook(ctx, n)
	}
	return nil
}

func (f *fake) AllowedCPUs(ctx context.Context, unit string) (cpuset.Set, error) {
	if err := f.begin(ctx); err != nil {
		return cpuset.Set{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	cpus, ok := f.units[unit]
	if !ok {
		return cpuset.Set{}, noUnit(unit)
	}
	return cpus, nil
}

func (f *fake) SetAllowedCPUs(ctx context.Context, unit string, cpus cpuset.Set) error {
	if err := f.begin(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.units[unit]; !ok {
		return noUnit(unit)
	}
	f.units[unit] = cpus
	return nil
}

func (f *fake) Close() {}

// before sets what happens before each call, counted from 1 again.
func (f *fake) before(hook func(ctx context.Context, call int) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls, f.hook = 0, hook
}

func noUnit(unit string) error {
	return *dbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"Unit " + unit + " not found."})
}

// client is the real client, on the bus at address.
func client(t *testing.T, address string) systemd.Manager {
	t.Helper()
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
	m := systemd.New(t.TempDir())
	t.Cleanup(m.Close)
	return m
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// round sets, reads and clears.
func round(t *testing.T, m systemd.Manager, unit string) {
	t.Helper()
	ctx := within(t, 10*time.Second)
	for _, cpus := range []cpuset.Set{cpuset.Of(0, 1, 2, 3, 16), cpuset.Of(1000), {}} {
		if err := m.SetAllowedCPUs(ctx, unit, cpus); err != nil {
			t.Fatal(err)
		}
		got, err := m.AllowedCPUs(ctx, unit)
		if err != nil || !got.Equal(cpus) {
			t.Fatalf("%s: %q, %v; want %q", unit, got, err, cpus)
		}
	}
}

func TestManager(t *testing.T) {
	f := newFake()
	units := slices.Collect(maps.Keys(f.units))
	m := client(t, systemdtest.Serve(t, f))
	for _, unit := range units {
		round(t, m, unit)
	}
	m.Close()
	round(t, m, "system.slice") // a closed one begins anew
	m.Close()
	m.Close()
}

func TestRefusals(t *testing.T) {
	f := newFake()
	m := client(t, systemdtest.Serve(t, f))
	ctx := within(t, 10*time.Second)
	cpus := cpuset.Of(0, 1, 2, 3, 16)
	_, err := m.AllowedCPUs(ctx, "no.slice")
	_, errType := m.AllowedCPUs(ctx, "a.mount")
	_, errNone := m.AllowedCPUs(ctx, "")
	tests := []struct {
		err        error
		want, name string
	}{
		{err, "cannot read AllowedCPUs of no.slice over D-Bus: Unit no.slice not found", "org.freedesktop.systemd1.NoSuchUnit"},
		{m.SetAllowedCPUs(ctx, "no.slice", cpus), "cannot set AllowedCPUs of no.slice to 0-3,16 over D-Bus: Unit no.slice not found", "org.freedesktop.systemd1.NoSuchUnit"},
		{m.SetAllowedCPUs(ctx, "no.slice", cpuset.Set{}), "cannot clear AllowedCPUs of no.slice over D-Bus: Unit no.slice not found", "org.freedesktop.systemd1.NoSuchUnit"},
		{errType, "cannot read AllowedCPUs of a.mount over D-Bus: it is no slice, scope or service", ""},
		{errNone, "cannot read AllowedCPUs of  over D-Bus: it is no slice, scope or service", ""},
	}
	f.before(func(context.Context, int) error {
		return *dbus.NewError("org.freedesktop.DBus.Error.AccessDenied", []any{"Access denied"})
	})
	tests = append(tests, struct {
		err        error
		want, name string
	}{m.SetAllowedCPUs(ctx, "system.slice", cpus), "cannot set AllowedCPUs of system.slice to 0-3,16 over D-Bus: Access denied", "org.freedesktop.DBus.Error.AccessDenied"})
	f.before(func(context.Context, int) error { return errors.New("out of cheese") })
	tests = append(tests, struct {
		err        error
		want, name string
	}{m.SetAllowedCPUs(ctx, "system.slice", cpus), "cannot set AllowedCPUs of system.slice to 0-3,16 over D-Bus: out of cheese", "org.freedesktop.DBus.Error.Failed"})
	for _, test := range tests {
		if test.err == nil || test.err.Error() != test.want {
			t.Errorf("error %v\n want %s", test.err, test.want)
		}
		var reply *systemd.ReplyError
		if errors.As(test.err, &reply) != (test.name != "") || reply != nil && reply.Name != test.name {
			t.Errorf("%v: reply %+v, want %s", test.err, reply, test.name)
		}
	}
}

func TestSlow(t *testing.T) {
	f := newFake()
	f.before(func(ctx context.Context, n int) error {
		if n == 2 {
			<-ctx.Done()
		}
		return nil
	})
	m := client(t, systemdtest.Serve(t, f))
	if _, err := m.AllowedCPUs(within(t, 10*time.Second), "system.slice"); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	err := m.SetAllowedCPUs(within(t, 50*time.Millisecond), "system.slice", cpuset.Of(1))
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 30*time.Second {
		t.Errorf("error %v after %v", err, time.Since(start))
	}
	// The connection is as good as before.
	round(t, m, "system.slice")
}

// Whoever waits for another's call waits no longer than the own deadline.
func TestSlowOther(t *testing.T) {
	f := newFake()
	entered := make(chan bool, 1)
	f.before(func(ctx context.Context, _ int) error {
		entered <- true
		<-ctx.Done()
		return nil
	})
	m := client(t, systemdtest.Serve(t, f))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- m.SetAllowedCPUs(ctx, "system.slice", cpuset.Of(1)) }()
	<-entered
	if _, err := m.AllowedCPUs(within(t, 20*time.Millisecond), "system.slice"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// A connection that breaks between calls, or in the middle of one, is made again, once for each call.
func TestRedial(t *testing.T) {
	f := newFake()
	p := systemdtest.NewProxy(t, systemdtest.Serve(t, f))
	m := client(t, p.Address)
	round(t, m, "system.slice")

	p.Cut()
	round(t, m, "system.slice")

	cutAt := func(calls ...int) {
		f.before(func(_ context.Context, n int) error {
			if slices.Contains(calls, n) {
				p.Cut()
			}
			return nil
		})
	}
	cutAt(1)
	before := p.Dialed()
	round(t, m, "system.slice")
	if p.Dialed() == before {
		t.Error("nothing was dialled again, so nothing was tested")
	}

	cutAt(1, 2)
	err := m.SetAllowedCPUs(within(t, 10*time.Second), "system.slice", cpuset.Of(1))
	if err == nil || !strings.Contains(err.Error(), "cannot set AllowedCPUs of system.slice to 1 over D-Bus: the connection was lost, twice: ") {
		t.Errorf("error %v", err)
	}
	round(t, m, "system.slice")
}

// Nobody has systemd's name on this bus.
func TestNoSystemd(t *testing.T) {
	m := client(t, systemdtest.Bus(t))
	_, err := m.AllowedCPUs(within(t, 10*time.Second), "system.slice")
	var reply *systemd.ReplyError
	if !errors.As(err, &reply) || reply.Name != "org.freedesktop.DBus.Error.ServiceUnknown" {
		t.Errorf("error %v", err)
	}
}

func TestNoBus(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "")
	m := systemd.New(t.TempDir())
	defer m.Close()
	err := m.SetAllowedCPUs(within(t, 10*time.Second), "system.slice", cpuset.Of(1))
	if !errors.Is(err, fs.ErrNotExist) || !strings.HasSuffix(err.Error(), "/run/dbus/system_bus_socket: no such file or directory") {
		t.Errorf("error %v", err)
	}
	for _, address := range []string{"nonsense", "unix:path=", "tcp:host=", ";", "unix:path=/" + strings.Repeat("x", 200)} {
		t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
		m := systemd.New("/")
		if _, err := m.AllowedCPUs(within(t, 10*time.Second), "system.slice"); err == nil {
			t.Errorf("%q: no error", address)
		}
	}
}

// A bus that takes connections and says nothing.
func TestDeafBus(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m := client(t, "unix:path="+dbus.EscapeBusAddressValue(filepath.Join(dir, "s")))
	start := time.Now()
	_, err = m.AllowedCPUs(within(t, 50*time.Millisecond), "system.slice")
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 30*time.Second {
		t.Errorf("error %v after %v", err, time.Since(start))
	}
}
