package topology

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"qemu-hook/cpuset"
	"qemu-hook/hook"
)

// textWidth is what a terminal has room for, textCells how much of that a row of cores takes.
const (
	textWidth = 100
	textCells = 64
	textBar   = 48
)

// Marks of who has a CPU, and of what is in a node's memory.
const (
	markHost     = '·'
	markIsolated = 'i'
	markSeveral  = '#'
	markOffline  = 'x'
	markPages    = '='
	markUsed     = '+'
	markCache    = '~'
	markFree     = '.'
)

// mark returns a guest's letter; further guests have to share one.
func (h *Host) mark(guest string) rune {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghjklmnopqrstuvwyz"
	i := slices.Index(h.Guests, guest)
	if i < 0 || i >= len(letters) {
		return '?'
	}
	return rune(letters[i])
}

func (h *Host) threadMark(t Thread) rune {
	switch {
	case len(t.Guests) > 1:
		return markSeveral
	case len(t.Guests) == 1:
		return h.mark(t.Guests[0])
	case t.Isolated:
		return markIsolated
	}
	return markHost
}

// Text draws the host for a terminal.
func (h *Host) Text() string {
	var b strings.Builder
	b.WriteString(h.Summary() + "\n")
	for _, s := range h.Sockets {
		fmt.Fprintf(&b, "\nsocket %s\n", orUnknown(s.ID))
		for _, p := range s.Parts {
			in := "  "
			if p.Node >= 0 {
				fmt.Fprintf(&b, "  node %d\n", p.Node)
				in = "    "
			}
			for i := range p.Caches {
				h.textCache(&b, in, &p.Caches[i])
			}
		}
	}
	h.textOwners(&b)
	h.textMemory(&b)
	h.textGroups(&b)
	if h.Unseen {
		b.WriteString("\nnot seen: what guests have; try sudo qemu-hook topology\n")
	}
	return b.String()
}

func orUnknown(id int) string {
	if id < 0 {
		return "not known"
	}
	return fmt.Sprint(id)
}

func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// Summary is the host in one line.
func (h *Host) Summary() string {
	cores, kinds := 0, map[Kind]int{}
	for _, c := range h.Cores {
		cores++
		kinds[c.Kind]++
	}
	if cores == 0 {
		return "CPUs: not known"
	}
	parts := []string{plural(h.Online().Len(), "CPU"), plural(cores, "core"), plural(len(h.Sockets), "socket")}
	if kinds[Small] > 0 {
		parts[1] += fmt.Sprintf(" (%d P, %d E)", kinds[Fast], kinds[Small])
	}
	if len(h.Nodes) > 0 {
		parts = append(parts, plural(len(h.Nodes), "NUMA node"))
	}
	var total uint64
	for _, n := range h.Nodes {
		if n.Memory != nil {
			total += n.Memory.Total
		}
	}
	if total > 0 {
		parts = append(parts, hook.FormatBytes(total))
	}
	return strings.Join(parts, ", ")
}

// Label names a cache with what is below it, "L3 32 MiB, L2 1 MiB".
func (c *Cache) Label() string {
	var parts []string
	add := func(name string, bytes uint64) {
		if bytes > 0 {
			name += " " + hook.FormatBytes(bytes)
		}
		parts = append(parts, name)
	}
	if c.Level > 0 {
		add(fmt.Sprintf("L%d", c.Level), c.Bytes)
	}
	// Fast and small cores have different ones; those are left to where there is room.
	l2 := c.Clusters[0].L2
	if l2 > 0 && !slices.ContainsFunc(c.Clusters, func(k Cluster) bool { return k.L2 != l2 }) {
		add("L2", l2)
	}
	return strings.Join(parts, ", ")
}

