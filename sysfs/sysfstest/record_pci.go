package sysfstest

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pci writes the functions, each behind its bridge.
func (r *recorder) pci() []string {
	names, _ := r.ListIfAny(pciBus + "/devices")
	at := map[string]string{}
	for _, a := range names {
		to, err := r.ResolveLinks(pciBus + "/devices/" + a)
		if err != nil {
			continue
		}
		at[a] = to
		r.members = append(r.members, a)
	}
	slices.SortFunc(r.members, func(a, b string) int { return cmp.Compare(at[a], at[b]) })
	var lines []string
	for _, a := range r.members {
		depth := 0
		for part := range strings.SplitSeq(at[a], "/") {
			if part != a && at[part] != "" {
				depth++
			}
		}
		lines = append(lines, strings.Repeat("  ", depth)+r.function(a, at[a]))
	}
	// What all of NVIDIA's cards share.
	all, _ := r.ReadDir("/dev")
	for _, n := range all {
		st, err := r.Stat("/dev/" + n)
		if err == nil && strings.HasPrefix(n, "nvidia") && st.Type() == unix.S_IFCHR && r.nodes[st.Rdev] == "" {
			r.nodes[st.Rdev] = "/dev/" + n
			r.loose["/dev/"+n] = true
		}
	}
	return lines
}

func (r *recorder) function(a, dir string) string {
	line := a
	say := func(key, v string) {
		if v != "" {
			line += " " + key + "=" + v
		}
	}
	hex := func(name string) string { return strings.TrimPrefix(r.value(dir+"/"+name), "0x") }
	say("class", cmp.Or(hex("class"), "000000"))
	say("id", cmp.Or(hex("vendor"), "0000")+":"+cmp.Or(hex("device"), "0000"))
	if s := hex("subsystem_vendor"); s != "" {
		say("sub", s+":"+hex("subsystem_device"))
	}
	say("rev", hex("revision"))
	driver, _ := r.PCIDriver(a)
	r.drivers[a] = driver
	say("driver", driver)
	say("override", r.value(dir+"/driver_override"))
	group, _ := r.PCIGroup(a)
	say("group", group)
	if n := r.PCINode(a); n >= 0 {
		say("numa", strconv.Itoa(n))
	}
	say("boot_vga", r.value(dir+"/boot_vga"))
	say("reset", strings.Join(strings.Fields(r.value(dir+"/reset_method")), ","))
	say("power", r.value(dir+"/power/control"))
	say("d3cold", r.value(dir+"/d3cold_allowed"))
	if r.value(dir+"/power/runtime_status") == "suspended" {
		say("status", "suspended")
	}
	say("bars", r.bars(dir))
	nodes, connectors := r.nodesOf(dir)
	say("nodes", strings.Join(nodes, ","))
	say("connectors", strings.Join(connectors, ","))
	for l := range strings.Lines(r.value("/proc/driver/nvidia/gpus/" + a + "/information")) {
		if key, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(key) == "Device Minor" {
			say("minor", strings.TrimSpace(v))
			if n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 8); err == nil {
				r.node(fmt.Sprint("/dev/nvidia", n), unix.Mkdev(nvidiaMajor, uint32(n)), false)
			}
		}
	}
	if gpu, err := r.KFDGPU(a); err == nil && gpu != "" {
		ids, _ := r.ListIfAny("/sys/class/kfd/kfd/topology/nodes")
		for _, id := range ids {
			if r.value("/sys/class/kfd/kfd/topology/nodes/"+id+"/gpu_id") == gpu {
				say("kfd", id+":"+gpu)
				r.kfd(gpu)
			}
		}
	}
	if vfs, err := r.VFs(a); err == nil && len(vfs) > 0 {
		say("vfs", r.value(dir+"/sriov_numvfs"))
		say("virtfn", strings.Join(vfs, ","))
	}
	if !strings.HasPrefix(driver, "vfio") {
		say("irqs", r.ownInterrupts(dir))
	}
	return line
}

// ownInterrupts writes what the function's driver has asked for.
func (r *recorder) ownInterrupts(dir string) string {
	names, _ := r.ListIfAny(dir + "/msi_irqs")
	slices.SortFunc(names, byNumber)
	var all []string
	for _, name := range names {
		actions, _ := r.SubDirs(irqDir + "/" + name)
		if n, err := strconv.Atoi(name); err == nil && len(actions) == 1 && !strings.ContainsAny(actions[0], " ,=") {
			r.irqs[n] = true
			all = append(all, name+":"+actions[0])
		}
	}
	return strings.Join(all, ",")
}

