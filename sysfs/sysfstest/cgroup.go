package sysfstest

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"qemu-hook/cpuset"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroup is a group of the unified hierarchy.
type cgroup struct {
	cpus cpuset.Set // cpuset.cpus
	// exclusive is cpuset.cpus.exclusive; isolated says that the group is an isolated partition, of its own CPUs.
	exclusive                cpuset.Set
	isolated, wantsPartition bool
	subtree                  []string // cgroup.subtree_control: what its children have
}

// has reports whether a group has the cpuset controller's files: its parent hands the controller on.
func (h *Host) has(group, controller string) bool {
	return group != "/" && slices.Contains(h.cgroups[path.Dir(group)].subtree, controller)
}

// effective is cpuset.cpus.effective: of the parent's what the group asks for; all of it if that is nothing.
func (h *Host) effective(group string) cpuset.Set {
	if group == "/" {
		return h.cpus.online.Minus(h.partitions(""))
	}
	if g := h.cgroups[group]; g.isolated {
		return h.cpus.online.Intersect(g.cpus)
	}
	parent := h.effective(path.Dir(group))
	if !h.has(group, "cpuset") {
		return parent
	}
	if own := parent.Intersect(h.cgroups[group].cpus); !own.Empty() {
		return own
	}
	return parent
}

// partitions are the CPUs of isolated partitions, but for one group's.
func (h *Host) partitions(but string) (s cpuset.Set) {
	for name, g := range h.cgroups {
		if g.isolated && name != but {
			s = s.Union(g.cpus)
		}
	}
	return s
}

// partition is what cpuset.cpus.partition says; setPartition is a write to it. A partition anywhere in the hierarchy takes
// cpuset.cpus.exclusive in all groups above, and CPUs that no sibling has (remote partitions, Linux 6.7).
func (h *Host) partition(group string) (string, error) {
	g := h.cgroups[group]
	switch why := h.noPartition(group); {
	case !g.wantsPartition:
		return "member\n", nil
	case why != "":
		return "isolated invalid (" + why + ")\n", nil
	}
	return "isolated\n", nil
}

func (h *Host) noPartition(group string) string {
	g := h.cgroups[group]
	for above := path.Dir(group); above != "/"; above = path.Dir(above) {
		if g.cpus.Empty() || !g.cpus.Minus(h.cgroups[above].exclusive).Empty() {
			return "Invalid cpu list in cpuset.cpus.exclusive"
		}
	}
	for _, sibling := range h.children(path.Dir(group)) {
		if sibling != group && !h.cgroups[sibling].cpus.Intersect(g.cpus).Empty() {
			return "Cpu list in cpuset.cpus not exclusive"
		}
	}
	return ""
}

func (h *Host) setPartition(group, v string) error {
	g := h.cgroups[group]
	switch strings.TrimSpace(v) {
	case "member":
		g.wantsPartition, g.isolated = false, false
	case "isolated":
		g.wantsPartition, g.isolated = true, h.noPartition(group) == ""
	default:
		return syscall.EINVAL
	}
	return nil
}

// controllers returns what a group's children can be given.
func (h *Host) controllers(group string) []string {
	if group == "/" {
		return h.kernel.controllers
	}
	return h.cgroups[path.Dir(group)].subtree
}

// addCgroup makes a group, "/" or "/system.slice/x.service", with its files, and returns its directory.
func (h *Host) addCgroup(group string) Node {
	h.cgroups[group] = &cgroup{}
	dir := path.Join(cgroupRoot, group)
	n := h.mkdir(dir)
	h.rule(dir+"/cgroup.controllers", &attr{show: func(h *Host) (string, error) {
		return strings.Join(h.controllers(group), " ") + "\n", nil
	}})
	h.rule(dir+"/cgroup.subtree_control", &attr{
		show: func(h *Host) (string, error) { return strings.Join(h.cgroups[group].subtree, " ") + "\n", nil },
		store: func(h *Host, v string) error {
			next, err := h.parseSubtree(group, v)
			if err == nil {
				h.setSubtree(group, next)
			}
			return err
		},
	})
	h.rule(dir+"/cgroup.procs", &attr{noise: true, show: func(h *Host) (string, error) { return h.procsOf(group), nil }})
	if group == "/" {
		h.rule(dir+"/cpuset.cpus.effective", &attr{show: func(h *Host) (string, error) {
			return h.effective("/").String() + "\n", nil
		}})
		h.value(dir+"/cpuset.mems.effective", h.memoryNodes())
		return n
	}
	h.value(dir+"/cgroup.type", "domain")
	h.addCpuset(group)
	return n
}

// procsOf is cgroup.procs: the processes in a group itself.
func (h *Host) procsOf(group string) string {
	var b strings.Builder
	for _, pid := range h.pids() {
		if h.processes[pid].cgroup == group {
			b.WriteString(strconv.Itoa(pid) + "\n")
		}
	}
	return b.String()
}

// memoryNodes lists the nodes that have memory.
func (h *Host) memoryNodes() string {
	var s cpuset.Set
	for _, n := range h.nodes {
		if n.total > 0 {
			s = s.Union(cpuset.Of(n.id))
		}
	}
	return s.String()
}

