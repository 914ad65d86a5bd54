package scripts

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"qemu-hook/hook"
)

// Bounds on what is gone through.
const (
	maxCalls = 20     // inside one another
	maxSteps = 20_000 // commands, in all
	maxTurns = 64     // of a loop
)

// A Note is something about a file, or about a line of it.
type Note struct {
	File string
	Line int // 0: the file as a whole
	Text string
}

// found is a line that does something.
type found struct {
	file string
	line int
	root string // the script from which this was come to
	text string // as it stands there
	when when
	act  act
	rule *rule // nil: none knows it
	uses []setting
	// program is the command's path, where it is one that could be an own command.
	program string
	why     string // it is not understood
}

// reader goes through the scripts of a tree.
type reader struct {
	tree  Tree
	rules []rule
	steps int
	total int
	files map[string]*file // that were looked at
	ran   map[string]bool  // that were gone through
	found []found
	seen  map[string]bool
	notes []Note
	lines int

	dispatchers map[string]bool
}

// script is one run of a script.
type script struct {
	r     *reader
	root  string // which was run first
	file  *file
	vars  variables
	funcs map[string]function
	// called are those functions that something calls.
	called     map[string]bool
	dispatcher bool
	depth      int
}

// A function is one of a script's, and the file it stands in.
type function struct {
	*node
	file *file
}

func newReader(t Tree) *reader {
	return &reader{tree: t, rules: rules(), files: map[string]*file{}, ran: map[string]bool{}, seen: map[string]bool{}, dispatchers: map[string]bool{}}
}

// read goes through all scripts of the tree.
func (r *reader) read() error {
	names, notes, err := r.tree.names()
	if err != nil {
		return err
	}
	r.notes = append(r.notes, notes...)
	names = slices.DeleteFunc(names, func(name string) bool { return r.ours(name) })
	for _, name := range names {
		f := r.file(name)
		if f.why == "" && f.isShell() && !r.ran[name] {
			r.run(f, name, placeOf(name), nil, 0)
		}
	}
	for _, name := range names {
		f := r.file(name)
		switch {
		case r.ran[name]:
		case f.why != "":
			r.notef(f, 0, "not read: %s", f.why)
		case strings.TrimSpace(f.data) == "":
		case f.interpreter() != "":
			r.notef(f, 0, "not read: a script for %s, which is no shell", f.interpreter())
		case f.exec:
			r.run(f, name, placeOf(name), nil, 0) // a shell runs it, without a first line that says so
		case !assigns(f.data):
			r.notef(f, 0, "not read: nothing runs it that was read, and it is no script by its first line")
		}
	}
	return nil
}

// ours reports whether a hook is this program.
func (r *reader) ours(name string) bool {
	at, err := r.tree.ResolveLinks(name)
	return strings.Contains(path.Base(name), "qemu-hook") || err == nil && path.Base(at) == "qemu-hook"
}

// assigns reports whether a file has nothing but assignments.
func assigns(data string) bool {
	nodes, err := parse(data, 1)
	v := variables{}
	return err == nil && !slices.ContainsFunc(nodes, func(n *node) bool {
		return n.kind != nodeSimple || slices.ContainsFunc(n.words, func(w string) bool { return w != "export" && !v.assign(w) })
	})
}

// file reads a file once.
func (r *reader) file(name string) *file {
	if f := r.files[name]; f != nil {
		return f
	}
	f := r.tree.read(name)
	if len(r.files) >= maxFiles*2 || r.total+len(f.data) > maxTotal {
		f = &file{name: name, why: fmt.Sprintf("more than %d MiB of scripts", maxTotal>>20)}
	}
	r.total += len(f.data)
	r.files[name] = f
	return f
}

func (r *reader) notef(f *file, line int, format string, args ...any) {
	n := Note{f.name, line, fmt.Sprintf(format, args...)}
	if !slices.Contains(r.notes, n) {
		r.notes = append(r.notes, n)
	}
}

// run goes through a script from its beginning; root is the one that was run first, if not this.
func (r *reader) run(f *file, root string, w when, args []arg, depth int) {
	s := &script{r: r, root: root, file: f, vars: variables{}, funcs: map[string]function{}, called: map[string]bool{}, depth: depth}
	for i := range 9 {
		name := strconv.Itoa(i + 1)
		switch {
		case args == nil:
			s.vars[name] = []arg{{text: "$" + name}}
		case i < len(args):
			s.vars[name] = []arg{args[i]}
		}
	}
	s.vars["0"] = []arg{{text: f.name}}
	s.whole(f, w)
	for name, n := range s.funcs {
		if !s.called[name] && n.file == f {
			r.notef(f, n.line, "function %s is called by nothing, and was not looked at", printable(name))
		}
	}
}

