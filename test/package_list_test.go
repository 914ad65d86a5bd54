package test

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"qemu-hook/test/mode"
)

// A packageFile is what a package has of a file: what it is made of, and its mode.
type packageFile struct{ source, mode string }

// packageFiles reads the list that .deb and .rpm are made by.
func packageFiles(t *testing.T) map[string]packageFile {
	t.Helper()
	all := map[string]packageFile{}
	for line := range strings.Lines(string(content(t, "../dist/nfpm.yaml"))) {
		if !strings.HasPrefix(line, "  - {src: ") {
			continue
		}
		line = strings.ReplaceAll(line, "${STAGE}/", "") // what dist/build has made
		value := func(key string) string {
			_, v, ok := strings.Cut(line, key+": ")
			if !ok {
				t.Fatalf("dist/nfpm.yaml has no %s in %s", key, line)
			}
			return strings.Trim(v[:strings.IndexAny(v, ",}")], `"`)
		}
		all[value("dst")] = packageFile{value("src"), value("mode")}
	}
	if len(all) < 10 {
		t.Fatalf("dist/nfpm.yaml has %d files", len(all))
	}
	return all
}

// wantFiles compares what a package has brought with the list.
func (x *throwaway) wantFiles() {
	x.t.Helper()
	want := packageFiles(x.t)
	var brought []string
	for _, name := range x.changed("/usr") {
		if st, err := os.Lstat(x.root + name); err == nil && !st.IsDir() {
			brought = append(brought, name)
		}
	}
	slices.Sort(brought)
	if names := slices.Sorted(maps.Keys(want)); !slices.Equal(brought, names) {
		x.t.Errorf("the package brings %q, want %q", brought, names)
	}
	for name, f := range want {
		st, err := os.Lstat(x.root + name)
		if err != nil {
			continue // said already
		}
		if sys := st.Sys().(*syscall.Stat_t); st.Mode() != fs.FileMode(octal(x.t, f.mode)) || sys.Uid != 0 || sys.Gid != 0 {
			x.t.Errorf("%s is %v of %d:%d, want mode %s of root", name, st.Mode(), sys.Uid, sys.Gid, f.mode)
		}
		if made, err := os.ReadFile("../" + f.source); err == nil && !bytes.Equal(made, content(x.t, x.root+name)) {
			x.t.Errorf("%s is not %s", name, f.source)
		}
	}
}

func octal(t *testing.T, s string) (mode uint32) {
	t.Helper()
	if _, err := fmt.Sscanf(s, "%o", &mode); err != nil {
		t.Fatalf("%q is no mode: %v", s, err)
	}
	return mode
}

// The PKGBUILD's functions are run as makepkg runs them: what they build is the program, and what they put in place is the list of
// the other packages.
func TestPKGBUILD(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		mode.Lacking(t, "bash is missing: %v", err)
	}
	pkgbuild, err := filepath.Abs("../dist/PKGBUILD")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	src, pkg := filepath.Join(dir, "src"), filepath.Join(dir, "pkg")
	copySource(t, filepath.Join(src, "qemu-hook-0.0.0"))
	makepkg := func(script string) string {
		t.Helper()
		// As makepkg does: an error ends it, and each function begins in $srcdir.
		cmd := exec.Command(bash, "--norc", "-c", `set -eu; source "$1"; srcdir=$2 pkgdir=$3; cd "$srcdir"; `+script, "makepkg", pkgbuild, src, pkg)
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		return string(out)
	}
	if got := makepkg(`declare -F | sort; echo "$pkgname $pkgver $pkgrel ${arch[*]} ${license[*]} $install ${source[*]} ${#sha256sums[@]}"`); got !=
		"declare -f build\ndeclare -f package\nqemu-hook 0.0.0 1 x86_64 aarch64 Apache-2.0 qemu-hook.install qemu-hook-0.0.0.tar.gz 1\n" {
		t.Errorf("the PKGBUILD says %q", got)
	}
	binary := filepath.Join(src, "qemu-hook-0.0.0/qemu-hook")
	if !mode.Long() && !mode.Strict() {
		if err := os.WriteFile(binary, []byte("program"), 0o644); err != nil {
			t.Fatal(err)
		}
	} else {
		makepkg("build")
		if out, err := exec.Command(binary, "version").CombinedOutput(); err != nil || string(out) != "qemu-hook 0.0.0\n" {
			t.Errorf("what it builds says %q, %v", out, err)
		}
	}
	makepkg("package")

	want := map[string]packageFile{}
	for name, f := range packageFiles(t) {
		switch name { // where Arch has it
		case "/usr/share/doc/qemu-hook/copyright":
			name = "/usr/share/licenses/qemu-hook/LICENSE"
		case "/usr/share/man/man8/qemu-hook.8.gz": // makepkg packs it
			name, f.source = strings.TrimSuffix(name, ".gz"), "docs/qemu-hook.8"
		}
		want[name] = f
	}
	got := 0
	err = filepath.WalkDir(pkg, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		got++
		name := strings.TrimPrefix(file, pkg)
		f, ok := want[name]
		if !ok {
			t.Errorf("the PKGBUILD brings %s, the other packages do not", name)
			return nil
		}
		delete(want, name)
		st, err := d.Info()
		if err != nil {
			return err
		}
		if st.Mode() != fs.FileMode(octal(t, f.mode)) {
			t.Errorf("%s has mode %v, want %s", name, st.Mode(), f.mode)
		}
		if !bytes.Equal(content(t, file), content(t, filepath.Join(src, "qemu-hook-0.0.0", f.source))) {
			t.Errorf("%s is not %s", name, f.source)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range want {
		t.Errorf("the PKGBUILD does not bring %s, the other packages do", name)
	}
	t.Logf("%d files", got)
}

// pacman calls functions of known names, and what they do is what the other packages' scripts do.
func TestPacmanScript(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		mode.Lacking(t, "bash is missing: %v", err)
	}
	run := func(script string) string {
		t.Helper()
		out, err := exec.Command(bash, "--norc", "-c", `source ../dist/qemu-hook.install; `+script).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		return string(out)
	}
	if got, want := run("declare -F"), "declare -f post_install\ndeclare -f post_remove\ndeclare -f pre_remove\n"; got != want {
		t.Errorf("its functions are %q, want %q", got, want)
	}
	if got := run("post_install 1.2.3-1"); !strings.Contains(got, "sudo qemu-hook install") {
		t.Errorf("after the installation it says %q", got)
	}
	// A function hides a program of its name, path and all.
	if got := run("function /usr/bin/qemu-hook { echo called: $*; }; rm() { echo rm $*; }; pre_remove 1.2.3-1; post_remove 1.2.3-1"); got != "called: uninstall\nrm -rf /run/qemu-hook\n" {
		t.Errorf("before and after the removal it does %q", got)
	}
}

// The scripts of packages are read by shellcheck.
func TestPackageScripts(t *testing.T) {
	shellcheck, err := exec.LookPath("shellcheck")
	if err != nil {
		mode.Lacking(t, "shellcheck is missing: %v", err)
	}
	scripts, err := filepath.Glob("../dist/package/*")
	if err != nil || len(scripts) < 3 {
		t.Fatal(scripts, err)
	}
	scripts = append(scripts, "../dist/PKGBUILD", "../dist/qemu-hook.install", "../dist/build")
	if out, err := exec.Command(shellcheck, scripts...).CombinedOutput(); err != nil {
		t.Errorf("shellcheck: %v\n%s", err, out)
	}
	t.Logf("%d scripts", len(scripts))
}
