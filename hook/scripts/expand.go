package scripts

import (
	"slices"
	"strings"
)

// An arg is a word with what is known of its variables put in.
type arg struct {
	text string
	// opaque says that something in it is not known, and stands there as it is written.
	opaque bool
	// glob says that it stands for any number of names.
	glob bool
}

// known reports whether the word is just this text.
func (a arg) known() bool { return !a.opaque && !a.glob }

// variables are the values that are known, each a list of words. The arguments of the script stand for themselves: "$1".
type variables map[string][]arg

// Bounds on what a word can become, and on what a variable can hold.
const (
	maxWords = 256
	maxText  = 4096 // bytes of one
)

// expand puts the variables into words as a shell does.
func (v variables) expand(words []string) []arg {
	var all []arg
	for _, w := range words {
		if all = append(all, v.word(w)...); len(all) > maxWords {
			return all[:maxWords]
		}
	}
	return all
}

// one is expand of a word that becomes one, such as the value of a variable.
func (v variables) one(word string) arg {
	all := v.word(word)
	if len(all) == 0 {
		return arg{}
	}
	joined := all[0]
	for _, a := range all[1:] {
		if len(joined.text)+len(a.text) > maxText {
			joined.opaque = true
			break
		}
		joined = arg{joined.text + " " + a.text, joined.opaque || a.opaque, joined.glob || a.glob}
	}
	return joined
}

// builder makes the words that one word becomes.
type builder struct {
	done    []arg
	now     arg
	started bool
}

func (b *builder) add(s string) {
	b.started = true
	if len(b.now.text)+len(s) > maxText {
		b.now.opaque = true
		return
	}
	b.now.text += s
}

func (b *builder) end() {
	if b.started && len(b.done) < maxWords {
		b.done = append(b.done, b.now)
	}
	b.now, b.started = arg{}, false
}

// put adds the value of a variable, of which blanks separate words outside of quotes.
func (b *builder) put(values []arg, quoted bool) {
	for i, a := range values {
		if i > 0 {
			b.end()
		}
		parts := []string{a.text}
		if !quoted && !a.opaque {
			parts = strings.Fields(a.text)
		}
		for j, part := range parts {
			if j > 0 {
				b.end()
			}
			b.add(part)
			b.now.opaque = b.now.opaque || a.opaque
			b.now.glob = b.now.glob || a.glob
		}
	}
}

func (v variables) word(raw string) []arg {
	var b builder
	v.scan(raw, false, &b)
	b.end()
	return b.done
}

// scan goes through a word, or through what stands in double quotes.
func (v variables) scan(raw string, quoted bool, b *builder) {
	for i := 0; i < len(raw); {
		c := raw[i]
		switch {
		case c == '\\' && i+1 < len(raw):
			if raw[i+1] != '\n' {
				b.add(raw[i+1 : i+2])
			}
			i += 2
		case c == '\'' && !quoted:
			end := strings.IndexByte(raw[i+1:], '\'')
			if end < 0 {
				end = len(raw) - i - 1
			}
			b.add(raw[i+1 : i+1+end])
			i = min(len(raw), i+end+2)
		case c == '"' && !quoted:
			end := i + 1 + closing(raw[i+1:])
			b.add("")
			v.scan(raw[i+1:end], true, b)
			i = min(len(raw), end+1)
		case c == '`':
			end := strings.IndexByte(raw[i+1:], '`')
			if end < 0 {
				end = len(raw) - i - 2
			}
			b.put([]arg{{text: raw[i : i+end+2], opaque: true}}, true)
			i += end + 2
		case c == '$':
			i += v.dollar(raw[i:], quoted, b)
		default:
			if !quoted && strings.IndexByte("*?[{", c) >= 0 && (c != '[' || len(raw) > 2) && (c != '{' || strings.Contains(raw[i:], "}")) {
				b.now.glob = true
			}
			b.add(raw[i : i+1])
			i++
		}
	}
}

// closing returns where the double quotes end that were opened before s.
func closing(s string) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
		case s[i] == '"' && depth == 0:
			return i
		case strings.HasPrefix(s[i:], "$("):
			depth++
			i++
		case s[i] == '(' && depth > 0:
			depth++
		case s[i] == ')' && depth > 0:
			depth--
		}
	}
	return len(s)
}

// dollar puts in what begins with a $, and returns how long that is.
func (v variables) dollar(raw string, quoted bool, b *builder) int {
	unknown := func(n int) int {
		b.put([]arg{{text: raw[:n], opaque: true}}, true)
		return n
	}
	if len(raw) == 1 {
		b.add("$")
		return 1
	}
	name, length := "", 0
	switch c := raw[1]; {
	case c == '(':
		depth := 0
		for i := 1; i < len(raw); i++ {
			switch raw[i] {
			case '(':
				depth++
			case ')':
				if depth--; depth == 0 {
					return unknown(i + 1)
				}
			}
		}
		return unknown(len(raw))
	case c == '{':
		end := strings.IndexByte(raw, '}')
		if end < 0 {
			return unknown(len(raw))
		}
		name, length = raw[2:end], end+1
	case c == '\'' && !quoted:
		return 1 // $'…' as '…'
	case c >= '0' && c <= '9' || strings.IndexByte("@*#?$!-", c) >= 0:
		name, length = raw[1:2], 2
	default:
		n := nameLength(raw[1:])
		if n == 0 {
			b.add("$")
			return 1
		}
		name, length = raw[1:1+n], 1+n
	}
	name = strings.TrimSuffix(strings.TrimSuffix(name, "[@]"), "[*]")
	if head, instead, has := strings.Cut(name, ":-"); has {
		if name = head; v[name] == nil {
			v.scan(instead, quoted, b)
			return length
		}
	}
	values, ok := v[name]
	if !ok {
		return unknown(length)
	}
	b.put(values, quoted)
	return length
}

func nameLength(s string) int {
	for i := range len(s) {
		if c := s[i]; c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return i
		}
	}
	return len(s)
}

// assign takes an assignment, NAME=VALUE, and reports whether the word is one.
func (v variables) assign(raw string) bool {
	name, value, has := strings.Cut(raw, "=")
	more := strings.HasSuffix(name, "+")
	name = strings.TrimSuffix(name, "+")
	if i := strings.IndexByte(name, '['); i > 0 {
		name = name[:i]
		delete(v, name) // not followed
		return has && nameLength(name) == i
	}
	if !has || name == "" || nameLength(name) != len(name) {
		return false
	}
	var values []arg
	if strings.HasPrefix(value, "(") && strings.HasSuffix(value, ")") {
		all, err := tokens(value[1:len(value)-1], 1)
		if err != nil {
			delete(v, name)
			return true
		}
		var words []string
		for _, t := range all {
			if t.kind == tokenWord {
				words = append(words, t.text)
			}
		}
		values = v.expand(words)
	} else {
		values = []arg{v.one(value)}
	}
	if more {
		values = append(slices.Clone(v[name]), values...)
	}
	if len(values) <= maxWords && len(v) < maxWords*4 {
		v[name] = values
	}
	return true
}

// asText renders words as one would write them.
func asText(args []arg) string {
	var words []string
	for _, a := range args {
		words = append(words, a.text)
	}
	return strings.Join(words, " ")
}
