// Package nixos_test evaluates the NixOS module and has what it renders read by the programs that will read it. It needs
// Debian's nix-bin and neither nixpkgs nor a store: tests/lib stands in for the one, and nothing is built.
package nixos_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"qemu-hook/test/mode"
)

var update = flag.Bool("update", false, "write the golden files and OPTIONS.md anew")

// A site is a folder with the module, its tests and what they read of the repository: the repository itself or a copy with
// a mistake in it.
type site struct {
	root     string
	evaluate func() (*facts, error)
}

func newSite(root string) *site {
	s := &site{root: root}
	s.evaluate = sync.OnceValues(func() (*facts, error) {
		out, err := nix("-E", "import "+filepath.Join(root, "nixos/tests")+" { }")
		if err != nil {
			return nil, err
		}
		f := new(facts)
		dec := json.NewDecoder(bytes.NewReader(out))
		dec.UseNumber()
		return f, dec.Decode(f)
	})
	return s
}

func (s *site) file(name string) string { return filepath.Join(s.root, name) }

// facts is what tests/default.nix says.
type facts struct {
	Hosts    map[string]host
	Snippets host
	Cases    map[string]struct{ Assertions, Warnings []string }
	Options  []option
	Upstream []option
	VM       struct {
		Name, TestScript string
		Host             host
		Domains          []string
		Hooks            []struct {
			Program, Text string
			QEMU          map[string]string
		}
	}
	Flake   any
	Package any
}

// A host is a host's configuration, as tests/dump.nix has it.
type host = map[string]any

type option struct {
	Name, Type, Description string
	Default, Example        *string
}

// nix evaluates a file, or a text with -E before it. Nothing may be built to be evaluated, and nothing taken from the
// machine's own Nix.
func nix(args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const limited = `ulimit -v 8000000; exec "$@"`
	args = append([]string{
		"-c", limited, "sh", "nix-instantiate", "--eval", "--strict", "--json", "--store", "dummy://",
		"--option", "allow-import-from-derivation", "false", "--option", "build-users-group", "",
	}, args...)
	cmd := exec.CommandContext(ctx, "sh", args...)
	cmd.Env = append(os.Environ(), "NIX_PATH=", "XDG_CACHE_HOME="+os.TempDir(), "NIX_CONF_DIR="+os.TempDir())
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// A check is a look at a site. Tools are the programs that it takes beside nix-instantiate.
type check struct {
	name  string
	tools []string
	run   func(s *site, r *report)
}

// A report collects what a check finds.
type report struct {
	dir    string // for files
	errs   []string
	counts int
}

func (r *report) errorf(format string, args ...any) {
	r.errs = append(r.errs, fmt.Sprintf(format, args...))
}

// facts evaluates the site, or says why that cannot be done.
func (r *report) facts(s *site) *facts {
	f, err := s.evaluate()
	if err != nil {
		r.errorf("cannot be evaluated: %v", err)
		return new(facts)
	}
	return f
}

// write makes a file and returns its path.
func (r *report) write(name, text string, mode os.FileMode) string {
	file := filepath.Join(r.dir, name)
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		err = os.WriteFile(file, []byte(text), mode)
	}
	if err != nil {
		r.errorf("%v", err)
	}
	return file
}

// tool runs a program and returns all that it says.
func (r *report) tool(env []string, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// need skips a test that lacks a program; where CI installs all of them that is a failure.
func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, name := range tools {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		mode.Lacking(t, "%s is missing", name)
	}
}

// checks are the tiers T0 to T1b.
func checks() []check {
	return append([]check{
		{"parse", nil, checkParse},
		{"hosts", nil, checkHosts},
		{"disabled", nil, checkDisabled},
		{"cases", nil, checkCases},
		{"options", nil, checkOptions},
		{"flake", nil, checkFlake},
		{"package", nil, checkPackage},
		{"plan", nil, checkPlan},
		{"recover unit", nil, checkRecoverUnit},
		{"vm test", []string{"python3"}, checkVMTest},
	}, renderChecks()...)
}

func TestModule(t *testing.T) {
	need(t, "nix-instantiate")
	s := newSite(repository(t))
	for _, c := range checks() {
		t.Run(c.name, func(t *testing.T) {
			need(t, c.tools...)
			r := &report{dir: t.TempDir()}
			c.run(s, r)
			for _, e := range r.errs {
				t.Error(e)
			}
			t.Logf("%d looked at", r.counts)
			if r.counts == 0 && len(r.errs) == 0 {
				t.Error("nothing was looked at")
			}
		})
	}
}

func repository(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// at returns what a host has at a path of names, nil for nothing.
func at(v any, path ...string) any {
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

// texts returns a list of strings.
func texts(v any) []string {
	var list []string
	if all, ok := v.([]any); ok {
		for _, e := range all {
			list = append(list, fmt.Sprint(e))
		}
	}
	return list
}

func text(v any) string {
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

// lines splits a text, without empty lines.
func lines(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == '\n' })
}
