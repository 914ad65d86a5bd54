package sysfstest

import (
	"strconv"
	"strings"
	"syscall"

	"qemu-hook/cpuset"
)

const irqDir = "/proc/irq"

// irq is an interrupt. Its values are never changed in place.
type irq struct {
	n       int
	actions []string   // who handles it
	cpus    cpuset.Set // its affinity
	node    int        // -1 if none
	managed bool       // the kernel spreads a device's interrupts over the CPUs by itself
	perCPU  bool
	idle    bool   // nobody handles it
	msi     string // its name below the function that sends it, "" for what is no message
}

// still reports whether nobody may move the interrupt: irq_can_set_affinity_usr in kernel/irq/manage.c.
func (q *irq) still() bool { return q.managed || q.perCPU }

// addInterrupts makes what /proc/irq has beside the interrupts.
func (h *Host) addInterrupts() {
	h.rule(irqDir+"/default_smp_affinity", &attr{
		show: func(h *Host) (string, error) { return h.mask(h.irqDefault) + "\n", nil },
		store: func(h *Host, v string) error {
			s, err := h.readMask(v)
			if err == nil && s.Intersect(h.cpus.online).Empty() {
				err = syscall.EINVAL
			}
			if err == nil {
				h.irqDefault = s.Intersect(h.cpus.possible)
			}
			return err
		},
	})
}

// addIRQ makes the files of an interrupt: register_irq_proc and register_handler_proc in kernel/irq/proc.c.
func (h *Host) addIRQ(q *irq) {
	h.irqs[q.n] = q
	n, dir := q.n, irqDir+"/"+strconv.Itoa(q.n)+"/"
	rule := func(name string, format func(h *Host, s cpuset.Set) string, read func(h *Host, v string) (cpuset.Set, error)) {
		node := h.rule(dir+name, &attr{
			show:  func(h *Host) (string, error) { return format(h, h.irqs[n].cpus) + "\n", nil },
			store: func(h *Host, v string) error { return h.storeIRQ(n, v, read) },
		})
		const major, minor = 6, 11 // the files of what nobody may move are for reading only from there on
		if q.still() && h.kernel.atLeast(major, minor) {
			h.inodes[node].mode &^= 0o222
		}
	}
	rule("smp_affinity", (*Host).mask, (*Host).readMask)
	rule("smp_affinity_list", func(_ *Host, s cpuset.Set) string { return s.String() }, (*Host).readList)
	h.rule(dir+"effective_affinity_list", &attr{noise: true, show: func(h *Host) (string, error) {
		for cpu := range h.irqs[n].cpus.Intersect(h.cpus.online).All() {
			return strconv.Itoa(cpu) + "\n", nil // x86 sends it to one
		}
		return "\n", nil
	}})
	h.value(dir+"node", strconv.Itoa(q.node))
	h.rule(dir+"spurious", &attr{noise: true, show: func(*Host) (string, error) {
		return "count 0\nunhandled 0\nlast_unhandled 0 ms\n", nil
	}})
	for _, a := range q.actions {
		h.mkdir(dir + a)
	}
	if q.msi != "" {
		h.value(q.msi, "msix")
	}
}

// removeIRQ takes an interrupt away that its driver frees.
func (h *Host) removeIRQ(n int) {
	q := h.irqs[n]
	if q == nil {
		return
	}
	delete(h.irqs, n)
	h.erase(irqDir + "/" + strconv.Itoa(n))
	if q.msi != "" {
		h.erase(q.msi)
	}
}

// storeIRQ is write_irq_affinity in kernel/irq/proc.c.
func (h *Host) storeIRQ(n int, v string, read func(h *Host, v string) (cpuset.Set, error)) error {
	q := h.irqs[n]
	if q == nil {
		return syscall.EIO // gone since it was opened
	}
	if q.still() {
		const major, minor = 6, 12 // "genirq/proc: Change the return value for set affinity permission error"
		if h.kernel.atLeast(major, minor) {
			return syscall.EPERM
		}
		return syscall.EIO
	}
	s, err := read(h, v)
	if err == nil && s.Intersect(h.cpus.online).Empty() {
		err = syscall.EINVAL
	}
	if err == nil {
		q.cpus = s.Intersect(h.cpus.possible)
	}
	return err
}

// newIRQ is an interrupt that a driver has just requested. It goes where irq_setup_affinity in kernel/irq/manage.c puts it:
// to the default's CPUs that run, of its node if there are such.
func (h *Host) newIRQ(n, node int, action string) *irq {
	cpus := h.irqDefault.Intersect(h.cpus.online)
	if cpus.Empty() {
		cpus = h.cpus.online
	}
	if near := cpus.Intersect(h.nodeCPUs(node)); !near.Empty() {
		cpus = near
	}
	return &irq{n: n, node: node, actions: []string{action}, cpus: cpus}
}

