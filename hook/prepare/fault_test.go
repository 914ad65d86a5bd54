package prepare_test

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/hook/release"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/systemd"
	"qemu-hook/test/mode"
)

// A faultCase is a host and a guest whose whole way is gone with something that fails.
type faultCase struct {
	name, host, domain string
	config             string
	pins               []string // of the guest's vCPUs, when it runs
	change             func(*rig, *domain.Needs)
}

// faultCases exercise every step and every kind of change.
func faultCases() []faultCase {
	return []faultCase{
		{name: "card", host: "fern", domain: "win11", config: "steps.interrupts = false\nsteps.kernel = false\n"},
		{
			name: "quiet", host: "fern", domain: "win11",
			config: "cpus.partition = true\ncpus.governor = \"performance\"\ncpus.resume_latency = \"20\"\n[steps]\nhugepages = false\npci = false\nquiesce = false\n" +
				"[tunables]\nvm.swappiness = 1\nvm.dirty_bytes = 100000000\nvm.stat_interval = 120\n\"/sys/kernel/mm/transparent_hugepage/enabled\" = \"never\"\n",
			pins: []string{"4", "5", "6-7"},
		},
		{
			name: "only card", host: "single-gpu", domain: "single-gpu",
			config: "services.stop = [\"gdm.service\"]\n",
			change: func(r *rig, _ *domain.Needs) {
				// The desktop is logged out.
				r.model.RemoveProcess(1866)
				r.model.Closes(611, "/dev/dri/card1")
				r.model.Remove("/run/systemd/sessions/3")
			},
		},
		{name: "second card", host: "desktop-four", domain: "desktop-four"},
		{name: "memory on nodes", host: "server", domain: "pages-only"},
	}
}

// A faultRun is a guest's way through its events.
type faultRun struct {
	*rig
	c     *faultCase
	n     *domain.Needs
	scope string
	said  []string // what the latest event warned of and logged
	// systemd makes a connection to the host's service manager; nil for the model itself.
	systemd func() systemd.Manager
}

// load makes the host of a case, on which the guest has run and gone once: what that leaves is not the program's.
func (c *faultCase) load(t *testing.T) *rig {
	r := newRig(t, c.host)
	if c.config != "" {
		r.configure(c.config)
	}
	n := loadNeeds(t, c.domain)
	if c.change != nil {
		c.change(r, n)
	}
	endGuest(r, n.Guest, runGuest(r, n.Guest, c.vcpus()...))
	return r
}

// vcpus are the pins of the guest's vCPUs, "" for one that has none.
func (c *faultCase) vcpus() []string {
	if c.pins == nil {
		return []string{""}
	}
	return c.pins
}

func (c *faultCase) run(t *testing.T, base *rig) *faultRun {
	r := &rig{t: t, model: base.model.Clone(), state: filepath.Join(t.TempDir(), "state"), config: base.config}
	t.Cleanup(func() { r.model.Close() })
	return &faultRun{rig: r, c: c, n: loadNeeds(t, c.domain)}
}

// event has an event handled with its operations seen by f, which may be nil.
func (r *faultRun) event(name string, f *faulty) error {
	r.said = nil
	h := r.host()
	h.Log = func(s hook.Severity, msg string) {
		if s <= hook.Warning {
			r.said = append(r.said, msg)
		}
	}
	if r.systemd != nil {
		h.Systemd = r.systemd()
		defer h.Systemd.Close()
	}
	if f != nil {
		h.FS = sysfs.FS{Kernel: faultyKernel{h.FS.Kernel, f}}
		h.Systemd = faultySystemd{h.Systemd, f}
	}
	ctx := context.Background()
	slow := func(*os.File) hook.SlowRunner { return hook.Inline{FS: h.FS} }
	return h.Locked(ctx, "test", slow, func() (err error) {
		switch name {
		case "prepare":
			var warnings []string
			warnings, err = prepare.Run(ctx, h, r.n, hook.Caller{ByHand: true})
			r.said = append(r.said, warnings...)
		case "started":
			err = h.Started(ctx, r.n.Guest.UUID, r.n.Guest.Name)
		case "reconnect":
			err = h.Reconnect(ctx, r.n.Guest.UUID, r.n.Guest.Name, hook.Caller{})
		case "release":
			err = release.Run(ctx, h, r.n.Guest.UUID, r.n.Guest.Name, false)
		}
		return err
	})
}

