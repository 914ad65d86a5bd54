package scripts

import (
	"fmt"
	"strings"

	"qemu-hook/text"
)

const maxLine = 240 // characters of a line that is shown

// shortened cuts what is too long, but not what is said of it after the arrow.
func shortened(s string) string {
	line, rest, _ := strings.Cut(s, "  → ")
	line = text.Short(line, maxLine/2)
	if rest != "" {
		rest = "  → " + rest
	}
	return line + rest
}

func sprintf(format string, args ...any) string {
	if len(args) == 0 {
		return format
	}
	return fmt.Sprintf(format, args...)
}
