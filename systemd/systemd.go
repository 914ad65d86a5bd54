// Package systemd sets resource properties of slices and scopes over D-Bus.
package systemd

import (
	"context"

	"qemu-hook/cpuset"
)

// A Manager is the part of org.freedesktop.systemd1 that the program uses.
type Manager interface {
	// AllowedCPUs returns the unit's AllowedCPUs property; empty means not set.
	AllowedCPUs(ctx context.Context, unit string) (cpuset.Set, error)
	// SetAllowedCPUs sets the property at runtime (it does not outlive a reboot); the empty set clears it.
	SetAllowedCPUs(ctx context.Context, unit string, cpus cpuset.Set) error
	Close()
}

// New returns the manager of the host under root; it dials on first use. The environment's
// DBUS_SYSTEM_BUS_ADDRESS is honoured.
func New(root string) Manager { panic("unwritten") }
