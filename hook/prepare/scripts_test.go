package prepare_test

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"

	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
)

// What people's start scripts set for CPUs and memory can be had by the README's example, and comes back to what it was.
func TestScriptsByConfig(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	config := ""
	for _, fence := range regexp.MustCompile("(?ms)^```toml\n(.*?)^```").FindAllStringSubmatch(string(readme), -1) {
		if strings.Contains(fence[1], "[tunables]") {
			config = fence[1]
		}
	}
	if config == "" {
		t.Fatal("the README has no example with [tunables]")
	}
	r := newRig(t, "fern")
	if r.config, err = hook.ParseConfig("README.md", []byte(config)); err != nil {
		t.Fatal(err)
	}
	n := loadNeeds(t, "win11")
	before := r.snapshot()
	plan, err := prepare.NewPlan(context.Background(), r.host(), n)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "../../testdata/domains/win11.fern-scripts.plan", planText(plan))
	if err := r.prepare(n); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"/proc/sys/vm/stat_interval":                               "120",
		"/proc/sys/kernel/watchdog":                                "0",
		"/proc/sys/vm/swappiness":                                  "1",
		"/proc/sys/vm/dirty_ratio":                                 "5",
		"/proc/sys/vm/overcommit_memory":                           "2",
		"/sys/kernel/mm/transparent_hugepage/enabled":              "never",
		"/sys/kernel/mm/ksm/run":                                   "0",
		"/sys/devices/system/cpu/cpufreq/policy4/scaling_governor": "performance",
		"/sys/devices/system/cpu/cpufreq/policy3/scaling_governor": "powersave",
		"/sys/devices/virtual/workqueue/writeback/cpumask":         "f000f",
	} {
		if got, err := r.host().ReadSetting(file); err != nil || got != want {
			t.Errorf("%s is %q, error %v, want %q", file, got, err, want)
		}
	}
	if err := r.release(n); err != nil {
		t.Fatal(err)
	}
	r.wantAsBefore(before, "after release")
}
