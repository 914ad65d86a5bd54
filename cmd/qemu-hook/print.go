package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"qemu-hook/hook"
)

// Everything the program prints passes through this file. In hook mode nothing goes to stdout: libvirt would take it
// for a domain XML.

func out(format string, args ...any) { fmt.Fprintf(os.Stdout, format+"\n", args...) }

func errorf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "qemu-hook: error: "+format+"\n", args...)
}

func warnf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "qemu-hook: warning: "+format+"\n", args...)
}

func hintf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "qemu-hook: hint: "+format+"\n", args...)
}

// fail prints the error and returns the exit status: 2 for a command line that cannot be understood, else 1.
func fail(err error) int {
	var usage usageError
	var refusal *hook.Refusal
	switch {
	case errors.Is(err, errSaid):
		return 1
	case errors.As(err, &usage):
		errorf("%s", usage)
		hintf("qemu-hook help lists the commands")
		return 2
	case errors.As(err, &refusal):
		for _, r := range refusal.Reasons {
			errorf("%s", r)
		}
		return 1
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		errorf("%s", line)
	}
	return 1
}

// lastLine is the longest that libvirt's own message leaves room for.
const lastLine = 200

// failEvent prints why a guest cannot start, for libvirt to quote: the whole story if it is long, last one short and
// complete sentence.
func failEvent(err error) int {
	reasons := []string{err.Error()}
	var refusal *hook.Refusal
	if errors.As(err, &refusal) {
		reasons = refusal.Reasons
	}
	last := oneLine(reasons[0])
	if len(reasons) > 1 {
		last = fmt.Sprintf("%d reasons, the first: %s", len(reasons), last)
	}
	short := shorten(last)
	if short != reasons[0] {
		for _, r := range reasons {
			fmt.Fprintf(os.Stderr, "%s\n", r)
		}
	}
	fmt.Fprintf(os.Stderr, "%s\n", short)
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
		if i := strings.LastIndex(cut, sep); i > lastLine/4 {
			return cut[:i]
		}
	}
	return cut
}

// copyOut prints text as it is, copyErr to stderr.
func copyOut(s string) { _, _ = io.WriteString(os.Stdout, s) }
func copyErr(s string) { _, _ = io.WriteString(os.Stderr, s) }
