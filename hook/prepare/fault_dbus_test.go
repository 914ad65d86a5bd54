package prepare_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/systemd"
	"qemu-hook/systemd/systemdtest"
	"qemu-hook/test/mode"
)

// overBus has the guest's host ask systemd over a bus, as the program does, with a proxy in between.
func (r *faultRun) overBus() *systemdtest.Proxy {
	r.t.Helper()
	proxy := systemdtest.NewProxy(r.t, systemdtest.Serve(r.t, r.model.Systemd()))
	proxy.Heal()
	// A short one: a socket's path has no more than 107 bytes.
	root, err := os.MkdirTemp("", "root")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { os.RemoveAll(root) })
	dir := filepath.Join(root, "run/dbus")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Symlink(strings.TrimPrefix(proxy.Address, "unix:path="), filepath.Join(dir, "system_bus_socket")); err != nil {
		r.t.Fatal(err)
	}
	r.systemd = func() systemd.Manager { return systemd.New(root) }
	return proxy
}

// The connection to the bus breaks at every message of an event, once or for good.
func TestEveryMessage(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "")
	var points, faults atomic.Int64
	t.Run("cases", func(t *testing.T) {
		for _, c := range faultCases() {
			if c.name != "card" && c.name != "only card" {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				base := c.load(t)
				u := c.undisturbed(t, base)
				messages := map[string]int{}
				r := c.run(t, base)
				proxy := r.overBus()
				for _, e := range faultEvents() {
					switch e {
					case "started":
						r.begins()
					case "release":
						r.ends()
					}
					proxy.Heal()
					r.must(e)
					messages[e] = proxy.Messages()
				}
				r.wantAsBefore(u.before, "undisturbed")
				for _, e := range faultEvents() {
					points.Add(int64(messages[e]))
					for n := range messages[e] + 1 {
						for name, trouble := range map[string]systemdtest.Trouble{"cut": systemdtest.Cut, "gone": systemdtest.Gone} {
							if !mode.Long() && n%4 != 1 || n == 0 && trouble == systemdtest.Cut {
								continue
							}
							faults.Add(1)
							t.Run(fmt.Sprintf("%s/%s at message %d", e, name, n), func(t *testing.T) { c.disconnected(t, base, u, e, n, trouble) })
						}
					}
				}
			})
		}
	})
	t.Logf("%d messages, %d faults", points.Load(), faults.Load())
}

// A bus that lets a client in and says nothing, from its first line or in the middle of things: every question has its deadline.
func TestSilentBus(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "")
	c := faultCase{
		name: "pins", host: "fern", domain: "win11", config: "cpus.isolate = \"pinned\"\nrequired = [\"hugepages\"]\n[steps]\ninterrupts = false\nkernel = false\nquiesce = false\npci = false\n",
	}
	base := c.load(t)
	u := c.undisturbed(t, base)
	for _, e := range []string{"prepare", "release"} {
		for _, n := range []int{0, 1, 12} {
			if !mode.Long() && n != 12 {
				continue
			}
			t.Run(fmt.Sprintf("%s/at message %d", e, n), func(t *testing.T) {
				t.Parallel()
				c.disconnected(t, base, u, e, n, systemdtest.Silence)
			})
		}
	}
}

// disconnected goes a guest's way while something befalls the bus at one event.
func (c *faultCase) disconnected(t *testing.T, base *rig, u *undisturbed, event string, n int, trouble systemdtest.Trouble) {
	r := c.run(t, base)
	proxy := r.overBus()
	r.upTo(event)
	proxy.At(n, trouble)
	err := r.event(event, nil)
	said := reasons(err) + "\n" + strings.Join(r.said, "\n")
	if event == "prepare" {
		diff := sysfstest.Diff(u.after[event], r.snapshot())
		for line := range strings.Lines(diff) {
			if err == nil && (!soft(line) || !strings.Contains(said, "D-Bus")) {
				t.Errorf("prepare succeeded, and the host is not prepared: %sit says %s", line, said)
				break
			}
		}
		if err != nil && trouble == systemdtest.Cut {
			t.Errorf("one cut is mended by a new connection; prepare fails: %s", said)
		}
	}
	if event == "release" && err == nil {
		r.wantAsBefore(u.before, "after the release that succeeded")
	}
	if err != nil && trouble == systemdtest.Cut {
		t.Errorf("one cut is mended by a new connection; %s fails: %s", event, said)
	}
	proxy.Heal()
	r.ends()
	r.must("release")
	r.wantAsBefore(u.before, "after the next release")
}
