package prepare_test

import (
	"context"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qemu-hook/domain"
	"qemu-hook/hook/prepare"
	"qemu-hook/sysfs/sysfstest"
)

// planAndAdvice is all that a plan says, and what check advises.
func planAndAdvice(r *rig, n *domain.Needs) string {
	h := r.host()
	p, err := prepare.NewPlan(context.Background(), h, n)
	if err != nil {
		return "error: " + err.Error()
	}
	return planText(p) + "\nadvice\n" + strings.Join(p.Advice(context.Background(), h), "\n")
}

func allHosts(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../../testdata/hosts/*.txtar")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d hosts, %v", len(files), err)
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), ".txtar")
	}
	return files
}

// TestRecordPlans writes every host down, loads what was written, and wants the same plan for every domain, but for the names of
// people.
func TestRecordPlans(t *testing.T) {
	domains, err := filepath.Glob("../../testdata/domains/*.xml")
	if err != nil || len(domains) < 14 {
		t.Fatalf("%d domains, %v", len(domains), err)
	}
	plans := 0
	for _, name := range allHosts(t) {
		r := newRig(t, name)
		options := sysfstest.RecordOptions{Comment: name, Manager: r.model.Systemd()}
		data, err := sysfstest.Record(context.Background(), r.model.FS(), options)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		model, err := sysfstest.Parse(name, data)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { model.Close() })
		second := &rig{t: t, model: model, state: filepath.Join(t.TempDir(), "state"), config: r.config}
		plain := withoutPeople(t, r)
		for _, d := range domains {
			n := loadNeeds(t, strings.TrimSuffix(filepath.Base(d), ".xml"))
			want, got := planAndAdvice(r, n), planAndAdvice(second, n)
			plans++
			if diff := cmp.Diff(plain(want), got); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", name, n.Guest.Name, diff)
				break
			}
		}
		// Who records a record has the same again.
		again, err := sysfstest.Record(context.Background(), model.FS(), sysfstest.RecordOptions{Comment: name, Manager: model.Systemd()})
		if err != nil {
			t.Errorf("%s, again: %v", name, err)
		} else if diff := cmp.Diff(string(data), string(again)); diff != "" {
			t.Errorf("%s: a record of the record (-first +second):\n%s", name, diff)
		}
	}
	t.Logf("%d plans compared", plans)
}

// withoutPeople returns what replaces the names of people as a record does.
func withoutPeople(t *testing.T, r *rig) func(string) string {
	t.Helper()
	passwd, err := r.model.FS().Read("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	return func(s string) string {
		for line := range strings.Lines(passwd) {
			if f := strings.Split(line, ":"); len(f) > 2 && len(f[2]) == 4 {
				s = regexp.MustCompile(`\b`+f[0]+`\b`).ReplaceAllString(s, "user"+f[2])
			}
		}
		return s
	}
}

// TestRecordActs prepares and releases a guest on what was written down of a host: it reacts as the host does.
func TestRecordActs(t *testing.T) {
	acted := 0
	for _, p := range [][2]string{{"fern", "win11"}, {"fern-vfio", "win11"}, {"desktop-four", "desktop-four"}, {"server", "pages-only"}, {"sparse", "sparse"}, {"zfs", "pages-only"}} {
		r := newRig(t, p[0])
		data, err := sysfstest.Record(context.Background(), r.model.FS(), sysfstest.RecordOptions{Comment: p[0], Manager: r.model.Systemd()})
		if err != nil {
			t.Fatal(err)
		}
		if r.model, err = sysfstest.Parse(p[0], data); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.model.Close() })
		n := loadNeeds(t, p[1])
		before := r.snapshot()
		if err := r.prepare(n); err != nil {
			t.Errorf("%s on what was written down of %s: %v", p[1], p[0], err)
			continue
		}
		if sysfstest.Diff(before, r.snapshot()) == "" {
			t.Errorf("%s: preparing changed nothing", p[0])
		}
		if err := r.release(n); err != nil {
			t.Errorf("%s: %v", p[0], err)
		}
		if diff := sysfstest.Diff(before, r.snapshot()); diff != "" {
			t.Errorf("%s is not as before:\n%s", p[0], diff)
		}
		acted++
	}
	t.Logf("%d guests prepared and released", acted)
}
