package prepare_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"qemu-hook/domain"
	"qemu-hook/hook"
)

// Somebody empties or removes the undo log of a prepared guest, or takes a line out of it: that a function stands on vfio
// without a record is noticed and said with the file's name, and it goes home by what the ledger has, whatever comes.
func TestLostRecords(t *testing.T) {
	cases := 0
	for _, p := range [][2]string{{"fern", "win11"}, {"desktop-four", "desktop-four"}} {
		n := loadNeeds(t, p[1])
		for _, l := range losses() {
			for _, way := range waysHome(n) {
				cases++
				t.Run(fmt.Sprintf("%s/%s/%s", p[0], l.name, way.name), func(t *testing.T) {
					r := newRig(t, p[0])
					before := r.snapshot()
					r.prepareFor(n)
					r.lose(n.Guest.UUID, l)
					r.wantLost(n.Guest.UUID)
					if err := way.goes(r); err != nil {
						t.Error(err)
					}
					r.model.RemoveProcess(daemonPID)
					r.wantAsBefore(before, way.name)
				})
			}
		}
	}
	t.Logf("%d cases", cases)
}

// A loss is what somebody makes of the lines of an undo log; nil for no file.
type loss struct {
	name string
	cut  func(lines []string) []string
}

func losses() []loss {
	without := func(nth int) func([]string) []string {
		return func(lines []string) []string {
			seen := 0
			return slices.DeleteFunc(lines, func(line string) bool {
				if strings.Contains(line, `"kind":"pci.driver"`) {
					seen++
					return seen == nth
				}
				return false
			})
		}
	}
	return []loss{
		{"emptied", func([]string) []string { return []string{} }},
		{"removed", func([]string) []string { return nil }},
		{"nothing but its header", func(lines []string) []string { return lines[:1] }},
		{"its header cut out", func(lines []string) []string { return lines[:0] }},
		{"without the first function", without(1)},
		{"without the second function", without(2)},
	}
}

// lose makes of a guest's undo log what somebody else makes of it.
func (r *rig) lose(uuid string, l loss) {
	r.t.Helper()
	file := r.journal().LogFile(uuid)
	whole, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	left := l.cut(slices.Collect(strings.Lines(string(whole))))
	if left == nil {
		err = os.Remove(file)
	} else {
		err = os.WriteFile(file, []byte(strings.Join(left, "")), 0o600)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// wantLost wants a loss to be noticed by who looks without the lock, as status does.
func (r *rig) wantLost(uuid string) {
	r.t.Helper()
	h := r.loaded()
	lost, err := h.Lost(uuid)
	if err != nil || len(lost) == 0 {
		r.t.Errorf("lost: %v, error %v", lost, err)
		return
	}
	if said := h.DescribeLost(uuid, lost); !strings.Contains(said, h.State.LogFile(uuid)) || !strings.Contains(said, lost[0].String()) {
		r.t.Errorf("it says %q", said)
	}
}

type wayHome struct {
	name string
	goes func(r *rig) error
}

// waysHome is what leads a guest that is on record to its end.
func waysHome(n *domain.Needs) []wayHome {
	return []wayHome{
		{"release", func(r *rig) error { return r.release(n) }},
		{"recover", func(r *rig) error {
			r.model.RemoveProcess(daemonPID)
			all := r.recovered("")
			if len(all) != 1 || all[0].Kept != "" {
				return fmt.Errorf("recover: %+v", all)
			}
			return all[0].Err
		}},
		{"prepare and release", func(r *rig) error {
			r.prepareFor(n)
			return r.release(n)
		}},
		{"started, reconnect and release", func(r *rig) error {
			if err := r.started(n); err != nil {
				return err
			}
			if err := r.locked(func(h *hook.Host) error {
				return h.Reconnect(context.Background(), n.Guest.UUID, n.Guest.Name, hook.Caller{})
			}); err != nil {
				return err
			}
			return r.release(n)
		}},
	}
}

// What is bound by hand, or stays bound after its guest, is known without its log, too.
func TestLostRecordsOfHand(t *testing.T) {
	n := loadNeeds(t, "win11")
	addresses := []string{n.PCI[0].Address, n.PCI[1].Address}
	for _, l := range losses()[:4] {
		for name, bind := range map[string]func(r *rig) error{
			"bound": func(r *rig) error { return r.bind(addresses...) },
			"stays": func(r *rig) error {
				r.config.GPU.GiveBack = map[string]hook.GiveBack{addresses[0]: hook.GiveBackStay, addresses[1]: hook.GiveBackStay}
				r.prepareFor(n)
				r.model.RemoveProcess(daemonPID)
				return r.release(n)
			},
		} {
			t.Run(name+"/"+l.name, func(t *testing.T) {
				r := newRig(t, "fern")
				before := r.snapshot()
				if err := bind(r); err != nil {
					t.Fatal(err)
				}
				r.lose(hook.HandUUID, l)
				r.wantLost(hook.HandUUID)
				if err := r.locked(func(h *hook.Host) error { return h.Unbind(context.Background(), addresses) }); err != nil {
					t.Error(err)
				}
				r.wantAsBefore(before, "unbound")
			})
		}
	}
}

// A function whose record is lost and cannot be put back stays its guest's, and the release says so.
func TestLostRecordThatStaysLost(t *testing.T) {
	r := newRig(t, "fern")
	n := loadNeeds(t, "win11")
	before := r.snapshot()
	r.prepareFor(n)
	file := r.journal().LogFile(n.Guest.UUID)
	if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := r.release(n); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("release says %v", err)
	}
	if r.loaded().Ledger.Guests[n.Guest.UUID] == nil {
		t.Fatal("the guest is no longer on record")
	}
	// Out of the way as it was said: the ledger is enough.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := r.release(n); err != nil {
		t.Error(err)
	}
	r.model.RemoveProcess(daemonPID)
	r.wantAsBefore(before, "after release")
}

