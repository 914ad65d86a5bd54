package hook

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"qemu-hook/journal"
	"qemu-hook/text"
)

// ReportsRing is the name of the last reports, in the state directory.
const ReportsRing = "log"

// A Report says what became of an event: what `qemu-hook log` shows.
type Report struct {
	ID string    `json:"id"`
	At time.Time `json:"at"`
	// PID is the process that the event is handled by.
	PID    int    `json:"pid,omitempty"`
	Op     string `json:"op,omitempty"`
	Guest  string `json:"guest,omitempty"`
	UUID   string `json:"uuid,omitempty"`
	ByHand bool   `json:"by_hand,omitempty"`
	// Result is "" while the event is handled.
	Result  Result   `json:"result,omitempty"`
	Seconds float64  `json:"seconds,omitempty"`
	Reasons []string `json:"reasons,omitempty"`
	// Steps are in the order in which they first were begun.
	Steps []*StepReport `json:"steps,omitempty"`
	// Messages belong to no step.
	Messages []Message `json:"messages,omitempty"`
}

// A StepReport says what became of a step in one event.
type StepReport struct {
	Name string `json:"name"`
	// Result is "" for a step that was planned only, or is at work.
	Result   Result    `json:"result,omitempty"`
	Seconds  float64   `json:"seconds"`
	Messages []Message `json:"messages,omitempty"`

	took time.Duration
}

