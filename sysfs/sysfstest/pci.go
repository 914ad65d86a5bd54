package sysfstest

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	pciBus      = "/sys/bus/pci"
	iommuGroups = "/sys/kernel/iommu_groups"
	vfioDir     = "/dev/vfio"
	vfioMajor   = 240 // of group nodes: dynamically allocated, this is where it usually lands
)

// pciDevice is a PCI function.
type pciDevice struct {
	addr, path       string // path is below /sys/devices
	vendor, device   uint32
	subVendor, subID uint32
	class            uint32 // base class, subclass, interface
	revision         uint32
	numa             int
	group            string // of the IOMMU; "" if it is off
	bootVGA          string // "0", "1", or "" for what is no VGA device
	reset            string // reset_method
	driver, override string
	vfio             int // number of its vfio device, -1 if none
	control          string
	d3cold           string
	suspended        bool
	cold             bool    // it sleeps so deeply that its registers cannot be read
	home             string  // driver at boot: as long as it has the function, the nodes are there
	own, drm         nodeSet // drm are those that a module beside the driver's makes
	minor            int     // of NVIDIA's node, -1 if none
	persistence      bool    // the driver keeps the card in use though nobody has it open
	bars             []bar
	locked           bool     // somebody has the device's lock
	unwedged         bool     // its unbind waits for nobody
	gone, dead       bool     // removed from the bus; not found again
	away             []absent // what of sysfs went with it
	control0         string   // power/control at boot
	vfs              []string // virtual functions
	irqs             []ownIRQ // of the driver that the host has for it
	numVFs           int
	physfn           string // of a virtual function
}

// pciDriver is a registered PCI driver.
type pciDriver struct {
	name, module string
	vfio         bool     // gives functions to user space: needs an IOMMU group, makes the group's node
	ids          []string // added by new_id: "10de:2684"
}

func (d *pciDevice) modalias() string {
	return fmt.Sprintf("pci:v%08Xd%08Xsv%08Xsd%08Xbc%02Xsc%02Xi%02X",
		d.vendor, d.device, d.subVendor, d.subID, d.class>>16, d.class>>8&0xff, d.class&0xff)
}

func (d *pciDevice) id() string { return fmt.Sprintf("%04x:%04x", d.vendor, d.device) }

