package sysfs_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"qemu-hook/sysfs"
)

func TestSessions(t *testing.T) {
	h := modelHost(t, `
-- cpus --
package 0 0-3
-- nodes --
0 cpus=0-3 total=8G free=4G
-- run/systemd/sessions/2 --
# This is private data. Do not parse.
UID=1000
USER=fern
ACTIVE=1
IS_DISPLAY=1
STATE=active
REMOTE=0
TYPE=wayland
ORIGINAL_TYPE=tty
CLASS=user
SCOPE=session-2.scope
FIFO=/run/systemd/sessions/2.ref
SEAT=seat0
TTY=tty2
SERVICE=sddm
DESKTOP="KDE"
VTNR=2
LEADER=1423
AUDIT=2
REALTIME=1764000000000000
CONTROLLER=:1.45
DEVICES=226:1 13:64 13:67 
-- run/systemd/sessions/2.ref --
-- run/systemd/sessions/.#2abcdef --
UID=1000
-- run/systemd/sessions/c1 --
UID=175
USER="sddm"
ACTIVE=0
TYPE=x11
CLASS=greeter
SEAT=seat0
SCOPE=session-c1.scope
LEADER=900
-- run/systemd/sessions/5 --
UID=1000
USER=fern
ACTIVE=1
TYPE=tty
CLASS=user
SCOPE=session-5.scope
LEADER=2001
`)
	want := []sysfs.Session{
		{
			ID: "2", User: "fern", Seat: "seat0", Type: "wayland", Class: "user", Scope: "session-2.scope", Service: "sddm",
			UID: 1000, Leader: 1423,
			Devices: []uint64{unix.Mkdev(226, 1), unix.Mkdev(13, 64), unix.Mkdev(13, 67)},
		},
		{ID: "5", User: "fern", Type: "tty", Class: "user", Scope: "session-5.scope", UID: 1000, Leader: 2001},
		{ID: "c1", User: "sddm", Seat: "seat0", Type: "x11", Class: "greeter", Scope: "session-c1.scope", UID: 175, Leader: 900},
	}
	got, err := h.FS().Sessions()
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v, sessions (-want +got):\n%s", err, diff)
	}
	for i, graphical := range []bool{true, false, true} {
		if want[i].Graphical() != graphical {
			t.Errorf("%s: graphical is %v", want[i].ID, !graphical)
		}
	}
	h.Remove("/run/systemd/sessions")
	if got, err := h.FS().Sessions(); len(got) > 0 || err != nil {
		t.Errorf("without logind: %v, error %v", got, err)
	}
}
