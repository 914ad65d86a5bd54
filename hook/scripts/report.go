package scripts

import (
	"cmp"
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/text"
)

// A Report is what was read of a tree.
type Report struct {
	tree  Tree
	files int
	lines int
	notes []Note
	found []found
	seen  map[string]*file
	ran   map[string]bool
	// dispatchers run the scripts in qemu.d by guest and event; shells are those that name a shell for it.
	dispatchers map[string]bool
	shells      map[string]bool
}

// Read goes through the scripts of a tree. It writes nothing, and runs nothing.
func Read(t Tree) (*Report, error) {
	r := newReader(t)
	if err := r.read(); err != nil {
		return nil, err
	}
	return &Report{tree: t, files: len(r.ran), lines: r.lines, notes: r.notes, found: r.found, seen: r.files, ran: r.ran, dispatchers: r.dispatchers, shells: r.shells}, nil
}

// entry is a key of the configuration as lines set it.
type entry struct {
	guest string // "" for all
	key   []string
	value string   // as TOML
	items []string // of a list
	from  []string // file:line
	why   string   // it is only suggested
}

// command is a command that could become one of the guest's own.
type command struct {
	guest   string
	when    string // "before", "after"
	program []string
	from    string
	why     string
}

// importer sorts what was found.
type importer struct {
	*Report
	hooks    *hooks
	needless []Note
	unknown  []Note
	entries  []entry
	commands []command
}

// Import says in words what of the scripts is needless, what the configuration says instead, and what was not understood.
// All of it is a configuration that can be used: whatever is no key stands in comments. needs returns what a guest's
// stored XML asks for.
func (r *Report) Import(needs func(guest string) (*domain.Needs, error)) string {
	m := &importer{Report: r, hooks: readHooks(r.tree)}
	for _, f := range r.found {
		m.sort(f)
	}
	m.check()
	var b strings.Builder
	m.header(&b)
	m.print(&b, "Needless: the domain's XML says it, or qemu-hook does it by itself and takes it back.", m.needless)
	m.missing(&b, needs)
	m.config(&b)
	m.own(&b)
	m.unknown = append(m.unknown, r.notes...)
	m.print(&b, "Not understood, and not taken over. See for yourself:", m.unknown)
	return b.String()
}

// at names a line as the report does: within the folder.
func (m *importer) at(file string, line int) string {
	name := file
	if m.tree.inside(file) {
		name = strings.TrimPrefix(strings.TrimPrefix(file, strings.TrimSuffix(m.tree.Dir, "/")), "/")
	}
	if name = text.Line(name); line > 0 {
		name += ":" + strconv.Itoa(line)
	}
	return name
}

// sort puts a line where it belongs.
func (m *importer) sort(f found) {
	lost := func(why string) { m.unknown = append(m.unknown, Note{f.file, f.line, f.text + "  → " + why}) }
	free := func(why string) {
		m.needless = append(m.needless, Note{f.file, f.line, f.text + "  → " + strings.TrimPrefix(f.rule.step+": ", ": ") + why})
	}
	switch {
	case f.why != "":
		lost(f.why)
	case f.program != "":
		m.command(f, f.act, lost)
	case f.uses == nil:
		free(f.rule.why)
	}
	for _, s := range f.uses {
		back := s.back || f.when.phase == phaseAfter && !s.needless
		switch {
		case s.needless:
			free(f.rule.why)
		case f.when.phase == phaseOther:
			lost("it " + f.rule.does + " at another event than a guest's start and end")
		case back && m.sets(s, m.runs(f)):
			free("it comes back by itself, to what it was before")
		case back && f.act[0].text == "systemctl":
			m.systemctl(f, lost)
		case back:
			lost("it " + f.rule.does + " when the guest is gone, and nothing that was understood does so before")
		default:
			m.setting(f, s)
		}
	}
}

// runs reports whether anything runs the script of a line. In a folder that is none of hooks, as that of a start and a stop
// script, all count.
func (m *importer) runs(f found) bool {
	if len(m.hooks.entries) == 0 && !slices.Contains(HookDirs(), m.tree.Dir) && !m.tree.Exists(path.Join(m.tree.Dir, "qemu.d")) {
		return true
	}
	_, runs := m.hooks.order(m.Report, f.root)
	return runs
}

// sets reports whether a line sets, before the guest runs, what another brings back after it; for a script that runs, one of
// a script that runs.
func (m *importer) sets(s setting, running bool) bool {
	return slices.ContainsFunc(m.found, func(f found) bool {
		return (!running || m.runs(f)) && (f.when.phase == phaseBefore || f.when.phase == phaseStarted || f.when.phase == phaseUnknown) && slices.ContainsFunc(f.uses, func(o setting) bool {
			return !o.back && !o.needless && slices.Equal(o.key, s.key) && (!s.list || o.value == s.value)
		})
	})
}

