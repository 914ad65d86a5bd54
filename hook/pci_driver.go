package hook

import (
	"context"
	"errors"
	"fmt"
	"time"

	"qemu-hook/sysfs"
)

const pciDriverKind = "pci.driver"

// PCIDriver moves a PCI function from the driver it has to a vfio driver. Driver and driver_override are one change:
// while the override stands no other driver can take the function
// (Documentation/ABI/testing/sysfs-bus-pci).
type PCIDriver struct {
	Address string `json:"address"`
	ID      string `json:"id"` // vendor:device: addresses can move
	To      string `json:"to"`
	// Module brings the driver To where that is not registered yet.
	Module string `json:"module,omitempty"`
	// From is the driver before, "" for none.
	From         string `json:"from"`
	FromOverride string `json:"from_override"`
}

// Deadlines for one write that the kernel may take its time for, and for the driver to show up behind it.
const (
	slowWriteTimeout = 60 * time.Second
	driverTimeout    = 5 * time.Second
)

func (c *PCIDriver) Kind() string    { return pciDriverKind }
func (c *PCIDriver) Subject() string { return c.Address }

func (c *PCIDriver) Target() string { return c.To }

func (c *PCIDriver) String() string {
	if c.From == c.To {
		return fmt.Sprintf("%s: driver %s already, stays", c.Address, c.To)
	}
	s := fmt.Sprintf("%s: driver %s → %s", c.Address, orNone(c.From), c.To)
	if c.Module != "" {
		s += fmt.Sprintf(", module %s loaded first", c.Module)
	}
	return s
}

func orNone(driver string) string {
	if driver == "" {
		return "none"
	}
	return driver
}

func (c *PCIDriver) Do(ctx context.Context, h *Host) error {
	if err := c.loadModule(ctx, h); err != nil {
		return err
	}
	driver, err := h.PCIDriver(c.Address)
	if err != nil {
		return err
	}
	if driver != c.To {
		if err := h.SetPCIOverride(c.Address, c.To); err != nil {
			return err
		}
		if err := c.rebind(ctx, h, driver, c.To); err != nil {
			return err
		}
	}
	return c.waitNodes(ctx, h)
}

// waitNodes waits for the device nodes that libvirt looks for and QEMU opens: the container's, and the group's or,
// on a kernel without group nodes, the device's own.
func (c *PCIDriver) waitNodes(ctx context.Context, h *Host) error {
	group, err := h.PCIGroup(c.Address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, driverTimeout)
	defer cancel()
	err = poll(ctx, func() (bool, error) {
		return h.Exists("/dev/vfio/vfio") && (h.Exists("/dev/vfio/"+group) || h.Exists("/dev/vfio/devices")), nil
	})
	if err != nil {
		return fmt.Errorf("%s is on %s, but /dev/vfio/vfio and /dev/vfio/%s do not both exist; is udev running?", c.Address, c.To, group)
	}
	return nil
}

func (c *PCIDriver) Verify(h *Host) error {
	driver, err := h.PCIDriver(c.Address)
	if err == nil && driver != c.To {
		err = fmt.Errorf("%s: the driver is %s instead of %s", c.Address, orNone(driver), c.To)
	}
	return err
}

