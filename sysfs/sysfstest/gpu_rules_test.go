package sysfstest_test

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"qemu-hook/sysfs/sysfstest"
)

func device(addr, file string) string { return "/sys/bus/pci/devices/" + addr + "/" + file }
func there(name string) step          { return step{there: name} }
func gone(name string) step           { return step{gone: name} }
func unbind(driver, addr string) step { return write(driverFile(driver, "unbind"), addr) }
func bindTo(driver, addr string) step { return write(driverFile(driver, "bind"), addr) }
func do(f func(h *sysfstest.Host)) step {
	return step{do: func(h *sysfstest.Host) error { f(h); return nil }}
}

// owned checks a node's number, owner and mode, which are not asked for through the doors.
func owned(name, want string) step {
	return step{do: func(h *sysfstest.Host) error {
		st, err := h.FS().Stat(name)
		if got := fmt.Sprintf("%d:%d %d:%d %o", st.Rdev>>8&0xfff, st.Rdev&0xff, st.UID, st.GID, st.Perm()); err != nil || got != want {
			return fmt.Errorf("%s is %s, error %v, want %s", name, got, err, want)
		}
		return nil
	}}
}

func opens(pid int, name string) step {
	return step{do: func(h *sysfstest.Host) error { return h.Opens(pid, name) }}
}

func closes(pid int, name string) step {
	return do(func(h *sysfstest.Host) { h.Closes(pid, name) })
}

