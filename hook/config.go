package hook

import (
	"maps"
	"path"
	"slices"
	"time"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
)

// Config is what the host's administrator decides, /etc/qemu-hook/config.toml. [ConfigKeys] documents every key.
type Config struct {
	Enabled      bool
	Required     []string        // names of steps
	Steps        map[string]bool // which are on, by name
	CPUs         ConfigCPUs
	Hugepages    ConfigHugepages
	GPU          ConfigGPU
	PCI          ConfigPCI
	Stop         []string // units that do not run while a guest has its functions
	EndSession   string   // the seat whose graphical sessions are ended for a guest; "" for none
	Compact      When     // memory, for guests without huge pages
	Inhibit      *[]string
	Tunables     map[string]string // by path
	LookingGlass ConfigLookingGlass
	Shm          map[string]ShmOwner // by file name
	// MetricsFile is where figures for Prometheus are left; "" for nowhere.
	MetricsFile string
	Run         []ConfigCommand

	// guests are the [guest.NAME] tables, checked but not merged.
	guests map[string][]configSetting
}

// ConfigCPUs is about the host CPUs.
type ConfigCPUs struct {
	Isolate   Isolate
	Host      cpuset.Set // what the host keeps; empty: what the claims leave
	Exclusive []string   // ExclusiveEmulator, ExclusiveIOThreads
	MinHost   int        // 0: one core with its threads
	Units     []string

	Overlap       Overlap
	SplitCore     SplitCore
	ConfineGuests bool
	Partition     bool
	IRQBalance    IRQBalanceMode
	// Of the guest's CPUs; "" to leave them as they are:
	Governor, EPP, ResumeLatency string
}

// Overlap says what happens if a guest's CPUs are those of another, too.
type Overlap string

// The values of Overlap.
const (
	OverlapWarn   Overlap = "warn"
	OverlapRefuse Overlap = "refuse"
)

// SplitCore says what happens if a core's threads are the host's in part, and a guest's.
type SplitCore string

// The values of SplitCore.
const (
	SplitCoreWarn   SplitCore = "warn"
	SplitCoreRefuse SplitCore = "refuse"
	SplitCoreIgnore SplitCore = "ignore"
)

// IRQBalanceMode says what happens to irqbalance while a guest has CPUs that interrupts are kept off.
type IRQBalanceMode string

// The values of IRQBalanceMode.
const (
	IRQBalanceBan    IRQBalanceMode = "ban"
	IRQBalanceStop   IRQBalanceMode = "stop"
	IRQBalanceIgnore IRQBalanceMode = "ignore"
)

// Isolate says which guests claim the CPUs their vcpus are pinned to.
type Isolate string

// The values of Isolate.
const (
	IsolateNever       Isolate = "never"
	IsolatePassthrough Isolate = "passthrough" // guests with a PCI function
	IsolatePinned      Isolate = "pinned"      // all that are pinned
)

// The members of ConfigCPUs.Exclusive.
const (
	ExclusiveEmulator  = "emulator"
	ExclusiveIOThreads = "iothreads"
)

// ConfigHugepages is about the hugetlb pools. Sizes are in bytes, the others in pages.
type ConfigHugepages struct {
	Keep        uint64
	HostReserve uint64
	Deadline    time.Duration
	Compact     When
	DropCaches  When
	Extra       uint64
}

// When says when a costly measure is taken.
type When string

// The values of When.
const (
	Never     When = "never"
	WhenShort When = "when-short"
	Always    When = "always"
)

// ConfigGPU is about a card that the host uses, and its way to a guest and back.
type ConfigGPU struct {
	InUse     InUse
	Terminate []string      // commands and units that may be ended
	Grace     time.Duration // from SIGTERM to SIGKILL, and for holders to go after units and sessions
	Deadline  time.Duration // for the driver to find the card unused
	NvidiaSMI string        // the program's path; "" for where it usually is
	Rescan    bool
	// By PCI address:
	GiveBack    map[string]GiveBack
	ResizeBAR   map[string][]BARSize
	ResetMethod map[string]string
}

// InUse says what happens to processes that use a card which a guest asks for.
type InUse string

// The values of InUse.
const (
	InUseRefuse    InUse = "refuse"    // the guest does not start, unless all of them are listed
	InUseTerminate InUse = "terminate" // they are ended, but for those that nobody may end
)

// GiveBack says where a function goes when its guest is gone.
type GiveBack string

// The values of GiveBack.
const (
	GiveBackAsBefore GiveBack = "as-before"
	GiveBackStay     GiveBack = "stay" // on the vfio driver, until it is unbound by hand
)

