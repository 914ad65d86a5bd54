package topology_test

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/hook/topology"
	"qemu-hook/journal"
	"qemu-hook/sysfs"
	"qemu-hook/sysfs/sysfstest"
)

var (
	update   = flag.Bool("update", false, "write the golden files anew")
	pictures = flag.String("pictures", "", "a `folder` to draw all hosts of testdata into")
)

func loadHost(t *testing.T, name string) *sysfstest.Host {
	t.Helper()
	model, err := sysfstest.Load(filepath.Join("../../testdata/hosts", name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { model.Close() })
	return model
}

func newHost(t *testing.T, model *sysfstest.Host) *hook.Host {
	return &hook.Host{
		FS: model.FS(), Systemd: model.Systemd(), State: journal.Open(filepath.Join(t.TempDir(), "state"), "boot"),
		Config: hook.DefaultConfig(), Ledger: &hook.Ledger{Guests: map[string]*hook.Guest{}}, Now: time.Now,
	}
}

// prepared prepares a guest, as libvirt would have it done.
func prepared(t *testing.T, h *hook.Host, name string) {
	t.Helper()
	f, err := os.Open(filepath.Join("../../testdata/domains", name+".xml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := domain.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	inline := func(*os.File) hook.SlowRunner { return hook.Inline{FS: h.FS} }
	if err := h.Locked(context.Background(), "test", inline, func() error {
		_, err := prepare.Run(context.Background(), h, n, hook.Caller{ByHand: true})
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, h *hook.Host) *topology.Host {
	t.Helper()
	got, err := topology.Read(h.FS, topology.Guests(h, "", ""))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func names(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../../testdata/hosts/*.txtar")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d hosts, %v", len(files), err)
	}
	var all []string
	for _, f := range files {
		all = append(all, strings.TrimSuffix(filepath.Base(f), ".txtar"))
	}
	return all
}

// guestsOf are the domains that have something of a host in the pictures.
func guestsOf(host string) []string {
	switch host {
	case "fern", "fern-vfio":
		return []string{"win11"}
	case "desktop-four", "sparse":
		return []string{host}
	case "server":
		return []string{"gib"}
	}
	return nil
}

// TestText compares what a terminal shows with golden files; "go test ./hook/topology -update" writes them anew.
func TestText(t *testing.T) {
	for _, name := range []string{"fern", "desktop-four", "server", "sparse", "single-gpu", "amd-two", "no-iommu", "hybrid-laptop"} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, loadHost(t, name))
			for _, g := range guestsOf(name) {
				prepared(t, h, g)
			}
			golden(t, name+".txt", read(t, h).Text())
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// TestEverythingIsDrawn looks for every CPU, node, function and guest of every host in both pictures.
func TestEverythingIsDrawn(t *testing.T) {
	looked := 0
	for _, name := range names(t) {
		h := newHost(t, loadHost(t, name))
		for _, g := range guestsOf(name) {
			prepared(t, h, g)
		}
		// A name that XML must escape.
		h.Ledger.Guests["x"] = &hook.Guest{Name: `<a&"b'>`, Claim: hook.Claim{CPUs: cpuset.Of(1)}}
		p := read(t, h)
		online, err := h.OnlineCPUs()
		if err != nil {
			t.Fatal(err)
		}
		if !p.Online().Equal(online) {
			t.Errorf("%s: CPUs %s are drawn, %s are on line", name, p.Online(), online)
		}
		svg := p.SVG()
		titles := svgTexts(t, name, svg)
		if *pictures != "" {
			if err := os.WriteFile(filepath.Join(*pictures, name+".svg"), []byte(svg), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text := p.Text()
		want := func(in, what string) {
			looked++
			if !strings.Contains(in, what) {
				t.Errorf("%s: %q is not in the picture", name, what)
			}
		}
		for cpu := range online.All() {
			want(titles, "CPU "+cpuset.Of(cpu).String()+",")
		}
		for cpu := range p.Offline.All() {
			want(titles, "CPU "+cpuset.Of(cpu).String()+", off line")
		}
		addresses, err := h.List(sysfs.PCIBus + "/devices")
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addresses {
			if bridge, _ := h.PCIBridge(a); !bridge {
				want(titles, a)
				want(text, a)
			}
		}
		for _, g := range p.Guests {
			want(titles, "guest "+g)
			want(text, "guest "+g)
		}
		for _, id := range h.Nodes() {
			want(text, "node "+cpuset.Of(id).String())
		}
		b, err := json.Marshal(p)
		if err != nil || strings.Contains(string(b), "null") && !strings.Contains(string(b), `"memory":null`) {
			t.Errorf("%s: JSON %v has a null: %s", name, err, b)
		}
	}
	t.Logf("%d things looked for", looked)
}

// svgTexts returns all text of a drawing, which must be well-formed, stand by itself and have its title and description.
func svgTexts(t *testing.T, name, svg string) string {
	t.Helper()
	var b strings.Builder
	dec := xml.NewDecoder(strings.NewReader(svg))
	first := ""
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			if first == "svg" {
				first = tok.Name.Local
				if first != "title" {
					t.Errorf("%s: the first element is <%s>, not <title>", name, first)
				}
			}
			if tok.Name.Local == "svg" {
				first = "svg"
			}
			for _, a := range tok.Attr {
				if a.Name.Local == "href" || a.Name.Local != "xmlns" && strings.Contains(a.Value, "//") {
					t.Errorf("%s: refers to %s", name, a.Value)
				}
				if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
					t.Errorf("%s: %s=%s", name, a.Name.Local, a.Value)
				}
			}
		case xml.CharData:
			b.Write(tok)
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// TestNothingKnown draws a host of which nothing can be read.
func TestNothingKnown(t *testing.T) {
	fs, err := sysfs.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p, err := topology.Read(fs, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Text(); !strings.HasPrefix(got, "CPUs: not known\n") {
		t.Errorf("text %q", got)
	}
	svgTexts(t, "nothing", p.SVG())
}

// TestRunningGuests finds guests that claim nothing by their control groups.
func TestRunningGuests(t *testing.T) {
	model := loadHost(t, "fern")
	for i, name := range []string{`machine-qemu\x2d1\x2dlinux\x2dbox.scope`, `machine-qemu\x2d12\x2dwin11.scope`} {
		dir := "/sys/fs/cgroup/machine.slice/" + name + "/libvirt/vcpu0/cpuset.cpus"
		model.SetFile(dir, []string{"2-3", "8"}[i]+"\n")
	}
	h := newHost(t, model)
	h.Ledger.Guests["u"] = &hook.Guest{Name: "win11", Claim: hook.Claim{CPUs: cpuset.Of(9)}}
	all := topology.Guests(h, "", "")
	got := map[string]string{}
	for _, g := range all {
		got[g.Name] = g.CPUs.String()
	}
	if diff := cmp.Diff(map[string]string{"win11": "8-9", "linux-box": "2-3"}, got); diff != "" {
		t.Error(diff)
	}
	if all := topology.Guests(h, "u", "win11"); len(all) != 1 || all[0].Name != "linux-box" {
		t.Errorf("without win11: %v", all)
	}
}

// TestRecordLooksTheSame draws every host and what was written down of it: the same picture.
func TestRecordLooksTheSame(t *testing.T) {
	for _, name := range names(t) {
		model := loadHost(t, name)
		data, err := sysfstest.Record(context.Background(), model.FS(), sysfstest.RecordOptions{Comment: name, Manager: model.Systemd()})
		if err != nil {
			t.Fatal(err)
		}
		again, err := sysfstest.Parse(name, data)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { again.Close() })
		want, got := read(t, newHost(t, model)), read(t, newHost(t, again))
		if diff := cmp.Diff(want.Text(), got.Text()); diff != "" {
			t.Errorf("%s (-host +record):\n%s", name, diff)
		}
	}
}
