package topology

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"qemu-hook/hook"
)

// Sizes of the page, in pixels.
const (
	pageMargin  = 24
	pageNarrow  = 960
	pageWide    = 1320
	narrowCPUs  = 48 // up to so many a narrow page will do
	guestColors = 8
)

// A drawing is a host on its way to a picture.
type drawing struct {
	h            *Host
	width        float64 // of what is inside the margins
	cellW, cellH float64 // of a thread
}

// SVG draws the host as a document of its own, for light and for dark backgrounds.
func (h *Host) SVG() string {
	d := &drawing{h: h, width: pageNarrow - 2*pageMargin, cellW: 32, cellH: 26}
	switch n := h.Online().Len(); {
	case n > 160:
		d.width, d.cellW, d.cellH = pageWide-2*pageMargin, 23, 18
	case n > narrowCPUs:
		d.width, d.cellW, d.cellH = pageWide-2*pageMargin, 27, 22
	}
	var parts []block
	for i := range h.Sockets {
		parts = append(parts, d.socket(&h.Sockets[i]))
	}
	if away := d.away(); away != nil {
		parts = append(parts, *away)
	}
	if groups := d.groups(); groups != nil {
		parts = append(parts, *groups)
	}
	page := stack(append([]block{d.heading(), d.legend()}, parts...), 18)

	w, height := d.width+2*pageMargin, page.h+2*pageMargin
	p := new(paper)
	p.tag(`<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title desc" viewBox="0 0 %s %s" width="%s" height="%s">`,
		num(w), num(height), num(w), num(height))
	p.tag(`<title id="title">%s</title>`, escape(pictureTitle))
	p.tag(`<desc id="desc">%s</desc>`, escape(h.describe()))
	p.tag("<style>%s</style>", style)
	p.tag(`<defs><pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">` +
		`<rect class="host" width="5" height="5"/><rect class="stripe" width="2" height="5"/></pattern></defs>`)
	p.rect("page", 0, 0, w, height, 0)
	page.draw(p, pageMargin, pageMargin)
	p.WriteString("</svg>\n")
	return p.String()
}

const pictureTitle = "Who has what of this host"

// describe says in words what the picture shows, for those who do not see it.
func (h *Host) describe() string {
	owned := h.Owned()
	parts := []string{h.Summary()}
	add := func(name string, cpus fmt.Stringer) {
		if s := cpus.String(); s != "" {
			parts = append(parts, name+": CPUs "+s)
		}
	}
	add("host", owned[Owner{}])
	add("isolated, no guest's", owned[Owner{Isolated: true}])
	for _, g := range h.Guests {
		add("guest "+g, owned[Owner{Guest: g}])
	}
	add("off line", h.Offline)
	return strings.Join(parts, "; ")
}

func (d *drawing) heading() block {
	all := []block{lines("title", 20, []string{pictureTitle}), lines("muted", 13, []string{d.h.Summary()})}
	if d.h.Unseen {
		all = append(all, lines("muted", 12, []string{"What guests have is not seen: that needs root."}))
	}
	return stack(all, 2)
}

// color returns the class of a guest's colour.
func (d *drawing) color(guest string) string {
	return fmt.Sprintf("g%d", max(0, slices.Index(d.h.Guests, guest))%guestColors)
}

// legend explains the colours that are there.
func (d *drawing) legend() block {
	owned := d.h.Owned()
	var chips []block
	chip := func(class, mark, label string) {
		const size = 12
		w := 24 + textWidthOf(label, size)
		chips = append(chips, block{w, 18, func(p *paper, x, y float64) {
			p.rect("cell "+class, x+0.5, y+0.5, 17, 17, 3)
			if mark != "" {
				p.text("mark on-color", x+9, y+13, mark)
			}
			p.text("label", x+23, y+13, label)
		}})
	}
	if n := owned[Owner{}].Len(); n > 0 {
		chip("host", "", "host: "+plural(n, "CPU"))
	}
	if n := owned[Owner{Isolated: true}].Len(); n > 0 {
		chip("isolated", "", "isolated, no guest's: "+plural(n, "CPU"))
	}
	for _, g := range d.h.Guests {
		chip(d.color(g), string(d.h.mark(g)), fmt.Sprintf("guest %s: %s", g, plural(owned[Owner{Guest: g}].Len(), "CPU")))
	}
	if n := d.h.Offline.Len(); n > 0 {
		chip("offline", "", "off line: "+plural(n, "CPU"))
	}
	others, memory := false, false
	for i := range d.h.Nodes {
		if n := &d.h.Nodes[i]; n.Memory != nil {
			memory = true
			others = others || slices.ContainsFunc(n.shares(), func(s share) bool { return s.mark == markPages })
		}
	}
	if others {
		chip("pages", "", "huge pages of nobody here")
	}
	if memory {
		chip("used", "", "memory in use")
		chip("cached", "", "page cache")
		chip("free", "", "free")
	}
	return flow(chips, d.width, 18)
}

