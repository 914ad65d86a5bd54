package nixos_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// nixFiles returns the site's Nix files.
func nixFiles(s *site) ([]string, error) {
	files := []string{s.file("flake.nix"), s.file("default.nix")}
	err := filepath.WalkDir(s.file("nixos"), func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".nix") {
			files = append(files, path)
		}
		return err
	})
	return files, err
}

// checkParse has every file read, and looks for what hides mistakes from that: `with` at a file's level, so that any name is
// taken for a member of lib; and for what nixpkgs has no more.
func checkParse(s *site, r *report) {
	files, err := nixFiles(s)
	if err != nil {
		r.errorf("%v", err)
	}
	banned := regexp.MustCompile(`(?m)^\s*with [a-z.]+;|\bmdDoc\b|types\.string\b|\btypes\.optionSet\b|\t`)
	for _, file := range files {
		r.counts++
		if out, err := r.tool(nil, "nix-instantiate", "--parse", "--store", "dummy://", file); err != nil {
			r.errorf("%s", out)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			r.errorf("%v", err)
		}
		for _, m := range banned.FindAllString(string(b), -1) {
			r.errorf("%s has %q", file, m)
		}
	}
}

// checkHosts compares the hosts with golden files.
func checkHosts(s *site, r *report) {
	for name, h := range r.facts(s).Hosts {
		if name == "without" {
			continue
		}
		r.counts++
		var got bytes.Buffer
		enc := json.NewEncoder(&got)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(h); err != nil {
			r.errorf("%v", err)
		}
		r.golden(s, "nixos/tests/golden/"+name+".json", got.String())
		for _, a := range texts(h["assertions"]) {
			r.errorf("%s: %s", name, a)
		}
	}
}

// golden compares a text with a file of the site.
func (r *report) golden(s *site, name, got string) {
	file := s.file(name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			r.errorf("%v", err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		r.errorf("%v", err)
		return
	}
	if diff := cmp.Diff(lines(string(want)), lines(got)); diff != "" {
		r.errorf("not as %s has it (go test ./nixos -update writes it anew):\n%s", name, diff)
	}
}

// checkDisabled: a module that is imported and not enabled sets nothing.
func checkDisabled(s *site, r *report) {
	hosts := r.facts(s).Hosts
	r.counts += len(hosts["without"])
	// What a profile sets of the module's own options is nobody else's.
	if diff := cmp.Diff(hosts["without"], hosts["disabled"]); diff != "" {
		r.errorf("with vfio.enable = false:\n%s", diff)
	}
}

// checkCases has every assertion and warning come up, by its words, and nothing else.
func checkCases(s *site, r *report) {
	assertions := map[string]string{
		"no-user":            "vfio.user is not set: say who manages the guests",
		"unknown-user":       `vfio.user is "bob", a user that this host does not declare: set users.users.bob.isNormalUser`,
		"no-cpu":             `vfio.cpu is not set: say "intel" or "amd"`,
		"bind-nothing":       "vfio.devices.bindAtBoot is on, but vfio.devices names no function: set gpu and audio, or addresses",
		"hide-nothing":       "vfio.devices.hideFromDesktop is on, but vfio.devices.addresses is empty",
		"same-vendor":        "vfio.devices.bindAtBoot takes 10de:2782 from the host, whose services.xserver.videoDrivers has nvidia: the desktop would not start",
		"same-vendor-usb":    "vfio.devices.bindAtBoot takes 1002:73a5 from the host, whose services.xserver.videoDrivers has amdgpu: the desktop",
		"blacklisted-driver": "vfio.blacklistNvidia is on, and services.xserver.videoDrivers has nouveau: the desktop would not start",
		"no-interface":       "vfio.network.enable is on, but vfio.network.interface is not set",
		"guest-twice":        "The guest win11 is in vfio.vm and in vfio.vms",
		"bad-name":           "vfio.vms has names that units and scripts cannot take: a b. Of letters",
		"password":           "vfio.rdp.options has a password in it",
	}
	warnings := map[string]string{
		"same-vendor-allowed":   "two cards of one model have one id, and both would be gone from the host",
		"same-vendor-extra":     "vfio.devices.extra has 1002:73a6, of the vendor for whom services.xserver.videoDrivers has amdgpu: if one of them is a graphics card",
		"vendor-unknown":        "services.xserver.videoDrivers has nvidiaLegacy470, and vfio.devices.addresses do not tell the vendor",
		"no-allocation":         "vfio.hook.enable is off, so nobody allocates huge pages",
		"named-after-operation": "virtualisation.libvirtd.hooks.qemu has an entry named after an operation",
	}
	f := r.facts(s)
	for name, c := range f.Cases {
		r.counts++
		for _, part := range []struct {
			got  []string
			want string
		}{{c.Assertions, assertions[name]}, {c.Warnings, warnings[name]}} {
			switch {
			case part.want == "" && len(part.got) > 0:
				r.errorf("%s: unexpected: %q", name, part.got)
			case part.want != "" && (len(part.got) != 1 || !strings.Contains(part.got[0], part.want)):
				r.errorf("%s: got %q, want one with %q", name, part.got, part.want)
			}
		}
	}
	for _, name := range slices.AppendSeq(slices.Collect(maps.Keys(assertions)), maps.Keys(warnings)) {
		if _, ok := f.Cases[name]; !ok {
			r.errorf("tests/cases.nix has no case %s", name)
		}
	}
	// Every assertion of the module is one of the cases.
	declared := 0
	files, _ := filepath.Glob(s.file("nixos/*.nix"))
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			r.errorf("%v", err)
		}
		declared += strings.Count(string(b), "assertion = ")
	}
	// One of them has two cases.
	if declared != len(assertions)-1 {
		r.errorf("the module has %d assertions, and %d are looked for", declared, len(assertions)-1)
	}
}

