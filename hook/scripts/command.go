package scripts

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"qemu-hook/hook"
	"qemu-hook/text"
)

func (s *script) simple(n *node, w when) { s.command(n, w, false) }

func (s *script) command(n *node, w when, piped bool) {
	words := n.words
	for _, word := range words {
		s.r.steps += len(word) / maxText // what is long takes longer
	}
	for len(words) > 0 && s.assign(words[0]) {
		s.substitutions(words[0], n, w)
		words = words[1:]
	}
	args := s.vars.expand(words)
	if len(args) == 0 || strings.HasPrefix(words[0], "((") {
		return
	}
	if slices.Contains([]string{"export", "local", "declare", "readonly", "typeset"}, args[0].text) {
		for _, word := range words[1:] {
			s.assign(word)
			s.substitutions(word, n, w)
		}
		return
	}
	for _, word := range words {
		s.substitutions(word, n, w)
	}
	if _, is := isTest(args); is {
		return
	}
	if f := s.funcs[args[0].text]; f.node != nil && args[0].known() {
		s.call(f, args, w)
		return
	}
	if user := runsAs(args); user != "" {
		w = w.hold("it runs as " + text.Line(user) + ", an own command runs as root")
	}
	args = unwrap(args)
	name := path.Base(args[0].text)
	switch {
	case name == "source" || args[0].text == ".":
		if len(args) > 1 {
			s.source(n, args[1], w)
		}
		return
	case isShell(name) && len(args) > 1:
		if args[1].text == "-c" && len(args) > 2 {
			s.text(n, args[2], w)
			return
		}
		args = args[1:]
	case name == "eval" && len(args) > 1 && !args[1].opaque && !hasArguments(asText(args)):
		s.text(n, arg{text: asText(args[1:])}, w)
		return
	case name == "read":
		for _, a := range args[1:] {
			delete(s.vars, a.text)
		}
		return
	}
	if s.writes(n, args, w) {
		return
	}
	recognised := false
	for _, a := range actsOf(args) {
		recognised = s.act(n, a, w) || recognised
	}
	if recognised || looks(args) && !writesFile(s.vars, n) {
		return
	}
	s.other(n, args, w, piped)
}

func isShell(name string) bool { return slices.Contains([]string{"sh", "bash", "dash"}, name) }

func (s *script) assign(word string) bool {
	if !s.vars.assign(word) {
		return false
	}
	name, _, _ := strings.Cut(word, "=")
	for _, v := range s.vars[name] {
		s.dispatcher = s.dispatcher || strings.Contains(v.text, "/$1/$2")
	}
	return true
}

func (s *script) substitutions(word string, n *node, w when) {
	for rest := word; ; {
		i := strings.Index(rest, "$(")
		if i < 0 {
			return
		}
		rest = rest[i+2:]
		if strings.HasPrefix(rest, "(") {
			continue
		}
		depth, end := 1, len(rest)
		for j := range len(rest) {
			if rest[j] == '(' {
				depth++
			}
			if rest[j] == ')' {
				if depth--; depth == 0 {
					end = j
					break
				}
			}
		}
		s.text(n, arg{text: rest[:end]}, w)
		rest = rest[end:]
	}
}

func (s *script) text(n *node, a arg, w when) {
	if s.r.steps += len(a.text) / maxText; s.depth >= maxCalls || s.r.steps > maxSteps {
		return
	}
	nodes, err := parse(a.text, n.line)
	if err != nil {
		s.unknown(n, plain(a.text), w, "it is no command by itself")
		return
	}
	var flat func([]*node)
	flat = func(all []*node) {
		for _, k := range all {
			k.line = n.line
			flat(k.kids)
			for _, b := range k.branches {
				flat(b.condition)
				flat(b.body)
			}
		}
	}
	flat(nodes)
	s.depth++
	s.list(nodes, w)
	s.depth--
}

func (s *script) writes(n *node, args []arg, w when) bool {
	value, ok := printed(args)
	if path.Base(args[0].text) == "tee" {
		for _, t := range n.to {
			if strings.HasSuffix(t.op, "<<<") {
				ok, value = true, s.vars.one(t.to)
			}
		}
		if !ok {
			value = arg{text: "…", opaque: true} // what comes through the pipe
		}
		for _, file := range args[1:] {
			if !strings.HasPrefix(file.text, "-") {
				s.write(n, file, value, w)
			}
		}
		return true
	}
	if !ok {
		return false
	}
	for _, t := range n.to {
		if strings.Contains(t.op, ">") && t.op != ">&" && t.op != "2>" && t.op != "2>&" {
			s.write(n, s.vars.one(t.to), value, w)
		}
	}
	return true
}

func writesFile(v variables, n *node) bool {
	return slices.ContainsFunc(n.to, func(t redirection) bool {
		to := v.one(t.to)
		return strings.Contains(t.op, ">") && !strings.HasSuffix(t.op, ">&") && !ownNotes(to.text)
	})
}

func ownNotes(file string) bool {
	return slices.Contains([]string{"/dev/null", "/dev/kmsg", "/dev/stderr", "/dev/stdout", "/dev/tty", "/dev/tty1"}, file) ||
		slices.ContainsFunc([]string{"/tmp/", "/var/tmp/", "/var/log/", "/run/lock/"}, func(p string) bool { return strings.HasPrefix(file, p) })
}

