package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/hook/prepare"
)

// printJSON prints JSON that a terminal only shows, too: what cannot be shown is escaped.
func printJSON(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var s strings.Builder
	for _, r := range string(b) {
		if strconv.IsPrint(r) {
			s.WriteRune(r)
			continue
		}
		for _, u := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&s, `\u%04x`, u)
		}
	}
	out("%s", &s)
	return nil
}

// printNeeds says in words what a domain asks for.
func printNeeds(n *domain.Needs) {
	out("%s (%s)", n.Guest.Name, n.Guest.UUID)
	if n.Empty() {
		out("  asks for nothing that this hook prepares")
		return
	}
	for _, f := range n.PCI {
		out("  PCI function  %s", f.Address)
	}
	for _, row := range []struct {
		what string
		cpus fmt.Stringer
	}{{"vCPUs on     ", n.VCPUs}, {"emulator on  ", n.Emulator}, {"iothreads on ", n.IOThreads}} {
		if s := row.cpus.String(); s != "" {
			out("  %s CPUs %s", row.what, s)
		}
	}
	for _, m := range n.Memory {
		page := "huge pages of the host's default size"
		if m.PageKiB > 0 {
			page = fmt.Sprintf("%d KiB pages", m.PageKiB)
		}
		where := ""
		if !m.HostNodes.Empty() {
			where = fmt.Sprintf(", host node %s (%s)", m.HostNodes, m.Mode)
		}
		out("  memory        %s in %s%s", hook.FormatBytes(m.Bytes), page, where)
	}
	for _, f := range append(append([]domain.File{}, n.Shm...), n.KVMFR...) {
		out("  shared file   %s, %s", f.Path, hook.FormatBytes(f.Bytes))
	}
}

// printPlan prints what prepare would do; refusals last, as that is what the reader must act on.
func printPlan(p *prepare.Plan) {
	out("%s", p.Guest.Name)
	some := false
	for _, s := range p.Steps {
		for i, line := range s.Lines {
			label := s.Name
			if i > 0 {
				label = ""
			}
			out("  %-10s %s", label, line)
			some = true
		}
	}
	if !some && len(p.Refusals) == 0 {
		out("  nothing to do")
	}
	for _, w := range p.Warnings {
		out("  warning    %s", w)
	}
	for _, r := range p.Refusals {
		out("  refused    %s", r)
	}
}

// planJSON is the plan for programs.
func planJSON(p *prepare.Plan) any {
	type change struct {
		Kind   string      `json:"kind"`
		Change hook.Change `json:"change"`
	}
	type step struct {
		Name  string   `json:"name"`
		Lines []string `json:"lines"`
	}
	v := struct {
		Guest    map[string]string `json:"guest"`
		Steps    []step            `json:"steps"`
		Claim    hook.Claim        `json:"claim"`
		Changes  []change          `json:"changes"`
		Warnings []string          `json:"warnings"`
		Refusals []string          `json:"refusals"`
	}{
		Guest: map[string]string{"name": p.Guest.Name, "uuid": p.Guest.UUID},
		Steps: []step{}, Claim: p.Claim, Changes: []change{},
		Warnings: append([]string{}, p.Warnings...), Refusals: append([]string{}, p.Refusals...),
	}
	for _, s := range p.Steps {
		v.Steps = append(v.Steps, step{s.Name, append([]string{}, s.Lines...)})
	}
	for _, c := range p.Changes {
		v.Changes = append(v.Changes, change{c.Kind(), c})
	}
	return v
}

// indent sets every line of a text in.
func indent(s, by string) string {
	return by + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n"+by)
}
