// Package dist has what is installed beside the program.
package dist

import _ "embed"

// RecoverUnit is the name of the unit that gives back what guests left, before libvirt's daemon starts.
const RecoverUnit = "qemu-hook-recover.service"

//go:embed qemu-hook-recover.service
var recoverUnit []byte

// RecoverUnitFile returns the unit's file.
func RecoverUnitFile() []byte { return recoverUnit }
