package sysfs_test

import (
	"fmt"
	"slices"
	"syscall"
	"testing"

	"qemu-hook/sysfs"
)

// underKthreadd is a host on which a process is a child of kthreadd's, with a program or without.
type underKthreadd struct {
	sysfs.Kernel
	pid     int
	program bool
	looks   *int // at the process's open files
}

func (k underKthreadd) ReadFile(name string) ([]byte, error) {
	if name == "/proc/2/task/2/children" {
		return fmt.Appendf(nil, "%d ", k.pid), nil
	}
	return k.Kernel.ReadFile(name)
}

func (k underKthreadd) Readlink(name string) (string, error) {
	if name == fmt.Sprintf("/proc/%d/exe", k.pid) && !k.program {
		return "", syscall.ENOENT
	}
	return k.Kernel.Readlink(name)
}

func (k underKthreadd) OpenDevices(pid int, visit func(uint64, bool)) error {
	if pid == k.pid {
		*k.looks++
	}
	return k.Kernel.OpenDevices(pid, visit)
}

// TestHoldersKernelThreads: a thread of the kernel's is not looked at, and a program that the kernel has started is.
func TestHoldersKernelThreads(t *testing.T) {
	full := realNode(t, "/dev/full")
	pid := startChild(t, false, "open /dev/full")
	for _, program := range []bool{true, false} {
		looks := 0
		fs := sysfs.FS{Kernel: underKthreadd{realHost(t).Kernel, pid, program, &looks}}
		found := slices.Equal(nodesOf(t, fs, pid, full), []string{"/dev/full"})
		if want := map[bool]int{true: 1}[program]; found != program || looks != want {
			t.Errorf("program %t: found %t, looked at %d times, want %d", program, found, looks, want)
		}
	}
}
