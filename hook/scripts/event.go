package scripts

import (
	"cmp"
	"slices"
	"strings"
)

// A phase is when in a guest's life a line is run.
type phase int

const (
	phaseUnknown phase = iota
	phaseBefore        // before the guest runs
	phaseStarted       // as soon as it runs
	phaseAfter         // after it is gone
	phaseOther         // at another event
)

// phaseOf tells the phase of an operation of libvirt's.
func phaseOf(op string) phase {
	switch op {
	case "prepare", "start":
		return phaseBefore
	case "started":
		return phaseStarted
	case "stopped", "release":
		return phaseAfter
	}
	return phaseOther
}

// when is what is known of the circumstances in which a line is run.
type when struct {
	guests []string // none: of any guest
	phase  phase
	// only is the line of a condition that is not understood; 0 for none.
	only int
	// held is why a command is none to be run by itself.
	held string
}

// hold adds why a command is none to be run by itself.
func (w when) hold(why string) when {
	w.held = cmp.Or(w.held, why)
	return w
}

// and narrows the circumstances.
func (w when) and(c condition, line int) when {
	if c.guests != nil {
		w.guests = c.guests
	}
	if c.phase != phaseUnknown {
		w.phase = c.phase
	}
	if c.vague && w.only == 0 {
		w.only = line
	}
	return w
}

// A condition is what a test of the script's arguments says.
type condition struct {
	guests []string
	phase  phase
	vague  bool // not all of it is understood
}

// besides adds a branch to those before it.
func (c condition) besides(d condition) condition {
	return condition{guests: append(slices.Clone(c.guests), d.guests...), phase: max(c.phase, d.phase), vague: c.vague || d.vague}
}

// not is the condition of what is left: another event, or a guest of which nothing is known.
func (c condition) not() condition {
	if c.vague || c.guests != nil {
		return condition{vague: true}
	}
	return condition{phase: phaseOther}
}

// isTest reports whether a command only tests, and returns what.
func isTest(args []arg) ([]arg, bool) {
	if len(args) == 0 {
		return nil, false
	}
	switch last := args[len(args)-1].text; {
	case args[0].text == "test":
		return args[1:], true
	case args[0].text == "[" && last == "]", args[0].text == "[[" && last == "]]":
		return args[1 : len(args)-1], true
	}
	return nil, false
}

// testOf reads a test: comparisons of the script's arguments with words, joined by && or -a, or by || or -o.
func testOf(args []arg, not bool) (c condition, unequal bool) {
	var parts [][]arg
	or := false
	from := 0
	for i, a := range args {
		switch a.text {
		case "&&", "-a", "||", "-o":
			or = or || a.text == "||" || a.text == "-o"
			parts, from = append(parts, args[from:i]), i+1
		}
	}
	parts = append(parts, args[from:])
	for i, part := range parts {
		one, ne := compare(part)
		if len(parts) == 1 && ne != not {
			return one, true
		}
		if ne != not {
			return condition{vague: true}, false
		}
		switch {
		case one.vague:
			c.vague = true
		case i == 0 || !or:
			w := when{guests: c.guests, phase: c.phase}.and(one, 0)
			c.guests, c.phase = w.guests, w.phase
		default:
			c = c.or(one)
		}
	}
	if or && c.vague {
		return condition{vague: true}, false
	}
	return c, false
}

// or is the condition that either holds.
func (c condition) or(d condition) condition {
	switch {
	case c.vague || d.vague:
	case c.guests != nil && d.guests != nil && c.phase == d.phase:
		return condition{guests: append(slices.Clone(c.guests), d.guests...), phase: c.phase}
	case slices.Equal(c.guests, d.guests) && c.phase == d.phase:
		return c
	}
	return condition{vague: true}
}

// compare reads one comparison.
func compare(args []arg) (c condition, unequal bool) {
	if len(args) != 3 || !slices.Contains([]string{"=", "==", "!=", "=~", "-eq"}, args[1].text) {
		return condition{vague: true}, false
	}
	left, right := args[0], args[2]
	if hasArguments(right.text) && !hasArguments(left.text) {
		left, right = right, left
	}
	text := right.text
	if args[1].text == "=~" {
		whole := strings.HasPrefix(text, "^") && strings.HasSuffix(text, "$")
		text = strings.TrimSuffix(strings.TrimPrefix(text, "^"), "$")
		right.glob = !whole || strings.ContainsAny(text, `*?[](){}|.+\^$`)
	}
	if right.opaque || right.glob {
		return condition{vague: true}, false
	}
	return matchArguments(left.text, text), args[1].text == "!="
}

// hasArguments reports whether a word is made of the script's arguments.
func hasArguments(s string) bool {
	return strings.Contains(s, "$1") || strings.Contains(s, "$2") || strings.Contains(s, "$3")
}

// matchArguments compares a word such as "$1/$2" with one such as "win11/prepare".
func matchArguments(template, text string) condition {
	c := condition{}
	for rest := template; ; {
		if len(rest) < 2 || rest[0] != '$' {
			return condition{vague: true}
		}
		name := rest[1]
		rest = rest[2:]
		next := strings.IndexByte(rest, '$')
		value := text
		if next >= 0 {
			separator := rest[:next]
			var found bool
			if value, text, found = strings.Cut(text, separator); !found || separator == "" {
				return condition{vague: true}
			}
			rest = rest[next:]
		}
		switch {
		case value == "*":
		case strings.ContainsAny(value, "*?[$"):
			return condition{vague: true}
		case name == '1':
			c.guests = []string{value}
		case name == '2':
			c.phase = phaseOf(value)
		case name == '3': // begin or end, as the operation has it
		default:
			return condition{vague: true}
		}
		if next < 0 {
			if rest != "" {
				return condition{vague: true}
			}
			return c
		}
	}
}

// patternsOf reads the patterns of one branch of case.
func patternsOf(subject arg, patterns []arg) condition {
	if !hasArguments(subject.text) || len(patterns) == 0 {
		return condition{vague: true}
	}
	var c condition
	for i, p := range patterns {
		one := condition{vague: true}
		if !p.opaque {
			one = matchArguments(subject.text, p.text)
		}
		if i == 0 {
			c = one
		} else {
			c = c.or(one)
		}
	}
	return c
}

// otherwise reports whether a branch of case takes all that is left.
func otherwise(patterns []string) bool { return slices.Equal(patterns, []string{"*"}) }

// placeOf tells guest and phase of a script by its path, as dispatchers do: NAME/prepare/begin.
func placeOf(name string) when {
	parts := strings.Split(name, "/")
	for i := len(parts) - 1; i >= 2; i-- {
		p := phaseOf(parts[i-1])
		known := p != phaseOther || slices.Contains([]string{"reconnect", "migrate", "restore", "attach"}, parts[i-1])
		if (parts[i] == "begin" || parts[i] == "end") && known {
			if parts[i-2] == "" || parts[i-2] == "qemu.d" {
				return when{phase: p}
			}
			return when{guests: []string{parts[i-2]}, phase: p}
		}
	}
	// Else the name says it, as in start.sh and revert.sh.
	words := strings.FieldsFunc(strings.ToLower(parts[len(parts)-1]), func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
	has := func(list ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return slices.Contains(list, w) })
	}
	before := has("start", "startup", "begin", "prepare", "alloc", "bind", "attach")
	after := has("stop", "end", "revert", "teardown", "release", "dealloc", "unbind", "shutdown", "restore", "detach")
	switch {
	case before && !after:
		return when{phase: phaseBefore}
	case after && !before:
		return when{phase: phaseAfter}
	}
	return when{}
}
