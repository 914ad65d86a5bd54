package sysfstest

import (
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// stir has those who wait look again.
func (h *Host) stir() { h.cond.Broadcast() }

// await waits until ready says yes; the host goes on meanwhile. The end of the host, by Close, ends the wait too. Only
// somebody who makes a change, or reads, may call it, with the host's lock held.
func (h *Host) await(ready func() bool) error {
	for was := h.ends; h.ends == was; h.cond.Wait() {
		if ready() {
			return nil
		}
	}
	return syscall.EINTR
}

// locked does something with the device's lock held, device_lock: whoever has it is alone with the device. One that went
// meanwhile is not there any more.
func (h *Host) locked(d *pciDevice, do func() error) error {
	if err := h.await(func() bool { return !d.locked }); err != nil {
		return err
	}
	d.locked = true
	defer func() {
		d.locked = false
		h.stir()
	}()
	if d.gone {
		return syscall.ENODEV
	}
	return do()
}

// release is __device_release_driver, with the device's lock held. The links go first. NVIDIA's driver waits with all it
// has until nobody uses the card, if patient; a sound card's driver, and whoever has an i2c adapter, takes the nodes away
// and then waits for those who have them open.
func (h *Host) release(d *pciDevice, patient bool) error {
	if d.driver == "" {
		return nil
	}
	h.erase(d.path + "/driver")
	h.erase(pciBus + "/drivers/" + d.driver + "/" + d.addr)
	if patient && d.driver == "nvidia" {
		if err := h.await(func() bool { return d.unwedged || !h.usesCard(d) }); err != nil {
			return err
		}
	}
	if d.driver == d.home {
		sound := h.devices(&d.own, "sound")
		h.showNodes(d, false)
		h.closeSound(sound)
		kinds := []string{"i2c"}
		if d.driver == "snd_hda_intel" {
			kinds = append(kinds, "sound")
		}
		free := func() bool { return !patient || d.unwedged || h.openersOf(&d.own, kinds...) == 0 }
		if err := h.await(free); err != nil {
			return err
		}
	}
	h.freeIRQs(d)
	d.driver, d.unwedged, d.persistence = "", false, false
	if d.vfio >= 0 {
		h.removeVFIO(d)
		if h.kernel.vfioPM {
			d.control = "on" // vfio_pci_core_unregister_device
		}
	}
	h.setVFs(d, 0)
	return nil
}

// Unwedge has an unbind that waits in a driver go on, whoever uses the function.
func (h *Host) Unwedge(addr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pci[addr].unwedged = true
	h.stir()
}

// showNodes has the nodes there that the function's driver makes, if it has the function, and no others.
func (h *Host) showNodes(d *pciDevice, bound bool) {
	drm := h.modules[nvidiaDRM]
	for _, s := range []struct {
		set  *nodeSet
		want bool
	}{{&d.own, bound}, {&d.drm, bound && drm != nil && drm.loaded}} {
		if s.want {
			h.show(s.set)
		} else {
			h.hide(s.set)
		}
	}
	h.reopen()
}

// drmChanged has the DRM nodes of NVIDIA's cards come and go with their module.
func (h *Host) drmChanged() {
	for _, addr := range h.addresses() {
		if d := h.pci[addr]; len(d.drm.nodes) > 0 {
			h.showNodes(d, d.driver != "" && d.driver == d.home)
		}
	}
}

// nvidiaDRM is the module that makes the DRM nodes of cards that NVIDIA's driver has.
const nvidiaDRM = "nvidia_drm"

// usesCard reports whether NVIDIA's driver counts a card as in use: by an open file of its own node, by persistence mode,
// or by nvidia_drm, which takes every card for itself if modeset is on. Some versions have it let go before they count.
func (h *Host) usesCard(d *pciDevice) bool {
	if d.persistence || d.minor >= 0 && h.openers(func(r uint64) bool { return r == mkdev(nvidiaMajor, uint32(d.minor)) }) > 0 {
		return true
	}
	drm, driver := h.modules[nvidiaDRM], h.modules["nvidia"]
	known := d.minor >= 0 || len(d.drm.nodes) > 0
	if !known || d.class>>16 != 3 || drm == nil || !drm.loaded || driver == nil {
		return false
	}
	on := slices.ContainsFunc(drm.params, func(p string) bool { return p == "modeset=Y" || p == "modeset=1" })
	return on && !h.dropsModeset(driver.version)
}

// dropsModeset goes by the host file's list of versions, or without one by what is known of the branches from 590 on.
func (h *Host) dropsModeset(version string) bool {
	if h.kernel.dropsModeset != nil {
		return slices.Contains(h.kernel.dropsModeset, version)
	}
	branch, _, _ := strings.Cut(version, ".")
	const firstThatDrops = 590
	n, err := strconv.Atoi(branch)
	return err == nil && n >= firstThatDrops
}

// fileRefs counts the references that a module has from open device nodes.
func (h *Host) fileRefs(m *module) int {
	if !h.hasNodes() {
		return 0
	}
	n := 0
	for _, d := range h.pci {
		if drv := h.bootDriver(d); drv == m.name {
			n += h.openersOf(&d.own, "drm", "sound", "i2c", "fb")
		}
	}
	switch m.name {
	case "nvidia":
		n += h.openers(func(r uint64) bool { return r>>8&0xfff == nvidiaMajor })
	case "nvidia_modeset":
		n += h.openers(func(r uint64) bool { return r == mkdev(nvidiaMajor, 254) })
	case "nvidia_uvm":
		if uvm := h.find("/dev/nvidia-uvm"); uvm != noNode {
			major := h.inodes[uvm].rdev >> 8 & 0xfff
			n += h.openers(func(r uint64) bool { return r>>8&0xfff == major })
		}
	case nvidiaDRM:
		for _, d := range h.pci {
			n += h.openersOf(&d.drm, "drm", "fb")
		}
	case "amdgpu":
		n += h.openers(func(r uint64) bool { return r == mkdev(kfdMajor, 0) })
	}
	return n
}

// bootDriver is the module of the driver that a function had at boot.
func (h *Host) bootDriver(d *pciDevice) string {
	for _, m := range h.modules {
		if d.home != "" && m.driver == d.home {
			return m.name
		}
	}
	return ""
}

// hasNodes reports whether the host file says which nodes belong to which function.
func (h *Host) hasNodes() bool {
	for _, d := range h.pci {
		if len(d.own.nodes)+len(d.drm.nodes) > 0 {
			return true
		}
	}
	return false
}
