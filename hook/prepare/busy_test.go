package prepare_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/sysfs/sysfstest"
)

// busyHost is a desktop with an AMD card of its own (00:02.0 stands behind 03:00.0) and an NVIDIA card for the guest, with all
// that hangs on cards: nodes, connectors, a display manager with a session, sound, consoles. @NAME@ are places where a test
// puts something else.
const busyHost = `A desktop on which everything is in use.

-- kernel --
release 6.12.0
@SMI@

-- cpus --
package 0 0-1 2-3 4-5 6-7

-- nodes --
0 cpus=0-7 total=31G free=20G cache=8G

-- hugepages --
2048 default

-- modules --
pcieport builtin driver=pcieport alias=pci:v*d*sv*sd*bc06sc04i00*
nvme loaded driver=nvme alias=pci:v*d*sv*sd*bc01sc08i02*
xhci_pci loaded driver=xhci_hcd alias=pci:v*d*sv*sd*bc0Csc03i30*
snd_hda_intel loaded driver=snd_hda_intel alias=pci:v*d*sv*sd*bc04sc03i00*
amdgpu loaded driver=amdgpu alias=pci:v00001002d*sv*sd*bc03sc00i00*
i915 loaded driver=i915 alias=pci:v00008086d*sv*sd*bc03sc00i00*
nouveau @NOUVEAU@ driver=nouveau alias=pci:v000010DEd*sv*sd*bc03sc*i*
nvidia @NVIDIA@ driver=nvidia alias=pci:v000010DEd*sv*sd*bc03sc00i00* version=@VERSION@
nvidia_uvm @NVIDIA@ deps=nvidia
nvidia_modeset @NVIDIA@ deps=nvidia
nvidia_drm @NVIDIA@ deps=nvidia_modeset param=modeset=@MODESET@
vfio loaded
vfio_iommu_type1 loaded deps=vfio
vfio_pci_core loaded deps=vfio
vfio_pci loaded driver=vfio-pci deps=vfio_pci_core alias=vfio_pci:v*d*sv*sd*bc*sc*i*

-- pci --
0000:00:01.0 class=0604 id=8086:460d driver=pcieport group=1
  0000:03:00.0 class=0300 id=1002:743f driver=amdgpu group=15 boot_vga=@HOSTBOOT@ nodes=drm:card0:226:0,drm:renderD128:226:128 connectors=card0-DP-1:connected:@HOSTLIT@
  0000:03:00.1 class=0403 id=1002:ab28 driver=snd_hda_intel group=16
0000:00:02.0 class=0604 id=8086:464d driver=pcieport group=2
  0000:08:00.0 class=0300 id=10de:2782 driver=@DRIVER@ group=18 boot_vga=@BOOT@ reset=flr,bus minor=0 nodes=drm:card1:226:1,drm:renderD129:226:129,i2c-dev:i2c-7:89:7 connectors=card1-HDMI-A-1:connected:@LIT@ bars=0:f6000000:16M,1:4000000000:256M:8M|256M|16G @CARD@
  0000:08:00.1 class=0403 id=10de:22bc driver=snd_hda_intel group=18 nodes=sound:controlC1:116:7,sound:pcmC1D3p:116:8 status=suspended
0000:00:03.0 class=0604 id=8086:464e driver=pcieport group=3
  @SECOND@

-- cgroups --
/ subtree=cpuset,cpu,io,memory,hugetlb,pids,rdma,misc
/init.scope
/machine.slice
/system.slice
/user.slice

-- units --
gdm.service active
nvidia-persistenced.service @PERSISTENCED@
nvidia-powerd.service inactive
ollama.service active
libvirtd.service active

-- devices --
/dev/nvidiactl c 195:255 0666
/dev/nvidia-modeset c 195:254 0666
/dev/nvidia-uvm c 510:0 0666

-- links --
/sys/class/graphics/fb0 -> ../../devices/@FB0@/graphics/fb0

-- consoles --
vtcon0 bind=0 (@DUMMY@) dummy device
vtcon1 bind=1 (M) frame buffer device

@FRAMEBUFFERS@

-- processes --
700 cgroup=/system.slice/systemd-logind.service open=@LOGIND@ systemd-logind /lib/systemd/systemd-logind
701 cgroup=/system.slice/dbus.service dbus-daemon /usr/bin/dbus-daemon
812 cgroup=/system.slice/libvirtd.service libvirtd /usr/sbin/libvirtd
900 cgroup=/system.slice/gdm.service gdm /usr/sbin/gdm
1100 uid=1000 cgroup=/user.slice/user-1000.slice/session-2.scope open=@SHELL@ gnome-shell /usr/bin/gnome-shell
1200 uid=1000 cgroup=/user.slice/user-1000.slice/user@1000.service/app.slice/pipewire.service open=/dev/snd/controlC1 lets_go=@LETSGO@ pipewire /usr/bin/pipewire
@PROCESSES@

-- proc/devices --
Character devices:
195 nvidia
510 nvidia-uvm
226 drm

Block devices:
  8 sd
-- proc/iomem --
80000000-bfffffff : PCI Bus 0000:00
4000000000-7fffffffff : PCI Bus 0000:00
  4000000000-400fffffff : 0000:08:00.0
@IOMEM@
-- run/systemd/sessions/2 --
UID=1000
USER=fern
ACTIVE=1
STATE=active
SEAT=seat0
TYPE=wayland
CLASS=user
SCOPE=session-2.scope
SERVICE=gdm-password
LEADER=1050
DEVICES=@DEVICES@
-- etc/passwd --
root:x:0:0::/root:/bin/sh
fern:x:1000:100::/home/fern:/bin/sh
-- etc/group --
root:x:0:
kvm:x:78:
-- usr/bin/true --
`

