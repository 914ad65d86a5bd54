package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"qemu-hook/hook"
)

// statusReport is what `status` knows, for programs.
type statusReport struct {
	Guests   []guestStatus `json:"guests"`
	HostCPUs []unitStatus  `json:"units"`
	Pools    []poolStatus  `json:"pools"`
	// Stopped are units that run again after the guests.
	Stopped []string `json:"stopped"`
	// Console is what was taken of the host's console.
	Console []string `json:"console"`
	// Ports are PCI ports that are kept awake.
	Ports []string `json:"ports"`
	// Settings are files of the kernel's that guests have set, Moved what was moved off their CPUs.
	Settings []settingStatus `json:"settings"`
	Moved    movedStatus     `json:"moved"`
	Refusals []pastRefusal   `json:"refusals"`
	// Drifted is what somebody else changed since.
	Drifted []string `json:"drifted"`
	// Problems are records that could not be read.
	Problems []string `json:"problems"`
}

type guestStatus struct {
	Name   string    `json:"name"`
	UUID   string    `json:"uuid"`
	State  string    `json:"state"` // see hook.Standing
	ByHand bool      `json:"by_hand"`
	Since  time.Time `json:"since"`
	// Next is what to do about it; "" if nothing is to be done.
	Next    string      `json:"next,omitempty"`
	Claim   hook.Claim  `json:"claim"`
	Changes []changeRow `json:"changes"`
}

type changeRow struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

type unitStatus struct {
	Unit     string `json:"unit"`
	Baseline string `json:"baseline"`
	Settled  string `json:"settled"`
	Now      string `json:"now"`
}

type poolStatus struct {
	Pool string `json:"pool"`
	Owed uint64 `json:"owed"`
}

type settingStatus struct {
	File     string `json:"file"`
	Baseline string `json:"baseline"`
	Settled  string `json:"settled"`
}

// movedStatus is how many masks are not as they were.
type movedStatus struct {
	Interrupts int `json:"interrupts"`
	KernelWork int `json:"kernel_work"`
}

type pastRefusal struct {
	UUID string `json:"uuid"`
	hook.PastRefusal
}

func runStatus(o options, args []string) error {
	if len(args) > 0 {
		return usageError("status takes no name: it shows all guests")
	}
	h, err := newHost(o)
	if err != nil {
		return err
	}
	if err := h.LoadLedger(); err != nil {
		if errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("what guests hold is root's to see; try sudo qemu-hook status")
		}
		return err
	}
	s := gatherStatus(h)
	if why := overlooked(h, o); why != "" {
		s.Problems = append(s.Problems, why)
	}
	if o.json {
		return printJSON(s)
	}
	s.print()
	return nil
}

func gatherStatus(h *hook.Host) *statusReport {
	s := &statusReport{
		Guests: []guestStatus{}, HostCPUs: []unitStatus{}, Pools: []poolStatus{},
		Stopped: []string{}, Console: []string{}, Ports: []string{}, Settings: []settingStatus{},
		Refusals: []pastRefusal{}, Drifted: []string{}, Problems: []string{},
	}
	uuids, err := h.State.Guests()
	s.problem(err)
	for uuid := range h.Ledger.Guests {
		if !slices.Contains(uuids, uuid) {
			uuids = append(uuids, uuid)
		}
	}
	slices.Sort(uuids)
	for _, uuid := range uuids {
		s.addGuest(h, uuid)
	}
	for unit, b := range h.Ledger.Units {
		s.addUnit(h, unit, b)
	}
	slices.SortFunc(s.HostCPUs, func(a, b unitStatus) int { return strings.Compare(a.Unit, b.Unit) })
	for key, d := range h.Ledger.Pools {
		s.Pools = append(s.Pools, poolStatus{key, d.Owed})
	}
	slices.SortFunc(s.Pools, func(a, b poolStatus) int { return strings.Compare(a.Pool, b.Pool) })
	if by := h.SwitchedOff(); by != "" {
		s.Problems = append(s.Problems, "switched off by "+by+": no guest that needs anything starts")
	}
	for address := range h.Ledger.Wedged {
		if why := h.Stuck(address); why != "" {
			s.Problems = append(s.Problems, address+" is stuck in the kernel: "+why)
		} else {
			s.Problems = append(s.Problems, address+" was stuck in the kernel and is free again: qemu-hook recover")
		}
	}
	slices.Sort(s.Problems)
	s.Drifted = append(s.Drifted, h.Drifted()...)
	for _, file := range slices.Sorted(maps.Keys(h.Ledger.Settings)) {
		b := h.Ledger.Settings[file]
		s.Settings = append(s.Settings, settingStatus{file, b.Was, b.Now})
	}
	s.Moved = movedStatus{hook.CountMoved(h.Ledger.Interrupts), hook.CountMoved(h.Ledger.KernelWork)}
	s.Stopped = append(s.Stopped, h.Ledger.Stopped...)
	if c := h.Ledger.Console; c != nil {
		s.Console = append(s.Console, c.Consoles...)
		for _, f := range c.Framebuffers {
			s.Console = append(s.Console, f.Device)
		}
	}
	for port := range h.Ledger.Ports {
		s.Ports = append(s.Ports, port)
	}
	slices.Sort(s.Ports)
	past := map[string]hook.PastRefusal{}
	_, err = h.State.ReadDocument(hook.RefusalsDocument, &past)
	s.problem(err)
	for uuid, r := range past {
		s.Refusals = append(s.Refusals, pastRefusal{uuid, r})
	}
	slices.SortFunc(s.Refusals, func(a, b pastRefusal) int { return a.At.Compare(b.At) })
	return s
}

