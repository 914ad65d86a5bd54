package topology

import (
	"encoding/xml"
	"fmt"
	"strings"
	"unicode/utf8"
)

// A block is something with a size that can be drawn at a place. Pictures are built of blocks from the inside out.
type block struct {
	w, h float64
	draw func(p *paper, x, y float64)
}

// A paper takes the drawing.
type paper struct{ strings.Builder }

func (p *paper) tag(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// escape makes text of anything.
func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes all
	return b.String()
}

// num prints a coordinate without what is not needed.
func num(f float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.1f", f), "0"), ".")
}

func (p *paper) rect(class string, x, y, w, h, r float64) {
	p.tag(`<rect class="%s" x="%s" y="%s" width="%s" height="%s" rx="%s"/>`, class, num(x), num(y), num(w), num(h), num(r))
}

// text writes a line; y is its base line.
func (p *paper) text(class string, x, y float64, s string) {
	p.tag(`<text class="%s" x="%s" y="%s">%s</text>`, class, num(x), num(y), escape(s))
}

// Mean widths of a character, in parts of the size of the font; the wider of the fonts that may be used.
const (
	sansWidth = 0.6
	monoWidth = 0.62
)

// textWidthOf is about how wide a line is.
func textWidthOf(s string, size float64) float64 {
	return float64(utf8.RuneCountInString(s)) * size * sansWidth
}

// clip cuts a text to what has room in a width.
func clip(s string, size, width float64) string {
	room := int(width / (size * sansWidth))
	if utf8.RuneCountInString(s) <= room {
		return s
	}
	return strings.TrimSpace(string([]rune(s)[:max(0, room-1)])) + "…"
}

// flow sets blocks in rows that are no wider than a width.
func flow(blocks []block, width, gap float64) block {
	type spot struct{ x, y float64 }
	spots := make([]spot, len(blocks))
	var x, y, row, widest float64
	for i, b := range blocks {
		if x > 0 && x+b.w > width {
			x, y, row = 0, y+row+gap, 0
		}
		spots[i] = spot{x, y}
		x += b.w + gap
		row = max(row, b.h)
		widest = max(widest, x-gap)
	}
	return block{widest, y + row, func(p *paper, x, y float64) {
		for i, b := range blocks {
			b.draw(p, x+spots[i].x, y+spots[i].y)
		}
	}}
}

// stack sets blocks under each other.
func stack(blocks []block, gap float64) block {
	var h, w float64
	for _, b := range blocks {
		h += b.h + gap
		w = max(w, b.w)
	}
	return block{w, max(0, h-gap), func(p *paper, x, y float64) {
		for _, b := range blocks {
			b.draw(p, x, y)
			y += b.h + gap
		}
	}}
}

// columns sets blocks in a number of columns, each where there is most room.
func columns(blocks []block, count int, width, gap float64) block {
	heights := make([]float64, count)
	type spot struct{ column, y float64 }
	var spots []spot
	for _, b := range blocks {
		at := 0
		for i := range heights {
			if heights[i] < heights[at] {
				at = i
			}
		}
		spots = append(spots, spot{float64(at), heights[at]})
		heights[at] += b.h + gap
	}
	var most float64
	for _, h := range heights {
		most = max(most, h-gap)
	}
	return block{float64(count)*(width+gap) - gap, most, func(p *paper, x, y float64) {
		for i, b := range blocks {
			b.draw(p, x+spots[i].column*(width+gap), y+spots[i].y)
		}
	}}
}

// frame sets a block in a box with a heading; a width of 0 is as wide as is needed.
func frame(class, heading string, inner block, width, padding float64) block {
	head := 0.0
	if heading != "" {
		head = 16
	}
	w := max(width, inner.w+2*padding)
	if width == 0 && heading != "" {
		w = max(w, textWidthOf(heading, 11)+2*padding)
	}
	return block{w, head + inner.h + 2*padding, func(p *paper, x, y float64) {
		p.rect(class, x, y, w, head+inner.h+2*padding, 6)
		if heading != "" {
			p.text("head "+class+"-head", x+padding, y+padding+9, heading)
		}
		inner.draw(p, x+padding, y+padding+head)
	}}
}

// lines is text of several lines.
func lines(class string, size float64, all []string) block {
	var w float64
	for _, l := range all {
		w = max(w, textWidthOf(l, size))
	}
	step := size * 1.45
	return block{w, step * float64(len(all)), func(p *paper, x, y float64) {
		for i, l := range all {
			p.text(class, x, y+step*float64(i)+size, l)
		}
	}}
}

// fill breaks parts into lines of a width.
func fill(parts []string, separator string, size, width float64) []string {
	var all []string
	line := ""
	for _, part := range parts {
		switch {
		case line == "":
			line = part
		case textWidthOf(line+separator+part, size) > width:
			all = append(all, line)
			line = part
		default:
			line += separator + part
		}
	}
	if line != "" {
		all = append(all, line)
	}
	return all
}
