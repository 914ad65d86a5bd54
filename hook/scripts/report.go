package scripts

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

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

func (m *importer) header(b *strings.Builder) {
	comment(b, "What qemu-hook makes of %s: %s, %s. Nothing was changed.", text.Line(cmp.Or(m.tree.Name, m.tree.Dir)), count(m.files, "script"), count(m.lines, "line"))
	comment(b, "This is a configuration, for /etc/qemu-hook/config.toml: look it through, then have it checked by qemu-hook check NAME,")
	comment(b, "and take the scripts out of libvirt's way before qemu-hook comes in: what both do is done twice.")
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

// tomlValue renders a value; only tunables have numbers.
func tomlValue(key []string, value string) string {
	if n, err := strconv.ParseInt(value, 10, 64); err == nil && key[0] == "tunables" && strconv.FormatInt(n, 10) == value {
		return value
	}
	return strconv.Quote(value)
}

func (e entry) line() string {
	value := e.value
	if e.items != nil {
		value = "[" + strings.Join(e.items, ", ") + "]"
	}
	return toml.Key(e.key).String() + " = " + value
}

func table(guest string) string { return "[" + toml.Key{"guest", guest}.String() + "]\n" }

// config prints the keys: those for all guests first, as TOML wants it.
func (m *importer) config(b *strings.Builder) {
	if len(m.entries) == 0 {
		if len(m.commands) > 0 {
			return
		}
		b.WriteString("\n")
		comment(b, "There is nothing to configure.")
		return
	}
	b.WriteString("\n")
	comment(b, "The rest:")
	guests := []string{""}
	for _, e := range m.entries {
		if !slices.Contains(guests, e.guest) {
			guests = append(guests, e.guest)
		}
	}
	slices.Sort(guests)
	for _, guest := range guests {
		if guest != "" {
			b.WriteString("\n" + table(guest))
		}
		for _, e := range m.entries {
			if e.guest != guest {
				continue
			}
			line := e.line() + "  # " + strings.Join(e.from, ", ")
			if e.why != "" {
				line = "# " + line + ": " + e.why
			}
			b.WriteString(line + "\n")
		}
	}
}

// own prints commands that can be run as they are. Those of a guest that is not named, or under a condition that was not understood,
// stand behind a #.
func (m *importer) own(b *strings.Builder) {
	if len(m.commands) == 0 {
		return
	}
	b.WriteString("\n")
	comment(b, "Own commands, which are run as root, without a shell. Take out those that are not wanted any more;")
	comment(b, "NAME stands for a guest that the scripts do not name. A command in before that fails refuses the guest.")
	seen := map[string]bool{}
	for _, c := range inOrder(m.commands) {
		var words []string
		for _, w := range c.program {
			words = append(words, strconv.Quote(w))
		}
		table := "[[" + toml.Key{"guest", c.guest, "run"}.String() + "]]"
		line := fmt.Sprintf("%s = [%s]", c.when, strings.Join(words, ", "))
		if seen[table+line] {
			continue
		}
		seen[table+line] = true
		from := "  # " + c.from
		if c.why != "" {
			from += ": " + c.why
		}
		if _, err := hook.ParseConfig("import", []byte(table+"\n"+line)); c.why != "" || c.guest == anyGuest || err != nil {
			b.WriteString("#\n")
			comment(b, "%s", table)
			comment(b, "%s", line+from)
			continue
		}
		fmt.Fprintf(b, "\n%s\n%s%s\n", table, line, from)
	}
}

// inOrder returns the commands of each guest together: those before it as they were run, those after it backwards, as what
// the configuration has last is run first then.
func inOrder(all []command) []command {
	var guests []string
	for _, c := range all {
		if !slices.Contains(guests, c.guest) {
			guests = append(guests, c.guest)
		}
	}
	var sorted []command
	for _, guest := range guests {
		for _, c := range all {
			if c.guest == guest && c.when == "before" {
				sorted = append(sorted, c)
			}
		}
		for _, c := range slices.Backward(all) {
			if c.guest == guest && c.when == "after" {
				sorted = append(sorted, c)
			}
		}
	}
	return sorted
}

// maxShown is how many lines of a kind are shown.
const maxShown = 500

// print prints lines with their files, each once.
func (m *importer) print(b *strings.Builder, title string, notes []Note) {
	if len(notes) == 0 {
		return
	}
	b.WriteString("\n")
	comment(b, "%s", title)
	seen := map[Note]bool{}
	for _, n := range notes {
		switch {
		case seen[n]:
			continue
		case len(seen) == maxShown:
			comment(b, "  … and more: of %d only these are shown", len(notes))
			return
		case n.File == "":
			comment(b, "  %s", shortened(n.Text))
		default:
			comment(b, "  %s: %s", m.at(n.File, n.Line), shortened(n.Text))
		}
		seen[n] = true
	}
}

// missing says what the scripts prepare and the guest's XML does not ask for, so that it would not be done.
func (m *importer) missing(b *strings.Builder, needs func(string) (*domain.Needs, error)) {
	type work struct {
		functions         []string
		pages, cpus, file bool
	}
	var guests []string
	does := map[string]*work{}
	for _, f := range m.found {
		names := f.when.guests
		if names == nil {
			names = []string{""}
		}
		for _, guest := range names {
			w := does[guest]
			if w == nil {
				w = &work{}
				does[guest] = w
				guests = append(guests, guest)
			}
			for _, a := range functionsIn(f.act) {
				if !slices.Contains(w.functions, a) {
					w.functions = append(w.functions, a)
				}
			}
			if f.rule != nil {
				w.pages = w.pages || f.rule.step == "hugepages" && match("*hugepages*", f.act.String())
				w.cpus = w.cpus || f.rule.step == "cpus"
				w.file = w.file || f.rule.step == "shm"
			}
		}
	}
	slices.Sort(guests)
	var lines []Note
	say := func(parts ...string) { lines = append(lines, Note{Text: strings.Join(parts, "")}) }
	for _, guest := range guests {
		w := does[guest]
		slices.Sort(w.functions)
		if len(w.functions) == 0 && !w.pages && !w.cpus && !w.file {
			continue
		}
		n, err := (*domain.Needs)(nil), errors.New("no guest")
		who := "the guest"
		if guest != "" {
			who = guest
			n, err = needs(guest)
		}
		if err != nil {
			if len(w.functions) > 0 {
				say(who, ": its XML could not be read here; it must have ", strings.Join(w.functions, ", "), " as <hostdev>")
			}
			continue
		}
		for _, a := range w.functions {
			if !slices.ContainsFunc(n.PCI, func(f domain.Function) bool { return f.Address == a }) {
				say(who, ": its XML lacks ", a, ", which the scripts move; add it as <hostdev>, or it stays with the host")
			}
		}
		if w.pages && len(n.Memory) == 0 {
			say(who, ": its XML has no <memoryBacking><hugepages>; without, it gets no huge pages")
		}
		if w.cpus && n.Pinned.Empty() {
			say(who, ": its XML has no <vcpupin>; without, the host keeps all CPUs")
		}
		if w.file && len(n.Shm) == 0 && len(n.KVMFR) == 0 {
			say(who, ": its XML names no file in shared memory; see looking_glass.files")
		}
	}
	m.print(b, "What the XML has to say for that:", lines)
}

// functionsIn returns the PCI addresses in an act.
func functionsIn(a act) []string {
	var all []string
	for _, w := range a {
		text := w.text
		if rest, ok := strings.CutPrefix(text, "pci_"); ok {
			if p := strings.Split(rest, "_"); len(p) == 4 {
				text = p[0] + ":" + p[1] + ":" + p[2] + "." + p[3]
			}
		}
		for part := range strings.SplitSeq(text, "/") {
			if address, err := domain.ParseAddress(part); err == nil && strings.Count(part, ":") == 2 {
				all = append(all, address)
			}
		}
	}
	return all
}

func comment(b *strings.Builder, format string, args ...any) {
	b.WriteString("# " + text.Line(text.Short(sprintf(format, args...), 2*maxLine)) + "\n")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}
