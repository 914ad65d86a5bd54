// Package bench measures what the hook costs: bench/run builds the programs and prints the table.
package bench

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/sysfs/sysfstest/fusetest"
	"qemu-hook/systemd/systemdtest"
)

var (
	hookFlag  = flag.String("hook", "", "the program")
	emptyFlag = flag.String("empty", "", "an empty Go program")
	runsFlag  = flag.Int("runs", 200, "how often each start is measured")
	tripsFlag = flag.Int("trips", 10, "how often a guest is prepared and released")
)

// Limits of the project's own. They are what the table is judged by.
const (
	ignoredLimit = 1.9 // of an empty program's CPU time
	tripLimit    = 12 * time.Millisecond
)

// BenchmarkTable prints the table. It is a benchmark so that no plain test run takes its time.
func BenchmarkTable(b *testing.B) {
	if *hookFlag == "" || *emptyFlag == "" {
		b.Skip("no programs are named: run it by bench/run")
	}
	startup(b)
	roundTrip(b)
}

// A cost is what one process took.
type cost struct{ wall, cpu time.Duration }

// costs are the runs of one program.
type costs []cost

func (c costs) sorted(of func(cost) time.Duration) []time.Duration {
	var all []time.Duration
	for _, one := range c {
		all = append(all, of(one))
	}
	slices.Sort(all)
	return all
}

func wall(c cost) time.Duration { return c.wall }
func cpu(c cost) time.Duration  { return c.cpu }

func fastest(c costs, of func(cost) time.Duration) time.Duration { return c.sorted(of)[0] }
func median(c costs, of func(cost) time.Duration) time.Duration  { return c.sorted(of)[len(c)/2] }

// A call is a command with what it gets on standard input, through a pipe as from libvirt.
type call struct {
	args  []string
	env   []string // on top of libvirt's own
	stdin []byte
}

// measure runs a command once. Its CPU time is that of its children too, as far as it waited for them.
func measure(c call) (cost, error) {
	cmd := exec.Command(c.args[0], c.args[1:]...)
	cmd.Env = append([]string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, c.env...)
	cmd.Dir = "/"
	r, w, err := os.Pipe()
	if err != nil {
		return cost{}, err
	}
	// A pipe holds 64 KiB: what is written before the start keeps this process out of the way.
	if _, err := w.Write(c.stdin); err != nil {
		return cost{}, err
	}
	w.Close()
	defer r.Close()
	errR, errW, err := os.Pipe()
	if err != nil {
		return cost{}, err
	}
	defer errR.Close()
	cmd.Stdin, cmd.Stderr = r, errW
	start := time.Now()
	err = cmd.Start()
	errW.Close()
	if err != nil {
		return cost{}, err
	}
	err = cmd.Wait()
	took := time.Since(start)
	if err != nil {
		said, _ := io.ReadAll(errR)
		return cost{}, fmt.Errorf("%v: %w: %s", c.args, err, said)
	}
	return cost{took, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}, nil
}

