package prepare_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"qemu-hook/cpuset"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/hook/release"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

// administer is something that a person does to the host by hand.
func (m *orderMachine) administer() {
	g, card := m.guests[m.pick(len(m.guests))], m.pick(2)
	m.count.byHand++
	switch m.pick(14) {
	case 0, 1:
		m.changePool(m.pick(orderNodes))
	case 2, 3:
		m.takePages(m.pick(orderNodes))
	case 4:
		m.limit(orderUnits()[m.pick(3)])
	case 5:
		m.switchBackup()
	case 6:
		m.touchShm("/dev/shm/" + []string{"first", "second", "shared"}[m.pick(3)])
	case 7:
		m.rebind(card, []string{"snd_hda_intel", "vfio-pci", ""}[m.pick(3)])
	case 8:
		m.bind(card)
	case 9:
		m.unbind(card)
	case 10:
		m.recover([]string{"", g.name, hook.HandName}[m.pick(3)])
	case 11:
		if g.state == stateOff {
			m.prepare(g, hook.Caller{ByHand: true})
		}
	case 12:
		m.releaseByHand(g)
	case 13:
		f := cardFunctions(card)[m.pick(2)]
		m.probe[f] = !m.probe[f]
		m.tell("vfio-pci fails to take %s: %t", f, m.probe[f])
	}
}

// changePool writes nr_hugepages by hand: pages that are nobody's come or go. Not while a change of the program's own is
// half made, as nobody could tell the two apart.
func (m *orderMachine) changePool(node int) {
	if !m.clean() {
		return
	}
	s, n := m.poolState(node), uint64(1+m.pick(16))
	to := s.Persistent() + n
	if m.pick(2) == 0 {
		if n = min(n, s.Free-m.promised(node), m.pool[node]); n == 0 {
			return
		}
		to = s.Persistent() - n
		m.pool[node] -= n
		if m.owing[node] {
			m.forgiven[node] += n
		}
	} else {
		m.pool[node] += n
	}
	m.tell("somebody sets nr_hugepages of node %d from %d to %d", node, s.Persistent(), to)
	if err := m.r.model.FS().SetPool(sysfs.Pool{KiB: 2048, Node: node}, to); err != nil {
		m.fail("%v", err)
	}
}

// takePages has somebody else use pages that are free and promised to no guest, or end that.
func (m *orderMachine) takePages(node int) {
	s := m.poolState(node)
	n := min(uint64(1+m.pick(200)), s.Free-min(s.Free, m.promised(node)))
	change := int64(n)
	switch {
	case m.taken[node] > 0:
		n = 1 + uint64(m.pick(int(m.taken[node])))
		change = -int64(n)
		m.taken[node] -= n
		m.unsettled = true // what is owed now is paid at the next event
	case n == 0 || !m.clean():
		return
	default:
		m.taken[node] += n
		m.owing[node] = true
	}
	m.tell("somebody uses %+d pages of node %d", change, node)
	if err := m.r.model.UsePages(2048, node, change); err != nil {
		m.fail("%v", err)
	}
}

// limit sets AllowedCPUs of a unit to what no guest's claim leads to, or lifts that.
func (m *orderMachine) limit(unit string) {
	cpus := cpuset.Of(m.pick(2))
	if !m.admin[unit].Empty() {
		claimed := slices.ContainsFunc(m.guests, func(g *orderGuest) bool { return g.held && m.claimsCPUs(g.live) })
		if claimed || !m.clean() {
			return // it would be taken for the program's own
		}
		cpus = cpuset.Set{}
	}
	m.tell("somebody sets AllowedCPUs of %s to %q", unit, cpus)
	m.admin[unit] = cpus
	m.both(func(h *sysfstest.Host) {
		systemd := h.Systemd()
		systemd.Stale = sysfstest.StaleNever
		if err := systemd.SetAllowedCPUs(context.Background(), unit, cpus); err != nil {
			m.fail("%v", err)
		}
	})
}

// switchBackup starts a service, or stops it. One that was stopped for guests will be started after them all the same.
func (m *orderMachine) switchBackup() {
	if !m.clean() {
		return
	}
	do := func(h *sysfstest.Host) {
		err := h.Systemd().StartUnit(context.Background(), orderBackup)
		if m.runs {
			err = h.Systemd().StopUnit(context.Background(), orderBackup)
		}
		if err != nil {
			m.fail("%v", err)
		}
	}
	m.tell("somebody switches backup.service, which runs: %t", m.runs)
	do(m.r.model)
	if !m.stopped {
		do(m.ghost)
	}
	m.runs = !m.runs
}

