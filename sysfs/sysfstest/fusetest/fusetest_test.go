package fusetest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/sysfs/sysfstest/fusetest"
)

const gpu = "0000:08:00.0"

func load(t *testing.T) *sysfstest.Host {
	t.Helper()
	h, err := sysfstest.Load("../../../testdata/hosts/fern.txtar")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// shell starts a script that finds the host's tree in $R.
func shell(t *testing.T, dir, script string) (*exec.Cmd, *strings.Builder) {
	t.Helper()
	var out strings.Builder
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Env = append(os.Environ(), "R="+dir)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, &out
}

// TestFiles does with the mount what programs do with a host.
func TestFiles(t *testing.T) {
	for _, c := range []struct{ name, script, want string }{
		{"attribute", `stat -c %s $R/proc/meminfo $R/sys/bus/pci/devices/` + gpu + `/vendor; cat $R/sys/bus/pci/devices/` + gpu + `/vendor`, "0\n4096\n0x10de\n"},
		{"O_TRUNC is ignored", `echo vfio-pci >$R/sys/bus/pci/devices/` + gpu + `/driver_override; cat $R/sys/bus/pci/devices/` + gpu + `/driver_override`, "vfio-pci\n"},
		{"no new file in sysfs", `touch $R/sys/x 2>/dev/null || echo no; mkdir $R/sys/x 2>/dev/null || echo no; rm $R/sys/bus/pci/drivers_probe 2>/dev/null || echo no`, "no\nno\nno\n"},
		{"small file", `echo abc >$R/run/a; echo def >>$R/run/a; printf X | dd of=$R/run/a bs=1 seek=1 conv=notrunc 2>/dev/null; cat $R/run/a`, "aXc\ndef\n"},
		{"truncated on open", `echo abc >$R/run/a; echo d >$R/run/a; cat $R/run/a`, "d\n"},
		{"rename over", `echo a >$R/run/a; echo b >$R/run/b; mv $R/run/a $R/run/b; cat $R/run/b; ls $R/run | grep -c '^[ab]$'`, "a\n1\n"},
		{"directories", `mkdir -p $R/run/d/e; rmdir $R/run/d 2>/dev/null || echo full; rmdir $R/run/d/e $R/run/d; test -e $R/run/d || echo gone`, "full\ngone\n"},
		{"links", `ln -s b $R/run/a; echo x >$R/run/b; cat $R/run/a; readlink $R/run/a; ln $R/run/b $R/run/c; stat -c %h $R/run/c`, "x\nb\n2\n"},
		{"owner and mode", `: >$R/dev/shm/x; chown 1000:78 $R/dev/shm/x; chmod 660 $R/dev/shm/x; truncate -s 64M $R/dev/shm/x; stat -c '%u:%g %a %s' $R/dev/shm/x; stat -c %a $R/dev/shm`, "1000:78 660 67108864\n1777\n"},
		{"device", `stat -c '%F %t:%T %u:%g %a' $R/dev/kvmfr0`, "character special file f2:0 1000:78 660\n"},
		{"lock", `flock -n $R/run/lock true && echo ok`, "ok\n"},
		{"modprobe", `M=$R$(cat $R/proc/sys/kernel/modprobe); $M nouveau && echo in; $M nosuch 2>/dev/null || echo failed; cut -d' ' -f1 $R/proc/modules | head -1; cd $R/sys; $M -r nouveau && echo out`, "in\nfailed\nnouveau\nout\n"},
		{"the model's own files are not listed", `ls -A $R | grep -c model`, "0\n"},
		{"long listing", `ls $R/sys/devices/system/cpu | wc -l; find $R/sys -name driver_override | wc -l`, "27\n21\n"},
		{"a directory as root of all", `cat $R/sys/bus/pci/devices/` + gpu + `/driver/module/refcnt`, "1\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := load(t)
			cmd, out := shell(t, fusetest.Mount(t, h), c.script)
			_ = cmd.Wait()
			if out.String() != c.want {
				t.Errorf("got %q, want %q", out, c.want)
			}
		})
	}
}

