package hook

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qemu-hook/journal"
)

// TestMetricsText has names that need quoting, and claims on one pool twice.
func TestMetricsText(t *testing.T) {
	h := &Host{
		State: journal.Open(filepath.Join(t.TempDir(), "state"), "boot"),
		Now:   func() time.Time { return time.Unix(1700000000, 5e8) },
		Ledger: &Ledger{Guests: map[string]*Guest{
			"u2": {Name: "b", Claim: Claim{Pages: []PageClaim{{KiB: 2048, Count: 2}, {KiB: 1 << 20, Node: 1, Count: 1}, {KiB: 2048, Count: 3}}}},
			"u1": {Name: "a\"b\\c\nd\xff", Started: true, Seconds: map[string]float64{"pci": 0.25}},
		}},
	}
	got, err := h.Metrics(Outcome{Op: "prepare", Guest: "b", Took: 1500 * time.Millisecond, Err: errors.New("no")})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`qemu_hook_guests{state="running"} 1`,
		`qemu_hook_guests{state="prepared"} 1`,
		`qemu_hook_guest_hugepages{guest="b",uuid="u2",size="2097152",node="0"} 5`,
		`qemu_hook_guest_hugepages{guest="b",uuid="u2",size="1073741824",node="1"} 1`,
		`qemu_hook_prepare_seconds{guest="a\"b\\c\nd` + "\uFFFD" + `",uuid="u1",step="pci"} 0.25`,
		`qemu_hook_last_event_seconds{op="prepare",guest="b"} 1.5`,
		`qemu_hook_last_event_failed{op="prepare",guest="b"} 1`,
		`qemu_hook_last_event_timestamp_seconds{op="prepare",guest="b"} 1700000000`,
	} {
		if !strings.Contains(got, "\n"+want+"\n") {
			t.Errorf("%s is missing in\n%s", want, got)
		}
	}
	series := map[string]bool{}
	for line := range strings.Lines(got) {
		name, _, _ := strings.Cut(line, "} ")
		if series[name] && !strings.HasPrefix(line, "#") {
			t.Errorf("twice: %s", line)
		}
		series[name] = true
	}
}
