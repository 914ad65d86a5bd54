package domain

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"

	"qemu-hook/cpuset"
	"qemu-hook/text"
)

// qemuSpace is the namespace of <qemu:commandline>, whatever prefix the document gives it.
const qemuSpace = "http://libvirt.org/schemas/domain/qemu/1.0"

// Parse reads a domain XML as libvirt hands it to its hooks, as `virsh dumpxml` prints it, or as a person writes it.
//
// Only the elements that say what the host must have are read, each into the type that libvirtxml has for it;
// all others are passed over, so that a domain of a newer libvirt parses too. At most 4 MiB, 50 000 elements, 256 levels and
// 1024 devices of a kind are taken. An error names the line, the element, the value and what is allowed.
//
// The guest's name and UUID are "" where the XML has none, which libvirt's own never lacks.
//
// libvirt, docs/formatdomain.rst.
func Parse(r io.Reader) (*Needs, error) {
	data, err := readBounded(r)
	if err != nil {
		return nil, err
	}
	p := &parser{reader: newReader(data)}
	if err := p.root(p.domain); err != nil {
		return nil, fmt.Errorf("cannot read the domain XML: line %d: %w", p.guard.line(), plain(err))
	}
	needs, err := p.needs()
	if err != nil {
		return nil, fmt.Errorf("cannot read the domain XML: %w", err)
	}
	return needs, nil
}

// plain takes the line out of an XML syntax error: the decoder that reports it does not see lines.
func plain(err error) error {
	var syntax *xml.SyntaxError
	if errors.As(err, &syntax) {
		// It has names from the document in it, of whatever length and in whatever bytes.
		return fmt.Errorf("it is not well-formed: %s", text.Line(text.Short(syntax.Msg, 200)))
	}
	return err
}

// parser collects what the XML says. What depends on several elements, which may stand in any order, is worked out at
// the end, by needs.
type parser struct {
	*reader

	name, uuid *string
	vcpu       *libvirtxml.DomainVCPU
	iothreads  *string
	pins       pins
	memory     memory
	functions  []Function
	libvirtPCI []string
	shm        []File
	args       []string
	metadata   []byte
	details    Details
}

func (p *parser) needs() (*Needs, error) {
	n := &Needs{PCI: p.functions, LibvirtPCI: p.libvirtPCI, Shm: p.shm, Metadata: p.metadata, Details: p.details}
	var err error
	if p.name != nil {
		n.Guest.Name = *p.name
	}
	if p.uuid != nil {
		if n.Guest.UUID, err = canonicalUUID(*p.uuid); err != nil {
			return nil, err
		}
	}
	if err := p.pins.resolve(p.vcpu, n); err != nil {
		return nil, err
	}
	if n.Memory, err = p.memory.backends(); err != nil {
		return nil, err
	}
	if err := readCommandLine(p.args, n); err != nil {
		return nil, err
	}
	n.Size = p.size()
	n.PCI, n.Shm, n.KVMFR = uniqueFunctions(n.PCI), uniqueFiles(n.Shm), uniqueFiles(n.KVMFR)
	if len(n.PCI)+len(n.LibvirtPCI) > maxDevices || len(n.Shm)+len(n.KVMFR) > maxDevices {
		return nil, fmt.Errorf("it asks for more than %d devices of a kind, which no guest can have", maxDevices)
	}
	return n, nil
}

// size works out how large the guest is. What makes no sense is libvirt's to refuse.
func (p *parser) size() Size {
	s := Size{VCPUs: 1, Bytes: p.memory.whole()}
	if p.vcpu != nil {
		s.VCPUs = int(min(max(p.vcpu.Value, 1), cpuset.Max))
	}
	if p.iothreads != nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(*p.iothreads), 10, 16); err == nil {
			s.IOThreads = int(n)
		}
	}
	return s
}

func (p *parser) domain(start xml.StartElement) error {
	if start.Name.Space != "" {
		return fmt.Errorf("the root element <%s> is of the namespace %s; libvirt's <domain> is of none",
			clip(start.Name.Local), quote(start.Name.Space))
	}
	if start.Name.Local != "domain" {
		return fmt.Errorf("the root element is <%s>, not <domain>; give what virsh dumpxml NAME prints",
			clip(start.Name.Local))
	}
	return p.childrenNamed(p.section)
}

// section returns what reads a child of <domain>, nil for one that does not matter.
func (p *parser) section(name xml.Name) handler {
	if name.Space == qemuSpace && name.Local == "commandline" {
		return p.commandLine
	}
	if name.Space != "" {
		return nil
	}
	switch name.Local {
	case "name":
		return p.first(&p.name)
	case "uuid":
		return p.first(&p.uuid)
	case "vcpu":
		if p.vcpu == nil {
			return func(start xml.StartElement) error {
				p.vcpu = &libvirtxml.DomainVCPU{}
				return p.decode(p.vcpu, start)
			}
		}
	case "iothreads":
		return p.first(&p.iothreads)
	case "memory":
		return p.totalMemory
	case "cputune":
		return p.cpuTune
	case "memoryBacking":
		return p.memoryBacking
	case "numatune":
		return p.numaTune
	case "cpu":
		return p.cpu
	case "os":
		return p.system
	case "devices":
		return p.devices
	case "metadata":
		return p.ownMetadata
	}
	return nil
}

// first reads the text of an element whose first occurrence counts, as with libvirt.
func (p *parser) first(into **string) handler {
	if *into != nil {
		return nil
	}
	return func(start xml.StartElement) error {
		s, err := p.text(start)
		*into = &s
		return err
	}
}

func (p *parser) devices(xml.StartElement) error {
	return p.children(func(name string) handler {
		switch name {
		case "hostdev":
			return p.hostdev
		case "interface":
			return p.libvirtOwn("hostdev")
		case "disk":
			return p.libvirtOwn("nvme")
		case "shmem":
			return p.shmem
		case "memory":
			return p.memoryDevice
		case "emulator":
			return p.path("<emulator>")
		case "filesystem":
			return p.filesystem
		case "video":
			return p.video
		}
		return nil
	})
}

// ownMetadata collects the text of the project's elements, each from a line of its own.
func (p *parser) ownMetadata(xml.StartElement) error {
	return p.childrenNamed(func(name xml.Name) handler {
		if name.Space != Namespace || name.Local != "config" {
			return nil
		}
		return func(start xml.StartElement) error {
			s, err := p.text(start)
			if p.metadata == nil {
				p.metadata = []byte{}
			}
			if n := len(p.metadata); n > 0 && p.metadata[n-1] != '\n' {
				p.metadata = append(p.metadata, '\n')
			}
			p.metadata = append(p.metadata, s...)
			return err
		}
	})
}

// canonicalUUID returns a UUID in lower case with dashes. As with libvirt, dashes may stand anywhere or be missing.
func canonicalUUID(s string) (string, error) {
	digits := strings.ToLower(strings.ReplaceAll(strings.TrimSpace(s), "-", ""))
	valid := len(digits) == 32
	for i := 0; valid && i < len(digits); i++ {
		valid = strings.IndexByte("0123456789abcdef", digits[i]) >= 0
	}
	if !valid {
		return "", fmt.Errorf("<uuid>: %s is not a UUID, which is 32 hexadecimal digits", quote(s))
	}
	return digits[:8] + "-" + digits[8:12] + "-" + digits[12:16] + "-" + digits[16:20] + "-" + digits[20:], nil
}