// addCpuset makes the cpuset controller's files in a group that has it.
func (h *Host) addCpuset(group string) {
	if !h.has(group, "cpuset") {
		return
	}
	dir := cgroupRoot + group
	h.rule(dir+"/cpuset.cpus", &attr{
		show:  func(h *Host) (string, error) { return h.cgroups[group].cpus.String() + "\n", nil },
		store: func(h *Host, v string) error { return h.setCpus(group, v) },
	})
	h.rule(dir+"/cpuset.cpus.effective", &attr{show: func(h *Host) (string, error) {
		return h.effective(group).String() + "\n", nil
	}})
	h.rule(dir+"/cpuset.cpus.partition", &attr{
		show:  func(h *Host) (string, error) { return h.partition(group) },
		store: func(h *Host, v string) error { return h.setPartition(group, v) },
	})
	if h.kernel.atLeast(6, 7) {
		h.rule(dir+"/cpuset.cpus.exclusive", &attr{
			show: func(h *Host) (string, error) { return h.cgroups[group].exclusive.String() + "\n", nil },
			store: func(h *Host, v string) error {
				s, err := cpuset.ParseList(strings.TrimSpace(v))
				if err != nil || h.beyond(s) {
					return syscall.EINVAL
				}
				h.cgroups[group].exclusive = s
				return nil
			},
		})
	}
	h.text(dir+"/cpuset.mems", 0o644, "\n")
	h.value(dir+"/cpuset.mems.effective", h.memoryNodes())
}

// setCpus is a write to cpuset.cpus: any CPU that could ever exist will do, off line or not.
func (h *Host) setCpus(group, v string) error {
	s, err := cpuset.ParseList(strings.TrimSpace(v))
	if err != nil {
		return syscall.EINVAL
	}
	if h.beyond(s) {
		return syscall.ERANGE
	}
	if !s.Minus(h.cpus.possible).Empty() {
		return syscall.EINVAL
	}
	g := h.cgroups[group]
	if h.kernel.keepsCPUs && s.Empty() && !g.cpus.Empty() {
		return syscall.ENOSPC // "cannot be changed to have empty cpus_allowed", kernel/cgroup/cpuset.c
	}
	g.cpus = s
	return nil
}

// parseSubtree reads "+cpuset -cpu".
func (h *Host) parseSubtree(group, v string) ([]string, error) {
	next := slices.Clone(h.cgroups[group].subtree)
	for _, f := range strings.Fields(v) {
		name := f[1:]
		switch {
		case name == "" || f[0] != '+' && f[0] != '-' || !slices.Contains(h.kernel.controllers, name):
			return nil, syscall.EINVAL
		case f[0] == '-':
			next = slices.DeleteFunc(next, func(c string) bool { return c == name })
			for _, g := range h.children(group) {
				if slices.Contains(h.cgroups[g].subtree, name) {
					return nil, syscall.EBUSY
				}
			}
		case !slices.Contains(h.controllers(group), name):
			return nil, syscall.ENOENT
		case !slices.Contains(next, name):
			next = append(next, name)
		}
	}
	slices.SortFunc(next, func(a, b string) int { // as the kernel orders them
		return slices.Index(h.kernel.controllers, a) - slices.Index(h.kernel.controllers, b)
	})
	return next, nil
}

// setSubtree hands controllers on to a group's children, whose files come and go with them.
func (h *Host) setSubtree(group string, next []string) {
	had := slices.Contains(h.cgroups[group].subtree, "cpuset")
	h.cgroups[group].subtree = next
	has := slices.Contains(next, "cpuset")
	for _, g := range h.children(group) {
		switch {
		case has && !had:
			h.addCpuset(g)
		case had && !has:
			*h.cgroups[g] = cgroup{subtree: h.cgroups[g].subtree}
			for _, f := range []string{"cpus", "cpus.effective", "cpus.exclusive", "cpus.partition", "mems", "mems.effective"} {
				h.erase(cgroupRoot + g + "/cpuset." + f)
			}
		}
	}
}

func (h *Host) children(group string) []string {
	var out []string
	for g := range h.cgroups {
		if g != "/" && path.Dir(g) == group {
			out = append(out, g)
		}
	}
	slices.Sort(out)
	return out
}

// AddCgroup makes a control group, "/machine.slice/x.scope", and those above it that are not there.
func (h *Host) AddCgroup(group string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.addCgroups(group)
}

func (h *Host) addCgroups(group string) {
	if h.cgroups[group] == nil {
		h.addCgroups(path.Dir(group))
		h.addCgroup(group)
	}
}

// RemoveCgroup ends the processes of a control group and takes it away, with all groups in it.
func (h *Host) RemoveCgroup(group string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, pid := range h.pids() {
		if under(h.processes[pid].cgroup, group) {
			h.endProcess(pid)
		}
	}
	for g := range h.cgroups {
		if under(g, group) {
			h.removeCgroup(g)
		}
	}
}

func (h *Host) removeCgroup(group string) {
	delete(h.cgroups, group)
	h.erase(cgroupRoot + group)
}
