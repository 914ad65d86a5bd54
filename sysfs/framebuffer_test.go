package sysfs_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qemu-hook/sysfs"
)

const consoleHost = `
-- cpus --
package 0 0-3
-- nodes --
0 cpus=0-3 total=8G free=4G
-- pci --
0000:01:00.0 class=0300 id=10de:2782 group=18
0000:02:00.0 class=0300 id=1002:743f group=19
-- links --
/sys/bus/platform/devices/efi-framebuffer.0 -> ../../../devices/platform/efi-framebuffer.0
/sys/bus/platform/devices/simple-framebuffer.0 -> ../../../devices/platform/simple-framebuffer.0
/sys/bus/platform/devices/pcspkr -> ../../../devices/platform/pcspkr
/sys/devices/platform/simple-framebuffer.0/driver -> ../../../bus/platform/drivers/simple-framebuffer
-- sys/devices/platform/efi-framebuffer.0/uevent --
MODALIAS=platform:efi-framebuffer
-- sys/devices/platform/simple-framebuffer.0/uevent --
DRIVER=simple-framebuffer
-- sys/devices/platform/pcspkr/uevent --
MODALIAS=platform:pcspkr
-- sys/bus/platform/drivers/simple-framebuffer/unbind --
-- sys/class/vtconsole/vtcon0/name --
(S) dummy device
-- sys/class/vtconsole/vtcon0/bind --
0
-- sys/class/vtconsole/vtcon1/name --
(M) frame buffer device
-- sys/class/vtconsole/vtcon1/bind --
1
`

func TestConsole(t *testing.T) {
	fs := modelHost(t, consoleHost).FS()
	framebuffers, err := fs.PlatformFramebuffers()
	if err != nil {
		t.Fatal(err)
	}
	want := []sysfs.PlatformFramebuffer{{Device: "efi-framebuffer.0"}, {Device: "simple-framebuffer.0", Driver: "simple-framebuffer"}}
	if diff := cmp.Diff(want, framebuffers); diff != "" {
		t.Errorf("frame buffers (-want +got):\n%s", diff)
	}
	if got := framebuffers[1].DriverAttr("unbind"); !fs.Exists(got) {
		t.Errorf("there is no %s", got)
	}
	for _, bound := range []bool{true, false, true} {
		value := map[bool]string{true: "1", false: "0"}[bound]
		if err := fs.Write(sysfs.VTConsoleBind("vtcon1"), value); err != nil {
			t.Fatal(err)
		}
		consoles, err := fs.VTConsoles()
		want := []sysfs.VTConsole{{Name: "vtcon0"}, {Name: "vtcon1", Framebuffer: true, Bound: bound}}
		if diff := cmp.Diff(want, consoles); diff != "" || err != nil {
			t.Errorf("error %v, consoles (-want +got):\n%s", err, diff)
		}
	}
	if err := fs.Write(sysfs.VTConsoleBind("vtcon7"), "0"); err == nil {
		t.Error("a console that is not there was taken off")
	}
}

// TestConsoleAbsent: a host without screens has none of it.
func TestConsoleAbsent(t *testing.T) {
	fs := modelHost(t, "-- cpus --\npackage 0 0-3\n-- nodes --\n0 cpus=0-3 total=8G free=4G\n").FS()
	f, err1 := fs.PlatformFramebuffers()
	c, err2 := fs.VTConsoles()
	b, err3 := fs.BootFramebuffers("0000:01:00.0")
	if len(f)+len(c)+len(b) > 0 || err1 != nil || err2 != nil || err3 != nil {
		t.Error(f, c, b, err1, err2, err3)
	}
}

// TestBootFramebuffers: pitfall 19, a foreign owner inside the card's memory, on a card that need not be the first.
func TestBootFramebuffers(t *testing.T) {
	const bar = "0x00000000d0000000 0x00000000dfffffff 0x000000000014220c\n"
	for _, c := range []struct {
		name, iomem, resource string
		want                  []string
	}{
		{
			"nested",
			`
d0000000-efffffff : PCI Bus 0000:01
  d0000000-dfffffff : 0000:01:00.0
    d0000000-d07e8fff : BOOTFB
      d0000000-d07e8fff : simple-framebuffer.0
        d0000000-d07e8fff : simpledrm
  e0000000-e0ffffff : 0000:01:00.0
    e0000000-e0ffffff : nvidia
`, "",
			[]string{"BOOTFB", "simple-framebuffer.0", "simpledrm"},
		},
		{
			"the second card's", // as an ordinary user sees it: no numbers
			`
00000000-00000000 : PCI Bus 0000:01
  00000000-00000000 : 0000:01:00.0
  00000000-00000000 : 0000:02:00.0
    00000000-00000000 : efifb
`, bar, nil,
		},
		{
			"without numbers",
			`
00000000-00000000 : PCI Bus 0000:01
  00000000-00000000 : 0000:01:00.0
    00000000-00000000 : efifb
`, bar,
			[]string{"efifb"},
		},
		{
			"by the numbers alone",
			`
c0000000-efffffff : PCI Bus 0000:00
  d0000000-d07e8fff : BOOTFB
`, bar,
			[]string{"BOOTFB"},
		},
		{
			"beside it", "e0000000-e07e8fff : BOOTFB\ncff00000-d07e8fff : BOOTFB\n", bar, nil,
		},
		{
			"ports are no memory", "0000e000-0000e07f : BOOTFB\n", "0x000000000000e000 0x000000000000e07f 0x0000000000040101\n", nil,
		},
		{
			"what a bridge passes on is not its own", "d0000000-d07e8fff : BOOTFB\n",
			strings.Repeat("0x0000000000000000 0x0000000000000000 0x0000000000000000\n", 14) + bar, nil,
		},
		{
			"its own driver and table",
			`
d0000000-dfffffff : 0000:01:00.0
  d0000000-dfffffff : nvidia
  d1000000-d1ffffff : 0000:01:00.0
e1000000-e10fffff : BOOTFB
`, bar, nil,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := modelHost(t, consoleHost)
			h.SetFile("/proc/iomem", strings.TrimPrefix(c.iomem, "\n"))
			if c.resource != "" {
				h.SetFile("/sys/bus/pci/devices/0000:01:00.0/resource", c.resource)
			}
			got, err := h.FS().BootFramebuffers("0000:01:00.0")
			if !slices.Equal(got, c.want) || err != nil {
				t.Errorf("%q, error %v, want %q", got, err, c.want)
			}
		})
	}
}
