package cpuset

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A chunk is what the kernel prints between two commas of a mask.
const (
	chunkBits   = 32
	chunkDigits = chunkBits / 4
)

// ParseMask reads the kernel's CPU mask format ("ff", "1,ffffffff"): hexadecimal, the highest CPUs first, a comma
// before every 32 bits. One long number without commas is taken as well. Nothing at all is the empty set.
//
// Documentation/core-api/irq/irq-affinity.rst; lib/bitmap-str.c, bitmap_parse.
func ParseMask(s string) (Set, error) {
	set, err := parseMask(s)
	if err != nil {
		return Set{}, fmt.Errorf(
			"cannot parse CPU mask %s: %w; allowed are hexadecimal digits with a comma before every 32 bits, such as 1,ffffffff",
			quote(s), err)
	}
	return set, nil
}

func parseMask(s string) (Set, error) {
	if err := checkLength(s); err != nil {
		return Set{}, err
	}
	digits := strings.TrimFunc(s, func(r rune) bool { return r < 0x80 && isSpace(byte(r)) })
	if digits == "" {
		return Set{}, nil
	}
	chunks := cutChunks(digits)
	words := make([]uint64, (len(chunks)+1)/2)
	for i, chunk := range chunks {
		n, err := parseChunk(chunk)
		if err != nil {
			return Set{}, err
		}
		if n == 0 {
			continue
		}
		// Leading zeros are no CPUs: only a bit that is set can be too far up.
		if i >= Max/chunkBits {
			return Set{}, fmt.Errorf("it has a CPU beyond %d", Max-1)
		}
		words[i/2] |= uint64(n) << (i % 2 * chunkBits)
	}
	return trim(words), nil
}

// cutChunks splits a mask into its groups of 32 bits, the lowest first.
func cutChunks(digits string) []string {
	var chunks []string
	if strings.Contains(digits, ",") {
		for {
			i := strings.LastIndexByte(digits, ',')
			chunks = append(chunks, digits[i+1:])
			if i < 0 {
				return chunks
			}
			digits = digits[:i]
		}
	}
	for len(digits) > chunkDigits {
		cut := len(digits) - chunkDigits
		chunks = append(chunks, digits[cut:])
		digits = digits[:cut]
	}
	return append(chunks, digits)
}

func parseChunk(chunk string) (uint32, error) {
	if chunk == "" {
		return 0, errors.New("digits are missing beside a comma")
	}
	if len(chunk) > chunkDigits {
		return 0, fmt.Errorf("%s is more than 32 bits", quote(chunk))
	}
	n, err := strconv.ParseUint(chunk, 16, chunkBits)
	if err != nil {
		return 0, fmt.Errorf("%s is not hexadecimal", quote(chunk))
	}
	return uint32(n), nil
}

// Mask returns the kernel's CPU mask format, with as many digits as the set needs; "0" for the empty set. The kernel
// takes it in this form for any width.
func (s Set) Mask() string { return s.MaskWidth(0) }

// MaskWidth returns the mask as a kernel with that many CPUs prints it: every attribute has leading zeros up to the
// highest possible CPU. A set that needs more digits gets them.
func (s Set) MaskWidth(cpus int) string {
	width := min(max(cpus, s.end(), 1), Max)
	chunks := (width + chunkBits - 1) / chunkBits
	var out strings.Builder
	for i := chunks - 1; i >= 0; i-- {
		digits := chunkDigits
		if i == chunks-1 {
			digits = (width - i*chunkBits + 3) / 4
		}
		fmt.Fprintf(&out, "%0*x", digits, s.chunk(i))
		if i > 0 {
			out.WriteByte(',')
		}
	}
	return out.String()
}

// chunk returns the i-th 32 bits, the lowest first.
func (s Set) chunk(i int) uint32 {
	if i/2 >= len(s.words) {
		return 0
	}
	return uint32(s.words[i/2] >> (i % 2 * chunkBits))
}