// addPCI makes the files of a function; d.driver is the driver it is to be bound to.
func (h *Host) addPCI(d *pciDevice) {
	d.vfio = -1
	h.pci[d.addr] = d
	addr := d.addr
	own := func(f func(d *pciDevice) string) *attr {
		return &attr{show: func(h *Host) (string, error) { return f(h.pci[addr]) + "\n", nil }}
	}
	h.link(pciBus+"/devices/"+addr, d.path)
	h.link(d.path+"/subsystem", pciBus)
	h.value(d.path+"/vendor", fmt.Sprintf("0x%04x", d.vendor))
	h.value(d.path+"/device", fmt.Sprintf("0x%04x", d.device))
	h.value(d.path+"/subsystem_vendor", fmt.Sprintf("0x%04x", d.subVendor))
	h.value(d.path+"/subsystem_device", fmt.Sprintf("0x%04x", d.subID))
	h.value(d.path+"/class", fmt.Sprintf("0x%06x", d.class))
	h.value(d.path+"/revision", fmt.Sprintf("0x%02x", d.revision))
	h.value(d.path+"/modalias", d.modalias())
	h.text(d.path+"/numa_node", 0o644, strconv.Itoa(d.numa)+"\n")
	h.rule(d.path+"/local_cpulist", &attr{show: func(h *Host) (string, error) {
		return h.nodeCPUs(h.pci[addr].numa).String() + "\n", nil
	}})
	h.rule(d.path+"/uevent", own((*pciDevice).uevent))
	h.rule(d.path+"/config", &attr{
		show:  func(h *Host) (string, error) { return h.pci[addr].readConfig(), nil },
		store: func(*Host, string) error { return nil },
		noise: true, // as it sleeps and wakes
	})
	h.value(d.path+"/irq", "0")
	h.text(d.path+"/enable", 0o644, "1\n")
	if d.bootVGA != "" {
		h.value(d.path+"/boot_vga", d.bootVGA)
	}
	override := own(func(d *pciDevice) string {
		if d.override == "" {
			return "(null)"
		}
		return d.override
	})
	locked := func(store func(h *Host, d *pciDevice, v string) error) func(*Host, string) error {
		return func(h *Host, v string) error {
			d := h.pci[addr]
			return h.locked(d, func() error { return store(h, d, v) })
		}
	}
	override.store = locked(func(_ *Host, d *pciDevice, v string) error { return d.setOverride(v) })
	override.wait = func(h *Host) error { return h.await(func() bool { return !h.pci[addr].locked }) }
	h.rule(d.path+"/driver_override", override)

	control := own(func(d *pciDevice) string { return d.control })
	control.store = locked(func(h *Host, d *pciDevice, v string) error {
		switch v = strings.TrimSuffix(v, "\n"); v {
		case "on", "auto":
			d.control = v
			h.wakeHeld(d)
			return nil
		}
		return syscall.EINVAL
	})
	h.rule(d.path+"/power/control", control)
	status := own(func(d *pciDevice) string {
		if d.suspended {
			return "suspended"
		}
		return "active"
	})
	// An idle device falls asleep again by itself, some time after its driver came.
	status.noise = true
	h.rule(d.path+"/power/runtime_status", status)
	d3cold := own(func(d *pciDevice) string { return d.d3cold })
	d3cold.store = func(h *Host, v string) error {
		n, err := parseUint(v)
		if err != nil {
			return syscall.EINVAL
		}
		h.pci[addr].d3cold = strconv.Itoa(min(int(n), 1))
		return nil
	}
	h.rule(d.path+"/d3cold_allowed", d3cold)
	h.addBARs(d)
	h.rule(d.path+"/remove", &attr{store: func(h *Host, v string) error {
		if n, err := parseUint(v); err != nil {
			return syscall.EINVAL
		} else if n == 0 {
			return nil
		}
		return h.removeFunction(h.pci[addr])
	}})
	if d.reset != "" {
		h.addReset(d, locked(func(*Host, *pciDevice, string) error { return nil }))
	}
	if d.group != "" {
		group := iommuGroups + "/" + d.group
		h.link(d.path+"/iommu_group", group)
		h.link(group+"/devices/"+addr, d.path)
		h.text(group+"/type", 0o644, "DMA-FQ\n")
	}
}

func (d *pciDevice) uevent() string {
	var b strings.Builder
	if d.driver != "" {
		fmt.Fprintf(&b, "DRIVER=%s\n", d.driver)
	}
	fmt.Fprintf(&b, "PCI_CLASS=%X\nPCI_ID=%04X:%04X\nPCI_SUBSYS_ID=%04X:%04X\nPCI_SLOT_NAME=%s\nMODALIAS=%s",
		d.class, d.vendor, d.device, d.subVendor, d.subID, d.addr, d.modalias())
	return b.String()
}

// config is the header of the function's configuration space.
func (d *pciDevice) config() string {
	b := make([]byte, 64)
	le := func(at int, v uint32, n int) {
		for i := range n {
			b[at+i] = byte(v >> (8 * i))
		}
	}
	le(0, d.vendor, 2)
	le(2, d.device, 2)
	le(4, 0x0406, 2) // command: memory, bus master, no INTx
	le(6, 0x0010, 2) // status: has capabilities
	le(8, d.revision|d.class<<8, 4)
	if d.class>>8 == 0x0604 {
		b[14] = 1 // header type: bridge
	} else {
		le(44, d.subVendor, 2)
		le(46, d.subID, 2)
	}
	if d.addr[len(d.addr)-1] == '0' {
		b[14] |= 0x80 // may have more functions
	}
	return string(b)
}

// setOverride is driver_override_store: up to the first newline, and an empty line clears it.
func (d *pciDevice) setOverride(v string) error {
	if len(v) >= 4095 {
		return syscall.EINVAL
	}
	v, _, _ = strings.Cut(v, "\x00")
	d.override, _, _ = strings.Cut(v, "\n")
	return nil
}

