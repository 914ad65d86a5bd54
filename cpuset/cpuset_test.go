package cpuset

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestOf(t *testing.T) {
	s := Of(3, 1, 64, 3)
	if diff := cmp.Diff([]int{1, 3, 64}, slices.Collect(s.All())); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
	if s.Len() != 3 || s.Empty() || !s.Contains(64) || s.Contains(2) || s.Contains(-1) || s.Contains(1<<40) {
		t.Errorf("%v: wrong length or members", s)
	}
	for range s.All() {
		break // an early end must be taken
	}
	for _, id := range []int{-1, Max} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Of(%d) does not panic", id)
				}
			}()
			Of(id)
		}()
	}
}

func TestEmpty(t *testing.T) {
	for name, s := range map[string]Set{
		"zero":      {},
		"of":        Of(),
		"minus":     Of(1, 300).Minus(Of(1, 300)),
		"intersect": Of(1).Intersect(Of(300)),
		"bytes":     FromBytes([]byte{0, 0, 0}),
	} {
		if !s.Empty() || s.Len() != 0 || s.String() != "" || s.Mask() != "0" || len(s.Bytes()) != 0 || !s.Equal(Set{}) {
			t.Errorf("%s: %#v is not the empty set", name, s)
		}
	}
}

func TestBytes(t *testing.T) {
	// systemd's answer for AllowedCPUs=0-3,16.
	if got := Of(0, 1, 2, 3, 16).Bytes(); !bytes.Equal(got, []byte{0x0f, 0, 1}) {
		t.Errorf("Bytes: %x", got)
	}
	if got := FromBytes([]byte{0x0f, 0, 1, 0, 0}).String(); got != "0-3,16" {
		t.Errorf("FromBytes: %s", got)
	}
	long := bytes.Repeat([]byte{0xff}, Max/8+8)
	if got := FromBytes(long); got.Len() != Max {
		t.Errorf("FromBytes of %d bytes has %d members", len(long), got.Len())
	}
}

func TestJSON(t *testing.T) {
	type row struct{ CPUs Set }
	out, err := json.Marshal(row{Of(0, 1, 16)})
	if err != nil || string(out) != `{"CPUs":"0-1,16"}` {
		t.Fatalf("%s, %v", out, err)
	}
	var back row
	if err := json.Unmarshal(out, &back); err != nil || !back.CPUs.Equal(Of(0, 1, 16)) {
		t.Fatalf("%v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"CPUs":"x"}`), &back); err == nil || !back.CPUs.Equal(Of(0, 1, 16)) {
		t.Fatalf("a bad list: %v, %v", back, err)
	}
}

func sets() *rapid.Generator[Set] {
	return rapid.Custom(func(t *rapid.T) Set {
		top := rapid.SampledFrom([]int{4, 20, 70, 300, Max - 1}).Draw(t, "top")
		return Of(rapid.SliceOf(rapid.IntRange(0, top)).Draw(t, "ids")...)
	})
}

// The algebra against a map, which has none of the tricks.
func TestAlgebra(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := sets().Draw(t, "a"), sets().Draw(t, "b")
		before := a.String()
		for name, op := range map[string]struct {
			got  Set
			want func(inA, inB bool) bool
		}{
			"union":     {a.Union(b), func(x, y bool) bool { return x || y }},
			"intersect": {a.Intersect(b), func(x, y bool) bool { return x && y }},
			"minus":     {a.Minus(b), func(x, y bool) bool { return x && !y }},
		} {
			n := 0
			for id := range Max {
				want := op.want(a.Contains(id), b.Contains(id))
				if want {
					n++
				}
				if op.got.Contains(id) != want {
					t.Fatalf("%s of %s and %s: %d is wrong", name, a, b, id)
				}
			}
			if op.got.Len() != n || op.got.Empty() != (n == 0) {
				t.Fatalf("%s of %s and %s: %d members, want %d", name, a, b, op.got.Len(), n)
			}
		}
		if a.String() != before {
			t.Fatalf("%s became %s", before, a)
		}
		if !a.Minus(b).Union(a.Intersect(b)).Equal(a) {
			t.Fatalf("%s falls apart", a)
		}
	})
}

func TestRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := sets().Draw(t, "set")
		list, err := ParseList(s.String())
		if err != nil || !list.Equal(s) {
			t.Fatalf("list %q: %v, %v", s, list, err)
		}
		mask, err := ParseMask(s.Mask())
		if err != nil || !mask.Equal(s) {
			t.Fatalf("mask %q: %v, %v", s.Mask(), mask, err)
		}
		wide, err := ParseMask(s.MaskWidth(rapid.IntRange(0, 200).Draw(t, "width")))
		if err != nil || !wide.Equal(s) {
			t.Fatalf("wide mask of %q: %v, %v", s, wide, err)
		}
		if got := FromBytes(s.Bytes()); !got.Equal(s) {
			t.Fatalf("bytes %x: %v", s.Bytes(), got)
		}
		if !s.Empty() {
			virt, err := ParseLibvirt(s.String())
			if err != nil || !virt.Equal(s) {
				t.Fatalf("libvirt %q: %v, %v", s, virt, err)
			}
		}
	})
}
