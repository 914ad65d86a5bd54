package sysfstest

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// The majors of Documentation/admin-guide/devices.txt that rules speak of, and the one that NVIDIA's driver took.
const (
	drmMajor    = 226
	soundMajor  = 116
	i2cMajor    = 89
	fbMajor     = 29
	nvidiaMajor = 195
)

// devNode is a device node that a driver makes for its device, with what sysfs says of it.
type devNode struct {
	kind, dir, name string // dir is below the device, "" for where the kind usually lies
	major, minor    uint32
	typ, mode       uint32
	uid, gid        int // of the node in /dev, as it was when it was last there
}

func (n *devNode) rdev() uint64 { return mkdev(n.major, n.minor) }

// nodeSet is a number of nodes that come and go together.
type nodeSet struct {
	nodes []devNode
	shown bool
	away  []absent // what of sysfs and procfs went with them
}

// absent is a file that has lost its name for a while.
type absent struct {
	name string
	node Node
}

// nodes reads "drm:card0:226:0,i2c:i2c-3:89:3". A name may have a directory below the device in front.
func (p *parser) devNodes(values []string) []devNode {
	var out []devNode
	for _, s := range commas(values) {
		kind, rest, _ := strings.Cut(s, ":")
		f := strings.Split(rest, ":")
		if kind == "" || len(f) < 3 {
			p.fail("%q is no node; want KIND:NAME:MAJOR:MINOR", s)
			continue
		}
		last := len(f) - 2
		name := strings.Join(f[:last], ":")
		n := devNode{
			kind: kind, name: path.Base(name), major: uint32(p.number(f[last], 10)), minor: uint32(p.number(f[last+1], 10)),
			typ: syscall.S_IFCHR, mode: 0o600,
		}
		if n.name != name {
			n.dir = path.Dir(name)
		}
		switch kind {
		case "i2c-dev":
			n.kind = "i2c"
			fallthrough
		case "i2c":
			p.group(&n, "i2c")
		case "drm", "fb":
			p.group(&n, "video")
			if strings.HasPrefix(n.name, "render") {
				p.group(&n, "render")
				n.mode = 0o666
			}
		case "sound":
			p.group(&n, "audio")
		case "block":
			n.typ = syscall.S_IFBLK
			p.group(&n, "disk")
		}
		out = append(out, n)
	}
	return out
}

// group gives a node to a group of the host, if it has one of that name, as udev's rules do.
func (p *parser) group(n *devNode, name string) {
	for _, f := range p.raw {
		if f.Name != "etc/group" {
			continue
		}
		for l := range strings.Lines(string(f.Data)) {
			if e := strings.Split(l, ":"); len(e) > 2 && e[0] == name {
				n.gid, n.mode = int(p.number(e[2], 10)), 0o660
			}
		}
	}
}

// place returns where a node stands in sysfs, below its device's directory, its class, and its name in /dev.
func (n *devNode) place() (dir, class, dev string) {
	in := func(usual string) string {
		if n.dir != "" {
			usual = n.dir
		}
		return path.Join(usual, n.name)
	}
	switch n.kind {
	case "drm":
		return in("drm"), "drm", "/dev/dri/" + n.name
	case "i2c":
		return path.Join(n.dir, n.name, "i2c-dev", n.name), "i2c-dev", "/dev/" + n.name
	case "sound":
		return in("sound/" + n.card()), "sound", "/dev/snd/" + n.name
	case "fb":
		return in("graphics"), "graphics", "/dev/" + n.name
	case "hidraw":
		return in("usb1/1-1/1-1:1.0/0003:046D:C52B.0001/hidraw"), "hidraw", "/dev/" + n.name
	}
	return in(n.kind), n.kind, "/dev/" + n.name
}

// card is the sound card that a node belongs to: controlC1 and pcmC1D3p are card1's.
func (n *devNode) card() string {
	_, rest, _ := strings.Cut(n.name, "C")
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(rest)
	}
	return "card" + rest[:end]
}

