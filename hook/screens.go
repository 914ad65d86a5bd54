package hook

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"qemu-hook/sysfs"
)

// LitConnectors returns the connectors of functions that show something (drm/cardN/cardN-NAME/status and enabled), and if
// there are some, those of all other functions.
func (h *Host) LitConnectors(addresses []string) (own, elsewhere []string, err error) {
	for _, a := range addresses {
		lit, err := h.litConnectors(a)
		if err != nil {
			return nil, nil, err
		}
		own = append(own, lit...)
	}
	if len(own) == 0 {
		return nil, nil, nil
	}
	all, err := h.List(sysfs.PCIBus + "/devices")
	if err != nil {
		return nil, nil, err
	}
	for _, a := range all {
		if slices.Contains(addresses, a) {
			continue
		}
		lit, err := h.litConnectors(a)
		if err != nil {
			return nil, nil, err
		}
		elsewhere = append(elsewhere, lit...)
	}
	return own, elsewhere, nil
}

func (h *Host) litConnectors(address string) (lit []string, err error) {
	drm := sysfs.PCIDevice(address) + "/drm"
	cards, err := h.ReadDir(drm)
	if err != nil {
		return nil, nil //nolint:nilerr // no display, or it goes at this moment
	}
	for _, card := range cards {
		if !strings.HasPrefix(card, "card") {
			continue
		}
		names, err := h.List(drm + "/" + card)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if !strings.HasPrefix(name, card+"-") {
				continue
			}
			status, err1 := h.Read(drm + "/" + card + "/" + name + "/status")
			enabled, err2 := h.Read(drm + "/" + card + "/" + name + "/enabled")
			if err1 == nil && err2 == nil && status == "connected" && enabled == "enabled" {
				lit = append(lit, name)
			}
		}
	}
	return lit, nil
}

// OwnsConsole reports whether the host's console is on the function: it is the card whose frame buffer the kernel draws the
// console on. That is the one that the firmware started (boot_vga), as far as it has a frame buffer ("primary device" of
// drivers/video/fbdev/core/fbcon.c), else the first there is, which may be the one that the firmware left in a card's memory.
// With no frame buffer at all it is the card that the firmware started.
func (h *Host) OwnsConsole(address string) (bool, error) {
	boot, err := h.bootVGA(address)
	if err != nil {
		return false, err
	}
	const dir = "/sys/class/graphics"
	names, err := h.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, &sysfs.Error{Op: "list", Path: dir, Err: err}
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

func (h *Host) bootVGA(address string) (bool, error) {
	name := sysfs.PCIDevice(address) + "/boot_vga"
	if address == "" || !h.Exists(name) {
		return false, nil
	}
	v, err := h.Read(name)
	return v == "1", err
}

// functionIn returns the innermost PCI function on a path in sysfs, "" if there is none.
func functionIn(name string) string {
	function := ""
	for part := range strings.SplitSeq(name, "/") {
		if len(part) >= 12 && strings.Count(part, ":") == 2 && strings.Contains(part, ".") {
			function = part
		}
	}
	return function
}

// NVIDIAHoldsItself reports whether NVIDIA's driver counts itself as a user of every card: with nvidia_drm's modeset on, and
// a version that does not let go of a single card that is unbound.
func (h *Host) NVIDIAHoldsItself() (holds bool, why string, err error) {
	const parameter = "/sys/module/nvidia_drm/parameters/modeset"
	if !h.Exists(parameter) {
		return false, "", nil
	}
	v, err := h.Read(parameter)
	if err != nil || v != "Y" {
		return false, "", err
	}
	version, err := h.Read("/sys/module/nvidia/version")
	if err != nil {
		version = "of an unknown version"
	}
	if dropsModesetCount(version) {
		return false, "", nil
	}
	return true, fmt.Sprintf("with modeset on, nvidia_drm %s uses every card itself and does not let go of one", version), nil
}
