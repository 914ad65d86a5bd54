package sysfstest

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// tunable is a number with which the kernel can be tuned.
type tunable struct {
	name     string
	min, max int64
	twin     string // the same in another unit, in the same directory: 0 as soon as this one is set
	changed  bool   // but only when this one changes
}

// tunables are those of a host's files that react; the others take what they are given.
func tunables() []tunable {
	const vm, most = "/proc/sys/vm/", 1<<63 - 1
	const twoPages = 8192
	return []tunable{
		{name: vm + "swappiness", max: 200},
		{name: vm + "overcommit_memory", max: 2},
		{name: vm + "stat_interval", min: -1 << 31, max: 1<<31 - 1},
		{name: "/proc/sys/kernel/watchdog", max: 1},
		{name: "/sys/kernel/mm/ksm/run", max: 2},
		// dirty_ratio_handler and its neighbours in mm/page-writeback.c, overcommit_ratio_handler in mm/util.c
		{name: vm + "dirty_ratio", max: 100, twin: "dirty_bytes", changed: true},
		{name: vm + "dirty_bytes", min: twoPages, max: most, twin: "dirty_ratio", changed: true},
		{name: vm + "dirty_background_ratio", max: 100, twin: "dirty_background_bytes"},
		{name: vm + "dirty_background_bytes", min: 1, max: most, twin: "dirty_background_ratio"},
		{name: vm + "overcommit_ratio", max: most, twin: "overcommit_kbytes"},
		{name: vm + "overcommit_kbytes", max: most, twin: "overcommit_ratio"},
	}
}

// addTunable makes a file of the host file that reacts to a write, if it is such.
func (h *Host) addTunable(name, content string) bool {
	content = strings.TrimSpace(content)
	words, chosen := choice(content)
	if chosen && (realmOf(name) == sysfs_ || realmOf(name) == procSys) {
		h.keep(name, content, func(_ *Host, v string) (string, error) {
			v = strings.TrimSuffix(v, "\n") // sysfs_streq
			i := slices.Index(words, v)
			if i < 0 {
				return "", syscall.EINVAL
			}
			out := slices.Clone(words)
			out[i] = "[" + v + "]"
			return strings.Join(out, " "), nil
		})
		return true
	}
	for _, t := range tunables() {
		if t.name == name {
			h.keep(name, content, t.take)
			return true
		}
	}
	return false
}

// choice splits "always [madvise] never", and reports whether it is such.
func choice(s string) (words []string, ok bool) {
	words = strings.Fields(s)
	for i, w := range words {
		if len(words) > 1 && len(w) > 2 && w[0] == '[' && w[len(w)-1] == ']' {
			words[i], ok = w[1:len(w)-1], true
		}
	}
	return words, ok
}

// take is proc_dointvec_minmax.
func (t tunable) take(h *Host, v string) (string, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
	if err != nil || n < t.min || n > t.max {
		return "", syscall.EINVAL
	}
	next := strconv.FormatInt(n, 10)
	if t.twin != "" && (!t.changed || next+"\n" != h.kept(t.name)) {
		if twin := path.Dir(t.name) + "/" + t.twin; h.find(twin) != noNode {
			h.setKept(twin, "0")
		}
	}
	return next, nil
}

// SomebodyWrites has somebody else write to a file, which is no [Change]: a settings program, an administrator.
func (h *Host) SomebodyWrites(name, value string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, err := h.walk(name, true)
	if err != nil {
		return err
	}
	return h.store(n, 0, value)
}
