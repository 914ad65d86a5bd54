package nixos_test

import (
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
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

// TestEmbedded has the package's source hold whatever Go files embed: without it the program does not build.
func TestEmbedded(t *testing.T) {
	root := repository(t)
	nix, err := os.ReadFile(filepath.Join(root, "nixos/package.nix"))
	if err != nil {
		t.Fatal(err)
	}
	embeds := regexp.MustCompile(`(?m)^//go:embed (.+)$`)
	found := 0
	err = filepath.WalkDir(root, func(file string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(file) != ".go" {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, m := range embeds.FindAllStringSubmatch(string(text), -1) {
			dir, err := filepath.Rel(root, filepath.Dir(file))
			if err != nil {
				return err
			}
			for _, pattern := range strings.Fields(m[1]) {
				found++
				name := filepath.Join(dir, pattern)
				held := slices.ContainsFunc(strings.Fields(string(nix)), func(word string) bool {
					word, ok := strings.CutPrefix(word, "../")
					return ok && (name == word || strings.HasPrefix(name, word+"/"))
				})
				if !held {
					t.Errorf("%s embeds %s, which is not in the source of nixos/package.nix", file, name)
				}
			}
		}
		return nil
	})
	if err != nil || found == 0 {
		t.Errorf("%d files are embedded, error %v", found, err)
	}
}
