package sysfstest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/tools/txtar"

	"qemu-hook/cpuset"
	"qemu-hook/sysfs"
	"qemu-hook/systemd"
)

// RecordOptions says what a host does not say by its files.
type RecordOptions struct {
	Comment string
	Manager systemd.Manager // nil: no unit is asked about
	Units   []string        // to ask about, beside those that the program knows
}

// recordedBoot is what every record has for the identifier of the boot, which is nobody's.
const recordedBoot = "00000000-0000-4000-8000-000000000000"

// A recorder writes a host down as a host file. What cannot be read is left out.
type recorder struct {
	sysfs.FS
	o     RecordOptions
	scrub *scrubber

	nodes   map[uint64]string // device nodes by number, bit 63 set for block devices
	loose   map[string]bool   // those that are no function's
	owners  []string
	members []string // functions, in the order of the section
	drivers map[string]string
	irqs    map[int]bool // that functions own
	disks   map[string]bool
	cgroups map[string]bool
	raw     []txtar.File
}

// Record writes a host down as a host file that [Parse] takes: what the program reads of it, and nothing by which the machine or
// the people on it are known. User names, home directories and the host's name are replaced; serial numbers, hardware addresses
// and identifiers of file systems are not read at all.
func Record(ctx context.Context, h sysfs.FS, o RecordOptions) ([]byte, error) {
	r := &recorder{
		FS: h, o: o, scrub: newScrubber(h), nodes: map[uint64]string{}, loose: map[string]bool{}, irqs: map[int]bool{}, disks: map[string]bool{},
		cgroups: map[string]bool{}, drivers: map[string]string{},
	}
	pci := r.pci()
	processes := r.processes()
	files := []txtar.File{
		r.section("kernel", r.kernel()), r.section("cpus", r.cpus()), r.section("nodes", r.numa()), r.section("hugepages", r.hugepages()),
	}
	if lines, ok := r.interrupts(); ok {
		files = append(files, r.section("irqs", lines))
	}
	if lines, ok := r.workqueues(); ok {
		files = append(files, r.section("workqueues", lines))
	}
	files = append(files, r.section("cpufreq", r.frequencies()))
	modules := len(files)
	files = append(files, r.section("modules", r.modules(nil)), r.section("pci", pci), r.section("cgroups", r.groups(ctx)))
	files = append(files,
		r.section("mounts", nil), r.section("devices", r.devices()), r.section("links", r.links()), r.section("units", r.units(ctx)),
		r.section("consoles", r.consoles()), r.section("framebuffers", r.framebuffers()), r.section("processes", processes))
	r.files()
	render := func(owners []string) []byte {
		all := slices.DeleteFunc(slices.Clone(files), func(f txtar.File) bool {
			return len(f.Data) == 0 && f.Name != "irqs" && f.Name != "workqueues"
		})
		if len(owners) > 0 {
			all = append(all, r.section("owners", owners))
		}
		return txtar.Format(&txtar.Archive{Comment: []byte(o.Comment + "\n\n"), Files: append(all, r.raw...)})
	}
	// How often a module is in use says the kernel; how much of that the model accounts for, the model.
	first, err := Parse("record", render(nil))
	if err != nil {
		return nil, err
	}
	defer first.Close()
	r.keepOwners(first)
	used := map[string]int{}
	for name, m := range first.modules {
		refs, err := h.ModuleRefs(name)
		if n := int(refs) - first.refs(m); err == nil && m.loaded && n > 0 {
			used[name] = n
		}
	}
	files[modules] = r.section("modules", r.modules(used))
	out := render(r.owners)
	second, err := Parse("record", out)
	if err != nil {
		return nil, err
	}
	second.Close()
	return out, nil
}

// keepOwners drops what is said of files that the model has not.
func (r *recorder) keepOwners(h *Host) {
	r.owners = slices.DeleteFunc(r.owners, func(line string) bool {
		name, _, _ := strings.Cut(line, " ")
		return h.find(name) == noNode
	})
}

func (r *recorder) section(name string, lines []string) txtar.File {
	f := txtar.File{Name: name}
	for _, l := range lines {
		f.Data = append(f.Data, l+"\n"...)
	}
	f.Data = append(f.Data, '\n')
	if len(lines) == 0 && name != "irqs" && name != "workqueues" {
		f.Data = nil
	}
	return f
}

// file keeps a file as it is, but for names.
func (r *recorder) file(name string) {
	if b, err := r.ReadFile(name); err == nil && !bytes.ContainsRune(b, 0) {
		r.add(name, r.scrub.text(string(b)))
	}
}

func (r *recorder) add(name, content string) {
	content = strings.TrimRight(content, "\n")
	r.raw = append(r.raw, txtar.File{Name: strings.TrimPrefix(name, "/"), Data: []byte(content + "\n")})
}

func (r *recorder) value(name string) string {
	v, _ := r.Read(name)
	return v
}

func (r *recorder) kernel() []string {
	var lines []string
	say := func(key, v string) {
		if v != "" {
			lines = append(lines, key+" "+v)
		}
	}
	say("release", r.value("/proc/sys/kernel/osrelease"))
	say("cmdline", cmdline(r.value("/proc/cmdline")))
	say("boot_id", recordedBoot)
	if dir, err := r.ModulesDir(); err == nil && dir != "" {
		say("modules", strings.TrimSuffix(dir, "/"+r.value("/proc/sys/kernel/osrelease")))
	}
	say("modprobe", r.value("/proc/sys/kernel/modprobe"))
	say("systemd", map[bool]string{true: "yes", false: "no"}[r.Exists("/run/systemd/system")])
	controllers := r.value(cgroupRoot + "/cgroup.controllers")
	if controllers == "" {
		controllers = "none"
	}
	say("controllers", controllers)
	for _, name := range []string{"/usr/bin/nvidia-smi", "/run/current-system/sw/bin/nvidia-smi", "/opt/bin/nvidia-smi"} {
		if r.Exists(name) {
			say("nvidia_smi", name)
			break
		}
	}
	return lines
}

