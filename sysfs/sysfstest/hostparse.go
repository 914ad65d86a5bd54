package sysfstest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/tools/txtar"

	"qemu-hook/cpuset"
)

// parser builds a host from the sections of its file.
type parser struct {
	h        *Host
	sections map[string][]string
	raw      []txtar.File
	err      error // the first of those that number and list met
}

// fail keeps the first error.
func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
}

func (p *parser) list(s string) cpuset.Set {
	set, err := cpuset.ParseList(s)
	if err != nil {
		p.fail("%q: %w", s, err)
	}
	return set
}

func (p *parser) number(s string, base int) int64 {
	n, err := strconv.ParseInt(s, base, 64)
	if err != nil {
		p.fail("%q is no number", s)
	}
	return n
}

// kib reads an amount: "30G", "512M", "4K".
func (p *parser) kib(s string) int64 {
	unit := map[string]int64{"K": 1, "M": 1 << 10, "G": 1 << 20, "T": 1 << 30}
	if s == "" || unit[s[len(s)-1:]] == 0 {
		p.fail("%q is no amount of memory", s)
		return 0
	}
	f, err := strconv.ParseFloat(s[:len(s)-1], 64)
	if err != nil {
		p.fail("%q is no amount of memory", s)
	}
	return int64(f * float64(unit[s[len(s)-1:]]))
}

// pairs splits "a=1 b c=2" into the words without "=" and the values of the others by key.
func pairs(fields []string) (words []string, values map[string][]string) {
	values = map[string][]string{}
	for _, f := range fields {
		if k, v, ok := strings.Cut(f, "="); ok {
			values[k] = append(values[k], v)
		} else {
			words = append(words, f)
		}
	}
	return words, values
}

// known reports keys that are not among those given.
func (p *parser) known(line string, values map[string][]string, keys ...string) {
	for k := range values {
		if !slices.Contains(keys, k) {
			p.fail("unknown key %q in %q", k, strings.TrimSpace(line))
		}
	}
}

// one returns the last value of a key, or def.
func one(values map[string][]string, key, def string) string {
	if v := values[key]; len(v) > 0 {
		return v[len(v)-1]
	}
	return def
}

// commas splits the values of a key at commas.
func commas(values []string) []string {
	var out []string
	for _, v := range values {
		out = append(out, strings.Split(v, ",")...)
	}
	return out
}

func (p *parser) mounts(lines []string) error {
	p.h.addMounts(lines)
	return p.err
}

func (p *parser) files(_ []string) error {
	for _, f := range p.raw {
		name := "/" + strings.Trim(f.Name, "/")
		mode := uint32(0o644)
		if realmOf(name) == procfs {
			mode = 0o444
		}
		if strings.HasSuffix(f.Name, "/") {
			p.h.mkdir(name)
			continue
		}
		if !p.h.addTunable(name, string(f.Data)) {
			p.h.text(name, mode, string(f.Data))
		}
	}
	return p.err
}

func (p *parser) devices(lines []string) error {
	for _, l := range lines {
		f := strings.Fields(l)
		if len(f) < 4 {
			return fmt.Errorf("cannot read %q", l)
		}
		typ := uint32(syscall.S_IFCHR)
		if f[1] == "b" {
			typ = syscall.S_IFBLK
		}
		major, minor, _ := strings.Cut(f[2], ":")
		mode := uint32(p.number(f[3], 8))
		n := p.h.device(f[0], typ, uint32(p.number(major, 10)), uint32(p.number(minor, 10)), mode)
		if len(f) > 4 {
			p.own(n, f[4])
		}
	}
	return p.err
}

func (p *parser) own(n Node, owner string) {
	uid, gid, _ := strings.Cut(owner, ":")
	p.h.inodes[n].uid, p.h.inodes[n].gid = int(p.number(uid, 10)), int(p.number(gid, 10))
}

func (p *parser) links(lines []string) error {
	for _, l := range lines {
		name, target, ok := strings.Cut(strings.TrimSpace(l), " -> ")
		if !ok {
			return fmt.Errorf("cannot read %q", l)
		}
		p.h.link(name, target)
	}
	return p.err
}

func (p *parser) owners(lines []string) error {
	for _, l := range lines {
		f := strings.Fields(l)
		n := p.h.find(f[0])
		if len(f) != 3 || n == noNode {
			return fmt.Errorf("cannot read %q", l)
		}
		p.h.inodes[n].mode = p.h.inodes[n].typ() | uint32(p.number(f[1], 8))
		p.own(n, f[2])
	}
	return p.err
}

func (p *parser) processes(lines []string) error {
	for _, l := range lines {
		words, v := pairs(strings.Fields(l))
		p.known(l, v, "uid", "cgroup", "open", "maps", "lets_go", "stubborn", "kthread", "bound", "affinity")
		if len(words) < 2 {
			return fmt.Errorf("cannot read %q", l)
		}
		p.h.addProcess(process{
			pid: int(p.number(words[0], 10)), uid: int(p.number(one(v, "uid", "0"), 10)), comm: words[1],
			cmdline: words[2:], cgroup: one(v, "cgroup", "/"), fds: append(heldFiles(commas(v["open"])), mappings(commas(v["maps"]))...),
			letsGo: one(v, "lets_go", "no") == "yes", stubborn: one(v, "stubborn", "no") == "yes",
			kthread: one(v, "kthread", "no") == "yes", bound: one(v, "bound", "no") == "yes", affinity: p.list(one(v, "affinity", "")),
		})
	}
	return p.err
}
