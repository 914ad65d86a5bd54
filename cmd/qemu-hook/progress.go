package main

import (
	"fmt"
	"sync"
	"time"

	"qemu-hook/hook"
	"qemu-hook/text"
)

// A progress shows on a terminal what a command is at, once that has taken a while, on a line that it takes away again.
type progress struct {
	write func(string)
	now   func() time.Time

	mu          sync.Mutex
	step, about string
	since       time.Time // when the step began
	shown       bool
}

// progressAfter is how long a step may take without a word.
const progressAfter = time.Second

// showProgress has a person at a terminal see what a command is at; the function that it returns ends that. In hook mode
// there is nobody to see it, and libvirt would keep it.
func showProgress(h *hook.Host) (stop func()) {
	if !stderrIsTerminal() {
		return func() {}
	}
	p := &progress{write: copyErr, now: time.Now}
	h.Watch = p.watch
	log := h.Log
	h.Log = func(s hook.Severity, msg string) {
		p.hide()
		if log != nil {
			log(s, msg)
		}
	}
	ticker, done := time.NewTicker(progressAfter/2), make(chan struct{})
	go func() {
		for {
			select {
			case <-ticker.C:
				p.tick()
			case <-done:
				return
			}
		}
	}()
	return func() {
		ticker.Stop()
		close(done)
		p.watch("", "")
	}
}

// watch is told of the step at work and what it is about.
func (p *progress) watch(step, about string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if step != p.step {
		p.step, p.since = step, p.now()
		p.erase()
	}
	p.about = about
}

func (p *progress) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	took := p.now().Sub(p.since)
	if p.step == "" || took < progressAfter {
		return
	}
	p.erase()
	line := fmt.Sprintf("%s, %d s", p.step, int(took.Seconds()))
	if p.about != "" {
		line += ": " + text.Line(p.about)
	}
	const width = 79 // a line that wraps could not be taken away
	if r := []rune(line); len(r) > width {
		line = string(r[:width-1]) + "…"
	}
	p.write(line)
	p.shown = true
}

func (p *progress) hide() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
}

func (p *progress) erase() {
	if p.shown {
		p.write("\r\x1b[K")
		p.shown = false
	}
}
