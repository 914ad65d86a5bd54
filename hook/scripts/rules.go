package scripts

import (
	"path"
	"slices"
	"strconv"
	"strings"
)

// A rule is something that people's hooks do: how it looks, which step of qemu-hook does the same, what becomes of it.
type rule struct {
	like string // one pattern a line, as [act.like] has them
	step string // of qemu-hook; "" if it is no step's
	does string // what the line does, after "the line …"
	why  string // it is needless, or where it goes
	// hurts says what comes of it beside qemu-hook; "" for nothing.
	hurts string
	// use makes settings of it, none if the line cannot be understood; nil for what is needless.
	use func(a act) []setting
}

// What more than one step says.
const (
	hurtsBaseline = "what it sets is then taken for the host's own"
	hurtsDriver   = "the function is then found on vfio, as if that were its place, and nobody looks first who uses the card"
	hurtsModules  = "the modules go without a look at who uses the card, and from other cards too"
	hurtsStop     = "the session is lost also if the guest is then refused, and what was stopped is not known to have run"
	hurtsPages    = "a fixed number takes pages from other guests, and from what qemu-hook counts on"
	hurtsCall     = "libvirt waits for the hook that calls it, which can last for ever"
)

// rules returns the list, the first that fits counts. What none of them knows is not understood.
func rules() []rule {
	return []rule{
		{
			like: "virsh nodedev-detach|nodedev-dettach|nodedev-reattach|nodedev-reset …",
			step: "pci", does: "moves a PCI function through libvirt", why: "the functions of the XML are moved and come back",
			hurts: hurtsCall,
		},
		{
			like: "write /sys/bus/pci/devices/*/driver_override *\nwrite /sys/bus/pci/devices/*/driver/unbind *\nwrite /sys/bus/pci/drivers/*/unbind *\n" +
				"write /sys/bus/pci/drivers/*/bind *\nwrite /sys/bus/pci/drivers/*/new_id *\nwrite /sys/bus/pci/drivers/*/remove_id *\n" +
				"write /sys/bus/pci/drivers_probe *\nwrite /sys/bus/pci/devices/*/remove *\nwrite /sys/bus/pci/rescan *\n" +
				"write /sys/bus/pci/devices/*/reset *\ndriverctl …",
			step: "pci", does: "moves a PCI function to another driver", why: "the functions of the XML are moved and come back", hurts: hurtsDriver,
		},
		{
			like: "write /sys/bus/pci/devices/*/power/control *\nwrite /sys/bus/pci/devices/*/d3cold_allowed *",
			step: "pci", does: "keeps a PCI function awake", why: "functions are kept awake while they are moved", hurts: hurtsBaseline,
		},
		{
			like: "write /sys/bus/pci/devices/*/resource*_resize *", step: "pci", does: "sets the size of a BAR",
			why: "gpu.resize_bar", hurts: hurtsBaseline, use: useBAR,
		},
		{
			like: "write /sys/bus/pci/devices/*/reset_method *", step: "pci", does: "sets how a function is reset",
			why: "gpu.reset_method", hurts: hurtsBaseline, use: useReset,
		},
		{
			like: "modprobe vfio|vfio_pci|vfio_iommu_type1|vfio_virqfd|vfio_pci_core …\nmodprobe -r vfio|vfio_pci|vfio_iommu_type1|vfio_virqfd|vfio_pci_core",
			step: "pci", does: "loads or unloads vfio", why: "the modules that are needed are loaded, and may stay",
		},
		{
			like: "modprobe -r nvidia*|nouveau|amdgpu|radeon|i915|xe|snd_hda_*|i2c_nvidia_gpu|ucsi_ccg|drm*|ttm\n" +
				"modprobe nvidia*|nouveau|amdgpu|radeon|i915|xe|snd_hda_*|i2c_nvidia_gpu|ucsi_ccg|drm*|ttm …",
			step: "pci", does: "unloads or loads a card's driver", why: "where unloading is needed, it is done, and the driver comes back", hurts: hurtsModules,
		},
		{
			like: "nvidia-smi … \nnvidia-xconfig --query-gpu-info", step: "pci", does: "talks to NVIDIA's driver", why: "persistence mode is turned off, and on again",
		},
		{
			like: "write /sys/class/vtconsole/*/bind *\nwrite /sys/devices/virtual/vtconsole/*/bind *\n" +
				"write /sys/bus/platform/drivers/*framebuffer/unbind *\nwrite /sys/bus/platform/drivers/*framebuffer/bind *",
			step: "quiesce", does: "takes the console off the card", why: "the console and the firmware's frame buffer are taken off, and come back",
			hurts: "the console is gone also if the guest is then refused, and what was taken is not known",
		},
		{
			like: "systemctl stop|start|restart nvidia-persistenced|nvidia-persistenced.service|nvidia-powerd|nvidia-powerd.service",
			step: "quiesce", does: "stops a service of NVIDIA's", why: "they are stopped while the card leaves",
		},
		{
			like: "systemctl start|stop libvirt-nosleep@*\nsystemd-inhibit …", step: "inhibit", does: "keeps the host awake", why: "the host is kept from sleep while the guest runs",
		},
		{
			like: "systemctl stop|mask irqbalance|irqbalance.service", step: "interrupts", does: "stops irqbalance", why: `cpus.irqbalance = "stop"`,
			hurts: hurtsBaseline, use: func(act) []setting { return []setting{{key: []string{"cpus", "irqbalance"}, value: "stop"}} },
		},
		{like: "systemctl start|unmask irqbalance|irqbalance.service", step: "interrupts", does: "starts irqbalance", why: `cpus.irqbalance = "stop"`, use: useBack("cpus", "irqbalance")},
		{
			like: "systemctl stop|kill display-manager|display-manager.service|gdm*|sddm*|lightdm*|lxdm*|xdm*|ly.service|greetd*",
			step: "quiesce", does: "stops the desktop", why: "services.stop", hurts: hurtsStop, use: useStop,
		},
		{like: "systemctl stop|kill *", step: "quiesce", does: "stops a unit", why: "services.stop", use: useStop},
		{like: "systemctl start *", step: "quiesce", does: "starts a unit", why: "services.stop", use: useStart},
		{
			like: "systemctl set-property * *AllowedCPUs=*\nsystemctl set-property * * *AllowedCPUs=*\nsystemctl set-property * * * *AllowedCPUs=*",
			step: "cpus", does: "limits the host's CPUs", why: "the host keeps what the guests' pins leave, or what cpus.host says", hurts: hurtsBaseline, use: useHostCPUs,
		},
		{
			like: "write /sys/fs/cgroup/*cpuset* *\ncset …\nvfio-isolate …\ntaskset -p|-pc|-cp|-acp|-apc|-pac|-ap …", step: "cpus", does: "limits the host's CPUs",
			why: "the host keeps what the guests' pins leave, or what cpus.host says", hurts: hurtsBaseline,
		},
		{
			like: "write /proc/irq/* *", step: "interrupts", does: "moves interrupts", why: "interrupts are moved off the guest's CPUs and come back", hurts: hurtsBaseline,
		},
		{
			like: "write /sys/bus/workqueue/devices/* *\nwrite /sys/devices/virtual/workqueue/* *\nwrite /proc/sys/kernel/watchdog_cpumask *",
			step: "kernel", does: "moves the kernel's own work", why: "the kernel's work is moved off the guest's CPUs and comes back", hurts: hurtsBaseline,
		},
		{
			like: "write /proc/sys/vm/nr_hugepages* *\nwrite /proc/sys/vm/nr_overcommit_hugepages *\nwrite /sys/*/nr_hugepages* *\nwrite /sys/*/nr_overcommit_hugepages *\nhugeadm …",
			step: "hugepages", does: "sets the number of huge pages", why: "the guest's pages are added, and taken away again", hurts: hurtsPages,
		},
		{
			like: "write /proc/sys/vm/drop_caches *\nwrite /proc/sys/vm/compact_memory *\nwrite /sys/devices/system/node/*/compact *\nsync",
			step: "hugepages", does: "makes room for huge pages", why: "done only as far as pages are short",
		},
		{
			like: "write /sys/devices/system/cpu/*/scaling_governor *", step: "frequency", does: "sets the governor of CPUs",
			why: "cpus.governor, of the guest's CPUs", hurts: hurtsBaseline, use: useWord("cpus", "governor", 2),
		},
		{
			like: "governor *", step: "frequency", does: "sets the governor of CPUs",
			why: "cpus.governor, of the guest's CPUs", hurts: hurtsBaseline, use: useWord("cpus", "governor", 1),
		},
		{
			like: "write /sys/devices/system/cpu/*/energy_performance_preference *", step: "frequency", does: "sets the energy preference of CPUs",
			why: "cpus.epp, of the guest's CPUs", hurts: hurtsBaseline, use: useWord("cpus", "epp", 2),
		},
		{
			like: "write /sys/devices/system/cpu/*/pm_qos_resume_latency_us *", step: "frequency", does: "sets how soon CPUs wake",
			why: "cpus.resume_latency, of the guest's CPUs", hurts: hurtsBaseline, use: useWord("cpus", "resume_latency", 2),
		},
		{
			like: "touch /dev/shm/*\nrm /dev/shm/*\ntruncate /dev/shm/*\ndd of=/dev/shm/* …\nwrite /dev/shm/* …\ninstall … ", step: "shm",
			does: "makes or removes a file in shared memory", why: "the file of the XML is made, and goes", use: useShmFile,
		},
		{like: "chown * /dev/shm/*\nchgrp * /dev/shm/*\nchmod * /dev/shm/*", step: "shm", does: "gives a file in shared memory to somebody", why: "its owner and mode", use: useShm},
		{like: "kill *", step: "quiesce", does: "ends processes", why: "gpu.terminate, if they use the card", use: useKill},
		{
			like: "fuser -k|-km|-mk|-vk /dev/nvidia*|/dev/dri/* …\nfuser -k -9|-KILL|-TERM|-SIGTERM|-SIGKILL /dev/nvidia*|/dev/dri/* …",
			step: "quiesce", does: "ends who uses the card", why: `gpu.in_use = "terminate"`, hurts: hurtsStop,
			use: func(act) []setting { return []setting{{key: []string{"gpu", "in_use"}, value: "terminate"}} },
		},
		{
			like: "loginctl terminate-seat *", step: "quiesce", does: "ends a seat's sessions", why: "session.end", hurts: hurtsStop,
			use: useWord("session", "end", 2),
		},
		// What is not taken over, with what to do instead.
		{like: "virsh …", does: "calls libvirt", hurts: hurtsCall, use: cannot("a hook must never call libvirt, which waits for it")},
		{like: "systemctl * libvirtd*|virtqemud*|virtlogd*", does: "restarts libvirt", hurts: hurtsCall, use: cannot("a hook must not stop the daemon that waits for it")},
		{like: "systemctl isolate *", does: "stops the desktop", hurts: hurtsStop, use: cannot("say in services.stop which unit is to stop, such as display-manager.service")},
		{like: "loginctl …", use: cannot(`session.end = "seat0" ends the sessions of a seat`)},
		{like: "mkdir /sys/*\nrmdir /sys/*\ncgcreate …\ncgset …\ncgexec …", use: cannot("control groups are systemd's")},
		{like: "mount … \numount …", use: cannot("what is mounted is left to systemd or /etc/fstab")},
		{like: "modprobe kvmfr …", use: cannot("kvmfr is only checked: have it loaded by /etc/modules-load.d")},
		{like: "chown * /dev/kvmfr*\nchmod * /dev/kvmfr*\nchgrp * /dev/kvmfr*", use: cannot("who may open kvmfr is for a udev rule")},
	}
}