// startup compares the start of programs that have nothing to do.
func startup(b *testing.B) {
	domain := readDomain(b, "win11.xml")
	root := b.TempDir()
	write(b, filepath.Join(root, "proc/sys/kernel/random/boot_id"), "5a0b6c9e-0000-4000-8000-000000000000\n")
	hook := []string{*hookFlag, "--root", root}
	rows := []struct {
		name  string
		limit float64
		call  call
		costs costs
	}{
		{name: "an empty Go program", call: call{args: []string{*emptyFlag}, stdin: domain}},
		{name: "an event to ignore (start begin)", limit: ignoredLimit, call: call{args: []string{*hookFlag, "win11", "start", "begin", "-"}, stdin: domain}},
		{name: "release, nothing on record", call: call{args: append(hook, "win11", "release", "end", "shutdown"), stdin: domain}},
		{name: "prepare of a domain that needs nothing", call: call{args: append(hook, "nothing", "prepare", "begin", "-"), stdin: readDomain(b, "nothing.xml")}},
	}
	if bash, err := exec.LookPath("bash"); err == nil {
		script := filepath.Join(root, "hook.sh")
		write(b, script, "#!"+bash+"\nexit 0\n")
		if err := os.Chmod(script, 0o755); err != nil {
			b.Fatal(err)
		}
		rows = append(rows, rows[0])
		rows[len(rows)-1].name, rows[len(rows)-1].call.args = "a bash script of one line: exit 0", []string{script}
	}
	// In turns, so that whatever else the machine does meets all of them alike.
	const warmUp = 5
	for i := range *runsFlag + warmUp {
		for r := range rows {
			c, err := measure(rows[r].call)
			if err != nil {
				b.Fatal(err)
			}
			if i >= warmUp {
				rows[r].costs = append(rows[r].costs, c)
			}
		}
	}
	fmt.Printf("\nStart-up, %d runs each, in turns: the fastest | the median, in ms; × is against the empty program\n\n", *runsFlag)
	fmt.Printf("| %-38s | %-13s | %-13s | %-17s | %s |\n", "process", "CPU", "wall", "CPU ×", "limit")
	fmt.Printf("|---|---|---|---|---|\n")
	base := rows[0].costs
	for _, r := range rows {
		best := ratio(fastest(r.costs, cpu), fastest(base, cpu))
		limit := ""
		if r.limit > 0 {
			limit = fmt.Sprintf("%.1f", r.limit)
			if best > r.limit {
				limit += " OVER"
				b.Errorf("%s takes %.2f times the CPU of an empty program; the limit is %.1f", r.name, best, r.limit)
			}
		}
		fmt.Printf("| %-38s | %s \\| %s | %s \\| %s | **%.2f** \\| %.2f | %s |\n", r.name,
			ms(fastest(r.costs, cpu)), ms(median(r.costs, cpu)), ms(fastest(r.costs, wall)), ms(median(r.costs, wall)),
			best, ratio(median(r.costs, cpu), median(base, cpu)), limit)
	}
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

func ms(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond)) }

func readDomain(b *testing.B, name string) []byte {
	b.Helper()
	xml, err := os.ReadFile(filepath.Join("../testdata/domains", name))
	if err != nil {
		b.Fatal(err)
	}
	return xml
}

func write(b *testing.B, name, content string) {
	b.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		b.Fatal(err)
	}
}

// roundTrip prepares and releases the first domain on the first host: the program with its worker, on the model behind
// FUSE and a bus. The model's own time is that of other processes and not counted.
func roundTrip(b *testing.B) {
	host, err := sysfstest.Load("../testdata/hosts/fern.txtar")
	if err != nil {
		b.Fatal(err)
	}
	before := host.Snapshot()
	root := fusetest.Mount(b, host)
	env := []string{"DBUS_SYSTEM_BUS_ADDRESS=" + systemdtest.Serve(b, host.Systemd())}
	domain := readDomain(b, "win11.xml")
	prepare := call{args: []string{*hookFlag, "--root", root, "win11", "prepare", "begin", "-"}, env: env, stdin: domain}
	release := call{args: []string{*hookFlag, "--root", root, "win11", "release", "end", "shutdown"}, env: env, stdin: domain}
	door := newDoor(b, root)
	var there, back, both costs
	asked := 0
	for i := range *tripsFlag + 1 {
		var trip [2]cost
		requests := reads(b)
		for j, c := range []call{prepare, release} {
			if trip[j], err = measure(c); err != nil {
				b.Fatal(err)
			}
		}
		if i == 0 {
			// The second time it is the same, so once is proof enough that the whole way was gone.
			for line := range strings.Lines(sysfstest.Diff(before, host.Snapshot())) {
				// The hook's own directory stays, with the lock in it.
				if !strings.HasPrefix(line, "+ /run/qemu-hook") {
					b.Errorf("the host is not as before: %s", line)
				}
			}
			continue
		}
		asked = reads(b) - requests
		there = append(there, trip[0])
		back = append(back, trip[1])
		both = append(both, cost{trip[0].wall + trip[1].wall, trip[0].cpu + trip[1].cpu})
		door.measure(b)
	}
	fmt.Printf("\nA guest with three PCI functions, pinned CPUs, 16000 pages and a kvmfr device, on a model of a host; %d times:\n"+
		"the fastest | the median, in ms\n\n", *tripsFlag)
	row := func(name string, fastCPU, midCPU time.Duration, c costs, limit string) {
		fmt.Printf("| %-38s | %6s \\| %-6s | %6s \\| %-6s | %s |\n", name, ms(fastCPU), ms(midCPU), ms(fastest(c, wall)), ms(median(c, wall)), limit)
	}
	fmt.Printf("| %-38s | %-16s | %-16s | %s |\n", "the hook and its worker", "CPU", "wall", "limit")
	fmt.Printf("|---|---|---|---|\n")
	row("prepare", fastest(there, cpu), median(there, cpu), there, "")
	row("release", fastest(back, cpu), median(back, cpu), back, "")
	row("both", fastest(both, cpu), median(both, cpu), both, "")
	fast, mid := door.cost()
	ownFast, ownMid := fastest(both, cpu)-time.Duration(asked)*fast, median(both, cpu)-time.Duration(asked)*mid
	limit := ms(tripLimit)
	if own := min(ownFast, ownMid); own > tripLimit {
		limit += " OVER"
		b.Errorf("prepare and release take %s ms of CPU without the model's door; the limit is %s", ms(own), ms(tripLimit))
	}
	row("both, without the model's door", ownFast, ownMid, both, limit)
	fmt.Printf("\nThe door: %d requests to the model, each %.1f | %.1f µs of the hook's CPU, for a switch of processes that a real\n"+
		"kernel has no need of; measured by a plan on the model and on a plain copy of its files.\n",
		asked, float64(fast)/float64(time.Microsecond), float64(mid)/float64(time.Microsecond))
}

