package prepare_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/sysfs/sysfstest"
)

// forPairs runs a test for every pair.
func forPairs(t *testing.T, f func(t *testing.T, r *rig, xml string)) {
	for _, p := range pairs() {
		t.Run(p[0]+"/"+p[1], func(t *testing.T) {
			t.Parallel()
			f(t, newRig(t, p[0]), p[1])
		})
	}
}

func TestGoldenPlans(t *testing.T) {
	for _, p := range pairs() {
		t.Run(p[0]+"/"+p[1], func(t *testing.T) {
			r := newRig(t, p[0])
			before := r.model.Snapshot()
			plan, err := prepare.NewPlan(context.Background(), r.host(), loadNeeds(t, p[1]))
			if err != nil {
				t.Fatal(err)
			}
			if diff := sysfstest.Diff(before, r.model.Snapshot()); diff != "" || r.model.Changes() != 0 {
				t.Errorf("planning changed the host in %d writes:\n%s", r.model.Changes(), diff)
			}
			golden(t, filepath.Join("../../testdata/domains", p[1]+"."+p[0]+".plan"), planText(plan))
		})
	}
}

// planText is a plan as golden files have it.
func planText(plan *prepare.Plan) string {
	var b strings.Builder
	for _, s := range plan.Steps {
		for _, l := range s.Lines {
			fmt.Fprintf(&b, "%s: %s\n", s.Name, l)
		}
	}
	for _, w := range plan.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	for _, w := range plan.Refusals {
		fmt.Fprintf(&b, "refused: %s\n", w)
	}
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-update writes it anew):\n%s", name, diff)
	}
}

func TestPrepareAndRelease(t *testing.T) {
	forPairs(t, func(t *testing.T, r *rig, xml string) {
		n := loadNeeds(t, xml)
		before := r.snapshot()
		err := r.prepare(n)
		var refusal *hook.Refusal
		if err != nil && !errors.As(err, &refusal) {
			t.Fatal(err)
		}
		if err != nil {
			r.wantAsBefore(before, "after a refusal")
		} else if !n.Empty() && sysfstest.Diff(before, r.snapshot()) == "" && len(n.PCI)+len(n.Memory)+len(n.Shm) > 0 && r.model.Name() != "fern-vfio" {
			t.Error("prepare changed nothing")
		}
		if err := r.release(n); err != nil {
			t.Errorf("release: %v", err)
		}
		r.wantAsBefore(before, "after release")
	})
}

// A prepare whose every write in turn is refused either fails, and has given everything back itself, or goes on
// without what it may go without; release then gives back the rest.
func TestPrepareWithEachWriteRefused(t *testing.T) {
	forPairs(t, func(t *testing.T, base *rig, xml string) { refuseEachWriteOfPrepare(t, base, loadNeeds(t, xml)) })
}

func refuseEachWriteOfPrepare(t *testing.T, base *rig, n *domain.Needs) {
	t.Helper()
	before := base.snapshot()
	all := recordChanges(base, func(r *rig) { _ = r.prepare(n) })
	for _, i := range distinct(all) {
		r := base.clone()
		var at sysfstest.Change
		r.model.OnChange(func(c sysfstest.Change) error {
			if c.N == i {
				at = c
				return syscall.EIO
			}
			return nil
		})
		when := func(what string) string {
			return fmt.Sprintf("%s with write %d of %d refused (%v)", what, i, len(all), at)
		}
		if err := r.prepare(n); err != nil && !strings.Contains(lastReason(err), "could not be brought back wholly") {
			r.wantAsBefore(before, when("prepare"))
		}
		if err := r.release(n); err != nil {
			t.Errorf("%s: %v", when("release after prepare"), err)
		}
		r.wantAsBefore(before, when("prepare and release"))
	}
}

// lastReason returns the last of the reasons for which a guest was refused.
func lastReason(err error) string {
	var refusal *hook.Refusal
	if errors.As(err, &refusal) {
		return refusal.Reasons[len(refusal.Reasons)-1]
	}
	return err.Error()
}

// recordChanges returns the changes that something makes, refused ones included.
func recordChanges(base *rig, do func(r *rig)) []sysfstest.Change {
	r := base.clone()
	var all []sysfstest.Change
	r.model.OnChange(func(c sysfstest.Change) error {
		all = append(all, c)
		return nil
	})
	do(r)
	return all
}

