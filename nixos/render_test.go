package nixos_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/BurntSushi/toml"
)

// renderChecks are tier T1b: what the module renders is read by the program that will read it.
func renderChecks() []check {
	return []check{
		{"sudoers", []string{"visudo"}, checkSudoers},
		{"units", []string{"systemd-analyze"}, checkUnits},
		{"mounts", []string{"findmnt"}, checkMounts},
		{"tmpfiles", []string{"systemd-tmpfiles"}, checkTmpfiles},
		{"modprobe", []string{"modprobe"}, checkModprobe},
		{"udev rules", nil, checkUdevRules},
		{"domains", []string{"virt-xml-validate"}, checkDomains},
		{"settings", []string{"go"}, checkSettings},
		{"scripts", []string{"shellcheck"}, checkScripts},
	}
}

// renderedHosts are those whose files are read.
func renderedHosts(f *facts) map[string]host {
	hosts := maps.Clone(f.Hosts)
	if hosts != nil && f.VM.Host != nil {
		hosts["vm"] = f.VM.Host
	}
	return hosts
}

// storePath makes the name of a store path one.
func storePath(s string) string {
	return regexp.MustCompile(`<([^>]+)>`).ReplaceAllString(s, "/nix/store/00000000000000000000000000000000-$1")
}

// checkSudoers writes the rules as NixOS does.
func checkSudoers(s *site, r *report) {
	for name, h := range renderedHosts(r.facts(s)) {
		for _, rule := range asList(h["sudo"]) {
			r.counts++
			var b strings.Builder
			var commands []string
			for _, c := range asList(at(rule, "commands")) {
				commands = append(commands, strings.Join(texts(at(c, "options")), ":")+": "+storePath(text(at(c, "command"))))
			}
			who := texts(at(rule, "users"))
			for _, g := range texts(at(rule, "groups")) {
				who = append(who, "%"+g)
			}
			for _, w := range who {
				fmt.Fprintf(&b, "%s %s=(%s) %s\n", w, text(at(rule, "host")), text(at(rule, "runAs")), strings.Join(commands, ", "))
			}
			file := r.write(name+".sudoers", b.String(), 0o440)
			if out, err := r.tool(nil, "visudo", "--check", "--strict", "--file="+file); err != nil {
				r.errorf("%s: %s\n%s", name, out, b.String())
			}
		}
	}
}

func asList(v any) []any {
	l, _ := v.([]any)
	return l
}

// unitText writes a service as NixOS does; scripts, if it is not nil, makes a script's text a program.
func unitText(v any, script func(text string) string) string {
	service, _ := v.(map[string]any)
	var b strings.Builder
	b.WriteString("[Unit]\n")
	set := func(key, name string) {
		switch v := service[name].(type) {
		case nil:
		case []any:
			fmt.Fprintf(&b, "%s=%s\n", key, strings.Join(texts(v), " "))
		default:
			fmt.Fprintf(&b, "%s=%v\n", key, v)
		}
	}
	set("Description", "description")
	set("Documentation", "documentation")
	set("Before", "before")
	set("After", "after")
	set("Requires", "requires")
	set("Wants", "wants")
	set("StartLimitIntervalSec", "startLimitIntervalSec")
	b.WriteString("\n[Service]\n")
	settings, _ := service["serviceConfig"].(map[string]any)
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		switch v := settings[key].(type) {
		case []any:
			for _, e := range v {
				fmt.Fprintf(&b, "%s=%v\n", key, e)
			}
		default:
			fmt.Fprintf(&b, "%s=%v\n", key, v)
		}
	}
	env, _ := service["environment"].(map[string]any)
	for _, key := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(&b, "Environment=%s\n", strconv.Quote(key+"="+text(env[key])))
	}
	if text, ok := service["script"].(string); ok && script != nil {
		fmt.Fprintf(&b, "ExecStart=%s\n", script(text))
	}
	b.WriteString("\n[Install]\n")
	set("WantedBy", "wantedBy")
	return b.String()
}

