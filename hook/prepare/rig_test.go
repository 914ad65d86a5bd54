package prepare_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/hook/release"
	"qemu-hook/journal"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// pairs are the domains on the hosts where they make sense, and some where they are refused.
func pairs() [][2]string {
	return [][2]string{
		{"fern", "win11"},
		{"fern", "demo"},
		{"fern", "decimal"},
		{"fern", "spaces"},
		{"fern", "dash"},
		{"fern", "nopins"},
		{"fern", "allpins"},
		{"fern", "shmem-sizes"},
		{"fern", "shmem-128"},
		{"fern", "cmdline"},
		{"fern", "devices"},
		{"fern", "metadata"},
		{"fern", "pages-only"},
		{"fern", "nothing"},
		{"fern", "gib"},
		{"fern-vfio", "win11"},
		{"fern-vfio", "demo"},
		{"desktop-four", "desktop-four"},
		{"desktop-four", "pages-only"},
		{"single-gpu", "single-gpu"},
		{"server", "gib"},
		{"server", "pages-only"},
		{"sparse", "sparse"},
		{"no-iommu", "win11"},
		{"no-iommu", "single-gpu"},
		{"zfs", "pages-only"},
		{"zfs", "single-gpu"},
	}
}

// A rig is a model of a host and what the program keeps beside it.
type rig struct {
	t      *testing.T
	model  *sysfstest.Host
	state  string
	config *hook.Config
	stale  sysfstest.Stale
	inline bool                            // slow writes have deadlines, as in the program's worker
	door   func(sysfs.Kernel) sysfs.Kernel // what the program sees the host through; nil for the model itself
	boot   string                          // where it is not the first one

	confined bool // as under the unit that recovers
}

func newRig(t *testing.T, host string) *rig {
	t.Helper()
	model, err := sysfstest.Load(filepath.Join("../../testdata/hosts", host+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { model.Close() })
	return &rig{t: t, model: model, state: filepath.Join(t.TempDir(), "state"), config: hook.DefaultConfig()}
}

func loadNeeds(t *testing.T, name string) *domain.Needs {
	t.Helper()
	f, err := os.Open(filepath.Join("../../testdata/domains", name+".xml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := domain.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// clone returns a rig on a copy of the host, with nothing on record.
func (r *rig) clone() *rig {
	r.t.Helper()
	c := &rig{t: r.t, model: r.model.Clone(), state: filepath.Join(r.t.TempDir(), "state"), config: r.config}
	r.t.Cleanup(func() { c.model.Close() })
	return c
}

// host returns the host as a new process sees it.
func (r *rig) host() *hook.Host {
	systemd := r.model.Systemd()
	systemd.Stale = r.stale
	fs := r.model.FS()
	if r.door != nil {
		fs = sysfs.FS{Kernel: r.door(fs.Kernel)}
	}
	return &hook.Host{
		FS: fs, Systemd: systemd, State: r.journal(), Config: r.config,
		Ledger: &hook.Ledger{Guests: map[string]*hook.Guest{}}, Now: time.Now, Confined: r.confined,
	}
}

// loaded is host, with what is on record.
func (r *rig) loaded() *hook.Host {
	r.t.Helper()
	h := r.host()
	if err := h.LoadLedger(); err != nil {
		r.t.Fatal(err)
	}
	return h
}

func (r *rig) journal() *journal.Dir { return journal.Open(r.state, "boot"+r.boot) }

func (r *rig) locked(f func(h *hook.Host) error) error {
	h := r.host()
	slow := func(*os.File) hook.SlowRunner {
		if r.inline {
			return hook.Inline{FS: h.FS}
		}
		return direct{h.FS}
	}
	return h.Locked(context.Background(), "test", slow, func() error { return f(h) })
}

func (r *rig) prepare(n *domain.Needs) error {
	return r.locked(func(h *hook.Host) error {
		_, err := prepare.Run(context.Background(), h, n, hook.Caller{ByHand: true})
		return err
	})
}

func (r *rig) release(n *domain.Needs) error {
	return r.locked(func(h *hook.Host) error {
		return release.Run(context.Background(), h, n.Guest.UUID, n.Guest.Name, false)
	})
}

// direct writes in the calling goroutine, so that a panic in it reaches the test.
type direct struct{ fs sysfs.FS }

func (d direct) Run(ctx context.Context, t hook.SlowTask) error { return t.Do(ctx, d.fs) }

func (direct) Close() {}

// errKilled is the panic by which a test ends the program at a change, as a kill would: nothing is cleaned up.
var errKilled = errors.New("killed")

// killed runs f, which a panic with errKilled may end, and reports whether it did.
func killed(f func()) (died bool) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case errKilled:
			died = true
		default:
			panic(p)
		}
	}()
	f()
	return false
}

// snapshot is the host's tree without what a loaded vfio module leaves: modules stay, as they do with libvirt.
func (r *rig) snapshot() *sysfstest.Snapshot {
	return r.model.Snapshot().Without("/sys/module/vfio", "/sys/module/vfio_pci", "/sys/module/vfio_pci_core",
		"/sys/module/vfio_iommu_type1", "/sys/bus/pci/drivers/vfio-pci", "/dev/vfio")
}

// wantAsBefore fails unless the host is as it was and no guest is on record.
func (r *rig) wantAsBefore(before *sysfstest.Snapshot, when string) {
	r.t.Helper()
	if diff := sysfstest.Diff(before, r.snapshot()); diff != "" {
		r.t.Errorf("%s: the host is not as before:\n%s", when, diff)
	}
	r.wantNothingOnRecord(when)
}

func (r *rig) wantNothingOnRecord(when string) {
	r.t.Helper()
	entries, err := os.ReadDir(r.state)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "lock" && e.Name() != hook.RefusalsDocument && e.Name() != hook.ReportsRing {
			b, _ := os.ReadFile(filepath.Join(r.state, e.Name()))
			r.t.Errorf("%s: still on record: %s: %s", when, e.Name(), b)
		}
	}
}

// wantReason wants one of the reasons to say something.
func wantReason(t *testing.T, reasons []string, says string) {
	t.Helper()
	if !slices.ContainsFunc(reasons, func(r string) bool { return strings.Contains(r, says) }) {
		t.Errorf("no reason says %q:\n%s", says, strings.Join(reasons, "\n"))
	}
}
