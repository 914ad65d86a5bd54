package test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"qemu-hook/hook"
	"qemu-hook/journal"
	"qemu-hook/test/mode"
)

// A throwaway is this machine's own tree of files, of which every change is lost.
type throwaway struct {
	t           *testing.T
	root, upper string
}

func newThrowaway(t *testing.T) *throwaway {
	t.Helper()
	if os.Geteuid() != 0 {
		mode.Lacking(t, "a throwaway root needs root")
	}
	dir := t.TempDir()
	x := &throwaway{t, dir + "/root", dir + "/upper"}
	for _, d := range []string{x.root, x.upper, dir + "/work"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount := func(source, target, kind string, flags uintptr, data string) {
		t.Helper()
		if err := unix.Mount(source, target, kind, flags, data); err != nil {
			mode.Lacking(t, "cannot mount %s on %s: %v", source, target, err)
		}
		t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	}
	mount("overlay", x.root, "overlay", 0, "lowerdir=/,upperdir="+x.upper+",workdir="+dir+"/work")
	for _, d := range []string{"/proc", "/dev"} {
		mount(d, x.root+d, "", unix.MS_BIND, "")
	}
	mount("tmpfs", x.root+"/run", "tmpfs", 0, "")
	return x
}

// run runs a program in the root.
func (x *throwaway) run(args ...string) (string, error) {
	cmd := exec.Command("/usr/bin/env", args...) // which is looked for in there
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "TMPDIR=/tmp"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: x.root}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (x *throwaway) must(args ...string) string {
	x.t.Helper()
	out, err := x.run(args...)
	if err != nil {
		x.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// changed lists what is not as on this machine below the folders: what was removed, and what is new or has another content.
func (x *throwaway) changed(dirs ...string) (all []string) {
	x.t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(x.upper+dir, func(file string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) && file == x.upper+dir {
				return nil
			}
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(file, x.upper)
			before, berr := os.Lstat(name)
			after, aerr := os.Lstat(x.root + name)
			switch {
			case errors.Is(aerr, fs.ErrNotExist) && errors.Is(berr, fs.ErrNotExist):
				// It came and went.
			case berr != nil || aerr != nil || before.Mode() != after.Mode():
				all = append(all, name)
			case d.IsDir():
			case !bytes.Equal(content(x.t, name), content(x.t, x.root+name)):
				all = append(all, name)
			}
			return nil
		})
		if err != nil {
			x.t.Fatal(err)
		}
	}
	return all
}

// content is what a file holds, or where a link leads.
func content(t *testing.T, file string) []byte {
	t.Helper()
	if to, err := os.Readlink(file); err == nil {
		return []byte(to)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// build builds a package.
func build(t *testing.T, version, format string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("../dist/build", version, dir, format)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("dist/build: %v\n%s", err, out)
	}
	files, err := filepath.Glob(dir + "/*." + format)
	if err != nil || len(files) != 1 {
		t.Fatalf("dist/build makes %q, %v", files, err)
	}
	return files[0]
}

// A packager is a program that installs packages, and how it is told to.
type packager struct {
	format                   string
	needs                    []string
	install, upgrade, remove []string
}

// The Debian package is built, installed on a copy of this machine, used and purged.
func TestDebianPackage(t *testing.T) {
	packaged(t, packager{
		format: "deb", needs: []string{"dpkg", "dpkg-deb", "gzip"},
		install: []string{"dpkg", "-i"}, upgrade: []string{"dpkg", "-i"}, remove: []string{"dpkg", "--purge"},
	})
}

// So is that for Fedora and its kin. What it says that it needs is another distribution's to know.
func TestRPMPackage(t *testing.T) {
	file := packaged(t, packager{
		format: "rpm", needs: []string{"rpm", "gzip"},
		install: []string{"rpm", "--force-debian", "--nodeps", "-i"}, upgrade: []string{"rpm", "--force-debian", "--nodeps", "-U"},
		remove: []string{"rpm", "--force-debian", "-e"},
	})
	if out, err := exec.Command("rpm", "-K", "--nosignature", file).CombinedOutput(); err != nil || !strings.Contains(string(out), "digests OK") {
		t.Errorf("rpm -K: %v: %s", err, out)
	}
	// Nothing of the machine that it was built on.
	if out, err := exec.Command("rpm", "-qp", "--qf", "%{BUILDHOST} %{BUILDTIME} %{SUGGESTS}", file).CombinedOutput(); err != nil ||
		string(out) != "localhost 1700000000 libvirt-daemon-driver-qemu" {
		t.Errorf("rpm -qp: %v: %s", err, out)
	}
}

// packaged builds packages, and installs, uses, upgrades and removes them on a copy of this machine. It returns one of them.
func packaged(t *testing.T, p packager) string {
	t.Helper()
	if !mode.Long() && !mode.Strict() {
		t.Skip("packages are built only with QEMU_HOOK_LONG=1")
	}
	for _, tool := range p.needs {
		if _, err := exec.LookPath(tool); err != nil {
			mode.Lacking(t, "%s is missing: %v", tool, err)
		}
	}
	old, newer := build(t, "1.2.3", p.format), build(t, "1.2.4", p.format)
	if !bytes.Equal(content(t, old), content(t, build(t, "1.2.3", p.format))) {
		t.Error("two builds of the package differ")
	}
	x := newThrowaway(t)
	oldName, newName := "/tmp/old."+p.format, "/tmp/new."+p.format
	for file, name := range map[string]string{old: oldName, newer: newName} {
		if err := os.WriteFile(x.root+name, content(t, file), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	if out := x.must(append(p.install, oldName)...); !strings.Contains(out, "sudo qemu-hook install") {
		t.Errorf("at first nothing says how libvirt gets to know of the hook: %s", out)
	}
	x.wantFiles()
	if got := x.must("/usr/bin/qemu-hook", "version"); got != "qemu-hook 1.2.3\n" {
		t.Errorf("the installed program says %q", got)
	}
	if got := x.must("qemu-hook", "demo"); !strings.Contains(got, "no difference") {
		t.Errorf("the demonstration says %q", got)
	}
	for _, file := range x.changed("/etc") {
		t.Errorf("the package changes %s, and nobody has asked for a hook yet", file)
	}
	x.must("qemu-hook", "install")
	const link = "/etc/libvirt/hooks/qemu.d/50-qemu-hook"
	if to, err := os.Readlink(x.root + link); err != nil || to != "/usr/bin/qemu-hook" {
		t.Errorf("after qemu-hook install the hook is %q, %v", to, err)
	}

	// An upgrade is fine while a guest has something; a removal is not.
	boot := strings.TrimSpace(string(content(t, "/proc/sys/kernel/random/boot_id")))
	state := journal.Open(x.root+stateDir, boot)
	ledger := &hook.Ledger{Guests: map[string]*hook.Guest{"6f0c1f5a-54c3-4c0e-9a35-2c1a8a8d1e01": {
		Name: "win11", Claim: hook.Claim{PCI: []string{"0000:08:00.0"}},
	}}}
	if err := state.WriteDocument(hook.LedgerDocument, ledger); err != nil {
		t.Fatal(err)
	}
	if out := x.must(append(p.upgrade, newName)...); strings.Contains(out, "sudo qemu-hook install") {
		t.Errorf("an upgrade says what is for the first time: %s", out)
	}
	if got := x.must("qemu-hook", "version"); got != "qemu-hook 1.2.4\n" {
		t.Errorf("the newer program says %q", got)
	}
	if _, err := os.Readlink(x.root + link); err != nil {
		t.Errorf("after the upgrade the hook is gone: %v", err)
	}
	if out, err := x.run(append(p.remove, "qemu-hook")...); err == nil || !strings.Contains(out, "win11 (not running) holds something of the host") {
		t.Errorf("the package was removed from under a guest: %v\n%s", err, out)
	}
	if out := x.must("qemu-hook", "version"); out != "qemu-hook 1.2.4\n" {
		t.Errorf("after the removal that was refused the program says %q", out)
	}
	if _, err := os.Readlink(x.root + link); err != nil {
		t.Errorf("after the removal that was refused the hook is gone: %v", err)
	}
	if err := state.WriteDocument(hook.LedgerDocument, nil); err != nil {
		t.Fatal(err)
	}
	x.must(append(p.remove, "qemu-hook")...)
	for _, file := range x.changed("/etc", "/usr", "/run", "/var/lib/qemu-hook") {
		// An empty folder of dpkg's is one of rpm's own alone.
		if here, err := os.ReadDir(file); p.format == "rpm" && err == nil && len(here) == 0 {
			continue
		}
		t.Errorf("the package leaves %s, or takes it", file)
	}
	return old
}

// The program is the same, bit by bit, wherever it is built: README.md has the command.
func TestReproducible(t *testing.T) {
	if testing.Short() {
		t.Skip("a build of the program twice is left out of a short run")
	}
	sums := map[string]string{}
	for _, name := range []string{"here", "some/where else"} {
		dir := filepath.Join(t.TempDir(), name)
		copySource(t, dir)
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-X main.version=1.2.3", "-o", "qemu-hook", "./cmd/qemu-hook")
		cmd.Dir = dir
		cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		sums[fmt.Sprintf("%x", sha256.Sum256(content(t, dir+"/qemu-hook")))] = name
	}
	if len(sums) != 1 {
		t.Errorf("the builds differ: %v", sums)
	}
}

// copySource copies what the program is built of.
func copySource(t *testing.T, to string) {
	t.Helper()
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "test"):
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, strings.TrimPrefix(file, "..")), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, strings.TrimPrefix(file, "..")), b, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}
