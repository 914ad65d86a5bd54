package hook

import (
	"fmt"
	"slices"
	"strings"

	"qemu-hook/sysfs"
)

// LitConnectors returns the connectors of display functions that show something: those of the functions given, and those
// of all others (drm/cardN/cardN-NAME/status and enabled).
func (h *Host) LitConnectors(addresses []string) (own, elsewhere []string, err error) {
	all, err := h.ReadDir(sysfs.PCIBus + "/devices")
	if err != nil {
		return nil, nil, &sysfs.Error{Op: "list", Path: sysfs.PCIBus + "/devices", Err: err}
	}
	for _, a := range all {
		lit, err := h.litConnectors(a)
		if err != nil {
			return nil, nil, err
		}
		if slices.Contains(addresses, a) {
			own = append(own, lit...)
		} else {
			elsewhere = append(elsewhere, lit...)
		}
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

// OwnsConsole reports whether the host's console is on the function: the first frame buffer is its own, or one that the
// firmware left in its memory. With no frame buffer at all it is the card that the firmware started.
func (h *Host) OwnsConsole(address string) (bool, error) {
	left, err := h.BootFramebuffers(address)
	if err != nil || len(left) > 0 {
		return len(left) > 0, err
	}
	const first = "/sys/class/graphics/fb0"
	if h.Exists(first) {
		target, err := h.Readlink(first)
		if err != nil {
			return false, &sysfs.Error{Op: "read link", Path: first, Err: err}
		}
		return strings.Contains(target, "/"+address+"/"), nil
	}
	name := sysfs.PCIDevice(address) + "/boot_vga"
	if !h.Exists(name) {
		return false, nil
	}
	v, err := h.Read(name)
	return v == "1", err
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
