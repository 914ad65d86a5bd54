package sysfstest_test

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

const hostsDir = "../../testdata/hosts"

// load reads one of the hosts of testdata.
func load(t testing.TB, name string) *sysfstest.Host {
	t.Helper()
	h, err := sysfstest.Load(filepath.Join(hostsDir, name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// hosts returns the names of all hosts of testdata.
func hosts(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(hostsDir, "*.txtar"))
	if err != nil || len(files) < 6 {
		t.Fatalf("%d hosts, error %v", len(files), err)
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), ".txtar")
	}
	return files
}

// TestHosts checks what is true of every machine.
func TestHosts(t *testing.T) {
	for _, name := range hosts(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := load(t, name)
			fs := h.FS()
			if h.Comment() == "" {
				t.Error("the file does not say what machine it is")
			}
			links(t, fs, "/")
			addrs, err := fs.List("/sys/bus/pci/devices")
			if err != nil || len(addrs) < 5 {
				t.Fatalf("PCI functions %v, error %v", addrs, err)
			}
			for _, a := range addrs {
				driver, err := fs.LinkBase(sysfs.PCIDevice(a) + "/driver")
				if err != nil {
					t.Error(err)
				}
				if driver != "" && !fs.Exists("/sys/bus/pci/drivers/"+driver+"/"+a) {
					t.Errorf("%s: the driver %s does not know it", a, driver)
				}
				if group, _ := fs.PCIGroup(a); group != "" && !fs.Exists("/sys/kernel/iommu_groups/"+group+"/devices/"+a) {
					t.Errorf("%s: its group does not know it", a)
				}
			}
			memory(t, fs)
			if d := sysfstest.Diff(h.Snapshot(), h.Clone().Snapshot()); d != "" {
				t.Errorf("a clone differs:\n%s", d)
			}
		})
	}
}

// links reports symbolic links that lead nowhere, other than those of open files.
func links(t *testing.T, fs sysfs.FS, dir string) {
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		name := path.Join(dir, n)
		st, err := fs.Lstat(name)
		switch {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case st.Mode&0o170000 == 0o040000:
			links(t, fs, name)
		case st.Mode&0o170000 == 0o120000 && !strings.Contains(name, "/fd/"):
			if _, err := fs.Stat(name); err != nil {
				target, _ := fs.Readlink(name)
				t.Errorf("%s -> %s: %v", name, target, err)
			}
		}
	}
}

// memory checks that the sums of meminfo come out.
func memory(t *testing.T, fs sysfs.FS) {
	var sum, all int64
	for i := range 16 {
		v, err := fs.Read(fmt.Sprintf("/sys/devices/system/node/node%d/meminfo", i))
		if err == nil {
			sum += amount(t, v, fmt.Sprintf("Node %d MemFree:", i))
		}
	}
	v, err := fs.Read("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	if all = amount(t, v, "MemFree:"); sum != all || all == 0 {
		t.Errorf("MemFree is %d kB, of all nodes %d", all, sum)
	}
}

func amount(t *testing.T, meminfo, key string) (n int64) {
	_, v, ok := strings.Cut(meminfo, key)
	if _, err := fmt.Sscan(v, &n); err != nil || !ok {
		t.Errorf("no %s in meminfo: %v", key, err)
	}
	return n
}

