package domain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// guestXML puts the inside of a <domain> into one that is complete.
func guestXML(inside string) string {
	return "<domain type='kvm' xmlns:qemu='" + qemuSpace + "'><name>g</name>" +
		"<uuid>11111111-2222-3333-4444-555555555555</uuid>" + inside + "</domain>"
}

func mustParse(t *testing.T, inside string) *Needs {
	t.Helper()
	n, err := Parse(strings.NewReader(guestXML(inside)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestGuest(t *testing.T) {
	for doc, want := range map[string]Guest{
		`<domain/>`: {},
		`<domain><name> -a&lt;b </name><uuid>{}</uuid></domain>`:                                  {Name: "error"},
		`<domain><name> -a&lt;b </name><name>second</name></domain>`:                              {Name: " -a<b "},
		`<domain><uuid> 6F0C1F5A54C34C0E9A352C1A8A8D1E01 </uuid></domain>`:                        {UUID: "6f0c1f5a-54c3-4c0e-9a35-2c1a8a8d1e01"},
		`<?xml version="1.0" encoding="UTF-8"?><!-- c --><domain><name>ü</name></domain><!-- -->`: {Name: "ü"},
		`<!DOCTYPE domain [<!ENTITY x "y">]><domain><name>n</name></domain>`:                      {Name: "n"},
	} {
		n, err := Parse(strings.NewReader(doc))
		if want.Name == "error" {
			if err == nil {
				t.Errorf("%s: no error", doc)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", doc, err)
			continue
		}
		if n.Guest != want || !n.Empty() {
			t.Errorf("%s: %+v", doc, n)
		}
	}
}

func TestPins(t *testing.T) {
	type want struct{ VCPUs, Pinned, Emulator, IOThreads string }
	for _, test := range []struct {
		name, in string
		want     want
	}{
		{"none", `<vcpu>4</vcpu>`, want{}},
		{"cpuset", `<vcpu cpuset='1-4,^3'>4</vcpu>`, want{"1-2,4", "", "1-2,4", ""}},
		{"auto", `<vcpu placement='auto' cpuset='1-4'>4</vcpu>`, want{}},
		{"all pinned", `<vcpu cpuset='0-9'>2</vcpu><cputune><vcpupin vcpu='0' cpuset='4'/><vcpupin vcpu='1' cpuset='6'/></cputune>`, want{"4,6", "4,6", "0-9", ""}},
		{"one of two", `<vcpu cpuset='0-1'>2</vcpu><cputune><vcpupin vcpu='1' cpuset='6'/></cputune>`, want{"0-1,6", "6", "0-1", ""}},
		{"beyond the vcpus", `<cputune><vcpupin vcpu='1' cpuset='nonsense'/><vcpupin vcpu='0' cpuset='6'/></cputune>`, want{"6", "6", "", ""}},
		{"offline vcpus", `<vcpu current='1'>2</vcpu><cputune><vcpupin vcpu='1' cpuset='6'/></cputune>`, want{"6", "6", "", ""}},
		{"before the vcpus", `<cputune><vcpupin vcpu='3' cpuset='3'/></cputune><vcpu>4</vcpu>`, want{"3", "3", "", ""}},
		{"threads", `<cputune><emulatorpin cpuset=' 1 , 3 '/><iothreadpin iothread='1' cpuset='7'/><iothreadpin iothread='2' cpuset='5-6'/></cputune>`, want{"", "", "1,3", "5-7"}},
		{"many vcpus", `<vcpu cpuset='1'>4000000000</vcpu>`, want{"1", "", "1", ""}},
		{"the rest of cputune", `<cputune><shares>-1</shares><period>x</period><vcpusched vcpus='0' scheduler='fifo'/></cputune>`, want{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := mustParse(t, test.in)
			got := want{n.VCPUs.String(), n.Pinned.String(), n.Emulator.String(), n.IOThreads.String()}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("pins (-want +got):\n%s", diff)
			}
			if n.Empty() != n.Pinned.Empty() {
				t.Errorf("Empty is %t", n.Empty())
			}
		})
	}
}

func TestMetadata(t *testing.T) {
	n := mustParse(t, `<metadata><q:config xmlns:q="`+Namespace+`">a = "&lt;1"</q:config><x:config xmlns:x="urn:x">no</x:config>
		<config>no</config><q:other xmlns:q="`+Namespace+`">no</q:other>
		<config xmlns="`+Namespace+`"><!-- no --><![CDATA[b = 2]]></config></metadata>`)
	if got := string(n.Metadata); got != "a = \"<1\"\nb = 2" {
		t.Errorf("metadata %q", got)
	}
	if n := mustParse(t, `<metadata><x/></metadata>`); n.Metadata != nil {
		t.Errorf("metadata %q, want nil", n.Metadata)
	}
	if !n.Empty() {
		t.Error("metadata counts as a need")
	}
}

// What is not read cannot be wrong.
func TestUnread(t *testing.T) {
	n := mustParse(t, `<currentMemory>-1</currentMemory>
		<iothreads>-1</iothreads><x:devices xmlns:x='urn:x'><hostdev type='pci'/></x:devices>
		<devices><controller index='-1'/><video><model vram='-5'/></video>
		<hostdev type='usb'><source><address bus='x'/></source></hostdev><hostdev/>
		<hostdev mode='capabilities' type='pci'/>
		<hostdev type='pci'><boot order='-1'/><source><address bus='1'/></source><address type='pci' bus='zz'/><future iommufd='?'/></hostdev>
		<interface type='network'><source network='x'/></interface><disk type='file'/>
		<interface type='hostdev'><source><address type='usb' bus='x'/></source></interface></devices>
		<launchSecurity type='unknown'><cbitpos>-1</cbitpos></launchSecurity>`)
	want := []Function{{Address: "0000:01:00.0"}}
	if diff := cmp.Diff(want, n.PCI); diff != "" || n.LibvirtPCI != nil {
		t.Errorf("PCI (-want +got):\n%s%v", diff, n.LibvirtPCI)
	}
}

func TestErrors(t *testing.T) {
	for _, test := range []struct{ name, doc, want string }{
		{"empty", " \n", "the domain XML is empty; libvirt sends it on standard input, by hand it is what virsh dumpxml NAME prints"},
		{"text", "hello", "line 1: it has no element; give what virsh dumpxml NAME prints"},
		{"another root", "<network/>", "the root element is <network>, not <domain>"},
		{"two roots", "<domain/>\n<domain/>", "line 2: <domain> follows the end of the document"},
		{"cut short", "<domain>\n<name>x", "line 2: it is not well-formed: unexpected EOF"},
		{"crossed", "<domain><a></b></domain>", "element <a> closed by </b>"},
		{"entity", "<domain><name>&x;</name></domain>", "invalid character entity &x;"},
		{"latin1", "<?xml version='1.0' encoding='ISO-8859-1'?><domain/>", "the encoding ISO-8859-1 is not known, convert it to UTF-8"},
		{"uuid", "<domain><uuid>123</uuid></domain>", `<uuid>: "123" is not a UUID`},
		{"function 9", guestXML(pciHostdev("function='9'")), "<hostdev>: the PCI <address>: the function 0x9 is too large, the largest allowed is 0x7"},
		{"bus", guestXML(pciHostdev("bus='0x100'")), "the bus 0x100 is too large"},
		{"not a number", guestXML(pciHostdev("slot='0xzz'")), `<hostdev>: <address>: "0xzz" is not a number from 0 up`},
		{"no address", guestXML("<devices><hostdev type='pci'/></devices>"), "<hostdev type='pci'> has no <source><address/></source>"},
		{"CPU 4 billion", guestXML("<vcpu cpuset='0-4000000000'>1</vcpu>"), "<vcpu>: cannot parse libvirt CPU set"},
		{"pin", guestXML("<cputune><vcpupin vcpu='0' cpuset='1-x'/></cputune>"), `<vcpupin vcpu='0'>: cannot parse libvirt CPU set "1-x"`},
		{"emulator", guestXML("<cputune><emulatorpin cpuset=''/></cputune>"), "<emulatorpin>: cannot parse"},
		{"iothread", guestXML("<cputune><iothreadpin iothread='2' cpuset='^1'/></cputune>"), "<iothreadpin iothread='2'>: cannot parse"},
		{"negative", guestXML("<memory>-1</memory>"), `<memory>: "-1" is not a number from 0 up`},
		{"2^64", guestXML("<memory>18446744073709551616</memory>"), "<memory>: the number 18446744073709551616 is too large"},
		{"2^64 KiB", guestXML(huge + "<memory>18446744073709551615</memory>"), "<memory>: 18446744073709551615 is too much, the most allowed is 64 PiB"},
		{"unit", guestXML(huge + "<memory unit='XiB'>1</memory>"), `<memory>: the unit "XiB" is not known, use KiB, MiB, GiB or bytes`},
		{"no memory", guestXML(huge), "<memory> is missing"},
		{"shmem", guestXML("<devices><shmem name='../x'><model type='ivshmem-plain'/></shmem></devices>"), `<shmem name="../x">: the name must be that of a file in /dev/shm/`},
		{"shmem size", guestXML("<devices><shmem name='x'><model type='ivshmem-plain'/><size unit='E'>99</size></shmem></devices>"), `<size>: 99 E is too much`},
		{"cells", guestXML(huge + "<cpu><numa><cell id='1' memory='1'/><cell memory='1'/></numa></cpu>"), "<cell id='1'> is there twice"},
		{"cell", guestXML(huge + "<cpu><numa><cell id='4000000000' memory='1'/></numa></cpu>"), "<cell id='4000000000'>: the number is too large"},
		{"nodeset", guestXML(huge + "<memory>1024</memory><numatune><memory nodeset='x'/></numatune>"), "<memory> of <numatune>: cannot parse"},
		{"modules", guestXML(huge + "<memory>1</memory><devices><memory model='dimm'><target><size>2</size></target></memory></devices>"), "<memory> is less than the <memory> devices together"},
		{"too many", "<domain><cpu><numa>" + strings.Repeat("<cell/>", 2000), "more than 1024 <cell> elements"},
		{"deep", "<domain>" + strings.Repeat("<a>", 300), "more than 256 elements inside one another"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, err := Parse(strings.NewReader(test.doc))
			if err == nil || n != nil {
				t.Fatalf("no error but %+v", n)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q, want one with %q", err, test.want)
			}
			if strings.ContainsAny(err.Error(), "\n") || strings.HasSuffix(err.Error(), ".") {
				t.Errorf("the error is not in the manner of the house: %q", err)
			}
		})
	}
	if _, err := Parse(iotest.ErrReader(os.ErrDeadlineExceeded)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a reader that fails: %v", err)
	}
}

const huge = "<memoryBacking><hugepages/></memoryBacking>"

func pciHostdev(address string) string {
	return "<devices><hostdev mode='subsystem' type='pci'><source><address " + address + "/></source></hostdev></devices>"
}

// Whoever may define a domain must not be able to hold up or bloat a program that runs as root.
func TestBounds(t *testing.T) {
	// Under the race detector, where nothing is fast, the cases are small and their time is not looked at.
	size, many := maxBytes, 12_000
	if raceEnabled {
		size, many = size/16, many/16
	}
	fill := func(head, piece, tail string) string {
		return head + strings.Repeat(piece, (size-len(head)-len(tail))/len(piece)) + tail
	}
	functions := strings.Repeat("<hostdev type='pci'><source><address/></source></hostdev>", many)
	for name, doc := range map[string]string{
		"too large":        strings.Repeat(" ", maxBytes+1),
		"blank":            strings.Repeat(" ", maxBytes),
		"deep":             fill("<domain>", "<a>", ""),
		"elements":         fill("<domain>", "<a/>", "</domain>"),
		"attributes":       fill("<domain ", "a='' ", "/>"),
		"less attributes":  "<domain>" + strings.Repeat("<a "+strings.Repeat("a='' ", maxTag/5-10)+"/>", 15) + "</domain>",
		"namespaces":       fill("<domain>", "<a xmlns:b='c'/>", "</domain>"),
		"comments":         fill("<domain>", "<!-- -->", "</domain>"),
		"comment":          fill("<domain><!--", "-a", "--></domain>"),
		"instructions":     fill("<domain>", "<?a?>", "</domain>"),
		"entities":         fill("<domain><name>", "&amp;", "</name></domain>"),
		"text":             fill("<domain><name>", "a", "</name></domain>"),
		"hostdevs":         fill("<domain><devices>", "<hostdev type='pci'><source><address/></source></hostdev>", "</devices></domain>"),
		"same hostdev":     "<domain><devices>" + functions + "</devices></domain>",
		"pins":             fill("<domain><vcpu>99999</vcpu><cputune>", "<vcpupin cpuset='0-16383'/>", "</cputune></domain>"),
		"cells":            fill("<domain>"+huge+"<cpu><numa>", "<cell/>", "</numa></cpu></domain>"),
		"args":             fill("<domain xmlns:q='"+qemuSpace+"'><q:commandline>", "<q:arg value='-object'/>", "</q:commandline></domain>"),
		"long CPU list":    fill("<domain><vcpu cpuset='", "0-9,", "'>1</vcpu></domain>"),
		"metadata":         fill("<domain><metadata>", "<config xmlns='"+Namespace+"'>a</config>", "</metadata></domain>"),
		"different shmems": shmems(many),
		"different PCI":    differentPCI(many),
	} {
		t.Run(name, func(t *testing.T) {
			start := cpuTime(t)
			_, err := Parse(strings.NewReader(doc))
			took := cpuTime(t) - start
			t.Logf("%s: %.200v", took.Round(time.Millisecond), err)
			if took > time.Second && !raceEnabled {
				t.Errorf("it took %s of CPU", took)
			}
		})
	}
}

// cpuTime does not count what other programs do meanwhile.
func cpuTime(t *testing.T) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func shmems(n int) string {
	var out strings.Builder
	out.WriteString("<domain><devices>")
	for i := range n {
		fmt.Fprintf(&out, "<shmem name='%d'><model type='ivshmem-plain'/></shmem>", i)
	}
	return out.String() + "</devices></domain>"
}

func differentPCI(n int) string {
	var out strings.Builder
	out.WriteString("<domain><devices>")
	for i := range n {
		fmt.Fprintf(&out, "<hostdev type='pci'><source><address domain='%d'/></source></hostdev>", i)
	}
	return out.String() + "</devices></domain>"
}

func TestTwoHundredHostdevs(t *testing.T) {
	n, err := Parse(strings.NewReader(differentPCI(200)))
	if err != nil || len(n.PCI) != 200 || n.PCI[199].Address != "00c7:00:00.0" {
		t.Fatalf("%v, %v", n, err)
	}
}

func TestJSONShape(t *testing.T) {
	out, err := json.Marshal(mustParse(t, ""))
	const want = `{"guest":{"name":"g","uuid":"11111111-2222-3333-4444-555555555555"},"pci":[],"vcpus":"","emulator":"",` +
		`"iothreads":"","memory":[],"shm":[],"kvmfr":[]}`
	if err != nil || string(out) != want {
		t.Errorf("%s, %v", out, err)
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob(filepath.Join(domainDir, "*.xml"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := Parse(bytes.NewReader(data))
		if err != nil {
			tidy(t, err)
			return
		}
		wellMade(t, n)
	})
}

func BenchmarkParse(b *testing.B) {
	data, err := os.ReadFile(filepath.Join(domainDir, "win11.xml"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
	}
}
