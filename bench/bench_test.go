// Package bench measures what the hook costs: bench/run builds the programs and prints the table.
package bench

import (
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
			limit = over(fmt.Sprintf("%.1f", r.limit), best > r.limit)
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

// A road is one mount of the model and the trips made on it.
type road struct {
	prepare, release  call
	there, back, both costs
	asked             int // requests to the model in one trip
}

func newRoad(b *testing.B, mount func(testing.TB, *sysfstest.Host) string) (*road, *sysfstest.Host) {
	b.Helper()
	host, err := sysfstest.Load("../testdata/hosts/fern.txtar")
	if err != nil {
		b.Fatal(err)
	}
	root := mount(b, host)
	env := []string{"DBUS_SYSTEM_BUS_ADDRESS=" + systemdtest.Serve(b, host.Systemd())}
	domain := readDomain(b, "win11.xml")
	return &road{
		prepare: call{args: []string{*hookFlag, "--root", root, "win11", "prepare", "begin", "-"}, env: env, stdin: domain},
		release: call{args: []string{*hookFlag, "--root", root, "win11", "release", "end", "shutdown"}, env: env, stdin: domain},
	}, host
}

func (r *road) trip(b *testing.B) {
	b.Helper()
	before := reads(b)
	there, err := measure(r.prepare)
	if err != nil {
		b.Fatal(err)
	}
	back, err := measure(r.release)
	if err != nil {
		b.Fatal(err)
	}
	r.asked = reads(b) - before
	r.there, r.back = append(r.there, there), append(r.back, back)
	r.both = append(r.both, cost{there.wall + back.wall, there.cpu + back.cpu})
}

// roundTrip prepares and releases the first domain on the first host: the program with its worker, on the model behind
// FUSE and a bus. The model's own time is that of other processes and not counted. What each request to it costs the
// program, which the kernel suspends and wakes again as it never does for an attribute of a real host, is told by a
// second road on which the same trip takes more requests, and left out.
func roundTrip(b *testing.B) {
	short, host := newRoad(b, fusetest.Mount)
	long, _ := newRoad(b, fusetest.MountForgetful)
	before := host.Snapshot()
	for i := range *tripsFlag + 1 {
		short.trip(b)
		long.trip(b)
		if i > 0 {
			continue
		}
		// The second time it is the same, so once is proof enough that the whole way was gone.
		for line := range strings.Lines(sysfstest.Diff(before, host.Snapshot())) {
			// The hook's own directory stays, with the lock in it.
			if !strings.HasPrefix(line, "+ /run/qemu-hook") {
				b.Errorf("the host is not as before: %s", line)
			}
		}
		for _, r := range []*road{short, long} {
			r.there, r.back, r.both = nil, nil, nil
		}
	}
	fmt.Printf("\nA guest with three PCI functions, pinned CPUs, 16000 pages and a kvmfr device, on a model of a host; %d times:\n"+
		"the fastest | the median, in ms\n\n", *tripsFlag)
	row := func(name string, fastCPU, midCPU time.Duration, c costs, limit string) {
		fmt.Printf("| %-38s | %6s \\| %-6s | %6s \\| %-6s | %s |\n", name, ms(fastCPU), ms(midCPU), ms(fastest(c, wall)), ms(median(c, wall)), limit)
	}
	fmt.Printf("| %-38s | %-16s | %-16s | %s |\n", "the hook and its worker", "CPU", "wall", "limit")
	fmt.Printf("|---|---|---|---|\n")
	row("prepare", fastest(short.there, cpu), median(short.there, cpu), short.there, "")
	row("release", fastest(short.back, cpu), median(short.back, cpu), short.back, "")
	row("both", fastest(short.both, cpu), median(short.both, cpu), short.both, "")
	more := time.Duration(long.asked - short.asked)
	fast := (fastest(long.both, cpu) - fastest(short.both, cpu)) / more
	mid := (median(long.both, cpu) - median(short.both, cpu)) / more
	ownFast, ownMid := fastest(short.both, cpu)-time.Duration(short.asked)*fast, median(short.both, cpu)-time.Duration(short.asked)*mid
	row("both, without the model's door", ownFast, ownMid, short.both, over(ms(tripLimit), min(ownFast, ownMid) > tripLimit))
	fmt.Printf("\nThe door: %d requests to the model, each %.1f | %.1f µs of the hook's CPU for being suspended and woken, which no\n"+
		"attribute of a real host asks; told by the same trip with %d requests.\n",
		short.asked, float64(fast)/float64(time.Microsecond), float64(mid)/float64(time.Microsecond), long.asked)
}

// over marks a limit that was not kept. It is for people to judge: on a busy machine a figure says little.
func over(limit string, is bool) string {
	if is {
		return limit + " OVER"
	}
	return limit
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
