// Package cpuset is the algebra of sets of CPUs and of NUMA nodes, and the grammars in which the kernel and libvirt
// write them down.
package cpuset

import (
	"fmt"
	"iter"
	"math/bits"
)

// Max is the number of CPUs a set can hold: identifiers run from 0 to Max-1. It is libvirt's own bound.
const Max = 16384

const wordBits = 64

// A Set is an immutable set of small non-negative integers. The zero value is the empty set.
//
// The last word is never zero, so that equal sets have equal words and the empty set has none.
type Set struct{ words []uint64 }

// Of returns the set of the given identifiers; it panics on one that is out of range.
func Of(ids ...int) Set {
	var b builder
	for _, id := range ids {
		if id < 0 || id >= Max {
			panic(fmt.Sprintf("cpuset: %d is not between 0 and %d", id, Max-1))
		}
		b.add(id)
	}
	return b.set()
}

// FromBytes reads a bit mask as systemd's AllowedCPUs has it on D-Bus: CPU n is bit n%8 of byte n/8. Bits from Max on
// are dropped: no kernel has such CPUs.
func FromBytes(mask []byte) Set {
	mask = mask[:min(len(mask), Max/8)]
	words := make([]uint64, (len(mask)+7)/8)
	for i, b := range mask {
		words[i/8] |= uint64(b) << (i % 8 * 8)
	}
	return trim(words)
}

// Bytes is the inverse of FromBytes, without trailing zero bytes.
func (s Set) Bytes() []byte {
	mask := make([]byte, (s.end()+7)/8)
	for i := range mask {
		mask[i] = byte(s.words[i/8] >> (i % 8 * 8))
	}
	return mask
}

// Union returns the members of either set.
func (s Set) Union(t Set) Set {
	if len(s.words) < len(t.words) {
		s, t = t, s
	}
	words := make([]uint64, len(s.words))
	copy(words, s.words)
	for i, w := range t.words {
		words[i] |= w
	}
	return trim(words)
}

// Intersect returns the members of both sets.
func (s Set) Intersect(t Set) Set {
	words := make([]uint64, min(len(s.words), len(t.words)))
	for i := range words {
		words[i] = s.words[i] & t.words[i]
	}
	return trim(words)
}

// Minus returns the members of s that t does not have.
func (s Set) Minus(t Set) Set {
	words := make([]uint64, len(s.words))
	copy(words, s.words)
	for i := range min(len(words), len(t.words)) {
		words[i] &^= t.words[i]
	}
	return trim(words)
}

// Contains reports whether id is a member; no number outside the range is.
func (s Set) Contains(id int) bool {
	return id >= 0 && id/wordBits < len(s.words) && s.words[id/wordBits]>>(id%wordBits)&1 == 1
}

// Len returns the number of members.
func (s Set) Len() int {
	n := 0
	for _, w := range s.words {
		n += bits.OnesCount64(w)
	}
	return n
}

// Empty reports whether the set has no member.
func (s Set) Empty() bool { return len(s.words) == 0 }

// Equal reports whether both sets have the same members.
func (s Set) Equal(t Set) bool {
	if len(s.words) != len(t.words) {
		return false
	}
	for i, w := range s.words {
		if w != t.words[i] {
			return false
		}
	}
	return true
}

// All yields the members in ascending order.
func (s Set) All() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, w := range s.words {
			for ; w != 0; w &= w - 1 {
				if !yield(i*wordBits + bits.TrailingZeros64(w)) {
					return
				}
			}
		}
	}
}

// MarshalText writes the CPU list format, so that a Set is a string in JSON and TOML.
func (s Set) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the CPU list format, so that a Set is a string in JSON and TOML.
func (s *Set) UnmarshalText(text []byte) error {
	parsed, err := ParseList(string(text))
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}

// end is one more than the largest member, 0 for the empty set.
func (s Set) end() int {
	if len(s.words) == 0 {
		return 0
	}
	last := len(s.words) - 1
	return last*wordBits + bits.Len64(s.words[last])
}

// trim makes a set of words that nobody else holds.
func trim(words []uint64) Set {
	n := len(words)
	for n > 0 && words[n-1] == 0 {
		n--
	}
	if n == 0 {
		return Set{}
	}
	return Set{words: words[:n:n]}
}

// A builder collects members. Its callers see to it that they are in range: that bounds what it allocates to 2 KiB.
type builder struct{ words []uint64 }

func (b *builder) add(id int) {
	for len(b.words) <= id/wordBits {
		b.words = append(b.words, 0)
	}
	b.words[id/wordBits] |= 1 << (id % wordBits)
}

// addRange adds first to last, both included, by the word: a range may be written a thousand times over.
func (b *builder) addRange(first, last int) {
	for len(b.words) <= last/wordBits {
		b.words = append(b.words, 0)
	}
	for i := first / wordBits; i <= last/wordBits; i++ {
		w := ^uint64(0)
		if i == first/wordBits {
			w <<= first % wordBits
		}
		if i == last/wordBits {
			w &= ^uint64(0) >> (wordBits - 1 - last%wordBits)
		}
		b.words[i] |= w
	}
}

func (b *builder) remove(id int) {
	if id/wordBits < len(b.words) {
		b.words[id/wordBits] &^= 1 << (id % wordBits)
	}
}

func (b *builder) set() Set { return trim(b.words) }
