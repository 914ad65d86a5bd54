package sysfstest_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"syscall"
	"testing"

	"qemu-hook/cpuset"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// TestMemory repeats what was measured on a fragmented host: a plain write gets a part, compaction more, dropped
// caches the rest; a fresh host gives all at once.
func TestMemory(t *testing.T) {
	h := load(t, "desktop-four")
	nr := func(fs sysfs.FS, want uint64) uint64 {
		t.Helper()
		if err := fs.SetPool(sysfs.Pool{KiB: 2048}, want); err != nil {
			t.Fatal(err)
		}
		s, err := fs.PoolState(sysfs.Pool{KiB: 2048})
		if err != nil {
			t.Fatal(err)
		}
		return s.Total
	}
	const want = 11 << 20 / 2048 // 11 GiB of 9.5 free and 15 cached
	c := h.Clone()
	f := c.FS()
	plain := nr(f, want)
	again := nr(f, want)
	if err := f.CompactNode(0); err != nil {
		t.Fatal(err)
	}
	compacted := nr(f, want)
	_, cache := c.Memory(0)
	if err := f.DropCaches(); err != nil {
		t.Fatal(err)
	}
	if err := f.CompactNode(0); err != nil {
		t.Fatal(err)
	}
	all := nr(f, want)
	if plain >= again || again >= compacted || compacted >= all || all != want {
		t.Errorf("pages: %d at once, %d again, %d compacted, %d without cache", plain, again, compacted, all)
	}
	if cache < 14<<20 {
		t.Errorf("only %d KiB of cache left before it was dropped", cache)
	}
	if free, _ := c.Memory(0); free > 15<<20 {
		t.Errorf("%d KiB free with %d pages taken", free, all)
	}
	// What goes back is whole: it comes again by one write.
	if n := nr(f, 0); n != 0 {
		t.Errorf("%d pages left", n)
	}
	if n := nr(f, want); n != want {
		t.Errorf("%d pages the second time", n)
	}
	// Compaction before the write is as good.
	f = h.Clone().FS()
	if err := f.CompactNode(0); err != nil {
		t.Fatal(err)
	}
	if n := nr(f, 8<<20/2048); n != 8<<20/2048 {
		t.Errorf("%d pages after compaction", n)
	}
}

// TestSnapshot: everything that can be seen of a file is in it, and the way back leads to the same.
func TestSnapshot(t *testing.T) {
	h := load(t, "fern")
	h.SetFile("/dev/shm/looking-glass", "")
	before := h.Snapshot()
	for _, c := range []struct {
		name string
		do   func(h *sysfstest.Host)
		want string
	}{
		{"content", func(h *sysfstest.Host) { h.SetFile("/etc/group", "x") }, "/etc/group: size"},
		{"new file", func(h *sysfstest.Host) { h.SetFile("/run/x/y", "x") }, "+ /run/x/y: 0644 0:0"},
		{"missing file", func(h *sysfstest.Host) { h.Remove("/etc/group") }, "- /etc/group: "},
		{"owner", func(h *sysfstest.Host) { h.SetOwner("/etc/group", 1, 2, 0o644) }, "owner 0:0 → 1:2"},
		{"mode", func(h *sysfstest.Host) { h.SetOwner("/etc/group", 0, 0, 0o600) }, "mode 0644 → 0600"},
		{"size", func(h *sysfstest.Host) { h.SetSize("/dev/shm/looking-glass", 1<<30) }, "size 0 → 1073741824"},
		{"links", func(h *sysfstest.Host) { h.HardLink("/etc/group", "/etc/g") }, "links 1 → 2"},
		{"target", func(h *sysfstest.Host) { h.SetLink("/proc/self", "2") }, "! /proc/self: content"},
		{"inode", func(h *sysfstest.Host) {
			h.Remove("/dev/shm/looking-glass")
			h.SetFile("/dev/shm/looking-glass", "")
		}, "! /dev/shm/looking-glass: inode"},
		{"device", func(h *sysfstest.Host) { h.SetNode("/dev/kvmfr0", syscall.S_IFCHR|0o660, 242, 1) }, "device f200 → f201"},
		{"type", func(h *sysfstest.Host) { h.SetFile("/x", ""); h.SetNode("/dev/kvmfr0", syscall.S_IFREG|0o660, 0, 0) }, "type 2 → 10"},
		{"pages", func(h *sysfstest.Host) { _ = h.FS().SetPool(sysfs.Pool{KiB: 2048}, 2) }, `nr_hugepages: content "0\n" → "2\n"`},
		{"ids", func(h *sysfstest.Host) { _ = h.FS().Write(driverFile("vfio-pci", "new_id"), "10de 2782") }, "vfio-pci (ids)"},
		{"property", func(h *sysfstest.Host) {
			_ = h.Systemd().SetAllowedCPUs(t.Context(), "user.slice", cpuset.Of(1))
		}, "user.slice (AllowedCPUs)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			changed := h.Clone()
			c.do(changed)
			if d := sysfstest.Diff(before, changed.Snapshot()); !strings.Contains(d, c.want) {
				t.Errorf("no %q in\n%s", c.want, d)
			}
			if d := sysfstest.Diff(before, h.Snapshot()); d != "" {
				t.Errorf("the clone changed its origin:\n%s", d)
			}
		})
	}
	c := h.Clone()
	c.SetFile("/run/x", "")
	if d := sysfstest.Diff(before.Without("/run/x"), c.Snapshot().Without("/run/x")); d != "" {
		t.Error(d)
	}
	if d := sysfstest.Diff(before, c.Snapshot().Without("/ru")); d == "" {
		t.Error("a prefix is of whole names")
	}
}