// checkOptions makes the options' reference and compares it with OPTIONS.md.
func checkOptions(s *site, r *report) {
	var b strings.Builder
	b.WriteString("# Options\n\nMade from the module: `go test ./nixos -update` writes it anew. [README.md](README.md) has the reasons.\n")
	for _, o := range r.facts(s).Options {
		r.counts++
		if strings.TrimSpace(o.Description) == "" {
			r.errorf("%s has no description", o.Name)
		}
		// As in NixOS' own manual, {option}`x` and {command}`x` are code.
		doc := regexp.MustCompile("\\{[a-z]+\\}`").ReplaceAllString(strings.TrimSpace(o.Description), "`")
		fmt.Fprintf(&b, "\n## `%s`\n\n%s\n\n- type: %s\n", o.Name, doc, o.Type)
		for _, part := range []struct {
			name string
			v    *string
		}{{"default", o.Default}, {"example", o.Example}} {
			if part.v != nil {
				fmt.Fprintf(&b, "- %s: `%s`\n", part.name, strings.Join(strings.Fields(*part.v), " "))
			}
		}
	}
	r.golden(s, "nixos/OPTIONS.md", b.String())
}

func checkFlake(s *site, r *report) {
	flake := r.facts(s).Flake
	r.counts++
	want := []string{"apps", "checks", "devShells", "formatter", "nixosModules", "overlays", "packages"}
	if got := texts(at(flake, "names")); !slices.Equal(got, want) {
		r.errorf("the flake's outputs are %q, want %q", got, want)
	}
	for path, want := range map[string]string{
		"module":                            "true",
		"overlay":                           "<qemu-hook>",
		"plain":                             "<qemu-hook>",
		"packages x86_64-linux default":     "<qemu-hook>",
		"packages aarch64-linux qemu-hook":  "<qemu-hook>",
		"packages x86_64-linux options":     "<options.md>",
		"checks x86_64-linux package":       "<qemu-hook>",
		"checks x86_64-linux options":       "<options.md>",
		"checks x86_64-linux vm":            "<vm-test-run-qemu-hook>",
		"devShells x86_64-linux default":    "<nix-shell>",
		"formatter x86_64-linux":            "<nixfmt-tree>",
		"apps x86_64-linux default type":    "app",
		"apps x86_64-linux default program": "qemu-hook",
		"inputs nixpkgs url":                "github:NixOS/nixpkgs/nixos-unstable",
	} {
		if got := text(at(flake, strings.Fields(path)...)); got != want {
			r.errorf("the flake's %s is %q, want %q", path, got, want)
		}
	}
	if inputs, ok := at(flake, "inputs").(map[string]any); !ok || len(inputs) != 1 {
		r.errorf("the flake has other inputs than nixpkgs: %v", at(flake, "inputs"))
	}
}

