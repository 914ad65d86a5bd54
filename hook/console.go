package hook

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"syscall"

	"qemu-hook/sysfs"
)

// A ConsoleBaseline is what of the host's console was taken from the card that it is on: virtual terminals, and the frame
// buffer that the firmware left.
type ConsoleBaseline struct {
	// Consoles are the vtconsoles that were bound.
	Consoles []string `json:"consoles,omitempty"`
	// Framebuffers are the platform devices that had a driver.
	Framebuffers []sysfs.PlatformFramebuffer `json:"framebuffers,omitempty"`
}

// TakeConsole takes the host's console and the firmware's frame buffer off the card, as far as the guest claims that, and
// notes first what there was.
func (h *Host) TakeConsole(ctx context.Context, uuid string) error {
	g := h.Ledger.Guests[uuid]
	if g == nil || !g.Claim.Console && !g.Claim.Framebuffer {
		return nil
	}
	b := ConsoleBaseline{}
	if h.Ledger.Console != nil {
		b = *h.Ledger.Console
	}
	if g.Claim.Console && len(b.Consoles) == 0 {
		consoles, err := h.VTConsoles()
		if err != nil {
			return err
		}
		for _, c := range consoles {
			if c.Framebuffer && c.Bound {
				b.Consoles = append(b.Consoles, c.Name)
			}
		}
	}
	if g.Claim.Framebuffer && len(b.Framebuffers) == 0 {
		framebuffers, err := h.PlatformFramebuffers()
		if err != nil {
			return err
		}
		for _, f := range framebuffers {
			if f.Driver != "" {
				b.Framebuffers = append(b.Framebuffers, f)
			}
		}
	}
	if len(b.Consoles) == 0 && len(b.Framebuffers) == 0 {
		return nil
	}
	h.Ledger.Console = &b
	if err := h.SaveLedger(); err != nil {
		return err
	}
	if g.Claim.Console {
		for _, c := range b.Consoles {
			if err := h.bindConsole(ctx, c, "0"); err != nil {
				return err
			}
			h.Logf(Info, "%s: the console is taken off the frame buffer", c)
		}
	}
	if g.Claim.Framebuffer {
		for _, f := range b.Framebuffers {
			if err := gone(h.slow(ctx, slowTimeout(""), SlowTask{SlowWrite, f.DriverAttr("unbind"), f.Device})); err != nil {
				return err
			}
			h.Logf(Info, "%s: taken from its driver %s", f.Device, f.Driver)
		}
	}
	return nil
}

// bindConsole binds a console driver or takes it off the virtual terminals. The kernel may hold the console for long.
func (h *Host) bindConsole(ctx context.Context, name, value string) error {
	return h.slow(ctx, slowTimeout(""), SlowTask{SlowWrite, sysfs.VTConsoleBind(name), value})
}

// SettleConsole gives back what no guest claims: the firmware's frame buffer, as far as the kernel still has it, then the
// virtual terminals.
func (h *Host) SettleConsole(ctx context.Context) error {
	b := h.Ledger.Console
	if b == nil {
		return nil
	}
	claims := h.Ledger.Claims("")
	var errs error
	if !claims.Framebuffer {
		var err error
		for _, f := range b.Framebuffers {
			err = errors.Join(err, h.giveFramebufferBack(ctx, f))
		}
		if errs = err; err == nil {
			b.Framebuffers = nil
		}
	}
	if !claims.Console {
		var err error
		for _, c := range b.Consoles {
			err = errors.Join(err, gone(h.giveConsoleBack(ctx, c, b)))
		}
		if errs = errors.Join(errs, err); err == nil {
			b.Consoles = nil
		}
	}
	if len(b.Framebuffers) == 0 && len(b.Consoles) == 0 {
		h.Ledger.Console = nil
	}
	return errors.Join(errs, h.SaveLedger())
}

// giveConsoleBack binds a console driver again. The kernel takes the write for done and does nothing where no driver is left
// that was built for the boot (vt_bind in drivers/tty/vt/vt.c): then the one that stands in has to be unbound, upon which the
// kernel takes the other.
func (h *Host) giveConsoleBack(ctx context.Context, name string, b *ConsoleBaseline) error {
	if err := h.bindConsole(ctx, name, "1"); err != nil {
		return err
	}
	consoles, err := h.VTConsoles()
	if err != nil || slices.ContainsFunc(consoles, func(c sysfs.VTConsole) bool { return c.Name == name && c.Bound }) {
		return err
	}
	for _, c := range consoles {
		if c.Bound && !slices.Contains(b.Consoles, c.Name) {
			if err := h.bindConsole(ctx, c.Name, "0"); err != nil {
				return err
			}
		}
	}
	return nil
}

// giveFramebufferBack has the driver of the firmware's frame buffer take it again. Once a driver for the card itself has had
// the card, its device is gone or refuses: that is as it should be.
func (h *Host) giveFramebufferBack(ctx context.Context, f sysfs.PlatformFramebuffer) error {
	if now, err := h.LinkBase(f.DeviceAttr("driver")); err != nil || now != "" {
		return err
	}
	err := gone(h.slow(ctx, slowTimeout(""), SlowTask{SlowWrite, f.DriverAttr("bind"), f.Device}))
	if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EINVAL) {
		h.Logf(Warning, "the firmware's frame buffer does not come back, as is usual once a driver has had the card: %v", err)
		return nil
	}
	return err
}

// gone takes what is not there any more for done.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return err
}
