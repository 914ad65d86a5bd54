package sysfstest_test

import (
	"context"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// seeds are what no record may have: each stands where a host has such a thing.
func seeds() map[string]string {
	const (
		user, full, host = "seedling", "Sadie Seedfield", "seedbox"
		mac, disk        = "00:50:b6:5e:ed:01", "S5EEDNX0R123456"
		fsid, gpu        = "5eed0000-aaaa-4bbb-8ccc-123456789abc", "GPU-5eed1111-aaaa-4bbb-8ccc-123456789abc"
		label            = "SEEDLABEL"
	)
	return map[string]string{
		"/etc/passwd":                     "root:x:0:0:root:/root:/bin/bash\n" + user + ":x:1000:1000:" + full + ",,5550199:/home/" + user + ":/bin/zsh\n",
		"/etc/group":                      "root:x:0:\nvideo:x:26:" + user + "\nrender:x:303:" + user + "\nkvm:x:302:" + user + "\n" + user + ":x:1000:\nseedteam:x:1002:" + user + "\n",
		"/etc/hostname":                   host + "\n",
		"/proc/sys/kernel/hostname":       host + ".example.org\n",
		"/etc/machine-id":                 "5eed2222aaaa4bbb8ccc123456789abc\n",
		"/proc/sys/kernel/random/boot_id": "5eed3333-aaaa-4bbb-8ccc-123456789abc\n",
		"/proc/version":                   "Linux version 6.12 (" + user + "@" + host + ") #1\n",
		"/proc/cmdline": "BOOT_IMAGE=/vmlinuz root=UUID=" + fsid + " resume=/dev/disk/by-id/nvme-Disk_" + disk + " rd.luks.name=" + fsid + "=" + host +
			" ip=10.1.2.3::10.1.2.1 ro intel_iommu=on systemd.hostname=" + host + "\n",
		"/sys/class/dmi/id/product_serial":                  disk + "\n",
		"/sys/class/dmi/id/product_uuid":                    fsid + "\n",
		"/proc/driver/nvidia/gpus/0000:08:00.0/information": "Model: \t\t NVIDIA\nGPU UUID: \t " + gpu + "\nDevice Minor: \t 0\n",
		"/proc/1/mounts": "/dev/mapper/" + host + "--vg-root / ext4 rw 0 0\n/dev/nvme0n1p2 /home/" + user + " ext4 rw 0 0\n" +
			"/dev/nvme0n1p3 /run/media/" + user + "/" + label + " ext4 rw 0 0\nhugetlbfs /dev/hugepages hugetlbfs rw,pagesize=2M 0 0\n" +
			user + "@" + host + ":/x /mnt/seedshare fuse.sshfs rw 0 0\n",
		"/proc/1/mountinfo": "30 1 253:0 / / rw - ext4 /dev/mapper/" + host + "--vg-root rw\n31 30 259:2 / /home/" + user + " rw - ext4 /dev/nvme0n1p2 rw\n" +
			"32 30 259:3 / /run/media/" + user + "/" + label + " rw - ext4 /dev/nvme0n1p3 rw,seclabel\n33 30 0:40 / /tank rw - zfs seedpool/" + user + " rw\n",
		"/proc/swaps":                                                    "Filename Type Size Used Priority\n/home/" + user + "/swap file 100 0 -2\n",
		"/proc/net/route":                                                "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\nenx0050b65eed01\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n",
		"/run/systemd/sessions/2":                                        "UID=1000\nUSER=" + user + "\nACTIVE=1\nSTATE=active\nREMOTE_HOST=" + host + "\nSEAT=seat0\nTYPE=wayland\nCLASS=user\nSCOPE=session-2.scope\nLEADER=4000\nTTY=/home/" + user + "\n",
		"/run/systemd/seats/seat0":                                       "IS_SEAT0=1\nACTIVE=2\nACTIVE_UID=1000\nSESSIONS=2\n",
		"/sys/class/net/enx0050b65eed01/address":                         mac + "\n",
		"/sys/class/block/nvme0n1/device/serial":                         disk + "\n",
		"/sys/class/block/nvme0n1/wwid":                                  "eui.5eed" + disk + "\n",
		"/sys/class/block/dm-0/dm/name":                                  host + "--vg-root\n",
		"/sys/class/block/dm-0/dm/uuid":                                  "LVM-5eedAbCdEf\n",
		"/sys/class/block/dm-0/dev":                                      "253:0\n",
		"/var/lib/systemd/linger/" + user:                                "",
		"/sys/fs/btrfs/" + fsid + "/label":                               label + "\n",
		"/sys/fs/cgroup/system.slice/" + host + ".service/cgroup.events": "populated 1\n",
	}
}

// TestRecordHasNobody seeds a host with names, serial numbers and addresses, and finds none of them in its record.
func TestRecordHasNobody(t *testing.T) {
	model, err := sysfstest.Load(filepath.Join("../../testdata/hosts/fern.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	for name, content := range seeds() {
		model.SetFile(name, content)
	}
	model.AddProcess(sysfstest.Process{
		PID: 4000, UID: 1000, Comm: "seedling-app", Cmdline: []string{"/home/seedling/bin/app", "--token", "S5EEDNX0R123456"},
		Cgroup: "/user.slice/user-1000.slice/user@1000.service/app.slice/seedling-app.service", Open: []string{"/dev/nvidia0"},
	})
	model.AddProcess(sysfstest.Process{PID: 4001, Comm: "jbd2/seedbox", KThread: true})
	data, err := sysfstest.Record(context.Background(), model.FS(), sysfstest.RecordOptions{Comment: "A host.", Manager: model.Systemd()})
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ToLower(string(data))
	for _, secret := range []string{"seed", "sadie", "5550199", "5eed", "00:50:b6", "0050b6", "s5eednx", "example.org", "10.1.2.", "0102a8c0"} {
		for line := range strings.Lines(text) {
			if strings.Contains(line, secret) {
				t.Errorf("the record has %q: %s", secret, line)
			}
		}
		if !strings.Contains(strings.ToLower(treeText(t, model.FS(), "/")), secret) {
			t.Errorf("the host has no %q: the test proves nothing", secret)
		}
	}
	// What the plan needs is there all the same.
	for _, want := range []string{"user1000", "uid=1000", "intel_iommu=on", "open=/dev/nvidia0", "user=user1000", "enx000000000000\t00000000"} {
		if !strings.Contains(text, want) {
			t.Errorf("the record has no %q", want)
		}
	}
	again, err := sysfstest.Parse("again", data)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	t.Logf("%d seeds in %d files", 10, len(seeds()))
}

// treeText returns what stands in the files of a host, and what they are called.
func treeText(t *testing.T, h sysfs.FS, dir string) string {
	t.Helper()
	var b strings.Builder
	names, err := h.ReadDir(dir)
	if err != nil {
		return ""
	}
	for _, n := range names {
		name := path.Join(dir, n)
		b.WriteString(name + "\n")
		st, err := h.Lstat(name)
		if err != nil {
			continue
		}
		const kind, directory, regular = 0o170000, 0o040000, 0o100000
		switch st.Mode & kind {
		case directory:
			b.WriteString(treeText(t, h, name))
		case regular:
			if v, err := h.ReadFile(name); err == nil {
				b.Write(v)
			}
		}
	}
	return b.String()
}
