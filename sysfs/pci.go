package sysfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// PCIBus is the PCI bus in sysfs (Documentation/ABI/testing/sysfs-bus-pci).
const PCIBus = "/sys/bus/pci"

// PCIDevice returns the directory of a PCI function, /sys/bus/pci/devices/ADDRESS.
func PCIDevice(address string) string { return PCIBus + "/devices/" + address }

// PCIDriverAttr returns a file of a PCI driver, /sys/bus/pci/drivers/DRIVER/ATTR.
func PCIDriverAttr(driver, attr string) string { return path.Join(PCIBus, "drivers", driver, attr) }

// PCIDriver returns the name of the driver the function is bound to, "" if none.
func (h FS) PCIDriver(address string) (string, error) {
	return h.LinkBase(PCIDevice(address) + "/driver")
}

// PCIOverride returns the function's driver_override, "" if none.
func (h FS) PCIOverride(address string) (string, error) {
	return h.Read(PCIDevice(address) + "/driver_override")
}

// SetPCIOverride sets the function's driver_override; "" removes it.
func (h FS) SetPCIOverride(address, driver string) error {
	return h.Write(PCIDevice(address)+"/driver_override", driver)
}

// PCIGroup returns the number of the function's IOMMU group, "" if it has none (IOMMU off).
func (h FS) PCIGroup(address string) (string, error) {
	return h.LinkBase(PCIDevice(address) + "/iommu_group")
}

// IOMMUGroup returns the addresses of the functions in an IOMMU group
// (Documentation/ABI/testing/sysfs-kernel-iommu_groups).
func (h FS) IOMMUGroup(group string) ([]string, error) {
	return h.List("/sys/kernel/iommu_groups/" + group + "/devices")
}

// PCIBridge reports whether the function is a bridge: base class 06.
func (h FS) PCIBridge(address string) (bool, error) {
	class, err := h.PCIClass(address)
	return class>>16 == 0x06, err
}

// PCIDisplay reports whether the function is a display controller: base class 03.
func (h FS) PCIDisplay(address string) (bool, error) {
	class, err := h.PCIClass(address)
	return class>>16 == 0x03, err
}

// PCIID returns vendor and device of the function, "10de:2782", by which it is known again: addresses can move.
func (h FS) PCIID(address string) (string, error) {
	vendor, err := h.Read(PCIDevice(address) + "/vendor")
	if err != nil {
		return "", err
	}
	device, err := h.Read(PCIDevice(address) + "/device")
	if err != nil {
		return "", err
	}
	return strings.TrimPrefix(vendor, "0x") + ":" + strings.TrimPrefix(device, "0x"), nil
}

// IsVFIO reports whether the driver the function is bound to is a vfio driver: vfio-pci, or one that registered a
// vfio device for it.
func (h FS) IsVFIO(address string) (bool, error) {
	driver, err := h.PCIDriver(address)
	if err != nil || driver == "" {
		return false, err
	}
	if driver == "vfio-pci" {
		return true, nil
	}
	return h.Has(PCIDevice(address) + "/vfio-dev")
}

// A VFIODriver is the driver a function is given to a guest with, and the module that brings it; Module is "" when
// the driver is built in or registered already.
type VFIODriver struct{ Name, Module string }

// A VFIOAlias is a line of modules.alias that says which functions a vfio driver's module is for.
type VFIOAlias struct{ Pattern, Module string }

// VFIODriver returns the vfio driver that libvirt would choose for the function: want (<driver model>) if given, else
// the one with the most exact of the aliases, else vfio-pci.
func (h FS) VFIODriver(address, want string, aliases []VFIOAlias) (VFIODriver, error) {
	module := want
	if module == "" {
		var err error
		if module, err = h.vfioModule(address, aliases); err != nil {
			return VFIODriver{}, err
		}
	}
	if driver, err := h.ModulePCIDriver(module); err != nil {
		return VFIODriver{}, err
	} else if driver != "" {
		return VFIODriver{Name: driver}, nil
	}
	// Before it is loaded a module does not say what its driver is called: the generic one swaps the dash.
	name := module
	if moduleName(module) == "vfio_pci" {
		name = "vfio-pci"
	}
	if there, err := h.Has(PCIDriverAttr(name, "")); err != nil || there {
		return VFIODriver{Name: name}, err
	}
	return VFIODriver{Name: name, Module: module}, nil
}

