package hook

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"qemu-hook/cpuset"
	"qemu-hook/text"
)

// A KeyDoc describes a key of the configuration. NAME in a key stands for any name.
type KeyDoc struct {
	Key      string
	Default  string // as TOML; "" for none
	Doc      string // what it does and what is allowed
	Shared   bool   // stands for all guests together: not in a [guest.NAME] table
	Metadata string // what a domain's <metadata> may set: "" for nothing, "narrower" than the host's file, "any"
}

// ConfigKeys returns every key there is, in the order of the manual. All but those that are Shared may stand in a
// [guest.NAME] table too.
func ConfigKeys() []KeyDoc {
	keys := configKeys()
	docs := make([]KeyDoc, 0, len(keys))
	for _, k := range keys {
		d := KeyDoc{Key: k.name, Doc: k.doc, Shared: k.shared(), Metadata: string(k.meta)}
		if k.def != nil {
			d.Default = configValue(k.def)
		}
		docs = append(docs, d)
	}
	return docs
}

// configKey is one key: everything that is known about it.
type configKey struct {
	name string // a part in capitals stands for any name
	def  any    // as TOML has it; nil for none
	doc  string
	// set checks a value and stores it. path are the parts of the key as written; nil for the default.
	set func(c *Config, path []string, v any) error
	// meta says whether <metadata> in a domain XML may set the key; the zero value is no.
	meta configMeta
	// rank orders the values of a key that metadata may narrow: the higher, the wider.
	rank func(c *Config) int
}

type configMeta string

const (
	metaNarrower configMeta = "narrower" // only as far as rank does not grow
	metaAny      configMeta = "any"      // says what the domain asks for, and takes nothing from the host's decisions
)

// shared reports whether the key is about what guests share, so that it cannot differ from one guest to another.
func (k configKey) shared() bool {
	return slices.Contains([]string{"cpus.host", "cpus.units", "cpus.confine_guests", "metrics.textfile"}, k.name)
}

// deep reports whether the last part of the key stands for any number of parts.
func (k configKey) deep() bool { return k.name == "tunables.NAME" }

