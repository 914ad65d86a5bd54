package test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"qemu-hook/sysfs/sysfstest/fusetest"
)

// bareRoot is a root with real files and as much on it as the shm step alone needs.
func bareRoot(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"proc/sys/kernel/random", "run", "etc/qemu-hook", "dev/shm"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var config strings.Builder
	for _, step := range []string{"quiesce", "hugepages", "cpus", "interrupts", "kernel", "frequency", "tunables", "pci", "inhibit"} {
		fmt.Fprintf(&config, "steps.%s = false\n", step)
	}
	writeFile(t, filepath.Join(root, "proc/sys/kernel/random/boot_id"), "a boot\n", 0o444)
	writeFile(t, filepath.Join(root, "etc/qemu-hook/config.toml"), config.String(), 0o644)
	return root
}

func writeFile(t testing.TB, name, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
}

// shmXML is a guest that needs /dev/shm/lg and nothing else.
const shmXML = hostileHead + `<devices><shmem name="lg"><model type="ivshmem-plain"/><size unit="M">1</size></shmem></devices></domain>`

// onBareRoot is a call of libvirt's for that guest.
func onBareRoot(t testing.TB, root, op string) boundedCall {
	t.Helper()
	return bounded(t, root, "unix:path=/nonexistent", strings.NewReader(shmXML), guest{name: "g"}.event(op)...)
}

// needsRoot ends a test that gives files to others.
func needsRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		fusetest.Lacking(t, "root is missing: uid %d cannot give files to others", os.Geteuid())
	}
}

// stranger owns what others own.
const stranger = 4242

// treeOf lists a directory with what can be seen of each file, links not followed.
func treeOf(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := os.Lstat(name)
		if err != nil {
			return err
		}
		sys := st.Sys().(*syscall.Stat_t)
		content := ""
		if st.Mode().IsRegular() {
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			content = string(data)
		}
		fmt.Fprintf(&b, "%s %v %d:%d %q\n", name, st.Mode(), sys.Uid, sys.Gid, content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// What stands in the way of the configuration is looked at before it is read, so that nothing waits for it and no more is
// read than a configuration may have; and who may take the file away may not do so either.
func TestHostileConfig(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	const at = "/etc/qemu-hook/config.toml"
	for _, c := range []struct {
		name string
		make func(dir, file string) error
		want string
	}{
		{"FIFO", func(_, file string) error { return errors.Join(os.Remove(file), syscall.Mkfifo(file, 0o644)) }, "cannot trust " + at + ": it is no regular file"},
		{"directory", func(_, file string) error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o755)) }, "cannot trust " + at + ": it is no regular file"},
		{"100 MB", func(_, file string) error { return os.Truncate(file, 100<<20) }, at + ": has more than 65536 bytes"},
		{"link to more than fits", func(_, file string) error { return errors.Join(os.Remove(file), os.Symlink("/dev/zero", file)) }, at + ": has more than 65536 bytes"},
		{"link to nothing", func(_, file string) error { return errors.Join(os.Remove(file), os.Symlink("nowhere", file)) }, "cannot read " + at + ": no such file or directory"},
		{"link of another", func(_, file string) error {
			return errors.Join(os.Rename(file, file+".real"), os.Symlink(file+".real", file), os.Lchown(file, stranger, 0))
		}, "cannot trust " + at + ": uid 4242 owns it; chown -h root " + at},
		{"group", func(_, file string) error { return os.Chmod(file, 0o664) }, "cannot trust " + at + ": others can write to it (mode 0664); chmod go-w " + at},
		{"world", func(_, file string) error { return os.Chmod(file, 0o646) }, "chmod go-w " + at},
		{"owner", func(_, file string) error { return os.Chown(file, stranger, 0) }, "cannot trust " + at + ": uid 4242 owns it; chown root " + at},
		{"directory: group", func(dir, _ string) error { return os.Chmod(dir, 0o775) }, "cannot trust /etc/qemu-hook: others can write to it (mode 0775); chmod go-w /etc/qemu-hook"},
		{"directory: world", func(dir, _ string) error { return os.Chmod(dir, 0o777|fs.ModeSticky) }, "(mode 1777); chmod go-w /etc/qemu-hook"},
		{"directory: owner", func(dir, _ string) error { return os.Chown(dir, stranger, 0) }, "cannot trust /etc/qemu-hook: uid 4242 owns it; chown root /etc/qemu-hook"},
		{"directory: world, and the file gone", func(dir, file string) error { return errors.Join(os.Remove(file), os.Chmod(dir, 0o777)) }, "chmod go-w /etc/qemu-hook"},
		{"directory is a file", func(dir, _ string) error {
			return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o644))
		}, "cannot trust /etc/qemu-hook: it is no directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := bareRoot(t)
			dir := filepath.Join(root, "etc/qemu-hook")
			must(t, c.make(dir, dir+"/config.toml"))
			got := onBareRoot(t, root, "prepare")
			if got.status != 1 || !strings.Contains(got.stderr, c.want) {
				t.Errorf("status %d: %s\nwant %s", got.status, got.stderr, c.want)
			}
			lastLineIsShort(t, got.stderr)
			if shm := treeOf(t, filepath.Join(root, "dev/shm")); strings.Count(shm, "\n") != 1 {
				t.Errorf("something was made:\n%s", shm)
			}
			if got := onBareRoot(t, root, "release"); got.status != 0 {
				t.Errorf("release ended with %d: %s", got.status, got.stderr)
			}
		})
	}
	t.Run("link of root's to a writable store", func(t *testing.T) {
		root := bareRoot(t)
		file := filepath.Join(root, "etc/qemu-hook/config.toml")
		store := filepath.Join(root, "store")
		must(t, os.Mkdir(store, 0o775), os.Chmod(store, 0o775|fs.ModeSticky), os.Rename(file, store+"/c.toml"), os.Symlink(store+"/c.toml", file))
		if got := onBareRoot(t, root, "prepare"); got.status != 0 {
			t.Errorf("status %d: %s", got.status, got.stderr)
		}
	})
}

