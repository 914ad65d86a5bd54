package hook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// unitTimeout bounds the stop or the start of one unit: systemd itself gives a service 90 s to stop.
const unitTimeout = 100 * time.Second

// StopUnits stops the units that the guest claims must not run. Those that ran are noted first, so that they are started
// again when no guest claims them any more; those that did not run are nobody's business then.
func (h *Host) StopUnits(ctx context.Context, uuid string) error {
	g := h.Ledger.Guests[uuid]
	if g == nil {
		return nil
	}
	for _, unit := range g.Claim.Units {
		if unit == IRQBalanceUnit {
			continue // not in the way, and stopped when interrupts are moved
		}
		if err := h.stopUnit(ctx, unit); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) stopUnit(ctx context.Context, unit string) error {
	h.Doing("stopping %s", unit)
	ctx, cancel := context.WithTimeout(ctx, unitTimeout)
	defer cancel()
	runs, err := h.Systemd.UnitRuns(ctx, unit)
	if err != nil || !runs {
		return err
	}
	if !slices.Contains(h.Ledger.Stopped, unit) {
		h.Ledger.Stopped = append(h.Ledger.Stopped, unit)
		if err := h.SaveLedger(); err != nil {
			return err
		}
	}
	if err := h.Systemd.StopUnit(ctx, unit); err != nil {
		return err
	}
	h.Logf(Info, "%s: stopped", unit)
	return nil
}

// SettleUnits starts the units that were stopped and that no guest claims any more, the one stopped last first. All are
// tried; one that does not start stays noted and is tried again at the next event. While the host shuts down none is
// started.
func (h *Host) SettleUnits(ctx context.Context) error {
	var errs error
	changed := false
	for _, unit := range slices.Backward(slices.Clone(h.Ledger.Stopped)) {
		if h.unitClaimed(unit) {
			continue
		}
		if !h.Stopping(ctx) {
			if err := h.startUnit(ctx, unit); err != nil {
				errs = errors.Join(errs, fmt.Errorf("%w; start it by: systemctl start %s", err, unit))
				continue
			}
		}
		h.Ledger.Stopped = slices.DeleteFunc(h.Ledger.Stopped, func(u string) bool { return u == unit })
		changed = true
	}
	if changed {
		errs = errors.Join(errs, h.SaveLedger())
	}
	return errs
}

func (h *Host) startUnit(ctx context.Context, unit string) error {
	h.Doing("starting %s", unit)
	ctx, cancel := context.WithTimeout(ctx, unitTimeout)
	defer cancel()
	// Also one that seems to run: it may be on its way down still.
	if err := h.Systemd.StartUnit(ctx, unit); err != nil {
		return err
	}
	h.Logf(Info, "%s: started again", unit)
	return nil
}

// NVIDIAServices hold every NVIDIA card of the host open. They are stopped while a card leaves its driver, and for as long as
// no card is left.
func NVIDIAServices() []string {
	return []string{"nvidia-persistenced.service", "nvidia-powerd.service"}
}

// unitClaimed reports whether some guest has it that the unit does not run. NVIDIA's services are for the cards that the host
// has: once it has one again they run.
func (h *Host) unitClaimed(unit string) bool {
	if slices.Contains(NVIDIAServices(), unit) {
		if cards, err := h.DriverDevices("nvidia"); err == nil && len(cards) > 0 {
			return false
		}
	}
	return slices.Contains(h.Ledger.Claims("").Units, unit)
}

// HasSystemd reports whether the host is run by systemd, as sd_booted(3) does.
func (h *Host) HasSystemd() (bool, error) { return h.Has("/run/systemd/system") }

// Stopping reports whether the host shuts down, as far as systemd says so. It is asked once.
func (h *Host) Stopping(ctx context.Context) bool {
	if h.stopping == nil {
		ctx, cancel := context.WithTimeout(ctx, settleTimeout)
		defer cancel()
		stopping := false
		if there, err := h.HasSystemd(); h.Systemd != nil && (there || err != nil) {
			stopping, _ = h.Systemd.Stopping(ctx)
		}
		h.stopping = &stopping
	}
	return *h.stopping
}
