package hook

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"qemu-hook/cpuset"
)

// validValues are values of a key that a host's file may have, as TOML. A key that is not among them fails the tests below.
func validValues(key string) []string {
	switch key {
	case "required":
		return []string{`[]`, `["cpus", "shm"]`}
	case "cpus.isolate":
		return []string{`"never"`, `"passthrough"`, `"pinned"`}
	case "cpus.host":
		return []string{`""`, `"0-3"`}
	case "cpus.exclusive":
		return []string{`[]`, `["emulator"]`, `["emulator", "iothreads"]`}
	case "cpus.min_host", "hugepages.keep", "hugepages.extra":
		return []string{`0`, `4`}
	case "cpus.units":
		return []string{`["system.slice"]`, `["user.slice"]`}
	case "cpus.overlap":
		return []string{`"warn"`, `"refuse"`}
	case "cpus.split_core":
		return []string{`"warn"`, `"refuse"`, `"ignore"`}
	case "cpus.irqbalance":
		return []string{`"ban"`, `"stop"`, `"ignore"`}
	case "cpus.confine_guests", "cpus.partition", "gpu.rescan":
		return []string{`true`, `false`}
	case "cpus.governor", "cpus.epp":
		return []string{`""`, `"performance"`, `"powersave"`}
	case "cpus.resume_latency":
		return []string{`""`, `"n/a"`, `20`}
	case "hugepages.host_reserve":
		return []string{`"1G"`, `0`}
	case "hugepages.deadline", "gpu.grace", "gpu.deadline":
		return []string{`"1s"`, `"9m"`}
	case "hugepages.compact", "hugepages.drop_caches":
		return []string{`"never"`, `"when-short"`, `"always"`}
	case "memory.compact":
		return []string{`"never"`, `"always"`}
	case "tunables.NAME":
		return []string{`1`, `"2"`}
	case "inhibit":
		return []string{`[]`, `["sleep"]`, `["sleep", "idle"]`}
	case "services.stop":
		return []string{`[]`, `["display-manager.service"]`}
	case "session.end":
		return []string{`""`, `"seat0"`}
	case "gpu.in_use":
		return []string{`"refuse"`, `"terminate"`}
	case "gpu.terminate":
		return []string{`[]`, `["chrome"]`}
	case "gpu.nvidia_smi":
		return []string{`""`, `"/opt/bin/nvidia-smi"`}
	case "gpu.give_back.NAME":
		return []string{`"as-before"`, `"stay"`}
	case "gpu.resize_bar.NAME":
		return []string{`"1=256M"`, `"1=1G,3=32M"`}
	case "gpu.reset_method.NAME":
		return []string{`"bus"`, `"flr"`}
	case "pci.force":
		return []string{`[]`, `["0000:04:00.0"]`}
	case "pci.siblings":
		return []string{`"refuse"`, `"bind"`}
	case "looking_glass.files":
		return []string{`[]`, `[{path = "/dev/shm/a", size = "1M"}]`}
	}
	switch {
	case key == "enabled" || strings.HasPrefix(key, "steps."):
		return []string{`true`, `false`}
	case strings.HasSuffix(key, ".user"), strings.HasSuffix(key, ".group"):
		return []string{`""`, `"alice"`}
	case strings.HasSuffix(key, ".mode"):
		return []string{`""`, `"0600"`, `"0666"`}
	}
	return nil
}

// writtenKey is a key as a file has it, with a name for NAME.
func writtenKey(key string) string {
	name := "a"
	switch {
	case strings.HasPrefix(key, "gpu."):
		name = `"0000:08:00.0"`
	case strings.HasPrefix(key, "tunables."):
		name = `"vm.swappiness"`
	}
	return strings.Replace(key, "NAME", name, 1)
}

// How a guest's configuration may differ from what it is without any <metadata>: as far as the sequence of values goes
// back, or at all. What stands in neither may not differ. This repeats on purpose what the table of keys says.
func mayShrink() map[string][]any {
	bools := []any{false, true}
	when := []any{Never, WhenShort, Always}
	m := map[string][]any{
		"Enabled": bools, "Compact": when, "Hugepages.Compact": when, "Hugepages.DropCaches": when,
		"CPUs.Isolate": {IsolateNever, IsolatePassthrough, IsolatePinned},
		"GPU.InUse":    {InUseRefuse, InUseTerminate},
		"PCI.Siblings": {SiblingsRefuse, SiblingsBind},
	}
	for _, step := range []string{"Hugepages", "CPUs", "Interrupts", "Kernel", "Frequency", "Tunables", "PCI", "Shm", "Inhibit"} {
		m["Steps."+step] = bools
	}
	return m
}

