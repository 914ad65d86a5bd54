package domain

import (
	"encoding/xml"
	"fmt"

	"libvirt.org/go/libvirtxml"
	"qemu-hook/cpuset"
)

// pins are the elements of <cputune> that place threads on CPUs, as written.
type pins struct {
	vcpus     []libvirtxml.DomainCPUTuneVCPUPin
	emulator  *libvirtxml.DomainCPUTuneEmulatorPin
	iothreads []libvirtxml.DomainCPUTuneIOThreadPin
}

func (p *parser) cpuTune(xml.StartElement) error {
	return p.children(func(name string) handler {
		switch name {
		case "vcpupin":
			return decodeInto(p.reader, &p.pins.vcpus, maxPins)
		case "emulatorpin":
			return func(start xml.StartElement) error {
				p.pins.emulator = &libvirtxml.DomainCPUTuneEmulatorPin{}
				return p.decode(p.pins.emulator, start)
			}
		case "iothreadpin":
			return decodeInto(p.reader, &p.pins.iothreads, maxPins)
		}
		return nil
	})
}

// resolve works out on which CPUs each kind of thread runs (libvirt: qemuDomainEvaluateCPUMask). A vcpu without a
// pin has the <vcpu cpuset>; with placement='auto' libvirt asks numad instead, whose answer nobody knows yet.
func (p *pins) resolve(vcpu *libvirtxml.DomainVCPU, n *Needs) error {
	count := uint(1)
	var rest cpuset.Set
	if vcpu != nil {
		count = max(vcpu.Value, 1)
		if vcpu.CPUSet != "" && vcpu.Placement != "auto" {
			var err error
			if rest, err = cpuset.ParseLibvirt(vcpu.CPUSet); err != nil {
				return fmt.Errorf("<vcpu>: %w", err)
			}
		}
	}

	seen := map[uint]bool{}
	for _, pin := range p.vcpus {
		if pin.VCPU >= count {
			continue // libvirt warns and ignores it
		}
		set, err := cpuset.ParseLibvirt(pin.CPUSet)
		if err != nil {
			return fmt.Errorf("<vcpupin vcpu='%d'>: %w", pin.VCPU, err)
		}
		n.SharedPins = n.SharedPins || !n.Pinned.Intersect(set).Empty()
		n.Pinned = n.Pinned.Union(set)
		seen[pin.VCPU] = true
	}
	n.VCPUs = n.Pinned
	if uint(len(seen)) < count {
		n.VCPUs = n.VCPUs.Union(rest)
	}

	n.Emulator = rest
	if p.emulator != nil {
		set, err := cpuset.ParseLibvirt(p.emulator.CPUSet)
		if err != nil {
			return fmt.Errorf("<emulatorpin>: %w", err)
		}
		n.Emulator = set
	}

	for _, pin := range p.iothreads {
		set, err := cpuset.ParseLibvirt(pin.CPUSet)
		if err != nil {
			return fmt.Errorf("<iothreadpin iothread='%d'>: %w", pin.IOThread, err)
		}
		n.IOThreads = n.IOThreads.Union(set)
	}
	return nil
}