// busy makes the host; edits are NAME=VALUE.
func busy(t *testing.T, edits ...string) *rig {
	t.Helper()
	text := busyHost
	defaults := []string{
		"SMI=nvidia_smi /usr/bin/nvidia-smi", "NOUVEAU=", "NVIDIA=loaded", "VERSION=570.86.16", "MODESET=N",
		"HOSTBOOT=1", "HOSTLIT=enabled", "DRIVER=nvidia", "BOOT=0", "LIT=disabled", "CARD=", "SECOND=", "PERSISTENCED=inactive",
		"FB0=pci0000:00/0000:00:01.0/0000:03:00.0", "FRAMEBUFFERS=", "LOGIND=/dev/dri/card0", "SHELL=/dev/dri/card0", "LETSGO=yes",
		"PROCESSES=", "DUMMY=S", "IOMEM=", "DEVICES=226:0",
	}
	for _, e := range append(edits, defaults...) {
		name, value, ok := strings.Cut(e, "=")
		if !ok {
			t.Fatalf("%q is no edit", e)
		}
		text = strings.ReplaceAll(text, "@"+name+"@", value)
	}
	model, err := sysfstest.Parse("busy", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { model.Close() })
	config := hook.DefaultConfig()
	config.GPU.Grace, config.GPU.Deadline = 300*time.Millisecond, 300*time.Millisecond
	return &rig{t: t, model: model, state: filepath.Join(t.TempDir(), "state"), config: config}
}

// configure reads a configuration for the rig, with times that suit a test.
func (r *rig) configure(toml string) {
	r.t.Helper()
	config, err := hook.ParseConfig("config.toml", []byte("gpu.grace = \"300ms\"\ngpu.deadline = \"1s\"\n"+toml))
	if err != nil {
		r.t.Fatal(err)
	}
	r.config = config
}

// card is a guest with the NVIDIA card, or those functions of it that are named.
func card(functions ...string) *domain.Needs {
	if functions == nil {
		functions = []string{"0000:08:00.0", "0000:08:00.1"}
	}
	n := &domain.Needs{Guest: domain.Guest{Name: "win11", UUID: "6f0c1f5a-54c3-4c0e-9a35-2c1a8a8d1e01"}}
	for _, f := range functions {
		n.PCI = append(n.PCI, domain.Function{Address: f})
	}
	return n
}

