package prepare_test

import (
	"flag"
	"os"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"qemu-hook/sysfs/sysfstest"
)

// step is one thing that happens.
func (m *orderMachine) step() {
	m.count.steps++
	g := m.guests[m.pick(len(m.guests))]
	switch n := m.pick(40); {
	case m.daemon == 0 && n < 12:
		m.startDaemon()
	case n < 20:
		m.goOn(g)
	case n == 20: // several at once, as at the host's start
		for _, g := range m.guests {
			if g.state == stateOff && m.daemon != 0 {
				m.start(g)
			}
		}
	case n == 21 && g.state == stateRunning && len(g.live.cards) == 0 && m.daemon != 0:
		m.end(g, "it is saved")
		m.release(g, "saved")
		g.saved = true
	case n == 22 && g.qemuRuns():
		m.end(g, "it crashes")
	case n == 23 && m.daemon != 0:
		m.crash()
	case n == 24 && m.daemon != 0 && m.pick(2) == 0:
		m.tell("libvirtd is restarted")
		m.crash()
		m.startDaemon()
	case n == 25 && g.state == stateOff:
		m.tell("%s is renamed to %s", g.name, m.spare)
		g.name, m.spare = m.spare, g.name
	case n == 26 || n == 27:
		specs := orderSpecs()[slices.Index(m.guests, g)]
		g.spec = specs[m.pick(len(specs))]
		m.tell("%s is defined anew: %+v", g.name, g.spec)
		g.saved = false
	case n == 28:
		m.newerLedger()
	case n == 29:
		m.newerRecord(g)
	case n == 30 && m.pick(6) == 0:
		m.reboot()
	case n > 30:
		m.administer()
	}
	m.check()
}

// goOn has a guest go on as guests do.
func (m *orderMachine) goOn(g *orderGuest) {
	switch {
	case g.state == stateRunning:
		m.end(g, "it is shut down")
	case m.daemon == 0:
	case g.state == stateOff:
		m.start(g)
	case g.state == statePrepared && m.pick(6) == 0:
		m.release(g, "failed")
	case g.state == statePrepared:
		m.launch(g)
	case g.state == stateLaunched:
		m.started(g)
	case g.state == stateDead:
		m.release(g, "shutdown")
	}
}

// reboot is a reset of the machine. The state directory is gone with it, or is there from before.
func (m *orderMachine) reboot() {
	kept := m.pick(2) == 0
	m.tell("reboot, records kept: %t", kept)
	m.count.reboots++
	for _, h := range []*sysfstest.Host{m.r.model, m.ghost} {
		h.Close()
	}
	m.boot()
	if !kept {
		if err := os.RemoveAll(m.r.state); err != nil {
			m.fail("%v", err)
		}
	}
}

// check compares the host with what it is to be.
func (m *orderMachine) check() {
	fs := m.r.model.FS()
	for _, unit := range orderUnits() {
		cpus, ok, err := fs.EffectiveCPUs(unit)
		if err != nil || ok && cpus.Empty() {
			m.fail("%s runs on CPUs %q: %v", unit, cpus, err)
		}
	}
	m.wantPools()
	for _, g := range m.guests {
		if g.starts() {
			m.wantPrepared(g)
		}
	}
	if !m.clean() {
		return
	}
	if m.backupRuns() != m.runs {
		m.fail("backup.service runs: %t", m.backupRuns())
	}
	for c := range m.hand {
		has := m.hand[c] || slices.ContainsFunc(m.guests, func(g *orderGuest) bool { return g.held && slices.Contains(g.live.cards, c) })
		for _, f := range cardFunctions(c) {
			want, err := m.ghost.FS().PCIDriver(f)
			if has {
				want = "vfio-pci"
			}
			if got := m.driver(f); err != nil || got != want {
				m.fail("%s has the driver %q, want %q (%v)", f, got, want, err)
			}
		}
	}
	if m.idle() {
		m.wantAsBefore()
	}
}

