package sysfstest

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/tools/txtar"

	"qemu-hook/cpuset"
)

// Load reads a host file.
func Load(name string) (*Host, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return Parse(strings.TrimSuffix(filepath.Base(name), ".txtar"), b)
}

// Parse makes a host from a host file, in the format that the package's documentation describes.
func Parse(name string, data []byte) (*Host, error) {
	a := txtar.Parse(data)
	h := &Host{
		name: name, comment: strings.TrimSpace(string(a.Comment)),
		inodes: make([]inode, 1, 4096), pci: map[string]*pciDevice{}, probeErr: map[string]syscall.Errno{},
		processes: map[int]process{}, services: map[string]*unit{}, consoles: map[string]*vtconsole{},
		irqs: map[int]*irq{}, modules: map[string]*module{}, cgroups: map[string]*cgroup{}, units: map[string]cpuset.Set{},
	}
	h.cond = sync.NewCond(&h.mu)
	h.newNode(inode{mode: syscall.S_IFDIR | 0o755})
	p := &parser{h: h, sections: map[string][]string{}}
	for _, f := range a.Files {
		if strings.Contains(f.Name, "/") {
			p.raw = append(p.raw, f)
			continue
		}
		if !slices.Contains(sectionNames(), f.Name) {
			return nil, fmt.Errorf("%s: unknown section %q", name, f.Name)
		}
		if p.sections[f.Name] == nil {
			p.sections[f.Name] = []string{} // an empty one is one all the same
		}
		for l := range strings.Lines(string(f.Data)) {
			if t := strings.TrimSpace(l); t != "" && t[0] != '#' {
				p.sections[f.Name] = append(p.sections[f.Name], strings.TrimRight(l, "\n"))
			}
		}
	}
	for _, step := range []struct {
		name string
		do   func([]string) error
	}{
		{"links", p.links}, // first, so that what follows goes through them
		{"kernel", p.kernel},
		{"cpus", p.cpus},
		{"nodes", p.nodes},
		{"hugepages", p.hugepages},
		{"irqs", p.irqs},
		{"workqueues", p.workqueues},
		{"cpufreq", p.frequencies},
		{"modules", p.modules},
		{"pci", p.pci},
		{"cgroups", p.cgroups},
		{"mounts", p.mounts},
		{"files", p.files},
		{"devices", p.devices},
		{"consoles", p.consoles},
		{"framebuffers", p.framebuffers},
		{"owners", p.owners}, // of what all the others have made
		{"units", p.units},
		{"processes", p.processes},
	} {
		if err := step.do(p.sections[step.name]); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", name, step.name, err)
		}
	}
	return h, nil
}

func sectionNames() []string {
	return []string{
		"kernel", "cpus", "nodes", "hugepages", "modules", "pci", "cgroups", "mounts", "devices", "links", "owners",
		"processes", "units", "consoles", "framebuffers", "irqs", "workqueues", "cpufreq",
	}
}

func (p *parser) kernel(lines []string) error {
	k := &p.h.kernel
	*k = kernel{
		release: "6.12.0", modules: "/lib/modules", modprobe: "/sbin/modprobe", systemd: true,
		bootID:      "3c9f0b52-6f0e-4a53-9d0c-8f1d6a2b7e11",
		controllers: []string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"},
		allowed:     map[string]cpuset.Set{},
	}
	for _, l := range lines {
		key, v, _ := strings.Cut(strings.TrimSpace(l), " ")
		v = strings.TrimSpace(v)
		switch key {
		case "release":
			k.release = v
		case "modules":
			k.modules = v
		case "modprobe":
			k.modprobe = v
		case "cmdline":
			k.cmdline = v
		case "boot_id":
			k.bootID = v
		case "systemd":
			k.systemd = v == "yes"
		case "controllers":
			k.controllers = strings.Fields(v)
		case "nvidia_smi":
			k.nvidiaSMI = v
		case "vfio_pm":
			k.vfioPM = v == "yes"
		case "drops_modeset_count":
			k.dropsModeset = append([]string{}, strings.Fields(v)...)
		default:
			return fmt.Errorf("unknown key %q", key)
		}
	}
	k.modules = path.Join(k.modules, k.release)
	k.programs = []string{k.modprobe}
	if k.nvidiaSMI != "" {
		k.programs = append(k.programs, k.nvidiaSMI)
	}
	p.h.addKernel()
	p.h.addPrograms()
	return p.err
}