// configKeys is the one list of keys: the check, the defaults, the help and the README come from it.
func configKeys() []configKey {
	keys := []configKey{
		{
			"enabled", true, "whether the hook does anything at all",
			configBool(func(c *Config) *bool { return &c.Enabled }),
			metaNarrower, func(c *Config) int { return configRankBool(c.Enabled) },
		},
		{
			"required",
			[]any{},
			`steps without which a guest must not start, though they would only warn: of ` + configQuoted(configStepNames()),
			configList(func(c *Config) *[]string { return &c.Required }, configOneOf(configStepNames()...)), "", nil,
		},
	}
	for _, s := range configSteps() {
		keys = append(keys, s.key())
	}
	return append(keys, []configKey{
		{
			"cpus.isolate", string(IsolatePassthrough), `which guests have their CPUs to themselves: "passthrough" (those with a PCI function), ` +
				`"pinned" (all with <vcpupin>) or "never"`,
			configEnum(func(c *Config) *Isolate { return &c.CPUs.Isolate }, IsolatePassthrough, IsolatePinned, IsolateNever),
			metaNarrower, func(c *Config) int {
				return slices.Index([]Isolate{IsolateNever, IsolatePassthrough, IsolatePinned}, c.CPUs.Isolate)
			},
		},
		{
			"cpus.host", "", `the CPUs that the host keeps while guests have theirs, such as "0-3,16"; "" for all that are left`,
			func(c *Config, _ []string, v any) error { return setConfigCPUs(&c.CPUs.Host, v) }, "", nil,
		},
		{
			"cpus.exclusive",
			[]any{},
			`which of the guest's other threads have their CPUs to themselves too: of "emulator", "iothreads"`,
			configList(func(c *Config) *[]string { return &c.CPUs.Exclusive }, configOneOf(ExclusiveEmulator, ExclusiveIOThreads)), metaAny, nil,
		},
		{
			"cpus.min_host", int64(0), "CPUs that the host must keep, or nothing is taken from it; 0 for one core with its threads",
			configInt(func(c *Config, n int64) { c.CPUs.MinHost = int(n) }, cpuset.Max), "", nil,
		},
		{
			"cpus.units",
			[]any{"system.slice", "user.slice", "init.scope"},
			"the slices, scopes and services that are kept off the guest's CPUs; never machine.slice",
			func(c *Config, p []string, v any) error {
				if l, ok := v.([]any); ok && len(l) == 0 {
					return fmt.Errorf(`is empty; to leave the host's CPUs alone set cpus.isolate = "never"`)
				}
				return configList(func(c *Config) *[]string { return &c.CPUs.Units }, checkConfigUnit)(c, p, v)
			}, "", nil,
		},
		{
			"cpus.overlap", string(OverlapWarn), `what happens if another guest has some of the guest's CPUs to itself: "warn" or "refuse"`,
			configEnum(func(c *Config) *Overlap { return &c.CPUs.Overlap }, OverlapWarn, OverlapRefuse), "", nil,
		},
		{
			"cpus.split_core", string(SplitCoreWarn), `what happens if host and guest share a core, each with some of its threads: "warn", "refuse" or "ignore"`,
			configEnum(func(c *Config) *SplitCore { return &c.CPUs.SplitCore }, SplitCoreWarn, SplitCoreRefuse, SplitCoreIgnore), "", nil,
		},
		{
			"cpus.confine_guests", false, "whether a guest without <vcpupin>s is kept off the CPUs that others have to themselves",
			configBool(func(c *Config) *bool { return &c.CPUs.ConfineGuests }), "", nil,
		},
		{
			"cpus.partition", false, "whether the CPUs of each of the guest's vCPUs become an isolated partition (cpuset) while it runs; takes Linux 6.7 and vCPUs that share none",
			configBool(func(c *Config) *bool { return &c.CPUs.Partition }), "", nil,
		},
		{
			"cpus.irqbalance", string(IRQBalanceBan), `what happens to irqbalance, where it runs: "ban" (it is told to leave the guest's CPUs alone), "stop" ` +
				`(irqbalance.service does not run meanwhile) or "ignore"`,
			configEnum(func(c *Config) *IRQBalanceMode { return &c.CPUs.IRQBalance }, IRQBalanceBan, IRQBalanceStop, IRQBalanceIgnore), "", nil,
		},
		{
			"cpus.governor", "", `cpufreq governor of the guest's CPUs while it runs, such as "performance": one that the kernel lists; "" to leave it`,
			func(c *Config, _ []string, v any) error { return setConfigWord(&c.CPUs.Governor, v) }, "", nil,
		},
		{
			"cpus.epp", "", `energy preference of the guest's CPUs while it runs, such as "balance_performance": one that the kernel lists; "" to leave it`,
			func(c *Config, _ []string, v any) error { return setConfigWord(&c.CPUs.EPP, v) }, "", nil,
		},
		{
			"cpus.resume_latency", "", `microseconds in which the guest's CPUs must be able to wake, such as "20"; "n/a" for at once; "" to leave it`,
			func(c *Config, _ []string, v any) error { return setConfigLatency(&c.CPUs.ResumeLatency, v) }, "", nil,
		},
		{
			"hugepages.keep", int64(0), "free pages of each pool that guests never get",
			configInt(func(c *Config, n int64) { c.Hugepages.Keep = uint64(n) }, configMaxPages), "", nil,
		},
		{
			"hugepages.host_reserve", "1G", `memory that the host keeps, such as "512M" or "2G"`,
			func(c *Config, _ []string, v any) error { return setConfigSize(&c.Hugepages.HostReserve, v) }, "", nil,
		},
		{
			"hugepages.deadline", "60s", `how long allocating may take, "1s" to "1h"`,
			func(c *Config, _ []string, v any) error {
				return setConfigDuration(&c.Hugepages.Deadline, v, time.Second, time.Hour)
			}, "", nil,
		},
		{
			"hugepages.compact", string(WhenShort), `when memory is compacted to allocate: "when-short", "always" or "never"`,
			configEnum(func(c *Config) *When { return &c.Hugepages.Compact }, WhenShort, Always, Never),
			metaNarrower, func(c *Config) int { return configRankWhen(c.Hugepages.Compact) },
		},
		{
			"hugepages.drop_caches", string(WhenShort), `when the page cache is dropped to allocate: "when-short", "always" or "never"`,
			configEnum(func(c *Config) *When { return &c.Hugepages.DropCaches }, WhenShort, Always, Never),
			metaNarrower, func(c *Config) int { return configRankWhen(c.Hugepages.DropCaches) },
		},
		{
			"hugepages.extra", int64(0), "pages on top of those that the domain asks for",
			configInt(func(c *Config, n int64) { c.Hugepages.Extra = uint64(n) }, configMaxPages), "", nil,
		},
		{
			"memory.compact", string(Never), `whether memory is compacted for a guest without huge pages of its own, which uses transparent ones: "always" or "never"`,
			configEnum(func(c *Config) *When { return &c.Compact }, Always, Never),
			metaNarrower, func(c *Config) int { return configRankWhen(c.Compact) },
		},
		{
			"tunables.NAME", nil, `what a file of the kernel's holds while a guest runs: NAME is a sysctl, such as vm.swappiness, or a quoted path under /proc/sys or /sys`,
			setConfigTunable, "", nil,
		},
		{
			"inhibit", nil, `what the host is kept from while the guest runs: of "sleep", "idle"; without it ["sleep"] for guests with a PCI function`,
			func(c *Config, p []string, v any) error {
				var list []string
				err := configList(func(*Config) *[]string { return &list }, configOneOf("sleep", "idle"))(c, p, v)
				if err == nil {
					c.Inhibit = &list
				}
				return err
			}, "", nil,
		},
		{
			"services.stop",
			[]any{},
			`units that do not run while a guest has its PCI functions, such as ["display-manager.service"]; they are started again`,
			configList(func(c *Config) *[]string { return &c.Stop }, checkConfigStop), "", nil,
		},
		{
			"session.end", "", `the seat, such as "seat0", whose graphical sessions are ended before a guest takes its PCI functions`,
			func(c *Config, _ []string, v any) error { return setConfigUser(&c.EndSession, v) }, "", nil,
		},
		{
			"gpu.in_use", string(InUseRefuse), `what happens to processes that use the card: "refuse" (the guest does not start, unless all are listed in one of ` +
				`gpu.terminate, services.stop and session.end) or "terminate" (they are ended)`,
			configEnum(func(c *Config) *InUse { return &c.GPU.InUse }, InUseRefuse, InUseTerminate),
			metaNarrower, func(c *Config) int { return slices.Index([]InUse{InUseRefuse, InUseTerminate}, c.GPU.InUse) },
		},
		{
			"gpu.terminate",
			[]any{},
			`commands and units whose processes may be ended if they use the card, such as ["chrome", "plasma-powerdevil.service"]`,
			configList(func(c *Config) *[]string { return &c.GPU.Terminate }, checkConfigCommand), "", nil,
		},
		{
			"gpu.grace", "20s", `how long those who use the card have to go, before they are killed or the guest is refused; "0s" to "10m"`,
			func(c *Config, _ []string, v any) error { return setConfigDuration(&c.GPU.Grace, v, 0, 10*time.Minute) }, "", nil,
		},
		{
			"gpu.deadline", "15s", `how long is tried to find the card unused, when programs open it again and again; "1s" to "10m"`,
			func(c *Config, _ []string, v any) error {
				return setConfigDuration(&c.GPU.Deadline, v, time.Second, 10*time.Minute)
			}, "", nil,
		},
		{
			"gpu.nvidia_smi", "", `the path of nvidia-smi; "" for where distributions have it`,
			func(c *Config, _ []string, v any) error { return setConfigPath(&c.GPU.NvidiaSMI, v) }, "", nil,
		},
		{
			"gpu.give_back.NAME", nil, `where the function with the PCI address NAME goes when its guest is gone: "as-before" or "stay" (on vfio, until qemu-hook unbind)`,
			configByAddress(func(c *Config) *map[string]GiveBack { return &c.GPU.GiveBack }, setConfigGiveBack), "", nil,
		},
		{
			"gpu.rescan", false, "remove a function from the bus and have it found again, if its driver does not come back after the guest",
			configBool(func(c *Config) *bool { return &c.GPU.Rescan }), "", nil,
		},
		{
			"gpu.resize_bar.NAME", nil, `size of a BAR of the function with the PCI address NAME while a guest has it, such as "1=256M"; several with commas`,
			configByAddress(func(c *Config) *map[string][]BARSize { return &c.GPU.ResizeBAR }, setConfigBARs), "", nil,
		},
		{
			"gpu.reset_method.NAME", nil, `how the function with the PCI address NAME is reset while a guest has it, such as "bus": of those in its reset_method`,
			configByAddress(func(c *Config) *map[string]string { return &c.GPU.ResetMethod }, setConfigReset), "", nil,
		},
		{
			"pci.force",
			[]any{},
			`addresses of functions that guests may have although the host needs them, such as ["0000:04:00.0"]`,
			configList(func(c *Config) *[]string { return &c.PCI.Force }, checkConfigAddress), "", nil,
		},
		{
			"pci.siblings", string(SiblingsRefuse), `functions of the guest's slot and IOMMU group that its XML leaves out: "refuse" or "bind" (they go along, and come back)`,
			configEnum(func(c *Config) *Siblings { return &c.PCI.Siblings }, SiblingsRefuse, SiblingsBind),
			metaNarrower, func(c *Config) int { return slices.Index([]Siblings{SiblingsRefuse, SiblingsBind}, c.PCI.Siblings) },
		},
		{
			"run",
			[]any{},
			`own commands, root's and without a shell: [{before = ["/usr/local/sbin/a", "b"], after = ["/usr/local/sbin/c"], deadline = "30s"}], or [[guest.NAME.run]] tables`,
			func(c *Config, _ []string, v any) error { return setConfigCommands(&c.Run, v) }, "", nil,
		},
		{
			"looking_glass.user", "", `owner of /dev/shm/looking-glass; "" for the user of the active session on seat0`,
			func(c *Config, _ []string, v any) error { return setConfigUser(&c.LookingGlass.User, v) }, "", nil,
		},
		{
			"looking_glass.group", "", `its group; "" for kvm if there is one`,
			func(c *Config, _ []string, v any) error { return setConfigUser(&c.LookingGlass.Group, v) }, "", nil,
		},
		{
			"looking_glass.mode", "", `its permission bits as an octal string; "" for "0660"`,
			func(c *Config, _ []string, v any) error { return setConfigMode(&c.LookingGlass.Mode, v) }, "", nil,
		},
		{
			"looking_glass.files",
			[]any{},
			`files for a domain whose XML names none: [{path = "/dev/shm/looking-glass", size = "64M"}]`,
			func(c *Config, _ []string, v any) error { return setConfigFiles(&c.LookingGlass.Files, v) }, "", nil,
		},
		{
			"shm.NAME.user", nil, "owner of the file /dev/shm/NAME, as looking_glass.user",
			configShm(func(o *ShmOwner, v any) error { return setConfigUser(&o.User, v) }), "", nil,
		},
		{
			"shm.NAME.group", nil, "its group, as looking_glass.group",
			configShm(func(o *ShmOwner, v any) error { return setConfigUser(&o.Group, v) }), "", nil,
		},
		{
			"shm.NAME.mode", nil, "its permission bits, as looking_glass.mode",
			configShm(func(o *ShmOwner, v any) error { return setConfigMode(&o.Mode, v) }), "", nil,
		},
		{
			"metrics.textfile", "", `a file, such as "/var/lib/node-exporter/qemu-hook.prom", that says after each event what guests have and how long the steps took, ` +
				`for Prometheus' textfile collector; "" for none`,
			func(c *Config, _ []string, v any) error { return setConfigPath(&c.MetricsFile, v) }, "", nil,
		},
	}...)
}

