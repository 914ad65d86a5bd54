package prepare

import (
	"context"
	"path"
	"slices"
	"strings"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/sysfs"
)

// Around looks at what of the host gets in the way of guests, and at what of a guest's XML is none of the steps': for `check`.
// What the guest's plan speaks of is left to that; n is nil without a guest. What cannot be seen is left out.
func Around(ctx context.Context, h *hook.Host, n *domain.Needs) []hook.Finding {
	var all []hook.Finding
	add := func(f ...hook.Finding) { all = append(all, f...) }
	if n != nil {
		add(details(h, n)...)
	}
	add(kernelFindings(h)...)
	if n == nil {
		add(iommuFinding(h)...)
		add(mountFinding(h)...)
	}
	if h.SELinuxConfinesHooks() {
		add(hook.Advise("SELinux confines what libvirt runs as hooks (virt_hooks_unconfined is off), and denies it most of what a guest needs; " +
			"setsebool -P virt_hooks_unconfined 1"))
	}
	if n == nil || len(n.PCI) > 0 {
		add(suspendFinding(ctx, h)...)
		add(daemonFindings(ctx, h)...)
	}
	return all
}

// kernelFindings looks whether the kernel is one that can do the work.
func kernelFindings(h *hook.Host) []hook.Finding {
	release, err := h.KernelRelease()
	if err != nil {
		return nil
	}
	var all []hook.Finding
	if h.KernelBefore(5, 0) {
		all = append(all, hook.Advise("Linux %s cannot keep the host off a guest's CPUs: control groups can from 5.0 on; boot a newer kernel", release))
	}
	others, err := h.ListIfAny("/lib/modules")
	if dir, derr := h.ModulesDir(); err == nil && derr == nil && dir == "" && len(others) > 0 {
		all = append(all, hook.Advise("the kernel was upgraded since the boot: %s runs, and there are modules for %s; reboot before a guest needs one",
			release, strings.Join(others, ", ")))
	}
	return all
}

func iommuFinding(h *hook.Host) []hook.Finding {
	groups, err := h.ListIfAny("/sys/kernel/iommu_groups")
	if err != nil || len(groups) > 0 || !h.Exists("/sys/bus/pci/devices") {
		return nil
	}
	return []hook.Finding{hook.Advise("the IOMMU is off, and no guest can have a PCI function; %s", iommuRemedy(h))}
}

// iommuRemedy says what turns the IOMMU on, as far as the firmware's tables and the kernel's command line tell. The tables are
// those of Intel's VT-d (DMAR) and of AMD-Vi (IVRS), which the firmware has only where it is on.
func iommuRemedy(h *hook.Host) string {
	line, err := h.Read("/proc/cmdline")
	parameters := strings.Fields(line)
	intel := slices.ContainsFunc(parameters, func(p string) bool {
		v, ok := strings.CutPrefix(p, "intel_iommu=")
		return ok && slices.Contains(strings.Split(v, ","), "on")
	})
	for _, p := range parameters {
		if name, v, _ := strings.Cut(p, "="); slices.Contains([]string{"intel_iommu", "amd_iommu", "iommu"}, name) && slices.Contains(strings.Split(v, ","), "off") {
			return "take " + p + " off the kernel's command line"
		}
	}
	tables, terr := h.List("/sys/firmware/acpi/tables")
	cpu, _ := h.Read("/proc/cpuinfo")
	switch {
	case err != nil || terr != nil:
		return "turn on VT-d or AMD-Vi in the firmware, and on Intel boot with intel_iommu=on"
	case slices.Contains(tables, "DMAR") && !intel:
		return "boot with intel_iommu=on on the kernel's command line"
	case slices.Contains(tables, "DMAR") || slices.Contains(tables, "IVRS"):
		return "the firmware has it on, and the kernel makes nothing of it: see dmesg"
	case strings.Contains(cpu, "GenuineIntel") && intel:
		return "turn on VT-d in the firmware; intel_iommu=on is on the command line already"
	case strings.Contains(cpu, "GenuineIntel"):
		return "turn on VT-d in the firmware, and boot with intel_iommu=on"
	case strings.Contains(cpu, "AuthenticAMD"):
		return "turn on AMD-Vi (IOMMU) in the firmware; the kernel needs no parameter for it"
	}
	return "turn on VT-d or AMD-Vi in the firmware, and on Intel boot with intel_iommu=on"
}

func mountFinding(h *hook.Host) []hook.Finding {
	def, err := h.DefaultHugePageKiB()
	if err != nil {
		return nil
	}
	mounted, err := h.HugetlbMounts(def)
	if err != nil || len(mounted) > 0 {
		return nil
	}
	return []hook.Finding{hook.Advise("no hugetlbfs is mounted: libvirt refuses guests with huge pages that do not use <source type='memfd'/>; " +
		"systemctl start dev-hugepages.mount, and restart libvirtd")}
}

