package prepare_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/sysfs/sysfstest"
)

// A refused write says to the person at virsh which security module refused it, and what to do, in one line.
func TestDeniedPrepare(t *testing.T) {
	for remedy, files := range map[string]map[string]string{
		"setsebool -P virt_hooks_unconfined 1": {
			"/sys/fs/selinux/enforce": "1", "/sys/fs/selinux/booleans/virt_hooks_unconfined": "0 0", "/proc/self/attr/current": "system_u:system_r:virt_hook_t:s0",
		},
		"have qemu-hook in /usr/bin, and a link to it in qemu.d": {"/proc/self/attr/current": "libvirtd (enforce)\n"},
	} {
		for _, file := range []string{"driver_override", "nr_hugepages", "/dev/shm"} {
			r := newRig(t, "fern")
			for name, content := range files {
				r.model.SetFile(name, content)
			}
			n := loadNeeds(t, "win11")
			n.Shm = []domain.File{{Path: "/dev/shm/looking-glass", Bytes: 64 << 20}}
			before := r.snapshot()
			r.model.OnChange(func(c sysfstest.Change) error {
				if strings.Contains(c.Path, file) {
					return syscall.EACCES
				}
				return nil
			})
			err := r.prepare(n)
			var refusal *hook.Refusal
			if !errors.As(err, &refusal) {
				t.Fatalf("%s: %v", file, err)
			}
			if first := refusal.Reasons[0]; !strings.Contains(first, remedy) || len(first) > 200 {
				t.Errorf("%s: the first reason, of %d bytes, does not say %q: %s", file, len(first), remedy, first)
			}
			r.wantAsBefore(before, file)
		}
	}
}

// runUnit has a unit run.
func runUnit(r *rig, name string) {
	r.model.AddProcess(sysfstest.Process{PID: 3000 + len(name), Comm: "daemon", Cgroup: "/system.slice/" + name})
}

func texts(all []hook.Finding) []string {
	var s []string
	for _, f := range all {
		s = append(s, f.Text)
	}
	return s
}

// What keeps the IOMMU off is told by the firmware's tables and the kernel's command line.
func TestIOMMURemedy(t *testing.T) {
	const off = "the IOMMU is off, and no guest can have a PCI function; "
	for _, c := range []struct {
		line, cpu string
		tables    []string
		want      string
	}{
		{"quiet", "GenuineIntel", []string{"DMAR", "FACP"}, "boot with intel_iommu=on on the kernel's command line"},
		{"quiet", "GenuineIntel", []string{"FACP"}, "turn on VT-d in the firmware, and boot with intel_iommu=on"},
		{"intel_iommu=on,sm_on", "GenuineIntel", []string{"FACP"}, "turn on VT-d in the firmware; intel_iommu=on is on the command line already"},
		{"intel_iommu=on", "GenuineIntel", []string{"DMAR"}, "the firmware has it on, and the kernel makes nothing of it: see dmesg"},
		{"intel_iommu=on iommu=off", "GenuineIntel", []string{"DMAR"}, "take iommu=off off the kernel's command line"},
		{"amd_iommu=off", "AuthenticAMD", []string{"IVRS"}, "take amd_iommu=off off the kernel's command line"},
		{"quiet", "AuthenticAMD", []string{"FACP"}, "turn on AMD-Vi (IOMMU) in the firmware; the kernel needs no parameter for it"},
		{"quiet", "AuthenticAMD", []string{"IVRS"}, "the firmware has it on, and the kernel makes nothing of it: see dmesg"},
		{"quiet", "", nil, "turn on VT-d or AMD-Vi in the firmware, and on Intel boot with intel_iommu=on"},
	} {
		r := newRig(t, "no-iommu")
		r.model.SetFile("/proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/sda1 "+c.line+"\n")
		r.model.SetFile("/proc/cpuinfo", "processor\t: 0\nvendor_id\t: "+c.cpu+"\n")
		for _, table := range c.tables {
			r.model.SetFile("/sys/firmware/acpi/tables/"+table, "table")
		}
		found := texts(prepare.Around(context.Background(), r.host(), nil))
		if !slices.Contains(found, off+c.want) {
			t.Errorf("%+v: found %q", c, found)
		}
		plan, err := prepare.NewPlan(context.Background(), r.host(), loadNeeds(t, "single-gpu"))
		if err != nil {
			t.Fatal(err)
		}
		wantReason(t, plan.Refusals, "the IOMMU is off: the guest's PCI functions are in no IOMMU group; "+c.want)
		if i := slices.IndexFunc(plan.Refusals, func(s string) bool { return strings.HasPrefix(s, "the IOMMU") }); len(plan.Refusals[i]) > 200 {
			t.Errorf("%d bytes: %s", len(plan.Refusals[i]), plan.Refusals[i])
		}
	}
}