// mayDiffer is what a domain decides: which of its own threads have the CPUs that it names for them to themselves.
func mayDiffer() []string { return []string{"CPUs.Exclusive"} }

// wider returns the fields in which a configuration allows more than the host's; what is not known counts as more.
func wider(host, guest *Config) []string {
	var found []string
	var walk func(path string, a, b reflect.Value)
	walk = func(path string, a, b reflect.Value) {
		if a.Kind() == reflect.Struct && a.Type() != reflect.TypeFor[cpuset.Set]() {
			for i := range a.NumField() {
				if f := a.Type().Field(i); f.IsExported() {
					walk(strings.TrimPrefix(path+"."+f.Name, "."), a.Field(i), b.Field(i))
				}
			}
			return
		}
		from, to := a.Interface(), b.Interface()
		order := mayShrink()[path]
		switch i, j := slices.Index(order, from), slices.Index(order, to); {
		case reflect.DeepEqual(from, to), a.Kind() == reflect.Map && a.Len() == 0 && b.Len() == 0:
		case slices.Contains(mayDiffer(), path), i >= 0 && j >= 0 && j <= i:
		default:
			found = append(found, fmt.Sprintf("%s: %v instead of %v", path, to, from))
		}
	}
	walk("", reflect.ValueOf(host).Elem(), reflect.ValueOf(guest).Elem())
	return found
}

// Whatever the host's file and a domain's <metadata> say, the guest gets no more than the file allows, or is refused.
func TestMetadataNeverWidens(t *testing.T) {
	keys := ConfigKeys()
	for _, k := range keys {
		if validValues(k.Key) == nil {
			t.Fatalf("%s: the test has no values for this key", k.Key)
		}
	}
	taken, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		some := func(label string, from []KeyDoc, most int) []KeyDoc {
			return rapid.SliceOfNDistinct(rapid.SampledFrom(from), 0, most, func(k KeyDoc) string { return k.Key }).Draw(t, label)
		}
		line := func(prefix string, k KeyDoc) string {
			return prefix + writtenKey(k.Key) + " = " + rapid.SampledFrom(validValues(k.Key)).Draw(t, k.Key) + "\n"
		}
		own := slices.DeleteFunc(slices.Clone(keys), func(k KeyDoc) bool { return k.Shared })
		settable := slices.DeleteFunc(slices.Clone(keys), func(k KeyDoc) bool { return k.Metadata == "" })
		var file, meta string
		for _, k := range some("host", keys, 12) {
			file += line("", k)
		}
		for _, k := range some("guest", own, 6) {
			file += line("guest.g.", k)
		}
		for _, k := range some("metadata", settable, 6) {
			meta += line("", k)
		}
		if rapid.IntRange(0, 3).Draw(t, "more") == 0 {
			for _, k := range some("forbidden", keys, 2) {
				if !strings.Contains(meta, k.Key) {
					meta += line(rapid.SampledFrom([]string{"", "guest.g."}).Draw(t, "prefix"), k)
				}
			}
		}
		c, err := ParseConfig(configName, []byte(file))
		if err != nil {
			t.Fatalf("%v\n%s", err, file)
		}
		host, err := c.ForGuest("g", nil)
		if err != nil {
			t.Fatal(err)
		}
		before := c.clone()
		g, err := c.ForGuest("g", []byte(meta))
		if diff := diffConfig(before, c); diff != "" {
			t.Fatalf("the host's configuration has changed:\n%s", diff)
		}
		if err != nil {
			refused++
			var e *ConfigError
			if !errors.As(err, &e) || e.Line == 0 || e.Key == "" || !strings.HasPrefix(e.File, "<metadata> of g") {
				t.Fatalf("the refusal does not name place and key: %v", err)
			}
			return
		}
		taken++
		if more := wider(host, g); more != nil {
			t.Fatalf("wider than the host's file:\n%s\nfile:\n%s\nmetadata:\n%s", strings.Join(more, "\n"), file, meta)
		}
	})
	t.Logf("%d pairs of file and <metadata>: %d taken, %d refused", taken+refused, taken, refused)
	if taken == 0 || refused == 0 {
		t.Error("the test shows nothing")
	}
}

