package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"qemu-hook/sysfs/sysfstest/fusetest"
)

// minMutants is how many there are at least.
const minMutants = 15

// Each patch in mutants/ makes a mistake in the program that would break its promise: a record that is not written, steps of
// an undo in the wrong order, a value that is not read back. The tests that the patch names find it; without the patch they
// pass, in the same run as this.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("each mutant is built anew")
	}
	if _, err := exec.LookPath("patch"); err != nil {
		fusetest.Lacking(t, "patch is not there")
	}
	patches, err := filepath.Glob("mutants/*.patch")
	if err != nil || len(patches) < minMutants {
		t.Fatalf("%d mutants, want %d at least, error %v", len(patches), minMutants, err)
	}
	for _, p := range patches {
		t.Run(strings.TrimSuffix(filepath.Base(p), ".patch"), func(t *testing.T) { dies(t, p) })
	}
	t.Logf("%d mutants", len(patches))
}

// dies fails unless the tests that the patch names fail with it.
func dies(t *testing.T, patch string) {
	text, err := os.ReadFile(patch)
	if err != nil {
		t.Fatal(err)
	}
	var file, caught string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if v, ok := strings.CutPrefix(line, "--- a/"); ok {
			file = v
		}
		if v, ok := strings.CutPrefix(line, "# caught by: "); ok {
			caught = v
		}
	}
	pkg, tests, ok := strings.Cut(caught, " ")
	if !ok || file == "" {
		t.Fatalf("%s names no file, or no tests as in: # caught by: ./hook/prepare TestX", patch)
	}
	source, err := filepath.Abs(filepath.Join("..", filepath.FromSlash(file)))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mutant, overlay := filepath.Join(dir, filepath.Base(file)), filepath.Join(dir, "overlay.json")
	if out, err := exec.Command("patch", "--silent", "--fuzz=0", "--output="+mutant, source, patch).CombinedOutput(); err != nil {
		t.Fatalf("%s does not fit any more: %v: %s", patch, err, out)
	}
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{source: mutant}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(overlay, list, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "test", "-count=1", "-run", tests, pkg)
	cmd.Dir = ".."
	// For the programs that tests build, too.
	cmd.Env = append(cmd.Environ(), "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+overlay))
	out, err := cmd.CombinedOutput()
	status, err := exitStatus(err)
	switch {
	case err != nil:
		t.Fatal(err)
	case status == 0 && bytes.Contains(out, []byte("no tests to run")):
		t.Errorf("there is no test %s in %s", tests, pkg)
	case status == 0:
		t.Errorf("no test finds it")
	case !bytes.Contains(out, []byte("--- FAIL: ")) && !bytes.Contains(out, []byte("panic: ")):
		t.Errorf("it does not even build:\n%s", fmt.Sprintf("%.2000s", out))
	}
}