func checkPackage(s *site, r *report) {
	p := r.facts(s).Package
	r.counts++
	for path, want := range map[string]string{
		"pname":               "qemu-hook",
		"subPackages":         "[cmd/qemu-hook]",
		"env CGO_ENABLED":     "0",
		"doInstallCheck":      "true",
		"meta mainProgram":    "qemu-hook",
		"meta license spdxId": "Apache-2.0",
		"ldflags":             "[-s -X main.version=" + text(at(p, "version")) + "]",
	} {
		if got := text(at(p, strings.Fields(path)...)); got != want {
			r.errorf("the package's %s is %q, want %q", path, got, want)
		}
	}
	// Whatever is installed is there.
	for _, name := range []string{"docs/qemu-hook.8", "dist/completions"} {
		_, err := os.Stat(s.file(name))
		if there, installed := err == nil, strings.Contains(text(at(p, "postInstall")), name); there != installed {
			r.errorf("%s: there %v, installed %v", name, there, installed)
		}
	}
}

// checkPlan compares the plan's own host, in fewer than 25 lines, with the plan's snippets. Each difference stands in
// README.md, on the side it is on.
func checkPlan(s *site, r *report) {
	f := r.facts(s)
	b, err := os.ReadFile(s.file("nixos/tests/hosts/plan.nix"))
	if err != nil {
		r.errorf("%v", err)
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			n++
		}
	}
	if n >= 25 {
		r.errorf("the plan's host takes %d lines, want fewer than 25", n)
	}
	readme, err := os.ReadFile(s.file("nixos/README.md"))
	if err != nil {
		r.errorf("%v", err)
	}
	snippets, ours := flatten(f.Snippets), flatten(f.Hosts["plan"])
	said := func(side, fact string) bool {
		for line := range strings.Lines(string(readme)) {
			if strings.HasPrefix(line, "| "+side+" | ") && mentions(line, fact) {
				return true
			}
		}
		return false
	}
	for fact := range snippets {
		r.counts++
		if !ours[fact] && !said("plan", fact) {
			r.errorf("only in the plan, and not explained in README.md: %s", fact)
		}
	}
	for fact := range ours {
		if !snippets[fact] && !said("module", fact) {
			r.errorf("only of the module, and not explained in README.md: %s", fact)
		}
	}
	// And nothing is explained that is no difference.
	for line := range strings.Lines(string(readme)) {
		for _, side := range []struct {
			name        string
			here, there map[string]bool
		}{{"plan", snippets, ours}, {"module", ours, snippets}} {
			if !strings.HasPrefix(line, "| "+side.name+" | ") {
				continue
			}
			for _, code := range codes(line) {
				found := false
				for fact := range side.here {
					found = found || !side.there[fact] && covers(code, fact)
				}
				if !found {
					r.errorf("README.md explains `%s`, which is no difference", code)
				}
			}
		}
	}
}

// codes are what a line of a table has in backticks in its second column.
func codes(line string) []string {
	cells := strings.Split(line, " | ")
	if len(cells) < 3 {
		return nil
	}
	var list []string
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
		list = append(list, m[1])
	}
	return list
}

