package domain

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"

	"qemu-hook/cpuset"
	"qemu-hook/text"
)

// Bounds on what is read. Anyone who may define a domain decides what comes in, and the program runs as root at every
// event of every guest: it must not be slowed down or grow by what no domain needs.
const (
	maxBytes    = 4 << 20 // of XML; also what one libvirt message can carry
	maxDepth    = 256     // elements inside one another; libxml2's own bound
	maxElements = 50_000
	maxTag      = 256 << 10 // bytes from one "<" to the next, so that no tag holds a million attributes
)

// Bounds on elements that are compared with one another. QEMU itself takes 128 NUMA nodes and 256 memory modules.
const (
	maxNodes   = 1024
	maxPins    = cpuset.Max
	maxDevices = 1024 // PCI functions, and files: each is looked at on the host, one after the other
)

// appendBounded appends an element to those of its name, if there are not too many.
func appendBounded[T any](list []T, v T, limit int, name string) ([]T, error) {
	if len(list) >= limit {
		return nil, fmt.Errorf("more than %d <%s> elements", limit, name)
	}
	return append(list, v), nil
}

// guard hands on the tokens of an XML decoder within the bounds. It is the source of a second decoder, which knows
// about namespaces and types.
type guard struct {
	dec      *xml.Decoder
	depth    int
	elements int
}

// Token implements xml.TokenReader.
func (g *guard) Token() (xml.Token, error) {
	tok, err := g.dec.RawToken()
	if err != nil {
		return tok, err
	}
	switch tok.(type) {
	case xml.StartElement:
		g.depth++
		g.elements++
		if g.depth > maxDepth {
			return nil, fmt.Errorf("more than %d elements inside one another", maxDepth)
		}
		if g.elements > maxElements {
			return nil, fmt.Errorf("more than %d elements", maxElements)
		}
	case xml.EndElement:
		g.depth--
	}
	return tok, nil
}

// line is where the guard has come to.
func (g *guard) line() int {
	line, _ := g.dec.InputPos()
	return line
}

// readBounded reads all of r and refuses what is empty or too large.
func readBounded(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the domain XML: %w", err)
	}
	if len(data) > maxBytes {
		return nil, fmt.Errorf("cannot read the domain XML: it is larger than %d MiB, which no domain is", maxBytes>>20)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, errors.New("the domain XML is empty; libvirt sends it on standard input, by hand it is what virsh dumpxml NAME prints")
	}
	for rest := data; ; {
		i := bytes.IndexByte(rest, '<')
		if i > maxTag || i < 0 && len(rest) > maxTag {
			return nil, fmt.Errorf("cannot read the domain XML: it has a tag or text of more than %d KiB", maxTag>>10)
		}
		if i < 0 {
			return data, nil
		}
		rest = rest[i+1:]
	}
}

// decodeInto returns a handler that appends an element, read into one of libvirtxml's types, to a list.
func decodeInto[T any](x *reader, list *[]T, limit int) handler {
	return func(start xml.StartElement) error {
		var v T
		err := x.decode(&v, start)
		if err != nil {
			return err
		}
		*list, err = appendBounded(*list, v, limit, start.Name.Local)
		return err
	}
}

// reader walks over the elements of one document.
type reader struct {
	guard *guard
	dec   *xml.Decoder
}

func newReader(data []byte) *reader {
	dec := xml.NewDecoder(bytes.NewReader(data))
	dec.CharsetReader = func(charset string, _ io.Reader) (io.Reader, error) {
		return nil, fmt.Errorf("the encoding %s is not known, convert it to UTF-8", clip(charset))
	}
	g := &guard{dec: dec}
	return &reader{guard: g, dec: xml.NewTokenDecoder(g)}
}

// A handler reads one element to its end.
type handler func(start xml.StartElement) error

// root hands the first element to pick, and sees to it that nothing but comments follows.
func (x *reader) root(pick handler) error {
	seen := false
	for {
		tok, err := x.dec.Token()
		if errors.Is(err, io.EOF) {
			if !seen {
				return errors.New("it has no element; give what virsh dumpxml NAME prints")
			}
			return nil
		}
		if err != nil {
			return err
		}
		if start, ok := tok.(xml.StartElement); ok {
			if seen {
				return fmt.Errorf("<%s> follows the end of the document", clip(start.Name.Local))
			}
			seen = true
			if err := pick(start); err != nil {
				return err
			}
		}
	}
}

// children hands every child of the element whose start has been read to the handler that pick has for its name, and
// skips the others: what this program has no use for is never looked into, so it cannot be wrong. Elements of an XML
// namespace are among the others.
func (x *reader) children(pick func(name string) handler) error {
	return x.childrenNamed(func(name xml.Name) handler {
		if name.Space != "" {
			return nil
		}
		return pick(name.Local)
	})
}

// childrenNamed is children for elements that may have an XML namespace.
func (x *reader) childrenNamed(pick func(name xml.Name) handler) error {
	for {
		tok, err := x.dec.Token()
		if err != nil {
			return err
		}
		switch tok := tok.(type) {
		case xml.EndElement:
			return nil
		case xml.StartElement:
			if handle := pick(tok.Name); handle != nil {
				err = handle(tok)
			} else {
				err = x.dec.Skip()
			}
			if err != nil {
				return err
			}
		}
	}
}

// decode reads a whole element into v, which is a pointer to one of libvirtxml's types.
func (x *reader) decode(v any, start xml.StartElement) error {
	err := x.dec.DecodeElement(v, &start)
	var num *strconv.NumError
	switch {
	case !errors.As(err, &num):
		return err
	case errors.Is(num.Err, strconv.ErrRange):
		return fmt.Errorf("<%s>: the number %s is too large", start.Name.Local, clip(num.Num))
	default:
		return fmt.Errorf("<%s>: %s is not a number from 0 up", start.Name.Local, quote(num.Num))
	}
}

// text reads a whole element and returns its text as it stands.
func (x *reader) text(start xml.StartElement) (string, error) {
	var s string
	err := x.decode(&s, start)
	return s, err
}

// attr returns an attribute of no namespace, "" if it is not there.
func attr(start xml.StartElement, name string) string {
	for _, a := range start.Attr {
		if a.Name.Local == name && a.Name.Space == "" {
			return a.Value
		}
	}
	return ""
}

// quote shows a value in an error; a long one is cut, as the message goes on one line of a log.
func quote(s string) string { return strconv.Quote(clip(s)) }

func clip(s string) string { return text.Line(text.Short(s, 64)) }
