package hook

import "slices"

// An Event is one call of the hook by libvirt (libvirt's docs/hooks.rst).
type Event struct {
	Guest string // the domain's name: anything without a slash
	Op    string
	SubOp string
	Extra string // the reason at release, else "-"
}

// Ops returns the operations of libvirt's qemu hook.
func Ops() []string {
	return []string{"prepare", "start", "started", "stopped", "release", "migrate", "restore", "reconnect", "attach"}
}

// ParseEvent recognises libvirt's call: exactly four arguments, the third "begin", "end" or "-". A guest may be named
// as one of the program's commands: then its second argument, an operation, tells libvirt's call from a person's.
func ParseEvent(args, commands []string) (Event, bool) {
	if len(args) != 4 || !slices.Contains([]string{"begin", "end", "-"}, args[2]) {
		return Event{}, false
	}
	if slices.Contains(commands, args[0]) && !slices.Contains(Ops(), args[1]) {
		return Event{}, false
	}
	return Event{Guest: args[0], Op: args[1], SubOp: args[2], Extra: args[3]}, true
}
