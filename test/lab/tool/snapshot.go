package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"golang.org/x/sys/unix"
)

// A snapshot is all of the machine's state that the hook could change or is to leave alone: a value for each key.
type snapshot map[string]string

// printSnapshot prints "KEY = VALUE", sorted. What comes and goes by itself is not in it; each such exception is named
// below where it is made.
func printSnapshot() error {
	s := snapshot{}
	for _, part := range []func() error{
		s.pci, s.pools, s.cpusets, s.interrupts, s.kernel, s.threads, s.modules, s.sysctls, s.devices, s.units, s.files, s.processes,
	} {
		if err := part(); err != nil {
			return err
		}
	}
	w := bufio.NewWriter(os.Stdout)
	for _, k := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(w, "%s = %s\n", k, s[k])
	}
	return w.Flush()
}

// attribute is a kernel file's value on one line; "(null)" and a file that is not there are empty.
func attribute(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	v := strings.Join(strings.Fields(string(data)), " ")
	if v == "(null)" {
		return ""
	}
	return v
}

// glob adds the attributes whose paths match, under their path.
func (s snapshot) glob(patterns ...string) error {
	for _, p := range patterns {
		names, err := filepath.Glob(p)
		if err != nil {
			return err
		}
		for _, n := range names {
			s[n] = attribute(n)
		}
	}
	return nil
}

// pci is every function's driver, override and power.
func (s snapshot) pci() error {
	functions, err := filepath.Glob("/sys/bus/pci/devices/*")
	if err != nil {
		return err
	}
	for _, f := range functions {
		driver, _ := os.Readlink(f + "/driver")
		key := "pci " + filepath.Base(f) + " "
		s[key+"driver"] = filepath.Base(driver)
		for _, a := range []string{"driver_override", "enable", "numa_node", "power/control", "power_state", "d3cold_allowed", "reset_method", "resource"} {
			s[key+a] = attribute(f + "/" + a)
		}
	}
	return nil
}

// pools is every pool of huge pages, with what is in use and owed.
func (s snapshot) pools() error {
	return s.glob("/sys/devices/system/node/node*/hugepages/*/*_hugepages", "/sys/kernel/mm/hugepages/*/*_hugepages")
}

// cpusets is the CPUs of every slice and scope. A cgroup without the controller has its parent's: that libvirt turns
// the controller on for its own cgroups is no difference.
func (s snapshot) cpusets() error {
	const root = "/sys/fs/cgroup"
	effective := map[string]string{filepath.Dir(root): ""}
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return skipGone(err)
		}
		v := attribute(name + "/cpuset.cpus.effective")
		if v == "" {
			v = effective[filepath.Dir(name)]
		}
		effective[name] = v
		if ext := filepath.Ext(name); ext == ".slice" || ext == ".scope" || name == root {
			key := "cgroup " + strings.TrimPrefix(name, root) + " "
			s[key+"effective"] = v
			s[key+"cpus"] = attribute(name + "/cpuset.cpus")
			s[key+"partition"] = attribute(name + "/cpuset.cpus.partition")
		}
		return nil
	})
}

func skipGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// interrupts is the affinity of every interrupt, under the name of who handles it: a function that was given away and
// came back may have got another number. Numbers that nobody handles come and go, but for the first 16.
func (s snapshot) interrupts() error {
	const root = "/proc/irq"
	numbers, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	values := map[string][]string{}
	handled := false
	for _, d := range numbers {
		n, err := strconv.Atoi(d.Name())
		if err != nil {
			continue // default_smp_affinity
		}
		dir := filepath.Join(root, d.Name())
		entries, err := os.ReadDir(dir)
		if os.IsNotExist(err) {
			continue
		} else if err != nil {
			return err
		}
		var handlers []string
		for _, e := range entries {
			if e.IsDir() {
				handlers = append(handlers, e.Name())
			}
		}
		key := "irq " + d.Name()
		if len(handlers) > 0 {
			key, handled = "irq of "+strings.Join(handlers, " and "), true
		} else if n > 15 {
			continue
		}
		values[key] = append(values[key], attribute(filepath.Join(dir, "smp_affinity")))
	}
	if !handled {
		return fmt.Errorf("%s: no interrupt has a handler", root)
	}
	for k, v := range values {
		slices.Sort(v)
		s[k] = strings.Join(v, " ")
	}
	return s.glob(root + "/default_smp_affinity")
}

