package hook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"qemu-hook/cpuset"
	"qemu-hook/sysfs"
)

// A Mask is the set of CPUs on which something of the host's runs that claims have moved: an interrupt, a workqueue, a
// thread of the kernel's.
type Mask struct {
	// Was is the set before the first claim that moved it.
	Was cpuset.Set `json:"was"`
	// Now is what it was given last, or is being given; Had what it had before that.
	Now cpuset.Set `json:"now"`
	Had cpuset.Set `json:"had,omitzero"`
	// Moved says that a claim moved it: it can be moved.
	Moved bool `json:"moved,omitempty"`
}

// CountMoved counts the masks that are not as they were.
func CountMoved(masks map[string]*Mask) int {
	n := 0
	for _, m := range masks {
		if !m.Now.Equal(m.Was) {
			n++
		}
	}
	return n
}

// threadKey is a kernel thread's key among the masks; all other keys are paths. threadOf is its reverse.
func threadKey(p sysfs.Process) string { return fmt.Sprintf("thread %d %d", p.PID, p.Start) }

func threadOf(key string) (p sysfs.Process, ok bool) {
	rest, ok := strings.CutPrefix(key, "thread ")
	if !ok {
		return p, false
	}
	pid, start, _ := strings.Cut(rest, " ")
	var err1, err2 error
	p.PID, err1 = strconv.Atoi(pid)
	p.Start, err2 = strconv.ParseUint(start, 10, 64)
	return p, err1 == nil && err2 == nil
}

func isThread(key string) bool {
	_, ok := threadOf(key)
	return ok
}

func (h *Host) readMask(key string) (cpuset.Set, error) {
	if p, ok := threadOf(key); ok {
		if alive, err := p.Alive(h.FS); err != nil {
			return cpuset.Set{}, err
		} else if !alive {
			return cpuset.Set{}, syscall.ESRCH
		}
		return h.ThreadCPUs(p)
	}
	return h.ReadCPUs(key)
}

func (h *Host) writeMask(key string, cpus cpuset.Set) error {
	if p, ok := threadOf(key); ok {
		if err := h.SetAffinity(p.PID, p.Start, cpus); err != nil {
			return fmt.Errorf("cannot move the kernel's thread %d to CPUs %s: %w", p.PID, cpus, err)
		}
		return nil
	}
	return h.WriteCPUs(key, cpus)
}

// A settling brings masks of one kind to where the claims want them. All are looked at first, then the ledger is
// written, then the masks: each is read once, and written only if it is not as it should be.
type settling struct {
	h       *Host
	masks   map[string]*Mask // of the ledger
	claimed cpuset.Set       // what the host's work is to be kept off; empty when all goes back
	host    cpuset.Set       // what the host keeps
	online  cpuset.Set
	present cpuset.Set   // on line or not
	nodes   []cpuset.Set // CPUs of each NUMA node, read when first needed
	// inherit says what a mask would be that nobody has seen before, if no claim had been there when it was made; nil where
	// that cannot be. Where it can, all masks are remembered, those that need no move as well: they have been seen.
	inherit func(now cpuset.Set) (was cpuset.Set, ok bool)
	// own are masks that are to be this, by key.
	own map[string]cpuset.Set

	changed bool // the ledger
	writes  []string
	first   map[string]bool // what no claim has moved before
	left    []string        // what somebody else has set meanwhile
	refused int             // what the kernel moves itself, or nowhere
	errs    error
}

func (h *Host) newSettling(masks *map[string]*Mask, claimed cpuset.Set) (*settling, error) {
	if *masks == nil {
		*masks = map[string]*Mask{}
	}
	s := &settling{h: h, masks: *masks, claimed: claimed, first: map[string]bool{}}
	var err error
	if s.online, err = h.OnlineCPUs(); err == nil {
		s.present, err = h.PresentCPUs()
	}
	if err == nil {
		s.host, err = h.HostCPUs(claimed)
	}
	// Whatever cpus.host says: a guest's CPUs are not the host's.
	s.host = s.host.Minus(claimed)
	if err == nil && s.host.Intersect(s.online).Empty() {
		err = fmt.Errorf("cannot keep the host's work off CPUs %s: none would be left for it", claimed)
	}
	return s, err
}

