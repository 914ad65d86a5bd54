package hook

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// Guests that are refused again and again, each with a new UUID, a long name and thousands of reasons, fill no memory: the
// latest are kept, with their first reasons.
func TestRememberBounded(t *testing.T) {
	h := recordHost(t, loadModel(t))
	now := time.Unix(0, 0)
	h.Now = func() time.Time { now = now.Add(time.Second); return now }
	lock, err := h.State.Lock(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	reasons := make([]string, 5000)
	for i := range reasons {
		reasons[i] = fmt.Sprintf("reason %d", i)
	}
	const guests = maxRefusals + 10
	for i := range guests {
		if err := h.Remember(fmt.Sprintf("uuid-%d", i), strings.Repeat("ü", 5000), reasons); err != nil {
			t.Fatal(err)
		}
	}
	past := map[string]PastRefusal{}
	if _, err := h.State.ReadDocument(RefusalsDocument, &past); err != nil {
		t.Fatal(err)
	}
	if len(past) != maxRefusals || past["uuid-9"].Name != "" || past[fmt.Sprintf("uuid-%d", guests-1)].Name == "" {
		t.Errorf("%d refusals are kept, the first of %v", len(past), past["uuid-9"].At)
	}
	for uuid, p := range past {
		last := p.Reasons[len(p.Reasons)-1]
		if len(p.Reasons) != maxReasons+1 || last != "4900 more reasons follow" || utf8.RuneCountInString(p.Name) != maxName+1 {
			t.Fatalf("%s: %d reasons, the last %q; a name of %d characters", uuid, len(p.Reasons), last, utf8.RuneCountInString(p.Name))
		}
	}
	if reasons[maxReasons] != "reason 100" {
		t.Error("the caller's list was changed")
	}
}
