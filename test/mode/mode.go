// Package mode says how much of the tests is wanted, and how strictly.
package mode

import (
	"os"
	"testing"
)

// Long reports whether tests that sample are to do all of it, and those that take longest are to run: QEMU_HOOK_LONG=1.
func Long() bool { return os.Getenv("QEMU_HOOK_LONG") == "1" }

// Strict reports whether nothing may be skipped for what the machine lacks: QEMU_HOOK_CI=1.
func Strict() bool { return os.Getenv("QEMU_HOOK_CI") == "1" }

// Lacking ends a test that lacks something of the machine: it is skipped, or fails where nothing may be skipped.
func Lacking(t testing.TB, format string, args ...any) {
	t.Helper()
	if Strict() {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