// must fails the test if an undisturbed event fails or warns.
func (r *faultRun) must(name string) {
	r.t.Helper()
	if err := r.event(name, nil); err != nil {
		r.t.Errorf("%s: %v", name, reasons(err))
	}
}

func (r *faultRun) begins() { r.scope = runGuest(r.rig, r.n.Guest, r.c.vcpus()...) }

func (r *faultRun) ends() {
	if r.scope != "" {
		endGuest(r.rig, r.n.Guest, r.scope)
		r.scope = ""
	}
}

// reasons is all that an error says.
func reasons(err error) string {
	var refusal *hook.Refusal
	if errors.As(err, &refusal) {
		return strings.Join(refusal.Reasons, "\n")
	}
	if err == nil {
		return ""
	}
	return err.Error()
}

// faultEvents are the events during which something fails, with those before them.
func faultEvents() []string { return []string{"prepare", "started", "reconnect", "release"} }

// upTo goes the guest's way to an event.
func (r *faultRun) upTo(event string) {
	r.t.Helper()
	for _, e := range faultEvents() {
		if e == "started" {
			r.begins()
		}
		if e == event {
			break
		}
		r.must(e)
	}
	if event == "release" {
		r.ends()
	}
}

// An undisturbed is what a guest's way comes to without faults.
type undisturbed struct {
	before     *sysfstest.Snapshot
	after      map[string]*sysfstest.Snapshot // an event
	until      map[string]*sysfstest.Snapshot // the moment before it
	operations map[string][]operation
}

func (c *faultCase) undisturbed(t *testing.T, base *rig) *undisturbed {
	u := &undisturbed{
		before: base.snapshot(), after: map[string]*sysfstest.Snapshot{}, until: map[string]*sysfstest.Snapshot{},
		operations: map[string][]operation{},
	}
	synctest.Test(t, func(t *testing.T) {
		r := c.run(t, base)
		for _, e := range faultEvents() {
			switch e {
			case "started":
				r.begins()
			case "release":
				r.ends()
			}
			u.until[e] = r.snapshot()
			f := newFaulty(nil)
			if err := r.event(e, f); err != nil {
				t.Fatalf("%s: %v", e, reasons(err))
			}
			for _, s := range r.said {
				t.Logf("%s: %s", e, s)
			}
			u.after[e], u.operations[e] = r.snapshot(), f.order
		}
		r.wantAsBefore(u.before, "undisturbed")
	})
	return u
}

// like is an operation's path without what is one of many: interrupts, CPUs, processes, and which use of the path it is.
func like(o operation) string {
	p := regexp.MustCompile(`/irq/\d+|/cpu\d+|/policy\d+|/proc/\d+|thread \d+|/task/\d+|/node\d+|[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]`).
		ReplaceAllStringFunc(o.path, func(s string) string { return strings.TrimRight(s, "0123456789") })
	return string(o.kind) + " " + p
}

// some chooses among operations and their faults: of those that are alike the first and the last in turn, and for each one
// fault in each way, in turn too.
func some(operations []operation, turn *int) (all []fault) {
	at := map[string][]operation{}
	var kinds []string
	for _, o := range operations {
		if at[like(o)] == nil {
			kinds = append(kinds, like(o))
		}
		at[like(o)] = append(at[like(o)], o)
	}
	for _, kind := range kinds {
		o := at[kind][*turn%2*(len(at[kind])-1)]
		byWay := map[failing][]fault{}
		for _, f := range faultsOf(o) {
			byWay[f.how] = append(byWay[f.how], f)
		}
		for _, how := range []failing{once, ever, late, short, hangs} {
			if n := len(byWay[how]); n > 0 {
				all = append(all, byWay[how][*turn%n])
				*turn++
			}
		}
	}
	return all
}

// every is all faults of the first four of operations that are alike, and of the last.
func every(operations []operation) (all []fault) {
	seen := map[string]int{}
	last := map[string]int{}
	for i, o := range operations {
		last[like(o)] = i
	}
	for i, o := range operations {
		if seen[like(o)]++; seen[like(o)] <= 4 || last[like(o)] == i {
			all = append(all, faultsOf(o)...)
		}
	}
	return all
}

