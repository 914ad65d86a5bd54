package prepare_test

import (
	"fmt"
	"strings"
	"testing"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// guardedHost has one function of each kind that a host may need: NVMe 04:00.0, a USB controller with a disk 05:00.0, a
// network card 06:00.0 with two virtual functions, and a plain card of two functions 07:00. @NAME@ are places for a test.
const guardedHost = `A host that needs what a guest asks for.

-- cpus --
package 0 0-1

-- nodes --
0 cpus=0-1 total=8G free=6G

-- hugepages --
2048 default

-- modules --
nvme loaded driver=nvme alias=pci:v*d*sv*sd*bc01sc08i02*
xhci_pci loaded driver=xhci_hcd alias=pci:v*d*sv*sd*bc0Csc03i30*
igb loaded driver=igb alias=pci:v00008086d00001521sv*sd*bc*sc*i*
igbvf loaded driver=igbvf alias=pci:v00008086d00001520sv*sd*bc*sc*i*
snd_hda_intel loaded driver=snd_hda_intel alias=pci:v*d*sv*sd*bc04sc03i00*
vfio loaded
vfio_pci_core loaded deps=vfio
vfio_pci loaded driver=vfio-pci deps=vfio_pci_core alias=vfio_pci:v*d*sv*sd*bc*sc*i*

-- pci --
0000:04:00.0 class=010802 id=144d:a80a driver=nvme group=4
0000:05:00.0 class=0c0330 id=1b21:3242 driver=xhci_hcd group=5
0000:06:00.0 class=0200 id=8086:1521 driver=igb group=6
0000:06:10.0 class=0200 id=8086:1520 driver=@VF@ group=61
0000:07:00.0 class=0300 id=1102:0012 group=7
0000:07:00.1 class=0403 id=1102:0013 driver=snd_hda_intel group=8

-- cgroups --
/ subtree=cpuset,cpu
/init.scope
/system.slice
/user.slice

-- links --
/sys/class/block/nvme0n1 -> /sys/devices/pci0000:04/0000:04:00.0/nvme/nvme0/nvme0n1
/sys/class/block/nvme0n1p2 -> /sys/devices/pci0000:04/0000:04:00.0/nvme/nvme0/nvme0n1/nvme0n1p2
/sys/class/block/sda -> /sys/devices/pci0000:05/0000:05:00.0/usb1/1-1/1-1:1.0/host0/target0:0:0/0:0:0:0/block/sda
/sys/class/block/dm-0 -> /sys/devices/virtual/block/dm-0
/sys/class/block/md0 -> /sys/devices/virtual/block/md0
/sys/class/net/enp6s0 -> /sys/devices/pci0000:06/0000:06:00.0/net/enp6s0
@LINKS@

-- sys/devices/pci0000:04/0000:04:00.0/nvme/nvme0/nvme0n1/dev --
259:0
-- sys/devices/pci0000:04/0000:04:00.0/nvme/nvme0/nvme0n1/nvme0n1p2/dev --
259:2
-- sys/devices/pci0000:04/0000:04:00.0/nvme/nvme0/nvme0n1/nvme0n1p2/partition --
2
-- sys/devices/pci0000:04/0000:04:00.0/nvme/nvme0/nvme0n1/nvme0n1p2/holders/ --
-- sys/devices/pci0000:05/0000:05:00.0/usb1/1-1/1-1:1.0/host0/target0:0:0/0:0:0:0/block/sda/dev --
8:0
-- sys/devices/virtual/block/dm-0/dev --
253:0
-- sys/devices/virtual/block/dm-0/dm/name --
vg-root
-- sys/devices/virtual/block/dm-0/dm/uuid --
LVM-abcdef
-- sys/devices/virtual/block/md0/dev --
9:0
-- sys/devices/virtual/block/md0/md/level --
raid1
-- sys/devices/pci0000:06/0000:06:00.0/net/enp6s0/address --
00:11:22:33:44:55
-- proc/swaps --
Filename Type Size Used Priority
@SWAP@
-- proc/net/route --
Iface	Destination	Gateway	Flags	RefCnt	Use	Metric	Mask	MTU	Window	IRTT
@ROUTE@
-- proc/net/ipv6_route --
@ROUTE6@
@FILES@
-- mounts --
tmpfs /tmp tmpfs rw 0 0
`

// onRoot has things lie on the NVMe disk's second partition.
func onRoot(names ...string) string {
	var links []string
	for _, n := range names {
		links = append(links, "/sys/devices/pci0000:04/0000:04:00.0/nvme/nvme0/nvme0n1/nvme0n1p2/holders/"+n+" -> /sys/devices/virtual/block/"+n,
			"/sys/class/block/"+n+" -> /sys/devices/virtual/block/"+n)
	}
	return strings.Join(links, "\n")
}

// volumes are that many of LVM's, dm-1, dm-2, ….
func volumes(n int) string {
	var b strings.Builder
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, "-- sys/devices/virtual/block/dm-%d/dm/name --\ngroup-a_rather_long_name_%[1]d\n"+
			"-- sys/devices/virtual/block/dm-%[1]d/dm/uuid --\nLVM-abc\n", i)
	}
	return b.String()
}

