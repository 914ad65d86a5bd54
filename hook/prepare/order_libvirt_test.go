package prepare_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/hook/release"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// call has the program do something, as a process of its own, which may be killed at a change that it makes.
func (m *orderMachine) call(what string, f func(ctx context.Context, h *hook.Host) error) (died bool, err error) {
	m.count.calls++
	at, after := -1, false
	if !m.ending && m.pick(8) == 0 {
		at, after = m.r.model.Changes()+1+m.pick(45), m.pick(2) == 0
	}
	kill := func(c sysfstest.Change) {
		if c.N == at {
			what += fmt.Sprintf(", killed at %s %s %q", c.Op, c.Path, c.Value)
			panic(errKilled)
		}
	}
	m.r.model.OnChange(func(c sysfstest.Change) error {
		if !after {
			kill(c)
		}
		if c.Path == sysfs.PCIBus+"/drivers_probe" && m.probe[c.Value] {
			if to, _ := m.r.model.FS().PCIOverride(c.Value); to == "vfio-pci" {
				return syscall.EIO
			}
		}
		return nil
	})
	m.r.model.AfterChange(func(c sysfstest.Change) error {
		if after {
			kill(c)
		}
		return nil
	})
	before := m.backupRuns()
	died = killed(func() {
		err = m.r.locked(func(h *hook.Host) error { return f(context.Background(), h) })
	})
	m.r.model.OnChange(nil)
	m.r.model.AfterChange(nil)
	m.tell("%s: %v", what, err)
	if died {
		m.count.kills++
		m.unsettled = true
		if m.runs = m.backupRuns(); before && !m.runs {
			m.stopped = true
		}
	}
	return died, err
}

func (m *orderMachine) backupRuns() bool {
	runs, err := m.r.model.Systemd().UnitRuns(context.Background(), orderBackup)
	if err != nil {
		m.fail("%v", err)
	}
	return runs
}

// settled notes that all that is shared was settled.
func (m *orderMachine) settled() {
	m.unsettled = false
	if m.stopped && len(m.claims) == 0 && (m.clean() || m.backupRuns()) {
		m.stopped, m.runs = false, true
	}
}

// daemonCaller is libvirtd.
func (m *orderMachine) daemonCaller() hook.Caller {
	return hook.LibvirtCaller(m.r.model.FS(), m.daemon)
}

// refuses reports whether the guest is to be refused: certainly, or possibly, as nobody knows what a killed call has left.
func (m *orderMachine) refuses(g *orderGuest) (certain, possible bool) {
	for _, o := range m.guests {
		switch {
		case o == g:
		case o.held && g.spec.shares(o.live):
			certain = true
		case o.unsure && slices.ContainsFunc(g.spec.cards, func(c int) bool { return slices.Contains(o.doubt, c) }):
			possible = true
		}
	}
	for _, f := range g.spec.functions() {
		switch {
		case !m.probe[f]:
		case m.driver(f) != "vfio-pci" && !g.unsure:
			certain = true
		case g.unsure || g.known:
			possible = true // what it had is given back first
		}
	}
	return certain, possible
}