// cmdline keeps the parameters that have to do with what the program does. Others may name disks, addresses and people.
func cmdline(s string) string {
	var kept []string
	for word := range strings.FieldsSeq(s) {
		key, _, _ := strings.Cut(word, "=")
		module, _, _ := strings.Cut(key, ".")
		if slices.Contains([]string{
			"ro", "rw", "quiet", "intel_iommu", "amd_iommu", "iommu", "isolcpus", "nohz_full", "rcu_nocbs", "irqaffinity", "hugepages", "hugepagesz",
			"default_hugepagesz", "transparent_hugepage", "mitigations", "nosmt", "maxcpus", "preempt", "threadirqs", "pcie_acs_override",
			"pcie_aspm", "pci", "video", "efi", "initcall_blacklist", "module_blacklist", "intel_pstate", "amd_pstate", "qemu_hook",
			"vfio", "vfio_pci", "vfio-pci", "vfio_iommu_type1", "nvidia", "nvidia_drm", "nvidia-drm", "nouveau", "i915", "xe", "amdgpu", "kvm", "kvm_amd", "kvm_intel", "kvmfr",
		}, module) || key == "modprobe.blacklist" || key == "systemd.unified_cgroup_hierarchy" {
			kept = append(kept, word)
		}
	}
	return strings.Join(kept, " ")
}

func (r *recorder) cpus() []string {
	online, _ := r.OnlineCPUs()
	present, err := r.PresentCPUs()
	if err != nil {
		present = online
	}
	var lines []string
	cores := map[int][]string{}
	var packages []int
	var done cpuset.Set
	for cpu := range online.All() {
		if done.Contains(cpu) {
			continue
		}
		p := r.CPUPlace(cpu)
		done = done.Union(p.Threads)
		if _, ok := cores[p.Package]; !ok {
			packages = append(packages, p.Package)
		}
		cores[p.Package] = append(cores[p.Package], p.Threads.Intersect(online).String())
	}
	for _, p := range packages {
		lines = append(lines, fmt.Sprintf("package %d %s", max(p, 0), strings.Join(cores[p], " ")))
	}
	type kind struct {
		level int
		bytes uint64
	}
	var kinds []kind
	shared := map[kind][]string{}
	for _, c := range r.Caches(online) {
		k := kind{c.Level, c.Bytes}
		if shared[k] == nil {
			kinds = append(kinds, k)
		}
		shared[k] = append(shared[k], c.CPUs.String())
	}
	for _, k := range kinds {
		lines = append(lines, fmt.Sprintf("cache %d %dK %s", k.level, k.bytes>>10, strings.Join(shared[k], " ")))
	}
	list := func(key string, s cpuset.Set) {
		if !s.Empty() {
			lines = append(lines, key+" "+s.String())
		}
	}
	if s, err := cpuset.ParseList(r.value(cpuDir + "/possible")); err == nil {
		list("possible", s)
	}
	list("present", present)
	list("online", online)
	isolated, _ := r.IsolatedCPUs()
	list("isolated", isolated)
	for _, kind := range []string{"cpu_core", "cpu_atom"} {
		r.file("/sys/devices/" + kind + "/cpus")
	}
	return lines
}

func (r *recorder) numa() []string {
	var lines []string
	for _, id := range r.Nodes() {
		line := strconv.Itoa(id)
		if cpus, err := r.NodeCPUs(id); err == nil && !cpus.Empty() {
			line += " cpus=" + cpus.String()
		}
		amounts := map[string]int64{}
		for l := range strings.Lines(r.value(fmt.Sprintf("%s/node%d/meminfo", nodeDir, id))) {
			if f := strings.Fields(l); len(f) > 3 {
				amounts[strings.TrimSuffix(f[2], ":")], _ = strconv.ParseInt(f[3], 10, 64)
			}
		}
		total, free := amounts["MemTotal"], amounts["MemFree"]
		cache, slab := amounts["Active(file)"]+amounts["Inactive(file)"], amounts["SReclaimable"]
		line += fmt.Sprintf(" total=%dK free=%dK cache=%dK slab=%dK", total, free, cache, slab)
		var distance []string
		for _, d := range r.NodeDistances(id) {
			distance = append(distance, strconv.Itoa(d))
		}
		if len(distance) > 0 {
			line += " distance=" + strings.Join(distance, ",")
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		lines = []string{"0 total=0K"}
	}
	return lines
}

func (r *recorder) hugepages() []string {
	sizes, _ := r.HugePageSizes()
	def, _ := r.DefaultHugePageKiB()
	var lines []string
	for _, kib := range sizes {
		line := strconv.FormatUint(kib, 10)
		if kib == def {
			line += " default"
		}
		for _, id := range r.Nodes() {
			s, err := r.PoolState(sysfs.Pool{KiB: kib, Node: id})
			if err != nil || s.Total == 0 {
				continue
			}
			line += fmt.Sprintf(" node%d=%d", id, s.Persistent())
			if n := min(s.InUse(), s.Persistent()); n > 0 {
				line += fmt.Sprintf(" used%d=%d", id, n)
			}
		}
		if v := r.value(fmt.Sprintf("/sys/kernel/mm/hugepages/hugepages-%dkB/nr_overcommit_hugepages", kib)); v != "" && v != "0" {
			line += " overcommit=" + v
		}
		lines = append(lines, line)
	}
	return lines
}
