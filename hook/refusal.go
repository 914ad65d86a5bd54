package hook

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"qemu-hook/text"
)

// A Refusal is why a guest was not prepared. Nothing on the host is changed, or all of it is changed back.
type Refusal struct {
	Guest   string
	Reasons []string
}

// Error is one line: the reason, or the first of several and how many.
func (r *Refusal) Error() string {
	switch len(r.Reasons) {
	case 0:
		return r.Guest + " cannot start"
	case 1:
		return r.Reasons[0]
	}
	return fmt.Sprintf("%s (and %d more)", r.Reasons[0], len(r.Reasons)-1)
}

// What is kept and told of refusals: whoever may define domains must not have them grow without bound.
const (
	maxReasons  = 100
	maxRefusals = 100
	maxName     = 255 // characters of a guest's name
)

// FirstReasons returns the reasons, of very many the first and how many follow.
func FirstReasons(reasons []string) []string {
	if len(reasons) <= maxReasons {
		return reasons
	}
	return append(slices.Clone(reasons[:maxReasons]), moreReasons(len(reasons)-maxReasons))
}

func moreReasons(n int) string { return fmt.Sprintf("%d more reasons follow", n) }

// RefusalsDocument is the name of the last refusal of each guest, in the state directory.
const RefusalsDocument = "refusals.json"

// A PastRefusal is the last refusal of a guest, kept for `status` until the guest is prepared.
type PastRefusal struct {
	Name    string    `json:"name"`
	At      time.Time `json:"at"`
	Reasons []string  `json:"reasons"`
}

// Remember keeps the guest's refusal, or forgets it when reasons is empty.
func (h *Host) Remember(uuid, name string, reasons []string) error {
	past := map[string]PastRefusal{}
	if _, err := h.State.ReadDocument(RefusalsDocument, &past); err != nil {
		return err
	}
	if _, there := past[uuid]; !there && len(reasons) == 0 {
		return nil
	}
	delete(past, uuid)
	if len(reasons) > 0 {
		reasons = FirstReasons(reasons)
		name = text.Short(name, maxName)
		if len(past) >= maxRefusals {
			delete(past, slices.MinFunc(slices.Collect(maps.Keys(past)), func(a, b string) int { return past[a].At.Compare(past[b].At) }))
		}
		past[uuid] = PastRefusal{Name: name, At: h.Now(), Reasons: reasons}
		h.log(Err, name+" was refused: "+strings.Join(reasons, "; "))
	}
	if len(past) == 0 {
		return h.State.WriteDocument(RefusalsDocument, nil)
	}
	return h.State.WriteDocument(RefusalsDocument, past)
}
