// Package text renders what others have written, such as a guest's name or what a command has said, so that a terminal only
// shows it.
package text

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Line renders s on one line: what could not be shown as it is becomes a "?", a tab a blank.
func Line(s string) string { return clean(s, "") }

// Lines is [Line] for a text whose line ends are its own.
func Lines(s string) string { return clean(s, "\n") }

func clean(s, keep string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError: // as every byte that is no UTF-8
			return '?'
		case strconv.IsPrint(r), strings.ContainsRune(keep, r):
			return r
		case r == '\t':
			return ' '
		}
		return '?'
	}, s)
}

// Short returns the first n characters of s, with an ellipsis where that is not all of it.
func Short(s string, n int) string {
	for i := range s {
		if n--; n < 0 {
			return s[:i] + "…"
		}
	}
	return s
}
