package hook

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
)

const configName = "/etc/qemu-hook/config.toml"

func mustParseConfig(t *testing.T, text string) *Config {
	t.Helper()
	c, err := ParseConfig(configName, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func diffConfig(want, got *Config) string {
	return cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{}), cmpopts.EquateEmpty(),
		cmp.Comparer(cpuset.Set.Equal))
}

// stepsBut has all steps on but for those named.
func stepsBut(off ...string) map[string]bool {
	steps := map[string]bool{}
	for _, s := range configStepNames() {
		steps[s] = !slices.Contains(off, s)
	}
	return steps
}

func TestDefaultConfig(t *testing.T) {
	want := &Config{
		Enabled: true,
		Steps:   stepsBut(),
		CPUs: ConfigCPUs{
			Isolate: IsolatePassthrough, Units: []string{"system.slice", "user.slice", "init.scope"},
			Overlap: OverlapWarn, SplitCore: SplitCoreWarn, IRQBalance: IRQBalanceBan,
		},
		Compact: Never,
		Hugepages: ConfigHugepages{
			HostReserve: 1 << 30, Deadline: time.Minute, Compact: WhenShort, DropCaches: WhenShort,
		},
		GPU: ConfigGPU{InUse: InUseRefuse, Grace: 20 * time.Second, Deadline: 15 * time.Second},
		PCI: ConfigPCI{Siblings: SiblingsRefuse},
	}
	for name, got := range map[string]*Config{
		"default": DefaultConfig(),
		"empty":   mustParseConfig(t, ""),
		"comment": mustParseConfig(t, "# nothing\n[hugepages]\n"),
	} {
		if diff := diffConfig(want, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
		g, err := got.ForGuest("win11", nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := diffConfig(want, g); diff != "" {
			t.Errorf("%s, for a guest:\n%s", name, diff)
		}
	}
}

// The documented defaults, written into a file, are the defaults.
func TestConfigKeys(t *testing.T) {
	var text strings.Builder
	seen := map[string]bool{}
	for _, k := range ConfigKeys() {
		if k.Doc == "" || seen[k.Key] {
			t.Errorf("%s: no text, or twice", k.Key)
		}
		seen[k.Key] = true
		if k.Default != "" {
			fmt.Fprintf(&text, "%s = %s\n", k.Key, k.Default)
		}
	}
	if diff := diffConfig(DefaultConfig(), mustParseConfig(t, text.String())); diff != "" {
		t.Error(diff)
	}
	for _, k := range configKeys() {
		if (k.meta == metaNarrower) != (k.rank != nil) {
			t.Errorf("%s: a rank belongs to keys that metadata may narrow", k.name)
		}
	}
}

func TestParseConfig(t *testing.T) {
	c := mustParseConfig(t, `
enabled = false
required = ["cpus", "shm"]
cpus.isolate = "pinned"
cpus.host = "0-3,16"
cpus.exclusive = ["iothreads"]
cpus.min_host = 2
cpus.overlap = "refuse"
cpus.split_core = "ignore"
cpus.confine_guests = true
cpus.partition = true
cpus.irqbalance = "stop"
cpus.governor = "performance"
cpus.epp = "balance_performance"
cpus.resume_latency = "n/a"
cpus.units = ["system.slice", "foo@bar\\x2d1.service"]
steps.pci = false
services.stop = ["display-manager.service", "app@a.timer"]
inhibit = ["idle"]
session.end = "seat0"
pci.force = ["0000:04:00.0"]
pci.siblings = "bind"

[gpu]
in_use = "terminate"
terminate = ["chrome", "plasma-powerdevil.service"]
grace = "5s"
deadline = "30s"
nvidia_smi = "/opt/bin/nvidia-smi"
rescan = true
give_back."0000:08:00.0" = "stay"
resize_bar."0000:08:00.0" = "1=256M, 3=32M"
reset_method."0000:08:00.0" = "bus"

[hugepages]
keep = 16
host_reserve = 536870912
deadline = "2m"
compact = "always"
drop_caches = "never"
extra = 1

[memory]
compact = "always"

[tunables]
vm.stat_interval = 120
"kernel.watchdog" = 0
net.ipv4.conf."eth0.1".rp_filter = 1
"/sys/kernel/mm/transparent_hugepage/enabled" = "never"
net.ipv4.tcp_rmem = "4096\t8192  16384"
"net/ipv6/conf/br0.2/mtu" = 1400
"/proc/sys/vm/swappiness" = "1"

[looking_glass]
user = "alice"
group = "1000"
mode = "0640"
files = [{path = "/dev/shm/looking-glass", size = "128M"}]

[shm.scream-ivshmem]
mode = "0666"
[shm."a b"]
user = "bob"
`)
	mode := func(m uint32) *uint32 { return &m }
	want := &Config{
		Required: []string{"cpus", "shm"},
		Steps:    stepsBut("pci"),
		CPUs: ConfigCPUs{
			Isolate: IsolatePinned, Host: cpuset.Of(0, 1, 2, 3, 16), Exclusive: []string{"iothreads"},
			MinHost: 2, Units: []string{"system.slice", `foo@bar\x2d1.service`},
			Overlap: OverlapRefuse, SplitCore: SplitCoreIgnore, ConfineGuests: true, Partition: true, IRQBalance: IRQBalanceStop,
			Governor: "performance", EPP: "balance_performance", ResumeLatency: "n/a",
		},
		Hugepages: ConfigHugepages{16, 512 << 20, 2 * time.Minute, Always, Never, 1},
		LookingGlass: ConfigLookingGlass{
			ShmOwner{"alice", "1000", mode(0o640)},
			[]domain.File{{Path: "/dev/shm/looking-glass", Bytes: 128 << 20}},
		},
		GPU: ConfigGPU{
			InUse: InUseTerminate, Terminate: []string{"chrome", "plasma-powerdevil.service"},
			Grace: 5 * time.Second, Deadline: 30 * time.Second, NvidiaSMI: "/opt/bin/nvidia-smi", Rescan: true,
			GiveBack:    map[string]GiveBack{"0000:08:00.0": GiveBackStay},
			ResizeBAR:   map[string][]BARSize{"0000:08:00.0": {{1, 256 << 20}, {3, 32 << 20}}},
			ResetMethod: map[string]string{"0000:08:00.0": "bus"},
		},
		PCI:        ConfigPCI{Force: []string{"0000:04:00.0"}, Siblings: SiblingsBind},
		Stop:       []string{"display-manager.service", "app@a.timer"},
		EndSession: "seat0",
		Compact:    Always,
		Inhibit:    &[]string{"idle"},
		Tunables: map[string]string{
			"/proc/sys/vm/stat_interval": "120", "/proc/sys/kernel/watchdog": "0", "/proc/sys/net/ipv4/conf/eth0.1/rp_filter": "1",
			"/sys/kernel/mm/transparent_hugepage/enabled": "never", "/proc/sys/net/ipv4/tcp_rmem": "4096 8192 16384",
			"/proc/sys/net/ipv6/conf/br0.2/mtu": "1400", "/proc/sys/vm/swappiness": "1",
		},
		Shm: map[string]ShmOwner{"scream-ivshmem": {Mode: mode(0o666)}, "a b": {User: "bob"}},
	}
	if diff := diffConfig(want, c); diff != "" {
		t.Error(diff)
	}
	if c.StepEnabled("shm") {
		t.Error("a step is enabled though nothing is")
	}
	c.Enabled = true
	if !c.StepEnabled("shm") || c.StepEnabled("pci") {
		t.Error("switches of steps")
	}
	for file, want := range map[string]string{
		"/dev/shm/looking-glass":  "alice looking_glass",
		"/dev/shm/a b":            `bob shm."a b"`,
		"/dev/shm/scream-ivshmem": " shm.scream-ivshmem",
		"/dev/shm/other":          " shm.other",
	} {
		if o, table := c.ShmOwner(file); o.User+" "+table != want {
			t.Errorf("%s: %s %s, want %s", file, o.User, table, want)
		}
	}
}

func TestParseConfigErrors(t *testing.T) {
	tests := []struct{ text, want string }{
		// The first example of the manual, and every shape of mistake in a key.
		{"[hugepages]\n\ndeadline = \"6O s\"", `:3: hugepages.deadline = "6O s": want a time such as "90s" or "2m", from 1s to 1h`},
		{"[hugepages]\ndedline = 1", ":2: hugepages.dedline: no such key; did you mean hugepages.deadline?"},
		{"deadline = 1", ":1: deadline: no such key; did you mean hugepages.deadline?"},
		{"Enabled = true", ":1: Enabled: no such key; did you mean enabled?"},
		{"\n[hugepage]\nkeep = 1", ":2: hugepage: no such key; did you mean hugepages?"},
		{"\n[hugepage.x]\n\nkeep = 1", ":2: hugepage: no such key; did you mean hugepages?"},
		{"cpus.zzzzzz = 1", ":1: cpus.zzzzzz: no such key; known here are isolate, host, exclusive, min_host, units, overlap, split_core, confine_guests, partition, irqbalance, governor, epp, resume_latency"},
		{"zzzzzzzzzz = 1", ":1: zzzzzzzzzz: no such key; known here are enabled, required, steps, cpus, hugepages, memory, tunables, inhibit, services, session, gpu, pci, run, looking_glass, shm"},
		{"shm.x.zzzzzz = 1", ":1: shm.x.zzzzzz: no such key; known here are user, group, mode"},
		{"\n\"a\\nb\" = 1", `:2: "a?b": no such key`},
		{"hugepages = 3", ":1: hugepages = 3: want a table: [hugepages]"},
		{"[[hugepages]]\nkeep = 3", ":1: hugepages = [{…}]: want a table: [hugepages]"},
		{"[hugepages.keep]\nx = 3", ":1: hugepages.keep = {…}: want a number from 0 to 4294967296"},
		{"shm.x = 3", ":1: shm.x = 3: want a table: [shm.x]"},

		{`enabled = "yes"`, `:1: enabled = "yes": want true or false`},
		{`enabled = 1979-05-27`, `:1: enabled = 1979-05-27`},
		{`required = "cpus"`, `:1: required = "cpus": want a list of strings`},
		{`required = ["gpu"]`, `:1: required = ["gpu"]: "gpu" is not allowed; want "run", "quiesce", "hugepages", "cpus", "interrupts", "kernel", "frequency", "tunables", "pci", "shm" or "inhibit"`},
		{`required = ["cpus", 1]`, `:1: required = ["cpus", 1]: 1 is no string`},
		{`required = ["cpus", "cpus"]`, `"cpus" is there twice`},
		{`cpus.isolate = "Pinned"`, `:1: cpus.isolate = "Pinned": want "passthrough", "pinned" or "never"`},
		{`cpus.host = "3-0"`, `:1: cpus.host = "3-0": cannot parse CPU list`},
		{`cpus.host = 3`, `:1: cpus.host = 3: want a list of CPUs as a string`},
		{`cpus.host = " "`, `:1: cpus.host = " ": has no CPU in it`},
		{`cpus.host = "0-4294967295"`, `:1: cpus.host`},
		{`cpus.min_host = -1`, `:1: cpus.min_host = -1: want a number from 0 to 16384`},
		{`cpus.min_host = 1.5`, `:1: cpus.min_host = 1.5: want a number from 0 to 16384`},
		{`cpus.units = []`, `cpus.isolate = "never"`},
		{`cpus.units = ["machine.slice"]`, `"machine.slice" holds the guests themselves`},
		{`cpus.units = ["-.slice"]`, `"-.slice" holds the guests themselves`},
		{`cpus.units = ["machine-qemu\\x2d1.scope"]`, `holds the guests themselves`},
		{`cpus.units = ["a.mount"]`, `"a.mount" is no unit that can be limited; want one that ends in ".slice", ".scope" or ".service"`},
		{`cpus.units = ["../a.slice"]`, `is no unit that can be limited`},
		{`cpus.units = ["slice"]`, `is no unit that can be limited`},
		{`services.stop = ["gdm"]`, `:1: services.stop = ["gdm"]: "gdm" is no unit that can be stopped; want one that ends in ".service"`},
		{`services.stop = ["libvirtd.service"]`, `"libvirtd.service" is needed while a guest starts`},
		{`services.stop = ["user.slice"]`, `"user.slice" is no unit that can be stopped`},
		{`session.end = 0`, `:1: session.end = 0: want a name`},
		{"[[guest.a.run]]\nbefore = [\"x\"]", `:1: guest.a.run = [{…}]: before: "x" is no absolute path`},
		{"[[guest.a.run]]\nbefore = [\"/usr/bin/../x\"]", `before: "/usr/bin/../x" is no absolute path`},
		{"[[guest.a.run]]\nbefore = \"/usr/bin/x y\"", `before: want a list, the program first`},
		{"[[guest.a.run]]\nafter = []", `after: want a list, the program first`},
		{"[[guest.a.run]]\nafter = [\"/usr/bin/x\", 1]", `after: 1 is no string`},
		{"[[guest.a.run]]\ndeadline = \"30s\"", `there is neither before nor after`},
		{"[[guest.a.run]]\nafter = [\"/usr/bin/x\"]\ndeadline = \"1h\"", `deadline: want a time such as "90s" or "2m", from 1s to 120s`},
		{"[[guest.a.run]]\ndo = [\"/usr/bin/x\"]", `do: no such key; known here are before, after and deadline`},
		{"[[guest.a.run]]\nafter = [\"/x\"]\n[[guest.a.run]]\nafter = [\"/x\"]", `the same commands are there twice`},
		{`run = "/usr/bin/x"`, `:1: run = "/usr/bin/x": want [[guest.NAME.run]] tables`},
		{`gpu.in_use = "kill"`, `:1: gpu.in_use = "kill": want "refuse" or "terminate"`},
		{`gpu.terminate = ["/usr/bin/chrome"]`, `"/usr/bin/chrome" is neither a command's name, such as "chrome", nor a unit's`},
		{`gpu.grace = "1h"`, `want a time such as "90s" or "2m", from 0s to 600s`},
		{`gpu.nvidia_smi = "nvidia-smi"`, `want an absolute path as a string`},
		{`metrics.textfile = "qemu-hook.prom"`, `want an absolute path as a string`},
		{`gpu.give_back."08:00.0" = "stay"`, `"08:00.0" is no PCI address; want one such as "0000:08:00.0"`},
		{`gpu.give_back."0000:08:00.0" = "vfio"`, `want "as-before" or "stay"`},
		{`gpu.resize_bar."0000:08:00.0" = "1=300M"`, `want numbers and sizes of BARs, such as "1=256M"`},
		{`gpu.resize_bar."0000:08:00.0" = "1=256M,1=1G"`, `BAR 1 is there twice`},
		{`gpu.reset_method."0000:08:00.0" = "FLR"`, `want a method such as "bus" or "flr"`},
		{`pci.force = ["0000:4:00.0"]`, `"0000:4:00.0" is no PCI address`},
		{`pci.siblings = true`, `want "refuse" or "bind"`},
		{`hugepages.keep = 9999999999999999`, `want a number from 0 to 4294967296`},
		{`hugepages.host_reserve = "1GB"`, `:1: hugepages.host_reserve = "1GB": want a size such as "512M" or "1G"`},
		{`hugepages.host_reserve = "-1G"`, `want a size`},
		{`hugepages.host_reserve = -1`, `want a size`},
		{`hugepages.host_reserve = "G"`, `want a size`},
		{`hugepages.host_reserve = "9223372036854775807T"`, `is too large`},
		{`hugepages.deadline = 60`, `:1: hugepages.deadline = 60: want a time`},
		{`hugepages.deadline = "2h"`, `from 1s to 1h`},
		{`hugepages.drop_caches = "sometimes"`, `want "when-short", "always" or "never"`},
		{`looking_glass.user = "a:b"`, `want a name or number as a string`},
		{`looking_glass.mode = "1777"`, `want permission bits`},
		{`looking_glass.mode = 660`, `:1: looking_glass.mode = 660: want permission bits as an octal string, such as "0660"`},
		{`looking_glass.mode = "u=rw"`, `want permission bits`},
		{`looking_glass.files = "x"`, `want a list such as`},
		{`looking_glass.files = [{size = "1M"}]`, `a file has no path`},
		{`looking_glass.files = [{path = "/dev/shm/x"}]`, `/dev/shm/x has no size`},
		{`looking_glass.files = [{path = "/dev/shm/x", size = "1"}]`, `size = "1" of /dev/shm/x: want a multiple of 4K`},
		{`looking_glass.files = [{path = "/dev/shm/x", size = "1X"}]`, `size = "1X" of /dev/shm/x: want a size`},
		{`looking_glass.files = [{path = "/dev/shm/../etc/x", size = "1M"}]`, `path = "/dev/shm/../etc/x" is not directly in /dev/shm`},
		{`looking_glass.files = [{path = "/dev/shm/..", size = "1M"}]`, `is not directly in /dev/shm`},
		{`looking_glass.files = [{path = "x", size = "1M"}]`, `is not directly in /dev/shm`},
		{`looking_glass.files = [{path = "/dev/shm/x", size = "1M", mode = 1}]`, `"mode" is no key of a file`},
		{`looking_glass.files = [{path = "/dev/shm/x", size = 4096}, {path = "/dev/shm/x", size = 4096}]`, `"/dev/shm/x" is there twice`},
		{"\n[[looking_glass.files]]\npath = 3", `:2: looking_glass.files = [{…}]: a file has no path, as a string`},
		{`shm."a/b".user = "x"`, `:1: shm."a/b".user = "x": "a/b" is no name of a file in /dev/shm`},
		{`shm.looking-glass.user = "x"`, `write looking_glass.user`},

		{`cpus.overlap = "ignore"`, `:1: cpus.overlap = "ignore": want "warn" or "refuse"`},
		{`cpus.governor = "Performance"`, `:1: cpus.governor = "Performance": want one word`},
		{`cpus.resume_latency = -1`, `:1: cpus.resume_latency = -1: want microseconds`},
		{`cpus.resume_latency = "0"`, `:1: cpus.resume_latency = "0": want microseconds`},
		{`inhibit = ["sleeping"]`, `:1: inhibit = ["sleeping"]: "sleeping" is not allowed; want "sleep" or "idle"`},
		{"[guest.w.cpus]\nconfine_guests = true", ":2: guest.w.cpus.confine_guests: is for all guests together"},
		{"tunables = 3", ":1: tunables = 3: want a table: [tunables]"},
		{"[tunables]\nvm.swappiness = true", ":2: tunables.vm.swappiness = true: want a number, or a string"},
		{"[tunables]\n\"vm.swappiness\" = \"\"", `:2: tunables."vm.swappiness" = "": want a number, or a string`},
		{"[tunables]\n\"/etc/passwd\" = 1", `:2: tunables."/etc/passwd" = 1: is not under /proc/sys or /sys`},
		{"[tunables]\n\"/sys/../etc/passwd\" = 1", `:2: tunables."/sys/../etc/passwd" = 1: is no path of a kernel's file`},
		{"[tunables]\n\"../../etc.x\" = 1", `:2: tunables."../../etc.x" = 1: is no path of a kernel's file`},
		{"[tunables]\nvm.nr_hugepages = 18432", `:2: tunables.vm.nr_hugepages = 18432: is for the step hugepages`},
		{"[tunables]\nkernel.watchdog_cpumask = \"0\"", `is for the step kernel`},
		{"[tunables]\nvm.swappiness = 1\n\"vm/swappiness\" = 2", `:3: tunables."vm/swappiness": is the same as tunables.vm.swappiness, /proc/sys/vm/swappiness`},
		{"[tunables]\nvm/swappiness = 1", `:2: a path as a key needs quotes: "vm/swappiness"`},
		{"[tunables]\nvm.compact_memory = 1", `:2: tunables.vm.compact_memory = 1: is no setting that could be put back`},
		{"[tunables]\n\"/sys/bus/pci/drivers/nvidia/unbind\" = \"0000:08:00.0\"", `is no setting that could be put back`},
		{"[tunables]\n\"/sys/fs/cgroup/user.slice/cpuset.cpus\" = \"0\"", `is systemd's to set`},
		{"[tunables]\n/sys/kernel/mm/ksm/run = 0", `a path as a key needs quotes: "/sys/kernel/mm/ksm/run"`},

		{"guest = 3", ":1: guest = 3: want tables such as [guest.win11]"},
		{"guest.win11 = 3", ":1: guest.win11 = 3: want a table"},
		{"guest.hugepages = 3", ":1: guest.hugepages = 3: lacks the guest's name; write guest.NAME.hugepages"},
		{"[guest.win11]\nhugepages.kep = 3", ":2: guest.win11.hugepages.kep: no such key; did you mean hugepages.keep?"},
		{"[guest.\"my vm\".cpus]\nexclusive = 3", `:2: guest."my vm".cpus.exclusive = 3: want a list`},
		{"guest.a.guest.b.enabled = true", ":1: guest.a.guest: no such key"},
		{"guest.\"\".enabled = true", `guest."": is no name of a guest`},

		{"a = [", ":1: "},
		{"enabled = true\nenabled = true", ":2: "},
		{"enabled = tru", ":1: "},
		{"\x00", ":1: "},
		{"enabled = true\n\xff", ":2: "},
		{strings.Repeat("#", MaxConfig+1), ": has more than 65536 bytes"},
	}
	for _, test := range tests {
		t.Run(test.text[:min(40, len(test.text))], func(t *testing.T) {
			c, err := ParseConfig(configName, []byte(test.text))
			if err == nil {
				t.Fatalf("taken: %+v", c)
			}
			var ce *ConfigError
			if !errors.As(err, &ce) || !strings.HasPrefix(err.Error(), configName+":") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q\n want %q", err, test.want)
			}
		})
	}
}

func TestParseConfigAllErrors(t *testing.T) {
	_, err := ParseConfig("c", []byte("[steps]\ncpus = 1\n[hugepages]\nkeep = true\nextra = 1\nx = 1\n[guest.w]\nenabled = 0\n"))
	want := `c:2: steps.cpus = 1: want true or false
c:4: hugepages.keep = true: want a number from 0 to 4294967296
c:6: hugepages.x: no such key; known here are keep, host_reserve, deadline, compact, drop_caches, extra
c:8: guest.w.enabled = 0: want true or false`
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant\n%s", err, want)
	}
	var many strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&many, "key%d = 1\n", i)
	}
	start := time.Now()
	_, err = ParseConfig("c", []byte(many.String()))
	if n := strings.Count(err.Error(), "\n"); n > configMaxErrors || time.Since(start) > 30*time.Second {
		t.Errorf("%d errors in %v", n+1, time.Since(start))
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("enabled = true\n[guest.\"a b\".cpus]\nhost = \"0-3\"\n[[looking_glass.files]]\npath = \"/dev/shm/x\"\nsize = \"1M\"\n"))
	f.Add([]byte("hugepages.host_reserve = \"1G\"\nshm.x.mode = \"0660\"\n"))
	f.Add([]byte("guest = [[[{a = 1}]]]\nrequired = [\"cpus\", 1]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		start := time.Now()
		c, err := ParseConfig("c", data)
		if d := time.Since(start); d > 30*time.Second {
			t.Fatalf("%v for %q", d, data)
		}
		if (c == nil) == (err == nil) {
			t.Fatal(c, err)
		}
		if err != nil {
			var ce *ConfigError
			if !errors.As(err, &ce) || strings.ContainsAny(ce.Error(), "\x00\n") {
				t.Fatalf("%q", err)
			}
			return
		}
		var tree map[string]any
		if err := toml.Unmarshal(data, &tree); err != nil {
			t.Fatal(err)
		}
		guests, _ := tree["guest"].(map[string]any)
		for name := range guests {
			if _, err := c.ForGuest(name, nil); err != nil {
				t.Fatal(err)
			}
		}
	})
}
