package nixos_test

import (
	"encoding/base64"
	"encoding/hex"
	"path/filepath"
	"regexp"
	"testing"
)

// TestVendorHash computes what package.nix has as vendorHash, as buildGoModule does: the hash of the archive of what "go mod
// vendor" puts together. The package's source has all Go files, so it is the same here as there.
func TestVendorHash(t *testing.T) {
	need(t, "nix-instantiate", "nix-hash", "go")
	f, err := newSite(repository(t)).evaluate()
	if err != nil {
		t.Fatal(err)
	}
	r := &report{dir: t.TempDir()}
	vendor := filepath.Join(r.dir, "vendor")
	env := []string{"GOWORK=off", "GOFLAGS="}
	if out, err := r.tool(env, "go", "-C", repository(t), "mod", "vendor", "-o", vendor); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := r.tool(nil, "nix-hash", "--type", "sha256", vendor)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sum, err := hex.DecodeString(regexp.MustCompile(`(?m)^[0-9a-f]{64}$`).FindString(out))
	if err != nil || len(sum) != 32 {
		t.Fatalf("nix-hash says %q", out)
	}
	want := "sha256-" + base64.StdEncoding.EncodeToString(sum)
	if got := text(at(f.Package, "vendorHash")); got != want {
		t.Errorf("nixos/package.nix has vendorHash = %q, and the modules' is %q", got, want)
	}
	modules, err := filepath.Glob(filepath.Join(vendor, "*", "*"))
	if err != nil || len(modules) == 0 {
		t.Errorf("nothing was put together: %v", err)
	}
	t.Logf("%d folders of modules", len(modules))
}
