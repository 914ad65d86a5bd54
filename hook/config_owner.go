package hook

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"qemu-hook/sysfs"
)

// CheckConfigOwner refuses a configuration that others than root can change: file is the configuration file path,
// dir the directory it is in, both as named. Of a symbolic link only the owner counts: its target may lie in a store
// that is group-writable by design. A caller who is not root counts as root for files of their own.
func CheckConfigOwner(file, dir sysfs.Stat, path string) error {
	return errors.Join(
		checkConfigOwner(dir, filepath.Dir(path), syscall.S_IFDIR, "directory"),
		checkConfigOwner(file, path, syscall.S_IFREG, "regular file"),
	)
}

func checkConfigOwner(st sysfs.Stat, path string, kind uint32, kindName string) error {
	link := st.Type() == syscall.S_IFLNK
	switch {
	case st.Type() != kind && !link:
		return fmt.Errorf("cannot trust %s: it is no %s", path, kindName)
	case st.UID != 0 && st.UID != os.Geteuid():
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
