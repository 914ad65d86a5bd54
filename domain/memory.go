package domain

import (
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"slices"

	"libvirt.org/go/libvirtxml"
	"qemu-hook/cpuset"
)

const (
	kib = 1 << 10
	mib = 1 << 20

	// What libvirt rounds sizes up to when it starts a guest (qemuDomainAlignMemorySizes).
	alignCell   = 1 * mib
	alignModule = 2 * mib

	// maxMemory bounds each size and their sum, in bytes, so that nobody has to think of overflow after this: 64 PiB.
	maxMemory = 1 << 56
)

// memory is what the XML says about the guest's RAM.
type memory struct {
	total   *libvirtxml.DomainMemory
	pages   []libvirtxml.DomainMemoryHugepage
	cells   []libvirtxml.DomainCell
	modules []module
	tune    numaTune
}

// A module is a <memory> device.
type module struct {
	model  string
	source libvirtxml.DomainMemorydevSource
	target libvirtxml.DomainMemorydevTarget
}

// backends returns the memory backends on hugetlb pages: those of the guest's NUMA nodes first, then the modules.
func (m *memory) backends() ([]Backend, error) {
	if len(m.pages) == 0 && !slices.ContainsFunc(m.modules, func(d module) bool { return d.source.PageSize != nil }) {
		return nil, nil // nothing is on hugetlb pages, so no size matters
	}
	pages, err := m.pageSizes()
	if err != nil {
		return nil, err
	}
	var rows []Backend
	if len(m.cells) > 0 {
		rows, err = m.cellBackends(pages)
	} else {
		rows, err = m.initialBackend(pages)
	}
	if err != nil {
		return nil, err
	}
	for i := range m.modules {
		b, ok, err := m.moduleBackend(&m.modules[i], pages)
		if err != nil {
			return nil, fmt.Errorf("<memory model=%s>: %w", quote(m.modules[i].model), err)
		}
		if ok {
			rows = append(rows, b)
		}
	}
	var sum uint64
	for _, b := range rows {
		if sum += b.Bytes; sum > maxMemory {
			return nil, fmt.Errorf("the memory backends are more than %d PiB together", maxMemory>>50)
		}
	}
	return rows, nil
}

// whole returns the guest's memory in bytes, on whatever pages: that of its NUMA cells with the <memory> devices, else <memory>,
// which counts both. 0 if the XML does not say.
func (m *memory) whole() uint64 {
	var sum uint64
	add := func(value uint64, unit string, align uint64) {
		if bytes, err := memorySize(value, unit); err == nil && sum < maxMemory {
			sum += roundUp(bytes, align)
		}
	}
	if len(m.cells) == 0 {
		if m.total != nil {
			add(uint64(m.total.Value), m.total.Unit, alignCell)
		}
		return sum
	}
	for _, c := range m.cells {
		add(uint64(c.Memory), c.Unit, alignCell)
	}
	for _, d := range m.modules {
		if d.target.Size != nil {
			add(uint64(d.target.Size.Value), d.target.Size.Unit, alignModule)
		}
	}
	return sum
}

// initialBackend is the one backend of a guest without NUMA cells. <memory> counts the modules as well, of every model.
func (m *memory) initialBackend(pages []pageSize) ([]Backend, error) {
	page, ok := choosePage(pages, -1)
	if !ok {
		return nil, nil
	}
	if m.total == nil {
		return nil, errors.New("<memory> is missing")
	}
	bytes, err := memorySize(uint64(m.total.Value), m.total.Unit)
	if err != nil {
		return nil, fmt.Errorf("<memory>: %w", err)
	}
	for _, d := range m.modules {
		size, err := d.size()
		if err != nil {
			return nil, fmt.Errorf("<memory model=%s>: %w", quote(d.model), err)
		}
		if size > bytes {
			return nil, errors.New("<memory> is less than the <memory> devices together")
		}
		bytes -= size
	}
	return m.appendBackend(nil, -1, bytes, page)
}

