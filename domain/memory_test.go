package domain

import (
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
	"qemu-hook/cpuset"
)

func TestMemory(t *testing.T) {
	const gib = 1 << 30
	page := func(attrs string) string {
		return "<memoryBacking><hugepages><page " + attrs + "/></hugepages></memoryBacking>"
	}
	cells := func(cells string) string { return "<cpu><numa>" + cells + "</numa></cpu>" }
	const twoCells = "<cell id='0' memory='1' unit='GiB'/><cell id='1' memory='2' unit='GiB'/>"
	module := func(model, source, target string) string {
		return "<devices><memory model='" + model + "'><source>" + source + "</source><target>" + target + "</target></memory></devices>"
	}
	const oneGiB = "<size unit='GiB'>1</size>"

	for _, test := range []struct {
		name, in string
		want     []Backend
	}{
		{"no huge pages", "<memory unit='GiB'>1</memory>", nil},
		{"the default size", huge + "<memory unit='GiB'>1</memory>", []Backend{{Bytes: gib}}},
		{"KiB are the default unit", page("size='2048'") + "<memory>1048576</memory>", []Backend{{Bytes: gib, PageKiB: 2048}}},
		{"units", page("size='1' unit='g'") + "<memory unit='MB'>1000</memory>", []Backend{{Bytes: 954 * mib, PageKiB: 1048576}}},
		{"rounded up to 1 MiB", huge + "<memory unit='bytes'>1</memory>", []Backend{{Bytes: mib}}},
		{"the first <memory>", huge + "<memory unit='GiB'>1</memory><memory unit='GiB'>2</memory>", []Backend{{Bytes: gib}}},
		{"the system's own page size", page(fmt.Sprintf("size='%d' unit='b'", os.Getpagesize())) + "<memory>1048576</memory>", nil},
		{"nodeset 0 without cells", page("size='2048' nodeset='0'") + "<memory>1048576</memory>", []Backend{{Bytes: gib, PageKiB: 2048}}},
		{"other nodeset without cells", page("size='2048' nodeset='1'") + "<memory>1048576</memory>", nil},

		{"cells, not <memory>", huge + "<memory>7</memory>" + cells(twoCells), []Backend{{Bytes: gib}, {Bytes: 2 * gib, GuestNode: 1}}},
		{"in order of node", huge + cells("<cell id='1' memory='1' unit='GiB'/><cell id='0' memory='1025'/>"), []Backend{{Bytes: 2 * mib}, {Bytes: gib, GuestNode: 1}}},
		{"cells without id", huge + cells("<cell memory='1024'/><cell memory='2048'/>"), []Backend{{Bytes: mib}, {Bytes: 2 * mib, GuestNode: 1}}},
		{"a cell without memory", huge + cells("<cell id='0' memory='0'/><cell id='1' memory='1024'/>"), []Backend{{Bytes: mib, GuestNode: 1}}},
		{
			"a page for a cell and a master", "<memoryBacking><hugepages><page size='2' unit='M'/><page size='1' unit='G' nodeset='1'/></hugepages></memoryBacking>" + cells(twoCells),
			[]Backend{{Bytes: gib, PageKiB: 2048}, {Bytes: 2 * gib, PageKiB: 1048576, GuestNode: 1}},
		},
		{"a page for one cell", page("size='2048' nodeset='1'") + cells(twoCells), []Backend{{Bytes: 2 * gib, PageKiB: 2048, GuestNode: 1}}},
		{
			"ordinary pages for one cell", "<memoryBacking><hugepages><page size='2' unit='M'/><page size='4' nodeset='0'/></hugepages></memoryBacking>" + cells(twoCells),
			systemPages(4, []Backend{{Bytes: 2 * gib, PageKiB: 2048, GuestNode: 1}}),
		},

		{"numatune", huge + "<memory unit='G'>1</memory><numatune><memory nodeset='0,2'/></numatune>", []Backend{{Bytes: gib, HostNodes: cpuset.Of(0, 2), Mode: "strict"}}},
		{"numatune, mode", huge + "<memory unit='G'>1</memory><numatune><memory mode='restrictive' nodeset='1'/></numatune>", []Backend{{Bytes: gib, HostNodes: cpuset.Of(1), Mode: "restrictive"}}},
		{"numatune without nodes", huge + "<memory unit='G'>1</memory><numatune><memory mode='strict'/></numatune>", []Backend{{Bytes: gib}}},
		{"placement auto", huge + "<memory unit='G'>1</memory><numatune><memory mode='strict' placement='auto' nodeset='1'/></numatune>", []Backend{{Bytes: gib}}},
		{
			"memnode", huge + cells(twoCells) + "<numatune><memory mode='interleave' nodeset='0-1'/><memnode cellid='1' mode='preferred' nodeset='2'/></numatune>",
			[]Backend{{Bytes: gib, HostNodes: cpuset.Of(0, 1), Mode: "interleave"}, {Bytes: 2 * gib, GuestNode: 1, HostNodes: cpuset.Of(2), Mode: "preferred"}},
		},
		{
			"memnode alone", huge + cells(twoCells) + "<numatune><memnode cellid='1' nodeset='2'/></numatune>",
			[]Backend{{Bytes: gib}, {Bytes: 2 * gib, GuestNode: 1, HostNodes: cpuset.Of(2), Mode: "strict"}},
		},

		{"modules are part of <memory>", huge + "<memory unit='G'>3</memory>" + module("dimm", "", oneGiB), []Backend{{Bytes: 2 * gib}, {Bytes: gib}}},
		{"nvdimm too, without pages", huge + "<memory unit='G'>3</memory>" + module("nvdimm", "<path>/x</path>", oneGiB), []Backend{{Bytes: 2 * gib}}},
		{"sgx-epc", huge + "<memory unit='G'>3</memory>" + module("sgx-epc", "<nodemask>0</nodemask>", oneGiB), []Backend{{Bytes: 2 * gib}}},
		{"virtio-pmem with page size", "<memory unit='G'>3</memory>" + module("virtio-pmem", "<pagesize>2048</pagesize>", oneGiB), nil},
		{"nothing but modules", huge + "<memory unit='G'>1</memory>" + module("dimm", "", oneGiB), []Backend{{Bytes: gib}}},
		{"rounded up to 2 MiB", huge + cells("<cell memory='1024'/>") + module("dimm", "", "<size>1</size><node>0</node>"), []Backend{{Bytes: mib}, {Bytes: 2 * mib}}},
		{"a page size of its own", "<memory unit='G'>3</memory>" + module("dimm", "<pagesize unit='M'>2</pagesize>", oneGiB), []Backend{{Bytes: gib, PageKiB: 2048}}},
		{"the page size of its node", page("size='2048' nodeset='1'") + cells(twoCells) + module("dimm", "", oneGiB+"<node>1</node>"), []Backend{{Bytes: 2 * gib, PageKiB: 2048, GuestNode: 1}, {Bytes: gib, PageKiB: 2048, GuestNode: 1}}},
		{"none on its node", page("size='2048' nodeset='1'") + cells(twoCells) + module("dimm", "", oneGiB+"<node>0</node>"), []Backend{{Bytes: 2 * gib, PageKiB: 2048, GuestNode: 1}}},
		{
			"nodemask over memnode", huge + cells("<cell memory='1024'/>") + "<numatune><memnode cellid='0' mode='preferred' nodeset='1'/></numatune>" +
				module("dimm", "<nodemask>2-3</nodemask>", oneGiB+"<node>0</node>"),
			[]Backend{{Bytes: mib, HostNodes: cpuset.Of(1), Mode: "preferred"}, {Bytes: gib, HostNodes: cpuset.Of(2, 3), Mode: "strict"}},
		},
		{
			"memnode of its node", huge + cells("<cell memory='1024'/>") + "<numatune><memnode cellid='0' mode='preferred' nodeset='1'/></numatune>" +
				module("dimm", "", oneGiB+"<node>0</node>"),
			[]Backend{{Bytes: mib, HostNodes: cpuset.Of(1), Mode: "preferred"}, {Bytes: gib, HostNodes: cpuset.Of(1), Mode: "preferred"}},
		},
		{"virtio-mem", huge + "<memory unit='G'>3</memory>" + module("virtio-mem", "", "<size unit='G'>2</size><block>2048</block><requested unit='M'>512</requested>"), []Backend{{Bytes: gib}, {Bytes: gib / 2}}},
		{"virtio-mem, nothing requested", huge + "<memory unit='G'>3</memory>" + module("virtio-mem", "", "<size unit='G'>2</size><requested>0</requested>"), []Backend{{Bytes: gib}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := mustParse(t, test.in)
			if diff := cmp.Diff(test.want, n.Memory); diff != "" {
				t.Errorf("memory (-want +got):\n%s", diff)
			}
			if n.Empty() != (len(test.want) == 0) {
				t.Errorf("Empty is %t", n.Empty())
			}
		})
	}
}