// checkUnits has systemd read the services, beside stand-ins for what they name, and a shell the scripts.
func checkUnits(s *site, r *report) {
	for name, h := range renderedHosts(r.facts(s)) {
		services, _ := at(h, "systemd", "services").(map[string]any)
		if len(services) == 0 {
			continue
		}
		units := filepath.Join(name, "units")
		program := r.write(filepath.Join(name, "bin/program"), "#!/bin/sh\n", 0o755)
		for _, unit := range []string{"libvirtd.service", "virtqemud.service"} {
			r.write(filepath.Join(units, unit), "[Service]\nExecStart="+program+"\n", 0o644)
		}
		args := []string{"verify", "--man=no", "--recursive-errors=no"}
		for _, unit := range slices.Sorted(maps.Keys(services)) {
			r.counts++
			text := unitText(services[unit], func(text string) string {
				file := r.write(filepath.Join(name, "bin", unit), "#!/bin/bash -e\n"+text, 0o755)
				if out, err := r.tool(nil, "bash", "-n", file); err != nil {
					r.errorf("%s: %s: %s", name, unit, out)
				}
				return file
			})
			// The programs lie in a store that is not there.
			text = regexp.MustCompile(`<[^>]+>/bin/[a-z-]+`).ReplaceAllString(text, program)
			args = append(args, r.write(filepath.Join(units, unit+".service"), text, 0o644))
		}
		out, err := r.tool([]string{"SYSTEMD_UNIT_PATH=" + filepath.Join(r.dir, units) + ":"}, "systemd-analyze", args...)
		// Of other units of the machine it may say what it likes.
		for _, line := range lines(out) {
			if strings.Contains(line, filepath.Join(r.dir, units)) {
				r.errorf("%s: %s", name, line)
			}
		}
		if err != nil {
			r.errorf("%s: systemd-analyze: %v: %s", name, err, out)
		}
	}
}

// checkMounts has findmnt read the mounts as lines of an fstab. The places are made: they are not there in a container.
func checkMounts(s *site, r *report) {
	for name, h := range renderedHosts(r.facts(s)) {
		var b strings.Builder
		for _, m := range asList(at(h, "systemd", "mounts")) {
			r.counts++
			where := filepath.Join(r.dir, name, text(at(m, "where")))
			if err := os.MkdirAll(where, 0o755); err != nil {
				r.errorf("%v", err)
			}
			fmt.Fprintf(&b, "%s %s %s %s 0 0\n", text(at(m, "what")), where, text(at(m, "type")), text(at(m, "options")))
			// Where a mount's place and its unit's name do not fit together systemd ignores it.
			if !regexp.MustCompile(`^/dev/hugepages(1G)?$`).MatchString(text(at(m, "where"))) {
				r.errorf("%s: a mount at %s", name, text(at(m, "where")))
			}
		}
		if b.Len() == 0 {
			continue
		}
		file := r.write(name+".fstab", b.String(), 0o644)
		out, err := r.tool(nil, "findmnt", "--verify", "--verbose", "--tab-file", file)
		if err != nil || strings.Contains(out, "parse error") || !strings.Contains(out, "0 parse errors, 0 errors") && !strings.Contains(out, "Success, no errors") {
			r.errorf("%s: %s: %v", name, out, err)
		}
	}
}