// wantAsBefore wants the host to be as it would be if no guest had ever been, and nothing to be on record.
func (m *orderMachine) wantAsBefore() {
	h := m.r.loaded()
	logs, err := h.State.Guests()
	if err != nil || len(logs) > 0 || !h.Ledger.Empty() && m.taken == [orderNodes]uint64{} {
		m.fail("no guest runs, and on record is %v %v (%v)", logs, m.records(), err)
	}
	snapshot := func(h *sysfstest.Host) *sysfstest.Snapshot {
		return (&rig{model: h}).snapshot().Without("/dev/shm", "/sys/kernel/mm/hugepages", "/proc/sys/vm/nr_hugepages",
			"/sys/devices/system/node/node0/hugepages", "/sys/devices/system/node/node1/hugepages",
			// Numbers, of which the kernel gives the next.
			"/sys/devices/pci0000:00/0000:00:01.1/0000:01:00.1/vfio-dev", "/sys/devices/pci0000:00/0000:00:02.1/0000:06:00.1/vfio-dev")
	}
	if diff := sysfstest.Diff(snapshot(m.ghost), snapshot(m.r.model)); diff != "" {
		m.fail("no guest runs, and the host is not as before:\n%s", diff)
	}
	for _, name := range []string{"first", "second", "shared"} {
		path := "/dev/shm/" + name
		if there := m.r.model.FS().Exists(path); there != m.shm[path] {
			m.fail("%s is there: %t", path, there)
		}
		m.foreign[path] = false
	}
	for node := range orderNodes {
		if m.taken[node] == 0 {
			m.pool[node], m.forgiven[node], m.owing[node] = m.poolState(node).Persistent(), 0, false
		}
	}
}

// finish ends all that runs: libvirt sends what it owes, and a person takes back what persons did.
func (m *orderMachine) finish() {
	m.ending = true
	if m.daemon == 0 {
		m.startDaemon()
	}
	clear(m.probe)
	for _, g := range m.guests {
		if g.qemuRuns() {
			m.end(g, "it is shut down")
		}
		if g.state != stateOff {
			m.release(g, "shutdown")
		}
		if g.byHand {
			m.recover(g.uuid)
		}
	}
	for node := range orderNodes {
		if n := m.taken[node]; n > 0 {
			m.tell("nobody uses pages of node %d any more", node)
			if err := m.r.model.UsePages(2048, node, -int64(n)); err != nil {
				m.fail("%v", err)
			}
			m.taken[node] = 0
		}
	}
	m.recover("")
	m.unbindAll()
	if !m.clean() || !m.idle() {
		m.fail("something is left")
	}
	m.check()
}

// Whatever order guests come and go in, and whatever else happens meanwhile: a device belongs to one guest, the host has
// CPUs, the pools hold what was promised, a guest that starts finds what its domain asks for, and when none is left the
// host is as if there had been none.
func TestEveryOrder(t *testing.T) {
	fresh := newRig(t, "two-cards").model
	base := t.TempDir()
	var count orderCounts
	if checks := flag.Lookup("rapid.checks"); everyNth > 1 && checks.Value.String() == checks.DefValue {
		if err := checks.Value.Set(strconv.Itoa(100 / everyNth)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = checks.Value.Set(checks.DefValue) })
	}
	rapid.Check(t, func(rt *rapid.T) {
		count.schedules++
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		m := newOrderMachine(t, rt, fresh, dir, &count)
		defer func() {
			m.r.model.Close()
			m.ghost.Close()
		}()
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			m.step()
		}
		m.finish()
	})
	t.Logf("%d schedules of %d steps, %d calls of which %d were killed: %d guests prepared, %d refused; libvirtd died %d times, the machine %d times; "+
		"%d things done by hand, %d by a later version", count.schedules, count.steps, count.calls, count.kills, count.prepared, count.refused,
		count.crashes, count.reboots, count.byHand, count.versions)
}
