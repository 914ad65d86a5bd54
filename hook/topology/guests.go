package topology

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"qemu-hook/cpuset"
	"qemu-hook/hook"
)

// Guests returns what guests have of a host, by the ledger and by the control groups of those that run, but for the one named:
// its UUID and its name. Those in the ledger come first.
func Guests(h *hook.Host, uuid, name string) []Guest {
	var all []Guest
	for id, g := range h.Ledger.Guests {
		if id == uuid {
			continue
		}
		c := &g.Claim
		one := Guest{Name: g.Name, CPUs: c.CPUs.Union(c.Partition).Union(c.Interrupts), PCI: c.PCI}
		for _, p := range c.Pages {
			one.Pages = append(one.Pages, Pages{p.Pool(), p.Count})
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Guest) int { return cmp.Compare(a.Name, b.Name) })
	// A guest that claims no CPUs may be pinned all the same.
	running, err := h.GuestCgroups()
	if err != nil {
		return all
	}
	for _, r := range running {
		scope := scopeName(r.Scope)
		if scope == name {
			continue
		}
		i := slices.IndexFunc(all, func(g Guest) bool { return g.Name == scope })
		if i >= 0 {
			all[i].CPUs = all[i].CPUs.Union(r.Pinned)
		} else if !r.Pinned.Empty() {
			all = append(all, Guest{Name: scope, CPUs: r.Pinned})
		}
	}
	return all
}

// scopeName returns the guest's name as its control group has it: machine-qemu\x2d3\x2dwin11.scope, where systemd writes the
// characters of a name that are none of a unit's by their numbers. libvirt leaves out what a host name may not have, and cuts it short.
func scopeName(scope string) string {
	s := strings.TrimSuffix(strings.TrimPrefix(scope, "machine-"), ".scope")
	var b strings.Builder
	for len(s) > 0 {
		if len(s) >= 4 && s[:2] == `\x` {
			if n, err := strconv.ParseUint(s[2:4], 16, 8); err == nil {
				b.WriteByte(byte(n))
				s = s[4:]
				continue
			}
		}
		b.WriteByte(s[0])
		s = s[1:]
	}
	s = strings.TrimPrefix(b.String(), "qemu-")
	if number, rest, ok := strings.Cut(s, "-"); ok && strings.Trim(number, "0123456789") == "" {
		return rest
	}
	return s
}

// Free returns the CPUs of a core that are no guest's.
func (c *Core) Free() cpuset.Set {
	var s cpuset.Set
	for _, t := range c.Threads {
		if len(t.Guests) == 0 {
			s = s.Union(cpuset.Of(t.CPU))
		}
	}
	return s
}
