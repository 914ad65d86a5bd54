package scripts

import "slices"

// Fights returns the hooks of a folder that do the same work as qemu-hook at the same events, or may, as they could not be
// read: those that libvirt runs, with whatever they run in turn.
func Fights(t Tree) ([]string, error) {
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
		if e.name == h.own || !e.runs() {
			continue
		}
		if !r.ran[e.name] || slices.ContainsFunc(r.found, func(f found) bool {
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
