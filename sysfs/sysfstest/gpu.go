package sysfstest

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// gpuNode is a device node that a function's driver makes.
type gpuNode struct {
	subsystem, name string
	rdev            uint64
}

// bar is a memory region of a function.
type bar struct {
	start, size uint64
	sizes       []uint64 // that it can have
}

// gpu reads what the host file says of a card beyond the ordinary.
func (p *parser) gpu(d *pciDevice, v map[string][]string) {
	for _, s := range commas(v["nodes"]) {
		f := strings.Split(s, ":")
		if len(f) != 4 {
			p.fail("%q is no node; want SUBSYSTEM:NAME:MAJOR:MINOR", s)
			continue
		}
		d.nodes = append(d.nodes, gpuNode{f[0], f[1], mkdev(uint32(p.number(f[2], 10)), uint32(p.number(f[3], 10)))})
	}
	d.connectors = commas(v["connectors"])
	d.minor = one(v, "minor", "")
	d.persistence = one(v, "persistence", "off") == "on"
	for _, s := range commas(v["bars"]) {
		f := strings.Split(s, ":")
		if len(f) < 3 {
			p.fail("%q is no BAR; want NUMBER:START:SIZE[:SIZE|SIZE]", s)
			continue
		}
		b := &bar{start: uint64(p.number(f[1], 16)), size: uint64(p.kib(f[2])) << 10}
		if len(f) > 3 {
			for size := range strings.SplitSeq(f[3], "|") {
				b.sizes = append(b.sizes, uint64(p.kib(size))<<10)
			}
		}
		if d.bars == nil {
			d.bars = map[int]*bar{}
		}
		d.bars[int(p.number(f[0], 10))] = b
	}
}

// files returns where a node stands in sysfs and in /dev.
func (n gpuNode) files(d *pciDevice) (dir, dev string) {
	switch n.subsystem {
	case "drm":
		return d.path + "/drm/" + n.name, "/dev/dri/" + n.name
	case "i2c-dev":
		return d.path + "/" + n.name + "/i2c-dev/" + n.name, "/dev/" + n.name
	case "sound":
		return d.path + "/sound/card1/" + n.name, "/dev/snd/" + n.name
	}
	return d.path + "/" + n.subsystem + "/" + n.name, "/dev/" + n.name
}

// addNodesOf makes the nodes of a function that has its driver, removeNodesOf takes them away.
func (h *Host) addNodesOf(d *pciDevice) {
	for _, n := range d.nodes {
		dir, dev := n.files(d)
		h.value(dir+"/dev", fmt.Sprintf("%d:%d", n.rdev>>8&0xfff, n.rdev&0xff))
		h.value(dir+"/uevent", "DEVNAME="+strings.TrimPrefix(dev, "/dev/"))
		h.link(dir+"/subsystem", "/sys/class/"+n.subsystem)
		h.inodes[h.put(dev, inode{mode: syscall.S_IFCHR | 0o660, rdev: n.rdev})].gid = 26
	}
	for _, pid := range h.pids() {
		// Who let go of a sound card opens it again when udev shows it.
		p := h.processes[pid]
		if back := slices.ContainsFunc(p.reopens, func(f string) bool { return h.find(f) == noNode }); len(p.reopens) > 0 && !back {
			p.fds, p.reopens = append(slices.Clone(p.fds), p.reopens...), nil
			h.addProcess(p)
		}
	}
	for _, c := range d.connectors {
		f := strings.Split(c, ":")
		card, _, _ := strings.Cut(f[0], "-")
		dir := d.path + "/drm/" + card + "/" + f[0]
		h.value(dir+"/status", f[1])
		h.value(dir+"/enabled", f[2])
	}
	if d.minor != "" {
		h.value("/proc/driver/nvidia/gpus/"+d.addr+"/information", "Model: \t\t NVIDIA\nDevice Minor: \t "+d.minor)
		minor, _ := strconv.Atoi(d.minor)
		h.device("/dev/nvidia"+d.minor, syscall.S_IFCHR, 195, uint32(minor), 0o666)
	}
}