// kernel is what else of /sys a preparation may touch.
func (s snapshot) kernel() error {
	return s.glob(
		"/sys/devices/system/cpu/online",
		"/sys/devices/system/cpu/cpufreq/policy*/scaling_governor",
		"/sys/devices/system/cpu/cpufreq/policy*/energy_performance_preference",
		"/sys/devices/system/cpu/cpu*/power/pm_qos_resume_latency_us",
		"/sys/devices/virtual/workqueue/cpumask",
		"/sys/devices/virtual/workqueue/*/cpumask",
		"/sys/bus/workqueue/devices/*/cpumask",
		"/sys/class/vtconsole/*/bind",
		"/sys/kernel/mm/transparent_hugepage/enabled",
		"/sys/kernel/mm/transparent_hugepage/defrag",
		"/sys/kernel/mm/ksm/run",
		"/proc/fb",
		"/proc/mounts",
	)
}

// threads is the CPUs of those kernel threads that can be moved and keep to some of them, by name: those that may run
// anywhere come and go.
func (s snapshot) threads() error {
	// From <linux/sched.h>.
	const (
		kernelThread = 0x00200000
		cannotMove   = 0x04000000
	)
	threads, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	anywhere := attribute("/sys/devices/system/cpu/possible")
	for _, t := range threads {
		stat := attribute(t + "/stat") // PID (NAME) STATE PPID PGRP SESSION TTY TPGID FLAGS …
		begin, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
		if begin < 0 {
			continue // it is gone
		}
		flags, err := strconv.ParseUint(strings.Fields(stat[end+1:])[6], 10, 64)
		if err != nil {
			return fmt.Errorf("%s/stat: %w", t, err)
		}
		_, cpus, _ := strings.Cut(attribute(t+"/status"), " Cpus_allowed_list: ")
		cpus, _, _ = strings.Cut(cpus, " ")
		if flags&kernelThread != 0 && flags&cannotMove == 0 && cpus != "" && cpus != anywhere {
			s["kernel thread "+stat[begin+1:end]+" cpus"] = cpus
		}
	}
	return nil
}

// modules is what the kernel has loaded.
func (s snapshot) modules() error {
	data, err := os.ReadFile("/proc/modules")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		name, _, _ := strings.Cut(line, " ")
		s["module "+name] = "loaded"
	}
	return nil
}

// sysctls is all of /proc/sys, but for what counts or changes by itself.
func (s snapshot) sysctls() error {
	const root = "/proc/sys/"
	own := []string{
		"fs/aio-nr", "fs/binfmt_misc", "fs/dentry-state", "fs/file-nr", "fs/inode-nr", "fs/inode-state", "fs/quota",
		"kernel/ns_last_pid", "kernel/perf_event_max_sample_rate", "kernel/pty/nr", "kernel/random", "net/core/netdev_rss_key",
		"net/netfilter/nf_conntrack_count", "vm/stat_refresh",
	}
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return skipGone(err)
		}
		key := strings.TrimPrefix(name, root)
		if slices.Contains(own, key) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() && info.Mode()&0o444 != 0 {
			s["sysctl "+strings.ReplaceAll(key, "/", ".")] = attribute(name)
		}
		return nil
	})
}

// devices is who may use which of the nodes that a guest or the host's user shares.
func (s snapshot) devices() error {
	for _, dir := range []string{"/dev/vfio", "/dev/dri", "/dev/snd", "/dev/shm"} {
		if err := s.tree(dir, func(name string, st *syscall.Stat_t) string {
			v := fmt.Sprintf("mode %o, owner %d:%d", st.Mode, st.Uid, st.Gid)
			if dir == "/dev/shm" && st.Mode&syscall.S_IFMT == syscall.S_IFREG {
				v += fmt.Sprintf(", inode %d, %d bytes", st.Ino, st.Size)
			}
			return v
		}); err != nil {
			return err
		}
	}
	return nil
}