// mistaken are values that some keys take and most do not, of every type that TOML has.
func mistaken() []string {
	return []string{
		`true`, `1`, `-1`, `1.5`, `nan`, `9223372036854775807`, `""`, `"x"`, `"../../etc"`, `"\u0000"`, `"a\nb"`, `1979-05-27T07:32:00Z`,
		`07:32:00`, `[]`, `[1]`, `["x"]`, `[[]]`, `[{}]`, `{}`, `{a = 1}`, `{a = {b = 1}}`, `"` + strings.Repeat("x", 5000) + `"`,
	}
}

// Every mistake in a value names file, line and key, for each key and each shape of value, in a host's file and in a
// guest's table.
func TestEveryMistakeNamesItsPlace(t *testing.T) {
	tried, mistakes := 0, 0
	for _, k := range ConfigKeys() {
		for _, prefix := range []string{"", "guest.g."} {
			for _, v := range mistaken() {
				tried++
				key := prefix + writtenKey(k.Key)
				_, err := ParseConfig(configName, []byte("# one\n\n"+key+" = "+v+"\n"))
				if err == nil {
					continue
				}
				mistakes++
				var e *ConfigError
				if !errors.As(err, &e) || e.File != configName || e.Line != 3 {
					t.Errorf("%s = %.40s: %v", key, v, err)
					continue
				}
				// A table in place of a value is a mistake in what it holds.
				if !strings.HasPrefix(e.Key, key) || !strings.HasPrefix(e.Error(), configName+":3: "+key) {
					t.Errorf("%s = %.40s: the error is about %q: %v", key, v, e.Key, err)
				}
				if text := e.Error(); strings.ContainsAny(text, "\n\x00") || len(text) > 700 {
					t.Errorf("%s = %.40s: %d bytes of error: %.200q", key, v, len(text), text)
				}
			}
		}
	}
	t.Logf("%d values tried, %d mistakes", tried, mistakes)
}

// A file that is no TOML names file and line.
func TestBrokenTOML(t *testing.T) {
	cases := []struct{ text, want string }{
		{"\n\nenabled", ":3: "},
		{"\nenabled = ", ":2: "},
		{"enabled = true\nenabled = false", ":2: "},
		{"[cpus]\n[cpus]\n", ":2: "},
		{"\"a\n", ":1: "},
		{"a = '''\n\n", ":2: "},
		{"enabled = true\n\xff\xfe", ":2: "},
		{"enabled = true\x00", ":1: TOML files cannot"},
		{"\xef\xbb\xbfenabled = 1\n", ":1: enabled = 1: want true or false"},
		{"\xff\xfee\x00n\x00", ":1: "},
		{"<domain/>", ":1: "},
		{"enabled true", ":1: "},
		{"enabled = \"\\x\"", ":1: "},
		{strings.Repeat("[", 1000), ":1: "},
		{strings.Repeat("a.", 1000) + "a = 1", ":1: "},
		{strings.Repeat("x", MaxConfig+1), ": has more than 65536 bytes"},
	}
	for _, test := range cases {
		_, err := ParseConfig(configName, []byte(test.text))
		var e *ConfigError
		if !errors.As(err, &e) || e.File != configName || !strings.HasPrefix(e.Error(), configName+test.want) {
			t.Errorf("%.40q: %v\nwant %s", test.text, err, configName+test.want)
		}
	}
	t.Logf("%d files", len(cases))
}

// Whatever a host's file and a domain's <metadata> hold, the guest gets no more than the file allows.
func FuzzMetadata(f *testing.F) {
	for _, k := range ConfigKeys() {
		values := validValues(k.Key)
		for _, v := range values {
			f.Add([]byte(writtenKey(k.Key)+" = "+values[0]+"\n"), []byte(writtenKey(k.Key)+" = "+v+"\n"))
		}
	}
	f.Add([]byte("[guest.g]\nenabled = false"), []byte("[guest.g]\nenabled = true"))
	f.Fuzz(func(t *testing.T, file, meta []byte) {
		c, err := ParseConfig(configName, file)
		if err != nil {
			return
		}
		host, err := c.ForGuest("g", nil)
		if err != nil {
			t.Fatal(err)
		}
		g, err := c.ForGuest("g", meta)
		var e *ConfigError
		switch {
		case err == nil:
			if more := wider(host, g); more != nil {
				t.Fatal(more)
			}
		case !errors.As(err, &e) || strings.ContainsAny(e.Error(), "\x00\n"):
			t.Fatalf("%q", err)
		}
	})
}
