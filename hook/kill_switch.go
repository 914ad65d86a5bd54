package hook

import (
	"fmt"
	"slices"
	"strings"
)

// What switches the program off, for whoever is locked out of a host whose guest starts by itself and takes the only card:
// a word on the kernel's command line, or a file.
const (
	offWord = "qemu_hook=off"
	offFile = "/etc/qemu-hook/disabled"
)

// SwitchedOff says what switches the program off, "" if nothing does. No guest that needs anything is prepared then; what is
// on record is given back all the same.
func (h *Host) SwitchedOff() string {
	// What cannot be seen counts: whoever is locked out must not depend on it.
	switch there, err := h.Has(offFile); {
	case err != nil:
		return fmt.Sprintf("%s, as far as can be told: %v", offFile, err)
	case there:
		return offFile
	}
	switch cmdline, err := h.ReadIfAny("/proc/cmdline"); {
	case err != nil:
		return fmt.Sprintf("the kernel's command line, as far as can be told: %v", err)
	case slices.Contains(strings.Fields(cmdline), offWord):
		return offWord + " on the kernel's command line"
	}
	return ""
}
