package hook

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// reportHost is a host whose reports can be kept, with a clock that goes.
func reportHost(t *testing.T) *Host {
	t.Helper()
	h := recordHost(t, loadModel(t))
	now := time.Unix(0, 0)
	h.Now = func() time.Time { now = now.Add(time.Second); return now }
	lock, err := h.State.Lock(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Unlock() })
	return h
}

// However much is said in an event, by commands, by errors, by the guest's name: its report is bounded, and says that something
// was cut.
func TestReportBounded(t *testing.T) {
	const most = 128 << 10
	long := strings.Repeat("\x1b<ü", 1<<20)
	reasons := func(n int) (all []string) {
		for i := range n {
			all = append(all, fmt.Sprintf("reason %d: %.3000q", i, long))
		}
		return all
	}
	n := 0
	for _, test := range []struct {
		what string
		say  func(h *Host) error
		want string
	}{
		{"a long message", func(h *Host) error { h.Logf(Info, "begins %s", long); return nil }, `… (4193287 more bytes)"`},
		{"many messages", func(h *Host) error {
			for i := range 100_000 {
				h.Logf(Info, "%d", i)
			}
			return nil
		}, `"text":"more was said, which only the journal has"}]`},
		{"many long ones in every step", func(h *Host) error {
			for step := range 50 {
				end := h.Begin(fmt.Sprintf("step %d", step))
				for range 200 {
					h.Logf(Warning, "%s", long[:10_000])
				}
				end(nil)
			}
			return nil
		}, `"text":"more was said, which only the journal has"}]`},
		{"a long reason", func(*Host) error { return errors.New(long) }, `more bytes)"]`},
		{"many reasons", func(*Host) error { return &Refusal{Reasons: reasons(5000)} }, ` more reasons follow"]`},
		{"many reasons of a failure", func(*Host) error { return errors.New(strings.Join(reasons(5000), "\n")) }, ` more reasons follow"]`},
	} {
		t.Run(test.what, func(t *testing.T) {
			h := reportHost(t)
			h.Event = LogFields{Op: "prepare", Guest: long, UUID: "u"}
			h.BeginReport()
			first := h.Reports
			h.EndReport(test.say(h))
			all, err := first()
			if err != nil || len(all) != 1 {
				t.Fatalf("%d reports are kept, %v", len(all), err)
			}
			lines, err := h.State.RingLines(ReportsRing)
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range lines {
				if n++; len(line) > most {
					t.Errorf("a line of the log has %d bytes", len(line))
				}
			}
			if last := string(lines[len(lines)-1]); !strings.Contains(last, test.want) {
				t.Errorf("nothing says %s: …%s", test.want, last[max(0, len(last)-300):])
			}
		})
	}
	t.Logf("%d lines", n)
}

// What is said is one line, whoever said it.
func TestReportMessageIsOneLine(t *testing.T) {
	h := reportHost(t)
	h.BeginReport()
	h.Logf(Info, "%v", errors.Join(errors.New("one"), errors.New("two\n")))
	if got := h.reporter.Messages[0].Text; got != "one; two" {
		t.Errorf("the message is %q", got)
	}
}

// A step that goes to work again, as when several guests are given back, is one step of the report, and stands where it was last.
func TestReportStepsOnce(t *testing.T) {
	h := reportHost(t)
	h.Event = LogFields{Op: "recover"}
	h.BeginReport()
	for _, step := range []string{"pci", "cpus", "cpus", "pci", "cpus", "hugepages", "cpus"} {
		h.Begin(step)(nil)
	}
	steps := func(r *Report) (names []string) {
		for _, s := range r.Steps {
			names = append(names, s.Name)
		}
		return names
	}
	all, err := h.Reports()
	if err != nil || len(all) != 1 {
		t.Fatalf("%d reports, %v", len(all), err)
	}
	if got := steps(all[0]); !slices.Equal(got, []string{"pci", "hugepages", "cpus"}) {
		t.Errorf("while it is at work its steps are %q", got)
	}
	h.EndReport(nil)
	if all, err = h.Reports(); err != nil || len(all) != 1 {
		t.Fatalf("%d reports, %v", len(all), err)
	}
	if got := steps(all[0]); !slices.Equal(got, []string{"pci", "cpus", "hugepages"}) {
		b, _ := json.Marshal(all[0])
		t.Errorf("its steps are %q: %s", got, b)
	}
}
