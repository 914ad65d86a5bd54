package domain

import (
	"encoding/json"

	"qemu-hook/cpuset"
)

// The view of `needs --json`: a contract with scripts, so it stands apart from the Go types. Lists are never null.
type (
	needsView struct {
		Guest     guestView     `json:"guest"`
		PCI       []string      `json:"pci"`
		VCPUs     cpuset.Set    `json:"vcpus"`
		Emulator  cpuset.Set    `json:"emulator"`
		IOThreads cpuset.Set    `json:"iothreads"`
		Memory    []backendView `json:"memory"`
		Shm       []fileView    `json:"shm"`
		KVMFR     []fileView    `json:"kvmfr"`
	}
	guestView struct {
		Name string `json:"name"`
		UUID string `json:"uuid"`
	}
	backendView struct {
		Bytes     uint64     `json:"bytes"`
		PageKiB   uint64     `json:"page_kib"`
		GuestNode int        `json:"guest_node"`
		HostNodes cpuset.Set `json:"host_nodes"`
		Mode      string     `json:"mode"`
	}
	fileView struct {
		Path  string `json:"path"`
		Bytes uint64 `json:"bytes"`
	}
)

// MarshalJSON returns the shape of `needs --json`: bytes are bytes, sets of CPUs and nodes are kernel lists, "" when
// there are none, and a list without rows is [].
func (n *Needs) MarshalJSON() ([]byte, error) {
	view := needsView{
		Guest:     guestView(n.Guest),
		PCI:       []string{},
		VCPUs:     n.VCPUs,
		Emulator:  n.Emulator,
		IOThreads: n.IOThreads,
		Memory:    []backendView{},
		Shm:       viewFiles(n.Shm),
		KVMFR:     viewFiles(n.KVMFR),
	}
	for _, f := range n.PCI {
		view.PCI = append(view.PCI, f.Address)
	}
	for _, b := range n.Memory {
		view.Memory = append(view.Memory, backendView(b))
	}
	return json.Marshal(view)
}

func viewFiles(files []File) []fileView {
	rows := []fileView{}
	for _, f := range files {
		rows = append(rows, fileView(f))
	}
	return rows
}
