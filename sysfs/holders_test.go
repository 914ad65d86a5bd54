package sysfs_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest/fusetest"
)

// childEnv tells this test's program what to do as a child: "open PATH", "name PATH" (opened as a mere name), "map PATH"
// (opened, mapped and closed again), "shut PATH" (opened and closed again), "tmpfs PATH", "node PATH MAJOR MINOR" and "block
// PATH MAJOR MINOR", separated by commas.
const childEnv = "QEMU_HOOK_TEST_CHILD"

func TestMain(m *testing.M) {
	if orders := os.Getenv(childEnv); orders != "" {
		child(orders)
	}
	os.Exit(m.Run())
}

// child is what the children of these tests do.
func child(orders string) {
	for order := range strings.SplitSeq(orders, ",") {
		f := strings.Fields(order)
		if err := obey(f); err != nil {
			fmt.Printf("%s: %v\n", order, err)
			os.Exit(1)
		}
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func obey(order []string) error {
	switch order[0] {
	case "tmpfs":
		return unix.Mount("none", order[1], "tmpfs", 0, "")
	case "node", "block":
		var major, minor uint32
		if _, err := fmt.Sscan(order[2]+" "+order[3], &major, &minor); err != nil {
			return err
		}
		mode := uint32(unix.S_IFCHR | 0o600)
		if order[0] == "block" {
			mode = unix.S_IFBLK | 0o600
		}
		return unix.Mknod(order[1], mode, int(unix.Mkdev(major, minor)))
	case "name":
		_, err := unix.Open(order[1], unix.O_PATH, 0)
		return err
	case "none":
		return nil
	}
	fd, err := unix.Open(order[1], unix.O_RDONLY, 0)
	if err != nil || order[0] == "open" {
		return err
	}
	if order[0] == "map" {
		if _, err := unix.Mmap(fd, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE); err != nil {
			return err
		}
	}
	return unix.Close(fd)
}

// startChild starts a child, and returns its number when it has what it is to have. The end of the test ends it.
func startChild(t *testing.T, ownMounts bool, orders ...string) int {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(orders, ","))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if ownMounts {
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	}
	// Pipes, so that it has no device open but those that it is told to open.
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	runtime.LockOSThread() // the child dies with the thread that started it
	if err := cmd.Start(); err != nil {
		runtime.UnlockOSThread()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		runtime.UnlockOSThread()
	})
	said, err := bufio.NewReader(out).ReadString('\n')
	if said != "ready\n" {
		t.Fatalf("the child says %q, error %v", said, err)
	}
	return cmd.Process.Pid
}

// realNode returns a node of this machine that can be opened by anybody.
func realNode(t *testing.T, name string) sysfs.DeviceNode {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		fusetest.Lacking(t, "there is no device %s: %v", name, err)
	}
	return sysfs.DeviceNode{Path: name, Rdev: st.Rdev, Kind: sysfs.NodeOther}
}