// multipath has a disk of a subsystem to which a controller of the function belongs.
func multipath(address string) string {
	const subsystem = "/sys/devices/virtual/nvme-subsystem/nvme-subsys0"
	return "LINKS=/sys/class/nvme-subsystem/nvme-subsys0 -> " + subsystem + "\n" +
		subsystem + "/nvme0 -> /sys/devices/pci0000:04/" + address + "/nvme/nvme0\n" +
		"/sys/class/block/nvme9n1 -> " + subsystem + "/nvme9n1"
}

const multipathDisk = "FILES=-- sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme9n1/dev --\n259:9"

func guarded(t *testing.T, mountinfo string, edits ...string) *rig {
	t.Helper()
	text := guardedHost
	for _, e := range append(edits, "LINKS=", "SWAP=", "ROUTE=", "ROUTE6=", "FILES=", "VF=") {
		name, value, _ := strings.Cut(e, "=")
		text = strings.ReplaceAll(text, "@"+name+"@", value)
	}
	model, err := sysfstest.Parse("guarded", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { model.Close() })
	if mountinfo == "" {
		mountinfo = "30 1 8:99 / / rw - ext4 /dev/sdz3 rw"
	}
	model.SetFile("/proc/1/mountinfo", mountinfo+"\n")
	return &rig{t: t, model: model, state: t.TempDir() + "/state", config: hook.DefaultConfig()}
}

