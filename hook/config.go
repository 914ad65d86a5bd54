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
	Required     []string // names of steps
	Steps        ConfigSteps
	CPUs         ConfigCPUs
	Hugepages    ConfigHugepages
	LookingGlass ConfigLookingGlass
	Shm          map[string]ShmOwner // by file name

	// guests are the [guest.NAME] tables, checked but not merged.
	guests map[string][]configSetting
}

// ConfigSteps switches steps.
type ConfigSteps struct{ Hugepages, CPUs, PCI, Shm bool }

// ConfigCPUs is about the host CPUs.
type ConfigCPUs struct {
	Isolate   Isolate
	Host      cpuset.Set // what the host keeps; empty: what the claims leave
	Exclusive []string   // ExclusiveEmulator, ExclusiveIOThreads
	MinHost   int        // 0: one core with its threads
	Units     []string
}

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
	settings, err := parseSettings(name, data, configMaxFile)
	if err != nil {
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
	d.Shm = maps.Clone(c.Shm)
	d.guests = nil
	return &d
}

// StepEnabled reports whether a step is to run at all.
func (c *Config) StepEnabled(name string) bool {
	on := true
	switch name {
	case "hugepages":
		on = c.Steps.Hugepages
	case "cpus":
		on = c.Steps.CPUs
	case "pci":
		on = c.Steps.PCI
	case "shm":
		on = c.Steps.Shm
	}
	return c.Enabled && on
}

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
