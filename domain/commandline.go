package domain

import (
	"encoding/xml"
	"fmt"
	"path"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// commandLine reads <qemu:commandline>: libvirt hands its arguments to QEMU as they are.
func (p *parser) commandLine(xml.StartElement) error {
	return p.childrenNamed(func(name xml.Name) handler {
		if name.Space != qemuSpace || name.Local != "arg" {
			return nil
		}
		return func(start xml.StartElement) error {
			var arg libvirtxml.DomainQEMUCommandlineArg
			err := p.decode(&arg, start)
			p.args = append(p.args, arg.Value)
			return err
		}
	})
}

// readCommandLine adds what QEMU's arguments ask for: -device vfio-pci and -object memory-backend-file. libvirt does
// nothing for either. Arguments of other kinds are not looked into.
func readCommandLine(args []string, n *Needs) error {
	for i := 0; i+1 < len(args); i++ {
		var err error
		switch args[i] { // QEMU takes one dash or two
		case "-device", "--device":
			i++
			err = readDevice(args[i], n)
		case "-object", "--object":
			i++
			err = readObject(args[i], n)
		}
		if err != nil {
			return fmt.Errorf("<qemu:arg value=%s>: %w", quote(args[i]), err)
		}
	}
	return nil
}

// readDevice takes the PCI function of -device vfio-pci, given as host= or as sysfsdev=.
func readDevice(arg string, n *Needs) error {
	if !strings.Contains(arg, "vfio-pci") {
		return nil
	}
	opts, err := parseOptions(arg, "driver")
	if err != nil {
		return err
	}
	if driver := opts["driver"]; driver != "vfio-pci" && driver != "vfio-pci-nohotplug" {
		return nil
	}
	var address string
	switch {
	// QEMU prefers sysfsdev when both are there.
	case opts["sysfsdev"] != "":
		// It may also name a mediated device, by its UUID: that is no PCI function.
		if address, err = ParseAddress(path.Base(opts["sysfsdev"])); err != nil {
			return nil //nolint:nilerr // see above
		}
	case opts["host"] != "":
		if address, err = ParseAddress(opts["host"]); err != nil {
			return err
		}
	default:
		return nil
	}
	n.PCI = append(n.PCI, Function{Address: address})
	return nil
}

// readObject takes the file of -object memory-backend-file if it is in /dev/shm or a kvmfr device.
func readObject(arg string, n *Needs) error {
	if !strings.Contains(arg, "memory-backend-file") {
		return nil
	}
	opts, err := parseOptions(arg, "qom-type")
	if err != nil {
		return err
	}
	if opts["qom-type"] != "memory-backend-file" || !path.IsAbs(opts["mem-path"]) {
		return nil
	}
	file := File{Path: path.Clean(opts["mem-path"])}
	into := &n.Shm
	switch {
	case isKVMFR(file.Path):
		into = &n.KVMFR
	case !strings.HasPrefix(file.Path, shmDir):
		return nil
	}
	if opts["size"] == "" {
		return fmt.Errorf("it has no size for %s", quote(file.Path))
	}
	if file.Bytes, err = qemuSize(opts["size"]); err != nil {
		return fmt.Errorf("the size: %w", err)
	}
	*into = append(*into, file)
	return nil
}

// isKVMFR reports whether a path is that of a kvmfr device: /dev/kvmfr and a number.
func isKVMFR(p string) bool {
	number, ok := strings.CutPrefix(p, "/dev/kvmfr")
	return ok && number != "" && strings.Trim(number, "0123456789") == ""
}
