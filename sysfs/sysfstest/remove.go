package sysfstest

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
)

// removeFunction is pci_stop_and_remove_bus_device: the function goes with all that lies behind it.
func (h *Host) removeFunction(d *pciDevice) error {
	for _, below := range h.behind(d) {
		if err := h.removeFunction(below); err != nil {
			return err
		}
	}
	err := h.locked(d, func() error {
		if err := h.release(d, true); err != nil {
			return err
		}
		h.takeFunction(d)
		return nil
	})
	if d.gone {
		return nil // perhaps somebody was faster
	}
	return err
}

// takeFunction takes the files of a function away that has no driver.
func (h *Host) takeFunction(d *pciDevice) {
	d.gone = true
	names := []absent{{name: pciBus + "/devices/" + d.addr}, {name: d.path}}
	if d.group != "" {
		names = append(names, absent{name: iommuGroups + "/" + d.group + "/devices/" + d.addr})
	}
	d.away = h.takeOut(names)
}

// rescan finds the functions that are on the bus and not known; they are as after a reset, and offered to the drivers.
func (h *Host) rescan() {
	for _, addr := range h.addresses() {
		d := h.pci[addr]
		if port := h.port(d); d.gone && !d.dead && !d.isVF() && (port == nil || !port.gone) {
			h.bringFunction(d)
		}
	}
}

func (d *pciDevice) isVF() bool { return d.physfn != "" }

func (h *Host) bringFunction(d *pciDevice) {
	h.bringIn(d.away)
	d.gone, d.away = false, nil
	d.override, d.control, d.d3cold = "", d.control0, "1"
	d.suspended, d.cold = false, false
	if h.autoprobe {
		h.attach(d)
	}
}

// FallOff takes a card off the bus, as one goes that has died: of one address, or with all functions of a slot if the
// address has none. No rescan finds it.
func (h *Host) FallOff(addr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range h.addresses() {
		d := h.pci[a]
		if a != addr && !strings.HasPrefix(a, addr+".") || d.gone {
			continue
		}
		_ = h.release(d, false)
		h.takeFunction(d)
		d.dead, d.unwedged = true, true // whoever waits for its users goes on
	}
	h.stir()
}

// addVFs makes the files of a function that has virtual ones, num of which are enabled.
func (h *Host) addVFs(d *pciDevice, num int) error {
	addr := d.addr
	for i, a := range d.vfs {
		vf := h.pci[a]
		if vf == nil {
			return fmt.Errorf("%s: its virtual function %s is not there", addr, a)
		}
		vf.physfn = addr
		h.link(d.path+"/virtfn"+strconv.Itoa(i), vf.path)
		h.link(vf.path+"/physfn", d.path)
	}
	d.numVFs = len(d.vfs)
	h.value(d.path+"/sriov_totalvfs", strconv.Itoa(max(num, len(d.vfs))))
	h.rule(d.path+"/sriov_numvfs", &attr{
		show: func(h *Host) (string, error) { return strconv.Itoa(h.pci[addr].numVFs) + "\n", nil },
		store: func(h *Host, v string) error {
			d := h.pci[addr]
			n, err := parseUint(v)
			if err != nil {
				return syscall.EINVAL
			}
			return h.locked(d, func() error {
				switch {
				case int(n) == d.numVFs:
					return nil
				case int(n) > len(d.vfs):
					return syscall.ERANGE
				case d.driver == "":
					return syscall.ENOENT
				case n > 0 && d.numVFs > 0:
					return syscall.EBUSY
				}
				h.setVFs(d, int(n))
				return nil
			})
		},
	})
	h.setVFs(d, num)
	return nil
}

// setVFs enables that many of a function's virtual functions.
func (h *Host) setVFs(d *pciDevice, n int) {
	for i, a := range d.vfs {
		vf, link := h.pci[a], d.path+"/virtfn"+strconv.Itoa(i)
		switch {
		case i < n && vf.gone:
			h.bringFunction(vf)
			h.link(link, vf.path)
		case i >= n && !vf.gone:
			_ = h.release(vf, false)
			h.takeFunction(vf)
			h.erase(link)
		}
	}
	d.numVFs = min(n, len(d.vfs))
}
