package test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"qemu-hook/hook"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// crowd is the number of processes of the program that act on one host at once.
const crowd = 50

// crowdGuest is the i-th of many guests on the host two-cards: the first four want its two cards, two of them each, the others
// only memory, a CPU and a file.
func crowdGuest(i int) guest {
	g := guest{name: fmt.Sprintf("guest %d", i), uuid: fmt.Sprintf("00000000-0000-4000-8000-%012d", i)}
	var devices strings.Builder
	if i < 4 {
		for f := range 2 {
			fmt.Fprintf(&devices, "<hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x%s' slot='0x00' function='0x%d'/></source></hostdev>",
				[]string{"01", "06"}[i%2], f)
		}
	}
	fmt.Fprintf(&devices, "<shmem name='frames%d'><model type='ivshmem-plain'/><size unit='M'>1</size></shmem>", i)
	g.xml = fmt.Appendf(nil, `<domain type='kvm' id='%d'><name>%s</name><uuid>%s</uuid><memory unit='KiB'>%d</memory>
<memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages></memoryBacking>
<vcpu placement='static'>1</vcpu><cputune><vcpupin vcpu='0' cpuset='%d'/></cputune>
<numatune><memory mode='strict' nodeset='%d'/></numatune>
<devices>%s</devices></domain>
`, i+1, g.name, g.uuid, crowdPages*2048, 2+i%6, i%2, devices.String())
	return g
}

const crowdPages = 50 // of each guest

// A crowdCall is one process of many.
type crowdCall struct {
	*call
	what string
	g    *guest
}

// together runs all at once, in no order, and waits for them. Each ends by itself, with 0 or 1.
func (x *box) together(calls []func() crowdCall) []crowdCall {
	x.t.Helper()
	rand.Shuffle(len(calls), func(i, j int) { calls[i], calls[j] = calls[j], calls[i] })
	var running []crowdCall
	for _, c := range calls {
		running = append(running, c())
	}
	for _, c := range running {
		if status := x.wait(c.call); status != 0 && status != 1 {
			x.t.Errorf("%s ended with %d: %s", c.what, status, c.stderr.String())
		}
		if c.g != nil && c.stdout.Len() > 0 {
			x.t.Errorf("%s says %q on stdout", c.what, c.stdout.String())
		}
	}
	return running
}

func (x *box) event(g guest, op string) func() crowdCall {
	return func() crowdCall { return crowdCall{x.start(g.xml, g.event(op)...), op + " of " + g.name, &g} }
}

func (x *box) command(args ...string) func() crowdCall {
	return func() crowdCall { return crowdCall{x.start(nil, args...), strings.Join(args, " "), nil} }
}

// exit is how a call that has ended did so.
func (c crowdCall) exit() int { return c.cmd.ProcessState.ExitCode() }

// Fifty processes at once: whoever is prepared is on record, has what it asks for, and nobody else has it; when all are
// released the host is as before.
func TestCrowd(t *testing.T) {
	t.Parallel()
	x := newBox(t, loadHost(t, "two-cards"), newBus(t))
	x.writeConfig("services.stop = [\"backup.service\"]\ncpus.isolate = \"pinned\"\n")
	before := x.snapshot()
	var guests []guest
	for i := range 20 {
		guests = append(guests, crowdGuest(i))
	}
	processes := 0
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	for range rounds {
		// All start.
		var calls []func() crowdCall
		for _, g := range guests {
			calls = append(calls, x.event(g, "prepare"))
		}
		for len(calls) < crowd-10 {
			calls = append(calls, x.command("status"))
		}
		for i := range 10 {
			calls = append(calls, x.event(guests[i], []string{"started", "reconnect", "migrate"}[i%3]))
		}
		processes += len(calls)
		prepared := map[string]guest{}
		for _, c := range x.together(calls) {
			switch {
			case strings.HasPrefix(c.what, "prepare") && c.exit() == 0:
				prepared[c.g.uuid] = *c.g
			case strings.HasPrefix(c.what, "prepare"):
				if !strings.Contains(c.stderr.String(), "taken by guest") {
					t.Errorf("%s: %s", c.what, c.stderr.String())
				}
			case c.exit() != 0:
				t.Errorf("%s ended with %d: %s", c.what, c.exit(), c.stderr.String())
			}
		}
		if len(prepared) != len(guests)-2 {
			t.Errorf("%d of %d guests were prepared, want all but two, whose cards others have", len(prepared), len(guests))
		}
		x.wantOnRecord(prepared)

		// All are released, and others come and go meanwhile.
		calls = nil
		for _, g := range guests {
			calls = append(calls, x.event(g, "release"))
		}
		for i := range 10 {
			g := crowdGuest(100 + i)
			calls = append(calls, x.event(g, "prepare"), x.event(g, "release"))
		}
		for _, command := range []string{"bind", "unbind", "bind", "unbind"} {
			calls = append(calls, x.command(command, "0000:06:00.0", "0000:06:00.1"))
		}
		for len(calls) < crowd {
			calls = append(calls, x.command([]string{"recover", "status"}[len(calls)%2]))
		}
		processes += len(calls)
		for _, c := range x.together(calls) {
			if c.g != nil && c.exit() != 0 || strings.HasPrefix(c.what, "recover") && c.exit() != 0 {
				t.Errorf("%s ended with %d: %s", c.what, c.exit(), c.stderr.String())
			}
		}
		for i := range 10 {
			x.mustDo(crowdGuest(100+i), "release")
		}
		if status, _, _ := x.person("unbind", "0000:06:00.0", "0000:06:00.1"); status != 0 && status != 1 {
			t.Errorf("unbind ended with %d", status)
		}
		if diff := x.differs(before); diff != "" {
			t.Fatalf("after all were released the host is not as before:\n%s", diff)
		}
	}
	x.wantNoProcess()
	t.Logf("%d processes, %d at once", processes, crowd)
}