func (r *rig) driver(address string) string {
	r.t.Helper()
	d, err := r.model.FS().PCIDriver(address)
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

// wantRefused fails unless the plan refuses with exactly these reasons, nothing was written, and prepare says the same.
func (r *rig) wantRefused(n *domain.Needs, reasons ...string) {
	r.t.Helper()
	before := r.snapshot()
	changes := r.model.Changes()
	plan, err := prepare.NewPlan(context.Background(), r.host(), n)
	if err != nil {
		r.t.Fatal(err)
	}
	if got, want := strings.Join(plan.Refusals, "\n"), strings.Join(reasons, "\n"); got != want {
		r.t.Errorf("the plan refuses with\n%s\nwant\n%s", got, want)
	}
	if r.model.Changes() != changes {
		r.t.Error("planning wrote to the host")
	}
	if err := r.prepare(n); err == nil {
		r.t.Error("the guest was prepared")
	}
	if r.model.Changes() != changes {
		r.t.Errorf("something was touched for a refusal that was known (%d changes)", r.model.Changes()-changes)
	}
	r.wantAsBefore(before, "after the refusal")
}

// wantGoesAndComes prepares, checks that the card is with the guest, and that all is as before after the release.
func (r *rig) wantGoesAndComes(n *domain.Needs) {
	r.t.Helper()
	before := r.snapshot()
	if err := r.prepare(n); err != nil {
		r.t.Fatalf("prepare: %v", err)
	}
	for _, f := range n.PCI {
		if d := r.driver(f.Address); d != "vfio-pci" {
			r.t.Errorf("%s is on %q", f.Address, d)
		}
	}
	if err := r.release(n); err != nil {
		r.t.Errorf("release: %v", err)
	}
	r.wantAsBefore(before, "after release")
}

// Pitfalls 2 and 3: every kind of node, open or mapped, by whoever, refuses the plan with names.
func TestHoldersAreNamed(t *testing.T) {
	const nvidia = "0000:08:00.0 [10de:2782] (nvidia) is in use: "
	for name, test := range map[string]struct {
		process string
		want    string
	}{
		"the GPU's own node": {
			"2000 cgroup=/system.slice/ollama.service open=/dev/nvidia0 ollama ollama serve",
			"ollama (pid 2000, ollama.service) has /dev/nvidia0 open; stop it, or list the unit under services.stop",
		},
		"nodes that all cards share, with no other card": {
			"2000 uid=1000 cgroup=/user.slice/user-1000.slice/user@1000.service/app.slice/app-steam.scope open=/dev/nvidiactl,/dev/nvidia-uvm steam steam",
			"steam (pid 2000, app-steam.scope, user fern) has /dev/nvidiactl, /dev/nvidia-uvm open; quit it, or list the command under gpu.terminate",
		},
		"render node": {
			"2000 uid=1000 cgroup=/user.slice/user-1000.slice/session-2.scope open=/dev/dri/renderD129 mpv mpv",
			"mpv (pid 2000, session-2.scope, user fern) has /dev/dri/renderD129 open; quit it, or list the command under gpu.terminate",
		},
		"i2c adapter": {
			"2000 uid=1000 cgroup=/user.slice/user-1000.slice/user@1000.service/background.slice/plasma-powerdevil.service open=/dev/i2c-7 org_kde_powerdevil x",
			"org_kde_powerdevil (pid 2000, plasma-powerdevil.service, user fern) has /dev/i2c-7 open; quit it, or list the command under gpu.terminate",
		},
		"mapping alone": {
			"2000 cgroup=/system.slice/ollama.service maps=/dev/nvidia0 ollama ollama",
			"ollama (pid 2000, ollama.service) has /dev/nvidia0 open; stop it, or list the unit under services.stop",
		},
		"container": {
			"2000 cgroup=/system.slice/docker-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope open=/dev/nvidia0 python3 python3",
			"python3 (pid 2000, docker-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope, container 0123456789ab) has /dev/nvidia0 open; quit it, or list the command under gpu.terminate",
		},
	} {
		t.Run(name, func(t *testing.T) {
			busy(t, "PROCESSES="+test.process).wantRefused(card(), nvidia+test.want)
		})
	}
}

// Several holders of one function are one reason, and all are in it.
func TestAllHoldersAreNamed(t *testing.T) {
	r := busy(t, "PROCESSES=2000 cgroup=/system.slice/ollama.service open=/dev/nvidia0 ollama x\n2001 uid=1000 cgroup=/user.slice open=/dev/dri/card1 chrome x")
	r.wantRefused(card(), "0000:08:00.0 [10de:2782] (nvidia) is in use: ollama (pid 2000, ollama.service) has /dev/nvidia0 open, "+
		"chrome (pid 2001, user fern) has /dev/dri/card1 open; stop it, or list the unit under services.stop; quit it, or list the command under gpu.terminate")
}

// Files that logind keeps are the session's.
func TestSessionIsNamed(t *testing.T) {
	r := busy(t, "LOGIND=/dev/dri/card1", "DEVICES=226:1")
	r.wantRefused(card(), `0000:08:00.0 [10de:2782] (nvidia) is in use: session 2 of fern on seat0 (leader 1050, by systemd-logind) has /dev/dri/card1 open; `+
		`log out, or say session.end = "seat0" in the configuration`)
}

// A card in use that the configuration frees is freed, and what was stopped runs again.
func TestFreed(t *testing.T) {
	const ollama = "PROCESSES=2000 cgroup=/system.slice/ollama.service open=/dev/nvidia0,/dev/nvidiactl ollama ollama"
	t.Run("unit", func(t *testing.T) {
		r := busy(t, ollama)
		r.configure(`services.stop = ["ollama.service"]`)
		r.wantGoesAndComes(card())
	})
	t.Run("display manager", func(t *testing.T) {
		r := busy(t, "SHELL=/dev/dri/card1,/dev/nvidia0", "LOGIND=", "DEVICES=226:1",
			"PROCESSES=2000 uid=1000 cgroup=/system.slice/gdm.service open=/dev/dri/card1 Xorg Xorg")
		r.configure(`services.stop = ["gdm.service"]` + "\n" + `session.end = "seat0"`)
		// The session is gone for good.
		if err := r.prepare(card()); err != nil {
			t.Fatal(err)
		}
		if r.model.FS().Exists("/run/systemd/sessions/2") {
			t.Error("the session is still there")
		}
		if runs, _ := r.model.Systemd().UnitRuns(context.Background(), "gdm.service"); runs {
			t.Error("the display manager runs under the guest")
		}
		if err := r.release(card()); err != nil {
			t.Fatal(err)
		}
		if runs, _ := r.model.Systemd().UnitRuns(context.Background(), "gdm.service"); !runs {
			t.Error("the display manager does not run after the guest")
		}
		if d := r.driver("0000:08:00.0"); d != "nvidia" {
			t.Errorf("the card is on %q", d)
		}
	})
	for name, c := range map[string]string{
		"command":    `gpu.terminate = ["ollama"]`,
		"by unit":    `gpu.terminate = ["ollama.service"]`,
		"everything": `gpu.in_use = "terminate"`,
	} {
		for _, stubborn := range []string{"", " stubborn=yes"} {
			t.Run(name+stubborn, func(t *testing.T) {
				r := busy(t, ollama+stubborn)
				r.configure(c)
				if err := r.prepare(card()); err != nil {
					t.Fatal(err)
				}
				if r.model.FS().Exists("/proc/2000") {
					t.Error("the process is still there")
				}
				if err := r.release(card()); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// Those who must not die are not ended, whatever the configuration says.
func TestNeverEnded(t *testing.T) {
	for _, comm := range []string{"libvirtd", "dbus-daemon", "qemu-system-x86", "systemd-logind", ".libvirtd-wrapp", "seatd"} {
		t.Run(comm, func(t *testing.T) {
			r := busy(t, "PROCESSES=2000 cgroup=/system.slice/x.service open=/dev/nvidia0 "+comm+" x")
			r.configure(`gpu.in_use = "terminate"` + "\n" + fmt.Sprintf("gpu.terminate = [%q]", comm))
			if err := r.prepare(card()); err == nil {
				t.Error("the guest was prepared")
			}
			if !r.model.FS().Exists("/proc/2000") {
				t.Errorf("%s was ended", comm)
			}
		})
	}
}

// Pitfall 10: a sound server lets go when it is told; one that does not is named, and libvirt gets its answer.
func TestSound(t *testing.T) {
	t.Run("lets go", func(t *testing.T) {
		r := busy(t)
		if err := r.prepare(card()); err != nil {
			t.Fatal(err)
		}
		if err := r.release(card()); err != nil {
			t.Fatal(err)
		}
	})
}

// Pitfalls 1 and 10: a program that keeps the sound open is named within seconds, the driver's write is left to the kernel, and
// when the program lets go everything comes back.
func TestSoundThatStays(t *testing.T) {
	t.Parallel()
	for _, node := range []string{"/dev/snd/controlC1", "/dev/snd/pcmC1D3p"} {
		t.Run(node, func(t *testing.T) {
			t.Parallel()
			r := busy(t, "PROCESSES=2000 cgroup=/system.slice/recorder.service open="+node+" arecord arecord")
			r.configure(`services.stop = ["ollama.service"]`)
			before := r.snapshot()
			r.inline = true
			err := r.prepare(card())
			if err == nil || !strings.Contains(err.Error(), "0000:08:00.1 is stuck in the kernel: ") ||
				!strings.Contains(err.Error(), "0000:08:00.1 is stuck in the kernel: arecord (pid 2000, recorder.service) has "+node+" open; close that, and it comes free by itself") {
				t.Fatalf("prepare: %v", err)
			}
			if d := r.driver("0000:08:00.0"); d != "nvidia" {
				t.Errorf("the display function is on %q", d)
			}
			if runs, _ := r.model.Systemd().UnitRuns(context.Background(), "ollama.service"); !runs {
				t.Error("the unit does not run again")
			}
			if err := r.prepare(card()); err == nil || !strings.Contains(err.Error(), "is stuck in the kernel") {
				t.Errorf("the next prepare: %v", err)
			}
			r.model.Closes(2000, node)
			if !r.model.WaitIdle(5 * time.Second) {
				t.Fatal("the write has not returned")
			}
			// In one process there is no worker to be gone: that it is, is forgotten here by hand.
			if err := r.locked(func(h *hook.Host) error { h.Ledger.Wedged = nil; return h.SaveLedger() }); err != nil {
				t.Fatal(err)
			}
			if err := r.release(card()); err != nil {
				t.Errorf("release: %v", err)
			}
			r.model.Opens(2000, node)
			r.wantAsBefore(before, "once it has let go")
		})
	}
}

// A hybrid laptop: the panel is on the other GPU, the card sleeps and drives nothing.
func TestHybridLaptop(t *testing.T) {
	busy(t, "CARD=status=suspended", "FB0=pci0000:00/0000:00:01.0/0000:03:00.0").wantGoesAndComes(card())
}

// Two guests, a card each: a unit that both have stopped runs again after the second, whichever that is.
func TestTwoGuestsShareAUnit(t *testing.T) {
	for _, first := range []int{0, 1} {
		r := busy(t, "SECOND=0000:09:00.0 class=0300 id=8086:56a0 driver=i915 group=19 nodes=drm:card2:226:2")
		r.configure(`services.stop = ["ollama.service"]`)
		before := r.snapshot()
		guests := []*domain.Needs{card(), card("0000:09:00.0")}
		guests[1].Guest = domain.Guest{Name: "second", UUID: "6f0c1f5a-54c3-4c0e-9a35-2c1a8a8d1e02"}
		runs := func() bool {
			runs, err := r.model.Systemd().UnitRuns(context.Background(), "ollama.service")
			if err != nil {
				t.Fatal(err)
			}
			return runs
		}
		for _, g := range guests {
			if err := r.prepare(g); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.release(guests[first]); err != nil {
			t.Fatal(err)
		}
		if runs() {
			t.Error("the unit runs under the other guest")
		}
		if err := r.release(guests[1-first]); err != nil {
			t.Fatal(err)
		}
		if !runs() {
			t.Error("the unit does not run again")
		}
		r.wantAsBefore(before, "after both")
	}
}

// A guest after a card that another has: refused, and nothing of the first is touched.
func TestSameCardTwice(t *testing.T) {
	r := busy(t)
	if err := r.prepare(card()); err != nil {
		t.Fatal(err)
	}
	thief := card("0000:08:00.1")
	thief.Guest = domain.Guest{Name: "thief", UUID: "6f0c1f5a-54c3-4c0e-9a35-2c1a8a8d1e02"}
	changes := r.model.Changes()
	if err := r.prepare(thief); err == nil || !strings.Contains(err.Error(), "is taken by guest win11") {
		t.Errorf("prepare: %v", err)
	}
	if err := r.release(thief); err != nil {
		t.Errorf("release: %v", err)
	}
	if n := r.model.Changes() - changes; n != 0 {
		t.Errorf("the first guest's host was touched (%d changes)", n)
	}
}

// Pitfall 5: with another NVIDIA card on the host nothing is unloaded: the card is unbound, proven unused.
func TestSecondNVIDIACard(t *testing.T) {
	const second = "SECOND=0000:09:00.0 class=0300 id=10de:2504 driver=nvidia group=19 minor=1 nodes=drm:card2:226:2"
	const user = "PROCESSES=2000 uid=1000 cgroup=/user.slice open=/dev/nvidia1,/dev/nvidiactl,/dev/nvidia-uvm,/dev/dri/card2 blender x"
	t.Run("shared nodes prove nothing", func(t *testing.T) { busy(t, second, user).wantGoesAndComes(card()) })
	t.Run("persistence mode", func(t *testing.T) {
		r := busy(t, second, user, "CARD=persistence=on")
		r.wantGoesAndComes(card())
	})
	t.Run("services run again at once", func(t *testing.T) {
		r := busy(t, second, "PERSISTENCED=active",
			"PROCESSES=2000 cgroup=/system.slice/nvidia-persistenced.service open=/dev/nvidia0,/dev/nvidia1 nvidia-persist x")
		before := r.snapshot()
		if err := r.prepare(card()); err != nil {
			t.Fatal(err)
		}
		if runs, _ := r.model.Systemd().UnitRuns(context.Background(), "nvidia-persistenced.service"); !runs {
			t.Error("the other card's persistence daemon does not run")
		}
		if err := r.release(card()); err != nil {
			t.Fatal(err)
		}
		r.wantAsBefore(before, "after release")
	})
	t.Run("modeset, old driver", func(t *testing.T) {
		busy(t, second, "MODESET=Y").wantRefused(card(), "0000:08:00.0 [10de:2782] (nvidia) cannot leave its driver while the host keeps 0000:09:00.0: "+
			"with modeset on, nvidia_drm 570.86.16 uses every card itself and does not let go of one; use a newer driver, or boot with nvidia_drm.modeset=0, or with vfio-pci.ids=10de:2782")
	})
	t.Run("modeset, new driver", func(t *testing.T) {
		busy(t, second, "MODESET=Y", "VERSION=590.44.01").wantGoesAndComes(card())
	})
	t.Run("a user that is not to be seen", func(t *testing.T) {
		const dir = "sys/devices/pci0000:00/0000:00:02.0/0000:08:00.0/msi_irqs"
		r := busy(t, second, "IOMEM=-- proc/driver/nvidia/params --\nEnableMSI: 1\n-- "+dir+"/45 --\nmsix")
		before := r.snapshot()
		if err := r.prepare(card()); err == nil || !strings.Contains(err.Error(), "is in use, and no process has it open") {
			t.Errorf("prepare: %v", err)
		}
		r.wantAsBefore(before, "after the refusal")
		r.model.Remove("/" + dir)
		r.wantGoesAndComes(card())
	})
	t.Run("no nvidia-smi", func(t *testing.T) {
		busy(t, second, "SMI=").wantRefused(card(), "cannot tell whether 0000:08:00.0 [10de:2782] (nvidia) is in persistence mode, and so in use: "+
			"/usr/bin/nvidia-smi does not exist; say gpu.nvidia_smi in the configuration")
	})
	t.Run("both for one guest", func(t *testing.T) {
		busy(t, second).wantGoesAndComes(card("0000:08:00.0", "0000:08:00.1", "0000:09:00.0"))
	})
}

// The only card: the persistence daemon stays away as long as the guest has it.
func TestPersistenced(t *testing.T) {
	r := busy(t, "PERSISTENCED=active", "PROCESSES=2000 cgroup=/system.slice/nvidia-persistenced.service open=/dev/nvidia0 nvidia-persist x")
	r.wantGoesAndComes(card())
}

// Pitfall 4: a poller that opens the card again and again. Before the modules are gone it makes a try fail; it is tried
// again.
func TestPoller(t *testing.T) {
	r := busy(t)
	r.model.AddProcess(sysfstest.Process{PID: 3000, Comm: "waybar", Cgroup: "/user.slice/user-1000.slice/session-2.scope", UID: 1000})
	before := r.snapshot()
	unloads := 0
	r.model.OnChange(func(c sysfstest.Change) error {
		if c.Op == "unload" {
			// It has the card open at the first tries.
			if unloads++; unloads == 1 {
				r.model.Opens(3000, "/dev/nvidia0")
			} else if unloads == 5 {
				r.model.Closes(3000, "/dev/nvidia0")
			}
		}
		return nil
	})
	if err := r.prepare(card()); err != nil {
		t.Fatalf("prepare: %v", err)
	}
	if unloads < 5 {
		t.Errorf("it was not tried again: %d", unloads)
	}
	r.model.OnChange(nil)
	if err := r.release(card()); err != nil {
		t.Fatal(err)
	}
	r.wantAsBefore(before, "after release")
}

// A poller that does not stop is given up on, by name, with everything as before.
func TestPollerThatStays(t *testing.T) {
	r := busy(t)
	r.model.AddProcess(sysfstest.Process{PID: 3000, Comm: "waybar", Cgroup: "/user.slice/user-1000.slice/session-2.scope", UID: 1000})
	before := r.snapshot()
	r.model.OnChange(func(c sysfstest.Change) error {
		if c.Op == "unload" && len(c.Path) > 0 {
			r.model.Closes(3000, "/dev/nvidia0")
			r.model.Opens(3000, "/dev/nvidia0")
		}
		return nil
	})
	err := r.prepare(card())
	if err == nil || !strings.Contains(err.Error(), "is in use again and again: waybar (pid 3000, session-2.scope, user fern) has /dev/nvidia0 open") {
		t.Errorf("prepare: %v", err)
	}
	r.model.OnChange(nil)
	r.model.Closes(3000, "/dev/nvidia0")
	r.wantAsBefore(before, "after the refusal")
}

// Pitfalls 6, 8, 11: nouveau, amdgpu and i915 let go by an unbind; a card with no driver comes back with none.
func TestOtherDrivers(t *testing.T) {
	for _, driver := range []string{"nouveau", "", "vfio-pci"} {
		t.Run(driver, func(t *testing.T) {
			edits := []string{"NVIDIA=", "DRIVER=" + driver}
			if driver == "nouveau" {
				edits = append(edits, "NOUVEAU=loaded")
			}
			busy(t, edits...).wantGoesAndComes(card())
		})
	}
	t.Run("amdgpu", func(t *testing.T) {
		busy(t, "HOSTLIT=disabled", "LOGIND=", "SHELL=", "DEVICES=").wantGoesAndComes(card("0000:03:00.0", "0000:03:00.1"))
	})
	t.Run("i915", func(t *testing.T) {
		busy(t, "SECOND=0000:09:00.0 class=0300 id=8086:56a0 driver=i915 group=19 nodes=drm:card2:226:2").wantGoesAndComes(card("0000:09:00.0"))
	})
}

// Pitfall 19: the firmware's frame buffer in a secondary card's memory, and the console on the boot card.
func TestConsole(t *testing.T) {
	t.Run("frame buffer in the BAR", func(t *testing.T) {
		r := busy(t, "FB0=platform/efi-framebuffer.0", "IOMEM=    4000000000-40007e8fff : BOOTFB",
			"FRAMEBUFFERS=-- framebuffers --\nefi-framebuffer.0 driver=efi-framebuffer name=BOOTFB\n")
		before := r.snapshot()
		if err := r.prepare(card()); err != nil {
			t.Fatal(err)
		}
		for file, want := range map[string]string{"/sys/class/vtconsole/vtcon1/bind": "0"} {
			if got, _ := r.model.FS().Read(file); got != want {
				t.Errorf("%s is %q, want %q", file, got, want)
			}
		}
		if v, _ := r.model.FS().Read("/proc/iomem"); strings.Contains(v, "BOOTFB") {
			t.Error("the frame buffer still has the card's memory")
		}
		if err := r.release(card()); err != nil {
			t.Fatal(err)
		}
		r.wantAsBefore(before, "after release")
	})
	t.Run("boot card", func(t *testing.T) {
		r := busy(t, "BOOT=1", "HOSTBOOT=0", "FB0=pci0000:00/0000:00:02.0/0000:08:00.0")
		before := r.snapshot()
		if err := r.prepare(card()); err != nil {
			t.Fatal(err)
		}
		if got, _ := r.model.FS().Read("/sys/class/vtconsole/vtcon1/bind"); got != "0" {
			t.Error("the console is still on the card")
		}
		if err := r.release(card()); err != nil {
			t.Fatal(err)
		}
		r.wantAsBefore(before, "after release")
	})
	// Seen in the lab: where the boot's own console driver is gone, a console cannot be bound, only the other unbound.
	// Seen in the lab: the console is on the card that the firmware started, also when another has the first frame buffer.
	t.Run("boot card with the second frame buffer", func(t *testing.T) {
		r := busy(t, "BOOT=1", "HOSTBOOT=0", "FRAMEBUFFERS=-- links --\n/sys/class/graphics/fb1 -> ../../devices/pci0000:00/0000:00:02.0/0000:08:00.0/graphics/fb1\n")
		if err := r.prepare(card()); err != nil {
			t.Fatal(err)
		}
		if got, _ := r.model.FS().Read("/sys/class/vtconsole/vtcon1/bind"); got != "0" {
			t.Error("the console is still on the card")
		}
	})
	t.Run("no system console", func(t *testing.T) {
		busy(t, "BOOT=1", "HOSTBOOT=0", "FB0=pci0000:00/0000:00:02.0/0000:08:00.0", "DUMMY=M").wantGoesAndComes(card())
	})
	t.Run("another card's guest", func(t *testing.T) {
		r := busy(t)
		if err := r.prepare(card()); err != nil {
			t.Fatal(err)
		}
		if got, _ := r.model.FS().Read("/sys/class/vtconsole/vtcon1/bind"); got != "1" {
			t.Error("the host's console was taken for a card that it is not on")
		}
	})
}

// A lit connector refuses only if it is the host's last and nothing is listed to stop.
func TestLitConnectors(t *testing.T) {
	t.Run("two", func(t *testing.T) { busy(t, "LIT=enabled").wantGoesAndComes(card()) })
	t.Run("the last", func(t *testing.T) {
		busy(t, "LIT=enabled", "HOSTLIT=disabled").wantRefused(card(), "the guest's functions drive the host's last lit screen (card1-HDMI-A-1); "+
			"list what shows the desktop under services.stop, or say session.end in the configuration")
	})
	t.Run("the last, with a unit to stop", func(t *testing.T) {
		r := busy(t, "LIT=enabled", "HOSTLIT=disabled")
		r.configure(`services.stop = ["gdm.service"]`)
		r.wantGoesAndComes(card())
	})
	t.Run("a bare console", func(t *testing.T) {
		r := busy(t, "LIT=enabled", "HOSTLIT=disabled")
		r.model.Remove("/run/systemd/sessions/2")
		r.wantGoesAndComes(card())
	})
}

// Pitfall 29: a card in D3cold is woken, with the port above it, and falls asleep again afterwards.
func TestD3cold(t *testing.T) {
	busy(t, "CARD=status=suspended").wantGoesAndComes(card())
}

// Pitfall 30: a card that fell off the bus meanwhile keeps nothing else from coming back.
func TestFallenOff(t *testing.T) {
	r := busy(t)
	r.configure(`services.stop = ["ollama.service"]`)
	if err := r.prepare(card()); err != nil {
		t.Fatal(err)
	}
	r.model.FallOff("0000:08:00.0")
	if err := r.release(card()); err != nil {
		t.Errorf("release: %v", err)
	}
	if d := r.driver("0000:08:00.1"); d != "snd_hda_intel" {
		t.Errorf("the sound function is on %q", d)
	}
	if runs, _ := r.model.Systemd().UnitRuns(context.Background(), "ollama.service"); !runs {
		t.Error("the unit does not run again")
	}
}

// The driver's modules were unloaded by somebody while the guest ran: they are loaded again.
func TestHostDriverGone(t *testing.T) {
	r := busy(t, "NVIDIA=", "NOUVEAU=loaded", "DRIVER=nouveau")
	before := r.snapshot()
	if err := r.prepare(card()); err != nil {
		t.Fatal(err)
	}
	if err := r.model.UnloadModule("nouveau"); err != nil {
		t.Fatal(err)
	}
	if err := r.release(card()); err != nil {
		t.Errorf("release: %v", err)
	}
	r.wantAsBefore(before, "after release")
}

// A driver that does not take its card back: the rest goes on, status says so, and gpu.rescan tries one thing more.
func TestDriverDoesNotComeBack(t *testing.T) {
	t.Run("by itself", func(t *testing.T) {
		r := busy(t, "NVIDIA=", "NOUVEAU=loaded", "DRIVER=nouveau")
		r.configure(`services.stop = ["ollama.service"]`)
		before := r.snapshot()
		if err := r.prepare(card()); err != nil {
			t.Fatal(err)
		}
		r.model.FailProbe("0000:08:00.0", "nouveau", syscall.EIO)
		if err := r.release(card()); err == nil || !strings.Contains(err.Error(), "cannot bind 0000:08:00.0 to nouveau") {
			t.Errorf("release: %v", err)
		}
		if d := r.driver("0000:08:00.1"); d != "snd_hda_intel" {
			t.Errorf("the sound function is on %q", d)
		}
		if runs, _ := r.model.Systemd().UnitRuns(context.Background(), "ollama.service"); !runs {
			t.Error("the unit does not run again")
		}
		r.model.FailProbe("0000:08:00.0", "nouveau", 0)
		if err := r.release(card()); err != nil {
			t.Errorf("the next release: %v", err)
		}
		r.wantAsBefore(before, "after the next release")
	})
	t.Run("rescan", func(t *testing.T) {
		r := busy(t, "NVIDIA=", "NOUVEAU=loaded", "DRIVER=nouveau")
		r.configure("gpu.rescan = true")
		before := r.snapshot()
		if err := r.prepare(card()); err != nil {
			t.Fatal(err)
		}
		r.model.FailProbe("0000:08:00.0", "nouveau", syscall.EIO)
		r.model.AfterChange(func(c sysfstest.Change) error {
			if strings.HasSuffix(c.Path, "/remove") {
				r.model.FailProbe("0000:08:00.0", "nouveau", 0)
			}
			return nil
		})
		if err := r.release(card()); err != nil {
			t.Errorf("release: %v", err)
		}
		r.wantAsBefore(before, "after release")
	})
}

// BARs and the reset method are set before vfio has the card, and put back.
func TestBARsAndReset(t *testing.T) {
	r := busy(t)
	r.configure("gpu.resize_bar.\"0000:08:00.0\" = \"1=8M\"\ngpu.reset_method.\"0000:08:00.0\" = \"bus\"")
	before := r.snapshot()
	if err := r.prepare(card()); err != nil {
		t.Fatal(err)
	}
	fs := r.model.FS()
	if n, err := fs.BARBytes("0000:08:00.0", 1); n != 8<<20 || err != nil {
		t.Errorf("BAR 1 has %d bytes, %v", n, err)
	}
	if m, err := fs.ResetMethod("0000:08:00.0"); m != "bus" || err != nil {
		t.Errorf("reset by %q, %v", m, err)
	}
	if err := r.release(card()); err != nil {
		t.Fatal(err)
	}
	r.wantAsBefore(before, "after release")
	r.configure("gpu.resize_bar.\"0000:08:00.0\" = \"1=1G\"\ngpu.reset_method.\"0000:08:00.0\" = \"pm\"")
	r.wantRefused(card(), "BAR 1 of 0000:08:00.0 cannot have 1 GiB, only 8 MiB, 256 MiB, 16 GiB; correct gpu.resize_bar in the configuration",
		`0000:08:00.0 cannot be reset by "pm", only by "flr bus"; correct gpu.reset_method in the configuration`)
}

// Pitfall 9: functions that the XML leaves out are refused, or go along and come back.
func TestSiblings(t *testing.T) {
	r := busy(t)
	r.wantRefused(card("0000:08:00.0"), "IOMMU group 18 of 0000:08:00.0 is not viable: 0000:08:00.1 [10de:22bc] (snd_hda_intel) stays on a host driver; "+
		"add it to the domain as <hostdev>, with <address type='unassigned'/> if the guest shall not see it")
	r.configure(`pci.siblings = "bind"`)
	before := r.snapshot()
	if err := r.prepare(card("0000:08:00.0")); err != nil {
		t.Fatal(err)
	}
	if d := r.driver("0000:08:00.1"); d != "vfio-pci" {
		t.Errorf("the sibling is on %q", d)
	}
	if err := r.release(card("0000:08:00.0")); err != nil {
		t.Fatal(err)
	}
	r.wantAsBefore(before, "after release")
}

// A card with the reset bug stays on vfio when its guest is gone, until it is unbound by hand.
func TestStay(t *testing.T) {
	r := busy(t)
	r.configure(`gpu.give_back."0000:08:00.0" = "stay"`)
	before := r.snapshot()
	for range 2 { // the second time it is there already
		if err := r.prepare(card()); err != nil {
			t.Fatal(err)
		}
		if err := r.release(card()); err != nil {
			t.Fatal(err)
		}
		if a, b := r.driver("0000:08:00.0"), r.driver("0000:08:00.1"); a != "vfio-pci" || b != "snd_hda_intel" {
			t.Errorf("the card is on %q and %q", a, b)
		}
	}
	if err := r.locked(func(h *hook.Host) error { return h.Unbind(context.Background(), []string{"0000:08:00.0"}) }); err != nil {
		t.Fatal(err)
	}
	r.wantAsBefore(before, "after unbind")
}

// bind and unbind are a guest's preparation without a guest.
func TestBindByHand(t *testing.T) {
	r := busy(t)
	before := r.snapshot()
	bind := func(addresses ...string) error {
		return r.locked(func(h *hook.Host) error {
			_, err := prepare.Bind(context.Background(), h, addresses)
			return err
		})
	}
	unbind := func(addresses ...string) error {
		return r.locked(func(h *hook.Host) error { return h.Unbind(context.Background(), addresses) })
	}
	if err := bind("0000:08:00.0"); err == nil || !strings.Contains(err.Error(), "is not viable") {
		t.Errorf("half a group: %v", err)
	}
	r.wantAsBefore(before, "after half a group")
	if err := bind("0000:08:00.0", "0000:08:00.1"); err != nil {
		t.Fatal(err)
	}
	// A guest uses it and leaves it.
	if err := r.prepare(card()); err != nil {
		t.Fatal(err)
	}
	if err := unbind("0000:08:00.0"); err == nil || !strings.Contains(err.Error(), "is taken by guest win11") {
		t.Errorf("unbind under a guest: %v", err)
	}
	if err := r.release(card()); err != nil {
		t.Fatal(err)
	}
	if d := r.driver("0000:08:00.0"); d != "vfio-pci" {
		t.Errorf("after the guest the card is on %q", d)
	}
	if err := unbind("0000:08:00.1"); err != nil {
		t.Fatal(err)
	}
	if err := unbind("0000:08:00.1"); err == nil || !strings.Contains(err.Error(), "was not bound by qemu-hook bind") {
		t.Errorf("unbind again: %v", err)
	}
	if err := unbind("0000:08:00.0"); err != nil {
		t.Fatal(err)
	}
	r.wantAsBefore(before, "after unbind")
}

// While the host shuts down no host driver is loaded and no unit started.
func TestShuttingDown(t *testing.T) {
	r := busy(t)
	r.configure(`services.stop = ["ollama.service"]`)
	if err := r.prepare(card()); err != nil {
		t.Fatal(err)
	}
	h := r.host()
	down := r.model.Systemd()
	down.ShutsDown = true
	h.Systemd = down
	slow := func(*os.File) hook.SlowRunner { return direct{h.FS} }
	if err := h.Locked(context.Background(), "test", slow, func() error { return h.GiveBack(context.Background(), card().Guest.UUID) }); err != nil {
		t.Errorf("release: %v", err)
	}
	if d := r.driver("0000:08:00.0"); d != "vfio-pci" {
		t.Errorf("the card went to %q", d)
	}
	if runs, _ := r.model.Systemd().UnitRuns(context.Background(), "ollama.service"); runs {
		t.Error("a unit was started")
	}
}

// Whatever is stopped, unloaded, taken and set on the way: with each write in turn refused, and with the program killed before
// and after each, prepare and release end with the host as it was.
func TestBusyWithFaults(t *testing.T) {
	for name, test := range map[string]struct {
		edits  []string
		config string
		needs  *domain.Needs
	}{
		"unit and modules": {
			[]string{"PERSISTENCED=active", "PROCESSES=2000 cgroup=/system.slice/ollama.service open=/dev/nvidia0 ollama ollama"},
			`services.stop = ["ollama.service"]`, card(),
		},
		"second card": {
			[]string{"SECOND=0000:09:00.0 class=0300 id=10de:2504 driver=nvidia group=19 minor=1", "CARD=persistence=on"}, "", card(),
		},
		"console, BAR and reset": {
			[]string{
				"FB0=platform/efi-framebuffer.0", "IOMEM=    4000000000-40007e8fff : BOOTFB",
				"FRAMEBUFFERS=-- framebuffers --\nefi-framebuffer.0 driver=efi-framebuffer name=BOOTFB\n",
			},
			"gpu.resize_bar.\"0000:08:00.0\" = \"1=8M\"\ngpu.reset_method.\"0000:08:00.0\" = \"bus\"", card(),
		},
		"siblings": {[]string{"NVIDIA=", "NOUVEAU=loaded", "DRIVER=nouveau"}, `pci.siblings = "bind"`, card("0000:08:00.0")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := busy(t, test.edits...)
			r.configure(test.config)
			patient := r.config.GPU.Deadline
			r.config.GPU.Deadline = 50 * time.Millisecond // what is refused is waited for
			t.Run("prepare", func(t *testing.T) { refuseEachWriteOfPrepare(t, r, test.needs) })
			t.Run("release", func(t *testing.T) { refuseEachWriteOfRelease(t, r, test.needs) })
			r.config.GPU.Deadline = patient
			t.Run("killed", func(t *testing.T) { killAtEachWrite(t, r, test.needs) })
		})
	}
}

// Pitfall 7: an override that was there before is there again, and one that was not is cleared, which takes a newline.
func TestOverrideComesBack(t *testing.T) {
	busy(t, "CARD=override=nvidia").wantGoesAndComes(card())
	r := busy(t)
	r.wantGoesAndComes(card())
	if v, err := r.model.FS().PCIOverride("0000:08:00.0"); v != "" || err != nil {
		t.Errorf("the override is %q, %v", v, err)
	}
}

// What is stopped gives its memory back, so a shortage of before is none yet; one that stays refuses the guest, and what was
// stopped runs again.
func TestMemoryOfWhatIsStopped(t *testing.T) {
	const gib = 1 << 30
	for _, frees := range []bool{true, false} {
		r := busy(t, "PROCESSES=2000 cgroup=/system.slice/ollama.service open=/dev/nvidia0 ollama ollama")
		r.configure(`services.stop = ["ollama.service"]`)
		r.model.UseMemory(0, 18*gib>>10)
		before := r.snapshot()
		n := card()
		n.Memory = []domain.Backend{{Bytes: 16 * gib, PageKiB: 2048}}
		plan, err := prepare.NewPlan(context.Background(), r.host(), n)
		if err != nil {
			t.Fatal(err)
		}
		if len(plan.Refusals) > 0 || !strings.Contains(strings.Join(plan.Warnings, "\n"), "looked at again when what is to be stopped has given back its memory") {
			t.Errorf("the plan refuses with %q and warns of %q", plan.Refusals, plan.Warnings)
		}
		r.model.AfterChange(func(c sysfstest.Change) error {
			if c.Path == "ollama.service" && c.Value == "stop" && frees {
				r.model.UseMemory(0, -18*gib>>10)
			}
			return nil
		})
		err = r.prepare(n)
		if frees {
			if err != nil {
				t.Errorf("prepare: %v", err)
			}
			if v, _ := r.model.FS().Read("/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"); v != "8192" {
				t.Errorf("the pool has %s pages", v)
			}
			if err := r.release(n); err != nil {
				t.Errorf("release: %v", err)
			}
		} else if err == nil || !strings.Contains(err.Error(), "are missing; node 0 has") {
			t.Errorf("prepare without the memory: %v", err)
		}
		r.wantAsBefore(before, "in the end")
	}
}
