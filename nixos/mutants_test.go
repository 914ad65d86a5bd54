package nixos_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"qemu-hook/test/mode"
)

// seededMistakes is how many there are in tests/mutants, and caught how many of them the tiers T0 to T1b have to see.
const seededMistakes, caught = 20, 18

// TestMutants seeds a mistake at a time in a copy of the module and runs these tests there. A few by default; all of them in CI and with
// QEMU_HOOK_LONG=1.
func TestMutants(t *testing.T) {
	if os.Getenv(programEnv) != "" {
		t.Skip("this is one already")
	}
	need(t, "nix-instantiate", "git")
	patches, err := filepath.Glob("tests/mutants/*.patch")
	if err != nil {
		t.Fatal(err)
	}
	if len(patches) != seededMistakes {
		t.Errorf("%d mistakes are seeded, want %d", len(patches), seededMistakes)
	}
	least := caught
	if !mode.Long() && !mode.Strict() {
		// Of each kind one: in Nix, in a value, in a script, in what is rendered.
		var few []string
		for i := 0; i < len(patches); i += 5 {
			few = append(few, patches[i])
		}
		patches, least = few, len(few)
	}
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	// A copy that fails as it is would fail with any mistake.
	if out, err := runMutant(t, "", binary); err != nil {
		t.Fatalf("the copy fails without a mistake: %v\n%s", err, out)
	}
	seen, beside := 0, 0
	for _, patch := range patches {
		out, err := runMutant(t, patch, binary)
		name := strings.TrimSuffix(filepath.Base(patch), ".patch")
		if err == nil {
			t.Logf("%s: NOT SEEN", name)
			continue
		}
		seen++
		found := findings(out)
		if slices.ContainsFunc(found, func(test string) bool { return test != "TestModule/hosts" }) {
			beside++
		}
		t.Logf("%s: %s", name, strings.Join(found, ", "))
	}
	t.Logf("%d of them not by the golden files alone", beside)
	t.Logf("%d of %d mistakes seen", seen, len(patches))
	if seen < least {
		t.Errorf("%d of %d mistakes seen, want %d", seen, len(patches), least)
	}
}

// runMutant runs the tests in a copy with the mistake, if one is named; an error means that they failed.
func runMutant(t *testing.T, patch, binary string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	root := t.TempDir()
	for _, name := range []string{"nixos", "dist", "testdata", "docs", "cmd/qemu-hook/testdata"} {
		if err := os.CopyFS(filepath.Join(root, name), os.DirFS(filepath.Join("..", name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"flake.nix", "default.nix", "go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join("..", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(root, name), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if patch != "" {
		applyPatch(ctx, t, root, patch)
	}
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^(TestModule|TestScripts.*|TestDefineVM|TestHookLink)$")
	cmd.Dir = filepath.Join(root, "nixos")
	cmd.Env = append(os.Environ(), programEnv+"="+binary)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func applyPatch(ctx context.Context, t *testing.T, root, patch string) {
	t.Helper()
	file, err := filepath.Abs(patch)
	if err != nil {
		t.Fatal(err)
	}
	apply := exec.CommandContext(ctx, "git", "apply", file)
	apply.Dir = root
	apply.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(root), "GIT_DIR="+filepath.Join(root, ".none"))
	if out, err := apply.CombinedOutput(); err != nil {
		t.Fatalf("%s does not apply any more: %s", patch, out)
	}
}

// findings are the tests that failed.
func findings(out string) []string {
	var failed []string
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "--- FAIL: "); ok {
			if name, _, _ = strings.Cut(name, " "); name != "TestModule" {
				failed = append(failed, name)
			}
		}
	}
	return failed
}
