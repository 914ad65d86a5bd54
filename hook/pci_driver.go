package hook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"qemu-hook/sysfs"
)

const pciDriverKind = "pci.driver"

// PCIDriver moves a PCI function from the driver it has to a vfio driver. Driver and driver_override are one change:
// while the override stands no other driver can take the function
// (Documentation/ABI/testing/sysfs-bus-pci). So are the sizes of its BARs, which the kernel changes only while there is no
// driver, and its way of being reset.
type PCIDriver struct {
	Address string `json:"address"`
	ID      string `json:"id"` // vendor:device: addresses can move
	To      string `json:"to"`
	// Module brings the driver To where that is not registered yet.
	Module string `json:"module,omitempty"`
	// From is the driver before, "" for none.
	From         string `json:"from"`
	FromOverride string `json:"from_override"`
	// HostModules are the loaded modules that make up the driver before, in the order in which they are loaded.
	HostModules []string `json:"host_modules,omitempty"`
	// Unload says that these are unloaded to make the driver let go: the kernel refuses that while the device is in
	// use, where an unbind would never return.
	Unload bool `json:"unload,omitempty"`
	// BARs are resized; FromBARs are their sizes before.
	BARs     []BARSize `json:"bars,omitempty"`
	FromBARs []BARSize `json:"from_bars,omitempty"`
	// Reset is set as reset_method; FromReset is what that held before.
	Reset     string `json:"reset,omitempty"`
	FromReset string `json:"from_reset,omitempty"`
	// Stay leaves the function on the driver To when its guest is gone.
	Stay bool `json:"stay,omitempty"`
	// Rescan has a function whose driver does not come back taken off the bus and found again.
	Rescan bool `json:"rescan,omitempty"`
}

// driverTimeout bounds the wait for a driver to show up behind a probe.
const driverTimeout = 5 * time.Second

// slowTimeout is how long a driver may take to let go of a function, or to take one.
func slowTimeout(driver string) time.Duration {
	switch driver {
	case "snd_hda_intel":
		// It waits for whoever has the card's sound open; a sound server lets go at once when it is told.
		return 10 * time.Second
	case "nvidia-gpu", "i2c_nvidia_gpu", "ucsi_ccg", "xhci_hcd":
		// The controller of the card's USB-C port waits for transfers on its bus to time out.
		return 3 * time.Minute
	}
	return time.Minute
}

func (c *PCIDriver) Kind() string    { return pciDriverKind }
func (c *PCIDriver) Subject() string { return c.Address }

// Target names the way too: a function that is home again may have to leave by another one.
func (c *PCIDriver) Target() string {
	if c.Unload {
		return c.To + ", unloading " + c.From
	}
	return c.To
}

func (c *PCIDriver) String() string {
	if c.From == c.To {
		return fmt.Sprintf("%s: driver %s already, stays", c.Address, c.To)
	}
	s := fmt.Sprintf("%s: driver %s → %s", c.Address, orNone(c.From), c.To)
	if c.Module != "" {
		s += fmt.Sprintf(", module %s loaded first", c.Module)
	}
	if c.Unload {
		unloaded := slices.Clone(c.HostModules)
		slices.Reverse(unloaded)
		s += ", unloading " + strings.Join(unloaded, ", ")
	}
	for _, b := range c.BARs {
		s += fmt.Sprintf(", BAR %d %s", b.BAR, FormatBytes(b.Bytes))
	}
	if c.Reset != "" {
		s += ", reset by " + c.Reset
	}
	if c.Stay {
		s += ", where it stays"
	}
	return s
}

func orNone(driver string) string {
	if driver == "" {
		return "none"
	}
	return driver
}

// Aim sets the override, before any function of the guest is unbound: from then on no driver but the one it names can
// take the function, whoever probes the bus meanwhile.
func (c *PCIDriver) Aim(ctx context.Context, h *Host) error {
	if why := h.Stuck(c.Address); why != "" {
		return &StuckError{c.Address, why}
	}
	if err := c.loadModule(ctx, h); err != nil {
		return err
	}
	driver, err := h.PCIDriver(c.Address)
	if err != nil || driver == c.To {
		return err
	}
	return h.SetPCIOverride(c.Address, c.To)
}