func realHost(t *testing.T) sysfs.FS {
	t.Helper()
	fs, err := sysfs.New("/")
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// nodesOf returns what the scan found a process to have: the nodes' paths.
func nodesOf(t *testing.T, fs sysfs.FS, pid int, nodes ...sysfs.DeviceNode) []string {
	t.Helper()
	holders, _, err := fs.Holders(t.Context(), nodes)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, o := range holders {
		if o.PID == pid {
			for _, n := range o.Nodes {
				found = append(found, n.Path)
			}
		}
	}
	return found
}

// TestHolders looks for real processes with real files: pitfall 3.
func TestHolders(t *testing.T) {
	fs := realHost(t)
	full, zero := realNode(t, "/dev/full"), realNode(t, "/dev/zero")
	elsewhere := full
	elsewhere.Path = "/dev/no-such-node" // a container's node has the number, not the path
	other := full
	other.Block = true
	gone := sysfs.DeviceNode{Path: "/dev/no-such-node", Rdev: unix.Mkdev(4095, 1)}
	for _, c := range []struct {
		name   string
		orders []string
		nodes  []sysfs.DeviceNode
		want   []string
	}{
		{"open", []string{"open /dev/full"}, []sysfs.DeviceNode{zero, full, gone}, []string{"/dev/full"}},
		{"open by number", []string{"open /dev/full"}, []sysfs.DeviceNode{elsewhere}, []string{"/dev/no-such-node"}},
		{"a block device of that number", []string{"open /dev/full"}, []sysfs.DeviceNode{other}, nil},
		{"both", []string{"open /dev/full", "open /dev/full", "open /dev/zero"}, []sysfs.DeviceNode{zero, full}, []string{"/dev/zero", "/dev/full"}},
		{"mapped", []string{"map /dev/zero"}, []sysfs.DeviceNode{full, zero}, []string{"/dev/zero"}},
		{"open and mapped", []string{"open /dev/zero", "map /dev/zero"}, []sysfs.DeviceNode{zero}, []string{"/dev/zero"}},
		{"closed again", []string{"shut /dev/full", "shut /dev/zero"}, []sysfs.DeviceNode{zero, full}, nil},
		{"neither", []string{"none"}, []sysfs.DeviceNode{zero, full}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			pid := startChild(t, false, c.orders...)
			if got := nodesOf(t, fs, pid, c.nodes...); !slices.Equal(got, c.want) {
				t.Errorf("it has %q, want %q", got, c.want)
			}
		})
	}
}

// TestHoldersWho: what is said of a holder.
func TestHoldersWho(t *testing.T) {
	fs, full := realHost(t), realNode(t, "/dev/full")
	pid := startChild(t, false, "open /dev/full")
	holders, _, err := fs.Holders(t.Context(), []sysfs.DeviceNode{full})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(holders, func(o sysfs.Holder) bool { return o.PID == pid })
	if i < 0 {
		t.Fatalf("it is not among %+v", holders)
	}
	o := holders[i]
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if alive, aerr := o.Alive(fs); err != nil || aerr != nil || !alive || o.Comm != strings.TrimSpace(string(comm)) || o.UID != os.Getuid() {
		t.Errorf("%+v, error %v; its command is %s", o, err, comm)
	}
	cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || o.Cgroup != "" && !strings.Contains(string(cgroup), ":"+o.Cgroup+"\n") {
		t.Errorf("cgroup %q, error %v, of %s", o.Cgroup, err, cgroup)
	}
	if fs.ProtectedProcess(o) {
		t.Error("a child is nobody's to protect")
	}
	for _, pid := range []int{os.Getpid(), os.Getppid()} {
		st, err := fs.ProcessStat(pid)
		if o := (sysfs.Holder{Process: sysfs.Process{PID: pid, Start: st.Start}}); err != nil || !fs.ProtectedProcess(o) {
			t.Errorf("%d: this process and those that it runs for are not to be ended, error %v", pid, err)
		}
		o := sysfs.Holder{Process: sysfs.Process{PID: pid, Start: st.Start + 1}}
		if pid > 1 && fs.ProtectedProcess(o) {
			t.Errorf("%d: it started at another time", pid)
		}
	}
	// This process has the test's own standard files open, and says nothing of itself.
	f, err := os.Open("/dev/full")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := nodesOf(t, fs, os.Getpid(), full); len(got) > 0 {
		t.Errorf("this process itself has %q", got)
	}
}

