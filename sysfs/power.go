package sysfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
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

// RestorePCIPower gives a function the settings it had, where they still are those that KeepPCIAwake made.
func (h FS) RestorePCIPower(address string, before PCIPower) error {
	now, err := h.PCIPower(address)
	if err == nil && before.D3Cold == "1" && now.D3Cold == "0" {
		err = h.Write(PCIDevice(address)+d3coldAttr, before.D3Cold)
	}
	if err == nil && before.Control == "auto" && now.Control == "on" {
		err = h.Write(PCIDevice(address)+controlAttr, before.Control)
	}
	return err
}

// WaitPCIAwake waits until a function that is being woken answers (power/runtime_status).
func (h FS) WaitPCIAwake(ctx context.Context, address string) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		status, err := h.Read(PCIDevice(address) + "/power/runtime_status")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if status != "suspended" && status != "suspending" && status != "resuming" {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot wake %s: its power/runtime_status stays %q; vfio-pci's disable_idle_d3=1 or a reboot may help", address, status)
		case <-time.After(pause):
		}
	}
	answers, err := h.PCIAnswers(address)
	if err == nil && !answers {
		err = fmt.Errorf("%s does not answer: its configuration space reads all ones; the card is off the bus or cannot wake, and as a rule only a reboot helps", address)
	}
	return err
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
	if !strings.Contains(parent, ":") || !strings.Contains(parent, ".") {
		return "", nil
	}
	return parent, nil
}
