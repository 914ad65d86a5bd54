package cpuset

import (
	"errors"
	"fmt"
	"strconv"
)

// maxText bounds what is read, in bytes: every second CPU, the longest list that the kernel prints, is 48 KiB.
const maxText = 64 << 10

func checkLength(s string) error {
	if len(s) > maxText {
		return fmt.Errorf("it has %d bytes, at most %d are read", len(s), maxText)
	}
	return nil
}

// cutNumber splits s into the decimal number that it begins with and what follows.
// Numbers beyond what a set can hold are an error before anybody counts up to them.
func cutNumber(s string) (n int, rest string, err error) {
	i := 0
	for i < len(s) && isDigit(s[i]) {
		i++
	}
	if i == 0 {
		if s == "" {
			return 0, s, errors.New("a number is missing at the end")
		}
		return 0, s, fmt.Errorf("%s is not a number", quote(s))
	}
	n, err = strconv.Atoi(s[:i])
	if err != nil || n >= Max {
		return 0, s, fmt.Errorf("%s is too large, the largest number allowed is %d", clip(s[:i]), Max-1)
	}
	return n, s[i:], nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isSpace is C's isspace in the C locale.
func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

// quote shows a value in an error; a long one is cut, as the message goes on one line of a log.
func quote(s string) string { return strconv.Quote(clip(s)) }

func clip(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