// A state directory that is not root's own is refused, and nothing in what stands there is touched.
func TestHostileState(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	const at = "/run/qemu-hook"
	for _, c := range []struct {
		name string
		make func(dir, elsewhere string) error
		want string
	}{
		{"link", func(dir, elsewhere string) error { return os.Symlink(elsewhere, dir) }, "it is a symbolic link; rm "},
		{"link to nothing", func(dir, _ string) error { return os.Symlink("nowhere", dir) }, "it is a symbolic link; rm "},
		{"file", func(dir, _ string) error { return os.WriteFile(dir, []byte("x"), 0o600) }, "it is no directory; rm "},
		{"FIFO", func(dir, _ string) error { return syscall.Mkfifo(dir, 0o600) }, "it is no directory; rm "},
		{"owner", func(dir, _ string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, stranger, stranger)) }, "it belongs to uid 4242, not to uid 0; chown 0 "},
		{"group", func(dir, _ string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o770)) }, "others can write to it (mode 0770); chmod 0700 "},
		{"world", func(dir, _ string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777|fs.ModeSticky))
		}, "others can write to it (mode 1777); chmod 0700 "},
		{"lock is a link", func(dir, elsewhere string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Symlink(elsewhere+"/victim", dir+"/lock"))
		}, "it is no regular file; rm "},
		{"lock is a directory", func(dir, _ string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Mkdir(dir+"/lock", 0o700)) }, "it is no regular file; rm "},
		{"ledger is a link", func(dir, elsewhere string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Symlink(elsewhere+"/victim", dir+"/ledger.json"))
		}, "cannot read "},
		{"ledger is a FIFO", func(dir, _ string) error {
			return errors.Join(os.Mkdir(dir, 0o700), syscall.Mkfifo(dir+"/ledger.json", 0o600))
		}, "it is no regular file; rm "},
		{"ledger of 100 MB", func(dir, _ string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(dir+"/ledger.json", nil, 0o600), os.Truncate(dir+"/ledger.json", 100<<20))
		}, "more than 16 MiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root, elsewhere := bareRoot(t), t.TempDir()
			dir := filepath.Join(root, at)
			writeFile(t, elsewhere+"/victim", "the victim's", 0o600)
			must(t, c.make(dir, elsewhere))
			before := treeOf(t, elsewhere)
			for _, op := range []string{"prepare", "release", "prepare"} {
				got := onBareRoot(t, root, op)
				if op == "prepare" && (got.status != 1 || !strings.Contains(got.stderr, c.want)) {
					t.Errorf("%s: status %d: %s\nwant %s", op, got.status, got.stderr, c.want)
				}
			}
			for _, command := range []string{"status", "recover"} {
				_ = bounded(t, root, "unix:path=/nonexistent", nil, command)
			}
			if after := treeOf(t, elsewhere); after != before {
				t.Errorf("the victim's is not as before:\n%s\nit was:\n%s", after, before)
			}
			if shm := treeOf(t, filepath.Join(root, "dev/shm")); strings.Count(shm, "\n") != 1 {
				t.Errorf("something was made:\n%s", shm)
			}
		})
	}
}