// A setting is what a line becomes in the configuration.
type setting struct {
	key   []string
	value string
	// list says that the value is one of several.
	list bool
	// optional is a reason why it is only suggested.
	optional string
	// back says that the line brings back what another one has set.
	back bool
	// needless says that nothing is to be set after all, cannot why the line is not taken over.
	needless bool
	cannot   string
}

func cannot(why string) func(act) []setting {
	return func(act) []setting { return []setting{{cannot: why}} }
}

func useWord(table, key string, n int) func(act) []setting {
	return func(a act) []setting {
		if v, known := a.word(n); known {
			return []setting{{key: []string{table, key}, value: v}}
		}
		return nil
	}
}

func useBack(key ...string) func(act) []setting {
	return func(act) []setting { return []setting{{key: key, back: true}} }
}

func unitName(name string) string {
	if strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".socket") || strings.HasSuffix(name, ".target") ||
		strings.HasSuffix(name, ".timer") || strings.HasSuffix(name, ".scope") || strings.HasSuffix(name, ".slice") ||
		strings.HasSuffix(name, ".mount") || strings.HasSuffix(name, ".path") {
		return name
	}
	return name + ".service"
}

func useStop(a act) []setting {
	unit, known := a.word(2)
	if !known {
		return nil
	}
	if match("libvirt*", unit) || match("virtqemud*", unit) {
		return []setting{{cannot: "a hook must not stop the daemon that waits for it"}}
	}
	return []setting{{key: []string{"services", "stop"}, value: unitName(unit), list: true}}
}