// files is our state and what is configured, by content. Our folder and its lock are no state: they stay. systemd makes
// the folder of transient units for any guest's scope.
func (s snapshot) files() error {
	for _, dir := range []string{"/run/qemu-hook", "/etc/qemu-hook", "/etc/libvirt", "/run/systemd/system.control", "/run/systemd/transient"} {
		if err := s.tree(dir, func(name string, st *syscall.Stat_t) string {
			if st.Mode&syscall.S_IFMT != syscall.S_IFREG {
				return fmt.Sprintf("mode %o", st.Mode)
			}
			data, _ := os.ReadFile(name)
			return fmt.Sprintf("mode %o, sha256 %.8x", st.Mode, sha256.Sum256(data))
		}); err != nil {
			return err
		}
	}
	delete(s, "file /run/qemu-hook")
	delete(s, "file /run/qemu-hook/lock")
	delete(s, "file /run/qemu-hook/log")
	delete(s, "file /run/systemd/transient")
	return nil
}

func (s snapshot) tree(dir string, value func(string, *syscall.Stat_t) string) error {
	return filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		var st syscall.Stat_t
		if err == nil {
			err = syscall.Lstat(name, &st)
		}
		if err != nil {
			return skipGone(err)
		}
		s["file "+ofFunction(name, &st)] = value(name, &st)
		return nil
	})
}

// numbered is what has a number by the order in which drivers take their functions, and pciFunction a part of a path.
var (
	numbered    = regexp.MustCompile(`\b(card|renderD|controlC|pcmC|hwC|midiC)[0-9]+`)
	pciFunction = regexp.MustCompile(`/([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])`)
)

// ofFunction names a node by the PCI function that it belongs to instead of its number; all else by its path.
func ofFunction(name string, st *syscall.Stat_t) string {
	if st.Mode&syscall.S_IFMT != syscall.S_IFCHR {
		return name
	}
	device, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/char/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	functions := pciFunction.FindAllStringSubmatch(device, -1)
	if err != nil || len(functions) == 0 {
		return name
	}
	return numbered.ReplaceAllString(name, "$1*") + " of " + functions[len(functions)-1][1]
}

// units is the state of every unit of systemd's, and of a service that is active which run of it this is: one that was
// stopped and started again has another.
func (s snapshot) units() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("cannot reach systemd: %w", err)
	}
	defer conn.Close()
	units, err := conn.ListUnitsContext(ctx)
	if err != nil {
		return fmt.Errorf("cannot list the units: %w", err)
	}
	for _, u := range units {
		// Those of devices have the function in their names, too.
		s["unit "+numbered.ReplaceAllString(u.Name, "$1*")] = strings.Join([]string{u.LoadState, u.ActiveState, u.SubState}, " ")
		if u.ActiveState != "active" || !strings.HasSuffix(u.Name, ".service") {
			continue
		}
		run, err := conn.GetUnitPropertyContext(ctx, u.Name, "InvocationID")
		if err != nil {
			return fmt.Errorf("cannot tell which run of %s this is: %w", u.Name, err)
		}
		s["run of "+u.Name] = run.Value.String()
	}
	return nil
}

// processes is what must not stay behind when a guest is gone; told by the program, as the hook's worker has no name
// of its own.
func (s snapshot) processes() error {
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return err
	}
	self := fmt.Sprintf("/proc/%d/exe", os.Getpid())
	for _, l := range links {
		program, err := os.Readlink(l)
		if err != nil || l == self {
			continue
		}
		switch name := filepath.Base(program); name {
		case "qemu-hook", "qemu-system-x86_64", "virsh", "labtool":
			s["processes of "+name] += "x"
		}
	}
	return nil
}