// prepare has the program prepare a guest, and says whether it may start.
func (m *orderMachine) prepare(g *orderGuest, by hook.Caller) (ok bool) {
	n := g.needs(m.t)
	certain, possible := m.refuses(g)
	// A service that somebody has started although others want it stopped is stopped again.
	exact := m.clean() && !g.held && !(m.runs && len(m.claims) > 0)
	var before *sysfstest.Snapshot
	if exact {
		before = m.r.snapshot()
	}
	moving := false
	for _, c := range g.spec.cards {
		for _, f := range cardFunctions(c) {
			moving = moving || m.driver(f) != "vfio-pci" || (g.held || g.unsure) && !m.hand[c]
		}
	}
	died, err := m.call("prepare "+g.name, func(ctx context.Context, h *hook.Host) error {
		_, err := prepare.Run(ctx, h, n, by)
		return err
	})
	switch {
	case died:
		g.doubt = slices.Concat(g.doubt, g.spec.cards)
		if g.held {
			g.doubt = append(g.doubt, g.live.cards...)
		}
		g.held, g.unsure, g.byHand, g.live = false, true, g.byHand || by.ByHand, g.spec
		return false
	case err != nil:
		m.count.refused++
		var refusal *hook.Refusal
		if !errors.As(err, &refusal) || slices.ContainsFunc(refusal.Reasons, func(r string) bool { return strings.Contains(r, "brought back") }) {
			m.fail("prepare failed: %v", err)
		}
		if !certain && !possible {
			m.fail("refused for no reason: %q", refusal.Reasons)
		}
		if exact {
			if diff := sysfstest.Diff(before, m.r.snapshot()); diff != "" {
				m.fail("a refused prepare left the host different:\n%s", diff)
			}
		}
		m.runs = m.backupRuns()
		m.gone(g)
		m.settled()
		return false
	case certain:
		m.fail("%s was not refused", g.name)
	}
	m.count.prepared++
	g.held, g.unsure, g.lost, g.known, g.doubt = true, false, false, false, nil
	g.live, g.byHand = g.spec, by.ByHand
	m.place(g)
	delete(m.claims, g.uuid)
	if moving && (m.runs || m.stopped) {
		m.claims[g.uuid] = true
		m.stopped, m.runs = true, false
	}
	return true
}

// place notes which nodes the guest's pages are to come from.
func (m *orderMachine) place(g *orderGuest) {
	g.pages = [orderNodes]uint64{}
	all := uint64(0)
	on := m.r.loaded().Ledger.Guests[g.uuid]
	if on == nil && len(g.live.cards) == 0 && g.live.shm == "" && g.live.pages == 0 {
		g.held = false // what has nothing of the host is not on record
		return
	}
	for _, p := range on.Claim.Pages {
		g.pages[p.Node] += p.Count
		all += p.Count
	}
	if all != g.live.pages || g.live.bound && g.pages[g.live.node] != all {
		m.fail("%s has %v pages, and asks for %d of node %d", g.name, g.pages, g.live.pages, g.live.node)
	}
}

// gone notes that a guest has nothing any more.
func (m *orderMachine) gone(g *orderGuest) {
	g.held, g.unsure, g.lost, g.byHand, g.known, g.doubt = false, false, false, false, false, nil
	delete(m.claims, g.uuid)
}

// unknown notes that nobody knows what a guest has left.
func (m *orderMachine) unknown(g *orderGuest) {
	if g.held {
		g.doubt = append(g.doubt, g.live.cards...)
		g.held, g.unsure = false, true
	}
}

// start is `virsh start`: libvirt asks the program, and sends a release if the answer is no.
func (m *orderMachine) start(g *orderGuest) {
	if g.saved {
		m.tell("restore %s", g.name)
		g.saved = false
	}
	if m.prepare(g, m.daemonCaller()) {
		g.state = statePrepared
		if m.pick(15) == 0 {
			m.crash()
		}
		return
	}
	if m.pick(10) == 0 {
		m.crash() // with its hook
		return
	}
	m.release(g, "failed")
}

func (g *orderGuest) scope() string {
	return fmt.Sprintf(`/machine.slice/machine-qemu\x2d%d\x2dguest.scope`, g.pid)
}

func (g *orderGuest) pidFile() string { return "/run/libvirt/qemu/" + g.name + ".pid" }

