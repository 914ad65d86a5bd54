package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"strconv"
	"strings"
)

// bars is the number of a function's base address registers. In its resource file there stand behind them its ROM and what
// a bridge passes on.
const bars = 6

// A region is a line of a function's resource file: a range of addresses, both ends included, and what it is.
type region struct{ start, end, flags uint64 }

// memory reports whether the region is memory and in use (IORESOURCE_MEM, include/linux/ioport.h).
func (r region) memory() bool { return r.flags&0x200 != 0 && r.end > r.start }

// regions reads a function's resource file.
func (h FS) regions(address string) ([]region, error) {
	name := PCIDevice(address) + "/resource"
	v, err := h.Read(name)
	if err != nil {
		return nil, err
	}
	var all []region
	for line := range strings.Lines(v) {
		var r region
		if _, err := fmt.Sscanf(line, "0x%x 0x%x 0x%x", &r.start, &r.end, &r.flags); err != nil {
			return nil, &Error{Op: "read", Path: name, Err: fmt.Errorf("line %d is %q", len(all)+1, strings.TrimSpace(line))}
		}
		all = append(all, r)
	}
	return all, nil
}

// BARBytes returns the size of one of a function's memory regions (base address registers), 0 if it has none of that
// number.
func (h FS) BARBytes(address string, bar int) (uint64, error) {
	all, err := h.regions(address)
	if err != nil || bar < 0 || bar >= len(all) || all[bar].end == 0 {
		return 0, err
	}
	return all[bar].end - all[bar].start + 1, nil
}

// BARSizes returns the sizes in bytes that one of a function's BARs can have, ascending; none if it cannot be resized
// (resourceN_resize, Documentation/ABI/testing/sysfs-bus-pci: bit n stands for 2^n MiB).
func (h FS) BARSizes(address string, bar int) ([]uint64, error) {
	name := resizeAttr(address, bar)
	mask, err := h.readHex(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
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