// whole goes through the text of a file.
func (s *script) whole(f *file, w when) {
	if !s.r.ran[f.name] {
		s.r.lines += strings.Count(f.data, "\n")
	}
	s.r.ran[f.name] = true
	before := s.file
	s.file = f
	nodes, err := parse(f.data, 1)
	s.list(nodes, w)
	var syntax *syntaxError
	if errors.As(err, &syntax) {
		s.r.notef(f, syntax.line, "not understood from here on: %s", syntax.what)
	}
	s.file = before
}

// list goes through commands; what it returns holds for whatever comes after them.
func (s *script) list(nodes []*node, w when) when {
	for _, n := range nodes {
		w = s.node(n, w)
	}
	return w
}

func (s *script) node(n *node, w when) when {
	if s.r.steps++; s.r.steps > maxSteps {
		if s.r.steps == maxSteps+1 {
			s.r.notef(s.file, n.line, "not understood from here on: more than %d commands", maxSteps)
		}
		return w
	}
	switch n.kind {
	case nodeSimple:
		s.simple(n, w)
	case nodeChain:
		return s.chain(n, w)
	case nodePipe:
		s.pipe(n, w)
	case nodeGroup:
		w = s.list(n.kids, w)
	case nodeIf:
		return s.ifClause(n, w)
	case nodeCase:
		return s.caseClause(n, w)
	case nodeFor:
		s.forClause(n, w)
	case nodeWhile:
		s.list(n.branches[0].condition, w)
		s.list(n.kids, w)
	case nodeFunction:
		s.funcs[n.words[0]] = function{n, s.file}
	}
	return w
}

// tested returns what a command tests, if it is one that only does that.
func (s *script) tested(n *node) (c condition, unequal, ok bool) {
	switch n.kind {
	case nodeSimple:
		if len(n.words) > 0 && strings.HasPrefix(n.words[0], "((") {
			return condition{vague: true}, false, true
		}
		if args, is := isTest(s.vars.expand(n.words)); is {
			c, unequal = testOf(args, n.not)
			return c, unequal, true
		}
	case nodeChain:
		for i, kid := range n.kids {
			one, ne, is := s.tested(kid)
			switch {
			case !is || ne:
				return condition{}, false, false
			case i == 0:
				c = one
			case n.joins[i] == "||":
				c = c.or(one)
			default:
				w := when{c.guests, c.phase, 0}.and(one, 0)
				c = condition{w.guests, w.phase, c.vague || one.vague}
			}
		}
		return c, false, true
	}
	return condition{}, false, false
}

// leaves reports whether commands end the script, and do not make it fail.
func leaves(nodes []*node) bool {
	return slices.ContainsFunc(nodes, func(n *node) bool {
		if n.kind == nodeGroup {
			return leaves(n.kids)
		}
		return n.kind == nodeSimple && len(n.words) > 0 && (n.words[0] == "exit" || n.words[0] == "return") &&
			(len(n.words) == 1 || n.words[1] == "0")
	})
}

// chain goes through a && b || c.
func (s *script) chain(n *node, w when) when {
	here, rest := w, w
	var last condition // what the commands before say
	tested := false
	for i, kid := range n.kids {
		now := here
		switch {
		case n.joins[i] == "||" && tested && leaves([]*node{kid}):
			rest = w.and(last, n.line)
		case n.joins[i] == "||" && tested:
			now = w.and(last.not(), n.line)
		case n.joins[i] == "||":
			now.only = kid.line
		}
		c, unequal, is := s.tested(kid)
		if !is {
			s.node(kid, now)
			if i > 0 && !tested && leaves([]*node{kid}) {
				rest = w.and(condition{vague: true}, n.line)
			}
			if s.onlyLooks(kid) && i == 0 {
				here = here.and(condition{vague: true}, n.line)
			}
			continue
		}
		if leaving := i+1 < len(n.kids) && n.joins[i+1] == "&&" && leaves(n.kids[i+1:i+2]); leaving && !unequal && (c.vague || c.guests != nil) {
			rest = w.and(condition{vague: true}, n.line)
		}
		if unequal && i+1 < len(n.kids) && n.joins[i+1] == "&&" && leaves(n.kids[i+1:i+2]) {
			return w.and(c, n.line)
		}
		if unequal {
			c = c.not()
		}
		last, tested = c, true
		here = here.and(c, n.line)
	}
	return rest
}

