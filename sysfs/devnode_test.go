package sysfs_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// modelHost makes a host of a host file's text.
func modelHost(t *testing.T, text string) *sysfstest.Host {
	t.Helper()
	h, err := sysfstest.Parse(t.Name(), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// nodesHost has one of each kind of node: an NVIDIA card with its own and shared nodes, audio, a USB controller with a
// wireless keyboard behind a hub, a disk, and an AMD card with its compute node.
const nodesHost = `
-- cpus --
package 0 0-3
-- nodes --
0 cpus=0-3 total=8G free=4G
-- modules --
pcieport builtin driver=pcieport alias=pci:v*d*sv*sd*bc06sc04i00*
nvidia loaded driver=nvidia alias=pci:v000010DEd*sv*sd*bc03sc*i*
snd_hda_intel loaded driver=snd_hda_intel alias=pci:v*d*sv*sd*bc04sc03i*
xhci_pci loaded driver=xhci_hcd alias=pci:v*d*sv*sd*bc0Csc03i30*
nvme loaded driver=nvme alias=pci:v*d*sv*sd*bc01sc08i02*
amdgpu loaded driver=amdgpu alias=pci:v00001002d*sv*sd*bc03sc*i*
-- pci --
0000:00:01.0 class=0604 id=8086:460d driver=pcieport group=1
  0000:01:00.0 class=0300 id=10de:2782 driver=nvidia group=18
  0000:01:00.1 class=0403 id=10de:22bc driver=snd_hda_intel group=18
0000:00:14.0 class=0c0330 id=8086:7ae0 driver=xhci_hcd group=4
0000:00:1a.0 class=010802 id=144d:a80a driver=nvme group=5
0000:00:1b.0 class=0300 id=1002:743f driver=amdgpu group=6
-- links --
/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/drm/card1/subsystem -> ../../../../../../class/drm
/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/drm/card1/device -> ../../../0000:01:00.0
/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/drm/card1/card1-DP-1/drm_dp_aux0/subsystem -> /sys/class/drm_dp_aux_dev
/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/consumer:pci:0000:01:00.1 -> ../0000:01:00.1
/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.1/sound/card2/controlC2/subsystem -> ../../../../../../../class/sound
/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.1/sound/card2/pcmC2D3p/subsystem -> ../../../../../../../class/sound
/sys/devices/pci0000:00/0000:00:1a.0/nvme/nvme0/nvme0n1/subsystem -> ../../../../../../class/block
-- sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/drm/card1/dev --
226:1
-- sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/drm/card1/uevent --
MAJOR=226
MINOR=1
DEVNAME=dri/card1
DEVTYPE=drm_minor
-- sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/drm/card1/card1-DP-1/drm_dp_aux0/dev --
237:0
-- sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/drm/renderD129/dev --
226:129
-- sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/graphics/fb0/dev --
29:0
-- sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/i2c-3/i2c-dev/i2c-3/dev --
89:3
-- sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/power/dev --
1:1
-- proc/driver/nvidia/gpus/0000:01:00.0/information --
Model: 		 NVIDIA GeForce RTX 4070 Ti
IRQ:   		 181
Bus Location: 	 0000:01:00.0
Device Minor: 	 2
GPU Excluded:	 No
-- proc/devices --
Character devices:
  1 mem
195 nvidia
195 nvidiactl
511 nvidia-uvm

Block devices:
  8 sd
510 nvidia-uvm
-- sys/devices/pci0000:00/0000:00:01.0/0000:01:00.1/sound/card2/controlC2/dev --
116:9
-- sys/devices/pci0000:00/0000:00:01.0/0000:01:00.1/sound/card2/controlC2/uevent --
DEVNAME=snd/controlC2
-- sys/devices/pci0000:00/0000:00:01.0/0000:01:00.1/sound/card2/pcmC2D3p/dev --
116:10
-- sys/devices/pci0000:00/0000:00:01.0/0000:01:00.1/sound/card2/input14/event9/dev --
13:73
-- sys/devices/pci0000:00/0000:00:14.0/usb1/1-1/dev --
189:1
-- sys/devices/pci0000:00/0000:00:14.0/usb1/1-1/uevent --
DEVNAME=bus/usb/001/002
-- sys/devices/pci0000:00/0000:00:14.0/usb1/1-1/1-1.4/1-1.4:1.2/0003:046D:C52B.0004/0003:046D:4082.0005/hidraw/hidraw3/dev --
240:3
-- sys/devices/pci0000:00/0000:00:1a.0/nvme/nvme0/dev --
238:0
-- sys/devices/pci0000:00/0000:00:1a.0/nvme/nvme0/nvme0n1/dev --
259:0
-- sys/devices/pci0000:00/0000:00:1a.0/nvme/nvme0/nvme0n1/uevent --
DEVNAME=nvme0n1
-- sys/devices/pci0000:00/0000:00:1b.0/drm/card0/dev --
226:0
-- sys/class/kfd/kfd/dev --
234:0
-- sys/class/kfd/kfd/topology/nodes/0/properties --
cpu_cores_count 4
location_id 0
domain 0
-- sys/class/kfd/kfd/topology/nodes/0/gpu_id --
0
-- sys/class/kfd/kfd/topology/nodes/1/properties --
simd_count 128
location_id 216
domain 0
-- sys/class/kfd/kfd/topology/nodes/1/gpu_id --
46110
-- sys/class/kfd/kfd/proc/812/vram_46110 --
1048576
-- sys/class/kfd/kfd/proc/813/vram_46110 --
0
-- sys/class/kfd/kfd/proc/813/queues/0/gpuid --
1111
-- sys/class/kfd/kfd/proc/813/queues/1/gpuid --
46110
-- sys/class/kfd/kfd/proc/814/vram_46110 --
0
-- sys/class/kfd/kfd/proc/814/queues/0/gpuid --
1111
-- sys/class/kfd/kfd/proc/815/vram_46110 --
0
`

// describeNodes renders nodes for comparison, a line each.
func describeNodes(nodes []sysfs.DeviceNode) string {
	var lines []string
	for _, n := range nodes {
		letter, shared := "c", ""
		if n.Block {
			letter = "b"
		}
		if n.Shared {
			shared = " shared"
		}
		major, minor := n.Rdev>>8&0xfff, n.Rdev&0xff|n.Rdev>>12&0xfff00
		lines = append(lines, fmt.Sprintf("%s %s %s %d:%d%s", n.Path, n.Kind, letter, major, minor, shared))
	}
	return strings.Join(lines, "\n")
}

func TestDeviceNodes(t *testing.T) {
	fs := modelHost(t, nodesHost).FS()
	for _, c := range []struct{ address, want string }{
		{"0000:00:01.0", ""}, // what stands behind a bridge is not the bridge's
		{"0000:01:00.0", `
/dev/drm_dp_aux0 drm c 237:0
/dev/dri/card1 drm c 226:1
/dev/dri/renderD129 drm c 226:129
/dev/fb0 drm c 29:0
/dev/i2c-3 i2c c 89:3
/dev/nvidia-modeset nvidia c 195:254 shared
/dev/nvidia-uvm nvidia c 511:0 shared
/dev/nvidia-uvm-tools nvidia c 511:1 shared
/dev/nvidia2 nvidia c 195:2
/dev/nvidiactl nvidia c 195:255 shared`},
		{"0000:01:00.1", `
/dev/event9 other c 13:73
/dev/snd/controlC2 sound c 116:9
/dev/snd/pcmC2D3p sound c 116:10`},
		{"0000:00:14.0", `
/dev/bus/usb/001/002 other c 189:1
/dev/hidraw3 hidraw c 240:3`},
		{"0000:00:1a.0", `
/dev/nvme0 other c 238:0
/dev/nvme0n1 other b 259:0`},
		{"0000:00:1b.0", `
/dev/dri/card0 drm c 226:0
/dev/kfd kfd c 234:0 shared`},
		{"0000:7f:00.0", ""},
	} {
		nodes, err := fs.DeviceNodes(c.address)
		if err != nil {
			t.Errorf("%s: %v", c.address, err)
			continue
		}
		slices.SortFunc(nodes, func(a, b sysfs.DeviceNode) int { return strings.Compare(a.Path, b.Path) })
		got := strings.Split(describeNodes(nodes), "\n")
		slices.Sort(got)
		want := strings.Split(strings.TrimSpace(c.want), "\n")
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant:\n%s", c.address, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestDeviceNodesOfNVIDIA: the card's own node comes before those that prove nothing alone, and another driver has none.
func TestDeviceNodesOfNVIDIA(t *testing.T) {
	h := modelHost(t, nodesHost)
	fs := h.FS()
	nodes, err := fs.DeviceNodes("0000:01:00.0")
	if err != nil {
		t.Fatal(err)
	}
	own := slices.IndexFunc(nodes, func(n sysfs.DeviceNode) bool { return n.Path == "/dev/nvidia2" })
	shared := slices.IndexFunc(nodes, func(n sysfs.DeviceNode) bool { return n.Shared })
	if own < 0 || shared < own {
		t.Errorf("%s", describeNodes(nodes))
	}
	h.Remove("/proc/driver")
	h.SetFile("/proc/devices", "Character devices:\n195 nvidia\n\nBlock devices:\n510 nvidia-uvm\n")
	nodes, err = fs.DeviceNodes("0000:01:00.0")
	if got := describeNodes(nodes); err != nil || !strings.Contains(got, "nvidiactl") || strings.Contains(got, "uvm") || strings.Contains(got, "nvidia2") {
		t.Errorf("without the driver's tables: %s, error %v", got, err)
	}
	if err := fs.Write(sysfs.PCIDriverAttr("nvidia", "unbind"), "0000:01:00.0"); err != nil {
		t.Fatal(err)
	}
	nodes, err = fs.DeviceNodes("0000:01:00.0")
	if got := describeNodes(nodes); err != nil || strings.Contains(got, "nvidia") {
		t.Errorf("unbound: %s, error %v", got, err)
	}
}

// TestDeviceNodesOfFirmware: the node of the firmware's frame buffer belongs to the card in whose memory it lies, and is
// not told twice where the frame buffer's directory lies below the card's.
func TestDeviceNodesOfFirmware(t *testing.T) {
	const iomem = `
-- proc/iomem --
00001000-0009ffff : System RAM
d0000000-efffffff : PCI Bus 0000:01
  d0000000-dfffffff : 0000:01:00.0
    d0000000-d07e8fff : BOOTFB
f0000000-f7ffffff : PCI Bus 0000:00
  f0000000-f0ffffff : 0000:00:1b.0
`
	for _, c := range []struct{ name, dir string }{
		{"beside", "devices/platform/simple-framebuffer.0"},
		{"below", "devices/pci0000:00/0000:00:01.0/0000:01:00.0/simple-framebuffer.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(nodesHost, "-- links --\n",
				"-- links --\n/sys/bus/platform/devices/simple-framebuffer.0 -> ../../../"+c.dir+"\n", 1)
			fs := modelHost(t, text+iomem+"-- sys/"+c.dir+"/drm/card9/dev --\n226:9\n").FS()
			for address, want := range map[string]int{"0000:01:00.0": 1, "0000:00:1b.0": 0, "0000:01:00.1": 0} {
				nodes, err := fs.DeviceNodes(address)
				if n := strings.Count(describeNodes(nodes), "/dev/dri/card9 drm c 226:9"); n != want || err != nil {
					t.Errorf("%s: %d times, error %v", address, n, err)
				}
			}
		})
	}
}

func TestKFD(t *testing.T) {
	fs := modelHost(t, nodesHost).FS()
	for address, want := range map[string]string{"0000:00:1b.0": "46110", "0000:01:00.0": "", "0000:00:00.0": ""} {
		if got, err := fs.KFDGPU(address); got != want || err != nil {
			t.Errorf("%s: %q, error %v", address, got, err)
		}
	}
	for _, c := range []struct {
		pid         int
		uses, known bool
	}{
		{812, true, true},   // memory
		{813, true, true},   // a queue
		{814, false, true},  // a queue on another card
		{815, false, true},  // nothing
		{816, false, false}, // the kernel does not know it
	} {
		if uses, known := fs.KFDProcessUses(c.pid, "46110"); uses != c.uses || known != c.known {
			t.Errorf("%d: uses %v, known %v", c.pid, uses, known)
		}
	}
}
