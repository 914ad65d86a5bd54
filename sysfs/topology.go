package sysfs

import (
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"qemu-hook/cpuset"
)

// CoreKinds returns the CPUs of fast and of small cores on a processor that has both: cpu_core and cpu_atom, its two
// performance monitoring units. Both are empty on others.
func (h FS) CoreKinds() (fast, small cpuset.Set, err error) {
	for _, k := range []struct {
		name string
		to   *cpuset.Set
	}{{"cpu_core", &fast}, {"cpu_atom", &small}} {
		*k.to, err = h.readList("/sys/devices/" + k.name + "/cpus")
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err != nil {
			return cpuset.Set{}, cpuset.Set{}, err
		}
	}
	return fast, small, nil
}

// LastLevelCaches returns the sets of CPUs that share a third-level cache, those of the CPUs given
// (cpuN/cache/index3/shared_cpu_list, Documentation/ABI/testing/sysfs-devices-system-cpu); none where there is no such cache.
func (h FS) LastLevelCaches(cpus cpuset.Set) ([]cpuset.Set, error) {
	var caches []cpuset.Set
	for cpu := range cpus.All() {
		shared, err := h.readList(cpuDir + "/cpu" + strconv.Itoa(cpu) + "/cache/index3/shared_cpu_list")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(caches, shared.Equal) {
			caches = append(caches, shared)
		}
	}
	return caches, nil
}

// TopCgroups returns the cgroups at the top of the hierarchy that have processes, slices and others; what systemd has there
// for mounts and the like is left out.
func (h FS) TopCgroups() ([]string, error) {
	names, err := h.SubDirs(cgroupDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, &Error{Op: "list", Path: cgroupDir, Err: err}
	}
	return slices.DeleteFunc(names, func(name string) bool {
		for _, suffix := range []string{".mount", ".automount", ".swap", ".socket"} {
			if strings.HasSuffix(name, suffix) {
				return true
			}
		}
		events, err := h.Read(cgroupDir + "/" + name + "/cgroup.events")
		return err == nil && strings.Contains(events, "populated 0")
	}), nil
}

// KernelBefore reports whether the running kernel is older than a version, by /proc/sys/kernel/osrelease; one that cannot
// be told is not.
func (h FS) KernelBefore(major, minor int) bool {
	v, err := h.Read("/proc/sys/kernel/osrelease")
	if err != nil {
		return false
	}
	first, rest, _ := strings.Cut(v, ".")
	digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	a, err1 := strconv.Atoi(first)
	b, err2 := strconv.Atoi(digits)
	return err1 == nil && err2 == nil && (a < major || a == major && b < minor)
}