// textCache draws the cores of a cache, a row or more for each kind.
func (h *Host) textCache(b *strings.Builder, in string, c *Cache) {
	if label := c.Label(); label != "" {
		b.WriteString(in + label + "\n")
		in += "  "
	}
	for _, kind := range []Kind{Fast, "", Small} {
		var row strings.Builder
		var cpus cpuset.Set
		flush := func() {
			if row.Len() == 0 {
				return
			}
			name := ""
			if kind != "" {
				name = string(kind) + " "
			}
			line := in + name + row.String()
			fmt.Fprintf(b, "%s  %s\n", pad(line, len(in)+len(name)+min(textCells, widest(c))), cpus)
			row.Reset()
			cpus = cpuset.Set{}
		}
		for _, core := range c.Cores() {
			if core.Kind != kind {
				continue
			}
			var cell strings.Builder
			cell.WriteByte('[')
			for _, t := range core.Threads {
				cell.WriteRune(h.threadMark(t))
			}
			cell.WriteByte(']')
			if utf8.RuneCountInString(row.String())+len(core.Threads)+2 > textCells {
				flush()
			}
			row.WriteString(cell.String())
			cpus = cpus.Union(core.CPUs())
		}
		flush()
	}
}

// widest is the room that the cores take if all of a kind stand in one row.
func widest(c *Cache) int {
	widths, most := map[Kind]int{}, 0
	for _, core := range c.Cores() {
		widths[core.Kind] += len(core.Threads) + 2
		most = max(most, widths[core.Kind])
	}
	return most
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}

