package prepare_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

const (
	orderNodes  = 2
	orderPages  = 64 // of each node's pool at boot
	orderBackup = "backup.service"
	orderNVIDIA = "nvidia-persistenced.service"
)

// cardFunctions are the functions of the host's cards, in two IOMMU groups.
func cardFunctions(card int) []string {
	slot := []string{"0000:01:00", "0000:06:00"}[card]
	return []string{slot + ".0", slot + ".1"}
}

func orderUnits() []string { return []string{"init.scope", "system.slice", "user.slice"} }

// An orderSpec is what a domain asks for.
type orderSpec struct {
	cards []int
	cpus  string // one for each vCPU
	pages uint64
	node  int  // of the memory
	bound bool // to that node; else the program chooses
	shm   string
}

// orderSpecs are the definitions that each guest can have.
func orderSpecs() [][]orderSpec {
	return [][]orderSpec{
		{{[]int{0}, "2,3", 512, 0, true, "first"}, {[]int{0, 1}, "2,3", 256, 0, false, "first"}, {nil, "3", 600, 0, true, "shared"}},
		{{[]int{1}, "4,5", 512, 1, true, "shared"}, {[]int{1}, "5", 300, 1, true, ""}},
		{{[]int{0}, "3", 256, 0, false, "shared"}, {[]int{1}, "4,6", 400, 1, true, "second"}},
		{{nil, "7", 512, 1, false, "shared"}, {nil, "6,7", 0, 1, false, ""}},
	}
}

func (s orderSpec) functions() []string {
	var all []string
	for _, c := range s.cards {
		all = append(all, cardFunctions(c)...)
	}
	return all
}

func (s orderSpec) shares(o orderSpec) bool {
	return slices.ContainsFunc(s.cards, func(c int) bool { return slices.Contains(o.cards, c) })
}

func (s orderSpec) pins() cpuset.Set {
	set, _ := cpuset.ParseList(s.cpus)
	return set
}

// xml is the domain as libvirt would have it.
func (s orderSpec) xml(name, uuid string) string {
	var b strings.Builder
	cpus := strings.Split(s.cpus, ",")
	fmt.Fprintf(&b, "<domain type='kvm' id='1'>\n<name>%s</name>\n<uuid>%s</uuid>\n<memory unit='KiB'>%d</memory>\n", name, uuid, max(s.pages, 64)*2048)
	if s.pages > 0 {
		b.WriteString("<memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages></memoryBacking>\n")
	}
	fmt.Fprintf(&b, "<vcpu placement='static'>%d</vcpu>\n<cputune>", len(cpus))
	for i, c := range cpus {
		fmt.Fprintf(&b, "<vcpupin vcpu='%d' cpuset='%s'/>", i, c)
	}
	b.WriteString("</cputune>\n")
	if s.bound {
		fmt.Fprintf(&b, "<numatune><memory mode='strict' nodeset='%d'/></numatune>\n", s.node)
	}
	b.WriteString("<os><type arch='x86_64' machine='pc-q35-9.2'>hvm</type></os>\n<devices>\n")
	for _, f := range s.functions() {
		fmt.Fprintf(&b, "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x0000' bus='0x%s' slot='0x00' function='0x%s'/></source></hostdev>\n",
			f[5:7], f[11:])
	}
	if s.shm != "" {
		fmt.Fprintf(&b, "<shmem name='%s'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>\n", s.shm)
	}
	return b.String() + "</devices>\n</domain>\n"
}

func (s orderSpec) shmPath() string { return "/dev/shm/" + s.shm }

// orderState is where libvirt is with a guest.
type orderState int

const (
	stateOff      orderState = iota
	statePrepared            // the hook said yes, and QEMU is not there yet
	stateLaunched            // QEMU runs, and `started` is to come
	stateRunning
	stateDead // QEMU is gone, and libvirt owes a release
)

// An orderGuest is a domain, as libvirt and as the model of the program know it.
type orderGuest struct {
	name, uuid string
	spec       orderSpec // as defined
	live       orderSpec // as it was prepared last
	state      orderState
	pages      [orderNodes]uint64 // by node, where the domain leaves that open as the program chose
	pid        int
	saved      bool

	// held says that it has on record what live asks for, and unsure that a call about it was killed, which may have left
	// anything.
	held, unsure bool
	byHand       bool  // prepared by a person
	lost         bool  // by a daemon that has died: nobody owes it a release
	known        bool  // the program was told that it has started
	doubt        []int // cards that it may have on record besides, while unsure
}

func (g *orderGuest) needs(rt *rapid.T) *domain.Needs {
	n, err := domain.Parse(strings.NewReader(g.spec.xml(g.name, g.uuid)))
	if err != nil {
		rt.Fatal(err)
	}
	return n
}

// qemuRuns reports whether its QEMU is there.
func (g *orderGuest) qemuRuns() bool { return g.state == stateLaunched || g.state == stateRunning }

// starts reports whether what it has must be there: it starts or runs.
func (g *orderGuest) starts() bool { return g.state == statePrepared || g.qemuRuns() }

// promised are the pages of a node that it has coming.
func (g *orderGuest) promised(node int) uint64 {
	if g.held && (g.state == stateOff || g.state == statePrepared) {
		return g.pages[node]
	}
	return 0
}

