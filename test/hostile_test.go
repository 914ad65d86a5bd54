package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"qemu-hook/sysfs/sysfstest/fusetest"
)

// mostMemory is what a run of the program may have in memory at most, in KiB.
const mostMemory = 64 << 10

// measure runs a program and writes to descriptor 3 how much memory it had at most, in KiB. It is a process of its own: the
// kernel counts for a program what the process had that started it, and a test may have much.
func measure(args []string) int {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	status, err := exitStatus(cmd.Run())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 125
	}
	fmt.Fprint(os.NewFile(3, "measured"), cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
	return status
}

// A bounded call is one run of the program whose memory was measured.
type boundedCall struct {
	status         int
	stdout, stderr string
	kib            int64
	took           time.Duration
}

// bounded runs the program with the root and fails the test if it takes too much memory. It has no deadline but that of
// calls in general: how long it took is logged.
func bounded(t testing.TB, root, bus string, stdin io.Reader, args ...string) boundedCall {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all := []string{program(t)}
	if root != "" {
		all = append(all, "--root", root)
	}
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, append(all, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // what hangs is the program, not what measures it
	var stdout, stderr bytes.Buffer
	cmd.Dir = "/"
	cmd.Env = []string{roleEnv + "=measure", "LC_ALL=C", "PATH=/usr/bin", "DBUS_SYSTEM_BUS_ADDRESS=" + bus}
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = stdin, &stdout, &stderr, []*os.File{w}
	start := time.Now()
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	measured, _ := io.ReadAll(r)
	status, err := exitStatus(cmd.Wait())
	if err != nil {
		t.Fatal(err)
	}
	c := boundedCall{status: status, stdout: stdout.String(), stderr: stderr.String(), took: time.Since(start)}
	if c.kib, err = strconv.ParseInt(string(measured), 10, 64); err != nil {
		t.Fatalf("%.100q: no memory was measured: %v: %s", args, err, c.stderr)
	}
	if c.kib > mostMemory {
		t.Errorf("%.100q took %d KiB of memory, more than %d", args, c.kib, mostMemory)
	}
	return c
}

// counted counts what is read of it.
type counted struct {
	io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// repeated is a document with a piece in it many times, which is never in memory as a whole.
func repeated(head, piece string, n int, tail string) io.Reader {
	const batch = 1000
	parts := []io.Reader{strings.NewReader(head)}
	many := strings.Repeat(piece, batch)
	for ; n > batch; n -= batch {
		parts = append(parts, strings.NewReader(many))
	}
	return io.MultiReader(append(parts, strings.NewReader(strings.Repeat(piece, n)+tail))...)
}

// A hostileXML is what may come in as a domain. An empty want is one that prepares, or has nothing to prepare.
type hostileXML struct {
	name string
	doc  func() io.Reader
	want string
}

const hostileHead = `<domain type="kvm"><name>g</name><uuid>11111111-2222-3333-4444-555555555555</uuid>`

func hostileXMLs(t testing.TB) []hostileXML {
	whole := string(domainXML(t, "win11"))
	text := func(s string) func() io.Reader { return func() io.Reader { return strings.NewReader(s) } }
	many := func(head, piece string, n int, tail string) func() io.Reader {
		return func() io.Reader { return repeated(head, piece, n, tail) }
	}
	in := func(inside string) func() io.Reader { return text(hostileHead + inside + "</domain>") }
	named := func(name string) func() io.Reader {
		return text(strings.Replace(string(domainXML(t, "pages-only")), "<name>pages-only<", "<name>"+name+"<", 1))
	}
	const address = `<hostdev type="pci"><source><address bus="0x7e" slot="0x%02x" function="%d"/></source></hostdev>`
	hostdevs := func(n int) func() io.Reader {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `<hostdev type="pci"><source><address domain="%d" bus="0x7e"/></source></hostdev>`, i)
		}
		return in("<devices>" + b.String() + "</devices>")
	}
	pages := func(inside string) func() io.Reader {
		return in("<memoryBacking><hugepages>" + inside + "</hugepages></memoryBacking><memory>1048576</memory>")
	}
	const laughs = `<!DOCTYPE domain [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>`
	return []hostileXML{
		{"empty", text(""), "the domain XML is empty"},
		{"white space", text(" \n\t\n"), "the domain XML is empty"},
		{"cut off", text(whole[:len(whole)/2]), "it is not well-formed"},
		{"cut off in a tag", text(whole[:strings.LastIndexByte(whole, '<')+3]), "it is not well-formed"},
		{"100 MB", many(hostileHead, "<title>x</title>", 100<<20/16, "</domain>"), "larger than 4 MiB"},
		{"100 MB of text", many(hostileHead+"<title>", "xxxxxxxxxxxxxxxx", 100<<20/16, "</title></domain>"), "larger than 4 MiB"},
		{"a million elements", many(hostileHead, "<a/>", 1_000_000, "</domain>"), "more than 50000 elements"},
		{"a million attributes", many(hostileHead+"<a ", "a='' ", 800_000, "/></domain>"), "a tag or text of more than"},
		{"comments", many(hostileHead, "<!-- -->", 500_000, "</domain>"), ""},
		{"entities", text(laughs + `<domain><name>&c;</name></domain>`), "invalid character entity &c;"},
		{"an entity from a file", text(`<!DOCTYPE d [<!ENTITY a SYSTEM "file:///etc/passwd">]><domain><name>&a;</name></domain>`), "invalid character entity &a;"},
		{"deep", many("", "<domain>", 100_000, ""), "more than 256 elements inside one another"},
		{"wrong root", text(`<network/>`), "the root element is <network>, not <domain>"},
		{"wrong namespace", text(`<domain xmlns="urn:x"><name>g</name></domain>`), `the root element <domain> is of the namespace "urn:x"`},
		{"devices of another namespace", in(`<x:devices xmlns:x="urn:x"><x:hostdev type="pci"/></x:devices>`), ""},
		{"command line of another namespace", in(`<q:commandline xmlns:q="urn:q"><q:arg value="-device"/><q:arg value="vfio-pci,host=?"/></q:commandline>`), ""},
		{"invalid UTF-8", in("<title>\xff\xfe</title>"), "invalid UTF-8"},
		{"UTF-16", text("\xff\xfe<\x00d\x00"), "invalid UTF-8"},
		{"NUL", in("<title>\x00</title>"), "illegal character code U+0000"},
		{"NUL by number", in("<title>&#0;</title>"), "illegal character code U+0000"},
		{"2^64 pages", pages(`<page size="18446744073709551616"/>`), "the number 18446744073709551616 is too large"},
		{"2^64-1 pages", pages(`<page size="18446744073709551615"/>`), "too much"},
		{"2^64 KiB", in(`<memoryBacking><hugepages/></memoryBacking><memory>18446744073709551616</memory>`), "the number 18446744073709551616 is too large"},
		{"no page", pages(`<page size="0"/>`), ""},
		{"less than no page", pages(`<page size="-1"/>`), "is not a number from 0 up"},
		{"CPU 4 billion", in(`<vcpu>1</vcpu><cputune><vcpupin vcpu="0" cpuset="4000000000"/></cputune>`), "4000000000 is too large"},
		{"CPUs up to 4 billion", in(`<vcpu cpuset="0-4000000000">1</vcpu>`), "4000000000 is too large"},
		{"node 4 billion", in(`<memoryBacking><hugepages><page size="2048" nodeset="4000000000"/></hugepages></memoryBacking><memory>1048576</memory>`), "4000000000 is too large"},
		{"function 9", in("<devices>" + fmt.Sprintf(address, 0, 9) + "</devices>"), "the function 0x9 is too large, the largest allowed is 0x7"},
		{"slot 0x20", in("<devices>" + fmt.Sprintf(address, 0x20, 0) + "</devices>"), "the device 0x20 is too large"},
		{"two hundred hostdevs", hostdevs(200), "200 reasons, the first: PCI function 0000:7e:00.0 does not exist"},
		{"sixteen thousand hostdevs", hostdevs(16_000), "more than 1024 devices of a kind"},
		{"a thousand hostdevs", hostdevs(1000), "1000 reasons, the first: "},
		{"a name that is a path", named("../../etc"), "has a slash or a line break in it"},
		{"a name of two lines", named("a\nb"), "has a slash or a line break in it"},
		{"a name of two lines by number", named("a&#10;b"), "has a slash or a line break in it"},
		{"a name of a kilobyte", named(strings.Repeat("n", 1024)), "has 1024 bytes, and the name of a file has at most 255"},
		{"a name of a megabyte", named(strings.Repeat("n", 200<<10)), "and the name of a file has at most 255"},
		{"a dash for a name", named("-"), ""},
		{"dots for a name", named(".."), ""},
		{"a variable for a name", named("$HOME"), ""},
		{"a shmem that is a path", in(`<devices><shmem name="../../etc/x"><model type="ivshmem-plain"/></shmem></devices>`), "the name must be that of a file in /dev/shm/"},
		{"a UUID that is a path", text(`<domain><name>g</name><uuid>../../../../etc/passwd</uuid><devices><shmem name="x"><model type="ivshmem-plain"/></shmem></devices></domain>`), "is not a UUID"},
	}
}