// bind gives the GPU to vfio-pci in three changes.
func bind(f sysfs.FS) error {
	return errors.Join(
		f.SetPCIOverride(gpu, "vfio-pci"),
		f.Write(driverFile("nvidia", "unbind"), gpu),
		f.Write("/sys/bus/pci/drivers_probe", gpu),
	)
}

// TestRefuse refuses each change once, by both doors: nothing of it happens, the others do.
func TestRefuse(t *testing.T) {
	h := load(t, "fern")
	for _, d := range doors() {
		for n := 1; n <= 3; n++ {
			t.Run(fmt.Sprint(d.name, "/", n), func(t *testing.T) {
				c := h.Clone()
				f := d.open(t, c)
				var seen []sysfstest.Change
				var mu sync.Mutex
				c.OnChange(func(ch sysfstest.Change) error {
					mu.Lock()
					defer mu.Unlock()
					seen = append(seen, ch)
					if ch.N == n {
						return syscall.ENOSPC
					}
					return nil
				})
				if err := bind(f); !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("error %v", err)
				}
				want := []string{"nvidia", "nvidia", ""}[n-1]
				if n == 1 {
					want = "nvidia" // probed again without the override
				}
				if got, err := c.FS().PCIDriver(gpu); got != want || err != nil {
					t.Errorf("driver %q, error %v, want %q", got, err, want)
				}
				if c.Changes() != 3 || len(seen) != 3 || seen[1].Path != driverFile("nvidia", "unbind") || seen[1].Value != gpu {
					t.Errorf("%d changes: %+v", c.Changes(), seen)
				}
			})
		}
		t.Run(d.name+"/after", func(t *testing.T) {
			c := h.Clone()
			f := d.open(t, c)
			c.AfterChange(func(sysfstest.Change) error { return syscall.EIO })
			if err := f.SetPCIOverride(gpu, "vfio-pci"); !errors.Is(err, syscall.EIO) {
				t.Errorf("error %v", err)
			}
			if got, _ := c.FS().PCIOverride(gpu); got != "vfio-pci" {
				t.Errorf("override %q: the change stands", got)
			}
		})
	}
}