// idle is why a line of a script is not taken over as it is.
const idle = "nothing runs this script"

// setting adds a line to the configuration.
func (m *importer) setting(f found, s setting) {
	why := s.optional
	switch {
	case !m.runs(f):
		why = idle
	case f.when.only > 0:
		why = "only under a condition that was not understood: " + m.at(f.file, f.when.only)
	case f.when.phase == phaseUnknown:
		why = "whether before or after the guest is not known"
	}
	guests := f.when.guests
	if len(guests) == 0 || s.key[0] == "cpus" && s.key[1] == "host" {
		guests = []string{""}
	}
	for _, guest := range guests {
		m.enter(entry{guest: guest, key: s.key, value: tomlValue(s.key, s.value), why: why, from: []string{m.at(f.file, f.line)}}, s.list, f)
	}
}

func (m *importer) enter(e entry, list bool, f found) {
	if list {
		e.items, e.value = []string{e.value}, ""
	}
	i := slices.IndexFunc(m.entries, func(o entry) bool {
		return o.guest == e.guest && slices.Equal(o.key, e.key) && (o.why == e.why)
	})
	switch {
	case i < 0:
		m.entries = append(m.entries, e)
		return
	case !list && m.entries[i].value != e.value:
		m.unknown = append(m.unknown, Note{f.file, f.line, f.text + "  → " + strings.Join(e.key, ".") + " is " + m.entries[i].value + " by " + m.entries[i].from[0]})
		return
	}
	o := &m.entries[i]
	for _, item := range e.items {
		if !slices.Contains(o.items, item) {
			o.items = append(o.items, item)
		}
	}
	if !slices.Contains(o.from, e.from[0]) {
		o.from = append(o.from, e.from[0])
	}
}

// systemctl has a unit started or stopped as an own command, where services.stop cannot say it.
func (m *importer) systemctl(f found, lost func(string)) {
	s := &script{r: &reader{tree: m.tree}}
	program, why := s.program("systemctl")
	if program == "" {
		lost(why)
		return
	}
	m.command(found{file: f.file, line: f.line, root: f.root, when: f.when, program: program}, f.act, lost)
}

// anyGuest stands for a guest that scripts do not name.
const anyGuest = "NAME"

func (m *importer) command(f found, args []arg, lost func(string)) {
	c := command{when: "before", program: []string{f.program}, from: m.at(f.file, f.line)}
	switch f.when.phase {
	case phaseAfter:
		c.when = "after"
	case phaseStarted, phaseOther:
		lost("an own command runs before the guest starts or after it is gone, not at another event")
		return
	case phaseUnknown:
		lost("whether it runs before or after the guest is not known")
		return
	}
	if !m.runs(f) {
		c.why = idle
	} else if f.when.only > 0 {
		c.why = "only under a condition that was not understood: " + m.at(f.file, f.when.only)
	}
	c.why = cmp.Or(c.why, f.when.held)
	for _, a := range args[1:] {
		c.program = append(c.program, a.text)
	}
	guests := f.when.guests
	if len(guests) == 0 {
		guests = []string{anyGuest}
	}
	for _, guest := range guests {
		c.guest = guest
		m.commands = append(m.commands, c)
	}
}

// check has the program's own parser look at each key. What it refuses was not understood.
func (m *importer) check() {
	var kept []entry
	for _, e := range m.entries {
		if e.items == nil {
			if m.accepts(e) {
				kept = append(kept, e)
			}
			continue
		}
		e.items = slices.DeleteFunc(e.items, func(item string) bool {
			one := e
			one.items = []string{item}
			return !m.accepts(one)
		})
		if len(e.items) > 0 {
			kept = append(kept, e)
		}
	}
	m.entries = kept
	// A guest's list takes the place of the one for all.
	for i, e := range m.entries {
		for _, o := range m.entries {
			if e.guest != "" && o.guest == "" && e.items != nil && slices.Equal(o.key, e.key) && o.why == "" && e.why == "" {
				m.entries[i].items = append(slices.DeleteFunc(slices.Clone(o.items), func(s string) bool { return slices.Contains(e.items, s) }), e.items...)
			}
		}
	}
}

// accepts reports whether the configuration may have the key, and notes it if not.
func (m *importer) accepts(e entry) bool {
	text := e.line()
	if e.guest != "" {
		text = table(e.guest) + text
	}
	_, err := hook.ParseConfig("import", []byte(text))
	if err == nil {
		return true
	}
	problem := err.Error()
	var wrong *hook.ConfigError
	if errors.As(err, &wrong) {
		problem = wrong.Problem
	}
	m.unknown = append(m.unknown, Note{Text: e.line() + "  → as in " + strings.Join(e.from, ", ") + ": " + problem})
	return false
}