func (s *script) write(n *node, file, value arg, w when) {
	if ownNotes(file.text) {
		return
	}
	file.text = path.Clean(file.text)
	a := act{{text: "write"}, file, value}
	if s.act(n, a, w) {
		return
	}
	why := "it writes a file that is no step's"
	if file.opaque || value.opaque || strings.Contains(file.text+value.text, "$") {
		why = "not all is known of what it writes, and where"
	} else if file.glob {
		why = "a shell finds the files it writes"
	}
	s.unknown(n, a, w, why)
}

func tunableKey(file string) []string {
	name, sysctl := strings.CutPrefix(file, "/proc/sys/")
	if !sysctl || strings.ContainsAny(name, ".") {
		return []string{"tunables", file}
	}
	return append([]string{"tunables"}, strings.Split(name, "/")...)
}

func (s *script) act(n *node, a act, w when) bool {
	for i := range s.r.rules {
		r := &s.r.rules[i]
		if !slices.ContainsFunc(strings.Split(r.like, "\n"), a.like) {
			continue
		}
		f := found{act: a, when: w, rule: r}
		if r.use == nil {
			s.add(n, f)
			return true
		}
		if f.uses = r.use(a); f.uses == nil {
			if a[0].text == "install" {
				return false
			}
			f.why = "it " + r.does + ", but not all of it is known"
		} else if why := f.uses[0].cannot; why != "" {
			f.why, f.uses = why, nil
		}
		s.add(n, f)
		return true
	}
	return s.tunable(n, a, w)
}

func (s *script) tunable(n *node, a act, w when) bool {
	if len(a) != 3 || a[0].text != "write" {
		return false
	}
	file, fileKnown := a.word(1)
	value, valueKnown := a.word(2)
	if !fileKnown || !valueKnown || !hook.IsTunable(file) {
		return false
	}
	r := rule{step: "tunables", does: "sets a file of the kernel's", why: "tunables", hurts: hurtsBaseline}
	s.add(n, found{act: a, when: w, rule: &r, uses: []setting{{key: tunableKey(file), value: value}}})
	return true
}

func (s *script) other(n *node, args []arg, w when, piped bool) {
	first := args[0]
	if s.dispatches(args) {
		s.r.dispatchers[s.root] = true
		s.r.shells[s.root] = s.r.shells[s.root] || isShell(path.Base(unwrap(s.vars.expand(n.words))[0].text))
		s.add(n, found{act: args, when: w, rule: &rule{why: "it runs the scripts in qemu.d, each of which was read by itself"}})
		return
	}
	if name := s.place(first); name != "" {
		f := s.r.file(name)
		if f.why == "" && f.isShell() {
			if s.depth >= maxCalls {
				s.r.notef(s.file, n.line, "not understood: scripts that call one another")
				return
			}
			if w.phase == phaseUnknown {
				w.phase = placeOf(name).phase
			}
			s.r.run(f, s.root, w, append([]arg{}, args[1:]...), s.depth+1)
			return
		}
	}
	if why := s.needsShell(n, args, piped); why != "" {
		s.unknown(n, args, w, why)
		return
	}
	program, why := s.program(first.text)
	if program == "" {
		s.unknown(n, args, w, why)
		return
	}
	s.add(n, found{act: args, when: w, program: program})
}

func (s *script) dispatches(args []arg) bool {
	s.dispatcher = s.dispatcher || strings.Contains(asText(args), "/$1/$2")
	return s.dispatcher && (args[0].opaque || strings.Contains(args[0].text, "$") || slices.Contains([]string{"eval", "exec", "run-parts"}, args[0].text))
}

func (s *script) needsShell(n *node, args []arg, piped bool) string {
	for _, a := range args {
		switch {
		case a.opaque || strings.Contains(a.text, "$"):
			return "not all of it is known; as an own command it needs a script of its own"
		case a.glob:
			return "a shell finds the names it stands for; as an own command it needs a script of its own"
		}
	}
	if piped || n.background || writesFile(s.vars, n) || slices.ContainsFunc(n.to, func(t redirection) bool { return strings.Contains(t.op, "<") }) {
		return "it needs a shell; as an own command it needs a script of its own"
	}
	return ""
}

func (s *script) program(name string) (file, why string) {
	if path.IsAbs(name) {
		if !s.r.tree.Exists(name) {
			return "", "there is no such program on this host"
		}
		return path.Clean(name), ""
	}
	if strings.Contains(name, "/") {
		return "", "its path is not absolute"
	}
	for _, dir := range []string{"/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin", "/run/current-system/sw/bin"} {
		if s.r.tree.Exists(path.Join(dir, name)) {
			return path.Join(dir, name), ""
		}
	}
	return "", "there is no such program on this host"
}

func (s *script) unknown(n *node, args []arg, w when, why string) {
	s.add(n, found{act: args, when: w, why: why})
}

func (s *script) add(n *node, f found) {
	f.file, f.line, f.root = s.file.name, n.line, s.root
	f.text = s.file.line(n.line)
	key := fmt.Sprint(f.file, f.line, f.root, f.act, f.when)
	if s.r.seen[key] || len(s.r.found) > maxSteps {
		return
	}
	s.r.seen[key] = true
	s.r.found = append(s.r.found, f)
}
