package sysfstest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// vtconsole is a driver for the virtual terminals.
type vtconsole struct {
	name  string // as it says of itself
	bound bool
}

// system reports whether the driver is the one that was built for the boot.
func (c *vtconsole) system() bool { return strings.HasPrefix(c.name, "(S)") }

func (p *parser) consoles(lines []string) error {
	for _, l := range lines {
		id, rest, _ := strings.Cut(strings.TrimSpace(l), " ")
		bind, name, _ := strings.Cut(strings.TrimSpace(rest), " ")
		if bind != "bind=0" && bind != "bind=1" || name == "" {
			return fmt.Errorf("cannot read %q", l)
		}
		p.h.addConsole(id, vtconsole{strings.TrimSpace(name), bind == "bind=1"})
	}
	return p.err
}

func (h *Host) addConsole(id string, c vtconsole) {
	h.consoles[id] = &c
	dir := "/sys/devices/virtual/vtconsole/" + id
	h.link("/sys/class/vtconsole/"+id, dir)
	h.link(dir+"/subsystem", "/sys/class/vtconsole")
	h.value(dir+"/name", c.name)
	h.rule(dir+"/bind", flag(func(h *Host) bool { return h.consoles[id].bound }, func(h *Host, on bool) { h.bindConsole(id, on) }))
}

// bindConsole is vt_bind and vt_unbind: one driver has the terminals. Another comes in place of one that is unbound; the one
// that was built for the boot cannot be.
func (h *Host) bindConsole(id string, bound bool) {
	c := h.consoles[id]
	if bound {
		for _, o := range h.consoles {
			o.bound = o == c
		}
		return
	}
	if !c.bound || c.system() {
		return
	}
	c.bound = false
	for _, other := range slices.Sorted(maps.Keys(h.consoles)) {
		if other != id {
			h.consoles[other].bound = true
			return
		}
	}
}

// framebuffer is the frame buffer that the firmware left, a platform device.
type framebuffer struct {
	device, driver string
	path           string // in sysfs
	start, end     uint64 // of its memory
	label          string // in /proc/iomem
	bound          bool
	nodes          nodeSet
}

const platformBus = "/sys/bus/platform"

func (p *parser) framebuffers(lines []string) error {
	h := p.h
	for _, l := range lines {
		words, v := pairs(strings.Fields(l))
		p.known(l, v, "driver", "in", "at", "name", "nodes", "below")
		driver := one(v, "driver", "")
		if len(words) != 1 || driver == "" {
			return fmt.Errorf("cannot read %q", l)
		}
		f := &framebuffer{device: words[0], driver: driver, label: one(v, "name", "BOOTFB"), bound: true}
		f.path = "/sys/devices/platform/" + f.device
		card := h.pci[one(v, "in", "")]
		if in := one(v, "in", ""); in != "" && card == nil {
			return fmt.Errorf("%s: there is no function %s", f.device, in)
		}
		switch below := one(v, "below", "platform"); {
		case below == "card" && card != nil:
			f.path = card.path + "/" + f.device
		case below != "platform":
			return fmt.Errorf("cannot read %q", l)
		}
		if at := one(v, "at", ""); at != "" {
			start, end, _ := strings.Cut(at, "-")
			f.start, f.end = uint64(p.number(start, 16)), uint64(p.number(end, 16))
			inside := func(b bar) bool { return b.start <= f.start && f.end < b.start+b.size }
			if card != nil && len(card.bars) > 0 && !slices.ContainsFunc(card.bars, inside) {
				return fmt.Errorf("%s: no BAR of %s holds %s", f.device, card.addr, at)
			}
		}
		set, err := h.makeNodes(f.path, p.devNodes(v["nodes"]), nil, nil)
		if err != nil {
			return err
		}
		f.nodes = set
		h.addFramebuffer(f)
	}
	p.iomem()
	return p.err
}