func (p *parser) cpus(lines []string) error {
	c := &p.h.cpus
	present, online := "", ""
	for _, l := range lines {
		f := strings.Fields(l)
		switch key := f[0]; {
		case key == "package" && len(f) > 2:
			pkg := int(p.number(f[1], 10))
			for _, t := range f[2:] {
				p.addCore(pkg, p.list(t))
			}
		case key == "siblings" && len(f) == 4:
			pkg, a, b := int(p.number(f[1], 10)), slices.Collect(p.list(f[2]).All()), slices.Collect(p.list(f[3]).All())
			for i := range min(len(a), len(b)) {
				p.addCore(pkg, cpuset.Of(a[i], b[i]))
			}
		case key == "cache" && len(f) > 3:
			k := cache{level: int(p.number(f[1], 10)), size: strconv.FormatInt(p.kib(f[2]), 10) + "K"}
			for _, t := range f[3:] {
				k.shared = append(k.shared, p.list(t))
			}
			c.caches = append(c.caches, k)
		case key == "possible" && len(f) == 2:
			c.possible = p.list(f[1])
		case key == "present" && len(f) == 2:
			present = f[1]
		case key == "online" && len(f) == 2:
			online = f[1]
		case key == "isolated" && len(f) == 2:
			c.isolated = p.list(f[1])
		default:
			return fmt.Errorf("cannot read %q", l)
		}
	}
	for _, k := range c.cores {
		c.present = c.present.Union(k.threads)
	}
	if present != "" {
		c.present = p.list(present)
	}
	c.online = c.present
	if online != "" {
		c.online = p.list(online)
	}
	if c.possible.Empty() {
		c.possible = c.present
	}
	p.h.addCPUs()
	return p.err
}

func (p *parser) addCore(pkg int, threads cpuset.Set) {
	id := 0
	for _, k := range p.h.cpus.cores {
		if k.pkg == pkg {
			id++
		}
	}
	p.h.cpus.cores = append(p.h.cpus.cores, core{pkg, id, threads})
}

func (p *parser) nodes(lines []string) error {
	for _, l := range lines {
		words, v := pairs(strings.Fields(l))
		p.known(l, v, "cpus", "total", "free", "cache", "slab", "whole", "movable", "giant", "distance")
		if len(words) != 1 {
			return fmt.Errorf("cannot read %q", l)
		}
		percent := func(key, def string) int64 {
			return p.number(strings.TrimSuffix(one(v, key, def), "%"), 10)
		}
		n := &numaNode{
			id: int(p.number(words[0], 10)), cpus: one(v, "cpus", ""),
			distance: strings.ReplaceAll(one(v, "distance", "10"), ",", " "),
			total:    p.kib(one(v, "total", "0K")), free: p.kib(one(v, "free", "0K")),
			cache: p.kib(one(v, "cache", "0K")), slab: p.kib(one(v, "slab", "0K")),
			movable: percent("movable", "97%"), giant: p.number(one(v, "giant", "0"), 10),
		}
		p.list(n.cpus)
		n.whole = n.free * percent("whole", "90%") / 100
		if n.free+n.cache+n.slab > n.total {
			return fmt.Errorf("node %d has more free memory and cache than memory", n.id)
		}
		p.h.nodes = append(p.h.nodes, n)
	}
	if len(p.h.nodes) == 0 {
		return fmt.Errorf("a host has at least one node")
	}
	p.h.addNodes()
	return p.err
}

func (p *parser) hugepages(lines []string) error {
	for _, l := range lines {
		words, v := pairs(strings.Fields(l))
		pool := &hstate{
			kib: uint64(p.number(words[0], 10)), isDefault: slices.Contains(words, "default"),
			overcommit: p.number(one(v, "overcommit", "0"), 10),
		}
		p.h.addPool(pool)
		for i, n := range p.h.nodes {
			nr := p.number(one(v, "node"+strconv.Itoa(n.id), "0"), 10)
			// The boot comes before memory is used and broken up: these pages are no part of "free".
			used := p.number(one(v, "used"+strconv.Itoa(n.id), "0"), 10)
			pool.node[i] = poolNode{nr: nr, free: nr - min(nr, used)}
		}
	}
	for i, n := range p.h.nodes {
		if m := p.h.memoryOf(i); m.free+m.cache+m.slab+m.huge > m.total {
			return fmt.Errorf("node %d has not that much memory", n.id)
		}
	}
	return p.err
}

func (p *parser) modules(lines []string) error {
	var loaded []string
	p.h.addPCIBus()
	for _, l := range lines {
		words, v := pairs(strings.Fields(l))
		p.known(l, v, "driver", "deps", "alias", "param", "used", "file", "version")
		m := &module{
			name: words[0], builtin: slices.Contains(words, "builtin"), driver: one(v, "driver", ""),
			deps: commas(v["deps"]), aliases: v["alias"], params: v["param"], used: int(p.number(one(v, "used", "0"), 10)),
			version: one(v, "version", ""),
			file:    one(v, "file", "kernel/drivers/"+words[0]+".ko.xz"),
		}
		p.h.modules[m.name] = m
		if m.builtin {
			p.h.addModule(m)
		}
		if m.builtin && m.driver != "" {
			p.h.addDriver(&pciDriver{name: m.driver, module: m.name, vfio: m.vfio()})
		}
		if slices.Contains(words, "loaded") {
			loaded = append(loaded, m.name)
		}
	}
	for _, m := range p.h.modules {
		for _, d := range m.deps {
			if p.h.modules[d] == nil {
				return fmt.Errorf("module %s needs %s, which is not there", m.name, d)
			}
		}
	}
	for _, n := range loaded {
		if err := p.h.load(n); err != nil {
			return fmt.Errorf("module %s: %w", n, err)
		}
	}
	p.h.addModulesDir()
	return p.err
}