// checkTmpfiles has systemd-tmpfiles carry the rules out, in a folder in which their users are the one who runs the test.
func checkTmpfiles(s *site, r *report) {
	for name, h := range renderedHosts(r.facts(s)) {
		rules, _ := at(h, "systemd", "tmpfiles").(map[string]any)
		for file, paths := range rules {
			var b strings.Builder
			users, groups := map[string]bool{"root": true}, map[string]bool{"root": true}
			var made []string
			for path, types := range paths.(map[string]any) {
				made = append(made, path)
				for kind, rule := range types.(map[string]any) {
					r.counts++
					field := func(name string) string {
						if v := text(at(rule, name)); v != "" {
							return v
						}
						return "-"
					}
					users[field("user")], groups[field("group")] = true, true
					fmt.Fprintf(&b, "%s %s %s %s %s %s %s\n", kind, path, field("mode"), field("user"), field("group"), field("age"), field("argument"))
				}
			}
			root := filepath.Join(r.dir, name)
			for u := range users {
				r.append(filepath.Join(name, "etc/passwd"), fmt.Sprintf("%s:x:%d:%d::/:/bin/sh\n", u, os.Geteuid(), os.Getegid()))
			}
			for g := range groups {
				r.append(filepath.Join(name, "etc/group"), fmt.Sprintf("%s:x:%d:\n", g, os.Getegid()))
			}
			if err := os.MkdirAll(filepath.Join(root, "dev/shm"), 0o755); err != nil {
				r.errorf("%v", err)
			}
			conf := r.write(filepath.Join(name, file+".conf"), b.String(), 0o644)
			if out, err := r.tool(nil, "systemd-tmpfiles", "--create", "--root="+root, conf); err != nil || strings.TrimSpace(out) != "" {
				r.errorf("%s: %v: %s\n%s", name, err, out, b.String())
			}
			for _, path := range made {
				if _, err := os.Stat(filepath.Join(root, path)); err != nil {
					r.errorf("%s: %v", name, err)
				}
			}
		}
	}
}

func (r *report) append(name, text string) {
	b, _ := os.ReadFile(filepath.Join(r.dir, name))
	r.write(name, string(b)+text, 0o644)
}

// checkModprobe has kmod read the modules' configuration.
func checkModprobe(s *site, r *report) {
	for name, h := range renderedHosts(r.facts(s)) {
		config := text(at(h, "boot", "extraModprobeConfig"))
		for _, m := range texts(at(h, "boot", "blacklistedKernelModules")) {
			config += "\nblacklist " + m
		}
		if strings.TrimSpace(config) == "" {
			continue
		}
		file := r.write(filepath.Join(name, "nixos.conf"), config+"\n", 0o644)
		out, err := r.tool(nil, "modprobe", "-C", filepath.Dir(file), "--showconfig")
		if err != nil || strings.Contains(out, "libkmod") {
			r.errorf("%s: %v: %s", name, err, out)
		}
		// kmod shows names with underscores.
		shown := strings.ReplaceAll(out, "-", "_")
		for _, line := range lines(config) {
			r.counts++
			if !strings.Contains(shown, strings.ReplaceAll(strings.TrimSpace(line), "-", "_")) {
				r.errorf("%s: modprobe does not know of %q", name, line)
			}
		}
	}
}

// checkUdevRules reads rules with the little that can be said without udevd of 254, whose udevadm verifies them.
func checkUdevRules(s *site, r *report) {
	match := regexp.MustCompile(`^([A-Z_]+)(\{[A-Za-z_]+\})?(==|!=|=|\+=|-=|:=)"[^"]*"$`)
	for name, h := range renderedHosts(r.facts(s)) {
		rules := map[string]string{"99-local.rules": text(at(h, "udev", "extraRules"))}
		for _, p := range asList(at(h, "udev", "packages")) {
			rules[text(at(p, "name"))] = text(at(p, "text"))
		}
		for file, text := range rules {
			labels := regexp.MustCompile(`GOTO="([^"]+)"`).FindAllStringSubmatch(text, -1)
			for _, l := range labels {
				if !strings.Contains(text, `LABEL="`+l[1]+`"`) {
					r.errorf("%s: %s goes to %s, which is nowhere", name, file, l[1])
				}
			}
			for _, line := range lines(text) {
				if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
					continue
				}
				r.counts++
				for _, part := range strings.Split(line, ", ") {
					if !match.MatchString(part) {
						r.errorf("%s: %s has %q", name, file, part)
					}
				}
			}
		}
	}
	// The rule for every distribution has the line that the module fills in, for each address.
	hidden := text(at(asList(at(r.facts(s).Hosts["amd-two"], "udev", "packages")), ""))
	for _, p := range asList(at(r.facts(s).Hosts["amd-two"], "udev", "packages")) {
		hidden += text(at(p, "text"))
	}
	for _, address := range []string{"0000:0a:00.0", "0000:0a:00.1", "0000:0a:00.2"} {
		if !strings.Contains(hidden, "\nSUBSYSTEM==\"drm|graphics|i2c-dev\", KERNELS==\""+address+"\"") {
			r.errorf("nothing keeps desktops off %s", address)
		}
	}
}