// A Message is one of the log's.
type Message struct {
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`
}

// Result is how an event or a step ended.
type Result string

// The results.
const (
	Done    Result = "done"
	Failed  Result = "failed"
	Refused Result = "refused" // the guest was
)

// What a report holds at most: it is one line among others, and what it says comes from anywhere.
const (
	maxMessage = 1 << 10  // bytes of a message, or of a reason
	maxKept    = 32 << 10 // bytes of all messages as JSON, and as many of all reasons
)

// A reporter makes the report of the event that is under way.
type reporter struct {
	Report
	ring *journal.Ring // nil where there is none
	room int           // bytes that messages may still have; below 0 when one was left out
	step *StepReport   // the one at work
	told string        // the last one whose beginning was written
}

// BeginReport begins the report of the event under way; the lock is to be held. A beginning is written, too, and each step's,
// for those who watch, and for those who find a hook that was killed.
func (h *Host) BeginReport() {
	now := h.Now()
	h.reporter = reporter{room: maxKept, Report: Report{
		ID: fmt.Sprintf("%d-%d", os.Getpid(), now.UnixNano()), At: now, PID: os.Getpid(),
		Op: h.Event.Op, Guest: text.Short(h.Event.Guest, maxName), UUID: h.Event.UUID, ByHand: h.Event.ByHand,
	}}
	// Without its ring an event is none the worse.
	h.reporter.ring, _ = h.State.OpenRing(ReportsRing)
	h.append(&h.reporter.Report)
	for _, s := range h.restored {
		h.note(Warning, s)
	}
}

// EndReport ends the report and returns it.
func (h *Host) EndReport(err error) *Report {
	r := &h.reporter.Report
	r.Seconds = seconds(h.Now().Sub(r.At))
	var refusal *Refusal
	switch {
	case err == nil:
		r.Result = Done
	case errors.As(err, &refusal):
		r.Result, r.Reasons = Refused, keptReasons(refusal.Reasons)
	default:
		r.Result, r.Reasons = Failed, keptReasons(strings.Split(err.Error(), "\n"))
	}
	h.append(r)
	if h.reporter.ring != nil {
		h.reporter.ring.Close()
		h.reporter.ring = nil
	}
	return r
}

func (h *Host) append(r *Report) {
	if h.reporter.ring == nil {
		return
	}
	if line, err := json.Marshal(r); err == nil {
		_ = h.reporter.ring.Append(line)
	}
}

// Title says in one line what became of the event.
func (r *Report) Title() string {
	s := r.Op
	if r.Guest != "" {
		s = text.Line(r.Guest) + ": " + r.Op
	}
	if r.ByHand {
		s += " by hand"
	}
	if r.Result == "" {
		return s + " has begun"
	}
	return fmt.Sprintf("%s: %s, %.1f s", s, r.Result, r.Seconds)
}

// Steps returns what became of the steps so far.
func (h *Host) Steps() []*StepReport { return h.reporter.Steps }

// stepReport returns the step's report, which it makes if need be.
func (h *Host) stepReport(name string) *StepReport {
	r := &h.reporter
	i := slices.IndexFunc(r.Steps, func(s *StepReport) bool { return s.Name == name })
	if i < 0 {
		i = len(r.Steps)
		r.Steps = append(r.Steps, &StepReport{Name: name})
	}
	return r.Steps[i]
}

// Time starts the step's clock, which the function that it returns stops: for looking, which has no result.
func (h *Host) Time(step string) (stop func()) {
	s, start := h.stepReport(step), h.Now()
	return func() {
		s.took += h.Now().Sub(start)
		s.Seconds = seconds(s.took)
	}
}

// Begin says that a step goes to work; the function that it returns ends that, and says how.
func (h *Host) Begin(step string) (end func(error)) {
	stop, outer := h.Time(step), h.reporter.step
	s := h.stepReport(step)
	h.reporter.step = s
	if h.reporter.told != step {
		h.reporter.told = step
		h.append(&Report{ID: h.reporter.ID, At: h.Now(), Steps: []*StepReport{{Name: step}}})
	}
	h.Doing("")
	return func(err error) {
		stop()
		h.reporter.step = outer
		if s.Result = cmp.Or(s.Result, Done); err != nil {
			s.Result = Failed
		}
		if h.Watch != nil {
			h.Watch("", "")
		}
	}
}

// Doing tells whoever watches what the step at work is about.
func (h *Host) Doing(format string, args ...any) {
	if h.Watch != nil && h.reporter.step != nil {
		h.Watch(h.reporter.step.Name, fmt.Sprintf(format, args...))
	}
}

// note keeps a message with the step at work, or with the event, as long as there is room.
func (h *Host) note(s Severity, msg string) {
	r := &h.reporter
	if r.room < 0 {
		return
	}
	m := Message{s, kept(msg)}
	if r.room -= jsonSize(m); r.room < 0 {
		m = Message{Info, "more was said, which only the journal has"}
	}
	all := &r.Messages
	if r.step != nil {
		all = &r.step.Messages
	}
	*all = append(*all, m)
}

// kept is a text as a report has it: on one line, and not too long.
func kept(s string) string {
	s, more := strings.TrimRight(s, "\n"), ""
	if n := len(s) - maxMessage; n > 0 {
		s, more = strings.ToValidUTF8(s[:maxMessage], ""), fmt.Sprintf("… (%d more bytes)", n)
	}
	return text.Line(strings.ReplaceAll(s, "\n", "; ")) + more
}

func keptReasons(reasons []string) (all []string) {
	room := maxKept
	for i, s := range reasons {
		s = kept(s)
		if room -= jsonSize(s); room < 0 || i == maxReasons {
			return append(all, moreReasons(len(reasons)-i))
		}
		all = append(all, s)
	}
	return all
}

func jsonSize(v any) int {
	b, _ := json.Marshal(v)
	return len(b)
}

// seconds are rounded to microseconds, for people.
func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*1e6) / 1e6 }

// Reports returns the reports that are kept, the oldest first. Of an event that is handled at the moment, or whose hook was killed,
// there is the beginning, with the steps that were begun.
func (h *Host) Reports() ([]*Report, error) {
	lines, err := h.State.RingLines(ReportsRing)
	var all []*Report
	for _, line := range lines {
		if r, ok := ParseReport(line); ok {
			all = fold(all, r)
		}
	}
	return all, err
}

// ParseReport reads a line of the ring.
func ParseReport(line []byte) (*Report, bool) {
	r := &Report{}
	return r, json.Unmarshal(line, r) == nil && r.ID != ""
}

// fold adds a line of the ring to the reports before it.
func fold(all []*Report, r *Report) []*Report {
	i := slices.IndexFunc(all, func(o *Report) bool { return o.ID == r.ID })
	switch {
	case i < 0 && r.Op == "":
		// Its beginning was dropped.
	case i < 0:
		all = append(all, r)
	case r.Result != "":
		all[i] = r
	default:
		// A step may go to work again; the last one is where it is.
		begun := slices.DeleteFunc(all[i].Steps, func(s *StepReport) bool {
			return slices.ContainsFunc(r.Steps, func(o *StepReport) bool { return o.Name == s.Name })
		})
		all[i].Steps = append(begun, r.Steps...)
	}
	return all
}
