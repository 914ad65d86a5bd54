package systemd

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAddresses(t *testing.T) {
	const system = "unix:path=/run/dbus/system_bus_socket"
	tests := []struct {
		root, env string
		euid      int
		want      []address
	}{
		{"/", "", 0, []address{{"unix:path=/run/systemd/private", true}, {system, false}}},
		{"/", "", 1000, []address{{system, false}}},
		{"/", "unix:path=/x", 0, []address{{"unix:path=/x", false}}},
		{"/tmp/a b/", "", 0, []address{{"unix:path=/tmp/a%20b/run/dbus/system_bus_socket", false}}},
		{"/tmp/a", "unix:path=/x", 1000, []address{{"unix:path=/x", false}}},
	}
	for _, test := range tests {
		got := addresses(test.root, test.env, test.euid)
		if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(address{})); diff != "" {
			t.Errorf("%q, %q, %d:\n%s", test.root, test.env, test.euid, diff)
		}
	}
}