// touchShm makes a file, removes it, or puts another in its place.
func (m *orderMachine) touchShm(path string) {
	used := slices.ContainsFunc(m.guests, func(g *orderGuest) bool {
		return (g.held || g.unsure) && (g.live.shmPath() == path || g.spec.shmPath() == path)
	})
	there := m.r.model.FS().Exists(path)
	touch := m.pick(2) == 0
	if !there && (used || !m.clean()) || !m.clean() && !used {
		return
	}
	m.tell("somebody removes %s and makes it anew: %t", path, touch || !there)
	m.r.model.Remove(path)
	if m.shm[path] = touch || !there; m.shm[path] {
		m.r.model.SetFile(path, "somebody's")
		m.r.model.SetSize(path, 4*mib)
		m.r.model.SetOwner(path, 0, 0, 0o600)
	}
	m.foreign[path] = used
}

// rebind gives the sound of a card that nobody has another driver by hand, or none.
func (m *orderMachine) rebind(card int, driver string) {
	has := func(g *orderGuest) bool {
		return (g.held || g.unsure) && slices.Contains(slices.Concat(g.live.cards, g.doubt), card)
	}
	if m.hand[card] || m.handDoubt || slices.ContainsFunc(m.guests, has) {
		return
	}
	f := cardFunctions(card)[1]
	if m.driver(f) == driver || m.probe[f] {
		return
	}
	m.tell("somebody gives %s the driver %q", f, driver)
	m.both(func(h *sysfstest.Host) {
		fs := h.FS()
		override := driver
		if driver != "vfio-pci" {
			override = ""
		}
		err := fs.SetPCIOverride(f, override)
		if now, _ := fs.PCIDriver(f); err == nil && now != "" {
			err = fs.Write(sysfs.PCIDriverAttr(now, "unbind"), f)
		}
		if err == nil && driver != "" {
			err = fs.Write(sysfs.PCIBus+"/drivers_probe", f)
		}
		if err != nil {
			m.fail("%v", err)
		}
	})
}

// bind is `qemu-hook bind` of a card.
func (m *orderMachine) bind(card int) {
	if m.handDoubt {
		return
	}
	certain, possible, moving := false, false, false
	for _, g := range m.guests {
		certain = certain || g.held && slices.Contains(g.live.cards, card) && !m.hand[card]
		possible = possible || g.unsure && slices.Contains(g.doubt, card)
	}
	for _, f := range cardFunctions(card) {
		certain = certain || m.probe[f] && m.driver(f) != "vfio-pci"
		moving = moving || m.driver(f) != "vfio-pci"
	}
	died, err := m.call(fmt.Sprintf("bind card %d", card), func(ctx context.Context, h *hook.Host) error {
		_, err := prepare.Bind(ctx, h, cardFunctions(card))
		return err
	})
	switch {
	case died:
		m.handDoubt = true
	case err != nil && !certain && !possible:
		m.fail("bind failed: %v", err)
	case err == nil && certain:
		m.fail("bind was not refused")
	case err == nil:
		m.hand[card] = true
		if moving && (m.runs || m.stopped) {
			m.claims[hook.HandUUID] = true
			m.stopped, m.runs = true, false
		}
	}
}

// unbind is `qemu-hook unbind` of a card, or of all that a killed bind may have left.
func (m *orderMachine) unbind(card int) {
	has := func(g *orderGuest) bool {
		return g.held && slices.Contains(g.live.cards, card) || g.unsure
	}
	if m.handDoubt || !m.hand[card] {
		if m.handDoubt && m.idle() || m.handDoubt && !slices.ContainsFunc(m.guests, func(g *orderGuest) bool { return g.held || g.unsure }) {
			m.unbindAll()
		}
		return
	}
	used := slices.ContainsFunc(m.guests, has)
	died, err := m.call(fmt.Sprintf("unbind card %d", card), func(ctx context.Context, h *hook.Host) error {
		return h.Unbind(ctx, cardFunctions(card))
	})
	switch {
	case died:
		m.handDoubt = true
	case err != nil && !used:
		m.fail("unbind failed: %v", err)
	case err == nil:
		for _, g := range m.guests {
			if g.held && slices.Contains(g.live.cards, card) {
				m.fail("unbind has taken a card from %s", g.name)
			}
		}
		if m.hand[card] = false; m.hand == [2]bool{} {
			delete(m.claims, hook.HandUUID)
		}
		m.settled()
	}
}

func (m *orderMachine) unbindAll() {
	died, err := m.call("unbind all", func(ctx context.Context, h *hook.Host) error { return h.UnbindAll(ctx) })
	switch {
	case died:
		m.handDoubt = true
	case err != nil:
		m.fail("unbind failed: %v", err)
	default:
		m.unboundAll()
		m.settled()
	}
}

func (m *orderMachine) unboundAll() {
	m.hand, m.handDoubt = [2]bool{}, false
	delete(m.claims, hook.HandUUID)
}

