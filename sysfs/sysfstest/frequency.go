package sysfstest

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"qemu-hook/cpuset"
)

// policy is what rules the frequency of some CPUs.
type policy struct {
	name      string
	cpus      cpuset.Set
	driver    string
	governor  string
	governors []string
	epp       string // energy performance preference, "" if the driver has none
	usual     string // what "default" stands for
	saved     string // what it is again when the governor is not "performance" any more
	epps      []string
}

const performance = "performance"

// frequencies reads the section of the host file.
func (p *parser) frequencies(lines []string) error {
	for _, l := range lines {
		words, v := pairs(strings.Fields(l))
		p.known(l, v, "driver", "governor", "governors", "epp", "epps")
		if len(words) != 2 || !strings.HasPrefix(words[0], "policy") {
			return fmt.Errorf("cannot read %q", l)
		}
		f := &policy{
			name: words[0], cpus: p.list(words[1]), driver: one(v, "driver", ""), governor: one(v, "governor", ""),
			governors: commas(v["governors"]), epp: one(v, "epp", ""), epps: commas(v["epps"]),
		}
		f.usual, f.saved = f.epp, f.epp
		if !slices.Contains(f.governors, f.governor) || f.epp != "" && !slices.Contains(f.epps, f.epp) || f.epp == "default" {
			return fmt.Errorf("%q has a governor or preference that it does not offer", l)
		}
		if f.governor == performance && f.epp != "" {
			f.epp = performance
		}
		p.h.policies = append(p.h.policies, f)
		p.h.addPolicy(len(p.h.policies) - 1)
	}
	return p.err
}

// addPolicy makes the files of a policy. When none of its CPUs runs, they are there but say nothing and take nothing:
// policy_is_inactive in drivers/cpufreq/cpufreq.c.
func (h *Host) addPolicy(i int) {
	f := h.policies[i]
	dir := cpuDir + "/cpufreq/" + f.name
	rule := func(name string, show func(h *Host, f *policy) string, store func(f *policy, word string) error) {
		active := func(h *Host) error {
			if h.policies[i].cpus.Intersect(h.cpus.online).Empty() {
				return syscall.EBUSY
			}
			return nil
		}
		a := &attr{show: func(h *Host) (string, error) {
			if err := active(h); err != nil {
				return "", err
			}
			return show(h, h.policies[i]) + "\n", nil
		}}
		if store != nil {
			a.store = func(h *Host, v string) error {
				if err := active(h); err != nil {
					return err
				}
				words := strings.Fields(v) // sscanf with %s
				if len(words) == 0 {
					return syscall.EINVAL
				}
				return store(h.policies[i], words[0])
			}
		}
		h.rule(dir+"/"+name, a)
	}
	rule("affected_cpus", func(h *Host, f *policy) string { return spaced(f.cpus.Intersect(h.cpus.online)) }, nil)
	rule("related_cpus", func(_ *Host, f *policy) string { return spaced(f.cpus) }, nil)
	rule("scaling_driver", func(_ *Host, f *policy) string { return f.driver }, nil)
	rule("scaling_governor", func(_ *Host, f *policy) string { return f.governor }, (*policy).setGovernor)
	rule("scaling_available_governors", func(_ *Host, f *policy) string { return strings.Join(f.governors, " ") }, nil)
	if f.epp != "" {
		rule("energy_performance_preference", func(_ *Host, f *policy) string { return f.epp }, (*policy).setPreference)
		rule("energy_performance_available_preferences", (*Host).preferences, nil)
	}
	for cpu := range f.cpus.All() {
		h.link(fmt.Sprintf("%s/cpu%d/cpufreq", cpuDir, cpu), dir)
	}
}

// spaced lists CPUs one by one: cpufreq_show_cpus.
func spaced(s cpuset.Set) string {
	var out []string
	for cpu := range s.All() {
		out = append(out, strconv.Itoa(cpu))
	}
	return strings.Join(out, " ")
}

// setGovernor is store_scaling_governor. Under "performance" the preference is the same; intel_pstate has the one from before
// again afterwards (intel_pstate_hwp_set), amd-pstate-epp leaves it (amd_pstate_epp_update_limit).
func (f *policy) setGovernor(word string) error {
	switch {
	case !slices.Contains(f.governors, word):
		return syscall.EINVAL
	case f.epp == "":
	case word == performance && f.governor != performance:
		f.saved, f.epp = f.epp, performance
	case word != performance && f.governor == performance && f.driver == "intel_pstate":
		f.epp = f.saved
	}
	f.governor = word
	return nil
}

// setPreference is store_energy_performance_preference, of either driver.
func (f *policy) setPreference(word string) error {
	switch {
	case !slices.Contains(f.epps, word):
		return syscall.EINVAL
	case word == "default":
		word = f.usual
	}
	if f.governor == performance && word != performance {
		return syscall.EBUSY
	}
	f.epp = word
	return nil
}

// preferences lists what can be written: the kernel has a space after each. AMD's driver under "performance" has no choice.
func (h *Host) preferences(f *policy) string {
	if f.driver == "amd-pstate-epp" && f.governor == performance {
		return performance
	}
	return strings.Join(f.epps, " ") + " "
}

// addLatency makes the file by which somebody says how fast a CPU must wake, pm_qos_resume_latency_us_store in
// drivers/base/power/sysfs.c: 0 for no constraint, "n/a" for at once.
func (h *Host) addLatency(cpu int) {
	name := fmt.Sprintf("%s/cpu%d/power/pm_qos_resume_latency_us", cpuDir, cpu)
	h.keep(name, "0", func(_ *Host, v string) (string, error) {
		v = strings.TrimSuffix(v, "\n")
		if v == "n/a" {
			return v, nil
		}
		n, err := strconv.ParseInt(v, 0, 32)
		if err != nil || n < 0 || n == math.MaxInt32 {
			return "", syscall.EINVAL
		}
		return strconv.FormatInt(n, 10), nil
	})
}