// launch is QEMU's start: it takes what the guest was promised.
func (m *orderMachine) launch(g *orderGuest) {
	m.tell("QEMU of %s starts", g.name)
	for _, o := range m.guests {
		if o != g && o.qemuRuns() && o.live.shares(g.live) {
			m.fail("%s and %s have the same card", o.name, g.name)
		}
	}
	m.next++
	g.pid = m.next
	open := []string{"/dev/vfio/vfio"}
	for _, c := range g.live.cards {
		open = append(open, []string{"/dev/vfio/13", "/dev/vfio/15"}[c])
	}
	for node, n := range g.pages {
		if err := m.r.model.UsePages(2048, node, int64(n)); err != nil {
			m.fail("QEMU finds no pages: %v", err)
		}
	}
	if g.live.shm != "" && !m.r.model.FS().Exists(g.live.shmPath()) {
		m.r.model.SetFile(g.live.shmPath(), "QEMU's own")
		m.shm[g.live.shmPath()] = true
	}
	m.r.model.AddCgroup(g.scope() + "/libvirt/emulator")
	m.r.model.AddProcess(sysfstest.Process{
		PID: g.pid, Comm: "qemu-system-x86", Cmdline: []string{"qemu-system-x86_64", "-name", "guest=" + g.name, "-uuid", g.uuid},
		Cgroup: g.scope() + "/libvirt/emulator", Open: open,
	})
	m.r.model.SetFile(fmt.Sprintf("/proc/%d/status", g.pid), fmt.Sprintf("Name:\tqemu\nUid:\t0\t0\t0\t0\nHugetlbPages:\t%d kB\n", g.live.pages*2048))
	m.r.model.SetFile(g.pidFile(), fmt.Sprintf("%d\n", g.pid))
	g.state = stateLaunched
}

// end is the end of QEMU, whatever brought it.
func (m *orderMachine) end(g *orderGuest, why string) {
	m.tell("QEMU of %s ends: %s", g.name, why)
	m.r.model.RemoveCgroup(g.scope())
	for node, n := range g.pages {
		if err := m.r.model.UsePages(2048, node, -int64(n)); err != nil {
			m.fail("%v", err)
		}
	}
	g.state = stateDead
}

// started is libvirt's event: if the hook fails, and dying is failing, the guest is killed.
func (m *orderMachine) started(g *orderGuest) {
	died, err := m.call("started "+g.name, func(ctx context.Context, h *hook.Host) error { return h.Started(ctx, g.uuid, g.name) })
	switch {
	case died:
		m.end(g, "libvirt kills it")
		m.release(g, "failed")
		return
	case err != nil:
		m.fail("started failed: %v", err)
	}
	g.state, g.known = stateRunning, true
}

// release is libvirt's last event of a run. What becomes of it libvirt does not mind.
func (m *orderMachine) release(g *orderGuest, why string) {
	m.r.model.Remove(g.pidFile())
	g.state = stateOff
	died, err := m.call(fmt.Sprintf("release %s (%s)", g.name, why), func(ctx context.Context, h *hook.Host) error {
		return release.Run(ctx, h, g.uuid, g.name, false)
	})
	switch {
	case died:
		m.unknown(g)
		return
	case err != nil:
		m.fail("release failed: %v", err)
	}
	m.gone(g)
	m.settled()
}

// crash is the end of libvirtd. What it had not written down is forgotten: a guest whose QEMU it has not started yet.
func (m *orderMachine) crash() {
	m.tell("libvirtd dies")
	m.count.crashes++
	m.both(func(h *sysfstest.Host) { h.RemoveProcess(m.daemon) })
	m.daemon = 0
	for _, g := range m.guests {
		if g.state == statePrepared {
			g.state, g.lost = stateOff, true
		}
	}
}

// startDaemon is the start of libvirtd, after that of the unit that runs `recover` where it is installed. It finds again
// what it had written down.
func (m *orderMachine) startDaemon() {
	if m.pick(2) == 0 {
		m.recover("")
	}
	m.next++
	m.daemon = m.next
	m.tell("libvirtd starts")
	m.both(func(h *sysfstest.Host) {
		h.AddProcess(sysfstest.Process{PID: m.daemon, Comm: "libvirtd", Cmdline: []string{"/usr/bin/libvirtd"}, Cgroup: "/system.slice/libvirtd.service"})
	})
	for _, g := range m.guests {
		switch g.state {
		case stateLaunched:
			m.end(g, "it was not started fully")
			m.release(g, "failed")
		case stateDead:
			m.release(g, "crashed")
		case stateRunning:
			m.reconnect(g)
		}
	}
}

func (m *orderMachine) reconnect(g *orderGuest) {
	by := m.daemonCaller()
	// What drifted is in the error, and the hook ends with 0 all the same.
	died, _ := m.call("reconnect "+g.name, func(ctx context.Context, h *hook.Host) error { return h.Reconnect(ctx, g.uuid, g.name, by) })
	if died {
		m.end(g, "libvirt kills it")
		m.release(g, "daemon")
		return
	}
	g.known = true
}