// Every operation of the program's fails once in every way.
func TestEveryFault(t *testing.T) {
	long := mode.Long()
	var points, faults atomic.Int64
	turn := 0
	for _, c := range faultCases() {
		t.Run(c.name, func(t *testing.T) {
			base := c.load(t)
			u := c.undisturbed(t, base)
			for _, event := range faultEvents() {
				t.Run(event, func(t *testing.T) {
					operations := u.operations[event]
					chosen := some(operations, &turn)
					if long {
						chosen = every(operations)
					}
					points.Add(int64(len(operations)))
					tried := (len(chosen) + everyNth - 1) / everyNth
					faults.Add(int64(tried))
					t.Logf("%d operations, %d faults", len(operations), tried)
					for i, f := range chosen {
						if i%everyNth != 0 {
							continue
						}
						t.Run(f.String(), func(t *testing.T) {
							synctest.Test(t, func(t *testing.T) { c.disturbed(t, base, u, event, f) })
						})
					}
				})
			}
		})
	}
	t.Logf("%d operations, %d faults", points.Load(), faults.Load())
}

// disturbed goes a guest's way with one fault in it, and checks what is promised.
func (c *faultCase) disturbed(t *testing.T, base *rig, u *undisturbed, event string, b fault) {
	r := c.run(t, base)
	r.upTo(event)
	f := newFaulty(&b)
	err := r.event(event, f)
	said := reasons(err) + "\n" + strings.Join(r.said, "\n")
	switch {
	case f.hit == 0:
		t.Errorf("there was no such operation; %v", err)
	case err != nil && !names(said, b.operation):
		t.Errorf("the error does not name the path: %s", said)
	}
	switch event {
	case "prepare":
		r.wantWhole(u, b, err, said)
	case "started", "reconnect":
		r.wantBetween(u, event, b)
	case "release":
		r.wantTheRest(u, b, err)
	}
	close(f.freed)
	synctest.Wait()
	r.ends()
	if b.how == hangs && (b.kind == opWrite || b.kind == opUnload || b.kind == opRun && strings.Contains(b.path, "modprobe")) {
		return // what is stuck is stuck until a reboot
	}
	if event == "release" && err == nil {
		r.compare(u.before, b, "after the release that succeeded")
		r.wantNothingOnRecord("after the release that succeeded")
		return
	}
	r.must("release")
	r.compare(u.before, b, "after the next release")
	r.wantNothingOnRecord("after the next release")
}

// names reports whether a text names what an operation was on.
func names(text string, o operation) bool {
	if process, ok := strings.CutPrefix(o.path, "/proc/"); ok {
		pid, _, _ := strings.Cut(process, "/")
		// Whose open files cannot be seen need not be told: it is all that SELinux hides.
		if strings.Contains(text, "process "+pid) || strings.Contains(text, "the open files of some processes are not to be seen") {
			return true
		}
	}
	for word := range strings.FieldsSeq(o.path) {
		if strings.Contains(text, path.Base(word)) {
			return true
		}
	}
	return false
}

// refusal reports whether a fault is how the kernel says that something cannot be moved, by anybody: no failure.
func refusal(b fault) bool {
	switch {
	case b.kind == opMove:
		return errors.Is(b.err, syscall.EINVAL)
	case b.kind == opWrite && strings.HasSuffix(b.path, "/smp_affinity_list"):
		return errors.Is(b.err, syscall.EIO) || errors.Is(b.err, syscall.EPERM) || errors.Is(b.err, syscall.ENOSPC)
	}
	return false
}

// diff says how the host differs from what it should be, but for what an answer said is not there any more, and what the
// kernel may refuse to move.
func (r *faultRun) diff(want *sysfstest.Snapshot, b fault) string {
	now := r.snapshot()
	if b.kind == opWrite && (errors.Is(b.err, syscall.ENOENT) || errors.Is(b.err, syscall.ENODEV)) || refusal(b) {
		name := b.path
		if strings.HasPrefix(name, "/proc/irq/") && !strings.HasSuffix(name, "default_smp_affinity") {
			name = path.Dir(name)
		}
		if strings.Contains(name, "/vtcon") {
			name = "/sys/devices/virtual/vtconsole" // which of them the console is on
		}
		if pid, ok := strings.CutPrefix(name, "thread "); ok {
			name = "/proc/" + pid
		}
		if at, err := r.model.FS().ResolveLinks(name); err == nil {
			name = at
		}
		want, now = want.Without(name), now.Without(name)
	}
	return sysfstest.Diff(want, now)
}

func (r *faultRun) compare(want *sysfstest.Snapshot, b fault, when string) {
	r.t.Helper()
	if diff := r.diff(want, b); diff != "" {
		r.t.Errorf("%s the host is not as it should be:\n%s", when, diff)
	}
}

