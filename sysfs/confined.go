package sysfs

import (
	"errors"
	"strings"
	"syscall"
)

// Where the kernel says what its security modules do (Documentation/admin-guide/LSM/SELinux.rst, apparmor.rst).
const (
	selinuxEnforce  = "/sys/fs/selinux/enforce"
	selinuxHooks    = "/sys/fs/selinux/booleans/virt_hooks_unconfined"
	apparmorEnabled = "/sys/module/apparmor/parameters/enabled"
	apparmorLoaded  = "/sys/kernel/security/apparmor/profiles"
	ownLabel        = "/proc/self/attr/current"
	ownProfile      = "/proc/self/attr/apparmor/current" // where both modules are on
)

// A DeniedError is a refusal of a security module's, which root meets as EACCES like anybody else.
type DeniedError struct {
	Err    error
	By     string // which module, and what of it
	Remedy string
}

func (e *DeniedError) Error() string { return e.By + " denies it; " + e.Remedy }

// Unwrap returns what the kernel said.
func (e *DeniedError) Unwrap() error { return e.Err }

// SELinuxConfinesHooks reports whether SELinux confines what libvirt runs as hooks, where its policy lets one choose.
func (h FS) SELinuxConfinesHooks() bool {
	value, err := h.value(selinuxHooks) // now, and after a commit
	return err == nil && strings.HasPrefix(value, "0") && h.selinuxEnforces()
}

func (h FS) selinuxEnforces() bool {
	value, err := h.value(selinuxEnforce)
	return err == nil && value == "1"
}

// AppArmorConfines reports whether AppArmor has an enforced profile for one of these programs.
func (h FS) AppArmorConfines(programs ...string) bool {
	if on, err := h.value(apparmorEnabled); err != nil || on != "Y" {
		return false
	}
	profiles, err := h.value(apparmorLoaded)
	if err != nil {
		return false
	}
	for line := range strings.Lines(profiles) {
		name, mode, _ := strings.Cut(strings.TrimSpace(line), " ")
		for _, p := range programs {
			if strings.HasSuffix("/"+name, "/"+p) && mode == "(enforce)" {
				return true
			}
		}
	}
	return false
}

// value is an attribute as Read returns it, without an explanation of why it could not be read.
func (h FS) value(name string) (string, error) {
	b, err := h.ReadFile(name)
	return strings.Trim(string(b), " \n\x00"), err
}

// Explain says of a refusal by the kernel which security module it is from, if this process is confined by one; other errors
// stay as they are.
func (h FS) Explain(err error) error {
	var denied *DeniedError
	if !errors.Is(err, syscall.EACCES) || errors.As(err, &denied) {
		return err
	}
	label, lerr := h.value(ownLabel)
	if profile, err := h.value(ownProfile); err == nil && strings.HasSuffix(profile, " (enforce)") {
		label, lerr = profile, nil
	}
	if lerr != nil {
		return err
	}
	if profile, ok := strings.CutSuffix(label, " (enforce)"); ok {
		return &DeniedError{err, "AppArmor's profile " + profile, "have qemu-hook in /usr/bin, and a link to it in qemu.d"}
	}
	context := strings.Split(label, ":")
	if len(context) < 3 || strings.HasSuffix(context[2], "unconfined_t") || !h.selinuxEnforces() {
		return err
	}
	remedy := "see ausearch -m avc -ts recent"
	if h.SELinuxConfinesHooks() {
		remedy = "setsebool -P virt_hooks_unconfined 1"
	}
	return &DeniedError{err, "SELinux (" + context[2] + ")", remedy}
}

// Failed is the error of an operation on a file.
func (h FS) Failed(op, name string, err error) error {
	return &Error{Op: op, Path: name, Err: h.Explain(err)}
}
