package sysfstest_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// edited reads one of the hosts of testdata with words replaced in its file.
func edited(t testing.TB, name string, oldnew ...string) *sysfstest.Host {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(hostsDir, name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(string(b), oldnew[i]) {
			t.Fatalf("%s has no %q", name, oldnew[i])
		}
	}
	h, err := sysfstest.Parse(name, []byte(strings.NewReplacer(oldnew...).Replace(string(b))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// A pending is something that is done beside the test.
type pending chan error

func begin(f func() error) pending {
	p := make(pending, 1)
	go func() { p <- f() }()
	return p
}

// waits fails the test if it is through.
func (p pending) waits(t *testing.T, what string) {
	t.Helper()
	select {
	case err := <-p:
		t.Fatalf("%s did not wait: error %v", what, err)
	case <-time.After(30 * time.Millisecond):
	}
}

// ends fails the test if it does not get through, or not as is wanted.
func (p pending) ends(t *testing.T, what string, want error) {
	t.Helper()
	select {
	case err := <-p:
		if !errors.Is(err, want) {
			t.Errorf("%s: error %v, want %v", what, err, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("%s waits still", what)
	}
}

const (
	second      = "0000:06:00.0" // of two-nvidia
	secondSound = "0000:06:00.1"
	persistence = 640 // a process with all cards open
)

// TestUnbindInUse: NVIDIA's driver does not let go of a card that somebody has open, with all its nodes; what needs the
// device's lock waits behind it, nothing else does.
func TestUnbindInUse(t *testing.T) {
	host := load(t, "two-nvidia")
	for _, d := range doors() {
		t.Run(d.name, func(t *testing.T) {
			h := host.Clone()
			f := d.open(t, h)
			look := h.FS()
			out := begin(func() error { return f.Write(driverFile("nvidia", "unbind"), second) })
			out.waits(t, "unbind")
			if look.Exists(device(second, "driver")) || look.Exists(driverFile("nvidia", second)) {
				t.Error("the links are still there")
			}
			if !look.Exists("/dev/nvidia1") || !look.Exists(device(second, "drm/card1")) {
				t.Error("the nodes are gone")
			}
			behind := map[string]pending{}
			for name, value := range map[string]string{
				device(second, "driver_override"): "vfio-pci", device(second, "power/control"): "on",
				"/sys/bus/pci/drivers_probe": second, driverFile("nvidia", "bind"): second, device(second, "reset"): "1",
			} {
				behind[name] = begin(func() error { return f.Write(name, value) })
			}
			// Whoever comes second finds the function bound, waits, and has nothing to do then; or is refused, as it came late.
			again := begin(func() error {
				if err := f.Write(driverFile("nvidia", "unbind"), second); !errors.Is(err, syscall.ENODEV) {
					return err
				}
				return nil
			})
			read := begin(func() error { _, err := f.Read(device(second, "driver_override")); return err })
			for name, p := range behind {
				p.waits(t, name)
			}
			again.waits(t, "a second unbind")
			read.waits(t, "a read of driver_override")
			if h.WaitIdle(10 * time.Millisecond) {
				t.Error("nothing is under way")
			}
			if err := f.Write(device(secondSound, "driver_override"), "vfio-pci"); err != nil {
				t.Errorf("another function: %v", err)
			}
			if err := f.Write(device("0000:0c:00.3", "driver_override"), "x"); err != nil {
				t.Errorf("another device: %v", err)
			}
			h.Closes(persistence, "/dev/nvidia1")
			out.ends(t, "unbind", nil)
			for name, p := range behind {
				if name == driverFile("nvidia", "bind") {
					select { // by then the override may say something else, or a probe have bound it
					case <-p:
					case <-time.After(10 * time.Second):
						t.Error("bind waits still")
					}
					continue
				}
				p.ends(t, name, nil)
			}
			again.ends(t, "a second unbind", nil)
			read.ends(t, "a read of driver_override", nil)
			if !h.WaitIdle(time.Second) {
				t.Error("something is under way")
			}
		})
	}
}

// TestUnbindWaits: whom and what drivers wait for.
func TestUnbindWaits(t *testing.T) {
	modeset := []string{"modeset=N", "modeset=Y"}
	for _, c := range []struct {
		name, host   string
		edits        []string
		driver, addr string
		before       func(t *testing.T, h *sysfstest.Host)
		gone         string // a node that is gone already while it waits
		free         func(t *testing.T, h *sysfstest.Host)
	}{
		{
			"a card that nobody uses", "two-nvidia", nil, "nvidia", second,
			func(_ *testing.T, h *sysfstest.Host) { h.RemoveProcess(persistence) }, "", nil,
		},
		{
			"persistence mode", "two-nvidia",
			[]string{"minor=1", "minor=1 persistence=on"},
			"nvidia", second,
			func(_ *testing.T, h *sysfstest.Host) { h.RemoveProcess(persistence) }, "",
			func(t *testing.T, h *sysfstest.Host) { smi(t, h.FS(), "-i", second, "-pm", "0") },
		},
		{
			"modeset", "two-nvidia", modeset, "nvidia", second,
			func(_ *testing.T, h *sysfstest.Host) { h.RemoveProcess(persistence) }, "",
			func(_ *testing.T, h *sysfstest.Host) { h.Unwedge(second) },
		},
		{
			"modeset in a version that lets go", "two-nvidia", append(modeset, "570.86.16", "580.105.08"), "nvidia", second,
			func(_ *testing.T, h *sysfstest.Host) { h.RemoveProcess(persistence) }, "", nil,
		},
		{
			"modeset in a version that is not on the list", "two-nvidia", append(modeset, "570.86.16", "590.48.01"), "nvidia", second,
			func(_ *testing.T, h *sysfstest.Host) { h.RemoveProcess(persistence) }, "",
			func(_ *testing.T, h *sysfstest.Host) { h.Unwedge(second) },
		},
		{
			"modeset without a list", "two-nvidia", append(modeset, "570.86.16", "595.45.04", "drops_modeset_count", "#"), "nvidia", second,
			func(_ *testing.T, h *sysfstest.Host) { h.RemoveProcess(persistence) }, "", nil,
		},
		{
			"a process that ends", "two-nvidia", nil, "nvidia", second, nil, "",
			func(_ *testing.T, h *sysfstest.Host) { h.RemoveProcess(persistence) },
		},
		{
			"an i2c adapter", "nouveau", nil, "nouveau", "0000:01:00.0",
			func(t *testing.T, h *sysfstest.Host) { must(t, h.Opens(1210, "/dev/i2c-9")) }, "/dev/i2c-9",
			func(_ *testing.T, h *sysfstest.Host) { h.Closes(1210, "/dev/i2c-9") },
		},
		{
			"a screen", "nouveau", nil, "nouveau", "0000:01:00.0",
			func(t *testing.T, h *sysfstest.Host) { must(t, h.Opens(1210, "/dev/dri/card1")) }, "", nil,
		},
		{"sound that a server lets go", "two-nvidia", nil, "snd_hda_intel", secondSound, nil, "", nil},
		{
			"sound that plays", "two-nvidia", nil, "snd_hda_intel", secondSound,
			func(t *testing.T, h *sysfstest.Host) { must(t, h.Opens(1402, "/dev/snd/pcmC1D3p")) }, "/dev/snd/pcmC1D3p",
			func(_ *testing.T, h *sysfstest.Host) { h.Closes(1402, "/dev/snd/pcmC1D3p") },
		},
		{
			"other cards' sound", "two-nvidia", nil, "snd_hda_intel", secondSound,
			func(t *testing.T, h *sysfstest.Host) { must(t, h.Opens(1402, "/dev/snd/controlC0")) }, "", nil,
		},
		{
			"a host that speaks of no nodes", "desktop-four", nil, "nvidia", "0000:01:00.0",
			func(t *testing.T, h *sysfstest.Host) { must(t, h.Opens(1204, "/dev/nvidia0")) }, "", nil,
		},
	} {
		host := edited(t, c.host, c.edits...)
		for _, d := range doors() {
			t.Run(c.name+"/"+d.name, func(t *testing.T) {
				h := host.Clone()
				if c.before != nil {
					c.before(t, h)
				}
				f := d.open(t, h)
				out := begin(func() error { return f.Write(driverFile(c.driver, "unbind"), c.addr) })
				if c.free != nil {
					out.waits(t, "unbind")
					if c.gone != "" && h.FS().Exists(c.gone) {
						t.Errorf("%s is still there", c.gone)
					}
					c.free(t, h)
				}
				out.ends(t, "unbind", nil)
				if driver, err := f.PCIDriver(c.addr); driver != "" || err != nil {
					t.Errorf("driver %q, error %v", driver, err)
				}
				if err := h.FS().Write(driverFile(c.driver, "bind"), c.addr); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestCloseEndsWaiting: the end of a test frees what waits for a driver.
func TestCloseEndsWaiting(t *testing.T) {
	h := load(t, "two-nvidia")
	f := h.FS()
	out := begin(func() error { return f.Write(driverFile("nvidia", "unbind"), second) })
	out.waits(t, "unbind")
	behind := begin(func() error { return f.SetPCIOverride(second, "vfio-pci") })
	behind.waits(t, "driver_override")
	must(t, h.Close())
	out.ends(t, "unbind", syscall.EINTR)
	behind.ends(t, "driver_override", syscall.EINTR)
}

// TestFallOffWhileAwaited: a card that dies takes its users with it, and whoever waited for it finds it gone.
func TestFallOffWhileAwaited(t *testing.T) {
	host := load(t, "two-nvidia")
	for _, d := range doors() {
		t.Run(d.name, func(t *testing.T) {
			h := host.Clone()
			f := d.open(t, h)
			out := begin(func() error { return f.Write(driverFile("nvidia", "unbind"), second) })
			out.waits(t, "unbind")
			probe := begin(func() error { return f.Write("/sys/bus/pci/drivers_probe", second) })
			probe.waits(t, "probe")
			bind := begin(func() error { return f.Write(driverFile("nvidia", "bind"), second) })
			bind.waits(t, "bind")
			h.FallOff(second)
			out.ends(t, "unbind", nil)
			probe.ends(t, "probe", nil)
			bind.ends(t, "bind", syscall.ENODEV)
			for _, name := range []string{"/sys/bus/pci/devices/" + second, driverFile("nvidia", second), "/dev/nvidia1"} {
				if h.FS().Exists(name) {
					t.Errorf("%s is there", name)
				}
			}
		})
	}
}

// smi runs nvidia-smi and returns what it prints.
func smi(t *testing.T, f sysfs.FS, args ...string) string {
	t.Helper()
	out, err := f.Output(t.Context(), "/usr/bin/nvidia-smi", args...)
	if err != nil {
		t.Errorf("nvidia-smi %v: %v: %s", args, err, out)
	}
	return string(out)
}

// TestNvidiaSMI: what it prints and does, by both doors.
func TestNvidiaSMI(t *testing.T) {
	query := []string{"-i", second, "--query-gpu=persistence_mode", "--format=csv,noheader"}
	host := load(t, "two-nvidia")
	for _, d := range doors() {
		t.Run(d.name, func(t *testing.T) {
			h := host.Clone()
			f := d.open(t, h)
			before := h.Snapshot()
			if got := smi(t, f, query...); got != "Disabled\n" {
				t.Errorf("%q", got)
			}
			if got := smi(t, f, "-i", second, "-pm", "1"); !strings.HasPrefix(got, "Enabled persistence mode for GPU 00000000:06:00.0") {
				t.Errorf("%q", got)
			}
			if got := smi(t, f, query...); got != "Enabled\n" {
				t.Errorf("%q", got)
			}
			if diff := sysfstest.Diff(before, h.Snapshot()); !strings.Contains(diff, "(persistence of "+second+")") {
				t.Errorf("the snapshot does not tell: %s", diff)
			}
			if got := smi(t, f, "--query-gpu=persistence_mode", "--format=csv"); got != "persistence_mode\nDisabled\nEnabled\n" {
				t.Errorf("%q", got)
			}
			h.FallOff(second)
			out, err := f.Output(t.Context(), "/usr/bin/nvidia-smi", query...)
			if err == nil || string(out) != "No devices were found\n" {
				t.Errorf("%q, error %v", out, err)
			}
			if h.Changes() != 5 {
				t.Errorf("%d changes", h.Changes())
			}
		})
	}
	h := load(t, "hybrid-laptop")
	out, err := h.FS().Output(t.Context(), "/usr/bin/nvidia-smi", "-i", "0000:01:00.0", "-pm", "0")
	if err == nil || !strings.HasPrefix(string(out), "Unable to determine the device handle") {
		t.Errorf("a card that cannot wake: %q, error %v", out, err)
	}
	if _, err := load(t, "fern").FS().Output(t.Context(), "/usr/bin/nvidia-smi"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("a host without it: %v", err)
	}
}

// TestSignal: who ends by which signal, in process.
func TestSignal(t *testing.T) {
	const pid, start = 812, 1812
	for _, c := range []struct {
		name    string
		pid     int
		start   uint64
		signal  syscall.Signal
		errno   syscall.Errno
		ends    bool
		refused bool
		said    string
	}{
		{"TERM", pid, start, syscall.SIGTERM, 0, true, false, "SIGTERM"},
		{"KILL", pid, start, syscall.SIGKILL, 0, true, false, "SIGKILL"},
		{"another", pid, start, syscall.SIGHUP, 0, false, false, "SIG1"},
		{"a later process of that number", pid, start + 1, syscall.SIGKILL, syscall.ESRCH, false, false, ""},
		{"nobody", 4000, 5000, syscall.SIGKILL, syscall.ESRCH, false, false, ""},
		{"stubborn", 900, 1900, syscall.SIGTERM, 0, false, false, "SIGTERM"},
		{"stubborn killed", 900, 1900, syscall.SIGKILL, 0, true, false, "SIGKILL"},
		{"refused", pid, start, syscall.SIGKILL, syscall.EPERM, false, true, "SIGKILL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := load(t, "fern")
			h.AddProcess(sysfstest.Process{PID: 900, Comm: "stubborn", Stubborn: true})
			var seen []sysfstest.Change
			h.OnChange(func(ch sysfstest.Change) error {
				seen = append(seen, ch)
				if c.refused {
					return syscall.EPERM
				}
				return nil
			})
			if err := h.FS().Signal(c.pid, c.start, c.signal); !is(err, c.errno) {
				t.Errorf("error %v, want %v", err, c.errno)
			}
			proc := sysfs.Process{PID: c.pid, Start: c.start}
			if there, err := proc.Alive(h.FS()); err != nil || there == c.ends && c.errno != syscall.ESRCH {
				t.Errorf("alive %t, error %v", there, err)
			}
			if c.said == "" && len(seen) > 0 || c.said != "" && (len(seen) != 1 || seen[0].Op != "signal" || seen[0].Value != c.said) {
				t.Errorf("changes %+v", seen)
			}
		})
	}
}

// TestUnloadModule: delete_module(2), in process.
func TestUnloadModule(t *testing.T) {
	h := load(t, "two-nvidia")
	f := h.FS()
	var seen []sysfstest.Change
	h.OnChange(func(c sysfstest.Change) error { seen = append(seen, c); return nil })
	if err := f.UnloadModule("nosuch"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("error %v", err)
	}
	if err := f.UnloadModule("nvidia"); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("a module that others need: %v", err)
	}
	if err := f.UnloadModule("nvidia-drm"); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("a module with open files: %v", err)
	}
	for _, pid := range []int{611, 640, 801, 1402} {
		h.RemoveProcess(pid)
	}
	for _, name := range []string{"nvidia-drm", "nvidia_uvm", "nvidia_modeset", "nvidia"} {
		if !loaded(f, name) {
			t.Errorf("%s went with another", name)
		}
		if err := f.UnloadModule(name); err != nil || loaded(f, name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := f.UnloadModule("nvidia"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("once more: %v", err)
	}
	if len(seen) != 8 || seen[3] != (sysfstest.Change{N: 4, Op: "unload", Path: "/sys/module/nvidia_drm"}) {
		t.Errorf("%+v", seen)
	}
	if f.Exists("/dev/nvidia0") || f.Exists("/sys/bus/pci/drivers/nvidia") {
		t.Error("the driver is still there")
	}
}

// TestVirtualFunctions: they come and go with their function's driver and its sriov_numvfs.
func TestVirtualFunctions(t *testing.T) {
	const pf, vf0, vf1 = "0000:01:00.0", "0000:01:10.0", "0000:01:10.2"
	host, err := sysfstest.Parse("sriov", []byte(`A host with an SR-IOV network card.
-- cpus --
package 0 0-1
-- nodes --
0 cpus=0-1 total=4G free=2G
-- hugepages --
2048 default
-- modules --
igb loaded driver=igb alias=pci:v00008086d00001521sv*sd*bc*sc*i*
igbvf loaded driver=igbvf alias=pci:v00008086d00001520sv*sd*bc*sc*i*
-- pci --
`+pf+` class=0200 id=8086:1521 driver=igb group=1 vfs=2 virtfn=`+vf0+`,`+vf1+`
`+vf0+` class=0200 id=8086:1520 driver=igbvf group=2
`+vf1+` class=0200 id=8086:1520 group=3
`))
	if err != nil {
		t.Fatal(err)
	}
	r := rule{"", "", []step{
		read(device(pf, "sriov_numvfs"), "2"),
		read(device(pf, "sriov_totalvfs"), "2"),
		link(device(pf, "virtfn0"), vf0),
		link(device(pf, "virtfn1"), vf1),
		link(device(vf1, "physfn"), pf),
		refused(device(pf, "sriov_numvfs"), "1", syscall.EBUSY),
		refused(device(pf, "sriov_numvfs"), "3", syscall.ERANGE),
		write(device(pf, "sriov_numvfs"), "2"),
		write(device(pf, "sriov_numvfs"), "0"),
		gone(device(pf, "virtfn0")),
		gone("/sys/bus/pci/devices/" + vf0),
		gone(driverFile("igbvf", vf0)),
		write("/sys/bus/pci/rescan", "1"),
		gone("/sys/bus/pci/devices/" + vf0),
		write(device(pf, "sriov_numvfs"), "1"),
		link(device(pf, "virtfn0"), vf0),
		link(device(vf0, "driver"), "igbvf"),
		gone("/sys/bus/pci/devices/" + vf1),
		unbind("igb", pf),
		gone("/sys/bus/pci/devices/" + vf0),
		read(device(pf, "sriov_numvfs"), "0"),
		refused(device(pf, "sriov_numvfs"), "2", syscall.ENOENT),
		bindTo("igb", pf),
		write(device(pf, "sriov_numvfs"), "2"),
		there(device(vf1, "vendor")),
	}}
	for _, d := range doors() {
		t.Run(d.name, func(t *testing.T) {
			h := host.Clone()
			f := d.open(t, h)
			for i, s := range r.steps {
				s.check(t, i+1, h, f)
			}
		})
	}
}

// TestVFIOPower: vfio-pci has its functions sleep when they are idle, where the host file says so.
func TestVFIOPower(t *testing.T) {
	for _, c := range []struct{ vfio, held, after string }{{"no", "on", "on"}, {"yes", "auto", "on"}} {
		h := edited(t, "amd-two", "systemd yes", "systemd yes\nvfio_pm "+c.vfio)
		f := h.FS()
		const card = "0000:0b:00.0"
		control := func(want string) {
			t.Helper()
			if got, err := f.Read(device(card, "power/control")); got != want || err != nil {
				t.Errorf("vfio_pm %s: control %q, error %v, want %q", c.vfio, got, err, want)
			}
		}
		must(t, errors.Join(
			f.Write(device(card, "power/control"), "on"), f.SetPCIOverride(card, "vfio-pci"),
			f.Write(driverFile("amdgpu", "unbind"), card), f.Write(driverFile("vfio-pci", "bind"), card),
		))
		control(c.held)
		must(t, f.Write(driverFile("vfio-pci", "unbind"), card))
		control(c.after)
	}
}

// TestCardComesBackTheSame moves every card of the new hosts to vfio-pci and back: the tree is what it was.
func TestCardComesBackTheSame(t *testing.T) {
	for _, c := range []struct {
		host, addr, driver string
		before             func(h *sysfstest.Host)
	}{
		{"nouveau", "0000:01:00.0", "nouveau", nil},
		{"nouveau", "0000:01:00.1", "snd_hda_intel", nil},
		{"amd-two", "0000:0b:00.0", "amdgpu", nil},
		{"amd-two", "0000:0b:00.1", "snd_hda_intel", nil},
		{"intel-arc", "0000:03:00.0", "xe", nil},
		{"intel-arc", "0000:04:00.0", "snd_hda_intel", nil},
		{"driverless", "0000:01:00.1", "snd_hda_intel", nil},
		{"two-nvidia", second, "nvidia", func(h *sysfstest.Host) { h.RemoveProcess(persistence) }},
		{"two-nvidia", "0000:0c:00.3", "xhci_hcd", nil},
		{"single-gpu-full", "0000:03:00.0", "xhci_hcd", nil},
	} {
		t.Run(c.host+"/"+c.addr, func(t *testing.T) {
			origin := load(t, c.host)
			if c.before != nil {
				c.before(origin)
			}
			must(t, origin.LoadModule("vfio-pci"))
			before := origin.Snapshot()
			for _, d := range doors() {
				t.Run(d.name, func(t *testing.T) {
					h := origin.Clone()
					f := d.open(t, h)
					for range 2 {
						must(t, errors.Join(
							f.SetPCIOverride(c.addr, "vfio-pci"), f.Write(driverFile(c.driver, "unbind"), c.addr),
							f.Write("/sys/bus/pci/drivers_probe", c.addr),
						))
						if got, err := f.PCIDriver(c.addr); got != "vfio-pci" || err != nil {
							t.Fatalf("driver %q, error %v", got, err)
						}
						must(t, errors.Join(
							f.SetPCIOverride(c.addr, ""), f.Write(driverFile("vfio-pci", "unbind"), c.addr),
							f.Write("/sys/bus/pci/drivers_probe", c.addr),
						))
					}
					if diff := sysfstest.Diff(before, h.Snapshot()); diff != "" {
						t.Error(diff)
					}
				})
			}
			if diff := sysfstest.Diff(before, origin.Snapshot()); diff != "" {
				t.Errorf("the clones changed their origin: %s", diff)
			}
		})
	}
}

func loaded(f sysfs.FS, module string) bool {
	is, err := f.ModuleLoaded(module)
	return err == nil && is
}
