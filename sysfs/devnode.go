package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// NodeKind says what a device node is for.
type NodeKind string

// The kinds of nodes.
const (
	NodeNVIDIA NodeKind = "nvidia"
	NodeDRM    NodeKind = "drm"
	NodeKFD    NodeKind = "kfd"
	NodeI2C    NodeKind = "i2c"
	NodeSound  NodeKind = "sound"
	NodeHIDRaw NodeKind = "hidraw"
	NodeOther  NodeKind = "other"
)

// A DeviceNode is a device node of a PCI function.
type DeviceNode struct {
	Path   string
	Rdev   uint64
	Block  bool
	Kind   NodeKind
	Shared bool // belongs to all functions of the driver
}

// DeviceNodes returns the nodes of a function: those that sysfs has below it, those that its driver makes elsewhere, and
// those of the frame buffer that the firmware left in its memory.
func (h FS) DeviceNodes(address string) ([]DeviceNode, error) {
	nodes, err := h.nodesBelow(PCIDevice(address))
	if err != nil {
		return nil, err
	}
	driver, err := h.PCIDriver(address)
	if err != nil {
		return nil, err
	}
	if driver == "nvidia" {
		nodes = append(nodes, h.nvidiaNodes(address)...)
	}
	gpu, err := h.KFDGPU(address)
	if err != nil {
		return nil, err
	}
	if gpu != "" {
		if v, err := h.Read(kfdDir + "/dev"); err == nil {
			if dev, ok := parseDev(v); ok {
				nodes = append(nodes, DeviceNode{Path: "/dev/kfd", Rdev: dev, Kind: NodeKFD, Shared: true})
			}
		}
	}
	boot, err := h.bootNodes(address)
	if err != nil {
		return nil, err
	}
	for _, n := range boot {
		// Where the frame buffer's device stands below the function it has been met already.
		if !slices.ContainsFunc(nodes, func(o DeviceNode) bool { return o.Rdev == n.Rdev && o.Block == n.Block }) {
			nodes = append(nodes, n)
		}
	}
	return nodes, nil
}

// bootNodes returns the nodes of the firmware's frame buffers, if such a one lies in the function's memory.
func (h FS) bootNodes(address string) ([]DeviceNode, error) {
	framebuffers, err := h.PlatformFramebuffers()
	if err != nil || len(framebuffers) == 0 {
		return nil, err
	}
	left, err := h.BootFramebuffers(address)
	if err != nil || len(left) == 0 {
		return nil, err
	}
	var nodes []DeviceNode
	for _, f := range framebuffers {
		more, err := h.nodesBelow(platformBus + "/devices/" + f.Device)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, more...)
	}
	return nodes, nil
}

// nodesBelow returns the nodes of a device and of all below it: a file dev is a node's number, and its folder's name is the
// node's.
func (h FS) nodesBelow(dir string) ([]DeviceNode, error) {
	var nodes []DeviceNode
	err := h.walkDevices(dir, 0, func(dir string) {
		if n, ok := h.nodeOf(dir); ok {
			nodes = append(nodes, n)
		}
	})
	return nodes, err
}

// walkDevices goes through a device's directory and all below it, never through a link and not into other PCI functions,
// which lie behind a bridge.
func (h FS) walkDevices(dir string, depth int, visit func(dir string)) error {
	const deepest = 16 // an input device behind five hubs of USB lies at 12
	names, err := h.SubDirs(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENODEV):
		return nil // it goes at this moment, or is none of ours to see
	case err != nil:
		return &Error{Op: "list", Path: dir, Err: err}
	case depth > deepest:
		return nil
	}
	visit(dir)
	for _, name := range names {
		if isPCIAddress(name) || name == "power" || name == "msi_irqs" {
			continue // what holds no devices
		}
		if err := h.walkDevices(dir+"/"+name, depth+1, visit); err != nil {
			return err
		}
	}
	return nil
}

// nodeOf reads what a device's folder says of its node: dev, and DEVNAME in uevent.
func (h FS) nodeOf(dir string) (DeviceNode, bool) {
	v, err := h.Read(dir + "/dev")
	if err != nil {
		return DeviceNode{}, false
	}
	dev, ok := parseDev(v)
	if !ok {
		return DeviceNode{}, false
	}
	subsystem, _ := h.LinkBase(dir + "/subsystem")
	if subsystem == "" {
		subsystem = path.Base(path.Dir(dir))
	}
	name := path.Base(dir)
	n := DeviceNode{Rdev: dev, Block: subsystem == "block", Path: "/dev/" + name}
	switch subsystem {
	case "drm":
		n.Kind, n.Path = NodeDRM, "/dev/dri/"+name
	case "graphics", "drm_dp_aux_dev":
		n.Kind = NodeDRM // fb0, and the side channel of a connector
	case "i2c-dev":
		n.Kind = NodeI2C
	case "sound":
		n.Kind, n.Path = NodeSound, "/dev/snd/"+name
	case "hidraw":
		n.Kind = NodeHIDRaw
	default:
		n.Kind = NodeOther
	}
	if uevent, err := h.Read(dir + "/uevent"); err == nil {
		for line := range strings.Lines(uevent) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok && v != "" {
				n.Path = path.Join("/dev", v)
			}
		}
	}
	return n, true
}