func (h *Host) removeNodesOf(d *pciDevice) {
	for _, n := range d.nodes {
		_, dev := n.files(d)
		h.erase(dev)
	}
	for _, sub := range []string{"drm", "sound", "hidraw"} {
		h.erase(d.path + "/" + sub)
	}
	for _, n := range d.nodes {
		if n.subsystem == "i2c-dev" {
			h.erase(d.path + "/" + n.name)
		}
	}
	if d.minor != "" {
		h.erase("/proc/driver/nvidia/gpus/" + d.addr)
		h.erase("/dev/nvidia" + d.minor)
	}
}

// configNow is what a read of config gives: a function in D3cold answers nothing.
func (d *pciDevice) configNow() string {
	if d.suspended && d.d3cold == "1" {
		return strings.Repeat("\xff", 64)
	}
	return d.config()
}

func (h *Host) addBARs(d *pciDevice) {
	if len(d.bars) == 0 {
		return
	}
	addr := d.addr
	h.rule(d.path+"/resource", &attr{show: func(h *Host) (string, error) {
		var b strings.Builder
		for i := range 7 {
			if r := h.pci[addr].bars[i]; r != nil {
				fmt.Fprintf(&b, "0x%016x 0x%016x 0x0000000000140204\n", r.start, r.start+r.size-1)
			} else {
				fmt.Fprintf(&b, "0x%016x 0x%016[1]x 0x%016[1]x\n", 0)
			}
		}
		return b.String(), nil
	}})
	for _, i := range slices.Sorted(maps.Keys(d.bars)) {
		if len(d.bars[i].sizes) == 0 {
			continue
		}
		h.rule(fmt.Sprintf("%s/resource%d_resize", d.path, i), &attr{
			show: func(h *Host) (string, error) {
				mask := uint64(0)
				for _, s := range h.pci[addr].bars[i].sizes {
					mask |= s >> 20
				}
				return fmt.Sprintf("%016x\n", mask), nil
			},
			store: func(h *Host, v string) error {
				n, err := parseUint(v)
				b := *h.pci[addr].bars[i]
				switch {
				case err != nil:
					return syscall.EINVAL
				case h.pci[addr].driver != "":
					return syscall.EBUSY
				case !slices.Contains(b.sizes, 1<<(n+20)):
					return syscall.EINVAL
				}
				b.size = 1 << (n + 20)
				bars := maps.Clone(h.pci[addr].bars)
				bars[i] = &b
				h.pci[addr].bars = bars
				return nil
			},
		})
	}
}

// hide takes a function off the bus, unhide brings it back.
func (h *Host) hide(d *pciDevice) {
	h.erase(pciBus + "/devices/" + d.addr)
	if d.group != "" {
		h.erase(iommuGroups + "/" + d.group + "/devices/" + d.addr)
	}
}

func (h *Host) unhide(d *pciDevice) {
	h.link(pciBus+"/devices/"+d.addr, d.path)
	if d.group != "" {
		h.link(iommuGroups+"/"+d.group+"/devices/"+d.addr, d.path)
	}
}

// FallOff takes a card off the bus, as one does that has died.
func (h *Host) FallOff(addr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.detach(h.pci[addr])
	h.hide(h.pci[addr])
}

// nodeUsers counts the open files on a function's nodes.
func (h *Host) nodeUsers(d *pciDevice, subsystems ...string) int {
	return h.users(func(_ string, rdev uint64) bool {
		return slices.ContainsFunc(d.nodes, func(n gpuNode) bool {
			return n.rdev == rdev && (len(subsystems) == 0 || slices.Contains(subsystems, n.subsystem))
		})
	})
}

// moduleUsers counts the open files that use a module.
func (h *Host) moduleUsers(name string) int {
	switch name {
	case "nvidia":
		return h.users(func(_ string, rdev uint64) bool { return rdev>>8&0xfff == 195 })
	case "nvidia_modeset":
		return h.users(func(_ string, rdev uint64) bool { return rdev == mkdev(195, 254) })
	case "nvidia_uvm":
		return h.users(func(f string, _ uint64) bool { return strings.HasPrefix(f, "/dev/nvidia-uvm") })
	}
	n := 0
	for _, d := range h.pci {
		switch {
		case d.driver == "":
		case name == "nvidia_drm" && d.driver == "nvidia":
			n += h.nodeUsers(d, "drm")
		case h.driver(d.driver) != nil && h.driver(d.driver).module == name && d.driver != "nvidia":
			n += h.nodeUsers(d)
		}
	}
	return n
}

