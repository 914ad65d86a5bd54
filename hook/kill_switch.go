package hook

import (
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
	if h.Exists(offFile) {
		return offFile
	}
	if cmdline, err := h.Read("/proc/cmdline"); err == nil && slices.Contains(strings.Fields(cmdline), offWord) {
		return offWord + " on the kernel's command line"
	}
	return ""
}
