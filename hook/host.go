// Package hook is the vocabulary that preparing and giving back share: the host, the claims that guests have on what
// they share and the ledger they stand in, and the changes made to what one guest owns.
package hook

import (
	"context"
	"fmt"
	"time"

	"qemu-hook/domain"
	"qemu-hook/journal"
	"qemu-hook/sysfs"
	"qemu-hook/systemd"
)

// A Host is everything a step may look at and a change may touch.
type Host struct {
	sysfs.FS
	Systemd systemd.Manager
	Slow    SlowRunner
	State   *journal.Dir
	Config  *Config
	// Ledger is the state when the lock was taken; a Host without the lock has a copy to look at.
	Ledger *Ledger
	// Now is the clock.
	Now func() time.Time
	// Log takes what is worth keeping: warnings, and what was done.
	Log func(Severity, string)
	// Event is what is under way, for the log.
	Event LogFields
	// Confined says that this process may do less than root may: programs of others are systemd's to run.
	Confined bool
	// Watch is told of the step at work and what it is about; of none at its end.
	Watch func(step, about string)

	reporter reporter
	// amend replaces the record of the change that is being made.
	amend func(Change) error
	// unrestored says what could not be put back on record, by UUID.
	unrestored map[string]error
	// restored says what was put back on record before the event's report began.
	restored []string
	// undoing is the UUID of the guest whose changes are being undone.
	undoing string
	// stopping says whether the host shuts down; nil before it was asked.
	stopping *bool
}

// LogFields say what a message of the log belongs to.
type LogFields struct {
	Op, Guest, UUID string
	ByHand          bool
}

// Severity ranks a log message as syslog does.
type Severity int

// The severities in use, with syslog's numbers.
const (
	Err     Severity = 3
	Warning Severity = 4
	Info    Severity = 6
)

// Logf logs a formatted message.
func (h *Host) Logf(s Severity, format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	h.note(s, msg)
	h.log(s, msg)
}

// log logs what the report says in another way.
func (h *Host) log(s Severity, msg string) {
	if h.Log != nil {
		h.Log(s, msg)
	}
}

// A Step plans one kind of preparation for a guest. Plan looks and never writes.
type Step interface {
	// Name is the step's name in the configuration: "quiesce", "hugepages", "cpus", "interrupts", ….
	Name() string
	Plan(ctx context.Context, h *Host, n *domain.Needs) (Proposal, error)
}

// A Proposal is what a step would have done for a guest.
type Proposal struct {
	// Claim holds the step's part of the guest's claim; the others are empty.
	Claim Claim
	// Changes are made in this order.
	Changes []Change
	// Lines say in words what will be done, one line each; changes speak for themselves.
	Lines []string
	// Warnings do not keep the guest from starting.
	Warnings []string
	// Notes are warnings that never become refusals, whatever the configuration requires.
	Notes []string
	// Refusals do: each says what, why, and what to do.
	Refusals []string
	// Shortages are refusals that may be none any more once what the plan stops has given back its memory.
	Shortages []string
	// Compact are NUMA nodes whose memory is compacted.
	Compact []int
	// Brief are those of the claim's units that may run again as soon as the guest's functions have left their drivers.
	Brief []string
	// Unseen says that the users of the guest's functions could not be seen whole.
	Unseen bool
	// Frees says that somebody uses the guest's functions who is to go first.
	Frees bool
}

// Refuse adds a refusal.
func (p *Proposal) Refuse(format string, args ...any) {
	p.Refusals = append(p.Refusals, fmt.Sprintf(format, args...))
}

// Short adds a shortage.
func (p *Proposal) Short(format string, args ...any) {
	p.Shortages = append(p.Shortages, fmt.Sprintf(format, args...))
}

// Warn adds a warning.
func (p *Proposal) Warn(format string, args ...any) {
	p.Warnings = append(p.Warnings, fmt.Sprintf(format, args...))
}

// Note adds a note.
func (p *Proposal) Note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

// Line adds a line of the plan.
func (p *Proposal) Line(format string, args ...any) {
	p.Lines = append(p.Lines, fmt.Sprintf(format, args...))
}
