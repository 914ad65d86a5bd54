package test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"qemu-hook/cpuset"
	"qemu-hook/sysfs/sysfstest"
)

// A life is one guest's on a host, with libvirt's daemon and QEMU as far as the program looks for them.
type life struct {
	*box
	g       guest
	gone    []string            // what the host does not get back
	before  *sysfstest.Snapshot // all of it
	same    *sysfstest.Snapshot // while the guest runs; nil if that is of no interest
	systemd bool
}

const lifeQEMU = 94711 // process

func newLife(t testing.TB, p pair, b *bus) *life {
	t.Helper()
	l := &life{box: p.box(t, b), g: p.guest(t), gone: p.gone}
	l.systemd = l.model.FS().Exists("/run/systemd/system")
	// Directories that stay are there before.
	l.begins()
	l.ends()
	l.before = l.snapshot()
	// The program's parent is libvirt's daemon, which owes the guest a release.
	l.model.AddProcess(sysfstest.Process{PID: os.Getpid(), Comm: "libvirtd", Cmdline: []string{"libvirtd"}, Cgroup: "/"})
	return l
}

func (l *life) scope() string {
	return "/machine.slice/machine-qemu\\x2d1\\x2d" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, l.g.name) + ".scope"
}

func (l *life) pidFile() string { return "/run/libvirt/qemu/" + l.g.name + ".pid" }

// begins has QEMU start, ends has it end.
func (l *life) begins() {
	cgroup := "/"
	if l.systemd {
		cgroup = l.scope() + "/libvirt/emulator"
		l.model.AddCgroup(cgroup)
		l.model.AddCgroup(l.scope() + "/libvirt/vcpu0")
		l.pin()
	}
	l.model.SetFile(l.pidFile(), fmt.Sprint(lifeQEMU))
	l.model.AddProcess(sysfstest.Process{
		PID: lifeQEMU, Comm: "qemu-system-x86", Cmdline: []string{"/usr/bin/qemu-system-x86_64", "-uuid", l.g.uuid}, Cgroup: cgroup,
	})
}

// pin gives the first vCPU a CPU to itself, as libvirt does where the controller is there.
func (l *life) pin() {
	fs := l.model.FS()
	for _, group := range []string{"", "/machine.slice", l.scope(), l.scope() + "/libvirt"} {
		_ = fs.Write("/sys/fs/cgroup"+group+"/cgroup.subtree_control", "+cpuset")
	}
	_ = fs.Write("/sys/fs/cgroup"+l.scope()+"/libvirt/vcpu0/cpuset.cpus", "4")
}

func (l *life) ends() {
	l.model.RemoveProcess(lifeQEMU)
	l.model.Remove(l.pidFile())
	if l.systemd {
		l.model.RemoveCgroup(l.scope())
	}
}

// do goes through a life: libvirt's calls by their name and, of what else happens,
//
//	begins, ends   QEMU
//	drifts         somebody gives a slice of the host all CPUs
//	orphaned       libvirt's daemon is gone, and owes nothing any more
//	recover        as the unit at the daemon's start does it
//	recover NAME   as a person does it
//	same           all is as it is while the guest runs
func (l *life) do(steps ...string) {
	l.t.Helper()
	for _, step := range steps {
		switch step {
		case "begins":
			l.begins()
		case "ends":
			l.ends()
		case "drifts":
			if l.model.FS().Exists(dropIn("system.slice")) {
				if err := l.model.Systemd().SetAllowedCPUs(context.Background(), "system.slice", cpuset.Set{}); err != nil {
					l.t.Error(err)
				}
			}
		case "orphaned":
			l.model.RemoveProcess(os.Getpid())
		case "same":
			if diff := sysfstest.Diff(l.same, l.snapshot()); diff != "" {
				l.t.Errorf("the guest runs on a host that is different:\n%s", diff)
			}
		case "recover NAME":
			args := []string{"recover", "--", l.g.name} // which may begin with a dash
			if !strings.Contains(l.onRecord(), fmt.Sprintf(`"name":%q`, l.g.name)) {
				args = args[:1] // only the beginnings of a record are left, which have no name
			}
			if status, out, stderr := l.person(args...); status != 0 {
				l.t.Errorf("%s ended with %d: %s%s", step, status, out, stderr)
			}
		default:
			if status, stderr := l.call(step); status != 0 {
				l.t.Errorf("%s of %s ended with %d: %s", step, l.g.name, status, stderr)
			}
		}
	}
}

// call is libvirt's, or recover.
func (l *life) call(op string) (status int, stderr string) {
	l.t.Helper()
	if op == "recover" {
		status, _, stderr = l.person("recover")
		return status, stderr
	}
	return l.libvirt(l.g, op)
}

// home goes the way home and looks whether it led there.
func (l *life) home(steps []string, after string) {
	l.t.Helper()
	l.do(steps...)
	l.model.RemoveProcess(os.Getpid())
	if diff := sysfstest.Diff(l.before.Without(l.gone...), l.snapshot().Without(l.gone...)); diff != "" {
		l.t.Errorf("%s: then %s leaves the host different:\n%s", after, strings.Join(steps, ", "), diff)
	}
	if left := l.onRecord(); left != "" {
		l.t.Errorf("%s: then %s leaves it on record: %s", after, strings.Join(steps, ", "), left)
	}
	l.wantNoProcess()
}

// wantGoodStatus fails the test if status finds anything wrong, or changes anything.
func (l *life) wantGoodStatus() {
	l.t.Helper()
	changes := l.model.Changes()
	if status, out, stderr := l.person("status"); status != 0 || stderr != "" {
		l.t.Errorf("status ended with %d and says %s%s", status, out, stderr)
	} else if strings.Contains(out, "drifted") || strings.Contains(out, "problem") {
		l.t.Errorf("status of a guest that was just prepared: %s", out)
	}
	if n := l.model.Changes() - changes; n > 0 {
		l.t.Errorf("status makes %d changes", n)
	}
}
