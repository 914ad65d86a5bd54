package hook

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"qemu-hook/sysfs"
)

func TestCheckOwner(t *testing.T) {
	check := func(file, dir sysfs.Stat, path string) error {
		return errors.Join(CheckOwnDir(dir, filepath.Dir(path)), CheckOwnFile(file, path))
	}
	stat := func(mode uint32, uid int) sysfs.Stat { return sysfs.Stat{Mode: mode, UID: uid} }
	file, dir := stat(syscall.S_IFREG|0o644, 0), stat(syscall.S_IFDIR|0o755, 0)
	link := stat(syscall.S_IFLNK|0o777, 0)
	other := os.Geteuid() + 1
	tests := []struct {
		file, dir sysfs.Stat
		want      string
	}{
		{file, dir, ""},
		{link, dir, ""},
		{link, link, ""},
		{stat(syscall.S_IFREG|0o600, os.Geteuid()), stat(syscall.S_IFDIR|0o700, os.Geteuid()), ""},
		{stat(syscall.S_IFREG|0o644, other), dir, fmt.Sprintf("cannot trust %s: uid %d owns it; chown root %s", configName, other, configName)},
		{stat(syscall.S_IFLNK|0o777, other), dir, "chown -h root " + configName},
		{stat(syscall.S_IFREG|0o664, 0), dir, "cannot trust " + configName + ": others can write to it (mode 0664); chmod go-w " + configName},
		{stat(syscall.S_IFREG|0o646, 0), dir, "(mode 0646)"},
		{file, stat(syscall.S_IFDIR|0o1777, 0), "cannot trust /etc/qemu-hook: others can write to it (mode 1777); chmod go-w /etc/qemu-hook"},
		{file, stat(syscall.S_IFDIR|0o755, other), "chown root /etc/qemu-hook"},
		{stat(syscall.S_IFIFO|0o600, 0), dir, configName + ": it is no regular file"},
		{file, file, "/etc/qemu-hook: it is no directory"},
	}
	for _, test := range tests {
		err := check(test.file, test.dir, configName)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v\nwant %s", err, test.want)
		}
	}
	// With all wrong, all is said.
	err := check(stat(syscall.S_IFREG|0o666, 0), stat(syscall.S_IFDIR|0o777, 0), filepath.Clean(configName))
	if err == nil || strings.Count(err.Error(), "chmod") != 2 {
		t.Error(err)
	}
}

func TestCheckProgram(t *testing.T) {
	const program = "/usr/bin/qemu-hook"
	stat := func(mode uint32, uid int) sysfs.Stat { return sysfs.Stat{Mode: mode, UID: uid} }
	file, dir := stat(syscall.S_IFREG|0o755, 0), stat(syscall.S_IFDIR|0o755, 0)
	other := os.Geteuid() + 1
	for _, test := range []struct {
		file, dir sysfs.Stat
		want      string
	}{
		{file, dir, ""},
		{stat(syscall.S_IFREG|0o555, 0), stat(syscall.S_IFDIR|0o555, 0), ""}, // as in a Nix store
		{stat(syscall.S_IFREG|0o755, os.Geteuid()), stat(syscall.S_IFDIR|0o700, os.Geteuid()), ""},
		{file, stat(syscall.S_IFDIR|0o2775, 0), "cannot trust /usr/bin: others can write to it (mode 2775); chmod go-w /usr/bin"},
		{stat(syscall.S_IFREG|0o775, 0), dir, "cannot trust " + program + ": others can write to it (mode 0775); chmod go-w " + program},
		{stat(syscall.S_IFREG|0o755, other), dir, fmt.Sprintf("cannot trust %s: uid %d owns it; chown root %s", program, other, program)},
		{file, stat(syscall.S_IFDIR|0o755, other), fmt.Sprintf("cannot trust the program %s: uid %d owns its directory; install it: install -m 0755 %s /usr/bin/", program, other, program)},
		{file, stat(syscall.S_IFDIR|0o1777, 0), "cannot trust the program " + program + ": others can write to its directory (mode 1777); install it: install -m 0755 " + program + " /usr/bin/"},
	} {
		err := CheckProgram(test.file, test.dir, program)
		if (err == nil) != (test.want == "") || err != nil && err.Error() != test.want {
			t.Errorf("%v\nwant %s", err, test.want)
		}
	}
}