func (c *PCIDriver) Do(ctx context.Context, h *Host) error {
	driver, err := h.PCIDriver(c.Address)
	if err != nil {
		return err
	}
	if driver != c.To {
		if err := c.leave(ctx, h, driver); err != nil {
			return err
		}
		if err := c.setReset(h, c.FromReset, c.Reset); err != nil {
			return err
		}
		if err := c.resize(h, c.BARs); err != nil {
			return err
		}
		if err := c.probe(ctx, h, c.To); err != nil {
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
	if why := h.Stuck(c.Address); why != "" {
		return &StuckError{c.Address, why}
	}
	if err := sameDevice(h, c.Address, c.ID); err != nil {
		return err
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
		err := c.loadHostModules(ctx, h)
		if err == nil && driver == "" {
			err = c.resize(h, c.FromBARs)
		}
		err = errors.Join(err, c.setReset(h, c.Reset, c.FromReset))
		if override == c.FromOverride || !ours && override != "" {
			return err
		}
		return errors.Join(err, h.SetPCIOverride(c.Address, c.FromOverride))
	case driver == c.To, driver == "" && ours:
	case override == c.To:
		if err := h.SetPCIOverride(c.Address, c.FromOverride); err != nil {
			return err
		}
		fallthrough
	default:
		return fmt.Errorf("%w: the driver is %s", ErrDrifted, orNone(driver))
	}
	if h.Stopping(ctx) {
		return fmt.Errorf("%w: it stays on %s, the host shuts down", ErrDrifted, orNone(driver))
	}
	if err := h.SetPCIOverride(c.Address, c.From); err != nil {
		return err
	}
	if driver != "" {
		if err := c.unbind(ctx, h, driver); err != nil {
			return err
		}
	}
	errs := c.setReset(h, c.Reset, c.FromReset)
	if err := c.resize(h, c.FromBARs); err != nil {
		// Once the driver is back the kernel refuses it, so now or never: a second try finds the regions freed by the first.
		errs = errors.Join(errs, c.resize(h, c.FromBARs))
	}
	if err := c.comeHome(ctx, h); err != nil {
		return errors.Join(errs, err)
	}
	if c.From != c.FromOverride {
		errs = errors.Join(errs, h.SetPCIOverride(c.Address, c.FromOverride))
	}
	return errs
}

// comeHome has the driver before take the function again; where that does not work and the configuration allows it, the
// function is taken off the bus and found again.
func (c *PCIDriver) comeHome(ctx context.Context, h *Host) error {
	if c.From == "" {
		return nil
	}
	// Loading the modules may bind it already.
	if err := c.loadHostModules(ctx, h); err != nil {
		return fmt.Errorf("cannot bind %s to %s: %w", c.Address, c.From, err)
	}
	if driver, err := h.PCIDriver(c.Address); err != nil || driver == c.From {
		return err
	}
	err := c.probe(ctx, h, c.From)
	if err == nil || !c.Rescan || h.Stuck(c.Address) != "" {
		return err
	}
	h.Logf(Warning, "%v; taking it off the bus and looking for it again, as gpu.rescan says", err)
	for _, path := range []string{sysfs.PCIDevice(c.Address) + "/remove", sysfs.PCIBus + "/rescan"} {
		if err := c.slow(ctx, h, slowTimeout(""), SlowTask{SlowWrite, path, "1"}); err != nil {
			return err
		}
	}
	if !h.Exists(sysfs.PCIDevice(c.Address)) {
		return fmt.Errorf("%s did not come back when the bus was looked through; only a reboot helps", c.Address)
	}
	return c.waitDriver(ctx, h, c.From)
}

// loadModule brings the vfio driver, if need be, and learns its name: only a loaded module tells.
func (c *PCIDriver) loadModule(ctx context.Context, h *Host) error {
	if c.Module == "" || h.Exists(sysfs.PCIDriverAttr(c.To, "")) {
		return nil
	}
	if err := c.slow(ctx, h, slowTimeout(""), SlowTask{Op: SlowLoad, Path: c.Module}); err != nil {
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

// resize sets BARs to sizes, which the kernel does only while the function has no driver (resourceN_resize).
func (c *PCIDriver) resize(h *Host, bars []BARSize) error {
	var errs error
	for _, b := range bars {
		now, err := h.BARBytes(c.Address, b.BAR)
		if err == nil && now != b.Bytes {
			err = h.ResizeBAR(c.Address, b.BAR, b.Bytes)
		}
		errs = errors.Join(errs, err)
	}
	return errs
}

// setReset sets reset_method if it holds from, or anything on the way there.
func (c *PCIDriver) setReset(h *Host, from, to string) error {
	if c.Reset == "" {
		return nil
	}
	now, err := h.ResetMethod(c.Address)
	if err != nil || now == to || now != from {
		return err
	}
	return h.SetResetMethod(c.Address, to)
}

func (c *PCIDriver) unbind(ctx context.Context, h *Host, driver string) error {
	var nodes []sysfs.DeviceNode
	if driver != c.To {
		// The driver takes its nodes away before it waits for those who have them open.
		nodes, _ = h.DeviceNodes(c.Address)
	}
	err := c.slow(ctx, h, slowTimeout(driver), SlowTask{SlowWrite, sysfs.PCIDriverAttr(driver, "unbind"), c.Address}, nodes...)
	if errors.Is(err, syscall.ENODEV) {
		// It left by itself meanwhile.
		if now, derr := h.PCIDriver(c.Address); derr == nil && now == "" {
			return nil
		}
	}
	return err
}

// probe has the kernel probe the function for the driver that the override names.
func (c *PCIDriver) probe(ctx context.Context, h *Host, to string) error {
	if err := c.slow(ctx, h, slowTimeout(to), SlowTask{SlowWrite, sysfs.PCIBus + "/drivers_probe", c.Address}); err != nil {
		return err
	}
	return c.waitDriver(ctx, h, to)
}

// waitDriver waits for the function's driver: the probe reports success although nothing was bound, and some drivers
// bind later; the link is the proof.
func (c *PCIDriver) waitDriver(ctx context.Context, h *Host, to string) error {
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

// slow does what the kernel may never return from; nodes are the function's, of which users may be in the way.
func (c *PCIDriver) slow(ctx context.Context, h *Host, timeout time.Duration, t SlowTask, nodes ...sysfs.DeviceNode) error {
	return h.stuckAt(ctx, c.Address, nodes, h.slow(ctx, timeout, t))
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
