package hook

import (
	"strings"
	"testing"
)

func TestForGuest(t *testing.T) {
	c := mustParseConfig(t, `
cpus.exclusive = ["emulator"]
shm.a.user = "alice"
shm.b.user = "alice"

[guest.win11]
cpus.exclusive = []
hugepages.extra = 3
shm.a.group = "kvm"

[guest."my vm.2"]
enabled = false
`)
	before := c.clone()
	g, err := c.ForGuest("win11", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(g.CPUs.Exclusive) != 0 || g.Hugepages.Extra != 3 || g.Shm["a"] != (ShmOwner{User: "alice", Group: "kvm"}) ||
		g.Shm["b"] != (ShmOwner{User: "alice"}) || !g.Enabled {
		t.Errorf("%+v", g)
	}
	if diff := diffConfig(before, c); diff != "" {
		t.Errorf("the host's configuration has changed:\n%s", diff)
	}
	if g, err = c.ForGuest("my vm.2", nil); err != nil || g.Enabled {
		t.Errorf("%+v, %v", g, err)
	}
	if g, err = c.ForGuest("Win11", nil); err != nil || diffConfig(before, g) != "" {
		t.Errorf("%+v, %v", g, err)
	}
}

func TestForGuestMetadata(t *testing.T) {
	tests := []struct{ host, meta, want string }{
		{"", "", ""},
		{"", " \n\t", ""},
		{"", "enabled = false", ""},
		{"", "enabled = true", ""},
		{"enabled = false", "enabled = true", "<metadata> of win11:1: enabled = true: allows more than the host's file does"},
		{"guest.win11.enabled = false", "enabled = true", "allows more"},
		{"enabled = false\nguest.win11.enabled = true", "enabled = true", ""},
		{"", "[steps]\npci = false\ncpus = false", ""},
		{"steps.pci = false", "steps.pci = true", "allows more"},
		{"", `cpus.isolate = "never"`, ""},
		{"", `cpus.isolate = "passthrough"`, ""},
		{"", "\ncpus.isolate = \"pinned\"", `<metadata> of win11:2: cpus.isolate = "pinned": allows more than the host's file does; only that file may`},
		{`cpus.isolate = "pinned"`, `cpus.isolate = "pinned"`, ""},
		{"", `cpus.exclusive = ["emulator"]`, ""},
		{"", `hugepages.compact = "never"`, ""},
		{"", `hugepages.compact = "always"`, "allows more"},
		{"", `hugepages.drop_caches = "never"`, ""},
		{`hugepages.drop_caches = "never"`, `hugepages.drop_caches = "when-short"`, "allows more"},
		{"", "hugepages.extra = 1", "<metadata> of win11:1: hugepages.extra: only the host's file may set it"},
		{"", `looking_glass.user = "mallory"`, "looking_glass.user: only the host's file"},
		{"", `shm.x.user = "mallory"`, "shm.x.user: only the host's file"},
		{"", `cpus.host = "0"`, "cpus.host: only the host's file"},
		{"", `cpus.units = ["a.slice"]`, "cpus.units: only the host's file"},
		{"", "guest.other.enabled = false", "guest.other.enabled: only the host's file"},
		{"", "nonsense", "<metadata> of win11:1: "},
		{"", "enabledd = true", "<metadata> of win11:1: enabledd: no such key; did you mean enabled?"},
		{"", strings.Repeat("#", configMaxMetadata+1), "has more than 16384 bytes"},
	}
	for _, test := range tests {
		t.Run(test.meta[:min(40, len(test.meta))], func(t *testing.T) {
			g, err := mustParseConfig(t, test.host).ForGuest("win11", []byte(test.meta))
			switch {
			case test.want == "" && (err != nil || g == nil):
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error %v\n want %s", err, test.want)
			}
		})
	}
}

// Whatever key metadata may not set, it may not set.
func TestForGuestMetadataKeys(t *testing.T) {
	for _, k := range ConfigKeys() {
		if k.Default == "" {
			continue
		}
		_, err := DefaultConfig().ForGuest("g", []byte(k.Key+" = "+k.Default))
		if (err == nil) != (k.Metadata != "") {
			t.Errorf("%s (%q): %v", k.Key, k.Metadata, err)
		}
	}
}

func TestSharedKeysAreNotForOneGuest(t *testing.T) {
	for _, key := range []string{`cpus.host = "0"`, `cpus.units = ["system.slice"]`} {
		_, err := ParseConfig("config.toml", []byte("[guest.win11]\n"+key+"\n"))
		if err == nil || !strings.Contains(err.Error(), "is for all guests together") {
			t.Errorf("%s in a guest's table: %v", key, err)
		}
	}
}
