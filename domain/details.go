package domain

import (
	"encoding/xml"
	"strconv"
)

// Details are what the program prepares nothing for, and `check` looks at. Nothing in them can be wrong: what is not
// understood is left out.
type Details struct {
	// Paths are files of the host that QEMU is started with.
	Paths []Path
	// VirtioFS says that a folder of the host is shared by virtiofs.
	VirtioFS bool
	// Width and Height are the resolution that <video> asks for; 0 if it asks for none.
	Width, Height uint64
}

// A Path is a file of the host, and the element that names it.
type Path struct{ Element, Path string }

// maxPaths bounds how many of them are kept.
const maxPaths = 8

// path keeps the text of an element as a path.
func (p *parser) path(element string) handler {
	return func(start xml.StartElement) error {
		s, err := p.text(start)
		p.keepPath(element, s)
		return err
	}
}

func (p *parser) keepPath(element, s string) {
	if s != "" && len(p.details.Paths) < maxPaths {
		p.details.Paths = append(p.details.Paths, Path{element, s})
	}
}

func (p *parser) system(xml.StartElement) error {
	return p.children(func(name string) handler {
		switch name {
		case "loader":
			return p.path("<loader>")
		case "nvram":
			return func(start xml.StartElement) error {
				p.keepPath("<nvram template=…>", attr(start, "template"))
				return p.dec.Skip()
			}
		}
		return nil
	})
}

func (p *parser) filesystem(xml.StartElement) error {
	return p.children(func(name string) handler {
		if name != "driver" {
			return nil
		}
		return func(start xml.StartElement) error {
			p.details.VirtioFS = p.details.VirtioFS || attr(start, "type") == "virtiofs"
			return p.dec.Skip()
		}
	})
}

func (p *parser) video(xml.StartElement) error {
	return p.children(func(name string) handler {
		if name != "model" {
			return nil
		}
		return p.videoModel
	})
}

func (p *parser) videoModel(xml.StartElement) error {
	return p.children(func(name string) handler {
		if name != "resolution" {
			return nil
		}
		return func(start xml.StartElement) error {
			const most = 1 << 16 // pixels
			x, xerr := strconv.ParseUint(attr(start, "x"), 10, 32)
			y, yerr := strconv.ParseUint(attr(start, "y"), 10, 32)
			if xerr == nil && yerr == nil && x <= most && y <= most && x*y > p.details.Width*p.details.Height {
				p.details.Width, p.details.Height = x, y
			}
			return p.dec.Skip()
		}
	})
}
