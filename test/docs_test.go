package test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
)

func readDoc(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestREADMEKeys compares the README's table with the program's own list of keys.
func TestREADMEKeys(t *testing.T) {
	readme := readDoc(t, "README.md")
	var want strings.Builder
	want.WriteString("| key | default | what it does | per guest | in metadata |\n|---|---|---|---|---|\n")
	for _, k := range hook.ConfigKeys() {
		def, metadata, guest := "–", k.Metadata, "yes"
		if k.Shared {
			guest = "no"
		}
		if k.Default != "" {
			def = "`" + k.Default + "`"
		}
		if metadata == "" {
			metadata = "no"
		}
		// Outside of code, markdown takes <vcpupin> for HTML.
		doc := strings.NewReplacer("<", "&lt;", ">", "&gt;").Replace(k.Doc)
		fmt.Fprintf(&want, "| `%s` | %s | %s | %s | %s |\n", k.Key, def, doc, guest, metadata)
	}
	_, after, _ := strings.Cut(readme, "<!-- keys:")
	_, after, _ = strings.Cut(after, "-->\n")
	got, _, found := strings.Cut(after, "<!-- /keys -->")
	if !found || got != want.String() {
		t.Errorf("the README's table of keys is not that of hook.ConfigKeys, which is:\n%s", want.String())
	}
}

// TestREADMEConfigs has the program read every configuration that the documents show.
func TestREADMEConfigs(t *testing.T) {
	fence := regexp.MustCompile("(?ms)^```toml\n(.*?)^```")
	n := 0
	for _, name := range []string{
		"README.md", "docs/manual.md", "docs/compositor.md", "docs/vfio-at-boot.md", "docs/single-gpu.md", "docs/laptops.md", "docs/amd-reset.md",
	} {
		for _, m := range fence.FindAllStringSubmatch(readDoc(t, name), -1) {
			n++
			if _, err := hook.ParseConfig(name, []byte(m[1])); err != nil {
				t.Errorf("a configuration shown in %s is wrong: %v\n%s", name, err, m[1])
			}
		}
	}
	if n == 0 {
		t.Error("the documents show no configuration")
	}
	if !strings.Contains(readDoc(t, "README.md"), domain.Namespace) {
		t.Errorf("the README does not name the namespace for <metadata>, %s", domain.Namespace)
	}
}

// TestREADMECommands looks for every command of the program's help.
func TestREADMECommands(t *testing.T) {
	cmd := exec.Command("go", "run", "./cmd/qemu-hook", "help")
	cmd.Dir = ".."
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	readme := readDoc(t, "README.md")
	names := regexp.MustCompile(`(?m)^  qemu-hook ([a-z]+)`).FindAllStringSubmatch(string(out), -1)
	if len(names) < 10 {
		t.Fatalf("the help names too few commands:\n%s", out)
	}
	for _, m := range names {
		if !strings.Contains(readme, "    qemu-hook "+m[1]) {
			t.Errorf("the README does not list the command %s", m[1])
		}
	}
}

// TestREADMERefusals looks for every refusal of the steps in "When your VM does not start": of each the longest part
// that is the same for all guests.
func TestREADMERefusals(t *testing.T) {
	_, section, _ := strings.Cut(readDoc(t, "README.md"), "## When your VM does not start")
	section, _, _ = strings.Cut(section, "\n## ")
	files, err := filepath.Glob("../hook/prepare/*.go")
	if err != nil {
		t.Fatal(err)
	}
	verb := regexp.MustCompile(`%[#+]?\w`)
	n := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(node ast.Node) bool {
			call, ok := node.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); !ok || sel.Sel.Name != "Refuse" && sel.Sel.Name != "Short" {
				return true
			}
			longest := ""
			for _, part := range verb.Split(text(call.Args[0]), -1) {
				if len(part) > len(longest) {
					longest = part
				}
			}
			if len(longest) < 10 {
				// The sentence is made elsewhere.
				return true
			}
			n++
			if longest = strings.Trim(longest, " "); !strings.Contains(section, longest) {
				t.Errorf("%s:%d: the README does not explain the refusal with %q", filepath.Base(file), fset.Position(call.Pos()).Line, longest)
			}
			return true
		})
	}
	if n < 10 {
		t.Errorf("only %d refusals were found in hook/prepare", n)
	}
}

// text returns the value of string literals and their sums.
func text(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, _ := strconv.Unquote(e.Value)
		return s
	case *ast.BinaryExpr:
		return text(e.X) + text(e.Y)
	}
	return ""
}

// TestSteps walks the list of steps: each has one file of its own, and its section in the manual, in that order.
func TestSteps(t *testing.T) {
	files, err := filepath.Glob("../hook/prepare/*.go")
	if err != nil {
		t.Fatal(err)
	}
	fileOf := map[string]string{}
	taken := map[string]string{}
	name := regexp.MustCompile(`(?m)^func \(\w+Step\) Name\(\) string \{ return "(\w+)" \}`)
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range name.FindAllStringSubmatch(string(content), -1) {
			if other := taken[file]; other != "" {
				t.Errorf("%s holds two steps, %s and %s", file, other, m[1])
			}
			fileOf[m[1]], taken[file] = file, m[1]
		}
	}
	var want []string
	for _, s := range prepare.Steps() {
		want = append(want, s.Name())
		if fileOf[s.Name()] == "" {
			t.Errorf("step %s has no file in hook/prepare", s.Name())
		}
		if len(hook.ConfigKeys()) > 0 && !slices.ContainsFunc(hook.ConfigKeys(), func(k hook.KeyDoc) bool { return k.Key == "steps."+s.Name() }) {
			t.Errorf("step %s has no switch steps.%s", s.Name(), s.Name())
		}
	}
	var got []string
	for _, m := range regexp.MustCompile("(?m)^## Step `(\\w+)`").FindAllStringSubmatch(readDoc(t, "docs/manual.md"), -1) {
		got = append(got, m[1])
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/manual.md has sections for the steps %v; they are %v", got, want)
	}
}

// TestCommandsOfCI makes sure that what the README tells people to run is what is tested.
func TestCommandsOfCI(t *testing.T) {
	readme, ci := readDoc(t, "README.md"), readDoc(t, ".ci/run")
	for _, command := range []string{"go run ./cmd/qemu-hook demo", "test/run"} {
		if !strings.Contains(readme, "\n    "+command+"\n") || !strings.Contains(ci, "\n"+command+"\n") {
			t.Errorf("%q is to stand in README.md and in .ci/run", command)
		}
	}
}

// TestPitfalls looks for a test of each way in which handing a card over is known to go wrong: its comment names the number in
// the project's list of pitfalls.
func TestPitfalls(t *testing.T) {
	files, err := filepath.Glob("../*/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../*/*/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	comment := regexp.MustCompile(`(?m)^\s*// Pitfalls? ([0-9, and]+)[:.]`)
	for _, file := range append(files, more...) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range comment.FindAllStringSubmatch(string(b), -1) {
			for _, n := range regexp.MustCompile("[0-9]+").FindAllString(m[1], -1) {
				named[n] = true
			}
		}
	}
	for _, n := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 19, 29, 30} {
		if !named[strconv.Itoa(n)] {
			t.Errorf("no test names pitfall %d", n)
		}
	}
}
