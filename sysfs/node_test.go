package sysfs_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"qemu-hook/sysfs"
)

// TestDefaultHugePage reads /proc/meminfo.
func TestDefaultHugePage(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"MemTotal:        8034060 kB\nHugePages_Total:       0\nHugepagesize:       2048 kB\nHugetlb:               0 kB\n", "2048"},
		{"Hugepagesize:    1048576 kB\n", "1048576"},
		{"MemTotal:        8034060 kB\n", "no Hugepagesize"},
		{"Hugepagesize:       0 kB\n", "no Hugepagesize"},
		{"Hugepagesize:       2 MB\n", "cannot read /proc/meminfo"},
		{"Hugepagesize:       -1 kB\n", "cannot read /proc/meminfo"},
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