// systemPages takes rows that hold where the system's pages have a size in KiB, and adds one of it where they have not.
func systemPages(size uint64, rows []Backend) []Backend {
	if systemPage(size) {
		return rows
	}
	return append([]Backend{{Bytes: 1 << 30, PageKiB: size}}, rows...)
}

// Whatever the sizes are, cells, modules and rounding add up.
func TestMemoryRounding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.Uint64Range(1, 1<<30), 1, 8).Draw(t, "kib")
		in := huge + "<cpu><numa>"
		for _, s := range sizes {
			in += fmt.Sprintf("<cell memory='%d'/>", s)
		}
		p := &parser{reader: newReader([]byte(guestXML(in + "</numa></cpu>")))}
		if err := p.root(p.domain); err != nil {
			t.Fatal(err)
		}
		n, err := p.needs()
		if err != nil || len(n.Memory) != len(sizes) {
			t.Fatalf("%+v, %v", n, err)
		}
		for i, b := range n.Memory {
			if b.Bytes%mib != 0 || b.Bytes < sizes[i]*kib || b.Bytes >= sizes[i]*kib+mib || b.GuestNode != i {
				t.Fatalf("%d KiB became %+v", sizes[i], b)
			}
		}
	})
}

func TestScale(t *testing.T) {
	for _, test := range []struct {
		value uint64
		unit  string
		want  uint64 // 0: an error
	}{
		{7, "", 7 * 1024},
		{7, "b", 7},
		{7, "Byte", 7},
		{7, "bytes", 7},
		{7, "k", 7 << 10},
		{7, "KiB", 7 << 10},
		{7, "KB", 7000},
		{7, "m", 7 << 20},
		{7, "MIB", 7 << 20},
		{7, "mb", 7_000_000},
		{7, "GiB", 7 << 30},
		{7, "T", 7 << 40},
		{7, "PB", 7_000_000_000_000_000},
		{1, "E", 0},
		{1, "ki", 0},
		{1, "kbb", 0},
		{1, "i", 0},
		{1, "ü", 0},
		{1 << 63, "", 0},
		{65, "P", 0},
		{64, "P", 64 << 50},
	} {
		got, err := scale(test.value, test.unit, 1024)
		if got != test.want || (err == nil) != (test.want != 0) {
			t.Errorf("%d %s: %d, %v; want %d", test.value, test.unit, got, err, test.want)
		}
	}
}

func TestQEMUSize(t *testing.T) {
	for s, want := range map[string]uint64{
		"67108864": 64 * mib, "64M": 64 * mib, "64m": 64 * mib, "1.5G": 1536 * mib, "0x4000000": 64 * mib, "65536k": 64 * mib,
		"12b": 12, "0.5K": 512, "64.0M": 64 * mib, "1.M": mib,
	} {
		if got, err := qemuSize(s); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "M", "-1", "+1", "1x", "64MiB", "1.x", "1.5.5", "0x", "0xg", " 1", "1e9", "99999999999999999999", "99E", "1.-1"} {
		if got, err := qemuSize(s); err == nil {
			t.Errorf("%q: no error but %d", s, got)
		}
	}
}