// Whatever comes in as a domain XML, there is a clear error within bounds of memory, of what is read and of what is said, and
// the host is as it was; and whatever libvirt's release then brings as XML, it stays so.
func TestHostileXML(t *testing.T) {
	t.Parallel()
	x := newBox(t, loadHost(t, "fern"), newBus(t))
	before := x.snapshot()
	docs := hostileXMLs(t)
	var most boundedCall
	for _, d := range docs {
		const argName = "g"
		doc := &counted{Reader: d.doc()}
		c := bounded(t, x.root, x.bus, doc, argName, "prepare", "begin", "-")
		t.Logf("%s: status %d, %d KiB, %v, %d bytes taken: %.120s", d.name, c.status, c.kib, c.took.Round(time.Millisecond), doc.n, c.stderr)
		if c.kib > most.kib {
			most = c
		}
		// The program reads 4 MiB and a byte; the rest is in pipes and their buffers.
		if doc.n > 5<<20 {
			t.Errorf("%s: %d bytes were taken", d.name, doc.n)
		}
		if c.stdout != "" {
			t.Errorf("%s: stdout, which libvirt would take for a domain, has %.100q", d.name, c.stdout)
		}
		if d.want == "" && (c.status != 0 || c.stderr != "") || d.want != "" && (c.status != 1 || !strings.Contains(c.stderr, d.want)) {
			t.Errorf("%s: status %d, want %q: %.500s", d.name, c.status, d.want, c.stderr)
		}
		if d.want != "" {
			lastLineIsShort(t, c.stderr)
			if n := strings.Count(c.stderr, "\n"); n > 102 || len(c.stderr) > 64<<10 {
				t.Errorf("%s: %d lines, %d bytes of error", d.name, n, len(c.stderr))
			}
			if diff := x.differs(before); diff != "" {
				t.Fatalf("%s: the host is not as before:\n%s", d.name, diff)
			}
		}
		if c := bounded(t, x.root, x.bus, d.doc(), argName, "release", "end", "failed"); c.status != 0 || c.stdout != "" {
			t.Errorf("%s: release ended with %d: %s", d.name, c.status, c.stderr)
		}
		if diff := x.differs(before); diff != "" {
			t.Fatalf("%s: after release the host is not as before:\n%s", d.name, diff)
		}
	}
	t.Logf("%d domain XMLs; the most memory was %d KiB", len(docs), most.kib)
	if c := bounded(t, x.root, x.bus, nil, "status"); c.status != 0 || len(c.stdout) > 64<<10 {
		t.Errorf("status ended with %d and prints %d bytes", c.status, len(c.stdout))
	}
}

