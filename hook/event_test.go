package hook_test

import (
	"slices"
	"strings"
	"testing"

	"qemu-hook/hook"
)

// commandNames are such as the program has.
func commandNames() []string { return []string{"prepare", "release", "plan", "status", "help"} }

func TestParseEvent(t *testing.T) {
	for _, c := range []struct {
		args string // separated by |
		want bool
	}{
		{"win11|prepare|begin|-", true},
		{"win11|release|end|shutdown", true},
		{"win11|release|end|from snapshot", true},
		{"win11|migrate|begin|-", true},
		{"win11|prepared|begin|-", true}, // of a later libvirt: to be ignored, not to be taken for a command
		{"win11|reload|-|-", true},
		{"prepare|prepare|begin|-", true},
		{"prepare|release|end|destroyed", true},
		{"help|start|begin|-", true},
		{"-weird|prepare|begin|-", true},
		{"--root|prepare|begin|-", true},
		{"Windows 11 – Spiele|prepare|begin|-", true},
		{"|prepare|begin|-", true},
		{"prepare|win11|begin|-", false},
		{"prepare|win11|begin|--xml=x", false},
		{"win11|prepare|begin", false},
		{"win11|prepare|begin|-|-", false},
		{"win11|prepare|middle|-", false},
		{"plan|--xml|x|win11", false},
		{"status", false},
	} {
		args := strings.Split(c.args, "|")
		ev, ok := hook.ParseEvent(args, commandNames())
		if ok != c.want {
			t.Errorf("%q: libvirt's call: %v, want %v", args, ok, c.want)
		}
		if want := (hook.Event{Guest: args[0]}); ok && ev != (hook.Event{Guest: want.Guest, Op: args[1], SubOp: args[2], Extra: args[3]}) {
			t.Errorf("%q: %+v", args, ev)
		}
	}
	if _, ok := hook.ParseEvent(nil, commandNames()); ok {
		t.Error("no arguments are libvirt's call")
	}
}

func FuzzParseEvent(f *testing.F) {
	f.Add(4, "win11", "prepare", "begin", "-")
	f.Add(4, "prepare", "release", "end", "shutdown")
	f.Add(4, "prepare", "win11", "begin", "--json")
	f.Add(2, "plan", "win11", "", "")
	f.Fuzz(func(t *testing.T, n int, a, b, c, d string) {
		args := []string{a, b, c, d}[:min(max(n, 0), 4)]
		ev, ok := hook.ParseEvent(args, commandNames())
		op := len(args) == 4 && slices.Contains(hook.Ops(), b)
		sub := c == "begin" || c == "end" || c == "-"
		switch {
		case ok && (len(args) != 4 || ev != hook.Event{Guest: a, Op: b, SubOp: c, Extra: d}):
			t.Errorf("%q became %+v", args, ev)
		case !ok && ev != hook.Event{}:
			t.Errorf("%q is no event and is %+v", args, ev)
		case op && sub && !ok:
			t.Errorf("%q is libvirt's call, whatever the guest is called", args)
		case ok && !op && slices.Contains(commandNames(), a):
			t.Errorf("%q is a person's call", args)
		}
	})
}
