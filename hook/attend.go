package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"qemu-hook/systemd"
)

// What runs beside a guest does so as transient units, which end with the guest's scope at the latest: a hook must not
// leave a process of its own behind.
const (
	// AttendCommand looks after a guest's interrupts for a while, InhibitCommand holds logind's lock; the program starts itself
	// with them.
	AttendCommand  = "attend"
	InhibitCommand = "inhibit"

	attendTimeout = 5 * time.Second // for systemd to start a unit
)

func attendUnit(uuid string) string  { return "qemu-hook-attend-" + uuid + ".service" }
func inhibitUnit(uuid string) string { return "qemu-hook-inhibit-" + uuid + ".service" }

// Looks are the pauses between the looks for interrupts that a guest's driver enables only once it runs.
func Looks() []time.Duration {
	return []time.Duration{2 * time.Second, 5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second}
}

// attendants returns the units that are to run beside the guest.
func attendants(uuid string, g *Guest) []systemd.Transient {
	var units []systemd.Transient
	if !g.Claim.Interrupts.Empty() && len(g.Claim.PCI) > 0 {
		most := time.Minute
		for _, pause := range Looks() {
			most += pause
		}
		units = append(units, systemd.Transient{
			Name: attendUnit(uuid), Description: "Interrupts of guest " + g.Name, Exec: []string{AttendCommand, uuid}, RuntimeMax: most,
		})
	}
	if len(g.Claim.Inhibit) > 0 {
		units = append(units, systemd.Transient{
			Name: inhibitUnit(uuid), Description: "Guest " + g.Name + " runs",
			Exec: []string{InhibitCommand, strings.Join(g.Claim.Inhibit, ":"), g.Name},
		})
	}
	return units
}

// startAttendants starts the units that run beside the guest, where there is systemd.
func (h *Host) startAttendants(ctx context.Context, uuid string, g *Guest) error {
	units := attendants(uuid, g)
	if len(units) == 0 {
		return nil
	}
	if there, err := h.HasSystemd(); err != nil || !there {
		return err
	}
	if !g.Attended {
		g.Attended = true
		if err := h.SaveLedger(); err != nil {
			return err
		}
	}
	scope, err := h.guestScope(uuid, g.Name)
	if err != nil {
		return err
	}
	if scope == "" {
		// It would not end with the guest.
		h.Logf(Info, "%s runs in no scope that can be seen: nothing is started beside it", g.Name)
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot tell where this program lies: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, attendTimeout)
	defer cancel()
	var errs error
	for _, u := range units {
		u.Exec, u.BindsTo = append([]string{self}, u.Exec...), scope
		errs = errors.Join(errs, h.Systemd.StartTransient(ctx, u))
	}
	return errs
}

// stopAttendants stops them: systemd would, but later.
func (h *Host) stopAttendants(ctx context.Context, uuid string, g *Guest) error {
	if g == nil || !g.Attended {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, attendTimeout)
	defer cancel()
	var errs error
	for _, u := range attendants(uuid, g) {
		errs = errors.Join(errs, h.Systemd.StopUnit(ctx, u.Name))
	}
	return errs
}

// guestScope returns the scope that the guest's QEMU runs in; "" if it is in none, or not to be seen.
func (h *Host) guestScope(uuid, name string) (string, error) {
	cgroup, err := h.guestCgroup(uuid, name)
	if cgroup == "" {
		return "", err
	}
	return path.Base(cgroup), err
}

// guestCgroup returns the path of that scope's cgroup, from the hierarchy's root.
func (h *Host) guestCgroup(uuid, name string) (string, error) {
	pid, err := h.qemu(uuid, name)
	if err != nil || pid == 0 {
		return "", err
	}
	v, err := h.Read(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	// 0::/machine.slice/machine-qemu\x2d1\x2dwin11.scope/libvirt/emulator
	_, dir, _ := strings.Cut(v, "0::")
	dir, _, _ = strings.Cut(dir, "\n")
	for ; len(dir) > 1; dir = path.Dir(dir) {
		if strings.HasSuffix(dir, ".scope") {
			return dir, nil
		}
	}
	return "", nil
}
