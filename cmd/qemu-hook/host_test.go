package main

import (
	"maps"
	"slices"
	"testing"

	"qemu-hook/hook"
)

func TestJournalFields(t *testing.T) {
	got := journalFields(hook.LogFields{Op: "prepare", Guest: "win11"})
	want := map[string]string{"SYSLOG_IDENTIFIER": "qemu-hook", "QEMU_HOOK_OP": "prepare", "QEMU_HOOK_GUEST": "win11"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := journalFields(hook.LogFields{}); !slices.Equal(slices.Collect(maps.Keys(got)), []string{"SYSLOG_IDENTIFIER"}) {
		t.Errorf("with nothing under way: %v", got)
	}
}
