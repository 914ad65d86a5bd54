package hook

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"qemu-hook/sysfs"
)

// NoteSeconds keeps with the guest how long the steps of its preparation took, if somebody wants to know: the figures
// are written anew at later events, too.
func (h *Host) NoteSeconds(uuid string) error {
	g := h.Ledger.Guests[uuid]
	if h.Config.MetricsFile == "" || g == nil {
		return nil
	}
	g.Seconds = map[string]float64{}
	for _, s := range h.Steps() {
		g.Seconds[s.Name] = s.Seconds
	}
	return h.SaveLedger()
}

// An Outcome is how the last event went.
type Outcome struct {
	Op, Guest string
	Took      time.Duration
	Err       error
}

// Metrics returns what guests have, in Prometheus' text format: https://prometheus.io/docs/instrumenting/exposition_formats/.
// The lock is to be held.
func (h *Host) Metrics(last Outcome) (string, error) {
	past := map[string]PastRefusal{}
	if _, err := h.State.ReadDocument(RefusalsDocument, &past); err != nil {
		return "", err
	}
	var m metrics
	uuids := slices.Sorted(maps.Keys(h.Ledger.Guests))
	running := 0
	for _, uuid := range uuids {
		if h.Ledger.Guests[uuid].Started {
			running++
		}
	}
	m.family("qemu_hook_guests", "Guests that have something of the host: those that run, and those that are only prepared.")
	m.value(float64(running), "state", "running")
	m.value(float64(len(uuids)-running), "state", "prepared")

	each := func(name, help string, f func(g *Guest, id []string)) {
		m.family(name, help)
		for _, uuid := range uuids {
			g := h.Ledger.Guests[uuid]
			f(g, []string{"guest", g.Name, "uuid", uuid})
		}
	}
	each("qemu_hook_guest_functions", "PCI functions that a guest has.", func(g *Guest, id []string) {
		m.value(float64(len(g.Claim.PCI)), id...)
	})
	each("qemu_hook_guest_cpus", "CPUs that the host keeps off for a guest.", func(g *Guest, id []string) {
		m.value(float64(g.Claim.CPUs.Len()), id...)
	})
	each("qemu_hook_guest_hugepages", "Huge pages that a guest has, by their size in bytes and their NUMA node.", func(g *Guest, id []string) {
		pools := map[sysfs.Pool]uint64{}
		for _, p := range g.Claim.Pages {
			pools[p.Pool()] += p.Count
		}
		order := func(a, b sysfs.Pool) int { return cmp.Or(cmp.Compare(a.KiB, b.KiB), cmp.Compare(a.Node, b.Node)) }
		for _, p := range slices.SortedFunc(maps.Keys(pools), order) {
			m.value(float64(pools[p]), append(id, "size", strconv.FormatUint(p.KiB<<10, 10), "node", strconv.Itoa(p.Node))...)
		}
	})
	each("qemu_hook_prepare_seconds", "How long each step of a guest's preparation took.", func(g *Guest, id []string) {
		for _, step := range slices.Sorted(maps.Keys(g.Seconds)) {
			m.value(g.Seconds[step], append(id, "step", step)...)
		}
	})
	m.family("qemu_hook_refusal_timestamp_seconds", "When a guest was refused that has not been prepared since.")
	for _, uuid := range slices.Sorted(maps.Keys(past)) {
		m.value(float64(past[uuid].At.Unix()), "guest", past[uuid].Name, "uuid", uuid)
	}
	failed := 0.0
	if last.Err != nil {
		failed = 1
	}
	about := []string{"op", last.Op, "guest", last.Guest}
	m.family("qemu_hook_last_event_timestamp_seconds", "When the last event ended.")
	m.value(float64(h.Now().Unix()), about...)
	m.family("qemu_hook_last_event_seconds", "How long the last event took.")
	m.value(last.Took.Seconds(), about...)
	m.family("qemu_hook_last_event_failed", "Whether the last event failed.")
	m.value(failed, about...)
	return m.String(), nil
}

// metrics is a text of families of gauges.
type metrics struct {
	strings.Builder
	name string
}

// family begins a family; help is a plain sentence.
func (m *metrics) family(name, help string) {
	m.name = name
	fmt.Fprintf(m, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name)
}

// value adds a value with its labels, names and values in turns.
func (m *metrics) value(v float64, labels ...string) {
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	m.WriteString(m.name)
	for i := 0; i < len(labels); i += 2 {
		m.WriteByte("{,"[min(i, 1)])
		fmt.Fprintf(m, `%s="%s"`, labels[i], escape.Replace(strings.ToValidUTF8(labels[i+1], "\uFFFD")))
	}
	m.WriteString("} " + strconv.FormatFloat(v, 'f', -1, 64) + "\n")
}