// inUse reports whether a driver waits in its unbind for somebody to let go of the function.
func (h *Host) inUse(d *pciDevice) bool {
	i2c := h.nodeUsers(d, "i2c-dev") > 0 // every driver's adapters wait
	switch d.driver {
	case "nvidia":
		minor, _ := strconv.Atoi(d.minor)
		own := d.minor != "" && h.users(func(_ string, rdev uint64) bool { return rdev == mkdev(195, uint32(minor)) }) > 0
		return i2c || own || h.countsItself() && d.class>>16 == 3
	case "snd_hda_intel":
		return h.nodeUsers(d, "sound") > 0
	}
	return i2c
}

// countsItself reports whether nvidia_drm counts itself as a user of every card: with modeset, in old versions.
func (h *Host) countsItself() bool {
	m := h.modules["nvidia_drm"]
	return m != nil && m.loaded && slices.Contains(m.params, "modeset=Y") && !strings.HasPrefix(h.modules["nvidia"].version, "59")
}

// waitDriver blocks a write that the kernel would not return from yet. NVIDIA's driver and a sound card wait for their users;
// while they do, other writes to the function wait too.
func (h *Host) waitDriver(c Change) {
	if c.Op != "write" || !strings.HasPrefix(c.Path, "/sys/") {
		return
	}
	h.mu.Lock()
	d := h.target(c)
	unbinds := d != nil && path.Base(c.Path) == "unbind" && d.driver != ""
	if d == nil || !d.wedged && (!unbinds || !h.waits(d)) {
		h.mu.Unlock()
		return
	}
	first := !d.wedged
	if first {
		d.wedged = true
		h.notifyUsers(d)
	}
	h.mu.Unlock()
	for {
		time.Sleep(time.Millisecond)
		h.mu.Lock()
		done := h.ended || first && !h.waits(d) || !first && !d.wedged
		if done && first {
			d.wedged = false
		}
		h.mu.Unlock()
		if done {
			return
		}
	}
}

func (h *Host) waits(d *pciDevice) bool { return len(d.nodes)+len(d.minor) > 0 && h.inUse(d) }

// target is the function that a write is about.
func (h *Host) target(c Change) *pciDevice {
	switch base := path.Base(c.Path); base {
	case "unbind", "bind", "drivers_probe":
		return h.pci[strings.TrimSuffix(c.Value, "\n")]
	case "driver_override":
		return h.pci[path.Base(path.Dir(c.Path))]
	}
	return nil
}

// notifyUsers has those close a card's sound that listen.
func (h *Host) notifyUsers(d *pciDevice) {
	if d.driver != "snd_hda_intel" {
		return
	}
	for _, pid := range h.pids() {
		if p := h.processes[pid]; p.letsGo {
			for _, f := range p.fds {
				if strings.HasPrefix(f, "/dev/snd/") {
					p.reopens = append(slices.Clone(p.reopens), f)
				}
			}
			h.processes[pid] = p
			h.closes(pid, func(f string) bool { return strings.HasPrefix(f, "/dev/snd/") })
		}
	}
}

// nvidiaSMI is what nvidia-smi does with its arguments, and prints.
func (h *Host) nvidiaSMI(args []string) (string, error) {
	var d *pciDevice
	for i, a := range args {
		if a == "-i" && i+1 < len(args) {
			d = h.pci[args[i+1]]
		}
	}
	if d == nil || d.driver != "nvidia" {
		return "", syscall.ENODEV
	}
	for i, a := range args {
		switch {
		case a == "-pm" && i+1 < len(args):
			d.persistence = args[i+1] == "1"
		case a == "--query-gpu=persistence_mode" && d.persistence:
			return "Enabled\n", nil
		case a == "--query-gpu=persistence_mode":
			return "Disabled\n", nil
		}
	}
	return "", nil
}