// look decides about one mask.
func (s *settling) look(key string) {
	now, err := s.h.readMask(key)
	m := s.masks[key]
	switch {
	case vanished(err):
		if m != nil {
			s.forget(key)
		}
		return
	case err != nil:
		s.errs = errors.Join(s.errs, err)
		return
	}
	was := now
	switch {
	case m != nil && s.drifted(key, m, now):
		s.left = append(s.left, key)
		if s.claimed.Empty() {
			s.forget(key)
		}
		return
	case m != nil:
		was = m.Was
	case s.inherit != nil:
		if v, ok := s.inherit(now); ok {
			was = v
		}
	}
	want, err := s.want(key, was)
	if err != nil {
		s.errs = errors.Join(s.errs, err)
		return
	}
	right := s.same(key, now, want)
	switch {
	case right && want.Equal(was):
		if s.waits(key, now, was) {
			return // what is missing comes back with its CPUs, at a later event
		}
		switch keep := s.inherit != nil && !s.claimed.Empty(); {
		case m != nil && !keep:
			s.forget(key)
		case m == nil && keep:
			s.masks[key], s.changed = &Mask{Was: was, Now: now}, true
		}
	case m == nil:
		s.masks[key], s.changed = &Mask{Was: was, Now: want, Had: now}, true
	case !m.Now.Equal(want):
		m.Had, m.Now, s.changed = now, want, true
	}
	if !right {
		s.writes = append(s.writes, key)
		if m := s.masks[key]; !m.Moved && !want.Equal(was) {
			m.Moved, s.changed = true, true
			s.first[key] = true
		}
	}
}

// same compares masks. Of a thread's older kernels keep the CPUs that are on line only (cpuset_cpus_allowed in
// kernel/cgroup/cpuset.c).
func (s *settling) same(key string, a, b cpuset.Set) bool {
	if isThread(key) {
		return a.Intersect(s.online).Equal(b.Intersect(s.online))
	}
	return a.Equal(b)
}

// waits reports whether a thread lacks CPUs that are off line now and were not when it was looked at first: where the kernel
// takes those that are on line only, it gets them when they are back.
func (s *settling) waits(key string, now, was cpuset.Set) bool {
	return isThread(key) && s.masks[key] != nil && !was.Minus(now).Intersect(s.present.Minus(s.online)).Empty()
}

// lacks looks whether a thread that was moved back waits for CPUs, and notes what it has until then.
func (s *settling) lacks(key string, m *Mask) bool {
	if !isThread(key) || !m.Now.Equal(m.Was) || s.present.Equal(s.online) {
		return false
	}
	now, err := s.h.readMask(key)
	if err != nil || !s.waits(key, now, m.Was) {
		return false
	}
	m.Had = now
	return true
}

// vanished reports whether an error says that the file or thread is not there any more.
func vanished(err error) bool {
	return err != nil && (gone(err) == nil || errors.Is(err, syscall.ESRCH))
}

// immovable reports whether an error says that nobody may move an interrupt: it is managed by the kernel, or bound to a
// CPU (write_irq_affinity in kernel/irq/proc.c: EIO, EPERM in newer kernels); or that the host's CPUs have no vector left for it (ENOSPC).
func immovable(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC)
}

func (s *settling) forget(key string) {
	delete(s.masks, key)
	s.changed = true
}

// want is where the claims leave what was there before: of its own CPUs those that no guest has; if none is left, the
// host's on the same NUMA nodes, else all of the host's.
func (s *settling) want(key string, was cpuset.Set) (cpuset.Set, error) {
	if own, ok := s.own[key]; ok {
		return own, nil
	}
	if s.claimed.Empty() {
		if was.Intersect(s.online).Empty() {
			return s.host, nil // all it had are off line
		}
		return was, nil
	}
	left := was.Minus(s.claimed)
	if !left.Intersect(s.online).Empty() {
		return left, nil
	}
	if err := s.readNodes(); err != nil {
		return cpuset.Set{}, err
	}
	var near cpuset.Set
	for _, node := range s.nodes {
		if !node.Intersect(was).Empty() {
			near = near.Union(node)
		}
	}
	if near = near.Intersect(s.host); !near.Empty() {
		return near, nil
	}
	return s.host, nil
}

func (s *settling) readNodes() error {
	if s.nodes != nil {
		return nil
	}
	nodes, err := s.h.CPUNodes()
	if err != nil {
		return err
	}
	s.nodes = append([]cpuset.Set{}, nodes...) // none is an answer, too
	return nil
}

// drifted reports whether a mask is none that it had before or was given.
func (s *settling) drifted(key string, m *Mask, now cpuset.Set) bool {
	return !s.is(key, now, m.Was) && !s.is(key, now, m.Now) && (m.Had.Empty() || !s.is(key, now, m.Had))
}

