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

	"qemu-hook/cpuset"
	"qemu-hook/systemd"
	"qemu-hook/systemd/systemdtest"
)

// unitsFake is what the fake has of units and sessions.
type unitsFake struct {
	states    map[string]state
	sessions  []string
	shutsDown bool
	results   []string // of the next jobs; "done" when there are no more
	log       []string // what was asked for
}

type state struct {
	load, active string
	job          uint32
}

// note logs a call and says whether it fails.
func (f *fake) note(ctx context.Context, call string) error {
	err := f.begin(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, call)
	return err
}

func (f *fake) UnitState(ctx context.Context, unit string) (load, active string, job uint32, err error) {
	if err := f.begin(ctx); err != nil {
		return "", "", 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.states[unit]
	_, hasCPUs := f.units[unit]
	switch {
	case !ok && hasCPUs:
		s = state{"loaded", "active", 0}
	case !ok:
		s = state{"not-found", "inactive", 0}
	}
	return s.load, s.active, s.job, nil
}

func (f *fake) UnitRuns(context.Context, string) (bool, error) {
	return false, errors.New("the fake is asked for less than it knows")
}

func (f *fake) job(ctx context.Context, verb, unit, to string) error {
	if err := f.note(ctx, verb+" "+unit); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.states[unit]; !ok {
		return noUnit(unit)
	}
	if len(f.results) > 0 {
		result := f.results[0]
		f.results = f.results[1:]
		return &systemd.JobError{Result: result}
	}
	f.states[unit] = state{"loaded", to, 0}
	return nil
}

func (f *fake) StopUnit(ctx context.Context, unit string) error {
	return f.job(ctx, "stop", unit, "inactive")
}

func (f *fake) StartUnit(ctx context.Context, unit string) error {
	return f.job(ctx, "start", unit, "active")
}

func (f *fake) ResetFailed(ctx context.Context, unit string) error {
	if err := f.note(ctx, "reset "+unit); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.states[unit]
	if !ok {
		return noUnit(unit)
	}
	if s.active == "failed" {
		s.active = "inactive"
		f.states[unit] = s
	}
	return nil
}

func (f *fake) Stopping(ctx context.Context) (bool, error) {
	err := f.begin(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shutsDown, err
}

func (f *fake) EndSession(ctx context.Context, id string) error {
	if err := f.note(ctx, "end "+id); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.Index(f.sessions, id)
	if i < 0 {
		return *dbus.NewError("org.freedesktop.login1.NoSuchSession", []any{"No session '" + id + "' known"})
	}
	f.sessions = slices.Delete(f.sessions, i, i+1)
	return nil
}

// asked returns what was asked for since the last time.
func (f *fake) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	log := f.log
	f.log = nil
	return log
}

// withUnits is a fake of units, each in a state.
func withUnits(active map[string]string) *fake {
	f := newFake()
	f.states = map[string]state{}
	for unit, s := range active {
		f.states[unit] = state{"loaded", s, 0}
	}
	return f
}

func TestUnitRuns(t *testing.T) {
	f := newFake()
	f.states = map[string]state{
		"gdm.service":           {"loaded", "active", 0},
		"a.service":             {"loaded", "reloading", 0},
		"b.service":             {"loaded", "refreshing", 0},
		"c.service":             {"loaded", "activating", 7},
		"d.service":             {"loaded", "deactivating", 0},
		"new.service":           {"loaded", "a-state-of-tomorrow", 0},
		"nvidia-powerd.service": {"loaded", "inactive", 0},
		"failed.service":        {"loaded", "failed", 0},
		"cleaned.service":       {"loaded", "maintenance", 0},
		"queued.service":        {"loaded", "inactive", 12},
		"again.service":         {"loaded", "failed", 13},
		"deleted.service":       {"not-found", "active", 0},
		"x.scope":               {"loaded", "active", 0},
		"graphical.target":      {"loaded", "active", 0},
		"9-odd@a\\x2d.service":  {"loaded", "active", 0},
	}
	m := client(t, systemdtest.Serve(t, f))
	for unit, want := range map[string]bool{
		"gdm.service": true, "a.service": true, "b.service": true, "c.service": true, "d.service": true, "new.service": true,
		"nvidia-powerd.service": false, "failed.service": false, "cleaned.service": false,
		"queued.service": true, "again.service": true, "deleted.service": true, "no.service": false,
		"x.scope": true, "graphical.target": true, "no.socket": false, "9-odd@a\\x2d.service": true,
	} {
		if got, err := m.UnitRuns(within(t, 10*time.Second), unit); err != nil || got != want {
			t.Errorf("%s runs: %v, %v; want %v", unit, got, err, want)
		}
	}
	// Some units cannot be asked for unless they are loaded.
	f.before(func(context.Context, int) error { return noUnit("gone.scope") })
	if got, err := m.UnitRuns(within(t, 10*time.Second), "gone.scope"); err != nil || got {
		t.Errorf("a unit that is not loaded runs: %v, %v", got, err)
	}
	f.before(func(context.Context, int) error {
		return *dbus.NewError("org.freedesktop.DBus.Error.AccessDenied", []any{"Access denied"})
	})
	_, err := m.UnitRuns(within(t, 10*time.Second), "gdm.service")
	if err == nil || err.Error() != "cannot tell over D-Bus whether gdm.service runs: Access denied" {
		t.Errorf("error %v", err)
	}
}

func TestStopStart(t *testing.T) {
	f := withUnits(map[string]string{"gdm.service": "active", "nvidia-powerd.service": "failed"})
	m := client(t, systemdtest.Serve(t, f))
	ctx := within(t, 10*time.Second)
	for i, step := range []struct {
		do    func(context.Context, string) error
		unit  string
		runs  bool
		asked []string
	}{
		{m.StopUnit, "gdm.service", false, []string{"stop gdm.service"}},
		{m.StopUnit, "gdm.service", false, []string{"stop gdm.service"}},
		{m.StartUnit, "gdm.service", true, []string{"reset gdm.service", "start gdm.service"}},
		{m.StartUnit, "gdm.service", true, []string{"reset gdm.service", "start gdm.service"}},
		{m.StartUnit, "nvidia-powerd.service", true, []string{"reset nvidia-powerd.service", "start nvidia-powerd.service"}},
		{m.StopUnit, "no.service", false, []string{"stop no.service"}},
	} {
		if err := step.do(ctx, step.unit); err != nil {
			t.Errorf("step %d: %v", i, err)
		}
		if diff := cmp.Diff(step.asked, f.asked()); diff != "" {
			t.Errorf("step %d:\n%s", i, diff)
		}
		if runs, err := m.UnitRuns(ctx, step.unit); err != nil || runs != step.runs {
			t.Errorf("step %d: %s runs: %v, %v", i, step.unit, runs, err)
		}
	}
	// The signal may come before the answer, and after it.
	for range 50 {
		if err := m.StopUnit(ctx, "gdm.service"); err != nil {
			t.Fatal(err)
		}
	}
}

// Every kind of unit that is stopped has its name; others are refused before systemd hears of them.
func TestUnitNames(t *testing.T) {
	kinds := []string{"service", "target", "socket", "timer", "path", "scope", "slice", "mount"}
	f := newFake()
	f.states = map[string]state{}
	for _, kind := range kinds {
		f.states["a."+kind] = state{"loaded", "active", 0}
	}
	m := client(t, systemdtest.Serve(t, f))
	ctx := within(t, 10*time.Second)
	for _, kind := range kinds {
		if err := errors.Join(m.StopUnit(ctx, "a."+kind), m.StartUnit(ctx, "a."+kind)); err != nil {
			t.Error(err)
		}
	}
	f.asked()
	for _, unit := range []string{"", "gdm", ".service", "a.device", "gdm.services", "service"} {
		const why = ": the name of a unit that can be stopped ends in .service, "
		_, err := m.UnitRuns(ctx, unit)
		for _, err := range []error{err, m.StopUnit(ctx, unit), m.StartUnit(ctx, unit)} {
			if err == nil || !strings.Contains(err.Error(), why) {
				t.Errorf("%q: error %v", unit, err)
			}
		}
	}
	if asked := f.asked(); asked != nil {
		t.Errorf("systemd was asked to %q", asked)
	}
}

func TestJobResults(t *testing.T) {
	f := withUnits(map[string]string{"gdm.service": "active"})
	m := client(t, systemdtest.Serve(t, f))
	ctx := within(t, 10*time.Second)
	result := func(r string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.results = []string{r}
	}
	for _, r := range []string{"failed", "timeout", "canceled", "dependency", "assert", "skipped"} {
		result(r)
		err := m.StopUnit(ctx, "gdm.service")
		if r == "skipped" {
			if err != nil {
				t.Errorf("a stop that had nothing to do: %v", err)
			}
		} else if want := "cannot stop gdm.service: its job ended as " + r + "; see systemctl status gdm.service"; err == nil || err.Error() != want {
			t.Errorf("error %v\n want %s", err, want)
		}
		result(r)
		err = m.StartUnit(ctx, "gdm.service")
		var job *systemd.JobError
		if !errors.As(err, &job) || *job != (systemd.JobError{Verb: "start", Unit: "gdm.service", Result: r}) ||
			err.Error() != "cannot start gdm.service: its job ended as "+r+"; see systemctl status gdm.service" {
			t.Errorf("error %v", err)
		}
	}
	f.asked()
	if err := m.StopUnit(ctx, "gdm.service"); err != nil { // what failed before disturbs nothing
		t.Error(err)
	}
}

// systemd begins no job at all.
func TestJobRefused(t *testing.T) {
	f := withUnits(map[string]string{"gdm.service": "active"})
	m := client(t, systemdtest.Serve(t, f))
	ctx := within(t, 10*time.Second)
	errs := map[string]error{
		"cannot start no.service: Unit no.service not found": m.StartUnit(ctx, "no.service"),
	}
	if got := f.asked(); !slices.Equal(got, []string{"reset no.service", "start no.service"}) {
		t.Errorf("systemd was asked to %q", got)
	}
	f.before(func(context.Context, int) error {
		return *dbus.NewError("org.freedesktop.systemd1.UnitMasked", []any{"Unit gdm.service is masked."})
	})
	errs["cannot start gdm.service: Unit gdm.service is masked"] = m.StartUnit(ctx, "gdm.service")
	errs["cannot stop gdm.service: Unit gdm.service is masked"] = m.StopUnit(ctx, "gdm.service")
	for want, err := range errs {
		var reply *systemd.ReplyError
		if err == nil || err.Error() != want || !errors.As(err, &reply) {
			t.Errorf("error %v\n want %s", err, want)
		}
	}
	// What systemd has against forgetting failures is no reason not to start.
	f.before(func(_ context.Context, n int) error {
		if n == 1 {
			return *dbus.NewError("org.freedesktop.DBus.Error.AccessDenied", []any{"Access denied"})
		}
		return nil
	})
	if err := m.StartUnit(ctx, "gdm.service"); err != nil {
		t.Error(err)
	}
}

// A job that takes longer than the caller has time.
func TestSlowJob(t *testing.T) {
	f := withUnits(map[string]string{"gdm.service": "active"})
	m := client(t, systemdtest.Serve(t, f))
	for _, do := range []struct {
		verb string
		call func(context.Context, string) error
	}{{"stop", m.StopUnit}, {"start", m.StartUnit}} {
		f.mu.Lock()
		f.results = []string{systemdtest.Never}
		f.mu.Unlock()
		start := time.Now()
		err := do.call(within(t, 500*time.Millisecond), "gdm.service")
		want := "cannot " + do.verb + " gdm.service: its job has not ended in time: context deadline exceeded"
		if !errors.Is(err, context.DeadlineExceeded) || err.Error() != want || time.Since(start) > 30*time.Second {
			t.Errorf("after %v: %v\nwant %s", time.Since(start), err, want)
		}
		// The connection is as good as before.
		if err := do.call(within(t, 10*time.Second), "gdm.service"); err != nil {
			t.Error(err)
		}
	}
	// It is the call that is not answered.
	f.before(func(ctx context.Context, _ int) error { <-ctx.Done(); return nil })
	if err := m.StopUnit(within(t, 50*time.Millisecond), "gdm.service"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

// The connection breaks while the job runs, so that its end is not heard: it is asked for again, once.
func TestJobCut(t *testing.T) {
	f := withUnits(map[string]string{"gdm.service": "active"})
	p := systemdtest.NewProxy(t, systemdtest.Serve(t, f))
	m := client(t, p.Address)
	if _, err := m.UnitRuns(within(t, 10*time.Second), "gdm.service"); err != nil {
		t.Fatal(err)
	}
	// cut breaks the connection some time after each call that begins a job which never ends.
	cut := func(times int) {
		f.before(func(_ context.Context, n int) error {
			if n <= times {
				time.AfterFunc(50*time.Millisecond, p.Cut)
			}
			return nil
		})
		f.mu.Lock()
		defer f.mu.Unlock()
		f.results = slices.Repeat([]string{systemdtest.Never}, times)
		f.log = nil
	}
	cut(1)
	if err := m.StopUnit(within(t, 30*time.Second), "gdm.service"); err != nil {
		t.Error(err)
	}
	if asked := f.asked(); !slices.Equal(asked, []string{"stop gdm.service", "stop gdm.service"}) {
		t.Errorf("systemd was asked to %q", asked)
	}
	cut(2)
	start := time.Now()
	err := m.StopUnit(within(t, 30*time.Second), "gdm.service")
	if want := "cannot stop gdm.service: the connection was lost, twice: nothing was heard of the job"; err == nil || err.Error() != want {
		t.Errorf("error %v\n want %s", err, want)
	}
	if time.Since(start) > 20*time.Second {
		t.Errorf("it took %v", time.Since(start))
	}
	f.before(nil)
	if err := m.StartUnit(within(t, 10*time.Second), "gdm.service"); err != nil {
		t.Error(err)
	}

	// In the middle of a call, and between two.
	f.before(func(_ context.Context, n int) error {
		if n == 1 {
			p.Cut()
		}
		return nil
	})
	if err := m.StopUnit(within(t, 10*time.Second), "gdm.service"); err != nil {
		t.Error(err)
	}
	p.Cut()
	if runs, err := m.UnitRuns(within(t, 10*time.Second), "gdm.service"); err != nil || runs {
		t.Errorf("it runs: %v, %v", runs, err)
	}
}

func TestStopping(t *testing.T) {
	f := newFake()
	m := client(t, systemdtest.Serve(t, f))
	for _, want := range []bool{false, true} {
		f.mu.Lock()
		f.shutsDown = want
		f.mu.Unlock()
		if got, err := m.Stopping(within(t, 10*time.Second)); err != nil || got != want {
			t.Errorf("stopping: %v, %v; want %v", got, err, want)
		}
	}
	f.before(func(context.Context, int) error { return errors.New("out of cheese") })
	if _, err := m.Stopping(within(t, 10*time.Second)); err == nil || err.Error() != "cannot read SystemState over D-Bus: out of cheese" {
		t.Errorf("error %v", err)
	}
}

func TestEndSession(t *testing.T) {
	f := newFake()
	f.sessions = []string{"2", "c1"}
	p := systemdtest.NewProxy(t, systemdtest.Serve(t, f))
	m := client(t, p.Address)
	for range 2 { // the second time it is gone
		if err := m.EndSession(within(t, 10*time.Second), "2"); err != nil {
			t.Error(err)
		}
	}
	// The connection breaks before the answer; the session is gone by then.
	f.before(func(_ context.Context, n int) error {
		if n == 1 {
			p.Cut()
		}
		return nil
	})
	if err := m.EndSession(within(t, 10*time.Second), "c1"); err != nil {
		t.Error(err)
	}
	if len(f.sessions) > 0 {
		t.Errorf("sessions %q are left", f.sessions)
	}
	f.asked()

	f.before(func(context.Context, int) error { p.Cut(); return nil })
	err := m.EndSession(within(t, 10*time.Second), "3")
	if err == nil || !strings.Contains(err.Error(), "cannot end session 3: the connection was lost, twice: ") {
		t.Errorf("error %v", err)
	}
	f.before(func(context.Context, int) error {
		return *dbus.NewError("org.freedesktop.DBus.Error.AccessDenied", []any{"Access denied."})
	})
	if err := m.EndSession(within(t, 10*time.Second), "3"); err == nil || err.Error() != "cannot end session 3: Access denied" {
		t.Errorf("error %v", err)
	}
	f.before(func(ctx context.Context, _ int) error { <-ctx.Done(); return nil })
	start := time.Now()
	if err := m.EndSession(within(t, 50*time.Millisecond), "3"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 30*time.Second {
		t.Errorf("a logind that does not answer: %v after %v", err, time.Since(start))
	}
	f.before(nil)
	f.asked()
	for _, id := range []string{"", "self", "auto"} { // the caller's own, says logind's documentation
		if err := m.EndSession(within(t, 10*time.Second), id); err == nil {
			t.Errorf("session %q: no error", id)
		}
	}
	if asked := f.asked(); asked != nil {
		t.Errorf("logind was asked to %q", asked)
	}
}

func TestNoLogind(t *testing.T) {
	m := client(t, systemdtest.Bus(t))
	err := m.EndSession(within(t, 10*time.Second), "2")
	var reply *systemd.ReplyError
	if !errors.As(err, &reply) || reply.Name != "org.freedesktop.DBus.Error.ServiceUnknown" {
		t.Errorf("error %v", err)
	}
}

// What root talks to on the running host is systemd's own socket. Jobs are heard of there without a bus; logind is not
// there.
func TestPrivate(t *testing.T) {
	f := withUnits(map[string]string{"gdm.service": "active"})
	f.sessions = []string{"2"}
	nobody := "unix:path=" + dbus.EscapeBusAddressValue(filepath.Join(t.TempDir(), "none"))
	private := systemdtest.ServePrivate(t, f)
	m := systemd.NewAt(private, nobody)
	defer m.Close()
	round(t, m, "system.slice")
	ctx := within(t, 10*time.Second)
	for range 20 {
		if err := errors.Join(m.StopUnit(ctx, "gdm.service"), m.StartUnit(ctx, "gdm.service")); err != nil {
			t.Fatal(err)
		}
	}
	runs, err := m.UnitRuns(ctx, "gdm.service")
	stopping, err2 := m.Stopping(ctx)
	if err != nil || err2 != nil || !runs || stopping {
		t.Errorf("it runs: %v, %v; the host stops: %v, %v", runs, err, stopping, err2)
	}
	err = m.EndSession(ctx, "2")
	if !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "cannot end session 2: cannot reach logind at unix:path=") {
		t.Errorf("error %v", err)
	}
	f.asked()

	// With a bus there, systemd is still not asked by it, and logind is.
	onBus := newFake()
	onBus.sessions = []string{"2"}
	m = systemd.NewAt(private, systemdtest.Serve(t, onBus))
	defer m.Close()
	if err := errors.Join(m.StopUnit(ctx, "gdm.service"), m.EndSession(ctx, "2")); err != nil {
		t.Error(err)
	}
	if got, want := f.asked(), []string{"stop gdm.service"}; !slices.Equal(got, want) {
		t.Errorf("systemd's socket was asked to %q", got)
	}
	if got, want := onBus.asked(), []string{"end 2"}; !slices.Equal(got, want) {
		t.Errorf("the bus was asked to %q", got)
	}
}

// A manager that says no more than the interface asks for is enough to be served.
func TestServePlain(t *testing.T) {
	f := withUnits(map[string]string{"gdm.service": "active"})
	m := client(t, systemdtest.Serve(t, plainManager{f}))
	ctx := within(t, 10*time.Second)
	if err := errors.Join(m.StopUnit(ctx, "gdm.service"), m.StartUnit(ctx, "gdm.service")); err != nil {
		t.Error(err)
	}
	for unit, want := range map[string]bool{"gdm.service": true, "no.service": false} {
		if runs, err := m.UnitRuns(ctx, unit); err != nil || runs != want {
			t.Errorf("%s runs: %v, %v", unit, runs, err)
		}
	}
}

// plainManager hides what a fake has beyond the interface.
type plainManager struct{ f *fake }

func (p plainManager) AllowedCPUs(ctx context.Context, unit string) (cpuset.Set, error) {
	return p.f.AllowedCPUs(ctx, unit)
}

func (p plainManager) SetAllowedCPUs(ctx context.Context, unit string, cpus cpuset.Set) error {
	return p.f.SetAllowedCPUs(ctx, unit, cpus)
}

func (p plainManager) UnitRuns(ctx context.Context, unit string) (bool, error) {
	_, active, _, err := p.f.UnitState(ctx, unit)
	return active == "active", err
}

func (p plainManager) StopUnit(ctx context.Context, unit string) error {
	return p.f.StopUnit(ctx, unit)
}

func (p plainManager) StartUnit(ctx context.Context, unit string) error {
	return p.f.StartUnit(ctx, unit)
}
func (p plainManager) Stopping(ctx context.Context) (bool, error) { return p.f.Stopping(ctx) }
func (p plainManager) EndSession(ctx context.Context, id string) error {
	return p.f.EndSession(ctx, id)
}

func (p plainManager) StartTransient(ctx context.Context, u systemd.Transient) error {
	return p.f.StartTransient(ctx, u)
}

func (p plainManager) Inhibit(ctx context.Context, what, who, why string) (io.Closer, error) {
	return p.f.Inhibit(ctx, what, who, why)
}
func (plainManager) Close() {}
