package hook_test

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"qemu-hook/cpuset"
	"qemu-hook/hook"
	"qemu-hook/journal"
)

type idle struct{}

func (idle) Run(context.Context, hook.SlowTask) error { return nil }
func (idle) Close()                                   {}

// Two guests come and go: irqbalance is told of both, and what it left alone before is all it leaves alone after them.
func TestSettleIRQBalance(t *testing.T) {
	root := t.TempDir()
	daemon := irqbalanceAt(t, root, cpuset.Of(0))
	now := time.Now()
	state := t.TempDir() + "/state"
	host := func() *hook.Host {
		h := &hook.Host{
			FS: hostAt(t, root), State: journal.Open(state, "boot"), Config: hook.DefaultConfig(),
			Now: func() time.Time { return now },
		}
		return h
	}
	settle := func(claims ...cpuset.Set) {
		t.Helper()
		h := host()
		if err := h.Locked(t.Context(), "test", func(*os.File) hook.SlowRunner { return idle{} }, func() error {
			h.Ledger.Guests = map[string]*hook.Guest{}
			for i, c := range claims {
				h.Ledger.Guests[string(rune('a'+i))] = &hook.Guest{Claim: hook.Claim{Banned: c}}
			}
			return h.SettleIRQBalance(t.Context())
		}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(cpus cpuset.Set) {
		t.Helper()
		daemon.look()
		if got, err := find(t, root).Banned(t.Context()); err != nil || !got.Equal(cpus) {
			t.Errorf("banned %q, %v; want %q", got, err, cpus)
		}
	}
	one, two := cpuset.Of(4, 5), cpuset.Of(6)
	settle(one)
	want(cpuset.Of(0, 4, 5))
	settle(one, two)
	want(cpuset.Of(0, 4, 5, 6))
	settle(two)
	want(cpuset.Of(0, 6))
	settle()
	// Its own answer is the old one until it looks: a guest that starts at once must not take that for what was before.
	settle(one)
	want(cpuset.Of(0, 4, 5))
	settle()
	want(cpuset.Of(0))
	now = now.Add(time.Hour)
	settle()
	h := host()
	if err := h.LoadLedger(); err != nil || h.Ledger.Banned != nil {
		t.Errorf("still on record: %+v, error %v", h.Ledger.Banned, err)
	}
	daemon.mu.Lock()
	defer daemon.mu.Unlock()
	if n := len(slices.DeleteFunc(slices.Clone(daemon.log), func(s string) bool { return s == "setup" })); n != 6 {
		t.Errorf("it was told %d times: %q", n, daemon.log)
	}
}