// describe makes what sysfs says of a node, for the first time. It returns the files that go when the node does.
func (h *Host) describe(base string, n *devNode) []string {
	rel, class, dev := n.place()
	dir := base + "/" + rel
	h.value(dir+"/dev", fmt.Sprintf("%d:%d", n.major, n.minor))
	h.value(dir+"/uevent", fmt.Sprintf("MAJOR=%d\nMINOR=%d\nDEVNAME=%s", n.major, n.minor, strings.TrimPrefix(dev, "/dev/")))
	top, _, _ := strings.Cut(rel, "/")
	gone := []string{base + "/" + top}
	device := func(dir, class, parent string) {
		h.link(dir+"/subsystem", "/sys/class/"+class)
		h.link(dir+"/device", parent)
		link := "/sys/class/" + class + "/" + path.Base(dir)
		h.link(link, dir)
		gone = append(gone, link)
	}
	switch n.kind {
	case "i2c":
		adapter := base + "/" + path.Join(n.dir, n.name)
		h.value(adapter+"/name", "adapter "+strings.TrimPrefix(n.name, "i2c-"))
		h.link(adapter+"/subsystem", "/sys/bus/i2c")
		h.link("/sys/bus/i2c/devices/"+n.name, adapter)
		gone = append(gone, "/sys/bus/i2c/devices/"+n.name)
		device(dir, class, adapter)
	case "sound":
		card := path.Dir(dir)
		h.value(card+"/number", strings.TrimPrefix(path.Base(card), "card"))
		device(card, class, base)
		device(dir, class, card)
	default:
		device(dir, class, base)
	}
	numbers := "/sys/dev/char/"
	if n.typ == syscall.S_IFBLK {
		numbers = "/sys/dev/block/"
	}
	numbers += fmt.Sprintf("%d:%d", n.major, n.minor)
	h.link(numbers, dir)
	return append(gone, numbers)
}

// describeConnector makes drm/card0/card0-DP-1 of "card0-DP-1:connected:enabled".
func (h *Host) describeConnector(base, s string) (gone string, err error) {
	name, state, _ := strings.Cut(s, ":")
	status, enabled, _ := strings.Cut(state, ":")
	card, _, ok := strings.Cut(name, "-")
	if !ok || status == "" || enabled == "" || h.find(base+"/drm/"+card) == noNode {
		return "", fmt.Errorf("%q is no connector of a card among the nodes; want CARD-NAME:connected:enabled", s)
	}
	dir := base + "/drm/" + card + "/" + name
	h.value(dir+"/status", status)
	h.value(dir+"/enabled", enabled)
	h.value(dir+"/dpms", map[bool]string{true: "On", false: "Off"}[enabled == "enabled"])
	h.link(dir+"/subsystem", "/sys/class/drm")
	h.link(dir+"/device", base+"/drm/"+card)
	h.link("/sys/class/drm/"+name, dir)
	return "/sys/class/drm/" + name, nil
}

// makeNodes makes a set of nodes of the device at base with its connectors, for [Host.show]; files are what else goes with
// them.
func (h *Host) makeNodes(base string, nodes []devNode, files, connectors []string) (nodeSet, error) {
	names := slices.Clone(files)
	for i := range nodes {
		names = append(names, h.describe(base, &nodes[i])...)
	}
	for _, c := range connectors {
		name, err := h.describeConnector(base, c)
		if err != nil {
			return nodeSet{}, err
		}
		names = append(names, name)
	}
	slices.Sort(names)
	s := nodeSet{nodes: nodes}
	for _, n := range slices.Compact(names) {
		s.away = append(s.away, absent{name: n})
	}
	s.away = h.takeOut(s.away)
	return s, nil
}

// takeOut takes files with all below them out of their directories; bringIn puts them where they were.
func (h *Host) takeOut(files []absent) []absent {
	out := slices.Clone(files)
	for i, f := range out {
		if n := h.find(f.name); n != noNode {
			out[i].node = n
			h.erase(f.name)
		}
	}
	return out
}

func (h *Host) bringIn(files []absent) {
	for _, f := range files {
		if f.node != noNode {
			h.enter(h.mkdir(path.Dir(f.name)), path.Base(f.name), f.node)
			h.inodes[f.node].nlink = 1
		}
	}
}

// show makes the nodes in /dev and brings what belongs to them back; hide takes both away.
func (h *Host) show(s *nodeSet) {
	if s.shown {
		return
	}
	s.shown = true
	h.bringIn(s.away)
	for i := range s.nodes {
		n := &s.nodes[i]
		_, _, dev := n.place()
		h.put(dev, inode{mode: n.typ | n.mode, uid: n.uid, gid: n.gid, rdev: n.rdev()})
	}
}

