// Package test checks the repository as a whole: which package may import which, what no file may do, and that the
// documents say what the program does.
package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "qemu-hook"

// floors are the packages of the program, from the ground up. Each imports only what stands on a line above its own.
var floors = [][]string{
	{"cpuset", "dist", "testdata", "text"},
	{"domain", "journal", "systemd", "sysfs"},
	{"sysfs/sysfstest"},
	{"hook"},
	{"hook/prepare", "hook/release", "hook/scripts", "hook/topology"},
	{"hook/suggest"},
	{"cmd/qemu-hook"},
}

// offFloors are packages of tests and tools, with all below them. They may import anything of the program's; nothing of it
// imports them.
var offFloors = []string{"bench", "nixos", "sysfs/sysfstest/fusetest", "systemd/systemdtest", "test"}

func offFloor(name string) bool {
	return slices.ContainsFunc(offFloors, func(o string) bool { return name == o || strings.HasPrefix(name, o+"/") })
}

// A ban keeps an import or a name out of the program's files, but for those it lists.
type ban struct {
	what    string   // an import path, or "path.Name"; with a * at its end all that begin so
	allowed []string // files, and directories with a slash at the end
	why     string
}

var bans = []ban{
	{"os/exec", []string{"hook/slow.go", "sysfs/os.go", "sysfs/os_process.go"}, "a child that inherits the hook's pipes keeps libvirt waiting: one worker and one door start programs"},
	{"log", nil, "stderr belongs to the sentence that libvirt quotes; the rest goes through Host.Log"},
	{"log/slog", nil, "stderr belongs to the sentence that libvirt quotes; the rest goes through Host.Log"},
	{"testing", nil, "its flags and its size are no part of the program"},
	{"regexp", nil, "compiled at every event of every domain; the grammars here are small enough for hand-written parsers"},
	{"net/http", nil, "it costs start-up time on every event"},
	{"text/template", nil, "it costs start-up time on every event"},
	{"libvirt.org/go/libvirt", nil, "a hook that calls libvirt waits for the daemon that waits for it"},
	{"fmt.Print*", nil, "stdout replaces the domain XML at migrate and restore: only print.go prints"},
	{"os.Stdout", []string{"cmd/qemu-hook/print.go"}, "stdout replaces the domain XML at migrate and restore: only print.go prints"},
	{"os.Stderr", []string{"cmd/qemu-hook/print.go"}, "libvirt quotes stderr whole: only print.go prints"},
	{"os.Exit", []string{"cmd/qemu-hook/main.go"}, "an exit skips what is deferred: only main ends the program"},
	{"os.WriteFile", []string{"sysfs/sysfstest/"}, "it creates what is misspelt: attributes go through package sysfs, state through package journal"},
	{"os.Create", nil, "it creates what is misspelt: attributes go through package sysfs, state through package journal"},
	{"os.OpenFile", []string{"journal/append.go", "journal/journal.go"}, "attributes go through package sysfs, state through package journal"},
	{"os.Setenv", nil, "the environment is shared by all goroutines; pass options"},
	{"time.Sleep", []string{"sysfs/sysfstest/"}, "it cannot be ended by the caller's context"},
}

// neverLinked are packages that must not be in the program, through whomever they come.
var neverLinked = []ban{
	{what: "testing", why: "its flags and its size are no part of the program"},
	{what: "github.com/hanwen/go-fuse*", why: "the FUSE door is for tests; the demo uses the other one"},
	{what: "pgregory.net/rapid*", why: "it is for tests"},
	{what: "github.com/google/go-cmp*", why: "it is for tests"},
	{what: "github.com/rogpeppe/go-internal*", why: "it is for tests"},
	{what: "runtime/cgo", why: "the program is static"},
	{what: "net/http", why: "it costs start-up time on every event"},
	{what: "text/template", why: "it costs start-up time on every event"},
	{what: "html/template", why: "it costs start-up time on every event"},
	{what: "libvirt.org/go/libvirt", why: "a hook that calls libvirt waits for the daemon that waits for it"},
}

// allowedVars are package-level variables that are neither an error, an embedded file, an array nor an assertion.
var allowedVars = map[string]string{
	"cmd/qemu-hook.version": "set by the linker",
}

func (b ban) forbids(name, file string) bool {
	return b.matches(name) && !slices.ContainsFunc(b.allowed, func(a string) bool {
		return a == file || strings.HasSuffix(a, "/") && strings.HasPrefix(file, a)
	})
}

func (b ban) matches(name string) bool {
	if prefix, ok := strings.CutSuffix(b.what, "*"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return b.what == name
}

// goPackage is what this test needs of "go list -json".
type goPackage struct {
	Dir        string
	ImportPath string
	GoFiles    []string
	Imports    []string
}

func goList(t *testing.T, args ...string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=Dir,ImportPath,GoFiles,Imports"}, args...)...)
	cmd.Dir = ".."
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0") // as the program is built
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cannot list the packages: %v: %s", err, stderr.Bytes())
	}
	var all []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p goPackage
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func TestFloors(t *testing.T) {
	floorOf := map[string]int{}
	for i, floor := range floors {
		for _, name := range floor {
			floorOf[name] = i
		}
	}
	for _, p := range goList(t, "./...") {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		floor, ok := floorOf[name]
		if !ok {
			if !offFloor(name) {
				t.Errorf("package %s stands on no floor: say where it belongs in test/floors_test.go and .golangci.yml", name)
			}
			continue
		}
		for _, imported := range p.Imports {
			below, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				continue
			}
			if offFloor(below) {
				t.Errorf("package %s imports %s, which is for tests and tools", name, below)
			} else if floorOf[below] >= floor {
				t.Errorf("package %s imports %s, which does not stand below it", name, below)
			}
		}
	}
}

