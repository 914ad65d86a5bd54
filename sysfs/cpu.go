package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"qemu-hook/cpuset"
)

// cpuDir is the host's CPUs (Documentation/ABI/testing/sysfs-devices-system-cpu).
const cpuDir = "/sys/devices/system/cpu"

// OnlineCPUs returns the CPUs that run, /sys/devices/system/cpu/online.
func (h FS) OnlineCPUs() (cpuset.Set, error) { return h.readList(cpuDir + "/online") }

// PresentCPUs returns the CPUs that are there, off line or not, /sys/devices/system/cpu/present.
func (h FS) PresentCPUs() (cpuset.Set, error) { return h.readList(cpuDir + "/present") }

// IsolatedCPUs returns the CPUs that the kernel command line keeps from the scheduler (isolcpus),
// /sys/devices/system/cpu/isolated.
func (h FS) IsolatedCPUs() (cpuset.Set, error) {
	s, err := h.readList(cpuDir + "/isolated")
	if errors.Is(err, fs.ErrNotExist) {
		return cpuset.Set{}, nil
	}
	return s, err
}

// CoreCPUs returns the CPUs that share a core with the given one, itself included,
// cpuN/topology/thread_siblings_list.
func (h FS) CoreCPUs(cpu int) (cpuset.Set, error) {
	return h.readList(cpuDir + "/cpu" + strconv.Itoa(cpu) + "/topology/thread_siblings_list")
}

func (h FS) readList(name string) (cpuset.Set, error) {
	v, err := h.Read(name)
	if err != nil {
		return cpuset.Set{}, err
	}
	s, err := cpuset.ParseList(v)
	if err != nil {
		return cpuset.Set{}, &Error{Op: "read", Path: name, Err: err}
	}
	return s, nil
}

// cgroupDir is the unified hierarchy (Documentation/admin-guide/cgroup-v2.rst).
const cgroupDir = "/sys/fs/cgroup"

// CPUControl reports whether the host can limit groups of processes to CPUs at all: the unified hierarchy with the
// cpuset controller.
func (h FS) CPUControl() error {
	v, err := h.Read(cgroupDir + "/cgroup.controllers")
	if err != nil {
		return fmt.Errorf("the host has no unified cgroup hierarchy (cgroup v2): %w", err)
	}
	if !slices.Contains(strings.Fields(v), "cpuset") {
		return fmt.Errorf("the cpuset controller is missing in %s/cgroup.controllers", cgroupDir)
	}
	return nil
}

// unitCgroup returns the cgroup of a systemd unit: a slice lies in the slices that its dashes name, init.scope at the
// top, a service in system.slice (systemd.slice(5)), a guest's scope in machine.slice.
func unitCgroup(unit string) string {
	name, slice := strings.CutSuffix(unit, ".slice")
	if !slice {
		switch {
		case unit == "init.scope":
			return cgroupDir + "/" + unit
		case isGuestScope(unit):
			return machineDir + "/" + unit
		}
		return cgroupDir + "/system.slice/" + unit
	}
	dir := cgroupDir
	for i, c := range name {
		if c == '-' {
			dir += "/" + name[:i] + ".slice"
		}
	}
	return dir + "/" + unit
}

// machineDir is where libvirt has its guests, unless a domain names another <partition>.
const machineDir = cgroupDir + "/machine.slice"

func isGuestScope(unit string) bool {
	return strings.HasPrefix(unit, "machine-qemu") && strings.HasSuffix(unit, ".scope")
}

// A GuestCgroup is the cgroup of a libvirt guest that runs.
type GuestCgroup struct {
	Scope  string     // machine-qemu\x2d1\x2dwin11.scope
	Pinned cpuset.Set // what its vCPUs are pinned to; empty if none is
}

