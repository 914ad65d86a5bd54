package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"qemu-hook/cpuset"
	"qemu-hook/hook"
	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/sysfs/sysfstest/fusetest"
	"qemu-hook/systemd/systemdtest"
	"qemu-hook/test/mode"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"qemu-hook": main})
}

// TestScript runs the program's main as people and libvirt do. Beside testscript's own commands there are:
//
//	host NAME               mount a host of testdata/hosts as $ROOT, with systemd on $DBUS_SYSTEM_BUS_ADDRESS
//	nobus                   take systemd's bus away
//	exits STATUS PROGRAM…   run a program that ends with just this status
//	as-user PROGRAM…        run a program as an ordinary user; it must succeed (or fail, with !)
//	remember                the host as it is now, and …
//	[!] unchanged           … whether it is so again, with nothing on record
//	short                   stderr's last line is what libvirt has room for, and a whole sentence
func TestScript(t *testing.T) {
	testscript.RunT(scriptT{t}, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: setUpScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"host": scriptHost, "nobus": scriptNoBus, "exits": scriptExits, "as-user": scriptAsUser,
			"remember": scriptRemember, "unchanged": scriptUnchanged, "short": scriptShort,
		},
	})
}

// scriptT gives commands of a script the test they run in.
type scriptT struct{ *testing.T }

func (t scriptT) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(scriptT{t}) })
}

func (scriptT) Verbose() bool { return testing.Verbose() }

// scriptState is what the commands of one script share.
type scriptState struct {
	t      *testing.T
	model  *sysfstest.Host
	before *sysfstest.Snapshot
	bus    *scriptBus
}

type stateKey struct{}

func stateOf(ts *testscript.TestScript) *scriptState { return ts.Value(stateKey{}).(*scriptState) }

func setUpScript(env *testscript.Env) error {
	env.Values[stateKey{}] = &scriptState{t: env.T().(scriptT).T}
	domains, err := filepath.Abs("../../testdata/domains")
	if err != nil {
		return err
	}
	env.Setenv("DOMAINS", domains)
	// No script reaches the bus of the machine it runs on.
	env.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(env.WorkDir, "no-bus"))
	// An ordinary user must get at the program and at a place for temporary files.
	program, err := exec.LookPath("qemu-hook")
	if err != nil {
		return err
	}
	return errors.Join(
		os.Chmod(filepath.Dir(filepath.Dir(program)), 0o755),
		os.Chmod(filepath.Dir(env.WorkDir), 0o755),
		os.Chmod(env.WorkDir, 0o755),
		os.Chmod(env.Getenv("TMPDIR"), 0o1777),
	)
}

// scriptBus is systemd until it goes.
type scriptBus struct {
	*sysfstest.Systemd
	mu   sync.Mutex
	gone bool
}

var errGone = errors.New("systemd is gone")

func (b *scriptBus) err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return errGone
	}
	return nil
}

func (b *scriptBus) AllowedCPUs(ctx context.Context, unit string) (cpuset.Set, error) {
	if err := b.err(); err != nil {
		return cpuset.Set{}, err
	}
	return b.Systemd.AllowedCPUs(ctx, unit)
}

func (b *scriptBus) SetAllowedCPUs(ctx context.Context, unit string, cpus cpuset.Set) error {
	if err := b.err(); err != nil {
		return err
	}
	return b.Systemd.SetAllowedCPUs(ctx, unit, cpus)
}

func scriptHost(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: host NAME")
	}
	s := stateOf(ts)
	model, err := sysfstest.Load(filepath.Join(ts.Getenv("DOMAINS"), "../hosts", args[0]+".txtar"))
	ts.Check(err)
	s.model = model
	s.bus = &scriptBus{Systemd: model.Systemd()}
	ts.Setenv("DBUS_SYSTEM_BUS_ADDRESS", systemdtest.Serve(s.t, s.bus))
	ts.Setenv("ROOT", fusetest.Mount(s.t, model))
}