// A host in order has nothing to be said of it; each thing that gets in the way is named once.
func TestAround(t *testing.T) {
	for _, host := range []string{"fern", "server", "single-gpu-full", "amd-two"} {
		r := newRig(t, host)
		if found := texts(prepare.Around(context.Background(), r.host(), nil)); len(found) > 0 {
			t.Errorf("%s: %q", host, found)
		}
	}
	const guests = "/etc/default/libvirt-guests"
	nvidia := &domain.Needs{PCI: []domain.Function{{Address: "0000:08:00.0"}}}
	plain := &domain.Needs{}
	for _, c := range []struct {
		name string
		set  func(r *rig)
		n    *domain.Needs
		want []string
	}{
		{"selinux", func(r *rig) {
			r.model.SetFile("/sys/fs/selinux/enforce", "1")
			r.model.SetFile("/sys/fs/selinux/booleans/virt_hooks_unconfined", "0 0")
		}, plain, []string{"SELinux confines what libvirt runs as hooks"}},
		{"shutdown", func(r *rig) {
			r.model.SetFile(guests, "# as it came\n#ON_SHUTDOWN=shutdown\nON_SHUTDOWN=suspend\n")
			runUnit(r, "libvirt-guests.service")
		}, nvidia, []string{guests + " has guests suspended when the host shuts down, which libvirt refuses for those with a PCI function: they are cut off instead; say ON_SHUTDOWN=shutdown there"}},
		{"shutdown, of a guest without functions", func(r *rig) {
			r.model.SetFile(guests, "ON_SHUTDOWN=suspend\n")
			runUnit(r, "libvirt-guests.service")
		}, plain, nil},
		{"shutdown, not in use", func(r *rig) { r.model.SetFile(guests, "ON_SHUTDOWN=suspend\n") }, nil, nil},
		{"shutdown, right", func(r *rig) {
			r.model.SetFile(guests, "ON_SHUTDOWN='shutdown'\n")
			runUnit(r, "libvirt-guests.service")
		}, nil, nil},
		{"shutdown, NixOS", func(r *rig) {
			r.model.SetFile("/etc/systemd/system/libvirt-guests.service", "[Service]\nEnvironment=\"ON_SHUTDOWN=suspend\"\n")
			runUnit(r, "libvirt-guests.service")
		}, nil, []string{`set virtualisation.libvirtd.onShutdown = "shutdown"`}},
		{"daemons", func(r *rig) {
			for _, u := range []string{"supergfxd.service", "numad.service", "ksmtuned.service", "irqbalance.service"} {
				runUnit(r, u)
			}
		}, nil, []string{"supergfxd.service runs and moves cards", "numad.service runs and moves processes"}},
		{"daemons that the configuration makes matter", func(r *rig) {
			for _, u := range []string{"ksmtuned.service", "irqbalance.service"} {
				runUnit(r, u)
			}
			r.config.CPUs.IRQBalance = hook.IRQBalanceIgnore
			r.config.Tunables = map[string]string{"/sys/kernel/mm/ksm/run": "0"}
		}, nil, []string{"ksmtuned.service runs and sets /sys/kernel/mm/ksm/run", "irqbalance.service runs and moves interrupts back"}},
		{"upgraded", func(r *rig) {
			r.model.SetFile("/proc/sys/kernel/osrelease", "6.12.0-1\n")
			r.model.SetFile("/lib/modules/6.13.0-1/modules.dep", "")
		}, plain, []string{"the kernel was upgraded since the boot: 6.12.0-1 runs, and there are modules for "}},
		{"old", func(r *rig) {
			r.model.SetFile("/proc/sys/kernel/osrelease", "4.19.0\n")
		}, nil, []string{"Linux 4.19.0 cannot keep the host off a guest's CPUs"}},
		{"mounts", func(r *rig) { r.model.SetFile("/proc/self/mounts", "proc /proc proc rw 0 0\n") }, nil, []string{"no hugetlbfs is mounted"}},
		{"mounts, of a guest", func(r *rig) { r.model.SetFile("/proc/self/mounts", "proc /proc proc rw 0 0\n") }, plain, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, "server")
			c.set(r)
			found := texts(prepare.Around(context.Background(), r.host(), c.n))
			found = slices.DeleteFunc(found, func(s string) bool {
				return !strings.Contains(c.name, "upgraded") && strings.HasPrefix(s, "the kernel was upgraded") // other modules than those of an older kernel
			})
			if len(found) != len(c.want) {
				t.Fatalf("found %d, want %d:\n%s", len(found), len(c.want), strings.Join(found, "\n"))
			}
			for _, want := range c.want {
				wantReason(t, found, want)
			}
		})
	}
}

