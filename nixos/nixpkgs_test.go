package nixos_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestNixpkgs is tier T2: the same hosts on the real lib and the real modules, of the nixpkgs that NIXPKGS names. It takes
// a Nix that this nixpkgs likes, and minutes.
func TestNixpkgs(t *testing.T) {
	need(t, "nix-instantiate")
	nixpkgs := os.Getenv("NIXPKGS")
	if nixpkgs == "" {
		t.Skip("NIXPKGS names no nixpkgs")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	args := []string{"--eval", "--strict", "--json", "--option", "allow-import-from-derivation", "false"}
	// Where there is no store, as with stand-ins for nixpkgs' packages: dummy://
	if store := os.Getenv("NIXPKGS_STORE"); store != "" {
		args = append(args, "--store", store)
	}
	cmd := exec.CommandContext(ctx, "nix-instantiate", append(args, "-E", fmt.Sprintf("import ./tests/nixpkgs.nix { nixpkgs = %s; }", filepath.Clean(nixpkgs)))...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}
	var real struct {
		RealLib facts
		Parity  struct{ Real, Ours map[string]any }
		Hosts   map[string]host
		Options []struct {
			Name, Type string
			Real       *string
		}
		Packages []string
	}
	dec := json.NewDecoder(&stdout)
	dec.UseNumber()
	if err := dec.Decode(&real); err != nil {
		t.Fatal(err)
	}
	ours, err := newSite(repository(t)).evaluate()
	if err != nil {
		t.Fatal(err)
	}

	if diff := cmp.Diff(real.Parity.Ours, real.Parity.Real); diff != "" {
		t.Errorf("the real lib answers otherwise:\n%s", diff)
	}
	t.Logf("%d questions to both libs", len(real.Parity.Ours))

	if diff := cmp.Diff(ours.Hosts, real.RealLib.Hosts); diff != "" {
		t.Errorf("with the real lib the hosts are:\n%s", diff)
	}
	if diff := cmp.Diff(ours.Cases, real.RealLib.Cases); diff != "" {
		t.Errorf("with the real lib the cases are:\n%s", diff)
	}

	// Real modules add their own, so ours has to be among it. Store paths are not compared.
	n := 0
	for name, h := range real.Hosts {
		if a := texts(h["assertions"]); len(a) > 0 {
			t.Errorf("%s: %q", name, a)
		}
		there := flatten(h)
		for fact := range flatten(ours.Hosts[name]) {
			section, _, _ := strings.Cut(fact, ".")
			if h[section] == nil || strings.Contains(fact, "<") || strings.HasPrefix(fact, "udev.packages") || strings.Contains(fact, ".startLimitIntervalSec ") {
				continue
			}
			n++
			if !there[fact] {
				t.Errorf("%s on real modules lacks: %s", name, fact)
			}
		}
	}
	t.Logf("%d facts of %d hosts are so on real modules", n, len(real.Hosts))

	for _, o := range real.Options {
		switch {
		case o.Real == nil:
			t.Errorf("upstream has no option %s", o.Name)
		case plainType(o.Type) != plainType(*o.Real):
			t.Logf("%s is %q here, %q upstream", o.Name, o.Type, *o.Real)
		}
	}
	t.Logf("%d options of upstream are there", len(real.Options))
	if len(real.Packages) > 0 {
		t.Errorf("nixpkgs has no %q", real.Packages)
	}
}

// plainType is a type's description without what only differs in style.
func plainType(s string) string {
	return strings.NewReplacer("(", "", ")", "", "lazy ", "", "non-empty ", "").Replace(s)
}
