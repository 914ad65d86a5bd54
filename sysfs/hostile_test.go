package sysfs_test

import (
	"bytes"
	"context"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"qemu-hook/cpuset"
	"qemu-hook/sysfs"
)

// oneText is a host on which every file holds the same text, every directory the same names, and every link leads to the
// same place. It has an end: what asks for more than any host has gets no more answers.
type oneText struct {
	sysfs.Kernel // of which nothing else is asked

	text  []byte
	names []string
	link  string
	asked *int
}

// mostAsked is as much as is answered.
const mostAsked = 200

func (k oneText) ask() error {
	if *k.asked++; *k.asked > mostAsked {
		return syscall.ENOENT
	}
	return nil
}

func (k oneText) ReadFile(string) ([]byte, error)  { return bytes.Clone(k.text), k.ask() }
func (k oneText) WriteFile(string, []byte) error   { return k.ask() }
func (k oneText) ReadDir(string) ([]string, error) { return append([]string(nil), k.names...), k.ask() }

func (k oneText) SubDirs(string) ([]string, error)             { return append([]string(nil), k.names...), k.ask() }
func (k oneText) Readlink(string) (string, error)              { return k.link, k.ask() }
func (k oneText) Local(string) (string, error)                 { return "", syscall.ENOENT }
func (k oneText) Stat(name string) (sysfs.Stat, error)         { return k.Lstat(name) }
func (k oneText) Run(context.Context, string, ...string) error { return k.ask() }
func (k oneText) Execute(context.Context, sysfs.Program) ([]byte, error) {
	return bytes.Clone(k.text), k.ask()
}

func (k oneText) Lstat(string) (sysfs.Stat, error) {
	kinds := []uint32{syscall.S_IFREG, syscall.S_IFDIR, syscall.S_IFBLK, syscall.S_IFCHR}
	return sysfs.Stat{Mode: kinds[len(k.text)%len(kinds)], Rdev: 1, Ino: 1}, k.ask()
}

func (k oneText) OpenDevices(_ int, visit func(uint64, bool)) error {
	visit(1, false)
	return k.ask()
}

// arguments are those with which every method is called, by type.
func arguments(h sysfs.FS) map[reflect.Type][]any {
	aliases, _ := h.VFIOAliases()
	all := map[reflect.Type][]any{}
	for _, v := range []any{
		"0000:01:00.0", 0, -1, 99, uint64(2048),
		[]string{"0000:01:00.0"},
		cpuset.Of(0, 1),
		sysfs.Pool{KiB: 2048},
		sysfs.PCIPower{Control: "auto", D3Cold: "1"},
		sysfs.Process{PID: 1, Start: 1},
		sysfs.Holder{},
		[]sysfs.DeviceNode{{Path: "/dev/nvidia0", Rdev: 1}},
		aliases,
	} {
		all[reflect.TypeOf(v)] = append(all[reflect.TypeOf(v)], v)
	}
	all[reflect.TypeFor[error]()] = []any{syscall.EACCES, syscall.EIO}
	all[reflect.TypeFor[context.Context]()] = []any{context.Background()}
	return all
}

// callAll calls every method that sysfs.FS has beside the kernel's own, and says how many those are. A method with a
// parameter of a new type is an error: it would be left out.
func callAll(t *testing.T, h sysfs.FS) int {
	door := reflect.TypeFor[sysfs.Kernel]()
	v, n := reflect.ValueOf(h), 0
	values := arguments(h)
	for i := range v.NumMethod() {
		m := v.Type().Method(i)
		if _, own := door.MethodByName(m.Name); own {
			continue
		}
		n++
		for turn := range 3 {
			args := []reflect.Value{}
			for p := 1; p < m.Type.NumIn(); p++ {
				choice := values[m.Type.In(p)]
				if len(choice) == 0 {
					t.Fatalf("%s takes a %v, of which this test has none", m.Name, m.Type.In(p))
				}
				args = append(args, reflect.ValueOf(choice[min(turn, len(choice)-1)]))
			}
			call := v.Method(i).Call
			if m.Type.IsVariadic() {
				call = v.Method(i).CallSlice
			}
			results := call(args)
			if u, ok := results[0].Interface().(*sysfs.Usage); ok && u != nil {
				_ = u.Of("sda")
			}
			if holders, ok := results[0].Interface().([]sysfs.Holder); ok {
				for _, o := range holders {
					_ = o.Unit() + o.SystemUnit() + o.Container()
					_ = h.ProtectedProcess(o)
				}
			}
		}
	}
	return n
}

