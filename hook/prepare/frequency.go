package prepare

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"qemu-hook/cpuset"
	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/sysfs"
)

// frequencyStep sets how fast the guest's CPUs run and how soon they wake.
type frequencyStep struct{}

func (frequencyStep) Name() string { return "frequency" }

func (frequencyStep) Plan(_ context.Context, h *hook.Host, n *domain.Needs) (hook.Proposal, error) {
	var p hook.Proposal
	c := h.Config.CPUs
	if c.Governor == "" && c.EPP == "" && c.ResumeLatency == "" {
		return p, nil
	}
	cpus, err := guestCPUs(h, n)
	if err != nil || cpus.wanted.Empty() {
		return p, err
	}
	p.Claim.Settings = map[string]string{}
	if c.Governor != "" || c.EPP != "" {
		if err := planPolicies(h, n, cpus.wanted, &p); err != nil {
			return p, err
		}
	}
	if c.ResumeLatency != "" {
		for cpu := range cpus.wanted.All() {
			claimSetting(h, n, sysfs.ResumeLatency(cpu), c.ResumeLatency, &p)
		}
		p.Line("CPUs %s wake within %s", cpus.wanted, latencyText(c.ResumeLatency))
	}
	return p, nil
}

// planPolicies claims governor and energy preference of the cpufreq policies that the guest's CPUs belong to.
func planPolicies(h *hook.Host, n *domain.Needs, cpus cpuset.Set, p *hook.Proposal) error {
	policies, err := h.FrequencyPolicies()
	if err != nil {
		return err
	}
	var governed, preferred, others cpuset.Set
	for _, policy := range policies {
		if policy.CPUs.Intersect(cpus).Empty() {
			continue
		}
		others = others.Union(policy.CPUs.Minus(cpus))
		governor, epp := h.Config.CPUs.Governor, h.Config.CPUs.EPP
		if offered(policy, sysfs.Governor, governor, policy.Governors, p) {
			claimSetting(h, n, policy.File(sysfs.Governor), governor, p)
			governed = governed.Union(policy.CPUs)
		}
		if governor == "performance" && len(policy.EPPs) > 0 {
			// The kernel makes it so, and does not take back all that it has made (Documentation/admin-guide/pm/intel_pstate.rst).
			epp = "performance"
		}
		if offered(policy, sysfs.EPP, epp, policy.EPPs, p) {
			claimSetting(h, n, policy.File(sysfs.EPP), epp, p)
			preferred = preferred.Union(policy.CPUs)
		}
	}
	if !governed.Empty() {
		p.Line("CPUs %s: governor %s", governed, h.Config.CPUs.Governor)
	}
	if !preferred.Empty() && h.Config.CPUs.EPP != "" {
		p.Line("CPUs %s: energy preference %s", preferred, h.Config.CPUs.EPP)
	}
	if h.Config.CPUs.Governor == "performance" && h.Config.CPUs.EPP != "" && h.Config.CPUs.EPP != "performance" {
		p.Note("cpus.epp = %q has no effect under cpus.governor = \"performance\"", h.Config.CPUs.EPP)
	}
	if !others.Empty() {
		p.Note("CPUs %s of the host share their frequency with the guest's", others)
	}
	if governed.Empty() && preferred.Empty() && len(p.Warnings) == 0 {
		p.Warn("the frequency of the guest's CPUs %s cannot be set: the kernel has no cpufreq policy for them", cpus)
	}
	return nil
}

// offered reports whether the kernel lists the word for the policy; "" is none.
func offered(policy sysfs.FrequencyPolicy, attr, word string, words []string, p *hook.Proposal) bool {
	if word == "" {
		return false
	}
	if !slices.Contains(words, word) {
		warning := fmt.Sprintf("%s %q is none of those that the kernel has for the guest's CPUs: %s", attr, word, strings.Join(words, ", "))
		if len(words) == 0 {
			warning = fmt.Sprintf("the driver of the guest's CPUs (%s) has no %s to set", policy.Driver, attr)
		}
		if !slices.Contains(p.Warnings, warning) {
			p.Warn("%s", warning)
		}
		return false
	}
	return true
}

// claimSetting claims a value, and warns if another guest came first with a different one.
func claimSetting(h *hook.Host, n *domain.Needs, file, value string, p *hook.Proposal) {
	p.Claim.Settings[file] = value
	if first, guest := h.Ledger.SettingClaim(file, n.Guest.UUID); guest != "" && first != value {
		p.Warn("%s stays %q, as guest %s came first; this guest has it %q once that is gone", file, first, guest, value)
	}
}

func latencyText(latency string) string {
	if latency == "n/a" {
		return "no time at all: they do not sleep"
	}
	return latency + " µs"
}
