package domain

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// scale returns a number with a unit in bytes, as libvirt's virScaleInteger does: b or bytes, K or KiB for 1024, KB
// for 1000, and so on up to E, in either case. Without a unit the number counts in multiples of base.
func scale(value uint64, unit string, base uint64) (uint64, error) {
	factor := base
	if unit != "" {
		var err error
		if factor, err = unitFactor(unit); err != nil {
			return 0, err
		}
	}
	high, bytes := bits.Mul64(value, factor)
	if high != 0 || bytes > maxMemory {
		return 0, fmt.Errorf("%s is too much, the most allowed is %d PiB",
			strings.TrimSpace(fmt.Sprint(value, " ", clip(unit))), maxMemory>>50)
	}
	return bytes, nil
}

func unitFactor(unit string) (uint64, error) {
	lower := strings.ToLower(unit)
	switch lower {
	case "b", "byte", "bytes":
		return 1, nil
	}
	power := strings.IndexByte("kmgtpe", lower[0]) + 1
	base := uint64(0)
	switch lower[1:] {
	case "", "ib":
		base = 1024
	case "b":
		base = 1000
	}
	if power == 0 || base == 0 {
		return 0, fmt.Errorf("the unit %s is not known, use KiB, MiB, GiB or bytes", quote(unit))
	}
	factor := uint64(1)
	for range power {
		factor *= base // at most 1024^6, which is 2^60
	}
	return factor, nil
}

// memorySize returns an amount of memory in bytes. libvirt counts memory in whole KiB, rounded up, and takes a number
// without a unit for KiB.
func memorySize(value uint64, unit string) (uint64, error) {
	bytes, err := scale(value, unit, kib)
	if err != nil {
		return 0, err
	}
	return roundUp(bytes, kib), nil
}

// roundUp returns the multiple of align, a power of two, that is not less than n. Both are far from overflow.
func roundUp(n, align uint64) uint64 { return (n + align - 1) &^ (align - 1) }

// qemuSize returns a size as QEMU's own command line has it, in bytes: "64M", "1.5G", "0x4000000", "67108864". The
// suffixes are those of qemu_strtosz: B, K, M, G, T, P, E in either case, powers of 1024; no suffix means bytes.
func qemuSize(s string) (uint64, error) {
	bad := func() (uint64, error) {
		return 0, fmt.Errorf("%s is not a size, which is written as 64M or in bytes", quote(s))
	}
	if hex, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		n, err := strconv.ParseUint(hex, 16, 64)
		if err != nil {
			return bad()
		}
		return scale(n, "b", 1)
	}
	digits, factor := s, uint64(1)
	if s != "" {
		if i := strings.IndexByte("bkmgtpe", s[len(s)-1]|0x20); i >= 0 {
			digits, factor = s[:len(s)-1], 1<<(10*i)
		}
	}
	whole, fraction, hasFraction := strings.Cut(digits, ".")
	n, err := strconv.ParseUint(whole, 10, 64)
	if err != nil || whole[0] == '+' {
		return bad()
	}
	bytes, err := scale(n, "", factor)
	if err != nil {
		return 0, fmt.Errorf("%s is too much, the most allowed is %d PiB", quote(s), maxMemory>>50)
	}
	if !hasFraction {
		return bytes, nil
	}
	if strings.Trim(fraction, "0123456789") != "" {
		return bad()
	}
	part, err := strconv.ParseFloat("0."+fraction, 64)
	if err != nil {
		return bad()
	}
	return bytes + uint64(math.Floor(part*float64(factor))), nil
}