// VFIOAliases returns the "vfio_pci:" lines of the running kernel's modules.alias (depmod(8)), none if it has no
// modules.
func (h FS) VFIOAliases() ([]VFIOAlias, error) {
	dir, err := h.ModulesDir()
	if err != nil || dir == "" {
		return nil, err
	}
	text, err := h.ReadFile(dir + "/modules.alias")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, &Error{Op: "read", Path: dir + "/modules.alias", Err: err}
	}
	// The file is long and few of its lines count: it is searched, not split.
	var aliases []VFIOAlias
	mark := []byte("\nalias vfio_pci:")
	rest := slices.Insert(text, 0, '\n')
	for {
		i := bytes.Index(rest, mark)
		if i < 0 {
			return aliases, nil
		}
		rest = rest[i+1:]
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		if f := strings.Fields(string(line)); len(f) == 3 {
			aliases = append(aliases, VFIOAlias{Pattern: strings.TrimPrefix(f[1], "vfio_"), Module: f[2]})
		}
		rest = rest[len(line):]
	}
}

// vfioModule returns the module whose alias fits the function with the fewest wildcards.
func (h FS) vfioModule(address string, aliases []VFIOAlias) (string, error) {
	modalias, err := h.Read(PCIDevice(address) + "/modalias")
	if err != nil {
		return "", err
	}
	best, fewest := "vfio_pci", -1
	for _, a := range aliases {
		ok, err := path.Match(a.Pattern, modalias)
		if n := strings.Count(a.Pattern, "*"); err == nil && ok && (fewest < 0 || n < fewest) {
			best, fewest = a.Module, n
		}
	}
	return best, nil
}

// FormatPCI describes a function for a message: address, id and driver.
func (h FS) FormatPCI(address string) string {
	id, _ := h.PCIID(address)
	driver, _ := h.PCIDriver(address)
	if driver == "" {
		driver = "no driver"
	}
	return fmt.Sprintf("%s [%s] (%s)", address, id, driver)
}

// PCIClass returns the function's class as base class, subclass and interface in one number: 0x030000 for a VGA
// controller.
func (h FS) PCIClass(address string) (uint64, error) { return h.readHex(PCIDevice(address) + "/class") }

func (h FS) readHex(name string) (uint64, error) {
	v, err := h.Read(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(v, "0x"), 16, 64)
	if err != nil {
		return 0, &Error{Op: "read", Path: name, Err: fmt.Errorf("%q is no hexadecimal number", v)}
	}
	return n, nil
}

// DriverModule returns the module of a PCI driver, "" if it is built into the kernel.
func (h FS) DriverModule(driver string) (string, error) {
	return h.LinkBase(PCIDriverAttr(driver, "module"))
}

// DriverDevices returns the addresses of the functions that are bound to a PCI driver.
func (h FS) DriverDevices(driver string) ([]string, error) {
	names, err := h.ListIfAny(PCIDriverAttr(driver, ""))
	// Beside them stand the driver's own files.
	return slices.DeleteFunc(names, func(n string) bool { return !isPCIAddress(n) }), err
}

// VFs returns the virtual functions of a function, virtfnN (Documentation/ABI/testing/sysfs-bus-pci).
func (h FS) VFs(address string) ([]string, error) {
	names, err := h.List(PCIDevice(address))
	if err != nil {
		return nil, err
	}
	var vfs []string
	for _, n := range names {
		if !strings.HasPrefix(n, "virtfn") {
			continue
		}
		vf, err := h.LinkBase(PCIDevice(address) + "/" + n)
		if err != nil {
			return nil, err
		}
		vfs = append(vfs, vf)
	}
	return vfs, nil
}

// isPCIAddress tells a function's name, 0000:01:00.0, from that of a device on a bus of input devices,
// 0003:046D:C52B.0004.
func isPCIAddress(name string) bool {
	domain, rest, ok1 := strings.Cut(name, ":")
	bus, rest, ok2 := strings.Cut(rest, ":")
	device, function, ok3 := strings.Cut(rest, ".")
	return ok1 && ok2 && ok3 && len(domain) >= 4 && len(bus) == 2 && len(device) == 2 && len(function) == 1
}

// functionIn returns the innermost PCI function on a path in sysfs, "" if there is none.
func functionIn(name string) string {
	function := ""
	for part := range strings.SplitSeq(name, "/") {
		if isPCIAddress(part) {
			function = part
		}
	}
	return function
}