// distinct returns the numbers of the changes that are worth a run each: of a row of the same for one interrupt or thread
// after the other the first two, one in the middle and the last.
func distinct(all []sysfstest.Change) []int {
	kind := func(i int) string {
		digits := func(r rune) rune {
			if r >= '0' && r <= '9' {
				return -1
			}
			return r
		}
		c := all[i]
		if !strings.HasPrefix(c.Path, "/proc/") {
			return strconv.Itoa(i)
		}
		return c.Op + strings.Map(digits, c.Path)
	}
	var numbers []int
	for from := 0; from < len(all); {
		to := from
		for to < len(all) && kind(to) == kind(from) {
			to++
		}
		for i := from; i < to; i++ {
			if i < from+2 || i == (from+to)/2 || i == to-1 {
				numbers = append(numbers, all[i].N)
			}
		}
		from = to
	}
	return numbers
}

// A release whose every write in turn is refused does all the rest, says so, and the next release finishes.
func TestReleaseWithEachWriteRefused(t *testing.T) {
	forPairs(t, func(t *testing.T, base *rig, xml string) { refuseEachWriteOfRelease(t, base, loadNeeds(t, xml)) })
}

func refuseEachWriteOfRelease(t *testing.T, base *rig, n *domain.Needs) {
	t.Helper()
	before := base.snapshot()
	prepared := len(recordChanges(base, func(r *rig) { _ = r.prepare(n) }))
	all := recordChanges(base, func(r *rig) { _, _ = r.prepare(n), r.release(n) })
	for _, i := range distinct(all[prepared:]) {
		r := base.clone()
		if err := r.prepare(n); err != nil {
			return
		}
		var at sysfstest.Change
		r.model.OnChange(func(c sysfstest.Change) error {
			if c.N == i {
				at = c
				if strings.HasPrefix(c.Path, "/proc/irq/") {
					return syscall.EBUSY // EIO is how the kernel says that it moves this one by itself
				}
				return syscall.EIO
			}
			return nil
		})
		err := r.release(n)
		if at.N == 0 {
			t.Fatalf("change %d was not reached", i)
		}
		if err == nil {
			// Some writes have a second way, as lifting a limit has.
			r.wantAsBefore(before, fmt.Sprintf("release with write %v refused, without an error", at))
			continue
		}
		if err := r.release(n); err != nil {
			t.Errorf("second release after %v was refused: %v", at, err)
		}
		r.wantAsBefore(before, fmt.Sprintf("second release after %v was refused", at))
	}
}

// The program dies at each change, before or after it was made; what libvirt does next, a release or a new prepare,
// converges.
func TestKilledAtEachWrite(t *testing.T) {
	forPairs(t, func(t *testing.T, base *rig, xml string) { killAtEachWrite(t, base, loadNeeds(t, xml)) })
}

func killAtEachWrite(t *testing.T, base *rig, n *domain.Needs) {
	t.Helper()
	before := base.snapshot()
	r := base.clone()
	if err := r.prepare(n); err != nil {
		return
	}
	prepared, mid := r.snapshot(), r.model.Changes()
	if err := r.release(n); err != nil {
		t.Fatal(err)
	}
	all := recordChanges(base, func(r *rig) { _, _ = r.prepare(n), r.release(n) })
	for _, i := range distinct(all) {
		for _, after := range []bool{false, true} {
			r := base.clone()
			var at sysfstest.Change
			kill := func(c sysfstest.Change) error {
				if c.N == i {
					at = c
					panic(errKilled)
				}
				return nil
			}
			if after {
				r.model.AfterChange(kill)
			} else {
				r.model.OnChange(kill)
			}
			if !killed(func() { _ = r.prepare(n); _ = r.release(n) }) {
				if after {
					continue // the kernel refused it, as it does with some interrupts
				}
				t.Fatalf("change %d of %d was not reached", i, len(all))
			}
			r.model.OnChange(nil)
			r.model.AfterChange(nil)
			when := fmt.Sprintf("killed at %v (after it: %v), ", at, after)
			if i <= mid && i%2 == 0 {
				if err := r.prepare(n); err != nil {
					t.Errorf("%sprepare again: %v", when, err)
				}
				if diff := sysfstest.Diff(prepared.Without("/dev/shm"), r.snapshot().Without("/dev/shm")); diff != "" {
					t.Errorf("%sprepared again differently:\n%s", when, diff)
				}
			}
			if err := r.release(n); err != nil {
				t.Errorf("%srelease: %v", when, err)
			}
			r.wantAsBefore(before, when+"released")
		}
	}
}
