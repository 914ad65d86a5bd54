package sysfstest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qemu-hook/cpuset"
	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/systemd"
	"qemu-hook/systemd/systemdtest"
)

// desk is a host with a desktop on it.
const desk = `a desk
-- cpus --
package 0 0-1
-- nodes --
0 cpus=0-1 total=1G free=512M
-- cgroups --
/ subtree=cpu,memory
/init.scope
/system.slice
/system.slice/idle.service
/user.slice
-- units --
gdm.service active
nvidia-powerd.service inactive
failed.service failed
slow.service activating
-- links --
/etc/systemd/system/display-manager.service -> /usr/lib/systemd/system/gdm.service
/etc/systemd/system/masked.service -> /dev/null
-- devices --
/dev/dri/card0 c 226:0 0660
/dev/input/event3 c 13:67 0660
-- processes --
500 cgroup=/system.slice/systemd-logind.service open=/dev/dri/card0,/dev/input/event3,/run/x systemd-logind logind
700 cgroup=/system.slice/gdm.service open=/dev/dri/card0 gdm /usr/sbin/gdm --no-daemon
701 cgroup=/system.slice/gdm.service/worker gdm-worker gdm-worker
720 cgroup=/system.slice/rest.service rest rest
800 uid=1000 cgroup=/user.slice/user-1000.slice/session-2.scope open=/dev/dri/card0 sway sway
801 uid=1000 cgroup=/user.slice/user-1000.slice/user@1000.service/app.slice/gdm.service fake fake
802 uid=1001 cgroup=/user.slice/user-1001.slice/user@1001.service/app.slice/x.service x x
-- run/systemd/sessions/2 --
UID=1000
USER=anna
CLASS=user
TYPE=wayland
SEAT=seat0
SCOPE=session-2.scope
DEVICES=226:0
-- run/systemd/sessions/2.ref --
-- run/systemd/sessions/3 --
UID=1001
USER=ben
CLASS=user
TYPE=tty
-- run/systemd/sessions/4 --
UID=1001
USER=ben
CLASS=user
TYPE=tty
`

