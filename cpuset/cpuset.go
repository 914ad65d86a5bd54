// Package cpuset is the algebra of sets of CPUs and of NUMA nodes, and the grammars in which the kernel and libvirt
// write them down.
package cpuset

import "iter"

// Max is the number of CPUs a set can hold: identifiers run from 0 to Max-1. It is libvirt's own bound.
const Max = 16384

// A Set is an immutable set of small non-negative integers. The zero value is the empty set.
type Set struct{ words []uint64 }

// Of returns the set of the given identifiers; it panics on one that is out of range.
func Of(ids ...int) Set { panic("unwritten") }

// ParseList reads the kernel's CPU list format ("0-3,16", "0-31:2/4", "" for the empty set).
func ParseList(s string) (Set, error) { panic("unwritten") }

// ParseLibvirt reads libvirt's cpuset grammar ("1-4,^3", blanks allowed, evaluated left to right).
func ParseLibvirt(s string) (Set, error) { panic("unwritten") }

// ParseMask reads the kernel's CPU mask format ("ff", "1,ffffffff").
func ParseMask(s string) (Set, error) { panic("unwritten") }

// FromBytes reads a bit mask as systemd's AllowedCPUs has it on D-Bus: CPU n is bit n%8 of byte n/8.
func FromBytes(b []byte) Set { panic("unwritten") }

// Bytes is the inverse of FromBytes, without trailing zero bytes.
func (s Set) Bytes() []byte { panic("unwritten") }

// String returns the kernel's CPU list format; "" for the empty set.
func (s Set) String() string { panic("unwritten") }

// Mask returns the kernel's CPU mask format.
func (s Set) Mask() string { panic("unwritten") }

func (s Set) Union(t Set) Set      { panic("unwritten") }
func (s Set) Intersect(t Set) Set  { panic("unwritten") }
func (s Set) Minus(t Set) Set      { panic("unwritten") }
func (s Set) Contains(id int) bool { panic("unwritten") }
func (s Set) Len() int             { panic("unwritten") }
func (s Set) Empty() bool          { panic("unwritten") }
func (s Set) Equal(t Set) bool     { panic("unwritten") }

// All yields the members in ascending order.
func (s Set) All() iter.Seq[int] { panic("unwritten") }

// MarshalText and UnmarshalText use the CPU list format, so that a Set is a string in JSON and TOML.
func (s Set) MarshalText() ([]byte, error)     { panic("unwritten") }
func (s *Set) UnmarshalText(text []byte) error { panic("unwritten") }