// door measures what a request to the model costs the process that makes it: the kernel suspends it and wakes the
// model's process, which no attribute of a real host does. It has the hook plan, which only reads, on the model and on
// a plain copy of its files.
type door struct {
	dirs   [2]string // the model, the copy
	used   [2]costs
	asked  int // requests of one plan
	domain []byte
}

func newDoor(b *testing.B, root string) *door {
	d := &door{dirs: [2]string{root, b.TempDir()}, domain: readDomain(b, "win11.xml")}
	if err := copyTree(root, d.dirs[1]); err != nil {
		b.Fatal(err)
	}
	return d
}

func (d *door) measure(b *testing.B) {
	for i, dir := range d.dirs {
		before := reads(b)
		c, err := measure(call{args: []string{*hookFlag, "--root", dir, "plan"}, stdin: d.domain})
		if err != nil {
			b.Fatal(err)
		}
		d.used[i] = append(d.used[i], c)
		if i == 0 {
			d.asked = reads(b) - before
		}
	}
}

// cost returns the CPU time of one request, by the fastest plans and by the medians.
func (d *door) cost() (fast, mid time.Duration) {
	n := time.Duration(d.asked)
	return (fastest(d.used[0], cpu) - fastest(d.used[1], cpu)) / n, (median(d.used[0], cpu) - median(d.used[1], cpu)) / n
}

// copyTree copies what a plan looks at.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(name string, d os.DirEntry, err error) error {
		rel, rerr := filepath.Rel(from, name)
		if err != nil || rerr != nil || rel == "." {
			return errors.Join(err, rerr)
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			return os.Mkdir(target, 0o755)
		case d.Type()&os.ModeSymlink != 0:
			link, err := os.Readlink(name)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		case d.Type()&os.ModeDevice != 0:
			var st unix.Stat_t
			if err := unix.Lstat(name, &st); err != nil {
				return err
			}
			return unix.Mknod(target, st.Mode, int(st.Rdev))
		case !d.Type().IsRegular():
			return nil
		}
		content, err := os.ReadFile(name)
		if err != nil {
			// What nobody can read, a plan does not read.
			return nil
		}
		return os.WriteFile(target, content, 0o644)
	})
}

// reads returns how many times this process has read from anything: the model reads each request from /dev/fuse.
func reads(b *testing.B) int {
	b.Helper()
	io, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(io)) {
		if v, ok := strings.CutPrefix(line, "syscr: "); ok {
			n, err := strconv.Atoi(strings.TrimSpace(v))
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatal("/proc/self/io has no syscr")
	return 0
}
