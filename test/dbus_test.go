package test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"qemu-hook/cpuset"
	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/sysfs/sysfstest/fusetest"
	"qemu-hook/systemd/systemdtest"
)

// units are the host's own, which a guest's CPUs are taken from.
func units() []string { return []string{"init.scope", "system.slice", "user.slice"} }

// effective returns what a unit's tasks can run on.
func effective(t testing.TB, x *box, unit string) string {
	t.Helper()
	v, err := x.model.FS().Read("/sys/fs/cgroup/" + unit + "/cpuset.cpus.effective")
	if errors.Is(err, syscall.ENOENT) {
		// Without the controller a group has what its parent has.
		v, err = x.model.FS().Read("/sys/fs/cgroup/cpuset.cpus.effective")
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func dropIn(unit string) string {
	dir := "/run/systemd/system.control/"
	if strings.HasSuffix(unit, ".scope") {
		dir = "/run/systemd/transient/"
	}
	return dir + unit + ".d/50-AllowedCPUs.conf"
}

func TestDBus(t *testing.T) {
	t.Parallel()
	x := newBox(t, loadHost(t, "fern"), newBus(t))
	before, win11 := x.snapshot(), loadGuest(t, "win11")
	x.mustDo(win11, "prepare")
	for _, unit := range units() {
		if got := effective(t, x, unit); got != "0-3,16-19" {
			t.Errorf("%s has CPUs %s", unit, got)
		}
		if !x.model.FS().Exists(dropIn(unit)) {
			t.Errorf("%s has no drop-in, so this test does not see it go", unit)
		}
	}
	if got := effective(t, x, "machine.slice"); got != "0-19" {
		t.Errorf("machine.slice has CPUs %s", got)
	}
	x.mustDo(win11, "started")
	x.mustDo(win11, "reconnect")
	x.mustDo(win11, "release")
	for _, unit := range units() {
		if got := effective(t, x, unit); got != "0-19" {
			t.Errorf("%s has CPUs %s after the release", unit, got)
		}
		if x.model.FS().Exists(dropIn(unit)) {
			t.Errorf("%s keeps its drop-in", unit)
		}
	}
	if diff := x.differs(before); diff != "" {
		t.Errorf("the host is not as before:\n%s", diff)
	}
}

// Every way in which systemd clears a limit, or does not (its issue 43846), ends at the CPUs from before.
func TestDBusStaleCgroups(t *testing.T) {
	for name, stale := range map[string]sysfstest.Stale{
		"unless full": sysfstest.StaleUnlessFull, "always": sysfstest.StaleAlways, "never": sysfstest.StaleNever,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBus(t)
			x := newBox(t, loadHost(t, "fern"), b)
			s := x.model.Systemd()
			s.Stale = stale
			b.point(s)
			before, win11 := x.snapshot(), loadGuest(t, "win11")
			x.mustDo(win11, "prepare")
			x.mustDo(win11, "release")
			if diff := x.differs(before); diff != "" {
				t.Errorf("the host is not as before:\n%s", diff)
			}
		})
	}
}

// systemd refuses one unit: the guest starts without that comfort, unless the step is required.
func TestDBusRefuses(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	x := newBox(t, loadHost(t, "fern"), b)
	s := x.model.Systemd()
	s.Refuse = func(unit string, cpus cpuset.Set) error {
		if unit == "user.slice" && !cpus.Empty() {
			return errors.New("Unit user.slice is masked.") //nolint:staticcheck // systemd's manner
		}
		return nil
	}
	b.point(s)
	before, win11 := x.snapshot(), loadGuest(t, "win11")
	x.mustDo(win11, "prepare")
	if got := effective(t, x, "system.slice"); got != "0-3,16-19" {
		t.Errorf("system.slice has CPUs %s", got)
	}
	if got := effective(t, x, "user.slice"); got != "0-19" {
		t.Errorf("user.slice has CPUs %s", got)
	}
	x.mustDo(win11, "release")
	if diff := x.differs(before); diff != "" {
		t.Errorf("the host is not as before:\n%s", diff)
	}

	file, err := filepath.Abs("../testdata/domains/win11.xml")
	if err != nil {
		t.Fatal(err)
	}
	status, _, stderr := x.person("prepare", "--xml", file)
	if status != 0 || !strings.Contains(stderr, "user.slice") || !strings.Contains(stderr, "masked") {
		t.Errorf("by hand it ended with %d and says %q, want a warning of user.slice", status, stderr)
	}
	x.mustDo(win11, "release")

	x.writeConfig(`required = ["cpus"]`)
	if status, stderr := x.libvirt(win11, "prepare"); status != 1 || !strings.Contains(stderr, "user.slice") {
		t.Errorf("with the step required prepare ended with %d: %s", status, stderr)
	} else {
		lastLineIsShort(t, stderr)
	}
	if diff := x.differs(before); diff != "" {
		t.Errorf("after the refusal the host is not as before:\n%s", diff)
	}
}

