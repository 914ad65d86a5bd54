package bench

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qemu-hook/sysfs"
)

var scansFlag = flag.Int("scans", 10, "how often the processes are looked through")

// A desktop with many programs: what the project's limit is for.
const (
	crowd        = 2000
	filesEach    = 30
	holdersLimit = 600 * time.Millisecond
)

// BenchmarkHolders looks for the holders of a card's nodes among real processes, and among a tenth of them.
func BenchmarkHolders(b *testing.B) {
	host, err := sysfs.New("/")
	if err != nil {
		b.Fatal(err)
	}
	node := someNode(b)
	nodes := []sysfs.DeviceNode{node}
	for i := range 9 { // as many as a card has; nobody holds these
		nodes = append(nodes, sysfs.DeviceNode{Path: "/dev/none" + strconv.Itoa(i), Rdev: unix.Mkdev(4000, uint32(i))})
	}
	c := newCrowd(b)
	fmt.Printf("\nThe holders of a card's nodes on the real /proc, looked for %d times: the fastest | the median, in ms\n\n", *scansFlag)
	fmt.Printf("| %-38s | %-16s | %-16s | %s |\n", "processes, each with 30 open files", "CPU", "wall", "limit")
	fmt.Printf("|---|---|---|---|\n")
	var few, many costs
	row := func(n int, limit string) (all costs) {
		before := c.others(b)
		c.grow(b, n)
		for range *scansFlag {
			one, found := scan(b, host, nodes)
			if !slices.Contains(found, c.pids[0]) {
				b.Fatalf("the process %d, which has %s open, is not among %v", c.pids[0], node.Path, found)
			}
			all = append(all, one)
		}
		if limit != "" {
			limit = over(limit, fastest(all, cpu) > holdersLimit)
		}
		fmt.Printf("| %-38s | %6s \\| %-6s | %6s \\| %-6s | %s |\n", fmt.Sprintf("%d, and %d others", n, before),
			ms(fastest(all, cpu)), ms(median(all, cpu)), ms(fastest(all, wall)), ms(median(all, wall)), limit)
		return all
	}
	few = row(crowd/10, "")
	many = row(crowd, ms(holdersLimit))
	fmt.Printf("\nTen times as many take %.1f | %.1f times the CPU.\n", ratio(fastest(many, cpu), fastest(few, cpu)), ratio(median(many, cpu), median(few, cpu)))
}

// someNode returns a device that anybody can open and hardly anybody does.
func someNode(b *testing.B) sysfs.DeviceNode {
	b.Helper()
	const name = "/dev/full"
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		b.Fatalf("there is no %s: %v", name, err)
	}
	return sysfs.DeviceNode{Path: name, Rdev: st.Rdev}
}

// scan looks once, and returns what that took and whom it found.
func scan(b *testing.B, host sysfs.FS, nodes []sysfs.DeviceNode) (cost, []int) {
	b.Helper()
	runtime.GC() // what was made before is not to be counted
	var before, after unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	holders, _, err := host.Holders(b.Context(), nodes)
	took := time.Since(start)
	if err != nil {
		b.Fatal(err)
	}
	if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
		b.Fatal(err)
	}
	used := func(u unix.Rusage) time.Duration { return time.Duration(u.Utime.Nano() + u.Stime.Nano()) }
	var pids []int
	for _, o := range holders {
		pids = append(pids, o.PID)
	}
	return cost{took, used(after) - used(before)}, pids
}

// crowded are processes that do nothing and have files open.
type crowded struct {
	program string
	files   []uintptr
	node    uintptr // the first of them has this one too
	pids    []int
}

func newCrowd(b *testing.B) *crowded {
	b.Helper()
	program, err := exec.LookPath("sleep")
	if err != nil {
		b.Fatal(err)
	}
	c := &crowded{program: program}
	dir := b.TempDir()
	open := func(name string, flags int) uintptr {
		f, err := os.OpenFile(name, flags, 0o600)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { f.Close() })
		return f.Fd()
	}
	for i := range filesEach {
		c.files = append(c.files, open(filepath.Join(dir, strconv.Itoa(i)), os.O_RDWR|os.O_CREATE))
	}
	c.node = open("/dev/full", os.O_RDONLY)
	// They die with the thread that started them, should this program be killed.
	runtime.LockOSThread()
	b.Cleanup(func() {
		for _, pid := range c.pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		for _, pid := range c.pids {
			_, _ = unix.Wait4(pid, nil, 0, nil)
		}
		runtime.UnlockOSThread()
	})
	return c
}

// grow makes the crowd n processes.
func (c *crowded) grow(b *testing.B, n int) {
	b.Helper()
	for len(c.pids) < n {
		files := c.files
		if len(c.pids) == 0 {
			files = append(slices.Clone(files[:len(files)-1]), c.node)
		}
		pid, err := syscall.ForkExec(c.program, []string{"sleep", "600"}, &syscall.ProcAttr{
			Dir: "/", Files: files, Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
		})
		if err != nil {
			b.Fatalf("cannot start process %d: %v", len(c.pids)+1, err)
		}
		c.pids = append(c.pids, pid)
	}
}

// others counts the processes of the machine that are not of the crowd.
func (c *crowded) others(b *testing.B) int {
	b.Helper()
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		b.Fatal(err)
	}
	return len(names) - len(c.pids)
}
