// Package sysfstest is a model of a host that reacts: what a kernel, its drivers and systemd do to the files of /sys,
// /proc, /dev and /run when somebody writes to one of them. It is for tests of whatever uses package sysfs, and for
// the program's demo.
//
// The model has two doors. [Host.FS] and [Host.Systemd] are the in-process one; it needs neither root nor FUSE.
// Package fusetest mounts the same host as a file system, under which a real program runs with its children. Both
// stand on [VFS], so the rules cannot differ.
//
//	h, err := sysfstest.Load("testdata/hosts/fern.txtar")
//	before := h.Snapshot()
//	run := h.Clone() // as many as you like, cheap
//	run.OnChange(func(c sysfstest.Change) error {
//		if c.N == 7 {
//			return syscall.EIO // the seventh change is refused
//		}
//		return nil
//	})
//	… // act on run.FS()
//	if d := sysfstest.Diff(before, run.Snapshot()); d != "" {
//		t.Error(d)
//	}
//
// # Host files
//
// A host is one txtar archive. The comment at its top says what machine it is. Sections whose names have no slash
// describe the machine, a line for each thing; blank lines and lines that start with # are skipped. The model expands
// them to the full trees.
//
//	kernel      release, boot_id, cmdline, systemd (yes or no);
//	            modules DIR and modprobe FILE where they are not /lib/modules and /sbin/modprobe;
//	            controllers: of cgroup v2, "none" for a host that has only v1;
//	            nvidia_smi PATH: that program is there; vfio_pm yes: vfio-pci sets power/control, as vfio_pci_core does;
//	            drops_modeset_count VERSION…: of NVIDIA's driver that have nvidia_drm let go of a single card, without the
//	            line all from 590 on
//	cpus        package P CORE…        the threads of each core, as CPU lists: package 0 0-1 2-3 4
//	            siblings P LIST LIST   cores of two threads each, the first from either list, the second, …
//	            cache LEVEL SIZE LIST…  caches for data and the CPUs that share each: cache 3 32M 0-7 8-15
//	            possible, present, online, isolated LIST
//	nodes       N cpus= total= free= cache= slab= distance=10,21
//	            whole=90%: of the free memory, what lies in blocks of 2 MiB
//	            movable=97%: what compaction can bring that to; giant=2: blocks of 1 GiB to be had at run time
//	hugepages   KIB [default] node0=24 used0=8 overcommit=0: pages that were taken at boot, and how many of them somebody has
//	irqs        N [ACTION…] affinity=LIST node=N managed=yes percpu=yes handler=no, if the host is to have /proc/irq;
//	            without affinity= where the kernel puts one that is new
//	            default LIST: default_smp_affinity
//	workqueues  cpumask LIST, writeback LIST, watchdog LIST: where the kernel's own work may run; an empty section has the
//	            files, with all CPUs in them
//	cpufreq     policyN LIST driver= governor= governors=performance,powersave epp= epps=default,performance,…
//	modules     NAME [loaded|builtin] driver= (the PCI driver it registers) deps=a,b alias= (several) param=k=v used=
//	            (references that are neither modules' nor open files') version= file= (below the modules' directory)
//	pci         ADDRESS class= id= sub= rev= driver= override= group= numa= boot_vga= reset=flr,bus power= d3cold= status=
//	            a function that is indented lies behind the bridge above it
//	            nodes=KIND:NAME:MAJOR:MINOR,… of the kinds drm, i2c, sound, fb, hidraw, block; NAME may have a directory
//	            below the function in front: i2c:drm/card0/card0-DP-1/i2c-6:89:6
//	            connectors=card0-DP-1:connected:enabled,… of a card among the nodes
//	            minor=0 (of NVIDIA's node) persistence=on kfd=NODE:GPU_ID
//	            bars=NUMBER:START:SIZE[:resizable=8|256|16384],… START in hexadecimal, the sizes to be had in MiB
//	            irqs=NUMBER:ACTION,…: interrupts that the function has while a driver other than vfio's has it
//	            vfs=2 virtfn=ADDRESS,ADDRESS: virtual functions, which have lines of their own
//	cgroups     PATH subtree=cpuset,cpu cpus=LIST allowed=LIST (AllowedCPUs of the unit file); "/" comes first
//	units       NAME active|inactive|failed|activating, of the service manager; a unit that is not listed runs if
//	            processes are in its control group
//	consoles    vtcon1 bind=1 (M) frame buffer device
//	framebuffers
//	            efi-framebuffer.0 driver=efi-framebuffer in=ADDRESS at=d0000000-d07e8fff name=BOOTFB nodes= below=card
//	            (its directory is the card's, else /sys/devices/platform)
//	mounts      lines as in /proc/mounts, for what is not always there
//	devices     PATH c|b MAJOR:MINOR MODE [UID:GID]
//	links       PATH -> TARGET
//	owners      PATH MODE UID:GID, for files of other sections
//	processes   PID COMM ARGS… uid= cgroup= open=PATH,PATH maps=PATH,PATH
//	            lets_go=yes: closes a sound card's nodes when the card goes, and opens them when it is back
//	            stubborn=yes: does not end by SIGTERM
//	            affinity=LIST: where it may run; kthread=yes: a thread of the kernel's, for which there is process 2 too;
//	            bound=yes: nobody can move it (PF_NO_SETAFFINITY)
//
// Any other section is a file of the tree, its name the path without the first slash; with a slash at the end it is a
// directory. In /sys and /proc a write replaces such a file's content, unless it is a choice, "always [madvise] never", of
// which a write chooses a word, or one of the tunables that the model knows (swappiness, dirty_ratio, …) with the kernel's limits.
//
// # Rules
//
// Rules that Linux has and a plain directory has not: driver_override, bind, unbind, new_id, remove_id and
// drivers_probe move links and groups' nodes; modules bring and take drivers; nr_hugepages grants what the node's
// memory allows (mm/hugetlb.c with its surplus pages); compaction and dropped caches change what that is;
// cpuset.cpus.effective follows from all groups above; a CPU that goes off line takes its topology with it, and what can run
// nowhere else, an interrupt or a thread, gets other CPUs; interrupts come and go with their driver, and new ones follow
// default_smp_affinity; the energy preference depends on the governor; sysfs lets
// nobody create files and gives EACCES where the mode says no, even to root.
//
// A write of no bytes reaches no attribute. Values read end in a newline. Sizes by stat are 4096 in sysfs and 0 in
// procfs and cgroupfs.
package sysfstest