// Everything that the host needs is refused, with the line that forces it; what it does not need goes.
func TestGuards(t *testing.T) {
	const root = "30 1 259:2 / / rw shared:1 - ext4 /dev/nvme0n1p2 rw"
	for name, test := range map[string]struct {
		address, mountinfo string
		edits              []string
		want               string // what the host needs it for; "" for nothing
	}{
		"mounted": {"0000:04:00.0", root, nil, "nvme0n1p2 is mounted on /"},
		"mount with a space": {
			"0000:04:00.0", `30 1 259:2 / /mnt/my\040disk rw - ext4 /dev/nvme0n1p2 rw`, nil, "nvme0n1p2 is mounted on /mnt/my disk",
		},
		"mount with a number sign": {
			"0000:04:00.0", `30 1 0:31 / /mnt/\043\134 rw - btrfs /dev/nvme0n1p2 rw`, nil, `nvme0n1p2 is mounted on /mnt/#\`,
		},
		"mounted twice": {
			"0000:04:00.0", root + "\n31 30 259:2 /nix /nix rw shared:2 - ext4 /dev/nvme0n1p2 rw\n32 31 259:2 /nix /nix rw - ext4 /dev/nvme0n1p2 rw", nil,
			"nvme0n1p2 is mounted on / and 1 more",
		},
		"mounted for a service alone": {
			"0000:04:00.0", "",
			[]string{"FILES=-- sys/fs/ext4/nvme0n1p2/session_write_kbytes --\n0"},
			"nvme0n1p2 is mounted in another mount namespace",
		},
		"multipath": {
			"0000:04:00.0", "30 1 259:9 / /srv rw - xfs /dev/nvme9n1 rw",
			[]string{multipath("0000:04:00.0"), multipathDisk},
			"nvme9n1 is mounted on /srv",
		},
		"another's multipath": {
			"0000:04:00.0", "30 1 259:9 / /srv rw - xfs /dev/nvme9n1 rw", []string{multipath("0000:08:00.0"), multipathDisk}, "",
		},
		"disk on a bus below": {
			"0000:05:00.0", "30 1 259:7 / /srv rw - xfs /dev/nvme7n1 rw",
			[]string{
				"LINKS=/sys/class/block/nvme7n1 -> /sys/devices/pci0000:05/0000:05:00.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0/nvme/nvme7/nvme7n1",
				"FILES=-- sys/devices/pci0000:05/0000:05:00.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0/nvme/nvme7/nvme7n1/dev --\n259:7",
			},
			"nvme7n1 is mounted on /srv",
		},
		"not mounted": {"0000:04:00.0", "30 1 8:1 / / rw - ext4 /dev/sdb1 rw", nil, ""},
		"swapped on":  {"0000:04:00.0", "", []string{"SWAP=/dev/nvme0n1p2 partition 1000 0 -2"}, "nvme0n1p2 is swapped on"},
		"swapped on by another name": {
			"0000:04:00.0", "",
			[]string{
				"SWAP=/dev/mapper/vg-root partition 1000 0 -2", "FILES=-- devices --\n/dev/mapper/vg-root b 253:0 0660", "LINKS=" + onRoot("dm-0"),
			},
			"nvme0n1p2 carries LVM vg-root, which is swapped on",
		},
		"swapped on a file": {"0000:04:00.0", "", []string{"SWAP=/nvme0n1p2 file 1000 0 -2"}, ""},
		"USB disk":          {"0000:05:00.0", "30 1 8:0 / /media/stick rw - vfat /dev/sda rw", nil, "sda is mounted on /media/stick"},
		"LVM": {
			"0000:04:00.0", "30 1 253:0 / /home rw - ext4 /dev/mapper/vg-root rw",
			[]string{"LINKS=" + onRoot("dm-0")},
			"nvme0n1p2 carries LVM vg-root, which is mounted on /home",
		},
		"RAID": {
			"0000:04:00.0", "",
			[]string{"LINKS=" + onRoot("md0")},
			"nvme0n1p2 carries RAID md0",
		},
		"RAID in parts": {
			"0000:04:00.0", "30 1 259:20 / /srv rw - xfs /dev/md0p1 rw",
			[]string{
				"LINKS=" + onRoot("md0") + "\n/sys/class/block/md0p1 -> /sys/devices/virtual/block/md0/md0p1",
				"FILES=-- sys/devices/virtual/block/md0/md0p1/partition --\n1\n-- sys/devices/virtual/block/md0/md0p1/dev --\n259:20",
			},
			"nvme0n1p2 carries RAID md0, whose md0p1 is mounted on /srv",
		},
		"bcache's backing disk": {
			"0000:04:00.0", "30 1 252:0 / /srv rw - xfs /dev/bcache0 rw",
			[]string{
				"LINKS=" + onRoot("bcache0") + "\n/sys/class/block/bcache0 -> /sys/devices/virtual/block/bcache0",
				"FILES=-- sys/devices/virtual/block/bcache0/dev --\n252:0\n-- sys/devices/virtual/block/bcache0/bcache/state --\nclean",
			},
			"nvme0n1p2 carries bcache0, which is mounted on /srv",
		},
		"bcache's disk, not mounted": {
			"0000:04:00.0", "",
			[]string{
				"LINKS=" + onRoot("bcache0"), "FILES=-- sys/devices/virtual/block/bcache0/bcache/state --\nclean",
			},
			"nvme0n1p2 carries bcache0",
		},
		"bcache's cache": {
			"0000:04:00.0", "",
			[]string{"FILES=-- sys/devices/pci0000:04/0000:04:00.0/nvme/nvme0/nvme0n1/nvme0n1p2/bcache/cache_replacement_policy --\nlru"},
			"nvme0n1p2 belongs to bcache",
		},
		"more than a sentence holds": {
			"0000:04:00.0", "",
			[]string{"LINKS=" + onRoot("dm-1", "dm-2", "dm-3", "dm-4", "dm-5"), "FILES=" + volumes(5)},
			"nvme0n1p2 carries LVM group-a_rather_long_name_1, nvme0n1p2 carries LVM group-a_rather_long_name_2, and 3 more",
		},
		"btrfs on encryption, and another disk": {
			"0000:05:00.0", "30 1 0:31 / /data rw - btrfs /dev/mapper/secret rw",
			[]string{
				"LINKS=/sys/fs/btrfs/aaaa/devices/sda -> /sys/class/block/sda\n/sys/fs/btrfs/aaaa/devices/dm-0 -> /sys/class/block/dm-0",
				"FILES=-- devices --\n/dev/mapper/secret b 253:0 0660",
			},
			"sda is mounted on /data",
		},
		"btrfs of a container": {
			"0000:05:00.0", "30 1 0:31 / /data rw - btrfs /dev/nvme0n1p2 rw",
			[]string{"LINKS=/sys/fs/btrfs/aaaa/devices/sda -> /sys/class/block/sda\n/sys/fs/btrfs/bbbb/devices/nvme0n1p2 -> /sys/class/block/nvme0n1p2"},
			"sda is mounted in another mount namespace",
		},
		"bcachefs of two disks": {
			"0000:05:00.0", "30 1 0:31 / /data rw - bcachefs /dev/nvme0n1p2:/dev/sda rw", nil, "sda is mounted on /data",
		},
		"btrfs of two disks": {
			"0000:05:00.0", "30 1 0:31 / /data rw - btrfs /dev/nvme0n1p2 rw",
			[]string{"LINKS=/sys/fs/btrfs/aaaa/devices/sda -> /sys/class/block/sda\n/sys/fs/btrfs/aaaa/devices/nvme0n1p2 -> /sys/class/block/nvme0n1p2"},
			"sda is mounted on /data",
		},
		"ZFS": {
			"0000:04:00.0", "",
			[]string{"FILES=-- run/udev/data/b259:2 --\nE:ID_FS_TYPE=zfs_member\n-- proc/spl/kstat/zfs/tank/state --\nONLINE"},
			"nvme0n1p2 belongs to a ZFS pool",
		},
		"ZFS without a pool": {"0000:04:00.0", "", []string{"FILES=-- run/udev/data/b259:2 --\nE:ID_FS_TYPE=zfs_member\n-- proc/spl/kstat/zfs/arcstats --\n0"}, ""},
		"default route": {
			"0000:06:00.0", "",
			[]string{"ROUTE=enp6s0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0"},
			"enp6s0 has the host's default route",
		},
		"a better route elsewhere": {
			"0000:06:00.0", "",
			[]string{"ROUTE=enp6s0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\nwlan0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0"},
			"",
		},
		"a tunnel before it": {
			"0000:06:00.0", "",
			[]string{
				"ROUTE=enp6s0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\ntun0\t00000000\t0101A8C0\t0003\t0\t0\t50\t00000000\t0\t0\t0",
				"LINKS=/sys/class/net/tun0 -> /sys/devices/virtual/net/tun0", "FILES=-- sys/devices/virtual/net/tun0/tun_flags --\n0x1001",
			},
			"enp6s0 has the host's default route",
		},
		"a better route elsewhere, through a VLAN": {
			"0000:06:00.0", "",
			[]string{
				"ROUTE=enp6s0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\nvlan8\t00000000\t0101A8C0\t0003\t0\t0\t50\t00000000\t0\t0\t0",
				"LINKS=/sys/class/net/vlan8 -> /sys/devices/virtual/net/vlan8\n/sys/devices/virtual/net/vlan8/lower_eno1 -> /sys/devices/virtual/net/eno1",
			},
			"",
		},
		"a way into nowhere": {
			"0000:06:00.0", "",
			[]string{
				"ROUTE=*\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0\nenp6s0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0",
			},
			"enp6s0 has the host's default route",
		},
		"no default route": {
			"0000:06:00.0", "", []string{"ROUTE=enp6s0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0"}, "",
		},
		"port of a bond through a VLAN": {
			"0000:06:00.0", "",
			[]string{
				"LINKS=/sys/devices/pci0000:06/0000:06:00.0/net/enp6s0/upper_vlan7 -> /sys/devices/virtual/net/vlan7\n" +
					"/sys/class/net/vlan7 -> /sys/devices/virtual/net/vlan7\n/sys/devices/virtual/net/vlan7/master -> /sys/devices/virtual/net/bond0",
			},
			"enp6s0 carries vlan7, a port of bond0",
		},
		"IPv6 alone": {
			"0000:06:00.0", "",
			[]string{"ROUTE6=00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000064 00000001 00000000 00000003 enp6s0"},
			"enp6s0 has the host's default route",
		},
		"route through a VLAN": {
			"0000:06:00.0", "",
			[]string{
				"ROUTE=vlan7\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0",
				"LINKS=/sys/devices/pci0000:06/0000:06:00.0/net/enp6s0/upper_vlan7 -> /sys/devices/virtual/net/vlan7",
			},
			"enp6s0 has the host's default route",
		},
		"port of a bridge": {
			"0000:06:00.0", "",
			[]string{"LINKS=/sys/devices/pci0000:06/0000:06:00.0/net/enp6s0/master -> /sys/devices/virtual/net/br0"},
			"enp6s0 is a port of br0",
		},
		"virtual function in use": {
			"0000:06:00.0", "",
			[]string{"VF=igbvf", "LINKS=/sys/devices/pci0000:06/0000:06:00.0/virtfn0 -> /sys/devices/pci0000:06/0000:06:10.0"},
			"its virtual function 0000:06:10.0 is in use by igbvf",
		},
		"idle virtual function": {
			"0000:06:00.0", "", []string{"LINKS=/sys/devices/pci0000:06/0000:06:00.0/virtfn0 -> /sys/devices/pci0000:06/0000:06:10.0"}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := guarded(t, test.mountinfo, test.edits...)
			n := card(test.address)
			if test.want == "" {
				r.wantGoesAndComes(n)
				return
			}
			id, err := r.model.FS().PCIID(test.address)
			if err != nil {
				t.Fatal(err)
			}
			why := test.address + " [" + id + "] (" + r.driver(test.address) + ") is needed by the host: " + test.want
			if len(why) > 200 {
				t.Errorf("%d bytes are too long for libvirt's message: %s", len(why), why)
			}
			r.wantRefused(n, why+`; take another device, or say pci.force = ["`+test.address+`"] in the configuration`)
			r.configure(`pci.force = ["` + test.address + `"]`)
			r.wantGoesAndComes(n)
		})
	}
}

// Another function of the card is another guest's.
func TestGuardOfSharedCard(t *testing.T) {
	r := guarded(t, "")
	if err := r.prepare(card("0000:07:00.0")); err != nil {
		t.Fatal(err)
	}
	second := card("0000:07:00.1")
	second.Guest = domain.Guest{Name: "second", UUID: "6f0c1f5a-54c3-4c0e-9a35-2c1a8a8d1e02"}
	if err := r.prepare(second); err == nil || !strings.Contains(err.Error(), "guest win11 has another function of the card, 0000:07:00.0") {
		t.Errorf("prepare: %v", err)
	}
	// It makes no difference that it is on its vfio driver.
	fs := r.model.FS()
	for _, w := range [][2]string{
		{sysfs.PCIDevice("0000:07:00.1") + "/driver_override", "vfio-pci"},
		{sysfs.PCIDevice("0000:07:00.1") + "/driver/unbind", "0000:07:00.1"},
		{sysfs.PCIBus + "/drivers_probe", "0000:07:00.1"},
	} {
		if err := fs.Write(w[0], w[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.prepare(second); r.driver("0000:07:00.1") != "vfio-pci" || err == nil {
		t.Errorf("prepare on vfio: %v", err)
	}
	r.configure(`pci.force = ["0000:07:00.1"]`)
	if err := r.prepare(second); err != nil {
		t.Errorf("forced: %v", err)
	}
}
