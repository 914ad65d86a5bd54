package sysfstest

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"qemu-hook/cpuset"
	"qemu-hook/sysfs"
)

// interrupts writes those that are no function's own; ok is false where the host shows none.
func (r *recorder) interrupts() (lines []string, ok bool) {
	names, err := r.SubDirs(irqDir)
	if err != nil {
		return nil, false
	}
	possible, _ := cpuset.ParseList(r.value(cpuDir + "/possible"))
	if s, err := cpuset.ParseMask(r.value(irqDir + "/default_smp_affinity")); err == nil && !s.Equal(possible) {
		lines = append(lines, "default "+s.String())
	}
	slices.SortFunc(names, byNumber)
	for _, name := range names {
		n, err := strconv.Atoi(name)
		if err != nil || r.irqs[n] {
			continue
		}
		dir := irqDir + "/" + name
		line := name
		actions, _ := r.SubDirs(dir)
		for _, a := range actions {
			line += " " + r.scrub.text(strings.ReplaceAll(a, " ", "_"))
		}
		if v := r.value(dir + "/smp_affinity_list"); v != "" {
			line += " affinity=" + v
		}
		if v := r.value(dir + "/node"); v != "" && v != "-1" {
			line += " node=" + v
		}
		// Those that nobody may move say so by their mode only on newer kernels.
		if st, err := r.Stat(dir + "/smp_affinity"); err == nil && st.Perm()&0o222 == 0 {
			line += " managed=yes"
		}
		if len(actions) == 0 {
			line += " handler=no"
		}
		lines = append(lines, line)
	}
	return lines, true
}

func byNumber(a, b string) int {
	n, _ := strconv.Atoi(a)
	m, _ := strconv.Atoi(b)
	return n - m
}

func (r *recorder) workqueues() (lines []string, ok bool) {
	for key, name := range map[string]string{
		"cpumask": workqueueDir + "/cpumask", "writeback": workqueueDir + "/writeback/cpumask", "watchdog": "/proc/sys/kernel/watchdog_cpumask",
	} {
		v, err := r.Read(name)
		if err != nil {
			continue
		}
		parse := cpuset.ParseMask
		if key == "watchdog" {
			parse = cpuset.ParseList
		}
		if s, err := parse(v); err == nil {
			ok = true
			if !s.Empty() {
				lines = append(lines, key+" "+s.String())
			}
		}
	}
	slices.Sort(lines)
	return lines, ok
}

func (r *recorder) frequencies() []string {
	names, _ := r.ListIfAny(cpuDir + "/cpufreq")
	var lines []string
	for _, name := range names {
		dir := cpuDir + "/cpufreq/" + name + "/"
		related := strings.Join(strings.Fields(r.value(dir+"related_cpus")), ",")
		governor, governors := r.value(dir+"scaling_governor"), strings.Fields(r.value(dir+"scaling_available_governors"))
		if !strings.HasPrefix(name, "policy") || related == "" || !slices.Contains(governors, governor) {
			continue
		}
		line := fmt.Sprintf("%s %s driver=%s governor=%s governors=%s", name, related, r.value(dir+"scaling_driver"), governor, strings.Join(governors, ","))
		epp, epps := r.value(dir+"energy_performance_preference"), strings.Fields(r.value(dir+"energy_performance_available_preferences"))
		if slices.Contains(epps, epp) && epp != "default" {
			line += " epp=" + epp + " epps=" + strings.Join(epps, ",")
		}
		lines = append(lines, line)
	}
	return lines
}