// cellBackends are one backend for each NUMA cell; what <memory> says does not matter then.
func (m *memory) cellBackends(pages []pageSize) ([]Backend, error) {
	type cell struct {
		node int
		libvirtxml.DomainCell
	}
	cells := make([]cell, len(m.cells))
	for i, c := range m.cells {
		node := uint(i)
		if c.ID != nil {
			node = *c.ID
		}
		if node >= cpuset.Max {
			return nil, fmt.Errorf("<cell id='%d'>: the number is too large, the largest allowed is %d", node, cpuset.Max-1)
		}
		cells[i] = cell{int(node), c}
	}
	slices.SortStableFunc(cells, func(a, b cell) int { return a.node - b.node })

	var rows []Backend
	for i, c := range cells {
		if i > 0 && cells[i-1].node == c.node {
			return nil, fmt.Errorf("<cell id='%d'> is there twice", c.node)
		}
		page, ok := choosePage(pages, c.node)
		if !ok {
			continue
		}
		bytes, err := memorySize(uint64(c.Memory), c.Unit)
		if err != nil {
			return nil, fmt.Errorf("<cell id='%d'>: %w", c.node, err)
		}
		if rows, err = m.appendBackend(rows, c.node, bytes, page); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// appendBackend appends a backend of the guest's initial memory. A node of -1 stands for no NUMA cells.
func (m *memory) appendBackend(rows []Backend, node int, bytes, page uint64) ([]Backend, error) {
	if bytes == 0 {
		return rows, nil // a cell without memory has no backend
	}
	nodes, mode, err := m.tune.of(node)
	if err != nil {
		return nil, err
	}
	return append(rows, Backend{
		Bytes:     roundUp(bytes, alignCell),
		PageKiB:   page,
		GuestNode: max(node, 0),
		HostNodes: nodes,
		Mode:      mode,
	}), nil
}

// moduleBackend is the backend of a <memory> device. NVDIMM, virtio-pmem and SGX are never on hugetlb pages.
func (m *memory) moduleBackend(d *module, pages []pageSize) (b Backend, ok bool, err error) {
	if d.model != "dimm" && d.model != "virtio-mem" {
		return b, false, nil
	}
	node := -1
	if d.target.Node != nil {
		if d.target.Node.Value >= cpuset.Max {
			return b, false, fmt.Errorf("<node>: %d is too large, the largest allowed is %d", d.target.Node.Value, cpuset.Max-1)
		}
		node = int(d.target.Node.Value)
	}
	page, huge := choosePage(pages, node)
	if own := d.source.PageSize; own != nil && own.Value != 0 {
		bytes, err := memorySize(own.Value, own.Unit)
		if err != nil {
			return b, false, fmt.Errorf("<pagesize>: %w", err)
		}
		page, huge = bytes/kib, !systemPage(bytes/kib)
	}
	if !huge {
		return b, false, nil
	}

	bytes, err := d.size()
	if err != nil {
		return b, false, err
	}
	// virtio-mem takes from the host what the guest has been asked to plug in; the rest of its size may never come.
	if d.model == "virtio-mem" {
		bytes = 0
		if r := d.target.Requested; r != nil {
			if bytes, err = memorySize(uint64(r.Value), r.Unit); err != nil {
				return b, false, fmt.Errorf("<requested>: %w", err)
			}
		}
	}
	if bytes == 0 {
		return b, false, nil
	}

	b = Backend{Bytes: roundUp(bytes, alignModule), PageKiB: page, GuestNode: max(node, 0)}
	if d.source.NodeMask != "" {
		b.Mode = "strict"
		if b.HostNodes, err = cpuset.ParseLibvirt(d.source.NodeMask); err != nil {
			return b, false, fmt.Errorf("<nodemask>: %w", err)
		}
		return b, true, nil
	}
	b.HostNodes, b.Mode, err = m.tune.of(node)
	return b, err == nil, err
}

func (d *module) size() (uint64, error) {
	if d.target.Size == nil {
		return 0, errors.New("<target><size> is missing")
	}
	bytes, err := memorySize(uint64(d.target.Size.Value), d.target.Size.Unit)
	if err != nil {
		return 0, fmt.Errorf("<size>: %w", err)
	}
	return bytes, nil
}

// A pageSize is a <page> of <hugepages>.
type pageSize struct {
	kib   uint64     // 0: the host's default
	cells cpuset.Set // empty: every cell that no other entry names
}

func (m *memory) pageSizes() ([]pageSize, error) {
	sizes := make([]pageSize, len(m.pages))
	for i, page := range m.pages {
		bytes, err := memorySize(uint64(page.Size), page.Unit)
		if err != nil {
			return nil, fmt.Errorf("<page>: %w", err)
		}
		sizes[i].kib = bytes / kib
		if page.Nodeset == "" {
			continue
		}
		cells, err := cpuset.ParseLibvirt(page.Nodeset)
		if err != nil {
			return nil, fmt.Errorf("<page>: %w", err)
		}
		// Without cells libvirt drops the nodeset 0, and the entry then holds for the whole guest.
		if len(m.cells) > 0 || !cells.Equal(cpuset.Of(0)) {
			sizes[i].cells = cells
		}
	}
	return sizes, nil
}

// choosePage returns the page size, in KiB, of a backend for a guest node (-1: none), as libvirt's
// qemuBuildMemoryGetPagesize does: the first entry that names the node, else the one that names none. Pages of the
// system's own size are no huge pages.
func choosePage(sizes []pageSize, node int) (size uint64, ok bool) {
	for _, page := range sizes {
		if page.cells.Contains(node) {
			return page.kib, !systemPage(page.kib)
		}
	}
	for _, page := range sizes {
		if page.cells.Empty() {
			return page.kib, !systemPage(page.kib)
		}
	}
	return 0, false
}

func systemPage(size uint64) bool { return size == uint64(os.Getpagesize())/kib }

func (p *parser) totalMemory(start xml.StartElement) error {
	if p.memory.total != nil {
		return p.dec.Skip() // libvirt reads the first
	}
	p.memory.total = &libvirtxml.DomainMemory{}
	return p.decode(p.memory.total, start)
}

func (p *parser) memoryBacking(xml.StartElement) error {
	return p.children(func(name string) handler {
		if name != "hugepages" {
			return nil
		}
		return func(xml.StartElement) error {
			before := len(p.memory.pages)
			err := p.children(func(name string) handler {
				if name != "page" {
					return nil
				}
				return decodeInto(p.reader, &p.memory.pages, maxNodes)
			})
			if len(p.memory.pages) == before {
				// <hugepages/> alone: the host's default size for the whole guest.
				p.memory.pages = append(p.memory.pages, libvirtxml.DomainMemoryHugepage{})
			}
			return err
		}
	})
}

func (p *parser) cpu(xml.StartElement) error {
	return p.children(func(name string) handler {
		if name != "numa" {
			return nil
		}
		return func(xml.StartElement) error {
			return p.children(func(name string) handler {
				if name != "cell" {
					return nil
				}
				return func(start xml.StartElement) error {
					var cell libvirtxml.DomainCell
					err := p.decode(&cell, start)
					if err != nil {
						return err
					}
					// Only its size and number are of use: a large topology must not stay in memory.
					cell.Distances, cell.Caches = nil, nil
					p.memory.cells, err = appendBounded(p.memory.cells, cell, maxNodes, "cell")
					return err
				}
			})
		}
	})
}

func (p *parser) memoryDevice(start xml.StartElement) error {
	d := module{model: attr(start, "model")}
	err := p.children(func(name string) handler {
		switch name {
		case "source":
			return func(start xml.StartElement) error { return p.decode(&d.source, start) }
		case "target":
			return func(start xml.StartElement) error { return p.decode(&d.target, start) }
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("<memory model=%s>: %w", quote(d.model), err)
	}
	p.memory.modules, err = appendBounded(p.memory.modules, d, maxNodes, "memory")
	return err
}