// deviceByName is bus_find_device_by_name with the buffer of a write: one final newline does not count.
func (h *Host) deviceByName(v string) *pciDevice {
	d := h.pci[strings.TrimSuffix(v, "\n")]
	if d != nil && d.gone {
		return nil
	}
	return d
}

func (h *Host) driver(name string) *pciDriver {
	for _, d := range h.drivers {
		if d.name == name {
			return d
		}
	}
	return nil
}

// matches is pci_match_device: an override excludes every other driver and stands for an id.
func (h *Host) matches(drv *pciDriver, d *pciDevice) bool {
	if d.override != "" {
		return d.override == drv.name
	}
	if slices.Contains(drv.ids, d.id()) {
		return true
	}
	m := h.modules[drv.module]
	return m != nil && slices.ContainsFunc(m.aliases, func(pattern string) bool {
		ok, _ := path.Match(pattern, d.modalias())
		return ok
	})
}

// probe binds a function without a driver to a driver that matches. A function that cannot wake is of no use to a host
// driver; vfio takes it as it is.
func (h *Host) probe(drv *pciDriver, d *pciDevice) error {
	if err, ok := h.probeErr[d.addr+" "+drv.name]; ok {
		return err
	}
	if !h.wake(d) && d.cold && !drv.vfio {
		return syscall.EIO
	}
	if drv.vfio {
		if d.group == "" || d.class>>16 == 6 {
			return syscall.EINVAL
		}
		h.addVFIO(d)
		if h.kernel.vfioPM {
			d.control = "auto" // vfio_pci_core_register_device
		}
	}
	if !drv.vfio {
		h.requestIRQs(d)
	}
	d.driver = drv.name
	h.link(d.path+"/driver", pciBus+"/drivers/"+drv.name)
	h.link(pciBus+"/drivers/"+drv.name+"/"+d.addr, d.path)
	h.showNodes(d, d.driver == d.home)
	return nil
}

// attach is device_attach: the drivers are asked in order of registration until one takes the function.
func (h *Host) attach(d *pciDevice) {
	for _, drv := range h.drivers {
		if d.driver == "" && h.matches(drv, d) {
			_ = h.probe(drv, d) // the error of a probe is only logged
		}
	}
}

// addVFIO makes what a vfio driver makes: the vfio device, and the node of its group if it is the first in it.
func (h *Host) addVFIO(d *pciDevice) {
	used := map[int]bool{}
	minors := map[uint64]bool{}
	for _, o := range h.pci {
		used[o.vfio] = true
		if n := h.find(vfioDir + "/" + o.group); o.group != "" && n != noNode {
			minors[h.inodes[n].rdev] = true
		}
	}
	for used[d.vfio] || d.vfio < 0 {
		d.vfio++
	}
	h.value(fmt.Sprintf("%s/vfio-dev/vfio%d/uevent", d.path, d.vfio), "DEVNAME=vfio/devices/vfio"+strconv.Itoa(d.vfio))
	if name := vfioDir + "/" + d.group; h.find(name) == noNode {
		minor := uint32(0)
		for minors[mkdev(vfioMajor, minor)] {
			minor++
		}
		h.device(name, syscall.S_IFCHR, vfioMajor, minor, 0o600)
	}
}

func (h *Host) removeVFIO(d *pciDevice) {
	d.vfio = -1
	h.erase(d.path + "/vfio-dev")
	for _, o := range h.pci {
		if o.group == d.group && o.vfio >= 0 {
			return
		}
	}
	h.erase(vfioDir + "/" + d.group)
}

