package test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/sysfs/sysfstest/fusetest"
	"qemu-hook/systemd"
	"qemu-hook/systemd/systemdtest"
)

// callTimeout ends a call of the program that hangs.
const callTimeout = 3 * time.Minute

// loadHost reads a host of testdata.
func loadHost(t testing.TB, name string) *sysfstest.Host {
	t.Helper()
	h, err := sysfstest.Load(filepath.Join("../testdata/hosts", name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// A bus is a system bus on which whatever service manager it is pointed at answers.
type bus struct {
	address string
	mu      sync.Mutex
	manager systemd.Manager
}

func newBus(t testing.TB) *bus {
	b := &bus{}
	b.address = systemdtest.Serve(t, b)
	return b
}

func (b *bus) point(m systemd.Manager) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.manager = m
}

func (b *bus) UnitRuns(ctx context.Context, unit string) (bool, error) {
	return b.now().UnitRuns(ctx, unit)
}

func (b *bus) StopUnit(ctx context.Context, unit string) error { return b.now().StopUnit(ctx, unit) }

func (b *bus) StartUnit(ctx context.Context, unit string) error { return b.now().StartUnit(ctx, unit) }
func (b *bus) Stopping(ctx context.Context) (bool, error)       { return b.now().Stopping(ctx) }
func (b *bus) EndSession(ctx context.Context, id string) error  { return b.now().EndSession(ctx, id) }

func (b *bus) now() systemd.Manager {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.manager
}

func (b *bus) AllowedCPUs(ctx context.Context, unit string) (cpuset.Set, error) {
	return b.now().AllowedCPUs(ctx, unit)
}

func (b *bus) SetAllowedCPUs(ctx context.Context, unit string, cpus cpuset.Set) error {
	return b.now().SetAllowedCPUs(ctx, unit, cpus)
}

func (b *bus) StartTransient(ctx context.Context, u systemd.Transient) error {
	return b.now().StartTransient(ctx, u)
}

func (b *bus) Inhibit(ctx context.Context, what, who, why string) (io.Closer, error) {
	return b.now().Inhibit(ctx, what, who, why)
}

func (*bus) Close() {}

// A box is a model of a host with the real program on it.
type box struct {
	t     testing.TB
	model *sysfstest.Host
	root  string
	bus   string   // address
	wrap  []string // a program with arguments that runs the program

	mu   sync.Mutex
	last *call
}

// newBox mounts the host. The bus may be nil.
func newBox(t testing.TB, model *sysfstest.Host, b *bus) *box {
	t.Helper()
	x := &box{t: t, model: model, root: fusetest.Mount(t, model), bus: "unix:path=/nonexistent"}
	if b != nil {
		b.point(model.Systemd())
		x.bus = b.address
	}
	return x
}

// A call is one run of the program.
type call struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	cancel         context.CancelFunc
	dead           chan struct{} // closed when it ended and its pipes did
	err            error
}

// start runs the program with the host as its root.
func (x *box) start(stdin []byte, args ...string) *call {
	x.t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	c := &call{cancel: cancel, dead: make(chan struct{})}
	argv := slices.Concat(x.wrap, []string{program(x.t), "--root", x.root}, args)
	c.cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.cmd.Dir = "/"
	c.cmd.Env = []string{"LC_ALL=C", "PATH=/usr/bin", "DBUS_SYSTEM_BUS_ADDRESS=" + x.bus}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = bytes.NewReader(stdin), &c.stdout, &c.stderr
	if err := c.cmd.Start(); err != nil {
		x.t.Fatal(err)
	}
	x.last = c
	go func() {
		c.err = c.cmd.Wait()
		cancel()
		close(c.dead)
	}()
	return c
}

// wait returns how the call ended; -1 is a signal.
func (x *box) wait(c *call) int {
	x.t.Helper()
	<-c.dead
	status, err := exitStatus(c.err)
	if err != nil {
		x.t.Errorf("%v: %v", c.cmd.Args, err)
	}
	return status
}

// running is the latest call.
func (x *box) running() *call {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.last
}

// libvirt calls the program as libvirt does, and fails the test if it says anything on stdout.
func (x *box) libvirt(g guest, op string) (status int, stderr string) {
	x.t.Helper()
	c := x.start(g.xml, g.event(op)...)
	status = x.wait(c)
	if c.stdout.Len() > 0 {
		x.t.Errorf("%s: stdout, which libvirt would take for a domain, has %q", op, c.stdout.String())
	}
	return status, c.stderr.String()
}

// person runs a command as a person does.
func (x *box) person(args ...string) (status int, stdout, stderr string) {
	x.t.Helper()
	c := x.start(nil, args...)
	status = x.wait(c)
	return status, c.stdout.String(), c.stderr.String()
}

// mustDo fails the test if libvirt's call does not succeed.
func (x *box) mustDo(g guest, op string) {
	x.t.Helper()
	if status, stderr := x.libvirt(g, op); status != 0 {
		x.t.Errorf("%s of %s ended with %d: %s", op, g.name, status, stderr)
	}
}

// A guest is a domain of testdata.
type guest struct {
	name, uuid string
	xml        []byte
}

func loadGuest(t testing.TB, file string) guest {
	t.Helper()
	xml := domainXML(t, file)
	n, err := domain.Parse(bytes.NewReader(xml))
	if err != nil {
		t.Fatal(err)
	}
	return guest{n.Guest.Name, n.Guest.UUID, xml}
}

// event is libvirt's call for an operation.
func (g guest) event(op string) []string {
	sub, extra := "begin", "-"
	switch op {
	case "stopped":
		sub = "end"
	case "release":
		sub, extra = "end", "shutdown"
	}
	return []string{g.name, op, sub, extra}
}

// Where the program keeps its records and has its configuration, under the root.
const (
	stateDir  = "/run/qemu-hook"
	configDir = "/etc/qemu-hook" // which tests write to
)

// snapshot is the host's tree without the program's records, and without what a loaded vfio module leaves: modules
// stay, as they do with libvirt.
func (x *box) snapshot() *sysfstest.Snapshot {
	return x.model.Snapshot().Without(stateDir, configDir, "/sys/module", "/proc/modules", "/sys/bus/pci/drivers/vfio-pci", "/dev/vfio")
}

// differs says how the host differs from what it was, records included; "" if it does not.
func (x *box) differs(before *sysfstest.Snapshot) string {
	x.t.Helper()
	lines := []string{}
	if diff := sysfstest.Diff(before, x.snapshot()); diff != "" {
		lines = append(lines, diff)
	}
	if left := x.onRecord(); left != "" {
		lines = append(lines, "still on record: "+left)
	}
	return strings.Join(lines, "\n")
}

// onRecord is what the program has on record, "" if nothing.
func (x *box) onRecord() string {
	x.t.Helper()
	// Not through the mount: a process that waits for a file system of its own may wait for itself.
	fs := x.model.FS()
	names, err := fs.ReadDir(stateDir)
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		x.t.Fatal(err)
	}
	var files []string
	for _, name := range names {
		if name != "lock" && name != hook.RefusalsDocument && name != hook.ReportsRing {
			b, _ := fs.ReadFile(stateDir + "/" + name)
			files = append(files, name+": "+string(b))
		}
	}
	return strings.Join(files, "\n")
}

// writeConfig gives the host a configuration.
func (x *box) writeConfig(text string) {
	x.t.Helper()
	v := x.model.VFS()
	dir, err := v.Walk(configDir, true)
	if err != nil {
		etc, werr := v.Walk("/etc", true)
		if werr != nil {
			x.t.Fatal(werr)
		}
		if dir, err = v.Mkdir(etc, configDir, 0o755, 0, 0, 0); err != nil {
			x.t.Fatal(err)
		}
	}
	const name = configDir + "/config.toml"
	n, err := v.Create(dir, name, 0o644, 0, 0, 0)
	if err == nil {
		err = v.Write(n, name, 0, []byte(text), 0)
	}
	if err != nil {
		x.t.Fatal(err)
	}
}