// checkDomains has libvirt's schema look at the domains.
func checkDomains(s *site, r *report) {
	files := []string{s.file("nixos/win11.xml")}
	for i, d := range r.facts(s).VM.Domains {
		files = append(files, r.write(fmt.Sprintf("%d.xml", i), d, 0o644))
	}
	for _, file := range files {
		r.counts++
		if out, err := r.tool(nil, "virt-xml-validate", file, "domain"); err != nil {
			r.errorf("%s", out)
		}
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		r.errorf("%v", err)
	}
	for _, want := range []string{"<uuid>", "/run/libvirt/nix-emulators/"} {
		if !bytes.Contains(b, []byte(want)) {
			r.errorf("nixos/win11.xml has no %s", want)
		}
	}
	if bytes.Contains(b, []byte("/nix/store")) {
		r.errorf("nixos/win11.xml names a store path")
	}
	if regexp.MustCompile(`<feature\s[^>]*enabled=['"]yes['"][^>]*name=['"]enrolled-keys|<feature\s[^>]*name=['"]enrolled-keys['"][^>]*enabled=['"]yes`).Match(b) {
		r.errorf("nixos/win11.xml asks for a firmware with enrolled keys, which NixOS does not have")
	}
}

// programEnv names the program for a test that runs where it cannot be built.
const programEnv = "QEMU_HOOK_NIXOS_PROGRAM"

// program builds the program once.
var program = sync.OnceValues(func() (string, error) {
	if file := os.Getenv(programEnv); file != "" {
		return file, nil
	}
	dir, err := os.MkdirTemp("", "qemu-hook-nixos")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "qemu-hook")
	r := new(report)
	if out, err := r.tool([]string{"CGO_ENABLED=0"}, "go", "build", "-o", file, "qemu-hook/cmd/qemu-hook"); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return file, nil
})

// checkSettings has the program read the configuration that the module makes for it.
func checkSettings(s *site, r *report) {
	file, err := program()
	if err != nil {
		r.errorf("%v", err)
		return
	}
	for name, h := range renderedHosts(r.facts(s)) {
		settings, ok := at(h, "hook", "settings").(map[string]any)
		if !ok {
			continue
		}
		r.counts++
		var b bytes.Buffer
		if err := toml.NewEncoder(&b).Encode(numbers(settings)); err != nil {
			r.errorf("%v", err)
		}
		config := r.write(name+".toml", b.String(), 0o644)
		if out, err := r.tool(nil, file, "check", "--config-only", "--config", config); err != nil {
			r.errorf("%s: %s\n%s", name, out, b.String())
		}
		// The build asks the same.
		if want := "<qemu-hook>/bin/qemu-hook check --config-only --config <qemu-hook.toml>\ncp <qemu-hook.toml> $out\n"; text(at(h, "hook", "build")) != want {
			r.errorf("%s: the configuration is built by %q, want %q", name, text(at(h, "hook", "build")), want)
		}
	}
}

// numbers makes JSON's numbers TOML's integers.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := map[string]any{}
		for name, e := range v {
			m[name] = numbers(e)
		}
		return m
	case []any:
		var l []any
		for _, e := range v {
			l = append(l, numbers(e))
		}
		return l
	case json.Number:
		n, _ := v.Int64()
		return n
	}
	return v
}

// checkScripts looks at the scripts as writeShellApplication has them looked at.
func checkScripts(s *site, r *report) {
	files, err := filepath.Glob(s.file("nixos/scripts/*.sh"))
	if err != nil {
		r.errorf("%v", err)
	}
	r.counts = len(files)
	if out, err := r.tool(nil, "shellcheck", append([]string{"--shell=bash"}, files...)...); err != nil {
		r.errorf("%s", out)
	}
}