// onlyLooks reports whether a command only looks at something.
func (s *script) onlyLooks(n *node) bool {
	switch n.kind {
	case nodeSimple:
		args := s.vars.expand(n.words)
		return len(args) > 0 && looks(unwrap(args))
	case nodePipe:
		return !slices.ContainsFunc(n.kids, func(k *node) bool { return !s.onlyLooks(k) })
	}
	return false
}

func (s *script) ifClause(n *node, w when) when {
	rest := w
	var before condition
	for i, b := range n.branches {
		if b.condition == nil {
			s.list(b.body, w.and(before.not(), n.line))
			break
		}
		var c condition
		unequal, is := false, false
		if len(b.condition) == 1 {
			c, unequal, is = s.tested(b.condition[0])
		}
		if !is {
			s.list(b.condition, w)
			c = condition{vague: true}
		}
		if unequal {
			s.list(b.body, w.and(c.not(), n.line))
			if len(n.branches) == 1 && leaves(b.body) {
				return w.and(c, n.line)
			}
			if i+1 < len(n.branches) && n.branches[i+1].condition == nil {
				s.list(n.branches[i+1].body, w.and(c, n.line))
				return w
			}
			before = condition{vague: true}
			continue
		}
		s.list(b.body, w.and(c, b.condition[0].line))
		if (c.vague || c.guests != nil) && leaves(b.body) {
			rest = rest.and(condition{vague: true}, n.line)
		}
		before = before.besides(c)
	}
	return rest
}

func (s *script) caseClause(n *node, w when) when {
	subject := s.vars.one(n.words[0])
	rest := w
	var before condition
	for _, b := range n.branches {
		if otherwise(b.patterns) {
			if !hasArguments(subject.text) {
				before.vague = true
			}
			s.list(b.body, w.and(before.not(), n.line))
			if leaves(b.body) {
				rest = rest.and(condition{guests: before.guests, vague: before.vague}, n.line)
			}
			continue
		}
		c := patternsOf(subject, s.vars.expand(b.patterns))
		s.list(b.body, w.and(c, n.line))
		if leaves(b.body) && (c.vague || c.guests != nil) {
			rest = rest.and(condition{vague: true}, n.line)
		}
		before = before.besides(c)
	}
	return rest
}

func (s *script) forClause(n *node, w when) {
	if len(n.words) == 0 || nameLength(n.words[0]) != len(n.words[0]) {
		s.list(n.kids, w)
		return
	}
	name := n.words[0]
	var values []arg
	if len(n.words) > 2 && n.words[1] == "in" {
		values = s.vars.expand(n.words[2:])
	}
	if len(values) == 0 {
		delete(s.vars, name)
		s.list(n.kids, w)
		return
	}
	for i, v := range values {
		if i == maxTurns {
			s.r.notef(s.file, n.line, "not understood: a loop of more than %d turns", maxTurns)
			return
		}
		s.vars[name] = []arg{v}
		s.list(n.kids, w)
	}
}

// pipe goes through commands whose output goes from one to the next.
func (s *script) pipe(n *node, w when) {
	last := n.kids[len(n.kids)-1]
	if first := n.kids[0]; first.kind == nodeSimple && last.kind == nodeSimple {
		from, to := s.vars.expand(first.words), unwrap(s.vars.expand(last.words))
		if len(from) > 0 && len(to) > 0 && path.Base(to[0].text) == "tee" {
			if value, ok := printed(from); ok {
				for _, file := range to[1:] {
					if !strings.HasPrefix(file.text, "-") {
						s.write(n, file, value, w)
					}
				}
				return
			}
		}
	}
	for i, kid := range n.kids {
		if kid.kind != nodeSimple {
			s.node(kid, w)
			continue
		}
		s.command(kid, w, i > 0 || !s.onlyLooks(n.kids[len(n.kids)-1]))
	}
}

func (s *script) simple(n *node, w when) { s.command(n, w, false) }