// The program in a directory where others could replace it does not act on the running host. What it is asked to do cannot
// be done in any case, and its records are in a mount namespace of its own.
func TestHostileProgram(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	private := []string{"-m", "sh", "-c", `mount -t tmpfs none /run && exec "$@"`, "sh"}
	if out, err := exec.Command("unshare", append(private, "true")...).CombinedOutput(); err != nil {
		fusetest.Lacking(t, "a mount namespace is missing: %v: %s", err, out)
	}
	if _, err := os.Stat(configDir); !errors.Is(err, fs.ErrNotExist) {
		fusetest.Lacking(t, "a host without a configuration is missing: %s is there", configDir)
	}
	data, err := os.ReadFile(program(t))
	if err != nil {
		t.Fatal(err)
	}
	const xml = hostileHead + `<devices><hostdev type="pci"><source><address domain="0xffff" bus="0xff" slot="0x1f" function="7"/></source></hostdev></devices></domain>`
	for _, c := range []struct {
		name string
		make func(dir, file string) error
		want string // "" if it is trusted
	}{
		{"root's own", func(string, string) error { return nil }, ""},
		{"as in a store", func(dir, file string) error { return errors.Join(os.Chmod(file, 0o555), os.Chmod(dir, 0o555)) }, ""},
		{"group", func(dir, _ string) error { return os.Chmod(dir, 0o775) }, "cannot trust DIR: others can write to it (mode 0775); chmod go-w DIR"},
		{"world", func(dir, _ string) error { return os.Chmod(dir, 0o777) }, "cannot trust DIR: others can write to it (mode 0777); chmod go-w DIR"},
		{"everybody's", func(dir, _ string) error { return os.Chmod(dir, 0o777|fs.ModeSticky) }, "others can write to its directory (mode 1777); install it: install -m 0755 FILE /usr/bin/"},
		{"somebody's", func(dir, _ string) error { return os.Chown(dir, stranger, stranger) }, "cannot trust the program FILE: uid 4242 owns its directory; install it: install -m 0755 FILE /usr/bin/"},
		{"file: group", func(_, file string) error { return os.Chmod(file, 0o775) }, "cannot trust FILE: others can write to it (mode 0775); chmod go-w FILE"},
		{"file: owner", func(_, file string) error { return os.Chown(file, stranger, 0) }, "cannot trust FILE: uid 4242 owns it; chown root FILE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			file := filepath.Join(dir, "qemu-hook")
			must(t, os.Mkdir(dir, 0o755), os.Chmod(dir, 0o755))
			writeFile(t, file, string(data), 0o755)
			must(t, c.make(dir, file))
			want := strings.NewReplacer("DIR", dir, "FILE", file).Replace(c.want)
			for _, args := range [][]string{{"g", "prepare", "begin", "-"}, {"bind", "ffff:ff:1f.7"}, {"unbind", "ffff:ff:1f.7"}} {
				cmd := exec.Command("unshare", append(append(slices.Clone(private), file), args...)...)
				cmd.Dir = "/"
				cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nonexistent"}
				cmd.Stdin = strings.NewReader(xml)
				out, _ := cmd.CombinedOutput()
				text := string(out)
				switch {
				case cmd.ProcessState.ExitCode() != 1:
					t.Errorf("%q: %v: %s", args, cmd.ProcessState, text)
				case want == "" && (strings.Contains(text, "trust") || !strings.Contains(text, "ffff:ff:1f.7 does not exist")):
					t.Errorf("%q: %s", args, text)
				case want != "" && !strings.Contains(text, want):
					t.Errorf("%q: %s\nwant %s", args, text, want)
				}
				if args[1] == "prepare" { // which libvirt quotes; the whole stands above it
					lastLineIsShort(t, text)
				}
			}
			// A release is never refused, and what only looks is not.
			for _, args := range [][]string{{"g", "release", "end", "failed"}, {"help"}, {"version"}, {"recover"}} {
				cmd := exec.Command("unshare", append(append(slices.Clone(private), file), args...)...)
				cmd.Dir = "/"
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%q: %v: %s", args, err, out)
				}
			}
		})
	}
}
