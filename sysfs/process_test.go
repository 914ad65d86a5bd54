package sysfs_test

import (
	"os"
	"strings"
	"testing"

	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

func TestProcessStat(t *testing.T) {
	h := modelHost(t, "-- cpus --\npackage 0 0-3\n-- nodes --\n0 cpus=0-3 total=8G free=4G\n")
	fs := h.FS()
	const rest = " S 4711 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 "
	for _, c := range []struct {
		text string
		want sysfs.ProcessStat
		err  string
	}{
		{"7 (Xorg)" + rest + "98765 0 0\n", sysfs.ProcessStat{Comm: "Xorg", Parent: 4711, Flags: 4194560, Start: 98765}, ""},
		{"7 (a) (b c))" + rest + "1 0 0\n", sysfs.ProcessStat{Comm: "a) (b c)", Parent: 4711, Flags: 4194560, Start: 1}, ""},
		{"7 ()" + rest + "18446744073709551615", sysfs.ProcessStat{Parent: 4711, Flags: 4194560, Start: 1<<64 - 1}, ""},
		{"7 (short) S 1", sysfs.ProcessStat{}, "cannot read /proc/7/stat: it is too short"},
		{"7 Xorg S 1", sysfs.ProcessStat{}, "cannot read /proc/7/stat: it has no process name"},
		{"7 )Xorg( S 1", sysfs.ProcessStat{}, "cannot read /proc/7/stat: it has no process name"},
		{"7 (x) S one" + strings.TrimPrefix(rest, " S 4711") + "1", sysfs.ProcessStat{}, "cannot read /proc/7/stat: strconv"},
	} {
		h.SetFile("/proc/7/stat", c.text)
		got, err := fs.ProcessStat(7)
		switch {
		case c.err == "" && (got != c.want || err != nil):
			t.Errorf("%q: %+v, error %v", c.text, got, err)
		case c.err != "" && (err == nil || !strings.HasPrefix(err.Error(), c.err)):
			t.Errorf("%q: error %v, want %s", c.text, err, c.err)
		}
	}
	if _, err := fs.ProcessStat(8); err == nil {
		t.Error("a process that is not there was read")
	}
}

func TestProcessAlive(t *testing.T) {
	h := modelHost(t, "-- cpus --\npackage 0 0-3\n-- nodes --\n0 cpus=0-3 total=8G free=4G\n")
	fs := h.FS()
	h.AddProcess(sysfstest.Process{PID: 812, Comm: "Xorg"})
	st, err := fs.ProcessStat(812)
	if err != nil {
		t.Fatal(err)
	}
	p := sysfs.Process{PID: 812, Start: st.Start}
	want := func(p sysfs.Process, want bool, what string) {
		t.Helper()
		if alive, err := p.Alive(fs); err != nil || alive != want {
			t.Errorf("%s: alive %t, error %v", what, alive, err)
		}
	}
	want(p, true, "it runs")
	want(sysfs.Process{PID: 812, Start: st.Start + 1}, false, "one that started later")
	h.RemoveProcess(812)
	want(p, false, "it has ended")
	real, err := sysfs.New("/")
	if err != nil {
		t.Fatal(err)
	}
	st, err = real.ProcessStat(os.Getpid())
	if err != nil || st.Parent != os.Getppid() || st.Comm == "" || st.Start == 0 {
		t.Errorf("this process: %+v, error %v", st, err)
	}
}
