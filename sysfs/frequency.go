package sysfs

import (
	"errors"
	"strconv"
	"strings"
	"syscall"

	"qemu-hook/cpuset"
)

// Files of a cpufreq policy (Documentation/admin-guide/pm/cpufreq.rst, Documentation/admin-guide/pm/intel_pstate.rst).
const (
	Governor = "scaling_governor"
	EPP      = "energy_performance_preference"
)

// A FrequencyPolicy is a group of CPUs whose frequency is set together, cpufreq/policyN.
type FrequencyPolicy struct {
	Name   string     // "policy4"
	CPUs   cpuset.Set // related_cpus: off line or not
	Driver string     // scaling_driver
	// Governors and EPPs are the words that the kernel has for this policy; no EPPs if it has no such file.
	Governors, EPPs []string
}

// File is one of the policy's files.
func (p FrequencyPolicy) File(attr string) string { return cpuDir + "/cpufreq/" + p.Name + "/" + attr }

// FrequencyPolicies returns the host's cpufreq policies; none where the kernel sets no frequency. Those whose CPUs are all off
// line answer EBUSY, and are left out.
func (h FS) FrequencyPolicies() ([]FrequencyPolicy, error) {
	names, err := h.ListIfAny(cpuDir + "/cpufreq")
	if err != nil {
		return nil, err
	}
	var all []FrequencyPolicy
	for _, name := range names {
		if !strings.HasPrefix(name, "policy") {
			continue
		}
		p := FrequencyPolicy{Name: name}
		p.CPUs, err = h.readList(p.File("related_cpus"))
		switch {
		case errors.Is(err, syscall.EBUSY):
			continue
		case err != nil:
			return nil, err
		}
		for _, a := range []struct {
			attr string
			to   *[]string
		}{{"scaling_available_governors", &p.Governors}, {"energy_performance_available_preferences", &p.EPPs}} {
			v, err := h.ReadIfAny(p.File(a.attr))
			if err != nil {
				return nil, err
			}
			*a.to = strings.Fields(v)
		}
		// Only for what is said of it.
		p.Driver, _ = h.Read(p.File("scaling_driver"))
		all = append(all, p)
	}
	return all, nil
}

// ResumeLatency is the file with the time in which a CPU must be able to wake, in µs; "n/a" for at once, "0" for any
// (Documentation/ABI/testing/sysfs-devices-power).
func ResumeLatency(cpu int) string {
	return cpuDir + "/cpu" + strconv.Itoa(cpu) + "/power/pm_qos_resume_latency_us"
}
