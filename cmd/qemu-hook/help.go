package main

import (
	"flag"
	"fmt"
	"strings"
)

func usage() string {
	var b strings.Builder
	b.WriteString(`qemu-hook prepares a host for a libvirt guest with a passed-through GPU, and gives everything back.

Called by libvirt, as its qemu hook, with the domain XML on standard input:
  qemu-hook NAME OP SUBOP EXTRA

Called by a person:
`)
	for _, c := range commands() {
		fmt.Fprintf(&b, "  qemu-hook %-26s %s\n", strings.TrimSpace(c.name+" "+c.args), c.summary())
	}
	b.WriteString(`
Flags, before or after the name:
  --xml FILE     the domain XML ("-" is standard input); without it: standard input if it brings
                 any within 2 s, else the definition that libvirt stores for NAME
  --config FILE  the configuration, instead of /etc/qemu-hook/config.toml
  --root DIR     take DIR for / : /sys, /proc, /dev, /run and /etc are looked for below it
  --json         for programs: plan, needs, status, log, holders, groups, topology
  --svg FILE     topology: draw it into FILE ("-" is standard output)
  --config-only  check: read the configuration alone, whoever owns it
  --all          log: all that is remembered
  --follow       log: what comes, as it comes
  --dry-run      install, uninstall: say what would be done
  --replace      install: move aside what is in the way

A PCI function's ADDRESS is domain:bus:device.function, as lspci -D prints it: 0000:08:00.0.

Try: virsh dumpxml GUEST | sudo qemu-hook check
`)
	return b.String()
}

// summary is the first line of the command's text.
func (c command) summary() string {
	s, _, _ := strings.Cut(c.text, "\n")
	return s
}

func (c command) help() string {
	var flags []string
	c.flagSet(&options{}).VisitAll(func(f *flag.Flag) {
		flags = append(flags, "["+strings.TrimSpace("--"+f.Name+" "+f.Usage)+"]")
	})
	return fmt.Sprintf("usage: qemu-hook %s %s\n\n%s\n", strings.TrimSpace(c.name+" "+c.args), strings.Join(flags, " "), c.text)
}

const (
	helpPrepare = `get the host ready for a guest, as libvirt would have it done
Takes what the domain XML asks for: huge pages, the guest's CPUs, PCI functions, shared memory.
All of it or nothing: if one part fails, the rest is given back and the exit status is 1.
Done by hand it is fine before virsh start, which then finds everything ready.`
	helpRelease = `give back what a guest has, by what is recorded
A guest that has nothing is a success. Every part is tried, whatever fails; the exit status is 1
if something could not be given back, and status then says what.`
	helpStarted = `note that the guest runs, and settle what exists only now
The guest's own interrupts go to its CPUs, those of the host that have appeared since leave them, and
what runs beside the guest is started: what keeps the host awake, what looks for late interrupts.`
	helpReconnect = `check a running guest's host, and settle it again`
	helpNothing   = `an event of libvirt's at which this hook does nothing`
	helpPlan      = `what prepare would do, line by line; nothing is changed`
	helpNeeds     = `what a domain XML asks for, whatever the host is`
	helpCheck     = `every reason why prepare would fail, and what gets in the way
Nothing is changed. The exit status is 1 if there is a reason, or if something cannot work as it is; advice
does not count. It looks around on the host, too: at other hooks that do the same work, at who may change and
run hooks, at SELinux and AppArmor, the kernel, the IOMMU, and daemons. Without NAME and XML it only does that.
With --config-only nothing but the configuration is read, and its owner does not matter.`
	helpStatus = `who holds what, what has drifted, the last refusals
Of what guests share, such as the host's CPUs, it says what the host had before and has now.`
	helpLog = `what became of a guest's last run, step by step
Each step has its result and its seconds; a refusal has its reasons. Without a name it is the run of
the guest of the last event. With --all it is everything that is remembered, also by the journal. With
--follow events are shown as they come, until it is interrupted.`
	helpRecover = `give back what guests that no longer run still hold
Without a name all such guests, but for those that were prepared by hand: they may be about to
start. With a name that guest, unless it runs.`
	helpHolders = `who has a PCI function open, or what hangs on it
Every process that has one of the function's device nodes open or mapped, in containers too: graphics,
compute, i2c, sound. Nobody is disturbed by the look. What an ordinary user cannot see is called
not seen, never free.`
	helpGroups = `the IOMMU groups with their functions and drivers
A group goes to a guest as a whole. Names come from the host's pci.ids, if it has one.`
	helpTopology = `a picture of the host and of who has what of it
Sockets, NUMA nodes, caches, cores, threads; memory and pages; IOMMU groups and functions with drivers. With --svg FILE it is drawn
into a file that browsers show ("-" is standard output). What cannot be read is called not known.`
	helpSuggest = `what a guest's XML should say of CPUs, nodes and pages
Printed are <cputune>, <numatune>, <iothreads> and <hugepages> that fit this host and the guest's size, as XML to paste, with
a reason each: whole cores, of one cache or node, on the node of its PCI functions, fast cores first, CPU 0 left to the host,
nothing that other guests have. Nothing is changed. A guest that does not fit is told what would.`
	helpSnapshot = `what this program reads of the host, for a bug report
It goes to FILE, or to standard output, as text in the format of txtar, and can be loaded as a model of the host: with the
domain's XML it shows others the same plan. User names, the host's name and home directories are replaced, arguments of
programs left out; serial numbers, hardware addresses and names of file systems are not in it. Read it before you send it.`
	helpBind = `put PCI functions on vfio without a guest, until unbind
Until then, or until a reboot. By the same steps, with the same refusals and records as for a guest: qemu-hook check says what they
would be. A guest that uses such a function leaves it there.`
	helpUnbind = `give back what bind has taken, or what stayed
Those that stayed on vfio after their guest by gpu.give_back = "stay" are given back, too.`
	helpImport = `what becomes of the hook scripts that are there
Nothing is changed. Reads libvirt's folder of hooks, or DIR: which lines are needless, what the configuration says instead, and
what was not understood, with file and line. What it prints can be used as the configuration.`
	helpInstall = `put the program, its hook and the unit for recover in place
The program goes to /usr/bin, a link to it to /etc/libvirt/hooks/qemu.d, a unit that gives back what guests
left goes to /etc/systemd/system. Hooks that would do the same work, and other files that are in the
way, are moved aside only with --replace. Again, with a newer program, it is an upgrade, also while guests run.`
	helpUninstall = `take back what install has done
What was moved aside is put back. As long as a guest has something of the host nothing is done: it
is this program that gives that back.`
	helpDemo    = `the main job on a model host: no root, no GPU, no libvirt`
	helpVersion = `print the version`
	helpHelp    = `print this, or more about a command`
)
