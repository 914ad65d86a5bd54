package sysfs

import (
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"qemu-hook/cpuset"
)

// Where the kernel's own work may run, as sets of CPUs.
const (
	// DefaultInterruptCPUs is what interrupts start with (Documentation/core-api/irq/irq-affinity.rst).
	DefaultInterruptCPUs = irqDir + "/default_smp_affinity"
	// WorkqueueCPUs is for all workqueues that are bound to no CPU, WritebackCPUs for the one that writes to disks
	// (Documentation/core-api/workqueue.rst).
	WorkqueueCPUs = "/sys/devices/virtual/workqueue/cpumask"
	WritebackCPUs = "/sys/devices/virtual/workqueue/writeback/cpumask"
	// WatchdogCPUs is where the lockup detector runs (Documentation/admin-guide/lockup-watchdogs.rst).
	WatchdogCPUs = "/proc/sys/kernel/watchdog_cpumask"

	irqDir = "/proc/irq"
)

// InterruptCPUs is the file with the CPUs that may take an interrupt.
func InterruptCPUs(irq int) string { return irqDir + "/" + strconv.Itoa(irq) + "/smp_affinity_list" }

// Interrupts returns the numbers of all interrupts, /proc/irq/N, in order; none where the kernel has no such files.
func (h FS) Interrupts() ([]int, error) {
	names, err := h.ListIfAny(irqDir)
	if err != nil {
		return nil, err
	}
	irqs := make([]int, 0, len(names))
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			irqs = append(irqs, n)
		}
	}
	slices.Sort(irqs)
	return irqs, nil
}

// MSIInterrupts returns the message-signalled interrupts that a PCI function's driver has enabled, its msi_irqs
// (Documentation/ABI/testing/sysfs-bus-pci).
func (h FS) MSIInterrupts(address string) ([]int, error) {
	names, err := h.ListIfAny(PCIDevice(address) + "/msi_irqs")
	if err != nil {
		return nil, err
	}
	var irqs []int
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			irqs = append(irqs, n)
		}
	}
	return irqs, nil
}

// VFIOLine returns the interrupt line of a PCI function, its irq, if none but vfio has a handler for it: such a line is a
// guest's. A function without one has 0 there.
func (h FS) VFIOLine(address string) (irq int, ok bool) {
	v, err := h.Read(PCIDevice(address) + "/irq")
	if err != nil {
		return 0, false
	}
	if irq, err = strconv.Atoi(v); err != nil || irq <= 0 {
		return 0, false
	}
	handlers, err := h.SubDirs(irqDir + "/" + v)
	if err != nil || len(handlers) == 0 {
		return 0, false
	}
	return irq, !slices.ContainsFunc(handlers, func(name string) bool { return !strings.HasPrefix(name, "vfio") })
}

// hexMask reports whether a file has a mask in hexadecimal; the others have a list.
func hexMask(name string) bool {
	return strings.HasSuffix(name, "/cpumask") || strings.HasSuffix(name, "_affinity")
}

// ReadCPUs reads a set of CPUs from one of the files of this package, whichever of the kernel's two formats it has.
func (h FS) ReadCPUs(name string) (cpuset.Set, error) {
	if !hexMask(name) {
		return h.readList(name)
	}
	v, err := h.Read(name)
	if err != nil {
		return cpuset.Set{}, err
	}
	s, err := cpuset.ParseMask(v)
	if err != nil {
		return cpuset.Set{}, &Error{Op: "read", Path: name, Err: err}
	}
	return s, nil
}

// WriteCPUs writes a set of CPUs in the file's format.
func (h FS) WriteCPUs(name string, cpus cpuset.Set) error {
	if hexMask(name) {
		return h.Write(name, cpus.Mask())
	}
	return h.Write(name, cpus.String())
}

// kthreadd is the process id of the kernel's thread that starts all others.
const kthreadd = 2

// KernelThreads returns the kernel's threads that can be moved to other CPUs: not those that are bound to theirs
// (PF_NO_SETAFFINITY), not those that handle an interrupt and go where that goes, and not those that work for a guest
// ("vhost-PID", "kvm-…").
func (h FS) KernelThreads() ([]Process, error) {
	names, err := h.kernelThreads()
	if err != nil {
		return nil, err
	}
	var threads []Process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		st, err := h.ProcessStat(pid)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		} else if err != nil {
			return nil, err
		}
		own := strings.HasPrefix(st.Comm, "irq/") || strings.HasPrefix(st.Comm, "vhost-") || strings.HasPrefix(st.Comm, "kvm-")
		if (st.Parent == kthreadd || pid == kthreadd) && st.Flags&flagKernelThread != 0 && st.Flags&flagBound == 0 && !own {
			threads = append(threads, Process{PID: pid, Start: st.Start})
		}
	}
	return threads, nil
}

// kernelThreads lists the processes among which the kernel's threads are: its children by the kernel's own list where
// it keeps one (CONFIG_PROC_CHILDREN), else all.
func (h FS) kernelThreads() ([]string, error) {
	if children := h.kernelChildren(); children != nil {
		return append(children, strconv.Itoa(kthreadd)), nil
	}
	return h.List("/proc")
}

// kernelChildren returns the children of kthreadd, nil where the kernel keeps no such list.
func (h FS) kernelChildren() []string {
	v, err := h.Read("/proc/2/task/2/children")
	if err != nil {
		return nil
	}
	return strings.Fields(v)
}

// kernelThread reports whether a child of kthreadd's is a thread of the kernel's: such a one has no program. What the kernel
// has started as a program, such as modprobe, is among the children, too.
func (h FS) kernelThread(pid string) bool {
	_, err := h.Readlink("/proc/" + pid + "/exe")
	return errors.Is(err, fs.ErrNotExist)
}

// ThreadCPUs returns the CPUs that a thread may run on, those that are off line included: Cpus_allowed_list in
// /proc/PID/status.
func (h FS) ThreadCPUs(p Process) (cpuset.Set, error) {
	name := "/proc/" + strconv.Itoa(p.PID) + "/status"
	v, err := h.Read(name)
	if err != nil {
		return cpuset.Set{}, err
	}
	_, list, ok := strings.Cut(v, "\nCpus_allowed_list:")
	if !ok {
		return cpuset.Set{}, &Error{Op: "read", Path: name, Err: errors.New("it has no Cpus_allowed_list")}
	}
	list, _, _ = strings.Cut(list, "\n")
	s, err := cpuset.ParseList(strings.TrimSpace(list))
	if err != nil {
		return cpuset.Set{}, &Error{Op: "read", Path: name, Err: err}
	}
	return s, nil
}
