package systemd_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"qemu-hook/cpuset"
	"qemu-hook/systemd"
	"qemu-hook/systemd/systemdtest"
)

// transientFake is what the fake has of services without a unit file, and of locks.
type transientFake struct {
	made  []systemd.Transient
	locks []string
}

func (f *fake) StartTransient(ctx context.Context, u systemd.Transient) error {
	if err := f.note(ctx, "transient "+u.Name); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.results) > 0 {
		result := f.results[0]
		f.results = f.results[1:]
		if result != systemdtest.Never {
			return &systemd.JobError{Result: result}
		}
		f.made = append(f.made, u)
		return &systemd.JobError{Result: result}
	}
	for _, other := range f.made {
		if other.Name == u.Name {
			return *dbus.NewError("org.freedesktop.systemd1.UnitExists", []any{"Unit " + u.Name + " was already loaded or has a fragment file."})
		}
	}
	f.made = append(f.made, u)
	return nil
}

func (f *fake) Inhibit(ctx context.Context, what, who, why string) (io.Closer, error) {
	if err := f.note(ctx, "inhibit "+what); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	lock := strings.Join([]string{what, who, why}, "|")
	f.locks = append(f.locks, lock)
	return &fakeLock{f, lock}, nil
}

type fakeLock struct {
	f    *fake
	lock string
}

func (l *fakeLock) Close() error {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	i := slices.Index(l.f.locks, l.lock)
	l.f.locks = slices.Delete(l.f.locks, i, i+1)
	return nil
}

func (f *fake) transients() []systemd.Transient {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.made)
}

func (f *fake) held() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.locks)
}

// attendant is a service with everything that one can have.
func attendant() systemd.Transient {
	return systemd.Transient{
		Name: "qemu-hook-attend-x.service", Description: "Interrupts of guest “win 11”",
		Exec: []string{"/usr/bin/qemu-hook", "attend", "a b", "", "$HOME", "a${b}$$c$", "$", "%n"}, BindsTo: "machine-qemu\\x2d1\\x2dwin11.scope",
		RuntimeMax: 90 * time.Second, Environment: []string{"A=b c", "D="},
	}
}