// TestShm makes and removes a file through an open directory, by both doors.
func TestShm(t *testing.T) {
	h := load(t, "fern")
	h.SetFile("/home/fern/secret", "x")
	h.SetLink("/dev/shm/link", "/home/fern/secret")
	h.SetNode("/dev/shm/fifo", syscall.S_IFIFO|0o644, 0, 0)
	h.HardLink("/home/fern/secret", "/dev/shm/hard")
	for _, d := range doors() {
		t.Run(d.name, func(t *testing.T) {
			c := h.Clone()
			before := c.Snapshot()
			dir, err := d.open(t, c).OpenDir("/dev/shm")
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			f, err := dir.Create("looking-glass")
			if err != nil {
				t.Fatal(err)
			}
			err = errors.Join(f.Truncate(64<<20), f.Chown(1000, 78), f.Chmod(0o660))
			if err != nil {
				t.Error(err)
			}
			st, err := f.Stat()
			if err != nil || st.UID != 1000 || st.GID != 78 || st.Perm() != 0o660 || st.Size != 64<<20 || st.Nlink != 1 {
				t.Errorf("%+v, error %v", st, err)
			}
			if s2, err := dir.Lstat("looking-glass"); err != nil || s2.Ino != st.Ino || s2.Dev != st.Dev {
				t.Errorf("%+v, error %v", s2, err)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
			for name, want := range map[string]error{
				"looking-glass": syscall.EEXIST, "link": syscall.EEXIST, "fifo": syscall.EEXIST,
			} {
				if _, err := dir.Create(name); !errors.Is(err, want) {
					t.Errorf("create %s: %v, want %v", name, err, want)
				}
			}
			if _, err := dir.Open("link"); !errors.Is(err, syscall.ELOOP) {
				t.Errorf("open a link: %v", err)
			}
			if _, err := dir.Open("fifo"); !errors.Is(err, syscall.EINVAL) {
				t.Errorf("open a FIFO: %v", err)
			}
			if _, err := dir.Open("none"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("open nothing: %v", err)
			}
			if st, err := dir.Lstat("hard"); err != nil || st.Nlink != 2 {
				t.Errorf("%+v, error %v", st, err)
			}
			if err := dir.Remove("looking-glass"); err != nil {
				t.Error(err)
			}
			if d := sysfstest.Diff(before, c.Snapshot()); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestSystemd: the property, its drop-in, the group, and what a cleared property leaves behind.
func TestSystemd(t *testing.T) {
	ctx := t.Context()
	host := load(t, "fern")
	some, all := cpuset.Of(0, 1, 2, 3, 16), mustParse(t, "0-19")
	const group = "/sys/fs/cgroup/user.slice/"
	const dropIn = "/run/systemd/system.control/user.slice.d/50-AllowedCPUs.conf"
	for _, c := range []struct {
		name  string
		stale sysfstest.Stale
		sets  []cpuset.Set
		want  string // cpuset.cpus
	}{
		{"set", sysfstest.StaleUnlessFull, []cpuset.Set{some}, "0-3,16"},
		{"clear leaves the old set", sysfstest.StaleUnlessFull, []cpuset.Set{some, {}}, "0-3,16"},
		{"the full set first", sysfstest.StaleUnlessFull, []cpuset.Set{some, all, {}}, ""},
		{"always stale", sysfstest.StaleAlways, []cpuset.Set{some, all, {}}, "0-19"},
		{"never stale", sysfstest.StaleNever, []cpuset.Set{some, {}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := host.Clone()
			s := h.Systemd()
			s.Stale = c.stale
			for _, set := range c.sets {
				if err := s.SetAllowedCPUs(ctx, "user.slice", set); err != nil {
					t.Fatal(err)
				}
			}
			last := c.sets[len(c.sets)-1]
			if got, err := s.AllowedCPUs(ctx, "user.slice"); err != nil || !got.Equal(last) {
				t.Errorf("property %q, error %v", got, err)
			}
			f := h.FS()
			if got, err := f.Read(group + "cpuset.cpus"); got != c.want || err != nil {
				t.Errorf("cpuset.cpus %q, error %v, want %q", got, err, c.want)
			}
			conf, err := f.Read(dropIn)
			want := "[Slice]\nAllowedCPUs=\nAllowedCPUs=" + strings.ReplaceAll(last.String(), ",", " ")
			if err != nil || !strings.HasSuffix(conf, want) {
				t.Errorf("drop-in %q, error %v", conf, err)
			}
			if h.Changes() != len(c.sets) {
				t.Errorf("%d changes", h.Changes())
			}
		})
	}
	h := load(t, "sparse") // cpuset is not handed on: systemd does that
	if err := h.Systemd().SetAllowedCPUs(ctx, "system.slice", cpuset.Of(1)); err != nil {
		t.Fatal(err)
	}
	if got, err := h.FS().Read("/sys/fs/cgroup/system.slice/cpuset.cpus.effective"); got != "1" || err != nil {
		t.Errorf("effective %q, error %v", got, err)
	}
	if err := load(t, "desktop-four").Systemd().SetAllowedCPUs(ctx, "user.slice", some); err == nil {
		t.Error("a host without systemd has one")
	}
	s := host.Clone().Systemd()
	s.Refuse = func(string, cpuset.Set) error { return errors.New("Access denied") }
	if err := s.SetAllowedCPUs(ctx, "user.slice", some); err == nil {
		t.Error("not refused")
	}
}

func mustParse(t *testing.T, s string) cpuset.Set {
	t.Helper()
	set, err := cpuset.ParseList(s)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// TestLocal: a library that opens files by itself sees the host as it stands at the call.
func TestLocal(t *testing.T) {
	h := load(t, "fern")
	f := h.FS()
	for _, want := range []uint64{2048, 2048} {
		if got, err := f.DefaultHugePageKiB(); got != want || err != nil {
			t.Errorf("%d KiB, error %v", got, err)
		}
		h.UseMemory(0, 1<<20)
	}
}

// TestConcurrent lets several programs act at once; the race detector looks on.
func TestConcurrent(t *testing.T) {
	h := load(t, "fern")
	h.OnChange(func(sysfstest.Change) error { h.SetFile("/run/seen", "x"); return nil })
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			f := h.FS()
			for range 50 {
				_ = f.SetPCIOverride(gpu, fmt.Sprint("d", i))
				_ = f.SetPool(sysfs.Pool{KiB: 2048}, uint64(i))
				_, _ = f.List("/sys/bus/pci/devices")
				h.Clone().Snapshot()
			}
		})
	}
	wg.Wait()
	if h.Changes() != 800 {
		t.Errorf("%d changes", h.Changes())
	}
}