// As long as a guest's log cannot be read whole, what it had stays its own: another guest on the leftovers would lose them when
// the log is mended.
func TestUnreadLogKeepsFunctions(t *testing.T) {
	for name, spoil := range map[string]func(r *rig, file string) error{
		"a line damaged": func(r *rig, file string) error {
			whole, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			return os.WriteFile(file, []byte(strings.Replace(string(whole), `"kind":"pci.power"`, `"kind":"pci.powes"`, 1)), 0o600)
		},
		"not a file": func(_ *rig, file string) error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "fern")
			n := loadNeeds(t, "win11")
			r.prepareFor(n)
			if err := spoil(r, r.journal().LogFile(n.Guest.UUID)); err != nil {
				t.Fatal(err)
			}
			if err := r.release(n); err == nil {
				t.Fatal("a release with half a log is said to be done")
			}
			other := guest("other", "22", n.PCI[0].Address, n.PCI[1].Address)
			if err := r.prepare(other); err == nil || !strings.Contains(err.Error(), n.Guest.Name) {
				t.Errorf("another guest of the function: %v", err)
			}
		})
	}
}

// Whatever stands on record for one guest, a function that another one claims is not touched by it, and goes home after that one.
func TestRecordOfAnothersFunction(t *testing.T) {
	r := newRig(t, "fern")
	n := loadNeeds(t, "win11")
	before := r.snapshot()
	r.prepareFor(n)
	r.model.RemoveProcess(daemonPID)
	function, other := n.PCI[1].Address, guest("other", "22").Guest
	edit := func(f func(l *hook.Ledger)) {
		t.Helper()
		if err := r.locked(func(h *hook.Host) error {
			f(h.Ledger)
			return h.SaveLedger()
		}); err != nil {
			t.Fatal(err)
		}
	}
	edit(func(l *hook.Ledger) {
		l.Guests[n.Guest.UUID].Claim.PCI = nil
		l.Guests[other.UUID] = &hook.Guest{Name: other.Name, Since: time.Now(), Claim: hook.Claim{PCI: []string{function}}}
	})
	// A log that has lost its record is no reason to put it back.
	file := r.journal().LogFile(n.Guest.UUID)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r.lose(n.Guest.UUID, losses()[4])
	if lost, err := r.loaded().Lost(n.Guest.UUID); len(lost) > 0 || err != nil {
		t.Errorf("lost: %v, %v", lost, err)
	}
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.release(n); err == nil || !strings.Contains(err.Error(), "is taken by guest other") || !strings.Contains(err.Error(), `qemu-hook recover "win11"`) {
		t.Errorf("release: %v", err)
	}
	if d := r.driver(function); d != "vfio-pci" {
		t.Errorf("the other guest's function is on %q", d)
	}
	edit(func(l *hook.Ledger) { delete(l.Guests, other.UUID) })
	if all := r.recovered("win11"); len(all) != 1 || all[0].Err != nil {
		t.Errorf("recover: %+v", all)
	}
	r.wantAsBefore(before, "both are gone")
}