// Command lines that nobody means: an error with status 2, or libvirt's call of something to be ignored; nothing is read, made
// or said on stdout.
func TestHostileArguments(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(root, "proc/sys/kernel/random"), 0o755))
	writeFile(t, filepath.Join(root, "proc/sys/kernel/random/boot_id"), "a boot\n", 0o444)
	before := treeOf(t, root)
	long := strings.Repeat("x", 100<<10) // of 128 KiB that an argument may have
	crowd := slices.Repeat([]string{"x"}, 10_000)
	n := 0
	for _, c := range []struct {
		status int
		args   []string
	}{
		{2, nil},
		{2, []string{""}},
		{2, []string{"", ""}},
		{2, []string{"-"}},
		{2, []string{"--"}},
		{2, []string{"\n"}},
		{2, []string{"\xff\xfe"}},
		{2, []string{"frobnicate"}},
		{2, []string{"g", "prepare"}},
		{2, []string{"g", "prepare", "begin"}},
		{2, []string{"g", "prepare", "begin", "-", "-"}},
		{2, []string{"g", "prepare", "middle", "-"}},
		{2, []string{"prepare", "g", "begin", "-", "-"}},
		{2, []string{"prepare", "--frob"}},
		{2, []string{"prepare", "--xml"}},
		{2, []string{"release", "a", "b", "c"}},
		{2, []string{"plan", "a", "b"}},
		{2, []string{"worker"}},
		{2, []string{"worker", "a", "b"}},
		{2, []string{"inhibit"}},
		{2, []string{"attend"}},
		{2, []string{"bind"}},
		{2, []string{"bind", "../../etc"}},
		{2, []string{"unbind", "0000:01:00.9"}},
		{2, []string{"holders", ""}},
		{2, []string{long}},
		{2, []string{"g", "prepare", "begin", long, long}},
		{2, crowd},
		{2, append([]string{"plan"}, crowd...)},
		{0, []string{long, "start", "begin", "-"}},
		{0, []string{"../../etc", "stopped", "end", "-"}},
		{0, []string{"g", "frobnicate", "begin", long}},
		{0, []string{"g\nh", "attach", "-", "\xff"}},
		{0, []string{"", "", "-", ""}},
	} {
		n++
		got := bounded(t, root, "unix:path=/nonexistent", nil, c.args...)
		if got.status != c.status || got.stdout != "" || (c.status == 0) != (got.stderr == "") || len(got.stderr) > 300<<10 {
			t.Errorf("%.80q: status %d, want %d; stdout %.80q, stderr %.200q", c.args, got.status, c.status, got.stdout, got.stderr)
		}
	}
	if after := treeOf(t, root); after != before {
		t.Errorf("something was made:\n%s", after)
	}
	t.Logf("%d command lines", n)
}

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
			above, err := os.MkdirTemp("", "qh") // a short path: the sentence has a limit
			must(t, err)
			t.Cleanup(func() { os.RemoveAll(above) })
			dir := filepath.Join(above, "d")
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
				lastLineIsShort(t, strings.TrimPrefix(text, "qemu-hook: error: "))
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