const configMaxPages = 1 << 32

// configStep is a step that can be switched off, or required.
type configStep struct {
	name, doc string
	meta      configMeta // of the switch
}

// configSteps returns the steps in the order in which they act.
func configSteps() []configStep {
	return []configStep{
		{"run", "run what [[run]] says", ""},
		{"quiesce", "look who uses the guest's functions, and stop what the configuration lists", ""},
		{"hugepages", "allocate the guest's huge pages", metaNarrower},
		{"cpus", "keep the host off the guest's CPUs", metaNarrower},
		{"interrupts", "keep the host's interrupts off the guest's CPUs, and send the guest's own there", metaNarrower},
		{"kernel", "keep workqueues and the kernel's threads off the guest's CPUs", metaNarrower},
		{"frequency", "give the guest's CPUs the governor, energy preference and latency that cpus.governor, cpus.epp and cpus.resume_latency say", metaNarrower},
		{"tunables", "set what [tunables] says", metaNarrower},
		{"pci", "bind the guest's PCI functions to their vfio driver", metaNarrower},
		{"shm", "make the guest's files in /dev/shm", metaNarrower},
		{"inhibit", "keep the host from what inhibit says", metaNarrower},
	}
}

// configStepNames returns the names of the steps.
func configStepNames() []string {
	var names []string
	for _, s := range configSteps() {
		names = append(names, s.name)
	}
	return names
}