// What stands in a guest's XML and is none of the hook's work.
func TestDetails(t *testing.T) {
	r := newRig(t, "fern")
	r.model.SetFile("/nix/store/aaaa-qemu/bin/qemu-system-x86_64", "program")
	for _, c := range []struct {
		name string
		n    domain.Needs
		want []hook.Finding
	}{
		{"nothing", domain.Needs{Details: domain.Details{Paths: []domain.Path{{Element: "<emulator>", Path: "/usr/bin/qemu-system-x86_64"}}}}, nil},
		{"store", domain.Needs{Details: domain.Details{Paths: []domain.Path{
			{Element: "<loader>", Path: "/nix/store/bbbb-OVMF/FV/OVMF_CODE.fd"}, {Element: "<emulator>", Path: "/nix/store/aaaa-qemu/bin/qemu-system-x86_64"},
		}}}, []hook.Finding{
			{Certain: true, Text: "the domain's <loader> is /nix/store/bbbb-OVMF/FV/OVMF_CODE.fd, which is not there any more; use a file below /run/libvirt/nix-ovmf"},
			{Text: "the domain's <emulator> is /nix/store/aaaa-qemu/bin/qemu-system-x86_64, which goes when the store is cleaned up; use /run/libvirt/nix-emulators/qemu-system-x86_64"},
		}},
		{"virtiofs", domain.Needs{Details: domain.Details{VirtioFS: true}, Shm: []domain.File{{Path: "/dev/shm/looking-glass", Bytes: 64 << 20}}}, nil},
		{"virtiofs and kvmfr", domain.Needs{Details: domain.Details{VirtioFS: true}, KVMFR: []domain.File{{Path: "/dev/kvmfr0", Bytes: 64 << 20}}}, []hook.Finding{
			{Text: "the guest has virtiofs and /dev/kvmfr0: virtiofsd ends when it is told of memory that is a device; use <shmem> instead of kvmfr, or no virtiofs"},
		}},
		{"full HD fits 32", domain.Needs{Details: domain.Details{Width: 1920, Height: 1080}, Shm: []domain.File{{Path: "/dev/shm/looking-glass", Bytes: 32 << 20}}}, nil},
		{"1440p fits 64", domain.Needs{Details: domain.Details{Width: 2560, Height: 1440}, KVMFR: []domain.File{{Path: "/dev/kvmfr0", Bytes: 64 << 20}}}, nil},
		{"4K takes 128", domain.Needs{Details: domain.Details{Width: 3840, Height: 2160}, Shm: []domain.File{{Path: "/dev/shm/looking-glass", Bytes: 64 << 20}, {Path: "/dev/shm/scream", Bytes: 2 << 20}}}, []hook.Finding{
			{Text: "/dev/shm/looking-glass has 64 MiB, and <video> asks for 3840x2160, which takes Looking Glass 128 MiB; set its size to that"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, prepare.Around(context.Background(), r.host(), &c.n)); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}
