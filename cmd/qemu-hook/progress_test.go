package main

import (
	"strings"
	"testing"
	"time"
)

// What is shown goes away before anything else is said, and a short step is not worth a word.
func TestProgress(t *testing.T) {
	now := time.Unix(1000, 0)
	var screen strings.Builder
	p := &progress{write: func(s string) { screen.WriteString(s) }, now: func() time.Time { return now }}
	want := func(what string) {
		t.Helper()
		if got := screen.String(); got != what {
			t.Errorf("the screen gets %q, want %q", got, what)
		}
		screen.Reset()
	}
	p.tick()
	want("")
	p.watch("hugepages", "")
	now = now.Add(900 * time.Millisecond)
	p.tick()
	want("")
	p.watch("hugepages", "10 of 16000\x1bpages")
	now = now.Add(time.Second)
	p.tick()
	want("hugepages, 1 s: 10 of 16000?pages")
	p.watch("hugepages", "10 of 16000 pages")
	now = now.Add(10 * time.Second)
	p.tick()
	want("\r\x1b[Khugepages, 11 s: 10 of 16000 pages")
	p.hide()
	want("\r\x1b[K")
	p.hide()
	want("")
	p.tick()
	screen.Reset()
	p.watch("pci", strings.Repeat("ä", 100))
	want("\r\x1b[K")
	now = now.Add(2 * time.Second)
	p.tick()
	if line := screen.String(); len([]rune(line)) != 79 || !strings.HasSuffix(line, "ä…") {
		t.Errorf("a long line has %d characters: %q", len([]rune(line)), line)
	}
	screen.Reset()
	p.watch("", "")
	want("\r\x1b[K")
	now = now.Add(time.Minute)
	p.tick()
	want("")
}