// TestHoldersOtherMounts: a process with a /dev of its own has a node with the number or, mapped, with the path of ours.
func TestHoldersOtherMounts(t *testing.T) {
	if os.Getuid() != 0 {
		fusetest.Lacking(t, "only root can make nodes and mount")
	}
	fs, zero := realHost(t), realNode(t, "/dev/zero")
	dir := t.TempDir()
	node := func(name string) sysfs.DeviceNode {
		return sysfs.DeviceNode{Path: filepath.Join(dir, name), Rdev: zero.Rdev}
	}
	a, b := node("a"), node("b")
	err := unix.Mknod(a.Path, unix.S_IFCHR|0o600, int(zero.Rdev))
	if err == nil {
		err = os.Link(a.Path, b.Path)
	}
	if err != nil {
		fusetest.Lacking(t, "no nodes can be made here: %v", err)
	}
	if f, err := os.Open(a.Path); err != nil {
		fusetest.Lacking(t, "nodes here cannot be opened: %v", err)
	} else {
		f.Close()
	}
	number := fmt.Sprint(unix.Major(zero.Rdev), " ", unix.Minor(zero.Rdev))
	for _, c := range []struct {
		name   string
		orders []string
		node   sysfs.DeviceNode
		found  bool
	}{
		{"open by another name", []string{"tmpfs " + dir, "node " + dir + "/x " + number, "open " + dir + "/x"}, a, true},
		{"mapped by another name, the node of another mount", []string{"tmpfs " + dir, "node " + dir + "/x " + number, "map " + dir + "/x"}, a, false},
		{"mapped by this name, the node of another mount", []string{"tmpfs " + dir, "node " + a.Path + " " + number, "map " + a.Path}, a, true},
		{"mapped by another name of this file", []string{"map " + a.Path}, b, true},
		{"a block device", []string{"block " + dir + "/disk 4000 1", "name " + dir + "/disk"}, sysfs.DeviceNode{Path: "/dev/none", Rdev: unix.Mkdev(4000, 1), Block: true}, true},
		{"a character device of that number", []string{"block " + dir + "/disk2 4000 1", "name " + dir + "/disk2"}, sysfs.DeviceNode{Path: "/dev/none", Rdev: unix.Mkdev(4000, 1)}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			pid := startChild(t, true, c.orders...)
			if got := nodesOf(t, fs, pid, c.node); (len(got) > 0) != c.found {
				t.Errorf("it has %q", got)
			}
		})
	}
}

// TestHoldersPassing: processes that end while they are looked at are no error.
func TestHoldersPassing(t *testing.T) {
	fs, full := realHost(t), realNode(t, "/dev/full")
	program, err := exec.LookPath("true")
	if err != nil {
		fusetest.Lacking(t, "%v", err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = exec.Command(program).Run()
				}
			}
		})
	}
	for range 20 {
		if _, _, err := fs.Holders(t.Context(), []sysfs.DeviceNode{full}); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := fs.Holders(ctx, []sysfs.DeviceNode{full}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if o, unseen, err := fs.Holders(ctx, nil); len(o) > 0 || unseen || err != nil {
		t.Errorf("of no nodes: %v, %v, error %v", o, unseen, err)
	}
}

// TestHoldersUnseen: an ordinary user cannot look at the processes of others, and is told.
func TestHoldersUnseen(t *testing.T) {
	fs, full := realHost(t), realNode(t, "/dev/full")
	pid := startChild(t, false, "open /dev/full")
	holders, unseen, err := fs.Holders(t.Context(), []sysfs.DeviceNode{full})
	if err != nil || !slices.ContainsFunc(holders, func(o sysfs.Holder) bool { return o.PID == pid }) {
		t.Fatalf("%v, error %v", holders, err)
	}
	if os.Getuid() != 0 {
		if !unseen {
			t.Error("the processes of others are not said to be unseen")
		}
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// One thread alone becomes another user; it ends with this function, as it is never unlocked.
		runtime.LockOSThread()
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			t.Errorf("cannot become another user: %v", errno)
			return
		}
		holders, unseen, err := fs.Holders(t.Context(), []sysfs.DeviceNode{full})
		if err != nil || !unseen || slices.ContainsFunc(holders, func(o sysfs.Holder) bool { return o.PID == pid }) {
			t.Errorf("as another user: %v, unseen %v, error %v", holders, unseen, err)
		}
	}()
	<-done
}

