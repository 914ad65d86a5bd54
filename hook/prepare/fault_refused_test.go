package prepare_test

import (
	"context"
	"sync/atomic"
	"testing"

	"qemu-hook/domain"
	"qemu-hook/hook/prepare"
	"qemu-hook/sysfs"
	"qemu-hook/test/mode"
)

// refusedCases are guests that cannot be had on their hosts, for every kind of reason.
func refusedCases() map[string]func(t *testing.T) (*rig, *domain.Needs) {
	const root = "30 1 259:2 / / rw shared:1 - ext4 /dev/nvme0n1p2 rw"
	on := func(address, mountinfo string, edits ...string) func(t *testing.T) (*rig, *domain.Needs) {
		return func(t *testing.T) (*rig, *domain.Needs) { return guarded(t, mountinfo, edits...), card(address) }
	}
	held := func(process string, edits ...string) func(t *testing.T) (*rig, *domain.Needs) {
		return func(t *testing.T) (*rig, *domain.Needs) {
			return busy(t, append(edits, "PROCESSES="+process)...), card()
		}
	}
	load := func(host, guest string) func(t *testing.T) (*rig, *domain.Needs) {
		return func(t *testing.T) (*rig, *domain.Needs) { return newRig(t, host), loadNeeds(t, guest) }
	}
	return map[string]func(t *testing.T) (*rig, *domain.Needs){
		"no IOMMU":            load("no-iommu", "win11"),
		"the last screen":     load("single-gpu", "single-gpu"),
		"root file system":    on("0000:04:00.0", root),
		"volume":              on("0000:04:00.0", "30 1 253:0 / / rw - ext4 /dev/mapper/vg-root rw", "LINKS="+onRoot("dm-0")),
		"swap":                on("0000:04:00.0", "", "SWAP=/dev/nvme0n1p2 partition 8388604 0 -2"),
		"multipath":           on("0000:04:00.0", "30 1 259:9 / / rw - ext4 /dev/nvme9n1 rw", multipath("0000:04:00.0"), multipathDisk),
		"default route":       on("0000:06:00.0", "", "ROUTE=enp6s0	00000000	0102A8C0	0003	0	0	100	00000000	0	0	0"),
		"port of a bridge":    on("0000:06:00.0", "", "LINKS=/sys/class/net/enp6s0/master -> /sys/devices/virtual/net/br0"),
		"GPU's node open":     held("2000 cgroup=/system.slice/ollama.service open=/dev/nvidia0 ollama ollama serve"),
		"render node open":    held("2000 uid=1000 cgroup=/user.slice/user-1000.slice/session-2.scope open=/dev/dri/renderD129 mpv mpv"),
		"shared node open":    held("2000 cgroup=/system.slice/x.service open=/dev/nvidia-uvm x x"),
		"i2c adapter open":    held("2000 uid=1000 cgroup=/user.slice open=/dev/i2c-7 ddcutil x"),
		"mapping":             held("2000 cgroup=/system.slice/ollama.service maps=/dev/nvidia0 ollama ollama"),
		"session":             held("", "LOGIND=/dev/dri/card1", "DEVICES=226:1"),
		"more than there is":  load("zfs", "single-gpu"),
		"no such huge pages":  load("desktop-four", "gib"),
		"taken by a guest":    taken,
		"no function of that": on("0000:0a:00.0", ""),
	}
}

// taken is a card that another guest has.
func taken(t *testing.T) (*rig, *domain.Needs) {
	r := newRig(t, "fern")
	if err := r.prepare(loadNeeds(t, "demo")); err != nil {
		t.Fatal(err)
	}
	return r, loadNeeds(t, "win11")
}

// What cannot be seen keeps no reason from being one: whatever fails while the plan is made, a guest that is refused stays so.
func TestNoFaultAllows(t *testing.T) {
	var points, faults atomic.Int64
	for name, load := range refusedCases() {
		t.Run(name, func(t *testing.T) {
			r, n := load(t)
			plan := func(f *faulty) (*prepare.Plan, error) {
				h := r.loaded()
				h.FS = sysfs.FS{Kernel: faultyKernel{h.FS.Kernel, f}}
				h.Systemd = faultySystemd{h.Systemd, f}
				return prepare.NewPlan(context.Background(), h, n)
			}
			f := newFaulty(nil)
			if p, err := plan(f); err != nil || len(p.Refusals) == 0 {
				t.Fatalf("it is not refused, error %v", err)
			}
			points.Add(int64(len(f.order)))
			for i, o := range f.order {
				if o.n > 0 || i%everyNth != 0 {
					continue
				}
				for _, b := range faultsOf(o) {
					if b.how != ever || !mode.Long() && b.err != answers(o.kind)[0] {
						continue
					}
					faults.Add(1)
					if p, err := plan(newFaulty(&b)); err == nil && len(p.Refusals) == 0 && !p.Unseen {
						t.Errorf("%s: the guest is not refused any more", b)
					}
				}
			}
		})
	}
	t.Logf("%d operations, %d faults", points.Load(), faults.Load())
}