// NVIDIA's driver makes its nodes itself; the numbers are those of kernel-open/common/inc/nv-chardev-numbers.h.
const (
	nvidiaMajor   = 195
	nvidiaModeset = 254
	nvidiaControl = 255
	nvidiaGPUs    = "/proc/driver/nvidia/gpus"
)

// nvidiaNodes returns the card's own node, then those that all cards share.
func (h FS) nvidiaNodes(address string) []DeviceNode {
	var nodes []DeviceNode
	if minor, ok := h.nvidiaMinor(address); ok {
		nodes = append(nodes, DeviceNode{
			Path: "/dev/nvidia" + strconv.Itoa(int(minor)), Rdev: unix.Mkdev(nvidiaMajor, minor), Kind: NodeNVIDIA,
		})
	}
	shared := func(name string, major, minor uint32) {
		nodes = append(nodes, DeviceNode{Path: "/dev/" + name, Rdev: unix.Mkdev(major, minor), Kind: NodeNVIDIA, Shared: true})
	}
	shared("nvidiactl", nvidiaMajor, nvidiaControl)
	shared("nvidia-modeset", nvidiaMajor, nvidiaModeset)
	if major, ok := h.charMajor("nvidia-uvm"); ok {
		shared("nvidia-uvm", major, 0)
		shared("nvidia-uvm-tools", major, 1)
	}
	return nodes
}

// nvidiaMinor returns the number of the GPU's own node, "Device Minor" in /proc/driver/nvidia/gpus/ADDRESS/information.
func (h FS) nvidiaMinor(address string) (uint32, bool) {
	v, err := h.Read(nvidiaGPUs + "/" + address + "/information")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(v) {
		if key, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "Device Minor" {
			n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 8)
			return uint32(n), err == nil
		}
	}
	return 0, false
}

// charMajor returns the major number of character devices of a name, /proc/devices.
func (h FS) charMajor(name string) (uint32, bool) {
	v, err := h.Read("/proc/devices")
	if err != nil {
		return 0, false
	}
	characters, _, _ := strings.Cut(v, "Block devices:")
	for line := range strings.Lines(characters) {
		if f := strings.Fields(line); len(f) == 2 && f[1] == name {
			n, err := strconv.ParseUint(f[0], 10, 32)
			return uint32(n), err == nil
		}
	}
	return 0, false
}

const kfdDir = "/sys/class/kfd/kfd"

// KFDGPU returns the number by which AMD's compute driver knows the function (topology/nodes/N/gpu_id below
// /sys/class/kfd/kfd), "" if it does not.
func (h FS) KFDGPU(address string) (string, error) {
	const dir = kfdDir + "/topology/nodes"
	names, err := h.ReadDir(dir)
	if err != nil {
		return "", nil //nolint:nilerr // no such driver
	}
	for _, name := range names {
		v, err := h.Read(dir + "/" + name + "/properties")
		if err != nil {
			continue
		}
		if kfdAddress(v) == address {
			return h.Read(dir + "/" + name + "/gpu_id")
		}
	}
	return "", nil
}

// kfdAddress makes a PCI address of a node's properties: location_id holds bus, device and function as the hardware has
// them, 0 for a node that is a CPU.
func kfdAddress(properties string) string {
	values := map[string]uint64{}
	for line := range strings.Lines(properties) {
		if f := strings.Fields(line); len(f) == 2 {
			values[f[0]], _ = strconv.ParseUint(f[1], 10, 64)
		}
	}
	id := values["location_id"]
	if id == 0 {
		return ""
	}
	return fmt.Sprintf("%04x:%02x:%02x.%x", values["domain"], id>>8&0xff, id>>3&0x1f, id&7)
}

// KFDProcessUses reports whether a process that has /dev/kfd open works on a GPU: it has memory there, or a queue
// (/sys/class/kfd/kfd/proc/PID). Known is false where the kernel does not say.
func (h FS) KFDProcessUses(pid int, gpu string) (uses, known bool) {
	dir := kfdDir + "/proc/" + strconv.Itoa(pid)
	if !h.Exists(dir) {
		return false, false
	}
	if v, err := h.Read(dir + "/vram_" + gpu); err == nil && v != "0" {
		return true, true
	}
	queues, err := h.ReadDir(dir + "/queues")
	if err != nil {
		return false, errors.Is(err, fs.ErrNotExist)
	}
	for _, q := range queues {
		if v, err := h.Read(dir + "/queues/" + q + "/gpuid"); err == nil && v == gpu {
			return true, true
		}
	}
	return false, true
}

// parseDev reads a device number, "226:0".
func parseDev(s string) (uint64, bool) {
	major, minor, ok := strings.Cut(s, ":")
	a, err1 := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	return unix.Mkdev(uint32(a), uint32(b)), ok && err1 == nil && err2 == nil
}
