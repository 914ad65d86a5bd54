package domain

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const domainDir = "../testdata/domains"

// Every domain of testdata has its needs beside it; "go test ./domain -update" writes them anew.
func TestGolden(t *testing.T) {
	update := flag.Lookup("update").Value.(flag.Getter).Get().(bool)
	files, err := filepath.Glob(filepath.Join(domainDir, "*.xml"))
	if err != nil || len(files) < 14 {
		t.Fatalf("%d domains, %v", len(files), err)
	}
	uuids := map[string]string{}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".xml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			n, err := Parse(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			if other, ok := uuids[n.Guest.UUID]; ok || n.Guest.UUID == "" {
				t.Errorf("UUID %q, which is also that of %q", n.Guest.UUID, other)
			}
			uuids[n.Guest.UUID] = file

			var out bytes.Buffer
			enc := json.NewEncoder(&out)
			enc.SetEscapeHTML(false)
			enc.SetIndent("", "  ")
			if err := enc.Encode(n); err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(file, ".xml") + ".needs.json"
			if update {
				if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), out.String()); diff != "" {
				t.Errorf("needs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMain(m *testing.M) {
	flag.Bool("update", false, "write the golden files of testdata/domains anew")
	flag.Parse()
	os.Exit(m.Run())
}
