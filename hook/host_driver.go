package hook

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
)

// leave takes the function from its driver.
func (c *PCIDriver) leave(ctx context.Context, h *Host, driver string) error {
	switch {
	case driver == "":
		return nil
	case c.Unload && driver == c.From:
		return c.unloadHostModules(ctx, h)
	}
	// Some drivers wait in their unbind, for ever, for the last user to go, and with others the users die: nobody must have
	// the function open when it begins, whatever was seen before the memory was taken.
	if err := c.proveUnused(ctx, h, driver); err != nil {
		return err
	}
	return c.unbind(ctx, h, driver)
}

// proveUnused looks who has the card open, again and again until gpu.deadline: a status bar that polls the card has it
// open only now and then.
func (c *PCIDriver) proveUnused(ctx context.Context, h *Host, driver string) error {
	ctx, cancel := context.WithTimeout(ctx, h.Config.GPU.Deadline)
	defer cancel()
	var last error
	err := poll(ctx, func() (bool, error) {
		users, unseen, err := h.SeenUsers(ctx, c.Address)
		if err != nil {
			return false, err
		}
		if unseen {
			return false, errors.New(Unseen(h.FormatPCI(c.Address)))
		}
		last = nil
		if len(users) > 0 {
			last = c.usedAgain(h, users)
			return false, nil
		}
		busy := false
		if driver == "nvidia" {
			busy, err = h.nvidiaBusy(c.Address)
		}
		if busy {
			last = fmt.Errorf("%s is in use, and no process has it open: something holds a buffer on it; close the programs that used it",
				h.FormatPCI(c.Address))
		}
		return !busy, err
	})
	switch late := errors.Is(err, context.DeadlineExceeded); {
	case late && last != nil:
		return last
	case late:
		return fmt.Errorf("cannot tell within gpu.deadline = %s who uses %s: the host is too busy to look; allow more time", h.Config.GPU.Deadline, h.FormatPCI(c.Address))
	}
	return err
}

func (c *PCIDriver) usedAgain(h *Host, users []User) error {
	return fmt.Errorf("%s is in use again and again: %s; stop it, or list it under gpu.terminate or services.stop",
		h.FormatPCI(c.Address), DescribeUsers(h.FS, users))
}

// unloadHostModules unloads the driver's modules, users first. The kernel refuses that as long as anybody uses one of
// them, and so proves the card unused; it is tried until gpu.deadline. What was unloaded comes back by Undo.
func (c *PCIDriver) unloadHostModules(ctx context.Context, h *Host) error {
	keep, err := h.DriverDevices(c.From)
	if err != nil {
		return err
	}
	for _, a := range keep {
		if o, err := h.PCIOverride(a); err != nil || o == "" || o == c.From {
			return errors.Join(fmt.Errorf("cannot unload %s: %s is on it as well, and is not the guest's", c.From, h.FormatPCI(a)), err)
		}
	}
	wait, cancel := context.WithTimeout(ctx, h.Config.GPU.Deadline)
	defer cancel()
	for _, m := range slices.Backward(c.HostModules) {
		var last error
		err := poll(wait, func() (bool, error) {
			if loaded, err := h.ModuleLoaded(m); err != nil || !loaded {
				return true, err
			}
			last = c.slow(ctx, h, slowTimeout(c.From), SlowTask{Op: SlowUnload, Path: m})
			if errors.Is(last, syscall.EAGAIN) || errors.Is(last, syscall.EBUSY) {
				return false, nil
			}
			return last == nil || errors.Is(last, fs.ErrNotExist), gone(last)
		})
		if errors.Is(err, context.DeadlineExceeded) {
			return c.inUse(ctx, h, m, last)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inUse says who uses a module that the kernel does not unload, as far as that can be seen.
func (c *PCIDriver) inUse(ctx context.Context, h *Host, module string, cause error) error {
	users, err := h.Users(ctx, c.Address)
	if err == nil && len(users) > 0 {
		return c.usedAgain(h, users)
	}
	s := fmt.Sprintf("cannot take %s from its driver: module %s is in use", h.FormatPCI(c.Address), module)
	if refs, err := h.ModuleRefs(module); err == nil {
		s += fmt.Sprintf(" (%d references)", refs)
	}
	if by, err := h.ModuleHolders(module); err == nil && len(by) > 0 {
		s += " by " + strings.Join(by, ", ")
	}
	return fmt.Errorf("%s and no process has it open: the console or another driver may have it: %w", s, cause)
}

// loadHostModules loads those modules of the driver before that are not there any more, whoever unloaded them.
func (c *PCIDriver) loadHostModules(ctx context.Context, h *Host) error {
	if h.Stopping(ctx) {
		return nil
	}
	var errs error
	for _, m := range c.HostModules {
		if loaded, err := h.ModuleLoaded(m); err != nil || loaded {
			errs = errors.Join(errs, err)
			continue
		}
		errs = errors.Join(errs, c.slow(ctx, h, slowTimeout(""), SlowTask{Op: SlowLoad, Path: m}))
	}
	return errs
}
