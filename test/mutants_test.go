package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qemu-hook/test/mode"
)

// minMutants is how many there are at least.
const minMutants = 20

// Each patch in mutants/ makes a mistake in the program that would break its promise: a record that is not written, steps of
// an undo in the wrong order, a value that is not read back. The tests that the patch names find it, and pass without it.
// Every fifth by default; all of them in CI and with QEMU_HOOK_LONG=1.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("each mutant is built anew")
	}
	if _, err := exec.LookPath("patch"); err != nil {
		mode.Lacking(t, "patch is not there")
	}
	patches, err := filepath.Glob("mutants/*.patch")
	if err != nil || len(patches) < minMutants {
		t.Fatalf("%d mutants, want %d at least, error %v", len(patches), minMutants, err)
	}
	var mutants []mutant
	for i, p := range patches {
		if m := readMutant(t, p); mode.Long() || mode.Strict() || i%5 == 0 {
			mutants = append(mutants, m)
		}
	}
	// A test that fails anyway would find every mutant.
	t.Run("none", func(t *testing.T) { survives(t, mutants) })
	if t.Failed() {
		return
	}
	for _, m := range mutants {
		t.Run(strings.TrimSuffix(filepath.Base(m.patch), ".patch"), func(t *testing.T) { dies(t, m) })
	}
	t.Logf("%d mutants of %d", len(mutants), len(patches))
}

// A mutant is a patch of one file, and the tests of one package that find it, as go test -run takes them.
type mutant struct{ patch, file, pkg, tests string }

func readMutant(t *testing.T, patch string) mutant {
	t.Helper()
	text, err := os.ReadFile(patch)
	if err != nil {
		t.Fatal(err)
	}
	m := mutant{patch: patch}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if v, ok := strings.CutPrefix(line, "--- a/"); ok {
			m.file = v
		}
		if v, ok := strings.CutPrefix(line, "# caught by: "); ok {
			m.pkg, m.tests, _ = strings.Cut(v, " ")
		}
	}
	if m.file == "" || m.tests == "" {
		t.Fatalf("%s names no file, or no tests as in: # caught by: ./hook/prepare TestX", patch)
	}
	return m
}

// survives fails unless the tests that mutants name are there, and pass on the program as it is; each once.
func survives(t *testing.T, mutants []mutant) {
	named := map[string][]string{} // by package
	for _, m := range mutants {
		for test := range strings.SplitSeq(m.tests, "|") {
			if !slices.Contains(named[m.pkg], test) {
				named[m.pkg] = append(named[m.pkg], test)
			}
		}
	}
	for pkg, tests := range named {
		cmd := exec.Command("go", "test", "-count=1", "-v", "-run", strings.Join(tests, "|"), pkg)
		cmd.Dir = ".."
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s, %s: %v:\n%s", pkg, strings.Join(tests, "|"), err, fmt.Sprintf("%.2000s", failures(out)))
		}
		for _, test := range tests {
			if name := strings.TrimSuffix(test, "$"); !bytes.Contains(out, []byte("--- PASS: "+name)) {
				t.Errorf("%s: %s does not run and pass", pkg, test)
			}
		}
	}
}

// failures returns what tests say from the first that fails on.
func failures(out []byte) []byte {
	return out[max(0, bytes.Index(out, []byte("--- FAIL: "))):]
}

// dies fails unless the tests that the mutant names fail with it.
func dies(t *testing.T, m mutant) {
	source, err := filepath.Abs(filepath.Join("..", filepath.FromSlash(m.file)))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mutated, overlay := filepath.Join(dir, filepath.Base(m.file)), filepath.Join(dir, "overlay.json")
	if out, err := exec.Command("patch", "--silent", "--fuzz=0", "--output="+mutated, source, m.patch).CombinedOutput(); err != nil {
		t.Fatalf("%s does not fit any more: %v: %s", m.patch, err, out)
	}
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{source: mutated}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(overlay, list, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "test", "-count=1", "-run", m.tests, m.pkg)
	cmd.Dir = ".."
	// For the programs that tests build, too.
	cmd.Env = append(cmd.Environ(), "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+overlay))
	out, err := cmd.CombinedOutput()
	status, err := exitStatus(err)
	switch {
	case err != nil:
		t.Fatal(err)
	case status == 0 && bytes.Contains(out, []byte("no tests to run")):
		t.Errorf("there is no test %s in %s", m.tests, m.pkg)
	case status == 0:
		t.Errorf("no test finds it")
	case !bytes.Contains(out, []byte("--- FAIL: ")) && !bytes.Contains(out, []byte("panic: ")):
		t.Errorf("it does not even build:\n%s", fmt.Sprintf("%.2000s", out))
	}
}