// kfd notes AMD's compute driver: who has it open, and who works on the GPU.
func (r *recorder) kfd(gpu string) {
	if st, err := r.Stat(kfdNode); err == nil {
		r.node(kfdNode, st.Rdev, false)
	}
	const dir = "/sys/class/kfd/kfd/proc"
	pids, _ := r.ListIfAny(dir)
	for _, pid := range pids {
		at := dir + "/" + pid
		real := kfdDir + "/proc/" + pid
		r.keep(real+"/vram_"+gpu, r.value(at+"/vram_"+gpu))
		r.keep(real+"/pasid", r.value(at+"/pasid"))
		queues, _ := r.ListIfAny(at + "/queues")
		for _, q := range queues {
			r.keep(real+"/queues/"+q+"/gpuid", r.value(at+"/queues/"+q+"/gpuid"))
		}
	}
}

// keep adds a file that has something in it, once.
func (r *recorder) keep(name, content string) {
	name = strings.TrimPrefix(name, "/")
	for _, f := range r.raw {
		if f.Name == name {
			return
		}
	}
	if content != "" {
		r.add(name, content)
	}
}

// bars writes the regions that are memory.
func (r *recorder) bars(dir string) string {
	var all []string
	i := 0
	for l := range strings.Lines(r.value(dir + "/resource")) {
		f := strings.Fields(l)
		if len(f) != 3 || i >= regions {
			break
		}
		start, err1 := strconv.ParseUint(f[0], 0, 64)
		end, err2 := strconv.ParseUint(f[1], 0, 64)
		flags, err3 := strconv.ParseUint(f[2], 0, 64)
		const isMemory, least = 0x200, 1024
		if err1 == nil && err2 == nil && err3 == nil && flags&isMemory != 0 && end-start+1 >= least {
			bar := fmt.Sprintf("%d:%x:%dK", i, start, (end-start+1)>>10)
			if sizes, err := strconv.ParseUint(r.value(fmt.Sprintf("%s/resource%d_resize", dir, i)), 16, 64); err == nil && sizes > 0 {
				var can []string
				for n := range 44 {
					if sizes&(1<<n) != 0 {
						can = append(can, strconv.FormatUint(1<<n, 10))
					}
				}
				bar += ":resizable=" + strings.Join(can, "|")
			}
			all = append(all, bar)
		}
		i++
	}
	return strings.Join(all, ",")
}

// nodesOf writes the device nodes below a device, and the connectors of its cards.
func (r *recorder) nodesOf(dir string) (nodes, connectors []string) {
	var walk func(rel string, depth int)
	walk = func(rel string, depth int) {
		const deepest = 12
		names, err := r.SubDirs(path.Join(dir, rel))
		if err != nil || depth > deepest {
			return
		}
		for _, n := range names {
			if n == "power" || n == "msi_irqs" || n == "vfio-dev" || strings.Count(n, ":") == 2 && strings.Contains(n, ".") || strings.HasSuffix(n, "-framebuffer.0") {
				continue
			}
			at := path.Join(rel, n)
			if card := path.Base(rel); path.Dir(rel) == "drm" && strings.HasPrefix(n, card+"-") {
				status, enabled := r.value(path.Join(dir, at, "status")), r.value(path.Join(dir, at, "enabled"))
				if status != "" && enabled != "" {
					connectors = append(connectors, n+":"+status+":"+enabled)
				}
			}
			if s := r.nodeAt(dir, at); s != "" {
				nodes = append(nodes, s)
			}
			walk(at, depth+1)
		}
	}
	walk("", 0)
	return nodes, connectors
}

// nodeAt writes a device node as the section pci has it, "" if the directory is none's.
func (r *recorder) nodeAt(dir, rel string) string {
	at := path.Join(dir, rel)
	major, minor, ok := strings.Cut(r.value(at+"/dev"), ":")
	a, err1 := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return ""
	}
	kind, _ := r.LinkBase(at + "/subsystem")
	name := path.Base(rel)
	below := path.Dir(rel)
	switch kind {
	case "drm":
		if below != "drm" {
			name = rel
		}
	case "graphics":
		kind = "fb"
		if below != "graphics" {
			name = rel
		}
	case "sound", "hidraw":
	case "i2c-dev":
		kind = "i2c"
		if up := path.Dir(path.Dir(rel)); up != name {
			name = up
		}
	case "block":
		r.disks[name] = true
		if below != "block" {
			name = rel
		}
	case "":
		return ""
	default:
		if below != kind {
			name = rel
		}
	}
	if strings.ContainsAny(name, " ,=") {
		return ""
	}
	n := devNode{kind: kind, name: path.Base(name), major: uint32(a), minor: uint32(b)}
	if n.name != name {
		n.dir = path.Dir(name)
	}
	_, _, dev := n.place()
	r.node(dev, unix.Mkdev(uint32(a), uint32(b)), kind == "block")
	return fmt.Sprintf("%s:%s:%d:%d", kind, name, a, b)
}
