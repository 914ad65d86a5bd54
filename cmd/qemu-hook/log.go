package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"qemu-hook/hook"
	"qemu-hook/text"
)

func logFlags(set *flag.FlagSet, o *options) {
	set.BoolVar(&o.all, "all", false, "")
	set.BoolVar(&o.follow, "follow", false, "")
}

// runLog shows what became of the last events: of those since a guest was last prepared, or of all that are remembered.
func runLog(o options, args []string) error {
	name, err := oneName(args)
	if err != nil {
		return err
	}
	h, err := newHost(o)
	if err != nil {
		return err
	}
	if o.follow {
		return followLog(h, o, name)
	}
	all, err := h.Reports()
	if err != nil && !errors.Is(err, os.ErrPermission) {
		return err
	}
	kept := lastRun(all, name)
	if o.all || len(kept) == 0 {
		all = append(journalReports(h, all), all...)
		kept = lastRun(all, name)
	}
	if o.all {
		kept = slices.DeleteFunc(all, func(r *hook.Report) bool { return !isAbout(r, name) })
	}
	switch {
	case len(kept) > 0:
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("the log is root's to see; try sudo qemu-hook log")
	case name != "":
		return fmt.Errorf("the log has nothing of a guest %q; see qemu-hook log --all", name)
	}
	if o.json {
		return printJSON(append([]*hook.Report{}, kept...))
	}
	if len(kept) == 0 {
		out("no event has been handled since the host started")
	}
	for _, r := range kept {
		printReport(h, r)
	}
	return nil
}

// isAbout reports whether a report is of the guest; every one is of "".
func isAbout(r *hook.Report, name string) bool {
	return name == "" || r.Guest == name || r.UUID == name
}

// lastRun returns the reports of a guest since it was last prepared; without a name, of the guest of the last event.
func lastRun(all []*hook.Report, name string) []*hook.Report {
	if name == "" && len(all) > 0 {
		name = all[len(all)-1].Guest
	}
	about := slices.DeleteFunc(slices.Clone(all), func(r *hook.Report) bool { return !isAbout(r, name) })
	for i, r := range slices.Backward(about) {
		if r.Op == "prepare" {
			return about[i:]
		}
	}
	return about
}

// journalReports returns the reports that only the journal still has: of other boots, and what the ring has dropped.
func journalReports(h *hook.Host, have []*hook.Report) (all []*hook.Report) {
	const most = "500"
	places := []string{"/usr/bin/journalctl", "/run/current-system/sw/bin/journalctl"}
	i := slices.IndexFunc(places, h.Exists)
	if i < 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	// Anybody can write there, and say what they like; only root's are the hook's. The newest first: of a long output the end is cut off.
	text, err := h.Output(ctx, places[i], "--quiet", "--no-pager", "--reverse", "--lines="+most, "--output=cat",
		"--output-fields=QEMU_HOOK_REPORT", "MESSAGE_ID="+reportMessage, "_UID=0")
	if err != nil {
		warnf("the journal has no answer: %v", err)
	}
	for line := range bytes.Lines(text) {
		r, ok := hook.ParseReport(line)
		if ok && !slices.ContainsFunc(have, func(o *hook.Report) bool { return o.ID == r.ID }) {
			all = append(all, r)
		}
	}
	slices.Reverse(all)
	return all
}

// printReport says what became of an event, with a line for each step that was more than looked at.
func printReport(h *hook.Host, r *hook.Report) {
	out("%s  %s", r.At.Local().Format(time.DateTime), r.Title())
	for _, s := range r.Steps {
		idle := s.Result == hook.Done && len(s.Messages) == 0 && s.Seconds < 0.05
		if r.Result != "" && s.Result == "" || (r.Result == hook.Refused || r.Result == hook.Failed) && idle {
			continue // it was never come to, or had nothing to take back
		}
		out("  %-10s %-7s %6.1f s", s.Name, cmp.Or(string(s.Result), "began"), s.Seconds)
		printMessages(s.Messages, "      ")
	}
	printMessages(r.Messages, "  ")
	for _, reason := range r.Reasons {
		out("  reason: %s", text.Line(reason))
	}
	if r.Result == "" {
		out("  %s", unfinished(h, r))
	}
}

// unfinished says what becomes of an event that has no end yet.
func unfinished(h *hook.Host, r *hook.Report) string {
	at := "before its first step"
	if len(r.Steps) > 0 {
		at = "in step " + r.Steps[len(r.Steps)-1].Name
	}
	if h.Exists(fmt.Sprintf("/proc/%d", r.PID)) {
		return "it is at work, " + at
	}
	return "the hook was killed " + at + "; the next event of the guest, or qemu-hook recover, finishes its work"
}

func printMessages(messages []hook.Message, indentation string) {
	for _, m := range messages {
		if line := text.Line(m.Text); m.Severity <= hook.Warning {
			out("%swarning: %s", indentation, line)
		} else {
			out("%s%s", indentation, line)
		}
	}
}

// followPause is how often the log is looked at.
const followPause = 100 * time.Millisecond

// followLog shows events as they come, until it is interrupted: first what was done of those that are at work.
func followLog(h *hook.Host, o options, name string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var seen []byte
	shown := map[string]map[string]bool{}
	for first, last := true, false; ; first = false {
		lines, err := h.State.RingLines(hook.ReportsRing)
		if err != nil {
			if errors.Is(err, os.ErrPermission) {
				return fmt.Errorf("the log is root's to see; try sudo qemu-hook log --follow")
			}
			return err
		}
		var fresh []*hook.Report
		for _, line := range slices.Backward(lines) {
			if bytes.Equal(line, seen) {
				break
			}
			if r, ok := hook.ParseReport(line); ok {
				fresh = append(fresh, r)
			}
		}
		slices.Reverse(fresh)
		if len(lines) > 0 {
			seen = bytes.Clone(lines[len(lines)-1])
		}
		if first {
			fresh = atWork(h, fresh)
		}
		for _, r := range fresh {
			printLine(h, o, r, name, shown)
		}
		if last {
			return nil
		}
		if first {
			hintf("waiting for events; Ctrl-C ends it")
		}
		select {
		case <-ctx.Done():
			last = true // with one more look
		case <-time.After(followPause):
		}
	}
}

// atWork returns the lines of the events that have no end yet, and whose hook was not killed.
func atWork(h *hook.Host, lines []*hook.Report) []*hook.Report {
	over := map[string]bool{}
	for _, r := range lines {
		if r.Result != "" || r.Op != "" && !h.Exists(fmt.Sprintf("/proc/%d", r.PID)) {
			over[r.ID] = true
		}
	}
	return slices.DeleteFunc(lines, func(r *hook.Report) bool { return over[r.ID] })
}

// printLine shows one line of the log. Shown are the steps that were shown of each event that is.
func printLine(h *hook.Host, o options, r *hook.Report, name string, shown map[string]map[string]bool) {
	if r.Op != "" && shown[r.ID] == nil && isAbout(r, name) {
		shown[r.ID] = map[string]bool{}
	}
	steps := shown[r.ID]
	switch {
	case steps == nil:
	case o.json:
		_ = printJSON(r)
	case r.Result != "":
		printReport(h, r)
	case r.Op != "":
		out("%s  %s", r.At.Local().Format(time.DateTime), r.Title())
	default:
		for _, s := range r.Steps {
			if !steps[s.Name] { // else it goes to work again
				steps[s.Name] = true
				out("%s  %s …", strings.Repeat(" ", len(time.DateTime)), s.Name)
			}
		}
	}
}