func (h *Host) addFramebuffer(f *framebuffer) {
	h.platform = append(h.platform, f)
	driver := platformBus + "/drivers/" + f.driver
	h.link(platformBus+"/devices/"+f.device, f.path)
	h.link(f.path+"/subsystem", platformBus)
	h.value(f.path+"/modalias", "platform:"+f.driver)
	h.text(f.path+"/driver_override", 0o644, "(null)\n")
	if h.find(driver) == noNode {
		h.addPlatformDriver(f.driver)
	}
	h.bindFramebuffer(f, true)
}

func (h *Host) addPlatformDriver(name string) {
	store := func(bind bool) *attr {
		return &attr{store: func(h *Host, v string) error {
			i := slices.IndexFunc(h.platform, func(f *framebuffer) bool { return f.device == strings.TrimSuffix(v, "\n") })
			switch {
			case i < 0 || h.platform[i].driver != name || !bind && !h.platform[i].bound:
				return syscall.ENODEV
			case bind && h.platform[i].bound:
				return syscall.EBUSY
			}
			h.bindFramebuffer(h.platform[i], bind)
			return nil
		}}
	}
	h.rule(platformBus+"/drivers/"+name+"/bind", store(true))
	h.rule(platformBus+"/drivers/"+name+"/unbind", store(false))
}

func (h *Host) bindFramebuffer(f *framebuffer, bound bool) {
	f.bound = bound
	driver := platformBus + "/drivers/" + f.driver
	if !bound {
		h.hide(&f.nodes)
		h.erase(f.path + "/driver")
		h.erase(driver + "/" + f.device)
		return
	}
	h.link(f.path+"/driver", driver)
	h.link(driver+"/"+f.device, f.path)
	h.show(&f.nodes)
}

// iomem makes /proc/iomem: what the host file has, less the lines of frame buffers that are not bound; or, if it has
// none, a line for each BAR and each frame buffer.
func (p *parser) iomem() {
	const name = "/proc/iomem"
	h := p.h
	known := func(d *pciDevice) bool { return len(d.bars) > 0 }
	addrs := h.addresses()
	if n := h.find(name); n != noNode && len(h.platform) > 0 {
		raw := h.inodes[n].data
		h.rule(name, &attr{show: func(h *Host) (string, error) { return h.withoutUnbound(raw), nil }})
	} else if n == noNode && slices.ContainsFunc(addrs, func(a string) bool { return known(h.pci[a]) }) {
		h.rule(name, &attr{show: func(h *Host) (string, error) { return h.iomem(), nil }})
	}
}

func (h *Host) withoutUnbound(iomem string) string {
	var b strings.Builder
	for l := range strings.Lines(iomem) {
		where, label, _ := strings.Cut(strings.TrimSpace(l), " : ")
		if !slices.ContainsFunc(h.platform, func(f *framebuffer) bool { return !f.bound && f.label == label && f.at(where) }) {
			b.WriteString(l)
		}
	}
	return b.String()
}

// at reports whether the frame buffer's memory is "d0000000-d07e8fff"; one that does not say where it lies is anywhere.
func (f *framebuffer) at(where string) bool {
	start, end, _ := strings.Cut(where, "-")
	from, err1 := strconv.ParseUint(start, 16, 64)
	to, err2 := strconv.ParseUint(end, 16, 64)
	return f.end == 0 || err1 == nil && err2 == nil && from == f.start && to == f.end
}

func (h *Host) iomem() string {
	type region struct {
		start, end uint64
		label      string
	}
	var all []region
	for _, d := range h.pci {
		for _, b := range d.bars {
			if !d.gone {
				all = append(all, region{b.start, b.start + b.size - 1, d.addr})
			}
		}
	}
	for _, f := range h.platform {
		if f.bound && f.end > 0 {
			all = append(all, region{f.start, f.end, f.label})
		}
	}
	slices.SortFunc(all, func(a, b region) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(b.end, a.end)) })
	var out strings.Builder
	var around []uint64 // ends of the regions that the line lies in
	for _, r := range all {
		for len(around) > 0 && around[len(around)-1] < r.start {
			around = around[:len(around)-1]
		}
		fmt.Fprintf(&out, "%s%08x-%08x : %s\n", strings.Repeat("  ", len(around)), r.start, r.end, r.label)
		around = append(around, r.end)
	}
	return out.String()
}
