package hook

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

const persistenceKind = "nvidia.persistence"

// smiTimeout bounds one run of nvidia-smi.
const smiTimeout = 20 * time.Second

// Persistence turns the persistence mode of an NVIDIA GPU off: with it the driver counts the card as in use although
// nobody has it open, and never lets go of it.
type Persistence struct {
	Address string `json:"address"`
	Program string `json:"program"` // nvidia-smi's path
	// Was says that the mode was on.
	Was bool `json:"was,omitempty"`
}

func (c *Persistence) Kind() string    { return persistenceKind }
func (c *Persistence) Subject() string { return c.Address }
func (c *Persistence) Target() string  { return "off" }

func (c *Persistence) String() string {
	return c.Address + ": persistence mode off, if it is on"
}

// Do asks first: the answer is recorded before the mode is changed. What cannot be told counts as in use.
func (c *Persistence) Do(ctx context.Context, h *Host) error {
	if driver, err := h.PCIDriver(c.Address); err != nil || driver != "nvidia" {
		return err // it has left already, when a prepare that was killed is completed
	}
	on, err := c.on(ctx, h)
	if err != nil || !on {
		return err
	}
	if !c.Was {
		c.Was = true
		if err := h.amend(c); err != nil {
			return err
		}
	}
	if err := c.set(ctx, h, "0"); err != nil {
		return err
	}
	if on, err = c.on(ctx, h); err == nil && on {
		err = fmt.Errorf("cannot turn the persistence mode of %s off: nvidia-smi says that it is still on; stop nvidia-persistenced", c.Address)
	}
	return err
}

func (c *Persistence) on(ctx context.Context, h *Host) (bool, error) {
	out, err := h.smi(ctx, c.Program, "-i", c.Address, "--query-gpu=persistence_mode", "--format=csv,noheader")
	switch answer := strings.TrimSpace(out); {
	case err != nil:
		return false, fmt.Errorf("cannot tell whether %s is in persistence mode, and so in use: %w", c.Address, err)
	case answer == "Enabled":
		return true, nil
	case answer == "Disabled":
		return false, nil
	default:
		return false, fmt.Errorf("cannot tell whether %s is in persistence mode, and so in use: %s answers %q", c.Address, c.Program, answer)
	}
}

func (c *Persistence) set(ctx context.Context, h *Host, to string) error {
	if _, err := h.smi(ctx, c.Program, "-i", c.Address, "-pm", to); err != nil {
		return fmt.Errorf("cannot set the persistence mode of %s to %s: %w", c.Address, to, err)
	}
	return nil
}

func (c *Persistence) Verify(*Host) error { return nil }

// Undo turns the mode on again where it was on, once the card is back on its driver: the driver's change is undone
// before this one.
func (c *Persistence) Undo(ctx context.Context, h *Host) error {
	if !c.Was || h.Stopping(ctx) {
		return nil
	}
	if why := h.Stuck(c.Address); why != "" {
		return &StuckError{c.Address, why}
	}
	if err := onBus(h, c.Address); err != nil {
		return err
	}
	driver, err1 := h.PCIDriver(c.Address)
	vfio, err2 := h.IsVFIO(c.Address)
	switch err := errors.Join(err1, err2); {
	case err != nil:
		return err
	case driver == "" || vfio:
		return fmt.Errorf("cannot turn the persistence mode of %s on again: its driver is not back", c.Address)
	case driver != "nvidia":
		return fmt.Errorf("%w: the driver is %s", ErrDrifted, driver)
	}
	return c.set(ctx, h, "1")
}

func (h *Host) smi(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, smiTimeout)
	defer cancel()
	out, err := h.Output(ctx, program, args...)
	return string(out), err
}