// The bus goes away in the middle of a release: the rest is given back, the status is 1, and the next release
// finishes.
func TestDBusGoneAtRelease(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	x := newBox(t, loadHost(t, "fern"), b)
	proxy := systemdtest.NewProxy(t, b.address)
	x.bus = proxy.Address
	before, win11 := x.snapshot(), loadGuest(t, "win11")
	x.mustDo(win11, "prepare")

	// One cut is mended by a new connection.
	var cut atomic.Bool
	x.model.OnChange(func(c sysfstest.Change) error {
		if c.Op == "dbus" && cut.CompareAndSwap(false, true) {
			proxy.Cut()
		}
		return nil
	})
	x.mustDo(win11, "release")
	if !cut.Load() {
		t.Error("the connection was not cut")
	}
	if diff := x.differs(before); diff != "" {
		t.Errorf("one cut: the host is not as before:\n%s", diff)
	}

	// Gone for good after the first unit.
	x.model.OnChange(nil)
	x.mustDo(win11, "prepare")
	var sets atomic.Int32
	x.model.OnChange(func(c sysfstest.Change) error {
		if c.Op == "dbus" && sets.Add(1) > 2 {
			return errors.New("the service manager is going down")
		}
		return nil
	})
	status, stderr := x.libvirt(win11, "release")
	if status != 1 || !strings.Contains(stderr, "system.slice") {
		t.Errorf("release ended with %d: %s", status, stderr)
	}
	lastLineIsShort(t, stderr)
	if driver, err := x.model.FS().PCIDriver("0000:08:00.0"); err != nil || driver != "nvidia" {
		t.Errorf("the card is on driver %q (%v): the rest was not given back", driver, err)
	}
	if n, err := x.model.FS().Read("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"); err != nil || n != "0" {
		t.Errorf("%s huge pages (%v): the rest was not given back", n, err)
	}
	x.model.OnChange(nil)
	x.mustDo(win11, "release")
	if diff := x.differs(before); diff != "" {
		t.Errorf("gone at release: the host is not as before:\n%s", diff)
	}
}

// What runs beside a guest is started with it, bound to its scope, and ends with the scope or at the release.
func TestDBusBesideTheGuest(t *testing.T) {
	t.Parallel()
	x := newBox(t, loadHost(t, "fern"), newBus(t))
	systemd, win11 := x.model.Systemd(), loadGuest(t, "win11")
	const scope, qemu = `machine-qemu\x2d1\x2dwin11.scope`, 4711
	begins := func() {
		x.model.AddCgroup("/machine.slice/" + scope)
		x.model.SetFile("/run/libvirt/qemu/win11.pid", fmt.Sprint(qemu))
		x.model.AddProcess(sysfstest.Process{
			PID: qemu, Comm: "qemu-system-x86", Cmdline: []string{"/usr/bin/qemu-system-x86_64", "-uuid", win11.uuid},
			Cgroup: "/machine.slice/" + scope + "/libvirt/emulator",
		})
	}
	ends := func() { x.model.RemoveCgroup("/machine.slice/" + scope) }
	begins()
	x.model.RemoveProcess(qemu)
	ends() // so that the directories that this leaves are there before
	before := x.snapshot()

	units := func(want ...string) {
		t.Helper()
		var got []string
		for _, u := range systemd.Transients() {
			got = append(got, u.Name)
			if u.BindsTo != scope {
				t.Errorf("%s is bound to %q", u.Name, u.BindsTo)
			}
			if !filepath.IsAbs(u.Exec[0]) || len(u.Exec) < 3 {
				t.Errorf("%s runs %q", u.Name, u.Exec)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("beside the guest run %q, want %q", got, want)
		}
	}
	both := []string{"qemu-hook-attend-" + win11.uuid + ".service", "qemu-hook-inhibit-" + win11.uuid + ".service"}
	for _, lingers := range []bool{false, true} { // the scope, longer than QEMU
		x.mustDo(win11, "prepare")
		units()
		begins()
		x.mustDo(win11, "started")
		x.mustDo(win11, "started")
		units(both...)
		x.model.RemoveProcess(qemu)
		if !lingers {
			ends()
			units()
		}
		x.mustDo(win11, "release")
		units()
		if lingers {
			ends()
		}
		if diff := x.differs(before); diff != "" {
			t.Errorf("the host is not as before:\n%s", diff)
		}
	}
}

// No bus at all: the guest starts all the same, and is told by whom it is not kept free.
func TestNoDBus(t *testing.T) {
	t.Parallel()
	x := newBox(t, loadHost(t, "fern"), nil)
	before, win11 := x.snapshot(), loadGuest(t, "win11")
	x.mustDo(win11, "prepare")
	x.mustDo(win11, "release")
	if diff := x.differs(before); diff != "" {
		t.Errorf("the host is not as before:\n%s", diff)
	}
}

// The unit that recovers may do less than root: what it runs for the administrator is systemd's to run, without that confinement.
func TestOwnCommandOfTheConfined(t *testing.T) {
	t.Parallel()
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		fusetest.Lacking(t, "setpriv is not there")
	}
	const program = "/usr/local/sbin/last"
	b := newBus(t)
	for _, confined := range []bool{false, true} {
		t.Run(fmt.Sprintf("confined=%v", confined), func(t *testing.T) {
			l := newLife(t, pair{host: "fern", domain: "win11"}, b)
			ran := 0
			l.model.AddProgram(program, func(_, _ []string) (string, int) {
				ran++
				return "", 0
			})
			l.before = l.snapshot().Without(fmt.Sprint("/proc/", os.Getpid()))
			l.writeConfig(fmt.Sprintf("[[guest.%s.run]]\nafter = [%q]\n", l.g.name, program))
			l.do("prepare", "orphaned")
			var units []string
			l.model.OnChange(func(c sysfstest.Change) error {
				if strings.HasPrefix(c.Value, "StartTransient "+program) {
					units = append(units, c.Path)
				}
				return nil
			})
			if confined {
				l.wrap = []string{setpriv, "--no-new-privs"}
			}
			l.home([]string{"recover"}, "orphaned")
			if ran != 1 || confined != (len(units) == 1) {
				t.Errorf("it has run %d times, as the units %q", ran, units)
			}
		})
	}
}
