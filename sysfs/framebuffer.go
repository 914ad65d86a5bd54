package sysfs

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A PlatformFramebuffer is a device that stands for the frame buffer that the firmware left: efi-framebuffer.0,
// simple-framebuffer.0, vesa-framebuffer.0 (drivers/firmware/sysfb.c). Since Linux 6.9 its directory lies below the card's.
type PlatformFramebuffer struct {
	Device string `json:"device"`
	Driver string `json:"driver"` // "" if none
}

const platformBus = "/sys/bus/platform"

// DriverAttr returns a file of the device's driver.
func (f PlatformFramebuffer) DriverAttr(attr string) string {
	return path.Join(platformBus, "drivers", f.Driver, attr)
}

// DeviceAttr returns a file of the device.
func (f PlatformFramebuffer) DeviceAttr(attr string) string {
	return path.Join(platformBus, "devices", f.Device, attr)
}

// PlatformFramebuffers returns the firmware's frame buffers.
func (h FS) PlatformFramebuffers() ([]PlatformFramebuffer, error) {
	const dir = platformBus + "/devices"
	names, err := h.ListIfAny(dir)
	if err != nil {
		return nil, err
	}
	var all []PlatformFramebuffer
	for _, name := range names {
		if base, _, ok := strings.Cut(name, "."); !ok || !strings.HasSuffix(base, "-framebuffer") {
			continue
		}
		driver, err := h.LinkBase(dir + "/" + name + "/driver")
		if err != nil {
			return nil, err
		}
		all = append(all, PlatformFramebuffer{name, driver})
	}
	return all, nil
}

// A VTConsole is a driver for the host's virtual terminals (Documentation/fb/fbcon.rst).
type VTConsole struct {
	Name        string // vtcon1
	Framebuffer bool   // draws on a frame buffer
	Bound       bool
}

const vtconsoles = "/sys/class/vtconsole"

// VTConsoles returns the console drivers.
func (h FS) VTConsoles() ([]VTConsole, error) {
	names, err := h.ListIfAny(vtconsoles)
	if err != nil {
		return nil, err
	}
	var all []VTConsole
	for _, name := range names {
		text, err := h.Read(path.Join(vtconsoles, name, "name"))
		if err != nil {
			return nil, err
		}
		bound, err := h.Read(path.Join(vtconsoles, name, "bind"))
		if err != nil {
			return nil, err
		}
		all = append(all, VTConsole{name, strings.Contains(text, "frame buffer"), bound == "1"})
	}
	return all, nil
}

// VTConsoleBind returns the file that binds a console driver to the virtual terminals ("1") or takes it off them ("0").
func VTConsoleBind(name string) string { return path.Join(vtconsoles, name, "bind") }

// BootFramebuffers returns what else than the function's own driver has memory inside the function's regions, by the names
// that /proc/iomem has: "BOOTFB", "efifb", "simple-framebuffer.0".
func (h FS) BootFramebuffers(address string) ([]string, error) {
	const name = "/proc/iomem"
	v, err := h.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, &Error{Op: "read", Path: name, Err: err}
	}
	regions, err := h.regions(address)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // then the table's own lines for the function have to do
	}
	own := slices.DeleteFunc(regions[:min(bars, len(regions))], func(r region) bool { return !r.memory() })
	return foreignMemory(string(v), address, own), err
}

// foreignMemory goes by the numbers, and by the indentation of /proc/iomem: what stands below a function's line lies in
// that region. The numbers are all 0 for whoever may not see addresses.
func foreignMemory(iomem, address string, own []region) []string {
	var found []string
	inside := -1 // the indentation of the function's line that we are below
	for line := range strings.Lines(iomem) {
		indent := len(line) - len(strings.TrimLeft(line, " "))
		where, owner, ok := strings.Cut(strings.TrimSpace(line), " : ")
		if !ok {
			continue
		}
		if inside >= 0 && indent <= inside {
			inside = -1
		}
		switch {
		case owner == address:
			if inside < 0 {
				inside = indent
			}
		case isBootFramebuffer(owner) && (inside >= 0 || liesIn(where, own)):
			found = append(found, owner)
		}
	}
	return found
}

func liesIn(where string, regions []region) bool {
	from, to, _ := strings.Cut(where, "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	return err1 == nil && err2 == nil && slices.ContainsFunc(regions, func(r region) bool {
		return r.start <= start && end <= r.end
	})
}

// isBootFramebuffer knows the names under which the memory is taken: the kernel's own, those of the drivers, and those of
// the platform devices.
func isBootFramebuffer(owner string) bool {
	base, _, _ := strings.Cut(owner, ".")
	switch base {
	case "BOOTFB", "efifb", "vesafb", "vga16fb", "simplefb", "simpledrm", "efidrm", "vesadrm":
		return true
	}
	return strings.HasSuffix(base, "-framebuffer")
}

// OwnsConsole reports whether the host's console is on the function: it is the card whose frame buffer the kernel draws the
// console on. That is the one that the firmware started (boot_vga), as far as it has a frame buffer ("primary device" of
// drivers/video/fbdev/core/fbcon.c), else the first there is, which may be the one that the firmware left in a card's memory.
// With no frame buffer at all it is the card that the firmware started.
func (h FS) OwnsConsole(address string) (bool, error) {
	boot, err := h.bootVGA(address)
	if err != nil {
		return false, err
	}
	const dir = "/sys/class/graphics"
	names, err := h.ListIfAny(dir)
	if err != nil {
		return false, err
	}
	first, own, primary := "", false, false
	for _, name := range names {
		if !strings.HasPrefix(name, "fb") || name == "fbcon" {
			continue
		}
		target, err := h.Readlink(dir + "/" + name)
		if err != nil {
			continue // it goes at this moment
		}
		card := functionIn(target)
		if first == "" {
			first = target
		}
		own = own || card == address
		if b, err := h.bootVGA(card); err == nil && b {
			primary = true
		}
	}
	switch card := functionIn(first); {
	case first == "":
		return boot, nil
	case primary:
		return boot && own, nil
	case card != "":
		return card == address, nil
	}
	left, err := h.BootFramebuffers(address)
	return len(left) > 0, err
}

func (h FS) bootVGA(address string) (bool, error) {
	if address == "" {
		return false, nil
	}
	v, err := h.ReadIfAny(PCIDevice(address) + "/boot_vga")
	return v == "1", err
}