// GuestCgroups returns the guests that run by their cgroups: libvirt gives each vCPU one of its own, libvirt/vcpuN, with
// cpuset.cpus only if it is pinned (qemuProcessSetupPid in libvirt). Guests whose cgroups it has not made are left out.
func (h FS) GuestCgroups() ([]GuestCgroup, error) {
	names, err := h.SubDirs(machineDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, &Error{Op: "list", Path: machineDir, Err: err}
	}
	var guests []GuestCgroup
	for _, name := range names {
		vcpus, err := h.SubDirs(machineDir + "/" + name + "/libvirt")
		if err != nil || !isGuestScope(name) {
			continue
		}
		g, known := GuestCgroup{Scope: name}, false
		for _, v := range vcpus {
			if !strings.HasPrefix(v, "vcpu") {
				continue
			}
			known = true
			if cpus, err := h.readList(machineDir + "/" + name + "/libvirt/" + v + "/cpuset.cpus"); err == nil {
				g.Pinned = g.Pinned.Union(cpus)
			}
		}
		if known {
			guests = append(guests, g)
		}
	}
	return guests, nil
}

// GuestProcesses returns the processes in the scopes of libvirt's guests, in machine.slice and the slices in it.
func (h FS) GuestProcesses() ([]int, error) { return h.guestProcesses(machineDir) }

func (h FS) guestProcesses(slice string) ([]int, error) {
	names, err := h.SubDirs(slice)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, &Error{Op: "list", Path: slice, Err: err}
	}
	var pids []int
	for _, name := range names {
		if strings.HasSuffix(name, ".slice") {
			more, err := h.guestProcesses(slice + "/" + name)
			if err != nil {
				return nil, err
			}
			pids = append(pids, more...)
		}
		if !isGuestScope(name) {
			continue
		}
		// libvirt has QEMU in one of these. A threaded group lists no processes, EOPNOTSUPP: the one above it does.
		for _, dir := range []string{"", "/libvirt", "/libvirt/emulator"} {
			file := slice + "/" + name + dir + "/cgroup.procs"
			v, err := h.Read(file)
			switch {
			case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.EOPNOTSUPP):
				continue
			case err != nil:
				return nil, err
			}
			for _, pid := range strings.Fields(v) {
				n, err := strconv.Atoi(pid)
				if err != nil {
					return nil, &Error{Op: "read", Path: file, Err: err}
				}
				pids = append(pids, n)
			}
		}
	}
	return pids, nil
}

// A VCPUCgroup is the cgroup that libvirt gives a vCPU.
type VCPUCgroup struct {
	Dir  string
	CPUs cpuset.Set // cpuset.cpus
}

// VCPUCgroups returns the cgroups of a guest's vCPUs; scope is the path of the guest's cgroup, /machine.slice/….
func (h FS) VCPUCgroups(scope string) ([]VCPUCgroup, error) {
	dir := cgroupDir + scope + "/libvirt"
	names, err := h.SubDirs(dir)
	if err != nil {
		return nil, &Error{Op: "list", Path: dir, Err: err}
	}
	var all []VCPUCgroup
	for _, name := range names {
		if !strings.HasPrefix(name, "vcpu") {
			continue
		}
		g := VCPUCgroup{Dir: dir + "/" + name}
		if g.CPUs, err = h.readList(g.Dir + "/cpuset.cpus"); err != nil {
			return nil, err
		}
		all = append(all, g)
	}
	return all, nil
}

// ExclusiveCPUs is the file with the CPUs that partitions below a cgroup may be made of, cpuset.cpus.exclusive
// (Documentation/admin-guide/cgroup-v2.rst). The cgroup is a path from the hierarchy's root.
func ExclusiveCPUs(cgroup string) string { return cgroupDir + cgroup + "/cpuset.cpus.exclusive" }

// CgroupCPUs returns the file that limits a unit's CPUs in its cgroup, cpuset.cpus; "" if the host has no such file:
// cgroup v1, the cpuset controller not enabled, or no such group.
func (h FS) CgroupCPUs(unit string) (string, error) {
	name := unitCgroup(unit) + "/cpuset.cpus"
	for _, file := range []string{cgroupDir + "/cgroup.controllers", name} {
		if there, err := h.Has(file); err != nil || !there {
			return "", err
		}
	}
	return name, nil
}

// EffectiveCPUs returns the CPUs that the tasks of a unit's cgroup can run on, cpuset.cpus.effective; ok is false when
// the controller is not enabled there, so that nothing limits them.
func (h FS) EffectiveCPUs(unit string) (s cpuset.Set, ok bool, err error) {
	s, err = h.readList(unitCgroup(unit) + "/cpuset.cpus.effective")
	// ENODEV: it went between open and read.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return s, false, nil
	}
	return s, err == nil, err
}
