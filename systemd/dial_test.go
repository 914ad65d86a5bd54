package systemd

import (
	"context"
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

// Whoever connects still when the time is up has a context of its own all the same, and the means to end it.
func TestConnectingWhenTheTimeIsUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	const tries = 1000
	lacks := make(chan bool, tries)
	for range tries {
		_, _, _, _ = within(ctx, func(own context.Context, end context.CancelFunc) (struct{}, error) {
			lacks <- own == nil || end == nil
			return struct{}{}, nil
		})
	}
	for range tries {
		if <-lacks {
			t.Fatal("there is none: the program crashes in the library")
		}
	}
}
