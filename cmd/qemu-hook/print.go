package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"qemu-hook/hook"
	"qemu-hook/text"
)

// Everything the program prints passes through this file. In hook mode nothing goes to stdout: libvirt would take it
// for a domain XML. Names of guests, outputs of commands and scripts are others' texts, which a terminal must only show.

func out(format string, args ...any)    { copyOut(printed(format, args...)) }
func errorf(format string, args ...any) { copyErr(printed("qemu-hook: error: "+format, args...)) }
func warnf(format string, args ...any)  { copyErr(printed("qemu-hook: warning: "+format, args...)) }
func hintf(format string, args ...any)  { copyErr(printed("qemu-hook: hint: "+format, args...)) }

func printed(format string, args ...any) string {
	return text.Lines(fmt.Sprintf(format, args...)) + "\n"
}

// fail prints the error and returns the exit status: 2 for a command line that cannot be understood, else 1.
func fail(err error) int {
	var usage usageError
	switch {
	case errors.Is(err, errSaid):
		return 1
	case errors.As(err, &usage):
		return failUsage(usage, "qemu-hook help lists the commands")
	}
	for _, r := range reasons(err) {
		errorf("%s", r)
	}
	return 1
}

func failUsage(usage usageError, hint string) int {
	errorf("%s", usage)
	hintf("%s", hint)
	return 2
}

// reasons are the sentences that an error holds, one for each line. What several parts of the work failed for is said once.
func reasons(err error) []string {
	var refusal *hook.Refusal
	lines := err.Error()
	if errors.As(err, &refusal) {
		lines = strings.Join(refusal.Reasons, "\n")
	}
	var all []string
	for line := range strings.SplitSeq(strings.TrimSuffix(lines, "\n"), "\n") {
		if !slices.Contains(all, line) {
			all = append(all, line)
		}
	}
	return all
}

// lastLine is the longest that libvirt's own message leaves room for.
const lastLine = 200

// failEvent prints why a guest cannot start, for libvirt to quote: the whole story if it is long, last one short and
// complete sentence.
func failEvent(err error) int {
	all := reasons(err)
	last := oneLine(all[0])
	if len(all) > 1 {
		last = fmt.Sprintf("%d reasons, the first: %s", len(all), last)
	}
	short := shorten(last)
	if short != all[0] {
		for _, r := range hook.FirstReasons(all) {
			copyErr(printed("%s", r))
		}
	}
	copyErr(printed("%s", short))
	return 1
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// shorten cuts a sentence at the end of a clause, so that what is left is still complete: what to do about it stands
// in the story above it.
func shorten(s string) string {
	if len(s) <= lastLine {
		return s
	}
	cut := s[:lastLine]
	for _, sep := range []string{"; ", ": ", ", ", " "} {
		for head := cut; ; {
			i := strings.LastIndex(head, sep)
			if i < 0 || sep != " " && i <= lastLine/4 {
				break
			}
			if head = head[:i]; whole(head) {
				return head
			}
		}
	}
	return strings.ToValidUTF8(cut, "")
}

// whole reports whether no bracket and no quotation is left open.
func whole(s string) bool {
	return strings.Count(s, "(") == strings.Count(s, ")") && strings.Count(s, `"`)%2 == 0
}

// stderrIsTerminal reports whether a person sees what goes to stderr as it comes.
func stderrIsTerminal() bool {
	_, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	return err == nil && os.Getenv("TERM") != "dumb"
}

// copyOut prints text as it is, copyErr to stderr.
func copyOut(s string) { _, _ = io.WriteString(os.Stdout, s) }
func copyErr(s string) { _, _ = io.WriteString(os.Stderr, s) }