func (h *Host) hide(s *nodeSet) {
	if !s.shown {
		return
	}
	s.shown = false
	s.away = h.takeOut(s.away)
	s.nodes = slices.Clone(s.nodes) // clones share them
	for i := range s.nodes {
		n := &s.nodes[i]
		_, _, dev := n.place()
		if node := h.find(dev); node != noNode {
			f := &h.inodes[node]
			n.mode, n.uid, n.gid = f.mode&0o7777, f.uid, f.gid
		}
		h.erase(dev)
	}
	h.renameFiles()
}

// devices returns the nodes in /dev of a set, as far as they are there.
func (h *Host) devices(s *nodeSet, kind string) []Node {
	var out []Node
	for i := range s.nodes {
		if _, _, dev := s.nodes[i].place(); s.nodes[i].kind == kind && h.find(dev) != noNode {
			out = append(out, h.find(dev))
		}
	}
	return out
}

// openersOf counts the files that are open on nodes of some kinds in a set, whether or not the nodes are still there.
func (h *Host) openersOf(s *nodeSet, kinds ...string) int {
	return h.openers(func(rdev uint64) bool {
		return slices.ContainsFunc(s.nodes, func(n devNode) bool {
			return n.rdev() == rdev && n.typ == syscall.S_IFCHR && slices.Contains(kinds, n.kind)
		})
	})
}

// AMD's compute driver has one node for all cards, and a directory for each card and for each process that uses it.
const (
	kfdDir   = "/sys/devices/virtual/kfd/kfd"
	kfdNode  = "/dev/kfd"
	kfdMajor = 235
)

// addKFD makes what "1:51211" says: the card is node 1 of the topology and has that number.
func (p *parser) addKFD(d *pciDevice, s string) (gone string) {
	h := p.h
	node, id, ok := strings.Cut(s, ":")
	if !ok {
		p.fail("%q is no node of kfd; want NODE:GPU_ID", s)
		return ""
	}
	if h.find(kfdDir+"/dev") == noNode {
		h.value(kfdDir+"/dev", strconv.Itoa(kfdMajor)+":0")
		h.mkdir(kfdDir + "/proc")
		h.link("/sys/class/kfd/kfd", kfdDir)
		h.link(kfdDir+"/subsystem", "/sys/class/kfd")
		h.value(kfdDir+"/topology/nodes/0/gpu_id", "0")
		h.value(kfdDir+"/topology/nodes/0/properties", "cpu_cores_count 16\nsimd_count 0\nlocation_id 0\ndomain 0")
		n := devNode{kind: "kfd", mode: 0o600}
		p.group(&n, "render")
		h.inodes[h.device(kfdNode, syscall.S_IFCHR, kfdMajor, 0, n.mode|0o006)].gid = n.gid
	}
	dir := kfdDir + "/topology/nodes/" + node
	domain, at, _ := strings.Cut(d.addr, ":")
	bus, at, _ := strings.Cut(at, ":")
	slot, function, _ := strings.Cut(at, ".")
	h.value(dir+"/gpu_id", id)
	h.value(dir+"/properties", fmt.Sprintf("cpu_cores_count 0\nsimd_count 64\nvendor_id %d\ndevice_id %d\nlocation_id %d\ndomain %d",
		d.vendor, d.device, p.number(bus, 16)<<8|p.number(slot, 16)<<3|p.number(function, 16), p.number(domain, 16)))
	return dir
}

// procDevices is /proc/devices.
func (h *Host) procDevices() (string, error) {
	b := "Character devices:\n  1 mem\n 10 misc\n"
	add := func(name string, major uint64, loaded bool) {
		if loaded {
			b += fmt.Sprintf("%3d %s\n", major, name)
		}
	}
	loaded := func(module string) bool {
		m := h.modules[module]
		return m != nil && (m.loaded || m.builtin)
	}
	add("fb", fbMajor, true)
	add("i2c", i2cMajor, true)
	add("alsa", soundMajor, loaded("snd_hda_intel"))
	add("nvidia", nvidiaMajor, loaded("nvidia"))
	add("nvidia-modeset", nvidiaMajor, loaded("nvidia_modeset"))
	add("drm", drmMajor, true)
	add("kfd", kfdMajor, h.find(kfdNode) != noNode)
	if n := h.find("/dev/nvidia-uvm"); n != noNode {
		add("nvidia-uvm", h.inodes[n].rdev>>8&0xfff, loaded("nvidia_uvm"))
	}
	return b + "\nBlock devices:\n  8 sd\n259 blkext\n", nil
}