// recover is `qemu-hook recover`: for all, or for one guest.
func (m *orderMachine) recover(name string) {
	var all []release.Recovery
	died, err := m.call("recover "+name, func(ctx context.Context, h *hook.Host) (err error) {
		all, err = release.Recover(ctx, h, name)
		return err
	})
	keeps := func(g *orderGuest) bool { return g.qemuRuns() || g.state == statePrepared && m.daemon != 0 }
	switch {
	case died:
		for _, g := range m.guests {
			if !keeps(g) {
				m.unknown(g)
			}
		}
		if name == hook.HandName {
			m.handDoubt = true
		}
		return
	case err != nil && name == "":
		m.fail("recover failed: %v", err)
	}
	for _, r := range all {
		if r.UUID == hook.HandUUID {
			if r.Kept == "" && r.Err == nil {
				m.unboundAll()
			}
			continue
		}
		g := m.guests[slices.IndexFunc(m.guests, func(g *orderGuest) bool { return g.uuid == r.UUID })]
		byHand := g.byHand && name == ""
		switch {
		case r.Err != nil:
			m.fail("recover: %s: %v", r.Name, r.Err)
		case r.Kept == "" && (keeps(g) || g.held && byHand && g.state == stateOff):
			m.fail("recover has given back what %s had, which runs, starts, or was prepared by hand", r.Name)
		case r.Kept == "":
			m.gone(g)
		case g.state == stateOff && !byHand:
			m.fail("recover has kept what %s had: %s", r.Name, r.Kept)
		}
	}
	if name == "" {
		for _, g := range m.guests {
			listed := slices.ContainsFunc(all, func(r release.Recovery) bool { return r.UUID == g.uuid })
			if g.held && !listed {
				m.fail("%s is not on record", g.name)
			}
			if g.unsure && !listed {
				m.gone(g)
			}
		}
	}
	m.settled()
}

// wantPrepared wants the host to be as the guest's domain asks.
func (m *orderMachine) wantPrepared(g *orderGuest) {
	for _, f := range g.live.functions() {
		if d := m.driver(f); d != "vfio-pci" {
			m.fail("%s has %s, whose driver is %q", g.name, f, d)
		}
	}
	fs := m.r.model.FS()
	if path := g.live.shmPath(); g.live.shm != "" && !m.foreign[path] {
		if st, err := fs.Lstat(path); err != nil || st.Size < 4*mib {
			m.fail("%s of %s: %+v, %v", path, g.name, st, err)
		}
	}
	if !m.claimsCPUs(g.live) {
		return
	}
	for _, unit := range orderUnits() {
		cpus, ok, err := fs.EffectiveCPUs(unit)
		if err != nil || !ok {
			m.fail("%s: %v", unit, err)
		}
		if m.admin[unit].Empty() && !cpus.Intersect(g.live.pins()).Empty() {
			m.fail("%s runs on CPUs %s, which are %s's", unit, cpus, g.name)
		}
	}
}

// wantPool wants each pool to hold what guests were promised, and nobody's pages to be taken from under him.
func (m *orderMachine) wantPools() {
	for node := range orderNodes {
		s, used := m.poolState(node), m.taken[node]
		for _, g := range m.guests {
			if g.qemuRuns() {
				used += g.pages[node]
			}
		}
		switch {
		case s.InUse() != used || s.Surplus != 0:
			m.fail("node %d: %+v with %d pages in use", node, s, used)
		case s.Free < m.promised(node):
			m.fail("node %d: %d pages are free, and %d promised", node, s.Free, m.promised(node))
		case s.Persistent() < m.pool[node]:
			m.fail("node %d: %d pages, and %d were there before guests", node, s.Persistent(), m.pool[node])
		case m.clean() && m.idle():
			if most := max(m.pool[node]+m.forgiven[node], used); s.Persistent() > most {
				m.fail("node %d: %d pages are left of %d, %d in use", node, s.Persistent(), most, used)
			}
		}
	}
}