func mentions(line, fact string) bool {
	return slices.ContainsFunc(codes(line), func(code string) bool { return covers(code, fact) })
}

// covers reports whether a code is a fact, or begins it where it ends in "…".
func covers(code, fact string) bool {
	prefix, open := strings.CutSuffix(code, "…")
	return code == fact || open && strings.HasPrefix(fact, prefix)
}

// flatten makes a host a set of facts, "path value". Text counts line by line, lists by element.
func flatten(h host) map[string]bool {
	facts := map[string]bool{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, e := range v {
				walk(strings.TrimPrefix(path+"."+name, "."), e)
			}
		case []any:
			for _, e := range v {
				walk(path, e)
			}
		case string:
			for _, line := range lines(v) {
				facts[path+" "+strings.TrimSpace(line)] = true
			}
		default:
			facts[path+" "+fmt.Sprint(v)] = true
		}
	}
	for name, v := range h {
		switch name {
		case "scripts", "hook": // the plan has none to compare with
			continue
		}
		walk(name, v)
	}
	return facts
}

// checkRecoverUnit compares the unit with the one for other distributions.
func checkRecoverUnit(s *site, r *report) {
	b, err := os.ReadFile(s.file("dist/qemu-hook-recover.service"))
	if err != nil {
		r.errorf("%v", err)
	}
	want := parseUnit(string(b))
	got := parseUnit(strings.ReplaceAll(unitText(at(r.facts(s).Hosts["minimal"], "systemd", "services", "qemu-hook-recover"), nil), "<qemu-hook>/bin/", "/usr/bin/"))
	r.counts = len(want)
	if diff := cmp.Diff(want, got); diff != "" {
		r.errorf("dist/qemu-hook-recover.service and the module's unit differ:\n%s", diff)
	}
}

// parseUnit returns a unit's settings, in an order that does not matter.
func parseUnit(unit string) []string {
	var all []string
	section := ""
	for line := range strings.Lines(unit) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = line
		default:
			key, value, _ := strings.Cut(line, "=")
			switch key {
			case "Before", "After", "WantedBy", "ReadWritePaths":
				for _, unit := range strings.Fields(value) {
					all = append(all, section+" "+key+"="+unit)
				}
			default:
				all = append(all, section+" "+line)
			}
		}
	}
	slices.Sort(all)
	return all
}

// globalNames is a program that says which global names a script defines.
const globalNames = `
import ast, sys

def visit(node):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            print(child.name)
            continue
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            print(child.id)
        if isinstance(child, ast.alias):
            print((child.asname or child.name).split(".")[0])
        visit(child)

visit(ast.parse(open(sys.argv[1]).read()))
`

// checkVMTest: the script of the VM test is Python, asks nothing that the test driver does not have, and has no name of its own
// that the driver has.
func checkVMTest(s *site, r *report) {
	vm := r.facts(s).VM
	driver := []string{
		"crash", "execute", "fail", "get_unit_info", "log", "reboot", "require_unit_state", "shutdown", "sleep", "start", "stop_job", "succeed",
		"systemctl", "wait_for_file", "wait_for_unit", "wait_until_fails", "wait_until_succeeds",
	}
	for _, m := range regexp.MustCompile(`\bhost\.([a-z_]+)\(`).FindAllStringSubmatch(vm.TestScript, -1) {
		r.counts++
		if !slices.Contains(driver, m[1]) {
			r.errorf("the test driver has no %s", m[1])
		}
	}
	file := r.write("script.py", vm.TestScript, 0o644)
	out, err := r.tool(nil, "python3", "-c", globalNames, file)
	if err != nil {
		r.errorf("the test's script: %s", out)
	}
	// The framework puts these names before the script, with types that mypy holds the script to.
	prelude := []string{
		"Machine", "create_machine", "driver", "dump_machine_ssh", "join_all", "log", "machine", "machines", "polling_condition", "retry",
		"run_tests", "serial_stdout_off", "serial_stdout_on", "start_all", "subtest", "t", "test_script", "test_symbols", "vlans",
	}
	names := strings.Fields(out)
	if len(names) == 0 {
		r.errorf("the test's script has no names")
	}
	for _, name := range names {
		r.counts++
		if slices.Contains(prelude, name) {
			r.errorf("the test's script has a %s of its own, a name of the test framework's", name)
		}
	}
	if a := texts(vm.Host["assertions"]); len(a) > 0 {
		r.errorf("the test's host: %q", a)
	}
	if len(vm.Hooks) != 2 || !reflect.DeepEqual(vm.Hooks[0].QEMU, vm.Hooks[1].QEMU) || vm.Hooks[0].Text == vm.Hooks[1].Text {
		r.errorf("the test's switch does not bring another program to the same place: %+v", vm.Hooks)
	}
}

