package domain

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestParseAddress(t *testing.T) {
	for s, want := range map[string]string{
		"0000:08:00.0": "0000:08:00.0",
		"08:00.0":      "0000:08:00.0",
		"8:0.1":        "0000:08:00.1",
		"0:Af:1F.7":    "0000:af:1f.7",
		"10000:e1:0.0": "10000:e1:00.0",
	} {
		if got, err := ParseAddress(s); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", s, got, err, want)
		}
	}
	for s, want := range map[string]string{
		"":                   "no function",
		"08:00":              "no function",
		"08.0":               "no bus",
		"0000:08:00.8":       "the function 0x8 is too large, the largest allowed is 0x7",
		"0000:08:20.0":       "the device 0x20 is too large",
		"0000:100:00.0":      "the bus 0x100 is too large",
		"100000000:08:00.0":  `the domain "100000000" is not`,
		"0x0:08:00.0":        `the domain "0x0" is not a hexadecimal number`,
		":08:00.0":           `the domain "" is not`,
		"0000:08:00.":        `the function "" is not`,
		"0000:08:00.0 ":      `the function "0 " is not`,
		"+1:08:00.0":         `the domain "+1" is not`,
		"0000:0000:08:00.0":  `the domain "0000:0000" is not`,
		"pci_0000_08_00_0.0": "no bus",
	} {
		_, err := ParseAddress(s)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "cannot parse PCI address ") {
			t.Errorf("%q: error %v, want one with %q", s, err, want)
		}
	}
}

func TestAddressRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want, err := formatAddress(
			rapid.Uint64Range(0, maxPCIDomain).Draw(t, "domain"),
			rapid.Uint64Range(0, maxPCIBus).Draw(t, "bus"),
			rapid.Uint64Range(0, maxPCISlot).Draw(t, "slot"),
			rapid.Uint64Range(0, maxPCIFunction).Draw(t, "function"))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{want, strings.ToUpper(want)} {
			if got, err := ParseAddress(s); err != nil || got != want {
				t.Fatalf("%q: %q, %v", s, got, err)
			}
		}
	})
}

func FuzzParseAddress(f *testing.F) {
	f.Add("0000:08:00.0")
	f.Add("8:0.1")
	f.Add("10000:FF:1f.7")
	f.Fuzz(func(t *testing.T, s string) {
		address, err := ParseAddress(s)
		if err != nil {
			return
		}
		if again, err := ParseAddress(address); err != nil || again != address {
			t.Errorf("%q is %q, which is %q, %v", s, address, again, err)
		}
	})
}

func TestHostdevs(t *testing.T) {
	hostdev := func(attrs, inside string) string {
		return fmt.Sprintf("<hostdev mode='subsystem' type='pci' %s>%s</hostdev>", attrs, inside)
	}
	const at8 = "<source><address domain='0x0000' bus='0x08' slot='0x00' function='0x0'/></source>"
	n := mustParse(t, "<devices>"+
		hostdev("managed='yes'", at8)+
		hostdev("managed='no'", "<source><address bus='010' function='1'/></source><address type='unassigned'/>")+
		hostdev("", at8+"<driver name='vfio' model='mlx5_vfio_pci'/>")+
		hostdev("", "<driver name='vfio'/><source><address domain='65536' bus='0xE1' slot='31' function='7'/></source>")+
		"<interface type='hostdev'><source><address type='pci' domain='0' bus='2' slot='16' function='0'/></source></interface>"+
		"<disk type='nvme'><source type='pci' namespace='1' managed='yes'><address bus='3'/></source></disk>"+
		"</devices>")
	want := []Function{
		{Address: "0000:08:00.0", Driver: "mlx5_vfio_pci"},
		{Address: "0000:08:00.1"},
		{Address: "10000:e1:1f.7"},
	}
	if diff := cmp.Diff(want, n.PCI); diff != "" {
		t.Errorf("PCI (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"0000:02:10.0", "0000:03:00.0"}, n.LibvirtPCI); diff != "" {
		t.Errorf("libvirt's PCI (-want +got):\n%s", diff)
	}
}
