package prepare_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/systemd"
)

// ownCommands gives the rig's host two programs that note when they run and what they find, and a configuration that runs them.
func ownCommands(r *rig, n *domain.Needs) *[]string {
	r.t.Helper()
	var ran []string
	for _, name := range []string{"/usr/local/sbin/first", "/usr/local/sbin/last"} {
		r.model.AddProgram(name, func(args, env []string) (string, int) {
			driver, err := r.model.FS().PCIDriver(n.PCI[0].Address)
			if err != nil {
				r.t.Error(err)
			}
			ran = append(ran, name+" "+strings.Join(args, " ")+" on "+driver)
			operation := "prepare"
			if name == "/usr/local/sbin/last" {
				operation = "release"
			}
			for _, want := range []string{"QEMU_HOOK_GUEST=" + n.Guest.Name, "QEMU_HOOK_UUID=" + n.Guest.UUID, "QEMU_HOOK_OPERATION=" + operation} {
				if !slices.Contains(env, want) {
					r.t.Errorf("%s: no %s in %q", name, want, env)
				}
			}
			if slices.Contains(args, "fail") {
				return "stopping\nthe array is not clean\n", 3
			}
			return "", 0
		})
	}
	r.configure(`[[guest.` + n.Guest.Name + `.run]]
before = ["/usr/local/sbin/first", "a b"]
after = ["/usr/local/sbin/last", "c"]
`)
	return &ran
}

