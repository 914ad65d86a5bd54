package prepare_test

import (
	"errors"
	"strings"
	"testing"

	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
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