// key is the step's switch.
func (s configStep) key() configKey {
	k := configKey{name: "steps." + s.name, def: true, doc: s.doc, meta: s.meta}
	k.set = func(c *Config, _ []string, v any) error {
		on, ok := v.(bool)
		if !ok {
			return errors.New("want true or false")
		}
		if c.Steps == nil {
			c.Steps = map[string]bool{}
		}
		c.Steps[s.name] = on
		return nil
	}
	if s.meta == metaNarrower {
		k.rank = func(c *Config) int { return configRankBool(c.Steps[s.name]) }
	}
	return k
}

func configQuoted(names []string) string {
	var quoted []string
	for _, n := range names {
		quoted = append(quoted, strconv.Quote(n))
	}
	return strings.Join(quoted, ", ")
}

func configRankBool(b bool) int {
	if b {
		return 1
	}
	return 0
}

func configRankWhen(w When) int { return slices.Index([]When{Never, WhenShort, Always}, w) }

// matches compares a key as written with the key's name and reports how many parts they share; full if all.
func (k configKey) matches(path []string) (parts int, full bool) {
	n := 0
	for part := range strings.SplitSeq(k.name, ".") {
		if n == len(path) {
			return n, false
		}
		if part != path[n] && !configPlaceholder(part) {
			return n, false
		}
		n++
	}
	return n, n == len(path)
}

// reaches reports whether the key, if it is deep, stands for this path.
func (k configKey) reaches(path []string) bool {
	table, _, _ := strings.Cut(k.name, ".")
	return k.deep() && len(path) > 1 && path[0] == table
}

func configPlaceholder(part string) bool { return part == "NAME" }

// configValue renders a value as TOML, shortened.
func configValue(v any) string {
	switch v := v.(type) {
	case string:
		return strconv.Quote(configText(v))
	case []any:
		var s []string
		for i, e := range v {
			if i == 4 {
				s = append(s, "…")
				break
			}
			s = append(s, configValue(e))
		}
		return "[" + strings.Join(s, ", ") + "]"
	case map[string]any:
		return "{…}"
	case []map[string]any:
		return "[{…}]"
	}
	return fmt.Sprint(v)
}

// configText shortens a text of unknown origin and keeps it on one line.
func configText(s string) string { return text.Line(text.Short(s, 40)) }
