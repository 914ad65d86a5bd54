package scripts

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"syscall"

	"qemu-hook/hook"
	"qemu-hook/sysfs"
	"qemu-hook/text"
)

// HookDirs are where libvirt looks for hooks; NixOS has the second.
func HookDirs() []string { return []string{HooksDir, "/var/lib/libvirt/hooks"} }

// A Look says how to look at hooks.
type Look struct {
	// Owner is who may own what libvirt runs as root: root, or who stands for it.
	Owner int
	// Confined says that AppArmor confines libvirt and what it runs from the hooks' folder.
	Confined bool
}

// hooks is what libvirt runs of a folder, in its order.
type hooks struct {
	Tree
	entries []entryFile
	own     []string // the entries that are qemu-hook, of which there should be one
}

type entryFile struct {
	name, target string
	stat         sysfs.Stat
	err          error
}

// Around looks at the hooks of a host: whether libvirt can run them, and which do what qemu-hook does.
func Around(fs sysfs.FS, look Look) []hook.Finding {
	var all []hook.Finding
	for _, dir := range HookDirs() {
		if !fs.Exists(dir) {
			continue
		}
		h := readHooks(Tree{FS: fs, Dir: dir})
		all = append(all, h.files(look)...)
		report, err := Read(h.Tree)
		if err != nil {
			all = append(all, hook.Advise("cannot look at %s: %s; try sudo qemu-hook check", dir, cause(err)))
			continue
		}
		all = append(all, h.overlaps(report)...)
	}
	return all
}

func readHooks(t Tree) *hooks {
	h := &hooks{Tree: t}
	names := []string{path.Join(t.Dir, "qemu")}
	if more, err := t.ListIfAny(path.Join(t.Dir, "qemu.d")); err == nil {
		for _, n := range more {
			names = append(names, path.Join(t.Dir, "qemu.d", n))
		}
	}
	for _, name := range names {
		if !t.Exists(name) {
			continue
		}
		e := entryFile{name: name}
		if e.target, e.err = t.ResolveLinks(name); e.err == nil {
			e.stat, e.err = t.Lstat(e.target)
		}
		if e.err == nil && e.stat.Type() == syscall.S_IFDIR {
			continue
		}
		h.entries = append(h.entries, e)
		if t.isOurs(name) {
			h.own = append(h.own, name)
		}
	}
	return h
}

// runs reports whether libvirt runs the entry.
func (e entryFile) runs() bool {
	return e.err == nil && e.stat.Type() == syscall.S_IFREG && e.stat.Mode&0o111 != 0
}

// files looks at who may change and run the hooks.
func (h *hooks) files(look Look) []hook.Finding {
	var all []hook.Finding
	for _, dir := range []string{h.Dir, path.Join(h.Dir, "qemu.d")} {
		if st, err := h.Lstat(dir); err == nil {
			all = append(all, trust(dir, st, look)...)
		}
	}
	if len(h.own) > 1 {
		all = append(all, hook.Advise("%s are all qemu-hook, and libvirt runs each of them at every event; remove all but one, or let qemu-hook install --replace do it", text.Line(strings.Join(h.own, ", "))))
	}
	for _, e := range h.entries {
		own := slices.Contains(h.own, e.name)
		switch {
		case e.err != nil:
			all = append(all, hook.Finding{Certain: own, Text: fmt.Sprintf("%s leads to %s, which is not there, and libvirt passes over it in silence; remove the link, or install the program", text.Line(e.name), text.Line(e.target))})
		case !e.runs():
			all = append(all, hook.Finding{Certain: own, Text: fmt.Sprintf("%s cannot be executed, and libvirt passes over it in silence; chmod 0755 %s", text.Line(e.name), text.Line(e.target))})
		default:
			all = append(all, trust(e.target, e.stat, look)...)
		}
		program := slices.Contains([]string{"/bin", "/sbin", "/usr/bin", "/usr/sbin"}, path.Dir(e.target))
		if own && look.Confined && !program {
			all = append(all, hook.Advise("AppArmor confines what libvirt runs from %s; put the program into /usr/bin, and a link to it at %s", path.Dir(e.target), e.name))
		}
	}
	return all
}

// trust looks whether somebody else could have root run what they like.
func trust(name string, st sysfs.Stat, look Look) []hook.Finding {
	if strings.HasPrefix(name, "/nix/store/") {
		return nil
	}
	var all []hook.Finding
	if st.UID != look.Owner {
		all = append(all, hook.Advise("%s belongs to user %d, who so can have root run anything: libvirt runs it as root; chown root:root %s", text.Line(name), st.UID, text.Line(name)))
	}
	if st.Mode&0o022 != 0 {
		all = append(all, hook.Advise("%s can be written by others (mode %04o), who so can have root run anything: libvirt runs it as root; chmod go-w %s", text.Line(name), st.Perm(), text.Line(name)))
	}
	return all
}

