package sysfs_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// Pitfall 18: EACCES as root is a security module's, and the message says which and what to do.
func TestDenied(t *testing.T) {
	const (
		enforce = "/sys/fs/selinux/enforce"
		boolean = "/sys/fs/selinux/booleans/virt_hooks_unconfined"
		label   = "/proc/self/attr/current"
		profile = "/proc/self/attr/apparmor/current"
		file    = "/sys/bus/pci/devices/0000:08:00.0/driver_override"
	)
	for _, c := range []struct {
		name  string
		files map[string]string
		errno syscall.Errno
		want  string
	}{
		{"none", nil, syscall.EACCES, "permission denied"},
		{
			"selinux",
			map[string]string{enforce: "1", boolean: "0 0", label: "system_u:system_r:virt_hook_t:s0\x00"},
			syscall.EACCES, "SELinux (virt_hook_t) denies it; setsebool -P virt_hooks_unconfined 1",
		},
		{
			"selinux, without the boolean",
			map[string]string{enforce: "1", label: "system_u:system_r:virtd_t:s0-s0:c0.c1023\n"},
			syscall.EACCES, "SELinux (virtd_t) denies it; see ausearch -m avc -ts recent",
		},
		{
			"selinux, with the boolean on",
			map[string]string{enforce: "1", boolean: "1 1", label: "system_u:system_r:virt_hook_t:s0"},
			syscall.EACCES, "SELinux (virt_hook_t) denies it; see ausearch -m avc -ts recent",
		},
		{
			"selinux only tells",
			map[string]string{enforce: "0", boolean: "0 0", label: "system_u:system_r:virt_hook_t:s0"},
			syscall.EACCES, "permission denied",
		},
		{
			"unconfined",
			map[string]string{enforce: "1", boolean: "0 0", label: "unconfined_u:unconfined_r:unconfined_t:s0"},
			syscall.EACCES, "permission denied",
		},
		{
			"unconfined hook",
			map[string]string{enforce: "1", boolean: "1 1", label: "system_u:system_r:virt_hook_unconfined_t:s0"},
			syscall.EACCES, "permission denied",
		},
		{
			"apparmor",
			map[string]string{label: "libvirtd (enforce)\n"},
			syscall.EACCES, "AppArmor's profile libvirtd denies it; have qemu-hook in /usr/bin, and a link to it in qemu.d",
		},
		{
			"apparmor beside selinux",
			map[string]string{profile: "virtqemud (enforce)\n", label: "x"},
			syscall.EACCES, "AppArmor's profile virtqemud denies it",
		},
		{"apparmor only tells", map[string]string{label: "libvirtd (complain)\n"}, syscall.EACCES, "permission denied"},
		{"apparmor unconfined", map[string]string{label: "unconfined\n"}, syscall.EACCES, "permission denied"},
		{"another error", map[string]string{label: "libvirtd (enforce)\n"}, syscall.EBUSY, "device or resource busy"},
	} {
		t.Run(c.name, func(t *testing.T) {
			model, err := sysfstest.Load("../testdata/hosts/fern.txtar")
			if err != nil {
				t.Fatal(err)
			}
			defer model.Close()
			for name, content := range c.files {
				model.SetFile(name, content)
			}
			model.OnChange(func(sysfstest.Change) error { return c.errno })
			err = model.FS().Write(file, "vfio-pci")
			if !errors.Is(err, c.errno) {
				t.Fatalf("error %v, want one that is %v", err, c.errno)
			}
			head := `cannot write "vfio-pci" to ` + file + ": "
			if got := err.Error(); !strings.HasPrefix(got, head+c.want) || len(got) > 200 {
				t.Errorf("the message is, in %d bytes\n%s\nwant\n%s", len(got), got, head+c.want)
			}
			var denied *sysfs.DeniedError
			if again := model.FS().Explain(err); again != err || errors.As(err, &denied) != strings.Contains(c.want, "denies") {
				t.Errorf("explained again: %v", again)
			}
		})
	}
}

func TestConfinesHooks(t *testing.T) {
	model, err := sysfstest.Load("../testdata/hosts/fern.txtar")
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	h := model.FS()
	if h.SELinuxConfinesHooks() || h.AppArmorConfines("libvirtd") {
		t.Error("a host without security modules confines")
	}
	model.SetFile("/sys/fs/selinux/enforce", "1")
	model.SetFile("/sys/fs/selinux/booleans/virt_hooks_unconfined", "0 0")
	model.SetFile("/sys/module/apparmor/parameters/enabled", "Y\n")
	model.SetFile("/sys/kernel/security/apparmor/profiles", "/usr/sbin/cupsd (enforce)\nlibvirtd//qemu_bridge_helper (enforce)\nvirtqemud (complain)\nlibvirtd (enforce)\n")
	if !h.SELinuxConfinesHooks() || !h.AppArmorConfines("libvirtd") || h.AppArmorConfines("virtqemud") {
		t.Error("what confines is not seen")
	}
	model.SetFile("/sys/fs/selinux/booleans/virt_hooks_unconfined", "1 1")
	model.SetFile("/sys/module/apparmor/parameters/enabled", "N\n")
	if h.SELinuxConfinesHooks() || h.AppArmorConfines("libvirtd") {
		t.Error("what is off confines")
	}
}
