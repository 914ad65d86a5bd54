package sysfstest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// bar is a memory region of a function.
type bar struct {
	index       int
	start, size uint64
	sizes       uint64 // that it can have: bit n stands for 2^n MiB; 0 if it cannot be resized
}

// bars reads "0:f6000000:16M,1:4000000000:256M:resizable=8|256|16384", the sizes that it can have in MiB or with a unit.
func (p *parser) bars(values []string) []bar {
	var out []bar
	for _, s := range commas(values) {
		f := strings.Split(s, ":")
		index, err := strconv.Atoi(f[0])
		if len(f) < 3 || err != nil || index < 0 || index >= regions {
			p.fail("%q is no BAR; want NUMBER:START:SIZE", s)
			continue
		}
		b := bar{index: index, start: uint64(p.number(f[1], 16)), size: uint64(p.kib(f[2])) << 10}
		for _, sizes := range f[3:] {
			for size := range strings.SplitSeq(strings.TrimPrefix(sizes, "resizable="), "|") {
				if strings.Trim(size, "0123456789") == "" {
					size += "M"
				}
				b.sizes |= uint64(p.kib(size)) >> 10
			}
		}
		out = append(out, b)
	}
	return out
}

// regions is the number of lines of a resource file: six BARs and the ROM.
const regions = 7

func (h *Host) addBARs(d *pciDevice) {
	if len(d.bars) == 0 {
		return
	}
	addr := d.addr
	h.rule(d.path+"/resource", &attr{show: func(h *Host) (string, error) {
		var lines [regions]string
		for i := range lines {
			lines[i] = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
		}
		for _, b := range h.pci[addr].bars {
			lines[b.index] = fmt.Sprintf("0x%016x 0x%016x 0x%016x\n", b.start, b.start+b.size-1, b.flags())
		}
		return strings.Join(lines[:], ""), nil
	}})
	for i, b := range d.bars {
		if b.sizes == 0 {
			continue
		}
		h.rule(d.path+"/resource"+strconv.Itoa(b.index)+"_resize", &attr{
			show: func(h *Host) (string, error) { return fmt.Sprintf("%016x\n", h.pci[addr].bars[i].sizes), nil },
			store: func(h *Host, v string) error {
				d := h.pci[addr]
				n, err := parseUint(v)
				if err != nil {
					return syscall.EINVAL
				}
				return h.locked(d, func() error {
					switch {
					case d.driver != "":
						return syscall.EBUSY
					case n > 43 || d.bars[i].sizes&(1<<n) == 0:
						return syscall.EINVAL
					}
					d.bars = slices.Clone(d.bars) // clones share them
					d.bars[i].size = 1 << (n + 20)
					return nil
				})
			},
		})
	}
}

// flags are those of ioport.h: memory, above 4 GiB also prefetchable and of 64 bits; the ROM's are its own.
func (b bar) flags() uint64 {
	switch {
	case b.index == regions-1:
		return 0x0000000000046200
	case b.start>>32 != 0:
		return 0x000000000014220c
	}
	return 0x0000000000040200
}

// addReset makes the files by which a function is reset. The kernel takes those methods that the function has, in the
// order in which they are to be tried.
func (h *Host) addReset(d *pciDevice, alone func(*Host, string) error) {
	addr, methods := d.addr, strings.Fields(d.reset)
	h.rule(d.path+"/reset_method", &attr{
		show: func(h *Host) (string, error) { return h.pci[addr].reset + "\n", nil },
		store: func(h *Host, v string) error {
			want := strings.Fields(v)
			switch {
			case len(want) == 1 && want[0] == "default":
				want = methods
			case slices.ContainsFunc(want, func(m string) bool { return !slices.Contains(methods, m) }):
				return syscall.EINVAL
			}
			h.pci[addr].reset = strings.Join(want, " ")
			return nil
		},
	})
	h.rule(d.path+"/reset", &attr{store: func(h *Host, v string) error {
		if n, err := parseUint(v); err != nil || n != 1 {
			return syscall.EINVAL
		}
		return alone(h, v)
	}})
}
