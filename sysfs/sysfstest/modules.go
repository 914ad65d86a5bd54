package sysfstest

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"syscall"

	"qemu-hook/sysfs"
)

// module is a kernel module that the host has, loaded or not, or a part of the kernel itself.
type module struct {
	name    string
	builtin bool
	loaded  bool
	driver  string   // the PCI driver it registers
	file    string   // below the modules' directory
	deps    []string // modules it needs
	aliases []string // patterns of modalias, with the bus in front
	params  []string // "static_size_mb=64"
	used    int      // references that are no modules': open devices
	version string
}

func moduleDir(name string) string { return "/sys/module/" + name }

// moduleName is the form in which the kernel names a module.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// vfio reports whether the module's driver gives functions to user space.
func (m *module) vfio() bool {
	return slices.ContainsFunc(m.aliases, func(a string) bool { return strings.HasPrefix(a, "vfio_pci:") })
}

// ids returns what the parameter ids of vfio-pci names: the driver takes these by itself.
func (m *module) ids() []string {
	for _, p := range m.params {
		if v, ok := strings.CutPrefix(p, "ids="); ok {
			return strings.Split(v, ",")
		}
	}
	return nil
}

// holders returns the loaded modules that use the module.
func (h *Host) holders(name string) []string {
	var out []string
	for _, o := range h.loadOrder {
		if slices.Contains(h.modules[o].deps, name) {
			out = append(out, o)
		}
	}
	return out
}

// load is what modprobe does with a module's name: first what it needs, then the module.
func (h *Host) load(name string) error {
	m := h.modules[name]
	switch {
	case m == nil:
		return syscall.ENOENT
	case m.loaded || m.builtin:
		return nil
	}
	for _, d := range m.deps {
		if err := h.load(d); err != nil {
			return err
		}
	}
	m.loaded = true
	h.loadOrder = append(h.loadOrder, name)
	h.addModule(m)
	for _, d := range m.deps {
		if !h.modules[d].builtin {
			h.link(moduleDir(d)+"/holders/"+name, moduleDir(name))
		}
	}
	if m.driver != "" {
		h.addDriver(&pciDriver{name: m.driver, module: name, vfio: m.vfio(), ids: m.ids()})
	}
	if name == nvidiaDRM {
		h.drmChanged()
	}
	if name == "vfio" && h.find(vfioDir+"/vfio") == noNode {
		h.device(vfioDir+"/vfio", syscall.S_IFCHR, 10, 196, 0o666)
	}
	return nil
}

// addModule makes the files of a loaded module, or of a built-in one with parameters.
func (h *Host) addModule(m *module) {
	name := m.name
	for _, p := range m.params {
		k, v, _ := strings.Cut(p, "=")
		h.value(moduleDir(name)+"/parameters/"+k, v)
	}
	if m.builtin {
		return
	}
	h.rule(moduleDir(name)+"/refcnt", &attr{show: func(h *Host) (string, error) {
		return fmt.Sprintf("%d\n", h.refs(h.modules[name])), nil
	}})
	h.value(moduleDir(name)+"/initstate", "live")
	if m.version != "" {
		h.value(moduleDir(name)+"/version", m.version)
	}
	h.mkdir(moduleDir(name) + "/holders")
}

func (h *Host) refs(m *module) int { return m.used + len(h.holders(m.name)) + h.fileRefs(m) }

// unload is modprobe -r: the module, then what it needed, as far as nobody else uses it.
func (h *Host) unload(name string) error {
	m := h.modules[name]
	switch {
	case m == nil:
		return syscall.ENOENT
	case m.builtin:
		return syscall.EBUSY
	case !m.loaded:
		return nil
	case h.refs(m) > 0:
		return syscall.EBUSY
	}
	h.unloadOne(m)
	for _, d := range m.deps {
		if dep := h.modules[d]; dep.loaded && h.refs(dep) == 0 {
			_ = h.unload(d)
		}
	}
	return nil
}