func (d *drawing) socket(s *Socket) block {
	const padding = 12
	inner := d.width - 2*padding
	var parts []block
	for i := range s.Parts {
		parts = append(parts, d.part(&s.Parts[i], inner))
	}
	return frame("socket", "socket "+orUnknown(s.ID), stack(parts, 10), d.width, padding)
}

func (d *drawing) part(part *Part, width float64) block {
	const padding = 10
	inner := width - 2*padding
	var caches []block
	for i := range part.Caches {
		caches = append(caches, d.cache(&part.Caches[i], len(part.Caches) == 1, inner))
	}
	all := []block{flow(caches, inner, 10)}
	heading := ""
	if part.Node >= 0 {
		heading = fmt.Sprintf("NUMA node %d", part.Node)
		// A node that several sockets share has its memory shown once.
		if d.firstPart(part) {
			all = append(all, d.memory(d.h.node(part.Node), inner))
		} else {
			heading += ", continued"
		}
	}
	return frame("node", heading, stack(all, 10), width, padding)
}

func (d *drawing) firstPart(part *Part) bool {
	for s := range d.h.Sockets {
		for i := range d.h.Sockets[s].Parts {
			if p := &d.h.Sockets[s].Parts[i]; p.Node == part.Node {
				return p == part
			}
		}
	}
	return false
}

// cache draws the cores of a cache; one that is alone takes all the room, the others are set in blocks.
func (d *drawing) cache(c *Cache, alone bool, width float64) block {
	const padding = 8
	room := width - 2*padding
	var rows []block
	for _, kind := range []Kind{Fast, "", Small} {
		var clusters []block
		var widest float64
		for i := range c.Clusters {
			k := &c.Clusters[i]
			if k.Cores[0].Kind != kind {
				continue
			}
			b := d.cluster(k, c)
			clusters = append(clusters, b)
			widest = max(widest, b.w)
		}
		if len(clusters) == 0 {
			continue
		}
		at := room
		if kind != "" {
			at -= kindWidth
		}
		most := int((at + coreGap) / (widest + coreGap))
		if !alone {
			most = min(most, int(math.Ceil(math.Sqrt(2*float64(len(clusters))))))
		}
		row := flow(clusters, float64(evenRows(len(clusters), most))*(widest+coreGap), coreGap)
		if kind != "" {
			row = beside(string(kind), row)
		}
		rows = append(rows, row)
	}
	return frame("cache", c.Label(), stack(rows, 8), 0, padding)
}

// evenRows returns how many of n things to put in a row that has room for most, so that the last row is as full as the others, or
// nearly.
func evenRows(n, most int) int {
	if n <= most {
		return n
	}
	best, waste := 1, n
	for per := most; per >= max(1, most*2/3); per-- {
		if w := (per - n%per) % per; w < waste {
			best, waste = per, w
		}
	}
	return best
}

const (
	coreGap   = 5
	kindWidth = 20
)

// beside writes the kind of cores to the left of them.
func beside(kind string, b block) block {
	return block{b.w + kindWidth, b.h, func(p *paper, x, y float64) {
		p.text("kind", x+1, y+18, kind)
		b.draw(p, x+kindWidth, y)
	}}
}

// cluster draws cores; those that share a second-level cache in one outline.
func (d *drawing) cluster(k *Cluster, c *Cache) block {
	var cores []block
	for i := range k.Cores {
		cores = append(cores, d.core(&k.Cores[i]))
	}
	b := flow(cores, d.width/2, 3)
	label := ""
	if k.L2 > 0 && !strings.Contains(c.Label(), "L2") {
		label = "L2 " + hook.FormatBytes(k.L2)
	}
	const padding = 3
	w, h, foot := b.w, b.h, 0.0
	if len(k.Cores) > 1 {
		w, h = w+2*padding, h+2*padding
	}
	if label != "" {
		foot = 12
	}
	inner := b
	return block{w, h + foot, func(p *paper, x, y float64) {
		at := 0.0
		if len(k.Cores) > 1 {
			p.rect("cluster", x, y, w, h, 5)
			at = padding
		}
		inner.draw(p, x+at, y+at)
		if textWidthOf(label, 9) <= w+4 {
			p.text("tiny", x+w/2, y+h+9, label)
		}
	}}
}

// threadsInRow is how many threads of a core stand side by side.
const threadsInRow = 4

func (d *drawing) core(c *Core) block {
	var threads []block
	for _, t := range c.Threads {
		threads = append(threads, d.thread(c, t))
	}
	const padding, gap = 2.5, 1.5
	inner := flow(threads, threadsInRow*(d.cellW+gap), gap)
	return block{inner.w + 2*padding, inner.h + 2*padding, func(p *paper, x, y float64) {
		p.rect("core", x, y, inner.w+2*padding, inner.h+2*padding, 4)
		inner.draw(p, x+padding, y+padding)
	}}
}