// vtconsole is a driver for the virtual terminals.
type vtconsole struct {
	name  string // as it says of itself
	bound bool
}

func (p *parser) consoles(lines []string) error {
	for _, l := range lines {
		id, rest, _ := strings.Cut(strings.TrimSpace(l), " ")
		bind, name, ok := strings.Cut(strings.TrimSpace(rest), " ")
		if !ok || !strings.HasPrefix(bind, "bind=") {
			return fmt.Errorf("cannot read %q", l)
		}
		p.h.consoles[id] = &vtconsole{strings.TrimSpace(name), bind == "bind=1"}
		dir := "/sys/class/vtconsole/" + id
		p.h.value(dir+"/name", strings.TrimSpace(name))
		p.h.rule(dir+"/bind", &attr{
			show: func(h *Host) (string, error) {
				if h.consoles[id].bound {
					return "1\n", nil
				}
				return "0\n", nil
			},
			store: func(h *Host, v string) error {
				h.bindConsole(id, strings.TrimSpace(v) == "1")
				return nil
			},
		})
	}
	return p.err
}

// bindConsole is vt_bind and vt_unbind: a driver is bound only in place of one that was built for the boot, "(S)"; in place
// of one that is unbound comes the first other.
func (h *Host) bindConsole(id string, bound bool) {
	system := false
	for _, c := range h.consoles {
		system = system || strings.HasPrefix(c.name, "(S)")
	}
	switch c := h.consoles[id]; {
	case bound && system:
		for _, o := range h.consoles {
			o.bound = o == c
		}
	case !bound && c.bound && strings.HasPrefix(c.name, "(M)"):
		c.bound = false
		for _, o := range slices.Sorted(maps.Keys(h.consoles)) {
			if o != id {
				h.consoles[o].bound = true
				return
			}
		}
	}
}

// platformFB is the frame buffer that the firmware left.
type platformFB struct {
	device, driver string
	bound          bool
	label          string // in /proc/iomem
}

func (p *parser) framebuffers(lines []string) error {
	for _, l := range lines {
		words, v := pairs(strings.Fields(l))
		p.known(l, v, "driver", "name")
		if len(words) != 1 {
			return fmt.Errorf("cannot read %q", l)
		}
		p.h.addPlatformFB(&platformFB{device: words[0], driver: one(v, "driver", ""), bound: true, label: one(v, "name", "BOOTFB")})
	}
	return p.err
}

func (h *Host) addPlatformFB(f *platformFB) {
	h.platform = append(h.platform, f)
	dir, drv := "/sys/devices/platform/"+f.device, "/sys/bus/platform/drivers/"+f.driver
	h.link("/sys/bus/platform/devices/"+f.device, dir)
	h.value(dir+"/uevent", "MODALIAS=platform:"+f.driver)
	h.link(dir+"/driver", drv)
	find := func(h *Host) *platformFB {
		i := slices.IndexFunc(h.platform, func(o *platformFB) bool { return o.device == f.device })
		return h.platform[i]
	}
	h.rule(drv+"/unbind", &attr{store: func(h *Host, v string) error {
		if f := find(h); strings.TrimSpace(v) != f.device || !f.bound {
			return syscall.ENODEV
		}
		find(h).bound = false
		h.erase(dir + "/driver")
		return nil
	}})
	h.rule(drv+"/bind", &attr{store: func(h *Host, v string) error {
		if f := find(h); strings.TrimSpace(v) != f.device || f.bound {
			return syscall.ENODEV
		}
		find(h).bound = true
		h.link(dir+"/driver", drv)
		return nil
	}})
	if n := h.find("/proc/iomem"); n != noNode {
		whole := h.inodes[n].data
		h.rule("/proc/iomem", &attr{show: func(h *Host) (string, error) {
			var b strings.Builder
			for line := range strings.Lines(whole) {
				unbound := func(f *platformFB) bool { return !f.bound && strings.HasSuffix(strings.TrimSpace(line), " : "+f.label) }
				if !slices.ContainsFunc(h.platform, unbound) {
					b.WriteString(line)
				}
			}
			return b.String(), nil
		}})
	}
}
