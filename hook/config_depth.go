package hook

import "bytes"

const (
	configMaxNesting = 8 // brackets in brackets
	configMaxDots    = 8 // in one key; guest.NAME.shm.NAME.user has four
)

// configTooDeep returns the first line on which TOML nests deeper than any key of ours, 0 if none does. The decoder
// takes time in the square and cube of the depth: minutes for a file of 64 KiB.
//
// It tells strings and comments from the rest; what is no TOML need not be told right, as the decoder stops there.
func configTooDeep(data []byte) int {
	line, nesting, dots := 1, 0, 0
	for len(data) > 0 {
		n := 1
		switch c := data[0]; c {
		case '"', '\'':
			n = configStringLen(data)
			line += bytes.Count(data[:n], []byte{'\n'})
		case '#':
			if n = bytes.IndexByte(data, '\n'); n < 0 {
				return 0
			}
		case '\n':
			line++
			dots = 0
		case '[', '{':
			nesting++
			dots = 0
		case ']', '}':
			nesting = max(0, nesting-1)
			dots = 0
		case '=', ',':
			dots = 0
		case '.':
			dots++
		}
		if nesting > configMaxNesting || dots > configMaxDots {
			return line
		}
		data = data[n:]
	}
	return 0
}

// configStringLen is the length of the string that data begins with, quotes included. One that does not end ends
// with its line, or with the data.
func configStringLen(data []byte) int {
	quote := data[0]
	long := len(data) >= 3 && data[1] == quote && data[2] == quote
	i := 1
	if long {
		i = 3
	}
	for ; i < len(data); i++ {
		switch c := data[i]; {
		case c == '\\' && quote == '"':
			i++
		case c == '\n' && !long:
			return i
		case c != quote:
		case !long:
			return i + 1
		case bytes.HasPrefix(data[i:], []byte{quote, quote, quote}):
			// Up to two quotes before the last three belong to the string.
			for i += 3; i < len(data) && data[i] == quote; i++ {
			}
			return i
		}
	}
	return len(data)
}
