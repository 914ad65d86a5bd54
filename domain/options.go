package domain

import (
	"encoding/json"
	"fmt"
	"strings"
)

// parseOptions reads the argument of a QEMU option in either of its forms, JSON or key=value, into strings. In the
// second the first value may stand without its key, which is then implied. Of a key given twice the last holds.
//
// QEMU, qemu-options.hx; util/keyval.c; qobject/json-lexer.c.
func parseOptions(arg, implied string) (map[string]string, error) {
	if strings.HasPrefix(arg, "{") {
		return parseJSONOptions(arg)
	}
	opts := map[string]string{}
	for first := true; arg != ""; first = false {
		var option string
		option, arg = cutOption(arg)
		key, value, ok := strings.Cut(option, "=")
		switch {
		case ok:
			opts[key] = value
		case first:
			opts[implied] = option
		default:
			opts[option] = "on"
		}
	}
	return opts, nil
}

// cutOption splits off what comes before the first single comma; two commas stand for one that is meant.
func cutOption(s string) (option, rest string) {
	var out strings.Builder
	for {
		i := strings.IndexByte(s, ',')
		if i < 0 {
			out.WriteString(s)
			return out.String(), ""
		}
		out.WriteString(s[:i])
		if !strings.HasPrefix(s[i+1:], ",") {
			return out.String(), s[i+1:]
		}
		out.WriteByte(',')
		s = s[i+2:]
	}
}

// parseJSONOptions takes the strings, numbers and booleans of a JSON object; others have no string form and are left
// out.
func parseJSONOptions(arg string) (map[string]string, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(doubleQuotes(arg)), &members); err != nil {
		return nil, fmt.Errorf("it is not valid JSON: %w", err)
	}
	opts := map[string]string{}
	for key, raw := range members {
		switch raw[0] {
		case '"':
			var s string
			if err := json.Unmarshal(raw, &s); err != nil {
				return nil, fmt.Errorf("%s is not valid JSON: %w", quote(key), err)
			}
			opts[key] = s
		case '{', '[', 'n':
		default:
			opts[key] = string(raw)
		}
	}
	return opts, nil
}

// doubleQuotes rewrites the strings in single quotes that QEMU's JSON parser takes, and \' in any string, as JSON
// proper.
func doubleQuotes(s string) string {
	if !strings.Contains(s, "'") {
		return s
	}
	var out strings.Builder
	out.Grow(len(s) + 8)
	var quote byte // of the string that i is in, 0 outside of one
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
			out.WriteByte('"')
		case quote == 0:
			out.WriteByte(c)
		case c == quote:
			quote = 0
			out.WriteByte('"')
		case c == '"':
			out.WriteString(`\"`)
		case c == '\\' && i+1 < len(s):
			i++
			if s[i] != '\'' {
				out.WriteByte('\\')
			}
			out.WriteByte(s[i])
		default:
			out.WriteByte(c)
		}
	}
	return out.String()
}