// order says whether a script runs before qemu-hook, and whether it is run at all: by libvirt, or by a hook that runs others.
func (h *hooks) order(r *Report, name string) (before, runs bool) {
	own := path.Join(h.Dir, "qemu.d", "50-qemu-hook")
	if len(h.own) > 0 {
		own = h.own[0]
	}
	first, shell := "", false
	for _, e := range h.entries {
		if e.name == name {
			return e.name < own, e.runs()
		}
		// What could not be read may run others too.
		if first == "" && e.runs() && !slices.Contains(h.own, e.name) && (r.dispatchers[e.name] || !r.ran[e.name]) {
			first = e.name
		}
		shell = shell || e.runs() && (r.shells[e.name] || !r.ran[e.name])
	}
	// What runs others goes by their execute bit, or fails for want of it, unless it names a shell.
	return first < own, first != "" && (shell || r.seen[name] == nil || r.seen[name].exec)
}

// overlaps names the lines that do what qemu-hook does.
func (h *hooks) overlaps(r *Report) []hook.Finding {
	type group struct {
		f     found
		lines []string
	}
	var groups []*group
	idle := map[string]bool{}
	for _, f := range r.found {
		if f.rule == nil || f.rule.hurts == "" {
			continue
		}
		if _, runs := h.order(r, f.root); !runs {
			idle[f.file] = true
			continue
		}
		i := slices.IndexFunc(groups, func(g *group) bool {
			return g.f.file == f.file && g.f.root == f.root && g.f.rule.does == f.rule.does && g.f.rule.hurts == f.rule.hurts
		})
		if i < 0 {
			i, groups = len(groups), append(groups, &group{f: f})
		}
		if line := fmt.Sprint(f.line); !slices.Contains(groups[i].lines, line) {
			groups[i].lines = append(groups[i].lines, line)
		}
	}
	var all []hook.Finding
	for _, g := range groups {
		before, _ := h.order(r, g.f.root)
		where := fmt.Sprintf("%s:%s", text.Line(g.f.file), g.lines[0])
		switch more := g.lines[1:]; {
		case len(more) > 6:
			where += fmt.Sprintf(" (and %d more lines)", len(more))
		case len(more) > 0:
			where += " (and " + strings.Join(more, ", ") + ")"
		}
		text := where + " " + g.f.rule.does
		switch step := g.f.rule.step; {
		case step == "" || g.f.rule.hurts == hurtsCall:
			text += ": " + g.f.rule.hurts
		case before:
			text += ", as step " + step + " does, but before it, at release too: " + g.f.rule.hurts
		default:
			text += ", as step " + step + " does, but after it: what it changes is then somebody else's, and stays at release"
		}
		all = append(all, hook.Advise("%s; take it out, see qemu-hook import", text))
	}
	for _, file := range sortedNames(idle) {
		why := "libvirt does not know it, and no hook calls it"
		if f := r.seen[file]; f != nil && !f.exec {
			why = "it cannot be executed"
		}
		all = append(all, hook.Advise("%s is run by nothing: %s; remove it, see qemu-hook import", text.Line(file), why))
	}
	return append(all, h.mentions(r)...)
}

// mentions looks into scripts that could not be read for words that only the same work has.
func (h *hooks) mentions(r *Report) []hook.Finding {
	words := []struct{ word, step string }{
		{"nodedev-", "pci"},
		{"driver_override", "pci"},
		{"nodeDeviceDettach", "pci"},
		{"vfio-pci", "pci"},
		{"AllowedCPUs", "cpus"},
		{"nr_hugepages", "hugepages"},
		{"vtcon", "quiesce"},
		{"display-manager", "quiesce"},
		{"scaling_governor", "frequency"},
		{"smp_affinity", "interrupts"},
	}
	var all []hook.Finding
	for _, name := range sortedNames(r.seen) {
		f := r.seen[name]
		if _, runs := h.order(r, name); !runs || r.ran[name] || f.why != "" || f.interpreter() == "" || slices.Contains(h.own, name) {
			continue
		}
		steps := map[string]bool{}
		n := 0
		for line := range strings.Lines(f.data) {
			n++
			for _, w := range words {
				if strings.Contains(line, w.word) && !strings.HasPrefix(strings.TrimSpace(line), "#") && !steps[w.step] {
					steps[w.step] = true
					all = append(all, hook.Advise("%s:%d mentions %s, which is what step %s is about, in a script for %s that was not read: "+
						"what both do is done twice; see for yourself", text.Line(name), n, w.word, w.step, text.Line(f.interpreter())))
				}
			}
		}
	}
	return all
}

func sortedNames[T any](m map[string]T) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