func nodeRules() []rule {
	const card, nv, snd = "0000:01:00.0", "0000:06:00.0", "0000:06:00.1"
	info := "/proc/driver/nvidia/gpus/" + nv + "/information"
	return []rule{
		{"nodes are there as long as the driver is", "nouveau", []step{
			read(device(card, "drm/card1/dev"), "226:1"),
			read(device(card, "drm/card1/uevent"), "MAJOR=226\nMINOR=1\nDEVNAME=dri/card1"),
			link(device(card, "drm/card1/subsystem"), "drm"),
			link(device(card, "drm/card1/device"), card),
			link("/sys/class/drm/card1", "card1"),
			link("/sys/dev/char/226:129", "renderD129"),
			read(device(card, "i2c-5/i2c-dev/i2c-5/dev"), "89:5"),
			link(device(card, "i2c-5/i2c-dev/i2c-5/subsystem"), "i2c-dev"),
			read(device(card, "drm/card1/card1-DP-1/i2c-9/i2c-dev/i2c-9/dev"), "89:9"),
			read(device(card, "drm/card1/card1-HDMI-A-2/status"), "connected"),
			read(device(card, "drm/card1/card1-HDMI-A-2/enabled"), "disabled"),
			read(device(card, "drm/card1/card1-HDMI-A-2/dpms"), "Off"),
			read("/sys/class/drm/card0-HDMI-A-1/dpms", "On"),
			read(device("0000:01:00.1", "sound/card1/controlC1/dev"), "116:9"),
			read(device("0000:01:00.1", "sound/card1/pcmC1D3p/uevent"), "MAJOR=116\nMINOR=11\nDEVNAME=snd/pcmC1D3p"),
			link("/sys/class/hidraw/hidraw0", "hidraw0"),
			owned("/dev/dri/card1", "226:1 0:44 660"),
			owned("/dev/dri/renderD129", "226:129 0:105 666"),
			owned("/dev/i2c-9", "89:9 0:110 660"),
			owned("/dev/snd/controlC1", "116:9 0:29 660"),
			owned("/dev/hidraw0", "240:0 0:0 600"),
			do(func(h *sysfstest.Host) { h.SetOwner("/dev/dri/card1", 0, 44, 0o600) }),
			unbind("nouveau", card),
			gone(device(card, "drm")),
			gone(device(card, "i2c-5")),
			gone("/sys/class/drm/card1"),
			gone("/sys/class/drm/card1-DP-1"),
			gone("/sys/bus/i2c/devices/i2c-5"),
			gone("/sys/dev/char/226:1"),
			gone("/dev/dri/card1"),
			gone("/dev/i2c-9"),
			there("/dev/dri/card0"),
			there("/dev/snd/controlC1"),
			{run: "vfio-pci"},
			write(device(card, "driver_override"), "vfio-pci"),
			bindTo("vfio-pci", card),
			gone("/dev/dri/card1"),
			unbind("vfio-pci", card),
			write(device(card, "driver_override"), ""),
			write("/sys/bus/pci/drivers_probe", card),
			link(device(card, "driver"), "nouveau"),
			owned("/dev/dri/card1", "226:1 0:44 600"),
			owned("/dev/i2c-9", "89:9 0:110 660"),
			read(device(card, "drm/card1/card1-HDMI-A-2/status"), "connected"),
			link("/sys/class/drm/card1", "card1"),
			{run: "-r nouveau"},
			gone("/dev/dri/card1"),
		}},
		{"NVIDIA's own nodes", "two-nvidia", []step{
			{do: func(h *sysfstest.Host) error {
				if v, err := h.FS().Read(info); err != nil || !strings.Contains(v, "Device Minor: \t 1\n") {
					return fmt.Errorf("%q, error %v", v, err)
				}
				return nil
			}},
			owned("/dev/nvidia1", "195:1 0:0 666"),
			do(func(h *sysfstest.Host) { h.RemoveProcess(640) }), // nvidia-persistenced
			unbind("nvidia", nv),
			gone(info),
			gone("/dev/nvidia1"),
			gone("/dev/dri/card1"),
			gone(device(nv, "i2c-6")),
			there("/dev/nvidia0"),
			there("/dev/nvidiactl"),
			bindTo("nvidia", nv),
			there(info),
			there("/dev/nvidia1"),
			there("/dev/dri/card1"),
			// The DRM nodes are another module's.
			do(func(h *sysfstest.Host) { h.RemoveProcess(801); h.RemoveProcess(611); h.RemoveProcess(1402) }),
			{run: "-r nvidia_drm"},
			gone("/dev/dri/card1"),
			gone("/sys/class/drm/card0-DP-1"),
			there("/dev/nvidia1"),
			there(device(nv, "i2c-6")),
			{run: "nvidia_drm"},
			there("/dev/dri/card1"),
			there("/sys/class/drm/card0-DP-1"),
		}},
		{"the names of open files", "amd-two", []step{
			opens(1602, "/dev/dri/card1"),
			link("/proc/1602/fd/5", "card1"),
			unbind("amdgpu", "0000:0b:00.0"),
			link("/proc/1602/fd/5", "card1 (deleted)"),
			link("/proc/1602/fd/3", "card0"),
			{do: func(h *sysfstest.Host) error { // the file is what it was
				if st, err := h.FS().Stat("/proc/1602/fd/5"); err != nil || st.Rdev != 226<<8|1 {
					return fmt.Errorf("%+v, error %v", st, err)
				}
				return nil
			}},
			{do: func(h *sysfstest.Host) error {
				if err := h.Opens(1602, "/dev/dri/card1"); !errors.Is(err, syscall.ENOENT) {
					return fmt.Errorf("opens a node that is gone: %v", err)
				}
				if err := h.Opens(9999, "/dev/null"); !errors.Is(err, syscall.ESRCH) {
					return fmt.Errorf("a process that is not there opens: %v", err)
				}
				return nil
			}},
			closes(1602, "/dev/dri/card1"),
			gone("/proc/1602/fd/5"),
			bindTo("amdgpu", "0000:0b:00.0"),
			opens(1602, "/dev/dri/card1"),
			link("/proc/1602/fd/5", "card1"),
			gone("/dev/snd/none"),
			unbind("snd_hda_intel", "0000:0b:00.1"),
			gone("/proc/1688/fd/4"), // wireplumber lets go
			bindTo("snd_hda_intel", "0000:0b:00.1"),
			link("/proc/1688/fd/4", "controlC1"), // and comes back
			link("/proc/1688/fd/3", "controlC0"),
		}},
		{"kfd", "amd-two", []step{
			read("/sys/class/kfd/kfd/dev", "235:0"),
			owned("/dev/kfd", "235:0 0:105 666"),
			read("/sys/class/kfd/kfd/topology/nodes/2/gpu_id", "29456"),
			{do: func(h *sysfstest.Host) error {
				v, err := h.FS().Read("/sys/class/kfd/kfd/topology/nodes/2/properties")
				if !strings.Contains(v, "\nlocation_id 2816\ndomain 0") || err != nil {
					return fmt.Errorf("%q, error %v", v, err)
				}
				return nil
			}},
			unbind("amdgpu", "0000:0b:00.0"),
			gone("/sys/class/kfd/kfd/topology/nodes/2"),
			there("/sys/class/kfd/kfd/topology/nodes/1"),
			bindTo("amdgpu", "0000:0b:00.0"),
			read("/sys/class/kfd/kfd/topology/nodes/2/gpu_id", "29456"),
			there("/sys/class/kfd/kfd/proc/2210"),
			do(func(h *sysfstest.Host) { h.RemoveProcess(2210) }),
			gone("/sys/class/kfd/kfd/proc/2210"),
		}},
		{"BARs and reset", "two-nvidia", []step{
			do(func(h *sysfstest.Host) { h.RemoveProcess(640) }),
			read(device(nv, "resource"), "0x00000000f6000000 0x00000000f6ffffff 0x0000000000040200\n"+
				"0x0000007c00000000 0x0000007c0fffffff 0x000000000014220c\n"+
				"0x0000000000000000 0x0000000000000000 0x0000000000000000\n"+
				"0x0000007c10000000 0x0000007c11ffffff 0x000000000014220c\n"+
				strings.Repeat("0x0000000000000000 0x0000000000000000 0x0000000000000000\n", 2)+
				"0x0000000000000000 0x0000000000000000 0x0000000000000000"),
			read(device(nv, "resource1_resize"), "000000000000ffc0"),
			gone(device(nv, "resource0_resize")),
			refused(device(nv, "resource1_resize"), "14", syscall.EBUSY),
			unbind("nvidia", nv),
			refused(device(nv, "resource1_resize"), "5", syscall.EINVAL),
			refused(device(nv, "resource1_resize"), "64", syscall.EINVAL),
			refused(device(nv, "resource1_resize"), "x", syscall.EINVAL),
			write(device(nv, "resource1_resize"), "14"),
			read(device(nv, "resource1_resize"), "000000000000ffc0"),
			{do: func(h *sysfstest.Host) error {
				if n, err := h.FS().BARBytes(nv, 1); n != 16<<30 || err != nil {
					return fmt.Errorf("%d bytes, error %v", n, err)
				}
				return nil
			}},
			read(device(nv, "reset_method"), "flr bus"),
			write(device(nv, "reset_method"), "bus"),
			read(device(nv, "reset_method"), "bus"),
			refused(device(nv, "reset_method"), "bus pm", syscall.EINVAL),
			write(device(nv, "reset_method"), "bus flr"),
			read(device(nv, "reset_method"), "bus flr"),
			write(device(nv, "reset_method"), "default"),
			read(device(nv, "reset_method"), "flr bus"),
		}},
	}
}

