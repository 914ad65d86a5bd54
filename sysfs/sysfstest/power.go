package sysfstest

import (
	"path"
	"strings"
)

// port returns the bridge that a function lies behind, nil if that is the host itself.
func (h *Host) port(d *pciDevice) *pciDevice { return h.pci[path.Base(path.Dir(d.path))] }

// wake brings a function out of its sleep, and reports whether it is awake. Behind a port that sleeps it cannot wake.
func (h *Host) wake(d *pciDevice) bool {
	if !d.suspended {
		return true
	}
	if p := h.port(d); p != nil && p.suspended {
		return false
	}
	d.suspended, d.cold = false, false
	return true
}

// wakeHeld wakes a function that is held awake by power/control, and what behind it is held so too.
func (h *Host) wakeHeld(d *pciDevice) {
	if d.control != "on" || !h.wake(d) {
		return
	}
	for _, addr := range h.addresses() {
		if below := h.pci[addr]; below != d && path.Dir(below.path) == d.path && !below.gone {
			h.wakeHeld(below)
		}
	}
}

// readConfig is what a read of config gives: nothing drives the bus for a function in D3cold.
func (d *pciDevice) readConfig() string {
	c := d.config()
	if d.cold {
		return strings.Repeat("\xff", len(c))
	}
	return c
}
