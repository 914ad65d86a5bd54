package suggest

import (
	"fmt"
	"strings"

	"qemu-hook/hook"
)

// comment makes text fit to stand in an XML comment, where two dashes may not stand together.
func comment(s string) string {
	for strings.Contains(s, "--") {
		s = strings.ReplaceAll(s, "--", "- -")
	}
	return "<!-- " + s + " -->"
}

// XML is the suggestion as elements of <domain>, to paste, each with its reason.
func (g *Suggestion) XML() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	size := fmt.Sprintf("%d vCPUs", g.VCPUs)
	if g.Bytes > 0 {
		size += ", " + hook.FormatBytes(g.Bytes)
	}
	line("%s", comment(fmt.Sprintf("%s: %s. These take the place of elements of the same name in its <domain>.", g.Name, size)))
	line("<vcpu placement='static'>%d</vcpu>", g.VCPUs)
	line("<iothreads>%d</iothreads>", g.IOThreads)
	line("<cputune>")
	line("  %s", comment(g.WhyCPUs))
	for i, cpus := range g.Pins {
		line("  <vcpupin vcpu='%d' cpuset='%s'/>", i, cpus)
	}
	line("  %s", comment(g.WhyHost))
	line("  <emulatorpin cpuset='%s'/>", g.Host)
	for i := range g.IOThreads {
		line("  <iothreadpin iothread='%d' cpuset='%s'/>", i+1, g.Host)
	}
	line("</cputune>")
	if !g.Memory.Empty() {
		line("<numatune>")
		line("  %s", comment(g.WhyMemory))
		line("  <memory mode='strict' nodeset='%s'/>", g.Memory)
		line("</numatune>")
	}
	switch {
	case g.PageKiB > 0:
		line("<memoryBacking>")
		line("  %s", comment(g.WhyPages))
		line("  <hugepages>")
		line("    <page size='%d' unit='KiB'/>", g.PageKiB)
		line("  </hugepages>")
		if g.Memfd {
			line("  %s", comment("no hugetlbfs is mounted for these pages, and this needs none"))
			line("  <source type='memfd'/>")
		}
		line("</memoryBacking>")
	case g.WhyPages != "":
		line("%s", comment(g.WhyPages))
	}
	line("%s", comment(fmt.Sprintf("inside <cpu>, %s: <topology sockets='1' dies='%d' cores='%d' threads='%d'/>",
		g.WhyTopology, g.Topology.Dies, g.Topology.Cores, g.Topology.Threads)))
	return b.String()
}