// guestConfig has the rig's configuration be that of a guest.
func (r *rig) guestConfig(name string) {
	r.t.Helper()
	c, err := r.config.ForGuest(name, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.config = c
}

// Own commands run once each: before all else, and after all else.
func TestOwnCommands(t *testing.T) {
	for _, confined := range []bool{false, true} {
		t.Run(fmt.Sprintf("confined=%v", confined), func(t *testing.T) { ownCommandsRun(t, confined) })
	}
}

func ownCommandsRun(t *testing.T, confined bool) {
	r := newRig(t, "fern")
	r.confined = confined
	n := loadNeeds(t, "demo")
	ran := ownCommands(r, n)
	r.guestConfig(n.Guest.Name)
	before := r.snapshot()
	for range 2 { // completing a preparation runs nothing again
		if err := r.prepare(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.release(n); err != nil {
		t.Error(err)
	}
	driver, err := r.model.FS().PCIDriver(n.PCI[0].Address)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/usr/local/sbin/first a b on " + driver, "/usr/local/sbin/last c on " + driver}
	if !slices.Equal(*ran, want) {
		t.Errorf("what has run:\n%s\nwant:\n%s", strings.Join(*ran, "\n"), strings.Join(want, "\n"))
	}
	r.wantAsBefore(before, "after release")
}

// A command that fails refuses the guest with what it said last, and what is to run afterwards does.
func TestOwnCommandRefuses(t *testing.T) {
	r := newRig(t, "fern")
	n := loadNeeds(t, "demo")
	ran := ownCommands(r, n)
	r.configure(`run = [{before = ["/usr/local/sbin/first", "fail"], after = ["/usr/local/sbin/last"]}]`)
	before := r.snapshot()
	err := r.prepare(n)
	want := "/usr/local/sbin/first for " + n.Guest.Name + " failed: the array is not clean"
	var refusal *hook.Refusal
	if !errors.As(err, &refusal) || len(refusal.Reasons) != 1 || refusal.Reasons[0] != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if len(*ran) != 2 || !strings.HasPrefix((*ran)[1], "/usr/local/sbin/last") {
		t.Errorf("what has run: %q", *ran)
	}
	r.wantAsBefore(before, "after the refusal")
}

// A command that others could have written is not run: whoever could change it would be root.
func TestOwnCommandOfOthers(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(m *sysfstest.Host, file string)
		says  string
	}{
		"another user's":     {func(m *sysfstest.Host, file string) { m.SetOwner(file, 1000, 0, 0o755) }, "chown root /usr/local/sbin/last"},
		"writable by others": {func(m *sysfstest.Host, file string) { m.SetOwner(file, 0, 0, 0o775) }, "chmod go-w /usr/local/sbin/last"},
		"not executable":     {func(m *sysfstest.Host, file string) { m.SetOwner(file, 0, 0, 0o644) }, "chmod +x /usr/local/sbin/last"},
		"gone":               {func(m *sysfstest.Host, file string) { m.Remove(file) }, "no such file"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			r := newRig(t, "fern")
			n := loadNeeds(t, "demo")
			ran := ownCommands(r, n)
			r.guestConfig(n.Guest.Name)
			c.spoil(r.model, "/usr/local/sbin/last")
			before := r.snapshot()
			if err := r.prepare(n); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
			if len(*ran) != 0 {
				t.Errorf("what has run: %q", *ran)
			}
			r.wantAsBefore(before, "after the refusal")
		})
	}
}

// From where less may be done than by root it is systemd that runs a command, with its deadline; how it failed is in its journal.
func TestOwnCommandOfTheConfined(t *testing.T) {
	r := newRig(t, "fern")
	n := loadNeeds(t, "demo")
	ran := ownCommands(r, n)
	r.configure(`run = [{before = ["/usr/local/sbin/first"], after = ["/usr/local/sbin/last", "fail"], deadline = "50s"}]`)
	r.confined = true
	before := r.snapshot()
	var seen []string
	r.model.OnChange(func(c sysfstest.Change) error {
		if strings.HasPrefix(c.Value, "StartTransient") {
			seen = append(seen, c.Op+" "+c.Path+" "+c.Value)
		}
		return nil
	})
	var said []string
	err := r.locked(func(h *hook.Host) error {
		h.Log = func(s hook.Severity, msg string) {
			if s == hook.Warning {
				said = append(said, msg)
			}
		}
		_, err := prepare.Run(t.Context(), h, n, hook.Caller{ByHand: true})
		return errors.Join(err, h.GiveBack(t.Context(), n.Guest.UUID))
	})
	if err != nil {
		t.Error(err)
	}
	if len(seen) != 2 || !strings.Contains(seen[0], "StartTransient /usr/local/sbin/first") || !strings.Contains(seen[1], "StartTransient /usr/local/sbin/last fail") {
		t.Errorf("what has run:\n%s", strings.Join(seen, "\n"))
	}
	if len(*ran) != 2 {
		t.Errorf("what has run: %q", *ran)
	}
	want := "/usr/local/sbin/last for " + n.Guest.Name + " failed, or has not ended within its deadline of 50s; see journalctl -u qemu-hook-run-" + n.Guest.UUID
	if len(said) != 1 || !strings.HasPrefix(said[0], want) {
		t.Errorf("it says %q, want %s…", said, want)
	}
	r.wantAsBefore(before, "after release")

	// Where it fails ahead of all else the guest is refused.
	r.configure(`run = [{before = ["/usr/local/sbin/first", "fail"]}]`)
	if err := r.prepare(n); err == nil || !strings.Contains(err.Error(), "/usr/local/sbin/first for "+n.Guest.Name+" failed") {
		t.Errorf("prepare: %v", err)
	}
	r.wantAsBefore(before, "after the refusal")
}

// Killed while a command runs, the program has run what is to run afterwards by the time the host is as before: once if it was not
// that one which it did not see the end of.
func TestKilledInOwnCommand(t *testing.T) {
	for _, dies := range []string{"/usr/local/sbin/first", "/usr/local/sbin/last"} {
		for _, home := range []string{"release", "recover", "recover, confined"} {
			t.Run(dies[len("/usr/local/sbin/"):]+"/"+home, func(t *testing.T) {
				r := newRig(t, "fern")
				n := loadNeeds(t, "demo")
				ran := map[string]int{}
				for _, name := range []string{"/usr/local/sbin/first", "/usr/local/sbin/last"} {
					r.model.AddProgram(name, func(_, _ []string) (string, int) {
						if ran[name]++; name == dies && ran[name] == 1 {
							panic(errKilled)
						}
						return "", 0
					})
				}
				before := r.snapshot()
				r.configure(`run = [{before = ["/usr/local/sbin/first"], after = ["/usr/local/sbin/last"]}]`)
				if !killed(func() {
					if err := r.prepare(n); err != nil {
						t.Error(err)
					}
					if err := r.release(n); err != nil {
						t.Error(err)
					}
				}) {
					t.Fatal("it was not killed")
				}
				r.confined = home == "recover, confined"
				if home == "release" {
					if err := r.release(n); err != nil {
						t.Error(err)
					}
				} else if all := r.recovered(n.Guest.Name); len(all) != 1 || all[0].Err != nil {
					t.Errorf("recover: %+v", all)
				}
				want := map[string]int{"/usr/local/sbin/first": 1, "/usr/local/sbin/last": 1}
				if dies == "/usr/local/sbin/last" {
					want[dies] = 2
				}
				if !maps.Equal(ran, want) {
					t.Errorf("how often each has run: %v, want %v", ran, want)
				}
				r.wantAsBefore(before, "at the end")
			})
		}
	}
}

// Killed at each change, the program has run what is to run afterwards by the time the host is as before, and never before that.
func TestOwnCommandsKilled(t *testing.T) {
	base := newRig(t, "fern")
	n := loadNeeds(t, "demo")
	points := 0
	for at := 1; ; at += everyNth {
		r := base.clone()
		ran := ownCommands(r, n)
		r.guestConfig(n.Guest.Name)
		before := r.snapshot()
		count := 0
		r.model.OnChange(func(sysfstest.Change) error {
			if count++; count == at {
				panic(errKilled)
			}
			return nil
		})
		died := killed(func() {
			if err := r.prepare(n); err != nil {
				t.Error(err)
			}
			if err := r.release(n); err != nil {
				t.Error(err)
			}
		})
		r.model.OnChange(nil)
		if !died {
			break
		}
		points++
		r.recovered(n.Guest.Name)
		if l := len(*ran); l > 0 && !strings.HasPrefix((*ran)[l-1], "/usr/local/sbin/last") {
			t.Errorf("killed at change %d: what has run: %q", at, *ran)
		}
		r.wantAsBefore(before, "killed and recovered")
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d kill points", points)
}

// preparedWithCommands is a host on which a guest with own commands is prepared, and what the host was before.
func preparedWithCommands(t *testing.T) (r *rig, n *domain.Needs, ran *[]string, before *sysfstest.Snapshot) {
	t.Helper()
	r, n = newRig(t, "fern"), loadNeeds(t, "demo")
	ran = ownCommands(r, n)
	r.guestConfig(n.Guest.Name)
	before = r.snapshot()
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	return r, n, ran, before
}

// What systemd could not be asked to run has not run: it stays on record, and the next one to come has it run.
func TestOwnCommandUnasked(t *testing.T) {
	r, n, ran, before := preparedWithCommands(t)
	r.confined = true
	r.model.OnChange(func(c sysfstest.Change) error {
		if strings.HasPrefix(c.Value, "StartTransient") {
			return errors.New("the bus is gone")
		}
		return nil
	})
	if err := r.release(n); err == nil || !strings.Contains(err.Error(), "cannot have systemd run /usr/local/sbin/last for "+n.Guest.Name) {
		t.Errorf("release: %v", err)
	}
	r.model.OnChange(nil)
	if err := r.release(n); err != nil {
		t.Error(err)
	}
	if len(*ran) != 2 {
		t.Errorf("what has run: %q", *ran)
	}
	r.wantAsBefore(before, "after the second release")
}

// commandAtWork is a manager under which units of own commands run already.
type commandAtWork struct {
	systemd.Manager
	joined []string
}

func (m *commandAtWork) UnitRuns(ctx context.Context, unit string) (bool, error) {
	if strings.HasPrefix(unit, "qemu-hook-run-") {
		return true, nil
	}
	return m.Manager.UnitRuns(ctx, unit)
}

func (m *commandAtWork) StartTransient(_ context.Context, u systemd.Transient) error {
	m.joined = append(m.joined, u.Exec[0])
	return nil
}

// A command that systemd runs still, for one who was killed, is not run beside itself.
func TestOwnCommandAtWork(t *testing.T) {
	r, n, ran, before := preparedWithCommands(t)
	var m commandAtWork
	if err := r.locked(func(h *hook.Host) error {
		m.Manager, h.Systemd = h.Systemd, &m
		return h.GiveBack(t.Context(), n.Guest.UUID)
	}); err != nil {
		t.Error(err)
	}
	if !slices.Equal(m.joined, []string{"/usr/local/sbin/last"}) || len(*ran) != 1 {
		t.Errorf("waited for %q, ran %q", m.joined, *ran)
	}
	r.wantAsBefore(before, "after release")
}
