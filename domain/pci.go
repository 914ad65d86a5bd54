package domain

import (
	"encoding/xml"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// The largest numbers of a PCI address. Domains go beyond 0xffff: Intel's VMD counts from 0x10000.
const (
	maxPCIDomain   = 1<<32 - 1
	maxPCIBus      = 0xff
	maxPCISlot     = 0x1f
	maxPCIFunction = 7
)

// ParseAddress returns a PCI address in its canonical form, as sysfs spells it: 0000:01:00.0. It takes
// [domain:]bus:device.function in hexadecimal digits of either case, as QEMU and lspci do.
func ParseAddress(s string) (string, error) {
	address, err := parseAddress(s)
	if err != nil {
		return "", fmt.Errorf("cannot parse PCI address %s: %w; it is written as 0000:01:00.0", quote(s), err)
	}
	return address, nil
}

func parseAddress(s string) (string, error) {
	head, function, ok := cutLast(s, '.')
	if !ok {
		return "", errors.New("it has no function after a dot")
	}
	head, slot, ok := cutLast(head, ':')
	if !ok {
		return "", errors.New("it has no bus")
	}
	domain, bus, ok := cutLast(head, ':')
	if !ok {
		domain, bus = "0", head
	}
	var n [4]uint64
	for i, part := range [4]struct{ name, digits string }{
		{"domain", domain},
		{"bus", bus},
		{"device", slot},
		{"function", function},
	} {
		var err error
		// ParseUint in base 16 takes digits alone, neither a sign nor 0x.
		if n[i], err = strconv.ParseUint(part.digits, 16, 32); err != nil {
			return "", fmt.Errorf("the %s %s is not a hexadecimal number", part.name, quote(part.digits))
		}
	}
	return formatAddress(n[0], n[1], n[2], n[3])
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return "", s, false
}

// formatAddress checks the numbers of an address and returns its canonical form.
func formatAddress(domain, bus, slot, function uint64) (string, error) {
	for _, part := range [4]struct {
		name     string
		n, limit uint64
	}{
		{"domain", domain, maxPCIDomain},
		{"bus", bus, maxPCIBus},
		{"device", slot, maxPCISlot},
		{"function", function, maxPCIFunction},
	} {
		if part.n > part.limit {
			return "", fmt.Errorf("the %s 0x%x is too large, the largest allowed is 0x%x", part.name, part.n, part.limit)
		}
	}
	return fmt.Sprintf("%04x:%02x:%02x.%x", domain, bus, slot, function), nil
}

// addressOf returns the address in an XML element; a number that is not there is 0, as with libvirt.
func addressOf(a *libvirtxml.DomainAddressPCI) (string, error) {
	number := func(p *uint) uint64 {
		if p == nil {
			return 0
		}
		return uint64(*p)
	}
	address, err := formatAddress(number(a.Domain), number(a.Bus), number(a.Slot), number(a.Function))
	if err != nil {
		return "", fmt.Errorf("the PCI <address>: %w", err)
	}
	return address, nil
}

// hostdev reads <hostdev>. Whether it is managed makes no difference, nor does <address type='unassigned'/>: libvirt
// binds that one too, so that the IOMMU group is complete.
func (p *parser) hostdev(start xml.StartElement) error {
	mode := attr(start, "mode")
	if attr(start, "type") != "pci" || mode != "" && mode != "subsystem" {
		return p.dec.Skip()
	}
	var f Function
	err := p.children(func(name string) handler {
		switch name {
		case "source":
			return p.sourceAddress(&f.Address)
		case "driver":
			return func(start xml.StartElement) error {
				var driver libvirtxml.DomainHostdevSubsysPCIDriver
				err := p.decode(&driver, start)
				f.Driver = driver.Model
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("<hostdev>: %w", err)
	}
	if f.Address == "" {
		return errors.New("<hostdev type='pci'> has no <source><address/></source>")
	}
	p.functions = append(p.functions, f)
	return nil
}

// sourceAddress reads a <source> that holds the <address> of a PCI function; it stays "" for one of another type.
func (p *parser) sourceAddress(into *string) handler {
	return func(xml.StartElement) error {
		return p.children(func(name string) handler {
			if name != "address" || *into != "" {
				return nil
			}
			return func(start xml.StartElement) error {
				if t := attr(start, "type"); t != "" && t != "pci" {
					return p.dec.Skip()
				}
				var a libvirtxml.DomainAddressPCI
				err := p.decode(&a, start)
				if err != nil {
					return err
				}
				*into, err = addressOf(&a)
				return err
			}
		})
	}
}

// libvirtOwn reads a device that libvirt itself takes from the host, if it is of the given type.
func (p *parser) libvirtOwn(kind string) handler {
	return func(start xml.StartElement) error {
		if attr(start, "type") != kind {
			return p.dec.Skip()
		}
		var address string
		err := p.children(func(name string) handler {
			if name != "source" {
				return nil
			}
			return p.sourceAddress(&address)
		})
		if err != nil {
			return fmt.Errorf("<%s type='%s'>: %w", start.Name.Local, kind, err)
		}
		if address != "" {
			p.libvirtPCI = append(p.libvirtPCI, address)
		}
		return nil
	}
}

// uniqueFunctions keeps each function once, at its first place. A driver that only a later one names is kept too.
func uniqueFunctions(functions []Function) []Function {
	var kept []Function
	place := map[string]int{}
	for _, f := range functions {
		i, ok := place[f.Address]
		switch {
		case !ok:
			place[f.Address] = len(kept)
			kept = append(kept, f)
		case kept[i].Driver == "":
			kept[i].Driver = f.Driver
		}
	}
	return kept
}
