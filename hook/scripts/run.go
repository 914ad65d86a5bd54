package scripts

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"qemu-hook/text"
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
	shells      map[string]bool
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
	return &reader{tree: t, rules: rules(), files: map[string]*file{}, ran: map[string]bool{}, seen: map[string]bool{}, dispatchers: map[string]bool{}, shells: map[string]bool{}}
}

// read goes through all scripts of the tree.
func (r *reader) read() error {
	names, notes, err := r.tree.names()
	if err != nil {
		return err
	}
	r.notes = append(r.notes, notes...)
	names = slices.DeleteFunc(names, r.tree.isOurs)
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
			r.notef(f, n.line, "function %s is called by nothing, and was not looked at", text.Line(name))
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
// tested returns what a command tests, if it is one that only does that.
// leaves reports whether commands end the script, and do not make it fail.
// chain goes through a && b || c.
// onlyLooks reports whether a command only looks at something.
// pipe goes through commands whose output goes from one to the next.
// command goes through a simple command; piped says that it could not stand alone.
// assign takes an assignment, and sees whether its value is the path of scripts by guest and event.
// substitutions goes through the commands in a word, of which only what a rule knows counts.
// text goes through commands that are given as a text.
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
// writesFile reports whether a command's output goes into a file that matters.
// ownNotes reports whether a file is a script's own affair: its log, or what it keeps for later.
// write is a value that goes into a file.
// tunableKey is a file of the kernel's as [tunables] names it.
// act looks for the rule that knows an act.
// tunable is what goes into any other file of the kernel's.
// other is a command that no rule knows: a script to go through, an own command, or something not understood.
// dispatches reports whether a command runs whatever scripts there are for an event.
// needsShell says why a command could not be run by itself.
// program returns the path of a program by its name.
// add notes a line once for each thing that it does, and for each circumstance.