func parse(t *testing.T, text string) *sysfstest.Host {
	t.Helper()
	h, err := sysfstest.Parse("x", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// processes lists the process numbers of a host above 1.
func processes(t *testing.T, h *sysfstest.Host) string {
	t.Helper()
	names, err := h.FS().List("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, n := range names {
		if n[0] > '0' && n[0] <= '9' && n != "1" {
			out = append(out, n)
		}
	}
	return strings.Join(out, " ")
}

const everybody = "500 700 701 720 800 801 802"

func TestUnitRuns(t *testing.T) {
	s := parse(t, desk).Systemd()
	for unit, want := range map[string]bool{
		"gdm.service": true, "display-manager.service": true, "nvidia-powerd.service": false, "failed.service": false,
		"slow.service": true, "no.service": false, "masked.service": false,
		// Units of which the host file says nothing.
		"rest.service": true, "idle.service": false, "session-2.scope": true, "user@1000.service": true,
		"x.service":  false, // a user's own manager has it
		"user.slice": true, "user-1000.slice": true, "init.scope": true,
	} {
		if got, err := s.UnitRuns(t.Context(), unit); err != nil || got != want {
			t.Errorf("%s runs: %v, %v; want %v", unit, got, err, want)
		}
	}
}

// What is stopped comes back as it was, on a copy of the host too.
func TestStopUnit(t *testing.T) {
	for _, c := range []struct{ unit, left string }{
		{"gdm.service", "500 720 800 801 802"},
		{"display-manager.service", "500 720 800 801 802"},
		{"rest.service", "500 700 701 800 801 802"},
		{"user-1000.slice", "500 700 701 720 802"},
		{"user.slice", "500 700 701 720"},
		{"slow.service", everybody},
	} {
		t.Run(c.unit, func(t *testing.T) {
			h := parse(t, desk)
			before := h.Snapshot()
			s, ctx := h.Systemd(), t.Context()
			if err := s.StopUnit(ctx, c.unit); err != nil {
				t.Fatal(err)
			}
			if err := s.StopUnit(ctx, c.unit); err != nil {
				t.Errorf("stopped twice: %v", err)
			}
			if got := processes(t, h); got != c.left {
				t.Errorf("processes %s, want %s", got, c.left)
			}
			if runs, err := s.UnitRuns(ctx, c.unit); err != nil || runs {
				t.Errorf("it runs: %v, %v", runs, err)
			}
			if d := sysfstest.Diff(before, h.Snapshot()); !strings.Contains(d, `(state): 0000 0:0 "inactive"`) {
				t.Errorf("the state does not show:\n%s", d)
			}
			copied := h.Clone()
			for name, h := range map[string]*sysfstest.Host{"host": h, "copy": copied} {
				for range 2 {
					if err := h.Systemd().StartUnit(ctx, c.unit); err != nil {
						t.Fatal(err)
					}
				}
				if got := processes(t, h); got != everybody {
					t.Errorf("%s: processes %s, want %s", name, got, everybody)
				}
				if d := sysfstest.Diff(before, h.Snapshot()); d != "" {
					t.Errorf("%s: not as before:\n%s", name, d)
				}
			}
		})
	}
}

func TestUnitJobs(t *testing.T) {
	h := parse(t, desk)
	s, ctx := h.Systemd(), t.Context()
	var changes []string
	h.OnChange(func(c sysfstest.Change) error {
		changes = append(changes, c.Op+" "+c.Path+" "+c.Value)
		return nil
	})
	for _, err := range []error{
		s.StopUnit(ctx, "no.service"),
		s.StopUnit(ctx, "gdm.service"),
		s.StartUnit(ctx, "gdm.service"),
		s.StartUnit(ctx, "failed.service"),
		s.StopUnit(ctx, "session-2.scope"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	want := []string{
		"dbus gdm.service stop", "dbus gdm.service start", "dbus failed.service reset-failed", "dbus failed.service start",
		"dbus session-2.scope stop",
	}
	if d := cmp.Diff(want, changes); d != "" {
		t.Error(d)
	}
	if runs, err := s.UnitRuns(ctx, "failed.service"); err != nil || !runs {
		t.Errorf("what failed and was started runs: %v, %v", runs, err)
	}
	refused := func(err error, want string) {
		t.Helper()
		if err == nil || err.Error() != want {
			t.Errorf("error %v\n want %s", err, want)
		}
	}
	refused(s.StartUnit(ctx, "session-2.scope"), "cannot start session-2.scope: Unit session-2.scope not found")
	refused(s.StartUnit(ctx, "no.service"), "cannot start no.service: Unit no.service not found")
	refused(s.StopUnit(ctx, "init.scope"), "cannot stop init.scope: Operation refused, unit init.scope may be requested by dependency only")
	if got := processes(t, h); got != "500 700 701 720 801 802" {
		t.Errorf("processes %s", got)
	}

	// A job that fails changes nothing.
	s.FailJob = func(unit, verb string) error {
		if unit == "gdm.service" && verb == "stop" {
			return errors.New("timeout")
		}
		return nil
	}
	before := h.Snapshot()
	err := s.StopUnit(ctx, "gdm.service")
	refused(err, "cannot stop gdm.service: its job ended as timeout; see systemctl status gdm.service")
	var job *systemd.JobError
	if d := sysfstest.Diff(before, h.Snapshot()); d != "" || !errors.As(err, &job) {
		t.Errorf("%#v changed:\n%s", err, d)
	}
	h.OnChange(func(sysfstest.Change) error { return syscall.EIO })
	refused(s.StopUnit(ctx, "rest.service"), "cannot stop rest.service: input/output error")
	refused(s.EndSession(ctx, "2"), "cannot end session 2: input/output error")
	h.OnChange(nil)

	s.ShutsDown = true
	if stopping, err := s.Stopping(ctx); err != nil || !stopping {
		t.Errorf("the host stops: %v, %v", stopping, err)
	}
	if err := s.StopUnit(ctx, "rest.service"); err != nil {
		t.Error(err)
	}
	refused(s.StartUnit(ctx, "rest.service"), "cannot start rest.service: Transaction for rest.service/start is destructive")

	s.Err = errors.New("the bus is gone")
	_, err = s.UnitRuns(ctx, "gdm.service")
	_, err2 := s.Stopping(ctx)
	for _, err := range []error{err, err2, s.StopUnit(ctx, "gdm.service"), s.StartUnit(ctx, "gdm.service"), s.EndSession(ctx, "2")} {
		refused(err, "the bus is gone")
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := h.Systemd().StopUnit(ended, "gdm.service"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestEndSession(t *testing.T) {
	h := parse(t, desk)
	s, ctx := h.Systemd(), t.Context()
	var changes []string
	h.OnChange(func(c sysfstest.Change) error {
		changes = append(changes, fmt.Sprint(c.Op, " ", c.Path, " ", c.Value))
		return nil
	})
	end := func(id, left string) {
		t.Helper()
		if err := s.EndSession(ctx, id); err != nil {
			t.Error(err)
		}
		if got := processes(t, h); got != left {
			t.Errorf("session %s: processes %s, want %s", id, got, left)
		}
	}
	copied := h.Clone()
	end("2", "500 700 701 720 802")
	if d := cmp.Diff([]string{"/dev/input/event3", "/run/x"}, open(t, h, 500)); d != "" {
		t.Errorf("logind has open:\n%s", d)
	}
	end("2", "500 700 701 720 802") // it is gone
	end("9", "500 700 701 720 802") // it never was
	// A user's manager stays while the user has another session.
	end("3", "500 700 701 720 802")
	end("4", "500 700 701 720")
	if d := cmp.Diff([]string{"dbus 2 terminate", "dbus 3 terminate", "dbus 4 terminate"}, changes); d != "" {
		t.Error(d)
	}
	if names, err := h.FS().List("/run/systemd/sessions"); err != nil || len(names) > 0 {
		t.Errorf("sessions %q, %v", names, err)
	}

	if got := processes(t, copied); got != everybody {
		t.Errorf("on the copy: processes %s", got)
	}
	copied.SetFile("/var/lib/systemd/linger/anna", "")
	if err := copied.Systemd().EndSession(ctx, "2"); err != nil {
		t.Error(err)
	}
	if got := processes(t, copied); got != "500 700 701 720 801 802" {
		t.Errorf("with lingering: processes %s", got)
	}
}

const scope = `machine-qemu\x2d1\x2dwin11.scope`

// guested is a desk with the control group of a guest on it.
func guested(t *testing.T) *sysfstest.Host {
	t.Helper()
	return parse(t, strings.Replace(desk, "-- units --", "/machine.slice\n/machine.slice/"+scope+"\n-- units --", 1))
}

const scopeDir = "/sys/fs/cgroup/machine.slice/" + scope

func TestTransient(t *testing.T) {
	h := guested(t)
	s, ctx := h.Systemd(), t.Context()
	var changes []string
	h.OnChange(func(c sysfstest.Change) error {
		changes = append(changes, c.Op+" "+c.Path+" "+c.Value)
		return nil
	})
	bound := systemd.Transient{Name: "a.service", Exec: []string{"/bin/sleep", "9"}, BindsTo: scope}
	free := systemd.Transient{Name: "b.service", Exec: []string{"/bin/sleep", "8"}}
	lists := func(s *sysfstest.Systemd, want ...systemd.Transient) {
		t.Helper()
		if d := cmp.Diff(want, s.Transients()); d != "" {
			t.Errorf("services without a unit file:\n%s", d)
		}
	}
	before := h.Snapshot()
	for _, u := range []systemd.Transient{bound, free, bound} { // the third time it is there
		if err := s.StartTransient(ctx, u); err != nil {
			t.Error(err)
		}
	}
	lists(s, bound, free)
	if runs, err := s.UnitRuns(ctx, "a.service"); err != nil || !runs {
		t.Errorf("it runs: %v, %v", runs, err)
	}
	want := "+ a.service (state): 0000 0:0 \"active\"\n+ b.service (state): 0000 0:0 \"active\""
	if d := sysfstest.Diff(before, h.Snapshot()); d != want {
		t.Errorf("they show as\n%s", d)
	}
	copied := h.Clone()
	if err := s.StopUnit(ctx, "b.service"); err != nil {
		t.Error(err)
	}
	lists(s, bound)
	lists(copied.Systemd(), bound, free)

	// The scope ends, and with it what is bound to it.
	if err := h.FS().Remove(scopeDir); err != nil {
		t.Fatal(err)
	}
	if d := sysfstest.Diff(before.Without(scopeDir), h.Snapshot()); d != "" {
		t.Errorf("it is left:\n%s", d)
	}
	lists(s)
	if err := s.StopUnit(ctx, "a.service"); err != nil {
		t.Error(err)
	}
	err := s.StartTransient(ctx, bound)
	if !systemd.Gone(err) || err.Error() != "cannot start a.service: Unit "+scope+" not found" {
		t.Errorf("bound to nothing: %v", err)
	}
	if d := cmp.Diff([]string{
		"dbus a.service StartTransient /bin/sleep 9", "dbus b.service StartTransient /bin/sleep 8", "dbus b.service stop",
		"rmdir " + scopeDir + " ", "dbus a.service StartTransient /bin/sleep 9",
	}, changes); d != "" {
		t.Error(d)
	}
	lists(copied.Systemd(), bound, free)
}

func TestTransientRefused(t *testing.T) {
	h := guested(t)
	s, ctx := h.Systemd(), t.Context()
	u := systemd.Transient{Name: "a.service", Exec: []string{"/bin/sleep", "9"}}
	before := h.Snapshot()
	refused := func(want string) {
		t.Helper()
		if err := s.StartTransient(ctx, u); err == nil || err.Error() != want {
			t.Errorf("error %v\n want %s", err, want)
		}
	}
	s.FailJob = func(string, string) error { return errors.New("failed") }
	refused("cannot start a.service: its job ended as failed; see systemctl status a.service")
	s.FailJob, s.ShutsDown = nil, true
	refused("cannot start a.service: Transaction for a.service/start is destructive")
	s.ShutsDown = false
	h.OnChange(func(sysfstest.Change) error { return syscall.EIO })
	refused("cannot start a.service: input/output error")
	if _, err := s.Inhibit(ctx, "sleep", "a", "b"); err == nil || err.Error() != "cannot keep the host from sleep: input/output error" {
		t.Errorf("error %v", err)
	}
	s.Err = errors.New("the bus is gone")
	refused("the bus is gone")
	if _, err := s.Inhibit(ctx, "sleep", "a", "b"); !errors.Is(err, s.Err) {
		t.Errorf("error %v", err)
	}
	if d := sysfstest.Diff(before, h.Snapshot()); d != "" {
		t.Errorf("refusals changed:\n%s", d)
	}
}

func TestInhibit(t *testing.T) {
	h := parse(t, desk)
	s, ctx := h.Systemd(), t.Context()
	before := h.Snapshot()
	var locks []io.Closer
	for _, what := range []string{"sleep", "sleep", "idle"} {
		l, err := s.Inhibit(ctx, what, "qemu-hook", "guest win11 runs")
		if err != nil {
			t.Fatal(err)
		}
		locks = append(locks, l)
	}
	const sleep, idle = "sleep, by qemu-hook: guest win11 runs", "idle, by qemu-hook: guest win11 runs"
	if d := cmp.Diff([]string{sleep, sleep, idle}, h.Systemd().Inhibitors()); d != "" {
		t.Error(d)
	}
	if d := sysfstest.Diff(before, h.Snapshot()); strings.Count(d, sleep) != 2 || strings.Count(d, idle) != 1 {
		t.Errorf("they show as\n%s", d)
	}
	copied := h.Clone()
	for i, l := range locks {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := l.Close(); !errors.Is(err, syscall.EBADF) {
			t.Errorf("closed twice: %v", err)
		}
		if got := len(s.Inhibitors()); got != len(locks)-1-i {
			t.Errorf("%d are left", got)
		}
	}
	if d := sysfstest.Diff(before, h.Snapshot()); d != "" {
		t.Errorf("not as before:\n%s", d)
	}
	if got := len(copied.Systemd().Inhibitors()); got != 3 {
		t.Errorf("%d are left on the copy", got)
	}
}

// A scope's property acts on its control group, wherever that is, and goes with it.
func TestScopeCPUs(t *testing.T) {
	h := guested(t)
	s, ctx := h.Systemd(), t.Context()
	s.Stale = sysfstest.StaleNever
	before := h.Snapshot()
	set := func(list string) {
		t.Helper()
		cpus, err := cpuset.ParseList(list)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SetAllowedCPUs(ctx, scope, cpus); err != nil {
			t.Error(err)
		}
		if got, err := s.AllowedCPUs(ctx, scope); err != nil || !got.Equal(cpus) {
			t.Errorf("%q, %v; want %s", got, err, list)
		}
	}
	set("1")
	if got, err := h.FS().Read(scopeDir + "/cpuset.cpus.effective"); err != nil || got != "1" {
		t.Errorf("it has CPUs %q, %v", got, err)
	}
	set("")
	set("0")
	if err := h.FS().Remove(scopeDir); err != nil {
		t.Fatal(err)
	}
	_, err := s.AllowedCPUs(ctx, scope)
	err2 := s.SetAllowedCPUs(ctx, scope, cpuset.Of(1))
	if !systemd.Gone(err) || !systemd.Gone(err2) {
		t.Errorf("errors %v, %v", err, err2)
	}
	if d := sysfstest.Diff(before, h.Snapshot()); strings.Contains(d, "AllowedCPUs") {
		t.Errorf("it is left:\n%s", d)
	}
	if got, err := s.AllowedCPUs(ctx, "init.scope"); err != nil || !got.Empty() {
		t.Errorf("init.scope: %q, %v", got, err)
	}
	// One that has processes is there, though the host file does not speak of its group.
	if got, err := s.AllowedCPUs(ctx, "session-2.scope"); err != nil || !got.Empty() {
		t.Errorf("session-2.scope: %q, %v", got, err)
	}
}

// open lists what a process has open.
func open(t *testing.T, h *sysfstest.Host, pid int) []string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := h.FS().List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, fd := range fds {
		if fds[i], err = h.FS().Readlink(dir + "/" + fd); err != nil {
			t.Fatal(err)
		}
	}
	return fds
}

func TestUnitsSection(t *testing.T) {
	for _, line := range []string{"gdm.service", "gdm.service runs", "gdm active", "gdm.service active now"} {
		_, err := sysfstest.Parse("x", []byte(desk+"-- units --\n"+line+"\n"))
		if err == nil || err.Error() != fmt.Sprintf("x: units: cannot read %q", line) {
			t.Errorf("%q: error %v", line, err)
		}
	}
	h := parse(t, desk+"-- kernel --\nsystemd no\n")
	if _, err := h.Systemd().UnitRuns(t.Context(), "gdm.service"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("without systemd: error %v", err)
	}
}

// The model behind a bus says the same as by itself.
func TestUnitsOverBus(t *testing.T) {
	h := parse(t, desk)
	s, ctx := h.Systemd(), t.Context()
	s.FailJob = func(unit, _ string) error {
		if unit == "rest.service" {
			return errors.New("failed")
		}
		return nil
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", systemdtest.Serve(t, s))
	m := systemd.New(t.TempDir())
	defer m.Close()
	before := h.Snapshot()
	for unit, want := range map[string]bool{"display-manager.service": true, "slow.service": true, "failed.service": false, "no.service": false} {
		if got, err := m.UnitRuns(ctx, unit); err != nil || got != want {
			t.Errorf("%s runs: %v, %v; want %v", unit, got, err, want)
		}
	}
	if err := errors.Join(m.StopUnit(ctx, "no.service"), m.StopUnit(ctx, "display-manager.service")); err != nil {
		t.Error(err)
	}
	if got := processes(t, h); got != "500 720 800 801 802" {
		t.Errorf("processes %s", got)
	}
	made := systemd.Transient{Name: "a.service", Description: "A", Exec: []string{"/bin/sleep", "9"}, BindsTo: "rest.service"}
	if err := m.StartTransient(ctx, made); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff([]systemd.Transient{made}, s.Transients()); d != "" {
		t.Error(d)
	}
	lock, err := m.Inhibit(ctx, "sleep", "qemu-hook", "win11 runs")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"sleep, by qemu-hook: win11 runs"}, s.Inhibitors()); d != "" {
		t.Error(d)
	}
	if err := errors.Join(m.StopUnit(ctx, made.Name), lock.Close()); err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(10 * time.Second); len(s.Inhibitors()) > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if _, err := m.AllowedCPUs(ctx, scope); !systemd.Gone(err) {
		t.Errorf("a scope that is gone: %v", err)
	}
	if err := m.StartUnit(ctx, "display-manager.service"); err != nil {
		t.Error(err)
	}
	if d := sysfstest.Diff(before, h.Snapshot()); d != "" {
		t.Errorf("not as before:\n%s", d)
	}
	for want, err := range map[string]error{
		"cannot stop rest.service: its job ended as failed; see systemctl status rest.service":           m.StopUnit(ctx, "rest.service"),
		"cannot start no.service: Unit no.service not found":                                             m.StartUnit(ctx, "no.service"),
		"cannot stop init.scope: Operation refused, unit init.scope may be requested by dependency only": m.StopUnit(ctx, "init.scope"),
	} {
		if err == nil || err.Error() != want {
			t.Errorf("error %v\n want %s", err, want)
		}
	}
	if err := errors.Join(m.EndSession(ctx, "2"), m.EndSession(ctx, "2")); err != nil {
		t.Error(err)
	}
	if got := processes(t, h); got != "500 700 701 720 802" {
		t.Errorf("processes %s", got)
	}
}