func (s *statusReport) problem(err error) {
	if err != nil {
		s.Problems = append(s.Problems, err.Error())
	}
}

func (s *statusReport) addGuest(h *hook.Host, uuid string) {
	g := h.Ledger.Guests[uuid]
	if g == nil {
		g = &hook.Guest{Name: uuid}
	}
	standing, err := h.Standing(uuid, g)
	s.problem(err)
	row := guestStatus{
		Name: g.Name, UUID: uuid, ByHand: g.ByHand, Since: g.Since, Claim: g.Claim,
		State: string(standing), Next: nextStep(standing, g), Changes: []changeRow{},
	}
	changes, err := h.Recorded(uuid)
	s.problem(err)
	lost, err := h.Lost(uuid)
	s.problem(err)
	if len(lost) > 0 {
		s.Problems = append(s.Problems, h.DescribeLost(uuid, lost))
	}
	for _, c := range changes {
		row.Changes = append(row.Changes, changeRow{c.Kind(), c.String()})
		if err := c.Verify(h); err != nil {
			s.Drifted = append(s.Drifted, err.Error())
		}
	}
	s.Guests = append(s.Guests, row)
}

// nextStep says what becomes of a guest, and what to do about it.
func nextStep(standing hook.Standing, g *hook.Guest) string {
	recovers := "qemu-hook recover " + hook.QuoteName(g.Name)
	switch {
	case standing == hook.Owed && g.Started:
		return fmt.Sprintf("it runs no longer, and libvirt (pid %d) is to release it; if it does not: %s", g.Owner.PID, recovers)
	case standing == hook.Left:
		return "it holds this although it runs no longer, and nobody will release it: " + recovers
	case standing == hook.InPart:
		return "this could not be given back when it was released; it is tried again by: " + recovers
	}
	return ""
}

func (s *statusReport) addUnit(h *hook.Host, unit string, b *hook.UnitBaseline) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	row := unitStatus{Unit: unit, Baseline: b.Allowed.String(), Settled: b.Expected().String()}
	now, err := h.UnitCPUs(ctx, unit, b.Systemd)
	if err != nil {
		s.problem(err)
	} else {
		row.Now = now.String()
		if !now.Equal(b.Expected()) {
			s.Drifted = append(s.Drifted, fmt.Sprintf("%s: its CPUs are %q instead of %s", unit, now, b.Expected()))
		}
	}
	s.HostCPUs = append(s.HostCPUs, row)
}

func (s *statusReport) print() {
	if len(s.Guests) == 0 {
		out("no guest holds anything")
	}
	for _, g := range s.Guests {
		out("%s (%s): %s, since %s", g.Name, g.UUID, g.State, g.Since.Local().Format(time.DateTime))
		if len(g.Claim.Pages) > 0 {
			out("  hugepages  %s", hook.DescribePages(g.Claim.Pages))
		}
		if !g.Claim.CPUs.Empty() {
			out("  cpus       %s", g.Claim.CPUs)
		}
		for _, c := range g.Changes {
			out("  %-10s %s", c.Kind, c.Text)
		}
		if g.Next != "" {
			out("  %s", g.Next)
		}
	}
	for _, u := range s.HostCPUs {
		out("%s: CPUs %s, before %s", u.Unit, orAll(u.Now), orAll(u.Baseline))
	}
	for _, f := range s.Settings {
		out("%s: %s, before %s", f.File, f.Settled, f.Baseline)
	}
	if s.Moved != (movedStatus{}) {
		out("moved off guests' CPUs: %d interrupts, %d masks and threads of the kernel's", s.Moved.Interrupts, s.Moved.KernelWork)
	}
	if len(s.Stopped) > 0 {
		out("stopped, to be started again: %s", strings.Join(s.Stopped, ", "))
	}
	if len(s.Console) > 0 {
		out("the host's console is taken: %s", strings.Join(s.Console, ", "))
	}
	if len(s.Ports) > 0 {
		out("ports kept awake: %s", strings.Join(s.Ports, ", "))
	}
	for _, p := range s.Pools {
		if p.Owed > 0 {
			out("%s: %d huge pages still to be given back, when they are free", p.Pool, p.Owed)
		}
	}
	for _, d := range s.Drifted {
		out("drifted: %s", d)
	}
	for _, p := range s.Problems {
		out("problem: %s", p)
	}
	for _, r := range s.Refusals {
		out("%s was refused at %s:", r.Name, r.At.Local().Format(time.DateTime))
		for _, reason := range r.Reasons {
			out("%s", indent(reason, "  "))
		}
	}
}

func orAll(cpus string) string {
	if cpus == "" {
		return "not limited"
	}
	return cpus
}
