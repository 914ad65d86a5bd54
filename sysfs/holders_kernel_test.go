package sysfs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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

// TestDefaultHugePage reads /proc/meminfo.
func TestDefaultHugePage(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"MemTotal:        8034060 kB\nHugePages_Total:       0\nHugepagesize:       2048 kB\nHugetlb:               0 kB\n", "2048"},
		{"Hugepagesize:    1048576 kB\n", "1048576"},
		{"MemTotal:        8034060 kB\n", "no Hugepagesize"},
		{"Hugepagesize:       2048\n", "no Hugepagesize"},
		{"Hugepagesize:       0 kB\n", "unexpected line"},
		{"Hugepagesize:       2 MB\n", "unexpected line"},
		{"Hugepagesize:       -1 kB\n", "unexpected line"},
	} {
		root := t.TempDir()
		if err := os.Mkdir(filepath.Join(root, "proc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "proc/meminfo"), []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		fs, err := sysfs.New(root)
		if err != nil {
			t.Fatal(err)
		}
		kib, err := fs.DefaultHugePageKiB()
		got := strconv.FormatUint(kib, 10)
		if err != nil {
			got = err.Error()
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%q: %s, want %s", c.text, got, c.want)
		}
	}
}
