package sysfs

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// BARBytes returns the size of one of a function's memory regions (base address registers), 0 if it has none of that
// number: a line of its resource file holds start, end and flags.
func (h FS) BARBytes(address string, bar int) (uint64, error) {
	name := PCIDevice(address) + "/resource"
	v, err := h.Read(name)
	if err != nil {
		return 0, err
	}
	lines := strings.Split(v, "\n")
	if bar >= len(lines) {
		return 0, nil
	}
	var r [2]uint64
	f := strings.Fields(lines[bar])
	if len(f) < len(r) {
		return 0, &Error{Op: "read", Path: name, Err: fmt.Errorf("line %d is %q", bar+1, lines[bar])}
	}
	for i := range r {
		if r[i], err = strconv.ParseUint(f[i], 0, 64); err != nil {
			return 0, &Error{Op: "read", Path: name, Err: fmt.Errorf("line %d is %q", bar+1, lines[bar])}
		}
	}
	if r[1] == 0 {
		return 0, nil
	}
	return r[1] - r[0] + 1, nil
}

// BARSizes returns the sizes in bytes that one of a function's BARs can have, ascending; none if it cannot be resized
// (resourceN_resize, Documentation/ABI/testing/sysfs-bus-pci: bit n stands for 2^n MiB).
func (h FS) BARSizes(address string, bar int) ([]uint64, error) {
	name := resizeAttr(address, bar)
	if !h.Exists(name) {
		return nil, nil
	}
	mask, err := h.readHex(name)
	if err != nil {
		return nil, err
	}
	var sizes []uint64
	for n := range 44 {
		if mask&(1<<n) != 0 {
			sizes = append(sizes, 1<<(n+20))
		}
	}
	return sizes, nil
}

// ResizeBAR gives a BAR another size. The kernel refuses that with EBUSY while the function has a driver.
func (h FS) ResizeBAR(address string, bar int, bytes uint64) error {
	return h.Write(resizeAttr(address, bar), strconv.Itoa(bits.TrailingZeros64(bytes>>20)))
}

func resizeAttr(address string, bar int) string {
	return PCIDevice(address) + "/resource" + strconv.Itoa(bar) + "_resize"
}

// ResetMethod returns how the function is reset, methods in the order in which they are tried, "" if it cannot be reset
// (reset_method, Documentation/ABI/testing/sysfs-bus-pci).
func (h FS) ResetMethod(address string) (string, error) {
	name := PCIDevice(address) + "/reset_method"
	if !h.Exists(name) {
		return "", nil
	}
	return h.Read(name)
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