// The stand-in refuses properties of a wrong type, and one that is missing.
func TestStartTransient(t *testing.T) {
	f := newFake()
	address := systemdtest.Serve(t, f)
	private := systemdtest.ServePrivate(t, f)
	for name, m := range map[string]systemd.Manager{"bus": client(t, address), "private": systemd.NewAt(private, address)} {
		t.Run(name, func(t *testing.T) {
			defer m.Close()
			f.mu.Lock()
			f.made = nil
			f.mu.Unlock()
			want := []systemd.Transient{attendant(), {Name: "plain.service", Exec: []string{"/bin/true"}}}
			for range 2 { // the second time they are there
				for _, u := range want {
					if err := m.StartTransient(within(t, 10*time.Second), u); err != nil {
						t.Error(err)
					}
				}
			}
			if diff := cmp.Diff(want, f.transients(), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestStartTransientRefused(t *testing.T) {
	f := newFake()
	m := client(t, systemdtest.Serve(t, f))
	start := func(u systemd.Transient, want string) error {
		t.Helper()
		err := m.StartTransient(within(t, 10*time.Second), u)
		if err == nil || err.Error() != "cannot start "+u.Name+": "+want {
			t.Errorf("error %v\n want %s", err, want)
		}
		return err
	}
	for _, wrong := range []struct {
		change func(*systemd.Transient)
		want   string
	}{
		{func(u *systemd.Transient) { u.Name = "x.scope" }, "the name of a service ends in .service"},
		{func(u *systemd.Transient) { u.Name = ".service" }, "the name of a service ends in .service"},
		{func(u *systemd.Transient) { u.Exec = nil }, "[] does not begin with a program's absolute path"},
		{func(u *systemd.Transient) { u.Exec = []string{"true"} }, `["true"] does not begin with a program's absolute path`},
		{func(u *systemd.Transient) { u.RuntimeMax = -time.Second }, "it would have to end after -1s"},
	} {
		u := attendant()
		wrong.change(&u)
		start(u, wrong.want)
	}
	if asked := f.asked(); asked != nil {
		t.Errorf("systemd was asked to %q", asked)
	}

	f.mu.Lock()
	f.results = []string{"failed"}
	f.mu.Unlock()
	var job *systemd.JobError
	if err := start(attendant(), "its job ended as failed; see systemctl status "+attendant().Name); !errors.As(err, &job) {
		t.Errorf("error %#v", err)
	}
	f.before(func(context.Context, int) error { return noUnit("machine-x.scope") })
	if err := start(attendant(), "Unit machine-x.scope not found"); !systemd.Gone(err) {
		t.Errorf("error %#v", err)
	}
	f.before(func(context.Context, int) error {
		return *dbus.NewError("org.freedesktop.DBus.Error.AccessDenied", []any{"Access denied"})
	})
	if err := start(attendant(), "Access denied"); systemd.Gone(err) || systemd.Gone(nil) {
		t.Errorf("error %#v says that a unit is gone", err)
	}
	f.before(func(ctx context.Context, _ int) error { <-ctx.Done(); return nil })
	began := time.Now()
	err := m.StartTransient(within(t, 50*time.Millisecond), attendant())
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 30*time.Second {
		t.Errorf("a systemd that does not answer: %v after %v", err, time.Since(began))
	}
	if made := f.transients(); made != nil {
		t.Errorf("it started %v", made)
	}
}

// The connection breaks while the program is executed: the unit is there when it is asked for again.
func TestStartTransientCut(t *testing.T) {
	f := newFake()
	p := systemdtest.NewProxy(t, systemdtest.Serve(t, f))
	m := client(t, p.Address)
	f.results = []string{systemdtest.Never}
	f.before(func(_ context.Context, n int) error {
		if n == 1 {
			time.AfterFunc(50*time.Millisecond, p.Cut)
		}
		return nil
	})
	if err := m.StartTransient(within(t, 30*time.Second), attendant()); err != nil {
		t.Error(err)
	}
	if got, want := f.asked(), slices.Repeat([]string{"transient " + attendant().Name}, 2); !slices.Equal(got, want) {
		t.Errorf("systemd was asked to %q", got)
	}
	if diff := cmp.Diff([]systemd.Transient{attendant()}, f.transients()); diff != "" {
		t.Error(diff)
	}
}

func TestNobodyStarts(t *testing.T) {
	m := client(t, systemdtest.Bus(t))
	var reply *systemd.ReplyError
	err := m.StartTransient(within(t, 10*time.Second), attendant())
	if !errors.As(err, &reply) || reply.Name != "org.freedesktop.DBus.Error.ServiceUnknown" {
		t.Errorf("error %v", err)
	}
	_, err = m.Inhibit(within(t, 10*time.Second), "sleep", "a", "b")
	if !errors.As(err, &reply) || reply.Name != "org.freedesktop.DBus.Error.ServiceUnknown" {
		t.Errorf("error %v", err)
	}
	nobody := "unix:path=" + dbus.EscapeBusAddressValue(filepath.Join(t.TempDir(), "none"))
	m = systemd.NewAt(nobody, nobody)
	err = m.StartTransient(within(t, 10*time.Second), attendant())
	_, err2 := m.Inhibit(within(t, 10*time.Second), "sleep", "a", "b")
	if !errors.Is(err, fs.ErrNotExist) || !errors.Is(err2, fs.ErrNotExist) ||
		!strings.HasPrefix(err2.Error(), "cannot keep the host from sleep: cannot reach logind at unix:path=") {
		t.Errorf("errors %v, %v", err, err2)
	}
}

// A lock lasts until it is closed, and no longer; neither the end of the connection nor that of the manager is its end.
func TestInhibit(t *testing.T) {
	f := newFake()
	p := systemdtest.NewProxy(t, systemdtest.Serve(t, f))
	m := client(t, p.Address)
	holds := func(want ...string) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			got := f.held()
			if slices.Equal(got, want) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("locks %q, want %q", got, want)
			}
		}
	}
	first, err := m.Inhibit(within(t, 10*time.Second), "sleep", "qemu-hook", "guest win11 runs")
	if err != nil {
		t.Fatal(err)
	}
	second, err := m.Inhibit(within(t, 10*time.Second), "sleep:idle", "qemu-hook", "guest “b c” runs")
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	p.Cut()
	time.Sleep(50 * time.Millisecond)
	holds("sleep|qemu-hook|guest win11 runs", "sleep:idle|qemu-hook|guest “b c” runs")
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	holds("sleep:idle|qemu-hook|guest “b c” runs")
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	holds()
	if err := second.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}

	// The answer is lost; so is the lock that was in it.
	f.before(func(_ context.Context, n int) error {
		if n == 1 {
			p.Cut()
		}
		return nil
	})
	lock, err := m.Inhibit(within(t, 10*time.Second), "sleep", "qemu-hook", "again")
	if err != nil {
		t.Fatal(err)
	}
	holds("sleep|qemu-hook|again")
	if err := lock.Close(); err != nil {
		t.Error(err)
	}
	holds()

	f.before(func(context.Context, int) error {
		return *dbus.NewError("org.freedesktop.DBus.Error.AccessDenied", []any{"Permission denied."})
	})
	if _, err := m.Inhibit(within(t, 10*time.Second), "sleep", "a", "b"); err == nil || err.Error() != "cannot keep the host from sleep: Permission denied" {
		t.Errorf("error %v", err)
	}
	f.before(func(ctx context.Context, _ int) error { <-ctx.Done(); return nil })
	start := time.Now()
	if _, err := m.Inhibit(within(t, 50*time.Millisecond), "sleep", "a", "b"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 30*time.Second {
		t.Errorf("a logind that does not answer: %v after %v", err, time.Since(start))
	}
}

// A scope that is no more has no CPUs; other kinds of units that are not loaded have none set.
func TestScopeGone(t *testing.T) {
	f := newFake()
	f.units["machine-a.scope"], f.units["machine-b.scope"] = cpuset.Of(1), cpuset.Of(2)
	f.states = map[string]state{"machine-a.scope": {"loaded", "active", 0}, "machine-b.scope": {"not-found", "inactive", 0}}
	m := client(t, systemdtest.Serve(t, f))
	ctx := within(t, 10*time.Second)
	if got, err := m.AllowedCPUs(ctx, "machine-a.scope"); err != nil || !got.Equal(cpuset.Of(1)) {
		t.Errorf("%q, %v", got, err)
	}
	want := "cannot read AllowedCPUs of machine-b.scope over D-Bus: Unit machine-b.scope not found"
	if _, err := m.AllowedCPUs(ctx, "machine-b.scope"); !systemd.Gone(err) || err.Error() != want {
		t.Errorf("error %v\n want %s", err, want)
	}
	err := m.SetAllowedCPUs(ctx, "machine-c.scope", cpuset.Of(1))
	if !systemd.Gone(err) {
		t.Errorf("error %v", err)
	}
}

// A service that is to end is waited for: well or badly, and one that is at work already, as after a connection that broke, too.
func TestTransientThatEnds(t *testing.T) {
	f := newFake()
	address := systemdtest.Serve(t, f)
	m := client(t, address)
	u := systemd.Transient{Name: "run.service", Exec: []string{"/bin/true"}, Within: 30 * time.Second, Environment: []string{"A=b"}}
	if err := m.StartTransient(within(t, 10*time.Second), u); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]systemd.Transient{u}, f.transients(), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	// It is there, and has ended by the time its end is asked for: how, nobody knows.
	if err := m.StartTransient(within(t, 10*time.Second), u); !systemd.Gone(err) {
		t.Errorf("error %v", err)
	}
	f.asked()
	f.mu.Lock()
	f.states = map[string]state{u.Name: {"loaded", "activating", 0}}
	f.mu.Unlock()
	if err := m.StartTransient(within(t, 10*time.Second), u); err != nil {
		t.Error(err)
	}
	if got, want := f.asked(), []string{"transient run.service", "start run.service"}; !slices.Equal(got, want) {
		t.Errorf("systemd was asked to %q, want %q", got, want)
	}
	f.mu.Lock()
	f.results = []string{"failed"}
	f.mu.Unlock()
	var job *systemd.JobError
	u.Name = "other.service"
	if err := m.StartTransient(within(t, 10*time.Second), u); !errors.As(err, &job) || job.Result != "failed" {
		t.Errorf("error %v", err)
	}
	u.Within = -1
	if err := m.StartTransient(within(t, 10*time.Second), u); err == nil || !strings.Contains(err.Error(), "it would have to end after") {
		t.Errorf("error %v", err)
	}
}
