package topology

import (
	"fmt"
	"strings"
)

// groups draws the IOMMU groups as cards; nil if there are no functions.
func (d *drawing) groups() *block {
	if len(d.h.Groups) == 0 {
		return nil
	}
	const gap = 10
	count := 2
	if d.width > pageNarrow {
		count = 3
	}
	width := (d.width - gap*float64(count-1)) / float64(count)
	var cards []block
	var bridges []string
	for i := range d.h.Groups {
		g := &d.h.Groups[i]
		switch {
		case !g.bridges():
			cards = append(cards, d.group(g, width))
		case g.ID != "":
			bridges = append(bridges, g.ID)
		}
	}
	all := []block{lines("section", 15, []string{"IOMMU groups"}), columns(cards, count, width, gap)}
	if len(bridges) > 0 {
		bridges[0] = "bridges only: " + bridges[0]
		all = append(all, lines("muted", 11.5, fill(bridges, ", ", 11.5, d.width)))
	}
	b := stack(all, 8)
	return &b
}

func (d *drawing) group(g *Group, width float64) block {
	const padding = 10
	var rows []block
	for i := range g.Functions {
		rows = append(rows, d.function(&g.Functions[i], width-2*padding))
	}
	heading := "group " + g.ID
	if g.ID == "" {
		heading = "in no group: the IOMMU is off, or not known"
	}
	return frame("group", heading, stack(rows, 4), width, padding)
}

// function draws a function: what it is and its driver, below it its name, and at its side whose it is.
func (d *drawing) function(f *Function, width float64) block {
	const size, small, bar = 12, 11, 9
	what := f.Kind()
	detail := f.Name
	if detail == "" {
		detail = f.ID
	} else {
		detail += " [" + f.ID + "]"
	}
	if f.Node >= 0 {
		detail = strings.TrimSpace(fmt.Sprintf("%s · node %d", detail, f.Node))
	}
	var who string
	if f.Guest != "" {
		who = "guest " + f.Guest
	}
	h := 17.0
	if detail != "" || who != "" {
		h += 15
	}
	return block{width, h, func(p *paper, x, y float64) {
		p.tag("<g><title>%s</title>", escape(strings.TrimSpace(strings.Join([]string{f.Address, f.ID, f.Name, f.driver(), who}, " "))))
		class := "host"
		if f.Guest != "" {
			class = d.color(f.Guest)
		}
		p.rect(class, x, y+1, 4, h-2, 2)
		p.text("mono", x+bar, y+12, f.Address)
		address := float64(len(f.Address))*size*monoWidth + 10
		p.text("strong", x+bar+address, y+12, what)
		p.text("driver", x+width, y+12, clip(f.driver(), size, width-address-bar-textWidthOf(what, size)-8))
		room := width - bar
		if who != "" {
			who = clip(who, small, room/2)
			p.text("owner", x+width, y+27, who)
			room -= textWidthOf(who, small) + 8
		}
		if detail != "" {
			p.text("muted small", x+bar, y+27, clip(detail, small, room))
		}
		p.WriteString("</g>\n")
	}}
}

// style has the colours twice, for light and for dark backgrounds; those of guests are legible on both.
const style = `
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif;fill:#1c2430}
.page{fill:#fff}
.title{font-size:20px;font-weight:700}
.section{font-size:15px;font-weight:700}
.head{font-size:11px;font-weight:600}
.label{font-size:12px}
.muted{font-size:11.5px;fill:#5a6675}
.title+.muted{font-size:13px}
.small{font-size:11px}
.tiny{font-size:9px;fill:#5a6675;text-anchor:middle}
.kind{font-size:13px;font-weight:700;fill:#5a6675}
.mono{font-size:12px;font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
.strong{font-size:12px;font-weight:600}
.driver{font-size:12px;text-anchor:end}
.owner{font-size:11px;font-weight:600;text-anchor:end}
.number{text-anchor:middle}
.mark{font-size:11px;font-weight:700;text-anchor:middle}
.corner{font-size:6.5px;font-weight:700}
.on-color{fill:#141414}
.faint{fill:#8792a0}
.socket{fill:#f4f6f9;stroke:#c3ccd8}
.node{fill:#fff;stroke:#d5dce5}
.cache{fill:#eef2f7;stroke:#d5dce5}
.group{fill:#f8fafc;stroke:#d5dce5}
.core{fill:#fff;stroke:#a9b5c4;stroke-width:.8}
.cluster{fill:none;stroke:#a9b5c4;stroke-dasharray:3 2}
.outline{fill:none;stroke:#a9b5c4}
.host{fill:#d3dbe6}
.stripe{fill:#aab6c6}
.isolated{fill:url(#hatch)}
.offline{fill:none;stroke:#8792a0;stroke-dasharray:3 2}
.pages{fill:#7a5fb0}
.used{fill:#8e9bad}
.cached{fill:#c2ccd9}
.free{fill:#eef2f7}
.cell.free{stroke:#a9b5c4}
.g0{fill:#f0a13a}.g1{fill:#58b4e8}.g2{fill:#35b98a}.g3{fill:#e58bbf}.g4{fill:#e6d23c}.g5{fill:#ee7b54}.g6{fill:#8aa2f2}.g7{fill:#a8c64a}
@media (prefers-color-scheme:dark){
text{fill:#e4e9f0}
.page{fill:#12161c}
.muted,.tiny,.kind{fill:#9aa7b7}
.on-color{fill:#141414}
.faint{fill:#6c7888}
.socket{fill:#191f27;stroke:#38434f}
.node{fill:#12161c;stroke:#303a46}
.cache{fill:#1d242d;stroke:#303a46}
.group{fill:#191f27;stroke:#303a46}
.core{fill:#12161c;stroke:#55616f}
.cluster,.outline{stroke:#55616f}
.host{fill:#3a4654}
.stripe{fill:#56636f}
.used{fill:#6b7888}
.cached{fill:#445060}
.free{fill:#1d242d}
.cell.free{stroke:#55616f}
.pages{fill:#9a82cf}
}
`
