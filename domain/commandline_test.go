package domain

import (
	"encoding/xml"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func commandLineXML(args ...string) string {
	var out strings.Builder
	out.WriteString("<qemu:commandline>")
	for _, arg := range args {
		out.WriteString("<qemu:arg value='")
		_ = xml.EscapeText(&out, []byte(arg))
		out.WriteString("'/>")
	}
	return out.String() + "<qemu:env name='A' value='-device'/></qemu:commandline>"
}

func TestCommandLine(t *testing.T) {
	type want struct {
		PCI        []Function
		Shm, KVMFR []File
	}
	gpu := want{PCI: []Function{{Address: "0000:08:00.0"}}}
	shm := func(path string) want { return want{Shm: []File{{path, 64 * mib}}} }
	kvmfr := want{KVMFR: []File{{"/dev/kvmfr0", 64 * mib}}}

	for _, test := range []struct {
		name string
		args []string
		want want
	}{
		{"nothing", nil, want{}},
		{"host", []string{"-device", "vfio-pci,host=08:00.0,x-vga=on"}, gpu},
		{"two dashes", []string{"--device", "vfio-pci,host=0000:08:00.0"}, gpu},
		{"driver=", []string{"-device", "id=a,driver=vfio-pci-nohotplug,host=08:00.0"}, gpu},
		{"the last host", []string{"-device", "vfio-pci,host=09:00.0,host=08:00.0"}, gpu},
		{"twice", []string{"-device", "vfio-pci,host=08:00.0", "-device", "vfio-pci,host=0000:08:00.0"}, gpu},
		{"sysfsdev", []string{"-device", "vfio-pci,sysfsdev=/sys/bus/pci/devices/0000:08:00.0"}, gpu},
		{"sysfsdev under its bridge", []string{"-device", "vfio-pci,sysfsdev=/sys/devices/pci0000:00/0000:00:01.0/0000:08:00.0/"}, gpu},
		{"a mediated device", []string{"-device", "vfio-pci,sysfsdev=/sys/bus/mdev/devices/83c32df7-d52e-4ec1-9668-1f3c7e4df107"}, want{}},
		{"JSON", []string{"-device", `{"driver":"vfio-pci","host":"0000:08:00.0","multifunction":true}`}, gpu},
		{"JSON in single quotes", []string{"-device", `{'driver':'vfio-pci','host':'08:00.0','bootindex':1,'x':[1],'y':null}`}, gpu},
		{"another device", []string{"-device", "virtio-net-pci,host=zz", "-device", `{"driver":"e1000"`}, want{}},
		{"a name like it", []string{"-device", "usb-host,id=vfio-pci,host=zz"}, want{}},
		{"at the end", []string{"-device"}, want{}},
		{"not an option", []string{"vfio-pci,host=08:00.0"}, want{}},
		{"a pair taken as a pair", []string{"-device", "-device", "vfio-pci,host=08:00.0"}, want{}},

		{"shm", []string{"-object", "memory-backend-file,id=lg,mem-path=/dev/shm/looking-glass,size=64M,share=on"}, shm("/dev/shm/looking-glass")},
		{"shm in bytes", []string{"-object", "memory-backend-file,share,id=lg,mem-path=/dev/shm/lg,size=67108864"}, shm("/dev/shm/lg")},
		{"a comma in the name", []string{"-object", "memory-backend-file,mem-path=/dev/shm/a,,b,,,size=64M"}, shm("/dev/shm/a,b,")},
		{"qom-type=", []string{"-object", "id=lg,qom-type=memory-backend-file,mem-path=/dev/shm//lg,size=64m"}, shm("/dev/shm/lg")},
		{"kvmfr", []string{"-object", "memory-backend-file,id=lg,mem-path=/dev/kvmfr0,size=64M"}, kvmfr},
		{"kvmfr JSON", []string{"-object", `{"qom-type":"memory-backend-file","id":"lg","mem-path":"/dev/kvmfr0","size":67108864,"share":true}`}, kvmfr},
		{"kvmfr in single quotes", []string{"-object", `{'qom-type':'memory-backend-file','id':'l\'g "x"','mem-path':'/dev/kvmfr0','size':67108864,'share':true}`}, kvmfr},
		{"the larger size", []string{"-object", "memory-backend-file,mem-path=/dev/kvmfr0,size=64M", "-object", "memory-backend-file,mem-path=/dev/kvmfr0,size=32M"}, kvmfr},
		{"other paths", []string{
			"-object", "memory-backend-file,mem-path=/dev/hugepages/x,size=1G", "-object", "memory-backend-file,mem-path=/dev/shm/../x",
			"-object", "memory-backend-file,mem-path=/dev/kvmfr", "-object", "memory-backend-file,mem-path=/dev/kvmfr0x", "-object", "memory-backend-file,mem-path=/dev/shm/",
			"-object", "memory-backend-file,mem-path=dev/shm/x", "-object", "memory-backend-ram,id=memory-backend-file,mem-path=/dev/shm/x",
		}, want{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := mustParse(t, commandLineXML(test.args...))
			if diff := cmp.Diff(test.want, want{n.PCI, n.Shm, n.KVMFR}); diff != "" {
				t.Errorf("needs (-want +got):\n%s", diff)
			}
			if n.Empty() != cmp.Equal(test.want, want{}) {
				t.Errorf("Empty is %t", n.Empty())
			}
		})
	}
}

func TestCommandLineErrors(t *testing.T) {
	for _, test := range []struct{ option, value, want string }{
		{"-device", "vfio-pci,host=08:00.9", `<qemu:arg value="vfio-pci,host=08:00.9">: cannot parse PCI address "08:00.9": the function 0x9 is too large`},
		{"-device", "{'driver':'vfio-pci'", "it is not valid JSON: "},
		{"-object", "memory-backend-file,mem-path=/dev/shm/x", `it has no size for "/dev/shm/x"`},
		{"-object", "memory-backend-file,mem-path=/dev/shm/x,size=64MiB", `the size: "64MiB" is not a size, which is written as 64M or in bytes`},
		{"-object", "memory-backend-file,mem-path=/dev/shm/x,size=99E", `"99E" is too much`},
	} {
		_, err := Parse(strings.NewReader(guestXML(commandLineXML(test.option, test.value))))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", test.value, err, test.want)
		}
	}
}

// Without the declaration of the namespace libvirt drops the element.
func TestCommandLineNamespace(t *testing.T) {
	const arg = "<arg value='-device'/><arg value='vfio-pci,host=08:00.0'/>"
	for doc, want := range map[string]int{
		"<domain><commandline>" + arg + "</commandline></domain>":                           0,
		"<domain><commandline xmlns='" + qemuSpace + "'>" + arg + "</commandline></domain>": 1,
		"<domain><commandline xmlns='urn:other'>" + arg + "</commandline></domain>":         0,
	} {
		n, err := Parse(strings.NewReader(doc))
		if err != nil || len(n.PCI) != want {
			t.Errorf("%s: %v, %v", doc, n, err)
		}
	}
}