// suspendFinding looks whether guests are to be suspended when the host shuts down.
func suspendFinding(ctx context.Context, h *hook.Host) []hook.Finding {
	const nixos = "/etc/systemd/system/libvirt-guests.service"
	for _, file := range []string{"/etc/default/libvirt-guests", "/etc/sysconfig/libvirt-guests", "/etc/conf.d/libvirt-guests", nixos} {
		content, err := h.Read(file)
		if err != nil {
			continue
		}
		suspends := false
		for line := range strings.Lines(content) {
			line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "Environment="))
			if v, ok := strings.CutPrefix(strings.Trim(line, `"'`), "ON_SHUTDOWN="); ok {
				suspends = strings.Trim(v, `"'`) == "suspend"
			}
		}
		if !suspends || !running(ctx, h, "libvirt-guests.service") {
			continue
		}
		remedy := "say ON_SHUTDOWN=shutdown there"
		if file == nixos {
			remedy = `set virtualisation.libvirtd.onShutdown = "shutdown"`
		}
		return []hook.Finding{hook.Advise("%s has guests suspended when the host shuts down, which libvirt refuses for those with a PCI function: they are cut off instead; %s",
			file, remedy)}
	}
	return nil
}

// running reports whether a unit runs, or may run for all that can be seen.
func running(ctx context.Context, h *hook.Host, unit string) bool {
	if !h.Exists("/run/systemd/system") {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	runs, err := h.Systemd.UnitRuns(ctx, unit)
	return err != nil || runs
}

// daemonFindings looks for daemons that do what the hook does, or undo it.
func daemonFindings(ctx context.Context, h *hook.Host) []hook.Finding {
	if !h.Exists("/run/systemd/system") {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, ksm := h.Config.Tunables["/sys/kernel/mm/ksm/run"]
	var all []hook.Finding
	for _, d := range []struct {
		unit, does, remedy string
		matters            bool
	}{
		{"supergfxd.service", "moves cards between drivers too, also to vfio", "have it leave the guest's card alone, or stop it", true},
		{"numad.service", "moves processes, QEMU among them, between CPUs and nodes", "stop it, or give guests <vcpupin> and <numatune>", true},
		{"ksmtuned.service", "sets /sys/kernel/mm/ksm/run, which is among the tunables", "list it under services.stop", ksm},
		{hook.IRQBalanceUnit, `moves interrupts back onto the guests' CPUs, as cpus.irqbalance is "ignore"`, `say cpus.irqbalance = "ban"`, h.Config.CPUs.IRQBalance == hook.IRQBalanceIgnore},
	} {
		if !d.matters {
			continue
		}
		if runs, err := h.Systemd.UnitRuns(ctx, d.unit); err == nil && runs {
			all = append(all, hook.Advise("%s runs and %s; %s", d.unit, d.does, d.remedy))
		}
	}
	return all
}

// details looks at what of the guest's XML is none of the hook's work, and keeps it from running well or at all.
func details(h *hook.Host, n *domain.Needs) []hook.Finding {
	var all []hook.Finding
	for _, p := range n.Details.Paths {
		store := strings.HasPrefix(p.Path, "/nix/store/")
		switch there := h.Exists(path.Clean(p.Path)); {
		case store && !there:
			all = append(all, hook.Finding{Certain: true, Text: "the domain's " + p.Element + " is " + p.Path + ", which is not there any more; " + storeRemedy(p)})
		case store:
			all = append(all, hook.Advise("the domain's %s is %s, which goes when the store is cleaned up; %s", p.Element, p.Path, storeRemedy(p)))
		}
	}
	if n.Details.VirtioFS && len(n.KVMFR) > 0 {
		all = append(all, hook.Advise("the guest has virtiofs and %s: virtiofsd ends when it is told of memory that is a device; use <shmem> instead of kvmfr, or no virtiofs", n.KVMFR[0].Path))
	}
	if want := frames(n.Details.Width, n.Details.Height); want > 0 {
		for _, f := range append(slices.Clone(n.Shm), n.KVMFR...) {
			if kvmfr := strings.HasPrefix(f.Path, "/dev/kvmfr"); f.Bytes < want && (kvmfr || path.Base(f.Path) == "looking-glass") {
				all = append(all, hook.Advise("%s has %s, and <video> asks for %dx%d, which takes Looking Glass %s; set its size to that",
					f.Path, hook.FormatBytes(f.Bytes), n.Details.Width, n.Details.Height, hook.FormatBytes(want)))
			}
		}
	}
	return all
}

func storeRemedy(p domain.Path) string {
	if p.Element == "<emulator>" {
		return "use /run/libvirt/nix-emulators/" + path.Base(p.Path)
	}
	return "use a file below /run/libvirt/nix-ovmf"
}

// frames is what Looking Glass needs for a resolution: two frames of four bytes for each pixel and 10 MiB, up to the next power
// of two.
func frames(width, height uint64) uint64 {
	if width == 0 || height == 0 {
		return 0
	}
	const mib = 1 << 20
	size := uint64(mib)
	for size < width*height*4*2+10*mib {
		size *= 2
	}
	return size
}

// AppArmorConfinesHooks reports whether AppArmor confines libvirt, and with it what it runs from the hooks' folder.
func AppArmorConfinesHooks(fs sysfs.FS) bool { return fs.AppArmorConfines("libvirtd", "virtqemud") }
