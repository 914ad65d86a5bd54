package domain

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDetails(t *testing.T) {
	const xml = `<domain><name>a</name>
<os><loader readonly='yes'>/nix/store/x-OVMF/OVMF_CODE.fd</loader><nvram template='/nix/store/x-OVMF/VARS.fd'>/var/lib/a.fd</nvram></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<filesystem type='mount'><driver type='path'/></filesystem>
<filesystem type='mount'><driver type='virtiofs' queue='1024'/><source dir='/srv'/></filesystem>
<video><model type='qxl' heads='x'><resolution x='many' y='1'/></model></video>
<video><model type='virtio'><resolution x='2560' y='1440'/><resolution x='800' y='600'/></model></video>
<video><model type='none'/></video>
</devices></domain>`
	n, err := Parse(strings.NewReader(xml))
	if err != nil {
		t.Fatal(err)
	}
	want := Details{
		Paths: []Path{
			{"<loader>", "/nix/store/x-OVMF/OVMF_CODE.fd"},
			{"<nvram template=…>", "/nix/store/x-OVMF/VARS.fd"},
			{"<emulator>", "/usr/bin/qemu-system-x86_64"},
		},
		VirtioFS: true, Width: 2560, Height: 1440,
	}
	if diff := cmp.Diff(want, n.Details); diff != "" {
		t.Errorf("details (-want +got):\n%s", diff)
	}
	if !n.Empty() {
		t.Error("details count as needs")
	}
}