// TestTypes has mistakes in values refused where they are written, with the option's name.
func TestTypes(t *testing.T) {
	need(t, "nix-instantiate")
	mistakes := map[string]string{
		`devices.gpu = "10DE:2782"`:                            "`vfio.devices.gpu' is not of type `null or PCI vendor and device id",
		`devices = { bindAtBoot = true; extra = [ "8086" ]; }`: "`vfio.devices.extra.[definition 0]' is not of type",
		`devices.addresses = [ "08:00.0" ]`:                    "`vfio.devices.addresses.[definition 0]' is not of type `PCI address with its domain",
		`devices.addresses = [ "0000:08:00.8" ]`:               "`vfio.devices.addresses.[definition 0]' is not of type",
		`cpu = "arm"`:                                          "`vfio.cpu' is not of type `null or one of \"intel\", \"amd\"'",
		`user = "a b"`:                                         "`vfio.user' is not of type",
		`hugepages.size = "1M"`:                                "`vfio.hugepages.size' is not of type `one of \"2M\", \"1G\"'",
		`hugepages.count = "18432"`:                            "`vfio.hugepages.count' is not of type `positive integer",
		`hugepages.allocate = "at-boot"; hugepages.count = 0`:  "`vfio.hugepages.count' is not of type `positive integer",
		`network.enable = true; network.interface = "a/b"`:     "`vfio.network.interface' is not of type",
		`lookingGlass.enable = true; lookingGlass.sizeMB = 48`: "`vfio.lookingGlass.sizeMB' is not of type `one of 16, 32",
		`lookingGlass.enable = true; lookingGlass.mode = "rw"`: "`vfio.lookingGlass.mode' is not of type",
		`vm.name = "../x"`:                                     "`vfio.vm.name' is not of type",
		`vms.work.nvram = "x"`:                                 "`vfio.vms.work.nvram' does not exist",
		`gpu = "10de:2782"`:                                    "`vfio.gpu' does not exist",
		`vm.xmlPath = "win11.xml"`:                             "`vfio.vm.xmlPath' is not of type `null or absolute path'",
		`profile = "gaming"`:                                   "`vfio.profile' is not of type `one of \"default\", \"plan\"'",
		`kernelParams.quiet = "yes"`:                           "`vfio.kernelParams.quiet' is not of type `boolean'",
	}
	const host = `(import ./tests/eval.nix { host = { users.users.alice.isNormalUser = true; vfio = { enable = true; user = "alice"; cpu = "intel"; } // { %s; }; }; }).config`
	for mistake, want := range mistakes {
		t.Run(mistake, func(t *testing.T) {
			t.Parallel()
			value := fmt.Sprintf(host, mistake)
			_, err := nix("-E", "import ./tests/dump.nix { lib = import ./tests/lib; config = "+value+"; } // { all = "+value+".vfio.hugepages.count; }")
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want an error with %s", err, want)
			}
		})
	}
	t.Logf("%d mistakes", len(mistakes))
}