// A deadFS is a file system that after a while gives no answer, as one of a network that is gone.
type deadFS struct {
	fuse.RawFileSystem
	dead  atomic.Bool
	asked chan struct{} // one for each question that is not answered
	freed chan struct{}
}

const deadFile = 2

func deadAttr(out *fuse.Attr, node uint64) {
	out.Ino, out.Mode, out.Nlink = node, fuse.S_IFREG|0o444, 1
	if node == fuse.FUSE_ROOT_ID {
		out.Mode = fuse.S_IFDIR | 0o555
	}
}

func (d *deadFS) Lookup(_ <-chan struct{}, _ *fuse.InHeader, _ string, out *fuse.EntryOut) fuse.Status {
	out.NodeId = deadFile
	deadAttr(&out.Attr, deadFile)
	return fuse.OK
}

func (d *deadFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if d.dead.Load() {
		d.asked <- struct{}{}
		<-d.freed
	}
	deadAttr(&out.Attr, in.NodeId)
	return fuse.OK
}

func (d *deadFS) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.OK }

// TestHoldersDeadMount: a process that has a file open on a file system that does not answer keeps nobody waiting.
func TestHoldersDeadMount(t *testing.T) {
	fs, full := realHost(t), realNode(t, "/dev/full")
	dir := t.TempDir()
	d := &deadFS{RawFileSystem: fuse.NewDefaultRawFileSystem(), asked: make(chan struct{}, 16), freed: make(chan struct{})}
	server, err := fuse.NewServer(d, dir, &fuse.MountOptions{DirectMountStrict: true, FsName: "dead", Name: "dead", DisableXAttrs: true})
	if err != nil {
		fusetest.Lacking(t, "cannot mount on /dev/fuse as uid %d: %v", os.Geteuid(), err)
	}
	go server.Serve()
	if err := server.WaitMount(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(d.freed)
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	pid := startChild(t, false, "open "+dir+"/file", "open /dev/full")
	d.dead.Store(true)
	found := make(chan []string, 1)
	go func() { found <- nodesOf(t, fs, pid, full) }()
	const long = 20 * time.Second
	select {
	case got := <-found:
		if !slices.Equal(got, []string{"/dev/full"}) {
			t.Errorf("it has %q", got)
		}
	case <-d.asked:
		t.Fatal("the file system was asked")
	case <-time.After(long):
		t.Fatal("the scan does not return")
	}
	// A plain stat asks it: the test could have failed.
	go func() {
		var st unix.Stat_t
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, f := range fds {
			_ = unix.Stat(f, &st)
		}
	}()
	select {
	case <-d.asked:
	case <-time.After(long):
		t.Error("not even a plain stat asks the file system")
	}
}

// TestHoldersModel: both doors of the model, and what the cgroups say.
func TestHoldersModel(t *testing.T) {
	const id = "4f1c9b0a7d2e4f1c9b0a7d2e4f1c9b0a7d2e4f1c9b0a7d2e4f1c9b0a7d2e4f1c"
	h := modelHost(t, strings.ReplaceAll(`
-- cpus --
package 0 0-3
-- nodes --
0 cpus=0-3 total=8G free=4G
-- devices --
/dev/nvidia0 c 195:0 0666
/dev/dri/card0 c 226:0 0660
/dev/sda b 195:0 0660
-- processes --
700 systemd-logind cgroup=/system.slice/systemd-logind.service open=/dev/dri/card0
812 Xorg cgroup=/system.slice/display-manager.service open=/dev/nvidia0,/dev/null,/dev/dri/card0
900 firefox uid=1000 cgroup=/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox-7.scope open=/dev/nvidia0,/etc/none
901 bash uid=1000 cgroup=/user.slice/user-1000.slice/session-2.scope open=/dev/null
950 python3 cgroup=/system.slice/docker-ID.scope open=/dev/nvidia0
960 mount cgroup=/system.slice/x.service open=/dev/sda
970 ollama uid=990 cgroup=/system.slice/system-ollama.slice/ollama@1.service
1000 late open=/dev/dri/card0
`, "ID", id))
	// A host with the old hierarchies beside systemd's own.
	h.SetFile("/proc/700/cgroup", "9:devices:/of/another/hierarchy/than/that/of/systemd.service\n"+
		"1:name=systemd:/system.slice/systemd-logind.service\n0::/\n")
	h.SetFile("/proc/970/maps", `55d0c8a00000-55d0c8a21000 r--p 00000000 fd:01 1835049                    /usr/bin/ollama
7f10c0000000-7f10c0021000 rw-p 00000000 00:00 0 
7f10c8000000-7f10c8200000 rw-s 14f000000 00:99 77                        /dev/nvidia0 (deleted)
7ffd2a1e0000-7ffd2a201000 rw-p 00000000 00:00 0                          [stack]
`)
	nodes := []sysfs.DeviceNode{
		{Path: "/dev/nvidia0", Rdev: unix.Mkdev(195, 0), Kind: sysfs.NodeNVIDIA},
		{Path: "/dev/dri/card0", Rdev: unix.Mkdev(226, 0), Kind: sysfs.NodeDRM},
	}
	want := []string{
		"700 systemd-logind 0 [/dev/dri/card0] systemd-logind.service systemd-logind.service ",
		"812 Xorg 0 [/dev/nvidia0 /dev/dri/card0] display-manager.service display-manager.service ",
		"900 firefox 1000 [/dev/nvidia0] app-firefox-7.scope user@1000.service ",
		"950 python3 0 [/dev/nvidia0] docker-" + id + ".scope docker-" + id + ".scope " + id[:12],
		"970 ollama 990 [/dev/nvidia0] ollama@1.service ollama@1.service ",
		"1000 late 0 [/dev/dri/card0]   ",
	}
	for _, door := range []struct {
		name string
		open func(t *testing.T) sysfs.FS
	}{
		{"in process", func(*testing.T) sysfs.FS { return h.FS() }},
		{"FUSE", func(t *testing.T) sysfs.FS {
			fs, err := sysfs.New(fusetest.Mount(t, h))
			if err != nil {
				t.Fatal(err)
			}
			return fs
		}},
	} {
		t.Run(door.name, func(t *testing.T) {
			holders, unseen, err := door.open(t).Holders(t.Context(), nodes)
			if err != nil || unseen {
				t.Fatalf("unseen %v, error %v", unseen, err)
			}
			var got []string
			for _, o := range holders {
				var paths []string
				for _, n := range o.Nodes {
					paths = append(paths, n.Path)
				}
				got = append(got, fmt.Sprint(o.PID, " ", o.Comm, " ", o.UID, " ", paths, " ", o.Unit(), " ", o.SystemUnit(), " ", o.Container()))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	h.Remove("/proc/1")
	if _, unseen, err := h.FS().Holders(t.Context(), nodes); !unseen || err != nil {
		t.Errorf("a table without PID 1 hides processes: unseen %v, error %v", unseen, err)
	}
}

func TestHolderNames(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, c := range []struct{ cgroup, unit, system, container string }{
		{"", "", "", ""},
		{"/", "", "", ""},
		{"/init.scope", "init.scope", "init.scope", ""},
		{"/user.slice/user-1000.slice/user@1000.service/init.scope", "init.scope", "user@1000.service", ""},
		{"/user.slice/user-1000.slice/session-2.scope", "session-2.scope", "session-2.scope", ""},
		{"/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", "getty@tty1.service", ""},
		{"/system.slice/docker-desktop.service", "docker-desktop.service", "docker-desktop.service", ""},
		{"/system.slice/docker-" + id + ".scope", "docker-" + id + ".scope", "docker-" + id + ".scope", "0123456789ab"},
		{"/docker/" + id, "", "", "0123456789ab"},
		{"/machine.slice/libpod-" + id + ".scope/container", "libpod-" + id + ".scope", "libpod-" + id + ".scope", "0123456789ab"},
		{"/machine.slice/libpod-conmon-" + id + ".scope", "libpod-conmon-" + id + ".scope", "libpod-conmon-" + id + ".scope", ""},
		{"/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + id + ".scope", "cri-containerd-" + id + ".scope", "cri-containerd-" + id + ".scope", "0123456789ab"},
		{"/kubepods/besteffort/pod1/" + id, "", "", "0123456789ab"},
		{"/crio-" + id + ".scope", "crio-" + id + ".scope", "crio-" + id + ".scope", "0123456789ab"},
		{"/lxc.payload.games/system.slice/x.service", "x.service", "x.service", "games"},
		{`/machine.slice/machine-my\x2dlab.scope`, `machine-my\x2dlab.scope`, `machine-my\x2dlab.scope`, "my-lab"},
		{`/machine.slice/machine-qemu\x2d1\x2dwin11.scope/libvirt/emulator`, `machine-qemu\x2d1\x2dwin11.scope`, `machine-qemu\x2d1\x2dwin11.scope`, ""},
	} {
		o := sysfs.Holder{Cgroup: c.cgroup}
		if o.Unit() != c.unit || o.SystemUnit() != c.system || o.Container() != c.container {
			t.Errorf("%s: unit %q, system unit %q, container %q", c.cgroup, o.Unit(), o.SystemUnit(), o.Container())
		}
	}
}

func TestProtectedProcess(t *testing.T) {
	fs := modelHost(t, "-- cpus --\npackage 0 0-3\n-- nodes --\n0 cpus=0-3 total=8G free=4G\n").FS()
	const keeper, protected, neither = 2, 1, 0
	for _, c := range []struct {
		comm, cgroup string
		is           int
	}{
		{"systemd-logind", "", keeper},
		{"seatd", "", keeper},
		{".seatd-wrapped", "", keeper},
		{"elogind-daemon", "", keeper},
		{"systemd", "/user.slice/user-1000.slice/user@1000.service/init.scope", protected},
		{"dbus-daemon", "", protected},
		{"dbus-broker-lau", "", protected},
		{"dbus-broker", "", protected},
		{"libvirtd", "", protected},
		{".libvirtd-wrapp", "", protected},
		{"virtqemud", "", protected},
		{".virtqemud-wrap", "", protected},
		{"virtlogd", "", protected},
		{"virtproxyd", "", protected},
		{"virtnodedevd", "", protected},
		{"qemu-system-x86", "", protected},
		{".qemu-system-x8", "", protected},
		{"qemu-kvm", "", protected},
		{"kvm", "", protected},
		{"qemu:win11", `/machine.slice/machine-qemu\x2d1\x2dwin11.scope/libvirt/emulator`, protected},
		{"qemu-hook", "", protected},
		{"virt-manager", "", neither},
		{".virt-manager-w", "", neither},
		{"virt-viewer", "", neither},
		{"Xorg", "", neither},
		{"seatdance", "", neither},
		{"kvm-clock-gui", "", neither},
		{"", "", neither},
	} {
		o := sysfs.Holder{Process: sysfs.Process{PID: 4242, Start: 1}, Comm: c.comm, Cgroup: c.cgroup}
		if got := o.IsSessionKeeper(); got != (c.is == keeper) {
			t.Errorf("%s: keeps sessions: %v", c.comm, got)
		}
		if got := fs.ProtectedProcess(o); got != (c.is != neither) {
			t.Errorf("%s: protected: %v", c.comm, got)
		}
	}
	if o := (sysfs.Holder{Process: sysfs.Process{PID: 1}, Comm: "init"}); !o.IsSessionKeeper() || !fs.ProtectedProcess(o) {
		t.Error("PID 1 is not protected")
	}
}