// texts are files of all formats that are read, whole and broken.
func texts() []string {
	return []string{
		"", "\n", "0", "-1", "18446744073709551616", "(null)", "0-3,8-11\n", "00000000,ffffffff\n", "3-0", "0-4294967295", "0x030000\n", "0xzz",
		"226:1\n", ":", "4294967296:0",
		"1 (a) b) (c) S 2 1 1 0 -1 69238880 0 0 0 0 0 0 0 0 20 0 1 0 42 0 0\n", "1 (x", "1 (x) S 2", ")(",
		"Name:\tx\nUid:\t1000\t1000\t1000\t1000\nCpus_allowed_list:\t0-3\nCpus_allowed_list:", "Uid:\n", "0::/system.slice/x.service\n", "0::", "1:name=systemd:/a.scope",
		"7f0000000000-7f0000001000 rw-s 00000000 00:05 123                        /dev/nvidia0 (deleted)\n", "a b c d\n", "a b c \n", "a b c  \n", "   ",
		"22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n23 1 0:30 / /b\\040c\\09 rw - bcachefs /dev/sda:/dev/sdb rw\n", "a b c d e - ", " - ",
		"none /dev/hugepages hugetlbfs rw,pagesize=2M 0 0\nnone /x hugetlbfs rw,pagesize=,pagesize=G 0 0\n",
		"Node 0 MemTotal:       65536 kB\nNode 0 Active(file):   99 kB\n", "Node 0 MemTotal: 99999999999999999999 kB",
		"size 4 1000\nc_min 4 999\n", "Character devices:\n195 nvidia\nnvidia-uvm 5\n511 nvidia-uvm\n\nBlock devices:\n8 sd\n", "Device Minor: \t 0\n", "Device Minor:",
		"location_id 256\ndomain 0\n", "location_id 18446744073709551615\ndomain 18446744073709551615",
		"0x00000000f6000000 0x00000000f6ffffff 0x0000000000040200\n", "0x0 0xffffffffffffffff 0x200\n0x1", "  e0000000-efffffff : 0000:01:00.0\n    e0000000-e0300000 : BOOTFB\n", " : ", "x : BOOTFB",
		"\nalias vfio_pci:v000010DEd*sv*sd*bc*sc*i* nvgrace_gpu_vfio_pci\nalias vfio_pci:[ x\nalias vfio_pci:\n",
		"kernel/drivers/vfio/pci/vfio-pci.ko.zst: a.ko\n:\n", "6.12.0-1-amd64", "6.", ".", "6.99999999999999999999",
		"eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n", "00000000000000000000000000000000 00 0 00 0 00000400 0 0 00000003 eth0\n",
		"root:x:0:0::/:/bin/sh\nkvm:x:999999999999:\n", "ACTIVE_UID=\nACTIVE_UID=1000\n", "UID=x\nDEVICES=226:1 : 1:\nLEADER=-1\nTYPE=\"wayland\"\n",
		"# c\n10de  NVIDIA Corporation\n\t2782  AD104\n\t\t1462 5136  x\nC 03  Display\n", "\t\n\t\t\n10de  \n\t", "memory cpuset\n", "populated 0",
		"8 16 24\n", "flr bus\n", "performance powersave\n", "frame buffer device", strings.Repeat("a ", 2000), "\xff\xfe\x00",
	}
}

const someNames = "0000:01:00.0 card1 card1-DP-1 1 2 policy0 vcpu0 machine-qemu\\x2d1\\x2dg.scope hugepages-2048kB virtfn0 fb0 sda1 upper_br0 vfio-msi[0]"

// Whatever the kernel's files hold, none of it makes the program panic or look for ever.
func TestEveryText(t *testing.T) {
	tried, methods := 0, 0
	for _, text := range texts() {
		for _, names := range []string{"", someNames, "\x00 - . .."} {
			for _, link := range []string{"", "/", "../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0/drm/card1"} {
				methods = callAll(t, sysfs.FS{Kernel: oneText{text: []byte(text), names: strings.Fields(names), link: link, asked: new(int)}})
				tried++
			}
		}
	}
	t.Logf("%d hosts, each read by %d methods", tried, methods)
	if methods < 80 {
		t.Errorf("only %d methods were tried", methods)
	}
}

func FuzzText(f *testing.F) {
	for _, text := range texts() {
		f.Add([]byte(text), someNames, "../../0000:00:01.0/0000:01:00.0")
	}
	f.Fuzz(func(t *testing.T, text []byte, names, link string) {
		callAll(t, sysfs.FS{Kernel: oneText{text: text, names: strings.Fields(names), link: link, asked: new(int)}})
	})
}
