package suggest_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
	"qemu-hook/hook/suggest"
	"qemu-hook/hook/topology"
	"qemu-hook/journal"
	"qemu-hook/sysfs/sysfstest"
	"qemu-hook/test/mode"
)

var update = flag.Bool("update", false, "write the golden files anew")

func newHost(t *testing.T, model *sysfstest.Host) *hook.Host {
	config := hook.DefaultConfig()
	config.CPUs.Isolate = hook.IsolatePinned
	config.CPUs.Overlap, config.CPUs.SplitCore = hook.OverlapRefuse, hook.SplitCoreRefuse
	return &hook.Host{
		FS: model.FS(), Systemd: model.Systemd(), State: journal.Open(filepath.Join(t.TempDir(), "state"), "boot"),
		Config: config, Ledger: &hook.Ledger{Guests: map[string]*hook.Guest{}}, Now: time.Now,
	}
}

func hosts(t *testing.T) map[string]*sysfstest.Host {
	t.Helper()
	files, err := filepath.Glob("../../testdata/hosts/*.txtar")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d hosts, %v", len(files), err)
	}
	all := map[string]*sysfstest.Host{}
	for _, f := range files {
		model, err := sysfstest.Load(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { model.Close() })
		all[strings.TrimSuffix(filepath.Base(f), ".txtar")] = model
	}
	return all
}

const uuid = "8d5e0a5e-5d0c-4b0c-9f5f-0c8f6f1f2a3b"

// guestXML is a domain of a size, with what is pasted into it.
func guestXML(vcpus int, kib uint64, paste string) string {
	if paste == "" {
		paste = fmt.Sprintf("<vcpu>%d</vcpu>", vcpus)
	}
	return fmt.Sprintf("<domain type='kvm'><name>guest</name><uuid>%s</uuid><memory unit='KiB'>%d</memory>%s</domain>", uuid, kib, paste)
}

func parse(t *testing.T, text string) *domain.Needs {
	t.Helper()
	n, err := domain.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return n
}

type size struct {
	vcpus int
	kib   uint64
}

// A check looks at suggestions for guests on one host.
type check struct {
	t      *testing.T
	h      *hook.Host
	name   string
	supply *suggest.Supply
}

// TestAccepted puts suggestions for guests of all sizes into a domain on all hosts, alone and beside others: each is one that the
// plan accepts without a word, is of whole cores, in one cache where one has room, and never on CPU 0. What is refused does not
// fit, and what it is told would fit does.
func TestAccepted(t *testing.T) {
	const gib = 1 << 20 // in KiB
	vcpus := []int{1, 2, 3, 4, 6, 7, 8, 10, 12, 14, 15, 16, 24, 30, 32, 48, 62, 64}
	memory := []uint64{2 * gib, 512 << 10, 4*gib + 2048, 12 * gib, 40 * gib, 100 * gib, 4*gib + 1024, 4*gib + 4}
	var sizes []size
	for i, n := range vcpus {
		for k, kib := range memory {
			// Each number of vCPUs once, each amount of memory with a small and a large one; all of all in the long form.
			if k == 0 && !testing.Short() || i%7 == 3 || mode.Long() {
				sizes = append(sizes, size{n, kib})
			}
		}
	}
	accepted, refused := 0, 0
	for name, model := range hosts(t) {
		h := newHost(t, model)
		online, err := h.OnlineCPUs()
		if err != nil {
			t.Fatal(err)
		}
		// Another guest has a core in the middle, and some pages to come.
		core, err := h.CoreCPUs(slices.Collect(online.All())[online.Len()/2])
		if err != nil {
			t.Fatal(err)
		}
		for _, others := range []map[string]*hook.Guest{
			{},
			{"other": {Name: "other", Claim: hook.Claim{CPUs: core, Pages: []hook.PageClaim{{KiB: 2048, Node: 0, Count: 256}}}}},
		} {
			h.Ledger.Guests = others
			supply, err := suggest.Look(h, domain.Guest{Name: "guest", UUID: uuid})
			if err != nil {
				t.Fatal(err)
			}
			c := check{t, h, name, supply}
			for _, z := range sizes {
				n := parse(t, guestXML(z.vcpus, z.kib, ""))
				s, err := suggest.Fit(supply, suggest.AskOf(n))
				var no *suggest.NoFit
				switch {
				case errors.As(err, &no):
					refused++
					c.noFit(z, no)
				case err != nil:
					t.Fatal(err)
				default:
					accepted++
					c.suggestion(z.kib, s)
				}
			}
		}
	}
	t.Logf("%d suggestions accepted, %d guests that do not fit", accepted, refused)
	if accepted == 0 || refused == 0 {
		t.Error("one of the two was not tried")
	}
}