func TestNeverLinked(t *testing.T) {
	for _, p := range goList(t, "-deps", "./cmd/qemu-hook") {
		for _, b := range neverLinked {
			if b.matches(p.ImportPath) {
				t.Errorf("the program links %s: %s", p.ImportPath, b.why)
			}
		}
	}
}

func TestBans(t *testing.T) {
	for _, p := range goList(t, "./...") {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		if offFloor(name) {
			continue
		}
		for _, file := range p.GoFiles {
			rel := name + "/" + file
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, file), nil, parser.SkipObjectResolution|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			report := func(pos token.Pos, format string, args ...any) {
				t.Errorf("%s:%d: %s", rel, fset.Position(pos).Line, fmt.Sprintf(format, args...))
			}
			checkImports(f, rel, report)
			checkNames(f, rel, report)
			checkDecls(f, name, report)
		}
	}
}

type reporter func(pos token.Pos, format string, args ...any)

func checkImports(f *ast.File, rel string, report reporter) {
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			report(spec.Pos(), "%v", err)
			continue
		}
		for _, b := range bans {
			if b.forbids(imported, rel) {
				report(spec.Pos(), "imports %s: %s", imported, b.why)
			}
		}
	}
}

// checkNames looks for banned names of other packages.
func checkNames(f *ast.File, rel string, report reporter) {
	imported := map[string]string{} // by the name in this file
	for _, spec := range f.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		name := path[strings.LastIndexByte(path, '/')+1:]
		if spec.Name != nil {
			name = spec.Name.Name
		}
		imported[name] = path
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if !ok || imported[x.Name] == "" {
				return true
			}
			full := imported[x.Name] + "." + n.Sel.Name
			for _, b := range bans {
				if b.forbids(full, rel) {
					report(n.Pos(), "uses %s: %s", full, b.why)
				}
			}
		case *ast.CallExpr:
			if fun, ok := n.Fun.(*ast.Ident); ok && (fun.Name == "println" || fun.Name == "print") {
				report(n.Pos(), "uses the built-in %s", fun.Name)
			}
		}
		return true
	})
}

// checkDecls looks for init functions and package-level variables: nothing happens before main, and nothing is shared
// behind a function's back.
func checkDecls(f *ast.File, pkg string, report reporter) {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.Name == "init" {
				report(d.Pos(), "has an init function, which runs on every event of every domain")
			}
		case *ast.GenDecl:
			if d.Tok != token.VAR {
				continue
			}
			for _, spec := range d.Specs {
				v := spec.(*ast.ValueSpec)
				embedded := hasEmbed(d.Doc) || hasEmbed(v.Doc)
				for i, id := range v.Names {
					if id.Name == "_" || embedded || allowedVars[pkg+"."+id.Name] != "" || i < len(v.Values) && constant(v.Values[i]) {
						continue
					}
					report(id.Pos(), "has the package-level variable %s; pass it, or make it a function", id.Name)
				}
			}
		}
	}
}

func hasEmbed(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") })
}

// constant accepts what Go has no constants for: errors and arrays.
func constant(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.CallExpr:
		sel, ok := e.Fun.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		x, ok := sel.X.(*ast.Ident)
		return ok && x.Name == "errors" && sel.Sel.Name == "New"
	case *ast.CompositeLit:
		array, ok := e.Type.(*ast.ArrayType)
		return ok && array.Len != nil
	}
	return false
}

// TestBansBite makes sure that the checks find what they look for.
func TestBansBite(t *testing.T) {
	const source = `package p
import (
	"os/exec"
	say "fmt"
	"os"
	"regexp"
)
var word = regexp.MustCompile("a")
var count int
func init() { say.Println(exec.Command("a"), os.Stdout); println() }
`
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "p.go", source, parser.SkipObjectResolution|parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var found error
	report := func(pos token.Pos, format string, args ...any) {
		found = errors.Join(found, fmt.Errorf("%d: %s", fset.Position(pos).Line, fmt.Sprintf(format, args...)))
	}
	checkImports(f, "hook/p.go", report)
	checkNames(f, "hook/p.go", report)
	checkDecls(f, "hook", report)
	for _, want := range []string{
		"3: imports os/exec", "6: imports regexp", "10: uses fmt.Println", "10: uses os.Stdout", "10: uses the built-in println",
		"8: has the package-level variable word", "9: has the package-level variable count", "10: has an init function",
	} {
		if found == nil || !strings.Contains(found.Error(), want) {
			t.Errorf("%q was not found among:\n%v", want, found)
		}
	}
}