func useRules() []rule {
	const nv = "0000:06:00.0"
	refcnt := func(module, want string) step { return read("/sys/module/"+module+"/refcnt", want) }
	return []rule{
		{"open files use modules", "two-nvidia", []step{
			// persistenced 3, Xorg 3, chromium 2, and the modules uvm and modeset
			refcnt("nvidia", "10"),
			refcnt("nvidia_modeset", "2"),
			refcnt("nvidia_uvm", "1"),
			refcnt("nvidia_drm", "3"),
			refcnt("snd_hda_intel", "3"),
			opens(1120, "/dev/dri/renderD129"),
			opens(1120, "/dev/i2c-6"),
			refcnt("nvidia_drm", "4"),
			refcnt("nvidia", "11"),
			closes(1120, "/dev/i2c-6"),
			refcnt("nvidia", "10"),
			do(func(h *sysfstest.Host) { h.RemoveProcess(640); h.RemoveProcess(1402); h.RemoveProcess(1120) }),
			refcnt("nvidia", "5"),
			refcnt("nvidia_uvm", "0"),
			{run: "-r nvidia_uvm"},
			{run: "-r nvidia_drm", fails: true},
			there("/sys/module/nvidia_drm"),
			there("/dev/dri/card0"),
			do(func(h *sysfstest.Host) { h.RemoveProcess(801); h.RemoveProcess(611) }),
			refcnt("nvidia_modeset", "1"),
			opens(1177, "/dev/nvidia-modeset"),
			{run: "-r nvidia_drm"},
			there("/sys/module/nvidia_modeset"), // used by a file
			gone("/sys/module/nvidia_drm"),
			refcnt("nvidia_modeset", "1"),
			refcnt("nvidia", "2"),
			do(func(h *sysfstest.Host) {
				h.AddProcess(sysfstest.Process{PID: 2, Comm: "x", Open: []string{"/dev/nvidiactl"}, Maps: []string{"/dev/nvidia1"}})
			}),
			refcnt("nvidia", "4"),
		}},
		{"open files use other drivers' modules", "amd-two", []step{
			refcnt("amdgpu", "7"), // logind, kwin 2, powerdevil 2, blender 2
			closes(2210, "/dev/kfd"),
			refcnt("amdgpu", "6"),
			opens(2210, "/dev/dri/card1"),
			unbind("amdgpu", "0000:0b:00.0"),
			refcnt("amdgpu", "7"), // the file is still open, though its card is gone
			refcnt("snd_hda_intel", "2"),
			{run: "-r snd_hda_intel", fails: true},
		}},
		{"a host file that speaks of no nodes counts no files", "desktop-four", []step{
			refcnt("nvidia", "1"),
			opens(1204, "/dev/nvidia0"),
			refcnt("nvidia", "1"),
		}},
		{"a function that is removed and found again", "two-nvidia", []step{
			do(func(h *sysfstest.Host) { h.RemoveProcess(640) }),
			write(device(nv, "driver_override"), "vfio-pci"),
			write(device(nv, "remove"), "0"),
			there(device(nv, "vendor")),
			refused(device(nv, "remove"), "x", syscall.EINVAL),
			write(device(nv, "remove"), "1"),
			gone("/sys/bus/pci/devices/" + nv),
			gone(driverFile("nvidia", nv)),
			gone("/sys/kernel/iommu_groups/15/devices/" + nv),
			gone("/dev/nvidia1"),
			refused("/sys/bus/pci/drivers_probe", nv, syscall.ENODEV),
			refused(driverFile("nvidia", "bind"), nv, syscall.ENODEV),
			refused("/sys/bus/pci/rescan", "x", syscall.EINVAL),
			write("/sys/bus/pci/rescan", "1"),
			link(device(nv, "driver"), "nvidia"),
			read(device(nv, "driver_override"), ""),
			there("/sys/kernel/iommu_groups/15/devices/" + nv),
			there("/dev/nvidia1"),
			// A bridge goes with all behind it.
			write(device("0000:00:02.1", "remove"), "1"),
			gone("/sys/bus/pci/devices/" + nv),
			gone("/sys/bus/pci/devices/0000:06:00.1"),
			write("/sys/bus/pci/drivers_autoprobe", "0"),
			write("/sys/bus/pci/rescan", "1"),
			there(device(nv, "vendor")),
			gone(device(nv, "driver")),
		}},
		{"a card that falls off the bus", "two-nvidia", []step{
			do(func(h *sysfstest.Host) { h.FallOff("0000:06:00") }),
			gone("/sys/bus/pci/devices/" + nv),
			gone("/sys/bus/pci/devices/0000:06:00.1"),
			gone("/dev/nvidia1"),
			link("/proc/640/fd/5", "nvidia1 (deleted)"),
			write("/sys/bus/pci/rescan", "1"),
			gone("/sys/bus/pci/devices/" + nv),
			there("/sys/bus/pci/devices/0000:01:00.0"),
		}},
	}
}