// table writes rows with columns under each other.
func table(b *strings.Builder, in string, rows [][]string) {
	var widths []int
	for _, r := range rows {
		for i, cell := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, r := range rows {
		line := in
		for i, cell := range r {
			line += pad(cell, widths[i]) + "  "
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

func (h *Host) textOwners(b *strings.Builder) {
	owned := h.Owned()
	var rows [][]string
	add := func(mark rune, name string, cpus cpuset.Set) {
		if !cpus.Empty() {
			rows = append(rows, []string{string(mark), name, plural(cpus.Len(), "CPU"), cpus.String()})
		}
	}
	add(markHost, "host", owned[Owner{}])
	add(markIsolated, "isolated, no guest's", owned[Owner{Isolated: true}])
	for _, g := range h.Guests {
		add(h.mark(g), "guest "+g, owned[Owner{Guest: g}])
	}
	add(markOffline, "off line", h.Offline)
	if len(rows) > 0 {
		b.WriteString("\nwho has the CPUs\n")
		table(b, "  ", rows)
	}
}

// A share is a part of a node's memory.
type share struct {
	mark  rune
	guest string
	what  string
	bytes uint64
}

// shares divides a node's memory: guests' pages, other pages, what programs have, cache, free.
func (n *Node) shares() []share {
	m := n.Memory
	var all []share
	var huge uint64
	for _, p := range n.Pools {
		left := p.Total
		for _, c := range p.Claims {
			count := min(c.Count, left)
			left -= count
			i := slices.IndexFunc(all, func(s share) bool { return s.guest == c.Guest })
			if i < 0 {
				all = append(all, share{guest: c.Guest, what: "huge pages of guest " + c.Guest})
				i = len(all) - 1
			}
			all[i].bytes += count * p.KiB << 10
		}
		huge += left * p.KiB << 10
	}
	if huge > 0 {
		all = append(all, share{mark: markPages, what: "other huge pages", bytes: huge})
	}
	rest := m.Total
	for _, s := range all {
		rest -= min(rest, s.bytes)
	}
	free := min(m.Free, rest)
	cache := min(m.Reclaimable, rest-free)
	return append(all, share{mark: markUsed, what: "programs and kernel", bytes: rest - free - cache},
		share{mark: markCache, what: "page cache", bytes: cache}, share{mark: markFree, what: "free", bytes: free})
}

func (h *Host) textMemory(b *strings.Builder) {
	if len(h.Nodes) == 0 {
		return
	}
	b.WriteString("\nmemory\n")
	for i := range h.Nodes {
		n := &h.Nodes[i]
		if n.Memory == nil {
			fmt.Fprintf(b, "  node %d: none, or not known\n", n.ID)
			continue
		}
		shares := n.shares()
		var parts []string
		for j := range shares {
			s := &shares[j]
			if s.guest != "" {
				s.mark = h.mark(s.guest)
			}
			if s.bytes > 0 {
				parts = append(parts, fmt.Sprintf("%c %s %s", s.mark, s.what, hook.FormatBytes(s.bytes)))
			}
		}
		where := ""
		if n.CPUs.Empty() {
			where = ", no CPUs"
		}
		fmt.Fprintf(b, "  node %d: %s%s\n    [%s]\n", n.ID, hook.FormatBytes(n.Memory.Total), where, bar(shares, n.Memory.Total))
		wrap(b, "    ", parts)
		for _, p := range n.Pools {
			if p.Total == 0 && len(p.Claims) == 0 {
				continue
			}
			line := fmt.Sprintf("    pages of %s: %d, %d free", hook.FormatBytes(p.KiB<<10), p.Total, p.Free)
			for _, c := range p.Claims {
				line += fmt.Sprintf("; %d of guest %s", c.Count, c.Guest)
			}
			b.WriteString(line + "\n")
		}
	}
}

// bar is the shares of a whole as marks; a share that is there is seen.
func bar(shares []share, total uint64) string {
	var b strings.Builder
	done, sum := 0, uint64(0)
	for _, s := range shares {
		sum += s.bytes
		end := int(min(sum, total) * textBar / total)
		if s.bytes > 0 && end == done && done < textBar {
			end++
		}
		b.WriteString(strings.Repeat(string(s.mark), max(0, end-done)))
		done = max(done, end)
	}
	return b.String()
}

// wrap writes parts in lines that a terminal has room for.
func wrap(b *strings.Builder, in string, parts []string) {
	line := in
	for i, p := range parts {
		if i < len(parts)-1 {
			p += ","
		}
		if line != in && utf8.RuneCountInString(line+p) > textWidth {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line = in
		}
		line += p + " "
	}
	if line != in {
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

func (h *Host) textGroups(b *strings.Builder) {
	if len(h.Groups) == 0 {
		return
	}
	b.WriteString("\nIOMMU groups\n")
	var rows [][]string
	var bridges []string
	for i := range h.Groups {
		g := &h.Groups[i]
		if g.bridges() {
			if g.ID != "" {
				bridges = append(bridges, g.ID)
			}
			continue
		}
		for k := range g.Functions {
			f := &g.Functions[k]
			label := g.ID
			switch {
			case k > 0:
				label = ""
			case label == "":
				label = "none"
			}
			who := ""
			if f.Guest != "" {
				who = fmt.Sprintf("%c %s", h.mark(f.Guest), f.Guest)
			}
			rows = append(rows, []string{label, f.Address, f.Kind(), f.driver(), f.node(), who, f.ID, f.Name})
		}
	}
	table(b, "  ", dropEmpty(rows))
	if len(bridges) > 0 {
		wrap(b, "  ", append([]string{"bridges only: " + bridges[0]}, bridges[1:]...))
	}
}

// dropEmpty drops the columns in which nothing stands.
func dropEmpty(rows [][]string) [][]string {
	if len(rows) == 0 {
		return rows
	}
	out := make([][]string, len(rows))
	for i := range rows[0] {
		if !slices.ContainsFunc(rows, func(r []string) bool { return r[i] != "" }) {
			continue
		}
		for k, r := range rows {
			out[k] = append(out[k], r[i])
		}
	}
	return out
}

func (f *Function) driver() string {
	if f.Driver == "" {
		return "no driver"
	}
	return f.Driver
}

func (f *Function) node() string {
	if f.Node < 0 {
		return ""
	}
	return fmt.Sprintf("node %d", f.Node)
}

// Kind says in a word what a function is, by its class (the PCI ID database has the long names).
func (f *Function) Kind() string {
	switch f.Class {
	case "":
		return "not known"
	case "0101", "0106":
		return "SATA"
	case "0104":
		return "RAID"
	case "0107":
		return "SAS"
	case "0108":
		return "NVMe"
	case "0200":
		return "Ethernet"
	case "0280":
		return "wireless"
	case "0300":
		return "VGA"
	case "0302":
		return "3D"
	case "0380":
		return "display"
	case "0401", "0403":
		return "audio"
	case "0500", "0580":
		return "memory"
	case "0600":
		return "host bridge"
	case "0601":
		return "ISA bridge"
	case "0604":
		return "PCI bridge"
	case "0c03":
		return "USB"
	case "0c05":
		return "SMBus"
	case "0c80":
		return "serial bus"
	}
	switch f.Class[:2] {
	case "01":
		return "storage"
	case "02":
		return "network"
	case "04":
		return "multimedia"
	case "06":
		return "bridge"
	case "07":
		return "communication"
	case "08":
		return "system"
	case "0d":
		return "wireless"
	case "10":
		return "encryption"
	case "11":
		return "signals"
	case "12":
		return "accelerator"
	}
	return "class " + f.Class
}
