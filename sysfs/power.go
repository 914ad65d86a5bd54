package sysfs

import (
	"errors"
	"io/fs"
	"path"
)

// PCIPower is how a PCI function's runtime power management is set: power/control and d3cold_allowed
// (Documentation/ABI/testing/sysfs-devices-power, Documentation/ABI/testing/sysfs-bus-pci).
type PCIPower struct {
	Control string `json:"control,omitempty"` // "on" or "auto"; "" where the kernel has none
	D3Cold  string `json:"d3cold,omitempty"`  // "0" or "1"; "" where the kernel has none
}

// Awake reports whether the function cannot fall asleep.
func (p PCIPower) Awake() bool { return p.Control != "auto" && p.D3Cold != "1" }

// PCIPower reads a function's settings.
func (h FS) PCIPower(address string) (PCIPower, error) {
	var p PCIPower
	for _, a := range []struct {
		name string
		to   *string
	}{{controlAttr, &p.Control}, {d3coldAttr, &p.D3Cold}} {
		v, err := h.Read(PCIDevice(address) + a.name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return p, err
		}
		*a.to = v
	}
	return p, nil
}

const (
	controlAttr = "/power/control"
	d3coldAttr  = "/d3cold_allowed"
)

// KeepPCIAwake wakes a function and keeps it awake.
func (h FS) KeepPCIAwake(address string) error {
	now, err := h.PCIPower(address)
	if err == nil && now.D3Cold == "1" {
		err = h.Write(PCIDevice(address)+d3coldAttr, "0")
	}
	if err == nil && now.Control == "auto" {
		err = h.Write(PCIDevice(address)+controlAttr, "on")
	}
	return err
}

// RestorePCIPower gives a function the settings it had, where they still are those that KeepPCIAwake made. One that is not
// there any more is nobody's loss, and keeps no other.
func (h FS) RestorePCIPower(address string, before PCIPower) error {
	now, err := h.PCIPower(address)
	if err != nil {
		return err
	}
	write := func(attr, value string) {
		if werr := h.Write(PCIDevice(address)+attr, value); !errors.Is(werr, fs.ErrNotExist) {
			err = errors.Join(err, werr)
		}
	}
	if before.D3Cold == "1" && now.D3Cold == "0" {
		write(d3coldAttr, before.D3Cold)
	}
	if before.Control == "auto" && now.Control == "on" {
		write(controlAttr, before.Control)
	}
	return err
}

// PCIRuntimeStatus returns what the function's runtime power management has it do, "active" or "suspended" say, "" if there is
// none (power/runtime_status, Documentation/ABI/testing/sysfs-devices-power).
func (h FS) PCIRuntimeStatus(address string) (string, error) {
	status, err := h.Read(PCIDevice(address) + "/power/runtime_status")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return status, err
}

// PCIAnswers reports whether the function's configuration space can be read: a device that is gone, or sleeps in
// D3cold, reads all ones.
func (h FS) PCIAnswers(address string) (bool, error) {
	name := PCIDevice(address) + "/config"
	b, err := h.ReadFile(name)
	if err != nil {
		return false, &Error{Op: "read", Path: name, Err: err}
	}
	return len(b) < 2 || b[0] != 0xff || b[1] != 0xff, nil
}

// PCIPort returns the address of the port or bridge that the function lies behind, "" if that is the host itself.
func (h FS) PCIPort(address string) (string, error) {
	target, err := h.Readlink(PCIDevice(address))
	if err != nil {
		return "", &Error{Op: "read link", Path: PCIDevice(address), Err: err}
	}
	parent := path.Base(path.Dir(target))
	if !isPCIAddress(parent) {
		return "", nil
	}
	return parent, nil
}
