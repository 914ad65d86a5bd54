package hook

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"qemu-hook/sysfs"
)

// CheckOwnFile refuses a file, such as the configuration, that others than root can change; CheckOwnDir does so for the
// directory it is in, where they could put another in its place, or take it away. Both are looked at as named: of a
// symbolic link only the owner counts, as its target may lie in a store that is group-writable by design. A caller who is
// not root counts as root for files of their own.
func CheckOwnFile(st sysfs.Stat, path string) error {
	return checkOwner(st, path, syscall.S_IFREG, "regular file")
}

// CheckOwnDir is [CheckOwnFile] for a directory.
func CheckOwnDir(st sysfs.Stat, path string) error {
	return checkOwner(st, path, syscall.S_IFDIR, "directory")
}

func checkOwner(st sysfs.Stat, path string, kind uint32, kindName string) error {
	link := st.Type() == syscall.S_IFLNK
	switch {
	case st.Type() != kind && !link:
		return fmt.Errorf("cannot trust %s: it is no %s", path, kindName)
	case foreign(st):
		h := ""
		if link {
			h = "-h "
		}
		return fmt.Errorf("cannot trust %s: uid %d owns it; chown %sroot %s", path, st.UID, h, path)
	case !link && st.Perm()&0o022 != 0:
		return fmt.Errorf("cannot trust %s: others can write to it (mode %04o); chmod go-w %s", path, st.Perm(), path)
	}
	return nil
}

func foreign(st sysfs.Stat) bool { return st.UID != 0 && st.UID != os.Geteuid() }

// CheckProgram refuses a program that others than root can replace: libvirt runs it as root. In a directory that is
// somebody's own, or everybody's, it has no place, and that directory is not to be taken from them.
func CheckProgram(file, dir sysfs.Stat, path string) error {
	const elsewhere = "cannot trust the program %s: %s; install it: install -m 0755 %[1]s /usr/bin/"
	switch {
	case foreign(dir):
		return fmt.Errorf(elsewhere, path, fmt.Sprintf("uid %d owns its directory", dir.UID))
	case dir.Perm()&syscall.S_ISVTX != 0 && dir.Perm()&0o022 != 0:
		return fmt.Errorf(elsewhere, path, fmt.Sprintf("others can write to its directory (mode %04o)", dir.Perm()))
	}
	return errors.Join(CheckOwnDir(dir, filepath.Dir(path)), CheckOwnFile(file, path))
}