// groups writes the control groups that the program looks at: those at the top, guests', and those of the processes that are
// kept.
func (r *recorder) groups(ctx context.Context) []string {
	if r.value(cgroupRoot+"/cgroup.controllers") == "" {
		return nil
	}
	want := map[string]bool{"/": true}
	names, _ := r.SubDirs(cgroupRoot)
	for _, n := range names {
		if !slices.Contains([]string{".mount", ".automount", ".swap", ".socket"}, path.Ext(n)) {
			want["/"+n] = true
		}
	}
	var below func(g string, depth int)
	below = func(g string, depth int) {
		names, _ := r.SubDirs(cgroupRoot + g)
		for _, n := range names {
			want[g+"/"+n] = true
			if depth < 3 {
				below(g+"/"+n, depth+1)
			}
		}
	}
	below("/machine.slice", 0)
	for g := range r.cgroups {
		for ; g != "/" && g != "." && g != ""; g = path.Dir(g) {
			want[g] = true
		}
	}
	var lines []string
	for _, g := range slices.Sorted(maps.Keys(want)) {
		dir := strings.TrimSuffix(cgroupRoot+g, "/")
		line := r.scrub.text(g)
		if strings.ContainsAny(line, " \t") || g != "/" && !r.Exists(dir) {
			continue
		}
		if v := strings.Fields(r.value(dir + "/cgroup.subtree_control")); len(v) > 0 {
			line += " subtree=" + strings.Join(v, ",")
		}
		if v := r.value(dir + "/cpuset.cpus"); v != "" && g != "/" {
			line += " cpus=" + v
		}
		if r.o.Manager != nil && strings.Count(g, "/") == 1 && g != "/" {
			if s, err := r.o.Manager.AllowedCPUs(ctx, path.Base(g)); err == nil && !s.Empty() {
				line += " allowed=" + s.String()
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// units writes those that run, of the ones that the program asks about.
func (r *recorder) units(ctx context.Context) []string {
	if r.o.Manager == nil || !r.Exists("/run/systemd/system") {
		return nil
	}
	names := append([]string{
		"display-manager.service", "nvidia-persistenced.service", "nvidia-powerd.service", "irqbalance.service",
		"power-profiles-daemon.service", "tuned.service", "tuned-ppd.service", "auto-cpufreq.service", "tlp.service",
	}, r.o.Units...)
	if to, err := r.LinkBase("/etc/systemd/system/display-manager.service"); err == nil && to != "" {
		names = append(names, to)
	}
	for g := range r.cgroups {
		for part := range strings.SplitSeq(g, "/") {
			if path.Ext(part) == ".service" {
				names = append(names, part)
				break
			}
		}
	}
	slices.Sort(names)
	var lines []string
	for _, n := range slices.Compact(names) {
		if runs, err := r.o.Manager.UnitRuns(ctx, n); err == nil && runs && !strings.ContainsAny(n, " \t") {
			lines = append(lines, r.scrub.text(n)+" active")
		}
	}
	return lines
}

// processes writes the kernel's threads, and of the others those that have a device open that the program asks about, or that it
// looks for by name. Of their arguments none is kept but the program, and a guest's UUID.
func (r *recorder) processes() []string {
	names, _ := r.ReadDir("/proc")
	slices.SortFunc(names, byNumber)
	leaders := map[int]bool{}
	sessions, _ := r.Sessions()
	for _, s := range sessions {
		leaders[s.Leader] = true
	}
	guests := map[string]bool{}
	pidFiles, _ := r.ListIfAny("/run/libvirt/qemu")
	for _, f := range pidFiles {
		if strings.HasSuffix(f, ".pid") {
			guests[r.value("/run/libvirt/qemu/"+f)] = true
		}
	}
	var lines []string
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == 1 {
			continue
		}
		st, err := r.ProcessStat(pid)
		if err != nil || st.Comm == "" {
			continue
		}
		line := name
		const kernelThread, bound = 0x00200000, 0x04000000 // PF_KTHREAD, PF_NO_SETAFFINITY
		if st.Flags&kernelThread != 0 {
			line += " kthread=yes"
			if st.Flags&bound != 0 {
				line += " bound=yes"
			}
			if s, err := r.ThreadCPUs(sysfs.Process{PID: pid, Start: st.Start}); err == nil && !s.Empty() {
				line += " affinity=" + s.String()
			}
			lines = append(lines, line+" "+r.scrub.text(strings.ReplaceAll(st.Comm, " ", "_")))
			continue
		}
		open, mapped := r.opened(pid)
		known := slices.Contains([]string{"libvirtd", "virtqemud", "irqbalance", "systemd-logind", "seatd", "elogind"}, st.Comm)
		if len(open)+len(mapped) == 0 && !known && !leaders[pid] && !guests[name] {
			continue
		}
		group, uid := "/", ""
		for l := range strings.Lines(r.value("/proc/" + name + "/cgroup")) {
			if g, ok := strings.CutPrefix(strings.TrimSpace(l), "0::"); ok {
				group = g
			}
		}
		for l := range strings.Lines(r.value("/proc/" + name + "/status")) {
			if f := strings.Fields(l); len(f) > 1 && f[0] == "Uid:" && f[1] != "0" {
				uid = f[1]
			}
		}
		if uid != "" {
			line += " uid=" + uid
		}
		if !strings.ContainsAny(group, " \t") {
			r.cgroups[group] = true
			line += " cgroup=" + r.scrub.text(group)
		}
		if len(open) > 0 {
			line += " open=" + strings.Join(open, ",")
		}
		if len(mapped) > 0 {
			line += " maps=" + strings.Join(mapped, ",")
		}
		line += " " + r.scrub.text(strings.ReplaceAll(st.Comm, " ", "_"))
		args, _ := r.ReadFile("/proc/" + name + "/cmdline")
		words := strings.Split(strings.TrimRight(string(args), "\x00"), "\x00")
		if program := words[0]; strings.HasPrefix(program, "/") && !strings.HasPrefix(program, "/home/") && !strings.ContainsAny(program, " \t=") {
			line += " " + r.scrub.text(program)
		}
		if i := slices.Index(words, "-uuid"); i >= 0 && i+1 < len(words) && guests[name] {
			line += " -uuid " + words[i+1]
		}
		lines = append(lines, line)
	}
	return lines
}

const blockBit = 1 << 63

// opened returns the nodes that a process has open, and those that it has mapped only.
func (r *recorder) opened(pid int) (open, mapped []string) {
	_ = r.OpenDevices(pid, func(rdev uint64, block bool) {
		if block {
			rdev |= blockBit
		}
		if name := r.nodes[rdev]; name != "" && !slices.Contains(open, name) {
			open = append(open, name)
		}
	})
	text, _ := r.ReadFile("/proc/" + strconv.Itoa(pid) + "/maps")
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 6 || !strings.HasPrefix(f[5], "/dev/") {
			continue
		}
		if slices.Contains(slices.Collect(maps.Values(r.nodes)), f[5]) && !slices.Contains(open, f[5]) && !slices.Contains(mapped, f[5]) {
			mapped = append(mapped, f[5])
		}
	}
	slices.Sort(open)
	slices.Sort(mapped)
	return open, mapped
}

// node notes a device node, with its owner.
func (r *recorder) node(name string, rdev uint64, block bool) {
	key := rdev
	if block {
		key |= blockBit
	}
	r.nodes[key] = name
	if st, err := r.Stat(name); err == nil && st.Rdev == rdev {
		r.owners = append(r.owners, fmt.Sprintf("%s %04o %d:%d", name, st.Perm(), st.UID, st.GID))
	}
}

// devNumber prints a device's number as sysfs does.
func devNumber(rdev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(rdev), unix.Minor(rdev)) }

// devices writes nodes that belong to no function.
func (r *recorder) devices() []string {
	var lines []string
	add := func(name string) {
		st, err := r.Stat(name)
		if err != nil {
			return
		}
		kind := "c"
		if st.Type() == unix.S_IFBLK {
			kind = "b"
		} else if st.Type() != unix.S_IFCHR {
			return
		}
		lines = append(lines, fmt.Sprintf("%s %s %d:%d %04o %d:%d", name, kind, unix.Major(st.Rdev), unix.Minor(st.Rdev), st.Perm(), st.UID, st.GID))
	}
	known := map[string]bool{}
	for _, name := range r.nodes {
		known[name] = !r.loose[name]
	}
	names, _ := r.ReadDir("/dev")
	for _, n := range names {
		if n == "kvm" || strings.HasPrefix(n, "kvmfr") || strings.HasPrefix(n, "nvidia") && !known["/dev/"+n] || r.disks[n] && !known["/dev/"+n] {
			add("/dev/" + n)
		}
	}
	for _, dir := range []string{"/dev/dri", "/dev/snd"} {
		names, _ := r.ReadDir(dir)
		for _, n := range names {
			if name := dir + "/" + n; !known[name] && strings.Trim(n, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == "" {
				add(name)
			}
		}
	}
	return lines
}
