// Package domain reads a libvirt domain XML and says what the guest needs of its host.
package domain

import (
	"fmt"
	"strings"

	"qemu-hook/cpuset"
)

// Namespace is the XML namespace of the project's own elements in <metadata>:
//
//	<qemu-hook:config xmlns:qemu-hook="urn:qemu-hook:config">…</qemu-hook:config>
const Namespace = "urn:qemu-hook:config"

// Needs is what a domain XML asks of the host, whatever the host is.
type Needs struct {
	Guest Guest
	// PCI are the functions that must be on their vfio driver, in the order of the XML, each once.
	PCI []Function
	// LibvirtPCI are the addresses that libvirt detaches by itself (<interface type='hostdev'>, <disk type='nvme'>).
	LibvirtPCI []string

	VCPUs  cpuset.Set // all vcpus: their pin, else <vcpu cpuset>
	Pinned cpuset.Set // only the <vcpupin>s of vcpus that exist
	// SharedPins says that a CPU is among the pins of more than one vcpu.
	SharedPins bool       `json:",omitempty"`
	Emulator   cpuset.Set // <emulatorpin>, else <vcpu cpuset>
	IOThreads  cpuset.Set // union of the <iothreadpin>s

	Memory []Backend
	Shm    []File
	KVMFR  []File

	// Size is how large the guest is, whatever of that it needs of this program.
	Size Size `json:"-"`

	// Metadata is the content of the project's own elements in <metadata>, for the configuration; nil if none.
	Metadata []byte
	// Details are asides for `check`.
	Details Details `json:"-"`
}

// Guest names a domain.
type Guest struct {
	Name string
	UUID string // lower case with dashes
}

// CheckName refuses a name that no guest of libvirt's has that can start: it keeps files that are named after guests.
func (g Guest) CheckName() error {
	const most = 255 // NAME_MAX
	switch {
	case strings.ContainsAny(g.Name, "/\n\r"):
		return fmt.Errorf("<name>: %s has a slash or a line break in it, which no guest's name has", quote(g.Name))
	case len(g.Name) > most:
		return fmt.Errorf("<name>: %s has %d bytes, and the name of a file has at most %d", quote(g.Name), len(g.Name), most)
	}
	return nil
}

// Size is how large a guest is.
type Size struct {
	VCPUs     int
	Bytes     uint64 // of memory, as QEMU has it at the start; 0 if the XML does not say or what it says cannot be
	IOThreads int
}

// A Function is a PCI function the domain asks for.
type Function struct {
	Address string // canonical: 0000:01:00.0
	Driver  string // <driver model='…'/>, "" when libvirt chooses
}

// A Backend is one memory backend of QEMU on hugetlb pages.
type Backend struct {
	Bytes     uint64
	PageKiB   uint64 // 0: the host's default huge page size
	GuestNode int
	HostNodes cpuset.Set
	Mode      string // "strict", "preferred", "interleave", "restrictive", "" without nodes
}

// A File is a shared-memory file or kvmfr device and the size the guest wants of it.
type File struct {
	Path  string
	Bytes uint64
}

// Empty reports whether the guest needs nothing that this program prepares. Pins alone count as a need: the
// configuration decides whether they are claimed.
func (n *Needs) Empty() bool {
	return len(n.PCI) == 0 && n.Pinned.Empty() && len(n.Memory) == 0 && len(n.Shm) == 0 && len(n.KVMFR) == 0
}
