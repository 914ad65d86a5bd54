package sysfstest

import (
	"fmt"
	"strings"
	"syscall"

	"qemu-hook/cpuset"
)

const workqueueDir = "/sys/devices/virtual/workqueue"

// keep puts an attribute that holds what take makes of a write.
func (h *Host) keep(name, content string, take func(h *Host, v string) (string, error)) Node {
	n := h.rule(name, &attr{
		show: func(h *Host) (string, error) { return h.kept(name), nil },
		store: func(h *Host, v string) error {
			next, err := take(h, v)
			if err == nil {
				h.setKept(name, next)
			}
			return err
		},
	})
	h.inodes[n].data = content + "\n"
	return n
}

func (h *Host) kept(name string) string { return h.inodes[h.find(name)].data }

func (h *Host) setKept(name, content string) { h.inodes[h.find(name)].data = content + "\n" }

// workqueues reads the section of the host file.
func (p *parser) workqueues(lines []string) error {
	h := p.h
	if lines == nil {
		return nil
	}
	masks := map[string]cpuset.Set{"cpumask": h.cpus.possible, "writeback": h.cpus.possible, "watchdog": h.cpus.possible}
	for _, l := range lines {
		f := strings.Fields(l)
		if _, ok := masks[f[0]]; !ok || len(f) != 2 {
			return fmt.Errorf("cannot read %q", l)
		}
		masks[f[0]] = p.list(f[1])
	}
	// workqueue_set_unbound_cpumask in kernel/workqueue.c
	h.keep(workqueueDir+"/cpumask", h.mask(masks["cpumask"]), func(h *Host, v string) (string, error) {
		s, err := h.readMask(v)
		if s = s.Intersect(h.cpus.possible); err == nil && s.Empty() {
			err = syscall.EINVAL
		}
		return h.mask(s), err
	})
	// wq_cpumask_store: of one workqueue none at all will do, it falls back to the other file's
	writeback := workqueueDir + "/writeback"
	h.keep(writeback+"/cpumask", h.mask(masks["writeback"]), func(h *Host, v string) (string, error) {
		s, err := h.readMask(v)
		return h.mask(s.Intersect(h.cpus.possible)), err
	})
	h.link(writeback+"/subsystem", "/sys/bus/workqueue")
	h.link("/sys/bus/workqueue/devices/writeback", writeback)
	// proc_watchdog_cpumask in kernel/watchdog.c; the list is proc_do_large_bitmap's, as long as NR_CPUS
	h.keep("/proc/sys/kernel/watchdog_cpumask", masks["watchdog"].String(), func(h *Host, v string) (string, error) {
		s, err := cpuset.ParseList(strings.TrimSpace(v))
		if err != nil {
			return "", syscall.EINVAL
		}
		return s.Intersect(h.cpus.possible).String(), nil
	})
	return p.err
}