func useStart(a act) []setting {
	unit, known := a.word(2)
	if !known {
		return nil
	}
	return []setting{{key: []string{"services", "stop"}, value: unitName(unit), list: true, back: true}}
}

func useHostCPUs(a act) []setting {
	for _, w := range a[2:] {
		list, ok := strings.CutPrefix(w.text, "AllowedCPUs=")
		if unit := a[2].text; ok && w.known() && list != "" && slices.Contains([]string{"system.slice", "user.slice", "init.scope"}, unit) {
			return []setting{{
				key: []string{"cpus", "host"}, value: strings.ReplaceAll(list, " ", ","),
				optional: "for all guests together; without it the host keeps what the guests' pins leave",
			}}
		}
	}
	return []setting{{needless: true}}
}

func useKill(a act) []setting {
	name, known := a.word(1)
	if !known {
		return nil
	}
	return []setting{{key: []string{"gpu", "terminate"}, value: name, list: true}}
}

// useBAR reads the exponent of a size in MiB.
func useBAR(a act) []setting {
	file, known := a.word(1)
	value, plain := a.word(2)
	n, err := strconv.Atoi(value)
	if !known || !plain || err != nil || n < 0 || n > 30 {
		return nil
	}
	bar := strings.TrimSuffix(strings.TrimPrefix(path.Base(file), "resource"), "_resize")
	size := strconv.Itoa(1<<n) + "M"
	return []setting{{key: []string{"gpu", "resize_bar", path.Base(path.Dir(file))}, value: bar + "=" + size}}
}

