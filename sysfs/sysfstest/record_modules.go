package sysfstest

import (
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// modules writes what is loaded, what brings a driver, and what else the program may load. used is how often each is in use,
// beside what the model accounts for.
func (r *recorder) modules(used map[string]int) []string {
	type row struct {
		state, driver string
		deps, aliases []string
	}
	rows := map[string]*row{}
	get := func(name string) *row {
		name = moduleName(name)
		if rows[name] == nil {
			rows[name] = &row{}
		}
		return rows[name]
	}
	loaded, _ := r.ListIfAny("/sys/module")
	for _, name := range loaded {
		if !r.Exists(moduleDir(name) + "/initstate") {
			continue // built in
		}
		m := get(name)
		m.state = "loaded"
		m.driver, _ = r.ModulePCIDriver(name)
		holders, _ := r.ModuleHolders(name)
		for _, o := range holders {
			get(o).deps = append(get(o).deps, moduleName(name))
		}
	}
	// Drivers without a module are built in.
	drivers, _ := r.ListIfAny(pciBus + "/drivers")
	for _, d := range drivers {
		owner, _ := r.DriverModule(d)
		if owner == "" {
			owner = moduleName(d)
			if m := get(owner); m.state == "" {
				m.state, m.driver = "builtin", d
			}
		} else if m := get(owner); m.driver == "" {
			m.state, m.driver = "loaded", d
		}
	}
	// A tree that was taken of a host may lack some.
	for _, a := range r.members {
		if d := r.drivers[a]; d != "" && !slices.ContainsFunc(slices.Collect(maps.Values(rows)), func(m *row) bool { return m.driver == d }) {
			m := get(d)
			m.state, m.driver = "builtin", d
		}
	}
	// What could be loaded: what vfio and NVIDIA's driver are made of.
	dir, _ := r.ModulesDir()
	dep, _ := r.ReadFile(dir + "/modules.dep")
	file := map[string]string{}
	base := func(f string) string {
		name, _, _ := strings.Cut(path.Base(f), ".ko")
		return moduleName(name)
	}
	available := map[string][]string{}
	for line := range strings.Lines(string(dep)) {
		f, needs, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		file[base(f)] = f
		available[base(f)] = strings.Fields(needs)
	}
	aliases, _ := r.VFIOAliases()
	wanted := func(name string) bool {
		return strings.HasPrefix(name, "vfio") || strings.HasPrefix(name, "nvidia") || name == "nouveau" || name == "kvmfr" ||
			slices.ContainsFunc(slices.Collect(maps.Values(r.drivers)), func(d string) bool { return moduleName(d) == name })
	}
	for _, a := range aliases {
		m := get(a.Module)
		m.aliases = append(m.aliases, "vfio_"+a.Pattern)
		// Before it is loaded a module does not say what its driver is called: see VFIODriver.
		if m.driver == "" {
			m.driver = a.Module
			if moduleName(a.Module) == "vfio_pci" {
				m.driver = "vfio-pci"
			}
		}
	}
	r.aliases(dir, func(module, pattern string) {
		if _, ok := available[moduleName(module)]; !ok && rows[moduleName(module)] == nil {
			return
		}
		m := get(module)
		m.aliases = append(m.aliases, pattern)
		if m.driver == "" {
			m.driver = module
		}
	})
	for _, name := range slices.Sorted(maps.Keys(available)) {
		if m := rows[name]; m != nil && m.state != "" || !wanted(name) && m == nil {
			continue
		}
		m := get(name)
		for _, f := range available[name] {
			m.deps = append(m.deps, base(f))
			get(base(f))
		}
	}
	// A driver without aliases of its own is told by the functions that it has now: enough to have it take them again.
	for _, m := range rows {
		if len(m.aliases) > 0 || m.driver == "" {
			continue
		}
		for _, address := range r.members {
			if r.drivers[address] == m.driver {
				m.aliases = append(m.aliases, r.value(pciBus+"/devices/"+address+"/modalias"))
			}
		}
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		m := rows[name]
		line := name
		say := func(key, v string) {
			if v != "" {
				line += " " + key + "=" + v
			}
		}
		if m.state != "" {
			line += " " + m.state
		}
		say("driver", m.driver)
		slices.Sort(m.deps)
		say("deps", strings.Join(slices.Compact(m.deps), ","))
		slices.Sort(m.aliases)
		for _, a := range slices.Compact(m.aliases) {
			say("alias", a)
		}
		for _, p := range []string{"modeset", "static_size_mb", "ids", "disable_idle_d3"} {
			if v := r.value(moduleDir(name) + "/parameters/" + p); v != "" {
				say("param", p+"="+strings.ReplaceAll(v, " ", ","))
			}
		}
		say("version", r.value(moduleDir(name)+"/version"))
		say("file", file[name])
		if n := used[name]; n > 0 {
			say("used", strconv.Itoa(n))
		}
		lines = append(lines, line)
	}
	return lines
}

// aliases calls visit with the modules that are made for functions of the host.
func (r *recorder) aliases(dir string, visit func(module, pattern string)) {
	text, _ := r.ReadFile(dir + "/modules.alias")
	var modaliases []string
	for _, a := range r.members {
		modaliases = append(modaliases, r.value(pciBus+"/devices/"+a+"/modalias"))
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "alias" || !strings.HasPrefix(f[1], "pci:") {
			continue
		}
		if slices.ContainsFunc(modaliases, func(m string) bool {
			ok, err := path.Match(f[1], m)
			return ok && err == nil
		}) {
			visit(f[2], f[1])
		}
	}
}
