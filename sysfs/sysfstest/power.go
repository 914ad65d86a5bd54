package sysfstest

import (
	"path"
	"strings"
)

// port returns the bridge that a function lies behind, nil if that is the host itself.
func (h *Host) port(d *pciDevice) *pciDevice { return h.pci[path.Base(path.Dir(d.path))] }

// behind returns the functions that are on the bus behind a port.
func (h *Host) behind(d *pciDevice) (below []*pciDevice) {
	for _, addr := range h.addresses() {
		if o := h.pci[addr]; o != d && h.port(o) == d && !o.gone {
			below = append(below, o)
		}
	}
	return below
}

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
	for _, below := range h.behind(d) {
		h.wakeHeld(below)
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