// pci reads the functions; one that is indented lies behind the bridge above it.
func (p *parser) pci(lines []string) error {
	type above struct {
		indent int
		path   string
	}
	var stack []above
	for _, l := range lines {
		words, v := pairs(strings.Fields(l))
		p.known(l, v, "class", "id", "sub", "rev", "driver", "override", "group", "numa", "boot_vga", "reset", "power",
			"d3cold", "status", "nodes", "connectors", "minor", "bars", "persistence", "kfd", "vfs", "virtfn", "irqs")
		addr := words[0]
		if len(words) != 1 || len(addr) < 12 || strings.Count(addr, ":") != 2 {
			return fmt.Errorf("cannot read %q", l)
		}
		indent := len(l) - len(strings.TrimLeft(l, " "))
		for len(stack) > 0 && stack[len(stack)-1].indent >= indent {
			stack = stack[:len(stack)-1]
		}
		parent := "/sys/devices/pci" + addr[:strings.LastIndex(addr, ":")]
		if len(stack) > 0 {
			parent = stack[len(stack)-1].path
			if domain, _, _ := strings.Cut(addr, ":"); !strings.HasPrefix(path.Base(parent), domain+":") {
				parent += "/pci" + addr[:strings.LastIndex(addr, ":")] // a bridge to a domain of its own
			}
		}
		vendor, device, _ := strings.Cut(one(v, "id", ""), ":")
		subVendor, subID, _ := strings.Cut(one(v, "sub", "0:0"), ":")
		class := one(v, "class", "")
		if len(class) == 4 {
			class += "00"
		}
		hex := func(s string) uint32 { return uint32(p.number(s, 16)) }
		d := &pciDevice{
			addr: addr, path: parent + "/" + addr, vendor: hex(vendor), device: hex(device), class: hex(class),
			subVendor: hex(subVendor), subID: hex(subID), revision: hex(one(v, "rev", "0")),
			numa: int(p.number(one(v, "numa", "-1"), 10)), group: one(v, "group", ""), override: one(v, "override", ""),
			reset: strings.ReplaceAll(one(v, "reset", ""), ",", " "), control: one(v, "power", "auto"),
			d3cold: one(v, "d3cold", "1"), bars: p.bars(v["bars"]),
			persistence: one(v, "persistence", "off") == "on", minor: int(p.number(one(v, "minor", "-1"), 10)),
			vfs: commas(v["virtfn"]), irqs: p.ownIRQs(v["irqs"]),
		}
		d.control0 = d.control
		if d.class>>8 == 0x0300 {
			d.bootVGA = one(v, "boot_vga", "0")
		}
		stack = append(stack, above{indent, d.path})
		p.h.addPCI(d)
		name := one(v, "driver", "")
		drv := p.h.driver(name)
		switch {
		case drv == nil && name != "":
			return fmt.Errorf("%s: no module that is loaded has the driver %s", addr, name)
		case drv != nil && !drv.vfio:
			d.home = name
		}
		if err := p.addNodesOf(d, v); err != nil {
			return fmt.Errorf("%s: %w", addr, err)
		}
		if drv != nil {
			if err := p.h.probe(drv, d); err != nil {
				return fmt.Errorf("%s: driver %s: %w", addr, drv.name, err)
			}
		}
		d.control = d.control0
		d.suspended = one(v, "status", "active") == "suspended"
		d.cold = d.suspended && d.d3cold == "1" && d.control == "auto"
	}
	return p.virtualFunctions(lines)
}

func (p *parser) cgroups(lines []string) error {
	h := p.h
	if len(h.kernel.controllers) == 0 || h.kernel.controllers[0] == "none" {
		h.kernel.controllers = nil
		if len(lines) > 0 {
			return fmt.Errorf("the host has no unified hierarchy")
		}
		return nil
	}
	h.addCgroup("/")
	for _, l := range lines {
		words, v := pairs(strings.Fields(l))
		p.known(l, v, "allowed", "cpus", "subtree")
		g := words[0]
		if h.cgroups[g] == nil {
			if h.cgroups[path.Dir(g)] == nil {
				return fmt.Errorf("no group above %s", g)
			}
			h.addCgroup(g)
		}
		if s := commas(v["subtree"]); len(s) > 0 {
			h.setSubtree(g, s)
		}
		h.cgroups[g].cpus = p.list(one(v, "cpus", ""))
		if a := one(v, "allowed", ""); a != "" {
			h.units[path.Base(g)] = p.list(a)
			h.kernel.allowed[path.Base(g)] = p.list(a)
		}
	}
	return p.err
}
