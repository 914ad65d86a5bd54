package scripts

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

	"qemu-hook/domain"
	"qemu-hook/hook"
	"qemu-hook/text"
)

func (m *importer) header(b *strings.Builder) {
	comment(b, "What qemu-hook makes of %s: %s, %s. Nothing was changed.", text.Line(cmp.Or(m.tree.Name, m.tree.Dir)), count(m.files, "script"), count(m.lines, "line"))
	comment(b, "This is a configuration, for /etc/qemu-hook/config.toml: look it through, then have it checked by qemu-hook check NAME,")
	comment(b, "and take the scripts out of libvirt's way before qemu-hook comes in: what both do is done twice.")
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