func useReset(a act) []setting {
	file, known := a.word(1)
	value, plain := a.word(2)
	if !known || !plain {
		return nil
	}
	return []setting{{key: []string{"gpu", "reset_method", path.Base(path.Dir(file))}, value: value}}
}

// shmTable is where the owner of a file in shared memory stands.
func shmTable(file string) []string {
	if file == "/dev/shm/looking-glass" {
		return []string{"looking_glass"}
	}
	return []string{"shm", path.Base(file)}
}

func useShmFile(a act) []setting {
	if a[0].text != "install" {
		return []setting{{needless: true}}
	}
	if last := a[len(a)-1]; !match("/dev/shm/*", last.text) || !last.known() {
		return nil
	}
	var all []setting
	for i, w := range a[:len(a)-1] {
		key := map[string]string{"-o": "user", "-g": "group", "-m": "mode"}[w.text]
		if value, known := a.word(i + 1); key != "" && known {
			all = append(all, setting{key: append(shmTable(a[len(a)-1].text), key), value: value})
		}
	}
	return append(all, setting{needless: true})
}

func useShm(a act) []setting {
	who, known := a.word(1)
	file, plain := a.word(2)
	if !known || !plain || strings.Count(file, "/") != 3 {
		return nil
	}
	table := shmTable(file)
	switch a[0].text {
	case "chmod":
		return []setting{{key: append(table, "mode"), value: who}}
	case "chgrp":
		return []setting{{key: append(table, "group"), value: who}}
	}
	user, group, _ := strings.Cut(strings.Replace(who, ".", ":", 1), ":")
	var all []setting
	for _, s := range []struct{ key, value string }{{"user", user}, {"group", group}} {
		if s.value != "" {
			all = append(all, setting{key: append(slices.Clone(table), s.key), value: s.value})
		}
	}
	return all
}

// looks reports whether a command only looks, waits or says something.
func looks(args []arg) bool {
	name := path.Base(args[0].text)
	has := func(words ...string) bool {
		return slices.ContainsFunc(args[1:], func(a arg) bool { return slices.Contains(words, a.text) })
	}
	switch name {
	case "echo", "printf", "sleep", "true", "false", ":", "exit", "return", "set", "cd", "wait", "unset", "shopt", "shift", "break", "continue",
		"date", "logger", "grep", "egrep", "fgrep", "awk", "gawk", "cut", "head", "tail", "cat", "lspci", "lsmod", "lsof", "ls", "wc", "tr",
		"sort", "uniq", "readlink", "realpath", "dirname", "basename", "id", "whoami", "hostname", "uname", "nproc", "pgrep", "pidof", "ps", "which",
		"type", "stat", "read", "test", "[", "[[", "tee", "seq", "udevadm", "ulimit", "umask", "expr", "let", "findmnt", "free":
		return name != "udevadm" || has("settle")
	case "sed":
		return !slices.ContainsFunc(args[1:], func(a arg) bool { return strings.HasPrefix(a.text, "-i") })
	case "find":
		return !has("-exec", "-delete", "-execdir", "-ok")
	case "systemctl":
		return has("is-active", "is-enabled", "status", "show", "list-units", "is-failed")
	case "command":
		return has("-v", "-V")
	case "fuser":
		return !slices.ContainsFunc(args[1:], func(a arg) bool { return strings.HasPrefix(a.text, "-") && strings.Contains(a.text, "k") })
	}
	return false
}
