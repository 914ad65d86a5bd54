package domain

import (
	"encoding/xml"
	"fmt"

	"libvirt.org/go/libvirtxml"
	"qemu-hook/cpuset"
)

// numaTune is <numatune>, as written.
type numaTune struct {
	memory *libvirtxml.DomainNUMATuneMemory
	nodes  []libvirtxml.DomainNUMATuneMemNode
}

func (p *parser) numaTune(xml.StartElement) error {
	tune := &p.memory.tune
	return p.children(func(name string) handler {
		switch name {
		case "memory":
			if tune.memory == nil {
				return func(start xml.StartElement) error {
					tune.memory = &libvirtxml.DomainNUMATuneMemory{}
					return p.decode(tune.memory, start)
				}
			}
		case "memnode":
			return decodeInto(p.reader, &tune.nodes, maxNodes)
		}
		return nil
	})
}

// of returns the host nodes and the policy for the memory of a guest node (-1: none): those of its <memnode>, else
// those of <memory>. With placement='auto' numad decides after the hook has run, so there are none.
func (t *numaTune) of(node int) (nodes cpuset.Set, mode string, err error) {
	element, nodeset := "<memory>", ""
	if t.memory != nil && t.memory.Placement != "auto" {
		mode, nodeset = t.memory.Mode, t.memory.Nodeset
	}
	for _, n := range t.nodes {
		if node >= 0 && n.CellID == uint(node) {
			element, mode, nodeset = "<memnode>", n.Mode, n.Nodeset
			break
		}
	}
	if nodeset == "" {
		return cpuset.Set{}, "", nil
	}
	if mode == "" {
		mode = "strict"
	}
	if nodes, err = cpuset.ParseLibvirt(nodeset); err != nil {
		return cpuset.Set{}, "", fmt.Errorf("%s of <numatune>: %w", element, err)
	}
	return nodes, mode, nil
}