// wantWhole checks a prepare.
func (r *faultRun) wantWhole(u *undisturbed, b fault, err error, said string) {
	r.t.Helper()
	if err != nil {
		if b.how == once || b.how == short || b.how == late {
			r.compare(u.before, b, "after the prepare that failed")
			r.wantNothingOnRecord("after the prepare that failed")
		}
		return
	}
	diff := r.diff(u.after["prepare"], b)
	for line := range strings.Lines(diff) {
		if !soft(line) || !names(said, b.operation) {
			r.t.Errorf("prepare succeeded, and the host is not prepared: %sit says %s", line, said)
			break
		}
	}
}

// soft reports whether a difference is in what a guest runs without.
func soft(line string) bool {
	for _, p := range []string{
		"… and ", // what there is no room for
		"/proc/irq/", "/workqueue/", "watchdog_cpumask", "/cpufreq/", "pm_qos_resume_latency_us", "/sys/fs/cgroup/", "/run/systemd/system.control",
		"/run/systemd/transient", "/proc/sys/vm/", "transparent_hugepage", "(AllowedCPUs)", "/status: content",
	} {
		if strings.Contains(line, p) {
			return true
		}
	}
	return false
}

// wantBetween checks that nothing is other than it was before the event or is after an undisturbed one.
func (r *faultRun) wantBetween(u *undisturbed, event string, b fault) {
	r.t.Helper()
	now := r.snapshot()
	old := map[string]bool{}
	for line := range strings.Lines(sysfstest.Diff(u.until[event], now)) {
		old[differs(line)] = true
	}
	for line := range strings.Lines(sysfstest.Diff(u.after[event], now)) {
		if old[differs(line)] && !soft(line) {
			r.t.Errorf("%s leaves neither what was nor what should be: %s", event, line)
		}
	}
}

// differs is the file that a line of a difference is about.
func differs(line string) string {
	name, _, _ := strings.Cut(line[2:], ": ")
	return name
}

// wantTheRest checks a release.
func (r *faultRun) wantTheRest(u *undisturbed, b fault, err error) {
	r.t.Helper()
	if err == nil {
		return // the whole of it is compared
	}
	failed, function := area(b.path)
	for line := range strings.Lines(r.diff(u.before, b)) {
		if strings.HasPrefix(line, "… and ") {
			continue // there is no room for all
		}
		a, f := area(differs(line))
		if a == "" || failed == "" || a == failed && (f == "" || function == "" || f == function) || slices.Contains(dependents(failed), a) {
			continue
		}
		r.t.Errorf("release leaves what does not depend on what failed (%s): %s", failed, line)
	}
}

// dependents are the parts of the host that are not given back where another is not.
func dependents(area string) []string {
	switch area {
	case "topology":
		return []string{"cpus", "interrupts", "kernel", "frequency", "processes"}
	case "cpus", "kernel", "units":
		return []string{"processes"}
	case "card":
		return []string{"interrupts"} // of its driver's
	}
	return nil
}

// area is the part of the host that a path belongs to, "" for all of it; and the PCI function, if it is one's.
func area(name string) (area, function string) {
	if a := regexp.MustCompile(`[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]`).FindAllString(name, -1); a != nil {
		return "card", a[len(a)-1]
	}
	for _, a := range [][2]string{
		{"modprobe", "card"},
		{"/proc/irq", "interrupts"},
		{"/workqueue/", "kernel"},
		{"watchdog_cpumask", "kernel"},
		{"thread ", "kernel"},
		{"/cpufreq/", "frequency"},
		{"pm_qos_resume", "frequency"},
		{"/devices/system/cpu/", "topology"},
		{"has_cpu", "topology"},
		{"/cpulist", "topology"},
		{"/sys/fs/cgroup", "cpus"},
		{"/run/systemd/", "cpus"},
		{".slice", "cpus"},
		{"init.scope", "cpus"},
		{"hugepages", "hugepages"},
		{"/proc/sys/vm/", "tunables"},
		{"transparent_hugepage", "tunables"},
		{"/dev/shm", "shm"},
		{"vtcon", "console"},
		{"/platform/", "console"},
		{".service", "units"},
		{"/run/libvirt", ""}, // whether it runs still
		{"cmdline", ""},
		{"/proc/devices", "card"},
		{"/proc/driver", "card"},
		{"/proc/", "processes"},
		{"/dev/", "card"},
		{"/sys/bus/pci/", "card"},
		{"/sys/module/", "card"},
		{"/sys/class/", "card"},
	} {
		if strings.Contains(name, a[0]) {
			return a[1], ""
		}
	}
	return name, ""
}