// A BARSize is the size that one of a function's memory regions (base address registers) is to have.
type BARSize struct {
	BAR   int    `json:"bar"`
	Bytes uint64 `json:"bytes"`
}

// ConfigPCI is about PCI functions of any kind.
type ConfigPCI struct {
	Force    []string // addresses of functions that are taken although the host needs them
	Siblings Siblings
}

// Siblings says what happens to functions that share slot and IOMMU group with a guest's and that its XML leaves out.
type Siblings string

// The values of Siblings.
const (
	SiblingsRefuse Siblings = "refuse"
	SiblingsBind   Siblings = "bind" // they go along, and come back
)

// ConfigCommand is a pair of the administrator's own commands: paths with arguments. One may be empty.
type ConfigCommand struct {
	Before, After []string
	Deadline      time.Duration
}

// ConfigLookingGlass is about /dev/shm/looking-glass and files like it.
type ConfigLookingGlass struct {
	ShmOwner
	Files []domain.File // for a domain whose XML names none
}

// ShmOwner is whom a shared-memory file is to belong to. What is not set is left to the step.
type ShmOwner struct {
	User  string
	Group string
	Mode  *uint32 // permission bits
}

// DefaultConfig is the configuration of a host without a file.
func DefaultConfig() *Config {
	c := new(Config)
	for _, k := range configKeys() {
		if k.def == nil {
			continue
		}
		if err := k.set(c, nil, k.def); err != nil {
			panic("default of " + k.name + ": " + err.Error())
		}
	}
	return c
}

// ParseConfig reads a configuration file; name is its path, for the errors. Every mistake is in the error, as a
// [*ConfigError], in the order of the lines.
func ParseConfig(name string, data []byte) (*Config, error) {
	settings, err := parseSettings(name, data, MaxConfig)
	if err != nil {
		return nil, err
	}
	if err := sameTunable(name, settings); err != nil {
		return nil, err
	}
	c := DefaultConfig()
	for _, s := range settings {
		if s.guest == "" {
			s.apply(c)
			continue
		}
		if c.guests == nil {
			c.guests = map[string][]configSetting{}
		}
		c.guests[s.guest] = append(c.guests[s.guest], s)
	}
	return c, nil
}

// ForGuest returns the configuration for one guest: its [guest.NAME] table over the top level, and over both what
// the domain XML has in its <metadata>, TOML as well, as far as that cannot widen what the host's file allows.
func (c *Config) ForGuest(name string, metadata []byte) (*Config, error) {
	g := c.clone()
	for _, s := range c.guests[name] {
		s.apply(g)
	}
	settings, err := parseSettings("<metadata> of "+configText(name), metadata, configMaxMetadata)
	if err != nil {
		return nil, err
	}
	host := g.clone()
	var errs configErrors
	for _, s := range settings {
		if err := s.applyMetadata(g, host); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errs.join(); err != nil {
		return nil, err
	}
	return g, nil
}

// clone copies what may be set. Lists are only ever replaced, never changed.
func (c *Config) clone() *Config {
	d := *c
	d.Steps = maps.Clone(c.Steps)
	d.Shm = maps.Clone(c.Shm)
	d.Tunables = maps.Clone(c.Tunables)
	d.GPU.GiveBack = maps.Clone(c.GPU.GiveBack)
	d.GPU.ResizeBAR = maps.Clone(c.GPU.ResizeBAR)
	d.GPU.ResetMethod = maps.Clone(c.GPU.ResetMethod)
	d.guests = nil
	return &d
}

// StepEnabled reports whether a step is to run at all.
func (c *Config) StepEnabled(name string) bool { return c.Enabled && c.Steps[name] }

// ShmOwner returns whom the shared-memory file is to belong to, and the table that says so: looking_glass for
// /dev/shm/looking-glass and for looking_glass.files, shm.NAME for any other and for those that have one.
func (c *Config) ShmOwner(file string) (owner ShmOwner, table string) {
	name := path.Base(file)
	if owner, ok := c.Shm[name]; ok {
		return owner, configKeyString("shm", name)
	}
	listed := func(f domain.File) bool { return f.Path == file }
	if file == lookingGlassPath || slices.ContainsFunc(c.LookingGlass.Files, listed) {
		return c.LookingGlass.ShmOwner, "looking_glass"
	}
	return ShmOwner{}, configKeyString("shm", name)
}

const (
	shmDir           = "/dev/shm"
	lookingGlassName = "looking-glass"
	lookingGlassPath = shmDir + "/" + lookingGlassName
)
