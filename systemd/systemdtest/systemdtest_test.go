package systemdtest

import (
	"strings"
	"testing"

	sd "github.com/coreos/go-systemd/v22/dbus"
)

func TestEscape(t *testing.T) {
	for _, unit := range []string{"system.slice", "9.scope", "a@b\\x2d.service", "_", "ü", "-.slice"} {
		if got := escape(unit); got != sd.PathBusEscape(unit) {
			t.Errorf("%q: %q, want %q", unit, got, sd.PathBusEscape(unit))
		}
		if got, ok := unescape(escape(unit)); !ok || got != unit {
			t.Errorf("%q: back to %q, %v", unit, got, ok)
		}
	}
	for _, element := range []string{"", "_", "a_2", "_zz"} {
		if got, ok := unescape(element); ok {
			t.Errorf("%q is taken as %q", element, got)
		}
	}
}

func TestSocketDir(t *testing.T) {
	t.Run(strings.Repeat("long", 30), func(t *testing.T) {
		if dir := socketDir(t); len(dir) > 90 {
			t.Errorf("%q leaves no room", dir)
		}
	})
}
