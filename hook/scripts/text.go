package scripts

import (
	"fmt"
	"strconv"
	"strings"
)

const maxLine = 240 // characters of a line that is shown

// shortened cuts what is too long, but not what is said of it after the arrow.
func shortened(s string) string {
	line, rest, _ := strings.Cut(s, "  → ")
	if r := []rune(line); len(r) > maxLine/2 {
		line = string(r[:maxLine/2]) + "…"
	}
	if rest != "" {
		rest = "  → " + rest
	}
	return line + rest
}

// printable replaces what could not be printed as it is: a script is somebody else's.
func printable(s string) string {
	r := []rune(strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case strconv.IsPrint(r):
			return r
		}
		return '?'
	}, s))
	if len(r) > 2*maxLine {
		r = append(r[:2*maxLine:2*maxLine], '…')
	}
	return string(r)
}

func sprintf(format string, args ...any) string {
	if len(args) == 0 {
		return format
	}
	return fmt.Sprintf(format, args...)
}