func scriptNoBus(ts *testscript.TestScript, neg bool, _ []string) {
	s := stateOf(ts)
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	s.bus.gone = !neg
}

func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS PROGRAM…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func scriptAsUser(ts *testscript.TestScript, neg bool, args []string) {
	if os.Geteuid() == 0 {
		if _, err := exec.LookPath("setpriv"); err != nil {
			mode.Lacking(stateOf(ts).t, "setpriv is missing: %v", err)
		}
		const nobody = "65534"
		args = append([]string{"setpriv", "--reuid", nobody, "--regid", nobody, "--clear-groups", "--"}, args...)
	}
	if err := ts.Exec(args[0], args[1:]...); (err != nil) != neg {
		ts.Fatalf("as an ordinary user: %v", err)
	}
}

// tree is the host without the program's records and without what a loaded vfio module leaves.
func (s *scriptState) tree() *sysfstest.Snapshot {
	return s.model.Snapshot().Without(stateDir, "/etc/qemu-hook", "/sys/module", "/proc/modules", "/sys/bus/pci/drivers/vfio-pci", "/dev/vfio")
}

func scriptRemember(ts *testscript.TestScript, _ bool, _ []string) {
	s := stateOf(ts)
	s.before = s.tree()
}

func scriptUnchanged(ts *testscript.TestScript, neg bool, _ []string) {
	s := stateOf(ts)
	diff := sysfstest.Diff(s.before, s.tree())
	names, err := s.model.FS().ReadDir(stateDir)
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		ts.Fatalf("%v", err)
	}
	for _, name := range names {
		if name != "lock" && name != hook.RefusalsDocument && name != hook.ReportsRing {
			diff += "\nstill on record: " + name
		}
	}
	if (diff != "") != neg {
		ts.Fatalf("the host's difference:\n%s", diff)
	}
}

func scriptShort(ts *testscript.TestScript, _ bool, _ []string) {
	lines := strings.Split(strings.TrimSuffix(ts.ReadFile("stderr"), "\n"), "\n")
	last := lines[len(lines)-1]
	if len(last) == 0 || len(last) > 200 {
		ts.Fatalf("the last line has %d bytes, want 1 to 200: %s", len(last), last)
	}
	if strings.Count(last, "(") != strings.Count(last, ")") || strings.Count(last, `"`)%2 != 0 || strings.HasSuffix(last, ":") || strings.HasSuffix(last, ",") {
		ts.Fatalf("the last line is no whole sentence: %s", last)
	}
}

// TestHooks has the program read hooks of the kinds that people have: what import makes of each tree, and what check says
// of it. The trees are the scripts' own folder, $WORK, which is a host without anything else. Beside the commands of
// [TestScript] there is:
//
//	accepted FILE   the file is a configuration without mistakes
func TestHooks(t *testing.T) {
	trees, err := filepath.Glob("testdata/hooks/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d trees of hooks", len(trees))
	if len(trees) < 20 {
		t.Errorf("%d trees of hooks, want 20", len(trees))
	}
	testscript.RunT(scriptT{t}, testscript.Params{
		Dir: "testdata/hooks", RequireExplicitExec: true, RequireUniqueNames: true, UpdateScripts: os.Getenv("QEMU_HOOK_UPDATE") != "",
		Setup: func(env *testscript.Env) error {
			boot := filepath.Join(env.WorkDir, "proc/sys/kernel/random")
			return errors.Join(setUpScript(env), os.MkdirAll(boot, 0o755), os.WriteFile(filepath.Join(boot, "boot_id"), []byte("of-the-test\n"), 0o644))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"host": scriptHost, "exits": scriptExits, "as-user": scriptAsUser, "accepted": scriptAccepted,
		},
	})
}

func scriptAccepted(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: accepted FILE")
	}
	_, err := hook.ParseConfig(args[0], []byte(ts.ReadFile(args[0])))
	ts.Check(err)
}