func powerRules() []rule {
	const nv, snd, port = "0000:01:00.0", "0000:01:00.1", "0000:00:01.0"
	config := func(addr string) string { return device(addr, "config") }
	dead := strings.Repeat("\xff", 64)
	answers := func(addr string, want bool) step {
		return step{do: func(h *sysfstest.Host) error {
			if got, err := h.FS().PCIAnswers(addr); got != want || err != nil {
				return fmt.Errorf("%s answers: %t, error %v", addr, got, err)
			}
			return nil
		}}
	}
	return []rule{
		{"D3cold", "hybrid-laptop", []step{
			read(device(nv, "power/runtime_status"), "suspended"),
			read(config(nv), dead),
			read(device(nv, "vendor"), "0x10de"),
			write(device(nv, "d3cold_allowed"), "0"), // wakes nobody
			read(config(nv), dead),
			write(device(nv, "power/control"), "on"), // the port sleeps
			read(device(nv, "power/runtime_status"), "suspended"),
			read(config(nv), dead),
			write(device(port, "power/control"), "on"),
			read(device(port, "power/runtime_status"), "active"),
			read(device(nv, "power/runtime_status"), "active"),
			answers(nv, true),
			answers(snd, false), // nobody has asked for it
			write(device(snd, "power/control"), "on"),
			answers(snd, true),
			write(device(nv, "power/control"), "auto"),
			answers(nv, true),
		}},
		{"the port first", "hybrid-laptop", []step{
			write(device(port, "power/control"), "on"),
			answers(nv, false),
			write(device(nv, "power/control"), "on"),
			answers(nv, true),
		}},
		{"a driver cannot use what cannot wake", "hybrid-laptop", []step{
			{run: "-r nvidia_drm"}, // with modeset it has the card in use
			unbind("nvidia", nv),
			refused(driverFile("nvidia", "bind"), nv, syscall.EIO),
			write(device(port, "power/control"), "on"),
			bindTo("nvidia", nv),
			answers(nv, true),
		}},
		{"held awake it only sleeps lightly", "fern", []step{
			read(device(audio, "power/runtime_status"), "suspended"),
			answers(audio, false),
			write(device(audio, "power/control"), "on"),
			answers(audio, true),
		}},
	}
}