// Undo aims the override at the driver before, so that none but that one can take the function, and only when it is
// home puts back the override that was there.
func (c *PCIDriver) Undo(ctx context.Context, h *Host) error {
	if why, ok := h.Ledger.Wedged[c.Address]; ok {
		return fmt.Errorf("cannot give back %s: %s", c.Address, why)
	}
	if !h.Exists(sysfs.PCIDevice(c.Address)) {
		return fmt.Errorf("%w: the function is gone from the bus", ErrDrifted)
	}
	if id, err := h.PCIID(c.Address); err != nil {
		return fmt.Errorf("cannot give back %s to %s: %w", c.Address, orNone(c.From), err)
	} else if id != c.ID {
		return fmt.Errorf("%w: another device, %s, is at this address", ErrDrifted, id)
	}
	driver, err := h.PCIDriver(c.Address)
	if err != nil {
		return err
	}
	override, err := h.PCIOverride(c.Address)
	if err != nil {
		return err
	}
	ours := override == c.To || override == c.From
	switch {
	case driver == c.From:
		// Already home: never moved, or libvirt's own reattach, which clears the override, was here first.
		if override == c.FromOverride || !ours && override != "" {
			return nil
		}
		return h.SetPCIOverride(c.Address, c.FromOverride)
	case driver == c.To, driver == "" && ours:
	case override == c.To:
		if err := h.SetPCIOverride(c.Address, c.FromOverride); err != nil {
			return err
		}
		fallthrough
	default:
		return fmt.Errorf("%w: the driver is %s", ErrDrifted, orNone(driver))
	}
	if err := h.SetPCIOverride(c.Address, c.From); err != nil {
		return err
	}
	if err := c.rebind(ctx, h, driver, c.From); err != nil {
		return err
	}
	if c.From == c.FromOverride {
		return nil
	}
	return h.SetPCIOverride(c.Address, c.FromOverride)
}

// loadModule brings the vfio driver, if need be, and learns its name: only a loaded module tells.
func (c *PCIDriver) loadModule(ctx context.Context, h *Host) error {
	if c.Module == "" || h.Exists(sysfs.PCIDriverAttr(c.To, "")) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, slowWriteTimeout)
	defer cancel()
	if err := h.LoadModule(ctx, c.Module); err != nil {
		return err
	}
	driver, err := h.ModulePCIDriver(c.Module)
	if err != nil {
		return err
	}
	if driver != "" && driver != c.To {
		c.To = driver
		if err := h.amend(c); err != nil {
			return err
		}
	}
	if !h.Exists(sysfs.PCIDriverAttr(c.To, "")) {
		return fmt.Errorf("cannot bind %s to %s: module %s was loaded but brought no such driver", c.Address, c.To, c.Module)
	}
	return nil
}

// rebind takes the function from its driver and has the kernel probe it for the one that the override names; to ""
// leaves it without a driver.
func (c *PCIDriver) rebind(ctx context.Context, h *Host, from, to string) error {
	if from != "" {
		if err := c.slowWrite(ctx, h, sysfs.PCIDriverAttr(from, "unbind")); err != nil {
			return err
		}
	}
	if to == "" {
		return nil
	}
	if err := c.slowWrite(ctx, h, sysfs.PCIBus+"/drivers_probe"); err != nil {
		return err
	}
	// The probe reports success although nothing was bound, and some drivers bind later: the link is the proof.
	ctx, cancel := context.WithTimeout(ctx, driverTimeout)
	defer cancel()
	var driver string
	err := poll(ctx, func() (done bool, err error) {
		driver, err = h.PCIDriver(c.Address)
		return driver != "", err
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded), err == nil && driver != to:
		left := "without a driver"
		if driver != "" {
			left = "on " + driver
		}
		return fmt.Errorf("cannot bind %s to %s: the kernel's probe left it %s; the kernel log says why (dmesg)", c.Address, to, left)
	case err != nil:
		return err
	}
	return nil
}

func (c *PCIDriver) slowWrite(ctx context.Context, h *Host, path string) error {
	ctx, cancel := context.WithTimeout(ctx, slowWriteTimeout)
	defer cancel()
	err := h.Slow.Write(ctx, path, c.Address)
	var wedged *WedgedError
	if errors.As(err, &wedged) {
		if h.Ledger.Wedged == nil {
			h.Ledger.Wedged = map[string]string{}
		}
		h.Ledger.Wedged[c.Address] = wedged.Error()
		err = errors.Join(fmt.Errorf("%s is stuck: %w", c.Address, err), h.SaveLedger())
	}
	return err
}

// poll calls f until it is done or fails, with growing pauses, at most until ctx ends.
func poll(ctx context.Context, f func() (done bool, err error)) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		if done, err := f(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}