func (d *drawing) thread(c *Core, t Thread) block {
	return block{d.cellW, d.cellH, func(p *paper, x, y float64) {
		p.tag("<g><title>%s</title>", escape(about(c, t)))
		label := fmt.Sprint(t.CPU)
		class := ""
		switch {
		case len(t.Guests) > 0:
			class = "on-color"
			w := d.cellW / float64(len(t.Guests))
			for i, g := range t.Guests {
				p.rect("cell "+d.color(g), x+w*float64(i), y, w, d.cellH, 2.5)
			}
			if d.cellW >= 30 && len(t.Guests) == 1 {
				p.text("corner on-color", x+d.cellW-6.5, y+7, string(d.h.mark(t.Guests[0])))
			}
		case t.Isolated:
			p.rect("cell isolated", x, y, d.cellW, d.cellH, 2.5)
		default:
			p.rect("cell host", x, y, d.cellW, d.cellH, 2.5)
		}
		d.number(p, class, x, y, label)
		p.WriteString("</g>\n")
	}}
}

// number writes a CPU's number into its cell.
func (d *drawing) number(p *paper, class string, x, y float64, label string) {
	size := min(d.cellH*0.5, d.cellW/(float64(max(2, len(label)))*0.66))
	p.tag(`<text class="number %s" font-size="%s" x="%s" y="%s">%s</text>`, class, num(size), num(x+d.cellW/2), num(y+d.cellH/2+size*0.36), label)
}

// about says all of a thread.
func about(c *Core, t Thread) string {
	s := fmt.Sprintf("CPU %d", t.CPU)
	if c.ID >= 0 {
		s += fmt.Sprintf(", core %d", c.ID)
	}
	if c.Kind != "" {
		s += fmt.Sprintf(" (%s-core)", c.Kind)
	}
	switch {
	case len(t.Guests) > 0:
		s += ", guest " + strings.Join(t.Guests, ", guest ")
	case !t.Isolated:
		s += ", host"
	}
	if t.Isolated {
		s += ", isolated"
	}
	return s
}

// memory draws a node's memory as a bar, with its amounts below.
func (d *drawing) memory(n *Node, width float64) block {
	if n.Memory == nil {
		return lines("muted", 11.5, []string{"memory: none, or not known"})
	}
	shares := n.shares()
	var parts []string
	for _, s := range shares {
		if s.bytes > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", hook.FormatBytes(s.bytes), s.what))
		}
	}
	for _, pool := range n.Pools {
		if pool.Total == 0 && len(pool.Claims) == 0 {
			continue
		}
		text := fmt.Sprintf("pages of %s: %d, %d free", hook.FormatBytes(pool.KiB<<10), pool.Total, pool.Free)
		for _, c := range pool.Claims {
			text += fmt.Sprintf(", %d of guest %s", c.Count, c.Guest)
		}
		parts = append(parts, text)
	}
	const height, size = 14, 11.5
	text := lines("muted", size, fill(append([]string{hook.FormatBytes(n.Memory.Total) + " of memory"}, parts...), "  ·  ", size, width))
	return block{width, height + 5 + text.h, func(p *paper, x, y float64) {
		p.rect("free", x, y, width, height, 3)
		at := x
		for _, s := range shares {
			w := width * float64(s.bytes) / float64(n.Memory.Total)
			class := map[rune]string{markPages: "pages", markUsed: "used", markCache: "cached", markFree: ""}[s.mark]
			if s.guest != "" {
				class = d.color(s.guest)
			}
			if class != "" && w >= 0.5 {
				p.tag("<g><title>%s</title>", escape(s.what+": "+hook.FormatBytes(s.bytes)))
				p.rect(class, at, y, w, height, 0)
				p.WriteString("</g>\n")
			}
			at += w
		}
		p.rect("outline", x, y, width, height, 3)
		text.draw(p, x, y+height+4)
	}}
}

// away draws nodes of no socket and CPUs that do not run; nil if there are none.
func (d *drawing) away() *block {
	const padding, gap = 12, 10
	var nodes []*Node
	for i := range d.h.Nodes {
		if n := &d.h.Nodes[i]; n.CPUs.Empty() {
			nodes = append(nodes, n)
		}
	}
	var all []block
	if count := min(2, len(nodes)); count > 0 {
		width := (d.width - gap*float64(count-1)) / float64(count)
		var boxes []block
		for _, n := range nodes {
			boxes = append(boxes, frame("socket", fmt.Sprintf("NUMA node %d, no CPUs", n.ID), d.memory(n, width-2*padding), width, padding))
		}
		all = append(all, columns(boxes, count, width, gap))
	}
	if !d.h.Offline.Empty() {
		var cells []block
		for cpu := range d.h.Offline.All() {
			cells = append(cells, block{d.cellW, d.cellH, func(p *paper, x, y float64) {
				p.tag("<g><title>CPU %d, off line</title>", cpu)
				p.rect("cell offline", x, y, d.cellW, d.cellH, 2.5)
				d.number(p, "faint", x, y, fmt.Sprint(cpu))
				p.WriteString("</g>\n")
			}})
		}
		all = append(all, frame("socket", "off line: the kernel does not say where these CPUs are", flow(cells, d.width-2*padding, 4), d.width, padding))
	}
	if len(all) == 0 {
		return nil
	}
	b := stack(all, gap)
	return &b
}