func consoleRules() []rule {
	const gone1, card = "/sys/bus/platform/devices/simple-framebuffer.0/", "0000:01:00.0"
	drv := "/sys/bus/platform/drivers/simple-framebuffer/"
	con := func(n, file string) string { return "/sys/class/vtconsole/vtcon" + n + "/" + file }
	bootfb := func(want bool) step {
		return step{do: func(h *sysfstest.Host) error {
			v, err := h.FS().Read("/proc/iomem")
			if strings.Contains(v, "BOOTFB") != want || !strings.Contains(v, "d0000000-dfffffff : 0000:01:00.0\n") || err != nil {
				return fmt.Errorf("error %v, iomem:\n%s", err, v)
			}
			return nil
		}}
	}
	return []rule{
		{"consoles", "single-gpu-full", []step{
			read(con("1", "name"), "(M) frame buffer device"),
			read(con("1", "bind"), "1"),
			read(con("0", "bind"), "0"),
			refused(con("1", "bind"), "2", syscall.EINVAL),
			write(con("1", "bind"), "0"),
			read(con("1", "bind"), "0"),
			read(con("0", "bind"), "1"), // the stand-in
			write(con("0", "bind"), "0"),
			read(con("0", "bind"), "1"),
			write(con("1", "bind"), "1"),
			read(con("1", "bind"), "1"),
			read(con("0", "bind"), "0"),
		}},
		{"the firmware's frame buffer", "single-gpu-full", []step{
			link(gone1+"driver", "simple-framebuffer"),
			read(gone1+"drm/card0/dev", "226:0"),
			link("/sys/class/graphics/fb0", "fb0"),
			there(drv + "simple-framebuffer.0"),
			there(device(card, "simple-framebuffer.0")), // it lies below the card
			there("/dev/dri/card0"),
			there("/dev/fb0"),
			bootfb(true),
			refused(drv+"unbind", "efi-framebuffer.0", syscall.ENODEV),
			refused(drv+"bind", "simple-framebuffer.0", syscall.EBUSY),
			write(drv+"unbind", "simple-framebuffer.0"),
			gone(gone1 + "driver"),
			gone(drv + "simple-framebuffer.0"),
			gone("/dev/dri/card0"),
			gone("/dev/fb0"),
			gone("/sys/class/graphics/fb0"),
			there("/dev/dri/card1"),
			bootfb(false),
			refused(drv+"unbind", "simple-framebuffer.0", syscall.ENODEV),
			write(drv+"bind", "simple-framebuffer.0"),
			link(gone1+"driver", "simple-framebuffer"),
			there("/dev/dri/card0"),
			bootfb(true),
		}},
		{"iomem of the BARs", "intel-arc", []step{
			read("/proc/iomem", "81000000-81ffffff : 0000:03:00.0\n4000000000-400fffffff : 0000:00:02.0\n"+
				"4800000000-4bffffffff : 0000:03:00.0\n603d000000-603dffffff : 0000:00:02.0"),
			unbind("xe", "0000:03:00.0"),
			write(device("0000:03:00.0", "resource2_resize"), "8"),
			read("/proc/iomem", "81000000-81ffffff : 0000:03:00.0\n4000000000-400fffffff : 0000:00:02.0\n"+
				"4800000000-480fffffff : 0000:03:00.0\n603d000000-603dffffff : 0000:00:02.0"),
		}},
	}
}