func (c check) suggestion(kib uint64, s *suggest.Suggestion) {
	t, h := c.t, c.h
	t.Helper()
	text := s.XML()
	n := parse(t, guestXML(0, kib, text))
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s, %d vCPUs, %d KiB: %s:\n%s", c.name, s.VCPUs, kib, fmt.Sprintf(format, args...), text)
	}
	if n.Size.VCPUs != s.VCPUs {
		fail("the XML has %d vCPUs", n.Size.VCPUs)
	}
	p, err := prepare.NewPlan(context.Background(), h, n)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range append(p.Refusals, p.Warnings...) {
		if s.Memfd && strings.Contains(r, "unless the domain uses <source type='memfd'/>") {
			continue // as it does
		}
		// One host has the cpuset controller in the old hierarchy only.
		if !strings.Contains(r, "the cpuset controller is missing in") {
			fail("the plan says: %s", r)
		}
	}
	if n.Pinned.Contains(0) || !s.Host.Intersect(n.Pinned).Empty() || s.Host.Empty() {
		fail("pinned to %s, the host has %s", n.Pinned, s.Host)
	}
	for cpu := range n.Pinned.All() {
		core, err := h.CoreCPUs(cpu)
		if err != nil {
			t.Fatal(err)
		}
		if !core.Minus(n.Pinned).Empty() {
			fail("CPU %d is pinned without the rest of its core %s", cpu, core)
		}
	}
	checkCaches(c.supply.Host, s, n, fail)
	if got := s.Topology.Dies * s.Topology.Cores * s.Topology.Threads; got != s.VCPUs {
		fail("the topology has %d vCPUs", got)
	}
	if n.SharedPins {
		fail("vCPUs share CPUs")
	}
	if kib%2048 == 0 && len(n.Memory) != 1 {
		fail("no huge pages")
	}
}

// checkCaches finds a cache, or a node, that would have been enough: then the guest is in one.
func checkCaches(view *topology.Host, s *suggest.Suggestion, n *domain.Needs, fail func(string, ...any)) {
	type key struct {
		cache *topology.Cache
		node  int
	}
	free := map[key]int{}
	var used, usedNodes cpuset.Set
	caches := map[*topology.Cache]bool{}
	var fast, small int
	for at, core := range view.Cores {
		cpus := core.CPUs()
		if cpus.Intersect(n.Pinned).Empty() && (cpus.Contains(0) || !core.Free().Equal(cpus)) {
			continue
		}
		if !cpus.Intersect(n.Pinned).Empty() {
			used = used.Union(cpus)
			caches[at.Cache] = true
			if at.Node >= 0 {
				usedNodes = usedNodes.Union(cpuset.Of(at.Node))
			}
			if core.Kind == topology.Small {
				small++
			}
		} else if core.Kind == topology.Fast {
			fast += cpus.Len()
		}
		if at.Cache.Level > 0 {
			free[key{at.Cache, at.Node}] += cpus.Len()
		}
		free[key{nil, at.Node}] += cpus.Len()
	}
	for k, count := range free {
		switch {
		case count < s.VCPUs:
		case k.cache != nil && usedNodes.Contains(k.node) && len(caches) > 1:
			fail("CPUs %s are in %d caches, and one on node %d has %d", used, len(caches), k.node, count)
		case k.cache == nil && usedNodes.Len() > 1:
			fail("CPUs %s are on nodes %s, and node %d has %d", used, usedNodes, k.node, count)
		}
	}
	if small > 0 && fast >= s.VCPUs {
		fail("%d small cores, and %d CPUs of fast ones are left", small, fast)
	}
}

// noFit tries what a guest that does not fit is told would.
func (c check) noFit(z size, no *suggest.NoFit) {
	c.t.Helper()
	bytes := z.kib << 10
	// libvirt rounds memory up to a MiB.
	bytes = (bytes + 1<<20 - 1) >> 20 << 20
	if len(no.Reasons) == 0 || no.VCPUs > z.vcpus || no.Bytes > bytes || no.VCPUs == z.vcpus && no.Bytes == bytes {
		c.t.Errorf("%s: %+v for %+v", c.name, no, z)
	}
	if no.VCPUs == 0 {
		return
	}
	a := suggest.Ask{Name: "guest", VCPUs: no.VCPUs, Bytes: no.Bytes}
	s, err := suggest.Fit(c.supply, a)
	if err != nil {
		c.t.Errorf("%s: %d vCPUs and %d KiB are said to fit instead of %+v: %v", c.name, no.VCPUs, no.Bytes>>10, z, err)
		return
	}
	c.suggestion(no.Bytes>>10, s)
	a.VCPUs++
	if _, err := suggest.Fit(c.supply, a); no.VCPUs < z.vcpus && err == nil {
		c.t.Errorf("%s: %d vCPUs are said to be the most, and one more fits", c.name, no.VCPUs)
	}
}

// TestXML compares suggestions for the domains of testdata with golden files; "go test ./hook/suggest -update" writes them anew.
func TestXML(t *testing.T) {
	all := hosts(t)
	for _, pair := range [][2]string{
		{"fern", "win11"},
		{"fern", "nopins"},
		{"desktop-four", "desktop-four"},
		{"server", "gib"},
		{"sparse", "sparse"},
		{"amd-two", "win11"},
		{"hybrid-laptop", "win11"},
		{"single-gpu", "single-gpu"},
	} {
		t.Run(pair[0]+"."+pair[1], func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("../../testdata/domains", pair[1]+".xml"))
			if err != nil {
				t.Fatal(err)
			}
			h := newHost(t, all[pair[0]])
			s, err := suggest.For(h, parse(t, string(data)))
			got := ""
			if err != nil {
				got = err.Error() + "\n"
			} else {
				got = s.XML()
			}
			file := filepath.Join("testdata", strings.Join(pair[:], ".")+".txt")
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
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
