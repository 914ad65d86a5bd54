package scripts

import (
	"slices"

	"qemu-hook/sysfs"
)

// LeadsTo reports whether both paths lead to the same one when every link is followed, be there something or not.
func LeadsTo(fs sysfs.FS, name, program string) bool {
	at, err := fs.ResolveLinks(name)
	if err != nil {
		return false
	}
	to, err := fs.ResolveLinks(program)
	return err == nil && at == to
}

// Fights returns the hooks of a folder that do the same work as qemu-hook at the same events, or may, as they could not be
// read: those that libvirt runs, with whatever they run in turn. A link to the program is none of them; one to another copy of
// it is, for each event would be handled twice.
func Fights(t Tree, program string) ([]string, error) {
	if !t.Exists(t.Dir) {
		return nil, nil
	}
	h := readHooks(t)
	r, err := Read(t)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range h.entries {
		if !e.runs() || LeadsTo(t.FS, e.name, program) {
			continue
		}
		if t.isOurs(e.name) || !r.ran[e.name] || slices.ContainsFunc(r.found, func(f found) bool {
			if f.rule == nil || f.rule.hurts == "" {
				return false
			}
			return f.root == e.name || r.dispatchers[e.name] && !slices.ContainsFunc(h.entries, func(o entryFile) bool { return o.name == f.root })
		}) {
			all = append(all, e.name)
		}
	}
	return all, nil
}
