package sysfs

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
)

// moduleName returns a module's name as /sys/module spells it.
func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// KernelRelease returns the running kernel's release, /proc/sys/kernel/osrelease.
func (h FS) KernelRelease() (string, error) { return h.Read("/proc/sys/kernel/osrelease") }

// ModulesDir returns the directory with the running kernel's modules, "" if there is none: the kernel has been
// upgraded since the boot, or has no modules at all.
func (h FS) ModulesDir() (string, error) {
	release, err := h.KernelRelease()
	if err != nil {
		return "", err
	}
	// NixOS keeps the booted kernel's modules apart from those of the system that was last switched to.
	for _, base := range []string{"/run/booted-system/kernel-modules/lib/modules", "/lib/modules"} {
		dir := path.Join(base, release)
		if there, err := h.Has(dir); err != nil || there {
			return dir, err
		}
	}
	return "", nil
}

// ModuleLoaded reports whether the module is there, loaded or built in with parameters: /sys/module/NAME.
func (h FS) ModuleLoaded(name string) (bool, error) { return h.Has("/sys/module/" + moduleName(name)) }

// ModulePCIDriver returns the PCI driver that a loaded module registered, "" if none.
func (h FS) ModulePCIDriver(module string) (string, error) {
	dir := "/sys/module/" + moduleName(module) + "/drivers"
	names, err := h.ListIfAny(dir)
	if err != nil {
		return "", err
	}
	for _, n := range names {
		if driver, ok := strings.CutPrefix(n, "pci:"); ok {
			return driver, nil
		}
	}
	return "", nil
}

// ModuleAvailable reports whether the running kernel can load the module, and says why not.
func (h FS) ModuleAvailable(name string) error {
	release, err := h.KernelRelease()
	if err != nil {
		return err
	}
	dir, err := h.ModulesDir()
	if err != nil {
		return err
	}
	if dir == "" {
		return fmt.Errorf("module %s is missing: there are no modules for the running kernel %s; "+
			"the kernel was upgraded, reboot first", name, release)
	}
	// modules.dep has one line for each module: its path, a colon, what it depends on.
	dep, err := h.ReadFile(dir + "/modules.dep")
	if err != nil {
		return &Error{Op: "read", Path: dir + "/modules.dep", Err: err}
	}
	for line := range strings.Lines(string(dep)) {
		file, _, _ := strings.Cut(line, ":")
		base, _, _ := strings.Cut(path.Base(file), ".ko")
		if moduleName(base) == moduleName(name) {
			return nil
		}
	}
	return fmt.Errorf("module %s is not among those of the running kernel in %s; install it, "+
		"or reboot if the kernel was upgraded", name, dir)
}

// LoadModule loads a module with its dependencies, by the program the kernel itself would use
// (/proc/sys/kernel/modprobe, Documentation/admin-guide/sysctl/kernel.rst).
func (h FS) LoadModule(ctx context.Context, name string) error {
	modprobe, err := h.Read("/proc/sys/kernel/modprobe")
	if err != nil {
		return err
	}
	if modprobe == "" {
		return fmt.Errorf("cannot load module %s: /proc/sys/kernel/modprobe is empty; load it yourself", name)
	}
	if err := h.Run(ctx, modprobe, "--", name); err != nil {
		return fmt.Errorf("cannot load module %s by %s: %w", name, modprobe, err)
	}
	return nil
}

// ModuleHolders returns the loaded modules that use a module, /sys/module/NAME/holders.
func (h FS) ModuleHolders(name string) ([]string, error) {
	return h.ListIfAny("/sys/module/" + moduleName(name) + "/holders")
}

// ModuleRefs returns how often a loaded module is in use, /sys/module/NAME/refcnt.
func (h FS) ModuleRefs(name string) (uint64, error) {
	return h.readUint("/sys/module/" + moduleName(name) + "/refcnt")
}

// ModuleStack returns a loaded module and all loaded modules that use it, directly or not, in the order in which they can
// be loaded: each after those that it uses.
func (h FS) ModuleStack(name string) ([]string, error) {
	var stack []string
	var add func(name string, depth int) error
	add = func(name string, depth int) error {
		const deepest = 16
		users, err := h.ModuleHolders(name)
		if err != nil || depth > deepest {
			return err
		}
		for _, u := range users {
			if err := add(u, depth+1); err != nil {
				return err
			}
		}
		if !slices.Contains(stack, name) {
			stack = append(stack, name)
		}
		return nil
	}
	err := add(moduleName(name), 0)
	slices.Reverse(stack)
	return stack, err
}