// wantOnRecord wants the ledger to name these guests and no others, and the host to hold what they were promised.
func (x *box) wantOnRecord(guests map[string]guest) {
	x.t.Helper()
	fs := x.model.FS()
	b, err := fs.ReadFile(stateDir + "/" + hook.LedgerDocument)
	var doc struct{ Data hook.Ledger }
	if err == nil {
		err = json.Unmarshal(b, &doc)
	}
	if err != nil {
		x.t.Fatal(err)
	}
	owner := map[string]string{}
	for uuid, g := range doc.Data.Guests {
		if guests[uuid].name != g.Name {
			x.t.Errorf("%s is on record, and was not prepared", g.Name)
		}
		for _, a := range g.Claim.PCI {
			if owner[a] != "" {
				x.t.Errorf("%s is %s's and %s's", a, owner[a], g.Name)
			}
			owner[a] = g.Name
			if d, err := fs.PCIDriver(a); err != nil || d != "vfio-pci" {
				x.t.Errorf("%s of %s is on %q, %v", a, g.Name, d, err)
			}
		}
	}
	var promised [2]uint64
	for uuid, g := range guests {
		if doc.Data.Guests[uuid] == nil {
			x.t.Errorf("%s was prepared, and is not on record", g.name)
		}
		var i int
		if _, err := fmt.Sscanf(g.name, "guest %d", &i); err != nil {
			x.t.Fatal(err)
		}
		if doc.Data.Guests[uuid] != nil && !doc.Data.Guests[uuid].Started {
			promised[i%2] += crowdPages
		}
		if !fs.Exists(fmt.Sprintf("/dev/shm/frames%d", i)) {
			x.t.Errorf("%s has no file", g.name)
		}
	}
	for node, n := range promised {
		if s, err := fs.PoolState(sysfs.Pool{KiB: 2048, Node: node}); err != nil || s.Free < n {
			x.t.Errorf("node %d has %d free pages, and %d are promised (%v)", node, s.Free, n, err)
		}
	}
	for _, unit := range []string{"user.slice", "system.slice", "init.scope"} {
		if cpus, ok, err := fs.EffectiveCPUs(unit); err != nil || !ok || cpus.Empty() || slices.Contains(slices.Collect(cpus.All()), 2) {
			x.t.Errorf("%s runs on %s (%v)", unit, cpus, err)
		}
	}
}

// Whoever waits for a process that holds the lock goes on when that ends. One that waits in vain is the test of the lock's
// deadline, in package hook.
func TestCrowdBehindOne(t *testing.T) {
	t.Parallel()
	x := newBox(t, loadHost(t, "two-cards"), newBus(t))
	before := x.snapshot()
	free, reached := make(chan struct{}), make(chan struct{})
	hold := sync.OnceFunc(func() { close(reached); <-free })
	x.model.OnChange(func(c sysfstest.Change) error {
		if strings.HasSuffix(c.Path, "/driver_override") {
			hold()
		}
		return nil
	})
	holder := x.start(crowdGuest(0).xml, crowdGuest(0).event("prepare")...)
	<-reached
	var waiting []crowdCall
	for i := range crowd - 1 {
		waiting = append(waiting, x.event(crowdGuest(4+i%16), []string{"prepare", "started", "release"}[i%3])())
	}
	select {
	case <-waiting[0].dead:
		t.Errorf("the first did not wait: %s", waiting[0].stderr.String())
	case <-time.After(200 * time.Millisecond):
	}
	if status, out, stderr := x.person("status"); status != 0 {
		t.Errorf("status, which waits for nobody, ended with %d: %s%s", status, out, stderr)
	}
	close(free)
	for _, c := range waiting {
		if status := x.wait(c.call); status != 0 {
			t.Errorf("%s ended with %d: %s", c.what, status, c.stderr.String())
		}
	}
	if status := x.wait(holder); status != 0 {
		t.Errorf("prepare ended with %d: %s", status, holder.stderr.String())
	}
	for i := range 20 {
		x.mustDo(crowdGuest(i), "release")
	}
	if diff := x.differs(before); diff != "" {
		t.Errorf("the host is not as before:\n%s", diff)
	}
	x.wantNoProcess()
}