// command goes through a simple command; piped says that it could not stand alone.
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
	args = unwrap(args)
	name := path.Base(args[0].text)
	switch {
	case name == "source" || args[0].text == ".":
		if len(args) > 1 {
			s.source(n, args[1], w)
		}
		return
	case slices.Contains([]string{"sh", "bash", "dash"}, name) && len(args) > 1:
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

// assign takes an assignment, and sees whether its value is the path of scripts by guest and event.
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

// substitutions goes through the commands in a word, of which only what a rule knows counts.
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

// text goes through commands that are given as a text.
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

// call goes through a function.
func (s *script) call(f function, args []arg, w when) {
	s.called[args[0].text] = true
	if s.depth >= maxCalls {
		s.r.notef(s.file, f.line, "not understood: calls inside one another, more than %d", maxCalls)
		return
	}
	saved := variables{}
	for i := range 9 {
		name := strconv.Itoa(i + 1)
		saved[name] = s.vars[name]
		if delete(s.vars, name); i+1 < len(args) {
			s.vars[name] = []arg{args[i+1]}
		}
	}
	from := s.file
	s.depth++
	s.file = f.file
	s.list(f.kids, w)
	s.file = from
	s.depth--
	for i := range 9 {
		name := strconv.Itoa(i + 1)
		if delete(s.vars, name); saved[name] != nil {
			s.vars[name] = saved[name]
		}
	}
}

// place returns where a script looks for a file that it names; scripts of a copy of the hooks mean the copy.
func (s *script) place(a arg) string {
	name := a.text
	if rest, ok := strings.CutPrefix(name, HooksDir+"/"); ok {
		name = path.Join(s.r.tree.Dir, rest)
	}
	for _, here := range []string{"$(dirname $0)/", `$(dirname "$0")/`, "${0%/*}/", "$(dirname ${BASH_SOURCE[0]})/", `$(dirname "${BASH_SOURCE[0]}")/`, "./"} {
		if rest, ok := strings.CutPrefix(name, here); ok {
			return path.Join(path.Dir(s.file.name), rest)
		}
	}
	if a.opaque || a.glob || !path.IsAbs(name) {
		return ""
	}
	return path.Clean(name)
}

func (s *script) source(n *node, a arg, w when) {
	name := s.place(a)
	if name == "" {
		s.unknown(n, plain("source", a.text), w, "which file it reads is not known")
		return
	}
	f := s.r.file(name)
	switch {
	case f.why != "":
		s.unknown(n, plain("source", a.text), w, "the file it reads is not read: "+f.why)
	case s.depth >= maxCalls:
		s.r.notef(s.file, n.line, "not understood: files that read one another")
	default:
		s.depth++
		s.whole(f, w)
		s.depth--
	}
}

// writes goes through what an echo or tee writes to files; true if the command does nothing else.
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

// writesFile reports whether a command's output goes into a file that matters.
func writesFile(v variables, n *node) bool {
	return slices.ContainsFunc(n.to, func(t redirection) bool {
		to := v.one(t.to)
		return strings.Contains(t.op, ">") && !strings.HasSuffix(t.op, ">&") && !ownNotes(to.text)
	})
}

// ownNotes reports whether a file is a script's own affair: its log, or what it keeps for later.
func ownNotes(file string) bool {
	return slices.Contains([]string{"/dev/null", "/dev/kmsg", "/dev/stderr", "/dev/stdout", "/dev/tty", "/dev/tty1"}, file) ||
		slices.ContainsFunc([]string{"/tmp/", "/var/tmp/", "/var/log/", "/run/lock/"}, func(p string) bool { return strings.HasPrefix(file, p) })
}

// write is a value that goes into a file.
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

// tunableKey is a file of the kernel's as [tunables] names it.
func tunableKey(file string) []string {
	name, sysctl := strings.CutPrefix(file, "/proc/sys/")
	if !sysctl || strings.ContainsAny(name, ".") {
		return []string{"tunables", file}
	}
	return append([]string{"tunables"}, strings.Split(name, "/")...)
}

// act looks for the rule that knows an act.
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

// tunable is what goes into any other file of the kernel's.
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

// other is a command that no rule knows: a script to go through, an own command, or something not understood.
func (s *script) other(n *node, args []arg, w when, piped bool) {
	first := args[0]
	if s.dispatches(args) {
		s.r.dispatchers[s.root] = true
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

// dispatches reports whether a command runs whatever scripts there are for an event.
func (s *script) dispatches(args []arg) bool {
	s.dispatcher = s.dispatcher || strings.Contains(asText(args), "/$1/$2")
	return s.dispatcher && (args[0].opaque || strings.Contains(args[0].text, "$") || slices.Contains([]string{"eval", "exec", "run-parts"}, args[0].text))
}

// needsShell says why a command could not be run by itself.
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

// program returns the path of a program by its name.
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

// add notes a line once for each thing that it does, and for each circumstance.
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