// unloadOne takes a module out of the kernel that nobody uses.
func (h *Host) unloadOne(m *module) {
	if m.driver != "" {
		h.removeDriver(m.driver)
	}
	m.loaded = false
	if m.name == nvidiaDRM {
		h.drmChanged()
	}
	h.loadOrder = slices.DeleteFunc(h.loadOrder, func(o string) bool { return o == m.name })
	h.erase(moduleDir(m.name))
	for _, d := range m.deps {
		h.erase(moduleDir(d) + "/holders/" + m.name)
	}
	h.stir()
}

// UnloadModule implements sysfs.Kernel: delete_module(2) with O_NONBLOCK, which takes that one module only.
func (k inProcess) UnloadModule(name string) error {
	h := k.v.h
	name = moduleName(name)
	return h.change(Change{Op: "unload", Path: moduleDir(name)}, func() error {
		m := h.modules[name]
		switch {
		case m == nil || !m.loaded:
			return syscall.ENOENT
		case h.refs(m) > 0:
			return syscall.EAGAIN
		}
		h.unloadOne(m)
		return nil
	})
}

// modprobe runs modprobe(8) with its arguments.
func (h *Host) modprobe(args []string) error {
	var names []string
	var remove, all, dry bool
	for i, a := range args {
		switch {
		case a == "--":
			names = append(names, args[i+1:]...)
		case a == "--remove":
			remove = true
		case a == "--all":
			all = true
		case a == "--dry-run" || a == "--show":
			dry = true
		case strings.HasPrefix(a, "--"):
		case strings.HasPrefix(a, "-"):
			remove = remove || strings.Contains(a, "r")
			all = all || strings.Contains(a, "a")
			dry = dry || strings.Contains(a, "n")
		case a != "":
			names = append(names, a)
			continue
		}
		if a == "--" {
			break
		}
	}
	if len(names) == 0 {
		return syscall.EINVAL
	}
	if !remove && !all {
		names = names[:1] // the rest are module parameters
	}
	for _, n := range names {
		found := h.resolveModule(n)
		if len(found) == 0 {
			return syscall.ENOENT
		}
		for _, m := range found {
			var err error
			switch {
			case dry:
			case remove:
				err = h.unload(m)
			case h.modules[m].builtin || h.modules[m].loaded:
			case h.find(h.kernel.modules+"/modules.dep") == noNode:
				err = syscall.ENOENT // none for the running kernel
			default:
				err = h.load(m)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// resolveModule returns the modules that a name or a modalias stands for.
func (h *Host) resolveModule(name string) []string {
	if m := moduleName(name); h.modules[m] != nil {
		return []string{m}
	}
	var out []string
	for _, m := range h.moduleNames() {
		if slices.ContainsFunc(h.modules[m].aliases, func(a string) bool {
			ok, _ := path.Match(a, name)
			return ok
		}) {
			out = append(out, m)
		}
	}
	return out
}

func (h *Host) moduleNames() []string {
	var out []string
	for n := range h.modules {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// An ExitError is the failure of a program of the host.
type ExitError struct {
	Name string
	Code int
	Err  error // why
}

func (e *ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Code) }
func (e *ExitError) Unwrap() error { return e.Err }

// Run executes a program of the host.
func (v VFS) Run(name string, args []string, pid int) error {
	_, err := v.Output(name, args, pid)
	return err
}

// Output executes a program of the host and returns what it prints.
func (v VFS) Output(name string, args []string, pid int) (out string, err error) {
	return v.execute(name, args, nil, pid)
}

// A Program stands for a program of the host: it is given arguments and environment, and returns what it prints and its exit
// status.
type Program func(args, env []string) (out string, status int)

// AddProgram makes an executable file of root's. Where it is run as a process its environment is not known.
func (h *Host) AddProgram(name string, run Program) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.added == nil {
		h.added = map[string]Program{}
	}
	h.added[name] = run
	h.text(name, 0o755, script(name))
}

func (v VFS) execute(name string, args, env []string, pid int) (out string, err error) {
	v.h.mu.Lock()
	n, err := v.h.walk(name, true)
	added := v.h.added[name]
	known := err == nil && (added != nil || slices.Contains(v.h.kernel.programs, name))
	v.h.mu.Unlock()
	switch {
	case err != nil:
		return "", err
	case !known || v.Stat(n).Type() != syscall.S_IFREG:
		return "", syscall.ENOEXEC
	}
	c := Change{Op: "run", Path: name, Value: strings.Join(args, " "), PID: pid}
	err = v.h.change(c, func() error {
		var code int
		var err error
		if added != nil {
			v.h.mu.Unlock()
			out, code = added(args, env)
			v.h.mu.Lock()
			if code != 0 {
				err = errors.New(strings.TrimSpace(out))
			}
		} else if name == v.h.kernel.nvidiaSMI {
			out, code, err = v.h.nvidiaSMI(args)
		} else if err = v.h.modprobe(args); err != nil {
			code = 1
		}
		if err != nil {
			return &ExitError{Name: name, Code: code, Err: err}
		}
		return nil
	})
	return out, err
}

// controlFile takes the arguments of programs that really run, through the FUSE door: see script.
const controlFile = "/.model/run"

// outputDir holds what programs that really run are to print, by process.
const outputDir = "/.model/output/"

// script is a program of the tree as a file. It finds the model from its own path, so that it works under any root.
func script(name string) string {
	return "#!/bin/sh\nM=\"${0%" + name + "}\"\nprintf '%s\\n' '" + name + "' \"$@\" >\"$M" + controlFile + "\"\nS=$?\n" +
		"test -e \"$M" + outputDir + "$$\" && cat \"$M" + outputDir + "$$\"\nexit $S\n"
}

// addPrograms makes the program files and the file by which they reach the model.
func (h *Host) addPrograms() {
	for _, p := range h.kernel.programs {
		h.text(p, 0o755, script(p))
	}
	n := h.rule(controlFile, &attr{control: true, store: func(*Host, string) error { return nil }})
	h.inodes[n].mode = syscall.S_IFREG | 0o200
	h.inodes[h.find(path.Dir(controlFile))].hidden = true
}

// addModulesDir writes modules.alias, modules.dep and modules.builtin of the running kernel.
func (h *Host) addModulesDir() {
	var alias, dep, builtin strings.Builder
	alias.WriteString("# Aliases extracted from modules themselves.\n")
	for _, n := range h.moduleNames() {
		m := h.modules[n]
		if m.builtin {
			builtin.WriteString(strings.TrimSuffix(m.file, path.Ext(m.file)) + "\n")
			continue
		}
		for _, a := range m.aliases {
			fmt.Fprintf(&alias, "alias %s %s\n", a, n)
		}
		dep.WriteString(m.file + ":")
		for _, d := range h.allDeps(m) {
			if !h.modules[d].builtin {
				dep.WriteString(" " + h.modules[d].file)
			}
		}
		dep.WriteString("\n")
	}
	h.text(h.kernel.modules+"/modules.alias", 0o644, alias.String())
	h.text(h.kernel.modules+"/modules.dep", 0o644, dep.String())
	h.text(h.kernel.modules+"/modules.builtin", 0o644, builtin.String())
}

// allDeps returns what a module needs, directly or not, nearest first.
func (h *Host) allDeps(m *module) []string {
	var out []string
	for _, d := range m.deps {
		for _, n := range append([]string{d}, h.allDeps(h.modules[d])...) {
			if !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return out
}

// procModules is /proc/modules, the module loaded last first.
func (h *Host) procModules() (string, error) {
	var b strings.Builder
	for _, n := range slices.Backward(h.loadOrder) {
		users := "-"
		if hs := h.holders(n); len(hs) > 0 {
			users = strings.Join(hs, ",") + ","
		}
		fmt.Fprintf(&b, "%s %d %d %s Live 0x0000000000000000\n", n, 65536, h.refs(h.modules[n]), users)
	}
	return b.String(), nil
}

// Run executes a program in process.
func (k inProcess) Run(ctx context.Context, name string, args ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return k.v.Run(name, args, 0)
}

// Execute runs a program in process and returns what it prints.
func (k inProcess) Execute(ctx context.Context, p sysfs.Program) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out, err := k.v.execute(p.Path, p.Args, p.Env, 0)
	return []byte(out), err
}
