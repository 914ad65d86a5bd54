package prepare_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// Whoever is locked out switches the program off: a guest that needs something is refused with that sentence alone, and nothing
// is touched; what is on record is given back.
func TestKillSwitch(t *testing.T) {
	for name, off := range map[string]func(r *rig){
		"/etc/qemu-hook/disabled":                    func(r *rig) { r.model.SetFile("/etc/qemu-hook/disabled", "") },
		"qemu_hook=off on the kernel's command line": func(r *rig) { r.model.SetFile("/proc/cmdline", "root=/dev/sda1 quiet qemu_hook=off rw\n") },
	} {
		t.Run(strings.Fields(name)[0][1:5], func(t *testing.T) {
			r := newRig(t, "fern")
			n := loadNeeds(t, "win11")
			before := r.snapshot()
			if err := r.prepare(n); err != nil {
				t.Fatal(err)
			}
			off(r)
			if err := r.release(n); err != nil {
				t.Errorf("release: %v", err)
			}
			diff := sysfstest.Diff(before, r.snapshot())
			for line := range strings.Lines(diff) {
				if !strings.Contains(line, "/etc/qemu-hook") && !strings.Contains(line, "/proc/cmdline") {
					t.Errorf("release leaves: %s", line)
				}
			}
			held := r.snapshot()
			want := "qemu-hook is switched off by " + name + "; guests that need nothing of it start"
			var refusal *hook.Refusal
			if err := r.prepare(n); !errors.As(err, &refusal) || len(refusal.Reasons) != 1 || refusal.Reasons[0] != want {
				t.Errorf("prepare: %v", err)
			}
			if err := r.locked(func(h *hook.Host) error {
				_, err := prepare.Bind(t.Context(), h, []string{n.PCI[0].Address})
				return err
			}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("bind: %v", err)
			}
			if diff := sysfstest.Diff(held, r.snapshot()); diff != "" {
				t.Errorf("something was changed:\n%s", diff)
			}
		})
	}
}

// A switch that cannot be looked at counts: the guest is refused with that and the kernel's word, nothing is touched or run, and what
// is on record is given back all the same.
func TestUnseenKillSwitch(t *testing.T) {
	faults := 0
	for _, o := range []operation{{kind: opLook, path: "/etc/qemu-hook/disabled"}, {kind: opRead, path: "/proc/cmdline"}} {
		for _, errno := range answers(o.kind) {
			faults++
			t.Run(fmt.Sprintf("%s/%v", o.path, errno), func(t *testing.T) {
				r := newRig(t, "fern")
				n := loadNeeds(t, "win11")
				before := r.snapshot()
				if err := r.prepare(n); err != nil {
					t.Fatal(err)
				}
				f := newFaulty(&fault{o, ever, errno})
				r.door = func(k sysfs.Kernel) sysfs.Kernel { return faultyKernel{k, f} }
				if err := r.release(n); err != nil {
					t.Errorf("release: %v", err)
				}
				r.wantAsBefore(before, "release")
				ran := ownCommands(r, n)
				r.guestConfig(n.Guest.Name)
				changes := r.model.Changes()
				wantOff := func(call string, err error) {
					t.Helper()
					var refusal *hook.Refusal
					if !errors.As(err, &refusal) || len(refusal.Reasons) != 1 {
						t.Errorf("%s: %v", call, err)
						return
					}
					for _, word := range []string{"qemu-hook is switched off by ", "as far as can be told", o.path, errno.Error()} {
						wantReason(t, refusal.Reasons, word)
					}
				}
				wantOff("prepare", r.prepare(n))
				wantOff("bind", r.bind(n.PCI[0].Address))
				if f.hit == 0 {
					t.Error("nobody looks")
				}
				if made := r.model.Changes() - changes; made > 0 || len(*ran) > 0 {
					t.Errorf("%d changes, run: %q", made, *ran)
				}
			})
		}
	}
	t.Logf("%d faults", faults)
}