// TestKill kills the program at each of its changes: that change is not made and none after it.
func TestKill(t *testing.T) {
	script := `D=$R/sys/bus/pci/devices/` + gpu + `
		echo intent >$R/run/log
		echo vfio-pci >$D/driver_override; echo ` + gpu + ` >$D/driver/unbind; echo ` + gpu + ` >$R/sys/bus/pci/drivers_probe
		rm $R/run/log`
	const all = 6 // create and write the log, three writes, unlink; all but the last by the shell itself
	for n := 1; n <= all+1; n++ {
		h := load(t)
		dir := fusetest.Mount(t, h)
		var victim int
		h.OnChange(func(c sysfstest.Change) error {
			if c.N < n {
				return nil
			}
			victim = c.PID
			if err := syscall.Kill(c.PID, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
			return syscall.EINTR
		})
		cmd, out := shell(t, dir, script)
		err := cmd.Wait()
		if !h.WaitIdle(time.Second) {
			t.Fatalf("change %d is still under way", n)
		}
		if n > all {
			if err != nil || h.Changes() != all {
				t.Errorf("%d changes, error %v, %s", h.Changes(), err, out)
			}
			continue
		}
		if n < all && (victim != cmd.Process.Pid || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
			t.Errorf("change %d: process %d killed, error %v, %s", n, victim, err, out)
		}
		if h.Changes() != n {
			t.Errorf("killed at change %d, %d were begun", n, h.Changes())
		}
		driver, _ := h.FS().PCIDriver(gpu)
		if want := []string{"nvidia", "nvidia", "nvidia", "nvidia", "", "vfio-pci"}[n-1]; driver != want {
			t.Errorf("killed at change %d: driver %q, want %q", n, driver, want)
		}
	}
}

// TestBlocked: a change that takes its time blocks its program only. SIGKILL frees that, unless a driver is at work.
func TestBlocked(t *testing.T) {
	for _, c := range []struct {
		name, file, value string
		killable          bool
	}{
		{"pages", "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages", "8", true},
		{"unbind", "/sys/bus/pci/drivers/nvidia/unbind", gpu, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := load(t)
			dir := fusetest.Mount(t, h)
			begun, release := make(chan struct{}), make(chan struct{})
			h.OnChange(func(sysfstest.Change) error {
				close(begun)
				<-release
				return nil
			})
			cmd, _ := shell(t, dir, "exec echo "+c.value+" >$R"+c.file)
			<-begun
			if b, err := os.ReadFile(filepath.Join(dir, "proc/cmdline")); err != nil || len(b) == 0 {
				t.Errorf("the host does not answer others meanwhile: %v", err)
			}
			// A signal that does not kill changes nothing.
			if err := cmd.Process.Signal(syscall.SIGURG); err != nil {
				t.Error(err)
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			select {
			case <-done:
				if !c.killable {
					t.Error("it died while the driver was at work")
				}
			case <-time.After(300 * time.Millisecond):
				if c.killable {
					t.Error("it does not die")
				}
			}
			close(release)
			if !c.killable {
				<-done
			}
			if !h.WaitIdle(time.Second) {
				t.Fatal("still under way")
			}
			// What was begun is finished, although nobody waits for it any more.
			f := h.FS()
			if driver, _ := f.PCIDriver(gpu); !c.killable && driver != "" {
				t.Errorf("driver %q", driver)
			}
			if n, _ := f.Read(c.file); c.killable && n != "8" {
				t.Errorf("%s pages", n)
			}
		})
	}
}

// TestAbandoned: the end of a test frees a program that waits for an answer that never comes.
func TestAbandoned(t *testing.T) {
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	var cmd *exec.Cmd
	t.Run("mount", func(t *testing.T) {
		h := load(t)
		dir := fusetest.Mount(t, h)
		begun := make(chan struct{})
		h.OnChange(func(sysfstest.Change) error {
			close(begun)
			<-never
			return nil
		})
		cmd, _ = shell(t, dir, "exec echo "+gpu+" >$R/sys/bus/pci/drivers/nvidia/unbind")
		<-begun
	})
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("the program still waits")
	}
}

// TestDriverWaits: a program that waits for a driver of the model, or for the lock of the function that it is busy with, dies
// of nothing; it goes on when the driver does.
func TestDriverWaits(t *testing.T) {
	const card = "0000:06:00.0"
	h, err := sysfstest.Load("../../../testdata/hosts/two-nvidia.txtar")
	if err != nil {
		t.Fatal(err)
	}
	dir := fusetest.Mount(t, h)
	var waiting []*exec.Cmd
	for i, c := range []string{
		"echo " + card + " >$R/sys/bus/pci/drivers/nvidia/unbind",
		"echo vfio-pci >$R/sys/bus/pci/devices/" + card + "/driver_override",
		"echo " + card + " >$R/sys/bus/pci/drivers_probe",
		"cat $R/sys/bus/pci/devices/" + card + "/driver_override",
	} {
		cmd, _ := shell(t, dir, "exec "+c)
		waiting = append(waiting, cmd)
		for h.Changes() < min(i+1, 3) {
			time.Sleep(time.Millisecond)
		}
	}
	time.Sleep(50 * time.Millisecond) // for the read to be under way
	var done [4]chan error
	for i, cmd := range waiting {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		done[i] = make(chan error, 1)
		go func() { done[i] <- cmd.Wait() }()
	}
	time.Sleep(200 * time.Millisecond)
	for i, d := range done {
		select {
		case <-d:
			t.Errorf("program %d died while the driver was at work", i)
		default:
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "proc/cmdline")); err != nil || len(b) == 0 {
		t.Errorf("the host does not answer others meanwhile: %v", err)
	}
	h.Unwedge(card)
	for _, d := range done {
		<-d
	}
	if !h.WaitIdle(time.Second) {
		t.Fatal("still under way")
	}
}