// TestParseErrors: a mistake in a host file is told with its section.
func TestParseErrors(t *testing.T) {
	const base = "x\n-- cpus --\npackage 0 0-1\n-- nodes --\n0 cpus=0-1 total=1G free=512M\n-- hugepages --\n2048 default\n"
	for _, c := range []struct{ name, file, want string }{
		{"section", base + "-- cpu --\n", `unknown section "cpu"`},
		{"key", base + "-- kernel --\nrelaese 6\n", `unknown key "relaese"`},
		{"list", base + "-- cpus --\npackage 0 3-x\n", "3-x"},
		{"memory", "x\n-- nodes --\n0 total=1G free=2G\n", "more free memory"},
		{"driver", base + "-- pci --\n0000:01:00.0 class=0300 id=10de:1 driver=nvidia\n", "no module that is loaded"},
		{"group", base + "-- cgroups --\n/a.slice/b.service\n", "no group above"},
		{"dependency", base + "-- modules --\nvfio_pci deps=vfio\n", "needs vfio"},
		{"node", base + "-- pci --\n0000:01:00.0 class=0300 id=10de:1 nodes=drm:card0:226\n", "is no node"},
		{"connector", base + "-- pci --\n0000:01:00.0 class=0300 id=10de:1 connectors=card0-DP-1:connected:enabled\n", "no connector of a card"},
		{"BAR", base + "-- pci --\n0000:01:00.0 class=0300 id=10de:1 bars=0:f000\n", "is no BAR"},
		{"BAR number", base + "-- pci --\n0000:01:00.0 class=0300 id=10de:1 bars=7:f000:16M\n", "is no BAR"},
		{"BAR size", base + "-- pci --\n0000:01:00.0 class=0300 id=10de:1 bars=0:f000:16M:resizable=16X\n", "no amount"},
		{"kfd", base + "-- pci --\n0000:01:00.0 class=0300 id=10de:1 kfd=1\n", "no node of kfd"},
		{"virtual function", base + "-- pci --\n0000:01:00.0 class=0200 id=8086:1 vfs=1 virtfn=0000:02:00.0\n", "0000:02:00.0 is not there"},
		{"console", base + "-- consoles --\nvtcon1 (M) frame buffer device\n", "cannot read"},
		{"frame buffer", base + "-- framebuffers --\nefi-framebuffer.0 in=0000:01:00.0\n", "cannot read"},
		{"frame buffer's card", base + "-- framebuffers --\nefi-framebuffer.0 driver=efi-framebuffer in=0000:01:00.0\n", "no function 0000:01:00.0"},
		{
			"frame buffer's place", base + "-- pci --\n0000:01:00.0 class=0300 id=10de:1 bars=0:f0000000:16M\n" +
				"-- framebuffers --\nefi-framebuffer.0 driver=efi-framebuffer in=0000:01:00.0 at=f0000000-f1ffffff\n", "no BAR of 0000:01:00.0 holds",
		},
		{"interrupt", base + "-- irqs --\n5 x afinity=0\n", `unknown key "afinity"`},
		{"idle interrupt", base + "-- irqs --\n5 x handler=no\n", "cannot read"},
		{"function's interrupt", base + "-- pci --\n0000:01:00.0 class=0300 id=10de:1 irqs=5\n", "is no interrupt"},
		{"workqueues", base + "-- workqueues --\ncpumsk 0\n", "cannot read"},
		{"policy", base + "-- cpufreq --\npolicy0 driver=x\n", "cannot read"},
		{"governor", base + "-- cpufreq --\npolicy0 0 governor=x governors=y\n", "does not offer"},
		{"pci key", base + "-- pci --\n0000:01:00.0 class=0300 id=10de:1 dirver=nvidia\n", `unknown key "dirver"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := sysfstest.Parse("x", []byte(c.file))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
	if _, err := sysfstest.Parse("x", []byte(base)); err != nil {
		t.Error(err)
	}
	if _, err := sysfstest.Load(filepath.Join(t.TempDir(), "none")); !os.IsNotExist(err) {
		t.Errorf("error %v", err)
	}
}

// BenchmarkClone and BenchmarkSnapshot keep an eye on what every run of a fault-injection test pays.
func BenchmarkClone(b *testing.B) {
	h := load(b, "server")
	for b.Loop() {
		h.Clone()
	}
}

func BenchmarkSnapshot(b *testing.B) {
	h := load(b, "server")
	for b.Loop() {
		h.Snapshot()
	}
}
