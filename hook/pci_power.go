package hook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"qemu-hook/sysfs"
)

const pciPowerKind = "pci.power"

// wakeTimeout bounds the wait for a card that wakes from D3cold: link training and firmware take up to a few seconds.
const wakeTimeout = 10 * time.Second

// PCIPower wakes a PCI function and keeps it awake on its way between drivers: one that sleeps in D3cold can be neither
// unbound nor reset.
type PCIPower struct {
	Address string `json:"address"`
	ID      string `json:"id"`
	sysfs.PCIPower
}

func (c *PCIPower) Kind() string    { return pciPowerKind }
func (c *PCIPower) Subject() string { return c.Address }
func (c *PCIPower) Target() string  { return "on" }

func (c *PCIPower) String() string {
	var set []string
	if c.Control == "auto" {
		set = append(set, "power/control auto → on")
	}
	if c.D3Cold == "1" {
		set = append(set, "d3cold_allowed 1 → 0")
	}
	return c.Address + ": " + strings.Join(set, ", ")
}

func (c *PCIPower) Do(ctx context.Context, h *Host) error {
	if err := h.KeepPCIAwake(c.Address); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, wakeTimeout)
	defer cancel()
	var status string
	err := poll(ctx, func() (awake bool, err error) {
		status, err = h.PCIRuntimeStatus(c.Address)
		return !slices.Contains([]string{"suspended", "suspending", "resuming"}, status), err
	})
	if err != nil && errors.Is(err, ctx.Err()) {
		return fmt.Errorf("cannot wake %s: its power/runtime_status stays %q; vfio-pci's disable_idle_d3=1 or a reboot may help", c.Address, status)
	} else if err != nil {
		return err
	}
	answers, err := h.PCIAnswers(c.Address)
	if err == nil && !answers {
		err = fmt.Errorf("%s does not answer: its configuration space reads all ones; the card is off the bus or cannot wake, and as a rule only a reboot helps", c.Address)
	}
	return err
}

// Verify finds nothing to complain of: vfio-pci manages the power of what it holds by itself.
func (c *PCIPower) Verify(*Host) error { return nil }

func (c *PCIPower) Undo(_ context.Context, h *Host) error {
	if why := h.Stuck(c.Address); why != "" {
		return &StuckError{c.Address, why}
	}
	if err := sameDevice(h, c.Address, c.ID); err != nil {
		return err
	}
	return h.RestorePCIPower(c.Address, c.PCIPower)
}

// sameDevice reports as drifted what is no longer the device of which a change was recorded.
func sameDevice(h *Host, address, id string) error {
	if err := onBus(h, address); err != nil {
		return err
	}
	now, err := h.PCIID(address)
	if err != nil {
		return fmt.Errorf("cannot give back %s: %w", address, err)
	}
	if now != id {
		return fmt.Errorf("%w: another device, %s, is at this address", ErrDrifted, now)
	}
	return nil
}

// onBus reports as drifted a function that is not there any more.
func onBus(h *Host, address string) error {
	there, err := h.Has(sysfs.PCIDevice(address))
	switch {
	case err != nil:
		return fmt.Errorf("cannot give back %s: %w", address, err)
	case !there:
		return fmt.Errorf("%w: the function is gone from the bus", ErrDrifted)
	}
	return nil
}
