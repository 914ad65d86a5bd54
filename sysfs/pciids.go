package sysfs

import (
	"bytes"
	"strings"
)

// PCINames returns what the PCI ID database calls functions, "NVIDIA Corporation AD104 [GeForce RTX 4070]", by vendor and
// device as PCIID has them; those that it does not know, or all if the host has no database (pci.ids(5)), are left out.
func (h FS) PCINames(ids []string) map[string]string {
	var text []byte
	for _, name := range []string{
		"/usr/share/hwdata/pci.ids", "/usr/share/misc/pci.ids", "/usr/share/pci.ids",
		"/run/current-system/sw/share/hwdata/pci.ids", "/run/current-system/sw/share/pci.ids",
	} {
		if b, err := h.ReadFile(name); err == nil {
			text = b
			break
		}
	}
	wanted := map[string]bool{} // vendors, and vendor:device
	for _, id := range ids {
		vendor, _, _ := strings.Cut(id, ":")
		wanted[vendor], wanted[id] = true, true
	}
	names := map[string]string{}
	vendor, vendorName := "", ""
	for line := range bytes.Lines(text) {
		switch {
		case len(line) < 6 || line[0] == '#':
		case line[0] == 'C' && line[1] == ' ':
			return names // classes follow
		case line[0] != '\t':
			vendor = ""
			if id, name, ok := strings.Cut(string(line), "  "); ok && wanted[id] {
				vendor, vendorName = id, strings.TrimSpace(name)
			}
		case vendor != "" && line[1] != '\t':
			if device, name, ok := strings.Cut(string(line[1:]), "  "); ok && wanted[vendor+":"+device] {
				names[vendor+":"+device] = vendorName + " " + strings.TrimSpace(name)
			}
		}
	}
	return names
}
