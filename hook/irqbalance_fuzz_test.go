package hook

import (
	"slices"
	"strings"
	"testing"
)

// Whatever irqbalance answers is read, or refused in one line.
func FuzzIRQBalance(f *testing.F) {
	for _, answer := range []string{
		"SLEEP 10 IRQ 24 LOAD 5 DIFF 0 CLASS 5 BANNED 00000000,0000000f", "SLEEP 10 BANNED ", "BANNED x", "", "SLEEP 10",
		"IRQ -1 BANNED 0", "IRQ IRQ BANNED 0", "IRQ 99999999999 BANNED 0", "BANNED 1 BANNED 2", strings.Repeat("x", 1000),
	} {
		f.Add(answer)
	}
	f.Fuzz(func(t *testing.T, answer string) {
		cpus, err := parseBanned(answer)
		if err == nil && !strings.Contains(answer, "BANNED ") {
			t.Errorf("%q bans %s", answer, cpus)
		}
		irqs, err2 := parseBannedIRQs(answer)
		if slices.ContainsFunc(irqs, func(n int) bool { return n < 0 }) {
			t.Errorf("%q bans the interrupts %v", answer, irqs)
		}
		for _, err := range []error{err, err2} {
			if err != nil && (strings.ContainsAny(err.Error(), "\n\x00") || len(err.Error()) > 1000) {
				t.Errorf("%.100q: error %q", answer, err)
			}
		}
	})
}