// migrateIRQs has interrupts leave the CPUs that do not run any more: irq_migrate_all_off_this_cpu in
// kernel/irq/cpuhotplug.c. Only one that has nowhere left to go gets another affinity. What the kernel manages is shut down
// and keeps it.
func (h *Host) migrateIRQs() {
	for _, q := range h.irqs {
		if !q.still() && !q.idle && q.cpus.Intersect(h.cpus.online).Empty() {
			q.cpus = h.cpus.online
		}
	}
}

// requestIRQs has a function's driver request the function's interrupts; freeIRQs has it free them.
func (h *Host) requestIRQs(d *pciDevice) {
	for _, q := range d.irqs {
		h.addIRQ(h.withMSI(h.newIRQ(q.n, d.numa, q.action), d))
	}
}

func (h *Host) freeIRQs(d *pciDevice) {
	for _, q := range d.irqs {
		h.removeIRQ(q.n)
	}
	h.erase(d.path + "/msi_irqs")
}

func (h *Host) withMSI(q *irq, d *pciDevice) *irq {
	q.msi = d.path + "/msi_irqs/" + strconv.Itoa(q.n)
	return q
}

// AddIRQ has somebody request an interrupt, which goes where the default says, as one does that QEMU enables. An action
// that names a function in parentheses, "vfio-msix[0](0000:08:00.0)", makes it one of the function's.
func (h *Host) AddIRQ(n, node int, action string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := h.newIRQ(n, node, action)
	_, addr, _ := strings.Cut(action, "(")
	if d := h.pci[strings.TrimSuffix(addr, ")")]; d != nil {
		h.withMSI(q, d)
	}
	h.addIRQ(q)
}

// RemoveIRQ frees an interrupt.
func (h *Host) RemoveIRQ(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.removeIRQ(n)
}

// SetIRQ gives an interrupt an affinity, as somebody else does or the kernel itself.
func (h *Host) SetIRQ(n int, cpus cpuset.Set) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.irqs[n].cpus = cpus
}

// irqs reads the section of the host file.
func (p *parser) irqs(lines []string) error {
	h := p.h
	h.irqDefault = h.cpus.possible
	if lines == nil {
		return nil
	}
	h.addInterrupts()
	for _, l := range lines {
		words, v := pairs(strings.Fields(l))
		p.known(l, v, "affinity", "node", "managed", "percpu", "handler")
		if len(words) == 2 && words[0] == "default" {
			h.irqDefault = p.list(words[1])
			continue
		}
		node := int(p.number(one(v, "node", "-1"), 10))
		q := h.newIRQ(int(p.number(words[0], 10)), node, "")
		q.actions = words[1:]
		q.managed, q.perCPU = one(v, "managed", "no") == "yes", one(v, "percpu", "no") == "yes"
		q.idle = one(v, "handler", "yes") == "no"
		if a := one(v, "affinity", ""); a != "" {
			q.cpus = p.list(a)
		}
		if q.idle && len(q.actions) > 0 || h.irqs[q.n] != nil {
			p.fail("cannot read %q", l)
		}
		h.addIRQ(q)
	}
	return p.err
}

// ownIRQ is an interrupt that a function's own driver requests.
type ownIRQ struct {
	n      int
	action string
}

// ownIRQs reads "124:nvidia,125:nvidia".
func (p *parser) ownIRQs(values []string) []ownIRQ {
	var out []ownIRQ
	for _, s := range commas(values) {
		n, action, ok := strings.Cut(s, ":")
		if !ok || action == "" {
			p.fail("%q is no interrupt; want NUMBER:ACTION", s)
			continue
		}
		out = append(out, ownIRQ{int(p.number(n, 10)), action})
	}
	return out
}

// mask prints a set as this host's kernel does.
func (h *Host) mask(s cpuset.Set) string { return s.MaskWidth(h.cpus.ids) }

// readList is bitmap_parselist, readMask bitmap_parse of lib/bitmap-str.c.
func (h *Host) readList(v string) (cpuset.Set, error) {
	s, err := cpuset.ParseList(strings.TrimSpace(v))
	switch {
	case err != nil:
		return s, syscall.EINVAL
	case h.beyond(s):
		return s, syscall.ERANGE
	}
	return s, nil
}

func (h *Host) readMask(v string) (cpuset.Set, error) {
	v = strings.TrimSpace(v)
	s, err := cpuset.ParseMask(v)
	if err != nil || v == "" {
		return s, syscall.EINVAL
	}
	const bits, digits = 32, 8 // of what stands between commas
	chunks := 0
	for chunk := range strings.SplitSeq(v, ",") {
		chunks += (len(chunk) + digits - 1) / digits
	}
	if h.beyond(s) || chunks > (h.cpus.ids+bits-1)/bits {
		return s, syscall.EOVERFLOW
	}
	return s, nil
}

// beyond reports whether a set has a CPU for which a mask has no bit.
func (h *Host) beyond(s cpuset.Set) bool {
	for cpu := range s.All() {
		if cpu >= h.cpus.ids {
			return true
		}
	}
	return false
}