// is reports whether a mask is this set still, as far as it is up to anybody but the kernel: when the last CPU of an
// interrupt's goes off line, it goes to all that are left, and stays there when the CPU is back.
func (s *settling) is(key string, now, set cpuset.Set) bool {
	if s.same(key, now, set) {
		return true
	}
	if !strings.HasSuffix(key, "/smp_affinity_list") {
		return false
	}
	if set.Intersect(s.online).Empty() {
		return s.online.Minus(now).Empty()
	}
	return set.Len() <= now.Len() && now.Intersect(set).Empty() && s.online.Minus(now).Equal(set)
}

// settle writes what look has decided. What the kernel does not let anybody move is counted, and is no error.
func (s *settling) settle(ctx context.Context) error {
	if s.changed {
		if err := s.h.SaveLedger(); err != nil {
			s.errs = errors.Join(s.errs, err)
			// What was there before needs no note: whoever comes next finds it as it is to be.
			s.writes = slices.DeleteFunc(s.writes, func(key string) bool { m := s.masks[key]; return !m.Now.Equal(m.Was) })
		}
	}
	changed := false
	for _, key := range s.writes {
		if err := context.Cause(ctx); err != nil {
			s.errs = errors.Join(s.errs, fmt.Errorf("interrupted before %s: %w", key, err))
			break
		}
		m := s.masks[key]
		err := s.h.writeMask(key, m.Now)
		// Interrupts that no claim has moved may be the kernel's own to move; threads are those of the running host, whatever
		// root this one has.
		refused := s.inherit != nil && key != sysfs.DefaultInterruptCPUs && immovable(err) && (!m.Now.Equal(m.Was) || !m.Moved) ||
			errors.Is(err, syscall.EOPNOTSUPP)
		if err != nil && !refused && !vanished(err) {
			// What it holds counts, whatever the write said.
			if now, rerr := s.h.readMask(key); rerr == nil && s.same(key, now, m.Now) {
				err = nil
			}
		}
		switch {
		case err == nil && s.lacks(key, m):
			changed = true
			continue
		case err == nil:
			// Back where it was, unless it has to be told from new ones.
			if m.Now.Equal(m.Was) && (s.claimed.Empty() || s.inherit == nil) {
				delete(s.masks, key)
				changed = true
			}
			continue
		case refused:
			s.refused++
		case vanished(err), isThread(key) && errors.Is(err, syscall.EINVAL):
			// EINVAL: a worker that was bound to its CPU since it was listed.
			delete(s.masks, key)
			changed = true
			continue
		default:
			s.errs = errors.Join(s.errs, err)
		}
		// It is where it was before this write.
		changed = true
		m.Moved = m.Moved && !s.first[key]
		if !m.Moved && (refused || m.Had.Equal(m.Was)) {
			delete(s.masks, key)
		} else {
			m.Now = m.Had
		}
	}
	if changed {
		s.errs = errors.Join(s.errs, s.h.SaveLedger())
	}
	return s.errs
}

// logLeft says how many masks were left to whoever set them meanwhile.
func (s *settling) logLeft(what string) {
	if n := len(s.left); n > 0 {
		severity := Warning
		if s.h.Ledger.Banned != nil {
			severity = Info // irqbalance moves them all the time
		}
		s.h.Logf(severity, "%d %s were set by somebody else meanwhile and are left as they are; the first is %s", n, what, s.left[0])
	}
}

// Drifted says which masks and settings somebody else has changed since claims set them, for people.
func (h *Host) Drifted() []string {
	var all []string
	online, err := h.OnlineCPUs()
	if err != nil {
		return nil
	}
	s := settling{online: online}
	for _, masks := range []map[string]*Mask{h.Ledger.Interrupts, h.Ledger.KernelWork} {
		for _, key := range sortedKeys(masks) {
			m := masks[key]
			if now, err := h.readMask(key); err == nil && s.drifted(key, m, now) {
				all = append(all, fmt.Sprintf("%s: %s instead of %s", key, now, m.Now))
			}
		}
	}
	for _, file := range sortedKeys(h.Ledger.Settings) {
		b := h.Ledger.Settings[file]
		if now, err := h.ReadSetting(file); err == nil && b.drifted(now) {
			all = append(all, fmt.Sprintf("%s: %q instead of %q", file, now, b.Now))
		}
	}
	return all
}