// orderCounts is what a test has done.
type orderCounts struct {
	schedules, steps, calls, kills, prepared, refused, crashes, reboots, versions, byHand int
}

// An orderMachine is a host with libvirt, the program and an administrator.
type orderMachine struct {
	t      *rapid.T
	r      *rig
	count  *orderCounts
	fresh  *sysfstest.Host // as after a boot
	ghost  *sysfstest.Host // as it would be now without guests
	guests []*orderGuest
	spare  string // a name that no guest has
	pinned bool   // guests without functions claim CPUs too
	story  []string
	boots  int
	next   int // process id
	daemon int // libvirtd's process id, 0 while it is down

	ending    bool // nothing is killed any more
	unsettled bool // a call was killed, and none has ended well since
	hand      [2]bool
	handDoubt bool
	admin     map[string]cpuset.Set // AllowedCPUs by the administrator's hand
	pool      [orderNodes]uint64    // what the pool has without guests
	taken     [orderNodes]uint64    // pages in use by others
	forgiven  [orderNodes]uint64    // may have been counted as paid back
	owing     [orderNodes]bool      // others had pages that may be owed
	probe     map[string]bool       // functions that vfio-pci fails to take
	shm       map[string]bool       // files by the administrator's hand
	foreign   map[string]bool       // files that were swapped under a guest
	stopped   bool                  // backup was stopped for guests
	runs      bool                  // backup runs
	claims    map[string]bool       // whose UUIDs want it stopped
}

func newOrderMachine(t *testing.T, rt *rapid.T, fresh *sysfstest.Host, dir string, count *orderCounts) *orderMachine {
	m := &orderMachine{t: rt, fresh: fresh, count: count, next: 5000, spare: "spare", r: &rig{t: t, state: filepath.Join(dir, "state")}}
	config := "services.stop = [\"backup.service\"]\n"
	if m.pinned = rapid.Bool().Draw(rt, "pinned"); m.pinned {
		config += "cpus.isolate = \"pinned\"\n"
	}
	m.r.configure(config)
	for i, specs := range orderSpecs() {
		m.guests = append(m.guests, &orderGuest{
			name: []string{"win11", "-dash", "two words", "prepare"}[i], uuid: fmt.Sprintf("00000000-0000-4000-8000-%012d", i+1), spec: specs[0],
		})
	}
	m.boot()
	return m
}

// boot is the machine's start: nothing is as it was but what is on disks.
func (m *orderMachine) boot() {
	m.r.model, m.ghost = m.fresh.Clone(), m.fresh.Clone()
	m.r.boot = fmt.Sprint(m.boots)
	m.boots++
	for _, g := range m.guests {
		*g = orderGuest{name: g.name, uuid: g.uuid, spec: g.spec, saved: g.saved}
	}
	m.daemon, m.unsettled, m.hand, m.handDoubt = 0, false, [2]bool{}, false
	m.admin, m.probe = map[string]cpuset.Set{}, map[string]bool{}
	m.pool, m.taken, m.forgiven, m.owing = [orderNodes]uint64{orderPages, orderPages}, [orderNodes]uint64{}, [orderNodes]uint64{}, [orderNodes]bool{}
	m.shm, m.foreign = map[string]bool{}, map[string]bool{}
	m.stopped, m.runs, m.claims = false, true, map[string]bool{}
}

func (m *orderMachine) pick(n int) int { return rapid.IntRange(0, n-1).Draw(m.t, "pick") }

func (m *orderMachine) tell(format string, args ...any) {
	m.story = append(m.story, fmt.Sprintf(format, args...))
}

func (m *orderMachine) fail(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("%s\n%s", strings.Join(m.story, "\n"), fmt.Sprintf(format, args...))
}

// both has something done to the host, and to the one that it would be without guests.
func (m *orderMachine) both(f func(h *sysfstest.Host)) {
	f(m.r.model)
	f(m.ghost)
}

// claimsCPUs reports whether a guest has CPUs to itself.
func (m *orderMachine) claimsCPUs(s orderSpec) bool { return m.pinned || len(s.cards) > 0 }

// clean reports whether all that the program was asked to do it has done.
func (m *orderMachine) clean() bool {
	return !m.unsettled && !m.handDoubt && !slices.ContainsFunc(m.guests, func(g *orderGuest) bool { return g.unsure })
}

// idle reports whether nobody has anything.
func (m *orderMachine) idle() bool {
	return m.hand == [2]bool{} && !slices.ContainsFunc(m.guests, func(g *orderGuest) bool { return g.held || g.unsure || g.state != stateOff })
}

func (m *orderMachine) promised(node int) uint64 {
	var n uint64
	for _, g := range m.guests {
		n += g.promised(node)
	}
	return n
}

func (m *orderMachine) poolState(node int) sysfs.PoolState {
	s, err := m.r.model.FS().PoolState(sysfs.Pool{KiB: 2048, Node: node})
	if err != nil {
		m.fail("%v", err)
	}
	return s
}

func (m *orderMachine) driver(address string) string {
	d, err := m.r.model.FS().PCIDriver(address)
	if err != nil {
		m.fail("%v", err)
	}
	return d
}
