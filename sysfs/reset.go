package sysfs

import (
	"slices"
	"strings"
)

// ResetMethod returns how the function is reset, methods in the order in which they are tried, "" if it cannot be reset
// (reset_method, Documentation/ABI/testing/sysfs-bus-pci).
func (h FS) ResetMethod(address string) (string, error) {
	return h.ReadIfAny(PCIDevice(address) + "/reset_method")
}

// SetResetMethod sets the methods; the kernel takes only those that the function has.
func (h FS) SetResetMethod(address, methods string) error {
	return h.Write(PCIDevice(address)+"/reset_method", methods)
}

// OffersReset reports whether all the methods are among those that the function has now.
func (h FS) OffersReset(address, methods string) (bool, error) {
	now, err := h.ResetMethod(address)
	has := strings.Fields(now)
	for _, m := range strings.Fields(methods) {
		if !slices.Contains(has, m) {
			return false, err
		}
	}
	return true, err
}