// addDriver registers a driver and, if the bus probes by itself, offers it every function that has none.
func (h *Host) addDriver(drv *pciDriver) {
	h.drivers = append(h.drivers, drv)
	name, dir := drv.name, pciBus+"/drivers/"+drv.name
	h.rule(dir+"/bind", &attr{store: func(h *Host, v string) error {
		d, drv := h.deviceByName(v), h.driver(name)
		if d == nil || !h.matches(drv, d) {
			return syscall.ENODEV
		}
		return h.locked(d, func() error {
			if d.driver != "" {
				return syscall.EBUSY
			}
			return h.probe(drv, d)
		})
	}})
	h.rule(dir+"/unbind", &attr{store: func(h *Host, v string) error {
		d := h.deviceByName(v)
		if d == nil || d.driver != name {
			return syscall.ENODEV
		}
		err := h.locked(d, func() error {
			if d.driver != name {
				return nil
			}
			return h.release(d, true)
		})
		if d.gone {
			return nil // it was taken off meanwhile, driver and all
		}
		return err
	}})
	h.rule(dir+"/new_id", &attr{store: func(h *Host, v string) error { return h.newID(h.driver(name), v) }})
	h.rule(dir+"/remove_id", &attr{store: func(h *Host, v string) error {
		id, err := parseID(v)
		drv := h.driver(name)
		i := slices.Index(drv.ids, id)
		if err != nil {
			return err
		}
		if i < 0 {
			return syscall.ENODEV
		}
		drv.ids = slices.Delete(drv.ids, i, i+1)
		return nil
	}})
	h.rule(dir+"/uevent", &attr{store: func(*Host, string) error { return nil }})
	if m := h.modules[drv.module]; m != nil && !m.builtin {
		h.link(dir+"/module", moduleDir(drv.module))
		h.link(moduleDir(drv.module)+"/drivers/pci:"+name, dir)
	}
	if h.autoprobe {
		h.attachAll(drv)
	}
}

func (h *Host) attachAll(drv *pciDriver) {
	for _, addr := range h.addresses() {
		if d := h.pci[addr]; d.driver == "" && !d.gone && h.matches(drv, d) {
			_ = h.probe(drv, d)
		}
	}
}

// removeDriver takes a driver's registration back; its functions are left without one.
func (h *Host) removeDriver(name string) {
	for _, addr := range h.addresses() {
		if d := h.pci[addr]; d.driver == name {
			// The module is in use by nobody, so neither are its devices.
			_ = h.locked(d, func() error { return h.release(d, false) })
		}
	}
	h.erase(pciBus + "/drivers/" + name)
	h.drivers = slices.DeleteFunc(h.drivers, func(d *pciDriver) bool { return d.name == name })
}

func (h *Host) addresses() []string {
	var out []string
	for a := range h.pci {
		out = append(out, a)
	}
	slices.Sort(out)
	return out
}

func (h *Host) newID(drv *pciDriver, v string) error {
	id, err := parseID(v)
	if err != nil {
		return err
	}
	if slices.Contains(drv.ids, id) {
		return syscall.EEXIST
	}
	drv.ids = append(drv.ids, id)
	h.attachAll(drv)
	return nil
}

// parseID reads "10de 2684" and what may follow.
func parseID(v string) (string, error) {
	f := strings.Fields(v)
	if len(f) < 2 {
		return "", syscall.EINVAL
	}
	var id [2]uint64
	for i := range id {
		n, err := strconv.ParseUint(f[i], 16, 32)
		if err != nil {
			return "", syscall.EINVAL
		}
		id[i] = n
	}
	return fmt.Sprintf("%04x:%04x", id[0], id[1]), nil
}

// addPCIBus makes the files of the bus itself.
func (h *Host) addPCIBus() {
	h.autoprobe = true
	h.mkdir(pciBus + "/devices")
	h.mkdir(pciBus + "/drivers")
	h.mkdir(iommuGroups)
	h.rule(pciBus+"/drivers_probe", &attr{store: func(h *Host, v string) error {
		d := h.deviceByName(v)
		if d == nil {
			return syscall.ENODEV
		}
		err := h.locked(d, func() error {
			h.attach(d)
			return nil
		})
		if d.gone {
			return nil // __device_attach has nothing to say of a dead one
		}
		return err
	}})
	h.rule(pciBus+"/rescan", &attr{store: func(h *Host, v string) error {
		n, err := parseUint(v)
		if err != nil {
			return syscall.EINVAL
		}
		if n > 0 {
			h.rescan()
		}
		return nil
	}})
	autoprobe := flag(func(h *Host) bool { return h.autoprobe }, nil)
	autoprobe.store = func(h *Host, v string) error {
		h.autoprobe = v[0] != '0'
		return nil
	}
	h.rule(pciBus+"/drivers_autoprobe", autoprobe)
}
