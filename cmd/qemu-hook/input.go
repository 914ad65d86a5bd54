package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"qemu-hook/domain"
	"qemu-hook/sysfs"
)

// storedDefinitions are the folders in which libvirt keeps the domains it knows; NixOS has the second.
var storedDefinitions = [...]string{"/etc/libvirt/qemu/", "/var/lib/libvirt/qemu/"}

// stdinWait is how long a person's pipe may take to bring its first bytes.
const stdinWaitMillis = 2000

// readNeeds finds the domain XML for a command: --xml, else standard input if it brings any, else libvirt's stored
// definition of the guest, which is read as a file: no call goes to libvirt.
func readNeeds(h sysfs.FS, o options, name string) (*domain.Needs, error) {
	r, from, err := openXML(h, o, name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	n, err := domain.Parse(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	if name != "" && n.Guest.Name != name {
		return nil, fmt.Errorf("the domain XML from %s is of guest %q, not of %q", from, n.Guest.Name, name)
	}
	return n, nil
}

func openXML(h sysfs.FS, o options, name string) (r io.ReadCloser, from string, err error) {
	switch {
	case o.xml == "-":
		return io.NopCloser(os.Stdin), "standard input", nil
	case o.xml != "":
		f, err := os.Open(o.xml)
		if err != nil {
			return nil, "", fmt.Errorf("cannot read the domain XML: %w", err)
		}
		return f, o.xml, nil
	case stdinHasBytes():
		return io.NopCloser(os.Stdin), "standard input", nil
	case name == "":
		return nil, "", usageError("no guest is named, and standard input brings no domain XML; " +
			"give NAME, or --xml FILE, or: virsh dumpxml GUEST | qemu-hook …")
	}
	if strings.Contains(name, "/") {
		return nil, "", fmt.Errorf("%q is no guest's name: libvirt allows no slash", name)
	}
	for _, dir := range storedDefinitions {
		local, err := h.Local(dir + name + ".xml")
		if err != nil {
			return nil, "", err
		}
		f, err := os.Open(local)
		switch {
		case err == nil:
			return f, dir + name + ".xml", nil
		case !errors.Is(err, fs.ErrNotExist):
			return nil, "", fmt.Errorf("%w; as an ordinary user try: virsh dumpxml %s | qemu-hook …",
				&sysfs.Error{Op: "read", Path: dir + name + ".xml", Err: err}, name)
		}
	}
	return nil, "", fmt.Errorf("libvirt has no guest %q: neither %s nor %s has its definition; see virsh list --all, or give --xml FILE",
		name, storedDefinitions[0], storedDefinitions[1])
}

// stdinHasBytes reports whether standard input is a file or pipe that brings bytes before long.
func stdinHasBytes() bool {
	st, err := os.Stdin.Stat()
	if err != nil {
		return false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	switch sys.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		return st.Size() > 0
	case syscall.S_IFIFO, syscall.S_IFSOCK:
		fds := []unix.PollFd{{Fd: 0, Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(fds, stdinWaitMillis)
			if err == unix.EINTR {
				continue
			}
			if n == 0 || err != nil {
				return false
			}
			// A pipe that ends at once brings no bytes.
			count, err := unix.IoctlGetInt(0, unix.TIOCINQ)
			return err == nil && count > 0
		}
	}
	return false
}