// releaseByHand is `qemu-hook release NAME`: what a guest has that runs or starts is not to be had.
func (m *orderMachine) releaseByHand(g *orderGuest) {
	died, err := m.call("by hand: release "+g.name, func(ctx context.Context, h *hook.Host) error {
		return release.Run(ctx, h, g.uuid, g.name, true)
	})
	starts := g.qemuRuns() || g.state == statePrepared && m.daemon != 0
	switch {
	case died && !starts:
		m.unknown(g)
	case err == nil && starts && !died:
		m.fail("released while it runs or starts")
	case err != nil && !starts && (g.state != stateDead || g.known):
		m.fail("release by hand failed: %v", err)
	case err == nil && !died:
		m.gone(g)
		m.settled()
	}
}

// records are the program's files and what they hold.
func (m *orderMachine) records() map[string]string {
	all := map[string]string{}
	entries, _ := os.ReadDir(m.r.state)
	for _, e := range entries {
		if e.Name() != "lock" {
			b, err := os.ReadFile(filepath.Join(m.r.state, e.Name()))
			if err != nil {
				m.fail("%v", err)
			}
			all[e.Name()] = string(b)
		}
	}
	return all
}

// newerLedger has a later version keep more in the ledger than this one knows, in the same format. This one does nothing
// then, and loses nothing; the later version is installed again.
func (m *orderMachine) newerLedger() {
	h := m.r.loaded()
	ledger := map[string]json.RawMessage{}
	found, err := m.r.journal().ReadDocument(hook.LedgerDocument, &ledger)
	if err != nil {
		m.fail("%v", err)
	}
	if !found {
		return
	}
	m.count.versions++
	if m.pick(2) == 0 || len(h.Ledger.Guests) == 0 {
		ledger["future"] = json.RawMessage(`{"a":1}`)
	} else {
		guests := map[string]map[string]json.RawMessage{}
		if err := json.Unmarshal(ledger["guests"], &guests); err != nil {
			m.fail("%v", err)
		}
		for _, g := range guests {
			g["future"] = json.RawMessage(`[]`)
		}
		if ledger["guests"], err = json.Marshal(guests); err != nil {
			m.fail("%v", err)
		}
	}
	was := m.records()[hook.LedgerDocument]
	if err := m.r.journal().WriteDocument(hook.LedgerDocument, ledger); err != nil {
		m.fail("%v", err)
	}
	records, changes := m.records(), m.r.model.Changes()
	g, by := m.guests[m.pick(len(m.guests))], m.daemonCaller()
	n := g.needs(m.t)
	op := m.pick(5)
	m.tell("a later version writes the ledger, this one is called (%d)", op)
	err = m.r.locked(func(h *hook.Host) error {
		ctx := context.Background()
		switch op {
		case 0:
			_, err := prepare.Run(ctx, h, n, by)
			return err
		case 1:
			return h.Started(ctx, g.uuid, g.name)
		case 2:
			return h.Reconnect(ctx, g.uuid, g.name, by)
		case 3:
			_, err := release.Recover(ctx, h, "")
			return err
		}
		return release.Run(ctx, h, g.uuid, g.name, false)
	})
	if err == nil || !strings.Contains(err.Error(), "newer qemu-hook") {
		m.fail("with a later version's ledger: %v", err)
	}
	if now := m.records(); m.r.model.Changes() != changes || fmt.Sprint(now) != fmt.Sprint(records) {
		m.fail("with a later version's ledger something was changed:\n%v\n%v", records, now)
	}
	if err := os.WriteFile(filepath.Join(m.r.state, hook.LedgerDocument), []byte(was), 0o600); err != nil {
		m.fail("%v", err)
	}
}

// newerRecord has a later version have made a change that this one does not know for a guest that is about to be released:
// it is reported and kept, and the rest is undone. The later version then undoes it.
func (m *orderMachine) newerRecord(g *orderGuest) {
	if !g.held || g.qemuRuns() || m.daemon == 0 || g.state == stateOff {
		return
	}
	m.count.versions++
	m.tell("a later version has made a change for %s", g.name)
	dir := m.r.journal()
	seq, err := dir.Append(g.uuid, "future.kind", map[string]int{"a": 1})
	if err != nil {
		m.fail("%v", err)
	}
	m.r.model.Remove(g.pidFile())
	err = m.r.locked(func(h *hook.Host) error { return release.Run(context.Background(), h, g.uuid, g.name, false) })
	if err == nil || !strings.Contains(err.Error(), "future.kind") {
		m.fail("release with a later version's record: %v", err)
	}
	records, err := dir.Records(g.uuid)
	if err != nil || len(records) != 1 || records[0].Kind != "future.kind" {
		m.fail("left on record: %v, %v", records, err)
	}
	if err := dir.Strike(g.uuid, seq); err != nil {
		m.fail("%v", err)
	}
	m.release(g, "again, by the later version")
}
